/* SPDX-License-Identifier: Apache-2.0 */
/* Lengths of time as people and Go write them: 30s, 2m, 1500ms, 1m30s, 1.5h. */
#pragma once

#include "base/util.h"

/* bare_seconds: a number without a unit counts as seconds; else only 0 needs none. -EINVAL: no duration; -ERANGE: more
 * than thirty years. */
int duration_parse(const char *text, bool bare_seconds, uint64_t *ret_usec);
