/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leader election by a Lease (coordination.k8s.io/v1), by the rules of Kubernetes' own components: who holds it renews
 * it; who does not waits until it has seen no renewal for the lease's duration, by its own clock (the clocks of two
 * nodes need not agree); every write names the resourceVersion that it was decided on, so that of two candidates one is
 * refused. A leader that could not renew for KUBE_LEASE_RENEW_USEC is none any more, which is before anybody else can
 * become one.
 */
#pragma once

#include "k8s/client/client.h"

struct kube_lease;

struct kube_lease_options {
    const char *namespace_, *name;
    const char *identity; /* of this process; nobody else may have it */
    void (*started)(void *userdata);
    /* The lease is lost. What acts by it must stop at once: most programs exit. Not called by kube_lease_release(). */
    void (*stopped)(void *userdata);
    void *userdata;
};

/* Texts are copied. Starts at once. */
int kube_lease_new(struct kube_client *client, const struct kube_lease_options *options, struct kube_lease **ret,
                   struct error **ret_error);
void kube_lease_free(struct kube_lease *lease);
DEFINE_CLEANUP(struct kube_lease *, kube_lease_free)

bool kube_lease_is_held(const struct kube_lease *lease);
/* Who holds it, as far as is known; "" if nobody. */
const char *kube_lease_holder(const struct kube_lease *lease);
/* Gives the lease away, so that the next one need not wait; `done` is called when that is written, or could not be. */
void kube_lease_release(struct kube_lease *lease, void (*done)(void *userdata), void *userdata);
