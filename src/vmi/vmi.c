/* SPDX-License-Identifier: Apache-2.0 */
/* Questions that others ask a VMI. */
#include <vmlet/vmi.h>

#include "base/util.h"

static const char *find_pair(const struct vmi_pair *items, size_t count, const char *key)
{
    for (size_t i = 0; i < count; i++)
        if (streq(items[i].key, key))
            return items[i].value;
    return NULL;
}

const char *vmi_annotation(const struct vmi *vmi, const char *key)
{
    return find_pair(vmi->annotations.items, vmi->annotations.count, key);
}

const char *vmi_label(const struct vmi *vmi, const char *key)
{
    return find_pair(vmi->labels.items, vmi->labels.count, key);
}

static unsigned vcpus(const struct vmi_cpu *cpu, int64_t sockets)
{
    int64_t n = opt_int_or(cpu->cores, 1) * opt_int_or(cpu->threads, 1) * sockets;

    return n > 0 && n <= INT32_MAX ? (unsigned)n : 1;
}

unsigned vmi_vcpus(const struct vmi *vmi)
{
    return vcpus(&vmi->spec.domain.cpu, opt_int_or(vmi->spec.domain.cpu.sockets, 1));
}

unsigned vmi_max_vcpus(const struct vmi *vmi)
{
    const struct vmi_cpu *cpu = &vmi->spec.domain.cpu;

    return vcpus(cpu, opt_int_or(cpu->max_sockets, opt_int_or(cpu->sockets, 1)));
}

const struct vmi_volume *vmi_find_volume(const struct vmi *vmi, const char *name)
{
    for (size_t i = 0; i < vmi->spec.volumes.count; i++)
        if (streq_ptr(vmi->spec.volumes.items[i].name, name))
            return &vmi->spec.volumes.items[i];
    return NULL;
}

const struct vmi_pvc *vmi_volume_claim(const struct vmi_volume *volume)
{
    return volume->kind == VMI_VOLUME_PVC           ? volume->persistent_volume_claim
           : volume->kind == VMI_VOLUME_DATA_VOLUME ? volume->data_volume
                                                    : NULL;
}

const char *vmi_volume_kind_name(enum vmi_volume_kind kind)
{
    static const char *const names[] = {
        [VMI_VOLUME_UNSET] = "none",
        [VMI_VOLUME_HOST_DISK] = "hostDisk",
        [VMI_VOLUME_PVC] = "persistentVolumeClaim",
        [VMI_VOLUME_CLOUD_INIT_NO_CLOUD] = "cloudInitNoCloud",
        [VMI_VOLUME_CLOUD_INIT_CONFIG_DRIVE] = "cloudInitConfigDrive",
        [VMI_VOLUME_SYSPREP] = "sysprep",
        [VMI_VOLUME_CONTAINER_DISK] = "containerDisk",
        [VMI_VOLUME_EPHEMERAL] = "ephemeral",
        [VMI_VOLUME_EMPTY_DISK] = "emptyDisk",
        [VMI_VOLUME_DATA_VOLUME] = "dataVolume",
        [VMI_VOLUME_CONFIG_MAP] = "configMap",
        [VMI_VOLUME_SECRET] = "secret",
        [VMI_VOLUME_DOWNWARD_API] = "downwardAPI",
        [VMI_VOLUME_SERVICE_ACCOUNT] = "serviceAccount",
        [VMI_VOLUME_DOWNWARD_METRICS] = "downwardMetrics",
        [VMI_VOLUME_MEMORY_DUMP] = "memoryDump",
        [VMI_VOLUME_CONTAINER_PATH] = "containerPath",
    };

    return (size_t)kind < ELEMENTSOF(names) ? names[kind] : "none";
}
