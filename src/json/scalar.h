/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a plain scalar means. YAML 1.1's booleans and number forms, as the YAML library of kubectl takes them
 * (sigs.k8s.io/yaml): yes, no, on and off are booleans, 0x1f, 0b1, 0o17 and 017 are numbers, 1_000 too; "y" and "n",
 * times and dates are strings.
 */
#pragma once

#include "json/node.h"

enum scalar_type {
    SCALAR_NULL,
    SCALAR_STRING,
    SCALAR_BOOL,
    SCALAR_INT,
    SCALAR_FLOAT,
};

/* Of a NODE_SCALAR or NODE_NULL. */
enum scalar_type scalar_type(const struct node *node);
bool scalar_bool(const struct node *node, bool *ret);
/* A whole number that fits, also when it is written as "4.0" or "1e3". */
bool scalar_int(const struct node *node, int64_t *ret);
/* "a string", "a number", "a list"… for messages; static. */
const char *node_describe(const struct node *node);
