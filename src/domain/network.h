/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The VM's side of the pod's network (compat §3.5, phase 2): what netsetup has left for each interface, and the servers
 * that give the guest its addresses. Needs no privilege but port 67.
 */
#pragma once

#include <vmlet/vmi.h>

#include "base/error.h"
#include "base/event.h"
#include "netsetup/plan.h"

#define NETWORK_LEASES_FILE "leases.json" /* in the directory of the VM */

struct pod_network;

/* Reads the caches in `dir` (/var/run/kubevirt-private). ERROR_NETWORK when an interface of the manifest has none: its
 * network was not set up. `vmi` is borrowed, and outlives it. */
int pod_network_load(const struct vmi *vmi, const char *dir, struct pod_network **ret, struct error **ret_error);
void pod_network_free(struct pod_network *network);
DEFINE_CLEANUP(struct pod_network *, pod_network_free)

/*
 * Starts DHCP and router advertisements for the interfaces that want them. Who holds a lease is kept in the VM's
 * directory `dir`, from where a launcher that takes the VM over (`again`) has it.
 */
int pod_network_serve(struct pod_network *network, sd_event *event, const char *dir, bool again,
                      struct error **ret_error);
/* {interface: what dhcp_server_save() says}: a new reference. */
json_t *pod_network_leases(const struct pod_network *network);

/* Of the interface with that index in spec.domain.devices.interfaces; NULL: it has no link in this pod (SR-IOV,
 * absent). */
const struct net_interface *pod_network_get(const struct pod_network *network, size_t index);
