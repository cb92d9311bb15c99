/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256 (FIPS 180-4) of short names: KubeVirt names the links of secondary networks by it. */
#pragma once

#include <stddef.h>
#include <stdint.h>

void sha256(const void *data, size_t length, uint8_t ret[32]);
