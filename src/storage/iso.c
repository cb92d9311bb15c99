/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libarchive is loaded at run time, in the child that makes the image: it pulls in libxml2 and ICU, and linking it
 * would cost every start of a program several milliseconds and its private memory for good.
 */
#include <archive.h>
#include <archive_entry.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <locale.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/utf8.h"
#include "storage/private.h"

#define SECTOR 2048

/* ISO 9660 (ECMA-119) 8.4: offsets of a volume descriptor. */
#define DESCRIPTORS_START (16 * SECTOR)
#define LABEL_OFFSET      40
#define LABEL_LENGTH      32
#define DATES_OFFSET      813 /* creation, modification, expiration, effective: 17 bytes each */
#define DATE_LENGTH       17
#define ROOT_DATE_OFFSET  (156 + 18) /* of the root directory's record */
#define DATE_BYTES        7          /* of a directory record, 9.1.5 */
#define PATH_TABLE_OFFSET 132        /* size in both byte orders, then the place of the little-endian table */
#define PATH_TABLE_LIMIT  (8U * 1024 * 1024)

#define FUNCTIONS(X)                                                                                                   \
    X(archive_write_new)                                                                                               \
    X(archive_write_set_format_iso9660)                                                                                \
    X(archive_write_set_format_option)                                                                                 \
    X(archive_write_set_bytes_in_last_block)                                                                           \
    X(archive_write_open_fd)                                                                                           \
    X(archive_write_header)                                                                                            \
    X(archive_write_data)                                                                                              \
    X(archive_write_close)                                                                                             \
    X(archive_write_free)                                                                                              \
    X(archive_error_string)                                                                                            \
    X(archive_errno)                                                                                                   \
    X(archive_entry_new)                                                                                               \
    X(archive_entry_free)                                                                                              \
    X(archive_entry_clear)                                                                                             \
    X(archive_entry_set_pathname)                                                                                      \
    X(archive_entry_set_filetype)                                                                                      \
    X(archive_entry_set_perm)                                                                                          \
    X(archive_entry_set_size)                                                                                          \
    X(archive_entry_set_mtime)                                                                                         \
    X(archive_entry_set_atime)                                                                                         \
    X(archive_entry_set_ctime)                                                                                         \
    X(archive_entry_set_birthtime)

static struct {
#define X(name) __typeof__(&(name)) name;
    FUNCTIONS(X)
#undef X
} lib;

static int load_library(struct error **ret_error)
{
    void *handle = dlopen("libarchive.so.13", RTLD_NOW | RTLD_NODELETE);
    int r;

    if (!handle) {
        r = error_set(ret_error, ERROR_HOST, ENOSYS, "cannot make an ISO image: %s", dlerror());
        if (ret_error)
            error_set_remedy(*ret_error, "install libarchive (Debian: apt install libarchive13)");
        return r;
    }
#define X(name)                                                                                                        \
    {                                                                                                                  \
        void *symbol = dlsym(handle, #name);                                                                           \
        if (!symbol)                                                                                                   \
            return error_set(ret_error, ERROR_HOST, ENOSYS, "cannot make an ISO image: libarchive has no " #name);     \
        memcpy(&lib.name, &symbol, sizeof(symbol));                                                                    \
    }
    FUNCTIONS(X)
#undef X
    return 0;
}

static int archive_failed(struct archive *a, const char *path, struct error **ret_error)
{
    const char *text = lib.archive_error_string(a);
    int err = lib.archive_errno(a);

    if (err <= 0)
        err = EIO;
    return error_set(ret_error, ERROR_STORAGE, err, "cannot write %s: %s (%s)", path, text ? text : "libarchive",
                     strerror(err));
}

static int add_entry(struct archive *a, struct archive_entry *entry, const char *name, const struct iso_file *file,
                     const char *path, struct error **ret_error)
{
    if (utf8_valid_prefix(name, strlen(name)) < strlen(name))
        return error_set(ret_error, ERROR_BAD_DATA, EILSEQ, "cannot write %s: a file's name is not UTF-8: %s", path,
                         name);
    lib.archive_entry_clear(entry);
    lib.archive_entry_set_pathname(entry, name);
    lib.archive_entry_set_filetype(entry, file ? AE_IFREG : AE_IFDIR);
    lib.archive_entry_set_perm(entry, file ? 0444 : 0555);
    lib.archive_entry_set_size(entry, file ? (la_int64_t)file->length : 0);
    lib.archive_entry_set_mtime(entry, 0, 0);
    lib.archive_entry_set_atime(entry, 0, 0);
    lib.archive_entry_set_ctime(entry, 0, 0);
    lib.archive_entry_set_birthtime(entry, 0, 0);
    if (lib.archive_write_header(a, entry) != ARCHIVE_OK)
        return archive_failed(a, path, ret_error);
    if (file && file->length > 0 && lib.archive_write_data(a, file->data, file->length) != (la_ssize_t)file->length)
        return archive_failed(a, path, ret_error);
    return 0;
}

/* The directories above a file, each once. */
static int add_parents(struct archive *a, struct archive_entry *entry, const struct iso_files *files, size_t index,
                       const char *path, struct error **ret_error)
{
    const char *name = files->items[index].path;

    for (const char *slash = strchr(name, '/'); slash; slash = strchr(slash + 1, '/')) {
        _cleanup_free_ char *parent = strndup(name, (size_t)(slash - name));
        bool seen = false;
        int r;

        if (!parent)
            return error_oom(ret_error);
        for (size_t i = 0; i < index && !seen; i++)
            seen = strncmp(files->items[i].path, name, (size_t)(slash - name) + 1) == 0;
        r = seen ? 0 : add_entry(a, entry, parent, NULL, path, ret_error);
        if (r < 0)
            return r;
    }
    return 0;
}

static int write_archive(int fd, const char *path, const char *label, const struct iso_files *files,
                         struct error **ret_error)
{
    struct archive *a = lib.archive_write_new();
    struct archive_entry *entry = lib.archive_entry_new();
    int r = 0;

    if (!a || !entry) {
        r = error_oom(ret_error);
        goto out;
    }
    if (lib.archive_write_set_format_iso9660(a) != ARCHIVE_OK ||
        lib.archive_write_set_format_option(a, "iso9660", "volume-id", label) != ARCHIVE_OK ||
        lib.archive_write_set_format_option(a, "iso9660", "joliet", "1") != ARCHIVE_OK ||
        lib.archive_write_set_format_option(a, "iso9660", "rockridge", "useful") != ARCHIVE_OK ||
        lib.archive_write_set_bytes_in_last_block(a, 1) != ARCHIVE_OK ||
        lib.archive_write_open_fd(a, fd) != ARCHIVE_OK) {
        r = archive_failed(a, path, ret_error);
        goto out;
    }
    for (size_t i = 0; i < files->count && r == 0; i++) {
        r = add_parents(a, entry, files, i, path, ret_error);
        if (r == 0)
            r = add_entry(a, entry, files->items[i].path, &files->items[i], path, ret_error);
    }
    if (r == 0 && lib.archive_write_close(a) != ARCHIVE_OK)
        r = archive_failed(a, path, ret_error);
out:
    if (entry)
        lib.archive_entry_free(entry);
    if (a)
        lib.archive_write_free(a);
    return r;
}

static uint32_t le32(const unsigned char *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* The first two records of a directory, "." and ".." (9.1; Rock Ridge's TF repeats the date in their system use area).
 * Where they are the root's, libarchive has put the time of the call. */
static int settle_directory(int fd, off_t at, const unsigned char stamp[DATE_BYTES])
{
    static const unsigned char epoch[DATE_BYTES] = {70, 1, 1, 0, 0, 0, 0};
    unsigned char sector[SECTOR];
    size_t end;

    if (pread(fd, sector, sizeof(sector), at) != (ssize_t)sizeof(sector))
        return -EBADMSG;
    end = sector[0] + (size_t)sector[sector[0]];
    for (size_t i = 0; i + DATE_BYTES <= MIN(end, sizeof(sector)); i++)
        if (memcmp(sector + i, stamp, DATE_BYTES) == 0)
            memcpy(sector + i, epoch, DATE_BYTES);
    return pwrite(fd, sector, sizeof(sector), at) == (ssize_t)sizeof(sector) ? 0 : -EIO;
}

/* All directories, by the path table (9.4) that the descriptor points to. */
static int settle_directories(int fd, const unsigned char *descriptor)
{
    uint32_t size = le32(descriptor + PATH_TABLE_OFFSET);
    off_t at = (off_t)le32(descriptor + PATH_TABLE_OFFSET + 8) * SECTOR;
    _cleanup_free_ unsigned char *table = NULL;
    unsigned char stamp[DATE_BYTES];
    int r = 0;

    if (size > PATH_TABLE_LIMIT)
        return -EBADMSG;
    table = malloc(size + 8);
    if (!table)
        return -ENOMEM;
    if (pread(fd, table, size, at) != (ssize_t)size || size < 8 ||
        pread(fd, stamp, sizeof(stamp), (off_t)le32(table + 2) * SECTOR + 18) != (ssize_t)sizeof(stamp))
        return -EBADMSG;
    for (size_t i = 0; r == 0 && i + 8 <= size; i += 8U + table[i] + (table[i] & 1))
        r = settle_directory(fd, (off_t)le32(table + i + 2) * SECTOR, stamp);
    return r;
}

/*
 * What libarchive has no option for. The dates of the volume and of its root are the time of the call, and a sector
 * behind the descriptors tells time, version and options: they become "not given", 1970 and nothing, so that the same
 * input makes the same bytes. The label of the primary descriptor is written again as it is ("config-2"), as the usual
 * tools do, whatever the library makes of letters that the standard does not allow there.
 */
static int settle_descriptors(int fd, const char *path, const char *label, struct error **ret_error)
{
    unsigned char d[SECTOR];

    for (off_t at = DESCRIPTORS_START;; at += SECTOR) {
        int r;

        if (pread(fd, d, sizeof(d), at) != (ssize_t)sizeof(d) || memcmp(d + 1, "CD001", 5) != 0)
            return error_set(ret_error, ERROR_INTERNAL, EBADMSG, "%s has no volume descriptors", path);
        if (d[0] == 255) {
            memset(d, 0, sizeof(d));
            if (pread(fd, d, 4, at + SECTOR) == 4 && memcmp(d, "INFO", 4) == 0) {
                memset(d, 0, sizeof(d));
                if (pwrite(fd, d, sizeof(d), at + SECTOR) != (ssize_t)sizeof(d))
                    return error_errno(ret_error, errno, "cannot write %s", path);
            }
            return 0;
        }
        if (d[0] != 1 && d[0] != 2)
            continue;
        for (size_t i = 0; i < 4; i++) {
            memset(d + DATES_OFFSET + i * DATE_LENGTH, '0', DATE_LENGTH - 1);
            d[DATES_OFFSET + i * DATE_LENGTH + DATE_LENGTH - 1] = 0;
        }
        memcpy(d + ROOT_DATE_OFFSET, (const unsigned char[DATE_BYTES]){70, 1, 1, 0, 0, 0, 0}, DATE_BYTES);
        if (d[0] == 1) {
            memset(d + LABEL_OFFSET, ' ', LABEL_LENGTH);
            memcpy(d + LABEL_OFFSET, label, MIN(strlen(label), (size_t)LABEL_LENGTH));
        }
        if (pwrite(fd, d, sizeof(d), at) != (ssize_t)sizeof(d))
            return error_errno(ret_error, errno, "cannot write %s", path);
        r = settle_directories(fd, d);
        if (r < 0)
            return error_errno(ret_error, r, "cannot settle the dates in %s", path);
    }
}

int iso_write(const char *path, const char *label, const struct iso_files *files, unsigned owner,
              struct error **ret_error)
{
    _cleanup_free_ char *staging = staging_path(path), *parent = NULL;
    _cleanup_close_ int fd = -EBADF;
    int r;

    if (!staging)
        return error_oom(ret_error);
    r = load_library(ret_error);
    if (r < 0)
        return r;
    /* it takes names for the locale's; "C.UTF-8" is part of every C library of ours, and nothing else has begun here */
    (void)setlocale(LC_CTYPE, "C.UTF-8");
    /* libarchive writes local times, and keeps the files' content in a nameless temporary file until the end */
    parent = strndup(path, (size_t)(strrchr(path, '/') - path));
    if (!parent || setenv("TZ", "UTC", 1) < 0 || setenv("TMPDIR", parent, 1) < 0)
        return error_oom(ret_error);
    tzset();
    unlink(staging);
    fd = open(staging, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return error_errno(ret_error, errno, "cannot create %s", staging);
    r = write_archive(fd, path, label, files, ret_error);
    if (r == 0)
        r = settle_descriptors(fd, path, label, ret_error);
    if (r == 0)
        r = staging_finish(fd, staging, path, 0600, owner, ret_error);
    if (r < 0)
        unlink(staging);
    return r;
}
