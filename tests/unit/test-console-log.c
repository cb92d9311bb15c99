/* SPDX-License-Identifier: Apache-2.0 */
/* The console's log: bounded, rotated, complete whenever the launcher is killed, and no reason to fail. */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/strbuf.h"
#include "domain/console-log.h"

#define FILE_BYTES 8192U

struct fixture {
    char dir[64];
    int guest, pipe; /* where the guest prints, and where it comes out */
    struct console_log *log;
};

static struct console_log *open_log(struct fixture *f)
{
    struct console_log_options o = {.dir = f->dir, .file_bytes = FILE_BYTES};
    struct console_log *log;

    assert_int_equal(console_log_open(&o, &log, NULL), 0);
    return log;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    int fds[2];

    assert_non_null(f);
    snprintf(f->dir, sizeof(f->dir), "/tmp/vmlet-log-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
    f->pipe = fds[0];
    f->guest = fds[1];
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    console_log_free(f->log);
    remove_tree(f->dir);
    close(f->pipe);
    close(f->guest);
    free(f);
    return 0;
}

/* `from` numbers the lines. */
static void print(struct fixture *f, unsigned from, unsigned count)
{
    for (unsigned i = from; i < from + count; i++) {
        char line[32];
        int n = snprintf(line, sizeof(line), "line %010u\n", i);

        assert_int_equal(write(f->guest, line, (size_t)n), n);
    }
}

/* All that is in the pipe; the number of bytes. */
static size_t move(struct fixture *f)
{
    char data[4096];
    size_t all = 0;
    ssize_t n;

    while ((n = console_log_move(f->log, f->pipe, data, sizeof(data))) > 0)
        all += (size_t)n;
    assert_int_equal(n, -EAGAIN);
    return all;
}

static char *path_of(struct fixture *f, const char *name, char *path)
{
    snprintf(path, PATH_MAX, "%s/%s", f->dir, name);
    return path;
}

static int by_number(const struct dirent **a, const struct dirent **b)
{
    unsigned long x = strtoul((*a)->d_name + strlen(CONSOLE_LOG_NAME ".") * (strlen((*a)->d_name) > 16), NULL, 10);
    unsigned long y = strtoul((*b)->d_name + strlen(CONSOLE_LOG_NAME ".") * (strlen((*b)->d_name) > 16), NULL, 10);

    return x < y ? -1 : x > y;
}

static int is_predecessor(const struct dirent *entry)
{
    return startswith(entry->d_name, CONSOLE_LOG_NAME ".") != NULL;
}

/* The whole of what is kept: predecessors, oldest first, and the log. */
static char *read_all(struct fixture *f, unsigned *ret_files)
{
    _cleanup_(strbuf_done) struct strbuf all = {0};
    struct dirent **names;
    int n = scandir(f->dir, &names, is_predecessor, by_number);
    char path[PATH_MAX];

    assert_true(n >= 0);
    for (int i = 0; i <= n; i++) {
        _cleanup_free_ char *data = NULL;
        size_t length;

        path_of(f, i < n ? names[i]->d_name : CONSOLE_LOG_NAME, path);
        assert_int_equal(file_read(path, (size_t)1 << 30, &data, &length, NULL), 0);
        assert_true(length <= FILE_BYTES);
        strbuf_add(&all, data, length);
        if (i < n)
            free(names[i]);
    }
    free(names);
    *ret_files = (unsigned)n + 1;
    return strbuf_steal(&all);
}

/* Whole lines with consecutive numbers up to `last`; the number of the first. */
static unsigned check_lines(const char *text, unsigned last)
{
    const char *line = strstr(text, "line "); /* the oldest file may begin inside one */
    unsigned first, next;

    assert_non_null(line);
    assert_true(line - text < 16);
    first = next = (unsigned)strtoul(line + 5, NULL, 10);
    for (; *line; line += 16, next++)
        assert_int_equal(strtoul(line + 5, NULL, 10), next);
    assert_int_equal(next, last + 1);
    return first;
}

static void test_from_byte_0_with_a_copy_for_the_viewers(void **state)
{
    struct fixture *f = *state;
    char path[PATH_MAX], data[64];
    unsigned files;

    f->log = open_log(f);
    assert_int_equal(access(path_of(f, CONSOLE_LOG_NAME, path), R_OK), 0); /* before anything is printed */
    print(f, 0, 2);
    assert_int_equal(console_log_move(f->log, f->pipe, data, sizeof(data)), 32);
    assert_memory_equal(data, "line 0000000000\nline 0000000001\n", 32);
    assert_int_equal(console_log_move(f->log, f->pipe, data, sizeof(data)), -EAGAIN);
    _cleanup_free_ char *text = read_all(f, &files);
    assert_int_equal(check_lines(text, 1), 0);
    assert_int_equal(console_log_read_end(f->log, data, 4), 4);
    assert_memory_equal(data, "001\n", 4);
    assert_int_equal(console_log_read_end(f->log, data, sizeof(data)), 32);
}

static void test_bounded_and_rotated(void **state)
{
    struct fixture *f = *state;
    unsigned files;

    f->log = open_log(f);
    for (unsigned i = 0; i < 100; i++) {
        print(f, i * 1000, 1000);
        assert_int_equal(move(f), 16000);
    }
    _cleanup_free_ char *text = read_all(f, &files);
    assert_int_equal(files, LIMIT_CONSOLE_LOG_FILES);
    check_lines(text, 99999);
    assert_true(strlen(text) > (LIMIT_CONSOLE_LOG_FILES - 1) * FILE_BYTES);
}

/* Killed at any moment between two system calls, and within them. */
static void test_nothing_lost_or_doubled_by_a_kill(void **state)
{
    struct fixture *f = *state;
    unsigned next = 0, files;

    for (unsigned i = 0; i < 60; i++) {
        _cleanup_free_ char *text = NULL;
        pid_t child;

        print(f, next, 2000);
        next += 2000;
        child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            f->log = open_log(f);
            move(f);
            _exit(0);
        }
        for (volatile unsigned spin = 0; spin < i * 20000; spin++)
            ;
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, NULL, 0), child);
        f->log = open_log(f); /* the next launcher */
        move(f);
        console_log_free(TAKE_PTR(f->log));
        text = read_all(f, &files);
        check_lines(text, next - 1);
        assert_true(files <= LIMIT_CONSOLE_LOG_FILES);
    }
}

static void test_goes_on_with_the_log_of_an_earlier_vm(void **state)
{
    struct fixture *f = *state;
    unsigned files;

    for (unsigned i = 0; i < 5; i++) {
        f->log = open_log(f);
        print(f, i * 700, 700);
        move(f);
        console_log_free(TAKE_PTR(f->log));
    }
    _cleanup_free_ char *text = read_all(f, &files);
    check_lines(text, 3499);
}

static void test_a_log_that_somebody_removed_is_made_again(void **state)
{
    struct fixture *f = *state;
    char path[PATH_MAX];
    unsigned files;

    f->log = open_log(f);
    print(f, 0, 3);
    move(f);
    assert_int_equal(unlink(path_of(f, CONSOLE_LOG_NAME, path)), 0);
    print(f, 3, 3);
    move(f);
    _cleanup_free_ char *text = read_all(f, &files);
    assert_int_equal(check_lines(text, 5), 3);
}

static void test_truncated_from_outside(void **state)
{
    struct fixture *f = *state;
    char path[PATH_MAX];
    unsigned files;

    f->log = open_log(f);
    print(f, 0, 300);
    move(f);
    assert_int_equal(truncate(path_of(f, CONSOLE_LOG_NAME, path), 0), 0);
    print(f, 300, 3);
    move(f);
    _cleanup_free_ char *text = read_all(f, &files);
    assert_int_equal(check_lines(text, 302), 300);
}

/* The log's name is a directory's: nothing can be written until it is gone. The viewers notice nothing. */
static void test_a_log_that_cannot_be_written(void **state)
{
    struct fixture *f = *state;
    char path[PATH_MAX];
    unsigned files;

    assert_int_equal(mkdir(path_of(f, CONSOLE_LOG_NAME, path), 0700), 0);
    f->log = open_log(f);
    for (unsigned i = 0; i < 10; i++) {
        print(f, i * 1000, 1000);
        assert_int_equal(move(f), 16000);
    }
    assert_int_equal(rmdir(path), 0);
    print(f, 10000, 10);
    assert_int_equal(move(f), 160);
    _cleanup_free_ char *text = read_all(f, &files);
    assert_int_equal(check_lines(text, 10009), 10000);
}

static void test_a_directory_that_is_gone(void **state)
{
    struct fixture *f = *state;

    f->log = open_log(f);
    remove_tree(f->dir);
    print(f, 0, 1000);
    assert_int_equal(move(f), 16000);
    console_log_free(TAKE_PTR(f->log));
    f->log = open_log(f);
    print(f, 0, 1000);
    assert_int_equal(move(f), 16000);
}

static void test_end_of_file(void **state)
{
    struct fixture *f = *state;
    char data[64];

    f->log = open_log(f);
    print(f, 0, 1);
    close(f->guest);
    f->guest = open("/dev/null", O_WRONLY | O_CLOEXEC);
    assert_int_equal(console_log_move(f->log, f->pipe, data, sizeof(data)), 16);
    assert_int_equal(console_log_move(f->log, f->pipe, data, sizeof(data)), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        TEST(test_from_byte_0_with_a_copy_for_the_viewers),
        TEST(test_bounded_and_rotated),
        TEST(test_nothing_lost_or_doubled_by_a_kill),
        TEST(test_goes_on_with_the_log_of_an_earlier_vm),
        TEST(test_a_log_that_somebody_removed_is_made_again),
        TEST(test_truncated_from_outside),
        TEST(test_a_log_that_cannot_be_written),
        TEST(test_a_directory_that_is_gone),
        TEST(test_end_of_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
