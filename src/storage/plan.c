/* SPDX-License-Identifier: Apache-2.0 */
/* Where each volume's image is and what is to be made: compat §4.1. Looks only at the paths that the user gave. */
#include <stdarg.h>
#include <sys/stat.h>

#include "base/limits.h"
#include "storage/private.h"
#include "json/quantity.h"

#define MIB              (1024ULL * 1024)
#define EMPTY_DISK_ALIGN (1024U * 1024)

const struct storage_paths storage_pod_paths = {
    .private_dir = "/var/run/kubevirt-private",
    .ephemeral_disk_dir = "/var/run/kubevirt-ephemeral-disks",
    .container_disk_dir = "/var/run/kubevirt/container-disks",
    .hotplug_disk_dir = "/var/run/kubevirt/hotplug-disks",
    .empty_disk_dir = "/var/run/libvirt/empty-disks",
    .service_account_dir = "/var/run/secrets/kubernetes.io/serviceaccount",
    .device_dir = "/dev",
};

struct planner {
    struct storage *storage;
    struct faults *faults;
    bool *used; /* overrides */
    bool oom;
};

_printf_(2, 3) static char *text(struct planner *p, const char *format, ...)
{
    va_list ap;
    char *t;

    va_start(ap, format);
    t = arena_vprintf(p->storage->arena, format, ap);
    va_end(ap);
    if (!t)
        p->oom = true;
    return t;
}

/* ---- --disk VOLUME=PATH ---------------------------------------------------------------------------------------- */

static const char *override_for(struct planner *p, const char *name)
{
    const struct storage_options *o = &p->storage->options;

    for (size_t i = 0; i < o->n_overrides; i++)
        if (streq(o->overrides[i].volume, name)) {
            for (size_t k = i; k < o->n_overrides; k++) /* one that is given twice is told about as that */
                p->used[k] = p->used[k] || streq(o->overrides[k].volume, name);
            return text(p, "%s", o->overrides[i].path);
        }
    return NULL;
}

static void check_overrides(struct planner *p)
{
    const struct storage_options *o = &p->storage->options;

    for (size_t i = 0; i < o->n_overrides; i++) {
        const struct storage_override *v = &o->overrides[i];
        struct stat st;

        for (size_t k = 0; k < i; k++)
            if (streq(o->overrides[k].volume, v->volume))
                faults_add(p->faults, NULL, "--disk %s=… is given twice", v->volume);
        if (!p->used[i] && vmi_find_volume(p->storage->vmi, v->volume))
            faults_add(p->faults, NULL, "--disk %s=%s: no disk or file system uses this volume", v->volume, v->path);
        else if (!p->used[i])
            faults_add(p->faults, NULL, "--disk %s=%s: the manifest has no volume of that name", v->volume, v->path);
        else if (stat(v->path, &st) < 0)
            faults_add(p->faults, NULL, "--disk %s=%s: %s", v->volume, v->path, strerror(errno));
        else if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode) && !S_ISDIR(st.st_mode))
            faults_add(p->faults, NULL, "--disk %s=%s: is neither a file, a block device nor a directory", v->volume,
                       v->path);
    }
}

static bool is_directory(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static void not_here(struct planner *p, const struct vmi_volume *volume, const char *what, const char *flag_value)
{
    faults_add(p->faults, volume->at, "the %s %s is not here: give it by --disk %s=%s",
               vmi_volume_kind_name(volume->kind), what, volume->name, flag_value);
}

/* ---- volumes whose content is there already -------------------------------------------------------------------- */

static void use(struct storage_volume *v, struct volume_plan *plan, struct image_source source, char *path)
{
    v->action = STORAGE_USE;
    v->path = path;
    v->format = (char *)(uintptr_t) "raw"; /* until it is examined */
    plan->source = source;
}

/* A user's own file: its format is that of its header, whatever KubeVirt demands of the volume in a cluster. */
static void use_override(struct storage_volume *v, struct volume_plan *plan, const char *path)
{
    use(v, plan, (struct image_source){.name = path, .rule = IMAGE_DETECT, .allow_block = true},
        (char *)(uintptr_t)path);
}

static struct image_source claim_source(struct planner *p, const struct vmi_volume *volume, const struct vmi_pvc *claim)
{
    const struct storage_paths *paths = &p->storage->options.paths;

    if (claim && claim->hotpluggable == OPT_TRUE)
        return (struct image_source){
            .root = paths->hotplug_disk_dir,
            .name = text(p, "%s.img", volume->name),
            .block_path = text(p, "%s/%s", paths->hotplug_disk_dir, volume->name),
        };
    return (struct image_source){
        .root = text(p, "%s/vmi-disks/%s", paths->private_dir, volume->name),
        .name = "disk.img",
        .block_path = text(p, "%s/%s", paths->device_dir, volume->name),
    };
}

uint64_t storage_claim_size(const json_t *volume_status, const char *volume)
{
    const json_t *status;
    size_t i;

    json_array_foreach (volume_status, i, status) {
        const char *name = json_string_value(json_object_get(status, "name"));
        const json_t *info = json_object_get(status, "persistentVolumeClaimInfo");
        const char *capacity = json_string_value(json_object_get(json_object_get(info, "capacity"), "storage"));
        const char *request = json_string_value(json_object_get(json_object_get(info, "requests"), "storage"));
        const char *overhead = json_string_value(json_object_get(info, "filesystemOverhead"));
        const char *mode = json_string_value(json_object_get(info, "volumeMode"));
        struct quantity bytes = {0}, requested = {0};
        const char *why;
        double share = strtod(overhead ? overhead : DEFAULT_FILESYSTEM_OVERHEAD, NULL);

        if (!name || !streq(name, volume) || !capacity || (mode && streq(mode, "Block")) ||
            quantity_parse(capacity, &bytes, &why) < 0 || !(share >= 0 && share < 1))
            continue;
        if (request && quantity_parse(request, &requested, &why) >= 0)
            bytes.value = MIN(bytes.value, requested.value);
        return bytes.value > 0 ? (uint64_t)((double)bytes.value * (1 - share)) / MIB * MIB : 0;
    }
    return 0;
}

static void plan_claim(struct planner *p, struct storage_volume *v, struct volume_plan *plan)
{
    const struct vmi_volume *volume = v->volume;
    const struct vmi_pvc *claim =
        volume->kind == VMI_VOLUME_PVC ? volume->persistent_volume_claim : volume->data_volume;
    const char *override = override_for(p, volume->name);
    struct image_source source;

    v->read_only |= claim && claim->read_only == OPT_TRUE;
    if (override) {
        use_override(v, plan, override);
        return;
    }
    if (p->storage->options.outside_pod) {
        not_here(p, volume, claim && claim->claim_name ? claim->claim_name : volume->name, "IMAGE");
        return;
    }
    source = claim_source(p, volume, claim);
    use(v, plan, source, text(p, "%s/%s", source.root, source.name));
    if (!v->read_only && claim && claim->hotpluggable != OPT_TRUE)
        plan->claim_size = storage_claim_size(p->storage->options.volume_status, volume->name);
    /* an empty claim becomes a disk of its size at the first start; a DataVolume is filled by who made it */
    if (plan->claim_size > 0 && volume->kind == VMI_VOLUME_PVC) {
        v->action = STORAGE_SPARSE;
        v->size = plan->claim_size;
        plan->keep = true;
    }
}

static void plan_host_disk(struct planner *p, struct storage_volume *v, struct volume_plan *plan)
{
    const struct vmi_volume *volume = v->volume;
    const struct vmi_host_disk *disk = volume->host_disk;
    const char *override = override_for(p, volume->name), *base;
    struct image_source source = {.rule = IMAGE_RAW};

    if (override) {
        use_override(v, plan, override);
        return;
    }
    if (!disk->path || disk->path[0] != '/' || endswith(disk->path, "/")) {
        faults_add_member(p->faults, disk->at, "path", "is not the absolute path of a file");
        return;
    }
    base = strrchr(disk->path, '/') + 1;
    if (p->storage->options.outside_pod) {
        source.root = text(p, "%.*s", (int)MAX(base - disk->path - 1, (ptrdiff_t)1), disk->path);
        source.name = base;
    } else {
        source.root = text(p, "%s/vmi-disks/%s", p->storage->options.paths.private_dir, volume->name);
        source.name = base;
    }
    if (streq(base, "..") || streq(base, ".")) {
        faults_add_member(p->faults, disk->at, "path", "does not name a file");
        return;
    }
    use(v, plan, source, text(p, "%s/%s", source.root, base));
    if (disk->type && streq(disk->type, "DiskOrCreate")) {
        v->action = STORAGE_SPARSE;
        plan->keep = true;
        if (!disk->capacity.is_set || disk->capacity.value <= 0)
            faults_add_member(p->faults, disk->at, "capacity", "is needed to create the disk (a positive quantity)");
        else
            v->size = (uint64_t)disk->capacity.value;
    }
}

/* ---- overlays and empty disks ---------------------------------------------------------------------------------- */

static void overlay(struct planner *p, struct storage_volume *v, struct volume_plan *plan, struct image_source source)
{
    v->action = STORAGE_OVERLAY;
    v->path = text(p, "%s/disk-data/%s/disk.qcow2", p->storage->options.paths.ephemeral_disk_dir, v->volume->name);
    v->format = text(p, "qcow2");
    v->backing_format = text(p, "%s", source.rule == IMAGE_RAW ? "raw" : "qcow2"); /* until it is examined */
    v->backing_path = source.root ? text(p, "%s/%s", source.root, source.name) : (char *)(uintptr_t)source.name;
    plan->source = source;
}

static void plan_container_disk(struct planner *p, struct storage_volume *v, struct volume_plan *plan)
{
    const struct vmi_volume *volume = v->volume;
    const char *override = override_for(p, volume->name);

    if (override)
        overlay(p, v, plan, (struct image_source){.name = override, .rule = IMAGE_DETECT, .allow_block = true});
    else if (p->storage->options.outside_pod)
        not_here(p, volume, volume->container_disk->image ? volume->container_disk->image : "image", "IMAGE");
    else
        overlay(p, v, plan,
                (struct image_source){.root = p->storage->options.paths.container_disk_dir,
                                      .name = text(p, "disk_%zu.img", volume->index),
                                      .rule = IMAGE_DETECT});
}

static void plan_ephemeral(struct planner *p, struct storage_volume *v, struct volume_plan *plan)
{
    const struct vmi_volume *volume = v->volume;
    const struct vmi_pvc *claim = volume->ephemeral->persistent_volume_claim;
    const char *override = override_for(p, volume->name);

    if (override)
        overlay(p, v, plan, (struct image_source){.name = override, .rule = IMAGE_DETECT, .allow_block = true});
    else if (p->storage->options.outside_pod)
        not_here(p, volume, claim && claim->claim_name ? claim->claim_name : volume->name, "IMAGE");
    else
        overlay(p, v, plan, claim_source(p, volume, claim));
}

static void plan_empty_disk(struct planner *p, struct storage_volume *v, struct volume_plan *plan)
{
    const struct vmi_empty_disk *disk = v->volume->empty_disk;
    const char *override = override_for(p, v->volume->name);

    if (override) {
        use_override(v, plan, override);
        return;
    }
    v->action = STORAGE_EMPTY;
    v->format = text(p, "qcow2");
    v->path = text(p, "%s/%s.qcow2", p->storage->options.paths.empty_disk_dir, v->volume->name);
    if (disk->capacity.is_set && disk->capacity.value >= EMPTY_DISK_ALIGN &&
        (uint64_t)disk->capacity.value <= LIMIT_DISK_BYTES)
        v->size = (uint64_t)disk->capacity.value / EMPTY_DISK_ALIGN * EMPTY_DISK_ALIGN;
    else
        faults_add_member(p->faults, disk->at, "capacity", "is no disk size (1Mi to 1Pi)");
}

/* ---- images made of files -------------------------------------------------------------------------------------- */

/* QEMU's SATA disks (ide-hd) refuse a read-only image. This one is the VM's own, so the guest may as well write to it:
 * that is what KubeVirt lets it do on every bus. */
static bool must_be_writable(const struct vmi_disk *disk)
{
    return disk->device != VMI_DISK_DEVICE_CDROM && disk->target && disk->target->bus == VMI_BUS_SATA &&
           disk->target->readonly != OPT_TRUE;
}

static void iso(struct planner *p, struct storage_volume *v, struct volume_plan *plan, enum content content, char *path,
                const char *label)
{
    v->action = STORAGE_ISO;
    v->path = path;
    v->format = text(p, "raw");
    v->read_only = !plan->disk || !must_be_writable(plan->disk);
    plan->content = content;
    plan->label = label;
    if (strlen(label) > 32) /* ECMA-119 8.4.7 */
        faults_add(p->faults, v->volume->at, "the volume label %s is longer than 32 characters", label);
}

static void plan_cloud_init(struct planner *p, struct storage_volume *v, struct volume_plan *plan)
{
    const struct vmi_volume *volume = v->volume;
    const struct storage_options *o = &p->storage->options;
    bool no_cloud = volume->kind == VMI_VOLUME_CLOUD_INIT_NO_CLOUD;
    const struct vmi_cloud_init *ci = no_cloud ? volume->cloud_init_no_cloud : volume->cloud_init_config_drive;
    const char *override = override_for(p, volume->name), *dir = NULL;

    if (override && !is_directory(override)) {
        use_override(v, plan, override);
        return;
    }
    iso(p, v, plan, no_cloud ? CONTENT_NO_CLOUD : CONTENT_CONFIG_DRIVE,
        text(p, "%s/cloud-init-data/%s/%s/%s", o->paths.ephemeral_disk_dir, p->storage->vmi->namespace_,
             p->storage->vmi->name, no_cloud ? "noCloud.iso" : "configdrive.iso"),
        no_cloud ? "cidata" : "config-2");
    cloud_init_check(volume, p->faults);
    if (ci->secret_ref || ci->network_data_secret_ref) {
        if (override)
            dir = override;
        else if (o->outside_pod)
            not_here(p, volume, "secret", "DIRECTORY (with userdata, networkdata) or =ISO");
        else
            dir = text(p, "%s/secret/%s", o->paths.private_dir, volume->name);
        if (ci->secret_ref)
            plan->source_dir = dir;
        if (ci->network_data_secret_ref)
            plan->network_source_dir = dir;
    } else if (override) {
        faults_add(p->faults, NULL, "--disk %s=%s: the data stands in the manifest; only an image can replace it",
                   volume->name, override);
    }
}

static void plan_tree(struct planner *p, struct storage_volume *v, struct volume_plan *plan)
{
    const struct vmi_volume *volume = v->volume;
    const struct storage_options *o = &p->storage->options;
    static const struct {
        enum vmi_volume_kind kind;
        const char *directory, *label;
    } rows[] = {
        {VMI_VOLUME_CONFIG_MAP, "config-map", "cfgdata"},           {VMI_VOLUME_SECRET, "secret", "cfgdata"},
        {VMI_VOLUME_DOWNWARD_API, "downwardapi", "cfgdata"},        {VMI_VOLUME_SYSPREP, "sysprep", "unattendCD"},
        {VMI_VOLUME_SERVICE_ACCOUNT, "service-account", "cfgdata"},
    };
    const struct vmi_config_volume *config = volume->config_map     ? volume->config_map
                                             : volume->secret       ? volume->secret
                                             : volume->downward_api ? volume->downward_api
                                                                    : volume->service_account;
    const char *override = override_for(p, volume->name), *label;
    size_t i = 0;

    if (override && !is_directory(override)) {
        use_override(v, plan, override);
        return;
    }
    if (!override && o->outside_pod) {
        not_here(p, volume, config && config->name ? config->name : volume->name, "DIRECTORY or =ISO");
        return;
    }
    while (i + 1 < ELEMENTSOF(rows) && rows[i].kind != volume->kind)
        i++;
    label = config && config->volume_label ? config->volume_label : rows[i].label;
    plan->optional = config && config->optional == OPT_TRUE;
    if (volume->kind == VMI_VOLUME_SERVICE_ACCOUNT) {
        iso(p, v, plan, CONTENT_TREE, text(p, "%s/service-account-disk/service-account.iso", o->paths.private_dir),
            label);
        plan->source_dir = override ? override : o->paths.service_account_dir;
    } else {
        iso(p, v, plan, CONTENT_TREE,
            text(p, "%s/%s-disks/%s.iso", o->paths.private_dir, rows[i].directory, volume->name), label);
        plan->source_dir =
            override ? override : text(p, "%s/%s/%s", o->paths.private_dir, rows[i].directory, volume->name);
    }
}

static void plan_metrics(struct planner *p, struct storage_volume *v, struct volume_plan *plan)
{
    v->action = STORAGE_METRICS;
    v->path = text(p, "%s/downwardapi-disks/vhostmd0", p->storage->options.paths.private_dir);
    v->format = text(p, "raw");
    v->read_only = true;
}

/* ---- directories: shared with the guest, or read and written by QEMU itself ------------------------------------- */

/* What a volume is there for when no disk shows it. */
enum use {
    USE_NONE,
    USE_FILE_SYSTEM, /* virtiofs */
    USE_ACPI,        /* SLIC and MSDM tables */
    USE_DUMP,        /* the guest's memory goes there when it is asked for */
};

static enum use use_of(const struct vmi *vmi, const struct vmi_volume *volume)
{
    const struct vmi_devices *devices = &vmi->spec.domain.devices;
    const struct vmi_acpi_tables *acpi = vmi->spec.domain.firmware.acpi;

    for (size_t i = 0; i < devices->filesystems.count; i++)
        if (streq_ptr(devices->filesystems.items[i].name, volume->name))
            return USE_FILE_SYSTEM;
    if (acpi && (streq_ptr(acpi->slic_name_ref, volume->name) || streq_ptr(acpi->msdm_name_ref, volume->name)))
        return USE_ACPI;
    return volume->kind == VMI_VOLUME_MEMORY_DUMP ? USE_DUMP : USE_NONE;
}

/* Where the pod has the content of a volume, as files. NULL: a volume of this kind has none. */
static const char *mounted_at(struct planner *p, const struct vmi_volume *volume)
{
    const struct storage_paths *paths = &p->storage->options.paths;

    switch (volume->kind) {
    case VMI_VOLUME_PVC:
    case VMI_VOLUME_DATA_VOLUME:
        return text(p, "%s/vmi-disks/%s", paths->private_dir, volume->name);
    case VMI_VOLUME_CONFIG_MAP:
        return text(p, "%s/config-map/%s", paths->private_dir, volume->name);
    case VMI_VOLUME_SECRET:
        return text(p, "%s/secret/%s", paths->private_dir, volume->name);
    case VMI_VOLUME_DOWNWARD_API:
        return text(p, "%s/downwardapi/%s", paths->private_dir, volume->name);
    case VMI_VOLUME_SYSPREP:
        return text(p, "%s/sysprep/%s", paths->private_dir, volume->name);
    case VMI_VOLUME_SERVICE_ACCOUNT:
        return paths->service_account_dir;
    case VMI_VOLUME_CONTAINER_PATH:
        return volume->container_path->path;
    case VMI_VOLUME_MEMORY_DUMP:
        return text(p, "%s/%s", paths->hotplug_disk_dir, volume->name);
    default:
        return NULL;
    }
}

/* The ACPI tables that this volume is to hold: their files' names are KubeVirt's. */
static const char *const *tables_of(const struct vmi *vmi, const struct vmi_volume *volume)
{
    static const char *const names[][3] = {{NULL}, {"slic.bin", NULL}, {"msdm.bin", NULL}, {"slic.bin", "msdm.bin"}};
    const struct vmi_acpi_tables *acpi = vmi->spec.domain.firmware.acpi;

    return names[streq_ptr(acpi->slic_name_ref, volume->name) + 2 * streq_ptr(acpi->msdm_name_ref, volume->name)];
}

static void plan_directory(struct planner *p, struct storage_volume *v, struct volume_plan *plan, enum use use)
{
    const struct vmi_volume *volume = v->volume;
    const struct vmi_pvc *claim = volume->persistent_volume_claim;
    const char *override = override_for(p, volume->name), *path = override ? override : mounted_at(p, volume);

    v->action = STORAGE_DIRECTORY;
    v->format = text(p, "raw");
    v->read_only = (claim && claim->read_only == OPT_TRUE) ||
                   (volume->container_path && volume->container_path->read_only == OPT_TRUE);
    plan->optional = use == USE_DUMP; /* a claim that is plugged in for the dump, and not there before */
    if (use == USE_ACPI)
        plan->files = tables_of(p->storage->vmi, volume);
    if (!path)
        faults_add(p->faults, volume->at, "a volume of kind %s cannot be shared as a file system",
                   vmi_volume_kind_name(volume->kind));
    else if (override && !is_directory(override))
        faults_add(p->faults, NULL, "--disk %s=%s: is no directory, which a volume that is shared as files must be",
                   volume->name, override);
    else if (!override && p->storage->options.outside_pod && use != USE_DUMP)
        not_here(p, volume, volume->name, "DIRECTORY");
    v->path = (char *)(uintptr_t)path;
}

/* ---- all of them ----------------------------------------------------------------------------------------------- */

static bool fits_into_path(struct planner *p, const struct vmi_volume *volume)
{
    const char *name = volume->name;

    /* the name becomes part of paths: the last line of defence, the manifest's validation has its own */
    if (*name && name[0] != '.' && !strchr(name, '/') && strlen(name) <= 253)
        return true;
    faults_add(p->faults, volume->at, "the volume name \"%.64s\" cannot be part of a path", name);
    return false;
}

static void plan_volume(struct planner *p, struct storage_volume *v, struct volume_plan *plan)
{
    static void (*const planners[])(struct planner *, struct storage_volume *, struct volume_plan *) = {
        [VMI_VOLUME_HOST_DISK] = plan_host_disk,
        [VMI_VOLUME_PVC] = plan_claim,
        [VMI_VOLUME_DATA_VOLUME] = plan_claim,
        [VMI_VOLUME_CLOUD_INIT_NO_CLOUD] = plan_cloud_init,
        [VMI_VOLUME_CLOUD_INIT_CONFIG_DRIVE] = plan_cloud_init,
        [VMI_VOLUME_SYSPREP] = plan_tree,
        [VMI_VOLUME_CONTAINER_DISK] = plan_container_disk,
        [VMI_VOLUME_EPHEMERAL] = plan_ephemeral,
        [VMI_VOLUME_EMPTY_DISK] = plan_empty_disk,
        [VMI_VOLUME_CONFIG_MAP] = plan_tree,
        [VMI_VOLUME_SECRET] = plan_tree,
        [VMI_VOLUME_DOWNWARD_API] = plan_tree,
        [VMI_VOLUME_SERVICE_ACCOUNT] = plan_tree,
        [VMI_VOLUME_DOWNWARD_METRICS] = plan_metrics,
    };
    enum vmi_volume_kind kind = v->volume->kind;

    v->read_only =
        plan->disk->device == VMI_DISK_DEVICE_CDROM || (plan->disk->target && plan->disk->target->readonly == OPT_TRUE);
    if ((size_t)kind >= ELEMENTSOF(planners) || !planners[kind])
        faults_add(p->faults, v->volume->at, "a volume of kind %s cannot be a disk", vmi_volume_kind_name(kind));
    else
        planners[kind](p, v, plan);
}

/* Keys of accessCredentials that go into a cloud-init image are secrets, mounted beside the volumes. */
static void plan_keys(struct planner *p)
{
    const struct vmi_spec *spec = &p->storage->vmi->spec;
    const char **dirs = arena_new_array(p->storage->arena, const char *, spec->access_credentials.count + 1);

    if (!dirs) {
        p->oom = true;
        return;
    }
    p->storage->key_dirs = dirs;
    for (size_t i = 0; i < spec->access_credentials.count; i++) {
        const struct vmi_access_credential *c = &spec->access_credentials.items[i];
        char *name = text(p, "%s-access-cred", c->secret_name ? c->secret_name : "");

        if (c->is_password || !(c->no_cloud || c->config_drive) || !name)
            continue;
        dirs[i] = override_for(p, name);
        if (dirs[i])
            continue;
        if (p->storage->options.outside_pod)
            faults_add(p->faults, c->at, "the secret %s with SSH keys is not here: give it by --disk %s=DIRECTORY",
                       c->secret_name, name);
        dirs[i] = text(p, "%s/secret/%s", p->storage->options.paths.private_dir, name);
    }
}

static const struct vmi_disk *disk_of(const struct vmi *vmi, const struct vmi_volume *volume)
{
    for (size_t i = 0; i < vmi->spec.domain.devices.disks.count; i++)
        if (vmi->spec.domain.devices.disks.items[i].volume == volume)
            return &vmi->spec.domain.devices.disks.items[i];
    return NULL;
}

int storage_plan(const struct vmi *vmi, const struct storage_options *options, struct storage **ret,
                 struct faults *faults, struct error **ret_error)
{
    _cleanup_(storage_freep) struct storage *s = calloc(1, sizeof(*s));
    _cleanup_free_ bool *used = calloc(options->n_overrides + 1, sizeof(*used));
    struct planner p = {.storage = s, .faults = faults, .used = used};
    size_t n = vmi->spec.volumes.count, faults_before = faults->count + faults->dropped;

    if (!s || !used)
        return error_oom(ret_error);
    s->arena = arena_new();
    if (!s->arena)
        return error_oom(ret_error);
    s->vmi = vmi;
    s->options = *options;
    if (!s->options.qemu_img)
        s->options.qemu_img = "qemu-img";
    s->volumes = arena_new_array(s->arena, struct storage_volume, n + 1);
    s->plans = arena_new_array(s->arena, struct volume_plan, n + 1);
    if (!s->volumes || !s->plans)
        return error_oom(ret_error);
    for (size_t i = 0; i < n; i++) {
        const struct vmi_volume *volume = &vmi->spec.volumes.items[i];
        const struct vmi_disk *disk = disk_of(vmi, volume);
        enum use use = use_of(vmi, volume);

        if ((!disk && use == USE_NONE) || !fits_into_path(&p, volume))
            continue;
        s->volumes[s->count].volume = volume;
        s->plans[s->count].disk = disk;
        if (disk)
            plan_volume(&p, &s->volumes[s->count], &s->plans[s->count]);
        else
            plan_directory(&p, &s->volumes[s->count], &s->plans[s->count], use);
        s->count++;
    }
    plan_keys(&p);
    check_overrides(&p);
    if (p.oom)
        return error_oom(ret_error);
    if (faults->count + faults->dropped > faults_before)
        return error_set(ret_error, ERROR_BAD_MANIFEST, EINVAL, "volumes of %s cannot be had here", vmi->name);
    s->options.volume_status = NULL;
    *ret = TAKE_PTR(s);
    return 0;
}

void storage_free(struct storage *storage)
{
    if (!storage)
        return;
    arena_free(storage->arena);
    free(storage);
}

const struct storage_volume *storage_get_volumes(const struct storage *storage, size_t *ret_count)
{
    *ret_count = storage->count;
    return storage->volumes;
}
