/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints what a manifest becomes, for the golden files: `render [--qemu X.Y] [--arch A] [--accel kvm|tcg] [--root DIR]
 * [--binary PATH] FILE`. The facts of the host are made up by convention from the manifest alone, the same on every
 * machine; the annotation "test/facts" (JSON) changes them. Output is one JSON object: argv, environment, fds, helpers,
 * files, machine; or code and message of the error, and the faults.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>

#include <vmlet/vmi.h>

#include "base/arena.h"
#include "base/strv.h"
#include "machine/machine.h"

enum { MOST = 64 };

struct scene {
    const char *root;
    json_t *hints; /* the annotation */
    struct arena *arena;
    struct qemu_caps caps;
    struct machine_facts facts;
    struct machine_volume volumes[MOST];
    struct machine_nic nics[MOST];
    struct machine_host_device host_devices[MOST];
    json_t *files; /* what the start test has to make: path -> {format, backing, backing_format} */
};

static const char *hint_string(const json_t *hints, const char *key, const char *otherwise)
{
    const char *value = json_string_value(json_object_get(hints, key));

    return value ? value : otherwise;
}

static bool hint_bool(const json_t *hints, const char *key, bool otherwise)
{
    const json_t *value = json_object_get(hints, key);

    return value ? json_is_true(value) : otherwise;
}

static unsigned hint_number(const json_t *hints, const char *key, unsigned otherwise)
{
    const json_t *value = json_object_get(hints, key);

    return value ? (unsigned)json_integer_value(value) : otherwise;
}

/* ---- volumes: where each kind is in a pod (compat paths) -------------------------------------------------------- */

static void add_file(struct scene *s, const struct machine_volume *v)
{
    json_t *file = json_pack("{s:s, s:s*, s:s*}", "format", v->format ? v->format : "raw", "backing", v->backing_path,
                             "backing_format", v->backing_format);

    json_object_set_new(s->files, v->path, file);
}

static void volume_paths(struct scene *s, const struct vmi_volume *volume, struct machine_volume *v)
{
    const char *root = s->root, *name = volume->name;

    v->format = "raw";
    switch (volume->kind) {
    case VMI_VOLUME_CONTAINER_DISK:
        v->backing_path =
            arena_printf(s->arena, "%s/var/run/kubevirt/container-disks/disk_%zu.img", root, volume->index);
        v->backing_format = "qcow2";
        v->path = arena_printf(s->arena, "%s/var/run/kubevirt-ephemeral-disks/disk-data/%s/disk.qcow2", root, name);
        v->format = "qcow2";
        break;
    case VMI_VOLUME_EPHEMERAL:
        v->backing_path = arena_printf(s->arena, "%s/var/run/kubevirt-private/vmi-disks/%s/disk.img", root, name);
        v->backing_format = "raw";
        v->path = arena_printf(s->arena, "%s/var/run/kubevirt-ephemeral-disks/disk-data/%s/disk.qcow2", root, name);
        v->format = "qcow2";
        break;
    case VMI_VOLUME_EMPTY_DISK:
        v->path = arena_printf(s->arena, "%s/var/run/libvirt/empty-disks/%s.qcow2", root, name);
        v->format = "qcow2";
        break;
    case VMI_VOLUME_HOST_DISK:
        v->path = arena_printf(s->arena, "%s/var/run/kubevirt-private/vmi-disks/%s/%s", root, name,
                               strrchr(volume->host_disk->path, '/') ? strrchr(volume->host_disk->path, '/') + 1
                                                                     : volume->host_disk->path);
        break;
    case VMI_VOLUME_CLOUD_INIT_NO_CLOUD:
        v->path = arena_printf(s->arena, "%s/var/run/kubevirt-ephemeral-disks/cloud-init-data/noCloud.iso", root);
        break;
    case VMI_VOLUME_CLOUD_INIT_CONFIG_DRIVE:
        v->path = arena_printf(s->arena, "%s/var/run/kubevirt-ephemeral-disks/cloud-init-data/configdrive.iso", root);
        break;
    case VMI_VOLUME_PVC:
    case VMI_VOLUME_DATA_VOLUME:
    default:
        v->path = arena_printf(s->arena, "%s/var/run/kubevirt-private/vmi-disks/%s/disk.img", root, name);
    }
}

/* Its files are named one by one, at the place of the pod. */
static bool is_acpi_secret(const struct vmi *vmi, const struct vmi_volume *volume)
{
    const struct vmi_acpi_tables *acpi = vmi->spec.domain.firmware.acpi;

    return acpi && (streq_ptr(acpi->slic_name_ref, volume->name) || streq_ptr(acpi->msdm_name_ref, volume->name));
}

static void make_volumes(struct scene *s, const struct vmi *vmi)
{
    const json_t *hints = json_object_get(s->hints, "volumes");

    for (size_t i = 0; i < vmi->spec.volumes.count && i < MOST; i++) {
        const struct vmi_volume *volume = &vmi->spec.volumes.items[i];
        const json_t *hint = json_object_get(hints, volume->name);
        struct machine_volume *v = &s->volumes[s->facts.n_volumes];

        if (hint_bool(hint, "missing", false) || is_acpi_secret(vmi, volume))
            continue;
        *v = (struct machine_volume){.volume = volume->name,
                                     .is_block_device = hint_bool(hint, "block", false),
                                     .read_only = hint_bool(hint, "readOnly", false),
                                     .direct_io = hint_bool(hint, "directIO", true),
                                     .backing_direct_io = hint_bool(hint, "backingDirectIO", true),
                                     .preallocated = hint_bool(hint, "preallocated", false),
                                     .logical_block = hint_number(hint, "logicalBlock", 512),
                                     .physical_block = hint_number(hint, "physicalBlock", 4096)};
        volume_paths(s, volume, v);
        v->format = hint_string(hint, "format", v->format);
        v->backing_is_block_device = hint_bool(hint, "backingBlock", false);
        if (v->backing_is_block_device)
            v->backing_path = arena_printf(s->arena, "/dev/%s", volume->name);
        if (hint_string(hint, "path", NULL))
            v->path = arena_printf(s->arena, "%s%s", s->root, hint_string(hint, "path", ""));
        if (v->is_block_device)
            v->path = arena_printf(s->arena, "/dev/%s", volume->name);
        else
            add_file(s, v);
        s->facts.n_volumes++;
    }
    s->facts.volumes = s->volumes;
}

/* ---- the network ------------------------------------------------------------------------------------------------ */

static enum machine_net_kind net_kind(const struct vmi_interface *interface, const char *hint)
{
    static const char *const names[] = {"none", "user", "tap", "passt"};

    for (unsigned i = 0; hint && i < ELEMENTSOF(names); i++)
        if (streq(hint, names[i]))
            return (enum machine_net_kind)i;
    switch (interface->binding) {
    case VMI_BINDING_PASST:
        return MACHINE_NET_PASST;
    case VMI_BINDING_SLIRP:
        return MACHINE_NET_USER;
    default:
        return MACHINE_NET_TAP;
    }
}

static void make_nics(struct scene *s, const struct vmi *vmi)
{
    const json_t *hints = json_object_get(s->hints, "nics");
    bool many = vmi->spec.domain.devices.network_interface_multiqueue == OPT_TRUE;

    for (size_t i = 0; i < vmi->spec.domain.devices.interfaces.count && i < MOST; i++) {
        const struct vmi_interface *interface = &vmi->spec.domain.devices.interfaces.items[i];
        const json_t *hint = json_object_get(hints, interface->name);
        struct machine_nic *n = &s->nics[s->facts.n_nics];
        unsigned queues = many && interface->model == VMI_NIC_VIRTIO ? MIN(vmi_vcpus(vmi), 256U) : 1;

        if (hint_bool(hint, "missing", false))
            continue;
        *n = (struct machine_nic){
            .interface = interface->name,
            .kind = net_kind(interface, hint_string(hint, "kind", NULL)),
            .mac = interface->mac_address ? interface->mac_address
                                          : arena_printf(s->arena, "02:00:00:00:00:%02x", (unsigned)i + 1),
            .mtu = hint_number(hint, "mtu", 1450),
            .queues = hint_number(hint, "queues", queues),
            .vhost = hint_bool(hint, "vhost", false),
        };
        n->tap = n->kind == MACHINE_NET_TAP ? arena_printf(s->arena, "tap%zu", i) : NULL;
        n->socket_path =
            n->kind == MACHINE_NET_PASST ? arena_printf(s->arena, "%s/run/passt%zu.sock", s->root, i) : NULL;
        s->facts.n_nics++;
    }
    s->facts.nics = s->nics;
}

static void make_host_devices(struct scene *s)
{
    const char *name;
    json_t *device;

    json_object_foreach (json_object_get(s->hints, "hostDevices"), name, device) {
        const char *kind = hint_string(device, "kind", "pci");

        s->host_devices[s->facts.n_host_devices++] = (struct machine_host_device){
            .name = name,
            .kind = streq(kind, "usb")    ? MACHINE_HOSTDEV_USB
                    : streq(kind, "mdev") ? MACHINE_HOSTDEV_MDEV
                                          : MACHINE_HOSTDEV_PCI,
            .address = hint_string(device, "address", ""),
        };
        if (s->facts.n_host_devices == MOST)
            break;
    }
    s->facts.host_devices = s->host_devices;
}

/* Debian's packages ovmf and qemu-efi-aarch64. */
static const char *const firmware[] = {
    "/usr/share/OVMF/OVMF_CODE_4M.fd",    "/usr/share/OVMF/OVMF_VARS_4M.fd",   "/usr/share/OVMF/OVMF_CODE_4M.ms.fd",
    "/usr/share/OVMF/OVMF_VARS_4M.ms.fd", "/usr/share/AAVMF/AAVMF_CODE.fd",    "/usr/share/AAVMF/AAVMF_VARS.fd",
    "/usr/share/AAVMF/AAVMF_CODE.ms.fd",  "/usr/share/AAVMF/AAVMF_VARS.ms.fd", NULL,
};

static const char *const fedora_firmware[] = {
    "/usr/share/edk2/ovmf/OVMF_CODE.fd",
    "/usr/share/edk2/ovmf/OVMF_VARS.fd",
    "/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd",
    "/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd",
    NULL,
};

static const char *const no_firmware[] = {NULL};

static char **string_list(struct scene *s, const json_t *array)
{
    size_t n = json_array_size(array);
    char **list = arena_new_array(s->arena, char *, n + 1);

    for (size_t i = 0; list && i < n; i++)
        list[i] = arena_strdup(s->arena, json_string_value(json_array_get(array, i)));
    return list;
}

static void make_scene(struct scene *s, const struct vmi *vmi)
{
    static const struct machine_smbios smbios = {
        .manufacturer = "Example, Inc.", .product = "Cloud", .version = "1", .sku = "S", .family = "F"};
    const char *found = hint_string(s->hints, "firmware", "debian");
    struct machine_facts *f = &s->facts;

    f->caps = &s->caps;
    f->private_dir = arena_printf(s->arena, "%s/var/run/kubevirt-private/%s", s->root, vmi->uid ? vmi->uid : "uid");
    f->known_firmware = streq(found, "debian") ? firmware : streq(found, "fedora") ? fedora_firmware : no_firmware;
    f->firmware_dir = hint_string(s->hints, "firmwareDir", NULL);
    f->kernel = hint_string(s->hints, "kernel", NULL);
    f->initrd = hint_string(s->hints, "initrd", NULL);
    f->append = hint_string(s->hints, "append", NULL);
    f->ignition_path = vmi_annotation(vmi, "kubevirt.io/ignitiondata")
                           ? arena_printf(s->arena, "%s/var/run/libvirt/ignition-dir/data.ign", s->root)
                           : NULL;
    f->vsock_cid = hint_number(s->hints, "vsockCid", 0);
    f->assume = hint_bool(s->hints, "assume", false);
    f->vnc = hint_bool(s->hints, "vnc", true);
    f->serial_log = hint_bool(s->hints, "serialLog", true);
    if (hint_bool(s->hints, "firmwareLog", false))
        f->firmware_log = arena_printf(s->arena, "%s/var/run/kubevirt-private/QEMUSeaBiosDebugPipe", s->root);
    f->now = 1800000000;
    f->smbios = hint_bool(s->hints, "smbios", false) ? &smbios : NULL;
    f->no_free_page_reporting = hint_bool(s->hints, "noFreePageReporting", false);
    f->virtiofs_socket_dir = hint_string(s->hints, "virtiofsSocketDir", NULL);
    f->virtiofsd = hint_string(s->hints, "virtiofsd", "/usr/libexec/virtiofsd");
    if (json_object_get(s->hints, "qemuDevices"))
        s->caps.devices = string_list(s, json_object_get(s->hints, "qemuDevices"));
    if (json_object_get(s->hints, "qemuMachines"))
        s->caps.machines = string_list(s, json_object_get(s->hints, "qemuMachines"));
    make_volumes(s, vmi);
    make_nics(s, vmi);
    make_host_devices(s);
}

/* ---- output ------------------------------------------------------------------------------------------------------ */

static json_t *strings(char *const *list)
{
    json_t *array = json_array();

    STRV_FOREACH (s, list)
        json_array_append_new(array, json_string(*s));
    return array;
}

static json_t *fds_to_json(const struct machine *machine)
{
    static const char *const kinds[] = {"listen", "tap", "vhost-net"};
    json_t *array = json_array();
    size_t n;
    const struct machine_fd *fds = machine_get_fds(machine, &n);

    for (size_t i = 0; i < n; i++)
        json_array_append_new(array, json_pack("{s:i, s:s, s:s*, s:s, s:i}", "number", fds[i].number, "kind",
                                               kinds[fds[i].kind], "role", fds[i].role, "path", fds[i].path, "queue",
                                               (int)fds[i].queue));
    return array;
}

static json_t *helpers_to_json(const struct machine *machine)
{
    json_t *array = json_array();
    size_t n;
    const struct machine_helper *helpers = machine_get_helpers(machine, &n);

    for (size_t i = 0; i < n; i++)
        json_array_append_new(array,
                              json_pack("{s:s, s:s, s:s*, s:o}", "name", helpers[i].name, "socket", helpers[i].socket,
                                        "directory", helpers[i].directory, "argv", strings(helpers[i].argv)));
    return array;
}

static json_t *result_to_json(const struct machine *machine, json_t *files)
{
    const char *template = NULL, *nvram = machine_get_nvram(machine, &template);

    return json_pack("{s:o, s:o, s:o, s:o, s:O, s:s*, s:s*, s:o}", "argv", strings(machine_get_argv(machine)),
                     "environment", strings(machine_get_environment(machine)), "fds", fds_to_json(machine), "helpers",
                     helpers_to_json(machine), "files", files, "nvram", nvram, "nvramTemplate", template, "machine",
                     machine_to_json(machine));
}

static json_t *failure_to_json(struct error *error, struct faults *faults)
{
    _cleanup_free_ char *text = faults_format(faults);

    return json_pack("{s:s, s:s, s:s}", "code", error_code_name(error_get_code(error)), "message", error_message(error),
                     "faults", text ? text : "");
}

static int render(const char *path, struct scene *s, const char *arch)
{
    struct vmi_load_options options = {.default_uuid_seed = "golden", .default_arch = arch};
    struct faults faults = {0};
    _cleanup_error_ struct error *error = NULL;
    _cleanup_(vmi_freep) struct vmi *vmi = NULL;
    _cleanup_(machine_freep) struct machine *machine = NULL;
    json_t *out;
    int r = vmi_load_file(path, &options, &vmi, &faults, &error);

    if (r >= 0) {
        const char *hints = vmi_annotation(vmi, "test/facts");

        s->hints = hints ? json_loads(hints, 0, NULL) : NULL;
        if (hints && !s->hints) {
            fprintf(stderr, "%s: annotation test/facts is no JSON\n", path);
            return 1;
        }
        make_scene(s, vmi);
        r = machine_build(vmi, &s->facts, &machine, &faults, &error);
    }
    out = r < 0 ? failure_to_json(error, &faults) : result_to_json(machine, s->files);
    json_dumpf(out, stdout, JSON_INDENT(1));
    putchar('\n');
    json_decref(out);
    json_decref(s->hints);
    faults_done(&faults);
    return r < 0 ? 2 : 0;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {
        {"qemu", required_argument, NULL, 'q'},   {"arch", required_argument, NULL, 'a'},
        {"accel", required_argument, NULL, 'c'},  {"root", required_argument, NULL, 'r'},
        {"binary", required_argument, NULL, 'b'}, {NULL, 0, NULL, 0},
    };
    _cleanup_(arena_freep) struct arena *arena = arena_new();
    struct scene scene = {.root = "",
                          .arena = arena,
                          .files = json_object(),
                          .caps = {.version = 7002000},
                          .facts = {.accel = MACHINE_ACCEL_TCG}};
    const char *arch = "amd64";
    unsigned major, minor;
    int c, r;

    while ((c = getopt_long(argc, argv, "", longs, NULL)) >= 0) {
        if (c == 'q' && sscanf(optarg, "%u.%u", &major, &minor) == 2)
            scene.caps.version = major * 1000000 + minor * 1000;
        else if (c == 'a')
            arch = streq(optarg, "aarch64") ? "arm64" : "amd64";
        else if (c == 'c')
            scene.facts.accel = streq(optarg, "kvm") ? MACHINE_ACCEL_KVM : MACHINE_ACCEL_TCG;
        else if (c == 'r')
            scene.root = optarg;
        else if (c == 'b')
            scene.caps.binary = optarg;
        else
            return 64;
    }
    if (optind + 1 != argc) {
        fprintf(stderr, "usage: render [options] FILE\n");
        return 64;
    }
    scene.facts.arch = streq(arch, "arm64") ? MACHINE_ARCH_AARCH64 : MACHINE_ARCH_X86_64;
    r = render(argv[optind], &scene, arch);
    json_decref(scene.files);
    return r;
}
