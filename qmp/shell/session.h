/* SPDX-License-Identifier: Apache-2.0 */
/* How the shell reaches a VM: its monitor itself, or the command server in front of it. Calls wait for the answer while
 * the loop turns, so events are shown and ctrl-C works. */
#pragma once

#include <vmlet/qmp.h>

#include "base/error.h"
#include "base/event.h"

struct session;

typedef void (*session_event_fn)(const char *name, json_t *data, uint64_t timestamp_usec, void *userdata);

struct session_options {
    const char *socket;       /* QMP, or HOST:PORT; NULL: the command server */
    const char *server;       /* the command server's socket */
    const char *agent_socket; /* NULL: none */
    bool agent_only;          /* neither monitor nor server */
    session_event_fn on_event;
    void *userdata;
};

int session_open(sd_event *event, const struct session_options *options, struct session **ret,
                 struct error **ret_error);
void session_close(struct session *session);
DEFINE_CLEANUP(struct session *, session_close)

/* arguments consumed. ERROR_CANCELLED after session_interrupt(). */
int session_call(struct session *session, const char *command, json_t *arguments, json_t **ret_result,
                 struct error **ret_error);
int session_call_agent(struct session *session, const char *command, json_t *arguments, json_t **ret_result,
                       struct error **ret_error);
/* What the command server says of the VM: the answer of GetDomain. ERROR_NOT_SUPPORTED with a monitor. */
int session_get_domain(struct session *session, json_t **ret_result, struct error **ret_error);
/* The call that waits, if there is one, ends now: true. */
bool session_interrupt(struct session *session);
bool session_is_busy(const struct session *session);
/* NULL while it is connected. */
const struct error *session_lost(const struct session *session);
/* Turns the loop for this long; false when it was interrupted or the connection ended. */
bool session_sleep(struct session *session, uint64_t usec);
/* Hands every event that the command server still keeps to the function; *ret_lost is how many older ones it has not. A
 * monitor keeps none: ERROR_NOT_SUPPORTED. */
int session_past_events(struct session *session, session_event_fn handler, void *userdata, uint64_t *ret_lost,
                        struct error **ret_error);
bool session_is_direct(const struct session *session);
const char *session_name(const struct session *session);
