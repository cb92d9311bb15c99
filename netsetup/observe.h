/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "netsetup/observed.h"

/*
 * Looks at the network namespace that the calling thread is in, and changes nothing in it. ERROR_HOST where the kernel
 * gives no answer.
 */
int net_observe(struct net_observed **ret, struct error **ret_error);

/* One value below /proc/sys, without its line end; in the arena. -ENOENT: the kernel has no such key. */
int net_sysctl_read(struct arena *arena, const char *key, const char **ret);
