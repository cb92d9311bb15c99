/* SPDX-License-Identifier: Apache-2.0 */
#include "base/utf8.h"

size_t utf8_sequence_length(const char *text, size_t left)
{
    const unsigned char *p = (const unsigned char *)text;
    unsigned char low = 0x80, high = 0xbf;
    size_t n;

    if (left == 0)
        return 0;
    if (p[0] < 0x80)
        return 1;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return 0;
    n = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (left < n)
        return 0;
    /* the second byte's range is narrower after four of the lead bytes: RFC 3629, section 4 */
    if (p[0] == 0xe0)
        low = 0xa0;
    else if (p[0] == 0xed)
        high = 0x9f;
    else if (p[0] == 0xf0)
        low = 0x90;
    else if (p[0] == 0xf4)
        high = 0x8f;
    if (p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++)
        if (p[i] < 0x80 || p[i] > 0xbf)
            return 0;
    return n;
}

size_t utf8_valid_prefix(const char *text, size_t length)
{
    size_t at = 0;

    while (at < length) {
        size_t n = utf8_sequence_length(text + at, length - at);

        if (n == 0)
            return at;
        at += n;
    }
    return length;
}
