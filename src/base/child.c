/* SPDX-License-Identifier: Apache-2.0 */
#include "base/child.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/signals.h"
#include "base/strbuf.h"

/* In the child: only what is in the mask stays. */
static int keep_capabilities(uint64_t mask)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 && errno != EINVAL)
        return -1;
    if (syscall(SYS_capget, &header, data) < 0)
        return -1;
    for (size_t i = 0; i < ELEMENTSOF(data); i++) {
        data[i].permitted &= (uint32_t)(mask >> (32 * i));
        data[i].effective = data[i].permitted;
        data[i].inheritable = 0;
    }
    return (int)syscall(SYS_capset, &header, data);
}

/* Runs in the child between fork and exec: only async-signal-safe calls. The errno goes back by the pipe. */
static void child_exec(const struct child_options *o, struct child_fd *moved, int report_fd, pid_t parent)
{
    int base = 3, ruleset_fd = o->ruleset_fd, null_fd;
    sigset_t none;

    if (o->death_signal && prctl(PR_SET_PDEATHSIG, o->death_signal) < 0)
        goto fail;
    if (o->death_signal && getppid() != parent) {
        errno = ESRCH; /* the parent died before the prctl took effect */
        goto fail;
    }
    if (o->new_process_group && setpgid(0, 0) < 0)
        goto fail;
    if (o->file_mask)
        umask(o->file_mask);
    if (o->limit_address_space) {
        struct rlimit limit = {o->limit_address_space, o->limit_address_space};

        if (setrlimit(RLIMIT_AS, &limit) < 0)
            goto fail;
    }
    if (o->limit_cpu_seconds) {
        struct rlimit limit = {o->limit_cpu_seconds, o->limit_cpu_seconds};

        if (setrlimit(RLIMIT_CPU, &limit) < 0)
            goto fail;
    }
    /* First everything moves above all targets, so that no dup2() closes a fd which is still to be moved. */
    for (size_t i = 0; i < o->n_fds; i++)
        base = MAX(base, o->fds[i].target + 1);
    report_fd = fcntl(report_fd, F_DUPFD_CLOEXEC, base);
    if (report_fd < 0)
        _exit(127);
    if (ruleset_fd > 0 && (ruleset_fd = fcntl(ruleset_fd, F_DUPFD_CLOEXEC, base)) < 0)
        goto fail;
    for (size_t i = 0; i < o->n_fds; i++) {
        moved[i].fd = fcntl(o->fds[i].fd, F_DUPFD_CLOEXEC, base);
        if (moved[i].fd < 0)
            goto fail;
    }
    null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd < 0 || dup2(o->stdin_fd > 0 ? o->stdin_fd : null_fd, STDIN_FILENO) < 0)
        goto fail;
    if (o->stdout_fd > 0 && dup2(o->stdout_fd, STDOUT_FILENO) < 0)
        goto fail;
    if (o->stderr_fd > 0 && dup2(o->stderr_fd, STDERR_FILENO) < 0)
        goto fail;
    for (size_t i = 0; i < o->n_fds; i++)
        if (dup2(moved[i].fd, o->fds[i].target) < 0)
            goto fail;
    signals_set_default();
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (o->capabilities && keep_capabilities(*o->capabilities) < 0)
        goto fail;
    if ((o->filter || o->ruleset_fd > 0) && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        goto fail;
    if (o->ruleset_fd > 0 && syscall(SYS_landlock_restrict_self, ruleset_fd, o->ruleset_flags) < 0)
        goto fail;
    if (o->filter && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, o->filter, 0, 0) < 0)
        goto fail;
    if (o->program)
        execve(o->program, o->argv, o->environment ? o->environment : environ);
    else
        execvpe(o->argv[0], o->argv, o->environment ? o->environment : environ);
fail:
    (void)!write(report_fd, &errno, sizeof(errno));
    _exit(127);
}

int child_spawn(const struct child_options *options, pid_t *ret_pid, int *ret_pidfd, struct error **ret_error)
{
    _cleanup_free_ struct child_fd *moved = calloc(options->n_fds + 1, sizeof(*moved));
    _cleanup_close_ int read_end = -EBADF, write_end = -EBADF, pidfd = -EBADF;
    int pipe_fds[2], err = 0;
    pid_t parent = getpid(), pid;
    ssize_t n;

    if (!moved)
        return error_oom(ret_error);
    if (pipe2(pipe_fds, O_CLOEXEC) < 0)
        return error_errno(ret_error, errno, "cannot start %s: pipe", options->argv[0]);
    read_end = pipe_fds[0];
    write_end = pipe_fds[1];
    pid = fork();
    if (pid < 0)
        return error_errno(ret_error, errno, "cannot start %s: fork", options->argv[0]);
    if (pid == 0)
        child_exec(options, moved, write_end, parent);
    write_end = fd_close(write_end);
    do
        n = read(read_end, &err, sizeof(err));
    while (n < 0 && errno == EINTR);
    if (n == (ssize_t)sizeof(err)) {
        waitpid(pid, NULL, 0);
        return error_errno(ret_error, err, "cannot execute %s", options->argv[0]);
    }
    pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0) {
        int saved = errno;

        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        return error_errno(ret_error, saved, "cannot watch %s: pidfd_open", options->argv[0]);
    }
    *ret_pid = pid;
    *ret_pidfd = TAKE_FD(pidfd);
    return 0;
}

/* Collects what is readable now; false at end of file. */
static bool drain(int fd, struct strbuf *buffer)
{
    char chunk[4096];
    ssize_t n = read(fd, chunk, sizeof(chunk));

    if (n < 0)
        return errno == EINTR || errno == EAGAIN;
    if (n == 0)
        return false;
    if (buffer->length + (size_t)n <= LIMIT_CHILD_OUTPUT_BYTES)
        strbuf_add(buffer, chunk, (size_t)n);
    return true;
}

int child_run(const struct child_options *options, uint64_t timeout_usec, int *ret_code, char **ret_stdout,
              char **ret_stderr, struct error **ret_error)
{
    _cleanup_(strbuf_done) struct strbuf out = {0}, err = {0};
    _cleanup_close_ int out_read = -EBADF, out_write = -EBADF, err_read = -EBADF, err_write = -EBADF, pidfd = -EBADF;
    struct child_options o = *options;
    uint64_t deadline = now_usec() + timeout_usec;
    bool exited = false, timed_out = false;
    int out_pipe[2], err_pipe[2], r;
    siginfo_t info = {0};
    pid_t pid = 0;

    if (pipe2(out_pipe, O_CLOEXEC) < 0)
        return error_errno(ret_error, errno, "cannot make a pipe");
    out_read = out_pipe[0];
    out_write = out_pipe[1];
    if (pipe2(err_pipe, O_CLOEXEC) < 0)
        return error_errno(ret_error, errno, "cannot make a pipe");
    err_read = err_pipe[0];
    err_write = err_pipe[1];
    o.stdout_fd = out_write;
    o.stderr_fd = err_write;
    r = child_spawn(&o, &pid, &pidfd, ret_error);
    if (r < 0)
        return r;
    out_write = fd_close(out_write);
    err_write = fd_close(err_write);
    /* A grandchild may hold the pipes open for ever, so the child's own end counts, and then what is left in them. */
    while (!exited) {
        struct pollfd fds[] = {{out_read, POLLIN, 0}, {err_read, POLLIN, 0}, {pidfd, POLLIN, 0}};
        uint64_t now = now_usec();
        int wait_ms = timed_out ? -1 : now >= deadline ? 0 : (int)((deadline - now) / 1000 + 1);

        r = poll(fds, ELEMENTSOF(fds), wait_ms);
        if (r < 0 && errno != EINTR)
            break;
        if (r == 0 && !timed_out) {
            timed_out = true;
            kill(pid, SIGKILL);
            continue;
        }
        if (fds[0].revents && !drain(out_read, &out))
            out_read = fd_close(out_read);
        if (fds[1].revents && !drain(err_read, &err))
            err_read = fd_close(err_read);
        exited = fds[2].revents && !(fds[0].revents & POLLIN) && !(fds[1].revents & POLLIN);
    }
    while (waitid(P_PID, (id_t)pid, &info, WEXITED) < 0 && errno == EINTR)
        ;
    if (timed_out)
        return error_set(ret_error, ERROR_TIMED_OUT, ETIMEDOUT, "%s did not end within %.1f s, and was killed",
                         options->argv[0], (double)timeout_usec / 1e6);
    if (info.si_code != CLD_EXITED)
        return error_set(ret_error, ERROR_SYSTEM, EPIPE, "%s %s", options->argv[0], child_describe_status(&info));
    if (out.failed || err.failed)
        return error_oom(ret_error);
    *ret_code = info.si_status;
    if (ret_stdout)
        *ret_stdout = strbuf_steal(&out);
    if (ret_stderr)
        *ret_stderr = strbuf_steal(&err);
    return 0;
}

const char *child_describe_status(const siginfo_t *info)
{
    static char text[64];

    if (info->si_code == CLD_EXITED) {
        snprintf(text, sizeof(text), "exited with code %d", info->si_status);
    } else {
        const char *name = sigabbrev_np(info->si_status);

        snprintf(text, sizeof(text), "was killed by SIG%s%s", name ? name : "?",
                 info->si_code == CLD_DUMPED ? " (core dumped)" : "");
    }
    return text;
}

int process_start_time(pid_t pid, uint64_t *ret_ticks)
{
    _cleanup_free_ char *data = NULL;
    unsigned long long ticks;
    char path[64], *p, state;
    int r;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    r = file_read(path, 4096, &data, NULL, NULL);
    if (r < 0)
        return r == -ENOENT ? -ESRCH : r;
    p = strrchr(data, ')'); /* the command name may hold spaces and brackets */
    if (!p || sscanf(p + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &state,
                     &ticks) != 2)
        return -EBADMSG;
    if (state == 'Z' || state == 'X') /* ended, and not reaped yet */
        return -ESRCH;
    *ret_ticks = ticks;
    return 0;
}

const char *boot_id(void)
{
    static char id[64]; /* each change of a VM's state writes it */
    _cleanup_free_ char *text = NULL;

    if (!*id && file_read("/proc/sys/kernel/random/boot_id", sizeof(id) - 1, &text, NULL, NULL) == 0)
        snprintf(id, sizeof(id), "%.*s", (int)strcspn(text, "\n"), text);
    return *id ? id : NULL;
}
