/* SPDX-License-Identifier: Apache-2.0 */
/* What is wrong in an input, collected so that all of it is reported in one run. */
#pragma once

#include <stddef.h>

#include "base/util.h"

struct node;

struct fault {
    char *source;          /* file name */
    unsigned line, column; /* 0: not known */
    char *path;            /* "spec.domain.cpu.cores"; "" for the whole document */
    char *message;         /* what is wrong (what is allowed) */
};

struct faults {
    const char *source; /* borrowed; the file that faults are added for */
    struct fault *items;
    size_t count;
    size_t dropped; /* over LIMIT_MANIFEST_FAULTS */
};

/* At the node's place, or at the file's when it is NULL. */
void faults_add(struct faults *faults, const struct node *node, const char *format, ...) _printf_(3, 4);
/* As faults_add(), for a member of `node` that is missing or has another place: the path is that of node + ".member".
 */
void faults_add_member(struct faults *faults, const struct node *node, const char *member, const char *format, ...)
    _printf_(4, 5);
void faults_add_at(struct faults *faults, unsigned line, unsigned column, const char *path, const char *format, ...)
    _printf_(5, 6);
/* Sorts by line and column. "FILE:LINE:COL: path: message\n" for each; freed by the caller, NULL when out of memory. */
char *faults_format(struct faults *faults);
void faults_done(struct faults *faults);
