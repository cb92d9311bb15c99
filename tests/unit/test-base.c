/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/base64.h"
#include "base/child.h"
#include "base/duration.h"
#include "base/error.h"
#include "base/event.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/strbuf.h"
#include "base/strv.h"
#include "base/utf8.h"

static void test_error_wrap(void **state)
{
    _cleanup_error_ struct error *e = NULL, *copy = NULL;

    assert_int_equal(error_set(&e, ERROR_QMP, ENODEV, "no device %s", "x"), -ENODEV);
    error_set_qmp_class(e, "DeviceNotFound");
    error_set_remedy(e, "name one of %d", 3);
    assert_int_equal(error_wrap(&e, -ENODEV, "device_del"), -ENODEV);
    copy = error_copy(e);
    assert_string_equal(error_message(copy), "device_del: no device x");
    assert_string_equal(error_qmp_class(copy), "DeviceNotFound");
    assert_string_equal(error_remedy(copy), "name one of 3");
    assert_string_equal(error_code_name(error_get_code(copy)), "QmpError");
    assert_int_equal(error_code_from_name("TimedOut"), ERROR_TIMED_OUT);
    assert_int_equal(error_code_from_name("nothing"), -1);
    assert_int_equal(error_set(NULL, ERROR_SYSTEM, -EIO, "x"), -EIO);
    error_oom(&e);
    assert_int_equal(error_wrap(&e, -ENOMEM, "not for the static one"), -ENOMEM);
    assert_string_equal(error_message(e), "out of memory");
}

static void test_arena(void **state)
{
    _cleanup_(arena_freep) struct arena *a = arena_new();
    char *small = arena_strdup(a, "small"), *large = arena_alloc(a, 100000), *next = arena_printf(a, "%s-%d", "x", 7);

    memset(large, 1, 100000);
    assert_string_equal(small, "small");
    assert_string_equal(next, "x-7");
    assert_true((uintptr_t)large % _Alignof(max_align_t) == 0);
    assert_null(arena_alloc(a, SIZE_MAX));
    for (int i = 0; i < 10000; i++)
        assert_int_equal(*(char *)arena_alloc(a, 33), 0);
}

static void test_strbuf(void **state)
{
    static const int64_t integers[] = {0, 7, -1, 10, INT64_MAX, INT64_MIN};
    _cleanup_(strbuf_done) struct strbuf b = {0};

    assert_string_equal(strbuf_text(&b), "");
    strbuf_add_json_string(&b, "a\"\\\n\x01\xc3\xa9\xff");
    assert_string_equal(strbuf_text(&b), "\"a\\\"\\\\\\n\\u0001\xc3\xa9\\ufffd\"");
    strbuf_consume(&b, 2);
    assert_int_equal(b.data[0], '\\');
    strbuf_clear(&b);
    for (size_t i = 0; i < ELEMENTSOF(integers); i++) {
        strbuf_add_integer(&b, integers[i]);
        strbuf_add_string(&b, " ");
    }
    assert_string_equal(strbuf_text(&b), "0 7 -1 10 9223372036854775807 -9223372036854775808 ");
}

static void test_base64(void **state)
{
    static const struct {
        const char *plain, *coded;
    } good[] = {{"", ""},        {"f", "Zg=="},        {"fo", "Zm8="},
                {"foo", "Zm9v"}, {"foob", "Zm9vYg=="}, {"\xff\xfe\xfd", "//79"}};
    static const char *const bad[] = {"Z", "Zg", "Zg=", "Zg===", "=Zg=", "Zg==Zg==", "Zm9v!", "Z g=x", "===="};
    char *data;
    size_t n;

    for (size_t i = 0; i < ELEMENTSOF(good); i++) {
        _cleanup_free_ char *coded = base64_encode(good[i].plain, strlen(good[i].plain));

        assert_string_equal(coded, good[i].coded);
        assert_int_equal(base64_decode(coded, strlen(coded), &data, &n), 0);
        assert_int_equal(n, strlen(good[i].plain));
        assert_memory_equal(data, good[i].plain, n);
        free(data);
    }
    assert_int_equal(base64_decode(" Zm\n9v\r\n", 8, &data, &n), 0);
    assert_string_equal(data, "foo");
    free(data);
    for (size_t i = 0; i < ELEMENTSOF(bad); i++)
        assert_int_equal(base64_decode(bad[i], strlen(bad[i]), &data, &n), -EINVAL);
}

static void test_utf8(void **state)
{
    assert_int_equal(utf8_valid_prefix("\xf0\x9f\x98\x80z", 5), 5);
    assert_int_equal(utf8_valid_prefix("a\xc0\x80", 3), 1);        /* overlong */
    assert_int_equal(utf8_valid_prefix("\xed\xa0\x80", 3), 0);     /* surrogate */
    assert_int_equal(utf8_valid_prefix("\xf4\x90\x80\x80", 4), 0); /* above U+10FFFF */
    assert_int_equal(utf8_valid_prefix("ab\xe2\x82", 4), 2);       /* cut off */
}

static void test_child_exit_and_output(void **state)
{
    char *argv[] = {(char *)"sh", (char *)"-c", (char *)"echo out; echo err >&2; exit 7", NULL};
    struct child_options o = {.argv = argv};
    _cleanup_free_ char *out = NULL, *err = NULL;
    int code = -1;

    assert_int_equal(child_run(&o, 10 * USEC_PER_SEC, &code, &out, &err, NULL), 0);
    assert_int_equal(code, 7);
    assert_string_equal(out, "out\n");
    assert_string_equal(err, "err\n");
}

static void test_child_missing(void **state)
{
    char *argv[] = {(char *)"/nonexistent/program", NULL};
    struct child_options o = {.argv = argv};
    _cleanup_error_ struct error *e = NULL;
    int pidfd;
    pid_t pid;

    assert_int_equal(child_spawn(&o, &pid, &pidfd, &e), -ENOENT);
    assert_string_equal(error_message(e), "cannot execute /nonexistent/program: No such file or directory");
}

static void test_child_timeout(void **state)
{
    char *argv[] = {(char *)"sleep", (char *)"60", NULL};
    struct child_options o = {.argv = argv};
    _cleanup_error_ struct error *e = NULL;
    int code;

    assert_int_equal(child_run(&o, 50000, &code, NULL, NULL, &e), -ETIMEDOUT);
    assert_int_equal(error_get_code(e), ERROR_TIMED_OUT);
}

/* Targets that overlap the sources: each becomes the other. */
static void test_child_fd_swap(void **state)
{
    char *argv[] = {(char *)"sh", (char *)"-c", (char *)"cat /proc/self/fd/100 /proc/self/fd/101", NULL};
    _cleanup_free_ char *out = NULL;
    _cleanup_close_ int a0 = -EBADF, b0 = -EBADF;
    int a[2], b[2], code;

    assert_int_equal(pipe2(a, O_CLOEXEC), 0);
    assert_int_equal(pipe2(b, O_CLOEXEC), 0);
    assert_int_equal(write(a[1], "A", 1), 1);
    assert_int_equal(write(b[1], "B", 1), 1);
    close(a[1]);
    close(b[1]);
    a0 = dup3(a[0], 100, O_CLOEXEC); /* whatever the test has inherited under that number */
    b0 = dup3(b[0], 101, O_CLOEXEC);
    close(a[0]);
    close(b[0]);
    struct child_fd fds[] = {{a0, b0}, {b0, a0}};
    struct child_options o = {.argv = argv, .fds = fds, .n_fds = 2};
    assert_int_equal(a0, 100);
    assert_int_equal(b0, 101);
    assert_int_equal(child_run(&o, 10 * USEC_PER_SEC, &code, &out, NULL, NULL), 0);
    assert_string_equal(out, "BA");
}

static void test_process_start_time(void **state)
{
    uint64_t a = 0, b = 0;

    assert_int_equal(process_start_time(getpid(), &a), 0);
    assert_int_equal(process_start_time(getpid(), &b), 0);
    assert_true(a > 0 && a == b);
    assert_int_equal(process_start_time(0x7ffffff0, &a), -ESRCH);
}

static void test_files(void **state)
{
    char dir[] = "/tmp/vmlet-test-XXXXXX", path[128], deep[128];
    _cleanup_free_ char *text = NULL;
    _cleanup_error_ struct error *e = NULL;

    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/file", dir);
    snprintf(deep, sizeof(deep), "%s/a/b/c", dir);
    assert_int_equal(file_write_atomic(path, "hello", 5, 0600, NULL), 0);
    assert_int_equal(file_read(path, 5, &text, NULL, NULL), 0);
    assert_string_equal(text, "hello");
    free(TAKE_PTR(text));
    assert_int_equal(file_read(path, 4, &text, NULL, &e), -EFBIG);
    assert_int_equal(mkdir_parents(deep, 0700, NULL), 0);
    assert_int_equal(mkdir_parents(deep, 0700, NULL), 0);
    assert_int_equal(remove_tree(dir), 0);
    assert_int_equal(access(dir, F_OK), -1);
    assert_int_equal(remove_tree(dir), 0);
}

static void test_file_replace(void **state)
{
    char dir[] = "/tmp/vmlet-test-XXXXXX", path[128];
    const char *contents[] = {"first", "second, and longer", "3rd"};

    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/file", dir);
    for (size_t i = 0; i < ELEMENTSOF(contents);
         i++) { /* the first finds none there, the others change places with it */
        _cleanup_free_ char *text = NULL;

        assert_int_equal(file_replace(path, contents[i], strlen(contents[i]), 0600, NULL), 0);
        assert_int_equal(file_read(path, 64, &text, NULL, NULL), 0);
        assert_string_equal(text, contents[i]);
    }
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0); /* so nothing else is in it */
}

static void test_unix_listen_replaces_only_the_dead(void **state)
{
    char dir[] = "/tmp/vmlet-test-XXXXXX", path[128], long_path[200];
    _cleanup_close_ int first = -EBADF, second = -EBADF, client = -EBADF;
    struct stat st;

    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/sock", dir);
    assert_int_equal(unix_listen(path, 0600, 5, &first, NULL), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(unix_listen(path, 0600, 5, &second, NULL), -EADDRINUSE);
    assert_int_equal(unix_connect(path, &client, NULL), 0);
    first = fd_close(first);
    assert_int_equal(unix_listen(path, 0600, 5, &second, NULL), 0);
    memset(long_path, 'x', sizeof(long_path) - 1);
    long_path[sizeof(long_path) - 1] = '\0';
    assert_int_equal(unix_connect(long_path, &client, NULL), -ENAMETOOLONG);
    assert_int_equal(remove_tree(dir), 0);
}

static int on_timer(sd_event_source *source, uint64_t at, void *userdata)
{
    (*(int *)userdata)++;
    return sd_event_exit(sd_event_source_get_event(source), 0);
}

static void test_timer_rearms(void **state)
{
    _cleanup_event_ sd_event *event = NULL;
    _cleanup_event_source_ sd_event_source *timer = NULL;
    int fired = 0;

    assert_int_equal(event_new(&event) >= 0, 1);
    assert_int_equal(event_arm_timer(event, &timer, 3600 * USEC_PER_SEC, on_timer, &fired) >= 0, 1);
    assert_int_equal(event_arm_timer(event, &timer, 1000, on_timer, &fired) >= 0, 1);
    assert_int_equal(sd_event_loop(event), 0);
    assert_int_equal(fired, 1);
}

static void test_strv(void **state)
{
    _cleanup_(strv_freep) char **list = NULL, **copy = NULL;

    for (int i = 0; i < 20; i++)
        assert_int_equal(strv_printf(&list, "%d", i), 0);
    copy = strv_copy(list);
    assert_int_equal(strv_length(copy), 20);
    assert_string_equal(copy[19], "19");
}

/* ---- durations --------------------------------------------------------------------------------------------------- */

static void test_durations(void **state)
{
    static const struct {
        const char *text;
        bool bare;
        uint64_t usec; /* 0 with a negative result */
        int r;
    } cases[] = {
        {"0", false, 0, 0},
        {"0", true, 0, 0},
        {"30", true, 30000000, 0},
        {"30", false, 0, -EINVAL},
        {"1.5", true, 1500000, 0},
        {"278s", false, 278000000, 0},
        {"3m", false, 180000000, 0},
        {"2min", false, 120000000, 0},
        {"1m30s", false, 90000000, 0},
        {"1h2m3.5s4ms", true, 3723504000, 0},
        {"500ms", false, 500000, 0},
        {"7us", false, 7, 0},
        {"", true, 0, -EINVAL},
        {"s", true, 0, -EINVAL},
        {"-3s", true, 0, -EINVAL},
        {"+3s", true, 0, -EINVAL},
        {" 3s", true, 0, -EINVAL},
        {"3s ", true, 0, -EINVAL},
        {"3s4", true, 0, -EINVAL},
        {"0x10", true, 0, -EINVAL},
        {"1e3s", true, 0, -EINVAL},
        {"1e400", true, 0, -EINVAL},
        {".5s", true, 0, -EINVAL},
        {"1.2.3s", true, 0, -EINVAL},
        {"inf", true, 0, -EINVAL},
        {"nans", true, 0, -EINVAL},
        {"3d", true, 0, -EINVAL},
        {"99999999999h", true, 0, -ERANGE},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        uint64_t usec = 42;

        assert_int_equal(duration_parse(cases[i].text, cases[i].bare, &usec), cases[i].r);
        assert_int_equal(usec, cases[i].r < 0 ? 42 : cases[i].usec);
    }
}

static void test_boot_id(void **state)
{
    const char *id = boot_id();

    assert_non_null(id);
    assert_int_equal(strlen(id), 36); /* a UUID, without the line's end */
    assert_string_equal(boot_id(), id);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error_wrap),
        cmocka_unit_test(test_arena),
        cmocka_unit_test(test_strbuf),
        cmocka_unit_test(test_base64),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_child_exit_and_output),
        cmocka_unit_test(test_child_missing),
        cmocka_unit_test(test_child_timeout),
        cmocka_unit_test(test_child_fd_swap),
        cmocka_unit_test(test_durations),
        cmocka_unit_test(test_boot_id),
        cmocka_unit_test(test_process_start_time),
        cmocka_unit_test(test_file_replace),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_unix_listen_replaces_only_the_dead),
        cmocka_unit_test(test_timer_rearms),
        cmocka_unit_test(test_strv),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
