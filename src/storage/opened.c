/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between the examination of an image and its opening by QEMU, who shares the volume can put something else in its
 * place: a link that leads out of the volume, above all, to whatever QEMU may read. QEMU opens by name; so once it has,
 * and before a guest sees a byte of it, the name is resolved once more by the rules of the examination (no link,
 * nothing out of the volume, a regular file), and that file must be among those that QEMU has open.
 *
 * What is not the matter here: the content of the file itself, which such a person can change at any time. QEMU is
 * given the format and the backing file of each image, whatever is in it, and its Landlock rules (domain/landlock.h)
 * know no other files.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "storage/private.h"

struct opened {
    struct stat *items;
    size_t count;
};

static void opened_done(struct opened *o)
{
    free(o->items);
}

/* What the process has open. */
static int list_opened(pid_t pid, struct opened *ret, struct error **ret_error)
{
    _cleanup_(opened_done) struct opened o = {0};
    struct dirent *entry;
    char path[64];
    size_t room = 0;
    DIR *dir;

    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    dir = opendir(path);
    if (!dir)
        return error_errno(ret_error, errno, "cannot see which files QEMU has open (%s)", path);
    while ((entry = readdir(dir))) {
        if (entry->d_name[0] == '.')
            continue;
        if (o.count == room) {
            struct stat *items = reallocarray(o.items, room * 2 + 64, sizeof(*items));

            if (!items) {
                closedir(dir);
                return error_oom(ret_error);
            }
            o.items = items;
            room = room * 2 + 64;
        }
        if (fstatat(dirfd(dir), entry->d_name, &o.items[o.count], 0) == 0) {
            o.count++;
        } else if (errno == EACCES) {
            closedir(dir);
            return error_errno(ret_error, EACCES,
                               "cannot see which files QEMU has open (%s: it runs as another user, or has capabilities "
                               "that this process has not)",
                               path);
        }
    }
    closedir(dir);
    *ret = o;
    o = (struct opened){0};
    return 0;
}

static bool has(const struct opened *o, const struct stat *st)
{
    for (size_t i = 0; i < o->count; i++)
        if (o->items[i].st_dev == st->st_dev && o->items[i].st_ino == st->st_ino && o->items[i].st_rdev == st->st_rdev)
            return true;
    return false;
}

static int check(const struct image_source *source, const char *volume, const struct opened *opened,
                 struct error **ret_error)
{
    _cleanup_close_ int fd = -EBADF;
    _cleanup_free_ char *path = NULL;
    bool from_block_path;
    struct stat st;

    fd = image_open(source, volume, &from_block_path, &path, ret_error);
    if (fd < 0)
        return fd;
    if (fstat(fd, &st) < 0)
        return error_errno(ret_error, errno, "volume %s: cannot look at %s", volume, path);
    if (has(opened, &st))
        return 0;
    error_set(ret_error, ERROR_IMAGE_REFUSED, EPERM,
              "volume %s: %s is refused: it was replaced while QEMU opened it, and what QEMU has open is another file",
              volume, path);
    if (ret_error)
        error_set_remedy(*ret_error, "find out who writes to the directory of this volume, and start the VM again");
    return -EPERM;
}

int storage_check_opened(const struct storage *storage, const char *volume, pid_t pid, struct error **ret_error)
{
    _cleanup_(opened_done) struct opened opened = {0};
    int r = 0;

    for (size_t i = 0; i < storage->count && r == 0; i++) {
        const struct storage_volume *v = &storage->volumes[i];
        const struct volume_plan *plan = &storage->plans[i];

        /* what we made ourselves, and a path that the user chose, are nobody else's */
        if (!plan->source.root || v->absent || (volume && !streq(v->volume->name, volume)))
            continue;
        if (!volume && plan->disk && plan->disk->target && plan->disk->target->tray == VMI_TRAY_OPEN)
            continue;
        if (!opened.items)
            r = list_opened(pid, &opened, ret_error);
        if (r == 0)
            r = check(&plan->source, v->volume->name, &opened, ret_error);
    }
    return r;
}
