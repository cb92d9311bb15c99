/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The serial console, for several viewers at once. QEMU's chardev has one other end, and this is it: what the guest
 * prints goes to every viewer and is kept in a ring for those who come later; what any viewer types goes to the guest.
 */
#pragma once

#include "base/error.h"
#include "base/event.h"

struct console;

/* Bytes that the guest printed, as they come. */
typedef void (*console_output_fn)(const char *data, size_t length, void *userdata);

struct console_log;

/* output_fd, input_fd: what the guest prints comes from the first, what is typed goes to the second (both taken; they
 * may be the same). listen_path: the viewers' socket (virt-serial0), or NULL for none. log: borrowed, outlives the
 * console; NULL: none. What is at its end is the first that viewers see. */
int console_new(sd_event *event, int output_fd, int input_fd, const char *listen_path, struct console_log *log,
                struct console **ret, struct error **ret_error);
/* QEMU has ended: takes what is still on its way. */
void console_drain(struct console *console);
/* Flushes what the viewers' sockets take at once, removes the socket. */
void console_free(struct console *console);
DEFINE_CLEANUP(struct console *, console_free)

/* Called once, at the guest's first output. */
void console_set_first_output_handler(struct console *console, void (*handler)(void *userdata), void *userdata);
/* Called with all of the output, besides the viewers. */
void console_set_tap(struct console *console, console_output_fn tap, void *userdata);
/* A viewer besides those of the socket, the terminal of `vmlet run`. Both fds are borrowed; -1 for input: read-only.
 * escape: the byte that ends it when typed (ctrl-] is 0x1d), 0 for none; `ended` is called then or at end of file. */
int console_add_viewer(struct console *console, int input_fd, int output_fd, int escape, void (*ended)(void *userdata),
                       void *userdata);
unsigned console_count_viewers(const struct console *console);
/* Bytes printed by the guest so far. */
uint64_t console_count_bytes(const struct console *console);
