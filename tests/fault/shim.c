/* SPDX-License-Identifier: Apache-2.0 */
/*
 * LD_PRELOAD: calls on chosen files fail, and the wall clock jumps. For launcher, monitor and QEMU alike.
 *
 * VMLET_SHIM_SWITCH=FILE  nothing happens while this file is not there; it says "CALL ERRNO PATTERN": open, write,
 * fsync or rename; a number; a shell pattern of the path VMLET_SHIM_HITS=FILE    gets a line for each call that was
 * made to fail VMLET_SHIM_CLOCK=FILE   seconds that CLOCK_REALTIME is off, once the file is there
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static int read_small(const char *variable, char *text, size_t size)
{
    const char *path = getenv(variable);
    long fd, n;

    if (!path || (fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC)) < 0)
        return -1;
    n = syscall(SYS_read, (int)fd, text, size - 1);
    syscall(SYS_close, (int)fd);
    if (n <= 0)
        return -1;
    text[n] = '\0';
    return 0;
}

/* True: this call is to fail, errno is set. */
static int hit(const char *call, const char *path)
{
    char text[512], name[16], pattern[400];
    const char *hits = getenv("VMLET_SHIM_HITS");
    int saved = errno, number;

    if (!path || read_small("VMLET_SHIM_SWITCH", text, sizeof(text)) < 0 ||
        sscanf(text, "%15s %d %399s", name, &number, pattern) != 3 || strcmp(name, call) != 0 ||
        fnmatch(pattern, path, 0) != 0) {
        errno = saved;
        return 0;
    }
    if (hits) {
        long fd = syscall(SYS_openat, AT_FDCWD, hits, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
        int n = snprintf(text, sizeof(text), "%s %s\n", call, path);

        syscall(SYS_write, (int)fd, text, (size_t)n);
        syscall(SYS_close, (int)fd);
    }
    errno = number;
    return 1;
}

static int hit_fd(const char *call, int fd)
{
    char link[64], path[4096];
    ssize_t n;
    int saved = errno;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof(path) - 1);
    errno = saved;
    if (n <= 0)
        return 0;
    path[n] = '\0';
    return hit(call, path);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        va_list ap;                                                                                                    \
        mode_t mode;                                                                                                   \
        va_start(ap, flags);                                                                                           \
        mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;                                                 \
        va_end(ap);                                                                                                    \
        return (flags & O_ACCMODE) != O_RDONLY && hit("open", path) ? -1 : NEXT(name)(path, flags, mode);              \
    }
OPEN(open)
OPEN(open64)

ssize_t write(int fd, const void *data, size_t length)
{
    return hit_fd("write", fd) ? -1 : NEXT(write)(fd, data, length);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at)
{
    return hit_fd("write", fd) ? -1 : NEXT(pwrite64)(fd, data, length, at);
}

ssize_t writev(int fd, const struct iovec *iov, int n)
{
    return hit_fd("write", fd) ? -1 : NEXT(writev)(fd, iov, n);
}

ssize_t splice(int in, off64_t *in_at, int out, off64_t *out_at, size_t length, unsigned flags)
{
    return hit_fd("write", out) ? -1 : NEXT(splice)(in, in_at, out, out_at, length, flags);
}

int fsync(int fd)
{
    return hit_fd("fsync", fd) ? -1 : NEXT(fsync)(fd);
}

int rename(const char *from, const char *to)
{
    return hit("rename", to) ? -1 : NEXT(rename)(from, to);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    return hit("rename", to) ? -1 : NEXT(renameat2)(from_dir, from, to_dir, to, flags);
}

static long offset(void)
{
    char text[32];
    int saved = errno;
    long seconds = read_small("VMLET_SHIM_CLOCK", text, sizeof(text)) < 0 ? 0 : atol(text);

    errno = saved;
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int r = (int)syscall(SYS_clock_gettime, clock, now);

    if (r == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += offset();
    return r;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    *now = (struct timeval){ts.tv_sec, ts.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *ret)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    if (ret)
        *ret = ts.tv_sec;
    return ts.tv_sec;
}
