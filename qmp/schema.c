/* SPDX-License-Identifier: Apache-2.0 */
/* QEMU's own description of its protocol (docs/devel/qapi-code-gen, "Client introspection"). */
#include <vmlet/qmp.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/strbuf.h"
#include "qmp/json.h"

#define MAX_DEPTH       32U
#define HELP_DEPTH      3U
#define HELP_BYTES      (1U << 20) /* more than any real command; a bad schema multiplies at each level */
#define LIMIT_OF_FAULTS 20U

struct qmp_schema {
    json_t *entries; /* name -> entry; one name space for commands, events and (masked) types */
};

int qmp_schema_new(json_t *reply, struct qmp_schema **ret, struct error **ret_error)
{
    struct qmp_schema *s;
    json_t *entry;
    size_t i;

    if (!json_is_array(reply) || json_array_size(reply) == 0)
        return error_set(ret_error, ERROR_BAD_DATA, EBADMSG, "the QMP schema is no list of entries");
    s = calloc(1, sizeof(*s));
    if (!s || !(s->entries = json_object())) {
        free(s);
        return error_oom(ret_error);
    }
    json_array_foreach (reply, i, entry) {
        const char *name = json_string_value(json_object_get(entry, "name"));
        int r = name && json_is_string(json_object_get(entry, "meta-type")) ? 0 : -EBADMSG;

        if (r >= 0 && json_object_set(s->entries, name, entry) < 0)
            r = -ENOMEM;
        if (r < 0) {
            qmp_schema_free(s);
            return error_set(ret_error, ERROR_BAD_DATA, r, "the QMP schema's entry %zu cannot be used", i);
        }
    }
    *ret = s;
    return 0;
}

int qmp_schema_load(const char *path, struct qmp_schema **ret, struct error **ret_error)
{
    _cleanup_free_ char *text = NULL;
    json_t *json = NULL;
    size_t length;
    int r;

    r = file_read(path, LIMIT_QMP_MESSAGE_BYTES, &text, &length, ret_error);
    if (r < 0)
        return r;
    r = qmp_json_parse(text, length, &json, ret_error);
    if (r >= 0)
        r = qmp_schema_new(json_is_object(json) ? json_object_get(json, "return") : json, ret, ret_error);
    json_decref(json);
    return r < 0 ? error_wrap(ret_error, r, "%s", path) : 0;
}

void qmp_schema_free(struct qmp_schema *schema)
{
    if (!schema)
        return;
    json_decref(schema->entries);
    free(schema);
}

/* ---- walking ------------------------------------------------------------------------------------------------------
 */

static const json_t *get(const json_t *entry, const char *name)
{
    return json_object_get(entry, name);
}

static const char *text(const json_t *entry, const char *name)
{
    return json_string_value(json_object_get(entry, name));
}

static bool is_a(const json_t *entry, const char *meta_type)
{
    return streq_ptr(text(entry, "meta-type"), meta_type);
}

static const json_t *find(const struct qmp_schema *s, const char *name)
{
    return name ? json_object_get(s->entries, name) : NULL;
}

static const json_t *find_kind(const struct qmp_schema *s, const char *name, const char *meta_type)
{
    const json_t *entry = find(s, name);

    return entry && is_a(entry, meta_type) ? entry : NULL;
}

bool qmp_schema_has_command(const struct qmp_schema *schema, const char *command)
{
    return find_kind(schema, command, "command") != NULL;
}

bool qmp_schema_has_event(const struct qmp_schema *schema, const char *event)
{
    return find_kind(schema, event, "event") != NULL;
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(json_string_value(*(json_t *const *)a), json_string_value(*(json_t *const *)b));
}

/* A new sorted array; consumes the list. */
static json_t *sorted(json_t *list)
{
    size_t n = json_array_size(list);
    json_t **items = reallocarray(NULL, n ? n : 1, sizeof(*items)), *result = json_array();

    for (size_t i = 0; items && i < n; i++)
        items[i] = json_array_get(list, i);
    if (items)
        qsort(items, n, sizeof(*items), compare_strings);
    for (size_t i = 0; items && i < n; i++)
        json_array_append(result, items[i]);
    free(items);
    json_decref(list);
    return result;
}

json_t *qmp_schema_list(const struct qmp_schema *schema, const char *meta_type)
{
    json_t *list = json_array(), *entry;
    const char *name;

    json_object_foreach (schema->entries, name, entry)
        if (is_a(entry, meta_type))
            json_array_append_new(list, json_string(name));
    return sorted(list);
}

/* One member of a type. `optional` is what a "default" (of any value) means in the schema. */
struct member {
    const char *name;
    const json_t *type;
    bool optional;
};

typedef bool (*member_fn)(const struct member *member, void *userdata);

static bool each_own_member(const struct qmp_schema *s, const json_t *type, member_fn f, void *userdata)
{
    json_t *members = (json_t *)get(type, "members"), *m;
    size_t i;

    json_array_foreach (members, i, m) {
        struct member member = {
            .name = text(m, "name"), .type = find(s, text(m, "type")), .optional = get(m, "default") != NULL};

        if (member.name && member.type && !f(&member, userdata))
            return false;
    }
    return true;
}

/* The members of an object type: its own, and those of the variant that `value` chooses by the tag (of all variants
 * when it chooses none). Stops when the function returns false. */
static bool each_member(const struct qmp_schema *s, const json_t *type, const json_t *value, member_fn f,
                        void *userdata)
{
    const char *tag = text(type, "tag"), *choice = tag ? text(value, tag) : NULL;
    json_t *variants = (json_t *)get(type, "variants"), *v;
    size_t i;

    if (!type || !is_a(type, "object"))
        return true;
    if (!each_own_member(s, type, f, userdata))
        return false;
    json_array_foreach (variants, i, v) {
        const json_t *branch = find(s, text(v, "type"));

        if ((!choice || streq_ptr(choice, text(v, "case"))) && branch && !each_own_member(s, branch, f, userdata))
            return false;
    }
    return true;
}

struct lookup {
    const char *name;
    size_t length;
    struct member found;
};

static bool match_member(const struct member *member, void *userdata)
{
    struct lookup *l = userdata;

    if (strlen(member->name) != l->length || memcmp(member->name, l->name, l->length) != 0)
        return true;
    l->found = *member;
    return false;
}

/* A path goes through arrays to their elements, and through a choice of types to the one that has members. */
static const json_t *inner(const struct qmp_schema *s, const json_t *type)
{
    for (unsigned depth = 0; type && depth < MAX_DEPTH; depth++) {
        json_t *members = (json_t *)get(type, "members"), *m;
        const json_t *next = NULL;
        size_t i;

        if (is_a(type, "array")) {
            type = find(s, text(type, "element-type"));
            continue;
        }
        if (!is_a(type, "alternate"))
            return type;
        json_array_foreach (members, i, m) {
            const json_t *t = find(s, text(m, "type"));

            if (t && (is_a(t, "object") || !next))
                next = t;
        }
        type = next;
    }
    return type;
}

/* The type at the path, *ret_value what `arguments` has there. */
static const json_t *walk(const struct qmp_schema *s, const char *command, const char *path, const json_t *arguments,
                          const json_t **ret_value)
{
    const json_t *entry = find_kind(s, command, "command"), *type = find(s, text(entry, "arg-type"));

    while (type && path && *path) {
        size_t n = strcspn(path, ".");
        struct lookup l = {.name = path, .length = n};
        char key[128];

        each_member(s, inner(s, type), arguments, match_member, &l);
        if (n >= sizeof(key))
            return NULL;
        memcpy(key, path, n);
        key[n] = '\0';
        type = l.found.type;
        arguments = get(arguments, key);
        path += n + (path[n] == '.');
    }
    if (ret_value)
        *ret_value = arguments;
    return type;
}

/* Looks for a path in every variant; with a value, for an enum at its end that has it. */
struct search {
    const struct qmp_schema *schema;
    const char *path, *value;
    unsigned depth;
    bool found;
};

static bool enum_has(const json_t *type, const char *value)
{
    json_t *values = (json_t *)get(type, "values"), *v;
    size_t i;

    json_array_foreach (values, i, v)
        if (streq_ptr(json_string_value(v), value))
            return true;
    return false;
}

static bool search_member(const struct member *member, void *userdata)
{
    struct search *search = userdata, inside = *search;
    size_t n = strcspn(search->path, ".");

    if (strlen(member->name) != n || memcmp(member->name, search->path, n) != 0)
        return true;
    if (search->path[n] == '\0') {
        search->found = !search->value || enum_has(inner(search->schema, member->type), search->value);
    } else if (search->depth < MAX_DEPTH) {
        inside.path += n + 1;
        inside.depth++;
        each_member(search->schema, inner(search->schema, member->type), NULL, search_member, &inside);
        search->found = inside.found;
    }
    return !search->found;
}

static bool search(const struct qmp_schema *s, const char *command, const char *path, const char *value)
{
    struct search from = {.schema = s, .path = path, .value = value};
    const json_t *entry = find_kind(s, command, "command");

    if (entry && path && *path)
        each_member(s, inner(s, find(s, text(entry, "arg-type"))), NULL, search_member, &from);
    return from.found;
}

bool qmp_schema_has_argument(const struct qmp_schema *schema, const char *command, const char *path)
{
    return search(schema, command, path, NULL);
}

bool qmp_schema_has_value(const struct qmp_schema *schema, const char *command, const char *path, const char *value)
{
    return search(schema, command, path, value);
}

static const char *type_name(const json_t *type)
{
    static const char *const names[] = {"string", "int", "number", "boolean", "object", "array", "null", "value"};
    const char *meta = text(type, "meta-type"), *json = text(type, "json-type");

    if (streq_ptr(meta, "enum"))
        return "enum";
    if (streq_ptr(meta, "alternate"))
        return "value";
    for (size_t i = 0; i < ELEMENTSOF(names); i++)
        if (streq_ptr(streq_ptr(meta, "builtin") ? json : meta, names[i]))
            return names[i];
    return "value";
}

const char *qmp_schema_type(const struct qmp_schema *schema, const char *command, const char *path,
                            const json_t *arguments)
{
    const json_t *type = walk(schema, command, path, arguments, NULL);

    return type ? type_name(type) : NULL;
}

static bool add_member(const struct member *member, void *userdata)
{
    json_t *list = userdata, *row, *known;
    size_t i;

    json_array_foreach (list, i, known) /* variants share members */
        if (streq(text(known, "name"), member->name))
            return true;
    row = json_pack("{s:s, s:b, s:s}", "name", member->name, "optional", member->optional, "type",
                    type_name(member->type));
    if (get(member->type, "values"))
        json_object_set(row, "values", (json_t *)get(member->type, "values"));
    else if (streq(type_name(member->type), "boolean"))
        json_object_set_new(row, "values", json_pack("[s, s]", "true", "false"));
    json_array_append_new(list, row);
    return true;
}

json_t *qmp_schema_members(const struct qmp_schema *schema, const char *command, const char *path,
                           const json_t *arguments)
{
    const json_t *value = NULL, *type = walk(schema, command, path, arguments, &value);
    json_t *list = json_array();

    each_member(schema, inner(schema, type), value, add_member, list);
    return list;
}

/* ---- checking ------------------------------------------------------------------------------------------------------
 */

struct check {
    const struct qmp_schema *schema;
    bool open; /* the arguments may have members that the schema does not know */
    struct strbuf faults;
    unsigned count;
};

static void fault(struct check *c, const char *path, const char *format, ...) _printf_(3, 4);
static void fault(struct check *c, const char *path, const char *format, ...)
{
    va_list ap;

    if (c->count++ >= LIMIT_OF_FAULTS)
        return;
    strbuf_printf(&c->faults, "%s%s%s", c->faults.length > 0 ? "\n" : "", path, *path ? ": " : "");
    va_start(ap, format);
    strbuf_vprintf(&c->faults, format, ap);
    va_end(ap);
}

static void check_value(struct check *c, const char *path, const json_t *type, const json_t *value, unsigned depth);

static char *join(const char *path, const char *name)
{
    char *joined;

    if (asprintf(&joined, "%s%s%s", path, *path ? "." : "", name) < 0)
        return NULL;
    return joined;
}

struct object_check {
    struct check *check;
    const char *path;
    const json_t *value;
    json_t *known;
    unsigned depth;
};

static bool check_member(const struct member *m, void *userdata)
{
    struct object_check *o = userdata;
    const json_t *value = get(o->value, m->name);
    char *path = join(o->path, m->name);

    json_object_set_new(o->known, m->name, json_true());
    if (value && path)
        check_value(o->check, path, m->type, value, o->depth + 1);
    else if (!m->optional)
        fault(o->check, path ? path : "", "is missing (%s)", type_name(m->type));
    free(path);
    return true;
}

static void list_names(struct strbuf *b, const json_t *known)
{
    const char *name, *separator = "";
    json_t *value;

    json_object_foreach ((json_t *)known, name, value) {
        strbuf_printf(b, "%s%s", separator, name);
        separator = ", ";
    }
}

static void check_object(struct check *c, const char *path, const json_t *type, const json_t *value, unsigned depth)
{
    struct object_check o = {.check = c, .path = path, .value = value, .known = json_object(), .depth = depth};
    const char *tag = text(type, "tag"), *name;
    _cleanup_(strbuf_done) struct strbuf names = {0};
    json_t *member;

    if (tag && !text(value, tag)) /* without the tag the variant is unknown: say only that */
        each_own_member(c->schema, type, check_member, &o);
    else
        each_member(c->schema, type, value, check_member, &o);
    list_names(&names, o.known);
    json_object_foreach ((json_t *)value, name, member) {
        if (!json_object_get(o.known, name) && !(tag && !text(value, tag)) && !(c->open && depth == 0)) {
            char *whole = join(path, name);

            fault(c, whole ? whole : "", "is not known (known: %s)", names.length > 0 ? names.data : "none");
            free(whole);
        }
    }
    json_decref(o.known);
}

static void check_enum(struct check *c, const char *path, const json_t *type, const json_t *value)
{
    json_t *values = (json_t *)get(type, "values"), *v;
    _cleanup_(strbuf_done) struct strbuf names = {0};
    size_t i;

    json_array_foreach (values, i, v) {
        if (json_equal(v, (json_t *)value))
            return;
        if (json_is_string(v))
            strbuf_printf(&names, "%s%s", i > 0 ? ", " : "", json_string_value(v));
    }
    if (json_is_string(value) && !qmp_json_big_number(value))
        fault(c, path, "\"%s\" is not one of: %s", json_string_value(value), strbuf_text(&names));
    else
        fault(c, path, "must be one of: %s", strbuf_text(&names));
}

/* What JSON kind a builtin type takes. An integer does for a "number". */
static bool fits_builtin(const char *json_type, const json_t *value)
{
    bool integer = json_is_integer(value) || qmp_json_big_number(value);

    if (streq(json_type, "value"))
        return true;
    if (streq(json_type, "string"))
        return json_is_string(value) && !integer;
    if (streq(json_type, "int"))
        return integer;
    if (streq(json_type, "number"))
        return integer || json_is_real(value);
    if (streq(json_type, "boolean"))
        return json_is_boolean(value);
    return streq(json_type, "null") ? json_is_null(value) : true;
}

static bool fits(const struct check *c, const json_t *type, const json_t *value)
{
    if (is_a(type, "object"))
        return json_is_object(value);
    if (is_a(type, "array"))
        return json_is_array(value);
    if (is_a(type, "enum"))
        return json_is_string(value) && !qmp_json_big_number(value);
    return !is_a(type, "builtin") || fits_builtin(type_name(type), value);
}

static void check_alternate(struct check *c, const char *path, const json_t *type, const json_t *value, unsigned depth)
{
    json_t *members = (json_t *)get(type, "members"), *m;
    size_t i;

    json_array_foreach (members, i, m) {
        const json_t *choice = find(c->schema, text(m, "type"));

        if (choice && fits(c, choice, value)) {
            check_value(c, path, choice, value, depth + 1);
            return;
        }
    }
    fault(c, path, "has no type that is allowed here");
}

static void check_array(struct check *c, const char *path, const json_t *type, const json_t *value, unsigned depth)
{
    const json_t *element = find(c->schema, text(type, "element-type"));
    json_t *item;
    size_t i;

    json_array_foreach ((json_t *)value, i, item) {
        char *name;

        if (asprintf(&name, "%s[%zu]", path, i) < 0)
            return;
        if (element)
            check_value(c, name, element, item, depth + 1);
        free(name);
    }
}

static void check_value(struct check *c, const char *path, const json_t *type, const json_t *value, unsigned depth)
{
    if (depth > MAX_DEPTH)
        return;
    if (is_a(type, "alternate"))
        check_alternate(c, path, type, value, depth);
    else if (is_a(type, "enum"))
        check_enum(c, path, type, value);
    else if (!fits(c, type, value))
        fault(c, path, "must be of type %s", type_name(type));
    else if (is_a(type, "object"))
        check_object(c, path, type, value, depth);
    else if (is_a(type, "array"))
        check_array(c, path, type, value, depth);
}

/* 'gen': false in QEMU's qapi/qdev.json: "this command effectively bypasses QAPI", a device's properties are arguments.
 */
bool qmp_schema_is_open(const char *command)
{
    return streq(command, "device_add");
}

int qmp_schema_check(const struct qmp_schema *schema, const char *command, const json_t *arguments,
                     struct error **ret_error)
{
    const json_t *entry = find_kind(schema, command, "command"), *type = find(schema, text(entry, "arg-type"));
    struct check c = {.schema = schema, .open = qmp_schema_is_open(command)};
    json_t *empty = NULL;
    int r = 0;

    if (!entry)
        return error_set(ret_error, ERROR_NOT_FOUND, ENOENT, "%s: this QEMU has no such command", command);
    if (!arguments)
        arguments = empty = json_object();
    if (type)
        check_value(&c, "", type, arguments, 0);
    if (c.count > LIMIT_OF_FAULTS)
        strbuf_printf(&c.faults, "\nand %u more", c.count - LIMIT_OF_FAULTS);
    if (c.count > 0)
        r = error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "%s: %s", command, strbuf_text(&c.faults));
    strbuf_done(&c.faults);
    json_decref(empty);
    return r;
}

/* ---- help -----------------------------------------------------------------------------------------------------------
 */

static void describe(struct strbuf *b, const struct qmp_schema *s, const json_t *type, unsigned level);

struct describe {
    struct strbuf *buffer;
    const struct qmp_schema *schema;
    unsigned level;
};

static void name_type(struct strbuf *b, const struct qmp_schema *s, const json_t *type)
{
    json_t *values, *v;
    const char *separator = "";
    size_t i;

    for (unsigned depth = 0; is_a(type, "array") && depth < MAX_DEPTH; depth++) { /* a bad schema has lists of itself */
        strbuf_add_string(b, "list of ");
        type = find(s, text(type, "element-type"));
    }
    values = (json_t *)get(type, "values");
    json_array_foreach (values, i, v) {
        if (!json_is_string(v))
            continue;
        strbuf_printf(b, "%s%s", separator, json_string_value(v));
        separator = "|";
    }
    if (!values)
        strbuf_add_string(b, type_name(type));
}

static bool describe_member(const struct member *m, void *userdata)
{
    struct describe *d = userdata;

    if (d->buffer->length > HELP_BYTES)
        return false;
    strbuf_printf(d->buffer, "%*s%s%s%s: ", (int)(d->level * 4), "", m->optional ? "[" : "", m->name,
                  m->optional ? "]" : "");
    name_type(d->buffer, d->schema, m->type);
    strbuf_add_string(d->buffer, "\n");
    if (d->level < HELP_DEPTH)
        describe(d->buffer, d->schema, inner(d->schema, m->type), d->level + 1);
    return true;
}

static void describe(struct strbuf *b, const struct qmp_schema *s, const json_t *type, unsigned level)
{
    struct describe d = {.buffer = b, .schema = s, .level = level};
    json_t *variants = (json_t *)get(type, "variants"), *v;
    const char *tag = text(type, "tag");
    size_t i;

    if (!type || !is_a(type, "object"))
        return;
    each_own_member(s, type, describe_member, &d);
    json_array_foreach (variants, i, v) {
        const json_t *branch = find(s, text(v, "type"));
        struct describe inside = {.buffer = b, .schema = s, .level = level + 1};

        if (!branch || !tag || !text(v, "case") || json_array_size(get(branch, "members")) == 0)
            continue;
        strbuf_printf(b, "%*swith %s=%s:\n", (int)(level * 4), "", tag, text(v, "case"));
        each_own_member(s, branch, describe_member, &inside);
    }
}

char *qmp_schema_help(const struct qmp_schema *schema, const char *command)
{
    const json_t *entry = find_kind(schema, command, "command"), *type, *result;
    struct strbuf b = {0};

    if (!entry)
        return NULL;
    type = find(schema, text(entry, "arg-type"));
    result = find(schema, text(entry, "ret-type"));
    strbuf_printf(&b, "%s%s%s\n", command, qmp_command_is_read_only(command, NULL) ? " (read-only)" : "",
                  json_is_true(get(entry, "allow-oob")) ? " (may go out of band)" : "");
    if (type && (json_array_size(get(type, "members")) > 0 || get(type, "variants"))) {
        strbuf_add_string(&b, "Arguments ([optional]):\n");
        describe(&b, schema, type, 1);
        if (qmp_schema_is_open(command))
            strbuf_add_string(&b, "    and the driver's properties: device-list-properties typename=DRIVER\n");
    } else {
        strbuf_add_string(&b, "No arguments.\n");
    }
    strbuf_add_string(&b, "Returns: ");
    if (result && !(is_a(result, "object") && json_array_size(get(result, "members")) == 0))
        name_type(&b, schema, result);
    else
        strbuf_add_string(&b, "nothing");
    strbuf_add_string(&b, "\n");
    describe(&b, schema, inner(schema, result), 1);
    return strbuf_steal(&b);
}
