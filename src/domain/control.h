/* SPDX-License-Identifier: Apache-2.0 */
/* The methods of the command server (names and messages of KubeVirt's Cmd service, compat §1.2), apart from its wire.
 */
#pragma once

#include "domain/domain.h"
#include "rpc/server.h"

struct control;

struct control_options {
    const char *path;      /* the socket */
    bool allow_qmp_writes; /* Qmp may change the VM; else only commands that look */
    rpc_handler_fn sync;   /* SyncVirtualMachine; NULL: not supported here, the VM is what it was started with */
    void *sync_userdata;
};

/* Serves at once; there is no domain yet. `events` and `timeline` are borrowed, and outlive it. */
int control_new(sd_event *event, const struct control_options *options, struct event_log *events,
                struct timeline *timeline, struct control **ret, struct error **ret_error);
/* The domain that the methods act on (borrowed); NULL: there is none (any more), the state is NoState. */
void control_set_domain(struct control *control, struct domain *domain);
void control_free(struct control *control);
DEFINE_CLEANUP(struct control *, control_free)
/* KubeVirt's Response of a call that was done. */
json_t *control_success(void);
struct rpc_server *control_get_server(struct control *control);
