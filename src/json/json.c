/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON: jansson says whether the text is valid; a walk over the same text then makes nodes that know their place, which
 * jansson does not keep. The walk relies on the check and looks at nothing twice. (libyaml cannot stand in: it refuses
 * the surrogate pairs of "\ud83d\ude00".)
 */
#include <stdio.h>

#include "json/private.h"

struct walk {
    struct node_builder *b;
    const char *p, *end;
    unsigned line;
    unsigned column; /* in characters, from 1 */
};

static void step(struct walk *w)
{
    if (*w->p == '\n') {
        w->line++;
        w->column = 1;
    } else if (((unsigned char)*w->p & 0xc0) != 0x80) {
        w->column++;
    }
    w->p++;
}

static void skip_space(struct walk *w)
{
    while (w->p < w->end && (*w->p == ' ' || *w->p == '\t' || *w->p == '\n' || *w->p == '\r'))
        step(w);
}

static unsigned hex4(const char *p)
{
    unsigned value = 0;

    for (int i = 0; i < 4; i++) {
        char c = p[i];

        value = value * 16 + (unsigned)(c >= 'a' ? c - 'a' + 10 : c >= 'A' ? c - 'A' + 10 : c - '0');
    }
    return value;
}

static char *put_utf8(char *out, unsigned c)
{
    if (c < 0x80) {
        *out++ = (char)c;
    } else if (c < 0x800) {
        *out++ = (char)(0xc0 | c >> 6);
        *out++ = (char)(0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
        *out++ = (char)(0xe0 | c >> 12);
        *out++ = (char)(0x80 | (c >> 6 & 0x3f));
        *out++ = (char)(0x80 | (c & 0x3f));
    } else {
        *out++ = (char)(0xf0 | c >> 18);
        *out++ = (char)(0x80 | (c >> 12 & 0x3f));
        *out++ = (char)(0x80 | (c >> 6 & 0x3f));
        *out++ = (char)(0x80 | (c & 0x3f));
    }
    return out;
}

/* An escape, behind its backslash; gives how many bytes it was. */
static size_t put_escape(const char *p, char **out)
{
    static const char letters[] = "bfnrt", meanings[] = "\b\f\n\r\t";
    const char *letter = strchr(letters, *p);
    unsigned c, low;

    if (letter) {
        *(*out)++ = meanings[letter - letters];
        return 1;
    }
    if (*p != 'u') {
        *(*out)++ = *p;
        return 1;
    }
    c = hex4(p + 1);
    if (c >= 0xd800 && c < 0xdc00) { /* jansson has seen that the other half follows */
        low = hex4(p + 7);
        *out = put_utf8(*out, 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00));
        return 11;
    }
    *out = put_utf8(*out, c);
    return 5;
}

/* w->p is at the opening quote; behind the closing one afterwards. An escape is never shorter than what it means. */
static int parse_string(struct walk *w, const char **ret, size_t *ret_length)
{
    const char *end = w->p + 1;
    char *text, *out;

    while (*end != '"')
        end += *end == '\\' ? 2 : 1;
    text = out = arena_alloc(w->b->arena, (size_t)(end - w->p));
    if (!text)
        return -ENOMEM;
    step(w);
    while (w->p < end) {
        if (*w->p == '\\') {
            size_t n = 1 + put_escape(w->p + 1, &out);

            while (n-- > 0)
                step(w);
        } else {
            *out++ = *w->p;
            step(w);
        }
    }
    step(w);
    *out = '\0';
    *ret = text;
    *ret_length = (size_t)(out - text);
    return 0;
}

static int parse_value(struct walk *w, unsigned depth, struct node **ret);

static int parse_container(struct walk *w, enum node_kind kind, unsigned depth, struct node *n)
{
    char close = kind == NODE_MAPPING ? '}' : ']';
    struct node *last = NULL, *child;
    int r;

    step(w);
    for (;;) {
        const char *key = NULL;
        unsigned line, column;
        size_t length;

        skip_space(w);
        if (*w->p == ',') {
            step(w);
            skip_space(w);
        }
        if (*w->p == close)
            break;
        line = w->line;
        column = w->column;
        if (kind == NODE_MAPPING) {
            r = parse_string(w, &key, &length);
            if (r < 0)
                return r;
            skip_space(w);
            step(w); /* the colon */
            skip_space(w);
        }
        r = parse_value(w, depth + 1, &child);
        if (r < 0)
            return r;
        child->key = key;
        child->key_line = line;
        child->key_column = column;
        node_append(n, child, &last);
    }
    step(w);
    if (kind == NODE_MAPPING && builder_check_keys(w->b, n) == -ENOMEM)
        return -ENOMEM;
    return 0;
}

static int parse_value(struct walk *w, unsigned depth, struct node **ret)
{
    enum node_kind kind = *w->p == '{'   ? NODE_MAPPING
                          : *w->p == '[' ? NODE_SEQUENCE
                          : *w->p == 'n' ? NODE_NULL
                                         : NODE_SCALAR;
    struct node *n;
    int r = builder_node(w->b, kind, w->line, w->column, depth, &n);

    if (r < 0)
        return r;
    *ret = n;
    if (kind == NODE_MAPPING || kind == NODE_SEQUENCE)
        return parse_container(w, kind, depth, n);
    if (*w->p == '"') {
        n->quoted = true;
        return parse_string(w, &n->text, &n->length);
    }
    n->length = strcspn(w->p, ",]} \t\r\n");
    n->length = MIN(n->length, (size_t)(w->end - w->p));
    n->text = arena_strndup(w->b->arena, w->p, n->length);
    for (size_t i = 0; i < n->length; i++)
        step(w);
    return n->text ? 0 : -ENOMEM;
}

/* -EBADMSG with a fault when it is no JSON, -EINVAL when it is JSON and beyond the limits. */
int node_parse_json(struct node_builder *b, struct document_list *ret)
{
    struct walk w = {.b = b, .p = b->text, .end = b->text + b->length, .line = 1, .column = 1};
    json_error_t error;
    json_t *json = json_loadb(b->text, b->length, 0, &error);
    struct node *root;
    int r;

    if (!json) {
        if (json_error_code(&error) == json_error_out_of_memory)
            return -ENOMEM;
        faults_add_at(b->faults, error.line > 0 ? (unsigned)error.line : 1,
                      error.column > 0 ? (unsigned)error.column : 1, "", "is not valid JSON: %s%s", error.text,
                      json_error_code(&error) == json_error_premature_end_of_input ? " (the file ends too early)" : "");
        return -EBADMSG;
    }
    json_decref(json);
    skip_space(&w);
    r = parse_value(&w, 0, &root);
    if (r < 0)
        return r;
    ret->items = arena_new_array(b->arena, struct node *, 1);
    if (!ret->items)
        return -ENOMEM;
    ret->items[0] = root;
    ret->count = 1;
    return 0;
}
