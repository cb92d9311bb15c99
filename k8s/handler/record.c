/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/handler/record.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"

bool uid_is_valid(const char *uid)
{
    size_t n = strspn(uid, "0123456789abcdefABCDEF-");

    return n > 0 && n <= 64 && uid[n] == '\0';
}

void record_done(struct record *record)
{
    free(record->uid);
    free(record->namespace_);
    free(record->name);
    free(record->pod_uid);
    free(record->links);
    *record = (struct record){0};
}

int record_save(const char *dir, const struct record *record, struct error **ret_error)
{
    _cleanup_free_ char *path = NULL, *text = NULL;
    json_t *links = record->links ? json_loads(record->links, 0, NULL) : NULL;
    json_t *json = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:o*}", "uid", record->uid, "namespace",
                             record->namespace_, "name", record->name, "podUID", record->pod_uid, "generation",
                             (json_int_t)record->generation, "claimBytes", (json_int_t)record->claim_bytes, "nextEvent",
                             (json_int_t)record->next_event, "interfaces", links);

    text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    if (!text || asprintf(&path, "%s/%s", dir, record->uid) < 0)
        return error_oom(ret_error);
    return file_write_atomic(path, text, strlen(text), 0600, ret_error);
}

static int text_member(const json_t *json, const char *key, char **ret)
{
    const char *text = json_string_value(json_object_get(json, key));

    *ret = text ? strdup(text) : NULL;
    return text ? *ret ? 0 : -ENOMEM : -EBADMSG;
}

int record_load(const char *dir, const char *uid, struct record *ret, struct error **ret_error)
{
    _cleanup_free_ char *path = NULL, *text = NULL;
    struct record record = {0};
    size_t length;
    json_t *json;
    int r;

    if (asprintf(&path, "%s/%s", dir, uid) < 0)
        return error_oom(ret_error);
    r = file_read(path, LIMIT_HANDLER_RECORD_BYTES, &text, &length, ret_error);
    if (r < 0)
        return r;
    json = json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL);
    r = text_member(json, "uid", &record.uid);
    if (r >= 0)
        r = text_member(json, "namespace", &record.namespace_);
    if (r >= 0)
        r = text_member(json, "name", &record.name);
    if (r >= 0)
        r = text_member(json, "podUID", &record.pod_uid);
    if (r >= 0 && (!streq(record.uid, uid) || !uid_is_valid(record.pod_uid)))
        r = -EBADMSG;
    record.generation = json_integer_value(json_object_get(json, "generation"));
    record.claim_bytes = json_integer_value(json_object_get(json, "claimBytes"));
    record.next_event = (uint64_t)json_integer_value(json_object_get(json, "nextEvent"));
    if (r >= 0 && json_object_get(json, "interfaces")) {
        record.links = json_dumps(json_object_get(json, "interfaces"), JSON_COMPACT);
        r = record.links ? 0 : -ENOMEM;
    }
    json_decref(json);
    if (r < 0) {
        record_done(&record);
        return error_set(ret_error, ERROR_BAD_DATA, r, "%s is no record of an instance", path);
    }
    *ret = record;
    return 0;
}

void record_remove(const char *dir, const char *uid)
{
    _cleanup_free_ char *path = NULL;

    if (asprintf(&path, "%s/%s", dir, uid) >= 0)
        (void)unlink(path);
}

int record_list(const char *dir, void (*found)(const char *uid, void *userdata), void *userdata)
{
    DIR *d = opendir(dir);
    struct dirent *entry;

    if (!d)
        return -errno;
    while ((entry = readdir(d)))
        if (uid_is_valid(entry->d_name))
            found(entry->d_name, userdata);
    closedir(d);
    return 0;
}
