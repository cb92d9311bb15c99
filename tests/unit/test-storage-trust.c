/* SPDX-License-Identifier: Apache-2.0 */
/* Images and files that nobody vouches for: which are taken as they are, which are refused, and that nothing of theirs
 * is read. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/strbuf.h"
#include "storage-pod.h"

static char victim[] = "/tmp/test-storage-victim-XXXXXX";
static int victim_watch = -EBADF;

static void watch_victim(void)
{
    _cleanup_close_ int fd = mkstemp(victim);

    assert_int_equal(write(fd, "secret\n", 7), 7);
    victim_watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    assert_true(inotify_add_watch(victim_watch, victim, IN_OPEN | IN_ACCESS | IN_MODIFY) >= 0);
}

static bool victim_was_opened(void)
{
    char events[4096];

    return read(victim_watch, events, sizeof(events)) > 0;
}

static void hostile_backing(const char *path)
{
    free(run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", victim, "-F", "raw", path, "1M"));
}

/* Version 2, whose header is another one, and a name of the protocol "json:". */
static void hostile_backing_json(const char *path)
{
    _cleanup_free_ char *name = NULL;

    assert_true(
        asprintf(&name, "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"%s\"}}", victim) > 0);
    free(
        run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-o", "compat=0.10", "-b", name, "-F", "raw", path, "1M"));
}

static void hostile_data_file(const char *path)
{
    _cleanup_free_ char *options = NULL;

    assert_true(asprintf(&options, "data_file=%s.data", path) > 0);
    free(run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "1M"));
}

static void hostile_symlink(const char *path)
{
    assert_int_equal(symlink(victim, path), 0);
}

static void hostile_fifo(const char *path)
{
    assert_int_equal(mkfifo(path, 0644), 0);
}

static void hostile_directory(const char *path)
{
    assert_int_equal(mkdir(path, 0755), 0);
}

static void hostile_device(const char *path)
{
    assert_int_equal(mknod(path, S_IFCHR | 0600, 1 << 8 | 3), 0);
}

static void hostile_vmdk(const char *path)
{
    free(run("qemu-img", "create", "-q", "-f", "vmdk", path, "1M"));
}

static void hostile_truncated(const char *path)
{
    make_qcow2(path);
    assert_int_equal(truncate(path, 60), 0);
}

static void hostile_empty(const char *path)
{
    put(path, "");
}

/* Sparse and far beyond any disk. ext4 has no such files, tmpfs has. */
static void hostile_sparse(const char *path)
{
    _cleanup_free_ char *parent = strndup(path, (size_t)(strrchr(path, '/') - path));

    assert_int_equal(mount("tmpfs", parent, "tmpfs", 0, NULL), 0);
    put(path, "x");
    assert_int_equal(truncate(path, (off_t)1 << 60), 0);
}

/* Bytes in the header of a qcow2. */
struct odd_bytes {
    off_t at;
    const char *bytes;
    size_t length;
};

static void spoil(const char *path, const struct odd_bytes *odd)
{
    patch(path, odd->at, odd->bytes, odd->length);
}

/* Which images need no qemu-img: those that it makes, with the size that it tells; one odd number, and they do. */
static void test_plain_headers(void **state)
{
    static const struct {
        const char *options;
        bool plain;
    } rows[] = {
        {"compat=1.1", true},
        {"compat=0.10", true},
        {"cluster_size=4096", true},
        {"cluster_size=2M", true},
        {"lazy_refcounts=on", true},
        {"refcount_bits=1", true},
        {"preallocation=metadata", true},
        {"compression_type=zstd", false},
        {"extended_l2=on", false},
    };
    static const struct odd_bytes odd[] = {
        {20, "\0\0\0\x08", 4},
        {20, "\0\0\0\x16", 4},
        {24, "\0\0\0\0\0\0\0\0", 8},
        {24, "\0\0\0\x7f", 4},
        {36, "\0\0\0\0", 4},
        {36, "\0\x40\0\1", 4},
        {40, "\0\0\0\1", 4},
        {40, "\0\0\0\0\0\3\0\1", 8},
        {48, "\0\0\0\0\0\0\0\0", 8},
        {56, "\0\0\0\0", 4},
        {56, "\0\0\1\0", 4},
        {60, "\0\0\0\1", 4},
        {72, "\0\0\0\0\0\0\0\1", 8},
        {79, "\2", 1},
        {87, "\2", 1},
        {95, "\1", 1},
        {99, "\7", 1},
        {100, "\0\0\1\x70", 4},
        {104, "\1", 1},
        {112, "\x23\x85\x28\x75", 4},
        {116, "\xff\xff\xff\xff", 4},
    };
    char directory[] = "/tmp/test-storage-XXXXXX";
    _cleanup_free_ char *path = NULL;
    unsigned char header[4096];

    if (!has_program("qemu-img"))
        skip();
    assert_non_null(mkdtemp(directory));
    assert_true(asprintf(&path, "%s/image", directory) > 0);
    for (size_t i = 0; i < ELEMENTSOF(rows) + ELEMENTSOF(odd); i++) {
        const char *options = i < ELEMENTSOF(rows) ? rows[i].options : "compat=1.1";
        bool plain = i < ELEMENTSOF(rows) && rows[i].plain;
        _cleanup_close_ int fd = -EBADF;
        uint64_t size = 0;
        struct stat st;

        free(run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "16777728"));
        if (i >= ELEMENTSOF(rows))
            spoil(path, &odd[i - ELEMENTSOF(rows)]);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(pread(fd, header, sizeof(header), 0), sizeof(header));
        if (image_qcow2_is_plain(header, sizeof(header), (uint64_t)st.st_size, &size) != plain)
            fail_msg("row %zu (%s) is taken for %s", i, options, plain ? "odd" : "plain");
        assert_true(!plain || size == 16777728);
        /* cut short, its tables are not in it any more */
        assert_false(image_qcow2_is_plain(header, sizeof(header), 4096, &size));
        assert_false(image_qcow2_is_plain(header, 100, (uint64_t)st.st_size, &size));
    }
    remove_tree(directory);
}

static void test_hostile(void **state)
{
    static const struct {
        const char *name;
        void (*make)(const char *path);
        const char *says_container, *says_claim; /* NULL: not tried as that volume */
        struct odd_bytes odd;                    /* written into what was made */
    } rows[] = {
        {"backing file", hostile_backing, "backing file", "header of a qcow2", {0}},
        {"backing file by json:", hostile_backing_json, "backing file", "header of a qcow2", {0}},
        {"data file", hostile_data_file, "external data file", "header of a qcow2", {0}},
        {"symlink", hostile_symlink, "symbolic link", "symbolic link", {0}},
        {"fifo", hostile_fifo, "FIFO", "FIFO", {0}},
        {"directory", hostile_directory, "is a directory", "is a directory", {0}},
        {"device", hostile_device, "neither a regular file", "neither a regular file", {0}},
        {"vmdk", hostile_vmdk, "header of a vmdk", "header of a vmdk", {0}},
        {"qcow2 in a raw volume", make_qcow2, NULL, "header of a qcow2", {0}},
        {"huge virtual size", make_qcow2, "1 PiB", "header of a qcow2", {24, "\x10\0\0\0\0\0\0\0", 8}},
        /* 2^31 entries, which a careless reader allocates */
        {"l1 table", make_qcow2, "qemu-img info", NULL, {36, "\x7f\xff\xff\xff", 4}},
        {"refcount table", make_qcow2, "qemu-img info", NULL, {56, "\x7f\xff\xff\xff", 4}},
        {"snapshots", make_qcow2, "snapshots", NULL, {60, "\0\1\0\0", 4}},
        {"version", make_qcow2, "another version", NULL, {4, "\0\0\0\1", 4}},
        {"truncated", hostile_truncated, "cut off", NULL, {0}},
        {"cluster bits", make_qcow2, "qemu-img info", NULL, {20, "\0\0\0\x3f", 4}},
        {"empty", hostile_empty, "is empty", "is empty", {0}},
        {"2^60 bytes", hostile_sparse, "1 PiB", "1 PiB", {0}},
    };
    static const char *const disks[] = {"vol", NULL};

    if (!has_program("qemu-img"))
        skip();
    watch_victim();
    for (size_t i = 0; i < ELEMENTSOF(rows); i++)
        for (int claim = 0; claim < 2; claim++) {
            const char *says = claim ? rows[i].says_claim : rows[i].says_container;
            _cleanup_free_ char *left = NULL;
            _cleanup_(pod_done) struct pod pod = {0};
            const char *path;

            if (!says || (rows[i].make == hostile_sparse && geteuid() != 0))
                continue;
            pod_init(&pod);
            pod_load(&pod, "", disks,
                     claim ? "  - {name: vol, persistentVolumeClaim: {claimName: c}}\n"
                           : "  - {name: vol, containerDisk: {image: a}}\n");
            assert_int_equal(mkdir_parents(in(&pod, "private/vmi-disks/vol"), 0755, NULL), 0);
            path = in(&pod, claim ? "private/vmi-disks/vol/disk.img" : "container-disks/disk_0.img");
            rows[i].make(path);
            if (rows[i].odd.bytes)
                spoil(path, &rows[i].odd);
            victim_was_opened(); /* by qemu-img, which made the image */
            assert_int_equal(pod_plan(&pod, false, NULL, 0), 0);
            if (storage_prepare(pod.storage, &pod.error) == 0)
                fail_msg("%s was taken", rows[i].name);
            if (!strstr(error_message(pod.error), says))
                fail_msg("%s: \"%s\" is not in \"%s\"", rows[i].name, says, error_message(pod.error));
            assert_int_equal(error_get_code(pod.error), ERROR_IMAGE_REFUSED);
            assert_non_null(strstr(error_message(pod.error), "volume vol"));
            left = run("find", in(&pod, "ephemeral"), "-type", "f");
            assert_string_equal(left, "");
            if (victim_was_opened())
                fail_msg("%s: what it points at was opened", rows[i].name);
            if (rows[i].make == hostile_sparse)
                umount2(in(&pod, claim ? "private/vmi-disks/vol" : "container-disks"), MNT_DETACH);
        }
    assert_int_equal(close(open(victim, O_RDONLY | O_CLOEXEC)), 0);
    assert_true(victim_was_opened()); /* had it been, it would have been seen */
    close(victim_watch);
    unlink(victim);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
}

/* A volume's files that point out of it. */
static void test_hostile_tree(void **state)
{
    static const char *const disks[] = {"cm", "nc", NULL};
    _cleanup_(pod_done) struct pod pod = {0};

    pod_init(&pod);
    pod_load(&pod, "", disks,
             "  - {name: cm, configMap: {name: c}}\n"
             "  - {name: nc, cloudInitNoCloud: {secretRef: {name: s}}}\n");
    put(in(&pod, "private/config-map/cm/good"), "x");
    assert_int_equal(symlink("/etc/shadow", in(&pod, "private/config-map/cm/evil")), 0);
    assert_int_equal(mkdir_parents(in(&pod, "private/secret/nc"), 0755, NULL), 0);
    assert_int_equal(symlink("../../../../../../etc/passwd", in(&pod, "private/secret/nc/userdata")), 0);
    assert_int_equal(pod_plan(&pod, false, NULL, 0), 0);
    assert_true(storage_prepare(pod.storage, &pod.error) < 0);
    /* both in one run */
    assert_non_null(strstr(error_message(pod.error), "cm/evil is a link that leads out of the volume"));
    assert_non_null(strstr(error_message(pod.error), "nc/userdata is a link that leads out of the volume"));
    check_nothing_left(&pod, "good");
}

/* A disk that the guest writes to, on an image that nobody may write to, or that another VM has; read-only it is taken.
 */
static void test_not_writable(void **state)
{
    static const char *const disks[] = {"vol", NULL};
    static const struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 201, .l_len = 1};
    _cleanup_(pod_done) struct pod pod = {0};
    _cleanup_close_ int other = -EBADF;
    struct vmi_disk *disk;
    bool is_read_only;

    pod_init(&pod);
    pod_load(&pod, "", disks, "  - {name: vol, persistentVolumeClaim: {claimName: c}}\n");
    assert_int_equal(mkdir_parents(in(&pod, "private/vmi-disks/vol"), 0755, NULL), 0);
    is_read_only = mount("tmpfs", in(&pod, "private/vmi-disks/vol"), "tmpfs", 0, NULL) == 0;
    put_sparse(in(&pod, "private/vmi-disks/vol/disk.img"), 1 << 20);
    assert_int_equal(pod_plan(&pod, false, NULL, 0), 0);
    pod_prepare(&pod);

    /* as QEMU locks an image for its only writer */
    other = open(in(&pod, "private/vmi-disks/vol/disk.img"), O_RDWR | O_CLOEXEC);
    assert_int_equal(fcntl(other, F_OFD_SETLK, &lock), 0);
    assert_int_equal(storage_prepare(pod.storage, &pod.error), -EBUSY);
    assert_non_null(strstr(error_message(pod.error), "volume vol: "));
    assert_non_null(strstr(error_message(pod.error), "is in use"));
    assert_non_null(strstr(error_remedy(pod.error), "shareable"));
    other = fd_close(other);
    pod_prepare(&pod);

    if (is_read_only) {
        assert_int_equal(mount(NULL, in(&pod, "private/vmi-disks/vol"), NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
        error_free(TAKE_PTR(pod.error));
        assert_int_equal(storage_prepare(pod.storage, &pod.error), -EROFS);
        assert_non_null(strstr(error_message(pod.error), "cannot be written to (Read-only file system)"));
        storage_free(TAKE_PTR(pod.storage));
        disk = &pod.vmi->spec.domain.devices.disks.items[0];
        disk->target->readonly = OPT_TRUE;
        assert_int_equal(pod_plan(&pod, false, NULL, 0), 0);
        pod_prepare(&pod);
        umount2(in(&pod, "private/vmi-disks/vol"), MNT_DETACH);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_headers),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_hostile_tree),
        cmocka_unit_test(test_not_writable),
    };

    setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
