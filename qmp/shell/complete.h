/* SPDX-License-Identifier: Apache-2.0 */
/* What can stand where the cursor is. */
#pragma once

#include "qmp/shell/shell.h"

/* Whole words that start with `word`, which follows `before` on the line; NULL for none. For strv_free(). Asks QEMU for
 * device ids, node names, QOM paths and job ids. */
char **shell_complete(struct shell *shell, const char *before, const char *word);
