/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VirtualMachineInstance: its launcher pod, and its status until the node agent takes over (compat §6.6). From phase
 * Scheduled on the phase is the node agent's; what stays ours is the Ready condition, and the end of an instance whose
 * pod is gone.
 */
#include <stdio.h>

#include "base/limits.h"
#include "k8s/client/ktime.h"
#include "k8s/controller/cache.h"
#include "k8s/controller/plan.h"
#include "k8s/render/networks.h"
#include "json/faults.h"

/* Why a container waits, where a person has to do something about it. */
static const char *const bad_reasons[] = {"ErrImagePull",        "ImagePullBackOff",           "InvalidImageName",
                                          "ErrImageNeverPull",   "CreateContainerConfigError", "CreateContainerError",
                                          "RegistryUnavailable", "ImageInspectError",          "RunContainerError"};
/* Reasons of Synchronized=False that are ours to take back. */
static const char *const own_reasons[] = {"FailedCreate", "FailedPvcNotFound", "DataVolumeError", "Provisioning",
                                          "WaitingForVolumeBinding"};

static bool is_among(const char *text, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (streq(text, list[i]))
            return true;
    return false;
}

/* ---- the pod ---------------------------------------------------------------------------------------------------- */

/* The one that counts: not one that is on its way out, if there is another. */
static json_t *current_pod(const json_t *pods)
{
    json_t *pod, *found = NULL;
    size_t i;

    json_array_foreach (pods, i, pod)
        if (!found || is_deleting(found))
            found = pod;
    return found;
}

static bool pod_is_final(const json_t *pod)
{
    const char *phase = GET_TEXT(pod, "status", "phase");

    return streq(phase, "Succeeded") || streq(phase, "Failed");
}

/* All its containers run; the readiness gate is not asked: it is ours. */
static bool pod_is_up(const json_t *pod)
{
    json_t *statuses = GET(pod, "status", "containerStatuses"), *status;
    size_t i;

    if (!streq(GET_TEXT(pod, "status", "phase"), "Running") || is_deleting(pod) ||
        !*GET_TEXT(pod, "spec", "nodeName") || json_array_size(statuses) == 0)
        return false;
    json_array_foreach (statuses, i, status)
        if (!GET(status, "state", "running"))
            return false;
    return true;
}

static json_t *compute_status(const json_t *pod)
{
    json_t *status;
    size_t i;

    json_array_foreach (GET(pod, "status", "containerStatuses"), i, status)
        if (streq(GET_TEXT(status, "name"), "compute"))
            return status;
    return NULL;
}

/* When the launcher ended, or -1. */
static int64_t compute_ended(const json_t *pod)
{
    return kube_time_parse(GET_TEXT(compute_status(pod), "state", "terminated", "finishedAt"));
}

/* The first container that waits for something that needs a person. */
static json_t *bad_waiting(const json_t *pod)
{
    static const char *const lists[] = {"initContainerStatuses", "containerStatuses"};

    for (size_t l = 0; l < ELEMENTSOF(lists); l++) {
        json_t *status;
        size_t i;

        json_array_foreach (GET(pod, "status", lists[l]), i, status)
            if (is_among(GET_TEXT(status, "state", "waiting", "reason"), bad_reasons, ELEMENTSOF(bad_reasons)))
                return status;
    }
    return NULL;
}

/* ---- phase ------------------------------------------------------------------------------------------------------ */

static bool is_before_handover(const char *phase)
{
    return !*phase || streq(phase, "Pending") || streq(phase, "Scheduling");
}

static const char *next_phase(const struct view *v, const json_t *pod, int64_t *ret_again)
{
    const char *phase = GET_TEXT(v->vmi, "status", "phase");
    int64_t ended, left;

    if (vmi_is_final(v->vmi) || streq(phase, "WaitingForSync"))
        return phase;
    if (!pod)
        return !*phase || streq(phase, "Pending") ? "Pending" : "Failed";
    if (is_before_handover(phase)) {
        if (pod_is_final(pod) || is_deleting(pod))
            return "Failed";
        return pod_is_up(pod) ? "Scheduled" : "Scheduling";
    }
    if (!pod_is_final(pod))
        return phase;
    /* the node agent knows more than the pod's exit code says; when it does not speak, the code has to do */
    ended = compute_ended(pod);
    left = ended < 0 ? 0 : ended + HANDOVER_GRACE_SECONDS - v->now;
    if (left > 0) {
        *ret_again = left;
        return phase;
    }
    /* a launcher that was told to end before it had a guest exits with 0 too: that is no success */
    return streq(GET_TEXT(pod, "status", "phase"), "Succeeded") && vmi_was_running(v->vmi) ? "Succeeded" : "Failed";
}

static void set_phase(const struct view *v, json_t *status, const char *phase)
{
    static const char *const way[] = {"Pending", "Scheduling", "Scheduled"};
    json_t *steps = json_object_get(status, "phaseTransitionTimestamps");
    const char *before = GET_TEXT(v->vmi, "status", "phase");
    char time[KUBE_TIME_SIZE];
    size_t from = ELEMENTSOF(way), to = 0;

    if (streq(before, phase))
        return;
    kube_time(v->now, time);
    if (!steps) {
        steps = json_array();
        json_object_set_new(status, "phaseTransitionTimestamps", steps);
    }
    json_object_set_new(status, "phase", json_string(phase));
    /* phases that were passed too quickly to be written are on the list too */
    for (size_t i = 0; i < ELEMENTSOF(way); i++) {
        if (streq(before, way[i]))
            from = i + 1;
        if (streq(phase, way[i]))
            to = i;
    }
    from = *before ? from : 0;
    for (size_t i = from; i < to; i++)
        json_array_append_new(steps, json_pack("{s:s, s:s}", "phase", way[i], "phaseTransitionTimestamp", time));
    json_array_append_new(steps, json_pack("{s:s, s:s}", "phase", phase, "phaseTransitionTimestamp", time));
}

/* ---- conditions ------------------------------------------------------------------------------------------------- */

/* Is the pod unready only because of our gate, which is about to be set, or which kubelet has not looked at yet? */
static bool waits_for_gate(const struct view *v, const json_t *pod, const json_t *ready)
{
    const char *gate = GET_TEXT(condition_find(GET(pod, "status", "conditions"), CONDITION_UNPAUSED), "status");

    if (condition_is(GET(v->vmi, "status", "conditions"), "Paused", "True"))
        return false;
    return !streq(gate, "True") || (ready && streq(GET_TEXT(ready, "reason"), "ReadinessGatesNotReady"));
}

static void set_ready(const struct view *v, json_t *conditions, const json_t *pod, const char *phase)
{
    const json_t *ready = condition_find(GET(pod, "status", "conditions"), "Ready");

    if (!pod)
        condition_set(conditions, "Ready", "False", "PodNotExists", "virt-launcher pod has not yet been scheduled",
                      v->now);
    else if (is_deleting(pod))
        condition_set(conditions, "Ready", "False", "PodTerminating", "virt-launcher pod is terminating", v->now);
    else if (!streq(phase, "Running"))
        condition_set(conditions, "Ready", "False", "GuestNotRunning", "Guest VM is not reported as running", v->now);
    else if (waits_for_gate(v, pod, ready) && condition_find(conditions, "Ready"))
        return; /* the next thing that happens to the pod says it */
    else if (!ready)
        condition_set(conditions, "Ready", "False", "PodConditionMissing",
                      "virt-launcher pod is missing the Ready condition", v->now);
    else
        condition_set(conditions, "Ready", GET_TEXT(ready, "status"), GET_TEXT(ready, "reason"),
                      GET_TEXT(ready, "message"), v->now);
}

static void set_scheduled(const struct view *v, json_t *conditions, const json_t *pod)
{
    const json_t *scheduled = condition_find(GET(pod, "status", "conditions"), "PodScheduled");

    if (streq(GET_TEXT(scheduled, "status"), "False"))
        condition_set(conditions, "PodScheduled", "False", GET_TEXT(scheduled, "reason"),
                      GET_TEXT(scheduled, "message"), v->now);
    else
        condition_remove(conditions, "PodScheduled");
}

static void set_synchronized(const struct view *v, json_t *conditions, const json_t *pod, const char *phase)
{
    const json_t *waiting = bad_waiting(pod), *terminated = GET(compute_status(pod), "state", "terminated");
    const char *reason = GET_TEXT(condition_find(conditions, "Synchronized"), "reason");
    char text[1200];

    if (v->failure) {
        condition_set(conditions, "Synchronized", "False", "FailedCreate", v->failure, v->now);
    } else if (is_before_handover(GET_TEXT(v->vmi, "status", "phase")) && streq(phase, "Failed") && pod) {
        const char *said = GET_TEXT(pod, "status", "message"), *why = GET_TEXT(pod, "status", "reason");

        snprintf(text, sizeof(text), "the launcher pod %s ended before the guest was started%s%s%s%.900s",
                 GET_TEXT(pod, "metadata", "name"), *why ? " (" : "", why, *why ? "): " : ": ",
                 *said                              ? said
                 : *GET_TEXT(terminated, "message") ? GET_TEXT(terminated, "message")
                 : is_deleting(pod)                 ? "it was deleted"
                                                    : "see its logs");
        condition_set(conditions, "Synchronized", "False", "PodFailed", text, v->now);
    } else if (waiting) {
        snprintf(text, sizeof(text), "container %s: %.900s", GET_TEXT(waiting, "name"),
                 *GET_TEXT(waiting, "state", "waiting", "message") ? GET_TEXT(waiting, "state", "waiting", "message")
                                                                   : GET_TEXT(waiting, "state", "waiting", "reason"));
        condition_set(conditions, "Synchronized", "False", GET_TEXT(waiting, "state", "waiting", "reason"), text,
                      v->now);
    } else if (pod && (is_among(reason, own_reasons, ELEMENTSOF(own_reasons)) ||
                       is_among(reason, bad_reasons, ELEMENTSOF(bad_reasons))))
        condition_remove(conditions, "Synchronized");
}

/* ---- status ----------------------------------------------------------------------------------------------------- */

static json_t *new_status(const struct view *v)
{
    json_t *status = json_deep_copy(GET(v->vmi, "status"));

    if (!status)
        status = json_object();
    if (!json_is_array(json_object_get(status, "conditions")))
        json_object_set_new(status, "conditions", json_array());
    return status;
}

/* What a claim offers, as KubeVirt says it; the overhead is its DefaultFSOverhead, where no CDI says otherwise. */
static json_t *claim_info(const json_t *claim)
{
    static const struct {
        const char *name, *in, *of;
    } facts[] = {{"accessModes", "spec", NULL}, {"capacity", "status", NULL}, {"requests", "spec", "resources"}};
    bool block = streq(GET_TEXT(claim, "spec", "volumeMode"), "Block");
    json_t *info =
        json_pack("{s:s, s:s, s:s}", "claimName", GET_TEXT(claim, "metadata", "name"), "volumeMode",
                  block ? "Block" : "Filesystem", "filesystemOverhead", block ? "0" : DEFAULT_FILESYSTEM_OVERHEAD);

    for (size_t i = 0; i < ELEMENTSOF(facts); i++) {
        json_t *from = GET(claim, facts[i].in), *fact;

        fact = json_object_get(facts[i].of ? json_object_get(from, facts[i].of) : from, facts[i].name);
        if (fact)
            json_object_set(info, facts[i].name, fact);
    }
    return info;
}

static void set_claims(const struct view *v, json_t *status)
{
    json_t *volume;
    size_t i;

    json_array_foreach (GET(v->vmi, "spec", "volumes"), i, volume) {
        const char *name = GET_TEXT(volume, "name"), *claim = GET_TEXT(volume, "persistentVolumeClaim", "claimName");
        json_t *object;

        if (!*claim)
            claim = GET_TEXT(volume, "dataVolume", "name");
        object = *claim && v->find ? v->find(&resource_claims, claim, v->userdata) : NULL;
        if (!object)
            continue;
        /* its name in the guest is the node agent's to say */
        json_object_set_new(volume_entry(volume_list(status), name), "persistentVolumeClaimInfo", claim_info(object));
        json_decref(object);
    }
}

/* What is written once, when the pod is there. */
static void set_facts(const struct view *v, json_t *status, const json_t *pod)
{
    const json_t *owner = controller_of(v->vmi);
    const char *generation = GET_TEXT(v->vmi, "metadata", "annotations", ANNOTATION_GENERATION);
    const char *uid = GET_TEXT(pod, "metadata", "uid"), *node = GET_TEXT(pod, "spec", "nodeName");
    const char *class = GET_TEXT(pod, "status", "qosClass"), *image;
    json_t *active;

    if (!json_object_get(status, "runtimeUser"))
        json_object_set_new(status, "runtimeUser", json_integer(LAUNCHER_UID));
    if (*generation && streq(GET_TEXT(owner, "kind"), "VirtualMachine"))
        json_object_set_new(status, "virtualMachineRevisionName",
                            json_sprintf("revision-start-vm-%s-%s", GET_TEXT(owner, "uid"), generation));
    if (!pod || !*node || streq(GET_TEXT(status, "phase"), "Scheduling"))
        return; /* with the write that says Scheduled */
    active = MAKE(status, "activePods");
    if (!vmi_is_final(v->vmi)) {
        set_claims(v, status);
        json_object_set_new(active, uid, json_string(node));
    }
    if (*class)
        json_object_set_new(status, "qosClass", json_string(class));
    image = pod_launcher_image(pod, v->settings ? v->settings->pod.launcher_image : NULL);
    if (image)
        json_object_set_new(status, "launcherContainerImageVersion", json_string(image));
}

static int plan_vmi_status(const struct view *v, const json_t *pod, const char *phase, json_t *status, struct plan *p)
{
    json_t *conditions = json_object_get(status, "conditions");
    const char *before = GET_TEXT(v->vmi, "status", "phase");

    set_phase(v, status, phase);
    set_ready(v, conditions, pod, phase);
    set_scheduled(v, conditions, pod);
    set_synchronized(v, conditions, pod, phase);
    set_facts(v, status, pod);
    if (streq(phase, "Scheduled") && is_before_handover(before)) {
        json_t *interfaces =
            pod_multus_interfaces(v->vmi, GET_TEXT(pod, "metadata", "annotations", ANNOTATION_NETWORK_STATUS));

        json_object_set_new(status, "nodeName", json_string(GET_TEXT(pod, "spec", "nodeName")));
        if (interfaces) /* the node agent adds to these, and keeps that Multus vouches for them */
            json_object_set_new(status, "interfaces", interfaces);
    }
    if (streq(phase, "Failed") && !streq(before, "Failed") && !is_before_handover(before) && !pod) {
        condition_set(conditions, "Synchronized", "False", "PodVanished",
                      "the launcher pod is gone, and nobody saw how the guest ended", v->now);
        plan_event_set(&p->said, true, "Stopped", "The launcher pod is gone: the virtual machine instance has failed");
    }
    return plan_status(p, &resource_vmis, v->vmi, status);
}

/* ---- making the pod --------------------------------------------------------------------------------------------- */

/* The name of a claim that a volume needs and that is not there, or NULL. */
static const char *missing_claim(const struct view *v)
{
    json_t *volume;
    size_t i;

    json_array_foreach (GET(v->vmi, "spec", "volumes"), i, volume) {
        const char *claim = GET_TEXT(volume, "persistentVolumeClaim", "claimName");

        if (!*claim)
            claim = GET_TEXT(volume, "dataVolume", "name");
        if (!*claim)
            claim = GET_TEXT(volume, "ephemeral", "persistentVolumeClaim", "claimName");
        if (*claim && !*v->claim_mode(claim, v->userdata))
            return claim;
    }
    return NULL;
}

/* The first disk that CDI has not filled yet: why, as a reason; NULL if there is none. */
static const char *unfilled_disk(const struct view *v, char *text, size_t size)
{
    json_t *volume;
    size_t i;

    json_array_foreach (GET(v->vmi, "spec", "volumes"), i, volume) {
        const char *name = GET_TEXT(volume, "dataVolume", "name"), *why;

        if (!*name)
            name = GET_TEXT(volume, "persistentVolumeClaim", "claimName");
        why = *name ? data_volume_waits(v, name, text, size) : NULL;
        if (why)
            return why;
    }
    return NULL;
}

static bool claim_is_block(const char *claim, void *userdata)
{
    const struct view *v = userdata;

    return streq(v->claim_mode(claim, v->userdata), "Block");
}

/* A manifest that says what vmlet cannot do never will start: the instance has failed, and says why. */
static int plan_bad_manifest(const struct view *v, struct faults *faults, const struct error *error, struct plan *p)
{
    _cleanup_free_ char *text = faults_format(faults);
    const char *why = text && *text ? text : error_message(error);
    json_t *status = new_status(v);
    size_t length = strlen(why);

    set_phase(v, status, "Failed");
    set_ready(v, json_object_get(status, "conditions"), NULL, "Failed");
    condition_set(json_object_get(status, "conditions"), "Synchronized", "False", "InvalidManifest", why, v->now);
    plan_event_set(&p->said, true, "FailedCreate", "The manifest cannot be run: %.*s",
                   (int)(length > 0 && why[length - 1] == '\n' ? length - 1 : length), why);
    return plan_status(p, &resource_vmis, v->vmi, status);
}

static int plan_pod(const struct view *v, struct plan *p)
{
    struct pod_options options = v->settings->pod;
    _cleanup_(faults_done) struct faults faults = {.source = "manifest"};
    _cleanup_error_ struct error *error = NULL;
    struct vmi *vmi = NULL;
    int r;

    r = vmi_load_text(v->vmi_text, strlen(v->vmi_text), "manifest",
                      &(struct vmi_load_options){.default_arch = v->settings->default_arch}, &vmi, &faults, &error);
    if (r == -ENOMEM)
        return r;
    if (r < 0)
        return plan_bad_manifest(v, &faults, error, p);
    options.claim_is_block = claim_is_block;
    options.userdata = (void *)(uintptr_t)v;
    r = pod_render(vmi, &options, &p->body, NULL);
    vmi_free(vmi);
    if (r < 0)
        return r;
    p->any = true;
    p->verb = KUBE_CREATE;
    p->resource = &resource_pods;
    p->failed_reason = "FailedCreate";
    plan_event_set(&p->done, false, "SuccessfulCreate", "Created virtual machine pod %s",
                   GET_TEXT(p->body, "metadata", "name"));
    return 0;
}

static int plan_create(const struct view *v, struct plan *p)
{
    char text[1200];
    const char *unfilled = unfilled_disk(v, text, sizeof(text)), *claim = unfilled ? NULL : missing_claim(v);
    const char *phase = GET_TEXT(v->vmi, "status", "phase"), *reason = unfilled;
    json_t *status;

    if (!claim && !unfilled && !v->failure)
        return plan_pod(v, p);
    status = new_status(v);
    if (claim) {
        reason = "FailedPvcNotFound";
        snprintf(text, sizeof(text), "the volume claim %s is not there", claim);
    }
    if (reason) {
        condition_set(json_object_get(status, "conditions"), "Synchronized", "False", reason, text, v->now);
        if (!streq(GET_TEXT(condition_find(GET(v->vmi, "status", "conditions"), "Synchronized"), "message"), text))
            plan_event_set(&p->said, !streq(reason, "Provisioning"), reason, "Waiting: %s", text);
    }
    return plan_vmi_status(v, NULL, *phase ? phase : "Pending", status, p);
}

/* ---- the end ---------------------------------------------------------------------------------------------------- */

static int plan_end(const struct view *v, struct plan *p)
{
    json_t *list, *item, *pod = current_pod(v->pods);
    int64_t again = 0;
    size_t i;

    json_array_foreach (v->pods, i, item)
        if (!is_deleting(item)) {
            plan_delete(p, &resource_pods, item);
            p->failed_reason = "FailedDelete";
            plan_event_set(&p->done, false, "SuccessfulDelete", "Deleted virtual machine pod %s", p->name);
            return 0;
        }
    if (pod) /* fencing: the instance is there as long as a process of it may run */
        return plan_vmi_status(v, pod, next_phase(v, pod, &again), new_status(v), p);
    if (!has_finalizer(v->vmi, VMI_FINALIZER) && !has_finalizer(v->vmi, VMI_FINALIZER_OLD))
        return 0;
    list = json_array();
    json_array_foreach (GET(v->vmi, "metadata", "finalizers"), i, item)
        if (!streq_ptr(json_string_value(item), VMI_FINALIZER) &&
            !streq_ptr(json_string_value(item), VMI_FINALIZER_OLD))
            json_array_append(list, item);
    return plan_finalizers(p, &resource_vmis, v->vmi, list);
}

/* An instance that nobody of ours made: finalizer, presets and defaults, in one write. */
static int plan_admit(const struct view *v, struct plan *p)
{
    json_t *metadata = json_deep_copy(GET(v->vmi, "metadata")), *spec = json_deep_copy(GET(v->vmi, "spec")), *empty,
           *patch, *part, *finalizers = json_object_get(metadata, "finalizers");
    int r;

    if (!finalizers) {
        finalizers = json_array();
        json_object_set_new(metadata, "finalizers", finalizers);
    }
    json_array_append_new(finalizers, json_string(VMI_FINALIZER));
    r = vmi_apply_presets(metadata, spec, v->presets, &p->said);
    if (r >= 0)
        r = vmi_fill_defaults(spec, NULL);
    patch = json_pack("{s:s, s:s, s:O}", "resourceVersion", GET_TEXT(v->vmi, "metadata", "resourceVersion"), "uid",
                      GET_TEXT(v->vmi, "metadata", "uid"), "finalizers", finalizers);
    if (GET(metadata, "annotations"))
        json_object_set(patch, "annotations", GET(metadata, "annotations"));
    p->body = json_pack("{s:o}", "metadata", patch);
    empty = json_object();
    part = merge_diff(GET(v->vmi, "spec") ? GET(v->vmi, "spec") : empty, spec);
    if (part)
        json_object_set_new(p->body, "spec", part);
    json_decref(empty);
    json_decref(metadata);
    json_decref(spec);
    p->any = true;
    p->verb = KUBE_PATCH_MERGE;
    p->resource = &resource_vmis;
    p->name = GET_TEXT(v->vmi, "metadata", "name");
    p->failed_reason = "FailedCreate";
    return r < 0 || !p->body ? -ENOMEM : 0;
}

/* ---- after the hand-over ---------------------------------------------------------------------------------------- */

/* The label by which the node agent finds its instances. */
static int plan_node_label(const struct view *v, struct plan *p)
{
    p->any = true;
    p->verb = KUBE_PATCH_MERGE;
    p->resource = &resource_vmis;
    p->name = GET_TEXT(v->vmi, "metadata", "name");
    p->body = json_pack("{s:{s:s, s:{s:s}}}", "metadata", "uid", GET_TEXT(v->vmi, "metadata", "uid"), "labels",
                        LABEL_NODE, GET_TEXT(v->vmi, "status", "nodeName"));
    return p->body ? 0 : -ENOMEM;
}

/* The pod counts as ready, so that services send traffic to the guest, while the guest runs. */
static int plan_readiness_gate(const struct view *v, const json_t *pod, struct plan *p)
{
    bool paused = condition_is(GET(v->vmi, "status", "conditions"), "Paused", "True");
    const char *wanted = streq(GET_TEXT(v->vmi, "status", "phase"), "Running") && !paused ? "True" : "False";
    const json_t *gate = condition_find(GET(pod, "status", "conditions"), CONDITION_UNPAUSED);
    char time[KUBE_TIME_SIZE];

    if (!pod || is_deleting(pod) || pod_is_final(pod) || streq(GET_TEXT(gate, "status"), wanted) ||
        (!gate && streq(wanted, "False")))
        return 0;
    kube_time(v->now, time);
    p->any = true;
    p->verb = KUBE_APPLY; /* one entry of a list that kubelet writes too */
    p->resource = &resource_pods;
    p->name = GET_TEXT(pod, "metadata", "name");
    p->subresource = "status";
    p->body = json_pack("{s:s, s:s, s:{s:s, s:s}, s:{s:[{s:s, s:s, s:s, s:s, s:s}]}}", "apiVersion", "v1", "kind",
                        "Pod", "metadata", "name", p->name, "uid", GET_TEXT(pod, "metadata", "uid"), "status",
                        "conditions", "type", CONDITION_UNPAUSED, "status", wanted, "lastTransitionTime", time,
                        "reason", paused ? "Paused" : "NotPaused", "message",
                        paused ? "the virtual machine is paused" : "the virtual machine is not paused");
    return p->body ? 0 : -ENOMEM;
}

int plan_vmi(const struct view *v, struct plan *p)
{
    json_t *pod = current_pod(v->pods);
    const char *phase = GET_TEXT(v->vmi, "status", "phase"), *node = GET_TEXT(v->vmi, "status", "nodeName");
    int r;

    if (is_deleting(v->vmi))
        return plan_end(v, p);
    if (!has_finalizer(v->vmi, VMI_FINALIZER) && !has_finalizer(v->vmi, VMI_FINALIZER_OLD) && !vmi_is_final(v->vmi))
        return plan_admit(v, p);
    if (!pod && (!*phase || streq(phase, "Pending")))
        return plan_create(v, p);
    r = plan_vmi_status(v, pod, next_phase(v, pod, &p->again_seconds), new_status(v), p);
    if (r < 0 || p->any || vmi_is_final(v->vmi))
        return r;
    if (*node && !streq(GET_TEXT(v->vmi, "metadata", "labels", LABEL_NODE), node))
        return plan_node_label(v, p);
    return plan_readiness_gate(v, pod, p);
}
