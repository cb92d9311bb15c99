/* SPDX-License-Identifier: Apache-2.0 */
/* virt-handler: the node's agent (docs/virt-handler.8.scd). */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/confine.h"
#include "base/event.h"
#include "base/fd.h"
#include "base/log.h"
#include "k8s/client/program.h"
#include "k8s/client/serve.h"
#include "k8s/handler/device-plugin.h"
#include "k8s/handler/node.h"
#include "k8s/handler/reconcile.h"

#include "vmlet-config.h"

static const struct device_kind kinds[] = {
    {"kvm", "/dev/kvm", "rw"},
    {"tun", "/dev/net/tun", "rw"},
    {"vhost-net", "/dev/vhost-net", "rw"},
};

struct program {
    const char *kubeconfig, *context, *node_name, *listen, *kubelet_dir, *private_dir, *host_root, *labels;
    struct guest_paths paths;
    char *pods, *plugins, *records, *network, *cpu_manager_state;

    sd_event *event;
    sd_event_source *timer;
    struct kube_client *client;
    struct device_plugin *devices[ELEMENTSOF(kinds)];
    struct node_status *node;
    struct reconciler *reconciler;
    struct kube_serve *serve;
};

enum flag {
    FLAG_KUBECONFIG,
    FLAG_CONTEXT,
    FLAG_NODE,
    FLAG_LISTEN,
    FLAG_KUBELET,
    FLAG_PRIVATE,
    FLAG_NETSETUP,
    FLAG_HOST_ROOT,
    FLAG_LABELS,
    FLAG_VERBOSE,
    FLAG_HELP,
    FLAG_VERSION,
    FLAGS,
};

static const struct program_flag flags[FLAGS] = {
    [FLAG_KUBECONFIG] = {"kubeconfig", "PATH",
                         "how to reach the cluster ($KUBECONFIG, else the pod's service account)"},
    [FLAG_CONTEXT] = {"context", "NAME", "context of the kubeconfig"},
    [FLAG_NODE] = {"node-name", "NAME", "this node ($NODE_NAME, else the host's name)"},
    [FLAG_LISTEN] = {"listen", "ADDRESS", "HOST:PORT of /healthz, /readyz and /metrics (:8185)"},
    [FLAG_KUBELET] = {"kubelet-root", "DIR", "kubelet's folder (/var/lib/kubelet)"},
    [FLAG_PRIVATE] = {"private-dir", "DIR", "what is kept across a restart (/var/run/kubevirt-private)"},
    [FLAG_NETSETUP] = {"netsetup", "PATH", "the program (/usr/sbin/netsetup)"},
    [FLAG_HOST_ROOT] = {"host-root", "DIR", "where the node's own /dev is (/)"},
    [FLAG_LABELS] = {"labels", "PATH", "labels for the node, from vmlet probe --node-labels (none)"},
    [FLAG_VERBOSE] = {"verbose", NULL, "log debug messages"},
    [FLAG_HELP] = {"help", NULL, "print this text"},
    [FLAG_VERSION] = {"version", NULL, "print the version"},
};

static void print_help(void)
{
    printf("Usage: virt-handler [OPTION]...\n\n"
           "Runs the instances of one node: devices for kubelet, network and disks for pods, the guests' states for\n"
           "their objects. One on each node, as root, with the host's process ids.\n\nOptions:\n");
    program_print_flags(&(struct program_flags){.flags = flags, .count = FLAGS, .width = 22});
    printf("\nExit status: 0 told to end; 1 failed; 2 bad arguments.\n");
}

/* -1: go on. */
static int take_flag(size_t flag, const char *value, void *userdata)
{
    struct program *p = userdata;
    const char **const texts[FLAGS] = {
        [FLAG_KUBECONFIG] = &p->kubeconfig,   [FLAG_CONTEXT] = &p->context,     [FLAG_NODE] = &p->node_name,
        [FLAG_LISTEN] = &p->listen,           [FLAG_KUBELET] = &p->kubelet_dir, [FLAG_PRIVATE] = &p->private_dir,
        [FLAG_NETSETUP] = &p->paths.netsetup, [FLAG_HOST_ROOT] = &p->host_root, [FLAG_LABELS] = &p->labels,
    };

    if (texts[flag])
        *texts[flag] = value;
    else if (flag == FLAG_VERBOSE)
        log_set_level(LOG_LEVEL_DEBUG);
    else if (flag == FLAG_HELP) {
        print_help();
        return EXIT_OK;
    } else if (flag == FLAG_VERSION) {
        printf("virt-handler %s\n", VMLET_VERSION);
        return EXIT_OK;
    }
    return -1;
}

static int parse(struct program *p, int argc, char **argv)
{
    static char host[256];
    const struct program_flags all = {
        .program = "virt-handler", .flags = flags, .count = FLAGS, .take = take_flag, .userdata = p};
    int r = program_parse(&all, argc, argv);

    if (r >= 0)
        return r;
    if (!p->node_name)
        p->node_name = getenv("NODE_NAME");
    if (!p->node_name || !*p->node_name) {
        if (gethostname(host, sizeof(host) - 1) < 0)
            return EXIT_FAILED;
        p->node_name = host;
    }
    return -1;
}

/* ---- pages ------------------------------------------------------------------------------------------------------ */

static int write_ready(struct strbuf *body, void *userdata)
{
    struct program *p = userdata;
    bool ready = p->reconciler && reconciler_is_synced(p->reconciler);

    strbuf_add_string(body, ready ? "ok\n" : "the first list of instances is not complete\n");
    return ready ? 200 : 503;
}

static int write_metrics(struct strbuf *body, void *userdata)
{
    static const struct {
        const char *name, *type, *help;
    } rows[] = {
        {"vmlet_handler_device_registered", "gauge", "kubelet watches this device plugin"},
        {"vmlet_handler_device_healthy", "gauge", "the device is there"},
        {"vmlet_handler_device_registrations_total", "counter", "registrations that kubelet has taken"},
        {"vmlet_handler_device_allocations_total", "counter", "containers that were given the device"},
    };
    struct program *p = userdata;

    for (size_t row = 0; row < ELEMENTSOF(rows); row++) {
        strbuf_printf(body, "# HELP %s %s\n# TYPE %s %s\n", rows[row].name, rows[row].help, rows[row].name,
                      rows[row].type);
        for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
            struct device_plugin_figures f;
            uint64_t values[ELEMENTSOF(rows)];

            if (!p->devices[i])
                continue;
            device_plugin_get_figures(p->devices[i], &f);
            values[0] = f.registered;
            values[1] = f.healthy;
            values[2] = f.registrations;
            values[3] = f.allocations;
            strbuf_printf(body, "%s{device=\"%s\"} %llu\n", rows[row].name, kinds[i].name,
                          (unsigned long long)values[row]);
        }
    }
    strbuf_printf(body,
                  "# HELP vmlet_handler_heartbeats_total heartbeats that the API server took\n"
                  "# TYPE vmlet_handler_heartbeats_total counter\nvmlet_handler_heartbeats_total %llu\n"
                  "# HELP vmlet_handler_node_labels labels of what guests find on this node\n"
                  "# TYPE vmlet_handler_node_labels gauge\nvmlet_handler_node_labels %zu\n"
                  "# HELP kubevirt_virt_handler_ready_status ready\n# TYPE kubevirt_virt_handler_ready_status gauge\n"
                  "kubevirt_virt_handler_ready_status %d\n",
                  (unsigned long long)node_status_count(p->node), node_status_labels(p->node),
                  reconciler_is_synced(p->reconciler));
    reconciler_write_metrics(p->reconciler, body);
    return 200;
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

/* All device plugins are with kubelet: pods may come. */
static int on_look(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct program *p = userdata;
    bool all = reconciler_is_synced(p->reconciler);

    for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
        struct device_plugin_figures f;

        device_plugin_get_figures(p->devices[i], &f);
        all = all && f.registered;
    }
    node_status_set_schedulable(p->node, all);
    return 0;
}

static void on_change(void *userdata)
{
    struct program *p = userdata;

    (void)event_arm_timer(p->event, &p->timer, 0, on_look, p);
}

static void on_left(void *userdata)
{
    struct program *p = userdata;

    sd_event_exit(p->event, EXIT_OK);
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata)
{
    struct program *p = userdata;

    log_info("told to end: no instance is placed here any more, and those that run run on");
    node_status_leave(p->node, on_left, p);
    return 0;
}

static int watch_signals(struct program *p, struct error **ret_error)
{
    int r = event_add_signal(p->event, SIGTERM, on_signal, p, NULL);

    if (r >= 0)
        r = event_add_signal(p->event, SIGINT, on_signal, p, NULL);
    return r < 0 ? error_errno(ret_error, r, "cannot wait for signals") : 0;
}

static int make_paths(struct program *p, struct error **ret_error)
{
    int r;

    if (asprintf(&p->pods, "%s/pods", p->kubelet_dir) < 0 ||
        asprintf(&p->plugins, "%s/device-plugins", p->kubelet_dir) < 0 ||
        asprintf(&p->records, "%s/ghost-records", p->private_dir) < 0 ||
        asprintf(&p->network, "%s/network-info-cache", p->private_dir) < 0 ||
        asprintf(&p->cpu_manager_state, "%s/cpu_manager_state", p->kubelet_dir) < 0)
        return error_oom(ret_error);
    p->paths.pods = p->pods;
    p->paths.records = p->records;
    p->paths.network = p->network;
    r = mkdir_parents(p->records, 0700, ret_error);
    return r < 0 ? r : mkdir_parents(p->network, 0700, ret_error);
}

static int run(struct program *p, struct error **ret_error)
{
    static const struct kube_page pages[] = {
        {"/healthz", program_write_health}, {"/readyz", write_ready}, {"/metrics", write_metrics}, {NULL, NULL}};
    struct kube_config *config = NULL;
    static const char *const refused[] = {"pivot_root", "chroot", NULL}; /* it mounts, and starts netsetup */
    int r = confine_refuse(refused, ret_error);

    if (r < 0)
        return r;
    r = event_new(&p->event);
    if (r < 0)
        return error_errno(ret_error, r, "cannot make an event loop");
    r = watch_signals(p, ret_error);
    if (r >= 0)
        r = make_paths(p, ret_error);
    if (r >= 0)
        r = kube_config_load(p->kubeconfig, p->context, &config, ret_error);
    if (r >= 0)
        r = kube_client_new(p->event, config, "virt-handler", &p->client, ret_error);
    if (r >= 0)
        r = node_status_new(&(struct node_options){.client = p->client,
                                                   .name = p->node_name,
                                                   .labels = p->labels,
                                                   .cpu_manager_state = p->cpu_manager_state},
                            &p->node, ret_error);
    if (r >= 0)
        r = reconciler_new(p->client, p->node_name, &p->paths, on_change, p, &p->reconciler, ret_error);
    for (size_t i = 0; i < ELEMENTSOF(kinds) && r >= 0; i++)
        r = device_plugin_new(p->event, &kinds[i], p->plugins, p->host_root, on_change, p, &p->devices[i], ret_error);
    if (r >= 0)
        r = kube_serve_new(p->event, p->listen, pages, p, &p->serve, ret_error);
    if (r < 0)
        return r;
    log_info("agent of node %s; health and metrics on port %u", p->node_name, kube_serve_port(p->serve));
    return sd_event_loop(p->event);
}

int main(int argc, char **argv)
{
    struct program p = {.listen = ":8185",
                        .kubelet_dir = "/var/lib/kubelet",
                        .private_dir = "/var/run/kubevirt-private",
                        .host_root = "",
                        .paths.netsetup = "/usr/sbin/netsetup"};
    _cleanup_error_ struct error *error = NULL;
    int r;

    log_init("virt-handler", LOG_LEVEL_INFO);
    program_tune_heap();
    signal(SIGPIPE, SIG_IGN);
    r = parse(&p, argc, argv);
    if (r >= 0)
        return r;
    r = run(&p, &error);
    for (size_t i = 0; i < ELEMENTSOF(kinds); i++)
        device_plugin_free(p.devices[i]); /* their sockets go; all else ends with the process */
    if (r < 0) {
        log_error_of(error, "virt-handler");
        return (int)error_exit_code(error);
    }
    return r;
}
