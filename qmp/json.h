/* SPDX-License-Identifier: Apache-2.0 */
/* JSON for QMP with exact integers; the public part is in <vmlet/qmp.h>. */
#pragma once

#include <jansson.h>

#include "base/error.h"
#include "base/strbuf.h"

/* As qmp_json_parse(), for a text whose nesting is known to be within the limit. long_number false promises that no
 * number has 19 digits or more. */
int qmp_json_parse_frame(const char *text, size_t length, bool long_number, json_t **ret, struct error **ret_error);
/* As qmp_json_dump(), appended to a buffer. */
void qmp_json_write(struct strbuf *buffer, const json_t *json, unsigned indent);
