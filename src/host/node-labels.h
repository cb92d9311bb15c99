/* SPDX-License-Identifier: Apache-2.0 */
/* What a cluster's node offers to guests, as the labels by which KubeVirt's pods choose one (compat: appendix C). */
#pragma once

#include <jansson.h>

#include "base/error.h"

/*
 * {"cpu-model.node.kubevirt.io/Haswell": "true", "cpu-feature.node.kubevirt.io/avx": …, "machine-type.node.…",
 * "cpu-vendor.node.…", "hyperv.node.…"}: asks QEMU (with KVM where that is usable) and KVM. Blocks; a new reference.
 */
int node_labels_load(json_t **ret, struct error **ret_error);
/* The same from what qemu_cpus_probe() has said, and the names of hyperv features: pure. */
json_t *node_labels_of(const json_t *cpus, const char *const *hyperv);
