/* SPDX-License-Identifier: Apache-2.0 */
/* GetDomainStats, GetMetrics, GetDomainDirtyRateStats, GetVMStats. */
#include <stdio.h>

#include "base/limits.h"
#include "base/log.h"
#include "domain/control-internal.h"
#include "domain/stats.h"

static void begun(struct rpc_call *call, int r)
{
    if (r == -EBUSY)
        control_fail(call, ERROR_LIMIT, EBUSY, "too many calls wait for the same figures");
    else
        control_begun(call, r);
}

static void on_stats(json_t *stats, const struct error *error, void *userdata)
{
    struct rpc_call *call = userdata;

    if (error)
        rpc_fail(call, error);
    else
        rpc_reply(call, json_pack("{s:o, s:O}", "response", control_success(), "domainStats", stats));
}

void handle_domain_stats(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;

    begun(call, stats_get(c->domain->stats, on_stats, call));
}

/* ---- GetMetrics ---------------------------------------------------------------------------------------------------
 */

struct metrics_call {
    struct control *control;
    struct rpc_call *call;
};

static void on_metrics(json_t *stats, const struct error *error, void *userdata)
{
    struct metrics_call *m = userdata;
    struct domain *d = m->control->domain;
    _cleanup_free_ char *text = NULL;
    _cleanup_error_ struct error *e = error ? error_copy(error) : NULL;

    if (!e && d) {
        struct metrics_labels labels = {d->vmi->namespace_, d->vmi->name, getenv("NODE_NAME")};

        text = metrics_format(stats, guest_info_get(d->guest_info, "guest-get-fsinfo"), d->panic_count, &labels);
    }
    if (!e && !text)
        error_oom(&e);
    if (e)
        rpc_fail(m->call, e);
    else
        rpc_reply(m->call, json_pack("{s:o, s:s, s:s}", "response", control_success(), "contentType",
                                     "text/plain; version=0.0.4; charset=utf-8", "metrics", text));
    free(m);
}

void handle_metrics(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;
    struct metrics_call *m = malloc(sizeof(*m));
    int r = -ENOMEM;

    if (m) {
        *m = (struct metrics_call){c, call};
        r = stats_get(c->domain->stats, on_metrics, m);
    }
    if (r < 0)
        free(m);
    begun(call, r);
}

/* ---- GetDomainDirtyRateStats ---------------------------------------------------------------------------------------
 */

static void on_dirty_rate(json_t *rate, const struct error *error, void *userdata)
{
    struct rpc_call *call = userdata;

    if (error)
        rpc_fail(call, error);
    else
        rpc_reply(call, json_pack("{s:o, s:O}", "response", control_success(), "dirtyRateMbs",
                                  json_object_get(rate, "MegabytesPerSecond")));
}

void handle_dirty_rate(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;

    begun(call, stats_get_dirty_rate(c->domain->stats, on_dirty_rate, call));
}

/* ---- GetVMStats ----------------------------------------------------------------------------------------------------
 */

/* Parts that the agent has, and for how long an answer is good (compat §5.8: 20 s, 1, 5 or 30 minutes by kind). */
static const struct {
    const char *name, *command;
    unsigned seconds;
} parts[AGENT_PARTS] = {
    {"guestGetLoad", "guest-get-load", 20},
    {"guestGetCpuStats", "guest-get-cpustats", 20},
    {"guestGetDiskStats", "guest-get-diskstats", 20},
    {"guestGetTime", "guest-get-time", 0},
    {"guestGetVcpus", "guest-get-vcpus", 60},
    {"guestGetMemoryBlockInfo", "guest-get-memory-block-info", 1800},
    {"guestGetUsers", "guest-get-users", 20},
    {"guestGetOsInfo", "guest-get-osinfo", 1800},
    {"guestGetDisks", "guest-get-disks", 300},
    {"guestGetHostName", "guest-get-host-name", 300},
    {"guestGetTimezone", "guest-get-timezone", 1800},
    {"guestNetworkGetRoute", "guest-network-get-route", 300},
    {"guestNetworkGetInterfaces", "guest-network-get-interfaces", 60},
    {"guestGetMemoryBlocks", "guest-get-memory-blocks", 300},
};

const struct rpc_param vm_stats_params[] = {
    {"domainStats", JSON_OBJECT, false, "{}: the figures of GetDomainStats"},
    {"dirtyRate", JSON_OBJECT, false, "{}: measure for a second how fast the guest dirties its memory"},
    {"guestGetLoad", JSON_OBJECT, false, "{}: the agent's guest-get-load"},
    {"guestGetCpuStats", JSON_OBJECT, false, "{}: guest-get-cpustats"},
    {"guestGetDiskStats", JSON_OBJECT, false, "{}: guest-get-diskstats"},
    {"guestGetTime", JSON_OBJECT, false, "{}: guest-get-time"},
    {"guestGetVcpus", JSON_OBJECT, false, "{}: guest-get-vcpus"},
    {"guestGetMemoryBlockInfo", JSON_OBJECT, false, "{}: guest-get-memory-block-info"},
    {"guestGetUsers", JSON_OBJECT, false, "{}: guest-get-users"},
    {"guestGetOsInfo", JSON_OBJECT, false, "{}: guest-get-osinfo"},
    {"guestGetDisks", JSON_OBJECT, false, "{}: guest-get-disks"},
    {"guestGetHostName", JSON_OBJECT, false, "{}: guest-get-host-name"},
    {"guestGetTimezone", JSON_OBJECT, false, "{}: guest-get-timezone"},
    {"guestNetworkGetRoute", JSON_OBJECT, false, "{}: guest-network-get-route"},
    {"guestNetworkGetInterfaces", JSON_OBJECT, false, "{}: guest-network-get-interfaces"},
    {"guestGetMemoryBlocks", JSON_OBJECT, false, "{}: guest-get-memory-blocks"},
    {0},
};

/* One call, until all parts that it asked for are there. */
struct vm_stats {
    struct control *control;
    struct rpc_call *call;
    json_t *reply, *failures; /* failures: {part: why} */
    unsigned missing;
};

struct vm_stats_part {
    struct vm_stats *all;
    size_t index;
};

static void part_done(struct vm_stats *v, const char *name, json_t *value, const struct error *error)
{
    if (error)
        json_object_set_new(v->failures, name, json_string(error_message(error)));
    else
        json_object_set(v->reply, name, value);
    if (--v->missing > 0)
        return;
    if (json_object_size(v->failures) > 0)
        json_object_set(v->reply, "failures", v->failures);
    rpc_reply(v->call, json_incref(v->reply));
    json_decref(v->reply);
    json_decref(v->failures);
    free(v);
}

static void on_vm_domain_stats(json_t *stats, const struct error *error, void *userdata)
{
    part_done(userdata, "domainStats", stats, error);
}

static void on_vm_dirty_rate(json_t *rate, const struct error *error, void *userdata)
{
    part_done(userdata, "dirtyRateStats", rate, error);
}

static void on_vm_agent(struct qga_client *agent, json_t *result, const struct error *error, void *userdata)
{
    struct vm_stats_part *p = userdata;
    struct control *c = p->all->control;

    if (!error) {
        json_decref(c->agent_parts[p->index].answer);
        c->agent_parts[p->index].answer = json_incref(result);
        c->agent_parts[p->index].at = now_usec();
    }
    part_done(p->all, parts[p->index].name, result, error);
    free(p);
}

static void ask_agent(struct vm_stats *v, size_t i)
{
    struct control *c = v->control;
    struct vm_stats_part *p = NULL;
    _cleanup_error_ struct error *e = NULL;
    uint64_t now = now_usec();

    if (c->agent_parts[i].answer && now - c->agent_parts[i].at < parts[i].seconds * USEC_PER_SEC) {
        part_done(v, parts[i].name, c->agent_parts[i].answer, NULL);
        return;
    }
    if (!c->domain->agent_connected)
        error_set(&e, ERROR_AGENT_NOT_CONNECTED, ENOTCONN, "the guest agent is not connected");
    else if (!(p = malloc(sizeof(*p))))
        error_oom(&e);
    if (!e) {
        int r;

        *p = (struct vm_stats_part){v, i};
        r = qga_client_call(c->domain->agent, parts[i].command, NULL, 0, on_vm_agent, p);
        if (r >= 0)
            return;
        error_errno(&e, r, "cannot ask the guest agent");
        free(p);
    }
    part_done(v, parts[i].name, NULL, e);
}

/* `function` could not be begun. */
static void refuse(struct vm_stats *v, const char *name, int r)
{
    _cleanup_error_ struct error *e = NULL;

    error_errno(&e, r, "cannot be read now");
    part_done(v, name, NULL, e);
}

void handle_vm_stats(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;
    struct vm_stats *v = calloc(1, sizeof(*v));
    int r;

    if (v)
        *v = (struct vm_stats){
            c, call,
            json_pack("{s:o, s:s*}", "response", control_success(), "guestAgentVersion", c->domain->agent_version),
            json_object(), 1};
    if (!v || !v->reply || !v->failures) {
        if (v) {
            json_decref(v->reply);
            json_decref(v->failures);
        }
        free(v);
        control_fail(call, ERROR_INTERNAL, ENOMEM, "out of memory");
        return;
    }
    /* missing is one too many while parts are asked for, so that none that is there at once ends the call */
    if (json_object_get(params, "domainStats")) {
        v->missing++;
        r = stats_get(c->domain->stats, on_vm_domain_stats, v);
        if (r < 0)
            refuse(v, "domainStats", r);
    }
    if (json_object_get(params, "dirtyRate")) {
        v->missing++;
        r = stats_get_dirty_rate(c->domain->stats, on_vm_dirty_rate, v);
        if (r < 0)
            refuse(v, "dirtyRateStats", r);
    }
    for (size_t i = 0; i < AGENT_PARTS; i++)
        if (json_object_get(params, parts[i].name)) {
            v->missing++;
            ask_agent(v, i);
        }
    part_done(v, "response", json_object_get(v->reply, "response"), NULL);
}

void control_forget_agent_parts(struct control *c)
{
    for (size_t i = 0; i < AGENT_PARTS; i++) {
        json_decref(c->agent_parts[i].answer);
        c->agent_parts[i].answer = NULL;
    }
}
