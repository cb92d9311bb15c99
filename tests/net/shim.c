/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into netsetup: one call to libnl, or one ioctl, fails. VMLET_SHIM_AT: which, counted from 1 over all that
 * stand here. VMLET_SHIM_AFTER: the call is carried out before it is said to have failed, as when an answer is lost.
 * VMLET_SHIM_STOP: the process stops itself before the call instead, which then is as any other. VMLET_SHIM_LOG: a file
 * that gets the name of the call; none when there were fewer calls.
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
#include <unistd.h>

#define SHOWN __attribute__((visibility("default")))

/* Whether this call is the one. */
static bool fails(const char *name)
{
    static unsigned count;
    const char *at = getenv("VMLET_SHIM_AT"), *log = getenv("VMLET_SHIM_LOG");
    int fd;

    if (!at || ++count != (unsigned)atoi(at))
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
