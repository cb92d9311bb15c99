/* SPDX-License-Identifier: Apache-2.0 */
/* Filters and rules, each in a child of its own, which tells by its exit code what the kernel answered. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/child.h"
#include "base/confine.h"
#include "base/fd.h"
#include "base/strv.h"
#include "domain/landlock.h"
#include "domain/sandbox.h"
#include "monitor/sandbox.h"

#define NEED_FILTER()                                                                                                  \
    do {                                                                                                               \
        if (!confine_has_seccomp())                                                                                    \
            skip();                                                                                                    \
    } while (0)

/* The exit code of what a child did; -N: ended by signal N. */
static int in_child(int (*function)(void))
{
    pid_t pid = fork();
    int status;

    if (pid == 0)
        _exit(function());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* 0: it worked; else the errno. */
static int tried(long r)
{
    return r < 0 ? errno : 0;
}

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            dprintf(STDERR_FILENO, "%s:%d: %s (errno %d)\n", __func__, __LINE__, #condition, errno);                   \
            return 1;                                                                                                  \
        }                                                                                                              \
    } while (0)

/* A line of /proc/self/status as a number. */
static unsigned long long status_of(const char *name, int base)
{
    _cleanup_free_ char *text = NULL;
    char *line;

    if (file_read("/proc/self/status", 8192, &text, NULL, NULL) < 0 || !(line = strstr(text, name)))
        return UINT64_MAX;
    return strtoull(line + strlen(name) + 1, NULL, base);
}

static const char *const few[] = {"openat", "getppid", "no_such_call_of_any_kernel", NULL};
static const int unix_only[] = {AF_UNIX, AF_UNSPEC};

static int only_the_list(void)
{
    const struct confinement c = {.calls = few, .families = unix_only, .capabilities = 0};

    CHECK(confine(&c, NULL) == 0);
    CHECK(status_of("NoNewPrivs:", 10) == 1 && status_of("Seccomp:", 10) == 2);
    CHECK(status_of("CapEff:", 16) == 0 && status_of("CapPrm:", 16) == 0 && status_of("CapInh:", 16) == 0);
    CHECK(tried(syscall(SYS_getppid)) == 0);
    CHECK(tried(syscall(SYS_getpgid, 0)) == ENOSYS);
    CHECK(tried(socket(AF_UNIX, SOCK_STREAM, 0)) == 0);
    CHECK(tried(socket(AF_INET, SOCK_STREAM, 0)) == ENOSYS);
    CHECK(tried(syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL)) == ENOSYS);
    CHECK(tried(syscall(SYS_clone3, NULL, 0)) == ENOSYS);
    return 0;
}

static int with_processes(void)
{
    const struct confinement c = {.calls = (const char *const[]){"wait4", NULL}, .processes = true};
    int status;
    pid_t pid;

    CHECK(confine(&c, NULL) == 0);
    pid = fork();
    if (pid == 0)
        _exit(7);
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 7);
    CHECK(tried(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL)) == ENOSYS);
    CHECK(tried(socket(AF_UNIX, SOCK_STREAM, 0)) == ENOSYS);
    return 0;
}

/* What a program does that is executed anew, again and again: more filters than the kernel takes. */
static int one_after_the_other(void)
{
    const struct confinement c = {.calls = (const char *const[]){"prctl", "seccomp", "capget", "capset", NULL}};

    for (int i = 0; i < 600; i++)
        CHECK(confine(&c, NULL) == 0);
    return tried(syscall(SYS_getppid)) != ENOSYS;
}

static int some_refused(void)
{
    CHECK(confine_refuse((const char *const[]){"getpgid", NULL}, NULL) == 0);
    CHECK(tried(syscall(SYS_getpgid, 0)) == EPERM);
    CHECK(tried(syscall(SYS_bpf, 0, NULL, 0)) == EPERM);
    CHECK(tried(syscall(SYS_ptrace, 0, 0, 0, 0)) == EPERM);
    CHECK(tried(syscall(SYS_getppid)) == 0);
    return 0;
}

static void test_confine(void **state)
{
    NEED_FILTER();
    assert_int_equal(in_child(only_the_list), 0);
    assert_int_equal(in_child(with_processes), 0);
    assert_int_equal(in_child(one_after_the_other), 0);
    assert_int_equal(in_child(some_refused), 0);
}

static int keeps_one(void)
{
    CHECK(confine(&(struct confinement){.calls = few, .capabilities = 1ULL << CAP_DAC_OVERRIDE}, NULL) == 0);
    CHECK(status_of("CapPrm:", 16) == 1ULL << CAP_DAC_OVERRIDE && status_of("CapEff:", 16) == 1ULL << CAP_DAC_OVERRIDE);
    return 0;
}

/* The launcher's: as root it keeps how root gets at other users' files, as another user nothing. */
static int launcher_as_root(void)
{
    const unsigned long long files = 1ULL << CAP_DAC_OVERRIDE | 1ULL << CAP_CHOWN | 1ULL << CAP_FOWNER |
                                     1ULL << CAP_IPC_LOCK | 1ULL << CAP_SYS_NICE; /* QEMU has the last two */

    CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) == 0);
    CHECK(sandbox_drop_capabilities(NULL) == 0);
    CHECK((status_of("CapEff:", 16) & ~files) == 0);
    CHECK((status_of("CapPrm:", 16) & ~(files | 1ULL << CAP_NET_BIND_SERVICE)) == 0);
    CHECK((status_of("CapAmb:", 16) & ~(1ULL << CAP_NET_BIND_SERVICE)) == 0);
    return 0;
}

static int launcher_as_another(void)
{
    CHECK(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0 && setresuid(65534, 65534, 65534) == 0);
    CHECK(status_of("CapPrm:", 16) != 0);
    CHECK(sandbox_drop_capabilities(NULL) == 0);
    CHECK(status_of("CapEff:", 16) == 0 && status_of("CapAmb:", 16) == 0);
    CHECK((status_of("CapPrm:", 16) & ~(1ULL << CAP_NET_BIND_SERVICE)) == 0);
    return 0;
}

static void test_capabilities(void **state)
{
    if (geteuid() != 0)
        skip();
    assert_int_equal(in_child(keeps_one), 0);
    assert_int_equal(in_child(launcher_as_root), 0);
    assert_int_equal(in_child(launcher_as_another), 0);
}

static int launcher_filter(void)
{
    CHECK(sandbox_enter(NULL) == 0);
    CHECK(tried(syscall(SYS_acct, NULL)) == ENOSYS);
    CHECK(tried(syscall(SYS_bpf, 0, NULL, 0)) == ENOSYS);
    CHECK(tried(syscall(SYS_ptrace, 0, 0, 0, 0)) == ENOSYS);
    CHECK(tried(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL)) == ENOSYS);
    CHECK(tried(socket(AF_BLUETOOTH, SOCK_RAW, 0)) == ENOSYS);
    CHECK(tried(socket(AF_INET, SOCK_DGRAM, 0)) == 0);
    CHECK(tried(open("/proc/self/maps", O_RDONLY)) == 0);
    return 0;
}

static int monitor_filter(void)
{
    CHECK(sandbox_no_new_privs(NULL) == 0 && sandbox_seccomp(NULL) == 0);
    CHECK(tried(syscall(SYS_mount, NULL, NULL, NULL, 0, NULL)) == EPERM);
    CHECK(tried(syscall(SYS_bpf, 0, NULL, 0)) == EPERM);
    CHECK(tried(syscall(SYS_unshare, CLONE_NEWUSER)) == EPERM);
    CHECK(tried(syscall(SYS_clone3, NULL, 0)) == ENOSYS);
    CHECK(tried(socket(AF_RDS, SOCK_SEQPACKET, 0)) == EAFNOSUPPORT);
    CHECK(tried(syscall(SYS_getppid)) == 0);
    return sandbox_enter(NULL) != 0; /* the launcher's on top of it */
}

static void test_programs(void **state)
{
    NEED_FILTER();
    assert_int_equal(in_child(launcher_filter), 0);
    assert_int_equal(in_child(monitor_filter), 0);
}

/* ---- in QEMU's place -----------------------------------------------------------------------------------------------
 */

static int run_shell(const struct sock_fprog *filter, const char *program, int ruleset_fd, const char *script)
{
    char *argv[] = {(char *)"sh", (char *)"-c", (char *)script, NULL};
    struct child_options o = {.argv = argv, .filter = filter, .program = program, .ruleset_fd = ruleset_fd};
    _cleanup_close_ int pidfd = -EBADF;
    siginfo_t info;
    pid_t pid;

    assert_int_equal(child_spawn(&o, &pid, &pidfd, NULL), 0);
    assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED), 0);
    return info.si_code == CLD_EXITED ? info.si_status : -info.si_status;
}

static void test_qemu_filter(void **state)
{
    struct qemu_sandbox sandbox, network;

    assert_int_equal(qemu_sandbox_init(&sandbox, "sh", false, NULL), 0);
    assert_int_equal(qemu_sandbox_init(&network, "sh", true, NULL), 0);
    assert_true(network.filter.len < sandbox.filter.len); /* sockets are not looked at */
    assert_true(sandbox.program[0] == '/' && sandbox.program != network.program);
    assert_int_equal(run_shell(&sandbox.filter, sandbox.program, -1, "exit 5"), 5);
    assert_int_equal(run_shell(&sandbox.filter, sandbox.program, -1, "exec /bin/true"), -SIGSYS);
    assert_int_equal(run_shell(&sandbox.filter, sandbox.program, -1, "/bin/true; exit 5"), -SIGSYS);
    assert_int_equal(run_shell(&sandbox.filter, sandbox.program, -1, ": | :"), -SIGSYS);
    qemu_sandbox_done(&sandbox);
    qemu_sandbox_done(&network);
    qemu_sandbox_done(&network); /* twice is once */
}

static void test_qemu_that_is_not_there(void **state)
{
    struct qemu_sandbox sandbox;

    assert_int_equal(qemu_sandbox_init(&sandbox, "no-such-emulator", false, NULL), 0);
    assert_string_equal(sandbox.program, "no-such-emulator"); /* the exec says that there is none */
    qemu_sandbox_done(&sandbox);
}

static void put(const char *path)
{
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
}

/* `script` below the rules of a QEMU whose directory is vm/ and whose command line names "a,b" and disk. */
static int ruled(const char *top, const char *script)
{
    _cleanup_free_ char *vm = NULL, *word = NULL, *text = NULL;
    _cleanup_error_ struct error *error = NULL;
    _cleanup_close_ int fd = -EBADF;
    unsigned flags;

    assert_true(asprintf(&vm, "%s/vm", top) > 0);
    assert_true(asprintf(&word, "file=%s/disk,id=x,\"%s/quoted\",path=%s/none", top, top, top) > 0);
    assert_true(asprintf(&text, "cd %s && %s", top, script) > 0);
    assert_int_equal(
        landlock_for_qemu((const char *const[]){vm, NULL}, (char *[]){(char *)"qemu", word, NULL}, &fd, &flags, &error),
        0);
    return run_shell(NULL, NULL, fd, text);
}

static void test_landlock(void **state)
{
    /* not below /tmp, which is open to QEMU */
    char top[] = "/var/tmp/vmlet-unit-XXXXXX", path[64];
    _cleanup_close_ int fd = -EBADF;
    unsigned flags;

    assert_int_equal(landlock_for_qemu((const char *const[]){NULL}, (char *[]){NULL}, &fd, &flags, NULL), 0);
    if (fd < 0)
        skip();
    assert_non_null(mkdtemp(top));
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s/%s", top, ((const char *[]){"disk", "quoted", "other"})[i]);
        put(path);
    }
    snprintf(path, sizeof(path), "%s/vm", top);
    assert_int_equal(mkdir(path, 0700), 0);

    assert_int_equal(ruled(top, "echo x >vm/new && read a <vm/new"), 0);
    assert_int_equal(ruled(top, "echo x >disk && read a <disk"), 0);
    assert_int_equal(ruled(top, "echo x >quoted"), 0);
    assert_int_equal(ruled(top, "true <other 2>/dev/null"), 2); /* the shell's own: it cannot open it */
    assert_int_equal(ruled(top, "true >beside 2>/dev/null"), 2);
    assert_int_equal(ruled(top, "true </etc/shadow 2>/dev/null"), 2);
    assert_int_equal(ruled(top, "true </etc/passwd"), 0);
    assert_int_equal(ruled(top, "true >/usr/beside 2>/dev/null"), 2);
    assert_int_equal(ruled(top, "true </proc/self/status && true >/dev/null"), 0);
    remove_tree(top);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_confine),
        cmocka_unit_test(test_capabilities),
        cmocka_unit_test(test_programs),
        cmocka_unit_test(test_qemu_filter),
        cmocka_unit_test(test_qemu_that_is_not_there),
        cmocka_unit_test(test_landlock),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
