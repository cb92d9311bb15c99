/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a program that runs a VM may ask of the kernel, and what its QEMU may: two seccomp filters.
 *
 * The program's own is a list of what is allowed. Its children inherit it, so it holds what they need too. QEMU gets a
 * second one on top (domain_sandbox_qemu()), which ends it at the first call that a QEMU never makes: another program,
 * another process, a look into one, a network socket. It is there before QEMU's first instruction, whatever file it is
 * that was started as QEMU; QEMU's own `-sandbox` comes third.
 */
#pragma once

#include <linux/filter.h>

#include "base/error.h"

/* no_new_privs and the program's filter: confine() with our list. */
int sandbox_enter(struct error **ret_error);

/* No capability is in effect any more: nothing after the set-up needs one (root keeps those by which it gets at the
 * files of another user). What is ambient, NET_BIND_SERVICE, can still come into effect in a launcher that is executed
 * anew in this one's place, to serve DHCP; QEMU is started without it. */
int sandbox_drop_capabilities(struct error **ret_error);

/* What the child becomes between fork and exec (base/child.h). */
struct qemu_sandbox {
    struct sock_fprog filter;
    char *program; /* the path that may be executed, at this very address: nobody else knows it */
    size_t mapped;
};

/* `program` is looked up in PATH. `network`: QEMU makes sockets itself (user networking). */
int qemu_sandbox_init(struct qemu_sandbox *sandbox, const char *program, bool network, struct error **ret_error);
void qemu_sandbox_done(struct qemu_sandbox *sandbox);
