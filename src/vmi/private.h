/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of vmi_load_*(), each over the whole VMI: decode (load.c), defaults, validate. */
#pragma once

#include <vmlet/vmi.h>

#include "base/arena.h"
#include "base/error.h"
#include "vmi/tables.h"
#include "json/node.h"

/*
 * Puts the settings of the presets that select the VMI's labels into its spec node: what the VMI has itself stays.
 * -EINVAL after faults (two presets that contradict each other), -ENOMEM.
 */
int presets_apply(struct arena *arena, struct faults *faults, struct node *const *presets, size_t n_presets,
                  const struct node *labels, struct node *spec);

/* An instance type or a preference, as it stands in the file and decoded. */
struct shared_object {
    const char *kind;
    const struct node *node;
    struct instancetype_spec type;
    struct preference_spec preference;
};

/*
 * Resolves spec.instancetype and spec.preference of a VirtualMachine's spec and puts what they give into its template.
 * Without `valid` (an object has faults) it only resolves. References that are not among the objects, and settings that
 * the VM and its instance type both have, are faults; 0 then too, and -ENOMEM. *ret_preference is the preference that
 * was applied, or NULL.
 */
int instancetype_apply(struct arena *arena, struct faults *faults, const struct shared_object *objects,
                       size_t n_objects, bool valid, struct node *vm_spec, const struct shared_object **ret_preference);
/* On the decoded VMI, after the defaults: has it what its preference requires? */
void instancetype_check_requirements(const struct vmi *vmi, struct faults *faults,
                                     const struct shared_object *preference);

/* KubeVirt's admission defaults (compat 2.1). What is at fault is left as it is, for vmi_validate(). 0 or -errno. */
int vmi_set_defaults(struct vmi *vmi, const struct vmi_load_options *options);

/* What no table can say: references, exclusions, limits that depend on other fields. Adds faults. */
void vmi_validate(struct vmi *vmi, struct faults *faults);
void validate_devices(struct vmi *vmi, struct faults *faults);
void validate_storage(struct vmi *vmi, struct faults *faults);
void validate_network(struct vmi *vmi, struct faults *faults);
/* A file in a container image: absolute, not the root, nothing relative in it. NULL is allowed. */
void validate_image_path(struct faults *faults, const struct node *at, const char *member, const char *path);

/* "ab", "cd" → a fault for each name that is there twice. `at` gives the i-th object and its name. */
struct named {
    const struct node *at;
    const char *name;
};
void validate_unique(struct vmi *vmi, struct faults *faults, const struct named *list, size_t count, const char *what);
