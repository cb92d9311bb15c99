/* SPDX-License-Identifier: Apache-2.0 */
#include "vmlet/options.h"

#include <ctype.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/duration.h"
#include "base/limits.h"
#include "base/nearest.h"
#include "base/strv.h"

#define MAX_OPTIONS 48U
#define HELP_VALUE  1000 /* behind the indexes of the table */
#define FIRST_VALUE 256  /* getopt's value for the table's first option: above every letter */

int usage_error(const struct verb *verb, const char *format, ...)
{
    va_list ap;

    fprintf(stderr, "vmlet %s: ", verb->name);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fprintf(stderr, "\nTry 'vmlet %s --help'.\n", verb->name);
    return EXIT_BAD_INPUT;
}

int parse_number(const char *text, uint64_t *ret)
{
    unsigned long long value;
    char *end;

    if (!isdigit((unsigned char)*text))
        return -EINVAL;
    errno = 0;
    value = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0')
        return errno == ERANGE ? -ERANGE : -EINVAL;
    *ret = value;
    return 0;
}

/* ---- help ------------------------------------------------------------------------------------------------------ */

static int option_label(const struct option_spec *o, char *text, size_t size)
{
    char letter[8] = "    ";

    if (o->letter)
        snprintf(letter, sizeof(letter), "-%c, ", o->letter);
    return snprintf(text, size, "%s--%s%s%s", letter, o->name, o->argument ? " " : "", o->argument ? o->argument : "");
}

void options_print_help(const struct verb *verb)
{
    static const struct option_spec none[] = {{0}};
    const struct option_spec *options = verb->options ? verb->options : none;
    int width = (int)strlen("    --help");
    char label[128];

    for (const struct option_spec *o = options; o->name; o++)
        width = MAX(width, option_label(o, label, sizeof(label)));
    printf("Usage: vmlet %s%s%s%s\n\n%c%s.\n\nOptions:\n", verb->name, verb->options ? " [OPTION]..." : "",
           verb->arguments ? " " : "", verb->arguments ? verb->arguments : "", toupper((unsigned char)verb->summary[0]),
           verb->summary + 1);
    for (const struct option_spec *o = options; o->name; o++) {
        option_label(o, label, sizeof(label));
        printf("  %-*s  %s\n", width, label, o->what);
    }
    printf("  %-*s  %s\n", width, "    --help", "print this and leave");
    if (verb->details)
        printf("\n%s\n", verb->details);
}

/* ---- parsing --------------------------------------------------------------------------------------------------- */

static size_t count_options(const struct verb *verb)
{
    size_t n = 0;

    while (verb->options && verb->options[n].name)
        n++;
    return n;
}

static int bad_choice(const struct verb *verb, const struct option_spec *o, const char *value)
{
    char list[256] = "";
    size_t used = 0;

    for (size_t i = 0; o->choices[i] && used < sizeof(list); i++)
        used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", i ? ", " : "", o->choices[i]);
    return usage_error(verb, "--%s %s: not known (%s)", o->name, value, list);
}

static int set_value(const struct verb *verb, const struct option_spec *o, char *value, void *target)
{
    void *at = (char *)target + o->offset;

    switch (o->kind) {
    case OPTION_FLAG:
        *(bool *)at = true;
        return -1;
    case OPTION_TEXT:
        *(const char **)at = value;
        return -1;
    case OPTION_CHOICE:
        for (size_t i = 0; o->choices[i]; i++)
            if (streq(o->choices[i], value)) {
                *(const char **)at = value;
                return -1;
            }
        return bad_choice(verb, o, value);
    case OPTION_LIST:
        if (strv_append((char ***)at, value) < 0) {
            fprintf(stderr, "vmlet: out of memory\n");
            return EXIT_FAILED;
        }
        return -1;
    case OPTION_DURATION:
        if (duration_parse(value, true, at) < 0)
            return usage_error(verb, "--%s %s: not a duration (30s, 2m, 500ms)", o->name, value);
        return -1;
    case OPTION_NUMBER:
        if (parse_number(value, at) < 0)
            return usage_error(verb, "--%s %s: not a whole number from 0 up", o->name, value);
        return -1;
    }
    return -1;
}

static int unknown_option(const struct verb *verb, const char *given)
{
    const char *names[MAX_OPTIONS + 2], *nearest;
    char name[64];
    size_t n = count_options(verb);

    if (!startswith(given, "--"))
        return usage_error(verb, "there is no option %.2s", given);
    snprintf(name, sizeof(name), "%.*s", (int)MIN(strcspn(given + 2, "="), sizeof(name) - 1), given + 2);
    for (size_t i = 0; i < n; i++)
        names[i] = verb->options[i].name;
    names[n] = "help";
    names[n + 1] = NULL;
    nearest = nearest_name(name, names);
    return usage_error(verb, "there is no option --%s%s%s%s", name, nearest ? " (did you mean --" : "",
                       nearest ? nearest : "", nearest ? "?)" : "");
}

static int check_arguments(const struct verb *verb, char **arguments, size_t n)
{
    if (n < verb->min_arguments)
        return usage_error(verb, "%s is missing", verb->arguments);
    if (n > verb->max_arguments)
        return usage_error(verb, "too many arguments: %s", arguments[verb->max_arguments]);
    return -1;
}

int options_parse(const struct verb *verb, int argc, char **argv, void *target, char ***ret_arguments,
                  size_t *ret_count)
{
    struct option table[MAX_OPTIONS + 2] = {{0}};
    char letters[2 * MAX_OPTIONS + 2] = ":";
    size_t n = count_options(verb), used = 1;
    int c, r;

    if (n > MAX_OPTIONS)
        abort(); /* a table of ours */
    for (size_t i = 0; i < n; i++) {
        const struct option_spec *o = &verb->options[i];

        table[i] = (struct option){o->name, o->kind == OPTION_FLAG ? no_argument : required_argument, NULL,
                                   FIRST_VALUE + (int)i};
        if (o->letter) {
            letters[used++] = o->letter;
            if (o->kind != OPTION_FLAG)
                letters[used++] = ':';
        }
    }
    table[n] = (struct option){"help", no_argument, NULL, HELP_VALUE};
    opterr = 0;
    optind = 0; /* glibc: start over, also after another verb's parse */
    for (;;) {
        int at = optind ? optind : 1;

        c = getopt_long(argc, argv, letters, table, NULL);
        if (c == -1)
            break;
        if (c == HELP_VALUE) {
            options_print_help(verb);
            return EXIT_OK;
        }
        if (c == ':')
            return usage_error(verb, "%s needs a value", argv[optind - 1]);
        if (c == '?') {
            if (optopt >= FIRST_VALUE) /* --flag=value */
                return usage_error(verb, "%s takes no value", argv[optind - 1]);
            return unknown_option(verb, optopt ? argv[at] : argv[optind - 1]);
        }
        for (size_t i = 0; i < n; i++)
            if (c == FIRST_VALUE + (int)i || (verb->options[i].letter && c == verb->options[i].letter)) {
                r = set_value(verb, &verb->options[i], optarg, target);
                if (r >= 0)
                    return r;
            }
    }
    r = check_arguments(verb, argv + optind, (size_t)(argc - optind));
    if (r >= 0)
        return r;
    if (ret_arguments)
        *ret_arguments = argv + optind;
    if (ret_count)
        *ret_count = (size_t)(argc - optind);
    return -1;
}
