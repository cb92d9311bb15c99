/* SPDX-License-Identifier: Apache-2.0 */
/* What people ask of virsh, one word each: made of QEMU's own answers. */
#include <fnmatch.h>
#include <time.h>

#include "base/fd.h"
#include "base/strbuf.h"
#include "base/strv.h"
#include "qmp/shell/shell.h"

/* A query whose failure leaves its part of a view out. */
static json_t *ask(struct shell *sh, const char *command, json_t *arguments)
{
    json_t *result = NULL;

    return shell_call(sh, command, arguments, &result, NULL) < 0 ? NULL : result;
}

static int must_ask(struct shell *sh, const char *command, json_t *arguments, json_t **ret, struct error **ret_error)
{
    return shell_call(sh, command, arguments, ret, ret_error);
}

static const char *text(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

static void put(json_t *object, const char *name, const json_t *value)
{
    if (value)
        json_object_set(object, name, (json_t *)value);
}

/* Takes one member of a reply over. */
static void put_of(json_t *object, const char *name, json_t *reply, const char *member)
{
    put(object, name, json_object_get(reply, member));
    json_decref(reply);
}

/* What QEMU does not know: since when and why, which volume failed, what is being done about it. */
static void put_served_state(json_t *row, const json_t *domain)
{
    static const char *const names[][2] = {{"volume", "io-error-volume"},
                                           {"errno", "io-error"},
                                           {"attempts", "resume-attempts"},
                                           {"nextTry", "next-resume"}};
    const json_t *status = json_object_get(json_object_get(domain, "domain"), "Status");
    const json_t *extra = json_object_get(domain, "vmlet"), *failed = json_object_get(extra, "ioError");

    put(row, "state", status ? json_object_get(status, "Status") : NULL);
    put(row, "reason", json_object_get(status, "Reason"));
    put(row, "since", json_object_get(extra, "since"));
    for (size_t i = 0; i < ELEMENTSOF(names); i++)
        put(row, names[i][1], json_object_get(failed, names[i][0]));
    put(row, "stopping", json_object_get(json_object_get(extra, "stopping"), "why"));
    put(row, "outcome", json_object_get(extra, "outcome"));
    if (!status)
        json_object_set_new(row, "state", json_string("NoState"));
}

static int get_domstate(struct shell *sh, char **words, json_t **ret, struct error **ret_error)
{
    json_t *status = NULL, *domain = NULL;
    bool served = session_get_domain(sh->session, &domain, NULL) >= 0;
    int r = must_ask(sh, "query-status", NULL, &status, served ? NULL : ret_error);

    if (r < 0 && !served) /* the server also knows the state of a VM that has no monitor any more, or not yet */
        return r;
    *ret = json_object();
    put(*ret, "status", json_object_get(status, "status"));
    put(*ret, "running", json_object_get(status, "running"));
    if (served)
        put_served_state(*ret, domain);
    json_decref(status);
    json_decref(domain);
    return 0;
}

static void put_version(json_t *object, json_t *reply)
{
    json_t *v = json_object_get(reply, "qemu");
    const char *package = text(reply, "package");

    json_object_set_new(object, "qemu",
                        json_sprintf("%lld.%lld.%lld%s%s%s", json_integer_value(json_object_get(v, "major")),
                                     json_integer_value(json_object_get(v, "minor")),
                                     json_integer_value(json_object_get(v, "micro")), package && *package ? " (" : "",
                                     package ? package : "", package && *package ? ")" : ""));
    json_decref(reply);
}

static int get_dominfo(struct shell *sh, char **words, json_t **ret, struct error **ret_error)
{
    json_t *info, *cpus, *kvm;
    int r = get_domstate(sh, words, &info, ret_error);

    if (r < 0)
        return r;
    put_of(info, "name", ask(sh, "query-name", NULL), "name");
    put_of(info, "uuid", ask(sh, "query-uuid", NULL), "UUID");
    cpus = ask(sh, "query-cpus-fast", NULL);
    json_object_set_new(info, "vcpus", json_integer((json_int_t)json_array_size(cpus)));
    json_decref(cpus);
    put_of(info, "memory-bytes", ask(sh, "query-memory-size-summary", NULL), "base-memory");
    put_of(info, "balloon-bytes", ask(sh, "query-balloon", NULL), "actual");
    kvm = ask(sh, "query-kvm", NULL);
    json_object_set_new(info, "accelerator",
                        json_string(json_is_true(json_object_get(kvm, "enabled")) ? "kvm" : "tcg"));
    json_decref(kvm);
    put_of(info, "arch", ask(sh, "query-target", NULL), "arch");
    put_version(info, ask(sh, "query-version", NULL));
    *ret = info;
    return 0;
}

/* The id that a person gave: "/machine/peripheral/disk0/virtio-backend" is disk0. */
static json_t *device_name(const json_t *block)
{
    const char *qdev = text(block, "qdev"), *name;

    if (qdev && (name = startswith(qdev, "/machine/peripheral/")))
        return json_stringn(name, strcspn(name, "/"));
    if (qdev && *qdev)
        return json_string(qdev);
    return json_string(text(block, "device") ? text(block, "device") : "");
}

static bool selects(char **words, const json_t *device)
{
    return !words[1] || fnmatch(words[1], json_string_value(device), 0) == 0;
}

/* One row for each disk that the words choose; `fill` adds what the view shows. */
static int each_block(struct shell *sh, char **words, const char *query, bool (*fill)(json_t *row, const json_t *block),
                      json_t **ret, struct error **ret_error)
{
    json_t *reply = NULL, *rows, *block;
    size_t i;
    int r = must_ask(sh, query, NULL, &reply, ret_error);

    if (r < 0)
        return r;
    rows = json_array();
    json_array_foreach (reply, i, block) {
        json_t *row = json_object(), *device = device_name(block);

        json_object_set(row, "device", device);
        if (selects(words, device) && fill(row, block))
            json_array_append(rows, row);
        json_decref(device);
        json_decref(row);
    }
    json_decref(reply);
    if (words[1] && json_array_size(rows) == 0 && !streq(words[0], "domblkerror")) {
        json_decref(rows);
        return error_set(ret_error, ERROR_NOT_FOUND, ENOENT, "%s: no disk \"%s\"", words[0], words[1]);
    }
    *ret = rows;
    return 0;
}

static bool fill_list(json_t *row, const json_t *block)
{
    json_t *inserted = json_object_get(block, "inserted");

    put(row, "node", json_object_get(inserted, "node-name"));
    put(row, "format", json_object_get(inserted, "drv"));
    put(row, "read-only", json_object_get(inserted, "ro"));
    put(row, "file", json_object_get(inserted, "file"));
    return true;
}

static bool fill_info(json_t *row, const json_t *block)
{
    json_t *image = json_object_get(json_object_get(block, "inserted"), "image");

    put(row, "capacity", json_object_get(image, "virtual-size"));
    put(row, "allocation", json_object_get(image, "actual-size"));
    put(row, "format", json_object_get(image, "format"));
    put(row, "backing", json_object_get(image, "backing-filename"));
    put(row, "file", json_object_get(image, "filename"));
    return true;
}

static bool fill_stat(json_t *row, const json_t *block)
{
    static const char *const names[] = {
        "rd_operations",    "rd_bytes",         "wr_operations",        "wr_bytes",
        "flush_operations", "unmap_operations", "failed_rd_operations", "failed_wr_operations"};
    json_t *stats = json_object_get(block, "stats");

    for (size_t i = 0; i < ELEMENTSOF(names); i++)
        put(row, names[i], json_object_get(stats, names[i]));
    return true;
}

static bool fill_error(json_t *row, const json_t *block)
{
    const char *status = text(block, "io-status");

    put(row, "io-status", json_object_get(block, "io-status"));
    put(row, "file", json_object_get(json_object_get(block, "inserted"), "file"));
    return status && !streq(status, "ok");
}

static int get_domblklist(struct shell *sh, char **words, json_t **ret, struct error **ret_error)
{
    return each_block(sh, words, "query-block", fill_list, ret, ret_error);
}

static int get_domblkinfo(struct shell *sh, char **words, json_t **ret, struct error **ret_error)
{
    return each_block(sh, words, "query-block", fill_info, ret, ret_error);
}

static int get_domblkstat(struct shell *sh, char **words, json_t **ret, struct error **ret_error)
{
    return each_block(sh, words, "query-blockstats", fill_stat, ret, ret_error);
}

static int get_domblkerror(struct shell *sh, char **words, json_t **ret, struct error **ret_error)
{
    return each_block(sh, words, "query-block", fill_error, ret, ret_error);
}

/* ---- network --------------------------------------------------------------------------------------------------------
 */

static json_t *get_property(struct shell *sh, const char *path, const char *property)
{
    return ask(sh, "qom-get", json_pack("{s:s, s:s}", "path", path, "property", property));
}

/* Devices with a MAC address below a container of the machine. */
static void add_nics(struct shell *sh, const char *container, json_t *rows)
{
    json_t *children = ask(sh, "qom-list", json_pack("{s:s}", "path", container)), *child;
    size_t i;

    json_array_foreach (children, i, child) {
        const char *type = text(child, "type"), *model = type ? startswith(type, "child<") : NULL;
        _cleanup_free_ char *path = NULL;
        json_t *mac;

        if (!model || asprintf(&path, "%s/%s", container, text(child, "name")) < 0)
            continue;
        mac = get_property(sh, path, "mac");
        if (json_is_string(mac)) {
            json_t *row = json_pack("{s:s, s:O}", "device", text(child, "name"), "mac", mac);
            json_t *backend = get_property(sh, path, "netdev");

            json_object_set_new(row, "model", json_stringn(model, strcspn(model, ">")));
            put(row, "netdev", backend);
            json_decref(backend);
            json_array_append_new(rows, row);
        }
        json_decref(mac);
    }
    json_decref(children);
}

/* The host interface behind a netdev, from HMP's "info network": nothing in QMP tells it. */
static void put_host_interface(json_t *row, const char *info)
{
    const char *netdev = text(row, "netdev"), *line = info, *name;
    char start[80];

    if (!netdev || !info || !*netdev)
        return;
    snprintf(start, sizeof(start), "%s: ", netdev);
    line = strstr(info, start);
    if (!line)
        return;
    name = strstr(line, "type=");
    if (name)
        json_object_set_new(row, "backend", json_stringn(name + 5, strcspn(name + 5, ",\r\n")));
    name = strstr(line, "ifname=");
    if (name && name < line + strcspn(line, "\n"))
        json_object_set_new(row, "host", json_stringn(name + 7, strcspn(name + 7, ",\r\n")));
}

static int get_domiflist(struct shell *sh, char **words, json_t **ret, struct error **ret_error)
{
    json_t *info = NULL, *row;
    size_t i;

    *ret = json_array();
    add_nics(sh, "/machine/peripheral", *ret);
    add_nics(sh, "/machine/peripheral-anon", *ret);
    info = ask(sh, "human-monitor-command", json_pack("{s:s}", "command-line", "info network"));
    json_array_foreach (*ret, i, row)
        put_host_interface(row, json_string_value(info));
    json_decref(info);
    return 0;
}

static void put_counter(json_t *row, const char *name, const char *interface, const char *counter)
{
    _cleanup_free_ char *path = NULL, *data = NULL;
    size_t length;

    if (strchr(interface, '/') || asprintf(&path, "/sys/class/net/%s/statistics/%s", interface, counter) < 0)
        return;
    if (file_read(path, 64, &data, &length, NULL) >= 0)
        json_object_set_new(row, name, qmp_json_uint64(strtoull(data, NULL, 10)));
}

/* QEMU does not count packets; the host's tap does, seen from the other side: what the tap sends the guest receives. */
static int get_domifstat(struct shell *sh, char **words, json_t **ret, struct error **ret_error)
{
    static const char *const counters[][2] = {
        {"rx-bytes", "tx_bytes"}, {"rx-packets", "tx_packets"}, {"rx-dropped", "tx_dropped"},
        {"tx-bytes", "rx_bytes"}, {"tx-packets", "rx_packets"}, {"tx-dropped", "rx_dropped"},
    };
    json_t *row;
    size_t i;
    int r = get_domiflist(sh, words, ret, ret_error);

    if (r < 0)
        return r;
    json_array_foreach (*ret, i, row)
        for (size_t k = 0; text(row, "host") && k < ELEMENTSOF(counters); k++)
            put_counter(row, counters[k][0], text(row, "host"), counters[k][1]);
    return 0;
}

static int get_domifaddr(struct shell *sh, char **words, json_t **ret, struct error **ret_error)
{
    json_t *reply = NULL, *nic, *address;
    size_t i, k;
    int r = shell_call_agent(sh, "guest-network-get-interfaces", NULL, &reply, ret_error);

    if (r < 0)
        return r;
    *ret = json_array();
    json_array_foreach (reply, i, nic) {
        json_array_foreach (json_object_get(nic, "ip-addresses"), k, address) {
            json_t *row = json_object();

            put(row, "interface", json_object_get(nic, "name"));
            put(row, "mac", json_object_get(nic, "hardware-address"));
            put(row, "family", json_object_get(address, "ip-address-type"));
            json_object_set_new(row, "address",
                                json_sprintf("%s/%lld", text(address, "ip-address") ? text(address, "ip-address") : "?",
                                             json_integer_value(json_object_get(address, "prefix"))));
            json_array_append_new(*ret, row);
        }
    }
    json_decref(reply);
    return 0;
}

/* ---- memory, CPUs, machine
 * -------------------------------------------------------------------------------------------- */

/* The path of the first device below the container whose type name contains the word; freed by the caller. */
static char *find_device(struct shell *sh, const char *container, const char *word)
{
    json_t *children = ask(sh, "qom-list", json_pack("{s:s}", "path", container)), *child;
    char *path = NULL;
    size_t i;

    json_array_foreach (children, i, child)
        if (!path && text(child, "type") && strstr(text(child, "type"), word) &&
            asprintf(&path, "%s/%s", container, text(child, "name")) < 0)
            path = NULL;
    json_decref(children);
    return path;
}

static int get_dommemstat(struct shell *sh, char **words, json_t **ret, struct error **ret_error)
{
    _cleanup_free_ char *balloon = NULL;
    json_t *summary = NULL, *stats, *value, *inner;
    const char *name;
    int r = must_ask(sh, "query-memory-size-summary", NULL, &summary, ret_error);

    if (r < 0)
        return r;
    *ret = json_object();
    put(*ret, "base-memory", json_object_get(summary, "base-memory"));
    put(*ret, "plugged-memory", json_object_get(summary, "plugged-memory"));
    json_decref(summary);
    put_of(*ret, "actual", ask(sh, "query-balloon", NULL), "actual");
    balloon = find_device(sh, "/machine/peripheral", "virtio-balloon");
    if (!balloon)
        balloon = find_device(sh, "/machine/peripheral-anon", "virtio-balloon");
    stats = balloon ? get_property(sh, balloon, "guest-stats") : NULL;
    inner = json_object_get(stats, "stats");
    json_object_foreach (inner, name, value)
        if (!streq(name, "") &&
            !(qmp_json_big_number(value) && streq(qmp_json_big_number(value), "18446744073709551615")))
            put(*ret, name, value); /* UINT64_MAX: the guest did not tell */
    put(*ret, "last-update", json_object_get(stats, "last-update"));
    json_decref(stats);
    return 0;
}

/* Everything that is counted, in one answer. */
static int get_domstats(struct shell *sh, char **words, json_t **ret, struct error **ret_error)
{
    static const struct {
        const char *name;
        int (*get)(struct shell *sh, char **words, json_t **ret, struct error **ret_error);
    } parts[] = {{"state", get_domstate},
                 {"memory", get_dommemstat},
                 {"block", get_domblkstat},
                 {"block-sizes", get_domblkinfo},
                 {"net", get_domifstat}};
    char *none[2] = {words[0], NULL};

    *ret = json_object();
    for (size_t i = 0; i < ELEMENTSOF(parts); i++) {
        json_t *part = NULL;
        int r = parts[i].get(sh, none, &part, i == 0 ? ret_error : NULL);

        if (r < 0 && i == 0) {
            json_decref(*ret);
            return r;
        }
        if (r >= 0)
            json_object_set_new(*ret, parts[i].name, part);
    }
    return 0;
}

/* ---- what only the guest knows --------------------------------------------------------------------------------------
 */

static int get_domtime(struct shell *sh, char **words, json_t **ret, struct error **ret_error)
{
    json_t *reply = NULL;
    char stamp[40] = "";
    struct timespec here;
    struct tm tm;
    json_int_t now;
    time_t seconds;
    int r = shell_call_agent(sh, "guest-get-time", NULL, &reply, ret_error);

    if (r < 0)
        return r;
    clock_gettime(CLOCK_REALTIME, &here);
    now = json_integer_value(reply); /* nanoseconds */
    json_decref(reply);
    seconds = (time_t)(now / 1000000000);
    if (gmtime_r(&seconds, &tm))
        strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%SZ", &tm);
    *ret = json_pack("{s:s, s:I, s:f}", "time", stamp, "nanoseconds", now, "ahead-of-host",
                     (double)now / 1e9 - (double)here.tv_sec - (double)here.tv_nsec / 1e9);
    return 0;
}

static int get_domhostname(struct shell *sh, char **words, json_t **ret, struct error **ret_error)
{
    return shell_call_agent(sh, "guest-get-host-name", NULL, ret, ret_error);
}

static int get_domfsinfo(struct shell *sh, char **words, json_t **ret, struct error **ret_error)
{
    return shell_call_agent(sh, "guest-get-fsinfo", NULL, ret, ret_error);
}

static int get_vcpuinfo(struct shell *sh, char **words, json_t **ret, struct error **ret_error)
{
    json_t *reply = NULL, *cpu, *value;
    const char *name;
    size_t i;
    int r = must_ask(sh, "query-cpus-fast", NULL, &reply, ret_error);

    if (r < 0)
        return r;
    *ret = json_array();
    json_array_foreach (reply, i, cpu) {
        json_t *row = json_object();

        put(row, "vcpu", json_object_get(cpu, "cpu-index"));
        put(row, "thread", json_object_get(cpu, "thread-id"));
        json_object_foreach (json_object_get(cpu, "props"), name, value)
            put(row, name, value);
        put(row, "qom-path", json_object_get(cpu, "qom-path"));
        json_array_append_new(*ret, row);
    }
    json_decref(reply);
    return 0;
}

static int get_dumpmachine(struct shell *sh, char **words, json_t **ret, struct error **ret_error)
{
    static const char *const parts[][2] = {
        {"machine", "query-current-machine"},
        {"cpus", "query-cpus-fast"},
        {"hotpluggable-cpus", "query-hotpluggable-cpus"},
        {"memory", "query-memory-size-summary"},
        {"memory-devices", "query-memory-devices"},
        {"block", "query-block"},
        {"nodes", "query-named-block-nodes"},
        {"pci", "query-pci"},
        {"chardevs", "query-chardev"},
        {"iothreads", "query-iothreads"},
    };
    json_t *reply;
    int r = get_dominfo(sh, words, &reply, ret_error);

    if (r < 0)
        return r;
    *ret = json_pack("{s:o}", "domain", reply);
    for (size_t i = 0; i < ELEMENTSOF(parts); i++) {
        reply = ask(sh, parts[i][1], NULL);
        put(*ret, parts[i][0], reply);
        json_decref(reply);
    }
    reply = json_array();
    add_nics(sh, "/machine/peripheral", reply);
    json_object_set_new(*ret, "nics", reply);
    reply = ask(sh, "qom-list", json_pack("{s:s}", "path", "/machine/peripheral"));
    put(*ret, "devices", reply);
    json_decref(reply);
    return 0;
}

/* The vCPUs' threads belong to the QEMU process, and /proc has its command line under any of them. */
static int get_argv(struct shell *sh, char **words, json_t **ret, struct error **ret_error)
{
    _cleanup_free_ char *path = NULL, *data = NULL;
    json_t *cpus = NULL;
    json_int_t thread;
    size_t length;
    int r = must_ask(sh, "query-cpus-fast", NULL, &cpus, ret_error);

    if (r < 0)
        return r;
    thread = json_integer_value(json_object_get(json_array_get(cpus, 0), "thread-id"));
    json_decref(cpus);
    if (thread <= 0 || asprintf(&path, "/proc/%lld/cmdline", (long long)thread) < 0)
        return error_set(ret_error, ERROR_NOT_FOUND, ENOENT, "argv: this QEMU has no vCPU");
    r = file_read(path, 1 << 20, &data, &length, ret_error);
    if (r < 0)
        return error_wrap(ret_error, r, "argv: QEMU's process cannot be read from here");
    *ret = json_array();
    for (size_t i = 0; i < length; i += strlen(data + i) + 1)
        json_array_append_new(*ret, json_string(data + i));
    return 0;
}

static int get_capabilities(struct shell *sh, char **words, json_t **ret, struct error **ret_error)
{
    json_t *reply = NULL, *item, *names;
    size_t i;
    int r = must_ask(sh, "query-version", NULL, &reply, ret_error);

    if (r < 0)
        return r;
    *ret = json_object();
    put_version(*ret, reply);
    put_of(*ret, "arch", ask(sh, "query-target", NULL), "arch");
    reply = ask(sh, "query-kvm", NULL);
    put(*ret, "kvm", reply);
    json_decref(reply);
    for (int k = 0; k < 2; k++) {
        reply = ask(sh, k ? "query-cpu-definitions" : "query-machines", NULL);
        names = json_array();
        json_array_foreach (reply, i, item)
            json_array_append(names, json_object_get(item, "name"));
        json_object_set_new(*ret, k ? "cpus" : "machines", names);
        json_decref(reply);
    }
    if (sh->schema) {
        names = qmp_schema_list(sh->schema, "event");
        json_object_set_new(*ret, "events", names);
    }
    return 0;
}

static const struct view views[] = {
    {"dominfo", "", "name, state, CPUs, memory, accelerator, version", "= *-bytes", get_dominfo},
    {"domstate", "", "running, paused, shutdown, io-error…; why and since when", "", get_domstate},
    {"domblklist", "[DEVICE]", "disks and their images",
     "device:Device node:Node format:Format read-only:Read-only file:File", get_domblklist},
    {"domblkinfo", "[DEVICE]", "sizes of the images",
     "device:Device capacity:Capacity:size allocation:Allocation:size format:Format file:File", get_domblkinfo},
    {"domblkstat", "[DEVICE]", "operations and bytes of the disks",
     "device:Device rd_operations:Reads rd_bytes:Read:size wr_operations:Writes wr_bytes:Written:size "
     "flush_operations:Flushes failed_rd_operations:Read-errors failed_wr_operations:Write-errors",
     get_domblkstat},
    {"domblkerror", "[DEVICE]", "disks with an I/O error", "device:Device io-status:Status file:File", get_domblkerror},
    {"domiflist", "", "network cards", "device:Device model:Model mac:MAC netdev:Netdev backend:Backend host:Host",
     get_domiflist},
    {"domifstat", "", "bytes and packets of the network cards, from the host's tap devices",
     "device:Device host:Host rx-bytes:RX:size rx-packets:RX-packets rx-dropped:RX-dropped tx-bytes:TX:size "
     "tx-packets:TX-packets tx-dropped:TX-dropped",
     get_domifstat},
    {"domifaddr", "", "addresses, from the guest agent", "interface:Interface mac:MAC family:Family address:Address",
     get_domifaddr},
    {"dommemstat", "", "memory, with the balloon's statistics", "= *memory* actual stat-swap-* *caches",
     get_dommemstat},
    {"domstats", "", "all that is counted, in one answer", NULL, get_domstats},
    {"domtime", "", "the guest's clock, and how many seconds it is ahead, from the guest agent", "", get_domtime},
    {"domhostname", "", "the guest's name of itself, from the guest agent", NULL, get_domhostname},
    {"domfsinfo", "", "the guest's file systems, from the guest agent",
     "mountpoint:Mounted-at name:Device type:Type used-bytes:Used:size total-bytes:Size:size", get_domfsinfo},
    {"vcpuinfo", "", "vCPUs and their host threads", NULL, get_vcpuinfo},
    {"dumpmachine", "", "the whole machine as JSON", NULL, get_dumpmachine},
    {"argv", "", "QEMU's command line, one argument a line", NULL, get_argv},
    {"capabilities", "", "what this QEMU can do: machines, CPUs, events", NULL, get_capabilities},
    {NULL, NULL, NULL, NULL, NULL},
};

const struct view *shell_views(void)
{
    return views;
}
