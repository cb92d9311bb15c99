/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/tail.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"

struct tail {
    const char *path;
    tail_write_fn write;
    void *userdata;
    int fd; /* -EBADF: none yet */
    dev_t device;
    ino_t inode;
    off_t offset;
    int last_errno; /* of an open that failed: said once */
    bool open_line; /* the last byte written was no line end */
    size_t have;
    char line[LIMIT_TAIL_LINE_BYTES]; /* what was read behind the last line end */
};

struct tail *tail_new(const char *path, tail_write_fn write, void *userdata)
{
    struct tail *tail = calloc(1, sizeof(*tail));

    if (tail)
        *tail = (struct tail){.path = path, .write = write, .userdata = userdata, .fd = -EBADF};
    return tail;
}

void tail_free(struct tail *tail)
{
    if (!tail)
        return;
    fd_close(tail->fd);
    free(tail);
}

static int put(struct tail *tail, size_t length)
{
    int r;

    if (length == 0)
        return 0;
    tail->open_line = tail->line[length - 1] != '\n';
    r = tail->write(tail->line, length, tail->userdata);
    if (r < 0)
        return r;
    tail->have -= length;
    memmove(tail->line, tail->line + length, tail->have);
    return 0;
}

int tail_flush(struct tail *tail, bool *ret_open)
{
    int r = put(tail, tail->have);

    if (r == 0 && ret_open)
        *ret_open = tail->open_line;
    return r;
}

/* What is in the open file behind our offset. */
static int drain(struct tail *tail)
{
    for (;;) {
        ssize_t n = pread(tail->fd, tail->line + tail->have, sizeof(tail->line) - tail->have, tail->offset);
        const char *end;
        int r;

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return 0; /* a failing disk is no reason to fail the pod: the next change is another try */
        tail->offset += n;
        end = memrchr(tail->line + tail->have, '\n', (size_t)n);
        tail->have += (size_t)n;
        if (end)
            r = put(tail, (size_t)(end + 1 - tail->line));
        else
            r = tail->have == sizeof(tail->line) ? put(tail, tail->have) : 0;
        if (r < 0)
            return r;
    }
}

/* True if there is another file under the name now; it is open then. */
static bool open_next(struct tail *tail)
{
    _cleanup_close_ int fd = open(tail->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0) {
        if (errno != ENOENT && errno != ENOTDIR && errno != tail->last_errno)
            log_warning("cannot read %s: %s; waiting until it can be", tail->path, strerror(errno));
        tail->last_errno = errno;
        return false;
    }
    tail->last_errno = 0;
    if (!S_ISREG(st.st_mode) || (tail->fd >= 0 && st.st_ino == tail->inode && st.st_dev == tail->device))
        return false;
    fd_close(tail->fd);
    tail->fd = TAKE_FD(fd);
    tail->inode = st.st_ino;
    tail->device = st.st_dev;
    tail->offset = 0;
    return true;
}

int tail_read(struct tail *tail)
{
    do {
        struct stat st;
        int r;

        if (tail->fd < 0)
            continue;
        if (fstat(tail->fd, &st) == 0 && st.st_size < tail->offset) {
            /* the rest of the line is lost; what there is of it gets an end, so that the next line starts clean */
            if (tail->have > 0 && tail->have < sizeof(tail->line))
                tail->line[tail->have++] = '\n';
            r = put(tail, tail->have);
            if (r < 0)
                return r;
            tail->offset = 0;
        }
        r = drain(tail);
        if (r < 0)
            return r;
        /* the old file is read to its end before the new one is opened: a line may go on from one to the other */
    } while (open_next(tail));
    return 0;
}
