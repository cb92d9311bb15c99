/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/controller/object.h"

#include <stdio.h>

#include "base/strbuf.h"
#include "k8s/client/ktime.h"

json_t *json_path(const json_t *object, const char *const *path)
{
    for (; *path && object; path++)
        object = json_object_get(object, *path);
    return (json_t *)(uintptr_t)object;
}

const char *json_path_text(const json_t *object, const char *const *path)
{
    const char *text = json_string_value(json_path(object, path));

    return text ? text : "";
}

int64_t json_path_number(const json_t *object, const char *const *path)
{
    return json_integer_value(json_path(object, path));
}

json_t *json_path_make(json_t *object, const char *const *path)
{
    for (; *path && object; path++) {
        json_t *child = json_object_get(object, *path);

        if (!json_is_object(child)) {
            child = json_object();
            if (json_object_set_new(object, *path, child) < 0)
                return NULL;
        }
        object = child;
    }
    return object;
}

bool has_finalizer(const json_t *object, const char *name)
{
    json_t *finalizer;
    size_t i;

    json_array_foreach (GET(object, "metadata", "finalizers"), i, finalizer)
        if (streq_ptr(json_string_value(finalizer), name))
            return true;
    return false;
}

json_t *controller_of(const json_t *object)
{
    json_t *reference;
    size_t i;

    json_array_foreach (GET(object, "metadata", "ownerReferences"), i, reference)
        if (json_is_true(json_object_get(reference, "controller")))
            return reference;
    return NULL;
}

json_t *owner_reference(const json_t *owner, const char *api_version, const char *kind)
{
    return json_pack("[{s:s, s:b, s:b, s:s, s:s, s:s}]", "apiVersion", api_version, "blockOwnerDeletion", 1,
                     "controller", 1, "kind", kind, "name", GET_TEXT(owner, "metadata", "name"), "uid",
                     GET_TEXT(owner, "metadata", "uid"));
}

bool is_controlled_by(const json_t *object, const json_t *owner)
{
    const char *uid = GET_TEXT(controller_of(object), "uid");

    return *uid && streq(uid, GET_TEXT(owner, "metadata", "uid"));
}

json_t *merge_diff(const json_t *before, const json_t *after)
{
    json_t *patch = json_object(), *value, *old;
    const char *key;

    json_object_foreach ((json_t *)(uintptr_t)after, key, value) {
        old = json_object_get(before, key);
        if (json_is_object(value) && json_is_object(old)) {
            json_t *inner = merge_diff(old, value);

            if (inner)
                json_object_set_new(patch, key, inner);
        } else if (!old || !json_equal(old, value))
            json_object_set(patch, key, value);
    }
    json_object_foreach ((json_t *)(uintptr_t)before, key, value)
        if (!json_object_get(after, key))
            json_object_set_new(patch, key, json_null());
    if (json_object_size(patch) > 0)
        return patch;
    json_decref(patch);
    return NULL;
}

/* ---- selectors -------------------------------------------------------------------------------------------------- */

static bool is_among(const json_t *values, const char *text)
{
    json_t *value;
    size_t i;

    json_array_foreach (values, i, value)
        if (streq_ptr(json_string_value(value), text))
            return true;
    return false;
}

static bool expression_matches(const json_t *expression, const json_t *labels)
{
    const char *operator_ = GET_TEXT(expression, "operator");
    const char *value = json_string_value(json_object_get(labels, GET_TEXT(expression, "key")));
    bool among = value && is_among(GET(expression, "values"), value);

    if (streq(operator_, "In"))
        return among;
    if (streq(operator_, "NotIn"))
        return !among;
    if (streq(operator_, "Exists"))
        return value;
    return streq(operator_, "DoesNotExist") && !value;
}

bool selector_matches(const json_t *selector, const json_t *labels)
{
    json_t *value;
    const char *key;
    size_t i;

    if (!json_is_object(selector))
        return false;
    json_object_foreach (GET(selector, "matchLabels"), key, value)
        if (!streq_ptr(json_string_value(value), json_string_value(json_object_get(labels, key))))
            return false;
    json_array_foreach (GET(selector, "matchExpressions"), i, value)
        if (!expression_matches(value, labels))
            return false;
    return true;
}

static void add_expression(struct strbuf *b, const json_t *expression)
{
    const char *operator_ = GET_TEXT(expression, "operator"), *key = GET_TEXT(expression, "key");
    json_t *value;
    size_t i;

    if (streq(operator_, "Exists") || streq(operator_, "DoesNotExist")) {
        strbuf_printf(b, "%s%s", streq(operator_, "Exists") ? "" : "!", key);
        return;
    }
    strbuf_printf(b, "%s %s (", key, streq(operator_, "In") ? "in" : "notin");
    json_array_foreach (GET(expression, "values"), i, value)
        strbuf_printf(b, "%s%s", i ? "," : "", json_string_value(value) ? json_string_value(value) : "");
    strbuf_add_string(b, ")");
}

char *selector_text(const json_t *selector)
{
    struct strbuf b = {0};
    const char *key;
    json_t *value;
    size_t i;

    strbuf_add_string(&b, "");
    json_object_foreach (GET(selector, "matchLabels"), key, value)
        strbuf_printf(&b, "%s%s=%s", b.length ? "," : "", key,
                      json_string_value(value) ? json_string_value(value) : "");
    json_array_foreach (GET(selector, "matchExpressions"), i, value) {
        strbuf_add_string(&b, b.length ? "," : "");
        add_expression(&b, value);
    }
    return strbuf_steal(&b);
}

/* ---- conditions ------------------------------------------------------------------------------------------------- */

json_t *condition_find(const json_t *conditions, const char *type)
{
    json_t *condition;
    size_t i;

    json_array_foreach (conditions, i, condition)
        if (streq(GET_TEXT(condition, "type"), type))
            return condition;
    return NULL;
}

bool condition_is(const json_t *conditions, const char *type, const char *status)
{
    return streq(GET_TEXT(condition_find(conditions, type), "status"), status);
}

void condition_set(json_t *conditions, const char *type, const char *status, const char *reason, const char *message,
                   int64_t now)
{
    json_t *condition = condition_find(conditions, type);
    char time[KUBE_TIME_SIZE];

    if (!condition) {
        condition =
            json_pack("{s:n, s:n, s:s, s:s}", "lastProbeTime", "lastTransitionTime", "type", type, "status", "");
        json_array_append_new(conditions, condition);
    }
    if (!streq(GET_TEXT(condition, "status"), status)) {
        kube_time(now, time);
        json_object_set_new(condition, "lastTransitionTime", json_string(time));
        json_object_set_new(condition, "status", json_string(status));
    }
    if (reason && *reason)
        json_object_set_new(condition, "reason", json_string(reason));
    else
        json_object_del(condition, "reason");
    if (message && *message)
        json_object_set_new(condition, "message", json_string(message));
    else
        json_object_del(condition, "message");
}

void condition_remove(json_t *conditions, const char *type)
{
    for (size_t i = json_array_size(conditions); i-- > 0;)
        if (streq(GET_TEXT(json_array_get(conditions, i), "type"), type))
            json_array_remove(conditions, i);
}

json_t *volume_list(json_t *status)
{
    json_t *list = json_object_get(status, "volumeStatus");

    if (!json_is_array(list)) {
        list = json_array();
        json_object_set_new(status, "volumeStatus", list);
    }
    return list;
}

json_t *volume_entry(json_t *list, const char *name)
{
    json_t *entry;
    size_t i;

    json_array_foreach (list, i, entry)
        if (streq(GET_TEXT(entry, "name"), name))
            return entry;
    entry = json_pack("{s:s, s:s}", "name", name, "target", "");
    json_array_append_new(list, entry);
    return entry;
}

void json_hash(const json_t *value, char ret[static 17])
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY);
    uint64_t hash = 14695981039346656037ULL;

    for (const char *p = text; p && *p; p++)
        hash = (hash ^ (unsigned char)*p) * 1099511628211ULL;
    snprintf(ret, 17, "%016llx", (unsigned long long)hash);
    free(text);
}
