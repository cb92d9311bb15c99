/* SPDX-License-Identifier: Apache-2.0 */
#include "qmp/shell/complete.h"

#include "base/strv.h"
#include "qmp/shell/line.h"

struct candidates {
    char **list;
    const char *word;   /* what they have to start with */
    const char *prefix; /* put in front of each */
};

static void add(struct candidates *c, const char *text, const char *suffix)
{
    _cleanup_free_ char *whole = NULL;

    if (!text || asprintf(&whole, "%s%s%s", c->prefix, text, suffix) < 0 || !startswith(whole, c->word))
        return;
    STRV_FOREACH (known, c->list) {
        if (streq(*known, whole))
            return;
    }
    strv_append(&c->list, whole);
}

static json_t *ask(struct shell *sh, const char *command, json_t *arguments)
{
    json_t *result = NULL;

    return shell_call(sh, command, arguments, &result, NULL) < 0 ? NULL : result;
}

static void add_names(struct candidates *c, json_t *list, const char *member)
{
    json_t *item;
    size_t i;

    json_array_foreach (list, i, item) {
        const char *name = json_string_value(json_object_get(item, member));

        if (name && *name)
            add(c, name, "");
    }
    json_decref(list);
}

static void add_devices(struct shell *sh, struct candidates *c, const json_t *arguments)
{
    json_t *children = ask(sh, "qom-list", json_pack("{s:s}", "path", "/machine/peripheral")), *child;
    size_t i;

    json_array_foreach (children, i, child)
        if (startswith(json_string_value(json_object_get(child, "type")), "child<"))
            add(c, json_string_value(json_object_get(child, "name")), "");
    json_decref(children);
    add_names(c, ask(sh, "query-block", NULL), "device");
}

static void add_nodes(struct shell *sh, struct candidates *c, const json_t *arguments)
{
    add_names(c, ask(sh, "query-named-block-nodes", NULL), "node-name");
}

static void add_jobs(struct shell *sh, struct candidates *c, const json_t *arguments)
{
    add_names(c, ask(sh, "query-jobs", NULL), "id");
}

static void add_chardevs(struct shell *sh, struct candidates *c, const json_t *arguments)
{
    add_names(c, ask(sh, "query-chardev", NULL), "label");
}

static void add_types(struct shell *sh, struct candidates *c, const json_t *arguments)
{
    add_names(c, ask(sh, "qom-list-types", json_pack("{s:s, s:b}", "implements", "device", "abstract", false)), "name");
}

static void add_objects(struct shell *sh, struct candidates *c, const json_t *arguments)
{
    add_names(c, ask(sh, "qom-list", json_pack("{s:s}", "path", "/objects")), "name");
}

static void add_properties(struct shell *sh, struct candidates *c, const json_t *arguments)
{
    const char *path = json_string_value(json_object_get(arguments, "path"));

    if (path)
        add_names(c, ask(sh, "qom-list", json_pack("{s:s}", "path", path)), "name");
}

/* What stands between `before` and the first of the end characters, in each line of HMP's answer that has it: QMP tells
 * neither the buses nor the backends of network cards. */
static void add_from_hmp(struct shell *sh, struct candidates *c, const char *command, const char *before,
                         const char *end)
{
    json_t *answer = ask(sh, "human-monitor-command", json_pack("{s:s}", "command-line", command));
    const char *line = json_string_value(answer);

    while (line && *line) {
        const char *name = line + strspn(line, " \\");
        size_t length;

        name = startswith(name, before);
        length = name ? strcspn(name, end) : 0;
        if (length > 0 && strchr(end, name[length]) && name[length] != '\n') {
            _cleanup_free_ char *copy = strndup(name, length);

            add(c, copy, "");
        }
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
    json_decref(answer);
}

static void add_buses(struct shell *sh, struct candidates *c, const json_t *arguments)
{
    add_from_hmp(sh, c, "info qtree", "bus: ", "\r\n");
}

static void add_netdevs(struct shell *sh, struct candidates *c, const json_t *arguments)
{
    add_from_hmp(sh, c, "info network", "", ":\n");
}

/* The children of what stands in front of the last '/'. */
static void add_paths(struct shell *sh, struct candidates *c, const json_t *arguments)
{
    const char *typed = c->word + strlen(c->prefix), *slash = strrchr(typed, '/');
    _cleanup_free_ char *parent = NULL, *prefix = NULL;
    struct candidates inside = {.list = c->list, .word = c->word};
    json_t *children, *child;
    size_t i;

    if (!slash) {
        add(c, "/", "");
        return;
    }
    parent = slash == typed ? strdup("/") : strndup(typed, (size_t)(slash - typed));
    if (!parent || asprintf(&prefix, "%s%.*s/", c->prefix, (int)(slash - typed), typed) < 0)
        return;
    inside.prefix = prefix;
    children = ask(sh, "qom-list", json_pack("{s:s}", "path", parent));
    json_array_foreach (children, i, child)
        if (startswith(json_string_value(json_object_get(child, "type")), "child<"))
            add(&inside, json_string_value(json_object_get(child, "name")), "");
    json_decref(children);
    c->list = inside.list;
}

/* Where the values of an argument come from: by the names that QMP uses for such things. */
static const struct {
    const char *command; /* start of its name; NULL: any */
    const char *key;
    void (*add)(struct shell *sh, struct candidates *c, const json_t *arguments);
} sources[] = {
    {"job-", "id", add_jobs},
    {"block-job-", "device", add_jobs},
    {"block-", "device", add_nodes},
    {"blockdev-", "device", add_nodes},
    {"drive-", "device", add_nodes},
    {"device_add", "driver", add_types},
    {"device_add", "drive", add_nodes},
    {"device_add", "id", NULL}, /* a new name */
    {"device_add", "bus", add_buses},
    {"device_add", "netdev", add_netdevs},
    {"device_add", "chardev", add_chardevs},
    {"device-list-properties", "typename", add_types},
    {"chardev-", "id", add_chardevs},
    {"netdev_del", "id", add_netdevs},
    {"object-del", "id", add_objects},
    {"object-add", "id", NULL},
    {NULL, "job-id", add_jobs},
    {NULL, "path", add_paths},
    {NULL, "qom-path", add_paths},
    {NULL, "property", add_properties},
    {NULL, "node-name", add_nodes},
    {NULL, "node", add_nodes},
    {NULL, "base-node", add_nodes},
    {NULL, "top-node", add_nodes},
    {NULL, "target", add_nodes},
    {NULL, "file", add_nodes},
    {NULL, "backing", add_nodes},
    {NULL, "overlay", add_nodes},
    {NULL, "device", add_devices},
    {NULL, "id", add_devices},
    {NULL, "qdev", add_devices},
};

static void add_live(struct shell *sh, struct candidates *c, const char *command, const char *key,
                     const json_t *arguments)
{
    for (size_t i = 0; i < ELEMENTSOF(sources); i++) {
        if ((!sources[i].command || startswith(command, sources[i].command)) && streq(sources[i].key, key)) {
            if (sources[i].add)
                sources[i].add(sh, c, arguments);
            return;
        }
    }
}

static void add_first_words(struct shell *sh, struct candidates *c)
{
    json_t *names = sh->schema ? qmp_schema_list(sh->schema, "command") : NULL, *name;
    size_t i;

    json_array_foreach (names, i, name)
        if (sh->write || qmp_command_is_read_only(json_string_value(name), NULL) ||
            strstr("qom-list-properties device-list-properties human-monitor-command", json_string_value(name)))
            add(c, json_string_value(name), "");
    json_decref(names);
    for (const struct view *v = shell_views(); v->name; v++)
        add(c, v->name, "");
    for (const struct shell_word *w = shell_words(); w->name; w++)
        add(c, w->name, "");
    add(c, "agent", "");
}

/* The driver's properties, of which the schema knows nothing. Asking QEMU makes a device of that kind, which a shell
 * that may write is not kept from by its rules. */
static json_t *ask_properties(struct shell *sh, const json_t *given)
{
    const char *driver = json_string_value(json_object_get(given, "driver"));
    json_t *arguments = driver ? json_pack("{s:s}", "typename", driver) : NULL;

    if (arguments && qmp_command_is_read_only("device-list-properties", arguments))
        return ask(sh, "device-list-properties", arguments);
    json_decref(arguments);
    return NULL;
}

static void add_driver_keys(struct shell *sh, struct candidates *c, const json_t *given)
{
    json_t *properties = ask_properties(sh, given), *property;
    size_t i;

    json_array_foreach (properties, i, property) {
        const char *name = json_string_value(json_object_get(property, "name"));

        if (name && !json_object_get(given, name))
            add(c, name, "=");
    }
    json_decref(properties);
}

static void add_driver_values(struct shell *sh, struct candidates *c, const char *key, const json_t *given)
{
    json_t *properties = ask_properties(sh, given), *property;
    size_t i;

    json_array_foreach (properties, i, property) {
        const char *name = json_string_value(json_object_get(property, "name")),
                   *type = json_string_value(json_object_get(property, "type"));

        if (!streq_ptr(name, key) || !streq_ptr(type, "bool"))
            continue;
        add(c, "true", "");
        add(c, "false", "");
    }
    json_decref(properties);
}

static void add_keys(struct shell *sh, struct candidates *c, const char *command, const json_t *given)
{
    const char *dot = strrchr(c->word, '.');
    _cleanup_free_ char *path = strndup(c->word, dot ? (size_t)(dot - c->word) : 0), *prefix = NULL;
    json_t *members, *member;
    size_t i;

    if (!sh->schema || !path || asprintf(&prefix, "%s%s", path, dot ? "." : "") < 0)
        return;
    c->prefix = prefix;
    members = qmp_schema_members(sh->schema, command, path, given);
    json_array_foreach (members, i, member) {
        const char *name = json_string_value(json_object_get(member, "name"));
        bool object = streq(json_string_value(json_object_get(member, "type")), "object");

        if (dot || !json_object_get(given, name))
            add(c, name, object ? "." : "=");
    }
    json_decref(members);
    c->prefix = "";
    if (!dot && qmp_schema_is_open(command))
        add_driver_keys(sh, c, given);
}

static void add_values(struct shell *sh, struct candidates *c, const char *command, const json_t *given)
{
    const char *equals = strchr(c->word, '='), *dot;
    _cleanup_free_ char *key = strndup(c->word, (size_t)(equals - c->word)), *parent = NULL, *prefix = NULL;
    json_t *members, *member, *value;
    size_t i, k;

    if (!key || asprintf(&prefix, "%s=", key) < 0)
        return;
    c->prefix = prefix;
    dot = strrchr(key, '.');
    parent = strndup(key, dot ? (size_t)(dot - key) : 0);
    members = sh->schema && parent ? qmp_schema_members(sh->schema, command, parent, given) : NULL;
    json_array_foreach (members, i, member) {
        if (!streq(json_string_value(json_object_get(member, "name")), dot ? dot + 1 : key))
            continue;
        json_array_foreach (json_object_get(member, "values"), k, value)
            add(c, json_string_value(value), "");
    }
    json_decref(members);
    if (!c->list)
        add_live(sh, c, command, dot ? dot + 1 : key, given);
    if (!c->list && qmp_schema_is_open(command))
        add_driver_values(sh, c, key, given);
    c->prefix = "";
}

/* ---- human monitor, guest agent, events ----------------------------------------------------------------------------
 */

/* Lines of HMP's `help` are "name|alias arguments -- meaning", those of `help info` "info name arguments -- meaning".
 */
static void add_hmp_names(struct shell *sh, struct candidates *c, const char *command, const char *before)
{
    json_t *answer = ask(sh, "human-monitor-command", json_pack("{s:s}", "command-line", command));
    const char *line = json_string_value(answer), *name;

    for (; line && *line; line += strcspn(line, "\n"), line += *line == '\n') {
        name = startswith(line, before);
        while (name && *name && !strchr(" \t\r\n", *name)) {
            size_t n = strcspn(name, "| \t\r\n");
            _cleanup_free_ char *copy = strndup(name, n);

            if (n > 1) /* not the one-letter short forms */
                add(c, copy, "");
            name += n + (name[n] == '|');
        }
    }
    json_decref(answer);
}

/* `before` is what stands on the line, without the '/' that may begin it. */
static void add_hmp(struct shell *sh, struct candidates *c, const char *before)
{
    if (!*before || streq(before, "help "))
        add_hmp_names(sh, c, "help", "");
    else if (streq(before, "info ") || streq(before, "help info "))
        add_hmp_names(sh, c, "help info", "info ");
}

static void add_agent_commands(struct shell *sh, struct candidates *c)
{
    json_t *info = NULL, *row;
    size_t i;

    if (shell_call_agent(sh, "guest-info", NULL, &info, NULL) < 0)
        return;
    json_array_foreach (json_object_get(info, "supported_commands"), i, row) {
        const char *name = json_string_value(json_object_get(row, "name"));

        if (name && (sh->write || qga_command_is_read_only(name)))
            add(c, name, "");
    }
    json_decref(info);
}

static void add_events(struct shell *sh, struct candidates *c)
{
    static const char *const others[] = {"--list", "--past", "off", "on"};
    json_t *names = sh->schema ? qmp_schema_list(sh->schema, "event") : NULL, *name;
    size_t i;

    for (i = 0; i < ELEMENTSOF(others); i++)
        add(c, others[i], "");
    for (const struct event_name *e = shell_event_names(); e->name; e++)
        add(c, e->name, "");
    json_array_foreach (names, i, name)
        add(c, json_string_value(name), "");
    json_decref(names);
}

static void add_command_words(struct shell *sh, struct candidates *c, const char *before)
{
    _cleanup_free_ char *command = NULL;
    json_t *given = NULL;

    if (line_parse(before, sh->schema, &command, &given, NULL) < 0)
        return;
    if (strchr(c->word, '='))
        add_values(sh, c, command, given);
    else
        add_keys(sh, c, command, given);
    json_decref(given);
}

char **shell_complete(struct shell *shell, const char *before, const char *word)
{
    struct candidates c = {.word = word, .prefix = ""};

    shell->asking = true;
    before += strspn(before, " \t");
    if (shell->hmp) {
        add_hmp(shell, &c, before);
    } else if (*before == '/') {
        add_hmp(shell, &c, before + 1);
    } else if (!*before && *word == '/') {
        c.prefix = "/";
        add_hmp(shell, &c, "");
    } else if (streq(before, "agent ") || (shell->agent && !*before)) {
        add_agent_commands(shell, &c);
    } else if (startswith(before, "events ")) {
        add_events(shell, &c);
    } else if (!*before || streq(before, "help ") || startswith(before, "watch ")) {
        add_first_words(shell, &c);
    } else if (startswith(before, "domblk")) {
        add_devices(shell, &c, NULL);
    } else {
        add_command_words(shell, &c, before);
    }
    shell->asking = false;
    return c.list;
}
