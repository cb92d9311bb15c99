/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The servers that give the guest its addresses: DHCPv4, DHCPv6 and router advertisements on one bridge. They run in
 * the launcher, on its event loop, and need no capability but port 67 and 547 (CAP_NET_BIND_SERVICE): a socket is bound
 * to the bridge by SO_BINDTODEVICE (unprivileged since Linux 5.7), and advertisements leave through a tap of our own.
 */
#pragma once

#include <jansson.h>
#include <systemd/sd-event.h>

#include "base/arena.h"
#include "base/error.h"
#include "netsetup/ip.h"

struct vmi;
struct net_interface;

struct dhcp_route {
    struct ip to;
    struct ip via; /* family 0: on the link */
};

struct dhcp_private_option {
    uint8_t code; /* 224 to 254 */
    const char *value;
};

/* What one guest NIC is told. Lists are borrowed from the arena or the caller, who keeps them while the server lives.
 */
struct dhcp_config {
    const char *link;       /* the bridge */
    uint8_t mac[6];         /* of the guest */
    bool any_client;        /* masquerade: whoever asks; else only `mac` is answered */
    unsigned mtu;           /* 0: not told */
    uint32_t lease_seconds; /* 0: 999 days, KubeVirt's */

    struct ip address; /* family 0: no DHCPv4 */
    struct ip server;  /* ours */
    struct ip gateway; /* family 0: none */
    const struct dhcp_route *routes;
    size_t n_routes;

    struct ip address6; /* family 0: no IPv6 */
    struct ip router6;  /* link-local sender of advertisements; family 0: none are sent */
    bool has_router_mac;
    uint8_t router_mac[6];  /* advertised with it; without it the guest asks the router itself */
    const char *router_tap; /* the tap that advertisements leave through */
    const struct dhcp_route *routes6;
    size_t n_routes6;

    const struct ip *dns; /* IPv4 and IPv6, in the order of resolv.conf */
    size_t n_dns;
    const char *const *search;
    size_t n_search;
    const char *hostname, *domain;
    const char *boot_file, *tftp_server;
    const struct ip *ntp;
    size_t n_ntp;
    const struct dhcp_private_option *options;
    size_t n_options;
};

#define DHCP_DEFAULT_LEASE_SECONDS (999U * 24 * 3600)

/* resolv.conf(5), as far as guests are told of it. */
struct dhcp_resolv {
    struct ip dns[8];
    size_t n_dns;
    const char *search[16];
    size_t n_search;
};
/* Never fails: what is not understood is left out. Text lives in the arena. Without a nameserver: 8.8.8.8, as KubeVirt
 * has it. */
void dhcp_resolv_parse(struct arena *arena, const char *text, struct dhcp_resolv *ret);

/*
 * Joins what the plan (or its cache) says about an interface with the manifest's dhcpOptions and the pod's resolv.conf
 * and host name. `resolv_text` and `hostname` may be NULL. All in the arena. ERROR_NETWORK for text that is no address.
 */
int dhcp_config_make(struct arena *arena, const struct vmi *vmi, const struct net_interface *interface,
                     const char *resolv_text, const char *hostname, struct dhcp_config *ret, struct error **ret_error);

struct dhcp_server;

/* Starts what the config asks for; it must outlive the server. ERROR_NETWORK names the socket that could not be had. */
int dhcp_server_new(sd_event *event, const struct dhcp_config *config, struct dhcp_server **ret,
                    struct error **ret_error);
void dhcp_server_free(struct dhcp_server *server);
DEFINE_CLEANUP(struct dhcp_server *, dhcp_server_free)

/* Called when a guest has taken its address for the first time, or another guest has. */
typedef void (*dhcp_bound_fn)(struct dhcp_server *server, void *userdata);
void dhcp_server_on_bound(struct dhcp_server *server, dhcp_bound_fn bound, void *userdata);
/* What is to survive the launcher: who took the address and when, and the counters. A new reference. */
json_t *dhcp_server_save(const struct dhcp_server *server);
/* Gives a new server what dhcp_server_save() said. What it does not know is ignored. */
void dhcp_server_restore(struct dhcp_server *server, const json_t *state);
