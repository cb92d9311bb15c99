/* SPDX-License-Identifier: Apache-2.0 */
/* What the end of the launcher sets going in the rest of the pod. Nothing here fails: what does not work is logged. */
#pragma once

#include "base/util.h"

/* Removes DIR/<anything>.sock and DIR/<uid>/<anything>.sock, on which the container disks' containers wait. uid may be
 * NULL. */
void cleanup_container_disks(const char *dir, const char *uid);
/* Says to guest-console-log that no more comes: <private>/<uid>/virt-serial0-log-sigTerm. */
void cleanup_console_log(const char *vm_dir);
/*
 * The launcher is gone, and what the guest prints waits in a pipe, which goes when its last reader has gone and QEMU
 * too. This is a reader that stays: the descriptor, or a negative errno (no VM, no console). It takes nothing from the
 * pipe: the next launcher does.
 */
int console_hold(const char *vm_dir);
/* No launcher comes any more: what is in the pipe goes to the end of virt-serial0-log, if there is one. */
void console_save(const char *vm_dir, int fd);
/* Ends the Istio sidecar, if Envoy is ready at 127.0.0.1:15021, by POST 127.0.0.1:15020/quitquitquit. Without one the
 * connect is refused at once. */
void cleanup_istio(void);
/* The ends of the logs that QEMU and passt left, one record each. */
void cleanup_show_logs(const char *private_dir);
/* One line for kubelet. With create false only a file that exists is written. */
void cleanup_termination_message(const char *path, bool create, const char *text);
