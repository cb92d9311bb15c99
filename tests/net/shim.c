/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into netsetup: one call to libnl, one ioctl, or one that changes a file (state, sysctls, nft's rules)
 * fails. VMLET_SHIM_AT: which, counted from 1 over all that stand here. VMLET_SHIM_AFTER: the call is carried out
 * before it is said to have failed, as when an answer is lost. VMLET_SHIM_STOP: the process stops itself before the
 * call instead, which then is as any other. VMLET_SHIM_LOG: a file that gets the name of the call; none when there were
 * fewer calls.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netlink/errno.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>
#include <netlink/route/route.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define SHOWN __attribute__((visibility("default")))

static pid_t owner;

__attribute__((constructor)) static void begin(void)
{
    owner = getpid();
}

/* Whether this call is the one: of netsetup's own, not of the child that writes into the launcher's folder. */
static bool fails(const char *name)
{
    static unsigned count;
    const char *at = getenv("VMLET_SHIM_AT"), *log = getenv("VMLET_SHIM_LOG");
    int fd;

    if (!at || getpid() != owner || ++count != (unsigned)atoi(at))
        return false;
    fd = log ? open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
    if (fd < 0 || write(fd, name, strlen(name)) < 0)
        abort();
    close(fd);
    if (!getenv("VMLET_SHIM_STOP"))
        return true;
    raise(SIGSTOP);
    return false;
}

static bool first_does(void)
{
    return getenv("VMLET_SHIM_AFTER") != NULL;
}

#define REAL(name) ((__typeof__(&name))(uintptr_t)dlsym(RTLD_NEXT, #name))

SHOWN struct nl_sock *nl_socket_alloc(void)
{
    return fails("nl_socket_alloc") ? NULL : REAL(nl_socket_alloc)();
}

SHOWN int nl_connect(struct nl_sock *sock, int protocol)
{
    return fails("nl_connect") ? -NLE_FAILURE : REAL(nl_connect)(sock, protocol);
}

SHOWN int nl_send_sync(struct nl_sock *sock, struct nl_msg *msg)
{
    if (!fails("nl_send_sync"))
        return REAL(nl_send_sync)(sock, msg);
    if (first_does())
        REAL(nl_send_sync)(sock, msg);
    else
        nlmsg_free(msg);
    return -NLE_FAILURE;
}

SHOWN int rtnl_link_get_kernel(struct nl_sock *sock, int index, const char *name, struct rtnl_link **ret)
{
    return fails("rtnl_link_get_kernel") ? -NLE_FAILURE : REAL(rtnl_link_get_kernel)(sock, index, name, ret);
}

SHOWN int rtnl_link_alloc_cache(struct nl_sock *sock, int family, struct nl_cache **ret)
{
    return fails("rtnl_link_alloc_cache") ? -NLE_NOMEM : REAL(rtnl_link_alloc_cache)(sock, family, ret);
}

SHOWN int rtnl_addr_alloc_cache(struct nl_sock *sock, struct nl_cache **ret)
{
    return fails("rtnl_addr_alloc_cache") ? -NLE_NOMEM : REAL(rtnl_addr_alloc_cache)(sock, ret);
}

SHOWN int rtnl_route_alloc_cache(struct nl_sock *sock, int family, int flags, struct nl_cache **ret)
{
    return fails("rtnl_route_alloc_cache") ? -NLE_NOMEM : REAL(rtnl_route_alloc_cache)(sock, family, flags, ret);
}

SHOWN struct nl_msg *nlmsg_alloc_simple(int type, int flags)
{
    return fails("nlmsg_alloc_simple") ? NULL : REAL(nlmsg_alloc_simple)(type, flags);
}

SHOWN int ioctl(int fd, unsigned long request, ...)
{
    int (*real)(int, unsigned long, ...) = (int (*)(int, unsigned long, ...))(uintptr_t)dlsym(RTLD_NEXT, "ioctl");
    void *argument;
    va_list ap;

    va_start(ap, request);
    argument = va_arg(ap, void *);
    va_end(ap);
    if (!fails("ioctl"))
        return real(fd, request, argument);
    if (first_does())
        real(fd, request, argument);
    errno = EIO;
    return -1;
}

/* State and journal. */
SHOWN int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    if (!fails("rename"))
        return REAL(renameat2)(from_dir, from, to_dir, to, flags);
    if (first_does())
        REAL(renameat2)(from_dir, from, to_dir, to, flags);
    errno = EIO;
    return -1;
}

SHOWN int rename(const char *from, const char *to)
{
    if (!fails("rename"))
        return REAL(rename)(from, to);
    if (first_does())
        REAL(rename)(from, to);
    errno = EIO;
    return -1;
}

/* What nft reads. */
SHOWN int memfd_create(const char *name, unsigned flags)
{
    if (!fails("memfd_create"))
        return REAL(memfd_create)(name, flags);
    errno = EMFILE;
    return -1;
}

/* Sysctls alone. */
SHOWN int open64(const char *path, int flags, ...)
{
    int (*real)(const char *, int, ...) = (int (*)(const char *, int, ...))(uintptr_t)dlsym(RTLD_NEXT, "open64");
    mode_t mode = 0;
    va_list ap;

    if (flags & O_CREAT) {
        va_start(ap, flags);
        mode = va_arg(ap, mode_t);
        va_end(ap);
    }
    if (strncmp(path, "/proc/sys/", 10) != 0 || (flags & O_ACCMODE) != O_WRONLY || !fails("open"))
        return real(path, flags, mode);
    errno = EACCES;
    return -1;
}
