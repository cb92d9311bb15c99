/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the Node object says of this agent: may instances be placed here, when did the agent last live, and what
 * do guests find here (compat §7.6). Written at each change, and once a minute.
 */
#pragma once

#include "k8s/client/client.h"

struct node_status;

/* All are borrowed. */
struct node_options {
    struct kube_client *client;
    const char *name;
    const char *labels; /* a file with a JSON object of labels, as `vmlet probe --node-labels` writes it; NULL: none */
    const char *cpu_manager_state; /* kubelet's file */
};
int node_status_new(const struct node_options *options, struct node_status **ret, struct error **ret_error);
void node_status_free(struct node_status *node);
DEFINE_CLEANUP(struct node_status *, node_status_free)
/* Writes it if it is new. */
void node_status_set_schedulable(struct node_status *node, bool schedulable);
/* The agent is told to end: no instance may be placed here. `done` is called when the server has heard it, or did not
 * answer in time. */
void node_status_leave(struct node_status *node, void (*done)(void *userdata), void *userdata);
/* Labels that the node is to have, besides those of the heartbeat. */
size_t node_status_labels(const struct node_status *node);
/* By which patch the labels of a Node object become these: others of the same prefixes go. NULL when there is nothing
 * to change, when labels is NULL, or when the node's annotation says that it is not to be labelled. Pure; a new
 * reference. */
json_t *node_labels_change(const json_t *node, const json_t *labels);
/* Heartbeats that the server has taken. */
uint64_t node_status_count(const struct node_status *node);
