/* SPDX-License-Identifier: Apache-2.0 */
#include "base/confine.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"

const char *const confine_basics[] = {
    /* memory */
    "brk",
    "sysinfo", /* qsort() of the C library asks how much there is */
    "mmap",
    "mmap2",
    "munmap",
    "mremap",
    "mprotect",
    "madvise",
    "futex",
    "rseq",
    "set_robust_list",
    /* streams that are open, and what is asked of them */
    "read",
    "readv",
    "write",
    "writev",
    "close",
    "lseek",
    "_llseek",
    "fcntl",
    "fcntl64",
    "ioctl",
    "fstat",
    "fstat64",
    "newfstatat",
    "poll",
    "ppoll",
    /* signals, the clock, who we are, the end */
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "restart_syscall",
    "clock_gettime",
    "clock_gettime64",
    "clock_nanosleep",
    "gettimeofday",
    "time",
    "getrandom",
    "getpid",
    "gettid",
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "tgkill",
    "exit",
    "exit_group",
    NULL,
};

const char *const confine_mounts[] = {
    "mount",   "umount", "umount2",    "pivot_root", "chroot",        "fsopen", "fsconfig",
    "fsmount", "fspick", "move_mount", "open_tree",  "mount_setattr", NULL,
};

const char *const confine_never[] = {
    /* other processes' insides */
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "pidfd_getfd",
    "kcmp",
    /* the kernel itself */
    "init_module",
    "finit_module",
    "delete_module",
    "create_module",
    "kexec_load",
    "kexec_file_load",
    "reboot",
    "bpf",
    "perf_event_open",
    "syslog",
    "_sysctl",
    "nfsservctl",
    "vserver",
    "lookup_dcookie",
    "acct",
    "quotactl",
    "quotactl_fd",
    "swapon",
    "swapoff",
    "setdomainname",
    "vhangup",
    /* hardware and clocks */
    "iopl",
    "ioperm",
    "settimeofday",
    "stime",
    "clock_settime",
    "clock_settime64",
    "clock_adjtime",
    "clock_adjtime64",
    "adjtimex",
    /* keys of the kernel, file handles that walk around paths, old interfaces */
    "add_key",
    "request_key",
    "keyctl",
    "open_by_handle_at",
    "uselib",
    "vm86",
    "vm86old",
    "modify_ldt",
    "personality",
    NULL,
};

#define NAMESPACE_FLAGS                                                                                                \
    (CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWCGROUP)

/* -EDOM: this architecture lacks the call. */
int confine_add_calls(scmp_filter_ctx filter, uint32_t action, const char *const *calls)
{
    int r = 0;

    for (; *calls && r >= 0; calls++) {
        int number = seccomp_syscall_resolve_name(*calls);

        if (number != __NR_SCMP_ERROR)
            r = seccomp_rule_add(filter, action, number, 0);
        if (r == -EDOM)
            r = 0;
    }
    return r;
}

static int add_rules(scmp_filter_ctx filter, uint32_t fallback, const struct confinement *confinement)
{
    int r = confine_add_calls(filter, SCMP_ACT_ALLOW, confine_basics);

    if (r >= 0)
        r = confine_add_calls(filter, SCMP_ACT_ALLOW, confinement->calls);
    for (const int *family = confinement->families; family && *family != AF_UNSPEC && r >= 0; family++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
                             SCMP_A0_32(SCMP_CMP_EQ, (scmp_datum_t)*family, 0));
    if (r >= 0 && confinement->processes)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                             SCMP_A0(SCMP_CMP_MASKED_EQ, NAMESPACE_FLAGS, 0));
    /* clone3's flags lie in memory, where no filter sees them: ENOSYS sends the C library to clone. It is no call that
     * is missed, so it is none to be written down either. */
    if (r >= 0 && fallback != SCMP_ACT_ERRNO(ENOSYS))
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    /* by which the listener is sent to who listens */
    if (r >= 0 && fallback == SCMP_ACT_NOTIFY)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(sendmsg), 0);
    return r;
}

#ifdef VMLET_CRASH_POINTS

/* ---- test builds: what would have been refused is let through and written down ----------------------------------- */

static void write_down(const char *path, const struct seccomp_notif *request)
{
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    char *call = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, request->data.nr);
    _cleanup_free_ char *comm = NULL;
    char comm_path[64], line[256];

    snprintf(comm_path, sizeof(comm_path), "/proc/%u/comm", request->pid);
    (void)file_read(comm_path, 64, &comm, NULL, NULL);
    if (comm)
        comm[strcspn(comm, "\n")] = '\0';
    snprintf(line, sizeof(line), "%s: %s(%#llx, %#llx)\n", comm ? comm : "?", call ? call : "?",
             (unsigned long long)request->data.args[0], (unsigned long long)request->data.args[1]);
    (void)fd_write_all(fd, line, strlen(line));
    free(call);
}

static _Noreturn void observe(const char *path, int from)
{
    struct seccomp_notif *request = NULL;
    struct seccomp_notif_resp *response = NULL;
    int fd;

    setsid();
    fd = fd_receive(from);
    if (fd < 0)
        _exit(1);
    if (seccomp_notify_alloc(&request, &response) < 0)
        _exit(1);
    for (;;) { /* until nobody is left who has the filter */
        struct pollfd p = {fd, POLLIN, 0};

        if (poll(&p, 1, -1) < 0 || !(p.revents & POLLIN))
            _exit(0);
        memset(request, 0, sizeof(*request));        /* seccomp_unotify(2): EINVAL else, for ever */
        if (seccomp_notify_receive(fd, request) < 0) /* who asked has been killed meanwhile */
            continue;
        write_down(path, request);
        response->id = request->id;
        response->val = 0;
        response->error = 0;
        response->flags = 1; /* SECCOMP_USER_NOTIF_FLAG_CONTINUE, linux/seccomp.h */
        (void)seccomp_notify_respond(fd, response);
    }
}

/* The end to which the listener is to be sent. */
static int start_observer(const char *path)
{
    int pair[2];
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    pid = fork();
    if (pid == 0) {
        if (fork() != 0) /* a grandchild, so that it is nobody's child who counts his */
            _exit(0);
        close(pair[0]);
        observe(path, pair[1]);
    }
    close(pair[1]);
    waitpid(pid, NULL, 0);
    return pair[0];
}

static const char *log_path(void)
{
    return getenv("VMLET_SANDBOX_LOG");
}

/* Executed anew: the one that listens hears this process still, and there can be no second one. */
static bool is_heard(void)
{
    const char *heard = getenv("VMLET_SANDBOX_HEARD");
    char pid[16];

    snprintf(pid, sizeof(pid), "%d", (int)getpid());
    if (heard && streq(heard, pid))
        return true;
    setenv("VMLET_SANDBOX_HEARD", pid, true);
    return false;
}

#else

static int start_observer(const char *path)
{
    return -ENOSYS;
}

static const char *log_path(void)
{
    return NULL;
}

static bool is_heard(void)
{
    return false;
}

#endif

/* ---- all builds -------------------------------------------------------------------------------------------------- */

static bool is_sanitized(void)
{
#ifdef __SANITIZE_ADDRESS__
    return true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
    return true;
#endif
#endif
    return false;
}

static int load(const struct confinement *confinement, struct error **ret_error)
{
    const char *path = log_path();
    uint32_t fallback = path ? SCMP_ACT_NOTIFY : SCMP_ACT_ERRNO(ENOSYS);
    _cleanup_close_ int observer = -EBADF;
    scmp_filter_ctx filter;
    int r;

    if (path && is_heard())
        return 0;
    filter = seccomp_init(fallback);
    if (!filter)
        return error_oom(ret_error);
    if (path)
        observer = start_observer(path);
    (void)seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree in place of a list */
    (void)seccomp_attr_set(filter, SCMP_FLTATR_API_SYSRAWRC, 1); /* the kernel's own errno */
    r = add_rules(filter, fallback, confinement);
    if (r >= 0)
        r = seccomp_load(filter);
    if (r >= 0 && path) {
        _cleanup_close_ int listener = seccomp_notify_fd(filter);

        r = fd_send(observer, listener);
    }
    seccomp_release(filter);
    /* A program that is executed anew, again and again: the kernel has a limit for all filters together
     * (MAX_INSNS_PER_PATH), and those before this one hold. */
    if (r == -ENOMEM && prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == SECCOMP_MODE_FILTER) {
        log_debug("one more filter of system calls finds no room; those there are hold");
        r = 0;
    }
    return r < 0 ? error_errno(ret_error, r, "cannot load the filter of system calls") : 0;
}

bool confine_has_seccomp(void)
{
    if (is_sanitized())
        return false;
    if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) >= 0 || errno != EINVAL)
        return true;
    log_warning("the kernel has no seccomp: system calls are not filtered");
    return false;
}

int confine_refuse(const char *const *calls, struct error **ret_error)
{
    scmp_filter_ctx filter;
    int r;

    if (!confine_has_seccomp())
        return 0;
    filter = seccomp_init(SCMP_ACT_ALLOW);
    if (!filter)
        return error_oom(ret_error);
    r = confine_add_calls(filter, SCMP_ACT_ERRNO(EPERM), confine_never);
    if (r >= 0)
        r = confine_add_calls(filter, SCMP_ACT_ERRNO(EPERM), calls);
    if (r >= 0)
        r = seccomp_load(filter); /* sets no_new_privs itself */
    seccomp_release(filter);
    return r < 0 ? error_errno(ret_error, r, "cannot load the filter of system calls") : 0;
}

/* By the bare calls: a static program that wants nothing else of libcap. */
static int keep_capabilities(uint64_t kept, struct error **ret_error)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

    if (kept == CONFINE_ALL_CAPABILITIES)
        return 0;
    if (syscall(SYS_capget, &header, data) < 0)
        return error_errno(ret_error, errno, "cannot read the capabilities");
    for (size_t i = 0; i < ELEMENTSOF(data); i++) {
        data[i].permitted &= (uint32_t)(kept >> (32 * i));
        data[i].effective &= data[i].permitted;
        data[i].inheritable &= data[i].permitted; /* and with it what is ambient: capabilities(7) */
    }
    return syscall(SYS_capset, &header, data) < 0 ? error_errno(ret_error, errno, "cannot drop the capabilities") : 0;
}

int confine(const struct confinement *confinement, struct error **ret_error)
{
    int r = keep_capabilities(confinement->capabilities, ret_error);

    if (r < 0)
        return r;
    tzset(); /* strftime(), for the log, opens /etc/localtime else */
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return error_errno(ret_error, errno, "cannot set no_new_privs");
    return confine_has_seccomp() ? load(confinement, ret_error) : 0;
}
