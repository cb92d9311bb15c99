/* SPDX-License-Identifier: Apache-2.0 */
#include "domain/console-log.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"

struct console_log {
    char *dir, *path;
    uint64_t file_bytes;
    uint64_t begin;  /* bytes in the predecessors, those that are gone too */
    int fd;          /* -EBADF: could not be opened; the next byte is another try */
    bool failing;    /* and that was said */
    uint64_t lost;   /* bytes since then */
    bool cannot_map; /* no splice to this file system */
};

/* The count in the name of a predecessor; 0: it is none. */
static uint64_t end_of_name(const char *name)
{
    const char *digits = startswith(name, CONSOLE_LOG_NAME ".");
    char *end;
    uint64_t n;

    if (!digits || *digits < '1' || *digits > '9')
        return 0;
    errno = 0;
    n = strtoull(digits, &end, 10);
    return errno || *end ? 0 : n;
}

/* How many predecessors there are, the newest and the oldest. */
static unsigned scan(const char *dir, uint64_t *ret_newest, uint64_t *ret_oldest)
{
    DIR *stream = opendir(dir);
    struct dirent *entry;
    unsigned n = 0;

    *ret_newest = 0;
    *ret_oldest = UINT64_MAX;
    while (stream && (entry = readdir(stream))) {
        uint64_t end = end_of_name(entry->d_name);

        if (end == 0)
            continue;
        n++;
        *ret_newest = MAX(*ret_newest, end);
        *ret_oldest = MIN(*ret_oldest, end);
    }
    if (stream)
        closedir(stream);
    return n;
}

static char *predecessor_path(const struct console_log *log, uint64_t end)
{
    char *path;

    return asprintf(&path, "%s.%" PRIu64, log->path, end) < 0 ? NULL : path;
}

static void remove_oldest(const struct console_log *log)
{
    uint64_t newest, oldest;

    while (scan(log->dir, &newest, &oldest) >= LIMIT_CONSOLE_LOG_FILES) {
        _cleanup_free_ char *path = predecessor_path(log, oldest);

        if (!path || unlink(path) < 0)
            return;
    }
}

/* Opens the log, again if somebody has removed it, and says how long it is. */
static int open_log(struct console_log *log, uint64_t *ret_size)
{
    struct stat st;

    if (log->fd >= 0 && (fstat(log->fd, &st) < 0 || st.st_nlink == 0))
        log->fd = fd_close(log->fd);
    if (log->fd < 0) {
        log->fd = open(log->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (log->fd < 0 || fstat(log->fd, &st) < 0)
            return -errno;
    }
    *ret_size = (uint64_t)st.st_size;
    return 0;
}

static int rotate(struct console_log *log, uint64_t size)
{
    _cleanup_free_ char *path = predecessor_path(log, log->begin + size);

    if (!path)
        return -ENOMEM;
    if (rename(log->path, path) < 0)
        return -errno;
    log->begin += size;
    log->fd = fd_close(log->fd);
    remove_oldest(log);
    return 0;
}

/* The log open, with room for at least a byte. */
static int open_with_room(struct console_log *log, uint64_t *ret_size)
{
    int r = open_log(log, ret_size);

    if (r < 0 || *ret_size < log->file_bytes)
        return r;
    r = rotate(log, *ret_size);
    return r < 0 ? r : open_log(log, ret_size);
}

static ssize_t read_pipe(int fd, char *data, size_t size)
{
    ssize_t n;

    do
        n = read(fd, data, size);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

/* The bytes come out of the pipe and are nowhere but with the viewers. */
static ssize_t lose(struct console_log *log, int r, int pipe_fd, char *data, size_t size)
{
    ssize_t n = read_pipe(pipe_fd, data, size);

    if (n <= 0)
        return n;
    if (!log->failing)
        log_warning("the console log %s cannot be written: %s; the VM runs on, and it is tried again", log->path,
                    strerror(-r));
    log->failing = true;
    log->lost += (uint64_t)n;
    return n;
}

static void note_success(struct console_log *log)
{
    if (log->failing)
        log_info("the console log %s can be written again; it lacks %" PRIu64 " bytes", log->path, log->lost);
    log->failing = false;
    log->lost = 0;
}

/* Where there is no splice(2) to the log's file system; a launcher that is killed here may lose some bytes. */
static ssize_t copy(struct console_log *log, uint64_t size, int pipe_fd, char *data, size_t room)
{
    ssize_t n = read_pipe(pipe_fd, data, room), written = n > 0 ? pwrite(log->fd, data, (size_t)n, (off_t)size) : 0;

    if (n > 0 && written < n)
        log->lost += (uint64_t)(n - MAX(written, 0));
    else if (n > 0)
        note_success(log);
    return n;
}

ssize_t console_log_move(struct console_log *log, int pipe_fd, char *data, size_t size)
{
    uint64_t length;
    int r = open_with_room(log, &length);
    loff_t offset;
    ssize_t n;

    if (r < 0)
        return lose(log, r, pipe_fd, data, size);
    size = (size_t)MIN((uint64_t)size, log->file_bytes - length);
    offset = (loff_t)length;
    if (log->cannot_map)
        return copy(log, length, pipe_fd, data, size);
    do
        n = splice(pipe_fd, NULL, log->fd, &offset, size, SPLICE_F_NONBLOCK);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EINVAL) {
        log->cannot_map = true;
        return copy(log, length, pipe_fd, data, size);
    }
    if (n < 0)
        return errno == EAGAIN ? -EAGAIN : lose(log, -errno, pipe_fd, data, size);
    if (n > 0) {
        note_success(log);
        /* the viewers' copy; a disk that cannot be read now gives them nothing */
        return pread(log->fd, data, (size_t)n, (off_t)length) == n ? n : -EAGAIN;
    }
    return 0;
}

int console_log_open(const struct console_log_options *options, struct console_log **ret, struct error **ret_error)
{
    _cleanup_(console_log_freep) struct console_log *log = calloc(1, sizeof(*log));
    uint64_t size, oldest;

    if (!log)
        return error_oom(ret_error);
    log->fd = -EBADF;
    log->file_bytes = options->file_bytes ? options->file_bytes : LIMIT_CONSOLE_LOG_BYTES;
    log->dir = strdup(options->dir);
    if (asprintf(&log->path, "%s/" CONSOLE_LOG_NAME, options->dir) < 0)
        log->path = NULL;
    if (!log->dir || !log->path)
        return error_oom(ret_error);
    scan(log->dir, &log->begin, &oldest);
    remove_oldest(log);   /* a launcher that was killed may have been about to do it */
    open_log(log, &size); /* tried again when there is something to write, and told then */
    *ret = TAKE_PTR(log);
    return 0;
}

size_t console_log_read_end(const struct console_log *log, char *buffer, size_t size)
{
    struct stat st;
    ssize_t n;

    if (log->fd < 0 || fstat(log->fd, &st) < 0)
        return 0;
    n = pread(log->fd, buffer, size, MAX(st.st_size - (off_t)size, (off_t)0));
    return n > 0 ? (size_t)n : 0;
}

void console_log_free(struct console_log *log)
{
    if (!log)
        return;
    fd_close(log->fd);
    free(log->dir);
    free(log->path);
    free(log);
}
