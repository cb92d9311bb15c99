/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images are made by a process that is killed at each of its calls that change a file, one after the other: of the
 * process that prepares the volumes, and of the child that makes the ISO images. Whatever has its final name then is
 * whole, and the next start makes every image as if nothing had been.
 *
 * This program's own definitions of those calls are found before the C library's, by libarchive, too, which is loaded
 * at run time.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/child.h"
#include "storage-lab.h"

#define FILE_LIMIT (64U << 20)

/* ---- calls ------------------------------------------------------------------------------------------------------ */

enum how { ONE_PROCESS, ALL_PROCESSES };

static struct shared {
    atomic_int count;     /* of calls so far */
    atomic_int kill_at;   /* 0: nobody dies */
    atomic_int is_killed; /* somebody was */
    enum how how;
    pid_t group;
} * shared;

/* Before the call, so that what it was to do has not been done; the call before it has. */
static void count_call(void)
{
    if (!shared || atomic_fetch_add(&shared->count, 1) + 1 != shared->kill_at)
        return;
    shared->is_killed = 1;
    syscall(SYS_kill, shared->how == ALL_PROCESSES ? -shared->group : getpid(), SIGKILL);
    for (;;)
        pause();
}

static long passed_on(long r)
{
    return r;
}

#pragma GCC visibility push(default)
#define COUNTED(type, name, parameters, ...)                                                                           \
    type name parameters;                                                                                              \
    type name parameters                                                                                               \
    {                                                                                                                  \
        count_call();                                                                                                  \
        return (type)passed_on(syscall(__VA_ARGS__));                                                                  \
    }

COUNTED(ssize_t, write, (int fd, const void *data, size_t n), SYS_write, fd, data, n)
COUNTED(ssize_t, pwrite, (int fd, const void *data, size_t n, off_t at), SYS_pwrite64, fd, data, n, at)
COUNTED(int, ftruncate, (int fd, off_t size), SYS_ftruncate, fd, size)
COUNTED(int, fsync, (int fd), SYS_fsync, fd)
COUNTED(int, rename, (const char *from, const char *to), SYS_rename, from, to)
COUNTED(int, unlink, (const char *path), SYS_unlink, path)
COUNTED(int, chmod, (const char *path, mode_t mode), SYS_chmod, path, mode)
COUNTED(int, mkdir, (const char *path, mode_t mode), SYS_mkdir, path, mode)

int posix_fallocate(int fd, off_t at, off_t size)
{
    count_call();
    return syscall(SYS_fallocate, fd, 0, at, size) < 0 ? errno : 0;
}
#pragma GCC visibility pop

/* ---- the pod ---------------------------------------------------------------------------------------------------- */

static const char manifest[] =
    "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {name: crash, namespace: ns}\nspec:\n"
    "  domain:\n    memory: {guest: 64Mi}\n    firmware: {uuid: 5d307ca9-b3ef-428c-8861-06e72d69f223}\n"
    "    devices:\n      disks:\n"
    "      - {name: raw, disk: {bus: virtio}}\n      - {name: qcow, disk: {bus: virtio}}\n"
    "      - {name: empty, disk: {bus: virtio}}\n      - {name: host, disk: {bus: virtio}}\n"
    "      - {name: cloud, disk: {bus: virtio}}\n      - {name: conf, disk: {bus: virtio}}\n"
    "      - {name: metrics, disk: {bus: virtio}}\n"
    "  volumes:\n"
    "  - {name: raw, containerDisk: {image: a}}\n  - {name: qcow, containerDisk: {image: b}}\n"
    "  - {name: empty, emptyDisk: {capacity: 1Mi}}\n"
    "  - {name: host, hostDisk: {path: /data/my.img, type: DiskOrCreate, capacity: 1Mi}}\n"
    "  - {name: cloud, cloudInitNoCloud: {userData: '#cloud-config'}}\n"
    "  - {name: conf, configMap: {name: c}}\n"
    "  - {name: metrics, downwardMetrics: {}}\n";

/* in memory: how long a disk takes for each fsync is not the question here */
static struct lab lab = {.directory = "/dev/shm/test-crash-XXXXXX"};
static struct vmi *vmi;

static void start_over(void)
{
    static char content[1 << 16];

    remove_tree(lab.directory);
    assert_int_equal(mkdir(lab.directory, 0755), 0);
    lab_make_pod(&lab);
    assert_int_equal(mkdir_parents(lab_path(&lab, "private/vmi-disks/host"), 0755, NULL), 0);
    lab_put(lab_path(&lab, "private/config-map/conf/key"), "value", 5);
    lab_put(lab_path(&lab, "container-disks/disk_0.img"), content, sizeof(content));
    lab_put(lab_path(&lab, "container-disks/disk_1.img"), content, sizeof(content));
}

static struct storage *plan(void)
{
    const struct storage_options options = {.paths = lab.paths, .owner_uid = (unsigned)-1};
    _cleanup_(faults_done) struct faults faults = {0};
    struct storage *storage = NULL;

    assert_int_equal(storage_plan(vmi, &options, &storage, &faults, NULL), 0);
    return storage;
}

/* In a process (and group) of its own, as a launcher does: 0, or what became of it. */
static int prepare(struct storage *storage)
{
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        setpgid(0, 0);
        shared->group = getpid();
        _exit(storage_prepare(storage, NULL) < 0 ? 1 : 0);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    while (waitpid(-1, NULL, 0) > 0 || errno == EINTR) /* its child dies with it, and is ours to reap then */
        ;
    return status;
}

/* ---- what must be ----------------------------------------------------------------------------------------------- */

#define VOLUMES 7
static char *wanted[VOLUMES];
static size_t wanted_length[VOLUMES];

static void read_volume(const char *path, char **ret, size_t *ret_length)
{
    assert_int_equal(file_read(path, FILE_LIMIT, ret, ret_length, NULL), 0);
}

static void keep_wanted(const struct storage *storage)
{
    size_t n;
    const struct storage_volume *v = storage_get_volumes(storage, &n);

    assert_int_equal(n, VOLUMES);
    for (size_t i = 0; i < n; i++) {
        read_volume(v[i].path, &wanted[i], &wanted_length[i]);
        if (streq(v[i].format, "qcow2")) {
            const char *argv[] = {"qemu-img", "check", "-f", "qcow2", v[i].path, NULL};
            _cleanup_free_ char *out = NULL;
            int code = -1;

            child_run(&(struct child_options){.argv = (char *const *)(uintptr_t)argv}, 60000000, &code, &out, NULL,
                      NULL);
            if (code != 0 || !strstr(out, "No errors"))
                fail_msg("qemu-img check: %s: %s", v[i].path, out);
        }
    }
}

/* Each volume is as it must be; `or_absent`: or is not there. */
static void check_volumes(const struct storage *storage, bool or_absent, int at)
{
    size_t n;
    const struct storage_volume *v = storage_get_volumes(storage, &n);

    for (size_t i = 0; i < n; i++) {
        _cleanup_free_ char *data = NULL;
        size_t length;

        if (or_absent && access(v[i].path, F_OK) < 0)
            continue;
        read_volume(v[i].path, &data, &length);
        if (length != wanted_length[i] || memcmp(data, wanted[i], length) != 0)
            fail_msg("call %d: %s is not what it must be", at, v[i].path);
    }
}

static void check_no_staging(int at)
{
    const char *argv[] = {"find", lab.directory, "-name", "*.staging", NULL};
    _cleanup_free_ char *out = NULL;
    int code;

    assert_int_equal(
        child_run(&(struct child_options){.argv = (char *const *)(uintptr_t)argv}, 60000000, &code, &out, NULL, NULL),
        0);
    if (out && *out)
        fail_msg("call %d: left behind: %s", at, out);
}

static void kill_at_each(enum how how)
{
    struct storage *storage;
    int at = 1, status;

    for (;; at++) {
        start_over();
        storage = plan();
        atomic_store(&shared->count, 0);
        shared->is_killed = 0;
        shared->how = how;
        shared->kill_at = at;
        status = prepare(storage);
        shared->kill_at = 0;
        check_volumes(storage, true, at);
        if (!shared->is_killed) { /* there are no more calls */
            assert_int_equal(status, 0);
            storage_free(storage);
            break;
        }
        assert_int_not_equal(status, 0);
        /* a launcher that lost only its child has cleaned up behind it, and kept nothing but the user's own disk */
        if (WIFEXITED(status))
            check_no_staging(at);
        assert_int_equal(prepare(storage), 0);
        check_volumes(storage, false, at);
        check_no_staging(at);
        storage_free(storage);
    }
    print_message("killed at each of %d calls\n", at - 1);
    assert_true(at > 40);
}

static void test_launcher_dies(void **state)
{
    kill_at_each(ALL_PROCESSES);
}

static void test_one_process_dies(void **state)
{
    kill_at_each(ONE_PROCESS);
}

static int set_up(void **state)
{
    _cleanup_(faults_done) struct faults faults = {0};
    struct storage *storage;

    if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0 ||
        !(mkdtemp(lab.directory) || mkdtemp(strcpy(lab.directory, "/tmp/test-crash-XXXXXX"))) ||
        vmi_load_text(manifest, strlen(manifest), "test", NULL, &vmi, &faults, NULL) < 0)
        return -1;
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return -1;
    start_over();
    storage = plan();
    if (prepare(storage) != 0)
        return -1;
    keep_wanted(storage);
    storage_free(storage);
    return 0;
}

static int tear_down(void **state)
{
    for (size_t i = 0; i < VOLUMES; i++)
        free(wanted[i]);
    vmi_free(vmi);
    remove_tree(lab.directory);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_launcher_dies),
        cmocka_unit_test(test_one_process_dies),
    };

    setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
