/* SPDX-License-Identifier: Apache-2.0 */
/* The first byte chooses: one UDP payload to the DHCPv6 server, or one frame to the advertiser. */
#include <stdlib.h>

#include "netsetup/dhcp6.h"
#include "netsetup/ra.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t mac[6] = {2, 0, 0, 0, 0, 0};
    static const char *const search[] = {"default.svc.cluster.local"};
    struct dhcp_config c = {.link = "k6t-eth0", .any_client = true, .mtu = 1450, .search = search, .n_search = 1};
    uint8_t reply[DHCP6_MESSAGE_MAX], from[6];
    struct ip dns;
    const char *why;
    size_t n = 0;

    ip_parse("fd10:0:2::2/120", &c.address6);
    ip_parse("fe80::1", &c.router6);
    ip_parse("fd00::a", &dns);
    c.dns = &dns;
    c.n_dns = 1;
    if (!size)
        return 0;
    if (data[0] & 0x80) {
        ra_is_solicitation(data + 1, size - 1, from);
        return 0;
    }
    if (dhcp6_answer(&c, mac, data, size, reply, &n, &why) == 1 && (n < 4 || n > sizeof(reply)))
        abort();
    return 0;
}
