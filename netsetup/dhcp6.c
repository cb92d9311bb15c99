/* SPDX-License-Identifier: Apache-2.0 */
#include "netsetup/dhcp6.h"

/* RFC 8415, 7.3 and 21; RFC 3646 (23, 24). */
enum {
    SOLICIT = 1,
    ADVERTISE = 2,
    REQUEST = 3,
    CONFIRM = 4,
    RENEW = 5,
    REBIND = 6,
    REPLY = 7,
    RELEASE = 8,
    DECLINE = 9,
    INFORMATION_REQUEST = 11,
};
enum {
    OPTION_CLIENTID = 1,
    OPTION_SERVERID = 2,
    OPTION_IA_NA = 3,
    OPTION_IAADDR = 5,
    OPTION_STATUS_CODE = 13,
    OPTION_RAPID_COMMIT = 14,
    OPTION_DNS = 23,
    OPTION_SEARCH = 24,
};
enum {
    STATUS_SUCCESS = 0,
    STATUS_NO_ADDRS_AVAIL = 2,
    STATUS_NOT_ON_LINK = 4,
};

#define MAX_CLIENT_ID 130U /* a DUID is at most 128 bytes behind its type (11.1) */
#define MAX_IA        8U

struct ia {
    uint32_t iaid;
    bool has_address, address_is_ours;
};

struct message {
    uint8_t type, transaction[3];
    const uint8_t *client_id, *server_id;
    size_t client_id_length, server_id_length;
    bool rapid_commit;
    struct ia ia[MAX_IA];
    size_t n_ia;
};

struct writer {
    uint8_t *data;
    size_t length, limit;
    bool full;
};

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

/* Steps through options; 1 and the next one, 0 at the end, -EBADMSG where one is longer than what holds it. */
static int next_option(const uint8_t **p, size_t *left, uint16_t *code, const uint8_t **value, size_t *length)
{
    if (!*left)
        return 0;
    if (*left < 4 || *left - 4 < get16(*p + 2))
        return -EBADMSG;
    *code = get16(*p);
    *length = get16(*p + 2);
    *value = *p + 4;
    *p += 4 + *length;
    *left -= 4 + *length;
    return 1;
}

static int parse_ia(const struct dhcp_config *c, const uint8_t *p, size_t left, struct message *m)
{
    struct ia ia = {0};
    const uint8_t *value;
    uint16_t code;
    size_t length;
    int r;

    if (left < 12 || m->n_ia == MAX_IA)
        return -EBADMSG;
    ia.iaid = get32(p);
    p += 12;
    left -= 12;
    while ((r = next_option(&p, &left, &code, &value, &length)) > 0) {
        if (code != OPTION_IAADDR)
            continue;
        if (length < 24)
            return -EBADMSG;
        ia.has_address = true;
        ia.address_is_ours |= memcmp(value, c->address6.bytes, 16) == 0;
    }
    m->ia[m->n_ia++] = ia;
    return r;
}

static int parse(const struct dhcp_config *c, const uint8_t *p, size_t left, struct message *m)
{
    const uint8_t *value;
    uint16_t code;
    size_t length;
    int r;

    if (left < 4)
        return -EBADMSG;
    m->type = p[0];
    memcpy(m->transaction, p + 1, 3);
    p += 4;
    left -= 4;
    while ((r = next_option(&p, &left, &code, &value, &length)) > 0) {
        if (code == OPTION_CLIENTID) {
            if (!length || length > MAX_CLIENT_ID || m->client_id)
                return -EBADMSG;
            m->client_id = value;
            m->client_id_length = length;
        } else if (code == OPTION_SERVERID) {
            m->server_id = value;
            m->server_id_length = length;
        } else if (code == OPTION_RAPID_COMMIT) {
            m->rapid_commit = true;
        } else if (code == OPTION_IA_NA && parse_ia(c, value, length, m) < 0) {
            return -EBADMSG;
        }
    }
    return r;
}

static void put_bytes(struct writer *w, const void *data, size_t length)
{
    if (w->length + length > w->limit) {
        w->full = true;
        return;
    }
    if (length)
        memcpy(w->data + w->length, data, length);
    w->length += length;
}

static void put16(struct writer *w, size_t value)
{
    uint8_t wire[2] = {(uint8_t)(value >> 8), (uint8_t)value};

    put_bytes(w, wire, 2);
}

static void put32(struct writer *w, uint32_t value)
{
    put16(w, value >> 16);
    put16(w, value & 0xffff);
}

static void put_option(struct writer *w, uint16_t code, const void *value, size_t length)
{
    put16(w, code);
    put16(w, length);
    put_bytes(w, value, length);
}

static void put_status(struct writer *w, unsigned status, const char *text)
{
    put16(w, OPTION_STATUS_CODE);
    put16(w, 2 + strlen(text));
    put16(w, status);
    put_bytes(w, text, strlen(text));
}

static void put_ia_address(struct writer *w, const struct dhcp_config *c, uint32_t lifetime)
{
    put16(w, OPTION_IAADDR);
    put16(w, 24);
    put_bytes(w, c->address6.bytes, 16);
    put32(w, lifetime);
    put32(w, lifetime);
}

/* The first association gets the address; a client that asks for more is told that there are none. */
static void put_ia(struct writer *w, const struct dhcp_config *c, const struct ia *ia, bool first)
{
    uint32_t lifetime = c->lease_seconds ? c->lease_seconds : DHCP_DEFAULT_LEASE_SECONDS;
    static const char none[] = "one address only";

    put16(w, OPTION_IA_NA);
    put16(w, first ? 12 + 28 : 12 + 6 + strlen(none));
    put32(w, ia->iaid);
    put32(w, first ? lifetime / 2 : 0);
    put32(w, first ? (uint32_t)((uint64_t)lifetime * 7 / 8) : 0);
    if (first)
        put_ia_address(w, c, lifetime);
    else
        put_status(w, STATUS_NO_ADDRS_AVAIL, none);
}

static void put_dns(struct writer *w, const struct dhcp_config *c)
{
    uint8_t names[512];
    size_t length = 0, n = 0;

    for (size_t i = 0; i < c->n_dns; i++)
        n += c->dns[i].family == AF_INET6;
    if (n) {
        put16(w, OPTION_DNS);
        put16(w, 16 * n);
        for (size_t i = 0; i < c->n_dns; i++)
            if (c->dns[i].family == AF_INET6)
                put_bytes(w, c->dns[i].bytes, 16);
    }
    for (size_t i = 0; i < c->n_search; i++)
        length += dns_encode_name(c->search[i], names + length, sizeof(names) - length);
    if (length)
        put_option(w, OPTION_SEARCH, names, length);
}

/* Which reply a message gets; 0: none. RFC 8415, 16 says which must name a server, and which must not. */
static uint8_t reply_type(const struct message *m, bool for_us, const char **ret_why)
{
    bool to_one = m->type == REQUEST || m->type == RENEW || m->type == RELEASE || m->type == DECLINE;

    *ret_why = NULL;
    if (m->type != INFORMATION_REQUEST && !m->client_id)
        *ret_why = "no client identifier";
    else if (to_one && !for_us)
        *ret_why = "for another server";
    else if (!to_one && m->server_id && !(m->type == INFORMATION_REQUEST && for_us))
        *ret_why = "names a server where none belongs";
    if (*ret_why)
        return 0;
    switch (m->type) {
    case SOLICIT:
        return m->rapid_commit ? REPLY : ADVERTISE;
    case REQUEST:
    case CONFIRM:
    case RENEW:
    case REBIND:
    case RELEASE:
    case DECLINE:
    case INFORMATION_REQUEST:
        return REPLY;
    default:
        *ret_why = "a kind of message that clients do not send";
        return 0;
    }
}

static void put_body(struct writer *w, const struct dhcp_config *c, const struct message *m)
{
    bool on_link = true;

    switch (m->type) {
    case CONFIRM:
        for (size_t i = 0; i < m->n_ia; i++)
            on_link &= !m->ia[i].has_address || m->ia[i].address_is_ours;
        put_status(w, on_link ? STATUS_SUCCESS : STATUS_NOT_ON_LINK, "");
        return;
    case RELEASE:
    case DECLINE:
        put_status(w, STATUS_SUCCESS, "");
        return;
    case SOLICIT:
        if (m->rapid_commit)
            put_option(w, OPTION_RAPID_COMMIT, NULL, 0);
        break;
    default:
        break;
    }
    if (m->type != INFORMATION_REQUEST)
        for (size_t i = 0; i < m->n_ia; i++)
            put_ia(w, c, &m->ia[i], i == 0);
    put_dns(w, c);
}

int dhcp6_answer(const struct dhcp_config *c, const uint8_t server_mac[6], const void *request, size_t length,
                 uint8_t ret[DHCP6_MESSAGE_MAX], size_t *ret_length, const char **ret_why)
{
    uint8_t duid[10] = {0, 3, 0, 1}; /* DUID-LL, Ethernet (11.4) */
    struct writer w = {.data = ret, .limit = DHCP6_MESSAGE_MAX};
    struct message m = {0};
    uint8_t type;

    memcpy(duid + 4, server_mac, 6);
    if (parse(c, request, length, &m) < 0) {
        *ret_why = "not a DHCPv6 message, or an option is longer than what holds it";
        return 0;
    }
    type = reply_type(&m, m.server_id && m.server_id_length == sizeof(duid) && !memcmp(m.server_id, duid, sizeof(duid)),
                      ret_why);
    if (!type)
        return 0;
    put_bytes(&w, &type, 1);
    put_bytes(&w, m.transaction, 3);
    if (m.client_id)
        put_option(&w, OPTION_CLIENTID, m.client_id, m.client_id_length);
    put_option(&w, OPTION_SERVERID, duid, sizeof(duid));
    put_body(&w, c, &m);
    if (w.full) {
        *ret_why = "the reply would be too long";
        return 0;
    }
    *ret_length = w.length;
    return 1;
}
