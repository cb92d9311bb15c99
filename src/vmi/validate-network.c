/* SPDX-License-Identifier: Apache-2.0 */
/* Interfaces, networks and the boot order. Rules are those of KubeVirt's admission (1.9). */
#include <arpa/inet.h>
#include <inttypes.h>

#include "vmi/private.h"

/* The address of the bridge in the pod, which the guest must not have (KubeVirt's pkg/network/link). */
#define RESERVED_MAC "02:00:00:00:00:00"

static void validate_binding(const struct vmi_interface *i, struct faults *faults)
{
    const struct vmi_network *network = i->network;
    int n = (i->bridge != NULL) + (i->masquerade != NULL) + (i->slirp != NULL) + (i->sriov != NULL) +
            (i->macvtap != NULL) + (i->passt != NULL) + (i->passt_binding != NULL) + (i->plugin != NULL);

    if (n > 1)
        faults_add(faults, i->at, "must have only one binding (bridge, masquerade, sriov, passtBinding, binding…)");
    if (i->macvtap)
        faults_add(faults, i->macvtap, "the macvtap binding is gone from KubeVirt, and is not built (use bridge)");
    if (i->plugin && i->plugin->name && i->binding == VMI_BINDING_PLUGIN)
        faults_add_member(faults, i->plugin->at, "name",
                          "the binding plug-in \"%.64s\" is not built: its interface would have no network (passt is "
                          "built; or use bridge, masquerade or sriov)",
                          i->plugin->name);
    if (i->masquerade && network && !network->pod && network->multus)
        faults_add(faults, i->masquerade, "masquerade is for the pod's network only");
    if (i->slirp && network && !network->pod && network->multus)
        faults_add(faults, i->slirp, "slirp is for the pod's network only");
    if (i->masquerade && streq_ptr(i->mac_address, RESERVED_MAC))
        faults_add_member(faults, i->at, "macAddress", "%s is that of the bridge in the pod", RESERVED_MAC);
}

static void validate_ports(struct vmi *vmi, const struct vmi_interface *i, struct faults *faults)
{
    struct named *names = arena_new_array(vmi->arena, struct named, i->ports.count + 1);

    for (size_t k = 0; k < i->ports.count && names; k++)
        names[k] = (struct named){i->ports.items[k].at, i->ports.items[k].name};
    if (names)
        validate_unique(vmi, faults, names, i->ports.count, "port");
    for (size_t k = 0; k < i->port_ranges.count; k++) {
        const struct vmi_port_range *range = &i->port_ranges.items[k];

        if (range->start.is_set && range->end.is_set && range->end.value < range->start.value)
            faults_add_member(faults, range->at, "end", "%" PRId64 " is less than the start, %" PRId64,
                              range->end.value, range->start.value);
    }
}

static void validate_dhcp(const struct vmi_dhcp_options *dhcp, struct faults *faults)
{
    const struct node *servers = dhcp ? node_get(dhcp->at, "ntpServers") : NULL;
    unsigned char binary[4];
    bool seen[256] = {0};

    if (servers && servers->kind == NODE_SEQUENCE)
        NODE_FOREACH(server, servers)
        {
            if (server->kind == NODE_SCALAR && inet_pton(AF_INET, server->text, binary) != 1)
                faults_add(faults, server, "\"%.48s\" is no IPv4 address", server->text);
        }
    for (size_t i = 0; dhcp && i < dhcp->private_options.count; i++) {
        const struct vmi_dhcp_private_option *option = &dhcp->private_options.items[i];

        if (!option->option.is_set)
            continue;
        if (seen[option->option.value])
            faults_add_member(faults, option->at, "option", "%" PRId64 " is given already", option->option.value);
        seen[option->option.value] = true;
    }
}

static void validate_interfaces(struct vmi *vmi, struct faults *faults)
{
    const struct vmi_devices *devices = &vmi->spec.domain.devices;
    struct named *names = arena_new_array(vmi->arena, struct named, devices->interfaces.count + 1);

    for (size_t k = 0; k < devices->interfaces.count && names; k++) {
        const struct vmi_interface *i = &devices->interfaces.items[k];

        names[k] = (struct named){i->at, i->name};
        if (!i->network && i->name)
            faults_add_member(faults, i->at, "name", "there is no network named \"%.64s\" in spec.networks", i->name);
        validate_binding(i, faults);
        validate_ports(vmi, i, faults);
        validate_dhcp(i->dhcp_options, faults);
    }
    if (names)
        validate_unique(vmi, faults, names, devices->interfaces.count, "interface");
}

static bool has_interface(const struct vmi *vmi, const char *name)
{
    const struct vmi_devices *devices = &vmi->spec.domain.devices;

    for (size_t i = 0; i < devices->interfaces.count; i++)
        if (streq_ptr(devices->interfaces.items[i].name, name))
            return true;
    return false;
}

static void validate_networks(struct vmi *vmi, struct faults *faults)
{
    struct named *names = arena_new_array(vmi->arena, struct named, vmi->spec.networks.count + 1);
    const struct vmi_network *first = NULL; /* that takes the pod's own network */

    for (size_t i = 0; i < vmi->spec.networks.count && names; i++) {
        const struct vmi_network *n = &vmi->spec.networks.items[i];

        names[i] = (struct named){n->at, n->name};
        if (n->name && !has_interface(vmi, n->name))
            faults_add_member(faults, n->at, "name", "no interface is named \"%.64s\" (spec.domain.devices.interfaces)",
                              n->name);
        if (n->at && n->at->kind == NODE_MAPPING && !n->pod && !n->multus && !node_get(n->at, "resourceClaim"))
            faults_add(faults, n->at, "must have pod or multus%s",
                       node_get(n->at, "pod") ? " (pod is null: write pod: {})" : "");
        else if (n->pod && n->multus)
            faults_add(faults, n->at, "must have only one of pod and multus");
        if (!n->pod && !(n->multus && n->multus->is_default == OPT_TRUE))
            continue;
        if (first)
            faults_add(faults, n->at, "\"%.64s\" is on the pod's network already (at most one)",
                       first->name ?: "another network");
        else
            first = n;
    }
    if (names)
        validate_unique(vmi, faults, names, vmi->spec.networks.count, "network");
}

/* ---- boot order, over disks and interfaces ---- */

struct boot_device {
    const struct node *at;
    const char *name;
    int64_t order;
    size_t index;
};

static int by_order(const void *a, const void *b)
{
    const struct boot_device *x = a, *y = b;

    if (x->order != y->order)
        return x->order < y->order ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static void validate_boot_order(struct vmi *vmi, struct faults *faults)
{
    const struct vmi_devices *devices = &vmi->spec.domain.devices;
    struct boot_device *list =
        arena_new_array(vmi->arena, struct boot_device, devices->disks.count + devices->interfaces.count + 1);
    size_t n = 0;

    if (!list)
        return;
    for (size_t i = 0; i < devices->disks.count; i++) {
        const struct vmi_disk *d = &devices->disks.items[i];

        if (d->boot_order.is_set)
            list[n] = (struct boot_device){d->at, d->name, d->boot_order.value, n}, n++;
    }
    for (size_t i = 0; i < devices->interfaces.count; i++) {
        const struct vmi_interface *d = &devices->interfaces.items[i];

        if (d->boot_order.is_set)
            list[n] = (struct boot_device){d->at, d->name, d->boot_order.value, n}, n++;
    }
    if (n > 1)
        qsort(list, n, sizeof(*list), by_order);
    for (size_t i = 1; i < n; i++)
        if (list[i].order == list[i - 1].order)
            faults_add_member(faults, list[i].at, "bootOrder", "%" PRId64 " is the boot order of \"%.64s\" already",
                              list[i].order, list[i - 1].name ?: "another device");
}

void validate_network(struct vmi *vmi, struct faults *faults)
{
    validate_interfaces(vmi, faults);
    validate_networks(vmi, faults);
    validate_boot_order(vmi, faults);
}
