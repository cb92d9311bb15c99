/* SPDX-License-Identifier: Apache-2.0 */
#include "netsetup/ip.h"

#include <stdio.h>

int ip_parse(const char *text, struct ip *ret)
{
    char copy[IP_TEXT_MAX], *slash;
    struct ip ip = {0};

    if (!text || strlen(text) >= sizeof(copy))
        return -EINVAL;
    strcpy(copy, text);
    slash = strchr(copy, '/');
    if (slash)
        *slash = '\0';
    ip.family = strchr(copy, ':') ? AF_INET6 : AF_INET;
    if (inet_pton(ip.family, copy, ip.bytes) != 1)
        return -EINVAL;
    ip.prefix = (unsigned)ip_size(&ip) * 8;
    if (slash) {
        char *end;
        unsigned long n;

        if (slash[1] < '0' || slash[1] > '9')
            return -EINVAL;
        n = strtoul(slash + 1, &end, 10);
        if (*end || n > ip.prefix)
            return -EINVAL;
        ip.prefix = (unsigned)n;
    }
    *ret = ip;
    return 0;
}

const char *ip_text(const struct ip *ip, char buffer[IP_TEXT_MAX])
{
    if (!inet_ntop(ip->family, ip->bytes, buffer, IP_TEXT_MAX))
        buffer[0] = '\0';
    return buffer;
}

char *ip_arena_text(struct arena *arena, const struct ip *ip)
{
    char buffer[IP_TEXT_MAX];

    return arena_strdup(arena, ip_text(ip, buffer));
}

char *ip_arena_cidr(struct arena *arena, const struct ip *ip)
{
    char buffer[IP_TEXT_MAX];

    return arena_printf(arena, "%s/%u", ip_text(ip, buffer), ip->prefix);
}

bool ip_contains(const struct ip *network, const struct ip *address)
{
    unsigned whole = network->prefix / 8, rest = network->prefix % 8;

    if (network->family != address->family || memcmp(network->bytes, address->bytes, whole) != 0)
        return false;
    return !rest || (network->bytes[whole] ^ address->bytes[whole]) >> (8 - rest) == 0;
}

bool ip_is_zero(const struct ip *ip)
{
    for (size_t i = 0; i < ip_size(ip); i++)
        if (ip->bytes[i])
            return false;
    return true;
}

bool ip_is_link_local(const struct ip *ip)
{
    if (ip->family == AF_INET)
        return ip->bytes[0] == 169 && ip->bytes[1] == 254;
    return ip->bytes[0] == 0xfe && (ip->bytes[1] & 0xc0) == 0x80;
}

int ip_nth(const struct ip *ip, uint32_t n, struct ip *ret)
{
    unsigned bits = (unsigned)ip_size(ip) * 8, host = bits - ip->prefix;
    struct ip nth = *ip;

    if (host < 32 && n >= 1U << host)
        return -ERANGE;
    for (unsigned i = ip->prefix; i < bits; i++)
        nth.bytes[i / 8] &= (uint8_t) ~(0x80U >> (i % 8));
    for (size_t i = 0; i < 4; i++)
        nth.bytes[ip_size(ip) - 1 - i] |= (uint8_t)(n >> (8 * i));
    *ret = nth;
    return 0;
}

int mac_parse(const char *text, uint8_t ret[6])
{
    unsigned v[6];
    int used = 0;

    if (!text || sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &used) != 6 ||
        used != 17 || text[17])
        return -EINVAL;
    for (size_t i = 0; i < 6; i++)
        ret[i] = (uint8_t)v[i];
    return 0;
}

char *mac_arena_text(struct arena *arena, const uint8_t m[6])
{
    return arena_printf(arena, "%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5]);
}

void ip_link_local_of(const uint8_t mac[6], struct ip *ret)
{
    *ret = (struct ip){
        AF_INET6, 64, {0xfe, 0x80, 0, 0, 0, 0, 0, 0, mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]}};
}

size_t dns_encode_name(const char *name, uint8_t *to, size_t room)
{
    size_t length = 0;

    while (*name) {
        size_t label = strcspn(name, ".");

        if (!label || label > 63 || length + label + 2 > room || length + label + 2 > 255)
            return 0;
        to[length++] = (uint8_t)label;
        memcpy(to + length, name, label);
        length += label;
        name += label;
        if (*name == '.')
            name++;
    }
    if (!length)
        return 0;
    to[length++] = 0;
    return length;
}
