/* SPDX-License-Identifier: Apache-2.0 */
/* Objects as an API server may have them, {"vm", "vmi", "pods", "presets", "set", "vmis"}: each plan is whole, and none
 * is for an object that is not there. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "k8s/controller/plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *no_claim(const char *claim, void *userdata)
{
    return "";
}

static json_t *nothing(const struct kube_resource *resource, const char *name, void *userdata)
{
    return NULL;
}

static void check(const struct view *view, int (*planner)(const struct view *, struct plan *))
{
    struct plan plan = {0};
    int r = planner(view, &plan);

    /* -ENOMEM is also what an object gets that lacks what the CRDs demand */
    if (r < 0 && r != -ENOMEM)
        abort();
    if (r == 0 && plan.any && (!plan.resource || (plan.verb != KUBE_DELETE && !plan.body)))
        abort();
    if (plan.body) {
        char *text = json_dumps(plan.body, JSON_COMPACT | JSON_ENCODE_ANY);

        if (!text)
            abort();
        free(text);
    }
    plan_done(&plan);
}

/* The cache has objects of the kinds that were asked for, and each has metadata and, by its CRD, a spec. */
static json_t *object(json_t *all, const char *key)
{
    json_t *found = json_object_get(all, key), *metadata = json_object_get(found, "metadata");

    return json_is_string(json_object_get(metadata, "name")) && json_is_string(json_object_get(metadata, "uid")) &&
                   json_is_string(json_object_get(metadata, "namespace")) &&
                   json_is_object(json_object_get(found, "spec"))
               ? found
               : NULL;
}

static json_t *list(json_t *all, const char *key)
{
    json_t *found = json_object_get(all, key), *kept = json_array(), *item;
    size_t i;

    json_array_foreach (found, i, item) {
        json_t *metadata = json_object_get(item, "metadata");

        if (json_is_string(json_object_get(metadata, "name")) && json_is_string(json_object_get(metadata, "uid")))
            json_array_append(kept, item);
    }
    return kept;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct settings settings = {.pod.launcher_image = "launcher:1"};
    json_t *all = json_loadb((const char *)data, size, 0, NULL);
    struct view view = {.now = 1790000000, .settings = &settings, .claim_mode = no_claim, .find = nothing};
    char *text;

    view.vm = object(all, "vm");
    view.vmi = object(all, "vmi");
    view.replica_set = object(all, "set");
    view.pods = list(all, "pods");
    view.presets = list(all, "presets");
    view.vmis = list(all, "vmis");
    view.fetched = json_object();
    view.vmi_text = text = view.vmi ? json_dumps(view.vmi, JSON_COMPACT) : NULL;
    if (view.vm)
        check(&view, plan_vm);
    if (view.vmi)
        check(&view, plan_vmi);
    if (view.replica_set)
        check(&view, plan_replica_set);
    json_decref(view.pods);
    json_decref(view.presets);
    json_decref(view.vmis);
    json_decref(view.fetched);
    json_decref(all);
    free(text);
    return 0;
}
