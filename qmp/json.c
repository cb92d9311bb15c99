/* SPDX-License-Identifier: Apache-2.0 */
/*
 * jansson holds integers as int64_t and fails the whole text when one does not fit. QEMU does send bigger ones: default
 * values and bit masks of type uint64 in device-list-properties, query-qmp-schema or qom-get. Here such a number
 * becomes a JSON string of its digits followed by a NUL byte and 'n'. No string of a peer can look like that, because a
 * text with \u0000 is refused (QEMU never writes one: its strings are C strings). The writer of this file puts the
 * digits out again as they came.
 */
#include "qmp/json.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>

#include <vmlet/qmp.h>

#include "base/limits.h"

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

const char *qmp_json_big_number(const json_t *json)
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

json_t *qmp_json_uint64(uint64_t value)
{
    char digits[24];
    int n;

    if (value <= INT64_MAX)
        return json_integer((json_int_t)value);
    n = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)value);
    return big_number_new(digits, (size_t)n);
}

bool qmp_json_get_uint64(const json_t *json, uint64_t *ret)
{
    const char *text = qmp_json_big_number(json);
    char *end;
    unsigned long long value;

    if (json_is_integer(json) && json_integer_value(json) >= 0) {
        *ret = (uint64_t)json_integer_value(json);
        return true;
    }
    if (!text || *text == '-')
        return false;
    errno = 0;
    value = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0')
        return false;
    *ret = value;
    return true;
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
        return error_set(ret_error, ERROR_BAD_DATA, EBADMSG, "no valid JSON: %s at byte %d", e.text, e.position);
    }
    *ret = json;
    return 0;
}

int qmp_json_parse_frame(const char *text, size_t length, bool long_number, json_t **ret, struct error **ret_error)
{
    _cleanup_(strbuf_done) struct strbuf tagged = {0};
    int r;

    if (!long_number)
        return parse(text, length, 0, ret, ret_error);
    r = tag_big_numbers(text, length, &tagged);
    if (r == -EBADMSG)
        return error_set(ret_error, ERROR_BAD_DATA, EBADMSG, "no valid JSON: \\u0000 is not allowed");
    if (r < 0)
        return error_oom(ret_error);
    return parse(strbuf_text(&tagged), tagged.length, JSON_ALLOW_NUL, ret, ret_error);
}

int qmp_json_parse(const char *text, size_t length, json_t **ret, struct error **ret_error)
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
            if (++depth > LIMIT_QMP_NESTING)
                return error_set(ret_error, ERROR_LIMIT, ELOOP, "JSON is nested deeper than %u levels",
                                 LIMIT_QMP_NESTING);
        } else if (depth > 0 && (c == '}' || c == ']')) {
            depth--;
        }
    }
    return qmp_json_parse_frame(text, length, true, ret, ret_error);
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

static void write_string(struct strbuf *b, const char *text, size_t length)
{
    size_t plain = 0;

    strbuf_add(b, "\"", 1);
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7f)
            continue;
        strbuf_add(b, text + plain, i - plain);
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

static void write_break(struct strbuf *b, unsigned indent, unsigned level)
{
    if (indent == 0)
        return;
    strbuf_add(b, "\n", 1);
    for (unsigned i = 0; i < indent * level; i++)
        strbuf_add(b, " ", 1);
}

static void write_value(struct strbuf *b, const json_t *json, unsigned indent, unsigned level);

static void write_object(struct strbuf *b, const json_t *json, unsigned indent, unsigned level)
{
    const char *key, *separator = "";
    json_t *value;

    strbuf_add(b, "{", 1);
    json_object_foreach ((json_t *)json, key, value) {
        strbuf_add_string(b, separator);
        separator = indent > 0 ? "," : ", ";
        write_break(b, indent, level + 1);
        write_string(b, key, strlen(key));
        strbuf_add(b, ": ", 2);
        write_value(b, value, indent, level + 1);
    }
    if (*separator)
        write_break(b, indent, level);
    strbuf_add(b, "}", 1);
}

static void write_array(struct strbuf *b, const json_t *json, unsigned indent, unsigned level)
{
    size_t n = json_array_size(json);

    strbuf_add(b, "[", 1);
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            strbuf_add_string(b, indent > 0 ? "," : ", ");
        write_break(b, indent, level + 1);
        write_value(b, json_array_get(json, i), indent, level + 1);
    }
    if (n > 0)
        write_break(b, indent, level);
    strbuf_add(b, "]", 1);
}

static void write_value(struct strbuf *b, const json_t *json, unsigned indent, unsigned level)
{
    const char *big = qmp_json_big_number(json);

    if (big) {
        strbuf_add_string(b, big);
        return;
    }
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        write_object(b, json, indent, level);
        break;
    case JSON_ARRAY:
        write_array(b, json, indent, level);
        break;
    case JSON_STRING:
        write_string(b, json_string_value(json), json_string_length(json));
        break;
    case JSON_INTEGER:
        strbuf_printf(b, "%" JSON_INTEGER_FORMAT, json_integer_value(json));
        break;
    case JSON_REAL:
        write_real(b, json_real_value(json));
        break;
    case JSON_TRUE:
        strbuf_add_string(b, "true");
        break;
    case JSON_FALSE:
        strbuf_add_string(b, "false");
        break;
    case JSON_NULL:
        strbuf_add_string(b, "null");
        break;
    }
}

void qmp_json_write(struct strbuf *buffer, const json_t *json, unsigned indent)
{
    write_value(buffer, json, indent, 0);
}

char *qmp_json_dump(const json_t *json, unsigned indent)
{
    struct strbuf b = {0};

    qmp_json_write(&b, json, indent);
    return strbuf_steal(&b);
}
