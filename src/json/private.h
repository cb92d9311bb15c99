/* SPDX-License-Identifier: Apache-2.0 */
/* What the two parsers share: making nodes within the limits. */
#pragma once

#include "base/strbuf.h"
#include "json/node.h"

/* One file being parsed. */
struct node_builder {
    struct arena *arena;
    struct faults *faults;
    const char *text; /* without a byte order mark */
    size_t length;
    size_t nodes; /* made so far, copies by aliases included */
    size_t aliases;
};

/*
 * All of these return NULL or a negative errno after a failure: -EINVAL when a fault was added, -ENOMEM. `depth` is the
 * number of containers around the node.
 */
int builder_node(struct node_builder *b, enum node_kind kind, unsigned line, unsigned column, unsigned depth,
                 struct node **ret);
void node_append(struct node *parent, struct node *child, struct node **last);
/* Faults for keys that stand twice in one mapping. */
int builder_check_keys(struct node_builder *b, const struct node *mapping);

int node_parse_yaml(struct node_builder *b, struct document_list *ret);
int node_parse_json(struct node_builder *b, struct document_list *ret);

/* Line and column, from 1, of a byte; the column counts characters. */
void text_place(const char *text, size_t offset, unsigned *ret_line, unsigned *ret_column);
void node_write_path(struct strbuf *b, const struct node *node);
