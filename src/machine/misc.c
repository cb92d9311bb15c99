/* SPDX-License-Identifier: Apache-2.0 */
/* Devices of which a machine has one or none, shared directories, and devices of the host. */
#include "base/strv.h"
#include "machine/build.h"

struct machine_helper *helper_add(struct build *b, const char *name, const char *socket, const char *directory,
                                  const char *const *argv, size_t n)
{
    struct machine_helper *helper = LIST_ADD(b, &b->machine->helpers);
    char **copy = arena_new_array(b->arena, char *, n + 1);

    if (!helper || !copy) {
        b->failure = BUILD_NO_MEMORY;
        return NULL;
    }
    for (size_t i = 0; i < n; i++)
        copy[i] = (char *)argv[i];
    *helper = (struct machine_helper){.name = name, .argv = copy, .socket = socket, .directory = directory};
    return helper;
}

void build_rng(struct build *b)
{
    json_t *device;

    if (!b->devices->rng)
        return;
    set_string(b, object_new(b, "rng-random", "rng-source0"), "filename", "/dev/urandom");
    device = virtio_new(b, b->devices->rng, "virtio-rng-pci", "rng0");
    set_string(b, device, "rng", "rng-source0");
    pci_add(b, device, b->devices->use_virtio_transitional == OPT_TRUE ? PCI_ROOT_BUS : PCI_PORT, b->devices->rng,
            "the random number device", NULL);
    item(b, MACHINE_GROUP_OTHER, b->devices->rng, "rng0", "random numbers from the host's /dev/urandom",
         "rng in the manifest");
}

static const char *const watchdog_actions[] = {
    [VMI_WATCHDOG_UNSET] = "reset",
    [VMI_WATCHDOG_RESET] = "reset",
    [VMI_WATCHDOG_POWEROFF] = "poweroff",
    [VMI_WATCHDOG_SHUTDOWN] = "shutdown",
};

void build_watchdog(struct build *b)
{
    const struct vmi_watchdog *watchdog = b->devices->watchdog;
    json_t *device;

    if (b->x86) {
        /* the chipset's own watchdog works only without the strap that QEMU sets by default (hw/isa/lpc_ich9.c) */
        option(b, SECTION_MACHINE, "-global", "ICH9-LPC.noreboot=off");
        b->watchdog_action = "reset";
    }
    if (!watchdog) {
        if (b->x86)
            item(b, MACHINE_GROUP_OTHER, NULL, NULL, "watchdog of the chipset (iTCO), action reset",
                 "part of q35; it sleeps until the guest starts it");
        return;
    }
    if (watchdog->diag288) {
        manifest_fault(b, watchdog->diag288->at, "watchdog diag288 is for s390x (i6300esb)");
        return;
    }
    if (!watchdog->i6300esb)
        return;
    device =
        device_new(b, watchdog->at, "i6300esb", device_id(b, "ua-", watchdog->name ? watchdog->name : "watchdog", 0));
    pci_add(b, device, PCI_ROOT_BUS, watchdog->at, "the watchdog", NULL);
    b->watchdog_action = watchdog_actions[watchdog->i6300esb->action];
    item(b, MACHINE_GROUP_OTHER, watchdog->at, NULL, text(b, "watchdog i6300esb, action %s", b->watchdog_action),
         "in the manifest");
}

void build_sound(struct build *b)
{
    const struct vmi_sound *sound = b->devices->sound;
    json_t *device, *codec, *audio;
    const char *id;

    if (!sound)
        return;
    audio = option_json(b, SECTION_BACKEND, "-audiodev");
    set_string(b, audio, "driver", "none");
    set_string(b, audio, "id", "audio0");
    id = device_id(b, "ua-", sound->name ? sound->name : "sound", 0);
    if (sound->model == VMI_SOUND_AC97) {
        device = device_new(b, sound->at, "AC97", id);
        set_string(b, device, "audiodev", "audio0");
        pci_add(b, device, PCI_ROOT_BUS, sound->at, "the sound device", NULL);
    } else {
        device = device_new(b, sound->at, "ich9-intel-hda", id);
        set_string(b, device, "bus", "pcie.0");
        set_string(b, device, "addr", "0x1b"); /* where an ICH9 has it */
        pci_add(b, device, PCI_FIXED, sound->at, "the sound device", NULL);
        codec = device_new(b, sound->at, "hda-duplex", "sound-codec0");
        set_string(b, codec, "bus", text(b, "%s.0", id));
        set_string(b, codec, "audiodev", "audio0");
    }
    item(b, MACHINE_GROUP_OTHER, sound->at, id,
         text(b, "sound %s, to nowhere", sound->model == VMI_SOUND_AC97 ? "AC97" : "ICH9"),
         "in the manifest; a pod has no loudspeaker");
}

void build_tpm(struct build *b)
{
    const struct vmi_tpm *tpm = b->devices->tpm;
    bool persistent = tpm && tpm->persistent == OPT_TRUE;
    const char *socket = private_path(b, "swtpm.sock"), *state = private_path(b, "swtpm");
    const char *driver;
    json_t *device;

    if (!tpm || tpm->enabled == OPT_FALSE)
        return;
    driver = !b->x86 ? "tpm-tis-device" : persistent ? "tpm-crb" : "tpm-tis";
    helper_add(b, "swtpm", socket, state,
               (const char *const[]){"swtpm", "socket", "--tpm2", "--tpmstate", text(b, "dir=%s,mode=0600", state),
                                     "--ctrl", text(b, "type=unixio,path=%s,mode=0600", socket), "--terminate"},
               8);
    if (strchr(socket, ','))
        host_fault(b, tpm->at, "the directory %s has a comma in its name, which swtpm cannot be told",
                   b->facts->private_dir);
    option(b, SECTION_BACKEND, "-chardev", text(b, "socket,id=tpm-socket,path=%s", comma(b, socket)));
    option(b, SECTION_BACKEND, "-tpmdev", "emulator,id=tpm-backend,chardev=tpm-socket");
    device = device_new(b, tpm->at, driver, "tpm0");
    set_string(b, device, "tpmdev", "tpm-backend");
    item(b, MACHINE_GROUP_OTHER, tpm->at, "tpm0", text(b, "TPM 2.0 (%s), by swtpm", driver),
         persistent ? "in the manifest; its state is kept" : "in the manifest; its state ends with the VM");
}

void build_panic(struct build *b)
{
    bool isa = false;

    for (size_t i = 0; i < b->devices->panic_devices.count; i++) {
        const struct vmi_panic_device *panic = &b->devices->panic_devices.items[i];
        json_t *device;

        switch (panic->model) {
        case VMI_PANIC_HYPERV:
            if (!b->x86)
                manifest_fault(b, panic->at, "panic device hyperv is for amd64 (pvpanic)");
            item(b, MACHINE_GROUP_OTHER, panic->at, NULL, "panic reports by Hyper-V's crash registers",
                 "panicDevices in the manifest");
            break;
        case VMI_PANIC_PVPANIC:
            device = device_new(b, panic->at, "pvpanic-pci", text(b, "panic%zu", i));
            pci_add(b, device, PCI_ROOT_BUS, panic->at, "the panic device", NULL);
            item(b, MACHINE_GROUP_OTHER, panic->at, text(b, "panic%zu", i), "panic device (PCI)",
                 "panicDevices in the manifest");
            break;
        case VMI_PANIC_ISA:
        case VMI_PANIC_UNSET:
        default:
            if (!b->x86)
                manifest_fault(b, panic->at, "panic device isa is for amd64 (pvpanic)");
            else if (isa)
                manifest_fault(b, panic->at, "there is one ISA panic device at most, at its fixed port");
            else
                set_int(b, device_new(b, panic->at, "pvpanic", text(b, "panic%zu", i)), "ioport", 0x505);
            isa = true;
            item(b, MACHINE_GROUP_OTHER, panic->at, text(b, "panic%zu", i), "panic device (ISA)",
                 "panicDevices in the manifest");
        }
    }
}

void build_vsock(struct build *b)
{
    unsigned cid = b->facts->vsock_cid;
    json_t *device;

    if (b->devices->autoattach_vsock != OPT_TRUE)
        return;
    if (b->facts->vsock_cid < 3 && b->facts->assume)
        cid = 3; /* the first that is not taken by vsock(7) itself */
    if (cid < 3) {
        host_fault(b, b->devices->at, "autoattachVSOCK: no context id was assigned to this VM (3 and up)");
        return;
    }
    device = virtio_new(b, b->devices->at, "vhost-vsock-pci", "vsock0");
    set_int(b, device, "guest-cid", cid);
    pci_add(b, device, b->devices->use_virtio_transitional == OPT_TRUE ? PCI_ROOT_BUS : PCI_PORT, b->devices->at,
            "the vsock device", NULL);
    item(b, MACHINE_GROUP_OTHER, b->devices->at, "vsock0", text(b, "vsock, context id %u", cid),
         "autoattachVSOCK in the manifest; the id was assigned to this VM");
}

/* ---- shared directories ---------------------------------------------------------------------------------------- */

static const struct machine_volume *virtiofs_volume(const struct build *b, const struct vmi_filesystem *fs)
{
    return volume_find(b, fs->volume ? fs->volume->name : fs->name);
}

/* The daemon that QEMU 7.2 and older brought with it takes the directory as one of its -o options. */
static const char *virtiofs_helper(struct build *b, const struct vmi_filesystem *fs, size_t index)
{
    const struct machine_volume *volume = virtiofs_volume(b, fs);
    const char *socket = private_path(b, text(b, "virtiofs%zu.sock", index)), *directory = volume ? volume->path : NULL;
    const char *program = text(b, "%s", b->facts->virtiofsd ? b->facts->virtiofsd : "virtiofsd");
    bool old = endswith(program, "/qemu/virtiofsd");

    if (!directory) {
        host_fault(b, fs->at, "filesystem %s: nothing was found for its volume", fs->name);
        return socket;
    }
    if (old && strchr(directory, ',')) {
        host_fault(b, fs->at, "filesystem %s: %s has a comma in its name, which %s cannot be told", fs->name, directory,
                   program);
        return socket;
    }
    if (old && volume->read_only) {
        host_fault(b, fs->at,
                   "filesystem %s is read-only, which %s cannot be told (use the virtiofsd of its own project)",
                   fs->name, program);
        return socket;
    }
    helper_add(b, "virtiofsd", socket, NULL,
               (const char *const[]){program, text(b, "--socket-path=%s", socket), old ? "-o" : "--shared-dir",
                                     old ? text(b, "source=%s", directory) : text(b, "%s", directory), "--readonly"},
               volume->read_only ? 5 : 4);
    return socket;
}

void build_filesystems(struct build *b)
{
    for (size_t i = 0; i < b->devices->filesystems.count; i++) {
        const struct vmi_filesystem *fs = &b->devices->filesystems.items[i];
        const char *id = device_id(b, "ua-", fs->name, i), *chardev = text(b, "virtiofs%zu", i), *socket;
        json_t *device;

        if (!fs->virtiofs)
            continue;
        if (strlen(fs->name) > 36)
            manifest_fault(b, fs->at, "filesystem %s: the name is the guest's mount tag (up to 36 bytes)", fs->name);
        socket = b->facts->virtiofs_socket_dir ? text(b, "%s/%s.sock", b->facts->virtiofs_socket_dir, fs->name)
                                               : virtiofs_helper(b, fs, i);
        option(b, SECTION_BACKEND, "-chardev", text(b, "socket,id=%s,path=%s", chardev, comma(b, socket)));
        device = device_new(b, fs->at, "vhost-user-fs-pci", id);
        set_string(b, device, "chardev", chardev);
        set_string(b, device, "tag", fs->name);
        set_int(b, device, "queue-size", 1024);
        pci_add(b, device, PCI_PORT, fs->at, text(b, "filesystem %s", fs->name), NULL);
        item(b, MACHINE_GROUP_DISKS, fs->at, id, text(b, "filesystem %s (virtiofs)", fs->name),
             text(b, "in the manifest; the daemon listens on %s", socket));
    }
}

/* ---- devices of the host --------------------------------------------------------------------------------------- */

static const struct machine_host_device *find_host_device(const struct build *b, const char *name)
{
    for (size_t i = 0; i < b->facts->n_host_devices; i++)
        if (streq(b->facts->host_devices[i].name, name))
            return &b->facts->host_devices[i];
    return NULL;
}

static void host_usb(struct build *b, const struct node *at, const struct machine_host_device *host, const char *id)
{
    unsigned bus, device;
    char after;
    json_t *usb;

    if (sscanf(host->address, "%3u:%3u%c", &bus, &device, &after) != 2) {
        host_fault(b, at, "USB device %s: address \"%s\" is not of the form BUS:DEVICE", host->name, host->address);
        return;
    }
    usb = device_new(b, at, "usb-host", id);
    set_int(b, usb, "hostbus", bus);
    set_int(b, usb, "hostaddr", device);
    set_string(b, usb, "bus", "usb.0");
    set_string(b, usb, "port", text(b, "%u", ++b->usb_ports));
}

static const struct vmi_vgpu_display *wanted_display(const struct vmi_host_device *options)
{
    const struct vmi_vgpu_display *display =
        options && options->virtual_gpu_options ? options->virtual_gpu_options->display : NULL;

    return display && display->enabled != OPT_FALSE ? display : NULL;
}

/* A frame buffer until the guest's driver runs; on unless the manifest turns it off. */
static bool wants_ramfb(const struct vmi_host_device *options)
{
    const struct vmi_vgpu_display *display = wanted_display(options);

    return display && (!display->ram_fb || vmi_feature_on(display->ram_fb));
}

void host_device_add(struct build *b, const struct node *at, const char *name, const char *prefix,
                     const struct vmi_host_device *options, int64_t bootindex)
{
    static const struct machine_host_device assumed = {.kind = MACHINE_HOSTDEV_PCI, .address = "0000:00:00.0"};
    const struct machine_host_device *host = find_host_device(b, name);
    const char *id;
    json_t *device;

    if (!host && b->facts->assume)
        host = &assumed;
    if (!host) {
        host_fault(b, at, "%s: no device of this host was given to it (a device plugin does that in a cluster)", name);
        return;
    }
    id = device_id(b, prefix, name, b->machine->items.count);
    if (host->kind == MACHINE_HOSTDEV_USB) {
        host_usb(b, at, host, id);
    } else {
        bool mdev = host->kind == MACHINE_HOSTDEV_MDEV;

        /* ramfb is only in the variant that cannot be unplugged (hw/vfio/pci.c) */
        device = device_new(b, at, mdev && wants_ramfb(options) ? "vfio-pci-nohotplug" : "vfio-pci", id);
        if (mdev)
            set_string(b, device, "sysfsdev", text(b, "/sys/bus/mdev/devices/%s", host->address));
        else
            set_string(b, device, "host", host->address);
        if (mdev)
            set_string(b, device, "display", wanted_display(options) ? "on" : "off");
        if (mdev && wants_ramfb(options))
            set_bool(b, device, "ramfb", true);
        if (bootindex > 0)
            set_int(b, device, "bootindex", (uint64_t)bootindex);
        pci_add(b, device, PCI_PORT, at, text(b, "host device %s", name), NULL);
    }
    item(b, options ? MACHINE_GROUP_OTHER : MACHINE_GROUP_NETWORK, at, id,
         text(b, "host device %s: %s", name, host == &assumed ? "whichever it is given" : host->address),
         "given to this VM by the device plugin, or the caller");
}

void build_host_devices(struct build *b)
{
    for (size_t i = 0; i < b->devices->gpus.count; i++)
        host_device_add(b, b->devices->gpus.items[i].at, b->devices->gpus.items[i].name, "ua-gpu-",
                        &b->devices->gpus.items[i], 0);
    for (size_t i = 0; i < b->devices->host_devices.count; i++)
        host_device_add(b, b->devices->host_devices.items[i].at, b->devices->host_devices.items[i].name,
                        "ua-hostdevice-", &b->devices->host_devices.items[i], 0);
}
