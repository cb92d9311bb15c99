/* SPDX-License-Identifier: Apache-2.0 */
/* spec.domain.devices, and spec.domain itself */
#include "vmi/tables.h"

/* ---- disks ---- */

ENUM_NAMES(
    bus_names, [VMI_BUS_VIRTIO] = "virtio", [VMI_BUS_SATA] = "sata", [VMI_BUS_SCSI] = "scsi", [VMI_BUS_USB] = "usb");
ENUM_NAMES(tray_names, [VMI_TRAY_OPEN] = "open", [VMI_TRAY_CLOSED] = "closed");
ENUM_NAMES(cache_names, [VMI_CACHE_NONE] = "none", [VMI_CACHE_WRITETHROUGH] = "writethrough",
           [VMI_CACHE_WRITEBACK] = "writeback");
ENUM_NAMES(io_names, [VMI_IO_NATIVE] = "native", [VMI_IO_THREADS] = "threads");
ENUM_NAMES(error_policy_names, [VMI_ERROR_POLICY_STOP] = "stop", [VMI_ERROR_POLICY_IGNORE] = "ignore",
           [VMI_ERROR_POLICY_REPORT] = "report", [VMI_ERROR_POLICY_ENOSPACE] = "enospace");

#define TARGET struct vmi_disk_target
#define TARGET_BUS                                                                                                     \
    FIELD_ENUM(TARGET, bus, vmi_bus, "bus", &bus_names, .doc = "what the guest sees it on; sata on amd64 unless given")
#define TARGET_READONLY FIELD_BOOL(TARGET, readonly, "readonly", .doc = "the guest cannot write")

DEFINE_TABLE(table_disk_target, "DiskTarget", TARGET, TARGET_BUS, TARGET_READONLY,
             FIELD_STRING(TARGET, pci_address, "pciAddress", .format = &format_pci_address,
                          .doc = "PCI address in the guest"),
             FIELD_INT(TARGET, rotation_rate, "rotationRate", 0, 65534,
                       .doc = "revolutions a minute that the guest sees; 1: an SSD"));

/* Reservation needs the host's pr-helper; without it SCSI reservations of the guest would fail. */
DEFINE_TABLE(table_lun_target, "LunTarget", TARGET, TARGET_BUS, TARGET_READONLY,
             FIELD_BOOL(TARGET, reservation, "reservation", .flags = FIELD_NOT_BUILT,
                        .instead = "leave it out: the guest's reservations then fail",
                        .doc = "persistent reservations"));

DEFINE_TABLE(table_cdrom_target, "CDRomTarget", TARGET, TARGET_BUS, TARGET_READONLY,
             FIELD_ENUM(TARGET, tray, vmi_tray, "tray", &tray_names, .doc = "closed unless given"));

#define BS struct vmi_custom_block_size
DEFINE_TABLE(table_custom_block_size, "CustomBlockSize", BS,
             FIELD_INT(BS, logical, "logical", 0, INT32_MAX, .doc = "logical block size in bytes"),
             FIELD_INT(BS, physical, "physical", 0, INT32_MAX, .doc = "physical block size in bytes"),
             FIELD_INT(BS, discard_granularity, "discardGranularity", 0, INT32_MAX,
                       .doc = "unit of discards in bytes"));

DEFINE_TABLE(table_block_size, "BlockSize", struct vmi_block_size,
             FIELD_POINTER(struct vmi_block_size, custom, vmi_custom_block_size, "custom", &table_custom_block_size,
                           .doc = "sizes as given"),
             FIELD_POINTER(struct vmi_block_size, match_volume, vmi_feature, "matchVolume", &table_feature,
                           .doc = "sizes of what the volume is on"));

#define DISK struct vmi_disk
DEFINE_TABLE(table_disk, "Disk", DISK,
             FIELD_STRING(DISK, name, "name", .flags = FIELD_REQUIRED, .format = &format_dns_label,
                          .doc = "name, the same as that of its volume"),
             FIELD_STRING(DISK, volume_name, "volumeName", .flags = FIELD_OLD, .doc = "name of its volume in v1alpha2"),
             FIELD_POINTER(DISK, disk, vmi_disk_target, "disk", &table_disk_target, .doc = "hard disk"),
             FIELD_POINTER(DISK, lun, vmi_disk_target, "lun", &table_lun_target, .doc = "SCSI device passed through"),
             FIELD_POINTER(DISK, cdrom, vmi_disk_target, "cdrom", &table_cdrom_target, .doc = "CD-ROM"),
             FIELD_INT(DISK, boot_order, "bootOrder", 1, INT32_MAX, .doc = "place in the boot order"),
             FIELD_STRING(DISK, serial, "serial", .format = &format_serial, .max = 256, .doc = "serial number"),
             FIELD_BOOL(DISK, dedicated_io_thread, "dedicatedIOThread", .doc = "an I/O thread of its own"),
             FIELD_ENUM(DISK, cache, vmi_cache, "cache", &cache_names, .doc = "host cache"),
             FIELD_ENUM(DISK, io, vmi_io, "io", &io_names, .doc = "how the host does I/O"),
             FIELD_STRING(DISK, tag, "tag", .doc = "tag in cloud-init's metadata"),
             FIELD_POINTER(DISK, block_size, vmi_block_size, "blockSize", &table_block_size, .doc = "block sizes"),
             FIELD_BOOL(DISK, shareable, "shareable", .doc = "several VMs write to it"),
             FIELD_ENUM(DISK, error_policy, vmi_error_policy, "errorPolicy", &error_policy_names,
                        .doc = "stop unless given"),
             FIELD_BOOL(DISK, changed_block_tracking, "changedBlockTracking", .flags = FIELD_NOT_BUILT,
                        .doc = "dirty bitmaps for backups"));

/* ---- small devices ---- */

ENUM_NAMES(input_bus_names, [VMI_BUS_VIRTIO] = "virtio", [VMI_BUS_USB] = "usb");
ENUM_NAMES(input_type_names, [VMI_INPUT_TYPE_TABLET] = "tablet", [VMI_INPUT_TYPE_KEYBOARD] = "keyboard");
DEFINE_TABLE(table_input, "Input", struct vmi_input,
             FIELD_ENUM(struct vmi_input, bus, vmi_bus, "bus", &input_bus_names, .doc = "usb unless given"),
             FIELD_ENUM(struct vmi_input, type, vmi_input_type, "type", &input_type_names, .flags = FIELD_REQUIRED,
                        .doc = "tablet or keyboard"),
             FIELD_STRING(struct vmi_input, name, "name", .flags = FIELD_REQUIRED, .doc = "name of the device"));

ENUM_NAMES(watchdog_action_names, [VMI_WATCHDOG_RESET] = "reset", [VMI_WATCHDOG_POWEROFF] = "poweroff",
           [VMI_WATCHDOG_SHUTDOWN] = "shutdown");
DEFINE_TABLE(table_watchdog_device, "I6300ESBWatchdog", struct vmi_watchdog_device,
             FIELD_ENUM(struct vmi_watchdog_device, action, vmi_watchdog_action, "action", &watchdog_action_names,
                        .doc = "reset unless given"));
DEFINE_TABLE(table_watchdog, "Watchdog", struct vmi_watchdog,
             FIELD_STRING(struct vmi_watchdog, name, "name", .flags = FIELD_REQUIRED, .doc = "name of the device"),
             FIELD_POINTER(struct vmi_watchdog, i6300esb, vmi_watchdog_device, "i6300esb", &table_watchdog_device,
                           .doc = "watchdog of amd64"),
             FIELD_POINTER(struct vmi_watchdog, diag288, vmi_watchdog_device, "diag288", &table_watchdog_device,
                           .doc = "watchdog of s390x"));

DEFINE_TABLE(table_vgpu_display, "VGPUDisplayOptions", struct vmi_vgpu_display,
             FIELD_BOOL(struct vmi_vgpu_display, enabled, "enabled", .doc = "on unless false"),
             FIELD_POINTER(struct vmi_vgpu_display, ram_fb, vmi_feature, "ramFB", &table_feature,
                           .doc = "picture before the driver is there"));
DEFINE_TABLE(table_vgpu_options, "VGPUOptions", struct vmi_vgpu_options,
             FIELD_POINTER(struct vmi_vgpu_options, display, vmi_vgpu_display, "display", &table_vgpu_display,
                           .doc = "display of a vGPU"));

#define DEVICE struct vmi_host_device
#define HOST_DEVICE                                                                                                    \
    FIELD_STRING(DEVICE, name, "name", .flags = FIELD_REQUIRED, .doc = "name of the device"),                          \
        FIELD_STRING(DEVICE, device_name, "deviceName", .doc = "resource of the device plug-in"),                      \
        FIELD_STRING(DEVICE, claim_name, "claimName", .flags = FIELD_NOT_BUILT, .doc = "resource claim"),              \
        FIELD_STRING(DEVICE, request_name, "requestName", .flags = FIELD_NOT_BUILT, .doc = "request in the claim"),    \
        FIELD_STRING(DEVICE, tag, "tag", .doc = "tag in cloud-init's metadata")
DEFINE_TABLE(table_gpu, "GPU", DEVICE, HOST_DEVICE,
             FIELD_POINTER(DEVICE, virtual_gpu_options, vmi_vgpu_options, "virtualGPUOptions", &table_vgpu_options,
                           .doc = "options of a vGPU"));
DEFINE_TABLE(table_host_device, "HostDevice", DEVICE, HOST_DEVICE);

ENUM_NAMES(panic_names, [VMI_PANIC_HYPERV] = "hyperv", [VMI_PANIC_ISA] = "isa", [VMI_PANIC_PVPANIC] = "pvpanic");
DEFINE_TABLE(table_panic, "PanicDevice", struct vmi_panic_device,
             FIELD_ENUM(struct vmi_panic_device, model, vmi_panic_model, "model", &panic_names,
                        .doc = "kind of device"));

DEFINE_TABLE(table_filesystem, "Filesystem", struct vmi_filesystem,
             FIELD_STRING(struct vmi_filesystem, name, "name", .flags = FIELD_REQUIRED,
                          .doc = "tag to mount it by, the same as the name of its volume"),
             FIELD_RAW_OBJECT(struct vmi_filesystem, virtiofs, "virtiofs", .sub = &table_empty, .flags = FIELD_REQUIRED,
                              .doc = "shared by virtiofs"));

ENUM_NAMES(sound_names, [VMI_SOUND_ICH9] = "ich9", [VMI_SOUND_AC97] = "ac97");
DEFINE_TABLE(table_sound, "SoundDevice", struct vmi_sound,
             FIELD_STRING(struct vmi_sound, name, "name", .flags = FIELD_REQUIRED, .doc = "name of the device"),
             FIELD_ENUM(struct vmi_sound, model, vmi_sound_model, "model", &sound_names, .doc = "ich9 unless given"));

DEFINE_TABLE(table_tpm, "TPMDevice", struct vmi_tpm,
             FIELD_BOOL(struct vmi_tpm, enabled, "enabled", .doc = "on unless false"),
             FIELD_BOOL(struct vmi_tpm, persistent, "persistent", .doc = "keep its state over restarts"));

ENUM_NAMES(video_names, [VMI_VIDEO_VGA] = "vga", [VMI_VIDEO_BOCHS] = "bochs", [VMI_VIDEO_VIRTIO] = "virtio",
           [VMI_VIDEO_RAMFB] = "ramfb", [VMI_VIDEO_CIRRUS] = "cirrus", [VMI_VIDEO_QXL] = "qxl");
DEFINE_TABLE(table_video, "VideoDevice", struct vmi_video,
             FIELD_ENUM(struct vmi_video, type, vmi_video_type, "type", &video_names, .doc = "video adapter"));

/* ---- devices ---- */

#define DEV struct vmi_devices
DEFINE_TABLE(
    table_devices, "Devices", DEV,
    FIELD_BOOL(DEV, use_virtio_transitional, "useVirtioTransitional", .doc = "virtio devices that old guests know"),
    FIELD_BOOL(DEV, disable_hotplug, "disableHotplug", .doc = "no disk is plugged while the VM runs"),
    FIELD_LIST(DEV, disks, vmi_disk, "disks", &table_disk, 256, .doc = "disks"),
    FIELD_POINTER(DEV, watchdog, vmi_watchdog, "watchdog", &table_watchdog, .doc = "watchdog"),
    FIELD_LIST(DEV, interfaces, vmi_interface, "interfaces", &table_interface, 256, .doc = "network interfaces"),
    FIELD_LIST(DEV, inputs, vmi_input, "inputs", &table_input, 256, .doc = "tablets and keyboards"),
    FIELD_BOOL(DEV, autoattach_pod_interface, "autoattachPodInterface", .doc = "a NIC on the pod's network; on"),
    FIELD_BOOL(DEV, autoattach_graphics_device, "autoattachGraphicsDevice", .doc = "VGA and VNC; on"),
    FIELD_BOOL(DEV, autoattach_serial_console, "autoattachSerialConsole", .doc = "serial console; on"),
    FIELD_BOOL(DEV, log_serial_console, "logSerialConsole", .doc = "keep a log of the serial console"),
    FIELD_BOOL(DEV, autoattach_mem_balloon, "autoattachMemBalloon", .doc = "memory balloon; on"),
    FIELD_BOOL(DEV, autoattach_input_device, "autoattachInputDevice", .doc = "a tablet; off"),
    FIELD_BOOL(DEV, autoattach_vsock, "autoattachVSOCK", .doc = "vsock; off"),
    FIELD_RAW_OBJECT(DEV, rng, "rng", .sub = &table_empty, .doc = "random numbers of the host"),
    FIELD_BOOL(DEV, block_multi_queue, "blockMultiQueue", .doc = "a virtio-blk queue for each vCPU"),
    FIELD_BOOL(DEV, network_interface_multiqueue, "networkInterfaceMultiqueue", .doc = "a NIC queue for each vCPU"),
    FIELD_LIST(DEV, gpus, vmi_host_device, "gpus", &table_gpu, 256, .doc = "GPUs passed through"),
    FIELD_RAW_OBJECT(DEV, downward_metrics, "downwardMetrics", .sub = &table_empty, .doc = "host metrics by a channel"),
    FIELD_LIST(DEV, panic_devices, vmi_panic_device, "panicDevices", &table_panic, 16, .doc = "report guest panics"),
    FIELD_LIST(DEV, filesystems, vmi_filesystem, "filesystems", &table_filesystem, 256, .doc = "shared directories"),
    FIELD_LIST(DEV, host_devices, vmi_host_device, "hostDevices", &table_host_device, 256,
               .doc = "devices passed through"),
    FIELD_RAW_OBJECT(DEV, client_passthrough, "clientPassthrough", .sub = &table_empty,
                     .doc = "USB devices of a client"),
    FIELD_POINTER(DEV, sound, vmi_sound, "sound", &table_sound, .doc = "sound card"),
    FIELD_POINTER(DEV, tpm, vmi_tpm, "tpm", &table_tpm, .doc = "TPM 2.0"),
    FIELD_POINTER(DEV, video, vmi_video, "video", &table_video, .doc = "video adapter"));

/* ---- domain ---- */

ENUM_NAMES(io_threads_names, [VMI_IO_THREADS_SHARED] = "shared", [VMI_IO_THREADS_AUTO] = "auto",
           [VMI_IO_THREADS_SUPPLEMENTAL_POOL] = "supplementalPool");
ENUM_NAMES(reboot_names, [VMI_REBOOT_REBOOT] = "Reboot", [VMI_REBOOT_TERMINATE] = "Terminate");

DEFINE_TABLE(table_io_threads, "DiskIOThreads", struct vmi_io_threads,
             FIELD_INT(struct vmi_io_threads, supplemental_pool_thread_count, "supplementalPoolThreadCount", 0, 512,
                       .doc = "threads of the pool"));

/* Confidential guests: the fields are known, the whole is refused until it is built. */
DEFINE_CHECK_TABLE(table_sev_policy, "SEVPolicy", FIELD_CHECKED("encryptedState", FIELD_TYPE_BOOL, .doc = "SEV-ES"));
DEFINE_CHECK_TABLE(table_sev, "SEV",
                   FIELD_CHECKED("policy", FIELD_TYPE_RAW_OBJECT, .sub = &table_sev_policy, .doc = "guest policy"),
                   FIELD_CHECKED("attestation", FIELD_TYPE_RAW_OBJECT, .sub = &table_empty,
                                 .doc = "attest before start"),
                   FIELD_CHECKED("session", FIELD_TYPE_STRING, .format = &format_base64, .doc = "session blob"),
                   FIELD_CHECKED("dhCert", FIELD_TYPE_STRING, .format = &format_base64, .doc = "guest owner's key"));
DEFINE_CHECK_TABLE(table_launch_security, "LaunchSecurity",
                   FIELD_CHECKED("sev", FIELD_TYPE_RAW_OBJECT, .sub = &table_sev, .doc = "AMD SEV"),
                   FIELD_CHECKED("snp", FIELD_TYPE_RAW_OBJECT, .sub = &table_empty, .doc = "AMD SEV-SNP"),
                   FIELD_CHECKED("tdx", FIELD_TYPE_RAW_OBJECT, .sub = &table_empty, .doc = "Intel TDX"));

/* devices is required by KubeVirt's schema; here a machine without any may leave it out. */
#define DOMAIN struct vmi_domain
DEFINE_TABLE(
    table_domain, "DomainSpec", DOMAIN,
    FIELD_OBJECT(DOMAIN, resources, vmi_resources, "resources", &table_resources, .doc = "requests and limits"),
    FIELD_OBJECT(DOMAIN, cpu, vmi_cpu, "cpu", &table_cpu, .doc = "processors"),
    FIELD_OBJECT(DOMAIN, memory, vmi_memory, "memory", &table_memory, .doc = "memory"),
    FIELD_OBJECT(DOMAIN, machine, vmi_machine_type, "machine", &table_machine_type, .doc = "machine type"),
    FIELD_OBJECT(DOMAIN, firmware, vmi_firmware, "firmware", &table_firmware, .doc = "firmware"),
    FIELD_POINTER(DOMAIN, clock, vmi_clock, "clock", &table_clock, .doc = "clock and timers"),
    FIELD_OBJECT(DOMAIN, features, vmi_features, "features", &table_features, .doc = "features of the machine"),
    FIELD_OBJECT(DOMAIN, devices, vmi_devices, "devices", &table_devices, .doc = "devices"),
    FIELD_ENUM(DOMAIN, io_threads_policy, vmi_io_threads_policy, "ioThreadsPolicy", &io_threads_names,
               .doc = "how disks share I/O threads"),
    FIELD_POINTER(DOMAIN, io_threads, vmi_io_threads, "ioThreads", &table_io_threads, .doc = "pool of I/O threads"),
    FIELD_POINTER(DOMAIN, chassis, vmi_chassis, "chassis", &table_chassis, .doc = "SMBIOS chassis"),
    FIELD_RAW_OBJECT(DOMAIN, launch_security, "launchSecurity", .flags = FIELD_NOT_BUILT, .sub = &table_launch_security,
                     .instead = "leave it out only if the guest may run without its memory encrypted",
                     .doc = "confidential guests"),
    FIELD_ENUM(DOMAIN, reboot_policy, vmi_reboot_policy, "rebootPolicy", &reboot_names, .doc = "Reboot unless given"));
