/* SPDX-License-Identifier: Apache-2.0 */
/* The firmware's lines in the log: whole, harmless, and not without end. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "domain/firmware-log.h"

struct fixture {
    char dir[64], fifo[96], said[96];
    int port, saved_stderr;
    sd_event *event;
    struct firmware_log *log;
    char *text;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    int fd;

    assert_non_null(f);
    snprintf(f->dir, sizeof(f->dir), "/tmp/vmlet-fw-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->fifo, sizeof(f->fifo), "%s/fifo", f->dir);
    snprintf(f->said, sizeof(f->said), "%s/said", f->dir);
    assert_int_equal(mkfifo(f->fifo, 0600), 0);
    assert_true(event_new(&f->event) >= 0);
    assert_int_equal(firmware_log_new(f->event, f->fifo, &f->log, NULL), 0);
    f->port = open(f->fifo, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    assert_true(f->port >= 0);
    setenv("VMLET_LOG_FORMAT", "text", 1);
    log_init("test", LOG_LEVEL_INFO);
    f->saved_stderr = dup(STDERR_FILENO);
    fd = open(f->said, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && dup2(fd, STDERR_FILENO) >= 0);
    close(fd);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    dup2(f->saved_stderr, STDERR_FILENO);
    close(f->saved_stderr);
    close(f->port);
    firmware_log_free(f->log);
    sd_event_unref(f->event);
    remove_tree(f->dir);
    free(f->text);
    free(f);
    return 0;
}

static const char *said(struct fixture *f)
{
    size_t length;

    assert_int_equal(file_read(f->said, SIZE_MAX / 2, &f->text, &length, NULL), 0);
    return f->text;
}

static void print(struct fixture *f, const char *data, size_t length)
{
    while (length > 0) {
        ssize_t n = write(f->port, data, length);

        assert_true(n > 0 || errno == EAGAIN);
        if (n > 0) {
            data += n;
            length -= (size_t)n;
        }
        assert_true(sd_event_run(f->event, 0) >= 0);
    }
}

static void test_lines(void **state)
{
    static const char first[] = "SeaBIOS (version 1)\r\nhal", rest[] = "f\n\n\tcolour \x1b[31m \xc3\xa4\nno line end";
    struct fixture *f = *state;

    print(f, first, sizeof(first) - 1);
    print(f, rest, sizeof(rest) - 1);
    firmware_log_drain(f->log);
    assert_string_equal(said(f), "test: [SeaBios]: SeaBIOS (version 1)\ntest: [SeaBios]: half\n"
                                 "test: [SeaBios]:  colour ?[31m ??\ntest: [SeaBios]: no line end\n");
}

static void test_flood(void **state)
{
    struct fixture *f = *state;
    static char data[64 * 1024];
    const char *text, *end;

    memset(data, 'x', sizeof(data));
    for (size_t i = 0; i < 3 * LIMIT_FIRMWARE_LOG_BYTES; i += sizeof(data))
        print(f, data, sizeof(data)); /* all of it is taken: a full fifo stops QEMU */
    firmware_log_drain(f->log);
    text = said(f);
    assert_true(strlen(text) < LIMIT_FIRMWARE_LOG_BYTES + LIMIT_FIRMWARE_LOG_BYTES / 8);
    end = strstr(text, "the rest is dropped\n");
    assert_non_null(end);
    assert_null(strstr(end + 1, "[SeaBios]"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_lines, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flood, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
