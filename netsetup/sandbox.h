/* SPDX-License-Identifier: Apache-2.0 */
/* What netsetup gives up before it reads anything that others wrote. */
#pragma once

#include "base/error.h"

/*
 * Keeps CAP_NET_ADMIN alone (permitted, effective, bounding; nothing inheritable or ambient), sets no_new_privs and a
 * filter of system calls. ERROR_HOST without CAP_NET_ADMIN, unless `may_lack`: planning needs none.
 */
int sandbox_enter(bool may_lack, struct error **ret_error);

/*
 * A child that writes into the launcher's directory with the rights of the directory's owner, and no others: whatever
 * links that owner has put there lead no further than he could go himself.
 */
struct writer;
int writer_start(int dir_fd, struct writer **ret, struct error **ret_error);
/* Replaces a file in one step. `text` NULL: removes it. */
int writer_put(struct writer *writer, const char *name, const char *text, struct error **ret_error);
/* Ends the child and waits for it. */
void writer_free(struct writer *writer);
DEFINE_CLEANUP(struct writer *, writer_free)
