/* SPDX-License-Identifier: Apache-2.0 */
#include "base/fd.h"
#include "base/crash.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/limits.h"

int fd_close(int fd)
{
    int saved = errno;

    if (fd >= 0)
        close(fd);
    errno = saved;
    return -EBADF;
}

int fd_write_all(int fd, const void *data, size_t length)
{
    const char *p = data;

    while (length > 0) {
        ssize_t n = write(fd, p, length);

        if (n < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        p += n;
        length -= (size_t)n;
    }
    return 0;
}

int fd_read_all(int fd, size_t limit, char **ret_data, size_t *ret_length)
{
    _cleanup_free_ char *data = NULL;
    size_t length = 0, allocated = 0;

    for (;;) {
        ssize_t n;

        if (allocated - length < 2) {
            size_t size = MIN(MAX(allocated * 2, (size_t)8192), limit + 2);
            char *more;

            if (size <= allocated)
                return -EFBIG;
            more = realloc(data, size);
            if (!more)
                return -ENOMEM;
            data = more;
            allocated = size;
        }
        n = read(fd, data + length, allocated - length - 1);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        if (n == 0)
            break;
        length += (size_t)n;
        if (length > limit)
            return -EFBIG;
    }
    data[length] = '\0';
    *ret_data = TAKE_PTR(data);
    if (ret_length)
        *ret_length = length;
    return 0;
}

int file_read(const char *path, size_t limit, char **ret_data, size_t *ret_length, struct error **ret_error)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    int r;

    if (fd < 0)
        return error_errno(ret_error, errno, "cannot open %s", path);
    r = fd_read_all(fd, limit, ret_data, ret_length);
    if (r == -EFBIG)
        return error_set(ret_error, ERROR_LIMIT, EFBIG, "%s is larger than %zu bytes", path, limit);
    if (r < 0)
        return error_errno(ret_error, r, "cannot read %s", path);
    return 0;
}

static int name_whole(const char *temporary, const char *path)
{
    return rename(temporary, path) < 0 ? -errno : 0;
}

/* A rename over a file makes ext4 write the new content to the disk before it returns (fs/ext4/namei.c, ext4_rename,
 * mount option auto_da_alloc): a millisecond. Two names that change places it leaves alone. */
static int name_swapped(const char *temporary, const char *path)
{
    if (renameat2(AT_FDCWD, temporary, AT_FDCWD, path, RENAME_EXCHANGE) < 0)
        /* there is none yet; or this file system, or this kernel, cannot */
        return errno == ENOENT || errno == EINVAL || errno == ENOSYS ? name_whole(temporary, path) : -errno;
    CRASH_POINT("write-swapped");
    unlink(temporary);
    return 0;
}

static int write_aside(const char *path, const void *data, size_t length, mode_t mode, bool sync,
                       struct error **ret_error)
{
    _cleanup_free_ char *temporary = NULL;
    _cleanup_close_ int fd = -EBADF;
    int r;

    if (asprintf(&temporary, "%s.%d.staging", path, (int)getpid()) < 0) {
        temporary = NULL;
        return error_oom(ret_error);
    }
    fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0)
        return error_errno(ret_error, errno, "cannot create %s", temporary);
    CRASH_POINT("write-created");
    r = fd_write_all(fd, data, length);
    CRASH_POINT("write-written");
    if (r == 0 && sync && fsync(fd) < 0)
        r = -errno;
    CRASH_POINT("write-synced");
    if (r == 0)
        r = sync ? name_whole(temporary, path) : name_swapped(temporary, path);
    CRASH_POINT("write-renamed");
    if (r < 0) {
        unlink(temporary);
        return error_errno(ret_error, r, "cannot write %s", path);
    }
    return 0;
}

int file_write_atomic(const char *path, const void *data, size_t length, mode_t mode, struct error **ret_error)
{
    return write_aside(path, data, length, mode, true, ret_error);
}

int file_replace(const char *path, const void *data, size_t length, mode_t mode, struct error **ret_error)
{
    return write_aside(path, data, length, mode, false, ret_error);
}

int fd_set_nonblocking(int fd, bool nonblocking)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0)
        return -errno;
    flags = nonblocking ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
    return fcntl(fd, F_SETFL, flags) < 0 ? -errno : 0;
}

int fd_set_cloexec(int fd, bool cloexec)
{
    int flags = fcntl(fd, F_GETFD);

    if (flags < 0)
        return -errno;
    flags = cloexec ? flags | FD_CLOEXEC : flags & ~FD_CLOEXEC;
    return fcntl(fd, F_SETFD, flags) < 0 ? -errno : 0;
}

static int unix_address(const char *path, struct sockaddr_un *ret_address, struct error **ret_error)
{
    size_t length = strlen(path);

    *ret_address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (length == 0 || length > LIMIT_UNIX_PATH)
        return error_set(ret_error, ERROR_BAD_ARGUMENT, ENAMETOOLONG,
                         "the socket path %s is %zu bytes long (at most %u fit into a unix address)", path, length,
                         LIMIT_UNIX_PATH);
    memcpy(ret_address->sun_path, path, length);
    return 0;
}

int unix_connect(const char *path, int *ret_fd, struct error **ret_error)
{
    _cleanup_close_ int fd = -EBADF;
    struct sockaddr_un address;
    int r;

    r = unix_address(path, &address, ret_error);
    if (r < 0)
        return r;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_errno(ret_error, errno, "cannot create a unix socket");
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
        int err = errno;

        return error_set(ret_error, err == ENOENT || err == ECONNREFUSED ? ERROR_CONNECTION : ERROR_SYSTEM, err,
                         "cannot connect to %s: %s", path, strerror(err));
    }
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int fd_send(int socket, int fd)
{
    char byte = 0, control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec part = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);

    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(head), &fd, sizeof(fd));
    return sendmsg(socket, &message, MSG_NOSIGNAL) == 1 ? 0 : -errno;
}

int fd_receive(int socket)
{
    char control[CMSG_SPACE(sizeof(int))];
    int err = 0, fd;
    struct iovec part = {&err, sizeof(err)};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    struct cmsghdr *head;
    ssize_t n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);

    if (n <= 0)
        return n < 0 ? -errno : -ECHILD;
    head = CMSG_FIRSTHDR(&message);
    if (!head || head->cmsg_type != SCM_RIGHTS)
        return err > 0 ? -err : -EIO;
    memcpy(&fd, CMSG_DATA(head), sizeof(fd));
    return fd;
}

int unix_listen(const char *path, mode_t mode, int backlog, int *ret_fd, struct error **ret_error)
{
    _cleanup_close_ int fd = -EBADF;
    struct sockaddr_un address;
    mode_t old_mask;
    int r;

    r = unix_address(path, &address, ret_error);
    if (r < 0)
        return r;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_errno(ret_error, errno, "cannot create a unix socket");
    for (int attempt = 0;; attempt++) {
        /* the mask makes the file private from its first moment; a chmod afterwards would leave a window */
        old_mask = umask(0777 & ~mode);
        r = bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
        umask(old_mask);
        if (r == 0)
            break;
        if (r == -EADDRINUSE && attempt == 0) {
            _cleanup_close_ int probe = -EBADF;
            int c = unix_connect(path, &probe, NULL);

            if (c == -ECONNREFUSED && unlink(path) == 0)
                continue;
            return error_set(ret_error, ERROR_ALREADY_EXISTS, EADDRINUSE,
                             c == 0 ? "another process already listens on %s" : "%s exists and is not a stale socket",
                             path);
        }
        return error_errno(ret_error, r, "cannot bind %s", path);
    }
    if (listen(fd, backlog) < 0) {
        r = -errno;
        unlink(path);
        return error_errno(ret_error, r, "cannot listen on %s", path);
    }
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int socket_shorten(const char *path, int *ret_fd, char ret[static SHORT_SOCKET_SIZE])
{
    const char *slash = strrchr(path, '/');
    _cleanup_free_ char *dir = slash ? strndup(path, (size_t)(slash - path)) : NULL;
    int fd, n;

    if (!dir)
        return slash ? -ENOMEM : -EINVAL;
    fd = open(dir, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    n = snprintf(ret, SHORT_SOCKET_SIZE, "/proc/self/fd/%d%s", fd, slash);
    if (n < 0 || n >= SHORT_SOCKET_SIZE) {
        close(fd);
        return -ENAMETOOLONG;
    }
    *ret_fd = fd;
    return 0;
}

int unix_accept(int listen_fd)
{
    for (;;) {
        int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (fd >= 0)
            return fd;
        if (errno != EINTR && errno != ECONNABORTED)
            return -errno;
    }
}

int mkdir_parents(const char *path, mode_t mode, struct error **ret_error)
{
    _cleanup_free_ char *copy = strdup(path);

    if (!copy)
        return error_oom(ret_error);
    for (char *p = copy + 1;; p++) {
        char c = *p;

        if (c != '/' && c != '\0')
            continue;
        *p = '\0';
        if (mkdir(copy, mode) < 0 && errno != EEXIST) {
            int err = errno;
            struct stat st;

            /* a parent on a read-only file system answers EROFS though it exists */
            if (stat(copy, &st) < 0 || !S_ISDIR(st.st_mode))
                return error_errno(ret_error, err, "cannot create the directory %s", copy);
        }
        if (c == '\0')
            return 0;
        *p = c;
    }
}

static int remove_below(int parent, const char *name);

/* Everything in the directory, which is taken over. */
static int remove_entries(int fd, const char *except)
{
    struct dirent *entry;
    DIR *dir = fdopendir(fd);
    int r = 0;

    if (!dir) {
        r = -errno;
        fd_close(fd);
        return r;
    }
    while ((entry = readdir(dir))) {
        int n;

        if (streq(entry->d_name, ".") || streq(entry->d_name, "..") || (except && streq(entry->d_name, except)))
            continue;
        n = remove_below(dirfd(dir), entry->d_name);
        if (n < 0 && r == 0)
            r = n;
    }
    closedir(dir);
    return r;
}

static int remove_below(int parent, const char *name)
{
    int fd, r;

    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return -errno;
    fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    r = remove_entries(fd, NULL);
    if (unlinkat(parent, name, AT_REMOVEDIR) < 0 && errno != ENOENT && r == 0)
        r = -errno;
    return r;
}

int remove_tree(const char *path)
{
    return remove_below(AT_FDCWD, path);
}

int remove_tree_contents(const char *path, const char *except)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    return fd < 0 ? -errno : remove_entries(fd, except);
}
