/* SPDX-License-Identifier: Apache-2.0 */
#include "vmi/private.h"

void validate_devices(struct vmi *vmi, struct faults *faults)
{
    const struct vmi_domain *domain = &vmi->spec.domain;

    if (!domain->memory.guest.is_set && domain->at)
        faults_add_member(faults, domain->at, "memory",
                          "no memory is asked for (give memory.guest, resources.requests.memory or "
                          "resources.limits.memory)");
}
