/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A local copy of the objects of one kind, kept up to date: list in pages, then watch, and again from the last
 * resourceVersion when the watch ends; a new list when the server no longer has that version (410) or says what cannot
 * be understood. Objects are kept as compact JSON text: a parsed tree would take about five times as much.
 */
#pragma once

#include "k8s/client/client.h"

struct kube_informer;

/* Immutable; all strings live as long as a reference does. */
struct kube_object {
    unsigned references;
    unsigned length;               /* of text */
    const char *namespace_, *name; /* "" where there is none */
    const char *uid, *resource_version;
    const char *text; /* JSON, without metadata.managedFields, and as `trim` left it */
};

struct kube_object *kube_object_ref(struct kube_object *object);
void kube_object_unref(struct kube_object *object);
DEFINE_CLEANUP(struct kube_object *, kube_object_unref)
/* A new reference to the parsed text; NULL when out of memory. */
json_t *kube_object_json(const struct kube_object *object);

#define KUBE_INDEX_KEYS 32U

struct kube_informer_options {
    const struct kube_resource *resource;
    const char *namespace_, *label_selector, *field_selector;
    unsigned page;        /* objects in a page; LIMIT_KUBE_PAGE if 0 */
    uint64_t resync_usec; /* `updated` for every object at this interval; 0: never */
    /* Takes away what is not needed, before the object is stored. May be NULL. */
    void (*trim)(json_t *object, void *userdata);
    /* Writes the texts (borrowed from the object) that kube_informer_by_index() is to find it by; their number, at most
     * KUBE_INDEX_KEYS. May be NULL. */
    size_t (*index)(json_t *object, const char *keys[KUBE_INDEX_KEYS]);
    /* What happened; `before` NULL: new, `now` NULL: gone. Both are borrowed. In a resync they are the same. */
    void (*changed)(const struct kube_object *before, const struct kube_object *now, void *userdata);
    /* A server that does not know the kind has none of it; it is asked again now and then. */
    bool optional;
    /* The first list is complete. May be NULL. */
    void (*synced)(void *userdata);
    void *userdata;
};

/* Texts of the options are copied, `resource` must live on. Starts at once. */
int kube_informer_new(struct kube_client *client, const struct kube_informer_options *options,
                      struct kube_informer **ret, struct error **ret_error);
/* Not from inside of its handlers. */
void kube_informer_free(struct kube_informer *informer);
DEFINE_CLEANUP(struct kube_informer *, kube_informer_free)

bool kube_informer_is_synced(const struct kube_informer *informer);
/* Of an optional one: the server did not know the kind when it was asked last. */
bool kube_informer_is_missing(const struct kube_informer *informer);
/* Borrowed until the loop's next turn; NULL when it is not there. `namespace_` NULL or "" for what has none. */
const struct kube_object *kube_informer_get(const struct kube_informer *informer, const char *namespace_,
                                            const char *name);
size_t kube_informer_count(const struct kube_informer *informer);
void kube_informer_foreach(struct kube_informer *informer,
                           void (*visit)(const struct kube_object *object, void *userdata), void *userdata);
/* Those for which `index` gave this key; their number. */
size_t kube_informer_by_index(const struct kube_informer *informer, const char *key,
                              void (*visit)(const struct kube_object *object, void *userdata), void *userdata);

/*
 * Takes the API server's answer to a write into the cache, as the watch will in a moment: who decides by the cache sees
 * its own writes. Ignored when the watch is past it already, or the cache has something newer. `object` is borrowed.
 */
int kube_informer_learn(struct kube_informer *informer, const json_t *object);

struct kube_informer_figures {
    uint64_t lists, watches, bookmarks, failures;
    size_t bytes; /* of the cache: objects, entries, tables */
};
void kube_informer_get_figures(const struct kube_informer *informer, struct kube_informer_figures *ret);
