/* SPDX-License-Identifier: Apache-2.0 */
#include "domain/blockjobs.h"

#include <stdio.h>
#include <unistd.h>

#include "base/crash.h"
#include "base/limits.h"
#include "base/log.h"
#include "domain/domain-internal.h"
#include "domain/sequence.h"
#include "storage/storage.h"

enum job_state {
    JOB_PREPARING, /* targets are made, the guest freezes, QEMU is told */
    JOB_RUNNING,
    JOB_READY, /* a mirror that has caught up */
    JOB_FINISHING,
};

static const char *const state_names[] = {"preparing", "running", "ready", "finishing"};
static const char *const kind_names[] = {[BLOCK_JOB_BACKUP] = "backup", [BLOCK_JOB_MIRROR] = "mirror"};

struct job_disk {
    char *disk, *node, *target, *base;
    uint64_t size;
    bool created, concluded;
};

struct block_job {
    struct domain *domain;
    enum block_job_kind kind;
    enum job_state state;
    struct job_disk disks[BLOCK_JOB_DISKS_MAX];
    size_t n_disks;
    bool raw, incremental, freeze, frozen, cancelled, completing;
    char *checkpoint;
    unsigned serial; /* in the names of its nodes */
    uint64_t bytes_per_second, started_wall;
    struct error *error;
    domain_done_fn done; /* of the start; NULL once it was called */
    void *userdata;
    domain_done_fn end_done; /* of complete or cancel */
    void *end_userdata;
};

static void job_free(struct block_job *job)
{
    for (size_t i = 0; i < job->n_disks; i++) {
        free(job->disks[i].disk);
        free(job->disks[i].node);
        free(job->disks[i].target);
        free(job->disks[i].base);
    }
    free(job->checkpoint);
    error_free(job->error);
    free(job);
}

void domain_drop_block_job(struct domain *d)
{
    if (d->block_job)
        job_free(d->block_job);
    d->block_job = NULL;
}

/* ---- names: by the number of the disk, so that a next launcher finds them ---------------------------------------- */

static json_t *job_id(const struct block_job *job, size_t i)
{
    return json_sprintf("%s%zu", kind_names[job->kind], i);
}

static json_t *node_of(const struct block_job *job, size_t i, bool file)
{
    return json_sprintf("%s%zu%s-%u", kind_names[job->kind], i, file ? "-file" : "", job->serial);
}

json_t *domain_block_job_to_json(const struct domain *d)
{
    const struct block_job *job = d->block_job;
    json_t *disks, *to;

    if (!job)
        return json_null();
    disks = json_array();
    for (size_t i = 0; i < job->n_disks; i++)
        json_array_append_new(disks,
                              json_pack("{s:s, s:s, s:s, s:o}", "disk", job->disks[i].disk, "node", job->disks[i].node,
                                        "target", job->disks[i].target, "job", job_id(job, i)));
    to = json_pack("{s:s, s:s, s:b, s:b, s:s*, s:o, s:I}", "kind", kind_names[job->kind], "state",
                   state_names[job->state], "raw", job->raw, "incremental", job->incremental, "checkpoint",
                   job->checkpoint, "disks", disks, "started", (json_int_t)job->started_wall);
    json_object_set_new(to, "serial", json_integer((json_int_t)job->serial));
    return to;
}

/* ---- the end ---------------------------------------------------------------------------------------------------- */

static void tell_start(struct block_job *job, const struct error *error)
{
    domain_done_fn done = job->done;

    job->done = NULL;
    if (done)
        done(job->domain, error, job->userdata);
}

/* What a mirror has become: the disk's image. */
static void moved_over(struct domain *d, const struct block_job *job)
{
    const struct machine_disk *old = machine_find_disk(d->machine, job->disks[0].disk);
    json_t *file = node_of(job, 0, true), *node = node_of(job, 0, false);
    struct machine_disk disk;

    if (old) {
        disk = *old;
        memset(disk.nodes, 0, sizeof(disk.nodes));
        disk.nodes[0] = json_string_value(file);
        disk.nodes[1] = disk.node = json_string_value(node);
        disk.path = job->disks[0].target;
        disk.is_raw = job->raw;
        disk.is_overlay = disk.is_block_device = false;
        if (machine_set_disk(d->machine, &disk) < 0)
            log_warning("out of memory: disk %s is shown with its former image", disk.disk);
        d->disks_changed = true;
    }
    json_decref(file);
    json_decref(node);
}

static void job_ended(struct block_job *job)
{
    struct domain *d = job->domain;
    bool moved = job->kind == BLOCK_JOB_MIRROR && !job->error && !job->cancelled;

    if (job->cancelled && !job->error)
        error_set(&job->error, ERROR_CANCELLED, ECANCELED, "the %s was cancelled", kind_names[job->kind]);
    if (job->error)
        for (size_t i = 0; i < job->n_disks; i++)
            if (job->disks[i].created)
                unlink(job->disks[i].target);
    if (moved)
        moved_over(d, job);
    CRASH_POINT("job-ended");
    d->block_job = NULL;
    domain_save_state(d);
    event_log_add(d->events, "Device", job->error ? "BlockJobFailed" : "BlockJobCompleted",
                  json_pack("{s:s, s:s*, s:s*}", "kind", kind_names[job->kind], "checkpoint", job->checkpoint, "why",
                            job->error ? error_message(job->error) : NULL),
                  "the %s of %zu disk%s %s%s", kind_names[job->kind], job->n_disks, job->n_disks == 1 ? "" : "s",
                  job->error ? "failed: " : "is complete", job->error ? error_message(job->error) : "");
    tell_start(job, job->error);
    if (job->end_done)
        job->end_done(d, job->cancelled ? NULL : job->error, job->end_userdata);
    job_free(job);
}

static void on_closed(struct domain *d, json_t *result, const struct error *error, void *userdata)
{
    job_ended(userdata);
}

/* Dismisses the jobs and closes the nodes that are not needed any more. */
static void close_nodes(struct block_job *job)
{
    struct domain *d = job->domain;
    bool moved = job->kind == BLOCK_JOB_MIRROR && !job->error && !job->cancelled;
    const struct machine_disk *old = machine_find_disk(d->machine, job->disks[0].disk);
    struct sequence *s = sequence_new(d);

    job->state = JOB_FINISHING;
    for (size_t i = 0; s && i < job->n_disks; i++) {
        sequence_add(s, &(struct sequence_step){.command = "job-dismiss",
                                                .arguments = json_pack("{s:o}", "id", job_id(job, i)),
                                                .may_fail = true});
        for (int file = 0; file < 2 && !moved; file++)
            sequence_add(s, &(struct sequence_step){.command = "blockdev-del",
                                                    .arguments = json_pack("{s:o}", "node-name", node_of(job, i, file)),
                                                    .may_fail = true});
    }
    for (size_t k = MACHINE_DISK_NODES; s && moved && old && k-- > 0;)
        if (old->nodes[k])
            sequence_add(s, &(struct sequence_step){.command = "blockdev-del",
                                                    .arguments = json_pack("{s:s}", "node-name", old->nodes[k]),
                                                    .may_fail = true});
    if (!s || sequence_run(s, on_closed, job) < 0)
        job_ended(job);
}

static void on_jobs(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct block_job *job = userdata;
    size_t concluded = 0, i, k;
    json_t *one;

    for (i = 0; i < job->n_disks && !error; i++) {
        json_t *id = job_id(job, i);
        bool found = false;

        json_array_foreach (result, k, one) {
            const char *status = json_string_value(json_object_get(one, "status"));
            const char *why = json_string_value(json_object_get(one, "error"));

            if (!json_equal(json_object_get(one, "id"), id))
                continue;
            found = true;
            concluded += status && streq(status, "concluded");
            if (why && !job->error && !job->cancelled)
                error_set(&job->error, ERROR_QMP, EIO, "%s of disk %s: %s", kind_names[job->kind], job->disks[i].disk,
                          why);
        }
        if (!found) { /* it ended while no launcher was there to see how */
            concluded++;
            if (!job->error)
                error_set(&job->error, ERROR_QMP, EIO, "%s of disk %s: its job is gone", kind_names[job->kind],
                          job->disks[i].disk);
        }
        json_decref(id);
    }
    if (!error && concluded == job->n_disks)
        close_nodes(job);
    else if (error && error_get_code(error) != ERROR_CANCELLED)
        log_warning_of(error, "the state of the %s cannot be asked for", kind_names[job->kind]);
}

void domain_on_job_event(struct domain *d, const char *id, const char *status)
{
    struct block_job *job = d->block_job;
    size_t concluded = 0;

    for (size_t i = 0; job && i < job->n_disks; i++) {
        json_t *mine = job_id(job, i);
        bool is_mine = streq(json_string_value(mine), id);

        json_decref(mine);
        if (is_mine && streq(status, "concluded"))
            job->disks[i].concluded = true;
        if (is_mine && streq(status, "ready") && job->state == JOB_RUNNING) {
            job->state = JOB_READY;
            event_log_add(d->events, "Device", "BlockJobReady",
                          json_pack("{s:s, s:s}", "kind", kind_names[job->kind], "disk", job->disks[i].disk),
                          "the mirror of disk %s has caught up", job->disks[i].disk);
        }
        concluded += job->disks[i].concluded;
    }
    if (!job || concluded < job->n_disks || (job->state != JOB_RUNNING && job->state != JOB_READY))
        return;
    if (qmp_client_invoke(d->qmp, "query-jobs", NULL, on_jobs, job) < 0)
        log_warning("the end of the %s cannot be looked at: QEMU's monitor is gone", kind_names[job->kind]);
}

/* ---- the start --------------------------------------------------------------------------------------------------- */

static void on_thawed(struct domain *d, const struct error *error, void *userdata)
{
    if (error)
        log_warning_of(error, "the guest's file systems could not be thawed at once; its timer will try again");
}

static void start_failed(struct block_job *job, struct error *error)
{
    job->error = error;
    if (job->frozen && domain_unfreeze(job->domain, on_thawed, NULL) < 0)
        log_warning("the guest agent is gone, and the guest's file systems are frozen");
    job_ended(job);
}

static void on_started(struct domain *d, json_t *result, const struct error *error, void *userdata)
{
    struct block_job *job = userdata;
    struct error *e = NULL;

    CRASH_POINT("job-started");
    if (error) {
        e = error_copy(error);
        error_wrap(&e, 0, "the %s cannot be begun", kind_names[job->kind]);
        start_failed(job, e);
        return;
    }
    /* the copies show this moment from now on, whatever the guest writes */
    if (job->frozen && domain_unfreeze(d, on_thawed, NULL) < 0)
        log_warning("the guest agent is gone, and the guest's file systems are frozen");
    job->frozen = false;
    job->state = JOB_RUNNING;
    job->started_wall = realtime_usec();
    domain_save_state(d);
    event_log_add(d->events, "Device", "BlockJobStarted", json_pack("{s:s}", "kind", kind_names[job->kind]),
                  "the %s of %zu disk%s has begun", kind_names[job->kind], job->n_disks, job->n_disks == 1 ? "" : "s");
    tell_start(job, NULL);
    domain_on_job_event(d, "", ""); /* all of them may be done already */
}

static json_t *action(const char *type, json_t *data)
{
    return json_pack("{s:s, s:o}", "type", type, "data", data);
}

static json_t *backup_arguments(const struct block_job *job, size_t i)
{
    json_t *backup =
        json_pack("{s:o, s:s, s:o, s:s, s:b}", "job-id", job_id(job, i), "device", job->disks[i].node, "target",
                  node_of(job, i, false), "sync", job->incremental ? "bitmap" : "full", "auto-dismiss", 0);

    if (job->incremental) {
        json_object_set_new(backup, "bitmap", json_string(job->checkpoint));
        json_object_set_new(backup, "bitmap-mode", json_string("on-success"));
    }
    if (job->bytes_per_second)
        json_object_set_new(backup, "speed", json_integer((json_int_t)job->bytes_per_second));
    return backup;
}

/* One transaction: either all disks are copied as they are now, or nothing happens. */
static json_t *transaction(const struct block_job *job)
{
    json_t *actions = json_array();

    for (size_t i = 0; i < job->n_disks; i++)
        if (job->checkpoint && !job->incremental)
            json_array_append_new(actions,
                                  action("block-dirty-bitmap-add",
                                         json_pack("{s:s, s:s}", "node", job->disks[i].node, "name", job->checkpoint)));
    for (size_t i = 0; i < job->n_disks; i++)
        json_array_append_new(actions, action("blockdev-backup", backup_arguments(job, i)));
    return json_pack("{s:o}", "actions", actions);
}

static void add_target(struct sequence *s, const struct block_job *job, size_t i)
{
    json_t *format = json_pack("{s:s, s:o, s:o}", "driver", job->raw ? "raw" : "qcow2", "node-name",
                               node_of(job, i, false), "file", node_of(job, i, true));

    if (!job->raw)
        json_object_set_new(format, "backing", json_null()); /* it is only written to */
    sequence_add(
        s, &(struct sequence_step){
               .command = "blockdev-add",
               .arguments = json_pack("{s:s, s:o, s:s, s:s}", "driver", "file", "node-name", node_of(job, i, true),
                                      "filename", job->disks[i].target, "discard", "unmap"),
               .undo = "blockdev-del",
               .undo_arguments = json_pack("{s:o}", "node-name", node_of(job, i, true)),
           });
    sequence_add(s, &(struct sequence_step){
                        .command = "blockdev-add",
                        .arguments = format,
                        .undo = "blockdev-del",
                        .undo_arguments = json_pack("{s:o}", "node-name", node_of(job, i, false)),
                    });
}

static void begin(struct block_job *job)
{
    struct sequence *s = sequence_new(job->domain);
    struct error *e = NULL;
    int r = -ENOMEM;

    for (size_t i = 0; s && i < job->n_disks; i++)
        add_target(s, job, i);
    if (s && job->kind == BLOCK_JOB_BACKUP)
        sequence_add(s, &(struct sequence_step){.command = "transaction", .arguments = transaction(job)});
    else if (s)
        sequence_add(s, &(struct sequence_step){
                            .command = "blockdev-mirror",
                            .arguments = json_pack("{s:o, s:s, s:o, s:s, s:I, s:b, s:s}", "job-id", job_id(job, 0),
                                                   "device", job->disks[0].node, "target", node_of(job, 0, false),
                                                   "sync", "full", "speed", (json_int_t)job->bytes_per_second,
                                                   "auto-dismiss", 0, "copy-mode", "write-blocking"),
                        });
    if (s)
        r = sequence_run(s, on_started, job);
    if (r >= 0)
        return;
    error_set(&e, ERROR_CONNECTION, r, "the %s cannot be begun: QEMU's monitor is not there", kind_names[job->kind]);
    start_failed(job, e);
}

static void on_frozen(struct domain *d, const struct error *error, void *userdata)
{
    struct block_job *job = userdata;
    struct error *e;

    if (!error) {
        job->frozen = true;
        begin(job);
        return;
    }
    e = error_copy(error);
    error_wrap(&e, 0, "the guest's file systems could not be frozen for the %s", kind_names[job->kind]);
    start_failed(job, e);
}

static int make_targets(struct block_job *job, struct error **ret_error)
{
    for (size_t i = 0; i < job->n_disks; i++) {
        struct job_disk *disk = &job->disks[i];
        int r;

        if (access(disk->target, F_OK) == 0)
            return error_set(ret_error, ERROR_ALREADY_EXISTS, EEXIST, "%s is there already", disk->target);
        r = storage_create_image(disk->target, !job->raw, disk->size, disk->base, ret_error);
        if (r < 0)
            return r;
        disk->created = true;
    }
    return 0;
}

/* The sizes are known: on to the targets, the freeze and the job. */
static void on_sizes(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct block_job *job = userdata;
    struct error *e = error ? error_copy(error) : NULL;
    json_t *block;
    size_t k;

    for (size_t i = 0; i < job->n_disks && !e; i++) {
        json_array_foreach (result, k, block) {
            json_t *inserted = json_object_get(block, "inserted");
            const char *node = json_string_value(json_object_get(inserted, "node-name"));

            if (node && streq(node, job->disks[i].node))
                job->disks[i].size =
                    (uint64_t)json_integer_value(json_object_get(json_object_get(inserted, "image"), "virtual-size"));
        }
        if (job->disks[i].size == 0)
            error_set(&e, ERROR_NOT_FOUND, ENOENT, "the size of disk %s cannot be asked for", job->disks[i].disk);
    }
    if (!e)
        make_targets(job, &e);
    if (e)
        start_failed(job, e);
    else if (!job->freeze)
        begin(job);
    else if (domain_freeze(job->domain, TIMEOUT_FREEZE_USEC, on_frozen, job) < 0) {
        error_set(&e, ERROR_AGENT_NOT_CONNECTED, ENOTCONN,
                  "the guest's file systems cannot be frozen for the %s: the guest agent is not connected",
                  kind_names[job->kind]);
        start_failed(job, e);
    }
}

static int check(const struct domain *d, const struct block_job_request *q, struct error **ret_error)
{
    if (d->block_job)
        return error_set(ret_error, ERROR_WRONG_STATE, EBUSY, "a %s is under way", kind_names[d->block_job->kind]);
    if (q->n_disks == 0 || q->n_disks > BLOCK_JOB_DISKS_MAX || (q->kind == BLOCK_JOB_MIRROR && q->n_disks != 1))
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "%zu disks were named (1 to %u)", q->n_disks,
                         q->kind == BLOCK_JOB_MIRROR ? 1 : BLOCK_JOB_DISKS_MAX);
    if (q->incremental && (!q->checkpoint || q->raw))
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "an incremental backup needs a checkpoint, and qcow2");
    if (!d->qmp || d->pid <= 0)
        return error_set(ret_error, ERROR_CONNECTION, ENOTCONN, "QEMU's monitor is not there");
    for (size_t i = 0; i < q->n_disks; i++) {
        const struct machine_disk *disk = machine_find_disk(d->machine, q->disks[i].disk);

        if (!disk || !disk->node)
            return error_set(ret_error, ERROR_NOT_FOUND, ENOENT, "the VM has no disk %s, or its tray is empty",
                             q->disks[i].disk);
        if (q->disks[i].target[0] != '/')
            return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "%s is no absolute path", q->disks[i].target);
    }
    return 0;
}

int domain_start_block_job(struct domain *d, const struct block_job_request *q, domain_done_fn done, void *userdata,
                           struct error **ret_error)
{
    struct block_job *job;
    int r = check(d, q, ret_error);

    if (r < 0)
        return r;
    job = calloc(1, sizeof(*job));
    if (!job)
        return error_oom(ret_error);
    *job = (struct block_job){.domain = d,
                              .kind = q->kind,
                              .raw = q->raw,
                              .incremental = q->incremental,
                              .freeze = q->freeze,
                              .bytes_per_second = q->bytes_per_second,
                              .done = done,
                              .userdata = userdata};
    job->checkpoint = q->checkpoint ? strdup(q->checkpoint) : NULL;
    r = q->checkpoint && !job->checkpoint ? -ENOMEM : 0;
    for (size_t i = 0; i < q->n_disks && r == 0; i++) {
        struct job_disk *to = &job->disks[job->n_disks++];

        to->disk = strdup(q->disks[i].disk);
        to->node = strdup(machine_find_disk(d->machine, to->disk ? to->disk : "")->node);
        to->target = strdup(q->disks[i].target);
        to->base = q->disks[i].base ? strdup(q->disks[i].base) : NULL;
        if (!to->disk || !to->node || !to->target || (q->disks[i].base && !to->base))
            r = -ENOMEM;
    }
    job->serial = ++d->plug_serial;
    d->disks_changed = true;
    if (r == 0)
        r = qmp_client_invoke(d->qmp, "query-block", NULL, on_sizes, job);
    if (r < 0) {
        job_free(job);
        return error_errno(ret_error, r, "the %s cannot be begun", kind_names[q->kind]);
    }
    d->block_job = job;
    domain_save_state(d);
    return 0;
}

/* ---- complete, cancel -------------------------------------------------------------------------------------------- */

static void on_end_asked(struct domain *d, json_t *result, const struct error *error, void *userdata)
{
    struct block_job *job = d->block_job;
    domain_done_fn done;

    if (!job || !error)
        return;
    done = job->end_done;
    job->end_done = NULL;
    job->cancelled = job->completing = false;
    if (done)
        done(d, error, job->end_userdata);
}

static int ask_end(struct domain *d, const char *command, domain_done_fn done, void *userdata, struct error **ret_error)
{
    struct block_job *job = d->block_job;
    struct sequence *s = sequence_new(d);
    int r;

    if (!s)
        return error_oom(ret_error);
    for (size_t i = 0; i < job->n_disks; i++)
        sequence_add(s, &(struct sequence_step){.command = command,
                                                .arguments = json_pack("{s:o}", "id", job_id(job, i)),
                                                .may_fail = job->disks[i].concluded});
    job->end_done = done;
    job->end_userdata = userdata;
    r = sequence_run(s, on_end_asked, NULL);
    if (r < 0)
        job->end_done = NULL;
    return r < 0 ? error_errno(ret_error, r, "cannot talk to QEMU") : 0;
}

int domain_complete_block_job(struct domain *d, domain_done_fn done, void *userdata, struct error **ret_error)
{
    if (!d->block_job || d->block_job->kind != BLOCK_JOB_MIRROR || d->block_job->state != JOB_READY ||
        d->block_job->end_done)
        return error_set(ret_error, ERROR_WRONG_STATE, EBUSY, "there is no mirror that is ready to be completed");
    d->block_job->completing = true;
    return ask_end(d, "job-complete", done, userdata, ret_error);
}

int domain_cancel_block_job(struct domain *d, domain_done_fn done, void *userdata, struct error **ret_error)
{
    if (!d->block_job || (d->block_job->state != JOB_RUNNING && d->block_job->state != JOB_READY) ||
        d->block_job->end_done)
        return error_set(ret_error, ERROR_WRONG_STATE, EBUSY, "there is no job that could be cancelled");
    d->block_job->cancelled = true;
    return ask_end(d, "job-cancel", done, userdata, ret_error);
}

/* ---- a next launcher --------------------------------------------------------------------------------------------- */

void domain_take_up_block_job(struct domain *d, const json_t *state)
{
    const char *kind = json_string_value(json_object_get(state, "kind"));
    const char *checkpoint = json_string_value(json_object_get(state, "checkpoint"));
    struct block_job *job = json_is_object(state) && kind ? calloc(1, sizeof(*job)) : NULL;
    json_t *disk;
    size_t i;

    if (!job)
        return;
    job->domain = d;
    job->kind = streq(kind, "mirror") ? BLOCK_JOB_MIRROR : BLOCK_JOB_BACKUP;
    job->state = JOB_RUNNING;
    job->serial = (unsigned)json_integer_value(json_object_get(state, "serial"));
    job->raw = json_is_true(json_object_get(state, "raw"));
    job->checkpoint = checkpoint ? strdup(checkpoint) : NULL;
    json_array_foreach (json_object_get(state, "disks"), i, disk) {
        const char *name = json_string_value(json_object_get(disk, "disk"));
        const char *node = json_string_value(json_object_get(disk, "node"));
        const char *target = json_string_value(json_object_get(disk, "target"));

        if (job->n_disks == BLOCK_JOB_DISKS_MAX || !name || !node || !target)
            continue;
        job->disks[job->n_disks] =
            (struct job_disk){.disk = strdup(name), .node = strdup(node), .target = strdup(target), .created = true};
        job->n_disks +=
            job->disks[job->n_disks].disk && job->disks[job->n_disks].node && job->disks[job->n_disks].target;
    }
    d->block_job = job;
    if (job->n_disks == 0 || qmp_client_invoke(d->qmp, "query-jobs", NULL, on_jobs, job) < 0)
        domain_drop_block_job(d);
}
