/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Looking at an image that somebody else made. What the running QEMU gets is always an explicit format, so nothing is
 * probed there; here it is decided which, and what is not to be opened at all.
 *
 * Two steps. First the header, by us: a raw image has none, and is done (no process is started for it; that is safe
 * because "raw" interprets no byte of it). A qcow2 image that names another file (backing file, external data file) is
 * refused before any program that could follow it sees it. One whose header is ordinary in every number is done, too
 * (image_qcow2_is_plain()); of every other `qemu-img info` reads the rest, from the fd that was checked, under limits
 * of memory, CPU and time.
 */
#include <endian.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/child.h"
#include "base/fd.h"
#include "base/limits.h"
#include "storage/private.h"

#define IMAGE_FD           3
#define IMAGE_HEADER_BYTES 4096 /* what is looked at of the start of an image */

const char *image_format_name(const struct image *image)
{
    return image->format == IMAGE_FORMAT_QCOW2 ? "qcow2" : "raw";
}

static int refused(struct error **ret_error, const char *volume, const char *path, const char *why)
{
    return error_set(ret_error, ERROR_IMAGE_REFUSED, EPERM, "volume %s: %s is refused: %s", volume, path, why);
}

/* ---- opening --------------------------------------------------------------------------------------------------- */

int image_open(const struct image_source *source, const char *volume, bool *ret_block, char **ret_path,
               struct error **ret_error)
{
    struct open_how how = {
        .flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    _cleanup_close_ int root = -EBADF;
    _cleanup_free_ char *path = NULL;
    int fd, r;

    if (source->block_path) {
        struct stat st;

        if (lstat(source->block_path, &st) == 0 && S_ISBLK(st.st_mode)) {
            fd = open(source->block_path, (int)how.flags);
            if (fd < 0)
                return error_errno(ret_error, errno, "volume %s: cannot open %s", volume, source->block_path);
            *ret_path = strdup(source->block_path);
            if (!*ret_path) {
                fd_close(fd);
                return error_oom(ret_error);
            }
            *ret_block = true;
            return fd;
        }
    }
    if (asprintf(&path, "%s%s%s", source->root ? source->root : "", source->root ? "/" : "", source->name) < 0) {
        path = NULL;
        return error_oom(ret_error);
    }
    if (source->root) {
        root = open(source->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
        fd = root < 0 ? -1 : (int)syscall(SYS_openat2, root, source->name, &how, sizeof(how));
    } else {
        fd = open(path, (int)how.flags);
    }
    if (fd < 0) {
        r = -errno;
        if (root >= 0 && r == -ELOOP)
            return refused(ret_error, volume, path, "it is a symbolic link");
        if (root >= 0 && r == -EXDEV)
            return refused(ret_error, volume, path, "it leads out of the volume");
        return error_set(ret_error, r == -ENOENT ? ERROR_NOT_FOUND : ERROR_STORAGE, r, "volume %s: cannot open %s: %s",
                         volume, path, strerror(-r));
    }
    *ret_path = TAKE_PTR(path);
    *ret_block = false;
    return fd;
}

/* ---- facts of the file ----------------------------------------------------------------------------------------- */

#define DIRECT_BLOCK 4096U /* the coarsest alignment that QEMU tries */

/* By the kernel's own word (statx(2), Linux 6.1 and some file systems), else by reading the file's last block: of a
 * file that was made a moment ago the first is still to be written, which a read past the page cache would wait for. */
static bool test_direct_io(int fd, uint64_t size)
{
    char path[64];
    _cleanup_close_ int direct = -EBADF;
    _cleanup_free_ void *buffer = NULL;
#ifdef STATX_DIOALIGN
    struct statx st;

    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) == 0 && (st.stx_mask & STATX_DIOALIGN))
        return st.stx_dio_offset_align > 0 && st.stx_dio_offset_align <= DIRECT_BLOCK;
#endif
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    direct = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC | O_NONBLOCK);
    if (direct < 0 || posix_memalign(&buffer, DIRECT_BLOCK, DIRECT_BLOCK) != 0)
        return false;
    /* some file systems take the flag and refuse the read */
    return pread(direct, buffer, DIRECT_BLOCK, (off_t)((size ? size - 1 : 0) & ~(uint64_t)(DIRECT_BLOCK - 1))) >= 0;
}

/* QEMU's locks (block/file-posix.c): who does not let others write holds byte 200 + 1. Only a hint for a better word
 * than QEMU's: it takes the lock itself. */
#define LOCK_NO_OTHER_WRITER 201

static bool has_only_writer(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LOCK_NO_OTHER_WRITER, .l_len = 1};

    return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

/* For a disk that the guest writes to. */
static int check_writable(int fd, const char *volume, const char *path, struct error **ret_error)
{
    char at[64];
    int err;

    snprintf(at, sizeof(at), "/proc/self/fd/%d", fd);
    if (access(at, W_OK) < 0) {
        err = errno;
        error_set(ret_error, ERROR_STORAGE, err,
                  "volume %s: %s cannot be written to (%s), and its disk is not read-only", volume, path,
                  strerror(err));
        if (ret_error)
            error_set_remedy(*ret_error,
                             "let uid %u write to it, or make the disk read-only in the manifest (readonly: true)",
                             (unsigned)geteuid());
        return -err;
    }
    if (!has_only_writer(fd))
        return 0;
    error_set(ret_error, ERROR_STORAGE, EBUSY, "volume %s: %s is in use: another process has it open for writing",
              volume, path);
    if (ret_error)
        error_set_remedy(*ret_error,
                         "stop the VM that uses it; for two VMs that can share it, `shareable: true` on both "
                         "disks");
    return -EBUSY;
}

static int measure(int fd, const char *path, struct image *image, struct error **ret_error)
{
    struct stat st;
    struct statfs fs;

    if (fstat(fd, &st) < 0)
        return error_errno(ret_error, errno, "cannot look at %s", path);
    image->is_block_device = S_ISBLK(st.st_mode);
    if (image->is_block_device) {
        unsigned physical = 0;
        int logical = 0;

        if (ioctl(fd, BLKGETSIZE64, &image->size) < 0)
            return error_errno(ret_error, errno, "cannot ask for the size of %s", path);
        if (ioctl(fd, BLKSSZGET, &logical) == 0 && logical > 0)
            image->logical_block = (unsigned)logical;
        if (ioctl(fd, BLKPBSZGET, &physical) == 0)
            image->physical_block = physical;
        image->preallocated = true;
    } else {
        image->size = (uint64_t)st.st_size;
        if (fstatfs(fd, &fs) == 0 && fs.f_bsize > 0 && fs.f_bsize <= UINT32_MAX)
            image->logical_block = image->physical_block = (unsigned)fs.f_bsize;
        image->preallocated = (uint64_t)st.st_blocks * 512 >= image->size;
    }
    image->direct_io = test_direct_io(fd, image->size);
    return 0;
}

int image_measure(const char *path, struct image *ret, struct error **ret_error)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

    if (fd < 0)
        return error_errno(ret_error, errno, "cannot open %s", path);
    return measure(fd, path, ret, ret_error);
}

/* ---- the header ------------------------------------------------------------------------------------------------ */

/* By the magic numbers at the start, as QEMU's block drivers and qemu-img know them. */
const char *image_header_format(const unsigned char *header, size_t length)
{
    static const struct {
        const char *format, *magic;
        size_t length, offset;
    } rows[] = {
        {"qcow2", "QFI\xfb", 4, 0},
        {"vmdk", "KDMV", 4, 0},
        {"vmdk", "COWD", 4, 0},
        {"vmdk", "# Disk DescriptorFile", 21, 0},
        {"vdi", "\x7f\x10\xda\xbe", 4, 64},
        {"vhdx", "vhdxfile", 8, 0},
        {"vpc", "conectix", 8, 0},
        {"qed", "QED\0", 4, 0},
        {"parallels", "WithoutFreeSpace", 16, 0},
        {"parallels", "WithouFreSpacExt", 16, 0},
        {"luks", "LUKS\xba\xbe", 6, 0},
    };

    for (size_t i = 0; i < ELEMENTSOF(rows); i++)
        if (rows[i].offset + rows[i].length <= length &&
            memcmp(header + rows[i].offset, rows[i].magic, rows[i].length) == 0)
            return rows[i].format;
    return NULL;
}

static uint64_t be64(const unsigned char *p)
{
    uint64_t value;

    memcpy(&value, p, sizeof(value));
    return be64toh(value);
}

static uint32_t be32(const unsigned char *p)
{
    uint32_t value;

    memcpy(&value, p, sizeof(value));
    return be32toh(value);
}

/* Offsets: QEMU's docs/interop/qcow2.txt, "Header". NULL: nothing speaks against it so far. */
const char *image_qcow2_fault(const unsigned char *h, size_t length)
{
    if (length < 72)
        return "its qcow2 header is cut off";
    switch (be32(h + 4)) {
    case 2:
        break;
    case 3:
        if (length < 104)
            return "its qcow2 header is cut off";
        if (be64(h + 72) & 4)
            return "it keeps its data in another file (external data file), which is not followed";
        break;
    default:
        return "it is qcow of another version than 2 and 3";
    }
    if (be64(h + 8) != 0 || be32(h + 16) != 0)
        return "it has a backing file, which is not followed; flatten it (qemu-img convert -O qcow2)";
    if (be32(h + 32) != 0)
        return "it is encrypted";
    if (be64(h + 24) > LIMIT_DISK_BYTES)
        return "its virtual size is more than 1 PiB";
    if (be32(h + 60) > LIMIT_QCOW2_SNAPSHOTS)
        return "it holds more than 256 snapshots";
    return NULL;
}

/*
 * An image as `qemu-img create` makes it and a guest fills it: every number of the header is within the bounds that
 * QEMU's own driver keeps (block/qcow2.h: 32 MiB of L1 table, 8 MiB of reference counts), its tables lie in the file,
 * and there is nothing besides (snapshots, bitmaps, features that must be understood, extensions). qemu-img would find
 * nothing else in it, and costs 5 ms of CPU for each volume: eight of them are more than what volumes may add to a
 * start.
 */
#define QCOW2_MAX_L1_BYTES       (32U * 1024 * 1024)
#define QCOW2_MAX_REFCOUNT_BYTES (8U * 1024 * 1024)
#define EXTENSION_FEATURE_NAMES  0x6803f857U

/* Only the names of features, which nobody needs; at most `length` bytes of the header cluster. */
static bool has_plain_extensions(const unsigned char *h, size_t length, size_t at)
{
    while (at + 8 <= length) {
        uint32_t type = be32(h + at), size = be32(h + at + 4);

        if (type == 0)
            return true;
        if (type != EXTENSION_FEATURE_NAMES || size > length)
            return false;
        at += 8 + (size + 7) / 8 * 8;
    }
    return false;
}

static bool lies_within(uint64_t offset, uint64_t bytes, uint64_t cluster, uint64_t file_size)
{
    return offset >= cluster && offset % cluster == 0 && bytes <= file_size && offset <= file_size - bytes;
}

bool image_qcow2_is_plain(const unsigned char *h, size_t length, uint64_t file_size, uint64_t *ret_size)
{
    uint32_t version, bits, l1, refcount_clusters;
    uint64_t cluster, size, covered;
    size_t header = 72;

    if (image_qcow2_fault(h, length) || length < 512)
        return false;
    version = be32(h + 4);
    bits = be32(h + 20);
    size = be64(h + 24);
    l1 = be32(h + 36);
    refcount_clusters = be32(h + 56);
    if (bits < 9 || bits > 21 || size == 0 || size % 512 != 0 || be32(h + 60) != 0)
        return false;
    if (version == 3) {
        header = be32(h + 100);
        /* of the compatible features only lazy reference counts; a dirty or corrupt image is qemu-img's to judge */
        if (be64(h + 72) != 0 || be64(h + 80) > 1 || be64(h + 88) != 0 || be32(h + 96) > 6 || header < 104 ||
            header > 256 || header % 8 != 0 || (header > 104 && h[104] != 0))
            return false;
    }
    cluster = 1ULL << bits;
    covered = cluster / 8 * cluster; /* by one L2 table */
    return (uint64_t)l1 * 8 <= QCOW2_MAX_L1_BYTES && l1 >= (size + covered - 1) / covered &&
           lies_within(be64(h + 40), (uint64_t)l1 * 8, cluster, file_size) && refcount_clusters > 0 &&
           refcount_clusters * cluster <= QCOW2_MAX_REFCOUNT_BYTES &&
           lies_within(be64(h + 48), refcount_clusters * cluster, cluster, file_size) &&
           has_plain_extensions(h, MIN(length, cluster), header) && (*ret_size = size) > 0;
}

/* ---- qemu-img -------------------------------------------------------------------------------------------------- */

/* Its answer for an image whose header passed; the same questions again, of a reader that knows the whole format. */
int image_check_info(const char *text, const char *volume, const char *path, struct image *image,
                     struct error **ret_error)
{
    json_t *info = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    const char *format = json_string_value(json_object_get(info, "format")), *fault = NULL;
    json_t *data = json_object_get(json_object_get(info, "format-specific"), "data");
    json_int_t size = json_integer_value(json_object_get(info, "virtual-size"));
    json_int_t actual = json_integer_value(json_object_get(info, "actual-size"));

    if (!format || !streq(format, "qcow2"))
        fault = "qemu-img info does not take it for qcow2";
    else if (json_object_get(info, "backing-filename") || json_object_get(info, "full-backing-filename"))
        fault = "it has a backing file, which is not followed";
    else if (json_object_get(data, "data-file"))
        fault = "it keeps its data in another file (external data file), which is not followed";
    else if (json_is_true(json_object_get(info, "encrypted")))
        fault = "it is encrypted";
    else if (json_is_true(json_object_get(data, "corrupt")))
        fault = "it is marked as corrupt; look at it with qemu-img check";
    else if (size <= 0 || (uint64_t)size > LIMIT_DISK_BYTES)
        fault = "its virtual size is 0, or more than 1 PiB";
    if (!fault) {
        image->size = (uint64_t)size;
        image->preallocated = actual >= size;
    }
    json_decref(info);
    return fault ? refused(ret_error, volume, path, fault) : 0;
}

static int examine_qcow2(int fd, const char *qemu_img, const char *volume, const char *path, struct image *image,
                         struct error **ret_error)
{
    /* -U: another process may have it open, and its lock is not ours to wait for */
    const char *argv[] = {qemu_img, "info", "--output=json", "-U", "-f", "qcow2", "/dev/fd/" STRINGIFY(IMAGE_FD), NULL};
    const struct child_fd child_fd = {fd, IMAGE_FD};
    _cleanup_free_ char *out = NULL, *err = NULL;
    _cleanup_error_ struct error *error = NULL;
    int code, r;

    r = child_run(
        &(struct child_options){
            .argv = (char *const *)(uintptr_t)argv,
            .fds = &child_fd,
            .n_fds = 1,
            .death_signal = SIGKILL,
            .limit_address_space = LIMIT_IMAGE_CHECK_MEMORY_BYTES,
            .limit_cpu_seconds = LIMIT_IMAGE_CHECK_CPU_SECONDS,
        },
        TIMEOUT_IMAGE_USEC, &code, &out, &err, &error);
    if (r == -ENOENT) {
        r = error_set(ret_error, ERROR_HOST, ENOENT, "volume %s: there is no program %s to examine %s with", volume,
                      qemu_img, path);
        if (ret_error)
            error_set_remedy(*ret_error, "install it (Debian: apt install qemu-utils)");
        return r;
    }
    if (r < 0)
        return error_set(ret_error, ERROR_IMAGE_REFUSED, EPERM,
                         "volume %s: %s is refused: its examination within limits of memory and time failed: %s",
                         volume, path, error_message(error));
    if (code != 0)
        return error_set(ret_error, ERROR_IMAGE_REFUSED, EPERM, "volume %s: %s is refused: qemu-img info: %.*s", volume,
                         path, (int)(err ? MIN(strcspn(err, "\n"), (size_t)300) : 0), err ? err : "");
    return image_check_info(out ? out : "", volume, path, image, ret_error);
}

/* Raw, or a qcow2 that leads nowhere else: the rest of *image. */
static int examine_format(int fd, const struct image_source *source, const char *qemu_img, const char *volume,
                          const char *path, struct image *image, struct error **ret_error)
{
    unsigned char header[IMAGE_HEADER_BYTES];
    ssize_t n = pread(fd, header, sizeof(header), 0);
    const char *format, *fault;
    struct stat st;

    if (n < 0 || fstat(fd, &st) < 0)
        return error_errno(ret_error, errno, "volume %s: cannot read %s", volume, path);
    format = image_header_format(header, (size_t)n);
    image->format = format ? IMAGE_FORMAT_QCOW2 : IMAGE_FORMAT_RAW;
    if (!format)
        return 0;
    if (source->rule == IMAGE_RAW || !streq(format, "qcow2")) {
        error_set(ret_error, ERROR_IMAGE_REFUSED, EPERM,
                  "volume %s: %s is refused: it has the header of a %s image, and %s", volume, path, format,
                  source->rule == IMAGE_RAW ? "this volume's disk is raw" : "only raw and qcow2 are allowed");
        if (ret_error)
            error_set_remedy(*ret_error, "convert it: qemu-img convert -O raw SOURCE TARGET");
        return -EPERM;
    }
    fault = image_qcow2_fault(header, (size_t)n);
    if (fault)
        return refused(ret_error, volume, path, fault);
    if (!image_qcow2_is_plain(header, (size_t)n, image->size, &image->size))
        return examine_qcow2(fd, qemu_img, volume, path, image, ret_error);
    image->preallocated = !image->is_block_device && (uint64_t)st.st_blocks * 512 >= image->size;
    return 0;
}

int image_examine(const struct image_source *source, const char *qemu_img, const char *volume, bool for_writing,
                  struct image *ret, struct error **ret_error)
{
    _cleanup_close_ int fd = -EBADF;
    _cleanup_free_ char *path = NULL;
    struct image image = {0};
    struct stat st;
    int r;

    r = image_open(source, volume, &image.from_block_path, &path, ret_error);
    if (r < 0)
        return r;
    fd = r;
    if (fstat(fd, &st) < 0)
        return error_errno(ret_error, errno, "volume %s: cannot look at %s", volume, path);
    if (!S_ISREG(st.st_mode) && !(S_ISBLK(st.st_mode) && (image.from_block_path || source->allow_block)))
        return refused(ret_error, volume, path,
                       S_ISDIR(st.st_mode)    ? "it is a directory"
                       : S_ISBLK(st.st_mode)  ? "it is a block device in a volume that holds files"
                       : S_ISFIFO(st.st_mode) ? "it is a FIFO"
                                              : "it is neither a regular file nor a block device");
    r = measure(fd, path, &image, ret_error);
    if (r < 0)
        return error_wrap(ret_error, r, "volume %s", volume);
    if (image.size > LIMIT_DISK_BYTES)
        return refused(ret_error, volume, path, "it claims a size of more than 1 PiB");
    if (image.size == 0)
        return refused(ret_error, volume, path, "it is empty");
    r = examine_format(fd, source, qemu_img, volume, path, &image, ret_error);
    if (r == 0 && for_writing)
        r = check_writable(fd, volume, path, ret_error);
    if (r == 0)
        *ret = image;
    return r;
}

bool image_needs_qemu_img(const struct image_source *source)
{
    _cleanup_close_ int fd = -EBADF;
    _cleanup_free_ char *path = NULL;
    unsigned char header[IMAGE_HEADER_BYTES];
    bool from_block_path;
    uint64_t size;
    struct stat st;
    ssize_t n;
    int r;

    if (source->rule == IMAGE_RAW)
        return false;
    r = image_open(source, "", &from_block_path, &path, NULL);
    if (r < 0)
        return false;
    fd = r;
    n = pread(fd, header, sizeof(header), 0);
    if (n < 4 || memcmp(header, "QFI\xfb", 4) != 0 || fstat(fd, &st) < 0)
        return false;
    return !S_ISREG(st.st_mode) || (!image_qcow2_fault(header, (size_t)n) &&
                                    !image_qcow2_is_plain(header, (size_t)n, (uint64_t)st.st_size, &size));
}
