/* SPDX-License-Identifier: Apache-2.0 */
#include "domain/statefile.h"

#include <limits.h>
#include <stdio.h>

#include "base/child.h"
#include "base/crash.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "domain/blockjobs.h"
#include "domain/disks.h"
#include "domain/domain-internal.h"

#define STATE_FILE_VERSION 1

static json_t *usec(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static json_t *to_json(const struct domain *d)
{
    json_t *interfaces = guest_info_get(d->guest_info, "guest-network-get-interfaces");
    json_t *state = json_pack("{s:i, s:s*, s:i, s:o, s:s, s:s, s:s*}", "version", STATE_FILE_VERSION, "bootId",
                              boot_id(), "pid", (int)d->pid, "startTime", usec(d->start_ticks), "name", d->vmi->name,
                              "namespace", d->vmi->namespace_, "uid", d->vmi->uid);

    json_object_set_new(state, "state", json_string(domain_state_name(d->lifecycle.state)));
    json_object_set_new(state, "reason", json_string(domain_reason_name(d->lifecycle.reason)));
    json_object_set_new(state, "since", usec(d->since_wall));
    json_object_set_new(state, "accel", json_string(d->accel == MACHINE_ACCEL_KVM ? "kvm" : "tcg"));
    json_object_set_new(state, "accelReason", json_string(d->accel_reason));
    if (d->pause_volume)
        json_object_set_new(state, "pauseVolume", json_string(d->pause_volume));
    if (d->io_retries)
        json_object_set_new(state, "ioRetries", json_integer((json_int_t)d->io_retries));
    if (d->pause_error)
        json_object_set_new(state, "pauseError", json_string(d->pause_error));
    if (d->stop.phase != STOP_NONE) {
        json_object_set_new(state, "stopAsked", usec(d->stop.wall_asked_at));
        json_object_set_new(state, "stopAskedMonotonic", usec(d->stop.asked_at));
        if (d->stop.deadline != UINT64_MAX)
            json_object_set_new(state, "stopDeadlineMonotonic", usec(d->stop.deadline));
    }
    if (d->balloon_stats_seconds != BALLOON_STATS_SECONDS)
        json_object_set_new(state, "balloonStatsSeconds", json_integer(d->balloon_stats_seconds));
    if (d->thaw_deadline)
        json_object_set_new(state, "thawDeadlineMonotonic", usec(d->thaw_deadline));
    json_object_set_new(state, "accessCredentials", credentials_to_state(d->credentials));
    if (d->memory_dump)
        json_object_set(state, "memoryDump", d->memory_dump);
    if (d->block_job)
        json_object_set_new(state, "blockJob", domain_block_job_to_json(d));
    if (d->half_plugged)
        json_object_set(state, "halfPlugged", d->half_plugged);
    if (d->disks_changed) {
        json_object_set_new(state, "disks", domain_disks_to_json(d));
        json_object_set_new(state, "plugSerial", json_integer((json_int_t)d->plug_serial));
    }
    if (interfaces && json_dumpb(interfaces, NULL, 0, JSON_COMPACT) <= LIMIT_NET_STATE_BYTES) /* as the guest has it */
        json_object_set(state, "guestInterfaces", interfaces);
    json_object_set_new(state, "uuid", json_string(d->vmi->spec.domain.firmware.uuid));
    if (d->manifest)
        json_object_set_new(state, "manifest", json_string(d->manifest));
    return state;
}

int domain_write_state(const struct domain *d, struct error **ret_error)
{
    _cleanup_free_ char *path = NULL, *text = NULL;
    json_t *state = to_json(d);
    int r;

    text = state ? json_dumps(state, JSON_INDENT(2)) : NULL;
    json_decref(state);
    if (!text || asprintf(&path, "%s/" STATE_FILE_NAME, d->dir) < 0) {
        path = NULL;
        return error_oom(ret_error);
    }
    CRASH_POINT("state-begin");
    /* not synced: after a crash of the machine there is no QEMU to take over (see bootId), and a Pause waits for this
     */
    r = file_replace(path, text, strlen(text), 0600, ret_error);
    CRASH_POINT("state-end");
    return error_wrap(ret_error, r, "cannot save the state of %s", d->vmi->domain_name);
}

void domain_save_state(struct domain *d)
{
    _cleanup_error_ struct error *e = NULL;
    int r = domain_write_state(d, &e);

    if (r < 0 && !d->state_failing)
        log_warning_of(e, "the VM runs on, but a launcher that is killed now could not take it over as it is");
    d->state_failing = r < 0;
}

static uint64_t number(const json_t *state, const char *key)
{
    json_int_t n = json_integer_value(json_object_get(state, key));

    return n > 0 ? (uint64_t)n : 0;
}

static const char *text_of(const json_t *state, const char *key)
{
    return json_string_value(json_object_get(state, key));
}

int domain_state_parse(const char *text, size_t length, const char *name, struct domain_state_file *ret,
                       struct error **ret_error)
{
    struct domain_state_file s = {.json = json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL)};
    uint64_t pid;

    if (!json_is_object(s.json)) {
        json_decref(s.json);
        return error_set(ret_error, ERROR_BAD_DATA, EBADMSG, "%s is no JSON object", name);
    }
    if (number(s.json, "version") != STATE_FILE_VERSION) {
        error_set(ret_error, ERROR_BAD_DATA, EBADMSG, "%s has version %llu, which this launcher does not know", name,
                  (unsigned long long)number(s.json, "version"));
        json_decref(s.json);
        return -EBADMSG;
    }
    pid = number(s.json, "pid");
    s.pid = pid <= INT_MAX ? (pid_t)pid : 0;
    s.start_ticks = number(s.json, "startTime");
    s.boot_id = text_of(s.json, "bootId");
    s.manifest = text_of(s.json, "manifest");
    s.uuid = text_of(s.json, "uuid");
    s.accel = text_of(s.json, "accel");
    s.accel_reason = text_of(s.json, "accelReason");
    s.pause_volume = text_of(s.json, "pauseVolume");
    s.pause_error = text_of(s.json, "pauseError");
    s.memory_dump = json_object_get(s.json, "memoryDump");
    if (!json_is_object(s.memory_dump))
        s.memory_dump = NULL;
    s.block_job = json_object_get(s.json, "blockJob");
    if (!json_is_object(s.block_job))
        s.block_job = NULL;
    s.half_plugged = json_object_get(s.json, "halfPlugged");
    s.guest_interfaces = json_object_get(s.json, "guestInterfaces");
    s.access_credentials = json_object_get(s.json, "accessCredentials");
    s.balloon_stats_seconds = (int)json_integer_value(json_object_get(s.json, "balloonStatsSeconds"));
    s.io_retries = (unsigned)number(s.json, "ioRetries");
    s.disks = json_object_get(s.json, "disks");
    s.plug_serial = (unsigned)number(s.json, "plugSerial");
    s.since_wall = number(s.json, "since");
    s.stop_asked_wall = number(s.json, "stopAsked");
    s.stop_asked = number(s.json, "stopAskedMonotonic");
    s.stop_deadline = number(s.json, "stopDeadlineMonotonic");
    s.thaw_deadline = number(s.json, "thawDeadlineMonotonic");
    s.state = domain_state_from_name(text_of(s.json, "state"));
    s.reason = domain_reason_from_name(text_of(s.json, "reason"));
    *ret = s;
    return 0;
}

/* Whether its process still runs. */
static int check(struct domain_state_file *s, const char *path, struct error **ret_error)
{
    const char *boot = boot_id();
    uint64_t ticks;

    if (!s->boot_id || !boot || !streq(s->boot_id, boot))
        return error_set(ret_error, ERROR_NOT_FOUND, ESTALE, "%s is of another boot", path);
    s->is_gone = s->pid <= 0 || process_start_time(s->pid, &ticks) < 0 || ticks != s->start_ticks;
    if (s->pid <= 0 || process_start_time(s->pid, &ticks) < 0)
        return error_set(ret_error, ERROR_NOT_FOUND, ESTALE, "QEMU (pid %d) of %s is gone", (int)s->pid, path);
    if (ticks != s->start_ticks)
        return error_set(ret_error, ERROR_NOT_FOUND, ESTALE,
                         "QEMU of %s is gone, and its pid %d is another process's now", path, (int)s->pid);
    return 0;
}

int domain_state_read(const char *dir, struct domain_state_file *ret, struct error **ret_error)
{
    _cleanup_(domain_state_done) struct domain_state_file s = {0};
    _cleanup_free_ char *path = NULL, *text = NULL;
    size_t length;
    int r;

    if (asprintf(&path, "%s/" STATE_FILE_NAME, dir) < 0) {
        path = NULL;
        return error_oom(ret_error);
    }
    r = file_read(path, LIMIT_RPC_REQUEST_BYTES * 2, &text, &length, ret_error);
    if (r < 0)
        return r;
    r = domain_state_parse(text, length, path, &s, ret_error);
    if (r < 0)
        return r;
    r = check(&s, path, ret_error);
    if (r < 0 && !s.is_gone)
        return r;
    *ret = s;
    s.json = NULL;
    return r;
}

void domain_state_done(struct domain_state_file *state)
{
    json_decref(state->json);
    *state = (struct domain_state_file){0};
}
