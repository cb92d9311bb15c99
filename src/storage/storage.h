/* SPDX-License-Identifier: Apache-2.0 */
/* From the volumes of a VMI to images that QEMU can open: where each is, what must be made before, and the making. */
#pragma once

#include <sys/types.h>

#include <vmlet/vmi.h>

#include "base/error.h"
#include "json/faults.h"

/* The directories of compat §4.1; each can stand elsewhere for `vmlet run`. All paths absolute. */
struct storage_paths {
    const char *private_dir;         /* /var/run/kubevirt-private */
    const char *ephemeral_disk_dir;  /* /var/run/kubevirt-ephemeral-disks */
    const char *container_disk_dir;  /* /var/run/kubevirt/container-disks */
    const char *hotplug_disk_dir;    /* /var/run/kubevirt/hotplug-disks */
    const char *empty_disk_dir;      /* /var/run/libvirt/empty-disks */
    const char *service_account_dir; /* /var/run/secrets/kubernetes.io/serviceaccount */
    const char *device_dir;          /* /dev: block PVCs are device_dir/<volume> */
};

extern const struct storage_paths storage_pod_paths;

/* `--disk VOLUME=PATH`: a local file or block device in a volume's place. */
struct storage_override {
    const char *volume, *path;
};

struct storage_options {
    struct storage_paths paths;
    const struct storage_override *overrides;
    size_t n_overrides;
    const char *qemu_img; /* NULL: "qemu-img" from PATH */
    bool outside_pod;     /* faults name the --disk flag that supplies a volume which cannot be had here */
    unsigned owner_uid;   /* of files that are made; (unsigned)-1: leave */
};

enum storage_action {
    STORAGE_USE,       /* there already; is examined */
    STORAGE_OVERLAY,   /* qcow2 over `backing_path` */
    STORAGE_EMPTY,     /* empty qcow2 of `size` */
    STORAGE_SPARSE,    /* sparse raw file of `size` (hostDisk DiskOrCreate) */
    STORAGE_ISO,       /* made from the manifest or from mounted files */
    STORAGE_METRICS,   /* the downward metrics disk */
    STORAGE_DIRECTORY, /* no disk: a directory that is shared with the guest, holds ACPI tables, or takes a memory dump
                        */
};

struct storage_volume {
    const struct vmi_volume *volume;
    enum storage_action action;
    char *path, *format;
    char *backing_path, *backing_format;
    uint64_t size; /* virtual size in bytes; 0: not known */
    bool is_block_device, read_only, direct_io, preallocated;
    bool absent; /* a hotpluggable claim that is not there yet: nothing is examined */
    unsigned logical_block, physical_block;
};

struct storage;

/* Decides, touches nothing: for `vmlet explain`, and as the first step of storage_prepare(). Only volumes that a disk
 * or a file system uses are in it. */
int storage_plan(const struct vmi *vmi, const struct storage_options *options, struct storage **ret,
                 struct faults *faults, struct error **ret_error);
/* Examines what is there (format by a limited `qemu-img info`, no backing file, no special file) and makes what is to
 * be made, aside and renamed. Blocks: for start-up only. On failure what it made is removed. */
int storage_prepare(struct storage *storage, struct error **ret_error);
/* Removes what storage_prepare() made. */
void storage_remove(struct storage *storage);
void storage_free(struct storage *storage);
static inline void storage_freep(struct storage **storage)
{
    storage_free(*storage);
    *storage = NULL;
}

const struct storage_volume *storage_get_volumes(const struct storage *storage, size_t *ret_count);

/* ---- while the VM runs ----------------------------------------------------------------------------------------- */

/* An empty image that QEMU is to fill: qcow2 (over `base`, a qcow2, if that is given) or a sparse raw file. */
int storage_create_image(const char *path, bool qcow2, uint64_t size, const char *base, struct error **ret_error);

struct storage_examination;
/* A storage of one volume that is no manifest's: a file (raw or qcow2, by its header) or a block device. */
int storage_for_file(const char *name, const char *path, bool read_only, struct storage **ret,
                     struct error **ret_error);
/* What storage_prepare() does with a volume that is used as it is, without blocking the caller: a child looks at it,
 * and the fd (borrowed) becomes readable when it has. The storage must stay until the end. */
int storage_examine_begin(struct storage *storage, const char *volume, struct storage_examination **ret, int *ret_fd,
                          struct error **ret_error);
/* The result, now: called before the fd is readable it is a time-out. Frees the examination. -ENOENT: there is no such
 * file; or, for a hotpluggable claim, *ret says `absent`. */
int storage_examine_end(struct storage_examination *examination, const struct storage_volume **ret,
                        struct error **ret_error);
void storage_examine_cancel(struct storage_examination *examination);

/* ---- the node agent's side of container disks ------------------------------------------------------------------- */

struct container_disk {
    pid_t pid;          /* of the container-disk process */
    char *path;         /* of the image in its container */
    const char *format; /* "raw" or "qcow2"; static */
    uint64_t size;      /* virtual, in bytes */
};

/*
 * The image of the container whose container-disk process listens on the socket, examined (no backing file, no special
 * file) and mounted read-only on the file `target`, which is made. image_path: as the volume names it; NULL: the only
 * file in /disk. Called again it changes nothing. -ECONNREFUSED, -ENOENT: the container is not up yet. Needs
 * CAP_SYS_ADMIN over the container, and its process in our pid namespace. Blocks while qemu-img looks at the image.
 */
int container_disk_mount(const char *socket_path, const char *image_path, const char *target, const char *volume,
                         struct container_disk *ret, struct error **ret_error);
void container_disk_done(struct container_disk *disk);
/* Nothing to unmount is no failure. */
int container_disk_unmount(const char *target, struct error **ret_error);
/* A copy of a file of the container, written aside and renamed: the kernel and initrd of kernelBoot. */
int container_disk_copy(const char *socket_path, const char *path, const char *target, struct error **ret_error);
/* CRC-32 (IEEE) of the file, as it stands in the VMI's status. Reads all of it. */
int container_disk_checksum(const char *path, uint32_t *ret, struct error **ret_error);
