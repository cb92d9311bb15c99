/* SPDX-License-Identifier: Apache-2.0 */
#include "json/text.h"

#include <ctype.h>
#include <stdio.h>

#define TAG        "\0n"
#define TAG_LENGTH 2U

/* JSON's grammar for an integer: an optional '-', no leading zero; and short enough to be tagged. */
static bool is_json_integer(const char *text, size_t length)
{
    size_t i = length > 0 && text[0] == '-' ? 1 : 0;

    if (i == length || length > 100 || (text[i] == '0' && i + 1 < length))
        return false;
    for (; i < length; i++)
        if (!isdigit((unsigned char)text[i]))
            return false;
    return true;
}

const char *json_text_big_number(const json_t *json)
{
    const char *text;
    size_t length;

    if (!json_is_string(json))
        return NULL;
    text = json_string_value(json);
    length = json_string_length(json);
    if (length <= TAG_LENGTH || memcmp(text + length - TAG_LENGTH, TAG, TAG_LENGTH) != 0)
        return NULL;
    /* A string that a program made with a NUL in it must not get out without quotes. */
    return is_json_integer(text, length - TAG_LENGTH) ? text : NULL;
}

static json_t *big_number_new(const char *digits, size_t length)
{
    char text[128];

    if (length + TAG_LENGTH > sizeof(text))
        return NULL;
    memcpy(text, digits, length);
    memcpy(text + length, TAG, TAG_LENGTH);
    return json_stringn(text, length + TAG_LENGTH);
}

json_t *json_text_uint64(uint64_t value)
{
    char digits[24];
    int n;

    if (value <= INT64_MAX)
        return json_integer((json_int_t)value);
    n = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)value);
    return big_number_new(digits, (size_t)n);
}

/* Length of the JSON number at `text`, and whether it is an integer that int64_t cannot hold. */
static size_t scan_number(const char *text, const char *end, bool *ret_big)
{
    const char *p = text;
    bool integer = true;
    char digits[24];

    while (p < end && (isdigit((unsigned char)*p) || strchr("+-.eE", *p))) {
        if (*p == '\0')
            break;
        if (*p == '.' || *p == 'e' || *p == 'E')
            integer = false;
        p++;
    }
    *ret_big = false;
    if (integer && p - text >= 19) {
        *ret_big = true;
        if ((size_t)(p - text) < sizeof(digits)) {
            memcpy(digits, text, (size_t)(p - text));
            digits[p - text] = '\0';
            errno = 0;
            (void)strtoll(digits, NULL, 10);
            *ret_big = errno == ERANGE;
        }
    }
    return (size_t)(p - text);
}

/* The string that starts at the quote, copied; -EBADMSG for \u0000, which is ours. Returns bytes taken. */
static ssize_t copy_string(struct strbuf *out, const char *text, const char *end)
{
    const char *p = text + 1;

    while (p < end && *p != '"') {
        if (*p == '\\') {
            if (end - p >= 6 && memcmp(p, "\\u0000", 6) == 0)
                return -EBADMSG;
            p++;
        }
        p++;
    }
    p = p < end ? p + 1 : end;
    strbuf_add(out, text, (size_t)(p - text));
    return p - text;
}

/* Rewrites the text so that each number that is too big becomes a tagged string. */
static int tag_big_numbers(const char *text, size_t length, struct strbuf *out)
{
    const char *p = text, *end = text + length;

    while (p < end) {
        if (*p == '"') {
            ssize_t n = copy_string(out, p, end);

            if (n < 0)
                return (int)n;
            p += n;
        } else if (*p == '-' || isdigit((unsigned char)*p)) {
            bool big;
            size_t n = scan_number(p, end, &big);

            if (big && is_json_integer(p, n)) {
                strbuf_add(out, "\"", 1);
                strbuf_add(out, p, n);
                strbuf_add_string(out, "\\u0000n\"");
            } else {
                strbuf_add(out, p, n);
            }
            p += n;
        } else {
            strbuf_add(out, p, 1);
            p++;
        }
    }
    return out->failed ? -ENOMEM : 0;
}

static int parse(const char *text, size_t length, size_t flags, json_t **ret, struct error **ret_error)
{
    json_error_t e;
    json_t *json = json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | flags, &e);

    if (!json) {
        if (json_error_code(&e) == json_error_out_of_memory)
            return error_oom(ret_error);
        return error_set(ret_error, ERROR_BAD_DATA, EBADMSG, "not valid JSON: %s at byte %d", e.text, e.position);
    }
    *ret = json;
    return 0;
}

/* Anywhere, even in a string: 19 digits in a row. INT64_MAX has so many. */
static bool has_long_number(const char *text, size_t length)
{
    unsigned digits = 0;

    for (size_t i = 0; i < length; i++) {
        digits = text[i] >= '0' && text[i] <= '9' ? digits + 1 : 0;
        if (digits == 19)
            return true;
    }
    return false;
}

int json_text_parse(const char *text, size_t length, bool long_numbers, json_t **ret, struct error **ret_error)
{
    _cleanup_(strbuf_done) struct strbuf tagged = {0};
    int r;

    if (!long_numbers || !has_long_number(text, length))
        return parse(text, length, 0, ret, ret_error);
    r = tag_big_numbers(text, length, &tagged);
    if (r == -EBADMSG)
        return error_set(ret_error, ERROR_BAD_DATA, EBADMSG, "not valid JSON: \\u0000 is not allowed");
    if (r < 0)
        return error_oom(ret_error);
    return parse(strbuf_text(&tagged), tagged.length, JSON_ALLOW_NUL, ret, ret_error);
}

/* Each bracket is looked at once, and strings are skipped. */
bool json_text_nests_within(const char *text, size_t length, unsigned max)
{
    unsigned depth = 0;
    bool quoted = false;

    for (size_t i = 0; i < length; i++) {
        char c = text[i];

        if (quoted) {
            if (c == '\\')
                i++;
            else if (c == '"')
                quoted = false;
        } else if (c == '"') {
            quoted = true;
        } else if (c == '{' || c == '[') {
            if (++depth > max)
                return false;
        } else if (depth > 0 && (c == '}' || c == ']')) {
            depth--;
        }
    }
    return true;
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

/* Control characters are escaped, also DEL and the C1 ones: texts end up on terminals. */
static void write_string(struct strbuf *b, const char *text, size_t length)
{
    size_t plain = 0;

    strbuf_add(b, "\"", 1);
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];

        bool c1 = c == 0xc2 && i + 1 < length && (unsigned char)text[i + 1] < 0xa0;

        if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7f && !c1)
            continue;
        strbuf_add(b, text + plain, i - plain);
        if (c1)
            c = (unsigned char)text[++i];
        plain = i + 1;
        if (c == '"' || c == '\\')
            strbuf_printf(b, "\\%c", c);
        else if (c == '\n')
            strbuf_add(b, "\\n", 2);
        else if (c == '\t')
            strbuf_add(b, "\\t", 2);
        else
            strbuf_printf(b, "\\u%04x", c);
    }
    strbuf_add(b, text + plain, length - plain);
    strbuf_add(b, "\"", 1);
}

/* The shortest digits that give the same number again; with a point, so that it stays a real. */
static void write_real(struct strbuf *b, double value)
{
    char text[40];

    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    strbuf_add_string(b, text);
    if (!strpbrk(text, ".eE"))
        strbuf_add_string(b, ".0");
}

struct writer {
    struct strbuf *buffer;
    unsigned indent;
    size_t limit;
    const char *separator; /* behind an element that another follows */
};

static void write_break(const struct writer *w, unsigned level)
{
    if (w->indent == 0 || w->indent == JSON_TEXT_COMPACT)
        return;
    strbuf_add(w->buffer, "\n", 1);
    for (unsigned i = 0; i < w->indent * level; i++)
        strbuf_add(w->buffer, " ", 1);
}

static void write_value(const struct writer *w, const json_t *json, unsigned level);

static void write_object(const struct writer *w, const json_t *json, unsigned level)
{
    const char *key, *separator = "";
    json_t *value;

    strbuf_add(w->buffer, "{", 1);
    json_object_foreach ((json_t *)json, key, value) {
        strbuf_add_string(w->buffer, separator);
        separator = w->separator;
        write_break(w, level + 1);
        write_string(w->buffer, key, strlen(key));
        strbuf_add(w->buffer, ": ", w->indent == JSON_TEXT_COMPACT ? 1 : 2);
        write_value(w, value, level + 1);
    }
    if (*separator)
        write_break(w, level);
    strbuf_add(w->buffer, "}", 1);
}

static void write_array(const struct writer *w, const json_t *json, unsigned level)
{
    size_t n = json_array_size(json);

    strbuf_add(w->buffer, "[", 1);
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            strbuf_add_string(w->buffer, w->separator);
        write_break(w, level + 1);
        write_value(w, json_array_get(json, i), level + 1);
    }
    if (n > 0)
        write_break(w, level);
    strbuf_add(w->buffer, "]", 1);
}

static void write_value(const struct writer *w, const json_t *json, unsigned level)
{
    const char *big = json_text_big_number(json);

    if (w->buffer->length > w->limit) /* nobody will read it: no need to go on */
        return;
    if (big) {
        strbuf_add_string(w->buffer, big);
        return;
    }
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        write_object(w, json, level);
        break;
    case JSON_ARRAY:
        write_array(w, json, level);
        break;
    case JSON_STRING:
        write_string(w->buffer, json_string_value(json), json_string_length(json));
        break;
    case JSON_INTEGER:
        strbuf_add_integer(w->buffer, json_integer_value(json));
        break;
    case JSON_REAL:
        write_real(w->buffer, json_real_value(json));
        break;
    case JSON_TRUE:
        strbuf_add_string(w->buffer, "true");
        break;
    case JSON_FALSE:
        strbuf_add_string(w->buffer, "false");
        break;
    case JSON_NULL:
        strbuf_add_string(w->buffer, "null");
        break;
    }
}

int json_text_write(struct strbuf *buffer, const json_t *json, unsigned indent, size_t limit)
{
    struct writer w = {.buffer = buffer, .indent = indent, .limit = limit};
    size_t before = buffer->length;

    w.separator = indent == 0 ? ", " : ",";
    write_value(&w, json, 0);
    if (buffer->failed)
        return -ENOMEM;
    if (buffer->length <= limit)
        return 0;
    buffer->length = before;
    buffer->data[before] = '\0';
    return -EMSGSIZE;
}

char *json_text_dump(const json_t *json, unsigned indent)
{
    struct strbuf b = {0};

    if (!json || json_text_write(&b, json, indent, SIZE_MAX) < 0) {
        strbuf_done(&b);
        return NULL;
    }
    return strbuf_steal(&b);
}
