/* SPDX-License-Identifier: Apache-2.0 */
/* A VM's volumes in a pod's directory: loaded, planned, prepared; and images for them. */
#pragma once

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/child.h"
#include "base/fd.h"
#include "storage-lab.h"
#include "storage/private.h"

struct pod {
    struct lab lab;
    struct vmi *vmi;
    struct faults faults;
    struct error *error;
    struct storage *storage;
    json_t *volume_status; /* for pod_plan(), borrowed */
};

static inline void pod_done(struct pod *pod)
{
    if (pod->storage)
        storage_remove(pod->storage);
    storage_free(pod->storage);
    vmi_free(pod->vmi);
    faults_done(&pod->faults);
    error_free(pod->error);
    remove_tree(pod->lab.directory);
}

static inline void pod_init(struct pod *pod)
{
    *pod = (struct pod){.lab.directory = "/tmp/test-storage-XXXXXX"};
    assert_non_null(mkdtemp(pod->lab.directory));
    lab_make_pod(&pod->lab);
}

/* devices.disks of the same names, and the volumes */
static inline void pod_load(struct pod *pod, const char *spec_rest, const char *const *disks, const char *volumes)
{
    _cleanup_free_ char *text = NULL;
    char list[2048] = "";
    _cleanup_free_ char *why = NULL;

    for (size_t i = 0; disks[i]; i++) {
        size_t n = strlen(list);

        snprintf(list + n, sizeof(list) - n, "      - {name: %s, disk: {bus: virtio}}\n", disks[i]);
    }
    assert_true(asprintf(&text,
                         "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\n"
                         "metadata: {name: testvm.with.dots, namespace: ns1}\nspec:\n%s"
                         "  domain:\n    firmware: {uuid: 5d307ca9-b3ef-428c-8861-06e72d69f223}\n"
                         "    memory: {guest: 64Mi}\n    devices:\n      disks:\n%s  volumes:\n%s",
                         spec_rest, list, volumes) > 0);
    if (vmi_load_text(text, strlen(text), "test.yaml", NULL, &pod->vmi, &pod->faults, &pod->error) < 0) {
        why = faults_format(&pod->faults);
        fail_msg("%s\n%s", text, why);
    }
}

static inline int pod_plan(struct pod *pod, bool outside, const struct storage_override *overrides, size_t n)
{
    const struct storage_options options = {
        .paths = pod->lab.paths,
        .overrides = overrides,
        .n_overrides = n,
        .outside_pod = outside,
        .owner_uid = (unsigned)-1,
        .volume_status = pod->volume_status,
    };

    return storage_plan(pod->vmi, &options, &pod->storage, &pod->faults, &pod->error);
}

static inline void pod_prepare(struct pod *pod)
{
    if (storage_prepare(pod->storage, &pod->error) < 0)
        fail_msg("%s", error_message(pod->error));
}

static inline const struct storage_volume *pod_volume(const struct pod *pod, const char *name)
{
    size_t count;
    const struct storage_volume *list = storage_get_volumes(pod->storage, &count);

    for (size_t i = 0; i < count; i++)
        if (streq(list[i].volume->name, name))
            return &list[i];
    fail_msg("no volume %s", name);
    return NULL;
}

/* A path in the pod's directory. */
#define in(pod, ...) lab_path(&(pod)->lab, __VA_ARGS__)

static inline void put(const char *path, const char *content)
{
    lab_put(path, content, strlen(content));
}

static inline void put_sparse(const char *path, off_t size)
{
    put(path, "");
    assert_int_equal(truncate(path, size), 0);
}

/* Runs a program; its output, freed by the caller. Fails the test if it fails. */
#define run(...) run_argv((const char *const[]){__VA_ARGS__, NULL})
static inline char *run_argv(const char *const *argv)
{
    _cleanup_free_ char *err = NULL;
    char *out = NULL;
    int code;

    assert_int_equal(
        child_run(&(struct child_options){.argv = (char *const *)(uintptr_t)argv}, 60000000, &code, &out, &err, NULL),
        0);
    if (code != 0)
        fail_msg("%s: code %d: %s", argv[0], code, err ? err : "");
    return out ? out : strdup("");
}

static inline void check_run(const char *expected, char *output)
{
    _cleanup_free_ char *o = output;

    if (!strstr(o, expected))
        fail_msg("\"%s\" is not in \"%s\"", expected, o);
}

static inline void check_file(const char *iso, const char *name, const char *content)
{
    _cleanup_free_ char *out = run("bsdtar", "-xOf", iso, name);

    assert_string_equal(out, content);
}

static inline bool has_program(const char *name)
{
    const char *argv[] = {name, "--version", NULL};
    int code;

    return child_run(&(struct child_options){.argv = (char *const *)(uintptr_t)argv}, 60000000, &code, NULL, NULL,
                     NULL) == 0;
}

/* No file but `keep` below the directory. */
static inline void check_nothing_left(const struct pod *pod, const char *keep)
{
    _cleanup_free_ char *out = run("find", pod->lab.directory, "-type", "f", "-not", "-name", keep);

    assert_string_equal(out, "");
}

static inline void patch(const char *path, off_t offset, const char *bytes, size_t n)
{
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

    assert_int_equal(pwrite(fd, bytes, n, offset), (ssize_t)n);
}

static inline void make_qcow2(const char *path)
{
    free(run("qemu-img", "create", "-q", "-f", "qcow2", path, "16M"));
}

/* Valid, and with more in it than is looked at here: qemu-img's. */
static inline void make_odd_qcow2(const char *path)
{
    make_qcow2(path);
    free(run("qemu-img", "snapshot", "-c", "one", path));
}

/* What hostile images point at, in /etc/shadow's place: nobody else opens it, so whoever does is found out. */
