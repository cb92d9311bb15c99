/* SPDX-License-Identifier: Apache-2.0 */
/* Commands on their way to QEMU, in batches, with their fds. */
#include "qmp/client-internal.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/limits.h"

#define BATCH_CALLS 64U

static void watch_writable(struct qmp_client *c, bool on)
{
    if (c->want_write == on)
        return;
    c->want_write = on;
    sd_event_source_set_io_events(c->io, on ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

/* May this call be sent now? In-band commands wait while the window is full, so that QEMU goes on reading and an
 * out-of-band one gets through. A call with fds goes alone: with oob, QEMU (7.2) reads on in a thread that looks at
 * pending fds at every read, while its main thread takes them: each byte behind such a call may crash it. It also
 * waits for the answers to all in-band calls before it, so that an out-of-band one never waits longer than for it. */
static bool may_send(const struct qmp_client *c, const struct call *call, size_t in_flight)
{
    if (call->written > 0)
        return true;
    if (c->state != QMP_RUNNING)
        return c->state == QMP_NEGOTIATING && call->id == 1;
    if (c->fds_in_flight || (call->n_fds > 0 && in_flight > 0))
        return false;
    return !c->oob || call->out_of_band || in_flight < LIMIT_QMP_IN_FLIGHT;
}

static ssize_t send_batch(struct qmp_client *c, struct iovec *iov, size_t n, const struct call *with_fds)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int) * QMP_MAX_FDS)];
        struct cmsghdr align;
    } control;
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = n};
    struct cmsghdr *header;
    ssize_t written;

    if (c->not_socket)
        return writev(c->fd, iov, (int)n);
    if (with_fds) {
        size_t bytes = sizeof(int) * with_fds->n_fds;

        memset(&control, 0, sizeof(control));
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(bytes);
        header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(bytes);
        memcpy(CMSG_DATA(header), with_fds->fds, bytes);
    }
    written = sendmsg(c->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (written < 0 && errno == ENOTSOCK && !with_fds) {
        c->not_socket = true;
        return writev(c->fd, iov, (int)n);
    }
    return written;
}

/* The first `written` bytes of the queue have gone out. */
static void advance(struct qmp_client *c, size_t written)
{
    while (written > 0) {
        struct call *call = TAILQ_FIRST(&c->queued);
        size_t n = MIN(written, call->length - call->written);

        call->written += n;
        written -= n;
        if (call->n_fds > 0 && call->fds) { /* they went with the first byte */
            qmp_call_close_fds(call);
            c->fds_in_flight = true;
        }
        if (call->written < call->length)
            break;
        TAILQ_REMOVE(&c->queued, call, link);
        TAILQ_INSERT_TAIL(&c->sent, call, link);
        free(TAKE_PTR(call->text));
        c->n_sent++;
        if (!call->out_of_band)
            c->in_flight++;
    }
}

/* Writes what may be written, in as few system calls as its fds allow. */
int qmp_client_flush(struct qmp_client *c, struct error **ret_error)
{
    while (!c->write_closed) {
        struct iovec iov[BATCH_CALLS];
        size_t n = 0, in_flight = c->in_flight, total = 0;
        const struct call *with_fds = NULL;
        struct call *call;
        ssize_t written;

        TAILQ_FOREACH(call, &c->queued, link)
        {
            bool carries = call->fds != NULL;

            if (n == BATCH_CALLS || with_fds || (carries && n > 0) || !may_send(c, call, in_flight))
                break;
            if (carries)
                with_fds = call;
            if (call->written == 0) {
                call->written = c->n_ahead;
                c->n_ahead = 0;
            }
            iov[n++] = (struct iovec){call->text + call->written, call->length - call->written};
            total += call->length - call->written;
            in_flight += !call->out_of_band;
        }
        if (n == 0) {
            watch_writable(c, false);
            return 0;
        }
        written = send_batch(c, iov, n, with_fds);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0 && errno == EAGAIN) {
            watch_writable(c, true);
            return 0;
        }
        if (written < 0 && (errno == EPIPE || errno == ECONNRESET)) {
            c->write_closed = true; /* answers may still be there to read; the end of them disconnects */
            watch_writable(c, false);
            return 0;
        }
        if (written < 0)
            return error_set(ret_error, ERROR_CONNECTION, errno, "cannot write to QEMU: %s", strerror(errno));
        advance(c, (size_t)written);
        if ((size_t)written < total) {
            watch_writable(c, true);
            return 0;
        }
    }
    return 0;
}

void qmp_client_write_beginning(struct qmp_client *c)
{
    static const char text[] = QMP_EXECUTE "\"";
    struct iovec beginning = {(char *)text, sizeof(text) - 1};
    ssize_t n;

    if (!c->begins_ahead || c->oob || c->n_ahead > 0 || c->state != QMP_RUNNING || c->write_closed ||
        c->in_flight > 0 || !TAILQ_EMPTY(&c->queued))
        return;
    n = send_batch(c, &beginning, 1, NULL);
    if (n > 0)
        c->n_ahead = (size_t)n;
}

/* Out-of-band calls go to a monitor that may not have it: told only now, because only now it is known. */
static void refuse_oob(struct qmp_client *c)
{
    struct call *call;

    while (c->state == QMP_RUNNING && !c->oob) {
        _cleanup_error_ struct error *error = NULL;

        TAILQ_FOREACH(call, &c->queued, link)
        if (call->out_of_band)
            break;
        if (!call)
            return;
        error_set(&error, ERROR_NOT_SUPPORTED, EOPNOTSUPP, "%s: this monitor does not take out-of-band commands (%s)",
                  call->command,
                  c->want_oob ? "its greeting does not offer \"oob\"" : "they were not asked for in the handshake");
        qmp_call_end(c, call, NULL, error);
    }
}

void qmp_client_write(struct qmp_client *c)
{
    struct error *error = NULL;

    refuse_oob(c);
    if (c->state != QMP_DISCONNECTED && qmp_client_flush(c, &error) < 0)
        qmp_client_disconnect(c, error);
}

static int on_deferred(sd_event_source *s, void *userdata)
{
    struct qmp_client *c = userdata;

    c->refs++;
    if (c->failure)
        qmp_client_disconnect(c, TAKE_PTR(c->failure));
    else
        qmp_client_write(c);
    qmp_client_unref(c);
    return 0;
}

int qmp_client_schedule(struct qmp_client *c)
{
    bool made = c->deferred;
    int r = event_defer(c->event, &c->deferred, on_deferred, c);

    if (r >= 0 && !made)
        sd_event_source_set_priority(c->deferred, c->priority);
    return r;
}
