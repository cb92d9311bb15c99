/* SPDX-License-Identifier: Apache-2.0 */
/* The files that QEMU can open, whatever its uid could: Landlock (kernel, Documentation/userspace-api/landlock.rst). */
#pragma once

#include "base/error.h"

/*
 * A ruleset for child_options.ruleset_fd: read and write below `dirs` (NULL-terminated) and in each existing file that
 * a word of `argv` names; what every program needs of the system, read-only; /proc, /sys, /dev, /tmp. So not
 * /etc/shadow, not the service account's token, not another user's home. Signals and abstract sockets beyond QEMU
 * itself are out of its reach too, where the kernel can say so (6.12). *ret_fd is -EBADF on a kernel without Landlock.
 * *ret_flags are those of landlock_restrict_self(2) by which a refusal is in the kernel's audit log (6.15).
 */
int landlock_for_qemu(const char *const *dirs, char *const *argv, int *ret_fd, unsigned *ret_flags,
                      struct error **ret_error);
