/* SPDX-License-Identifier: Apache-2.0 */
#include "vmi/overhead.h"

#include "base/util.h"

#define MIB (1024LL * 1024)

/*
 * KubeVirt's estimate of a launcher pod (the launcher room of its controller: page tables, QEMU and per-device parts)
 * with vmlet's two processes in the place of its monitor, launcher, virtqemud and virtlogd (190 MiB there).
 */
struct list {
    json_t *items;
    long long total;
};

static void add(struct list *list, long long bytes, const char *what, const char *why)
{
    if (bytes <= 0)
        return;
    json_array_append_new(list->items,
                          json_pack("{s:s, s:I, s:s}", "what", what, "bytes", (json_int_t)bytes, "why", why));
    list->total += bytes;
}

bool overhead_is_guaranteed(const struct vmi_resources *r)
{
    return r->requests.cpu.is_set && r->limits.cpu.is_set && r->requests.memory.is_set && r->limits.memory.is_set &&
           r->requests.cpu.milli == r->limits.cpu.milli && r->requests.memory.value == r->limits.memory.value;
}

static long long count_host_devices(const struct vmi_devices *d)
{
    size_t n = d->gpus.count + d->host_devices.count;

    for (size_t i = 0; i < d->interfaces.count; i++)
        n += d->interfaces.items[i].binding == VMI_BINDING_SRIOV;
    return (long long)n;
}

static long long count_passt(const struct vmi_devices *d)
{
    long long n = 0;

    for (size_t i = 0; i < d->interfaces.count; i++)
        n += d->interfaces.items[i].passt || d->interfaces.items[i].passt_binding;
    return n;
}

json_t *overhead_estimate(const struct vmi *vmi)
{
    const struct vmi_domain *domain = &vmi->spec.domain;
    const struct vmi_devices *devices = &domain->devices;
    const struct vmi_reserved_overhead *reserved = domain->memory.reserved_overhead;
    struct list list = {.items = json_array()};
    long long guest = domain->memory.guest.value;

    add(&list, 4 * MIB, "vmlet's monitor and launcher",
        "two processes; 3 MiB is their budget, with room to read images");
    add(&list, 30 * MIB, "QEMU", "its program and heap, without devices");
    add(&list, guest / 512, "page tables", "8 bytes for each 4 KiB page of the guest's memory");
    add(&list, (long long)vmi_max_vcpus(vmi) * 8 * MIB, "vCPU threads", "8 MiB of stack each");
    add(&list, 8 * MIB, "I/O thread", "8 MiB of stack");
    if (devices->autoattach_graphics_device != OPT_FALSE)
        add(&list, 32 * MIB, "video memory", "autoattachGraphicsDevice is not false");
    if (streq(vmi->spec.architecture, "arm64"))
        add(&list, 128 * MIB, "arm64 firmware", "UEFI images are mapped whole");
    if (count_host_devices(devices) > 0)
        add(&list, 1024 * MIB, "VFIO", "host devices: mappings of their memory");
    if (devices->tpm && opt_bool_or(devices->tpm->enabled, true))
        add(&list, 53 * MIB, "TPM emulator", "tpm in the manifest");
    if (domain->launch_security)
        add(&list, 256 * MIB, "encrypted memory", "launchSecurity: bounce buffers");
    add(&list, count_passt(devices) * 250 * MIB, "passt", "its buffers, for each interface");
    if (domain->cpu.dedicated_cpu_placement == OPT_TRUE || overhead_is_guaranteed(&domain->resources))
        add(&list, 100 * MIB, "reserve", "a pod of Guaranteed class is killed at its limit, without a warning");
    if (reserved && reserved->added_overhead.is_set)
        add(&list, reserved->added_overhead.value, "reservedOverhead", "addedOverhead in the manifest");
    return json_pack("{s:b, s:I, s:I, s:o}", "estimate", 1, "totalBytes", (json_int_t)list.total, "guestBytes",
                     (json_int_t)guest, "items", list.items);
}
