/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The QMP client: GREETING -> NEGOTIATING -> RUNNING -> DISCONNECTED. A call goes from `queued` (its text may be
 * written in part) to `sent`, and leaves when its reply, and its event if it waits for one, have come. A call that was
 * cancelled or timed out after it was sent stays there without a callback, to swallow the late reply.
 */
#include <vmlet/qmp.h>

#include <fcntl.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/error.h"
#include "base/event.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/strbuf.h"
#include "qmp/deadlines.h"
#include "qmp/events.h"
#include "qmp/framing.h"
#include "qmp/json.h"

#define READ_BYTES  16384U
#define BATCH_CALLS 64U
#define MAX_FDS     16U /* QEMU's chardev/char-socket.c: TCP_MAX_FDS */

struct call {
    TAILQ_ENTRY(call) link;
    uint64_t id;
    char *command;
    char *text; /* what is to be written; NULL once it is */
    size_t length, written;
    int *fds;
    size_t n_fds;
    uint64_t timeout, deadline; /* deadline: CLOCK_MONOTONIC; UINT64_MAX: none */
    bool out_of_band, answered;
    char *until_event, *fail_event, *event_key[2], *event_value[2];
    json_t *event_data; /* the event came before the reply */
    qmp_reply_fn callback;
    void *userdata;
    bool fail_event_came;
    bool abandoned; /* cancelled or timed out; the reply is still to come */
};

TAILQ_HEAD(call_list, call);

struct qmp_client {
    unsigned refs;
    bool freed;
    sd_event *event;
    int fd;
    bool not_socket;
    enum qmp_state state;
    sd_event_source *io, *timer, *deferred;
    uint64_t timer_at; /* when the timer is to fire; UINT64_MAX: it is off */
    int64_t priority;
    unsigned timeout_factor;
    struct qmp_framing framing;
    struct call_list queued, sent;
    size_t n_calls, in_flight, n_event_waits;
    uint64_t last_id, n_sent;
    bool oob, fds_in_flight, want_write, write_closed;
    json_t *greeting;
    unsigned version;
    struct error *failure; /* found where no callback may be called; the deferred handler disconnects */
    struct event_gate *gate;
    qmp_event_fn event_handler;
    void *event_userdata;
    qmp_state_fn state_handler;
    void *state_userdata;
};

/* ---- calls ----------------------------------------------------------------------------------------------------- */

static void close_fds(struct call *call)
{
    for (size_t i = 0; call->fds && i < call->n_fds; i++)
        fd_close(call->fds[i]);
    free(TAKE_PTR(call->fds));
}

static void call_free(struct call *call)
{
    if (!call)
        return;
    close_fds(call);
    free(call->command);
    free(call->text);
    free(call->until_event);
    free(call->fail_event);
    for (int i = 0; i < 2; i++) {
        free(call->event_key[i]);
        free(call->event_value[i]);
    }
    json_decref(call->event_data);
    free(call);
}
DEFINE_CLEANUP(struct call *, call_free)

static bool is_sent(const struct call *call)
{
    return call->text == NULL;
}

/* Takes the call off its list. */
static void call_unlink(struct qmp_client *c, struct call *call)
{
    if (is_sent(call)) {
        TAILQ_REMOVE(&c->sent, call, link);
        if (!call->answered && !call->out_of_band)
            c->in_flight--;
        if (call->n_fds > 0)
            c->fds_in_flight = false;
    } else {
        TAILQ_REMOVE(&c->queued, call, link);
    }
    if (call->until_event)
        c->n_event_waits--;
    c->n_calls--;
}

static void call_deliver(struct qmp_client *c, const struct call *call, json_t *result, const struct error *error)
{
    if (call->callback && !call->abandoned)
        call->callback(c, result, error, call->userdata);
}

/* Ends the call; exactly one of result and error. */
static void call_end(struct qmp_client *c, struct call *call, json_t *result, const struct error *error)
{
    call_unlink(c, call);
    call_deliver(c, call, result, error);
    call_free(call);
}

/* The caller is told now; what has been written, if only in part, stays until its reply has come. */
static void call_abandon(struct qmp_client *c, struct call *call, const struct error *error)
{
    qmp_reply_fn callback = call->callback;

    if (is_sent(call) ? call->answered : call->written == 0) {
        call_end(c, call, NULL, error);
        return;
    }
    call->abandoned = true;
    call->deadline = UINT64_MAX;
    if (callback)
        callback(c, NULL, error, call->userdata);
}

static struct call *find_sent(const struct qmp_client *c, uint64_t id)
{
    struct call *call;

    TAILQ_FOREACH(call, &c->sent, link)
    if (call->id == id)
        return call;
    return NULL;
}

static struct call *find_live(const struct qmp_client *c, uint64_t id)
{
    struct call *call = find_sent(c, id);

    if (!call) {
        TAILQ_FOREACH(call, &c->queued, link)
        if (call->id == id)
            break;
    }
    return call && !call->abandoned ? call : NULL;
}

/* ---- life and death -------------------------------------------------------------------------------------------- */

static void client_unref(struct qmp_client *c)
{
    if (--c->refs > 0)
        return;
    qmp_framing_done(&c->framing);
    event_gate_free(c->gate);
    json_decref(c->greeting);
    error_free(c->failure);
    sd_event_unref(c->event);
    free(c);
}

static void release_sources(struct qmp_client *c)
{
    c->io = sd_event_source_disable_unref(c->io);
    c->timer = sd_event_source_disable_unref(c->timer);
    c->deferred = sd_event_source_disable_unref(c->deferred);
    c->fd = fd_close(c->fd);
}

static void fail_calls(struct qmp_client *c, const struct error *error)
{
    struct call *call;

    while ((call = TAILQ_FIRST(&c->sent)) || (call = TAILQ_FIRST(&c->queued)))
        call_end(c, call, NULL, error);
}

static const char *where(const struct qmp_client *c)
{
    switch (c->state) {
    case QMP_GREETING:
        return " before QEMU's greeting came";
    case QMP_NEGOTIATING:
        return " during the handshake";
    default:
        return "";
    }
}

/* Consumes the error. The caller holds a reference. */
static void disconnect(struct qmp_client *c, struct error *error)
{
    if (c->state == QMP_DISCONNECTED) {
        error_free(error);
        return;
    }
    error_wrap(&error, 0, "QMP connection lost%s", where(c));
    c->state = QMP_DISCONNECTED;
    release_sources(c);
    fail_calls(c, error);
    if (!c->freed && c->state_handler)
        c->state_handler(c, QMP_DISCONNECTED, error, c->state_userdata);
    error_free(error);
}

void qmp_client_free(struct qmp_client *client)
{
    struct error *error = NULL;

    if (!client || client->freed)
        return;
    client->freed = true;
    client->state = QMP_DISCONNECTED;
    release_sources(client);
    event_gate_free(TAKE_PTR(client->gate));
    error_set(&error, ERROR_CANCELLED, ECANCELED, "the QMP connection was closed by this program");
    fail_calls(client, error);
    error_free(error);
    client_unref(client);
}

static void set_state(struct qmp_client *c, enum qmp_state state)
{
    c->state = state;
    if (c->state_handler)
        c->state_handler(c, state, NULL, c->state_userdata);
}

/* ---- deadlines ------------------------------------------------------------------------------------------------- */

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata);

/*
 * The timer is only ever moved to an earlier time. It may fire for a call that has ended long ago, once; a fast
 * exchange does not touch it at all.
 */
static int watch_deadline(struct qmp_client *c, uint64_t deadline)
{
    int r;

    if (deadline >= c->timer_at || !c->event)
        return 0;
    if (c->timer) {
        r = sd_event_source_set_time(c->timer, deadline);
        if (r >= 0)
            r = sd_event_source_set_enabled(c->timer, SD_EVENT_ONESHOT);
    } else {
        r = sd_event_add_time(c->event, &c->timer, CLOCK_MONOTONIC, deadline, USEC_PER_MSEC, on_timer, c);
        if (r >= 0)
            r = sd_event_source_set_priority(c->timer, c->priority);
    }
    if (r >= 0)
        c->timer_at = deadline;
    return r;
}

static void time_out(struct qmp_client *c, struct call *call)
{
    _cleanup_error_ struct error *error = NULL;
    size_t half = qmp_framing_pending(&c->framing);
    double seconds = (double)call->timeout / (double)USEC_PER_SEC;

    if (c->state != QMP_RUNNING)
        error_set(&error, ERROR_TIMED_OUT, ETIMEDOUT, "%s: not sent within %g s, because QEMU's %s has not come",
                  call->command, seconds, c->state == QMP_GREETING ? "greeting" : "answer to the handshake");
    else if (!is_sent(call))
        error_set(&error, ERROR_TIMED_OUT, ETIMEDOUT, "%s: not sent within %g s, because QEMU answers no command",
                  call->command, seconds);
    else if (call->answered)
        error_set(&error, ERROR_TIMED_OUT, ETIMEDOUT, "%s: accepted, but no %s event within %g s", call->command,
                  call->until_event, seconds);
    else if (half > 0)
        error_set(&error, ERROR_TIMED_OUT, ETIMEDOUT,
                  "%s: no answer within %g s (%zu bytes of a message without an end have come)", call->command, seconds,
                  half);
    else
        error_set(&error, ERROR_TIMED_OUT, ETIMEDOUT, "%s: no answer within %g s", call->command, seconds);
    call_abandon(c, call, error);
}

/* The first live call of the list that is due; *next is lowered to the earliest other deadline. */
static struct call *find_due(const struct call_list *list, uint64_t now, uint64_t *next)
{
    struct call *call;

    TAILQ_FOREACH(call, list, link)
    {
        if (call->deadline <= now)
            return call;
        *next = MIN(*next, call->deadline);
    }
    return NULL;
}

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
    struct qmp_client *c = userdata;
    uint64_t now = now_usec(), next = UINT64_MAX;
    struct error *error = NULL;
    struct call *call;

    c->refs++;
    c->timer_at = UINT64_MAX;
    while (c->state != QMP_DISCONNECTED) {
        next = UINT64_MAX;
        call = find_due(&c->sent, now, &next);
        if (!call)
            call = find_due(&c->queued, now, &next);
        if (!call)
            break;
        if (call->id == 1 && c->state != QMP_RUNNING) { /* the handshake */
            error_set(&error, ERROR_TIMED_OUT, ETIMEDOUT, "no %s within %g s",
                      c->state == QMP_GREETING ? "greeting" : "answer to qmp_capabilities",
                      (double)call->timeout / (double)USEC_PER_SEC);
            disconnect(c, TAKE_PTR(error));
            break;
        }
        time_out(c, call);
    }
    if (c->state != QMP_DISCONNECTED && next != UINT64_MAX)
        watch_deadline(c, next);
    client_unref(c);
    return 0;
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

static int on_io(sd_event_source *s, int fd, uint32_t revents, void *userdata);

static void watch_writable(struct qmp_client *c, bool on)
{
    if (c->want_write == on)
        return;
    c->want_write = on;
    sd_event_source_set_io_events(c->io, on ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

/* May this call be sent now? In-band commands wait while the window is full, so that QEMU goes on reading and an
 * out-of-band one gets through; fds wait until those of the call before have been taken up by QEMU. */
static bool may_send(const struct qmp_client *c, const struct call *call, size_t in_flight)
{
    if (call->written > 0)
        return true;
    if (c->state != QMP_RUNNING)
        return c->state == QMP_NEGOTIATING && call->id == 1;
    if (c->oob && !call->out_of_band && in_flight >= LIMIT_QMP_IN_FLIGHT)
        return false;
    return call->n_fds == 0 || !c->fds_in_flight;
}

static ssize_t send_batch(struct qmp_client *c, struct iovec *iov, size_t n, const struct call *with_fds)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int) * MAX_FDS)];
        struct cmsghdr align;
    } control;
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = n};
    struct cmsghdr *header;
    ssize_t written;

    if (c->not_socket)
        return writev(c->fd, iov, (int)n);
    if (with_fds) {
        size_t bytes = sizeof(int) * with_fds->n_fds;

        memset(&control, 0, sizeof(control));
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(bytes);
        header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(bytes);
        memcpy(CMSG_DATA(header), with_fds->fds, bytes);
    }
    written = sendmsg(c->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (written < 0 && errno == ENOTSOCK && !with_fds) {
        c->not_socket = true;
        return writev(c->fd, iov, (int)n);
    }
    return written;
}

/* The first `written` bytes of the queue have gone out. */
static void advance(struct qmp_client *c, size_t written)
{
    while (written > 0) {
        struct call *call = TAILQ_FIRST(&c->queued);
        size_t n = MIN(written, call->length - call->written);

        call->written += n;
        written -= n;
        if (call->n_fds > 0 && call->fds) { /* they went with the first byte */
            close_fds(call);
            c->fds_in_flight = true;
        }
        if (call->written < call->length)
            break;
        TAILQ_REMOVE(&c->queued, call, link);
        TAILQ_INSERT_TAIL(&c->sent, call, link);
        free(TAKE_PTR(call->text));
        c->n_sent++;
        if (!call->out_of_band)
            c->in_flight++;
    }
}

/* Writes what may be written, in as few system calls as its fds allow. */
static int flush(struct qmp_client *c, struct error **ret_error)
{
    while (!c->write_closed) {
        struct iovec iov[BATCH_CALLS];
        size_t n = 0, in_flight = c->in_flight, total = 0;
        const struct call *with_fds = NULL;
        struct call *call;
        ssize_t written;

        TAILQ_FOREACH(call, &c->queued, link)
        {
            bool carries = call->fds != NULL;

            if (n == BATCH_CALLS || with_fds || (carries && n > 0) || !may_send(c, call, in_flight))
                break;
            if (carries)
                with_fds = call;
            iov[n++] = (struct iovec){call->text + call->written, call->length - call->written};
            total += call->length - call->written;
            in_flight += !call->out_of_band;
        }
        if (n == 0) {
            watch_writable(c, false);
            return 0;
        }
        written = send_batch(c, iov, n, with_fds);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0 && errno == EAGAIN) {
            watch_writable(c, true);
            return 0;
        }
        if (written < 0 && (errno == EPIPE || errno == ECONNRESET)) {
            c->write_closed = true; /* answers may still be there to read; the end of them disconnects */
            watch_writable(c, false);
            return 0;
        }
        if (written < 0)
            return error_set(ret_error, ERROR_CONNECTION, errno, "cannot write to QEMU: %s", strerror(errno));
        advance(c, (size_t)written);
        if ((size_t)written < total) {
            watch_writable(c, true);
            return 0;
        }
    }
    return 0;
}

/* Out-of-band calls go to a monitor that may not have it: told only now, because only now it is known. */
static void refuse_oob(struct qmp_client *c)
{
    struct call *call;

    while (c->state == QMP_RUNNING && !c->oob) {
        _cleanup_error_ struct error *error = NULL;

        TAILQ_FOREACH(call, &c->queued, link)
        if (call->out_of_band)
            break;
        if (!call)
            return;
        error_set(&error, ERROR_NOT_SUPPORTED, EOPNOTSUPP,
                  "%s: this monitor does not take out-of-band commands (its greeting does not offer \"oob\")",
                  call->command);
        call_end(c, call, NULL, error);
    }
}

static void write_or_disconnect(struct qmp_client *c)
{
    struct error *error = NULL;

    refuse_oob(c);
    if (c->state != QMP_DISCONNECTED && flush(c, &error) < 0)
        disconnect(c, error);
}

static int on_deferred(sd_event_source *s, void *userdata)
{
    struct qmp_client *c = userdata;

    c->refs++;
    if (c->failure)
        disconnect(c, TAKE_PTR(c->failure));
    else
        write_or_disconnect(c);
    client_unref(c);
    return 0;
}

static int schedule(struct qmp_client *c)
{
    bool made = c->deferred;
    int r = event_defer(c->event, &c->deferred, on_deferred, c);

    if (r >= 0 && !made)
        sd_event_source_set_priority(c->deferred, c->priority);
    return r;
}

/* ---- queueing -------------------------------------------------------------------------------------------------- */

static int copy_string(const char *text, char **ret)
{
    if (!text)
        return 0;
    *ret = strdup(text);
    return *ret ? 0 : -ENOMEM;
}

static int format_command(const struct qmp_call *options, uint64_t id, struct call *call)
{
    struct strbuf b = {0};

    strbuf_add_string(&b, options->out_of_band ? "{\"exec-oob\": " : "{\"execute\": ");
    strbuf_add_json_string(&b, options->command);
    if (options->arguments) {
        strbuf_add_string(&b, ", \"arguments\": ");
        qmp_json_write(&b, options->arguments, 0);
    }
    strbuf_printf(&b, ", \"id\": %llu}\n", (unsigned long long)id);
    call->length = b.length;
    call->text = strbuf_steal(&b);
    return call->text ? 0 : -ENOMEM;
}

static int call_new(const struct qmp_call *o, uint64_t id, unsigned factor, struct call **ret)
{
    _cleanup_(call_freep) struct call *call = calloc(1, sizeof(*call));

    if (!call)
        return -ENOMEM;
    call->id = id;
    call->out_of_band = o->out_of_band;
    call->callback = o->callback;
    call->userdata = o->userdata;
    call->timeout = o->timeout_usec;
    if (call->timeout == 0) {
        call->timeout = qmp_default_timeout(o->command);
        if (call->timeout < UINT64_MAX / factor)
            call->timeout *= factor;
    }
    call->deadline = now_usec();
    call->deadline = call->timeout > UINT64_MAX - call->deadline ? UINT64_MAX : call->deadline + call->timeout;
    if (copy_string(o->command, &call->command) < 0 || copy_string(o->until_event, &call->until_event) < 0 ||
        copy_string(o->fail_event, &call->fail_event) < 0 || copy_string(o->event_key, &call->event_key[0]) < 0 ||
        copy_string(o->event_value, &call->event_value[0]) < 0 || copy_string(o->event_key2, &call->event_key[1]) < 0 ||
        copy_string(o->event_value2, &call->event_value[1]) < 0 || format_command(o, id, call) < 0)
        return -ENOMEM;
    if (o->n_fds > 0) {
        call->fds = reallocarray(NULL, o->n_fds, sizeof(int));
        if (!call->fds)
            return -ENOMEM;
        memcpy(call->fds, o->fds, o->n_fds * sizeof(int));
        call->n_fds = o->n_fds;
    }
    *ret = TAKE_PTR(call);
    return 0;
}

/* Behind all others; an out-of-band one goes in front of those that have not been begun and are in-band. */
static void enqueue(struct qmp_client *c, struct call *call)
{
    struct call *other = NULL;

    if (call->out_of_band) {
        TAILQ_FOREACH(other, &c->queued, link)
        if (other->written == 0 && !other->out_of_band && other->id != 1)
            break;
    }
    if (other)
        TAILQ_INSERT_BEFORE(other, call, link);
    else
        TAILQ_INSERT_TAIL(&c->queued, call, link);
    c->n_calls++;
    if (call->until_event)
        c->n_event_waits++;
}

/* Everything but the consumption of arguments and fds on failure. */
static int add_call(struct qmp_client *c, const struct qmp_call *options, uint64_t *ret_id)
{
    struct call *call;
    bool at_once;
    int r;

    if (!options->command || (options->arguments && !json_is_object(options->arguments)) || options->n_fds > MAX_FDS ||
        (options->n_fds > 0 && !options->fds))
        return -EINVAL;
    if (c->state == QMP_DISCONNECTED || c->failure)
        return -ENOTCONN;
    if (c->n_calls >= LIMIT_QMP_QUEUE)
        return -ENOBUFS;
    /* A lone command is written now; one of many waits for the end of this turn of the loop, and goes in a batch. */
    at_once = c->state == QMP_RUNNING && TAILQ_EMPTY(&c->queued) && c->in_flight == 0 && !options->out_of_band;
    r = call_new(options, c->last_id + 1, c->timeout_factor, &call);
    if (r < 0)
        return r;
    r = at_once ? 0 : schedule(c);
    if (r >= 0)
        r = watch_deadline(c, call->deadline);
    if (r < 0) {
        call->n_fds = 0; /* the caller closes them */
        call_free(call);
        return r;
    }
    enqueue(c, call);
    c->last_id = call->id;
    if (ret_id)
        *ret_id = call->id;
    if (at_once && flush(c, &c->failure) < 0)
        schedule(c);
    return 0;
}

int qmp_client_call(struct qmp_client *client, const struct qmp_call *call, uint64_t *ret_id)
{
    int r = add_call(client, call, ret_id);

    if (r < 0 && call->fds)
        for (size_t i = 0; i < call->n_fds; i++)
            fd_close(call->fds[i]);
    json_decref(call->arguments);
    return r;
}

int qmp_client_invoke(struct qmp_client *client, const char *command, json_t *arguments, qmp_reply_fn callback,
                      void *userdata)
{
    return qmp_client_call(
        client,
        &(struct qmp_call){.command = command, .arguments = arguments, .callback = callback, .userdata = userdata},
        NULL);
}

int qmp_client_cancel(struct qmp_client *client, uint64_t id)
{
    _cleanup_error_ struct error *error = NULL;
    struct call *call = find_live(client, id);

    if (!call || id == 1)
        return -ENOENT;
    error_set(&error, ERROR_CANCELLED, ECANCELED, "%s: cancelled", call->command);
    client->refs++;
    call_abandon(client, call, error);
    client_unref(client);
    return 0;
}

/* ---- what QEMU sends ------------------------------------------------------------------------------------------- */

static void protocol_error(struct qmp_client *c, const char *what, const json_t *message)
{
    _cleanup_free_ char *text = message ? qmp_json_dump(message, 0) : NULL;
    struct error *error = NULL;

    error_set(&error, ERROR_BAD_DATA, EBADMSG, "the peer broke the protocol: %s: %.200s%s", what, text ? text : "",
              text && strlen(text) > 200 ? "…" : "");
    disconnect(c, error);
}

/* A reply's "error" member as an error of ours. */
static struct error *read_error(const struct call *call, json_t *json)
{
    const char *class = json_string_value(json_object_get(json, "class"));
    const char *text = json_string_value(json_object_get(json, "desc"));
    struct error *error = NULL;

    if (!class || !text) {
        error_set(&error, ERROR_BAD_DATA, EBADMSG, "%s: QEMU answered with an error without %s", call->command,
                  class ? "a description" : "a class");
        return error;
    }
    error_set(&error, ERROR_QMP, EREMOTEIO, "%s: %s", call->command, text);
    error_set_qmp_class(error, class);
    return error;
}

static bool event_matches(const struct call *call, json_t *data, int n_keys)
{
    for (int i = 0; i < n_keys; i++) {
        const char *value;

        if (!call->event_key[i])
            continue;
        value = json_string_value(json_object_get(data, call->event_key[i]));
        if (!value || !call->event_value[i] || !streq(value, call->event_value[i]))
            return false;
    }
    return true;
}

static void fail_by_event(struct qmp_client *c, struct call *call)
{
    _cleanup_error_ struct error *error = NULL;

    error_set(&error, ERROR_QMP, EREMOTEIO, "%s: QEMU sent %s instead of %s", call->command, call->fail_event,
              call->until_event);
    error_set_qmp_class(error, "GenericError");
    call_end(c, call, NULL, error);
}

static void handle_reply(struct qmp_client *c, json_t *message)
{
    json_t *id = json_object_get(message, "id"), *result = json_object_get(message, "return");
    json_t *failure = json_object_get(message, "error");
    _cleanup_error_ struct error *error = NULL;
    struct call *call;

    if (!json_is_integer(id)) {
        protocol_error(c, "an answer without the command's id", message);
        return;
    }
    call = find_sent(c, (uint64_t)json_integer_value(id));
    if (!call || call->answered) {
        protocol_error(c, "an answer with an id that no command waits for", message);
        return;
    }
    call->answered = true;
    if (!call->out_of_band)
        c->in_flight--;
    if (call->n_fds > 0)
        c->fds_in_flight = false;
    call->n_fds = 0;
    if (failure) {
        error = read_error(call, failure);
        call_end(c, call, NULL, error);
    } else if (!result) {
        error_set(&error, ERROR_BAD_DATA, EBADMSG, "%s: QEMU's answer has neither \"return\" nor \"error\"",
                  call->command);
        call_end(c, call, NULL, error);
    } else if (call->fail_event_came) {
        fail_by_event(c, call);
    } else if (call->until_event && !call->abandoned && !call->event_data) {
        return; /* the event is still to come */
    } else if (call->event_data) {
        json_t *data = TAKE_PTR(call->event_data);

        call_end(c, call, data, NULL);
        json_decref(data);
    } else {
        call_end(c, call, result, NULL);
    }
}

/* An event may come before the reply of the command that it belongs to. True when the call has ended. */
static bool match_event(struct qmp_client *c, struct call *call, const char *name, json_t *data)
{
    if (call->abandoned || !call->until_event)
        return false;
    if (streq(call->until_event, name) && event_matches(call, data, 2)) {
        if (call->answered) {
            call_end(c, call, data, NULL);
            return true;
        }
        if (!call->event_data)
            call->event_data = json_incref(data);
    } else if (streq_ptr(call->fail_event, name) && event_matches(call, data, 1)) {
        if (call->answered) {
            fail_by_event(c, call);
            return true;
        }
        call->fail_event_came = true;
    }
    return false;
}

static void complete_event_calls(struct qmp_client *c, const char *name, json_t *data)
{
    struct call *call = c->n_event_waits > 0 ? TAILQ_FIRST(&c->sent) : NULL;

    while (call) {
        struct call *next = TAILQ_NEXT(call, link);

        /* A callback may have changed the list: from the front again. Each round ends a call, so this ends. */
        if (match_event(c, call, name, data))
            next = c->state == QMP_DISCONNECTED ? NULL : TAILQ_FIRST(&c->sent);
        call = next;
    }
}

static void on_gate(const char *name, json_t *data, uint64_t timestamp_usec, void *userdata)
{
    struct qmp_client *c = userdata;

    if (c->event_handler)
        c->event_handler(c, name, data, timestamp_usec, c->event_userdata);
}

static void handle_event(struct qmp_client *c, const char *name, json_t *message)
{
    json_t *stamp = json_object_get(message, "timestamp"), *data = json_object_get(message, "data");
    json_int_t seconds = json_integer_value(json_object_get(stamp, "seconds"));
    json_int_t micros = json_integer_value(json_object_get(stamp, "microseconds"));
    uint64_t usec = 0;

    if (seconds > 0 && seconds < INT64_MAX / 1000000 && micros >= 0 && micros < 1000000) /* -1, -1: QEMU has no clock */
        usec = (uint64_t)seconds * USEC_PER_SEC + (uint64_t)micros;
    data = json_is_object(data) ? json_incref(data) : json_object();
    if (!data)
        return;
    complete_event_calls(c, name, data);
    if (c->state != QMP_DISCONNECTED)
        event_gate_pass(c->gate, name, data, usec);
    json_decref(data);
}

static void on_negotiated(struct qmp_client *c, json_t *result, const struct error *error, void *userdata)
{
    if (c->state != QMP_NEGOTIATING)
        return;
    if (error) {
        disconnect(c, error_copy(error));
        return;
    }
    set_state(c, QMP_RUNNING);
    if (c->state == QMP_RUNNING)
        write_or_disconnect(c);
}

static bool offers_oob(json_t *qmp)
{
    json_t *capabilities = json_object_get(qmp, "capabilities"), *item;
    size_t i;

    json_array_foreach (capabilities, i, item)
        if (json_is_string(item) && streq(json_string_value(item), "oob"))
            return true;
    return false;
}

static unsigned read_version(json_t *qmp)
{
    json_t *v = json_object_get(json_object_get(qmp, "version"), "qemu");
    json_int_t part[3] = {json_integer_value(json_object_get(v, "major")),
                          json_integer_value(json_object_get(v, "minor")),
                          json_integer_value(json_object_get(v, "micro"))};

    for (int i = 0; i < 3; i++)
        if (part[i] < 0 || part[i] > 999)
            return 0;
    return (unsigned)(part[0] * 1000000 + part[1] * 1000 + part[2]);
}

/* The handshake's text is written only now that it is known whether to ask for out-of-band. */
static void handle_greeting(struct qmp_client *c, json_t *message)
{
    json_t *qmp = json_object_get(message, "QMP");
    struct call *handshake = TAILQ_FIRST(&c->queued);

    if (!json_is_object(qmp)) {
        protocol_error(c, "the first message is no greeting", message);
        return;
    }
    c->greeting = json_incref(qmp);
    c->version = read_version(qmp);
    c->oob = offers_oob(qmp);
    if (c->oob) {
        struct qmp_call options = {.command = "qmp_capabilities", .arguments = json_pack("{s:[s]}", "enable", "oob")};

        free(TAKE_PTR(handshake->text));
        if (!options.arguments || format_command(&options, 1, handshake) < 0) {
            struct error *error = NULL;

            handshake->text = strdup(""); /* it is still in the queue */
            json_decref(options.arguments);
            error_oom(&error);
            disconnect(c, error);
            return;
        }
        json_decref(options.arguments);
    }
    set_state(c, QMP_NEGOTIATING);
    if (c->state == QMP_NEGOTIATING)
        write_or_disconnect(c);
}

static void handle_message(struct qmp_client *c, json_t *message)
{
    const char *event = json_string_value(json_object_get(message, "event"));

    if (c->state == QMP_GREETING)
        handle_greeting(c, message);
    else if (event)
        handle_event(c, event, message);
    else if (json_object_get(message, "return") || json_object_get(message, "error") || json_object_get(message, "id"))
        handle_reply(c, message);
    else
        protocol_error(c, "neither an answer nor an event", message);
}

static void handle_frame(struct qmp_client *c, const struct qmp_frame *frame)
{
    struct error *error = NULL;
    json_t *message = NULL;

    if (frame->kind == QMP_FRAME_TEXT &&
        qmp_json_parse_frame(frame->text, frame->length, frame->long_number, &message, &error) >= 0) {
        if (json_is_object(message))
            handle_message(c, message);
        else
            protocol_error(c, "a message that is no object", message);
        json_decref(message);
        return;
    }
    if (!error)
        error_set(&error, ERROR_BAD_DATA, EBADMSG, "the peer broke the protocol: not JSON: %.*s",
                  (int)MIN(frame->length, (size_t)200), frame->text);
    error_wrap(&error, 0, "the peer does not speak QMP");
    disconnect(c, error);
}

static void dispatch(struct qmp_client *c)
{
    while (c->state != QMP_DISCONNECTED) {
        struct error *error = NULL;
        struct qmp_frame frame;
        int r = qmp_framing_next(&c->framing, &frame);

        if (r == -EMSGSIZE)
            error_set(&error, ERROR_LIMIT, EMSGSIZE, "a message from QEMU is longer than %u bytes",
                      LIMIT_QMP_MESSAGE_BYTES);
        else if (r < 0)
            error_set(&error, ERROR_LIMIT, ELOOP, "a message from QEMU is nested deeper than %u levels",
                      LIMIT_QMP_NESTING);
        if (r < 0) {
            disconnect(c, error);
            return;
        }
        if (frame.kind == QMP_FRAME_NONE)
            return;
        handle_frame(c, &frame);
    }
}

static void handle_eof(struct qmp_client *c, int err)
{
    size_t half = qmp_framing_pending(&c->framing);
    struct error *error = NULL;

    if (err != 0 && err != ECONNRESET && err != EIO) /* EIO: the other side of a pty has gone */
        error_set(&error, ERROR_CONNECTION, err, "cannot read from QEMU: %s", strerror(err));
    else if (half > 0)
        error_set(&error, ERROR_CONNECTION, ECONNRESET, "QEMU closed it in the middle of a message, after %zu bytes",
                  half);
    else
        error_set(&error, ERROR_CONNECTION, ECONNRESET, "QEMU closed it");
    disconnect(c, error);
}

/* One read a turn: what is left makes the loop come back, and other clients of it get theirs. */
static void read_some(struct qmp_client *c)
{
    struct error *error = NULL;
    void *room;
    size_t size;
    ssize_t n;

    if (qmp_framing_reserve(&c->framing, READ_BYTES, &room, &size) < 0) {
        error_oom(&error);
        disconnect(c, error);
        return;
    }
    n = read(c->fd, room, size);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        handle_eof(c, n < 0 ? errno : 0);
        return;
    }
    qmp_framing_commit(&c->framing, (size_t)n);
    dispatch(c);
}

static int on_io(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
    struct qmp_client *c = userdata;

    c->refs++;
    if (revents & (EPOLLIN | EPOLLHUP | EPOLLERR))
        read_some(c);
    if (c->state != QMP_DISCONNECTED && !TAILQ_EMPTY(&c->queued))
        write_or_disconnect(c);
    client_unref(c);
    return 0;
}

/* ---- construction ---------------------------------------------------------------------------------------------- */

static int init(struct qmp_client *c)
{
    struct qmp_call handshake = {.command = "qmp_capabilities", .callback = on_negotiated};
    struct call *call;
    int r;

    r = fd_set_nonblocking(c->fd, true);
    if (r >= 0)
        r = fd_set_cloexec(c->fd, true);
    if (r >= 0)
        r = event_gate_new(c->event, on_gate, c, &c->gate);
    if (r >= 0)
        r = sd_event_add_io(c->event, &c->io, c->fd, EPOLLIN, on_io, c);
    if (r >= 0)
        r = call_new(&handshake, ++c->last_id, 1, &call);
    if (r < 0)
        return r;
    enqueue(c, call);
    return watch_deadline(c, call->deadline);
}

int qmp_client_new(sd_event *event, int fd, struct qmp_client **ret)
{
    struct qmp_client *c = calloc(1, sizeof(*c));
    int r;

    if (!c) {
        fd_close(fd);
        return -ENOMEM;
    }
    c->refs = 1;
    c->event = sd_event_ref(event);
    c->fd = fd;
    c->timer_at = UINT64_MAX;
    c->timeout_factor = 1;
    TAILQ_INIT(&c->queued);
    TAILQ_INIT(&c->sent);
    qmp_framing_init(&c->framing, LIMIT_QMP_MESSAGE_BYTES, LIMIT_QMP_NESTING, false);
    r = init(c);
    if (r < 0) {
        qmp_client_free(c);
        return r;
    }
    *ret = c;
    return 0;
}

int qmp_client_set_priority(struct qmp_client *client, int64_t priority)
{
    sd_event_source *sources[] = {client->io, client->timer, client->deferred};

    client->priority = priority;
    for (size_t i = 0; i < ELEMENTSOF(sources); i++) {
        int r = sources[i] ? sd_event_source_set_priority(sources[i], priority) : 0;

        if (r < 0)
            return r;
    }
    return 0;
}

void qmp_client_set_timeout_factor(struct qmp_client *client, unsigned factor)
{
    struct call *handshake = TAILQ_FIRST(&client->queued);

    client->timeout_factor = MAX(factor, 1U);
    if (client->state == QMP_GREETING && handshake && handshake->id == 1) {
        uint64_t timeout = TIMEOUT_QMP_GREETING_USEC * client->timeout_factor;

        handshake->deadline += timeout - handshake->timeout;
        handshake->timeout = timeout;
    }
}

void qmp_client_set_event_handler(struct qmp_client *client, qmp_event_fn handler, void *userdata)
{
    client->event_handler = handler;
    client->event_userdata = userdata;
}

int qmp_client_set_event_filter(struct qmp_client *client, const char *const *patterns)
{
    return event_gate_set_filter(client->gate, patterns);
}

int qmp_client_limit_events(struct qmp_client *client, const char *pattern, uint64_t interval_usec)
{
    return event_gate_limit(client->gate, pattern, interval_usec);
}

uint64_t qmp_client_count_dropped_events(const struct qmp_client *client)
{
    return event_gate_dropped(client->gate);
}

void qmp_client_set_state_handler(struct qmp_client *client, qmp_state_fn handler, void *userdata)
{
    client->state_handler = handler;
    client->state_userdata = userdata;
}

enum qmp_state qmp_client_get_state(const struct qmp_client *client)
{
    return client->state;
}

json_t *qmp_client_get_greeting(const struct qmp_client *client)
{
    return client->greeting;
}

unsigned qmp_client_get_version(const struct qmp_client *client)
{
    return client->version;
}

uint64_t qmp_client_count_commands(const struct qmp_client *client)
{
    return client->n_sent;
}
