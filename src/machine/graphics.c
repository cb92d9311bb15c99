/* SPDX-License-Identifier: Apache-2.0 */
/* Screen, pointer and keyboard, and the USB controller that they need. */
#include "machine/build.h"

struct video {
    const char *driver, *what;
    bool is_pci, is_arm;
};

static const struct video videos[] = {
    [VMI_VIDEO_VGA] = {"VGA", "VGA, 16 MiB", true, false},
    [VMI_VIDEO_BOCHS] = {"bochs-display", "Bochs display, 16 MiB", true, true},
    [VMI_VIDEO_VIRTIO] = {"virtio-vga", "virtio GPU", true, true},
    [VMI_VIDEO_RAMFB] = {"ramfb", "RAM frame buffer", false, true},
    [VMI_VIDEO_CIRRUS] = {"cirrus-vga", "Cirrus VGA", true, false},
    [VMI_VIDEO_QXL] = {"qxl-vga", "QXL", true, false},
};

bool domain_has_graphics(const struct build *b)
{
    return b->devices->autoattach_graphics_device != OPT_FALSE;
}

static enum vmi_video_type video_type(const struct build *b, const char **ret_why)
{
    const struct vmi_bootloader *loader = b->domain->firmware.bootloader;

    if (b->devices->video && b->devices->video->type != VMI_VIDEO_UNSET) {
        *ret_why = "video.type in the manifest";
        return b->devices->video->type;
    }
    if (!b->x86) {
        *ret_why = "what arm64 guests have a driver for";
        return VMI_VIDEO_VIRTIO;
    }
    if (loader && loader->efi) {
        *ret_why = "UEFI guests need no VGA registers; simpler, so safer";
        return VMI_VIDEO_BOCHS;
    }
    *ret_why = "works in every guest from its BIOS on";
    return VMI_VIDEO_VGA;
}

static void build_video(struct build *b)
{
    const char *why, *driver;
    enum vmi_video_type type = video_type(b, &why);
    const struct video *video = &videos[type];
    const struct node *at = b->devices->video ? b->devices->video->at : NULL;
    json_t *device;

    if (!b->x86 && !video->is_arm) {
        manifest_fault(b, at, "video type %s is for amd64 (virtio, bochs, ramfb)", video->driver);
        return;
    }
    driver = !b->x86 && type == VMI_VIDEO_VIRTIO ? "virtio-gpu-pci" : video->driver;
    device = device_new(b, at, driver, "video0");
    if (type == VMI_VIDEO_VGA)
        set_int(b, device, "vgamem_mb", 16);
    else if (type == VMI_VIDEO_BOCHS)
        set_int(b, device, "vgamem", 16777216);
    if (video->is_pci) {
        set_string(b, device, "bus", "pcie.0");
        set_string(b, device, "addr", "0x1");
        pci_add(b, device, PCI_FIXED, at, "the video device", NULL);
    }
    item(b, MACHINE_GROUP_CONSOLE, at, "video0", text(b, "video: %s", video->what), why);
}

void build_graphics(struct build *b)
{
    bool vnc = domain_has_graphics(b) && b->facts->vnc;

    if (!domain_has_graphics(b)) {
        option(b, SECTION_LAST, "-display", "none");
        item(b, MACHINE_GROUP_CONSOLE, b->devices->at, NULL, "no screen",
             "autoattachGraphicsDevice is false in the manifest");
        return;
    }
    build_video(b);
    if (vnc) {
        option(b, SECTION_LAST, "-vnc", text(b, "unix:%s", comma(b, private_path(b, "virt-vnc"))));
        item(b, MACHINE_GROUP_CONSOLE, NULL, NULL, "VNC on the socket virt-vnc",
             "no password: who may enter its directory may see the screen");
    } else {
        option(b, SECTION_LAST, "-display", "none");
        item(b, MACHINE_GROUP_CONSOLE, NULL, NULL, "no VNC", "this QEMU has none, or the caller wants none");
    }
}

/* ---- USB, pointer, keyboard ------------------------------------------------------------------------------------ */

static bool adds_tablet(const struct build *b)
{
    return b->devices->inputs.count == 0 && b->devices->autoattach_input_device == OPT_TRUE;
}

static bool host_device_is_usb(const struct build *b)
{
    for (size_t i = 0; i < b->facts->n_host_devices; i++)
        if (b->facts->host_devices[i].kind == MACHINE_HOSTDEV_USB)
            return true;
    return false;
}

bool domain_has_usb(const struct build *b)
{
    for (size_t i = 0; i < b->devices->disks.count; i++)
        if (disk_bus(b, &b->devices->disks.items[i]) == VMI_BUS_USB)
            return true;
    for (size_t i = 0; i < b->devices->inputs.count; i++)
        if (b->devices->inputs.items[i].bus != VMI_BUS_VIRTIO)
            return true;
    return !b->x86 || adds_tablet(b) || b->devices->client_passthrough || host_device_is_usb(b);
}

static void input_add(struct build *b, const struct vmi_input *input, const char *id)
{
    bool tablet = input->type != VMI_INPUT_TYPE_KEYBOARD;
    json_t *device;

    if (input->bus == VMI_BUS_VIRTIO) {
        device = device_new(b, input->at, tablet ? "virtio-tablet-pci" : "virtio-keyboard-pci", id);
        pci_add(b, device, PCI_PORT, input->at, text(b, "input %s", input->name), NULL);
    } else if (input->bus == VMI_BUS_USB || input->bus == VMI_BUS_UNSET) {
        device = device_new(b, input->at, tablet ? "usb-tablet" : "usb-kbd", id);
        set_string(b, device, "bus", "usb.0");
        set_string(b, device, "port", text(b, "%u", ++b->usb_ports));
    } else {
        manifest_fault(b, input->at, "input %s: bus (usb and virtio are allowed)", input->name);
        return;
    }
    item(b, MACHINE_GROUP_CONSOLE, input->at, id, text(b, "%s %s", tablet ? "tablet" : "keyboard", input->name),
         "in the manifest");
}

static void redirections(struct build *b)
{
    if (!b->devices->client_passthrough)
        return;
    for (unsigned i = 0; i < 4; i++) {
        const char *id = text(b, "redir%u", i), *chardev = text(b, "usbredir%u", i);
        json_t *device;

        chardev_listen(b, chardev, NULL, text(b, "virt-usbredir-%u", i));
        device = device_new(b, b->devices->client_passthrough, "usb-redir", id);
        set_string(b, device, "chardev", chardev);
        set_string(b, device, "bus", "usb.0");
        set_string(b, device, "port", text(b, "%u", ++b->usb_ports));
    }
    item(b, MACHINE_GROUP_OTHER, b->devices->client_passthrough, "redir0",
         "4 USB redirections on virt-usbredir-0 to -3", "clientPassthrough in the manifest");
}

void build_inputs(struct build *b)
{
    for (size_t i = 0; i < b->devices->inputs.count; i++) {
        const struct vmi_input *input = &b->devices->inputs.items[i];

        input_add(b, input, device_id(b, "ua-", input->name, i));
    }
    if (adds_tablet(b)) {
        static const struct vmi_input tablet = {.name = "default-0", .bus = VMI_BUS_USB, .type = VMI_INPUT_TYPE_TABLET};

        input_add(b, &tablet, "ua-default-0");
    }
    if (!b->x86 && domain_has_graphics(b)) {
        static const struct vmi_input keyboard = {
            .name = "keyboard", .bus = VMI_BUS_USB, .type = VMI_INPUT_TYPE_KEYBOARD};

        input_add(b, &keyboard, "keyboard0"); /* this board has no PS/2 */
    }
    redirections(b);
}

/* The controllers that other devices plug into; before them on the command line and on PCI. */
void build_controllers(struct build *b)
{
    bool scsi = b->devices->disable_hotplug != OPT_TRUE || domain_has_scsi_disk(b);
    bool transitional = b->devices->use_virtio_transitional == OPT_TRUE;
    enum pci_place virtio = transitional ? PCI_ROOT_BUS : PCI_PORT;
    json_t *device;

    if (domain_has_usb(b)) {
        device = device_new(b, NULL, "qemu-xhci", "usb");
        /* as many ports as can be asked for (hw/usb/hcd-xhci.h: 15 of each speed) */
        set_int(b, device, "p2", 15);
        set_int(b, device, "p3", 15);
        pci_add(b, device, PCI_PORT, NULL, "the USB controller", NULL);
        item(b, MACHINE_GROUP_OTHER, NULL, "usb", "USB controller (xHCI)",
             b->x86 ? "a disk, an input device or a redirection is on USB" : "arm64 has no other keyboard");
    }
    if (scsi) {
        device = virtio_new(b, NULL, "virtio-scsi-pci", "scsi0");
        if (b->devices->block_multi_queue == OPT_TRUE)
            set_int(b, device, "num_queues", MAX(b->machine->vcpus, 1U));
        pci_add(b, device, virtio, NULL, "the SCSI controller", NULL);
        item(b, MACHINE_GROUP_DISKS, NULL, "scsi0", "SCSI controller (virtio)",
             b->devices->disable_hotplug == OPT_TRUE ? "a disk is on SCSI" : "volumes plugged in later come here");
    }
    device = virtio_new(b, NULL, "virtio-serial-pci", "virtio-serial0");
    set_int(b, device, "max_ports", channel_ports(b));
    pci_add(b, device, virtio, NULL, "the channel controller", NULL);
    item(b, MACHINE_GROUP_CONSOLE, NULL, "virtio-serial0", "channel controller (virtio)",
         "the guest agent's channel needs it");
}
