/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/event.h"
#include "base/fd.h"
#include "base/strv.h"
#include "host/caps.h"

static char directory[] = "/tmp/test-caps-XXXXXX";

static int setup(void **state)
{
    return mkdtemp(directory) && setenv("VMLET_CACHE_DIR", directory, 1) == 0 ? 0 : -1;
}

static int teardown(void **state)
{
    return remove_tree(directory);
}

static bool has(char *const *list, const char *name)
{
    STRV_FOREACH (item, list)
        if (streq(*item, name))
            return true;
    return false;
}

/* A cache file in the directory; freed by the caller, NULL if there is none. */
static char *cache_file(const char *prefix)
{
    DIR *dir = opendir(directory);
    struct dirent *entry;
    char *path = NULL;

    while (dir && !path && (entry = readdir(dir)))
        if (startswith(entry->d_name, prefix) && asprintf(&path, "%s/%s", directory, entry->d_name) < 0)
            path = NULL;
    closedir(dir);
    return path;
}

static void check_caps(const struct qemu_caps *caps)
{
    assert_true(caps->version >= QEMU_VERSION_OLDEST);
    assert_true(has(caps->devices, "virtio-blk-pci"));
    assert_true(has(caps->devices, "pcie-root-port"));
    assert_false(has(caps->devices, "device")); /* abstract */
    assert_true(has(caps->machines, "q35"));    /* an alias */
    assert_true(has(caps->objects, "iothread"));
    for (size_t i = 1; caps->devices[i]; i++)
        assert_true(strcmp(caps->devices[i - 1], caps->devices[i]) < 0);
}

static void test_real_binary(void **state)
{
    _cleanup_(qemu_caps_freep) struct qemu_caps *cold = NULL, *warm = NULL, *again = NULL;
    _cleanup_error_ struct error *error = NULL;
    _cleanup_free_ char *path = NULL;
    struct stat before, after;
    uint64_t begin = now_usec(), best = UINT64_MAX;
    int r = qemu_caps_load(NULL, MACHINE_ARCH_X86_64, &cold, &error);

    if (r == -ENOENT)
        skip();
    if (r < 0)
        fail_msg("%s", error_message(error));
    print_message("probed in %.1f ms\n", (double)(now_usec() - begin) / 1000);
    check_caps(cold);
    path = cache_file("qemu-");
    assert_non_null(path);
    assert_int_equal(stat(path, &before), 0);
    for (int i = 0; i < 5; i++) {
        qemu_caps_freep(&warm);
        begin = now_usec();
        assert_int_equal(qemu_caps_load(NULL, MACHINE_ARCH_X86_64, &warm, NULL), 0);
        best = MIN(best, now_usec() - begin);
    }
    print_message("from the cache (%lld bytes) in %.3f ms\n", (long long)before.st_size, (double)best / 1000);
    check_caps(warm);
    assert_int_equal(warm->version, cold->version);
    assert_int_equal(strv_length(warm->devices), strv_length(cold->devices));
    assert_int_equal(warm->vnc, cold->vnc);
    assert_int_equal(warm->sandbox, cold->sandbox);
    /* it was not written again */
    assert_int_equal(stat(path, &after), 0);
    assert_true(before.st_ino == after.st_ino);
    /* damaged: ignored and replaced */
    assert_int_equal(file_write_atomic(path, "{\"format\":1}", 12, 0644, NULL), 0);
    assert_int_equal(qemu_caps_load(NULL, MACHINE_ARCH_X86_64, &again, NULL), 0);
    check_caps(again);
    assert_int_equal(stat(path, &after), 0);
    assert_true(after.st_size == before.st_size);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(unlink(path), 0);
}

static void test_wrong_architecture(void **state)
{
    _cleanup_(qemu_caps_freep) struct qemu_caps *caps = NULL;
    _cleanup_error_ struct error *error = NULL;
    _cleanup_free_ char *path = find_program("qemu-system-x86_64");

    if (!path)
        skip();
    assert_int_equal(qemu_caps_load(path, MACHINE_ARCH_AARCH64, &caps, &error), -EINVAL);
    assert_non_null(strstr(error_message(error), "x86_64"));
}

static void test_missing(void **state)
{
    _cleanup_(qemu_caps_freep) struct qemu_caps *caps = NULL;
    _cleanup_error_ struct error *error = NULL, *other = NULL;
    _cleanup_free_ char *path = strdup(getenv("PATH"));

    assert_int_equal(qemu_caps_load("/nonexistent/qemu", MACHINE_ARCH_X86_64, &caps, &error), -ENOENT);
    assert_int_equal(error_get_code(error), ERROR_QEMU_NOT_FOUND);
    assert_int_equal(error_exit_code(error), EXIT_HOST_CANNOT);
    setenv("PATH", directory, 1);
    assert_int_equal(qemu_caps_load(NULL, MACHINE_ARCH_AARCH64, &caps, &other), -ENOENT);
    setenv("PATH", path, 1);
    assert_int_equal(error_get_code(other), ERROR_QEMU_NOT_FOUND);
    assert_non_null(error_remedy(other));
}

/* Programs that are no QEMU, or a broken one. fd 3 is the monitor. */
static void test_broken(void **state)
{
    static const struct {
        const char *script, *says;
        int r;
        enum error_code code;
    } rows[] = {
        {"echo 'cannot set up guest memory' >&2; exit 3", "exited with code 3", -ENOEXEC, ERROR_QEMU_START},
        {"echo 'cannot set up guest memory' >&2; exit 3", "cannot set up guest memory", -ENOEXEC, ERROR_QEMU_START},
        {"exit 0", "it wrote no reason", -ENOEXEC, ERROR_QEMU_START},
        {"kill -SEGV $$", "was killed by SIGSEGV", -ENOEXEC, ERROR_QEMU_START},
        {"echo hello >&3", "does not speak QMP", -ENOEXEC, ERROR_QEMU_START},
        {"echo '{}' >&3", "without a version", -ENOEXEC, ERROR_QEMU_START},
        {"echo '{\"QMP\":{\"version\":{\"qemu\":{\"major\":6,\"minor\":2,\"micro\":1}}}}' >&3; read l <&3; "
         "echo '{\"return\":{}}' >&3; read l <&3",
         "is QEMU 6.2.1 (7.2 is needed)", -EPROTONOSUPPORT, ERROR_QEMU_TOO_OLD},
        {"echo '{\"QMP\":{\"version\":{\"qemu\":{\"major\":9,\"minor\":0,\"micro\":0}}}}' >&3; read l <&3; "
         "echo '{\"return\":{}}' >&3; read l <&3; echo '{\"error\":{\"class\":\"GenericError\",\"desc\":\"no\"}}' >&3",
         "query-target: no", -EPROTO, ERROR_QMP},
    };
    _cleanup_free_ char *path = NULL;

    assert_true(asprintf(&path, "%s/fake-qemu", directory) > 0);
    for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
        _cleanup_(qemu_caps_freep) struct qemu_caps *caps = NULL;
        _cleanup_error_ struct error *error = NULL;
        _cleanup_free_ char *script = NULL, *left = NULL;

        assert_true(asprintf(&script, "#!/bin/sh\n%s\n", rows[i].script) > 0);
        assert_int_equal(file_write_atomic(path, script, strlen(script), 0755, NULL), 0);
        assert_int_equal(qemu_caps_load(path, MACHINE_ARCH_X86_64, &caps, &error), rows[i].r);
        if (!strstr(error_message(error), rows[i].says))
            fail_msg("row %zu: \"%s\" is not in \"%s\"", i, rows[i].says, error_message(error));
        assert_int_equal(error_get_code(error), rows[i].code);
        assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* nothing left behind */
        left = cache_file("qemu-path-");
        assert_null(left);
    }
}

static void test_write_cache(void **state)
{
    _cleanup_error_ struct error *error = NULL;
    _cleanup_free_ char *sub = NULL;
    int r;

    assert_true(asprintf(&sub, "%s/image/cache", directory) > 0);
    r = qemu_caps_write_cache(NULL, MACHINE_ARCH_X86_64, sub, &error);
    if (r == -ENOENT)
        skip();
    assert_int_equal(r, 0);
    r = qemu_caps_write_cache(NULL, MACHINE_ARCH_X86_64, "/proc/nowhere", &error);
    assert_true(r < 0);
    assert_non_null(strstr(error_message(error), "/proc/nowhere"));
}

/* Truncated and twisted ELF files end in -ENODATA, never outside the buffer (the sanitizer build looks). */
static void test_build_id(void **state)
{
    _cleanup_free_ char *path = NULL, *data = NULL;
    _cleanup_close_ int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    char hex[BUILD_ID_HEX_SIZE] = "";
    unsigned found = 0;

    assert_true(asprintf(&path, "%s/elf", directory) > 0);
    if (elf_read_build_id(fd, hex) == 0)
        assert_true(strlen(hex) >= 16);
    data = calloc(1, 8192);
    assert_true(pread(fd, data, 8192, 0) > 4096);
    for (size_t i = 0; i < 4096; i += 7) {
        _cleanup_close_ int twisted = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        char saved = data[i];

        data[i] = (char)~saved;
        assert_int_equal(fd_write_all(twisted, data, i % 2 ? 8192 : i + 1), 0);
        data[i] = saved;
        if (elf_read_build_id(twisted, hex) == 0)
            found++;
    }
    print_message("%u of the twisted files still had a build id\n", found);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real_binary), cmocka_unit_test(test_wrong_architecture), cmocka_unit_test(test_missing),
        cmocka_unit_test(test_broken),      cmocka_unit_test(test_write_cache),        cmocka_unit_test(test_build_id),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
