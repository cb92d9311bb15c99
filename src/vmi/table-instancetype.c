/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instance types and preferences: instancetype.kubevirt.io/v1beta1, types.go of KubeVirt 1.9. What instancetype.c
 * computes with is decoded; what it only merges into the VM is checked here and decoded at its place there.
 */
#include "vmi/tables.h"

#define OBJECT_HEAD(type)                                                                                              \
    FIELD_CHECKED("apiVersion", FIELD_TYPE_STRING, .doc = "instancetype.kubevirt.io/v1beta1"),                         \
        FIELD_CHECKED("kind", FIELD_TYPE_STRING, .doc = "kind of the object"),                                         \
        FIELD_OBJECT(type, metadata, object_metadata, "metadata", &table_metadata, .doc = "name, annotations")
#define BOOL(name, text)          FIELD_CHECKED(name, FIELD_TYPE_BOOL, .doc = text)
#define STRING(name, text)        FIELD_CHECKED(name, FIELD_TYPE_STRING, .doc = text)
#define OBJECT(name, table, text) FIELD_CHECKED(name, FIELD_TYPE_RAW_OBJECT, .sub = table, .doc = text)
#define LIST(name, table, text)   FIELD_CHECKED(name, FIELD_TYPE_RAW_LIST, .sub = table, .max = 256, .doc = text)

/* ---- instance type ---- */

#define CPU struct instancetype_cpu
DEFINE_TABLE(table_instancetype_cpu, "CPUInstancetype", CPU,
             FIELD_INT(CPU, guest, "guest", 1, 512, .flags = FIELD_REQUIRED, .doc = "number of vCPUs"),
             STRING("model", "CPU model"), BOOL("dedicatedCPUPlacement", "one host CPU for each vCPU"),
             BOOL("isolateEmulatorThread", "one more host CPU, for the emulator"),
             OBJECT("numa", &table_numa, "NUMA topology"), OBJECT("realtime", &table_realtime, "real-time tuning"),
             FIELD_CHECKED("maxSockets", FIELD_TYPE_INT, .min = 1, .max = 512, .doc = "sockets after hotplug"));

#define MEMORY struct instancetype_memory
DEFINE_TABLE(table_instancetype_memory, "MemoryInstancetype", MEMORY,
             FIELD_QUANTITY(MEMORY, guest, "guest", 1, .flags = FIELD_REQUIRED, .doc = "memory that the guest sees"),
             OBJECT("hugepages", &table_hugepages, "guest memory on huge pages"),
             FIELD_INT(MEMORY, overcommit_percent, "overcommitPercent", 0, 100,
                       .doc = "by how much less the pod asks for"),
             FIELD_CHECKED("maxGuest", FIELD_TYPE_QUANTITY, .min = 1, .doc = "memory after hotplug"));

#define SPEC struct instancetype_spec
DEFINE_TABLE(table_instancetype_spec, "VirtualMachineInstancetypeSpec", SPEC,
             FIELD_OBJECT(SPEC, cpu, instancetype_cpu, "cpu", &table_instancetype_cpu, .flags = FIELD_REQUIRED,
                          .doc = "processors"),
             FIELD_OBJECT(SPEC, memory, instancetype_memory, "memory", &table_instancetype_memory,
                          .flags = FIELD_REQUIRED, .doc = "memory"),
             FIELD_CHECKED("nodeSelector", FIELD_TYPE_STRING_MAP, .doc = "labels of nodes"),
             STRING("schedulerName", "scheduler of the pod"), LIST("gpus", &table_gpu, "GPUs passed through"),
             LIST("hostDevices", &table_host_device, "devices passed through"),
             STRING("ioThreadsPolicy", "how disks share I/O threads"),
             OBJECT("ioThreads", &table_io_threads, "pool of I/O threads"),
             OBJECT("launchSecurity", &table_launch_security, "confidential guests"),
             FIELD_CHECKED("annotations", FIELD_TYPE_STRING_MAP, .doc = "annotations of the instance"));

#define TYPE struct instancetype_object
#define TYPE_FIELDS                                                                                                    \
    OBJECT_HEAD(TYPE), FIELD_OBJECT(TYPE, spec, instancetype_spec, "spec", &table_instancetype_spec,                   \
                                    .flags = FIELD_REQUIRED, .doc = "what a VM gets")
DEFINE_TABLE(table_instancetype, "VirtualMachineInstancetype", TYPE, TYPE_FIELDS);
DEFINE_TABLE(table_cluster_instancetype, "VirtualMachineClusterInstancetype", TYPE, TYPE_FIELDS);

/* ---- preference ---- */

ENUM_NAMES(topology_names, [1] = "sockets", [2] = "cores", [3] = "threads", [4] = "spread", [5] = "any",
           [6] = "preferSockets", [7] = "preferCores", [8] = "preferThreads", [9] = "preferSpread", [10] = "preferAny");
ENUM_NAMES(across_names, [1] = "SocketsCores", [2] = "CoresThreads", [3] = "SocketsCoresThreads");
ENUM_NAMES(arch_names, [1] = "amd64", [2] = "arm64", [3] = "s390x");

DEFINE_TABLE(table_spread_options, "SpreadOptions", struct spread_options,
             FIELD_STRING(struct spread_options, across, "across", .names = &across_names,
                          .doc = "over what vCPUs are spread; SocketsCores"),
             FIELD_INT(struct spread_options, ratio, "ratio", 1, 512,
                       .doc = "how many of the inner in one of the outer"));

#define PREFERENCE_CPU struct preference_cpu
DEFINE_TABLE(table_preference_cpu, "CPUPreferences", PREFERENCE_CPU,
             FIELD_STRING(PREFERENCE_CPU, topology, "preferredCPUTopology", .names = &topology_names,
                          .doc = "what a vCPU is; a socket unless given"),
             FIELD_OBJECT(PREFERENCE_CPU, spread, spread_options, "spreadOptions", &table_spread_options,
                          .doc = "how vCPUs are spread"),
             LIST("preferredCPUFeatures", &table_cpu_feature, "CPU features"));

DEFINE_CHECK_TABLE(
    table_preference_devices, "DevicePreferences", BOOL("preferredAutoattachGraphicsDevice", "VGA and VNC"),
    BOOL("preferredAutoattachMemBalloon", "memory balloon"),
    BOOL("preferredAutoattachPodInterface", "a NIC on the pod's network"),
    BOOL("preferredAutoattachSerialConsole", "serial console"), BOOL("preferredAutoattachInputDevice", "a tablet"),
    BOOL("preferredDisableHotplug", "no disk is plugged while the VM runs"),
    OBJECT("preferredVirtualGPUOptions", &table_vgpu_options, "without effect, as in KubeVirt"),
    STRING("preferredSoundModel", "model of a sound card"),
    BOOL("preferredUseVirtioTransitional", "virtio devices that old guests know"),
    STRING("preferredInputBus", "bus of inputs"), STRING("preferredInputType", "type of inputs"),
    STRING("preferredDiskBus", "bus of hard disks"), STRING("preferredLunBus", "bus of LUNs"),
    STRING("preferredCdromBus", "bus of CD-ROMs"),
    BOOL("preferredDiskDedicatedIoThread", "an I/O thread for each virtio disk"),
    STRING("preferredDiskCache", "host cache of disks"), STRING("preferredDiskIO", "how the host does I/O"),
    OBJECT("preferredDiskBlockSize", &table_block_size, "block sizes of disks"),
    STRING("preferredInterfaceModel", "model of NICs"),
    OBJECT("preferredRng", &table_empty, "random numbers of the host"),
    BOOL("preferredBlockMultiQueue", "a virtio-blk queue for each vCPU"),
    BOOL("preferredNetworkInterfaceMultiQueue", "a NIC queue for each vCPU"),
    OBJECT("preferredTPM", &table_tpm, "TPM 2.0"),
    OBJECT("preferredInterfaceMasquerade", &table_empty, "binding of a NIC on the pod's network"),
    STRING("preferredPanicDeviceModel", "model of panic devices"), STRING("preferredVideoType", "video adapter"));

DEFINE_CHECK_TABLE(table_preference_features, "FeaturePreferences", OBJECT("preferredAcpi", &table_feature, "ACPI"),
                   OBJECT("preferredApic", &table_apic, "APIC"),
                   OBJECT("preferredHyperv", &table_hyperv, "Hyper-V enlightenments"),
                   OBJECT("preferredKvm", &table_feature_kvm, "KVM's signature"),
                   OBJECT("preferredPvspinlock", &table_feature, "paravirtual spinlocks"),
                   OBJECT("preferredSmm", &table_feature, "system management mode"));

DEFINE_CHECK_TABLE(table_preference_firmware, "FirmwarePreferences", BOOL("preferredUseBios", "BIOS"),
                   BOOL("preferredUseBiosSerial", "BIOS output on the serial console"),
                   FIELD_CHECKED("preferredUseEfi", FIELD_TYPE_BOOL, .flags = FIELD_DEPRECATED, .doc = "UEFI"),
                   FIELD_CHECKED("preferredUseSecureBoot", FIELD_TYPE_BOOL, .flags = FIELD_DEPRECATED,
                                 .doc = "secure boot"),
                   OBJECT("preferredEfi", &table_efi, "UEFI"));

DEFINE_CHECK_TABLE(table_preference_machine, "MachinePreferences", STRING("preferredMachineType", "machine type"));
DEFINE_CHECK_TABLE(table_preference_volumes, "VolumePreferences",
                   FIELD_CHECKED("preferredStorageClassName", FIELD_TYPE_STRING, .flags = FIELD_POD,
                                 .doc = "storage class of DataVolumes"));
DEFINE_CHECK_TABLE(table_clock_offset, "ClockOffset", OBJECT("utc", &table_clock_utc, "clock in UTC"),
                   STRING("timezone", "clock in a time zone"));
DEFINE_CHECK_TABLE(table_preference_clock, "ClockPreferences",
                   OBJECT("preferredClockOffset", &table_clock_offset, "the clock's offset"),
                   OBJECT("preferredTimer", &table_timer, "timers"));

DEFINE_TABLE(table_required_cpu, "CPUPreferenceRequirement", CPU,
             FIELD_INT(CPU, guest, "guest", 1, 512, .flags = FIELD_REQUIRED, .doc = "least number of vCPUs"));
DEFINE_TABLE(table_required_memory, "MemoryPreferenceRequirement", MEMORY,
             FIELD_QUANTITY(MEMORY, guest, "guest", 1, .flags = FIELD_REQUIRED, .doc = "least memory"));
#define REQUIREMENTS struct preference_requirements
DEFINE_TABLE(table_requirements, "PreferenceRequirements", REQUIREMENTS,
             FIELD_OBJECT(REQUIREMENTS, cpu, instancetype_cpu, "cpu", &table_required_cpu, .doc = "processors"),
             FIELD_OBJECT(REQUIREMENTS, memory, instancetype_memory, "memory", &table_required_memory, .doc = "memory"),
             FIELD_STRING(REQUIREMENTS, architecture, "architecture", .names = &arch_names, .doc = "architecture"));

#define PREFERENCE_SPEC struct preference_spec
DEFINE_TABLE(table_preference_spec, "VirtualMachinePreferenceSpec", PREFERENCE_SPEC,
             FIELD_OBJECT(PREFERENCE_SPEC, cpu, preference_cpu, "cpu", &table_preference_cpu, .doc = "processors"),
             FIELD_OBJECT(PREFERENCE_SPEC, requirements, preference_requirements, "requirements", &table_requirements,
                          .doc = "least that the VM must have"),
             FIELD_INT(PREFERENCE_SPEC, spread_ratio, "preferSpreadSocketToCoreRatio", 0, 512,
                       .flags = FIELD_DEPRECATED, .doc = "cores of a socket when vCPUs are spread"),
             OBJECT("clock", &table_preference_clock, "clock and timers"),
             OBJECT("devices", &table_preference_devices, "devices"),
             OBJECT("features", &table_preference_features, "features of the machine"),
             OBJECT("firmware", &table_preference_firmware, "firmware"),
             OBJECT("machine", &table_preference_machine, "machine type"),
             OBJECT("volumes", &table_preference_volumes, "volumes"),
             STRING("preferredSubdomain", "subdomain of the host name"),
             FIELD_CHECKED("preferredTerminationGracePeriodSeconds", FIELD_TYPE_INT, .max = INT32_MAX,
                           .doc = "time for the guest to shut down"),
             FIELD_CHECKED("annotations", FIELD_TYPE_STRING_MAP, .doc = "annotations of the instance"),
             FIELD_CHECKED("preferredArchitecture", FIELD_TYPE_STRING, .names = &arch_names, .doc = "architecture"));

#define PREFERENCE struct preference_object
#define PREFERENCE_FIELDS                                                                                              \
    OBJECT_HEAD(PREFERENCE), FIELD_OBJECT(PREFERENCE, spec, preference_spec, "spec", &table_preference_spec,           \
                                          .doc = "what a VM gets that says nothing itself")
DEFINE_TABLE(table_preference, "VirtualMachinePreference", PREFERENCE, PREFERENCE_FIELDS);
DEFINE_TABLE(table_cluster_preference, "VirtualMachineClusterPreference", PREFERENCE, PREFERENCE_FIELDS);
