/* SPDX-License-Identifier: Apache-2.0 */
/* For a name that is not known: the known one that was probably meant. */
#include <strings.h>

#include "base/nearest.h"
#include "base/strbuf.h"
#include "json/decode.h"

/* Objects with at most so many fields are listed whole when no name is near. */
#define LISTED_FIELDS 8
#define SEARCH_DEPTH  12

static const char *nearest_field(const struct decoder *d, const struct table *table, const char *text, unsigned *ret)
{
    const char *found = NULL;
    unsigned best = nearest_limit(text);

    for (size_t i = 0; i < table->count; i++) {
        const struct field *f = &table->fields[i];
        unsigned n;

        if (f->flags & FIELD_OLD && !d->old_names)
            continue;
        n = edit_distance(text, f->name);
        if (n < best || (n == best && !found)) {
            best = n;
            found = f->name;
        }
    }
    *ret = best;
    return found;
}

/* What people write for what is meant, where no distance of letters tells. */
static const struct {
    const char *written, *table, *meant;
} meant_fields[] = {
    {"userDataSecretRef", "CloudInitNoCloudSource", "secretRef"},
    {"flavor", "VirtualMachineSpec", "instancetype"},
    {"floppy", "Disk", "cdrom"},
    {"registryDisk", "Volume", "containerDisk"},
};

static const char *find_meant(const struct table *table, const char *name)
{
    for (size_t i = 0; i < sizeof(meant_fields) / sizeof(meant_fields[0]); i++)
        if (strcmp(meant_fields[i].written, name) == 0 && strcmp(meant_fields[i].table, table->name) == 0)
            return meant_fields[i].meant;
    return NULL;
}

struct search {
    const char *name;
    const char *here; /* path of the unknown field */
    const char *stack[SEARCH_DEPTH];
    bool lists[SEARCH_DEPTH];
    size_t best_common;
    struct strbuf best;
};

/* Length of a path without its last member, and of that without its last. */
static size_t parent_length(const char *path, size_t length)
{
    while (length > 0 && path[length - 1] != '.')
        length--;
    return length > 0 ? length - 1 : 0;
}

/*
 * Whether a field there can have been put here by mistake: into an object inside of the right one, around it, or beside
 * it. A field of the same name far away is a coincidence.
 */
static bool is_near(const char *here, const char *there)
{
    size_t h = parent_length(here, strlen(here)), t = parent_length(there, strlen(there));
    size_t h2 = parent_length(here, h);

    if (strncmp(here, there, MIN(h, t)) == 0 && (h == t || (h > t ? here[t] : there[h]) == '.' || MIN(h, t) == 0))
        return true;
    return h2 > 0 && h2 == parent_length(there, t) && strncmp(here, there, h2) == 0;
}

/* Of two places the one that shares more of its beginning with the unknown field's own path. */
static void found_field(struct search *s, size_t depth, const char *name)
{
    _cleanup_(strbuf_done) struct strbuf path = {0};
    size_t common = 0;

    for (size_t i = 0; i < depth; i++)
        strbuf_printf(&path, "%s%s.", s->stack[i], s->lists[i] ? "[]" : "");
    strbuf_add_string(&path, name);
    if (!is_near(s->here, strbuf_text(&path)))
        return;
    while (s->here[common] && s->here[common] == strbuf_text(&path)[common])
        common++;
    if (s->best.length > 0 && common <= s->best_common)
        return;
    s->best_common = common;
    strbuf_clear(&s->best);
    strbuf_add_string(&s->best, strbuf_text(&path));
}

static void search_table(struct search *s, const struct table *table, size_t depth)
{
    for (size_t i = 0; i < table->count; i++) {
        const struct field *f = &table->fields[i];

        if (f->flags & (FIELD_OLD | FIELD_POD | FIELD_SERVER | FIELD_DEPRECATED))
            continue;
        if (strcasecmp(f->name, s->name) == 0)
            found_field(s, depth, f->name);
        if (!f->sub || depth == SEARCH_DEPTH)
            continue;
        s->stack[depth] = f->name;
        s->lists[depth] = f->type == FIELD_TYPE_LIST || f->type == FIELD_TYPE_RAW_LIST || f->type == FIELD_TYPE_CUSTOM;
        search_table(s, f->sub, depth + 1);
    }
}

/* The path of a field of this name somewhere else in the document, or NULL. */
static const char *find_elsewhere(struct decoder *d, const struct node *node)
{
    _cleanup_(strbuf_done) struct strbuf here = {0};
    const char *path = node_path(d->arena, node), *result;
    struct search s = {.name = node->key};

    if (!d->root || !path || streq(node->key, "name"))
        return NULL;
    for (const char *p = path; *p; p++) { /* disks[3].bus → disks[].bus, as the search writes it */
        strbuf_add(&here, p, 1);
        if (*p == '[')
            p += strspn(p + 1, "0123456789");
    }
    s.here = strbuf_text(&here);
    search_table(&s, d->root, 0);
    result = s.best.length > 0 ? arena_strdup(d->arena, strbuf_text(&s.best)) : NULL;
    strbuf_done(&s.best);
    return result;
}

static const char *list_fields(struct decoder *d, const struct table *table)
{
    _cleanup_(strbuf_done) struct strbuf b = {0};
    size_t n = 0;

    for (size_t i = 0; i < table->count; i++)
        if (!(table->fields[i].flags & (FIELD_OLD | FIELD_DEPRECATED)))
            strbuf_printf(&b, "%s%s", n++ == 0 ? "" : ", ", table->fields[i].name);
    if (n == 0)
        return " (the object has no fields)";
    if (n > LISTED_FIELDS)
        return arena_printf(d->arena, " of %s", table->name) ?: "";
    return arena_printf(d->arena, " (known here: %s)", strbuf_text(&b)) ?: "";
}

const char *describe_unknown_field(struct decoder *d, const struct table *table, const struct node *node)
{
    unsigned n;
    const char *near, *elsewhere;

    for (size_t i = 0; i < table->count; i++)
        if (table->fields[i].flags & FIELD_OLD && streq(table->fields[i].name, node->key))
            return arena_printf(d->arena, ": it was one in v1alpha2 (%s)", table->fields[i].doc) ?: "";
    near = find_meant(table, node->key);
    if (near)
        return arena_printf(d->arena, " (did you mean %s?)", near) ?: "";
    near = nearest_field(d, table, node->key, &n);
    if (!near || n > 2) /* more than one edit; edit_distance() counts by halves */
        elsewhere = find_elsewhere(d, node);
    else
        elsewhere = NULL;
    if (elsewhere)
        near = elsewhere;
    if (!near)
        return list_fields(d, table);
    return arena_printf(d->arena, " (did you mean %s?)", near) ?: "";
}
