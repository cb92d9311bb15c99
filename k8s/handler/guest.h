/* SPDX-License-Identifier: Apache-2.0 */
/* One instance on this node: its launcher's socket, and what is made ready for it before the guest starts. */
#pragma once

#include "k8s/client/map.h"
#include "k8s/handler/record.h"
#include "rpc/client.h"

struct guest_paths {
    const char *pods;     /* kubelet's folder of pods */
    const char *records;  /* compat §7.4 */
    const char *network;  /* netsetup's state, a folder for each UID in it */
    const char *netsetup; /* the program */
};

struct guest;
/* r 0: it is ready. -EAGAIN: a container is not up yet; else `error` says why not. */
typedef void (*guest_ready)(struct guest *guest, int r, const struct error *error, void *userdata);

struct guest {
    struct kube_map_node node; /* by UID */
    const struct guest_paths *paths;
    void *owner;
    struct record record;
    char *key; /* "namespace/name" */

    struct rpc_client *rpc;             /* connected and subscribed, or NULL */
    uint64_t first_try;                 /* when its launcher was looked for first */
    bool synced;                        /* since this agent has started */
    char *failure;                      /* of the last Sync */
    char end_state[24], end_reason[24]; /* the last that was heard of a VM that has ended */
    bool cleaned;

    bool prepared; /* by this agent: devices, disks, network */
    sd_event_source *socket_watch, *disks_watch;
    void (*appeared)(struct guest *guest);
    sd_event_source *child, *child_timer; /* the step of the preparation that is under way */
    int child_out, child_err;
    bool child_late;
    json_t *manifest;
    guest_ready ready;
    void *ready_userdata;
};

int guest_new(const struct guest_paths *paths, const struct record *record, struct guest **ret);
/* The record stays. */
void guest_free(struct guest *guest);

/* The launcher's socket on the node; NULL when out of memory. */
char *guest_socket(const struct guest *guest);
/* Calls `appeared` when its launcher or a container disk may have come to listen, until the launcher is connected and
 * all is prepared. To be called before they are looked for: nothing falls in between. */
void guest_watch(struct guest *guest, sd_event *event, void (*appeared)(struct guest *guest));
void guest_unwatch_launcher(struct guest *guest);
/* Container disks, the pod's network, and the owner of the device nodes: what is ready already stays as it is. All that
 * may take time is done by child processes, one after the other; `ready` is called later, once. */
int guest_prepare(struct guest *guest, sd_event *event, json_t *vmi, guest_ready ready, void *userdata,
                  struct error **ret_error);
/* What guest_prepare() made outside of the pod, and the record. */
void guest_clean(struct guest *guest);
