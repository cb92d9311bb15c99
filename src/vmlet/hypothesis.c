/* SPDX-License-Identifier: Apache-2.0 */
#include "vmlet/hypothesis.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/strv.h"
#include "domain/prepare.h"
#include "host/caps.h"

/* When neither --qemu-version nor a binary says it: that of Debian 13 and of current KubeVirt images' distributions. */
#define DEFAULT_QEMU_VERSION 10000000U

#define note(h, ...) strv_printf(&(h)->notes, __VA_ARGS__)

static int find_caps(struct hypothesis *h, const struct hypothesis_options *o, struct error **ret_error)
{
    _cleanup_error_ struct error *error = NULL;
    unsigned version = o->qemu_version;
    int r;

    if (version == 0) {
        r = qemu_caps_load(o->qemu, o->arch, &h->caps, &error);
        if (r == 0) {
            h->facts.caps = h->caps;
            return 0;
        }
        if (o->qemu || error_get_code(error) != ERROR_QEMU_NOT_FOUND) {
            error_move(ret_error, TAKE_PTR(error));
            return r;
        }
        version = DEFAULT_QEMU_VERSION;
        if (note(h, "no QEMU for this architecture is installed: version %u.%u is assumed (see --qemu-version)",
                 version / 1000000, version / 1000 % 1000) < 0)
            return error_oom(ret_error);
    }
    h->made_up.version = version;
    h->made_up.binary = o->qemu ? arena_strdup(h->arena, o->qemu)
                                : arena_printf(h->arena, "qemu-system-%s", machine_arch_qemu_name(o->arch));
    h->facts.caps = &h->made_up;
    return h->made_up.binary ? 0 : error_oom(ret_error);
}

/* ---- volumes --------------------------------------------------------------------------------------------------- */

/* A disk of kind lun needs a block device: that of a volume which is not here is taken for one. */
static bool is_lun(const struct vmi *vmi, const char *volume)
{
    const struct vmi_devices *devices = &vmi->spec.domain.devices;

    for (size_t i = 0; i < devices->disks.count; i++)
        if (streq(devices->disks.items[i].name, volume) && devices->disks.items[i].device == VMI_DISK_DEVICE_LUN)
            return true;
    return false;
}

/* Stand-ins for volumes that the plan has refused, so that the machine's own faults are found in the same run. */
static int pretend_volumes(struct hypothesis *h, const struct vmi *vmi)
{
    struct machine_volume *list = arena_new_array(h->arena, struct machine_volume, vmi->spec.volumes.count + 1);

    if (!list)
        return -ENOMEM;
    for (size_t i = 0; i < vmi->spec.volumes.count; i++)
        list[i] =
            (struct machine_volume){.volume = vmi->spec.volumes.items[i].name, .path = "/nonexistent", .format = "raw"};
    h->facts.volumes = list;
    h->facts.n_volumes = vmi->spec.volumes.count;
    return 0;
}

static int plan_storage(struct hypothesis *h, const struct vmi *vmi, struct faults *faults, struct error **ret_error)
{
    struct storage_options options = {.paths = storage_pod_paths, .owner_uid = (unsigned)-1};
    const struct storage_volume *from;
    struct machine_volume *to;
    size_t n;
    int r;

    r = storage_plan(vmi, &options, &h->storage, faults, ret_error);
    if (r < 0)
        return pretend_volumes(h, vmi) < 0 ? error_oom(ret_error) : r;
    from = storage_get_volumes(h->storage, &n);
    to = arena_new_array(h->arena, struct machine_volume, n + 1);
    if (!to)
        return error_oom(ret_error);
    for (size_t i = 0; i < n; i++) {
        /* what is not here is taken for what the manifest wants it to be */
        bool here = from[i].path && access(from[i].path, F_OK) == 0;

        to[i] = (struct machine_volume){
            .volume = from[i].volume->name,
            .path = from[i].path,
            .format = from[i].format ? from[i].format : "raw",
            .backing_path = from[i].backing_path,
            .backing_format = from[i].backing_format,
            .is_block_device = from[i].is_block_device || (!here && is_lun(vmi, from[i].volume->name)),
            .read_only = from[i].read_only,
            .direct_io = from[i].direct_io || !here,
            .backing_direct_io = from[i].backing_direct_io || !here,
            .backing_is_block_device = from[i].backing_is_block_device,
            .preallocated = from[i].preallocated,
            .logical_block = from[i].logical_block || here ? from[i].logical_block : 512,
            .physical_block = from[i].physical_block || here ? from[i].physical_block : 512,
        };
    }
    h->facts.volumes = to;
    h->facts.n_volumes = n;
    return 0;
}

/* ---- network --------------------------------------------------------------------------------------------------- */

/* A pod with one veth for each network: 10.244.0.10 on the primary one, 10.245.N.10 on the others. */
static int observe_pod(struct hypothesis *h, const struct vmi *vmi)
{
    static const char *const kinds[] = {"bridge", "tun", "dummy", "veth"};
    struct net_observed *o = h->observed = net_observed_new();

    if (!o)
        return -ENOMEM;
    for (size_t i = 0; i < vmi->spec.networks.count; i++) {
        const struct vmi_network *network = &vmi->spec.networks.items[i];
        bool primary = net_network_is_primary(network);
        struct net_link *link = NET_LIST_ADD(o->arena, &o->links);
        struct net_address *address = NET_LIST_ADD(o->arena, &o->addresses);
        struct net_route *route = primary ? NET_LIST_ADD(o->arena, &o->routes) : NULL;
        struct net_names names;

        if (!link || !address || (primary && !route) || net_names_make(o->arena, network->name, primary, 0, &names) < 0)
            return -ENOMEM;
        *link = (struct net_link){.name = names.pod,
                                  .kind = "veth",
                                  .mac = arena_printf(o->arena, "02:00:0a:f4:%02zx:0a", i & 0xff),
                                  .master = "",
                                  .mtu = 1500,
                                  .up = true};
        *address = (struct net_address){.link = names.pod,
                                        .address = primary ? "10.244.0.10/24"
                                                           : arena_printf(o->arena, "10.245.%zu.10/24", i & 0xff),
                                        .peer = "",
                                        .broadcast = "",
                                        .label = "",
                                        .valid = UINT32_MAX,
                                        .preferred = UINT32_MAX};
        if (primary)
            *route = (struct net_route){.link = names.pod,
                                        .to = "0.0.0.0/0",
                                        .via = "10.244.0.1",
                                        .hops = "",
                                        .source = "",
                                        .metrics = "",
                                        .table = 254,
                                        .type = 1};
        if (!link->mac || !address->address)
            return -ENOMEM;
    }
    o->link_kinds.items = arena_new_array(o->arena, const char *, ELEMENTSOF(kinds));
    if (!o->link_kinds.items)
        return -ENOMEM;
    memcpy(o->link_kinds.items, kinds, sizeof(kinds));
    o->link_kinds.count = o->link_kinds.allocated = ELEMENTSOF(kinds);
    o->vhost_net = true;
    return 0;
}

static const struct net_interface *planned(const struct hypothesis *h, size_t index)
{
    for (size_t i = 0; h->plan && i < h->plan->interfaces.count; i++)
        if (h->plan->interfaces.items[i].index == index)
            return &h->plan->interfaces.items[i];
    return NULL;
}

static struct machine_nic make_nic(struct hypothesis *h, const struct vmi_interface *from, size_t index)
{
    const struct net_interface *p = planned(h, index);
    struct machine_nic nic = {.interface = from->name, .mac = from->mac_address, .queues = 1};

    if (!nic.mac)
        nic.mac = p && p->mac ? p->mac : arena_printf(h->arena, "02:00:00:00:00:%02zx", index & 0xff);
    if (from->binding == VMI_BINDING_SLIRP) {
        nic.kind = MACHINE_NET_USER;
    } else if (p && p->passt_argv) {
        nic.kind = MACHINE_NET_PASST;
        nic.socket_path = p->passt_socket;
        nic.passt_argv = p->passt_argv;
    } else if (p && p->has_tap) {
        nic.kind = MACHINE_NET_TAP;
        nic.tap = p->names.tap;
        nic.mtu = p->mtu;
        nic.queues = MAX(p->queues, 1U);
        nic.vhost = p->vhost;
    }
    return nic;
}

static int plan_network(struct hypothesis *h, const struct vmi *vmi, struct error **ret_error)
{
    const struct vmi_devices *devices = &vmi->spec.domain.devices;
    struct net_plan_options options = {.owner = NET_DEFAULT_OWNER, .private_dir = h->facts.private_dir};
    _cleanup_error_ struct error *error = NULL;
    struct machine_nic *nics = arena_new_array(h->arena, struct machine_nic, devices->interfaces.count + 1);

    if (!nics || observe_pod(h, vmi) < 0)
        return error_oom(ret_error);
    if (net_plan_make(vmi, h->observed, &options, &h->plan, &error) < 0 &&
        note(h, "the network cannot be planned: %s", error_message(error)) < 0)
        return error_oom(ret_error);
    for (size_t i = 0; i < devices->interfaces.count; i++) {
        nics[i] = make_nic(h, &devices->interfaces.items[i], i);
        if (!nics[i].mac)
            return error_oom(ret_error);
    }
    h->facts.nics = nics;
    h->facts.n_nics = devices->interfaces.count;
    return 0;
}

/* ---- the rest of the host -------------------------------------------------------------------------------------- */

static void add_host_device(struct hypothesis *h, struct machine_host_device *list, size_t *n, const char *name)
{
    /* addresses that no device of a real host has: slot 1f of a bus f0 and up */
    list[*n] = (struct machine_host_device){
        .name = name,
        .kind = MACHINE_HOSTDEV_PCI,
        .address = arena_printf(h->arena, "0000:f%zx:1f.0", *n & 0xf),
    };
    (*n)++;
}

static int find_host_devices(struct hypothesis *h, const struct vmi *vmi)
{
    const struct vmi_devices *d = &vmi->spec.domain.devices;
    size_t most = d->gpus.count + d->host_devices.count + d->interfaces.count, n = 0;
    struct machine_host_device *list = arena_new_array(h->arena, struct machine_host_device, most + 1);

    if (!list)
        return -ENOMEM;
    for (size_t i = 0; i < d->gpus.count; i++)
        add_host_device(h, list, &n, d->gpus.items[i].name);
    for (size_t i = 0; i < d->host_devices.count; i++)
        add_host_device(h, list, &n, d->host_devices.items[i].name);
    for (size_t i = 0; i < d->interfaces.count; i++)
        if (d->interfaces.items[i].binding == VMI_BINDING_SRIOV)
            add_host_device(h, list, &n, d->interfaces.items[i].name);
    for (size_t i = 0; i < n; i++)
        if (!list[i].address)
            return -ENOMEM;
    h->facts.host_devices = list;
    h->facts.n_host_devices = n;
    return n > 0 ? note(h, "the addresses of %zu host device%s are made up: a device plugin gives them out", n,
                        n == 1 ? "" : "s")
                 : 0;
}

static int find_firmware(struct hypothesis *h, const struct hypothesis_options *o)
{
    size_t kept = 0;
    int r = machine_list_firmware(o->arch, NULL, &h->firmware);

    if (r < 0)
        return r;
    for (size_t i = 0; h->firmware && h->firmware[i]; i++)
        if (access(h->firmware[i], R_OK) == 0)
            h->firmware[kept++] = h->firmware[i];
        else
            free(h->firmware[i]);
    if (h->firmware)
        h->firmware[kept] = NULL;
    h->facts.known_firmware = (const char *const *)h->firmware;
    return 0;
}

/* What a host must have besides QEMU: without it `run` would refuse the manifest, or the device would not start. */
static int note_missing(struct hypothesis *h, const struct vmi *vmi)
{
    const struct vmi_devices *d = &vmi->spec.domain.devices;

    if (d->autoattach_vsock == OPT_TRUE &&
        note(h, "the vsock context id is made up: the cluster's controller assigns it%s",
             access("/dev/vhost-vsock", F_OK) < 0
                 ? "; this host has no /dev/vhost-vsock, so `vmlet run` would fail here"
                 : "") < 0)
        return -ENOMEM;
    return 0;
}

static int find_kernel(struct hypothesis *h, const struct vmi *vmi)
{
    const struct vmi_kernel_boot *boot = vmi->spec.domain.firmware.kernel_boot;

    if (!boot)
        return 0;
    h->facts.append = boot->kernel_args;
    if (!boot->container)
        return 0;
    if (boot->container->kernel_path)
        h->facts.kernel =
            arena_printf(h->arena, "%s/kernel-boot/%s", storage_pod_paths.container_disk_dir,
                         strrchr(boot->container->kernel_path, '/') ? strrchr(boot->container->kernel_path, '/') + 1
                                                                    : boot->container->kernel_path);
    if (boot->container->initrd_path)
        h->facts.initrd =
            arena_printf(h->arena, "%s/kernel-boot/%s", storage_pod_paths.container_disk_dir,
                         strrchr(boot->container->initrd_path, '/') ? strrchr(boot->container->initrd_path, '/') + 1
                                                                    : boot->container->initrd_path);
    return 0;
}

int hypothesis_make(const struct vmi *vmi, const struct hypothesis_options *options, struct hypothesis *ret,
                    struct faults *faults, struct error **ret_error)
{
    const char *uid = vmi->uid ? vmi->uid : vmi->spec.domain.firmware.uuid;
    struct hypothesis *h = ret;
    int r;

    *h = (struct hypothesis){.arena = arena_new()};
    if (!h->arena)
        return error_oom(ret_error);
    h->facts = (struct machine_facts){
        .arch = options->arch,
        .accel = options->accel,
        .private_dir = arena_printf(h->arena, "%s/%s", storage_pod_paths.private_dir, uid),
        .vsock_cid = vmi->spec.domain.devices.autoattach_vsock == OPT_TRUE ? 3 : 0,
        .vnc = true,
        .assume = true,
        .virtiofs_socket_dir = "/var/run/kubevirt/virtiofs-containers", /* a container of the pod for each */
        .now = time(NULL),
        .ignition_path =
            vmi_annotation(vmi, "kubevirt.io/ignitiondata")
                ? arena_printf(h->arena, "%s/%s/" PREPARE_IGNITION_FILE, storage_pod_paths.private_dir, uid)
                : NULL,
        .serial_log = vmi->spec.domain.devices.log_serial_console != OPT_FALSE,
    };
    if (!h->facts.private_dir || find_firmware(h, options) < 0 || find_host_devices(h, vmi) < 0 ||
        note_missing(h, vmi) < 0)
        return error_oom(ret_error);
    find_kernel(h, vmi);
    r = find_caps(h, options, ret_error);
    if (r == 0)
        r = plan_network(h, vmi, ret_error);
    if (r == 0)
        r = plan_storage(h, vmi, faults, ret_error);
    return r;
}

void hypothesis_done(struct hypothesis *hypothesis)
{
    storage_free(hypothesis->storage);
    net_plan_free(hypothesis->plan);
    net_observed_free(hypothesis->observed);
    qemu_caps_free(hypothesis->caps);
    strv_free(hypothesis->firmware);
    strv_free(hypothesis->notes);
    arena_free(hypothesis->arena);
    *hypothesis = (struct hypothesis){0};
}
