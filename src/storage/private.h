/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of src/storage share. */
#pragma once

#include "base/arena.h"
#include "storage/storage.h"

/* What an ISO is made of. */
enum content {
    CONTENT_NONE,
    CONTENT_TREE,         /* the files of source_dir */
    CONTENT_NO_CLOUD,     /* cloud-init, from the manifest and source_dir (a mounted secret) */
    CONTENT_CONFIG_DRIVE, /* the same */
};

/* What formats a volume's image may have. */
enum image_rule {
    IMAGE_RAW,    /* raw, whatever it looks like; one that looks like another format is refused */
    IMAGE_DETECT, /* raw or qcow2, by the header */
};

/* A file that is there already. With `root` it is below a directory whose content is not trusted: `name` is resolved
 * without symlinks. Without, `name` is a path that we or the user chose. */
struct image_source {
    const char *root, *name;
    const char *block_path; /* tried first: a block PVC's device node; or NULL */
    enum image_rule rule;
    bool allow_block; /* `name` may be a block device */
};

struct volume_plan {
    const struct vmi_disk *disk; /* NULL: STORAGE_DIRECTORY */
    const char *const *files;    /* STORAGE_DIRECTORY: the files that must be in it, ends with NULL; or NULL */
    struct image_source source;  /* STORAGE_USE: the image; STORAGE_OVERLAY: the backing image */
    enum content content;
    const char *source_dir;         /* NULL: nothing but the manifest */
    const char *network_source_dir; /* cloud-init: networkDataSecretRef */
    const char *label;
    bool optional;       /* no source_dir is no fault */
    bool made;           /* by storage_prepare(): to be removed */
    uint64_t claim_size; /* what the claim has by now, for a disk.img that was made when it had less; 0: not told */
    bool keep;           /* the user's data once it is complete: not removed by storage_remove() */
};

struct storage {
    struct arena *arena;
    const struct vmi *vmi;
    struct storage_options options;
    const char *const *key_dirs; /* where the secrets of accessCredentials are: one for each, NULL: not for an ISO */
    struct storage_volume *volumes;
    struct volume_plan *plans; /* beside volumes */
    size_t count;
};

/* ---- image.c --------------------------------------------------------------------------------------------------- */

struct image {
    enum { IMAGE_FORMAT_RAW, IMAGE_FORMAT_QCOW2 } format;
    uint64_t size;
    bool is_block_device, direct_io, preallocated;
    bool from_block_path; /* source.block_path is what was opened */
    unsigned logical_block, physical_block;
};

const char *image_format_name(const struct image *image);
/* Opens for reading, as `source` says; ERROR_IMAGE_REFUSED for what leads elsewhere. The path is to be freed. */
int image_open(const struct image_source *source, const char *volume, bool *ret_block, char **ret_path,
               struct error **ret_error);
/* Opens and examines; ERROR_IMAGE_REFUSED says why not. `volume` is for messages; for_writing: the guest will write to
 * it, so we must be able to, and nobody else may. */
int image_examine(const struct image_source *source, const char *qemu_img, const char *volume, bool for_writing,
                  struct image *ret, struct error **ret_error);
/* The parsers of what comes from outside, each for itself: for the fuzzer. The format that a header belongs to, NULL
 * for none; what speaks against a qcow2 header, NULL for nothing; the answer of qemu-img info. */
const char *image_header_format(const unsigned char *header, size_t length);
const char *image_qcow2_fault(const unsigned char *header, size_t length);
/* Nothing in the header asks for a closer look; *ret_size is the virtual size. */
bool image_qcow2_is_plain(const unsigned char *header, size_t length, uint64_t file_size, uint64_t *ret_size);
int image_check_info(const char *text, const char *volume, const char *path, struct image *image,
                     struct error **ret_error);
/* The examination will run qemu-img: the file has a header that is read. Only a hint about the time it takes. */
bool image_needs_qemu_img(const struct image_source *source);
/* The same for an image that we made ourselves: block sizes, O_DIRECT. */
int image_measure(const char *path, struct image *ret, struct error **ret_error);

/* ---- create.c -------------------------------------------------------------------------------------------------- */

/* All are written to PATH.staging and renamed; on failure nothing is left. `owner`: (unsigned)-1 leaves it. */
int create_qcow2(const char *path, uint64_t size, const char *backing_path, const char *backing_format, unsigned owner,
                 struct error **ret_error);
/* *ret_created is false when the file was there already: it is never replaced, whoever makes it at the same time. */
int create_sparse(const char *path, uint64_t size, unsigned owner, uint64_t *ret_size, bool *ret_created,
                  struct error **ret_error);
/* 1: it is so long now. 0: its file system has not the room. */
int grow_sparse(const char *path, uint64_t size, struct error **ret_error);
int create_metrics(const char *path, unsigned owner, struct error **ret_error);
char *staging_path(const char *path);
/* Gives the staged file, which is open, its owner and mode, and its name. */
int staging_finish(int fd, const char *staging, const char *path, mode_t mode, unsigned owner,
                   struct error **ret_error);

/* ---- files.c, iso.c, cloud-init.c ------------------------------------------------------------------------------ */

struct iso_file {
    char *path; /* "openstack/latest/user_data" */
    char *data;
    size_t length;
};

struct iso_files {
    struct iso_file *items;
    size_t count;
    uint64_t total;
};

/* Takes `data`, also on failure. */
int iso_files_add(struct iso_files *files, const char *path, char *data, size_t length);
void iso_files_done(struct iso_files *files);

/* The regular files below a directory that the kubelet (or the user) filled, as Kubernetes shows them: what starts with
 * ".." is its bookkeeping. Symlinks are followed within the directory only. -ENOENT when there is no such directory. */
int files_collect(const char *directory, struct iso_files *files, struct error **ret_error);
/* One of `names` (NULL-terminated) in a directory; -ENOENT when none is there. */
int files_read_one(const char *directory, const char *const *names, char **ret_data, size_t *ret_length,
                   struct error **ret_error);

/* An ISO 9660 image with Joliet and Rock Ridge names, the same bytes for the same files. libarchive is loaded when this
 * is called, and stays: to be called in a child that ends. */
int iso_write(const char *path, const char *label, const struct iso_files *files, unsigned owner,
              struct error **ret_error);

int cloud_init_collect(const struct storage *storage, size_t index, struct iso_files *files, struct error **ret_error);
/* user data that is no base64, without reading any file */
void cloud_init_check(const struct vmi_volume *volume, struct faults *faults);
