/* SPDX-License-Identifier: Apache-2.0 */
#include "rpc/server-internal.h"

#include <malloc.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"

#define ACCEPT_PAUSE_USEC (100 * USEC_PER_MSEC) /* after accept() failed for want of fds or memory */

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

unsigned rpc_server_state(const struct rpc_server *server)
{
    return server->options.get_state ? server->options.get_state(server->options.userdata) : 0;
}

const char *rpc_server_state_name(const struct rpc_server *server, unsigned state)
{
    const char *const *names = server->options.state_names;

    for (unsigned i = 0; names && names[i]; i++)
        if (i == state)
            return names[i];
    return NULL;
}

/* ---- connection ------------------------------------------------------------------------------------------------ */

static int on_trim(sd_event_source *source, uint64_t usec, void *userdata)
{
    malloc_trim(0);
    return 0;
}

/* What clients have made the heap grow by goes back to the system when they have left. */
static void trim_later(struct rpc_server *server)
{
    int enabled = SD_EVENT_OFF;

    if (server->trim_timer)
        sd_event_source_get_enabled(server->trim_timer, &enabled);
    if (enabled == SD_EVENT_OFF)
        event_arm_timer(server->event, &server->trim_timer, RPC_TRIM_USEC, on_trim, NULL);
}

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
    if (server->listen_fd >= 0)
        trim_later(server);
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

int rpc_connection_send(struct rpc_connection *connection, const json_t *message)
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
            rpc_connection_update(connection);
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

/* Member by member: json_pack() touches some forty cache lines more, in each answer. */
json_t *rpc_message_new(json_t *id)
{
    json_t *message = json_object();

    json_object_set_new_nocheck(message, "jsonrpc", json_string_nocheck("2.0"));
    if (id)
        json_object_set_nocheck(message, "id", id);
    return message;
}

int rpc_connection_send_error(struct rpc_connection *connection, json_t *id, int number, const struct error *error,
                              json_t *data)
{
    json_t *message = rpc_message_new(id ? id : json_null());
    int r;

    json_object_set_new(message, "error", rpc_error_to_json(number, error, data));
    r = rpc_connection_send(connection, message);
    json_decref(message);
    return r;
}

void rpc_connection_complain(const struct rpc_connection *connection, const struct error *error)
{
    if (connection->server)
        complain(connection->server, &connection->peer, error);
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
    rpc_connection_send_error(connection, NULL, number, error, NULL);
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

void rpc_connection_update(struct rpc_connection *connection)
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
            rpc_connection_send_error(connection, NULL, RPC_INVALID_REQUEST, error, NULL);
            continue;
        }
        had_line = true;
        rpc_request_handle(connection, line, length);
    }
    connection->is_serving = false;
    connection->is_paused = is_throttled(connection);
    if (connection->is_paused && connection->server && !connection->was_slow) {
        _cleanup_error_ struct error *error = NULL;

        connection->was_slow = true;
        error_set(&error, ERROR_LIMIT, EAGAIN,
                  "its requests wait, because it does not read the answers: %zu bytes are queued",
                  rpc_output_pending(&connection->output));
        rpc_connection_complain(connection, error);
    }
    if (!connection->server || connection->is_broken)
        return;
    if (had_line) /* the time of a next request counts from its own first byte */
        event_disarm_timer(connection->line_timer);
    if (connection->has_ended && !connection->is_dropping && rpc_input_is_partial(&connection->input) &&
        !connection->is_paused) {
        _cleanup_error_ struct error *error = NULL;

        error_set(&error, ERROR_BAD_DATA, EINVAL, "the last request has no line feed at its end");
        rpc_input_done(&connection->input);
        rpc_connection_send_error(connection, NULL, RPC_PARSE_ERROR, error, NULL);
        if (!connection->server || connection->is_broken)
            return;
    }
    rpc_connection_update(connection);
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
    json_t *message = rpc_message_new(json_null());

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
    const char *why;

    if (getsockopt(*fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) < 0)
        return;
    peer = (struct rpc_peer){.pid = credentials.pid, .uid = credentials.uid};
    why = server->options.refuse ? server->options.refuse(&peer, server->options.userdata) : NULL;
    if (why)
        error_set(&error, ERROR_NOT_ALLOWED, EPERM, "pid %d may not use this socket: %s", (int)peer.pid, why);
    else if (peer.uid != 0 && peer.uid != server->options.allowed_uid)
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
            rpc_connection_send_error(connection, call->id, RPC_SERVER_ERROR, error, NULL);
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
    server->trim_timer = sd_event_source_disable_unref(server->trim_timer);
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
