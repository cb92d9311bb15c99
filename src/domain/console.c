/* SPDX-License-Identifier: Apache-2.0 */
#include "domain/console.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "domain/console-log.h"

#define INPUT_CHUNK 4096U

struct viewer {
    struct console *console;
    int in, out;
    bool owned; /* a socket of ours: in == out, closed with the viewer */
    int escape;
    uint64_t seen; /* absolute position of the next byte that it gets */
    sd_event_source *in_source, *out_source;
    void (*ended)(void *userdata);
    void *userdata;
    struct viewer *next;
};

struct console {
    sd_event *event;
    int output_fd, input_fd, listen_fd; /* output_fd == input_fd where QEMU has a socket */
    char *listen_path;
    sd_event_source *output_source, *input_source, *listen_source;
    char *ring; /* grows by doubling to LIMIT_CONSOLE_REPLAY_BYTES; position p stands at p % size */
    size_t size;
    uint64_t written; /* absolute position of the next byte that the guest prints */
    struct viewer *viewers;
    char pending[INPUT_CHUNK]; /* typed, and not taken by QEMU yet */
    size_t n_pending;
    void (*on_first)(void *userdata);
    void *first_userdata;
    console_output_fn tap;
    void *tap_userdata;
    struct console_log *log;
};

static void viewer_free(struct viewer *v)
{
    struct viewer **at = &v->console->viewers;

    while (*at != v)
        at = &(*at)->next;
    *at = v->next;
    sd_event_source_disable_unref(v->in_source);
    sd_event_source_disable_unref(v->out_source);
    if (v->owned)
        fd_close(v->in);
    free(v);
}

static void viewer_end(struct viewer *v)
{
    void (*ended)(void *) = v->ended;
    void *userdata = v->userdata;

    viewer_free(v);
    if (ended)
        ended(userdata);
}

/* A viewer that is slower than the ring goes on with the oldest that is kept, and is told what it missed. False when
 * its buffer has no room for even that. */
static bool skip_dropped(struct viewer *v)
{
    struct console *c = v->console;
    uint64_t kept_from = c->written - MIN(c->written, (uint64_t)c->size);
    char notice[96];
    int n;

    if (v->seen >= kept_from)
        return true;
    n = snprintf(notice, sizeof(notice), "\r\n[vmlet: %llu bytes of the console were dropped here]\r\n",
                 (unsigned long long)(kept_from - v->seen));
    if (write(v->out, notice, (size_t)n) < 0 && errno == EAGAIN)
        return false;
    v->seen = kept_from;
    return true;
}

/* Writes what the viewer has not seen; it may be gone (and freed) afterwards. */
static void viewer_flush(struct viewer *v)
{
    struct console *c = v->console;
    bool full = !skip_dropped(v);

    while (v->seen < c->written && !full) {
        size_t at = (size_t)(v->seen % c->size);
        size_t length = MIN((size_t)(c->written - v->seen), c->size - at);
        ssize_t n = write(v->out, c->ring + at, length);

        if (n > 0) {
            v->seen += (uint64_t)n;
        } else if (n < 0 && errno == EAGAIN) {
            full = true;
        } else if (n == 0 || errno != EINTR) {
            viewer_end(v);
            return;
        }
    }
    if (v->out_source)
        sd_event_source_set_enabled(v->out_source, full ? SD_EVENT_ON : SD_EVENT_OFF);
}

static int on_viewer_writable(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    viewer_flush(userdata);
    return 0;
}

static int ring_grow(struct console *c, size_t wanted)
{
    size_t size = c->size ? c->size : 4096;
    char *ring;

    while (size < wanted && size < LIMIT_CONSOLE_REPLAY_BYTES)
        size *= 2;
    if (size == c->size)
        return 0;
    ring = malloc(size);
    if (!ring)
        return -ENOMEM;
    for (uint64_t p = c->written - MIN(c->written, (uint64_t)c->size); p < c->written; p++)
        ring[p % size] = c->ring[p % c->size];
    free(c->ring);
    c->ring = ring;
    c->size = size;
    return 0;
}

static void ring_add(struct console *c, const char *data, size_t length)
{
    uint64_t kept = MIN(c->written, (uint64_t)c->size);

    if (ring_grow(c, (size_t)MIN(kept + length, (uint64_t)LIMIT_CONSOLE_REPLAY_BYTES)) < 0 && !c->ring)
        return; /* no memory at all: the log file still has it */
    while (length > 0) {
        size_t at = (size_t)(c->written % c->size), n = MIN(length, c->size - at);

        memcpy(c->ring + at, data, n);
        c->written += n;
        data += n;
        length -= n;
    }
}

static void send_pending(struct console *c)
{
    while (c->n_pending > 0) {
        ssize_t n = write(c->input_fd, c->pending, c->n_pending);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            break;
        c->n_pending -= (size_t)n;
        memmove(c->pending, c->pending + n, c->n_pending);
    }
    if (c->input_source)
        sd_event_source_set_enabled(c->input_source, c->n_pending > 0 ? SD_EVENT_ON : SD_EVENT_OFF);
    /* Back-pressure: while the guest does not read, the viewers' keys wait in their own buffers. */
    for (struct viewer *v = c->viewers; v; v = v->next)
        if (v->in_source)
            sd_event_source_set_enabled(v->in_source, c->n_pending < INPUT_CHUNK ? SD_EVENT_ON : SD_EVENT_OFF);
}

static int on_viewer_readable(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    struct viewer *v = userdata;
    struct console *c = v->console;
    ssize_t n = read(v->in, c->pending + c->n_pending, INPUT_CHUNK - c->n_pending);

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return 0;
    if (n <= 0) {
        viewer_end(v);
        return 0;
    }
    if (v->escape) {
        char *end = memchr(c->pending + c->n_pending, v->escape, (size_t)n);

        if (end) {
            c->n_pending = (size_t)(end - c->pending);
            send_pending(c);
            viewer_end(v);
            return 0;
        }
    }
    if (c->input_fd < 0)
        return 0; /* QEMU is gone: nobody to type to */
    c->n_pending += (size_t)n;
    send_pending(c);
    return 0;
}

static int on_input_writable(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    send_pending(userdata);
    return 0;
}

static void close_qemu(struct console *c)
{
    c->output_source = sd_event_source_disable_unref(c->output_source);
    c->input_source = sd_event_source_disable_unref(c->input_source);
    if (c->input_fd != c->output_fd)
        fd_close(c->input_fd);
    c->input_fd = -EBADF;
    c->output_fd = fd_close(c->output_fd);
}

static ssize_t take_output(struct console *c, char *data, size_t size)
{
    ssize_t n;

    if (c->log)
        return console_log_move(c->log, c->output_fd, data, size);
    n = read(c->output_fd, data, size);
    return n < 0 ? -errno : n;
}

/* Some of what the guest has printed; false: there is no more now. */
static bool pass_on(struct console *c)
{
    char data[16 * 1024];
    ssize_t n = take_output(c, data, sizeof(data));

    if (n == -EINTR)
        return true;
    if (n == -EAGAIN)
        return false;
    if (n <= 0) { /* the viewers keep what they have; the domain learns the reason from the pidfd */
        close_qemu(c);
        return false;
    }
    if (c->written == 0 && c->on_first)
        c->on_first(c->first_userdata);
    ring_add(c, data, (size_t)n);
    for (struct viewer *v = c->viewers, *next; v; v = next) {
        next = v->next;
        viewer_flush(v);
    }
    if (c->tap)
        c->tap(data, (size_t)n, c->tap_userdata);
    return true;
}

static int on_output(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    pass_on(userdata);
    return 0;
}

void console_drain(struct console *c)
{
    while (c->output_fd >= 0 && pass_on(c))
        ;
}

/* A regular file cannot be polled and never blocks; it needs no source. */
static int add_source(struct viewer *v, sd_event_source **ret, int fd, uint32_t events, sd_event_io_handler_t handler)
{
    int r = sd_event_add_io(v->console->event, ret, fd, events, handler, v);

    return r == -EPERM ? 0 : r;
}

static int viewer_new(struct console *c, int in, int out, struct viewer **ret)
{
    struct viewer *v = calloc(1, sizeof(*v));
    int r;

    if (!v)
        return -ENOMEM;
    *v = (struct viewer){.console = c, .in = in, .out = out, .next = c->viewers};
    v->seen = c->written - MIN(c->written, (uint64_t)c->size);
    c->viewers = v;
    r = in >= 0 ? add_source(v, &v->in_source, in, EPOLLIN, on_viewer_readable) : 0;
    if (r >= 0) {
        /* an fd can be in an epoll set only once: one that is both directions is watched for output by a duplicate */
        _cleanup_close_ int copy = in == out ? dup(out) : -EBADF;

        r = in == out && copy < 0 ? -errno
                                  : add_source(v, &v->out_source, copy >= 0 ? copy : out, EPOLLOUT, on_viewer_writable);
        if (r >= 0 && v->out_source && copy >= 0) {
            sd_event_source_set_io_fd_own(v->out_source, 1);
            (void)TAKE_FD(copy);
        }
    }
    if (r < 0) {
        viewer_free(v);
        return r;
    }
    *ret = v;
    return 0;
}

static int on_connection(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    struct console *c = userdata;
    _cleanup_close_ int client = unix_accept(fd);
    struct viewer *v;

    if (client < 0)
        return 0;
    if (console_count_viewers(c) >= LIMIT_CONSOLE_VIEWERS) {
        static const char full[] = "[vmlet: too many viewers of this console]\r\n";

        (void)!write(client, full, sizeof(full) - 1);
        return 0;
    }
    if (viewer_new(c, client, client, &v) < 0)
        return 0;
    v->owned = true;
    (void)TAKE_FD(client);
    viewer_flush(v);
    return 0;
}

/* The other end of QEMU's chardev. */
static int watch_qemu(struct console *c, struct error **ret_error)
{
    int copy, r = sd_event_add_io(c->event, &c->output_source, c->output_fd, EPOLLIN, on_output, c);

    if (r < 0)
        return error_errno(ret_error, r, "cannot watch the console");
    /* an fd can be in an epoll set only once */
    copy = fcntl(c->input_fd, F_DUPFD_CLOEXEC, 3);
    r = copy < 0 ? -errno : sd_event_add_io(c->event, &c->input_source, copy, EPOLLOUT, on_input_writable, c);
    if (r < 0) {
        fd_close(copy);
        return error_errno(ret_error, r, "cannot watch the console");
    }
    sd_event_source_set_io_fd_own(c->input_source, 1);
    sd_event_source_set_enabled(c->input_source, SD_EVENT_OFF);
    return 0;
}

static void show_log(struct console *c)
{
    _cleanup_free_ char *end = malloc(CONSOLE_LOG_REPLAY);

    if (end)
        ring_add(c, end, console_log_read_end(c->log, end, CONSOLE_LOG_REPLAY));
}

int console_new(sd_event *event, int output_fd, int input_fd, const char *listen_path, struct console_log *log,
                struct console **ret, struct error **ret_error)
{
    _cleanup_(console_freep) struct console *c = calloc(1, sizeof(*c));
    int r;

    if (!c) {
        fd_close(output_fd);
        if (input_fd != output_fd)
            fd_close(input_fd);
        return error_oom(ret_error);
    }
    c->event = sd_event_ref(event);
    c->output_fd = output_fd;
    c->input_fd = input_fd;
    c->listen_fd = -EBADF;
    c->log = log;
    if (log)
        show_log(c);
    r = watch_qemu(c, ret_error);
    if (r < 0)
        return r;
    if (listen_path) {
        r = unix_listen(listen_path, 0600, (int)LIMIT_CONSOLE_VIEWERS, &c->listen_fd, ret_error);
        if (r < 0)
            return r;
        c->listen_path = strdup(listen_path);
        if (!c->listen_path)
            return error_oom(ret_error);
        r = sd_event_add_io(event, &c->listen_source, c->listen_fd, EPOLLIN, on_connection, c);
        if (r < 0)
            return error_errno(ret_error, r, "cannot watch %s", listen_path);
    }
    *ret = TAKE_PTR(c);
    return 0;
}

void console_free(struct console *console)
{
    if (!console)
        return;
    while (console->viewers)
        viewer_free(console->viewers);
    close_qemu(console);
    sd_event_source_disable_unref(console->listen_source);
    if (console->listen_fd >= 0 && console->listen_path)
        unlink(console->listen_path);
    fd_close(console->listen_fd);
    sd_event_unref(console->event);
    free(console->listen_path);
    free(console->ring);
    free(console);
}

void console_set_first_output_handler(struct console *console, void (*handler)(void *userdata), void *userdata)
{
    console->on_first = handler;
    console->first_userdata = userdata;
}

void console_set_tap(struct console *console, console_output_fn tap, void *userdata)
{
    console->tap = tap;
    console->tap_userdata = userdata;
}

int console_add_viewer(struct console *console, int input_fd, int output_fd, int escape, void (*ended)(void *userdata),
                       void *userdata)
{
    struct viewer *v;
    int r = viewer_new(console, input_fd, output_fd, &v);

    if (r < 0)
        return r;
    v->escape = escape;
    v->ended = ended;
    v->userdata = userdata;
    viewer_flush(v);
    return 0;
}

unsigned console_count_viewers(const struct console *console)
{
    unsigned n = 0;

    for (const struct viewer *v = console->viewers; v; v = v->next)
        n++;
    return n;
}

uint64_t console_count_bytes(const struct console *console)
{
    return console->written;
}
