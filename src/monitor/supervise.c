/* SPDX-License-Identifier: Apache-2.0 */
#include "monitor/supervise.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/signals.h"
#include "monitor/cleanup.h"
#include "monitor/guest.h"
#include "monitor/state.h"

enum phase {
    PHASE_RUNNING,    /* the launcher runs */
    PHASE_BACKOFF,    /* it crashed, its guest runs; it is started again at the deadline */
    PHASE_GUEST_TERM, /* the launcher is gone for good, its guest was sent SIGTERM */
    PHASE_GUEST_KILL, /* …and SIGKILL */
    PHASE_LINGER,     /* --keep-after-failure: until a signal comes */
    PHASE_DONE,
};

struct monitor {
    const struct monitor_options *options;
    enum phase phase;
    uint64_t deadline; /* 0: none */
    int signal_fd;
    int console_fd;            /* while there is no launcher, and afterwards */
    bool is_init;              /* PID 1: the kernel ends what we leave */
    bool stop_asked;           /* a TERM, INT or QUIT came */
    pid_t launcher;            /* 0: none */
    siginfo_t status;          /* how the launcher ended */
    char *vm_dir, *state_path; /* NULL without --uid */

    uint64_t started;                          /* the launcher's last start */
    uint64_t crashes[LIMIT_LAUNCHER_RESTARTS]; /* a ring of times */
    unsigned n_crashes;                        /* in all */

    struct guests guests; /* after the launcher's end */
    uint64_t term_sent;
    bool guest_reaped;
    siginfo_t guest_status;
    char guest_end[192]; /* for the termination message */
};

static const int handled_signals[] = {SIGCHLD, SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGPIPE};

/* ---- how it ended ---------------------------------------------------------------------------------------------- */

int status_exit_code(const siginfo_t *info)
{
    return info->si_code == CLD_EXITED ? info->si_status : 128 + info->si_status;
}

bool is_crash(const siginfo_t *info)
{
    static const int crash_signals[] = {SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGKILL, SIGSEGV, SIGSYS};

    if (info->si_code != CLD_EXITED)
        return true;
    for (size_t i = 0; i < ELEMENTSOF(crash_signals); i++)
        if (info->si_status == 128 + crash_signals[i])
            return true;
    return false;
}

static void describe(const siginfo_t *info, char *text, size_t size)
{
    const char *name;

    if (info->si_code == CLD_EXITED) {
        snprintf(text, size, "exited with code %d", info->si_status);
        return;
    }
    name = sigabbrev_np(info->si_status);
    snprintf(text, size, "was killed by %s%s", name ? "SIG" : "signal", name ? name : "");
}

uint64_t restart_delay(unsigned nth)
{
    /* the first few at once: a launcher that is killed is back before anyone has missed it */
    static const unsigned delays_msec[] = {0, 0, 0, 50, 100, 200, 400, 800, 1600};

    return delays_msec[MIN(nth, ELEMENTSOF(delays_msec) - 1)] * USEC_PER_MSEC;
}

/* ---- the launcher ---------------------------------------------------------------------------------------------- */

void supervise_block_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < ELEMENTSOF(handled_signals); i++)
        sigaddset(&set, handled_signals[i]);
    sigprocmask(SIG_SETMASK, &set, NULL);
}

static _Noreturn void exec_launcher(const struct monitor *m, pid_t parent, int report_fd)
{
    sigset_t set;
    int err;

    /* Where we are no init, nobody ends the launcher when we are killed; it then stops its guest in order. */
    if (!m->is_init && (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0 || getppid() != parent))
        _exit(1);
    signals_set_default();
    sigemptyset(&set);
    /* Of a launcher that starts in order to stop its guest, SIGTERM stays blocked until it reads it (signalfd): sent to
     * it now, it waits there across the exec in place of killing a process that has no handler yet. */
    if (m->stop_asked)
        sigaddset(&set, SIGTERM);
    sigprocmask(SIG_SETMASK, &set, NULL);
    execv(m->options->launcher_argv[0], m->options->launcher_argv);
    err = errno;
    (void)!write(report_fd, &err, sizeof(err));
    _exit(127);
}

static int start_launcher(struct monitor *m, struct error **ret_error)
{
    pid_t parent = getpid(), pid;
    int report[2], err = 0;
    ssize_t n;

    if (pipe2(report, O_CLOEXEC) < 0)
        return error_errno(ret_error, errno, "cannot create a pipe");
    pid = fork();
    if (pid == 0)
        exec_launcher(m, parent, report[1]);
    err = pid < 0 ? errno : 0;
    close(report[1]);
    if (pid > 0 && m->stop_asked)
        kill(pid, SIGTERM);
    do {
        n = pid > 0 ? read(report[0], &err, sizeof(err)) : 0;
    } while (n < 0 && errno == EINTR);
    close(report[0]);
    if (err != 0) {
        if (pid > 0)
            waitpid(pid, NULL, 0);
        error_set(ret_error, ERROR_SYSTEM, err, "cannot start %s: %s", m->options->launcher_argv[0], strerror(err));
        if (ret_error && *ret_error && (err == ENOENT || err == EACCES))
            error_set_remedy(*ret_error, "name the launcher by --launcher-path");
        return -err;
    }
    m->launcher = pid;
    m->phase = PHASE_RUNNING;
    m->started = now_usec();
    m->deadline = 0;
    return 0;
}

/* ---- the end --------------------------------------------------------------------------------------------------- */

/* Where we are no init our end is not the end of all. Each round kills a generation; what it leaves becomes our child.
 */
static void end_descendants(struct monitor *m)
{
    struct pollfd child = {.fd = m->signal_fd, .events = POLLIN};
    uint64_t limit = now_usec() + TIMEOUT_QEMU_TERM_USEC;

    while (descendants_kill() > 0 && now_usec() < limit) {
        struct signalfd_siginfo info[8];

        poll(&child, 1, 10);
        (void)!read(m->signal_fd, info, sizeof(info));
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
    }
}

static void leave(struct monitor *m)
{
    cleanup_container_disks(m->options->container_disk_dir, m->options->uid);
    if (m->vm_dir)
        cleanup_console_log(m->vm_dir);
    cleanup_istio();
    if (!m->is_init)
        end_descendants(m);
    m->phase = PHASE_DONE;
    m->deadline = 0;
}

/* What the launcher last wrote of the VM, for a guest that was gone before it. */
static void describe_ended_guest(struct monitor *m)
{
    struct vm_state state;

    if (m->state_path && vm_state_read(m->state_path, &state) == 0 && *state.state)
        snprintf(m->guest_end, sizeof(m->guest_end), "the guest had ended before it; last known state: %s%s%s",
                 state.state, *state.reason ? ", " : "", state.reason);
    else
        snprintf(m->guest_end, sizeof(m->guest_end), "no guest was running");
}

static void finish(struct monitor *m)
{
    int code = status_exit_code(&m->status);
    char how[64], text[512];

    describe(&m->status, how, sizeof(how));
    snprintf(text, sizeof(text), "virt-launcher %s; %s\n", how, m->guest_end);
    if (m->console_fd >= 0)
        console_save(m->vm_dir, m->console_fd);
    cleanup_show_logs(m->options->private_dir);
    cleanup_termination_message(m->options->termination_log, m->options->termination_log_given, text);
    text[strlen(text) - 1] = '\0';
    log_info("%s", text);
    guests_done(&m->guests);
    if (m->options->keep_after_failure && code != 0 && !m->stop_asked) {
        log_info("staying because of --keep-after-failure: SIGTERM ends the pod");
        m->phase = PHASE_LINGER;
        m->deadline = 0;
        return;
    }
    leave(m);
}

static void guest_ended(struct monitor *m)
{
    const struct guest *guest = &m->guests.list[0];
    unsigned long msec = (unsigned long)((now_usec() - m->term_sent) / USEC_PER_MSEC);
    char how[64] = "";

    if (m->guest_reaped)
        describe(&m->guest_status, how, sizeof(how));
    if (m->phase == PHASE_BACKOFF)
        snprintf(m->guest_end, sizeof(m->guest_end), "the guest ended without a launcher: QEMU (pid %d) %s",
                 (int)guest->pid, *how ? how : "ended");
    else
        snprintf(m->guest_end, sizeof(m->guest_end),
                 "the guest was running: QEMU (pid %d) was sent SIGTERM%s and ended after %lu.%03lu s (%s)",
                 (int)guest->pid, m->phase == PHASE_GUEST_KILL ? ", then SIGKILL," : "", msec / 1000, msec % 1000,
                 *how ? how : "not our child");
    finish(m);
}

/* The launcher does not come back: the guest ends with it. guests_find() was done. */
static void end_guest(struct monitor *m)
{
    if (m->guests.n == 0) {
        describe_ended_guest(m);
        finish(m);
        return;
    }
    m->term_sent = now_usec();
    m->phase = PHASE_GUEST_TERM;
    m->deadline = m->term_sent + TIMEOUT_GUEST_TERM_USEC;
    log_info("the guest still runs: SIGTERM to %zu QEMU process(es), pid %d", m->guests.n, (int)m->guests.list[0].pid);
    guests_signal(&m->guests, SIGTERM);
}

/* True if the launcher may be started again; the delay is then armed. */
static bool schedule_restart(struct monitor *m)
{
    uint64_t t = now_usec(), delay, *slot;
    unsigned recent = 0;
    char how[64];

    describe(&m->status, how, sizeof(how));
    if (t - m->started >= LAUNCHER_STEADY_USEC)
        m->n_crashes = 0;
    slot = &m->crashes[m->n_crashes % LIMIT_LAUNCHER_RESTARTS];
    for (unsigned i = 0; i < MIN(m->n_crashes, LIMIT_LAUNCHER_RESTARTS); i++)
        recent += t - m->crashes[i] < LAUNCHER_RESTART_WINDOW_USEC;
    if (recent >= LIMIT_LAUNCHER_RESTARTS) {
        log_error("virt-launcher %s; it crashed %u times within %llu s: it is not started again", how, recent + 1,
                  LAUNCHER_RESTART_WINDOW_USEC / USEC_PER_SEC);
        return false;
    }
    *slot = t;
    m->n_crashes++;
    /* a stop that waits for its launcher must not wait longer than it has to */
    delay = m->stop_asked && recent < 3 ? 0 : restart_delay(recent);
    log_warning("virt-launcher %s, but its guest runs (QEMU pid %d, known by %s): starting it again in %llu ms, "
                "number %u of %u within %llu s",
                how, (int)m->guests.list[0].pid, m->guests.from_state_file ? "domain.json" : "its command line",
                (unsigned long long)(delay / USEC_PER_MSEC), recent + 1, LIMIT_LAUNCHER_RESTARTS,
                LAUNCHER_RESTART_WINDOW_USEC / USEC_PER_SEC);
    m->phase = PHASE_BACKOFF;
    m->deadline = t + delay;
    return true;
}

/* The console of the VM that there is now, in place of one of a start that failed. */
static void hold_console(struct monitor *m)
{
    int former = m->console_fd;

    m->console_fd = m->vm_dir ? console_hold(m->vm_dir) : -EBADF;
    fd_close(former);
}

static void launcher_ended(struct monitor *m, const siginfo_t *info)
{
    m->launcher = 0;
    m->status = *info;
    hold_console(m); /* first of all: QEMU may end at any moment */
    m->guest_reaped = false;
    guests_done(&m->guests);
    guests_find(m->state_path, &m->guests);
    if (m->guests.n > 0 && is_crash(info) && schedule_restart(m))
        return;
    end_guest(m);
}

/* ---- the loop -------------------------------------------------------------------------------------------------- */

static void reap(struct monitor *m)
{
    siginfo_t launcher_info = {0};
    bool launcher_gone = false;

    for (;;) {
        siginfo_t info = {0};

        if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG) < 0 || info.si_pid == 0)
            break;
        if (m->launcher > 0 && info.si_pid == m->launcher) {
            launcher_info = info;
            launcher_gone = true;
            continue;
        }
        if (m->guests.n > 0 && info.si_pid == m->guests.list[0].pid) {
            m->guest_reaped = true;
            m->guest_status = info;
        }
        log_debug("reaped pid %d, status %d", (int)info.si_pid, info.si_status);
    }
    /* last, so that a guest that died with it does not count as one that still runs */
    if (launcher_gone)
        launcher_ended(m, &launcher_info);
}

static void handle_signal(struct monitor *m, int number)
{
    switch (number) {
    case SIGCHLD:
        reap(m);
        return;
    case SIGHUP:
        if (m->launcher > 0)
            kill(m->launcher, SIGHUP);
        break;
    case SIGINT:
    case SIGTERM:
    case SIGQUIT:
        m->stop_asked = true;
        if (m->launcher > 0) {
            log_info("SIG%s: virt-launcher is told to stop its guest", sigabbrev_np(number));
            kill(m->launcher, SIGTERM);
        } else if (m->phase == PHASE_BACKOFF) {
            m->deadline = now_usec();
        }
        break;
    default: /* SIGPIPE: who reads our log has gone */
        return;
    }
    if (m->phase == PHASE_LINGER)
        leave(m);
}

static void read_signals(struct monitor *m)
{
    struct signalfd_siginfo info[8];
    ssize_t n = read(m->signal_fd, info, sizeof(info));

    for (size_t i = 0; n > 0 && i < (size_t)n / sizeof(*info); i++)
        handle_signal(m, (int)info[i].ssi_signo);
}

static int deadline_passed(struct monitor *m, struct error **ret_error)
{
    switch (m->phase) {
    case PHASE_BACKOFF:
        /* known only while it is down; the next end looks again */
        guests_done(&m->guests);
        setenv(RESTARTED_VARIABLE, "1", 1);
        return start_launcher(m, ret_error);
    case PHASE_GUEST_TERM:
        log_warning("QEMU (pid %d) did not end within %llu s of SIGTERM: SIGKILL", (int)m->guests.list[0].pid,
                    TIMEOUT_GUEST_TERM_USEC / USEC_PER_SEC);
        guests_signal(&m->guests, SIGKILL);
        m->phase = PHASE_GUEST_KILL;
        m->deadline = now_usec() + TIMEOUT_QEMU_TERM_USEC;
        return 0;
    case PHASE_GUEST_KILL:
        snprintf(m->guest_end, sizeof(m->guest_end), "QEMU (pid %d) hangs in the kernel and did not take SIGKILL",
                 (int)m->guests.list[0].pid);
        finish(m);
        return 0;
    default:
        m->deadline = 0;
        return 0;
    }
}

static bool waits_for_guest(const struct monitor *m)
{
    return m->phase == PHASE_BACKOFF || m->phase == PHASE_GUEST_TERM || m->phase == PHASE_GUEST_KILL;
}

static int turn(struct monitor *m, struct error **ret_error)
{
    struct pollfd fds[1 + GUESTS_MAX] = {{.fd = m->signal_fd, .events = POLLIN}};
    uint64_t t = now_usec();
    nfds_t n = 1;
    int timeout = -1;

    for (size_t i = 0; waits_for_guest(m) && i < m->guests.n; i++) {
        /* one that has ended stays readable: left out while another is waited for */
        struct pollfd ended = {.fd = m->guests.list[i].pidfd, .events = POLLIN};

        if (poll(&ended, 1, 0) == 0)
            fds[n++] = ended;
    }
    if (m->deadline)
        timeout = t >= m->deadline ? 0 : (int)((m->deadline - t + USEC_PER_MSEC - 1) / USEC_PER_MSEC);
    if (poll(fds, n, timeout) < 0 && errno != EINTR)
        return error_errno(ret_error, errno, "cannot wait for events");
    if (fds[0].revents)
        read_signals(m);
    if (waits_for_guest(m) && guests_alive(&m->guests) == 0) {
        reap(m); /* its status, for the message */
        guest_ended(m);
        return 0;
    }
    if (m->deadline && now_usec() >= m->deadline)
        return deadline_passed(m, ret_error);
    return 0;
}

static int setup(struct monitor *m, struct error **ret_error)
{
    sigset_t set;

    m->is_init = getpid() == 1;
    if (!m->is_init && prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
        return error_errno(ret_error, errno, "cannot become the reaper of the guest");
    if (m->options->uid) {
        if (asprintf(&m->vm_dir, "%s/%s", m->options->private_dir, m->options->uid) < 0) {
            m->vm_dir = NULL;
            return error_oom(ret_error);
        }
        if (asprintf(&m->state_path, "%s/domain.json", m->vm_dir) < 0) {
            m->state_path = NULL;
            return error_oom(ret_error);
        }
    }
    sigemptyset(&set);
    for (size_t i = 0; i < ELEMENTSOF(handled_signals); i++)
        sigaddset(&set, handled_signals[i]);
    m->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (m->signal_fd < 0)
        return error_errno(ret_error, errno, "cannot read signals");
    return 0;
}

int supervise(const struct monitor_options *options, struct error **ret_error)
{
    struct monitor m = {.options = options, .signal_fd = -EBADF, .console_fd = -EBADF};
    int r;

    r = setup(&m, ret_error);
    if (r == 0)
        r = start_launcher(&m, ret_error);
    while (r == 0 && m.phase != PHASE_DONE)
        r = turn(&m, ret_error);
    if (r < 0 && m.phase != PHASE_DONE) {
        /* our own fault: nothing is left running, and the sidecars end */
        guests_done(&m.guests);
        if (m.launcher > 0)
            kill(m.launcher, SIGKILL);
        guests_find(m.state_path, &m.guests);
        guests_signal(&m.guests, SIGTERM);
        for (size_t i = 0; i < m.guests.n; i++) {
            struct pollfd ended = {.fd = m.guests.list[i].pidfd, .events = POLLIN};

            poll(&ended, 1, (int)(TIMEOUT_GUEST_TERM_USEC / USEC_PER_MSEC));
        }
        guests_signal(&m.guests, SIGKILL);
        guests_done(&m.guests);
        leave(&m);
    }
    fd_close(m.signal_fd);
    fd_close(m.console_fd);
    free(m.vm_dir);
    free(m.state_path);
    return r < 0 ? r : status_exit_code(&m.status);
}
