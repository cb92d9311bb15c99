/* SPDX-License-Identifier: Apache-2.0 */
/* Network interfaces: the guest's card and the host's end of it. */
#include "machine/build.h"

struct nic_model {
    const char *name, *driver;
    enum pci_place place;
    bool is_virtio;
};

static const struct nic_model models[] = {
    [VMI_NIC_UNSET] = {"virtio", "virtio-net-pci", PCI_PORT, true},
    [VMI_NIC_VIRTIO] = {"virtio", "virtio-net-pci", PCI_PORT, true},
    [VMI_NIC_E1000] = {"e1000", "e1000", PCI_ROOT_BUS, false},
    [VMI_NIC_E1000E] = {"e1000e", "e1000e", PCI_PORT, false},
    [VMI_NIC_NE2K_PCI] = {"ne2k_pci", "ne2k_pci", PCI_ROOT_BUS, false},
    [VMI_NIC_PCNET] = {"pcnet", "pcnet", PCI_ROOT_BUS, false},
    [VMI_NIC_RTL8139] = {"rtl8139", "rtl8139", PCI_ROOT_BUS, false},
    [VMI_NIC_IGB] = {"igb", "igb", PCI_PORT, false},
};

static const struct machine_nic *find_nic(const struct build *b, const char *interface)
{
    for (size_t i = 0; i < b->facts->n_nics; i++)
        if (streq(b->facts->nics[i].interface, interface))
            return &b->facts->nics[i];
    return NULL;
}

static bool mac_is_valid(const char *mac)
{
    for (size_t i = 0; i < 17; i++)
        if (i % 3 == 2 ? mac[i] != ':' : !mac[i] || !strchr("0123456789abcdefABCDEF", mac[i]))
            return false;
    return mac[17] == '\0';
}

/* ---- the host's end -------------------------------------------------------------------------------------------- */

/* One fd for each queue: "20", or "20:21". */
static const char *queue_fds(struct build *b, enum machine_fd_kind kind, const char *path, unsigned queues)
{
    const char *list = "";

    for (unsigned i = 0; i < queues; i++)
        list = text(b, "%s%s%d", list, i ? ":" : "", fd_add(b, kind, NULL, path, i));
    return list;
}

static void netdev_tap(struct build *b, const struct machine_nic *nic, json_t *netdev)
{
    const char *fds = queue_fds(b, MACHINE_FD_TAP, text(b, "%s", nic->tap), nic->queues);

    set_string(b, netdev, nic->queues > 1 ? "fds" : "fd", fds);
    if (!nic->vhost)
        return;
    fds = queue_fds(b, MACHINE_FD_VHOST_NET, "/dev/vhost-net", nic->queues);
    set_bool(b, netdev, "vhost", true);
    set_string(b, netdev, nic->queues > 1 ? "vhostfds" : "vhostfd", fds);
}

static void netdev_passt(struct build *b, const struct machine_nic *nic, json_t *netdev)
{
    json_t *address = json_object();
    const char **argv, *socket = text(b, "%s", nic->socket_path ? nic->socket_path : "");
    size_t n = 0;

    set_string(b, address, "type", "unix");
    set_string(b, address, "path", socket);
    set_bool(b, netdev, "server", false);
    set_json(b, netdev, "addr", address);
    if (!nic->passt_argv)
        return;
    while (nic->passt_argv[n])
        n++;
    argv = arena_new_array(b->arena, const char *, n + 1);
    for (size_t i = 0; argv && i < n; i++) /* the facts do not outlive the build */
        argv[i] = text(b, "%s", nic->passt_argv[i]);
    if (argv)
        helper_add(b, "passt", socket, NULL, argv, n);
    else
        b->failure = BUILD_NO_MEMORY;
}

static const char *const netdev_types[] = {
    [MACHINE_NET_NONE] = NULL,
    [MACHINE_NET_USER] = "user",
    [MACHINE_NET_TAP] = "tap",
    [MACHINE_NET_PASST] = "stream",
};

static const char *netdev_new(struct build *b, const struct machine_nic *nic, size_t index)
{
    const char *id = device_id(b, "host-", nic->interface, index);
    json_t *netdev;

    if (!netdev_types[nic->kind])
        return NULL;
    netdev = option_json(b, SECTION_BACKEND, "-netdev");
    set_string(b, netdev, "type", netdev_types[nic->kind]);
    set_string(b, netdev, "id", id);
    if (nic->kind == MACHINE_NET_TAP)
        netdev_tap(b, nic, netdev);
    else if (nic->kind == MACHINE_NET_PASST)
        netdev_passt(b, nic, netdev);
    return id;
}

/* ---- the guest's card ------------------------------------------------------------------------------------------ */

static const char *peer_why(struct build *b, const struct machine_nic *nic)
{
    switch (nic->kind) {
    case MACHINE_NET_USER:
        return "user networking: QEMU's own NAT, no privilege needed";
    case MACHINE_NET_TAP:
        return text(b, "tap %s, %u queue%s%s", nic->tap, nic->queues, nic->queues == 1 ? "" : "s",
                    nic->vhost ? ", packets moved by the kernel (vhost)" : "");
    case MACHINE_NET_PASST:
        return "passt, by a socket";
    case MACHINE_NET_NONE:
    default:
        return "no network behind it: none was asked for, or the link is absent";
    }
}

static json_t *card_new(struct build *b, const struct vmi_interface *interface, const struct nic_model *model,
                        const char *id)
{
    return model->is_virtio ? virtio_new(b, interface->at, model->driver, id)
                            : device_new(b, interface->at, model->driver, id);
}

static void card_options(struct build *b, const struct vmi_interface *interface, const struct nic_model *model,
                         const struct machine_nic *nic, json_t *card)
{
    if (nic->kind == MACHINE_NET_TAP && nic->queues > 1 && model->is_virtio) {
        set_bool(b, card, "mq", true);
        set_int(b, card, "vectors", 2 * nic->queues + 2); /* each queue two, config and control one each */
    }
    if (nic->mtu && model->is_virtio)
        set_int(b, card, "host_mtu", nic->mtu);
    if (interface->acpi_index.is_set)
        set_int(b, card, "acpi-index", (uint64_t)interface->acpi_index.value);
    if (interface->boot_order.is_set)
        set_int(b, card, "bootindex", (uint64_t)interface->boot_order.value);
    else
        set_string(b, card, "romfile", ""); /* no boot ROM: nothing boots from this card */
}

static void nic_add(struct build *b, const struct vmi_interface *interface, const struct machine_nic *nic, size_t index)
{
    const struct nic_model *model = &models[interface->model];
    const char *id = device_id(b, "ua-", interface->name, index), *netdev = netdev_new(b, nic, index);
    json_t *card = card_new(b, interface, model, id);
    struct nic_entry *entry;

    if (netdev)
        set_string(b, card, "netdev", netdev);
    set_string(b, card, "mac", nic->mac);
    card_options(b, interface, model, nic, card);
    pci_add(b, card, model->is_virtio && b->devices->use_virtio_transitional == OPT_TRUE ? PCI_ROOT_BUS : model->place,
            interface->at, text(b, "interface %s", interface->name), interface->pci_address);
    if (b->failure == BUILD_FINE)
        b->pci.items[b->pci.count - 1].is_nic = true;
    entry = LIST_ADD(b, &b->machine->nics);
    if (entry)
        *entry = (struct nic_entry){.interface = text(b, "%s", interface->name),
                                    .id = id,
                                    .netdev = netdev,
                                    .tap = nic->kind == MACHINE_NET_TAP ? text(b, "%s", nic->tap) : NULL,
                                    .mac = text(b, "%s", nic->mac),
                                    .model = model->name};
    item(b, MACHINE_GROUP_NETWORK, interface->at, id,
         text(b, "interface %s: %s, %s", interface->name, model->name, nic->mac), peer_why(b, nic));
}

static bool nic_usable(struct build *b, const struct vmi_interface *interface, const struct machine_nic *nic)
{
    if (!nic || !nic->mac) {
        host_fault(b, interface->at, "interface %s: nothing of the host's network was prepared for it",
                   interface->name);
        return false;
    }
    if (!mac_is_valid(nic->mac)) {
        manifest_fault(b, interface->at, "interface %s: MAC address \"%s\" is not of the form 02:00:00:00:00:01",
                       interface->name, nic->mac);
        return false;
    }
    if (nic->kind == MACHINE_NET_TAP && (!nic->tap || nic->queues == 0 || nic->queues > 256)) {
        host_fault(b, interface->at, "interface %s: tap %s with %u queues (1 to 256)", interface->name,
                   nic->tap ? nic->tap : "without a name", nic->queues);
        return false;
    }
    if (interface->acpi_index.is_set && (interface->acpi_index.value < 1 || interface->acpi_index.value > 16383)) {
        manifest_fault(b, interface->at, "acpiIndex %lld (1 to 16383)", (long long)interface->acpi_index.value);
        return false;
    }
    return true;
}

void build_nics(struct build *b)
{
    for (size_t i = 0; i < b->devices->interfaces.count; i++) {
        const struct vmi_interface *interface = &b->devices->interfaces.items[i];
        const struct machine_nic *nic = find_nic(b, interface->name);

        if (interface->state == VMI_LINK_ABSENT)
            item(b, MACHINE_GROUP_NETWORK, interface->at, NULL, text(b, "interface %s: left out", interface->name),
                 "its state is absent");
        else if (interface->binding == VMI_BINDING_SRIOV)
            host_device_add(b, interface->at, interface->name, "ua-sriov-", NULL, opt_int_or(interface->boot_order, 0));
        else if (nic_usable(b, interface, nic))
            nic_add(b, interface, nic, i);
    }
}
