/* SPDX-License-Identifier: Apache-2.0 */
#include "domain/prepare.h"

#include <limits.h>
#include <net/if.h>
#include <time.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/crash.h"
#include "base/fd.h"
#include "base/strv.h"
#include "domain/network.h"
#include "host/caps.h"

/* compat: where the sockets of a pod's virtiofs containers are. */
#define VIRTIOFS_CONTAINERS "/var/run/kubevirt/virtiofs-containers"

/* The name before the next comma; what follows it, or NULL. */
static const char *next_tap(const char *list, int *ret_length)
{
    size_t length = strcspn(list, ",");

    *ret_length = (int)MIN(length, (size_t)INT_MAX);
    return list[length] ? list + length + 1 : NULL;
}

/* Names as the kernel takes them: 1 to 15 bytes (IFNAMSIZ of linux/if.h), none left out. */
static int check_taps(const char *taps, size_t n_interfaces, struct error **ret_error)
{
    size_t n = 0;
    int length;

    for (const char *p = taps; p; n++) {
        const char *name = p;

        p = next_tap(p, &length);
        if (length == 0 || length >= IFNAMSIZ)
            return error_set(
                ret_error, ERROR_BAD_ARGUMENT, EINVAL,
                "--net tap:%s: \"%.*s\" is not the name of a link (1 to %d characters, with commas between)", taps,
                length, name, IFNAMSIZ - 1);
    }
    if (n > n_interfaces)
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL,
                         "--net tap:%s: more taps than the manifest has interfaces (%zu)", taps, n_interfaces);
    return 0;
}

int vm_net_parse(const char *text, size_t n_interfaces, enum vm_net *ret_net, const char **ret_taps,
                 struct error **ret_error)
{
    const char *taps = startswith(text, "tap:");
    int r;

    if (streq(text, "none")) {
        *ret_net = VM_NET_NONE;
    } else if (streq(text, "user")) {
        *ret_net = VM_NET_USER;
    } else if (streq(text, "passt")) {
        *ret_net = VM_NET_PASST;
    } else if (taps) {
        r = check_taps(taps, n_interfaces, ret_error);
        if (r < 0)
            return r;
        *ret_net = VM_NET_TAP;
        *ret_taps = taps;
    } else {
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "--net %s: not known (none, user, passt or tap:NAME,…)",
                         text);
    }
    return 0;
}

int vm_arch(const struct vmi *vmi, enum machine_arch *ret, struct faults *faults)
{
    if (streq(vmi->spec.architecture, "amd64")) {
        *ret = MACHINE_ARCH_X86_64;
    } else if (streq(vmi->spec.architecture, "arm64")) {
        *ret = MACHINE_ARCH_AARCH64;
    } else {
        faults_add_member(faults, vmi->spec.at, "architecture", "%s is not built in vmlet (amd64, arm64)",
                          vmi->spec.architecture);
        return -EINVAL;
    }
    return 0;
}

/* A stable address for an interface without one: locally administered, from the VM's UUID and the interface's name
 * (FNV-1a), so that a restart of the same VM keeps it. */
static char *derive_mac(struct arena *arena, const struct vmi *vmi, const char *interface)
{
    uint64_t hash = 0xcbf29ce484222325ULL;
    const char *parts[] = {vmi->spec.domain.firmware.uuid, "/", interface};

    for (size_t i = 0; i < ELEMENTSOF(parts); i++)
        for (const char *p = parts[i]; *p; p++)
            hash = (hash ^ (unsigned char)*p) * 0x100000001b3ULL;
    return arena_printf(arena, "02:%02x:%02x:%02x:%02x:%02x", (unsigned)(hash >> 32 & 0xff),
                        (unsigned)(hash >> 24 & 0xff), (unsigned)(hash >> 16 & 0xff), (unsigned)(hash >> 8 & 0xff),
                        (unsigned)(hash & 0xff));
}

/* What netsetup made for it (a tap) or made possible (passt), with what it found out. */
static int plug_into_pod(const struct prepare_options *o, struct arena *arena, size_t index, struct machine_nic *nic)
{
    const struct net_interface *link = pod_network_get(o->network, index);
    struct net_interface passt;

    if (!link)
        return 0;
    if (link->mac)
        nic->mac = link->mac;
    nic->mtu = link->mtu;
    if (link->binding == VMI_BINDING_PASST) {
        passt = *link;
        if (net_passt_make(arena, &o->vmi->spec.domain.devices.interfaces.items[index], o->dir, &passt) < 0)
            return -ENOMEM;
        nic->kind = MACHINE_NET_PASST;
        nic->socket_path = passt.passt_socket;
        nic->passt_argv = passt.passt_argv;
        return 0;
    }
    nic->kind = MACHINE_NET_TAP;
    nic->tap = link->names.tap;
    nic->queues = link->queues;
    nic->vhost = link->vhost;
    return 0;
}

/* On a host that nobody has prepared: passt finds the link with the default route itself, and only the host reaches the
 * guest, by the ports that the interface names. */
static int plug_into_host(const struct prepare_options *o, struct arena *arena, const struct vmi_interface *from,
                          struct machine_nic *nic)
{
    struct net_interface passt = {.mtu = from->model == VMI_NIC_VIRTIO ? 0 : NET_ETHERNET_MTU};

    if (net_passt_make(arena, from, o->dir, &passt) < 0)
        return -ENOMEM;
    nic->kind = MACHINE_NET_PASST;
    nic->socket_path = passt.passt_socket;
    nic->passt_argv = passt.passt_argv;
    return 0;
}

static struct machine_nic *list_nics(const struct prepare_options *o, struct arena *arena, size_t *ret_count)
{
    const struct vmi_devices *devices = &o->vmi->spec.domain.devices;
    struct machine_nic *nics = arena_new_array(arena, struct machine_nic, devices->interfaces.count + 1);
    const char *taps = o->taps;
    unsigned vcpus = vmi_vcpus(o->vmi);

    if (!nics)
        return NULL;
    for (size_t i = 0; i < devices->interfaces.count; i++) {
        const struct vmi_interface *nic = &devices->interfaces.items[i];

        nics[i] = (struct machine_nic){
            .interface = nic->name,
            .mac = nic->mac_address ? nic->mac_address : derive_mac(arena, o->vmi, nic->name),
            .queues = 1,
        };
        /* `--net` speaks of the pod network, which the first interface has; the others stay unplugged, but for more
         * taps */
        if (o->net == VM_NET_USER && i == 0)
            nics[i].kind = MACHINE_NET_USER;
        if (o->net == VM_NET_TAP && taps) {
            const char *name = taps;
            int length;

            taps = next_tap(taps, &length);
            nics[i].kind = MACHINE_NET_TAP;
            nics[i].tap = arena_printf(arena, "%.*s", length, name);
            if (!nics[i].tap)
                return NULL;
            if (devices->network_interface_multiqueue == OPT_TRUE)
                nics[i].queues = MIN(vcpus, 256U);
        }
        if (o->net == VM_NET_PASST && i == 0 && plug_into_host(o, arena, &devices->interfaces.items[i], &nics[i]) < 0)
            return NULL;
        if (o->net == VM_NET_POD && plug_into_pod(o, arena, i, &nics[i]) < 0)
            return NULL;
        if (o->net == VM_NET_TAP)
            nics[i].vhost = nics[i].kind == MACHINE_NET_TAP && access("/dev/vhost-net", R_OK | W_OK) == 0;
        if (!nics[i].mac)
            return NULL;
    }
    *ret_count = devices->interfaces.count;
    return nics;
}

static struct machine_volume *list_volumes(const struct storage *storage, struct arena *arena, size_t *ret_count)
{
    size_t n;
    const struct storage_volume *from = storage_get_volumes(storage, &n);
    struct machine_volume *to = arena_new_array(arena, struct machine_volume, n + 1);

    for (size_t i = 0; to && i < n; i++)
        to[i] = (struct machine_volume){
            .volume = from[i].volume->name,
            .path = from[i].path,
            .format = from[i].format,
            .backing_path = from[i].backing_path,
            .backing_format = from[i].backing_format,
            .is_block_device = from[i].is_block_device,
            .read_only = from[i].read_only,
            .direct_io = from[i].direct_io,
            .backing_direct_io = from[i].backing_direct_io,
            .backing_is_block_device = from[i].backing_is_block_device,
            .absent = from[i].absent,
            .preallocated = from[i].preallocated,
            .logical_block = from[i].logical_block,
            .physical_block = from[i].physical_block,
        };
    *ret_count = n;
    return to;
}

static const char *in_container_dir(const struct prepare_options *o, struct arena *arena, const char *path)
{
    const char *name = path ? strrchr(path, '/') : NULL;

    return path ? arena_printf(arena, "%s/kernel-boot/%s", o->storage.paths.container_disk_dir, name ? name + 1 : path)
                : NULL;
}

static void set_kernel(const struct prepare_options *o, struct arena *arena, struct machine_facts *facts)
{
    const struct vmi_kernel_boot *boot = o->vmi->spec.domain.firmware.kernel_boot;

    facts->kernel = o->kernel;
    facts->initrd = o->initrd;
    facts->append = o->append ? o->append : boot ? boot->kernel_args : NULL;
    if (!facts->kernel && boot && boot->container) {
        facts->kernel = in_container_dir(o, arena, boot->container->kernel_path);
        facts->initrd = in_container_dir(o, arena, boot->container->initrd_path);
    }
}

static void mark(const struct prepare_options *o, const char *name)
{
    if (o->timeline)
        timeline_mark(o->timeline, name);
}

/* The firmware files that the machine may want, as far as this host has them. */
static int list_firmware(const struct prepare_options *o, enum machine_arch arch, char ***ret)
{
    char **list = NULL;
    size_t kept = 0;
    int r = machine_list_firmware(arch, o->firmware_dir, &list);

    if (r < 0)
        return r;
    for (size_t i = 0; list && list[i]; i++)
        if (access(list[i], R_OK) == 0) {
            list[kept++] = list[i];
        } else {
            free(list[i]);
        }
    if (list)
        list[kept] = NULL;
    *ret = list;
    return 0;
}

static int write_ignition(const struct prepare_options *o, struct arena *arena, const char **ret,
                          struct error **ret_error)
{
    const char *data = vmi_annotation(o->vmi, "kubevirt.io/ignitiondata"), *path;
    int r;

    if (!data)
        return 0;
    path = arena_printf(arena, "%s/" PREPARE_IGNITION_FILE, o->dir);
    if (!path)
        return error_oom(ret_error);
    if (!o->touch_nothing) {
        r = mkdir_parents(o->dir, 0700, ret_error);
        if (r >= 0)
            r = file_write_atomic(path, data, strlen(data), 0600, ret_error); /* it may hold secrets */
        if (r < 0)
            return r;
    }
    *ret = path;
    return 0;
}

/* The daemon that serves a directory to the guest: a container of the pod for each, when the pod was rendered so, else
 * one that we start. */
static void find_virtiofsd(const struct prepare_options *o, struct machine_facts *facts)
{
    static const char *const programs[] = {"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"};

    if (!o->storage.outside_pod && access(VIRTIOFS_CONTAINERS, F_OK) == 0)
        facts->virtiofs_socket_dir = VIRTIOFS_CONTAINERS;
    for (size_t i = 0; i < ELEMENTSOF(programs) && !facts->virtiofsd; i++)
        if (access(programs[i], X_OK) == 0)
            facts->virtiofsd = programs[i];
}

static int build(const struct prepare_options *o, struct prepared *p, struct arena *arena, struct faults *faults,
                 struct error **ret_error)
{
    struct machine_facts facts = {
        .arch = p->arch,
        .accel = p->accel.accel,
        .caps = p->caps,
        .private_dir = o->dir,
        .firmware_dir = o->firmware_dir,
        .firmware_log = o->firmware_log,
        .now = time(NULL),
        .vnc = true,
        .serial_log = o->vmi->spec.domain.devices.log_serial_console != OPT_FALSE,
    };

    _cleanup_(strv_freep) char **firmware = NULL;
    int r;

    if (list_firmware(o, p->arch, &firmware) < 0)
        return error_oom(ret_error);
    facts.known_firmware = (const char *const *)firmware;
    facts.volumes = list_volumes(p->storage, arena, &facts.n_volumes);
    facts.nics = list_nics(o, arena, &facts.n_nics);
    if (!facts.volumes || !facts.nics)
        return error_oom(ret_error);
    set_kernel(o, arena, &facts);
    find_virtiofsd(o, &facts);
    r = write_ignition(o, arena, &facts.ignition_path, ret_error);
    if (r < 0)
        return r;
    return machine_build(o->vmi, &facts, &p->machine, faults, ret_error);
}

int vm_prepare(const struct prepare_options *options, struct prepared *ret, struct faults *faults,
               struct error **ret_error)
{
    _cleanup_(arena_freep) struct arena *arena = arena_new();
    _cleanup_(prepared_done) struct prepared p = {0};
    int r;

    if (!arena)
        return error_oom(ret_error);
    if (vm_arch(options->vmi, &p.arch, faults) < 0)
        return error_set(ret_error, ERROR_BAD_MANIFEST, EINVAL, "the manifest has faults");
    r = qemu_caps_load(options->qemu, p.arch, &p.caps, ret_error);
    if (r >= 0 && options->known_accel)
        p.accel = *options->known_accel;
    else if (r >= 0)
        r = accel_choose(options->accel, p.arch, &p.accel, ret_error);
    if (r < 0)
        return r;
    /* Storage and machine both look at the manifest; all that either finds wrong is told in one run. */
    r = storage_plan(options->vmi, &options->storage, &p.storage, faults, ret_error);
    if (r < 0)
        return r;
    if (!options->touch_nothing) {
        r = storage_prepare(p.storage, ret_error);
        if (r < 0)
            return r;
    }
    CRASH_POINT("start-storage");
    mark(options, MARK_STORAGE);
    r = build(options, &p, arena, faults, ret_error);
    if (r < 0) {
        if (!options->touch_nothing)
            storage_remove(p.storage);
        return r;
    }
    CRASH_POINT("start-machine");
    mark(options, MARK_ARGV);
    *ret = p;
    p = (struct prepared){0};
    return 0;
}

void prepared_done(struct prepared *prepared)
{
    machine_free(prepared->machine);
    storage_free(prepared->storage);
    qemu_caps_free(prepared->caps);
    *prepared = (struct prepared){0};
}
