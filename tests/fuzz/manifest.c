/* SPDX-License-Identifier: Apache-2.0 */
/* The whole way from text to VMI. Either it loads, or there is a fault; what loads holds together. */
#include <stdlib.h>

#include <vmlet/vmi.h>

#include "base/util.h"
#include "json/faults.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct vmi_load_options options = {.default_uuid_seed = "fuzz"};
    struct faults faults = {0};
    struct vmi *vmi = NULL;
    int r = vmi_load_text((const char *)data, size, "fuzz", &options, &vmi, &faults, NULL);
    char *text = faults_format(&faults);

    if ((r < 0) != (faults.count > 0) || (r < 0) != (vmi == NULL) || !text)
        abort();
    if (vmi) {
        const struct vmi_devices *d = &vmi->spec.domain.devices;

        if (!vmi->name || !vmi->spec.domain.firmware.uuid || !vmi->spec.domain.memory.guest.is_set ||
            vmi_vcpus(vmi) < 1)
            abort();
        for (size_t i = 0; i < d->disks.count; i++)
            if (!d->disks.items[i].name || !d->disks.items[i].target ||
                (!d->disks.items[i].volume && !d->disks.items[i].cdrom))
                abort();
        for (size_t i = 0; i < d->interfaces.count; i++)
            if (!d->interfaces.items[i].network)
                abort();
        for (size_t i = 0; i < vmi->spec.volumes.count; i++)
            if (!vmi->spec.volumes.items[i].name || vmi->spec.volumes.items[i].kind == VMI_VOLUME_UNSET)
                abort();
    }
    free(text);
    faults_done(&faults);
    vmi_free(vmi);
    return 0;
}
