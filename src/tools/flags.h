/* SPDX-License-Identifier: Apache-2.0 */
/* Command lines as KubeVirt's tools take them: --name value, --name=value, --switch, --switch=false, -- ARGUMENT… */
#pragma once

#include "base/util.h"

enum flag_type {
    FLAG_STRING,  /* const char * */
    FLAG_BOOL,    /* bool */
    FLAG_NUMBER,  /* int, 0 or more */
    FLAG_IGNORED, /* takes a value that means nothing here */
};

struct flag {
    const char *name; /* without the dashes; one letter is also taken with one dash */
    enum flag_type type;
    void *target;
    const char *what; /* for --help; NULL: not shown */
};

struct flag_set {
    const char *program, *synopsis, *what, *exit_codes; /* for --help */
    const struct flag *flags;                           /* ends with a NULL name */
};

/* The index of the first argument that is no flag (argc if there is none; behind "--" if that stands there). -1: --help
 * was printed; -EINVAL: what is wrong was said on stderr, with the usage. */
int flags_parse(const struct flag_set *set, int argc, char **argv);
