/* SPDX-License-Identifier: Apache-2.0 */
/* The disks of a machine: what is known of them, and what it takes to plug in another one while the machine runs. */
#include "machine/build.h"

const struct machine_disk *machine_get_disks(const struct machine *machine, size_t *ret_count)
{
    *ret_count = machine->disks.count;
    return machine->disks.items;
}

static struct machine_disk *find(const struct machine *machine, const char *disk)
{
    for (size_t i = 0; i < machine->disks.count; i++)
        if (streq(machine->disks.items[i].disk, disk))
            return &machine->disks.items[i];
    return NULL;
}

const struct machine_disk *machine_find_disk(const struct machine *machine, const char *disk)
{
    return find(machine, disk);
}

const char *machine_disk_target(const struct machine *machine, const char *disk)
{
    const struct machine_disk *found = find(machine, disk);

    return found ? found->target : NULL;
}

const char *machine_disk_id(const struct machine *machine, const char *disk, const char **ret_node)
{
    const struct machine_disk *found = find(machine, disk);

    if (found && ret_node)
        *ret_node = found->node;
    return found ? found->id : NULL;
}

/* ---- changes --------------------------------------------------------------------------------------------------- */

static const char *copy(struct arena *arena, const char *text, bool *failed)
{
    char *to = text ? arena_strdup(arena, text) : NULL;

    *failed = *failed || (text && !to);
    return to;
}

int machine_set_disk(struct machine *machine, const struct machine_disk *disk)
{
    struct build b = {.machine = machine, .arena = machine->arena};
    struct machine_disk to = *disk, *at;
    bool failed = false;

    to.disk = copy(machine->arena, disk->disk, &failed);
    to.target = copy(machine->arena, disk->target, &failed);
    to.id = copy(machine->arena, disk->id, &failed);
    to.node = copy(machine->arena, disk->node, &failed);
    to.bus = copy(machine->arena, disk->bus, &failed);
    to.path = copy(machine->arena, disk->path, &failed);
    to.source = copy(machine->arena, disk->source, &failed);
    for (size_t i = 0; i < MACHINE_DISK_NODES; i++)
        to.nodes[i] = copy(machine->arena, disk->nodes[i], &failed);
    if (failed)
        return -ENOMEM;
    at = find(machine, disk->disk);
    if (!at)
        at = LIST_ADD(&b, &machine->disks);
    if (!at)
        return -ENOMEM;
    *at = to;
    return 0;
}

void machine_remove_disk(struct machine *machine, const char *disk)
{
    struct machine_disk *found = find(machine, disk);

    if (!found)
        return;
    machine->disks.count--;
    memmove(found, found + 1, (size_t)(&machine->disks.items[machine->disks.count] - found) * sizeof(*found));
}

/* ---- plugging in ------------------------------------------------------------------------------------------------ */

static const char *free_target(struct build *b, const struct machine *machine, bool is_virtio)
{
    for (unsigned n = 0;; n++) {
        const char *name = disk_target_name(b, is_virtio, n);
        bool taken = false;

        for (size_t i = 0; i < machine->disks.count && !taken; i++)
            taken = streq(machine->disks.items[i].target, name);
        if (!taken || b->failure != BUILD_FINE)
            return name;
    }
}

static int collect(struct build *b, struct machine_plug *plug)
{
    for (size_t i = 0; i < b->machine->options.count; i++) {
        const struct option *o = &b->machine->options.items[i];

        if (streq(o->name, "-blockdev") && json_array_append(plug->nodes, o->json) < 0)
            return -ENOMEM;
        if (streq(o->name, "-device"))
            plug->device = json_incref(o->json);
    }
    return plug->device && b->machine->disks.count == 1 ? 0 : -EINVAL;
}

static int build_plug(struct build *b, const struct machine *machine, const struct vmi_disk *disk, unsigned serial,
                      struct machine_plug *plug, struct error **ret_error)
{
    enum vmi_bus bus = disk_bus(b, disk);
    const struct machine_disk *known = find(machine, disk->name);

    if (disk->device != VMI_DISK_DEVICE_CDROM && bus != VMI_BUS_VIRTIO && bus != VMI_BUS_SCSI)
        return error_set(ret_error, ERROR_BAD_MANIFEST, EINVAL,
                         "disk %s: only disks on bus virtio and scsi can be plugged in while the VM runs", disk->name);
    b->machine->vcpus = machine->vcpus;
    b->machine->has_shared_io_thread = machine->has_shared_io_thread;
    build_plugged_disk(b, disk, known ? known->target : free_target(b, machine, bus == VMI_BUS_VIRTIO), serial);
    if (b->failure == BUILD_BAD_TEXT)
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EILSEQ, "disk %s: a path or a name is not UTF-8", disk->name);
    if (b->manifest_faults || b->host_faults)
        return error_set(ret_error, b->manifest_faults ? ERROR_BAD_MANIFEST : ERROR_HOST, EINVAL,
                         "disk %s cannot be plugged in: %s", disk->name,
                         b->faults->count ? b->faults->items[b->faults->count - 1].message : "");
    if (b->failure != BUILD_FINE || collect(b, plug) < 0)
        return error_oom(ret_error);
    plug->needs_port = bus == VMI_BUS_VIRTIO;
    plug->disk = b->machine->disks.items[0];
    plug->disk.is_plugged = true;
    return 0;
}

int machine_plug_disk(const struct machine *machine, const struct vmi *vmi, unsigned qemu_version,
                      const struct vmi_disk *disk, const struct machine_volume *volume, unsigned serial,
                      struct machine_plug *ret, struct faults *faults, struct error **ret_error)
{
    const struct qemu_caps caps = {.version = qemu_version};
    const struct machine_facts facts = {.caps = &caps, .volumes = volume, .n_volumes = volume ? 1 : 0};
    struct machine scratch = {.arena = arena_new(), .arch = machine->arch};
    struct build b = {
        .vmi = vmi,
        .domain = &vmi->spec.domain,
        .devices = &vmi->spec.domain.devices,
        .facts = &facts,
        .faults = faults,
        .x86 = streq(machine->arch, "x86_64"),
        .kvm = streq(machine->accel, "kvm"),
        .machine = &scratch,
        .arena = scratch.arena,
        .plug = true,
    };
    struct machine_plug plug = {.nodes = json_array(), .arena = scratch.arena};
    int r;

    if (!scratch.arena || !plug.nodes) {
        machine_plug_done(&plug);
        return error_oom(ret_error);
    }
    r = build_plug(&b, machine, disk, serial, &plug, ret_error);
    for (size_t i = 0; i < scratch.options.count; i++)
        json_decref(scratch.options.items[i].json);
    if (r < 0)
        machine_plug_done(&plug);
    else
        *ret = plug;
    return r;
}

void machine_plug_done(struct machine_plug *plug)
{
    json_decref(plug->nodes);
    json_decref(plug->device);
    arena_free(plug->arena);
    *plug = (struct machine_plug){0};
}
