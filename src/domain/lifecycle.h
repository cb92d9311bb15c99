/* SPDX-License-Identifier: Apache-2.0 */
/* The states of a VM and their reasons, named as KubeVirt names them (compat: api.Domain Status, Reason). */
#pragma once

#include "base/util.h"

#define DOMAIN_STATES(X)                                                                                               \
    X(NO_STATE, "NoState")                                                                                             \
    X(RUNNING, "Running")                                                                                              \
    X(BLOCKED, "Blocked")                                                                                              \
    X(PAUSED, "Paused")                                                                                                \
    X(SHUTTING_DOWN, "ShuttingDown")                                                                                   \
    X(SHUTOFF, "Shutoff")                                                                                              \
    X(CRASHED, "Crashed")                                                                                              \
    X(PM_SUSPENDED, "PMSuspended")

enum domain_state {
#define X(symbol, name) DOMAIN_##symbol,
    DOMAIN_STATES(X)
#undef X
        DOMAIN_STATE_COUNT,
};

#define DOMAIN_REASONS(X)                                                                                              \
    X(UNKNOWN, "Unknown")                                                                                              \
    X(USER, "User")                                                                                                    \
    X(SHUTDOWN, "Shutdown")                                                                                            \
    X(DESTROYED, "Destroyed")                                                                                          \
    X(MIGRATED, "Migrated")                                                                                            \
    X(CRASHED, "Crashed")                                                                                              \
    X(PANICKED, "Panicked")                                                                                            \
    X(SAVED, "Saved")                                                                                                  \
    X(FAILED, "Failed")                                                                                                \
    X(FROM_SNAPSHOT, "FromSnapshot")                                                                                   \
    X(NON_EXISTENT, "NonExistent")                                                                                     \
    X(MIGRATION, "Migration")                                                                                          \
    X(SAVE, "Save")                                                                                                    \
    X(DUMP, "Dump")                                                                                                    \
    X(IO_ERROR, "IOError")                                                                                             \
    X(WATCHDOG, "Watchdog")                                                                                            \
    X(SHUTTING_DOWN, "ShuttingDown")                                                                                   \
    X(SNAPSHOT, "Snapshot")                                                                                            \
    X(STARTING_UP, "StartingUp")                                                                                       \
    X(POSTCOPY, "Postcopy")                                                                                            \
    X(POSTCOPY_FAILED, "PostcopyFailed")

enum domain_reason {
#define X(symbol, name) REASON_##symbol,
    DOMAIN_REASONS(X)
#undef X
        REASON_COUNT,
};

#define STATE_BIT(state) (1U << (state))
/* QEMU is there, and its vCPUs run or could be made to run. */
#define STATES_ALIVE                                                                                                   \
    (STATE_BIT(DOMAIN_RUNNING) | STATE_BIT(DOMAIN_BLOCKED) | STATE_BIT(DOMAIN_PAUSED) |                                \
     STATE_BIT(DOMAIN_SHUTTING_DOWN) | STATE_BIT(DOMAIN_PM_SUSPENDED))
#define STATES_FINAL (STATE_BIT(DOMAIN_SHUTOFF) | STATE_BIT(DOMAIN_CRASHED))

const char *domain_state_name(enum domain_state state);
const char *domain_reason_name(enum domain_reason reason);
/* NoState and Unknown for a name that is not known, or NULL. */
enum domain_state domain_state_from_name(const char *name);
enum domain_reason domain_reason_from_name(const char *name);
/* The names in the order of the enum, NULL-terminated. */
extern const char *const domain_state_names[];

/* What is known when a state is derived: a state comes from the monitor's events and the process's end together. */
struct lifecycle {
    enum domain_state state;
    enum domain_reason reason;
    bool pausing_by_user; /* our `stop` is on its way: the STOP event that follows is the user's */
    bool io_error;        /* a BLOCK_IO_ERROR with action stop came before the STOP event */
    bool watchdog;        /* as above: WATCHDOG with action pause */
    bool dumping;         /* a memory dump stops the vCPUs for a while */
    bool panicked;
    enum domain_reason end_reason; /* what the SHUTDOWN event said; UNKNOWN if there was none */
    bool killing;                  /* we sent quit or a signal */
};

/* The vCPUs stopped, run, or slept: QMP events STOP, RESUME, SUSPEND, WAKEUP. True if state or reason changed. */
bool lifecycle_stopped(struct lifecycle *l);
bool lifecycle_resumed(struct lifecycle *l);
bool lifecycle_suspended(struct lifecycle *l);
bool lifecycle_woken(struct lifecycle *l);
/* QMP event SHUTDOWN with its "reason" (qapi/run-state.json: ShutdownCause). */
bool lifecycle_shutdown(struct lifecycle *l, const char *cause);
/* The process is gone. */
bool lifecycle_exited(struct lifecycle *l, bool by_signal, int status);
