/* SPDX-License-Identifier: Apache-2.0 */
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
#include "host/accel.h"
#include "host/caps.h"
#include "host/host.h"

static char directory[] = "/tmp/test-accel-XXXXXX";

static int setup(void **state)
{
    return mkdtemp(directory) && setenv("VMLET_CACHE_DIR", directory, 1) == 0 ? 0 : -1;
}

static int teardown(void **state)
{
    return remove_tree(directory);
}

static void test_no_device(void **state)
{
    struct accel_result result;

    accel_probe_device("/nonexistent/kvm", &result);
    assert_int_equal(result.reason, ACCEL_REASON_NO_DEVICE);
    assert_int_equal(result.accel, MACHINE_ACCEL_TCG);
    assert_non_null(strstr(result.text, "/nonexistent/kvm"));
    assert_true(result.remedy[0]);
    assert_int_equal(result.kvm_api_version, -1);
}

/* What opens, but is no KVM. */
static void test_other_device(void **state)
{
    struct accel_result result;

    accel_probe_device("/dev/null", &result);
    assert_int_equal(result.reason, ACCEL_REASON_BAD_API);
    assert_false(result.kvm_usable);
}

static void test_permission(void **state)
{
    _cleanup_free_ char *path = NULL;
    struct accel_result result;
    pid_t pid;
    int status;

    assert_true(asprintf(&path, "%s/device", directory) > 0);
    assert_int_equal(file_write_atomic(path, "", 0, 0, NULL), 0);
    chmod(directory, 0755);
    pid = fork();
    if (pid == 0) {
        if (geteuid() == 0 && setuid(65534) < 0)
            _exit(2);
        accel_probe_device(path, &result);
        _exit(result.reason == ACCEL_REASON_NO_PERMISSION && result.remedy[0] ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* With the real device of this host, whatever it is: quick, decided by a figure, and cached. */
static void test_real_device(void **state)
{
    struct accel_result result, again;
    uint64_t begin = now_usec(), cold, warm;
    _cleanup_free_ char *path = NULL;

    accel_probe_kvm(&result);
    cold = now_usec() - begin;
    print_message("%s [%.1f ms]\n", result.text, (double)cold / 1000);
    assert_true(cold < 1000000);
    assert_false(result.from_cache);
    if (result.reason != ACCEL_REASON_USABLE && result.reason != ACCEL_REASON_EMULATED)
        return; /* no KVM to measure */
    assert_true(result.rounds_per_second > 0);
    assert_int_equal(result.kvm_usable, result.rounds_per_second >= ACCEL_ROUNDS_PER_SECOND_HARDWARE);
    begin = now_usec();
    accel_probe_kvm(&again);
    warm = now_usec() - begin;
    print_message("from the cache: %.3f ms\n", (double)warm / 1000);
    assert_true(again.from_cache);
    assert_true(again.rounds_per_second == result.rounds_per_second);
    assert_string_equal(again.text, result.text);
    /* damaged: measured anew, and written anew */
    assert_true(asprintf(&path, "%s/accel.json", directory) > 0);
    assert_int_equal(file_write_atomic(path, "{\"format\":1,", 12, 0644, NULL), 0);
    accel_probe_kvm(&again);
    assert_false(again.from_cache);
    accel_probe_kvm(&again);
    assert_true(again.from_cache);
    /* writable by others: not believed */
    chmod(path, 0666);
    accel_probe_kvm(&again);
    assert_false(again.from_cache);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child left */
}

static void test_choose(void **state)
{
    enum machine_arch native = machine_arch_native(),
                      other = native == MACHINE_ARCH_X86_64 ? MACHINE_ARCH_AARCH64 : MACHINE_ARCH_X86_64;
    struct accel_result result, probed;
    enum accel_wish wish;
    json_t *json;

    assert_int_equal(accel_choose(ACCEL_TCG, native, &result, NULL), 0);
    assert_int_equal(result.accel, MACHINE_ACCEL_TCG);
    assert_int_equal(result.reason, ACCEL_REASON_NOT_PROBED);
    assert_int_equal(accel_choose(ACCEL_AUTO, other, &result, NULL), 0);
    assert_int_equal(result.accel, MACHINE_ACCEL_TCG);
    assert_true(result.text[0]);
    {
        _cleanup_error_ struct error *error = NULL;

        assert_int_equal(accel_choose(ACCEL_KVM, other, &result, &error), -EOPNOTSUPP);
        assert_int_equal(error_exit_code(error), EXIT_HOST_CANNOT);
    }
    accel_probe_kvm(&probed);
    {
        _cleanup_error_ struct error *error = NULL;
        int r = accel_choose(ACCEL_KVM, native, &result, &error);

        assert_int_equal(r, probed.kvm_usable ? 0 : -EOPNOTSUPP);
        if (r < 0) {
            assert_int_equal(error_get_code(error), ERROR_NO_KVM);
            assert_non_null(strstr(error_message(error), probed.text));
        }
    }
    assert_int_equal(accel_choose(ACCEL_AUTO, native, &result, NULL), 0);
    assert_int_equal(result.accel, probed.kvm_usable ? MACHINE_ACCEL_KVM : MACHINE_ACCEL_TCG);
    json = accel_to_json(&result);
    assert_string_equal(json_string_value(json_object_get(json, "reason")), accel_reason_name(result.reason));
    json_decref(json);
    assert_int_equal(accel_wish_from_string("kvm", &wish), 0);
    assert_int_equal(wish, ACCEL_KVM);
    assert_int_equal(accel_wish_from_string("hvf", &wish), -EINVAL);
}

static void test_host_facts(void **state)
{
    static const char *const names[] = {"kvm",        "qemuX86_64", "qemuAarch64", "qemuImg", "swtpm",
                                        "virtiofsd",  "passt",      "nft",         "tun",     "vhostNet",
                                        "vhostVsock", "hugepages",  "cgroup",      "firmware"};
    _cleanup_(host_facts_freep) struct host_facts *facts = NULL;
    _cleanup_free_ char *text = NULL;
    json_t *json;

    assert_int_equal(host_facts_load(&facts, NULL), 0);
    for (size_t i = 0; i < ELEMENTSOF(names); i++) {
        const struct host_fact *fact = host_facts_find(facts, names[i]);

        assert_non_null(fact);
        assert_true(fact->detail[0]);
        if (!fact->yes && !streq(names[i], "kvm"))
            assert_non_null(fact->remedy);
    }
    STRV_FOREACH (path, facts->firmware)
        assert_int_equal(access(*path, F_OK), 0);
    text = host_facts_to_text(facts);
    print_message("%s", text);
    json = host_facts_to_json(facts);
    assert_int_equal(json_object_size(json_object_get(json, "facts")), facts->count);
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_device),   cmocka_unit_test(test_other_device), cmocka_unit_test(test_permission),
        cmocka_unit_test(test_real_device), cmocka_unit_test(test_choose),       cmocka_unit_test(test_host_facts),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
