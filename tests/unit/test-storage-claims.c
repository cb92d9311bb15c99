/* SPDX-License-Identifier: Apache-2.0 */
/* Claims that hold no disk yet, or a shorter one than they have room for. */
#include <sys/stat.h>

#include <jansson.h>

#include "storage-pod.h"

/* status.volumeStatus of one claim; to be freed. */
static json_t *told(const char *request, const char *mode)
{
    return json_pack("[{s:s, s:{s:{s:s}, s:{s:s}, s:s, s:s}}]", "name", "pvc", "persistentVolumeClaimInfo", "capacity",
                     "storage", "900Ti", "requests", "storage", request, "volumeMode", mode, "filesystemOverhead",
                     "0.1");
}

/* A claim without a disk.img: made in the size that is told, kept, and longer when the claim is and there is room. */
static void test_empty_claim(void **state)
{
    static const struct {
        const char *request;
        unsigned mib;
    } rows[] = {{"64Mi", 57}, {"128Mi", 115}, {"32Mi", 115}, {"900Ti", 115}};
    static const char *const disks[] = {"pvc", NULL};
    _cleanup_(pod_done) struct pod pod = {0};

    pod_init(&pod);
    pod_load(&pod, "", disks, "  - {name: pvc, persistentVolumeClaim: {claimName: c}}\n");
    assert_int_equal(mkdir_parents(in(&pod, "private/vmi-disks/pvc"), 0755, NULL), 0);
    for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
        const uint64_t size = (uint64_t)rows[i].mib << 20;
        const struct storage_volume *v;
        struct stat st;

        pod.volume_status = told(rows[i].request, "Filesystem");
        assert_int_equal(storage_claim_size(pod.volume_status, "other"), 0);
        assert_int_equal(pod_plan(&pod, false, NULL, 0), 0);
        json_decref(pod.volume_status);
        pod_prepare(&pod);
        v = pod_volume(&pod, "pvc");
        assert_string_equal(v->path, in(&pod, "private/vmi-disks/pvc/disk.img"));
        assert_string_equal(v->format, "raw");
        assert_false(v->read_only || v->preallocated);
        assert_int_equal(v->size, size);
        assert_int_equal(stat(v->path, &st), 0);
        assert_int_equal(st.st_size, size);
        if (i == 0)
            patch(v->path, 4096, "a guest's", 9);
        check_run("a guest's", run("tail", "-c", "+4097", v->path));
        storage_remove(pod.storage); /* not this one */
        storage_free(TAKE_PTR(pod.storage));
    }
}

/* Not made: a DataVolume's, one that is only read, one that another pod brings, a block device that is not there, one
 * whose size nobody knows, one that its file system has no room for. */
static void test_claim_stays_empty(void **state)
{
    static const struct {
        const char *volume, *request, *mode;
        int r;
    } rows[] = {
        {"dataVolume: {name: c}", "1Mi", "Filesystem", -ENOENT},
        {"persistentVolumeClaim: {claimName: c, readOnly: true}", "1Mi", "Filesystem", -ENOENT},
        {"persistentVolumeClaim: {claimName: c, hotpluggable: true}", "1Mi", "Filesystem", 0},
        {"persistentVolumeClaim: {claimName: c}", "1Mi", "Block", -ENOENT},
        {"persistentVolumeClaim: {claimName: c}", "much", "Filesystem", -ENOSPC},
        {"persistentVolumeClaim: {claimName: c}", NULL, NULL, -ENOENT},
        {"persistentVolumeClaim: {claimName: c}", "800Ti", "Filesystem", -ENOSPC},
    };
    static const char *const disks[] = {"pvc", NULL};

    for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
        _cleanup_(pod_done) struct pod pod = {0};
        char volumes[200];

        snprintf(volumes, sizeof(volumes), "  - {name: pvc, %s}\n", rows[i].volume);
        pod_init(&pod);
        pod_load(&pod, "", disks, volumes);
        assert_int_equal(mkdir_parents(in(&pod, "private/vmi-disks/pvc"), 0755, NULL), 0);
        pod.volume_status = rows[i].request ? told(rows[i].request, rows[i].mode) : json_array();
        assert_int_equal(pod_plan(&pod, false, NULL, 0), 0);
        json_decref(pod.volume_status);
        if (storage_prepare(pod.storage, &pod.error) != rows[i].r)
            fail_msg("row %zu: %s", i, error_message(pod.error));
        check_nothing_left(&pod, "");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty_claim),
        cmocka_unit_test(test_claim_stays_empty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
