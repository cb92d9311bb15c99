/* SPDX-License-Identifier: Apache-2.0 */
/* The monitor's command line: a few flags are its own, some are read in passing, all others are the launcher's. */
#pragma once

#include "base/error.h"

struct monitor_options {
    char **launcher_argv; /* [0] is the launcher's path */
    const char *container_disk_dir, *uid, *private_dir, *termination_log;
    bool termination_log_given;
    bool keep_after_failure;
    bool help;
};

/* Strings point into argv and environ. Free with monitor_options_done(). */
int monitor_options_parse(int argc, const char *const *argv, struct monitor_options *ret, struct error **ret_error);
void monitor_options_done(struct monitor_options *options);
void monitor_options_usage(void);
