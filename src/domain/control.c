/* SPDX-License-Identifier: Apache-2.0 */
#include "domain/control.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "domain/control-internal.h"
#include "domain/stats.h"

static void complain(const struct rpc_peer *peer, const struct error *error, void *userdata)
{
    log_warning_of(error, "a client of the command server (pid %d, uid %u)", (int)peer->pid, (unsigned)peer->uid);
}

/* A guest that took its QEMU over has the uid that may use the socket. Its process it cannot change: QEMU's filter lets
 * it start no other (sandbox.c). */
static const char *refuse(const struct rpc_peer *peer, void *userdata)
{
    const struct domain *d = ((struct control *)userdata)->domain;

    if (d && d->pid > 0 && peer->pid == d->pid)
        return "it is the VM's own QEMU";
    for (size_t i = 0; d && i < d->n_helpers; i++)
        if (peer->pid == d->helpers[i].pid)
            return "it is a helper of the VM's QEMU";
    return NULL;
}

static unsigned get_state(void *userdata)
{
    struct control *c = userdata;

    return c->domain ? (unsigned)c->domain->lifecycle.state : DOMAIN_NO_STATE;
}

json_t *control_success(void)
{
    json_t *result = json_object();

    json_object_set_new_nocheck(result, "success", json_true());
    json_object_set_new_nocheck(result, "message", json_string_nocheck(""));
    return result;
}

void control_fail(struct rpc_call *call, enum error_code code, int err, const char *text)
{
    _cleanup_error_ struct error *e = NULL;

    error_set(&e, code, err, "%s: %s", rpc_call_method(call), text);
    rpc_fail(call, e);
}

static void handle_sync(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;

    if (c->sync)
        c->sync(call, params, c->sync_userdata);
    else
        control_fail(call, ERROR_NOT_SUPPORTED, EOPNOTSUPP,
                     "this VM was started with its manifest, and takes no other");
}

/* The answer of an action on the domain, when it could be begun. */
static void on_action(struct domain *d, const struct error *error, void *userdata)
{
    struct rpc_call *call = userdata;

    if (error)
        rpc_fail(call, error);
    else
        rpc_reply(call, control_success());
}

void control_begun(struct rpc_call *call, int r)
{
    if (r < 0)
        control_fail(call, r == -ENOMEM ? ERROR_INTERNAL : ERROR_CONNECTION, r, "QEMU's monitor is not there");
}

static void handle_pause(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;

    if (domain_is_dumping(c->domain))
        control_fail(call, ERROR_WRONG_STATE, EBUSY, "the guest's memory is being dumped, and it runs on afterwards");
    else
        control_begun(call, domain_pause(c->domain, on_action, call));
}

static void handle_unpause(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;

    control_begun(call, domain_unpause(c->domain, on_action, call));
}

static void handle_reset(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;

    control_begun(call, domain_reset(c->domain, on_action, call));
}

static void handle_soft_reboot(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;

    control_begun(call, domain_soft_reboot(c->domain, on_action, call));
}

/* Who asked, for the record: "request of pid 123 (uid 0)". */
static const char *asker(struct rpc_call *call, char *text, size_t size)
{
    const struct rpc_peer *peer = rpc_call_peer(call);

    snprintf(text, size, "%s from pid %d, uid %u", rpc_call_method(call), (int)peer->pid, (unsigned)peer->uid);
    return text;
}

static void handle_shutdown(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;
    json_t *grace = json_object_get(params, "gracePeriodSeconds");
    uint64_t usec = c->domain->grace_usec;
    char why[128];

    if (grace && json_integer_value(grace) < 0) {
        control_fail(call, ERROR_BAD_ARGUMENT, EINVAL, "gracePeriodSeconds must not be negative");
        return;
    }
    if (grace)
        usec = (uint64_t)json_integer_value(grace) * USEC_PER_SEC;
    domain_shutdown(c->domain, usec, asker(call, why, sizeof(why)));
    rpc_reply(call, control_success());
}

static void handle_kill(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;
    char why[128];

    domain_kill(c->domain, asker(call, why, sizeof(why)));
    rpc_reply(call, control_success());
}

static void handle_freeze(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;
    json_int_t seconds = json_integer_value(json_object_get(params, "unfreezeTimeoutSeconds"));
    int r = domain_freeze(c->domain, seconds > 0 ? (uint64_t)seconds * USEC_PER_SEC : 0, on_action, call);

    if (r < 0)
        control_fail(call, ERROR_AGENT_NOT_CONNECTED, r, "the guest agent is not connected");
}

static void handle_unfreeze(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;
    int r = domain_unfreeze(c->domain, on_action, call);

    if (r < 0)
        control_fail(call, ERROR_AGENT_NOT_CONNECTED, r, "the guest agent is not connected");
}

static void handle_guest_info(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;

    rpc_reply(call, json_pack("{s:o, s:o}", "response", control_success(), "guestInfoResponse",
                              guest_info_to_json(c->domain->guest_info)));
}

static void handle_users(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;

    rpc_reply(call, json_pack("{s:o, s:{s:o}}", "response", control_success(), "guestUserListResponse", "items",
                              guest_info_users_to_json(c->domain->guest_info, SIZE_MAX)));
}

static void handle_filesystems(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;

    rpc_reply(call, json_pack("{s:o, s:{s:o}}", "response", control_success(), "guestFilesystemsResponse", "items",
                              guest_info_filesystems_to_json(c->domain->guest_info, SIZE_MAX)));
}

static void handle_get_domain(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;

    /* KubeVirt's launcher answers with an empty text when there is no domain */
    rpc_reply(call, json_pack("{s:o, s:o*, s:o*}", "response", control_success(), "domain",
                              c->domain ? domain_to_json(c->domain) : NULL, "vmlet",
                              c->domain ? domain_extra_to_json(c->domain) : NULL));
}

static void handle_get_timeline(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;

    rpc_reply(call, timeline_to_json(c->timeline));
}

static void handle_get_qemu_version(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;
    unsigned v = c->domain->qmp ? qmp_client_get_version(c->domain->qmp) : 0;

    if (v == 0)
        control_fail(call, ERROR_WRONG_STATE, EAGAIN, "QEMU has not answered yet");
    else
        rpc_reply(call, json_pack("{s:o, s:o}", "response", control_success(), "version",
                                  json_sprintf("%u.%u.%u", v / 1000000, v / 1000 % 1000, v % 1000)));
}

static void on_exec(struct qga_client *agent, json_t *result, const struct error *error, void *userdata)
{
    struct rpc_call *call = userdata;

    if (error)
        rpc_fail(call, error);
    else
        rpc_reply(call, json_pack("{s:o, s:O*, s:O*, s:O*}", "response", control_success(), "exitCode",
                                  json_object_get(result, "exitcode"), "stdOut", json_object_get(result, "out"),
                                  "stdErr", json_object_get(result, "err")));
}

static uint64_t timeout_of(json_t *params)
{
    json_int_t seconds = json_integer_value(json_object_get(params, "timeoutSeconds"));

    return seconds > 0 ? (uint64_t)seconds * USEC_PER_SEC : 0;
}

static void handle_exec(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;
    const char *command = json_string_value(json_object_get(params, "Command"));
    json_t *arguments = json_object_get(params, "Args");
    _cleanup_error_ struct error *e = NULL;
    int r = domain_exec(c->domain, command, arguments ? json_incref(arguments) : NULL, timeout_of(params), on_exec,
                        call, &e);

    if (r < 0 && !e)
        error_errno(&e, r, "cannot run %s in the guest", command);
    if (r < 0)
        rpc_fail(call, e);
}

static void on_ping(struct qga_client *agent, json_t *result, const struct error *error, void *userdata)
{
    struct rpc_call *call = userdata;

    if (error)
        rpc_fail(call, error);
    else
        rpc_reply(call, json_pack("{s:o}", "response", control_success()));
}

static void handle_guest_ping(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;

    if (!c->domain->agent_connected)
        control_fail(call, ERROR_AGENT_NOT_CONNECTED, ENOTCONN, "the guest agent is not connected");
    else
        control_begun(call, qga_client_call(c->domain->agent, "guest-ping", NULL, timeout_of(params), on_ping, call));
}

static void handle_memory_dump(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;
    _cleanup_error_ struct error *e = NULL;

    if (domain_dump_memory(c->domain, json_string_value(json_object_get(params, "dumpPath")), &e) < 0)
        rpc_fail(call, e);
    else
        rpc_reply(call, control_success()); /* how it goes on is told by events and the domain's metadata */
}

/* There is nothing kept of a VM that does not run: it is forgotten when it ends. */
static void handle_delete(struct rpc_call *call, json_t *params, void *userdata)
{
    rpc_reply(call, control_success());
}

/* ---- what KubeVirt's launcher can and this one cannot yet ----------------------------------------------------------
 */

static void handle_not_supported(struct rpc_call *call, json_t *params, void *userdata)
{
    _cleanup_error_ struct error *e = NULL;

    error_set(&e, ERROR_NOT_SUPPORTED, EOPNOTSUPP, "%s is not supported by this launcher", rpc_call_method(call));
    error_set_remedy(e, "stop the VM and start it anew with the changed manifest");
    rpc_fail(call, e);
}

/* ---- Qmp: the sanctioned door to the monitor ----------------------------------------------------------------------
 */

static void on_qmp(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct rpc_call *call = userdata;

    if (error)
        rpc_fail(call, error);
    else
        rpc_reply(call, json_pack("{s:O}", "return", result));
}

static void handle_qmp(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;
    const char *command = json_string_value(json_object_get(params, "command"));
    json_t *arguments = json_object_get(params, "arguments");
    const struct rpc_peer *peer = rpc_call_peer(call);
    _cleanup_error_ struct error *e = NULL;

    if (!c->allow_qmp_writes && !qmp_command_is_read_only(command, arguments)) {
        log_warning("refused QMP %s from pid %d, uid %u: read-only", command, (int)peer->pid, (unsigned)peer->uid);
        error_set(&e, ERROR_NOT_ALLOWED, EPERM, "%s may change the VM, and this server is read-only", command);
        error_set_remedy(e, "start the launcher with writes allowed, or use the method made for it (see Describe)");
        rpc_fail(call, e);
        return;
    }
    log_info("QMP %s from pid %d, uid %u", command, (int)peer->pid, (unsigned)peer->uid);
    control_begun(call, c->domain->qmp ? qmp_client_invoke(c->domain->qmp, command,
                                                           arguments ? json_incref(arguments) : NULL, on_qmp, call)
                                       : -ENOTCONN);
}

/* The same door to the guest agent. */
static void on_agent_reply(struct qga_client *agent, json_t *result, const struct error *error, void *userdata)
{
    struct rpc_call *call = userdata;

    if (error)
        rpc_fail(call, error);
    else
        rpc_reply(call, json_pack("{s:O}", "return", result));
}

static void handle_agent_command(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;
    const char *command = json_string_value(json_object_get(params, "command"));
    json_t *arguments = json_object_get(params, "arguments");
    const struct rpc_peer *peer = rpc_call_peer(call);
    _cleanup_error_ struct error *e = NULL;

    if (!c->allow_qmp_writes && !qga_command_is_read_only(command)) {
        log_warning("refused agent command %s from pid %d, uid %u: read-only", command, (int)peer->pid,
                    (unsigned)peer->uid);
        error_set(&e, ERROR_NOT_ALLOWED, EPERM, "%s may change the guest, and this server is read-only", command);
        error_set_remedy(e, "start the launcher with writes allowed, or use the method made for it (see Describe)");
        rpc_fail(call, e);
    } else if (!c->domain->agent_connected) {
        error_set(&e, ERROR_AGENT_NOT_CONNECTED, ENOTCONN, "%s: the guest agent is not connected", command);
        error_set_remedy(e, "install and start qemu-guest-agent in the guest, or wait until it is up");
        rpc_fail(call, e);
    } else {
        log_info("agent command %s from pid %d, uid %u", command, (int)peer->pid, (unsigned)peer->uid);
        control_begun(call, qga_client_call(c->domain->agent, command, arguments ? json_incref(arguments) : NULL,
                                            timeout_of(params), on_agent_reply, call));
        if (startswith(command,
                       "guest-fsfreeze-")) /* answered after it, because the agent has one thing done at a time */
            guest_info_ask(c->domain->guest_info, "guest-fsfreeze-status");
    }
}

/* ---- GetScreenshot ------------------------------------------------------------------------------------------------
 */

struct screenshot {
    struct rpc_call *call;
    char *path;
};

static void on_screenshot(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct screenshot *s = userdata;
    _cleanup_error_ struct error *e = error ? error_copy(error) : NULL;
    _cleanup_free_ char *data = NULL, *text = NULL;
    size_t length = 0;

    if (!e)
        file_read(s->path, LIMIT_RPC_REPLY_BYTES / 2, &data, &length, &e);
    unlink(s->path);
    if (!e) {
        text = base64_encode(data, length);
        if (!text)
            error_oom(&e);
    }
    if (e)
        rpc_fail(s->call, e);
    else
        rpc_reply(s->call,
                  json_pack("{s:o, s:s, s:s}", "response", control_success(), "mime", "image/png", "data", text));
    free(s->path);
    free(s);
}

static void handle_screenshot(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;
    struct screenshot *s = calloc(1, sizeof(*s));
    int r = -ENOMEM;

    if (s && asprintf(&s->path, "%s/screenshot-%u.png", c->domain->dir, c->screenshots++) >= 0) {
        s->call = call;
        r = c->domain->qmp
                ? qmp_client_invoke(c->domain->qmp, "screendump",
                                    json_pack("{s:s, s:s}", "filename", s->path, "format", "png"), on_screenshot, s)
                : -ENOTCONN;
        if (r >= 0)
            return;
        free(s->path);
    }
    free(s);
    control_begun(call, r);
}

/* ---- Subscribe ----------------------------------------------------------------------------------------------------
 */

struct subscriber {
    struct rpc_stream *stream;
    struct event_subscription *subscription;
};

static void on_event(json_t *event, void *userdata)
{
    struct subscriber *s = userdata;

    rpc_stream_send(s->stream, "Event", json_incref(event));
}

static void on_stream_closed(struct rpc_stream *stream, void *userdata)
{
    struct subscriber *s = userdata;

    event_subscription_free(s->subscription);
    rpc_stream_free(stream);
    free(s);
}

static void handle_subscribe(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;
    json_t *from = json_object_get(params, "from");
    struct subscriber *s = calloc(1, sizeof(*s));
    uint64_t first = from ? (uint64_t)json_integer_value(from) : 0, oldest, lost = 0;
    int r;

    if (!s || rpc_stream_new(call, on_stream_closed, s, &s->stream) < 0) {
        free(s);
        control_fail(call, ERROR_INTERNAL, ENOMEM, "out of memory");
        return;
    }
    /* the answer goes out before the first event, so the count of lost ones is taken first */
    oldest = event_log_oldest(c->events);
    lost = first != 0 && first < oldest ? oldest - first : 0;
    rpc_reply(call, json_pack("{s:I, s:I}", "next", (json_int_t)event_log_next(c->events), "lost", (json_int_t)lost));
    r = event_log_subscribe(c->events, first, on_event, s, &lost, &s->subscription);
    if (r < 0)
        log_warning("a subscriber could not be added: %s", strerror(-r));
}

/* ---- the table ----------------------------------------------------------------------------------------------------
 */

static const struct rpc_param vmi_params[] = {
    {"vmi", JSON_OBJECT, false, "the VirtualMachineInstance"},
    {"options", JSON_OBJECT, false, "VirtualMachineOptions"},
    {0},
};
static const struct rpc_param sync_params[] = {
    {"vmi", JSON_OBJECT, true, "the VirtualMachineInstance"},
    {"options", JSON_OBJECT, false, "VirtualMachineOptions"},
    {0},
};
static const struct rpc_param shutdown_params[] = {
    {"vmi", JSON_OBJECT, false, "the VirtualMachineInstance"},
    {"options", JSON_OBJECT, false, "VirtualMachineOptions"},
    {"gracePeriodSeconds", JSON_INTEGER, false, "instead of the VM's own grace period; 0 kills"},
    {0},
};
static const struct rpc_param freeze_params[] = {
    {"vmi", JSON_OBJECT, false, "the VirtualMachineInstance"},
    {"unfreezeTimeoutSeconds", JSON_INTEGER, false, "0: no limit"},
    {0},
};
static const struct rpc_param exec_params[] = {
    {"domainName", JSON_STRING, false, "<namespace>_<name>"},
    {"Command", JSON_STRING, true, "program in the guest"},
    {"Args", JSON_ARRAY, false, "its arguments"},
    {"timeoutSeconds", JSON_INTEGER, false, "0: the default"},
    {0},
};
static const struct rpc_param ping_params[] = {
    {"domainName", JSON_STRING, false, "<namespace>_<name>"},
    {"timeoutSeconds", JSON_INTEGER, false, "0: the default"},
    {0},
};
static const struct rpc_param qmp_params[] = {
    {"command", JSON_STRING, true, "QMP command"},
    {"arguments", JSON_OBJECT, false, "its arguments"},
    {0},
};
static const struct rpc_param agent_command_params[] = {
    {"command", JSON_STRING, true, "command of the guest agent"},
    {"arguments", JSON_OBJECT, false, "its arguments"},
    {"timeoutSeconds", JSON_INTEGER, false, "0: the default"},
    {0},
};
static const struct rpc_param dump_params[] = {
    {"vmi", JSON_OBJECT, false, "the VirtualMachineInstance"},
    {"dumpPath", JSON_STRING, true, "the file to write, an absolute path in the pod"},
    {0},
};
static const struct rpc_param checkpoint_params[] = {
    {"vmi", JSON_OBJECT, false, "the VirtualMachineInstance"},
    {"checkpoint", RPC_TYPE_ANY, false, "the checkpoint"},
    {0},
};
static const struct rpc_param subscribe_params[] = {
    {"from", JSON_INTEGER, false, "number of the first event wanted; 0: only new ones"},
    {0},
};

#define MONITORED    (STATES_ALIVE | STATE_BIT(DOMAIN_CRASHED))
#define STATES_DISKS (RUNS | STATE_BIT(DOMAIN_PAUSED))
#define RUNS         (STATE_BIT(DOMAIN_RUNNING) | STATE_BIT(DOMAIN_BLOCKED))

static const struct rpc_method methods[] = {
    {"SyncVirtualMachine", "make the VM what the manifest says: start it, resume it", 0, sync_params, handle_sync},
    {"PauseVirtualMachine", "stop the vCPUs", RUNS | STATE_BIT(DOMAIN_PAUSED), vmi_params, handle_pause},
    {"UnpauseVirtualMachine", "let the vCPUs run again", RUNS | STATE_BIT(DOMAIN_PAUSED), vmi_params, handle_unpause},
    {"ResetVirtualMachine", "hard reset", RUNS | STATE_BIT(DOMAIN_PAUSED), vmi_params, handle_reset},
    {"SoftRebootVirtualMachine", "reboot by the guest agent, else the power button", RUNS, vmi_params,
     handle_soft_reboot},
    {"ShutdownVirtualMachine", "ask the guest to shut down; end it after its grace period", STATES_ALIVE | STATES_FINAL,
     shutdown_params, handle_shutdown},
    {"KillVirtualMachine", "end QEMU now", STATES_ALIVE | STATES_FINAL, vmi_params, handle_kill},
    {"GetDomain", "the domain as KubeVirt's api.Domain, and what vmlet knows besides", 0, NULL, handle_get_domain},
    {"GetTimeline", "the marks of the start-up", 0, NULL, handle_get_timeline},
    {"FreezeVirtualMachine", "freeze the guest's file systems; they thaw by themselves after the given time",
     RUNS | STATE_BIT(DOMAIN_PAUSED), freeze_params, handle_freeze},
    {"UnfreezeVirtualMachine", "thaw them", RUNS | STATE_BIT(DOMAIN_PAUSED), vmi_params, handle_unfreeze},
    {"GetGuestInfo", "what the guest agent tells of the guest, from memory", STATES_ALIVE, NULL, handle_guest_info},
    {"GetUsers", "who is logged in in the guest, from memory", STATES_ALIVE, NULL, handle_users},
    {"GetFilesystems", "the guest's file systems, from memory", STATES_ALIVE, NULL, handle_filesystems},
    {"GetQemuVersion", "QEMU's version", MONITORED, NULL, handle_get_qemu_version},
    {"GetScreenshot", "a PNG of the guest's display", MONITORED, vmi_params, handle_screenshot},
    {"Exec", "run a program in the guest by its agent", RUNS, exec_params, handle_exec},
    {"GuestPing", "does the guest agent answer?", RUNS, ping_params, handle_guest_ping},
    {"Qmp", "one QMP command; read-only unless the server allows writes; logged with the caller", MONITORED, qmp_params,
     handle_qmp},
    {"AgentCommand", "one command of the guest agent; the same rules", RUNS, agent_command_params,
     handle_agent_command},
    {"GetDomainStats", "what the VM uses, as KubeVirt's DomainStats; kept for a few seconds", STATES_ALIVE, NULL,
     handle_domain_stats},
    {"GetMetrics", "the same as Prometheus text", STATES_ALIVE, NULL, handle_metrics},
    {"GetDomainDirtyRateStats", "how fast the guest dirties its memory, measured for a second", RUNS, NULL,
     handle_dirty_rate},
    {"GetVMStats", "the parts that are asked for: statistics, and raw answers of the guest agent", STATES_ALIVE,
     vm_stats_params, handle_vm_stats},
    {"VirtualMachineMemoryDump", "write the guest's memory to a file, in the background",
     RUNS | STATE_BIT(DOMAIN_PAUSED), dump_params, handle_memory_dump},
    {"GetDisks", "the disks as they are, and the backup or mirror under way", STATES_ALIVE, NULL, handle_get_disks},
    {"PlugDisk", "plug in a disk that is not in the manifest", STATES_DISKS, disk_plug_params, handle_plug_disk},
    {"UnplugDisk", "unplug a disk; the answer comes when the guest has let go of it", RUNS, disk_name_params,
     handle_unplug_disk},
    {"ResizeDisk", "make a disk larger", STATES_DISKS, disk_resize_params, handle_resize_disk},
    {"ChangeMedium", "put another medium into a CD-ROM drive, or take it out", STATES_DISKS, disk_medium_params,
     handle_change_medium},
    {"BackupDisks", "copy disks as they are at one moment, in the background", STATES_DISKS, disk_backup_params,
     handle_backup_disks},
    {"MirrorDisk", "copy a disk and keep the copy equal, until CompleteBlockJob", STATES_DISKS, disk_mirror_params,
     handle_mirror_disk},
    {"CompleteBlockJob", "let the guest go on with the mirror in the place of the disk", STATES_DISKS, NULL,
     handle_complete_job},
    {"CancelBlockJob", "give up the backup or mirror, and remove its files", STATES_DISKS, NULL, handle_cancel_job},
    {"DeleteVirtualMachine", "forget a VM that has ended", STATE_BIT(DOMAIN_NO_STATE) | STATES_FINAL, vmi_params,
     handle_delete},
#define NOT_YET(name, what, params)                                                                                    \
    {                                                                                                                  \
        name, what " (not supported yet)", 0, params, handle_not_supported                                             \
    }
    NOT_YET("MigrateVirtualMachine", "migrate to another pod", vmi_params),
    NOT_YET("SyncMigrationTarget", "prepare this pod as the target of a migration", vmi_params),
    NOT_YET("CancelVirtualMachineMigration", "abort the migration", vmi_params),
    NOT_YET("SignalTargetPodCleanup", "the target of a migration is to leave", vmi_params),
    NOT_YET("FinalizeVirtualMachineMigration", "what is to be done on the target when it runs", vmi_params),
    NOT_YET("HotplugHostDevices", "plug host devices in again after a migration", vmi_params),
    NOT_YET("SyncVirtualMachineCPUs", "plug vCPUs", vmi_params),
    NOT_YET("SyncVirtualMachineMemory", "plug memory", vmi_params),
    NOT_YET("GetSEVInfo", "AMD SEV: the platform", NULL),
    NOT_YET("GetLaunchMeasurement", "AMD SEV: the measurement", vmi_params),
    NOT_YET("InjectLaunchSecret", "AMD SEV: the secret", vmi_params),
    NOT_YET("BackupVirtualMachine", "incremental backup", vmi_params),
    NOT_YET("RedefineCheckpoint", "register a checkpoint again", checkpoint_params),
#undef NOT_YET
    {"Subscribe", "events of the VM as notifications, from a number on", 0, subscribe_params, handle_subscribe},
    {0},
};

int control_new(sd_event *event, const struct control_options *options, struct event_log *events,
                struct timeline *timeline, struct control **ret, struct error **ret_error)
{
    _cleanup_(control_freep) struct control *c = calloc(1, sizeof(*c));
    int r;

    if (!c)
        return error_oom(ret_error);
    c->events = events;
    c->timeline = timeline;
    c->allow_qmp_writes = options->allow_qmp_writes;
    c->sync = options->sync;
    c->sync_userdata = options->sync_userdata;
    struct rpc_server_options server = {
        .path = options->path,
        .listen_fd = -1,
        .methods = methods,
        .state_names = domain_state_names,
        .get_state = get_state,
        .userdata = c,
        .allowed_uid = geteuid(),
        .complain = complain,
        .refuse = refuse,
    };
    r = rpc_server_new(event, &server, &c->server, ret_error);
    if (r < 0)
        return error_wrap(ret_error, r, "cannot serve commands");
    *ret = TAKE_PTR(c);
    return 0;
}

void control_set_domain(struct control *control, struct domain *domain)
{
    control_forget_agent_parts(control);
    control->domain = domain;
}

void control_free(struct control *control)
{
    if (!control)
        return;
    rpc_server_free(control->server);
    control_forget_agent_parts(control);
    free(control);
}

struct rpc_server *control_get_server(struct control *control)
{
    return control->server;
}
