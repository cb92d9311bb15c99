/* SPDX-License-Identifier: Apache-2.0 */
/* Kubernetes quantities: number with a suffix n u m k M G T P E, Ki Mi Gi Ti Pi Ei, or a decimal exponent. */
#pragma once

#include <vmlet/value.h>

/*
 * Reads `text` exactly; what is smaller than a whole unit (a thousandth, for milli) is rounded away from zero, as
 * Kubernetes' Quantity.Value() does. `text` is kept, not copied. On failure -EINVAL (no quantity) or -ERANGE (does not
 * fit 64 bits), and *ret_reason says why in static words.
 */
int quantity_parse(const char *text, struct quantity *ret, const char **ret_reason);
