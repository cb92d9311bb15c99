/* SPDX-License-Identifier: Apache-2.0 */
/* Putting parts of one object into another, on nodes: what is copied keeps its place in the file, for faults. */
#pragma once

#include "base/arena.h"
#include "json/node.h"

/* A member that may be changed; NULL when there is none, or `mapping` is NULL or no mapping. */
struct node *node_child(struct node *mapping, const char *key);
/* The member at "a.b.c"; NULL when it is not there. */
const struct node *node_find(const struct node *mapping, const char *path);
/* Equal in content; the order of members does not count. */
bool node_equal(const struct node *a, const struct node *b);

/* NULL when out of memory, as all that follow. */
struct node *node_copy(struct arena *arena, const struct node *from);
/* A scalar that stands where `at` does. */
struct node *node_scalar(struct arena *arena, const struct node *at, const char *text);
struct node *node_empty(struct arena *arena, const struct node *at, enum node_kind kind);
/* In place of a null member of that name, or as a new one: there must be no other. The key is borrowed. */
void node_put(struct node *mapping, const char *key, struct node *value);
void node_add_element(struct node *sequence, struct node *value);
/*
 * The mapping at "a.b.c", made where it is missing or null, with the place of `at`. 0; -ENOTDIR when something on the
 * way is no mapping, which decoding will say; -ENOMEM.
 */
int node_reach(struct arena *arena, struct node *mapping, const char *path, const struct node *at, struct node **ret);
