/* SPDX-License-Identifier: Apache-2.0 */
/* File descriptors: always close-on-exec, -EBADF when empty, one owner. */
#pragma once

#include <sys/types.h>

#include "base/error.h"
#include "base/util.h"

/* Closes fd unless it is negative; returns -EBADF, so that `fd = fd_close(fd)` leaves no stale number. Keeps errno. */
int fd_close(int fd);

static inline void fd_closep(int *fd)
{
    *fd = fd_close(*fd);
}

#define _cleanup_close_ _cleanup_(fd_closep)

#define TAKE_FD(fd)                                                                                                    \
    ({                                                                                                                 \
        int *take_fd_ = &(fd);                                                                                         \
        int taken_fd_ = *take_fd_;                                                                                     \
        *take_fd_ = -EBADF;                                                                                            \
        taken_fd_;                                                                                                     \
    })

/* Writes all of it to a blocking fd. */
int fd_write_all(int fd, const void *data, size_t length);
/* Reads a whole file of at most `limit` bytes (else -EFBIG) into a NUL-terminated buffer that the caller frees. */
int fd_read_all(int fd, size_t limit, char **ret_data, size_t *ret_length);
int file_read(const char *path, size_t limit, char **ret_data, size_t *ret_length, struct error **ret_error);
/* Written aside, fsynced and renamed: a reader sees the old content or the new one. Mode as given. */
int file_write_atomic(const char *path, const void *data, size_t length, mode_t mode, struct error **ret_error);
/* The same without the fsync: whole for every process of this boot, whenever one is killed; after a crash of the
 * machine the file may be old or empty. For what is of no use after that, in a path where somebody waits for an answer.
 */
int file_replace(const char *path, const void *data, size_t length, mode_t mode, struct error **ret_error);
int fd_set_nonblocking(int fd, bool nonblocking);
int fd_set_cloexec(int fd, bool cloexec);

/* An fd over a unix socket (SCM_RIGHTS), in a message of its own. */
int fd_send(int socket, int fd);
/* Waits for it: CLOEXEC, or a negative errno. Who has none to send writes an errno (an int) in its place. */
int fd_receive(int socket);

/*
 * A listening unix stream socket, non-blocking, CLOEXEC. A file left by a dead server is replaced: the name is tried by
 * a connect, and only "connection refused" counts as dead; -EADDRINUSE when somebody answers. `mode` is the file's.
 */
int unix_listen(const char *path, mode_t mode, int backlog, int *ret_fd, struct error **ret_error);
/* Connects without blocking for long: a unix connect ends at once or fails (-EAGAIN: the backlog is full). */
int unix_connect(const char *path, int *ret_fd, struct error **ret_error);
/* Accepts one connection, non-blocking and CLOEXEC; the fd or a negative errno. */
int unix_accept(int listen_fd);
/*
 * A path of a unix socket has at most 107 bytes, and those of a pod's volumes are longer: *ret_fd is its folder (to be
 * closed), and `ret` a short name for the socket that holds as long as the folder is open.
 */
#define SHORT_SOCKET_SIZE 108
int socket_shorten(const char *path, int *ret_fd, char ret[static SHORT_SOCKET_SIZE]);

/* mkdir -p with the mode for what it makes. */
int mkdir_parents(const char *path, mode_t mode, struct error **ret_error);
/* rm -r that stays below path, does not follow symlinks, and is quiet about what is not there. */
int remove_tree(const char *path);
/* The same for what is in a directory, but for the entry `except` (NULL: none); the directory stays. */
int remove_tree_contents(const char *path, const char *except);
