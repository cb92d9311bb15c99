/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Freezing the guest's file systems for a backup, and thawing them again whatever happens: the deadline is in the state
 * file, so a launcher that adopts the VM takes it up.
 */
#include "base/crash.h"
#include "base/limits.h"
#include "base/log.h"
#include "domain/domain-internal.h"

struct freeze_action {
    struct domain *domain;
    domain_done_fn done;
    void *userdata;
    uint64_t timeout_usec;
};

static int on_thaw_timer(sd_event_source *source, uint64_t at, void *userdata);

static bool is_frozen(const struct domain *d)
{
    const char *status = json_string_value(guest_info_get(d->guest_info, "guest-fsfreeze-status"));

    return status && streq(status, "frozen");
}

static void finish(struct freeze_action *a, const struct error *error)
{
    if (a->done)
        a->done(a->domain, error, a->userdata);
    free(a);
}

static void arm_thaw(struct domain *d, uint64_t delay)
{
    if (event_arm_timer(d->event, &d->thaw_timer, delay, on_thaw_timer, d) < 0)
        log_warning("cannot arm the timer that thaws the guest");
}

static void on_frozen(struct qga_client *agent, json_t *result, const struct error *error, void *userdata)
{
    struct freeze_action *a = userdata;
    struct domain *d = a->domain;

    if (!error) {
        CRASH_POINT("freeze-frozen");
        guest_info_set(d->guest_info, "guest-fsfreeze-status", json_string("frozen"));
        event_log_add(d->events, "Agent", "Frozen", json_pack("{s:O}", "filesystems", result),
                      "froze %lld file systems of the guest%s", (long long)json_integer_value(result),
                      a->timeout_usec ? "" : ", without a time limit");
        d->thaw_deadline = a->timeout_usec ? now_usec() + a->timeout_usec : 0;
        if (a->timeout_usec)
            arm_thaw(d, a->timeout_usec);
        domain_save_state(d);
        CRASH_POINT("freeze-saved");
    }
    if (error && d->thaw_deadline && !is_frozen(d)) {
        event_disarm_timer(d->thaw_timer);
        d->thaw_deadline = 0;
        domain_save_state(d);
    }
    finish(a, error);
}

static void on_thawed(struct qga_client *agent, json_t *result, const struct error *error, void *userdata)
{
    struct freeze_action *a = userdata;
    struct domain *d = a->domain;

    if (!error) {
        CRASH_POINT("freeze-thawed");
        event_disarm_timer(d->thaw_timer);
        d->thaw_deadline = 0;
        guest_info_set(d->guest_info, "guest-fsfreeze-status", json_string("thawed"));
        event_log_add(d->events, "Agent", "Thawed", NULL, "thawed the guest's file systems");
        domain_save_state(d);
    }
    finish(a, error);
}

static int start(struct domain *d, const char *command, qga_reply_fn reply, uint64_t timeout_usec, domain_done_fn done,
                 void *userdata)
{
    struct freeze_action *a;
    int r;

    if (!d->agent_connected)
        return -ENOTCONN;
    a = malloc(sizeof(*a));
    if (!a)
        return -ENOMEM;
    *a = (struct freeze_action){d, done, userdata, timeout_usec};
    r = qga_client_call(d->agent, command, NULL, 0, reply, a);
    if (r < 0)
        free(a);
    return r;
}

int domain_freeze(struct domain *d, uint64_t timeout_usec, domain_done_fn done, void *userdata)
{
    int r;

    /* A paused guest writes nothing, and its agent would not answer (KubeVirt counts both as success). */
    if (d->lifecycle.state == DOMAIN_PAUSED || is_frozen(d)) {
        if (done)
            done(d, NULL, userdata);
        return 0;
    }
    r = start(d, "guest-fsfreeze-freeze", on_frozen, timeout_usec, done, userdata);
    if (r >= 0 && timeout_usec) {
        /* before the answer: a launcher that is killed meanwhile must not leave a frozen guest that nobody thaws */
        d->thaw_deadline = now_usec() + timeout_usec;
        domain_save_state(d);
    }
    return r;
}

int domain_unfreeze(struct domain *d, domain_done_fn done, void *userdata)
{
    if (d->lifecycle.state == DOMAIN_PAUSED && !is_frozen(d)) {
        if (done)
            done(d, NULL, userdata);
        return 0;
    }
    return start(d, "guest-fsfreeze-thaw", on_thawed, 0, done, userdata);
}

void domain_thaw_for_stop(struct domain *d)
{
    if (is_frozen(d) && domain_unfreeze(d, NULL, NULL) < 0)
        log_warning("the guest is frozen, and cannot be thawed before it shuts down");
}

void domain_take_up_freeze(struct domain *d, uint64_t deadline)
{
    uint64_t now = now_usec();

    d->thaw_deadline = deadline;
    /* not before the agent had a chance to connect to us again */
    arm_thaw(d, MAX(deadline > now ? deadline - now : 0, (uint64_t)USEC_PER_SEC));
}

static void on_auto_thawed(struct domain *d, const struct error *error, void *userdata)
{
    if (!error)
        return;
    log_warning_of(error, "the guest's file systems are frozen for too long, and thawing them failed; trying again");
    arm_thaw(d, THAW_RETRY_USEC);
}

static int on_thaw_timer(sd_event_source *source, uint64_t at, void *userdata)
{
    struct domain *d = userdata;

    CRASH_POINT("freeze-timeout");
    event_log_add(d->events, "Agent", "ThawTimeout", NULL, "nobody thawed the guest in time: thawing it now");
    if (domain_unfreeze(d, on_auto_thawed, NULL) < 0) /* the agent is away: it may come back */
        arm_thaw(d, THAW_RETRY_USEC);
    return 0;
}
