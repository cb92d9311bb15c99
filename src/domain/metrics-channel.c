/* SPDX-License-Identifier: Apache-2.0 */
#include "domain/metrics-channel.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"

struct metrics_channel {
    sd_event *event;
    sd_event_source *io, *timer;
    int fd;
    void (*write)(struct strbuf *text, void *userdata);
    void *userdata;
    uint64_t interval, next; /* CLOCK_MONOTONIC: no answer is made before */

    char request[LIMIT_METRICS_REQUEST_BYTES];
    size_t length;
    struct strbuf answer; /* while there is one, nothing is read */
};

enum request { REQUEST_INCOMPLETE, REQUEST_METRICS, REQUEST_INVALID };

/* The line's length without its end ("\n" or "\r\n"), and where the next one begins; NULL: it has no end yet. */
static const char *end_of_line(const char *line, const char *end, size_t *ret)
{
    const char *newline = memchr(line, '\n', (size_t)(end - line));

    if (!newline)
        return NULL;
    *ret = (size_t)(newline - line);
    if (*ret > 0 && line[*ret - 1] == '\r')
        --*ret;
    return newline + 1;
}

/* *ret_used: the bytes of a complete one. */
static enum request look_at(const char *text, size_t length, size_t *ret_used)
{
    static const char get[] = "GET /metrics/XML";
    const char *end = text + length, *second, *after;
    size_t first_length, second_length;

    second = end_of_line(text, end, &first_length);
    if (!second)
        return length == LIMIT_METRICS_REQUEST_BYTES ? REQUEST_INVALID : REQUEST_INCOMPLETE;
    if (first_length != strlen(get) || memcmp(text, get, first_length) != 0)
        return REQUEST_INVALID;
    after = end_of_line(second, end, &second_length);
    if (!after)
        return second == end || (*second == '\r' && second + 1 == end) ? REQUEST_INCOMPLETE : REQUEST_INVALID;
    *ret_used = (size_t)(after - text);
    return second_length == 0 ? REQUEST_METRICS : REQUEST_INVALID;
}

/* 1: the guest has not read all of it yet. */
static int send_answer(struct metrics_channel *c)
{
    while (c->answer.length > 0) {
        ssize_t n = send(c->fd, c->answer.data, c->answer.length, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && errno != EINTR)
            return errno == EAGAIN ? 1 : -errno;
        if (n > 0)
            strbuf_consume(&c->answer, (size_t)n);
    }
    return 0;
}

static int on_timer(sd_event_source *source, uint64_t at, void *userdata);

static int make_answer(struct metrics_channel *c, enum request request, size_t used)
{
    if (request == REQUEST_METRICS) {
        c->write(&c->answer, c->userdata);
        strbuf_add_string(&c->answer, "\n"); /* the text ends with a newline already */
    } else {
        strbuf_add_string(&c->answer, "INVALID REQUEST\n\n");
        used = c->length; /* where the next request would begin cannot be told */
    }
    memmove(c->request, c->request + used, c->length - used);
    c->length -= used;
    c->next = now_usec() + c->interval;
    return c->answer.failed ? -ENOMEM : 0;
}

/* Does what can be done now, and leaves the source listening to what it takes to go on. */
static int advance(struct metrics_channel *c)
{
    enum request request;
    size_t used = 0;
    int r = send_answer(c);

    if (r != 0)
        return r < 0 ? r : sd_event_source_set_io_events(c->io, EPOLLOUT);
    request = look_at(c->request, c->length, &used);
    if (request == REQUEST_INCOMPLETE)
        return sd_event_source_set_io_events(c->io, EPOLLIN);
    if (now_usec() < c->next) {
        r = event_arm_timer(c->event, &c->timer, c->next - now_usec(), on_timer, c);
        return r < 0 ? r : sd_event_source_set_io_events(c->io, 0);
    }
    r = make_answer(c, request, used);
    return r < 0 ? r : sd_event_source_set_io_events(c->io, EPOLLOUT);
}

static int stop(struct metrics_channel *c, int r)
{
    if (r < 0)
        log_warning("the guest's metrics channel is closed: %s", strerror(-r));
    c->io = sd_event_source_disable_unref(c->io);
    c->timer = sd_event_source_disable_unref(c->timer);
    return 0;
}

static int on_timer(sd_event_source *source, uint64_t at, void *userdata)
{
    int r = advance(userdata);

    return r < 0 ? stop(userdata, r) : 0;
}

static int on_io(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
    struct metrics_channel *c = userdata;
    int r;

    if (events & EPOLLIN && c->length < sizeof(c->request)) {
        ssize_t n = recv(fd, c->request + c->length, sizeof(c->request) - c->length, MSG_DONTWAIT);

        if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
            return stop(c, n < 0 && errno != ECONNRESET ? -errno : 0);
        if (n > 0)
            c->length += (size_t)n;
    } else if (events & (EPOLLHUP | EPOLLERR))
        return stop(c, 0);
    r = advance(c);
    return r < 0 ? stop(c, r) : 0;
}

int metrics_channel_new(sd_event *event, int fd, uint64_t interval_usec,
                        void (*write)(struct strbuf *text, void *userdata), void *userdata,
                        struct metrics_channel **ret)
{
    struct metrics_channel *c = calloc(1, sizeof(*c));
    int r;

    if (!c) {
        fd_close(fd);
        return -ENOMEM;
    }
    c->event = event;
    c->fd = fd;
    c->interval = interval_usec;
    c->write = write;
    c->userdata = userdata;
    r = sd_event_add_io(event, &c->io, fd, EPOLLIN, on_io, c);
    if (r < 0) {
        metrics_channel_free(c);
        return r;
    }
    *ret = c;
    return 0;
}

void metrics_channel_free(struct metrics_channel *channel)
{
    if (!channel)
        return;
    stop(channel, 0);
    fd_close(channel->fd);
    strbuf_done(&channel->answer);
    free(channel);
}
