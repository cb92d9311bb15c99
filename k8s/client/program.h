/* SPDX-License-Identifier: Apache-2.0 */
/* What the programs of the cluster have alike: command lines of long options, and the page that says that one lives. */
#pragma once

#include "base/strbuf.h"

struct program_flag {
    const char *name, *argument, *what; /* without argument: a switch */
};

struct program_flags {
    const char *program;
    const struct program_flag *flags;
    size_t count;
    int width; /* of the first column of --help */
    /* A flag of that index was given: -1 to go on, else the exit code. */
    int (*take)(size_t flag, const char *value, void *userdata);
    void *userdata;
};

/* -1: go on; else the exit code. What is wrong was said. */
int program_parse(const struct program_flags *flags, int argc, char **argv);
/* The options, a line each. */
void program_print_flags(const struct program_flags *flags);

/* For /healthz (struct kube_page). */
int program_write_health(struct strbuf *body, void *userdata);

/*
 * For programs that keep much apart from the heap (slab.h) and work in bursts: large pieces are mapped, so that they go
 * back when they are freed, and the name resolver's thread gets no heap of its own. First thing in main().
 */
void program_tune_heap(void);
