/* SPDX-License-Identifier: Apache-2.0 */
/* The tables of the API's objects, split by subject over table-*.c, and the private structs that some decode into. */
#pragma once

#include <vmlet/vmi.h>

#include "json/decode.h"

/* ---- formats.c ---- */
extern const struct text_format format_dns_label, format_dns_subdomain, format_mac, format_pci_address, format_uuid,
    format_serial, format_absolute_path, format_base64, format_interface_name, format_ipv4_cidr, format_ipv6_cidr,
    format_network_name, format_timezone;

/* ---- table-common.c ---- */
extern const struct table table_empty; /* an object that has no fields, such as rng: {} */
extern const struct table table_feature, table_local_ref, table_metadata, table_label_selector;

/* ---- table-machine.c ---- */
extern const struct table table_cpu, table_memory, table_resources, table_machine_type, table_firmware, table_chassis,
    table_clock, table_features;
extern const struct table table_cpu_feature, table_realtime, table_numa, table_hugepages, table_efi, table_clock_utc,
    table_timer, table_apic, table_hyperv, table_feature_kvm;

/* ---- table-devices.c ---- */
extern const struct table table_devices, table_domain;
extern const struct table table_gpu, table_host_device, table_io_threads, table_launch_security, table_vgpu_options,
    table_block_size, table_tpm;
/* ---- table-network.c ---- */
extern const struct table table_interface, table_network;
/* ---- table-volumes.c ---- */
extern const struct table table_volume, table_pvc;
/* ---- table-credentials.c ---- */
extern const struct table table_access_credential;
void decode_access_credentials(struct decoder *d, const struct field *field, const struct node *node, void *target);
/* ---- table-pod.c ---- */
extern const struct table table_probe, table_affinity, table_toleration, table_topology_spread, table_dns_config,
    table_resource_claim, table_utility_volume;

/* ---- table-objects.c ---- */
struct object_metadata {
    const struct node *at;
    const char *name, *generate_name, *namespace_, *uid;
    VMI_LIST(struct vmi_pair) labels;
    VMI_LIST(struct vmi_pair) annotations;
};

struct vmi_template {
    const struct node *at;
    struct object_metadata metadata;
    struct vmi_spec spec;
};

struct vm_spec {
    const struct node *at;
    enum opt_bool running;
    const char *run_strategy;
    struct vmi_template template;
    const struct node *data_volume_templates;
};

struct vm_object { /* VirtualMachine */
    const struct node *at;
    struct object_metadata metadata;
    struct vm_spec spec;
};

struct vmi_object { /* VirtualMachineInstance */
    const struct node *at;
    struct object_metadata metadata;
    struct vmi_spec spec;
};

struct replica_set_spec {
    const struct node *at;
    struct opt_int replicas;
    struct vmi_template template;
};

struct replica_set_object { /* VirtualMachineInstanceReplicaSet */
    const struct node *at;
    struct object_metadata metadata;
    struct replica_set_spec spec;
};

/* VirtualMachinePool of pool.kubevirt.io: like a replica set, of VirtualMachines. */
struct vm_template {
    const struct node *at;
    struct object_metadata metadata;
    struct vm_spec spec;
};

struct pool_spec {
    const struct node *at;
    struct opt_int replicas;
    struct vm_template template;
};

struct pool_object {
    const struct node *at;
    struct object_metadata metadata;
    struct pool_spec spec;
};

struct preset_spec {
    const struct node *at;
    const struct node *selector, *domain;
};

struct preset_object { /* VirtualMachineInstancePreset */
    const struct node *at;
    struct object_metadata metadata;
    struct preset_spec spec;
};

/* ---- table-instancetype.c: instancetype.kubevirt.io, the parts that are computed with; the rest is merged as nodes
 * ----
 */
struct instancetype_cpu {
    const struct node *at;
    struct opt_int guest;
};

struct instancetype_memory {
    const struct node *at;
    struct quantity guest;
    struct opt_int overcommit_percent;
};

struct instancetype_spec {
    const struct node *at;
    struct instancetype_cpu cpu;
    struct instancetype_memory memory;
};

struct instancetype_object { /* VirtualMachineInstancetype, VirtualMachineClusterInstancetype */
    const struct node *at;
    struct object_metadata metadata;
    struct instancetype_spec spec;
};

struct spread_options {
    const struct node *at;
    const char *across;
    struct opt_int ratio;
};

struct preference_cpu {
    const struct node *at;
    const char *topology;
    struct spread_options spread;
};

struct preference_requirements {
    const struct node *at;
    struct instancetype_cpu cpu;
    struct instancetype_memory memory;
    const char *architecture;
};

struct preference_spec {
    const struct node *at;
    struct preference_cpu cpu;
    struct preference_requirements requirements;
    struct opt_int spread_ratio;
};

struct preference_object { /* VirtualMachinePreference, VirtualMachineClusterPreference */
    const struct node *at;
    struct object_metadata metadata;
    struct preference_spec spec;
};

extern const struct table table_instancetype, table_cluster_instancetype, table_preference, table_cluster_preference;

extern const struct table table_vm, table_vmi, table_replica_set, table_pool, table_preset, table_vmi_spec;
