/* SPDX-License-Identifier: Apache-2.0 */
/* VirtualMachine: whether its instance is to be there (compat §6.1 to §6.5). */
#include <stdio.h>

#include "base/limits.h"
#include "k8s/client/ktime.h"
#include "k8s/controller/plan.h"
#include "vmi/uuid.h"

#define STRATEGY_ALWAYS  "Always"
#define STRATEGY_HALTED  "Halted"
#define STRATEGY_MANUAL  "Manual"
#define STRATEGY_RERUN   "RerunOnFailure"
#define STRATEGY_ONCE    "Once"
#define STRATEGY_RECEIVE "WaitAsReceiver"

enum action {
    ACTION_NONE,
    ACTION_START,
    ACTION_STOP,   /* delete the VMI */
    ACTION_ALWAYS, /* a start request for a VM that is halted: it is to run from now on */
};

static const char *strategy_of(const json_t *vm)
{
    const char *strategy = GET_TEXT(vm, "spec", "runStrategy");

    if (*strategy)
        return strategy;
    return json_is_true(GET(vm, "spec", "running")) ? STRATEGY_ALWAYS : STRATEGY_HALTED;
}

/* ---- state-change requests -------------------------------------------------------------------------------------- */

static const json_t *first_request(const json_t *status)
{
    return json_array_get(json_object_get(status, "stateChangeRequests"), 0);
}

static bool is_request(const json_t *request, const char *action)
{
    return streq(GET_TEXT(request, "action"), action);
}

/* Is this request done? A Start once there is an instance, a Stop once that instance is gone or has ended. */
static bool is_done(const json_t *request, const json_t *vmi)
{
    const char *uid = GET_TEXT(request, "uid");

    if (is_request(request, "Start"))
        return vmi && !vmi_is_final(vmi) && !is_deleting(vmi);
    return !vmi || vmi_is_final(vmi) || (*uid && !streq(uid, GET_TEXT(vmi, "metadata", "uid")));
}

static void drop_done_requests(json_t *status, const json_t *vmi)
{
    json_t *list = json_object_get(status, "stateChangeRequests");

    while (json_array_size(list) > 0 && is_done(json_array_get(list, 0), vmi))
        json_array_remove(list, 0);
    if (list && json_array_size(list) == 0)
        json_object_del(status, "stateChangeRequests");
}

/* ---- failures to start ------------------------------------------------------------------------------------------ */

/* Why an instance ended before its guest ran: what its controllers wrote down. */
static const char *why_it_failed(const json_t *vmi)
{
    static const char *const types[] = {"Synchronized", "PodScheduled", "Ready"};

    for (size_t i = 0; i < ELEMENTSOF(types); i++) {
        const char *message = GET_TEXT(condition_find(GET(vmi, "status", "conditions"), types[i]), "message");

        if (*message)
            return message;
    }
    return "the instance ended before its guest ran";
}

/* Counts a failure once, and says when to try again: n² times 10 s, up to half as much more, at most 300 s. */
static void note_failure(const struct view *v, json_t *status, struct plan *p)
{
    const char *uid = GET_TEXT(v->vmi, "metadata", "uid");
    int64_t n = GET_NUMBER(status, "startFailure", "consecutiveFailCount") + 1, delay;
    char time[KUBE_TIME_SIZE];

    if (streq(GET_TEXT(status, "startFailure", "lastFailedVMIUID"), uid))
        return;
    delay = n >= 6 ? VM_BACKOFF_LAST_SECONDS : VM_BACKOFF_FIRST_SECONDS * n * n;
    delay += (int64_t)(v->random % (uint32_t)(delay / 2 + 1));
    delay = MIN(delay, VM_BACKOFF_LAST_SECONDS);
    kube_time(v->now + delay, time);
    json_object_set_new(status, "startFailure",
                        json_pack("{s:I, s:s, s:s}", "consecutiveFailCount", (json_int_t)n, "lastFailedVMIUID", uid,
                                  "retryAfterTimestamp", time));
    condition_set(json_object_get(status, "conditions"), "Failure", "True", "StartFailed", why_it_failed(v->vmi),
                  v->now);
    plan_event_set(&p->said, true, "StartFailed", "The instance did not start (attempt %lld): %s. Next attempt at %s",
                   (long long)n, why_it_failed(v->vmi), time);
}

/* What must be written down before the instance may be deleted; the rest of the status can be made again any time. */
static json_t *status_before_action(const struct view *v, const char *strategy, struct plan *p)
{
    json_t *status = json_deep_copy(GET(v->vm, "status"));

    if (!status)
        status = json_object();
    if (!json_is_array(json_object_get(status, "conditions")))
        json_object_set_new(status, "conditions", json_array());
    if (v->vmi && streq(GET_TEXT(v->vmi, "status", "phase"), "Failed") && !vmi_was_running(v->vmi) &&
        !is_deleting(v->vmi))
        note_failure(v, status, p);
    if ((v->vmi && vmi_was_running(v->vmi)) || streq(strategy, STRATEGY_HALTED)) {
        json_object_del(status, "startFailure");
        if (streq(GET_TEXT(condition_find(json_object_get(status, "conditions"), "Failure"), "reason"), "StartFailed"))
            condition_remove(json_object_get(status, "conditions"), "Failure");
    }
    if (streq(strategy, STRATEGY_RERUN) && v->vmi && streq(GET_TEXT(v->vmi, "status", "phase"), "Failed") &&
        !is_deleting(v->vmi) && !first_request(status))
        json_object_set_new(status, "stateChangeRequests", json_pack("[{s:s}]", "action", "Start"));
    drop_done_requests(status, v->vmi);
    return status;
}

/* ---- what to do ------------------------------------------------------------------------------------------------- */

static enum action decide(const struct view *v, const char *strategy, const json_t *status)
{
    const json_t *request = first_request(status);
    bool start = request && is_request(request, "Start"), stop = request && is_request(request, "Stop");
    bool halted = streq(strategy, STRATEGY_HALTED), once = streq(strategy, STRATEGY_ONCE);

    if (v->vmi && is_deleting(v->vmi))
        return ACTION_NONE; /* fencing: not before this one is gone */
    if (halted)
        return v->vmi ? ACTION_STOP : start ? ACTION_ALWAYS : ACTION_NONE;
    if (v->vmi && stop && !once)
        return ACTION_STOP;
    if (v->vmi && vmi_is_final(v->vmi)) {
        if (once || (streq(strategy, STRATEGY_MANUAL) && !start))
            return ACTION_NONE;
        return ACTION_STOP;
    }
    if (v->vmi || stop)
        return ACTION_NONE;
    if (streq(strategy, STRATEGY_MANUAL))
        return start ? ACTION_START : ACTION_NONE;
    if (streq(strategy, STRATEGY_RERUN))
        return start || !streq(GET_TEXT(status, "runStrategy"), STRATEGY_RERUN) ? ACTION_START : ACTION_NONE;
    return ACTION_START; /* Always, Once, WaitAsReceiver */
}

static int64_t seconds_to_wait(const struct view *v, const json_t *status)
{
    int64_t after = kube_time_parse(GET_TEXT(status, "startFailure", "retryAfterTimestamp"));

    return after > v->now ? after - v->now : 0;
}

/* The template as it was when the instance was made from it, for people and for a later comparison. */
static json_t *make_revision(const json_t *vm, char **ret_name)
{
    int64_t generation = GET_NUMBER(vm, "metadata", "generation");
    json_t *revision;

    if (asprintf(ret_name, "revision-start-vm-%s-%lld", GET_TEXT(vm, "metadata", "uid"), (long long)generation) < 0) {
        *ret_name = NULL;
        return NULL;
    }
    revision =
        json_pack("{s:s, s:s, s:{s:s, s:s, s:o}, s:{s:O}, s:i}", "apiVersion", "apps/v1", "kind", "ControllerRevision",
                  "metadata", "name", *ret_name, "namespace", GET_TEXT(vm, "metadata", "namespace"), "ownerReferences",
                  owner_reference(vm, API_VERSION, "VirtualMachine"), "data", "spec", GET(vm, "spec"), "revision", 1);
    return revision;
}

/* What an instance was made from, as the VM's specification has it. */
static void template_hash(const json_t *vm, char hash[static 17])
{
    const json_t *type = GET(vm, "spec", "instancetype"), *preference = GET(vm, "spec", "preference");
    json_t *all;

    if (!type && !preference) {
        json_hash(GET(vm, "spec", "template", "spec"), hash);
        return;
    }
    all = json_pack("[O?, O?, O?]", GET(vm, "spec", "template", "spec"), type, preference);
    json_hash(all, hash);
    json_decref(all);
}

json_t *vm_make_vmi(const json_t *vm, const json_t *template, const json_t *presets, bool paused,
                    struct plan_event *said)
{
    json_t *metadata = json_object(), *spec = json_deep_copy(GET(template, "spec")), *annotations, *part;
    char uuid[UUID_TEXT_LENGTH + 1], hash[17];

    if (!spec)
        spec = json_object();
    part = GET(template, "metadata", "labels");
    if (json_is_object(part))
        json_object_set_new(metadata, "labels", json_deep_copy(part));
    part = GET(template, "metadata", "annotations");
    annotations = json_is_object(part) ? json_deep_copy(part) : json_object();
    template_hash(vm, hash);
    json_object_set_new(annotations, ANNOTATION_GENERATION,
                        json_sprintf("%lld", (long long)GET_NUMBER(vm, "metadata", "generation")));
    json_object_set_new(annotations, ANNOTATION_TEMPLATE, json_string(hash));
    json_object_set_new(metadata, "annotations", annotations);
    json_object_set_new(metadata, "name", json_string(GET_TEXT(vm, "metadata", "name")));
    json_object_set_new(metadata, "namespace", json_string(GET_TEXT(vm, "metadata", "namespace")));
    json_object_set_new(metadata, "finalizers", json_pack("[s]", VMI_FINALIZER));
    json_object_set_new(metadata, "ownerReferences", owner_reference(vm, API_VERSION, "VirtualMachine"));
    if (paused)
        json_object_set_new(spec, "startStrategy", json_string("Paused"));
    uuid_v5(KUBEVIRT_FIRMWARE_NAMESPACE, GET_TEXT(vm, "metadata", "name"), uuid);
    if (vmi_apply_presets(metadata, spec, presets, said) < 0 || vmi_fill_defaults(spec, uuid) < 0) {
        json_decref(metadata);
        json_decref(spec);
        return NULL;
    }
    return json_pack("{s:s, s:s, s:o, s:o}", "apiVersion", API_VERSION, "kind", "VirtualMachineInstance", "metadata",
                     metadata, "spec", spec);
}

static int plan_start(const struct view *v, const char *strategy, const json_t *status, const json_t *template,
                      struct plan *p)
{
    const json_t *request = first_request(status);
    bool paused = is_request(request, "Start") && streq(GET_TEXT(request, "data", "paused"), "true");
    json_t *vmi = vm_make_vmi(v->vm, template, v->presets, paused, &p->said);

    if (!vmi)
        return -ENOMEM;
    if (streq(strategy, STRATEGY_RECEIVE))
        json_object_set_new(GET(vmi, "metadata", "annotations"), "kubevirt.io/create-migration-target",
                            json_string("true"));
    p->any = true;
    p->verb = KUBE_CREATE;
    p->resource = &resource_vmis;
    p->body = vmi;
    p->revision = make_revision(v->vm, &p->own_name);
    free(TAKE_PTR(p->own_name));
    if (!p->revision)
        return -ENOMEM;
    p->failed_reason = "FailedCreate";
    plan_event_set(&p->done, false, "SuccessfulCreate",
                   "Started the virtual machine by creating the new virtual machine instance %s",
                   GET_TEXT(v->vm, "metadata", "name"));
    return 0;
}

static void plan_stop(const struct view *v, struct plan *p)
{
    const char *name = GET_TEXT(v->vmi, "metadata", "name");

    plan_delete(p, &resource_vmis, v->vmi);
    p->failed_reason = "FailedDelete";
    plan_event_set(&p->done, false, "SuccessfulDelete",
                   "Stopped the virtual machine by deleting the virtual machine instance %s", name);
}

/* Only the field that the manifest uses is changed: the two exclude each other. */
static int plan_run_always(const struct view *v, struct plan *p)
{
    bool by_running = GET(v->vm, "spec", "running");

    p->any = true;
    p->verb = KUBE_PATCH_MERGE;
    p->resource = &resource_vms;
    p->name = GET_TEXT(v->vm, "metadata", "name");
    p->body = json_pack("{s:{s:s}, s:{s:o}}", "metadata", "resourceVersion",
                        GET_TEXT(v->vm, "metadata", "resourceVersion"), "spec", by_running ? "running" : "runStrategy",
                        by_running ? json_true() : json_string(STRATEGY_ALWAYS));
    return p->body ? 0 : -ENOMEM;
}

/* ---- status ----------------------------------------------------------------------------------------------------- */

static bool is_starting(const char *phase)
{
    return !*phase || streq(phase, "Pending") || streq(phase, "Scheduling") || streq(phase, "Scheduled") ||
           streq(phase, "WaitingForSync");
}

const char *vm_printable_status(const json_t *vm, const json_t *vmi, const char *strategy, const json_t *status)
{
    const char *phase = GET_TEXT(vmi, "status", "phase");
    const json_t *conditions = GET(vmi, "status", "conditions");
    const json_t *scheduled = condition_find(conditions, "PodScheduled");
    const char *reason = GET_TEXT(condition_find(conditions, "Synchronized"), "reason");

    if (is_deleting(vm))
        return "Terminating";
    if (vmi && !vmi_is_final(vmi) && is_deleting(vmi))
        return "Stopping";
    if (GET(vmi, "status", "migrationState") && !json_is_true(GET(vmi, "status", "migrationState", "completed")) &&
        streq(phase, "Running"))
        return "Migrating";
    if (streq(phase, "Running"))
        return condition_is(conditions, "Paused", "True") ? "Paused" : "Running";
    if (vmi && streq(phase, "WaitingForSync"))
        return "WaitingForReceiver";
    if (vmi && is_starting(phase)) {
        if (streq(reason, "FailedPvcNotFound"))
            return "ErrorPvcNotFound";
        if (streq(reason, "DataVolumeError"))
            return reason;
        if (condition_is(conditions, "PodScheduled", "False") && streq(GET_TEXT(scheduled, "reason"), "Unschedulable"))
            return "ErrorUnschedulable";
        if (streq(reason, "Provisioning") || streq(reason, "WaitingForVolumeBinding"))
            return reason;
        if (streq(reason, "ErrImagePull") || streq(reason, "ImagePullBackOff"))
            return reason;
        return "Starting";
    }
    if (!vmi && GET_NUMBER(status, "startFailure", "consecutiveFailCount") > 0 &&
        (streq(strategy, STRATEGY_ALWAYS) || streq(strategy, STRATEGY_RERUN) || streq(strategy, STRATEGY_ONCE)))
        return "CrashLoopBackOff";
    if (!vmi || vmi_is_final(vmi))
        return "Stopped";
    return "Unknown";
}

/* The VMI's conditions are the VM's too; those that it has no more go. Failure and RestartRequired are the VM's own. */
static void copy_conditions(const struct view *v, json_t *status)
{
    json_t *own = json_object_get(status, "conditions"), *theirs = GET(v->vmi, "status", "conditions"), *condition,
           *list;
    size_t i;

    if (!condition_find(theirs, "Ready"))
        condition_set(own, "Ready", "False", v->vmi ? "VMIConditionMissing" : "VMINotExists",
                      v->vmi ? "VMI is missing the Ready condition" : "VMI does not exist", v->now);
    list = json_array();
    json_array_foreach (own, i, condition) {
        const char *type = GET_TEXT(condition, "type");

        if (condition_find(theirs, type))
            json_array_append(list, condition_find(theirs, type));
        else if (streq(type, "Ready") || streq(type, "Failure") || streq(type, "RestartRequired") ||
                 streq(type, "ManualRecoveryRequired"))
            json_array_append(list, condition);
    }
    json_array_foreach (theirs, i, condition)
        if (!condition_find(own, GET_TEXT(condition, "type")))
            json_array_append(list, condition);
    json_object_set_new(status, "conditions", list);
}

static void note_restart_required(const struct view *v, json_t *status)
{
    const char *made_from = GET_TEXT(v->vmi, "metadata", "annotations", ANNOTATION_TEMPLATE);
    json_t *conditions = json_object_get(status, "conditions");
    char hash[17];

    template_hash(v->vm, hash);
    if (v->vmi && !vmi_is_final(v->vmi) && *made_from && !streq(made_from, hash))
        condition_set(conditions, "RestartRequired", "True", "RestartRequired",
                      "the template has changed since the instance was started: the change takes effect when it is "
                      "started anew",
                      v->now);
    else
        condition_remove(conditions, "RestartRequired");
}

/* `status` is taken over. */
static int plan_vm_status(const struct view *v, const char *strategy, bool start_pending, json_t *status,
                          struct plan *p)
{
    json_t *conditions = json_object_get(status, "conditions");
    int64_t generation = GET_NUMBER(v->vm, "metadata", "generation");
    const char *started = GET_TEXT(v->vmi, "metadata", "annotations", ANNOTATION_GENERATION);
    const char *own = GET_TEXT(condition_find(conditions, "Failure"), "reason");

    if (v->failure)
        condition_set(conditions, "Failure", "True", "FailedSync", v->failure, v->now);
    else if (streq(own, "FailedSync"))
        condition_remove(conditions, "Failure");
    note_restart_required(v, status);
    copy_conditions(v, status);
    json_object_set_new(status, "created", json_boolean(v->vmi));
    json_object_set_new(status, "ready",
                        json_boolean(condition_is(json_object_get(status, "conditions"), "Ready", "True")));
    json_object_set_new(
        status, "printableStatus",
        json_string(v->printable ? v->printable : vm_printable_status(v->vm, v->vmi, strategy, status)));
    json_object_set_new(status, "desiredGeneration", json_integer(generation));
    if (*started)
        json_object_set_new(status, "observedGeneration", json_integer(strtoll(started, NULL, 10)));
    if (!start_pending)
        json_object_set_new(status, "runStrategy", json_string(strategy));
    return plan_status(p, &resource_vms, v->vm, status);
}

/* ---- the plan --------------------------------------------------------------------------------------------------- */

static int plan_remove_finalizer(const struct view *v, struct plan *p)
{
    json_t *list = json_array(), *finalizer;
    size_t i;

    json_array_foreach (GET(v->vm, "metadata", "finalizers"), i, finalizer)
        if (!streq_ptr(json_string_value(finalizer), VM_FINALIZER))
            json_array_append(list, finalizer);
    return plan_finalizers(p, &resource_vms, v->vm, list);
}

static int plan_add_finalizer(const struct view *v, struct plan *p)
{
    json_t *before = GET(v->vm, "metadata", "finalizers"), *list = before ? json_deep_copy(before) : json_array();

    json_array_append_new(list, json_string(VM_FINALIZER));
    return plan_finalizers(p, &resource_vms, v->vm, list);
}

/* The VM goes: its instance first, unless that is to stay (kubectl delete --cascade=orphan; the garbage collector takes
 * the owner reference from it then). */
static int plan_end(const struct view *v, const char *strategy, struct plan *p)
{
    if (!has_finalizer(v->vm, VM_FINALIZER))
        return 0;
    if (!v->vmi || has_finalizer(v->vm, "orphan"))
        return plan_remove_finalizer(v, p);
    if (!is_deleting(v->vmi)) {
        plan_stop(v, p);
        return 0;
    }
    return plan_vm_status(v, strategy, false, status_before_action(v, strategy, p), p);
}

/* An instance of our name that is nobody's is ours: it was left by a VM of this name. */
static int plan_adopt(const struct view *v, struct plan *p)
{
    json_t *references = json_deep_copy(GET(v->vmi, "metadata", "ownerReferences")),
           *ours = owner_reference(v->vm, API_VERSION, "VirtualMachine");

    if (!references)
        references = json_array();
    json_array_extend(references, ours);
    json_decref(ours);
    p->any = true;
    p->verb = KUBE_PATCH_MERGE;
    p->resource = &resource_vmis;
    p->name = GET_TEXT(v->vmi, "metadata", "name");
    p->body =
        json_pack("{s:{s:s, s:s, s:o}}", "metadata", "resourceVersion", GET_TEXT(v->vmi, "metadata", "resourceVersion"),
                  "uid", GET_TEXT(v->vmi, "metadata", "uid"), "ownerReferences", references);
    p->failed_reason = "FailedAdopt";
    plan_event_set(&p->done, false, "SuccessfulAdopt", "Adopted the virtual machine instance %s", p->name);
    return p->body ? 0 : -ENOMEM;
}

static int plan_foreign(const struct view *v, const char *strategy, struct plan *p)
{
    struct view without = *v;
    json_t *owner = controller_of(v->vmi);
    char text[700];

    snprintf(
        text, sizeof(text),
        "there is a virtual machine instance of this name, which belongs to %s %s: nothing is done until it is gone",
        GET_TEXT(owner, "kind"), GET_TEXT(owner, "name"));
    without.vmi = NULL;
    without.failure = text;
    return plan_vm_status(&without, strategy, false, status_before_action(&without, strategy, p), p);
}

/* What must be there before the instance is made. `status` is taken over. */
static int plan_first(const struct view *v, const char *strategy, json_t *status, struct plan *p)
{
    struct view with = *v;
    _cleanup_free_ char *failure = NULL;
    json_t *template, *volume;
    char text[1200];
    size_t i;
    int r;

    json_array_foreach (GET(v->vm, "spec", "dataVolumeTemplates"), i, volume) {
        with.printable = data_volume_waits(v, GET_TEXT(volume, "metadata", "name"), text, sizeof(text));
        if (!with.printable)
            continue;
        if (streq(with.printable, "Provisioning"))
            with.failure = NULL; /* it takes its time */
        else
            with.failure = text;
        return plan_vm_status(&with, strategy, true, status, p);
    }
    r = vm_expand(v, status, p, &template, &failure);
    if (r == 2)
        return plan_vm_status(v, strategy, true, status, p);
    if (r == -EINVAL) {
        with.failure = failure;
        return plan_vm_status(&with, strategy, true, status, p);
    }
    if (r == 0)
        r = plan_start(v, strategy, status, template, p);
    json_decref(template);
    json_decref(status);
    return r < 0 ? r : 0;
}

/* 1: a DataVolume, or why there is none, is what is to be written. */
static int plan_disks(const struct view *v, const char *strategy, struct plan *p)
{
    struct view with = *v;
    char text[1200];
    int r = v->failure ? 0 : plan_data_volumes(v, p, text, sizeof(text));

    if (r != -EINVAL || v->vmi)
        return r == -EINVAL ? 0 : r;
    with.failure = text;
    with.printable = "DataVolumeError";
    p->again_seconds = DATA_VOLUMES_AGAIN_SECONDS;
    r = plan_vm_status(&with, strategy, true, status_before_action(v, strategy, p), p);
    return r < 0 ? r : 1;
}

int plan_vm(const struct view *v, struct plan *p)
{
    const char *strategy = strategy_of(v->vm);
    bool ours = v->vmi && is_controlled_by(v->vmi, v->vm);
    struct view without = *v;
    enum action action;
    json_t *status, *before;
    int64_t wait;
    int r;

    if (is_deleting(v->vm)) {
        if (!ours)
            without.vmi = NULL;
        return plan_end(&without, strategy, p);
    }
    if (!has_finalizer(v->vm, VM_FINALIZER))
        return plan_add_finalizer(v, p);
    if (v->vmi && !ours && !controller_of(v->vmi) && !is_deleting(v->vmi))
        return plan_adopt(v, p);
    if (v->vmi && !ours)
        return plan_foreign(v, strategy, p);

    if (GET(v->vm, "spec", "dataVolumeTemplates")) {
        r = plan_disks(v, strategy, p);
        if (r != 0)
            return r < 0 ? r : 0;
    }
    status = status_before_action(v, strategy, p);
    action = decide(v, strategy, status);
    before = GET(v->vm, "status", "startFailure");
    /* what would be lost with the instance is written down before it is deleted */
    if (action == ACTION_STOP &&
        (!json_equal(before ? before : json_null(),
                     json_object_get(status, "startFailure") ? json_object_get(status, "startFailure") : json_null()) ||
         (streq(strategy, STRATEGY_RERUN) && first_request(status) && !first_request(GET(v->vm, "status")))))
        return plan_vm_status(v, strategy, false, status, p);
    wait = action == ACTION_START ? seconds_to_wait(v, status) : 0;
    if (wait > 0)
        p->again_seconds = wait;
    if (action == ACTION_NONE && v->vmi && !v->failure && !*GET_TEXT(v->vmi, "status", "phase")) {
        json_decref(status); /* just made: its first status comes at once, and with it the one write for both */
        return 0;
    }
    if (action == ACTION_NONE || wait > 0 || v->failure) {
        r = plan_vm_status(v, strategy, action == ACTION_START, status, p);
        return r;
    }
    if (action == ACTION_START)
        return plan_first(v, strategy, status, p);
    r = action == ACTION_ALWAYS ? plan_run_always(v, p) : (plan_stop(v, p), 0);
    json_decref(status);
    return r;
}
