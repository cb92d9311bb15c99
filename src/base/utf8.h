/* SPDX-License-Identifier: Apache-2.0 */
/* UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing above U+10FFFF. */
#pragma once

#include "base/util.h"

/* Length in bytes (1 to 4) of the valid sequence at the start of the text, 0 if there is none. */
size_t utf8_sequence_length(const char *text, size_t left);
/* Offset of the first byte that is not valid, or `length`. */
size_t utf8_valid_prefix(const char *text, size_t length);
