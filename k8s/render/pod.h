/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The launcher pod of a VMI, as KubeVirt makes it (names of containers, volumes, mounts, labels and annotations are
 * what other tools look for). Pure: the same VMI and options give the same pod, its name included.
 */
#pragma once

#include <jansson.h>

#include <vmlet/vmi.h>

#include "base/error.h"

struct pod_options {
    const char *launcher_image;
    const char *pull_policy;               /* of that image; NULL: not said */
    const char *const *image_pull_secrets; /* NULL-terminated; may be NULL */
    bool use_emulation;                    /* no /dev/kvm and no vhost-net: for clusters and tests without hardware */
    unsigned cpu_allocation_ratio;         /* vCPUs for each CPU that is asked for; 0: 10 */
    const char *vmi_api_version;           /* in the owner reference; NULL: kubevirt.io/v1 */
    /* Is the claim's volumeMode Block? NULL: no claim is. */
    bool (*claim_is_block)(const char *claim, void *userdata);
    void *userdata;
};

#define LAUNCHER_UID         107
#define POD_GRACE_SECONDS    30 /* of the pod over the VMI's own: kubelet's SIGKILL comes last */
#define LAUNCHER_GRACE_EXTRA 15

/*
 * *ret is a new reference. The pod's name is derived from the VMI's UID: a VMI has one launcher pod in its life, and
 * who tries to make a second one is refused by the API server. Without UID (a manifest that is only looked at) the pod
 * has a generateName, and paths have <uid> in them.
 */
int pod_render(const struct vmi *vmi, const struct pod_options *options, json_t **ret, struct error **ret_error);

/* "virt-launcher-NAME-xxxxx", by the rules of names that Kubernetes generates. */
#define POD_NAME_SIZE 254
void pod_name(const char *vmi_name, const char *uid, char ret[static POD_NAME_SIZE]);
