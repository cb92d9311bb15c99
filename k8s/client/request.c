/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/client/request.h"

#include <ctype.h>
#include <inttypes.h>

#include "base/limits.h"

static const struct verb {
    const char *method, *content_type;
    bool name, body;
} verbs[] = {
    [KUBE_GET] = {"GET", NULL, true, false},
    [KUBE_LIST] = {"GET", NULL, false, false},
    [KUBE_WATCH] = {"GET", NULL, false, false},
    [KUBE_CREATE] = {"POST", "application/json", false, true},
    [KUBE_UPDATE] = {"PUT", "application/json", true, true},
    [KUBE_DELETE] = {"DELETE", "application/json", true, false},
    [KUBE_PATCH_JSON] = {"PATCH", "application/json-patch+json", true, true},
    [KUBE_PATCH_MERGE] = {"PATCH", "application/merge-patch+json", true, true},
    [KUBE_APPLY] = {"PATCH", "application/apply-patch+yaml", true, true}, /* JSON is YAML */
};

static const char *const propagations[] = {
    [KUBE_PROPAGATION_BACKGROUND] = "Background",
    [KUBE_PROPAGATION_FOREGROUND] = "Foreground",
    [KUBE_PROPAGATION_ORPHAN] = "Orphan",
};

void kube_http_done(struct kube_http *http)
{
    free(http->path);
    free(http->body);
    *http = (struct kube_http){0};
}

/* The server's rule for names in a path: not empty, not "." or "..", without '/' and '%'. */
static bool is_path_segment(const char *text)
{
    return *text && !streq(text, ".") && !streq(text, "..") && !strpbrk(text, "/%");
}

static void add_escaped(struct strbuf *b, const char *text)
{
    for (; *text; text++)
        if (isalnum((unsigned char)*text) || strchr("-._~", *text))
            strbuf_add(b, text, 1);
        else
            strbuf_printf(b, "%%%02X", (unsigned char)*text);
}

static void add_query(struct strbuf *b, const char *key, const char *value)
{
    if (!value || !*value)
        return;
    strbuf_printf(b, "%c%s=", memchr(b->data, '?', b->length) ? '&' : '?', key);
    add_escaped(b, value);
}

static void add_number(struct strbuf *b, const char *key, uint64_t value)
{
    char text[24];

    snprintf(text, sizeof(text), "%" PRIu64, value);
    add_query(b, key, text);
}

static void add_path(struct strbuf *b, const struct kube_request *q)
{
    const struct kube_resource *r = q->resource;

    if (*r->group)
        strbuf_printf(b, "/apis/%s/%s", r->group, r->version);
    else
        strbuf_printf(b, "/api/%s", r->version);
    if (q->namespace_ && !r->cluster_scoped) {
        strbuf_add_string(b, "/namespaces/");
        add_escaped(b, q->namespace_);
    }
    strbuf_printf(b, "/%s", r->plural);
    if (q->name) {
        strbuf_add_string(b, "/");
        add_escaped(b, q->name);
    }
    if (q->subresource)
        strbuf_printf(b, "/%s", q->subresource);
}

static void add_queries(struct strbuf *b, const struct kube_request *q)
{
    add_query(b, "labelSelector", q->label_selector);
    add_query(b, "fieldSelector", q->field_selector);
    if (q->verb != KUBE_DELETE)
        add_query(b, "resourceVersion", q->resource_version);
    if (q->limit > 0)
        add_number(b, "limit", q->limit);
    add_query(b, "continue", q->continue_);
    if (q->verb == KUBE_WATCH) {
        add_query(b, "watch", "true");
        add_query(b, "allowWatchBookmarks", "true");
        add_number(b, "timeoutSeconds", kube_jitter(TIMEOUT_KUBE_WATCH_USEC) / USEC_PER_SEC);
    }
    if (verbs[q->verb].body) {
        add_query(b, "fieldManager", q->manager);
        if (q->strict)
            add_query(b, "fieldValidation", "Strict");
    }
    if (q->verb == KUBE_APPLY && q->force)
        add_query(b, "force", "true");
    if (q->dry_run)
        add_query(b, "dryRun", "All");
}

/* meta/v1 DeleteOptions; NULL when out of memory. */
static char *delete_options(const struct kube_request *q)
{
    json_t *options = json_pack("{s:s, s:s}", "apiVersion", "v1", "kind", "DeleteOptions");
    json_t *conditions = json_object();
    char *text;

    if (q->propagation)
        json_object_set_new(options, "propagationPolicy", json_string(propagations[q->propagation]));
    if (q->grace_seconds)
        json_object_set_new(options, "gracePeriodSeconds", json_integer(MAX(q->grace_seconds, 0)));
    if (q->uid)
        json_object_set_new(conditions, "uid", json_string(q->uid));
    if (q->resource_version)
        json_object_set_new(conditions, "resourceVersion", json_string(q->resource_version));
    if (json_object_size(conditions) > 0)
        json_object_set(options, "preconditions", conditions);
    json_decref(conditions);
    text = json_dumps(options, JSON_COMPACT);
    json_decref(options);
    return text;
}

static const char *what_is_wrong(const struct kube_request *q)
{
    const struct verb *verb = &verbs[q->verb];

    if (verb->name != !!q->name && !(q->verb == KUBE_CREATE && q->subresource))
        return verb->name ? "it names no object" : "it names an object";
    if (q->name && !is_path_segment(q->name))
        return "the object's name cannot stand in a path";
    if (q->namespace_ && !is_path_segment(q->namespace_))
        return "the namespace cannot stand in a path";
    if (!q->resource->cluster_scoped && !q->namespace_ && q->verb != KUBE_LIST && q->verb != KUBE_WATCH)
        return "it names no namespace";
    if (verb->body != !!q->body)
        return verb->body ? "it has no body" : "it has a body";
    if (q->verb == KUBE_APPLY && !q->manager)
        return "an apply names its manager";
    return NULL;
}

int kube_http_make(const struct kube_request *q, struct kube_http *ret, struct error **ret_error)
{
    const char *wrong = what_is_wrong(q);
    struct strbuf path = {0};
    struct kube_http http = {.method = verbs[q->verb].method};

    if (wrong)
        return error_set(ret_error, ERROR_INTERNAL, EINVAL, "%s of %s %s: %s", http.method, q->resource->plural,
                         q->name ? q->name : "", wrong);
    add_path(&path, q);
    if (!path.failed)
        add_queries(&path, q);
    if (q->verb == KUBE_DELETE)
        http.body = delete_options(q);
    else if (verbs[q->verb].body)
        http.body = json_dumps(q->body, JSON_COMPACT);
    http.path = strbuf_steal(&path);
    if (!http.path || (verbs[q->verb].content_type && !http.body)) {
        strbuf_done(&path);
        kube_http_done(&http);
        return error_oom(ret_error);
    }
    http.body_length = http.body ? strlen(http.body) : 0;
    http.content_type = verbs[q->verb].content_type;
    *ret = http;
    return 0;
}

/* ---- answers ---------------------------------------------------------------------------------------------------- */

/* By reason first, which is exact, then by HTTP's number. */
static const struct refusal {
    const char *reason;
    long status;
    enum error_code code;
    int err;
    const char *remedy;
} refusals[] = {
    {"AlreadyExists", 0, ERROR_ALREADY_EXISTS, EEXIST, NULL},
    {"Conflict", 409, ERROR_WRONG_STATE, EAGAIN, NULL},
    {"NotFound", 404, ERROR_NOT_FOUND, ENOENT, NULL},
    {"Unauthorized", 401, ERROR_NOT_ALLOWED, EACCES,
     "the token or client certificate is not valid any more, or never was"},
    {"Forbidden", 403, ERROR_NOT_ALLOWED, EPERM, "its service account lacks a role: see k8s/manifests"},
    {"Expired", 410, ERROR_BAD_DATA, ESTALE, NULL},
    {"Gone", 0, ERROR_BAD_DATA, ESTALE, NULL},
    {"Invalid", 422, ERROR_BAD_MANIFEST, EINVAL, NULL},
    {"BadRequest", 400, ERROR_BAD_ARGUMENT, EINVAL, NULL},
    {"TooManyRequests", 429, ERROR_LIMIT, EBUSY, NULL},
    {"Timeout", 504, ERROR_TIMED_OUT, ETIMEDOUT, NULL},
    {"", 0, ERROR_CONNECTION, EIO, NULL},
};

void kube_status_error(const char *method, const char *path, long status, const json_t *body, struct error **ret_error)
{
    const char *reason = json_string_value(json_object_get(body, "reason"));
    const char *message = json_string_value(json_object_get(body, "message"));
    const struct refusal *found = NULL;
    struct error *error = NULL;

    for (const struct refusal *f = refusals; reason && !found && *f->reason; f++)
        if (streq(f->reason, reason))
            found = f;
    for (const struct refusal *f = refusals; !found; f++)
        if (f->status == status || !*f->reason)
            found = f;
    error_set(&error, found->code, found->err, "%s %.*s: the API server answered %ld%s%s: %s", method,
              (int)strcspn(path, "?"), path, status, reason ? " " : "", reason ? reason : "",
              message ? message : "without a word");
    if (found->remedy)
        error_set_remedy(error, "%s", found->remedy);
    error_move(ret_error, error);
}
