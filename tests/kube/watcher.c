/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client, driven by tests: `kube-watcher KUBECONFIG watch` prints what an informer of ConfigMaps sees, a line each,
 * until its standard input ends; `… get NAME` prints one object or its error; `… call REQUEST` sends what the JSON
 * object REQUEST says (the members of struct kube_request) and prints the answer; `… record` writes an Event of the
 * default namespace's ConfigMap "subject" for each line "REASON MESSAGE" of its standard input; `… lease NAMESPACE
 * IDENTITY` prints when it leads and when not, and gives the lease away when its input ends.
 */
#include <stdio.h>
#include <unistd.h>

#include "base/event.h"
#include "k8s/client/informer.h"
#include "k8s/client/lease.h"
#include "k8s/client/recorder.h"

static const struct kube_resource config_maps = {"", "v1", "configmaps", "ConfigMap", false};

static void on_change(const struct kube_object *before, const struct kube_object *now, void *userdata)
{
    const struct kube_object *o = now ? now : before;

    printf("%s %s %s\n", !before ? "add" : !now ? "delete" : "update", o->name, o->resource_version);
    fflush(stdout);
}

static void on_synced(void *userdata)
{
    printf("synced\n");
    fflush(stdout);
}

static int on_input(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
    char buffer[64];

    if (read(fd, buffer, sizeof(buffer)) <= 0)
        return sd_event_exit(sd_event_source_get_event(source), 0);
    return 0;
}

static void on_reply(const struct kube_reply *reply, void *userdata)
{
    if (reply->error)
        printf("error %s %ld %s %s\n", error_code_name(error_get_code(reply->error)), reply->status, reply->reason,
               error_message(reply->error));
    else
        printf("ok %s\n", json_string_value(json_object_get(json_object_get(reply->body, "metadata"), "name")));
    sd_event_exit(userdata, 0);
}

/* ---- any call --------------------------------------------------------------------------------------------------- */

static void on_answer(const struct kube_reply *reply, void *userdata)
{
    char *text = reply->body ? json_dumps(reply->body, JSON_COMPACT) : NULL;

    if (reply->error)
        printf("error %s %ld %s %s\n", error_code_name(error_get_code(reply->error)), reply->status, reply->reason,
               error_message(reply->error));
    else
        printf("ok %ld %s\n", reply->status, text ? text : "");
    free(text);
    sd_event_exit(userdata, 0);
}

static const char *text_of(const json_t *request, const char *key)
{
    return json_string_value(json_object_get(request, key));
}

static int start_call(struct kube_client *client, const char *text, struct error **ret_error)
{
    static const char *const verbs[] = {
        [KUBE_GET] = "get",         [KUBE_LIST] = "list",         [KUBE_WATCH] = "watch",
        [KUBE_CREATE] = "create",   [KUBE_UPDATE] = "update",     [KUBE_DELETE] = "delete",
        [KUBE_PATCH_JSON] = "json", [KUBE_PATCH_MERGE] = "merge", [KUBE_APPLY] = "apply"};
    json_auto_t *r = json_loads(text, 0, NULL);
    struct kube_resource resource = {.group = text_of(r, "group") ? text_of(r, "group") : "",
                                     .version = text_of(r, "version") ? text_of(r, "version") : "v1",
                                     .plural = text_of(r, "plural"),
                                     .cluster_scoped = json_is_true(json_object_get(r, "cluster"))};
    struct kube_request q = {
        .resource = &resource,
        .namespace_ = text_of(r, "namespace"),
        .name = text_of(r, "name"),
        .subresource = text_of(r, "subresource"),
        .body = json_object_get(r, "body"),
        .resource_version = text_of(r, "resourceVersion"),
        .uid = text_of(r, "uid"),
        .manager = text_of(r, "manager"),
        .grace_seconds = json_integer_value(json_object_get(r, "grace")),
        .force = json_is_true(json_object_get(r, "force")),
        .strict = json_is_true(json_object_get(r, "strict")),
        .dry_run = json_is_true(json_object_get(r, "dryRun")),
        .deadline_usec = (uint64_t)json_integer_value(json_object_get(r, "deadline")) * 1000,
    };

    while (text_of(r, "verb") && q.verb <= KUBE_APPLY && !streq(verbs[q.verb], text_of(r, "verb")))
        q.verb++;
    return kube_call_start(client, &q, on_answer, kube_client_event(client), NULL, ret_error);
}

/* ---- Events ----------------------------------------------------------------------------------------------------- */

static int on_record(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
    static const struct kube_subject about = {"v1", "ConfigMap", "default", "subject", "some-uid"};
    char buffer[65536];
    ssize_t n = read(fd, buffer, sizeof(buffer) - 1);

    if (n <= 0)
        return sd_event_exit(sd_event_source_get_event(source), 0);
    buffer[n] = '\0';
    for (char *line = strtok(buffer, "\n"); line; line = strtok(NULL, "\n")) {
        char *message = strchr(line, ' ');

        *message++ = '\0';
        kube_record(userdata, &about, true, strdupa(line), "%s", message);
    }
    return 0;
}

/* ---- the lease -------------------------------------------------------------------------------------------------- */

static void say(const char *text)
{
    printf("%s\n", text);
    fflush(stdout);
}

static void on_started(void *userdata)
{
    say("leads");
}

static void on_stopped(void *userdata)
{
    say("lost");
}

static void on_released(void *userdata)
{
    say("released");
    sd_event_exit(userdata, 0);
}

static int on_lease_input(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
    sd_event_source_set_enabled(source, SD_EVENT_OFF);
    kube_lease_release(*(struct kube_lease **)userdata, on_released, sd_event_source_get_event(source));
    return 0;
}

int main(int argc, char **argv)
{

    _cleanup_(sd_event_unrefp) sd_event *event = NULL;
    _cleanup_(kube_client_freep) struct kube_client *client = NULL;
    _cleanup_(kube_informer_freep) struct kube_informer *informer = NULL;
    _cleanup_(kube_recorder_freep) struct kube_recorder *recorder = NULL;
    _cleanup_(kube_lease_freep) struct kube_lease *lease = NULL;
    _cleanup_error_ struct error *error = NULL;
    struct kube_config *config = NULL;
    struct kube_informer_figures figures;
    int r;

    if (argc < 3 || event_new(&event) < 0)
        return 2;
    r = kube_config_load(argv[1], NULL, &config, &error);
    if (r >= 0)
        r = kube_client_new(event, config, "kube-watcher", &client, &error);
    if (r >= 0 && streq(argv[2], "get")) {
        struct kube_request q = {.verb = KUBE_GET,
                                 .resource = &config_maps,
                                 .namespace_ = kube_client_config(client)->namespace_,
                                 .name = argv[3]};

        r = kube_call_start(client, &q, on_reply, event, NULL, &error);
    } else if (r >= 0 && streq(argv[2], "call")) {
        r = start_call(client, argv[3], &error);
    } else if (r >= 0 && streq(argv[2], "record")) {
        r = kube_recorder_new(client, "kube-watcher", NULL, &recorder);
        if (r >= 0)
            r = sd_event_add_io(event, NULL, STDIN_FILENO, EPOLLIN, on_record, recorder);
    } else if (r >= 0 && streq(argv[2], "lease")) {
        struct kube_lease_options o = {
            .namespace_ = argv[3], .name = "test", .identity = argv[4], .started = on_started, .stopped = on_stopped};

        r = kube_lease_new(client, &o, &lease, &error);
        if (r >= 0)
            r = sd_event_add_io(event, NULL, STDIN_FILENO, EPOLLIN, on_lease_input, &lease);
    } else if (r >= 0) {
        struct kube_informer_options o = {
            .resource = &config_maps, .page = 2, .changed = on_change, .synced = on_synced};

        r = kube_informer_new(client, &o, &informer, &error);
        if (r >= 0)
            r = sd_event_add_io(event, NULL, STDIN_FILENO, EPOLLIN, on_input, NULL);
    }
    if (r >= 0)
        r = sd_event_loop(event);
    if (r < 0) {
        printf("error %s\n", error ? error_message(error) : strerror(-r));
        return 1;
    }
    if (informer) {
        kube_informer_get_figures(informer, &figures);
        printf("end objects=%zu bytes=%zu lists=%llu watches=%llu\n", kube_informer_count(informer), figures.bytes,
               (unsigned long long)figures.lists, (unsigned long long)figures.watches);
    }
    return 0;
}
