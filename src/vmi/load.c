/* SPDX-License-Identifier: Apache-2.0 */
/* From a file to one VMI: which object of the file it is, presets, decoding, defaults, validation. */
#include <stdio.h>
#include <strings.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/nearest.h"
#include "base/strbuf.h"
#include "vmi/merge.h"
#include "vmi/private.h"

enum kind {
    KIND_VM,
    KIND_VMI,
    KIND_REPLICA_SET,
    KIND_POOL,
    KIND_PRESET, /* from here: what only changes a VM of the same file */
    KIND_INSTANCETYPE,
    KIND_CLUSTER_INSTANCETYPE,
    KIND_PREFERENCE,
    KIND_CLUSTER_PREFERENCE,
};

static const char *const kubevirt_versions[] = {"kubevirt.io/v1", "kubevirt.io/v1alpha3", "kubevirt.io/v1alpha2", NULL};
#define OLD_VERSION "kubevirt.io/v1alpha2"
static const char *const pool_versions[] = {"pool.kubevirt.io/v1beta1", "pool.kubevirt.io/v1alpha1", NULL};
static const char *const type_versions[] = {"instancetype.kubevirt.io/v1", "instancetype.kubevirt.io/v1beta1",
                                            "instancetype.kubevirt.io/v1alpha2", NULL};

static const struct {
    const char *name, *short_name;
    const struct table *table;
    const char *const *versions;
} kinds[] = {
    [KIND_VM] = {"VirtualMachine", "vm", &table_vm, kubevirt_versions},
    [KIND_VMI] = {"VirtualMachineInstance", "vmi", &table_vmi, kubevirt_versions},
    [KIND_REPLICA_SET] = {"VirtualMachineInstanceReplicaSet", "vmirs", &table_replica_set, kubevirt_versions},
    [KIND_POOL] = {"VirtualMachinePool", "vmpool", &table_pool, pool_versions},
    [KIND_PRESET] = {"VirtualMachineInstancePreset", "vmipreset", &table_preset, kubevirt_versions},
    [KIND_INSTANCETYPE] = {"VirtualMachineInstancetype", "vminstancetype", &table_instancetype, type_versions},
    [KIND_CLUSTER_INSTANCETYPE] = {"VirtualMachineClusterInstancetype", "vmclusterinstancetype",
                                   &table_cluster_instancetype, type_versions},
    [KIND_PREFERENCE] = {"VirtualMachinePreference", "vmpref", &table_preference, type_versions},
    [KIND_CLUSTER_PREFERENCE] = {"VirtualMachineClusterPreference", "vmcp", &table_cluster_preference, type_versions},
};

#define POOL_GROUP "pool.kubevirt.io/"
#define TYPE_GROUP "instancetype.kubevirt.io/"

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
    struct object {
        struct node *node;
        enum kind kind;
    } * items;
    size_t count, allocated;
    size_t n_machines;
    const struct shared_object *preference; /* that was applied */
    struct strbuf others;                   /* kinds that were left out: "Service, Secret" */
};

static bool is_machine(const struct object *object)
{
    return object->kind < KIND_PRESET;
}

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

/* "virtualmachine", "VirtualMachines", "vm" and the like: an object that was meant for us. */
static int nearest_kind(const char *kind)
{
    const char *names[ELEMENTSOF(kinds)], *near;

    for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
        names[i] = kinds[i].name;
        if (strcasecmp(kind, kinds[i].short_name) == 0)
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
    _cleanup_(strbuf_done) struct strbuf known = {0};

    if (!version) {
        faults_add_member(o->faults, object, "apiVersion", "is missing (%s)", kinds[kind].versions[0]);
        return false;
    }
    for (const char *const *v = kinds[kind].versions; *v; v++) {
        if (streq(version, *v))
            return true;
        strbuf_printf(&known, "%s%s", v == kinds[kind].versions ? "" : v[1] ? ", " : " or ", *v);
    }
    faults_add_member(o->faults, object, "apiVersion", "\"%.48s\" is not known (%s)", version, strbuf_text(&known));
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
    if (o->count == o->allocated) {
        size_t n = MAX(16U, 2 * o->allocated);
        struct object *items = arena_new_array(o->arena, struct object, n);

        if (!items)
            return -ENOMEM;
        if (o->count > 0)
            memcpy(items, o->items, o->count * sizeof(*items));
        o->items = items;
        o->allocated = n;
    }
    o->items[o->count] = (struct object){object, kind};
    if (is_machine(&o->items[o->count++]))
        o->n_machines++;
    else
        note_other(o, kinds[kind].name);
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
         streq(kind, "VirtualMachineInstanceReplicaSetList") || streq(kind, "VirtualMachinePoolList") ||
         streq(kind, "VirtualMachineInstancetypeList") || streq(kind, "VirtualMachineClusterInstancetypeList") ||
         streq(kind, "VirtualMachinePreferenceList") || streq(kind, "VirtualMachineClusterPreferenceList")))
        return collect_list(o, object, depth);
    for (size_t i = 0; i < ELEMENTSOF(kinds); i++)
        if (streq(kind, kinds[i].name)) {
            /* a VirtualMachine of another group (there are several) is none of ours */
            if (version && strchr(version, '/') && !startswith(version, "kubevirt") &&
                !startswith(version, POOL_GROUP) && !startswith(version, TYPE_GROUP)) {
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
    const struct object *object = &o->items[index];
    const char *name = name_of(object->node) ?: "(without name)", *slash = strchr(wanted, '/');
    char kind[64];

    if (!slash)
        return streq(name, wanted);
    snprintf(kind, sizeof(kind), "%.*s", (int)MIN(slash - wanted, 63), wanted);
    return streq(name, slash + 1) &&
           (strcasecmp(kind, kinds[object->kind].name) == 0 || strcasecmp(kind, kinds[object->kind].short_name) == 0);
}

/* Which machine of the file is meant: its index, or -EINVAL with a fault. */
static int choose(struct objects *o, const struct vmi_load_options *options)
{
    const char *wanted = options ? options->name : NULL;
    _cleanup_(strbuf_done) struct strbuf names = {0};
    int found = -1, matches = 0;

    for (size_t i = 0; i < o->count; i++) {
        const char *name = name_of(o->items[i].node) ?: "(without name)";

        if (!is_machine(&o->items[i]))
            continue;
        if (!wanted || is_wanted(o, i, wanted)) {
            found = (int)i;
            matches++;
        }
        if (names.length < 1024)
            strbuf_printf(&names, "%s%s/%.64s", names.length > 0 ? ", " : "", kinds[o->items[i].kind].short_name, name);
    }
    if (matches == 1)
        return found;
    if (o->n_machines == 0) {
        if (o->faults->count > 0)
            return -EINVAL;
        const char *advice = advice_for(o);

        if (o->others.length == 0)
            faults_add(o->faults, NULL, "has no object at all (give a " ACCEPTED ")");
        else
            faults_add(o->faults, NULL, "has no VM, only %s (give a " ACCEPTED "%s%s)", strbuf_text(&o->others),
                       advice ? "; " : "", advice ? advice : "");
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

/* The template of a VM and the like; the object itself when it is a VMI. */
static struct node *instance_of(struct node *object, enum kind kind)
{
    if (kind == KIND_POOL)
        object = node_child(node_child(object, "spec"), "virtualMachineTemplate");
    return kind == KIND_VMI ? object : node_child(node_child(object, "spec"), "template");
}

/* The presets themselves are decoded, so that what is wrong in one is said at its place. */
static int apply_presets(struct objects *o, struct decoder *d, struct node *instance)
{
    size_t before = o->faults->count + o->faults->dropped, n = 0;
    struct node **presets = arena_new_array(o->arena, struct node *, o->count);

    if (!presets)
        return -ENOMEM;
    d->root = &table_preset;
    for (size_t i = 0; i < o->count; i++) {
        struct preset_object preset = {0};

        if (o->items[i].kind != KIND_PRESET)
            continue;
        d->old_names = same_version(o->items[i].node, OLD_VERSION);
        decode_object(d, &table_preset, o->items[i].node, &preset);
        presets[n++] = o->items[i].node;
    }
    if (n == 0 || o->faults->count + o->faults->dropped > before)
        return 0;
    return presets_apply(o->arena, o->faults, presets, n,
                         node_get(instance ? node_get(instance, "metadata") : NULL, "labels"),
                         node_child(instance, "spec"));
}

/* Instance types and preferences, likewise: only those of a VM that refers to some are looked at. */
static int apply_instancetype(struct objects *o, struct decoder *d, struct node *vm_spec)
{
    struct shared_object *shared = arena_new_array(o->arena, struct shared_object, o->count);
    size_t before = o->faults->count + o->faults->dropped, n = 0;

    if (!shared)
        return -ENOMEM;
    d->old_names = false;
    for (size_t i = 0; i < o->count; i++) {
        const struct object *item = &o->items[i];
        struct instancetype_object type = {0};
        struct preference_object preference = {0};
        bool is_type = item->kind == KIND_INSTANCETYPE || item->kind == KIND_CLUSTER_INSTANCETYPE;

        if (item->kind <= KIND_PRESET)
            continue;
        d->root = kinds[item->kind].table;
        decode_object(d, d->root, item->node, is_type ? (void *)&type : &preference);
        shared[n++] = (struct shared_object){kinds[item->kind].name, item->node, type.spec, preference.spec};
    }
    return instancetype_apply(o->arena, o->faults, shared, n, o->faults->count + o->faults->dropped == before, vm_spec,
                              &o->preference);
}

static int apply_others(struct objects *o, struct decoder *d, struct node *object, enum kind kind)
{
    struct node *instance = instance_of(object, kind), *vm_spec;
    int r = apply_presets(o, d, instance);

    if (r < 0 || (kind != KIND_VM && kind != KIND_POOL))
        return r;
    vm_spec = node_child(object, "spec");
    if (kind == KIND_POOL)
        vm_spec = node_child(node_child(vm_spec, "virtualMachineTemplate"), "spec");
    return vm_spec ? apply_instancetype(o, d, vm_spec) : 0;
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

    r = apply_others(o, &d, object, kind);
    if (r == -ENOMEM)
        return r;
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
        r = decode(&o, vmi, o.items[chosen].node, o.items[chosen].kind);
    else if (chosen == -EINVAL)
        r = 0;
    if (r >= 0 && chosen >= 0) {
        r = vmi_set_defaults(vmi, options);
        if (r >= 0)
            vmi_validate(vmi, faults);
        if (r >= 0 && o.preference)
            instancetype_check_requirements(vmi, faults, o.preference);
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

json_t *vmi_manifest(const struct vmi *vmi)
{
    json_t *manifest = node_to_json(vmi->at), *spec = json_object_get(manifest, "spec");

    if (streq(vmi->kind, kinds[KIND_POOL].name))
        spec = json_object_get(json_object_get(spec, "virtualMachineTemplate"), "spec");
    json_object_del(spec, "instancetype");
    json_object_del(spec, "preference");
    return manifest;
}

void vmi_free(struct vmi *vmi)
{
    if (vmi)
        arena_free(vmi->arena);
}
