/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The workbench of machine_build(): what the files of this directory share, and nobody else includes.
 *
 * One context is filled subject by subject (cpu.c, disks.c…). Out of memory and text that is not UTF-8 set `failure`
 * and are looked at once, at the end; everything else that is wrong becomes a fault at its place in the manifest.
 */
#pragma once

#include <jansson.h>

#include "base/arena.h"
#include "base/strbuf.h"
#include "base/util.h"
#include "machine/machine.h"

/* Where an option stands on the command line. QEMU creates buses and devices in the order given, so a port stands
 * before what is plugged into it; it sorts the other kinds of option by itself. */
enum section {
    SECTION_MACHINE,
    SECTION_BACKEND, /* objects, character devices, block nodes, network ends */
    SECTION_PORT,
    SECTION_DEVICE,
    SECTION_LAST,
    SECTION_COUNT,
};

struct option {
    enum section section;
    const char *name; /* "-device" */
    const char *text; /* NULL: json, or nothing */
    json_t *json;
};

/* How a device sits on PCI Express. */
enum pci_place {
    PCI_PORT,     /* behind a root port of its own */
    PCI_ROOT_BUS, /* on pcie.0: a conventional PCI device, or one that is part of the chipset */
    PCI_FIXED,    /* on pcie.0 at the address that the builder gave */
};

struct pci_device {
    json_t *device; /* gets "bus" and "addr"; borrowed from its option */
    const struct node *at;
    const char *what;
    const char *address; /* what the manifest asks for, or NULL */
    enum pci_place place;
    bool is_nic;
};

struct nic_entry {
    const char *interface, *id, *netdev, *mac, *model, *tap;
};

#define MACHINE_LIST(type)                                                                                             \
    struct {                                                                                                           \
        type *items;                                                                                                   \
        size_t count, allocated;                                                                                       \
    }

struct machine {
    struct arena *arena;
    MACHINE_LIST(struct option) options;
    MACHINE_LIST(struct machine_fd) fds;
    MACHINE_LIST(struct machine_helper) helpers;
    MACHINE_LIST(struct machine_item) items;
    MACHINE_LIST(struct machine_disk) disks;
    MACHINE_LIST(struct nic_entry) nics;
    MACHINE_LIST(char *) environment;
    char **lacks;
    MACHINE_LIST(const char *) spare_ports;
    char **argv;
    const char *nvram, *nvram_template;
    const char *serial; /* path of its fifos, without the ending */
    bool serial_log;
    const char *firmware_log;
    /* for machine_to_json() */
    const char *name, *uuid, *arch, *accel, *type, *cpu_model, *cpu_text, *firmware;
    unsigned vcpus, max_vcpus, sockets, cores, threads;
    uint64_t memory, max_memory;
    bool has_shared_io_thread; /* "iothread1" */
};

enum build_failure {
    BUILD_FINE,
    BUILD_NO_MEMORY,
    BUILD_BAD_TEXT,
};

struct build {
    struct arena *arena;
    struct machine *machine;
    const struct vmi *vmi;
    const struct vmi_domain *domain;
    const struct vmi_devices *devices;
    const struct machine_facts *facts;
    struct faults *faults;
    bool x86, kvm;
    bool plug; /* a disk for a machine that runs: no boot order, no number of a SCSI unit, no new I/O thread */

    enum build_failure failure;
    size_t manifest_faults, host_faults;

    struct strbuf machine_option; /* grows by machine_set() until the end */
    MACHINE_LIST(struct pci_device) pci;
    bool share_memory;
    unsigned usb_ports, scsi_units, sata_units;
    const char *watchdog_action;
};

/* ---- argv.c: options, texts, JSON ------------------------------------------------------------------------------ */

/* Appends a zeroed item to a list of the arena and points `item` at it; NULL after a failure. */
void *list_grow(struct build *b, void *items, size_t *count, size_t *allocated, size_t size);
#define LIST_ADD(b, list)                                                                                              \
    ({                                                                                                                 \
        void *grown_ = list_grow(b, (list)->items, &(list)->count, &(list)->allocated, sizeof(*(list)->items));        \
        if (grown_)                                                                                                    \
            (list)->items = grown_;                                                                                    \
        grown_ ? &(list)->items[(list)->count - 1] : NULL;                                                             \
    })

/* Never NULL: "" after a failure. */
const char *text(struct build *b, const char *format, ...) _printf_(2, 3);
/* For keyval options: every comma doubled (qemu(1): "commas must be doubled"). */
const char *comma(struct build *b, const char *value);
/* "ua-<name>" as KubeVirt's aliases are, made well-formed for QEMU (util/id.c: a letter, then letters, digits, "-._")
 */
const char *device_id(struct build *b, const char *prefix, const char *name, size_t index);
/* As device_id(), at most 31 bytes: names of block nodes (BDRV node-name). */
const char *node_name(struct build *b, const char *prefix, const char *name, size_t index);

void option(struct build *b, enum section section, const char *name, const char *value);
/* An option whose value is the JSON object that is returned, to be filled. Never NULL. */
json_t *option_json(struct build *b, enum section section, const char *name);
void set_string(struct build *b, json_t *object, const char *key, const char *value);
void set_int(struct build *b, json_t *object, const char *key, uint64_t value);
void set_bool(struct build *b, json_t *object, const char *key, bool value);
void set_json(struct build *b, json_t *object, const char *key, json_t *value);
/* ",key=value" of -machine; the value's commas are doubled. */
void machine_set(struct build *b, const char *key, const char *value);

/* -object, with its type and id. */
json_t *object_new(struct build *b, const char *type, const char *id);
/* -device, refused by a fault at `at` when this QEMU does not have the driver. */
json_t *device_new(struct build *b, const struct node *at, const char *driver, const char *id);
/* As device_new(), with the variant of a virtio device that KubeVirt uses ("-non-transitional", or "-transitional"). */
json_t *virtio_new(struct build *b, const struct node *at, const char *driver, const char *id);

/* The number under which QEMU finds the fd. */
int fd_add(struct build *b, enum machine_fd_kind kind, const char *role, const char *path, unsigned queue);
/* A path in facts->private_dir. */
const char *private_path(struct build *b, const char *name);
/* A listening unix socket that we bind and QEMU inherits; the chardev's id is `id`. */
void chardev_listen(struct build *b, const char *id, const char *role, const char *file);

/* ---- faults ---------------------------------------------------------------------------------------------------- */

/* The manifest is at fault / it is right, but this host or this QEMU lacks something. The latter may return, for
 * `explain` (facts->assume): go on then as if it were there. */
void manifest_fault(struct build *b, const struct node *at, const char *format, ...) _printf_(3, 4);
void host_fault(struct build *b, const struct node *at, const char *format, ...) _printf_(3, 4);
/* A text of the manifest that QEMU, the firmware or the guest prints: no control characters. */
bool text_is_clean(struct build *b, const struct node *at, const char *what, const char *value);
/* "QEMU 7.2 (/usr/bin/qemu-system-x86_64)" */
const char *qemu_name(struct build *b);
/* Every byte is a letter, a digit, or one of `others`. */
bool text_is_plain(const char *value, const char *others);
/* Name in a list, nearest by edit distance; NULL when nothing is near. */
const char *nearest(const char *name, char *const *list);

/* ---- versions -------------------------------------------------------------------------------------------------- */

enum qemu_feature {
    QEMU_IOTHREAD_VQ_MAPPING,
    QEMU_TCG_X2APIC,
    QEMU_FEATURE_COUNT,
};
bool qemu_has(const struct build *b, enum qemu_feature feature);

/* ---- explain.c ------------------------------------------------------------------------------------------------- */

/* `at` NULL: what is always there. what and why live in the arena or are static. */
void item(struct build *b, enum machine_group group, const struct node *at, const char *id, const char *what,
          const char *why);
/* "1 GiB (1073741824 bytes)" */
const char *bytes_text(struct build *b, uint64_t bytes);

/* ---- pci.c ----------------------------------------------------------------------------------------------------- */

void pci_add(struct build *b, json_t *device, enum pci_place place, const struct node *at, const char *what,
             const char *address);
void pci_finish(struct build *b);

/* ---- subjects, in the order of the command line ---------------------------------------------------------------- */

void build_cpu(struct build *b);
void build_memory(struct build *b);
void build_clock(struct build *b);
void build_firmware(struct build *b);
void build_smbios(struct build *b);
/* misc.c: a process that listens on `socket`, started before QEMU. The texts of argv are the build's or the facts'. */
struct machine_helper *helper_add(struct build *b, const char *name, const char *socket, const char *directory,
                                  const char *const *argv, size_t n);
void build_nics(struct build *b);
void build_controllers(struct build *b);
void build_disks(struct build *b);
void build_console(struct build *b);
void build_channels(struct build *b);
/* How many ports the channels' controller needs. */
unsigned channel_ports(const struct build *b);
void build_inputs(struct build *b);
void build_graphics(struct build *b);
void build_filesystems(struct build *b);
void build_sound(struct build *b);
void build_host_devices(struct build *b);
void build_balloon(struct build *b);
void build_memory_device(struct build *b);
void build_rng(struct build *b);
void build_watchdog(struct build *b);
void build_tpm(struct build *b);
void build_panic(struct build *b);
void build_vsock(struct build *b);

/* An interface with binding sriov is a host device. */
void host_device_add(struct build *b, const struct node *at, const char *name, const char *prefix,
                     const struct vmi_host_device *options, int64_t bootindex);
/* Before the devices: what the memory and the buses must know of them. */
bool domain_has_usb(const struct build *b);
bool domain_shares_memory(const struct build *b);
bool domain_has_scsi_disk(const struct build *b);
/* What src/storage found or made for a volume, and its path; NULL: nothing. */
const struct machine_volume *volume_find(const struct build *b, const char *name);
const char *volume_path(const struct build *b, const char *name);
bool domain_has_graphics(const struct build *b);
bool domain_is_high_performance(const struct build *b);
/* The bus that the disk really gets. */
enum vmi_bus disk_bus(const struct build *b, const struct vmi_disk *disk);
/* bootindex of a disk; 0: none. */
/* The nodes and the device of one disk that is plugged in; names carry `serial`. */
void build_plugged_disk(struct build *b, const struct vmi_disk *disk, const char *target, unsigned serial);
/* "vda", "sdb": the n-th of a kind, counted from 0. */
const char *disk_target_name(struct build *b, bool is_virtio, unsigned n);
unsigned disk_boot_index(const struct build *b, const struct vmi_disk *disk);
json_t *items_to_json(const struct machine *machine);
