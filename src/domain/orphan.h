/* SPDX-License-Identifier: Apache-2.0 */
/* A QEMU that runs in a VM's directory though no state file names it. */
#pragma once

#include "base/error.h"

/*
 * A launcher that is killed between the start of QEMU and the first state file leaves a QEMU that nobody can take over;
 * its guest has not run yet, and it is told to quit: 1. 0: nobody listens there. -EBUSY: its guest has run (the state
 * file was lost), so it is left as it is; -ETIMEDOUT: it does not answer. Waits, a few seconds at most.
 */
int domain_end_orphan(const char *dir, struct error **ret_error);
/* Removes what a killed process was writing (file_write_atomic()). */
void domain_remove_staged(const char *dir);
