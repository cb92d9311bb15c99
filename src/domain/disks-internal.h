/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of disks*.c. */
#pragma once

#include "domain/disks.h"
#include "domain/domain-internal.h"

enum disk_op_kind {
    DISK_OP_PLUG,
    DISK_OP_UNPLUG,
    DISK_OP_RESIZE,
    DISK_OP_MEDIUM,
};

/* Where a disk comes from: a manifest, which several actions share, or a command. */
struct disk_source {
    unsigned refs;
    struct vmi *vmi;         /* NULL: not from a manifest */
    struct storage *storage; /* has the volumes */
    struct vmi_disk own;     /* of a command */
    struct vmi_disk_target own_target;
    char *name, *serial;
};

struct disk_op {
    struct domain *domain;
    enum disk_op_kind kind;
    char *name;
    struct disk_source *source;  /* NULL: nothing is put in */
    const struct vmi_disk *disk; /* in the source */
    bool by_hand, force;
    bool is_gone; /* an unplug whose device is not there any more */
    uint64_t size;
    struct storage_examination *examination;
    sd_event_source *io, *timer;
    struct machine_plug plug;
    domain_done_fn done;
    void *userdata;
    struct disk_op *next;
};

void disk_source_unref(struct disk_source *source);
/* NULL: out of memory. Takes a reference to the source. */
struct disk_op *disk_op_new(struct domain *domain, enum disk_op_kind kind, const char *name, struct disk_source *source,
                            const struct vmi_disk *disk, domain_done_fn done, void *userdata);
int disk_op_queue(struct disk_op *op);
/* The size of the file or device of a disk that grows with it; 0: it does not. */
uint64_t disk_size_wanted(const struct machine_disk *disk);
