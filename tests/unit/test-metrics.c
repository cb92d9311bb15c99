/* SPDX-License-Identifier: Apache-2.0 */
/* The figures as Prometheus text: names, scales, labels, and what the exposition format (0.0.4) demands of the whole.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/strbuf.h"
#include "base/strv.h"
#include "domain/stats.h"

static const struct metrics_labels labels = {.namespace_ = "ns", .name = "vm", .node = "node-1"};
#define COMMON "namespace=\"ns\",name=\"vm\",node=\"node-1\""

static char *format(const char *stats, const char *filesystems, const struct metrics_labels *l)
{
    json_t *s = json_loads(stats, 0, NULL), *f = filesystems ? json_loads(filesystems, 0, NULL) : NULL;
    char *text = metrics_format(s, f, 3, l);

    assert_non_null(s);
    assert_non_null(text);
    json_decref(s);
    json_decref(f);
    return text;
}

/* The metric's name of a line: "# TYPE NAME gauge", "NAME{…} 1". */
static size_t name_of(const char *line, const char **ret)
{
    *ret = startswith(line, "# HELP ") || startswith(line, "# TYPE ") ? line + 7 : line;
    return strcspn(*ret, " {");
}

static bool same_name(const char *a, const char *b)
{
    const char *x, *y;
    size_t n = name_of(a, &x);

    return n == name_of(b, &y) && strncmp(x, y, n) == 0;
}

static void check_sample(const char *line)
{
    const char *value = strrchr(line, ' ');
    bool quoted = false;
    char *end;

    assert_non_null(value);
    strtod(value + 1, &end);
    assert_true(end > value + 1 && *end == '\0');
    for (const char *c = strchr(line, '{'); c && c < value; c++) {
        if (quoted && *c == '\\') {
            c++;
            assert_true(*c == '\\' || *c == '"' || *c == 'n');
        } else if (*c == '"') {
            quoted = !quoted;
        }
    }
    assert_false(quoted);
}

/* HELP and TYPE once for each metric and before its samples, these in one group, no series twice, a line end last. */
static void check_whole(const char *text)
{
    _cleanup_(strv_freep) char **lines = NULL;
    size_t n = 0;

    assert_true(endswith(text, "\n"));
    for (const char *p = text; *p; p += strcspn(p, "\n") + 1, n++) {
        _cleanup_free_ char *line = strndup(p, strcspn(p, "\n"));

        assert_int_equal(strv_append(&lines, line), 0);
    }
    for (size_t i = 0; i < n; i++) {
        bool head = lines[i][0] == '#';

        if (!head)
            check_sample(lines[i]);
        assert_true(head || same_name(lines[i], lines[i - 1]));
        for (size_t k = 0; k < i; k++) {
            size_t series = strcspn(lines[i], "}") + 1;

            if (startswith(lines[i], "# HELP "))
                assert_false(same_name(lines[i], lines[k]));
            if (!head && lines[k][0] != '#')
                assert_false(strncmp(lines[i], lines[k], series) == 0);
        }
    }
}

static void contains(const char *text, const char *line)
{
    if (!strstr(text, line))
        fail_msg("no line %s in\n%s", line, text);
}

static void test_scales(void **state)
{
    _cleanup_free_ char *text =
        format("{\"Cpu\": {\"TimeSet\": true, \"Time\": 61000000007, \"UserSet\": false, \"User\": 5},"
               " \"Memory\": {\"RSSSet\": true, \"RSS\": 1025, \"MajorFaultSet\": true,"
               " \"MajorFault\": 9223372036854775807},"
               " \"Load\": {\"Load1m\": 0.25, \"Load5mSet\": true, \"Load5m\": 2},"
               " \"CPUMap\": [[true, false, true], [true, false, false]]}",
               NULL, &labels);

    check_whole(text);
    contains(text, "\nkubevirt_vmi_cpu_usage_seconds_total{" COMMON "} 61.000000007\n");
    contains(text, "# TYPE kubevirt_vmi_cpu_usage_seconds_total counter\n");
    contains(text, "\nkubevirt_vmi_memory_resident_bytes{" COMMON "} 1049600\n");
    contains(text, "# TYPE kubevirt_vmi_memory_resident_bytes gauge\n");
    contains(text, "\nkubevirt_vmi_memory_pgmajfault_total{" COMMON "} 9223372036854775807\n");
    contains(text, "\nkubevirt_vmi_guest_load_1m{" COMMON "} 0.25\n");
    contains(text, "\nkubevirt_vmi_guest_load_5m{" COMMON "} 2\n");
    contains(text, "\nkubevirt_vmi_node_cpu_affinity{" COMMON "} 3\n");
    contains(text, "\nkubevirt_vmi_guest_os_panic_total{" COMMON "} 3\n");
    assert_null(strstr(text, "cpu_user_usage")); /* not set: no sample, and no head either */
    assert_null(strstr(text, "network_"));
}

static void test_lists(void **state)
{
    _cleanup_free_ char *text =
        format("{\"Net\": [{\"Alias\": \"default\", \"RxBytesSet\": true, \"RxBytes\": 10, \"TxBytesSet\": true, "
               "\"TxBytes\": 20},"
               " {\"Alias\": \"other\", \"RxBytesSet\": true, \"RxBytes\": 30, \"TxBytesSet\": false, \"TxBytes\": 0}],"
               " \"Block\": [{\"Alias\": \"ua-root\", \"RdReqsSet\": true, \"RdReqs\": 7, \"FlTimesSet\": true, "
               "\"FlTimes\": 1500000}],"
               " \"Vcpu\": [{\"TimeSet\": true, \"Time\": 1}, {\"TimeSet\": true, \"Time\": 2000000000}]}",
               NULL, &labels);

    check_whole(text);
    contains(text, "\nkubevirt_vmi_network_traffic_bytes_total{" COMMON ",interface=\"default\",type=\"rx\"} 10\n"
                   "kubevirt_vmi_network_traffic_bytes_total{" COMMON ",interface=\"other\",type=\"rx\"} 30\n"
                   "kubevirt_vmi_network_traffic_bytes_total{" COMMON ",interface=\"default\",type=\"tx\"} 20\n");
    contains(text, "\nkubevirt_vmi_network_receive_bytes_total{" COMMON ",interface=\"other\"} 30\n");
    contains(text, "\nkubevirt_vmi_storage_iops_read_total{" COMMON ",drive=\"ua-root\"} 7\n");
    contains(text, "\nkubevirt_vmi_storage_flush_times_seconds_total{" COMMON ",drive=\"ua-root\"} 0.001500000\n");
    contains(text, "\nkubevirt_vmi_vcpu_seconds_total{" COMMON ",id=\"1\",state=\"running\"} 2.000000000\n");
}

/* What the guest names is the guest's choice. */
static void test_labels_of_the_guest(void **state)
{
    _cleanup_free_ char *text = format(
        "{}",
        "[{\"name\": \"vda1\", \"mountpoint\": \"/a\\\"b\\\\c\\nd\", \"type\": \"ext4\", \"total-bytes\": 4096, "
        "\"used-bytes\": 1},"
        " {\"name\": \"vda2\", \"mountpoint\": \"/mnt\", \"type\": \"xfs\"},"
        " {\"name\": \"vda3\", \"mountpoint\": \"/twice\", \"type\": \"xfs\", \"total-bytes\": 1, \"used-bytes\": 1},"
        " {\"name\": \"vda3\", \"mountpoint\": \"/twice\", \"type\": \"xfs\", \"total-bytes\": 1, \"used-bytes\": 1}]",
        &labels);

    check_whole(text);
    contains(text, "\nkubevirt_vmi_filesystem_capacity_bytes{" COMMON
                   ",disk_name=\"vda1\",mount_point=\"/a\\\"b\\\\c\\nd\",file_system_type=\"ext4\"} 4096\n");
    assert_null(strstr(text, "\"vda2\"")); /* its size is not known */
}

static void test_without_a_node(void **state)
{
    const struct metrics_labels l = {.namespace_ = "ns", .name = "vm"};
    _cleanup_free_ char *text = format("{\"Memory\": {\"TotalSet\": true, \"Total\": 1}}", "[]", &l);

    check_whole(text);
    contains(text, "\nkubevirt_vmi_memory_domain_bytes{namespace=\"ns\",name=\"vm\"} 1024\n");
    contains(text, "\nkubevirt_vmi_node_cpu_affinity{namespace=\"ns\",name=\"vm\"} 0\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scales),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_labels_of_the_guest),
        cmocka_unit_test(test_without_a_node),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
