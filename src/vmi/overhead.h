/* SPDX-License-Identifier: Apache-2.0 */
/* How much memory the pod needs besides the guest's own: an estimate, item by item. */
#pragma once

#include <jansson.h>

#include <vmlet/vmi.h>

/* {"estimate": true, "totalBytes", "guestBytes", "items": [{"what", "bytes", "why"}]}: a new reference, NULL when out
 * of memory. */
json_t *overhead_estimate(const struct vmi *vmi);
/* Is a pod with these resources of Guaranteed class (requests and limits of CPU and memory are there and equal)? */
bool overhead_is_guaranteed(const struct vmi_resources *resources);
