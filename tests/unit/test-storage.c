/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/child.h"
#include "base/event.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/strbuf.h"
#include "storage-pod.h"

/* ---- planning -------------------------------------------------------------------------------------------------- */

static void test_plan_paths(void **state)
{
    static const char *const disks[] = {"pvc", "dv", "hp",  "host", "cd", "eph", "empty",
                                        "nc",  "cm", "sec", "sp",   "sa", NULL};
    static const char volumes[] =
        "  - {name: pvc, persistentVolumeClaim: {claimName: c1, readOnly: true}}\n"
        "  - {name: dv, dataVolume: {name: d1}}\n"
        "  - {name: hp, persistentVolumeClaim: {claimName: c2, hotpluggable: true}}\n"
        "  - {name: host, hostDisk: {path: /data/my.img, type: DiskOrCreate, capacity: 10Mi}}\n"
        "  - {name: cd, containerDisk: {image: quay.io/x}}\n"
        "  - {name: eph, ephemeral: {persistentVolumeClaim: {claimName: c3}}}\n"
        "  - {name: empty, emptyDisk: {capacity: 10485761}}\n"
        "  - {name: nc, cloudInitNoCloud: {userData: hello}}\n"
        "  - {name: cm, configMap: {name: cmap, volumeLabel: mylabel}}\n"
        "  - {name: sec, secret: {secretName: s}}\n"
        "  - {name: sp, sysprep: {configMap: {name: s}}}\n"
        "  - {name: sa, serviceAccount: {serviceAccountName: s}}\n";
    static const struct {
        const char *name;
        enum storage_action action;
        const char *path, *backing;
    } rows[] = {
        {"pvc", STORAGE_USE, "/var/run/kubevirt-private/vmi-disks/pvc/disk.img", NULL},
        {"dv", STORAGE_USE, "/var/run/kubevirt-private/vmi-disks/dv/disk.img", NULL},
        {"hp", STORAGE_USE, "/var/run/kubevirt/hotplug-disks/hp.img", NULL},
        {"host", STORAGE_SPARSE, "/var/run/kubevirt-private/vmi-disks/host/my.img", NULL},
        {"cd", STORAGE_OVERLAY, "/var/run/kubevirt-ephemeral-disks/disk-data/cd/disk.qcow2",
         "/var/run/kubevirt/container-disks/disk_4.img"},
        {"eph", STORAGE_OVERLAY, "/var/run/kubevirt-ephemeral-disks/disk-data/eph/disk.qcow2",
         "/var/run/kubevirt-private/vmi-disks/eph/disk.img"},
        {"empty", STORAGE_EMPTY, "/var/run/libvirt/empty-disks/empty.qcow2", NULL},
        {"nc", STORAGE_ISO, "/var/run/kubevirt-ephemeral-disks/cloud-init-data/ns1/testvm.with.dots/noCloud.iso", NULL},
        {"cm", STORAGE_ISO, "/var/run/kubevirt-private/config-map-disks/cm.iso", NULL},
        {"sec", STORAGE_ISO, "/var/run/kubevirt-private/secret-disks/sec.iso", NULL},
        {"sp", STORAGE_ISO, "/var/run/kubevirt-private/sysprep-disks/sp.iso", NULL},
        {"sa", STORAGE_ISO, "/var/run/kubevirt-private/service-account-disk/service-account.iso", NULL},
    };
    _cleanup_(pod_done) struct pod pod = {0};
    size_t count;

    pod_init(&pod);
    pod.lab.paths = storage_pod_paths;
    pod_load(&pod, "", disks, volumes);
    assert_int_equal(pod_plan(&pod, false, NULL, 0), 0);
    storage_get_volumes(pod.storage, &count);
    assert_int_equal(count, ELEMENTSOF(rows));
    for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
        const struct storage_volume *v = pod_volume(&pod, rows[i].name);

        assert_int_equal(v->action, rows[i].action);
        assert_string_equal(v->path, rows[i].path);
        assert_true(streq_ptr(v->backing_path, rows[i].backing));
    }
    assert_string_equal(pod_volume(&pod, "pvc")->format, "raw");
    assert_true(pod_volume(&pod, "pvc")->read_only);
    assert_int_equal(pod_volume(&pod, "empty")->size, 10485760); /* down to 1 MiB */
}

/* Outside a pod each volume that cannot be had is named with its flag, all in one run. */
static void test_plan_faults(void **state)
{
    static const char *const disks[] = {"pvc", "cd", "cm", "nc", "bad", NULL};
    static const char *const says[] = {
        "persistentVolumeClaim c1 is not here: give it by --disk pvc=IMAGE",
        "containerDisk quay.io/x is not here: give it by --disk cd=IMAGE",
        "configMap cmap is not here: give it by --disk cm=DIRECTORY",
        "--disk nosuch=/dev/null: the manifest has no volume of that name",
        "--disk bad=/nonexistent: No such file",
        "test.yaml:",
    };
    static const struct storage_override overrides[] = {{"nosuch", "/dev/null"}, {"bad", "/nonexistent"}};
    _cleanup_(pod_done) struct pod pod = {0};
    _cleanup_free_ char *text = NULL;

    pod_init(&pod);
    pod_load(&pod, "", disks,
             "  - {name: pvc, persistentVolumeClaim: {claimName: c1}}\n"
             "  - {name: cd, containerDisk: {image: quay.io/x}}\n"
             "  - {name: cm, configMap: {name: cmap}}\n"
             "  - {name: bad, emptyDisk: {capacity: 1Gi}}\n"
             "  - {name: nc, cloudInitNoCloud: {userDataBase64: aGVsbG8=}}\n");
    assert_int_equal(pod_plan(&pod, true, overrides, ELEMENTSOF(overrides)), -EINVAL);
    assert_int_equal(error_exit_code(pod.error), EXIT_BAD_INPUT);
    text = faults_format(&pod.faults);
    for (size_t i = 0; i < ELEMENTSOF(says); i++)
        if (!strstr(text, says[i]))
            fail_msg("\"%s\" is not in\n%s", says[i], text);
    check_nothing_left(&pod, "-");
}

/* ---- making ---------------------------------------------------------------------------------------------------- */

static void test_images(void **state)
{
    static const char *const disks[] = {"cdraw", "cdq", "eph", "empty", "pvc", "host", NULL};
    _cleanup_(pod_done) struct pod pod = {0};
    const struct storage_volume *v;
    uint64_t begin;

    if (!has_program("qemu-img"))
        skip();
    pod_init(&pod);
    pod_load(&pod, "", disks,
             "  - {name: cdraw, containerDisk: {image: a}}\n"
             "  - {name: cdq, containerDisk: {image: b}}\n"
             "  - {name: eph, ephemeral: {persistentVolumeClaim: {claimName: c}}}\n"
             "  - {name: empty, emptyDisk: {capacity: 20Mi}}\n"
             "  - {name: pvc, persistentVolumeClaim: {claimName: d}}\n"
             "  - {name: host, hostDisk: {path: /data/my.img, type: DiskOrCreate, capacity: 10Mi}}\n");
    put_sparse(in(&pod, "container-disks/disk_0.img"), (8 << 20) + 100);
    free(run("qemu-img", "create", "-q", "-f", "qcow2", in(&pod, "container-disks/disk_1.img"), "64M"));
    put_sparse(in(&pod, "private/vmi-disks/eph/disk.img"), 16 << 20);
    put_sparse(in(&pod, "private/vmi-disks/pvc/disk.img"), 32 << 20);
    assert_int_equal(mkdir_parents(in(&pod, "private/vmi-disks/host"), 0755, NULL), 0);
    assert_int_equal(pod_plan(&pod, false, NULL, 0), 0);
    begin = now_usec();
    pod_prepare(&pod);
    print_message("6 volumes in %.1f ms\n", (double)(now_usec() - begin) / 1000);

    v = pod_volume(&pod, "cdraw");
    assert_string_equal(v->format, "qcow2");
    assert_string_equal(v->backing_format, "raw");
    check_run("\"virtual-size\": 8389120", run("qemu-img", "info", "--output=json", v->path)); /* up to 512 */
    check_run("\"backing-filename-format\": \"raw\"", run("qemu-img", "info", "--output=json", v->path));
    v = pod_volume(&pod, "cdq");
    assert_string_equal(v->backing_format, "qcow2");
    assert_int_equal(v->size, 64 << 20);
    v = pod_volume(&pod, "eph");
    assert_string_equal(v->backing_format, "raw");
    v = pod_volume(&pod, "empty");
    check_run("\"virtual-size\": 20971520", run("qemu-img", "info", "--output=json", v->path));
    static const char *const made[] = {"cdraw", "cdq", "eph", "empty"};
    for (size_t i = 0; i < ELEMENTSOF(made); i++)
        check_run("No errors", run("qemu-img", "check", pod_volume(&pod, made[i])->path));
    v = pod_volume(&pod, "pvc");
    assert_string_equal(v->format, "raw");
    assert_int_equal(v->size, 32 << 20);
    assert_false(v->preallocated);
    assert_false(v->is_block_device);
    assert_true(v->logical_block >= 512);
    v = pod_volume(&pod, "host");
    assert_int_equal(v->size, 10 << 20);

    /* the second time the host disk is there, and the overlays are new */
    put(pod_volume(&pod, "cdq")->path, "what the last boot left");
    pod_prepare(&pod);
    check_run("No errors", run("qemu-img", "check", pod_volume(&pod, "cdq")->path));
    storage_remove(pod.storage);
    assert_int_equal(access(pod_volume(&pod, "cdq")->path, F_OK), -1);
    assert_int_equal(access(pod_volume(&pod, "host")->path, F_OK), 0); /* the user's from now on */
    assert_int_equal(access(pod_volume(&pod, "pvc")->path, F_OK), 0);
}

/* What we write ourselves of the format, under QEMU's own eyes. */
static void test_qcow2_writer(void **state)
{
    static const uint64_t sizes[] = {
        1, 512, (1ULL << 20) + 1, 1ULL << 29, (1ULL << 29) + 512, 1ULL << 40, (1ULL << 42) + 512, LIMIT_DISK_BYTES};
    char name[200], expected[64];
    _cleanup_(pod_done) struct pod pod = {0};
    _cleanup_error_ struct error *error = NULL;
    _cleanup_free_ char *deep = NULL;
    const char *path;

    if (!has_program("qemu-img"))
        skip();
    pod_init(&pod);
    path = in(&pod, "x.qcow2");
    for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
        assert_int_equal(create_qcow2(path, sizes[i], NULL, NULL, (unsigned)-1, NULL), 0);
        check_run("No errors", run("qemu-img", "check", path));
        snprintf(expected, sizeof(expected), "\"virtual-size\": %llu,",
                 (unsigned long long)((sizes[i] + 511) / 512 * 512));
        check_run(expected, run("qemu-img", "info", "--output=json", path));
    }
    /* an overlay reads as what is below it, takes writes, and leaves that alone */
    memset(name, 'n', sizeof(name));
    name[sizeof(name) - 1] = '\0';
    deep = strdup(in(&pod, "%s", name));
    put(deep, "content of the image below");
    assert_int_equal(truncate(deep, 3 << 20), 0);
    assert_int_equal(create_qcow2(path, 3 << 20, deep, "raw", (unsigned)-1, NULL), 0);
    check_run("No errors", run("qemu-img", "check", path));
    check_run("\"backing-filename-format\": \"raw\"", run("qemu-img", "info", "--output=json", path));
    check_run("Images are identical", run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", path, deep));
    free(run("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", path));
    check_run("No errors", run("qemu-img", "check", path));
    free(run("qemu-io", "-f", "qcow2", "-c", "read -P 7 1M 64k", "-c", "read -P 0 2M 64k", path));
    free(run("qemu-io", "-f", "raw", "-r", "-c", "read -P 0 1M 64k", deep));
    free(deep);
    deep = calloc(1, 2000);
    memset(deep, '/', 1999);
    assert_int_equal(create_qcow2(path, 512, deep, "raw", (unsigned)-1, &error), -ENAMETOOLONG);
}

static uint64_t cpu_usec(void)
{
    uint64_t sum = 0;

    for (int i = 0; i < 2; i++) {
        struct rusage u;

        getrusage(i ? RUSAGE_CHILDREN : RUSAGE_SELF, &u);
        sum += (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000U +
               (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
    }
    return sum;
}

/* Eight disks may not make a start 20 ms longer than one. In CPU time, which a busy machine does not stretch. */
static void test_many_volumes(void **state)
{
    static const char *const disks[] = {"a", "b", "c", "d", "e", "f", "g", "h", NULL};
    uint64_t best[2] = {UINT64_MAX, UINT64_MAX};

    for (int many = 0; many < 2; many++) {
        const char *const one[] = {"a", NULL};
        _cleanup_(pod_done) struct pod pod = {0};
        _cleanup_(strbuf_done) struct strbuf volumes = {0};

        pod_init(&pod);
        for (size_t i = 0; i < (many ? 8 : 1); i++) {
            strbuf_printf(&volumes, "  - {name: %s, containerDisk: {image: x}}\n", disks[i]);
            put_sparse(in(&pod, "container-disks/disk_%zu.img", i), 1 << 30);
        }
        pod_load(&pod, "", many ? disks : one, strbuf_text(&volumes));
        assert_int_equal(pod_plan(&pod, false, NULL, 0), 0);
        for (int i = 0; i < 5; i++) {
            uint64_t begin = cpu_usec();

            pod_prepare(&pod);
            best[many] = MIN(best[many], cpu_usec() - begin);
        }
    }
    print_message("1 volume: %.2f ms of CPU, 8 volumes: %.2f ms\n", (double)best[0] / 1000, (double)best[1] / 1000);
    assert_true(best[1] < best[0] + 20000);
}

static const char *label_of(const char *iso)
{
    static char label[64];
    _cleanup_free_ char *out = run("blkid", "-p", "-o", "value", "-s", "LABEL", iso);

    snprintf(label, sizeof(label), "%.*s", (int)strcspn(out, "\n"), out);
    return label;
}

static void test_cloud_init(void **state)
{
    static const char *const disks[] = {"nc", "cdrive", NULL};
    _cleanup_(pod_done) struct pod pod = {0};
    const char *path;

    if (!has_program("bsdtar") || !has_program("blkid"))
        skip();
    pod_init(&pod);
    pod_load(&pod,
             "  accessCredentials:\n"
             "  - sshPublicKey: {source: {secret: {secretName: keys}}, propagationMethod: {noCloud: {}}}\n"
             "  - sshPublicKey: {source: {secret: {secretName: keys}}, propagationMethod: {configDrive: {}}}\n",
             disks,
             "  - {name: nc, cloudInitNoCloud: {userDataBase64: IyEvYmluL3NoCg==, networkData: 'version: 2'}}\n"
             "  - {name: cdrive, cloudInitConfigDrive: {secretRef: {name: s}, networkDataSecretRef: {name: s}}}\n");
    put(in(&pod, "private/secret/keys-access-cred/key1"), "ssh-ed25519 AAAA me\n");
    put(in(&pod, "private/secret/cdrive/..2024/userData"), "#cloud-config\n");
    put(in(&pod, "private/secret/cdrive/..2024/networkdata"), "{\"links\":[]}");
    assert_int_equal(symlink("..2024", in(&pod, "private/secret/cdrive/..data")), 0);
    assert_int_equal(symlink("..data/userData", in(&pod, "private/secret/cdrive/userData")), 0);
    assert_int_equal(symlink("..data/networkdata", in(&pod, "private/secret/cdrive/networkdata")), 0);
    assert_int_equal(pod_plan(&pod, false, NULL, 0), 0);
    pod_prepare(&pod);

    path = pod_volume(&pod, "nc")->path;
    assert_true(pod_volume(&pod, "nc")->read_only);
    assert_string_equal(label_of(path), "cidata");
    check_file(path, "user-data", "#!/bin/sh\n");
    check_file(path, "network-config", "version: 2");
    check_file(path, "meta-data",
               "{\"instance-id\":\"5d307ca9-b3ef-428c-8861-06e72d69f223\",\"local-hostname\":\"testvm\","
               "\"public-keys\":{\"0\":\"ssh-ed25519 AAAA me\"}}");
    path = pod_volume(&pod, "cdrive")->path;
    assert_string_equal(label_of(path), "config-2");
    check_file(path, "openstack/latest/user_data", "#cloud-config\n");
    check_file(path, "openstack/latest/network_data.json", "{\"links\":[]}");
    check_file(path, "openstack/latest/meta_data.json",
               "{\"instance_id\":\"testvm.with.dots.ns1\",\"hostname\":\"testvm\","
               "\"uuid\":\"5d307ca9-b3ef-428c-8861-06e72d69f223\",\"public_keys\":{\"0\":\"ssh-ed25519 AAAA me\"}}");
    if (has_program("isoinfo")) { /* Joliet's and Rock Ridge's names; the primary label as it is */
        check_run("/meta-data", run("isoinfo", "-J", "-f", "-i", pod_volume(&pod, "nc")->path));
        check_run("/meta-data", run("isoinfo", "-R", "-f", "-i", pod_volume(&pod, "nc")->path));
        check_run("Volume id: config-2", run("isoinfo", "-d", "-i", path));
    }
}

static void test_trees(void **state)
{
    static const char *const disks[] = {"cm", "sec", "sp", "gone", NULL};
    _cleanup_(pod_done) struct pod pod = {0};
    const char *path;

    if (!has_program("bsdtar") || !has_program("blkid"))
        skip();
    pod_init(&pod);
    pod_load(&pod, "", disks,
             "  - {name: cm, configMap: {name: c, volumeLabel: My-Label}}\n"
             "  - {name: sec, secret: {secretName: s}}\n"
             "  - {name: sp, sysprep: {secret: {name: s}}}\n"
             "  - {name: gone, configMap: {name: c2, optional: true}}\n");
    put(in(&pod, "private/config-map/cm/app.conf"), "a = 1\n");
    put(in(&pod, "private/config-map/cm/sub/dir/Deep.File-Name with spaces"), "deep");
    put(in(&pod, "private/secret/sec/token"), "hunter2");
    put(in(&pod, "private/sysprep/sp/autounattend.xml"), "<unattend/>");
    assert_int_equal(pod_plan(&pod, false, NULL, 0), 0);
    pod_prepare(&pod);
    path = pod_volume(&pod, "cm")->path;
    assert_string_equal(label_of(path), "My-Label");
    check_file(path, "app.conf", "a = 1\n");
    check_file(path, "sub/dir/Deep.File-Name with spaces", "deep");
    path = pod_volume(&pod, "sec")->path;
    assert_string_equal(label_of(path), "cfgdata");
    check_file(path, "token", "hunter2");
    assert_string_equal(label_of(pod_volume(&pod, "sp")->path), "unattendCD");
    assert_string_equal(label_of(pod_volume(&pod, "gone")->path), "cfgdata"); /* empty, but there */
}

/* The sources of a pod's ISO images, made in one order or the other, and of a time of their own. */
static void fill_sources(const struct pod *pod, bool backwards, time_t time)
{
    static const char *const sources[] = {"config-map/cm", "config-map/cm/sub", "config-map/cm/sub/deeper",
                                          "secret/sec", "sysprep/sp"};
    const struct timespec times[2] = {{.tv_sec = time}, {.tv_sec = time}};

    for (size_t i = 0; i < ELEMENTSOF(sources) * 40; i++) {
        size_t n = backwards ? ELEMENTSOF(sources) * 40 - 1 - i : i;
        const char *path =
            in(pod, "private/%s/%s-%zu.Conf", sources[n / 40], n % 3 ? "key" : "Key", n % 40 * 7919 % 101);

        put(path, n % 5 ? path + strlen(pod->lab.directory) : "");
        assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    }
}

/* What stands behind the last byte that is not zero, in sectors of a CD. */
static void check_padding(const char *iso)
{
    _cleanup_free_ char *data = NULL;
    size_t length, used;

    assert_int_equal(file_read(iso, 64 << 20, &data, &length, NULL), 0);
    for (used = length; used > 0 && data[used - 1] == 0; used--)
        ;
    assert_int_equal(length % 2048, 0);
    assert_true(length - used >= 150UL * 2048); /* what readers of a disc read ahead */
}

/* The same input makes the same bytes: whatever the time, its zone, the umask, the language, and the order and the
 * times of the files. */
static void test_iso_reproducible(void **state)
{
    static const char *const disks[] = {"nc", "cdrive", "cm", "sec", "sp", NULL},
                             *const zones[] = {"UTC", "Asia/Kolkata"}, *const languages[] = {"C", "C.UTF-8"};
    struct pod pods[2] = {0};
    mode_t mask = umask(022);
    time_t first = 0;

    for (size_t i = 0; i < 2; i++) {
        while (time(NULL) < first + 2) /* the event waited for is the next second but one of the clock */
            sched_yield();
        pod_init(&pods[i]);
        pod_load(&pods[i], "", disks,
                 "  - {name: nc, cloudInitNoCloud: {userData: '#cloud-config', networkData: 'version: 2'}}\n"
                 "  - {name: cdrive, cloudInitConfigDrive: {userData: '#cloud-config'}}\n"
                 "  - {name: cm, configMap: {name: c, volumeLabel: My-Label}}\n"
                 "  - {name: sec, secret: {secretName: s}}\n  - {name: sp, sysprep: {secret: {name: s}}}\n");
        fill_sources(&pods[i], i == 1, (time_t)(i + 1) * 1000000000);
        setenv("TZ", zones[i], 1);
        setenv("LC_ALL", languages[i], 1);
        umask(i == 0 ? 0 : 077);
        assert_int_equal(pod_plan(&pods[i], false, NULL, 0), 0);
        pod_prepare(&pods[i]);
        umask(022);
        first = time(NULL);
    }
    for (size_t i = 0; disks[i]; i++) {
        free(run("cmp", pod_volume(&pods[0], disks[i])->path, pod_volume(&pods[1], disks[i])->path));
        check_padding(pod_volume(&pods[0], disks[i])->path);
    }
    umask(mask);
    unsetenv("LC_ALL");
    pod_done(&pods[0]);
    pod_done(&pods[1]);
}

/* Names as people write them, in a volume's files; what is no text is refused by its name. */
static void test_iso_unicode(void **state)
{
    static const char *const disks[] = {"cm", NULL};
    _cleanup_(pod_done) struct pod pod = {0};

    if (!has_program("bsdtar"))
        skip();
    pod_init(&pod);
    pod_load(&pod, "", disks, "  - {name: cm, configMap: {name: c}}\n");
    put(in(&pod, "private/config-map/cm/\xd0\xb4\xd0\xb8\xd1\x81\xd0\xba/na\xc3\xafve \xe6\x96\x87.txt"), "deep");
    assert_int_equal(pod_plan(&pod, false, NULL, 0), 0);
    pod_prepare(&pod);
    setenv("LC_ALL", "C.UTF-8", 1); /* bsdtar's */
    check_file(pod_volume(&pod, "cm")->path, "\xd0\xb4\xd0\xb8\xd1\x81\xd0\xba/na\xc3\xafve \xe6\x96\x87.txt", "deep");
    unsetenv("LC_ALL");
    put(in(&pod, "private/config-map/cm/bad\xff"), "");
    assert_true(storage_prepare(pod.storage, &pod.error) < 0);
    assert_non_null(strstr(error_message(pod.error), "is not UTF-8: bad\xff"));
}

/* Many starts make the disk of one claim at the same time: one of them does, and nobody's is replaced. */
static void test_sparse_race(void **state)
{
    enum { MAKERS = 8, ROUNDS = 40 };
    _cleanup_(pod_done) struct pod pod = {0};

    pod_init(&pod);
    for (int round = 0; round < ROUNDS; round++) {
        const char *path = in(&pod, "private/disk-%d.img", round);
        _cleanup_free_ char *data = NULL;
        int fds[2], made = 0, status;
        pid_t pids[MAKERS];
        size_t length;
        char who;

        assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
        for (int i = 0; i < MAKERS; i++) {
            pids[i] = fork();
            assert_true(pids[i] >= 0);
            if (pids[i] == 0) {
                bool created = false;
                uint64_t size;
                int fd, r;

                close(fds[1]);
                if (read(fds[0], &who, 1) != 0) /* all begin when the pipe's other end goes */
                    _exit(3);
                r = create_sparse(path, 1 << 20, (unsigned)-1, &size, &created, NULL);
                if (r < 0 || !created)
                    _exit(r < 0 && r != -EBUSY ? 3 : 0);
                fd = open(path, O_WRONLY | O_CLOEXEC);
                _exit(fd >= 0 && pwrite(fd, "a guest's", 9, 0) == 9 ? 1 : 3);
            }
        }
        close(fds[0]);
        close(fds[1]);
        for (int i = 0; i < MAKERS; i++) {
            assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
            assert_true(WIFEXITED(status) && WEXITSTATUS(status) <= 1);
            made += WEXITSTATUS(status);
        }
        assert_int_equal(made, 1);
        assert_int_equal(file_read(path, 2 << 20, &data, &length, NULL), 0);
        assert_int_equal(length, 1 << 20);
        assert_memory_equal(data, "a guest's", 9);
    }
    free(run("test", "!", "-e", in(&pod, "private/disk-0.img.staging")));
}

static void test_metrics_disk(void **state)
{
    _cleanup_(pod_done) struct pod pod = {0};
    _cleanup_free_ char *data = NULL;
    size_t length;

    pod_init(&pod);
    assert_int_equal(create_metrics(in(&pod, "m"), (unsigned)-1, NULL), 0);
    assert_int_equal(file_read(in(&pod, "m"), 1 << 20, &data, &length, NULL), 0);
    assert_int_equal(length, 262144);
    assert_memory_equal(data, "mvbd\0\0\0\0", 8);
    assert_memory_equal(data + 16, "<metrics>", 9);
}

/* ---- faults of the host ---------------------------------------------------------------------------------------- */

static void test_full_file_system(void **state)
{
    static const char *const disks[] = {"a", "b", "c", NULL};
    static const char *const rooms[] = {"size=4k", "size=64k", "size=200k"};
    _cleanup_(pod_done) struct pod pod = {0};

    if (!has_program("qemu-img"))
        skip();
    pod_init(&pod);
    pod_load(&pod, "", disks,
             "  - {name: a, emptyDisk: {capacity: 20Mi}}\n"
             "  - {name: b, cloudInitNoCloud: {userData: x}}\n"
             "  - {name: c, hostDisk: {path: /x/disk.img, type: DiskOrCreate, capacity: 20Mi}}\n");
    assert_int_equal(pod_plan(&pod, false, NULL, 0), 0);
    for (size_t i = 0; i < ELEMENTSOF(rooms); i++) {
        _cleanup_free_ char *left = NULL;
        _cleanup_error_ struct error *error = NULL;
        int r;

        if (mount("tmpfs", pod.lab.directory, "tmpfs", 0, rooms[i]) < 0)
            skip(); /* not root */
        assert_int_equal(mkdir_parents(in(&pod, "private/vmi-disks/c"), 0755, NULL), 0);
        r = storage_prepare(pod.storage, &error);
        left = run("find", pod.lab.directory, "-type", "f");
        umount2(pod.lab.directory, MNT_DETACH);
        assert_true(r < 0);
        assert_string_equal(left, "");
        print_message("%s: %s\n", rooms[i], error_message(error));
    }
}

static void test_no_qemu_img(void **state)
{
    static const char *const disks[] = {"a", "b", NULL};
    _cleanup_(pod_done) struct pod pod = {0};
    struct storage_options options;

    if (!has_program("qemu-img"))
        skip(); /* to make the image with */
    pod_init(&pod);
    pod_load(&pod, "", disks,
             "  - {name: a, containerDisk: {image: x}}\n  - {name: b, cloudInitNoCloud: {userData: x}}\n");
    make_odd_qcow2(in(&pod, "container-disks/disk_0.img"));
    options = (struct storage_options){.paths = pod.lab.paths, .qemu_img = "/nonexistent/qemu-img", .owner_uid = ~0U};
    assert_int_equal(storage_plan(pod.vmi, &options, &pod.storage, &pod.faults, &pod.error), 0);
    assert_int_equal(storage_prepare(pod.storage, &pod.error), -ENOENT);
    assert_int_equal(error_exit_code(pod.error), EXIT_HOST_CANNOT);
    assert_non_null(error_remedy(pod.error));
    check_nothing_left(&pod, "disk_0.img");
}

/* A qemu-img that eats memory or never ends is stopped by the limits; one that dies is told about. */
static void test_bad_qemu_img(void **state)
{
    static const struct {
        const char *script, *says;
    } rows[] = {
        {"kill -9 $$", "was killed by SIGKILL"},
        {"echo '{'", "does not take it for qcow2"},
        {"echo '{\"format\":\"qcow2\",\"virtual-size\":1048576,\"backing-filename\":\"/etc/shadow\"}'", "backing file"},
        {"echo '{\"format\":\"qcow2\",\"virtual-size\":-5}'", "virtual size is 0"},
        {"perl -e 'my $x = \"a\" x (3 * 1024 * 1024 * 1024); print length $x' >/dev/null || { echo no memory >&2; exit "
         "1; }",
         "Out of memory"},
    };
    static const char *const disks[] = {"vol", NULL};

    if (!has_program("qemu-img") || !has_program("perl"))
        skip();
    for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
        _cleanup_(pod_done) struct pod pod = {0};
        _cleanup_free_ char *script = NULL;
        struct storage_options options;

        pod_init(&pod);
        pod_load(&pod, "", disks, "  - {name: vol, containerDisk: {image: a}}\n");
        make_odd_qcow2(in(&pod, "container-disks/disk_0.img"));
        assert_true(asprintf(&script, "#!/bin/sh\n%s\n", rows[i].script) > 0);
        put(in(&pod, "fake"), script);
        chmod(in(&pod, "fake"), 0755);
        options = (struct storage_options){.paths = pod.lab.paths, .qemu_img = in(&pod, "fake"), .owner_uid = ~0U};
        assert_int_equal(storage_plan(pod.vmi, &options, &pod.storage, &pod.faults, &pod.error), 0);
        assert_int_equal(storage_prepare(pod.storage, &pod.error), -EPERM);
        if (!strstr(error_message(pod.error), rows[i].says))
            fail_msg("row %zu: \"%s\" is not in \"%s\"", i, rows[i].says, error_message(pod.error));
    }
}

/* --disk: the user's file in the volume's place, in its own format; a directory for what is made of files. */
static void test_overrides(void **state)
{
    static const char *const disks[] = {"pvc", "cd", "cm", "nc", NULL};
    _cleanup_(pod_done) struct pod pod = {0};
    struct storage_override overrides[4];

    if (!has_program("qemu-img") || !has_program("bsdtar"))
        skip();
    pod_init(&pod);
    pod_load(&pod, "", disks,
             "  - {name: pvc, persistentVolumeClaim: {claimName: c}}\n  - {name: cd, containerDisk: {image: a}}\n"
             "  - {name: cm, configMap: {name: c}}\n  - {name: nc, cloudInitNoCloud: {secretRef: {name: s}}}\n");
    make_qcow2(in(&pod, "my.qcow2"));
    put_sparse(in(&pod, "my.raw"), 4 << 20);
    assert_int_equal(symlink("my.raw", in(&pod, "link")), 0); /* his own link is his own matter */
    put(in(&pod, "conf/x"), "y");
    put(in(&pod, "ci/userdata"), "#!");
    overrides[0] = (struct storage_override){"pvc", in(&pod, "my.qcow2")};
    overrides[1] = (struct storage_override){"cd", in(&pod, "link")};
    overrides[2] = (struct storage_override){"cm", in(&pod, "conf")};
    overrides[3] = (struct storage_override){"nc", in(&pod, "ci")};
    assert_int_equal(pod_plan(&pod, true, overrides, 4), 0);
    pod_prepare(&pod);
    assert_string_equal(pod_volume(&pod, "pvc")->format, "qcow2");
    assert_string_equal(pod_volume(&pod, "pvc")->path, overrides[0].path);
    assert_string_equal(pod_volume(&pod, "cd")->backing_format, "raw");
    check_file(pod_volume(&pod, "cm")->path, "x", "y");
    check_file(pod_volume(&pod, "nc")->path, "user-data", "#!");
    storage_remove(pod.storage);
    assert_int_equal(access(overrides[0].path, F_OK), 0);
    assert_int_equal(access(overrides[1].path, F_OK), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan_paths),
        cmocka_unit_test(test_plan_faults),
        cmocka_unit_test(test_images),
        cmocka_unit_test(test_qcow2_writer),
        cmocka_unit_test(test_many_volumes),
        cmocka_unit_test(test_cloud_init),
        cmocka_unit_test(test_trees),
        cmocka_unit_test(test_metrics_disk),
        cmocka_unit_test(test_full_file_system),
        cmocka_unit_test(test_no_qemu_img),
        cmocka_unit_test(test_bad_qemu_img),
        cmocka_unit_test(test_overrides),
        cmocka_unit_test(test_iso_reproducible),
        cmocka_unit_test(test_iso_unicode),
        cmocka_unit_test(test_sparse_race),
    };

    setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
