/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "netsetup/sandbox.h"

#define MESSAGE_MAX (64U * 1024)

struct writer {
    int fd;
    pid_t pid;
};

static int become_owner(int dir_fd)
{
    cap_t none = cap_init();
    struct stat st;
    int r = 0;

    if (!none || fstat(dir_fd, &st) < 0)
        r = -errno;
    else if (geteuid() == 0 && st.st_uid != 0 &&
             (setgroups(0, NULL) < 0 || setresgid(st.st_gid, st.st_gid, st.st_gid) < 0 ||
              setresuid(st.st_uid, st.st_uid, st.st_uid) < 0))
        r = -errno;
    else if (cap_set_proc(none) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        r = -errno;
    cap_free(none);
    return r;
}

static int write_file(int dir_fd, const char *name, const char *text, size_t length)
{
    _cleanup_free_ char *aside = NULL;
    _cleanup_close_ int fd = -EBADF;
    int r;

    if (asprintf(&aside, ".%s.new", name) < 0)
        return -ENOMEM;
    if (unlinkat(dir_fd, aside, 0) < 0 && errno != ENOENT)
        return -errno;
    fd = openat(dir_fd, aside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        return -errno;
    r = fd_write_all(fd, text, length);
    if (r >= 0 && renameat(dir_fd, aside, dir_fd, name) < 0)
        r = -errno;
    if (r < 0)
        unlinkat(dir_fd, aside, 0);
    return r;
}

/* One message: the name and its NUL, and the text; nothing behind the NUL removes the file. */
static int serve(int dir_fd, char *message, size_t length)
{
    const char *end = memchr(message, '\0', length);
    size_t name;

    if (!end || message[0] == '.' || strchr(message, '/') || end == message)
        return -EINVAL;
    name = (size_t)(end - message) + 1;
    if (length == name)
        return unlinkat(dir_fd, message, 0) < 0 && errno != ENOENT ? -errno : 0;
    return write_file(dir_fd, message, end + 1, length - name);
}

_Noreturn static void writer_main(int fd, int dir_fd)
{
    static char message[MESSAGE_MAX];
    int r = become_owner(dir_fd);
    ssize_t n;

    if (r < 0)
        _exit(EXIT_FAILURE);
    while ((n = recv(fd, message, sizeof(message), 0)) > 0) {
        r = serve(dir_fd, message, (size_t)n);
        if (send(fd, &r, sizeof(r), MSG_NOSIGNAL) < 0)
            break;
    }
    _exit(EXIT_SUCCESS);
}

int writer_start(int dir_fd, struct writer **ret, struct error **ret_error)
{
    _cleanup_(writer_freep) struct writer *w = calloc(1, sizeof(*w));
    pid_t parent = getpid();
    int pair[2];

    if (!w)
        return error_oom(ret_error);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        w->fd = -EBADF;
        return error_errno(ret_error, errno, "make a pair of sockets");
    }
    w->fd = pair[0];
    w->pid = fork();
    if (w->pid == 0) {
        close(pair[0]);
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
            _exit(EXIT_FAILURE);
        writer_main(pair[1], dir_fd);
    }
    close(pair[1]);
    if (w->pid < 0)
        return error_errno(ret_error, errno, "start the writer");
    *ret = TAKE_PTR(w);
    return 0;
}

int writer_put(struct writer *w, const char *name, const char *text, struct error **ret_error)
{
    struct iovec parts[] = {{(void *)(uintptr_t)name, strlen(name) + 1},
                            {(void *)(uintptr_t)text, text ? strlen(text) : 0}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = ELEMENTSOF(parts)};
    int r = 0;
    ssize_t n;

    if (sendmsg(w->fd, &message, MSG_NOSIGNAL) < 0)
        return error_errno(ret_error, errno, "hand %s to the writer", name);
    n = recv(w->fd, &r, sizeof(r), 0);
    if (n != sizeof(r))
        return error_set(ret_error, ERROR_SYSTEM, n < 0 ? errno : ECONNRESET,
                         "the child that writes into the launcher's directory ended early");
    if (r < 0)
        return error_errno(ret_error, r, "%s %s in the launcher's directory", text ? "write" : "remove", name);
    return 0;
}

void writer_free(struct writer *w)
{
    if (!w)
        return;
    fd_close(w->fd);
    if (w->pid > 0)
        while (waitpid(w->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    free(w);
}
