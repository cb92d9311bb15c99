/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of one verb, read by its table. */
#pragma once

#include "base/error.h"
#include "vmlet/verbs.h"

/*
 * Fills the members of `target` by verb->options (what is not given keeps its value) and gives the positional arguments
 * (borrowed from argv, their number within the verb's bounds). Returns -1 to go on; else the exit code to leave with:
 * --help was printed, or what is wrong was said on stderr.
 */
int options_parse(const struct verb *verb, int argc, char **argv, void *target, char ***ret_arguments,
                  size_t *ret_count);
/* The text of `vmlet VERB --help`. */
void options_print_help(const struct verb *verb);
int parse_number(const char *text, uint64_t *ret);
/* "vmlet VERB: <text>" and where the help is, on stderr. Returns EXIT_BAD_INPUT. */
int usage_error(const struct verb *verb, const char *format, ...) _printf_(2, 3);
