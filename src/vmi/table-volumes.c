/* SPDX-License-Identifier: Apache-2.0 */
/* spec.volumes */
#include "vmi/tables.h"

ENUM_NAMES(pull_policy_names, [1] = "Always", [2] = "IfNotPresent", [3] = "Never");
ENUM_NAMES(host_disk_type_names, [1] = "Disk", [2] = "DiskOrCreate");

#define HD struct vmi_host_disk
DEFINE_TABLE(table_host_disk, "HostDisk", HD,
             FIELD_STRING(HD, path, "path", .flags = FIELD_REQUIRED, .format = &format_absolute_path,
                          .doc = "image file on the node"),
             FIELD_STRING(HD, type, "type", .flags = FIELD_REQUIRED, .names = &host_disk_type_names,
                          .doc = "Disk, or DiskOrCreate to make it"),
             FIELD_QUANTITY(HD, capacity, "capacity", 1, .doc = "size of an image that is made"),
             FIELD_BOOL(HD, shared, "shared", .doc = "the path is on storage that all nodes share"));

#define PVC struct vmi_pvc
DEFINE_TABLE(table_pvc, "PersistentVolumeClaimVolumeSource", PVC,
             FIELD_STRING(PVC, claim_name, "claimName", .flags = FIELD_REQUIRED, .format = &format_dns_subdomain,
                          .doc = "name of the claim"),
             FIELD_BOOL(PVC, read_only, "readOnly", .doc = "mounted read-only"),
             FIELD_BOOL(PVC, hotpluggable, "hotpluggable", .doc = "can be unplugged while the VM runs"));

DEFINE_TABLE(table_data_volume, "DataVolumeSource", PVC,
             FIELD_STRING(PVC, claim_name, "name", .flags = FIELD_REQUIRED, .format = &format_dns_subdomain,
                          .doc = "name of the DataVolume, and of its claim"),
             FIELD_BOOL(PVC, hotpluggable, "hotpluggable", .doc = "can be unplugged while the VM runs"));

DEFINE_TABLE(table_ephemeral, "EphemeralVolumeSource", struct vmi_ephemeral,
             FIELD_POINTER(struct vmi_ephemeral, persistent_volume_claim, vmi_pvc, "persistentVolumeClaim", &table_pvc,
                           .flags = FIELD_REQUIRED, .doc = "claim under a layer that is thrown away"));

#define CI struct vmi_cloud_init
DEFINE_TABLE(table_cloud_init, "CloudInitNoCloudSource", CI,
             FIELD_POINTER(CI, secret_ref, vmi_local_ref, "secretRef", &table_local_ref, .doc = "secret with userdata"),
             FIELD_STRING(CI, user_data_base64, "userDataBase64", .format = &format_base64, .doc = "user data, base64"),
             FIELD_STRING(CI, user_data, "userData", .doc = "user data as text"),
             FIELD_POINTER(CI, network_data_secret_ref, vmi_local_ref, "networkDataSecretRef", &table_local_ref,
                           .doc = "secret with networkdata"),
             FIELD_STRING(CI, network_data_base64, "networkDataBase64", .format = &format_base64,
                          .doc = "network data, base64"),
             FIELD_STRING(CI, network_data, "networkData", .doc = "network data as text"));

DEFINE_TABLE(table_sysprep, "SysprepSource", struct vmi_sysprep,
             FIELD_POINTER(struct vmi_sysprep, secret, vmi_local_ref, "secret", &table_local_ref,
                           .doc = "secret with the answer files"),
             FIELD_POINTER(struct vmi_sysprep, config_map, vmi_local_ref, "configMap", &table_local_ref,
                           .doc = "config map with the answer files"));

#define CD struct vmi_container_disk
DEFINE_TABLE(table_container_disk, "ContainerDiskSource", CD,
             FIELD_STRING(CD, image, "image", .flags = FIELD_REQUIRED, .doc = "container image with the disk"),
             FIELD_STRING(CD, image_pull_secret, "imagePullSecret", .flags = FIELD_POD,
                          .doc = "secret for its registry"),
             FIELD_STRING(CD, path, "path", .doc = "file in the image; the only one in /disk unless given"),
             FIELD_STRING(CD, image_pull_policy, "imagePullPolicy", .flags = FIELD_POD, .names = &pull_policy_names,
                          .doc = "when the image is pulled"));

DEFINE_TABLE(table_empty_disk, "EmptyDiskSource", struct vmi_empty_disk,
             FIELD_QUANTITY(struct vmi_empty_disk, capacity, "capacity", 1, .flags = FIELD_REQUIRED, .doc = "size"));

#define CV struct vmi_config_volume
DEFINE_TABLE(table_config_map, "ConfigMapVolumeSource", CV,
             FIELD_STRING(CV, name, "name", .format = &format_dns_subdomain, .doc = "name of the config map"),
             FIELD_BOOL(CV, optional, "optional", .doc = "it may be missing"),
             FIELD_STRING(CV, volume_label, "volumeLabel", .doc = "label of the disk's file system"));

DEFINE_TABLE(table_secret, "SecretVolumeSource", CV,
             FIELD_STRING(CV, name, "secretName", .format = &format_dns_subdomain, .doc = "name of the secret"),
             FIELD_BOOL(CV, optional, "optional", .doc = "it may be missing"),
             FIELD_STRING(CV, volume_label, "volumeLabel", .doc = "label of the disk's file system"));

DEFINE_CHECK_TABLE(table_downward_field, "DownwardAPIVolumeFile",
                   FIELD_CHECKED("path", FIELD_TYPE_STRING, .flags = FIELD_REQUIRED, .doc = "name of the file"),
                   FIELD_CHECKED("fieldRef", FIELD_TYPE_RAW_OBJECT, .doc = "field of the pod"),
                   FIELD_CHECKED("resourceFieldRef", FIELD_TYPE_RAW_OBJECT, .doc = "resource of a container"),
                   FIELD_CHECKED("mode", FIELD_TYPE_INT, .min = 0, .max = 0777, .doc = "permissions"));

DEFINE_TABLE(table_downward_api, "DownwardAPIVolumeSource", CV,
             FIELD_RAW_LIST(CV, fields, "fields", .sub = &table_downward_field, .doc = "files of the volume"),
             FIELD_STRING(CV, volume_label, "volumeLabel", .doc = "label of the disk's file system"));

DEFINE_TABLE(table_service_account, "ServiceAccountVolumeSource", CV,
             FIELD_STRING(CV, name, "serviceAccountName", .format = &format_dns_subdomain,
                          .doc = "name of the service account"));

DEFINE_TABLE(table_container_path, "ContainerPathVolumeSource", struct vmi_container_path,
             FIELD_STRING(struct vmi_container_path, path, "path", .flags = FIELD_REQUIRED,
                          .format = &format_absolute_path, .doc = "directory in the pod's container"),
             FIELD_BOOL(struct vmi_container_path, read_only, "readOnly", .doc = "read-only for the guest"));

#define V struct vmi_volume
DEFINE_TABLE(
    table_volume, "Volume", V,
    FIELD_STRING(V, name, "name", .flags = FIELD_REQUIRED, .format = &format_dns_label, .doc = "name of the volume"),
    FIELD_POINTER(V, host_disk, vmi_host_disk, "hostDisk", &table_host_disk, .doc = "image file of the node"),
    FIELD_POINTER(V, persistent_volume_claim, vmi_pvc, "persistentVolumeClaim", &table_pvc, .doc = "disk on a claim"),
    FIELD_POINTER(V, cloud_init_no_cloud, vmi_cloud_init, "cloudInitNoCloud", &table_cloud_init,
                  .doc = "cloud-init data, NoCloud"),
    FIELD_POINTER(V, cloud_init_config_drive, vmi_cloud_init, "cloudInitConfigDrive", &table_cloud_init,
                  .doc = "cloud-init data, ConfigDrive"),
    FIELD_POINTER(V, sysprep, vmi_sysprep, "sysprep", &table_sysprep, .doc = "answer files for Windows"),
    FIELD_POINTER(V, container_disk, vmi_container_disk, "containerDisk", &table_container_disk,
                  .doc = "disk in a container image"),
    FIELD_POINTER(V, container_disk, vmi_container_disk, "registryDisk", &table_container_disk, .flags = FIELD_OLD,
                  .doc = "containerDisk, as v1alpha2 calls it"),
    FIELD_POINTER(V, ephemeral, vmi_ephemeral, "ephemeral", &table_ephemeral, .doc = "claim that is not changed"),
    FIELD_POINTER(V, empty_disk, vmi_empty_disk, "emptyDisk", &table_empty_disk, .doc = "empty disk"),
    FIELD_POINTER(V, data_volume, vmi_pvc, "dataVolume", &table_data_volume, .doc = "DataVolume of CDI"),
    FIELD_POINTER(V, config_map, vmi_config_volume, "configMap", &table_config_map, .doc = "config map as a disk"),
    FIELD_POINTER(V, secret, vmi_config_volume, "secret", &table_secret, .doc = "secret as a disk"),
    FIELD_POINTER(V, downward_api, vmi_config_volume, "downwardAPI", &table_downward_api,
                  .doc = "pod fields as a disk"),
    FIELD_POINTER(V, service_account, vmi_config_volume, "serviceAccount", &table_service_account,
                  .doc = "service account token as a disk"),
    FIELD_RAW_OBJECT(V, downward_metrics, "downwardMetrics", .sub = &table_empty, .doc = "host metrics as a disk"),
    FIELD_POINTER(V, memory_dump, vmi_pvc, "memoryDump", &table_pvc, .doc = "claim for a memory dump"),
    FIELD_POINTER(V, container_path, vmi_container_path, "containerPath", &table_container_path,
                  .doc = "directory of the pod's container"));
