/* SPDX-License-Identifier: Apache-2.0 */
/* Container disks as the node agent reaches them: real containers' mount namespaces, a real socket, real mounts. */
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/child.h"
#include "storage-lab.h"

#define SKIP 77
#define MIB  (1024U * 1024)

static struct lab lab = {.directory = "/tmp/test-node-XXXXXX"};

static void put_image(const char *path, unsigned seed)
{
    static unsigned char data[MIB];

    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (unsigned char)(i * 7 + i / 251 + seed);
    lab_put(path, data, sizeof(data));
}

/* ---- a container ------------------------------------------------------------------------------------------------- */

struct container {
    pid_t pid;
    int ready;
};

/* A process that listens on the socket, in a mount namespace whose root is a tmpfs that `fill` fills. */
static struct container start(const char *socket_path, void (*fill)(void))
{
    struct container c;
    int fds[2], listener;
    char byte;

    assert_int_equal(unix_listen(socket_path, 0660, 64, &listener, NULL), 0);
    close(listener);
    unlink(socket_path);
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    c.pid = fork();
    assert_true(c.pid >= 0);
    if (c.pid == 0) {
        const char *root = lab_path(&lab, "root");

        if (unix_listen(socket_path, 0660, 64, &listener, NULL) < 0 || (mkdir(root, 0755) < 0 && errno != EEXIST) ||
            unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
            mount("tmpfs", root, "tmpfs", 0, NULL) < 0 || chdir(root) < 0 || mkdir("disk", 0755) < 0 ||
            mkdir("old", 0755) < 0 || syscall(SYS_pivot_root, ".", "old") < 0 || chdir("/") < 0)
            _exit(2);
        fill();
        if (umount2("/old", MNT_DETACH) < 0 || write(fds[1], "", 1) != 1)
            _exit(2);
        for (;;)
            pause();
    }
    close(fds[1]);
    assert_int_equal(read(fds[0], &byte, 1), 1);
    c.ready = fds[0];
    return c;
}

static void stop(struct container *c)
{
    kill(c->pid, SIGKILL);
    waitpid(c->pid, NULL, 0);
    close(c->ready);
}

static void fill_one(void)
{
    put_image("/disk/disk.img", 1);
}

static void fill_two(void)
{
    put_image("/disk/one.img", 1);
    put_image("/disk/two.img", 2);
    if (symlink("/disk/two.img", "/link") < 0 || symlink("../../../../../../etc", "/etc-link") < 0 ||
        mkdir("/etc", 0755) < 0 || symlink("/proc/1/root/etc/passwd", "/magic") < 0)
        _exit(2);
    put_image("/etc/passwd", 3);
}

static void fill_none(void)
{
}

static void fill_special(void)
{
    if (mkfifo("/disk/fifo", 0644) < 0)
        _exit(2);
}

/* ---- tests --------------------------------------------------------------------------------------------------------
 */

static void same_content(const char *path, unsigned seed)
{
    _cleanup_free_ char *data = NULL;
    size_t length;

    assert_int_equal(file_read(path, 2 * MIB, &data, &length, NULL), 0);
    assert_int_equal(length, MIB);
    for (size_t i = 0; i < length; i += 977)
        assert_int_equal((unsigned char)data[i], (unsigned char)(i * 7 + i / 251 + seed));
}

/* container_disk_mount() on `name` of our directory, by the container of that socket. */
static int show(const char *socket, const char *path, const char *name, struct error **ret_error)
{
    return container_disk_mount(lab_path(&lab, "%s", socket), NULL, path, lab.directory, name, ret_error);
}

static void test_single_file(void **state)
{
    struct container c = start(lab_path(&lab, "disk_0.sock"), fill_one);
    _cleanup_error_ struct error *e = NULL;
    struct statvfs fs;

    for (int again = 0; again < 2; again++) /* the second call changes nothing */
        assert_int_equal(show("disk_0.sock", NULL, "disk_0.img", &e), 0);
    same_content(lab_path(&lab, "disk_0.img"), 1);
    assert_int_equal(statvfs(lab_path(&lab, "disk_0.img"), &fs), 0);
    assert_int_equal(fs.f_flag & (ST_RDONLY | ST_NOSUID | ST_NODEV | ST_NOEXEC),
                     ST_RDONLY | ST_NOSUID | ST_NODEV | ST_NOEXEC);
    assert_int_equal(open(lab_path(&lab, "disk_0.img"), O_WRONLY | O_CLOEXEC), -1);
    assert_int_equal(errno, EROFS);
    stop(&c);
    same_content(lab_path(&lab, "disk_0.img"), 1); /* the mount holds the file when its container is gone */
    assert_int_equal(show("disk_0.sock", NULL, "disk_0.img", &e), 0);
    container_disks_unmount(lab.directory);
    assert_int_equal(truncate(lab_path(&lab, "disk_0.img"), 0), 0);
    container_disks_unmount(lab.directory);
    /* nobody is there any more */
    assert_int_equal(show("disk_0.sock", NULL, "disk_0.img", &e), -EAGAIN);
    assert_int_equal(unlink(lab_path(&lab, "disk_0.img")), 0);
}

static void test_named_file(void **state)
{
    static const struct {
        const char *path;
        unsigned seed;
    } rows[] = {
        {"/disk/two.img", 2},     {"/disk/one.img", 1}, {"/link", 2},
        {"/etc-link/passwd", 3}, /* of the container, not ours */
        {"/../../etc/passwd", 3},
    };
    struct container c = start(lab_path(&lab, "disk_1.sock"), fill_two);
    _cleanup_error_ struct error *e = NULL;

    assert_int_equal(mkdir(lab_path(&lab, "kernel-boot"), 0755), 0);
    for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
        assert_int_equal(show("disk_1.sock", rows[i].path, "disk_1.img", &e), 0);
        same_content(lab_path(&lab, "disk_1.img"), rows[i].seed);
        assert_int_equal(container_disk_mount(lab_path(&lab, "disk_1.sock"), NULL, rows[i].path,
                                              lab_path(&lab, "kernel-boot"), "vmlinuz", &e),
                         0);
        same_content(lab_path(&lab, "kernel-boot/vmlinuz"), rows[i].seed);
        container_disks_unmount(lab.directory);
    }
    stop(&c);
}

/* The pod's own folder is not trusted either: what stands where the image is to be shown. */
static void test_hostile_target(void **state)
{
    static const char *const names[] = {"link.img", "fifo.img", "folder.img", ".."};
    struct container c = start(lab_path(&lab, "disk_3.sock"), fill_one);

    lab_put(lab_path(&lab, "victim"), "victim", 6);
    assert_int_equal(symlink("victim", lab_path(&lab, "link.img")), 0);
    assert_int_equal(mkfifo(lab_path(&lab, "fifo.img"), 0644), 0);
    assert_int_equal(mkdir(lab_path(&lab, "folder.img"), 0755), 0);
    assert_int_equal(symlink("/etc", lab_path(&lab, "kernel-link")), 0);
    for (size_t i = 0; i < ELEMENTSOF(names); i++) {
        _cleanup_error_ struct error *e = NULL;

        assert_true(show("disk_3.sock", NULL, names[i], &e) < 0);
        if (!strstr(error_message(e), "no regular file"))
            fail_msg("%s: %s", names[i], error_message(e));
    }
    assert_true(container_disk_mount(lab_path(&lab, "disk_3.sock"), NULL, NULL, lab_path(&lab, "kernel-link"), "passwd",
                                     NULL) < 0);
    stop(&c);
}

/* A socket of the pod's folder may be another pod's, or any process's. */
static void test_peer(void **state)
{
    struct container c = start(lab_path(&lab, "disk_4.sock"), fill_one);
    _cleanup_error_ struct error *e = NULL;
    pid_t pid = 0;

    assert_int_equal(container_peer(lab_path(&lab, "disk_4.sock"), NULL, &pid, &e), 0);
    assert_int_equal(pid, c.pid);
    assert_int_equal(container_peer(lab_path(&lab, "none.sock"), NULL, &pid, NULL), -EAGAIN);
    assert_int_equal(container_peer(lab_path(&lab, "no-folder/none.sock"), NULL, &pid, NULL), -EAGAIN);
    assert_int_equal(container_peer(lab_path(&lab, "disk_4.sock"), "1b4e28ba-2fa1-11d2-883f-0016d3cca427", &pid, &e),
                     -EPERM);
    assert_non_null(strstr(error_message(e), "none of pod 1b4e28ba"));
    assert_true(container_disk_mount(lab_path(&lab, "disk_4.sock"), "1b4e28ba-2fa1-11d2-883f-0016d3cca427", NULL,
                                     lab.directory, "disk_4.img", NULL) < 0);
    assert_int_equal(access(lab_path(&lab, "disk_4.img"), F_OK), -1);
    stop(&c);
}

static void test_short_socket(void **state)
{
    char long_dir[400], path[500], name[SHORT_SOCKET_SIZE];
    _cleanup_close_ int fd = -EBADF, listener = -EBADF;
    pid_t pid = 0;

    snprintf(long_dir, sizeof(long_dir), "%s/%s", lab.directory,
             "a-folder-with-a-very-long-name-as-kubelet-has-them-for-its-volumes-and-more-of-it-still-to-come-here");
    assert_int_equal(mkdir(long_dir, 0700), 0);
    snprintf(path, sizeof(path), "%s/launcher-sock", long_dir);
    assert_int_equal(socket_shorten(path, &fd, name), 0);
    assert_int_equal(unix_listen(name, 0600, 1, &listener, NULL), 0);
    assert_int_equal(container_peer(path, NULL, &pid, NULL), 0);
    assert_int_equal(pid, getpid());
}

static void refuse(void (*fill)(void), const char *path, const char *why)
{
    struct container c = start(lab_path(&lab, "disk_2.sock"), fill);
    _cleanup_error_ struct error *e = NULL;

    assert_true(show("disk_2.sock", path, "disk_2.img", &e) < 0);
    if (!strstr(error_message(e), why))
        fail_msg("%s", error_message(e));
    assert_int_equal(access(lab_path(&lab, "disk_2.img"), F_OK), -1);
    stop(&c);
}

static void test_refused(void **state)
{
    refuse(fill_two, NULL, "holds 2 files");
    refuse(fill_none, NULL, "holds 0 files");
    refuse(fill_special, NULL, "no regular file");
    refuse(fill_one, "/no/such/file", "No such file");
    refuse(fill_one, "/disk", "no regular file");
    refuse(fill_two, "/magic", "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_single_file),    cmocka_unit_test(test_named_file), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_hostile_target), cmocka_unit_test(test_peer),       cmocka_unit_test(test_short_socket),
    };
    int failed;

    /* the mounts of this test are its own */
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        printf("no mount namespace of our own here: %s\n", strerror(errno));
        return SKIP;
    }
    if (!mkdtemp(lab.directory))
        return 1;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove_tree(lab.directory);
    return failed;
}
