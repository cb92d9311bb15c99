/* SPDX-License-Identifier: Apache-2.0 */
/* virt-controller's loop: caches, queues, and the execution of plans (plan.h). */
#pragma once

#include "base/strbuf.h"
#include "k8s/client/client.h"
#include "k8s/controller/plan.h"

struct controller;

struct controller_options {
    struct settings settings; /* texts are borrowed */
    const char *namespace_;   /* only this one; NULL: all */
    const char *identity;     /* of this process, in events */
};

/* Starts to fill its caches; nothing is written before controller_lead(). */
int controller_new(sd_event *event, struct kube_client *client, const struct controller_options *options,
                   struct controller **ret, struct error **ret_error);
void controller_free(struct controller *controller);
DEFINE_CLEANUP(struct controller *, controller_free)

/* From now on this process writes: as soon as its caches are full. */
void controller_lead(struct controller *controller);
bool controller_is_synced(const struct controller *controller);
/* Prometheus' text format. */
void controller_write_metrics(const struct controller *controller, bool leader, struct strbuf *ret);
