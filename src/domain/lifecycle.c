/* SPDX-License-Identifier: Apache-2.0 */
#include "domain/lifecycle.h"

const char *const domain_state_names[] = {
#define X(symbol, name) name,
    DOMAIN_STATES(X)
#undef X
        NULL,
};

static const char *const reason_names[] = {
#define X(symbol, name) name,
    DOMAIN_REASONS(X)
#undef X
};

const char *domain_state_name(enum domain_state state)
{
    return state < DOMAIN_STATE_COUNT ? domain_state_names[state] : "NoState";
}

const char *domain_reason_name(enum domain_reason reason)
{
    return reason < REASON_COUNT ? reason_names[reason] : "Unknown";
}

enum domain_state domain_state_from_name(const char *name)
{
    for (int i = 0; name && i < DOMAIN_STATE_COUNT; i++)
        if (streq(domain_state_names[i], name))
            return (enum domain_state)i;
    return DOMAIN_NO_STATE;
}

enum domain_reason domain_reason_from_name(const char *name)
{
    for (int i = 0; name && i < REASON_COUNT; i++)
        if (streq(reason_names[i], name))
            return (enum domain_reason)i;
    return REASON_UNKNOWN;
}

static bool set(struct lifecycle *l, enum domain_state state, enum domain_reason reason)
{
    if ((STATE_BIT(l->state) & STATES_FINAL) || (l->state == state && l->reason == reason))
        return false;
    l->state = state;
    l->reason = reason;
    return true;
}

bool lifecycle_stopped(struct lifecycle *l)
{
    enum domain_reason reason = l->pausing_by_user ? REASON_USER
                                : l->io_error      ? REASON_IO_ERROR
                                : l->watchdog      ? REASON_WATCHDOG
                                : l->dumping       ? REASON_DUMP
                                : l->panicked      ? REASON_CRASHED
                                                   : REASON_UNKNOWN;

    l->pausing_by_user = l->io_error = l->watchdog = false;
    /* QEMU stops the vCPUs as a part of every shutdown: that is no pause */
    if (l->state == DOMAIN_SHUTTING_DOWN || l->end_reason != REASON_UNKNOWN)
        return false;
    return set(l, DOMAIN_PAUSED, reason);
}

bool lifecycle_resumed(struct lifecycle *l)
{
    if (l->state == DOMAIN_SHUTTING_DOWN)
        return false;
    return set(l, DOMAIN_RUNNING, REASON_UNKNOWN);
}

bool lifecycle_suspended(struct lifecycle *l)
{
    return set(l, DOMAIN_PM_SUSPENDED, REASON_UNKNOWN);
}

bool lifecycle_woken(struct lifecycle *l)
{
    return set(l, DOMAIN_RUNNING, REASON_UNKNOWN);
}

bool lifecycle_shutdown(struct lifecycle *l, const char *cause)
{
    static const struct {
        const char *cause;
        enum domain_reason reason;
    } table[] = {
        {"guest-shutdown", REASON_SHUTDOWN},
        {"guest-reset", REASON_SHUTDOWN},
        {"guest-panic", REASON_PANICKED},
        {"host-qmp-quit", REASON_DESTROYED},
        {"host-signal", REASON_DESTROYED},
        {"host-ui", REASON_DESTROYED},
        {"host-error", REASON_FAILED},
        {"subsystem-reset", REASON_SHUTDOWN},
        {"host-qmp-system-reset", REASON_SHUTDOWN},
        {"snapshot-load", REASON_SHUTDOWN},
    };

    l->end_reason = REASON_SHUTDOWN;
    for (size_t i = 0; i < ELEMENTSOF(table); i++)
        if (cause && streq(cause, table[i].cause))
            l->end_reason = table[i].reason;
    if (l->panicked)
        l->end_reason = REASON_PANICKED;
    return set(l, DOMAIN_SHUTTING_DOWN, REASON_USER);
}

bool lifecycle_exited(struct lifecycle *l, bool by_signal, int status)
{
    enum domain_reason reason = l->end_reason;

    if (l->killing && reason != REASON_SHUTDOWN && reason != REASON_PANICKED)
        reason = REASON_DESTROYED;
    else if (reason == REASON_UNKNOWN)
        reason = by_signal || status != 0 ? REASON_CRASHED : REASON_SHUTDOWN;
    return set(l, DOMAIN_SHUTOFF, reason);
}
