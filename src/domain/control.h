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
};

/* Serves one domain. The domain outlives it. */
int control_new(sd_event *event, struct domain *domain, const struct control_options *options, struct control **ret,
                struct error **ret_error);
void control_free(struct control *control);
DEFINE_CLEANUP(struct control *, control_free)
struct rpc_server *control_get_server(struct control *control);
