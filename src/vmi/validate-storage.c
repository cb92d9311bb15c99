/* SPDX-License-Identifier: Apache-2.0 */
/* Disks, file systems and volumes. Rules are those of KubeVirt's admission (1.9) unless a comment says otherwise. */
#include <inttypes.h>

#include "vmi/private.h"

#define MIN_BLOCK_SIZE        512
#define MAX_BLOCK_SIZE        (2 * 1024 * 1024)
#define MAX_CLOUD_INIT_INLINE 2048 /* bytes of user data, and of network data: larger ones belong into a secret */

/* ---- disks ---- */

static const char *device_name(const struct vmi_disk *disk)
{
    return disk->device == VMI_DISK_DEVICE_LUN ? "lun" : disk->device == VMI_DISK_DEVICE_CDROM ? "cdrom" : "disk";
}

static void validate_bus(struct vmi *vmi, const struct vmi_disk *disk, struct faults *faults)
{
    const struct vmi_disk_target *target = disk->target;
    bool arm = streq(vmi->spec.architecture, "arm64");

    if (disk->cdrom && target->bus == VMI_BUS_VIRTIO)
        faults_add_member(faults, target->at, "bus", "virtio has no CD-ROM (must be sata, scsi or usb)");
    else if (arm && (target->bus == VMI_BUS_SATA || target->bus == VMI_BUS_USB))
        faults_add_member(faults, target->at, "bus", "arm64 has no such bus (must be virtio or scsi)");
    if (disk->disk && target->bus == VMI_BUS_SATA && target->readonly == OPT_TRUE)
        faults_add_member(faults, target->at, "readonly",
                          "a sata disk cannot be read-only (use virtio, scsi or cdrom)");
    if (disk->dedicated_io_thread == OPT_TRUE && target->bus != VMI_BUS_VIRTIO)
        faults_add_member(faults, disk->at, "dedicatedIOThread", "only disks on virtio have I/O threads");
    if (target->pci_address && target->bus != VMI_BUS_VIRTIO)
        faults_add_member(faults, target->at, "pciAddress", "only disks on virtio have a PCI address");
    if (opt_int_or(target->rotation_rate, 0) > 0) {
        if (target->bus != VMI_BUS_SATA && target->bus != VMI_BUS_SCSI)
            faults_add_member(faults, target->at, "rotationRate", "only disks on sata and scsi have one");
        else if (target->rotation_rate.value != 1 && target->rotation_rate.value < 1025) /* ATA8-ACS, word 217 */
            faults_add_member(faults, target->at, "rotationRate", "%" PRId64 " must be 1 (an SSD) or 1025 to 65534",
                              target->rotation_rate.value);
    }
    if (disk->shareable == OPT_TRUE && disk->cache != VMI_CACHE_UNSET && disk->cache != VMI_CACHE_NONE)
        faults_add_member(faults, disk->at, "cache", "a shareable disk must have cache: none");
}

static void validate_one_block_size(const struct vmi_custom_block_size *custom, struct faults *faults,
                                    const char *member, const struct opt_int *size)
{
    int64_t value = opt_int_or(*size, 0);

    if (value < MIN_BLOCK_SIZE || value > MAX_BLOCK_SIZE || (value & (value - 1)) != 0)
        faults_add_member(faults, custom->at, member, "%" PRId64 " must be a power of two from %d to %d", value,
                          MIN_BLOCK_SIZE, MAX_BLOCK_SIZE);
}

static void validate_block_size(const struct vmi_disk *disk, struct faults *faults)
{
    const struct vmi_block_size *size = disk->block_size;
    const struct vmi_custom_block_size *custom = size ? size->custom : NULL;
    int64_t logical, physical, discard;

    if (!custom)
        return;
    logical = opt_int_or(custom->logical, 0);
    physical = opt_int_or(custom->physical, 0);
    discard = opt_int_or(custom->discard_granularity, 0);
    if (vmi_feature_on(size->match_volume))
        faults_add(faults, size->at, "custom excludes matchVolume: give only one of them");
    else if (logical > physical)
        faults_add_member(faults, custom->at, "logical", "%" PRId64 " is more than the physical size, %" PRId64,
                          logical, physical);
    else if (disk->target->bus == VMI_BUS_SATA && logical != MIN_BLOCK_SIZE)
        faults_add_member(faults, custom->at, "logical", "%" PRId64 " must be %d on sata", logical, MIN_BLOCK_SIZE);
    else if (logical > 0 && discard % logical != 0)
        faults_add_member(faults, custom->at, "discardGranularity",
                          "%" PRId64 " is not a multiple of the logical size, %" PRId64, discard, logical);
    else {
        validate_one_block_size(custom, faults, "logical", &custom->logical);
        validate_one_block_size(custom, faults, "physical", &custom->physical);
    }
}

static void validate_disk_volume(const struct vmi_disk *disk, struct faults *faults)
{
    const struct vmi_volume *v = disk->volume;

    if (!v) {
        if (disk->name && disk->device != VMI_DISK_DEVICE_CDROM)
            faults_add_member(faults, disk->at, disk->volume_name == disk->name ? "name" : "volumeName",
                              "there is no volume named \"%.64s\"", disk->volume_name);
        return;
    }
    if (v->kind == VMI_VOLUME_UNSET)
        return;
    if (disk->lun && v->kind != VMI_VOLUME_PVC && v->kind != VMI_VOLUME_DATA_VOLUME)
        faults_add(faults, disk->lun->at, "the volume is of kind %s (must be persistentVolumeClaim or dataVolume)",
                   vmi_volume_kind_name(v->kind));
    if (v->kind == VMI_VOLUME_DOWNWARD_METRICS && (!disk->disk || disk->disk->bus != VMI_BUS_VIRTIO))
        faults_add(faults, disk->target->at ?: disk->at, "a downwardMetrics volume must be a disk on virtio");
    if (v->kind == VMI_VOLUME_CONTAINER_PATH)
        faults_add_member(faults, disk->at, "name", "a containerPath volume is for filesystems, not for a disk");
}

static void validate_disks(struct vmi *vmi, struct faults *faults)
{
    const struct vmi_devices *devices = &vmi->spec.domain.devices;
    struct named *names = arena_new_array(vmi->arena, struct named, devices->disks.count + 1);

    for (size_t i = 0; i < devices->disks.count && names; i++) {
        const struct vmi_disk *disk = &devices->disks.items[i];

        names[i] = (struct named){disk->at, disk->name};
        if ((disk->disk != NULL) + (disk->lun != NULL) + (disk->cdrom != NULL) > 1)
            faults_add(faults, disk->at, "must have only one of disk, lun and cdrom (it counts as %s)",
                       device_name(disk));
        validate_disk_volume(disk, faults);
        validate_bus(vmi, disk, faults);
        validate_block_size(disk, faults);
    }
    if (names)
        validate_unique(vmi, faults, names, devices->disks.count, "disk");
}

/* ---- file systems ---- */

static void validate_filesystems(struct vmi *vmi, struct faults *faults)
{
    const struct vmi_devices *devices = &vmi->spec.domain.devices;
    struct named *names = arena_new_array(vmi->arena, struct named, devices->filesystems.count + 1);

    for (size_t i = 0; i < devices->filesystems.count && names; i++) {
        const struct vmi_filesystem *fs = &devices->filesystems.items[i];

        names[i] = (struct named){fs->at, fs->name};
        if (!fs->volume && fs->name)
            faults_add_member(faults, fs->at, "name", "there is no volume named \"%.64s\"", fs->name);
    }
    if (names)
        validate_unique(vmi, faults, names, devices->filesystems.count, "file system");
}

/* ---- volumes ---- */

/* The length of what base64 text decodes to; line ends are skipped. */
static size_t base64_length(const char *text)
{
    size_t n = 0;

    for (; text && *text && *text != '='; text++)
        n += *text != '\n' && *text != '\r';
    return n * 3 / 4;
}

static void validate_data(const struct vmi_cloud_init *ci, struct faults *faults, const char *what, const char *secret,
                          const char *base64, const char *text)
{
    int sources = (secret != NULL) + (base64 != NULL) + (text != NULL);
    size_t length = text ? strlen(text) : base64_length(base64);

    if (sources > 1)
        faults_add(faults, ci->at, "must have only one source of %s data (secret, base64 or text)", what);
    else if (length > MAX_CLOUD_INIT_INLINE)
        faults_add(faults, ci->at, "%s data of %zu bytes is too long (at most %d; larger data goes into a secret)",
                   what, length, MAX_CLOUD_INIT_INLINE);
}

static void validate_cloud_init(const struct vmi_cloud_init *ci, struct faults *faults)
{
    const char *secret, *network_secret;

    if (!ci)
        return;
    secret = ci->secret_ref ? ci->secret_ref->name : NULL;
    network_secret = ci->network_data_secret_ref ? ci->network_data_secret_ref->name : NULL;
    validate_data(ci, faults, "user", secret, ci->user_data_base64, ci->user_data);
    validate_data(ci, faults, "network", network_secret, ci->network_data_base64, ci->network_data);
    if (node_get(ci->at, "userDataSecretRef")) /* the API's name differs from its other half's; that fault is enough */
        return;
    if (!secret && !ci->user_data_base64 && !ci->user_data && !network_secret && !ci->network_data_base64 &&
        !ci->network_data && !node_get(ci->at, "userDataBase64") && !node_get(ci->at, "networkDataBase64"))
        faults_add(faults, ci->at,
                   "has no data (userData, userDataBase64, secretRef, networkData, networkDataBase64 or "
                   "networkDataSecretRef)");
}

static void need_name(struct faults *faults, const struct vmi_config_volume *v, const char *member)
{
    if (v && !v->name && (!node_get(v->at, member) || node_get(v->at, member)->kind == NODE_NULL))
        faults_add_member(faults, v->at, member, "is missing");
}

/* A volume descriptor of ISO 9660 has 32 bytes for it; xorriso, which KubeVirt calls, refuses longer ones, too. */
static void validate_label(struct faults *faults, const struct vmi_config_volume *v)
{
    size_t length = v && v->volume_label ? strlen(v->volume_label) : 0;

    for (size_t i = 0; i < length; i++)
        if (length > 32 || v->volume_label[i] < ' ' || v->volume_label[i] > '~') {
            faults_add_member(faults, v->at, "volumeLabel", "must have at most 32 letters, all of ASCII");
            return;
        }
}

static void validate_volume(const struct vmi_volume *v, struct faults *faults)
{
    unsigned sources = 0;

    NODE_FOREACH(child, v->at)
    {
        if (!streq(child->key, "name") && child->kind != NODE_NULL)
            sources++;
    }
    if (sources == 0)
        faults_add(faults, v->at, "has no source (containerDisk, persistentVolumeClaim, cloudInitNoCloud…)");
    else if (sources > 1)
        faults_add(faults, v->at, "must have exactly one source");
    validate_cloud_init(v->cloud_init_no_cloud, faults);
    validate_cloud_init(v->cloud_init_config_drive, faults);
    validate_label(faults, v->config_map);
    validate_label(faults, v->secret);
    validate_label(faults, v->downward_api);
    need_name(faults, v->config_map, "name");
    need_name(faults, v->secret, "secretName");
    need_name(faults, v->service_account, "serviceAccountName");
    if (v->sysprep && !v->sysprep->secret == !v->sysprep->config_map)
        faults_add(faults, v->sysprep->at, "must have exactly one of secret and configMap");
    if (v->host_disk && v->host_disk->capacity.is_set && streq_ptr(v->host_disk->type, "Disk"))
        faults_add_member(faults, v->host_disk->at, "capacity", "is for type DiskOrCreate only");
    if (v->container_disk)
        validate_image_path(faults, v->container_disk->at, "path", v->container_disk->path);
}

static void validate_volumes(struct vmi *vmi, struct faults *faults)
{
    static const enum vmi_volume_kind single[] = {VMI_VOLUME_SERVICE_ACCOUNT, VMI_VOLUME_DOWNWARD_METRICS,
                                                  VMI_VOLUME_MEMORY_DUMP};
    size_t n = vmi->spec.volumes.count;
    struct named *names = arena_new_array(vmi->arena, struct named, n + 1);

    for (size_t i = 0; i < n && names; i++) {
        const struct vmi_volume *v = &vmi->spec.volumes.items[i];

        names[i] = (struct named){v->at, v->name};
        if (v->at && v->at->kind == NODE_MAPPING)
            validate_volume(v, faults);
    }
    if (names)
        validate_unique(vmi, faults, names, n, "volume");
    for (size_t k = 0; k < ELEMENTSOF(single); k++) {
        size_t count = 0;

        for (size_t i = 0; i < n; i++)
            if (vmi->spec.volumes.items[i].kind == single[k] && ++count == 2)
                faults_add(faults, vmi->spec.volumes.items[i].at, "is a second %s volume (at most one)",
                           vmi_volume_kind_name(single[k]));
    }
}

/* ---- access credentials ---- */

static void validate_credentials(struct vmi *vmi, struct faults *faults)
{
    bool no_cloud = false, config_drive = false;

    for (size_t i = 0; i < vmi->spec.volumes.count; i++) {
        no_cloud |= vmi->spec.volumes.items[i].cloud_init_no_cloud != NULL;
        config_drive |= vmi->spec.volumes.items[i].cloud_init_config_drive != NULL;
    }
    for (size_t i = 0; i < vmi->spec.access_credentials.count; i++) {
        const struct vmi_access_credential *c = &vmi->spec.access_credentials.items[i];

        if (c->no_cloud && !no_cloud)
            faults_add(faults, c->at, "the method noCloud needs a cloudInitNoCloud volume");
        if (c->config_drive && !config_drive)
            faults_add(faults, c->at, "the method configDrive needs a cloudInitConfigDrive volume");
    }
}

void validate_storage(struct vmi *vmi, struct faults *faults)
{
    validate_disks(vmi, faults);
    validate_filesystems(vmi, faults);
    validate_volumes(vmi, faults);
    validate_credentials(vmi, faults);
}
