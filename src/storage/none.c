/* SPDX-License-Identifier: Apache-2.0 */
/* Until the volumes are built: a VM without volumes has nothing to prepare, and every other is refused by its path. */
#include "storage/storage.h"

const struct storage_paths storage_pod_paths = {
    .private_dir = "/var/run/kubevirt-private",
    .ephemeral_disk_dir = "/var/run/kubevirt-ephemeral-disks",
    .container_disk_dir = "/var/run/kubevirt/container-disks",
    .hotplug_disk_dir = "/var/run/kubevirt/hotplug-disks",
    .empty_disk_dir = "/var/run/libvirt/empty-disks",
    .service_account_dir = "/var/run/secrets/kubernetes.io/serviceaccount",
    .device_dir = "/dev",
};

struct storage {
    char unused;
};

int storage_plan(const struct vmi *vmi, const struct storage_options *options, struct storage **ret,
                 struct faults *faults, struct error **ret_error)
{
    if (vmi->spec.volumes.count > 0) {
        faults_add(faults, vmi->spec.volumes.items[0].at, "volumes are not built yet");
        return error_set(ret_error, ERROR_BAD_MANIFEST, EINVAL, "the manifest has volumes");
    }
    *ret = calloc(1, sizeof(struct storage));
    return *ret ? 0 : error_oom(ret_error);
}

int storage_prepare(struct storage *storage, struct error **ret_error)
{
    return 0;
}

void storage_remove(struct storage *storage)
{
}

void storage_free(struct storage *storage)
{
    free(storage);
}

const struct storage_volume *storage_get_volumes(const struct storage *storage, size_t *ret_count)
{
    *ret_count = 0;
    return NULL;
}
