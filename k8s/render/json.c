/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>

#include "k8s/render/private.h"

void put(struct pod_build *b, json_t *object, const char *key, json_t *value)
{
    if (json_object_set_new(object, key, value) < 0)
        b->failed = true;
}

void put_text(struct pod_build *b, json_t *object, const char *key, const char *value)
{
    if (value)
        put(b, object, key, json_string(value));
}

void add(struct pod_build *b, json_t *array, json_t *value)
{
    if (json_array_append_new(array, value) < 0)
        b->failed = true;
}

void add_text(struct pod_build *b, json_t *array, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    add(b, array, json_vsprintf(format, ap));
    va_end(ap);
}

void put_node(struct pod_build *b, json_t *object, const char *key, const struct node *node)
{
    if (node)
        put(b, object, key, node_to_json(node));
}

json_t *text_list(struct pod_build *b, const char *const *texts)
{
    json_t *list = json_array();

    for (; *texts; texts++)
        add(b, list, json_string(*texts));
    return list;
}

json_t *add_mount(struct pod_build *b, json_t *mounts, const char *volume, const char *format, ...)
{
    json_t *mount = json_pack("{s:s}", "name", volume);
    va_list ap;

    va_start(ap, format);
    put(b, mount, "mountPath", json_vsprintf(format, ap));
    va_end(ap);
    add(b, mounts, mount);
    return mount;
}

json_t *helper_resources(struct pod_build *b, const char *cpu, const char *memory, const char *cpu_limit,
                         const char *memory_limit, const char *storage)
{
    json_t *requests = json_pack("{s:s, s:s}", "cpu", b->guaranteed ? cpu_limit : cpu, "memory",
                                 b->guaranteed ? memory_limit : memory);

    put_text(b, requests, "ephemeral-storage", storage);
    return json_pack("{s:{s:s, s:s}, s:o}", "limits", "cpu", cpu_limit, "memory", memory_limit, "requests", requests);
}

json_t *restricted(struct pod_build *b)
{
    return json_pack("{s:b, s:{s:[s]}, s:b, s:i, s:i, s:b}", "allowPrivilegeEscalation", 0, "capabilities", "drop",
                     "ALL", "privileged", 0, "runAsGroup", LAUNCHER_UID, "runAsUser", LAUNCHER_UID, "runAsNonRoot", 1);
}
