/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of the QMP client: client.c (its life), client-call.c (calls and their deadlines), client-write.c (commands
 * to QEMU), client-read.c (what QEMU sends). Whoever calls a function that may call back holds a reference.
 */
#pragma once

#include <vmlet/qmp.h>

#include <sys/queue.h>

#include "base/error.h"
#include "base/event.h"
#include "qmp/events.h"
#include "qmp/framing.h"

#define QMP_MAX_FDS 16U /* QEMU's chardev/char-socket.c: TCP_MAX_FDS */

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
    bool has_id; /* on the wire; of those that wait for their answer, one at most has none */
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
    bool want_oob, oob, fds_in_flight, want_write, write_closed, begins_ahead;
    size_t n_ahead; /* so many bytes of the next command's text are written */
    json_t *greeting;
    unsigned version;
    struct error *failure; /* found where no callback may be called; the deferred handler disconnects */
    struct event_gate *gate;
    qmp_event_fn event_handler;
    void *event_userdata;
    qmp_state_fn state_handler;
    void *state_userdata;
};

/* ---- client.c ---------------------------------------------------------------------------------------------------- */

void qmp_client_unref(struct qmp_client *c);
/* Ends everything; consumes the error. */
void qmp_client_disconnect(struct qmp_client *c, struct error *error);
void qmp_client_set_state(struct qmp_client *c, enum qmp_state state);

/* ---- client-call.c ----------------------------------------------------------------------------------------------- */

static inline bool qmp_call_is_sent(const struct call *call)
{
    return call->text == NULL;
}

/* factor: of the default deadline. The fds are the call's once this has succeeded. */
int qmp_call_new(const struct qmp_call *options, uint64_t id, bool has_id, unsigned factor, struct call **ret);
void qmp_call_free(struct call *call);
/* What every in-band command's text begins with. */
#define QMP_EXECUTE "{\"execute\":"
/* Writes the text of the command. */
int qmp_call_format(const struct qmp_call *options, struct call *call);
void qmp_call_close_fds(struct call *call);
void qmp_call_enqueue(struct qmp_client *c, struct call *call);
/* Exactly one of result and error; the call is gone afterwards, and perhaps the client's other calls. */
void qmp_call_end(struct qmp_client *c, struct call *call, json_t *result, const struct error *error);
void qmp_calls_fail(struct qmp_client *c, const struct error *error);
/* The timer fires at this time or before. */
int qmp_client_watch_deadline(struct qmp_client *c, uint64_t deadline);

/* ---- client-write.c ---------------------------------------------------------------------------------------------- */

/* Writes what may be written, in as few system calls as its fds allow. */
int qmp_client_flush(struct qmp_client *c, struct error **ret_error);
/* The same, and what cannot be sent to this monitor fails; a failure to write disconnects. */
void qmp_client_write(struct qmp_client *c);
/* For qmp_client_begin_ahead(). A failure to write shows at the next command. */
void qmp_client_write_beginning(struct qmp_client *c);
/* Writes at the end of this turn of the loop. */
int qmp_client_schedule(struct qmp_client *c);

/* ---- client-read.c ----------------------------------------------------------------------------------------------- */

int qmp_client_on_io(sd_event_source *s, int fd, uint32_t revents, void *userdata);
/* The answer to the handshake. */
void qmp_client_on_negotiated(struct qmp_client *c, json_t *result, const struct error *error, void *userdata);
