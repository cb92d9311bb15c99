/* SPDX-License-Identifier: Apache-2.0 */
/* VirtualMachineInstanceReplicaSet: so many instances of one template. */
#include <stdio.h>

#include "k8s/controller/plan.h"

#define NAME_MAX_LENGTH 253

struct census {
    json_t *spare;   /* the one to delete first, were there one too many */
    json_t *ended;   /* one that has ended: replaced */
    json_t *orphan;  /* one that nobody owns, and that the selector matches */
    json_t *strange; /* one of ours whose labels were changed: the selector does not match it any more */
    int64_t live, ready;
};

static bool is_ready(const json_t *vmi)
{
    return condition_is(GET(vmi, "status", "conditions"), "Ready", "True");
}

/* Not ready before ready, young before old. */
static bool is_rather_spare(const json_t *a, const json_t *b)
{
    if (!b)
        return true;
    if (is_ready(a) != is_ready(b))
        return !is_ready(a);
    return strcmp(GET_TEXT(a, "metadata", "creationTimestamp"), GET_TEXT(b, "metadata", "creationTimestamp")) > 0;
}

static struct census count(const struct view *v)
{
    struct census c = {0};
    json_t *vmi;
    size_t i;

    json_array_foreach (v->vmis, i, vmi) {
        bool ours = is_controlled_by(vmi, v->replica_set);
        bool matches = selector_matches(GET(v->replica_set, "spec", "selector"), GET(vmi, "metadata", "labels"));

        if (is_deleting(vmi))
            continue;
        if (!ours) {
            if (!controller_of(vmi) && !vmi_is_final(vmi) && matches)
                c.orphan = vmi;
            continue;
        }
        if (!matches) {
            c.strange = vmi;
            continue;
        }
        if (vmi_is_final(vmi)) {
            c.ended = vmi;
            continue;
        }
        c.live++;
        c.ready += is_ready(vmi);
        if (is_rather_spare(vmi, c.spare))
            c.spare = vmi;
    }
    return c;
}

/*
 * The names are numbered in a way that only this replica set's UID gives: what two controllers, or one with an old
 * cache, make at the same time has the same name, and is made once.
 */
static char *free_name(const struct view *v)
{
    const char *name = GET_TEXT(v->replica_set, "metadata", "name"), *uid = GET_TEXT(v->replica_set, "metadata", "uid");

    for (size_t n = 0;; n++) {
        _cleanup_free_ char *seed = NULL;
        char full[POD_NAME_SIZE], *one;
        bool taken = false;
        json_t *vmi;
        size_t i;

        if (asprintf(&seed, "%s/%zu", uid, n) < 0)
            return NULL;
        pod_name(name, seed, full);
        one = full + strlen("virt-launcher-");
        json_array_foreach (v->vmis, i, vmi)
            taken = taken || streq(GET_TEXT(vmi, "metadata", "name"), one);
        if (!taken && v->find) { /* one that we gave up, and that another owner has now */
            vmi = v->find(&resource_vmis, one, v->userdata);
            taken = vmi;
            json_decref(vmi);
        }
        if (!taken)
            return strdup(one);
    }
}

static int plan_make(const struct view *v, struct plan *p)
{
    const json_t *template = GET(v->replica_set, "spec", "template");
    json_t *metadata = json_object(), *spec = json_deep_copy(GET(template, "spec")), *part;

    p->own_name = free_name(v);
    if (!p->own_name || !spec) {
        json_decref(metadata);
        json_decref(spec);
        return -ENOMEM;
    }
    part = GET(template, "metadata", "labels");
    if (json_is_object(part))
        json_object_set_new(metadata, "labels", json_deep_copy(part));
    part = GET(template, "metadata", "annotations");
    if (json_is_object(part))
        json_object_set_new(metadata, "annotations", json_deep_copy(part));
    json_object_set_new(metadata, "name", json_string(p->own_name));
    json_object_set_new(metadata, "namespace", json_string(GET_TEXT(v->replica_set, "metadata", "namespace")));
    json_object_set_new(metadata, "finalizers", json_pack("[s]", VMI_FINALIZER));
    json_object_set_new(metadata, "ownerReferences",
                        owner_reference(v->replica_set, API_VERSION, "VirtualMachineInstanceReplicaSet"));
    if (vmi_apply_presets(metadata, spec, v->presets, &p->said) < 0 || vmi_fill_defaults(spec, NULL) < 0) {
        json_decref(metadata);
        json_decref(spec);
        return -ENOMEM;
    }
    p->any = true;
    p->verb = KUBE_CREATE;
    p->resource = &resource_vmis;
    p->body = json_pack("{s:s, s:s, s:o, s:o}", "apiVersion", API_VERSION, "kind", "VirtualMachineInstance", "metadata",
                        metadata, "spec", spec);
    p->failed_reason = "FailedCreate";
    plan_event_set(&p->done, false, "SuccessfulCreate",
                   "Started the virtual machine by creating the new virtual machine instance %s", p->own_name);
    return p->body ? 0 : -ENOMEM;
}

static void plan_remove(struct plan *p, const json_t *vmi)
{
    plan_delete(p, &resource_vmis, vmi);
    p->failed_reason = "FailedDelete";
    plan_event_set(&p->done, false, "SuccessfulDelete",
                   "Stopped the virtual machine by deleting the virtual machine instance %s", p->name);
}

static int plan_owner(json_t *vmi, json_t *references, struct plan *p)
{
    p->any = true;
    p->verb = KUBE_PATCH_MERGE;
    p->resource = &resource_vmis;
    p->name = GET_TEXT(vmi, "metadata", "name");
    p->body =
        json_pack("{s:{s:s, s:s, s:o}}", "metadata", "resourceVersion", GET_TEXT(vmi, "metadata", "resourceVersion"),
                  "uid", GET_TEXT(vmi, "metadata", "uid"), "ownerReferences", references);
    return p->body ? 0 : -ENOMEM;
}

static int plan_adopt(const struct view *v, json_t *vmi, struct plan *p)
{
    return plan_owner(vmi, owner_reference(v->replica_set, API_VERSION, "VirtualMachineInstanceReplicaSet"), p);
}

/* It runs on, as nobody's. */
static int plan_give_up(const struct view *v, json_t *vmi, struct plan *p)
{
    json_t *references = json_array(), *reference;
    size_t i;

    json_array_foreach (GET(vmi, "metadata", "ownerReferences"), i, reference)
        if (!streq(GET_TEXT(reference, "uid"), GET_TEXT(v->replica_set, "metadata", "uid")))
            json_array_append(references, reference);
    return plan_owner(vmi, references, p);
}

static int plan_replica_status(const struct view *v, const struct census *c, bool paused, struct plan *p)
{
    json_t *status = json_deep_copy(GET(v->replica_set, "status")), *conditions;
    char *selector = selector_text(GET(v->replica_set, "spec", "selector"));

    if (!status)
        status = json_object();
    conditions = json_object_get(status, "conditions");
    conditions = conditions ? json_incref(conditions) : json_array();
    json_object_set_new(status, "replicas", json_integer(c->live));
    json_object_set_new(status, "readyReplicas", json_integer(c->ready));
    json_object_set_new(status, "labelSelector", json_string(selector ? selector : ""));
    free(selector);
    if (paused)
        condition_set(conditions, "ReplicaPaused", "True", "Paused", "Controller got paused", v->now);
    else
        condition_remove(conditions, "ReplicaPaused");
    if (v->failure)
        condition_set(conditions, "ReplicaFailure", "True", "FailedSync", v->failure, v->now);
    else
        condition_remove(conditions, "ReplicaFailure");
    if (json_array_size(conditions) > 0)
        json_object_set(status, "conditions", conditions);
    else
        json_object_del(status, "conditions");
    json_decref(conditions);
    return plan_status(p, &resource_replica_sets, v->replica_set, status);
}

int plan_replica_set(const struct view *v, struct plan *p)
{
    bool paused = json_is_true(GET(v->replica_set, "spec", "paused"));
    json_t *replicas = GET(v->replica_set, "spec", "replicas");
    int64_t wanted = replicas ? json_integer_value(replicas) : 1;
    struct census c = count(v);

    if (is_deleting(v->replica_set))
        return 0; /* the garbage collector deletes the instances, or leaves them */
    if (!paused && !v->failure) {
        if (c.strange)
            return plan_give_up(v, c.strange, p);
        if (c.orphan)
            return plan_adopt(v, c.orphan, p);
        if (c.ended) {
            plan_remove(p, c.ended);
            return 0;
        }
        if (c.live < wanted)
            return plan_make(v, p);
        if (c.live > wanted) {
            plan_remove(p, c.spare);
            return 0;
        }
    }
    return plan_replica_status(v, &c, paused, p);
}
