/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/handler/mount.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"

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

int socket_peer(const char *path, pid_t *ret, struct error **ret_error)
{
    _cleanup_close_ int fd = -EBADF, dir = -EBADF;
    struct ucred peer;
    socklen_t size = sizeof(peer);
    char name[SHORT_SOCKET_SIZE];
    int r = socket_shorten(path, &dir, name);

    if (r < 0)
        return error_errno(ret_error, r, "%s", path);
    r = unix_connect(name, &fd, ret_error);
    if (r < 0)
        return error_wrap(ret_error, r, "%s", path);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
        return error_errno(ret_error, -errno, "%s: who listens there?", path);
    if (peer.pid <= 0)
        return error_set(ret_error, ERROR_HOST, ESRCH,
                         "%s: the process that listens is not visible here: the agent needs the host's process ids",
                         path);
    *ret = peer.pid;
    return 0;
}

bool process_is_in_pod(pid_t pid, const char *pod_uid)
{
    _cleanup_free_ char *text = NULL;
    char path[64], name[80];
    size_t length;

    snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
    snprintf(name, sizeof(name), "pod%.64s", pod_uid);
    if (file_read(path, LIMIT_HANDLER_RECORD_BYTES, &text, &length, NULL) < 0)
        return false;
    if (strstr(text, name))
        return true;
    for (char *p = name; *p; p++) /* the systemd driver's spelling */
        if (*p == '-')
            *p = '_';
    return strstr(text, name) != NULL;
}

/* ---- in the child: system calls only ---------------------------------------------------------------------------- */

enum stage { STAGE_ENTER, STAGE_FIND, STAGE_TYPE, STAGE_CLONE, STAGE_LEAVE, STAGE_TARGET, STAGE_MOUNT };
static const char *const stage_names[] = {
    [STAGE_ENTER] = "enter the container's mount namespace",
    [STAGE_FIND] = "open the image",
    [STAGE_TYPE] = "use the image: it must be a regular file",
    [STAGE_CLONE] = "clone the image's mount",
    [STAGE_LEAVE] = "leave the container's mount namespace",
    [STAGE_TARGET] = "make the file to mount on",
    [STAGE_MOUNT] = "mount the image",
};

struct outcome {
    enum stage stage;
    int err;
};

static int open_in_root(int root, const char *path)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};

    return (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
}

struct linux_dirent64 { /* getdents64(2) */
    uint64_t inode;
    int64_t offset;
    unsigned short length;
    unsigned char type;
    char name[];
};

/* The name of the only file of /disk, by getdents: readdir allocates. -ENOENT for none, -EMLINK for several. */
static int only_file(int root, char *ret, size_t size)
{
    int found = 0, path = open_in_root(root, "disk"), dir = path < 0 ? -1 : openat(path, ".", O_RDONLY | O_DIRECTORY);
    _Alignas(struct linux_dirent64) char buffer[4096];
    long n;

    if (dir < 0)
        return -errno;
    while ((n = syscall(SYS_getdents64, dir, buffer, sizeof(buffer))) > 0)
        for (long at = 0; at < n;) {
            const struct linux_dirent64 *entry = (const void *)(buffer + at);

            at += entry->length;
            if (entry->name[0] == '.')
                continue;
            if (++found > 1 || strlen(entry->name) + 6 > size)
                return -EMLINK;
            memcpy(ret, "disk/", 5);
            memcpy(ret + 5, entry->name, strlen(entry->name) + 1);
        }
    return n < 0 ? -errno : found == 1 ? 0 : -ENOENT;
}

static int carry_out(int theirs, int ours, const char *file, int dir, const char *name, enum stage *stage)
{
    struct mount_attr attributes = {.attr_set =
                                        MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC};
    char only[300];
    struct stat st;
    int root, image, tree, target, r;

    *stage = STAGE_ENTER;
    if (setns(theirs, CLONE_NEWNS) < 0 || (root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0)
        return -errno;
    *stage = STAGE_FIND;
    if (!file) {
        r = only_file(root, only, sizeof(only));
        if (r < 0)
            return r;
        file = only;
    }
    image = open_in_root(root, file);
    if (image < 0)
        return -errno;
    *stage = STAGE_TYPE;
    if (fstat(image, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    *stage = STAGE_CLONE;
    tree = (int)syscall(SYS_open_tree, image, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (tree < 0 || syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attributes, sizeof(attributes)) < 0)
        return -errno;
    *stage = STAGE_LEAVE;
    if (setns(ours, CLONE_NEWNS) < 0)
        return -errno;
    *stage = STAGE_TARGET;
    target = openat(dir, name, O_RDONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0440);
    if (target < 0)
        return -errno;
    *stage = STAGE_MOUNT;
    return syscall(SYS_move_mount, tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0 ? -errno
                                                                                                                : 0;
}

/* ---- in the agent ----------------------------------------------------------------------------------------------- */

static bool is_mounted(int dir, const char *name)
{
    struct statx st;

    return statx(dir, name, AT_SYMLINK_NOFOLLOW, STATX_TYPE, &st) == 0 &&
           (st.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

int container_file_mount(pid_t pid, const char *file, const char *dir, const char *name, struct error **ret_error)
{
    _cleanup_close_ int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), theirs = -EBADF,
                        ours = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    char path[64];
    int pipe_fds[2], status;
    struct outcome outcome = {.stage = STAGE_ENTER, .err = ECHILD};
    pid_t child;

    if (dir_fd < 0)
        return error_errno(ret_error, -errno, "%s", dir);
    if (is_mounted(dir_fd, name))
        return 0;
    snprintf(path, sizeof(path), "/proc/%d/ns/mnt", (int)pid);
    theirs = open(path, O_RDONLY | O_CLOEXEC);
    if (theirs < 0 || ours < 0 || pipe2(pipe_fds, O_CLOEXEC) < 0)
        return error_errno(ret_error, -errno, "%s", path);
    /* A process has one mount namespace at a time, and ours stays where it is: a child visits the other. */
    child = fork();
    if (child == 0) {
        outcome.err = -carry_out(theirs, ours, file, dir_fd, name, &outcome.stage);
        _exit(write(pipe_fds[1], &outcome, sizeof(outcome)) == (ssize_t)sizeof(outcome) ? 0 : 1);
    }
    close(pipe_fds[1]);
    if (child > 0) {
        if (read(pipe_fds[0], &outcome, sizeof(outcome)) != (ssize_t)sizeof(outcome))
            outcome.err = ECHILD;
        while (waitpid(child, &status, 0) < 0 && errno == EINTR)
            ;
    } else
        outcome.err = errno;
    close(pipe_fds[0]);
    if (outcome.err == 0)
        return 0;
    error_set(ret_error, ERROR_STORAGE, outcome.err, "cannot %s %s%s: %s", stage_names[outcome.stage],
              file ? file : "in /disk", file ? "" : " (there must be exactly one file)", strerror(outcome.err));
    return -outcome.err;
}

static void unmount_in(int dir)
{
    DIR *d = fdopendir(dir);
    struct dirent *entry;
    char path[64 + 256];

    while (d && (entry = readdir(d)))
        if (entry->d_name[0] != '.' && is_mounted(dirfd(d), entry->d_name)) {
            snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dirfd(d), entry->d_name);
            if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
                log_warning("cannot unmount the container disk %s: %s", entry->d_name, strerror(errno));
        }
    if (d)
        closedir(d);
}

void container_files_unmount(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), boot;

    if (fd < 0)
        return;
    boot = openat(fd, "kernel-boot", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (boot >= 0)
        unmount_in(boot);
    unmount_in(fd);
}
