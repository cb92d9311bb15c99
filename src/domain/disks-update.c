/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A manifest that changed while its VM runs: what came and went of hotpluggable volumes, which medium is in which tray,
 * which claim grew (compat 4.4, 4.5). And the disks as they are, for the state file and for those who ask.
 */
#include "base/log.h"
#include "domain/disks-internal.h"

struct update {
    struct domain *domain;
    struct disk_source *source;
    size_t waiting;
    struct error *error; /* the first */
    domain_done_fn done;
    void *userdata;
};

static void update_step_done(struct update *u)
{
    if (--u->waiting > 0)
        return;
    u->done(u->domain, u->error, u->userdata);
    disk_source_unref(u->source);
    error_free(u->error);
    free(u);
}

static void on_step(struct domain *d, const struct error *error, void *userdata)
{
    struct update *u = userdata;

    if (error && error_get_code(error) != ERROR_CANCELLED)
        event_log_add(d->events, "Kubernetes", "FailedDiskChange", json_pack("{s:s}", "eventType", "Warning"), "%s",
                      error_message(error));
    if (error && !u->error)
        u->error = error_copy(error);
    update_step_done(u);
}

static struct disk_op *step(struct update *u, enum disk_op_kind kind, const char *name, const struct vmi_disk *disk)
{
    struct disk_op *op = disk_op_new(u->domain, kind, name, disk ? u->source : NULL, disk, on_step, u);

    if (!op || disk_op_queue(op) < 0) {
        if (!u->error)
            error_oom(&u->error);
        return NULL;
    }
    u->waiting++;
    return op;
}

/* ---- what is to be done ---------------------------------------------------------------------------------------- */

static const struct vmi_disk *find_disk(const struct vmi *vmi, const char *name)
{
    for (size_t i = 0; i < vmi->spec.domain.devices.disks.count; i++)
        if (streq(vmi->spec.domain.devices.disks.items[i].name, name))
            return &vmi->spec.domain.devices.disks.items[i];
    return NULL;
}

static bool is_hotpluggable(const struct vmi_disk *disk)
{
    const struct vmi_pvc *claim = disk->volume ? vmi_volume_claim(disk->volume) : NULL;

    return claim && claim->hotpluggable == OPT_TRUE;
}

static void update_tray(struct update *u, const struct machine_disk *now, const struct vmi_disk *wanted)
{
    const struct vmi_pvc *claim = wanted && wanted->volume ? vmi_volume_claim(wanted->volume) : NULL;
    bool hotpluggable = wanted && is_hotpluggable(wanted);
    struct disk_op *op = NULL;

    if (hotpluggable && (!now->node || !streq_ptr(now->source, claim->claim_name)))
        op = step(u, DISK_OP_MEDIUM, now->disk, wanted);
    else if ((!wanted || !wanted->volume) && now->node && now->is_hotpluggable)
        op = step(u, DISK_OP_MEDIUM, now->disk, NULL);
    if (op)
        op->force = true; /* who removes the volume takes it away under the drive in any case */
}

static void update_size(struct update *u, const struct machine_disk *now, const struct vmi_disk *wanted,
                        const json_t *volume_status)
{
    uint64_t size = disk_size_wanted(now);
    struct disk_op *op;

    if (size == 0)
        return;
    if (!now->is_block_device && wanted->volume)
        size = MAX(size, storage_claim_size(volume_status, wanted->volume->name));
    op = step(u, DISK_OP_RESIZE, now->disk, NULL);
    if (op)
        op->size = size;
}

static void update_known(struct update *u, const struct machine_disk *now, const json_t *volume_status)
{
    const struct vmi_disk *wanted = find_disk(u->source->vmi, now->disk);

    if (now->is_cdrom && !now->is_by_hand)
        update_tray(u, now, wanted);
    else if (wanted && !now->is_cdrom)
        update_size(u, now, wanted, volume_status);
    else if (!wanted && !now->is_by_hand && (now->is_hotpluggable || now->is_plugged))
        step(u, DISK_OP_UNPLUG, now->disk, NULL);
    else if (!wanted && !now->is_by_hand)
        log_debug("disk %s is not in the manifest any more: it goes with the VM's next start", now->disk);
}

int domain_update_disks(struct domain *d, struct vmi *vmi, const struct storage_options *options, domain_done_fn done,
                        void *userdata, struct error **ret_error)
{
    struct update *u = calloc(1, sizeof(*u));
    struct disk_source *source = calloc(1, sizeof(*source));
    _cleanup_(faults_done) struct faults faults = {.source = "vmi"};
    const struct machine_disk *disks;
    size_t n;
    int r;

    if (!u || !source) {
        free(u);
        free(source);
        vmi_free(vmi);
        return error_oom(ret_error);
    }
    source->refs = 1;
    source->vmi = vmi;
    r = storage_plan(vmi, options, &source->storage, &faults, ret_error);
    if (r < 0) {
        disk_source_unref(source);
        free(u);
        return r;
    }
    /* one more than there are steps, until all are queued: none of them is done before this returns */
    *u = (struct update){.domain = d, .source = source, .waiting = 1, .done = done, .userdata = userdata};
    disks = machine_get_disks(d->machine, &n);
    for (size_t i = 0; i < n; i++)
        update_known(u, &disks[i], options->volume_status);
    for (size_t i = 0; i < vmi->spec.domain.devices.disks.count; i++) {
        const struct vmi_disk *disk = &vmi->spec.domain.devices.disks.items[i];

        if (!machine_find_disk(d->machine, disk->name) && is_hotpluggable(disk))
            step(u, DISK_OP_PLUG, disk->name, disk);
        else if (!machine_find_disk(d->machine, disk->name))
            log_debug("disk %s is new in the manifest: it comes with the VM's next start", disk->name);
    }
    update_step_done(u);
    return 0;
}

/* ---- the disks as they are ------------------------------------------------------------------------------------- */

static const struct {
    const char *key;
    size_t offset;
} texts[] =
    {
        {"name", offsetof(struct machine_disk, disk)},    {"target", offsetof(struct machine_disk, target)},
        {"bus", offsetof(struct machine_disk, bus)},      {"id", offsetof(struct machine_disk, id)},
        {"node", offsetof(struct machine_disk, node)},    {"path", offsetof(struct machine_disk, path)},
        {"claim", offsetof(struct machine_disk, source)},
},
  flags[] = {
      {"cdrom", offsetof(struct machine_disk, is_cdrom)},
      {"lun", offsetof(struct machine_disk, is_lun)},
      {"blockDevice", offsetof(struct machine_disk, is_block_device)},
      {"overlay", offsetof(struct machine_disk, is_overlay)},
      {"readOnly", offsetof(struct machine_disk, read_only)},
      {"raw", offsetof(struct machine_disk, is_raw)},
      {"hotpluggable", offsetof(struct machine_disk, is_hotpluggable)},
      {"plugged", offsetof(struct machine_disk, is_plugged)},
      {"byHand", offsetof(struct machine_disk, is_by_hand)},
};

json_t *domain_disks_to_json(const struct domain *d)
{
    json_t *list = json_array();
    size_t n;
    const struct machine_disk *disks = machine_get_disks(d->machine, &n);

    for (size_t i = 0; i < n; i++) {
        const char *base = (const char *)&disks[i];
        json_t *disk = json_object(), *nodes = json_array();

        for (size_t k = 0; k < ELEMENTSOF(texts); k++) {
            const char *text = *(const char *const *)(const void *)(base + texts[k].offset);

            if (text)
                json_object_set_new(disk, texts[k].key, json_string(text));
        }
        for (size_t k = 0; k < ELEMENTSOF(flags); k++)
            if (*(const bool *)(base + flags[k].offset))
                json_object_set_new(disk, flags[k].key, json_true());
        for (size_t k = 0; disks[i].nodes[k]; k++)
            json_array_append_new(nodes, json_string(disks[i].nodes[k]));
        json_object_set_new(disk, "nodes", nodes);
        json_array_append_new(list, disk);
    }
    return list;
}

void domain_take_up_disks(struct domain *d, const json_t *list)
{
    const json_t *from;
    size_t n, i;

    for (const struct machine_disk *disks = machine_get_disks(d->machine, &n); n > 0;
         disks = machine_get_disks(d->machine, &n))
        machine_remove_disk(d->machine, disks[n - 1].disk);
    json_array_foreach (list, i, from) {
        struct machine_disk disk = {0};
        json_t *nodes = json_object_get(from, "nodes");

        for (size_t k = 0; k < ELEMENTSOF(texts); k++)
            *(const char **)(void *)((char *)&disk + texts[k].offset) =
                json_string_value(json_object_get(from, texts[k].key));
        for (size_t k = 0; k < ELEMENTSOF(flags); k++)
            *(bool *)((char *)&disk + flags[k].offset) = json_is_true(json_object_get(from, flags[k].key));
        for (size_t k = 0; k < MACHINE_DISK_NODES && k < json_array_size(nodes); k++)
            disk.nodes[k] = json_string_value(json_array_get(nodes, k));
        if (!disk.disk || !disk.target || !disk.id || !disk.bus || machine_set_disk(d->machine, &disk) < 0)
            log_warning("a disk in the state file cannot be taken over");
    }
    d->disks_changed = true;
}
