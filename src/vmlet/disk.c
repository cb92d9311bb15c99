/* SPDX-License-Identifier: Apache-2.0 */
/* `vmlet disk`: the disks of a VM that runs. */
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/strv.h"
#include "vmlet/options.h"
#include "vmlet/output.h"
#include "vmlet/remote.h"
#include "json/quantity.h"

struct disk_options {
    struct vm_options vm;
    const char *plug, *unplug, *resize, *insert, *eject, *bus, *serial, *checkpoint, *format;
    char **backup;
    bool read_only, force, freeze, incremental, cancel;
};

#define OFFSET(member) .offset = offsetof(struct disk_options, member)
static const char *const buses[] = {"virtio", "scsi", NULL};
static const char *const formats[] = {"qcow2", "raw", NULL};

const struct option_spec disk_options[] = {
    VM_OPTIONS_WHERE,
    VM_OPTIONS_TIMEOUT,
    VM_OPTIONS_JSON,
    {.name = "plug",
     .kind = OPTION_TEXT,
     OFFSET(plug),
     .argument = "DISK=PATH",
     .what = "plug in an image (raw or qcow2) or a block device under this name"},
    {.name = "bus",
     .kind = OPTION_CHOICE,
     OFFSET(bus),
     .argument = "virtio|scsi",
     .what = "with --plug: where (virtio)",
     .choices = buses},
    {.name = "serial",
     .kind = OPTION_TEXT,
     OFFSET(serial),
     .argument = "TEXT",
     .what = "with --plug: the serial number that the guest sees"},
    {.name = "read-only", .kind = OPTION_FLAG, OFFSET(read_only), .what = "with --plug: the guest may not write"},
    {.name = "unplug",
     .kind = OPTION_TEXT,
     OFFSET(unplug),
     .argument = "DISK",
     .what = "unplug a disk; the guest has to let go of it"},
    {.name = "resize",
     .kind = OPTION_TEXT,
     OFFSET(resize),
     .argument = "DISK[=SIZE]",
     .what = "make a disk larger: to SIZE (20Gi), or to what its file or device has now"},
    {.name = "insert",
     .kind = OPTION_TEXT,
     OFFSET(insert),
     .argument = "DISK=PATH",
     .what = "put this image into a CD-ROM drive"},
    {.name = "eject",
     .kind = OPTION_TEXT,
     OFFSET(eject),
     .argument = "DISK",
     .what = "take the medium out of a CD-ROM drive"},
    {.name = "force",
     .kind = OPTION_FLAG,
     OFFSET(force),
     .what = "with --insert and --eject: also when the guest has locked the tray"},
    {.name = "backup",
     .kind = OPTION_LIST,
     OFFSET(backup),
     .argument = "DISK=PATH",
     .what = "copy a disk as it is at this moment into a new file; may be repeated"},
    {.name = "format",
     .kind = OPTION_CHOICE,
     OFFSET(format),
     .argument = "qcow2|raw",
     .what = "with --backup: of the copies (qcow2)",
     .choices = formats},
    {.name = "freeze",
     .kind = OPTION_FLAG,
     OFFSET(freeze),
     .what = "with --backup: freeze the guest's file systems for that moment"},
    {.name = "checkpoint",
     .kind = OPTION_TEXT,
     OFFSET(checkpoint),
     .argument = "NAME",
     .what = "with --backup: remember what changes from here on"},
    {.name = "incremental",
     .kind = OPTION_FLAG,
     OFFSET(incremental),
     .what = "with --backup: only what changed since the checkpoint, which moves up"},
    {.name = "cancel", .kind = OPTION_FLAG, OFFSET(cancel), .what = "give up the backup that is under way"},
    {0},
};

struct request {
    const char *method, *done;
    json_t *params;
};

/* The launcher has a working directory of its own: what it gets is absolute. */
static json_t *absolute(const char *path)
{
    char here[PATH_MAX];

    return path[0] != '/' && getcwd(here, sizeof(here)) ? json_sprintf("%s/%s", here, path) : json_string(path);
}

/* "DISK=PATH" as {"name", key}. */
static json_t *named(const char *text, const char *key)
{
    const char *equals = strchr(text, '=');

    return json_pack("{s:o, s:o}", "name", json_stringn(text, (size_t)(equals - text)), key, absolute(equals + 1));
}

static int make_resize(const struct verb *verb, const struct disk_options *o, struct request *ret)
{
    const char *equals = strchr(o->resize, '='), *why = "must be positive";
    struct quantity bytes = {0};

    if (equals && (quantity_parse(equals + 1, &bytes, &why) < 0 || bytes.value <= 0))
        return usage_error(verb, "--resize %s: the size %s", o->resize, why);
    *ret =
        (struct request){"ResizeDisk", "resized",
                         json_pack("{s:o, s:I}", "name",
                                   json_stringn(o->resize, equals ? (size_t)(equals - o->resize) : strlen(o->resize)),
                                   "size", (json_int_t)bytes.value)};
    return -1;
}

static void make_backup(const struct disk_options *o, struct request *ret)
{
    json_t *disks = json_array();

    STRV_FOREACH (item, o->backup)
        json_array_append_new(disks, named(*item, "target"));
    *ret = (struct request){"BackupDisks", "backup complete",
                            json_pack("{s:o, s:s*, s:s*, s:b, s:b}", "disks", disks, "format", o->format, "checkpoint",
                                      o->checkpoint, "incremental", o->incremental, "freeze", o->freeze)};
}

static bool lacks_path(const struct disk_options *o)
{
    STRV_FOREACH (item, o->backup)
        if (!strchr(*item, '='))
            return true;
    return (o->plug && !strchr(o->plug, '=')) || (o->insert && !strchr(o->insert, '='));
}

static int make_request(const struct verb *verb, const struct disk_options *o, struct request *ret)
{
    int wishes = !!o->plug + !!o->unplug + !!o->resize + !!o->insert + !!o->eject + !!o->backup + o->cancel;

    *ret = (struct request){"GetDisks", NULL, NULL};
    if (wishes > 1)
        return usage_error(verb,
                           "--plug, --unplug, --resize, --insert, --eject, --backup and --cancel exclude each other");
    if (lacks_path(o))
        return usage_error(verb, "--plug, --insert and --backup want DISK=PATH");
    if (o->resize)
        return make_resize(verb, o, ret);
    if (o->plug)
        *ret = (struct request){"PlugDisk", "plugged in", named(o->plug, "path")};
    if (o->plug && o->bus)
        json_object_set_new(ret->params, "bus", json_string(o->bus));
    if (o->plug && o->serial)
        json_object_set_new(ret->params, "serial", json_string(o->serial));
    if (o->plug && o->read_only)
        json_object_set_new(ret->params, "readOnly", json_true());
    if (o->unplug)
        *ret = (struct request){"UnplugDisk", "unplugged", json_pack("{s:s}", "name", o->unplug)};
    if (o->insert)
        *ret = (struct request){"ChangeMedium", "inserted", named(o->insert, "path")};
    if (o->eject)
        *ret = (struct request){"ChangeMedium", "ejected", json_pack("{s:s}", "name", o->eject)};
    if (o->insert || o->eject)
        json_object_set_new(ret->params, "force", json_boolean(o->force));
    if (o->backup)
        make_backup(o, ret);
    if (o->cancel)
        *ret = (struct request){"CancelBlockJob", "cancelled", NULL};
    return -1;
}

/* The answer to BackupDisks comes when the backup has begun. */
static int wait_for_backup(struct rpc_client *client, struct error **ret_error)
{
    for (int r = 0;;) {
        _cleanup_free_ char *method = NULL;
        json_t *event = NULL;
        const char *reason, *why;

        r = rpc_client_next(client, UINT64_MAX, &method, &event, ret_error);
        if (r < 0)
            return r;
        reason = json_string_value(json_object_get(event, "reason"));
        why = json_string_value(json_object_get(event, "why"));
        if (reason && streq(reason, "BlockJobFailed"))
            r = error_set(ret_error, ERROR_STORAGE, EIO, "%s", why ? why : "the backup failed");
        else
            r = reason && streq(reason, "BlockJobCompleted") ? 1 : 0;
        json_decref(event);
        if (r != 0)
            return r;
    }
}

static int print_disks(const json_t *result)
{
    json_t *disk;
    size_t i;

    json_array_foreach (json_object_get(result, "disks"), i, disk) {
        const char *path = json_string_value(json_object_get(disk, "path"));
        const char *how = json_is_true(json_object_get(disk, "byHand"))    ? ", plugged in by a command"
                          : json_is_true(json_object_get(disk, "plugged")) ? ", plugged in"
                                                                           : "";

        printf("%-4s %-7s ", json_string_value(json_object_get(disk, "target")),
               json_string_value(json_object_get(disk, "bus")));
        print_safe(stdout, json_string_value(json_object_get(disk, "name")));
        printf("  ");
        print_safe(stdout, path ? path : "(empty tray)");
        printf("%s%s\n", json_is_true(json_object_get(disk, "readOnly")) ? ", read-only" : "", how);
    }
    return finish_output();
}

static int ask(struct rpc_client *client, const struct disk_options *options, struct request *request,
               json_t **ret_result, struct error **ret_error)
{
    json_t *params = TAKE_PTR(request->params);
    /* subscribed before, so that its last word is not missed */
    int r = options->backup ? vm_call(client, &options->vm, "Subscribe", NULL, NULL, ret_error) : 0;

    if (r < 0) {
        json_decref(params);
        return r;
    }
    r = vm_call(client, &options->vm, request->method, params, ret_result, ret_error);
    return r >= 0 && options->backup ? wait_for_backup(client, ret_error) : r;
}

int verb_disk(int argc, char **argv)
{
    const struct verb *verb = verb_find(argv[0]);
    /* a guest that has to let go of a disk, and an image on a slow volume, take their time */
    struct disk_options options = {.vm.timeout_usec = TIMEOUT_QMP_STORAGE_USEC};
    _cleanup_(rpc_client_freep) struct rpc_client *client = NULL;
    _cleanup_error_ struct error *error = NULL;
    struct request request;
    json_t *result = NULL;
    int r = vm_open(verb, argc, argv, &options.vm, &client);

    if (r < 0)
        r = make_request(verb, &options, &request);
    if (r >= 0) {
        strv_free(options.backup);
        return r;
    }
    if (ask(client, &options, &request, &result, &error) < 0) {
        r = print_error(error);
    } else if (options.vm.json) {
        json_object_del(result, "response");
        r = print_json(result);
    } else if (request.done) {
        printf("%s\n", request.done);
        r = finish_output();
    } else {
        r = print_disks(result);
    }
    json_decref(result);
    strv_free(options.backup);
    return r;
}
