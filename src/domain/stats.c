/* SPDX-License-Identifier: Apache-2.0 */
#include "domain/stats.h"

#include <sched.h>
#include <stdio.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "domain/domain-internal.h"

#define WAITING_MAX 64U

struct waiting {
    stats_fn done;
    void *userdata;
};

struct waiters {
    struct waiting list[WAITING_MAX];
    size_t n;
};

/* What is asked of QEMU in one go; none of it touches a vCPU. */
enum question {
    ASK_CPUS,
    ASK_BLOCK,
    ASK_BLOCK_STATS,
    ASK_BALLOON,
    ASK_GUEST_STATS, /* the last: left out of a machine without a balloon */
    QUESTIONS,
};

struct answer {
    struct stats *stats;
    json_t *result;
};

struct stats {
    struct domain *domain;
    json_t *cached; /* NULL: none yet */
    uint64_t cached_at;
    struct answer answers[QUESTIONS];
    unsigned missing; /* answers that are still to come */
    struct waiters waiters;
    bool balloon_enabled;

    json_t *dirty; /* the last measured rate */
    struct waiters dirty_waiters;
    sd_event_source *dirty_timer;
    uint64_t dirty_give_up;
};

struct stats *stats_new(struct domain *domain)
{
    struct stats *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->domain = domain;
    for (size_t i = 0; i < QUESTIONS; i++)
        s->answers[i].stats = s;
    return s;
}

/* One of them may ask again, and is then in the next round. */
static void answer_all(struct waiters *waiters, json_t *result, const struct error *error)
{
    struct waiters now = *waiters;

    waiters->n = 0;
    for (size_t i = 0; i < now.n; i++)
        now.list[i].done(result, error, now.list[i].userdata);
}

static bool add_waiter(struct waiters *waiters, stats_fn done, void *userdata)
{
    if (waiters->n == WAITING_MAX)
        return false;
    waiters->list[waiters->n++] = (struct waiting){done, userdata};
    return true;
}

void stats_free(struct stats *s)
{
    _cleanup_error_ struct error *e = NULL;

    if (!s)
        return;
    error_set(&e, ERROR_CANCELLED, ECANCELED, "the VM has ended");
    answer_all(&s->waiters, NULL, e);
    answer_all(&s->dirty_waiters, NULL, e);
    sd_event_source_disable_unref(s->dirty_timer);
    for (size_t i = 0; i < QUESTIONS; i++)
        json_decref(s->answers[i].result);
    json_decref(s->cached);
    json_decref(s->dirty);
    free(s);
}

/* ---- numbers with their "Set" ------------------------------------------------------------------------------------
 */

static void put_flag(json_t *to, const char *name, bool is_set)
{
    char flag[64];

    snprintf(flag, sizeof(flag), "%sSet", name);
    json_object_set_new(to, flag, json_boolean(is_set));
}

static void put(json_t *to, const char *name, bool is_set, uint64_t value)
{
    is_set = is_set && value <= INT64_MAX;
    put_flag(to, name, is_set);
    json_object_set_new(to, name, json_integer(is_set ? (json_int_t)value : 0));
}

static void put_text(json_t *to, const char *name, const char *value)
{
    put_flag(to, name, value != NULL);
    json_object_set_new(to, name, json_string(value ? value : ""));
}

/* A member of one of QEMU's answers; the agent of a value that is not known is -1, or absent. */
static bool get(const json_t *from, const char *key, uint64_t *ret)
{
    *ret = 0;
    return qmp_json_get_uint64(json_object_get(from, key), ret) && *ret <= INT64_MAX;
}

static void copy(json_t *to, const char *name, const json_t *from, const char *key, uint64_t divisor)
{
    uint64_t value;
    bool is_set = get(from, key, &value);

    put(to, name, is_set, value / divisor);
}

/* ---- CPU -----------------------------------------------------------------------------------------------------------
 */

/* A file of /proc or /sys: NULL if it cannot be read. */
_printf_(1, 2) static char *read_small(const char *format, ...)
{
    char path[256], *text = NULL;
    va_list ap;
    int n;

    va_start(ap, format);
    n = vsnprintf(path, sizeof(path), format, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof(path) || file_read(path, (size_t)64 * 1024, &text, NULL, NULL) < 0)
        return NULL;
    return text;
}

static json_t *cpu_of(pid_t pid)
{
    json_t *cpu = json_object();
    _cleanup_free_ char *stat = read_small("/proc/%d/stat", (int)pid);
    const char *rest = stat ? strrchr(stat, ')') : NULL;
    unsigned long long user = 0, system = 0, nsec_per_tick = 1000000000ULL / (unsigned long long)sysconf(_SC_CLK_TCK);
    struct timespec used;
    clockid_t clock;
    /* proc(5): utime and stime are the fields 14 and 15, the state behind the name is the third */
    bool split = rest && sscanf(rest + 1, "%*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu %llu", &user, &system) == 2;
    bool exact = clock_getcpuclockid(pid, &clock) == 0 && clock_gettime(clock, &used) == 0;

    put(cpu, "Time", exact || split,
        exact ? (uint64_t)used.tv_sec * 1000000000ULL + (uint64_t)used.tv_nsec : (user + system) * nsec_per_tick);
    put(cpu, "User", split, user * nsec_per_tick);
    put(cpu, "System", split, system * nsec_per_tick);
    return cpu;
}

/* se.statistics.wait_sum (milliseconds) of /proc/…/sched: there only where the kernel keeps scheduler statistics. */
static bool wait_of(pid_t pid, pid_t thread, uint64_t *ret)
{
    _cleanup_free_ char *sched = read_small("/proc/%d/task/%d/sched", (int)pid, (int)thread);
    const char *line = sched ? strstr(sched, "wait_sum") : NULL, *colon = line ? strchr(line, ':') : NULL;

    *ret = colon ? (uint64_t)(strtod(colon + 1, NULL) * 1e6) : 0;
    return colon != NULL;
}

static json_t *vcpu_of(pid_t pid, pid_t thread)
{
    json_t *vcpu = json_object();
    _cleanup_free_ char *stat = read_small("/proc/%d/task/%d/schedstat", (int)pid, (int)thread);
    unsigned long long run = 0, delay = 0;
    /* Documentation/scheduler/sched-stats: time on a CPU, time waiting on a run queue, both in nanoseconds */
    bool is_set = stat && sscanf(stat, "%llu %llu", &run, &delay) == 2;
    uint64_t wait;
    bool has_wait = wait_of(pid, thread, &wait);

    put(vcpu, "State", true, 1); /* as libvirt says it: a vCPU that is there counts as running */
    put(vcpu, "Time", is_set, run);
    put(vcpu, "Wait", has_wait, wait);
    put(vcpu, "Delay", is_set, delay);
    return vcpu;
}

static json_t *affinity_of(pid_t thread)
{
    json_t *map = json_array();
    size_t n = (size_t)get_nprocs_conf();
    cpu_set_t *set = CPU_ALLOC(n);
    size_t size = CPU_ALLOC_SIZE(n);

    if (set && sched_getaffinity(thread, size, set) == 0)
        for (size_t i = 0; i < n; i++)
            json_array_append_new(map, json_boolean(CPU_ISSET_S(i, size, set)));
    CPU_FREE(set);
    return map;
}

static void add_vcpus(json_t *to, pid_t pid, const json_t *cpus)
{
    json_t *vcpus = json_array(), *maps = json_array(), *cpu;
    size_t i;

    json_array_foreach (cpus, i, cpu) {
        pid_t thread = (pid_t)json_integer_value(json_object_get(cpu, "thread-id"));

        json_array_append_new(vcpus, vcpu_of(pid, thread));
        json_array_append_new(maps, affinity_of(thread));
    }
    json_object_set_new(to, "NrVirtCpu", json_integer((json_int_t)json_array_size(vcpus)));
    json_object_set_new(to, "CPUMapSet", json_boolean(json_array_size(maps) > 0));
    json_object_set_new(to, "Vcpu", vcpus);
    json_object_set_new(to, "CPUMap", maps);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static json_t *memory_of(const struct domain *d, const json_t *balloon, const json_t *guest)
{
    json_t *memory = json_object(), *reported = json_object_get(guest, "stats");
    _cleanup_free_ char *statm = read_small("/proc/%d/statm", (int)d->pid);
    unsigned long long pages = 0;
    bool has_rss = statm && sscanf(statm, "%*u %llu", &pages) == 1;
    uint64_t when;

    /* before the driver's first report all values stand at -1, or at 0 in old versions (hw/virtio/virtio-balloon.c) */
    if (!get(guest, "last-update", &when) || when == 0)
        reported = NULL;
    copy(memory, "Unused", reported, "stat-free-memory", 1024);
    copy(memory, "Cached", reported, "stat-disk-caches", 1024);
    copy(memory, "Available", reported, "stat-total-memory", 1024);
    copy(memory, "Usable", reported, "stat-available-memory", 1024);
    copy(memory, "SwapIn", reported, "stat-swap-in", 1024);
    copy(memory, "SwapOut", reported, "stat-swap-out", 1024);
    copy(memory, "MajorFault", reported, "stat-major-faults", 1);
    copy(memory, "MinorFault", reported, "stat-minor-faults", 1);
    copy(memory, "ActualBalloon", balloon, "actual", 1024);
    put(memory, "RSS", has_rss, pages * (unsigned long long)sysconf(_SC_PAGESIZE) / 1024);
    put(memory, "Total", true, (uint64_t)d->vmi->spec.domain.memory.guest.value / 1024);
    return memory;
}

/* ---- NICs ---------------------------------------------------------------------------------------------------------
 */

/* What the guest received went out of the tap: the host's counters are turned round, so that they speak of the guest.
 */
static const struct {
    const char *name, *file;
} nic_counters[] = {
    {"RxBytes", "tx_bytes"}, {"RxPkts", "tx_packets"}, {"RxErrs", "tx_errors"}, {"RxDrop", "tx_dropped"},
    {"TxBytes", "rx_bytes"}, {"TxPkts", "rx_packets"}, {"TxErrs", "rx_errors"}, {"TxDrop", "rx_dropped"},
};

static json_t *net_of(const struct domain *d)
{
    json_t *nics = json_array();

    for (size_t i = 0; i < d->vmi->spec.domain.devices.interfaces.count; i++) {
        const char *name = d->vmi->spec.domain.devices.interfaces.items[i].name;
        const char *tap = machine_nic_tap(d->machine, name);
        json_t *nic;

        if (!tap)
            continue; /* nothing on the host counts its packets */
        nic = json_object();
        put_text(nic, "Name", tap);
        put_text(nic, "Alias", name);
        for (size_t k = 0; k < ELEMENTSOF(nic_counters); k++) {
            _cleanup_free_ char *text = read_small("/sys/class/net/%s/statistics/%s", tap, nic_counters[k].file);

            put(nic, nic_counters[k].name, text != NULL, text ? strtoull(text, NULL, 10) : 0);
        }
        json_array_append_new(nics, nic);
    }
    return nics;
}

/* ---- disks --------------------------------------------------------------------------------------------------------
 */

/* The entry of query-block or query-blockstats whose device is this one. */
static json_t *entry_of(const json_t *list, const char *id)
{
    json_t *entry;
    size_t i;

    json_array_foreach (list, i, entry) {
        const char *path = json_string_value(json_object_get(entry, "qdev"));
        const char *found = path ? strstr(path, id) : NULL;
        size_t length = strlen(id);

        /* "/machine/peripheral/<id>/virtio-backend", or the id alone */
        if (found && (found == path || found[-1] == '/') && (found[length] == '\0' || found[length] == '/'))
            return entry;
    }
    return NULL;
}

static json_t *disk_of(const struct domain *d, const char *name, const char *id, const json_t *block,
                       const json_t *all_stats)
{
    static const struct {
        const char *name, *key;
    } counters[] = {
        {"RdReqs", "rd_operations"},     {"RdBytes", "rd_bytes"},
        {"RdTimes", "rd_total_time_ns"}, {"WrReqs", "wr_operations"},
        {"WrBytes", "wr_bytes"},         {"WrTimes", "wr_total_time_ns"},
        {"FlReqs", "flush_operations"},  {"FlTimes", "flush_total_time_ns"},
    };
    static const char *const failures[] = {"failed_rd_operations", "failed_wr_operations", "failed_flush_operations"};
    json_t *disk = json_object(), *stats = json_object_get(entry_of(all_stats, id), "stats");
    json_t *inserted = json_object_get(entry_of(block, id), "inserted"), *image = json_object_get(inserted, "image");
    uint64_t errors = 0, highest, n;

    put_text(disk, "Name", machine_disk_target(d->machine, name));
    put_text(disk, "Alias", name);
    put(disk, "BackingIndex", false, 0);
    put_text(disk, "Path", json_string_value(json_object_get(image, "filename")));
    for (size_t i = 0; i < ELEMENTSOF(counters); i++)
        copy(disk, counters[i].name, stats, counters[i].key, 1);
    for (size_t i = 0; i < ELEMENTSOF(failures); i++)
        errors += get(stats, failures[i], &n) ? n : 0;
    put(disk, "Errors", stats != NULL, errors);
    /* the highest byte written says how far an image has grown; 0 until something is written */
    if (get(stats, "wr_highest_offset", &highest) && highest > 0)
        put(disk, "Allocation", true, highest);
    else
        copy(disk, "Allocation", image, "actual-size", 1);
    copy(disk, "Capacity", image, "virtual-size", 1);
    copy(disk, "Physical", image, "actual-size", 1);
    return disk;
}

static json_t *block_of(const struct domain *d, const json_t *block, const json_t *stats)
{
    json_t *list = json_array();
    size_t n;
    const struct machine_disk *disks = machine_get_disks(d->machine, &n);

    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, disk_of(d, disks[i].disk, disks[i].id, block, stats));
    return list;
}

/* ---- the whole ----------------------------------------------------------------------------------------------------
 */

static json_t *load_of(const struct domain *d)
{
    static const struct {
        const char *name, *key;
    } loads[] = {{"Load1m", "load1m"}, {"Load5m", "load5m"}, {"Load15m", "load15m"}};
    json_t *from = guest_info_get(d->guest_info, "guest-get-load"), *load = json_object();

    for (size_t i = 0; i < ELEMENTSOF(loads); i++) {
        json_t *value = json_object_get(from, loads[i].key);

        put_flag(load, loads[i].name, value != NULL);
        json_object_set_new(load, loads[i].name, json_real(json_number_value(value)));
    }
    return load;
}

static json_t *put_together(const struct stats *s)
{
    const struct domain *d = s->domain;
    json_t *all = json_pack("{s:s, s:s*}", "Name", d->vmi->domain_name, "UUID", d->vmi->spec.domain.firmware.uuid);

    if (!all)
        return NULL;
    json_object_set_new(all, "Cpu", cpu_of(d->pid));
    json_object_set_new(all, "Memory",
                        memory_of(d, s->answers[ASK_BALLOON].result, s->answers[ASK_GUEST_STATS].result));
    json_object_set_new(all, "MigrateDomainJobInfo", json_object());
    add_vcpus(all, d->pid, s->answers[ASK_CPUS].result);
    json_object_set_new(all, "Net", net_of(d));
    json_object_set_new(all, "Block", block_of(d, s->answers[ASK_BLOCK].result, s->answers[ASK_BLOCK_STATS].result));
    json_object_set_new(all, "Load", load_of(d));
    return all;
}

static void finish(struct stats *s)
{
    _cleanup_error_ struct error *e = NULL;
    json_t *fresh = NULL;

    if (s->domain->pid <= 0 || !s->answers[ASK_CPUS].result)
        error_set(&e, ERROR_CONNECTION, ENOTCONN, "cannot read the statistics: QEMU's monitor did not answer");
    else if (!(fresh = put_together(s)))
        error_oom(&e);
    for (size_t i = 0; i < QUESTIONS; i++) {
        json_decref(s->answers[i].result);
        s->answers[i].result = NULL;
    }
    if (e) {
        answer_all(&s->waiters, NULL, e);
        return;
    }
    json_decref(s->cached);
    s->cached = fresh;
    s->cached_at = now_usec();
    json_incref(fresh);
    answer_all(&s->waiters, fresh, NULL);
    json_decref(fresh);
}

static void on_answer(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct answer *a = userdata;
    struct stats *s = a->stats;

    /* a question that this machine has no answer to (no balloon) leaves its figures unset */
    a->result = json_incref(result);
    if (--s->missing == 0)
        finish(s);
}

static json_t *guest_stats_arguments(const char *balloon)
{
    return json_pack("{s:o, s:s}", "path", json_sprintf("/machine/peripheral/%s", balloon), "property", "guest-stats");
}

static int ask(struct stats *s)
{
    static const char *const commands[QUESTIONS] = {"query-cpus-fast", "query-block", "query-blockstats",
                                                    "query-balloon", "qom-get"};
    const char *balloon = machine_balloon_id(s->domain->machine);

    for (size_t i = 0; i < QUESTIONS; i++) {
        if (i >= ASK_BALLOON && !balloon)
            continue;
        if (qmp_client_invoke(s->domain->qmp, commands[i], i == ASK_GUEST_STATS ? guest_stats_arguments(balloon) : NULL,
                              on_answer, &s->answers[i]) >= 0)
            s->missing++;
    }
    return s->missing > 0 ? 0 : -ENOTCONN;
}

static bool has_monitor(const struct stats *s)
{
    return s->domain->qmp && s->domain->pid > 0;
}

int stats_get(struct stats *s, stats_fn done, void *userdata)
{
    int r;

    if (s->cached && now_usec() - s->cached_at < STATS_CACHE_USEC) {
        done(s->cached, NULL, userdata);
        return 0;
    }
    if (!has_monitor(s))
        return -ENOTCONN;
    if (!add_waiter(&s->waiters, done, userdata))
        return -EBUSY;
    if (s->missing > 0)
        return 0; /* being asked already */
    r = ask(s);
    if (r < 0)
        s->waiters.n--;
    return r;
}

void stats_enable_balloon_reports(struct stats *s)
{
    const char *balloon = machine_balloon_id(s->domain->machine);

    if (s->balloon_enabled || !balloon || !has_monitor(s) || s->domain->balloon_stats_seconds < 0)
        return;
    s->balloon_enabled = true;
    qmp_client_invoke(s->domain->qmp, "qom-set",
                      json_pack("{s:o, s:s, s:i}", "path", json_sprintf("/machine/peripheral/%s", balloon), "property",
                                "guest-stats-polling-interval", "value", s->domain->balloon_stats_seconds),
                      NULL, NULL);
}

/* ---- the rate at which the guest dirties its memory ---------------------------------------------------------------
 */

static int on_dirty_timer(sd_event_source *source, uint64_t at, void *userdata);

static void dirty_done(struct stats *s, json_t *result, const struct error *error)
{
    event_disarm_timer(s->dirty_timer);
    answer_all(&s->dirty_waiters, result, error);
}

static void on_dirty_rate(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct stats *s = userdata;
    const char *status = json_string_value(json_object_get(result, "status"));

    if (error) {
        dirty_done(s, NULL, error);
        return;
    }
    if (status && !streq(status, "measured") && now_usec() < s->dirty_give_up &&
        event_arm_timer(s->domain->event, &s->dirty_timer, DIRTY_RATE_RETRY_USEC, on_dirty_timer, s) >= 0)
        return; /* no event says when it is done */
    json_decref(s->dirty);
    s->dirty = json_object();
    put(s->dirty, "CalcStatus", true, status && streq(status, "measured") ? 2 : 1);
    copy(s->dirty, "CalcStartTime", result, "start-time", 1);
    copy(s->dirty, "CalcPeriod", result, "calc-time", 1);
    copy(s->dirty, "MegabytesPerSecond", result, "dirty-rate", 1);
    dirty_done(s, s->dirty, NULL);
}

static int on_dirty_timer(sd_event_source *source, uint64_t at, void *userdata)
{
    struct stats *s = userdata;

    if (!has_monitor(s) || qmp_client_invoke(s->domain->qmp, "query-dirty-rate", NULL, on_dirty_rate, s) < 0) {
        _cleanup_error_ struct error *e = NULL;

        error_set(&e, ERROR_CONNECTION, ENOTCONN, "QEMU's monitor is gone");
        dirty_done(s, NULL, e);
    }
    return 0;
}

static void on_dirty_begun(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct stats *s = userdata;

    if (error)
        dirty_done(s, NULL, error);
    else if (event_arm_timer(s->domain->event, &s->dirty_timer, DIRTY_RATE_USEC, on_dirty_timer, s) < 0)
        on_dirty_timer(NULL, 0, s);
}

int stats_get_dirty_rate(struct stats *s, stats_fn done, void *userdata)
{
    int r;

    if (!has_monitor(s))
        return -ENOTCONN;
    if (!add_waiter(&s->dirty_waiters, done, userdata))
        return -EBUSY;
    if (s->dirty_waiters.n > 1)
        return 0; /* being measured */
    s->dirty_give_up = now_usec() + DIRTY_RATE_USEC + TIMEOUT_SHORT_CALL_USEC / 2;
    r = qmp_client_invoke(s->domain->qmp, "calc-dirty-rate",
                          json_pack("{s:i}", "calc-time", (int)(DIRTY_RATE_USEC / USEC_PER_SEC)), on_dirty_begun, s);
    if (r < 0)
        s->dirty_waiters.n--;
    return r;
}
