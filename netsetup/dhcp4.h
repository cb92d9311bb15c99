/* SPDX-License-Identifier: Apache-2.0 */
/* DHCPv4 messages (RFC 2131, RFC 2132), apart from any socket: one request in, at most one reply out. */
#pragma once

#include "netsetup/dhcp.h"

#define DHCP4_SERVER_PORT 67
#define DHCP4_CLIENT_PORT 68
#define DHCP4_MESSAGE_MAX 1472U /* a frame of 1500 without IP and UDP headers */

enum dhcp4_type {
    DHCP4_DISCOVER = 1,
    DHCP4_OFFER,
    DHCP4_REQUEST,
    DHCP4_DECLINE,
    DHCP4_ACK,
    DHCP4_NAK,
    DHCP4_RELEASE,
    DHCP4_INFORM,
};

struct dhcp4_message {
    uint8_t op;
    uint32_t xid; /* as on the wire */
    uint16_t flags;
    uint8_t client[4], your[4], gateway[4]; /* ciaddr, yiaddr, giaddr */
    uint8_t mac[6];
    enum dhcp4_type type;
    bool has_requested, has_server;
    uint8_t requested[4], server[4]; /* options 50 and 54 */
    uint16_t max_size;               /* option 57; 0: not said */
    const uint8_t *identifier;       /* option 61, in the packet; NULL: none */
    size_t identifier_length;
};

/* -EBADMSG for what is no DHCPv4 message of an Ethernet client; the text of *ret_why says what is wrong. */
int dhcp4_parse(const void *data, size_t length, struct dhcp4_message *ret, const char **ret_why);

struct dhcp4_reply {
    enum dhcp4_type type;
    bool broadcast; /* else to `to` */
    uint8_t to[4];
    uint8_t data[DHCP4_MESSAGE_MAX];
    size_t length;
    unsigned left_out; /* options that found no room */
};

/* 1 and a reply; 0 when the message gets none (*ret_why says why not). */
int dhcp4_answer(const struct dhcp_config *config, const struct dhcp4_message *request, struct dhcp4_reply *ret,
                 const char **ret_why);
const char *dhcp4_type_name(enum dhcp4_type type);
