/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/controller/controller.h"

#include <malloc.h>
#include <stdio.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/event.h"
#include "base/limits.h"
#include "base/list.h"
#include "base/log.h"
#include "k8s/client/informer.h"
#include "k8s/client/ktime.h"
#include "k8s/client/map.h"
#include "k8s/client/queue.h"
#include "k8s/client/recorder.h"
#include "k8s/client/slab.h"
#include "k8s/controller/cache.h"

enum kind {
    KIND_VM,
    KIND_VMI,
    KIND_REPLICA_SET,
    KIND_MIGRATION,
    QUEUES, /* the kinds above are reconciled */
    KIND_POD = QUEUES,
    KIND_CLAIM,
    KIND_PRESET,
    KIND_DATA_VOLUME,
    KIND_TYPE, /* instance types and preferences, in the order of enum type_kind */
    KINDS = KIND_TYPE + TYPE_KINDS,
};

static const struct kube_resource *const resources[KINDS] = {
    [KIND_VM] = &resource_vms,
    [KIND_VMI] = &resource_vmis,
    [KIND_REPLICA_SET] = &resource_replica_sets,
    [KIND_MIGRATION] = &resource_migrations,
    [KIND_POD] = &resource_pods,
    [KIND_CLAIM] = &resource_claims,
    [KIND_PRESET] = &resource_presets,
    [KIND_DATA_VOLUME] = &resource_data_volumes,
    [KIND_TYPE + TYPE_INSTANCETYPE] = &resource_types[TYPE_INSTANCETYPE],
    [KIND_TYPE + TYPE_CLUSTER_INSTANCETYPE] = &resource_types[TYPE_CLUSTER_INSTANCETYPE],
    [KIND_TYPE + TYPE_PREFERENCE] = &resource_types[TYPE_PREFERENCE],
    [KIND_TYPE + TYPE_CLUSTER_PREFERENCE] = &resource_types[TYPE_CLUSTER_PREFERENCE],
};
static int (*const planners[QUEUES])(const struct view *view, struct plan *ret) = {
    [KIND_VM] = plan_vm,
    [KIND_VMI] = plan_vmi,
    [KIND_REPLICA_SET] = plan_replica_set,
    [KIND_MIGRATION] = plan_migration,
};

struct cache { /* userdata of an informer */
    struct controller *c;
    enum kind kind;
    struct kube_informer *informer;
};

struct job { /* one key of one queue, while it is worked on */
    struct controller *c;
    LIST_ENTRY(struct job) link;
    enum kind kind;
    char *key;
    struct plan plan;
    struct kube_call *call;
    char *namespace_, *name, *uid; /* of the object */
    json_t *fetched;               /* ControllerRevisions, for struct view */
    char *failure;                 /* what was refused: goes into the status, and ends the job */
    unsigned steps;
};

/* The ControllerRevision that is there for a VM's start: it is made once, not at each attempt. There is one for each
 * VM, made amid its start: in the heap each would keep a page of what the start used (slab.h). */
struct revision {
    struct kube_map_node node; /* by the VM's key */
    size_t size;
    const char *name; /* behind the key */
    char key[];
};

struct controller {
    sd_event *event;
    struct kube_client *client;
    struct kube_recorder *recorder;
    struct settings settings;
    struct cache caches[KINDS];
    struct kube_queue *queues[QUEUES];
    LIST_HEAD(struct job) jobs;
    struct kube_map revisions;
    bool leads, started, tidy_soon;
    sd_event_source *tidy;
    uint64_t plans[QUEUES], writes, refused, conflicts;
};

/* ---- views ------------------------------------------------------------------------------------------------------ */

struct gather {
    json_t *list;
    const char *namespace_;
};

static void gather_one(const struct kube_object *object, void *userdata)
{
    struct gather *g = userdata;

    if (streq(object->namespace_, g->namespace_))
        json_array_append_new(g->list, kube_object_json(object));
}

static void gather_by(struct controller *c, enum kind kind, const char *key, const char *namespace_, json_t *list)
{
    kube_informer_by_index(c->caches[kind].informer, key, gather_one, &(struct gather){list, namespace_});
}

static const char *claim_mode(const char *claim, void *userdata)
{
    struct job *job = userdata;
    const struct kube_object *o = kube_informer_get(job->c->caches[KIND_CLAIM].informer, job->namespace_, claim);

    /* the text is our own, of an object that trim_claim() has left */
    return !o ? "" : strstr(o->text, "\"volumeMode\":\"Block\"") ? "Block" : "Filesystem";
}

static enum kind kind_of(const struct kube_resource *resource)
{
    enum kind k = 0;

    while (k < KINDS && resources[k] != resource)
        k++;
    return k;
}

static json_t *find(const struct kube_resource *resource, const char *name, void *userdata)
{
    struct job *job = userdata;
    const struct kube_object *o = kube_informer_get(job->c->caches[kind_of(resource)].informer,
                                                    resource->cluster_scoped ? NULL : job->namespace_, name);

    return o ? kube_object_json(o) : NULL;
}

static json_t *object_of(struct job *job, enum kind kind, const char **ret_text)
{
    const struct kube_object *o = kube_informer_get(job->c->caches[kind].informer, job->namespace_, job->name);

    if (!o)
        return NULL;
    if (ret_text)
        *ret_text = o->text;
    return kube_object_json(o);
}

static void view_done(struct view *v)
{
    json_decref(v->vm);
    json_decref(v->vmi);
    json_decref(v->replica_set);
    json_decref(v->migration);
    json_decref(v->pods);
    json_decref(v->vmis);
    json_decref(v->presets);
}

/* False: the object is gone. */
static bool view_make(struct job *job, struct view *v)
{
    struct controller *c = job->c;
    json_t *self;

    *v = (struct view){.now = kube_now(),
                       .settings = &c->settings,
                       .pods = json_array(),
                       .vmis = json_array(),
                       .presets = json_array(),
                       .claim_mode = claim_mode,
                       .find = find,
                       .has_data_volumes = !kube_informer_is_missing(c->caches[KIND_DATA_VOLUME].informer),
                       .fetched = job->fetched,
                       .userdata = job,
                       .failure = job->failure};
    if (getrandom(&v->random, sizeof(v->random), 0) < 0)
        v->random = (uint32_t)now_usec();
    self = object_of(job, job->kind, &v->vmi_text);
    *(job->kind == KIND_VM            ? &v->vm
      : job->kind == KIND_VMI         ? &v->vmi
      : job->kind == KIND_REPLICA_SET ? &v->replica_set
                                      : &v->migration) = self;
    if (job->kind == KIND_VM)
        v->vmi = object_of(job, KIND_VMI, &v->vmi_text);
    if (!self)
        return false;
    free(job->uid);
    job->uid = strdup(GET_TEXT(self, "metadata", "uid"));
    if (job->kind == KIND_VMI)
        gather_by(c, KIND_POD, job->uid, job->namespace_, v->pods);
    if (job->kind == KIND_REPLICA_SET) {
        gather_by(c, KIND_VMI, job->uid, job->namespace_, v->vmis);
        gather_by(c, KIND_VMI, INDEX_ORPHAN, job->namespace_, v->vmis);
    }
    if (kube_informer_count(c->caches[KIND_PRESET].informer) > 0)
        kube_informer_foreach(c->caches[KIND_PRESET].informer, gather_one,
                              &(struct gather){v->presets, job->namespace_});
    return job->uid;
}

/* ---- jobs ------------------------------------------------------------------------------------------------------- */

static void step(struct job *job);

static int on_tidy(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct controller *c = userdata;

    c->tidy_soon = false;
    malloc_trim(0); /* what a burst of work has left in pieces goes back to the system */
    return 0;
}

/* `delay_usec` is for another attempt; 0 by the queue's own back-off; UINT64_MAX: the work is done. */
static void job_end(struct job *job, uint64_t delay_usec)
{
    struct controller *c = job->c;
    struct kube_queue *queue = c->queues[job->kind];

    if (delay_usec == UINT64_MAX)
        kube_queue_forget(queue, job->key);
    else if (delay_usec == 0)
        kube_queue_add_failed(queue, job->key);
    else
        kube_queue_add_after(queue, job->key, delay_usec);
    LIST_REMOVE(c->jobs, job, link);
    if (!c->tidy_soon)
        c->tidy_soon = event_arm_timer(c->event, &c->tidy, CONTROLLER_TIDY_USEC, on_tidy, c) >= 0;
    kube_queue_done(queue, job->key);
    kube_call_cancel(job->call);
    plan_done(&job->plan);
    free(job->key);
    free(job->namespace_);
    free(job->name);
    free(job->uid);
    free(job->failure);
    json_decref(job->fetched);
    free(job);
}

static void say(struct job *job, const struct plan_event *event)
{
    struct kube_subject about = {.api_version = API_VERSION,
                                 .kind = resources[job->kind]->kind,
                                 .namespace_ = job->namespace_,
                                 .name = job->name,
                                 .uid = job->uid};

    if (!event->reason || !event->text)
        return;
    kube_record(job->c->recorder, &about, event->warning, event->reason, "%s", event->text);
    if (event->warning)
        log_warning("%s %s: %s", resources[job->kind]->kind, job->key, event->text);
    else
        log_info("%s %s: %s", resources[job->kind]->kind, job->key, event->text);
}

static void on_refused(struct job *job, const struct kube_reply *reply)
{
    struct controller *c = job->c;
    struct plan_event event = {0};

    log_debug("%s %s: %s", resources[job->kind]->kind, job->key, error_message(reply->error));
    if (reply->status == 0) { /* no server: all keys would wait for minutes if they backed off one by one */
        job_end(job, kube_jitter(4 * USEC_PER_SEC));
        return;
    }
    c->refused++;
    if (reply->status == 404 || (reply->status == 409 && !streq(reply->reason, "AlreadyExists"))) {
        c->conflicts++; /* our cache is late: the watch will bring what we have not seen */
        job_end(job, kube_jitter(500 * USEC_PER_MSEC));
        return;
    }
    if (reply->status == 409 || !job->plan.failed_reason || job->failure) {
        job_end(job, 0);
        return;
    }
    plan_event_set(&event, true, job->plan.failed_reason, "%s", error_message(reply->error));
    say(job, &event);
    job->failure = TAKE_PTR(event.text);
    step(job); /* into the status, and to the end */
}

/* A ControllerRevision that a plan asked for: what became of it is for the next plan. False: it could not be had. */
static bool take_revision(struct job *job, const struct kube_reply *reply)
{
    bool missing = job->plan.verb == KUBE_GET && reply->status == 404;
    json_t *value = !reply->error                           ? json_incref(reply->body)
                    : streq(reply->reason, "AlreadyExists") ? json_true()
                    : missing                               ? json_false()
                                                            : NULL;

    if (!job->fetched)
        job->fetched = json_object();
    return value && json_object_set_new(job->fetched, job->plan.own_name, value) == 0;
}

static void on_reply(const struct kube_reply *reply, void *userdata)
{
    struct job *job = userdata;
    struct controller *c = job->c;
    enum kind kind = kind_of(job->plan.resource);

    job->call = NULL;
    if (job->plan.resource == &resource_revisions && take_revision(job, reply)) {
        c->writes += job->plan.verb == KUBE_CREATE && !reply->error;
        step(job);
        return;
    }
    if (reply->error) {
        on_refused(job, reply);
        return;
    }
    c->writes++;
    say(job, &job->plan.said);
    say(job, &job->plan.done);
    if (kind < KINDS && *GET_TEXT(reply->body, "metadata", "name"))
        kube_informer_learn(c->caches[kind].informer, reply->body);
    if (job->plan.verb == KUBE_DELETE) { /* what it brings about, the watch tells */
        job_end(job, UINT64_MAX);
        return;
    }
    step(job);
}

static int send_plan(struct job *job)
{
    const struct plan *p = &job->plan;
    struct kube_request q = {.verb = p->verb,
                             .resource = p->resource,
                             .namespace_ = job->namespace_,
                             .name = p->verb == KUBE_CREATE ? NULL : p->name,
                             .subresource = p->subresource,
                             .body = p->body,
                             .uid = p->verb == KUBE_DELETE ? p->uid : NULL,
                             .manager = p->verb == KUBE_DELETE || p->verb == KUBE_GET ? NULL : MANAGER,
                             .force = p->verb == KUBE_APPLY};
    _cleanup_error_ struct error *error = NULL;
    int r = kube_call_start(job->c->client, &q, on_reply, job, &job->call, &error);

    if (r < 0)
        log_error_of(error, "%s %s", resources[job->kind]->kind, job->key);
    return r;
}

static struct revision *revision_of(const struct controller *c, const char *key)
{
    struct kube_map_node *node = kube_map_get(&c->revisions, key);

    return node ? KUBE_MAP_OBJECT(node, struct revision, node) : NULL;
}

static void forget_revision(struct controller *c, struct revision *it)
{
    if (!it)
        return;
    kube_map_remove(&c->revisions, &it->node);
    slab_free(it, it->size);
}

/* Out of memory: the next start asks for it once more. */
static void note_revision(struct controller *c, const char *key, const char *name)
{
    size_t size = sizeof(struct revision) + strlen(key) + 1 + strlen(name) + 1;
    struct revision *it;

    forget_revision(c, revision_of(c, key));
    it = slab_alloc(size);
    if (!it)
        return;
    *it = (struct revision){.size = size};
    it->name = strcpy(stpcpy(it->key, key) + 1, name);
    if (kube_map_put(&c->revisions, &it->node, it->key) < 0)
        slab_free(it, size);
}

static void on_revision(const struct kube_reply *reply, void *userdata)
{
    struct job *job = userdata;

    job->call = NULL;
    if (reply->error && !streq(reply->reason, "AlreadyExists")) {
        on_refused(job, reply);
        return;
    }
    job->c->writes += !reply->error;
    note_revision(job->c, job->key, GET_TEXT(job->plan.revision, "metadata", "name"));
    if (send_plan(job) < 0)
        job_end(job, 0);
}

/* What a plan wants to be there first. Its name has the VM's UID and generation, so it is the same one or another. */
static int send_revision(struct job *job)
{
    const struct revision *known = revision_of(job->c, job->key);
    struct kube_request q = {.verb = KUBE_CREATE,
                             .resource = &resource_revisions,
                             .namespace_ = job->namespace_,
                             .body = job->plan.revision,
                             .manager = MANAGER};

    if (known && streq(known->name, GET_TEXT(job->plan.revision, "metadata", "name")))
        return send_plan(job);
    return kube_call_start(job->c->client, &q, on_revision, job, &job->call, NULL);
}

static void step(struct job *job)
{
    struct controller *c = job->c;
    struct view v;
    int r = 0;

    plan_done(&job->plan);
    if (!c->leads || job->steps++ >= LIMIT_CONTROLLER_STEPS) {
        job_end(job, c->leads ? kube_jitter(USEC_PER_SEC) : UINT64_MAX);
        return;
    }
    if (view_make(job, &v)) {
        c->plans[job->kind]++;
        r = planners[job->kind](&v, &job->plan);
        if (r >= 0 && job->plan.any)
            r = job->plan.revision ? send_revision(job) : send_plan(job);
    }
    view_done(&v);
    if (r >= 0 && job->plan.any)
        return; /* on_reply() goes on */
    if (r < 0)
        log_error("%s %s: %s", resources[job->kind]->kind, job->key, strerror(-r));
    job_end(job, r < 0 || job->failure     ? 0
                 : job->plan.again_seconds ? (uint64_t)job->plan.again_seconds * USEC_PER_SEC
                                           : UINT64_MAX);
}

static void on_work(struct kube_queue *queue, const char *key, void *userdata)
{
    struct cache *cache = userdata;
    const char *slash = strchr(key, '/');
    struct job *job = calloc(1, sizeof(*job));

    if (job) {
        *job = (struct job){.c = cache->c,
                            .kind = cache->kind,
                            .key = strdup(key),
                            .namespace_ = strndup(key, (size_t)(slash - key)),
                            .name = strdup(slash + 1)};
        LIST_APPEND(cache->c->jobs, job, link);
    }
    if (!job || !job->key || !job->namespace_ || !job->name) { /* out of memory: its turn comes again */
        log_error("%s %s: out of memory", resources[cache->kind]->kind, key);
        if (job)
            LIST_REMOVE(cache->c->jobs, job, link);
        if (job) {
            free(job->key);
            free(job->namespace_);
            free(job->name);
            free(job);
        }
        kube_queue_add_failed(queue, key);
        kube_queue_done(queue, key);
        return;
    }
    step(job);
}

/* ---- what has changed, and whom it concerns --------------------------------------------------------------------- */

static void wake(struct controller *c, enum kind kind, const char *namespace_, const char *name)
{
    char key[600];

    if (!c->started || snprintf(key, sizeof(key), "%s/%s", namespace_, name) >= (int)sizeof(key))
        return;
    kube_queue_add(c->queues[kind], key);
}

static void wake_object(const struct kube_object *object, void *userdata)
{
    struct cache *cache = userdata;

    wake(cache->c, cache->kind, object->namespace_, object->name);
}

struct wake_in {
    struct cache *cache;
    const char *namespace_;
};

static void wake_in_namespace(const struct kube_object *object, void *userdata)
{
    struct wake_in *w = userdata;

    if (streq(object->namespace_, w->namespace_))
        wake_object(object, w->cache);
}

static void on_vm_changed(const struct kube_object *before, const struct kube_object *now, void *userdata)
{
    struct cache *cache = userdata;
    char key[600];

    wake_object(now ? now : before, cache);
    if (!now && snprintf(key, sizeof(key), "%s/%s", before->namespace_, before->name) < (int)sizeof(key))
        forget_revision(cache->c, revision_of(cache->c, key));
}

static void on_other_changed(const struct kube_object *before, const struct kube_object *now, void *userdata)
{
    wake_object(now ? now : before, userdata);
}

static void on_vmi_changed(const struct kube_object *before, const struct kube_object *now, void *userdata)
{
    struct cache *cache = userdata;
    struct controller *c = cache->c;
    const struct kube_object *o = now ? now : before;

    if (now)
        wake_object(now, cache);
    if (kube_informer_get(c->caches[KIND_VM].informer, o->namespace_, o->name))
        wake(c, KIND_VM, o->namespace_, o->name);
    if (kube_informer_count(c->caches[KIND_REPLICA_SET].informer) > 0)
        kube_informer_foreach(c->caches[KIND_REPLICA_SET].informer, wake_in_namespace,
                              &(struct wake_in){&c->caches[KIND_REPLICA_SET], o->namespace_});
}

static void on_pod_changed(const struct kube_object *before, const struct kube_object *now, void *userdata)
{
    struct cache *cache = userdata;
    const struct kube_object *o = now ? now : before;
    json_t *pod = cache->c->started ? kube_object_json(o) : NULL;
    const json_t *owner = controller_of(pod);

    if (streq(GET_TEXT(owner, "kind"), "VirtualMachineInstance"))
        wake(cache->c, KIND_VMI, o->namespace_, GET_TEXT(owner, "name"));
    json_decref(pod);
}

static void on_claim_changed(const struct kube_object *before, const struct kube_object *now, void *userdata)
{
    struct cache *cache = userdata;

    /* a VM waits for its claims; an instance tells what they offer, which may grow */
    for (enum kind k = before ? KIND_VMI : KIND_VM; k <= KIND_VMI && now; k++)
        kube_informer_by_index(cache->c->caches[k].informer, now->name, wake_in_namespace,
                               &(struct wake_in){&cache->c->caches[k], now->namespace_});
}

static void on_data_volume_changed(const struct kube_object *before, const struct kube_object *now, void *userdata)
{
    struct cache *cache = userdata;
    const struct kube_object *o = now ? now : before;

    for (enum kind k = KIND_VM; k <= KIND_VMI; k++)
        kube_informer_by_index(cache->c->caches[k].informer, o->name, wake_in_namespace,
                               &(struct wake_in){&cache->c->caches[k], o->namespace_});
}

static void on_type_changed(const struct kube_object *before, const struct kube_object *now, void *userdata)
{
    struct cache *cache = userdata, *vms = &cache->c->caches[KIND_VM];

    if (now)
        kube_informer_by_index(vms->informer, now->name, wake_object, vms);
}

static void on_preset_changed(const struct kube_object *before, const struct kube_object *now, void *userdata)
{
}

/* ---- start and end ---------------------------------------------------------------------------------------------- */

bool controller_is_synced(const struct controller *c)
{
    for (size_t i = 0; i < KINDS; i++)
        if (!c->caches[i].informer || !kube_informer_is_synced(c->caches[i].informer))
            return false;
    return true;
}

static void start_if_ready(struct controller *c)
{
    if (!c->leads || c->started || !controller_is_synced(c))
        return;
    c->started = true;
    log_info("leading: %zu VirtualMachines, %zu instances", kube_informer_count(c->caches[KIND_VM].informer),
             kube_informer_count(c->caches[KIND_VMI].informer));
    for (size_t i = 0; i < QUEUES; i++)
        kube_informer_foreach(c->caches[i].informer, wake_object, &c->caches[i]);
}

static void on_synced(void *userdata)
{
    start_if_ready(((struct cache *)userdata)->c);
}

void controller_lead(struct controller *c)
{
    c->leads = true;
    start_if_ready(c);
}

void controller_write_metrics(const struct controller *c, bool leader, struct strbuf *b)
{
    static const char *const verbs[] = {
        [KUBE_GET] = "get",          [KUBE_LIST] = "list",         [KUBE_WATCH] = "watch",
        [KUBE_CREATE] = "create",    [KUBE_UPDATE] = "update",     [KUBE_DELETE] = "delete",
        [KUBE_PATCH_JSON] = "patch", [KUBE_PATCH_MERGE] = "merge", [KUBE_APPLY] = "apply"};
    uint64_t events, dropped;
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");

    if (f) {
        if (fscanf(f, "%*d %ld", &pages) != 1)
            pages = 0;
        fclose(f);
    }
    kube_recorder_get_figures(c->recorder, &events, &dropped);
    strbuf_printf(b,
                  "# HELP kubevirt_virt_controller_leading_status 1 on the replica that writes.\n"
                  "# TYPE kubevirt_virt_controller_leading_status gauge\n"
                  "kubevirt_virt_controller_leading_status %d\n",
                  leader);
    strbuf_printf(b,
                  "# HELP kubevirt_virt_controller_ready_status 1 when the caches are full.\n"
                  "# TYPE kubevirt_virt_controller_ready_status gauge\n"
                  "kubevirt_virt_controller_ready_status %d\n",
                  controller_is_synced(c));
    strbuf_printf(b, "# HELP vmlet_controller_requests_total API requests sent, without retries of a busy server.\n"
                     "# TYPE vmlet_controller_requests_total counter\n");
    for (size_t i = 0; i < ELEMENTSOF(verbs); i++)
        strbuf_printf(b, "vmlet_controller_requests_total{verb=\"%s\"} %llu\n", verbs[i],
                      (unsigned long long)kube_client_requests(c->client, (enum kube_verb)i));
    strbuf_printf(b, "# HELP vmlet_controller_objects Objects in the cache.\n# TYPE vmlet_controller_objects gauge\n");
    for (size_t i = 0; i < KINDS; i++)
        strbuf_printf(b, "vmlet_controller_objects{resource=\"%s\"} %zu\n", resources[i]->plural,
                      kube_informer_count(c->caches[i].informer));
    strbuf_printf(b, "# HELP vmlet_controller_cache_bytes Memory of the cache.\n"
                     "# TYPE vmlet_controller_cache_bytes gauge\n");
    for (size_t i = 0; i < KINDS; i++) {
        struct kube_informer_figures figures;

        kube_informer_get_figures(c->caches[i].informer, &figures);
        strbuf_printf(b, "vmlet_controller_cache_bytes{resource=\"%s\"} %zu\n", resources[i]->plural, figures.bytes);
    }
    strbuf_printf(b, "# HELP vmlet_controller_plans_total Looks at an object.\n"
                     "# TYPE vmlet_controller_plans_total counter\n");
    for (size_t i = 0; i < QUEUES; i++)
        strbuf_printf(b, "vmlet_controller_plans_total{resource=\"%s\"} %llu\n", resources[i]->plural,
                      (unsigned long long)c->plans[i]);
    strbuf_printf(b, "# HELP vmlet_controller_queue Keys that wait, wait for their time, are worked on.\n"
                     "# TYPE vmlet_controller_queue gauge\n");
    for (size_t i = 0; i < QUEUES; i++) {
        size_t ready, later, working;

        kube_queue_count(c->queues[i], &ready, &later, &working);
        strbuf_printf(b,
                      "vmlet_controller_queue{resource=\"%s\",state=\"ready\"} %zu\n"
                      "vmlet_controller_queue{resource=\"%s\",state=\"later\"} %zu\n"
                      "vmlet_controller_queue{resource=\"%s\",state=\"working\"} %zu\n",
                      resources[i]->plural, ready, resources[i]->plural, later, resources[i]->plural, working);
    }
    strbuf_printf(b,
                  "# TYPE vmlet_controller_writes_total counter\nvmlet_controller_writes_total %llu\n"
                  "# TYPE vmlet_controller_refused_total counter\nvmlet_controller_refused_total %llu\n"
                  "# TYPE vmlet_controller_conflicts_total counter\nvmlet_controller_conflicts_total %llu\n"
                  "# TYPE vmlet_controller_events_total counter\nvmlet_controller_events_total %llu\n"
                  "# TYPE vmlet_controller_events_dropped_total counter\nvmlet_controller_events_dropped_total %llu\n"
                  "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes %ld\n",
                  (unsigned long long)c->writes, (unsigned long long)c->refused, (unsigned long long)c->conflicts,
                  (unsigned long long)events, (unsigned long long)dropped, pages * sysconf(_SC_PAGESIZE));
}

void controller_free(struct controller *c)
{
    if (!c)
        return;
    c->leads = false;
    while (c->jobs.first)
        job_end(c->jobs.first, UINT64_MAX);
    for (size_t i = 0; i < QUEUES; i++)
        kube_queue_free(c->queues[i]);
    for (size_t i = 0; i < KINDS; i++)
        kube_informer_free(c->caches[i].informer);
    for (struct kube_map_node *node; (node = kube_map_any(&c->revisions));)
        forget_revision(c, KUBE_MAP_OBJECT(node, struct revision, node));
    kube_map_done(&c->revisions);
    sd_event_source_disable_unref(c->tidy);
    kube_recorder_free(c->recorder);
    free(c);
}

static void trim_own_pod(json_t *pod, void *userdata)
{
    const struct cache *cache = userdata;

    trim_pod(pod, cache->c->settings.pod.launcher_image);
}

int controller_new(sd_event *event, struct kube_client *client, const struct controller_options *options,
                   struct controller **ret, struct error **ret_error)
{
    static const struct {
        const char *label_selector;
        void (*trim)(json_t *object, void *userdata);
        size_t (*index)(json_t *object, const char *keys[KUBE_INDEX_KEYS]);
        void (*changed)(const struct kube_object *before, const struct kube_object *now, void *userdata);
    } how[KINDS] = {
        [KIND_VM] = {NULL, trim_object, index_vm, on_vm_changed},
        [KIND_VMI] = {NULL, trim_object, index_vmi, on_vmi_changed},
        [KIND_REPLICA_SET] = {NULL, trim_object, NULL, on_other_changed},
        [KIND_MIGRATION] = {NULL, trim_object, NULL, on_other_changed},
        [KIND_POD] = {"kubevirt.io=virt-launcher", trim_own_pod, index_pod, on_pod_changed},
        [KIND_CLAIM] = {NULL, trim_claim, NULL, on_claim_changed},
        [KIND_PRESET] = {NULL, trim_object, NULL, on_preset_changed},
        [KIND_DATA_VOLUME] = {NULL, trim_data_volume, NULL, on_data_volume_changed},
        [KIND_TYPE + TYPE_INSTANCETYPE] = {NULL, trim_object, NULL, on_type_changed},
        [KIND_TYPE + TYPE_CLUSTER_INSTANCETYPE] = {NULL, trim_object, NULL, on_type_changed},
        [KIND_TYPE + TYPE_PREFERENCE] = {NULL, trim_object, NULL, on_type_changed},
        [KIND_TYPE + TYPE_CLUSTER_PREFERENCE] = {NULL, trim_object, NULL, on_type_changed},
    };
    _cleanup_(controller_freep) struct controller *c = calloc(1, sizeof(*c));
    int r;

    if (!c)
        return error_oom(ret_error);
    c->event = event;
    c->client = client;
    c->settings = options->settings;
    if (kube_recorder_new(client, MANAGER, options->identity, &c->recorder) < 0)
        return error_oom(ret_error);
    for (size_t i = 0; i < KINDS; i++)
        c->caches[i] = (struct cache){.c = c, .kind = (enum kind)i};
    for (size_t i = 0; i < QUEUES; i++)
        if (kube_queue_new(event, LIMIT_CONTROLLER_WORKERS, on_work, &c->caches[i], &c->queues[i]) < 0)
            return error_oom(ret_error);
    for (size_t i = 0; i < KINDS; i++) {
        struct kube_informer_options o = {.resource = resources[i],
                                          .namespace_ = resources[i]->cluster_scoped ? NULL : options->namespace_,
                                          .optional = i == KIND_DATA_VOLUME,
                                          .label_selector = how[i].label_selector,
                                          .trim = how[i].trim,
                                          .index = how[i].index,
                                          .changed = how[i].changed,
                                          .synced = on_synced,
                                          .userdata = &c->caches[i]};

        r = kube_informer_new(client, &o, &c->caches[i].informer, ret_error);
        if (r < 0)
            return r;
    }
    *ret = TAKE_PTR(c);
    return 0;
}
