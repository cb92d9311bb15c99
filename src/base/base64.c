/* SPDX-License-Identifier: Apache-2.0 */
#include "base/base64.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *base64_encode(const void *data, size_t length)
{
    const unsigned char *in = data;
    char *text, *out;

    if (length > SIZE_MAX / 2)
        return NULL;
    text = out = malloc((length + 2) / 3 * 4 + 1);
    if (!text)
        return NULL;
    for (; length > 0; in += 3) {
        uint32_t group = (uint32_t)in[0] << 16 | (length > 1 ? (uint32_t)in[1] << 8 : 0) | (length > 2 ? in[2] : 0);

        *out++ = alphabet[group >> 18];
        *out++ = alphabet[group >> 12 & 63];
        *out++ = length > 1 ? alphabet[group >> 6 & 63] : '=';
        *out++ = length > 2 ? alphabet[group & 63] : '=';
        length -= MIN(length, (size_t)3);
    }
    *out = '\0';
    return text;
}

static int value_of(char c)
{
    const char *p = c ? strchr(alphabet, c) : NULL;

    return p ? (int)(p - alphabet) : -1;
}

int base64_decode(const char *text, size_t length, char **ret_data, size_t *ret_length)
{
    _cleanup_free_ char *data = malloc(length / 4 * 3 + 4);
    size_t n = 0, padding = 0, digits = 0;
    uint32_t group = 0;

    if (!data)
        return -ENOMEM;
    for (size_t i = 0; i < length; i++) {
        int v;

        if (memchr(" \t\r\n", text[i], 4))
            continue;
        if (text[i] == '=') {
            padding++;
            digits++;
            group <<= 6;
        } else {
            v = value_of(text[i]);
            if (v < 0 || padding > 0)
                return -EINVAL;
            group = group << 6 | (uint32_t)v;
            digits++;
        }
        if (digits % 4 == 0) {
            if (padding > 2)
                return -EINVAL;
            data[n++] = (char)(group >> 16);
            if (padding < 2)
                data[n++] = (char)(group >> 8);
            if (padding < 1)
                data[n++] = (char)group;
            group = 0;
            if (padding > 0 && i + 1 < length)
                padding = 3; /* nothing but white space may follow */
        }
    }
    if (digits % 4 != 0)
        return -EINVAL;
    data[n] = '\0';
    *ret_data = TAKE_PTR(data);
    *ret_length = n;
    return 0;
}
