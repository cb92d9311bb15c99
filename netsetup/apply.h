/* SPDX-License-Identifier: Apache-2.0 */
/* Carries plans out in the network namespace that the calling thread is in. Needs CAP_NET_ADMIN there. */
#pragma once

#include "netsetup/plan.h"

/*
 * All steps, or none: when one fails, those before it are undone, last first, and the error says which step it was.
 * `fail_at`: for tests: the step (from 1) that fails without being tried; 0: none. If an undo fails too, the error says
 * so, and *ret_restored is false: the namespace is then not as it was.
 */
int net_apply(const struct net_plan *plan, unsigned fail_at, bool *ret_restored, struct error **ret_error);

/* Runs undos, the last one first. What is gone already counts as undone. Goes on after a failure, and reports the
 * first. */
int net_undo(const struct net_action *undos, size_t count, struct error **ret_error);
