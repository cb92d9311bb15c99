/* SPDX-License-Identifier: Apache-2.0 */
/* The QEMU processes below the monitor: found by domain.json, else by their command line. */
#pragma once

#include <sys/types.h>

#include "base/util.h"

/* A process by a name that is not reused: the pidfd was opened between two reads of the same start time. */
struct guest {
    pid_t pid;
    int pidfd;
};

#define GUESTS_MAX 8U

struct guests {
    struct guest list[GUESTS_MAX];
    size_t n;
    bool from_state_file;
};

/*
 * The VM that `state_path` names, if that process runs and is what the file means (start time, boot). Without a usable
 * file every descendant of ours that is a QEMU. NULL for state_path: only the latter. Returns the number found; the
 * pidfds are the caller's (guests_done()).
 */
size_t guests_find(const char *state_path, struct guests *ret);
void guests_done(struct guests *guests);
/* Sends a signal to those that still run; the number of them. */
size_t guests_signal(const struct guests *guests, int signal_number);
size_t guests_alive(const struct guests *guests);

/* SIGKILL for every descendant of ours (not ourselves); the number found. For the way out when we are no init, whose
 * end would have done it. */
size_t descendants_kill(void);
