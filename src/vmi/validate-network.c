/* SPDX-License-Identifier: Apache-2.0 */
#include "vmi/private.h"

void validate_network(struct vmi *vmi, struct faults *faults)
{
    const struct vmi_devices *devices = &vmi->spec.domain.devices;

    for (size_t i = 0; i < devices->interfaces.count; i++) {
        const struct vmi_interface *interface = &devices->interfaces.items[i];

        if (!interface->network && interface->name)
            faults_add_member(faults, interface->at, "name", "there is no network named \"%.64s\"", interface->name);
    }
}
