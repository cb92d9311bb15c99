/* SPDX-License-Identifier: Apache-2.0 */
/* A bump allocator: a decoded manifest or a machine is one arena, freed at once. Not for data that grows for ever. */
#pragma once

#include <stdarg.h>
#include <stddef.h>

#include "base/util.h"

struct arena;

/* NULL when out of memory. */
struct arena *arena_new(void);
void arena_free(struct arena *arena);
DEFINE_CLEANUP(struct arena *, arena_free)

/* Zeroed memory, aligned for any type, that lives as long as the arena; NULL when out of memory. */
void *arena_alloc(struct arena *arena, size_t size);
char *arena_strndup(struct arena *arena, const char *text, size_t length);
char *arena_strdup(struct arena *arena, const char *text);
char *arena_printf(struct arena *arena, const char *format, ...) _printf_(2, 3);
char *arena_vprintf(struct arena *arena, const char *format, va_list ap) _printf_(2, 0);

#define arena_new_array(arena, type, n) ((type *)arena_alloc(arena, sizeof(type) * (n)))
