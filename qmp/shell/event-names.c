/* SPDX-License-Identifier: Apache-2.0 */
/* Events by the names that people know from virsh. */
#include <fnmatch.h>

#include "base/strv.h"
#include "qmp/shell/shell.h"

/*
 * What `virsh event --list` names, and what QEMU sends for it (libvirt's src/qemu/qemu_monitor_json.c and
 * qemu_process.c say which becomes which). `served`: what the command server makes of it, where that has another name.
 */
static const struct event_name names[] = {
    {"lifecycle", "STOP RESUME SHUTDOWN POWERDOWN GUEST_PANICKED GUEST_CRASHLOADED SUSPEND SUSPEND_DISK WAKEUP",
     "Domain/* Kubernetes/GuestPanicked", "started, stopped, paused, resumed, shut down, crashed"},
    {"reboot", "RESET", "Domain/Reset", "the machine was reset"},
    {"rtc-change", "RTC_CHANGE", NULL, "the guest set its clock"},
    {"watchdog", "WATCHDOG", "Domain/Watchdog", "the guest's watchdog fired"},
    {"io-error", "BLOCK_IO_ERROR", "Kubernetes/IOerror Domain/IOError*", "a disk failed"},
    {"io-error-reason", "BLOCK_IO_ERROR", "Kubernetes/IOerror Domain/IOError*", "a disk failed, with the reason"},
    {"graphics", "VNC_* SPICE_*", NULL, "somebody came to the display, or left"},
    {"control-error", NULL, NULL, "libvirt lost QEMU's monitor: this shell ends then, and says so"},
    {"block-job", "BLOCK_JOB_* JOB_STATUS_CHANGE", NULL, "a block job goes on, is ready, has ended"},
    {"block-job-2", "BLOCK_JOB_* JOB_STATUS_CHANGE", NULL, "the same"},
    {"disk-change", NULL, NULL, "libvirt itself left a disk out at the start"},
    {"tray-change", "DEVICE_TRAY_MOVED", NULL, "a CD's tray was opened or closed"},
    {"pm-wakeup", "WAKEUP", "Domain/Running", "the guest woke up"},
    {"pm-suspend", "SUSPEND", "Domain/PMSuspended", "the guest sleeps, in memory"},
    {"pm-suspend-disk", "SUSPEND_DISK", NULL, "the guest sleeps, on disk"},
    {"balloon-change", "BALLOON_CHANGE", NULL, "the balloon has another size"},
    {"device-added", NULL, NULL, "libvirt itself plugged a device; QEMU answers device_add when it is done"},
    {"device-removed", "DEVICE_DELETED", "Device/DeviceRemoved", "a device is gone"},
    {"device-removal-failed", "DEVICE_UNPLUG_GUEST_ERROR MEM_UNPLUG_ERROR", NULL, "the guest did not let it go"},
    {"tunable", NULL, NULL, "libvirt itself changed a limit"},
    {"agent-lifecycle", "VSERPORT_CHANGE", "Agent/Connected Agent/Disconnected", "the guest agent came or went"},
    {"migration-iteration", "MIGRATION_PASS", NULL, "a pass of a migration over memory"},
    {"job-completed", "MIGRATION DUMP_COMPLETED", "Domain/MemoryDump*", "a migration or dump has ended"},
    {"metadata-change", NULL, NULL, "libvirt itself changed its notes of the domain"},
    {"block-threshold", "BLOCK_WRITE_THRESHOLD", NULL, "a write came near the end of an image"},
    {"memory-failure", "MEMORY_FAILURE", NULL, "the host's memory is broken"},
    {"memory-device-size-change", "MEMORY_DEVICE_SIZE_CHANGE", NULL, "a virtio-mem device has another size"},
    {NULL, NULL, NULL, NULL},
};

const struct event_name *shell_event_names(void)
{
    return names;
}

static bool is_in(const char *patterns, const char *name)
{
    while (patterns && *patterns) {
        size_t n = strcspn(patterns, " ");
        char one[64];

        if (n < sizeof(one)) {
            memcpy(one, patterns, n);
            one[n] = '\0';
            if (fnmatch(one, name, 0) == 0)
                return true;
        }
        patterns += n + strspn(patterns + n, " ");
    }
    return false;
}

bool shell_event_matches(const char *pattern, const char *name)
{
    const char *slash = strchr(name, '/');

    for (const struct event_name *e = names; e->name; e++)
        if (streq(e->name, pattern))
            return is_in(e->qmp, name) || is_in(e->served, name);
    return fnmatch(pattern, name, FNM_CASEFOLD) == 0 || (slash && fnmatch(pattern, slash + 1, FNM_CASEFOLD) == 0);
}

/* Does this QEMU send one of them? */
static bool is_sent(const struct qmp_schema *schema, const char *patterns)
{
    json_t *events = qmp_schema_list(schema, "event"), *name;
    bool found = false;
    size_t i;

    json_array_foreach (events, i, name)
        found = found || is_in(patterns, json_string_value(name));
    json_decref(events);
    return found;
}

json_t *shell_list_events(const struct shell *shell)
{
    json_t *rows = json_array();

    for (const struct event_name *e = names; e->name; e++)
        json_array_append_new(rows, json_pack("{s:s, s:s*, s:s*, s:s, s:s}", "name", e->name, "qmp", e->qmp, "served",
                                              e->served, "sent",
                                              !e->qmp                          ? "no"
                                              : !shell->schema                 ? "?"
                                              : is_sent(shell->schema, e->qmp) ? "yes"
                                                                               : "no",
                                              "what", e->what));
    return rows;
}
