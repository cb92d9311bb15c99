/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/client/program.h"

#include <getopt.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"

int program_parse(const struct program_flags *flags, int argc, char **argv)
{
    _cleanup_free_ struct option *list = calloc(flags->count + 1, sizeof(*list));
    int c, index, r;

    if (!list)
        return EXIT_FAILED;
    for (size_t i = 0; i < flags->count; i++)
        list[i] =
            (struct option){flags->flags[i].name, flags->flags[i].argument ? required_argument : no_argument, NULL, 1};
    while ((c = getopt_long(argc, argv, "", list, &index)) != -1) {
        if (c != 1)
            return EXIT_BAD_INPUT; /* getopt has said why */
        r = flags->take((size_t)index, optarg, flags->userdata);
        if (r >= 0)
            return r;
    }
    if (optind < argc) {
        fprintf(stderr, "%s: %s: not expected (see --help)\n", flags->program, argv[optind]);
        return EXIT_BAD_INPUT;
    }
    return -1;
}

void program_print_flags(const struct program_flags *flags)
{
    for (size_t i = 0; i < flags->count; i++) {
        const struct program_flag *f = &flags->flags[i];
        char left[64];

        snprintf(left, sizeof(left), "--%s%s%s", f->name, f->argument ? " " : "", f->argument ? f->argument : "");
        printf("  %-*s %s\n", flags->width, left, f->what);
    }
}

int program_write_health(struct strbuf *body, void *userdata)
{
    strbuf_add_string(body, "ok\n");
    return 200;
}

void program_tune_heap(void)
{
    /* given once, glibc no longer raises these by itself with each large piece that is freed (mallopt(3)) */
    mallopt(M_MMAP_THRESHOLD, 128 * 1024);
    mallopt(M_TRIM_THRESHOLD, 128 * 1024);
    mallopt(M_ARENA_MAX, 1);
}
