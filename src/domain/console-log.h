/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The console's log: what the guest prints, from its first byte, in a file that is bounded and rotated. The bytes go
 * from QEMU's pipe to the file by splice(2), so that a launcher that is killed at any moment has neither lost one nor
 * will double one: what is not in the file is still in the pipe, for the next launcher.
 *
 * A predecessor of the log is named by the count of bytes at which it ends since the log's beginning
 * (virt-serial0-log.4194304): their order is that of the numbers, and none is renamed twice.
 *
 * Nothing about a log is a reason to stop a VM: what fails is said once in the launcher's log, and the next bytes are
 * another try.
 */
#pragma once

#include <sys/types.h>

#include "base/error.h"

#define CONSOLE_LOG_NAME "virt-serial0-log"

struct console_log;

struct console_log_options {
    const char *dir;
    uint64_t file_bytes; /* of one file; 0: LIMIT_CONSOLE_LOG_BYTES */
};

/* Makes the file, or goes on with one that is there. Fails only when out of memory. */
int console_log_open(const struct console_log_options *options, struct console_log **ret, struct error **ret_error);
/* Moves what is in the pipe (non-blocking), at most `size` bytes, and gives a copy. The count, 0 at the end of file, or
 * a negative errno of the pipe (-EAGAIN: nothing is in it); a log that cannot be written is none. */
ssize_t console_log_move(struct console_log *log, int pipe_fd, char *data, size_t size);
/* The last bytes of the log, at most `size`. */
size_t console_log_read_end(const struct console_log *log, char *buffer, size_t size);
void console_log_free(struct console_log *log);
DEFINE_CLEANUP(struct console_log *, console_log_free)
