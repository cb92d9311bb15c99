/* SPDX-License-Identifier: Apache-2.0 */
/* The command server against raw sockets: what is right, each fault, and what a bad client can do to others. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/event.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/strbuf.h"
#include "rpc/server.h"
#include "rpc/wire.h"

#define WAIT_USEC (60 * USEC_PER_SEC)

static struct fixture {
    sd_event *event;
    struct rpc_server *server;
    char dir[64], path[128];
    unsigned state;
    struct rpc_call *held[128];
    size_t n_held;
    struct rpc_stream *stream;
    unsigned n_closed, n_complaints, n_echo;
    char complaint[256];
} f;

/* ---- the methods under test ------------------------------------------------------------------------------------ */

static void handle_echo(struct rpc_call *call, json_t *params, void *userdata)
{
    f.n_echo++;
    rpc_reply(call, json_incref(params));
}

static void handle_hold(struct rpc_call *call, json_t *params, void *userdata)
{
    assert_true(f.n_held < ELEMENTSOF(f.held));
    f.held[f.n_held++] = call;
}

static void handle_fail(struct rpc_call *call, json_t *params, void *userdata)
{
    _cleanup_error_ struct error *error = NULL;

    error_set(&error, ERROR_QMP, EIO, "device_del: no \xff device");
    error_set_qmp_class(error, "DeviceNotFound");
    error_set_remedy(error, "name one that is there");
    rpc_fail_with(call, error, json_pack("{s:s}", "path", "spec.domain"));
}

static void handle_big(struct rpc_call *call, json_t *params, void *userdata)
{
    size_t n = (size_t)json_integer_value(json_object_get(params, "bytes"));
    char *text = malloc(n + 1);

    memset(text, 'x', n);
    rpc_reply(call, json_pack("{s:o}", "text", json_stringn(text, n)));
    free(text);
}

static void handle_free(struct rpc_call *call, json_t *params, void *userdata)
{
    rpc_server_free(f.server);
    f.server = NULL;
    rpc_reply(call, NULL);
}

static void on_stream_closed(struct rpc_stream *stream, void *userdata)
{
    assert_ptr_equal(stream, f.stream);
    f.n_closed++;
    rpc_stream_free(f.stream);
    f.stream = NULL;
}

static void handle_subscribe(struct rpc_call *call, json_t *params, void *userdata)
{
    assert_int_equal(rpc_stream_new(call, on_stream_closed, &f, &f.stream), 0);
    rpc_reply(call, json_pack("{s:i}", "next", 1));
}

static const struct rpc_param echo_params[] = {
    {.name = "text", .type = JSON_STRING, .required = true, .what = "said again"},
    {.name = "count", .type = JSON_INTEGER},
    {.name = "loud", .type = JSON_TRUE},
    {.name = "factor", .type = JSON_REAL},
    {.name = "anything", .type = RPC_TYPE_ANY},
    {0},
};

static const struct rpc_param big_params[] = {
    {.name = "bytes", .type = JSON_INTEGER, .required = true, .what = "size of the answer"},
    {0},
};

static const struct rpc_method methods[] = {
    {.name = "Echo", .what = "its params", .params = echo_params, .handler = handle_echo},
    {.name = "Hold", .what = "answered later", .handler = handle_hold},
    {.name = "Fail", .what = "always", .handler = handle_fail},
    {.name = "Big", .what = "a long answer", .params = big_params, .handler = handle_big},
    {.name = "Pause", .what = "only when running", .states = 1U << 1, .handler = handle_hold},
    {.name = "FreeServer", .what = "from within a handler", .handler = handle_free},
    {.name = "Subscribe", .what = "a stream", .handler = handle_subscribe},
    {0},
};

static const char *const state_names[] = {"Shutoff", "Running", "Paused", NULL};

static unsigned get_state(void *userdata)
{
    return ((struct fixture *)userdata)->state;
}

static void on_complaint(const struct rpc_peer *peer, const struct error *error, void *userdata)
{
    f.n_complaints++;
    snprintf(f.complaint, sizeof(f.complaint), "%s", error_message(error));
}

static struct rpc_server_options server_options(void)
{
    return (struct rpc_server_options){
        .path = f.path,
        .listen_fd = -EBADF,
        .methods = methods,
        .state_names = state_names,
        .get_state = get_state,
        .userdata = &f,
        .allowed_uid = geteuid(),
        .complain = on_complaint,
    };
}

static int setup(void **state)
{
    struct rpc_server_options options;

    memset(&f, 0, sizeof(f));
    snprintf(f.dir, sizeof(f.dir), "/tmp/test-rpc-XXXXXX");
    assert_non_null(mkdtemp(f.dir));
    snprintf(f.path, sizeof(f.path), "%s/sock", f.dir);
    assert_true(event_new(&f.event) >= 0);
    options = server_options();
    assert_int_equal(rpc_server_new(f.event, &options, &f.server, NULL), 0);
    return 0;
}

static int teardown(void **state)
{
    rpc_server_free(f.server);
    for (size_t i = 0; i < f.n_held; i++)
        rpc_reply(f.held[i], NULL);
    rpc_stream_free(f.stream);
    f.event = sd_event_unref(f.event);
    assert_true(access(f.path, F_OK) < 0);
    assert_int_equal(rmdir(f.dir), 0);
    return 0;
}

/* ---- a raw client in the same process -------------------------------------------------------------------------- */

struct raw {
    int fd;
    struct strbuf in;
    bool at_end;
};

static void raw_done(struct raw *raw)
{
    fd_close(raw->fd);
    strbuf_done(&raw->in);
}

#define _cleanup_raw_ _cleanup_(raw_done)

static struct raw raw_connect(void)
{
    struct raw raw = {.fd = -EBADF};

    assert_int_equal(unix_connect(f.path, &raw.fd, NULL), 0);
    return raw;
}

static void turn(void)
{
    assert_true(sd_event_run(f.event, 10000) >= 0);
}

/* Sends all of it, letting the server read meanwhile. */
static void raw_send_bytes(struct raw *raw, const char *data, size_t length)
{
    uint64_t deadline = now_usec() + WAIT_USEC;

    while (length > 0) {
        ssize_t n = send(raw->fd, data, length, MSG_NOSIGNAL);

        assert_true(now_usec() < deadline);
        if (n < 0) {
            assert_int_equal(errno, EAGAIN);
            turn();
            continue;
        }
        data += n;
        length -= (size_t)n;
    }
}

static void raw_send(struct raw *raw, const char *text)
{
    raw_send_bytes(raw, text, strlen(text));
}

/* false: nothing is there now. */
static bool raw_receive(struct raw *raw)
{
    char *p = strbuf_reserve(&raw->in, 65536);
    ssize_t n = recv(raw->fd, p, 65536, 0);

    if (n > 0) {
        raw->in.length += (size_t)n;
        raw->in.data[raw->in.length] = '\0';
        return true;
    }
    if (n == 0 || errno == ECONNRESET) {
        raw->at_end = true;
        return true;
    }
    assert_int_equal(errno, EAGAIN);
    return false;
}

/* The next message. NULL: the server has closed. */
static json_t *raw_next(struct raw *raw)
{
    uint64_t deadline = now_usec() + WAIT_USEC;

    for (;;) {
        char *end = memchr(strbuf_text(&raw->in), '\n', raw->in.length);

        if (end) {
            json_t *message = json_loadb(raw->in.data, (size_t)(end - raw->in.data), JSON_REJECT_DUPLICATES, NULL);

            assert_non_null(message);
            strbuf_consume(&raw->in, (size_t)(end - raw->in.data) + 1);
            return message;
        }
        if (raw->at_end)
            return NULL;
        assert_true(now_usec() < deadline);
        if (!raw_receive(raw))
            turn();
    }
}

static void assert_closed(struct raw *raw)
{
    assert_null(raw_next(raw));
}

static json_t *raw_call(struct raw *raw, const char *text)
{
    raw_send(raw, text);
    return raw_next(raw);
}

static const char *get_string(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    assert_non_null(text);
    return text;
}

/* Checks an error answer and frees it. */
static void assert_error(json_t *message, json_int_t number, const char *code, const char *part)
{
    const json_t *error = json_object_get(message, "error");

    assert_non_null(message);
    assert_non_null(error);
    assert_string_equal(get_string(message, "jsonrpc"), "2.0");
    assert_non_null(json_object_get(message, "id"));
    assert_int_equal(json_integer_value(json_object_get(error, "code")), number);
    assert_string_equal(get_string(json_object_get(error, "data"), "code"), code);
    if (!strstr(get_string(error, "message"), part))
        fail_msg("\"%s\" is not in \"%s\"", part, get_string(error, "message"));
    json_decref(message);
}

static void assert_lives(struct raw *raw)
{
    json_t *answer = raw_call(raw, "{\"jsonrpc\":\"2.0\",\"id\":\"alive\",\"method\":\"Ping\"}\n");

    assert_non_null(answer);
    assert_string_equal(get_string(answer, "id"), "alive");
    assert_true(json_is_object(json_object_get(answer, "result")));
    json_decref(answer);
}

/* ---- tests ----------------------------------------------------------------------------------------------------- */

static void test_call(void **state)
{
    _cleanup_raw_ struct raw raw = raw_connect();
    struct stat st;
    json_t *answer;

    assert_int_equal(stat(f.path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    answer =
        raw_call(&raw, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Echo\",\"params\":{\"text\":\"a\\nb\",\"count\":3,"
                       "\"loud\":true,\"factor\":1,\"anything\":[null]}}\r\n");
    assert_int_equal(json_integer_value(json_object_get(answer, "id")), 1);
    assert_string_equal(get_string(json_object_get(answer, "result"), "text"), "a\nb");
    assert_null(json_object_get(answer, "error"));
    json_decref(answer);
    /* several requests in one write; ids of every allowed kind come back as they were */
    raw_send(&raw, "{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"Ping\"}\n"
                   "{\"jsonrpc\":\"2.0\",\"id\":1.5,\"method\":\"Ping\",\"params\":{}}\n"
                   "{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"method\":\"Ping\"}\n");
    answer = raw_next(&raw);
    assert_true(json_is_null(json_object_get(answer, "id")));
    json_decref(answer);
    answer = raw_next(&raw);
    assert_true(json_is_real(json_object_get(answer, "id")));
    json_decref(answer);
    answer = raw_next(&raw);
    assert_string_equal(get_string(answer, "id"), "x");
    json_decref(answer);
}

static void test_split_writes(void **state)
{
    static const char text[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Ping\"}\n";
    _cleanup_raw_ struct raw raw = raw_connect();
    json_t *answer;

    for (size_t i = 0; i < sizeof(text) - 1; i++) {
        raw_send_bytes(&raw, text + i, 1);
        turn();
    }
    answer = raw_next(&raw);
    assert_non_null(json_object_get(answer, "result"));
    json_decref(answer);
}

static void test_bad_requests(void **state)
{
    static const struct {
        const char *line;
        int number;
        const char *code, *part;
    } cases[] = {
        {"{\"jsonrpc\":\n", -32700, "BadData", "not valid JSON"},
        {"\n", -32700, "BadData", "not valid JSON"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":2,\"method\":\"Ping\"}\n", -32700, "BadData", "duplicate"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}\n", -32700, "BadData", "decode byte 0xff"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1e999,\"method\":\"Ping\"}\n", -32700, "BadData", "overflow"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Echo\\u0000\"}\n", -32700, "BadData", "\\u0000"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Echo\",\"params\":{\"text\":18446744073709551615}}\n", -32602,
         "BadArgument", "must be of type string, not integer"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Ping\"} {}\n", -32700, "BadData", "end of file"},
        {"7\n", -32600, "BadData", "must be a JSON object"},
        {"[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Ping\"}]\n", -32600, "BadData", "batches are not supported"},
        {"{\"id\":1,\"method\":\"Ping\"}\n", -32600, "BadData", "jsonrpc must be"},
        {"{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"Ping\"}\n", -32600, "BadData", "jsonrpc must be"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1}\n", -32600, "BadData", "method must be a string"},
        {"{\"jsonrpc\":\"2.0\",\"id\":[1],\"method\":\"Ping\"}\n", -32600, "BadData", "id must be"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Ping\",\"parms\":{}}\n", -32600, "BadData",
         "\"parms\" (did you mean \"params\"?)"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Ecoh\"}\n", -32601, "NotSupported", "did you mean \"Echo\"?"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n", -32601, "NotSupported", "did you mean \"Ping\"?"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Quux12345\"}\n", -32601, "NotSupported", "Describe lists them"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Echo\",\"params\":[1]}\n", -32602, "BadArgument",
         "must be an object"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Echo\"}\n", -32602, "BadArgument", "needs the parameter \"text\""},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Echo\",\"params\":{\"text\":7}}\n", -32602, "BadArgument",
         "must be of type string, not integer"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Echo\",\"params\":{\"text\":\"\",\"loud\":1}}\n", -32602,
         "BadArgument", "must be of type boolean, not integer"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Echo\",\"params\":{\"text\":\"\",\"cuont\":1}}\n", -32602,
         "BadArgument", "\"cuont\" (did you mean \"count\"?)"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Hold\",\"params\":{\"x\":1}}\n", -32602, "BadArgument",
         "it takes none"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Pause\"}\n", -32000, "WrongState",
         "not allowed in the state Shutoff (allowed in: Running)"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Fail\"}\n", -32000, "QmpError", "no \xef\xbf\xbd device"},
    };
    _cleanup_raw_ struct raw raw = raw_connect();

    for (size_t i = 0; i < ELEMENTSOF(cases); i++)
        assert_error(raw_call(&raw, cases[i].line), cases[i].number, cases[i].code, cases[i].part);
    assert_lives(&raw);
    assert_int_equal(f.n_held, 0);
    assert_int_equal(f.n_echo, 0);
}

/* Integers that int64_t cannot hold come back as they went: the monitor's answers have such. */
static void test_exact_numbers(void **state)
{
    _cleanup_raw_ struct raw raw = raw_connect();
    uint64_t deadline = now_usec() + WAIT_USEC;
    const char *text;

    raw_send(&raw, "{\"jsonrpc\":\"2.0\",\"id\":18446744073709551615,\"method\":\"Echo\",\"params\":"
                   "{\"text\":\"18446744073709551615\",\"anything\":[18446744073709551614,-9223372036854775809]}}\n");
    while (!memchr(strbuf_text(&raw.in), '\n', raw.in.length)) {
        assert_true(now_usec() < deadline && !raw.at_end);
        if (!raw_receive(&raw))
            turn();
    }
    text = strbuf_text(&raw.in);
    assert_non_null(strstr(text, "\"id\":18446744073709551615,"));
    assert_non_null(strstr(text, "\"text\":\"18446744073709551615\""));
    assert_non_null(strstr(text, "\"anything\":[18446744073709551614,-9223372036854775809]"));
}

static void test_error_data(void **state)
{
    _cleanup_raw_ struct raw raw = raw_connect();
    json_t *answer, *data;

    f.state = 2;
    answer = raw_call(&raw, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Fail\"}\n");
    data = json_object_get(json_object_get(answer, "error"), "data");
    assert_string_equal(get_string(data, "qmpClass"), "DeviceNotFound");
    assert_string_equal(get_string(data, "remedy"), "name one that is there");
    assert_string_equal(get_string(data, "path"), "spec.domain");
    assert_string_equal(get_string(data, "state"), "Paused");
    json_decref(answer);
    answer = raw_call(&raw, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Echo\",\"params\":{\"text\":7}}\n");
    data = json_object_get(json_object_get(answer, "error"), "data");
    assert_string_equal(get_string(data, "path"), "params.text");
    json_decref(answer);
    answer = raw_call(&raw, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Pause\"}\n");
    data = json_object_get(json_object_get(answer, "error"), "data");
    assert_string_equal(get_string(data, "state"), "Paused");
    json_decref(answer);
}

static void test_notification(void **state)
{
    _cleanup_raw_ struct raw raw = raw_connect();

    raw_send(&raw, "{\"jsonrpc\":\"2.0\",\"method\":\"Echo\",\"params\":{\"text\":\"x\"}}\n"
                   "{\"jsonrpc\":\"2.0\",\"method\":\"Fail\"}\n"
                   "{\"jsonrpc\":\"2.0\",\"method\":\"NoSuch\"}\n"
                   "{\"jsonrpc\":\"2.0\",\"method\":\"Echo\",\"params\":{}}\n");
    /* none is answered: the next answer is Ping's */
    assert_lives(&raw);
    assert_int_equal(f.n_echo, 1);
}

static void test_describe(void **state)
{
    _cleanup_raw_ struct raw raw = raw_connect();
    json_t *answer = raw_call(&raw, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Describe\"}\n");
    json_t *result = json_object_get(answer, "result"), *method;
    size_t i, n_found = 0;

    assert_string_equal(get_string(result, "state"), "Shutoff");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(result, "limits"), "clients")), 32);
    json_array_foreach (json_object_get(result, "methods"), i, method) {
        json_t *params = json_object_get(method, "params"), *states = json_object_get(method, "states");

        if (streq(get_string(method, "name"), "Echo")) {
            n_found++;
            assert_int_equal(json_array_size(params), 5);
            assert_string_equal(get_string(json_array_get(params, 0), "type"), "string");
            assert_true(json_is_true(json_object_get(json_array_get(params, 0), "required")));
            assert_string_equal(get_string(json_array_get(params, 2), "type"), "boolean");
            assert_int_equal(json_array_size(states), 3);
        } else if (streq(get_string(method, "name"), "Pause")) {
            n_found++;
            assert_int_equal(json_array_size(states), 1);
            assert_string_equal(json_string_value(json_array_get(states, 0)), "Running");
        } else if (streq(get_string(method, "name"), "Describe")) {
            n_found++;
        }
    }
    assert_int_equal(n_found, 3);
    json_decref(answer);
}

static void test_late_answers(void **state)
{
    _cleanup_raw_ struct raw raw = raw_connect();
    json_t *answer;

    raw_send(
        &raw,
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Hold\"}\n{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"Hold\"}\n");
    assert_lives(&raw); /* others are not kept waiting */
    assert_int_equal(f.n_held, 2);
    assert_int_equal(rpc_call_peer(f.held[0])->pid, getpid());
    assert_int_equal(rpc_call_peer(f.held[0])->uid, geteuid());
    assert_string_equal(rpc_call_method(f.held[0]), "Hold");
    rpc_reply(f.held[1], json_pack("{s:i}", "n", 2));
    rpc_reply(f.held[0], json_pack("{s:i}", "n", 1));
    f.n_held = 0;
    answer = raw_next(&raw);
    assert_int_equal(json_integer_value(json_object_get(answer, "id")), 2);
    json_decref(answer);
    answer = raw_next(&raw);
    assert_int_equal(json_integer_value(json_object_get(answer, "id")), 1);
    json_decref(answer);
}

static void run_until_held(size_t n)
{
    uint64_t deadline = now_usec() + WAIT_USEC;

    while (f.n_held < n) {
        assert_true(now_usec() < deadline);
        turn();
    }
}

static void test_answer_outlives_connection(void **state)
{
    struct raw raw = raw_connect();
    _cleanup_raw_ struct raw other = raw_connect();
    _cleanup_error_ struct error *error = NULL;

    raw_send(
        &raw,
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Hold\"}\n{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"Hold\"}\n");
    run_until_held(2);
    raw_done(&raw);
    assert_lives(&other);
    rpc_reply(f.held[0], NULL);
    error_set(&error, ERROR_TIMED_OUT, ETIMEDOUT, "too late");
    rpc_fail(f.held[1], error);
    f.n_held = 0;
    assert_lives(&other);
}

static void test_half_close(void **state)
{
    _cleanup_raw_ struct raw raw = raw_connect();
    json_t *answer;

    /* as `printf … | socat`: the answers, one of them late, still come; then the server closes */
    raw_send(
        &raw,
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Hold\"}\n{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"Ping\"}\n{");
    shutdown(raw.fd, SHUT_WR);
    answer = raw_next(&raw);
    assert_int_equal(json_integer_value(json_object_get(answer, "id")), 2);
    json_decref(answer);
    assert_error(raw_next(&raw), -32700, "BadData", "no line feed");
    rpc_reply(f.held[0], NULL);
    f.n_held = 0;
    answer = raw_next(&raw);
    assert_int_equal(json_integer_value(json_object_get(answer, "id")), 1);
    json_decref(answer);
    assert_closed(&raw);
}

static void test_server_freed_while_pending(void **state)
{
    _cleanup_raw_ struct raw raw = raw_connect();

    raw_send(&raw, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Hold\"}\n{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":"
                   "\"Subscribe\"}\n");
    json_decref(raw_next(&raw));
    rpc_server_free(f.server);
    f.server = NULL;
    assert_int_equal(f.n_closed, 1);
    assert_error(raw_next(&raw), -32000, "ConnectionLost", "ends");
    assert_closed(&raw);
    rpc_reply(f.held[0], NULL); /* to no effect, and no crash */
    f.n_held = 0;
}

static void test_server_freed_by_handler(void **state)
{
    _cleanup_raw_ struct raw raw = raw_connect();

    raw_send(&raw, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"FreeServer\"}\n{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":"
                   "\"Ping\"}\n");
    assert_error(raw_next(&raw), -32000, "ConnectionLost", "ends");
    assert_closed(&raw);
}

static void test_33rd_client(void **state)
{
    struct raw clients[LIMIT_RPC_CLIENTS], late, again;

    for (size_t i = 0; i < ELEMENTSOF(clients); i++) {
        clients[i] = raw_connect();
        assert_lives(&clients[i]);
    }
    late = raw_connect();
    assert_error(raw_next(&late), -32000, "LimitExceeded", "32 clients are connected");
    assert_closed(&late);
    assert_int_equal(f.n_complaints, 1);
    for (size_t i = 0; i < ELEMENTSOF(clients); i++)
        assert_lives(&clients[i]);
    raw_done(&clients[0]);
    assert_lives(&clients[1]); /* a turn in which the server sees the end of the first */
    again = raw_connect();
    assert_lives(&again);
    raw_done(&again);
    raw_done(&late);
    for (size_t i = 1; i < ELEMENTSOF(clients); i++)
        raw_done(&clients[i]);
}

static void test_too_large(void **state)
{
    _cleanup_raw_ struct raw raw = raw_connect(), other = raw_connect();
    size_t n = 5 * 1024 * 1024;
    char *line = malloc(n);
    int head = snprintf(line, n, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Echo\",\"params\":{\"text\":\"");

    memset(line + head, 'x', n - (size_t)head);
    memcpy(line + n - 4, "\"}}\n", 4);
    raw_send_bytes(&raw, line, n);
    assert_error(raw_next(&raw), -32600, "LimitExceeded", "larger than 4194304 bytes");
    assert_int_equal(f.n_echo, 0);
    /* exactly the limit is taken, one byte more is not */
    memcpy(line + LIMIT_RPC_REQUEST_BYTES - 3, "\"}}\n", 4);
    raw_send_bytes(&raw, line, LIMIT_RPC_REQUEST_BYTES + 1);
    json_decref(raw_next(&raw));
    assert_int_equal(f.n_echo, 1);
    memset(line + LIMIT_RPC_REQUEST_BYTES - 3, 'x', 4);
    memcpy(line + LIMIT_RPC_REQUEST_BYTES - 2, "\"}}\n", 4);
    raw_send_bytes(&raw, line, LIMIT_RPC_REQUEST_BYTES + 2);
    assert_error(raw_next(&raw), -32600, "LimitExceeded", "larger than");
    assert_lives(&raw); /* the connection goes on behind the line's end */
    assert_lives(&other);
    free(line);
}

static void add_nested(struct strbuf *line, unsigned levels)
{
    /* the request and its params are two levels themselves */
    strbuf_printf(line,
                  "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Echo\",\"params\":{\"text\":\"[[[{\\\"[\",\"anything\":");
    for (unsigned i = 0; i < levels - 2; i++)
        strbuf_add(line, "[", 1);
    for (unsigned i = 0; i < levels - 2; i++)
        strbuf_add(line, "]", 1);
    strbuf_printf(line, "}}\n");
}

static void test_nesting(void **state)
{
    _cleanup_raw_ struct raw raw = raw_connect();
    _cleanup_(strbuf_done) struct strbuf line = {0};
    json_t *answer;

    add_nested(&line, 65);
    assert_error(raw_call(&raw, line.data), -32700, "LimitExceeded", "deeper than 64");
    assert_int_equal(f.n_complaints, 1);
    strbuf_clear(&line);
    add_nested(&line, 64);
    answer = raw_call(&raw, line.data);
    assert_non_null(json_object_get(answer, "result"));
    json_decref(answer);
    strbuf_clear(&line);
    add_nested(&line, 1000000);
    assert_error(raw_call(&raw, line.data), -32700, "LimitExceeded", "deeper than 64");
    assert_lives(&raw);
}

static void test_half_a_request(void **state)
{
    struct rpc_server_options options = server_options();
    struct raw slow, other;
    uint64_t begun;

    rpc_server_free(f.server);
    options.line_timeout_usec = 200 * USEC_PER_MSEC;
    assert_int_equal(rpc_server_new(f.event, &options, &f.server, NULL), 0);
    slow = raw_connect();
    other = raw_connect();
    assert_lives(&other);
    begun = now_usec();
    raw_send(&slow, "{\"jsonrpc\":\"2.0\",\"id\":1,");
    assert_error(raw_next(&slow), -32600, "TimedOut", "begun and not ended in time");
    assert_closed(&slow);
    assert_true(now_usec() - begun >= 190 * USEC_PER_MSEC);
    assert_int_equal(f.n_complaints, 1);
    assert_lives(&other); /* idle longer than that, which is allowed between requests */
    raw_done(&slow);
    raw_done(&other);
}

static void test_drip(void **state)
{
    struct rpc_server_options options = server_options();
    uint64_t deadline = now_usec() + WAIT_USEC;
    struct raw slow;
    ssize_t n = 1;

    /* a byte now and then does not put the deadline off */
    rpc_server_free(f.server);
    options.line_timeout_usec = 100 * USEC_PER_MSEC;
    assert_int_equal(rpc_server_new(f.event, &options, &f.server, NULL), 0);
    slow = raw_connect();
    while (f.n_complaints == 0 && n == 1) {
        assert_true(now_usec() < deadline);
        n = send(slow.fd, " ", 1, MSG_NOSIGNAL);
        turn();
    }
    assert_int_equal(f.n_complaints, 1);
    raw_done(&slow);
}

static void test_answer_too_large(void **state)
{
    _cleanup_raw_ struct raw raw = raw_connect();

    assert_error(raw_call(&raw, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Big\",\"params\":{\"bytes\":16777216}}\n"),
                 -32000, "LimitExceeded", "the answer to Big is larger than 16777216");
    assert_lives(&raw);
}

/* A client that asks and never reads: its requests are not read on, and nothing grows. */
static void test_reader_that_never_reads(void **state)
{
    static const char request[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Big\",\"params\":{\"bytes\":300000}}\n";
    _cleanup_raw_ struct raw bad = raw_connect(), other = raw_connect();
    unsigned n_sent = 0, n_answers = 0, idle = 0;
    json_t *answer;

    while (idle < 50) {
        ssize_t n = send(bad.fd, request, sizeof(request) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n == (ssize_t)sizeof(request) - 1) {
            n_sent++;
            idle = 0;
        } else {
            assert_true(n < 0 && errno == EAGAIN);
            idle++;
        }
        assert_true(sd_event_run(f.event, 0) >= 0);
        assert_true(n_sent < 100000);
    }
    assert_lives(&other);
    assert_int_equal(f.n_complaints, 1); /* once, however often it is so */
    assert_non_null(strstr(f.complaint, "does not read"));
    /* it changes its mind: every answer is there, none was dropped */
    while (n_answers < n_sent) {
        answer = raw_next(&bad);
        assert_non_null(answer);
        json_decref(answer);
        n_answers++;
    }
    assert_lives(&bad);
}

static void test_stream(void **state)
{
    _cleanup_raw_ struct raw raw = raw_connect();
    json_t *message;

    message = raw_call(&raw, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Subscribe\"}\n");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(message, "result"), "next")), 1);
    json_decref(message);
    assert_int_equal(rpc_stream_send(f.stream, "Event", json_pack("{s:i}", "seq", 1)), 0);
    message = raw_next(&raw);
    assert_string_equal(get_string(message, "method"), "Event");
    assert_null(json_object_get(message, "id"));
    assert_int_equal(json_integer_value(json_object_get(json_object_get(message, "params"), "seq")), 1);
    json_decref(message);
    /* a half-closed subscriber still gets its events */
    shutdown(raw.fd, SHUT_WR);
    turn();
    assert_int_equal(rpc_stream_send(f.stream, "Event", json_pack("{s:i}", "seq", 2)), 0);
    json_decref(raw_next(&raw));
    assert_int_equal(f.n_closed, 0);
    rpc_stream_free(f.stream);
    f.stream = NULL;
    assert_closed(&raw);
    assert_int_equal(f.n_closed, 0);
}

static void test_stream_reader_gone(void **state)
{
    uint64_t deadline = now_usec() + WAIT_USEC;
    struct raw raw = raw_connect();
    _cleanup_raw_ struct raw other = raw_connect();

    json_decref(raw_call(&raw, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Subscribe\"}\n"));
    raw_done(&raw);
    while (f.n_closed == 0) {
        assert_true(now_usec() < deadline);
        turn();
    }
    assert_lives(&other);
    assert_int_equal(f.n_closed, 1);
    assert_null(f.stream);
}

static void test_stream_slow_reader(void **state)
{
    _cleanup_raw_ struct raw bad = raw_connect(), other = raw_connect();
    size_t n = 1024 * 1024, sent = 0;
    char *text = malloc(n + 1);
    int r = 0;

    memset(text, 'e', n);
    text[n] = '\0';
    json_decref(raw_call(&bad, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Subscribe\"}\n"));
    while (r == 0 && sent < 100) {
        r = rpc_stream_send(f.stream, "Event", json_pack("{s:s}", "text", text));
        sent++;
    }
    free(text);
    assert_int_equal(r, -ENOBUFS);
    assert_true(sent >= LIMIT_RPC_OUTPUT_BYTES / n && sent <= LIMIT_RPC_OUTPUT_BYTES / n + 2);
    assert_int_equal(f.n_closed, 0); /* not from within our own call */
    assert_int_equal(rpc_stream_send(f.stream, "Event", json_object()), -ENOTCONN);
    assert_lives(&other);
    assert_int_equal(f.n_closed, 1);
    assert_int_equal(f.n_complaints, 1);
    assert_non_null(strstr(f.complaint, "does not read"));
}

static void test_pending_limit(void **state)
{
    _cleanup_raw_ struct raw raw = raw_connect(), other = raw_connect();
    _cleanup_(strbuf_done) struct strbuf text = {0};

    for (unsigned i = 0; i <= LIMIT_RPC_PENDING; i++)
        strbuf_printf(&text, "{\"jsonrpc\":\"2.0\",\"id\":%u,\"method\":\"Hold\"}\n", i);
    assert_error(raw_call(&raw, text.data), -32000, "LimitExceeded", "64 calls of this client still wait");
    assert_int_equal(f.n_held, LIMIT_RPC_PENDING);
    assert_lives(&other);
    rpc_reply(f.held[--f.n_held], NULL);
    json_decref(raw_next(&raw));
    assert_lives(&raw);
}

static void test_wrong_uid(void **state)
{
    struct rpc_server_options options = server_options();
    _cleanup_raw_ struct raw other = raw_connect();
    uint64_t deadline = now_usec() + WAIT_USEC;
    pid_t pid;
    int status = -1;

    if (geteuid() != 0)
        skip();
    assert_int_equal(chmod(f.dir, 0755), 0);
    assert_int_equal(chmod(f.path, 0666), 0); /* the mode is the first guard; this is the second one's test */
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) { /* only async-signal-safe things: the parent's state is not ours */
        char text[512] = "";
        size_t length = 0;
        ssize_t n;
        int fd = -EBADF;

        if (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0)
            _exit(10);
        if (unix_connect(f.path, &fd, NULL) < 0)
            _exit(11);
        fd_set_nonblocking(fd, false);
        n = send(fd, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Echo\",\"params\":{\"text\":\"x\"}}\n", 62,
                 MSG_NOSIGNAL);
        while ((n = read(fd, text + length, sizeof(text) - 1 - length)) > 0)
            length += (size_t)n;
        _exit(strstr(text, "NotAllowed") && strstr(text, "uid 65534 may not") && !strstr(text, "result") ? 0 : 12);
    }
    while (waitpid(pid, &status, WNOHANG) == 0) {
        assert_true(now_usec() < deadline);
        turn();
    }
    assert_int_equal(status, 0);
    assert_int_equal(f.n_complaints, 1);
    assert_int_equal(f.n_echo, 0);
    assert_lives(&other);
    (void)options;
}

static void test_paths(void **state)
{
    struct rpc_server_options options = server_options();
    _cleanup_(rpc_server_freep) struct rpc_server *second = NULL;
    _cleanup_error_ struct error *error = NULL;
    char moved[128];
    struct raw raw;
    int fd;

    /* a living server is not pushed aside; a dead one's file is */
    assert_int_equal(rpc_server_new(f.event, &options, &second, &error), -EADDRINUSE);
    assert_non_null(strstr(error_message(error), "another process already listens"));
    snprintf(moved, sizeof(moved), "%s/launcher-sock", f.dir);
    assert_int_equal(unix_listen(moved, 0600, 1, &fd, NULL), 0);
    assert_int_equal(rpc_server_rename(f.server, moved, &error), -EADDRINUSE);
    fd_close(fd); /* its file stays: stale */
    assert_int_equal(rpc_server_rename(f.server, moved, NULL), 0);
    assert_true(access(f.path, F_OK) < 0);
    snprintf(f.path, sizeof(f.path), "%s", moved);
    raw = raw_connect();
    assert_lives(&raw);
    raw_done(&raw);
    /* the file of somebody else at our place is left alone at the end */
    assert_int_equal(unlink(f.path), 0);
    assert_int_equal(unix_listen(f.path, 0600, 1, &fd, NULL), 0);
    rpc_server_free(f.server);
    f.server = NULL;
    assert_int_equal(access(f.path, F_OK), 0);
    fd_close(fd);
    unlink(f.path);
}

static void test_listen_fd(void **state)
{
    struct rpc_server_options options = server_options();
    struct raw raw;

    rpc_server_free(f.server);
    f.server = NULL;
    assert_int_equal(unix_listen(f.path, 0600, 1, &options.listen_fd, NULL), 0);
    options.path = NULL;
    assert_int_equal(rpc_server_new(f.event, &options, &f.server, NULL), 0);
    raw = raw_connect();
    assert_lives(&raw);
    raw_done(&raw);
    unlink(f.path);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_call),
        T(test_split_writes),
        T(test_bad_requests),
        T(test_exact_numbers),
        T(test_error_data),
        T(test_notification),
        T(test_describe),
        T(test_late_answers),
        T(test_answer_outlives_connection),
        T(test_half_close),
        T(test_server_freed_while_pending),
        T(test_server_freed_by_handler),
        T(test_33rd_client),
        T(test_too_large),
        T(test_nesting),
        T(test_half_a_request),
        T(test_drip),
        T(test_answer_too_large),
        T(test_reader_that_never_reads),
        T(test_stream),
        T(test_stream_reader_gone),
        T(test_stream_slow_reader),
        T(test_pending_limit),
        T(test_wrong_uid),
        T(test_paths),
        T(test_listen_fd),
    };
    return cmocka_run_group_tests_name("rpc-server", tests, NULL, NULL);
}
