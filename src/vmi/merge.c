/* SPDX-License-Identifier: Apache-2.0 */
#include "vmi/merge.h"

#include <errno.h>

struct node *node_child(struct node *mapping, const char *key)
{
    for (struct node *n = mapping && mapping->kind == NODE_MAPPING ? mapping->first : NULL; n; n = n->next)
        if (streq(n->key, key))
            return n;
    return NULL;
}

/* The next part of a path, and what follows it; NULL at its end. */
static const char *next_part(const char *path, char part[static 64])
{
    size_t n = strcspn(path, ".");

    if (n == 0 || n >= 64)
        return NULL;
    memcpy(part, path, n);
    part[n] = '\0';
    return path[n] ? path + n + 1 : path + n;
}

const struct node *node_find(const struct node *mapping, const char *path)
{
    char part[64];

    while (mapping && (path = next_part(path, part))) {
        mapping = mapping->kind == NODE_MAPPING ? node_get(mapping, part) : NULL;
        if (!*path)
            return mapping;
    }
    return NULL;
}

bool node_equal(const struct node *a, const struct node *b)
{
    if (a->kind != b->kind || a->count != b->count)
        return false;
    if (a->kind == NODE_SCALAR)
        return streq(a->text, b->text);
    if (a->kind == NODE_SEQUENCE) {
        for (const struct node *x = a->first, *y = b->first; x; x = x->next, y = y->next)
            if (!node_equal(x, y))
                return false;
        return true;
    }
    NODE_FOREACH(x, a)
    {
        const struct node *y = node_get(b, x->key);

        if (!y || !node_equal(x, y))
            return false;
    }
    return true;
}

struct node *node_copy(struct arena *arena, const struct node *from)
{
    struct node *n = arena_alloc(arena, sizeof(*n)), **end;

    if (!n)
        return NULL;
    *n = *from;
    n->next = NULL;
    n->first = NULL;
    end = &n->first;
    NODE_FOREACH(c, from)
    {
        *end = node_copy(arena, c);
        if (!*end)
            return NULL;
        (*end)->parent = n;
        end = &(*end)->next;
    }
    return n;
}

struct node *node_empty(struct arena *arena, const struct node *at, enum node_kind kind)
{
    struct node *n = arena_alloc(arena, sizeof(*n));

    if (n) {
        n->kind = kind;
        n->line = at->line;
        n->column = at->column;
        n->key_line = at->key_line;
        n->key_column = at->key_column;
    }
    return n;
}

struct node *node_scalar(struct arena *arena, const struct node *at, const char *text)
{
    struct node *n = node_empty(arena, at, NODE_SCALAR);

    if (!n)
        return NULL;
    n->text = arena_strdup(arena, text);
    n->length = strlen(text);
    return n->text ? n : NULL;
}

void node_put(struct node *mapping, const char *key, struct node *value)
{
    struct node *own = node_child(mapping, key), **end;

    for (end = &mapping->first; *end && *end != own; end = &(*end)->next)
        ;
    value->parent = mapping;
    value->key = key;
    value->next = own ? own->next : NULL;
    value->index = own ? own->index : mapping->count++;
    *end = value;
}

void node_add_element(struct node *sequence, struct node *value)
{
    struct node **end;

    for (end = &sequence->first; *end; end = &(*end)->next)
        ;
    value->parent = sequence;
    value->key = NULL;
    value->next = NULL;
    value->index = sequence->count++;
    *end = value;
}

int node_reach(struct arena *arena, struct node *mapping, const char *path, const struct node *at, struct node **ret)
{
    char part[64];

    while (*path && (path = next_part(path, part))) {
        struct node *member = node_child(mapping, part);

        if (!member || member->kind == NODE_NULL) {
            const char *key = member ? member->key : arena_strdup(arena, part);
            struct node *made = node_empty(arena, at, NODE_MAPPING);

            if (!key || !made)
                return -ENOMEM;
            node_put(mapping, key, made);
            member = made;
        }
        if (member->kind != NODE_MAPPING)
            return -ENOTDIR;
        mapping = member;
    }
    *ret = mapping;
    return 0;
}
