/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client, driven by tests: `kube-watcher KUBECONFIG watch` prints what an informer of ConfigMaps sees, a line each,
 * until its standard input ends; `… get NAME` prints one object or its error.
 */
#include <stdio.h>
#include <unistd.h>

#include "base/event.h"
#include "k8s/client/informer.h"

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

int main(int argc, char **argv)
{
    _cleanup_(sd_event_unrefp) sd_event *event = NULL;
    _cleanup_(kube_client_freep) struct kube_client *client = NULL;
    _cleanup_(kube_informer_freep) struct kube_informer *informer = NULL;
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
