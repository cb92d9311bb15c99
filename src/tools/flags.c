/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/flags.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>

static int wrong(const struct flag_set *set, const char *format, ...) _printf_(2, 3);

static int wrong(const struct flag_set *set, const char *format, ...)
{
    va_list ap;

    fprintf(stderr, "%s: ", set->program);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fprintf(stderr, "\nUsage: %s %s (%s --help says more)\n", set->program, set->synopsis, set->program);
    return -EINVAL;
}

static void print_help(const struct flag_set *set)
{
    static const char *const values[] = {[FLAG_STRING] = " VALUE", [FLAG_BOOL] = "", [FLAG_NUMBER] = " N"};

    printf("Usage: %s %s\n%s\n\n", set->program, set->synopsis, set->what);
    for (const struct flag *f = set->flags; f->name; f++)
        if (f->what)
            printf("  --%s%s\n        %s\n", f->name, f->type == FLAG_IGNORED ? "" : values[f->type], f->what);
    printf("  --help\n\n%s\n", set->exit_codes);
}

static const struct flag *find(const struct flag_set *set, const char *argument, const char **ret_value)
{
    size_t dashes = strspn(argument, "-");

    for (const struct flag *f = set->flags; f->name; f++) {
        const char *rest = startswith(argument + dashes, f->name);

        if (rest && (*rest == '\0' || *rest == '=') && (dashes == 2 || (dashes == 1 && !f->name[1]))) {
            *ret_value = *rest ? rest + 1 : NULL;
            return f;
        }
    }
    return NULL;
}

static int set_flag(const struct flag_set *set, const struct flag *f, const char *value)
{
    char *end;
    long number;

    switch (f->type) {
    case FLAG_IGNORED:
        return 0;
    case FLAG_STRING:
        *(const char **)f->target = value;
        return 0;
    case FLAG_NUMBER:
        errno = 0;
        number = strtol(value, &end, 10);
        if (errno || end == value || *end || number < 0 || number > INT_MAX)
            return wrong(set, "--%s %s: a number from 0 to %d is expected", f->name, value, INT_MAX);
        *(int *)f->target = (int)number;
        return 0;
    default:
        if (value && !streq(value, "true") && !streq(value, "false"))
            return wrong(set, "--%s=%s: true or false is expected", f->name, value);
        *(bool *)f->target = !value || streq(value, "true");
        return 0;
    }
}

int flags_parse(const struct flag_set *set, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *value = NULL;
        const struct flag *f;
        int r;

        if (streq(argv[i], "--"))
            return i + 1;
        if (argv[i][0] != '-')
            return i;
        if (streq(argv[i], "--help") || streq(argv[i], "-h")) {
            print_help(set);
            return -1;
        }
        f = find(set, argv[i], &value);
        if (!f)
            return wrong(set, "unknown flag %s", argv[i]);
        if (f->type != FLAG_BOOL && !value) {
            if (i + 1 >= argc)
                return wrong(set, "--%s needs a value", f->name);
            value = argv[++i];
        }
        r = set_flag(set, f, value);
        if (r < 0)
            return r;
    }
    return argc;
}
