/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What KubeVirt's mutating webhook fills in (compat 2.1). Not here: maxSockets and maxGuest of the LiveUpdate rollout,
 * which are a setting of the cluster.
 */
#include <ctype.h>

#include "vmi/private.h"
#include "vmi/uuid.h"

static bool is_arch(const struct vmi *vmi, const char *name)
{
    return streq(vmi->spec.architecture, name);
}

static void *new_object(struct vmi *vmi, size_t size)
{
    return arena_alloc(vmi->arena, size);
}

static struct vmi_feature *new_feature(struct vmi *vmi)
{
    struct vmi_feature *f = new_object(vmi, sizeof(*f));

    if (f)
        f->enabled = OPT_TRUE;
    return f;
}

/* ---- identity ---- */

static int set_uuid(struct vmi *vmi, const struct vmi_load_options *options)
{
    struct vmi_firmware *firmware = &vmi->spec.domain.firmware;
    char text[UUID_TEXT_LENGTH + 1], *copy;
    int r;

    if (!firmware->uuid) {
        if (streq(vmi->kind, "VirtualMachine")) {
            uuid_v5(KUBEVIRT_FIRMWARE_NAMESPACE, vmi->name ?: "", text);
        } else if (options && options->default_uuid_seed) {
            uuid_v5(KUBEVIRT_FIRMWARE_NAMESPACE, options->default_uuid_seed, text);
        } else {
            r = uuid_v4(text);
            if (r < 0)
                return r;
        }
        firmware->uuid = arena_strdup(vmi->arena, text);
        return firmware->uuid ? 0 : -ENOMEM;
    }
    copy = strlen(firmware->uuid) == 32
               ? arena_printf(vmi->arena, "%.8s-%.4s-%.4s-%.4s-%s", firmware->uuid, firmware->uuid + 8,
                              firmware->uuid + 12, firmware->uuid + 16, firmware->uuid + 20)
               : arena_strdup(vmi->arena, firmware->uuid);
    if (!copy)
        return -ENOMEM;
    for (char *p = copy; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    firmware->uuid = copy;
    return 0;
}

static int set_identity(struct vmi *vmi, const struct vmi_load_options *options)
{
    if (!vmi->namespace_)
        vmi->namespace_ = "default";
    vmi->domain_name = arena_printf(vmi->arena, "%s_%s", vmi->namespace_, vmi->name ?: "");
    if (!vmi->domain_name)
        return -ENOMEM;
    if (!vmi->spec.architecture)
        vmi->spec.architecture = options && options->default_arch ? options->default_arch : "amd64";
    if (!vmi->spec.termination_grace_period_seconds.is_set)
        vmi->spec.termination_grace_period_seconds = (struct opt_int){true, 30};
    return set_uuid(vmi, options);
}

/* ---- machine, CPU, memory ---- */

static void set_machine(struct vmi *vmi)
{
    struct vmi_domain *domain = &vmi->spec.domain;
    struct vmi_bootloader *loader = domain->firmware.bootloader;

    if (!domain->machine.type)
        domain->machine.type = is_arch(vmi, "arm64") ? "virt" : is_arch(vmi, "s390x") ? "s390-ccw-virtio" : "q35";
    if (is_arch(vmi, "arm64") && loader && loader->efi && loader->efi->secure_boot == OPT_UNSET)
        loader->efi->secure_boot = OPT_FALSE;
}

/* Go's zero is "not given". */
static void zero_is_unset(struct opt_int *i)
{
    if (i->is_set && i->value == 0)
        i->is_set = false;
}

static void set_cpu(struct vmi *vmi)
{
    struct vmi_cpu *cpu = &vmi->spec.domain.cpu;
    struct vmi_resources *resources = &vmi->spec.domain.resources;

    zero_is_unset(&cpu->cores);
    zero_is_unset(&cpu->sockets);
    zero_is_unset(&cpu->threads);
    zero_is_unset(&cpu->max_sockets);
    if (resources->limits.cpu.milli > 0 && resources->requests.cpu.milli == 0)
        resources->requests.cpu = resources->limits.cpu;
    if (resources->limits.memory.value > 0 && resources->requests.memory.value == 0)
        resources->requests.memory = resources->limits.memory;
    if (!cpu->cores.is_set && !cpu->sockets.is_set && !cpu->threads.is_set) {
        const struct quantity *q = resources->limits.cpu.is_set ? &resources->limits.cpu : &resources->requests.cpu;

        if (q->is_set && q->value > 1)
            cpu->sockets = (struct opt_int){true, q->value};
    }
    if (!cpu->sockets.is_set)
        cpu->sockets = (struct opt_int){true, 1};
    if (!cpu->cores.is_set)
        cpu->cores = (struct opt_int){true, 1};
    if (!cpu->threads.is_set)
        cpu->threads = (struct opt_int){true, 1};
    if (!cpu->model)
        cpu->model = is_arch(vmi, "arm64") ? "host-passthrough" : "host-model";
}

static void set_memory(struct vmi *vmi)
{
    struct vmi_memory *memory = &vmi->spec.domain.memory;
    const struct vmi_resources *resources = &vmi->spec.domain.resources;

    if (memory->guest.is_set)
        return;
    if (resources->requests.memory.is_set && resources->requests.memory.value > 0)
        memory->guest = resources->requests.memory;
    else if (resources->limits.memory.is_set && resources->limits.memory.value > 0)
        memory->guest = resources->limits.memory;
    else if (memory->hugepages && memory->hugepages->page_size.is_set)
        memory->guest = memory->hugepages->page_size;
}

/* ---- features ---- */

static bool need(struct vmi *vmi, struct vmi_feature **feature)
{
    if (!*feature)
        *feature = new_feature(vmi);
    return *feature;
}

static bool is_on(const void *feature, enum opt_bool enabled)
{
    return feature && enabled != OPT_FALSE;
}

/* Hyper-V features that QEMU refuses without another one. */
static int set_hyperv(struct vmi *vmi)
{
    struct vmi_hyperv *h = vmi->spec.domain.features.hyperv;

    if (!h)
        return 0;
    if (h->spinlocks && !h->spinlocks->spinlocks.is_set)
        h->spinlocks->spinlocks = (struct opt_int){true, 4096};
    if (h->synictimer && is_on(h->synictimer, h->synictimer->enabled) && !need(vmi, &h->synic))
        return -ENOMEM;
    if ((vmi_feature_on(h->ipi) || vmi_feature_on(h->synic) ||
         (h->tlbflush && is_on(h->tlbflush, h->tlbflush->enabled))) &&
        !need(vmi, &h->vpindex))
        return -ENOMEM;
    if (vmi_feature_on(h->evmcs)) {
        struct vmi_cpu *cpu = &vmi->spec.domain.cpu;
        struct vmi_cpu_feature *list;

        if (!need(vmi, &h->vapic))
            return -ENOMEM;
        for (size_t i = 0; i < cpu->features.count; i++)
            if (streq_ptr(cpu->features.items[i].name, "vmx"))
                return 0;
        list = arena_new_array(vmi->arena, struct vmi_cpu_feature, cpu->features.count + 1);
        if (!list)
            return -ENOMEM;
        if (cpu->features.count > 0)
            memcpy(list, cpu->features.items, cpu->features.count * sizeof(*list));
        list[cpu->features.count] = (struct vmi_cpu_feature){.name = "vmx", .policy = VMI_POLICY_REQUIRE};
        cpu->features.items = list;
        cpu->features.count++;
    }
    return 0;
}

/* ---- volumes and disks ---- */

static void set_volume_kind(struct vmi_volume *v)
{
    const struct {
        const void *source;
        enum vmi_volume_kind kind;
    } sources[] = {
        {v->host_disk, VMI_VOLUME_HOST_DISK},
        {v->persistent_volume_claim, VMI_VOLUME_PVC},
        {v->cloud_init_no_cloud, VMI_VOLUME_CLOUD_INIT_NO_CLOUD},
        {v->cloud_init_config_drive, VMI_VOLUME_CLOUD_INIT_CONFIG_DRIVE},
        {v->sysprep, VMI_VOLUME_SYSPREP},
        {v->container_disk, VMI_VOLUME_CONTAINER_DISK},
        {v->ephemeral, VMI_VOLUME_EPHEMERAL},
        {v->empty_disk, VMI_VOLUME_EMPTY_DISK},
        {v->data_volume, VMI_VOLUME_DATA_VOLUME},
        {v->config_map, VMI_VOLUME_CONFIG_MAP},
        {v->secret, VMI_VOLUME_SECRET},
        {v->downward_api, VMI_VOLUME_DOWNWARD_API},
        {v->service_account, VMI_VOLUME_SERVICE_ACCOUNT},
        {v->downward_metrics, VMI_VOLUME_DOWNWARD_METRICS},
        {v->memory_dump, VMI_VOLUME_MEMORY_DUMP},
        {v->container_path, VMI_VOLUME_CONTAINER_PATH},
    };

    for (size_t i = 0; i < ELEMENTSOF(sources); i++)
        if (sources[i].source)
            v->kind = sources[i].kind;
}

static int set_disk(struct vmi *vmi, struct vmi_disk *disk)
{
    bool bare = !disk->disk && !disk->lun && !disk->cdrom;

    if (bare) {
        disk->disk = new_object(vmi, sizeof(*disk->disk));
        if (!disk->disk)
            return -ENOMEM;
    }
    disk->device = disk->disk ? VMI_DISK_DEVICE_DISK : disk->lun ? VMI_DISK_DEVICE_LUN : VMI_DISK_DEVICE_CDROM;
    disk->target = disk->disk ?: disk->lun ?: disk->cdrom;
    if (!disk->volume_name)
        disk->volume_name = disk->name;
    disk->volume = vmi_find_volume(vmi, disk->volume_name);
    if (disk->target->bus == VMI_BUS_UNSET) {
        bool metrics = disk->volume && disk->volume->kind == VMI_VOLUME_DOWNWARD_METRICS; /* on virtio only */

        /* virtio has no CD-ROM. For a LUN KubeVirt's default is sata, on which no LUN can start. */
        if ((disk->cdrom && !is_arch(vmi, "amd64")) || disk->lun)
            disk->target->bus = VMI_BUS_SCSI;
        else
            disk->target->bus = is_arch(vmi, "amd64") && !metrics ? VMI_BUS_SATA : VMI_BUS_VIRTIO;
    }
    if (disk->cdrom) {
        if (disk->cdrom->readonly == OPT_UNSET)
            disk->cdrom->readonly = OPT_TRUE;
        if (disk->cdrom->tray == VMI_TRAY_UNSET)
            disk->cdrom->tray = VMI_TRAY_CLOSED;
    }
    return 0;
}

/* Volumes that are for a machine without being a disk of it. */
static bool needs_no_disk(const struct vmi *vmi, const struct vmi_volume *v)
{
    const struct vmi_acpi_tables *acpi = vmi->spec.domain.firmware.acpi;
    const struct vmi_devices *devices = &vmi->spec.domain.devices;

    if (v->kind == VMI_VOLUME_MEMORY_DUMP || v->kind == VMI_VOLUME_CONTAINER_PATH || v->kind == VMI_VOLUME_UNSET)
        return true;
    if (acpi && (streq_ptr(acpi->slic_name_ref, v->name) || streq_ptr(acpi->msdm_name_ref, v->name)))
        return true;
    for (size_t i = 0; i < devices->filesystems.count; i++)
        if (streq_ptr(devices->filesystems.items[i].name, v->name))
            return true;
    for (size_t i = 0; i < devices->disks.count; i++)
        if (streq_ptr(devices->disks.items[i].volume_name ?: devices->disks.items[i].name, v->name))
            return true;
    return false;
}

/* A volume that no disk names becomes a plain disk at the end of the list (SetDefaultVolumeDisk() of KubeVirt). */
static int add_default_disks(struct vmi *vmi)
{
    struct vmi_devices *devices = &vmi->spec.domain.devices;
    size_t before = devices->disks.count, n = before;
    struct vmi_disk *list;

    for (size_t i = 0; i < vmi->spec.volumes.count; i++)
        n += !needs_no_disk(vmi, &vmi->spec.volumes.items[i]);
    if (n == before)
        return 0;
    list = arena_new_array(vmi->arena, struct vmi_disk, n);
    if (!list)
        return -ENOMEM;
    if (before > 0)
        memcpy(list, devices->disks.items, before * sizeof(*list));
    n = before;
    for (size_t i = 0; i < vmi->spec.volumes.count; i++)
        if (!needs_no_disk(vmi, &vmi->spec.volumes.items[i]))
            list[n++].name = vmi->spec.volumes.items[i].name;
    devices->disks.items = list;
    devices->disks.count = n;
    return 0;
}

static int set_storage(struct vmi *vmi)
{
    struct vmi_devices *devices = &vmi->spec.domain.devices;
    int r;

    for (size_t i = 0; i < vmi->spec.volumes.count; i++) {
        vmi->spec.volumes.items[i].index = i;
        set_volume_kind(&vmi->spec.volumes.items[i]);
    }
    r = add_default_disks(vmi);
    for (size_t i = 0; i < devices->disks.count && r >= 0; i++)
        r = set_disk(vmi, &devices->disks.items[i]);
    if (r < 0)
        return r;
    for (size_t i = 0; i < devices->filesystems.count; i++)
        devices->filesystems.items[i].volume = vmi_find_volume(vmi, devices->filesystems.items[i].name);
    return 0;
}

/* ---- network ---- */

/* Only when the manifest says nothing about networks at all. */
static int add_default_network(struct vmi *vmi)
{
    struct vmi_devices *devices = &vmi->spec.domain.devices;
    struct vmi_interface *interface;
    struct vmi_network *network;

    if (devices->autoattach_pod_interface == OPT_FALSE || devices->interfaces.count > 0 || vmi->spec.networks.count > 0)
        return 0;
    interface = new_object(vmi, sizeof(*interface));
    network = new_object(vmi, sizeof(*network));
    if (!interface || !network)
        return -ENOMEM;
    interface->name = network->name = "default";
    interface->binding = VMI_BINDING_BRIDGE;
    network->pod = new_object(vmi, sizeof(*network->pod));
    if (!network->pod)
        return -ENOMEM;
    devices->interfaces.items = interface;
    devices->interfaces.count = 1;
    vmi->spec.networks.items = network;
    vmi->spec.networks.count = 1;
    return 0;
}

static enum vmi_binding binding_of(const struct vmi_interface *i)
{
    if (i->masquerade)
        return VMI_BINDING_MASQUERADE;
    if (i->sriov)
        return VMI_BINDING_SRIOV;
    if (i->passt_binding || i->passt)
        return VMI_BINDING_PASST;
    if (i->slirp)
        return VMI_BINDING_SLIRP;
    if (i->macvtap)
        return VMI_BINDING_MACVTAP;
    if (i->plugin)
        return streq_ptr(i->plugin->name, "passt") ? VMI_BINDING_PASST : VMI_BINDING_PLUGIN;
    return VMI_BINDING_BRIDGE;
}

/* "02-00-5E-10-00-01" and "0200.5e10.0001" → "02:00:5e:10:00:01" */
static int normalize_mac(struct vmi *vmi, const char **mac)
{
    char *copy, *out;
    size_t digits = 0;

    if (!*mac)
        return 0;
    copy = out = new_object(vmi, 18);
    if (!copy)
        return -ENOMEM;
    for (const char *p = *mac; *p; p++) {
        if (!isxdigit((unsigned char)*p))
            continue;
        if (digits > 0 && digits % 2 == 0)
            *out++ = ':';
        *out++ = (char)tolower((unsigned char)*p);
        digits++;
    }
    *mac = copy;
    return 0;
}

static int set_network(struct vmi *vmi)
{
    struct vmi_devices *devices = &vmi->spec.domain.devices;
    int r = add_default_network(vmi);

    for (size_t i = 0; i < devices->interfaces.count && r >= 0; i++) {
        struct vmi_interface *interface = &devices->interfaces.items[i];

        if (interface->model == VMI_NIC_UNSET)
            interface->model = VMI_NIC_VIRTIO;
        if (interface->binding == VMI_BINDING_UNSET)
            interface->binding = binding_of(interface);
        for (size_t k = 0; k < interface->ports.count; k++)
            if (!interface->ports.items[k].protocol)
                interface->ports.items[k].protocol = "TCP";
        for (size_t k = 0; k < vmi->spec.networks.count; k++)
            if (streq_ptr(vmi->spec.networks.items[k].name, interface->name))
                interface->network = &vmi->spec.networks.items[k];
        r = normalize_mac(vmi, &interface->mac_address);
    }
    return r;
}

/* ---- other devices ---- */

static int add_input(struct vmi *vmi)
{
    struct vmi_devices *devices = &vmi->spec.domain.devices;

    if (devices->autoattach_input_device != OPT_TRUE || devices->inputs.count > 0)
        return 0;
    devices->inputs.items = new_object(vmi, sizeof(struct vmi_input));
    if (!devices->inputs.items)
        return -ENOMEM;
    devices->inputs.items[0].name = "default-0";
    devices->inputs.count = 1;
    return 0;
}

static int set_watchdog(struct vmi *vmi, struct vmi_watchdog *watchdog)
{
    struct vmi_watchdog_device **device;

    if (!watchdog)
        return 0;
    device = is_arch(vmi, "s390x") ? &watchdog->diag288 : &watchdog->i6300esb;
    if (!watchdog->i6300esb && !watchdog->diag288) {
        *device = new_object(vmi, sizeof(**device));
        if (!*device)
            return -ENOMEM;
    }
    if (watchdog->i6300esb && watchdog->i6300esb->action == VMI_WATCHDOG_UNSET)
        watchdog->i6300esb->action = VMI_WATCHDOG_RESET;
    if (watchdog->diag288 && watchdog->diag288->action == VMI_WATCHDOG_UNSET)
        watchdog->diag288->action = VMI_WATCHDOG_RESET;
    return 0;
}

static int set_devices(struct vmi *vmi)
{
    struct vmi_devices *devices = &vmi->spec.domain.devices;
    int r = add_input(vmi);

    if (r < 0)
        return r;
    for (size_t i = 0; i < devices->inputs.count; i++) {
        struct vmi_input *input = &devices->inputs.items[i];

        if (input->bus == VMI_BUS_UNSET)
            input->bus = VMI_BUS_USB;
        if (input->type == VMI_INPUT_TYPE_UNSET)
            input->type = VMI_INPUT_TYPE_TABLET;
    }
    for (size_t i = 0; i < devices->panic_devices.count; i++)
        if (devices->panic_devices.items[i].model == VMI_PANIC_UNSET)
            devices->panic_devices.items[i].model = is_arch(vmi, "amd64") ? VMI_PANIC_ISA : VMI_PANIC_PVPANIC;
    if (devices->sound && devices->sound->model == VMI_SOUND_UNSET)
        devices->sound->model = VMI_SOUND_ICH9;
    return set_watchdog(vmi, devices->watchdog);
}

int vmi_set_defaults(struct vmi *vmi, const struct vmi_load_options *options)
{
    int r = set_identity(vmi, options);

    if (r < 0)
        return r;
    set_machine(vmi);
    set_cpu(vmi);
    set_memory(vmi);
    r = set_hyperv(vmi);
    if (r >= 0)
        r = set_storage(vmi);
    if (r >= 0)
        r = set_network(vmi);
    if (r >= 0)
        r = set_devices(vmi);
    return r;
}
