/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a pod's network namespace becomes a virtual machine's network: a list of steps, each with its undo, and what the
 * guest is to be told by DHCP. Pure: the same manifest and the same observed namespace give the same plan.
 */
#pragma once

#include <jansson.h>
#include <sys/types.h>

#include <vmlet/vmi.h>

#include "netsetup/observed.h"

/* What a step does: symbol, name in JSON, what `value` is. */
#define NET_OPS(X)                                                                                                     \
    X(LINK_UP, "link-up")                                                                                              \
    X(LINK_DOWN, "link-down")                                                                                          \
    X(LINK_RENAME, "link-rename")     /* value: the new name */                                                        \
    X(LINK_MAC, "link-mac")           /* value: the MAC */                                                             \
    X(LINK_MTU, "link-mtu")           /* value: bytes */                                                               \
    X(LINK_MASTER, "link-master")     /* value: the bridge; "" takes it out of its bridge */                           \
    X(LINK_LEARNING, "link-learning") /* value: on, off; of a port of a bridge */                                      \
    X(LINK_FLOOD, "link-flood")       /* value: on, off; frames to MACs that the bridge does not know */               \
    X(LINK_DELETE, "link-delete")     /* value: the kind that it must have */                                          \
    X(BRIDGE_ADD, "bridge-add")       /* value: its MAC */                                                             \
    X(TAP_ADD, "tap-add")             /* owner, group, queues */                                                       \
    X(DUMMY_ADD, "dummy-add")         /* value: kind of link: dummy, or its stand-in ifb or tap; mac */                \
    X(ADDRESS_ADD, "address-add")                                                                                      \
    X(ADDRESS_DELETE, "address-delete")                                                                                \
    X(ROUTE_ADD, "route-add")                                                                                          \
    X(ROUTE_DELETE, "route-delete")                                                                                    \
    X(SYSCTL, "sysctl") /* link: the key; value */                                                                     \
    X(NFT, "nft")       /* rules: a JSON document for nft -j */

enum net_op {
#define X(symbol, name) NET_OP_##symbol,
    NET_OPS(X)
#undef X
        NET_OP_COUNT,
};

struct net_action {
    enum net_op op;
    const char *link;
    const char *value;
    const char *mac;
    unsigned owner, group, queues;
    struct net_address address;
    struct net_route route;
    const char *rules;
};

struct net_step {
    struct net_action action;
    bool has_undo;
    struct net_action undo;
    const char *why;
};

/* The names of one interface's links (compat §3.1 of KubeVirt's naming). */
struct net_names {
    const char *pod;    /* eth0, pod<hash>, or net<N> */
    const char *nic;    /* eth0-nic */
    const char *bridge; /* k6t-eth0 */
    const char *tap;    /* tap0 */
    const char *router; /* ra0: a tap that the launcher sends router advertisements through */
};

struct net_guest_route {
    const char *to;
    const char *via; /* "" : on the link */
};

struct net_interface {
    const char *name;
    size_t index; /* in spec.domain.devices.interfaces */
    enum vmi_binding binding;
    struct net_names names;
    bool has_tap;
    bool present; /* set up already: no steps */
    enum vmi_link_state state;
    const char *pod_mac; /* the pod NIC's own, as it was given */
    const char *mac;     /* the guest's */
    unsigned mtu, queues;
    bool vhost;
    const char *note;           /* what is different from the usual, for people; NULL: nothing */
    struct net_strings pod_ips; /* global addresses of the pod link, without lengths; IPv4 first */

    /* What the launcher's servers tell the guest. */
    bool dhcp;                         /* false: IPAM is disabled, or the binding does it itself */
    const char *ip, *ipv6;             /* with lengths; NULL: none */
    const char *server, *gateway;      /* IPv4, without lengths */
    const char *server6;               /* IPv6, without length: masquerade's gateway */
    const char *router6, *router6_mac; /* the link-local sender of advertisements; NULL MAC: the guest asks for it */
    NET_LIST(struct net_guest_route) routes; /* IPv4: all of the pod's, the default last */
    NET_LIST(struct net_guest_route) routes6;
    const char *passt_socket;
    char *const *passt_argv; /* listens on the socket; NULL-terminated; NULL: another binding */
};

struct net_plan {
    struct arena *arena;
    const char *vm; /* <namespace>_<name> */
    NET_LIST(struct net_interface) interfaces;
    NET_LIST(struct net_step) steps;
};

struct net_plan_options {
    uid_t owner;             /* of the taps; the group is the same number */
    const char *private_dir; /* where passt's socket goes; NULL: "/var/run/kubevirt-private/<uid>" */
    bool migration_over_tcp; /* leave KubeVirt's ports for direct migration to the pod (49152, 49153) */
};

#define NET_DEFAULT_OWNER 107U /* uid and gid qemu in KubeVirt's images */

/* Names of a network's links. `primary`: the pod network, or the multus network that stands in its place. `ordinal`:
 * 0: names by hash; N from 1: the old scheme's net<N>. -ENOMEM. */
int net_names_make(struct arena *arena, const char *network, bool primary, unsigned ordinal, struct net_names *ret);
/* True for the pod network and for the multus default network. */
bool net_network_is_primary(const struct vmi_network *network);

/*
 * Makes the plan. Refuses (ERROR_NETWORK) a namespace that lacks a link that the manifest wants, or that holds a part
 * of what the plan would make; ERROR_NOT_SUPPORTED names what cannot be done. All reasons stand in one message.
 * The plan borrows text from the manifest and from `observed`: both must outlive it.
 */
int net_plan_make(const struct vmi *vmi, const struct net_observed *observed, const struct net_plan_options *options,
                  struct net_plan **ret, struct error **ret_error);
void net_plan_free(struct net_plan *plan);
DEFINE_CLEANUP(struct net_plan *, net_plan_free)

json_t *net_plan_to_json(const struct net_plan *plan);
/* Columns for people; freed by the caller, NULL when out of memory. */
char *net_plan_to_table(const struct net_plan *plan);
/* "link-rename eth0 to eth0-nic": one action in words; in the arena. */
char *net_action_text(struct arena *arena, const struct net_action *action);
const char *net_op_name(enum net_op op);
json_t *net_action_to_json(const struct net_action *action);
/* Strict: -EINVAL and ERROR_BAD_DATA for an action that no plan would hold. */
int net_action_from_json(struct arena *arena, const json_t *json, struct net_action *ret, struct error **ret_error);

/* The masquerade binding in one family. */
struct net_nat {
    bool ipv6;
    const char *link, *bridge, *guest, *gateway, *pod_ip; /* addresses without lengths */
    const struct vmi_interface *interface;                /* its ports */
    bool migration_over_tcp, istio;
    bool table_is_ours; /* no table of this name was there: taken away whole */
};
/* nft documents for one or both families (plan-nft.c): to set up, and to take away. One document is one transaction of
 * the kernel and one run of nft. Taking away works also where somebody else has taken a whole table away before. */
char *net_nat_rules(struct arena *arena, const struct net_nat *nat, size_t count);
char *net_nat_undo(struct arena *arena, const struct net_nat *nat, size_t count);

#define NET_ETHERNET_MTU 1500U

/*
 * plan-passt.c: the socket and the command line of passt(1) for one interface. In a pod its link's name and its MTU are
 * known. Without them (on a host, for `vmlet run`) passt takes the link with the default route and an MTU of its own,
 * and listens for the ports that the interface names, on the loopback addresses alone; without such ports for none.
 * -ENOMEM.
 */
int net_passt_make(struct arena *arena, const struct vmi_interface *interface, const char *private_dir,
                   struct net_interface *n);
