/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a VMI and the facts of a host to a machine, and from the machine to QEMU's command line. Pure: no system call,
 * no clock, no random number, so that a golden file can say what comes out.
 */
#pragma once

#include <jansson.h>

#include <vmlet/vmi.h>

#include "base/error.h"
#include "json/faults.h"

enum machine_arch {
    MACHINE_ARCH_X86_64,
    MACHINE_ARCH_AARCH64,
};

enum machine_accel {
    MACHINE_ACCEL_KVM,
    MACHINE_ACCEL_TCG,
};

/* What one QEMU binary can do; read once per binary and cached. */
struct qemu_caps {
    unsigned version;      /* 1000000 * major + 1000 * minor + micro */
    char *binary;          /* path */
    char *const *devices;  /* sorted names of the device types it has; NULL: not known, assume all */
    char *const *machines; /* sorted; NULL: not known */
    char *const *objects;
    char *package; /* "Debian 1:7.2+dfsg-7", or NULL */
    bool vnc;      /* built with VNC */
    bool sandbox;  /* built with seccomp: -sandbox works */
    bool io_uring; /* built with io_uring (the kernel may still refuse it) */
};

/* Where a volume's content is, as src/storage found or made it. */
struct machine_volume {
    const char *volume; /* name in spec.volumes */
    const char *path;
    const char *format;                        /* "raw" or "qcow2" */
    const char *backing_path, *backing_format; /* of an overlay, or NULL */
    bool is_block_device;
    bool read_only;
    bool direct_io;                                  /* O_DIRECT works on it */
    bool backing_direct_io, backing_is_block_device; /* the image below */
    bool absent; /* hotpluggable, and not there yet: the disk is left out, a CD-ROM's tray is empty */
    bool preallocated;
    unsigned logical_block, physical_block; /* for blockSize.matchVolume; 0: not known */
};

/* How an interface reaches the pod's network. */
enum machine_net_kind {
    MACHINE_NET_NONE, /* NIC without a peer: `--net none`, or the link is absent */
    MACHINE_NET_USER,
    MACHINE_NET_TAP,   /* opened by us (TUNSETIFF) and passed by fd; vhost too if vhost is set */
    MACHINE_NET_PASST, /* stream socket of a passt process */
};

struct machine_nic {
    const char *interface; /* name in spec.domain.devices.interfaces */
    enum machine_net_kind kind;
    const char *tap;         /* "tap0" */
    const char *socket_path; /* passt */
    char *const *passt_argv; /* what listens there, started with QEMU; NULL: something does already */
    const char *mac;         /* never NULL */
    unsigned mtu;            /* 0: not told to the guest */
    unsigned queues;         /* 1 and up */
    bool vhost;
};

struct machine_host_device {
    const char *name; /* of gpus[] or hostDevices[] */
    enum { MACHINE_HOSTDEV_PCI, MACHINE_HOSTDEV_MDEV, MACHINE_HOSTDEV_USB } kind;
    const char *address; /* "0000:3b:00.0", an mdev UUID, or "bus:device" */
};

/* SMBIOS type 1 of the cluster's configuration (VirtualMachineOptions.VirtualMachineSMBios); NULL members are left out.
 */
struct machine_smbios {
    const char *manufacturer, *product, *version, *sku, *family;
};

/* All that is not in the manifest. Arrays are borrowed for the call. */
struct machine_facts {
    enum machine_arch arch;
    enum machine_accel accel;
    const struct qemu_caps *caps;
    const char *private_dir;           /* of this VM: sockets, logs, NVRAM ("/var/run/kubevirt-private/<uid>") */
    const char *firmware_dir;          /* --ovmf-path; NULL: look in known_firmware */
    const char *const *known_firmware; /* NULL-terminated: the firmware files that exist on this host */
    const struct machine_volume *volumes;
    size_t n_volumes;
    const struct machine_nic *nics;
    size_t n_nics;
    const struct machine_host_device *host_devices;
    size_t n_host_devices;
    const char *kernel, *initrd, *append; /* what -kernel, -initrd, -append get; NULL: none */
    const char *ignition_path;
    unsigned vsock_cid;       /* 0: none assigned */
    bool vnc;                 /* false: no VNC socket even if the manifest has graphics (QEMU built without it) */
    bool serial_log;          /* write virt-serial0-log */
    const char *firmware_log; /* a fifo, to which the firmware's debug port writes; NULL: no such port */
    int64_t now;              /* seconds since the epoch, for clock.utc.offsetSeconds; 0: not known */
    const struct machine_smbios *smbios; /* NULL: KubeVirt's own values */
    bool no_free_page_reporting;         /* the cluster's configuration */
    bool assume; /* for `explain`: what only a host or a cluster gives (devices, a vsock id) is taken as given, and what
                    the host lacks is no fault but a line of machine_get_lacks() */
    const char *virtiofs_socket_dir; /* daemons listen there already, as <filesystem>.sock; NULL: we start them */
    const char *virtiofsd;           /* the program for that; NULL: "virtiofsd" */
};

/* A fd that the QEMU process is to inherit under a fixed number. The domain opens it before the spawn. */
enum machine_fd_kind {
    MACHINE_FD_LISTEN,    /* a listening unix socket at `path` */
    MACHINE_FD_TAP,       /* queue `queue` of the tap device `path` */
    MACHINE_FD_VHOST_NET, /* /dev/vhost-net */
};

/* The roles that the domain looks for among the listening sockets. */
#define MACHINE_ROLE_QMP     "qmp"
#define MACHINE_ROLE_AGENT   "agent"
#define MACHINE_ROLE_METRICS "downward-metrics"

struct machine_fd {
    int number;
    enum machine_fd_kind kind;
    const char *role; /* one of MACHINE_ROLE_…, or NULL */
    const char *path;
    unsigned queue;
};

/* A process that must listen on `socket` before QEMU starts, and ends with it (swtpm, virtiofsd, passt). */
struct machine_helper {
    const char *name; /* "swtpm" */
    char *const *argv;
    const char *socket;
    const char *directory; /* its state: made 0700 before it starts; NULL: none */
};

/* What an item is listed under. */
enum machine_group {
    MACHINE_GROUP_MACHINE,
    MACHINE_GROUP_CPU,
    MACHINE_GROUP_MEMORY,
    MACHINE_GROUP_DISKS,
    MACHINE_GROUP_NETWORK,
    MACHINE_GROUP_CONSOLE,
    MACHINE_GROUP_OTHER,
    MACHINE_GROUP_COUNT,
};

/* One device or setting of the machine, for people and programs. */
struct machine_item {
    enum machine_group group;
    const char *path; /* "spec.domain.devices.disks[0]", or "" for what is always there */
    const char *what; /* "disk rootdisk: virtio-blk, bootindex 1" */
    const char *why;  /* "bus virtio in the manifest; cache none because O_DIRECT works on the file" */
    const char *id;   /* QEMU's id, or NULL */
};

struct machine;

/*
 * Builds the machine. What the manifest asks for and this host or QEMU cannot do becomes faults (-EINVAL,
 * ERROR_BAD_MANIFEST, or ERROR_HOST if the manifest is right and the host lacks it). *ret is the caller's.
 */
int machine_build(const struct vmi *vmi, const struct machine_facts *facts, struct machine **ret, struct faults *faults,
                  struct error **ret_error);
void machine_free(struct machine *machine);
static inline void machine_freep(struct machine **machine)
{
    machine_free(*machine);
    *machine = NULL;
}

/* All borrowed, living as long as the machine. argv[0] is the binary. */
char *const *machine_get_argv(const struct machine *machine);
const struct machine_fd *machine_get_fds(const struct machine *machine, size_t *ret_count);
const struct machine_helper *machine_get_helpers(const struct machine *machine, size_t *ret_count);
const struct machine_item *machine_get_items(const struct machine *machine, size_t *ret_count);
/* With facts->assume: what keeps this host from running the machine, "spec.path: what is missing"; NULL if nothing. */
char *const *machine_get_lacks(const struct machine *machine);
/* The serial console: QEMU opens the fifos PATH.in and PATH.out, which the domain makes before the spawn. NULL: none.
 * *ret_log: what comes out of it is to be logged. */
const char *machine_get_serial(const struct machine *machine, bool *ret_log);
/* The fifo of facts->firmware_log, which the domain makes before the spawn; NULL: this machine has none. */
const char *machine_get_firmware_log(const struct machine *machine);
/* NVRAM: copy `template` to `path` before the start unless path exists; NULL when there is none. */
const char *machine_get_nvram(const struct machine *machine, const char **ret_template);
#define MACHINE_DISK_NODES 4 /* block nodes of one disk: file and format, of the image and of what is below it */

/* A disk, a LUN or a CD-ROM drive. */
struct machine_disk {
    const char *disk;                          /* its name in the manifest */
    const char *target;                        /* "vda", "sda": its name in KubeVirt's status */
    const char *id;                            /* QEMU's, of the drive */
    const char *node;                          /* the block node on top; NULL: an empty tray */
    const char *nodes[MACHINE_DISK_NODES + 1]; /* all of them in the order of their making; ends with NULL */
    const char *bus;                           /* "virtio", "scsi"… */
    const char *path;                          /* of the image; NULL: an empty tray */
    const char *source; /* name of the claim, which tells one medium from the next; NULL: no claim, an empty tray */
    bool is_cdrom, is_lun, is_block_device, is_overlay, read_only, is_raw;
    bool is_hotpluggable; /* the manifest says that it may go away */
    bool is_plugged;      /* was plugged in while the machine ran… */
    bool is_by_hand;      /* …by a command, and not by the manifest */
};

/* Borrowed until the next change. */
const struct machine_disk *machine_get_disks(const struct machine *machine, size_t *ret_count);
const struct machine_disk *machine_find_disk(const struct machine *machine, const char *disk);
/* What changes while the machine runs: adds the disk or replaces the one of its name. Texts are copied. */
int machine_set_disk(struct machine *machine, const struct machine_disk *disk);
void machine_remove_disk(struct machine *machine, const char *disk);

/* A disk that is plugged into a machine that runs, or a medium that is put into a tray. */
struct machine_plug {
    json_t *nodes;            /* arguments of blockdev-add, in this order */
    json_t *device;           /* of device_add; needs "bus" if needs_port */
    bool needs_port;          /* a root port, to be found among those that are empty */
    struct machine_disk disk; /* what machine_set_disk() gets when it is done; lives as long as this */
    struct arena *arena;
};
/* `serial`: a number that no plug into this machine had before. Only virtio and scsi can be plugged; a CD-ROM's nodes
 * fit every bus. Faults as with machine_build(). */
int machine_plug_disk(const struct machine *machine, const struct vmi *vmi, unsigned qemu_version,
                      const struct vmi_disk *disk, const struct machine_volume *volume, unsigned serial,
                      struct machine_plug *ret, struct faults *faults, struct error **ret_error);
void machine_plug_done(struct machine_plug *plug);

/* The target name that the guest's disk has in KubeVirt's status ("vda", "sda"), or NULL. */
const char *machine_disk_target(const struct machine *machine, const char *disk);
/* QEMU's id of the disk's drive, and of the block node on top (NULL for an empty tray); NULL if there is no such disk.
 */
const char *machine_disk_id(const struct machine *machine, const char *disk, const char **ret_node);
/* QEMU's id of an interface's card, for set_link and device_del; NULL if it has none. */
const char *machine_nic_id(const struct machine *machine, const char *interface);
/* The tap device behind an interface; NULL if there is none. */
const char *machine_nic_tap(const struct machine *machine, const char *interface);
/* The MAC of an interface's card; NULL if there is none. */
const char *machine_nic_mac(const struct machine *machine, const char *interface);
/* QEMU's id of the balloon, or NULL when there is none. */
const char *machine_balloon_id(const struct machine *machine);
/* Variables that QEMU's environment needs beside ours ("TZ=Europe/Berlin"); NULL when there are none. */
char *const *machine_get_environment(const struct machine *machine);
/*
 * The firmware files that machine_build() may want: the caller finds out which exist, and passes those as
 * known_firmware. 0 or -ENOMEM; the list is the caller's (strv_free()).
 */
int machine_list_firmware(enum machine_arch arch, const char *firmware_dir, char ***ret);
/* {"name", "uuid", "arch", "accel", "machineType", "cpu": …, "devices": […], …}: a new reference. */
json_t *machine_to_json(const struct machine *machine);
