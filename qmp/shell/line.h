/* SPDX-License-Identifier: Apache-2.0 */
/* What a person types, as a command with JSON arguments. */
#pragma once

#include <jansson.h>

#include <vmlet/qmp.h>

#include "base/error.h"

/* Words of a line: separated by blanks outside quotes and brackets; quotes and backslashes are kept. A list for
 * strv_free(). ERROR_BAD_ARGUMENT for an open quote or bracket. */
int line_split(const char *line, char ***ret_words, struct error **ret_error);
/* True when brackets or quotes are open at the end. */
bool line_is_open(const char *line);

/*
 * "name key=value a.b=c" as a command. Values: what the schema says they are (sizes for integers: 4k, 1G; on, off, yes,
 * no for booleans; the text itself for strings); without a schema JSON if it is JSON, else text. JSON, and the Python
 * literals that QEMU's shell takes ('…', True, None), are taken everywhere. schema may be NULL.
 */
int line_parse(const char *line, const struct qmp_schema *schema, char **ret_command, json_t **ret_arguments,
               struct error **ret_error);
/* JSON or a Python literal. */
int line_parse_literal(const char *text, json_t **ret, struct error **ret_error);
/* A line that is itself {"execute": …}. */
int line_parse_raw(const char *line, char **ret_command, json_t **ret_arguments, struct error **ret_error);
