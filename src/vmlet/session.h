/* SPDX-License-Identifier: Apache-2.0 */
/* One VM in the foreground: started, watched until what was asked for is reached, stopped, and told about. */
#pragma once

#include <jansson.h>

#include "base/error.h"
#include "base/event.h"
#include "domain/domain.h"
#include "vmlet/until.h"

struct session_options {
    enum until until;
    const char *console_regex; /* POSIX extended, for UNTIL_CONSOLE */
    const char *exec;          /* run in the guest by /bin/sh -c once the agent answers; NULL: nothing */
    bool console;              /* stream the console to stdout, and stdin to it when that is a terminal */
    bool progress;             /* lines on stderr for people */
    uint64_t timeout_usec;     /* for reaching `until` and for exec; 0: none */
    uint64_t grace_usec;       /* of the stop */
};

struct session_result {
    int code;      /* exit code of the program */
    bool executed; /* the guest's command ended; then: */
    int exec_code;
    char *exec_out, *exec_err;
    uint64_t exec_usec;  /* how long it took */
    struct error *error; /* why code is not 0; NULL if it is the guest command's own code */
    char *outcome;       /* how the VM ended */
};

/* Starts the domain (already made) and runs the loop until the VM has ended. Always fills *ret. */
void session_run(sd_event *event, struct domain *domain, const struct session_options *options,
                 struct session_result *ret);
void session_result_done(struct session_result *result);
