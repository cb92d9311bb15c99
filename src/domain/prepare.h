/* SPDX-License-Identifier: Apache-2.0 */
/* From a VMI to a machine that can be started: what this host is, which volumes are where, which NIC goes to what. */
#pragma once

#include <vmlet/vmi.h>

#include "base/error.h"
#include "domain/timeline.h"
#include "host/accel.h"
#include "machine/machine.h"
#include "storage/storage.h"
#include "json/faults.h"

/* Of the private directory: the Ignition configuration of the annotation kubevirt.io/ignitiondata, for QEMU to read. */
#define PREPARE_IGNITION_FILE "ignition.json"

enum vm_net {
    VM_NET_NONE,
    VM_NET_USER,  /* QEMU's own NAT; nothing of the host is touched */
    VM_NET_PASST, /* passt(1), by the host's own addresses, for the first interface */
    VM_NET_TAP,   /* the first interfaces are on `taps` */
    VM_NET_POD,   /* the tap devices that netsetup made: tap0… by KubeVirt's names */
};

struct pod_network;

struct prepare_options {
    const struct vmi *vmi;
    const char *dir;  /* the VM's private directory */
    const char *qemu; /* binary, or NULL: the one for the VM's architecture */
    enum accel_wish accel;
    struct storage_options storage;
    enum vm_net net;
    const char *taps;                       /* for VM_NET_TAP: names with commas between */
    const struct pod_network *network;      /* for VM_NET_POD */
    const char *kernel, *initrd, *append;   /* instead of what the manifest says */
    const char *firmware_dir;               /* --ovmf-path, or NULL */
    const char *firmware_log;               /* a fifo for what the firmware says of its work, or NULL */
    const struct accel_result *known_accel; /* of a VM that runs already: nothing is probed */
    bool touch_nothing;                     /* explain: make no image, run no probe of the images */
    struct timeline *timeline;              /* may be NULL */
};

struct prepared {
    struct machine *machine;
    struct storage *storage;
    struct qemu_caps *caps;
    struct accel_result accel;
    enum machine_arch arch;
};

/* Blocks: for start-up only. Faults of the manifest (also what only this host or QEMU cannot do) are all added to
 * `faults` in one run. On failure what it made is removed. */
int vm_prepare(const struct prepare_options *options, struct prepared *ret, struct faults *faults,
               struct error **ret_error);
/* Frees; the images stay (see storage_remove()). */
void prepared_done(struct prepared *prepared);

/* "none", "user", "passt", "tap:NAME[,NAME]…": a link for each of the first interfaces, of which there are so many. */
int vm_net_parse(const char *text, size_t n_interfaces, enum vm_net *ret_net, const char **ret_taps,
                 struct error **ret_error);
/* The architecture that the manifest asks for; -EINVAL with a fault for one that has no machine here. */
int vm_arch(const struct vmi *vmi, enum machine_arch *ret, struct faults *faults);
