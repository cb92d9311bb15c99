/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disks: the block nodes of each volume, named one by one so that QEMU never probes a format or follows a backing
 * file's own header, and the guest's drive on top.
 */
#include "machine/build.h"

/* Beside the six that the ICH9 of q35 has, each further AHCI controller brings as many. */
#define SATA_UNITS 6U
/* virtio-scsi and its like: units of one controller (libvirt's limit too). */
#define SCSI_UNITS 16383U

static const char *const bus_names[] = {
    [VMI_BUS_UNSET] = "",    [VMI_BUS_VIRTIO] = "virtio", [VMI_BUS_SATA] = "sata",
    [VMI_BUS_SCSI] = "scsi", [VMI_BUS_USB] = "usb",
};

struct disk {
    struct build *b;
    const struct vmi_disk *spec;
    const struct machine_volume *volume; /* NULL: an empty tray */
    size_t index;
    enum vmi_bus bus;
    const char *id, *node, *name;
    const char *prefix; /* of the names of its nodes */
    const char *nodes[MACHINE_DISK_NODES + 1];
    size_t n_nodes;
    bool cdrom, lun, read_only, direct, writethrough;
    bool backing_direct; /* the image below, past the page cache */
    const char *cache_why;
};

/* ---- buses and names ------------------------------------------------------------------------------------------- */

enum vmi_bus disk_bus(const struct build *b, const struct vmi_disk *disk)
{
    enum vmi_bus bus = disk->target ? disk->target->bus : VMI_BUS_UNSET;

    if (bus == VMI_BUS_UNSET)
        bus = b->x86 ? VMI_BUS_SATA : VMI_BUS_VIRTIO;
    if (disk->device == VMI_DISK_DEVICE_LUN && bus == VMI_BUS_SATA)
        return VMI_BUS_SCSI; /* SCSI commands need a SCSI bus, and sata is only the default's answer */
    if (disk->device == VMI_DISK_DEVICE_CDROM && bus == VMI_BUS_VIRTIO && !b->x86)
        return VMI_BUS_SCSI; /* virtio is only the default's answer on arm64 */
    return bus;
}

bool domain_has_scsi_disk(const struct build *b)
{
    for (size_t i = 0; i < b->devices->disks.count; i++)
        if (disk_bus(b, &b->devices->disks.items[i]) == VMI_BUS_SCSI)
            return true;
    return false;
}

/* "vda", …, "vdz", "vdaa": as the kernel counts. */
const char *disk_target_name(struct build *b, bool is_virtio, unsigned n)
{
    const char *prefix = is_virtio ? "vd" : "sd";
    char letters[8];
    size_t at = sizeof(letters) - 1;

    letters[at] = '\0';
    for (;;) {
        letters[--at] = (char)('a' + n % 26);
        if (n < 26 || at == 0)
            break;
        n = n / 26 - 1;
    }
    return text(b, "%s%s", prefix, letters + at);
}

/* Position of a disk in the default order: disks first, then LUNs, then CD-ROMs, each in the manifest's order. */
static unsigned default_boot_index(const struct build *b, const struct vmi_disk *disk)
{
    static const enum vmi_disk_device order[] = {VMI_DISK_DEVICE_DISK, VMI_DISK_DEVICE_LUN, VMI_DISK_DEVICE_CDROM};
    unsigned n = 0;

    for (size_t o = 0; o < ELEMENTSOF(order); o++)
        for (size_t i = 0; i < b->devices->disks.count; i++) {
            const struct vmi_disk *other = &b->devices->disks.items[i];

            if (other->device != order[o])
                continue;
            n++;
            if (other == disk)
                return n;
        }
    return 0;
}

static bool has_boot_order(const struct build *b)
{
    for (size_t i = 0; i < b->devices->disks.count; i++)
        if (b->devices->disks.items[i].boot_order.is_set)
            return true;
    for (size_t i = 0; i < b->devices->interfaces.count; i++)
        if (b->devices->interfaces.items[i].boot_order.is_set)
            return true;
    return false;
}

unsigned disk_boot_index(const struct build *b, const struct vmi_disk *disk)
{
    if (has_boot_order(b))
        return disk->boot_order.is_set ? (unsigned)disk->boot_order.value : 0;
    return default_boot_index(b, disk);
}

const struct machine_volume *volume_find(const struct build *b, const char *name)
{
    for (size_t i = 0; i < b->facts->n_volumes; i++)
        if (streq(b->facts->volumes[i].volume, name))
            return &b->facts->volumes[i];
    return NULL;
}

const char *volume_path(const struct build *b, const char *name)
{
    const struct machine_volume *volume = volume_find(b, name);

    return volume ? volume->path : NULL;
}

static const struct machine_volume *find_volume(const struct build *b, const struct vmi_disk *disk)
{
    return volume_find(b, disk->volume ? disk->volume->name : disk->volume_name ? disk->volume_name : disk->name);
}

/* ---- block nodes ----------------------------------------------------------------------------------------------- */

static void set_cache(struct disk *d, json_t *node, bool direct)
{
    json_t *cache = json_object();

    set_bool(d->b, cache, "direct", direct);
    set_bool(d->b, cache, "no-flush", false);
    set_json(d->b, node, "cache", cache);
}

static bool discards(const struct disk *d)
{
    return !d->cdrom && !d->volume->preallocated;
}

/* In a file that lacks some, native asynchronous I/O waits for their allocation. */
static bool has_all_blocks(const struct disk *d)
{
    return d->volume->is_block_device || d->volume->preallocated;
}

static const char *aio_mode(const struct disk *d)
{
    switch (d->spec->io) {
    case VMI_IO_NATIVE:
        return "native";
    case VMI_IO_THREADS:
        return "threads";
    case VMI_IO_UNSET:
    default:
        return d->direct && has_all_blocks(d) && d->b->kvm ? "native" : "threads";
    }
}

static const char *name_node(struct disk *d, const char *prefix)
{
    const char *name = node_name(d->b, text(d->b, "%s%s", d->prefix, prefix), d->spec->name, d->index);

    if (d->n_nodes < MACHINE_DISK_NODES)
        d->nodes[d->n_nodes++] = name;
    return name;
}

static json_t *file_node(struct disk *d, const char *name, const char *path, bool is_block_device, bool read_only,
                         bool direct)
{
    json_t *node = option_json(d->b, SECTION_BACKEND, "-blockdev");

    set_string(d->b, node, "driver", is_block_device ? "host_device" : "file");
    set_string(d->b, node, "node-name", name);
    set_string(d->b, node, "filename", path);
    set_bool(d->b, node, "read-only", read_only);
    set_string(d->b, node, "aio", direct ? aio_mode(d) : "threads");
    if (!read_only && discards(d))
        set_string(d->b, node, "discard", "unmap");
    set_cache(d, node, direct);
    return node;
}

static json_t *format_node(struct disk *d, const char *name, const char *format, const char *file, bool read_only,
                           bool direct)
{
    json_t *node = option_json(d->b, SECTION_BACKEND, "-blockdev");

    set_string(d->b, node, "driver", format);
    set_string(d->b, node, "node-name", name);
    set_bool(d->b, node, "read-only", read_only);
    if (!read_only && discards(d))
        set_string(d->b, node, "discard", "unmap");
    set_cache(d, node, direct);
    set_string(d->b, node, "file", file);
    return node;
}

static bool format_known(struct disk *d, const char *format)
{
    if (streq(format, "raw") || streq(format, "qcow2"))
        return true;
    host_fault(d->b, d->spec->at, "disk %s: image format \"%s\" (raw and qcow2 are served)", d->spec->name, format);
    return false;
}

/* The overlay's backing chain is given node by node, and is read-only to QEMU whatever the files' modes are. */
static const char *backing_nodes(struct disk *d)
{
    const struct machine_volume *v = d->volume;
    const char *file = name_node(d, "backing-file-"), *format = name_node(d, "backing-");
    const char *kind = v->backing_format ? v->backing_format : "raw";
    json_t *node;

    if (!format_known(d, kind))
        return NULL;
    file_node(d, file, v->backing_path, v->backing_is_block_device, true, d->backing_direct);
    node = format_node(d, format, kind, file, true, d->backing_direct);
    if (streq(kind, "qcow2"))
        set_json(d->b, node, "backing", json_null()); /* what it claims in its header is not followed */
    return format;
}

static void image_nodes(struct disk *d)
{
    const struct machine_volume *v = d->volume;
    const char *file, *backing = NULL;
    json_t *node;

    if (!format_known(d, v->format ? v->format : "raw"))
        return;
    if (v->backing_path)
        backing = backing_nodes(d);
    file = name_node(d, "file-");
    d->node = name_node(d, "disk-");
    file_node(d, file, v->path, v->is_block_device, d->read_only, d->direct);
    node = format_node(d, d->node, v->format ? v->format : "raw", file, d->read_only, d->direct);
    if (backing)
        set_string(d->b, node, "backing", backing);
    else if (v->format && streq(v->format, "qcow2"))
        set_json(d->b, node, "backing", json_null());
}

/* ---- what the manifest asks for, and what can be ---------------------------------------------------------------- */

/*
 * A container disk's image is read-only, and one file for all the VMs of a node that were made of it: each reads what
 * another has read already from the page cache, and QEMU's opening of it does not wait for the disk. Not so the backing
 * image of an ephemeral claim, which another node may have written since. Who says cache none or io native means all.
 */
static bool shares_page_cache(const struct disk *d)
{
    return d->volume->backing_path && d->spec->volume && d->spec->volume->kind == VMI_VOLUME_CONTAINER_DISK &&
           d->spec->cache == VMI_CACHE_UNSET && d->spec->io != VMI_IO_NATIVE;
}

static void decide_cache(struct disk *d)
{
    const struct machine_volume *v = d->volume;
    bool below = !v->backing_path || v->backing_direct_io || shares_page_cache(d), possible = v->direct_io && below;

    switch (d->spec->cache) {
    case VMI_CACHE_NONE:
        d->direct = true;
        d->cache_why = "cache none in the manifest";
        if (!possible)
            host_fault(d->b, d->spec->at,
                       "disk %s: cache none needs O_DIRECT, which %s does not support (use writethrough or writeback)",
                       d->spec->name, below ? v->path : v->backing_path);
        break;
    case VMI_CACHE_WRITETHROUGH:
        d->writethrough = true;
        d->cache_why = "cache writethrough in the manifest";
        break;
    case VMI_CACHE_WRITEBACK:
        d->cache_why = "cache writeback in the manifest";
        break;
    case VMI_CACHE_UNSET:
    default:
        d->direct = possible;
        d->writethrough = !possible;
        d->cache_why = possible ? "cache none because O_DIRECT works on the image"
                                : "cache writethrough because the image's file system has no O_DIRECT";
    }
    if (d->spec->shareable == OPT_TRUE && !d->direct)
        manifest_fault(d->b, d->spec->at,
                       "disk %s is shareable, which needs cache none: another VM writes the same image", d->spec->name);
    if (d->spec->io == VMI_IO_NATIVE && !d->direct)
        manifest_fault(d->b, d->spec->at, "disk %s: io native needs cache none (use io threads)", d->spec->name);
    d->backing_direct = d->direct && !shares_page_cache(d);
}

/* What only some buses can be. */
static bool decide_bus(struct disk *d)
{
    struct build *b = d->b;
    const struct vmi_disk *s = d->spec;

    if (d->cdrom && d->bus == VMI_BUS_VIRTIO)
        manifest_fault(b, s->at, "disk %s: a CD-ROM cannot be on bus virtio, which has no trays (sata, scsi, usb)",
                       s->name);
    else if (d->lun && d->bus != VMI_BUS_SCSI)
        manifest_fault(b, s->at, "disk %s: a LUN cannot be on bus %s (scsi)", s->name, bus_names[d->bus]);
    else if (d->lun && d->volume && !d->volume->is_block_device) {
        host_fault(b, s->at,
                   "disk %s: a LUN passes SCSI commands to a block device, and %s is a file (use a volume with "
                   "volumeMode Block, or `disk`)",
                   s->name, d->volume->path);
        return b->facts->assume;
    } else if (!d->cdrom && d->bus == VMI_BUS_SATA && d->read_only)
        manifest_fault(b, s->at, "disk %s: a SATA disk cannot be read-only (use bus virtio or scsi, or a cdrom)",
                       s->name);
    else if (s->target && s->target->pci_address && d->bus != VMI_BUS_VIRTIO)
        manifest_fault(b, s->at, "disk %s: pciAddress is for bus virtio; bus %s has one controller for all its disks",
                       s->name, bus_names[d->bus]);
    else
        return true;
    return false;
}

static bool power_of_two(int64_t n)
{
    return n > 0 && (n & (n - 1)) == 0;
}

/* QEMU's block properties (hw/block/block.c): powers of two, 512 bytes to 2 MiB, the logical size the smaller. */
static void set_block_size(struct disk *d, json_t *drive)
{
    const struct vmi_block_size *size = d->spec->block_size;
    int64_t logical = 0, physical = 0, granularity = 0;

    if (!size)
        return;
    if (size->custom) {
        logical = opt_int_or(size->custom->logical, 0);
        physical = opt_int_or(size->custom->physical, logical);
        granularity = opt_int_or(size->custom->discard_granularity, 0);
    } else if (vmi_feature_on(size->match_volume) && d->volume) {
        logical = d->volume->logical_block;
        physical = d->volume->physical_block;
    }
    if (logical == 0)
        return;
    if (!power_of_two(logical) || !power_of_two(physical) || logical < 512 || physical < logical ||
        physical > 2 << 20) {
        manifest_fault(d->b, size->at,
                       "disk %s: block sizes %lld and %lld (powers of two, 512 to 2097152, logical not above physical)",
                       d->spec->name, (long long)logical, (long long)physical);
        return;
    }
    if (d->bus == VMI_BUS_SATA && logical != 512) {
        manifest_fault(d->b, size->at,
                       "disk %s: a SATA disk has logical blocks of 512 bytes (use bus virtio or scsi for %lld)",
                       d->spec->name, (long long)logical);
        return;
    }
    set_int(d->b, drive, "logical_block_size", (uint64_t)logical);
    set_int(d->b, drive, "physical_block_size", (uint64_t)physical);
    if (granularity > 0 && granularity % logical == 0 && granularity <= UINT32_MAX)
        set_int(d->b, drive, "discard_granularity", (uint64_t)granularity);
    else if (granularity != 0)
        manifest_fault(d->b, size->at, "disk %s: discardGranularity %lld is no multiple of the logical block size %lld",
                       d->spec->name, (long long)granularity, (long long)logical);
}

/* qemu-options, "werror": what QEMU does when the image cannot be read or written. */
static const struct {
    const char *read, *write, *what;
} error_policies[] = {
    [VMI_ERROR_POLICY_UNSET] = {"stop", "stop", "stop"},
    [VMI_ERROR_POLICY_STOP] = {"stop", "stop", "stop"},
    [VMI_ERROR_POLICY_IGNORE] = {"ignore", "ignore", "ignore"},
    [VMI_ERROR_POLICY_REPORT] = {"report", "report", "report"},
    [VMI_ERROR_POLICY_ENOSPACE] = {"report", "enospc", "stop when the volume is full, else report"},
};

/* ---- I/O threads ----------------------------------------------------------------------------------------------- */

struct pool {
    unsigned shared, next, dedicated;
    bool mapped; /* each disk is spread over the whole pool */
};

static bool wants_own_thread(const struct build *b, const struct vmi_disk *disk)
{
    return disk->dedicated_io_thread == OPT_TRUE && disk_bus(b, disk) == VMI_BUS_VIRTIO;
}

static unsigned pool_size(struct build *b)
{
    const struct vmi_domain *domain = b->domain;
    int64_t cpus = domain->resources.requests.cpu.is_set ? domain->resources.requests.cpu.value : b->machine->vcpus;
    int64_t count = domain->io_threads ? opt_int_or(domain->io_threads->supplemental_pool_thread_count, 0) : 0;

    switch (domain->io_threads_policy) {
    case VMI_IO_THREADS_SUPPLEMENTAL_POOL:
        if (count >= 1 && count <= 256)
            return (unsigned)count;
        manifest_fault(b, domain->io_threads ? domain->io_threads->at : domain->at,
                       "ioThreads.supplementalPoolThreadCount is %lld (1 to 256 with policy supplementalPool)",
                       (long long)count);
        return 1;
    case VMI_IO_THREADS_AUTO:
        if (domain->cpu.dedicated_cpu_placement == OPT_TRUE && domain->cpu.isolate_emulator_thread == OPT_TRUE)
            return 1;
        return (unsigned)MAX(MIN(2 * MIN(cpus, 128), 256), 1);
    case VMI_IO_THREADS_SHARED:
    case VMI_IO_THREADS_UNSET:
    default:
        return 1;
    }
}

static struct pool io_threads(struct build *b)
{
    struct pool pool = {0};
    unsigned others = 0, dedicated = 0, total;

    for (size_t i = 0; i < b->devices->disks.count; i++) {
        const struct vmi_disk *disk = &b->devices->disks.items[i];

        dedicated += wants_own_thread(b, disk);
        others += !wants_own_thread(b, disk) && disk_bus(b, disk) == VMI_BUS_VIRTIO;
    }
    if (b->domain->io_threads_policy == VMI_IO_THREADS_UNSET && dedicated + others == 0)
        return pool;
    pool.shared = pool_size(b);
    pool.mapped =
        b->domain->io_threads_policy == VMI_IO_THREADS_SUPPLEMENTAL_POOL && qemu_has(b, QEMU_IOTHREAD_VQ_MAPPING);
    if (b->domain->io_threads_policy != VMI_IO_THREADS_SUPPLEMENTAL_POOL)
        pool.shared = MAX(MIN(pool.shared, others), 1U);
    b->machine->has_shared_io_thread = true;
    pool.dedicated = pool.shared;
    total = pool.shared + dedicated;
    for (unsigned i = 1; i <= total; i++)
        object_new(b, "iothread", text(b, "iothread%u", i));
    item(b, MACHINE_GROUP_DISKS, b->domain->at, NULL,
         text(b, "%u I/O thread%s: %u shared, %u for one disk each", total, total == 1 ? "" : "s", pool.shared,
              dedicated),
         b->domain->io_threads_policy == VMI_IO_THREADS_UNSET && dedicated == 0
             ? "requests of virtio disks do not wait for QEMU's own loop, nor for what holds its lock; ioThreadsPolicy "
               "and "
               "dedicatedIOThread in the manifest give more of them"
             : "ioThreadsPolicy and dedicatedIOThread in the manifest");
    return pool;
}

static void set_io_thread(struct disk *d, struct pool *pool, json_t *drive)
{
    struct build *b = d->b;

    if (pool->shared == 0)
        return;
    if (wants_own_thread(b, d->spec) && !b->plug) {
        set_string(b, drive, "iothread", text(b, "iothread%u", ++pool->dedicated));
    } else if (pool->mapped) {
        json_t *mapping = json_array();

        for (unsigned i = 1; i <= pool->shared; i++)
            if (json_array_append_new(mapping, json_pack("{s:s}", "iothread", text(b, "iothread%u", i))) < 0)
                b->failure = BUILD_NO_MEMORY;
        set_json(b, drive, "iothread-vq-mapping", mapping);
    } else {
        set_string(b, drive, "iothread", text(b, "iothread%u", pool->next++ % pool->shared + 1));
    }
}

/* ---- the guest's drive ----------------------------------------------------------------------------------------- */

static json_t *drive_virtio(struct disk *d, struct pool *pool)
{
    struct build *b = d->b;
    json_t *drive = virtio_new(b, d->spec->at, "virtio-blk-pci", d->id);
    bool many = b->devices->block_multi_queue == OPT_TRUE;

    pci_add(b, drive, b->devices->use_virtio_transitional == OPT_TRUE ? PCI_ROOT_BUS : PCI_PORT, d->spec->at,
            text(b, "disk %s", d->spec->name), d->spec->target ? d->spec->target->pci_address : NULL);
    set_io_thread(d, pool, drive);
    if (many)
        set_int(b, drive, "num-queues", MAX(b->machine->vcpus, 1U));
    return drive;
}

static json_t *drive_sata(struct disk *d)
{
    struct build *b = d->b;
    unsigned unit = b->sata_units++, controller = unit / SATA_UNITS;
    bool builtin = b->x86 && controller == 0;
    const char *ahci = text(b, "sata%u", controller);
    json_t *drive;

    if (!builtin && unit % SATA_UNITS == 0) {
        json_t *device = device_new(b, d->spec->at, "ich9-ahci", ahci);

        pci_add(b, device, PCI_ROOT_BUS, d->spec->at, "SATA controller", NULL);
        item(b, MACHINE_GROUP_DISKS, d->spec->at, ahci, "SATA controller",
             b->x86 ? "the chipset's own has six ports, and they are used" : "this machine has none of its own");
    }
    drive = device_new(b, d->spec->at, d->cdrom ? "ide-cd" : "ide-hd", d->id);
    set_string(b, drive, "bus", builtin ? text(b, "ide.%u", unit) : text(b, "%s.%u", ahci, unit % SATA_UNITS));
    return drive;
}

static json_t *drive_scsi(struct disk *d)
{
    struct build *b = d->b;
    const char *driver = d->cdrom ? "scsi-cd" : d->lun ? "scsi-block" : "scsi-hd";
    json_t *drive = device_new(b, d->spec->at, driver, d->id);

    set_string(b, drive, "bus", "scsi0.0");
    set_int(b, drive, "channel", 0);
    set_int(b, drive, "scsi-id", 0);
    if (!b->plug) /* else QEMU takes the first that is free */
        set_int(b, drive, "lun", b->scsi_units);
    if (b->scsi_units++ > SCSI_UNITS)
        manifest_fault(b, d->spec->at, "disk %s: more than %u SCSI disks", d->spec->name, SCSI_UNITS);
    if (!d->spec->serial && !d->lun)
        set_string(b, drive, "device_id", d->id); /* else the guest sees a disk without identity */
    return drive;
}

static json_t *drive_usb(struct disk *d)
{
    struct build *b = d->b;
    json_t *drive, *bridge;

    if (!d->cdrom) {
        drive = device_new(b, d->spec->at, "usb-storage", d->id);
        set_string(b, drive, "bus", "usb.0");
        set_string(b, drive, "port", text(b, "%u", ++b->usb_ports));
        set_bool(b, drive, "removable", false);
        return drive;
    }
    bridge = device_new(b, d->spec->at, "usb-bot", text(b, "usb-%s", d->id));
    set_string(b, bridge, "bus", "usb.0");
    set_string(b, bridge, "port", text(b, "%u", ++b->usb_ports));
    drive = device_new(b, d->spec->at, "scsi-cd", d->id);
    set_string(b, drive, "bus", text(b, "usb-%s.0", d->id));
    set_int(b, drive, "scsi-id", 0);
    set_int(b, drive, "lun", 0);
    return drive;
}

static json_t *drive_new(struct disk *d, struct pool *pool)
{
    switch (d->bus) {
    case VMI_BUS_VIRTIO:
        return drive_virtio(d, pool);
    case VMI_BUS_SCSI:
        return drive_scsi(d);
    case VMI_BUS_USB:
        return drive_usb(d);
    case VMI_BUS_SATA:
    case VMI_BUS_UNSET:
    default:
        return drive_sata(d);
    }
}

static void drive_options(struct disk *d, json_t *drive)
{
    struct build *b = d->b;
    unsigned boot = b->plug ? 0 : disk_boot_index(b, d->spec);

    if (d->node) {
        set_string(b, drive, "drive", d->node);
        if (!d->lun)
            set_string(b, drive, "write-cache", d->writethrough ? "off" : "on");
        set_string(b, drive, "rerror", error_policies[d->spec->error_policy].read);
        set_string(b, drive, "werror", error_policies[d->spec->error_policy].write);
    }
    if (boot)
        set_int(b, drive, "bootindex", boot);
    if (d->spec->serial && !d->lun && text_is_clean(b, d->spec->at, "the serial number", d->spec->serial))
        set_string(b, drive, "serial", d->spec->serial);
    if (d->spec->shareable == OPT_TRUE)
        set_bool(b, drive, "share-rw", true);
    if (d->spec->target && opt_int_or(d->spec->target->rotation_rate, 0) > 0 &&
        (d->bus == VMI_BUS_SATA || d->bus == VMI_BUS_SCSI))
        set_int(b, drive, "rotation_rate", (uint64_t)d->spec->target->rotation_rate.value);
    if (!d->cdrom)
        set_block_size(d, drive);
}

static const char *aio_why(const struct disk *d)
{
    bool native = streq(aio_mode(d), "native");

    if (d->spec->io != VMI_IO_UNSET)
        return native ? "io native in the manifest" : "io threads in the manifest";
    if (native)
        return d->volume->is_block_device ? "io native because it is a block device without a page cache above it"
                                          : "io native because the file has all its blocks, and no page cache is used";
    if (!d->direct)
        return "io threads because io native works without the page cache only";
    return has_all_blocks(d) ? "io threads because the guest is emulated, where io native was measured to be slower"
                             : "io threads because the file has not all its blocks yet, which io native would wait for";
}

static const char *discard_why(const struct disk *d)
{
    if (d->cdrom || d->read_only)
        return "nothing is written";
    return discards(d) ? "blocks that the guest frees are given back to the host"
                       : "blocks that the guest frees are kept, because the volume is preallocated";
}

/* The way of a request; only virtio has more than one. */
static const char *path_why(struct disk *d, const json_t *drive)
{
    const char *thread = json_string_value(json_object_get(drive, "iothread"));

    if (d->bus != VMI_BUS_VIRTIO)
        return "";
    return text(d->b, "; %s, %s",
                json_object_get(drive, "num-queues") ? "a queue for each vCPU (blockMultiQueue)"
                                                     : "a queue for each vCPU, as QEMU has it",
                thread                                          ? thread
                : json_object_get(drive, "iothread-vq-mapping") ? "all I/O threads"
                                                                : "no I/O thread of its own");
}

static void describe_disk(struct disk *d, const char *target, const json_t *drive)
{
    struct build *b = d->b;
    unsigned boot = disk_boot_index(b, d->spec);
    const char *kind = d->cdrom ? "CD-ROM" : d->lun ? "LUN" : "disk";

    if (!d->node) {
        item(b, MACHINE_GROUP_DISKS, d->spec->at, d->id,
             text(b, "%s %s: %s, %s, no medium", kind, d->spec->name, bus_names[d->bus], target),
             d->volume ? "its tray is open in the manifest"
                       : "it has no volume: an empty tray, for a medium put in later");
        return;
    }
    item(b, MACHINE_GROUP_DISKS, d->spec->at, d->id,
         text(b, "%s %s: %s, %s, %s%s%s%s", kind, d->spec->name, bus_names[d->bus], target,
              d->volume->format ? d->volume->format : "raw", d->volume->backing_path ? " over a read-only image" : "",
              d->read_only ? ", read-only" : "", boot ? text(b, ", boot order %u", boot) : ""),
         text(b, "%s%s%s; %s; %s%s; on an I/O error: %s",
              d->lun && d->spec->target && d->spec->target->bus == VMI_BUS_SATA
                  ? "on scsi, because sata (KubeVirt's default) passes no SCSI commands; "
                  : "",
              d->cache_why,
              d->direct && !d->backing_direct && d->volume->backing_path
                  ? ", and for the image below the page cache, which all VMs of this container disk on the node share"
                  : "",
              aio_why(d), discard_why(d), path_why(d, drive), error_policies[d->spec->error_policy].what));
}

/* What the users of the machine look for in it later. */
static void disk_remember(struct disk *d, const char *target)
{
    struct build *b = d->b;
    struct machine_disk *entry = LIST_ADD(b, &b->machine->disks);
    const struct machine_volume *v = d->node ? d->volume : NULL;
    const struct vmi_pvc *claim = d->spec->volume ? vmi_volume_claim(d->spec->volume) : NULL;

    if (!entry)
        return;
    *entry = (struct machine_disk){
        .disk = text(b, "%s", d->spec->name),
        .target = target,
        .id = d->id,
        .node = d->node,
        .bus = bus_names[d->bus],
        .path = v ? text(b, "%s", v->path) : NULL,
        .source = v && claim && claim->claim_name ? text(b, "%s", claim->claim_name) : NULL,
        .is_cdrom = d->cdrom,
        .is_lun = d->lun,
        .is_block_device = v && v->is_block_device,
        .is_overlay = v && v->backing_path,
        .read_only = d->read_only,
        .is_raw = v && (!v->format || streq(v->format, "raw")),
        .is_hotpluggable = claim && claim->hotpluggable == OPT_TRUE,
    };
    memcpy(entry->nodes, d->nodes, sizeof(entry->nodes));
}

static void disk_add(struct build *b, struct pool *pool, const struct vmi_disk *spec, size_t index, const char *prefix,
                     const char *target)
{
    struct disk d = {
        .b = b,
        .spec = spec,
        .index = index,
        .prefix = prefix,
        .volume = find_volume(b, spec),
        .bus = disk_bus(b, spec),
        .id = device_id(b, "ua-", spec->name, index),
        .cdrom = spec->device == VMI_DISK_DEVICE_CDROM,
        .lun = spec->device == VMI_DISK_DEVICE_LUN,
    };
    bool empty = d.cdrom && (!spec->volume || (spec->target && spec->target->tray == VMI_TRAY_OPEN));
    json_t *drive;

    if (d.volume && d.volume->absent && !d.cdrom) {
        item(b, MACHINE_GROUP_DISKS, spec->at, NULL, text(b, "disk %s: not there yet", spec->name),
             "its volume is plugged in later (hotpluggable)");
        return;
    }
    empty = empty || (d.volume && d.volume->absent);
    if (!d.volume && !empty) {
        host_fault(b, spec->at, "disk %s: nothing was found or made for its volume", spec->name);
        return;
    }
    d.read_only = d.cdrom || (spec->target && spec->target->readonly == OPT_TRUE) || (d.volume && d.volume->read_only);
    if (!decide_bus(&d))
        return;
    if (!empty) {
        decide_cache(&d);
        image_nodes(&d);
    }
    drive = drive_new(&d, pool);
    drive_options(&d, drive);
    disk_remember(&d, target);
    describe_disk(&d, target, drive);
}

void build_disks(struct build *b)
{
    struct pool pool = io_threads(b);
    unsigned virtio = 0, others = 0;

    for (size_t i = 0; i < b->devices->disks.count; i++) {
        const struct vmi_disk *disk = &b->devices->disks.items[i];
        bool is_virtio = disk_bus(b, disk) == VMI_BUS_VIRTIO;

        disk_add(b, &pool, disk, i, "", disk_target_name(b, is_virtio, is_virtio ? virtio++ : others++));
    }
    if (virtio + others > 0)
        item(b, MACHINE_GROUP_DISKS, b->domain->at, NULL, "to choose otherwise, in the manifest",
             "cache, io, blockSize, errorPolicy, dedicatedIOThread of a disk; ioThreadsPolicy of the domain; "
             "devices.blockMultiQueue. Writes are not searched for "
             "zeroes: that takes CPU for each of them");
}

void build_plugged_disk(struct build *b, const struct vmi_disk *disk, const char *target, unsigned serial)
{
    struct pool pool = {.shared = b->machine->has_shared_io_thread ? 1 : 0};

    /* an index that no disk of a manifest has */
    disk_add(b, &pool, disk, (size_t)serial + 100000, text(b, "p%u-", serial), target);
}
