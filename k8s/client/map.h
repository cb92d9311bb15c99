/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hash table keyed by text, whose nodes stand in the objects. An empty map is all zero. The hash is SipHash-1-3 with
 * a key of the process: the names are chosen by users of the cluster, who must not be able to choose collisions.
 */
#pragma once

#include "base/util.h"

struct kube_map_node {
    struct kube_map_node *next;
    const char *key; /* borrowed from the object that the node stands in */
    uint64_t hash;
};

struct kube_map {
    struct kube_map_node **buckets;
    size_t count, allocated; /* allocated is a power of two, or 0 */
};

/* Frees the table, not the objects. */
void kube_map_done(struct kube_map *map);
struct kube_map_node *kube_map_get(const struct kube_map *map, const char *key);
/* The key must not be there yet. 0 or -ENOMEM. */
int kube_map_put(struct kube_map *map, struct kube_map_node *node, const char *key);
/* The node must be there. */
void kube_map_remove(struct kube_map *map, struct kube_map_node *node);
/* Any node, or NULL when there is none: for emptying it. */
struct kube_map_node *kube_map_any(const struct kube_map *map);
/* Visits every node; the visitor may remove the node that it is given, and no other, and must add none. */
void kube_map_foreach(struct kube_map *map, void (*visit)(struct kube_map_node *node, void *userdata), void *userdata);

#define KUBE_MAP_OBJECT(node, type, member) ((type *)(void *)((char *)(node)-offsetof(type, member)))
