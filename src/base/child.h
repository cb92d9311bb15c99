/* SPDX-License-Identifier: Apache-2.0 */
/* Child processes: started with exactly the fds that they are to have, watched by pidfd on the event loop. */
#pragma once

#include <linux/filter.h>
#include <signal.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/event.h"
#include "base/util.h"

/* A fd of ours that the child gets under the number `target` (3 or above; others are closed by CLOEXEC). */
struct child_fd {
    int fd;
    int target;
};

struct child_options {
    char *const *argv;        /* argv[0] is looked up in PATH unless it has a slash */
    char *const *environment; /* NULL: ours */
    const struct child_fd *fds;
    size_t n_fds;
    int stdin_fd, stdout_fd, stderr_fd; /* 0 or less: /dev/null for stdin; ours for stdout and stderr */
    int death_signal;                   /* PR_SET_PDEATHSIG; 0: the child outlives us */
    mode_t file_mask;                   /* umask of the child; 0: ours */
    bool new_process_group;             /* ctrl-C on our terminal does not reach it */
    uint64_t limit_address_space;       /* RLIMIT_AS, bytes; 0: none */
    unsigned limit_cpu_seconds;         /* RLIMIT_CPU; 0: none */
    const struct sock_fprog *filter;    /* seccomp's, loaded last, with no_new_privs */
    int ruleset_fd;                     /* Landlock's, with no_new_privs; 0 or less: none */
    unsigned ruleset_flags;             /* of landlock_restrict_self(2) */
    const char *program;                /* executed instead of a look at PATH, by this very address */
    const uint64_t *capabilities; /* the child keeps these bits of what we have, none of them ambient; NULL: all */
};

/*
 * fork and exec. The exec's own failure is reported here, by errno, and leaves no process behind (-ENOENT: no such
 * program). ret_pidfd is CLOEXEC. The child is in our reaping duty: wait on the pidfd by sd_event_add_child_pidfd().
 */
int child_spawn(const struct child_options *options, pid_t *ret_pid, int *ret_pidfd, struct error **ret_error);

/* Runs a short helper (qemu-img…) to its end and gives its exit code, stdout and the end of stderr. The calling thread
 * waits, at most timeout_usec (then SIGKILL, -ETIMEDOUT): only for start-up work before a guest runs. */
int child_run(const struct child_options *options, uint64_t timeout_usec, int *ret_code, char **ret_stdout,
              char **ret_stderr, struct error **ret_error);

/* "exited with code 1", "was killed by SIGKILL" … ; static storage. */
const char *child_describe_status(const siginfo_t *info);
/* Start time of a process in clock ticks since boot (proc(5), stat field 22): with the pid, a name that is not reused.
 * -ESRCH: it is gone, or has ended and waits to be reaped.
 */
int process_start_time(pid_t pid, uint64_t *ret_ticks);
/* The id of this boot, within which such a name is valid; read once. NULL: the kernel does not tell it. */
const char *boot_id(void);
