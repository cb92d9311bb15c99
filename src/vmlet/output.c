/* SPDX-License-Identifier: Apache-2.0 */
#include "vmlet/output.h"

#include <unistd.h>

const char *style_on(FILE *stream, enum style style)
{
    static const char *const sequences[] = {
        [STYLE_PLAIN] = "\033[0m", [STYLE_HEADING] = "\033[1m",  [STYLE_GOOD] = "\033[32m",
        [STYLE_BAD] = "\033[31m",  [STYLE_WARNING] = "\033[33m", [STYLE_FAINT] = "\033[2m",
    };
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");

    /* NO_COLOR counts when it is set to anything but the empty text (no-color.org) */
    if ((no_color && *no_color) || !term || streq(term, "dumb") || !isatty(fileno(stream)))
        return "";
    return sequences[style];
}

int finish_output(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return EXIT_OK;
    if (errno != EPIPE)
        fprintf(stderr, "vmlet: cannot write the output: %s\n", strerror(errno));
    return EXIT_FAILED;
}

int print_json(const json_t *value)
{
    size_t flags = JSON_ENCODE_ANY | (isatty(STDOUT_FILENO) ? JSON_INDENT(2) : JSON_COMPACT);

    if (json_dumpf(value, stdout, flags) < 0 && !ferror(stdout)) {
        fprintf(stderr, "vmlet: out of memory\n");
        return EXIT_FAILED;
    }
    fputc('\n', stdout);
    return finish_output();
}

void print_safe(FILE *stream, const char *text)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;

        if (c < 0x20 || c == 0x7f)
            fprintf(stream, "\\x%02x", c);
        else
            fputc(c, stream);
    }
}

static void print_scalar(const json_t *value)
{
    if (json_is_string(value)) {
        print_safe(stdout, json_string_value(value));
    } else if (json_is_boolean(value)) {
        fputs(json_is_true(value) ? "yes" : "no", stdout);
    } else if (json_is_null(value)) {
        fputs("-", stdout);
    } else if (json_is_object(value) || json_is_array(value)) {
        fputs("none", stdout); /* an empty one */
    } else {
        json_dumpf(value, stdout, JSON_ENCODE_ANY);
    }
}

static bool has_members(const json_t *value)
{
    return json_object_size(value) > 0 || json_array_size(value) > 0;
}

void print_tree(const json_t *value, unsigned indent)
{
    const char *key;
    json_t *member;
    size_t i;

    json_object_foreach ((json_t *)value, key, member) {
        printf("%*s", (int)indent, "");
        print_safe(stdout, key);
        fputs(has_members(member) ? ":\n" : ": ", stdout);
        if (has_members(member)) {
            print_tree(member, indent + 2);
        } else {
            print_scalar(member);
            fputc('\n', stdout);
        }
    }
    json_array_foreach (value, i, member) {
        printf("%*s-%s", (int)indent, "", has_members(member) ? "\n" : " ");
        if (has_members(member)) {
            print_tree(member, indent + 2);
        } else {
            print_scalar(member);
            fputc('\n', stdout);
        }
    }
}

int print_error(const struct error *error)
{
    fflush(stdout);
    fprintf(stderr, "%svmlet: ", style_on(stderr, STYLE_BAD));
    for (const char *p = error_message(error); *p; p++)
        /* QEMU's texts have several lines */
        fputc((unsigned char)*p < 0x20 && *p != '\n' && *p != '\t' ? '?' : *p, stderr);
    fprintf(stderr, "%s\n", style_on(stderr, STYLE_PLAIN));
    if (error_remedy(error))
        fprintf(stderr, "       %s\n", error_remedy(error));
    return (int)error_exit_code(error);
}

int print_faults(struct faults *faults, const struct error *error)
{
    _cleanup_free_ char *text = NULL;

    if (faults->count == 0)
        return print_error(error);
    text = faults_format(faults);
    fputs(text ? text : "vmlet: out of memory\n", stderr);
    if (faults->dropped > 0)
        fprintf(stderr, "vmlet: %zu more faults are not shown\n", faults->dropped);
    return (int)error_exit_code(error);
}
