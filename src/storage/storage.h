/* SPDX-License-Identifier: Apache-2.0 */
/* From the volumes of a VMI to images that QEMU can open: where each is, what must be made before, and the making. */
#pragma once

#include <jansson.h>
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
    const json_t
        *volume_status; /* the VMI's status.volumeStatus: sizes of claims; NULL: not told. Only while it plans */
};

enum storage_action {
    STORAGE_USE,       /* there already; is examined */
    STORAGE_OVERLAY,   /* qcow2 over `backing_path` */
    STORAGE_EMPTY,     /* empty qcow2 of `size` */
    STORAGE_SPARSE,    /* sparse raw file of `size` (hostDisk DiskOrCreate, a claim whose size is known) */
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
    bool backing_direct_io, backing_is_block_device; /* the image below an overlay */
    bool absent; /* a hotpluggable claim that is not there yet: nothing is examined */
    unsigned logical_block, physical_block;
};

struct storage;

/* compat 4.4: the bytes of a volume's claim that its disk.img may have, what the file system keeps being left free. 0:
 * not told, or a block device. */
uint64_t storage_claim_size(const json_t *volume_status, const char *volume);
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

/* When QEMU (pid) has opened its images, before a guest sees them: what it has open is what stands, by the rules of
 * storage_prepare(), at the places of the volumes now (see opened.c). `volume`: only that one; NULL: all of the start.
 * ERROR_IMAGE_REFUSED: somebody replaced an image meanwhile. */
int storage_check_opened(const struct storage *storage, const char *volume, pid_t pid, struct error **ret_error);

/* ---- while the VM runs ----------------------------------------------------------------------------------------- */

/* An empty image that QEMU is to fill: qcow2 (over `base`, a qcow2, if that is given) or a sparse raw file. */
int storage_create_image(const char *path, bool qcow2, uint64_t size, const char *base, struct error **ret_error);

/* New content of the disk of a volume downwardMetrics (XML, at most 256 KiB); the guest may read it at any time. */
int storage_write_metrics(const char *path, const char *content, struct error **ret_error);

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

/* The process that listens on a socket of the pod's volumes; pod_uid: it must be one of that pod (NULL: of any).
 * -EAGAIN: nobody does yet. */
int container_peer(const char *socket_path, const char *pod_uid, pid_t *ret, struct error **ret_error);
/*
 * A file of the container whose container-disk process listens on the socket (file_path NULL: the only one in /disk),
 * mounted read-only on the file `name` of the folder `dir`. What is mounted there already counts as done. Errors are
 * those of container_peer(), and ERROR_IMAGE_REFUSED, ERROR_NOT_FOUND or ERROR_STORAGE with what is wrong with the
 * file. Needs CAP_SYS_ADMIN over the container, and its process in our pid namespace. Waits for a child that makes two
 * system calls.
 */
int container_disk_mount(const char *socket_path, const char *pod_uid, const char *file_path, const char *dir,
                         const char *name, struct error **ret_error);
/* Takes away what was mounted on files of `dir`, and of the folder kernel-boot in it. */
void container_disks_unmount(const char *dir);
