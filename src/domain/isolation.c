/* SPDX-License-Identifier: Apache-2.0 */
#include "domain/isolation.h"

#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "domain/landlock.h"

/* What passt 2023 to 2025 does, in its order (isolate_user() and isolate_prefork()). */
static bool shut_in(void)
{
    return unshare(CLONE_NEWUSER) >= 0 && unshare(CLONE_NEWIPC | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWPID) >= 0 &&
           mount("", "/", "", MS_UNBINDABLE | MS_REC, NULL) >= 0 &&
           mount("", "/tmp", "tmpfs", MS_NODEV | MS_NOEXEC | MS_NOSUID | MS_RDONLY, "nr_inodes=2,nr_blocks=0") >= 0 &&
           chdir("/tmp") >= 0 && syscall(SYS_pivot_root, ".", ".") >= 0 &&
           umount2(".", MNT_DETACH | UMOUNT_NOFOLLOW) >= 0;
}

static bool can_be_shut_in(void)
{
    int status = -1;
    pid_t pid = fork();

    if (pid == 0)
        _exit(shut_in() ? 0 : 1);
    while (pid > 0 && waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            break;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int isolation_init(const char *const *dirs, char *const *argv, struct isolation *ret, struct error **ret_error)
{
#define ANSWERED_AS_DONE(call, left) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##call, left, 0)
    static struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 5), /* this architecture */
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ANSWERED_AS_DONE(unshare, 4),
        ANSWERED_AS_DONE(mount, 3),
        ANSWERED_AS_DONE(pivot_root, 2),
        ANSWERED_AS_DONE(umount2, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 0),
    };
    static const struct sock_fprog filter = {.len = ELEMENTSOF(code), .filter = code};

    *ret = (struct isolation){.ruleset_fd = -EBADF};
    if (can_be_shut_in())
        return 0;
    log_debug("%s cannot have namespaces of its own here; files are limited by Landlock, if there is", argv[0]);
    code[1].k = seccomp_arch_native();
    ret->filter = &filter;
    return landlock_for_qemu(dirs, argv, &ret->ruleset_fd, &ret->ruleset_flags, ret_error);
}

void isolation_done(struct isolation *isolation)
{
    isolation->ruleset_fd = fd_close(isolation->ruleset_fd);
}
