/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that QEMU stopped because a disk failed (werror/rerror: no space, a storage that is away). It is resumed by
 * itself, which repeats the request that failed: after 10 s, and then at intervals that double to 3 minutes, as
 * KubeVirt's node agent spaces its own attempts (compat §5.5).
 */
#include "base/limits.h"
#include "base/log.h"
#include "domain/domain-internal.h"

static int on_timer(sd_event_source *source, uint64_t at, void *userdata);

static bool is_paused_by_error(const struct domain *d)
{
    return d->lifecycle.state == DOMAIN_PAUSED && d->lifecycle.reason == REASON_IO_ERROR;
}

void domain_note_io_error(struct domain *d, const char *volume, size_t length, const char *why)
{
    free(d->pause_volume);
    d->pause_volume = strndup(volume, length);
    free(d->pause_error);
    d->pause_error = strdup(why);
}

static void arm(struct domain *d)
{
    uint64_t delay = MIN(IO_RETRY_MIN_USEC << MIN(d->io_retries, 5U), IO_RETRY_MAX_USEC);

    if (event_arm_timer(d->event, &d->io_timer, delay, on_timer, d) < 0) {
        log_warning("cannot arm the timer that resumes the guest after an I/O error");
        return;
    }
    d->io_next_wall = realtime_usec() + delay;
    event_log_add(d->events, "Domain", "IOErrorWait",
                  json_pack("{s:s*, s:s*, s:f, s:I}", "volume", d->pause_volume, "errno", d->pause_error,
                            "retryInSeconds", (double)delay / 1e6, "attempt", (json_int_t)d->io_retries + 1),
                  "the guest is stopped by an I/O error (%s) of volume %s: resuming it in %.0f s, attempt %u",
                  d->pause_error ? d->pause_error : "reason not known", d->pause_volume ? d->pause_volume : "?",
                  (double)delay / 1e6, d->io_retries + 1);
}

void domain_io_error_stopped(struct domain *d)
{
    if (!is_paused_by_error(d))
        return;
    /* one that ran for a while in between is a new trouble, and not the old one */
    if (d->io_resumed_at && now_usec() - d->io_resumed_at > IO_RETRY_MAX_USEC)
        d->io_retries = 0;
    arm(d);
}

void domain_io_error_over(struct domain *d)
{
    event_disarm_timer(d->io_timer);
    d->io_next_wall = 0;
    d->io_resumed_at = now_usec();
    free(d->pause_volume);
    free(d->pause_error);
    d->pause_volume = d->pause_error = NULL;
}

static void on_cont(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct domain *d = userdata;

    if (!error || qmp_client_get_state(client) != QMP_RUNNING || !is_paused_by_error(d))
        return;
    log_warning_of(error, "the guest could not be resumed");
    arm(d);
}

static int on_timer(sd_event_source *source, uint64_t at, void *userdata)
{
    struct domain *d = userdata;

    d->io_next_wall = 0;
    if (!is_paused_by_error(d) || !d->qmp || d->pid <= 0)
        return 0;
    d->io_retries++;
    event_log_add(d->events, "Domain", "IOErrorResume", json_pack("{s:I}", "attempt", (json_int_t)d->io_retries),
                  "resuming the guest after the I/O error of volume %s, attempt %u",
                  d->pause_volume ? d->pause_volume : "?", d->io_retries);
    qmp_client_invoke(d->qmp, "cont", NULL, on_cont, d);
    return 0;
}
