/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What happened to the VM, numbered: a bounded ring that subscribers read from the number where they stopped, so that
 * one who comes back loses nothing, or is told how many it lost.
 */
#pragma once

#include <jansson.h>

#include "base/error.h"
#include "base/util.h"

struct event_log;
struct event_subscription;

/* `event` (borrowed): {"seq", "time", "type", "reason", "message"?, …}. May end the subscription it is called for. */
typedef void (*event_fn)(json_t *event, void *userdata);

struct event_log *event_log_new(void);
void event_log_free(struct event_log *log);
DEFINE_CLEANUP(struct event_log *, event_log_free)

/* Adds an event and hands it to all subscribers. type: "Domain", "Agent", "Timeline", "Device", "Kubernetes". body: an
 * object with further members, consumed; may be NULL. `message` may be NULL. */
void event_log_add(struct event_log *log, const char *type, const char *reason, json_t *body, const char *message, ...)
    _printf_(5, 6);
/* The number that the next event will have. The first is 1. */
uint64_t event_log_next(const struct event_log *log);
/* The number of the oldest event that is still kept (that of the next one when none is). */
uint64_t event_log_oldest(const struct event_log *log);
/* Takes up the events of a file's text, one JSON object a line; what is no event of ours, or out of order, is left out.
 */
void event_log_load(struct event_log *log, const char *text, size_t length);
/*
 * Keeps the events in a file too, one JSON object a line, bounded: a launcher that is killed loses none. What the file
 * has of a former launcher is read first, so that numbers go on and a subscriber that comes back misses nothing. A line
 * that was cut off by a crash is dropped.
 */
int event_log_persist(struct event_log *log, const char *path, struct error **ret_error);

/* Calls handler for every kept event from number `from` on (0: only new ones) at once, then for each new one.
 * *ret_lost: how many between `from` and the oldest kept one are gone. */
int event_log_subscribe(struct event_log *log, uint64_t from, event_fn handler, void *userdata, uint64_t *ret_lost,
                        struct event_subscription **ret);
void event_subscription_free(struct event_subscription *subscription);
DEFINE_CLEANUP(struct event_subscription *, event_subscription_free)
