/* SPDX-License-Identifier: Apache-2.0 */
/* Processor, memory, firmware, features and the small devices. Rules are those of KubeVirt's admission (1.9) unless
 * a comment says otherwise. */
#include <inttypes.h>

#include "vmi/private.h"

#define MEBIBYTE    (1024LL * 1024)
#define MAX_VCPUS   512
#define MIN_REQUEST 1000000 /* 1M */

static bool is_arch(const struct vmi *vmi, const char *name)
{
    return streq(vmi->spec.architecture, name);
}

/* ---- memory ---- */

static bool has_member(const struct node *at, const char *member)
{
    const struct node *n = at ? node_get(at, member) : NULL;

    return n && n->kind != NODE_NULL;
}

/* What is written and wrong has its fault already. */
static bool is_memory_written(const struct vmi_domain *domain)
{
    const struct node *resources = domain->resources.at;

    return has_member(domain->memory.at, "guest") || has_member(domain->memory.at, "hugepages") ||
           (resources && (has_member(node_get(resources, "requests"), "memory") ||
                          has_member(node_get(resources, "limits"), "memory")));
}

/* Of a VirtualMachine, whose spec.instancetype gives the memory: that it is not built is fault enough. */
static bool has_instancetype(const struct node *domain)
{
    const struct node *spec = domain->parent, *template = spec ? spec->parent : NULL;
    const struct node *vm = template ? template->parent : NULL;

    return vm && vm->kind == NODE_MAPPING && has_member(vm, "instancetype");
}

static void validate_memory(struct vmi *vmi, struct faults *faults)
{
    const struct vmi_domain *domain = &vmi->spec.domain;
    const struct vmi_memory *memory = &domain->memory;
    const struct quantity *request = &domain->resources.requests.memory, *limit = &domain->resources.limits.memory;

    if (!memory->guest.is_set) {
        if (domain->at && !is_memory_written(domain) && !has_instancetype(domain->at))
            faults_add_member(faults, domain->at, "memory",
                              "no memory is asked for (give memory.guest or resources.requests.memory)");
        return;
    }
    if (memory->guest.value < MEBIBYTE)
        faults_add_member(faults, memory->at ?: domain->at, "guest", "%" PRId64 " bytes are too little (at least 1Mi)",
                          memory->guest.value);
    if (request->value > 0 && request->value < MIN_REQUEST && memory->guest.value >= MEBIBYTE)
        faults_add_member(faults, domain->resources.requests.at, "memory", "\"%s\" is too little (at least 1M)",
                          request->text);
    if (limit->value > 0 && request->value > limit->value)
        faults_add_member(faults, domain->resources.requests.at, "memory", "\"%s\" is more than the limit, \"%s\"",
                          request->text, limit->text);
    if (memory->max_guest.is_set && memory->max_guest.value < memory->guest.value)
        faults_add_member(faults, memory->at, "maxGuest", "\"%s\" is less than the guest's memory, \"%s\"",
                          memory->max_guest.text, memory->guest.text);
    if (memory->hugepages && memory->hugepages->page_size.is_set) {
        const struct quantity *page = &memory->hugepages->page_size;

        if (page->value & (page->value - 1))
            faults_add_member(faults, memory->hugepages->at, "pageSize", "\"%s\" is no power of two", page->text);
        else if (memory->guest.value % page->value != 0)
            faults_add_member(faults, memory->hugepages->at, "pageSize",
                              "the guest's memory, \"%s\", is not a multiple of \"%s\"", memory->guest.text,
                              page->text);
    }
}

/* ---- CPU ---- */

static void validate_dedicated_cpus(struct vmi *vmi, struct faults *faults)
{
    const struct vmi_cpu *cpu = &vmi->spec.domain.cpu;
    const struct vmi_resources *resources = &vmi->spec.domain.resources;
    const struct quantity *request = &resources->requests.cpu, *limit = &resources->limits.cpu;

    if (cpu->dedicated_cpu_placement != OPT_TRUE) {
        if (cpu->isolate_emulator_thread == OPT_TRUE)
            faults_add_member(faults, cpu->at, "isolateEmulatorThread", "needs dedicatedCpuPlacement: true");
        return;
    }
    if (request->milli % 1000 != 0)
        faults_add_member(faults, resources->requests.at ?: resources->limits.at, "cpu",
                          "\"%s\" must be a whole number with dedicatedCpuPlacement", request->text);
    else if (limit->milli > 0 && request->milli != limit->milli)
        faults_add_member(faults, resources->requests.at, "cpu",
                          "\"%s\" must equal the limit, \"%s\", with dedicatedCpuPlacement", request->text,
                          limit->text);
    else if (request->value > 0 && request->value != (int64_t)vmi_vcpus(vmi))
        faults_add_member(faults, resources->requests.at ?: resources->limits.at, "cpu",
                          "\"%s\" must equal the number of vCPUs, %u, with dedicatedCpuPlacement", request->text,
                          vmi_vcpus(vmi));
    if (opt_int_or(cpu->threads, 1) > 2)
        faults_add_member(faults, cpu->at, "threads", "at most 2 with dedicatedCpuPlacement");
}

static void validate_cpu(struct vmi *vmi, struct faults *faults)
{
    const struct vmi_cpu *cpu = &vmi->spec.domain.cpu;
    const struct vmi_resources *resources = &vmi->spec.domain.resources;
    int64_t per_socket = opt_int_or(cpu->cores, 1) * opt_int_or(cpu->threads, 1);
    int64_t sockets = opt_int_or(cpu->sockets, 1), max = opt_int_or(cpu->max_sockets, sockets);

    if (sockets > MAX_VCPUS || per_socket > MAX_VCPUS || per_socket * sockets > MAX_VCPUS)
        faults_add_member(faults, vmi->spec.domain.at, cpu->at ? "cpu" : "resources",
                          "%" PRId64 " vCPUs are too many (at most %d)",
                          sockets > INT32_MAX ? sockets : per_socket * sockets, MAX_VCPUS);
    else if (max < sockets)
        faults_add_member(faults, cpu->at, "maxSockets", "%" PRId64 " is less than the sockets, %" PRId64, max,
                          sockets);
    else if (max * per_socket > MAX_VCPUS)
        faults_add_member(faults, cpu->at, "maxSockets", "makes %" PRId64 " vCPUs, which are too many (at most %d)",
                          max * per_socket, MAX_VCPUS);
    if (resources->limits.cpu.milli > 0 && resources->requests.cpu.milli > resources->limits.cpu.milli)
        faults_add_member(faults, resources->requests.at, "cpu", "\"%s\" is more than the limit, \"%s\"",
                          resources->requests.cpu.text, resources->limits.cpu.text);
    if (is_arch(vmi, "arm64") && opt_int_or(cpu->threads, 1) > 1)
        faults_add_member(faults, cpu->at, "threads", "must be 1 on arm64");
    validate_dedicated_cpus(vmi, faults);
}

/* ---- machine and firmware ---- */

static const struct {
    const char *arch, *names, *prefixes[3];
} machines[] = {
    {"amd64", "q35 or pc-q35-*", {"q35", "pc-q35-"}},
    {"arm64", "virt or virt-*", {"virt"}},
    {"s390x", "s390-ccw-virtio*", {"s390-ccw-virtio"}},
};

static void validate_machine(struct vmi *vmi, struct faults *faults)
{
    const struct vmi_machine_type *machine = &vmi->spec.domain.machine;

    for (size_t i = 0; i < ELEMENTSOF(machines); i++) {
        bool found = false;

        if (!is_arch(vmi, machines[i].arch))
            continue;
        for (size_t k = 0; k < 3 && machines[i].prefixes[k]; k++)
            found |= startswith(machine->type, machines[i].prefixes[k]) != NULL;
        if (!found)
            faults_add_member(faults, machine->at, "type", "\"%.64s\" is not known for %s (must be %s)", machine->type,
                              machines[i].arch, machines[i].names);
    }
}

void validate_image_path(struct faults *faults, const struct node *at, const char *member, const char *path)
{
    size_t n = path ? strlen(path) : 0;

    if (!path)
        return;
    if (*path != '/' || n == 1 || strstr(path, "//") || strstr(path, "/./") || strstr(path, "/../") ||
        endswith(path, "/.") || endswith(path, "/.."))
        faults_add_member(faults, at, member, "\"%.64s\" must be an absolute path to a file, without . and ..", path);
}

static void validate_kernel_boot(const struct vmi_kernel_boot *boot, struct faults *faults)
{
    const struct vmi_kernel_boot_container *container = boot ? boot->container : NULL;

    if (!boot)
        return;
    if (!container) {
        if (boot->kernel_args)
            faults_add_member(faults, boot->at, "kernelArgs", "needs a kernel: give container");
        return;
    }
    if (!container->kernel_path && !container->initrd_path)
        faults_add(faults, container->at, "must have kernelPath or initrdPath");
    else if (boot->kernel_args && !container->kernel_path)
        faults_add_member(faults, boot->at, "kernelArgs", "needs a kernel: give container.kernelPath");
    validate_image_path(faults, container->at, "kernelPath", container->kernel_path);
    validate_image_path(faults, container->at, "initrdPath", container->initrd_path);
}

static void validate_acpi_volume(struct vmi *vmi, struct faults *faults, const char *member, const char *name)
{
    const struct vmi_acpi_tables *acpi = vmi->spec.domain.firmware.acpi;
    const struct vmi_volume *v = name ? vmi_find_volume(vmi, name) : NULL;

    if (name && !v)
        faults_add_member(faults, acpi->at, member, "there is no volume named \"%.64s\"", name);
    else if (v && v->kind != VMI_VOLUME_SECRET && v->kind != VMI_VOLUME_UNSET)
        faults_add_member(faults, acpi->at, member, "the volume \"%.64s\" is of kind %s (must be secret)", name,
                          vmi_volume_kind_name(v->kind));
}

static void validate_firmware(struct vmi *vmi, struct faults *faults)
{
    const struct vmi_firmware *firmware = &vmi->spec.domain.firmware;
    const struct vmi_bootloader *loader = firmware->bootloader;
    const struct vmi_efi *efi = loader ? loader->efi : NULL;

    if (efi && loader->bios)
        faults_add(faults, loader->at, "has both bios and efi: give only one of them");
    if (is_arch(vmi, "arm64")) {
        if (loader && loader->bios)
            faults_add(faults, loader->bios->at, "arm64 has no BIOS: use efi");
        if (efi && efi->secure_boot == OPT_TRUE)
            faults_add_member(faults, efi->at, "secureBoot", "is not there on arm64: give false");
    } else if (efi && opt_bool_or(efi->secure_boot, true) && !vmi_feature_on(vmi->spec.domain.features.smm)) {
        faults_add(faults, efi->at,
                   "secure boot needs features.smm (give features.smm.enabled: true, or "
                   "secureBoot: false)");
    }
    validate_kernel_boot(firmware->kernel_boot, faults);
    if (firmware->acpi) {
        if (!firmware->acpi->slic_name_ref && !firmware->acpi->msdm_name_ref)
            faults_add(faults, firmware->acpi->at, "must have slicNameRef or msdmNameRef");
        validate_acpi_volume(vmi, faults, "slicNameRef", firmware->acpi->slic_name_ref);
        validate_acpi_volume(vmi, faults, "msdmNameRef", firmware->acpi->msdm_name_ref);
    }
}

/* ---- features ---- */

static void need(struct faults *faults, const struct node *at, const char *name, bool is_on,
                 const struct vmi_feature *needed, const char *needed_name)
{
    if (is_on && !vmi_feature_on(needed))
        faults_add_member(faults, at, name, "needs %s, which is switched off", needed_name);
}

static void validate_features(struct vmi *vmi, struct faults *faults)
{
    const struct vmi_features *features = &vmi->spec.domain.features;
    const struct vmi_hyperv *h = features->hyperv;

    if (!h)
        return;
    if (features->hyperv_passthrough && opt_bool_or(features->hyperv_passthrough->enabled, true))
        faults_add_member(faults, features->at, "hypervPassthrough", "excludes hyperv: give only one of them");
    need(faults, h->at, "synictimer", h->synictimer && opt_bool_or(h->synictimer->enabled, true), h->synic, "synic");
    need(faults, h->at, "synic", vmi_feature_on(h->synic), h->vpindex, "vpindex");
    need(faults, h->at, "ipi", vmi_feature_on(h->ipi), h->vpindex, "vpindex");
    need(faults, h->at, "tlbflush", h->tlbflush && opt_bool_or(h->tlbflush->enabled, true), h->vpindex, "vpindex");
    need(faults, h->at, "evmcs", vmi_feature_on(h->evmcs), h->vapic, "vapic");
}

/* ---- devices ---- */

static void validate_names(struct vmi *vmi, struct faults *faults)
{
    const struct vmi_devices *devices = &vmi->spec.domain.devices;
    struct named *names =
        arena_new_array(vmi->arena, struct named, devices->gpus.count + devices->host_devices.count + 1);
    size_t n = 0;

    for (size_t i = 0; i < devices->gpus.count && names; i++)
        names[n++] = (struct named){devices->gpus.items[i].at, devices->gpus.items[i].name};
    for (size_t i = 0; i < devices->host_devices.count && names; i++)
        names[n++] = (struct named){devices->host_devices.items[i].at, devices->host_devices.items[i].name};
    validate_unique(vmi, faults, names, n, "device");
    for (size_t i = 0; i < devices->gpus.count + devices->host_devices.count; i++) {
        const struct vmi_host_device *d =
            i < devices->gpus.count ? &devices->gpus.items[i] : &devices->host_devices.items[i - devices->gpus.count];

        if (d->at && d->name && !d->device_name && !node_get(d->at, "deviceName") && !node_get(d->at, "claimName"))
            faults_add_member(faults, d->at, "deviceName", "is missing (resource of the device plug-in)");
    }
}

static bool is_video_allowed(const struct vmi *vmi, enum vmi_video_type type)
{
    if (is_arch(vmi, "arm64"))
        return type == VMI_VIDEO_VIRTIO || type == VMI_VIDEO_RAMFB;
    if (is_arch(vmi, "s390x"))
        return type == VMI_VIDEO_VIRTIO;
    return true;
}

static void validate_other_devices(struct vmi *vmi, struct faults *faults)
{
    const struct vmi_devices *devices = &vmi->spec.domain.devices;
    const struct vmi_watchdog *watchdog = devices->watchdog;
    size_t ramfbs = 0;

    if (watchdog && watchdog->at && is_arch(vmi, "arm64"))
        faults_add(faults, watchdog->at, "arm64 has no watchdog device");
    else if (watchdog && watchdog->diag288 && is_arch(vmi, "amd64"))
        faults_add(faults, watchdog->diag288->at, "is the watchdog of s390x (amd64 has i6300esb)");
    else if (watchdog && watchdog->i6300esb && is_arch(vmi, "s390x"))
        faults_add(faults, watchdog->i6300esb->at, "is the watchdog of amd64 (s390x has diag288)");
    if (devices->sound && is_arch(vmi, "arm64"))
        faults_add(faults, devices->sound->at, "arm64 has no sound device");
    if (devices->video && devices->autoattach_graphics_device == OPT_FALSE)
        faults_add(faults, devices->video->at, "needs a graphics device: autoattachGraphicsDevice is false");
    else if (devices->video && devices->video->type != VMI_VIDEO_UNSET && !is_video_allowed(vmi, devices->video->type))
        faults_add_member(faults, devices->video->at, "type", "is not there on %s (must be virtio%s)",
                          vmi->spec.architecture, is_arch(vmi, "arm64") ? " or ramfb" : "");
    for (size_t i = 0; i < devices->gpus.count; i++) {
        const struct vmi_vgpu_options *o = devices->gpus.items[i].virtual_gpu_options;

        if (o && o->display && o->display->enabled != OPT_FALSE &&
            (!o->display->ram_fb || o->display->ram_fb->enabled == OPT_TRUE) && ++ramfbs == 2)
            faults_add(faults, o->display->at, "only one GPU can have a display with ramFB");
    }
    if (vmi->spec.domain.io_threads_policy == VMI_IO_THREADS_SUPPLEMENTAL_POOL &&
        (!vmi->spec.domain.io_threads ||
         opt_int_or(vmi->spec.domain.io_threads->supplemental_pool_thread_count, 0) < 1))
        faults_add_member(faults, vmi->spec.domain.at, "ioThreadsPolicy",
                          "supplementalPool needs ioThreads.supplementalPoolThreadCount of 1 or more");
}

/* ---- probes ---- */

static void validate_probe(struct vmi *vmi, struct faults *faults, const struct node *probe)
{
    static const char *const handlers[] = {"exec", "guestAgentPing", "httpGet", "tcpSocket"};
    bool pod_network = false;
    unsigned n = 0;

    if (!probe)
        return;
    for (size_t i = 0; i < vmi->spec.networks.count; i++)
        pod_network |= vmi->spec.networks.items[i].pod != NULL;
    for (size_t i = 0; i < ELEMENTSOF(handlers); i++) {
        const struct node *h = node_get(probe, handlers[i]);

        if (!h || h->kind == NODE_NULL)
            continue;
        n++;
        if (!pod_network && i >= 2)
            faults_add(faults, h, "needs an interface on the pod's network");
    }
    if (n != 1)
        faults_add(faults, probe, "must have exactly one of exec, guestAgentPing, httpGet and tcpSocket");
}

void validate_devices(struct vmi *vmi, struct faults *faults)
{
    validate_memory(vmi, faults);
    validate_cpu(vmi, faults);
    validate_machine(vmi, faults);
    validate_firmware(vmi, faults);
    validate_features(vmi, faults);
    validate_names(vmi, faults);
    validate_other_devices(vmi, faults);
    validate_probe(vmi, faults, vmi->spec.liveness_probe);
    validate_probe(vmi, faults, vmi->spec.readiness_probe);
    if (vmi->spec.start_strategy && vmi->spec.liveness_probe)
        faults_add_member(faults, vmi->spec.at, "startStrategy",
                          "excludes livenessProbe: a paused guest would fail it");
}
