/* SPDX-License-Identifier: Apache-2.0 */
/* The loop of PID 1: the launcher's life, and what becomes of the guest after it. */
#pragma once

#include <signal.h>

#include "base/error.h"
#include "monitor/options.h"

/* Runs until everything is over. Returns the exit code for the monitor, or a negative errno if it could not do its
 * work.
 */
int supervise(const struct monitor_options *options, struct error **ret_error);

/* Blocks the signals that supervise() reads; before anything is started. */
void supervise_block_signals(void);

/* Did it end by itself, or was it torn from its work? A shell between us reports a signal N as 128 + N. */
bool is_crash(const siginfo_t *info);
/* The exit code as a shell tells it. */
int status_exit_code(const siginfo_t *info);
/* How long to wait before the nth start of a crashed launcher (from 0); microseconds. */
uint64_t restart_delay(unsigned nth);
