/* SPDX-License-Identifier: Apache-2.0 */
#include "domain/events.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/strbuf.h"
#include "domain/timeline.h"
#include "json/text.h"

struct event_subscription {
    struct event_log *log; /* NULL after the log is gone */
    event_fn handler;      /* NULL: ended while handlers run; swept afterwards */
    void *userdata;
    struct event_subscription *next;
};

struct event_log {
    /* Event number n stands at n % LIMIT_EVENT_RING, as text: a sixth of what its objects would take. NULL: memory was
     * out when it came. */
    char *ring[LIMIT_EVENT_RING];
    uint64_t next, oldest;
    struct event_subscription *subscriptions;
    unsigned dispatching;
    int file; /* -EBADF: not kept in a file */
    char *path;
    size_t file_bytes;
    bool failing; /* the last write to it failed, and that was said */
};

struct event_log *event_log_new(void)
{
    struct event_log *log = calloc(1, sizeof(*log));

    if (log)
        *log = (struct event_log){.next = 1, .oldest = 1, .file = -EBADF};
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
        free(log->ring[i]);
    fd_close(log->file);
    free(log->path);
    free(log);
}

/* The file anew, with the events that are still kept. */
static int rewrite_file(struct event_log *log)
{
    _cleanup_(strbuf_done) struct strbuf text = {0};
    int fd, r;

    for (uint64_t n = log->oldest; n < log->next; n++) {
        const char *line = log->ring[n % LIMIT_EVENT_RING];

        if (line)
            strbuf_printf(&text, "%s\n", line);
    }
    if (text.failed)
        return -ENOMEM;
    r = file_replace(log->path, strbuf_text(&text), text.length, 0600, NULL);
    if (r < 0)
        return r;
    fd = open(log->path, O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    fd_close(log->file);
    log->file = fd;
    log->file_bytes = text.length;
    return 0;
}

/* Takes the text; NULL counts as an event, too. */
static void keep(struct event_log *log, char *line)
{
    char **slot = &log->ring[log->next % LIMIT_EVENT_RING];

    free(*slot);
    *slot = line;
    log->next++;
    if (log->next - log->oldest > LIMIT_EVENT_RING)
        log->oldest = log->next - LIMIT_EVENT_RING;
}

static void write_line(struct event_log *log, const char *line)
{
    struct iovec parts[2];
    ssize_t n;

    if (!line || log->file < 0)
        return;
    if (log->file_bytes > LIMIT_EVENT_FILE_BYTES && rewrite_file(log) >= 0)
        return; /* this event is in it */
    parts[0] = (struct iovec){(char *)line, strlen(line)};
    parts[1] = (struct iovec){(char *)"\n", 1};
    n = writev(log->file, parts, 2);
    if (n == (ssize_t)(parts[0].iov_len + 1)) {
        log->file_bytes += (size_t)n;
        log->failing = false;
        return;
    }
    /* half a line would spoil the next one, too */
    if (n > 0)
        (void)!ftruncate(log->file, (off_t)log->file_bytes);
    if (!log->failing)
        log_warning("an event could not be kept in %s: %s; the VM runs on", log->path,
                    n < 0 ? strerror(errno) : "the disk is full");
    log->failing = true;
}

void event_log_add(struct event_log *log, const char *type, const char *reason, json_t *body, const char *message, ...)
{
    json_t *event;
    _cleanup_free_ char *text = NULL;
    char stamp[40], *line;
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
    line = event ? json_text_dump(event, JSON_TEXT_COMPACT) : NULL;
    keep(log, line);
    write_line(log, line);
    if (!event)
        return;
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

/* Of an event that is read back; numbers go on from there. 2^53: what every JSON reader can hold. */
#define EVENT_NUMBER_MAX (1LL << 53)

static void load_line(struct event_log *log, const char *line, size_t length)
{
    json_t *event = NULL;
    json_int_t number;

    (void)json_text_parse(line, length, true, &event, NULL);
    number = json_integer_value(json_object_get(event, "seq"));
    json_decref(event);
    if (number < (json_int_t)log->next || number > EVENT_NUMBER_MAX) /* cut off, or not ours */
        return;
    if ((uint64_t)number > log->next) /* a gap: what is before it is not kept */
        log->next = log->oldest = (uint64_t)number;
    keep(log, strndup(line, length));
}

void event_log_load(struct event_log *log, const char *text, size_t length)
{
    const char *end;

    for (; (end = memchr(text, '\n', length)); length -= (size_t)(end + 1 - text), text = end + 1)
        load_line(log, text, (size_t)(end - text));
}

int event_log_persist(struct event_log *log, const char *path, struct error **ret_error)
{
    _cleanup_free_ char *text = NULL;
    size_t length = 0;
    int r;

    log->path = strdup(path);
    if (!log->path)
        return error_oom(ret_error);
    r = file_read(path, (size_t)LIMIT_EVENT_FILE_BYTES * 4, &text, &length, NULL);
    if (r >= 0)
        event_log_load(log, text, length);
    r = rewrite_file(log);
    if (r < 0)
        return error_errno(ret_error, r, "cannot keep the events in %s", path);
    return 0;
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
        const char *line = log->ring[n % LIMIT_EVENT_RING];
        json_t *event = NULL;

        if (!line || json_text_parse(line, strlen(line), true, &event, NULL) < 0)
            continue;
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
