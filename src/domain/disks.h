/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disks of a VM that runs: plugged in and out, made larger, media changed. One such action runs at a time, the others
 * wait for it; none touches another disk. What has changed is in the state file, so that a next launcher knows it.
 */
#pragma once

#include "domain/domain.h"
#include "storage/storage.h"

/* A disk that a command names, not a manifest. */
struct disk_request {
    const char *name;
    const char *path; /* raw or qcow2 by its header, or a block device; absolute */
    const char *bus;  /* "virtio" (NULL) or "scsi" */
    const char *serial;
    bool read_only;
};

/* All: 0 and `done` is called later, or a negative errno with *ret_error and it never is. */
int domain_plug_disk(struct domain *domain, const struct disk_request *request, domain_done_fn done, void *userdata,
                     struct error **ret_error);
/* The guest has to let go of it; when it does not in time that is an error, and the disk goes when it does. */
int domain_unplug_disk(struct domain *domain, const char *disk, domain_done_fn done, void *userdata,
                       struct error **ret_error);
/* size 0: as large as the file or device is now. A disk is never made smaller. */
int domain_resize_disk(struct domain *domain, const char *disk, uint64_t size, domain_done_fn done, void *userdata,
                       struct error **ret_error);
/* path NULL: takes the medium out. `force`: also when the guest has locked the tray. */
int domain_change_medium(struct domain *domain, const char *disk, const char *path, bool force, domain_done_fn done,
                         void *userdata, struct error **ret_error);
/*
 * Makes the disks those of a changed manifest, as far as that can be while the VM runs: hotpluggable volumes that came
 * or went, media of CD-ROM drives, volumes that grew. `vmi` is taken, also on failure. `done` gets the first failure;
 * the rest is done all the same.
 */
int domain_update_disks(struct domain *domain, struct vmi *vmi, const struct storage_options *options,
                        domain_done_fn done, void *userdata, struct error **ret_error);
/* [{"name", "target", "bus", "path", "plugged"…}]: a new reference. */
json_t *domain_disks_to_json(const struct domain *domain);
