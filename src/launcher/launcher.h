/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of virt-launcher: serves commands, brings up the one VM that it is given, and ends when the VM has ended.
 */
#pragma once

#include "base/error.h"
#include "base/event.h"
#include "domain/guest-info.h"
#include "domain/timeline.h"
#include "host/accel.h"

struct launcher;

/* KubeVirt's flags (compat §5.2) that have an effect here. Strings are borrowed. */
struct launcher_options {
    const char *name, *namespace_, *uid;
    const char *share_dir;   /* /var/run/kubevirt: sockets/launcher-sock is below it */
    const char *private_dir; /* /var/run/kubevirt-private */
    const char *ephemeral_disk_dir, *container_disk_dir, *hotplug_disk_dir, *empty_disk_dir;
    const char *ovmf_path; /* NULL: look where distributions have it */
    const char *qemu;      /* binary; NULL: the one for the VM's architecture */
    enum accel_wish accel;
    uint64_t qemu_timeout_usec; /* from the start until there is a VM; then the launcher gives up */
    uint64_t grace_usec;        /* of the stop that SIGTERM begins */
    uint64_t console_log_bytes; /* of one file of the console's log; 0: the default */
    struct guest_info_intervals agent_intervals;
    bool allow_qmp_writes;
    bool log_firmware; /* what the firmware says on its debug port goes to the log */
};

/* Makes the directories and serves launcher-init-sock, renamed to launcher-sock as the last step: ready. */
int launcher_new(sd_event *event, const struct launcher_options *options, struct timeline *timeline,
                 struct launcher **ret, struct error **ret_error);
void launcher_free(struct launcher *launcher);
DEFINE_CLEANUP(struct launcher *, launcher_free)

/* Starts the VM of this manifest (YAML or JSON) as SyncVirtualMachine does: env STANDALONE_VMI. */
int launcher_sync_text(struct launcher *launcher, const char *text, const char *source, struct error **ret_error);
/* SIGTERM: the orderly stop; without a VM the loop ends at once. */
void launcher_stop(struct launcher *launcher, const char *why);
/* SIGHUP: becomes the program that is now installed (an upgrade), which takes the VM over. Returns only on failure. */
void launcher_reexec(struct launcher *launcher, char **argv);
/* After the loop has ended. */
int launcher_exit_code(const struct launcher *launcher);
