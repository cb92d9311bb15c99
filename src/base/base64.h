/* SPDX-License-Identifier: Apache-2.0 */
/* Base64 as RFC 4648 section 4 has it, with padding. */
#pragma once

#include "base/util.h"

/* To be freed by the caller; NULL when out of memory. */
char *base64_encode(const void *data, size_t length);
/* White space is skipped (RFC 2045); anything else that is not base64 is -EINVAL. The result is NUL-terminated. */
int base64_decode(const char *text, size_t length, char **ret_data, size_t *ret_length);
