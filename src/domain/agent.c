/* SPDX-License-Identifier: Apache-2.0 */
/* The guest agent as part of the VM: connected when the guest holds the channel open and has answered once. */
#include "base/limits.h"
#include "base/log.h"
#include "domain/domain-internal.h"

static void on_guest_info(struct qga_client *agent, json_t *result, const struct error *error, void *userdata)
{
    struct domain *d = userdata;
    const char *version;

    if (error) {
        enum error_code code = error_get_code(error);

        log_debug("guest-info: %s", error_message(error));
        /* a guest that is busy is asked again (each question has its own time limit), a stopped one when it runs */
        if (d->agent_open && qga_client_is_open(agent) && d->lifecycle.state == DOMAIN_RUNNING &&
            (code == ERROR_TIMED_OUT || code == ERROR_AGENT_NOT_CONNECTED))
            qga_client_call(agent, "guest-info", NULL, 0, on_guest_info, d);
        return;
    }
    if (!d->agent_open)
        return;
    version = json_string_value(json_object_get(result, "version"));
    free(d->agent_version);
    d->agent_version = version ? strdup(version) : NULL;
    timeline_mark(d->timeline, MARK_AGENT);
    if (d->agent_connected)
        return;
    d->agent_connected = true;
    guest_info_start(d->guest_info, d->agent);
    credentials_start(d->credentials);
    event_log_add(d->events, "Agent", "Connected", json_pack("{s:s*}", "version", d->agent_version),
                  "the guest agent %s answers", d->agent_version ? d->agent_version : "");
}

void domain_agent_channel(struct domain *d, bool open)
{
    if (!d->agent)
        return;
    guest_info_stop(d->guest_info);
    credentials_stop(d->credentials);
    qga_client_reset(d->agent);
    d->agent_open = open;
    if (open) {
        qga_client_call(d->agent, "guest-info", NULL, 0, on_guest_info, d);
    } else if (d->agent_connected) {
        d->agent_connected = false;
        event_log_add(d->events, "Agent", "Disconnected", NULL, "the guest closed the agent's channel");
    }
}

void domain_guest_info_changed(struct guest_info *info, const char *command, void *userdata)
{
    struct domain *d = userdata;

    if (streq(command, "guest-get-osinfo")) {
        event_log_add(d->events, "Agent", "OSInfo", json_pack("{s:o}", "osInfo", guest_info_os_to_domain_json(info)),
                      NULL);
    } else if (streq(command, "guest-network-get-interfaces")) {
        event_log_add(d->events, "Agent", "Interfaces",
                      json_pack("{s:o}", "interfaces", guest_info_interfaces_to_domain_json(info)), NULL);
        domain_save_state(d); /* so that the next launcher knows the addresses before the agent answers it */
    } else if (streq(command, "guest-fsfreeze-status")) {
        event_log_add(d->events, "Agent", "FSFreezeStatus", json_pack("{s:O}", "status", guest_info_get(info, command)),
                      NULL);
    }
}

/* ---- the guest's clock after a pause ------------------------------------------------------------------------------
 */

static int on_clock_timer(sd_event_source *source, uint64_t at, void *userdata);

static void on_clock_set(struct qga_client *agent, json_t *result, const struct error *error, void *userdata)
{
    struct domain *d = userdata;

    if (!error)
        d->clock_give_up = 0;
    else if (now_usec() < d->clock_give_up)
        event_arm_timer(d->event, &d->clock_timer, CLOCK_RETRY_USEC, on_clock_timer, d);
    else
        log_warning_of(error, "the guest's clock could not be set after the pause");
}

static int on_clock_timer(sd_event_source *source, uint64_t at, void *userdata)
{
    struct domain *d = userdata;

    if (d->agent_connected && d->lifecycle.state == DOMAIN_RUNNING)
        qga_client_call(d->agent, "guest-set-time", json_pack("{s:I}", "time", (json_int_t)(realtime_usec() * 1000)), 0,
                        on_clock_set, d);
    return 0;
}

void domain_set_guest_clock(struct domain *d)
{
    if (!d->agent_connected)
        return;
    d->clock_give_up = now_usec() + CLOCK_TRY_USEC;
    on_clock_timer(NULL, 0, d);
}

bool domain_agent_connected(const struct domain *d)
{
    return d->agent_connected;
}

struct qga_client *domain_get_agent(struct domain *d)
{
    return d->agent_connected ? d->agent : NULL;
}

int domain_exec(struct domain *d, const char *path, json_t *arguments, uint64_t timeout_usec, qga_reply_fn done,
                void *userdata, struct error **ret_error)
{
    if (!d->agent_connected) {
        int r = error_set(ret_error, ERROR_AGENT_NOT_CONNECTED, ENOTCONN,
                          "cannot run %s in the guest: its agent is not connected", path);

        if (ret_error)
            error_set_remedy(*ret_error, "install and start qemu-guest-agent in the guest, or wait until it is up");
        json_decref(arguments);
        return r;
    }
    return qga_client_exec(d->agent, path, arguments, NULL, timeout_usec, done, userdata);
}
