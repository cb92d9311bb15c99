/* SPDX-License-Identifier: Apache-2.0 */
#include "json/node.h"

#include <math.h>

#include "base/limits.h"
#include "base/utf8.h"
#include "json/private.h"
#include "json/scalar.h"

int builder_node(struct node_builder *b, enum node_kind kind, unsigned line, unsigned column, unsigned depth,
                 struct node **ret)
{
    struct node *n;

    if (depth > LIMIT_MANIFEST_DEPTH) {
        faults_add_at(b->faults, line, column, "", "is nested too deep (at most %u levels)", LIMIT_MANIFEST_DEPTH);
        return -EINVAL;
    }
    if (++b->nodes > LIMIT_MANIFEST_NODES) {
        faults_add_at(b->faults, line, column, "", "the document is too large%s (at most %u values)",
                      b->aliases > 0 ? " once its aliases are expanded" : "", LIMIT_MANIFEST_NODES);
        return -EINVAL;
    }
    n = arena_alloc(b->arena, sizeof(*n));
    if (!n)
        return -ENOMEM;
    n->kind = kind;
    n->line = line;
    n->column = column;
    *ret = n;
    return 0;
}

void node_append(struct node *parent, struct node *child, struct node **last)
{
    child->parent = parent;
    child->index = parent->count++;
    if (*last)
        (*last)->next = child;
    else
        parent->first = child;
    *last = child;
}

static int by_key(const void *a, const void *b)
{
    const struct node *x = *(const struct node *const *)a, *y = *(const struct node *const *)b;
    int r = strcmp(x->key, y->key);

    return r != 0 ? r : x->index < y->index ? -1 : x->index > y->index;
}

int builder_check_keys(struct node_builder *b, const struct node *mapping)
{
    _cleanup_free_ const struct node **sorted = NULL;
    size_t n = 0;
    int r = 0;

    if (mapping->count < 2)
        return 0;
    sorted = calloc(mapping->count, sizeof(*sorted));
    if (!sorted)
        return -ENOMEM;
    NODE_FOREACH(child, mapping)
    sorted[n++] = child;
    qsort(sorted, n, sizeof(*sorted), by_key); /* not n * n: a mapping may have 100,000 keys */
    for (size_t i = 1; i < n; i++)
        if (streq(sorted[i]->key, sorted[i - 1]->key)) {
            _cleanup_(strbuf_done) struct strbuf path = {0};

            node_write_path(&path, sorted[i]);
            faults_add_at(b->faults, sorted[i]->key_line, sorted[i]->key_column, strbuf_text(&path),
                          "this key is already given in line %u", sorted[i - 1]->key_line);
            r = -EINVAL;
        }
    return r;
}

void text_place(const char *text, size_t offset, unsigned *ret_line, unsigned *ret_column)
{
    unsigned line = 1, column = 1;

    for (size_t i = 0; i < offset; i++) {
        if (text[i] == '\n') {
            line++;
            column = 1;
        } else if (((unsigned char)text[i] & 0xc0) != 0x80) {
            column++;
        }
    }
    *ret_line = line;
    *ret_column = column;
}

/* What no parser needs to see: size and encoding. */
static int check_text(struct node_builder *b)
{
    size_t valid = utf8_valid_prefix(b->text, b->length);
    const char *nul = memchr(b->text, '\0', valid);
    unsigned line, column;

    if (b->length >= 2 && (memcmp(b->text, "\xff\xfe", 2) == 0 || memcmp(b->text, "\xfe\xff", 2) == 0)) {
        faults_add_at(b->faults, 1, 1, "",
                      "the file is UTF-16, as `>` of Windows PowerShell writes it: save it as UTF-8 "
                      "(… | Out-File -Encoding utf8 FILE)");
        return -EINVAL;
    }
    if (nul) {
        text_place(b->text, (size_t)(nul - b->text), &line, &column);
        faults_add_at(b->faults, line, column, "", "a NUL byte: the file is not text, or is UTF-16 (must be UTF-8)");
        return -EINVAL;
    }
    if (valid < b->length) {
        text_place(b->text, valid, &line, &column);
        faults_add_at(b->faults, line, column, "", "the byte 0x%02x is not UTF-8 (the file must be UTF-8)",
                      (unsigned char)b->text[valid]);
        return -EINVAL;
    }
    return 0;
}

/*
 * A text that starts with a brace is JSON, or YAML in flow style. What jansson refuses is tried as YAML, as kubectl
 * does (trailing commas, say); if it is neither, the fault is the one that the JSON parser found.
 */
static int parse_braces(struct node_builder *b, struct document_list *ret)
{
    struct faults json_faults = {.source = b->faults->source}, yaml_faults = {.source = b->faults->source};
    struct faults *faults = b->faults;
    int r;

    b->faults = &json_faults;
    r = node_parse_json(b, ret);
    if (r == -EBADMSG) {
        b->faults = &yaml_faults;
        b->nodes = 0;
        r = node_parse_yaml(b, ret);
        if (r >= 0) {
            faults_done(&json_faults);
            json_faults = yaml_faults;
            yaml_faults = (struct faults){0};
        }
    }
    b->faults = faults;
    for (size_t i = 0; i < json_faults.count; i++)
        faults_add_at(faults, json_faults.items[i].line, json_faults.items[i].column, json_faults.items[i].path, "%s",
                      json_faults.items[i].message);
    faults->dropped += json_faults.dropped;
    faults_done(&json_faults);
    faults_done(&yaml_faults);
    return r;
}

int node_parse(struct arena *arena, const char *source, const char *text, size_t length, struct document_list *ret,
               struct faults *faults, struct error **ret_error)
{
    struct node_builder b = {.arena = arena, .faults = faults, .text = text, .length = length};
    struct document_list documents = {0};
    size_t start = 0;
    int r;

    faults->source = source;
    if (length > LIMIT_MANIFEST_BYTES) {
        faults_add_at(faults, 0, 0, "", "is %zu bytes long (at most %u)", length, LIMIT_MANIFEST_BYTES);
        return error_set(ret_error, ERROR_BAD_MANIFEST, EINVAL, "%s is too large for a manifest", source);
    }
    if (length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        b.text += 3;
        b.length -= 3;
    }
    while (start < b.length && strchr(" \t\r\n", b.text[start]))
        start++;
    r = check_text(&b);
    if (r >= 0 && start < b.length && (b.text[start] == '{' || b.text[start] == '['))
        r = parse_braces(&b, &documents);
    else if (r >= 0)
        r = node_parse_yaml(&b, &documents);
    if (r == -ENOMEM)
        return error_oom(ret_error);
    if (r < 0 || faults->count > 0)
        return error_set(ret_error, ERROR_BAD_MANIFEST, EINVAL, "%s is not a valid YAML or JSON file", source);
    *ret = documents;
    return 0;
}

const struct node *node_get(const struct node *mapping, const char *key)
{
    if (!mapping || mapping->kind != NODE_MAPPING)
        return NULL;
    NODE_FOREACH(child, mapping)
    if (streq(child->key, key))
        return child;
    return NULL;
}

static bool is_plain_key(const char *key)
{
    return *key && key[strspn(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")] == '\0';
}

void node_write_path(struct strbuf *b, const struct node *node)
{
    if (!node || !node->parent)
        return;
    node_write_path(b, node->parent);
    if (!node->key)
        strbuf_printf(b, "[%zu]", node->index);
    else if (is_plain_key(node->key))
        strbuf_printf(b, "%s%s", b->length > 0 ? "." : "", node->key);
    else
        strbuf_printf(b, "[%s]", node->key);
}

char *node_path(struct arena *arena, const struct node *node)
{
    _cleanup_(strbuf_done) struct strbuf b = {0};

    node_write_path(&b, node);
    return b.failed ? NULL : arena_strdup(arena, strbuf_text(&b));
}

static int from_json(struct node_builder *b, const json_t *json, unsigned depth, struct node **ret)
{
    enum node_kind kind = json_is_object(json)  ? NODE_MAPPING
                          : json_is_array(json) ? NODE_SEQUENCE
                          : json_is_null(json)  ? NODE_NULL
                                                : NODE_SCALAR;
    struct node *n, *child, *last = NULL;
    int r = builder_node(b, kind, 0, 0, depth, &n);

    if (r < 0)
        return r;
    if (kind == NODE_MAPPING) {
        const char *key;
        json_t *value;

        json_object_foreach ((json_t *)json, key, value) {
            r = from_json(b, value, depth + 1, &child);
            if (r < 0)
                return r;
            child->key = arena_strdup(b->arena, key);
            if (!child->key)
                return -ENOMEM;
            node_append(n, child, &last);
        }
    } else if (kind == NODE_SEQUENCE) {
        for (size_t i = 0; i < json_array_size(json); i++) {
            r = from_json(b, json_array_get(json, i), depth + 1, &child);
            if (r < 0)
                return r;
            node_append(n, child, &last);
        }
    } else if (json_is_string(json)) {
        n->quoted = true;
        n->length = json_string_length(json);
        n->text = arena_strndup(b->arena, json_string_value(json), n->length);
    } else if (json_is_integer(json)) {
        n->text = arena_printf(b->arena, "%" JSON_INTEGER_FORMAT, json_integer_value(json));
    } else if (json_is_real(json)) {
        n->text = arena_printf(b->arena, "%.17g", json_real_value(json));
    } else if (json_is_boolean(json)) {
        n->text = json_is_true(json) ? "true" : "false";
    }
    if (kind == NODE_SCALAR) {
        if (!n->text)
            return -ENOMEM;
        n->length = strlen(n->text);
    }
    *ret = n;
    return 0;
}

int node_from_json(struct arena *arena, const json_t *json, struct node **ret)
{
    struct faults faults = {0};
    struct node_builder b = {.arena = arena, .faults = &faults};
    int r = from_json(&b, json, 0, ret);

    faults_done(&faults);
    return r;
}

static json_t *scalar_to_json(const struct node *node)
{
    int64_t i;
    double d;
    bool b;

    switch (scalar_type(node)) {
    case SCALAR_BOOL:
        return scalar_bool(node, &b) ? json_boolean(b) : NULL;
    case SCALAR_INT:
        if (scalar_int(node, &i))
            return json_integer(i);
        /* fall through: larger than 64 bits */
        __attribute__((fallthrough));
    case SCALAR_FLOAT:
        d = strtod(node->text, NULL);
        return isfinite(d) ? json_real(d) : json_string(node->text);
    case SCALAR_NULL:
        return json_null();
    case SCALAR_STRING:
        break;
    }
    return json_stringn(node->text, node->length);
}

json_t *node_to_json(const struct node *node)
{
    json_t *json;

    if (!node || node->kind == NODE_NULL)
        return json_null();
    if (node->kind == NODE_SCALAR)
        return scalar_to_json(node);
    json = node->kind == NODE_MAPPING ? json_object() : json_array();
    NODE_FOREACH(child, node)
    {
        json_t *value = node_to_json(child);
        int r = node->kind == NODE_MAPPING ? json_object_set_new(json, child->key, value)
                                           : json_array_append_new(json, value);

        if (r < 0) {
            json_decref(json);
            return NULL;
        }
    }
    return json;
}
