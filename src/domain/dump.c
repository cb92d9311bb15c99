/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's memory as a file, written by QEMU in the background. QEMU stops the vCPUs for it and lets them run again.
 * How far it is stands in the domain's metadata (KubeVirt's MemoryDump), and in the state file for a next launcher.
 */
#include "base/log.h"
#include "domain/domain-internal.h"

bool domain_is_dumping(const struct domain *d)
{
    return d->memory_dump && !json_object_get(d->memory_dump, "EndTimestamp");
}

static void set_text(struct domain *d, const char *key, const char *text)
{
    json_object_set_new(d->memory_dump, key, json_string(text));
}

/* `why` NULL: it is complete. */
static void dump_ended(struct domain *d, const char *why)
{
    char stamp[40];

    if (!domain_is_dumping(d))
        return;
    d->lifecycle.dumping = false;
    set_text(d, "EndTimestamp", format_time(realtime_usec(), stamp));
    json_object_set_new(d->memory_dump, why ? "Failed" : "Completed", json_true());
    if (why)
        set_text(d, "FailureReason", why);
    event_log_add(d->events, "Domain", why ? "MemoryDumpFailed" : "MemoryDumpCompleted",
                  json_pack("{s:O}", "memoryDump", d->memory_dump), "the memory dump to %s %s%s",
                  json_string_value(json_object_get(d->memory_dump, "FileName")), why ? "failed: " : "is complete",
                  why ? why : "");
    domain_save_state(d);
}

static void take_result(struct domain *d, const json_t *data)
{
    const char *status = json_string_value(json_object_get(json_object_get(data, "result"), "status"));
    const char *why = json_string_value(json_object_get(data, "error"));

    dump_ended(d, status && streq(status, "completed") ? NULL : why ? why : "QEMU did not say why");
}

void domain_on_dump_completed(struct domain *d, json_t *data)
{
    json_decref(TAKE_PTR(d->dump_result));
    if (d->lifecycle.state == DOMAIN_PAUSED && d->lifecycle.reason == REASON_DUMP)
        d->dump_result = json_incref(data);
    else
        take_result(d, data);
}

void domain_dump_resumed(struct domain *d)
{
    json_t *data = TAKE_PTR(d->dump_result);

    if (data)
        take_result(d, data);
    json_decref(data);
}

static void on_begun(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    if (error)
        dump_ended(userdata, error_message(error));
}

int domain_dump_memory(struct domain *d, const char *path, struct error **ret_error)
{
    char stamp[40];
    int r;

    if (path[0] != '/')
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "dumpPath %s: not an absolute path", path);
    if (domain_is_dumping(d)) {
        const char *other = json_string_value(json_object_get(d->memory_dump, "FileName"));

        if (streq_ptr(other, path))
            return 0; /* asked for again while it is written */
        return error_set(ret_error, ERROR_WRONG_STATE, EBUSY, "a memory dump to %s is being written", other);
    }
    if (!d->qmp || d->pid <= 0)
        return error_set(ret_error, ERROR_CONNECTION, ENOTCONN, "QEMU's monitor is not there");
    json_decref(d->memory_dump);
    d->memory_dump = json_pack("{s:s, s:s}", "FileName", path, "StartTimestamp", format_time(realtime_usec(), stamp));
    d->lifecycle.dumping = true;
    r = qmp_client_invoke(
        d->qmp, "dump-guest-memory",
        json_pack("{s:b, s:o, s:b}", "paging", 0, "protocol", json_sprintf("file:%s", path), "detach", 1), on_begun, d);
    if (r < 0) {
        d->lifecycle.dumping = false;
        json_decref(d->memory_dump);
        d->memory_dump = NULL;
        return error_errno(ret_error, r, "cannot talk to QEMU");
    }
    event_log_add(d->events, "Domain", "MemoryDumpStarted", NULL, "writing the guest's memory to %s", path);
    domain_save_state(d);
    return 0;
}

static void on_query(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct domain *d = userdata;
    const char *status = json_string_value(json_object_get(result, "status"));

    if (error || !status || streq(status, "active"))
        return; /* DUMP_COMPLETED is still to come */
    dump_ended(d, streq(status, "completed") ? NULL : "it failed while no launcher was there");
}

void domain_take_up_dump(struct domain *d, json_t *state)
{
    d->memory_dump = json_incref(state);
    d->lifecycle.dumping = domain_is_dumping(d);
    if (d->lifecycle.dumping)
        qmp_client_invoke(d->qmp, "query-dump", NULL, on_query, d);
}
