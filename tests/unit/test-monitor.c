/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "monitor/guest.h"
#include "monitor/options.h"
#include "monitor/sandbox.h"
#include "monitor/state.h"
#include "monitor/supervise.h"

static int parse(const char *text, struct vm_state *ret)
{
    return vm_state_parse(text, strlen(text), ret);
}

static void test_state(void **state)
{
    struct vm_state s = {.pid = 1};

    assert_int_equal(
        parse("{\n  \"version\": 1,\n  \"bootId\": \"b-1\", \"other\": {\"pid\": 5, \"l\": [1, {\"pid\": 6}]},"
              "\"pid\": 4711, \"startTime\": 18446744073709551615, \"state\":\"Pau\\u0073ed\","
              "\"reason\": \"a\\\"b\\u00e9\", \"f\": -1.5e3, \"n\": null, \"t\": true}\n",
              &s),
        0);
    assert_int_equal(s.pid, 4711);
    assert_true(s.start_time == UINT64_MAX);
    assert_string_equal(s.boot_id, "b-1");
    assert_string_equal(s.state, "Paused");
    assert_string_equal(s.reason, "a\"b?");
    assert_int_equal(parse("{}", &s), 0);
    assert_int_equal(s.pid, 0);
    assert_string_equal(s.state, "");
}

static void test_state_bad(void **state)
{
    static const char *const texts[] = {
        "",
        "{",
        "[]",
        "{} x",
        "{\"pid\": -1}",
        "{\"pid\": 1.5}",
        "{\"pid\": 2147483648}",
        "{\"pid\": \"1\"}",
        "{\"pid\": }",
        "{\"startTime\": 18446744073709551616}",
        "{\"state\": 1}",
        "{\"state\": \"a string that is longer than the state of any machine\"}",
        "{\"state\": \"cut off",
        "{\"state\": \"\\u12\"}",
        "{\"state\": \"\\x\"}",
        "{\"a\": [1, 2}",
        "{\"a\": ]}",
        "{\"a\": 1,}",
        "{\"a\" 1}",
        "{\"a\": 1 \"b\": 2}",
        "{\"a\": \"\n\"}",
    };

    for (size_t i = 0; i < ELEMENTSOF(texts); i++) {
        struct vm_state s = {.pid = 77};

        if (parse(texts[i], &s) != -EBADMSG)
            fail_msg("accepted: %s", texts[i]);
        assert_int_equal(s.pid, 77); /* untouched on failure */
    }
}

static void test_crash(void **state)
{
    static const struct {
        int code, status, exit_code;
        bool crash;
    } cases[] = {
        {CLD_EXITED, 0, 0, false},        {CLD_EXITED, 1, 1, false},        {CLD_EXITED, 124, 124, false},
        {CLD_EXITED, 127, 127, false},    {CLD_EXITED, 134, 134, true},     {CLD_EXITED, 139, 139, true},
        {CLD_EXITED, 143, 143, false},    {CLD_KILLED, SIGKILL, 137, true}, {CLD_KILLED, SIGTERM, 143, true},
        {CLD_DUMPED, SIGSEGV, 139, true},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        siginfo_t info = {.si_code = cases[i].code};

        info.si_status = cases[i].status;
        assert_int_equal(is_crash(&info), cases[i].crash);
        assert_int_equal(status_exit_code(&info), cases[i].exit_code);
    }
    assert_true(restart_delay(0) == 0);
    for (unsigned i = 0; i < 20; i++)
        assert_true(restart_delay(i) <= restart_delay(i + 1));
}

static void test_options(void **state)
{
    const char *argv[] = {"monitor",
                          "--uid",
                          "u-1",
                          "--unknown",
                          "x",
                          "--keep-after-failure",
                          "--container-disk-dir=/c",
                          "--launcher-path=/bin/l",
                          "--qemu-timeout",
                          "278s",
                          "--termination-log",
                          "/t",
                          "-v",
                          "3"};
    static const char *const passed[] = {"/bin/l",         "--uid", "u-1", "--unknown", "x", "--container-disk-dir=/c",
                                         "--qemu-timeout", "278s",  "-v",  "3"};
    struct monitor_options o;

    assert_int_equal(monitor_options_parse(ELEMENTSOF(argv), argv, &o, NULL), 0);
    for (size_t i = 0; i < ELEMENTSOF(passed); i++)
        assert_string_equal(o.launcher_argv[i], passed[i]);
    assert_null(o.launcher_argv[ELEMENTSOF(passed)]);
    assert_string_equal(o.uid, "u-1");
    assert_string_equal(o.container_disk_dir, "/c");
    assert_string_equal(o.termination_log, "/t");
    assert_true(o.termination_log_given && o.keep_after_failure && !o.help);
    monitor_options_done(&o);
}

static void test_options_switch(void **state)
{
    static const struct {
        const char *flag;
        int r;
        bool keep;
    } cases[] = {
        {"--keep-after-failure=true", 0, true},
        {"--keep-after-failure=f", 0, false},
        {"--keep-after-failure=maybe", -EINVAL, false},
        {"--keep-after-failures", 0, false}, /* another flag: the launcher's */
        {"--uid", -EINVAL, false},           /* without its value */
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        const char *argv[] = {"monitor", cases[i].flag};
        _cleanup_error_ struct error *error = NULL;
        struct monitor_options o = {0};

        assert_int_equal(monitor_options_parse(2, argv, &o, &error), cases[i].r);
        assert_int_equal(error_get_code(error) == ERROR_BAD_ARGUMENT, cases[i].r != 0);
        assert_int_equal(o.keep_after_failure, cases[i].keep);
        if (cases[i].r == 0)
            assert_int_equal(o.termination_log_given, false);
        monitor_options_done(&o);
    }
}

/* Runs in a child, because a filter is never taken off. The number of the first check that failed, or 0. */
static int check_filter(void)
{
    if (sandbox_no_new_privs(NULL) < 0 || sandbox_seccomp(NULL) < 0)
        return 1;
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != -1 || errno != EPERM)
        return 2;
    if (unshare(CLONE_NEWUSER) != -1 || errno != EPERM)
        return 3;
    if (unshare(CLONE_FILES) != 0) /* no namespace */
        return 4;
    if (syscall(SYS_clone3, NULL, 0) != -1 || errno != ENOSYS)
        return 5;
    if (syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0) != -1 || errno != EPERM)
        return 6;
    if (socket(AF_TIPC, SOCK_STREAM, 0) != -1 || errno != EAFNOSUPPORT)
        return 7;
    if (close(socket(AF_UNIX, SOCK_STREAM, 0)) != 0 || close(socket(AF_NETLINK, SOCK_RAW, 0)) != 0)
        return 8;
    if (syscall(SYS_bpf, 0, NULL, 0) != -1 || errno != EPERM)
        return 9;
    if (syscall(SYS_keyctl, 0, 0) != -1 || errno != EPERM)
        return 10;
    if (syscall(SYS_mount, "x", "/", "tmpfs", 0, NULL) != -1 || errno != EPERM)
        return 11;
    return 0;
}

static int in_child(int (*check)(void))
{
    int status;
    pid_t pid = fork();

    if (pid == 0)
        _exit(check());
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_filter(void **state)
{
    assert_int_equal(in_child(check_filter), 0);
}

/* A descendant is found by the name that it runs under, a stranger is not, and a dead one is no guest. */
static void test_guests(void **state)
{
    struct guests guests;
    pid_t pid;

    assert_int_equal(guests_find(NULL, &guests), 0);
    pid = fork();
    if (pid == 0) {
        execl("/bin/sleep", "/usr/bin/qemu-system-test", "60", (char *)NULL);
        _exit(1);
    }
    while (guests_find(NULL, &guests) == 0) {
        siginfo_t info = {0};

        assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT), 0);
        assert_int_equal(info.si_pid, 0); /* until its exec, while it lives */
    }
    assert_int_equal(guests.n, 1);
    assert_int_equal(guests.list[0].pid, pid);
    assert_false(guests.from_state_file);
    assert_int_equal(guests_alive(&guests), 1);
    guests_signal(&guests, SIGKILL);
    assert_int_equal(waitid(P_PID, (id_t)pid, &(siginfo_t){0}, WEXITED | WNOWAIT), 0);
    assert_int_equal(guests_alive(&guests), 0);
    guests_done(&guests);
    assert_int_equal(guests_find(NULL, &guests), 0); /* a zombie */
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_state),   cmocka_unit_test(test_state_bad),      cmocka_unit_test(test_crash),
        cmocka_unit_test(test_options), cmocka_unit_test(test_options_switch), cmocka_unit_test(test_filter),
        cmocka_unit_test(test_guests),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
