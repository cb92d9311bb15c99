/* SPDX-License-Identifier: Apache-2.0 */
/* Which events reach the handler, and how often. */
#pragma once

#include <jansson.h>

#include "base/event.h"

typedef void (*event_gate_fn)(const char *name, json_t *data, uint64_t timestamp_usec, void *userdata);

struct event_gate;

int event_gate_new(sd_event *event, event_gate_fn deliver, void *userdata, struct event_gate **ret);
void event_gate_free(struct event_gate *gate);
int event_gate_set_filter(struct event_gate *gate, const char *const *patterns);
int event_gate_limit(struct event_gate *gate, const char *pattern, uint64_t interval_usec);
uint64_t event_gate_dropped(const struct event_gate *gate);
/* Delivers now, later, or never. */
void event_gate_pass(struct event_gate *gate, const char *name, json_t *data, uint64_t timestamp_usec);
