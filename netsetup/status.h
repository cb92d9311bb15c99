/* SPDX-License-Identifier: Apache-2.0 */
/* VMI.status.interfaces[]: what the pod, the machine and the guest agent know about each NIC, in one list. Pure. */
#pragma once

#include <jansson.h>

#include "netsetup/plan.h"

struct net_status {
    const struct net_interface *interface; /* of the plan, or of net_cache_load(); with pod_ips */
    bool multus;                           /* the pod's network status names this network */
    bool link_down;                        /* as QEMU has it now */
};

/*
 * KubeVirt's merge (compat §3.7). `agent`: the reply of guest-network-get-interfaces, or NULL while the agent does not
 * answer. `before`: the list as it was, or NULL: what the agent had said of a guest's addresses stays while it is
 * away, so that the addresses do not flap when it restarts. A new reference; NULL when out of memory.
 */
json_t *net_status_merge(const struct net_status *interfaces, size_t count, const json_t *agent, const json_t *before);
