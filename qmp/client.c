/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The QMP client: GREETING -> NEGOTIATING -> RUNNING -> DISCONNECTED. A call goes from `queued` (its text may be
 * written in part) to `sent`, and leaves when its reply, and its event if it waits for one, have come. A call that was
 * cancelled or timed out after it was sent stays there without a callback, to swallow the late reply.
 */
#include "qmp/client-internal.h"
#include <vmlet/qmp.h>

#include <sys/epoll.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"

void qmp_client_unref(struct qmp_client *c)
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
void qmp_client_disconnect(struct qmp_client *c, struct error *error)
{
    if (c->state == QMP_DISCONNECTED) {
        error_free(error);
        return;
    }
    error_wrap(&error, 0, "QMP connection lost%s", where(c));
    c->state = QMP_DISCONNECTED;
    release_sources(c);
    qmp_calls_fail(c, error);
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
    qmp_calls_fail(client, error);
    error_free(error);
    qmp_client_unref(client);
}

void qmp_client_set_state(struct qmp_client *c, enum qmp_state state)
{
    c->state = state;
    if (c->state_handler)
        c->state_handler(c, state, NULL, c->state_userdata);
}
/* ---- construction ---------------------------------------------------------------------------------------------- */

static void on_gate(const char *name, json_t *data, uint64_t timestamp_usec, void *userdata)
{
    struct qmp_client *c = userdata;

    if (c->event_handler)
        c->event_handler(c, name, data, timestamp_usec, c->event_userdata);
}

static int init(struct qmp_client *c)
{
    struct qmp_call handshake = {.command = "qmp_capabilities", .callback = qmp_client_on_negotiated};
    struct call *call;
    int r;

    r = fd_set_nonblocking(c->fd, true);
    if (r >= 0)
        r = fd_set_cloexec(c->fd, true);
    if (r >= 0)
        r = event_gate_new(c->event, on_gate, c, &c->gate);
    if (r >= 0)
        r = sd_event_add_io(c->event, &c->io, c->fd, EPOLLIN, qmp_client_on_io, c);
    if (r >= 0)
        r = qmp_call_new(&handshake, ++c->last_id, true, 1, &call);
    if (r < 0)
        return r;
    qmp_call_enqueue(c, call);
    return qmp_client_watch_deadline(c, call->deadline);
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

int qmp_client_enable_oob(struct qmp_client *client)
{
    if (client->state != QMP_GREETING)
        return -EBUSY;
    client->want_oob = true;
    return 0;
}

void qmp_client_begin_ahead(struct qmp_client *client)
{
    client->begins_ahead = true;
    qmp_client_write_beginning(client);
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
