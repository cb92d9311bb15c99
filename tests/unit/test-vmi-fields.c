/* SPDX-License-Identifier: Apache-2.0 */
/* Every field of KubeVirt's API (v1, 1.9: schema.go and types.go, spec side) stands in the tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/util.h"
#include "vmi/tables.h"

/* Types that the API inlines into another one are listed under that one. */
static const struct {
    const char *type, *fields;
} api[] = {
    {"HostDisk", "path type capacity shared"},
    {"ConfigMapVolumeSource", "optional volumeLabel"},
    {"SecretVolumeSource", "secretName optional volumeLabel"},
    {"DownwardAPIVolumeSource", "fields volumeLabel"},
    {"ServiceAccountVolumeSource", "serviceAccountName"},
    {"ContainerPathVolumeSource", "path readOnly"},
    {"SysprepSource", "secret configMap"},
    {"CloudInitNoCloudSource", "secretRef userDataBase64 userData networkDataSecretRef networkDataBase64 networkData"},
    {"CloudInitNoCloudSource", "secretRef userDataBase64 userData networkDataSecretRef networkDataBase64 networkData"},
    {"DomainSpec", "resources cpu memory machine firmware clock features devices ioThreadsPolicy ioThreads chassis "
                   "launchSecurity rebootPolicy"},
    {"Chassis", "manufacturer version serial asset sku"},
    {"Bootloader", "bios efi"},
    {"BIOS", "useSerial"},
    {"EFI", "secureBoot persistent"},
    {"KernelBootContainer", "image imagePullSecret imagePullPolicy kernelPath initrdPath"},
    {"KernelBoot", "kernelArgs container"},
    {"ResourceRequirements", "requests limits overcommitGuestOverhead"},
    {"CPU",
     "cores sockets maxSockets threads model features dedicatedCpuPlacement numa isolateEmulatorThread realtime"},
    {"Realtime", "mask"},
    {"NUMA", "guestMappingPassthrough"},
    {"CPUFeature", "name policy"},
    {"Memory", "hugepages guest maxGuest reservedOverhead"},
    {"Hugepages", "pageSize"},
    {"ReservedOverhead", "addedOverhead memLock"},
    {"Machine", "type"},
    {"Firmware", "uuid bootloader serial kernelBoot acpi"},
    {"ACPI", "slicNameRef msdmNameRef"},
    {"Devices", "useVirtioTransitional disableHotplug disks watchdog interfaces inputs autoattachPodInterface "
                "autoattachGraphicsDevice autoattachSerialConsole logSerialConsole autoattachMemBalloon "
                "autoattachInputDevice autoattachVSOCK rng blockMultiQueue networkInterfaceMultiqueue gpus "
                "downwardMetrics panicDevices filesystems hostDevices clientPassthrough sound tpm video"},
    {"SoundDevice", "name model"},
    {"TPMDevice", "enabled persistent"},
    {"VideoDevice", "type"},
    {"Input", "bus type name"},
    {"Filesystem", "name virtiofs"},
    {"GPU", "name deviceName virtualGPUOptions tag"},
    {"GPU", "claimName requestName"},
    {"HostDevice", "claimName requestName"},
    {"VGPUOptions", "display"},
    {"VGPUDisplayOptions", "enabled ramFB"},
    {"PanicDevice", "model"},
    {"HostDevice", "name deviceName tag"},
    {"Disk",
     "name bootOrder serial dedicatedIOThread cache io tag blockSize shareable errorPolicy changedBlockTracking"},
    {"CustomBlockSize", "logical physical discardGranularity"},
    {"BlockSize", "custom matchVolume"},
    {"Disk", "disk lun cdrom"},
    {"DiskTarget", "bus readonly pciAddress"},
    {"LaunchSecurity", "sev snp tdx"},
    {"SEV", "policy attestation session dhCert"},
    {"SEVPolicy", "encryptedState"},
    {"LunTarget", "bus readonly reservation"},
    {"CDRomTarget", "bus readonly tray"},
    {"Volume", "name"},
    {"Volume",
     "hostDisk persistentVolumeClaim cloudInitNoCloud cloudInitConfigDrive sysprep containerDisk ephemeral emptyDisk "
     "dataVolume configMap secret downwardAPI serviceAccount downwardMetrics memoryDump containerPath"},
    {"DataVolumeSource", "name hotpluggable"},
    {"PersistentVolumeClaimVolumeSource", "hotpluggable"},
    {"EphemeralVolumeSource", "persistentVolumeClaim"},
    {"EmptyDiskSource", "capacity"},
    {"ContainerDiskSource", "image imagePullSecret path imagePullPolicy"},
    {"UtilityVolume", "name type"},
    {"Clock", "utc timezone"},
    {"ClockOffsetUTC", "offsetSeconds"},
    {"Clock", "timer"},
    {"Timer", "hpet kvm pit rtc hyperv"},
    {"RTCTimer", "tickPolicy present track"},
    {"HPETTimer", "tickPolicy present"},
    {"PITTimer", "tickPolicy present"},
    {"KVMTimer", "present"},
    {"KVMTimer", "present"},
    {"HyperVPassthrough", "enabled"},
    {"Features", "acpi apic hypervPassthrough hyperv smm kvm pvspinlock"},
    {"SyNICTimer", "direct"},
    {"FeatureState", "enabled"},
    {"FeatureAPIC", "endOfInterrupt"},
    {"FeatureSpinlocks", "spinlocks"},
    {"FeatureVendorID", "vendorid"},
    {"TLBFlush", "direct extended"},
    {"FeatureHyperv", "relaxed vapic spinlocks vpindex runtime synic synictimer reset vendorid frequencies "
                      "reenlightenment tlbflush ipi evmcs"},
    {"FeatureKVM", "hidden"},
    {"Watchdog", "name"},
    {"Watchdog", "i6300esb diag288"},
    {"I6300ESBWatchdog", "action"},
    {"I6300ESBWatchdog", "action"},
    {"Interface",
     "name model binding ports portRanges macAddress bootOrder pciAddress dhcpOptions tag acpiIndex state"},
    {"DHCPOptions", "bootFileName tftpServerName ntpServers privateOptions"},
    {"DHCPPrivateOptions", "option value"},
    {"Interface", "bridge slirp masquerade sriov macvtap passt passtBinding"},
    {"PluginBinding", "name"},
    {"Port", "name protocol port"},
    {"PortRange", "protocol start end"},
    {"AccessCredentialSecretSource", "secretName"},
    {"QemuGuestAgentSSHPublicKeyAccessCredentialPropagation", "users"},
    {"AccessCredentialSource", "secret"},
    {"SSHPublicKeyAccessCredentialPropagationMethod", "configDrive noCloud qemuGuestAgent"},
    {"SSHPublicKeyAccessCredential", "source propagationMethod"},
    {"AccessCredentialSource", "secret"},
    {"UserPasswordAccessCredentialPropagationMethod", "qemuGuestAgent"},
    {"UserPasswordAccessCredential", "source propagationMethod"},
    {"AccessCredential", "sshPublicKey userPassword"},
    {"Network", "name"},
    {"Network", "pod multus resourceClaim"},
    {"PodNetwork", "vmNetworkCIDR vmIPv6NetworkCIDR"},
    {"MultusNetwork", "networkName default"},
    {"DiskIOThreads", "supplementalPoolThreadCount"},
    {"VirtualMachineInstanceSpec",
     "priorityClassName domain nodeSelector affinity schedulerName serviceAccountName tolerations "
     "topologySpreadConstraints evictionStrategy startStrategy terminationGracePeriodSeconds volumes livenessProbe "
     "readinessProbe hostname subdomain networks dnsPolicy dnsConfig accessCredentials architecture resourceClaims "
     "utilityVolumes"},
    {"VirtualMachineInstanceResourceClaim", "name resourceClaimName resourceClaimTemplateName"},
    {"VirtualMachineInstanceReplicaSetSpec", "replicas selector template paused"},
    {"VirtualMachineInstanceTemplateSpec", "metadata spec"},
    {"VirtualMachineInstancePresetSpec", "selector domain"},
    {"VirtualMachineSpec",
     "running runStrategy instancetype preference template dataVolumeTemplates updateVolumesStrategy"},
    {"InstancetypeMatcher", "name kind revisionName inferFromVolume inferFromVolumeFailurePolicy"},
    {"VirtualMachineInstancetypeSpec",
     "nodeSelector schedulerName cpu memory gpus hostDevices ioThreadsPolicy ioThreads launchSecurity annotations"},
    {"CPUInstancetype", "guest model dedicatedCPUPlacement numa isolateEmulatorThread realtime maxSockets"},
    {"MemoryInstancetype", "guest hugepages overcommitPercent maxGuest"},
    {"VirtualMachinePreferenceSpec",
     "clock cpu devices features firmware machine volumes preferredSubdomain preferredTerminationGracePeriodSeconds "
     "requirements annotations preferSpreadSocketToCoreRatio preferredArchitecture"},
    {"CPUPreferences", "preferredCPUTopology spreadOptions preferredCPUFeatures"},
    {"DevicePreferences",
     "preferredAutoattachGraphicsDevice preferredAutoattachMemBalloon preferredAutoattachPodInterface "
     "preferredAutoattachSerialConsole preferredAutoattachInputDevice preferredDisableHotplug "
     "preferredVirtualGPUOptions preferredSoundModel preferredUseVirtioTransitional preferredInputBus "
     "preferredInputType preferredDiskBus preferredLunBus preferredCdromBus preferredDiskDedicatedIoThread "
     "preferredDiskCache preferredDiskIO preferredDiskBlockSize preferredInterfaceModel preferredRng "
     "preferredBlockMultiQueue preferredNetworkInterfaceMultiQueue preferredTPM preferredInterfaceMasquerade "
     "preferredPanicDeviceModel preferredVideoType"},
    {"FeaturePreferences", "preferredAcpi preferredApic preferredHyperv preferredKvm preferredPvspinlock preferredSmm"},
    {"FirmwarePreferences",
     "preferredUseBios preferredUseBiosSerial preferredUseEfi preferredUseSecureBoot preferredEfi"},
};

#define MAX_DEPTH 16

static const struct table *find_table(const struct table *table, const char *name, unsigned depth)
{
    if (streq(table->name, name))
        return table;
    for (size_t i = 0; i < table->count && depth < MAX_DEPTH; i++) {
        const struct table *found = table->fields[i].sub ? find_table(table->fields[i].sub, name, depth + 1) : NULL;

        if (found)
            return found;
    }
    return NULL;
}

static bool has_field(const struct table *table, const char *name, size_t length)
{
    for (size_t i = 0; i < table->count; i++)
        if (strlen(table->fields[i].name) == length && memcmp(table->fields[i].name, name, length) == 0)
            return true;
    return false;
}

static const struct table *const roots[] = {
    &table_vm, &table_vmi, &table_replica_set, &table_preset, &table_cluster_instancetype, &table_cluster_preference};

static void test_every_field_is_known(void **state)
{
    for (size_t i = 0; i < ELEMENTSOF(api); i++) {
        const struct table *table = NULL;

        for (size_t k = 0; k < ELEMENTSOF(roots) && !table; k++)
            table = find_table(roots[k], api[i].type, 0);
        if (!table)
            fail_msg("no table for %s", api[i].type);
        for (const char *p = api[i].fields; *p;) {
            size_t n = strcspn(p, " ");

            if (!has_field(table, p, n))
                fail_msg("%s has no field %.*s", api[i].type, (int)n, p);
            p += n + (p[n] == ' ');
        }
    }
}

/* What a schema will be generated from: each row says what it is for, and no name stands twice. */
static void check_rows(const struct table *table, unsigned depth)
{
    for (size_t i = 0; i < table->count; i++) {
        const struct field *f = &table->fields[i];

        if (!f->doc)
            fail_msg("%s.%s has no documentation", table->name, f->name);
        for (size_t k = 0; k < i; k++)
            if (streq(f->name, table->fields[k].name))
                fail_msg("%s.%s stands twice", table->name, f->name);
        if (f->type == FIELD_TYPE_INT && f->min > f->max)
            fail_msg("%s.%s has no value", table->name, f->name);
        if ((f->type == FIELD_TYPE_OBJECT || f->type == FIELD_TYPE_POINTER || f->type == FIELD_TYPE_LIST) && !f->sub)
            fail_msg("%s.%s has no table", table->name, f->name);
        if (f->sub && depth < MAX_DEPTH)
            check_rows(f->sub, depth + 1);
    }
}

static void test_rows(void **state)
{
    for (size_t i = 0; i < ELEMENTSOF(roots); i++)
        check_rows(roots[i], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_field_is_known), cmocka_unit_test(test_rows)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
