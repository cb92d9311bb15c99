/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What went wrong, for a program and for a person.
 *
 * A function that can fail returns 0 or a negative errno, and takes an optional `struct error **ret_error` as its last
 * parameter. On failure it leaves an error there (code, message, errno, the QMP class if QEMU said it); on success it
 * does not touch it. Callers add context by error_wrap(). NULL for ret_error is always allowed.
 */
#pragma once

#include <stdarg.h>

#include "base/util.h"

/* The programs' exit codes (vmlet(1), section EXIT STATUS). */
enum exit_code {
    EXIT_OK = 0,
    EXIT_FAILED = 1,
    EXIT_BAD_INPUT = 2,
    EXIT_HOST_CANNOT = 3,
    EXIT_TIMED_OUT = 124,
};

/* Stable codes: symbol, name on the wire and in logs, exit code. Adding one is adding a row; names never change. */
#define ERROR_CODES(X)                                                                                                 \
    X(INTERNAL, "Internal", EXIT_FAILED)           /* a bug of ours, or out of memory */                               \
    X(SYSTEM, "System", EXIT_FAILED)               /* a system call failed; errno says how */                          \
    X(BAD_ARGUMENT, "BadArgument", EXIT_BAD_INPUT) /* command line or request parameter */                             \
    X(BAD_MANIFEST, "BadManifest", EXIT_BAD_INPUT) /* the faults are listed beside it */                               \
    X(BAD_DATA, "BadData", EXIT_FAILED)            /* a peer or a file broke its format */                             \
    X(NOT_SUPPORTED, "NotSupported", EXIT_FAILED)  /* known, not built yet, named by its name */                       \
    X(NOT_ALLOWED, "NotAllowed", EXIT_FAILED)      /* wrong peer, read-only shell… */                                \
    X(WRONG_STATE, "WrongState", EXIT_FAILED)      /* the method is not allowed in this state of the VM */             \
    X(NOT_FOUND, "NotFound", EXIT_FAILED)          /* no VM, no device, no socket of that name */                      \
    X(ALREADY_EXISTS, "AlreadyExists", EXIT_FAILED)                                                                    \
    X(CANCELLED, "Cancelled", EXIT_FAILED)                                                                             \
    X(TIMED_OUT, "TimedOut", EXIT_TIMED_OUT)                                                                           \
    X(LIMIT, "LimitExceeded", EXIT_FAILED)              /* one of base/limits.h */                                     \
    X(CONNECTION, "ConnectionLost", EXIT_FAILED)        /* the peer closed, or nobody listens */                       \
    X(QEMU_NOT_FOUND, "QemuNotFound", EXIT_HOST_CANNOT) /* no emulator for the architecture */                         \
    X(QEMU_TOO_OLD, "QemuTooOld", EXIT_HOST_CANNOT)                                                                    \
    X(QEMU_START, "QemuStartFailed", EXIT_FAILED) /* QEMU ended before it was ready; its stderr is quoted */           \
    X(QEMU_EXITED, "QemuExited", EXIT_FAILED)     /* QEMU ended while it was needed */                                 \
    X(QMP, "QmpError", EXIT_FAILED)               /* QEMU refused a command: class and text */                         \
    X(NO_KVM, "NoKvm", EXIT_HOST_CANNOT)          /* KVM asked for, and not usable */                                  \
    X(HOST, "HostCannot", EXIT_HOST_CANNOT)       /* another thing that this host lacks */                             \
    X(AGENT_NOT_CONNECTED, "AgentNotConnected", EXIT_FAILED)                                                           \
    X(AGENT, "AgentError", EXIT_FAILED)           /* the guest agent refused a command */                              \
    X(GUEST, "GuestFailed", EXIT_FAILED)          /* the guest panicked, or left before it should */                   \
    X(STORAGE, "Storage", EXIT_FAILED)            /* a volume's image */                                               \
    X(IMAGE_REFUSED, "ImageRefused", EXIT_FAILED) /* an image that is not trusted */                                   \
    X(NETWORK, "Network", EXIT_FAILED)

enum error_code {
#define X(symbol, name, exit) ERROR_##symbol,
    ERROR_CODES(X)
#undef X
        ERROR_CODE_COUNT,
};

struct error;

/*
 * Makes an error. `err` is an errno, positive or negative; 0 counts as EIO. Returns -|err|, also when ret_error is NULL
 * or memory is out (a static error stands in then). An error already in *ret_error is replaced.
 */
int error_set(struct error **ret_error, enum error_code code, int err, const char *format, ...) _printf_(4, 5) _cold_;
int error_set_va(struct error **ret_error, enum error_code code, int err, const char *format, va_list ap)
    _printf_(4, 0) _cold_;

/* As error_set(…, ERROR_SYSTEM, …), with ": <strerror>" behind the text. */
int error_errno(struct error **ret_error, int err, const char *format, ...) _printf_(3, 4) _cold_;

/* -ENOMEM, and an error that says so. */
int error_oom(struct error **ret_error) _cold_;

/* Puts "<text>: " in front of the message. Returns `r` unchanged. Does nothing when *error is NULL. */
int error_wrap(struct error **error, int r, const char *format, ...) _printf_(3, 4) _cold_;

/* The class of a QMP error ("GenericError", "DeviceNotFound"…); set by qmp/. */
void error_set_qmp_class(struct error *error, const char *qmp_class);
/* What the user can do about it, one sentence; printed behind the message. */
void error_set_remedy(struct error *error, const char *format, ...) _printf_(2, 3);

enum error_code error_get_code(const struct error *error);
const char *error_code_name(enum error_code code);
/* -1 if there is no such name. */
int error_code_from_name(const char *name);
int error_get_errno(const struct error *error);
const char *error_message(const struct error *error);
const char *error_qmp_class(const struct error *error); /* NULL if QEMU did not say it */
const char *error_remedy(const struct error *error);    /* NULL if there is none */
/* The exit code of a program that ends because of this error; EXIT_FAILED for NULL. */
enum exit_code error_exit_code(const struct error *error);

struct error *error_copy(const struct error *error);
void error_free(struct error *error);
DEFINE_CLEANUP(struct error *, error_free)
#define _cleanup_error_ _cleanup_(error_freep)
/* Moves `from` to *ret_error, or frees it when ret_error is NULL. */
void error_move(struct error **ret_error, struct error *from);
