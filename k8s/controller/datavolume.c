/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DataVolumes: disks that the Containerized Data Importer (CDI) fills. The controller makes those of a VM's
 * dataVolumeTemplates, and waits until a disk is filled: a guest must not run on half an image.
 */
#include <stdio.h>

#include "k8s/controller/plan.h"

#define ANNOTATION_IMMEDIATE "kubevirt.io/immediate-data-volume-creation"

/* Phases of CDI's DataVolume, and what a VM's printableStatus calls them; all others are Provisioning. */
static const struct {
    const char *phase, *printable; /* NULL: ready */
} phases[] = {
    {"Succeeded", NULL},
    {"Failed", "DataVolumeError"},
    {"WaitForFirstConsumer", "WaitingForVolumeBinding"},
    {"PendingPopulation", "WaitingForVolumeBinding"},
};

const char *data_volume_waits(const struct view *v, const char *name, char *text, size_t size)
{
    json_t *volume = v->find(&resource_data_volumes, name, v->userdata);
    const char *phase = GET_TEXT(volume, "status", "phase"), *printable = "Provisioning";
    const char *said = GET_TEXT(condition_find(GET(volume, "status", "conditions"), "Running"), "message");

    for (size_t i = 0; i < ELEMENTSOF(phases); i++)
        if (streq(phases[i].phase, phase))
            printable = phases[i].printable;
    if (!volume)
        printable = NULL;
    if (printable)
        snprintf(
            text, size, "the DataVolume %s is %s%s%.600s%s", name, *phase ? phase : "not looked at by CDI yet",
            *said ? ": " : "", said,
            streq(printable, "WaitingForVolumeBinding")
                ? " (its storage class binds a volume to the first pod that uses it, which has to be one of CDI's: "
                  "annotate it with cdi.kubevirt.io/storage.bind.immediate.requested)"
                : "");
    json_decref(volume);
    return printable;
}

static json_t *make_data_volume(const json_t *vm, const json_t *template)
{
    json_t *metadata = json_pack("{s:s, s:s, s:o}", "name", GET_TEXT(template, "metadata", "name"), "namespace",
                                 GET_TEXT(vm, "metadata", "namespace"), "ownerReferences",
                                 owner_reference(vm, API_VERSION, "VirtualMachine"));
    json_t *labels = json_deep_copy(GET(template, "metadata", "labels"));

    if (!metadata)
        return NULL;
    if (!labels)
        labels = json_object();
    json_object_set_new(labels, "kubevirt.io/created-by", json_string(GET_TEXT(vm, "metadata", "uid")));
    json_object_set_new(metadata, "labels", labels);
    if (GET(template, "metadata", "annotations"))
        json_object_set(metadata, "annotations", GET(template, "metadata", "annotations"));
    return json_pack("{s:s, s:s, s:o, s:O}", "apiVersion", "cdi.kubevirt.io/v1beta1", "kind", "DataVolume", "metadata",
                     metadata, "spec", GET(template, "spec") ? GET(template, "spec") : json_null());
}

static bool is_there(const struct view *v, const char *name)
{
    json_t *volume;

    if (*v->claim_mode(name, v->userdata))
        return true;
    volume = v->find(&resource_data_volumes, name, v->userdata);
    json_decref(volume);
    return volume;
}

int plan_data_volumes(const struct view *v, struct plan *p, char *text, size_t size)
{
    bool halted =
        json_is_false(GET(v->vm, "spec", "running")) || streq(GET_TEXT(v->vm, "spec", "runStrategy"), "Halted");
    json_t *template;
    size_t i;

    if (halted && streq(GET_TEXT(v->vm, "metadata", "annotations", ANNOTATION_IMMEDIATE), "false"))
        return 0;
    json_array_foreach (GET(v->vm, "spec", "dataVolumeTemplates"), i, template) {
        const char *name = GET_TEXT(template, "metadata", "name");

        if (!*name || is_there(v, name))
            continue;
        if (!v->has_data_volumes) {
            snprintf(
                text, size,
                "spec.dataVolumeTemplates: the disk %s is to be made by CDI (cdi.kubevirt.io), which this cluster does "
                "not have: install it, or make a PersistentVolumeClaim of that name",
                name);
            return -EINVAL;
        }
        p->body = make_data_volume(v->vm, template);
        if (!p->body)
            return -ENOMEM;
        p->any = true;
        p->verb = KUBE_CREATE;
        p->resource = &resource_data_volumes;
        p->failed_reason = "FailedDataVolumeCreate";
        plan_event_set(&p->done, false, "SuccessfulDataVolumeCreate", "Created DataVolume %s", name);
        return 1;
    }
    return 0;
}
