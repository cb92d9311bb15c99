/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/controller/plan.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/strbuf.h"

const struct kube_resource resource_vms = {"kubevirt.io", "v1", "virtualmachines", "VirtualMachine", false};
const struct kube_resource resource_vmis = {"kubevirt.io", "v1", "virtualmachineinstances", "VirtualMachineInstance",
                                            false};
const struct kube_resource resource_replica_sets = {"kubevirt.io", "v1", "virtualmachineinstancereplicasets",
                                                    "VirtualMachineInstanceReplicaSet", false};
const struct kube_resource resource_presets = {"kubevirt.io", "v1", "virtualmachineinstancepresets",
                                               "VirtualMachineInstancePreset", false};
const struct kube_resource resource_pods = {"", "v1", "pods", "Pod", false};
const struct kube_resource resource_claims = {"", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", false};
const struct kube_resource resource_revisions = {"apps", "v1", "controllerrevisions", "ControllerRevision", false};
const struct kube_resource resource_data_volumes = {"cdi.kubevirt.io", "v1beta1", "datavolumes", "DataVolume", false};

void plan_done(struct plan *p)
{
    free(p->own_name);
    free(p->done.text);
    free(p->said.text);
    json_decref(p->body);
    json_decref(p->revision);
    *p = (struct plan){0};
}

void plan_event_set(struct plan_event *event, bool warning, const char *reason, const char *format, ...)
{
    struct strbuf text = {0};
    va_list ap;

    va_start(ap, format);
    strbuf_vprintf(&text, format, ap);
    va_end(ap);
    free(event->text);
    *event = (struct plan_event){.reason = reason, .warning = warning, .text = strbuf_steal(&text)};
}

int plan_status(struct plan *p, const struct kube_resource *resource, const json_t *object, json_t *status)
{
    json_t *before = GET(object, "status"), *empty = json_object();
    json_t *diff = merge_diff(before ? before : empty, status);

    json_decref(empty);
    json_decref(status);
    if (!diff)
        return 0;
    p->any = true;
    p->verb = KUBE_PATCH_MERGE;
    p->resource = resource;
    p->name = GET_TEXT(object, "metadata", "name");
    p->subresource = "status";
    p->body =
        json_pack("{s:{s:s, s:s}, s:o}", "metadata", "resourceVersion", GET_TEXT(object, "metadata", "resourceVersion"),
                  "uid", GET_TEXT(object, "metadata", "uid"), "status", diff);
    return p->body ? 0 : -ENOMEM;
}

int plan_finalizers(struct plan *p, const struct kube_resource *resource, const json_t *object, json_t *finalizers)
{
    p->any = true;
    p->verb = KUBE_PATCH_MERGE;
    p->resource = resource;
    p->name = GET_TEXT(object, "metadata", "name");
    p->body =
        json_pack("{s:{s:s, s:s, s:o}}", "metadata", "resourceVersion", GET_TEXT(object, "metadata", "resourceVersion"),
                  "uid", GET_TEXT(object, "metadata", "uid"), "finalizers", finalizers);
    return p->body ? 0 : -ENOMEM;
}

void plan_delete(struct plan *p, const struct kube_resource *resource, const json_t *object)
{
    p->any = true;
    p->verb = KUBE_DELETE;
    p->resource = resource;
    p->name = GET_TEXT(object, "metadata", "name");
    p->uid = GET_TEXT(object, "metadata", "uid");
}

bool vmi_is_final(const json_t *vmi)
{
    const char *phase = GET_TEXT(vmi, "status", "phase");

    return streq(phase, "Succeeded") || streq(phase, "Failed");
}

bool vmi_was_running(const json_t *vmi)
{
    json_t *step;
    size_t i;

    if (streq(GET_TEXT(vmi, "status", "phase"), "Running"))
        return true;
    json_array_foreach (GET(vmi, "status", "phaseTransitionTimestamps"), i, step)
        if (streq(GET_TEXT(step, "phase"), "Running"))
            return true;
    return false;
}
