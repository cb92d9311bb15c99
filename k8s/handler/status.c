/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/handler/status.h"

#include <inttypes.h>
#include <stdio.h>

#include "k8s/client/ktime.h"
#include "k8s/controller/object.h"
#include "netsetup/status.h"
#include "json/quantity.h"

#define MAX_LINKS 64U

bool phase_is_final(const char *phase)
{
    return streq(phase, "Succeeded") || streq(phase, "Failed");
}

const char *seen_state(const struct seen *seen)
{
    return GET_TEXT(seen->domain, "Status", "Status");
}

static bool is_alive(const struct seen *seen)
{
    const char *state = seen_state(seen);

    return *state && !streq(state, "NoState") && !streq(state, "Shutoff") && !streq(state, "Crashed");
}

static bool has_ended(const struct seen *seen)
{
    return streq(seen_state(seen), "Shutoff") || streq(seen_state(seen), "Crashed");
}

const char *handler_phase(const json_t *vmi, const struct seen *seen)
{
    const char *phase = GET_TEXT(vmi, "status", "phase"), *state = seen_state(seen),
               *reason = GET_TEXT(seen->domain, "Status", "Reason");
    const json_t *acpi = GET(vmi, "spec", "domain", "features", "acpi", "enabled");

    if (phase_is_final(phase))
        return phase;
    if (has_ended(seen)) {
        if (streq(reason, "Crashed") || streq(reason, "Panicked") || streq(reason, "Failed"))
            return "Failed";
        /* killed although it had time to shut down by itself */
        if (streq(reason, "Destroyed"))
            return GET_NUMBER(vmi, "spec", "terminationGracePeriodSeconds") > 0 && !json_is_false(acpi) &&
                           !is_deleting(vmi)
                       ? "Failed"
                       : "Succeeded";
        return streq(reason, "Migrated") ? phase : "Succeeded";
    }
    if (streq(state, "Paused"))
        return streq(reason, "StartingUp") ? phase : streq(reason, "PostcopyFailed") ? "Failed" : "Running";
    if (streq(state, "Running") || streq(state, "Blocked") || streq(state, "PMSuspended") ||
        streq(state, "ShuttingDown"))
        return "Running";
    return phase;
}

enum action handler_decide(const json_t *vmi, const struct seen *seen)
{
    const char *phase = GET_TEXT(vmi, "status", "phase");
    bool stopping =
        json_is_true(GET(seen->domain, "Spec", "Metadata", "KubeVirt", "GracePeriod", "MarkedForGracefulShutdown"));

    if (!vmi)
        return is_alive(seen) ? ACTION_KILL : ACTION_CLEAN;
    if (is_deleting(vmi)) {
        if (is_alive(seen))
            return stopping ? ACTION_NONE : ACTION_SHUTDOWN;
        return ACTION_CLEAN;
    }
    if (phase_is_final(phase) || has_ended(seen))
        return is_alive(seen) ? ACTION_KILL : ACTION_CLEAN;
    /* The pod was told to end, and the launcher is at it. */
    if (stopping)
        return ACTION_NONE;
    if (!streq(phase, "Scheduled") && !streq(phase, "Running"))
        return ACTION_NONE;
    return seen->synced && *seen_state(seen) ? ACTION_NONE : ACTION_SYNC;
}

/* ---- conditions ------------------------------------------------------------------------------------------------- */

/* Present when it holds, and gone when it does not, as KubeVirt has these. */
static void condition_when(json_t *conditions, bool holds, const char *type, const char *reason, const char *message,
                           int64_t now)
{
    if (holds)
        condition_set(conditions, type, "True", reason, message, now);
    else
        condition_remove(conditions, type);
}

static void set_paused(json_t *conditions, const struct seen *seen)
{
    static const struct {
        const char *domain, *reason, *message;
    } table[] = {
        {"User", "PausedByUser", "VMI was paused by user"},
        {"IOError", "PausedIOError", "VMI was paused, low-level IO error detected"},
        {"Migration", "PausedByMigrationMonitor", "VMI was paused by migration monitor"},
        {"Watchdog", "PausedByWatchdog", "VMI was paused by its watchdog"},
        {"Crashed", "PausedGuestPanicked", "VMI was paused: the guest's kernel has panicked"},
    };
    const char *reason = GET_TEXT(seen->domain, "Status", "Reason");

    if (streq(seen_state(seen), "Paused"))
        for (size_t i = 0; i < ELEMENTSOF(table); i++)
            if (streq(table[i].domain, reason)) {
                const char *volume = GET_TEXT(seen->extra, "ioError", "volume"),
                           *error = GET_TEXT(seen->extra, "ioError", "errno");
                char text[512];

                snprintf(text, sizeof(text), "%s%s%.253s%s%.200s", table[i].message, *volume ? ": volume " : "", volume,
                         *error ? ": " : "", error);
                condition_set(conditions, "Paused", "True", table[i].reason, text, seen->now);
                return;
            }
    condition_remove(conditions, "Paused");
}

static void set_conditions(json_t *conditions, const json_t *vmi, const struct seen *seen, const char *phase)
{
    bool running = streq(phase, "Running") && is_alive(seen);

    set_paused(conditions, seen);
    condition_when(conditions, running && json_is_true(GET(seen->extra, "agentConnected")), "AgentConnected", NULL,
                   NULL, seen->now);
    if (running) {
        condition_when(conditions, streq(GET_TEXT(seen->extra, "accel"), "tcg"), "SoftwareEmulation",
                       "SoftwareEmulation", GET_TEXT(seen->extra, "accelReason"), seen->now);
        condition_set(conditions, "LiveMigratable", "False", "NotMigratable", "vmlet does not migrate machines yet",
                      seen->now);
    }
    if (seen->failure)
        condition_set(conditions, "Synchronized", "False", "Synchronizing with the Domain failed.", seen->failure,
                      seen->now);
    else if (running && streq(GET_TEXT(condition_find(conditions, "Synchronized"), "reason"),
                              "Synchronizing with the Domain failed."))
        condition_remove(conditions, "Synchronized");
}

/* ---- the rest --------------------------------------------------------------------------------------------------- */

static void set_phase(json_t *status, const json_t *vmi, const char *phase, int64_t now)
{
    json_t *steps = json_object_get(status, "phaseTransitionTimestamps");
    char time[KUBE_TIME_SIZE];

    if (streq(phase, GET_TEXT(vmi, "status", "phase")))
        return;
    kube_time(now, time);
    json_object_set_new(status, "phase", json_string(phase));
    if (!json_is_array(steps)) {
        steps = json_array();
        json_object_set_new(status, "phaseTransitionTimestamps", steps);
    }
    json_array_append_new(steps, json_pack("{s:s, s:s}", "phase", phase, "phaseTransitionTimestamp", time));
}

static void set_interfaces(json_t *status, const json_t *vmi, const struct seen *seen)
{
    struct net_interface links[MAX_LINKS];
    struct net_status list[MAX_LINKS];
    const char *ips[MAX_LINKS][8];
    json_t *link, *ip, *merged;
    size_t i, k, n = 0;

    json_array_foreach (seen->links, i, link) {
        struct net_interface *to = &links[n];

        if (n == MAX_LINKS)
            break;
        *to = (struct net_interface){
            .name = GET_TEXT(link, "name"),
            .index = n,
            .binding = streq(GET_TEXT(link, "binding"), "masquerade") ? VMI_BINDING_MASQUERADE
                       : streq(GET_TEXT(link, "binding"), "passt")    ? VMI_BINDING_PASST
                                                                      : VMI_BINDING_BRIDGE,
            .names.pod = GET_TEXT(link, "podLink"),
            .mac = GET_TEXT(link, "mac"),
            .queues = (unsigned)GET_NUMBER(link, "queues"),
            .pod_ips.items = ips[n],
        };
        json_array_foreach (GET(link, "podIPs"), k, ip)
            if (to->pod_ips.count < ELEMENTSOF(ips[n]) && json_is_string(ip))
                ips[n][to->pod_ips.count++] = json_string_value(ip);
        list[n] = (struct net_status){.interface = to, .link_down = streq(GET_TEXT(link, "state"), "down")};
        n++;
    }
    if (n == 0)
        return;
    merged = net_status_merge(list, n, seen->agent_interfaces, GET(vmi, "status", "interfaces"));
    if (merged)
        json_object_set_new(status, "interfaces", merged);
}

static void set_guest(json_t *status, const json_t *vmi, const struct seen *seen)
{
    static const struct {
        const char *from, *to;
    } os[] = {{"Name", "name"},           {"KernelRelease", "kernelRelease"},
              {"Version", "version"},     {"PrettyName", "prettyName"},
              {"VersionId", "versionId"}, {"KernelVersion", "kernelVersion"},
              {"Machine", "machine"},     {"Id", "id"}};
    const json_t *info = GET(seen->domain, "Status", "OSInfo"),
                 *topology = GET(seen->domain, "Spec", "CPU", "Topology");
    const char *freeze = GET_TEXT(seen->domain, "Status", "FSFreezeStatus", "Status"),
               *machine = GET_TEXT(seen->domain, "Spec", "OS", "Type", "Machine");
    int64_t memory = GET_NUMBER(seen->domain, "Spec", "Memory", "Value");
    json_t *guest = json_object();

    for (size_t i = 0; i < ELEMENTSOF(os); i++)
        if (*GET_TEXT(info, os[i].from))
            json_object_set_new(guest, os[i].to, json_string(GET_TEXT(info, os[i].from)));
    if (json_object_size(guest) > 0 || !GET(vmi, "status", "guestOSInfo"))
        json_object_set(status, "guestOSInfo", guest);
    json_decref(guest);
    if (streq(freeze, "frozen"))
        json_object_set_new(status, "fsFreezeStatus", json_string(freeze));
    else
        json_object_del(status, "fsFreezeStatus");
    if (topology)
        json_object_set_new(status, "currentCPUTopology",
                            json_pack("{s:I, s:I, s:I}", "sockets", (json_int_t)GET_NUMBER(topology, "Sockets"),
                                      "cores", (json_int_t)GET_NUMBER(topology, "Cores"), "threads",
                                      (json_int_t)GET_NUMBER(topology, "Threads")));
    if (*machine)
        json_object_set_new(status, "machine", json_pack("{s:s}", "type", machine));
    if (memory > 0 && !GET(status, "memory", "guestAtBoot")) {
        json_t *to = MAKE(status, "memory");
        char text[32];
        unsigned unit = 0;

        for (; memory % 1024 == 0 && unit < 4; unit++) /* as Kubernetes prints a quantity: 4Gi, not 4096Mi */
            memory /= 1024;
        snprintf(text, sizeof(text), "%" PRIi64 "%s", memory, (const char *const[]){"", "Ki", "Mi", "Gi", "Ti"}[unit]);
        json_object_set_new(to, "guestAtBoot", json_string(text));
        json_object_set_new(to, "guestCurrent", json_string(text));
        json_object_set_new(to, "guestRequested", json_string(text));
    }
}

/* Every volume that is a disk, with its name in the guest. */
static void set_volumes(json_t *status, const struct seen *seen)
{
    json_t *disks = GET(seen->domain, "Spec", "Devices", "Disks"), *list, *disk;
    size_t i;

    if (!disks)
        return;
    list = volume_list(status);
    json_array_foreach (disks, i, disk)
        json_object_set_new(volume_entry(list, GET_TEXT(disk, "Alias", "Name")), "target",
                            json_string(GET_TEXT(disk, "Target", "Device")));
}

int64_t handler_claim_bytes(const json_t *vmi)
{
    int64_t sum = 0;
    json_t *entry;
    size_t i;

    json_array_foreach (GET(vmi, "status", "volumeStatus"), i, entry) {
        const char *text = GET_TEXT(entry, "persistentVolumeClaimInfo", "capacity", "storage"), *why;
        struct quantity bytes;

        if (*text && quantity_parse(text, &bytes, &why) >= 0 && __builtin_add_overflow(sum, bytes.value, &sum))
            return INT64_MAX;
    }
    return sum;
}

json_t *handler_status(const json_t *vmi, const struct seen *seen)
{
    json_t *status = json_deep_copy(GET(vmi, "status"));
    const char *phase = handler_phase(vmi, seen);

    if (!status)
        status = json_object();
    if (!json_is_array(json_object_get(status, "conditions")))
        json_object_set_new(status, "conditions", json_array());
    set_phase(status, vmi, phase, seen->now);
    set_conditions(json_object_get(status, "conditions"), vmi, seen, phase);
    if (is_alive(seen)) {
        set_interfaces(status, vmi, seen);
        set_guest(status, vmi, seen);
        set_volumes(status, seen);
        if (!GET(status, "selinuxContext"))
            json_object_set_new(status, "selinuxContext", json_string("none"));
    }
    return status;
}
