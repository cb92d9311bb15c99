/* SPDX-License-Identifier: Apache-2.0 */
#include "domain/sandbox.h"

#include <sched.h>
#include <stdio.h>
#include <sys/capability.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/confine.h"
#include "base/fd.h"

/* ---- the program: what is allowed ------------------------------------------------------------------------------ */

/* By name, since an architecture may lack a call, and an older libseccomp a newer one: both are skipped. */
static const char *const allowed[] = {
    /* beside confine_basics: what a C library does when a program, a thread or a process starts and ends */
    "pkey_alloc",
    "pkey_free",
    "pkey_mprotect",
    "mincore",
    "msync",
    "mlock",
    "mlock2",
    "mlockall",
    "munlock",
    "munlockall",
    "membarrier",
    "arch_prctl",
    "set_tid_address",
    "get_robust_list",
    "set_thread_area",
    "get_thread_area",
    "futex_waitv",
    "futex_wait",
    "futex_wake",
    "futex_requeue",
    "uname",
    "getcpu",
    "prlimit64",
    "getrlimit",
    "setrlimit",
    "getrusage",
    "times",
    "umask",
    "prctl",
    /* who we are; a helper's own descent to another user (swtpm, passt, virtiofsd) */
    "getppid",
    "getpgrp",
    "getpgid",
    "setpgid",
    "getsid",
    "setsid",
    "getresuid",
    "getresgid",
    "getgroups",
    "setuid",
    "setgid",
    "setresuid",
    "setresgid",
    "setreuid",
    "setregid",
    "setgroups",
    "setfsuid",
    "setfsgid",
    "capget",
    "capset",
    "seccomp",
    "landlock_create_ruleset",
    "landlock_add_rule",
    "landlock_restrict_self",
    /* signals, time, timers */
    "rt_sigpending",
    "rt_sigsuspend",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "rt_tgsigqueueinfo",
    "sigaltstack",
    "signalfd",
    "signalfd4",
    "kill",
    "tkill",
    "pause",
    "alarm",
    "getitimer",
    "setitimer",
    "clock_getres",
    "nanosleep",
    "timer_create",
    "timer_settime",
    "timer_gettime",
    "timer_getoverrun",
    "timer_delete",
    "timerfd_create",
    "timerfd_settime",
    "timerfd_gettime",
    /* the event loop: sd-event here, glib in QEMU, and its disks' asynchronous I/O */
    "select",
    "pselect6",
    "epoll_create",
    "epoll_create1",
    "epoll_ctl",
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    "eventfd",
    "eventfd2",
    "io_setup",
    "io_destroy",
    "io_submit",
    "io_cancel",
    "io_getevents",
    "io_pgetevents",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "inotify_init",
    "inotify_init1",
    "inotify_add_watch",
    "inotify_rm_watch",
    "userfaultfd",
    /* reading and writing files: the state file, logs, images, ISOs */
    "open",
    "openat",
    "openat2",
    "creat",
    "close_range",
    "pread64",
    "preadv",
    "preadv2",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "fsync",
    "fdatasync",
    "sync_file_range",
    "syncfs",
    "fallocate",
    "ftruncate",
    "truncate",
    "fadvise64",
    "readahead",
    "copy_file_range",
    "sendfile",
    "splice",
    "tee",
    "vmsplice",
    "dup",
    "dup2",
    "dup3",
    "flock",
    "memfd_create",
    "memfd_secret",
    "pipe",
    "pipe2",
    /* names, attributes, directories */
    "stat",
    "lstat",
    "statx",
    "statfs",
    "fstatfs",
    "access",
    "faccessat",
    "faccessat2",
    "readlink",
    "readlinkat",
    "getcwd",
    "chdir",
    "fchdir",
    "getdents",
    "getdents64",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "rmdir",
    "mknod",
    "mknodat",
    "chmod",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "chown",
    "fchown",
    "lchown",
    "fchownat",
    "utime",
    "utimes",
    "futimesat",
    "utimensat",
    "getxattr",
    "lgetxattr",
    "fgetxattr",
    "setxattr",
    "lsetxattr",
    "fsetxattr",
    "listxattr",
    "llistxattr",
    "flistxattr",
    "removexattr",
    "lremovexattr",
    "fremovexattr",
    "name_to_handle_at",
    /* sockets: the command server, QEMU's monitor, DHCP, netlink; what families there are is said below */
    "socketpair",
    "bind",
    "connect",
    "listen",
    "accept",
    "accept4",
    "getsockname",
    "getpeername",
    "getsockopt",
    "setsockopt",
    "shutdown",
    "send",
    "sendto",
    "sendmsg",
    "sendmmsg",
    "recv",
    "recvfrom",
    "recvmsg",
    "recvmmsg",
    /* children: started, watched, waited for (clone is looked at below) */
    "fork",
    "vfork",
    "execve",
    "wait4",
    "waitid",
    "waitpid",
    "pidfd_open",
    "pidfd_send_signal",
    /* how passt and virtiofsd shut themselves in: namespaces and an empty root of their own, as far as the kernel lets
     * who they are do so; QEMU's filter has none of it */
    "unshare",
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "sethostname",
    /* vCPUs: QEMU's threads on their processors and memory nodes */
    "sched_yield",
    "sched_getaffinity",
    "sched_setaffinity",
    "sched_getparam",
    "sched_setparam",
    "sched_getscheduler",
    "sched_setscheduler",
    "sched_getattr",
    "sched_setattr",
    "sched_get_priority_max",
    "sched_get_priority_min",
    "sched_rr_get_interval",
    "getpriority",
    "setpriority",
    "ioprio_get",
    "ioprio_set",
    "mbind",
    "get_mempolicy",
    "set_mempolicy",
    "migrate_pages",
    "move_pages",
    NULL,
};

static const int families[] = {AF_UNIX, AF_NETLINK, AF_INET, AF_INET6, AF_PACKET, AF_VSOCK, AF_UNSPEC};

int sandbox_enter(struct error **ret_error)
{
    const struct confinement ours = {
        .calls = allowed, .families = families, .processes = true, .capabilities = CONFINE_ALL_CAPABILITIES};

    return confine(&ours, ret_error);
}

static int raise_flags(cap_t from, cap_t to, cap_flag_t as, cap_flag_t flag, const cap_value_t *values, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        cap_flag_value_t present;

        if (cap_get_flag(from, values[i], as, &present) < 0)
            return -errno;
        if (present == CAP_SET && cap_set_flag(to, flag, 1, &values[i], CAP_SET) < 0)
            return -errno;
    }
    return 0;
}

int sandbox_drop_capabilities(struct error **ret_error)
{
    static const cap_value_t ambient[] = {CAP_NET_BIND_SERVICE};
    /* root beside the files of another user, in a container that was given no more for it; the last two because QEMU
     * has them, and only who has all that it has may see which files it has open (storage_check_opened()) */
    static const cap_value_t of_root[] = {CAP_DAC_OVERRIDE, CAP_CHOWN, CAP_FOWNER, CAP_IPC_LOCK, CAP_SYS_NICE};
    size_t n_root = geteuid() == 0 ? ELEMENTSOF(of_root) : 0;
    cap_t present = cap_get_proc(), wanted = cap_init();
    int r = present && wanted ? 0 : -errno;

    if (r == 0)
        r = raise_flags(present, wanted, CAP_PERMITTED, CAP_PERMITTED, ambient, ELEMENTSOF(ambient));
    if (r == 0)
        r = raise_flags(present, wanted, CAP_INHERITABLE, CAP_INHERITABLE, ambient, ELEMENTSOF(ambient));
    if (r == 0)
        r = raise_flags(present, wanted, CAP_EFFECTIVE, CAP_PERMITTED, of_root, n_root);
    if (r == 0)
        r = raise_flags(present, wanted, CAP_EFFECTIVE, CAP_EFFECTIVE, of_root, n_root);
    if (r == 0 && cap_set_proc(wanted) < 0)
        r = -errno;
    cap_free(present);
    cap_free(wanted);
    return r < 0 ? error_errno(ret_error, r, "cannot drop the capabilities") : 0;
}

/* ---- QEMU -------------------------------------------------------------------------------------------------------- */

/* Nothing here is a call that some QEMU makes in a way of running that it could go on from. */
static const char *const deadly[] = {
    /* beside confine_never and confine_mounts. Another program or process */
    "execveat",
    "fork",
    "vfork",
    /* other namespaces */
    "setns",
    "unshare",
    /* other users */
    "setuid",
    "setgid",
    "setresuid",
    "setresgid",
    "setreuid",
    "setregid",
    "setgroups",
    NULL,
};

static int add_deadly(scmp_filter_ctx filter, const char *program, bool network)
{
    scmp_datum_t address = (scmp_datum_t)(uintptr_t)program;
    int r = confine_add_calls(filter, SCMP_ACT_KILL_PROCESS, confine_never);

    if (r >= 0)
        r = confine_add_calls(filter, SCMP_ACT_KILL_PROCESS, confine_mounts);
    if (r >= 0)
        r = confine_add_calls(filter, SCMP_ACT_KILL_PROCESS, deadly);
    /* The one exec that starts QEMU names its program at an address that is drawn at random and gone with that exec. */
    if (r >= 0)
        r = seccomp_rule_add(filter, SCMP_ACT_KILL_PROCESS, SCMP_SYS(execve), 1, SCMP_A0_64(SCMP_CMP_NE, address, 0));
    /* threads only */
    if (r >= 0)
        r = seccomp_rule_add(filter, SCMP_ACT_KILL_PROCESS, SCMP_SYS(clone), 1,
                             SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0));
    if (r >= 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    /* Displays, character devices and helpers are unix sockets; taps come as descriptors. */
    if (r >= 0 && !network)
        r = seccomp_rule_add(filter, SCMP_ACT_KILL_PROCESS, SCMP_SYS(socket), 1,
                             SCMP_A0_32(SCMP_CMP_NE, (scmp_datum_t)AF_UNIX, 0));
    return r;
}

/* A path of its own page, at an address that cannot be guessed: 2^34 pages, and the first wrong guess is the last. */
static char *place(const char *path, size_t *ret_mapped)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), length = strlen(path) + 1, size = (length + page - 1) / page * page;

    for (int attempt = 0; attempt < 64; attempt++) {
        uint64_t address;
        void *at;

        if (getrandom(&address, sizeof(address), 0) != (ssize_t)sizeof(address))
            return NULL;
        address = (address & 0x3fffffffffffULL) / page * page; /* the lower half of a process's 47 bits */
        if (address < 1ULL << 32)
            continue;
        at = mmap((void *)(uintptr_t)address, size, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (at == MAP_FAILED)
            continue;
        if (at != (void *)(uintptr_t)address) { /* a kernel that does not know the flag */
            munmap(at, size);
            continue;
        }
        memcpy(at, path, length);
        *ret_mapped = size;
        return at;
    }
    return NULL;
}

/* As execvp() would find it. */
static char *find_program(const char *name)
{
    const char *path = getenv("PATH");

    if (strchr(name, '/'))
        return strdup(name);
    for (const char *p = path ? path : "/usr/bin:/bin"; *p;) {
        size_t length = strcspn(p, ":");
        char *candidate;

        if (asprintf(&candidate, "%.*s/%s", (int)length, p, name) < 0)
            return NULL;
        if (length > 0 && access(candidate, X_OK) == 0)
            return candidate;
        free(candidate);
        p += length + (p[length] == ':');
    }
    return strdup(name); /* the exec says that there is none */
}

/* libseccomp writes the filter to a file only. */
static int export(scmp_filter_ctx filter, struct sock_fprog *ret)
{
    _cleanup_close_ int fd = memfd_create("filter", MFD_CLOEXEC);
    _cleanup_free_ char *data = NULL;
    size_t length;
    int r;

    if (fd < 0)
        return -errno;
    r = seccomp_export_bpf(filter, fd);
    if (r < 0)
        return r;
    if (lseek(fd, 0, SEEK_SET) < 0)
        return -errno;
    r = fd_read_all(fd, BPF_MAXINSNS * sizeof(struct sock_filter), &data, &length);
    if (r < 0)
        return r;
    ret->len = (unsigned short)(length / sizeof(struct sock_filter));
    ret->filter = (struct sock_filter *)(void *)TAKE_PTR(data);
    return 0;
}

int qemu_sandbox_init(struct qemu_sandbox *sandbox, const char *program, bool network, struct error **ret_error)
{
    _cleanup_free_ char *path = find_program(program);
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    int r = -ENOMEM;

    *sandbox = (struct qemu_sandbox){0};
    if (filter && path)
        sandbox->program = place(path, &sandbox->mapped);
    if (sandbox->program) {
        (void)seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
        r = add_deadly(filter, sandbox->program, network);
        if (r >= 0)
            r = export(filter, &sandbox->filter);
    }
    seccomp_release(filter);
    if (r < 0) {
        qemu_sandbox_done(sandbox);
        return error_errno(ret_error, r, "cannot make QEMU's filter of system calls");
    }
    return 0;
}

void qemu_sandbox_done(struct qemu_sandbox *sandbox)
{
    free(sandbox->filter.filter);
    if (sandbox->program)
        munmap(sandbox->program, sandbox->mapped);
    *sandbox = (struct qemu_sandbox){0};
}
