/* SPDX-License-Identifier: Apache-2.0 */
/* What a verb prints: colours only on a terminal, data as JSON or for people, errors with their remedy. */
#pragma once

#include <jansson.h>
#include <stdio.h>

#include "base/error.h"
#include "json/faults.h"

enum style {
    STYLE_PLAIN,
    STYLE_HEADING,
    STYLE_GOOD,
    STYLE_BAD,
    STYLE_WARNING,
    STYLE_FAINT,
};

/* The escape sequence on a terminal (unless NO_COLOR is set or TERM is dumb), else "". STYLE_PLAIN ends a style. */
const char *style_on(FILE *stream, enum style style);

/* JSON with an LF: indented on a terminal, one line in a pipe. Returns the exit code. */
int print_json(const json_t *value);
/* "key: value" lines, nested by indentation; for data without a form of its own. */
void print_tree(const json_t *value, unsigned indent);
/* "vmlet: <message>", and the remedy on a line of its own, on stderr. Returns the error's exit code. */
int print_error(const struct error *error);
/* The same with one line for each fault of a manifest, if there are some. */
int print_faults(struct faults *faults, const struct error *error);
/* Text of unknown origin: control characters become visible, so that a guest cannot drive our terminal. */
void print_safe(FILE *stream, const char *text);
/* EXIT_OK, or EXIT_FAILED with a message when stdout could not be written (a full disk). Ends every verb's output. */
int finish_output(void);
