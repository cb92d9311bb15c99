/* SPDX-License-Identifier: Apache-2.0 */
#include "rpc/client.h"

#include <poll.h>
#include <sys/epoll.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/list.h"
#include "rpc/wire.h"

#define ENVELOPE_BYTES 1024U /* what stands around an answer's result */

struct rpc_client {
    unsigned n_refs; /* more than one while callbacks run, which may free the client */
    char *path;
    int fd;
    uint64_t last_id;
    struct rpc_input input;
    struct rpc_output output;
    struct error *broken; /* why the connection cannot be used any more */

    LIST_HEAD(struct notification) notifications; /* came while an answer was waited for */
    size_t n_notifications;

    sd_event *event; /* NULL: blocking use */
    sd_event_source *io_source, *first_source;
    rpc_notify_fn notify;
    rpc_closed_fn closed;
    void *userdata;
    LIST_HEAD(struct pending) pending;
};

struct notification {
    LIST_ENTRY(struct notification) link;
    json_t *message;
};

struct pending {
    LIST_ENTRY(struct pending) link;
    struct rpc_client *client;
    uint64_t id;
    char *method;
    uint64_t timeout_usec;
    sd_event_source *timer;
    rpc_answer_fn answer;
    void *userdata;
};

/* ---- both ways of use ------------------------------------------------------------------------------------------ */

int rpc_client_connect(const char *path, struct rpc_client **ret, struct error **ret_error)
{
    _cleanup_(rpc_client_freep) struct rpc_client *client = calloc(1, sizeof(*client));
    int r;

    if (!client)
        return error_oom(ret_error);
    client->n_refs = 1;
    client->fd = -EBADF;
    client->input.max_bytes = LIMIT_RPC_REPLY_BYTES + ENVELOPE_BYTES;
    client->path = strdup(path);
    if (!client->path)
        return error_oom(ret_error);
    r = unix_connect(path, &client->fd, ret_error);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(client);
    return 0;
}

static void pending_free(struct pending *pending)
{
    if (!pending)
        return;
    sd_event_source_disable_unref(pending->timer);
    free(pending->method);
    free(pending);
}

static void client_unref(struct rpc_client *client)
{
    if (--client->n_refs > 0)
        return;
    rpc_input_done(&client->input);
    rpc_output_done(&client->output);
    error_free(client->broken);
    free(client->path);
    free(client);
}

/* Ends every call that waits. Callbacks may free the client: the caller holds a reference. */
static void fail_pending(struct rpc_client *client, const struct error *error)
{
    struct pending *pending;

    while ((pending = client->pending.first)) {
        LIST_REMOVE(client->pending, pending, link);
        if (pending->answer)
            pending->answer(client, NULL, error, pending->userdata);
        pending_free(pending);
    }
}

void rpc_client_free(struct rpc_client *client)
{
    _cleanup_error_ struct error *error = NULL;
    struct notification *n;

    if (!client)
        return;
    client->io_source = sd_event_source_disable_unref(client->io_source);
    client->first_source = sd_event_source_disable_unref(client->first_source);
    client->closed = NULL;
    client->notify = NULL;
    client->fd = fd_close(client->fd);
    if (client->pending.first) {
        error_set(&error, ERROR_CANCELLED, ECANCELED, "the connection to %s was closed by us", client->path);
        if (!client->broken)
            client->broken = error_copy(error);
        fail_pending(client, error);
    }
    client->event = sd_event_unref(client->event);
    while ((n = client->notifications.first)) {
        LIST_REMOVE(client->notifications, n, link);
        json_decref(n->message);
        free(n);
    }
    client_unref(client);
}

/* The connection is of no use any more: every later call fails by this error. */
static int client_break(struct rpc_client *client, int r, struct error *error)
{
    if (client->broken)
        error_free(error);
    else
        client->broken = error;
    return r;
}

static int client_add_request(struct rpc_client *client, const char *method, json_t *params, uint64_t id,
                              struct error **ret_error)
{
    json_t *message = json_pack("{s:s, s:s, s:I}", "jsonrpc", "2.0", "method", method, "id", (json_int_t)id);
    int r;

    if (params && message)
        json_object_set(message, "params", params);
    r = rpc_output_add(&client->output, message, LIMIT_RPC_REQUEST_BYTES);
    json_decref(message);
    if (r == -EMSGSIZE)
        return error_set(ret_error, ERROR_LIMIT, EMSGSIZE, "the request %s is larger than %u bytes", method,
                         LIMIT_RPC_REQUEST_BYTES);
    return r < 0 ? error_oom(ret_error) : 0;
}

static int connection_error(struct rpc_client *client, int r, struct error **ret_error)
{
    return error_set(ret_error, ERROR_CONNECTION, r, "the connection to %s was lost: %s", client->path,
                     r == 0 ? "the server closed it" : strerror(r < 0 ? -r : r));
}

/* Reads once. -EAGAIN when nothing has come. */
static int client_read(struct rpc_client *client, struct error **ret_error)
{
    ssize_t n = rpc_input_read(&client->input, client->fd);

    if (n > 0 || n == -EAGAIN)
        return n > 0 ? 0 : -EAGAIN;
    return n == 0 ? connection_error(client, 0, ret_error) : connection_error(client, (int)n, ret_error);
}

/* 1 and the next message, an object; 0: there is none yet. */
static int client_next_message(struct rpc_client *client, json_t **ret, struct error **ret_error)
{
    json_t *message;
    size_t length;
    char *line;
    int r;

    r = rpc_input_next(&client->input, &line, &length);
    if (r == 0)
        return 0;
    if (r < 0)
        return error_set(ret_error, ERROR_LIMIT, r, "%s sent more than %zu bytes in one message", client->path,
                         client->input.max_bytes);
    r = rpc_parse(line, length, &message, ret_error);
    if (r < 0)
        return error_wrap(ret_error, r, "%s", client->path);
    if (!json_is_object(message)) {
        json_decref(message);
        return error_set(ret_error, ERROR_BAD_DATA, EBADMSG, "%s sent something that is no JSON-RPC message",
                         client->path);
    }
    *ret = message;
    return 1;
}

static bool is_notification(const json_t *message)
{
    return json_is_string(json_object_get(message, "method"));
}

/* The server's error object as an error of ours, or -EBADMSG for an answer that has neither result nor error. */
static int answer_error(struct rpc_client *client, const json_t *message, struct error **ret_error)
{
    const json_t *error = json_object_get(message, "error");

    if (json_is_object(error))
        return rpc_error_from_json(error, ret_error);
    return error_set(ret_error, ERROR_BAD_DATA, EBADMSG, "%s sent an answer without result or error", client->path);
}

/* ---- blocking use ---------------------------------------------------------------------------------------------- */

static uint64_t deadline_after(uint64_t timeout_usec)
{
    uint64_t now = now_usec();

    return timeout_usec > UINT64_MAX - now ? UINT64_MAX : now + timeout_usec;
}

/* Waits until the socket can be read (or written, while there is something to send). -ETIMEDOUT. */
static int client_wait(struct rpc_client *client, uint64_t deadline)
{
    bool has_output = rpc_output_pending(&client->output) > 0;
    struct pollfd p = {.fd = client->fd, .events = (short)(POLLIN | (has_output ? POLLOUT : 0))};

    for (;;) {
        uint64_t now = now_usec();
        uint64_t left = deadline == UINT64_MAX ? 0 : now >= deadline ? 0 : deadline - now;
        struct timespec timeout = {.tv_sec = (time_t)(left / USEC_PER_SEC),
                                   .tv_nsec = (long)(left % USEC_PER_SEC * 1000)};
        int n = ppoll(&p, 1, deadline == UINT64_MAX ? NULL : &timeout, NULL);

        if (n > 0)
            return 0;
        if (n == 0)
            return -ETIMEDOUT;
        if (errno != EINTR)
            return -errno;
    }
}

/* One turn of sending and receiving. A failed write is not final: the server may have said why before it closed. */
static int client_exchange(struct rpc_client *client, uint64_t deadline, struct error **ret_error)
{
    int r;

    if (rpc_output_pending(&client->output) > 0 && rpc_output_flush(&client->output, client->fd) < 0)
        rpc_output_done(&client->output);
    r = client_read(client, ret_error);
    if (r != -EAGAIN)
        return r;
    r = client_wait(client, deadline);
    if (r < 0 && r != -ETIMEDOUT)
        return error_errno(ret_error, r, "cannot wait for %s", client->path);
    return r;
}

static int keep_notification(struct rpc_client *client, json_t *message, struct error **ret_error)
{
    struct notification *n;

    if (client->n_notifications >= LIMIT_EVENT_RING) {
        json_decref(message);
        return error_set(ret_error, ERROR_LIMIT, ENOBUFS, "%u notifications of %s were not read", LIMIT_EVENT_RING,
                         client->path);
    }
    n = calloc(1, sizeof(*n));
    if (!n) {
        json_decref(message);
        return error_oom(ret_error);
    }
    n->message = message;
    LIST_APPEND(client->notifications, n, link);
    client->n_notifications++;
    return 0;
}

static int check_usable(const struct rpc_client *client, struct error **ret_error)
{
    if (client->event)
        return error_set(ret_error, ERROR_INTERNAL, EINVAL, "a blocking call on an attached connection");
    if (client->broken) {
        error_move(ret_error, error_copy(client->broken));
        return -error_get_errno(client->broken);
    }
    return 0;
}

/* Waits for the answer to `id`; *ret_message is owned. */
static int await_answer(struct rpc_client *client, uint64_t id, uint64_t deadline, json_t **ret_message,
                        struct error **ret_error)
{
    for (;;) {
        json_t *message, *its_id;
        int r;

        r = client_next_message(client, &message, ret_error);
        if (r < 0)
            return r;
        if (r == 0) {
            r = client_exchange(client, deadline, ret_error);
            if (r < 0)
                return r;
            continue;
        }
        if (is_notification(message)) {
            r = keep_notification(client, message, ret_error);
            if (r < 0)
                return r;
            continue;
        }
        its_id = json_object_get(message, "id");
        /* null: the server could not read the request, or does not let us in */
        if (json_is_null(its_id) || (json_is_integer(its_id) && (uint64_t)json_integer_value(its_id) == id)) {
            *ret_message = message;
            return 0;
        }
        json_decref(message); /* the late answer to a call that timed out */
    }
}

static int timeout_error(const char *method, uint64_t timeout_usec, struct error **ret_error)
{
    return error_set(ret_error, ERROR_TIMED_OUT, ETIMEDOUT, "no answer to %s within %llu.%03llu s", method,
                     (unsigned long long)(timeout_usec / USEC_PER_SEC),
                     (unsigned long long)(timeout_usec % USEC_PER_SEC / USEC_PER_MSEC));
}

int rpc_client_call(struct rpc_client *client, const char *method, json_t *params, uint64_t timeout_usec,
                    json_t **ret_result, struct error **ret_error)
{
    uint64_t deadline = deadline_after(timeout_usec);
    _cleanup_error_ struct error *error = NULL;
    json_t *message = NULL, *result;
    int r;

    r = check_usable(client, &error);
    if (r == 0)
        r = client_add_request(client, method, params, ++client->last_id, &error);
    json_decref(params);
    if (r < 0) {
        error_move(ret_error, TAKE_PTR(error));
        return r;
    }
    r = await_answer(client, client->last_id, deadline, &message, &error);
    if (r == -ETIMEDOUT && !error) {
        r = timeout_error(method, timeout_usec, &error);
        if (rpc_output_pending(&client->output) > 0) /* half a request is on its way: nothing can follow it */
            client_break(client, r, error_copy(error));
        error_move(ret_error, TAKE_PTR(error));
        return r;
    }
    if (r < 0) {
        client_break(client, r, error_copy(error));
        error_move(ret_error, TAKE_PTR(error));
        return r;
    }
    result = json_object_get(message, "result");
    if (!result) {
        r = answer_error(client, message, ret_error);
    } else if (ret_result) {
        *ret_result = json_incref(result);
    }
    json_decref(message);
    return r;
}

static int take_notification(json_t *message, char **ret_method, json_t **ret_params, struct error **ret_error)
{
    json_t *params = json_object_get(message, "params");
    char *method = strdup(json_string_value(json_object_get(message, "method")));

    if (!method) {
        json_decref(message);
        return error_oom(ret_error);
    }
    *ret_method = method;
    *ret_params = params ? json_incref(params) : json_object();
    json_decref(message);
    return 0;
}

int rpc_client_next(struct rpc_client *client, uint64_t timeout_usec, char **ret_method, json_t **ret_params,
                    struct error **ret_error)
{
    uint64_t deadline = deadline_after(timeout_usec);
    struct notification *n = client->notifications.first;
    _cleanup_error_ struct error *error = NULL;
    int r;

    if (n) {
        json_t *message = n->message;

        LIST_REMOVE(client->notifications, n, link);
        client->n_notifications--;
        free(n);
        return take_notification(message, ret_method, ret_params, ret_error);
    }
    r = check_usable(client, ret_error);
    if (r < 0)
        return r;
    for (;;) {
        json_t *message;

        r = client_next_message(client, &message, &error);
        if (r == 0)
            r = client_exchange(client, deadline, &error);
        else if (r == 1 && is_notification(message))
            return take_notification(message, ret_method, ret_params, ret_error);
        else if (r == 1)
            json_decref(message);
        if (r == -ETIMEDOUT && !error)
            return error_set(ret_error, ERROR_TIMED_OUT, ETIMEDOUT, "nothing came from %s in time", client->path);
        if (r < 0) {
            client_break(client, r, error_copy(error));
            error_move(ret_error, TAKE_PTR(error));
            return r;
        }
    }
}

/* ---- on the event loop ----------------------------------------------------------------------------------------- */

/* The end of an attached connection: calls fail first, then `closed` is told. */
static void client_close(struct rpc_client *client, struct error *error)
{
    client->io_source = sd_event_source_disable_unref(client->io_source);
    client->first_source = sd_event_source_disable_unref(client->first_source);
    client->fd = fd_close(client->fd);
    client_break(client, 0, error);
    fail_pending(client, client->broken);
    if (client->closed)
        client->closed(client, client->broken, client->userdata);
}

static struct pending *find_pending(struct rpc_client *client, const json_t *id)
{
    for (struct pending *p = client->pending.first; p; p = p->link.next)
        if (json_is_integer(id) && (uint64_t)json_integer_value(id) == p->id)
            return p;
    return NULL;
}

static void deliver(struct rpc_client *client, json_t *message)
{
    _cleanup_error_ struct error *error = NULL;
    struct pending *pending;
    json_t *result;

    if (is_notification(message)) {
        json_t *params = json_object_get(message, "params");

        if (client->notify)
            client->notify(client, json_string_value(json_object_get(message, "method")), params, client->userdata);
        return;
    }
    if (json_is_null(json_object_get(message, "id"))) {
        answer_error(client, message, &error);
        client_close(client, TAKE_PTR(error));
        return;
    }
    pending = find_pending(client, json_object_get(message, "id"));
    if (!pending)
        return;
    LIST_REMOVE(client->pending, pending, link);
    result = json_object_get(message, "result");
    if (!result)
        answer_error(client, message, &error);
    if (pending->answer)
        pending->answer(client, result, error, pending->userdata);
    pending_free(pending);
}

/* Hands out all that is whole. The caller holds a reference. */
static void client_deliver_all(struct rpc_client *client)
{
    while (client->fd >= 0) {
        _cleanup_error_ struct error *error = NULL;
        json_t *message;
        int r = client_next_message(client, &message, &error);

        if (r == 0)
            return;
        if (r < 0) {
            client_close(client, TAKE_PTR(error));
            return;
        }
        deliver(client, message);
        json_decref(message);
    }
}

static void client_watch(struct rpc_client *client)
{
    if (client->io_source)
        sd_event_source_set_io_events(client->io_source,
                                      EPOLLIN | (rpc_output_pending(&client->output) > 0 ? EPOLLOUT : 0U));
}

/* The agent of a node has a client for each VM, nearly all of them at rest: no buffer is kept for the next message. */
static void client_rest(struct rpc_client *client)
{
    if (client->pending.first)
        return;
    if (!rpc_input_is_partial(&client->input))
        rpc_input_done(&client->input);
    if (rpc_output_pending(&client->output) == 0)
        rpc_output_done(&client->output);
}

static int on_client_io(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
    struct rpc_client *client = userdata;
    _cleanup_error_ struct error *error = NULL;
    int r;

    client->n_refs++;
    if ((events & EPOLLOUT) && rpc_output_flush(&client->output, fd) < 0)
        rpc_output_done(&client->output); /* what the server has said before it closed is read below */
    r = client_read(client, &error);
    if (r == 0)
        client_deliver_all(client);
    else if (r != -EAGAIN)
        client_close(client, TAKE_PTR(error));
    client_watch(client);
    client_rest(client);
    client_unref(client);
    return 0;
}

/* What had come before rpc_client_attach(). */
static int on_first_turn(sd_event_source *source, void *userdata)
{
    struct rpc_client *client = userdata;
    struct notification *n;

    client->n_refs++;
    while ((n = client->notifications.first)) {
        LIST_REMOVE(client->notifications, n, link);
        client->n_notifications--;
        deliver(client, n->message);
        json_decref(n->message);
        free(n);
    }
    client_deliver_all(client);
    client_unref(client);
    return 0;
}

int rpc_client_attach(struct rpc_client *client, sd_event *event, rpc_notify_fn notify, rpc_closed_fn closed,
                      void *userdata)
{
    int r;

    if (client->event)
        return -EBUSY;
    if (client->broken)
        return -ENOTCONN;
    r = sd_event_add_io(event, &client->io_source, client->fd, EPOLLIN, on_client_io, client);
    if (r >= 0)
        r = sd_event_add_defer(event, &client->first_source, on_first_turn, client);
    if (r < 0) {
        client->io_source = sd_event_source_disable_unref(client->io_source);
        return r;
    }
    client->event = sd_event_ref(event);
    client->notify = notify;
    client->closed = closed;
    client->userdata = userdata;
    return 0;
}

static int on_call_timeout(sd_event_source *source, uint64_t usec, void *userdata)
{
    _cleanup_error_ struct error *error = NULL;
    struct pending *pending = userdata;
    struct rpc_client *client = pending->client;

    timeout_error(pending->method, pending->timeout_usec, &error);
    client->n_refs++;
    LIST_REMOVE(client->pending, pending, link);
    if (pending->answer)
        pending->answer(client, NULL, error, pending->userdata);
    pending_free(pending);
    client_unref(client);
    return 0;
}

int rpc_client_call_async(struct rpc_client *client, const char *method, json_t *params, uint64_t timeout_usec,
                          rpc_answer_fn answer, void *userdata)
{
    struct pending *pending = NULL;
    int r;

    if (!client->event || client->broken) {
        json_decref(params);
        return client->event ? -ENOTCONN : -EINVAL;
    }
    pending = calloc(1, sizeof(*pending));
    if (pending)
        pending->method = strdup(method);
    r = pending && pending->method ? 0 : -ENOMEM;
    if (r == 0 && timeout_usec != UINT64_MAX)
        r = event_arm_timer(client->event, &pending->timer, timeout_usec, on_call_timeout, pending);
    if (r == 0)
        r = client_add_request(client, method, params, ++client->last_id, NULL);
    json_decref(params);
    if (r < 0) {
        pending_free(pending);
        return r;
    }
    pending->client = client;
    pending->id = client->last_id;
    pending->timeout_usec = timeout_usec;
    pending->answer = answer;
    pending->userdata = userdata;
    LIST_APPEND(client->pending, pending, link);
    if (rpc_output_flush(&client->output, client->fd) < 0)
        rpc_output_done(&client->output); /* the loop reads why, and ends the connection */
    client_watch(client);
    return 0;
}
