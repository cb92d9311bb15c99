/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/handler/node.h"

#include "base/event.h"
#include "base/limits.h"
#include "base/log.h"
#include "k8s/client/ktime.h"

#define LABEL_SCHEDULABLE    "kubevirt.io/schedulable"
#define ANNOTATION_HEARTBEAT "kubevirt.io/heartbeat"

struct node_status {
    struct kube_client *client;
    const char *name;
    sd_event_source *timer;
    struct kube_call *call;
    bool schedulable, again;
    unsigned failures;
    uint64_t count;
    void (*left)(void *userdata);
    void *userdata;
};

static const struct kube_resource resource_nodes = {"", "v1", "nodes", "Node", true};

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata);

static void on_written(const struct kube_reply *reply, void *userdata)
{
    struct node_status *node = userdata;
    uint64_t delay = kube_jitter(HANDLER_HEARTBEAT_USEC);

    node->call = NULL;
    if (reply->error) {
        delay = kube_backoff(node->failures++, USEC_PER_SEC, HANDLER_HEARTBEAT_USEC);
        log_warning_of(reply->error, "the heartbeat of node %s was not written", node->name);
    } else {
        node->failures = 0;
        node->count++;
    }
    if (node->left) {
        node->left(node->userdata);
        return;
    }
    (void)event_arm_timer(kube_client_event(node->client), &node->timer, node->again ? 0 : delay, on_timer, node);
    node->again = false;
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct node_status *node = userdata;
    char time[KUBE_TIME_SIZE];
    json_t *body;
    struct kube_request request = {.verb = KUBE_PATCH_MERGE, .resource = &resource_nodes, .name = node->name};
    int r = -ENOMEM;

    kube_time(kube_now(), time);
    body = json_pack("{s:{s:{s:s}, s:{s:s}}}", "metadata", "labels", LABEL_SCHEDULABLE,
                     node->schedulable ? "true" : "false", "annotations", ANNOTATION_HEARTBEAT, time);
    request.body = body;
    if (body)
        r = kube_call_start(node->client, &request, on_written, node, &node->call, NULL);
    json_decref(body);
    if (r < 0)
        (void)event_arm_timer(kube_client_event(node->client), &node->timer, USEC_PER_SEC, on_timer, node);
    return 0;
}

static void write_soon(struct node_status *node)
{
    if (node->call)
        node->again = true;
    else
        (void)event_arm_timer(kube_client_event(node->client), &node->timer, 0, on_timer, node);
}

int node_status_new(struct kube_client *client, const char *name, struct node_status **ret, struct error **ret_error)
{
    struct node_status *node = calloc(1, sizeof(*node));

    if (!node)
        return error_oom(ret_error);
    node->client = client;
    node->name = name;
    write_soon(node);
    *ret = node;
    return 0;
}

void node_status_free(struct node_status *node)
{
    if (!node)
        return;
    kube_call_cancel(node->call);
    sd_event_source_disable_unref(node->timer);
    free(node);
}

void node_status_set_schedulable(struct node_status *node, bool schedulable)
{
    if (node->schedulable == schedulable || node->left)
        return;
    node->schedulable = schedulable;
    write_soon(node);
}

void node_status_leave(struct node_status *node, void (*done)(void *userdata), void *userdata)
{
    kube_call_cancel(node->call);
    node->call = NULL;
    node->schedulable = false;
    node->left = done;
    node->userdata = userdata;
    write_soon(node);
}

uint64_t node_status_count(const struct node_status *node)
{
    return node->count;
}
