/* SPDX-License-Identifier: Apache-2.0 */
/* The client of the command server: blocking against a server in a process of its own, asynchronous on one loop. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/event.h"
#include "base/fd.h"
#include "base/limits.h"
#include "rpc/client.h"
#include "rpc/server.h"

#define LONG_USEC (60 * USEC_PER_SEC)

static struct fixture {
    char dir[64], path[96];
    pid_t pid;
} f;

/* ---- a server in a child --------------------------------------------------------------------------------------- */

static void handle_echo(struct rpc_call *call, json_t *params, void *userdata)
{
    rpc_reply(call, json_incref(params));
}

static void handle_hold(struct rpc_call *call, json_t *params, void *userdata)
{
    *(struct rpc_call **)userdata = call;
}

static void handle_fail(struct rpc_call *call, json_t *params, void *userdata)
{
    _cleanup_error_ struct error *error = NULL;

    error_set(&error, ERROR_QMP, EIO, "no device");
    error_set_qmp_class(error, "DeviceNotFound");
    error_set_remedy(error, "look again");
    rpc_fail(call, error);
}

static void handle_burst(struct rpc_call *call, json_t *params, void *userdata)
{
    json_int_t n = json_integer_value(json_object_get(params, "n"));
    struct rpc_stream *stream;

    assert_int_equal(rpc_stream_new(call, NULL, NULL, &stream), 0);
    for (json_int_t i = 0; i < n; i++)
        rpc_stream_send(stream, "Event", json_pack("{s:I}", "seq", i));
    rpc_reply(call, NULL);
    rpc_stream_free(stream);
}

static void handle_quit(struct rpc_call *call, json_t *params, void *userdata)
{
    raise(SIGKILL); /* as in a crash: what is under way stays as it is */
}

static const struct rpc_param echo_params[] = {{.name = "x", .type = RPC_TYPE_ANY}, {0}};
static const struct rpc_param burst_params[] = {{.name = "n", .type = JSON_INTEGER, .required = true}, {0}};
static const struct rpc_method methods[] = {
    {.name = "Echo", .params = echo_params, .handler = handle_echo},
    {.name = "Hold", .handler = handle_hold},
    {.name = "Fail", .handler = handle_fail},
    {.name = "Burst", .params = burst_params, .handler = handle_burst},
    {.name = "Quit", .handler = handle_quit},
    {0},
};

static struct rpc_call *held;

static struct rpc_server *serve(sd_event *event)
{
    struct rpc_server_options options = {
        .path = f.path, .listen_fd = -EBADF, .methods = methods, .userdata = &held, .allowed_uid = geteuid()};
    struct rpc_server *server;

    assert_int_equal(rpc_server_new(event, &options, &server, NULL), 0);
    return server;
}

/* Forks; the child runs `run` with a fd that is closed (end of file for the parent) once it listens. */
static void start_child(void (*run)(int ready))
{
    int ready[2];
    char c;

    assert_int_equal(pipe2(ready, 0), 0);
    f.pid = fork();
    assert_true(f.pid >= 0);
    if (f.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(ready[0]);
        run(ready[1]);
        _exit(0);
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &c, 1), 0);
    close(ready[0]);
}

static void run_server(int ready)
{
    sd_event *event;

    if (event_new(&event) < 0)
        _exit(1);
    serve(event);
    close(ready);
    sd_event_loop(event);
}

static int setup(void **state)
{
    memset(&f, 0, sizeof(f));
    snprintf(f.dir, sizeof(f.dir), "/tmp/test-rpc-XXXXXX");
    assert_non_null(mkdtemp(f.dir));
    snprintf(f.path, sizeof(f.path), "%s/sock", f.dir);
    return 0;
}

static int teardown(void **state)
{
    if (f.pid > 0) {
        kill(f.pid, SIGKILL);
        waitpid(f.pid, NULL, 0);
    }
    unlink(f.path);
    assert_int_equal(rmdir(f.dir), 0);
    return 0;
}

static struct rpc_client *connect_client(void)
{
    struct rpc_client *client;

    assert_int_equal(rpc_client_connect(f.path, &client, NULL), 0);
    return client;
}

#define _cleanup_client_ _cleanup_(rpc_client_freep)

/* ---- blocking -------------------------------------------------------------------------------------------------- */

static void test_nobody_listens(void **state)
{
    struct rpc_client *client = NULL;
    _cleanup_error_ struct error *error = NULL;

    assert_int_equal(rpc_client_connect(f.path, &client, &error), -ENOENT);
    assert_int_equal(error_get_code(error), ERROR_CONNECTION);
    assert_non_null(strstr(error_message(error), f.path));
}

static void test_call(void **state)
{
    _cleanup_client_ struct rpc_client *client = NULL;
    _cleanup_error_ struct error *error = NULL;
    json_t *result = NULL;

    start_child(run_server);
    client = connect_client();
    for (int i = 0; i < 100; i++) {
        assert_int_equal(rpc_client_call(client, "Echo", json_pack("{s:i}", "x", i), LONG_USEC, &result, NULL), 0);
        assert_int_equal(json_integer_value(json_object_get(result, "x")), i);
        json_decref(result);
    }
    assert_int_equal(rpc_client_call(client, "Ping", NULL, UINT64_MAX, NULL, NULL), 0);
    assert_true(rpc_client_call(client, "Fail", NULL, LONG_USEC, &result, &error) < 0);
    assert_int_equal(error_get_code(error), ERROR_QMP);
    assert_string_equal(error_message(error), "no device");
    assert_string_equal(error_qmp_class(error), "DeviceNotFound");
    assert_string_equal(error_remedy(error), "look again");
    assert_int_equal(rpc_client_call(client, "Ecoh", NULL, LONG_USEC, &result, &error), -ENOTSUP);
    assert_int_equal(error_get_code(error), ERROR_NOT_SUPPORTED);
    assert_int_equal(rpc_client_call(client, "Echo", json_pack("{s:i}", "y", 1), LONG_USEC, &result, &error), -EINVAL);
    assert_int_equal(error_get_code(error), ERROR_BAD_ARGUMENT);
}

static void test_large(void **state)
{
    size_t n = LIMIT_RPC_REQUEST_BYTES - 200;
    char *text = malloc(n + 400);
    _cleanup_client_ struct rpc_client *client = NULL;
    _cleanup_error_ struct error *error = NULL;
    json_t *result = NULL;

    memset(text, 'x', n + 399);
    start_child(run_server);
    client = connect_client();
    assert_int_equal(
        rpc_client_call(client, "Echo", json_pack("{s:o}", "x", json_stringn(text, n)), LONG_USEC, &result, NULL), 0);
    assert_int_equal(json_string_length(json_object_get(result, "x")), n);
    json_decref(result);
    assert_int_equal(rpc_client_call(client, "Echo", json_pack("{s:o}", "x", json_stringn(text, n + 399)), LONG_USEC,
                                     &result, &error),
                     -EMSGSIZE);
    assert_int_equal(error_get_code(error), ERROR_LIMIT);
    assert_int_equal(rpc_client_call(client, "Ping", NULL, LONG_USEC, NULL, NULL), 0);
    free(text);
}

static void test_timeout(void **state)
{
    _cleanup_client_ struct rpc_client *client = NULL;
    _cleanup_error_ struct error *error = NULL;
    uint64_t begun = now_usec();

    start_child(run_server);
    client = connect_client();
    assert_int_equal(rpc_client_call(client, "Hold", NULL, 50 * USEC_PER_MSEC, NULL, &error), -ETIMEDOUT);
    assert_int_equal(error_get_code(error), ERROR_TIMED_OUT);
    assert_non_null(strstr(error_message(error), "Hold within 0.050 s"));
    assert_true(now_usec() - begun >= 50 * USEC_PER_MSEC);
    assert_int_equal(rpc_client_call(client, "Ping", NULL, LONG_USEC, NULL, NULL), 0);
}

static void test_notifications(void **state)
{
    _cleanup_client_ struct rpc_client *client = NULL;
    _cleanup_error_ struct error *error = NULL;
    json_t *params;
    char *method;

    start_child(run_server);
    client = connect_client();
    /* those that come before the answer are kept, in their order */
    assert_int_equal(rpc_client_call(client, "Burst", json_pack("{s:i}", "n", 50), LONG_USEC, NULL, NULL), 0);
    for (int i = 0; i < 50; i++) {
        assert_int_equal(rpc_client_next(client, LONG_USEC, &method, &params, NULL), 0);
        assert_string_equal(method, "Event");
        assert_int_equal(json_integer_value(json_object_get(params, "seq")), i);
        free(method);
        json_decref(params);
    }
    assert_int_equal(rpc_client_next(client, 1000, &method, &params, &error), -ETIMEDOUT);
    assert_int_equal(rpc_client_call(client, "Burst", json_pack("{s:i}", "n", 2000), LONG_USEC, NULL, &error),
                     -ENOBUFS);
    assert_int_equal(error_get_code(error), ERROR_LIMIT);
}

static void test_server_ends(void **state)
{
    _cleanup_client_ struct rpc_client *client = NULL;
    _cleanup_error_ struct error *error = NULL;
    json_t *params;
    char *method;

    start_child(run_server);
    client = connect_client();
    assert_int_equal(rpc_client_call(client, "Quit", NULL, LONG_USEC, NULL, &error), -EIO);
    assert_int_equal(error_get_code(error), ERROR_CONNECTION);
    assert_true(rpc_client_call(client, "Ping", NULL, LONG_USEC, NULL, &error) < 0);
    assert_int_equal(error_get_code(error), ERROR_CONNECTION);
    assert_true(rpc_client_next(client, LONG_USEC, &method, &params, &error) < 0);
}

static const char *script; /* what a server says that does not keep to the protocol */

static void run_script(int ready)
{
    int listen_fd, fd;
    char data[4096];

    if (unix_listen(f.path, 0600, 1, &listen_fd, NULL) < 0)
        _exit(1);
    fd_set_nonblocking(listen_fd, false);
    close(ready);
    fd = accept(listen_fd, NULL, NULL);
    if (read(fd, data, sizeof(data)) > 0)
        fd_write_all(fd, script, strlen(script));
    close(fd);
}

static void test_bad_servers(void **state)
{
    static const struct {
        const char *script;
        enum error_code code;
    } cases[] = {
        {"hello\n", ERROR_BAD_DATA},
        {"[]\n", ERROR_BAD_DATA},
        {"{\"jsonrpc\":\"2.0\",\"id\":1}\n", ERROR_BAD_DATA},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":7}\n", ERROR_BAD_DATA},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{}}\n", ERROR_BAD_DATA},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":1,\"message\":\"x\",\"data\":{\"code\":\"New\"}}}\n",
         ERROR_BAD_DATA},
        {"{\"jsonrpc\":\"2.0\",\"id\":99,\"result\":{}}\n", ERROR_CONNECTION},
        {"{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32000,\"message\":\"full\","
         "\"data\":{\"code\":\"LimitExceeded\"}}}\n",
         ERROR_LIMIT},
        {"{\"jsonrpc\":", ERROR_CONNECTION},
        {"", ERROR_CONNECTION},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        _cleanup_client_ struct rpc_client *client = NULL;
        _cleanup_error_ struct error *error = NULL;

        script = cases[i].script;
        start_child(run_script);
        client = connect_client();
        assert_true(rpc_client_call(client, "Ping", NULL, LONG_USEC, NULL, &error) < 0);
        assert_int_equal(error_get_code(error), cases[i].code);
        waitpid(f.pid, NULL, 0);
        f.pid = 0;
        unlink(f.path);
    }
}

/* ---- asynchronous ---------------------------------------------------------------------------------------------- */

static struct {
    unsigned n_answers, n_errors, n_notes, n_closed;
    enum error_code code;
    json_int_t last;
    bool free_in_answer;
} seen;

static void on_answer(struct rpc_client *client, json_t *result, const struct error *error, void *userdata)
{
    if (error) {
        assert_null(result);
        seen.n_errors++;
        seen.code = error_get_code(error);
    } else {
        seen.n_answers++;
        seen.last = json_integer_value(json_object_get(result, "x"));
    }
    if (seen.free_in_answer)
        rpc_client_free(client);
}

static void on_note(struct rpc_client *client, const char *method, json_t *params, void *userdata)
{
    assert_string_equal(method, "Event");
    seen.n_notes++;
}

static void on_closed(struct rpc_client *client, const struct error *error, void *userdata)
{
    assert_non_null(error);
    seen.n_closed++;
}

static void run_until(sd_event *event, const unsigned *counter, unsigned wanted)
{
    uint64_t deadline = now_usec() + LONG_USEC;

    while (*counter < wanted) {
        assert_true(now_usec() < deadline);
        assert_true(sd_event_run(event, 10000) >= 0);
    }
}

static void test_async(void **state)
{
    _cleanup_event_ sd_event *event = NULL;
    struct rpc_server *server;
    struct rpc_client *client;

    memset(&seen, 0, sizeof(seen));
    assert_true(event_new(&event) >= 0);
    server = serve(event);
    client = connect_client();
    assert_int_equal(rpc_client_call_async(client, "Ping", NULL, LONG_USEC, on_answer, NULL), -EINVAL);
    assert_int_equal(rpc_client_attach(client, event, on_note, on_closed, NULL), 0);
    assert_int_equal(rpc_client_attach(client, event, on_note, on_closed, NULL), -EBUSY);
    for (int i = 1; i <= 10; i++)
        assert_int_equal(rpc_client_call_async(client, "Echo", json_pack("{s:i}", "x", i), LONG_USEC, on_answer, NULL),
                         0);
    run_until(event, &seen.n_answers, 10);
    assert_int_equal(seen.last, 10);
    assert_int_equal(rpc_client_call_async(client, "Burst", json_pack("{s:i}", "n", 7), LONG_USEC, on_answer, NULL), 0);
    run_until(event, &seen.n_answers, 11);
    assert_int_equal(seen.n_notes, 7);
    assert_int_equal(rpc_client_call_async(client, "Hold", NULL, 20 * USEC_PER_MSEC, on_answer, NULL), 0);
    run_until(event, &seen.n_errors, 1);
    assert_int_equal(seen.code, ERROR_TIMED_OUT);
    for (int i = 0; i < 1000 && !held; i++) /* that deadline may be over before the server has read the request */
        assert_true(sd_event_run(event, 10000) >= 0);
    assert_non_null(held);
    rpc_reply(held, NULL); /* late: nobody hears of it */
    held = NULL;
    /* the server ends: pending calls fail first, then `closed` is called */
    assert_int_equal(rpc_client_call_async(client, "Hold", NULL, UINT64_MAX, on_answer, NULL), 0);
    for (int i = 0; i < 1000 && !held; i++)
        assert_true(sd_event_run(event, 10000) >= 0);
    assert_non_null(held);
    rpc_server_free(server);
    run_until(event, &seen.n_closed, 1);
    assert_int_equal(seen.n_errors, 2);
    assert_int_equal(seen.code, ERROR_CONNECTION);
    assert_int_equal(rpc_client_call_async(client, "Ping", NULL, LONG_USEC, on_answer, NULL), -ENOTCONN);
    rpc_reply(held, NULL);
    held = NULL;
    rpc_client_free(client);
    assert_int_equal(seen.n_closed, 1);
}

static void test_free_in_callback(void **state)
{
    _cleanup_event_ sd_event *event = NULL;
    struct rpc_server *server;
    struct rpc_client *client;

    memset(&seen, 0, sizeof(seen));
    seen.free_in_answer = true;
    assert_true(event_new(&event) >= 0);
    server = serve(event);
    client = connect_client();
    assert_int_equal(rpc_client_attach(client, event, on_note, on_closed, NULL), 0);
    assert_int_equal(rpc_client_call_async(client, "Echo", NULL, LONG_USEC, on_answer, NULL), 0);
    run_until(event, &seen.n_answers, 1);
    assert_int_equal(seen.n_closed, 0);
    rpc_server_free(server);
}

static void test_free_while_pending(void **state)
{
    _cleanup_event_ sd_event *event = NULL;
    struct rpc_server *server;
    struct rpc_client *client;

    memset(&seen, 0, sizeof(seen));
    assert_true(event_new(&event) >= 0);
    server = serve(event);
    client = connect_client();
    assert_int_equal(rpc_client_attach(client, event, on_note, on_closed, NULL), 0);
    assert_int_equal(rpc_client_call_async(client, "Echo", NULL, LONG_USEC, on_answer, NULL), 0);
    assert_int_equal(rpc_client_call_async(client, "Echo", NULL, LONG_USEC, NULL, NULL), 0);
    rpc_client_free(client);
    assert_int_equal(seen.n_errors, 1);
    assert_int_equal(seen.code, ERROR_CANCELLED);
    assert_int_equal(seen.n_closed, 0);
    rpc_server_free(server);
}

/* What a blocking call left unread is handed out after rpc_client_attach(). */
static void test_attach_later(void **state)
{
    _cleanup_event_ sd_event *event = NULL;
    _cleanup_client_ struct rpc_client *client = NULL;

    memset(&seen, 0, sizeof(seen));
    start_child(run_server);
    client = connect_client();
    assert_int_equal(rpc_client_call(client, "Burst", json_pack("{s:i}", "n", 5), LONG_USEC, NULL, NULL), 0);
    assert_true(event_new(&event) >= 0);
    assert_int_equal(rpc_client_attach(client, event, on_note, on_closed, NULL), 0);
    run_until(event, &seen.n_notes, 5);
    rpc_client_free(TAKE_PTR(client));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_nobody_listens),
        T(test_call),
        T(test_large),
        T(test_timeout),
        T(test_notifications),
        T(test_server_ends),
        T(test_bad_servers),
        T(test_async),
        T(test_free_in_callback),
        T(test_free_while_pending),
        T(test_attach_later),
    };
    return cmocka_run_group_tests_name("rpc-client", tests, NULL, NULL);
}
