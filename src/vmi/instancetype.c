/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instance types and preferences, as KubeVirt applies them (pkg/instancetype/apply, pkg/instancetype/preference/apply):
 * what an instance type gives, the VM must not say itself; what a preference gives holds where the VM says nothing. The
 * merge is done on nodes, before decoding, so that the settings keep their place in the file.
 */
#include <inttypes.h>
#include <stdio.h>
#include <strings.h>

#include "base/strbuf.h"
#include "vmi/merge.h"
#include "vmi/private.h"
#include "json/scalar.h"

struct merge {
    struct arena *arena;
    struct faults *faults;
    struct node *instance;                /* the VM's template: metadata and spec */
    struct node *spec;                    /* of the template */
    const struct node *type, *preference; /* spec of each, or NULL */
    const char *type_name;
};

/* ---- instance type ---- */

/* `from` in the instance type, `to` in the template's spec. Without `from`: what must not be there beside any type. */
static const struct {
    const char *from, *to;
} type_rows[] = {
    {NULL, "domain.cpu.sockets"},
    {NULL, "domain.cpu.cores"},
    {NULL, "domain.cpu.threads"},
    {NULL, "domain.memory.guest"},
    {NULL, "domain.resources.requests.cpu"},
    {NULL, "domain.resources.limits.cpu"},
    {NULL, "domain.resources.requests.memory"},
    {NULL, "domain.resources.limits.memory"},
    {"cpu.model", "domain.cpu.model"},
    {"cpu.dedicatedCPUPlacement", "domain.cpu.dedicatedCpuPlacement"},
    {"cpu.isolateEmulatorThread", "domain.cpu.isolateEmulatorThread"},
    {"cpu.numa", "domain.cpu.numa"},
    {"cpu.realtime", "domain.cpu.realtime"},
    {"cpu.maxSockets", "domain.cpu.maxSockets"},
    {"memory.hugepages", "domain.memory.hugepages"},
    {"memory.maxGuest", "domain.memory.maxGuest"},
    {"gpus", "domain.devices.gpus"},
    {"hostDevices", "domain.devices.hostDevices"},
    {"ioThreadsPolicy", "domain.ioThreadsPolicy"},
    {"ioThreads", "domain.ioThreads"},
    {"launchSecurity", "domain.launchSecurity"},
    {"nodeSelector", "nodeSelector"},
    {"schedulerName", "schedulerName"},
};

/* Puts `value` at `path` unless there is something. What cannot be reached is left for decoding to say. */
static int put(struct merge *m, const char *path, const struct node *at, struct node *value)
{
    const char *dot = strrchr(path, '.'), *key = arena_strdup(m->arena, dot ? dot + 1 : path);
    char parent[128] = "";
    struct node *mapping, *own;
    int r;

    if (!value || !key)
        return -ENOMEM;
    if (dot)
        snprintf(parent, sizeof(parent), "%.*s", (int)(dot - path), path);
    r = node_reach(m->arena, m->spec, parent, at, &mapping);
    if (r == -ENOTDIR)
        return 0;
    if (r < 0)
        return r;
    own = node_child(mapping, key);
    if (own && own->kind != NODE_NULL)
        return 0;
    node_put(mapping, key, value);
    return 0;
}

static int put_number(struct merge *m, const char *path, const struct node *at, int64_t number)
{
    char text[24];

    snprintf(text, sizeof(text), "%" PRId64, number);
    return put(m, path, at, node_scalar(m->arena, at, text));
}

static int put_topology(struct merge *m, int64_t vcpus, const struct preference_spec *preference)
{
    const char *topology = preference && preference->cpu.topology ? preference->cpu.topology : "sockets";
    const struct spread_options *spread = preference ? &preference->cpu.spread : NULL;
    const struct node *at = node_find(m->type, "cpu.guest");
    int64_t sockets = 1, cores = 1, threads = 1;
    int r;

    if (startswith(topology, "prefer")) /* names of old: preferCores */
        topology += strlen("prefer");
    if (strcasecmp(topology, "cores") == 0)
        cores = vcpus;
    else if (strcasecmp(topology, "threads") == 0)
        threads = vcpus;
    else if (strcasecmp(topology, "spread") == 0 && vcpus > 1) {
        const char *across = spread->across ?: "SocketsCores";
        int64_t ratio = opt_int_or(spread->ratio, opt_int_or(preference->spread_ratio, 0) ?: 2);

        if (streq(across, "CoresThreads"))
            threads = ratio;
        else
            cores = ratio;
        if (streq(across, "SocketsCoresThreads"))
            threads = 2;
        if (streq(across, "CoresThreads"))
            cores = vcpus / threads;
        else
            sockets = vcpus / (cores * threads);
        if (sockets * cores * threads != vcpus) {
            faults_add(m->faults, spread->at ?: preference->cpu.at,
                       "%" PRId64 " vCPUs of the instance type cannot be spread over %s by %" PRId64, vcpus, across,
                       ratio);
            return 0;
        }
    } else {
        sockets = vcpus;
    }
    r = put_number(m, "domain.cpu.sockets", at, sockets);
    if (r >= 0)
        r = put_number(m, "domain.cpu.cores", at, cores);
    return r < 0 ? r : put_number(m, "domain.cpu.threads", at, threads);
}

static int put_memory(struct merge *m, const struct instancetype_memory *memory)
{
    const struct node *guest = node_find(m->type, "memory.guest");
    int64_t percent = opt_int_or(memory->overcommit_percent, 0);
    int r = put(m, "domain.memory.guest", guest, node_copy(m->arena, guest));

    if (r < 0 || percent == 0)
        return r;
    return put_number(m, "domain.resources.requests.memory", node_find(m->type, "memory.overcommitPercent"),
                      memory->guest.value - memory->guest.value / 100 * percent);
}

static int put_annotations(struct merge *m, const struct node *annotations, const char *who)
{
    struct node *own;
    int r;

    if (!annotations || annotations->kind != NODE_MAPPING)
        return 0;
    r = node_reach(m->arena, m->instance, "metadata.annotations", annotations, &own);
    if (r < 0)
        return r == -ENOTDIR ? 0 : r;
    NODE_FOREACH(a, annotations)
    {
        struct node *there = node_child(own, a->key), *copy;

        if (there && there->kind != NODE_NULL) {
            if (who && !node_equal(there, a))
                faults_add(m->faults, there, "is given otherwise by the instance type \"%.64s\", in line %u", who,
                           a->line);
            continue;
        }
        copy = node_copy(m->arena, a);
        if (!copy)
            return -ENOMEM;
        node_put(own, a->key, copy);
    }
    return 0;
}

static int apply_type(struct merge *m, const struct instancetype_spec *type, const struct preference_spec *preference)
{
    size_t before = m->faults->count + m->faults->dropped;
    int r = 0;

    for (size_t i = 0; i < ELEMENTSOF(type_rows); i++) {
        const struct node *from = type_rows[i].from ? node_find(m->type, type_rows[i].from) : NULL;
        const struct node *own = node_find(m->spec, type_rows[i].to);

        if ((!type_rows[i].from || from) && own && !node_is_empty(own))
            faults_add(m->faults, own,
                       "is given by the instance type \"%.64s\": leave it out here, or leave out spec.instancetype",
                       m->type_name);
    }
    if (m->faults->count + m->faults->dropped > before)
        return 0;
    for (size_t i = 0; i < ELEMENTSOF(type_rows) && r >= 0; i++) {
        const struct node *from = type_rows[i].from ? node_find(m->type, type_rows[i].from) : NULL;

        if (from && from->kind != NODE_NULL)
            r = put(m, type_rows[i].to, from, node_copy(m->arena, from));
    }
    if (r >= 0)
        r = put_topology(m, opt_int_or(type->cpu.guest, 1), preference);
    if (r >= 0)
        r = put_memory(m, &type->memory);
    return r < 0 ? r : put_annotations(m, node_find(m->type, "annotations"), m->type_name);
}

/* ---- preference ---- */

static const struct {
    const char *from, *to;
} preference_rows[] = {
    {"clock.preferredTimer", "domain.clock.timer"},
    {"devices.preferredAutoattachGraphicsDevice", "domain.devices.autoattachGraphicsDevice"},
    {"devices.preferredAutoattachMemBalloon", "domain.devices.autoattachMemBalloon"},
    {"devices.preferredAutoattachPodInterface", "domain.devices.autoattachPodInterface"},
    {"devices.preferredAutoattachSerialConsole", "domain.devices.autoattachSerialConsole"},
    {"devices.preferredAutoattachInputDevice", "domain.devices.autoattachInputDevice"},
    {"devices.preferredDisableHotplug", "domain.devices.disableHotplug"},
    {"devices.preferredUseVirtioTransitional", "domain.devices.useVirtioTransitional"},
    {"devices.preferredBlockMultiQueue", "domain.devices.blockMultiQueue"},
    {"devices.preferredNetworkInterfaceMultiQueue", "domain.devices.networkInterfaceMultiqueue"},
    {"devices.preferredRng", "domain.devices.rng"},
    {"devices.preferredTPM", "domain.devices.tpm"},
    {"devices.preferredVideoType", "domain.devices.video.type"},
    {"features.preferredAcpi", "domain.features.acpi"},
    {"features.preferredApic", "domain.features.apic"},
    {"features.preferredKvm", "domain.features.kvm"},
    {"features.preferredPvspinlock", "domain.features.pvspinlock"},
    {"features.preferredSmm", "domain.features.smm"},
    {"machine.preferredMachineType", "domain.machine.type"},
    {"preferredSubdomain", "subdomain"},
    {"preferredTerminationGracePeriodSeconds", "terminationGracePeriodSeconds"},
    {"preferredArchitecture", "architecture"},
};

/* For each element of a list; `of`: the member that says what kind of element it is. */
static const struct {
    const char *from, *list, *of, *to;
} element_rows[] = {
    {"devices.preferredDiskBus", "domain.devices.disks", "disk", "disk.bus"},
    {"devices.preferredLunBus", "domain.devices.disks", "lun", "lun.bus"},
    {"devices.preferredCdromBus", "domain.devices.disks", "cdrom", "cdrom.bus"},
    {"devices.preferredDiskBlockSize", "domain.devices.disks", "disk", "blockSize"},
    {"devices.preferredDiskCache", "domain.devices.disks", "disk", "cache"},
    {"devices.preferredDiskIO", "domain.devices.disks", "disk", "io"},
    {"devices.preferredDiskDedicatedIoThread", "domain.devices.disks", "disk", "dedicatedIOThread"},
    {"devices.preferredInterfaceModel", "domain.devices.interfaces", NULL, "model"},
    {"devices.preferredInterfaceMasquerade", "domain.devices.interfaces", NULL, "masquerade"},
    {"devices.preferredInputBus", "domain.devices.inputs", NULL, "bus"},
    {"devices.preferredInputType", "domain.devices.inputs", NULL, "type"},
    {"devices.preferredPanicDeviceModel", "domain.devices.panicDevices", NULL, "model"},
};

static const char *text_at(const struct node *mapping, const char *path)
{
    const struct node *n = node_find(mapping, path);

    return n && n->kind == NODE_SCALAR ? n->text : "";
}

/* A disk that says nothing of its kind is a hard disk. */
static bool is_of(const struct node *element, const char *of)
{
    if (!of || node_get(element, of))
        return true;
    return streq(of, "disk") && !node_get(element, "lun") && !node_get(element, "cdrom");
}

static bool is_on_pod_network(const struct merge *m, const char *name)
{
    const struct node *networks = node_find(m->spec, "networks");

    if (networks && networks->kind == NODE_SEQUENCE)
        NODE_FOREACH(n, networks)
    if (n->kind == NODE_MAPPING && streq(text_at(n, "name"), name))
        return node_get(n, "pod");
    return false;
}

static bool has_binding(const struct node *interface)
{
    static const char *const bindings[] = {"bridge",  "masquerade", "slirp",        "sriov",
                                           "macvtap", "passt",      "passtBinding", "binding"};

    for (size_t i = 0; i < ELEMENTSOF(bindings); i++)
        if (node_get(interface, bindings[i]))
            return true;
    return false;
}

static bool wants(const struct merge *m, const char *to, const struct node *element)
{
    if (streq(to, "dedicatedIOThread"))
        return streq(text_at(element, "disk.bus"), "virtio");
    if (streq(to, "masquerade"))
        return !has_binding(element) && is_on_pod_network(m, text_at(element, "name"));
    return true;
}

static int apply_to_elements(struct merge *m)
{
    struct merge element = *m;
    struct node *list;
    int r = 0;

    for (size_t i = 0; i < ELEMENTSOF(element_rows) && r >= 0; i++) {
        const struct node *from = node_find(m->preference, element_rows[i].from);

        if (!from || from->kind == NODE_NULL || !node_find(m->spec, element_rows[i].list))
            continue;
        r = node_reach(m->arena, m->spec, "domain.devices", from, &list);
        if (r < 0)
            return r == -ENOTDIR ? 0 : r;
        list = node_child(list, strrchr(element_rows[i].list, '.') + 1);
        if (!list || list->kind != NODE_SEQUENCE)
            continue;
        for (struct node *n = list->first; n && r >= 0; n = n->next) {
            if (n->kind != NODE_MAPPING || !is_of(n, element_rows[i].of) || !wants(m, element_rows[i].to, n))
                continue;
            element.spec = n;
            r = put(&element, element_rows[i].to, from, node_copy(m->arena, from));
        }
    }
    return r;
}

static bool is_true(const struct node *mapping, const char *path)
{
    const struct node *n = node_find(mapping, path);
    bool b;

    return n && scalar_bool(n, &b) && b;
}

static int apply_firmware(struct merge *m)
{
    const struct node *firmware = node_find(m->preference, "firmware"), *efi, *n;
    const struct node *own = node_find(m->spec, "domain.firmware.bootloader");
    bool chosen = own && own->kind == NODE_MAPPING && (node_get(own, "bios") || node_get(own, "efi"));
    int r = 0;

    if (!firmware || firmware->kind != NODE_MAPPING)
        return 0;
    efi = node_get(firmware, "preferredEfi");
    if (!chosen && is_true(firmware, "preferredUseBios"))
        r = put(m, "domain.firmware.bootloader.bios", firmware, node_empty(m->arena, firmware, NODE_MAPPING));
    else if (!chosen && efi && efi->kind != NODE_NULL)
        return put(m, "domain.firmware.bootloader.efi", efi, node_copy(m->arena, efi));
    else if (!chosen && is_true(firmware, "preferredUseEfi"))
        r = put(m, "domain.firmware.bootloader.efi", firmware, node_empty(m->arena, firmware, NODE_MAPPING));
    n = node_get(firmware, "preferredUseBiosSerial");
    if (r >= 0 && n && node_find(m->spec, "domain.firmware.bootloader.bios"))
        r = put(m, "domain.firmware.bootloader.bios.useSerial", n, node_copy(m->arena, n));
    n = node_get(firmware, "preferredUseSecureBoot");
    if (r >= 0 && n && node_find(m->spec, "domain.firmware.bootloader.efi"))
        r = put(m, "domain.firmware.bootloader.efi.secureBoot", n, node_copy(m->arena, n));
    return r;
}

static int apply_cpu_features(struct merge *m)
{
    const struct node *preferred = node_find(m->preference, "cpu.preferredCPUFeatures");
    struct node *cpu, *list;
    int r;

    if (!preferred || preferred->kind != NODE_SEQUENCE)
        return 0;
    r = put(m, "domain.cpu.features", preferred, node_empty(m->arena, preferred, NODE_SEQUENCE));
    if (r >= 0)
        r = node_reach(m->arena, m->spec, "domain.cpu", preferred, &cpu);
    if (r < 0)
        return r == -ENOTDIR ? 0 : r;
    list = node_child(cpu, "features");
    if (list->kind != NODE_SEQUENCE)
        return 0;
    NODE_FOREACH(feature, preferred)
    {
        bool there = false;
        struct node *copy;

        NODE_FOREACH(own, list)
        there |= own->kind == NODE_MAPPING && streq(text_at(own, "name"), text_at(feature, "name"));
        copy = there ? NULL : node_copy(m->arena, feature);
        if (!there && !copy)
            return -ENOMEM;
        if (copy)
            node_add_element(list, copy);
    }
    return 0;
}

/* The members of `from`, each where the VM has none. */
static int apply_members(struct merge *m, const struct node *from, const char *to)
{
    char path[128];
    int r = 0;

    if (!from || from->kind != NODE_MAPPING)
        return 0;
    for (const struct node *n = from->first; n && r >= 0; n = n->next) {
        snprintf(path, sizeof(path), "%s.%.48s", to, n->key);
        r = put(m, path, n, node_copy(m->arena, n));
    }
    return r;
}

static int apply_devices(struct merge *m)
{
    const struct node *sound = node_find(m->preference, "devices.preferredSoundModel");
    const struct node *panic = node_find(m->preference, "devices.preferredPanicDeviceModel");
    int r = 0;

    if (sound && node_find(m->spec, "domain.devices.sound"))
        r = put(m, "domain.devices.sound.model", sound, node_copy(m->arena, sound));
    if (r >= 0 && panic && panic->kind != NODE_NULL && !node_find(m->spec, "domain.devices.panicDevices")) {
        struct node *list = node_empty(m->arena, panic, NODE_SEQUENCE);
        struct node *device = node_empty(m->arena, panic, NODE_MAPPING);

        if (!list || !device)
            return -ENOMEM;
        node_add_element(list, device); /* the model comes with the list's elements */
        r = put(m, "domain.devices.panicDevices", panic, list);
    }
    return r < 0 ? r : apply_to_elements(m);
}

static int apply_preference(struct merge *m)
{
    const struct node *own_clock = node_find(m->spec, "domain.clock");
    bool has_clock =
        own_clock && own_clock->kind == NODE_MAPPING && (node_get(own_clock, "utc") || node_get(own_clock, "timezone"));
    int r = 0;

    for (size_t i = 0; i < ELEMENTSOF(preference_rows) && r >= 0; i++) {
        const struct node *from = node_find(m->preference, preference_rows[i].from);

        if (from && from->kind != NODE_NULL)
            r = put(m, preference_rows[i].to, from, node_copy(m->arena, from));
    }
    if (r >= 0 && !has_clock)
        r = apply_members(m, node_find(m->preference, "clock.preferredClockOffset"), "domain.clock");
    if (r >= 0 && !is_true(m->spec, "domain.features.hypervPassthrough.enabled"))
        r = apply_members(m, node_find(m->preference, "features.preferredHyperv"), "domain.features.hyperv");
    if (r >= 0)
        r = apply_firmware(m);
    if (r >= 0)
        r = apply_cpu_features(m);
    if (r >= 0)
        r = apply_devices(m);
    return r < 0 ? r : put_annotations(m, node_find(m->preference, "annotations"), NULL);
}

/* ---- references ---- */

/* spec.instancetype and spec.preference. */
static const struct {
    const char *member, *kind, *cluster_kind, *annotation, *cluster_annotation;
} references[] = {
    {"instancetype", "VirtualMachineInstancetype", "VirtualMachineClusterInstancetype", "kubevirt.io/instancetype-name",
     "kubevirt.io/cluster-instancetype-name"},
    {"preference", "VirtualMachinePreference", "VirtualMachineClusterPreference", "kubevirt.io/preference-name",
     "kubevirt.io/cluster-preference-name"},
};

/* KubeVirt takes a kind in any case, singular or plural. */
static bool is_kind(const char *text, const char *kind)
{
    size_t n = strlen(kind);

    return strncasecmp(text, kind, n) == 0 && (text[n] == '\0' || strcasecmp(text + n, "s") == 0);
}

/* What spec.instancetype or spec.preference refers to; NULL without it, and with a fault when it is not in the file. */
static const struct shared_object *resolve(struct merge *m, const struct shared_object *objects, size_t n_objects,
                                           const struct node *vm_spec, size_t which, bool *ret_cluster)
{
    const struct node *reference = node_find(vm_spec, references[which].member), *name;
    const char *kind;

    if (!reference || reference->kind != NODE_MAPPING)
        return NULL;
    name = node_get(reference, "name");
    if (!name || name->kind != NODE_SCALAR || name->length == 0) {
        if (!node_get(reference, "inferFromVolume"))
            faults_add_member(m->faults, reference, "name", "is missing");
        else
            faults_add_member(m->faults, reference, "inferFromVolume",
                              "is answered in the cluster, by labels of the volume: give the name");
        return NULL;
    }
    kind = text_at(reference, "kind");
    *ret_cluster = !*kind || is_kind(kind, references[which].cluster_kind);
    if (!*ret_cluster && !is_kind(kind, references[which].kind)) {
        faults_add_member(m->faults, reference, "kind", "\"%.64s\" is not known (%s or %s)", kind,
                          references[which].kind, references[which].cluster_kind);
        return NULL;
    }
    kind = *ret_cluster ? references[which].cluster_kind : references[which].kind;
    for (size_t i = 0; i < n_objects; i++)
        if (streq(objects[i].kind, kind) && streq(text_at(objects[i].node, "metadata.name"), name->text))
            return &objects[i];
    faults_add(
        m->faults, name,
        "there is no %s \"%.64s\" beside the VM (put it into the same file, after a line `---`, or give the VM as "
        "`virtctl expand` prints it)",
        kind, name->text);
    return NULL;
}

/* The VMI says by annotations what it was made from; cloud-init's metadata has the name too. */
static int note_name(struct merge *m, const struct shared_object *object, size_t which, bool cluster)
{
    const char *key = cluster ? references[which].cluster_annotation : references[which].annotation;
    const struct node *name = node_find(object->node, "metadata.name");
    struct node *annotations, *copy;
    int r = node_reach(m->arena, m->instance, "metadata.annotations", name, &annotations);

    if (r < 0)
        return r == -ENOTDIR ? 0 : r;
    copy = node_copy(m->arena, name);
    if (!copy)
        return -ENOMEM;
    if (!node_child(annotations, key))
        node_put(annotations, key, copy);
    return 0;
}

int instancetype_apply(struct arena *arena, struct faults *faults, const struct shared_object *objects,
                       size_t n_objects, bool valid, struct node *vm_spec, const struct shared_object **ret_preference)
{
    struct merge m = {.arena = arena, .faults = faults, .instance = node_child(vm_spec, "template")};
    size_t before = faults->count + faults->dropped;
    const struct shared_object *type, *preference;
    bool cluster[2] = {false, false};
    int r = 0;

    *ret_preference = NULL;
    m.spec = node_child(m.instance, "spec");
    type = resolve(&m, objects, n_objects, vm_spec, 0, &cluster[0]);
    preference = resolve(&m, objects, n_objects, vm_spec, 1, &cluster[1]);
    if (!valid || faults->count + faults->dropped > before || !m.spec || m.spec->kind != NODE_MAPPING)
        return 0;
    m.type = type ? node_find(type->node, "spec") : NULL;
    m.preference = preference ? node_find(preference->node, "spec") : NULL;
    if (type) {
        m.type_name = text_at(type->node, "metadata.name");
        r = apply_type(&m, &type->type, preference ? &preference->preference : NULL);
        if (r >= 0)
            r = note_name(&m, type, 0, cluster[0]);
    }
    if (r >= 0 && preference) {
        r = m.preference ? apply_preference(&m) : 0;
        if (r >= 0)
            r = note_name(&m, preference, 1, cluster[1]);
    }
    *ret_preference = preference;
    return r;
}

void instancetype_check_requirements(const struct vmi *vmi, struct faults *faults,
                                     const struct shared_object *preference)
{
    const struct preference_requirements *wanted = &preference->preference.requirements;
    int64_t vcpus = opt_int_or(wanted->cpu.guest, 0);

    if (vcpus > vmi_vcpus(vmi))
        faults_add_member(faults, wanted->cpu.at, "guest", "the preference wants %" PRId64 " vCPUs, the VM has %u",
                          vcpus, vmi_vcpus(vmi));
    if (wanted->memory.guest.is_set && vmi->spec.domain.memory.guest.is_set &&
        wanted->memory.guest.value > vmi->spec.domain.memory.guest.value)
        faults_add_member(faults, wanted->memory.at, "guest",
                          "the preference wants \"%s\" of memory, the VM has \"%s\"", wanted->memory.guest.text,
                          vmi->spec.domain.memory.guest.text);
    if (wanted->architecture && !streq_ptr(wanted->architecture, vmi->spec.architecture))
        faults_add_member(faults, wanted->at, "architecture", "the preference wants \"%s\", the VM is for \"%s\"",
                          wanted->architecture, vmi->spec.architecture ?: "amd64");
}
