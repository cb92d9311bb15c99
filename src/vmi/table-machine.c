/* SPDX-License-Identifier: Apache-2.0 */
/* spec.domain but its devices: processor, memory, firmware, clock, features. */
#include "vmi/tables.h"

/* ---- cpu ---- */

ENUM_NAMES(policy_names, [VMI_POLICY_FORCE] = "force", [VMI_POLICY_REQUIRE] = "require",
           [VMI_POLICY_OPTIONAL] = "optional", [VMI_POLICY_DISABLE] = "disable", [VMI_POLICY_FORBID] = "forbid");

DEFINE_TABLE(table_cpu_feature, "CPUFeature", struct vmi_cpu_feature,
             FIELD_STRING(struct vmi_cpu_feature, name, "name", .flags = FIELD_REQUIRED, .doc = "feature's name"),
             FIELD_ENUM(struct vmi_cpu_feature, policy, vmi_feature_policy, "policy", &policy_names,
                        .doc = "require unless given"));

DEFINE_TABLE(table_realtime, "Realtime", struct vmi_realtime,
             FIELD_STRING(struct vmi_realtime, mask, "mask", .doc = "vCPUs that get a real-time scheduler"));

DEFINE_TABLE(table_numa, "NUMA", struct vmi_numa,
             FIELD_RAW_OBJECT(struct vmi_numa, guest_mapping_passthrough, "guestMappingPassthrough",
                              .flags = FIELD_NOT_BUILT, .instead = "leave it out: the guest then has one NUMA node",
                              .doc = "NUMA cells of the guest as on the host"));

/*
 * dedicatedCpuPlacement and isolateEmulatorThread are taken: the pod's cpuset gives the CPUs, and the machine follows
 * (no free page reporting, one CPU more). numa and realtime are refused: without them a guest would run that is not
 * what was asked for.
 */
#define CPU struct vmi_cpu
DEFINE_TABLE(table_cpu, "CPU", struct vmi_cpu, FIELD_INT(CPU, cores, "cores", 0, 512, .doc = "cores per socket"),
             FIELD_INT(CPU, sockets, "sockets", 0, 512, .doc = "sockets"),
             FIELD_INT(CPU, max_sockets, "maxSockets", 0, 512, .doc = "sockets that can be there after hotplug"),
             FIELD_INT(CPU, threads, "threads", 0, 512, .doc = "threads per core"),
             FIELD_STRING(CPU, model, "model", .doc = "host-model, host-passthrough, or a model of QEMU"),
             FIELD_LIST(CPU, features, vmi_cpu_feature, "features", &table_cpu_feature, 1024,
                        .doc = "CPU features on top of the model's"),
             FIELD_BOOL(CPU, dedicated_cpu_placement, "dedicatedCpuPlacement", .doc = "one host CPU for each vCPU"),
             FIELD_POINTER(CPU, numa, vmi_numa, "numa", &table_numa, .doc = "NUMA topology"),
             FIELD_BOOL(CPU, isolate_emulator_thread, "isolateEmulatorThread",
                        .doc = "one more host CPU, for the emulator's own threads"),
             FIELD_POINTER(CPU, realtime, vmi_realtime, "realtime", &table_realtime, .flags = FIELD_NOT_BUILT,
                           .instead = "leave it out: dedicatedCpuPlacement is built", .doc = "real-time tuning"));

/* ---- memory, resources ---- */

DEFINE_TABLE(table_hugepages, "Hugepages", struct vmi_hugepages,
             FIELD_QUANTITY(struct vmi_hugepages, page_size, "pageSize", 1, .doc = "size of a page, 2Mi or 1Gi"));

ENUM_NAMES(mem_lock_names, [1] = "Required", [2] = "NotRequired");
DEFINE_TABLE(table_reserved_overhead, "ReservedOverhead", struct vmi_reserved_overhead,
             FIELD_QUANTITY(struct vmi_reserved_overhead, added_overhead, "addedOverhead", 0, .flags = FIELD_POD,
                            .doc = "memory that the pod gets on top"),
             FIELD_STRING(struct vmi_reserved_overhead, mem_lock, "memLock", .flags = FIELD_POD,
                          .names = &mem_lock_names, .doc = "whether the pod may lock its memory"));

DEFINE_TABLE(table_memory, "Memory", struct vmi_memory,
             FIELD_POINTER(struct vmi_memory, hugepages, vmi_hugepages, "hugepages", &table_hugepages,
                           .doc = "guest memory on huge pages"),
             FIELD_QUANTITY(struct vmi_memory, guest, "guest", 1, .doc = "memory that the guest sees"),
             FIELD_QUANTITY(struct vmi_memory, max_guest, "maxGuest", 1, .doc = "memory it can have after hotplug"),
             FIELD_POINTER(struct vmi_memory, reserved_overhead, vmi_reserved_overhead, "reservedOverhead",
                           &table_reserved_overhead, .doc = "overhead of the pod"));

#define MAX_RESOURCES 256

/* ResourceList: a map with any resource as key. */
static void decode_resource_list(struct decoder *d, const struct field *field, const struct node *node, void *target)
{
    struct vmi_resource_list *list = target;
    struct vmi_resource *others = NULL;
    size_t n = 0;

    if (!decode_is_object(d, node))
        return;
    if (node->count > MAX_RESOURCES) {
        faults_add(d->faults, node, "has %zu resources (at most %d)", node->count, MAX_RESOURCES);
        return;
    }
    if (node->count > 0)
        others = arena_new_array(d->arena, struct vmi_resource, node->count);
    if (node->count > 0 && !others) {
        d->out_of_memory = true;
        return;
    }
    NODE_FOREACH(child, node)
    {
        struct quantity q;

        if (child->kind == NODE_NULL || !decode_quantity(d, child, 0, &q) || !list)
            continue;
        if (strcmp(child->key, "cpu") == 0)
            list->cpu = q;
        else if (strcmp(child->key, "memory") == 0)
            list->memory = q;
        else
            others[n++] = (struct vmi_resource){.at = child, .name = child->key, .quantity = q};
    }
    if (list) {
        list->at = node;
        list->others.items = others;
        list->others.count = n;
    }
}

DEFINE_TABLE(table_resources, "ResourceRequirements", struct vmi_resources,
             FIELD_CUSTOM(struct vmi_resources, requests, "requests", decode_resource_list,
                          .doc = "what the pod is scheduled for"),
             FIELD_CUSTOM(struct vmi_resources, limits, "limits", decode_resource_list, .doc = "what the pod may use"),
             FIELD_BOOL(struct vmi_resources, overcommit_guest_overhead, "overcommitGuestOverhead", .flags = FIELD_POD,
                        .doc = "leave the overhead out of the pod's request"));

/* ---- machine, firmware, chassis ---- */

DEFINE_TABLE(table_machine_type, "Machine", struct vmi_machine_type,
             FIELD_STRING(struct vmi_machine_type, type, "type", .doc = "q35, pc-q35-*, virt"));

DEFINE_TABLE(table_bios, "BIOS", struct vmi_bios,
             FIELD_BOOL(struct vmi_bios, use_serial, "useSerial", .doc = "BIOS messages on the serial console"));

DEFINE_TABLE(table_efi, "EFI", struct vmi_efi,
             FIELD_BOOL(struct vmi_efi, secure_boot, "secureBoot", .doc = "true unless given; needs features.smm"),
             FIELD_BOOL(struct vmi_efi, persistent, "persistent", .doc = "keep the variables over restarts"));

DEFINE_TABLE(table_bootloader, "Bootloader", struct vmi_bootloader,
             FIELD_POINTER(struct vmi_bootloader, bios, vmi_bios, "bios", &table_bios, .doc = "SeaBIOS"),
             FIELD_POINTER(struct vmi_bootloader, efi, vmi_efi, "efi", &table_efi, .doc = "UEFI"));

ENUM_NAMES(pull_policy_names, [1] = "Always", [2] = "IfNotPresent", [3] = "Never");

#define KBC struct vmi_kernel_boot_container
DEFINE_TABLE(table_kernel_boot_container, "KernelBootContainer", struct vmi_kernel_boot_container,
             FIELD_STRING(KBC, image, "image", .flags = FIELD_REQUIRED, .doc = "container image with the files"),
             FIELD_STRING(KBC, image_pull_secret, "imagePullSecret", .flags = FIELD_POD,
                          .doc = "secret for its registry"),
             FIELD_STRING(KBC, image_pull_policy, "imagePullPolicy", .flags = FIELD_POD, .names = &pull_policy_names,
                          .doc = "when the image is pulled"),
             FIELD_STRING(KBC, kernel_path, "kernelPath", .doc = "kernel in the image"),
             FIELD_STRING(KBC, initrd_path, "initrdPath", .doc = "initial ramdisk in the image"));

DEFINE_TABLE(table_kernel_boot, "KernelBoot", struct vmi_kernel_boot,
             FIELD_STRING(struct vmi_kernel_boot, kernel_args, "kernelArgs", .doc = "kernel command line"),
             FIELD_POINTER(struct vmi_kernel_boot, container, vmi_kernel_boot_container, "container",
                           &table_kernel_boot_container, .doc = "where the kernel is"));

DEFINE_TABLE(table_acpi_tables, "ACPI", struct vmi_acpi_tables,
             FIELD_STRING(struct vmi_acpi_tables, slic_name_ref, "slicNameRef", .doc = "volume with the SLIC table"),
             FIELD_STRING(struct vmi_acpi_tables, msdm_name_ref, "msdmNameRef", .doc = "volume with the MSDM table"));

#define FW struct vmi_firmware
DEFINE_TABLE(table_firmware, "Firmware", struct vmi_firmware,
             FIELD_STRING(FW, uuid, "uuid", .format = &format_uuid, .doc = "SMBIOS UUID"),
             FIELD_POINTER(FW, bootloader, vmi_bootloader, "bootloader", &table_bootloader, .doc = "BIOS or UEFI"),
             FIELD_STRING(FW, serial, "serial", .format = &format_serial, .max = 256, .doc = "SMBIOS serial number"),
             FIELD_POINTER(FW, kernel_boot, vmi_kernel_boot, "kernelBoot", &table_kernel_boot,
                           .doc = "direct kernel boot"),
             FIELD_POINTER(FW, acpi, vmi_acpi_tables, "acpi", &table_acpi_tables, .doc = "extra ACPI tables"));

#define CH struct vmi_chassis
DEFINE_TABLE(table_chassis, "Chassis", struct vmi_chassis,
             FIELD_STRING(CH, manufacturer, "manufacturer", .doc = "SMBIOS chassis manufacturer"),
             FIELD_STRING(CH, version, "version", .doc = "SMBIOS chassis version"),
             FIELD_STRING(CH, serial, "serial", .doc = "SMBIOS chassis serial number"),
             FIELD_STRING(CH, asset, "asset", .doc = "SMBIOS chassis asset tag"),
             FIELD_STRING(CH, sku, "sku", .doc = "SMBIOS chassis SKU"));

/* ---- clock ---- */

ENUM_NAMES(hpet_tick_names, [VMI_TICK_DELAY] = "delay", [VMI_TICK_CATCHUP] = "catchup", [VMI_TICK_MERGE] = "merge",
           [VMI_TICK_DISCARD] = "discard");
ENUM_NAMES(pit_tick_names, [VMI_TICK_DELAY] = "delay", [VMI_TICK_CATCHUP] = "catchup", [VMI_TICK_DISCARD] = "discard");
ENUM_NAMES(rtc_tick_names, [VMI_TICK_DELAY] = "delay", [VMI_TICK_CATCHUP] = "catchup");
ENUM_NAMES(rtc_track_names, [VMI_RTC_TRACK_GUEST] = "guest", [VMI_RTC_TRACK_WALL] = "wall");

#define TS                struct vmi_timer_source
#define TIMER_PRESENT     FIELD_BOOL(TS, present, "present", .doc = "on unless false")
#define TIMER_TICK(names) FIELD_ENUM(TS, tick_policy, vmi_tick_policy, "tickPolicy", names, .doc = "for lost ticks")

DEFINE_TABLE(table_hpet, "HPETTimer", TS, TIMER_PRESENT, TIMER_TICK(&hpet_tick_names));
DEFINE_TABLE(table_pit, "PITTimer", TS, TIMER_PRESENT, TIMER_TICK(&pit_tick_names));
DEFINE_TABLE(table_rtc, "RTCTimer", TS, TIMER_PRESENT, TIMER_TICK(&rtc_tick_names),
             FIELD_ENUM(TS, track, vmi_rtc_track, "track", &rtc_track_names, .doc = "guest or wall clock"));
DEFINE_TABLE(table_plain_timer, "KVMTimer", TS, TIMER_PRESENT);

DEFINE_TABLE(table_timer, "Timer", struct vmi_timer,
             FIELD_POINTER(struct vmi_timer, hpet, vmi_timer_source, "hpet", &table_hpet,
                           .doc = "high-precision timer"),
             FIELD_POINTER(struct vmi_timer, kvm, vmi_timer_source, "kvm", &table_plain_timer, .doc = "KVM clock"),
             FIELD_POINTER(struct vmi_timer, pit, vmi_timer_source, "pit", &table_pit, .doc = "interval timer"),
             FIELD_POINTER(struct vmi_timer, rtc, vmi_timer_source, "rtc", &table_rtc, .doc = "real-time clock"),
             FIELD_POINTER(struct vmi_timer, hyperv, vmi_timer_source, "hyperv", &table_plain_timer,
                           .doc = "Hyper-V reference clock"));

DEFINE_TABLE(table_clock_utc, "ClockOffsetUTC", struct vmi_clock_utc,
             FIELD_INT(struct vmi_clock_utc, offset_seconds, "offsetSeconds", INT32_MIN, INT32_MAX,
                       .doc = "offset of the guest's clock to UTC"));

DEFINE_TABLE(table_clock, "Clock", struct vmi_clock,
             FIELD_POINTER(struct vmi_clock, utc, vmi_clock_utc, "utc", &table_clock_utc, .doc = "clock in UTC"),
             FIELD_STRING(struct vmi_clock, timezone, "timezone", .format = &format_timezone,
                          .doc = "clock in a time zone"),
             FIELD_POINTER(struct vmi_clock, timer, vmi_timer, "timer", &table_timer, .doc = "timers"));

/* ---- features ---- */

#define FEATURE(type, member, name_, text) FIELD_POINTER(type, member, vmi_feature, name_, &table_feature, .doc = text)

DEFINE_TABLE(table_apic, "FeatureAPIC", struct vmi_feature_apic,
             FIELD_BOOL(struct vmi_feature_apic, enabled, "enabled", .doc = "on unless false"),
             FIELD_BOOL(struct vmi_feature_apic, end_of_interrupt, "endOfInterrupt", .doc = "paravirtual EOI"));

DEFINE_TABLE(table_spinlocks, "FeatureSpinlocks", struct vmi_feature_spinlocks,
             FIELD_BOOL(struct vmi_feature_spinlocks, enabled, "enabled", .doc = "on unless false"),
             FIELD_INT(struct vmi_feature_spinlocks, spinlocks, "spinlocks", 0, UINT32_MAX, .doc = "retries; 4096"));

DEFINE_TABLE(table_vendorid, "FeatureVendorID", struct vmi_feature_vendor_id,
             FIELD_BOOL(struct vmi_feature_vendor_id, enabled, "enabled", .doc = "on unless false"),
             FIELD_STRING(struct vmi_feature_vendor_id, vendorid, "vendorid", .max = 12,
                          .doc = "what CPUID says the hypervisor is; 12 bytes are all that CPUID has"));

DEFINE_TABLE(table_synictimer, "SyNICTimer", struct vmi_feature_synic_timer,
             FIELD_BOOL(struct vmi_feature_synic_timer, enabled, "enabled", .doc = "on unless false"),
             FEATURE(struct vmi_feature_synic_timer, direct, "direct", "direct timer interrupts"));

DEFINE_TABLE(table_tlbflush, "TLBFlush", struct vmi_feature_tlbflush,
             FIELD_BOOL(struct vmi_feature_tlbflush, enabled, "enabled", .doc = "on unless false"),
             FEATURE(struct vmi_feature_tlbflush, direct, "direct", "direct TLB flush"),
             FEATURE(struct vmi_feature_tlbflush, extended, "extended", "extended TLB flush"));

#define HV struct vmi_hyperv
DEFINE_TABLE(
    table_hyperv, "FeatureHyperv", struct vmi_hyperv, FEATURE(HV, relaxed, "relaxed", "no guest watchdog time-outs"),
    FEATURE(HV, vapic, "vapic", "paravirtual APIC"),
    FIELD_POINTER(HV, spinlocks, vmi_feature_spinlocks, "spinlocks", &table_spinlocks,
                  .doc = "spinlock retries before the hypervisor is told"),
    FEATURE(HV, vpindex, "vpindex", "virtual processor index"), FEATURE(HV, runtime, "runtime", "vCPU runtime"),
    FEATURE(HV, synic, "synic", "synthetic interrupt controller"),
    FIELD_POINTER(HV, synictimer, vmi_feature_synic_timer, "synictimer", &table_synictimer, .doc = "synthetic timers"),
    FEATURE(HV, reset, "reset", "reset by a synthetic register"),
    FIELD_POINTER(HV, vendorid, vmi_feature_vendor_id, "vendorid", &table_vendorid, .doc = "vendor text"),
    FEATURE(HV, frequencies, "frequencies", "TSC and APIC frequency registers"),
    FEATURE(HV, reenlightenment, "reenlightenment", "notice of a changed TSC frequency"),
    FIELD_POINTER(HV, tlbflush, vmi_feature_tlbflush, "tlbflush", &table_tlbflush, .doc = "TLB flush calls"),
    FEATURE(HV, ipi, "ipi", "interrupts between processors by calls"),
    FEATURE(HV, evmcs, "evmcs", "enlightened VMCS, for nested guests"));

DEFINE_TABLE(table_hyperv_passthrough, "HyperVPassthrough", struct vmi_hyperv_passthrough,
             FIELD_BOOL(struct vmi_hyperv_passthrough, enabled, "enabled", .doc = "all that the host has"));

DEFINE_TABLE(table_feature_kvm, "FeatureKVM", struct vmi_feature_kvm,
             FIELD_BOOL(struct vmi_feature_kvm, hidden, "hidden", .doc = "hide KVM from the guest"));

#define FE struct vmi_features
DEFINE_TABLE(table_features, "Features", struct vmi_features, FEATURE(FE, acpi, "acpi", "ACPI; on unless false"),
             FIELD_POINTER(FE, apic, vmi_feature_apic, "apic", &table_apic, .doc = "APIC"),
             FIELD_POINTER(FE, hyperv_passthrough, vmi_hyperv_passthrough, "hypervPassthrough",
                           &table_hyperv_passthrough, .doc = "every Hyper-V feature of the host"),
             FIELD_POINTER(FE, hyperv, vmi_hyperv, "hyperv", &table_hyperv, .doc = "Hyper-V features, for Windows"),
             FEATURE(FE, smm, "smm", "system management mode"),
             FIELD_POINTER(FE, kvm, vmi_feature_kvm, "kvm", &table_feature_kvm, .doc = "how KVM shows itself"),
             FEATURE(FE, pvspinlock, "pvspinlock", "paravirtual spinlocks"));
