/* SPDX-License-Identifier: Apache-2.0 */
/* The figures as Prometheus text: names, scales, labels, and what the exposition format (0.0.4) demands of the whole.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/limits.h"
#include "base/strbuf.h"
#include "base/strv.h"

#include "domain/metrics-channel.h"
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

/* ---- the channel ---------------------------------------------------------------------------------------------------
 */

static void write_text(struct strbuf *text, void *userdata)
{
    unsigned *count = userdata;

    strbuf_printf(text, "<metrics>%u</metrics>\n", ++*count);
}

/* What the guest reads until `n` answers have come, each of which ends with an empty line. */
static char *read_answers(sd_event *event, int fd, size_t n)
{
    _cleanup_(strbuf_done) struct strbuf text = {0};

    for (size_t seen = 0; seen < n;) {
        char byte;

        if (recv(fd, &byte, 1, MSG_DONTWAIT) == 1) {
            strbuf_add(&text, &byte, 1);
            seen += byte == '\n' && text.length > 1 && text.data[text.length - 2] == '\n';
        } else {
            assert_true(sd_event_run(event, 30 * USEC_PER_SEC) > 0);
        }
    }
    return strbuf_steal(&text);
}

static void test_channel(void **state)
{
    static const struct {
        const char *request, *answer;
    } rows[] = {
        {"GET /metrics/XML\n\n", "<metrics>1</metrics>\n\n"},
        {"GET /metrics/XML\r\n\r\n", "<metrics>2</metrics>\n\n"},
        {"POST /metrics/XML\n\n", "INVALID REQUEST\n\n"},
        {"GET /metrics/XML?\n\n", "INVALID REQUEST\n\n"},
        {"GET /metrics\n\n", "INVALID REQUEST\n\n"},
        {"GET /metrics/XML\nHost: x\n\n", "INVALID REQUEST\n\n"},
        {"\n\n", "INVALID REQUEST\n\n"},
        {"GET /metrics/XML\n\n", "<metrics>3</metrics>\n\n"},
    };
    _cleanup_event_ sd_event *event = NULL;
    _cleanup_(metrics_channel_freep) struct metrics_channel *channel = NULL;
    unsigned count = 0;
    int fds[2];

    assert_true(sd_event_default(&event) >= 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(metrics_channel_new(event, fds[0], 0, write_text, &count, &channel), 0);
    for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
        _cleanup_free_ char *answer = NULL;
        size_t length = strlen(rows[i].request), half = i % 2 ? length / 2 : length;

        /* also in two pieces */
        assert_int_equal(send(fds[1], rows[i].request, half, 0), half);
        while (half < length && sd_event_run(event, 0) > 0)
            ;
        assert_int_equal(send(fds[1], rows[i].request + half, length - half, 0), length - half);
        answer = read_answers(event, fds[1], 1);
        assert_string_equal(answer, rows[i].answer);
    }
    close(fds[1]);
    while (sd_event_run(event, 0) > 0)
        ;
}

/* Two requests at once, a line without end, and a guest that goes away in the middle. */
static void test_channel_flood(void **state)
{
    _cleanup_event_ sd_event *event = NULL;
    _cleanup_(metrics_channel_freep) struct metrics_channel *channel = NULL;
    _cleanup_free_ char *both = NULL, *invalid = NULL;
    char flood[LIMIT_METRICS_REQUEST_BYTES];
    const uint64_t interval = 50 * USEC_PER_MSEC, begin = now_usec();
    unsigned count = 0;
    int fds[2];

    assert_true(sd_event_default(&event) >= 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(metrics_channel_new(event, fds[0], interval, write_text, &count, &channel), 0);
    assert_int_equal(send(fds[1], "GET /metrics/XML\n\nGET /metrics/XML\n\n", 36, 0), 36);
    both = read_answers(event, fds[1], 2);
    assert_string_equal(both, "<metrics>1</metrics>\n\n<metrics>2</metrics>\n\n");
    assert_true(now_usec() - begin >= interval);
    memset(flood, 'x', sizeof(flood));
    assert_int_equal(send(fds[1], flood, sizeof(flood), 0), sizeof(flood));
    invalid = read_answers(event, fds[1], 1);
    assert_string_equal(invalid, "INVALID REQUEST\n\n");
    assert_int_equal(send(fds[1], "GET /met", 8, 0), 8);
    close(fds[1]);
    while (sd_event_run(event, 0) > 0)
        ;
    assert_int_equal(count, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scales),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_labels_of_the_guest),
        cmocka_unit_test(test_without_a_node),
        cmocka_unit_test(test_channel),
        cmocka_unit_test(test_channel_flood),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
