/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "storage/private.h"

int iso_files_add(struct iso_files *files, const char *path, char *data, size_t length)
{
    struct iso_file *more = reallocarray(files->items, files->count + 1, sizeof(*more));
    char *copy = strdup(path);

    if (more)
        files->items = more;
    if (!more || !copy || !data) {
        free(copy);
        free(data);
        return -ENOMEM;
    }
    files->items[files->count++] = (struct iso_file){copy, data, length};
    files->total += length;
    return 0;
}

void iso_files_done(struct iso_files *files)
{
    for (size_t i = 0; i < files->count; i++) {
        free(files->items[i].path);
        free(files->items[i].data);
    }
    free(files->items);
    *files = (struct iso_files){0};
}

/* Below root, whatever symlinks there are. O_NONBLOCK: opening a FIFO must not wait. */
static int open_beneath(int root, const char *path)
{
    struct open_how how = {
        .flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
    };
    int fd = (int)syscall(SYS_openat2, root, path, &how, sizeof(how));

    return fd < 0 ? -errno : fd;
}

static int refuse(struct error **ret_error, const char *directory, const char *path, const char *why)
{
    return error_set(ret_error, ERROR_IMAGE_REFUSED, EPERM, "%s/%s %s", directory, path, why);
}

static int read_file(const char *directory, const char *path, int fd, struct iso_files *files, struct error **ret_error)
{
    char *data = NULL;
    size_t length;
    int r = fd_read_all(fd, LIMIT_VOLUME_FILE_BYTES, &data, &length);

    if (r == -EFBIG)
        return error_set(ret_error, ERROR_LIMIT, EFBIG, "%s/%s is larger than %u bytes", directory, path,
                         LIMIT_VOLUME_FILE_BYTES);
    if (r < 0)
        return error_errno(ret_error, r, "cannot read %s/%s", directory, path);
    if (iso_files_add(files, path, data, length) < 0)
        return error_oom(ret_error);
    if (files->count > LIMIT_VOLUME_FILES || files->total > LIMIT_VOLUME_TOTAL_BYTES)
        return error_set(ret_error, ERROR_LIMIT, EFBIG, "%s holds more than %u files or %llu bytes", directory,
                         LIMIT_VOLUME_FILES, LIMIT_VOLUME_TOTAL_BYTES);
    return 0;
}

/* Not alphasort(3), whose order is the language's: the image depends neither on that nor on the directory's own. */
static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int collect(const char *directory, int root, const char *below, unsigned depth, struct iso_files *files,
                   struct error **ret_error)
{
    _cleanup_close_ int fd = open_beneath(root, *below ? below : ".");
    struct dirent **entries = NULL;
    int n, r = 0;

    if (fd < 0)
        return error_errno(ret_error, fd, "cannot open %s/%s", directory, below);
    if (depth > LIMIT_VOLUME_DEPTH)
        return error_set(ret_error, ERROR_LIMIT, ELOOP, "%s is nested deeper than %u directories", directory,
                         LIMIT_VOLUME_DEPTH);
    n = scandirat(fd, ".", &entries, NULL, by_name);
    if (n < 0)
        return error_errno(ret_error, errno, "cannot list %s/%s", directory, below);
    for (int i = 0; i < n; i++) {
        const char *name = entries[i]->d_name;
        _cleanup_free_ char *path = NULL;
        _cleanup_close_ int child = -EBADF;
        struct stat st;

        if (r < 0 || streq(name, ".") || startswith(name, "..")) {
            free(entries[i]);
            continue;
        }
        if (asprintf(&path, "%s%s%s", below, *below ? "/" : "", name) < 0)
            path = NULL;
        free(entries[i]);
        if (!path) {
            r = error_oom(ret_error);
            continue;
        }
        child = open_beneath(root, path);
        if (child == -EXDEV)
            r = refuse(ret_error, directory, path, "is a link that leads out of the volume");
        else if (child < 0)
            r = error_errno(ret_error, child, "cannot open %s/%s", directory, path);
        else if (fstat(child, &st) < 0)
            r = error_errno(ret_error, errno, "cannot look at %s/%s", directory, path);
        else if (S_ISDIR(st.st_mode))
            r = collect(directory, root, path, depth + 1, files, ret_error);
        else if (S_ISREG(st.st_mode))
            r = read_file(directory, path, child, files, ret_error);
        else
            r = refuse(ret_error, directory, path, "is no regular file");
    }
    free(entries);
    return r;
}

int files_collect(const char *directory, struct iso_files *files, struct error **ret_error)
{
    _cleanup_close_ int root = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (root < 0)
        return error_errno(ret_error, errno, "cannot open the directory %s", directory);
    return collect(directory, root, "", 1, files, ret_error);
}

int files_read_one(const char *directory, const char *const *names, char **ret_data, size_t *ret_length,
                   struct error **ret_error)
{
    _cleanup_close_ int root = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (root < 0)
        return error_errno(ret_error, errno, "cannot open the directory %s", directory);
    for (size_t i = 0; names[i]; i++) {
        _cleanup_close_ int fd = open_beneath(root, names[i]);
        struct stat st;
        int r;

        if (fd == -ENOENT)
            continue;
        if (fd == -EXDEV)
            return refuse(ret_error, directory, names[i], "is a link that leads out of the volume");
        if (fd < 0)
            return error_errno(ret_error, fd, "cannot open %s/%s", directory, names[i]);
        if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
            return refuse(ret_error, directory, names[i], "is no regular file");
        r = fd_read_all(fd, LIMIT_VOLUME_FILE_BYTES, ret_data, ret_length);
        if (r < 0)
            return error_errno(ret_error, r, "cannot read %s/%s", directory, names[i]);
        return 0;
    }
    return error_set(ret_error, ERROR_NOT_FOUND, ENOENT, "there is no %s in %s", names[0], directory);
}
