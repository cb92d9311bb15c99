/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of the command server's methods, for control*.c only. */
#pragma once

#include "domain/control.h"
#include "domain/domain-internal.h"

#define AGENT_PARTS 14U /* of GetVMStats */

struct control {
    struct domain *domain; /* NULL: none yet, or none any more */
    struct event_log *events;
    struct timeline *timeline;
    struct rpc_server *server;
    bool allow_qmp_writes;
    rpc_handler_fn sync;
    void *sync_userdata;
    unsigned screenshots; /* taken so far: names the file */
    struct {
        json_t *answer;
        uint64_t at;
    } agent_parts[AGENT_PARTS]; /* what GetVMStats keeps for a while */
};

void control_fail(struct rpc_call *call, enum error_code code, int err, const char *text);
/* r: what beginning an action returned; a negative one ends the call. */
void control_begun(struct rpc_call *call, int r);

/* control-disks.c */
void handle_get_disks(struct rpc_call *call, json_t *params, void *userdata);
void handle_plug_disk(struct rpc_call *call, json_t *params, void *userdata);
void handle_unplug_disk(struct rpc_call *call, json_t *params, void *userdata);
void handle_resize_disk(struct rpc_call *call, json_t *params, void *userdata);
void handle_change_medium(struct rpc_call *call, json_t *params, void *userdata);
void handle_backup_disks(struct rpc_call *call, json_t *params, void *userdata);
void handle_mirror_disk(struct rpc_call *call, json_t *params, void *userdata);
void handle_complete_job(struct rpc_call *call, json_t *params, void *userdata);
void handle_cancel_job(struct rpc_call *call, json_t *params, void *userdata);
extern const struct rpc_param disk_plug_params[], disk_name_params[], disk_resize_params[], disk_medium_params[],
    disk_backup_params[], disk_mirror_params[];

/* control-stats.c */
void handle_domain_stats(struct rpc_call *call, json_t *params, void *userdata);
void handle_metrics(struct rpc_call *call, json_t *params, void *userdata);
void handle_dirty_rate(struct rpc_call *call, json_t *params, void *userdata);
void handle_vm_stats(struct rpc_call *call, json_t *params, void *userdata);
extern const struct rpc_param vm_stats_params[];
void control_forget_agent_parts(struct control *control);
