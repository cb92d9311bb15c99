/* SPDX-License-Identifier: Apache-2.0 */
/* Which VM a command means: from --socket, --state-dir and NAME to the path of its command socket. */
#pragma once

#include "base/error.h"

#define LAUNCHER_SOCKET_NAME "launcher-sock"
#define POD_LAUNCHER_SOCKET  "/var/run/kubevirt/sockets/launcher-sock"

/* Where `vmlet run` keeps its VMs, one directory <namespace>_<name> for each: $XDG_RUNTIME_DIR/vmlet, else /run/vmlet
 * for root and /tmp/vmlet-<uid> for others. NULL when out of memory. Nothing is made. */
char *default_state_dir(void);

struct locate_options {
    const char *socket;    /* --socket */
    const char *state_dir; /* --state-dir */
    const char *name;      /* NAME: <name>, <namespace>/<name> or <namespace>_<name> */
};

/*
 * --socket as it is; else in --state-dir, where the socket lies in the directory itself or in that of NAME (or of the
 * only VM); else the pod's; else as in the default state directory. ERROR_NOT_FOUND says where was looked, and which
 * VMs there are when it is not one. A socket that nobody listens on does not count as a VM.
 */
int locate_socket(const struct locate_options *options, char **ret_socket, struct error **ret_error);
/* The same, and waits for the VM while there is none; ERROR_TIMED_OUT says what was looked for. */
int locate_await(const struct locate_options *options, uint64_t timeout_usec, char **ret_socket,
                 struct error **ret_error);
