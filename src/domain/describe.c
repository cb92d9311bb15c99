/* SPDX-License-Identifier: Apache-2.0 */
/* The VM as KubeVirt's api.Domain (compat §1.6: libvirt's domain as Go fields), and what that has no field for. */
#include <stdio.h>

#include "domain/domain-internal.h"
#include "domain/network.h"
#include "netsetup/status.h"

static json_t *describe_disks(const struct domain *d)
{
    json_t *disks = json_array();

    size_t n;
    const struct machine_disk *from = machine_get_disks(d->machine, &n);

    for (size_t i = 0; i < n; i++)
        json_array_append_new(disks, json_pack("{s:s, s:{s:s, s:s}, s:{s:s, s:b}}", "Device",
                                               from[i].is_cdrom ? "cdrom"
                                               : from[i].is_lun ? "lun"
                                                                : "disk",
                                               "Target", "Bus", from[i].bus, "Device", from[i].target, "Alias", "Name",
                                               from[i].disk, "UserDefined", 1));
    return disks;
}

static json_t *describe_interfaces(const struct domain *d)
{
    json_t *interfaces = json_array();

    for (size_t i = 0; i < d->vmi->spec.domain.devices.interfaces.count; i++) {
        const struct vmi_interface *nic = &d->vmi->spec.domain.devices.interfaces.items[i];

        json_array_append_new(interfaces,
                              json_pack("{s:{s:s, s:b}, s:{s:s*}}", "Alias", "Name", nic->name, "UserDefined", 1, "MAC",
                                        "MAC", machine_nic_mac(d->machine, nic->name)));
    }
    return interfaces;
}

/* An interface that netsetup did not make: what the agent says of its addresses is all that is known. */
static void unknown_link(const struct domain *d, const struct vmi_interface *nic, struct net_interface *ret)
{
    *ret = (struct net_interface){.name = nic->name,
                                  .binding = VMI_BINDING_BRIDGE,
                                  .state = nic->state,
                                  .mac = machine_nic_mac(d->machine, nic->name)};
}

json_t *domain_interfaces_to_json(const struct domain *d)
{
    const struct vmi_devices *devices = &d->vmi->spec.domain.devices;
    size_t n = devices->interfaces.count;
    _cleanup_free_ struct net_interface *unknown = calloc(n + 1, sizeof(*unknown));
    _cleanup_free_ struct net_status *list = calloc(n + 1, sizeof(*list));

    if (!unknown || !list)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        const struct vmi_interface *nic = &devices->interfaces.items[i];

        list[i].interface = d->network ? pod_network_get(d->network, i) : NULL;
        list[i].link_down = nic->state == VMI_LINK_DOWN;
        if (!list[i].interface) {
            unknown_link(d, nic, &unknown[i]);
            list[i].interface = &unknown[i];
        }
    }
    /* What the agent said last is kept over its restarts and ours (guest-info.h, statefile.h). */
    return net_status_merge(list, n, guest_info_get(d->guest_info, "guest-network-get-interfaces"), NULL);
}

static json_t *describe_grace(const struct domain *d)
{
    char stamp[40];

    return json_pack("{s:I, s:s*, s:b}", "DeletionGracePeriodSeconds", (json_int_t)(d->grace_usec / 1000000U),
                     "DeletionTimestamp", d->stop.phase != STOP_NONE ? format_time(d->stop.wall_asked_at, stamp) : NULL,
                     "MarkedForGracefulShutdown", d->stop.phase != STOP_NONE);
}

static json_t *describe_devices(const struct domain *d)
{
    json_t *devices = json_object();

    json_object_set_new(devices, "Disks", describe_disks(d));
    json_object_set_new(devices, "Interfaces", describe_interfaces(d));
    json_object_set_new(devices, "Channels",
                        json_pack("[{s:{s:s, s:s}}]", "Target", "Name", "org.qemu.guest_agent.0", "State",
                                  d->agent_connected ? "connected" : "disconnected"));
    return devices;
}

static json_t *describe_cpu(const struct vmi_cpu *cpu)
{
    return json_pack("{s:{s:I, s:I, s:I}}", "Topology", "Sockets", (json_int_t)opt_int_or(cpu->sockets, 1), "Cores",
                     (json_int_t)opt_int_or(cpu->cores, 1), "Threads", (json_int_t)opt_int_or(cpu->threads, 1));
}

static json_t *describe_metadata(const struct domain *d)
{
    json_t *metadata = json_pack("{s:s*}", "UID", d->vmi->uid);

    json_object_set_new(metadata, "GracePeriod", describe_grace(d));
    if (credentials_get_result(d->credentials))
        json_object_set(metadata, "AccessCredential", credentials_get_result(d->credentials));
    if (d->memory_dump)
        json_object_set(metadata, "MemoryDump", d->memory_dump);
    return json_pack("{s:o}", "KubeVirt", metadata);
}

static json_t *describe_spec(const struct domain *d)
{
    const struct vmi_domain *from = &d->vmi->spec.domain;
    json_t *spec = json_pack("{s:s, s:s, s:s}", "Name", d->vmi->domain_name, "UUID", from->firmware.uuid, "Type",
                             d->accel == MACHINE_ACCEL_KVM ? "kvm" : "qemu");

    json_object_set_new(spec, "Memory",
                        json_pack("{s:I, s:s}", "Value", (json_int_t)from->memory.guest.value, "Unit", "b"));
    json_object_set_new(spec, "OS", json_pack("{s:{s:s, s:s}}", "Type", "OS", "hvm", "Machine", from->machine.type));
    json_object_set_new(spec, "CPU", describe_cpu(&from->cpu));
    json_object_set_new(spec, "Devices", describe_devices(d));
    json_object_set_new(spec, "Metadata", describe_metadata(d));
    return spec;
}

static json_t *describe_status(const struct domain *d)
{
    json_t *freeze = guest_info_get(d->guest_info, "guest-fsfreeze-status");
    json_t *status = json_pack("{s:s, s:s, s:I, s:O*}", "Status", domain_state_name(d->lifecycle.state), "Reason",
                               domain_reason_name(d->lifecycle.reason), "PanicCount", (json_int_t)d->panic_count,
                               "GuestPanicInfo", d->panic_info);

    json_object_set_new(status, "OSInfo", guest_info_os_to_domain_json(d->guest_info));
    json_object_set_new(status, "Interfaces", guest_info_interfaces_to_domain_json(d->guest_info));
    if (freeze)
        json_object_set_new(status, "FSFreezeStatus", json_pack("{s:O}", "Status", freeze));
    return status;
}

json_t *domain_to_json(const struct domain *d)
{
    json_t *domain = json_pack("{s:s, s:s}", "kind", "Domain", "apiVersion", "");

    json_object_set_new(
        domain, "ObjectMeta",
        json_pack("{s:s, s:s, s:s*}", "name", d->vmi->name, "namespace", d->vmi->namespace_, "uid", d->vmi->uid));
    json_object_set_new(domain, "Spec", describe_spec(d));
    json_object_set_new(domain, "Status", describe_status(d));
    return domain;
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
    json_object_set_new(extra, "interfaces", domain_interfaces_to_json(d));
    if (d->network)
        json_object_set_new(extra, "leases", pod_network_leases(d->network));
    if (d->lifecycle.state == DOMAIN_PAUSED && d->lifecycle.reason == REASON_IO_ERROR) {
        char next[40];

        json_object_set_new(extra, "ioError",
                            json_pack("{s:s*, s:s*, s:s, s:I, s:s*}", "volume", d->pause_volume, "errno",
                                      d->pause_error, "since", format_time(d->since_wall, stamp), "attempts",
                                      (json_int_t)d->io_retries, "nextTry",
                                      d->io_next_wall ? format_time(d->io_next_wall, next) : NULL));
    }
    if (d->stop.phase != STOP_NONE)
        json_object_set_new(
            extra, "stopping",
            json_pack("{s:s*, s:s, s:s, s:I}", "phase", phases[d->stop.phase], "why", d->stop.why ? d->stop.why : "",
                      "asked", format_time(d->stop.wall_asked_at, stamp), "presses", (json_int_t)d->stop.presses));
    return extra;
}
