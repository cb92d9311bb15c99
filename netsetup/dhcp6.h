/* SPDX-License-Identifier: Apache-2.0 */
/* DHCPv6 messages (RFC 8415), apart from any socket: the one address of the guest, as an IA_NA, and its DNS. */
#pragma once

#include "netsetup/dhcp.h"

#define DHCP6_SERVER_PORT 547
#define DHCP6_CLIENT_PORT 546
#define DHCP6_MESSAGE_MAX 1200U /* fits the smallest IPv6 MTU */

/*
 * 1 and a reply in ret (at most DHCP6_MESSAGE_MAX bytes); 0 when there is none to give, and *ret_why says why.
 * `server_mac` makes our DUID-LL.
 */
int dhcp6_answer(const struct dhcp_config *config, const uint8_t server_mac[6], const void *request, size_t length,
                 uint8_t ret[DHCP6_MESSAGE_MAX], size_t *ret_length, const char **ret_why);
