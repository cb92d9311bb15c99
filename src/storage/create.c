/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2 files are made by `qemu-img create`: 6 to 8 ms each as a child, all volumes' at once, so that writing the
 * format's header ourselves would gain little and be one more writer of it to trust.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/child.h"
#include "base/fd.h"
#include "base/limits.h"
#include "storage/private.h"

/* compat 4.3: what a file system keeps back, and by how much a disk may be smaller than asked for. */
#define SPARSE_RESERVE_BYTES    131072U
#define SPARSE_TOLERANCE_DIVIDE 10U

#define METRICS_BYTES (256 * 1024)

char *staging_path(const char *path)
{
    char *staging = NULL;

    return asprintf(&staging, "%s.staging", path) < 0 ? NULL : staging;
}

int staging_finish(const char *staging, const char *path, mode_t mode, unsigned owner, struct error **ret_error)
{
    if (chmod(staging, mode) < 0)
        return error_errno(ret_error, errno, "cannot set the mode of %s", staging);
    if (owner != (unsigned)-1 && owner != geteuid() && lchown(staging, owner, owner) < 0)
        return error_errno(ret_error, errno, "cannot give %s to uid %u", staging, owner);
    if (rename(staging, path) < 0)
        return error_errno(ret_error, errno, "cannot rename %s to %s", staging, path);
    return 0;
}

int create_qcow2(const char *qemu_img, const char *path, uint64_t size, const char *backing_path,
                 const char *backing_format, unsigned owner, struct error **ret_error)
{
    _cleanup_free_ char *staging = staging_path(path), *err = NULL;
    char bytes[32];
    const char *argv[16] = {qemu_img, "create", "-q", "-f", "qcow2"};
    size_t n = 5;
    int code, r;

    if (!staging)
        return error_oom(ret_error);
    if (backing_path) {
        /* -u: the backing image, which is not ours, is not opened; its size was learnt by the limited examination */
        argv[n++] = "-u";
        argv[n++] = "-b";
        argv[n++] = backing_path;
        argv[n++] = "-F";
        argv[n++] = backing_format;
    }
    argv[n++] = staging;
    snprintf(bytes, sizeof(bytes), "%llu", (unsigned long long)size);
    argv[n++] = bytes;
    unlink(staging);
    r = child_run(
        &(struct child_options){
            .argv = (char *const *)(uintptr_t)argv,
            .death_signal = SIGKILL,
            .limit_address_space = LIMIT_IMAGE_CHECK_MEMORY_BYTES,
            .limit_cpu_seconds = LIMIT_IMAGE_CHECK_CPU_SECONDS,
        },
        TIMEOUT_IMAGE_USEC, &code, NULL, &err, ret_error);
    if (r == -ENOENT) {
        if (ret_error) {
            error_set(ret_error, ERROR_HOST, ENOENT, "there is no program %s to make %s with", qemu_img, path);
            error_set_remedy(*ret_error, "install it (Debian: apt install qemu-utils)");
        }
    } else if (r == 0 && code != 0) {
        r = error_set(ret_error, ERROR_STORAGE, EIO, "cannot create %s: %.*s", path,
                      (int)(err ? strcspn(err, "\n") : 0), err ? err : "");
    }
    if (r == 0)
        r = staging_finish(staging, path, 0640, owner, ret_error);
    if (r < 0)
        unlink(staging);
    return r;
}

/* The size that fits, or -ENOSPC: up to a tenth less than asked for is tolerated. */
static int fit_size(const char *path, int fd, uint64_t size, uint64_t *ret, struct error **ret_error)
{
    uint64_t free_bytes;
    struct statvfs fs;

    if (fstatvfs(fd, &fs) < 0)
        return error_errno(ret_error, errno, "cannot ask for the free space at %s", path);
    free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    free_bytes -= MIN(free_bytes, (uint64_t)SPARSE_RESERVE_BYTES);
    if (size > free_bytes && size - size / SPARSE_TOLERANCE_DIVIDE > free_bytes)
        return error_set(ret_error, ERROR_STORAGE, ENOSPC, "no room for %s: %llu bytes are asked for and %llu are free",
                         path, (unsigned long long)size, (unsigned long long)free_bytes);
    *ret = MIN(size, free_bytes & ~4095ULL);
    return 0;
}

int create_sparse(const char *path, uint64_t size, unsigned owner, uint64_t *ret_size, bool *ret_created,
                  struct error **ret_error)
{
    _cleanup_free_ char *staging = staging_path(path);
    _cleanup_close_ int fd = -EBADF;
    struct stat st;
    int r;

    if (!staging)
        return error_oom(ret_error);
    if (lstat(path, &st) == 0) {
        *ret_created = false;
        *ret_size = 0;
        return 0;
    }
    unlink(staging);
    fd = open(staging, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (fd < 0)
        return error_errno(ret_error, errno, "cannot create %s", staging);
    r = fit_size(path, fd, size, &size, ret_error);
    if (r == 0 && ftruncate(fd, (off_t)size) < 0)
        r = error_errno(ret_error, errno, "cannot make %s %llu bytes long", staging, (unsigned long long)size);
    if (r == 0 && fsync(fd) < 0)
        r = error_errno(ret_error, errno, "cannot write %s", staging);
    if (r == 0)
        r = staging_finish(staging, path, 0640, owner, ret_error);
    if (r < 0) {
        unlink(staging);
        return r;
    }
    *ret_size = size;
    *ret_created = true;
    return 0;
}

/* The disk of vhostmd: four big-endian words (magic "mvbd", busy, sum of the content's bytes, its length), then XML. */
int create_metrics(const char *path, unsigned owner, struct error **ret_error)
{
    static const char content[] = "<metrics>\n</metrics>\n";
    _cleanup_free_ char *staging = staging_path(path);
    _cleanup_close_ int fd = -EBADF;
    uint32_t header[4], sum = 0;
    int r = 0;

    if (!staging)
        return error_oom(ret_error);
    for (size_t i = 0; i < sizeof(content) - 1; i++)
        sum += (unsigned char)content[i];
    header[0] = htonl(0x6d766264);
    header[1] = 0;
    header[2] = htonl(sum);
    header[3] = htonl(sizeof(content) - 1);
    unlink(staging);
    fd = open(staging, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (fd < 0)
        return error_errno(ret_error, errno, "cannot create %s", staging);
    /* the pages are claimed now, so that a full file system is found before the guest runs */
    r = -posix_fallocate(fd, 0, METRICS_BYTES);
    if (r == 0)
        r = fd_write_all(fd, header, sizeof(header));
    if (r == 0)
        r = fd_write_all(fd, content, sizeof(content) - 1);
    if (r < 0)
        r = error_errno(ret_error, r, "cannot write %s", path);
    else
        r = staging_finish(staging, path, 0640, owner, ret_error);
    if (r < 0)
        unlink(staging);
    return r;
}
