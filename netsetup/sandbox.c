/* SPDX-License-Identifier: Apache-2.0 */
#include "netsetup/sandbox.h"

#include <linux/netlink.h>
#include <linux/sched.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/socket.h>

/* What libnl, the tap ioctls, the files of state.c, and nft as a child call. Others fail with EPERM, so that a plan
 * which meets one is undone. Sockets and clone are looked at more closely below. */
static const int allowed[] = {
    /* memory, and what libc does when a program starts and ends */
    SCMP_SYS(brk),
    SCMP_SYS(mmap),
    SCMP_SYS(mprotect),
    SCMP_SYS(mremap),
    SCMP_SYS(munmap),
    SCMP_SYS(madvise),
    SCMP_SYS(arch_prctl),
    SCMP_SYS(set_tid_address),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(futex),
    SCMP_SYS(prlimit64),
    SCMP_SYS(getrlimit),
    SCMP_SYS(setrlimit),
    SCMP_SYS(getrandom),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(uname),
    SCMP_SYS(sysinfo),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(sched_yield),
    /* signals and time */
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(tgkill),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(time),
    /* files */
    SCMP_SYS(access),
    SCMP_SYS(faccessat),
    SCMP_SYS(faccessat2),
    SCMP_SYS(open),
    SCMP_SYS(openat),
    SCMP_SYS(close),
    SCMP_SYS(close_range),
    SCMP_SYS(read),
    SCMP_SYS(readv),
    SCMP_SYS(pread64),
    SCMP_SYS(write),
    SCMP_SYS(writev),
    SCMP_SYS(pwrite64),
    SCMP_SYS(lseek),
    SCMP_SYS(stat),
    SCMP_SYS(fstat),
    SCMP_SYS(lstat),
    SCMP_SYS(newfstatat),
    SCMP_SYS(statx),
    SCMP_SYS(fstatfs),
    SCMP_SYS(statfs),
    SCMP_SYS(readlink),
    SCMP_SYS(readlinkat),
    SCMP_SYS(getcwd),
    SCMP_SYS(getdents64),
    SCMP_SYS(fcntl),
    SCMP_SYS(dup),
    SCMP_SYS(dup2),
    SCMP_SYS(dup3),
    SCMP_SYS(fsync),
    SCMP_SYS(fdatasync),
    SCMP_SYS(ftruncate),
    SCMP_SYS(rename),
    SCMP_SYS(renameat),
    SCMP_SYS(renameat2),
    SCMP_SYS(unlink),
    SCMP_SYS(unlinkat),
    SCMP_SYS(mkdir),
    SCMP_SYS(mkdirat),
    SCMP_SYS(rmdir),
    SCMP_SYS(chmod),
    SCMP_SYS(fchmod),
    SCMP_SYS(fchmodat),
    SCMP_SYS(umask),
    SCMP_SYS(memfd_create),
    SCMP_SYS(ioctl),
    SCMP_SYS(flock),
    /* netlink, and the socket to the writer */
    SCMP_SYS(bind),
    SCMP_SYS(connect),
    SCMP_SYS(getsockname),
    SCMP_SYS(getsockopt),
    SCMP_SYS(setsockopt),
    SCMP_SYS(sendto),
    SCMP_SYS(sendmsg),
    SCMP_SYS(recvfrom),
    SCMP_SYS(recvmsg),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(select),
    SCMP_SYS(pselect6),
    SCMP_SYS(epoll_create1),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(shutdown),
    /* who we are */
    SCMP_SYS(getpid),
    SCMP_SYS(getppid),
    SCMP_SYS(gettid),
    SCMP_SYS(getuid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getgid),
    SCMP_SYS(getegid),
    SCMP_SYS(prctl),
    SCMP_SYS(capget),
    SCMP_SYS(setpgid),
    SCMP_SYS(getpgrp),
    /* nft, started and waited for */
    SCMP_SYS(vfork),
    SCMP_SYS(fork),
    SCMP_SYS(execve),
    SCMP_SYS(wait4),
    SCMP_SYS(waitid),
    SCMP_SYS(pipe),
    SCMP_SYS(pipe2),
    SCMP_SYS(pidfd_open),
    SCMP_SYS(pidfd_send_signal),
    SCMP_SYS(kill),
};

#define NAMESPACE_FLAGS                                                                                                \
    (CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWCGROUP)

/* glibc starts a process by clone3 where it can, and its flags lie in memory that a filter cannot see: ENOSYS sends it
 * to clone. */
static int add_rules(scmp_filter_ctx filter)
{
    static const int families[] = {AF_NETLINK, AF_UNIX};
    int r = 0;

    for (size_t i = 0; i < ELEMENTSOF(allowed) && r >= 0; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
    for (size_t i = 0; i < ELEMENTSOF(families) && r >= 0; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
                             (struct scmp_arg_cmp){0, SCMP_CMP_EQ, (scmp_datum_t)families[i], 0});
    if (r >= 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                             (struct scmp_arg_cmp){0, SCMP_CMP_MASKED_EQ, NAMESPACE_FLAGS, 0});
    if (r >= 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    return r;
}

static int load_filter(struct error **ret_error)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    int r;

    if (!filter)
        return error_oom(ret_error);
    r = add_rules(filter);
    if (r >= 0)
        r = seccomp_load(filter);
    seccomp_release(filter);
    return r < 0 ? error_errno(ret_error, r, "load the filter of system calls") : 0;
}

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

    if (r < 0)
        return r;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return error_errno(ret_error, errno, "set no_new_privs");
    return load_filter(ret_error);
}
