/* SPDX-License-Identifier: Apache-2.0 */
/* What QEMU sends: greeting, answers, events, and its end. */
#include "qmp/client-internal.h"

#include <sys/epoll.h>
#include <unistd.h>

#include "base/limits.h"
#include "qmp/json.h"

#define READ_BYTES 16384U

static void protocol_error(struct qmp_client *c, const char *what, const json_t *message)
{
    _cleanup_free_ char *text = message ? qmp_json_dump(message, 0) : NULL;
    struct error *error = NULL;

    error_set(&error, ERROR_BAD_DATA, EBADMSG, "the peer broke the protocol: %s: %.200s%s", what, text ? text : "",
              text && strlen(text) > 200 ? "…" : "");
    qmp_client_disconnect(c, error);
}

static bool is_answer_to(const struct call *call, const json_t *id)
{
    if (!call->has_id || !id)
        return !call->has_id && !id;
    return json_is_integer(id) && (uint64_t)json_integer_value(id) == call->id;
}

/* Whose answer it is; NULL: nobody's, and the client is disconnected. */
static struct call *find_answered(struct qmp_client *c, json_t *message)
{
    json_t *id = json_object_get(message, "id");
    struct call *call;

    TAILQ_FOREACH(call, &c->sent, link)
    if (!call->answered && is_answer_to(call, id))
        return call;
    protocol_error(c,
                   json_is_integer(id) ? "an answer with an id that no command waits for"
                                       : "an answer without the command's id",
                   message);
    return NULL;
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
    qmp_call_end(c, call, NULL, error);
}

static void handle_reply(struct qmp_client *c, json_t *message)
{
    json_t *result = json_object_get(message, "return"), *failure = json_object_get(message, "error");
    _cleanup_error_ struct error *error = NULL;
    struct call *call = find_answered(c, message);

    if (!call)
        return;
    call->answered = true;
    if (!call->out_of_band)
        c->in_flight--;
    if (call->n_fds > 0)
        c->fds_in_flight = false;
    call->n_fds = 0;
    if (failure) {
        error = read_error(call, failure);
        qmp_call_end(c, call, NULL, error);
    } else if (!result) {
        error_set(&error, ERROR_BAD_DATA, EBADMSG, "%s: QEMU's answer has neither \"return\" nor \"error\"",
                  call->command);
        qmp_call_end(c, call, NULL, error);
    } else if (call->fail_event_came) {
        fail_by_event(c, call);
    } else if (call->until_event && !call->abandoned && !call->event_data) {
        return; /* the event is still to come */
    } else if (call->event_data) {
        json_t *data = TAKE_PTR(call->event_data);

        qmp_call_end(c, call, data, NULL);
        json_decref(data);
    } else {
        qmp_call_end(c, call, result, NULL);
    }
}

/* An event may come before the reply of the command that it belongs to. True when the call has ended. */
static bool match_event(struct qmp_client *c, struct call *call, const char *name, json_t *data)
{
    if (call->abandoned || !call->until_event)
        return false;
    if (streq(call->until_event, name) && event_matches(call, data, 2)) {
        if (call->answered) {
            qmp_call_end(c, call, data, NULL);
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

void qmp_client_on_negotiated(struct qmp_client *c, json_t *result, const struct error *error, void *userdata)
{
    if (c->state != QMP_NEGOTIATING)
        return;
    if (error) {
        qmp_client_disconnect(c, error_copy(error));
        return;
    }
    qmp_client_set_state(c, QMP_RUNNING);
    if (c->state == QMP_RUNNING)
        qmp_client_write(c);
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
    c->oob = c->want_oob && offers_oob(qmp);
    if (c->oob) {
        struct qmp_call options = {.command = "qmp_capabilities", .arguments = json_pack("{s:[s]}", "enable", "oob")};

        free(TAKE_PTR(handshake->text));
        if (!options.arguments || qmp_call_format(&options, handshake) < 0) {
            struct error *error = NULL;

            handshake->text = strdup(""); /* it is still in the queue */
            json_decref(options.arguments);
            error_oom(&error);
            qmp_client_disconnect(c, error);
            return;
        }
        json_decref(options.arguments);
    }
    qmp_client_set_state(c, QMP_NEGOTIATING);
    if (c->state == QMP_NEGOTIATING)
        qmp_client_write(c);
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
    qmp_client_disconnect(c, error);
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
            qmp_client_disconnect(c, error);
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
    qmp_client_disconnect(c, error);
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
        qmp_client_disconnect(c, error);
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

int qmp_client_on_io(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
    struct qmp_client *c = userdata;

    c->refs++;
    if (revents & (EPOLLIN | EPOLLHUP | EPOLLERR))
        read_some(c);
    if (c->state != QMP_DISCONNECTED && !TAILQ_EMPTY(&c->queued))
        qmp_client_write(c);
    qmp_client_write_beginning(c);
    qmp_client_unref(c);
    return 0;
}
