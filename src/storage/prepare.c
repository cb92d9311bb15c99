/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The making. What needs libarchive, or qemu-img for the parsing of a foreign image, happens in short-lived children,
 * all at once: the start takes as long as the slowest, and no memory stays with the process that serves the VM.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/event.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/strbuf.h"
#include "storage/private.h"

#define ACPI_HEADER_BYTES 36U /* ACPI specification, "System Description Table Header" */

/* What a child tells by its pipe: this, as it is in memory. */
struct result {
    int r;
    struct image image;   /* the volume's own; an overlay's: as measured, with the size of the backing image */
    struct image backing; /* STORAGE_OVERLAY */
    bool made, absent;
    enum error_code code;
    char message[1500], remedy[300];
};

struct job {
    pid_t pid;
    int fd;
};

/* ---- one volume ------------------------------------------------------------------------------------------------ */

static int make_parent(const char *path, struct error **ret_error)
{
    const char *slash = strrchr(path, '/');
    _cleanup_free_ char *parent = strndup(path, (size_t)(slash - path));

    return parent ? mkdir_parents(parent, 0755, ret_error) : error_oom(ret_error);
}

static int make_iso(const struct storage *s, size_t i, struct error **ret_error)
{
    _cleanup_(iso_files_done) struct iso_files files = {0};
    const struct volume_plan *plan = &s->plans[i];
    int r;

    if (plan->content == CONTENT_TREE) {
        bool absent = plan->optional && access(plan->source_dir, F_OK) < 0 && errno == ENOENT;

        r = absent ? 0 : files_collect(plan->source_dir, &files, ret_error);
    } else {
        r = cloud_init_collect(s, i, &files, ret_error);
    }
    if (r < 0)
        return r;
    return iso_write(s->volumes[i].path, plan->label, &files, s->options.owner_uid, ret_error);
}

static int make_overlay(const struct storage *s, size_t i, struct result *result, struct error **ret_error)
{
    const struct storage_volume *v = &s->volumes[i];
    const struct volume_plan *plan = &s->plans[i];
    int r;

    r = image_examine(&plan->source, s->options.qemu_img, v->volume->name, false, &result->backing, ret_error);
    if (r < 0)
        return r;
    return create_qcow2(v->path, result->backing.size,
                        result->backing.from_block_path ? plan->source.block_path : v->backing_path,
                        image_format_name(&result->backing), s->options.owner_uid, ret_error);
}

/* The directory is there, and so are the files that are wanted of it. */
static int check_directory(const struct storage *s, size_t i, struct error **ret_error)
{
    const struct volume_plan *plan = &s->plans[i];
    const char *path = s->volumes[i].path;
    _cleanup_close_ int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 && errno == ENOENT && plan->optional)
        return 0;
    if (fd < 0)
        return error_set(ret_error, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_STORAGE, errno,
                         "cannot open the directory %s: %s", path, strerror(errno));
    for (const char *const *file = plan->files; file && *file; file++) {
        const char *const names[] = {*file, NULL};
        _cleanup_free_ char *data = NULL;
        size_t length;
        int r = files_read_one(path, names, &data, &length, ret_error);

        if (r < 0)
            return r;
        if (length < ACPI_HEADER_BYTES)
            return error_set(ret_error, ERROR_BAD_DATA, EBADMSG,
                             "%s/%s is no ACPI table: it has %zu bytes, and a table's header alone has %u", path, *file,
                             length, ACPI_HEADER_BYTES);
    }
    return 0;
}

/* A hotpluggable claim may come later: KubeVirt's pod starts without it. */
static int use_image(const struct storage *s, size_t i, struct result *result, struct error **ret_error)
{
    const struct storage_volume *v = &s->volumes[i];
    const struct vmi_pvc *claim = vmi_volume_claim(v->volume);
    _cleanup_error_ struct error *e = NULL;
    int r = image_examine(&s->plans[i].source, s->options.qemu_img, v->volume->name, !v->read_only, &result->image, &e);

    result->absent = r == -ENOENT && claim && claim->hotpluggable == OPT_TRUE && !s->options.outside_pod;
    if (result->absent)
        return 0;
    if (r < 0)
        error_move(ret_error, TAKE_PTR(e));
    return r;
}

/* compat 4.4: a claim that was made larger while the VM did not run. */
static int grow_claim(const struct storage *s, size_t i, struct result *result, struct error **ret_error)
{
    uint64_t size = s->plans[i].claim_size;
    int r = use_image(s, i, result, ret_error);

    if (r < 0 || result->image.is_block_device || result->image.size >= size)
        return r;
    r = grow_sparse(s->volumes[i].path, size, ret_error);
    if (r > 0) {
        result->image.size = size;
        result->image.preallocated = false;
    }
    return MIN(r, 0);
}

static int make(const struct storage *s, size_t i, struct result *result, struct error **ret_error)
{
    const struct storage_volume *v = &s->volumes[i];
    uint64_t size = v->size;
    bool created = true;
    int r;

    if (v->action != STORAGE_USE && v->action != STORAGE_SPARSE && v->action != STORAGE_DIRECTORY) {
        r = make_parent(v->path, ret_error);
        if (r < 0)
            return r;
    }
    switch (v->action) {
    case STORAGE_USE:
        return grow_claim(s, i, result, ret_error);
    case STORAGE_DIRECTORY:
        return check_directory(s, i, ret_error);
    case STORAGE_SPARSE:
        r = create_sparse(v->path, v->size, s->options.owner_uid, &size, &created, ret_error);
        if (r < 0)
            return r;
        result->made = created;
        return grow_claim(s, i, result, ret_error);
    case STORAGE_OVERLAY:
        r = make_overlay(s, i, result, ret_error);
        size = result->backing.size;
        break;
    case STORAGE_EMPTY:
        r = create_qcow2(v->path, v->size, NULL, NULL, s->options.owner_uid, ret_error);
        break;
    case STORAGE_ISO:
        r = make_iso(s, i, ret_error);
        break;
    case STORAGE_METRICS:
        r = create_metrics(v->path, s->options.owner_uid, ret_error);
        break;
    }
    if (r < 0)
        return r;
    result->made = true;
    r = image_measure(v->path, &result->image, ret_error);
    if (v->action == STORAGE_OVERLAY || v->action == STORAGE_EMPTY) {
        result->image.format = IMAGE_FORMAT_QCOW2;
        result->image.size = size;
        result->image.preallocated = false; /* what the file holds now says nothing about the guest's size */
    }
    return r;
}

static void make_to_result(const struct storage *s, size_t i, struct result *result)
{
    _cleanup_error_ struct error *error = NULL;

    *result = (struct result){0};
    result->r = make(s, i, result, &error);
    if (result->r == 0)
        return;
    result->code = error ? error_get_code(error) : ERROR_INTERNAL;
    /* image faults name the volume themselves */
    if (startswith(error_message(error), "volume "))
        snprintf(result->message, sizeof(result->message), "%s", error_message(error));
    else
        snprintf(result->message, sizeof(result->message), "volume %.256s: %s", s->volumes[i].volume->name,
                 error_message(error));
    if (error_remedy(error))
        snprintf(result->remedy, sizeof(result->remedy), "%s", error_remedy(error));
}

/* ---- all of them ----------------------------------------------------------------------------------------------- */

/* What libarchive or qemu-img works on. The rest costs microseconds. */
static bool needs_child(const struct storage *s, size_t i)
{
    switch (s->volumes[i].action) {
    case STORAGE_ISO:
        return true;
    case STORAGE_USE:
    case STORAGE_OVERLAY:
        return image_needs_qemu_img(&s->plans[i].source);
    case STORAGE_SPARSE:
    case STORAGE_METRICS:
    case STORAGE_EMPTY:
    case STORAGE_DIRECTORY:
        break;
    }
    return false;
}

/* A child for the volumes whose number in `job_of` is `number`; it tells their results in order. */
static int start_job(const struct storage *s, const unsigned *job_of, unsigned number, struct job *job,
                     struct error **ret_error)
{
    pid_t parent = getpid();
    int pipe_fds[2];

    if (pipe2(pipe_fds, O_CLOEXEC) < 0)
        return error_errno(ret_error, errno, "cannot make a pipe");
    job->pid = fork();
    if (job->pid < 0) {
        int err = errno;

        job->pid = 0;
        close(pipe_fds[0]);
        close(pipe_fds[1]);
        return error_errno(ret_error, err, "cannot start a process");
    }
    if (job->pid == 0) {
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
            _exit(1);
        for (size_t i = 0; i < s->count; i++) {
            struct result result;

            if (job_of[i] != number)
                continue;
            make_to_result(s, i, &result);
            if (fd_write_all(pipe_fds[1], &result, sizeof(result)) < 0)
                _exit(1);
        }
        _exit(0);
    }
    close(pipe_fds[1]);
    job->fd = pipe_fds[0];
    return 0;
}

static void end_job(struct job *job)
{
    job->fd = fd_close(job->fd);
    kill(job->pid, SIGKILL); /* it has said all it has to say */
    while (waitpid(job->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    job->pid = 0;
}

/* The next result of the job, by the deadline. */
static void take_from_job(struct job *job, uint64_t deadline, struct result *result)
{
    const char *why = "the process that prepared the volume ended before it was done";
    size_t received = 0;

    while (job->pid > 0 && received < sizeof(*result)) {
        struct pollfd fd = {job->fd, POLLIN, 0};
        uint64_t now = now_usec();
        int r = poll(&fd, 1, now >= deadline ? 0 : (int)((deadline - now) / USEC_PER_MSEC + 1));
        ssize_t n;

        if (r < 0 && errno == EINTR)
            continue;
        if (r == 0)
            why = "the volume was not ready in time";
        n = r <= 0 ? 0 : read(job->fd, (char *)result + received, sizeof(*result) - received);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            end_job(job);
            break;
        }
        received += (size_t)n;
    }
    if (received == sizeof(*result))
        return;
    *result = (struct result){.r = -EIO, .code = ERROR_STORAGE};
    snprintf(result->message, sizeof(result->message), "%s", why);
}

static int take_result(struct storage *s, size_t i, const struct result *result)
{
    struct storage_volume *v = &s->volumes[i];
    const struct volume_plan *plan = &s->plans[i];

    v->format = arena_strdup(s->arena, image_format_name(&result->image));
    v->size = result->image.size;
    v->absent = result->absent;
    v->is_block_device = result->image.is_block_device;
    v->direct_io = result->image.direct_io;
    v->preallocated = result->image.preallocated;
    v->logical_block = result->image.logical_block;
    v->physical_block = result->image.physical_block;
    if (result->image.from_block_path)
        v->path = arena_strdup(s->arena, plan->source.block_path);
    if (v->action == STORAGE_OVERLAY) {
        v->backing_format = arena_strdup(s->arena, image_format_name(&result->backing));
        v->backing_direct_io = result->backing.direct_io;
        v->backing_is_block_device = result->backing.is_block_device;
        if (result->backing.from_block_path)
            v->backing_path = arena_strdup(s->arena, plan->source.block_path);
        if (!v->backing_format || !v->backing_path)
            return -ENOMEM;
    }
    return v->format && v->path ? 0 : -ENOMEM;
}

/* All that failed, in one error: its code and remedy are those of the first. */
static int report(const struct result *results, size_t count, struct error **ret_error)
{
    _cleanup_(strbuf_done) struct strbuf text = {0};
    const struct result *first = NULL;

    for (size_t i = 0; i < count; i++)
        if (results[i].r < 0) {
            strbuf_printf(&text, "%s%s", first ? "; " : "", results[i].message);
            if (!first)
                first = &results[i];
        }
    if (!first)
        return 0;
    error_set(ret_error, first->code, first->r, "%s", strbuf_text(&text));
    if (ret_error && first->remedy[0])
        error_set_remedy(*ret_error, "%s", first->remedy);
    return first->r;
}

static void remove_made(struct storage *s, bool all)
{
    for (size_t i = 0; i < s->count; i++) {
        struct volume_plan *plan = &s->plans[i];
        _cleanup_free_ char *staging = NULL;

        if (s->volumes[i].action == STORAGE_USE || s->volumes[i].action == STORAGE_DIRECTORY || !s->volumes[i].path)
            continue;
        staging = staging_path(s->volumes[i].path);
        if (staging)
            unlink(staging);
        if (plan->made && (all || !plan->keep)) {
            unlink(s->volumes[i].path);
            plan->made = false;
        }
    }
}

/* Numbers the children from 1: one for all the ISO images, since loading the library is most of that work, and one for
 * each image that qemu-img examines. 0: no child. Returns how many there are. */
static unsigned deal_jobs(const struct storage *s, unsigned *job_of)
{
    unsigned count = 0, iso = 0;

    for (size_t i = 0; i < s->count; i++) {
        if (!needs_child(s, i))
            continue;
        if (s->volumes[i].action != STORAGE_ISO)
            job_of[i] = ++count;
        else
            job_of[i] = iso ? iso : (iso = ++count);
    }
    return count;
}

int storage_prepare(struct storage *storage, struct error **ret_error)
{
    _cleanup_free_ struct result *results = calloc(storage->count + 1, sizeof(*results));
    _cleanup_free_ struct job *jobs = calloc(storage->count + 1, sizeof(*jobs));
    _cleanup_free_ unsigned *job_of = calloc(storage->count + 1, sizeof(*job_of));
    uint64_t deadline = now_usec() + 2 * TIMEOUT_IMAGE_USEC; /* an examination's own limit is half of it */
    unsigned n_jobs, started = 0;
    int r = 0;

    if (!results || !jobs || !job_of)
        return error_oom(ret_error);
    n_jobs = deal_jobs(storage, job_of);
    while (started < n_jobs && r == 0) {
        r = start_job(storage, job_of, started + 1, &jobs[started], ret_error);
        started += r == 0;
    }
    for (size_t i = 0; i < storage->count && r == 0; i++)
        if (job_of[i] == 0)
            make_to_result(storage, i, &results[i]);
    for (size_t i = 0; i < storage->count; i++) {
        if (job_of[i] > 0 && job_of[i] <= started)
            take_from_job(&jobs[job_of[i] - 1], deadline, &results[i]);
        /* one that was killed may have got as far as the rename; the path is ours in any case but that of a use */
        storage->plans[i].made =
            results[i].made || (results[i].r < 0 && job_of[i] > 0 && storage->volumes[i].action != STORAGE_USE);
        if (r == 0 && results[i].r == 0 && take_result(storage, i, &results[i]) < 0)
            r = error_oom(ret_error);
    }
    for (unsigned k = 0; k < started; k++)
        if (jobs[k].pid > 0)
            end_job(&jobs[k]);
    if (r == 0)
        r = report(results, storage->count, ret_error);
    if (r < 0)
        remove_made(storage, true);
    return r;
}

/* ---- one volume of a VM that runs ------------------------------------------------------------------------------ */

struct storage_examination {
    struct storage *storage;
    size_t index;
    struct job job;
};

/* A volume that is not in a manifest: a file or block device that somebody names. */
int storage_for_file(const char *name, const char *path, bool read_only, struct storage **ret, struct error **ret_error)
{
    _cleanup_(storage_freep) struct storage *s = calloc(1, sizeof(*s));
    struct vmi_volume *volume;

    if (!s)
        return error_oom(ret_error);
    s->arena = arena_new();
    if (!s->arena)
        return error_oom(ret_error);
    volume = arena_new_array(s->arena, struct vmi_volume, 1);
    s->volumes = arena_new_array(s->arena, struct storage_volume, 1);
    s->plans = arena_new_array(s->arena, struct volume_plan, 1);
    path = arena_strdup(s->arena, path);
    if (!volume || !s->volumes || !s->plans || !path)
        return error_oom(ret_error);
    volume->name = arena_strdup(s->arena, name);
    volume->kind = VMI_VOLUME_HOST_DISK;
    s->options.qemu_img = "qemu-img";
    s->volumes[0] = (struct storage_volume){
        .volume = volume,
        .action = STORAGE_USE,
        .path = (char *)(uintptr_t)path,
        .format = arena_strdup(s->arena, "raw"),
        .read_only = read_only,
    };
    s->plans[0].source = (struct image_source){.name = path, .rule = IMAGE_DETECT, .allow_block = true};
    if (!volume->name || !s->volumes[0].format)
        return error_oom(ret_error);
    s->count = 1;
    *ret = TAKE_PTR(s);
    return 0;
}

int storage_examine_begin(struct storage *storage, const char *volume, struct storage_examination **ret, int *ret_fd,
                          struct error **ret_error)
{
    _cleanup_free_ unsigned *job_of = calloc(storage->count + 1, sizeof(*job_of));
    _cleanup_free_ struct storage_examination *x = calloc(1, sizeof(*x));
    size_t i = 0;
    int r;

    if (!job_of || !x)
        return error_oom(ret_error);
    while (i < storage->count && !streq(storage->volumes[i].volume->name, volume))
        i++;
    if (i == storage->count)
        return error_set(ret_error, ERROR_NOT_FOUND, ENOENT, "there is no disk of a volume %s", volume);
    if (storage->volumes[i].action != STORAGE_USE)
        return error_set(ret_error, ERROR_NOT_SUPPORTED, EOPNOTSUPP,
                         "volume %s: a volume of kind %s is made at the start of a VM, and cannot be plugged in later",
                         volume, vmi_volume_kind_name(storage->volumes[i].volume->kind));
    job_of[i] = 1;
    x->storage = storage;
    x->index = i;
    r = start_job(storage, job_of, 1, &x->job, ret_error);
    if (r < 0)
        return r;
    *ret_fd = x->job.fd;
    *ret = TAKE_PTR(x);
    return 0;
}

int storage_examine_end(struct storage_examination *x, const struct storage_volume **ret, struct error **ret_error)
{
    struct result result = {0};
    int r;

    take_from_job(&x->job, now_usec(), &result);
    r = report(&result, 1, ret_error);
    if (r == 0 && take_result(x->storage, x->index, &result) < 0)
        r = error_oom(ret_error);
    if (r == 0)
        *ret = &x->storage->volumes[x->index];
    storage_examine_cancel(x);
    return r;
}

void storage_examine_cancel(struct storage_examination *x)
{
    if (!x)
        return;
    if (x->job.pid > 0)
        end_job(&x->job);
    free(x);
}

void storage_remove(struct storage *storage)
{
    remove_made(storage, false);
}
