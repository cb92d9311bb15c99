/* SPDX-License-Identifier: Apache-2.0 */
#include "domain/disks.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crash.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "domain/disks-internal.h"
#include "domain/sequence.h"

/* ---- the queue ------------------------------------------------------------------------------------------------- */

void disk_source_unref(struct disk_source *source)
{
    if (!source || --source->refs > 0)
        return;
    storage_free(source->storage);
    vmi_free(source->vmi);
    free(source->name);
    free(source->serial);
    free(source);
}

static void op_free(struct disk_op *op)
{
    storage_examine_cancel(op->examination);
    sd_event_source_disable_unref(op->io);
    sd_event_source_disable_unref(op->timer);
    machine_plug_done(&op->plug);
    disk_source_unref(op->source);
    free(op->name);
    free(op);
}

static void start_head(struct domain *d);

static int on_next(sd_event_source *source, void *userdata)
{
    start_head(userdata);
    return 0;
}

/* Ends the head of the queue; the next one starts at the loop's next turn. */
static void op_end(struct disk_op *op, const struct error *error)
{
    struct domain *d = op->domain;

    d->disk_ops = op->next;
    if (op->done)
        op->done(d, error, op->userdata);
    op_free(op);
    if (d->disk_ops && event_defer(d->event, &d->disk_source, on_next, d) < 0)
        start_head(d);
}

static void op_fail(struct disk_op *op, struct error *error)
{
    op_end(op, error);
    error_free(error);
}

int disk_op_queue(struct disk_op *op)
{
    struct disk_op **last = &op->domain->disk_ops;
    bool is_first = !*last;

    while (*last)
        last = &(*last)->next;
    *last = op;
    if (!is_first)
        return 0;
    if (event_defer(op->domain->event, &op->domain->disk_source, on_next, op->domain) < 0) {
        *last = NULL;
        return -ENOMEM;
    }
    return 0;
}

struct disk_op *disk_op_new(struct domain *d, enum disk_op_kind kind, const char *name, struct disk_source *source,
                            const struct vmi_disk *disk, domain_done_fn done, void *userdata)
{
    struct disk_op *op = calloc(1, sizeof(*op));

    if (!op)
        return NULL;
    *op = (struct disk_op){.domain = d, .kind = kind, .disk = disk, .done = done, .userdata = userdata};
    op->name = strdup(name);
    if (!op->name) {
        free(op);
        return NULL;
    }
    op->source = source;
    if (source)
        source->refs++;
    return op;
}

void domain_drop_disk_ops(struct domain *d)
{
    _cleanup_error_ struct error *e = NULL;

    d->disk_source = sd_event_source_disable_unref(d->disk_source);
    if (d->disk_ops)
        error_set(&e, ERROR_CANCELLED, ECANCELED, "the VM has ended");
    while (d->disk_ops) {
        struct disk_op *op = d->disk_ops;

        d->disk_ops = op->next;
        if (op->done)
            op->done(d, e, op->userdata);
        op_free(op);
    }
}

/* ---- what they share ------------------------------------------------------------------------------------------- */

static const struct machine_disk *known(const struct disk_op *op)
{
    return machine_find_disk(op->domain->machine, op->name);
}

/* Top first: a node that another one uses cannot be deleted. */
static void add_deletions(struct sequence *s, const char *const *nodes)
{
    size_t n = 0;

    while (n < MACHINE_DISK_NODES && nodes[n])
        n++;
    while (n-- > 0)
        sequence_add(s, &(struct sequence_step){.command = "blockdev-del",
                                                .arguments = json_pack("{s:s}", "node-name", nodes[n]),
                                                .may_fail = true});
}

/* What QEMU opened by its name is the image that was examined. */
static int check_opened(struct domain *d, void *userdata, struct error **ret_error)
{
    const struct disk_op *op = userdata;

    return storage_check_opened(op->source->storage, op->disk->volume_name, d->pid, ret_error);
}

static void add_nodes(struct sequence *s, const struct machine_plug *plug)
{
    json_t *node;
    size_t i;

    json_array_foreach (plug->nodes, i, node)
        sequence_add(s, &(struct sequence_step){
                            .command = "blockdev-add",
                            .arguments = json_incref(node),
                            .check = i + 1 == json_array_size(plug->nodes) ? check_opened : NULL,
                            .undo = "blockdev-del",
                            .undo_arguments = json_pack("{s:O}", "node-name", json_object_get(node, "node-name")),
                        });
}

static void run(struct disk_op *op, struct sequence *s, sequence_done_fn done)
{
    int r = s ? sequence_run(s, done, op) : -ENOMEM;
    _cleanup_error_ struct error *e = NULL;

    if (r < 0) {
        error_set(&e, ERROR_CONNECTION, r, "disk %s: cannot talk to QEMU: %s", op->name, strerror(-r));
        op_fail(op, TAKE_PTR(e));
    }
}

/* Remembers the disk as it is now; the guest has it already, so a failure to remember is no failure of the action. */
static void remember(struct domain *d, const struct machine_disk *disk)
{
    if (machine_set_disk(d->machine, disk) < 0)
        log_warning("disk %s is there, and out of memory: it is not shown, and cannot be taken away", disk->disk);
    d->disks_changed = true;
    domain_save_state(d);
}

/* Before anything is made, and again when that is known: a launcher that is killed in between leaves word of it. */
static void set_half_plugged(struct domain *d, const struct machine_plug *plug)
{
    json_t *nodes = plug ? json_array() : NULL;

    json_decref(d->half_plugged);
    d->half_plugged = NULL;
    for (size_t i = 0; plug && plug->disk.nodes[i]; i++)
        json_array_append_new(nodes, json_string(plug->disk.nodes[i]));
    if (plug)
        d->half_plugged = json_pack("{s:s, s:o}", "id", plug->disk.id, "nodes", nodes);
}

static void on_half_cleared(struct domain *d, json_t *result, const struct error *error, void *userdata)
{
    if (error)
        log_warning_of(error, "what a former launcher left half plugged in could not be taken away");
    set_half_plugged(d, NULL);
    domain_save_state(d);
    d->is_clearing_half = false;
    if (d->disk_ops && event_defer(d->event, &d->disk_source, on_next, d) < 0)
        start_head(d);
}

void domain_clear_half_plugged(struct domain *d, json_t *half)
{
    const char *id = json_string_value(json_object_get(half, "id")), *nodes[MACHINE_DISK_NODES + 1] = {0};
    bool is_recorded = false, has_device = false;
    struct sequence *s;
    size_t n;
    const struct machine_disk *disks = machine_get_disks(d->machine, &n);

    for (size_t i = 0; i < MACHINE_DISK_NODES; i++)
        nodes[i] = json_string_value(json_array_get(json_object_get(half, "nodes"), i));
    for (size_t i = 0; i < n; i++) {
        is_recorded = is_recorded || (nodes[0] && disks[i].nodes[0] && streq(disks[i].nodes[0], nodes[0]));
        has_device = has_device || streq_ptr(disks[i].id, id); /* of a CD-ROM drive, which stays */
    }
    s = id && nodes[0] && !is_recorded ? sequence_new(d) : NULL;
    if (!s)
        return;
    d->half_plugged = json_incref(half);
    if (!has_device)
        sequence_add(s, &(struct sequence_step){.command = "device_del",
                                                .arguments = json_pack("{s:s}", "id", id),
                                                .until_event = "DEVICE_DELETED",
                                                .event_key = "device",
                                                .event_value = id,
                                                .fail_event = "DEVICE_UNPLUG_GUEST_ERROR",
                                                .may_fail = true});
    add_deletions(s, nodes);
    d->is_clearing_half = sequence_run(s, on_half_cleared, NULL) >= 0;
    if (!d->is_clearing_half)
        log_warning("what a former launcher left half plugged in stays: QEMU's monitor is not there");
}

static void forget(struct domain *d, const char *disk)
{
    machine_remove_disk(d->machine, disk);
    d->disks_changed = true;
    domain_save_state(d);
}

static int note(struct disk_op *op, const struct error *error, const char *what, struct error **ret)
{
    *ret = error_copy(error);
    return error_wrap(ret, -1, "disk %s cannot be %s", op->name, what);
}

/* ---- looking at the image, in a child -------------------------------------------------------------------------- */

static void examined(struct disk_op *op, struct storage_examination *x);

static int on_examined(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    struct disk_op *op = userdata;

    examined(op, TAKE_PTR(op->examination));
    return 0;
}

static int on_examination_timer(sd_event_source *source, uint64_t at, void *userdata)
{
    struct disk_op *op = userdata;

    examined(op, TAKE_PTR(op->examination));
    return 0;
}

static void examine(struct disk_op *op)
{
    _cleanup_error_ struct error *e = NULL;
    int fd, r = storage_examine_begin(op->source->storage, op->disk->volume_name, &op->examination, &fd, &e);

    if (r >= 0) {
        r = sd_event_add_io(op->domain->event, &op->io, fd, EPOLLIN, on_examined, op);
        if (r >= 0)
            r = event_arm_timer(op->domain->event, &op->timer, 2 * TIMEOUT_IMAGE_USEC, on_examination_timer, op);
        if (r < 0)
            error_errno(&e, r, "cannot wait for the examination of disk %s", op->name);
    }
    if (r < 0)
        op_fail(op, TAKE_PTR(e));
}

static int plan(struct disk_op *op, const struct storage_volume *v, struct error **ret_error)
{
    struct domain *d = op->domain;
    _cleanup_(faults_done) struct faults faults = {.source = "disk"};
    const struct machine_volume volume = {
        .volume = op->disk->volume_name,
        .path = v->path,
        .format = v->format,
        .is_block_device = v->is_block_device,
        .read_only = v->read_only,
        .direct_io = v->direct_io,
        .preallocated = v->preallocated,
        .logical_block = v->logical_block,
        .physical_block = v->physical_block,
    };

    /* written down first: a launcher that is killed now must not give the same names again */
    d->plug_serial++;
    d->disks_changed = true;
    domain_save_state(d);
    return machine_plug_disk(d->machine, op->source->vmi ? op->source->vmi : d->vmi, qmp_client_get_version(d->qmp),
                             op->disk, &volume, d->plug_serial, &op->plug, &faults, ret_error);
}

static void plug_found(struct disk_op *op);
static void insert(struct disk_op *op);

static void examined(struct disk_op *op, struct storage_examination *x)
{
    _cleanup_error_ struct error *e = NULL;
    const struct storage_volume *v = NULL;
    int r;

    op->io = sd_event_source_disable_unref(op->io); /* before its fd is closed */
    op->timer = sd_event_source_disable_unref(op->timer);
    r = storage_examine_end(x, &v, &e);
    CRASH_POINT("disk-examined");
    if (r >= 0 && v->absent) { /* not mounted into the pod yet: the next Sync looks again */
        log_debug("disk %s: its volume is not there yet", op->name);
        op_end(op, NULL);
        return;
    }
    if (r >= 0 && !op->domain->qmp)
        r = error_set(&e, ERROR_CONNECTION, ENOTCONN, "QEMU's monitor is not there");
    if (r >= 0)
        r = plan(op, v, &e);
    if (r < 0) {
        op_fail(op, TAKE_PTR(e));
        return;
    }
    op->plug.disk.is_by_hand = op->by_hand;
    if (op->kind == DISK_OP_MEDIUM)
        insert(op);
    else
        plug_found(op);
}

/* ---- plugging in ----------------------------------------------------------------------------------------------- */

static void on_plugged(struct domain *d, json_t *result, const struct error *error, void *userdata)
{
    struct disk_op *op = userdata;
    const struct machine_disk *disk = &op->plug.disk;
    _cleanup_error_ struct error *e = NULL;

    CRASH_POINT("disk-plugged");
    set_half_plugged(d, NULL);
    if (error) {
        domain_save_state(d);
        note(op, error, "plugged in", &e);
        op_fail(op, TAKE_PTR(e));
        return;
    }
    remember(d, disk);
    event_log_add(d->events, "Device", "DiskPlugged",
                  json_pack("{s:s, s:s, s:s, s:s*}", "disk", disk->disk, "target", disk->target, "bus", disk->bus,
                            "path", disk->path),
                  "plugged in disk %s (%s, %s)", disk->disk, disk->bus, disk->target);
    op_end(op, NULL);
}

static void plug_in(struct disk_op *op)
{
    struct sequence *s = sequence_new(op->domain);

    set_half_plugged(op->domain, &op->plug);
    domain_save_state(op->domain);
    CRASH_POINT("disk-planned");
    if (s) {
        add_nodes(s, &op->plug);
        sequence_add(s, &(struct sequence_step){.command = "device_add", .arguments = json_incref(op->plug.device)});
    }
    run(op, s, on_plugged);
}

/* The last root port without a device: those behind the NICs come first, and are kept for NICs. */
static const char *find_port(json_t *buses)
{
    const char *found = NULL;
    json_t *bus, *device;
    size_t i, k;

    json_array_foreach (buses, i, bus)
        json_array_foreach (json_object_get(bus, "devices"), k, device) {
            json_t *bridge = json_object_get(device, "pci_bridge");
            const char *id = json_string_value(json_object_get(device, "qdev_id"));

            if (bridge && id && startswith(id, "pci.") && json_array_size(json_object_get(bridge, "devices")) == 0)
                found = id;
        }
    return found;
}

static void on_ports(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct disk_op *op = userdata;
    const char *port = error ? NULL : find_port(result);
    _cleanup_error_ struct error *e = NULL;

    if (error) {
        note(op, error, "plugged in", &e);
    } else if (!port) {
        error_set(&e, ERROR_LIMIT, ENOSPC, "disk %s cannot be plugged in: no PCI Express port of the VM is free",
                  op->name);
        error_set_remedy(e, "plug it into bus scsi, which needs none, or unplug a device");
    } else {
        json_object_set_new(op->plug.device, "bus", json_string(port));
        json_object_set_new(op->plug.device, "addr", json_string("0x0"));
        plug_in(op);
        return;
    }
    op_fail(op, TAKE_PTR(e));
}

static void plug_found(struct disk_op *op)
{
    int r;
    _cleanup_error_ struct error *e = NULL;

    if (!op->plug.needs_port) {
        plug_in(op);
        return;
    }
    r = qmp_client_invoke(op->domain->qmp, "query-pci", NULL, on_ports, op);
    if (r < 0) {
        error_errno(&e, r, "disk %s cannot be plugged in: QEMU's monitor is not there", op->name);
        op_fail(op, TAKE_PTR(e));
    }
}

static void start_plug(struct disk_op *op)
{
    _cleanup_error_ struct error *e = NULL;

    if (!known(op)) {
        examine(op);
        return;
    }
    error_set(&e, ERROR_ALREADY_EXISTS, EEXIST, "the VM has a disk %s already", op->name);
    op_fail(op, TAKE_PTR(e));
}

/* ---- unplugging ------------------------------------------------------------------------------------------------ */

static void tell_unplugged(struct domain *d, const char *disk)
{
    event_log_add(d->events, "Device", "DiskUnplugged", json_pack("{s:s}", "disk", disk), "unplugged disk %s", disk);
}

static void unplug(struct disk_op *op);

static void on_unplugged(struct domain *d, json_t *result, const struct error *error, void *userdata)
{
    struct disk_op *op = userdata;
    _cleanup_error_ struct error *e = NULL;

    CRASH_POINT("disk-unplugged");
    if (error && !op->is_gone && error_qmp_class(error) && streq(error_qmp_class(error), "DeviceNotFound")) {
        op->is_gone = true; /* it went while no launcher was there; its nodes are left */
        unplug(op);
        return;
    }
    if (error) {
        note(op, error, "unplugged", &e);
        if (error_get_code(error) == ERROR_TIMED_OUT)
            error_set_remedy(
                e, "the guest has not let go of it: unmount what is on it; it goes as soon as the guest does");
        op_fail(op, TAKE_PTR(e));
        return;
    }
    forget(d, op->name);
    tell_unplugged(d, op->name);
    op_end(op, NULL);
}

static void unplug(struct disk_op *op)
{
    const struct machine_disk *disk = known(op);
    struct sequence *s = sequence_new(op->domain);

    if (s && !op->is_gone)
        sequence_add(s, &(struct sequence_step){.command = "device_del",
                                                .arguments = json_pack("{s:s}", "id", disk->id),
                                                .until_event = "DEVICE_DELETED",
                                                .event_key = "device",
                                                .event_value = disk->id,
                                                .fail_event = "DEVICE_UNPLUG_GUEST_ERROR"});
    if (s)
        add_deletions(s, disk->nodes);
    run(op, s, on_unplugged);
}

static void start_unplug(struct disk_op *op)
{
    const struct machine_disk *disk = known(op);
    _cleanup_error_ struct error *e = NULL;

    if (!disk)
        error_set(&e, ERROR_NOT_FOUND, ENOENT, "the VM has no disk %s", op->name);
    else if (!streq(disk->bus, "virtio") && !streq(disk->bus, "scsi"))
        error_set(&e, ERROR_NOT_SUPPORTED, EOPNOTSUPP,
                  "disk %s is on bus %s: only disks on virtio and scsi can be unplugged while the VM runs", op->name,
                  disk->bus);
    if (e) {
        op_fail(op, TAKE_PTR(e));
        return;
    }
    unplug(op);
}

static void on_late_nodes_gone(struct domain *d, json_t *result, const struct error *error, void *userdata)
{
}

/* A device went without an action that waits for it: one that was given up, or the guest ejected it by itself. */
void domain_on_disk_deleted(struct domain *d, const char *id)
{
    size_t n;
    const struct machine_disk *disks = machine_get_disks(d->machine, &n), *disk = NULL;
    _cleanup_free_ char *name = NULL;
    struct sequence *s;

    for (size_t i = 0; i < n; i++)
        if (streq(disks[i].id, id))
            disk = &disks[i];
    if (!disk || (d->disk_ops && d->disk_ops->kind == DISK_OP_UNPLUG && streq(d->disk_ops->name, disk->disk)))
        return;
    name = strdup(disk->disk);
    s = name ? sequence_new(d) : NULL;
    if (!s)
        return;
    add_deletions(s, disk->nodes);
    if (disk->nodes[0])
        sequence_run(s, on_late_nodes_gone, NULL);
    else
        sequence_free(s);
    forget(d, name);
    tell_unplugged(d, name);
}

/* ---- media ----------------------------------------------------------------------------------------------------- */

static void on_medium(struct domain *d, json_t *result, const struct error *error, void *userdata)
{
    struct disk_op *op = userdata;
    const struct machine_disk *disk = known(op);
    struct machine_disk changed = op->source ? op->plug.disk : (struct machine_disk){0};
    _cleanup_error_ struct error *e = NULL;

    if (error) {
        note(op, error, "given another medium", &e);
        if (!op->force)
            error_set_remedy(e, "the guest may have locked the tray: eject it there, or use force");
        op_fail(op, TAKE_PTR(e));
        return;
    }
    /* the drive is the old one; what is in it is new */
    changed.disk = op->name;
    changed.target = disk->target;
    changed.id = disk->id;
    changed.bus = disk->bus;
    changed.is_cdrom = true;
    changed.read_only = true;
    changed.is_plugged = disk->is_plugged;
    changed.is_by_hand = op->by_hand;
    changed.is_hotpluggable = op->source ? op->plug.disk.is_hotpluggable : disk->is_hotpluggable;
    remember(d, &changed);
    event_log_add(d->events, "Device", "MediumChanged",
                  json_pack("{s:s, s:s*}", "disk", op->name, "path", changed.path),
                  changed.path ? "CD-ROM %s: put in %s" : "CD-ROM %s: its tray is empty", op->name, changed.path);
    op_end(op, NULL);
}

static void change(struct disk_op *op)
{
    const struct machine_disk *disk = known(op);
    struct sequence *s = disk ? sequence_new(op->domain) : NULL;

    if (!s) {
        run(op, NULL, on_medium);
        return;
    }
    if (op->source)
        add_nodes(s, &op->plug);
    sequence_add(s, &(struct sequence_step){
                        .command = "blockdev-open-tray",
                        .arguments = json_pack("{s:s, s:b}", "id", disk->id, "force", op->force),
                        .undo = "blockdev-close-tray",
                        .undo_arguments = json_pack("{s:s}", "id", disk->id),
                    });
    if (disk->node)
        sequence_add(s, &(struct sequence_step){.command = "blockdev-remove-medium",
                                                .arguments = json_pack("{s:s}", "id", disk->id),
                                                .undo = "blockdev-insert-medium",
                                                .undo_arguments =
                                                    json_pack("{s:s, s:s}", "id", disk->id, "node-name", disk->node)});
    if (op->source)
        sequence_add(s, &(struct sequence_step){
                            .command = "blockdev-insert-medium",
                            .arguments = json_pack("{s:s, s:s}", "id", disk->id, "node-name", op->plug.disk.node)});
    sequence_add(
        s, &(struct sequence_step){.command = "blockdev-close-tray", .arguments = json_pack("{s:s}", "id", disk->id)});
    add_deletions(s, disk->nodes);
    run(op, s, on_medium);
}

static void insert(struct disk_op *op)
{
    change(op);
}

static void start_medium(struct disk_op *op)
{
    const struct machine_disk *disk = known(op);
    _cleanup_error_ struct error *e = NULL;

    if (!disk)
        error_set(&e, ERROR_NOT_FOUND, ENOENT, "the VM has no disk %s", op->name);
    else if (!disk->is_cdrom)
        error_set(&e, ERROR_BAD_ARGUMENT, EINVAL, "disk %s is no CD-ROM drive: it has no tray", op->name);
    if (e)
        op_fail(op, TAKE_PTR(e));
    else if (op->source)
        examine(op);
    else if (!disk->node)
        op_end(op, NULL); /* empty already */
    else
        change(op);
}

/* ---- growing --------------------------------------------------------------------------------------------------- */

/* What the file or device has now, in whole sectors; 0 when it cannot be found out. */
static uint64_t size_of(const struct machine_disk *disk)
{
    _cleanup_close_ int fd = open(disk->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW);
    uint64_t size = 0;
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return 0;
    if (S_ISBLK(st.st_mode))
        return ioctl(fd, BLKGETSIZE64, &size) < 0 ? 0 : size;
    return S_ISREG(st.st_mode) ? (uint64_t)st.st_size & ~511ULL : 0;
}

/* The size that the guest sees; 0: no such node. */
static uint64_t size_in_guest(json_t *blocks, const char *node)
{
    json_t *block;
    size_t i;

    json_array_foreach (blocks, i, block) {
        json_t *inserted = json_object_get(block, "inserted");
        const char *name = json_string_value(json_object_get(inserted, "node-name"));

        if (name && streq(name, node))
            return (uint64_t)json_integer_value(json_object_get(json_object_get(inserted, "image"), "virtual-size"));
    }
    return 0;
}

static void on_resized(struct domain *d, json_t *result, const struct error *error, void *userdata)
{
    struct disk_op *op = userdata;
    _cleanup_error_ struct error *e = NULL;

    if (error) {
        note(op, error, "made larger", &e);
        op_fail(op, TAKE_PTR(e));
        return;
    }
    event_log_add(d->events, "Device", "DiskResized",
                  json_pack("{s:s, s:I}", "disk", op->name, "bytes", (json_int_t)op->size),
                  "disk %s has %llu bytes now", op->name, (unsigned long long)op->size);
    op_end(op, NULL);
}

static void on_sizes(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct disk_op *op = userdata;
    const struct machine_disk *disk = known(op);
    uint64_t now = disk && !error ? size_in_guest(result, disk->node) : 0;
    _cleanup_error_ struct error *e = NULL;
    struct sequence *s;

    if (error)
        note(op, error, "made larger", &e);
    else if (now == 0)
        error_set(&e, ERROR_NOT_FOUND, ENOENT, "disk %s: its size cannot be asked for", op->name);
    else if (op->size < now && op->by_hand)
        error_set(&e, ERROR_BAD_ARGUMENT, EINVAL,
                  "disk %s has %llu bytes, and a disk is not made smaller (%llu were asked for)", op->name,
                  (unsigned long long)now, (unsigned long long)op->size);
    if (e) {
        op_fail(op, TAKE_PTR(e));
        return;
    }
    if (op->size <= now) {
        op_end(op, NULL);
        return;
    }
    s = sequence_new(op->domain);
    if (s)
        sequence_add(s, &(struct sequence_step){
                            .command = "block_resize",
                            .arguments = json_pack("{s:s, s:I}", "node-name", disk->node, "size", (json_int_t)op->size),
                        });
    run(op, s, on_resized);
}

static void start_resize(struct disk_op *op)
{
    const struct machine_disk *disk = known(op);
    _cleanup_error_ struct error *e = NULL;
    int r;

    if (!disk || !disk->node)
        error_set(&e, ERROR_NOT_FOUND, ENOENT, "the VM has no disk %s, or its tray is empty", op->name);
    else if (disk->read_only)
        error_set(&e, ERROR_NOT_SUPPORTED, EOPNOTSUPP, "disk %s is read-only, and keeps its size", op->name);
    else if (op->size == 0 && (disk->is_overlay || !disk->is_raw))
        error_set(&e, ERROR_BAD_ARGUMENT, EINVAL,
                  "disk %s is a %s: its file's size says nothing, so the size is to be given", op->name,
                  disk->is_overlay ? "copy-on-write file" : "qcow2 image");
    else if (op->size == 0 && (op->size = size_of(disk)) == 0)
        error_set(&e, ERROR_STORAGE, EIO, "disk %s: the size of %s cannot be found out", op->name, disk->path);
    else if (op->size > LIMIT_DISK_BYTES)
        error_set(&e, ERROR_LIMIT, EFBIG, "disk %s: %llu bytes are more than 1 PiB", op->name,
                  (unsigned long long)op->size);
    if (!e) {
        r = op->domain->qmp ? qmp_client_invoke(op->domain->qmp, "query-block", NULL, on_sizes, op) : -ENOTCONN;
        if (r >= 0)
            return;
        error_errno(&e, r, "disk %s: QEMU's monitor is not there", op->name);
    }
    op_fail(op, TAKE_PTR(e));
}

uint64_t disk_size_wanted(const struct machine_disk *disk)
{
    return disk->node && disk->path && disk->is_raw && !disk->is_overlay && !disk->read_only ? size_of(disk) : 0;
}

/* ---- the commands ----------------------------------------------------------------------------------------------- */

static void start_head(struct domain *d)
{
    static void (*const starts[])(struct disk_op *) = {
        [DISK_OP_PLUG] = start_plug,
        [DISK_OP_UNPLUG] = start_unplug,
        [DISK_OP_RESIZE] = start_resize,
        [DISK_OP_MEDIUM] = start_medium,
    };
    struct disk_op *op = d->disk_ops;

    if (!op || d->is_clearing_half)
        return;
    if (d->qmp && d->pid > 0) {
        starts[op->kind](op);
        return;
    }
    struct error *e = NULL;
    error_set(&e, ERROR_CONNECTION, ENOTCONN, "disk %s: QEMU's monitor is not there", op->name);
    op_fail(op, e);
}

static int queue(struct disk_op *op, struct error **ret_error)
{
    int r = op ? disk_op_queue(op) : -ENOMEM;

    if (r >= 0)
        return 0;
    if (op)
        op_free(op);
    return error_oom(ret_error);
}

static int check_path(const char *disk, const char *path, struct error **ret_error)
{
    return path[0] == '/'
               ? 0
               : error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "disk %s: %s is no absolute path", disk, path);
}

/* The disk that a command describes, as a manifest would. */
static int make_source(const struct disk_request *request, bool cdrom, struct disk_source **ret,
                       struct error **ret_error)
{
    struct disk_source *source = calloc(1, sizeof(*source));
    bool scsi = request->bus && streq(request->bus, "scsi");
    int r = source ? 0 : -ENOMEM;

    if (r == 0) {
        source->refs = 1;
        source->name = strdup(request->name);
        source->serial = request->serial ? strdup(request->serial) : NULL;
        source->own_target = (struct vmi_disk_target){.bus = scsi ? VMI_BUS_SCSI : VMI_BUS_VIRTIO,
                                                      .readonly = request->read_only ? OPT_TRUE : OPT_UNSET};
        source->own = (struct vmi_disk){
            .name = source->name,
            .volume_name = source->name,
            .serial = source->serial,
            .device = cdrom ? VMI_DISK_DEVICE_CDROM : VMI_DISK_DEVICE_DISK,
            .target = &source->own_target,
        };
        if (!source->name || (request->serial && !source->serial))
            r = -ENOMEM;
    }
    if (r < 0)
        r = error_oom(ret_error);
    else
        r = storage_for_file(request->name, request->path, request->read_only || cdrom, &source->storage, ret_error);
    if (r >= 0) {
        /* a CD-ROM's image is what its volume is: build as with a manifest */
        size_t n;
        source->own.volume = storage_get_volumes(source->storage, &n)[0].volume;
        *ret = source;
        return 0;
    }
    if (source)
        disk_source_unref(source);
    return r;
}

int domain_plug_disk(struct domain *d, const struct disk_request *request, domain_done_fn done, void *userdata,
                     struct error **ret_error)
{
    struct disk_source *source = NULL;
    struct disk_op *op;
    int r = check_path(request->name, request->path, ret_error);

    if (r >= 0 && (!*request->name || strlen(request->name) > 63))
        r = error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "the name of a disk has 1 to 63 characters");
    if (r >= 0 && request->bus && !streq(request->bus, "virtio") && !streq(request->bus, "scsi"))
        r = error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "bus %s: only virtio and scsi can be plugged",
                      request->bus);
    if (r >= 0)
        r = make_source(request, false, &source, ret_error);
    if (r < 0)
        return r;
    op = disk_op_new(d, DISK_OP_PLUG, request->name, source, &source->own, done, userdata);
    disk_source_unref(source);
    if (op)
        op->by_hand = true;
    return queue(op, ret_error);
}

int domain_unplug_disk(struct domain *d, const char *disk, domain_done_fn done, void *userdata,
                       struct error **ret_error)
{
    return queue(disk_op_new(d, DISK_OP_UNPLUG, disk, NULL, NULL, done, userdata), ret_error);
}

int domain_resize_disk(struct domain *d, const char *disk, uint64_t size, domain_done_fn done, void *userdata,
                       struct error **ret_error)
{
    struct disk_op *op = disk_op_new(d, DISK_OP_RESIZE, disk, NULL, NULL, done, userdata);

    if (op) {
        op->size = size;
        op->by_hand = true;
    }
    return queue(op, ret_error);
}

int domain_change_medium(struct domain *d, const char *disk, const char *path, bool force, domain_done_fn done,
                         void *userdata, struct error **ret_error)
{
    struct disk_source *source = NULL;
    struct disk_op *op;
    int r = path ? check_path(disk, path, ret_error) : 0;

    if (r >= 0 && path)
        r = make_source(&(struct disk_request){.name = disk, .path = path, .bus = "scsi"}, true, &source, ret_error);
    if (r < 0)
        return r;
    op = disk_op_new(d, DISK_OP_MEDIUM, disk, source, source ? &source->own : NULL, done, userdata);
    disk_source_unref(source);
    if (op) {
        op->by_hand = true;
        op->force = force;
    }
    return queue(op, ret_error);
}
