/* SPDX-License-Identifier: Apache-2.0 */
#include "domain/guest-info.h"

#include "base/limits.h"
#include "base/log.h"

/*
 * One command and how often it is asked at the most (compat §5.8), in a multiple of the shortest. Adding one is adding
 * a row. Each wake-up of an idle CPU costs more than all that is done in it, so what falls due together is asked
 * together: every worker counts from the same start by whole intervals, however late an answer comes.
 *
 * An agent freezes only when it is asked to, and the only one that asks on this channel is this launcher, which then
 * knows. Thaw it can by itself (VSS after 10 s; an agent that was restarted): so its state is asked every 5 s
 * while it is frozen, and with the list of users while it is not.
 */
static const struct {
    const char *command;
    unsigned seconds;
    size_t interval;         /* in struct guest_info_intervals */
    unsigned seconds_thawed; /* at the least, while the answer is "thawed" */
} table[] = {
#define ROW(name, shortest, member, ...)                                                                               \
    {                                                                                                                  \
        .command = name, .seconds = shortest, .interval = offsetof(struct guest_info_intervals, member), __VA_ARGS__   \
    }
    ROW("guest-info", 300, version),
    ROW("guest-get-osinfo", 120, system),
    ROW("guest-get-host-name", 120, system),
    ROW("guest-get-timezone", 120, system),
    ROW("guest-network-get-interfaces", 120, system),
    ROW("guest-get-load", 120, system),
    ROW("guest-get-users", 10, users),
    ROW("guest-get-fsinfo", 300, filesystems),
    ROW("guest-fsfreeze-status", 5, freeze, .seconds_thawed = 10),
#undef ROW
};

#define WORKERS       (ELEMENTSOF(table))
#define FIRST_USEC    (10 * USEC_PER_SEC) /* the first interval; it doubles */
#define TOGETHER_USEC (1 * USEC_PER_SEC)  /* what is due so soon is asked in the same turn */
/* sd-event lets several programs of the host wake up at once within it */
#define INACCURACY_USEC (250 * USEC_PER_MSEC)

struct worker {
    struct guest_info *info;
    json_t *answer;
    uint64_t most, interval, due; /* due: CLOCK_MONOTONIC */
    bool asked;                   /* and not answered yet */
    bool unsupported;             /* the agent does not know the command: not asked again until it restarts */
};

struct guest_info {
    sd_event *event;
    struct qga_client *agent; /* NULL: stopped */
    bool held;
    unsigned epoch; /* an answer to a question of before the last start does not count */
    sd_event_source *timer;
    guest_info_changed_fn changed;
    void *userdata;
    struct worker workers[WORKERS];
};

struct question {
    struct worker *worker;
    unsigned epoch;
};

static void arm(struct guest_info *info);

struct guest_info *guest_info_new(sd_event *event, guest_info_changed_fn changed, void *userdata)
{
    struct guest_info *info = calloc(1, sizeof(*info));

    if (!info)
        return NULL;
    info->event = sd_event_ref(event);
    info->changed = changed;
    info->userdata = userdata;
    for (size_t i = 0; i < WORKERS; i++)
        info->workers[i].info = info;
    guest_info_set_intervals(info, &(struct guest_info_intervals){0});
    return info;
}

void guest_info_set_intervals(struct guest_info *info, const struct guest_info_intervals *intervals)
{
    for (size_t i = 0; i < WORKERS; i++) {
        uint64_t wanted = *(const uint64_t *)(const void *)((const char *)intervals + table[i].interval);

        info->workers[i].most = MAX(wanted ? wanted : table[i].seconds * USEC_PER_SEC, AGENT_INTERVAL_MIN_USEC);
    }
}

void guest_info_free(struct guest_info *info)
{
    if (!info)
        return;
    sd_event_source_disable_unref(info->timer);
    for (size_t i = 0; i < WORKERS; i++)
        json_decref(info->workers[i].answer);
    sd_event_unref(info->event);
    free(info);
}

static size_t index_of(const struct worker *worker)
{
    return (size_t)(worker - worker->info->workers);
}

static bool is_frozen(const struct worker *w)
{
    const char *status = json_string_value(w->answer);

    return table[index_of(w)].seconds_thawed && status && !streq(status, "thawed");
}

/* The longest interval while nothing is frozen. */
static uint64_t longest(const struct worker *w)
{
    return MAX(w->most, table[index_of(w)].seconds_thawed * USEC_PER_SEC);
}

/* From the last time that it was due, not from now: the workers stay in step. */
static void set_next(struct worker *w, uint64_t now)
{
    uint64_t interval = is_frozen(w) ? w->most : w->interval;

    if (w->due <= now + TOGETHER_USEC)
        w->due += ((now + TOGETHER_USEC - w->due) / interval + 1) * interval;
    w->interval = MIN(w->interval * 2, longest(w));
}

/* Consumes the answer. */
static void keep(struct worker *w, json_t *answer)
{
    bool same = w->answer && json_equal(w->answer, answer);

    json_decref(w->answer);
    w->answer = answer;
    if (!same && w->info->agent && is_frozen(w)) {
        w->due = MIN(w->due, now_usec() + w->most);
        arm(w->info);
    }
    if (!same && w->info->changed)
        w->info->changed(w->info, table[index_of(w)].command, w->info->userdata);
}

static void on_answer(struct qga_client *agent, json_t *result, const struct error *error, void *userdata)
{
    struct question *q = userdata;
    struct worker *w = q->worker;
    bool current = w->info->agent && q->epoch == w->info->epoch;
    const char *class = error_qmp_class(error);

    free(q);
    if (!current)
        return;
    w->asked = false;
    if (error && class && streq(class, "CommandNotFound"))
        w->unsupported = true;
    else if (error)
        log_debug("%s: %s", table[index_of(w)].command, error_message(error));
    else
        keep(w, json_incref(result));
}

static void ask(struct worker *w)
{
    struct question *q = malloc(sizeof(*q));

    if (!q)
        return;
    *q = (struct question){w, w->info->epoch};
    w->asked = qga_client_call(w->info->agent, table[index_of(w)].command, NULL, 0, on_answer, q) >= 0;
    if (!w->asked)
        free(q);
}

static int on_timer(sd_event_source *source, uint64_t at, void *userdata)
{
    struct guest_info *info = userdata;
    uint64_t now = now_usec();

    for (size_t i = 0; i < WORKERS && info->agent; i++) {
        struct worker *w = &info->workers[i];

        if (w->unsupported || w->due > now + TOGETHER_USEC)
            continue;
        set_next(w, now);
        if (!w->asked) /* an agent that is slower than the interval is not asked twice at a time */
            ask(w);
    }
    arm(info);
    return 0;
}

/* One timer for all, at the earliest that is due. */
static void arm(struct guest_info *info)
{
    uint64_t next = UINT64_MAX;
    int r;

    for (size_t i = 0; i < WORKERS && info->agent && !info->held; i++)
        if (!info->workers[i].unsupported)
            next = MIN(next, info->workers[i].due);
    if (next == UINT64_MAX) {
        event_disarm_timer(info->timer);
        return;
    }
    r = info->timer
            ? sd_event_source_set_time(info->timer, next)
            : sd_event_add_time(info->event, &info->timer, CLOCK_MONOTONIC, next, INACCURACY_USEC, on_timer, info);
    if (r >= 0)
        r = sd_event_source_set_enabled(info->timer, SD_EVENT_ONESHOT);
    if (r < 0)
        log_debug("cannot arm the timer of the guest's facts: %s", strerror(-r));
}

void guest_info_start(struct guest_info *info, struct qga_client *agent)
{
    uint64_t now = now_usec();

    info->agent = agent;
    info->epoch++;
    for (size_t i = 0; i < WORKERS; i++) {
        struct worker *w = &info->workers[i];

        w->interval = MIN(FIRST_USEC, longest(w));
        w->due = now;
        w->unsupported = false;
        set_next(w, now);
        ask(w);
    }
    arm(info);
}

void guest_info_stop(struct guest_info *info)
{
    info->agent = NULL;
    info->epoch++;
    event_disarm_timer(info->timer);
}

void guest_info_hold(struct guest_info *info, bool held)
{
    if (info->held == held)
        return;
    info->held = held;
    arm(info);
}

static struct worker *find(const struct guest_info *info, const char *command)
{
    for (size_t i = 0; i < WORKERS; i++)
        if (streq(table[i].command, command))
            return (struct worker *)&info->workers[i];
    return NULL;
}

json_t *guest_info_get(const struct guest_info *info, const char *command)
{
    const struct worker *w = find(info, command);

    return w ? w->answer : NULL;
}

void guest_info_set(struct guest_info *info, const char *command, json_t *answer)
{
    struct worker *w = find(info, command);

    if (w)
        keep(w, answer);
    else
        json_decref(answer);
}

void guest_info_ask(struct guest_info *info, const char *command)
{
    struct worker *w = find(info, command);

    if (w && info->agent && !w->asked)
        ask(w);
}

void guest_info_restore(struct guest_info *info, const char *command, json_t *answer)
{
    struct worker *w = find(info, command);

    if (!w) {
        json_decref(answer);
        return;
    }
    json_decref(w->answer);
    w->answer = answer;
}

/* ---- KubeVirt's JSON ----------------------------------------------------------------------------------------------
 */

/* KubeVirt's name of each member of guest-get-osinfo (qga/qapi-schema.json: GuestOSInfo), in its two spellings. */
static const struct {
    const char *agent, *lower, *upper;
} os_names[] = {
    {"name", "name", "Name"},
    {"kernel-release", "kernelRelease", "KernelRelease"},
    {"version", "version", "Version"},
    {"pretty-name", "prettyName", "PrettyName"},
    {"version-id", "versionId", "VersionId"},
    {"kernel-version", "kernelVersion", "KernelVersion"},
    {"machine", "machine", "Machine"},
    {"id", "id", "Id"},
};

static json_t *os_to_json(const struct guest_info *info, bool upper)
{
    json_t *from = guest_info_get(info, "guest-get-osinfo"), *to = json_object();

    for (size_t i = 0; i < ELEMENTSOF(os_names); i++) {
        json_t *value = json_object_get(from, os_names[i].agent);

        if (value)
            json_object_set(to, upper ? os_names[i].upper : os_names[i].lower, value);
    }
    return to;
}

json_t *guest_info_os_to_domain_json(const struct guest_info *info)
{
    return os_to_json(info, true);
}

json_t *guest_info_interfaces_to_domain_json(const struct guest_info *info)
{
    json_t *to = json_array(), *nic, *address;
    size_t i, k;

    json_array_foreach (guest_info_get(info, "guest-network-get-interfaces"), i, nic) {
        const char *name = json_string_value(json_object_get(nic, "name"));
        json_t *ips = json_array();

        json_array_foreach (json_object_get(nic, "ip-addresses"), k, address)
            json_array_append(ips, json_object_get(address, "ip-address"));
        if (name && !streq(name, "lo"))
            json_array_append_new(to,
                                  json_pack("{s:O*, s:s, s:O*, s:O}", "Mac", json_object_get(nic, "hardware-address"),
                                            "InterfaceName", name, "Ip", json_array_get(ips, 0), "IPs", ips));
        json_decref(ips);
    }
    return to;
}

json_t *guest_info_users_to_json(const struct guest_info *info, size_t most)
{
    json_t *to = json_array(), *user;
    size_t i;

    json_array_foreach (guest_info_get(info, "guest-get-users"), i, user) {
        if (i == most)
            break;
        json_array_append_new(to, json_pack("{s:O*, s:O*, s:O*}", "userName", json_object_get(user, "user"), "domain",
                                            json_object_get(user, "domain"), "loginTime",
                                            json_object_get(user, "login-time")));
    }
    return to;
}

json_t *guest_info_filesystems_to_json(const struct guest_info *info, size_t most)
{
    json_t *to = json_array(), *fs, *disk;
    size_t i, k;

    json_array_foreach (guest_info_get(info, "guest-get-fsinfo"), i, fs) {
        json_t *disks = json_array();

        if (i == most) {
            json_decref(disks);
            break;
        }
        json_array_foreach (json_object_get(fs, "disk"), k, disk)
            json_array_append_new(disks, json_pack("{s:O*, s:O*}", "serial", json_object_get(disk, "serial"), "busType",
                                                   json_object_get(disk, "bus-type")));
        json_array_append_new(to,
                              json_pack("{s:O*, s:O*, s:O*, s:O*, s:O*, s:o}", "diskName", json_object_get(fs, "name"),
                                        "mountPoint", json_object_get(fs, "mountpoint"), "fileSystemType",
                                        json_object_get(fs, "type"), "usedBytes", json_object_get(fs, "used-bytes"),
                                        "totalBytes", json_object_get(fs, "total-bytes"), "disk", disks));
    }
    return to;
}

json_t *guest_info_to_json(const struct guest_info *info)
{
    json_t *agent = guest_info_get(info, "guest-info"), *zone = guest_info_get(info, "guest-get-timezone"), *command;
    json_t *commands = json_array(), *time_zone = NULL, *to;
    size_t i;

    json_array_foreach (json_object_get(agent, "supported_commands"), i, command)
        json_array_append_new(commands, json_pack("{s:O*, s:O*}", "name", json_object_get(command, "name"), "enabled",
                                                  json_object_get(command, "enabled")));
    if (zone)
        time_zone = json_sprintf("%s, %lld", json_string_value(json_object_get(zone, "zone")) ?: "",
                                 (long long)json_integer_value(json_object_get(zone, "offset")));
    to = json_pack("{s:s, s:s, s:O*, s:o, s:O*}", "kind", "VirtualMachineInstanceGuestAgentInfo", "apiVersion",
                   "kubevirt.io/v1", "guestAgentVersion", json_object_get(agent, "version"), "supportedCommands",
                   commands, "hostname", json_object_get(guest_info_get(info, "guest-get-host-name"), "host-name"));
    json_object_set_new(to, "os", os_to_json(info, false));
    if (time_zone)
        json_object_set_new(to, "timezone", time_zone);
    json_object_set_new(to, "userList", guest_info_users_to_json(info, 10));
    json_object_set_new(to, "fsInfo", json_pack("{s:o}", "disks", guest_info_filesystems_to_json(info, 10)));
    if (guest_info_get(info, "guest-fsfreeze-status"))
        json_object_set(to, "fsFreezeStatus", guest_info_get(info, "guest-fsfreeze-status"));
    return to;
}
