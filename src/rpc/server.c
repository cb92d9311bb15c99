/* SPDX-License-Identifier: Apache-2.0 */
#include "rpc/server.h"

#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/list.h"
#include "base/log.h"
#include "base/nearest.h"
#include "rpc/wire.h"

#define ACCEPT_PAUSE_USEC (100 * USEC_PER_MSEC) /* after accept() failed for want of fds or memory */

/*
 * Lifetimes. A connection is held by its server and, while it is being served, by the function that serves it: a
 * handler may free the server, and a write may fail, below us. Calls and streams know their connection by a pointer
 * that is cleared when the connection ends. A server that is freed while one of its functions runs goes at the end of
 * that function.
 */
struct rpc_server {
    unsigned n_refs;
    sd_event *event;
    struct rpc_server_options options;
    char *path;
    dev_t device; /* of the socket's file: only our own is removed at the end */
    ino_t inode;
    int listen_fd;
    sd_event_source *listen_source, *accept_timer;
    LIST_HEAD(struct rpc_connection) connections;
    unsigned n_connections;
};

struct rpc_connection {
    unsigned n_refs;
    struct rpc_server *server; /* NULL when closed */
    LIST_ENTRY(struct rpc_connection) link;
    struct rpc_peer peer;
    int fd;
    sd_event_source *io_source, *line_timer, *close_source;
    struct rpc_input input;
    struct rpc_output output;
    LIST_HEAD(struct rpc_call) calls;
    LIST_HEAD(struct rpc_stream) streams;
    unsigned n_calls;
    bool is_serving;  /* in connection_serve(): no second time */
    bool has_ended;   /* the client sends no more: answer what is pending, then close */
    bool is_paused;   /* whole requests may lie in the input: they wait until the client has read its answers */
    bool is_dropping; /* one error goes out, then close */
    bool is_broken;   /* the socket failed or the client is too slow: closed at the loop's next turn */
};

struct rpc_call {
    struct rpc_connection *connection; /* NULL when it has ended */
    LIST_ENTRY(struct rpc_call) link;
    const struct rpc_method *method;
    struct rpc_peer peer;
    json_t *id; /* NULL: a notification, nobody waits for an answer */
};

struct rpc_stream {
    struct rpc_connection *connection;
    LIST_ENTRY(struct rpc_stream) link;
    void (*closed)(struct rpc_stream *stream, void *userdata);
    void *userdata;
};

static void handle_ping(struct rpc_call *call, json_t *params, void *userdata);
static void handle_describe(struct rpc_call *call, json_t *params, void *userdata);

static const struct rpc_method builtin_methods[] = {
    {.name = "Ping", .what = "answers, and does nothing else", .handler = handle_ping},
    {.name = "Describe",
     .what = "the methods, their parameters, and the states they are allowed in",
     .handler = handle_describe},
    {0},
};

/* ---- small helpers --------------------------------------------------------------------------------------------- */

static void server_unref(struct rpc_server *server)
{
    if (--server->n_refs > 0)
        return;
    sd_event_unref(server->event);
    free(server->path);
    free(server);
}

static void connection_unref(struct rpc_connection *connection)
{
    if (--connection->n_refs > 0)
        return;
    rpc_input_done(&connection->input);
    rpc_output_done(&connection->output);
    free(connection);
}

static void complain(struct rpc_server *server, const struct rpc_peer *peer, const struct error *error)
{
    log_debug("command server: client with pid %d, uid %u: %s", (int)peer->pid, (unsigned)peer->uid,
              error_message(error));
    if (server->options.complain)
        server->options.complain(peer, error, server->options.userdata);
}

static unsigned server_state(const struct rpc_server *server)
{
    return server->options.get_state ? server->options.get_state(server->options.userdata) : 0;
}

static const char *server_state_name(const struct rpc_server *server, unsigned state)
{
    const char *const *names = server->options.state_names;

    for (unsigned i = 0; names && names[i]; i++)
        if (i == state)
            return names[i];
    return NULL;
}

/* ---- connection ------------------------------------------------------------------------------------------------ */

static void connection_update(struct rpc_connection *connection);

/* Ends the connection now: calls lose their way back, streams hear of it. */
static void connection_close(struct rpc_connection *connection)
{
    struct rpc_server *server = TAKE_PTR(connection->server);
    struct rpc_call *call;
    struct rpc_stream *stream;

    if (!server)
        return;
    LIST_REMOVE(server->connections, connection, link);
    server->n_connections--;
    connection->io_source = sd_event_source_disable_unref(connection->io_source);
    connection->line_timer = sd_event_source_disable_unref(connection->line_timer);
    connection->close_source = sd_event_source_disable_unref(connection->close_source);
    connection->fd = fd_close(connection->fd);
    while ((call = connection->calls.first)) {
        LIST_REMOVE(connection->calls, call, link);
        call->connection = NULL;
    }
    while ((stream = connection->streams.first)) {
        LIST_REMOVE(connection->streams, stream, link);
        stream->connection = NULL;
        if (stream->closed)
            stream->closed(stream, stream->userdata);
    }
    connection_unref(connection);
}

static int on_close(sd_event_source *source, void *userdata)
{
    connection_close(userdata);
    return 0;
}

/* Ends the connection at the loop's next turn: for places that are called from outside, whose caller does not expect
 * callbacks before they return. */
static void connection_break(struct rpc_connection *connection, const struct error *error)
{
    if (connection->is_broken)
        return;
    connection->is_broken = true;
    if (error)
        complain(connection->server, &connection->peer, error);
    sd_event_source_set_enabled(connection->io_source, SD_EVENT_OFF);
    event_disarm_timer(connection->line_timer);
    sd_event_source_set_enabled(connection->close_source, SD_EVENT_ONESHOT);
}

static void connection_flush(struct rpc_connection *connection)
{
    if (connection->is_broken || rpc_output_pending(&connection->output) == 0)
        return;
    if (rpc_output_flush(&connection->output, connection->fd) < 0)
        connection_break(connection, NULL); /* it has gone: nothing to complain about */
}

/* Queues one message and sends what goes. -ENOBUFS, and the connection ends, when the client does not read. */
static int connection_send(struct rpc_connection *connection, const json_t *message)
{
    _cleanup_error_ struct error *error = NULL;
    int r;

    if (connection->is_broken)
        return -ENOTCONN;
    r = rpc_output_add(&connection->output, message, LIMIT_RPC_REPLY_BYTES);
    if (r == -EMSGSIZE)
        return r;
    if (r == 0) {
        connection_flush(connection);
        if (connection->is_broken)
            return -ENOTCONN;
        if (rpc_output_pending(&connection->output) <= LIMIT_RPC_OUTPUT_BYTES) {
            connection_update(connection);
            return 0;
        }
        r = error_set(&error, ERROR_LIMIT, ENOBUFS, "closed, because it does not read: %zu bytes are queued (limit %u)",
                      rpc_output_pending(&connection->output), LIMIT_RPC_OUTPUT_BYTES);
    } else {
        error_oom(&error);
    }
    connection_break(connection, error);
    return r;
}

static json_t *message_new(json_t *id)
{
    json_t *message = json_pack("{s:s}", "jsonrpc", "2.0");

    if (message && id)
        json_object_set(message, "id", id);
    return message;
}

static int send_result(struct rpc_connection *connection, json_t *id, json_t *result)
{
    json_t *message = message_new(id);
    int r;

    json_object_set(message, "result", result);
    r = connection_send(connection, message);
    json_decref(message);
    return r;
}

/* id NULL: null, as JSON-RPC has it when the id could not be read. data consumed. */
static int send_error(struct rpc_connection *connection, json_t *id, int number, const struct error *error,
                      json_t *data)
{
    json_t *message = message_new(id ? id : json_null());
    int r;

    json_object_set_new(message, "error", rpc_error_to_json(number, error, data));
    r = connection_send(connection, message);
    json_decref(message);
    return r;
}

/* ---- calls ----------------------------------------------------------------------------------------------------- */

/* Takes the call off its connection and frees it; what waited for it goes on at the loop's next turn. */
static void call_free(struct rpc_call *call)
{
    struct rpc_connection *connection = call->connection;

    if (connection) {
        LIST_REMOVE(connection->calls, call, link);
        connection->n_calls--;
        if (!connection->is_broken)
            connection_update(connection);
    }
    json_decref(call->id);
    free(call);
}

void rpc_reply(struct rpc_call *call, json_t *result)
{
    _cleanup_error_ struct error *error = NULL;

    if (!result)
        result = json_object();
    if (call->connection && call->id && send_result(call->connection, call->id, result) == -EMSGSIZE) {
        error_set(&error, ERROR_LIMIT, EMSGSIZE, "the answer to %s is larger than %u bytes", call->method->name,
                  LIMIT_RPC_REPLY_BYTES);
        send_error(call->connection, call->id, RPC_SERVER_ERROR, error, NULL);
    }
    json_decref(result);
    call_free(call);
}

/* A bad argument is the caller's fault: JSON-RPC has a number of its own for it. */
static int error_number(const struct error *error)
{
    return error_get_code(error) == ERROR_BAD_ARGUMENT ? RPC_INVALID_PARAMS : RPC_SERVER_ERROR;
}

void rpc_fail_with(struct rpc_call *call, const struct error *error, json_t *data)
{
    if (call->connection && call->id) {
        const struct rpc_server *server = call->connection->server;
        const char *state = server_state_name(server, server_state(server));

        if (!data)
            data = json_object();
        if (state)
            json_object_set_new(data, "state", json_string(state));
        if (send_error(call->connection, call->id, error_number(error), error, data) == -EMSGSIZE)
            send_error(call->connection, call->id, error_number(error), error, NULL);
    } else {
        log_debug("%s without a reader for its answer: %s", call->method->name, error_message(error));
        json_decref(data);
    }
    call_free(call);
}

void rpc_fail(struct rpc_call *call, const struct error *error)
{
    rpc_fail_with(call, error, NULL);
}

const struct rpc_peer *rpc_call_peer(const struct rpc_call *call)
{
    return &call->peer;
}

const char *rpc_call_method(const struct rpc_call *call)
{
    return call->method->name;
}

/* ---- one request ----------------------------------------------------------------------------------------------- */

static const struct rpc_method *find_in(const struct rpc_method *methods, const char *name)
{
    for (const struct rpc_method *m = methods; m && m->name; m++)
        if (streq(m->name, name))
            return m;
    return NULL;
}

static const struct rpc_method *find_method(const struct rpc_server *server, const char *name)
{
    const struct rpc_method *method = find_in(server->options.methods, name);

    return method ? method : find_in(builtin_methods, name);
}

static const char *method_name_at(size_t i, const void *userdata)
{
    const struct rpc_method *methods = userdata;

    return methods[i].name;
}

static const char *nearest_method(const struct rpc_server *server, const char *name)
{
    const struct rpc_method *tables[] = {server->options.methods, builtin_methods};

    for (size_t t = 0; t < ELEMENTSOF(tables); t++) {
        size_t n = 0;
        int i;

        while (tables[t] && tables[t][n].name)
            n++;
        i = nearest_index(name, n, method_name_at, tables[t]);
        if (i >= 0)
            return tables[t][i].name;
    }
    return NULL;
}

/* One request or notification, as far as it has been read. */
struct request {
    json_t *message; /* owned */
    json_t *id;      /* borrowed from message; NULL: a notification */
    const char *method;
    json_t *params; /* borrowed, or NULL */
};

static bool is_id(const json_t *id)
{
    return json_is_null(id) || json_is_number(id) ||
           (json_is_string(id) && json_string_length(id) <= LIMIT_RPC_ID_BYTES);
}

static int check_envelope(struct request *request, struct error **ret_error)
{
    static const char *const members[] = {"jsonrpc", "method", "params", "id", NULL};
    const char *version, *key;
    json_t *id, *value;

    if (json_is_array(request->message))
        return error_set(ret_error, ERROR_BAD_DATA, EINVAL,
                         "batches are not supported: send each request as an object on a line of its own");
    if (!json_is_object(request->message))
        return error_set(ret_error, ERROR_BAD_DATA, EINVAL, "a request must be a JSON object");
    id = json_object_get(request->message, "id");
    if (id && !is_id(id))
        return error_set(ret_error, ERROR_BAD_DATA, EINVAL, "id must be a number, null or a string of at most %u bytes",
                         LIMIT_RPC_ID_BYTES);
    request->id = id;
    version = json_string_value(json_object_get(request->message, "jsonrpc"));
    if (!version || !streq(version, "2.0"))
        return error_set(ret_error, ERROR_BAD_DATA, EINVAL, "jsonrpc must be \"2.0\"");
    request->method = json_string_value(json_object_get(request->message, "method"));
    if (!request->method)
        return error_set(ret_error, ERROR_BAD_DATA, EINVAL, "method must be a string");
    request->params = json_object_get(request->message, "params");
    json_object_foreach (request->message, key, value) {
        const char *nearest;
        size_t i = 0;

        while (members[i] && !streq(members[i], key))
            i++;
        if (members[i])
            continue;
        nearest = nearest_name(key, members);
        return error_set(ret_error, ERROR_BAD_DATA, EINVAL, "a request has no member \"%.64s\"%s%s%s", key,
                         nearest ? " (did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?)" : "");
    }
    return 0;
}

static const char *type_name(json_type type)
{
    switch ((int)type) {
    case JSON_OBJECT:
        return "object";
    case JSON_ARRAY:
        return "array";
    case JSON_STRING:
        return "string";
    case JSON_INTEGER:
        return "integer";
    case JSON_REAL:
        return "number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "boolean";
    case JSON_NULL:
        return "null";
    default:
        return "any";
    }
}

static bool has_type(const json_t *value, json_type type)
{
    switch ((int)type) {
    case JSON_TRUE:
    case JSON_FALSE:
        return json_is_boolean(value);
    case JSON_REAL:
        return json_is_number(value);
    case (int)RPC_TYPE_ANY:
        return true;
    default:
        return json_typeof(value) == type;
    }
}

static const char *param_name_at(size_t i, const void *userdata)
{
    const struct rpc_param *params = userdata;

    return params[i].name;
}

static int check_unknown_params(const struct rpc_method *method, json_t *params, json_t *data, struct error **ret_error)
{
    const char *key;
    json_t *value;

    json_object_foreach (params, key, value) {
        const struct rpc_param *known = method->params;
        size_t n = 0;
        int nearest, r;

        while (known && known[n].name && !streq(known[n].name, key))
            n++;
        if (known && known[n].name)
            continue;
        nearest = nearest_index(key, n, param_name_at, known);
        r = error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "%s has no parameter \"%.64s\"%s%s%s", method->name, key,
                      nearest < 0 ? (n == 0 ? " (it takes none)" : "") : " (did you mean \"",
                      nearest < 0 ? "" : known[nearest].name, nearest < 0 ? "" : "\"?)");
        json_object_set_new(data, "path", json_sprintf("params.%.64s", key));
        return r;
    }
    return 0;
}

/* `data` gets the path of what is wrong. */
static int check_params(const struct rpc_method *method, json_t *params, json_t *data, struct error **ret_error)
{
    if (!json_is_object(params)) {
        json_object_set_new(data, "path", json_string("params"));
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL,
                         "the params of %s must be an object (parameters are given by name)", method->name);
    }
    for (const struct rpc_param *p = method->params; p && p->name; p++) {
        const json_t *value = json_object_get(params, p->name);
        int r = 0;

        if (!value && p->required)
            r = error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "%s needs the parameter \"%s\" (%s: %s)", method->name,
                          p->name, type_name(p->type), p->what ? p->what : "see Describe");
        else if (value && !has_type(value, p->type))
            r = error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL,
                          "the parameter \"%s\" of %s must be of type %s, not %s", p->name, method->name,
                          type_name(p->type), type_name(json_typeof(value)));
        if (r < 0) {
            json_object_set_new(data, "path", json_sprintf("params.%s", p->name));
            return r;
        }
    }
    return check_unknown_params(method, params, data, ret_error);
}

static int check_state(const struct rpc_server *server, const struct rpc_method *method, json_t *data,
                       struct error **ret_error)
{
    _cleanup_(strbuf_done) struct strbuf allowed = {0};
    unsigned state = server_state(server);
    const char *name = server_state_name(server, state);

    if (method->states == 0 || (state < 32 && (method->states & (UINT32_C(1) << state))))
        return 0;
    for (unsigned i = 0; i < 32; i++)
        if ((method->states & (UINT32_C(1) << i)) && server_state_name(server, i))
            strbuf_printf(&allowed, "%s%s", allowed.length > 0 ? ", " : "", server_state_name(server, i));
    if (name)
        json_object_set_new(data, "state", json_string(name));
    return error_set(ret_error, ERROR_WRONG_STATE, EBUSY, "%s is not allowed in the state %s (allowed in: %s)",
                     method->name, name ? name : "of the VM", strbuf_text(&allowed));
}

static int call_new(struct rpc_connection *connection, const struct request *request, const struct rpc_method *method,
                    struct rpc_call **ret)
{
    struct rpc_call *call = calloc(1, sizeof(*call));

    if (!call)
        return -ENOMEM;
    *call = (struct rpc_call){
        .connection = connection, .method = method, .peer = connection->peer, .id = json_incref(request->id)};
    LIST_PREPEND(connection->calls, call, link);
    connection->n_calls++;
    *ret = call;
    return 0;
}

/* Finds the method and checks everything that is not the handler's. */
static int check_call(struct rpc_connection *connection, const struct request *request, json_t *params, json_t *data,
                      const struct rpc_method **ret_method, int *ret_number, struct error **ret_error)
{
    const struct rpc_server *server = connection->server;
    const struct rpc_method *method = find_method(server, request->method);
    int r;

    if (!method) {
        const char *nearest = nearest_method(server, request->method);

        *ret_number = RPC_METHOD_NOT_FOUND;
        return error_set(ret_error, ERROR_NOT_SUPPORTED, ENOTSUP, "there is no method \"%.64s\"%s%s%s", request->method,
                         nearest ? " (did you mean \"" : " (Describe lists them)", nearest ? nearest : "",
                         nearest ? "\"?)" : "");
    }
    *ret_number = RPC_INVALID_PARAMS;
    r = check_params(method, params, data, ret_error);
    if (r < 0)
        return r;
    *ret_number = RPC_SERVER_ERROR;
    r = check_state(server, method, data, ret_error);
    if (r < 0)
        return r;
    if (connection->n_calls >= LIMIT_RPC_PENDING)
        return error_set(ret_error, ERROR_LIMIT, EMFILE,
                         "%u calls of this client still wait for their answers (limit %u)", connection->n_calls,
                         LIMIT_RPC_PENDING);
    *ret_method = method;
    return 0;
}

static void dispatch(struct rpc_connection *connection, const struct request *request)
{
    _cleanup_error_ struct error *error = NULL;
    json_t *params = request->params ? json_incref(request->params) : json_object();
    json_t *data = json_object();
    const struct rpc_method *method = NULL;
    struct rpc_call *call = NULL;
    int number = RPC_SERVER_ERROR, r;

    r = check_call(connection, request, params, data, &method, &number, &error);
    if (r == 0 && call_new(connection, request, method, &call) < 0)
        r = error_oom(&error);
    if (r == 0)
        method->handler(call, params, connection->server->options.userdata);
    else if (request->id)
        send_error(connection, request->id, number, error, json_incref(data));
    else
        log_debug("notification refused: %s", error_message(error));
    json_decref(data);
    json_decref(params);
}

static void handle_line(struct rpc_connection *connection, const char *line, size_t length)
{
    _cleanup_error_ struct error *error = NULL;
    struct request request = {0};
    int r;

    r = rpc_parse(line, length, &request.message, &error);
    if (r < 0) {
        send_error(connection, NULL, RPC_PARSE_ERROR, error, NULL);
        return;
    }
    r = check_envelope(&request, &error);
    if (r < 0)
        send_error(connection, request.id, RPC_INVALID_REQUEST, error, NULL);
    else
        dispatch(connection, &request);
    json_decref(request.message);
}

/* ---- serving a connection -------------------------------------------------------------------------------------- */

static bool is_throttled(const struct rpc_connection *connection)
{
    return rpc_output_pending(&connection->output) > LIMIT_RPC_BACKLOG_BYTES;
}

/* The client gets this error, and no more. */
static void connection_drop(struct rpc_connection *connection, int number, const struct error *error)
{
    complain(connection->server, &connection->peer, error);
    connection->is_dropping = true;
    send_error(connection, NULL, number, error, NULL);
}

static int on_line_timeout(sd_event_source *source, uint64_t usec, void *userdata)
{
    _cleanup_error_ struct error *error = NULL;
    struct rpc_connection *connection = userdata;

    if (connection->is_dropping) { /* it had its time to read the error */
        connection_close(connection);
        return 0;
    }
    error_set(&error, ERROR_TIMED_OUT, ETIMEDOUT, "closed, because a request was begun and not ended in time");
    connection_drop(connection, RPC_INVALID_REQUEST, error);
    return 0;
}

/* Sets what is waited for next: more requests, room in the socket, the end of a line, or nothing. */
static void connection_update(struct rpc_connection *connection)
{
    bool has_output = rpc_output_pending(&connection->output) > 0, wants_input;
    struct rpc_server *server = connection->server;
    uint64_t timeout = server->options.line_timeout_usec ? server->options.line_timeout_usec : LIMIT_RPC_LINE_USEC;
    int enabled = SD_EVENT_OFF;

    if (connection->is_serving) /* at its end */
        return;
    wants_input = !connection->has_ended && !connection->is_dropping && !is_throttled(connection);
    /* streams keep a half-closed connection: the client still reads */
    if (!has_output && (connection->is_dropping || (connection->has_ended && !connection->is_paused &&
                                                    !connection->calls.first && !connection->streams.first))) {
        connection_break(connection, NULL);
        return;
    }
    if (sd_event_source_set_io_events(connection->io_source,
                                      (wants_input ? EPOLLIN : 0U) |
                                          (has_output || connection->is_paused ? EPOLLOUT : 0U)) < 0) {
        connection_break(connection, NULL);
        return;
    }
    if (connection->line_timer)
        sd_event_source_get_enabled(connection->line_timer, &enabled);
    if (connection->is_dropping || (wants_input && rpc_input_is_partial(&connection->input))) {
        if (enabled == SD_EVENT_OFF &&
            event_arm_timer(server->event, &connection->line_timer, timeout, on_line_timeout, connection) < 0)
            connection_break(connection, NULL);
    } else {
        event_disarm_timer(connection->line_timer);
    }
}

/* Handles the whole lines that have come. The caller holds a reference. */
static void connection_serve(struct rpc_connection *connection)
{
    bool had_line = false;

    connection->is_serving = true;
    while (connection->server && !connection->is_broken && !connection->is_dropping && !is_throttled(connection)) {
        _cleanup_error_ struct error *error = NULL;
        size_t length;
        char *line;
        int r;

        r = rpc_input_next(&connection->input, &line, &length);
        if (r == 0)
            break;
        if (r < 0) {
            error_set(&error, ERROR_LIMIT, EMSGSIZE, "the request is larger than %u bytes", LIMIT_RPC_REQUEST_BYTES);
            complain(connection->server, &connection->peer, error);
            send_error(connection, NULL, RPC_INVALID_REQUEST, error, NULL);
            continue;
        }
        had_line = true;
        handle_line(connection, line, length);
    }
    connection->is_serving = false;
    connection->is_paused = is_throttled(connection);
    if (!connection->server || connection->is_broken)
        return;
    if (had_line) /* the time of a next request counts from its own first byte */
        event_disarm_timer(connection->line_timer);
    if (connection->has_ended && !connection->is_dropping && rpc_input_is_partial(&connection->input) &&
        !connection->is_paused) {
        _cleanup_error_ struct error *error = NULL;

        error_set(&error, ERROR_BAD_DATA, EINVAL, "the last request has no line feed at its end");
        rpc_input_done(&connection->input);
        send_error(connection, NULL, RPC_PARSE_ERROR, error, NULL);
        if (!connection->server || connection->is_broken)
            return;
    }
    connection_update(connection);
}

static void connection_read(struct rpc_connection *connection)
{
    ssize_t n = rpc_input_read(&connection->input, connection->fd);

    if (n == -EAGAIN)
        return;
    if (n == 0)
        connection->has_ended = true;
    else if (n < 0)
        connection_break(connection, NULL);
}

static int on_connection_io(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
    struct rpc_connection *connection = userdata;
    struct rpc_server *server = connection->server;

    connection->n_refs++;
    server->n_refs++;
    /* both directions are down: what we would answer has no reader. Requests that came before count still. */
    if ((events & (EPOLLHUP | EPOLLERR)) && !(events & EPOLLIN)) {
        connection_close(connection);
    } else {
        if (events & EPOLLOUT)
            connection_flush(connection);
        if ((events & EPOLLIN) && !connection->is_broken)
            connection_read(connection);
        if (!connection->is_broken)
            connection_serve(connection);
    }
    connection_unref(connection);
    server_unref(server);
    return 0;
}

/* ---- accepting ------------------------------------------------------------------------------------------------- */

static int connection_new(struct rpc_server *server, int *fd, const struct rpc_peer *peer, struct rpc_connection **ret)
{
    struct rpc_connection *connection = calloc(1, sizeof(*connection));
    int r;

    if (!connection)
        return -ENOMEM;
    *connection = (struct rpc_connection){
        .n_refs = 1, .server = server, .peer = *peer, .fd = *fd, .input.max_bytes = LIMIT_RPC_REQUEST_BYTES};
    r = sd_event_add_io(server->event, &connection->io_source, *fd, EPOLLIN, on_connection_io, connection);
    if (r >= 0)
        r = sd_event_add_defer(server->event, &connection->close_source, on_close, connection);
    if (r >= 0)
        r = sd_event_source_set_enabled(connection->close_source, SD_EVENT_OFF);
    if (r < 0) {
        sd_event_source_disable_unref(connection->io_source);
        sd_event_source_disable_unref(connection->close_source);
        free(connection);
        return r;
    }
    (void)TAKE_FD(*fd);
    LIST_PREPEND(server->connections, connection, link);
    server->n_connections++;
    *ret = connection;
    return 0;
}

/* A client that is not let in: told why as far as its socket takes it at once, and closed. */
static void refuse(struct rpc_server *server, int fd, const struct rpc_peer *peer, const struct error *error)
{
    struct rpc_output output = {0};
    json_t *message = message_new(json_null());

    complain(server, peer, error);
    json_object_set_new(message, "error", rpc_error_to_json(RPC_SERVER_ERROR, error, NULL));
    if (rpc_output_add(&output, message, LIMIT_RPC_REPLY_BYTES) == 0)
        rpc_output_flush(&output, fd);
    rpc_output_done(&output);
    json_decref(message);
}

static void admit(struct rpc_server *server, int *fd)
{
    _cleanup_error_ struct error *error = NULL;
    struct rpc_connection *connection;
    struct ucred credentials;
    socklen_t length = sizeof(credentials);
    struct rpc_peer peer;

    if (getsockopt(*fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) < 0)
        return;
    peer = (struct rpc_peer){.pid = credentials.pid, .uid = credentials.uid};
    if (peer.uid != 0 && peer.uid != server->options.allowed_uid)
        error_set(&error, ERROR_NOT_ALLOWED, EPERM, "uid %u may not use this socket (root and uid %u may)",
                  (unsigned)peer.uid, (unsigned)server->options.allowed_uid);
    else if (server->n_connections >= LIMIT_RPC_CLIENTS)
        error_set(&error, ERROR_LIMIT, EMFILE, "%u clients are connected already (limit %u)", server->n_connections,
                  LIMIT_RPC_CLIENTS);
    else if (connection_new(server, fd, &peer, &connection) < 0)
        error_oom(&error);
    if (error)
        refuse(server, *fd, &peer, error);
}

static int on_accept_again(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct rpc_server *server = userdata;

    sd_event_source_set_enabled(server->listen_source, SD_EVENT_ON);
    return 0;
}

static int on_listen(sd_event_source *source, int listen_fd, uint32_t events, void *userdata)
{
    struct rpc_server *server = userdata;
    _cleanup_close_ int fd = unix_accept(listen_fd);

    if (fd == -EAGAIN)
        return 0;
    if (fd < 0) {
        /* The connection stays in the backlog and would wake us at once: wait for what is short to come back. */
        log_debug("cannot accept a connection on %s: %s", server->path ? server->path : "the command socket",
                  strerror(-fd));
        if (event_arm_timer(server->event, &server->accept_timer, ACCEPT_PAUSE_USEC, on_accept_again, server) == 0)
            sd_event_source_set_enabled(server->listen_source, SD_EVENT_OFF);
        return 0;
    }
    admit(server, &fd);
    return 0;
}

/* ---- server ---------------------------------------------------------------------------------------------------- */

static void remember_file(struct rpc_server *server)
{
    struct stat st;

    if (stat(server->path, &st) == 0) {
        server->device = st.st_dev;
        server->inode = st.st_ino;
    }
}

int rpc_server_new(sd_event *event, const struct rpc_server_options *options, struct rpc_server **ret,
                   struct error **ret_error)
{
    _cleanup_(rpc_server_freep) struct rpc_server *server = calloc(1, sizeof(*server));
    int r;

    if (!server)
        return error_oom(ret_error);
    server->n_refs = 1;
    server->event = sd_event_ref(event);
    server->options = *options;
    server->listen_fd = options->path && options->listen_fd <= 0 ? -EBADF : options->listen_fd;
    if (options->path) {
        server->path = strdup(options->path);
        if (!server->path)
            return error_oom(ret_error);
    }
    if (server->listen_fd < 0) {
        r = unix_listen(server->path, 0600, (int)LIMIT_RPC_CLIENTS, &server->listen_fd, ret_error);
        if (r < 0)
            return error_wrap(ret_error, r, "command server");
        remember_file(server);
    }
    r = sd_event_add_io(event, &server->listen_source, server->listen_fd, EPOLLIN, on_listen, server);
    if (r < 0)
        return error_errno(ret_error, r, "command server: cannot watch the socket");
    *ret = TAKE_PTR(server);
    return 0;
}

static void connection_end(struct rpc_connection *connection, const struct error *error)
{
    /* the calls stay with whoever works on them; only their client is answered here */
    for (struct rpc_call *call = connection->calls.first; call && !connection->is_broken; call = call->link.next)
        if (call->id)
            send_error(connection, call->id, RPC_SERVER_ERROR, error, NULL);
    connection_flush(connection);
    connection_close(connection);
}

void rpc_server_free(struct rpc_server *server)
{
    _cleanup_error_ struct error *error = NULL;
    struct rpc_connection *connection;
    struct stat st;

    if (!server)
        return;
    server->listen_source = sd_event_source_disable_unref(server->listen_source);
    server->accept_timer = sd_event_source_disable_unref(server->accept_timer);
    server->listen_fd = fd_close(server->listen_fd);
    if (server->inode != 0 && stat(server->path, &st) == 0 && st.st_ino == server->inode && st.st_dev == server->device)
        unlink(server->path);
    error_set(&error, ERROR_CONNECTION, ECONNRESET, "the command server ends");
    while ((connection = server->connections.first)) {
        connection->n_refs++;
        connection_end(connection, error);
        connection_unref(connection);
    }
    server_unref(server);
}

int rpc_server_rename(struct rpc_server *server, const char *new_path, struct error **ret_error)
{
    _cleanup_close_ int probe = -EBADF;
    _cleanup_free_ char *path = NULL;

    if (!server->path)
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "the command socket has no path to rename");
    if (strlen(new_path) > LIMIT_UNIX_PATH)
        return error_set(ret_error, ERROR_BAD_ARGUMENT, ENAMETOOLONG,
                         "the socket path %s is %zu bytes long (at most %u fit into a unix address)", new_path,
                         strlen(new_path), LIMIT_UNIX_PATH);
    path = strdup(new_path);
    if (!path)
        return error_oom(ret_error);
    if (!streq(new_path, server->path) && unix_connect(new_path, &probe, NULL) >= 0)
        return error_set(ret_error, ERROR_ALREADY_EXISTS, EADDRINUSE, "another process already listens on %s",
                         new_path);
    if (rename(server->path, new_path) < 0)
        return error_errno(ret_error, errno, "cannot rename %s to %s", server->path, new_path);
    free(server->path);
    server->path = TAKE_PTR(path);
    return 0;
}

/* ---- streams --------------------------------------------------------------------------------------------------- */

int rpc_stream_new(struct rpc_call *call, void (*closed)(struct rpc_stream *stream, void *userdata), void *userdata,
                   struct rpc_stream **ret)
{
    struct rpc_stream *stream;

    if (!call->connection)
        return -ENOTCONN;
    stream = calloc(1, sizeof(*stream));
    if (!stream)
        return -ENOMEM;
    *stream = (struct rpc_stream){.connection = call->connection, .closed = closed, .userdata = userdata};
    LIST_PREPEND(call->connection->streams, stream, link);
    *ret = stream;
    return 0;
}

int rpc_stream_send(struct rpc_stream *stream, const char *method, json_t *params)
{
    json_t *message;
    int r;

    if (!stream->connection) {
        json_decref(params);
        return -ENOTCONN;
    }
    message = message_new(NULL);
    json_object_set_new(message, "method", json_string(method));
    json_object_set_new(message, "params", params);
    r = connection_send(stream->connection, message);
    json_decref(message);
    return r;
}

void rpc_stream_free(struct rpc_stream *stream)
{
    struct rpc_connection *connection;

    if (!stream)
        return;
    connection = stream->connection;
    if (connection) {
        LIST_REMOVE(connection->streams, stream, link);
        if (connection->server && !connection->is_broken)
            connection_update(connection);
    }
    free(stream);
}

/* ---- built-in methods ------------------------------------------------------------------------------------------ */

static void handle_ping(struct rpc_call *call, json_t *params, void *userdata)
{
    rpc_reply(call, NULL);
}

static json_t *describe_params(const struct rpc_param *params)
{
    json_t *list = json_array();

    for (const struct rpc_param *p = params; p && p->name; p++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:b, s:s}", "name", p->name, "type", type_name(p->type),
                                              "required", p->required ? 1 : 0, "what", p->what ? p->what : ""));
    return list;
}

static json_t *describe_states(const struct rpc_server *server, uint32_t states)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < 32; i++)
        if ((states == 0 || (states & (UINT32_C(1) << i))) && server_state_name(server, i))
            json_array_append_new(list, json_string(server_state_name(server, i)));
    return list;
}

static void handle_describe(struct rpc_call *call, json_t *params, void *userdata)
{
    const struct rpc_server *server = call->connection->server;
    const struct rpc_method *tables[] = {server->options.methods, builtin_methods};
    const char *state = server_state_name(server, server_state(server));
    json_t *methods = json_array(), *codes = json_array();

    for (size_t t = 0; t < ELEMENTSOF(tables); t++)
        for (const struct rpc_method *m = tables[t]; m && m->name; m++)
            json_array_append_new(methods, json_pack("{s:s, s:s, s:o, s:o}", "name", m->name, "what",
                                                     m->what ? m->what : "", "params", describe_params(m->params),
                                                     "states", describe_states(server, m->states)));
    for (int c = 0; c < ERROR_CODE_COUNT; c++)
        json_array_append_new(codes, json_string(error_code_name((enum error_code)c)));
    rpc_reply(call, json_pack("{s:o, s:o, s:s?, s:{s:I, s:I, s:I, s:I, s:I}}", "methods", methods, "errors", codes,
                              "state", state, "limits", "requestBytes", (json_int_t)LIMIT_RPC_REQUEST_BYTES,
                              "replyBytes", (json_int_t)LIMIT_RPC_REPLY_BYTES, "nesting", (json_int_t)LIMIT_RPC_NESTING,
                              "clients", (json_int_t)LIMIT_RPC_CLIENTS, "pendingCalls", (json_int_t)LIMIT_RPC_PENDING));
}
