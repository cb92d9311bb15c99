/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "base/util.h"
#include "k8s/render/pod.h"
#include "json/node.h"

#define SHARE_DIR     "/var/run/kubevirt"
#define PRIVATE_DIR   "/var/run/kubevirt-private"
#define EPHEMERAL_DIR "/var/run/kubevirt-ephemeral-disks"

struct pod_build {
    const struct vmi *vmi;
    const struct pod_options *options;
    const char *uid;                    /* "<uid>" if the VMI has none */
    bool guaranteed;                    /* the pod is of Guaranteed class: requests equal limits everywhere */
    bool failed;                        /* out of memory */
    json_t *volumes, *mounts, *devices; /* of the pod; of the container compute */
    json_t *containers, *init_containers;
    json_t *pull_secrets;
};

/* ---- json.c: each takes over `value`, and notes in b->failed when something was out of memory ---- */
void put(struct pod_build *b, json_t *object, const char *key, json_t *value);
void put_text(struct pod_build *b, json_t *object, const char *key, const char *value); /* NULL: nothing */
void add(struct pod_build *b, json_t *array, json_t *value);
void add_text(struct pod_build *b, json_t *array, const char *format, ...) _printf_(3, 4);
/* A copy of what the manifest says, as it is; nothing when it says nothing. */
void put_node(struct pod_build *b, json_t *object, const char *key, const struct node *node);
json_t *text_list(struct pod_build *b, const char *const *texts);
/* {"name": NAME, "mountPath": FORMAT…}, already in b->mounts; borrowed. */
json_t *add_mount(struct pod_build *b, json_t *mounts, const char *volume, const char *format, ...) _printf_(4, 5);
/* A helper's resources; `storage` NULL: no ephemeral-storage. In a Guaranteed pod the requests are the limits. */
json_t *helper_resources(struct pod_build *b, const char *cpu, const char *memory, const char *cpu_limit,
                         const char *memory_limit, const char *storage);
json_t *restricted(struct pod_build *b);

/* ---- volumes.c ---- */
void build_volumes(struct pod_build *b);

/* ---- scheduling.c: nodeSelector, affinity, and what the VMI hands on to the pod ---- */
void build_scheduling(struct pod_build *b, json_t *spec);
