/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into the launcher: the file at VMLET_SWAP gets out of the way, and VMLET_SWAP_BY takes its place, when QEMU
 * is about to be executed, so after the images were examined and before QEMU opens them. With VMLET_SWAP_BACK QEMU's
 * first look at the new file is followed by the old one's return.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&(name)))(size_t)dlsym(RTLD_NEXT, #name))

static void swap(int forth)
{
    const char *path = getenv("VMLET_SWAP"), *by = getenv("VMLET_SWAP_BY");
    char aside[4096];

    if (!path || !by)
        return;
    snprintf(aside, sizeof(aside), "%s.aside", path);
    if (forth ? rename(path, aside) < 0 || rename(by, path) < 0 : rename(path, by) < 0 || rename(aside, path) < 0)
        dprintf(2, "swap: %s\n", strerror(errno));
}

/* A start, not a question about what QEMU can do. */
static int starts_guest(char *const *argv)
{
    for (; *argv; argv++)
        if (strcmp(*argv, "-blockdev") == 0)
            return 1;
    return 0;
}

int execve(const char *path, char *const *argv, char *const *environment)
{
    if (starts_guest(argv))
        swap(1);
    return NEXT(execve)(path, argv, environment);
}

int execvpe(const char *file, char *const *argv, char *const *environment)
{
    if (starts_guest(argv))
        swap(1);
    return NEXT(execvpe)(file, argv, environment);
}

static void opened(const char *path)
{
    const char *swapped = getenv("VMLET_SWAP");

    if (getenv("VMLET_SWAP_BACK") && swapped && strcmp(path, swapped) == 0 &&
        strstr(program_invocation_short_name, "qemu-system"))
        swap(0);
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        va_list ap;                                                                                                    \
        int mode, fd;                                                                                                  \
                                                                                                                       \
        va_start(ap, flags);                                                                                           \
        mode = va_arg(ap, int);                                                                                        \
        va_end(ap);                                                                                                    \
        fd = NEXT(name)(path, flags, mode);                                                                            \
        if (fd >= 0)                                                                                                   \
            opened(path);                                                                                              \
        return fd;                                                                                                     \
    }

OPEN(open)
OPEN(open64)
