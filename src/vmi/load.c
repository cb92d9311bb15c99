/* SPDX-License-Identifier: Apache-2.0 */
/* From a file to one VMI: which object of the file it is, presets, decoding, defaults, validation. */
#include <stdio.h>
#include <strings.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/nearest.h"
#include "base/strbuf.h"
#include "vmi/private.h"

enum kind {
    KIND_VM,
    KIND_VMI,
    KIND_REPLICA_SET,
    KIND_POOL,
    KIND_PRESET,
};

static const struct {
    const char *name;
    const struct table *table;
} kinds[] = {
    [KIND_VM] = {"VirtualMachine", &table_vm},
    [KIND_VMI] = {"VirtualMachineInstance", &table_vmi},
    [KIND_REPLICA_SET] = {"VirtualMachineInstanceReplicaSet", &table_replica_set},
    [KIND_POOL] = {"VirtualMachinePool", &table_pool},
    [KIND_PRESET] = {"VirtualMachineInstancePreset", &table_preset},
};

static const char *const versions[] = {"kubevirt.io/v1", "kubevirt.io/v1alpha3", "kubevirt.io/v1alpha2"};
#define OLD_VERSION "kubevirt.io/v1alpha2"

#define POOL_GROUP "pool.kubevirt.io/"

/* The group's other kinds: they may stand in the same file, and are no misspelt ones. */
static const char *const other_kinds[] = {"VirtualMachineInstanceMigration", "VirtualMachineInstanceMigrationList",
                                          "KubeVirt", "KubeVirtList"};

#define ACCEPTED "VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceReplicaSet or VirtualMachinePool"

/* What to do with a file that holds only this. */
static const struct {
    const char *kind, *advice;
} advices[] = {
    {"Template", "a Template is processed first: `oc process -f FILE -p NAME=…`"},
    {"VirtualMachineInstancetype", "an instance type is what a VM refers to: give the VM"},
    {"VirtualMachineClusterInstancetype", "an instance type is what a VM refers to: give the VM"},
    {"VirtualMachinePreference", "a preference is what a VM refers to: give the VM"},
    {"VirtualMachineClusterPreference", "a preference is what a VM refers to: give the VM"},
    {"DataVolume", "a DataVolume is a disk of a VM: give the VM"},
    {"VirtualMachineInstanceMigration", "a migration names the VM that it moves: give that"},
};

/* Objects of the file that matter here. */
struct objects {
    struct arena *arena;
    struct faults *faults;
    struct node **machines;
    enum kind *machine_kinds;
    size_t n_machines;
    struct node **presets;
    size_t n_presets;
    size_t allocated;
    struct strbuf others; /* kinds that were left out: "Service, Secret" */
};

static const char *text_of(const struct node *mapping, const char *key)
{
    const struct node *n = mapping ? node_get(mapping, key) : NULL;

    return n && n->kind == NODE_SCALAR && n->length > 0 ? n->text : NULL;
}

static const char *name_of(const struct node *object)
{
    const struct node *metadata = node_get(object, "metadata");

    return text_of(metadata, "name") ?: text_of(metadata, "generateName");
}

static const char *const short_names[] = {[KIND_VM] = "vm",
                                          [KIND_VMI] = "vmi",
                                          [KIND_REPLICA_SET] = "vmirs",
                                          [KIND_POOL] = "vmpool",
                                          [KIND_PRESET] = "vmipreset"};

/* "virtualmachine", "VirtualMachines", "vm" and the like: an object that was meant for us. */
static int nearest_kind(const char *kind)
{
    const char *names[ELEMENTSOF(kinds)], *near;

    for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
        names[i] = kinds[i].name;
        if (strcasecmp(kind, short_names[i]) == 0)
            return (int)i;
    }
    near = nearest_of(kind, names, ELEMENTSOF(names));
    for (size_t i = 0; near && i < ELEMENTSOF(kinds); i++)
        if (near == names[i])
            return (int)i;
    return -1;
}

/* False for KubeVirt's kinds in a version that is none; the fault is added. */
static bool check_version(struct objects *o, const struct node *object, enum kind kind)
{
    const char *version = text_of(object, "apiVersion");

    if (!version) {
        faults_add_member(o->faults, object, "apiVersion", "is missing (kubevirt.io/v1)");
        return false;
    }
    if (kind == KIND_POOL) { /* of a group of its own */
        if (streq(version, POOL_GROUP "v1alpha1") || streq(version, POOL_GROUP "v1beta1"))
            return true;
        faults_add_member(o->faults, object, "apiVersion", "\"%.48s\" is not known (%s or %s)", version,
                          POOL_GROUP "v1beta1", POOL_GROUP "v1alpha1");
        return false;
    }
    for (size_t i = 0; i < ELEMENTSOF(versions); i++)
        if (streq(version, versions[i]))
            return true;
    faults_add_member(o->faults, object, "apiVersion",
                      "\"%.48s\" is not known (kubevirt.io/v1, kubevirt.io/v1alpha3 or kubevirt.io/v1alpha2)", version);
    return false;
}

static void note_other(struct objects *o, const char *kind)
{
    if (o->others.length < 512)
        strbuf_printf(&o->others, "%s%.64s", o->others.length > 0 ? ", " : "", kind);
}

static int collect(struct objects *o, struct node *object, unsigned depth);

static int collect_list(struct objects *o, const struct node *list, unsigned depth)
{
    const struct node *items = node_get(list, "items");

    if (!items || items->kind != NODE_SEQUENCE) {
        faults_add_member(o->faults, list, "items", "must be a list of objects");
        return 0;
    }
    for (struct node *n = items->first; n; n = n->next) {
        int r = collect(o, n, depth + 1);

        if (r < 0)
            return r;
    }
    return 0;
}

static int add_object(struct objects *o, struct node *object, enum kind kind)
{
    if (o->n_machines + o->n_presets == o->allocated) {
        size_t n = MAX(16U, 2 * o->allocated);
        struct node **machines = arena_new_array(o->arena, struct node *, n);
        struct node **presets = arena_new_array(o->arena, struct node *, n);
        enum kind *machine_kinds = arena_new_array(o->arena, enum kind, n);

        if (!machines || !presets || !machine_kinds)
            return -ENOMEM;
        if (o->allocated > 0) {
            memcpy(machines, o->machines, o->n_machines * sizeof(struct node *));
            memcpy(presets, o->presets, o->n_presets * sizeof(struct node *));
            memcpy(machine_kinds, o->machine_kinds, o->n_machines * sizeof(enum kind));
        }
        o->machines = machines;
        o->presets = presets;
        o->machine_kinds = machine_kinds;
        o->allocated = n;
    }
    if (kind == KIND_PRESET) {
        o->presets[o->n_presets++] = object;
    } else {
        o->machine_kinds[o->n_machines] = kind;
        o->machines[o->n_machines++] = object;
    }
    return 0;
}

static int collect(struct objects *o, struct node *object, unsigned depth)
{
    const char *kind, *version;
    int near;

    if (object->kind != NODE_MAPPING) {
        faults_add(o->faults, object, "must be a Kubernetes object, with apiVersion, kind, metadata and spec");
        return 0;
    }
    kind = text_of(object, "kind");
    version = text_of(object, "apiVersion");
    if (!kind) {
        faults_add_member(o->faults, object, "kind", "is missing (" ACCEPTED ")");
        return 0;
    }
    if (depth == 0 &&
        (streq(kind, "List") || streq(kind, "VirtualMachineList") || streq(kind, "VirtualMachineInstanceList") ||
         streq(kind, "VirtualMachineInstanceReplicaSetList") || streq(kind, "VirtualMachinePoolList")))
        return collect_list(o, object, depth);
    for (size_t i = 0; i < ELEMENTSOF(kinds); i++)
        if (streq(kind, kinds[i].name)) {
            /* a VirtualMachine of another group (there are several) is none of ours */
            if (version && !startswith(version, "kubevirt.io/") && !startswith(version, POOL_GROUP) &&
                strchr(version, '/') && !startswith(version, "kubevirt")) {
                strbuf_printf(&o->others, "%s%.64s of %.64s", o->others.length > 0 ? ", " : "", kind, version);
                return 0;
            }
            return check_version(o, object, (enum kind)i) ? add_object(o, object, (enum kind)i) : 0;
        }
    near = version && startswith(version, "kubevirt.io/") ? nearest_kind(kind) : -1;
    for (size_t i = 0; i < ELEMENTSOF(other_kinds); i++)
        if (streq(kind, other_kinds[i]))
            near = -1;
    if (near >= 0)
        faults_add_member(o->faults, object, "kind", "\"%.48s\" is not known: did you mean %s?", kind,
                          kinds[near].name);
    else
        note_other(o, kind);
    return 0;
}

/* What the first kind of the others is for; NULL when there is nothing to say. */
static const char *advice_for(const struct objects *o)
{
    size_t n = strcspn(strbuf_text(&o->others), ",");

    for (size_t i = 0; i < ELEMENTSOF(advices); i++)
        if (strlen(advices[i].kind) == n && strncmp(advices[i].kind, strbuf_text(&o->others), n) == 0)
            return advices[i].advice;
    return NULL;
}

/* NAME, or KIND/NAME with a kind as kubectl takes it: a VM and its VMI have the same name. */
static bool is_wanted(const struct objects *o, size_t index, const char *wanted)
{
    const char *name = name_of(o->machines[index]) ?: "(without name)", *slash = strchr(wanted, '/');
    char kind[64];

    if (!slash)
        return streq(name, wanted);
    snprintf(kind, sizeof(kind), "%.*s", (int)MIN(slash - wanted, 63), wanted);
    return streq(name, slash + 1) && (strcasecmp(kind, kinds[o->machine_kinds[index]].name) == 0 ||
                                      strcasecmp(kind, short_names[o->machine_kinds[index]]) == 0);
}

/* Which machine of the file is meant: its index, or -EINVAL with a fault. */
static int choose(struct objects *o, const struct vmi_load_options *options)
{
    const char *wanted = options ? options->name : NULL;
    _cleanup_(strbuf_done) struct strbuf names = {0};
    int found = -1, matches = 0;

    for (size_t i = 0; i < o->n_machines; i++) {
        const char *name = name_of(o->machines[i]) ?: "(without name)";

        if (!wanted || is_wanted(o, i, wanted)) {
            found = (int)i;
            matches++;
        }
        if (names.length < 1024)
            strbuf_printf(&names, "%s%s/%.64s", i > 0 ? ", " : "", short_names[o->machine_kinds[i]], name);
    }
    if (matches == 1)
        return found;
    if (o->n_machines == 0) {
        if (o->faults->count > 0)
            return -EINVAL;
        const char *advice = advice_for(o);

        if (o->n_presets == 0 && o->others.length == 0)
            faults_add(o->faults, NULL, "has no object at all (give a " ACCEPTED ")");
        else
            faults_add(o->faults, NULL, "has no VM, only %s%s%s (give a " ACCEPTED "%s%s)",
                       o->n_presets > 0 ? "presets" : "", o->n_presets > 0 && o->others.length > 0 ? ", " : "",
                       strbuf_text(&o->others), advice ? "; " : "", advice ? advice : "");
    } else if (matches == 0) {
        faults_add(o->faults, NULL, "has no VM named \"%.64s\" (it has %s)", wanted, strbuf_text(&names));
    } else if (wanted) {
        faults_add(o->faults, NULL, "has %d VMs named \"%.64s\": choose one by --name KIND/NAME (%s)", matches, wanted,
                   strbuf_text(&names));
    } else {
        faults_add(o->faults, NULL, "has several VMs: choose one by --name (%s)", strbuf_text(&names));
    }
    return -EINVAL;
}

static bool same_version(const struct node *object, const char *version)
{
    const char *text = text_of(object, "apiVersion");

    return text && streq(text, version);
}

static struct node *get_mutable(struct node *mapping, const char *key)
{
    for (struct node *n = mapping && mapping->kind == NODE_MAPPING ? mapping->first : NULL; n; n = n->next)
        if (streq(n->key, key))
            return n;
    return NULL;
}

/* The presets themselves are decoded, so that what is wrong in one is said at its place. */
static bool check_presets(struct objects *o, struct decoder *d)
{
    size_t before = o->faults->count + o->faults->dropped;

    d->root = &table_preset;
    for (size_t i = 0; i < o->n_presets; i++) {
        struct preset_object preset = {0};

        d->old_names = same_version(o->presets[i], OLD_VERSION);
        decode_object(d, &table_preset, o->presets[i], &preset);
    }
    return o->faults->count + o->faults->dropped == before;
}

static int apply_presets(struct objects *o, struct node *object, enum kind kind)
{
    struct node *instance = object;

    if (kind == KIND_POOL)
        instance = get_mutable(get_mutable(object, "spec"), "virtualMachineTemplate");
    if (kind != KIND_VMI)
        instance = get_mutable(get_mutable(instance, "spec"), "template");
    return presets_apply(o->arena, o->faults, o->presets, o->n_presets,
                         node_get(instance ? node_get(instance, "metadata") : NULL, "labels"),
                         get_mutable(instance, "spec"));
}

static void take_metadata(struct vmi *vmi, const struct object_metadata *object, const struct object_metadata *instance)
{
    vmi->name = object->name;
    vmi->namespace_ = object->namespace_;
    vmi->uid = object->uid;
    memcpy(&vmi->labels, &instance->labels, sizeof(vmi->labels));
    memcpy(&vmi->annotations, &instance->annotations, sizeof(vmi->annotations));
}

/* generateName: what the API server would complete is left as it is, without the dash. */
static int name_machine(struct vmi *vmi, const struct object_metadata *metadata, struct faults *faults)
{
    size_t n;

    if (vmi->name)
        return 0;
    if (!metadata->generate_name) {
        if (!metadata->at)
            faults_add_member(faults, vmi->at, "metadata", "is missing (it has the name)");
        else if (!node_get(metadata->at, "name") || node_get(metadata->at, "name")->kind == NODE_NULL)
            faults_add_member(faults, metadata->at, "name", "is missing");
        else if (node_get(metadata->at, "name")->length == 0)
            faults_add_member(faults, metadata->at, "name", "must not be empty");
        return 0;
    }
    n = strlen(metadata->generate_name);
    while (n > 1 && strchr("-.", metadata->generate_name[n - 1]))
        n--;
    vmi->name = arena_strndup(vmi->arena, metadata->generate_name, n);
    if (!vmi->name)
        return -ENOMEM;
    if (!format_dns_subdomain.matches(vmi->name))
        faults_add_member(faults, metadata->at, "generateName", "\"%.48s\" %s", metadata->generate_name,
                          format_dns_subdomain.allowed);
    return 0;
}

/* A DataVolume template that no volume names is refused by KubeVirt too (vms-admitter.go). */
static void check_data_volume_templates(const struct vm_spec *spec, struct faults *faults)
{
    if (!spec->data_volume_templates)
        return;
    NODE_FOREACH(template, spec->data_volume_templates)
    {
        const struct node *metadata = node_get(template, "metadata");
        const char *name = text_of(metadata, "name");
        bool used = false;

        if (template->kind != NODE_MAPPING) {
            faults_add(faults, template, "must be an object");
            continue;
        }
        if (!name) {
            faults_add_member(faults, metadata && metadata->kind == NODE_MAPPING ? metadata : template,
                              metadata && metadata->kind == NODE_MAPPING ? "name" : "metadata", "is missing");
            continue;
        }
        for (size_t i = 0; i < spec->template.spec.volumes.count; i++) {
            const struct vmi_volume *v = &spec->template.spec.volumes.items[i];

            used |= v->data_volume && streq_ptr(v->data_volume->claim_name, name);
            used |= v->persistent_volume_claim && streq_ptr(v->persistent_volume_claim->claim_name, name);
        }
        if (!used)
            faults_add_member(faults, metadata, "name", "\"%.64s\" is used by no volume of the template", name);
    }
}

static void take_vm_spec(struct decoder *d, struct vmi *vmi, const struct vm_spec *spec)
{
    vmi->running = spec->running;
    vmi->run_strategy = spec->run_strategy;
    vmi->spec = spec->template.spec;
    /* without either, KubeVirt's schema would refuse it; halted is what it then means */
    if (vmi->running != OPT_UNSET && vmi->run_strategy)
        faults_add_member(d->faults, spec->at, "running", "excludes runStrategy: give only one of them");
    check_data_volume_templates(spec, d->faults);
}

static void decode_vm(struct decoder *d, struct vmi *vmi, const struct node *object, struct object_metadata *metadata)
{
    struct vm_object vm = {0};

    decode_object(d, &table_vm, object, &vm);
    take_vm_spec(d, vmi, &vm.spec);
    take_metadata(vmi, &vm.metadata, &vm.spec.template.metadata);
    *metadata = vm.metadata;
}

static void decode_pool(struct decoder *d, struct vmi *vmi, const struct node *object, struct object_metadata *metadata)
{
    struct pool_object o = {0};

    decode_object(d, &table_pool, object, &o);
    take_vm_spec(d, vmi, &o.spec.template.spec);
    take_metadata(vmi, &o.metadata, &o.spec.template.spec.template.metadata);
    vmi->uid = NULL; /* that of the pool */
    *metadata = o.metadata;
}

static void decode_vmi(struct decoder *d, struct vmi *vmi, const struct node *object, struct object_metadata *metadata)
{
    struct vmi_object o = {0};

    decode_object(d, &table_vmi, object, &o);
    vmi->spec = o.spec;
    take_metadata(vmi, &o.metadata, &o.metadata);
    *metadata = o.metadata;
}

static void decode_set(struct decoder *d, struct vmi *vmi, const struct node *object, struct object_metadata *metadata)
{
    struct replica_set_object o = {0};

    decode_object(d, &table_replica_set, object, &o);
    vmi->spec = o.spec.template.spec;
    take_metadata(vmi, &o.metadata, &o.spec.template.metadata);
    vmi->uid = NULL; /* that of the set */
    *metadata = o.metadata;
}

static void (*const decoders[])(struct decoder *, struct vmi *, const struct node *, struct object_metadata *) = {
    [KIND_VM] = decode_vm, [KIND_VMI] = decode_vmi, [KIND_REPLICA_SET] = decode_set, [KIND_POOL] = decode_pool};

static int decode(struct objects *o, struct vmi *vmi, struct node *object, enum kind kind)
{
    struct decoder d = {.arena = o->arena, .faults = o->faults};
    struct object_metadata metadata = {0};
    int r;

    if (check_presets(o, &d)) {
        r = apply_presets(o, object, kind);
        if (r == -ENOMEM)
            return r;
    }
    d.root = kinds[kind].table;
    d.old_names = same_version(object, OLD_VERSION);
    vmi->at = object;
    vmi->kind = kinds[kind].name;
    vmi->api_version = text_of(object, "apiVersion");
    decoders[kind](&d, vmi, object, &metadata);
    r = name_machine(vmi, &metadata, o->faults);
    return d.out_of_memory ? -ENOMEM : r;
}

/* 0, -EINVAL when faults were added, or another negative errno. */
static int load(struct vmi *vmi, const char *text, size_t length, const struct vmi_load_options *options,
                struct faults *faults, struct error **ret_error)
{
    struct objects o = {.arena = vmi->arena, .faults = faults};
    struct document_list documents;
    int r = node_parse(vmi->arena, vmi->source, text, length, &documents, faults, ret_error), chosen;

    if (r < 0)
        return r;
    for (size_t i = 0; i < documents.count && r >= 0; i++)
        r = collect(&o, documents.items[i], 0);
    chosen = r < 0 ? r : choose(&o, options);
    strbuf_done(&o.others);
    if (chosen >= 0)
        r = decode(&o, vmi, o.machines[chosen], o.machine_kinds[chosen]);
    else if (chosen == -EINVAL)
        r = 0;
    if (r >= 0 && chosen >= 0) {
        r = vmi_set_defaults(vmi, options);
        if (r >= 0)
            vmi_validate(vmi, faults);
    }
    if (r == -ENOMEM)
        return error_oom(ret_error);
    if (r < 0)
        return error_errno(ret_error, r, "cannot make a random UUID");
    if (faults->count + faults->dropped > 0)
        return error_set(ret_error, ERROR_BAD_MANIFEST, EINVAL, "%s has %zu fault%s", vmi->source,
                         faults->count + faults->dropped, faults->count + faults->dropped == 1 ? "" : "s");
    return 0;
}

int vmi_load_text(const char *text, size_t length, const char *source, const struct vmi_load_options *options,
                  struct vmi **ret, struct faults *faults, struct error **ret_error)
{
    struct arena *arena = arena_new();
    struct vmi *vmi = arena ? arena_alloc(arena, sizeof(*vmi)) : NULL;
    int r;

    if (vmi) {
        vmi->arena = arena;
        vmi->source = arena_strdup(arena, source);
    }
    if (!vmi || !vmi->source) {
        arena_free(arena);
        return error_oom(ret_error);
    }
    r = load(vmi, text, length, options, faults, ret_error);
    faults->source = source; /* not the copy, which may be gone */
    if (r < 0) {
        arena_free(arena);
        return r;
    }
    *ret = vmi;
    return 0;
}

int vmi_load_file(const char *path, const struct vmi_load_options *options, struct vmi **ret, struct faults *faults,
                  struct error **ret_error)
{
    bool is_stdin = streq(path, "-");
    const char *source = is_stdin ? "<stdin>" : path;
    _cleanup_free_ char *text = NULL;
    size_t length;
    int r = is_stdin ? fd_read_all(STDIN_FILENO, LIMIT_MANIFEST_BYTES, &text, &length)
                     : file_read(path, LIMIT_MANIFEST_BYTES, &text, &length, ret_error);

    if (r == -EFBIG) {
        faults->source = source;
        faults_add(faults, NULL, "is too large for a manifest (at most %u bytes)", LIMIT_MANIFEST_BYTES);
        return error_set(ret_error, ERROR_BAD_MANIFEST, EINVAL, "%s has 1 fault", source);
    }
    if (r < 0 && is_stdin)
        return error_errno(ret_error, r, "cannot read standard input");
    if (r < 0)
        return r;
    return vmi_load_text(text, length, source, options, ret, faults, ret_error);
}

void vmi_free(struct vmi *vmi)
{
    if (vmi)
        arena_free(vmi->arena);
}
