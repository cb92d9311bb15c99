/* SPDX-License-Identifier: Apache-2.0 */
/* NULL-terminated arrays of strings: argument vectors and environments. */
#pragma once

#include "base/util.h"

size_t strv_length(char *const *list);
void strv_free(char **list);
DEFINE_CLEANUP(char **, strv_free)
/* Appends a copy; 0 or -ENOMEM. */
int strv_append(char ***list, const char *text);
/* Appends the string itself, and frees it on failure. */
int strv_consume(char ***list, char *text);
int strv_printf(char ***list, const char *format, ...) _printf_(2, 3);
char **strv_copy(char *const *list);

#define STRV_FOREACH(item, list) for (char *const *item = (list); item && *item; item++)
