/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For `vmlet explain`: a pod and a host in which the manifest's VM could run, made up where this one has no part in it,
 * so that a manifest is explained anywhere. Each thing that was made up is told in a note.
 */
#pragma once

#include <jansson.h>

#include "base/arena.h"
#include "machine/machine.h"
#include "netsetup/plan.h"
#include "storage/storage.h"

struct hypothesis {
    struct arena *arena;
    struct storage *storage;
    struct net_observed *observed;
    struct net_plan *plan;    /* NULL when the network cannot be planned: a note says why */
    struct qemu_caps *caps;   /* owned, when QEMU was asked */
    struct qemu_caps made_up; /* caps point here otherwise */
    char **firmware;
    char **notes;
    struct machine_facts facts;
};

struct hypothesis_options {
    const char *qemu;      /* binary, or NULL */
    unsigned qemu_version; /* as struct qemu_caps has it; 0: ask the binary */
    enum machine_arch arch;
    enum machine_accel accel;
};

/* Faults of the volumes are added to `faults` (-EINVAL then). *ret needs hypothesis_done() also on failure. */
int hypothesis_make(const struct vmi *vmi, const struct hypothesis_options *options, struct hypothesis *ret,
                    struct faults *faults, struct error **ret_error);
void hypothesis_done(struct hypothesis *hypothesis);
