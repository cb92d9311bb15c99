/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the Node object says of this agent: may instances be placed here, and when did the agent last live (compat
 * §7.6). Written at each change, and once a minute.
 */
#pragma once

#include "k8s/client/client.h"

struct node_status;

/* Both are borrowed. */
int node_status_new(struct kube_client *client, const char *name, struct node_status **ret, struct error **ret_error);
void node_status_free(struct node_status *node);
DEFINE_CLEANUP(struct node_status *, node_status_free)
/* Writes it if it is new. */
void node_status_set_schedulable(struct node_status *node, bool schedulable);
/* The agent is told to end: no instance may be placed here. `done` is called when the server has heard it, or did not
 * answer in time. */
void node_status_leave(struct node_status *node, void (*done)(void *userdata), void *userdata);
/* Heartbeats that the server has taken. */
uint64_t node_status_count(const struct node_status *node);
