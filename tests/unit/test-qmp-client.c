/* SPDX-License-Identifier: Apache-2.0 */
/* The QMP client against a scripted peer: the protocol, and every way to break it. */
#include "tests/qmp/peer.h"

#include <sys/resource.h>

#include "base/limits.h"

#ifdef __SANITIZE_ADDRESS__ /* its quarantine keeps what is freed */
#define MEMORY_IS_EXACT 0
#else
#define MEMORY_IS_EXACT 1
#endif

#define _cleanup_client_ _cleanup_(qmp_client_freep)

struct seen {
    enum qmp_state state;
    int disconnects;
    struct error *error;
    const struct answer *pending; /* must have failed before the state handler hears of it */
};

static void on_state(struct qmp_client *client, enum qmp_state state, const struct error *error, void *userdata)
{
    struct seen *seen = userdata;

    seen->state = state;
    assert_true((state == QMP_DISCONNECTED) == (error != NULL));
    if (state != QMP_DISCONNECTED)
        return;
    if (seen->pending)
        assert_int_equal(seen->pending->count, 1);
    seen->disconnects++;
    seen->error = error_copy(error);
}

static int count_fds(void)
{
    int n = 0;

    for (int fd = 0; fd < 512; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void test_greeting(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_client_ struct qmp_client *c = peer_connect(&p, GREETING);
    _cleanup_answer_ struct answer a = {0};

    assert_int_equal(qmp_client_get_version(c), 7002022);
    assert_non_null(json_object_get(qmp_client_get_greeting(c), "version"));
    assert_return_code(qmp_client_invoke(c, "query-status", NULL, on_reply, &a), 0);
    assert_int_equal(a.count, 0);
    peer_printf(&p, "{\"return\": {\"status\": \"running\"}, \"id\": %lld}\r\n", peer_expect(&p, "query-status"));
    assert_string_equal(json_string_value(json_object_get(a.result, "status")), "running");
    assert_int_equal(qmp_client_count_commands(c), 2);
}

/* Calls made before the greeting are sent after the handshake, in order. */
static void test_queue_before_greeting(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_client_ struct qmp_client *c = peer_open(&p, GREETING, QMP_GREETING);
    _cleanup_answer_ struct answer a = {0};
    char byte;

    qmp_client_invoke(c, "one", NULL, on_reply, &a);
    qmp_client_invoke(c, "two", NULL, NULL, NULL);
    peer_settle(&p);
    assert_int_equal(recv(p.fd, &byte, 1, MSG_DONTWAIT), -1);
    peer_send(&p, GREETING);
    assert_int_equal(peer_expect(&p, "qmp_capabilities"), 1);
    peer_settle(&p);
    assert_int_equal(recv(p.fd, &byte, 1, MSG_DONTWAIT), -1);
    peer_send(&p, "{\"return\": {}, \"id\": 1}\r\n");
    assert_int_equal(peer_expect(&p, "one"), 2);
    assert_int_equal(peer_expect(&p, "two"), 3);
    peer_send(&p, "{\"return\": [], \"id\": 2}\r\n");
    assert_int_equal(a.count, 1);
}

static void test_bytewise_and_order(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_client_ struct qmp_client *c = peer_connect(&p, GREETING);
    _cleanup_answer_ struct answer a = {0}, b = {0};
    char text[256];
    long long first, second;

    qmp_client_invoke(c, "one", NULL, on_reply, &a);
    qmp_client_invoke(c, "two", json_pack("{s:{s:s}}", "x", "y", "\"\\\n\xc3\xa9"), on_reply, &b);
    first = peer_expect(&p, "one");
    second = peer_expect(&p, "two");
    snprintf(text, sizeof(text), "{\"return\": 2, \"id\": %lld}\r\n{\"id\": %lld, \"return\":\n [\"}{\\\"\"]}", second,
             first);
    for (const char *t = text; *t; t++)
        peer_send_bytes(&p, t, 1);
    assert_int_equal(json_integer_value(b.result), 2);
    assert_string_equal(json_string_value(json_array_get(a.result, 0)), "}{\"");
}

static void test_error_class(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_client_ struct qmp_client *c = peer_connect(&p, GREETING);
    _cleanup_answer_ struct answer a = {0}, b = {0}, d = {0};

    qmp_client_invoke(c, "device_del", NULL, on_reply, &a);
    peer_printf(&p, "{\"error\": {\"class\": \"DeviceNotFound\", \"desc\": \"Device 'x' not found\"}, \"id\": %lld}",
                peer_expect(&p, "device_del"));
    assert_int_equal(error_get_code(a.error), ERROR_QMP);
    assert_string_equal(error_qmp_class(a.error), "DeviceNotFound");
    assert_string_equal(error_message(a.error), "device_del: Device 'x' not found");
    /* An error without a class, and a reply that is neither: the call fails, the connection stays. */
    qmp_client_invoke(c, "foo", NULL, on_reply, &b);
    peer_printf(&p, "{\"error\": {\"desc\": \"oh\"}, \"id\": %lld}", peer_expect(&p, "foo"));
    assert_int_equal(error_get_code(b.error), ERROR_BAD_DATA);
    assert_non_null(strstr(error_message(b.error), "without a class"));
    qmp_client_invoke(c, "bar", NULL, on_reply, &d);
    peer_printf(&p, "{\"id\": %lld}", peer_expect(&p, "bar"));
    assert_int_equal(error_get_code(d.error), ERROR_BAD_DATA);
    assert_int_equal(qmp_client_get_state(c), QMP_RUNNING);
}

/* What a peer sends, in which state, and what the pending call is told. */
static const struct fault {
    enum qmp_state state;
    const char *text; /* NULL: nothing but the end */
    bool close;
    enum error_code code;
    const char *message;
} protocol_faults[] = {
    {QMP_GREETING, "{\"hello\": 1}\n", false, ERROR_BAD_DATA, "no greeting"},
    {QMP_GREETING, "{\"QMP\": 1}\n", false, ERROR_BAD_DATA, "no greeting"},
    {QMP_GREETING, "SSH-2.0-OpenSSH\r\n", false, ERROR_BAD_DATA, "SSH-2.0"},
    {QMP_GREETING, "[1]\n", false, ERROR_BAD_DATA, "no object"},
    {QMP_GREETING, NULL, true, ERROR_CONNECTION, "before QEMU's greeting"},
    {QMP_GREETING, "{\"QMP\": {", true, ERROR_CONNECTION, "in the middle of a message, after 9 bytes"},
    {QMP_NEGOTIATING, NULL, true, ERROR_CONNECTION, "during the handshake"},
    {QMP_NEGOTIATING, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": 1}", false, ERROR_QMP,
     "during the handshake: qmp_capabilities: no"},
    {QMP_NEGOTIATING, "{\"return\": {}, \"id\": 7}", false, ERROR_BAD_DATA, "no command waits for"},
    {QMP_RUNNING, NULL, true, ERROR_CONNECTION, "QEMU closed it"},
    {QMP_RUNNING, "{\"return\": ", true, ERROR_CONNECTION, "in the middle of a message"},
    {QMP_RUNNING, "{\"return\": {}}\n", false, ERROR_BAD_DATA, "without the command's id"},
    {QMP_RUNNING, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}\n", false, ERROR_BAD_DATA,
     "JSON parse error"},
    {QMP_RUNNING, "{\"return\": {}, \"id\": \"2\"}\n", false, ERROR_BAD_DATA, "without the command's id"},
    {QMP_RUNNING, "{\"return\": {}, \"id\": 99}\n", false, ERROR_BAD_DATA, "no command waits for"},
    {QMP_RUNNING, "{\"return\": {}, \"id\": -1}\n", false, ERROR_BAD_DATA, "no command waits for"},
    {QMP_RUNNING, "{\"return\": {}, \"id\": 1}\n", false, ERROR_BAD_DATA, "no command waits for"},
    {QMP_RUNNING, "{\"what\": 1}\n", false, ERROR_BAD_DATA, "neither an answer nor an event"},
    {QMP_RUNNING, "{\"return\": tru}\n", false, ERROR_BAD_DATA, "not valid JSON"},
    {QMP_RUNNING, "{\"return\": \"\\u0000\", \"id\": 2}\n", false, ERROR_BAD_DATA, "not valid JSON"},
    {QMP_RUNNING, "{\"return\": \"\\u0000\", \"id\": 2, \"n\": 18446744073709551615}\n", false, ERROR_BAD_DATA,
     "u0000"},
    {QMP_RUNNING, "{\"return\": {\"a\": 1, \"a\": 2}, \"id\": 2}\n", false, ERROR_BAD_DATA, "duplicate"},
    {QMP_RUNNING, "HTTP/1.1 400\r\n", false, ERROR_BAD_DATA, "HTTP"},
};

static void test_protocol_faults(void **state)
{
    for (size_t i = 0; i < ELEMENTSOF(protocol_faults); i++) {
        const struct fault *f = &protocol_faults[i];
        _cleanup_peer_ struct peer p;
        _cleanup_client_ struct qmp_client *c = peer_open(&p, GREETING, f->state);
        _cleanup_answer_ struct answer a = {0};
        struct seen seen = {.pending = &a};

        print_message("%zu: %s\n", i, f->text ? f->text : "(end)");
        qmp_client_set_state_handler(c, on_state, &seen);
        assert_return_code(qmp_client_invoke(c, "query-status", NULL, on_reply, &a), 0);
        if (f->state == QMP_RUNNING)
            assert_int_equal(peer_expect(&p, "query-status"), 2);
        if (f->text)
            peer_send(&p, f->text);
        if (f->close)
            peer_close(&p);
        peer_settle(&p);
        assert_int_equal(a.count, 1);
        assert_int_equal(error_get_code(a.error), f->code);
        if (!strstr(error_message(a.error), f->message))
            fail_msg("%s", error_message(a.error));
        assert_int_equal(seen.disconnects, 1);
        assert_int_equal(qmp_client_get_state(c), QMP_DISCONNECTED);
        assert_int_equal(qmp_client_invoke(c, "late", json_object(), on_reply, &a), -ENOTCONN);
        assert_int_equal(a.count, 1);
        error_free(seen.error);
    }
}

/* Half a line for ever: the call's own deadline ends it, and says what has come. */
static void test_deadline(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_client_ struct qmp_client *c = peer_connect(&p, GREETING);
    _cleanup_answer_ struct answer a = {0}, b = {0};

    peer_send(&p, "{\"return\": {\"half"); /* before the call: however late this process is, before its deadline */
    qmp_client_call(c, &(struct qmp_call){.command = "a", .timeout_usec = 30000, .callback = on_reply, .userdata = &a},
                    NULL);
    assert_int_equal(peer_expect(&p, "a"), 2);
    peer_wait(&p, &a.count, 1);
    assert_int_equal(error_get_code(a.error), ERROR_TIMED_OUT);
    assert_non_null(strstr(error_message(a.error), "17 bytes"));
    /* The late reply is swallowed, and the next call works. */
    peer_send(&p, "\": 1}, \"id\": 2}\r\n");
    assert_int_equal(a.count, 1);
    qmp_client_invoke(c, "b", NULL, on_reply, &b);
    peer_printf(&p, "{\"return\": {}, \"id\": %lld}", peer_expect(&p, "b"));
    assert_non_null(b.result);
}

static void test_handshake_deadline(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_client_ struct qmp_client *c = peer_open(&p, GREETING, QMP_GREETING);
    _cleanup_answer_ struct answer a = {0};

    qmp_client_call(c, &(struct qmp_call){.command = "a", .timeout_usec = 20000, .callback = on_reply, .userdata = &a},
                    NULL);
    peer_wait(&p, &a.count, 1);
    assert_int_equal(error_get_code(a.error), ERROR_TIMED_OUT);
    assert_non_null(strstr(error_message(a.error), "greeting has not come"));
    /* It was not sent, and will not be. */
    peer_send(&p, GREETING);
    peer_expect(&p, "qmp_capabilities");
    peer_send(&p, "{\"return\": {}, \"id\": 1}");
    qmp_client_invoke(c, "b", NULL, NULL, NULL);
    assert_int_equal(peer_expect(&p, "b"), 3);
}

static void test_cancel(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_client_ struct qmp_client *c = peer_connect(&p, GREETING);
    _cleanup_answer_ struct answer a = {0};
    struct qmp_call call = {.command = "long", .callback = on_reply, .userdata = &a};
    uint64_t id;

    assert_return_code(qmp_client_call(c, &call, &id), 0);
    assert_int_equal(peer_expect(&p, "long"), id);
    assert_return_code(qmp_client_cancel(c, id), 0);
    assert_int_equal(error_get_code(a.error), ERROR_CANCELLED);
    assert_int_equal(qmp_client_cancel(c, id), -ENOENT);
    peer_printf(&p, "{\"return\": {}, \"id\": %lld}", (long long)id);
    assert_int_equal(a.count, 1);
    assert_int_equal(qmp_client_get_state(c), QMP_RUNNING);
    assert_int_equal(qmp_client_cancel(c, id), -ENOENT);
}

/* 0: it has none. */
static long long expect_id(struct peer *p, const char *command, bool has_id)
{
    json_t *json = peer_receive(p), *id = json_object_get(json, "id");
    long long number = json_integer_value(id);

    assert_string_equal(json_string_value(json_object_get(json, "execute")), command);
    assert_true(has_id == (id != NULL));
    json_decref(json);
    return number;
}

/* An urgent command goes without an id, unless another one waits for its answer: alone, behind one without, behind one
 * with, and behind one that nobody waits for any more. */
static void test_urgent(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_client_ struct qmp_client *c = peer_connect(&p, GREETING);
    _cleanup_answer_ struct answer a = {0}, b = {0}, d = {0}, e = {0};
    struct qmp_call call = {.command = "stop", .is_urgent = true, .callback = on_reply, .userdata = &a};
    long long second, third;
    uint64_t id;

    qmp_client_call(c, &call, &id);
    expect_id(&p, "stop", false);
    call.userdata = &b;
    qmp_client_call(c, &call, NULL);
    second = expect_id(&p, "stop", true);
    qmp_client_invoke(c, "query-status", NULL, on_reply, &d);
    third = expect_id(&p, "query-status", true);
    peer_printf(&p, "{\"return\": 3, \"id\": %lld}{\"return\": 1}{\"return\": 2, \"id\": %lld}", third, second);
    assert_int_equal(json_integer_value(a.result), 1);
    assert_int_equal(json_integer_value(b.result), 2);
    assert_int_equal(json_integer_value(d.result), 3);

    call.userdata = &e;
    qmp_client_call(c, &call, &id);
    expect_id(&p, "stop", false);
    assert_return_code(qmp_client_cancel(c, id), 0);
    assert_int_equal(error_get_code(e.error), ERROR_CANCELLED);
    qmp_client_call(c, &(struct qmp_call){.command = "cont", .is_urgent = true}, NULL);
    second = expect_id(&p, "cont", true);
    peer_printf(&p, "{\"return\": {}}{\"return\": {}, \"id\": %lld}", second);
    qmp_client_call(c, &(struct qmp_call){.command = "cont", .is_urgent = true}, NULL);
    expect_id(&p, "cont", false);
    peer_send(&p, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}");
    assert_int_equal(e.count, 1);
    assert_int_equal(qmp_client_get_state(c), QMP_RUNNING);
    peer_send(&p, "{\"return\": {}}"); /* one more than commands */
    assert_int_equal(qmp_client_get_state(c), QMP_DISCONNECTED);
}

/* The bytes that have come, and no more. */
static void expect_bytes(struct peer *p, const char *text)
{
    char bytes[256];
    ssize_t n;

    peer_settle(p);
    n = recv(p->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    if (n < 0)
        n = 0;
    assert_int_equal(n, strlen(text));
    assert_memory_equal(bytes, text, (size_t)n);
}

/* The beginning of a command is there before it: once, when all others have their answers, also of one with fds; and it
 * does not make a command that waits in the queue one that has been begun. */
static void test_begin_ahead(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_client_ struct qmp_client *c = peer_open(&p, GREETING, QMP_GREETING);
    _cleanup_answer_ struct answer a = {0}, b = {0};
    struct qmp_call call = {.command = "stop", .is_urgent = true, .callback = on_reply, .userdata = &a};
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    uint64_t id;

    qmp_client_begin_ahead(c);
    expect_bytes(&p, "");
    peer_send(&p, GREETING);
    expect_bytes(&p, "{\"execute\":\"qmp_capabilities\",\"id\":1}\n");
    peer_send(&p, "{\"return\": {}, \"id\": 1}");
    expect_bytes(&p, "{\"execute\":\"");
    peer_send(&p, "{\"event\": \"RESUME\"}");
    expect_bytes(&p, "");
    qmp_client_call(c, &call, NULL);
    expect_bytes(&p, "stop\"}\n");
    peer_send(&p, "{\"event\": \"STOP\"}");
    expect_bytes(&p, "");
    qmp_client_invoke(c, "query-status", NULL, on_reply, &b);
    expect_bytes(&p, "{\"execute\":\"query-status\",\"id\":3}\n");
    peer_send(&p, "{\"return\": {}}");
    assert_int_equal(a.count, 1);
    expect_bytes(&p, "");
    peer_send(&p, "{\"return\": {}, \"id\": 3}");
    assert_int_equal(b.count, 1);
    expect_bytes(&p, "{\"execute\":\"");
    /* behind one with fds two wait, and one of them is cancelled: nothing of it was written */
    qmp_client_call(c, &(struct qmp_call){.command = "getfd", .fds = &fd, .n_fds = 1}, NULL);
    expect_bytes(&p, "getfd\",\"id\":4}");
    qmp_client_invoke(c, "one", NULL, NULL, NULL);
    qmp_client_call(c, &(struct qmp_call){.command = "two"}, &id);
    assert_return_code(qmp_client_cancel(c, id), 0);
    peer_send(&p, "{\"return\": {}, \"id\": 4}");
    expect_bytes(&p, "{\"execute\":\"one\",\"id\":5}\n");
    peer_send(&p, "{\"return\": {}, \"id\": 5}");
    expect_bytes(&p, "{\"execute\":\"");
    qmp_client_call(c, &(struct qmp_call){.command = "a\"b"}, NULL);
    expect_bytes(&p, "a\\\"b\",\"id\":7}\n");
}

/* Out-of-band commands begin otherwise. */
static void test_begin_ahead_with_oob(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_client_ struct qmp_client *c = peer_connect(&p, GREETING_OOB);

    qmp_client_begin_ahead(c);
    expect_bytes(&p, "");
    qmp_client_invoke(c, "stop", NULL, NULL, NULL);
    peer_printf(&p, "{\"return\": {}, \"id\": %lld}", peer_expect(&p, "stop"));
    expect_bytes(&p, "");
}

/* device_del and its event: event behind the reply, before it, of another device, and the one that says no. */
static void test_until_event(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_client_ struct qmp_client *c = peer_connect(&p, GREETING);
    _cleanup_answer_ struct answer a = {0}, b = {0}, d = {0}, e = {0};
    struct qmp_call call = {.command = "device_del",
                            .until_event = "DEVICE_DELETED",
                            .event_key = "device",
                            .event_value = "disk1",
                            .fail_event = "DEVICE_UNPLUG_GUEST_ERROR",
                            .callback = on_reply,
                            .userdata = &a};
    uint64_t start;
    bool in_time;

    qmp_client_call(c, &call, NULL);
    peer_printf(&p, "{\"return\": {}, \"id\": %lld}", peer_expect(&p, "device_del"));
    peer_send(&p, "{\"event\": \"DEVICE_DELETED\", \"data\": {\"path\": \"/machine/x\"}}");
    peer_send(&p, "{\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": \"disk2\", \"path\": \"/machine/x\"}}");
    assert_int_equal(a.count, 0);
    peer_send(&p, "{\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": \"disk1\", \"path\": \"/machine/y\"}}");
    assert_string_equal(json_string_value(json_object_get(a.result, "path")), "/machine/y");

    call.userdata = &b;
    qmp_client_call(c, &call, NULL);
    peer_expect(&p, "device_del");
    peer_send(&p, "{\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": \"disk1\", \"path\": \"/machine/z\"}}");
    assert_int_equal(b.count, 0);
    peer_send(&p, "{\"return\": {}, \"id\": 3}");
    assert_string_equal(json_string_value(json_object_get(b.result, "path")), "/machine/z");

    call.userdata = &d;
    qmp_client_call(c, &call, NULL);
    peer_expect(&p, "device_del");
    peer_send(&p, "{\"return\": {}, \"id\": 4}");
    peer_send(&p, "{\"event\": \"DEVICE_UNPLUG_GUEST_ERROR\", \"data\": {\"device\": \"disk1\", \"path\": \"/\"}}");
    assert_int_equal(error_get_code(d.error), ERROR_QMP);
    assert_non_null(strstr(error_message(d.error), "DEVICE_UNPLUG_GUEST_ERROR"));

    start = now_usec();
    qmp_client_call(c,
                    &(struct qmp_call){.command = "job-dismiss",
                                       .until_event = "JOB_STATUS_CHANGE",
                                       .event_key = "id",
                                       .event_value = "j",
                                       .event_key2 = "status",
                                       .event_value2 = "null",
                                       .timeout_usec = 40000,
                                       .callback = on_reply,
                                       .userdata = &e},
                    NULL);
    peer_expect(&p, "job-dismiss");
    peer_send(&p, "{\"return\": {}, \"id\": 5}{\"event\": \"JOB_STATUS_CHANGE\", \"data\": {\"id\": \"j\", "
                  "\"status\": \"concluded\"}}");
    in_time = now_usec() - start < 40000; /* no stall: the reply and the event were taken before the deadline */
    assert_true(e.count == 0 || !in_time);
    peer_wait(&p, &e.count, 1);
    assert_int_equal(error_get_code(e.error), ERROR_TIMED_OUT);
    if (in_time)
        assert_non_null(strstr(error_message(e.error), "no JOB_STATUS_CHANGE event within 0.04 s"));
}

static void test_out_of_band(void **state)
{
    _cleanup_peer_ struct peer p, q;
    _cleanup_client_ struct qmp_client *c = peer_connect(&p, GREETING), *d = NULL;
    _cleanup_answer_ struct answer a = {0}, b = {0}, e = {0};
    struct qmp_call call = {.command = "x-oob-test", .out_of_band = true, .callback = on_reply, .userdata = &a};
    json_t *json;

    qmp_client_call(c, &call, NULL);
    assert_int_equal(a.count, 0);
    peer_settle(&p);
    assert_int_equal(error_get_errno(a.error), EOPNOTSUPP);
    assert_int_equal(qmp_client_enable_oob(c), -EBUSY);

    d = peer_open(&q, GREETING_OOB, QMP_GREETING);
    peer_send(&q, GREETING_OOB);
    json = peer_receive(&q);
    assert_string_equal(
        json_string_value(json_array_get(json_object_get(json_object_get(json, "arguments"), "enable"), 0)), "oob");
    json_decref(json);
    peer_send(&q, "{\"return\": {}, \"id\": 1}");
    /* Twenty in-band commands: only a window's worth is sent, and the out-of-band one overtakes the rest. */
    for (int i = 0; i < 20; i++)
        qmp_client_invoke(d, "slow", NULL, on_reply, &b);
    peer_settle(&q);
    call.userdata = &e;
    qmp_client_call(d, &call, NULL);
    for (unsigned i = 0; i < LIMIT_QMP_IN_FLIGHT; i++)
        assert_int_equal(peer_expect(&q, "slow"), i + 2);
    json = peer_receive(&q);
    assert_string_equal(json_string_value(json_object_get(json, "exec-oob")), "x-oob-test");
    peer_printf(&q, "{\"return\": {}, \"id\": %lld}", json_integer_value(json_object_get(json, "id")));
    json_decref(json);
    assert_int_equal(e.count, 1);
    assert_int_equal(b.count, 0);
    for (int i = 2; i < 22; i++)
        peer_printf(&q, "{\"return\": {}, \"id\": %d}", i);
    assert_int_equal(b.count, 20);
}

static int receive_fd(struct peer *p, struct strbuf *text)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int) * 4)];
        struct cmsghdr align;
    } control;
    char data[4096];
    struct iovec iov = {data, sizeof(data)};
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *h;
    ssize_t n;
    int fd = -EBADF;

    peer_settle(p);
    n = recvmsg(p->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0)
        return -EBADF;
    strbuf_add(text, data, (size_t)n);
    h = CMSG_FIRSTHDR(&m);
    if (h) {
        assert_int_equal(h->cmsg_len, CMSG_LEN(sizeof(int)));
        memcpy(&fd, CMSG_DATA(h), sizeof(int));
    }
    return fd;
}

static int send_fd(struct qmp_client *c, const char *command, struct answer *a)
{
    int fd = dup(0);

    return qmp_client_call(
        c, &(struct qmp_call){.command = command, .fds = &fd, .n_fds = 1, .callback = on_reply, .userdata = a}, NULL);
}

/* A fd comes with its own command, which goes alone: nothing is under way before it, and not a byte follows it, not
 * even a newline, until it is answered. None is left open on any path. */
static void test_fds(void **state)
{
    int before = count_fds(), one, two, got;
    struct peer p;
    struct qmp_client *c = peer_open(&p, GREETING_OOB, QMP_RUNNING);
    _cleanup_answer_ struct answer a = {0};
    struct strbuf text = {0};

    qmp_client_invoke(c, "before", NULL, NULL, NULL);
    assert_return_code(send_fd(c, "getfd", &a), 0);
    qmp_client_invoke(c, "behind", NULL, NULL, NULL);
    assert_int_equal(peer_expect(&p, "before"), 2);
    assert_int_equal(receive_fd(&p, &text), -EBADF);
    assert_return_code(send_fd(c, "add-fd", &a), 0);
    peer_send(&p, "{\"return\": {}, \"id\": 2}");
    qmp_client_call(c, &(struct qmp_call){.command = "urgent", .out_of_band = true}, NULL);
    got = receive_fd(&p, &text);
    assert_true(got >= 0);
    assert_string_equal(strbuf_text(&text), "{\"execute\":\"getfd\",\"id\":3}");
    close(got);
    strbuf_clear(&text);
    assert_int_equal(receive_fd(&p, &text), -EBADF);
    assert_int_equal(text.length, 0);
    peer_send(&p, "{\"return\": {}, \"id\": 3}");
    assert_int_equal(peer_expect(&p, "urgent"), 6);
    assert_int_equal(peer_expect(&p, "behind"), 4);
    peer_send(&p, "{\"return\": {}, \"id\": 6}{\"return\": {}, \"id\": 4}");
    got = receive_fd(&p, &text);
    assert_true(got >= 0);
    assert_string_equal(strbuf_text(&text), "{\"execute\":\"add-fd\",\"id\":5}");
    close(got);
    strbuf_done(&text);

    one = dup(0); /* refused at once */
    assert_int_equal(
        qmp_client_call(c, &(struct qmp_call){.command = "getfd", .arguments = json_array(), .fds = &one, .n_fds = 1},
                        NULL),
        -EINVAL);
    one = dup(0); /* cancelled while it waits for the one before */
    two = dup(0);
    {
        uint64_t id;

        qmp_client_call(
            c, &(struct qmp_call){.command = "getfd", .fds = &one, .n_fds = 1, .callback = on_reply, .userdata = &a},
            &id);
        assert_return_code(qmp_client_cancel(c, id), 0);
    }
    qmp_client_call(
        c, &(struct qmp_call){.command = "getfd", .fds = &two, .n_fds = 1, .callback = on_reply, .userdata = &a}, NULL);
    qmp_client_free(c); /* freed with one pending */
    peer_done(&p);
    assert_int_equal(a.count, 4);
    assert_int_equal(count_fds(), before);
}

/* ---- events ---------------------------------------------------------------------------------------------------- */

struct event_log {
    int count;
    char last[64];
    long long value;
    uint64_t timestamp;
};

static void on_event(struct qmp_client *client, const char *name, json_t *data, uint64_t timestamp_usec, void *userdata)
{
    struct event_log *log = userdata;

    assert_true(json_is_object(data));
    log->count++;
    snprintf(log->last, sizeof(log->last), "%s", name);
    log->value = json_integer_value(json_object_get(data, "n"));
    log->timestamp = timestamp_usec;
}

static void test_events(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_client_ struct qmp_client *c = peer_connect(&p, GREETING);
    struct event_log log = {0};

    qmp_client_set_event_handler(c, on_event, &log);
    peer_send(&p, "{\"timestamp\": {\"seconds\": 1700000000, \"microseconds\": 25}, \"event\": \"STOP\"}\r\n");
    assert_string_equal(log.last, "STOP");
    assert_int_equal(log.timestamp, 1700000000000025ULL);
    peer_send(&p, "{\"timestamp\": {\"seconds\": -1, \"microseconds\": -1}, \"event\": \"A\", \"data\": {\"n\": 3}}");
    assert_int_equal(log.timestamp, 0);
    assert_int_equal(log.value, 3);

    assert_return_code(qmp_client_set_event_filter(c, (const char *const[]){"BLOCK_*", "!BLOCK_JOB_*", NULL}), 0);
    peer_send(&p, "{\"event\": \"STOP\"}{\"event\": \"BLOCK_JOB_READY\"}");
    assert_int_equal(log.count, 2);
    peer_send(&p, "{\"event\": \"BLOCK_IO_ERROR\"}");
    assert_int_equal(log.count, 3);
    assert_return_code(qmp_client_set_event_filter(c, (const char *const[]){"!RTC_CHANGE", NULL}), 0);
    peer_send(&p, "{\"event\": \"RTC_CHANGE\"}{\"event\": \"STOP\"}");
    assert_int_equal(log.count, 4);
    assert_return_code(qmp_client_set_event_filter(c, NULL), 0);
    peer_send(&p, "{\"event\": \"RTC_CHANGE\"}");
    assert_int_equal(log.count, 5);
}

/* The first at once, the newest at the end of the interval, and nothing of other names. The interval is longer than a
 * hundred events take on a busy machine. */
static void test_event_limit(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_client_ struct qmp_client *c = peer_connect(&p, GREETING);
    struct event_log log = {0};

    qmp_client_set_event_handler(c, on_event, &log);
    assert_return_code(qmp_client_limit_events(c, "BALLOON_*", 2 * USEC_PER_SEC), 0);
    for (int i = 1; i <= 100; i++)
        peer_printf(&p, "{\"event\": \"BALLOON_CHANGE\", \"data\": {\"n\": %d}}", i);
    assert_int_equal(log.count, 1);
    assert_int_equal(log.value, 1);
    peer_send(&p, "{\"event\": \"STOP\"}");
    assert_int_equal(log.count, 2);
    peer_wait(&p, &log.count, 3);
    assert_int_equal(log.value, 100);
    assert_int_equal(qmp_client_count_dropped_events(c), 98);
}

static long resident_kib(void)
{
    struct rusage usage;

    assert_return_code(getrusage(RUSAGE_SELF, &usage), errno);
    return usage.ru_maxrss;
}

static void test_event_flood(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_client_ struct qmp_client *c = peer_connect(&p, GREETING);
    struct event_log log = {0};
    struct strbuf block = {0};
    int total = 1000000, per_block = 500;
    long before = 0;

    qmp_client_set_event_handler(c, on_event, &log);
    for (int i = 0; i < per_block; i++)
        strbuf_printf(
            &block,
            "{\"timestamp\": {\"seconds\": 1700000000, \"microseconds\": %d}, \"event\": \"FLOOD\", \"data\": "
            "{\"n\": %d}}\r\n",
            i, i);
    for (int i = 0; i < total / per_block; i++) {
        peer_send_bytes(&p, block.data, block.length);
        if (i == 20)
            before = resident_kib();
    }
    strbuf_done(&block);
    peer_settle(&p);
    assert_int_equal(log.count, total);
    if (MEMORY_IS_EXACT)
        assert_in_range(resident_kib(), 0, before + 256);
}

/* ---- callbacks that free, and callbacks that call ---------------------------------------------------------------- */

static void free_on_reply(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct qmp_client **c = userdata;

    if (*c)
        qmp_client_freep(c);
}

static void free_on_event(struct qmp_client *client, const char *name, json_t *data, uint64_t usec, void *userdata)
{
    qmp_client_freep(userdata);
}

static void free_on_state(struct qmp_client *client, enum qmp_state state, const struct error *error, void *userdata)
{
    qmp_client_freep(userdata);
}

static void test_free_in_callbacks(void **state)
{
    for (int i = 0; i < 8; i++) {
        _cleanup_peer_ struct peer p;
        struct qmp_client *c = peer_open(&p, GREETING, i == 4 ? QMP_GREETING : i == 5 ? QMP_NEGOTIATING : QMP_RUNNING);
        _cleanup_answer_ struct answer a = {0};
        uint64_t id;

        qmp_client_call(
            c,
            &(struct qmp_call){
                .command = "x", .callback = free_on_reply, .userdata = &c, .timeout_usec = i == 6 ? 1000 : 0},
            &id);
        qmp_client_invoke(c, "y", NULL, on_reply, &a);
        if (i == 1)
            qmp_client_set_event_handler(c, free_on_event, &c);
        if (i == 2 || i == 4 || i == 5)
            qmp_client_set_state_handler(c, free_on_state, &c);
        if (i == 0)
            peer_send(&p, "{\"return\": {}, \"id\": 2}{\"return\": {}, \"id\": 3}");
        else if (i == 1)
            peer_send(&p, "{\"event\": \"STOP\"}{\"return\": {}, \"id\": 2}");
        else if (i == 2 || i == 3)
            peer_close(&p);
        else if (i == 4)
            peer_send(&p, GREETING);
        else if (i == 5)
            peer_send(&p, "{\"return\": {}, \"id\": 1}");
        else if (i == 7)
            assert_return_code(qmp_client_cancel(c, id), 0);
        peer_settle(&p);
        if (i == 6)
            peer_wait(&p, &a.count, 1);
        assert_null(c);
        assert_int_equal(a.count, 1);
    }
}

static void call_again(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    int *left = userdata;

    if (--*left > 0)
        assert_int_equal(qmp_client_invoke(client, "again", NULL, call_again, left), error ? -ENOTCONN : 0);
}

static void test_call_in_callback(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_client_ struct qmp_client *c = peer_connect(&p, GREETING);
    int left = 5;

    qmp_client_invoke(c, "again", NULL, call_again, &left);
    for (int i = 0; i < 3; i++)
        peer_printf(&p, "{\"return\": {}, \"id\": %lld}", peer_expect(&p, "again"));
    assert_int_equal(left, 2);
    peer_close(&p);
    peer_settle(&p);
    assert_int_equal(left, 1);
}

/* ---- size ------------------------------------------------------------------------------------------------------ */

static void test_large_message(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_client_ struct qmp_client *c = peer_connect(&p, GREETING);
    _cleanup_answer_ struct answer a = {0}, b = {0};
    size_t size = LIMIT_QMP_MESSAGE_BYTES - 64;
    char *block = malloc(size);

    assert_non_null(block);
    memset(block, 'x', size);
    qmp_client_invoke(c, "big", NULL, on_reply, &a);
    peer_send(&p, "{\"id\": 2, \"return\": \"");
    peer_send_bytes(&p, block, size);
    peer_send(&p, "\"}\r\n");
    assert_int_equal(json_string_length(a.result), size);
    qmp_client_invoke(c, "too-big", NULL, on_reply, &b);
    peer_send(&p, "{\"id\": 3, \"return\": \"");
    for (size_t sent = 0; b.count == 0 && sent < size + 1000000; sent += 65536) {
        ssize_t n = send(p.fd, block, 65536, MSG_NOSIGNAL);

        assert_true(n > 0 || errno == EPIPE);
        peer_settle(&p);
    }
    assert_int_equal(error_get_code(b.error), ERROR_LIMIT);
    free(block);
}

/* A peer that does not read: the queue is bounded, nothing blocks, and all of it goes out once it reads again. */
static void test_slow_reader(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_client_ struct qmp_client *c = peer_connect(&p, GREETING);
    _cleanup_answer_ struct answer a = {0};
    json_t *arguments = json_object();
    char filler[2000];
    int n = 0;

    memset(filler, 'f', sizeof(filler));
    filler[sizeof(filler) - 1] = '\0';
    json_object_set_new(arguments, "filler", json_string(filler));
    for (; n < 2000; n++) {
        assert_return_code(qmp_client_invoke(c, "fill", json_incref(arguments), on_reply, &a), 0);
        peer_settle(&p);
    }
    json_decref(arguments);
    for (int i = 0; i < n; i++)
        assert_int_equal(peer_expect(&p, "fill"), i + 2);
    for (int i = 0; i < n; i++)
        peer_printf(&p, "{\"return\": {}, \"id\": %d}", i + 2);
    assert_int_equal(a.count, n);
    while (qmp_client_invoke(c, "full", NULL, NULL, NULL) == 0)
        assert_true(++n < 100000);
    assert_int_equal(qmp_client_invoke(c, "full", NULL, NULL, NULL), -ENOBUFS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greeting),
        cmocka_unit_test(test_queue_before_greeting),
        cmocka_unit_test(test_bytewise_and_order),
        cmocka_unit_test(test_error_class),
        cmocka_unit_test(test_protocol_faults),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_handshake_deadline),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_urgent),
        cmocka_unit_test(test_begin_ahead),
        cmocka_unit_test(test_begin_ahead_with_oob),
        cmocka_unit_test(test_until_event),
        cmocka_unit_test(test_out_of_band),
        cmocka_unit_test(test_fds),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_event_limit),
        cmocka_unit_test(test_event_flood),
        cmocka_unit_test(test_free_in_callbacks),
        cmocka_unit_test(test_call_in_callback),
        cmocka_unit_test(test_large_message),
        cmocka_unit_test(test_slow_reader),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
