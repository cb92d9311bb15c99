/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A parsed document, YAML or JSON, with the place of every value: what the decode tables work on. All nodes of a
 * document live in one arena. Scalars keep their text: what "1" or "yes" means is known only where a field wants it.
 */
#pragma once

#include <jansson.h>

#include "base/arena.h"
#include "base/error.h"
#include "json/faults.h"

enum node_kind {
    NODE_NULL,
    NODE_SCALAR,
    NODE_SEQUENCE,
    NODE_MAPPING,
};

struct node {
    enum node_kind kind;
    bool quoted;           /* a scalar that was quoted, or a block scalar: always a string */
    unsigned line, column; /* from 1; 0 when the node came from no text */
    const char *key;       /* in a mapping: the key; else NULL */
    unsigned key_line, key_column;
    const char *text; /* scalar; NUL-terminated UTF-8 without NUL bytes */
    size_t length;
    const struct node *parent;
    size_t index;              /* in a sequence */
    struct node *first, *next; /* children of a sequence or mapping, in the order of the file */
    size_t count;
};

struct document_list {
    struct node **items; /* in the arena */
    size_t count;
};

/*
 * Parses one file's text: JSON if its first character is '{' or '[', else YAML (several documents allowed; empty ones
 * are left out). Syntax errors, duplicate keys, wrong encoding, and what exceeds the limits (bytes, depth, nodes after
 * alias expansion) become faults: -EINVAL.
 */
int node_parse(struct arena *arena, const char *source, const char *text, size_t length, struct document_list *ret,
               struct faults *faults, struct error **ret_error);

/* From JSON in memory, without positions. */
int node_from_json(struct arena *arena, const json_t *json, struct node **ret);
/* A new reference. Plain scalars become null, booleans and numbers as YAML's core schema has them. */
json_t *node_to_json(const struct node *node);

const struct node *node_get(const struct node *mapping, const char *key);
/* "spec.domain.devices.disks[0].bus", from the document's root; in the arena of the caller. */
char *node_path(struct arena *arena, const struct node *node);

#define NODE_FOREACH(child, parent) for (const struct node *child = (parent)->first; child; child = child->next)
