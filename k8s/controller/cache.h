/* SPDX-License-Identifier: Apache-2.0 */
/* What the controller keeps of each object, and by what it finds it. Pure. */
#pragma once

#include "k8s/client/informer.h"

/* An instance without owner: all of them are found by this key. */
#define INDEX_ORPHAN "orphan"

/* For kube_informer_options: trim and index of each kind. */
void trim_object(json_t *object, void *userdata); /* VM, VMI, replica set */
/* The launcher's image is kept if it is not this one. */
void trim_pod(json_t *pod, const char *launcher_image);
const char *pod_launcher_image(const json_t *pod, const char *launcher_image); /* of a pod that was so trimmed */
void trim_claim(json_t *claim, void *userdata);
void trim_data_volume(json_t *data_volume, void *userdata);
/* The claim behind a volume of a VM's template; "" if there is none. */
const char *claim_of_volume(const json_t *vm, const char *volume);
size_t index_vm(json_t *vm,
                const char *keys[KUBE_INDEX_KEYS]); /* names of what is to be looked for when it starts: its instance
                                                       type, preference, DataVolumes, claims with labels */
size_t index_vmi(json_t *vmi, const char *keys[KUBE_INDEX_KEYS]); /* UID of its owner, names of its claims */
size_t index_pod(json_t *pod, const char *keys[KUBE_INDEX_KEYS]); /* UID of its owner */
