/* SPDX-License-Identifier: Apache-2.0 */
#include "launcher/launcher.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/crash.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "domain/control.h"
#include "domain/disks.h"
#include "domain/network.h"
#include "domain/orphan.h"
#include "domain/prepare.h"
#include "domain/sandbox.h"
#include "domain/statefile.h"
#include "json/text.h"

#define WAITING_MAX 32U /* Sync calls that wait for the VM to run */

struct launcher {
    sd_event *event;
    struct launcher_options options;
    struct timeline *timeline;
    struct event_log *events;
    struct event_subscription *subscription;
    struct control *control;
    sd_event_source *qemu_timer;
    char *init_socket, *socket;
    char *firmware_log; /* where KubeVirt has this fifo: in the private directory of the pod */

    struct vmi *vmi;
    const json_t *volume_status; /* of the Sync that is worked on; NULL: none */
    char *dir;                   /* <private dir>/<uid> */
    struct prepared prepared;
    struct pod_network *network;
    const char *file_dirs[8]; /* for QEMU */
    struct domain *domain;
    struct rpc_call *waiting[WAITING_MAX]; /* answered when the VM runs, or has failed */
    size_t n_waiting;
    int balloon_stats_seconds; /* of the options of Sync; 0: the default, negative: none */
    bool ended;
    int exit_code;
};

static char *path_below(const char *dir, const char *name)
{
    char *path;

    return asprintf(&path, "%s/%s", dir, name) < 0 ? NULL : path;
}

/* Answers every Sync that waits; NULL: the VM runs. */
static void answer_waiting(struct launcher *l, const struct error *error)
{
    size_t n = l->n_waiting;

    l->n_waiting = 0;
    for (size_t i = 0; i < n; i++)
        if (error)
            rpc_fail(l->waiting[i], error);
        else
            rpc_reply(l->waiting[i], control_success());
}

static void on_event(json_t *event, void *userdata)
{
    struct launcher *l = userdata;
    const char *type = json_string_value(json_object_get(event, "type"));
    const char *reason = json_string_value(json_object_get(event, "reason"));
    const char *message = json_string_value(json_object_get(event, "message"));

    if (message)
        log_info("%s", message);
    if (streq(type, "Domain") && streq(reason, "Running")) {
        log_info("the guest runs");
        answer_waiting(l, NULL);
    }
    if (streq(type, "Domain") && streq(reason, "Paused") &&
        streq_ptr(json_string_value(json_object_get(event, "stateReason")), "User"))
        answer_waiting(l, NULL); /* startStrategy: Paused */
    if (streq(type, "Agent") && streq(reason, "Connected"))
        timeline_log(l->timeline, l->vmi->domain_name);
}

static void finish(struct launcher *l, int code)
{
    l->ended = true;
    l->exit_code = code;
    sd_event_exit(l->event, 0);
}

static void on_domain_ended(struct domain *domain, const struct error *error, void *userdata)
{
    struct launcher *l = userdata;
    const struct lifecycle *state = domain_get_lifecycle(domain);
    const char *outcome = domain_get_outcome(domain);
    bool failed = error || state->reason == REASON_PANICKED;

    if (error)
        log_error_of(error, "the VM %s failed", l->vmi->domain_name);
    log_info("the VM %s ended: %s", l->vmi->domain_name, outcome ? outcome : domain_reason_name(state->reason));
    _cleanup_error_ struct error *e = NULL;
    if (!error)
        error_set(&e, ERROR_GUEST, EPIPE, "the VM ended before it ran: %s", outcome ? outcome : "");
    answer_waiting(l, error ? error : e);
    CRASH_POINT("end-told");
    storage_remove(l->prepared.storage);
    CRASH_POINT("end-storage");
    finish(l, failed ? EXIT_FAILED : EXIT_OK);
}

/* ---- Sync ---------------------------------------------------------------------------------------------------------
 */

/* Where a pod has its volumes. */
static struct storage_options storage_options(const struct launcher *l)
{
    const struct launcher_options *lo = &l->options;
    struct storage_options o = {
        .paths = storage_pod_paths, .owner_uid = (unsigned)-1, .volume_status = l->volume_status};

    o.paths.private_dir = lo->private_dir;
    o.paths.ephemeral_disk_dir = lo->ephemeral_disk_dir;
    o.paths.container_disk_dir = lo->container_disk_dir;
    o.paths.hotplug_disk_dir = lo->hotplug_disk_dir;
    o.paths.empty_disk_dir = lo->empty_disk_dir;
    return o;
}

/* known: of a VM that runs already; NULL: one that is to be started. */
static int prepare(struct launcher *l, const struct accel_result *known, struct faults *faults,
                   struct error **ret_error)
{
    const struct launcher_options *lo = &l->options;
    int r = pod_network_load(l->vmi, lo->private_dir, &l->network, ret_error);

    if (r < 0)
        return r;
    struct prepare_options o = {
        .vmi = l->vmi,
        .dir = l->dir,
        .qemu = lo->qemu,
        .accel = lo->accel,
        .storage = storage_options(l),
        .net = VM_NET_POD,
        .firmware_dir = lo->ovmf_path,
        .firmware_log = lo->log_firmware ? l->firmware_log : NULL,
        .known_accel = known,
        .touch_nothing = known != NULL,
        .timeline = known ? NULL : l->timeline,
    };

    o.network = l->network;
    r = pod_network_serve(l->network, l->event, l->dir, known != NULL, ret_error);
    return r < 0 ? r : vm_prepare(&o, &l->prepared, faults, ret_error);
}

static int make_domain(struct launcher *l, const char *manifest, struct error **ret_error)
{
    const char *strategy = l->vmi->spec.start_strategy;
    const struct launcher_options *lo = &l->options;
    const char *const dirs[] = {lo->private_dir,      lo->ephemeral_disk_dir, lo->container_disk_dir,
                                lo->hotplug_disk_dir, lo->empty_disk_dir,     lo->ovmf_path};
    _cleanup_free_ char *events = path_below(l->dir, "events.log");
    _cleanup_free_ char *secrets = path_below(l->options.private_dir, "secret");
    struct domain_options o = {
        .vmi = l->vmi,
        .machine = TAKE_PTR(l->prepared.machine),
        .dir = l->dir,
        .secret_dir = secrets,
        .agent_intervals = l->options.agent_intervals,
        .balloon_stats_seconds = l->balloon_stats_seconds,
        .manifest = manifest,
        .accel = l->prepared.accel.accel,
        .accel_reason = l->prepared.accel.text,
        .timeline = l->timeline,
        .events = l->events,
        .network = l->network,
        .storage = l->prepared.storage,
        .console_log_bytes = l->options.console_log_bytes,
        .file_dirs = l->file_dirs,
        .start_paused = strategy && streq(strategy, "Paused"),
        .grace_usec =
            (uint64_t)opt_int_or(l->vmi->spec.termination_grace_period_seconds, DEFAULT_GRACE_PERIOD_SECONDS) *
            USEC_PER_SEC,
    };
    int r;

    memcpy(l->file_dirs, dirs, sizeof(dirs)); /* a NULL is left behind them */
    r = domain_new(l->event, &o, &l->domain, ret_error);
    if (r < 0)
        return r;
    if (!events || event_log_persist(l->events, events, NULL) < 0)
        log_warning("the events of the VM are not kept in a file: a launcher that is killed loses them");
    control_set_domain(l->control, l->domain);
    return 0;
}

static void drop_domain(struct launcher *l)
{
    control_set_domain(l->control, NULL);
    domain_free(l->domain);
    l->domain = NULL;
}

/* There is a VM: all that takes privilege (taps, the DHCP server's port) is done. */
static void set_up(struct launcher *l)
{
    _cleanup_error_ struct error *e = NULL;

    event_disarm_timer(l->qemu_timer);
    if (sandbox_drop_capabilities(&e) < 0)
        log_warning_of(e, "the launcher goes on with the capabilities that it has");
}

static int start(struct launcher *l, const char *text, struct faults *faults, struct error **ret_error)
{
    const char *uid = l->vmi->uid ? l->vmi->uid : l->options.uid ? l->options.uid : l->vmi->spec.domain.firmware.uuid;
    int r;

    l->dir = path_below(l->options.private_dir, uid);
    if (!l->dir)
        return error_oom(ret_error);
    CRASH_POINT("start-begin");
    r = mkdir_parents(l->dir, 0700, ret_error);
    CRASH_POINT("start-dir");
    if (r >= 0)
        r = prepare(l, NULL, faults, ret_error);
    if (r < 0)
        return r;
    r = make_domain(l, text, ret_error);
    if (r < 0)
        return r;
    r = domain_start(l->domain, on_domain_ended, l, ret_error);
    if (r < 0) {
        drop_domain(l);
        return r;
    }
    set_up(l);
    return 0;
}

/* Forgets what a failed start has left, so that the next Sync begins anew. */
static void forget(struct launcher *l)
{
    if (l->prepared.storage)
        storage_remove(l->prepared.storage);
    prepared_done(&l->prepared);
    pod_network_free(l->network);
    l->network = NULL;
    vmi_free(l->vmi);
    l->vmi = NULL;
    free(l->dir);
    l->dir = NULL;
}

static int sync_text(struct launcher *l, const char *text, const char *source, struct faults *faults,
                     struct error **ret_error)
{
    int r;

    faults->source = source;
    r = vmi_load_text(text, strlen(text), source, NULL, &l->vmi, faults, ret_error);
    if (r < 0)
        return r;
    timeline_mark(l->timeline, MARK_MANIFEST);
    log_info("bringing up the VM %s", l->vmi->domain_name);
    r = start(l, text, faults, ret_error);
    if (r < 0)
        forget(l);
    return r;
}

static json_t *faults_to_json(const struct faults *faults)
{
    json_t *list = json_array();

    for (size_t i = 0; i < faults->count; i++)
        json_array_append_new(
            list, json_pack("{s:s, s:s}", "path", faults->items[i].path, "message", faults->items[i].message));
    return json_pack("{s:o}", "faults", list);
}

static void on_resumed(struct domain *domain, const struct error *error, void *userdata)
{
    if (error)
        rpc_fail(userdata, error);
    else
        rpc_reply(userdata, control_success());
}

/* A VM is there: make it run if it is paused, and nobody wanted it to be. */
static void resume_existing(struct launcher *l, struct rpc_call *call)
{
    const struct lifecycle *state = domain_get_lifecycle(l->domain);

    if (state->state == DOMAIN_PAUSED && state->reason == REASON_STARTING_UP && l->n_waiting < WAITING_MAX)
        l->waiting[l->n_waiting++] = call;
    else if (state->state == DOMAIN_PAUSED && state->reason != REASON_USER && state->reason != REASON_MIGRATION &&
             state->reason != REASON_DUMP && domain_unpause(l->domain, on_resumed, call) >= 0)
        return;
    else
        rpc_reply(call, control_success());
}

/* A Sync whose disks are being changed. */
struct sync {
    struct launcher *launcher;
    struct rpc_call *call;
};

static void on_disks_updated(struct domain *domain, const struct error *error, void *userdata)
{
    struct sync *sync = userdata;

    if (error)
        rpc_fail(sync->call, error);
    else
        resume_existing(sync->launcher, sync->call);
    free(sync);
}

/* The manifest of a VM that runs: its disks may have changed (compat 4.4, 4.5); the rest is for its next start. */
static void sync_existing(struct launcher *l, struct rpc_call *call, json_t *params)
{
    const struct storage_options options = storage_options(l);
    json_t *manifest = json_object_get(params, "vmi");
    _cleanup_free_ char *text = json_dumps(manifest, JSON_COMPACT);
    _cleanup_(faults_done) struct faults faults = {.source = "vmi"};
    _cleanup_error_ struct error *e = NULL;
    struct sync *sync = malloc(sizeof(*sync));
    struct vmi *vmi = NULL;
    int r;

    if (!text || !sync) {
        r = error_oom(&e);
    } else {
        *sync = (struct sync){l, call};
        r = vmi_load_text(text, strlen(text), "vmi", NULL, &vmi, &faults, &e);
    }
    if (r >= 0 && vmi->uid && l->vmi->uid && !streq(vmi->uid, l->vmi->uid)) {
        r = error_set(&e, ERROR_WRONG_STATE, EBUSY,
                      "this launcher runs the VM with uid %s, and this is one with uid %s", l->vmi->uid, vmi->uid);
        vmi_free(vmi);
    } else if (r >= 0) {
        r = domain_update_disks(l->domain, vmi, &options, on_disks_updated, sync, &e);
    }
    if (r < 0) {
        free(sync);
        log_error_of(e, "SyncVirtualMachine");
        rpc_fail_with(call, e, faults_to_json(&faults));
    }
}

/* VirtualMachineOptions (compat §1.3): what has no meaning here is passed over, as it is by KubeVirt's launcher. */
static int take_options(struct launcher *l, const json_t *options, struct error **ret_error)
{
    json_t *period = json_object_get(options, "MemBalloonStatsPeriod");
    json_int_t n = json_integer_value(period);

    if (period && (!json_is_integer(period) || n < 0 || n > MAX_BALLOON_STATS_SECONDS))
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL,
                         "options.MemBalloonStatsPeriod must be a number of seconds from 0 (no statistics) to %d",
                         MAX_BALLOON_STATS_SECONDS);
    l->balloon_stats_seconds = !period ? 0 : n == 0 ? -1 : (int)n;
    return 0;
}

static void sync_new(struct launcher *l, struct rpc_call *call, json_t *params)
{
    _cleanup_(faults_done) struct faults faults = {0};
    _cleanup_error_ struct error *e = NULL;
    _cleanup_free_ char *text = json_text_dump(json_object_get(params, "vmi"), JSON_TEXT_COMPACT);

    if (!text)
        error_oom(&e);
    else if (take_options(l, json_object_get(params, "options"), &e) >= 0)
        sync_text(l, text, "vmi", &faults, &e);
    if (e) {
        log_error_of(e, "SyncVirtualMachine");
        rpc_fail_with(call, e, faults_to_json(&faults));
    } else {
        l->waiting[l->n_waiting++] = call;
    }
}

static void on_sync(struct rpc_call *call, json_t *params, void *userdata)
{
    struct launcher *l = userdata;

    l->volume_status = json_object_get(json_object_get(json_object_get(params, "vmi"), "status"), "volumeStatus");
    if (l->domain)
        sync_existing(l, call, params);
    else
        sync_new(l, call, params);
    l->volume_status = NULL;
}

int launcher_sync_text(struct launcher *l, const char *text, const char *source, struct error **ret_error)
{
    _cleanup_(faults_done) struct faults faults = {0};
    int r;

    if (l->domain) /* taken over: it is this one */
        return 0;
    r = sync_text(l, text, source, &faults, ret_error);

    if (r < 0 && faults.count > 0) {
        _cleanup_free_ char *list = faults_format(&faults);

        return error_set(ret_error, ERROR_BAD_MANIFEST, r, "the manifest has %zu faults:\n%s", faults.count,
                         list ? list : "");
    }
    return r;
}

/* ---- adoption ------------------------------------------------------------------------------------------------------
 */

static void on_adopted(struct domain *domain, const struct error *error, void *userdata)
{
    struct launcher *l = userdata;

    if (domain_get_lifecycle(domain)->state == DOMAIN_RUNNING)
        answer_waiting(l, NULL);
}

/* What a VM of a former boot, or one that is gone, has left in its directory. */
static void remove_stale(const char *dir)
{
    static const char *const sockets[] = {"qmp.sock", "agent.sock", "serial.in", "serial.out", "virt-serial0"};

    domain_remove_files(dir);
    for (size_t i = 0; i < ELEMENTSOF(sockets); i++) {
        _cleanup_free_ char *path = path_below(dir, sockets[i]);

        if (path)
            unlink(path);
    }
}

static int adopt(struct launcher *l, const struct domain_state_file *state, struct error **ret_error)
{
    _cleanup_(faults_done) struct faults faults = {.source = "domain.json"};
    struct accel_result accel = {.accel = state->accel && streq(state->accel, "kvm") ? MACHINE_ACCEL_KVM
                                                                                     : MACHINE_ACCEL_TCG};
    int r;

    snprintf(accel.text, sizeof(accel.text), "%s", state->accel_reason ? state->accel_reason : "");
    if (!state->manifest)
        return error_set(ret_error, ERROR_BAD_DATA, EBADMSG, "the state file has no manifest");
    r = vmi_load_text(state->manifest, strlen(state->manifest), "domain.json", NULL, &l->vmi, &faults, ret_error);
    if (r >= 0 && state->uuid)
        l->vmi->spec.domain.firmware.uuid = arena_strdup(l->vmi->arena, state->uuid);
    if (r >= 0)
        r = prepare(l, &accel, &faults, ret_error);
    if (r >= 0)
        r = make_domain(l, state->manifest, ret_error);
    if (r < 0)
        return r;
    r = domain_adopt(l->domain, state, on_domain_ended, l, on_adopted, l, ret_error);
    if (r < 0)
        drop_domain(l);
    else
        set_up(l);
    return r;
}

/* The monitor started us because the former launcher was killed while QEMU ran, and QEMU has ended meanwhile: nobody
 * will ask for this VM again. What the state file says last is how it ended. */
static void end_unseen(struct launcher *l, const struct domain_state_file *state)
{
    bool in_order = state->state == DOMAIN_SHUTTING_DOWN || state->stop_asked_wall;

    log_message(in_order ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR, __FILE__, __LINE__, NULL,
                "the VM in %s ended while there was no launcher; it was %s (%s)", l->dir,
                domain_state_name(state->state), domain_reason_name(state->reason));
    remove_stale(l->dir);
    finish(l, in_order ? EXIT_OK : EXIT_FAILED);
}

/* One directory below the private one: is it of a VM that runs? */
static int try_dir(struct launcher *l, const char *name, struct error **ret_error)
{
    _cleanup_(domain_state_done) struct domain_state_file state = {0};
    _cleanup_error_ struct error *e = NULL;
    int r;

    l->dir = path_below(l->options.private_dir, name);
    if (!l->dir)
        return error_oom(ret_error);
    domain_remove_staged(l->dir);
    r = domain_state_read(l->dir, &state, &e);
    if (r >= 0) {
        CRASH_POINT("adopt-read");
        r = adopt(l, &state, ret_error);
        if (r < 0)
            return error_wrap(ret_error, r, "cannot take over the VM in %s, which still runs (QEMU is pid %d)", l->dir,
                              (int)state.pid);
        return 1;
    }
    if (r != -ENOENT)
        log_info("nothing to take over: %s", error_message(e));
    if (state.is_gone && getenv(RESTARTED_VARIABLE)) {
        end_unseen(l, &state);
        return 1;
    }
    r = domain_end_orphan(l->dir, ret_error);
    if (r < 0)
        return r;
    if (r > 0)
        log_warning("a QEMU in %s, started by a launcher that was killed before it could run the guest, was ended",
                    l->dir);
    remove_stale(l->dir);
    free(l->dir);
    l->dir = NULL;
    return 0;
}

/* A launcher that was killed, or replaced by a newer one, has left a VM running: go on with it. */
static int adopt_if_any(struct launcher *l, struct error **ret_error)
{
    DIR *dir = opendir(l->options.private_dir);
    struct dirent *entry;
    int r = 0;

    while (dir && r == 0 && (entry = readdir(dir)))
        if (entry->d_name[0] != '.' && (entry->d_type == DT_DIR || entry->d_type == DT_UNKNOWN))
            r = try_dir(l, entry->d_name, ret_error);
    if (dir)
        closedir(dir);
    return r;
}

/* ---- life ---------------------------------------------------------------------------------------------------------
 */

static int on_qemu_timeout(sd_event_source *source, uint64_t at, void *userdata)
{
    struct launcher *l = userdata;

    log_error("no VM was asked for within %.0f s (--qemu-timeout): giving up",
              (double)l->options.qemu_timeout_usec / 1e6);
    finish(l, EXIT_FAILED);
    return 0;
}

static int make_directories(const struct launcher_options *o, const char *sockets, struct error **ret_error)
{
    const char *const dirs[] = {o->private_dir,      sockets,          o->ephemeral_disk_dir, o->container_disk_dir,
                                o->hotplug_disk_dir, o->empty_disk_dir};

    for (size_t i = 0; i < ELEMENTSOF(dirs); i++) {
        int r = mkdir_parents(dirs[i], 0755, ret_error);

        if (r < 0)
            return r;
    }
    return 0;
}

int launcher_new(sd_event *event, const struct launcher_options *options, struct timeline *timeline,
                 struct launcher **ret, struct error **ret_error)
{
    _cleanup_(launcher_freep) struct launcher *l = calloc(1, sizeof(*l));
    _cleanup_free_ char *sockets = path_below(options->share_dir, "sockets");
    uint64_t lost;
    int r;

    if (!l || !sockets)
        return error_oom(ret_error);
    l->event = sd_event_ref(event);
    l->options = *options;
    l->timeline = timeline;
    l->events = event_log_new();
    l->init_socket = path_below(sockets, "launcher-init-sock");
    l->socket = path_below(sockets, "launcher-sock");
    l->firmware_log = path_below(options->private_dir, "QEMUSeaBiosDebugPipe");
    if (!l->events || !l->init_socket || !l->socket || !l->firmware_log)
        return error_oom(ret_error);
    r = make_directories(options, sockets, ret_error);
    if (r < 0)
        return r;
    struct control_options o = {
        .path = l->init_socket,
        .allow_qmp_writes = options->allow_qmp_writes,
        .sync = on_sync,
        .sync_userdata = l,
    };
    r = control_new(event, &o, l->events, timeline, &l->control, ret_error);
    if (r < 0)
        return r;
    r = event_log_subscribe(l->events, 0, on_event, l, &lost, &l->subscription);
    if (r >= 0 && options->qemu_timeout_usec > 0)
        r = event_arm_timer(event, &l->qemu_timer, options->qemu_timeout_usec, on_qemu_timeout, l);
    if (r < 0)
        return error_errno(ret_error, r, "cannot set up the event loop");
    CRASH_POINT("serve-listening");
    r = adopt_if_any(l, ret_error);
    CRASH_POINT("serve-adopted");
    if (r >= 0 && !l->ended) /* a pod whose VM has ended is not ready for another */
        r = rpc_server_rename(control_get_server(l->control), l->socket, ret_error);
    CRASH_POINT("serve-renamed");
    if (r < 0)
        return r;
    *ret = TAKE_PTR(l);
    return 0;
}

void launcher_free(struct launcher *l)
{
    if (!l)
        return;
    event_subscription_free(l->subscription);
    if (l->control)
        control_set_domain(l->control, NULL);
    domain_free(l->domain);
    control_free(l->control);
    forget(l);
    event_log_free(l->events);
    sd_event_source_disable_unref(l->qemu_timer);
    sd_event_unref(l->event);
    free(l->firmware_log);
    free(l->init_socket);
    free(l->socket);
    free(l);
}

void launcher_stop(struct launcher *l, const char *why)
{
    if (l->domain)
        domain_shutdown(l->domain, l->options.grace_usec, why);
    else
        finish(l, EXIT_OK);
}

void launcher_reexec(struct launcher *l, char **argv)
{
    log_info("executing the launcher anew; the VM runs on");
    /* by name, not by /proc/self/exe: an upgrade has put another file in its place */
    CRASH_POINT("reexec");
    execvp(argv[0], argv);
    log_error("cannot execute the launcher anew: %s; going on with this one", strerror(errno));
}

int launcher_exit_code(const struct launcher *l)
{
    return l->exit_code;
}
