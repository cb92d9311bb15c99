/* SPDX-License-Identifier: Apache-2.0 */
/* domain.json: what the next launcher needs to find this VM again, and the monitor to know which process it is. */
#include <stdio.h>

#include "base/fd.h"
#include "domain/domain-internal.h"

#define STATE_FILE_VERSION 1

/* Pid and start time name a process only within one boot. */
static char *boot_id(void)
{
    char *id = NULL;

    if (file_read("/proc/sys/kernel/random/boot_id", 64, &id, NULL, NULL) < 0)
        return NULL;
    id[strcspn(id, "\n")] = '\0';
    return id;
}

int domain_write_state(const struct domain *d, struct error **ret_error)
{
    _cleanup_free_ char *path = NULL, *text = NULL, *boot = boot_id();
    json_t *state;
    int r;

    if (asprintf(&path, "%s/domain.json", d->dir) < 0) {
        path = NULL;
        return error_oom(ret_error);
    }
    state = json_pack("{s:i, s:s*, s:I, s:I, s:s, s:s, s:s*, s:s, s:s, s:I, s:s*, s:I}", "version", STATE_FILE_VERSION,
                      "bootId", boot, "pid", (json_int_t)d->pid, "startTime", (json_int_t)d->start_ticks, "name",
                      d->vmi->name, "namespace", d->vmi->namespace_, "uid", d->vmi->uid, "state",
                      domain_state_name(d->lifecycle.state), "reason", domain_reason_name(d->lifecycle.reason),
                      "sequence", (json_int_t)event_log_next(d->events), "pauseVolume", d->pause_volume, "thawDeadline",
                      (json_int_t)d->thaw_deadline_wall);
    text = state ? json_dumps(state, JSON_INDENT(2)) : NULL;
    json_decref(state);
    if (!text)
        return error_oom(ret_error);
    r = file_write_atomic(path, text, strlen(text), 0600, ret_error);
    return error_wrap(ret_error, r, "cannot save the state of %s", d->vmi->domain_name);
}
