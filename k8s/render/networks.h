/* SPDX-License-Identifier: Apache-2.0 */
/* What Multus says of a pod's links. Pure. */
#pragma once

#include <jansson.h>

/* The annotation in which Multus lists what it has plugged into a pod: [{"name", "interface", "ips", "mac", …}]
 * (Kubernetes Network Custom Resource Definition De-facto Standard, section 5). */
#define ANNOTATION_NETWORK_STATUS "k8s.v1.cni.cncf.io/network-status"

/*
 * The first entries of a VMI's status.interfaces[], as KubeVirt's controller writes them: {name, podInterfaceName,
 * infoSource: "multus-status"} for each network of Multus that has its link in the pod. `network_status`: the
 * annotation; NULL, or text that is not such a list: none. A new reference; NULL when there is none.
 */
json_t *pod_multus_interfaces(const json_t *vmi, const char *network_status);
