/* SPDX-License-Identifier: Apache-2.0 */
#include "json/scalar.h"

#include <math.h>

static const char *const true_words[] = {"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"};
static const char *const false_words[] = {"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"};

static bool is_word(const char *const *words, size_t n, const char *text)
{
    for (size_t i = 0; i < n; i++)
        if (streq(words[i], text))
            return true;
    return false;
}

bool scalar_bool(const struct node *node, bool *ret)
{
    if (node->kind != NODE_SCALAR || node->quoted)
        return false;
    if (is_word(true_words, ELEMENTSOF(true_words), node->text))
        *ret = true;
    else if (is_word(false_words, ELEMENTSOF(false_words), node->text))
        *ret = false;
    else
        return false;
    return true;
}

/* Splits "[+-]0x1f" into sign, base and digits; false if it is no whole number in any of the forms. */
static bool int_parts(const char *text, bool *ret_negative, unsigned *ret_base, const char **ret_digits)
{
    static const char all[] = "0123456789abcdef";
    unsigned base = 10;
    bool digit = false;

    *ret_negative = *text == '-';
    if (*text == '-' || *text == '+')
        text++;
    if (text[0] == '0' && text[1] != '\0') {
        char form = text[1];

        base = form == 'x' ? 16 : form == 'b' ? 2 : 8;
        text += form == 'x' || form == 'b' || form == 'o' ? 2 : 1;
    }
    *ret_base = base;
    *ret_digits = text;
    for (; *text; text++) {
        char lower = *text >= 'A' && *text <= 'F' ? (char)(*text + 32) : *text;
        const char *at = memchr(all, lower, base);

        if (at)
            digit = true;
        else if (*text != '_' || !digit)
            return false;
    }
    return digit;
}

static size_t digits(const char *text)
{
    return strspn(text, "0123456789_");
}

static bool is_float(const char *text)
{
    size_t before, after = 0;

    if (*text == '-' || *text == '+')
        text++;
    if (streq(text, ".inf") || streq(text, ".Inf") || streq(text, ".INF") || streq(text, ".nan") ||
        streq(text, ".NaN") || streq(text, ".NAN"))
        return true;
    before = *text == '_' ? 0 : digits(text);
    text += before;
    if (*text == '.') {
        after = digits(text + 1);
        text += 1 + after;
    }
    if (before + after == 0)
        return false;
    if (*text == 'e' || *text == 'E') {
        text++;
        if (*text == '-' || *text == '+')
            text++;
        if (digits(text) == 0)
            return false;
        text += digits(text);
    }
    return *text == '\0';
}

enum scalar_type scalar_type(const struct node *node)
{
    bool negative, b;
    unsigned base;
    const char *first;

    if (node->kind == NODE_NULL)
        return SCALAR_NULL;
    if (node->quoted || node->kind != NODE_SCALAR)
        return SCALAR_STRING;
    if (scalar_bool(node, &b))
        return SCALAR_BOOL;
    if (int_parts(node->text, &negative, &base, &first))
        return SCALAR_INT;
    return is_float(node->text) ? SCALAR_FLOAT : SCALAR_STRING;
}

bool scalar_int(const struct node *node, int64_t *ret)
{
    bool negative;
    unsigned base;
    const char *p;
    int64_t value = 0;

    if (node->kind != NODE_SCALAR || node->quoted)
        return false;
    if (!int_parts(node->text, &negative, &base, &p)) {
        double d;

        if (!is_float(node->text))
            return false;
        d = strtod(node->text, NULL);
        if (!(fabs(d) < 9007199254740992.0) || d != floor(d)) /* 2^53: exact up to there */
            return false;
        *ret = (int64_t)d;
        return true;
    }
    for (; *p; p++) {
        int digit = *p >= 'a' ? *p - 'a' + 10 : *p >= 'A' && *p <= 'F' ? *p - 'A' + 10 : *p - '0';

        if (*p == '_')
            continue;
        if (__builtin_mul_overflow(value, (int64_t)base, &value) ||
            __builtin_add_overflow(value, negative ? -digit : digit, &value))
            return false;
    }
    *ret = value;
    return true;
}

const char *node_describe(const struct node *node)
{
    switch (node->kind) {
    case NODE_SEQUENCE:
        return "a list";
    case NODE_MAPPING:
        return "an object";
    case NODE_NULL:
        return "empty";
    case NODE_SCALAR:
        break;
    }
    switch (scalar_type(node)) {
    case SCALAR_BOOL:
        return "a boolean";
    case SCALAR_INT:
    case SCALAR_FLOAT:
        return "a number";
    case SCALAR_NULL:
        return "empty";
    case SCALAR_STRING:
        break;
    }
    return "a string";
}
