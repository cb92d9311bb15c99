/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The orderly stop: power button and agent at the same time, the button again every few seconds (a guest that boots can
 * miss it), and after the grace period quit, SIGTERM, SIGKILL, each by its deadline. Which way it took is recorded.
 */
#include <signal.h>
#include <stdio.h>

#include "base/crash.h"
#include "base/limits.h"
#include "base/log.h"
#include "domain/domain-internal.h"

static int on_stop_timer(sd_event_source *source, uint64_t at, void *userdata);

static void arm(struct domain *d, uint64_t delay)
{
    d->stop.due = now_usec() + delay;
    /* without a timer the stop would hang: the signal goes out now instead */
    if (event_arm_timer(d->event, &d->stop.timer, delay, on_stop_timer, d) < 0)
        kill(d->pid, SIGKILL);
}

void stop_done(struct stop *stop)
{
    stop->timer = sd_event_source_disable_unref(stop->timer);
    free(stop->why);
    stop->why = NULL;
}

/* Which way it takes, and that it was not later than it had to be: both times are CLOCK_MONOTONIC. */
static void tell_force(struct domain *d, const char *by, uint64_t due, uint64_t now, bool asked)
{
    event_log_add(d->events, "Domain", "Forcing",
                  json_pack("{s:s, s:I, s:I}", "by", by, "deadlineUsec", (json_int_t)due, "atUsec", (json_int_t)now),
                  "%s: %s", asked ? "the guest did not shut down in its grace period" : "QEMU has not ended", by);
}

static void force(struct domain *d)
{
    struct stop *s = &d->stop;
    bool asked = s->phase == STOP_ASKED && s->deadline != 0;
    uint64_t due = s->due, now = now_usec();

    d->lifecycle.killing = true;
    switch (s->phase) {
    case STOP_NONE:
    case STOP_ASKED:
        s->phase = STOP_QUIT;
        CRASH_POINT("stop-quit");
        if (d->qmp && qmp_client_get_state(d->qmp) == QMP_RUNNING &&
            qmp_client_invoke(d->qmp, "quit", NULL, NULL, NULL) >= 0) {
            arm(d, TIMEOUT_QEMU_QUIT_USEC);
            if (asked)
                tell_force(d, "quit", due, now, asked);
            return;
        }
        __attribute__((fallthrough)); /* no monitor to ask */
    case STOP_QUIT:
        s->phase = STOP_TERM;
        kill(d->pid, SIGTERM);
        CRASH_POINT("stop-term");
        arm(d, TIMEOUT_QEMU_TERM_USEC);
        tell_force(d, "SIGTERM", due, now, asked);
        return;
    case STOP_TERM:
    case STOP_KILL:
        s->phase = STOP_KILL;
        kill(d->pid, SIGKILL);
        CRASH_POINT("stop-kill");
        tell_force(d, "SIGKILL", due, now, asked);
        return;
    }
}

static void on_agent_shutdown(struct qga_client *agent, json_t *result, const struct error *error, void *userdata)
{
    if (error)
        log_debug("guest-shutdown: %s", error_message(error));
}

/* One press of the button, and the agent asked the first time that it is there. */
static void ask(struct domain *d)
{
    struct stop *s = &d->stop;

    if (d->qmp && qmp_client_get_state(d->qmp) != QMP_DISCONNECTED) {
        if (d->lifecycle.state == DOMAIN_PAUSED)
            qmp_client_invoke(d->qmp, "cont", NULL, NULL, NULL);
        else if (d->lifecycle.state == DOMAIN_PM_SUSPENDED)
            qmp_client_invoke(d->qmp, "system_wakeup", NULL, NULL, NULL);
        if (qmp_client_invoke(d->qmp, "system_powerdown", NULL, NULL, NULL) >= 0)
            s->presses++;
    }
    if (d->agent_connected && !s->agent_asked) {
        s->agent_asked = true;
        domain_thaw_for_stop(d); /* a frozen guest cannot write what a shutdown writes */
        qga_client_call(d->agent, "guest-shutdown", json_pack("{s:s}", "mode", "powerdown"), 0, on_agent_shutdown, d);
    }
}

static void arm_next(struct domain *d)
{
    uint64_t now = now_usec(), left = d->stop.deadline > now ? d->stop.deadline - now : 0;

    arm(d, MIN(left, (uint64_t)SHUTDOWN_REPEAT_USEC));
}

static int on_stop_timer(sd_event_source *source, uint64_t at, void *userdata)
{
    struct domain *d = userdata;

    CRASH_POINT("stop-timer");
    if (d->stop.phase == STOP_ASKED && now_usec() < d->stop.deadline) {
        ask(d);
        arm_next(d);
    } else {
        force(d);
    }
    return 0;
}

void domain_take_up_stop(struct domain *d, uint64_t wall_asked, uint64_t asked, uint64_t deadline)
{
    struct stop *s = &d->stop;

    s->phase = STOP_ASKED;
    s->wall_asked_at = wall_asked;
    s->asked_at = asked;
    s->deadline = deadline ? deadline : UINT64_MAX;
    s->why = strdup("taken up from the former launcher");
    ask(d);
    arm_next(d);
}

static bool is_ended(const struct domain *d)
{
    return d->pid <= 0 || (STATE_BIT(d->lifecycle.state) & STATES_FINAL);
}

/* The times are CLOCK_MONOTONIC. */
static void tell_deadline(struct domain *d, uint64_t now, uint64_t grace_usec, const char *what, const char *why)
{
    event_log_add(d->events, "Domain", "ShuttingDown",
                  json_pack("{s:f, s:I, s:I}", "graceSeconds", (double)grace_usec / 1e6, "atUsec", (json_int_t)now,
                            "deadlineUsec", (json_int_t)MIN(d->stop.deadline, (uint64_t)INT64_MAX)),
                  "%s (%s): power button%s; it has %.0f s", what, why, d->stop.agent_asked ? " and guest agent" : "",
                  (double)grace_usec / 1e6);
}

void domain_shutdown(struct domain *d, uint64_t grace_usec, const char *why)
{
    struct stop *s = &d->stop;
    uint64_t now = now_usec(), deadline = grace_usec > UINT64_MAX - now ? UINT64_MAX : now + grace_usec;

    if (is_ended(d) || s->phase > STOP_ASKED)
        return;
    if (grace_usec == 0) {
        domain_kill(d, why);
        return;
    }
    if (s->phase == STOP_ASKED) { /* a second request can bring the end nearer, never farther */
        bool nearer = deadline < s->deadline;

        s->deadline = MIN(s->deadline, deadline);
        ask(d);
        arm_next(d);
        if (nearer) {
            tell_deadline(d, now, grace_usec, "asked the guest to shut down sooner", why);
            domain_save_state(d);
        }
        return;
    }
    s->phase = STOP_ASKED;
    s->asked_at = now;
    s->wall_asked_at = realtime_usec();
    s->deadline = deadline;
    s->why = strdup(why);
    CRASH_POINT("stop-begin");
    ask(d);
    CRASH_POINT("stop-asked");
    arm_next(d);
    tell_deadline(d, now, grace_usec, "asked the guest to shut down", why);
    domain_save_state(d);
    CRASH_POINT("stop-saved");
}

void domain_kill(struct domain *d, const char *why)
{
    struct stop *s = &d->stop;

    if (is_ended(d))
        return;
    if (s->phase == STOP_NONE) {
        s->asked_at = now_usec();
        s->wall_asked_at = realtime_usec();
        s->why = strdup(why);
    }
    s->deadline = 0;
    s->due = now_usec();
    event_log_add(d->events, "Domain", "Killing", NULL, "ending QEMU (%s)", why);
    force(d);
}

int domain_soft_reboot(struct domain *d, domain_done_fn done, void *userdata)
{
    /* The agent's reboot never answers on success, and ACPI has no reboot button: what the guest makes of the power
     * button is its own affair, as it is with KubeVirt. */
    int r;

    if (d->agent_connected)
        r = qga_client_call(d->agent, "guest-shutdown", json_pack("{s:s}", "mode", "reboot"), 0, on_agent_shutdown, d);
    else
        r = qmp_client_invoke(d->qmp, "system_powerdown", NULL, NULL, NULL);
    if (r >= 0 && done)
        done(d, NULL, userdata);
    return r;
}
