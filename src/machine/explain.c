/* SPDX-License-Identifier: Apache-2.0 */
/* What a machine consists of and why: for people (items) and for programs (JSON). */
#include "machine/build.h"
#include "json/node.h"

static const char *const group_names[] = {
    [MACHINE_GROUP_MACHINE] = "machine", [MACHINE_GROUP_CPU] = "cpu",         [MACHINE_GROUP_MEMORY] = "memory",
    [MACHINE_GROUP_DISKS] = "disks",     [MACHINE_GROUP_NETWORK] = "network", [MACHINE_GROUP_CONSOLE] = "console",
    [MACHINE_GROUP_OTHER] = "other",
};

/* In the largest unit that is not below one, and exactly. */
const char *bytes_text(struct build *b, uint64_t bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    unsigned unit = 0;

    for (; value >= 1024 && unit + 1 < ELEMENTSOF(units); unit++)
        value /= 1024;
    if (unit == 0)
        return text(b, "%llu bytes", (unsigned long long)bytes);
    /* 64M is 61.04 MiB: rounded, so the exact figure stands beside it */
    return text(b, "%.*f %s (%llu bytes)", value == (double)(uint64_t)value ? 0 : 2, value, units[unit],
                (unsigned long long)bytes);
}

void item(struct build *b, enum machine_group group, const struct node *at, const char *id, const char *what,
          const char *why)
{
    struct machine_item *i = LIST_ADD(b, &b->machine->items);
    const char *path = at ? node_path(b->arena, at) : "";

    if (i)
        *i = (struct machine_item){.group = group, .path = path ? path : "", .what = what, .why = why, .id = id};
}

static json_t *string_or_null(const char *value)
{
    return value ? json_string(value) : json_null();
}

static json_t *memory_to_json(const struct machine *m)
{
    return json_pack("{s:I, s:I}", "size", (json_int_t)m->memory, "maximum", (json_int_t)m->max_memory);
}

static json_t *cpu_to_json(const struct machine *m)
{
    return json_pack("{s:s, s:s, s:i, s:i, s:i, s:i, s:i}", "model", m->cpu_model, "option", m->cpu_text, "vcpus",
                     (int)m->vcpus, "maximum", (int)m->max_vcpus, "sockets", (int)m->sockets, "cores", (int)m->cores,
                     "threads", (int)m->threads);
}

json_t *items_to_json(const struct machine *m)
{
    json_t *list = json_array();

    for (size_t i = 0; list && i < m->items.count; i++) {
        const struct machine_item *it = &m->items.items[i];

        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:s, s:s, s:o}", "group", group_names[it->group], "path", it->path,
                                        "what", it->what, "why", it->why, "id", string_or_null(it->id)));
    }
    return list;
}

static json_t *disks_to_json(const struct machine *m)
{
    json_t *list = json_array();

    for (size_t i = 0; list && i < m->disks.count; i++) {
        const struct machine_disk *d = &m->disks.items[i];

        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:o}", "name", d->disk, "target", d->target, "bus",
                                              d->bus, "id", d->id, "node", string_or_null(d->node)));
    }
    return list;
}

static json_t *nics_to_json(const struct machine *m)
{
    json_t *list = json_array();

    for (size_t i = 0; list && i < m->nics.count; i++) {
        const struct nic_entry *n = &m->nics.items[i];

        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:o}", "name", n->interface, "model", n->model,
                                              "mac", n->mac, "id", n->id, "netdev", string_or_null(n->netdev)));
    }
    return list;
}

static json_t *sockets_to_json(const struct machine *m)
{
    json_t *object = json_object();

    for (size_t i = 0; object && i < m->fds.count; i++)
        if (m->fds.items[i].role)
            json_object_set_new(object, m->fds.items[i].role, json_string(m->fds.items[i].path));
    return object;
}

static json_t *ports_to_json(const struct machine *m)
{
    json_t *list = json_array();

    for (size_t i = 0; list && i < m->spare_ports.count; i++)
        json_array_append_new(list, json_string(m->spare_ports.items[i]));
    return list;
}

json_t *machine_to_json(const struct machine *m)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "name", m->name, "uuid",
                     m->uuid, "arch", m->arch, "accel", m->accel, "machineType", m->type, "cpu", cpu_to_json(m),
                     "memory", memory_to_json(m), "firmware", string_or_null(m->firmware), "disks", disks_to_json(m),
                     "interfaces", nics_to_json(m), "sockets", sockets_to_json(m), "sparePorts", ports_to_json(m),
                     "devices", items_to_json(m));
}
