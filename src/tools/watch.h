/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting for a change in a directory, or for a signal. By inotify; where the host gives no instance (there are 128 for
 * one uid on a node, and all pods are uid 107), by a look every WATCH_FALLBACK_USEC.
 */
#pragma once

#include "base/error.h"

struct watch {
    int inotify_fd; /* -EBADF: the fallback */
    int signal_fd;
    int watched[2]; /* inotify's numbers of the directory and of the file in it */
};

/* Blocks SIGTERM, SIGINT, SIGQUIT and SIGHUP: they are read here, also by a process that is PID 1. */
int watch_init(struct watch *watch, struct error **ret_error);
void watch_done(struct watch *watch);
/* From now on: entries that come and go in the directory, and writes to the file (NULL: none). What was watched before
 * is dropped. -ENOENT if the directory is not there. */
int watch_set(struct watch *watch, const char *dir, const char *file);
/* Until something may have changed: 0. The signal's number if one came; a negative errno on failure. */
int watch_wait(struct watch *watch);
/* A signal that has come already, 0 if none. */
int watch_poll_signal(struct watch *watch);
