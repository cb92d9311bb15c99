/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of struct domain, for the files of this folder only. */
#pragma once

#include <sys/types.h>

#include "base/limits.h"
#include "domain/console-log.h"
#include "domain/domain.h"
#include "domain/firmware-log.h"
#include "domain/guest-info.h"

#define HELPERS_MAX 16U

struct helper {
    pid_t pid;
    int pidfd;
    sd_event_source *source;
};

/* The orderly stop (shutdown.c). */
enum stop_phase {
    STOP_NONE,
    STOP_ASKED, /* button pressed, waiting for the guest */
    STOP_QUIT,  /* `quit` sent */
    STOP_TERM,  /* SIGTERM sent */
    STOP_KILL,  /* SIGKILL sent */
};

struct stop {
    enum stop_phase phase;
    uint64_t asked_at, deadline; /* CLOCK_MONOTONIC; deadline UINT64_MAX: none */
    uint64_t due;                /* CLOCK_MONOTONIC: what the timer is set to */
    uint64_t wall_asked_at;      /* CLOCK_REALTIME, for people */
    unsigned presses;
    bool agent_asked;
    char *why;
    sd_event_source *timer; /* the next press, or the deadline */
};

struct domain {
    sd_event *event;
    const struct vmi *vmi;
    struct machine *machine;
    const struct pod_network *network;
    char *dir, *accel_reason, *manifest;
    enum machine_accel accel;
    struct timeline *timeline;
    const char *const *file_dirs;
    const struct storage *storage; /* until QEMU has opened its images */
    bool start_paused, die_with_us;
    uint64_t grace_usec;

    struct lifecycle lifecycle;
    uint64_t since_wall;         /* of the present state */
    sd_event_source *save_timer; /* writes the state file behind a pause that was asked for */
    unsigned n_stops;            /* `stop`s that wait for QEMU's answer */
    bool pause_untold;           /* the guest is paused, and the events do not say so yet */
    bool state_failing;          /* the last write of the state file failed, and that was said */
    struct event_log *events;

    pid_t pid;
    int pidfd;
    uint64_t start_ticks;
    sd_event_source *exit_source, *ended_source;
    struct helper helpers[HELPERS_MAX];
    size_t n_helpers;
    char **sockets;                    /* paths to unlink at the end */
    int listeners[QEMU_LISTENERS_MAX]; /* copies of what QEMU listens on, until it has greeted */
    size_t n_listeners;

    struct qmp_client *qmp;
    sd_event_source *reconnect_timer;
    struct qga_client *agent;
    struct console *console;
    struct console_log *console_log; /* NULL: the console is not logged */
    uint64_t console_log_bytes;
    struct firmware_log *firmware_log; /* NULL: nobody wants to know */
    bool adopted;                      /* started by a former launcher */
    bool agent_open;                   /* the guest holds its end of the channel open */
    bool agent_connected;              /* and the agent has answered */
    char *agent_version;
    struct guest_info *guest_info;
    sd_event_source *thaw_timer, *clock_timer;
    uint64_t thaw_deadline;    /* CLOCK_MONOTONIC; 0: not frozen, or without a limit */
    uint64_t clock_give_up;    /* until when the guest's clock is tried to be set */
    char *pause_volume;        /* the volume whose I/O error paused the guest */
    char *pause_error;         /* errno's text */
    sd_event_source *io_timer; /* resumes it */
    unsigned io_retries;
    uint64_t io_next_wall;  /* CLOCK_REALTIME; 0: none is planned */
    uint64_t io_resumed_at; /* CLOCK_MONOTONIC; 0: never */
    unsigned panic_count;
    json_t *panic_info;
    struct stats *stats;
    int balloon_stats_seconds; /* negative: no reports */
    struct credentials *credentials;
    sd_event_source *metrics_timer;          /* of the volume downwardMetrics; NULL: there is none */
    struct metrics_channel *metrics_channel; /* of devices.downwardMetrics; NULL: there is none */
    json_t *memory_dump;                     /* KubeVirt's metadata of the last one; NULL: none */
    json_t *dump_result;                     /* see domain_dump_resumed() */

    struct disk_op *disk_ops; /* the first one runs (disks.c) */
    sd_event_source *disk_source;
    unsigned plug_serial;
    struct block_job *block_job; /* a backup or mirror under way (blockjobs.c) */
    json_t *half_plugged;        /* {"id", "nodes"}: what a plug that is under way may have made; NULL: none */
    bool is_clearing_half;       /* it is a former launcher's, and is being taken away: no action begins before */
    bool disks_changed;          /* since the start: they are in the state file */

    struct stop stop;
    char *outcome;
    struct error *failure;
    domain_done_fn adopted_done;
    void *adopted_userdata;
    domain_ended_fn ended;
    void *ended_userdata;
};

/* downward-metrics.c: writes the disk of a volume downwardMetrics, if there is one, now and from now on. */
void domain_refresh_metrics_disk(struct domain *d);
/* The channel of devices.downwardMetrics, if the machine has one; an older connection is given up. */
int domain_connect_metrics_channel(struct domain *d, struct error **ret_error);
/* A program of the guest has opened or closed it. */
void domain_metrics_port(struct domain *d, bool open);
/* spawn.c: opens the fds, starts helpers and QEMU, connects monitor, agent and console. */
int domain_spawn(struct domain *d, struct error **ret_error);
/* Connects to monitor, agent and console of a QEMU that listens (or will). */
int domain_connect(struct domain *d, struct error **ret_error);
/* A new connection to the monitor in place of the one that was lost. */
int domain_connect_monitor(struct domain *d, struct error **ret_error);
/* Our end of one of QEMU's sockets; *ret_fd stays as it is when the machine has none of that role. */
int domain_connect_role(struct domain *d, const char *role, int *ret_fd, struct error **ret_error);
/* QEMU has greeted. Its chardevs listen anew on what they are given, with a queue of one (socket_listen() of QEMU's
 * util/qemu-sockets.c): launchers that are killed while it hangs would fill that. */
void domain_lengthen_backlogs(struct domain *d);
void domain_stop_helpers(struct domain *d);
/* Adds the console's fifos to what is removed at the end. */
int domain_list_fifos(struct domain *d);
/* qmp-events.c */
void domain_on_qmp_event(struct qmp_client *client, const char *name, json_t *data, uint64_t timestamp_usec,
                         void *userdata);
/* shutdown.c */
void stop_done(struct stop *stop);
/* Goes on with a stop that a former launcher began: pressed at `asked`, forced at `deadline` (0: never). */
void domain_take_up_stop(struct domain *d, uint64_t wall_asked, uint64_t asked, uint64_t deadline);
/* freeze.c: goes on with a freeze that a former launcher began. */
void domain_take_up_freeze(struct domain *d, uint64_t deadline);
/* Thaws a guest that is frozen; the agent does what it is asked next afterwards. */
void domain_thaw_for_stop(struct domain *d);
/* domain.c */
void domain_watch_monitor(struct domain *d);
int domain_watch(struct domain *d, domain_ended_fn ended, void *userdata, struct error **ret_error);
/* Lets a guest that has never run begin, unless it is to start paused. */
int domain_first_cont(struct domain *d);
void domain_state_changed(struct domain *d);
void domain_fail(struct domain *d, struct error *error); /* takes the error; the first one counts */
/* adopt.c: a QEMU whose monitor was lost, and that lives, is connected to again. */
void domain_monitor_lost(struct domain *d);
/* agent.c */
void domain_agent_channel(struct domain *d, bool open);
/* The guest was stopped for a while: its clock is set by the agent, tried for a minute. */
void domain_set_guest_clock(struct domain *d);
void domain_guest_info_changed(struct guest_info *info, const char *command, void *userdata);
/* dump.c */
bool domain_is_dumping(const struct domain *d);
/* The vCPUs run again, which QEMU lets them behind DUMP_COMPLETED: only now the dump is told to be over, so that who
 * waits for it finds a guest that runs. */
void domain_dump_resumed(struct domain *d);
int domain_dump_memory(struct domain *d, const char *path, struct error **ret_error);
void domain_on_dump_completed(struct domain *d, json_t *data);
void domain_take_up_dump(struct domain *d, json_t *state);
/* io-error.c: what failed; the guest stopped; it runs again. */
void domain_note_io_error(struct domain *d, const char *volume, size_t length, const char *why);
void domain_io_error_stopped(struct domain *d);
void domain_io_error_over(struct domain *d);
/* disks.c, disks-update.c */
void domain_on_disk_deleted(struct domain *d, const char *id);
void domain_drop_disk_ops(struct domain *d);
void domain_take_up_disks(struct domain *d, const json_t *list);
/* Takes away what a plug left that a former launcher did not live to finish. */
void domain_clear_half_plugged(struct domain *d, json_t *half);
/* blockjobs.c */
void domain_on_job_event(struct domain *d, const char *id, const char *status);
void domain_drop_block_job(struct domain *d);
void domain_take_up_block_job(struct domain *d, const json_t *state);
/* describe.c: VMI.status.interfaces, a new reference. */
json_t *domain_interfaces_to_json(const struct domain *d);
/* credentials.c: SSH keys and passwords of the manifest's secrets. All take NULL: there are none for the agent. */
int credentials_new(struct domain *d, const char *secret_dir, struct credentials **ret);
/* The agent answers, or the guest runs again: what is not in the guest yet is brought there. */
void credentials_start(struct credentials *c);
/* Before the agent's channel is reset or closed. */
void credentials_stop(struct credentials *c);
json_t *credentials_get_result(const struct credentials *c); /* borrowed, or NULL */
json_t *credentials_to_state(const struct credentials *c);
void credentials_take_up(struct credentials *c, const json_t *state);
void credentials_free(struct credentials *c);
/* statefile.c */
int domain_write_state(const struct domain *d, struct error **ret_error);
/* The same; a failure is logged, once until it works again. */
void domain_save_state(struct domain *d);
