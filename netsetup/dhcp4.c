/* SPDX-License-Identifier: Apache-2.0 */
#include "netsetup/dhcp4.h"

#include <arpa/inet.h>

/* RFC 2131, figure 1. */
enum {
    OFFSET_OP = 0,
    OFFSET_HTYPE = 1,
    OFFSET_HLEN = 2,
    OFFSET_XID = 4,
    OFFSET_FLAGS = 10,
    OFFSET_CIADDR = 12,
    OFFSET_YIADDR = 16,
    OFFSET_SIADDR = 20,
    OFFSET_GIADDR = 24,
    OFFSET_CHADDR = 28,
    OFFSET_SNAME = 44,
    OFFSET_FILE = 108,
    OFFSET_COOKIE = 236,
    OFFSET_OPTIONS = 240,
    SNAME_SIZE = 64,
    FILE_SIZE = 128,
};

enum {
    BOOTREQUEST = 1,
    BOOTREPLY = 2,
    HTYPE_ETHERNET = 1,
    MIN_REPLY = 300,    /* BOOTP's size: some clients drop shorter ones */
    DEFAULT_SIZE = 548, /* what every client takes: 576 without IP and UDP headers */
    IP_UDP_HEADERS = 28,
};

/* RFC 2132, RFC 3397 (119), RFC 3442 (121). */
enum {
    OPTION_PAD = 0,
    OPTION_MASK = 1,
    OPTION_ROUTER = 3,
    OPTION_DNS = 6,
    OPTION_HOSTNAME = 12,
    OPTION_DOMAIN = 15,
    OPTION_MTU = 26,
    OPTION_NTP = 42,
    OPTION_REQUESTED = 50,
    OPTION_LEASE = 51,
    OPTION_OVERLOAD = 52,
    OPTION_TYPE = 53,
    OPTION_SERVER = 54,
    OPTION_MESSAGE = 56,
    OPTION_MAX_SIZE = 57,
    OPTION_RENEW = 58,
    OPTION_REBIND = 59,
    OPTION_IDENTIFIER = 61,
    OPTION_TFTP = 66,
    OPTION_BOOT_FILE = 67,
    OPTION_SEARCH = 119,
    OPTION_ROUTES = 121,
    OPTION_END = 255,
};

static const uint8_t cookie[4] = {99, 130, 83, 99};

static const char *const type_names[] = {"none", "DISCOVER", "OFFER",   "REQUEST", "DECLINE",
                                         "ACK",  "NAK",      "RELEASE", "INFORM"};

const char *dhcp4_type_name(enum dhcp4_type type)
{
    return (size_t)type < ELEMENTSOF(type_names) ? type_names[type] : "unknown";
}

/* ---- in -------------------------------------------------------------------------------------------------------- */

static void parse_option(struct dhcp4_message *m, uint8_t code, const uint8_t *value, size_t length, uint8_t *overload)
{
    switch (code) {
    case OPTION_TYPE:
        if (length == 1)
            m->type = value[0];
        break;
    case OPTION_REQUESTED:
        if (length == 4) {
            memcpy(m->requested, value, 4);
            m->has_requested = true;
        }
        break;
    case OPTION_SERVER:
        if (length == 4) {
            memcpy(m->server, value, 4);
            m->has_server = true;
        }
        break;
    case OPTION_MAX_SIZE:
        if (length == 2)
            m->max_size = (uint16_t)(value[0] << 8 | value[1]);
        break;
    case OPTION_IDENTIFIER:
        if (length >= 2) {
            m->identifier = value;
            m->identifier_length = length;
        }
        break;
    case OPTION_OVERLOAD:
        if (length == 1)
            *overload = value[0];
        break;
    default:
        break;
    }
}

static int parse_options(struct dhcp4_message *m, const uint8_t *p, size_t length, uint8_t *overload)
{
    size_t at = 0;

    while (at < length && p[at] != OPTION_END) {
        if (p[at] == OPTION_PAD) {
            at++;
            continue;
        }
        if (at + 2 > length || at + 2 + p[at + 1] > length)
            return -EBADMSG;
        parse_option(m, p[at], p + at + 2, p[at + 1], overload);
        at += 2U + p[at + 1];
    }
    return 0;
}

static bool mac_is_fit(const uint8_t mac[6])
{
    static const uint8_t zero[6];

    return !(mac[0] & 1) && memcmp(mac, zero, 6) != 0;
}

int dhcp4_parse(const void *data, size_t length, struct dhcp4_message *ret, const char **ret_why)
{
    const uint8_t *p = data;
    struct dhcp4_message m = {0};
    uint8_t overload = 0, ignored = 0;

    *ret_why = NULL;
    if (length < OFFSET_OPTIONS)
        *ret_why = "shorter than a DHCP header";
    else if (memcmp(p + OFFSET_COOKIE, cookie, 4) != 0)
        *ret_why = "no DHCP cookie";
    else if (p[OFFSET_HTYPE] != HTYPE_ETHERNET || p[OFFSET_HLEN] != 6)
        *ret_why = "not from an Ethernet client";
    if (*ret_why)
        return -EBADMSG;
    m.op = p[OFFSET_OP];
    memcpy(&m.xid, p + OFFSET_XID, 4);
    m.flags = (uint16_t)(p[OFFSET_FLAGS] << 8 | p[OFFSET_FLAGS + 1]);
    memcpy(m.client, p + OFFSET_CIADDR, 4);
    memcpy(m.your, p + OFFSET_YIADDR, 4);
    memcpy(m.gateway, p + OFFSET_GIADDR, 4);
    memcpy(m.mac, p + OFFSET_CHADDR, 6);
    if (!mac_is_fit(m.mac))
        *ret_why = "the client's MAC is zero or a group's";
    else if (parse_options(&m, p + OFFSET_OPTIONS, length - OFFSET_OPTIONS, &overload) < 0 ||
             ((overload & 1) && parse_options(&m, p + OFFSET_FILE, FILE_SIZE, &ignored) < 0) ||
             ((overload & 2) && parse_options(&m, p + OFFSET_SNAME, SNAME_SIZE, &ignored) < 0))
        *ret_why = "an option is longer than the message";
    else if (m.type < DHCP4_DISCOVER || m.type > DHCP4_INFORM)
        *ret_why = "no message type";
    if (*ret_why)
        return -EBADMSG;
    *ret = m;
    return 0;
}

/* ---- out ------------------------------------------------------------------------------------------------------- */

struct writer {
    struct dhcp4_reply *reply;
    size_t limit; /* one byte is kept for the end mark */
};

/* Longer values are split (RFC 3396). Nothing is written of an option that has no room as a whole. */
static void put(struct writer *w, uint8_t code, const void *value, size_t length)
{
    const uint8_t *from = value;
    size_t parts = length ? (length + 254) / 255 : 0;

    if (!length)
        return;
    if (w->reply->length + length + 2 * parts + 1 > w->limit) {
        w->reply->left_out++;
        return;
    }
    while (length) {
        size_t n = MIN(length, (size_t)255);

        w->reply->data[w->reply->length++] = code;
        w->reply->data[w->reply->length++] = (uint8_t)n;
        memcpy(w->reply->data + w->reply->length, from, n);
        w->reply->length += n;
        from += n;
        length -= n;
    }
}

static void put_u32(struct writer *w, uint8_t code, uint32_t value)
{
    uint32_t wire = htonl(value);

    put(w, code, &wire, sizeof(wire));
}

static void put_text(struct writer *w, uint8_t code, const char *text)
{
    if (text)
        put(w, code, text, strlen(text));
}

/* All IPv4 addresses of the list in one option. */
static void put_addresses(struct writer *w, uint8_t code, const struct ip *list, size_t n)
{
    uint8_t wire[4 * 16];
    size_t length = 0;

    for (size_t i = 0; i < n && length < sizeof(wire); i++) {
        if (list[i].family != AF_INET)
            continue;
        memcpy(wire + length, list[i].bytes, 4);
        length += 4;
    }
    put(w, code, wire, length);
}

static void mask_of(const struct ip *ip, uint8_t mask[4])
{
    uint32_t bits = ip->prefix ? htonl(UINT32_MAX << (32 - ip->prefix)) : 0;

    memcpy(mask, &bits, 4);
}

/* RFC 3442: length, the significant bytes of the destination, the gateway (0.0.0.0: on the link). */
static void put_routes(struct writer *w, const struct dhcp_config *c)
{
    uint8_t wire[512];
    size_t length = 0;
    bool more = c->n_routes > 1;

    for (size_t i = 0; i < c->n_routes; i++)
        more |= c->routes[i].via.family == 0 || c->routes[i].to.prefix != 0;
    if (!more) /* the router option says it all */
        return;
    for (size_t i = 0; i < c->n_routes; i++) {
        const struct dhcp_route *r = &c->routes[i];
        size_t significant = (r->to.prefix + 7) / 8;

        if (length + 1 + significant + 4 > sizeof(wire))
            break;
        wire[length++] = (uint8_t)r->to.prefix;
        memcpy(wire + length, r->to.bytes, significant);
        length += significant;
        if (r->via.family == AF_INET)
            memcpy(wire + length, r->via.bytes, 4);
        else
            memset(wire + length, 0, 4);
        length += 4;
    }
    put(w, OPTION_ROUTES, wire, length);
}

static void put_search(struct writer *w, const struct dhcp_config *c)
{
    uint8_t wire[512];
    size_t length = 0;

    for (size_t i = 0; i < c->n_search; i++)
        length += dns_encode_name(c->search[i], wire + length, sizeof(wire) - length);
    put(w, OPTION_SEARCH, wire, length);
}

static void put_lease(struct writer *w, const struct dhcp_config *c)
{
    uint32_t lease = c->lease_seconds ? c->lease_seconds : DHCP_DEFAULT_LEASE_SECONDS;

    put_u32(w, OPTION_LEASE, lease);
    put_u32(w, OPTION_RENEW, lease / 2);
    put_u32(w, OPTION_REBIND, (uint32_t)((uint64_t)lease * 7 / 8));
}

/* In the order of what a guest needs most: the last ones are left out where a client takes short messages only. */
static void put_settings(struct writer *w, const struct dhcp_config *c)
{
    uint8_t mask[4], mtu[2] = {(uint8_t)(c->mtu >> 8), (uint8_t)c->mtu};

    mask_of(&c->address, mask);
    put(w, OPTION_MASK, mask, sizeof(mask));
    if (c->gateway.family == AF_INET)
        put(w, OPTION_ROUTER, c->gateway.bytes, 4);
    put_addresses(w, OPTION_DNS, c->dns, c->n_dns);
    if (c->mtu)
        put(w, OPTION_MTU, mtu, sizeof(mtu));
    put_routes(w, c);
    put_text(w, OPTION_HOSTNAME, c->hostname);
    put_text(w, OPTION_DOMAIN, c->domain);
    put_text(w, OPTION_TFTP, c->tftp_server);
    put_text(w, OPTION_BOOT_FILE, c->boot_file);
    put_addresses(w, OPTION_NTP, c->ntp, c->n_ntp);
    for (size_t i = 0; i < c->n_options; i++)
        put_text(w, c->options[i].code, c->options[i].value);
    put_search(w, c);
}

static size_t reply_limit(const struct dhcp_config *c, const struct dhcp4_message *m)
{
    size_t limit = DEFAULT_SIZE, frame = DHCP4_MESSAGE_MAX;

    if (m->max_size > IP_UDP_HEADERS)
        limit = MAX(limit, (size_t)m->max_size - IP_UDP_HEADERS);
    if (c->mtu > IP_UDP_HEADERS + DEFAULT_SIZE)
        frame = MIN(frame, (size_t)c->mtu - IP_UDP_HEADERS);
    return MIN(limit, frame);
}

static void put_header(const struct dhcp_config *c, const struct dhcp4_message *m, struct dhcp4_reply *r)
{
    struct ip tftp;

    r->data[OFFSET_OP] = BOOTREPLY;
    r->data[OFFSET_HTYPE] = HTYPE_ETHERNET;
    r->data[OFFSET_HLEN] = 6;
    memcpy(r->data + OFFSET_XID, &m->xid, 4);
    r->data[OFFSET_FLAGS] = (uint8_t)(m->flags >> 8);
    r->data[OFFSET_FLAGS + 1] = (uint8_t)m->flags;
    memcpy(r->data + OFFSET_CHADDR, m->mac, 6);
    memcpy(r->data + OFFSET_COOKIE, cookie, 4);
    r->length = OFFSET_OPTIONS;
    if (r->type == DHCP4_NAK)
        return;
    memcpy(r->data + OFFSET_CIADDR, m->client, 4);
    if (r->type == DHCP4_OFFER || m->type == DHCP4_REQUEST)
        memcpy(r->data + OFFSET_YIADDR, c->address.bytes, 4);
    if (c->tftp_server && ip_parse(c->tftp_server, &tftp) >= 0 && tftp.family == AF_INET)
        memcpy(r->data + OFFSET_SIADDR, tftp.bytes, 4);
    if (c->boot_file && strlen(c->boot_file) < FILE_SIZE)
        memcpy(r->data + OFFSET_FILE, c->boot_file, strlen(c->boot_file));
}

static void build(const struct dhcp_config *c, const struct dhcp4_message *m, enum dhcp4_type type,
                  struct dhcp4_reply *r)
{
    struct writer w = {.reply = r, .limit = reply_limit(c, m)};
    uint8_t wire_type = (uint8_t)type;

    memset(r, 0, sizeof(*r));
    r->type = type;
    r->broadcast = true;
    put_header(c, m, r);
    put(&w, OPTION_TYPE, &wire_type, 1);
    put(&w, OPTION_SERVER, c->server.bytes, 4);
    if (type == DHCP4_NAK) {
        put_text(&w, OPTION_MESSAGE, "this is not your address here");
    } else {
        if (m->type != DHCP4_INFORM)
            put_lease(&w, c);
        put_settings(&w, c);
        r->broadcast = memcmp(m->client, (uint8_t[4]){0}, 4) == 0;
        memcpy(r->to, m->client, 4);
    }
    r->data[r->length++] = OPTION_END;
    r->length = MAX(r->length, (size_t)MIN_REPLY);
}

/* RFC 2131, 4.3.2: which of the four kinds of REQUEST it is, and whether what it names is ours to give. */
static int answer_request(const struct dhcp_config *c, const struct dhcp4_message *m, struct dhcp4_reply *ret,
                          const char **ret_why)
{
    const uint8_t *wanted = m->has_requested ? m->requested : m->client;

    if (m->has_server && memcmp(m->server, c->server.bytes, 4) != 0) {
        *ret_why = "the client chose another server";
        return 0;
    }
    if (!m->has_requested && memcmp(m->client, (uint8_t[4]){0}, 4) == 0) {
        *ret_why = "a request that names no address";
        return 0;
    }
    build(c, m, memcmp(wanted, c->address.bytes, 4) == 0 ? DHCP4_ACK : DHCP4_NAK, ret);
    return 1;
}

int dhcp4_answer(const struct dhcp_config *c, const struct dhcp4_message *m, struct dhcp4_reply *ret,
                 const char **ret_why)
{
    *ret_why = NULL;
    if (m->op != BOOTREQUEST)
        *ret_why = "not a request";
    else if (!c->any_client && memcmp(m->mac, c->mac, 6) != 0)
        *ret_why = "not the guest's MAC";
    else if (memcmp(m->gateway, (uint8_t[4]){0}, 4) != 0)
        *ret_why = "by a relay: the guest is on our own link";
    if (*ret_why)
        return 0;
    switch (m->type) {
    case DHCP4_DISCOVER:
        build(c, m, DHCP4_OFFER, ret);
        return 1;
    case DHCP4_REQUEST:
        return answer_request(c, m, ret, ret_why);
    case DHCP4_INFORM:
        if (memcmp(m->client, (uint8_t[4]){0}, 4) == 0) {
            *ret_why = "an INFORM without an address";
            return 0;
        }
        build(c, m, DHCP4_ACK, ret);
        return 1;
    case DHCP4_DECLINE:
        *ret_why = "the guest says that somebody else has its address";
        return 0;
    default:
        *ret_why = "needs no answer";
        return 0;
    }
}
