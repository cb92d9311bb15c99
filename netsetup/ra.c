/* SPDX-License-Identifier: Apache-2.0 */
#include "netsetup/ra.h"

enum {
    ETHERNET_HEADER = 14,
    IPV6_HEADER = 40,
    OFFSET_IPV6 = ETHERNET_HEADER,
    OFFSET_ICMP = ETHERNET_HEADER + IPV6_HEADER,
    NEXT_HEADER_ICMPV6 = 58,
    HOP_LIMIT = 255,
    SOLICITATION = 133,
    ADVERTISEMENT = 134,
};

/* Option types: RFC 4861 (1, 3, 5), RFC 4191 (24), RFC 8106 (25, 31). */
enum {
    OPTION_SOURCE_LINK = 1,
    OPTION_PREFIX = 3,
    OPTION_MTU = 5,
    OPTION_ROUTE = 24,
    OPTION_DNS = 25,
    OPTION_SEARCH = 31,
};

#define FLAGS_MANAGED   0xc0U /* M and O: addresses and the rest by DHCPv6 */
#define FLAG_ON_LINK    0x80U
#define ROUTER_LIFETIME 9000U /* seconds, the most that RFC 4861 allows */
#define LIFETIME        UINT32_MAX

static const uint8_t all_nodes[16] = {0xff, 2, [15] = 1};
static const uint8_t all_nodes_mac[6] = {0x33, 0x33, 0, 0, 0, 1};

/* RFC 4443, 2.3: over a pseudo-header of addresses, length and next header, and the message. */
static uint16_t checksum(const uint8_t *ipv6, const uint8_t *message, size_t length)
{
    uint32_t sum = (uint32_t)length + NEXT_HEADER_ICMPV6;

    for (size_t i = 8; i < IPV6_HEADER; i += 2)
        sum += (uint32_t)ipv6[i] << 8 | ipv6[i + 1];
    for (size_t i = 0; i + 1 < length; i += 2)
        sum += (uint32_t)message[i] << 8 | message[i + 1];
    if (length & 1)
        sum += (uint32_t)message[length - 1] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

bool ra_is_solicitation(const void *frame, size_t length, uint8_t ret_source[6])
{
    const uint8_t *p = frame, *ipv6 = p + OFFSET_IPV6;
    size_t payload, at = 8;

    if (length < OFFSET_ICMP + 8 || p[12] != 0x86 || p[13] != 0xdd || (ipv6[0] >> 4) != 6 ||
        ipv6[6] != NEXT_HEADER_ICMPV6 || ipv6[7] != HOP_LIMIT)
        return false;
    payload = (size_t)ipv6[4] << 8 | ipv6[5];
    if (payload < 8 || payload > length - OFFSET_ICMP)
        return false;
    p += OFFSET_ICMP;
    if (p[0] != SOLICITATION || p[1] != 0 || checksum(ipv6, p, payload) != 0)
        return false;
    while (at < payload) { /* an option of length 0 makes the whole message invalid (RFC 4861, 6.1.1) */
        if (at + 2 > payload || !p[at + 1] || at + 8U * p[at + 1] > payload)
            return false;
        at += 8U * p[at + 1];
    }
    memcpy(ret_source, (const uint8_t *)frame + 6, 6);
    return !(ret_source[0] & 1);
}

struct writer {
    uint8_t *data;
    size_t length;
    bool full;
};

static uint8_t *take(struct writer *w, size_t n)
{
    uint8_t *p = w->data + w->length;

    if (w->length + n > RA_FRAME_MAX) {
        w->full = true;
        return NULL;
    }
    memset(p, 0, n);
    w->length += n;
    return p;
}

static void set16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static void set32(uint8_t *p, uint32_t v)
{
    set16(p, v >> 16);
    set16(p + 2, v & 0xffff);
}

static uint8_t *option(struct writer *w, uint8_t type, size_t size)
{
    uint8_t *p = take(w, size);

    if (p) {
        p[0] = type;
        p[1] = (uint8_t)(size / 8);
    }
    return p;
}

static void put_prefix(struct writer *w, const struct ip *address)
{
    struct ip network;
    uint8_t *p;

    if (address->prefix == 128 || ip_nth(address, 0, &network) < 0)
        return; /* nothing is on the link but the guest */
    p = option(w, OPTION_PREFIX, 32);
    if (!p)
        return;
    p[2] = (uint8_t)address->prefix;
    p[3] = FLAG_ON_LINK;
    set32(p + 4, LIFETIME);
    set32(p + 8, LIFETIME);
    memcpy(p + 16, network.bytes, 16);
}

static void put_dns(struct writer *w, const struct dhcp_config *c)
{
    uint8_t names[256], *p;
    size_t n = 0, at = 8, length = 0;

    for (size_t i = 0; i < c->n_dns; i++)
        n += c->dns[i].family == AF_INET6;
    p = n ? option(w, OPTION_DNS, 8 + 16 * n) : NULL;
    if (p) {
        set32(p + 4, LIFETIME);
        for (size_t i = 0; i < c->n_dns; i++) {
            if (c->dns[i].family != AF_INET6)
                continue;
            memcpy(p + at, c->dns[i].bytes, 16);
            at += 16;
        }
    }
    for (size_t i = 0; i < c->n_search; i++)
        length += dns_encode_name(c->search[i], names + length, sizeof(names) - length);
    p = length ? option(w, OPTION_SEARCH, 8 + (length + 7) / 8 * 8) : NULL;
    if (p) {
        set32(p + 4, LIFETIME);
        memcpy(p + 8, names, length);
    }
}

/* Other routes of the pod that go by the same router. */
static void put_routes(struct writer *w, const struct dhcp_config *c)
{
    for (size_t i = 0; i < c->n_routes6; i++) {
        const struct dhcp_route *r = &c->routes6[i];
        size_t half = r->to.prefix > 64 ? 16 : 8;
        uint8_t *p;

        if (!r->to.prefix || r->via.family != AF_INET6)
            continue;
        p = option(w, OPTION_ROUTE, 8 + half);
        if (!p)
            return;
        p[2] = (uint8_t)r->to.prefix;
        set32(p + 4, LIFETIME);
        memcpy(p + 8, r->to.bytes, half);
    }
}

static bool has_default(const struct dhcp_config *c)
{
    for (size_t i = 0; i < c->n_routes6; i++)
        if (!c->routes6[i].to.prefix)
            return true;
    return false;
}

size_t ra_build(const struct dhcp_config *c, const uint8_t from[6], const uint8_t *to, uint8_t ret[RA_FRAME_MAX])
{
    struct writer w = {.data = ret};
    uint8_t *p = take(&w, OFFSET_ICMP + 16), *icmp = p + OFFSET_ICMP, *ipv6 = p + OFFSET_IPV6;
    size_t length;

    memcpy(p, to ? to : all_nodes_mac, 6);
    memcpy(p + 6, from, 6);
    set16(p + 12, 0x86dd);
    ipv6[0] = 6 << 4;
    ipv6[6] = NEXT_HEADER_ICMPV6;
    ipv6[7] = HOP_LIMIT;
    memcpy(ipv6 + 8, c->router6.bytes, 16);
    memcpy(ipv6 + 24, all_nodes, 16);
    icmp[0] = ADVERTISEMENT;
    icmp[4] = 64; /* the hop limit that hosts are to use */
    icmp[5] = FLAGS_MANAGED;
    set16(icmp + 6, has_default(c) ? ROUTER_LIFETIME : 0);
    if (c->has_router_mac && (p = option(&w, OPTION_SOURCE_LINK, 8)))
        memcpy(p + 2, c->router_mac, 6);
    if (c->mtu >= 1280 && (p = option(&w, OPTION_MTU, 8)))
        set32(p + 4, c->mtu);
    put_prefix(&w, &c->address6);
    put_routes(&w, c);
    put_dns(&w, c);
    if (w.full)
        return 0;
    length = w.length - OFFSET_ICMP;
    set16(ipv6 + 4, (unsigned)length);
    set16(icmp + 2, checksum(ipv6, icmp, length));
    return w.length;
}
