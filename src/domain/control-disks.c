/* SPDX-License-Identifier: Apache-2.0 */
/* The command server's methods on disks: what KubeVirt does by a changed manifest, for those who have none, and copies.
 */
#include "domain/blockjobs.h"
#include "domain/control-internal.h"
#include "domain/disks.h"

static const char *text(json_t *params, const char *key)
{
    return json_string_value(json_object_get(params, key));
}

static bool flag(json_t *params, const char *key)
{
    return json_is_true(json_object_get(params, key));
}

static void on_done(struct domain *d, const struct error *error, void *userdata)
{
    if (error)
        rpc_fail(userdata, error);
    else
        rpc_reply(userdata, control_success());
}

/* r: what beginning it returned. */
static void begun(struct rpc_call *call, int r, const struct error *error)
{
    if (r < 0)
        rpc_fail(call, error);
}

void handle_get_disks(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;

    rpc_reply(call, json_pack("{s:o, s:o, s:o}", "response", control_success(), "disks",
                              domain_disks_to_json(c->domain), "job", domain_block_job_to_json(c->domain)));
}

void handle_plug_disk(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;
    _cleanup_error_ struct error *e = NULL;
    const struct disk_request request = {
        .name = text(params, "name"),
        .path = text(params, "path"),
        .bus = text(params, "bus"),
        .serial = text(params, "serial"),
        .read_only = flag(params, "readOnly"),
    };

    int r = domain_plug_disk(c->domain, &request, on_done, call, &e);
    begun(call, r, e);
}

void handle_unplug_disk(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;
    _cleanup_error_ struct error *e = NULL;

    int r = domain_unplug_disk(c->domain, text(params, "name"), on_done, call, &e);
    begun(call, r, e);
}

void handle_resize_disk(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;
    json_int_t size = json_integer_value(json_object_get(params, "size"));
    _cleanup_error_ struct error *e = NULL;

    if (size < 0) {
        control_fail(call, ERROR_BAD_ARGUMENT, EINVAL, "size is negative");
        return;
    }
    int r = domain_resize_disk(c->domain, text(params, "name"), (uint64_t)size, on_done, call, &e);
    begun(call, r, e);
}

void handle_change_medium(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;
    _cleanup_error_ struct error *e = NULL;

    int r = domain_change_medium(c->domain, text(params, "name"), text(params, "path"), flag(params, "force"), on_done,
                                 call, &e);
    begun(call, r, e);
}

static int read_disks(json_t *list, struct block_job_disk *to, size_t *ret_count, struct error **ret_error)
{
    json_t *item;
    size_t i;

    if (json_array_size(list) > BLOCK_JOB_DISKS_MAX)
        return error_set(ret_error, ERROR_LIMIT, E2BIG, "more than %u disks", BLOCK_JOB_DISKS_MAX);
    json_array_foreach (list, i, item) {
        to[i] = (struct block_job_disk){text(item, "name"), text(item, "target"), text(item, "base")};
        if (!to[i].disk || !to[i].target)
            return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "disks[%zu] needs name and target", i);
    }
    *ret_count = json_array_size(list);
    return 0;
}

static void start_job(struct rpc_call *call, json_t *params, struct control *c, struct block_job_request *request)
{
    struct block_job_disk disks[BLOCK_JOB_DISKS_MAX];
    const char *format = text(params, "format");
    json_int_t speed = json_integer_value(json_object_get(params, "bytesPerSecond"));
    _cleanup_error_ struct error *e = NULL;
    int r = read_disks(json_object_get(params, "disks"), disks, &request->n_disks, &e);

    if (r >= 0 && format && !streq(format, "raw") && !streq(format, "qcow2"))
        r = error_set(&e, ERROR_BAD_ARGUMENT, EINVAL, "format %s: not known (raw, qcow2)", format);
    if (r >= 0) {
        request->disks = disks;
        request->raw = format && streq(format, "raw");
        request->bytes_per_second = speed > 0 ? (uint64_t)speed : 0;
        r = domain_start_block_job(c->domain, request, on_done, call, &e);
    }
    begun(call, r, e);
}

void handle_backup_disks(struct rpc_call *call, json_t *params, void *userdata)
{
    struct block_job_request request = {
        .kind = BLOCK_JOB_BACKUP,
        .incremental = flag(params, "incremental"),
        .checkpoint = text(params, "checkpoint"),
        .freeze = flag(params, "freeze"),
    };

    start_job(call, params, userdata, &request);
}

void handle_mirror_disk(struct rpc_call *call, json_t *params, void *userdata)
{
    struct block_job_request request = {.kind = BLOCK_JOB_MIRROR};

    start_job(call, params, userdata, &request);
}

void handle_complete_job(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;
    _cleanup_error_ struct error *e = NULL;

    int r = domain_complete_block_job(c->domain, on_done, call, &e);
    begun(call, r, e);
}

void handle_cancel_job(struct rpc_call *call, json_t *params, void *userdata)
{
    struct control *c = userdata;
    _cleanup_error_ struct error *e = NULL;

    int r = domain_cancel_block_job(c->domain, on_done, call, &e);
    begun(call, r, e);
}

const struct rpc_param disk_plug_params[] = {
    {"name", JSON_STRING, true, "the disk's name, which no other has"},
    {"path", JSON_STRING, true, "image (raw or qcow2) or block device, an absolute path"},
    {"bus", JSON_STRING, false, "virtio (the default) or scsi"},
    {"serial", JSON_STRING, false, "serial number that the guest sees"},
    {"readOnly", JSON_TRUE, false, "the guest may not write"},
    {0},
};
const struct rpc_param disk_name_params[] = {
    {"name", JSON_STRING, true, "the disk's name"},
    {0},
};
const struct rpc_param disk_resize_params[] = {
    {"name", JSON_STRING, true, "the disk's name"},
    {"size", JSON_INTEGER, false, "bytes; without it: as large as its file or device is now"},
    {0},
};
const struct rpc_param disk_medium_params[] = {
    {"name", JSON_STRING, true, "the CD-ROM drive's name"},
    {"path", JSON_STRING, false, "the new medium, an absolute path; without it the tray is emptied"},
    {"force", JSON_TRUE, false, "also when the guest has locked the tray"},
    {0},
};
const struct rpc_param disk_backup_params[] = {
    {"disks", JSON_ARRAY, true, "of {name, target, base?}: the copies are files that are not there yet"},
    {"format", JSON_STRING, false, "qcow2 (the default) or raw"},
    {"checkpoint", JSON_STRING, false, "what changes from here on is remembered under this name"},
    {"incremental", JSON_TRUE, false, "only what changed since the checkpoint, which moves up"},
    {"freeze", JSON_TRUE, false, "freeze the guest's file systems for the moment that is copied"},
    {"bytesPerSecond", JSON_INTEGER, false, "at most; 0: as fast as it goes"},
    {0},
};
const struct rpc_param disk_mirror_params[] = {
    {"disks", JSON_ARRAY, true, "of one {name, target}"},
    {"format", JSON_STRING, false, "qcow2 (the default) or raw"},
    {"bytesPerSecond", JSON_INTEGER, false, "at most; 0: as fast as it goes"},
    {0},
};
