/* SPDX-License-Identifier: Apache-2.0 */
/* Labels of a node: from what QEMU said, and from this machine's QEMU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "host/node-labels.h"

static const char *get(const json_t *labels, const char *name)
{
    return json_string_value(json_object_get(labels, name));
}

static void test_labels_of(void **state)
{
    static const char *const hyperv[] = {"base", "vpindex", NULL};
    json_t *cpus = json_loads(
               "{\"models\": [\"Haswell-noTSX-IBRS\", \"486\"], \"features\": [\"avx\", \"sse4.1\", \"check\", "
               "\"x-hidden\", \"-bad\", \"bad name\", 7], \"machines\": [\"pc-q35-7.2\", \"none\"], "
               "\"vendor\": \"GenuineIntel\"}",
               0, NULL),
           *labels = node_labels_of(cpus, hyperv);

    assert_string_equal(get(labels, "cpu-model.node.kubevirt.io/Haswell-noTSX-IBRS"), "true");
    assert_string_equal(get(labels, "cpu-model.node.kubevirt.io/486"), "true");
    assert_string_equal(get(labels, "cpu-feature.node.kubevirt.io/avx"), "true");
    assert_string_equal(get(labels, "cpu-feature.node.kubevirt.io/sse4.1"), "true");
    assert_string_equal(get(labels, "machine-type.node.kubevirt.io/pc-q35-7.2"), "true");
    assert_string_equal(get(labels, "cpu-vendor.node.kubevirt.io/Intel"), "true");
    assert_string_equal(get(labels, "hyperv.node.kubevirt.io/vpindex"), "true");
    assert_int_equal(json_object_size(labels), 8);
    json_decref(labels);
    json_decref(cpus);
}

/* The QEMU of this machine: what every one has. */
static void test_labels_here(void **state)
{
    json_t *labels;
    const char *name;
    json_t *value;

    assert_int_equal(node_labels_load(&labels, NULL), 0);
#if defined(__x86_64__)
    assert_string_equal(get(labels, "machine-type.node.kubevirt.io/q35"), "true");
    assert_string_equal(get(labels, "cpu-feature.node.kubevirt.io/sse2"), "true");
#endif
    assert_string_equal(get(labels, "cpu-model.node.kubevirt.io/max"), "true");
    json_object_foreach (labels, name, value)
        assert_string_equal(json_string_value(value), "true");
    json_decref(labels);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_labels_of), cmocka_unit_test(test_labels_here)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
