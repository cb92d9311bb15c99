/* SPDX-License-Identifier: Apache-2.0 */
/* DomainStats as Prometheus text (the exposition format 0.0.4), under the names that KubeVirt gives its metrics. */
#include <stdio.h>

#include "base/strbuf.h"
#include "domain/stats.h"

enum scale {
    SCALE_ONE,
    SCALE_KIB,  /* KiB -> bytes */
    SCALE_NSEC, /* nanoseconds -> seconds */
    SCALE_REAL, /* a number with a fraction, as it is */
};

struct metric {
    const char *name;  /* behind "kubevirt_vmi_" */
    const char *key;   /* in the object that it is read from; NULL: always 1 */
    const char *label; /* one more label, written out; NULL: none */
    enum scale scale;
    const char *help;
};

#define COUNTER(metric) endswith(metric, "_total")

static const struct metric cpu_metrics[] = {
    {"cpu_usage_seconds_total", "Time", NULL, SCALE_NSEC, "CPU time of the VM's process, all threads."},
    {"cpu_user_usage_seconds_total", "User", NULL, SCALE_NSEC, "CPU time in user mode."},
    {"cpu_system_usage_seconds_total", "System", NULL, SCALE_NSEC, "CPU time in the kernel."},
    {0},
};
static const struct metric load_metrics[] = {
    {"guest_load_1m", "Load1m", NULL, SCALE_REAL, "Load of the guest, one minute, by its agent."},
    {"guest_load_5m", "Load5m", NULL, SCALE_REAL, "Load of the guest, five minutes, by its agent."},
    {"guest_load_15m", "Load15m", NULL, SCALE_REAL, "Load of the guest, fifteen minutes, by its agent."},
    {0},
};
static const struct metric memory_metrics[] = {
    {"memory_resident_bytes", "RSS", NULL, SCALE_KIB, "Resident memory of the VM's process."},
    {"memory_available_bytes", "Available", NULL, SCALE_KIB, "Memory as the guest sees it, by its balloon driver."},
    {"memory_unused_bytes", "Unused", NULL, SCALE_KIB, "Memory that the guest has left entirely unused."},
    {"memory_cached_bytes", "Cached", NULL, SCALE_KIB, "Memory that the guest uses for caches."},
    {"memory_actual_balloon_bytes", "ActualBalloon", NULL, SCALE_KIB, "Memory that the balloon leaves the guest."},
    {"memory_usable_bytes", "Usable", NULL, SCALE_KIB, "Memory that the guest can use without swapping."},
    {"memory_domain_bytes", "Total", NULL, SCALE_KIB, "Memory of the machine."},
    {"memory_swap_in_traffic_bytes", "SwapIn", NULL, SCALE_KIB, "Memory that the guest read from swap."},
    {"memory_swap_out_traffic_bytes", "SwapOut", NULL, SCALE_KIB, "Memory that the guest wrote to swap."},
    {"memory_pgmajfault_total", "MajorFault", NULL, SCALE_ONE, "Page faults of the guest that needed a disk."},
    {"memory_pgminfault_total", "MinorFault", NULL, SCALE_ONE, "Other page faults of the guest."},
    {0},
};
static const struct metric net_metrics[] = {
    {"network_traffic_bytes_total", "RxBytes", "type=\"rx\"", SCALE_ONE, "Bytes that the guest received and sent."},
    {"network_traffic_bytes_total", "TxBytes", "type=\"tx\"", SCALE_ONE, NULL},
    {"network_receive_bytes_total", "RxBytes", NULL, SCALE_ONE, "Bytes that the guest received."},
    {"network_transmit_bytes_total", "TxBytes", NULL, SCALE_ONE, "Bytes that the guest sent."},
    {"network_receive_packets_total", "RxPkts", NULL, SCALE_ONE, "Packets that the guest received."},
    {"network_transmit_packets_total", "TxPkts", NULL, SCALE_ONE, "Packets that the guest sent."},
    {"network_receive_errors_total", "RxErrs", NULL, SCALE_ONE, "Errors of receiving."},
    {"network_transmit_errors_total", "TxErrs", NULL, SCALE_ONE, "Errors of sending."},
    {"network_receive_packets_dropped_total", "RxDrop", NULL, SCALE_ONE, "Packets to the guest that were dropped."},
    {"network_transmit_packets_dropped_total", "TxDrop", NULL, SCALE_ONE, "Packets of the guest that were dropped."},
    {0},
};
static const struct metric disk_metrics[] = {
    {"storage_iops_read_total", "RdReqs", NULL, SCALE_ONE, "Read requests."},
    {"storage_iops_write_total", "WrReqs", NULL, SCALE_ONE, "Write requests."},
    {"storage_read_traffic_bytes_total", "RdBytes", NULL, SCALE_ONE, "Bytes read."},
    {"storage_write_traffic_bytes_total", "WrBytes", NULL, SCALE_ONE, "Bytes written."},
    {"storage_read_times_seconds_total", "RdTimes", NULL, SCALE_NSEC, "Time spent on reads."},
    {"storage_write_times_seconds_total", "WrTimes", NULL, SCALE_NSEC, "Time spent on writes."},
    {"storage_flush_requests_total", "FlReqs", NULL, SCALE_ONE, "Flush requests."},
    {"storage_flush_times_seconds_total", "FlTimes", NULL, SCALE_NSEC, "Time spent on flushes."},
    {0},
};
static const struct metric vcpu_metrics[] = {
    {"vcpu_seconds_total", "Time", "state=\"running\"", SCALE_NSEC, "CPU time of the vCPU's thread."},
    {"vcpu_wait_seconds_total", "Wait", NULL, SCALE_NSEC, "Time in which the vCPU waited for I/O or a CPU."},
    {"vcpu_delay_seconds_total", "Delay", NULL, SCALE_NSEC, "Time in which the vCPU was runnable and had no CPU."},
    {0},
};
static const struct metric filesystem_metrics[] = {
    {"filesystem_capacity_bytes", "total-bytes", NULL, SCALE_ONE, "Size of the guest's file system, by its agent."},
    {"filesystem_used_bytes", "used-bytes", NULL, SCALE_ONE, "Used part of the guest's file system, by its agent."},
    {0},
};

struct writer {
    struct strbuf text;
    char common[1024]; /* the labels that all have */
};

/* A label's value: backslash, quote and line end are escaped, as the format demands. */
static void add_label(struct strbuf *to, const char *name, const char *value)
{
    strbuf_printf(to, ",%s=\"", name);
    for (const char *c = value; *c; c++) {
        if (*c == '\n')
            strbuf_add_string(to, "\\n");
        else if (*c == '"' || *c == '\\')
            strbuf_printf(to, "\\%c", *c);
        else
            strbuf_add(to, c, 1);
    }
    strbuf_add_string(to, "\"");
}

static void add_value(struct strbuf *to, const json_t *value, enum scale scale)
{
    json_int_t n = json_integer_value(value);

    switch (scale) {
    case SCALE_ONE:
        strbuf_printf(to, " %lld\n", (long long)n);
        break;
    case SCALE_KIB:
        strbuf_printf(to, " %lld\n", (long long)n * 1024);
        break;
    case SCALE_NSEC:
        strbuf_printf(to, " %lld.%09lld\n", (long long)n / 1000000000, (long long)n % 1000000000);
        break;
    case SCALE_REAL:
        strbuf_printf(to, " %.9g\n", json_number_value(value));
        break;
    }
}

/* A figure counts when its "…Set" says so; what comes from the agent has none, and counts when it is there. */
static bool is_set(const json_t *from, const char *key)
{
    char flag[64];
    json_t *set;

    snprintf(flag, sizeof(flag), "%sSet", key);
    set = json_object_get(from, flag);
    return json_object_get(from, key) && (!set || json_is_true(set));
}

static void add_head(struct writer *w, const struct metric *m)
{
    if (m->help)
        strbuf_printf(&w->text, "# HELP kubevirt_vmi_%s %s\n# TYPE kubevirt_vmi_%s %s\n", m->name, m->help, m->name,
                      COUNTER(m->name) ? "counter" : "gauge");
}

static void add_sample(struct writer *w, const struct metric *m, const json_t *from, const char *labels)
{
    if (!is_set(from, m->key))
        return;
    strbuf_printf(&w->text, "kubevirt_vmi_%s{%s%s%s%s}", m->name, w->common, labels, m->label ? "," : "",
                  m->label ? m->label : "");
    add_value(&w->text, json_object_get(from, m->key), m->scale);
}

static void add_object(struct writer *w, const struct metric *metrics, const json_t *from)
{
    for (const struct metric *m = metrics; m->name; m++) {
        if (!is_set(from, m->key))
            continue;
        add_head(w, m);
        add_sample(w, m, from, "");
    }
}

typedef void (*label_fn)(struct strbuf *to, json_t *entry, size_t index);

/* A guest can mount twice at one place, and a scrape with two samples of one series is refused whole. */
static bool is_repeated(const json_t *list, size_t index, label_fn label, const char *labels)
{
    for (size_t i = 0; i < index; i++) {
        _cleanup_(strbuf_done) struct strbuf other = {0};

        label(&other, json_array_get(list, i), i);
        if (streq(strbuf_text(&other), labels))
            return true;
    }
    return false;
}

/* All samples of a metric stand together, as the format demands; `label` makes those of one entry. */
static void add_list(struct writer *w, const struct metric *metrics, const json_t *list, label_fn label)
{
    json_t *entry;
    size_t i;

    for (const struct metric *m = metrics; m->name && json_array_size(list) > 0; m++) {
        add_head(w, m);
        json_array_foreach (list, i, entry) {
            _cleanup_(strbuf_done) struct strbuf labels = {0};

            label(&labels, entry, i);
            if (!is_repeated(list, i, label, strbuf_text(&labels)))
                add_sample(w, m, entry, strbuf_text(&labels));
        }
    }
}

static const char *text_of(json_t *entry, const char *key)
{
    const char *text = json_string_value(json_object_get(entry, key));

    return text ? text : "";
}

static void label_nic(struct strbuf *to, json_t *entry, size_t index)
{
    add_label(to, "interface", text_of(entry, "Alias"));
}

static void label_disk(struct strbuf *to, json_t *entry, size_t index)
{
    add_label(to, "drive", text_of(entry, "Alias"));
}

static void label_vcpu(struct strbuf *to, json_t *entry, size_t index)
{
    strbuf_printf(to, ",id=\"%zu\"", index);
}

static void label_filesystem(struct strbuf *to, json_t *entry, size_t index)
{
    add_label(to, "disk_name", text_of(entry, "name"));
    add_label(to, "mount_point", text_of(entry, "mountpoint"));
    add_label(to, "file_system_type", text_of(entry, "type"));
}

static json_int_t count_pinned(const json_t *maps)
{
    json_t *map, *on;
    json_int_t n = 0;
    size_t i, k;

    json_array_foreach (maps, i, map)
        json_array_foreach (map, k, on)
            n += json_is_true(on);
    return n;
}

char *metrics_format(json_t *stats, json_t *filesystems, unsigned panics, const struct metrics_labels *labels)
{
    struct writer w = {0};
    _cleanup_(strbuf_done) struct strbuf common = {0};
    static const struct metric affinity = {"node_cpu_affinity", "n", NULL, SCALE_ONE,
                                           "CPUs of the node that the vCPUs may run on, added up."};
    static const struct metric panic = {"guest_os_panic_total", "n", NULL, SCALE_ONE, "Panics of the guest."};
    json_t *one = json_object();

    add_label(&common, "namespace", labels->namespace_);
    add_label(&common, "name", labels->name);
    if (labels->node)
        add_label(&common, "node", labels->node);
    snprintf(w.common, sizeof(w.common), "%s", strbuf_text(&common) + 1); /* without the first comma */
    add_object(&w, cpu_metrics, json_object_get(stats, "Cpu"));
    add_object(&w, load_metrics, json_object_get(stats, "Load"));
    add_object(&w, memory_metrics, json_object_get(stats, "Memory"));
    add_list(&w, net_metrics, json_object_get(stats, "Net"), label_nic);
    add_list(&w, disk_metrics, json_object_get(stats, "Block"), label_disk);
    add_list(&w, vcpu_metrics, json_object_get(stats, "Vcpu"), label_vcpu);
    add_list(&w, filesystem_metrics, filesystems, label_filesystem);
    json_object_set_new(one, "n", json_integer(count_pinned(json_object_get(stats, "CPUMap"))));
    add_head(&w, &affinity);
    add_sample(&w, &affinity, one, "");
    json_object_set_new(one, "n", json_integer(panics));
    add_head(&w, &panic);
    add_sample(&w, &panic, one, "");
    json_decref(one);
    return strbuf_steal(&w.text);
}
