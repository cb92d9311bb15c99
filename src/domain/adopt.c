/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taking over a VM whose launcher died or was replaced. QEMU listens on the same sockets; what it says about its state
 * is asked, what only the former launcher knew (why it is paused, a stop or a freeze under way) is in the state file.
 */
#include <sys/syscall.h>
#include <unistd.h>

#include "base/child.h"
#include "base/crash.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/strv.h"
#include "domain/domain-internal.h"
#include "domain/statefile.h"

static void on_status(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct domain *d = userdata;
    const char *status = json_string_value(json_object_get(result, "status"));
    struct lifecycle *l = &d->lifecycle;

    CRASH_POINT("adopt-status");
    if (error || !status)
        return; /* the monitor is gone, and the pidfd tells the rest */
    /* qapi/run-state.json: RunState. The reason that the state file has stands while the state is the same. */
    if (streq(status, "running"))
        lifecycle_resumed(l);
    else if (streq(status, "io-error"))
        l->io_error = true, lifecycle_stopped(l);
    else if (streq(status, "suspended"))
        lifecycle_suspended(l);
    else if (streq(status, "guest-panicked"))
        l->panicked = true, lifecycle_stopped(l);
    else if (streq(status, "shutdown"))
        lifecycle_shutdown(l, NULL);
    else if (l->state != DOMAIN_PAUSED) /* a Pause is answered before it is in the state file */
        l->pausing_by_user = streq(status, "paused") && !l->dumping, lifecycle_stopped(l);
    if (streq(status, "prelaunch")) /* the former launcher was killed just before it let the guest begin */
        domain_first_cont(d);
    event_log_add(d->events, "Domain", domain_state_name(l->state),
                  json_pack("{s:s, s:s, s:b}", "state", domain_state_name(l->state), "stateReason",
                            domain_reason_name(l->reason), "adopted", d->adopted_done != NULL),
                  d->adopted_done ? "took over the running VM (QEMU is pid %d)"
                                  : "QEMU (pid %d) answers again; its monitor was connected to anew",
                  (int)d->pid);
    domain_save_state(d);
    CRASH_POINT("adopt-saved");
    domain_io_error_stopped(d);
    if (d->adopted_done)
        d->adopted_done(d, NULL, d->adopted_userdata);
    d->adopted_done = NULL;
}

/* Whether the guest holds the agent's channel open is told by an event only when it changes. */
static void on_chardevs(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct domain *d = userdata;
    json_t *chardev;
    size_t i;

    json_array_foreach (result, i, chardev) {
        const char *label = json_string_value(json_object_get(chardev, "label"));

        if (label && streq(label, MACHINE_ROLE_AGENT) && json_is_true(json_object_get(chardev, "frontend-open")))
            domain_agent_channel(d, true);
    }
}

/* However long it takes: until then the state file says how the VM stands. */
static int ask(struct domain *d)
{
    struct qmp_call status = {
        .command = "query-status", .timeout_usec = UINT64_MAX, .callback = on_status, .userdata = d};
    struct qmp_call chardevs = {
        .command = "query-chardev", .timeout_usec = UINT64_MAX, .callback = on_chardevs, .userdata = d};
    int r = qmp_client_call(d->qmp, &status, NULL);

    return r < 0 ? r : qmp_client_call(d->qmp, &chardevs, NULL);
}

static int on_reconnect(sd_event_source *source, uint64_t at, void *userdata)
{
    _cleanup_error_ struct error *e = NULL;
    struct domain *d = userdata;
    int r;

    if (d->pid <= 0)
        return 0;
    r = domain_connect_monitor(d, &e);
    if (r >= 0) {
        domain_watch_monitor(d);
        r = ask(d);
    }
    if (r < 0) {
        log_debug("QEMU's monitor: %s", e ? error_message(e) : strerror(-r));
        domain_monitor_lost(d);
    }
    return 0;
}

void domain_monitor_lost(struct domain *d)
{
    if (d->pid <= 0)
        return;
    /* one that is about to end has ended by then */
    if (event_arm_timer(d->event, &d->reconnect_timer, QMP_RECONNECT_USEC, on_reconnect, d) < 0)
        log_error("the monitor of QEMU (pid %d) is lost, and there is no timer to connect again", (int)d->pid);
}

static int open_process(struct domain *d, const struct domain_state_file *state, struct error **ret_error)
{
    uint64_t ticks;

    d->pidfd = (int)syscall(SYS_pidfd_open, state->pid, 0);
    if (d->pidfd < 0)
        return error_errno(ret_error, errno, "cannot watch QEMU (pid %d)", (int)state->pid);
    /* the pid was checked before it was opened: once more, now that it cannot be reused any longer */
    if (process_start_time(state->pid, &ticks) < 0 || ticks != state->start_ticks)
        return error_set(ret_error, ERROR_NOT_FOUND, ESTALE, "QEMU (pid %d) ended just now", (int)state->pid);
    d->pid = state->pid;
    d->start_ticks = state->start_ticks;
    return 0;
}

/* What is to be removed at the VM's end. */
static int list_sockets(struct domain *d)
{
    size_t n;
    const struct machine_fd *fds = machine_get_fds(d->machine, &n);

    for (size_t i = 0; i < n; i++)
        if (fds[i].kind == MACHINE_FD_LISTEN && strv_append(&d->sockets, fds[i].path) < 0)
            return -ENOMEM;
    return domain_list_fifos(d);
}

int domain_adopt(struct domain *d, const struct domain_state_file *state, domain_ended_fn ended, void *userdata,
                 domain_done_fn done, void *done_userdata, struct error **ret_error)
{
    int r;

    d->adopted = true;
    r = open_process(d, state, ret_error);
    CRASH_POINT("adopt-opened");
    if (r >= 0)
        r = domain_connect(d, ret_error);
    CRASH_POINT("adopt-connected");
    if (r >= 0)
        r = domain_watch(d, ended, userdata, ret_error);
    CRASH_POINT("adopt-watched");
    if (r < 0) {
        d->pid = 0; /* not ours to kill */
        return r;
    }
    r = list_sockets(d);
    if (r < 0) {
        d->pid = 0;
        return error_oom(ret_error);
    }
    d->lifecycle.state = state->state;
    d->lifecycle.reason = state->reason;
    d->since_wall = state->since_wall;
    d->pause_volume = state->pause_volume ? strdup(state->pause_volume) : NULL;
    d->io_retries = state->io_retries;
    if (state->balloon_stats_seconds)
        d->balloon_stats_seconds = state->balloon_stats_seconds;
    credentials_take_up(d->credentials, state->access_credentials);
    d->pause_error = state->pause_error ? strdup(state->pause_error) : NULL;
    if (json_is_array(state->guest_interfaces))
        guest_info_restore(d->guest_info, "guest-network-get-interfaces", json_incref(state->guest_interfaces));
    d->adopted_done = done;
    d->adopted_userdata = done_userdata;
    r = ask(d);
    if (r < 0) {
        d->pid = 0;
        return error_errno(ret_error, r, "cannot talk to QEMU");
    }
    CRASH_POINT("adopt-asked");
    if (state->stop_asked_wall)
        domain_take_up_stop(d, state->stop_asked_wall, state->stop_asked, state->stop_deadline);
    if (state->disks) {
        domain_take_up_disks(d, state->disks);
        d->plug_serial = state->plug_serial;
    }
    if (state->half_plugged)
        domain_clear_half_plugged(d, state->half_plugged);
    if (state->block_job)
        domain_take_up_block_job(d, state->block_job);
    if (state->memory_dump)
        domain_take_up_dump(d, state->memory_dump);
    if (state->thaw_deadline)
        domain_take_up_freeze(d, state->thaw_deadline);
    return 0;
}
