/* SPDX-License-Identifier: Apache-2.0 */
/* The result of a smoke test as a JUnit XML file, as CI systems read it. */
#pragma once

#include "domain/timeline.h"
#include "vmlet/session.h"

/* Two test cases: that the guest came up, and that the command ended with 0. Written atomically. */
int junit_write(const char *path, const char *manifest, const char *command, const struct session_result *result,
                const struct timeline *timeline, struct error **ret_error);
