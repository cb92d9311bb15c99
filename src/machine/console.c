/* SPDX-License-Identifier: Apache-2.0 */
/* Ways in and out of the guest that are not a network or a disk: QMP, serial console, channels, firmware log. */
#include "machine/build.h"

static void build_qmp(struct build *b)
{
    chardev_listen(b, "qmp", MACHINE_ROLE_QMP, "qmp.sock");
    option(b, SECTION_BACKEND, "-mon", "chardev=qmp,mode=control");
    item(b, MACHINE_GROUP_CONSOLE, NULL, "qmp", "QMP monitor on qmp.sock",
         "the launcher's line to QEMU; it listens, so that a restarted launcher finds it again");
}

static void build_serial(struct build *b)
{
    bool log = b->facts->serial_log && b->devices->log_serial_console != OPT_FALSE;

    if (b->devices->autoattach_serial_console == OPT_FALSE) {
        item(b, MACHINE_GROUP_CONSOLE, b->devices->at, NULL, "no serial console",
             "autoattachSerialConsole is false in the manifest");
        return;
    }
    /* Fifos, and no socket: what the guest prints waits in them while the launcher is replaced, and each byte is read
     * once. (A socket's logfile= of QEMU before 9 doubles bytes whenever the reader is slow, and nothing rotates it.)
     */
    b->machine->serial = private_path(b, "serial");
    b->machine->serial_log = log;
    option(b, SECTION_BACKEND, "-chardev", text(b, "pipe,id=serial0,path=%s", comma(b, b->machine->serial)));
    if (b->x86) {
        json_t *device = device_new(b, NULL, "isa-serial", "isa-serial0");

        set_string(b, device, "chardev", "serial0");
        set_int(b, device, "index", 0);
    } else {
        option(b, SECTION_BACKEND, "-serial", "chardev:serial0"); /* the board's own PL011 */
    }
    item(b, MACHINE_GROUP_CONSOLE, b->devices->at, b->x86 ? "isa-serial0" : NULL,
         text(b, "serial console (%s)%s", b->x86 ? "16550" : "PL011", log ? ", logged to virt-serial0-log" : ""),
         "autoattachSerialConsole is on by default");
}

static void build_firmware_log(struct build *b)
{
    json_t *device;

    if (!b->facts->firmware_log || !b->x86)
        return;
    b->machine->firmware_log = text(b, "%s", b->facts->firmware_log);
    option(b, SECTION_BACKEND, "-chardev", text(b, "pipe,id=firmware-log,path=%s", comma(b, b->machine->firmware_log)));
    device = device_new(b, NULL, "isa-debugcon", "debugcon0");
    set_string(b, device, "chardev", "firmware-log");
    set_int(b, device, "iobase", 0x402);
    item(b, MACHINE_GROUP_CONSOLE, NULL, "debugcon0", "firmware log", "the launcher's log level asks for it");
}

void build_console(struct build *b)
{
    build_qmp(b);
    build_serial(b);
    build_firmware_log(b);
}

/* Ports of the channels' controller; 0 is a console's (QEMU: hw/char/virtio-serial-bus.c,
 * virtser_port_device_realize()). */
enum {
    PORT_AGENT = 1,
    PORT_METRICS = 2,
};

/* QEMU's default of 31 makes 64 queues: an eventfd for each, which every stop takes down and every cont makes again (a
 * third of the time of either), and half a MiB of the guest's memory. */
unsigned channel_ports(const struct build *b)
{
    return (b->devices->downward_metrics ? PORT_METRICS : PORT_AGENT) + 1;
}

static void channel(struct build *b, const struct node *at, unsigned number, const char *id, const char *role,
                    const char *file, const char *name)
{
    json_t *port;

    chardev_listen(b, role, role, file);
    port = device_new(b, at, "virtserialport", id);
    set_string(b, port, "bus", "virtio-serial0.0");
    set_int(b, port, "nr", number);
    set_string(b, port, "chardev", role);
    set_string(b, port, "name", name);
}

void build_channels(struct build *b)
{
    channel(b, NULL, PORT_AGENT, "channel0", MACHINE_ROLE_AGENT, "agent.sock", "org.qemu.guest_agent.0");
    item(b, MACHINE_GROUP_CONSOLE, NULL, "channel0", "guest agent channel org.qemu.guest_agent.0",
         "always there: commands in the guest, its addresses, freezing its file systems");
    if (b->devices->downward_metrics) {
        channel(b, b->devices->downward_metrics, PORT_METRICS, "channel1", MACHINE_ROLE_METRICS,
                "downward-metrics.sock", "org.github.vhostmd.1");
        item(b, MACHINE_GROUP_CONSOLE, b->devices->downward_metrics, "channel1",
             "downward metrics channel org.github.vhostmd.1", "downwardMetrics in the manifest");
    }
}
