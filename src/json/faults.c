/* SPDX-License-Identifier: Apache-2.0 */
#include "json/faults.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/limits.h"
#include "base/strbuf.h"
#include "base/utf8.h"
#include "json/node.h"
#include "json/private.h"

/* Longest path or message: both can hold texts of the input. */
#define MAX_SHOWN 1000

/*
 * One line per fault, whatever stands in the input: control characters are shown as escapes, and half a UTF-8 sequence,
 * left by a quotation that was cut, is dropped.
 */
static char *one_line(const char *text)
{
    _cleanup_(strbuf_done) struct strbuf b = {0};
    size_t left = strlen(text);

    while (left > 0) {
        unsigned char c = (unsigned char)*text;
        size_t n = utf8_sequence_length(text, left);

        if (b.length >= MAX_SHOWN) {
            strbuf_add_string(&b, "…");
            break;
        }
        if (c == '\n')
            strbuf_add_string(&b, "\\n");
        else if (c == '\r')
            strbuf_add_string(&b, "\\r");
        else if (c == '\t')
            strbuf_add_string(&b, "\\t");
        else if (c < 0x20 || c == 0x7f)
            strbuf_printf(&b, "\\x%02x", c);
        else
            strbuf_add(&b, text, n);
        text += MAX(n, (size_t)1);
        left -= MAX(n, (size_t)1);
    }
    return b.length == 0 && !b.failed ? strdup("") : strbuf_steal(&b);
}

static void add(struct faults *faults, unsigned line, unsigned column, const char *path, const char *format, va_list ap)
    _printf_(5, 0);
static void add(struct faults *faults, unsigned line, unsigned column, const char *path, const char *format, va_list ap)
{
    _cleanup_free_ char *text = NULL;
    struct fault fault = {.line = line, .column = column}, *items;

    if (faults->count >= LIMIT_MANIFEST_FAULTS) {
        faults->dropped++;
        return;
    }
    if (vasprintf(&text, format, ap) < 0)
        text = NULL;
    fault.source = strdup(faults->source ?: "");
    fault.path = one_line(path ?: "");
    fault.message = text ? one_line(text) : NULL;
    items = realloc(faults->items, sizeof(*items) * (faults->count + 1));
    if (items)
        faults->items = items;
    if (!items || !fault.source || !fault.path || !fault.message) {
        free(fault.source);
        free(fault.path);
        free(fault.message);
        faults->dropped++; /* out of memory: the input stays refused, since a dropped fault counts too */
        return;
    }
    items[faults->count++] = fault;
}

void faults_add_at(struct faults *faults, unsigned line, unsigned column, const char *path, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    add(faults, line, column, path, format, ap);
    va_end(ap);
}

void faults_add(struct faults *faults, const struct node *node, const char *format, ...)
{
    _cleanup_(strbuf_done) struct strbuf path = {0};
    va_list ap;

    node_write_path(&path, node);
    va_start(ap, format);
    add(faults, node ? node->line : 0, node ? node->column : 0, strbuf_text(&path), format, ap);
    va_end(ap);
}

void faults_add_member(struct faults *faults, const struct node *node, const char *member, const char *format, ...)
{
    const struct node *child = node ? node_get(node, member) : NULL;
    const struct node *at = child ?: node;
    _cleanup_(strbuf_done) struct strbuf path = {0};
    va_list ap;

    node_write_path(&path, at);
    if (!child) {
        if (path.length > 0)
            strbuf_add_string(&path, ".");
        strbuf_add_string(&path, member);
    }
    va_start(ap, format);
    add(faults, at ? at->line : 0, at ? at->column : 0, strbuf_text(&path), format, ap);
    va_end(ap);
}

struct ordered {
    const struct fault *fault;
    size_t index;
};

static int by_place(const void *a, const void *b)
{
    const struct ordered *x = a, *y = b;

    if (x->fault->line != y->fault->line)
        return x->fault->line < y->fault->line ? -1 : 1;
    if (x->fault->column != y->fault->column)
        return x->fault->column < y->fault->column ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static int sort_faults(struct faults *faults)
{
    _cleanup_free_ struct ordered *order = NULL;
    struct fault *sorted;

    if (faults->count < 2)
        return 0;
    order = calloc(faults->count, sizeof(*order));
    sorted = calloc(faults->count, sizeof(*sorted));
    if (!order || !sorted) {
        free(sorted);
        return -ENOMEM;
    }
    for (size_t i = 0; i < faults->count; i++)
        order[i] = (struct ordered){&faults->items[i], i};
    qsort(order, faults->count, sizeof(*order), by_place);
    for (size_t i = 0; i < faults->count; i++)
        sorted[i] = *order[i].fault;
    free(faults->items);
    faults->items = sorted;
    return 0;
}

char *faults_format(struct faults *faults)
{
    _cleanup_(strbuf_done) struct strbuf b = {0};

    if (sort_faults(faults) < 0)
        return NULL;
    for (size_t i = 0; i < faults->count; i++) {
        const struct fault *f = &faults->items[i];

        strbuf_add_string(&b, f->source);
        if (f->line > 0)
            strbuf_printf(&b, ":%u:%u", f->line, f->column);
        strbuf_add_string(&b, ": ");
        if (*f->path)
            strbuf_printf(&b, "%s: ", f->path);
        strbuf_printf(&b, "%s\n", f->message);
    }
    if (faults->dropped > 0)
        strbuf_printf(&b, "%s: %zu more faults are not shown\n", faults->source ?: "", faults->dropped);
    return b.length == 0 && !b.failed ? strdup("") : strbuf_steal(&b);
}

void faults_done(struct faults *faults)
{
    for (size_t i = 0; i < faults->count; i++) {
        free(faults->items[i].source);
        free(faults->items[i].path);
        free(faults->items[i].message);
    }
    free(faults->items);
    *faults = (struct faults){.source = faults->source};
}
