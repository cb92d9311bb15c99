/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small JSON files with what was found out about this host, so that the next start does not find it out again. A cache
 * is never needed: whatever cannot be read, is not ours, or is damaged, counts as not there.
 *
 * Directories: $VMLET_CACHE_DIR alone if it is set; else /var/cache/vmlet (a container image carries it) and
 * $XDG_CACHE_HOME/vmlet or ~/.cache/vmlet. All are read, the first that can be written is written.
 */
#pragma once

#include <jansson.h>

#include "base/error.h"

/* A new reference, or NULL. `is_valid` says whether the content is the one looked for (NULL: any object is); the next
 * directory is tried when it is not. */
json_t *cache_read(const char *name, bool (*is_valid)(const json_t *content, const void *userdata),
                   const void *userdata);
/* To the first directory that takes it; a failure is only logged (debug). */
void cache_write(const char *name, const json_t *content);
/* To that directory (made if it is not there). */
int cache_write_to(const char *directory, const char *name, const json_t *content, struct error **ret_error);
