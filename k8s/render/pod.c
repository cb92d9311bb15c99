/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/render/pod.h"

#include <stdio.h>

#include "k8s/render/private.h"
#include "netsetup/sha256.h"
#include "vmi/overhead.h"

/* ---- names ------------------------------------------------------------------------------------------------------ */

void pod_name(const char *vmi_name, const char *uid, char ret[static POD_NAME_SIZE])
{
    /* Kubernetes' letters for generated names: none that make words or look alike */
    static const char letters[] = "bcdfghjklmnpqrstvwxz2456789";
    uint8_t digest[32];
    int n = snprintf(ret, POD_NAME_SIZE, "virt-launcher-%.57s", vmi_name);

    while (n > 0 && (ret[n - 1] == '.' || ret[n - 1] == '-'))
        n--;
    ret[n++] = '-';
    sha256(uid, strlen(uid), digest);
    for (size_t i = 0; i < 5; i++)
        ret[n++] = letters[digest[i] % (sizeof(letters) - 1)];
    ret[n] = '\0';
}

static const char *annotation(const struct pod_build *b, const char *key)
{
    return vmi_annotation(b->vmi, key);
}

/* ---- metadata --------------------------------------------------------------------------------------------------- */

static json_t *labels(struct pod_build *b)
{
    json_t *list = json_object();
    char name[64];

    for (size_t i = 0; i < b->vmi->labels.count; i++)
        if (!streq(b->vmi->labels.items[i].key, "kubevirt.io/nodeName"))
            put_text(b, list, b->vmi->labels.items[i].key, b->vmi->labels.items[i].value);
    snprintf(name, sizeof(name), "%s", b->vmi->name); /* a label's value has at most 63 characters */
    put_text(b, list, "kubevirt.io", "virt-launcher");
    put_text(b, list, "kubevirt.io/created-by", b->uid);
    put_text(b, list, "vm.kubevirt.io/name", name);
    put_text(b, list, "vmi.kubevirt.io/id", name);
    return list;
}

/* Velero, a backup tool, runs these in the pod before and after it takes a snapshot. */
static void add_backup_hooks(struct pod_build *b, json_t *list)
{
    static const char *const hooks[][2] = {{"pre", "--freeze"}, {"post", "--unfreeze"}};
    char key[80];

    for (size_t i = 0; i < ELEMENTSOF(hooks); i++) {
        snprintf(key, sizeof(key), "%s.hook.backup.velero.io/container", hooks[i][0]);
        put_text(b, list, key, "compute");
        snprintf(key, sizeof(key), "%s.hook.backup.velero.io/command", hooks[i][0]);
        put(b, list, key,
            json_sprintf("[\"/usr/bin/virt-freezer\", \"%s\", \"--name\", \"%s\", \"--namespace\", \"%s\"]",
                         hooks[i][1], b->vmi->name, b->vmi->namespace_));
    }
}

/* Names of secondary interfaces are KubeVirt's: "pod" and the start of the network's SHA-256 (compat §3.1). */
static void add_networks(struct pod_build *b, json_t *list)
{
    json_t *networks = json_array();
    char *text;

    for (size_t i = 0; i < b->vmi->spec.networks.count; i++) {
        const struct vmi_network *n = &b->vmi->spec.networks.items[i];
        const char *slash = n->multus ? strchr(n->multus->network_name, '/') : NULL;
        char interface[16] = "pod";
        uint8_t digest[32];
        json_t *one;

        if (!n->multus)
            continue;
        if (n->multus->is_default == OPT_TRUE) {
            put_text(b, list, "v1.multus-cni.io/default-network", n->multus->network_name);
            continue;
        }
        sha256(n->name, strlen(n->name), digest);
        for (size_t k = 0; k < 6; k++)
            snprintf(interface + 3 + 2 * k, sizeof(interface) - 3 - 2 * k, "%02x", digest[k]);
        interface[14] = '\0';
        one = json_pack("{s:s, s:s, s:o}", "interface", interface, "name", slash ? slash + 1 : n->multus->network_name,
                        "namespace",
                        slash ? json_stringn(n->multus->network_name, (size_t)(slash - n->multus->network_name))
                              : json_string(b->vmi->namespace_));
        for (size_t k = 0; k < b->vmi->spec.domain.devices.interfaces.count; k++)
            if (b->vmi->spec.domain.devices.interfaces.items[k].network == n)
                put_text(b, one, "mac", b->vmi->spec.domain.devices.interfaces.items[k].mac_address);
        add(b, networks, one);
    }
    text = json_array_size(networks) > 0 ? json_dumps(networks, JSON_COMPACT) : NULL;
    put_text(b, list, "k8s.v1.cni.cncf.io/networks", text);
    free(text);
    json_decref(networks);
}

static json_t *annotations(struct pod_build *b, const json_t *overhead)
{
    static const char *const own[] = {"kubectl.kubernetes.io/last-applied-configuration",
                                      "kubevirt.io/latest-observed-api-version",
                                      "kubevirt.io/storage-observed-api-version", NULL};
    json_t *list = json_object(), *items = json_object(), *item;
    char *text;
    size_t i;

    for (i = 0; i < b->vmi->annotations.count; i++) {
        const char *const *o = own;

        while (*o && !streq(*o, b->vmi->annotations.items[i].key))
            o++;
        if (!*o)
            put_text(b, list, b->vmi->annotations.items[i].key, b->vmi->annotations.items[i].value);
    }
    put_text(b, list, "kubectl.kubernetes.io/default-container", "compute");
    put_text(b, list, "kubevirt.io/domain", b->vmi->name);
    put_text(b, list, "kubevirt.io/migrationTransportUnix", "true");
    put_text(b, list, "descheduler.alpha.kubernetes.io/request-evict-only", "");
    add_backup_hooks(b, list);
    add_networks(b, list);
    put(b, list, "kubevirt.io/memory-overhead-bytes",
        json_sprintf("%lld", (long long)json_integer_value(json_object_get(overhead, "totalBytes"))));
    json_array_foreach (json_object_get(overhead, "items"), i, item)
        put(b, items, json_string_value(json_object_get(item, "what")), json_incref(json_object_get(item, "bytes")));
    text = json_dumps(items, JSON_COMPACT | JSON_PRESERVE_ORDER);
    put_text(b, list, "vmlet/memory-overhead", text);
    free(text);
    json_decref(items);
    return list;
}

static json_t *metadata(struct pod_build *b, const json_t *overhead)
{
    const char *version = b->options->vmi_api_version ? b->options->vmi_api_version : "kubevirt.io/v1";
    json_t *m = json_pack("{s:o, s:o, s:s}", "annotations", annotations(b, overhead), "labels", labels(b), "namespace",
                          b->vmi->namespace_);
    char name[POD_NAME_SIZE];

    put(b, m, "generateName", json_sprintf("virt-launcher-%s-", b->vmi->name));
    if (b->vmi->uid) {
        pod_name(b->vmi->name, b->vmi->uid, name);
        put_text(b, m, "name", name);
        put(b, m, "ownerReferences",
            json_pack("[{s:s, s:b, s:b, s:s, s:s, s:s}]", "apiVersion", version, "blockOwnerDeletion", 1, "controller",
                      1, "kind", "VirtualMachineInstance", "name", b->vmi->name, "uid", b->vmi->uid));
    }
    return m;
}

/* ---- compute ---------------------------------------------------------------------------------------------------- */

static json_t *environment(struct pod_build *b)
{
    static const char *const plain[][2] = {
        {"XDG_CACHE_HOME", PRIVATE_DIR}, {"XDG_CONFIG_HOME", PRIVATE_DIR}, {"XDG_RUNTIME_DIR", "/var/run"}};
    json_t *list = json_array();

    for (size_t i = 0; i < ELEMENTSOF(plain); i++)
        add(b, list, json_pack("{s:s, s:s}", "name", plain[i][0], "value", plain[i][1]));
    add(b, list,
        json_pack("{s:s, s:{s:{s:s, s:s}}}", "name", "POD_NAME", "valueFrom", "fieldRef", "apiVersion", "v1",
                  "fieldPath", "metadata.name"));
    return list;
}

static long long grace_of(const struct pod_build *b)
{
    return opt_int_or(b->vmi->spec.termination_grace_period_seconds, 30);
}

static json_t *command(struct pod_build *b)
{
    json_t *c = json_array();
    const char *keep = annotation(b, "kubevirt.io/keep-launcher-alive-after-failure");
    uint8_t digest[32];

    /* compat §5.2: spread, so that a thousand launchers that nobody asks for a VM do not end in one second */
    sha256(b->uid, strlen(b->uid), digest);
    add_text(b, c, "/usr/bin/virt-launcher-monitor");
    add_text(b, c, "--qemu-timeout");
    add_text(b, c, "%us", 240U + (unsigned)(digest[31] % 120));
    add_text(b, c, "--name");
    add_text(b, c, "%s", b->vmi->name);
    add_text(b, c, "--uid");
    add_text(b, c, "%s", b->uid);
    add_text(b, c, "--namespace");
    add_text(b, c, "%s", b->vmi->namespace_);
    add_text(b, c, "--kubevirt-share-dir");
    add_text(b, c, SHARE_DIR);
    add_text(b, c, "--ephemeral-disk-dir");
    add_text(b, c, EPHEMERAL_DIR);
    add_text(b, c, "--container-disk-dir");
    add_text(b, c, SHARE_DIR "/container-disks");
    add_text(b, c, "--grace-period-seconds");
    add_text(b, c, "%lld", grace_of(b) + LAUNCHER_GRACE_EXTRA);
    add_text(b, c, "--run-as-nonroot");
    if (b->options->use_emulation)
        add_text(b, c, "--allow-emulation");
    if (streq_ptr(keep, "true"))
        add_text(b, c, "--keep-after-failure");
    return c;
}

static json_t *ports(struct pod_build *b)
{
    json_t *list = json_array();

    for (size_t i = 0; i < b->vmi->spec.domain.devices.interfaces.count; i++) {
        const struct vmi_interface *n = &b->vmi->spec.domain.devices.interfaces.items[i];

        for (size_t k = 0; k < n->ports.count; k++) {
            json_t *port = json_pack("{s:I, s:s}", "containerPort", (json_int_t)n->ports.items[k].port.value,
                                     "protocol", n->ports.items[k].protocol);

            put_text(b, port, "name", n->ports.items[k].name);
            add(b, list, port);
        }
    }
    return list;
}

static void put_quantity(struct pod_build *b, json_t *list, const char *name, const struct quantity *q)
{
    if (q->is_set && q->text)
        put_text(b, list, name, q->text);
    else if (q->is_set)
        put(b, list, name, json_sprintf("%lld", (long long)q->value));
}

/* A device of the node, by the name that the node agent's device plugin gave it: as request and as limit. */
static void put_device(struct pod_build *b, json_t *requests, json_t *limits, const char *name, unsigned count)
{
    if (count == 0)
        return;
    put(b, requests, name, json_sprintf("%u", count));
    put(b, limits, name, json_sprintf("%u", count));
}

static void put_devices(struct pod_build *b, json_t *requests, json_t *limits)
{
    const struct vmi_devices *d = &b->vmi->spec.domain.devices;
    bool tap = false, virtio = false;

    for (size_t i = 0; i < d->interfaces.count; i++) {
        tap = tap || d->interfaces.items[i].binding != VMI_BINDING_SRIOV;
        virtio = virtio || (d->interfaces.items[i].binding != VMI_BINDING_SRIOV &&
                            d->interfaces.items[i].model == VMI_NIC_VIRTIO);
    }
    put_device(b, requests, limits, "devices.kubevirt.io/kvm", !b->options->use_emulation);
    put_device(b, requests, limits, "devices.kubevirt.io/tun", tap);
    put_device(b, requests, limits, "devices.kubevirt.io/vhost-net", virtio && !b->options->use_emulation);
    put_device(b, requests, limits, "devices.kubevirt.io/vhost-vsock", d->autoattach_vsock == OPT_TRUE);
    for (size_t k = 0; k < 2; k++) {
        const struct vmi_host_device *list = k ? d->host_devices.items : d->gpus.items;

        for (size_t i = 0; i < (k ? d->host_devices.count : d->gpus.count); i++) {
            const char *held = json_string_value(json_object_get(limits, list[i].device_name));

            if (list[i].device_name)
                put_device(b, requests, limits, list[i].device_name, held ? (unsigned)atoi(held) + 1 : 1);
        }
    }
}

static void put_memory(struct pod_build *b, json_t *requests, json_t *limits, const json_t *overhead)
{
    const struct vmi_resources *r = &b->vmi->spec.domain.resources;
    const struct vmi_memory *m = &b->vmi->spec.domain.memory;
    long long extra = json_integer_value(json_object_get(overhead, "totalBytes"));
    long long asked = r->requests.memory.is_set ? r->requests.memory.value : m->guest.value;
    char name[64];

    if (m->hugepages) {
        snprintf(name, sizeof(name), "hugepages-%.40s",
                 m->hugepages->page_size.text ? m->hugepages->page_size.text : "");
        put(b, requests, name, json_sprintf("%lld", (long long)m->guest.value));
        put(b, limits, name, json_sprintf("%lld", (long long)m->guest.value));
        asked = 0; /* the guest's memory is not the pod's then */
    }
    put(b, requests, "memory",
        json_sprintf("%lld", r->overcommit_guest_overhead == OPT_TRUE && asked > 0 ? asked : asked + extra));
    if (r->limits.memory.is_set)
        put(b, limits, "memory", json_sprintf("%lld", (m->hugepages ? 0 : (long long)r->limits.memory.value) + extra));
}

static void put_cpu(struct pod_build *b, json_t *requests, json_t *limits)
{
    const struct vmi_resources *r = &b->vmi->spec.domain.resources;
    const struct vmi_cpu *cpu = &b->vmi->spec.domain.cpu;
    unsigned vcpus = vmi_vcpus(b->vmi), ratio = b->options->cpu_allocation_ratio;

    if (cpu->dedicated_cpu_placement == OPT_TRUE) {
        unsigned whole = vcpus + (cpu->isolate_emulator_thread == OPT_TRUE);

        put(b, requests, "cpu", json_sprintf("%u", whole));
        put(b, limits, "cpu", json_sprintf("%u", whole));
        return;
    }
    if (r->requests.cpu.is_set || r->limits.cpu.is_set)
        put_quantity(b, requests, "cpu", r->requests.cpu.is_set ? &r->requests.cpu : &r->limits.cpu);
    else
        put(b, requests, "cpu", json_sprintf("%um", (vcpus * 1000 + (ratio ? ratio : 10) - 1) / (ratio ? ratio : 10)));
    put_quantity(b, limits, "cpu", &r->limits.cpu);
}

static json_t *resources(struct pod_build *b, const json_t *overhead)
{
    json_t *requests = json_object(), *limits = json_object();

    put_cpu(b, requests, limits);
    put_memory(b, requests, limits, overhead);
    put_text(b, requests, "ephemeral-storage", "50M");
    put_devices(b, requests, limits);
    return json_object_size(limits) == 0 ? json_pack("{s:o}", "requests", requests)
                                         : json_pack("{s:o, s:o}", "limits", limits, "requests", requests);
}

/* ---- probes ----------------------------------------------------------------------------------------------------- */

/* exec and guestAgentPing are for the guest: a program in the pod asks it. The times give QEMU and that program theirs.
 */
static void put_probe(struct pod_build *b, json_t *container, const char *key, const struct node *node)
{
    json_t *probe = node ? node_to_json(node) : NULL, *ping, *exec, *command_of_guest, *list;
    long long timeout, delay;
    size_t i;

    if (!probe)
        return;
    exec = json_object_get(probe, "exec");
    ping = json_object_get(probe, "guestAgentPing");
    timeout = json_integer_value(json_object_get(probe, "timeoutSeconds"));
    timeout = timeout > 0 ? timeout : 1;
    delay = json_integer_value(json_object_get(probe, "initialDelaySeconds"));
    if (exec || ping) {
        list = json_array();
        command_of_guest = json_incref(json_object_get(exec, "command"));
        add_text(b, list, "/usr/bin/virt-probe");
        add_text(b, list, "--domainName");
        add_text(b, list, "%s", b->vmi->domain_name);
        add_text(b, list, "--timeoutSeconds");
        add_text(b, list, "%lld", timeout);
        if (ping)
            add_text(b, list, "--guestAgentPing");
        for (i = 0; !ping && i < json_array_size(command_of_guest); i++) {
            if (i == 0)
                add_text(b, list, "--command");
            add(b, list, json_incref(json_array_get(command_of_guest, i)));
            if (i == 0)
                add_text(b, list, "--");
        }
        json_decref(command_of_guest);
        json_object_del(probe, "guestAgentPing");
        put(b, probe, "exec", json_pack("{s:o}", "command", list));
        timeout++;
    }
    put(b, probe, "timeoutSeconds", json_integer(timeout));
    put(b, probe, "initialDelaySeconds", json_integer(delay + 10));
    put(b, container, key, probe);
}

static json_t *compute(struct pod_build *b, const json_t *overhead)
{
    json_t *security = restricted(b);
    json_t *c = json_pack("{s:s, s:o, s:o, s:s, s:o}", "name", "compute", "command", command(b), "env", environment(b),
                          "image", b->options->launcher_image, "resources", resources(b, overhead));
    json_t *list = ports(b);

    put(b, json_object_get(security, "capabilities"), "add", json_pack("[s]", "NET_BIND_SERVICE"));
    put(b, c, "securityContext", security);
    put_text(b, c, "imagePullPolicy", b->options->pull_policy);
    put_text(b, c, "terminationMessagePolicy", "FallbackToLogsOnError");
    if (json_array_size(list) > 0)
        put(b, c, "ports", json_incref(list));
    json_decref(list);
    put_probe(b, c, "livenessProbe", b->vmi->spec.liveness_probe);
    put_probe(b, c, "readinessProbe", b->vmi->spec.readiness_probe);
    if (json_array_size(b->devices) > 0)
        put(b, c, "volumeDevices", json_incref(b->devices));
    put(b, c, "volumeMounts", json_incref(b->mounts));
    return c;
}

/* The guest's serial console as the log of a container of its own. A sidecar (an init container that is restarted): it
 * is there before the guest's first byte, and does not keep the pod from ending. */
static void add_console_log(struct pod_build *b)
{
    const struct vmi_devices *d = &b->vmi->spec.domain.devices;
    json_t *mounts, *mount, *c;

    if (d->autoattach_serial_console == OPT_FALSE || d->log_serial_console == OPT_FALSE)
        return;
    mounts = json_array();
    mount = add_mount(b, mounts, "private", PRIVATE_DIR);
    put(b, mount, "readOnly", json_true());
    c = json_pack("{s:s, s:[s], s:[s, o], s:s, s:s, s:o, s:o, s:o}", "name", "guest-console-log", "command",
                  "/usr/bin/virt-tail", "args", "--logfile", json_sprintf(PRIVATE_DIR "/%s/virt-serial0-log", b->uid),
                  "image", b->options->launcher_image, "restartPolicy", "Always", "resources",
                  helper_resources(b, "5m", "35M", "15m", "60M", NULL), "securityContext", restricted(b),
                  "volumeMounts", mounts);
    put_text(b, c, "imagePullPolicy", b->options->pull_policy);
    add(b, b->init_containers, c);
}

/* ---- the pod ---------------------------------------------------------------------------------------------------- */

static json_t *spec_of(struct pod_build *b, const json_t *overhead)
{
    const struct vmi_spec *s = &b->vmi->spec;
    json_t *spec = json_object();
    char hostname[64];
    const char *account = s->service_account_name;
    bool token = false;
    size_t n;

    for (size_t i = 0; i < s->volumes.count; i++)
        if (s->volumes.items[i].kind == VMI_VOLUME_SERVICE_ACCOUNT) {
            account = s->volumes.items[i].service_account->name;
            token = true;
        }
    snprintf(hostname, sizeof(hostname), "%s", s->hostname ? s->hostname : b->vmi->name);
    for (char *p = hostname; *p; p++)
        if (*p == '.')
            *p = '-'; /* a host name is one label */
    for (n = strlen(hostname); n > 0 && hostname[n - 1] == '-'; n--)
        hostname[n - 1] = '\0';
    if (json_array_insert_new(b->containers, 0, compute(b, overhead)) < 0)
        b->failed = true;
    put(b, spec, "automountServiceAccountToken", json_boolean(token));
    put(b, spec, "containers", json_incref(b->containers));
    if (json_array_size(b->init_containers) > 0)
        put(b, spec, "initContainers", json_incref(b->init_containers));
    put(b, spec, "enableServiceLinks", json_false());
    put_text(b, spec, "hostname", hostname);
    put_text(b, spec, "subdomain", s->subdomain);
    put_text(b, spec, "serviceAccountName", account);
    if (json_array_size(b->pull_secrets) > 0)
        put(b, spec, "imagePullSecrets", json_incref(b->pull_secrets));
    put(b, spec, "readinessGates", json_pack("[{s:s}]", "conditionType", "kubevirt.io/virtual-machine-unpaused"));
    put_text(b, spec, "restartPolicy", "Never");
    put(b, spec, "securityContext",
        json_pack("{s:i, s:i, s:b, s:i, s:{s:s}}", "fsGroup", LAUNCHER_UID, "runAsGroup", LAUNCHER_UID, "runAsNonRoot",
                  1, "runAsUser", LAUNCHER_UID, "seccompProfile", "type", "RuntimeDefault"));
    put(b, spec, "terminationGracePeriodSeconds", json_integer(grace_of(b) + POD_GRACE_SECONDS));
    put(b, spec, "volumes", json_incref(b->volumes));
    build_scheduling(b, spec);
    return spec;
}

int pod_render(const struct vmi *vmi, const struct pod_options *options, json_t **ret, struct error **ret_error)
{
    struct pod_build b = {.vmi = vmi,
                          .options = options,
                          .uid = vmi->uid ? vmi->uid : "<uid>",
                          .guaranteed = overhead_is_guaranteed(&vmi->spec.domain.resources),
                          .volumes = json_array(),
                          .mounts = json_array(),
                          .devices = json_array(),
                          .containers = json_array(),
                          .init_containers = json_array(),
                          .pull_secrets = json_array()};
    json_t *overhead = overhead_estimate(vmi), *pod = NULL;

    for (const char *const *s = options->image_pull_secrets; s && *s; s++)
        add(&b, b.pull_secrets, json_pack("{s:s}", "name", *s));
    build_volumes(&b);
    add_console_log(&b);
    if (overhead)
        pod = json_pack("{s:s, s:s, s:o, s:o}", "apiVersion", "v1", "kind", "Pod", "metadata", metadata(&b, overhead),
                        "spec", spec_of(&b, overhead));
    json_decref(overhead);
    json_decref(b.volumes);
    json_decref(b.mounts);
    json_decref(b.devices);
    json_decref(b.containers);
    json_decref(b.init_containers);
    json_decref(b.pull_secrets);
    if (b.failed || !pod) {
        json_decref(pod);
        return error_oom(ret_error);
    }
    *ret = pod;
    return 0;
}
