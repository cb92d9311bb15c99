/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One VM, from the spawn of QEMU to its end: the process, the monitor, the console, the agent, the state.
 * Everything runs on the caller's event loop; nothing here blocks, but for the spawn itself.
 */
#pragma once

#include <jansson.h>

#include <vmlet/qmp.h>
#include <vmlet/vmi.h>

#include "base/error.h"
#include "base/event.h"
#include "domain/console.h"
#include "domain/events.h"
#include "domain/guest-info.h"
#include "domain/lifecycle.h"
#include "domain/timeline.h"
#include "machine/machine.h"

struct domain;
struct guest_info;
struct storage;
struct pod_network;

struct domain_options {
    const struct vmi *vmi;   /* borrowed; outlives the domain */
    struct machine *machine; /* taken */
    const char *dir;         /* the VM's private directory; exists; sockets and logs go there */
    const char *secret_dir;  /* where secrets of access credentials are mounted (NAME-access-cred); NULL: nowhere */
    const char *manifest;    /* the applied spec as JSON text, for the state file; copied; NULL: cannot be adopted */
    enum machine_accel accel;
    const char *accel_reason;      /* for the status; copied */
    struct timeline *timeline;     /* borrowed; outlives the domain */
    struct event_log *events;      /* borrowed; outlives the domain */
    const struct storage *storage; /* borrowed until QEMU is up: its images are those that it opened; NULL: not asked */
    const struct pod_network *network; /* the NICs' other ends; borrowed; outlives the domain; NULL: not in a pod */
    struct guest_info_intervals agent_intervals;
    int balloon_stats_seconds; /* between two reports of the guest's balloon; 0: the default, negative: none */
    /* Below these, and where its command line points, QEMU finds its files, and nowhere else (NULL-terminated,
     * borrowed); NULL: wherever its uid may. */
    const char *const *file_dirs;
    bool start_paused;          /* leave the vCPUs stopped after the start */
    bool die_with_us;           /* QEMU is killed when this process dies: for a VM that nobody can adopt */
    uint64_t console_log_bytes; /* of one file of the console's log; 0: the default */
    uint64_t grace_usec;        /* of the stop that a guest-side power button starts; from the manifest */
};

/* *ret is the caller's. Nothing is started yet. */
int domain_new(sd_event *event, const struct domain_options *options, struct domain **ret, struct error **ret_error);
/* Kills QEMU if it still runs (waits for its end, at most milliseconds), removes sockets, frees everything. */
void domain_free(struct domain *domain);
DEFINE_CLEANUP(struct domain *, domain_free)

/* The answer to an action. */
typedef void (*domain_done_fn)(struct domain *domain, const struct error *error, void *userdata);

/*
 * Opens what QEMU inherits, starts the helpers and QEMU. 0: QEMU was executed; what follows is told by events. The
 * handler is called once when the VM has ended, or could not start: `error` says why it failed (NULL: an end that is no
 * failure; see domain_get_lifecycle() for which).
 */
typedef void (*domain_ended_fn)(struct domain *domain, const struct error *error, void *userdata);
int domain_start(struct domain *domain, domain_ended_fn ended, void *userdata, struct error **ret_error);

/*
 * Instead of domain_start(): takes over the QEMU that a former launcher started. The machine must be the same one
 * (its sockets are). `done` is called when the state of the VM is known. On failure the VM is left as it is.
 */
struct domain_state_file;
int domain_adopt(struct domain *domain, const struct domain_state_file *state, domain_ended_fn ended, void *userdata,
                 domain_done_fn done, void *done_userdata, struct error **ret_error);

int domain_pause(struct domain *domain, domain_done_fn done, void *userdata);
int domain_unpause(struct domain *domain, domain_done_fn done, void *userdata);
int domain_reset(struct domain *domain, domain_done_fn done, void *userdata);
/*
 * Begins an orderly stop: ACPI power button now and every SHUTDOWN_REPEAT_USEC, guest-shutdown by the agent at the same
 * time if it is connected; a paused guest is resumed for it. After grace_usec: quit, then SIGTERM, then SIGKILL. Called
 * again, it can only bring the end nearer. grace_usec 0 kills at once. `why` is for the log ("SIGTERM", "ctrl-C"…).
 */
void domain_shutdown(struct domain *domain, uint64_t grace_usec, const char *why);
void domain_kill(struct domain *domain, const char *why);
/* ACPI button without a deadline; guest-shutdown mode reboot if the agent is connected. */
int domain_soft_reboot(struct domain *domain, domain_done_fn done, void *userdata);

/* Freezes the guest's file systems; thaws them by itself after timeout_usec (0: never). Success at once when they are
 * frozen already or the guest is paused. -ENOTCONN: no agent. */
int domain_freeze(struct domain *domain, uint64_t timeout_usec, domain_done_fn done, void *userdata);
int domain_unfreeze(struct domain *domain, domain_done_fn done, void *userdata);

/* Runs a program in the guest by the agent; see qga_client_exec() for the result. */
int domain_exec(struct domain *domain, const char *path, json_t *arguments, uint64_t timeout_usec, qga_reply_fn done,
                void *userdata, struct error **ret_error);

/* Borrowed, living as long as the domain. */
const struct lifecycle *domain_get_lifecycle(const struct domain *domain);
const struct vmi *domain_get_vmi(const struct domain *domain);
struct event_log *domain_get_events(struct domain *domain);
struct console *domain_get_console(struct domain *domain);  /* NULL: the VM has none, or is not started */
struct qmp_client *domain_get_qmp(struct domain *domain);   /* NULL before the start and after the end */
struct qga_client *domain_get_agent(struct domain *domain); /* NULL unless domain_agent_connected() */
bool domain_agent_connected(const struct domain *domain);
/* What the agent tells of the guest. */
struct guest_info *domain_get_guest_info(struct domain *domain);
/* How it ended, one sentence: "the guest shut down 2.1 s after the power button"; NULL while it lives. */
const char *domain_get_outcome(const struct domain *domain);
/* The end of what QEMU wrote to stderr, to be freed; NULL if nothing. */
char *domain_read_qemu_log(const struct domain *domain);
/* The same of any log. */
char *domain_read_log_end(const char *path);
/* Removes from a VM's directory what is of no use after its end, but for the machine's sockets. Its logs stay. */
void domain_remove_files(const char *dir);
/* KubeVirt's api.Domain as JSON: a new reference. */
json_t *domain_to_json(const struct domain *domain);
/* What KubeVirt has no field for: acceleration and why, pid, sockets, timeline, agent, stop in progress. */
json_t *domain_extra_to_json(const struct domain *domain);
