/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/tail.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
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
    uint64_t passed; /* predecessors up to this number have been read, or were gone before we came */
    int last_errno;  /* of an open that failed: said once */
    bool open_line;  /* the last byte written was no line end */
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

/* N of NAME.N; 0: it is none of the file's predecessors. */
static uint64_t predecessor_number(const char *file, const char *entry)
{
    const char *digits = startswith(entry, file);
    char *end;
    uint64_t n;

    if (!digits || digits[0] != '.' || digits[1] < '0' || digits[1] > '9')
        return 0;
    errno = 0;
    n = strtoull(digits + 1, &end, 10);
    return errno || *end || n >= UINT64_MAX - 1 ? 0 : n + 1; /* .0 counts too */
}

/* The number of the oldest predecessor that has not been read; 0: there is none. */
static uint64_t next_predecessor(const struct tail *tail)
{
    const char *slash = strrchr(tail->path, '/');
    char dir[PATH_MAX];
    struct dirent *entry;
    uint64_t next = 0;
    DIR *stream;

    snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash - tail->path) + 1 : 1, slash ? tail->path : ".");
    stream = opendir(dir);
    while (stream && (entry = readdir(stream))) {
        uint64_t n = predecessor_number(slash ? slash + 1 : tail->path, entry->d_name);

        if (n > tail->passed && (next == 0 || n < next))
            next = n;
    }
    if (stream)
        closedir(stream);
    return next;
}

static bool is_open(const struct tail *tail, const struct stat *st)
{
    return tail->fd >= 0 && st->st_ino == tail->inode && st->st_dev == tail->device;
}

static void take(struct tail *tail, int fd, const struct stat *st)
{
    fd_close(tail->fd);
    tail->fd = fd;
    tail->inode = st->st_ino;
    tail->device = st->st_dev;
    tail->offset = 0;
}

/* The next of the predecessors: where the log was rotated more than once since we looked, and at the start. */
static bool open_predecessor(struct tail *tail)
{
    uint64_t n;

    while ((n = next_predecessor(tail)) > 0) {
        _cleanup_close_ int fd = -EBADF;
        char path[PATH_MAX];
        struct stat st;

        snprintf(path, sizeof(path), "%s.%" PRIu64, tail->path, n - 1);
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_NOFOLLOW);
        tail->passed = n;
        if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || is_open(tail, &st))
            continue; /* removed meanwhile, or the one that we have just read under its old name */
        take(tail, TAKE_FD(fd), &st);
        return true;
    }
    return false;
}

/* 1 if there is another file to go on with; it is open then. */
static int open_next(struct tail *tail)
{
    _cleanup_close_ int fd = open(tail->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    struct stat st;
    int r;

    if (fd < 0 || fstat(fd, &st) < 0) {
        if (errno != ENOENT && errno != ENOTDIR && errno != tail->last_errno)
            log_warning("cannot read %s: %s; waiting until it can be", tail->path, strerror(errno));
        tail->last_errno = errno;
        return 0;
    }
    tail->last_errno = 0;
    if (!S_ISREG(st.st_mode) || is_open(tail, &st))
        return 0;
    /* ours is not written to any more; what was, since it was read, comes before the next: a line may go on there */
    r = tail->fd >= 0 ? drain(tail) : 0;
    if (r < 0)
        return r;
    /* after this file was opened: whatever lies between it and ours has its predecessor's name by now */
    if (open_predecessor(tail))
        return 1;
    take(tail, TAKE_FD(fd), &st);
    return 1;
}

int tail_read(struct tail *tail)
{
    int r;

    do {
        struct stat st;

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
    } while ((r = open_next(tail)) > 0);
    return r;
}
