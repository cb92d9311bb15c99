/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/client/recorder.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#include "base/event.h"
#include "base/limits.h"
#include "base/list.h"
#include "base/log.h"
#include "base/strbuf.h"
#include "k8s/client/ktime.h"
#include "k8s/client/map.h"
#include "k8s/client/slab.h"

#define EVICTION_TRIES 64U
#define MESSAGE_MAX    1024U /* the API server's limit of an Event's note and message */

static const struct kube_resource events = {"", "v1", "events", "Event", false};

/*
 * One Event object: all repetitions of one happening. Or, with no place, the count of messages about one matter. What
 * stays after the write is apart from the heap (slab.h): there are thousands of these after a burst of work, and each
 * would keep a page of what the work used.
 */
struct series {
    struct kube_map_node node;
    LIST_ENTRY(struct series) link; /* the one used last is first */
    LIST_ENTRY(struct series) turn; /* those that wait for a call */
    struct kube_recorder *recorder;
    char *place; /* namespace and name of the Event, each with its end; NULL: not written yet */
    unsigned place_size, size;
    char *event, *message;   /* as they are to be written; texts, for a tree takes many times as much */
    uint64_t count, written; /* happenings; of those, in the API server */
    uint64_t written_usec;
    int64_t last;
    unsigned attempts, messages;
    uint64_t since_usec;
    bool waits;
    struct kube_call *call;
    sd_event_source *timer;
    char key[];
};

struct kube_recorder {
    struct kube_client *client;
    char *component, *host;
    struct kube_map map;
    LIST_HEAD(struct series) list, waiting;
    unsigned calls;
    uint64_t written, dropped, number;
};

static bool is_idle(const struct series *s)
{
    return !s->call && !s->waits && s->count == s->written;
}

static void forget_place(struct series *s)
{
    slab_free(TAKE_PTR(s->place), s->place_size);
}

/* What only a write needs. */
static void forget_texts(struct series *s)
{
    free(TAKE_PTR(s->event));
    free(TAKE_PTR(s->message));
    s->timer = sd_event_source_disable_unref(s->timer);
}

static void series_free(struct series *s)
{
    struct kube_recorder *r = s->recorder;

    kube_map_remove(&r->map, &s->node);
    LIST_REMOVE(r->list, s, link);
    if (s->waits)
        LIST_REMOVE(r->waiting, s, turn);
    if (s->call)
        r->calls--;
    kube_call_cancel(s->call);
    forget_texts(s);
    forget_place(s);
    slab_free(s, s->size);
}

/* The oldest that nothing is to be written of; in a burst that the server does not follow, the oldest. */
static void make_room(struct kube_recorder *r)
{
    struct series *s = r->list.last;

    for (unsigned n = 0; s && !is_idle(s) && n < EVICTION_TRIES; n++)
        s = s->link.previous;
    if (s && is_idle(s))
        series_free(s);
    else if (r->map.count >= LIMIT_KUBE_EVENT_BACKLOG) {
        r->dropped++;
        series_free(r->list.last);
    }
}

static struct series *series_get(struct kube_recorder *r, const char *key, bool *ret_new)
{
    struct kube_map_node *node = kube_map_get(&r->map, key);
    size_t size = sizeof(struct series) + strlen(key) + 1;
    struct series *s;

    *ret_new = !node;
    if (node) {
        s = KUBE_MAP_OBJECT(node, struct series, node);
        LIST_REMOVE(r->list, s, link);
        LIST_PREPEND(r->list, s, link);
        return s;
    }
    if (r->map.count >= LIMIT_KUBE_EVENT_SERIES)
        make_room(r);
    s = slab_alloc(size);
    if (!s)
        return NULL;
    *s = (struct series){.recorder = r, .size = (unsigned)size};
    strcpy(s->key, key);
    if (kube_map_put(&r->map, &s->node, s->key) < 0) {
        slab_free(s, size);
        return NULL;
    }
    LIST_PREPEND(r->list, s, link);
    return s;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

static void write_series(struct series *s);

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata)
{
    write_series(userdata);
    return 0;
}

static void later(struct series *s, uint64_t usec)
{
    event_arm_timer(kube_client_event(s->recorder->client), &s->timer, usec, on_timer, s);
}

static void set_place(struct series *s, const json_t *event)
{
    const char *name = json_string_value(json_object_get(json_object_get(event, "metadata"), "name"));
    const char *namespace_ = json_string_value(json_object_get(json_object_get(event, "metadata"), "namespace"));

    if (s->place || !name || !namespace_)
        return;
    s->place_size = (unsigned)(strlen(namespace_) + strlen(name) + 2);
    s->place = slab_alloc(s->place_size);
    if (s->place)
        strcpy(stpcpy(s->place, namespace_) + 1, name);
}

static void on_written(const struct kube_reply *reply, void *userdata)
{
    struct series *s = userdata, *next;
    struct kube_recorder *r = s->recorder;
    bool exists = reply->status == 409 && !s->place;

    s->call = NULL;
    r->calls--;
    if (reply->error && s->place && reply->status == 404) { /* it has expired: a new one */
        forget_place(s);
        s->written = 0;
        s->count = 1;
        write_series(s);
    } else if (reply->error && !exists && (reply->status == 0 || reply->status >= 500) &&
               ++s->attempts < LIMIT_KUBE_EVENT_ATTEMPTS) {
        s->written = 0;
        later(s, kube_jitter(kube_backoff(s->attempts, KUBE_BACKOFF_FIRST_USEC, KUBE_BACKOFF_LAST_USEC)));
    } else {
        if (reply->error) {
            log_debug("event dropped: %s", error_message(reply->error));
            r->dropped++;
        } else {
            set_place(s, reply->body);
            r->written++;
        }
        s->attempts = 0;
        s->written_usec = now_usec();
        if (s->count > s->written)
            later(s, KUBE_EVENT_REPEAT_USEC);
        else
            forget_texts(s);
    }
    next = r->waiting.first;
    if (next && r->calls < LIMIT_KUBE_EVENT_CALLS) {
        LIST_REMOVE(r->waiting, next, turn);
        next->waits = false;
        write_series(next);
    }
}

static json_t *make_body(struct series *s)
{
    json_t *event = json_loads(s->event, 0, NULL), *metadata = json_object_get(event, "metadata");
    const char *about = json_string_value(json_object_get(json_object_get(event, "involvedObject"), "name"));
    char now[KUBE_TIME_SIZE], name[320];
    struct timespec clock;

    kube_time(s->last, now);
    if (s->place) {
        json_decref(event);
        return json_pack("{s:I, s:s, s:s}", "count", (json_int_t)s->count, "lastTimestamp", now, "message", s->message);
    }
    /* as Kubernetes' own components name them */
    clock_gettime(CLOCK_REALTIME, &clock);
    snprintf(name, sizeof(name), "%.230s.%llx", about ? about : "",
             (unsigned long long)clock.tv_sec * 1000000000ULL + (unsigned long long)clock.tv_nsec +
                 s->recorder->number++);
    json_object_set_new(metadata, "name", json_string(name));
    json_object_set_new(event, "count", json_integer((json_int_t)s->count));
    json_object_set_new(event, "firstTimestamp", json_string(now));
    json_object_set_new(event, "lastTimestamp", json_string(now));
    json_object_set_new(event, "message", json_string(s->message));
    return event;
}

static void write_series(struct series *s)
{
    struct kube_recorder *r = s->recorder;
    struct kube_request q = {.resource = &events, .verb = s->place ? KUBE_PATCH_MERGE : KUBE_CREATE};
    json_t *body;

    if (s->call || s->waits)
        return;
    if (r->calls >= LIMIT_KUBE_EVENT_CALLS) {
        LIST_APPEND(r->waiting, s, turn);
        s->waits = true;
        return;
    }
    body = make_body(s);
    q.body = body;
    q.namespace_ =
        s->place ? s->place : json_string_value(json_object_get(json_object_get(body, "metadata"), "namespace"));
    q.name = s->place ? s->place + strlen(s->place) + 1 : NULL;
    s->written = s->count;
    if (body && kube_call_start(r->client, &q, on_written, s, &s->call, NULL) >= 0)
        r->calls++;
    else {
        r->dropped++;
        forget_texts(s);
    }
    json_decref(body);
}

/* ---- recording -------------------------------------------------------------------------------------------------- */

/* One of many different messages about one matter? They are told apart up to a number. */
static bool is_one_too_many(struct kube_recorder *r, const char *matter, bool new_message)
{
    bool is_new;
    struct series *group = series_get(r, matter, &is_new);

    if (!group)
        return false;
    if (is_new || now_usec() - group->since_usec > KUBE_EVENT_SIMILAR_USEC) {
        group->since_usec = now_usec();
        group->messages = 0;
    }
    group->messages += new_message;
    return group->messages > LIMIT_KUBE_EVENT_MESSAGES;
}

static json_t *make_event(const struct kube_recorder *r, const struct kube_subject *about, bool warning,
                          const char *reason)
{
    return json_pack("{s:s, s:s, s:{s:s}, s:{s:s, s:s, s:s, s:s, s:s*}, s:s, s:s, s:{s:s, s:s*}, s:s, s:s*}",
                     "apiVersion", "v1", "kind", "Event", "metadata", "namespace", about->namespace_, "involvedObject",
                     "apiVersion", about->api_version, "kind", about->kind, "namespace", about->namespace_, "name",
                     about->name, "uid", about->uid, "type", warning ? "Warning" : "Normal", "reason", reason, "source",
                     "component", r->component, "host", r->host, "reportingComponent", r->component,
                     "reportingInstance", r->host ? r->host : r->component);
}

static int record_message(struct kube_recorder *r, const struct kube_subject *about, bool warning, const char *reason,
                          const char *message)
{
    _cleanup_(strbuf_done) struct strbuf matter = {0}, key = {0};
    char *combined, *text;
    struct series *s;
    json_t *event;
    bool is_new;

    strbuf_printf(&matter, "%s/%s %d%s", about->uid ? about->uid : about->namespace_, about->name, warning, reason);
    strbuf_printf(&key, "%s %s", strbuf_text(&matter), message);
    if (matter.failed || key.failed)
        return -ENOMEM;
    if (is_one_too_many(r, matter.data, !kube_map_get(&r->map, key.data))) {
        strbuf_clear(&key);
        strbuf_printf(&key, "%s\n", matter.data);
        if (key.failed)
            return -ENOMEM;
    }
    s = series_get(r, key.data, &is_new);
    if (!s)
        return -ENOMEM;
    if (asprintf(&combined, "%s%.*s", endswith(key.data, "\n") ? "(combined from similar events): " : "",
                 (int)MESSAGE_MAX - 40, message) < 0)
        combined = NULL;
    event = make_event(r, about, warning, reason);
    text = event ? json_dumps(event, JSON_COMPACT) : NULL;
    json_decref(event);
    if (!combined || !text) {
        free(combined);
        free(text);
        return -ENOMEM;
    }
    free(s->message);
    free(s->event);
    s->message = combined;
    s->event = text;
    s->count++;
    s->last = kube_now();
    if (is_new)
        write_series(s);
    else if (!s->call && s->count == s->written + 1) {
        uint64_t since = now_usec() - s->written_usec;

        later(s, since < KUBE_EVENT_REPEAT_USEC ? KUBE_EVENT_REPEAT_USEC - since : 0);
    }
    return 0;
}

int kube_record(struct kube_recorder *r, const struct kube_subject *about, bool warning, const char *reason,
                const char *format, ...)
{
    _cleanup_(strbuf_done) struct strbuf message = {0};
    va_list ap;

    va_start(ap, format);
    strbuf_vprintf(&message, format, ap);
    va_end(ap);
    if (message.failed)
        return -ENOMEM;
    if (message.length > MESSAGE_MAX - 40) { /* not in the middle of a character */
        size_t n = MESSAGE_MAX - 40;

        while (n > 0 && ((unsigned char)message.data[n] & 0xc0) == 0x80)
            n--;
        message.data[n] = '\0';
    }
    return record_message(r, about, warning, reason, strbuf_text(&message));
}

void kube_recorder_get_figures(const struct kube_recorder *r, uint64_t *ret_written, uint64_t *ret_dropped)
{
    *ret_written = r->written;
    *ret_dropped = r->dropped;
}

void kube_recorder_free(struct kube_recorder *r)
{
    if (!r)
        return;
    while (r->list.first)
        series_free(r->list.first);
    kube_map_done(&r->map);
    free(r->component);
    free(r->host);
    free(r);
}

int kube_recorder_new(struct kube_client *client, const char *component, const char *host, struct kube_recorder **ret)
{
    _cleanup_(kube_recorder_freep) struct kube_recorder *r = calloc(1, sizeof(*r));

    if (!r)
        return -ENOMEM;
    r->client = client;
    r->component = strdup(component);
    r->host = host ? strdup(host) : NULL;
    if (!r->component || (host && !r->host))
        return -ENOMEM;
    *ret = TAKE_PTR(r);
    return 0;
}
