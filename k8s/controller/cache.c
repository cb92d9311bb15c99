/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/controller/cache.h"

#include "k8s/controller/object.h"
#include "k8s/render/networks.h"

void trim_object(json_t *object, void *userdata)
{
    json_t *annotations = GET(object, "metadata", "annotations");

    /* a second copy of the whole object, for kubectl only */
    json_object_del(annotations, "kubectl.kubernetes.io/last-applied-configuration");
}

/* `from` loses all members but these. */
static void keep_only(json_t *from, const char *const *names)
{
    const char *key;
    json_t *value;
    void *next;

    json_object_foreach_safe (from, next, key, value) {
        const char *const *n = names;

        while (*n && !streq(*n, key))
            n++;
        if (!*n)
            json_object_del(from, key);
    }
}
#define KEEP(from, ...) keep_only(from, (const char *const[]){__VA_ARGS__, NULL})

static void trim_containers(json_t *list)
{
    json_t *status;
    size_t i;

    json_array_foreach (list, i, status) {
        json_t *running = GET(status, "state", "running");

        KEEP(status, "name", "state");
        if (running)
            json_object_clear(running);
    }
}

static void trim_spec(json_t *spec, const char *launcher_image)
{
    json_t *containers = json_incref(json_object_get(spec, "containers")), *container;
    size_t i;

    KEEP(spec, "nodeName");
    json_array_foreach (containers, i, container)
        if (streq(GET_TEXT(container, "name"), "compute") &&
            !(launcher_image && streq(GET_TEXT(container, "image"), launcher_image))) {
            KEEP(container, "name", "image");
            json_object_set_new(spec, "containers", json_pack("[O]", container));
        }
    json_decref(containers);
}

const char *pod_launcher_image(const json_t *pod, const char *launcher_image)
{
    const json_t *kept = json_array_get(GET(pod, "spec", "containers"), 0);

    return kept ? GET_TEXT(kept, "image") : launcher_image;
}

void trim_pod(json_t *pod, const char *launcher_image)
{
    json_t *status = GET(pod, "status"), *condition, *list;
    size_t i;

    KEEP(pod, "metadata", "spec", "status");
    KEEP(GET(pod, "metadata"), "name", "namespace", "uid", "resourceVersion", "deletionTimestamp", "ownerReferences",
         "annotations");
    KEEP(GET(pod, "metadata", "annotations"), ANNOTATION_NETWORK_STATUS);
    trim_spec(GET(pod, "spec"), launcher_image);
    KEEP(status, "phase", "reason", "message", "qosClass", "conditions", "containerStatuses", "initContainerStatuses");
    json_array_foreach (GET(status, "conditions"), i, condition)
        KEEP(condition, "type", "status", "reason", "message");
    list = GET(status, "conditions");
    for (i = json_array_size(list); i-- > 0;) {
        const char *type = GET_TEXT(json_array_get(list, i), "type");

        if (!streq(type, "Ready") && !streq(type, "PodScheduled") && !startswith(type, "kubevirt.io/"))
            json_array_remove(list, i);
    }
    trim_containers(GET(status, "containerStatuses"));
    trim_containers(GET(status, "initContainerStatuses"));
    list = GET(status, "initContainerStatuses");
    for (i = json_array_size(list); i-- > 0;)
        if (!GET(json_array_get(list, i), "state", "waiting"))
            json_array_remove(list, i);
}

void trim_claim(json_t *claim, void *userdata)
{
    KEEP(claim, "metadata", "spec", "status");
    KEEP(GET(claim, "metadata"), "name", "namespace", "uid", "resourceVersion", "labels");
    KEEP(GET(claim, "metadata", "labels"), "instancetype.kubevirt.io/default-instancetype",
         "instancetype.kubevirt.io/default-instancetype-kind", "instancetype.kubevirt.io/default-preference",
         "instancetype.kubevirt.io/default-preference-kind");
    KEEP(GET(claim, "spec"), "volumeMode", "accessModes", "resources");
    KEEP(GET(claim, "spec", "resources"), "requests");
    KEEP(GET(claim, "status"), "capacity");
}

void trim_data_volume(json_t *volume, void *userdata)
{
    json_t *condition;
    size_t i;

    KEEP(volume, "metadata", "status");
    KEEP(GET(volume, "metadata"), "name", "namespace", "uid", "resourceVersion");
    KEEP(GET(volume, "status"), "phase", "conditions"); /* its progress changes all the time */
    json_array_foreach (GET(volume, "status", "conditions"), i, condition)
        KEEP(condition, "type", "status", "reason", "message");
}

const char *claim_of_volume(const json_t *vm, const char *volume)
{
    json_t *v;
    size_t i;

    json_array_foreach (GET(vm, "spec", "template", "spec", "volumes"), i, v)
        if (streq(GET_TEXT(v, "name"), volume))
            return *GET_TEXT(v, "dataVolume", "name") ? GET_TEXT(v, "dataVolume", "name")
                                                      : GET_TEXT(v, "persistentVolumeClaim", "claimName");
    return "";
}

size_t index_vm(json_t *vm, const char *keys[KUBE_INDEX_KEYS])
{
    const char *names[] = {GET_TEXT(vm, "spec", "instancetype", "name"), GET_TEXT(vm, "spec", "preference", "name")};
    static const char *const matchers[] = {"instancetype", "preference"};
    json_t *template;
    size_t i, n = 0;

    for (i = 0; i < ELEMENTSOF(names); i++) {
        const char *volume = GET_TEXT(vm, "spec", matchers[i], "inferFromVolume");

        if (*names[i])
            keys[n++] = names[i];
        else if (*volume && *claim_of_volume(vm, volume))
            keys[n++] = claim_of_volume(vm, volume);
    }
    json_array_foreach (GET(vm, "spec", "dataVolumeTemplates"), i, template)
        if (*GET_TEXT(template, "metadata", "name") && n < KUBE_INDEX_KEYS)
            keys[n++] = GET_TEXT(template, "metadata", "name");
    return n;
}

size_t index_vmi(json_t *vmi, const char *keys[KUBE_INDEX_KEYS])
{
    const json_t *owner = controller_of(vmi);
    json_t *volume;
    size_t i, n = 0;

    keys[n++] = owner ? GET_TEXT(owner, "uid") : INDEX_ORPHAN;
    json_array_foreach (GET(vmi, "spec", "volumes"), i, volume) {
        const char *claim = GET_TEXT(volume, "persistentVolumeClaim", "claimName");

        if (!*claim)
            claim = GET_TEXT(volume, "dataVolume", "name");
        if (*claim && n < KUBE_INDEX_KEYS)
            keys[n++] = claim;
    }
    return n;
}

size_t index_pod(json_t *pod, const char *keys[KUBE_INDEX_KEYS])
{
    keys[0] = GET_TEXT(controller_of(pod), "uid");
    return 1;
}
