/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest agent client. The other side is a guest: it may answer late, twice, never, or with anything at all.
 *
 * UNSYNCED -> SYNCING -> IDLE <-> BUSY. Whatever may have left the channel in an unknown place (opened anew, an answer
 * that failed to come, something that nobody asked for) leads to UNSYNCED, and the next command is preceded by 0xFF
 * (the agent's parser drops what it has) and guest-sync-delimited with a random number; all that comes before 0xFF and
 * that number is dropped. Commands carry an id; an agent that returns it (QEMU 3.0 and later) is held to it, and an
 * older one that refuses the member gets none.
 */
#include "qmp/agent-internal.h"

#include <stdio.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/strbuf.h"
#include "base/utf8.h"
#include "qmp/deadlines.h"
#include "qmp/framing.h"
#include "qmp/json.h"

#define READ_BYTES 16384U
/* Of a message that is not the answer we wait for: it is dropped, so there is no need to hold it. */
#define STRAY_BYTES 65536U

enum qga_state {
    QGA_UNSYNCED,
    QGA_SYNCING,
    QGA_IDLE,
    QGA_BUSY,
    QGA_CLOSED,
};

struct qga_call {
    TAILQ_ENTRY(qga_call) link;
    char *command;
    json_t *arguments;
    uint64_t timeout, deadline;
    bool silent;
    qga_reply_fn callback;
    void *userdata;
};

TAILQ_HEAD(qga_call_list, qga_call);

struct qga_client {
    unsigned refs;
    bool freed, not_socket, want_write;
    sd_event *event;
    int fd;
    enum qga_state state;
    sd_event_source *io, *timer, *deferred;
    int64_t priority;
    struct qmp_framing framing;
    struct strbuf output;
    struct qga_call_list calls; /* the first is the one under way when BUSY */
    size_t n_calls;
    LIST_HEAD(, qga_operation) operations;
    uint64_t sync_id, last_id, sync_deadline, sync_again;
    unsigned syncs; /* sent since the channel was in step, and perhaps not answered yet */
    bool marked;    /* 0xFF has come since the synchronisation was sent */
    bool with_ids;  /* the agent takes and returns ids */
    bool garbage;   /* something that is no answer came while we waited */
};

/* ---- calls ----------------------------------------------------------------------------------------------------- */

uint64_t qga_deadline(uint64_t timeout_usec)
{
    uint64_t now = now_usec();

    return timeout_usec > UINT64_MAX - now ? UINT64_MAX : now + timeout_usec;
}

static void call_free(struct qga_call *call)
{
    json_decref(call->arguments);
    free(call->command);
    free(call);
}

static void call_end(struct qga_client *a, struct qga_call *call, json_t *result, const struct error *error)
{
    TAILQ_REMOVE(&a->calls, call, link);
    a->n_calls--;
    if (call->callback)
        call->callback(a, result, error, call->userdata);
    call_free(call);
}

/* Those that are queued now; a callback may queue new ones, which stay unless the client is closed. */
static void fail_calls(struct qga_client *a, const struct error *error)
{
    struct qga_call *call, *last = TAILQ_LAST(&a->calls, qga_call_list);
    struct qga_operation *operation, *next;
    bool end = !last;

    while (!end && (call = TAILQ_FIRST(&a->calls))) {
        end = call == last;
        call_end(a, call, NULL, error);
    }
    for (operation = LIST_FIRST(&a->operations); operation; operation = next) {
        next = LIST_NEXT(operation, link);
        if (!operation->in_call) {
            operation->end(operation, error);
            next = LIST_FIRST(&a->operations); /* the callback may have changed the list */
        }
    }
}

static void client_unref(struct qga_client *a)
{
    if (--a->refs > 0)
        return;
    qmp_framing_done(&a->framing);
    strbuf_done(&a->output);
    sd_event_unref(a->event);
    free(a);
}

static void release_sources(struct qga_client *a)
{
    a->io = sd_event_source_disable_unref(a->io);
    a->timer = sd_event_source_disable_unref(a->timer);
    a->deferred = sd_event_source_disable_unref(a->deferred);
    a->fd = fd_close(a->fd);
}

void qga_client_free(struct qga_client *agent)
{
    struct error *error = NULL;

    if (!agent || agent->freed)
        return;
    agent->freed = true;
    agent->state = QGA_CLOSED;
    release_sources(agent);
    error_set(&error, ERROR_CANCELLED, ECANCELED, "the guest agent's channel was closed by this program");
    fail_calls(agent, error);
    error_free(error);
    client_unref(agent);
}

/* The place in the stream is lost. */
static void lose_sync(struct qga_client *a)
{
    if (a->state == QGA_CLOSED)
        return;
    a->state = QGA_UNSYNCED;
    qmp_framing_reset(&a->framing);
    strbuf_clear(&a->output);
}

static void close_channel(struct qga_client *a, int err)
{
    _cleanup_error_ struct error *error = NULL;

    if (a->state == QGA_CLOSED)
        return;
    a->state = QGA_CLOSED;
    release_sources(a);
    error_set(&error, ERROR_AGENT_NOT_CONNECTED, err ? err : ECONNRESET, "QEMU closed the guest agent's channel%s%s",
              err ? ": " : "", err ? strerror(err) : "");
    fail_calls(a, error);
}

void qga_client_reset(struct qga_client *agent)
{
    _cleanup_error_ struct error *error = NULL;

    if (agent->state == QGA_CLOSED)
        return;
    agent->refs++;
    lose_sync(agent);
    error_set(&error, ERROR_AGENT_NOT_CONNECTED, ENOTCONN, "the guest closed the agent's channel");
    fail_calls(agent, error);
    client_unref(agent);
}

bool qga_client_is_open(const struct qga_client *agent)
{
    return agent->state != QGA_CLOSED;
}

sd_event *qga_client_event(struct qga_client *agent)
{
    return agent->event;
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

static void watch_writable(struct qga_client *a, bool on)
{
    if (a->want_write == on || !a->io)
        return;
    a->want_write = on;
    sd_event_source_set_io_events(a->io, on ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void flush(struct qga_client *a)
{
    while (a->state != QGA_CLOSED && a->output.length > 0) {
        ssize_t n = -1;

        if (!a->not_socket) {
            n = send(a->fd, a->output.data, a->output.length, MSG_NOSIGNAL | MSG_DONTWAIT);
            a->not_socket = n < 0 && errno == ENOTSOCK;
        }
        if (a->not_socket)
            n = write(a->fd, a->output.data, a->output.length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) {
            close_channel(a, errno);
            return;
        }
        strbuf_consume(&a->output, (size_t)n);
    }
    watch_writable(a, a->output.length > 0);
}

static void write_command(struct qga_client *a, const char *command, json_t *arguments, bool with_id)
{
    strbuf_add_string(&a->output, "{\"execute\": ");
    strbuf_add_json_string(&a->output, command);
    if (arguments) {
        strbuf_add_string(&a->output, ", \"arguments\": ");
        qmp_json_write(&a->output, arguments, 0);
    }
    if (with_id)
        strbuf_printf(&a->output, ", \"id\": %llu", (unsigned long long)++a->last_id);
    strbuf_add_string(&a->output, "}\n");
}

/* Repeated with the same number: an agent that opens its port only now drops what was there before it. */
static void send_sync(struct qga_client *a)
{
    json_t *arguments;

    a->sync_again = qga_deadline(QGA_SYNC_REPEAT_USEC);
    if (a->output.length > 0) /* not even the last one has been taken */
        return;
    a->syncs++;
    arguments = json_pack("{s:I}", "id", (json_int_t)a->sync_id);
    strbuf_add(&a->output, "\xff", 1);
    write_command(a, "guest-sync-delimited", arguments, a->with_ids);
    json_decref(arguments);
    flush(a);
}

static void begin_sync(struct qga_client *a, bool with_ids)
{
    /* 52 bits: the Windows agent and JavaScript-minded parsers keep doubles. */
    if (getrandom(&a->sync_id, sizeof(a->sync_id), GRND_NONBLOCK) != sizeof(a->sync_id))
        a->sync_id = now_usec() * 2654435761U;
    a->sync_id &= (1ULL << 52) - 1;
    a->state = QGA_SYNCING;
    a->marked = false;
    a->garbage = false;
    a->syncs = 0;
    a->with_ids = with_ids;
    a->sync_deadline = qga_deadline(TIMEOUT_QGA_SYNC_USEC);
    a->framing.limit = STRAY_BYTES;
    qmp_framing_reset(&a->framing);
    strbuf_clear(&a->output);
    send_sync(a);
}

static void begin_call(struct qga_client *a, struct qga_call *call)
{
    a->state = QGA_BUSY;
    a->garbage = a->marked = false;
    a->framing.limit = LIMIT_QGA_MESSAGE_BYTES;
    write_command(a, call->command, call->arguments, a->with_ids);
    flush(a);
}

/* ---- what moves it on ------------------------------------------------------------------------------------------- */

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata);

static void arm_timer(struct qga_client *a)
{
    uint64_t next = a->state == QGA_SYNCING ? MIN(a->sync_deadline, a->sync_again) : UINT64_MAX, now = now_usec();
    bool made = a->timer;
    struct qga_call *call;

    TAILQ_FOREACH(call, &a->calls, link)
    next = MIN(next, call->deadline);
    if (next == UINT64_MAX) {
        event_disarm_timer(a->timer);
        return;
    }
    if (event_arm_timer(a->event, &a->timer, next > now ? next - now : 0, on_timer, a) >= 0 && !made)
        sd_event_source_set_priority(a->timer, a->priority);
}

/* Sends what can be sent in this state. The caller holds a reference. */
static void advance(struct qga_client *a)
{
    struct qga_call *call;

    if (a->output.failed)
        close_channel(a, ENOMEM);
    while (a->state != QGA_CLOSED && (call = TAILQ_FIRST(&a->calls))) {
        if (a->state == QGA_UNSYNCED) {
            begin_sync(a, true);
        } else if (a->state == QGA_IDLE) {
            begin_call(a, call);
        } else if (a->state == QGA_BUSY && call->silent && a->output.length == 0) {
            json_t *null = json_null();

            /* It may still fail and say so, at any later time. */
            lose_sync(a);
            call_end(a, call, null, NULL);
            continue;
        }
        if (a->state != QGA_BUSY || !call->silent || a->output.length > 0)
            break;
    }
    if (a->state != QGA_CLOSED)
        arm_timer(a);
}

static void fail_sync(struct qga_client *a)
{
    _cleanup_error_ struct error *error = NULL;

    error_set(&error, ERROR_AGENT_NOT_CONNECTED, ETIMEDOUT, "the guest agent did not answer within %g s%s",
              (double)TIMEOUT_QGA_SYNC_USEC / (double)USEC_PER_SEC,
              a->garbage ? " (something came that is no answer of an agent)" : "");
    error_set_remedy(error, "Check that qemu-guest-agent is installed and runs in the guest.");
    lose_sync(a);
    fail_calls(a, error);
}

static void time_out(struct qga_client *a, struct qga_call *call)
{
    _cleanup_error_ struct error *error = NULL;
    bool under_way = a->state == QGA_BUSY && call == TAILQ_FIRST(&a->calls);

    error_set(&error, ERROR_TIMED_OUT, ETIMEDOUT, "%s: %s within %g s%s", call->command,
              under_way ? "the guest agent did not answer" : "not sent to the guest agent",
              (double)call->timeout / (double)USEC_PER_SEC,
              under_way && a->garbage   ? " (something came that is no answer of an agent)"
              : under_way               ? ""
              : a->state == QGA_BUSY    ? ", because a command before it has not ended"
              : a->state == QGA_SYNCING ? ", because it does not answer"
                                        : "");
    if (under_way)
        lose_sync(a);
    call_end(a, call, NULL, error);
}

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
    struct qga_client *a = userdata;
    uint64_t now = now_usec();
    struct qga_call *call;

    a->refs++;
    do {
        TAILQ_FOREACH(call, &a->calls, link)
        if (call->deadline <= now)
            break;
        if (call)
            time_out(a, call);
    } while (call && a->state != QGA_CLOSED);
    if (a->state == QGA_SYNCING && a->sync_deadline <= now)
        fail_sync(a);
    else if (a->state == QGA_SYNCING && a->sync_again <= now)
        send_sync(a);
    if (a->state != QGA_CLOSED)
        advance(a);
    client_unref(a);
    return 0;
}

static int on_deferred(sd_event_source *s, void *userdata)
{
    struct qga_client *a = userdata;

    a->refs++;
    advance(a);
    client_unref(a);
    return 0;
}

/* ---- what the guest sends --------------------------------------------------------------------------------------- */

/* An agent older than QEMU 3.0 refuses the member "id". */
static bool refuses_id(json_t *message)
{
    const char *text = json_string_value(json_object_get(json_object_get(message, "error"), "desc"));

    return text && strstr(text, "'id'");
}

static void handle_sync(struct qga_client *a, json_t *message)
{
    json_t *value = json_object_get(message, "return");

    if (a->marked && json_is_integer(value) && (uint64_t)json_integer_value(value) == a->sync_id) {
        a->with_ids = a->with_ids && json_is_integer(json_object_get(message, "id"));
        a->syncs--;
        a->state = QGA_IDLE;
        return;
    }
    a->marked = false;
    if (a->with_ids && refuses_id(message))
        begin_sync(a, false);
}

/* A slow guest answers more than the first of several synchronisations. Each may come as two messages: that the agent
 * cannot parse 0xFF (qemu-ga of 7.2 says so), and the number. */
static bool is_answer_of_repeated_sync(struct qga_client *a, json_t *message)
{
    json_t *value = json_object_get(message, "return");

    if (a->syncs == 0)
        return false;
    if (json_is_integer(value) && (uint64_t)json_integer_value(value) == a->sync_id) {
        a->syncs--;
        a->marked = false;
        return true;
    }
    return json_object_get(message, "error") && !json_object_get(message, "id");
}

static void handle_answer(struct qga_client *a, json_t *message)
{
    struct qga_call *call = TAILQ_FIRST(&a->calls);
    json_t *result = json_object_get(message, "return"), *failure = json_object_get(message, "error");
    json_t *id = json_object_get(message, "id");
    const char *text = json_string_value(json_object_get(failure, "desc"));
    const char *class = json_string_value(json_object_get(failure, "class"));
    _cleanup_error_ struct error *error = NULL;

    a->syncs = 0; /* it answers in order */
    /* An error without an id is for a text that the agent could not parse. */
    if (a->with_ids && (id ? json_integer_value(id) != (json_int_t)a->last_id : !failure)) {
        a->garbage = true; /* somebody else's, or one that was thought lost */
        return;
    }
    if (failure && text) {
        error_set(&error, ERROR_AGENT, EREMOTEIO, "%s: the guest agent says: %s", call->command, text);
        if (class)
            error_set_qmp_class(error, class);
    } else if (failure || !result) {
        error_set(&error, ERROR_BAD_DATA, EBADMSG, "%s: the guest agent's answer has %s", call->command,
                  failure ? "an error without a description" : "neither \"return\" nor \"error\"");
    }
    a->state = QGA_IDLE;
    call_end(a, call, error ? NULL : result, error);
}

/* Consumes the error. */
static void fail_current(struct qga_client *a, struct error *error)
{
    struct qga_call *call = TAILQ_FIRST(&a->calls);

    error_wrap(&error, 0, "%s: the guest agent's answer cannot be used", call->command);
    lose_sync(a);
    call_end(a, call, NULL, error);
    error_free(error);
}

static bool nobody_asked(const struct qga_client *a)
{
    return a->state == QGA_UNSYNCED || (a->state == QGA_IDLE && a->syncs == 0);
}

static void handle_frame(struct qga_client *a, const struct qmp_frame *frame)
{
    _cleanup_error_ struct error *error = NULL;
    json_t *message = NULL;

    if (frame->kind == QMP_FRAME_MARK) {
        a->marked = true;
        return;
    }
    if (nobody_asked(a)) {
        lose_sync(a);
        return;
    }
    if (frame->kind == QMP_FRAME_JUNK) {
        a->garbage = true;
        a->marked = false;
        return;
    }
    if (qmp_json_parse_frame(frame->text, frame->length, frame->long_number, &message, &error) < 0 ||
        !json_is_object(message)) {
        a->garbage = true;
        a->marked = false;
        if (a->state == QGA_BUSY) {
            if (!error)
                error_set(&error, ERROR_BAD_DATA, EBADMSG, "it is no JSON object");
            fail_current(a, TAKE_PTR(error));
        }
    } else if (a->state == QGA_SYNCING) {
        handle_sync(a, message);
    } else if (!is_answer_of_repeated_sync(a, message)) {
        if (a->state == QGA_BUSY)
            handle_answer(a, message);
        else
            lose_sync(a);
    }
    json_decref(message);
}

static void dispatch(struct qga_client *a)
{
    for (;;) {
        struct error *error = NULL;
        struct qmp_frame frame;
        int r;

        if (a->state == QGA_CLOSED)
            return;
        r = qmp_framing_next(&a->framing, &frame);
        if (r < 0 && a->state == QGA_BUSY) {
            error_set(&error, ERROR_LIMIT, r, "it is longer than %u bytes or nested deeper than %u levels",
                      LIMIT_QGA_MESSAGE_BYTES, LIMIT_QMP_NESTING);
            fail_current(a, error);
            return;
        }
        if (r < 0) { /* a stray one: only the next 0xFF matters */
            qmp_framing_reset(&a->framing);
            return;
        }
        if (frame.kind == QMP_FRAME_NONE)
            break;
        handle_frame(a, &frame);
    }
    /* Half of something that nobody asked for. */
    if (nobody_asked(a) && qmp_framing_pending(&a->framing) > 0)
        lose_sync(a);
}

static void read_some(struct qga_client *a)
{
    void *room;
    size_t size;
    ssize_t n;

    if (qmp_framing_reserve(&a->framing, READ_BYTES, &room, &size) < 0) {
        close_channel(a, ENOMEM);
        return;
    }
    n = read(a->fd, room, size);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        close_channel(a, n < 0 && errno != EIO ? errno : 0); /* EIO: a pty whose other side has gone */
        return;
    }
    qmp_framing_commit(&a->framing, (size_t)n);
    dispatch(a);
}

static int on_io(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
    struct qga_client *a = userdata;

    a->refs++;
    if (revents & (EPOLLIN | EPOLLHUP | EPOLLERR))
        read_some(a);
    if (revents & EPOLLOUT)
        flush(a);
    if (a->state != QGA_CLOSED)
        advance(a);
    client_unref(a);
    return 0;
}

/* ---- interface -------------------------------------------------------------------------------------------------- */

static int add_call(struct qga_client *a, const char *command, json_t *arguments, uint64_t timeout_usec,
                    qga_reply_fn callback, void *userdata)
{
    bool made = a->deferred;
    struct qga_call *call;
    int r;

    if (!command || (arguments && !json_is_object(arguments)))
        return -EINVAL;
    if (a->state == QGA_CLOSED)
        return -ENOTCONN;
    if (a->n_calls >= LIMIT_QGA_QUEUE)
        return -ENOBUFS;
    r = event_defer(a->event, &a->deferred, on_deferred, a);
    if (r < 0)
        return r;
    if (!made)
        sd_event_source_set_priority(a->deferred, a->priority);
    call = calloc(1, sizeof(*call));
    if (!call)
        return -ENOMEM;
    call->command = strdup(command);
    if (!call->command) {
        free(call);
        return -ENOMEM;
    }
    call->arguments = json_incref(arguments);
    call->timeout = timeout_usec ? timeout_usec : qga_default_timeout(command);
    call->deadline = qga_deadline(call->timeout);
    call->silent = !qga_answers_on_success(command);
    call->callback = callback;
    call->userdata = userdata;
    TAILQ_INSERT_TAIL(&a->calls, call, link);
    a->n_calls++;
    return 0;
}

int qga_client_call(struct qga_client *agent, const char *command, json_t *arguments, uint64_t timeout_usec,
                    qga_reply_fn callback, void *userdata)
{
    int r = add_call(agent, command, arguments, timeout_usec, callback, userdata);

    json_decref(arguments);
    return r;
}

int qga_client_new(sd_event *event, int fd, struct qga_client **ret)
{
    struct qga_client *a = calloc(1, sizeof(*a));
    int r;

    if (!a) {
        fd_close(fd);
        return -ENOMEM;
    }
    a->refs = 1;
    a->event = sd_event_ref(event);
    a->fd = fd;
    TAILQ_INIT(&a->calls);
    LIST_INIT(&a->operations);
    qmp_framing_init(&a->framing, STRAY_BYTES, LIMIT_QMP_NESTING, true);
    r = fd_set_nonblocking(fd, true);
    if (r >= 0)
        r = fd_set_cloexec(fd, true);
    if (r >= 0)
        r = sd_event_add_io(event, &a->io, fd, EPOLLIN, on_io, a);
    if (r < 0) {
        qga_client_free(a);
        return r;
    }
    *ret = a;
    return 0;
}

int qga_client_set_priority(struct qga_client *agent, int64_t priority)
{
    sd_event_source *sources[] = {agent->io, agent->timer, agent->deferred};

    agent->priority = priority;
    for (size_t i = 0; i < ELEMENTSOF(sources); i++) {
        int r = sources[i] ? sd_event_source_set_priority(sources[i], priority) : 0;

        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- for exec and files ------------------------------------------------------------------------------------------ */

void qga_operation_begin(struct qga_client *agent, struct qga_operation *operation)
{
    operation->agent = agent;
    LIST_INSERT_HEAD(&agent->operations, operation, link);
}

void qga_operation_finish(struct qga_operation *operation)
{
    LIST_REMOVE(operation, link);
}

int qga_operation_call(struct qga_operation *operation, const char *command, json_t *arguments, uint64_t deadline,
                       qga_reply_fn callback)
{
    uint64_t now = now_usec();
    int r;

    if (!arguments)
        return -ENOMEM;
    r = qga_client_call(operation->agent, command, arguments,
                        deadline == UINT64_MAX ? UINT64_MAX
                        : deadline > now       ? deadline - now
                                               : 1,
                        callback, operation);
    operation->in_call = r >= 0;
    return r;
}

json_t *qga_json_text(const char *data, size_t length)
{
    _cleanup_(strbuf_done) struct strbuf b = {0};

    while (length > 0) {
        size_t n = *data == '\0' ? 0 : utf8_sequence_length(data, length);

        if (n == 0) {
            strbuf_add_string(&b, "\xef\xbf\xbd");
            n = 1;
        } else {
            strbuf_add(&b, data, n);
        }
        data += n;
        length -= n;
    }
    return b.failed ? NULL : json_stringn(strbuf_text(&b), b.length);
}

int qga_decode_member(json_t *object, const char *name, char **ret_data, size_t *ret_length)
{
    json_t *member = json_object_get(object, name);

    if (!member)
        return base64_decode("", 0, ret_data, ret_length);
    if (!json_is_string(member))
        return -EINVAL;
    return base64_decode(json_string_value(member), json_string_length(member), ret_data, ret_length);
}
