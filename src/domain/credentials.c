/* SPDX-License-Identifier: Apache-2.0 */
/*
 * accessCredentials that the guest agent brings into the guest: SSH keys and passwords, from the secrets that the pod
 * has mounted. Applied when the agent first answers, and again whenever a secret changes: kubelet then renames another
 * directory over the link ..data, and whoever watches the directory sees that name move. Not applied again merely
 * because the guest rebooted: a password that was changed in the guest stays.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/strbuf.h"
#include "domain/domain-internal.h"

/* One thing that the agent is to do. */
struct task {
    struct task *next;
    char *user;
    char *password; /* base64; NULL: the keys */
    size_t password_length;
    json_t *keys; /* array of lines */
};

struct credentials {
    struct domain *domain;
    char *secret_dir;
    int watch_fd;
    sd_event_source *watch, *timer;
    struct task *tasks; /* that are not done yet; the first is under way */
    unsigned epoch;     /* an answer to a question of before the agent's channel was reset does not count */
    uint64_t applied;   /* fingerprint of the secrets that are in the guest; 0: none */
    uint64_t applying;  /* of those that the tasks bring */
    uint64_t retry;     /* the next pause after a failure */
    json_t *result;     /* KubeVirt's metadata AccessCredential; NULL: nothing was tried yet */
};

static int on_timer(sd_event_source *source, uint64_t at, void *userdata);
static void next_task(struct credentials *c);

static void task_free(struct task *task)
{
    if (!task)
        return;
    if (task->password)
        explicit_bzero(task->password, task->password_length);
    free(task->password);
    free(task->user);
    json_decref(task->keys);
    free(task);
}

static void drop_tasks(struct credentials *c)
{
    struct task *task;

    while ((task = c->tasks)) {
        c->tasks = task->next;
        task_free(task);
    }
}

static bool is_ours(const struct vmi_access_credential *credential)
{
    return credential->guest_agent && credential->secret_name;
}

#define FOREACH_CREDENTIAL(item, c)                                                                                    \
    for (const struct vmi_access_credential *item = (c)->domain->vmi->spec.access_credentials.items,                   \
                                            *end_ = item + (c)->domain->vmi->spec.access_credentials.count;            \
         item < end_; item++)                                                                                          \
        if (is_ours(item))

/* ---- reading the secrets --------------------------------------------------------------------------------------- */

static char *secret_path(const struct credentials *c, const struct vmi_access_credential *credential)
{
    char *path;

    return asprintf(&path, "%s/%s-access-cred", c->secret_dir, credential->secret_name) < 0 ? NULL : path;
}

static uint64_t mix(uint64_t hash, const void *data, size_t length)
{
    for (const unsigned char *p = data; length > 0; p++, length--)
        hash = (hash ^ *p) * 0x100000001b3ULL; /* FNV-1a */
    return hash;
}

typedef int (*secret_fn)(const char *name, const char *path, void *userdata, struct error **ret_error);

/* Every key of a secret; kubelet's own names in the directory begin with "..". */
static int each_key(const char *dir, secret_fn fn, void *userdata, struct error **ret_error)
{
    DIR *stream = opendir(dir);
    struct dirent *entry;
    int r = 0;

    if (!stream)
        return error_errno(ret_error, errno, "cannot read the secret in %s", dir);
    while (r >= 0 && (entry = readdir(stream))) {
        _cleanup_free_ char *path = NULL;

        if (entry->d_name[0] == '.')
            continue;
        if (asprintf(&path, "%s/%s", dir, entry->d_name) < 0) {
            path = NULL;
            r = error_oom(ret_error);
        } else {
            r = fn(entry->d_name, path, userdata, ret_error);
        }
    }
    closedir(stream);
    return r;
}

/* By what a file is, not by what it holds: no sum of a password is kept anywhere. */
static int add_fingerprint(const char *name, const char *path, void *userdata, struct error **ret_error)
{
    uint64_t *sum = userdata, hash = 0xcbf29ce484222325ULL;
    struct stat st;

    if (stat(path, &st) < 0)
        return error_errno(ret_error, errno, "cannot read %s", path);
    hash = mix(hash, name, strlen(name));
    hash = mix(hash, &st.st_ino, sizeof(st.st_ino));
    hash = mix(hash, &st.st_size, sizeof(st.st_size));
    hash = mix(hash, &st.st_mtim, sizeof(st.st_mtim));
    *sum += hash; /* whatever the order of the directory's entries */
    return 0;
}

static uint64_t fingerprint(const struct credentials *c)
{
    uint64_t sum = 1;

    FOREACH_CREDENTIAL(credential, c)
    {
        _cleanup_free_ char *path = secret_path(c, credential);

        if (path)
            each_key(path, add_fingerprint, &sum, NULL);
        sum = mix(sum, "|", 1);
    }
    return sum ? sum : 1;
}

static struct task *add_task(struct credentials *c, const char *user)
{
    struct task *task = calloc(1, sizeof(*task)), **at = &c->tasks;

    if (!task)
        return NULL;
    task->user = strdup(user);
    if (!task->user) {
        task_free(task);
        return NULL;
    }
    while (*at)
        at = &(*at)->next;
    *at = task;
    return task;
}

static int add_password(const char *name, const char *path, void *userdata, struct error **ret_error)
{
    struct credentials *c = userdata;
    char *data = NULL;
    size_t length = 0;
    struct task *task;
    int r = file_read(path, LIMIT_CREDENTIAL_BYTES, &data, &length, ret_error);

    if (r < 0)
        return r;
    while (length > 0 && (data[length - 1] == '\n' || data[length - 1] == '\r' || data[length - 1] == ' '))
        length--;
    task = add_task(c, name);
    if (task) {
        task->password = base64_encode(data, length);
        task->password_length = task->password ? strlen(task->password) : 0;
    }
    explicit_bzero(data, length);
    free(data);
    return task && task->password ? 0 : error_oom(ret_error);
}

/* The lines of a file of keys, without comments. */
static int add_keys(const char *name, const char *path, void *userdata, struct error **ret_error)
{
    _cleanup_free_ char *data = NULL;
    json_t *keys = userdata;
    char *rest, *line;
    int r = file_read(path, LIMIT_CREDENTIAL_BYTES, &data, NULL, ret_error);

    if (r < 0)
        return r;
    for (line = strtok_r(data, "\r\n", &rest); line; line = strtok_r(NULL, "\r\n", &rest)) {
        json_t *key;

        line += strspn(line, " \t");
        if (!*line || *line == '#')
            continue;
        key = json_string(line);
        if (!key)
            return error_set(ret_error, ERROR_BAD_DATA, EILSEQ, "%s is no text", path);
        json_array_append_new(keys, key);
    }
    return 0;
}

static struct task *keys_task(struct credentials *c, const char *user)
{
    struct task *task = c->tasks;

    while (task && (!task->keys || !streq(task->user, user)))
        task = task->next;
    if (!task) {
        task = add_task(c, user);
        if (task)
            task->keys = json_array();
    }
    return task;
}

/* One credential's work. A user gets the keys of all secrets that name it, in one task. */
static int plan(struct credentials *c, const struct vmi_access_credential *credential, struct error **ret_error)
{
    _cleanup_free_ char *dir = secret_path(c, credential);
    int r = 0;

    if (!dir)
        return error_oom(ret_error);
    if (credential->is_password)
        return each_key(dir, add_password, c, ret_error);
    for (size_t i = 0; i < credential->users.count && r >= 0; i++) {
        struct task *task = keys_task(c, credential->users.items[i]);

        r = task ? each_key(dir, add_keys, task->keys, ret_error) : error_oom(ret_error);
    }
    return r;
}

/* ---- the outcome ------------------------------------------------------------------------------------------------- */

static void tell(struct credentials *c, const struct error *error)
{
    struct domain *d = c->domain;
    json_t *result = json_pack("{s:b, s:s}", "Succeeded", error == NULL, "Message", error ? error_message(error) : "");

    if (!json_equal(result, c->result))
        event_log_add(d->events, "Agent", error ? "AccessCredentialsSyncFailed" : "AccessCredentialsSyncSuccess",
                      json_pack("{s:O}", "accessCredential", result), error ? "%s%s" : "%s",
                      error ? "the access credentials are not in the guest: "
                            : "the guest has the access credentials of the manifest's secrets",
                      error ? error_message(error) : "");
    json_decref(c->result);
    c->result = result;
    domain_save_state(d);
}

static void give_up_for_now(struct credentials *c, const struct error *error)
{
    drop_tasks(c);
    tell(c, error);
    c->retry = c->retry ? MIN(c->retry * 2, (uint64_t)CREDENTIALS_RETRY_MAX_USEC) : CREDENTIALS_RETRY_MIN_USEC;
    if (event_arm_timer(c->domain->event, &c->timer, c->retry, on_timer, c) < 0)
        log_warning("cannot arm the timer of the access credentials");
}

static void finish(struct credentials *c)
{
    c->applied = c->applying;
    c->retry = 0;
    tell(c, NULL);
    if (c->watch_fd < 0 && event_arm_timer(c->domain->event, &c->timer, CREDENTIALS_LOOK_USEC, on_timer, c) < 0)
        log_warning("cannot arm the timer of the access credentials");
}

/* ---- the agent --------------------------------------------------------------------------------------------------- */

struct question {
    struct credentials *credentials;
    unsigned epoch;
};

static struct question *ask(struct credentials *c)
{
    struct question *q = malloc(sizeof(*q));

    if (q)
        *q = (struct question){c, c->epoch};
    return q;
}

/* The credentials that asked, if they still want the answer. */
static struct credentials *answered(struct question *q)
{
    struct credentials *c = q->credentials;
    bool current = q->epoch == c->epoch && c->tasks;

    free(q);
    return current ? c : NULL;
}

static void task_done(struct credentials *c, const struct error *error, const char *what)
{
    struct task *task = c->tasks;

    if (error) {
        _cleanup_error_ struct error *e = error_copy(error);

        error_wrap(&e, 0, "%s of the user %s", what, task->user);
        give_up_for_now(c, e);
        return;
    }
    c->tasks = task->next;
    task_free(task);
    next_task(c);
}

static void on_password(struct qga_client *agent, json_t *result, const struct error *error, void *userdata)
{
    struct credentials *c = answered(userdata);

    if (c)
        task_done(c, error, "the password");
}

static void on_key_file(struct qga_client *agent, json_t *result, const struct error *error, void *userdata)
{
    struct credentials *c = answered(userdata);
    json_int_t code = json_integer_value(json_object_get(result, "exitcode"));
    _cleanup_error_ struct error *e = NULL;

    if (!c)
        return;
    if (!error && code != 0) {
        const char *said = json_string_value(json_object_get(result, "err"));

        error_set(&e, ERROR_AGENT, EIO, "writing authorized_keys in the guest ended with %lld: %.200s", (long long)code,
                  said ? said : "");
    }
    task_done(c, error ? error : e, "the SSH keys");
}

/* For an agent without guest-ssh-add-authorized-keys (before 5.2, or told not to have it). */
static int write_key_file(struct credentials *c, struct task *task)
{
    static const char script[] =
        "set -e\n"
        "entry=$(getent passwd \"$1\" 2>/dev/null || grep \"^$1:\" /etc/passwd) || { echo no such user >&2; exit 1; }\n"
        "home=$(echo \"$entry\" | cut -d: -f6) group=$(echo \"$entry\" | cut -d: -f4)\n"
        "umask 077\n"
        "mkdir -p \"$home/.ssh\"\n"
        "cat >\"$home/.ssh/authorized_keys.new\"\n"
        "chown \"$1:$group\" \"$home/.ssh\" \"$home/.ssh/authorized_keys.new\"\n"
        "mv \"$home/.ssh/authorized_keys.new\" \"$home/.ssh/authorized_keys\"\n";
    _cleanup_(strbuf_done) struct strbuf text = {0};
    struct question *q = ask(c);
    json_t *key;
    size_t i;
    int r;

    json_array_foreach (task->keys, i, key)
        strbuf_printf(&text, "%s\n", json_string_value(key));
    r = !q || text.failed
            ? -ENOMEM
            : qga_client_exec(c->domain->agent, "/bin/sh", json_pack("[s, s, s, s]", "-c", script, "sh", task->user),
                              strbuf_text(&text), 0, on_key_file, q);
    if (r < 0)
        free(q);
    return r;
}

static void on_keys(struct qga_client *agent, json_t *result, const struct error *error, void *userdata)
{
    struct credentials *c = answered(userdata);
    const char *class = error_qmp_class(error);

    if (!c)
        return;
    if (error && class && streq(class, "CommandNotFound") && write_key_file(c, c->tasks) >= 0)
        return;
    task_done(c, error, "the SSH keys");
}

static void next_task(struct credentials *c)
{
    struct task *task = c->tasks;
    struct question *q;
    int r;

    if (!task) {
        finish(c);
        return;
    }
    q = ask(c);
    if (!q)
        r = -ENOMEM;
    else if (task->password)
        r = qga_client_call(
            c->domain->agent, "guest-set-user-password",
            json_pack("{s:s, s:s, s:b}", "username", task->user, "password", task->password, "crypted", 0), 0,
            on_password, q);
    else /* reset: the file then has these keys and no others, as with KubeVirt */
        r = qga_client_call(c->domain->agent, "guest-ssh-add-authorized-keys",
                            json_pack("{s:s, s:O, s:b}", "username", task->user, "keys", task->keys, "reset", 1), 0,
                            on_keys, q);
    if (r < 0) {
        _cleanup_error_ struct error *e = NULL;

        free(q);
        error_errno(&e, r, "the guest agent cannot be asked");
        give_up_for_now(c, e);
    }
}

/* ---- when -------------------------------------------------------------------------------------------------------- */

/* Watches the directories of the secrets that are there; the others are looked for at each try. */
static void watch_secrets(struct credentials *c)
{
    FOREACH_CREDENTIAL(credential, c)
    {
        _cleanup_free_ char *path = secret_path(c, credential);

        if (path && c->watch_fd >= 0)
            inotify_add_watch(c->watch_fd, path, IN_MOVED_TO | IN_DELETE | IN_CLOSE_WRITE | IN_ONLYDIR);
    }
}

static void synchronise(struct credentials *c)
{
    _cleanup_error_ struct error *e = NULL;
    int r = 0;

    event_disarm_timer(c->timer);
    if (!c->domain->agent_connected || c->domain->lifecycle.state != DOMAIN_RUNNING)
        return;
    c->epoch++;
    drop_tasks(c);
    watch_secrets(c); /* before they are read: a change in between is seen afterwards */
    c->applying = fingerprint(c);
    if (c->applying == c->applied) {
        if (c->watch_fd < 0)
            event_arm_timer(c->domain->event, &c->timer, CREDENTIALS_LOOK_USEC, on_timer, c);
        return;
    }
    FOREACH_CREDENTIAL(credential, c)
    {
        if (r >= 0)
            r = plan(c, credential, &e);
    }
    if (r < 0)
        give_up_for_now(c, e);
    else
        next_task(c);
}

static int on_timer(sd_event_source *source, uint64_t at, void *userdata)
{
    synchronise(userdata);
    return 0;
}

static int on_changed(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    struct credentials *c = userdata;
    char events[4096];

    while (read(fd, events, sizeof(events)) > 0)
        ;
    /* kubelet changes several names: when it is done with all of them */
    if (event_arm_timer(c->domain->event, &c->timer, CREDENTIALS_SETTLE_USEC, on_timer, c) < 0)
        synchronise(c);
    return 0;
}

void credentials_start(struct credentials *c)
{
    if (!c)
        return;
    c->retry = 0;
    synchronise(c);
}

void credentials_stop(struct credentials *c)
{
    if (!c)
        return;
    c->epoch++;
    drop_tasks(c);
    event_disarm_timer(c->timer);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

int credentials_new(struct domain *d, const char *secret_dir, struct credentials **ret)
{
    struct credentials scan = {.domain = d}, *c;
    bool any = false;

    FOREACH_CREDENTIAL(credential, &scan)
    any = true;
    if (!any || !secret_dir)
        return 0;
    c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->domain = d;
    c->secret_dir = strdup(secret_dir);
    c->watch_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (c->watch_fd >= 0 && sd_event_add_io(d->event, &c->watch, c->watch_fd, EPOLLIN, on_changed, c) < 0)
        c->watch_fd = fd_close(c->watch_fd);
    if (c->watch_fd < 0)
        log_warning("the secrets with access credentials cannot be watched: they are looked at every %llu s",
                    CREDENTIALS_LOOK_USEC / USEC_PER_SEC);
    if (!c->secret_dir) {
        credentials_free(c);
        return -ENOMEM;
    }
    *ret = c;
    return 0;
}

json_t *credentials_get_result(const struct credentials *c)
{
    return c ? c->result : NULL;
}

json_t *credentials_to_state(const struct credentials *c)
{
    return c && c->result ? json_pack("{s:O, s:o}", "result", c->result, "applied",
                                      json_sprintf("%016llx", (unsigned long long)c->applied))
                          : NULL;
}

void credentials_take_up(struct credentials *c, const json_t *state)
{
    const char *applied = json_string_value(json_object_get(state, "applied"));
    json_t *result = json_object_get(state, "result");

    if (!c || !applied || !json_is_object(result))
        return;
    c->applied = strtoull(applied, NULL, 16);
    json_decref(c->result);
    c->result = json_incref(result);
}

void credentials_free(struct credentials *c)
{
    if (!c)
        return;
    drop_tasks(c);
    sd_event_source_disable_unref(c->watch);
    sd_event_source_disable_unref(c->timer);
    fd_close(c->watch_fd);
    json_decref(c->result);
    free(c->secret_dir);
    free(c);
}
