/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What to do next about one object. The three planners are pure: they look at objects and at the clock they are given,
 * and name at most one write. The controller does it, takes the answer into its cache, and asks again, until nothing is
 * left to do: so a controller that dies between two writes, or a second one that takes over, goes on from what is
 * there.
 *
 * Nothing is made twice, also from a cache that lags: the names of what is made follow from the UID of what it is made
 * for, so the API server refuses the second one; deletions name the UID; status is written on the resourceVersion that
 * it was decided on.
 */
#pragma once

#include "k8s/client/client.h"
#include "k8s/controller/object.h"
#include "k8s/render/pod.h"

#define VM_FINALIZER      "kubevirt.io/virtualMachineControllerFinalize"
#define VMI_FINALIZER     "kubevirt.io/foregroundDeleteVirtualMachine"
#define VMI_FINALIZER_OLD "foregroundDeleteVirtualMachine"
#define API_VERSION       "kubevirt.io/v1"
#define MANAGER           "virt-controller"

#define ANNOTATION_GENERATION "kubevirt.io/vm-generation"
#define ANNOTATION_TEMPLATE   "vmlet/template-hash" /* of the template that a VMI was made from */
#define LABEL_NODE            "kubevirt.io/nodeName"
#define CONDITION_UNPAUSED    "kubevirt.io/virtual-machine-unpaused"

extern const struct kube_resource resource_vms, resource_vmis, resource_replica_sets, resource_presets, resource_pods,
    resource_claims, resource_revisions, resource_data_volumes, resource_migrations;

enum type_kind { /* instance types and preferences, of a namespace and of the cluster */
                 TYPE_INSTANCETYPE,
                 TYPE_CLUSTER_INSTANCETYPE,
                 TYPE_PREFERENCE,
                 TYPE_CLUSTER_PREFERENCE,
                 TYPE_KINDS,
};
extern const struct kube_resource resource_types[TYPE_KINDS];

struct settings {
    struct pod_options pod;
    const char *default_arch; /* of a VMI that names none; NULL: amd64 */
};

/* All that a planner may look at. Borrowed. */
struct view {
    int64_t now;
    uint32_t random;
    const struct settings *settings;
    json_t *vm, *vmi, *replica_set, *migration; /* what the plan is for, and the VMI of a VM; NULL: not there */
    const char *vmi_text;                       /* the VMI as JSON text */
    json_t *pods;                               /* list: of the VMI */
    json_t *vmis;                               /* list: of a replica set's namespace, owned by it or by nobody */
    json_t *presets;                            /* list: of the namespace */
    /* The claim's volumeMode, "" if it is not there. */
    const char *(*claim_mode)(const char *claim, void *userdata);
    /* A claim, a DataVolume, an instance type or preference that the cache has; a new reference, or NULL. */
    json_t *(*find)(const struct kube_resource *resource, const char *name, void *userdata);
    bool has_data_volumes; /* CDI is installed */
    json_t *fetched;       /* ControllerRevisions that plans of this turn read or made: by name; false: not there; true:
                              there, and not read */
    void *userdata;
    const char *failure; /* what went wrong last time: goes into the status, and nothing else is done; NULL: nothing */
    const char *printable; /* the VM's printableStatus, when its instance does not say it; NULL: it does */
};

struct plan_event {
    const char *reason; /* NULL: none */
    bool warning;
    char *text;
};

struct plan {
    bool any;
    enum kube_verb verb;
    const struct kube_resource *resource;
    const char *name; /* borrowed from the view's objects, or `own_name` */
    char *own_name;
    const char *subresource, *uid;
    json_t *body;
    json_t *revision;             /* a ControllerRevision that is made first; it may be there already */
    struct plan_event done, said; /* after the write; the second with it, whatever becomes of it */
    const char *failed_reason;    /* of the Warning event when the write is refused */
    int64_t again_seconds;        /* look again after this time, if nothing else happens; 0: no need */
};

void plan_done(struct plan *plan);
/* 0 or -ENOMEM. A plan without `any`: nothing is to be done (before again_seconds). */
int plan_vm(const struct view *view, struct plan *ret);
int plan_vmi(const struct view *view, struct plan *ret);
int plan_replica_set(const struct view *view, struct plan *ret);
int plan_migration(const struct view *view, struct plan *ret);

/* ---- parts, also for tests ---- */

void plan_event_set(struct plan_event *event, bool warning, const char *reason, const char *format, ...) _printf_(4, 5);
/* A patch of the object's status from what it has to `status` (taken over); no plan when they are equal. */
int plan_status(struct plan *plan, const struct kube_resource *resource, const json_t *object, json_t *status);
/* The finalizer list of `object` is to be this list (taken over). */
int plan_finalizers(struct plan *plan, const struct kube_resource *resource, const json_t *object, json_t *finalizers);
void plan_delete(struct plan *plan, const struct kube_resource *resource, const json_t *object);

bool vmi_is_final(const json_t *vmi);
bool vmi_was_running(const json_t *vmi);
/*
 * The VMI that starting this VM means. `template`: the VM's, with instance type and preference; `paused`: without
 * running its vCPUs. NULL when out of memory.
 */
json_t *vm_make_vmi(const json_t *vm, const json_t *template, const json_t *presets, bool paused,
                    struct plan_event *said);
/*
 * The VM's template with its instance type and preference; notes in `status` what they came to. 0: *ret_template (a new
 * reference); 1: `p` is to be done first; 2: `status` has changed, and is to be written first; -EINVAL with
 * *ret_failure, for people; -ENOMEM.
 */
int vm_expand(const struct view *view, json_t *status, struct plan *p, json_t **ret_template, char **ret_failure);
/*
 * Why a disk of this name is not ready yet by its DataVolume: a printableStatus of KubeVirt's; NULL when it is, or
 * there is no DataVolume. `text` says it to people.
 */
const char *data_volume_waits(const struct view *view, const char *name, char *text, size_t size);
/* The DataVolume of a template that has none yet, nor a claim of its name. 1: planned; 0: nothing to do; -ENOMEM;
 * -EINVAL with a text: it cannot be made. */
int plan_data_volumes(const struct view *view, struct plan *p, char *text, size_t size);
/* What KubeVirt's admission fills in, as far as it is to be seen on the object (compat §2.1). */
int vmi_fill_defaults(json_t *spec, const char *firmware_uuid);
/* Presets that select these labels go into the spec; notes them in the annotations, or says why it could not. */
int vmi_apply_presets(json_t *metadata, json_t *spec, const json_t *presets, struct plan_event *said);
const char *vm_printable_status(const json_t *vm, const json_t *vmi, const char *strategy, const json_t *status);
