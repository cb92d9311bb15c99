/* SPDX-License-Identifier: Apache-2.0 */
#include "qmp/events.h"

#include <fnmatch.h>

#include "base/limits.h"
#include "base/strv.h"

struct rule {
    char *pattern;
    uint64_t interval;
};

/* One event name that a rule limits. */
struct gated {
    struct event_gate *gate;
    struct gated *next;
    char *name;
    uint64_t interval;
    sd_event_source *timer; /* runs from a delivery to the end of the interval */
    bool waiting;
    json_t *held; /* the newest that came while the timer ran */
    uint64_t held_timestamp;
};

struct event_gate {
    sd_event *event;
    event_gate_fn deliver;
    void *userdata;
    char **filter;
    struct rule *rules;
    size_t n_rules;
    struct gated *names;
    size_t n_names;
    uint64_t dropped;
};

int event_gate_new(sd_event *event, event_gate_fn deliver, void *userdata, struct event_gate **ret)
{
    struct event_gate *gate = calloc(1, sizeof(*gate));

    if (!gate)
        return -ENOMEM;
    gate->event = event;
    gate->deliver = deliver;
    gate->userdata = userdata;
    *ret = gate;
    return 0;
}

static void forget_names(struct event_gate *gate)
{
    while (gate->names) {
        struct gated *g = gate->names;

        gate->names = g->next;
        sd_event_source_disable_unref(g->timer);
        json_decref(g->held);
        free(g->name);
        free(g);
    }
    gate->n_names = 0;
}

void event_gate_free(struct event_gate *gate)
{
    if (!gate)
        return;
    forget_names(gate);
    for (size_t i = 0; i < gate->n_rules; i++)
        free(gate->rules[i].pattern);
    free(gate->rules);
    strv_free(gate->filter);
    free(gate);
}

int event_gate_set_filter(struct event_gate *gate, const char *const *patterns)
{
    _cleanup_(strv_freep) char **copy = NULL;

    for (; patterns && *patterns; patterns++)
        if (strv_append(&copy, *patterns) < 0)
            return -ENOMEM;
    strv_free(gate->filter);
    gate->filter = TAKE_PTR(copy);
    return 0;
}

int event_gate_limit(struct event_gate *gate, const char *pattern, uint64_t interval_usec)
{
    struct rule *rules;
    char *copy;

    if (gate->n_rules >= LIMIT_QMP_EVENT_RULES)
        return -ENOSPC;
    rules = reallocarray(gate->rules, gate->n_rules + 1, sizeof(*rules));
    if (!rules)
        return -ENOMEM;
    gate->rules = rules;
    copy = strdup(pattern);
    if (!copy)
        return -ENOMEM;
    gate->rules[gate->n_rules++] = (struct rule){.pattern = copy, .interval = interval_usec};
    return 0;
}

uint64_t event_gate_dropped(const struct event_gate *gate)
{
    return gate->dropped;
}

static bool wanted(const struct event_gate *gate, const char *name)
{
    bool positive = false, matched = false;

    STRV_FOREACH (p, gate->filter) {
        if (**p == '!') {
            if (fnmatch(*p + 1, name, 0) == 0)
                return false;
        } else {
            positive = true;
            matched = matched || fnmatch(*p, name, 0) == 0;
        }
    }
    return matched || !positive;
}

static uint64_t find_interval(const struct event_gate *gate, const char *name)
{
    for (size_t i = 0; i < gate->n_rules; i++)
        if (fnmatch(gate->rules[i].pattern, name, 0) == 0)
            return gate->rules[i].interval;
    return 0;
}

static struct gated *find_name(struct event_gate *gate, const char *name, uint64_t interval)
{
    struct gated *g;

    for (g = gate->names; g; g = g->next)
        if (streq(g->name, name))
            return g;
    /* A peer that makes up names without end only loses the limit's state, not our memory. */
    if (gate->n_names >= LIMIT_QMP_EVENT_NAMES)
        forget_names(gate);
    g = calloc(1, sizeof(*g));
    if (!g)
        return NULL;
    g->name = strdup(name);
    if (!g->name) {
        free(g);
        return NULL;
    }
    g->gate = gate;
    g->interval = interval;
    g->next = gate->names;
    gate->names = g;
    gate->n_names++;
    return g;
}

static int on_interval_end(sd_event_source *s, uint64_t usec, void *userdata)
{
    struct gated *g = userdata;
    struct event_gate *gate = g->gate;
    json_t *data = TAKE_PTR(g->held);
    char *name;

    if (!data) {
        g->waiting = false;
        return 0;
    }
    name = strdup(g->name); /* the handler may free the gate */
    g->waiting = event_arm_timer(gate->event, &g->timer, g->interval, on_interval_end, g) >= 0;
    if (name)
        gate->deliver(name, data, g->held_timestamp, gate->userdata);
    json_decref(data);
    free(name);
    return 0;
}

void event_gate_pass(struct event_gate *gate, const char *name, json_t *data, uint64_t timestamp_usec)
{
    uint64_t interval;
    struct gated *g;

    if (!wanted(gate, name))
        return;
    interval = find_interval(gate, name);
    g = interval > 0 ? find_name(gate, name, interval) : NULL;
    if (g && g->waiting) {
        if (g->held)
            gate->dropped++;
        json_decref(g->held);
        g->held = json_incref(data);
        g->held_timestamp = timestamp_usec;
        return;
    }
    if (g)
        g->waiting = event_arm_timer(gate->event, &g->timer, interval, on_interval_end, g) >= 0;
    gate->deliver(name, data, timestamp_usec, gate->userdata);
}
