/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The node's side of container disks (compat 4.2): from the socket of a container-disk process to its container's
 * image, shown read-only to the pod of the VM.
 *
 * The container is not trusted: its process must be one of the pod, every path in it is resolved within its root, only
 * a regular file counts, and what is looked at and mounted is one and the same open file. The pid that the socket tells
 * is pinned by a pidfd, and asked for once more afterwards, so that it cannot be another process's by then. What is in
 * the image is not looked at here, where the process has all rights of the node: the launcher, which has none, examines
 * it before QEMU opens it.
 */
#include <dirent.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "storage/private.h"

/* fcntl.h and sys/mount.h of older C libraries lack these, and the two headers cannot both be included */
#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 0x00000004
#define MOVE_MOUNT_T_EMPTY_PATH 0x00000040
#endif
extern int umount2(const char *target, int flags);
#define UMOUNT_LAZILY  2 /* MNT_DETACH */
#define UMOUNT_NO_LINK 8 /* UMOUNT_NOFOLLOW */

struct container {
    pid_t pid;
    int pidfd, root, mounts; /* of its process: /proc/PID/root, /proc/PID/ns/mnt */
};

static void container_done(struct container *c)
{
    fd_close(c->pidfd);
    fd_close(c->root);
    fd_close(c->mounts);
}

/* ---- the container behind a socket ------------------------------------------------------------------------------ */

/* Kubelet's cgroups say which pod a process is of: a socket in a pod's volume may be a link to another's. */
static bool is_in_pod(pid_t pid, const char *pod_uid)
{
    _cleanup_free_ char *text = NULL;
    char path[64], name[80];
    size_t length;

    snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
    snprintf(name, sizeof(name), "pod%.64s", pod_uid);
    if (file_read(path, LIMIT_CGROUP_FILE_BYTES, &text, &length, NULL) < 0)
        return false;
    if (strstr(text, name))
        return true;
    for (char *p = name; *p; p++) /* the systemd driver's spelling */
        if (*p == '-')
            *p = '_';
    return strstr(text, name) != NULL;
}

int container_peer(const char *socket_path, const char *pod_uid, pid_t *ret, struct error **ret_error)
{
    _cleanup_close_ int fd = -EBADF, dir = -EBADF;
    char name[SHORT_SOCKET_SIZE];
    struct ucred peer;
    socklen_t length = sizeof(peer);
    int r = socket_shorten(socket_path, &dir, name);

    if (r >= 0)
        r = unix_connect(name, &fd, NULL);
    if (r == -ENOENT || r == -ECONNREFUSED)
        return error_set(ret_error, ERROR_CONNECTION, EAGAIN, "nobody listens on %s yet", socket_path);
    if (r < 0)
        return error_errno(ret_error, r, "cannot connect to %s", socket_path);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0 || peer.pid <= 0)
        return error_set(ret_error, ERROR_HOST, ESRCH,
                         "%s: the process that listens is not visible here: the agent needs the host's process ids",
                         socket_path);
    if (pod_uid && !is_in_pod(peer.pid, pod_uid))
        return error_set(ret_error, ERROR_NOT_ALLOWED, EPERM, "%s: process %d listens there, which is none of pod %s",
                         socket_path, (int)peer.pid, pod_uid);
    *ret = peer.pid;
    return 0;
}

static int open_proc(pid_t pid, const char *name, int flags, struct error **ret_error)
{
    char path[64];
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    fd = open(path, flags | O_CLOEXEC);
    return fd >= 0 ? fd : error_errno(ret_error, errno, "cannot open %s of the container", path);
}

static int find_container(const char *socket_path, const char *pod_uid, struct container *ret, struct error **ret_error)
{
    _cleanup_(container_done) struct container c = {.pidfd = -EBADF, .root = -EBADF, .mounts = -EBADF};
    pid_t again;
    int r = container_peer(socket_path, pod_uid, &c.pid, ret_error);

    if (r < 0)
        return r;
    c.pidfd = (int)syscall(SYS_pidfd_open, c.pid, 0);
    if (c.pidfd < 0)
        return error_set(ret_error, ERROR_CONNECTION, EAGAIN, "the process of %s (pid %d) is gone", socket_path,
                         (int)c.pid);
    c.root = open_proc(c.pid, "root", O_PATH | O_DIRECTORY, ret_error);
    if (c.root < 0)
        return c.root;
    c.mounts = open_proc(c.pid, "ns/mnt", O_RDONLY, ret_error);
    if (c.mounts < 0)
        return c.mounts;
    /* if it still listens, the pid was its own all the time */
    r = container_peer(socket_path, pod_uid, &again, ret_error);
    if (r < 0)
        return r;
    struct pollfd ended = {c.pidfd, POLLIN, 0};
    if (again != c.pid || poll(&ended, 1, 0) > 0)
        return error_set(ret_error, ERROR_CONNECTION, EAGAIN, "the container of %s is being replaced", socket_path);
    *ret = c;
    c = (struct container){.pidfd = -EBADF, .root = -EBADF, .mounts = -EBADF};
    return 0;
}

/* ---- the file in it ---------------------------------------------------------------------------------------------- */

static int open_in(int root, const char *path, uint64_t flags)
{
    struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};

    return (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
}

/* "/disk/NAME" of the one file that is there. */
static int find_single(int root, char **ret, struct error **ret_error)
{
    int fd = open_in(root, "/disk", O_RDONLY | O_DIRECTORY);
    _cleanup_free_ char *found = NULL;
    struct dirent *entry;
    size_t count = 0;
    DIR *dir;

    if (fd < 0)
        return error_set(ret_error, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_STORAGE, errno,
                         "the container has no directory /disk: %s", strerror(errno));
    dir = fdopendir(fd);
    if (!dir) {
        fd_close(fd);
        return error_oom(ret_error);
    }
    while ((entry = readdir(dir))) {
        if (entry->d_name[0] == '.')
            continue;
        if (++count == 1 && asprintf(&found, "/disk/%s", entry->d_name) < 0)
            found = NULL;
    }
    closedir(dir);
    if (count == 1 && found) {
        *ret = TAKE_PTR(found);
        return 0;
    }
    if (count == 1)
        return error_oom(ret_error);
    error_set(ret_error, count ? ERROR_IMAGE_REFUSED : ERROR_NOT_FOUND, count ? EPERM : ENOENT,
              "the container's /disk holds %zu files, and an image is to be the only one", count);
    if (ret_error)
        error_set_remedy(*ret_error, "name the image in the volume's containerDisk.path");
    return count ? -EPERM : -ENOENT;
}

static int open_regular(const struct container *c, const char *path, int *ret, struct error **ret_error)
{
    _cleanup_close_ int fd = open_in(c->root, path, O_PATH);
    struct stat st;

    if (fd < 0)
        return error_set(ret_error, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_STORAGE, errno,
                         "cannot open %s in the container: %s", path, strerror(errno));
    if (fstat(fd, &st) < 0)
        return error_errno(ret_error, errno, "cannot look at %s in the container", path);
    if (!S_ISREG(st.st_mode))
        return error_set(ret_error, ERROR_IMAGE_REFUSED, EPERM, "%s in the container is no regular file", path);
    *ret = TAKE_FD(fd);
    return 0;
}

/* ---- the mount --------------------------------------------------------------------------------------------------- */

/* A mount of the file by itself, belonging to no namespace yet. Only who is in the container's mount namespace may
 * clone a mount of it, hence the child. */
static int clone_mount(const struct container *c, int file, struct error **ret_error)
{
    int sockets[2], fd, err;
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0)
        return error_errno(ret_error, errno, "cannot make a pair of sockets");
    pid = fork();
    if (pid == 0) {
        fd = setns(c->mounts, CLONE_NEWNS) < 0
                 ? -1
                 : (int)syscall(SYS_open_tree, file, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
        err = errno;
        if (fd >= 0 ? fd_send(sockets[1], fd) < 0 : write(sockets[1], &err, sizeof(err)) < 0)
            _exit(1);
        _exit(0);
    }
    err = errno;
    close(sockets[1]);
    fd = pid < 0 ? -err : fd_receive(sockets[0]);
    close(sockets[0]);
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    if (fd < 0)
        return error_errno(ret_error, fd, "cannot take the image's mount out of the container (kernel 5.12 is needed)");
    return fd;
}

static bool is_mounted(int dir, const char *name)
{
    struct statx st;

    return statx(dir, name, AT_SYMLINK_NOFOLLOW, STATX_TYPE, &st) == 0 &&
           (st.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

/* The pod writes to `dir`, too: what it may have put there under this name is not followed, and not opened. */
static int mount_at(int tree, int dir, const char *name, struct error **ret_error)
{
    struct mount_attr attributes = {.attr_set =
                                        MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC};
    _cleanup_close_ int at = -EBADF, made = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0440);
    struct stat st;

    if (made < 0 && errno != EEXIST)
        return error_errno(ret_error, errno, "cannot create %s", name);
    at = openat(dir, name, O_PATH | O_CLOEXEC | O_NOFOLLOW);
    if (at < 0 || fstat(at, &st) < 0)
        return error_errno(ret_error, errno, "cannot open %s", name);
    if (!S_ISREG(st.st_mode))
        return error_set(ret_error, ERROR_STORAGE, EEXIST, "%s is there already, and is no regular file", name);
    if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attributes, sizeof(attributes)) < 0)
        return error_errno(ret_error, errno, "cannot make the mount of %s read-only", name);
    if (syscall(SYS_move_mount, tree, "", at, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
        return error_errno(ret_error, errno, "cannot mount the image on %s", name);
    return 0;
}

/* ---- the calls of the node agent --------------------------------------------------------------------------------- */

int container_disk_mount(const char *socket_path, const char *pod_uid, const char *file_path, const char *dir,
                         const char *name, struct error **ret_error)
{
    _cleanup_(container_done) struct container c = {.pidfd = -EBADF, .root = -EBADF, .mounts = -EBADF};
    _cleanup_close_ int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), file = -EBADF,
                        tree = -EBADF;
    _cleanup_free_ char *path = file_path ? strdup(file_path) : NULL;
    int r;

    if (dir_fd < 0)
        return error_errno(ret_error, errno, "cannot open %s", dir);
    if (file_path && !path)
        return error_oom(ret_error);
    if (is_mounted(dir_fd, name))
        return 0;
    r = find_container(socket_path, pod_uid, &c, ret_error);
    if (r >= 0 && !path)
        r = find_single(c.root, &path, ret_error);
    if (r >= 0)
        r = open_regular(&c, path, &file, ret_error);
    if (r < 0)
        return r;
    tree = clone_mount(&c, file, ret_error);
    r = tree < 0 ? tree : mount_at(tree, dir_fd, name, ret_error);
    return r < 0 ? error_wrap(ret_error, r, "%s", dir) : 0;
}

static void unmount_in(int dir)
{
    DIR *d = fdopendir(dir);
    struct dirent *entry;
    char path[64 + 256];

    while (d && (entry = readdir(d)))
        if (entry->d_name[0] != '.' && is_mounted(dirfd(d), entry->d_name)) {
            snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dirfd(d), entry->d_name);
            if (umount2(path, UMOUNT_LAZILY | UMOUNT_NO_LINK) < 0)
                log_warning("cannot unmount the container disk %s: %s", entry->d_name, strerror(errno));
        }
    if (d)
        closedir(d);
    else
        fd_close(dir);
}

void container_disks_unmount(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), boot;

    if (fd < 0)
        return;
    boot = openat(fd, "kernel-boot", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (boot >= 0)
        unmount_in(boot);
    unmount_in(fd);
}
