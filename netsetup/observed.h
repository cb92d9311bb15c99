/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a pod's network namespace holds, as far as a plan depends on it. Plain data: taken from the kernel by
 * net_observe() (observe.h), or read from JSON, so that a plan can be made and tested anywhere.
 *
 * Addresses are text ("10.244.1.5/24", "fd00::5/64"); everything lives in one arena.
 */
#pragma once

#include <jansson.h>

#include "base/arena.h"
#include "base/error.h"

struct net_link {
    const char *name;
    const char *kind;   /* "veth", "bridge", "tun"…; "" for a link without a kind */
    const char *mac;    /* "" where it has none */
    const char *master; /* "" when it is in no bridge */
    unsigned mtu;
    bool up;
};

struct net_address {
    const char *link;
    const char *address;       /* with prefix length; the local address */
    const char *peer;          /* without prefix length; "" for none */
    const char *broadcast;     /* "" for none */
    const char *label;         /* IPv4: "" for none */
    unsigned scope;            /* RT_SCOPE_… */
    unsigned flags;            /* IFA_F_…, without those that the kernel alone sets */
    unsigned valid, preferred; /* seconds; UINT32_MAX: for ever */
};

struct net_route {
    const char *link;
    bool ipv6;
    const char *to;   /* "0.0.0.0/0" or "::/0" for the default */
    const char *via;  /* "" for none; an IPv6 one may be that of an IPv4 route (RFC 5549) */
    const char *hops; /* several gateways of one route, all by this link: "10.0.0.2*1 10.0.0.3*2", with weights; via is
                         the first */
    const char *source;  /* preferred source; "" for none */
    const char *metrics; /* "mtu=1400 advmss=1360": ip-route(8)'s names; "" for none */
    unsigned table, metric, protocol, scope, type;
    bool onlink;
};

struct net_sysctl {
    const char *key; /* "net/ipv4/ip_forward": below /proc/sys, since link names may hold dots */
    const char *value;
};

/* A list in an arena: items are appended while it is made. */
#define NET_LIST(type)                                                                                                 \
    struct {                                                                                                           \
        type *items;                                                                                                   \
        size_t count, allocated;                                                                                       \
    }

struct net_strings {
    const char **items;
    size_t count, allocated;
};

struct net_observed {
    struct arena *arena;
    NET_LIST(struct net_link) links;
    NET_LIST(struct net_address) addresses;
    NET_LIST(struct net_route) routes;   /* those that the kernel does not make by itself from an address */
    NET_LIST(struct net_sysctl) sysctls; /* those that a plan may change */
    struct net_strings link_kinds;       /* that this kernel can make: "dummy", "ifb", "bridge", "tun" */
    struct net_strings nft_tables;       /* "ip nat"… */
    bool vhost_net;                      /* /dev/vhost-net is there */
};

/* Grows list by one zeroed item and returns it; NULL when out of memory. Old arrays stay in the arena. */
void *net_list_add(struct arena *arena, void *items_pointer, size_t *count, size_t *allocated, size_t size);
#define NET_LIST_ADD(arena, list)                                                                                      \
    ((__typeof__((list)->items))net_list_add(arena, &(list)->items, &(list)->count, &(list)->allocated,                \
                                             sizeof(*(list)->items)))
bool net_strings_has(const struct net_strings *list, const char *text);

struct net_observed *net_observed_new(void);
void net_observed_free(struct net_observed *observed);
DEFINE_CLEANUP(struct net_observed *, net_observed_free)

const struct net_link *net_observed_link(const struct net_observed *observed, const char *name);
/* The value now, or NULL if it was not looked at. */
const char *net_observed_sysctl(const struct net_observed *observed, const char *key);

/* A new reference; NULL when out of memory. */
json_t *net_observed_to_json(const struct net_observed *observed);
/* -EINVAL and ERROR_BAD_DATA, with the member named, for what is not of this shape. */
int net_observed_from_json(const json_t *json, struct net_observed **ret, struct error **ret_error);

/*
 * One after the other of a route's `hops` and `metrics`: 1 with the next one, 0 at the end, -EINVAL for what has not
 * that form. *p goes on behind it. `id` is that of linux/rtnetlink.h (RTAX_MTU).
 */
int net_route_next_hop(const char **p, char *ret_via, size_t size, unsigned *ret_weight);
int net_route_next_metric(const char **p, unsigned *ret_id, uint32_t *ret_value);
/* ip-route(8)'s name of a metric, or NULL. */
const char *net_route_metric_name(unsigned id);

/* The pieces that a stored plan holds too. */
json_t *net_address_to_json(const struct net_address *address);
json_t *net_route_to_json(const struct net_route *route);
int net_address_from_json(struct arena *arena, const json_t *json, struct net_address *ret, struct error **ret_error);
int net_route_from_json(struct arena *arena, const json_t *json, struct net_route *ret, struct error **ret_error);
