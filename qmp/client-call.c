/* SPDX-License-Identifier: Apache-2.0 */
/* One command from its making to its end: queue, deadline, cancellation. */
#include "qmp/client-internal.h"

#include <stdio.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/strbuf.h"
#include "qmp/deadlines.h"
#include "qmp/json.h"
#include "json/text.h"

DEFINE_CLEANUP(struct call *, qmp_call_free)

void qmp_call_close_fds(struct call *call)
{
    for (size_t i = 0; call->fds && i < call->n_fds; i++)
        fd_close(call->fds[i]);
    free(TAKE_PTR(call->fds));
}

void qmp_call_free(struct call *call)
{
    if (!call)
        return;
    qmp_call_close_fds(call);
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

/* Takes the call off its list. */
static void call_unlink(struct qmp_client *c, struct call *call)
{
    if (qmp_call_is_sent(call)) {
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
void qmp_call_end(struct qmp_client *c, struct call *call, json_t *result, const struct error *error)
{
    call_unlink(c, call);
    call_deliver(c, call, result, error);
    qmp_call_free(call);
}

/* The caller is told now; what has been written, if only in part, stays until its reply has come. */
static void call_abandon(struct qmp_client *c, struct call *call, const struct error *error)
{
    qmp_reply_fn callback = call->callback;

    if (qmp_call_is_sent(call) ? call->answered : call->written == 0) {
        qmp_call_end(c, call, NULL, error);
        return;
    }
    call->abandoned = true;
    call->deadline = UINT64_MAX;
    if (callback)
        callback(c, NULL, error, call->userdata);
}

static struct call *find_in(const struct call_list *list, uint64_t id)
{
    struct call *call;

    TAILQ_FOREACH(call, list, link)
    if (call->id == id)
        return call;
    return NULL;
}

static struct call *find_live(const struct qmp_client *c, uint64_t id)
{
    struct call *call = find_in(&c->sent, id);

    if (!call)
        call = find_in(&c->queued, id);
    return call && !call->abandoned ? call : NULL;
}

void qmp_calls_fail(struct qmp_client *c, const struct error *error)
{
    struct call *call;

    while ((call = TAILQ_FIRST(&c->sent)) || (call = TAILQ_FIRST(&c->queued)))
        qmp_call_end(c, call, NULL, error);
}

/* ---- deadlines ------------------------------------------------------------------------------------------------- */

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata);

/*
 * The timer is only ever moved to an earlier time. It may fire for a call that has ended long ago, once; a fast
 * exchange does not touch it at all.
 */
int qmp_client_watch_deadline(struct qmp_client *c, uint64_t deadline)
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
    else if (!qmp_call_is_sent(call))
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
            qmp_client_disconnect(c, TAKE_PTR(error));
            break;
        }
        time_out(c, call);
    }
    if (c->state != QMP_DISCONNECTED && next != UINT64_MAX)
        qmp_client_watch_deadline(c, next);
    qmp_client_unref(c);
    return 0;
}

/* ---- queueing -------------------------------------------------------------------------------------------------- */

static int copy_string(const char *text, char **ret)
{
    if (!text)
        return 0;
    *ret = strdup(text);
    return *ret ? 0 : -ENOMEM;
}

/* Without blanks: QEMU reads its monitor byte by byte (monitor_can_read() in its monitor/monitor.c says 1), which costs
 * it several system calls each. */
int qmp_call_format(const struct qmp_call *options, struct call *call)
{
    struct strbuf b = {0};

    strbuf_add_string(&b, options->out_of_band ? "{\"exec-oob\":" : QMP_EXECUTE);
    strbuf_add_json_string(&b, options->command);
    if (options->arguments) {
        strbuf_add_string(&b, ",\"arguments\":");
        qmp_json_write(&b, options->arguments, JSON_TEXT_COMPACT);
    }
    if (call->has_id) {
        strbuf_add_string(&b, ",\"id\":");
        strbuf_add_integer(&b, (int64_t)call->id);
    }
    /* not a byte behind one with fds: see may_send() */
    strbuf_add_string(&b, options->n_fds > 0 ? "}" : "}\n");
    call->length = b.length;
    call->text = strbuf_steal(&b);
    return call->text ? 0 : -ENOMEM;
}

int qmp_call_new(const struct qmp_call *o, uint64_t id, bool has_id, unsigned factor, struct call **ret)
{
    /* glibc's calloc() passes its cache of freed blocks by */
    _cleanup_(qmp_call_freep) struct call *call = malloc(sizeof(*call));

    if (!call)
        return -ENOMEM;
    *call = (struct call){
        .id = id,
        .has_id = has_id,
        .out_of_band = o->out_of_band,
        .callback = o->callback,
        .userdata = o->userdata,
        .timeout = o->timeout_usec,
    };
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
        copy_string(o->event_value2, &call->event_value[1]) < 0 || qmp_call_format(o, call) < 0)
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
void qmp_call_enqueue(struct qmp_client *c, struct call *call)
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

    if (!options->command || (options->arguments && !json_is_object(options->arguments)) ||
        options->n_fds > QMP_MAX_FDS || (options->n_fds > 0 && !options->fds))
        return -EINVAL;
    if (c->state == QMP_DISCONNECTED || c->failure)
        return -ENOTCONN;
    if (c->n_calls >= LIMIT_QMP_QUEUE)
        return -ENOBUFS;
    /* A lone command is written now; one of many waits for the end of this turn of the loop, and goes in a batch. */
    at_once = c->state == QMP_RUNNING && TAILQ_EMPTY(&c->queued) && c->in_flight == 0 && !options->out_of_band;
    r = qmp_call_new(options, c->last_id + 1, !(options->is_urgent && at_once), c->timeout_factor, &call);
    if (r < 0)
        return r;
    r = at_once ? 0 : qmp_client_schedule(c);
    if (r >= 0)
        r = qmp_client_watch_deadline(c, call->deadline);
    if (r < 0) {
        call->n_fds = 0; /* the caller closes them */
        qmp_call_free(call);
        return r;
    }
    qmp_call_enqueue(c, call);
    c->last_id = call->id;
    if (ret_id)
        *ret_id = call->id;
    if (at_once && qmp_client_flush(c, &c->failure) < 0)
        qmp_client_schedule(c);
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
    qmp_client_unref(client);
    return 0;
}
