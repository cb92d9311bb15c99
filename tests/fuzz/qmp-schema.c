/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A schema from anywhere, and behind a NUL byte the arguments of a command: every name that a list of the schema gives
 * is known to its questions, and a check fails exactly when it says why.
 */
#include <string.h>

#include <vmlet/qmp.h>

#include "base/error.h"
#include "base/strbuf.h"
#include "base/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define COMMANDS 8U
#define DEPTH    3U

static void look_at_members(const struct qmp_schema *schema, const char *command, const char *path,
                            const json_t *arguments, unsigned depth)
{
    json_t *members = qmp_schema_members(schema, command, path, arguments), *member;
    size_t i;

    if (!members)
        abort();
    json_array_foreach (members, i, member) {
        const char *name = json_string_value(json_object_get(member, "name")),
                   *type = json_string_value(json_object_get(member, "type"));
        _cleanup_free_ char *whole = NULL;

        if (!name || !type || !json_is_boolean(json_object_get(member, "optional")) ||
            asprintf(&whole, "%s%s%s", path, *path ? "." : "", name) < 0)
            abort();
        if (!*name || strchr(name, '.') || strlen(name) > 100) /* no path leads there */
            continue;
        if (!qmp_schema_has_argument(schema, command, whole) || !qmp_schema_type(schema, command, whole, arguments))
            abort();
        (void)qmp_schema_has_value(schema, command, whole, "x");
        if (depth < DEPTH && i < COMMANDS)
            look_at_members(schema, command, whole, arguments, depth + 1);
    }
    json_decref(members);
}

static void look_at_command(const struct qmp_schema *schema, const char *name, const json_t *arguments)
{
    _cleanup_error_ struct error *error = NULL;
    _cleanup_free_ char *help = qmp_schema_help(schema, name);
    int r = qmp_schema_check(schema, name, arguments, &error);

    if (!help || !qmp_schema_has_command(schema, name) || (r < 0) != (error != NULL))
        abort();
    look_at_members(schema, name, "", NULL, 0);
    look_at_members(schema, name, "", arguments, 0);
}

static void look_at(const struct qmp_schema *schema, const json_t *arguments)
{
    json_t *commands = qmp_schema_list(schema, "command"), *events = qmp_schema_list(schema, "event"), *name;
    size_t i;

    json_array_foreach (events, i, name)
        if (!qmp_schema_has_event(schema, json_string_value(name)))
            abort();
    json_array_foreach (commands, i, name) {
        if (i == COMMANDS)
            break;
        look_at_command(schema, json_string_value(name), arguments);
    }
    json_decref(commands);
    json_decref(events);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *nul = memchr(data, '\0', size);
    size_t length = nul ? (size_t)(nul - data) : size;
    json_t *reply = NULL, *arguments = NULL;
    _cleanup_error_ struct error *error = NULL;
    struct qmp_schema *schema = NULL;

    if (nul)
        (void)qmp_json_parse((const char *)nul + 1, size - length - 1, &arguments, NULL);
    if (qmp_json_parse((const char *)data, length, &reply, NULL) >= 0) {
        if (qmp_schema_new(reply, &schema, &error) >= 0)
            look_at(schema, json_is_object(arguments) ? arguments : NULL);
        else if (!error)
            abort();
    }
    qmp_schema_free(schema);
    json_decref(reply);
    json_decref(arguments);
    return 0;
}
