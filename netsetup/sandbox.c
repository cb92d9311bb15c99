/* SPDX-License-Identifier: Apache-2.0 */
#include "netsetup/sandbox.h"

#include <sys/capability.h>
#include <sys/socket.h>

#include "base/confine.h"

/* Beside confine_basics: what libnl, the tap ioctls, the files of state.c, and nft as a child call. Others fail with
 * ENOSYS, so that a plan which meets one is undone. */
static const char *const allowed[] = {
    /* memory, and what libc does when a program starts and ends */
    "arch_prctl",
    "set_tid_address",
    "prlimit64",
    "getrlimit",
    "setrlimit",
    "uname",
    "sched_getaffinity",
    "sched_yield",
    /* signals and time */
    "sigaltstack",
    "nanosleep",
    /* files */
    "access",
    "faccessat",
    "faccessat2",
    "open",
    "openat",
    "close_range",
    "pread64",
    "pwrite64",
    "stat",
    "lstat",
    "statx",
    "fstatfs",
    "statfs",
    "readlink",
    "readlinkat",
    "getcwd",
    "getdents64",
    "dup",
    "dup2",
    "dup3",
    "fsync",
    "fdatasync",
    "ftruncate",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "rmdir",
    "chmod",
    "fchmod",
    "fchmodat",
    "umask",
    "memfd_create",
    "flock",
    /* netlink, and the socket to the writer */
    "bind",
    "connect",
    "getsockname",
    "getsockopt",
    "setsockopt",
    "sendto",
    "sendmsg",
    "recvfrom",
    "recvmsg",
    "select",
    "pselect6",
    "epoll_create1",
    "epoll_ctl",
    "epoll_wait",
    "epoll_pwait",
    "shutdown",
    /* who we are */
    "getppid",
    "prctl",
    "capget",
    "setpgid",
    "getpgrp",
    /* nft, started and waited for */
    "vfork",
    "fork",
    "execve",
    "wait4",
    "waitid",
    "pipe",
    "pipe2",
    "pidfd_open",
    "pidfd_send_signal",
    "kill",
    NULL,
};

/* libnl's; and what libc asks for an interface's index with. */
static const int families[] = {AF_NETLINK, AF_UNIX, AF_UNSPEC};

static const struct confinement confinement = {
    .calls = allowed,
    .families = families,
    .processes = true,
    .capabilities = CONFINE_ALL_CAPABILITIES, /* below: the bounding set, too */
};

/* The bounding set shrinks with CAP_SETPCAP only; without it, no_new_privs keeps a child from regaining anything. */
static int drop_capabilities(bool may_lack, struct error **ret_error)
{
    static const cap_value_t kept[] = {CAP_NET_ADMIN};
    cap_t now = cap_get_proc(), wanted = cap_init();
    cap_flag_value_t has = CAP_CLEAR;
    int r = 0;

    if (!now || !wanted) {
        r = error_oom(ret_error);
        goto done;
    }
    cap_get_flag(now, CAP_NET_ADMIN, CAP_EFFECTIVE, &has);
    if (has == CAP_CLEAR && !may_lack) {
        r = error_set(ret_error, ERROR_HOST, EPERM, "CAP_NET_ADMIN is missing");
        if (ret_error)
            error_set_remedy(*ret_error, "run netsetup as root, or with this one capability, in the pod's namespace");
        goto done;
    }
    for (int c = 0; cap_valid(c); c++)
        if (c != CAP_NET_ADMIN)
            (void)cap_drop_bound(c);
    (void)cap_reset_ambient();
    if (has == CAP_SET && (cap_set_flag(wanted, CAP_PERMITTED, 1, kept, CAP_SET) < 0 ||
                           cap_set_flag(wanted, CAP_EFFECTIVE, 1, kept, CAP_SET) < 0))
        r = error_errno(ret_error, errno, "choose capabilities");
    else if (cap_set_proc(wanted) < 0)
        r = error_errno(ret_error, errno, "drop capabilities");
done:
    cap_free(now);
    cap_free(wanted);
    return r;
}

int sandbox_enter(bool may_lack, struct error **ret_error)
{
    int r = drop_capabilities(may_lack, ret_error);

    return r < 0 ? r : confine(&confinement, ret_error);
}
