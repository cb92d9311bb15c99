/* SPDX-License-Identifier: Apache-2.0 */
/* The shell on a terminal: line editing, history, completion, events above the prompt. */
#pragma once

#include "qmp/shell/shell.h"

int terminal_run(struct shell *shell, struct error **ret_error);
/* To be called for each event: prints it above the prompt when there is one. */
void terminal_event(struct shell *shell, const char *name, const json_t *data, uint64_t usec);
