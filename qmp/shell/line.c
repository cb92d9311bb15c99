/* SPDX-License-Identifier: Apache-2.0 */
#include "qmp/shell/line.h"

#include <ctype.h>

#include "base/strbuf.h"
#include "base/strv.h"
#include "base/util.h"

/* Quotes and brackets as they stand behind a piece of text. */
struct nesting {
    char quote;
    unsigned depth;
    bool escaped;
};

static void nest(struct nesting *n, char c)
{
    if (n->quote) {
        if (n->escaped)
            n->escaped = false;
        else if (c == '\\')
            n->escaped = true;
        else if (c == n->quote)
            n->quote = '\0';
    } else if (c == '"' || c == '\'') {
        n->quote = c;
    } else if (c == '{' || c == '[') {
        n->depth++;
    } else if ((c == '}' || c == ']') && n->depth > 0) {
        n->depth--;
    }
}

bool line_is_open(const char *line)
{
    struct nesting n = {0};

    for (; *line; line++)
        nest(&n, *line);
    return n.quote || n.depth > 0;
}

int line_split(const char *line, char ***ret_words, struct error **ret_error)
{
    _cleanup_(strv_freep) char **words = NULL;
    _cleanup_(strbuf_done) struct strbuf word = {0};
    struct nesting n = {0};

    for (;; line++) {
        if (*line && !(isspace((unsigned char)*line) && !n.quote && n.depth == 0)) {
            nest(&n, *line);
            strbuf_add(&word, line, 1);
            continue;
        }
        if (word.length > 0 && strv_append(&words, strbuf_text(&word)) < 0)
            return error_oom(ret_error);
        strbuf_clear(&word);
        if (!*line)
            break;
    }
    if (n.quote || n.depth > 0)
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "a %s is not closed", n.quote ? "quote" : "bracket");
    *ret_words = TAKE_PTR(words);
    return 0;
}

/* ---- literals
 * -------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *python, *json;
} constants[] = {{"True", "true"}, {"False", "false"}, {"None", "null"}};

/* A string in single quotes becomes one in double quotes. Returns what is behind it. */
static const char *convert_string(struct strbuf *out, const char *p)
{
    char quote = *p++;

    strbuf_add(out, "\"", 1);
    for (; *p && *p != quote; p++) {
        if (*p == '\\' && p[1] == '\'') {
            strbuf_add(out, "'", 1);
            p++;
        } else if (*p == '\\' && p[1]) {
            strbuf_add(out, p++, 2);
        } else if (*p == '"') {
            strbuf_add_string(out, "\\\"");
        } else {
            strbuf_add(out, p, 1);
        }
    }
    strbuf_add(out, "\"", 1);
    return *p ? p + 1 : p;
}

int line_parse_literal(const char *text, json_t **ret, struct error **ret_error)
{
    _cleanup_(strbuf_done) struct strbuf out = {0};
    const char *p = text;

    while (*p) {
        bool constant = false;

        if (*p == '"' || *p == '\'') {
            p = convert_string(&out, p);
            continue;
        }
        for (size_t i = 0; i < ELEMENTSOF(constants) && !constant; i++) {
            size_t n = strlen(constants[i].python);

            if (strncmp(p, constants[i].python, n) == 0 && !isalnum((unsigned char)p[n])) {
                strbuf_add_string(&out, constants[i].json);
                p += n;
                constant = true;
            }
        }
        if (!constant) /* QEMU's own manual has {'key'={…}} */
            strbuf_add(&out, *p == '=' ? ":" : p, 1), p++;
    }
    if (out.failed)
        return error_oom(ret_error);
    return qmp_json_parse(strbuf_text(&out), out.length, ret, ret_error);
}

int line_parse_raw(const char *line, char **ret_command, json_t **ret_arguments, struct error **ret_error)
{
    json_t *json = NULL, *arguments;
    const char *name;
    int r = line_parse_literal(line, &json, ret_error);

    if (r < 0)
        return r;
    name = json_string_value(json_object_get(json, "execute"));
    arguments = json_object_get(json, "arguments");
    if (!name || (arguments && !json_is_object(arguments))) {
        json_decref(json);
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL,
                         "a raw command is {\"execute\": \"NAME\", \"arguments\": {…}}");
    }
    *ret_command = strdup(name);
    *ret_arguments = arguments ? json_incref(arguments) : json_object();
    json_decref(json);
    return *ret_command ? 0 : error_oom(ret_error);
}

/* ---- values
 * ---------------------------------------------------------------------------------------------------------- */

/* 4k, 1G, 0x10, -3; false when it is no whole number. */
static bool parse_integer(const char *text, json_t **ret)
{
    static const char suffixes[] = "kmgtpe";
    bool negative = *text == '-';
    unsigned long long value;
    const char *suffix;
    char *end;

    if (!isdigit((unsigned char)text[negative]))
        return false;
    errno = 0;
    value = strtoull(text + negative, &end, text[negative] == '0' && (text[negative + 1] | 32) == 'x' ? 16 : 10);
    if (errno != 0)
        return false;
    if (*end && (suffix = strchr(suffixes, *end | 32))) {
        unsigned shift = 10 * (unsigned)(suffix - suffixes + 1);

        if (value > UINT64_MAX >> shift)
            return false;
        value <<= shift;
        end++;
        if (*end == 'i')
            end++;
        if (*end == 'B' || *end == 'b')
            end++;
    }
    if (*end || (negative && value > (unsigned long long)INT64_MAX + 1))
        return false;
    *ret = negative ? json_integer((json_int_t)(0 - value)) : qmp_json_uint64(value);
    return true;
}

static bool parse_boolean(const char *text, json_t **ret)
{
    static const char *const names[] = {"true", "on", "yes", "True", "false", "off", "no", "False"};

    for (size_t i = 0; i < ELEMENTSOF(names); i++) {
        if (streq(text, names[i])) {
            *ret = json_boolean(i < 4);
            return true;
        }
    }
    return false;
}

static bool is_quoted(const char *text)
{
    size_t n = strlen(text);

    return n >= 2 && (*text == '"' || *text == '\'') && text[n - 1] == *text;
}

static json_t *plain_text(const char *text)
{
    json_t *json = NULL;

    if (is_quoted(text) && line_parse_literal(text, &json, NULL) >= 0)
        return json;
    return json_string(text);
}

/* type: as qmp_schema_type() names it; NULL: not known. */
static int parse_value(const char *key, const char *text, const char *type, json_t **ret, struct error **ret_error)
{
    bool structured = *text == '{' || *text == '[';

    if (structured)
        return error_wrap(ret_error, line_parse_literal(text, ret, ret_error), "%s", key);
    if (type && (streq(type, "string") || streq(type, "enum"))) {
        *ret = plain_text(text);
        return *ret ? 0 : error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "%s: not UTF-8", key);
    }
    if (type && streq(type, "int")) {
        if (!parse_integer(text, ret))
            return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL,
                             "%s: \"%s\" is no whole number (4096, 4k, 1G, 0x10)", key, text);
        return 0;
    }
    if (type && streq(type, "boolean")) {
        if (!parse_boolean(text, ret))
            return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "%s: \"%s\" is neither true nor false", key, text);
        return 0;
    }
    if (is_quoted(text) || line_parse_literal(text, ret, NULL) < 0)
        *ret = plain_text(text);
    return *ret ? 0 : error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "%s: not UTF-8", key);
}

/* Puts the value at a.b.c, making the objects on the way. */
static int put(json_t *object, const char *key, json_t *value, struct error **ret_error)
{
    const char *dot;

    while ((dot = strchr(key, '.'))) {
        _cleanup_free_ char *name = strndup(key, (size_t)(dot - key));
        json_t *next = name ? json_object_get(object, name) : NULL;

        if (!next) {
            next = json_object();
            if (!name || json_object_set_new(object, name, next) < 0) {
                json_decref(value);
                return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "%s: not UTF-8", key);
            }
        }
        if (!json_is_object(next)) {
            json_decref(value);
            return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "%s: is given a value and members", name);
        }
        object = next;
        key = dot + 1;
    }
    if (json_object_get(object, key)) {
        json_decref(value);
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EEXIST, "%s: given twice", key);
    }
    if (!*key) {
        json_decref(value);
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "an argument needs a name in front of '='");
    }
    if (json_object_set_new(object, key, value) < 0)
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "%s: not UTF-8", key);
    return 0;
}

static int parse_argument(const char *word, const char *command, const struct qmp_schema *schema, json_t *arguments,
                          struct error **ret_error)
{
    const char *equals = strchr(word, '='), *type;
    _cleanup_free_ char *key = equals ? strndup(word, (size_t)(equals - word)) : NULL;
    json_t *value = NULL;
    int r;

    if (*word == '{') { /* object-add {"qom-type": …} */
        r = line_parse_literal(word, &value, ret_error);
        if (r >= 0 && json_object_update(arguments, value) < 0)
            r = error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "%s: no object", word);
        json_decref(value);
        return r;
    }
    if (!key)
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "\"%s\" is no KEY=VALUE", word);
    type = schema ? qmp_schema_type(schema, command, key, arguments) : NULL;
    r = parse_value(key, equals + 1, type, &value, ret_error);
    return r < 0 ? r : put(arguments, key, value, ret_error);
}

int line_parse(const char *line, const struct qmp_schema *schema, char **ret_command, json_t **ret_arguments,
               struct error **ret_error)
{
    _cleanup_(strv_freep) char **words = NULL;
    json_t *arguments;
    int r;

    while (isspace((unsigned char)*line))
        line++;
    if (*line == '{')
        return line_parse_raw(line, ret_command, ret_arguments, ret_error);
    r = line_split(line, &words, ret_error);
    if (r < 0)
        return r;
    if (!words)
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "no command");
    arguments = json_object();
    for (char **word = words + 1; *word; word++) {
        r = parse_argument(*word, words[0], schema, arguments, ret_error);
        if (r < 0) {
            json_decref(arguments);
            return error_wrap(ret_error, r, "%s", words[0]);
        }
    }
    *ret_command = strdup(words[0]);
    *ret_arguments = arguments;
    return *ret_command ? 0 : error_oom(ret_error);
}
