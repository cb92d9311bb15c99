/* SPDX-License-Identifier: Apache-2.0 */
/* One UDP payload to the DHCPv4 server: no crash, and a reply that a client could parse and that fits its frame. */
#include <stdlib.h>

#include "netsetup/dhcp4.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct dhcp_private_option options[] = {{224, "one"}, {254, "two"}};
    static const char *const search[] = {"default.svc.cluster.local", "a..b", ""};
    struct dhcp_config c = {.link = "k6t-eth0",
                            .any_client = true,
                            .mtu = 1450,
                            .search = search,
                            .n_search = 3,
                            .hostname = "vm",
                            .boot_file = "pxelinux.0",
                            .tftp_server = "10.0.0.1",
                            .options = options,
                            .n_options = 2};
    struct dhcp_route routes[2] = {0};
    struct dhcp4_message m, back;
    struct dhcp4_reply reply;
    const char *why;

    ip_parse("10.244.1.5/32", &c.address);
    ip_parse("169.254.75.10", &c.server);
    ip_parse("169.254.1.1", &c.gateway);
    ip_parse("169.254.1.1/32", &routes[0].to);
    ip_parse("0.0.0.0/0", &routes[1].to);
    routes[1].via = c.gateway;
    c.routes = routes;
    c.n_routes = 2;
    if (dhcp4_parse(data, size, &m, &why) < 0 || dhcp4_answer(&c, &m, &reply, &why) != 1)
        return 0;
    if (reply.length > 1422 || dhcp4_parse(reply.data, reply.length, &back, &why) < 0 || back.type != reply.type)
        abort();
    return 0;
}
