/* SPDX-License-Identifier: Apache-2.0 */
/* virt-controller: VirtualMachines, their instances and launcher pods (docs/virt-controller.8.scd). */
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "base/confine.h"
#include "base/event.h"
#include "base/log.h"
#include "base/strv.h"
#include "k8s/client/lease.h"
#include "k8s/client/program.h"
#include "k8s/client/serve.h"
#include "k8s/controller/controller.h"

#include "vmlet-config.h"

struct program {
    const char *kubeconfig, *context, *namespace_, *lease_namespace, *listen, *identity;
    bool leader_elect;
    struct controller_options options;
    char **pull_secrets;
    char host[256];

    sd_event *event;
    struct kube_client *client;
    struct controller *controller;
    struct kube_lease *lease;
    struct kube_serve *serve;
    bool leads;
};

enum flag {
    FLAG_KUBECONFIG,
    FLAG_CONTEXT,
    FLAG_NAMESPACE,
    FLAG_LAUNCHER_IMAGE,
    FLAG_PULL_POLICY,
    FLAG_PULL_SECRET,
    FLAG_EMULATION,
    FLAG_CPU_RATIO,
    FLAG_ARCH,
    FLAG_LISTEN,
    FLAG_NO_ELECTION,
    FLAG_LEASE_NAMESPACE,
    FLAG_IDENTITY,
    FLAG_VERBOSE,
    FLAG_HELP,
    FLAG_VERSION,
    FLAGS,
};

static const struct program_flag flags[FLAGS] = {
    [FLAG_KUBECONFIG] = {"kubeconfig", "PATH",
                         "how to reach the cluster ($KUBECONFIG, else the pod's service account)"},
    [FLAG_CONTEXT] = {"context", "NAME", "context of the kubeconfig"},
    [FLAG_NAMESPACE] = {"namespace", "NAME", "care for one namespace only (all)"},
    [FLAG_LAUNCHER_IMAGE] = {"launcher-image", "IMAGE", "image of the launcher pods ($LAUNCHER_IMAGE)"},
    [FLAG_PULL_POLICY] = {"image-pull-policy", "POLICY", "of that image: Always, IfNotPresent, Never"},
    [FLAG_PULL_SECRET] = {"image-pull-secret", "NAME", "secret for registries, in the VM's namespace; may be repeated"},
    [FLAG_EMULATION] = {"use-emulation", NULL, "nodes need no KVM: guests are emulated"},
    [FLAG_CPU_RATIO] = {"cpu-allocation-ratio", "N", "vCPUs for each CPU that a pod asks for (10)"},
    [FLAG_ARCH] = {"default-arch", "ARCH", "of VMs that name none: amd64 (the default), arm64, s390x"},
    [FLAG_LISTEN] = {"listen", "ADDRESS", "HOST:PORT of /healthz, /readyz and /metrics (:8443)"},
    [FLAG_NO_ELECTION] = {"no-leader-election", NULL, "write at once: nobody else does (for tests)"},
    [FLAG_LEASE_NAMESPACE] = {"lease-namespace", "NAME",
                              "of the lease virt-controller ($POD_NAMESPACE, else kubevirt)"},
    [FLAG_IDENTITY] = {"identity", "NAME", "of this replica ($POD_NAME, else the host's name)"},
    [FLAG_VERBOSE] = {"verbose", NULL, "log debug messages"},
    [FLAG_HELP] = {"help", NULL, "print this text"},
    [FLAG_VERSION] = {"version", NULL, "print the version"},
};

static void print_help(void)
{
    printf("Usage: virt-controller [OPTION]...\n\n"
           "Makes instances of VirtualMachines and launcher pods of instances, and writes their status.\n\nOptions:\n");
    program_print_flags(&(struct program_flags){.flags = flags, .count = FLAGS, .width = 28});
    printf("\nExit status: 0 told to end; 1 failed, or another replica leads now; 2 bad arguments.\n");
}

static int bad_flag(size_t flag, const char *value, const char *allowed)
{
    fprintf(stderr, "virt-controller: --%s %s: not valid (%s)\n", flags[flag].name, value, allowed);
    return EXIT_BAD_INPUT;
}

/* -1: go on. */
static int take_flag(size_t flag, const char *value, void *userdata)
{
    struct program *p = userdata;
    struct pod_options *pod = &p->options.settings.pod;
    char *end;
    unsigned long n;

    switch ((enum flag)flag) {
    case FLAG_KUBECONFIG:
        p->kubeconfig = value;
        break;
    case FLAG_CONTEXT:
        p->context = value;
        break;
    case FLAG_NAMESPACE:
        p->namespace_ = value;
        break;
    case FLAG_LAUNCHER_IMAGE:
        pod->launcher_image = value;
        break;
    case FLAG_PULL_POLICY:
        if (!streq(value, "Always") && !streq(value, "IfNotPresent") && !streq(value, "Never"))
            return bad_flag(flag, value, "Always, IfNotPresent or Never");
        pod->pull_policy = value;
        break;
    case FLAG_PULL_SECRET:
        if (strv_append(&p->pull_secrets, value) < 0)
            return EXIT_FAILED;
        break;
    case FLAG_EMULATION:
        pod->use_emulation = true;
        break;
    case FLAG_CPU_RATIO:
        n = strtoul(value, &end, 10);
        if (*end || n == 0 || n > 1000 || *value == '-')
            return bad_flag(flag, value, "a number from 1 to 1000");
        pod->cpu_allocation_ratio = (unsigned)n;
        break;
    case FLAG_ARCH:
        if (!streq(value, "amd64") && !streq(value, "arm64") && !streq(value, "s390x"))
            return bad_flag(flag, value, "amd64, arm64 or s390x");
        p->options.settings.default_arch = value;
        break;
    case FLAG_LISTEN:
        p->listen = value;
        break;
    case FLAG_NO_ELECTION:
        p->leader_elect = false;
        break;
    case FLAG_LEASE_NAMESPACE:
        p->lease_namespace = value;
        break;
    case FLAG_IDENTITY:
        p->identity = value;
        break;
    case FLAG_VERBOSE:
        log_set_level(LOG_LEVEL_DEBUG);
        break;
    case FLAG_HELP:
        print_help();
        return EXIT_OK;
    case FLAG_VERSION:
        printf("virt-controller %s\n", VMLET_VERSION);
        return EXIT_OK;
    case FLAGS:
        break;
    }
    return -1;
}

static const char *environment(const char *name, const char *otherwise)
{
    const char *value = getenv(name);

    return value && *value ? value : otherwise;
}

static int parse(struct program *p, int argc, char **argv)
{
    const struct program_flags all = {
        .program = "virt-controller", .flags = flags, .count = FLAGS, .take = take_flag, .userdata = p};
    int r = program_parse(&all, argc, argv);

    if (r >= 0)
        return r;
    if (gethostname(p->host, sizeof(p->host) - 1) < 0)
        strcpy(p->host, "virt-controller");
    if (!p->identity)
        p->identity = environment("POD_NAME", p->host);
    if (!p->lease_namespace)
        p->lease_namespace = environment("POD_NAMESPACE", "kubevirt");
    if (!p->options.settings.pod.launcher_image)
        p->options.settings.pod.launcher_image = environment("LAUNCHER_IMAGE", NULL);
    if (!p->options.settings.pod.launcher_image) {
        fprintf(stderr, "virt-controller: --launcher-image (or $LAUNCHER_IMAGE) is needed: the pods' image\n");
        return EXIT_BAD_INPUT;
    }
    p->options.settings.pod.image_pull_secrets = (const char *const *)p->pull_secrets;
    p->options.namespace_ = p->namespace_;
    p->options.identity = p->identity;
    return -1;
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

static void on_leading(void *userdata)
{
    struct program *p = userdata;

    log_info("%s holds the lease %s/virt-controller", p->identity, p->lease_namespace);
    p->leads = true;
    controller_lead(p->controller);
}

/* Whatever is under way must not go on: the simplest is to be gone. Kubernetes starts us again, as a candidate. */
static void on_lost(void *userdata)
{
    struct program *p = userdata;

    log_error("the lease %s/virt-controller is lost: another replica may write now", p->lease_namespace);
    _exit(EXIT_FAILED);
}

static void on_released(void *userdata)
{
    struct program *p = userdata;

    sd_event_exit(p->event, EXIT_OK);
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata)
{
    struct program *p = userdata;

    log_info("told to end");
    controller_free(TAKE_PTR(p->controller)); /* nothing is written after the lease is given away */
    if (p->lease)
        kube_lease_release(p->lease, on_released, p);
    else
        sd_event_exit(p->event, EXIT_OK);
    return 0;
}

static int write_ready(struct strbuf *body, void *userdata)
{
    struct program *p = userdata;
    bool ready = p->controller && controller_is_synced(p->controller);

    strbuf_add_string(body, ready ? "ok\n" : "the first lists are not complete\n");
    return ready ? 200 : 503;
}

static int write_metrics(struct strbuf *body, void *userdata)
{
    struct program *p = userdata;

    if (p->controller)
        controller_write_metrics(p->controller, p->leads, body);
    return 200;
}

/* It talks to the API server, and to nobody else. */
static const char *const refused[] = {
    "execve", "execveat", "mount",   "umount2", "move_mount", "open_tree", "fsopen",    "fsmount",   "pivot_root",
    "chroot", "setns",    "unshare", "setuid",  "setgid",     "setresuid", "setresgid", "setgroups", NULL,
};

static int run(struct program *p, struct error **ret_error)
{
    static const struct kube_page pages[] = {
        {"/healthz", program_write_health}, {"/readyz", write_ready}, {"/metrics", write_metrics}, {NULL, NULL}};
    struct kube_config *config = NULL;
    int r = confine_refuse(refused, ret_error);

    if (r < 0)
        return r;
    r = event_new(&p->event);
    if (r < 0)
        return error_errno(ret_error, r, "cannot make an event loop");
    r = event_add_signal(p->event, SIGTERM, on_signal, p, NULL);
    if (r >= 0)
        r = event_add_signal(p->event, SIGINT, on_signal, p, NULL);
    if (r < 0)
        return error_errno(ret_error, r, "cannot wait for signals");
    r = kube_config_load(p->kubeconfig, p->context, &config, ret_error);
    if (r >= 0)
        r = kube_client_new(p->event, config, "virt-controller", &p->client, ret_error);
    if (r >= 0)
        r = kube_serve_new(p->event, p->listen, pages, p, &p->serve, ret_error);
    if (r >= 0)
        r = controller_new(p->event, p->client, &p->options, &p->controller, ret_error);
    if (r < 0)
        return r;
    log_info("health and metrics on port %u", kube_serve_port(p->serve));
    if (!p->leader_elect)
        on_leading(p);
    else {
        struct kube_lease_options o = {.namespace_ = p->lease_namespace,
                                       .name = "virt-controller",
                                       .identity = p->identity,
                                       .started = on_leading,
                                       .stopped = on_lost,
                                       .userdata = p};

        r = kube_lease_new(p->client, &o, &p->lease, ret_error);
    }
    return r < 0 ? r : sd_event_loop(p->event);
}

int main(int argc, char **argv)
{
    struct program p = {.leader_elect = true, .listen = ":8443"};
    _cleanup_error_ struct error *error = NULL;
    int r;

    program_tune_heap();
    log_init("virt-controller", LOG_LEVEL_INFO);
    signal(SIGPIPE, SIG_IGN);
    r = parse(&p, argc, argv);
    if (r < 0) {
        r = run(&p, &error);
        if (r < 0) {
            if (error)
                log_error_of(error, "virt-controller");
            r = error ? (int)error_exit_code(error) : EXIT_FAILED;
        }
    }
    kube_lease_free(p.lease);
    controller_free(p.controller);
    kube_serve_free(p.serve);
    kube_client_free(p.client);
    sd_event_unref(p.event);
    strv_free(p.pull_secrets);
    return r;
}
