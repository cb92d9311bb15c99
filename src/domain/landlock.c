/* SPDX-License-Identifier: Apache-2.0 */
#include "domain/landlock.h"

#include <fcntl.h>
#include <linux/landlock.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"

/* linux/landlock.h of 6.12; older headers lack the later members and names. */
struct ruleset {
    uint64_t handled_access_fs, handled_access_net, scoped;
};
#define ACCESS_TRUNCATE (1ULL << 14) /* ABI 3 */
#define SCOPE_ABSTRACT  (1ULL << 0)  /* ABI 6 */
#define SCOPE_SIGNAL    (1ULL << 1)  /* ABI 6 */
#define LOG_NEW_EXEC_ON (1U << 1)    /* ABI 7 */
#define SIZE_FIRST_ABI  8U
#define SIZE_WITH_SCOPE 24U
#define ACCESS_OF_FILE                                                                                                 \
    (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE | ACCESS_TRUNCATE)
#define ACCESS_READ      (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define ACCESS_FIRST_ABI ((1ULL << 13) - 1)

static const char *const read_only[] = {
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/sbin",
    "/opt",
    "/etc/alternatives",
    "/etc/group",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/qemu",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
};
static const char *const read_write[] = {"/proc", "/sys", "/dev", "/tmp"};

/* A path that is not there needs no rule. */
static int add(int ruleset, const char *path, uint64_t access)
{
    struct landlock_path_beneath_attr rule = {.allowed_access = access};
    _cleanup_close_ int fd = open(path, O_PATH | O_CLOEXEC);
    struct stat st;

    if (fd < 0)
        return 0;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISDIR(st.st_mode))
        rule.allowed_access &= ACCESS_OF_FILE;
    rule.parent_fd = fd;
    return syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0 ? -errno : 0;
}

/* The paths in a word of the command line end where an option's value can end. */
static int add_word(int ruleset, const char *word, uint64_t access)
{
    for (const char *p = strchr(word, '/'); p; p = strchr(p, '/')) {
        size_t length = strcspn(p, ",\"");
        char path[4096];
        int r = 0;

        if (length > 1 && length < sizeof(path)) {
            memcpy(path, p, length);
            path[length] = '\0';
            r = add(ruleset, path, access);
        }
        if (r < 0)
            return r;
        p += length;
    }
    return 0;
}

int landlock_for_qemu(const char *const *dirs, char *const *argv, int *ret_fd, unsigned *ret_flags,
                      struct error **ret_error)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    struct ruleset attributes = {.handled_access_fs = ACCESS_FIRST_ABI | (abi >= 3 ? ACCESS_TRUNCATE : 0),
                                 .scoped = abi >= 6 ? SCOPE_ABSTRACT | SCOPE_SIGNAL : 0};
    _cleanup_close_ int fd = -EBADF;
    uint64_t all = attributes.handled_access_fs;
    int r = 0;

    *ret_fd = -EBADF;
    *ret_flags = 0;
    if (abi < 1) {
        log_debug("the kernel has no Landlock: QEMU's files are limited by its uid alone");
        return 0;
    }
    fd = (int)syscall(SYS_landlock_create_ruleset, &attributes, abi >= 6 ? SIZE_WITH_SCOPE : SIZE_FIRST_ABI, 0);
    if (fd < 0)
        return error_errno(ret_error, errno, "cannot make QEMU's Landlock rules");
    for (size_t i = 0; i < ELEMENTSOF(read_only) && r >= 0; i++)
        r = add(fd, read_only[i], ACCESS_READ);
    for (size_t i = 0; i < ELEMENTSOF(read_write) && r >= 0; i++)
        r = add(fd, read_write[i], all);
    for (size_t i = 0; dirs[i] && r >= 0; i++)
        r = add(fd, dirs[i], all);
    for (size_t i = 0; argv[i] && r >= 0; i++)
        r = add_word(fd, argv[i], all);
    if (r < 0)
        return error_errno(ret_error, r, "cannot make QEMU's Landlock rules");
    *ret_fd = TAKE_FD(fd);
    *ret_flags = abi >= 7 ? LOG_NEW_EXEC_ON : 0;
    return 0;
}
