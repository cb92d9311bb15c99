/* SPDX-License-Identifier: Apache-2.0 */
/* What is to be done for an instance, and what its status is to say, from the object and the domain. Pure. */
#pragma once

#include <jansson.h>

#include "base/util.h"

/* What the launcher has said. */
struct seen {
    const json_t *domain;           /* api.Domain of GetDomain; NULL: it has no VM */
    const json_t *extra;            /* "vmlet" of GetDomain */
    const json_t *agent_interfaces; /* guest-network-get-interfaces; NULL: no agent */
    const json_t *links;            /* of netsetup: [{name, mac, podLink, queues, podIPs, binding}] */
    const char *failure;            /* why the last attempt to make the VM as it should be failed; NULL: it did not */
    bool synced;                    /* the VM is as the object says */
    int64_t now;
};

enum action {
    ACTION_NONE,
    ACTION_SYNC,     /* network and devices if they are not ready, then SyncVirtualMachine */
    ACTION_SHUTDOWN, /* the guest is to end within its grace period */
    ACTION_KILL,     /* nobody wants it any more */
    ACTION_CLEAN,    /* it has ended: forget what belongs to it */
};

/* `vmi` NULL: the object is gone. */
enum action handler_decide(const json_t *vmi, const struct seen *seen);
/* compat §7.2: the phase that the domain stands for; the object's own where the domain does not say. Static storage or
 * the object's. */
const char *handler_phase(const json_t *vmi, const struct seen *seen);
/* The whole status as it should be; a new reference, NULL when out of memory. */
json_t *handler_status(const json_t *vmi, const struct seen *seen);
/* Of all claims of the instance, as far as the controller has said: for who wants to know whether one grew. */
int64_t handler_claim_bytes(const json_t *vmi);
bool phase_is_final(const char *phase);
/* "" when there is no VM. */
const char *seen_state(const struct seen *seen);
