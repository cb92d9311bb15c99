/* SPDX-License-Identifier: Apache-2.0 */
#include "vmlet/locate.h"

#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "base/event.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/strbuf.h"
#include "base/strv.h"

char *default_state_dir(void)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    char *path = NULL;
    int n;

    if (runtime && *runtime == '/')
        n = asprintf(&path, "%s/vmlet", runtime);
    else if (geteuid() == 0)
        return strdup("/run/vmlet");
    else
        n = asprintf(&path, "/tmp/vmlet-%u", (unsigned)geteuid());
    return n < 0 ? NULL : path;
}

static bool answers(const char *socket)
{
    int fd = -EBADF, r = unix_connect(socket, &fd, NULL);

    fd_close(fd);
    return r >= 0 || r == -EAGAIN || r == -EACCES;
}

/* Does the directory's name (<namespace>_<name>) belong to what the user typed? */
static bool name_matches(const char *directory, const char *wanted)
{
    const char *separator = strchr(directory, '_'), *slash = strchr(wanted, '/');

    if (streq(directory, wanted))
        return true;
    if (slash)
        return separator && (size_t)(separator - directory) == (size_t)(slash - wanted) &&
               strncmp(directory, wanted, (size_t)(slash - wanted)) == 0 && streq(separator + 1, slash + 1);
    return separator && streq(separator + 1, wanted);
}

struct found {
    char **all, **matching; /* names of directories whose VM answers */
};

static int add_found(struct found *found, const char *state_dir, const char *name, const char *wanted)
{
    _cleanup_free_ char *socket = NULL;
    int r = 0;

    if (asprintf(&socket, "%s/%s/" LAUNCHER_SOCKET_NAME, state_dir, name) < 0) {
        socket = NULL;
        return -ENOMEM;
    }
    if (access(socket, F_OK) < 0 || !answers(socket))
        return 0;
    r = strv_append(&found->all, name);
    if (r == 0 && (!wanted || name_matches(name, wanted)))
        r = strv_append(&found->matching, name);
    return r;
}

static int look_into(const char *state_dir, const char *wanted, struct found *found)
{
    DIR *dir = opendir(state_dir);
    struct dirent *entry;
    int r = 0;

    if (!dir)
        return errno == ENOENT ? 0 : -errno;
    while (r == 0 && (entry = readdir(dir)))
        if (entry->d_name[0] != '.')
            r = add_found(found, state_dir, entry->d_name, wanted);
    closedir(dir);
    return r;
}

static int not_one(const char *state_dir, const char *wanted, const struct found *found, struct error **ret_error)
{
    _cleanup_(strbuf_done) struct strbuf list = {0};
    size_t n = strv_length(found->matching);

    STRV_FOREACH (name, n > 0 ? found->matching : found->all)
        strbuf_printf(&list, "%s%s", list.length > 0 ? ", " : "", *name);
    if (n > 0) {
        error_set(ret_error, ERROR_BAD_ARGUMENT, ENOTUNIQ, "%zu VMs run in %s: %s", n, state_dir, strbuf_text(&list));
        if (ret_error)
            error_set_remedy(*ret_error, "name one of them");
        return -ENOTUNIQ;
    }
    if (list.length > 0)
        error_set(ret_error, ERROR_NOT_FOUND, ENOENT, "no VM %s runs in %s (there: %s)", wanted, state_dir,
                  strbuf_text(&list));
    else
        error_set(ret_error, ERROR_NOT_FOUND, ENOENT, "no VM%s%s runs in %s", wanted ? " " : "", wanted ? wanted : "",
                  state_dir);
    if (ret_error && list.length == 0)
        error_set_remedy(*ret_error, "start one by 'vmlet run FILE', or say where it is by --socket or --state-dir");
    return -ENOENT;
}

static int locate_in(const char *state_dir, const char *wanted, char **ret_socket, struct error **ret_error)
{
    struct found found = {0};
    int r;

    r = look_into(state_dir, wanted, &found);
    if (r < 0)
        error_errno(ret_error, r, "cannot look for VMs in %s", state_dir);
    else if (strv_length(found.matching) != 1)
        r = not_one(state_dir, wanted, &found, ret_error);
    else if (asprintf(ret_socket, "%s/%s/" LAUNCHER_SOCKET_NAME, state_dir, found.matching[0]) < 0)
        r = error_oom(ret_error);
    strv_free(found.all);
    strv_free(found.matching);
    return r;
}

static int copy(const char *path, char **ret_socket, struct error **ret_error)
{
    char *socket = strdup(path);

    if (!socket)
        return error_oom(ret_error);
    *ret_socket = socket;
    return 0;
}

int locate_socket(const struct locate_options *options, char **ret_socket, struct error **ret_error)
{
    _cleanup_free_ char *direct = NULL, *state_dir = NULL;

    if (options->socket)
        return copy(options->socket, ret_socket, ret_error);
    if (options->state_dir) {
        if (asprintf(&direct, "%s/" LAUNCHER_SOCKET_NAME, options->state_dir) < 0) {
            direct = NULL;
            return error_oom(ret_error);
        }
        if (!options->name && access(direct, F_OK) == 0)
            return copy(direct, ret_socket, ret_error);
        return locate_in(options->state_dir, options->name, ret_socket, ret_error);
    }
    if (!options->name && access(POD_LAUNCHER_SOCKET, F_OK) == 0)
        return copy(POD_LAUNCHER_SOCKET, ret_socket, ret_error);
    state_dir = default_state_dir();
    if (!state_dir)
        return error_oom(ret_error);
    return locate_in(state_dir, options->name, ret_socket, ret_error);
}

/* ---- one that is not there yet --------------------------------------------------------------------------------- */

/* New entries of the directory; while it is not there those of the nearest one above it. */
static void watch_directory(int inotify, const char *dir)
{
    _cleanup_free_ char *path = strdup(dir);

    while (path && inotify_add_watch(inotify, path, IN_CREATE | IN_MOVED_TO | IN_ONLYDIR) < 0) {
        char *slash = strrchr(path, '/');

        if (errno != ENOENT && errno != ENOTDIR)
            return;
        if (!slash)
            strcpy(path, "."); /* no longer than the name that was there */
        else if (slash == path && !slash[1])
            return;
        else
            slash[slash == path] = '\0';
    }
}

static void watch_below(int inotify, const char *state_dir)
{
    DIR *dir;
    struct dirent *entry;

    watch_directory(inotify, state_dir);
    dir = opendir(state_dir);
    while (dir && (entry = readdir(dir))) {
        _cleanup_free_ char *path = NULL;

        if (entry->d_name[0] == '.' || asprintf(&path, "%s/%s", state_dir, entry->d_name) < 0)
            path = NULL;
        else
            (void)inotify_add_watch(inotify, path, IN_CREATE | IN_MOVED_TO | IN_ONLYDIR);
    }
    if (dir)
        closedir(dir);
}

static int watch_places(int inotify, const struct locate_options *options, struct error **ret_error)
{
    _cleanup_free_ char *path = options->socket      ? strdup(options->socket)
                                : options->state_dir ? strdup(options->state_dir)
                                                     : default_state_dir();
    char *slash;

    if (!path)
        return error_oom(ret_error);
    if (!options->socket) {
        watch_below(inotify, path);
        return 0;
    }
    slash = strrchr(path, '/');
    if (slash)
        slash[slash == path] = '\0';
    watch_directory(inotify, slash ? path : ".");
    return 0;
}

static int look(const struct locate_options *options, char **ret_socket, struct error **ret_error)
{
    _cleanup_free_ char *socket = NULL;
    int r = locate_socket(options, &socket, ret_error);

    if (r < 0)
        return r;
    if (!answers(socket))
        return error_set(ret_error, ERROR_NOT_FOUND, ENOENT, "nobody listens on %s", socket);
    *ret_socket = TAKE_PTR(socket);
    return 0;
}

int locate_await(const struct locate_options *options, uint64_t timeout_usec, char **ret_socket,
                 struct error **ret_error)
{
    uint64_t start = now_usec(), now, left;
    _cleanup_close_ int inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);

    if (inotify < 0)
        return error_errno(ret_error, errno, "cannot watch for a VM");
    for (;;) {
        _cleanup_error_ struct error *error = NULL;
        struct pollfd watched = {.fd = inotify, .events = POLLIN};
        char events[4096];
        int r;

        /* watched first, so that nothing is missed */
        r = watch_places(inotify, options, ret_error);
        if (r < 0)
            return r;
        r = look(options, ret_socket, &error);
        if (r != -ENOENT) {
            error_move(ret_error, TAKE_PTR(error));
            return r;
        }
        now = now_usec();
        if (now - start >= timeout_usec)
            return error_set(ret_error, ERROR_TIMED_OUT, ETIMEDOUT, "waited %g s: %s", (double)timeout_usec / 1e6,
                             error_message(error));
        /* Between bind and listen a socket is there and does not answer; no event tells of the second. */
        left = MIN(timeout_usec - (now - start), WATCH_FALLBACK_USEC);
        r = poll(&watched, 1, (int)((left + 999) / 1000));
        if (r < 0 && errno != EINTR)
            return error_errno(ret_error, errno, "cannot watch for a VM");
        while (read(inotify, events, sizeof(events)) > 0)
            ;
    }
}
