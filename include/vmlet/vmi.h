/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VirtualMachineInstance as typed C data: KubeVirt's API fields (kubevirt.io/v1, schema.go and types.go of 1.9), with
 * KubeVirt's admission defaults filled in by vmi_load_*(). Names are KubeVirt's, in snake_case.
 *
 * Conventions: a pointer or string is NULL when the manifest does not have it; an enum is 0 (…_UNSET) then; sizes and
 * counts are plain numbers. Everything lives in one arena that vmi_free() releases; nothing here is freed by itself.
 * `at` is where the object stands in the file, for later faults (NULL when it was made by a default).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include <vmlet/value.h>

struct arena;
struct error;
struct faults;
struct node;

#define VMI_LIST(type)                                                                                                 \
    struct {                                                                                                           \
        type *items;                                                                                                   \
        size_t count;                                                                                                  \
    }

/* v1.FeatureState: present means on, unless `enabled: false` stands in it. */
struct vmi_feature {
    const struct node *at;
    enum opt_bool enabled;
};

static inline bool vmi_feature_on(const struct vmi_feature *f)
{
    return f && f->enabled != OPT_FALSE;
}

/* ---- spec.domain.cpu ------------------------------------------------------------------------------------------- */

enum vmi_feature_policy {
    VMI_POLICY_UNSET, /* counts as require */
    VMI_POLICY_FORCE,
    VMI_POLICY_REQUIRE,
    VMI_POLICY_OPTIONAL,
    VMI_POLICY_DISABLE,
    VMI_POLICY_FORBID,
};

struct vmi_cpu_feature {
    const struct node *at;
    const char *name;
    enum vmi_feature_policy policy;
};

struct vmi_realtime {
    const struct node *at;
    const char *mask;
};

struct vmi_numa {
    const struct node *at;
    const struct node *guest_mapping_passthrough;
};

struct vmi_cpu {
    const struct node *at;
    struct opt_int cores, sockets, threads, max_sockets; /* cores, sockets, threads are always set after the defaults */
    const char *model;                                   /* "host-model" after the defaults (amd64) */
    VMI_LIST(struct vmi_cpu_feature) features;
    enum opt_bool dedicated_cpu_placement, isolate_emulator_thread;
    struct vmi_numa *numa;
    struct vmi_realtime *realtime;
};

/* ---- spec.domain.memory, resources ----------------------------------------------------------------------------- */

struct vmi_hugepages {
    const struct node *at;
    struct quantity page_size;
};

struct vmi_reserved_overhead {
    const struct node *at;
    struct quantity added_overhead;
    const char *mem_lock;
};

struct vmi_memory {
    const struct node *at;
    struct quantity guest; /* always set after the defaults */
    struct quantity max_guest;
    struct vmi_hugepages *hugepages;
    struct vmi_reserved_overhead *reserved_overhead;
};

struct vmi_resource {
    const struct node *at;
    const char *name;
    struct quantity quantity;
};

struct vmi_resource_list {
    const struct node *at;
    struct quantity cpu, memory;
    VMI_LIST(struct vmi_resource) others;
};

struct vmi_resources {
    const struct node *at;
    struct vmi_resource_list requests, limits;
    enum opt_bool overcommit_guest_overhead;
};

/* ---- spec.domain.machine, firmware, chassis -------------------------------------------------------------------- */

struct vmi_machine_type {
    const struct node *at;
    const char *type; /* "q35" or "virt" after the defaults */
};

struct vmi_bios {
    const struct node *at;
    enum opt_bool use_serial;
};

struct vmi_efi {
    const struct node *at;
    enum opt_bool secure_boot, persistent;
};

struct vmi_bootloader {
    const struct node *at;
    struct vmi_bios *bios;
    struct vmi_efi *efi;
};

struct vmi_kernel_boot_container {
    const struct node *at;
    const char *image, *image_pull_secret, *image_pull_policy, *kernel_path, *initrd_path;
};

struct vmi_kernel_boot {
    const struct node *at;
    const char *kernel_args;
    struct vmi_kernel_boot_container *container;
};

struct vmi_acpi_tables {
    const struct node *at;
    const char *slic_name_ref, *msdm_name_ref; /* names of volumes of kind secret */
};

struct vmi_firmware {
    const struct node *at;
    const char *uuid; /* lower case; always set after the defaults */
    const char *serial;
    struct vmi_bootloader *bootloader;
    struct vmi_kernel_boot *kernel_boot;
    struct vmi_acpi_tables *acpi;
};

struct vmi_chassis {
    const struct node *at;
    const char *manufacturer, *version, *serial, *asset, *sku;
};

/* ---- spec.domain.clock, features ------------------------------------------------------------------------------- */

enum vmi_tick_policy {
    VMI_TICK_UNSET,
    VMI_TICK_DELAY,
    VMI_TICK_CATCHUP,
    VMI_TICK_MERGE,
    VMI_TICK_DISCARD,
};

enum vmi_rtc_track {
    VMI_RTC_TRACK_UNSET,
    VMI_RTC_TRACK_GUEST,
    VMI_RTC_TRACK_WALL,
};

struct vmi_timer_source { /* hpet, pit, rtc, kvm, hyperv: fields that a timer does not have stay unset */
    const struct node *at;
    enum opt_bool present;
    enum vmi_tick_policy tick_policy;
    enum vmi_rtc_track track;
};

struct vmi_timer {
    const struct node *at;
    struct vmi_timer_source *hpet, *kvm, *pit, *rtc, *hyperv;
};

struct vmi_clock_utc {
    const struct node *at;
    struct opt_int offset_seconds;
};

struct vmi_clock {
    const struct node *at;
    struct vmi_clock_utc *utc;
    const char *timezone;
    struct vmi_timer *timer;
};

struct vmi_feature_apic {
    const struct node *at;
    enum opt_bool enabled, end_of_interrupt;
};

struct vmi_feature_spinlocks {
    const struct node *at;
    enum opt_bool enabled;
    struct opt_int spinlocks; /* 4096 after the defaults */
};

struct vmi_feature_vendor_id {
    const struct node *at;
    enum opt_bool enabled;
    const char *vendorid;
};

struct vmi_feature_synic_timer {
    const struct node *at;
    enum opt_bool enabled;
    struct vmi_feature *direct;
};

struct vmi_feature_tlbflush {
    const struct node *at;
    enum opt_bool enabled;
    struct vmi_feature *direct, *extended;
};

struct vmi_hyperv {
    const struct node *at;
    struct vmi_feature *relaxed, *vapic, *vpindex, *runtime, *synic, *reset, *frequencies, *reenlightenment, *ipi,
        *evmcs;
    struct vmi_feature_spinlocks *spinlocks;
    struct vmi_feature_synic_timer *synictimer;
    struct vmi_feature_vendor_id *vendorid;
    struct vmi_feature_tlbflush *tlbflush;
};

struct vmi_hyperv_passthrough {
    const struct node *at;
    enum opt_bool enabled;
};

struct vmi_feature_kvm {
    const struct node *at;
    enum opt_bool hidden;
};

struct vmi_features {
    const struct node *at;
    struct vmi_feature *acpi; /* on unless it says enabled: false */
    struct vmi_feature_apic *apic;
    struct vmi_hyperv_passthrough *hyperv_passthrough;
    struct vmi_hyperv *hyperv;
    struct vmi_feature *smm;
    struct vmi_feature_kvm *kvm;
    struct vmi_feature *pvspinlock;
};

/* ---- spec.domain.devices --------------------------------------------------------------------------------------- */

enum vmi_bus {
    VMI_BUS_UNSET,
    VMI_BUS_VIRTIO,
    VMI_BUS_SATA,
    VMI_BUS_SCSI,
    VMI_BUS_USB,
};

enum vmi_tray {
    VMI_TRAY_UNSET,
    VMI_TRAY_OPEN,
    VMI_TRAY_CLOSED,
};

enum vmi_disk_device {
    VMI_DISK_DEVICE_UNSET,
    VMI_DISK_DEVICE_DISK,
    VMI_DISK_DEVICE_LUN,
    VMI_DISK_DEVICE_CDROM,
};

enum vmi_cache {
    VMI_CACHE_UNSET,
    VMI_CACHE_NONE,
    VMI_CACHE_WRITETHROUGH,
    VMI_CACHE_WRITEBACK,
};

enum vmi_io {
    VMI_IO_UNSET,
    VMI_IO_NATIVE,
    VMI_IO_THREADS,
};

enum vmi_error_policy {
    VMI_ERROR_POLICY_UNSET,
    VMI_ERROR_POLICY_STOP,
    VMI_ERROR_POLICY_IGNORE,
    VMI_ERROR_POLICY_REPORT,
    VMI_ERROR_POLICY_ENOSPACE,
};

struct vmi_custom_block_size {
    const struct node *at;
    struct opt_int logical, physical, discard_granularity;
};

struct vmi_block_size {
    const struct node *at;
    struct vmi_custom_block_size *custom;
    struct vmi_feature *match_volume;
};

struct vmi_disk_target { /* `disk`, `lun` or `cdrom`: fields that the kind does not have stay unset */
    const struct node *at;
    enum vmi_bus bus;
    enum opt_bool readonly, reservation;
    const char *pci_address;
    enum vmi_tray tray;
    struct opt_int rotation_rate;
};

struct vmi_disk {
    const struct node *at;
    const char *name;
    const char *volume_name;     /* v1alpha2; equal to name after the defaults in later versions */
    enum vmi_disk_device device; /* which of disk, lun, cdrom it is; never UNSET after the defaults */
    struct vmi_disk_target *disk, *lun, *cdrom;
    struct vmi_disk_target *target; /* the one of the three that is there; its bus is set after the defaults */
    struct opt_int boot_order;
    const char *serial, *tag;
    enum opt_bool dedicated_io_thread, shareable, changed_block_tracking;
    enum vmi_cache cache;
    enum vmi_io io;
    enum vmi_error_policy error_policy;
    struct vmi_block_size *block_size;
    const struct vmi_volume *volume; /* NULL: an empty CD-ROM */
};

enum vmi_nic_model {
    VMI_NIC_UNSET,
    VMI_NIC_VIRTIO,
    VMI_NIC_E1000,
    VMI_NIC_E1000E,
    VMI_NIC_NE2K_PCI,
    VMI_NIC_PCNET,
    VMI_NIC_RTL8139,
    VMI_NIC_IGB,
};

enum vmi_binding {
    VMI_BINDING_UNSET,
    VMI_BINDING_BRIDGE,
    VMI_BINDING_MASQUERADE,
    VMI_BINDING_SRIOV,
    VMI_BINDING_PASST, /* passtBinding, the deprecated passt, or binding.name: passt */
    VMI_BINDING_SLIRP, /* deprecated; user networking */
    VMI_BINDING_MACVTAP,
    VMI_BINDING_PLUGIN, /* binding.name, any other */
};

enum vmi_link_state {
    VMI_LINK_UNSET, /* up */
    VMI_LINK_UP,
    VMI_LINK_DOWN,
    VMI_LINK_ABSENT,
};

struct vmi_port {
    const struct node *at;
    const char *name;
    const char *protocol; /* "TCP" after the defaults */
    struct opt_int port;
};

struct vmi_port_range {
    const struct node *at;
    const char *protocol;
    struct opt_int start, end;
};

struct vmi_dhcp_private_option {
    const struct node *at;
    struct opt_int option;
    const char *value;
};

struct vmi_dhcp_options {
    const struct node *at;
    const char *boot_file_name, *tftp_server_name;
    VMI_LIST(const char *) ntp_servers;
    VMI_LIST(struct vmi_dhcp_private_option) private_options;
};

struct vmi_plugin_binding {
    const struct node *at;
    const char *name;
};

struct vmi_interface {
    const struct node *at;
    const char *name;
    enum vmi_nic_model model; /* virtio after the defaults */
    enum vmi_binding binding; /* which one it is; never UNSET after the defaults */
    const struct node *bridge, *masquerade, *slirp, *sriov, *macvtap, *passt, *passt_binding; /* as written */
    struct vmi_plugin_binding *plugin;                                                        /* `binding` */
    VMI_LIST(struct vmi_port) ports;
    VMI_LIST(struct vmi_port_range) port_ranges;
    const char *mac_address; /* lower case, with colons */
    struct opt_int boot_order, acpi_index;
    const char *pci_address;
    struct vmi_dhcp_options *dhcp_options;
    const char *tag;
    enum vmi_link_state state;
    const struct vmi_network *network; /* of the same name; never NULL after validation */
};

enum vmi_input_type {
    VMI_INPUT_TYPE_UNSET,
    VMI_INPUT_TYPE_TABLET,
    VMI_INPUT_TYPE_KEYBOARD,
};

struct vmi_input {
    const struct node *at;
    const char *name;
    enum vmi_bus bus; /* usb after the defaults */
    enum vmi_input_type type;
};

enum vmi_watchdog_action {
    VMI_WATCHDOG_UNSET,
    VMI_WATCHDOG_RESET,
    VMI_WATCHDOG_POWEROFF,
    VMI_WATCHDOG_SHUTDOWN,
};

struct vmi_watchdog_device {
    const struct node *at;
    enum vmi_watchdog_action action; /* reset after the defaults */
};

struct vmi_watchdog {
    const struct node *at;
    const char *name;
    struct vmi_watchdog_device *i6300esb, *diag288;
};

struct vmi_vgpu_display {
    const struct node *at;
    enum opt_bool enabled;
    struct vmi_feature *ram_fb;
};

struct vmi_vgpu_options {
    const struct node *at;
    struct vmi_vgpu_display *display;
};

struct vmi_host_device { /* gpus[] and hostDevices[] */
    const struct node *at;
    const char *name, *device_name, *claim_name, *request_name, *tag;
    struct vmi_vgpu_options *virtual_gpu_options;
};

enum vmi_panic_model {
    VMI_PANIC_UNSET,
    VMI_PANIC_HYPERV,
    VMI_PANIC_ISA,
    VMI_PANIC_PVPANIC,
};

struct vmi_panic_device {
    const struct node *at;
    enum vmi_panic_model model;
};

struct vmi_filesystem {
    const struct node *at;
    const char *name;
    const struct node *virtiofs;
    const struct vmi_volume *volume;
};

enum vmi_sound_model {
    VMI_SOUND_UNSET,
    VMI_SOUND_ICH9,
    VMI_SOUND_AC97,
};

struct vmi_sound {
    const struct node *at;
    const char *name;
    enum vmi_sound_model model; /* ich9 after the defaults */
};

struct vmi_tpm {
    const struct node *at;
    enum opt_bool enabled, persistent;
};

enum vmi_video_type {
    VMI_VIDEO_UNSET,
    VMI_VIDEO_VGA,
    VMI_VIDEO_BOCHS,
    VMI_VIDEO_VIRTIO,
    VMI_VIDEO_RAMFB,
    VMI_VIDEO_CIRRUS,
    VMI_VIDEO_QXL,
};

struct vmi_video {
    const struct node *at;
    enum vmi_video_type type;
};

struct vmi_devices {
    const struct node *at;
    enum opt_bool use_virtio_transitional, disable_hotplug;
    VMI_LIST(struct vmi_disk) disks;
    struct vmi_watchdog *watchdog;
    VMI_LIST(struct vmi_interface) interfaces;
    VMI_LIST(struct vmi_input) inputs;
    enum opt_bool autoattach_pod_interface, autoattach_graphics_device, autoattach_serial_console, log_serial_console,
        autoattach_mem_balloon, autoattach_input_device, autoattach_vsock;
    const struct node *rng;
    enum opt_bool block_multi_queue, network_interface_multiqueue;
    VMI_LIST(struct vmi_host_device) gpus;
    const struct node *downward_metrics;
    VMI_LIST(struct vmi_panic_device) panic_devices;
    VMI_LIST(struct vmi_filesystem) filesystems;
    VMI_LIST(struct vmi_host_device) host_devices;
    const struct node *client_passthrough;
    struct vmi_sound *sound;
    struct vmi_tpm *tpm;
    struct vmi_video *video;
};

/* ---- spec.domain ----------------------------------------------------------------------------------------------- */

enum vmi_io_threads_policy {
    VMI_IO_THREADS_UNSET,
    VMI_IO_THREADS_SHARED,
    VMI_IO_THREADS_AUTO,
    VMI_IO_THREADS_SUPPLEMENTAL_POOL,
};

struct vmi_io_threads {
    const struct node *at;
    struct opt_int supplemental_pool_thread_count;
};

enum vmi_reboot_policy {
    VMI_REBOOT_UNSET, /* Reboot */
    VMI_REBOOT_REBOOT,
    VMI_REBOOT_TERMINATE,
};

struct vmi_domain {
    const struct node *at;
    struct vmi_resources resources;
    struct vmi_cpu cpu;
    struct vmi_memory memory;
    struct vmi_machine_type machine;
    struct vmi_firmware firmware;
    struct vmi_clock *clock;
    struct vmi_features features;
    struct vmi_devices devices;
    enum vmi_io_threads_policy io_threads_policy;
    struct vmi_io_threads *io_threads;
    struct vmi_chassis *chassis;
    const struct node *launch_security;
    enum vmi_reboot_policy reboot_policy;
};

/* ---- spec.volumes ---------------------------------------------------------------------------------------------- */

enum vmi_volume_kind {
    VMI_VOLUME_UNSET,
    VMI_VOLUME_HOST_DISK,
    VMI_VOLUME_PVC,
    VMI_VOLUME_CLOUD_INIT_NO_CLOUD,
    VMI_VOLUME_CLOUD_INIT_CONFIG_DRIVE,
    VMI_VOLUME_SYSPREP,
    VMI_VOLUME_CONTAINER_DISK,
    VMI_VOLUME_EPHEMERAL,
    VMI_VOLUME_EMPTY_DISK,
    VMI_VOLUME_DATA_VOLUME,
    VMI_VOLUME_CONFIG_MAP,
    VMI_VOLUME_SECRET,
    VMI_VOLUME_DOWNWARD_API,
    VMI_VOLUME_SERVICE_ACCOUNT,
    VMI_VOLUME_DOWNWARD_METRICS,
    VMI_VOLUME_MEMORY_DUMP,
    VMI_VOLUME_CONTAINER_PATH,
};

struct vmi_local_ref {
    const struct node *at;
    const char *name;
};

struct vmi_host_disk {
    const struct node *at;
    const char *path;
    const char *type; /* "Disk" or "DiskOrCreate" */
    struct quantity capacity;
    enum opt_bool shared;
};

struct vmi_pvc { /* persistentVolumeClaim, ephemeral.persistentVolumeClaim, memoryDump, dataVolume (claim_name = name)
                  */
    const struct node *at;
    const char *claim_name;
    enum opt_bool read_only, hotpluggable;
};

struct vmi_ephemeral {
    const struct node *at;
    struct vmi_pvc *persistent_volume_claim;
};

struct vmi_cloud_init {
    const struct node *at;
    struct vmi_local_ref *secret_ref, *network_data_secret_ref;
    const char *user_data, *user_data_base64, *network_data, *network_data_base64;
};

struct vmi_sysprep {
    const struct node *at;
    struct vmi_local_ref *secret, *config_map;
};

struct vmi_container_disk {
    const struct node *at;
    const char *image, *image_pull_secret, *path, *image_pull_policy;
};

struct vmi_empty_disk {
    const struct node *at;
    struct quantity capacity;
};

struct vmi_config_volume { /* configMap, secret, downwardAPI, serviceAccount: what it does not have stays NULL */
    const struct node *at;
    const char *name; /* configMap: name; secret: secretName; serviceAccount: serviceAccountName */
    enum opt_bool optional;
    const char *volume_label;
    const struct node *fields; /* downwardAPI */
};

struct vmi_container_path {
    const struct node *at;
    const char *path;
    enum opt_bool read_only;
};

struct vmi_volume {
    const struct node *at;
    const char *name;
    size_t index; /* in spec.volumes: the N of disk_N.img */
    enum vmi_volume_kind kind;
    struct vmi_host_disk *host_disk;
    struct vmi_pvc *persistent_volume_claim, *data_volume, *memory_dump;
    struct vmi_cloud_init *cloud_init_no_cloud, *cloud_init_config_drive;
    struct vmi_sysprep *sysprep;
    struct vmi_container_disk *container_disk;
    struct vmi_ephemeral *ephemeral;
    struct vmi_empty_disk *empty_disk;
    struct vmi_config_volume *config_map, *secret, *downward_api, *service_account;
    const struct node *downward_metrics;
    struct vmi_container_path *container_path;
};

/* ---- spec.networks, accessCredentials -------------------------------------------------------------------------- */

struct vmi_pod_network {
    const struct node *at;
    const char *vm_network_cidr, *vm_ipv6_network_cidr;
};

struct vmi_multus_network {
    const struct node *at;
    const char *network_name;
    enum opt_bool is_default;
};

struct vmi_network {
    const struct node *at;
    const char *name;
    struct vmi_pod_network *pod;
    struct vmi_multus_network *multus;
    const struct node *resource_claim;
};

struct vmi_access_credential {
    const struct node *at;
    bool is_password; /* userPassword, else sshPublicKey */
    const char *secret_name;
    bool no_cloud, config_drive, guest_agent; /* the propagation method */
    VMI_LIST(const char *) users;
};

/* ---- spec, and the whole --------------------------------------------------------------------------------------- */

struct vmi_spec {
    const struct node *at;
    struct vmi_domain domain;
    VMI_LIST(struct vmi_volume) volumes;
    VMI_LIST(struct vmi_network) networks;
    VMI_LIST(struct vmi_access_credential) access_credentials;
    const char *architecture; /* "amd64", "arm64", "s390x"; always set after the defaults */
    const char *hostname, *subdomain;
    const char *start_strategy, *eviction_strategy, *dns_policy, *scheduler_name, *priority_class_name,
        *service_account_name;
    struct opt_int termination_grace_period_seconds; /* 30 after the defaults */
    /* of the pod, not of the machine: accepted, checked for their names, handed on as they are */
    VMI_LIST(struct vmi_pair) node_selector;
    const struct node *affinity, *tolerations, *topology_spread_constraints, *dns_config, *liveness_probe,
        *readiness_probe, *resource_claims, *utility_volumes;
};

struct vmi {
    const struct node *at;
    struct arena *arena;
    const char *source;      /* file name, for messages */
    const char *api_version; /* as written: "kubevirt.io/v1"… */
    const char *kind;        /* as written: VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceReplicaSet */
    const char *name;        /* metadata.name; "vm" + index when a template has none */
    const char *namespace_;  /* "default" after the defaults */
    const char *uid;         /* metadata.uid, or NULL */
    const char *domain_name; /* <namespace>_<name>, as KubeVirt calls the domain */
    VMI_LIST(struct vmi_pair) labels;
    VMI_LIST(struct vmi_pair) annotations;
    enum opt_bool running;    /* of a VirtualMachine */
    const char *run_strategy; /* of a VirtualMachine */
    struct vmi_spec spec;
};

struct vmi_load_options {
    const char *name;         /* which VM of a file that holds several; NULL: the only one */
    const char *default_arch; /* where the manifest names none: "amd64" if NULL */
    const char *
        default_uuid_seed; /* tests: makes the random UUID of a bare VMI without uuid a v5 of this text; NULL: random */
};

/*
 * Reads a manifest: YAML or JSON, one or more documents, VirtualMachine, VirtualMachineInstance or
 * VirtualMachineInstanceReplicaSet (its template), with presets of the same file applied. Decodes, fills in KubeVirt's
 * defaults, validates.
 *
 * All faults of the input are added to `faults`, each with file, line, column, path and what is allowed; -EINVAL and
 * ERROR_BAD_MANIFEST then. Any other error is the host's (no such file, out of memory). On success *ret is the
 * caller's, to be released by vmi_free(). `path` "-" is standard input.
 */
int vmi_load_file(const char *path, const struct vmi_load_options *options, struct vmi **ret, struct faults *faults,
                  struct error **ret_error);
/* As vmi_load_file() on text in memory; `source` stands for the file in messages. */
int vmi_load_text(const char *text, size_t length, const char *source, const struct vmi_load_options *options,
                  struct vmi **ret, struct faults *faults, struct error **ret_error);
void vmi_free(struct vmi *vmi);
/*
 * The manifest as JSON, as it was decoded: with the presets of its file, its instance type and its preference merged
 * in, and without the references to the two. A new reference; NULL when out of memory.
 */
json_t *vmi_manifest(const struct vmi *vmi);

/* The value of an annotation or label, or NULL. */
const char *vmi_annotation(const struct vmi *vmi, const char *key);
const char *vmi_label(const struct vmi *vmi, const char *key);
/* cores * sockets * threads, and the same with maxSockets (equal when there is none). */
unsigned vmi_vcpus(const struct vmi *vmi);
unsigned vmi_max_vcpus(const struct vmi *vmi);
const struct vmi_volume *vmi_find_volume(const struct vmi *vmi, const char *name);
/* The claim behind a persistentVolumeClaim or dataVolume; NULL for another kind. */
const struct vmi_pvc *vmi_volume_claim(const struct vmi_volume *volume);
const char *vmi_volume_kind_name(enum vmi_volume_kind kind); /* "containerDisk"… as in the manifest */

static inline void vmi_freep(struct vmi **vmi)
{
    vmi_free(*vmi);
    *vmi = NULL;
}
