/* SPDX-License-Identifier: Apache-2.0 */
/* How long a command may take before its caller is told that it failed. Two tables: QMP's and the guest agent's. */
#pragma once

#include "base/util.h"

/* Microseconds; UINT64_MAX: no deadline. */
uint64_t qmp_default_timeout(const char *command);
uint64_t qga_default_timeout(const char *command);
/* The agent answers these only when they fail (qga/qapi-schema.json, 'success-response': false). */
bool qga_answers_on_success(const char *command);
