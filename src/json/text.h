/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON texts as our protocols carry them: nesting is looked at before the parser sees the text, and integers that
 * int64_t cannot hold stay exact. jansson has only int64_t and fails the whole text when one does not fit; QEMU does
 * send bigger ones: default values and bit masks of type uint64 in device-list-properties, query-qmp-schema or qom-get.
 * Here such a number becomes a JSON string of its digits followed by a NUL byte and 'n'. No string of a peer can look
 * like that, because a text with \u0000 is refused. The writer puts the digits out again as they came.
 */
#pragma once

#include <jansson.h>
#include <limits.h>
#include <stdint.h>

#include "base/error.h"
#include "base/strbuf.h"

/* Brackets outside of strings open at most `max` deep. Cheap, and before the parser: its recursion is not tried. */
bool json_text_nests_within(const char *text, size_t length, unsigned max);
/*
 * Any JSON value; a name that stands twice in an object is refused. ERROR_BAD_DATA (-EBADMSG). The nesting is the
 * caller's to check. long_numbers false promises that no number has 19 digits or more, and saves a pass.
 */
int json_text_parse(const char *text, size_t length, bool long_numbers, json_t **ret, struct error **ret_error);

/* A new reference: a plain integer when it fits. NULL when out of memory. */
json_t *json_text_uint64(uint64_t value);
/* The digits of an integer that int64_t cannot hold; NULL for every other value. Borrowed. */
const char *json_text_big_number(const json_t *json);

#define JSON_TEXT_COMPACT UINT_MAX /* an `indent`: one line without blanks */

/*
 * Appends the text. indent 0: one line, with a blank behind ':' and ','. -EMSGSIZE when the buffer would become longer
 * than `limit` (what was appended is cut off again), -ENOMEM.
 */
int json_text_write(struct strbuf *buffer, const json_t *json, unsigned indent, size_t limit);
/* The text, to be freed by the caller. NULL when out of memory, or for NULL. */
char *json_text_dump(const json_t *json, unsigned indent);
