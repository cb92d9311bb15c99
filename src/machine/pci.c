/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where each PCI device sits. As in KubeVirt 1.9 (topology "v3"): one pcie-root-port for each device; after the NICs
 * come ports that stay empty for NICs plugged in later, so that the disks behind them keep their addresses; at the end
 * more empty ports. Guests remember addresses (Windows its disks, Linux its interface names).
 */
#include <ctype.h>
#include <stdio.h>

#include "machine/build.h"

enum {
    FIRST_PORT_SLOT = 2,    /* slot 1 is the video device's, as libvirt has it */
    LAST_PORT_SLOT = 0xf,   /* eight ports a slot */
    FIRST_ROOT_SLOT = 0x10, /* of conventional devices on pcie.0 */
    LAST_ROOT_SLOT = 0x1e,  /* 0x1f: the ICH9's own LPC bridge, SATA and SMBus */
    SOUND_SLOT = 0x1b,      /* where an ICH9 has its sound device */
    MAX_PORTS = 255,        /* "chassis" is a byte */
    SPARE_PORT_LIMIT = 31,  /* no spare port behind this bus */
    RESERVED_NICS = 4,
};

struct topology {
    struct build *b;
    const struct pci_device *ports[MAX_PORTS + 1]; /* from 1; NULL: no port, or a spare one */
    bool spare[MAX_PORTS + 1];
    unsigned n_ports; /* the highest number; an address in the manifest can leave gaps */
    unsigned count;
    const char *slots[32]; /* of pcie.0: what sits there */
};

struct pci_address {
    unsigned bus, slot, function;
};

void pci_add(struct build *b, json_t *device, enum pci_place place, const struct node *at, const char *what,
             const char *address)
{
    struct pci_device *p = LIST_ADD(b, &b->pci);

    if (p)
        *p = (struct pci_device){.device = device, .at = at, .what = what, .address = address, .place = place};
}

/* "0000:81:01.0": domain, bus, slot, function in hexadecimal; the domain may be left out. */
static bool parse_address(const char *value, struct pci_address *ret)
{
    unsigned domain = 0;
    int end = 0;

    for (const char *p = value; *p; p++)
        if (!isxdigit((unsigned char)*p) && *p != ':' && *p != '.')
            return false;
    if (sscanf(value, "%4x:%2x:%2x.%1x%n", &domain, &ret->bus, &ret->slot, &ret->function, &end) != 4 || value[end]) {
        domain = 0;
        end = 0;
        if (sscanf(value, "%2x:%2x.%1x%n", &ret->bus, &ret->slot, &ret->function, &end) != 3 || value[end])
            return false;
    }
    return domain == 0 && ret->slot < 32 && ret->function < 8;
}

static void put_on_port(struct topology *t, const struct pci_device *device, unsigned port)
{
    t->ports[port] = device;
    t->n_ports = MAX(t->n_ports, port);
    set_string(t->b, device->device, "bus", text(t->b, "pci.%u", port));
    set_string(t->b, device->device, "addr", "0x0");
}

static void put_on_root(struct topology *t, const struct pci_device *device, unsigned slot, unsigned function)
{
    t->slots[slot] = device->what;
    set_string(t->b, device->device, "bus", "pcie.0");
    set_string(t->b, device->device, "addr",
               function ? text(t->b, "0x%x.0x%x", slot, function) : text(t->b, "0x%x", slot));
}

static void place_as_asked(struct topology *t, const struct pci_device *device)
{
    struct build *b = t->b;
    struct pci_address address;

    if (!parse_address(device->address, &address)) {
        manifest_fault(b, device->at, "PCI address \"%s\" is not of the form 0000:BUS:SLOT.FUNCTION", device->address);
    } else if (address.bus == 0) {
        if (address.slot == 0 || address.slot == 0x1f || t->slots[address.slot])
            manifest_fault(b, device->at, "PCI address %s is taken by %s", device->address,
                           t->slots[address.slot] ? t->slots[address.slot] : "the chipset");
        else
            put_on_root(t, device, address.slot, address.function);
    } else if (device->place != PCI_PORT) {
        manifest_fault(b, device->at, "PCI address %s is behind a root port, where %s cannot be (bus 0 is allowed)",
                       device->address, device->what);
    } else if (address.bus > MAX_PORTS || address.slot != 0 || address.function != 0) {
        manifest_fault(b, device->at, "PCI address %s does not exist (buses up to %x, each with slot 00.0)",
                       device->address, MAX_PORTS);
    } else if (t->ports[address.bus]) {
        manifest_fault(b, device->at, "PCI address %s is taken by %s", device->address, t->ports[address.bus]->what);
    } else {
        put_on_port(t, device, address.bus);
    }
}

static void place_on_root(struct topology *t, const struct pci_device *device, unsigned first)
{
    for (unsigned slot = first; slot <= LAST_ROOT_SLOT; slot++)
        if (!t->slots[slot] && slot != SOUND_SLOT) {
            put_on_root(t, device, slot, 0);
            return;
        }
    manifest_fault(t->b, device->at, "no PCI slot is left on bus 0 for %s (%u devices are there)", device->what,
                   LAST_ROOT_SLOT - first);
}

static unsigned next_port(const struct topology *t)
{
    for (unsigned i = 1; i <= MAX_PORTS; i++)
        if (!t->ports[i] && !t->spare[i])
            return i;
    return 0;
}

static void place_on_port(struct topology *t, const struct pci_device *device)
{
    unsigned port = next_port(t);

    if (port)
        put_on_port(t, device, port);
    else
        manifest_fault(t->b, device->at, "no PCI Express port is left for %s (up to %d devices)", device->what,
                       MAX_PORTS);
}

static void add_spare(struct topology *t, unsigned count)
{
    while (count-- > 0) {
        unsigned port = next_port(t);

        if (port == 0 || port > SPARE_PORT_LIMIT)
            return;
        t->spare[port] = true;
        t->n_ports = MAX(t->n_ports, port);
    }
}

/* Ports that KubeVirt wants free in the end: 8 in all but at least 3 free; 16 and 6 above 2 GiB of memory. */
static unsigned wanted_spare(const struct build *b)
{
    bool small = b->machine->memory <= 2ULL * 1024 * 1024 * 1024;
    unsigned all = small ? 8 : 16, least = small ? 3 : 6, used = (unsigned)MIN(b->pci.count, 1000U);

    return used + least >= all ? least : all - used;
}

/* Ports kept behind the NICs for more of them. */
static unsigned reserved_for_nics(struct build *b, bool v2)
{
    const char *slots = vmi_annotation(b->vmi, "kubevirt.io/pci-interface-slot-count");
    size_t nics = b->devices->interfaces.count;
    unsigned long wanted = RESERVED_NICS;

    if (slots) {
        char *end;

        wanted = strtoul(slots, &end, 10);
        if (!isdigit((unsigned char)*slots) || *end || wanted > SPARE_PORT_LIMIT) {
            manifest_fault(b, b->vmi->at, "annotation kubevirt.io/pci-interface-slot-count is \"%s\" (0 to %d)", slots,
                           SPARE_PORT_LIMIT);
            return 0;
        }
    } else if (nics == 0) {
        return 0;
    } else if (v2) {
        return wanted_spare(b);
    }
    return wanted > nics ? (unsigned)(wanted - nics) : 0;
}

static void port_devices(struct topology *t)
{
    struct build *b = t->b;

    unsigned slot = FIRST_PORT_SLOT, function = 0, last = t->n_ports;

    for (unsigned i = 1; i <= last; i++) {
        const char *id = text(b, "pci.%u", i);
        json_t *port;

        if (!t->ports[i] && !t->spare[i])
            continue;
        while (slot <= LAST_PORT_SLOT && function == 0 && t->slots[slot])
            slot++;
        if (slot > LAST_PORT_SLOT) {
            manifest_fault(b, t->ports[i] ? t->ports[i]->at : NULL, "no PCI slot is left for another root port");
            return;
        }
        port = option_json(b, SECTION_PORT, "-device");
        set_string(b, port, "driver", "pcie-root-port");
        set_string(b, port, "id", id);
        set_string(b, port, "bus", "pcie.0");
        set_string(b, port, "addr", function ? text(b, "0x%x.0x%x", slot, function) : text(b, "0x%x", slot));
        if (function == 0 && i < last)
            set_bool(b, port, "multifunction", true);
        set_int(b, port, "port", slot << 3 | function);
        set_int(b, port, "chassis", i);
        if (!t->ports[i]) {
            const char **spare = LIST_ADD(b, &b->machine->spare_ports);

            if (spare)
                *spare = id;
        }
        t->count++;
        function = (function + 1) % 8;
        slot += function == 0;
    }
}

static void describe(struct topology *t, unsigned kept)
{
    struct build *b = t->b;

    item(b, MACHINE_GROUP_MACHINE, NULL, NULL,
         text(b, "%u PCI Express root ports, %zu of them free", t->count, b->machine->spare_ports.count),
         text(b,
              "one for each device, %u behind the NICs for NICs plugged in later, the rest for other devices; "
              "addresses stay as they are when devices are added",
              kept));
}

void pci_finish(struct build *b)
{
    struct topology t = {.b = b};
    const char *on_root = vmi_annotation(b->vmi, "kubevirt.io/placePCIDevicesOnRootComplex");
    const char *version = vmi_annotation(b->vmi, "kubevirt.io/pci-topology-version");
    bool flat = on_root && streq(on_root, "true"), v2 = version && streq(version, "v2");
    unsigned kept = flat ? 0 : reserved_for_nics(b, v2);

    if (version && !v2 && !streq(version, "v3"))
        manifest_fault(b, b->vmi->at, "annotation kubevirt.io/pci-topology-version is \"%s\" (v2, v3)", version);
    for (size_t i = 0; i < b->pci.count; i++)
        if (b->pci.items[i].place == PCI_FIXED)
            t.slots[strtoul(json_string_value(json_object_get(b->pci.items[i].device, "addr")) ?: "0", NULL, 16) & 31] =
                b->pci.items[i].what;
    for (size_t i = 0; i < b->pci.count; i++)
        if (b->pci.items[i].address && b->pci.items[i].place != PCI_FIXED)
            place_as_asked(&t, &b->pci.items[i]);
    for (unsigned pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < b->pci.count; i++) {
            const struct pci_device *device = &b->pci.items[i];

            if (device->address || device->place == PCI_FIXED || device->is_nic != (pass == 0))
                continue;
            if (flat)
                place_on_root(&t, device, FIRST_PORT_SLOT);
            else if (device->place == PCI_ROOT_BUS)
                place_on_root(&t, device, FIRST_ROOT_SLOT);
            else
                place_on_port(&t, device);
        }
        if (pass == 0)
            add_spare(&t, kept);
    }
    if (flat) {
        item(b, MACHINE_GROUP_MACHINE, b->vmi->at, NULL, "PCI devices on the root bus, no ports to plug into",
             "annotation kubevirt.io/placePCIDevicesOnRootComplex");
        return;
    }
    if (!v2)
        add_spare(&t, wanted_spare(b) > kept ? wanted_spare(b) - kept : 0);
    port_devices(&t);
    describe(&t, kept);
}
