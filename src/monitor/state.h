/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the monitor reads of <private>/<uid>/domain.json, which the launcher writes: which process the VM is, and what
 * its state was. A small scanner of its own, because the monitor links no JSON library.
 */
#pragma once

#include <sys/types.h>

#include "base/util.h"

struct vm_state {
    pid_t pid;           /* 0: the file names none */
    uint64_t start_time; /* clock ticks since boot, as /proc/PID/stat field 22 */
    char boot_id[40];    /* empty if the file names none */
    char state[32];      /* "Running", "Shutoff"… */
    char reason[48];     /* "Shutdown", "Crashed"… */
};

/* Parses an object whose wanted members are at its top level; others are skipped, whatever they hold. -EBADMSG if the
 * text is no JSON object, or a wanted member has another type, is too long or out of range. */
int vm_state_parse(const char *text, size_t length, struct vm_state *ret);
/* -ENOENT if there is no file, -EBADMSG, or another errno. */
int vm_state_read(const char *path, struct vm_state *ret);
