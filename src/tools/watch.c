/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/watch.h"

#include <poll.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"

int watch_init(struct watch *watch, struct error **ret_error)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGQUIT, SIGHUP};
    sigset_t set;

    *watch = (struct watch){.inotify_fd = -EBADF, .signal_fd = -EBADF, .watched = {-1, -1}};
    sigemptyset(&set);
    for (size_t i = 0; i < ELEMENTSOF(numbers); i++)
        sigaddset(&set, numbers[i]);
    sigprocmask(SIG_BLOCK, &set, NULL);
    watch->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (watch->signal_fd < 0)
        return error_errno(ret_error, errno, "cannot read signals");
    watch->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (watch->inotify_fd < 0) {
        log_warning(
            "no inotify instance (%s): looking every %llu ms instead (raise fs.inotify.max_user_instances on the "
            "node)",
            strerror(errno), WATCH_FALLBACK_USEC / USEC_PER_MSEC);
        watch->inotify_fd = -EBADF;
    }
    return 0;
}

void watch_done(struct watch *watch)
{
    watch->inotify_fd = fd_close(watch->inotify_fd);
    watch->signal_fd = fd_close(watch->signal_fd);
}

int watch_set(struct watch *watch, const char *dir, const char *file)
{
    static const uint32_t dir_mask =
        IN_CREATE | IN_MOVED_TO | IN_DELETE | IN_MOVED_FROM | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;
    const uint32_t file_mask = IN_MODIFY | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF;
    int old[2] = {watch->watched[0], watch->watched[1]};

    if (watch->inotify_fd < 0)
        return access(dir, F_OK) < 0 ? -errno : 0;
    watch->watched[0] = inotify_add_watch(watch->inotify_fd, dir, dir_mask);
    if (watch->watched[0] < 0)
        return -errno;
    /* gone between two looks: the directory's event tells */
    watch->watched[1] = file ? inotify_add_watch(watch->inotify_fd, file, file_mask) : -1;
    for (size_t i = 0; i < ELEMENTSOF(old); i++)
        if (old[i] >= 0 && old[i] != watch->watched[0] && old[i] != watch->watched[1])
            inotify_rm_watch(watch->inotify_fd, old[i]);
    return 0;
}

int watch_poll_signal(struct watch *watch)
{
    struct signalfd_siginfo info;

    return read(watch->signal_fd, &info, sizeof(info)) == sizeof(info) ? (int)info.ssi_signo : 0;
}

int watch_wait(struct watch *watch)
{
    struct pollfd fds[] = {{.fd = watch->signal_fd, .events = POLLIN}, {.fd = watch->inotify_fd, .events = POLLIN}};
    char events[4096];
    int r;

    r = poll(fds, ELEMENTSOF(fds), watch->inotify_fd < 0 ? (int)(WATCH_FALLBACK_USEC / USEC_PER_MSEC) : -1);
    if (r < 0)
        return errno == EINTR ? 0 : -errno;
    if (fds[0].revents)
        return watch_poll_signal(watch);
    while (fds[1].revents && read(watch->inotify_fd, events, sizeof(events)) > 0)
        ;
    return 0;
}
