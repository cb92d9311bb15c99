/* SPDX-License-Identifier: Apache-2.0 */
/* Following a console log: what is new in the file, over truncation and rotation, as whole lines. */
#pragma once

#include <sys/types.h>

#include "base/error.h"

struct tail;

/* Takes the bytes of whole lines (or a piece of a line longer than LIMIT_TAIL_LINE_BYTES). A negative return ends the
 * reading and is passed on. */
typedef int (*tail_write_fn)(const char *data, size_t length, void *userdata);

/* `path` is borrowed; the file need not exist. NULL when out of memory. */
struct tail *tail_new(const char *path, tail_write_fn write, void *userdata);
void tail_free(struct tail *tail);
/* Reads all that there is now. Files PATH.N (numbers that grow) are the file's predecessors, and are read before it, in
 * the order of their numbers. A file of another inode is opened after the old one was read to its end; one that is
 * shorter than what was read is read from its start. 0, also if the file is missing or cannot be read. */
int tail_read(struct tail *tail);
/* Writes out the beginning of a line that has no end yet; *ret_open (optional) says whether the last byte written was
 * no line end. */
int tail_flush(struct tail *tail, bool *ret_open);
