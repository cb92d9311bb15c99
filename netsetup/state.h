/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What netsetup leaves on disk. In the state directory (the node's, root's): one file for each interface, as KubeVirt
 * has it (compat §3.4), and journal.json, which holds every undo. In the cache directory (the launcher's): what the
 * DHCP server is to say, vif-cache-<podiface>.json (compat §3.6).
 */
#pragma once

#include "netsetup/plan.h"

#define NET_STATE_ROOT "/var/run/kubevirt-private/network-info-cache"
#define NET_CACHE_DIR  "/var/run/kubevirt-private"

enum net_state {
    NET_STATE_NONE = -1, /* no file */
    NET_STATE_PENDING = 0,
    NET_STATE_STARTED = 1, /* and not finished: nobody knows what the namespace holds */
    NET_STATE_FINISHED = 2,
};

int net_state_read(const char *dir, const char *pod_link, enum net_state *ret, struct error **ret_error);
int net_state_write(const char *dir, const struct net_interface *interface, enum net_state state,
                    struct error **ret_error);
int net_state_remove(const char *dir, const char *pod_link, struct error **ret_error);

/* Takes away what a run that was killed while it wrote a file left beside it. */
void net_state_tidy(const char *dir);

/* A list of undos, in the order of the steps. */
struct net_journal {
    struct arena *arena;
    const char *vm;
    NET_LIST(struct net_action) undos;
    NET_LIST(const char *) links; /* the pod links that it is about */
};

/* Reads the journal; an empty one when there is no file. Strict: see net_action_from_json(). */
int net_journal_load(const char *dir, struct net_journal **ret, struct error **ret_error);
/* The same of a text. */
int net_journal_parse(const char *text, size_t length, struct net_journal **ret, struct error **ret_error);
/* A new reference; NULL when out of memory. */
json_t *net_journal_to_json(const struct net_journal *journal);
/* Adds the undos of a plan that is about to be applied. The texts stay the plan's. */
int net_journal_add(struct net_journal *journal, const struct net_plan *plan, struct error **ret_error);
int net_journal_save(const char *dir, const struct net_journal *journal, struct error **ret_error);
int net_journal_remove(const char *dir, struct error **ret_error);
void net_journal_free(struct net_journal *journal);
DEFINE_CLEANUP(struct net_journal *, net_journal_free)
/* -EINVAL and ERROR_NOT_ALLOWED for an undo that no plan of this manifest would hold. */
int net_journal_check(const struct net_journal *journal, const struct vmi *vmi, struct error **ret_error);

/* The cache file's content: KubeVirt's members, and our own under "vmlet". A new reference. */
json_t *net_cache_to_json(const struct net_interface *interface, const struct vmi *vmi);
/* "vif-cache-eth0.json"; in the arena. */
char *net_cache_name(struct arena *arena, const char *pod_link);
/*
 * For the launcher: what was cached about an interface. KubeVirt's own files are understood too (without IPv6 routes
 * and advertisements). The text lives in the arena. ERROR_NOT_FOUND: there is no such file (yet).
 */
int net_cache_load(struct arena *arena, const char *dir, const struct vmi_interface *interface,
                   struct net_interface *ret, struct error **ret_error);
/* The same of a text; `interface` says name, binding, state and names already, and is as it was after a failure. */
int net_cache_parse(struct arena *arena, const char *text, size_t length, struct net_interface *interface,
                    struct error **ret_error);
