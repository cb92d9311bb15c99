/* SPDX-License-Identifier: Apache-2.0 */
/* Kubernetes objects as JSON trees: reading, and the parts that every controller writes. Pure. */
#pragma once

#include <jansson.h>

#include "base/util.h"

/* The member at a path; NULL when there is none. GET(vmi, "status", "phase") */
json_t *json_path(const json_t *object, const char *const *path);
#define GET(object, ...) json_path(object, (const char *const[]){__VA_ARGS__, NULL})
/* Its text; "" when there is none. */
const char *json_path_text(const json_t *object, const char *const *path);
#define GET_TEXT(object, ...) json_path_text(object, (const char *const[]){__VA_ARGS__, NULL})
int64_t json_path_number(const json_t *object, const char *const *path);
#define GET_NUMBER(object, ...) json_path_number(object, (const char *const[]){__VA_ARGS__, NULL})
/* The object at the path, made where it is missing; borrowed. NULL when out of memory. */
json_t *json_path_make(json_t *object, const char *const *path);
#define MAKE(object, ...) json_path_make(object, (const char *const[]){__VA_ARGS__, NULL})

static inline bool is_deleting(const json_t *object)
{
    return *GET_TEXT(object, "metadata", "deletionTimestamp");
}

bool has_finalizer(const json_t *object, const char *name);
/* The owner reference with controller: true, or NULL. */
json_t *controller_of(const json_t *object);
/* A list with one owner reference: that of the controlling `owner`. */
json_t *owner_reference(const json_t *owner, const char *api_version, const char *kind);
bool is_controlled_by(const json_t *object, const json_t *owner);

/* A JSON merge patch (RFC 7386) that makes `after` of `before`; NULL when they are equal. */
json_t *merge_diff(const json_t *before, const json_t *after);

/* meta/v1 LabelSelector. An empty one matches everything; what is no selector nothing. */
bool selector_matches(const json_t *selector, const json_t *labels);
/* "a=b,c in (d,e)" as `scale` wants it; NULL when out of memory. */
char *selector_text(const json_t *selector);

/* ---- conditions ---- */
json_t *condition_find(const json_t *conditions, const char *type);
bool condition_is(const json_t *conditions, const char *type, const char *status);
/*
 * Sets or replaces a condition. lastTransitionTime stays when the status does; lastProbeTime is null as KubeVirt writes
 * it. reason and message may be NULL or "".
 */
void condition_set(json_t *conditions, const char *type, const char *status, const char *reason, const char *message,
                   int64_t now);
void condition_remove(json_t *conditions, const char *type);

/* ---- status.volumeStatus of an instance, which controller and node agent both write to ---- */
/* The list, made where there is none; borrowed. */
json_t *volume_list(json_t *status);
/* The entry of that volume, borrowed; a new one has "target", its name in the guest, still empty. */
json_t *volume_entry(json_t *list, const char *name);

/* FNV-1a of the sorted JSON text, as 16 hex digits. */
void json_hash(const json_t *value, char ret[static 17]);
