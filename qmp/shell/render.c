/* SPDX-License-Identifier: Apache-2.0 */
#include <fnmatch.h>
#include <string.h>

#include "base/strbuf.h"
#include "qmp/shell/shell.h"

#define MAX_COLUMNS 16U
#define MAX_CELL    60U

const char *render_bytes(char *buffer, size_t size, uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    size_t unit = 0;

    while (value >= 1024 && unit + 1 < ELEMENTSOF(units)) {
        value /= 1024;
        unit++;
    }
    snprintf(buffer, size, unit == 0 || value == (double)(uint64_t)value ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return buffer;
}

/* Length of the control character at the text, 0 if there is none. C1 ones are two bytes of UTF-8, and a terminal may
 * take them for an escape sequence too. */
static size_t control_length(const char *text)
{
    unsigned char c = (unsigned char)text[0], d = c ? (unsigned char)text[1] : 0;

    if ((c < 0x20 && c) || c == 0x7f)
        return 1;
    return c == 0xc2 && d >= 0x80 && d < 0xa0 ? 2 : 0;
}

static void add_safe(struct strbuf *b, const char *text)
{
    while (*text) {
        size_t n = control_length(text);

        if (n > 0)
            strbuf_printf(b, "\\x%02x", (unsigned char)text[n - 1]);
        else
            strbuf_add(b, text, 1);
        text += n ? n : 1;
    }
}

void render_text(FILE *out, const char *text)
{
    struct strbuf b = {0};

    add_safe(&b, text);
    fputs(strbuf_text(&b), out);
    strbuf_done(&b);
}

/* One line for a cell: strings bare, the rest as JSON. */
static char *cell(const json_t *value)
{
    struct strbuf b = {0};

    if (!value || json_is_null(value))
        return strdup("-");
    if (!json_is_string(value) || qmp_json_big_number(value))
        return qmp_json_dump(value, 0);
    add_safe(&b, json_string_value(value));
    return strbuf_steal(&b);
}

/* Characters, not bytes: continuation bytes of UTF-8 take no room. */
static size_t width(const char *text)
{
    size_t n = 0;

    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static void pad(FILE *out, const char *text, size_t columns)
{
    size_t n = width(text);

    fputs(text, out);
    for (; n < columns; n++)
        fputc(' ', out);
}

static bool is_scalar(const json_t *value)
{
    return !json_is_object(value) && !json_is_array(value);
}

/* Sizes are shown as people say them, with the exact number behind where there is room. */
static char *size_cell(const json_t *value, bool exact)
{
    char text[32];
    uint64_t bytes;
    char *both;

    if (!qmp_json_get_uint64(value, &bytes))
        return cell(value);
    render_bytes(text, sizeof(text), bytes);
    if (!exact || bytes < 1024)
        return strdup(text);
    return asprintf(&both, "%s (%llu)", text, (unsigned long long)bytes) < 0 ? NULL : both;
}

static bool is_one_of(const char *patterns, const char *name)
{
    while (*patterns) {
        size_t n = strcspn(patterns, " ");
        char one[32];

        snprintf(one, sizeof(one), "%.*s", (int)n, patterns);
        if (fnmatch(one, name, 0) == 0)
            return true;
        patterns += n + strspn(patterns + n, " ");
    }
    return false;
}

/* sizes: patterns of the members that are numbers of bytes. */
static void render_pairs(FILE *out, const json_t *object, const char *sizes)
{
    size_t longest = 0;
    const char *key;
    json_t *value;

    json_object_foreach ((json_t *)object, key, value)
        longest = MAX(longest, width(key));
    json_object_foreach ((json_t *)object, key, value) {
        char *text = is_one_of(sizes, key) ? size_cell(value, true)
                     : is_scalar(value)    ? cell(value)
                                           : qmp_json_dump(value, 0);

        pad(out, key, longest + 2);
        fprintf(out, "%s\n", text ? text : "");
        free(text);
    }
}

struct column {
    char name[32], title[32];
    bool size; /* of bytes */
    size_t width;
};

/* From "name:title name:title:size". */
static size_t parse_columns(const char *text, struct column *columns)
{
    size_t n = 0;

    while (text && *text && n < MAX_COLUMNS) {
        size_t length = strcspn(text, " "), name = strcspn(text, ": ");

        snprintf(columns[n].name, sizeof(columns[n].name), "%.*s", (int)name, text);
        if (name < length) {
            size_t title = strcspn(text + name + 1, ": ");

            snprintf(columns[n].title, sizeof(columns[n].title), "%.*s", (int)title, text + name + 1);
            columns[n].size = text[name + 1 + title] == ':';
        } else {
            snprintf(columns[n].title, sizeof(columns[n].title), "%.*s", (int)name, text);
        }
        n++;
        text += length + strspn(text + length, " ");
    }
    return n;
}

/* The members of the rows, in order of appearance; 0 when the rows do not fit a table. */
static size_t find_columns(const json_t *rows, struct column *columns)
{
    size_t n = 0, i;
    json_t *row;

    json_array_foreach ((json_t *)rows, i, row) {
        const char *key;
        json_t *value;

        if (!json_is_object(row))
            return 0;
        json_object_foreach (row, key, value) {
            size_t c = 0;

            while (c < n && !streq(columns[c].name, key))
                c++;
            if (!is_scalar(value) || (c == n && n == MAX_COLUMNS) || strlen(key) >= sizeof(columns[n].name))
                return 0;
            if (c == n) {
                snprintf(columns[n].name, sizeof(columns[n].name), "%s", key);
                snprintf(columns[n].title, sizeof(columns[n].title), "%s", key);
                n++;
            }
        }
    }
    return n;
}

static char *column_cell(const json_t *row, const struct column *column)
{
    const json_t *value = json_object_get(row, column->name);

    return column->size ? size_cell(value, false) : cell(value);
}

static void render_table(FILE *out, const json_t *rows, struct column *columns, size_t n)
{
    json_t *row;
    size_t i;

    for (size_t c = 0; c < n; c++)
        columns[c].width = width(columns[c].title);
    json_array_foreach ((json_t *)rows, i, row) {
        for (size_t c = 0; c < n; c++) {
            char *text = column_cell(row, &columns[c]);

            columns[c].width = MAX(columns[c].width, text ? width(text) : 0);
            free(text);
        }
    }
    for (size_t c = 0; c < n; c++)
        pad(out, columns[c].title, c + 1 < n ? columns[c].width + 2 : 0);
    fputs("\n", out);
    json_array_foreach ((json_t *)rows, i, row) {
        for (size_t c = 0; c < n; c++) {
            char *text = column_cell(row, &columns[c]);

            pad(out, text ? text : "", c + 1 < n ? columns[c].width + 2 : 0);
            free(text);
        }
        fputs("\n", out);
    }
}

/* A list of texts, one a line: a command line, say. */
static bool render_lines(FILE *out, const json_t *list)
{
    json_t *item;
    size_t i;

    json_array_foreach ((json_t *)list, i, item)
        if (!json_is_string(item))
            return false;
    json_array_foreach ((json_t *)list, i, item) {
        char *text = cell(item);

        fprintf(out, "%s\n", text ? text : "");
        free(text);
    }
    return true;
}

/* ---- trees ---- */

/* How many of the list's numbers, from `first` on, go up or down by one. */
static size_t run_length(const json_t *list, size_t first)
{
    json_int_t start = json_integer_value(json_array_get(list, first)), step = 0;
    size_t n = 1;

    for (; first + n < json_array_size(list); n++) {
        const json_t *next = json_array_get(list, first + n);
        json_int_t difference = json_integer_value(next) - start;

        if (n == 1)
            step = difference;
        if (!json_is_integer(next) || (step != 1 && step != -1) || difference != step * (json_int_t)n)
            break;
    }
    return n;
}

/* Values on one line; 4095, 4094, 4093… as 4095…0. */
static void render_flat(FILE *out, const json_t *list)
{
    size_t n = json_array_size(list), i = 0;

    fputs("[", out);
    while (i < n) {
        size_t run = json_is_integer(json_array_get(list, i)) ? run_length(list, i) : 1;
        char *first = qmp_json_dump(json_array_get(list, i), 0);

        fprintf(out, "%s%s", i > 0 ? ", " : "", first ? first : "");
        free(first);
        if (run > 3) {
            fprintf(out, "…%lld", (long long)json_integer_value(json_array_get(list, i + run - 1)));
            i += run;
        } else {
            i++;
        }
    }
    fputs("]", out);
}

static bool is_flat(const json_t *list)
{
    json_t *item;
    size_t i;

    json_array_foreach ((json_t *)list, i, item)
        if (!is_scalar(item))
            return false;
    return true;
}

/* Nearly JSON, for people: lists of plain values take one line. Programs use --json. */
static void render_tree(FILE *out, const json_t *value, int indent)
{
    const char *key, *separator = "";
    json_t *member;
    char *text;
    size_t i;

    if (json_is_array(value) && is_flat(value)) {
        render_flat(out, value);
    } else if (json_is_array(value)) {
        fputs("[", out);
        json_array_foreach ((json_t *)value, i, member) {
            fprintf(out, "%s\n%*s", separator, indent + 2, "");
            render_tree(out, member, indent + 2);
            separator = ",";
        }
        fprintf(out, "\n%*s]", indent, "");
    } else if (json_is_object(value) && json_object_size(value) > 0) {
        fputs("{", out);
        json_object_foreach ((json_t *)value, key, member) {
            json_t *name = json_string(key);

            text = qmp_json_dump(name, 0);
            fprintf(out, "%s\n%*s%s: ", separator, indent + 2, "", text ? text : "");
            free(text);
            json_decref(name);
            render_tree(out, member, indent + 2);
            separator = ",";
        }
        fprintf(out, "\n%*s}", indent, "");
    } else {
        text = qmp_json_dump(value, 0);
        fputs(text ? text : "", out);
        free(text);
    }
}

/* HMP's answers: text with CRLF. */
static void render_lines_of(FILE *out, const char *text)
{
    char last = '\n';

    for (; *text; text++) {
        size_t n = control_length(text);

        if (*text == '\r' && text[1] == '\n')
            continue;
        last = *text;
        if (n == 0 || *text == '\n' || *text == '\t')
            fputc(*text, out);
        else
            fprintf(out, "\\x%02x", (unsigned char)text[n - 1]);
        text += n > 1;
    }
    if (last != '\n')
        fputc('\n', out);
}

void render(FILE *out, const json_t *value, const char *columns_text)
{
    struct column columns[MAX_COLUMNS] = {0};
    size_t n = 0;

    if (json_is_string(value) && !qmp_json_big_number(value)) {
        render_lines_of(out, json_string_value(value));
        return;
    }
    if (json_is_array(value) && json_array_size(value) > 0) {
        if (render_lines(out, value))
            return;
        n = columns_text ? parse_columns(columns_text, columns) : find_columns(value, columns);
        if (n > 0) {
            render_table(out, value, columns, n);
            return;
        }
    } else if (json_is_array(value)) {
        fputs("(none)\n", out);
        return;
    } else if (json_is_object(value) && columns_text && (!*columns_text || *columns_text == '=')) {
        render_pairs(out, value, *columns_text ? columns_text + 1 : "");
        return;
    } else if (json_is_object(value) && json_object_size(value) == 0) {
        fputs("ok\n", out);
        return;
    }
    render_tree(out, value, 0);
    fputs("\n", out);
}
