/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies of disks while the guest writes to them. A backup holds what the disks held at one moment, the same for all of
 * them; a mirror follows the disk until the guest is moved over to it. One such job at a time; it survives its
 * launcher.
 */
#pragma once

#include "domain/domain.h"

#define BLOCK_JOB_DISKS_MAX 16U

enum block_job_kind {
    BLOCK_JOB_BACKUP,
    BLOCK_JOB_MIRROR,
};

struct block_job_disk {
    const char *disk;
    const char *target; /* absolute path of a file that is not there yet */
    const char *base;   /* incremental: the backup that this one stands on; it becomes the qcow2's backing file */
};

struct block_job_request {
    enum block_job_kind kind;
    const struct block_job_disk *disks;
    size_t n_disks;
    bool raw;                  /* the target's format; false: qcow2 */
    bool incremental;          /* what changed since `checkpoint`, which moves up to this backup when it succeeds */
    const char *checkpoint;    /* name of a dirty bitmap; with a full backup it is begun. NULL: none */
    uint64_t bytes_per_second; /* 0: no limit */
    bool freeze;               /* the guest's file systems, for the moment that the copy shows */
};

/* `done` is called when the job runs, or could not be begun. How it goes on is told by the events BlockJobReady,
 * BlockJobCompleted and BlockJobFailed of type Device; after a failure there is no target. */
int domain_start_block_job(struct domain *domain, const struct block_job_request *request, domain_done_fn done,
                           void *userdata, struct error **ret_error);
/* A mirror that is ready: the guest goes on with the copy, and the old image is closed. */
int domain_complete_block_job(struct domain *domain, domain_done_fn done, void *userdata, struct error **ret_error);
/* Gives up, and removes the targets. */
int domain_cancel_block_job(struct domain *domain, domain_done_fn done, void *userdata, struct error **ret_error);
/* What runs, null when nothing does: {"kind", "state", "disks": […], "started"}. A new reference. */
json_t *domain_block_job_to_json(const struct domain *domain);
/* {"jobs"} of QEMU with their progress go to the callback of the caller: query-jobs by the monitor. */
