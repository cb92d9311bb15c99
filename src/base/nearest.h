/* SPDX-License-Identifier: Apache-2.0 */
/* "Did you mean …?": the known name that a mistyped one is closest to. */
#pragma once

#include "base/util.h"

/* Edits (insert, delete, replace, swap of neighbours; letter case counts half) that turn a into b, times two.
 * UINT32_MAX when either is longer than 64 bytes. */
unsigned edit_distance(const char *a, const char *b);

/* Index of the closest of n names, or -1 when none is close enough to be worth naming. `get` gives the i-th name. */
int nearest_index(const char *name, size_t n, const char *(*get)(size_t i, const void *userdata), const void *userdata);
/* The largest distance at which `name` is still worth a suggestion. */
unsigned nearest_limit(const char *name);
/* As nearest_index(), in a list of n names (NULL entries are passed over): the name itself, or NULL. */
const char *nearest_of(const char *name, const char *const *known, size_t n);
/* As nearest_of(), in a NULL-terminated list. */
const char *nearest_name(const char *name, const char *const *known);
