/* SPDX-License-Identifier: Apache-2.0 */
#include "vmi/private.h"

void validate_storage(struct vmi *vmi, struct faults *faults)
{
    const struct vmi_devices *devices = &vmi->spec.domain.devices;
    struct named *names = arena_new_array(vmi->arena, struct named, devices->disks.count + 1);

    for (size_t i = 0; i < devices->disks.count && names; i++) {
        const struct vmi_disk *disk = &devices->disks.items[i];

        names[i] = (struct named){disk->at, disk->name};
        if (!disk->volume && disk->name && disk->device != VMI_DISK_DEVICE_CDROM)
            faults_add_member(faults, disk->at, "name", "there is no volume named \"%.64s\"", disk->name);
    }
    if (names)
        validate_unique(vmi, faults, names, devices->disks.count, "disk");
}
