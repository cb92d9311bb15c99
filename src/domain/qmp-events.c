/* SPDX-License-Identifier: Apache-2.0 */
/* What QEMU says by itself (qapi/run-state.json, block-core.json, char.json, qdev.json), turned into state and events.
 */
#include <stdio.h>

#include "base/crash.h"
#include "base/log.h"
#include "domain/domain-internal.h"
#include "domain/stats.h"

static const char *member(json_t *data, const char *key)
{
    const char *text = json_string_value(json_object_get(data, key));

    return text ? text : "";
}

static void on_stop(struct domain *d, json_t *data)
{
    bool asked = d->lifecycle.pausing_by_user, changed = lifecycle_stopped(&d->lifecycle);

    CRASH_POINT("pause-stopped");
    if (changed && asked && d->n_stops > 0)
        d->pause_untold = true; /* until QEMU's answer to `stop`, just behind, has gone to who asked */
    else if (changed)
        domain_state_changed(d);
    domain_io_error_stopped(d);
    CRASH_POINT("pause-noted");
}

static void on_resume(struct domain *d, json_t *data)
{
    domain_io_error_over(d);
    timeline_mark(d->timeline, MARK_RUNNING);
    CRASH_POINT("resumed");
    stats_enable_balloon_reports(d->stats);
    if (!lifecycle_resumed(&d->lifecycle))
        return;
    domain_state_changed(d);
    CRASH_POINT("resumed-saved");
    domain_dump_resumed(d);
    if (d->agent_open && !d->agent_connected)
        domain_agent_channel(d, true); /* what it was asked while the guest was stopped had no answer */
    domain_set_guest_clock(d);
    credentials_start(d->credentials);
}

static void on_suspend(struct domain *d, json_t *data)
{
    if (lifecycle_suspended(&d->lifecycle))
        domain_state_changed(d);
}

static void on_wakeup(struct domain *d, json_t *data)
{
    if (lifecycle_woken(&d->lifecycle))
        domain_state_changed(d);
}

static void on_shutdown(struct domain *d, json_t *data)
{
    CRASH_POINT("end-shutdown");
    if (lifecycle_shutdown(&d->lifecycle, member(data, "reason")))
        domain_state_changed(d);
}

static void on_powerdown(struct domain *d, json_t *data)
{
    event_log_add(d->events, "Domain", "PowerButton", NULL, "the guest's power button was pressed");
}

static void on_reset(struct domain *d, json_t *data)
{
    event_log_add(d->events, "Domain", "Reset", json_pack("{s:s}", "cause", member(data, "reason")),
                  "the machine was reset (%s)", member(data, "reason"));
}

static void on_panic(struct domain *d, json_t *data)
{
    d->panic_count++;
    d->lifecycle.panicked = true;
    json_decref(d->panic_info);
    d->panic_info = json_incref(json_object_get(data, "info"));
    event_log_add(d->events, "Kubernetes", "GuestPanicked",
                  json_pack("{s:O*, s:s}", "info", d->panic_info, "eventType", "Warning"), "the guest panicked (%s)",
                  member(data, "action"));
}

static void on_watchdog(struct domain *d, json_t *data)
{
    if (streq(member(data, "action"), "pause"))
        d->lifecycle.watchdog = true;
    event_log_add(d->events, "Domain", "Watchdog", json_pack("{s:s}", "action", member(data, "action")),
                  "the guest's watchdog fired: %s", member(data, "action"));
}

/* By the block node on top of the disk; "qom-path" is of newer versions, and "device" is empty with -blockdev. */
static const char *volume_of(const struct domain *d, json_t *data)
{
    const char *top = member(data, "node-name"), *name = member(data, "qom-path"), *found;
    size_t n;
    const struct machine_disk *disks = machine_get_disks(d->machine, &n);

    for (size_t i = 0; i < n; i++)
        if (disks[i].node && streq(disks[i].node, top))
            return disks[i].disk;
    if (*name == '\0')
        name = member(data, "device");
    found = strstr(name, "ua-");
    return found ? found + 3 : name;
}

static void on_io_error(struct domain *d, json_t *data)
{
    bool stops = streq(member(data, "action"), "stop");
    bool no_space = json_is_true(json_object_get(data, "nospace"));
    const char *volume = volume_of(d, data);
    size_t length = strcspn(volume, "/");

    if (stops && d->lifecycle.state != DOMAIN_PAUSED) { /* further requests fail while it is stopping */
        d->lifecycle.io_error = true;
        domain_note_io_error(d, volume, length, member(data, "reason"));
    }
    event_log_add(d->events, "Kubernetes", "IOerror",
                  json_pack("{s:s%, s:s, s:s, s:s, s:s}", "volume", volume, length, "operation",
                            member(data, "operation"), "errno", member(data, "reason"), "action",
                            member(data, "action"), "eventType", "Warning"),
                  no_space ? "VM Paused due to not enough space on volume: %.*s"
                           : "VM Paused due to IO error at the volume: %.*s",
                  (int)length, volume);
}

static void on_port_change(struct domain *d, json_t *data)
{
    bool open = json_is_true(json_object_get(data, "open"));

    /* the port's id is the machine's: "channel0" is org.qemu.guest_agent.0, "channel1" org.github.vhostmd.1 */
    if (streq(member(data, "id"), "channel0"))
        domain_agent_channel(d, open);
    else if (streq(member(data, "id"), "channel1"))
        domain_metrics_port(d, open);
}

static void on_device_deleted(struct domain *d, json_t *data)
{
    event_log_add(d->events, "Device", "DeviceRemoved", json_pack("{s:s}", "device", member(data, "device")), NULL);
    domain_on_disk_deleted(d, member(data, "device"));
}

static void on_job(struct domain *d, json_t *data)
{
    event_log_add(d->events, "Qemu", "JOB_STATUS_CHANGE", json_pack("{s:O}", "data", data), NULL);
    domain_on_job_event(d, member(data, "id"), member(data, "status"));
}

/* Handled above, or passed on under its own name with its data. */
static const struct {
    const char *name;
    void (*handle)(struct domain *d, json_t *data);
} table[] = {
    {"STOP", on_stop},
    {"RESUME", on_resume},
    {"SHUTDOWN", on_shutdown},
    {"POWERDOWN", on_powerdown},
    {"RESET", on_reset},
    {"SUSPEND", on_suspend},
    {"WAKEUP", on_wakeup},
    {"GUEST_PANICKED", on_panic},
    {"WATCHDOG", on_watchdog},
    {"BLOCK_IO_ERROR", on_io_error},
    {"VSERPORT_CHANGE", on_port_change},
    {"DEVICE_DELETED", on_device_deleted},
    {"DUMP_COMPLETED", domain_on_dump_completed},
    {"SUSPEND_DISK", NULL},
    {"GUEST_CRASHLOADED", NULL},
    {"BALLOON_CHANGE", NULL},
    {"RTC_CHANGE", NULL},
    {"DEVICE_TRAY_MOVED", NULL},
    {"DEVICE_UNPLUG_GUEST_ERROR", NULL},
    {"MEMORY_DEVICE_SIZE_CHANGE", NULL},
    {"MEMORY_FAILURE", NULL},
    {"BLOCK_WRITE_THRESHOLD", NULL},
    {"BLOCK_JOB_COMPLETED", NULL},
    {"BLOCK_JOB_CANCELLED", NULL},
    {"BLOCK_JOB_ERROR", NULL},
    {"BLOCK_JOB_READY", NULL},
    {"JOB_STATUS_CHANGE", on_job},
    {"MIGRATION", NULL},
    {"NIC_RX_FILTER_CHANGED", NULL},
    {"VNC_CONNECTED", NULL},
    {"VNC_INITIALIZED", NULL},
    {"VNC_DISCONNECTED", NULL},
};

void domain_on_qmp_event(struct qmp_client *client, const char *name, json_t *data, uint64_t timestamp_usec,
                         void *userdata)
{
    struct domain *d = userdata;

    for (size_t i = 0; i < ELEMENTSOF(table); i++) {
        if (!streq(table[i].name, name))
            continue;
        if (table[i].handle)
            table[i].handle(d, data);
        else
            event_log_add(d->events, "Qemu", name, json_pack("{s:O}", "data", data), NULL);
        return;
    }
    log_debug("QMP event %s is not used", name);
}
