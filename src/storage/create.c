/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Empty qcow2 files and overlays are written here, not by `qemu-img create`: as a child that costs 6 to 8 ms of CPU for
 * each volume, so that eight volumes on two cores took over 28 ms, where a start may become 20 ms longer by them, and
 * one volume took half of what we may be slower than a bare QEMU. Written here it is 0.1 ms. An empty image is a header
 * and three tables with nothing in them; the tests have `qemu-img check` and `qemu-img compare` look at each kind. The
 * reading of the format is left to QEMU.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

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

static int staging_settle(int fd, const char *staging, mode_t mode, unsigned owner, struct error **ret_error)
{
    if (fchmod(fd, mode) < 0)
        return error_errno(ret_error, errno, "cannot set the mode of %s", staging);
    if (owner != (unsigned)-1 && owner != geteuid() && fchown(fd, owner, owner) < 0)
        return error_errno(ret_error, errno, "cannot give %s to uid %u", staging, owner);
    return 0;
}

int staging_finish(int fd, const char *staging, const char *path, mode_t mode, unsigned owner, struct error **ret_error)
{
    int r = staging_settle(fd, staging, mode, owner, ret_error);

    if (r < 0)
        return r;
    if (rename(staging, path) < 0)
        return error_errno(ret_error, errno, "cannot rename %s to %s", staging, path);
    return 0;
}

/* QEMU's docs/interop/qcow2.txt. All big-endian; clusters of 64 KiB, 16-bit reference counts: qemu-img's defaults. */
#define CLUSTER_BITS       16
#define CLUSTER            (1U << CLUSTER_BITS)
#define HEADER_LENGTH      112
#define EXTENSION_BACKING  0xe2792acaU
#define BYTES_PER_L2_TABLE ((uint64_t)CLUSTER / 8 * CLUSTER)
#define LIMIT_BACKING_NAME 1023U

static void put32(unsigned char *at, uint32_t value)
{
    value = htobe32(value);
    memcpy(at, &value, sizeof(value));
}

static void put64(unsigned char *at, uint64_t value)
{
    value = htobe64(value);
    memcpy(at, &value, sizeof(value));
}

/* The start of the header cluster of an empty image: refcount table in cluster 1, its only block in 2, the L1 table
 * from 3 on. */
static void fill_header(unsigned char header[4096], uint64_t size, uint32_t l1_entries, const char *backing_path,
                        const char *backing_format)
{
    size_t at = HEADER_LENGTH;

    memcpy(header, "QFI\xfb", 4);
    put32(header + 4, 3);
    put32(header + 20, CLUSTER_BITS);
    put64(header + 24, size);
    put32(header + 36, l1_entries);
    put64(header + 40, 3ULL * CLUSTER);
    put64(header + 48, 1ULL * CLUSTER);
    put32(header + 56, 1); /* clusters of the refcount table */
    put32(header + 96, 4); /* 1 << 4 bits for each reference count */
    put32(header + 100, HEADER_LENGTH);
    if (!backing_path)
        return; /* the end-of-extensions mark is all zeroes */
    put32(header + at, EXTENSION_BACKING);
    put32(header + at + 4, (uint32_t)strlen(backing_format));
    memcpy(header + at + 8, backing_format, strlen(backing_format));
    at += 8 + (strlen(backing_format) + 7) / 8 * 8;
    at += 8; /* the end of the extensions */
    memcpy(header + at, backing_path, strlen(backing_path));
    put64(header + 8, at);
    put32(header + 16, (uint32_t)strlen(backing_path));
}

static int write_qcow2(int fd, uint64_t size, const char *backing_path, const char *backing_format)
{
    uint32_t l1_entries = (uint32_t)((size + BYTES_PER_L2_TABLE - 1) / BYTES_PER_L2_TABLE);
    uint64_t clusters = 3 + ((uint64_t)l1_entries * 8 + CLUSTER - 1) / CLUSTER;
    unsigned char header[4096] = {0}, table[8], refcounts[2 * 512] = {0};
    int r;

    fill_header(header, size, l1_entries, backing_path, backing_format);
    put64(table, 2ULL * CLUSTER);
    for (uint64_t i = 0; i < clusters; i++) /* at most 259: LIMIT_DISK_BYTES */
        refcounts[2 * i + 1] = 1;
    /* all room is claimed, so that a full file system is found before the guest runs; what is not written is zeroes */
    r = -posix_fallocate(fd, 0, (off_t)(clusters * CLUSTER));
    if (r == 0 && (pwrite(fd, header, sizeof(header), 0) != (ssize_t)sizeof(header) ||
                   pwrite(fd, table, sizeof(table), CLUSTER) != (ssize_t)sizeof(table) ||
                   pwrite(fd, refcounts, sizeof(refcounts), 2 * CLUSTER) != (ssize_t)sizeof(refcounts)))
        r = errno ? -errno : -EIO;
    /* QEMU reads it past the page cache, and would wait for each of these three to be written: let that begin now */
    if (r == 0)
        (void)sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
    return r;
}

int create_qcow2(const char *path, uint64_t size, const char *backing_path, const char *backing_format, unsigned owner,
                 struct error **ret_error)
{
    _cleanup_free_ char *staging = staging_path(path);
    _cleanup_close_ int fd = -EBADF;
    int r;

    if (!staging)
        return error_oom(ret_error);
    if (backing_path && strlen(backing_path) > LIMIT_BACKING_NAME)
        return error_set(ret_error, ERROR_STORAGE, ENAMETOOLONG,
                         "the path of the image below %s is longer than the %u bytes that qcow2 allows: %s", path,
                         LIMIT_BACKING_NAME, backing_path);
    size = (size + 511) & ~511ULL; /* sectors, as qemu-img rounds */
    unlink(staging);
    fd = open(staging, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (fd < 0)
        return error_errno(ret_error, errno, "cannot create %s", staging);
    r = write_qcow2(fd, size, backing_path, backing_format);
    if (r < 0)
        r = error_set(ret_error, ERROR_STORAGE, r, "cannot write %s: %s", path, strerror(-r));
    else
        r = staging_finish(fd, staging, path, 0640, owner, ret_error);
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

/* The staged file of a disk on a volume that another VM may have, too: opened, ours until it is closed, and empty. What
 * a start that was killed has left is used again. -EBUSY: another makes the same disk now. */
static int lock_staging(const char *staging, int *ret_fd, struct error **ret_error)
{
    _cleanup_close_ int fd = open(staging, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0640);
    struct stat mine, named;

    if (fd < 0)
        return error_errno(ret_error, errno, "cannot create %s", staging);
    /* the other one may have given it its name, or taken it away, between our two calls */
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 || fstat(fd, &mine) < 0 || lstat(staging, &named) < 0 ||
        mine.st_ino != named.st_ino || mine.st_dev != named.st_dev) {
        int r = error_set(ret_error, ERROR_STORAGE, EBUSY, "cannot make %s: another process is making it", staging);

        if (ret_error)
            error_set_remedy(*ret_error, "start the VM again when that has ended");
        return r;
    }
    if (!S_ISREG(mine.st_mode) || mine.st_nlink != 1)
        return error_set(ret_error, ERROR_STORAGE, EPERM, "%s is there already, and is not what a start leaves",
                         staging);
    if (ftruncate(fd, 0) < 0)
        return error_errno(ret_error, errno, "cannot empty %s", staging);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

/* 1: there is a file of that name by now, which stays. */
static int name_staging(const char *staging, const char *path, struct error **ret_error)
{
    if (renameat2(AT_FDCWD, staging, AT_FDCWD, path, RENAME_NOREPLACE) == 0)
        return 0;
    /* NFS knows no such flag */
    if (errno == EINVAL && link(staging, path) == 0) {
        unlink(staging);
        return 0;
    }
    return errno == EEXIST ? 1 : error_errno(ret_error, errno, "cannot rename %s to %s", staging, path);
}

int create_sparse(const char *path, uint64_t size, unsigned owner, uint64_t *ret_size, bool *ret_created,
                  struct error **ret_error)
{
    _cleanup_free_ char *staging = staging_path(path);
    _cleanup_close_ int fd = -EBADF;
    _cleanup_error_ struct error *e = NULL;
    struct stat st;
    int r;

    if (!staging)
        return error_oom(ret_error);
    *ret_created = false;
    *ret_size = 0;
    if (lstat(path, &st) == 0)
        return 0;
    r = lock_staging(staging, &fd, &e);
    if (r == -EBUSY && lstat(path, &st) == 0)
        return 0; /* it was made meanwhile */
    if (r < 0) {
        error_move(ret_error, TAKE_PTR(e));
        return r;
    }
    r = fit_size(path, fd, size, &size, ret_error);
    if (r == 0 && ftruncate(fd, (off_t)size) < 0)
        r = error_errno(ret_error, errno, "cannot make %s %llu bytes long", staging, (unsigned long long)size);
    if (r == 0 && fsync(fd) < 0)
        r = error_errno(ret_error, errno, "cannot write %s", staging);
    if (r == 0)
        r = staging_settle(fd, staging, 0640, owner, ret_error);
    if (r == 0)
        r = name_staging(staging, path, ret_error);
    if (r != 0) {
        unlink(staging);
        return r < 0 ? r : 0;
    }
    *ret_size = size;
    *ret_created = true;
    return 0;
}

int grow_sparse(const char *path, uint64_t size, struct error **ret_error)
{
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct statvfs fs;
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0 || fstatvfs(fd, &fs) < 0)
        return error_errno(ret_error, errno, "cannot make %s larger", path);
    if ((uint64_t)fs.f_bavail * fs.f_frsize + (uint64_t)st.st_blocks * 512 < size + SPARSE_RESERVE_BYTES)
        return 0;
    if (ftruncate(fd, (off_t)size) < 0)
        return error_errno(ret_error, errno, "cannot make %s %llu bytes long", path, (unsigned long long)size);
    return 1;
}

/* The disk of vhostmd: four big-endian words (magic "mvbd", busy, sum of the content's bytes, its length), then XML. */
#define METRICS_HEADER_BYTES 16U

/* A reader that comes in between sees that it is busy, or a sum that does not fit. */
static int write_metrics(int fd, const char *content)
{
    size_t length = strlen(content);
    uint32_t header[4] = {htonl(0x6d766264), htonl(1), 0, htonl((uint32_t)length)}, sum = 0;

    if (length > METRICS_BYTES - METRICS_HEADER_BYTES)
        return -EFBIG;
    for (size_t i = 0; i < length; i++)
        sum += (unsigned char)content[i];
    header[2] = htonl(sum);
    if (pwrite(fd, header, sizeof(header), 0) != (ssize_t)sizeof(header) ||
        pwrite(fd, content, length, METRICS_HEADER_BYTES) != (ssize_t)length)
        return errno ? -errno : -EIO;
    header[1] = 0;
    return pwrite(fd, header, sizeof(header), 0) == (ssize_t)sizeof(header) ? 0 : errno ? -errno : -EIO;
}

int storage_write_metrics(const char *path, const char *content, struct error **ret_error)
{
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    int r = fd < 0 ? -errno : write_metrics(fd, content);

    return r < 0 ? error_errno(ret_error, r, "cannot write %s", path) : 0;
}

/* Without figures: the domain has them, once QEMU is there. */
int create_metrics(const char *path, unsigned owner, struct error **ret_error)
{
    _cleanup_free_ char *staging = staging_path(path);
    _cleanup_close_ int fd = -EBADF;
    int r;

    if (!staging)
        return error_oom(ret_error);
    unlink(staging);
    fd = open(staging, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (fd < 0)
        return error_errno(ret_error, errno, "cannot create %s", staging);
    /* the pages are claimed now, so that a full file system is found before the guest runs */
    r = -posix_fallocate(fd, 0, METRICS_BYTES);
    if (r == 0)
        r = write_metrics(fd, "<metrics>\n</metrics>\n");
    if (r < 0)
        r = error_errno(ret_error, r, "cannot write %s", path);
    else
        r = staging_finish(fd, staging, path, 0640, owner, ret_error);
    if (r < 0)
        unlink(staging);
    return r;
}

int storage_create_image(const char *path, bool qcow2, uint64_t size, const char *base, struct error **ret_error)
{
    bool created;
    uint64_t made;
    int r;

    if (qcow2)
        return create_qcow2(path, size, base, base ? "qcow2" : NULL, (unsigned)-1, ret_error);
    r = create_sparse(path, size, (unsigned)-1, &made, &created, ret_error);
    if (r >= 0 && (!created || made != size)) {
        if (created)
            unlink(path);
        return error_set(ret_error, created ? ERROR_STORAGE : ERROR_ALREADY_EXISTS, created ? ENOSPC : EEXIST,
                         created ? "no room for %s" : "%s is there already", path);
    }
    return r;
}
