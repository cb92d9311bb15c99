/* SPDX-License-Identifier: Apache-2.0 */
#include "domain/domain.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/child.h"
#include "base/crash.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/strv.h"
#include "domain/domain-internal.h"
#include "domain/metrics-channel.h"
#include "domain/network.h"
#include "domain/prepare.h"
#include "domain/statefile.h"
#include "domain/stats.h"
#include "storage/storage.h"

int domain_new(sd_event *event, const struct domain_options *options, struct domain **ret, struct error **ret_error)
{
    _cleanup_(domain_freep) struct domain *d = calloc(1, sizeof(*d));

    if (!d) {
        machine_free(options->machine);
        return error_oom(ret_error);
    }
    d->event = sd_event_ref(event);
    d->vmi = options->vmi;
    d->machine = options->machine;
    d->network = options->network;
    d->storage = options->storage;
    d->accel = options->accel;
    d->timeline = options->timeline;
    d->file_dirs = options->file_dirs;
    d->start_paused = options->start_paused;
    d->die_with_us = options->die_with_us;
    d->grace_usec = options->grace_usec;
    d->balloon_stats_seconds = options->balloon_stats_seconds ? options->balloon_stats_seconds : BALLOON_STATS_SECONDS;
    d->console_log_bytes = options->console_log_bytes;
    d->pidfd = -EBADF;
    d->dir = strdup(options->dir);
    d->accel_reason = strdup(options->accel_reason ? options->accel_reason : "");
    d->events = options->events;
    d->manifest = options->manifest ? strdup(options->manifest) : NULL;
    d->since_wall = realtime_usec();
    d->guest_info = guest_info_new(event, domain_guest_info_changed, d);
    if (d->guest_info)
        guest_info_set_intervals(d->guest_info, &options->agent_intervals);
    d->stats = stats_new(d);
    if (!d->guest_info || !d->stats || credentials_new(d, options->secret_dir, &d->credentials) < 0 || !d->dir ||
        !d->accel_reason || (options->manifest && !d->manifest))
        return error_oom(ret_error);
    *ret = TAKE_PTR(d);
    return 0;
}

/* After SIGKILL: reaps it if it is our child, and waits for its end if it is not. */
static void wait_for_end(int pidfd)
{
    struct pollfd fd = {pidfd, POLLIN, 0};

    while (poll(&fd, 1, KILL_WAIT_MSEC) < 0 && errno == EINTR)
        ;
    waitid(P_PIDFD, (id_t)pidfd, NULL, WEXITED | WNOHANG);
}

void domain_remove_files(const char *dir)
{
    static const char *const names[] = {STATE_FILE_NAME, "virt-vnc", PREPARE_IGNITION_FILE, NETWORK_LEASES_FILE};

    for (size_t i = 0; i < ELEMENTSOF(names); i++) {
        _cleanup_free_ char *path = NULL;

        if (asprintf(&path, "%s/%s", dir, names[i]) < 0)
            path = NULL;
        else
            unlink(path);
    }
}

static void remove_files(struct domain *d)
{
    STRV_FOREACH (path, d->sockets)
        unlink(*path);
    CRASH_POINT("end-sockets");
    if (d->dir)
        domain_remove_files(d->dir);
}

void domain_free(struct domain *d)
{
    bool killed;

    if (!d)
        return;
    killed = d->pid > 0;
    d->ended = NULL;
    if (killed) {
        kill(d->pid, SIGKILL);
        wait_for_end(d->pidfd);
    }
    sd_event_source_disable_unref(d->exit_source);
    sd_event_source_disable_unref(d->ended_source);
    domain_stop_helpers(d);
    CRASH_POINT("end-helpers");
    domain_lengthen_backlogs(d);
    stop_done(&d->stop);
    credentials_stop(d->credentials);
    qmp_client_free(d->qmp);
    domain_drop_block_job(d);
    domain_drop_disk_ops(d); /* after the monitor, whose last callbacks go to the one that runs */
    qga_client_free(d->agent);
    stats_free(d->stats); /* after the monitor, whose last callbacks go to it */
    credentials_free(d->credentials);
    guest_info_free(d->guest_info);
    sd_event_source_disable_unref(d->reconnect_timer);
    sd_event_source_disable_unref(d->save_timer);
    sd_event_source_disable_unref(d->thaw_timer);
    sd_event_source_disable_unref(d->clock_timer);
    sd_event_source_disable_unref(d->metrics_timer);
    metrics_channel_free(d->metrics_channel);
    if (d->console && killed)
        console_drain(d->console);
    firmware_log_free(d->firmware_log);
    console_free(d->console);
    if (!d->adopted || killed || (STATE_BIT(d->lifecycle.state) & STATES_FINAL))
        remove_files(d); /* not those of a VM that could not be taken over, and runs on */
    console_log_free(d->console_log);
    CRASH_POINT("end-files");
    strv_free(d->sockets);
    machine_free(d->machine);
    error_free(d->failure);
    json_decref(d->panic_info);
    json_decref(d->memory_dump);
    json_decref(d->dump_result);
    json_decref(d->half_plugged);
    fd_close(d->pidfd);
    free(d->dir);
    free(d->accel_reason);
    free(d->manifest);
    free(d->agent_version);
    free(d->pause_volume);
    free(d->pause_error);
    sd_event_source_disable_unref(d->io_timer);
    free(d->outcome);
    sd_event_unref(d->event);
    free(d);
}

static void tell_state(struct domain *d)
{
    d->pause_untold = false;
    d->since_wall = realtime_usec();
    guest_info_hold(d->guest_info, d->lifecycle.state != DOMAIN_RUNNING);
    event_log_add(d->events, "Domain", domain_state_name(d->lifecycle.state),
                  json_pack("{s:s, s:s}", "state", domain_state_name(d->lifecycle.state), "stateReason",
                            domain_reason_name(d->lifecycle.reason)),
                  NULL);
}

/* At the end domain_free() follows, and the state file is of no use to anyone. */
static void save_if_alive(struct domain *d)
{
    if (STATE_BIT(d->lifecycle.state) & ~STATES_FINAL)
        domain_save_state(d);
}

void domain_state_changed(struct domain *d)
{
    tell_state(d);
    save_if_alive(d);
}

static int on_save(sd_event_source *source, uint64_t at, void *userdata)
{
    CRASH_POINT("pause-answered");
    save_if_alive(userdata);
    CRASH_POINT("pause-saved");
    return 0;
}

char *domain_read_log_end(const char *path)
{
    _cleanup_free_ char *text = NULL;
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    struct stat st;
    ssize_t n;

    if (fd < 0 || fstat(fd, &st) < 0 || st.st_size == 0)
        return NULL;
    text = malloc(LIMIT_QEMU_STDERR_BYTES + 1);
    if (!text)
        return NULL;
    n = pread(fd, text, LIMIT_QEMU_STDERR_BYTES, MAX(st.st_size - (off_t)LIMIT_QEMU_STDERR_BYTES, (off_t)0));
    while (n > 0 && text[n - 1] == '\n')
        n--;
    if (n <= 0)
        return NULL;
    text[n] = '\0';
    return TAKE_PTR(text);
}

char *domain_read_qemu_log(const struct domain *d)
{
    _cleanup_free_ char *path = NULL;

    if (asprintf(&path, "%s/qemu.log", d->dir) < 0) {
        path = NULL;
        return NULL;
    }
    return domain_read_log_end(path);
}

void domain_fail(struct domain *d, struct error *error)
{
    if (!d->failure)
        d->failure = error;
    else
        error_free(error);
    d->lifecycle.killing = true;
    if (d->pid > 0)
        kill(d->pid, SIGKILL);
}

static const char *describe_end(const siginfo_t *info)
{
    /* CLD_KILLED by SIGSYS: seccomp(2), SECCOMP_RET_KILL_PROCESS */
    if (info->si_code != CLD_EXITED && info->si_status == SIGSYS)
        return "was killed by SIGSYS: it made a system call that its sandbox forbids, as a QEMU does that its guest "
               "has taken over, or a script that executes it (the kernel's log names the call)";
    return info->si_code ? child_describe_status(info) : "ended (its exit status went to the monitor that reaped it)";
}

/* How it came to its end, for people. */
static void set_outcome(struct domain *d, const siginfo_t *info)
{
    const struct stop *s = &d->stop;
    double seconds = s->asked_at ? (double)(now_usec() - s->asked_at) / 1e6 : 0;
    bool by_guest = d->lifecycle.reason == REASON_SHUTDOWN;
    int r;

    if (d->failure)
        r = asprintf(&d->outcome, "%s", error_message(d->failure));
    else if (d->lifecycle.reason == REASON_PANICKED)
        r = asprintf(&d->outcome, "the guest panicked");
    else if (by_guest && s->phase == STOP_ASKED)
        r = asprintf(&d->outcome, "the guest shut down %.1f s after it was asked (%s; power button pressed %s%s)",
                     seconds, s->why ? s->why : "", s->presses == 1 ? "once" : "several times",
                     s->agent_asked ? ", and the agent asked" : "");
    else if (by_guest)
        r = asprintf(&d->outcome, "the guest shut down by itself");
    else if (s->phase != STOP_NONE)
        r = asprintf(&d->outcome, "ended by %s%s (%s)",
                     s->phase == STOP_KILL   ? "SIGKILL"
                     : s->phase == STOP_TERM ? "SIGTERM"
                                             : "the monitor's quit",
                     s->presses ? ", because the guest did not shut down in its grace period" : "",
                     s->why ? s->why : "");
    else
        r = asprintf(&d->outcome, "QEMU %s", describe_end(info));
    if (r < 0)
        d->outcome = NULL;
}

static int on_ended(sd_event_source *source, void *userdata)
{
    struct domain *d = userdata;
    domain_ended_fn ended = d->ended;

    d->ended = NULL;
    if (ended)
        ended(d, d->failure, d->ended_userdata);
    return 0;
}

/* The exit status, as far as it is ours to know: an adopted QEMU is reaped by the monitor. */
static siginfo_t reap(int pidfd)
{
    siginfo_t info = {0};

    if (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG) < 0 || info.si_pid == 0)
        info = (siginfo_t){.si_code = 0};
    return info;
}

static int on_qemu_exit(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    struct domain *d = userdata;
    siginfo_t status = reap(d->pidfd), *info = &status;
    bool known = info->si_code != 0;
    bool started = d->qmp && qmp_client_get_version(d->qmp) != 0;
    _cleanup_free_ char *said = domain_read_qemu_log(d);

    d->pid = 0;
    d->exit_source = sd_event_source_disable_unref(d->exit_source);
    /* What the monitor still says belongs to the story (SHUTDOWN with its reason): it has been read by now, because
     * this source has a lower priority than the sockets. */
    lifecycle_exited(&d->lifecycle, known && info->si_code != CLD_EXITED, known ? info->si_status : -1);
    if (!d->failure && (d->lifecycle.reason == REASON_CRASHED || d->lifecycle.reason == REASON_FAILED)) {
        error_set(&d->failure, started ? ERROR_QEMU_EXITED : ERROR_QEMU_START, ECHILD, "QEMU %s%s%s%s",
                  describe_end(info), started ? "" : " before its monitor answered", said ? ": " : "",
                  said ? said : " and wrote nothing");
    }
    set_outcome(d, info);
    CRASH_POINT("end-reaped");
    if (d->console)
        console_drain(d->console);
    if (d->firmware_log)
        firmware_log_drain(d->firmware_log);
    domain_stop_helpers(d);
    stop_done(&d->stop);
    domain_state_changed(d);
    CRASH_POINT("end-state");
    if (event_defer(d->event, &d->ended_source, on_ended, d) < 0)
        on_ended(NULL, d);
    return 0;
}

/* ---- the way up: greeting, (balloon statistics), cont ----------------------------------------------------------- */

static void on_started(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct domain *d = userdata;

    if (!error || qmp_client_get_state(client) != QMP_RUNNING)
        return; /* RESUME says that it runs, the pidfd that it ended, on_qmp_state() that the monitor is gone */
    _cleanup_error_ struct error *e = error_copy(error);
    error_wrap(&e, 0, "cannot start the guest");
    domain_fail(d, TAKE_PTR(e));
}

/* As a rule QEMU has ended, and its pidfd tells. A monitor that never answered is a QEMU that hangs; one of a VM that
 * runs may answer later, and the guest does not end because of it. */
static void on_qmp_lost(struct domain *d, const struct error *error)
{
    _cleanup_free_ char *said = NULL;
    _cleanup_error_ struct error *e = NULL;

    log_debug("the monitor is gone: %s", error ? error_message(error) : "closed");
    if (d->adopted || qmp_client_get_version(d->qmp) != 0) {
        domain_monitor_lost(d);
        return;
    }
    if (error_get_code(error) != ERROR_TIMED_OUT)
        return;
    said = domain_read_qemu_log(d);
    error_set(&e, ERROR_TIMED_OUT, ETIMEDOUT, "QEMU hangs: %s%s%s", error_message(error), said ? "; it wrote: " : "",
              said ? said : "");
    domain_fail(d, TAKE_PTR(e));
}

/* It answers, so it has opened its images; `cont`, which waits for this handler, has not been sent. */
static void check_images(struct domain *d)
{
    const struct storage *storage = TAKE_PTR(d->storage);
    struct error *e = NULL;

    if (storage && !d->adopted && storage_check_opened(storage, NULL, d->pid, &e) < 0)
        domain_fail(d, e);
}

static void on_qmp_state(struct qmp_client *client, enum qmp_state state, const struct error *error, void *userdata)
{
    struct domain *d = userdata;

    switch (state) {
    case QMP_NEGOTIATING:
        timeline_mark(d->timeline, MARK_GREETING);
        domain_lengthen_backlogs(d);
        CRASH_POINT("start-greeting");
        break;
    case QMP_DISCONNECTED:
        on_qmp_lost(d, error);
        break;
    case QMP_RUNNING:
        CRASH_POINT("start-negotiated");
        check_images(d);
        domain_refresh_metrics_disk(d);
        if (d->start_paused && !d->adopted) { /* nobody resumes it but the user, as with KubeVirt */
            d->lifecycle.reason = REASON_USER;
            domain_state_changed(d);
        }
        break;
    case QMP_GREETING:
        break;
    }
}

static void on_first_output(void *userdata)
{
    struct domain *d = userdata;

    timeline_mark(d->timeline, MARK_CONSOLE);
}

void domain_watch_monitor(struct domain *d)
{
    qmp_client_set_event_handler(d->qmp, domain_on_qmp_event, d);
    qmp_client_set_state_handler(d->qmp, on_qmp_state, d);
}

int domain_watch(struct domain *d, domain_ended_fn ended, void *userdata, struct error **ret_error)
{
    int r;

    domain_watch_monitor(d);
    if (d->console)
        console_set_first_output_handler(d->console, on_first_output, d);
    r = sd_event_add_io(d->event, &d->exit_source, d->pidfd, EPOLLIN, on_qemu_exit, d);
    if (r >= 0) /* after the sockets, so that the monitor's last words are heard before the end is told */
        r = sd_event_source_set_priority(d->exit_source, SD_EVENT_PRIORITY_NORMAL + 10);
    if (r < 0)
        return error_errno(ret_error, r, "cannot watch QEMU");
    d->ended = ended;
    d->ended_userdata = userdata;
    return 0;
}

/* `state: down` in the manifest: before the guest runs, so that it never sees the link up. */
static void unplug_cables(struct domain *d)
{
    const struct vmi_devices *devices = &d->vmi->spec.domain.devices;

    for (size_t i = 0; i < devices->interfaces.count; i++) {
        const struct vmi_interface *nic = &devices->interfaces.items[i];
        const char *id = machine_nic_id(d->machine, nic->name);

        if (nic->state == VMI_LINK_DOWN && id)
            qmp_client_invoke(d->qmp, "set_link", json_pack("{s:s, s:b}", "name", id, "up", 0), on_started, d);
    }
}

int domain_first_cont(struct domain *d)
{
    unplug_cables(d);
    return d->start_paused ? 0 : qmp_client_invoke(d->qmp, "cont", NULL, on_started, d);
}

int domain_start(struct domain *d, domain_ended_fn ended, void *userdata, struct error **ret_error)
{
    int r;

    r = domain_spawn(d, ret_error);
    if (r < 0)
        return r;
    timeline_mark(d->timeline, MARK_SPAWN);
    d->lifecycle.state = DOMAIN_PAUSED;
    d->lifecycle.reason = REASON_STARTING_UP;
    r = domain_watch(d, ended, userdata, ret_error);
    CRASH_POINT("start-watched");
    if (r >= 0) {
        r = domain_first_cont(d); /* sent after the handshake */
        if (r < 0)
            error_errno(ret_error, r, "cannot talk to QEMU");
    }
    if (r < 0)
        return r;
    CRASH_POINT("start-cont-queued");
    domain_state_changed(d); /* last: QEMU starts while the state file is written */
    CRASH_POINT("start-saved");
    return 0;
}

/* ---- actions ---------------------------------------------------------------------------------------------------- */

struct action {
    struct domain *domain;
    domain_done_fn done;
    void *userdata;
};

static void on_action_done(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct action *a = userdata;

    CRASH_POINT("action-done");
    if (a->done)
        a->done(a->domain, error, a->userdata);
    free(a);
}

static int act(struct domain *d, const char *command, qmp_reply_fn answered, domain_done_fn done, void *userdata)
{
    struct action *a;
    int r;

    if (!d->qmp || d->pid <= 0)
        return -ENOTCONN;
    a = malloc(sizeof(*a));
    if (!a)
        return -ENOMEM;
    *a = (struct action){d, done, userdata};
    r = qmp_client_call(
        d->qmp, &(struct qmp_call){.command = command, .is_urgent = true, .callback = answered, .userdata = a}, NULL);
    if (r < 0)
        free(a);
    return r;
}

/* Who asked is answered first; the events follow, and the state file when it has had the CPU: a next launcher learns of
 * a pause from QEMU, too. */
static void on_stop_answered(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct domain *d = ((struct action *)userdata)->domain;

    on_action_done(client, result, error, userdata);
    d->n_stops--;
    if (!d->pause_untold)
        return;
    tell_state(d);
    if (event_arm_timer(d->event, &d->save_timer, STATE_SAVE_USEC, on_save, d) < 0)
        save_if_alive(d);
}

int domain_pause(struct domain *d, domain_done_fn done, void *userdata)
{
    int r;

    /* QEMU sends no STOP for a guest that is stopped already: what was an error's pause is the user's from now on */
    if (d->lifecycle.state == DOMAIN_PAUSED && d->lifecycle.reason != REASON_STARTING_UP) {
        if (d->lifecycle.reason != REASON_USER) {
            d->lifecycle.reason = REASON_USER;
            event_disarm_timer(d->io_timer);
            domain_state_changed(d);
        }
    } else {
        d->lifecycle.pausing_by_user = true;
    }
    CRASH_POINT("pause-asked");
    r = act(d, "stop", on_stop_answered, done, userdata);
    if (r < 0)
        d->lifecycle.pausing_by_user = false;
    else
        d->n_stops++;
    return r;
}

int domain_unpause(struct domain *d, domain_done_fn done, void *userdata)
{
    CRASH_POINT("unpause-asked");
    return act(d, "cont", on_action_done, done, userdata);
}

int domain_reset(struct domain *d, domain_done_fn done, void *userdata)
{
    CRASH_POINT("reset-asked");
    return act(d, "system_reset", on_action_done, done, userdata);
}

/* ---- views ------------------------------------------------------------------------------------------------------ */

const struct lifecycle *domain_get_lifecycle(const struct domain *d)
{
    return &d->lifecycle;
}

const struct vmi *domain_get_vmi(const struct domain *d)
{
    return d->vmi;
}

struct event_log *domain_get_events(struct domain *d)
{
    return d->events;
}

struct console *domain_get_console(struct domain *d)
{
    return d->console;
}

struct qmp_client *domain_get_qmp(struct domain *d)
{
    return d->pid > 0 ? d->qmp : NULL;
}

struct guest_info *domain_get_guest_info(struct domain *d)
{
    return d->guest_info;
}

const char *domain_get_outcome(const struct domain *d)
{
    return d->outcome;
}
