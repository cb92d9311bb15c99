/* SPDX-License-Identifier: Apache-2.0 */
#include "domain/events.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/limits.h"
#include "domain/timeline.h"

struct event_subscription {
    struct event_log *log; /* NULL after the log is gone */
    event_fn handler;      /* NULL: ended while handlers run; swept afterwards */
    void *userdata;
    struct event_subscription *next;
};

struct event_log {
    json_t *ring[LIMIT_EVENT_RING]; /* event number n stands at n % LIMIT_EVENT_RING */
    uint64_t next, oldest;
    struct event_subscription *subscriptions;
    unsigned dispatching;
};

struct event_log *event_log_new(void)
{
    struct event_log *log = calloc(1, sizeof(*log));

    if (log)
        log->next = log->oldest = 1;
    return log;
}

static void sweep(struct event_log *log)
{
    struct event_subscription **at = &log->subscriptions;

    if (log->dispatching > 0)
        return;
    while (*at) {
        struct event_subscription *s = *at;

        if (s->handler) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        free(s);
    }
}

void event_log_free(struct event_log *log)
{
    if (!log)
        return;
    for (struct event_subscription *s = log->subscriptions; s; s = s->next)
        s->log = NULL; /* its owner frees it */
    for (size_t i = 0; i < LIMIT_EVENT_RING; i++)
        json_decref(log->ring[i]);
    free(log);
}

void event_log_add(struct event_log *log, const char *type, const char *reason, json_t *body, const char *message, ...)
{
    json_t *event, **slot = &log->ring[log->next % LIMIT_EVENT_RING];
    _cleanup_free_ char *text = NULL;
    char stamp[40];
    va_list ap;

    if (message) {
        va_start(ap, message);
        if (vasprintf(&text, message, ap) < 0)
            text = NULL;
        va_end(ap);
    }
    event = json_pack("{s:I, s:s, s:s, s:s, s:s*}", "seq", (json_int_t)log->next, "time",
                      format_time(realtime_usec(), stamp), "type", type, "reason", reason, "message", text);
    if (body) {
        json_object_update_missing(event, body);
        json_decref(body);
    }
    /* A number is used up even when memory is out: the reader then sees a gap and not a repeated number. */
    json_decref(*slot);
    *slot = event;
    log->next++;
    if (log->next - log->oldest > LIMIT_EVENT_RING)
        log->oldest = log->next - LIMIT_EVENT_RING;
    if (!event)
        return;
    json_incref(event);
    log->dispatching++;
    for (struct event_subscription *s = log->subscriptions; s; s = s->next)
        if (s->handler)
            s->handler(event, s->userdata);
    log->dispatching--;
    sweep(log);
    json_decref(event);
}

uint64_t event_log_next(const struct event_log *log)
{
    return log->next;
}

uint64_t event_log_oldest(const struct event_log *log)
{
    return log->oldest;
}

void event_log_set_next(struct event_log *log, uint64_t next)
{
    log->next = log->oldest = MAX(next, (uint64_t)1);
}

int event_log_subscribe(struct event_log *log, uint64_t from, event_fn handler, void *userdata, uint64_t *ret_lost,
                        struct event_subscription **ret)
{
    struct event_subscription *s = calloc(1, sizeof(*s));
    uint64_t last = log->next;

    if (!s)
        return -ENOMEM;
    *s = (struct event_subscription){.log = log, .handler = handler, .userdata = userdata};
    *ret_lost = from != 0 && from < log->oldest ? log->oldest - from : 0;
    *ret = s;
    log->dispatching++;
    for (uint64_t n = MAX(from, log->oldest); from != 0 && n < last && s->handler; n++) {
        json_t *event = json_incref(log->ring[n % LIMIT_EVENT_RING]);

        if (event)
            handler(event, userdata);
        json_decref(event);
    }
    s->next = log->subscriptions;
    log->subscriptions = s;
    log->dispatching--;
    sweep(log);
    return 0;
}

void event_subscription_free(struct event_subscription *subscription)
{
    if (!subscription)
        return;
    if (!subscription->log) {
        free(subscription);
        return;
    }
    subscription->handler = NULL;
    sweep(subscription->log);
}
