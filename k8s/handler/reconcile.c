/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A key of the work queue is an instance, "namespace/name". Each turn asks its launcher how the domain is (a unix
 * socket: a fraction of a millisecond), decides by that and the object, and writes the status if it differs. Nothing of
 * the domain is kept between turns: what is remembered about an instance is what a new agent would need, too. A turn
 * is caused by a change of the object, or by an event of the launcher.
 */
#include "k8s/handler/reconcile.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>

#include "base/event.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "k8s/client/informer.h"
#include "k8s/client/ktime.h"
#include "k8s/client/queue.h"
#include "k8s/client/recorder.h"
#include "k8s/controller/object.h"
#include "k8s/handler/status.h"

static const struct kube_resource resource_vmis = {"kubevirt.io", "v1", "virtualmachineinstances",
                                                   "VirtualMachineInstance", false};

struct reconciler {
    struct kube_client *client;
    const char *node;
    const struct guest_paths *paths;
    struct kube_informer *informer;
    struct kube_queue *queue;
    struct kube_recorder *recorder;
    struct kube_map guests;
    void (*on_synced)(void *userdata);
    void *userdata;
    bool synced, tidy_soon;
    sd_event_source *tidy;
    uint64_t turns, writes, write_failures, syncs, events;
};

/* One turn. */
struct turn {
    struct reconciler *r;
    char *key;
    struct guest *guest;
    json_t *vmi; /* NULL: the object is gone */
    json_t *domain, *extra, *agent;
    bool failed;
};

static void write_status(struct turn *t);

/* ---- turns ------------------------------------------------------------------------------------------------------ */

static int on_tidy(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct reconciler *r = userdata;

    r->tidy_soon = false;
    malloc_trim(0); /* what a burst of turns has left in pieces goes back to the system */
    return 0;
}

static void turn_end(struct turn *t)
{
    struct reconciler *r = t->r;

    if (t->guest && t->guest->cleaned && (!t->vmi || phase_is_final(GET_TEXT(t->vmi, "status", "phase")))) {
        kube_map_remove(&r->guests, &t->guest->node);
        guest_free(t->guest);
    }
    if (t->failed)
        (void)kube_queue_add_failed(r->queue, t->key);
    else
        kube_queue_forget(r->queue, t->key);
    json_decref(t->vmi);
    json_decref(t->domain);
    json_decref(t->extra);
    json_decref(t->agent);
    if (!r->tidy_soon)
        r->tidy_soon = event_arm_timer(kube_client_event(r->client), &r->tidy, HANDLER_TIDY_USEC, on_tidy, r) >= 0;
    kube_queue_done(r->queue, t->key);
    free(t->key);
    free(t);
}

static void turn_fail(struct turn *t)
{
    t->failed = true;
    turn_end(t);
}

static void say(struct turn *t, bool warning, const char *reason, const char *text)
{
    const struct record *record = &t->guest->record;
    const struct kube_subject about = {"kubevirt.io/v1", "VirtualMachineInstance", record->namespace_, record->name,
                                       record->uid};

    (void)kube_record(t->r->recorder, &about, warning, reason, "%s", text);
}

/* ---- the launcher ----------------------------------------------------------------------------------------------- */

static void note_end(struct guest *guest, const json_t *event)
{
    const char *state = GET_TEXT(event, "state");

    if (!streq(state, "Shutoff") && !streq(state, "Crashed"))
        return;
    snprintf(guest->end_state, sizeof(guest->end_state), "%s", state);
    snprintf(guest->end_reason, sizeof(guest->end_reason), "%s", GET_TEXT(event, "stateReason"));
}

static void on_notify(struct rpc_client *client, const char *method, json_t *params, void *userdata)
{
    struct guest *guest = userdata;
    struct reconciler *r = guest->owner;
    const char *type = GET_TEXT(params, "type");

    if (!streq(method, "Event"))
        return;
    r->events++;
    if (GET_NUMBER(params, "seq") > 0)
        guest->record.next_event = (uint64_t)GET_NUMBER(params, "seq") + 1;
    if (streq(type, "Kubernetes")) {
        const struct kube_subject about = {"kubevirt.io/v1", "VirtualMachineInstance", guest->record.namespace_,
                                           guest->record.name, guest->record.uid};

        (void)kube_record(r->recorder, &about, true, GET_TEXT(params, "reason"), "%s", GET_TEXT(params, "message"));
    } else if (streq(type, "Domain") || streq(type, "Agent")) {
        note_end(guest, params);
        (void)kube_queue_add(r->queue, guest->key);
    }
}

static void on_closed(struct rpc_client *client, const struct error *error, void *userdata)
{
    struct guest *guest = userdata;
    struct reconciler *r = guest->owner;

    log_debug("%s: the launcher's connection has ended: %s", guest->key, error ? error_message(error) : "closed");
    rpc_client_free(client);
    guest->rpc = NULL;
    (void)kube_queue_add(r->queue, guest->key);
}

static void on_subscribed(struct rpc_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct guest *guest = userdata;

    if (error)
        log_warning_of(error, "%s: cannot follow the launcher's events", guest->key);
    else if (GET_NUMBER(result, "lost") > 0)
        log_warning("%s: %lld of the launcher's events were lost", guest->key, (long long)GET_NUMBER(result, "lost"));
}

static void on_appeared(struct guest *guest)
{
    struct reconciler *r = guest->owner;

    (void)kube_queue_add(r->queue, guest->key);
}

static int connect_launcher(struct reconciler *r, struct guest *guest, struct error **ret_error)
{
    _cleanup_free_ char *socket = guest_socket(guest);
    _cleanup_close_ int dir = -EBADF;
    char name[SHORT_SOCKET_SIZE];
    int e;

    if (guest->rpc)
        return 0;
    guest_watch(guest, kube_client_event(r->client), on_appeared);
    if (!socket)
        return error_oom(ret_error);
    e = socket_shorten(socket, &dir, name);
    if (e < 0)
        return error_errno(ret_error, e, "%s", socket);
    e = rpc_client_connect(name, &guest->rpc, ret_error);
    if (e < 0)
        return e;
    e = rpc_client_attach(guest->rpc, kube_client_event(r->client), on_notify, on_closed, guest);
    if (e >= 0)
        e = rpc_client_call_async(guest->rpc, "Subscribe",
                                  json_pack("{s:I}", "from", (json_int_t)guest->record.next_event),
                                  TIMEOUT_HANDLER_CALL_USEC, on_subscribed, guest);
    if (e < 0) {
        rpc_client_free(guest->rpc);
        guest->rpc = NULL;
        return error_errno(ret_error, e, "cannot talk to the launcher at %s", socket);
    }
    guest_unwatch_launcher(guest);
    return 0;
}

/* ---- actions ---------------------------------------------------------------------------------------------------- */

static void sync_failed(struct turn *t, const struct error *error)
{
    struct guest *guest = t->guest;
    char text[1000];

    snprintf(text, sizeof(text), "%s%s%s", error_message(error), error_remedy(error) ? " (" : "",
             error_remedy(error) ? error_remedy(error) : "");
    if (error_remedy(error) && strlen(text) + 1 < sizeof(text))
        strcat(text, ")");
    if (!guest->failure || !streq(guest->failure, text)) {
        free(guest->failure);
        guest->failure = strdup(text);
        say(t, true, "SyncFailed", text);
        log_warning_of(error, "%s: it cannot be made as its object says", t->key);
    }
    t->failed = true;
    write_status(t);
}

static void on_sync(struct rpc_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct turn *t = userdata;
    struct guest *guest = t->guest;

    if (error && error_get_code(error) == ERROR_CONNECTION) {
        turn_fail(t); /* the launcher starts again, and adopts the VM */
        return;
    }
    if (error) {
        sync_failed(t, error);
        return;
    }
    if (!guest->synced && guest->record.generation == 0) {
        say(t, false, "Created", "VirtualMachineInstance defined.");
        say(t, false, "Started", "VirtualMachineInstance started.");
    }
    guest->synced = true;
    free(guest->failure);
    guest->failure = NULL;
    guest->record.generation = GET_NUMBER(t->vmi, "metadata", "generation");
    guest->record.claim_bytes = handler_claim_bytes(t->vmi);
    (void)record_save(guest->paths->records, &guest->record, NULL);
    /* What it is like now is the next turn's to see. */
    (void)kube_queue_add(t->r->queue, t->key);
    turn_end(t);
}

/* What a launcher is to know of the object. */
static json_t *manifest_of(const json_t *vmi)
{
    static const char *const wanted[] = {"name", "namespace", "uid", "labels", "annotations", "generation"};
    json_t *metadata = json_object(), *volumes = GET(vmi, "status", "volumeStatus");

    for (size_t i = 0; i < ELEMENTSOF(wanted); i++)
        if (GET(vmi, "metadata", wanted[i]))
            json_object_set(metadata, wanted[i], GET(vmi, "metadata", wanted[i]));
    return json_pack("{s:s, s:s, s:o, s:O, s:{s:O*}}", "apiVersion", GET_TEXT(vmi, "apiVersion"), "kind",
                     "VirtualMachineInstance", "metadata", metadata, "spec", GET(vmi, "spec"), "status", "volumeStatus",
                     volumes);
}

static void on_prepared(struct guest *guest, int r, const struct error *error, void *userdata)
{
    struct turn *t = userdata;
    json_t *manifest;

    if (r == -EAGAIN) {
        turn_fail(t); /* a container that is not up yet: its socket's coming wakes us, too */
        return;
    }
    if (r < 0) {
        sync_failed(t, error);
        return;
    }
    manifest = manifest_of(t->vmi);
    t->r->syncs++;
    if (!guest->rpc || !manifest ||
        rpc_client_call_async(guest->rpc, "SyncVirtualMachine", json_pack("{s:o}", "vmi", manifest),
                              TIMEOUT_HANDLER_CALL_USEC, on_sync, t) < 0)
        turn_fail(t);
}

static void start_sync(struct turn *t)
{
    _cleanup_error_ struct error *error = NULL;
    json_t *manifest = manifest_of(t->vmi);
    int r =
        manifest ? guest_prepare(t->guest, kube_client_event(t->r->client), manifest, on_prepared, t, &error) : -ENOMEM;

    json_decref(manifest);
    if (r < 0)
        sync_failed(t, error);
}

static void on_told(struct rpc_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct turn *t = userdata;

    t->failed = error != NULL;
    write_status(t);
}

static void tell_end(struct turn *t, bool kill)
{
    int64_t grace = GET(t->vmi, "spec", "terminationGracePeriodSeconds")
                        ? GET_NUMBER(t->vmi, "spec", "terminationGracePeriodSeconds")
                        : 30;
    json_t *params = kill || grace <= 0 ? json_object() : json_pack("{s:I}", "gracePeriodSeconds", (json_int_t)grace);

    if (kill || grace <= 0)
        say(t, false, "Deleted", "VirtualMachineInstance stopping");
    else
        say(t, false, "ShuttingDown", "Signaled Graceful Shutdown");
    if (!params ||
        rpc_client_call_async(t->guest->rpc, kill || grace <= 0 ? "KillVirtualMachine" : "ShutdownVirtualMachine",
                              params, TIMEOUT_HANDLER_CALL_USEC, on_told, t) < 0)
        turn_fail(t);
}

/* ---- status ----------------------------------------------------------------------------------------------------- */

static void say_ended(struct turn *t, const char *phase)
{
    if (streq(phase, "Failed"))
        say(t, true, "Stopped", "The VirtualMachineInstance crashed.");
    else if (streq(phase, "Succeeded"))
        say(t, false, "Stopped", "The VirtualMachineInstance was shut down.");
}

static void on_written(const struct kube_reply *reply, void *userdata)
{
    struct turn *t = userdata;

    if (reply->error) {
        t->r->write_failures++;
        /* Somebody else wrote: the watch brings it. */
        if (reply->status != 409 && reply->status != 404)
            log_warning_of(reply->error, "%s: its status was not written", t->key);
        t->failed = reply->status != 404;
    } else {
        const char *phase = GET_TEXT(reply->body, "status", "phase");

        t->r->writes++;
        kube_informer_learn(t->r->informer, reply->body);
        if (!streq(phase, GET_TEXT(t->vmi, "status", "phase")))
            say_ended(t, phase);
        json_decref(t->vmi);
        t->vmi = json_incref(reply->body);
    }
    turn_end(t);
}

static void write_status(struct turn *t)
{
    const char *text = t->guest->record.links;
    json_t *links = text ? json_loads(text, 0, NULL) : NULL;
    const struct seen seen = {.domain = t->domain,
                              .extra = t->extra,
                              .agent_interfaces = t->agent,
                              .links = links,
                              .failure = t->guest->failure,
                              .synced = t->guest->synced,
                              .now = kube_now()};
    json_t *status, *diff, *body;
    struct kube_request request = {.verb = KUBE_PATCH_MERGE,
                                   .resource = &resource_vmis,
                                   .namespace_ = t->guest->record.namespace_,
                                   .name = t->guest->record.name,
                                   .subresource = "status"};
    int r;

    status = t->vmi && GET(t->vmi, "status") ? handler_status(t->vmi, &seen) : NULL;
    json_decref(links);
    diff = status ? merge_diff(GET(t->vmi, "status"), status) : NULL;
    json_decref(status);
    if (!diff) {
        turn_end(t);
        return;
    }
    body =
        json_pack("{s:{s:s, s:s}, s:o}", "metadata", "resourceVersion", GET_TEXT(t->vmi, "metadata", "resourceVersion"),
                  "uid", GET_TEXT(t->vmi, "metadata", "uid"), "status", diff);
    request.body = body;
    r = body ? kube_call_start(t->r->client, &request, on_written, t, NULL, NULL) : -ENOMEM;
    json_decref(body);
    if (r < 0)
        turn_fail(t);
}

/* ---- deciding --------------------------------------------------------------------------------------------------- */

static void act(struct turn *t)
{
    struct guest *guest = t->guest;
    const struct seen seen = {.domain = t->domain, .extra = t->extra, .synced = guest->synced, .now = kube_now()};

    switch (handler_decide(t->vmi, &seen)) {
    case ACTION_SYNC:
        start_sync(t);
        return;
    case ACTION_SHUTDOWN:
        tell_end(t, false);
        return;
    case ACTION_KILL:
        tell_end(t, true);
        return;
    case ACTION_CLEAN:
        if (!guest->cleaned)
            guest_clean(guest);
        break;
    case ACTION_NONE:
        break;
    }
    write_status(t);
}

static void on_agent(struct rpc_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct turn *t = userdata;

    if (!error) {
        json_t *answer = GET(result, "guestNetworkGetInterfaces");

        /* the agent's reply, as text or as it came */
        if (json_is_string(answer))
            t->agent = json_loads(json_string_value(answer), 0, NULL);
        else
            t->agent = json_incref(answer);
        if (json_is_object(t->agent) && GET(t->agent, "return")) {
            json_t *list = json_incref(GET(t->agent, "return"));

            json_decref(t->agent);
            t->agent = list;
        }
    }
    act(t);
}

static void on_domain(struct rpc_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct turn *t = userdata;
    struct guest *guest = t->guest;

    if (error) {
        turn_fail(t);
        return;
    }
    if (json_is_object(json_object_get(result, "domain")))
        t->domain = json_incref(json_object_get(result, "domain"));
    t->extra = json_incref(json_object_get(result, "vmlet"));
    if (json_is_true(GET(t->extra, "agentConnected")) &&
        rpc_client_call_async(guest->rpc, "GetVMStats", json_pack("{s:{}}", "guestNetworkGetInterfaces"),
                              TIMEOUT_HANDLER_CALL_USEC, on_agent, t) >= 0)
        return;
    act(t);
}

/* There is nobody to ask. What the VM came to is known if its last event was seen. */
static void without_launcher(struct turn *t)
{
    struct guest *guest = t->guest;
    const char *phase = GET_TEXT(t->vmi, "status", "phase");

    if (!t->vmi || phase_is_final(phase) || *guest->end_state) {
        if (*guest->end_state)
            t->domain = json_pack("{s:{s:s, s:s}}", "Status", "Status", guest->end_state, "Reason", guest->end_reason);
        if (!guest->cleaned)
            guest_clean(guest);
        write_status(t);
        return;
    }
    if (guest->first_try == 0)
        guest->first_try = now_usec();
    if (streq(phase, "Scheduled") && now_usec() - guest->first_try > HANDLER_SOCKET_USEC) {
        t->domain = json_pack("{s:{s:s, s:s}}", "Status", "Status", "Crashed", "Reason", "Failed");
        free(guest->failure);
        guest->failure = strdup("the launcher does not listen on its socket");
        write_status(t);
        return;
    }
    if (streq(phase, "Scheduled"))
        (void)kube_queue_add_after(t->r->queue, t->key, guest->first_try + HANDLER_SOCKET_USEC + 1 - now_usec());
    turn_fail(t); /* again when its socket comes; its pod's end is the controller's to see */
}

static struct guest *find_guest(struct reconciler *r, const char *uid)
{
    struct kube_map_node *node = kube_map_get(&r->guests, uid);

    return node ? KUBE_MAP_OBJECT(node, struct guest, node) : NULL;
}

static int add_guest(struct reconciler *r, const struct record *record, struct guest **ret)
{
    struct guest *guest;
    int e = guest_new(r->paths, record, &guest);

    if (e < 0)
        return e;
    guest->owner = r;
    e = kube_map_put(&r->guests, &guest->node, guest->record.uid);
    if (e < 0) {
        guest_free(guest);
        return e;
    }
    *ret = guest;
    return 0;
}

/* The pod of this node; NULL when there is none. */
static const char *pod_of(const json_t *vmi, const char *node)
{
    const char *uid;
    json_t *name;

    json_object_foreach (GET(vmi, "status", "activePods"), uid, name)
        if (streq_ptr(json_string_value(name), node) && uid_is_valid(uid))
            return uid;
    return NULL;
}

static struct guest *guest_of(struct turn *t)
{
    const json_t *metadata = GET(t->vmi, "metadata");
    const char *uid = GET_TEXT(metadata, "uid"), *phase = GET_TEXT(t->vmi, "status", "phase"),
               *pod = pod_of(t->vmi, t->r->node);
    struct guest *guest = find_guest(t->r, uid);
    struct record record;

    if (guest || !pod || !uid_is_valid(uid) || phase_is_final(phase) ||
        (!streq(phase, "Scheduled") && !streq(phase, "Running")))
        return guest;
    record = (struct record){.uid = (char *)(uintptr_t)uid,
                             .namespace_ = (char *)(uintptr_t)GET_TEXT(metadata, "namespace"),
                             .name = (char *)(uintptr_t)GET_TEXT(metadata, "name"),
                             .pod_uid = (char *)(uintptr_t)pod};
    if (add_guest(t->r, &record, &guest) < 0 || record_save(t->r->paths->records, &guest->record, NULL) < 0)
        log_warning("%s: no record of it could be written in %s", t->key, t->r->paths->records);
    return guest;
}

struct search {
    const char *key, *uid;
    struct guest *found;
};

/* Of that name, but not the object that bears it now. */
static void find_ghost(struct kube_map_node *node, void *userdata)
{
    struct search *s = userdata;
    struct guest *guest = KUBE_MAP_OBJECT(node, struct guest, node);

    if (streq(guest->key, s->key) && !streq(guest->record.uid, s->uid))
        s->found = guest;
}

static void work(struct kube_queue *queue, const char *key, void *userdata)
{
    struct reconciler *r = userdata;
    struct turn *t = calloc(1, sizeof(*t));
    const char *slash = strchr(key, '/');
    char namespace_[256];
    const struct kube_object *object = NULL;
    struct search search = {.key = key, .uid = ""};
    _cleanup_error_ struct error *error = NULL;

    if (!t || !(t->key = strdup(key)) || !slash || (size_t)(slash - key) >= sizeof(namespace_)) {
        free(t);
        kube_queue_done(queue, key);
        return;
    }
    r->turns++;
    t->r = r;
    snprintf(namespace_, sizeof(namespace_), "%.*s", (int)(slash - key), key);
    object = kube_informer_get(r->informer, namespace_, slash + 1);
    if (object) {
        t->vmi = kube_object_json(object);
        search.uid = object->uid;
    }
    kube_map_foreach(&r->guests, find_ghost, &search);
    if (search.found && r->synced) {
        /* the object is gone, or another has its name: first things first */
        json_decref(t->vmi);
        t->vmi = NULL;
        t->guest = search.found;
        if (object)
            (void)kube_queue_add(queue, key);
    } else
        t->guest = t->vmi ? guest_of(t) : NULL;
    if (!t->guest) {
        turn_end(t);
        return;
    }
    if (t->vmi && t->guest->record.generation > 0 &&
        t->guest->record.generation == GET_NUMBER(t->vmi, "metadata", "generation") &&
        t->guest->record.claim_bytes == handler_claim_bytes(t->vmi))
        t->guest->synced = true; /* this VM was made by an agent before this one, and nobody has asked for a change */
    else if (t->vmi && t->guest->record.generation > 0)
        t->guest->synced = false;
    if (connect_launcher(r, t->guest, &error) < 0) {
        log_debug("%s: %s", key, error_message(error));
        without_launcher(t);
        return;
    }
    t->guest->first_try = 0;
    if (rpc_client_call_async(t->guest->rpc, "GetDomain", NULL, TIMEOUT_HANDLER_CALL_USEC, on_domain, t) < 0)
        turn_fail(t);
}

/* ---- objects ---------------------------------------------------------------------------------------------------- */

static void wake(struct reconciler *r, const struct kube_object *object)
{
    char key[600];

    snprintf(key, sizeof(key), "%.255s/%.255s", object->namespace_, object->name);
    (void)kube_queue_add(r->queue, key);
}

static void on_changed(const struct kube_object *before, const struct kube_object *now, void *userdata)
{
    wake(userdata, now ? now : before);
}

static void wake_guest(struct kube_map_node *node, void *userdata)
{
    struct reconciler *r = userdata;

    (void)kube_queue_add(r->queue, KUBE_MAP_OBJECT(node, struct guest, node)->key);
}

static void on_synced(void *userdata)
{
    struct reconciler *r = userdata;

    r->synced = true;
    r->on_synced(r->userdata);
    kube_map_foreach(&r->guests, wake_guest, r); /* those whose object has gone meanwhile too */
}

static void on_record(const char *uid, void *userdata)
{
    struct reconciler *r = userdata;
    _cleanup_error_ struct error *error = NULL;
    struct record record;
    struct guest *guest;

    if (record_load(r->paths->records, uid, &record, &error) < 0) {
        log_warning_of(error, "a record is left out");
        return;
    }
    (void)add_guest(r, &record, &guest);
    record_done(&record);
}

int reconciler_new(struct kube_client *client, const char *node, const struct guest_paths *paths,
                   void (*synced)(void *userdata), void *userdata, struct reconciler **ret, struct error **ret_error)
{
    _cleanup_(reconciler_freep) struct reconciler *r = calloc(1, sizeof(*r));
    char selector[320];
    struct kube_informer_options options = {
        .resource = &resource_vmis, .label_selector = selector, .changed = on_changed, .synced = on_synced};
    int e;

    if (!r)
        return error_oom(ret_error);
    r->client = client;
    r->node = node;
    r->paths = paths;
    r->on_synced = synced;
    r->userdata = userdata;
    options.userdata = r;
    snprintf(selector, sizeof(selector), "kubevirt.io/nodeName=%.253s", node);
    if (kube_queue_new(kube_client_event(client), HANDLER_WORKERS, work, r, &r->queue) < 0 ||
        kube_recorder_new(client, "virt-handler", node, &r->recorder) < 0)
        return error_oom(ret_error);
    e = record_list(paths->records, on_record, r);
    if (e < 0)
        return error_errno(ret_error, e, "%s", paths->records);
    e = kube_informer_new(client, &options, &r->informer, ret_error);
    if (e < 0)
        return e;
    *ret = TAKE_PTR(r);
    return 0;
}

void reconciler_free(struct reconciler *r)
{
    struct kube_map_node *node;

    if (!r)
        return;
    kube_informer_free(r->informer);
    kube_queue_free(r->queue);
    while ((node = kube_map_any(&r->guests))) {
        struct guest *guest = KUBE_MAP_OBJECT(node, struct guest, node);

        kube_map_remove(&r->guests, node);
        guest_free(guest);
    }
    kube_map_done(&r->guests);
    sd_event_source_disable_unref(r->tidy);
    kube_recorder_free(r->recorder);
    free(r);
}

bool reconciler_is_synced(const struct reconciler *r)
{
    return r->synced;
}

void reconciler_write_metrics(const struct reconciler *r, struct strbuf *body)
{
    const struct {
        const char *name, *help;
        uint64_t value;
    } rows[] = {
        {"kubevirt_vmi_sync_total", "SyncVirtualMachine calls", r->syncs},
        {"vmlet_handler_turns_total", "looks at an instance", r->turns},
        {"vmlet_handler_status_writes_total", "status writes that the API server took", r->writes},
        {"vmlet_handler_status_write_failures_total", "status writes that it refused", r->write_failures},
        {"vmlet_handler_launcher_events_total", "events of launchers", r->events},
    };

    for (size_t i = 0; i < ELEMENTSOF(rows); i++)
        strbuf_printf(body, "# HELP %s %s\n# TYPE %s counter\n%s %llu\n", rows[i].name, rows[i].help, rows[i].name,
                      rows[i].name, (unsigned long long)rows[i].value);
    strbuf_printf(body,
                  "# HELP vmlet_handler_instances instances on this node\n# TYPE vmlet_handler_instances gauge\n"
                  "vmlet_handler_instances %zu\n",
                  r->guests.count);
}
