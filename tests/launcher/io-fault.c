/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk that fails: preloaded into QEMU, it lets reads, writes and flushes of the files whose path has
 * VMLET_FAULT_FILE in it fail with the errno in VMLET_FAULT_SWITCH, as long as that file is there. Elsewhere it passes
 * calls on.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int fault(int fd)
{
    const char *wanted = getenv("VMLET_FAULT_FILE"), *path = getenv("VMLET_FAULT_SWITCH");
    char link[64], name[4096], number[16] = "";
    int saved = errno, at;
    ssize_t n;

    if (!wanted || !path)
        return 0;
    at = open(path, O_RDONLY | O_CLOEXEC);
    errno = saved;
    if (at < 0)
        return 0;
    n = read(at, number, sizeof(number) - 1);
    close(at);
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = n > 0 ? readlink(link, name, sizeof(name) - 1) : -1;
    errno = saved;
    if (n < 0)
        return 0;
    name[n] = '\0';
    return strstr(name, wanted) ? atoi(number) : 0;
}

#define NEXT(name) ((__typeof__(&(name)))(size_t)dlsym(RTLD_NEXT, #name))
#define GUARD(fd)                                                                                                      \
    do {                                                                                                               \
        int fault_ = fault(fd);                                                                                        \
                                                                                                                       \
        if (fault_) {                                                                                                  \
            errno = fault_;                                                                                            \
            return -1;                                                                                                 \
        }                                                                                                              \
    } while (0)

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at)
{
    GUARD(fd);
    return NEXT(pwrite64)(fd, data, length, at);
}

ssize_t pread64(int fd, void *data, size_t length, off64_t at)
{
    GUARD(fd);
    return NEXT(pread64)(fd, data, length, at);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at)
{
    GUARD(fd);
    return NEXT(pwritev64)(fd, parts, count, at);
}

ssize_t preadv64(int fd, const struct iovec *parts, int count, off64_t at)
{
    GUARD(fd);
    return NEXT(preadv64)(fd, parts, count, at);
}

int fdatasync(int fd)
{
    GUARD(fd);
    return NEXT(fdatasync)(fd);
}
