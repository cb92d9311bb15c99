/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory for what the cache keeps, apart from the heap. An object is stored while the tree that it was parsed from is
 * still there, which is ten times as large and freed at once; with both in one heap the objects lie scattered over
 * pages that are nearly empty, and cannot be given back. One for the process, which has one thread.
 */
#pragma once

#include <stddef.h>

/* Not zeroed; NULL when out of memory. */
void *slab_alloc(size_t size);
/* The same size as it was allocated with. NULL is allowed. */
void slab_free(void *memory, size_t size);
