/* SPDX-License-Identifier: Apache-2.0 */
#include "vmi/uuid.h"

#include <stdio.h>
#include <sys/random.h>

/* SHA-1, RFC 3174: for names, not for secrets. */
struct sha1 {
    uint32_t state[5];
    uint8_t block[64];
    size_t used;
    uint64_t length;
};

static uint32_t rotate(uint32_t x, unsigned n)
{
    return x << n | x >> (32 - n);
}

static void sha1_block(struct sha1 *h)
{
    uint32_t w[80], a = h->state[0], b = h->state[1], c = h->state[2], d = h->state[3], e = h->state[4];

    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)h->block[4 * i] << 24 | (uint32_t)h->block[4 * i + 1] << 16 |
               (uint32_t)h->block[4 * i + 2] << 8 | h->block[4 * i + 3];
    for (int i = 16; i < 80; i++)
        w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 || i >= 60 ? b ^ c ^ d : (b & c) | (b & d) | (c & d);
        uint32_t k = i < 20 ? 0x5a827999 : i < 40 ? 0x6ed9eba1 : i < 60 ? 0x8f1bbcdc : 0xca62c1d6;
        uint32_t t = rotate(a, 5) + f + e + k + w[i];

        e = d;
        d = c;
        c = rotate(b, 30);
        b = a;
        a = t;
    }
    h->state[0] += a;
    h->state[1] += b;
    h->state[2] += c;
    h->state[3] += d;
    h->state[4] += e;
    h->used = 0;
}

static void sha1_add(struct sha1 *h, const uint8_t *data, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        h->block[h->used++] = data[i];
        if (h->used == sizeof(h->block))
            sha1_block(h);
    }
    h->length += length;
}

static void sha1_end(struct sha1 *h, uint8_t ret[static 20])
{
    uint64_t bits = h->length * 8;
    uint8_t byte = 0x80;

    do {
        sha1_add(h, &byte, 1);
        byte = 0;
    } while (h->used != 56);
    for (int i = 0; i < 8; i++) {
        byte = (uint8_t)(bits >> (56 - 8 * i));
        sha1_add(h, &byte, 1);
    }
    for (int i = 0; i < 20; i++)
        ret[i] = (uint8_t)(h->state[i / 4] >> (24 - 8 * (i % 4)));
}

static void format_uuid_bytes(uint8_t bytes[static 16], unsigned version, char *ret)
{
    bytes[6] = (uint8_t)((bytes[6] & 0x0f) | version << 4);
    bytes[8] = (uint8_t)((bytes[8] & 0x3f) | 0x80);
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *ret++ = '-';
        *ret++ = "0123456789abcdef"[bytes[i] >> 4];
        *ret++ = "0123456789abcdef"[bytes[i] & 15];
    }
    *ret = '\0';
}

void uuid_v5(const char *namespace_uuid, const char *name, char ret[static UUID_TEXT_LENGTH + 1])
{
    struct sha1 h = {.state = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0}};
    uint8_t digest[20];

    for (const char *p = namespace_uuid; *p; p++) {
        unsigned byte;
        uint8_t b;

        if (*p == '-' || sscanf(p, "%2x", &byte) != 1)
            continue;
        b = (uint8_t)byte;
        sha1_add(&h, &b, 1);
        p++;
    }
    sha1_add(&h, (const uint8_t *)name, strlen(name));
    sha1_end(&h, digest);
    format_uuid_bytes(digest, 5, ret);
}

int uuid_v4(char ret[static UUID_TEXT_LENGTH + 1])
{
    uint8_t bytes[16];

    if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
        return errno > 0 ? -errno : -EIO;
    format_uuid_bytes(bytes, 4, ret);
    return 0;
}
