/* SPDX-License-Identifier: Apache-2.0 */
/*
 * container-disk: runs in a container whose image holds a VM's disk, so that the node agent can reach that image
 * through this process's mount namespace (docs/container-disk.1.scd). Static: the image has no library of ours.
 */
#include <linux/capability.h>
#include <poll.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/confine.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "tools/watch.h"

static const char usage[] =
    "Usage: container-disk --no-op | --copy-path PATH\n"
    "Keeps the container of a VM's disk image alive while its socket PATH.sock exists.\n\n"
    "  --no-op                end at once: as an init container it makes kubelet pull the image\n"
    "  -c, --copy-path PATH   at most %u bytes; missing directories above it are made\n"
    "  -h, --help\n\n"
    "Ends with 0 when the socket is removed or on SIGTERM, 1 on a failure, 2 on wrong "
    "arguments.\n";

/* When the socket is there: taking callers, and looking at the directory. */
static const char *const calls[] = {
    "accept4",           "access",           "faccessat", "faccessat2", "lstat", "lstat64",
    "inotify_add_watch", "inotify_rm_watch", "unlink",    "unlinkat",   NULL,
};

/* Is the socket at `path` still the one that we made? */
static bool still_there(const char *path, const struct stat *made)
{
    struct stat now;

    return lstat(path, &now) == 0 && now.st_ino == made->st_ino && now.st_dev == made->st_dev;
}

static int until_gone(struct watch *watch, int listen_fd, const char *dir, const char *path)
{
    struct stat made;

    if (lstat(path, &made) < 0)
        return 0;
    for (;;) {
        struct pollfd fds[] = {{.fd = listen_fd, .events = POLLIN},
                               {.fd = watch->inotify_fd, .events = POLLIN},
                               {.fd = watch->signal_fd, .events = POLLIN}};
        int r;

        /* watched first, looked at then: nothing is missed in between */
        r = watch_set(watch, dir, NULL);
        if (r < 0 || !still_there(path, &made))
            return 0;
        poll(fds, ELEMENTSOF(fds), watch->inotify_fd < 0 ? (int)(WATCH_FALLBACK_USEC / USEC_PER_MSEC) : -1);
        if (fds[0].revents) {
            int peer = unix_accept(listen_fd); /* what the node agent wants of us is our pid: SO_PEERCRED, socket(7) */

            fd_close(peer);
        }
        if (fds[1].revents || fds[2].revents) {
            r = watch_wait(watch);
            if (r > 0 && still_there(path, &made))
                unlink(path);
            if (r != 0)
                return r < 0 ? r : 0;
        }
    }
}

static int serve(const char *copy_path, struct error **ret_error)
{
    char path[LIMIT_CONTAINER_DISK_PATH + sizeof(".sock")], dir[sizeof(path)];
    _cleanup_close_ int listen_fd = -EBADF;
    struct watch watch;
    char *slash;
    int r;

    if (strlen(copy_path) > LIMIT_CONTAINER_DISK_PATH || !*copy_path)
        return error_set(ret_error, ERROR_BAD_ARGUMENT, ENAMETOOLONG,
                         "--copy-path has %zu bytes (1 to %u are allowed): %s", strlen(copy_path),
                         LIMIT_CONTAINER_DISK_PATH, copy_path);
    snprintf(path, sizeof(path), "%s.sock", copy_path);
    snprintf(dir, sizeof(dir), "%s", copy_path);
    slash = strrchr(dir, '/');
    if (slash == dir)
        slash++;
    if (slash)
        *slash = '\0';
    else
        snprintf(dir, sizeof(dir), ".");
    r = watch_init(&watch, ret_error);
    if (r == 0)
        r = mkdir_parents(dir, 0755, ret_error);
    if (r == 0)
        r = unix_listen(path, 0660, CONTAINER_DISK_BACKLOG, &listen_fd, ret_error);
    if (r == 0) /* root removes the socket from a directory of another user's */
        r = confine(&(struct confinement){.calls = calls, .capabilities = 1ULL << CAP_DAC_OVERRIDE}, ret_error);
    if (r == 0) {
        r = until_gone(&watch, listen_fd, dir, path);
        if (r < 0)
            error_errno(ret_error, r, "cannot wait for the end of %s", path);
    }
    watch_done(&watch);
    return r;
}

int main(int argc, char **argv)
{
    _cleanup_error_ struct error *error = NULL;
    const char *copy_path = NULL;
    bool no_op = false, bad = argc < 2;

    log_init("container-disk", LOG_LEVEL_INFO);
    for (int i = 1; i < argc; i++) {
        const char *value = startswith(argv[i], "--copy-path=");

        if (streq(argv[i], "--help") || streq(argv[i], "-h")) {
            dprintf(STDOUT_FILENO, usage, (unsigned)LIMIT_CONTAINER_DISK_PATH);
            return EXIT_OK;
        }
        if (streq(argv[i], "--no-op"))
            no_op = true;
        else if (value)
            copy_path = value;
        else if ((streq(argv[i], "--copy-path") || streq(argv[i], "-c")) && i + 1 < argc)
            copy_path = argv[++i];
        else
            bad = true;
    }
    if (bad || (!no_op && !copy_path)) {
        dprintf(STDERR_FILENO, usage, (unsigned)LIMIT_CONTAINER_DISK_PATH);
        return EXIT_BAD_INPUT;
    }
    if (no_op || serve(copy_path, &error) == 0)
        return EXIT_OK;
    log_error_of(error, "the disk of this container cannot be offered");
    return (int)error_exit_code(error);
}
