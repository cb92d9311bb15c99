/* SPDX-License-Identifier: Apache-2.0 */
/*
 * passt where it cannot shut itself in. It makes namespaces and an empty root of its own, and ends if it cannot
 * (isolation.c of passt; there is no option against it). A pod's seccomp profile refuses these calls, so does the
 * monitor's, and some hosts let nobody but root have user namespaces. There the calls are answered as done, by a filter
 * of system calls that has the last word (seccomp(2): of equal actions that of the newest filter counts), and Landlock
 * keeps passt to the files of the VM; passt drops its capabilities and loads its own filter afterwards, as always.
 */
#pragma once

#include <linux/filter.h>

#include "base/error.h"

struct isolation {
    const struct sock_fprog *filter; /* for child_options; NULL: the program can shut itself in */
    int ruleset_fd;                  /* -EBADF: none */
    unsigned ruleset_flags;
};

/* Finds out by trying, in a child process. `dirs` (NULL-terminated) and `argv` as for landlock_for_qemu(). */
int isolation_init(const char *const *dirs, char *const *argv, struct isolation *ret, struct error **ret_error);
void isolation_done(struct isolation *isolation);
