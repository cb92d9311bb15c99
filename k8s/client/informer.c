/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/client/informer.h"

#include <malloc.h>

#include <stdio.h>

#include "base/event.h"
#include "base/limits.h"
#include "base/log.h"
#include "k8s/client/map.h"
#include "k8s/client/slab.h"

/* One object's place in the table by name, and in the lists of its index keys. */
struct entry {
    struct kube_map_node node; /* key: "namespace/name" */
    struct kube_object *object;
    unsigned generation; /* of the last list that had it */
    struct posting *postings;
    char key[];
};

struct posting { /* one index key of one entry */
    struct posting *next_of_entry, *next, *previous;
    struct index_key *key;
    struct entry *entry;
};

struct index_key {
    struct kube_map_node node;
    struct posting *first;
    char text[];
};

struct kube_informer {
    struct kube_client *client;
    struct kube_informer_options options;
    char *namespace_, *label_selector, *field_selector;
    struct kube_map entries, keys;
    char *version, *continue_;
    struct kube_call *call;
    sd_event_source *retry, *resync;
    unsigned generation, failures;
    bool missing;                 /* the server does not know the kind */
    bool synced, expired, useful; /* a list was complete; `version` is no good; this watch brought something */
    struct kube_informer_figures figures;
};

/* ---- objects ---------------------------------------------------------------------------------------------------- */

static size_t object_size(const struct kube_object *o)
{
    return (size_t)(o->text - (const char *)o) + o->length + 1;
}

struct kube_object *kube_object_ref(struct kube_object *object)
{
    object->references++;
    return object;
}

void kube_object_unref(struct kube_object *object)
{
    if (object && --object->references == 0)
        slab_free(object, object_size(object));
}

json_t *kube_object_json(const struct kube_object *object)
{
    return json_loadb(object->text, object->length, 0, NULL);
}

static const char *meta(const json_t *json, const char *key)
{
    const char *text = json_string_value(json_object_get(json_object_get(json, "metadata"), key));

    return text ? text : "";
}

static const char *copy_text(char **to, const char *text)
{
    const char *start = *to;

    *to = stpcpy(*to, text) + 1;
    return start;
}

/* One allocation: struct, four strings, text. */
static struct kube_object *object_new(const json_t *json, size_t *ret_size)
{
    const char *namespace_ = meta(json, "namespace"), *name = meta(json, "name"), *uid = meta(json, "uid"),
               *version = meta(json, "resourceVersion");
    size_t length = json_dumpb(json, NULL, 0, JSON_COMPACT);
    size_t size =
        sizeof(struct kube_object) + strlen(namespace_) + strlen(name) + strlen(uid) + strlen(version) + 4 + length + 1;
    struct kube_object *o = slab_alloc(size);
    char *p;

    if (!o)
        return NULL;
    p = (char *)(o + 1);
    *o = (struct kube_object){.references = 1, .length = (unsigned)length};
    o->namespace_ = copy_text(&p, namespace_);
    o->name = copy_text(&p, name);
    o->uid = copy_text(&p, uid);
    o->resource_version = copy_text(&p, version);
    o->text = p;
    json_dumpb(json, p, length, JSON_COMPACT);
    p[length] = '\0';
    *ret_size = size;
    return o;
}

/* ---- the index -------------------------------------------------------------------------------------------------- */

static void unindex(struct kube_informer *i, struct entry *e)
{
    while (e->postings) {
        struct posting *p = e->postings;
        struct index_key *key = p->key;

        e->postings = p->next_of_entry;
        if (p->next)
            p->next->previous = p->previous;
        if (p->previous)
            p->previous->next = p->next;
        else
            key->first = p->next;
        if (!key->first) {
            kube_map_remove(&i->keys, &key->node);
            i->figures.bytes -= sizeof(*key) + strlen(key->text) + 1;
            slab_free(key, sizeof(*key) + strlen(key->text) + 1);
        }
        i->figures.bytes -= sizeof(*p);
        slab_free(p, sizeof(*p));
    }
}

static struct index_key *get_key(struct kube_informer *i, const char *text)
{
    struct kube_map_node *node = kube_map_get(&i->keys, text);
    struct index_key *key;

    if (node)
        return KUBE_MAP_OBJECT(node, struct index_key, node);
    key = slab_alloc(sizeof(*key) + strlen(text) + 1);
    if (!key)
        return NULL;
    *key = (struct index_key){0};
    strcpy(key->text, text);
    if (kube_map_put(&i->keys, &key->node, key->text) < 0) {
        slab_free(key, sizeof(*key) + strlen(text) + 1);
        return NULL;
    }
    i->figures.bytes += sizeof(*key) + strlen(text) + 1;
    return key;
}

static int index_entry(struct kube_informer *i, struct entry *e, json_t *json)
{
    const char *keys[KUBE_INDEX_KEYS];
    size_t n;

    unindex(i, e);
    if (!i->options.index)
        return 0;
    n = i->options.index(json, keys);
    for (size_t k = 0; k < n; k++) {
        struct index_key *key = get_key(i, keys[k]);
        struct posting *p = key ? slab_alloc(sizeof(*p)) : NULL;

        if (!p)
            return -ENOMEM;
        *p = (struct posting){.next_of_entry = e->postings, .next = key->first, .key = key, .entry = e};
        if (key->first)
            key->first->previous = p;
        key->first = p;
        e->postings = p;
        i->figures.bytes += sizeof(*p);
    }
    return 0;
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

static struct entry *find(const struct kube_informer *i, const char *namespace_, const char *name)
{
    char key[600]; /* a namespace has at most 63 characters, a name 253 */
    int n = snprintf(key, sizeof(key), "%s/%s", namespace_ ? namespace_ : "", name);
    struct kube_map_node *node = n < (int)sizeof(key) ? kube_map_get(&i->entries, key) : NULL;

    return node ? KUBE_MAP_OBJECT(node, struct entry, node) : NULL;
}

static struct entry *entry_new(struct kube_informer *i, const char *namespace_, const char *name)
{
    size_t length = strlen(namespace_) + 1 + strlen(name) + 1;
    struct entry *e = slab_alloc(sizeof(*e) + length);

    if (!e)
        return NULL;
    *e = (struct entry){0};
    sprintf(e->key, "%s/%s", namespace_, name);
    if (kube_map_put(&i->entries, &e->node, e->key) < 0) {
        slab_free(e, sizeof(*e) + length);
        return NULL;
    }
    i->figures.bytes += sizeof(*e) + length;
    return e;
}

static void entry_free(struct kube_informer *i, struct entry *e)
{
    unindex(i, e);
    kube_map_remove(&i->entries, &e->node);
    i->figures.bytes -= sizeof(*e) + strlen(e->key) + 1 + object_size(e->object);
    kube_object_unref(e->object);
    slab_free(e, sizeof(*e) + strlen(e->key) + 1);
}

/* resourceVersions of one kind can be compared as numbers (Kubernetes, "API concepts": resource versions). 0: no
 * number. */
static uint64_t version_number(const char *version)
{
    return *version && strspn(version, "0123456789") == strlen(version) ? strtoull(version, NULL, 10) : 0;
}

/* Stores the object, and tells. The same resourceVersion is the same object: nothing is said then. */
static int store(struct kube_informer *i, json_t *json)
{
    _cleanup_(kube_object_unrefp) struct kube_object *before = NULL;
    struct kube_object *now;
    struct entry *e;
    size_t size;

    if (!*meta(json, "name"))
        return -EBADMSG;
    e = find(i, meta(json, "namespace"), meta(json, "name"));
    if (e && streq(e->object->resource_version, meta(json, "resourceVersion"))) {
        e->generation = i->generation;
        return 0;
    }
    /* what kube_informer_learn() took is ahead of the watch */
    if (e && streq(e->object->uid, meta(json, "uid")) &&
        version_number(e->object->resource_version) > version_number(meta(json, "resourceVersion")) &&
        version_number(meta(json, "resourceVersion")) > 0) {
        e->generation = i->generation;
        return 0;
    }
    json_object_del(json_object_get(json, "metadata"), "managedFields");
    if (i->options.trim)
        i->options.trim(json, i->options.userdata);
    now = object_new(json, &size);
    if (!now)
        return -ENOMEM;
    if (!e)
        e = entry_new(i, now->namespace_, now->name);
    if (!e) {
        kube_object_unref(now);
        return -ENOMEM;
    }
    before = e->object;
    i->figures.bytes += size;
    i->figures.bytes -= before ? object_size(before) : 0;
    e->object = now;
    e->generation = i->generation;
    if (index_entry(i, e, json) < 0)
        return -ENOMEM;
    i->options.changed(before, now, i->options.userdata);
    return 0;
}

static void drop(struct kube_informer *i, struct entry *e)
{
    _cleanup_(kube_object_unrefp) struct kube_object *before = kube_object_ref(e->object);

    entry_free(i, e);
    i->options.changed(before, NULL, i->options.userdata);
}

struct visit {
    struct kube_informer *i;
    void (*visit)(const struct kube_object *object, void *userdata);
    void *userdata;
};

static void drop_stale(struct kube_map_node *node, void *userdata)
{
    struct entry *e = KUBE_MAP_OBJECT(node, struct entry, node);
    struct kube_informer *i = userdata;

    if (e->generation != i->generation)
        drop(i, e);
}

static void visit_entry(struct kube_map_node *node, void *userdata)
{
    struct visit *v = userdata;

    v->visit(KUBE_MAP_OBJECT(node, struct entry, node)->object, v->userdata);
}

bool kube_informer_is_synced(const struct kube_informer *i)
{
    return i->synced;
}

bool kube_informer_is_missing(const struct kube_informer *i)
{
    return i->missing;
}

const struct kube_object *kube_informer_get(const struct kube_informer *i, const char *namespace_, const char *name)
{
    struct entry *e = find(i, namespace_, name);

    return e ? e->object : NULL;
}

size_t kube_informer_count(const struct kube_informer *i)
{
    return i->entries.count;
}

void kube_informer_foreach(struct kube_informer *i, void (*visit)(const struct kube_object *object, void *userdata),
                           void *userdata)
{
    kube_map_foreach(&i->entries, visit_entry, &(struct visit){i, visit, userdata});
}

size_t kube_informer_by_index(const struct kube_informer *i, const char *key,
                              void (*visit)(const struct kube_object *object, void *userdata), void *userdata)
{
    struct kube_map_node *node = kube_map_get(&i->keys, key);
    size_t n = 0;

    if (!node)
        return 0;
    for (struct posting *p = KUBE_MAP_OBJECT(node, struct index_key, node)->first; p; p = p->next, n++)
        if (visit)
            visit(p->entry->object, userdata);
    return n;
}

void kube_informer_get_figures(const struct kube_informer *i, struct kube_informer_figures *ret)
{
    *ret = i->figures;
    ret->bytes += (i->entries.allocated + i->keys.allocated) * sizeof(void *);
}

/* ---- list and watch --------------------------------------------------------------------------------------------- */

static void start_list(struct kube_informer *i);
static void start_watch(struct kube_informer *i);

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct kube_informer *i = userdata;

    if (i->version && !i->expired)
        start_watch(i);
    else
        start_list(i);
    return 0;
}

static void again_later(struct kube_informer *i, const struct error *error)
{
    uint64_t delay = kube_jitter(kube_backoff(i->failures, KUBE_BACKOFF_FIRST_USEC, KUBE_BACKOFF_LAST_USEC));

    i->failures += i->failures < 32;
    i->figures.failures++;
    log_debug("%s: %s; again in %llu ms", i->options.resource->plural, error ? error_message(error) : "watch ended",
              (unsigned long long)(delay / USEC_PER_MSEC));
    event_arm_timer(kube_client_event(i->client), &i->retry, delay, on_retry, i);
}

static int set_text(char **to, const char *text)
{
    char *copy = text && *text ? strdup(text) : NULL;

    free(*to);
    *to = copy;
    return text && *text && !copy ? -ENOMEM : 0;
}

static void expire(struct kube_informer *i)
{
    i->expired = true;
    set_text(&i->continue_, NULL);
}

static int take_page(struct kube_informer *i, const json_t *body)
{
    json_t *items = json_object_get(body, "items"), *item;
    size_t n;
    int r;

    if (!*meta(body, "resourceVersion") || (!json_is_array(items) && items && !json_is_null(items)))
        return -EBADMSG;
    json_array_foreach (items, n, item) {
        r = store(i, item);
        if (r < 0)
            return r;
    }
    r = set_text(&i->continue_, meta(body, "continue"));
    return r < 0 ? r : set_text(&i->version, meta(body, "resourceVersion"));
}

static void on_page(const struct kube_reply *reply, void *userdata)
{
    struct kube_informer *i = userdata;
    _cleanup_error_ struct error *error = NULL;
    int r = 0;

    i->call = NULL;
    if (!reply->error)
        r = take_page(i, reply->body);
    i->missing = i->options.optional && reply->status == 404;
    if (i->missing)
        expire(i); /* and what there was is gone with the kind */
    else if (reply->error || r < 0) {
        /* a continue token that has expired, or half a list: from the start, which costs nothing but time */
        if (r < 0)
            error_set(&error, ERROR_BAD_DATA, r, "the list cannot be used (%s)", strerror(-r));
        expire(i);
        again_later(i, reply->error ? reply->error : error);
        return;
    }
    if (i->continue_) {
        start_list(i);
        return;
    }
    i->expired = i->missing;
    i->failures = i->missing ? i->failures : 0;
    kube_map_foreach(&i->entries, drop_stale, i);
    malloc_trim(0); /* the parsed pages were many times as large as what is kept of them */
    if (!i->synced) {
        i->synced = true;
        if (i->options.synced)
            i->options.synced(i->options.userdata);
    }
    if (i->missing)
        again_later(i, reply->error);
    else
        start_watch(i);
}

static struct kube_request request(const struct kube_informer *i, enum kube_verb verb)
{
    return (struct kube_request){.verb = verb,
                                 .resource = i->options.resource,
                                 .namespace_ = i->namespace_,
                                 .label_selector = i->label_selector,
                                 .field_selector = i->field_selector};
}

static void start_list(struct kube_informer *i)
{
    struct kube_request q = request(i, KUBE_LIST);
    _cleanup_error_ struct error *error = NULL;

    if (!i->continue_) {
        i->generation++;
        i->figures.lists++;
    }
    q.limit = i->options.page ? i->options.page : LIMIT_KUBE_PAGE;
    q.continue_ = i->continue_;
    if (kube_call_start(i->client, &q, on_page, i, &i->call, &error) < 0)
        again_later(i, error);
}

int kube_informer_learn(struct kube_informer *i, const json_t *object)
{
    uint64_t version = version_number(meta(object, "resourceVersion"));
    json_auto_t *copy = NULL;

    /* an older one may have been deleted since, which the watch has told us already */
    if (!i->synced || !i->version || version <= version_number(i->version))
        return 0;
    copy = json_deep_copy(object);
    return copy ? store(i, copy) : -ENOMEM;
}

/* {"type": "ADDED", "object": {…}}. A line that cannot be understood is a lost change: only a new list helps. */
static int take_event(struct kube_informer *i, const json_t *event)
{
    const char *type = json_string_value(json_object_get(event, "type"));
    json_t *object = json_object_get(event, "object");
    struct entry *e;
    int r;

    if (!type || !json_is_object(object))
        return -EBADMSG;
    if (streq(type, "ERROR")) {
        log_debug("%s: watch: %s", i->options.resource->plural,
                  json_string_value(json_object_get(object, "message"))
                      ? json_string_value(json_object_get(object, "message"))
                      : "error");
        return -ESTALE;
    }
    if (!*meta(object, "resourceVersion"))
        return -EBADMSG;
    r = set_text(&i->version, meta(object, "resourceVersion"));
    if (r < 0)
        return r;
    i->useful = true;
    i->failures = 0;
    if (streq(type, "BOOKMARK")) {
        i->figures.bookmarks++;
        return 0;
    }
    if (!streq(type, "DELETED"))
        return streq(type, "ADDED") || streq(type, "MODIFIED") ? store(i, object) : -EBADMSG;
    e = find(i, meta(object, "namespace"), meta(object, "name"));
    /* kube_informer_learn() may know its successor of the same name already */
    if (e && (streq(e->object->uid, meta(object, "uid")) ||
              version_number(e->object->resource_version) <= version_number(meta(object, "resourceVersion"))))
        drop(i, e);
    return 0;
}

static int on_line(char *text, size_t length, void *userdata)
{
    struct kube_informer *i = userdata;
    json_t *event = json_loadb(text, length, 0, NULL);
    int r = event ? take_event(i, event) : -EBADMSG;

    json_decref(event);
    if (r < 0)
        expire(i);
    return r;
}

static void on_watch_end(const struct kube_reply *reply, void *userdata)
{
    struct kube_informer *i = userdata;

    i->call = NULL;
    /* an event that we refuse to hold would come again with every watch from here */
    if (kube_reply_is_gone(reply) || (reply->error && error_get_code(reply->error) == ERROR_LIMIT))
        expire(i);
    if (i->useful && !i->expired)
        start_watch(i); /* the server ends every watch some time */
    else
        again_later(i, reply->error);
}

static void start_watch(struct kube_informer *i)
{
    struct kube_request q = request(i, KUBE_WATCH);
    _cleanup_error_ struct error *error = NULL;

    i->useful = false;
    i->figures.watches++;
    q.resource_version = i->version;
    if (kube_watch_start(i->client, &q, on_line, on_watch_end, i, &i->call, &error) < 0)
        again_later(i, error);
}

static void tell_again(const struct kube_object *object, void *userdata)
{
    struct kube_informer *i = userdata;

    i->options.changed(object, object, i->options.userdata);
}

static int on_resync(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct kube_informer *i = userdata;

    if (i->synced)
        kube_informer_foreach(i, tell_again, i);
    event_arm_timer(kube_client_event(i->client), &i->resync, i->options.resync_usec, on_resync, i);
    return 0;
}

void kube_informer_free(struct kube_informer *i)
{
    struct kube_map_node *node;

    if (!i)
        return;
    kube_call_cancel(i->call);
    sd_event_source_disable_unref(i->retry);
    sd_event_source_disable_unref(i->resync);
    while ((node = kube_map_any(&i->entries)))
        entry_free(i, KUBE_MAP_OBJECT(node, struct entry, node));
    kube_map_done(&i->entries);
    kube_map_done(&i->keys);
    free(i->namespace_);
    free(i->label_selector);
    free(i->field_selector);
    free(i->version);
    free(i->continue_);
    free(i);
}

int kube_informer_new(struct kube_client *client, const struct kube_informer_options *options,
                      struct kube_informer **ret, struct error **ret_error)
{
    _cleanup_(kube_informer_freep) struct kube_informer *i = calloc(1, sizeof(*i));

    if (!i)
        return error_oom(ret_error);
    i->client = client;
    i->options = *options;
    if (set_text(&i->namespace_, options->namespace_) < 0 ||
        set_text(&i->label_selector, options->label_selector) < 0 ||
        set_text(&i->field_selector, options->field_selector) < 0)
        return error_oom(ret_error);
    if (options->resync_usec > 0 &&
        event_arm_timer(kube_client_event(client), &i->resync, options->resync_usec, on_resync, i) < 0)
        return error_oom(ret_error);
    start_list(i);
    *ret = TAKE_PTR(i);
    return 0;
}
