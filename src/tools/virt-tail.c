/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virt-tail: prints a VM's console log, as the container guest-console-log (docs/virt-tail.1.scd). Nothing about
 * the file is a reason to fail, because a container that fails takes the pod's readiness with it.
 */
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/confine.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "tools/tail.h"
#include "tools/watch.h"

static const char usage[] = "Usage: virt-tail --logfile FILE\n"
                            "Prints FILE from its start and follows it: waits until it exists, goes on after rotation "
                            "and truncation, and prints\n"
                            "whole lines. Ends on SIGTERM or when FILE-sigTerm appears, with the rest printed.\n\n"
                            "  --logfile FILE\n"
                            "  -h, --help\n\n"
                            "Exit code: 0; 2 on wrong arguments; 1 if the program itself cannot go on.\n";

/* Files come and go under the log's name: opening them goes on. */
static const char *const calls[] = {
    "access",           "faccessat", "faccessat2", "open",     "openat",     "pread64",    "stat",
    "stat64",           "lstat",     "lstat64",    "readlink", "readlinkat", "getdents64", "inotify_add_watch",
    "inotify_rm_watch", NULL,
};

struct output {
    struct watch *watch;
    uint64_t deadline; /* of the last lines, once we are told to end; 0: none */
};

/* Never blocks for longer than a signal takes: a pipe that poll() calls writable takes PIPE_BUF bytes (pipe(7)). */
static int write_out(const char *data, size_t length, void *userdata)
{
    struct output *output = userdata;

    while (length > 0) {
        struct pollfd fds[] = {{.fd = STDOUT_FILENO, .events = POLLOUT},
                               {.fd = output->watch->signal_fd, .events = POLLIN}};
        uint64_t t = now_usec();
        int timeout = -1;
        ssize_t n;

        if (output->deadline)
            timeout = t >= output->deadline ? 0 : (int)((output->deadline - t) / USEC_PER_MSEC) + 1;
        if (poll(fds, output->deadline ? 1 : 2, timeout) == 0)
            return -ETIMEDOUT;
        if (!output->deadline && fds[1].revents && watch_poll_signal(output->watch) > 0)
            output->deadline = now_usec() + TIMEOUT_TAIL_FLUSH_USEC;
        if (!fds[0].revents)
            continue;
        n = write(STDOUT_FILENO, data, MIN(length, (size_t)4096));
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return -errno;
        if (n > 0) {
            data += n;
            length -= (size_t)n;
        }
    }
    return 0;
}

/* The nearest directory above the file that exists, to wait in. */
static int watch_file(struct watch *watch, const char *path)
{
    char dir[4096];
    int r;

    snprintf(dir, sizeof(dir), "%s", path);
    for (;;) {
        char *slash = strrchr(dir, '/');

        if (!slash)
            snprintf(dir, sizeof(dir), ".");
        else if (slash == dir)
            slash[1] = '\0';
        else
            *slash = '\0';
        r = watch_set(watch, dir, path);
        if (r != -ENOENT && r != -ENOTDIR)
            return r;
        if (streq(dir, ".") || streq(dir, "/"))
            return r;
    }
}

static int follow(struct watch *watch, struct tail *tail, struct output *output, const char *path)
{
    char end_path[4096];

    snprintf(end_path, sizeof(end_path), "%s-sigTerm", path);
    for (;;) {
        int r = watch_file(watch, path), ended;

        if (r < 0)
            log_debug("cannot watch %s: %s", path, strerror(-r));
        ended = access(end_path, F_OK) == 0; /* before the reading: what was written before it is read */
        r = tail_read(tail);
        if (r < 0 || output->deadline)
            return r;
        if (ended)
            return 0;
        r = watch_wait(watch);
        if (r < 0)
            return r;
        if (r > 0) /* once more round, for what was written before the signal */
            output->deadline = now_usec() + TIMEOUT_TAIL_FLUSH_USEC;
    }
}

static int print_log(const char *path, struct error **ret_error)
{
    struct watch watch;
    struct output output = {.watch = &watch};
    struct tail *tail = tail_new(path, write_out, &output);
    bool open_line = false;
    int r;

    if (!tail)
        return error_oom(ret_error);
    r = watch_init(&watch, ret_error);
    if (r == 0) /* root reads the log of another user's VM */
        r = confine(&(struct confinement){.calls = calls, .capabilities = 1ULL << CAP_DAC_OVERRIDE}, ret_error);
    if (r < 0) {
        tail_free(tail);
        return r;
    }
    r = follow(&watch, tail, &output, path);
    if (r == 0)
        r = tail_flush(tail, &open_line);
    if (r == 0 && open_line)
        r = write_out("\n", 1, &output);
    tail_free(tail);
    watch_done(&watch);
    if (r == -EPIPE || r == -ETIMEDOUT)
        return 0; /* nobody reads any more: there is nothing left to do, and no fault of the VM */
    return r < 0 ? error_errno(ret_error, r, "cannot print %s", path) : 0;
}

int main(int argc, char **argv)
{
    _cleanup_error_ struct error *error = NULL;
    const char *path = NULL;

    signal(SIGPIPE, SIG_IGN);
    log_init("virt-tail", LOG_LEVEL_INFO);
    for (int i = 1; i < argc; i++) {
        const char *value = startswith(argv[i], "--logfile=");

        if (streq(argv[i], "--help") || streq(argv[i], "-h")) {
            fputs(usage, stdout);
            return EXIT_OK;
        }
        if (value)
            path = value;
        else if (streq(argv[i], "--logfile") && i + 1 < argc)
            path = argv[++i];
        else {
            fprintf(stderr, "virt-tail: unknown argument %s\n%s", argv[i], usage);
            return EXIT_BAD_INPUT;
        }
    }
    if (!path || !*path || strlen(path) > 4000) {
        fprintf(stderr, "virt-tail: --logfile is needed (at most 4000 bytes)\n%s", usage);
        return EXIT_BAD_INPUT;
    }
    if (print_log(path, &error) < 0) {
        log_error_of(error, "the console log ends here");
        return EXIT_FAILED;
    }
    return EXIT_OK;
}
