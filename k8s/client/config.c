/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/client/config.h"

#include <stdio.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/strv.h"
#include "json/node.h"
#include "json/scalar.h"

#define SERVICE_ACCOUNT_DIR "/var/run/secrets/kubernetes.io/serviceaccount"

void kube_config_free(struct kube_config *c)
{
    if (!c)
        return;
    if (c->key)
        explicit_bzero(c->key, strlen(c->key));
    if (c->token)
        explicit_bzero(c->token, strlen(c->token));
    if (c->password)
        explicit_bzero(c->password, strlen(c->password));
    free(c->source);
    free(c->server);
    free(c->namespace_);
    free(c->ca);
    free(c->certificate);
    free(c->key);
    free(c->token);
    free(c->token_file);
    free(c->user);
    free(c->password);
    free(c->tls_server_name);
    free(c->proxy_url);
    free(c);
}

/* ---- kubeconfig ------------------------------------------------------------------------------------------------- */

struct file {
    char *path;
    const struct node *root;
};

struct reading {
    struct arena *arena;
    struct file files[16];
    size_t n_files;
    struct faults faults;
    struct kube_config *config;
    const struct file *file; /* that the entry being read stands in */
    int r;                   /* -ENOMEM, or the errno of a file that could not be read, with its error below */
    struct error *error;
};

static void reading_done(struct reading *r)
{
    for (size_t i = 0; i < r->n_files; i++)
        free(r->files[i].path);
    faults_done(&r->faults);
    kube_config_free(r->config);
    error_free(r->error);
    arena_free(r->arena);
}

static const char *text_of(struct reading *r, const struct node *mapping, const char *key)
{
    const struct node *n = mapping ? node_get(mapping, key) : NULL;

    if (!n || n->kind == NODE_NULL)
        return NULL;
    if (n->kind != NODE_SCALAR) {
        faults_add(&r->faults, n, "must be a string");
        return NULL;
    }
    return n->length > 0 ? n->text : NULL;
}

static void take_text(struct reading *r, const struct node *mapping, const char *key, char **target)
{
    const char *text = text_of(r, mapping, key);

    if (!text)
        return;
    free(*target);
    *target = strdup(text);
    if (!*target)
        r->r = -ENOMEM;
}

static char *path_beside(struct reading *r, const char *path)
{
    const char *slash = strrchr(r->file->path, '/');
    char *whole = NULL;

    if (path[0] == '/' || !slash)
        whole = strdup(path);
    else if (asprintf(&whole, "%.*s/%s", (int)(slash - r->file->path), r->file->path, path) < 0)
        whole = NULL;
    if (!whole)
        r->r = -ENOMEM;
    return whole;
}

/* NAME-data (base64) wins over NAME (a file), as kubectl has it. */
static void take_pem(struct reading *r, const struct node *mapping, const char *name, char **target)
{
    _cleanup_free_ char *data_key = NULL, *path = NULL;
    const struct node *data;
    const char *file;
    size_t length;

    if (asprintf(&data_key, "%s-data", name) < 0) {
        data_key = NULL;
        r->r = -ENOMEM;
        return;
    }
    data = mapping ? node_get(mapping, data_key) : NULL;
    if (data && text_of(r, mapping, data_key)) {
        char *decoded;

        if (base64_decode(data->text, data->length, &decoded, &length) < 0) {
            faults_add(&r->faults, data, "is not base64");
            return;
        }
        free(*target);
        *target = decoded;
        return;
    }
    file = text_of(r, mapping, name);
    if (!file || r->r < 0)
        return;
    path = path_beside(r, file);
    if (path) {
        free(*target);
        *target = NULL;
        r->r = file_read(path, LIMIT_KUBE_CONFIG_BYTES, target, &length, &r->error);
        if (r->r < 0)
            error_wrap(&r->error, r->r, "%s of %s", name, r->file->path);
    }
}

/* The member `what` of the entry called `name` in the list `list`, in the first file that has one. */
static const struct node *find_entry(struct reading *r, const char *list, const char *what, const char *name)
{
    for (size_t i = 0; i < r->n_files; i++) {
        const struct node *entries = node_get(r->files[i].root, list);

        if (!entries || entries->kind != NODE_SEQUENCE)
            continue;
        NODE_FOREACH(entry, entries)
        {
            const struct node *n = entry->kind == NODE_MAPPING ? node_get(entry, "name") : NULL;

            if (!n || n->kind != NODE_SCALAR || !streq(n->text, name))
                continue;
            n = node_get(entry, what);
            r->file = &r->files[i];
            r->faults.source = r->files[i].path;
            if (n && n->kind == NODE_MAPPING)
                return n;
        }
    }
    faults_add_at(&r->faults, 0, 0, list, "there is no %s \"%s\"", what, name);
    return NULL;
}

static const char *current_context(struct reading *r)
{
    for (size_t i = 0; i < r->n_files; i++) {
        const char *name;

        r->faults.source = r->files[i].path;
        name = text_of(r, r->files[i].root, "current-context");
        if (name)
            return name;
    }
    faults_add_at(&r->faults, 0, 0, "current-context", "is not set (kubectl config use-context NAME sets it)");
    return NULL;
}

static void take_cluster(struct reading *r, const struct node *n)
{
    struct kube_config *c = r->config;
    const struct node *insecure = node_get(n, "insecure-skip-tls-verify");
    size_t length;

    take_text(r, n, "server", &c->server);
    take_text(r, n, "tls-server-name", &c->tls_server_name);
    take_text(r, n, "proxy-url", &c->proxy_url);
    take_pem(r, n, "certificate-authority", &c->ca);
    if (insecure && insecure->kind != NODE_NULL &&
        (insecure->kind != NODE_SCALAR || !scalar_bool(insecure, &c->insecure)))
        faults_add(&r->faults, insecure, "must be true or false");
    if (!c->server) {
        faults_add_member(&r->faults, n, "server", "is missing (https://HOST:PORT)");
        return;
    }
    if (!startswith(c->server, "https://") && !startswith(c->server, "http://"))
        faults_add_member(&r->faults, n, "server", "\"%s\" must start with https:// or http://", c->server);
    for (length = strlen(c->server); length > 0 && c->server[length - 1] == '/';)
        c->server[--length] = '\0';
}

static int take_user(struct reading *r, const struct node *n)
{
    struct kube_config *c = r->config;
    static const char *const refused[] = {"exec", "auth-provider"};
    const char *token_file;

    for (size_t i = 0; i < ELEMENTSOF(refused); i++)
        if (node_get(n, refused[i])) {
            error_set(&r->error, ERROR_NOT_SUPPORTED, ENOTSUP,
                      "%s: the user of this context signs in through a plug-in (%s), which this client does not run",
                      r->file->path, refused[i]);
            error_set_remedy(r->error, "use a token or a client certificate: kubectl create token NAME makes one for a "
                                       "service account");
            return r->r = -ENOTSUP;
        }
    take_text(r, n, "token", &c->token);
    token_file = text_of(r, n, "tokenFile");
    if (token_file)
        c->token_file = path_beside(r, token_file);
    take_text(r, n, "username", &c->user);
    take_text(r, n, "password", &c->password);
    take_pem(r, n, "client-certificate", &c->certificate);
    take_pem(r, n, "client-key", &c->key);
    if (!c->certificate != !c->key && r->r == 0)
        faults_add(&r->faults, n, "has a client certificate or a client key, must have both or neither");
    return r->r;
}

static int read_context(struct reading *r, const char *name)
{
    const struct node *context, *n;
    const char *cluster, *user;

    r->config = calloc(1, sizeof(*r->config));
    if (!r->config)
        return -ENOMEM;
    if (!name)
        name = current_context(r);
    context = name ? find_entry(r, "contexts", "context", name) : NULL;
    if (!context)
        return 0;
    r->config->source = strdup(r->file->path);
    r->config->namespace_ = strdup("default");
    if (!r->config->source || !r->config->namespace_)
        return -ENOMEM;
    take_text(r, context, "namespace", &r->config->namespace_);
    cluster = text_of(r, context, "cluster");
    user = text_of(r, context, "user");
    if (!cluster)
        faults_add_member(&r->faults, context, "cluster", "is missing");
    n = cluster ? find_entry(r, "clusters", "cluster", cluster) : NULL;
    if (n)
        take_cluster(r, n);
    n = user && r->r == 0 ? find_entry(r, "users", "user", user) : NULL; /* no user: an anonymous one */
    if (n)
        take_user(r, n);
    return r->r;
}

static int add_file(struct reading *r, const char *path, const char *text, size_t length)
{
    struct document_list documents;
    struct file *file = &r->files[r->n_files];
    int e;

    if (r->n_files == ELEMENTSOF(r->files))
        return error_set(&r->error, ERROR_LIMIT, E2BIG, "more than %zu kubeconfig files", ELEMENTSOF(r->files));
    file->path = strdup(path);
    if (!file->path)
        return -ENOMEM;
    r->n_files++;
    r->faults.source = file->path;
    e = node_parse(r->arena, path, text, length, &documents, &r->faults, &r->error);
    if (e < 0) {
        r->n_files--;
        free(TAKE_PTR(file->path));
        return e == -EINVAL ? 0 : e;
    }
    if (documents.count != 1 || documents.items[0]->kind != NODE_MAPPING) {
        faults_add_at(&r->faults, 1, 1, "", "is no kubeconfig (one object with clusters, users and contexts)");
        r->n_files--;
        free(TAKE_PTR(file->path));
        return 0;
    }
    file->root = documents.items[0];
    return 0;
}

/* The end of both ways in: what was found, or all that is wrong. */
static int finish(struct reading *r, int e, const char *context, struct kube_config **ret, struct error **ret_error)
{
    if (e == 0 && r->faults.count == 0)
        e = read_context(r, context);
    if (e == 0 && r->faults.count > 0) {
        _cleanup_free_ char *text = faults_format(&r->faults);
        size_t length = text ? strlen(text) : 0;

        if (length > 0)
            text[length - 1] = '\0';
        return error_set(ret_error, ERROR_BAD_MANIFEST, EINVAL, "%s", text ? text : "the kubeconfig is wrong");
    }
    if (e == -ENOMEM && !r->error)
        return error_oom(ret_error);
    if (e < 0) {
        error_move(ret_error, TAKE_PTR(r->error));
        return e;
    }
    *ret = TAKE_PTR(r->config);
    return 0;
}

int kube_config_parse(const char *text, size_t length, const char *source, const char *context,
                      struct kube_config **ret, struct error **ret_error)
{
    _cleanup_(reading_done) struct reading r = {.arena = arena_new()};

    if (!r.arena)
        return error_oom(ret_error);
    return finish(&r, add_file(&r, source, text, length), context, ret, ret_error);
}

static int load_files(char *const *paths, bool may_miss, const char *context, struct kube_config **ret,
                      struct error **ret_error)
{
    _cleanup_(reading_done) struct reading r = {.arena = arena_new()};
    int e = 0;

    if (!r.arena)
        return error_oom(ret_error);
    STRV_FOREACH (path, paths) {
        _cleanup_free_ char *text = NULL;
        size_t length;

        e = file_read(*path, LIMIT_KUBE_CONFIG_BYTES, &text, &length, &r.error);
        if (e == -ENOENT && may_miss && path[1]) { /* kubectl too passes over what is missing of several */
            error_free(TAKE_PTR(r.error));
            e = 0;
            continue;
        }
        if (e < 0)
            error_set_remedy(r.error, "name a kubeconfig by --kubeconfig or KUBECONFIG");
        else
            e = add_file(&r, *path, text, length);
        if (text)
            explicit_bzero(text, length);
        if (e < 0)
            break;
    }
    return finish(&r, e, context, ret, ret_error);
}

static int split_paths(const char *text, char ***ret)
{
    while (*text) {
        size_t n = strcspn(text, ":");
        _cleanup_free_ char *part = strndup(text, n);

        if (!part || (n > 0 && strv_append(ret, part) < 0))
            return -ENOMEM;
        text += n + (text[n] == ':');
    }
    return 0;
}

int kube_config_load(const char *path, const char *context, struct kube_config **ret, struct error **ret_error)
{
    _cleanup_(strv_freep) char **paths = NULL;
    const char *environment = getenv("KUBECONFIG"), *home = getenv("HOME");
    int r;

    if (path)
        r = strv_append(&paths, path);
    else if (environment && *environment)
        r = split_paths(environment, &paths);
    else if (getenv("KUBERNETES_SERVICE_HOST"))
        return kube_config_in_cluster(NULL, ret, ret_error);
    else
        r = strv_printf(&paths, "%s/.kube/config", home ? home : "");
    if (r < 0)
        return error_oom(ret_error);
    return load_files(paths, !path, context, ret, ret_error);
}

/* ---- in a pod --------------------------------------------------------------------------------------------------- */

static int read_member(const char *dir, const char *name, char **ret, struct error **ret_error)
{
    _cleanup_free_ char *path = NULL;
    size_t length;

    if (asprintf(&path, "%s/%s", dir, name) < 0) {
        path = NULL;
        return error_oom(ret_error);
    }
    return file_read(path, LIMIT_KUBE_CONFIG_BYTES, ret, &length, ret_error);
}

int kube_config_in_cluster(const char *dir, struct kube_config **ret, struct error **ret_error)
{
    _cleanup_(kube_config_freep) struct kube_config *c = calloc(1, sizeof(*c));
    const char *host = getenv("KUBERNETES_SERVICE_HOST"), *port = getenv("KUBERNETES_SERVICE_PORT");
    int r;

    if (!c)
        return error_oom(ret_error);
    if (!host || !*host || !port || !*port)
        return error_set(ret_error, ERROR_NOT_FOUND, ENOENT,
                         "this is no pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set");
    if (!dir)
        dir = SERVICE_ACCOUNT_DIR;
    r = read_member(dir, "ca.crt", &c->ca, ret_error);
    if (r < 0)
        return r;
    r = read_member(dir, "token", &c->token, ret_error); /* only to see that it is there: the file counts */
    if (r < 0)
        return r;
    explicit_bzero(c->token, strlen(c->token));
    free(TAKE_PTR(c->token));
    if (read_member(dir, "namespace", &c->namespace_, NULL) < 0)
        c->namespace_ = strdup("default");
    else
        c->namespace_[strcspn(c->namespace_, "\r\n")] = '\0';
    /* an IPv6 address wants brackets */
    if (asprintf(&c->server, strchr(host, ':') ? "https://[%s]:%s" : "https://%s:%s", host, port) < 0)
        c->server = NULL;
    if (asprintf(&c->token_file, "%s/token", dir) < 0)
        c->token_file = NULL;
    c->source = strdup(dir);
    if (!c->server || !c->token_file || !c->source || !c->namespace_)
        return error_oom(ret_error);
    *ret = TAKE_PTR(c);
    return 0;
}
