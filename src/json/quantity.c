/* SPDX-License-Identifier: Apache-2.0 */
#include "json/quantity.h"

#include "base/util.h"

/* Longest text taken, and the largest decimal exponent that still matters for so many digits. */
#define MAX_TEXT     100
#define MAX_EXPONENT 200

/* Enough for 10^(MAX_TEXT + MAX_EXPONENT + 3) * 2^60, so that nothing below can overflow. */
#define LIMBS 36

struct big {
    uint32_t limb[LIMBS]; /* the lowest first */
};

static void big_multiply(struct big *b, uint32_t factor, uint32_t add)
{
    uint64_t carry = add;

    for (int i = 0; i < LIMBS; i++) {
        carry += (uint64_t)b->limb[i] * factor;
        b->limb[i] = (uint32_t)carry;
        carry >>= 32;
    }
}

static uint32_t big_divide(struct big *b, uint32_t divisor)
{
    uint64_t rest = 0;

    for (int i = LIMBS - 1; i >= 0; i--) {
        rest = rest << 32 | b->limb[i];
        b->limb[i] = (uint32_t)(rest / divisor);
        rest %= divisor;
    }
    return (uint32_t)rest;
}

/* ceil(b), or -ERANGE when it is more than INT64_MAX. */
static int big_to_int64(const struct big *b, bool round_up, int64_t *ret)
{
    uint64_t value = (uint64_t)b->limb[1] << 32 | b->limb[0];

    for (int i = 2; i < LIMBS; i++)
        if (b->limb[i] != 0)
            return -ERANGE;
    if (value > INT64_MAX || (value == INT64_MAX && round_up))
        return -ERANGE;
    *ret = (int64_t)(value + round_up);
    return 0;
}

static const struct {
    const char *suffix;
    int exponent2, exponent10;
} suffixes[] = {
    {"", 0, 0},    {"n", 0, -9},  {"u", 0, -6},  {"m", 0, -3},  {"k", 0, 3},   {"M", 0, 6},
    {"G", 0, 9},   {"T", 0, 12},  {"P", 0, 15},  {"E", 0, 18},  {"Ki", 10, 0}, {"Mi", 20, 0},
    {"Gi", 30, 0}, {"Ti", 40, 0}, {"Pi", 50, 0}, {"Ei", 60, 0},
};

static int parse_suffix(const char *text, int *ret_exponent2, int *ret_exponent10, const char **ret_reason)
{
    for (size_t i = 0; i < ELEMENTSOF(suffixes); i++)
        if (streq(text, suffixes[i].suffix)) {
            *ret_exponent2 = suffixes[i].exponent2;
            *ret_exponent10 = suffixes[i].exponent10;
            return 0;
        }
    if (*text == 'e' || *text == 'E') {
        bool negative = text[1] == '-';
        const char *p = text + 1 + (text[1] == '-' || text[1] == '+');
        int exponent = 0;

        if (*p && p[strspn(p, "0123456789")] == '\0') {
            for (; *p; p++)
                exponent = MIN(exponent * 10 + (*p - '0'), MAX_EXPONENT);
            *ret_exponent2 = 0;
            *ret_exponent10 = negative ? -exponent : exponent;
            return 0;
        }
    }
    *ret_reason = streq(text, "K") ? "\"K\" is no suffix: write k for 1000 or Ki for 1024"
                  : endswith(text, "B") || endswith(text, "b")
                      ? "a byte count is written without B: 4G is 4 * 1000^3 bytes, 4Gi is 4 * 1024^3"
                      : "must be a number with one of the suffixes Ki Mi Gi Ti Pi Ei, m k M G T P E, or none";
    return -EINVAL;
}

static int convert(const struct big *mantissa, int exponent2, int exponent10, int64_t *ret)
{
    struct big b = *mantissa;
    bool rest = false;

    for (; exponent2 > 0; exponent2 -= 10)
        big_multiply(&b, 1024, 0);
    for (; exponent10 > 0; exponent10--)
        big_multiply(&b, 10, 0);
    for (; exponent10 < 0; exponent10++)
        rest |= big_divide(&b, 10) != 0;
    return big_to_int64(&b, rest, ret);
}

int quantity_parse(const char *text, struct quantity *ret, const char **ret_reason)
{
    struct quantity q = {.is_set = true, .text = text};
    struct big mantissa = {0};
    bool negative = *text == '-', point = false, digit = false;
    int exponent2, exponent10, fraction = 0, r;
    const char *p = text + (*text == '-' || *text == '+');

    if (strlen(text) > MAX_TEXT) {
        *ret_reason = "is too long for a quantity";
        return -EINVAL;
    }
    for (; (*p >= '0' && *p <= '9') || (*p == '.' && !point); p++) {
        if (*p == '.') {
            point = true;
            continue;
        }
        digit = true;
        fraction += point;
        big_multiply(&mantissa, 10, (uint32_t)(*p - '0'));
    }
    if (!digit) {
        *ret_reason = "must start with a number, as in 500m, 4Gi or 1.5G";
        return -EINVAL;
    }
    r = parse_suffix(p, &exponent2, &exponent10, ret_reason);
    if (r < 0)
        return r;
    if (convert(&mantissa, exponent2, exponent10 - fraction, &q.value) < 0) {
        *ret_reason = "is too large (at most 2^63 - 1)";
        return -ERANGE;
    }
    if (convert(&mantissa, exponent2, exponent10 - fraction + 3, &q.milli) < 0)
        q.milli = INT64_MAX;
    if (negative) {
        q.value = -q.value;
        q.milli = -q.milli;
    }
    *ret = q;
    return 0;
}
