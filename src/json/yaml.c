/* SPDX-License-Identifier: Apache-2.0 */
/* YAML by libyaml's events. Aliases are copied out and merge keys resolved here, each copy counted against the limits.
 */
#include <yaml.h>

#include "base/limits.h"
#include "json/private.h"

/* Merging looks every key up among the others, which must not become quadratic in the file's size. */
#define MERGED_KEYS 1000U

struct anchor {
    struct anchor *next;
    const char *name;
    struct node *node; /* NULL while the anchored value is still being read */
};

struct yaml {
    struct node_builder *b;
    yaml_parser_t parser;
    struct anchor *anchors; /* of this document, the newest first */
};

static unsigned mark_line(const yaml_mark_t *mark)
{
    return (unsigned)mark->line + 1;
}

static unsigned mark_column(const yaml_mark_t *mark)
{
    return (unsigned)mark->column + 1;
}

/* libyaml's own words, but for the cases that people meet most. */
static void syntax_fault(struct yaml *y)
{
    const yaml_parser_t *p = &y->parser;
    const char *problem = p->problem ?: "is not YAML", *context = p->context ?: "";
    const yaml_mark_t *mark = &p->problem_mark;
    size_t at = mark->index;
    const char *remedy = "";

    if (p->error == YAML_READER_ERROR) {
        unsigned line, column;

        text_place(y->b->text, MIN(p->problem_offset, y->b->length), &line, &column);
        faults_add_at(y->b->faults, line, column, "", "%s: 0x%02x (only printable characters, tabs and line ends)",
                      problem, (unsigned)p->problem_value);
        return;
    }
    /* the mark counts characters, not bytes, which is the same for what is looked at here as long as all is ASCII */
    if (at < y->b->length && y->b->text[at] == '\t')
        remedy = " (a tab: YAML is indented by spaces only)";
    else if (at >= y->b->length || strstr(problem, "end of stream"))
        remedy = " (the file ends too early)";
    else if (strstr(problem, "mapping values are not allowed"))
        remedy = " (wrong indentation, or a text with a colon that needs quotes)";
    else if (strstr(problem, "did not find expected key"))
        remedy = " (wrong indentation, or a text that needs quotes)";
    if (*context && p->context_mark.line != mark->line)
        faults_add_at(y->b->faults, mark_line(mark), mark_column(mark), "", "%s %s that starts in line %u%s", problem,
                      context, mark_line(&p->context_mark), remedy);
    else
        faults_add_at(y->b->faults, mark_line(mark), mark_column(mark), "", "%s%s%s%s", problem, *context ? " " : "",
                      context, remedy);
}

static int next_event(struct yaml *y, yaml_event_t *ret)
{
    if (yaml_parser_parse(&y->parser, ret))
        return 0;
    if (y->parser.error == YAML_MEMORY_ERROR)
        return -ENOMEM;
    syntax_fault(y);
    return -EINVAL;
}

static void event_done(yaml_event_t *event)
{
    yaml_event_delete(event);
}

static bool is_null_word(const char *text)
{
    return *text == '\0' || streq(text, "~") || streq(text, "null") || streq(text, "Null") || streq(text, "NULL");
}

static int add_anchor(struct yaml *y, const yaml_char_t *name, struct anchor **ret)
{
    struct anchor *a;

    *ret = NULL;
    if (!name)
        return 0;
    a = arena_alloc(y->b->arena, sizeof(*a));
    if (!a)
        return -ENOMEM;
    a->name = arena_strdup(y->b->arena, (const char *)name);
    if (!a->name)
        return -ENOMEM;
    a->next = y->anchors;
    y->anchors = a;
    *ret = a;
    return 0;
}

/* A copy: every node has one parent, so that its path can be said. Its place stays that of the anchored text. */
static int copy_node(struct yaml *y, const struct node *from, unsigned depth, struct node **ret)
{
    struct node *n, *child, *last = NULL;
    int r = builder_node(y->b, from->kind, from->line, from->column, depth, &n);

    if (r < 0)
        return r;
    n->quoted = from->quoted;
    n->text = from->text;
    n->length = from->length;
    NODE_FOREACH(c, from)
    {
        r = copy_node(y, c, depth + 1, &child);
        if (r < 0)
            return r;
        child->key = c->key;
        child->key_line = c->key_line;
        child->key_column = c->key_column;
        node_append(n, child, &last);
    }
    *ret = n;
    return 0;
}

static int parse_alias(struct yaml *y, const yaml_event_t *event, unsigned depth, struct node **ret)
{
    const char *name = (const char *)event->data.alias.anchor;
    unsigned line = mark_line(&event->start_mark), column = mark_column(&event->start_mark);

    if (++y->b->aliases > LIMIT_MANIFEST_ALIASES) {
        faults_add_at(y->b->faults, line, column, "", "too many aliases (at most %u)", LIMIT_MANIFEST_ALIASES);
        return -EINVAL;
    }
    for (const struct anchor *a = y->anchors; a; a = a->next)
        if (streq(a->name, name)) {
            if (a->node)
                return copy_node(y, a->node, depth, ret);
            faults_add_at(y->b->faults, line, column, "", "the alias *%s stands inside of what it means", name);
            return -EINVAL;
        }
    faults_add_at(y->b->faults, line, column, "", "the alias *%s has no anchor &%s above it", name, name);
    return -EINVAL;
}

/* 1: a string by its tag; 0: as it looks; a fault for tags that make a value of no JSON type. */
static int check_tag(struct yaml *y, const yaml_event_t *event, const yaml_char_t *tag, const char *const *allowed)
{
    if (!tag || streq((const char *)tag, ""))
        return 0;
    for (; *allowed; allowed++)
        if (streq((const char *)tag, *allowed))
            return streq((const char *)tag, YAML_STR_TAG) || streq((const char *)tag, "!");
    faults_add_at(y->b->faults, mark_line(&event->start_mark), mark_column(&event->start_mark), "",
                  "the tag %s has no meaning in a manifest", (const char *)tag);
    return -EINVAL;
}

static int parse_value(struct yaml *y, yaml_event_t *event, unsigned depth, struct node **ret);

static int parse_scalar(struct yaml *y, const yaml_event_t *event, unsigned depth, struct node **ret)
{
    static const char *const tags[] = {YAML_STR_TAG,  YAML_INT_TAG, YAML_FLOAT_TAG,     YAML_BOOL_TAG,
                                       YAML_NULL_TAG, "!",          YAML_TIMESTAMP_TAG, NULL};
    const char *text = (const char *)event->data.scalar.value;
    size_t length = event->data.scalar.length;
    int is_string = check_tag(y, event, event->data.scalar.tag, tags);
    bool quoted = is_string > 0 || event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    struct node *n;
    int r;

    if (is_string < 0)
        return is_string;
    if (memchr(text, '\0', length)) {
        faults_add_at(y->b->faults, mark_line(&event->start_mark), mark_column(&event->start_mark), "",
                      "the text has a NUL character in it");
        return -EINVAL;
    }
    r = builder_node(y->b, !quoted && is_null_word(text) ? NODE_NULL : NODE_SCALAR, mark_line(&event->start_mark),
                     mark_column(&event->start_mark), depth, &n);
    if (r < 0)
        return r;
    n->quoted = quoted;
    n->length = length;
    n->text = arena_strndup(y->b->arena, text, length);
    if (!n->text)
        return -ENOMEM;
    *ret = n;
    return 0;
}

static int parse_sequence(struct yaml *y, const yaml_event_t *start, unsigned depth, struct node **ret)
{
    static const char *const tags[] = {YAML_SEQ_TAG, "!", NULL};
    struct node *n, *child, *last = NULL;
    int r = check_tag(y, start, start->data.sequence_start.tag, tags);

    if (r < 0)
        return r;
    r = builder_node(y->b, NODE_SEQUENCE, mark_line(&start->start_mark), mark_column(&start->start_mark), depth, &n);
    if (r < 0)
        return r;
    for (;;) {
        _cleanup_(event_done) yaml_event_t event = {0};

        r = next_event(y, &event);
        if (r < 0)
            return r;
        if (event.type == YAML_SEQUENCE_END_EVENT)
            break;
        r = parse_value(y, &event, depth + 1, &child);
        if (r < 0)
            return r;
        node_append(n, child, &last);
    }
    *ret = n;
    return 0;
}

/* Members of `from` that the mapping has not; its own come first (yaml.org/type/merge). */
static int merge_mapping(struct yaml *y, struct node *into, struct node **last, const struct node *from, unsigned depth)
{
    NODE_FOREACH(c, from)
    {
        struct node *copy;
        int r;

        if (into->count > MERGED_KEYS) {
            faults_add_at(y->b->faults, into->line, into->column, "",
                          "a mapping with a merge key must not have more than %u keys", MERGED_KEYS);
            return -EINVAL;
        }
        if (node_get(into, c->key))
            continue;
        r = copy_node(y, c, depth + 1, &copy);
        if (r < 0)
            return r;
        copy->key = c->key;
        copy->key_line = c->key_line;
        copy->key_column = c->key_column;
        node_append(into, copy, last);
    }
    return 0;
}

static int merge(struct yaml *y, struct node *into, struct node **last, const struct node *from, unsigned depth)
{
    int r = 0;

    if (from->kind == NODE_MAPPING)
        return merge_mapping(y, into, last, from, depth);
    if (from->kind == NODE_SEQUENCE) {
        NODE_FOREACH(c, from)
        {
            if (c->kind != NODE_MAPPING)
                r = -EINVAL;
            else if (r >= 0)
                r = merge_mapping(y, into, last, c, depth);
            if (r < 0)
                break;
        }
        if (r != -EINVAL || y->b->faults->count > 0)
            return r;
    }
    faults_add_at(y->b->faults, from->line, from->column, "",
                  "the merge key << must have a mapping, or a list of mappings");
    return -EINVAL;
}

static int parse_mapping(struct yaml *y, const yaml_event_t *start, unsigned depth, struct node **ret)
{
    static const char *const tags[] = {YAML_MAP_TAG, "!", NULL};
    struct node *n, *child, *last = NULL, *merges[8];
    size_t n_merges = 0;
    int r = check_tag(y, start, start->data.mapping_start.tag, tags);

    if (r < 0)
        return r;
    r = builder_node(y->b, NODE_MAPPING, mark_line(&start->start_mark), mark_column(&start->start_mark), depth, &n);
    if (r < 0)
        return r;
    for (;;) {
        _cleanup_(event_done) yaml_event_t key = {0}, value = {0};
        unsigned line, column;
        struct anchor *anchor;
        const char *name;

        r = next_event(y, &key);
        if (r < 0)
            return r;
        if (key.type == YAML_MAPPING_END_EVENT)
            break;
        line = mark_line(&key.start_mark);
        column = mark_column(&key.start_mark);
        if (key.type != YAML_SCALAR_EVENT || memchr(key.data.scalar.value, '\0', key.data.scalar.length)) {
            faults_add_at(y->b->faults, line, column, "", "the key of a mapping must be a plain text");
            return -EINVAL;
        }
        name = arena_strndup(y->b->arena, (const char *)key.data.scalar.value, key.data.scalar.length);
        if (!name)
            return -ENOMEM;
        r = add_anchor(y, key.data.scalar.anchor, &anchor);
        if (r >= 0 && anchor)
            r = parse_scalar(y, &key, depth + 1, &anchor->node);
        if (r >= 0)
            r = next_event(y, &value);
        if (r >= 0)
            r = parse_value(y, &value, depth + 1, &child);
        if (r < 0)
            return r;
        if (streq(name, "<<") && key.data.scalar.style == YAML_PLAIN_SCALAR_STYLE) {
            if (n_merges == ELEMENTSOF(merges)) {
                faults_add_at(y->b->faults, line, column, "", "too many merge keys in one mapping");
                return -EINVAL;
            }
            merges[n_merges++] = child;
            continue;
        }
        child->key = name;
        child->key_line = line;
        child->key_column = column;
        node_append(n, child, &last);
    }
    r = builder_check_keys(y->b, n);
    if (r == -ENOMEM) /* a key that is there twice is a fault already, and the rest is still worth reading */
        return r;
    for (size_t i = 0; i < n_merges; i++) {
        r = merge(y, n, &last, merges[i], depth);
        if (r < 0)
            return r;
    }
    *ret = n;
    return 0;
}

static int parse_value(struct yaml *y, yaml_event_t *event, unsigned depth, struct node **ret)
{
    struct anchor *anchor = NULL;
    int r;

    switch (event->type) {
    case YAML_ALIAS_EVENT:
        return parse_alias(y, event, depth, ret);
    case YAML_SCALAR_EVENT:
        r = add_anchor(y, event->data.scalar.anchor, &anchor);
        if (r >= 0)
            r = parse_scalar(y, event, depth, ret);
        break;
    case YAML_SEQUENCE_START_EVENT:
        r = add_anchor(y, event->data.sequence_start.anchor, &anchor);
        if (r >= 0)
            r = parse_sequence(y, event, depth, ret);
        break;
    case YAML_MAPPING_START_EVENT:
        r = add_anchor(y, event->data.mapping_start.anchor, &anchor);
        if (r >= 0)
            r = parse_mapping(y, event, depth, ret);
        break;
    default:
        faults_add_at(y->b->faults, mark_line(&event->start_mark), mark_column(&event->start_mark), "",
                      "a value is missing here");
        return -EINVAL;
    }
    if (r >= 0 && anchor)
        anchor->node = *ret;
    return r;
}

static int parse_document(struct yaml *y, struct node **ret)
{
    _cleanup_(event_done) yaml_event_t value = {0}, end = {0};
    int r;

    y->anchors = NULL;
    r = next_event(y, &value);
    if (r >= 0)
        r = parse_value(y, &value, 0, ret);
    if (r >= 0)
        r = next_event(y, &end);
    return r;
}

static int parse_stream(struct yaml *y, struct document_list *ret)
{
    size_t allocated = 0;

    for (;;) {
        _cleanup_(event_done) yaml_event_t event = {0};
        struct node *root;
        int r = next_event(y, &event);

        if (r < 0)
            return r;
        if (event.type == YAML_STREAM_END_EVENT)
            return 0;
        if (event.type != YAML_DOCUMENT_START_EVENT)
            continue;
        r = parse_document(y, &root);
        if (r < 0)
            return r;
        if (root->kind == NODE_NULL)
            continue;
        if (ret->count == allocated) {
            struct node **items = arena_new_array(y->b->arena, struct node *, MAX(2 * allocated, 8U));

            if (!items)
                return -ENOMEM;
            if (ret->count > 0)
                memcpy(items, ret->items, ret->count * sizeof(*items));
            ret->items = items;
            allocated = MAX(2 * allocated, 8U);
        }
        ret->items[ret->count++] = root;
    }
}

int node_parse_yaml(struct node_builder *b, struct document_list *ret)
{
    struct yaml y = {.b = b};
    int r;

    *ret = (struct document_list){0};
    if (!yaml_parser_initialize(&y.parser))
        return -ENOMEM;
    yaml_parser_set_encoding(&y.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&y.parser, (const unsigned char *)b->text, b->length);
    r = parse_stream(&y, ret);
    yaml_parser_delete(&y.parser);
    return r;
}
