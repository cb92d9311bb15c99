/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of a running VM that need no VM: states, events, timeline, and the console's multiplexer on real sockets.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/limits.h"
#include "domain/console.h"
#include "domain/events.h"
#include "domain/lifecycle.h"
#include "domain/timeline.h"

static void test_pause_reasons(void **state)
{
    struct lifecycle l = {0};

    assert_true(lifecycle_resumed(&l));
    assert_int_equal(l.state, DOMAIN_RUNNING);
    assert_false(lifecycle_resumed(&l));
    l.pausing_by_user = true;
    assert_true(lifecycle_stopped(&l));
    assert_int_equal(l.reason, REASON_USER);
    assert_true(lifecycle_resumed(&l));
    l.io_error = true;
    assert_true(lifecycle_stopped(&l));
    assert_string_equal(domain_reason_name(l.reason), "IOError");
    assert_true(lifecycle_resumed(&l));
    assert_true(lifecycle_stopped(&l)); /* the reason of an earlier pause is not kept */
    assert_int_equal(l.reason, REASON_UNKNOWN);
}

static void test_shutdown_causes(void **state)
{
    static const struct {
        const char *cause;
        bool killing, by_signal;
        int status;
        enum domain_reason reason;
    } cases[] = {
        {"guest-shutdown", false, false, 0, REASON_SHUTDOWN},
        {"guest-shutdown", true, false, 0, REASON_SHUTDOWN}, /* the guest was faster than our quit */
        {"host-qmp-quit", true, false, 0, REASON_DESTROYED},
        {"host-signal", false, false, 0, REASON_DESTROYED},
        {"guest-panic", false, false, 0, REASON_PANICKED},
        {"a-cause-of-the-future", false, false, 0, REASON_SHUTDOWN},
        {NULL, false, true, 9, REASON_CRASHED},
        {NULL, false, false, 1, REASON_CRASHED},
        {NULL, true, true, 9, REASON_DESTROYED},
        {NULL, false, false, 0, REASON_SHUTDOWN},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct lifecycle l = {.state = DOMAIN_RUNNING, .killing = cases[i].killing};

        if (cases[i].cause) {
            assert_true(lifecycle_shutdown(&l, cases[i].cause));
            assert_false(lifecycle_stopped(&l)); /* the STOP that follows is no pause */
            assert_int_equal(l.state, DOMAIN_SHUTTING_DOWN);
        }
        assert_true(lifecycle_exited(&l, cases[i].by_signal, cases[i].status));
        assert_int_equal(l.state, DOMAIN_SHUTOFF);
        assert_int_equal(l.reason, cases[i].reason);
        assert_false(lifecycle_resumed(&l)); /* the end is final */
    }
}

static void collect(json_t *event, void *userdata)
{
    json_array_append(userdata, event);
}

static void test_events_replay_and_loss(void **state)
{
    _cleanup_(event_log_freep) struct event_log *log = event_log_new();
    struct event_subscription *all = NULL, *late = NULL, *live = NULL;
    json_t *a = json_array(), *b = json_array(), *c = json_array();
    uint64_t lost;

    assert_int_equal(event_log_subscribe(log, 0, collect, c, &lost, &live), 0);
    for (unsigned i = 0; i < LIMIT_EVENT_RING + 10; i++)
        event_log_add(log, "Domain", "Running", json_pack("{s:i}", "n", (int)i), "number %u", i);
    assert_int_equal(event_log_subscribe(log, 1, collect, a, &lost, &all), 0);
    assert_int_equal(lost, 10);
    assert_int_equal(json_array_size(a), LIMIT_EVENT_RING);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(a, 0), "seq")), 11);
    assert_int_equal(event_log_subscribe(log, event_log_next(log), collect, b, &lost, &late), 0);
    assert_int_equal(lost, 0);
    assert_int_equal(json_array_size(b), 0);
    event_subscription_free(all);
    event_log_add(log, "Agent", "Connected", NULL, NULL);
    assert_int_equal(json_array_size(a), LIMIT_EVENT_RING);
    assert_int_equal(json_array_size(b), 1);
    assert_int_equal(json_array_size(c), LIMIT_EVENT_RING + 11);
    assert_null(json_object_get(json_array_get(b, 0), "message"));
    event_subscription_free(late);
    event_subscription_free(live);
    json_decref(a);
    json_decref(b);
    json_decref(c);
}

static struct event_subscription *self_ending;

static void end_myself(json_t *event, void *userdata)
{
    (*(int *)userdata)++;
    event_subscription_free(self_ending);
}

static void test_subscription_ends_itself(void **state)
{
    _cleanup_(event_log_freep) struct event_log *log = event_log_new();
    uint64_t lost;
    int calls = 0;

    assert_int_equal(event_log_subscribe(log, 0, end_myself, &calls, &lost, &self_ending), 0);
    event_log_add(log, "Domain", "A", NULL, NULL);
    event_log_add(log, "Domain", "B", NULL, NULL);
    assert_int_equal(calls, 1);
}

static void test_timeline(void **state)
{
    struct timeline t = {0};
    char text[40];
    json_t *json;

    assert_true(timeline_mark(&t, MARK_EXEC));
    assert_true(timeline_mark(&t, MARK_RUNNING));
    assert_false(timeline_mark(&t, MARK_RUNNING));
    assert_int_equal(timeline_get(&t, MARK_EXEC), 0);
    assert_true(timeline_get(&t, MARK_AGENT) == UINT64_MAX);
    json = timeline_to_json(&t);
    assert_int_equal(json_array_size(json_object_get(json, "events")), 2);
    json_decref(json);
    assert_string_equal(format_time(1700000000123456ULL, text), "2023-11-14T22:13:20.123456Z");
}

/* ---- console ------------------------------------------------------------------------------------------------------
 */

struct fixture {
    char dir[64], path[96];
    sd_event *event;
    int guest; /* QEMU's end */
    struct console *console;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    int fds[2];

    strcpy(f->dir, "/tmp/vmlet-test-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof(f->path), "%s/virt-serial0", f->dir);
    assert_true(event_new(&f->event) >= 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
    f->guest = fds[0];
    assert_int_equal(console_new(f->event, fds[1], fds[1], f->path, NULL, &f->console, NULL), 0);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    console_free(f->console);
    assert_int_equal(access(f->path, F_OK), -1);
    fd_close(f->guest);
    sd_event_unref(f->event);
    remove_tree(f->dir);
    free(f);
    return 0;
}

static void turn(struct fixture *f)
{
    while (sd_event_run(f->event, 0) > 0)
        ;
}

static size_t receive(int fd, char *data, size_t size)
{
    size_t got = 0;
    ssize_t n;

    while (got < size - 1 && (n = read(fd, data + got, size - 1 - got)) > 0)
        got += (size_t)n;
    data[got] = '\0';
    return got;
}

static void test_console_replays_to_several_viewers(void **state)
{
    struct fixture *f = *state;
    _cleanup_close_ int a = -EBADF, b = -EBADF;
    char text[256];

    assert_int_equal(write(f->guest, "boot line\n", 10), 10);
    turn(f);
    assert_int_equal(unix_connect(f->path, &a, NULL), 0);
    turn(f);
    assert_int_equal(write(f->guest, "login: ", 7), 7);
    turn(f);
    assert_int_equal(unix_connect(f->path, &b, NULL), 0);
    turn(f);
    assert_int_equal(console_count_viewers(f->console), 2);
    receive(a, text, sizeof(text));
    assert_string_equal(text, "boot line\nlogin: ");
    receive(b, text, sizeof(text));
    assert_string_equal(text, "boot line\nlogin: ");
    assert_int_equal(write(a, "root\n", 5), 5);
    turn(f);
    assert_int_equal(write(b, "x", 1), 1);
    turn(f);
    receive(f->guest, text, sizeof(text));
    assert_string_equal(text, "root\nx");
    a = fd_close(a);
    turn(f);
    assert_int_equal(console_count_viewers(f->console), 1);
}

static void test_console_slow_viewer_is_told(void **state)
{
    struct fixture *f = *state;
    _cleanup_close_ int slow = -EBADF;
    static char chunk[8192], all[4 * 1024 * 1024];
    size_t got = 0, n;

    memset(chunk, 'x', sizeof(chunk));
    assert_int_equal(unix_connect(f->path, &slow, NULL), 0);
    turn(f);
    for (int i = 0; i < 256; i++) {
        assert_int_equal(write(f->guest, chunk, sizeof(chunk)), (ssize_t)sizeof(chunk));
        turn(f);
    }
    assert_true(console_count_bytes(f->console) == 256 * sizeof(chunk));
    do {
        n = receive(slow, all + got, sizeof(all) - got);
        got += n;
        turn(f);
    } while (n > 0);
    assert_non_null(strstr(all, "bytes of the console were dropped here]"));
    assert_true(got < 256 * sizeof(chunk));
    assert_true(got >= LIMIT_CONSOLE_REPLAY_BYTES);
}

static void test_console_guest_that_does_not_read(void **state)
{
    struct fixture *f = *state;
    _cleanup_close_ int a = -EBADF;
    static char keys[1024 * 1024], text[2 * 1024 * 1024];
    size_t sent = 0, got = 0, n;

    memset(keys, 'k', sizeof(keys));
    assert_int_equal(unix_connect(f->path, &a, NULL), 0);
    turn(f);
    for (;;) { /* until every buffer on the way is full */
        ssize_t w = write(a, keys, sizeof(keys));

        if (w > 0)
            sent += (size_t)w;
        turn(f);
        if (w < 0)
            break;
    }
    assert_true(sent < sizeof(text)); /* bounded */
    do {
        n = receive(f->guest, text, sizeof(text));
        got += n;
        turn(f);
    } while (n > 0);
    assert_int_equal(got, sent); /* and nothing is lost */
}

static void test_console_too_many_viewers(void **state)
{
    struct fixture *f = *state;
    int fds[LIMIT_CONSOLE_VIEWERS + 1];
    char text[128];

    for (size_t i = 0; i < ELEMENTSOF(fds); i++) {
        assert_int_equal(unix_connect(f->path, &fds[i], NULL), 0);
        turn(f);
    }
    assert_int_equal(console_count_viewers(f->console), LIMIT_CONSOLE_VIEWERS);
    receive(fds[LIMIT_CONSOLE_VIEWERS], text, sizeof(text));
    assert_non_null(strstr(text, "too many viewers"));
    for (size_t i = 0; i < ELEMENTSOF(fds); i++)
        fd_close(fds[i]);
}

static void on_ended(void *userdata)
{
    *(bool *)userdata = true;
}

static void test_console_escape_ends_the_local_viewer(void **state)
{
    struct fixture *f = *state;
    bool ended = false;
    char text[64];
    int in[2], out[2];

    assert_int_equal(pipe2(in, O_CLOEXEC | O_NONBLOCK), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC | O_NONBLOCK), 0);
    assert_int_equal(console_add_viewer(f->console, in[0], out[1], 0x1d, on_ended, &ended), 0);
    assert_int_equal(write(f->guest, "hello", 5), 5);
    assert_int_equal(write(in[1], "ab\x1dzz", 5), 5);
    turn(f);
    assert_true(ended);
    receive(f->guest, text, sizeof(text));
    assert_string_equal(text, "ab");
    receive(out[0], text, sizeof(text));
    assert_string_equal(text, "hello");
    for (int i = 0; i < 2; i++) {
        close(in[i]);
        close(out[i]);
    }
}

static void test_console_outlives_qemu(void **state)
{
    struct fixture *f = *state;
    _cleanup_close_ int a = -EBADF;
    char text[64];

    assert_int_equal(write(f->guest, "last words", 10), 10);
    f->guest = fd_close(f->guest);
    turn(f);
    assert_int_equal(unix_connect(f->path, &a, NULL), 0);
    assert_int_equal(write(a, "typed to nobody", 15), 15);
    turn(f);
    receive(a, text, sizeof(text));
    assert_string_equal(text, "last words");
}

static void test_events_of_a_spoilt_file(void **state)
{
    static const char text[] =
        "{\"seq\":1,\"type\":\"a\"}\n\0half a line\n{\"seq\":2,\"typ\n[]\n{\"seq\":9007199254740993}\n"
        "{\"seq\":3,\"type\":\"b\"}\n{\"seq\":2}\n{\"seq\":4}";
    struct event_log *log = event_log_new();

    event_log_load(log, text, sizeof(text) - 1);
    /* 2 is lost, so what can be had again without a gap begins at 3; the last line is cut */
    assert_int_equal(event_log_oldest(log), 3);
    assert_int_equal(event_log_next(log), 4);
    event_log_free(log);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pause_reasons),
        cmocka_unit_test(test_shutdown_causes),
        cmocka_unit_test(test_events_replay_and_loss),
        cmocka_unit_test(test_subscription_ends_itself),
        cmocka_unit_test(test_events_of_a_spoilt_file),
        cmocka_unit_test(test_timeline),
        cmocka_unit_test_setup_teardown(test_console_replays_to_several_viewers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_console_slow_viewer_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_console_guest_that_does_not_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_console_too_many_viewers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_console_escape_ends_the_local_viewer, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_console_outlives_qemu, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
