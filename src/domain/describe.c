/* SPDX-License-Identifier: Apache-2.0 */
/* The VM as KubeVirt's api.Domain (compat §1.6: libvirt's domain as Go fields), and what that has no field for. */
#include <stdio.h>

#include "domain/domain-internal.h"

static json_t *describe_disks(const struct domain *d)
{
    json_t *disks = json_array();

    for (size_t i = 0; i < d->vmi->spec.domain.devices.disks.count; i++) {
        const struct vmi_disk *disk = &d->vmi->spec.domain.devices.disks.items[i];
        static const char *const devices[] = {"disk", "disk", "lun", "cdrom"};
        static const char *const buses[] = {"", "virtio", "sata", "scsi", "usb"};
        const char *target = machine_disk_target(d->machine, disk->name);

        json_array_append_new(disks, json_pack("{s:s, s:{s:s, s:s}, s:{s:s, s:b}}", "Device", devices[disk->device],
                                               "Target", "Bus", buses[disk->target->bus], "Device",
                                               target ? target : "", "Alias", "Name", disk->name, "UserDefined", 1));
    }
    return disks;
}

static json_t *describe_interfaces(const struct domain *d)
{
    json_t *interfaces = json_array();

    for (size_t i = 0; i < d->vmi->spec.domain.devices.interfaces.count; i++) {
        const struct vmi_interface *nic = &d->vmi->spec.domain.devices.interfaces.items[i];

        json_array_append_new(interfaces, json_pack("{s:{s:s, s:b}, s:{s:s*}}", "Alias", "Name", nic->name,
                                                    "UserDefined", 1, "MAC", "MAC", nic->mac_address));
    }
    return interfaces;
}

static json_t *describe_grace(const struct domain *d)
{
    char stamp[40];

    return json_pack("{s:I, s:s*, s:b}", "DeletionGracePeriodSeconds", (json_int_t)(d->grace_usec / 1000000U),
                     "DeletionTimestamp", d->stop.phase != STOP_NONE ? format_time(d->stop.wall_asked_at, stamp) : NULL,
                     "MarkedForGracefulShutdown", d->stop.phase != STOP_NONE);
}

json_t *domain_to_json(const struct domain *d)
{
    const struct vmi_domain *spec = &d->vmi->spec.domain;
    json_t *channels = json_pack("[{s:{s:s, s:s}}]", "Target", "Name", "org.qemu.guest_agent.0", "State",
                                 d->agent_connected ? "connected" : "disconnected");

    return json_pack(
        "{s:s, s:s, s:{s:s, s:s, s:s*}, s:{s:s, s:s, s:s, s:{s:I, s:s}, s:{s:{s:s, s:s}}, s:{s:{s:I, s:I, s:I}},"
        " s:{s:o, s:o, s:o}, s:{s:{s:s*, s:o}}}, s:{s:s, s:s, s:I, s:O*, s:o, s:o, s:{s:O*}}}",
        "kind", "Domain", "apiVersion", "", "ObjectMeta", "name", d->vmi->name, "namespace", d->vmi->namespace_, "uid",
        d->vmi->uid, "Spec", "Name", d->vmi->domain_name, "UUID", spec->firmware.uuid, "Type",
        d->accel == MACHINE_ACCEL_KVM ? "kvm" : "qemu", "Memory", "Value", (json_int_t)spec->memory.guest.value, "Unit",
        "b", "OS", "Type", "OS", "hvm", "Machine", spec->machine.type, "CPU", "Topology", "Sockets",
        (json_int_t)opt_int_or(spec->cpu.sockets, 1), "Cores", (json_int_t)opt_int_or(spec->cpu.cores, 1), "Threads",
        (json_int_t)opt_int_or(spec->cpu.threads, 1), "Devices", "Disks", describe_disks(d), "Interfaces",
        describe_interfaces(d), "Channels", channels, "Metadata", "KubeVirt", "UID", d->vmi->uid, "GracePeriod",
        describe_grace(d), "Status", "Status", domain_state_name(d->lifecycle.state), "Reason",
        domain_reason_name(d->lifecycle.reason), "PanicCount", (json_int_t)d->panic_count, "GuestPanicInfo",
        d->panic_info);
}

static json_t *socket_path(const struct domain *d, const char *name)
{
    return json_sprintf("%s/%s", d->dir, name);
}

json_t *domain_extra_to_json(const struct domain *d)
{
    static const char *const phases[] = {NULL, "asked", "quit", "SIGTERM", "SIGKILL"};
    unsigned version = d->qmp ? qmp_client_get_version(d->qmp) : 0;
    json_t *extra, *sockets = json_object();
    char stamp[40], qemu[32] = "";

    if (version)
        snprintf(qemu, sizeof(qemu), "%u.%u.%u", version / 1000000, version / 1000 % 1000, version % 1000);
    if (d->console) {
        json_object_set_new(sockets, "console", socket_path(d, "virt-serial0"));
        json_object_set_new(sockets, "consoleLog", socket_path(d, "virt-serial0-log"));
    }
    json_object_set_new(sockets, "vnc", socket_path(d, "virt-vnc"));
    json_object_set_new(sockets, "qmp", socket_path(d, "qmp.sock"));
    extra = json_pack("{s:s, s:s, s:I, s:s, s:b, s:s*, s:s, s:o, s:o, s:s*, s:s*}", "accel",
                      d->accel == MACHINE_ACCEL_KVM ? "kvm" : "tcg", "accelReason", d->accel_reason, "pid",
                      (json_int_t)d->pid, "qemuVersion", qemu, "agentConnected", d->agent_connected, "agentVersion",
                      d->agent_version, "since", format_time(d->since_wall, stamp), "sockets", sockets, "timeline",
                      timeline_to_json(d->timeline), "pauseVolume", d->pause_volume, "outcome", d->outcome);
    if (d->stop.phase != STOP_NONE)
        json_object_set_new(
            extra, "stopping",
            json_pack("{s:s*, s:s, s:s, s:I}", "phase", phases[d->stop.phase], "why", d->stop.why ? d->stop.why : "",
                      "asked", format_time(d->stop.wall_asked_at, stamp), "presses", (json_int_t)d->stop.presses));
    return extra;
}
