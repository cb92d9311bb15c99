/* SPDX-License-Identifier: Apache-2.0 */
/* The objects of a manifest, and spec of a VirtualMachineInstance. */
#include "vmi/tables.h"

ENUM_NAMES(start_strategy_names, [1] = "Paused");
ENUM_NAMES(eviction_names, [1] = "None", [2] = "LiveMigrate", [3] = "LiveMigrateIfPossible", [4] = "External");
ENUM_NAMES(dns_policy_names, [1] = "ClusterFirst", [2] = "ClusterFirstWithHostNet", [3] = "Default", [4] = "None");
ENUM_NAMES(arch_names, [1] = "amd64", [2] = "arm64", [3] = "s390x");
ENUM_NAMES(run_strategy_names, [1] = "Always", [2] = "Halted", [3] = "Manual", [4] = "RerunOnFailure", [5] = "Once",
           [6] = "WaitAsReceiver");
ENUM_NAMES(update_volumes_names, [1] = "Replacement", [2] = "Migration");

/* ---- VirtualMachineInstanceSpec ---- */

#define SPEC struct vmi_spec
DEFINE_TABLE(
    table_vmi_spec, "VirtualMachineInstanceSpec", SPEC,
    FIELD_OBJECT(SPEC, domain, vmi_domain, "domain", &table_domain, .flags = FIELD_REQUIRED, .doc = "the machine"),
    FIELD_LIST(SPEC, volumes, vmi_volume, "volumes", &table_volume, 256, .doc = "what its disks hold"),
    FIELD_LIST(SPEC, networks, vmi_network, "networks", &table_network, 256, .doc = "what its interfaces are on"),
    FIELD_CUSTOM(SPEC, access_credentials, "accessCredentials", decode_access_credentials,
                 .sub = &table_access_credential, .max = 256, .doc = "SSH keys and passwords for the guest"),
    FIELD_STRING(SPEC, architecture, "architecture", .names = &arch_names, .doc = "amd64 unless given"),
    FIELD_STRING(SPEC, hostname, "hostname", .format = &format_dns_label,
                 .doc = "host name; the VM's name unless given"),
    FIELD_STRING(SPEC, subdomain, "subdomain", .format = &format_dns_subdomain, .doc = "subdomain of the host name"),
    FIELD_STRING(SPEC, start_strategy, "startStrategy", .names = &start_strategy_names, .doc = "start without running"),
    FIELD_STRING(SPEC, eviction_strategy, "evictionStrategy", .flags = FIELD_POD, .names = &eviction_names,
                 .doc = "what happens when the node is drained"),
    FIELD_INT(SPEC, termination_grace_period_seconds, "terminationGracePeriodSeconds", 0, INT32_MAX,
              .doc = "time for the guest to shut down; 30 unless given"),
    FIELD_STRING(SPEC, dns_policy, "dnsPolicy", .flags = FIELD_POD, .names = &dns_policy_names,
                 .doc = "DNS of the pod"),
    FIELD_STRING(SPEC, scheduler_name, "schedulerName", .flags = FIELD_POD, .doc = "scheduler of the pod"),
    FIELD_STRING(SPEC, priority_class_name, "priorityClassName", .flags = FIELD_POD, .doc = "priority of the pod"),
    FIELD_STRING(SPEC, service_account_name, "serviceAccountName", .flags = FIELD_POD, .doc = "account of the pod"),
    FIELD_STRING_MAP(SPEC, node_selector, "nodeSelector", .flags = FIELD_POD, .doc = "labels of nodes"),
    FIELD_RAW_OBJECT(SPEC, affinity, "affinity", .flags = FIELD_POD, .sub = &table_affinity, .doc = "scheduling rules"),
    FIELD_RAW_LIST(SPEC, tolerations, "tolerations", .flags = FIELD_POD, .sub = &table_toleration,
                   .doc = "tolerations"),
    FIELD_RAW_LIST(SPEC, topology_spread_constraints, "topologySpreadConstraints", .flags = FIELD_POD,
                   .sub = &table_topology_spread, .doc = "spread over nodes"),
    FIELD_RAW_OBJECT(SPEC, dns_config, "dnsConfig", .flags = FIELD_POD, .sub = &table_dns_config,
                     .doc = "DNS of the pod"),
    FIELD_RAW_OBJECT(SPEC, liveness_probe, "livenessProbe", .flags = FIELD_POD, .sub = &table_probe,
                     .doc = "restart when it fails"),
    FIELD_RAW_OBJECT(SPEC, readiness_probe, "readinessProbe", .flags = FIELD_POD, .sub = &table_probe,
                     .doc = "not ready while it fails"),
    FIELD_RAW_LIST(SPEC, resource_claims, "resourceClaims", .flags = FIELD_NOT_BUILT | FIELD_POD,
                   .sub = &table_resource_claim, .doc = "dynamic resources"),
    FIELD_RAW_LIST(SPEC, utility_volumes, "utilityVolumes", .flags = FIELD_NOT_BUILT | FIELD_POD,
                   .sub = &table_utility_volume, .doc = "volumes of helpers"));

/* ---- templates and objects ---- */

#define TEMPLATE struct vmi_template
#define TEMPLATE_METADATA                                                                                              \
    FIELD_OBJECT(TEMPLATE, metadata, object_metadata, "metadata", &table_metadata, .doc = "labels and annotations")
DEFINE_TABLE(table_template, "VirtualMachineInstanceTemplateSpec", TEMPLATE, TEMPLATE_METADATA,
             FIELD_OBJECT(TEMPLATE, spec, vmi_spec, "spec", &table_vmi_spec, .flags = FIELD_REQUIRED,
                          .doc = "the instance's spec"));

#define OBJECT_HEAD(type)                                                                                              \
    FIELD_CHECKED("apiVersion", FIELD_TYPE_STRING, .doc = "kubevirt.io/v1"),                                           \
        FIELD_CHECKED("kind", FIELD_TYPE_STRING, .doc = "kind of the object"),                                         \
        FIELD_OBJECT(type, metadata, object_metadata, "metadata", &table_metadata,                                     \
                     .doc = "name, labels, annotations"),                                                              \
        FIELD_CHECKED("status", FIELD_TYPE_ANY, .flags = FIELD_SERVER, .doc = "written by the controllers; ignored")

/* InstancetypeMatcher, PreferenceMatcher: instancetype.c resolves them. A revision pins the object in the cluster. */
ENUM_NAMES(infer_names, [1] = "Reject", [2] = "Ignore");
DEFINE_CHECK_TABLE(table_matcher, "InstancetypeMatcher",
                   FIELD_CHECKED("name", FIELD_TYPE_STRING, .doc = "name of the object"),
                   FIELD_CHECKED("kind", FIELD_TYPE_STRING, .doc = "its kind; that of the whole cluster unless given"),
                   FIELD_CHECKED("revisionName", FIELD_TYPE_STRING, .flags = FIELD_SERVER, .doc = "ControllerRevision"),
                   FIELD_CHECKED("inferFromVolume", FIELD_TYPE_STRING, .doc = "volume whose labels have the name"),
                   FIELD_CHECKED("inferFromVolumeFailurePolicy", FIELD_TYPE_STRING, .names = &infer_names,
                                 .doc = "what to do when it has none"));

#define VM_SPEC struct vm_spec
/* selector stood in v1alpha2; the template's labels are what counts. */
DEFINE_TABLE(table_vm_spec, "VirtualMachineSpec", VM_SPEC,
             FIELD_BOOL(VM_SPEC, running, "running", .flags = FIELD_DEPRECATED, .doc = "true: Always, false: Halted"),
             FIELD_STRING(VM_SPEC, run_strategy, "runStrategy", .names = &run_strategy_names,
                          .doc = "when the VM is to run"),
             FIELD_CHECKED("instancetype", FIELD_TYPE_RAW_OBJECT, .sub = &table_matcher,
                           .doc = "CPU and memory by reference"),
             FIELD_CHECKED("preference", FIELD_TYPE_RAW_OBJECT, .sub = &table_matcher, .doc = "defaults by reference"),
             FIELD_OBJECT(VM_SPEC, template, vmi_template, "template", &table_template, .flags = FIELD_REQUIRED,
                          .doc = "the instance that it makes"),
             FIELD_RAW_LIST(VM_SPEC, data_volume_templates, "dataVolumeTemplates", .flags = FIELD_POD,
                            .doc = "DataVolumes that are made with it"),
             FIELD_CHECKED("updateVolumesStrategy", FIELD_TYPE_STRING, .flags = FIELD_POD,
                           .names = &update_volumes_names, .doc = "how changed volumes are taken over"),
             FIELD_CHECKED("selector", FIELD_TYPE_RAW_OBJECT, .flags = FIELD_OLD, .sub = &table_label_selector,
                           .doc = "not used"));

DEFINE_TABLE(table_vm, "VirtualMachine", struct vm_object, OBJECT_HEAD(struct vm_object),
             FIELD_OBJECT(struct vm_object, spec, vm_spec, "spec", &table_vm_spec, .flags = FIELD_REQUIRED,
                          .doc = "what is wanted"));

DEFINE_TABLE(table_vmi, "VirtualMachineInstance", struct vmi_object, OBJECT_HEAD(struct vmi_object),
             FIELD_OBJECT(struct vmi_object, spec, vmi_spec, "spec", &table_vmi_spec, .flags = FIELD_REQUIRED,
                          .doc = "what is wanted"));

#define RS_SPEC struct replica_set_spec
DEFINE_TABLE(table_replica_set_spec, "VirtualMachineInstanceReplicaSetSpec", RS_SPEC,
             FIELD_INT(RS_SPEC, replicas, "replicas", 0, INT32_MAX, .doc = "number of instances"),
             FIELD_CHECKED("selector", FIELD_TYPE_RAW_OBJECT, .flags = FIELD_REQUIRED, .sub = &table_label_selector,
                           .doc = "labels of its instances"),
             FIELD_OBJECT(RS_SPEC, template, vmi_template, "template", &table_template, .flags = FIELD_REQUIRED,
                          .doc = "the instances that it makes"),
             FIELD_CHECKED("paused", FIELD_TYPE_BOOL, .flags = FIELD_POD, .doc = "nothing is made or deleted"));

DEFINE_TABLE(table_replica_set, "VirtualMachineInstanceReplicaSet", struct replica_set_object,
             OBJECT_HEAD(struct replica_set_object),
             FIELD_OBJECT(struct replica_set_object, spec, replica_set_spec, "spec", &table_replica_set_spec,
                          .flags = FIELD_REQUIRED, .doc = "what is wanted"));

#define VM_TEMPLATE struct vm_template
DEFINE_TABLE(table_vm_template, "VirtualMachineTemplateSpec", VM_TEMPLATE,
             FIELD_OBJECT(VM_TEMPLATE, metadata, object_metadata, "metadata", &table_metadata,
                          .doc = "labels and annotations"),
             FIELD_OBJECT(VM_TEMPLATE, spec, vm_spec, "spec", &table_vm_spec, .flags = FIELD_REQUIRED,
                          .doc = "the VM's spec"));

#define POOL_SPEC struct pool_spec
DEFINE_TABLE(table_pool_spec, "VirtualMachinePoolSpec", POOL_SPEC,
             FIELD_INT(POOL_SPEC, replicas, "replicas", 0, INT32_MAX, .doc = "number of VMs"),
             FIELD_CHECKED("selector", FIELD_TYPE_RAW_OBJECT, .flags = FIELD_REQUIRED, .sub = &table_label_selector,
                           .doc = "labels of its VMs"),
             FIELD_OBJECT(POOL_SPEC, template, vm_template, "virtualMachineTemplate", &table_vm_template,
                          .flags = FIELD_REQUIRED, .doc = "the VMs that it makes"),
             FIELD_CHECKED("paused", FIELD_TYPE_BOOL, .flags = FIELD_POD, .doc = "nothing is made or deleted"),
             FIELD_CHECKED("nameGeneration", FIELD_TYPE_RAW_OBJECT, .flags = FIELD_POD, .doc = "names of what VMs use"),
             FIELD_CHECKED("maxUnavailable", FIELD_TYPE_ANY, .flags = FIELD_POD, .doc = "how many may be down"),
             FIELD_CHECKED("scaleInStrategy", FIELD_TYPE_RAW_OBJECT, .flags = FIELD_POD, .doc = "which go first"),
             FIELD_CHECKED("updateStrategy", FIELD_TYPE_RAW_OBJECT, .flags = FIELD_POD, .doc = "how VMs are updated"),
             FIELD_CHECKED("autohealing", FIELD_TYPE_RAW_OBJECT, .flags = FIELD_POD, .doc = "when VMs are replaced"));

DEFINE_TABLE(table_pool, "VirtualMachinePool", struct pool_object, OBJECT_HEAD(struct pool_object),
             FIELD_OBJECT(struct pool_object, spec, pool_spec, "spec", &table_pool_spec, .flags = FIELD_REQUIRED,
                          .doc = "what is wanted"));

#define PRESET_SPEC struct preset_spec
DEFINE_TABLE(table_preset_spec, "VirtualMachineInstancePresetSpec", PRESET_SPEC,
             FIELD_RAW_OBJECT(PRESET_SPEC, selector, "selector", .flags = FIELD_REQUIRED, .sub = &table_label_selector,
                              .doc = "labels of the instances that it is for"),
             FIELD_RAW_OBJECT(PRESET_SPEC, domain, "domain", .sub = &table_domain, .doc = "settings they get"));

DEFINE_TABLE(table_preset, "VirtualMachineInstancePreset", struct preset_object, OBJECT_HEAD(struct preset_object),
             FIELD_OBJECT(struct preset_object, spec, preset_spec, "spec", &table_preset_spec, .flags = FIELD_REQUIRED,
                          .doc = "what is wanted"));
