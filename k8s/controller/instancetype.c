/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spec.instancetype and spec.preference of a VM, as objects of the cluster. What they said when the VM was started
 * first is kept in a ControllerRevision, named in the VM's status: a type that is changed later changes no VM
 * (KubeVirt's user guide, "Instance types and preferences", versioning). How they are merged into the template is
 * src/vmi's (instancetype.c there), as for files.
 */
#include <stdio.h>
#include <strings.h>

#include "k8s/controller/cache.h"
#include "k8s/controller/plan.h"
#include "json/faults.h"

#define TYPE_GROUP "instancetype.kubevirt.io"

const struct kube_resource resource_types[TYPE_KINDS] = {
    [TYPE_INSTANCETYPE] = {TYPE_GROUP, "v1beta1", "virtualmachineinstancetypes", "VirtualMachineInstancetype", false},
    [TYPE_CLUSTER_INSTANCETYPE] = {TYPE_GROUP, "v1beta1", "virtualmachineclusterinstancetypes",
                                   "VirtualMachineClusterInstancetype", true},
    [TYPE_PREFERENCE] = {TYPE_GROUP, "v1beta1", "virtualmachinepreferences", "VirtualMachinePreference", false},
    [TYPE_CLUSTER_PREFERENCE] = {TYPE_GROUP, "v1beta1", "virtualmachineclusterpreferences",
                                 "VirtualMachineClusterPreference", true},
};

/* The two matchers of a VM's specification. */
static const struct matcher {
    const char *member, *status;       /* in spec; what it came to, in status */
    const char *label, *kind_label;    /* of a volume claim, for inferFromVolume */
    const struct kube_resource *types; /* of the namespace, of the cluster */
} matchers[] = {
    {"instancetype", "instancetypeRef", TYPE_GROUP "/default-instancetype", TYPE_GROUP "/default-instancetype-kind",
     &resource_types[TYPE_INSTANCETYPE]},
    {"preference", "preferenceRef", TYPE_GROUP "/default-preference", TYPE_GROUP "/default-preference-kind",
     &resource_types[TYPE_PREFERENCE]},
};

struct found {
    const struct kube_resource *resource;
    const char *name;
    json_t *object; /* borrowed from the view, or `own` */
    json_t *own;
};

static int refuse(char **ret_failure, const char *format, ...) _printf_(2, 3);
static int refuse(char **ret_failure, const char *format, ...)
{
    struct plan_event text = {0};
    va_list ap;
    char line[1024];

    va_start(ap, format);
    vsnprintf(line, sizeof(line), format, ap);
    va_end(ap);
    plan_event_set(&text, true, "", "%s", line);
    *ret_failure = text.text;
    return text.text ? -EINVAL : -ENOMEM;
}

/* From the labels of a volume's claim: 1 found, 0 to be left out. */
static int infer(const struct view *v, const struct matcher *m, const json_t *given, const char *volume,
                 const char **ret_name, const char **ret_kind, struct found *found, char **ret_failure)
{
    const char *claim = claim_of_volume(v->vm, volume);

    found->own = *claim ? v->find(&resource_claims, claim, v->userdata) : NULL;
    *ret_name = GET_TEXT(found->own, "metadata", "labels", m->label);
    *ret_kind = GET_TEXT(found->own, "metadata", "labels", m->kind_label);
    if (**ret_name)
        return 1;
    if (streq(GET_TEXT(given, "inferFromVolumeFailurePolicy"), "Ignore"))
        return 0;
    if (!*claim)
        return refuse(ret_failure, "spec.%s.inferFromVolume: the template has no volume \"%.64s\" with a claim",
                      m->member, volume);
    return refuse(ret_failure, "spec.%s.inferFromVolume: the volume claim %.64s %s", m->member, claim,
                  found->own ? "has no label that says which (instancetype.kubevirt.io/default-…): give the name"
                             : "is not there");
}

static bool is_kind(const char *text, const struct kube_resource *resource)
{
    size_t n = strlen(resource->kind);

    return strncasecmp(text, resource->kind, n) == 0 && (!text[n] || strcasecmp(text + n, "s") == 0);
}

static json_t *make_revision(const json_t *vm, const struct found *f, const char *name)
{
    const json_t *metadata = GET(f->object, "metadata");
    json_t *data = json_copy(f->object), *kept, *value;
    const char *key;

    /* of the metadata what says which it was */
    kept = json_object();
    json_object_foreach ((json_t *)(uintptr_t)metadata, key, value)
        if (!streq(key, "resourceVersion") && !streq(key, "managedFields"))
            json_object_set(kept, key, value);
    json_object_set_new(data, "metadata", kept);
    return json_pack(
        "{s:s, s:s, s:{s:s, s:s, s:o, s:{s:s, s:s, s:s, s:s, s:o}}, s:o, s:i}", "apiVersion", "apps/v1", "kind",
        "ControllerRevision", "metadata", "name", name, "namespace", GET_TEXT(vm, "metadata", "namespace"),
        "ownerReferences", owner_reference(vm, API_VERSION, "VirtualMachine"), "labels", TYPE_GROUP "/object-kind",
        f->resource->kind, TYPE_GROUP "/object-name", f->name, TYPE_GROUP "/object-uid", GET_TEXT(metadata, "uid"),
        TYPE_GROUP "/object-version", f->resource->version, TYPE_GROUP "/object-generation",
        json_sprintf("%lld", (long long)GET_NUMBER(metadata, "generation")), "data", data, "revision", 0);
}

/* The read or the write of a ControllerRevision that comes first. */
static int plan_revision(struct plan *p, const char *name, json_t *body)
{
    p->any = true;
    p->resource = &resource_revisions;
    p->own_name = strdup(name);
    p->name = p->own_name;
    p->verb = body ? KUBE_CREATE : KUBE_GET;
    p->body = body;
    p->failed_reason = "FailedCreate";
    return p->own_name ? 1 : -ENOMEM;
}

/* What was kept under this name. 0: found; 1: `p` is to read it. */
static int take_revision(const struct view *v, const char *name, struct found *f, struct plan *p, char **ret_failure)
{
    json_t *revision = json_object_get(v->fetched, name);

    if (!revision || json_is_true(revision))
        return plan_revision(p, name, NULL);
    if (!json_is_object(revision))
        return refuse(
            ret_failure,
            "the ControllerRevision %s, which holds the %s \"%.64s\" as this VM was started with, is gone: take "
            "its name out of the VM's specification or status to start with what the %s says now",
            name, f->resource->kind, f->name, f->resource->kind);
    f->object = GET(revision, "data");
    return 0;
}

/* A type that this VM has not been started with before: kept, and named in `status`. 0 found, 1: `p` comes first. */
static int take_live(const struct view *v, const struct matcher *m, json_t *status, struct found *f, struct plan *p,
                     char **ret_failure)
{
    json_t *live = v->find(f->resource, f->name, v->userdata), *body;
    char name[700];
    int r = 0;

    if (!live)
        return refuse(ret_failure, "spec.%s: there is no %s \"%.64s\": the VM is started when it has been made",
                      m->member, f->resource->kind, f->name);
    f->object = live;
    snprintf(name, sizeof(name), "%s-%s-%s-%s-%lld", GET_TEXT(v->vm, "metadata", "name"), f->name, f->resource->version,
             GET_TEXT(live, "metadata", "uid"), (long long)GET_NUMBER(live, "metadata", "generation"));
    if (!json_object_get(v->fetched, name)) {
        body = make_revision(v->vm, f, name);
        r = body ? plan_revision(p, name, body) : -ENOMEM;
    } else
        json_object_set_new(status, m->status,
                            json_pack("{s:s, s:s, s:{s:s}}", "name", f->name, "kind", f->resource->kind,
                                      "controllerRevisionRef", "name", name));
    json_decref(f->own);
    f->own = live;
    return r;
}

/* 0: nothing to do with it, or found->object is it; 1: `p` comes first. */
static int resolve(const struct view *v, const struct matcher *m, json_t *status, struct found *f, struct plan *p,
                   char **ret_failure)
{
    const json_t *given = GET(v->vm, "spec", m->member), *known = json_object_get(status, m->status);
    const char *kind = GET_TEXT(given, "kind"), *pinned = GET_TEXT(given, "revisionName");
    int r;

    if (!json_is_object(given))
        return 0;
    f->name = GET_TEXT(given, "name");
    if (!*f->name && *GET_TEXT(given, "inferFromVolume")) {
        r = infer(v, m, given, GET_TEXT(given, "inferFromVolume"), &f->name, &kind, f, ret_failure);
        if (r <= 0)
            return r;
    }
    if (!*f->name)
        return refuse(ret_failure, "spec.%s: name is missing", m->member);
    f->resource = !*kind || is_kind(kind, &m->types[1]) ? &m->types[1] : is_kind(kind, &m->types[0]) ? m->types : NULL;
    if (!f->resource)
        return refuse(ret_failure, "spec.%s.kind: \"%.64s\" is not known (%s or %s)", m->member, kind, m->types[0].kind,
                      m->types[1].kind);
    if (!*pinned && streq(GET_TEXT(known, "name"), f->name) && streq(GET_TEXT(known, "kind"), f->resource->kind))
        pinned = GET_TEXT(known, "controllerRevisionRef", "name");
    return *pinned ? take_revision(v, pinned, f, p, ret_failure) : take_live(v, m, status, f, p, ret_failure);
}

/* The three objects as one List, which is what src/vmi reads from a file. */
static char *make_list(const json_t *vm, const struct found found[])
{
    json_t *spec = json_copy(GET(vm, "spec")), *items = json_array(), *list;
    char *text;

    for (size_t i = 0; i < ELEMENTSOF(matchers); i++) {
        json_t *object;

        json_object_del(spec, matchers[i].member);
        if (!found[i].object)
            continue;
        json_object_set_new(spec, matchers[i].member,
                            json_pack("{s:s, s:s}", "name", found[i].name, "kind", found[i].resource->kind));
        object = json_pack("{s:s, s:s, s:{s:s}, s:O}", "apiVersion", TYPE_GROUP "/v1beta1", "kind",
                           found[i].resource->kind, "metadata", "name", found[i].name, "spec",
                           GET(found[i].object, "spec") ? GET(found[i].object, "spec") : json_null());
        json_array_append_new(items, object);
    }
    json_array_append_new(items, json_pack("{s:s, s:s, s:{s:s, s:s}, s:o}", "apiVersion", API_VERSION, "kind",
                                           "VirtualMachine", "metadata", "name", GET_TEXT(vm, "metadata", "name"),
                                           "namespace", GET_TEXT(vm, "metadata", "namespace"), "spec", spec));
    list = json_pack("{s:s, s:s, s:o}", "apiVersion", "v1", "kind", "List", "items", items);
    text = list ? json_dumps(list, JSON_COMPACT) : NULL;
    json_decref(list);
    return text;
}

static int merge(const struct view *v, const struct found found[], json_t **ret_template, char **ret_failure)
{
    _cleanup_(faults_done) struct faults faults = {.source = "manifest"};
    _cleanup_error_ struct error *error = NULL;
    _cleanup_free_ char *text = make_list(v->vm, found);
    struct vmi *vmi = NULL;
    json_t *manifest;
    int r;

    if (!text)
        return -ENOMEM;
    r = vmi_load_text(text, strlen(text), "manifest",
                      &(struct vmi_load_options){.default_arch = v->settings->default_arch}, &vmi, &faults, &error);
    if (r == -ENOMEM)
        return r;
    if (r < 0) {
        _cleanup_free_ char *why = faults_format(&faults);

        return refuse(ret_failure, "with its instance type and preference the VM cannot be run: %.900s",
                      why && *why ? why : error_message(error));
    }
    manifest = vmi_manifest(vmi);
    vmi_free(vmi);
    *ret_template = json_incref(GET(manifest, "spec", "template"));
    json_decref(manifest);
    return *ret_template ? 0 : -ENOMEM;
}

int vm_expand(const struct view *v, json_t *status, struct plan *p, json_t **ret_template, char **ret_failure)
{
    struct found found[ELEMENTSOF(matchers)] = {0};
    json_t *before = json_deep_copy(status);
    bool any = false;
    int r = before ? 0 : -ENOMEM;

    *ret_template = NULL;
    *ret_failure = NULL;
    for (size_t i = 0; i < ELEMENTSOF(matchers) && r == 0; i++) {
        if (!GET(v->vm, "spec", matchers[i].member))
            json_object_del(status, matchers[i].status);
        r = resolve(v, &matchers[i], status, &found[i], p, ret_failure);
        any = any || found[i].object;
    }
    if (r == 0 && !json_equal(before, status))
        r = 2;
    if (r == 0)
        r = any ? merge(v, found, ret_template, ret_failure)
                : (*ret_template = json_incref(GET(v->vm, "spec", "template")), 0);
    for (size_t i = 0; i < ELEMENTSOF(matchers); i++)
        json_decref(found[i].own);
    json_decref(before);
    return r;
}
