/* SPDX-License-Identifier: Apache-2.0 */
/* What the monitor gives up before it starts anything: capabilities, new privileges, system calls. */
#pragma once

#include "base/error.h"

/*
 * Capabilities: NET_BIND_SERVICE becomes ambient, so that a launcher of any uid has it (when the container was given
 * it: *ret_bind_service); those that a launcher may need stay in the permitted set for it; the rest is dropped, from
 * the bounding set too where that is allowed. The monitor itself keeps in effect what it needs to stop a guest of
 * another uid and to clean up.
 */
int sandbox_capabilities(bool *ret_bind_service, struct error **ret_error);
/* no_new_privs, for us and all that comes after. */
int sandbox_no_new_privs(struct error **ret_error);
/*
 * The seccomp filter. The launcher and QEMU inherit it, because the monitor must be able to start a launcher at any
 * time, and a filter is never taken off. So it is the base line of the whole container: what nothing in it has a use
 * for is refused by EPERM. The launcher and QEMU put their own, narrower filters on top.
 */
int sandbox_seccomp(struct error **ret_error);
