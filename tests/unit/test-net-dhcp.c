/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/arena.h"
#include "netsetup/dhcp4.h"
#include "netsetup/dhcp6.h"
#include "netsetup/ra.h"

static const uint8_t guest_mac[6] = {0xca, 0x5f, 0x48, 0x41, 0x7d, 0x5d};
static const uint8_t other_mac[6] = {0xca, 0x5f, 0x48, 0x41, 0x7d, 0x5e};

static struct ip ip(const char *text)
{
    struct ip i;

    assert_int_equal(ip_parse(text, &i), 0);
    return i;
}

/* The pod of the user's documents: MTU 1450, bridge binding. */
static struct dhcp_config bridge_config(void)
{
    struct dhcp_config c = {.link = "k6t-eth0", .mtu = 1450};

    memcpy(c.mac, guest_mac, 6);
    c.address = ip("10.244.1.5/24");
    c.server = ip("169.254.75.10");
    c.gateway = ip("10.244.1.1");
    return c;
}

struct packet {
    uint8_t data[1500];
    size_t length;
};

static void put(struct packet *p, uint8_t code, const void *value, uint8_t length)
{
    p->data[p->length++] = code;
    p->data[p->length++] = length;
    memcpy(p->data + p->length, value, length);
    p->length += length;
}

static struct packet request(enum dhcp4_type type, const uint8_t mac[6])
{
    struct packet p = {.data = {1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef}, .length = 240};
    static const uint8_t cookie[4] = {99, 130, 83, 99};
    uint8_t t = (uint8_t)type;

    memcpy(p.data + 28, mac, 6);
    memcpy(p.data + 236, cookie, 4);
    put(&p, 53, &t, 1);
    return p;
}

static const uint8_t *option(const struct dhcp4_reply *r, uint8_t code, size_t *length)
{
    size_t at = 240;

    while (at < r->length && r->data[at] != 255) {
        if (r->data[at] == code) {
            *length = r->data[at + 1];
            return r->data + at + 2;
        }
        at += r->data[at] ? 2U + r->data[at + 1] : 1U;
    }
    return NULL;
}

static void assert_option(const struct dhcp4_reply *r, uint8_t code, const void *value, size_t length)
{
    size_t n = 0;
    const uint8_t *p = option(r, code, &n);

    assert_non_null(p);
    assert_int_equal(n, length);
    assert_memory_equal(p, value, length);
}

static int answer(const struct dhcp_config *c, struct packet *p, struct dhcp4_reply *r, const char **why)
{
    struct dhcp4_message m;
    uint8_t *exact; /* so that a read behind the end is seen */
    int got;

    p->data[p->length++] = 255;
    exact = malloc(p->length);
    assert_non_null(exact);
    memcpy(exact, p->data, p->length);
    assert_int_equal(dhcp4_parse(exact, p->length, &m, why), 0);
    got = dhcp4_answer(c, &m, r, why);
    free(exact);
    return got;
}

static void test_discover(void **state)
{
    struct dhcp_config c = bridge_config();
    struct packet p = request(DHCP4_DISCOVER, guest_mac);
    struct dhcp4_reply r;
    const char *why;
    struct ip dns[] = {ip("10.96.0.10"), ip("fd00::a"), ip("10.96.0.11")}, ntp[] = {ip("10.0.0.9")};
    static const char *const search[] = {"default.svc.cluster.local", "svc.cluster.local"};
    static const struct dhcp_private_option private_[] = {{240, "extra"}};

    c.dns = dns;
    c.n_dns = 3;
    c.search = search;
    c.n_search = 2;
    c.hostname = "testvm";
    c.domain = search[0];
    c.boot_file = "pxelinux.0";
    c.tftp_server = "10.0.0.7";
    c.ntp = ntp;
    c.n_ntp = 1;
    c.options = private_;
    c.n_options = 1;
    assert_int_equal(answer(&c, &p, &r, &why), 1);
    assert_int_equal(r.type, DHCP4_OFFER);
    assert_true(r.broadcast);
    assert_int_equal(r.data[0], 2);
    assert_memory_equal(r.data + 4, p.data + 4, 4);
    assert_memory_equal(r.data + 16, ((uint8_t[]){10, 244, 1, 5}), 4);
    assert_memory_equal(r.data + 20, ((uint8_t[]){10, 0, 0, 7}), 4);
    assert_memory_equal(r.data + 28, guest_mac, 6);
    assert_string_equal(r.data + 108, "pxelinux.0");
    assert_option(&r, 53, "\x02", 1);
    assert_option(&r, 54, ((uint8_t[]){169, 254, 75, 10}), 4);
    assert_option(&r, 51, ((uint8_t[]){0x05, 0x25, 0x0a, 0x80}), 4); /* 999 days */
    assert_option(&r, 1, ((uint8_t[]){255, 255, 255, 0}), 4);
    assert_option(&r, 3, ((uint8_t[]){10, 244, 1, 1}), 4);
    assert_option(&r, 6, ((uint8_t[]){10, 96, 0, 10, 10, 96, 0, 11}), 8);
    assert_option(&r, 26, ((uint8_t[]){0x05, 0xaa}), 2);
    assert_option(&r, 12, "testvm", 6);
    assert_option(&r, 15, search[0], strlen(search[0]));
    assert_option(&r, 66, "10.0.0.7", 8);
    assert_option(&r, 67, "pxelinux.0", 10);
    assert_option(&r, 42, ((uint8_t[]){10, 0, 0, 9}), 4);
    assert_option(&r, 240, "extra", 5);
    assert_option(&r, 119, "\7default\3svc\7cluster\5local\0\3svc\7cluster\5local", 46);
    assert_null(option(&r, 121, &(size_t){0}));
    assert_int_equal(r.left_out, 0);
}

/* RFC 2131, 4.3.2 and table 4: selecting, init-reboot, renewing, rebinding. */
static void test_request(void **state)
{
    static const struct {
        const char *requested, *server, *client;
        int answers;
        enum dhcp4_type type;
        bool broadcast;
    } cases[] = {
        {"10.244.1.5", "169.254.75.10", NULL, 1, DHCP4_ACK, true},
        {"10.244.1.9", "169.254.75.10", NULL, 1, DHCP4_NAK, true},
        {"10.244.1.5", "10.244.1.77", NULL, 0, 0, false}, /* another server was chosen */
        {"10.244.1.5", NULL, NULL, 1, DHCP4_ACK, true},   /* after a reboot */
        {"192.168.122.4", NULL, NULL, 1, DHCP4_NAK, true},
        {NULL, NULL, "10.244.1.5", 1, DHCP4_ACK, false}, /* renewal: to the guest's own address */
        {NULL, NULL, "192.168.122.4", 1, DHCP4_NAK, true},
        {NULL, NULL, NULL, 0, 0, false},
    };
    struct dhcp_config c = bridge_config();

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct packet p = request(DHCP4_REQUEST, guest_mac);
        struct dhcp4_reply r;
        const char *why;

        if (cases[i].requested)
            put(&p, 50, ip(cases[i].requested).bytes, 4);
        if (cases[i].server)
            put(&p, 54, ip(cases[i].server).bytes, 4);
        if (cases[i].client)
            memcpy(p.data + 12, ip(cases[i].client).bytes, 4);
        assert_int_equal(answer(&c, &p, &r, &why), cases[i].answers);
        if (!cases[i].answers) {
            assert_non_null(why);
            continue;
        }
        assert_int_equal(r.type, cases[i].type);
        assert_int_equal(r.broadcast, cases[i].broadcast);
        if (r.type == DHCP4_NAK) {
            assert_memory_equal(r.data + 16, "\0\0\0\0", 4);
            assert_null(option(&r, 51, &(size_t){0}));
        }
    }
}

static void test_others(void **state)
{
    struct dhcp_config c = bridge_config();
    struct packet p = request(DHCP4_DISCOVER, other_mac);
    struct dhcp4_reply r;
    const char *why;

    assert_int_equal(answer(&c, &p, &r, &why), 0);
    assert_string_equal(why, "not the guest's MAC");
    c.any_client = true;
    p = request(DHCP4_DISCOVER, other_mac);
    assert_int_equal(answer(&c, &p, &r, &why), 1);
    p = request(DHCP4_DISCOVER, guest_mac);
    p.data[24] = 10; /* giaddr */
    assert_int_equal(answer(&c, &p, &r, &why), 0);
    p = request(DHCP4_DISCOVER, guest_mac);
    p.data[0] = 2;
    assert_int_equal(answer(&c, &p, &r, &why), 0);
    p = request(DHCP4_RELEASE, guest_mac);
    assert_int_equal(answer(&c, &p, &r, &why), 0);
    p = request(DHCP4_DECLINE, guest_mac);
    assert_int_equal(answer(&c, &p, &r, &why), 0);
    p = request(DHCP4_INFORM, guest_mac);
    assert_int_equal(answer(&c, &p, &r, &why), 0);
    p = request(DHCP4_INFORM, guest_mac);
    memcpy(p.data + 12, ip("10.244.1.5").bytes, 4);
    assert_int_equal(answer(&c, &p, &r, &why), 1);
    assert_int_equal(r.type, DHCP4_ACK);
    assert_memory_equal(r.data + 16, "\0\0\0\0", 4);
    assert_null(option(&r, 51, &(size_t){0}));
}

/* A /32 address: the gateway is off the link, and gets a route of its own, before the default. */
static void test_routes(void **state)
{
    struct dhcp_config c = bridge_config();
    struct dhcp_route routes[] = {
        {ip("169.254.1.1/32"), {0}},
        {ip("10.8.0.0/13"), ip("169.254.1.1")},
        {ip("0.0.0.0/0"), ip("169.254.1.1")},
    };
    struct packet p = request(DHCP4_DISCOVER, guest_mac);
    struct dhcp4_reply r;
    const char *why;

    c.address = ip("10.244.1.5/32");
    c.gateway = ip("169.254.1.1");
    c.routes = routes;
    c.n_routes = 3;
    assert_int_equal(answer(&c, &p, &r, &why), 1);
    assert_option(&r, 1, "\xff\xff\xff\xff", 4);
    assert_option(&r, 121, ((uint8_t[]){32, 169, 254, 1, 1, 0, 0, 0, 0, 13, 10, 8, 169, 254, 1, 1, 0, 169, 254, 1, 1}),
                  21);
    c.routes = routes + 2;
    c.n_routes = 1;
    p = request(DHCP4_DISCOVER, guest_mac);
    assert_int_equal(answer(&c, &p, &r, &why), 1);
    assert_null(option(&r, 121, &(size_t){0})); /* the router option says it */
}

/* A client that takes 548 bytes gets what it needs most; one that takes more gets all; a long value is split. */
static void test_size(void **state)
{
    static char longest[400];
    struct dhcp_config c = bridge_config();
    struct dhcp_private_option options[] = {{224, longest}, {225, "short"}};
    struct packet p = request(DHCP4_DISCOVER, guest_mac);
    struct dhcp4_reply r;
    const char *why;
    size_t n;

    memset(longest, 'x', sizeof(longest) - 1);
    c.options = options;
    c.n_options = 2;
    assert_int_equal(answer(&c, &p, &r, &why), 1);
    assert_int_equal(r.left_out, 1);
    assert_true(r.length <= 548);
    assert_option(&r, 225, "short", 5);
    p = request(DHCP4_DISCOVER, guest_mac);
    put(&p, 57, ((uint8_t[]){0x05, 0xdc}), 2);
    assert_int_equal(answer(&c, &p, &r, &why), 1);
    assert_int_equal(r.left_out, 0);
    assert_non_null(option(&r, 224, &n));
    assert_int_equal(n, 255);
    assert_true(r.length <= 1422); /* the link's MTU without headers */
}

static void test_malformed(void **state)
{
    struct packet good = request(DHCP4_DISCOVER, guest_mac), p;
    struct dhcp4_message m;
    const char *why;

    good.data[good.length++] = 255;
    assert_int_equal(dhcp4_parse(good.data, good.length, &m, &why), 0);
    for (size_t n = 0; n < 240; n += 13)
        assert_int_equal(dhcp4_parse(good.data, n, &m, &why), -EBADMSG);
    p = good;
    p.data[236]++;
    assert_int_equal(dhcp4_parse(p.data, p.length, &m, &why), -EBADMSG);
    p = good;
    p.data[2] = 16;
    assert_int_equal(dhcp4_parse(p.data, p.length, &m, &why), -EBADMSG);
    p = good;
    p.data[28] |= 1;
    assert_int_equal(dhcp4_parse(p.data, p.length, &m, &why), -EBADMSG);
    p = good;
    p.data[241] = 200; /* longer than the packet */
    assert_int_equal(dhcp4_parse(p.data, p.length, &m, &why), -EBADMSG);
    p = good;
    p.data[242] = 99; /* no such type */
    assert_int_equal(dhcp4_parse(p.data, p.length, &m, &why), -EBADMSG);
    p = good;
    p.data[240] = 53;
    p.length = 241; /* a code without a length */
    assert_int_equal(dhcp4_parse(p.data, p.length, &m, &why), -EBADMSG);
    /* Options that go on in the file field (RFC 2132, 9.3), unless that is broken. */
    p = request(DHCP4_REQUEST, guest_mac);
    put(&p, 52, "\1", 1);
    memcpy(p.data + 108, "\x32\4\12\0\2\2\xff", 7);
    assert_int_equal(dhcp4_parse(p.data, p.length, &m, &why), 0);
    assert_true(m.has_requested);
    memset(p.data + 108, 50, 128);
    assert_int_equal(dhcp4_parse(p.data, p.length, &m, &why), -EBADMSG);
}

/* ---- DHCPv6 ---------------------------------------------------------------------------------------------------- */

static const uint8_t bridge_mac[6] = {2, 0, 0, 0, 0, 0};

static struct dhcp_config config6(void)
{
    struct dhcp_config c = {.link = "k6t-eth0", .any_client = true, .mtu = 1450};

    memcpy(c.mac, guest_mac, 6);
    c.address6 = ip("fd10:0:2::2/120");
    c.router6 = ip("fe80::ff:fe00:0");
    c.has_router_mac = true;
    memcpy(c.router_mac, bridge_mac, 6);
    return c;
}

static void put6(struct packet *p, unsigned code, const void *value, size_t length)
{
    uint8_t head[4] = {0, (uint8_t)code, (uint8_t)(length >> 8), (uint8_t)length};

    memcpy(p->data + p->length, head, 4);
    if (length)
        memcpy(p->data + p->length + 4, value, length);
    p->length += 4 + length;
}

static const uint8_t server_duid[10] = {0, 3, 0, 1, 2, 0, 0, 0, 0, 0};

static struct packet message6(uint8_t type, const char *address, bool with_server)
{
    static const uint8_t duid[10] = {0, 3, 0, 1, 0xca, 0x5f, 0x48, 0x41, 0x7d, 0x5d};
    struct packet p = {.data = {type, 1, 2, 3}, .length = 4};
    uint8_t ia[40] = {0, 0, 0, 7, [12] = 0, 5, 0, 24};

    put6(&p, 1, duid, sizeof(duid));
    if (with_server)
        put6(&p, 2, server_duid, sizeof(server_duid));
    if (address)
        memcpy(ia + 16, ip(address).bytes, 16);
    put6(&p, 3, ia, address ? 40 : 12);
    return p;
}

static const uint8_t *option6(const uint8_t *data, size_t length, unsigned code, size_t *ret_length)
{
    for (size_t at = 4; at + 4 <= length; at += 4U + (size_t)(data[at + 2] << 8 | data[at + 3])) {
        if ((unsigned)(data[at] << 8 | data[at + 1]) == code) {
            *ret_length = (size_t)(data[at + 2] << 8 | data[at + 3]);
            return data + at + 4;
        }
    }
    return NULL;
}

static void test_dhcp6(void **state)
{
    struct dhcp_config c = config6();
    struct ip dns[] = {ip("10.96.0.10"), ip("fd00::a")};
    uint8_t reply[DHCP6_MESSAGE_MAX];
    struct packet p = message6(1, NULL, false);
    const uint8_t *value;
    const char *why = NULL;
    size_t n, length;

    c.dns = dns;
    c.n_dns = 2;
    assert_int_equal(dhcp6_answer(&c, bridge_mac, p.data, p.length, reply, &n, &why), 1);
    assert_int_equal(reply[0], 2);
    assert_memory_equal(reply + 1, p.data + 1, 3);
    value = option6(reply, n, 3, &length);
    assert_int_equal(length, 40);
    assert_memory_equal(value + 16, ip("fd10:0:2::2").bytes, 16);
    value = option6(reply, n, 2, &length);
    assert_memory_equal(value, server_duid, 10);
    value = option6(reply, n, 23, &length);
    assert_int_equal(length, 16);
    assert_null(option6(reply, n, 14, &length));

    put6(&p, 14, NULL, 0); /* rapid commit */
    assert_int_equal(dhcp6_answer(&c, bridge_mac, p.data, p.length, reply, &n, &why), 1);
    assert_int_equal(reply[0], 7);
    assert_non_null(option6(reply, n, 14, &length));

    p = message6(3, NULL, true);
    assert_int_equal(dhcp6_answer(&c, bridge_mac, p.data, p.length, reply, &n, &why), 1);
    assert_int_equal(reply[0], 7);
    p = message6(3, NULL, false);
    assert_int_equal(dhcp6_answer(&c, bridge_mac, p.data, p.length, reply, &n, &why), 0);
    assert_string_equal(why, "for another server");

    p = message6(4, "fd10:0:2::2", false); /* confirm */
    assert_int_equal(dhcp6_answer(&c, bridge_mac, p.data, p.length, reply, &n, &why), 1);
    value = option6(reply, n, 13, &length);
    assert_memory_equal(value, "\0\0", 2);
    p = message6(4, "fd99::2", false);
    assert_int_equal(dhcp6_answer(&c, bridge_mac, p.data, p.length, reply, &n, &why), 1);
    value = option6(reply, n, 13, &length);
    assert_memory_equal(value, "\0\4", 2);

    p = (struct packet){.data = {11, 9, 9, 9}, .length = 4}; /* information request, no identifier */
    assert_int_equal(dhcp6_answer(&c, bridge_mac, p.data, p.length, reply, &n, &why), 1);
    assert_null(option6(reply, n, 3, &length));
    p.data[0] = 1;
    assert_int_equal(dhcp6_answer(&c, bridge_mac, p.data, p.length, reply, &n, &why), 0);
    p = message6(7, NULL, false); /* a server's message */
    assert_int_equal(dhcp6_answer(&c, bridge_mac, p.data, p.length, reply, &n, &why), 0);
    p = message6(1, NULL, false);
    for (size_t cut = 0; cut < p.length; cut++) {
        uint8_t *exact = malloc(cut + 1);

        memcpy(exact, p.data, cut);
        dhcp6_answer(&c, bridge_mac, exact, cut, reply, &n, &why);
        free(exact);
    }
}

/* ---- router advertisements ------------------------------------------------------------------------------------- */

static uint16_t sum(const uint8_t *frame, size_t length)
{
    uint32_t s = (uint32_t)(length - 54) + 58;

    for (size_t i = 22; i < length; i += 2)
        s += (uint32_t)frame[i] << 8 | (i + 1 < length ? frame[i + 1] : 0);
    while (s >> 16)
        s = (s & 0xffff) + (s >> 16);
    return (uint16_t)s;
}

static void test_advertisement(void **state)
{
    struct dhcp_config c = config6();
    struct dhcp_route routes[] = {{ip("fd77::/48"), ip("fe80::1")}, {ip("::/0"), ip("fe80::1")}};
    uint8_t frame[RA_FRAME_MAX];
    size_t n;

    c.routes6 = routes;
    c.n_routes6 = 2;
    n = ra_build(&c, other_mac, guest_mac, frame);
    assert_true(n > 54);
    assert_memory_equal(frame, guest_mac, 6);
    assert_memory_equal(frame + 6, other_mac, 6);
    assert_memory_equal(frame + 22, ip("fe80::ff:fe00:0").bytes, 16);
    assert_int_equal(frame[21], 255);
    assert_int_equal(sum(frame, n), 0xffff);
    assert_int_equal(frame[54], 134);
    assert_int_equal(frame[59], 0xc0);
    assert_int_equal(frame[60] << 8 | frame[61], 9000);
    assert_memory_equal(frame + 70, ((uint8_t[]){1, 1, 2, 0, 0, 0, 0, 0}), 8);            /* its MAC */
    assert_memory_equal(frame + 78, ((uint8_t[]){5, 1, 0, 0, 0, 0, 0x05, 0xaa}), 8);      /* MTU */
    assert_memory_equal(frame + 86, ((uint8_t[]){3, 4, 120, 0x80}), 4);                   /* on the link, no autoconf */
    assert_memory_equal(frame + 118, ((uint8_t[]){24, 2, 48, 0, 255, 255, 255, 255}), 8); /* another route */
    c.n_routes6 = 1;
    n = ra_build(&c, other_mac, NULL, frame);
    assert_int_equal(frame[60] << 8 | frame[61], 0); /* no default route: no default router */
    assert_memory_equal(frame, "\x33\x33\0\0\0\1", 6);
}

static void test_solicitation(void **state)
{
    uint8_t frame[62] = {0x33, 0x33, 0, 0, 0, 2}, from[6];
    uint16_t s;

    memcpy(frame + 6, guest_mac, 6);
    memcpy(frame + 12, "\x86\xdd\x60\0\0\0\0\x08\x3a\xff", 10);
    memcpy(frame + 22, ip("fe80::1").bytes, 16);
    memcpy(frame + 38, ip("ff02::2").bytes, 16);
    frame[54] = 133;
    s = (uint16_t)~sum(frame, sizeof(frame));
    frame[56] = (uint8_t)(s >> 8);
    frame[57] = (uint8_t)s;
    assert_true(ra_is_solicitation(frame, sizeof(frame), from));
    assert_memory_equal(from, guest_mac, 6);
    for (size_t i = 12; i < sizeof(frame); i++) { /* every change of a checked byte is found */
        frame[i] ^= 0x55;
        if (i > 21 || i == 12 || i == 13 || i == 18 || i == 19 || i == 20 || i == 21)
            assert_false(ra_is_solicitation(frame, sizeof(frame), from));
        frame[i] ^= 0x55;
    }
    for (size_t n = 0; n < sizeof(frame); n++)
        assert_false(ra_is_solicitation(frame, n, from));
}

static void test_resolv(void **state)
{
    _cleanup_(arena_freep) struct arena *a = arena_new();
    struct dhcp_resolv r;
    char text[IP_TEXT_MAX];

    dhcp_resolv_parse(a,
                      "# comment\nnameserver 10.96.0.10\nnameserver fd00::a\nnameserver nobody\n"
                      "search old.example\nsearch default.svc.cluster.local  svc.cluster.local\toverlong..label\n"
                      "options ndots:5",
                      &r);
    assert_int_equal(r.n_dns, 2);
    assert_int_equal(r.n_search, 2);
    assert_string_equal(r.search[0], "default.svc.cluster.local");
    dhcp_resolv_parse(a, NULL, &r);
    assert_int_equal(r.n_dns, 1);
    assert_string_equal(ip_text(&r.dns[0], text), "8.8.8.8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_discover), cmocka_unit_test(test_request),       cmocka_unit_test(test_others),
        cmocka_unit_test(test_routes),   cmocka_unit_test(test_size),          cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_dhcp6),    cmocka_unit_test(test_advertisement), cmocka_unit_test(test_solicitation),
        cmocka_unit_test(test_resolv),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
