/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/handler/node.h"

#include "base/event.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "k8s/client/ktime.h"
#include "k8s/controller/object.h"

#define LABEL_SCHEDULABLE    "kubevirt.io/schedulable"
#define LABEL_CPU_MANAGER    "kubevirt.io/cpumanager"
#define ANNOTATION_HEARTBEAT "kubevirt.io/heartbeat"
#define ANNOTATION_SKIP      "node-labeller.kubevirt.io/skip-node"

struct node_status {
    struct kube_client *client;
    const char *name;
    sd_event_source *timer;
    struct kube_call *call;
    const char *cpu_manager_state; /* path of kubelet's */
    json_t *labels;                /* what the node offers; NULL: not known */
    json_t *change;                /* by which the node's labels become these, as of the last answer; NULL: none */
    bool schedulable, again;
    unsigned failures;
    uint64_t count;
    void (*left)(void *userdata);
    void *userdata;
};

static const struct kube_resource resource_nodes = {"", "v1", "nodes", "Node", true};

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata);

/* Does kubelet give whole CPUs to pods? Its state file says by which policy it does. */
static bool has_cpu_manager(const struct node_status *node)
{
    _cleanup_free_ char *text = NULL;
    size_t length;
    json_t *state;
    bool is_static;

    if (file_read(node->cpu_manager_state, LIMIT_HANDLER_RECORD_BYTES, &text, &length, NULL) < 0)
        return false;
    state = json_loadb(text, length, 0, NULL);
    is_static = streq(GET_TEXT(state, "policyName"), "static");
    json_decref(state);
    return is_static;
}

static bool is_managed(const char *label)
{
    static const char *const prefixes[] = {"cpu-model.node.kubevirt.io/", "cpu-feature.node.kubevirt.io/",
                                           "machine-type.node.kubevirt.io/", "cpu-vendor.node.kubevirt.io/",
                                           "hyperv.node.kubevirt.io/"};

    for (size_t i = 0; i < ELEMENTSOF(prefixes); i++)
        if (startswith(label, prefixes[i]))
            return true;
    return false;
}

json_t *node_labels_change(const json_t *node, const json_t *labels)
{
    const json_t *now = GET(node, "metadata", "labels");
    json_t *change = json_object(), *value;
    const char *name;

    if (labels && !streq(GET_TEXT(node, "metadata", "annotations", ANNOTATION_SKIP), "true")) {
        json_object_foreach ((json_t *)(uintptr_t)labels, name, value)
            if (!json_equal(value, json_object_get(now, name)))
                json_object_set(change, name, value);
        json_object_foreach ((json_t *)(uintptr_t)now, name, value)
            if (is_managed(name) && !json_object_get(labels, name))
                json_object_set_new(change, name, json_null());
    }
    if (json_object_size(change) > 0)
        return change;
    json_decref(change);
    return NULL;
}

static void on_written(const struct kube_reply *reply, void *userdata)
{
    struct node_status *node = userdata;
    uint64_t delay = kube_jitter(HANDLER_HEARTBEAT_USEC);

    node->call = NULL;
    if (reply->error) {
        delay = kube_backoff(node->failures++, USEC_PER_SEC, HANDLER_HEARTBEAT_USEC);
        log_warning_of(reply->error, "the heartbeat of node %s was not written", node->name);
    } else {
        bool had = node->change != NULL;

        node->failures = 0;
        node->count++;
        json_decref(node->change);
        node->change = node_labels_change(reply->body, node->labels);
        /* at once, but who takes them away again is not fought about: that waits for the next heartbeat */
        node->again = node->again || (node->change && !had);
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
    json_t *body, *labels;
    struct kube_request request = {.verb = KUBE_PATCH_MERGE, .resource = &resource_nodes, .name = node->name};
    int r = -ENOMEM;

    kube_time(kube_now(), time);
    labels = json_pack("{s:s, s:s}", LABEL_SCHEDULABLE, node->schedulable ? "true" : "false", LABEL_CPU_MANAGER,
                       has_cpu_manager(node) ? "true" : "false");
    if (labels && node->change)
        json_object_update(labels, node->change);
    body = json_pack("{s:{s:o, s:{s:s}}}", "metadata", "labels", labels, "annotations", ANNOTATION_HEARTBEAT, time);
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

/* Written by another container of the pod before this one was started. */
static void load_labels(struct node_status *node, const char *path)
{
    _cleanup_error_ struct error *error = NULL;
    _cleanup_free_ char *text = NULL;
    size_t length;
    json_error_t fault;
    int r = file_read(path, LIMIT_HANDLER_OUTPUT_BYTES, &text, &length, &error);

    node->labels = r >= 0 ? json_loadb(text, length, JSON_REJECT_DUPLICATES, &fault) : NULL;
    if (r < 0)
        log_warning_of(error, "the node's CPU models and machine types get no labels");
    else if (!json_is_object(node->labels)) {
        log_warning("the node's CPU models and machine types get no labels: %s is no JSON object (see the log of the "
                    "container that wrote it)",
                    path);
        json_decref(node->labels);
        node->labels = NULL;
    }
}

int node_status_new(const struct node_options *options, struct node_status **ret, struct error **ret_error)
{
    struct node_status *node = calloc(1, sizeof(*node));

    if (!node)
        return error_oom(ret_error);
    node->client = options->client;
    node->name = options->name;
    node->cpu_manager_state = options->cpu_manager_state;
    if (options->labels)
        load_labels(node, options->labels);
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
    json_decref(node->labels);
    json_decref(node->change);
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

size_t node_status_labels(const struct node_status *node)
{
    return json_object_size(node->labels);
}
