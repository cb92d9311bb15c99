/* SPDX-License-Identifier: Apache-2.0 */
#include "netsetup/plan.h"

#include <linux/if_ether.h>
#include <linux/rtnetlink.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/strbuf.h"
#include "netsetup/ip.h"
#include "netsetup/sha256.h"

#define KEY_FORWARD4  "net/ipv4/ip_forward"
#define KEY_FORWARD6  "net/ipv6/conf/all/forwarding"
#define KEY_ARPIGNORE "net/ipv4/conf/all/arp_ignore"
#define KEY_PING      "net/ipv4/ping_group_range"
#define KEY_BRIDGE4   "net/bridge/bridge-nf-call-iptables"
#define KEY_BRIDGE6   "net/bridge/bridge-nf-call-ip6tables"
#define KEY_PORTS     "net/ipv4/ip_unprivileged_port_start"

#define DEFAULT_CIDR4   "10.0.2.0/24"
#define DEFAULT_CIDR6   "fd10:0:2::/120"
#define MASQUERADE_MAC  "02:00:00:00:00:00"
#define HELPER_ADDRESS  "169.254.75.1%zu/32"
#define MAX_HELPERS     10 /* 169.254.75.10 to .19 */
#define DEFAULT_PRIVATE "/var/run/kubevirt-private"

#define NO_IPV4 "the pod has no IPv4 address here: no DHCP for IPv4"

/* The making of one plan. The first failed allocation is remembered; reasons for a refusal are collected. */
struct planner {
    const struct vmi *vmi;
    const struct net_observed *observed;
    const struct net_plan_options *options;
    struct net_plan *plan;
    struct arena *arena;
    struct strbuf reasons;
    enum error_code code;
    bool oom;
};

static void refuse(struct planner *p, enum error_code code, const char *format, ...) _printf_(3, 4);
static void refuse(struct planner *p, enum error_code code, const char *format, ...)
{
    va_list ap;

    if (p->reasons.length)
        strbuf_add_string(&p->reasons, "; ");
    else
        p->code = code;
    va_start(ap, format);
    strbuf_vprintf(&p->reasons, format, ap);
    va_end(ap);
}

static const char *keep(struct planner *p, char *text)
{
    if (!text)
        p->oom = true;
    return text ? text : "";
}

/* ---- names ----------------------------------------------------------------------------------------------------- */

bool net_network_is_primary(const struct vmi_network *network)
{
    return network->pod || !network->multus || opt_bool_or(network->multus->is_default, false);
}

int net_names_make(struct arena *arena, const char *network, bool primary, unsigned ordinal, struct net_names *ret)
{
    struct net_names n = {0};
    const char *stem, *tail;

    if (primary) {
        n.pod = "eth0";
    } else if (ordinal) {
        n.pod = arena_printf(arena, "net%u", ordinal);
    } else {
        uint8_t digest[32];

        sha256(network, strlen(network), digest);
        n.pod = arena_printf(arena, "pod%02x%02x%02x%02x%02x%x", digest[0], digest[1], digest[2], digest[3], digest[4],
                             digest[5] >> 4);
    }
    if (!n.pod)
        return -ENOMEM;
    stem = startswith(n.pod, "pod") ? n.pod + 3 : n.pod;
    tail = n.pod + 3;
    n.nic = arena_printf(arena, "%s-nic", stem);
    n.bridge = arena_printf(arena, "k6t-%s", stem);
    n.tap = arena_printf(arena, "tap%s", tail);
    n.router = arena_printf(arena, "ra%s", tail);
    if (!n.nic || !n.bridge || !n.tap || !n.router)
        return -ENOMEM;
    *ret = n;
    return 0;
}

/* The old names count where only their link is there: a pod that was made before names went by hash. */
static void choose_names(struct planner *p, const struct vmi_network *network, unsigned ordinal, struct net_names *ret)
{
    bool primary = net_network_is_primary(network);
    struct net_names by_number;

    if (net_names_make(p->arena, network->name, primary, 0, ret) < 0 ||
        net_names_make(p->arena, network->name, primary, ordinal, &by_number) < 0) {
        p->oom = true;
        *ret = (struct net_names){"", "", "", "", ""};
        return;
    }
    if (primary || net_observed_link(p->observed, ret->pod) || net_observed_link(p->observed, ret->bridge))
        return;
    if (net_observed_link(p->observed, by_number.pod) || net_observed_link(p->observed, by_number.bridge))
        *ret = by_number;
}

/* ---- steps ----------------------------------------------------------------------------------------------------- */

static struct net_step *step(struct planner *p, const char *why, struct net_action action)
{
    static struct net_step nowhere;
    struct net_step *s = NET_LIST_ADD(p->arena, &p->plan->steps);

    if (!s) {
        p->oom = true;
        return &nowhere;
    }
    s->action = action;
    s->why = why;
    return s;
}

static void undo(struct net_step *s, struct net_action action)
{
    s->has_undo = true;
    s->undo = action;
}

#define ACTION(op_, link_, ...) ((struct net_action){.op = NET_OP_##op_, .link = (link_), __VA_ARGS__})

/* Skipped where the value is what it should be. `made` : the key belongs to a link of ours, and goes away with it. */
static void step_sysctl(struct planner *p, const char *key, const char *value, bool made, const char *why)
{
    const char *old = made ? NULL : net_observed_sysctl(p->observed, key);
    struct net_step *s;

    if (streq_ptr(old, value))
        return;
    for (size_t i = 0; i < p->plan->steps.count; i++)
        if (p->plan->steps.items[i].action.op == NET_OP_SYSCTL && streq(p->plan->steps.items[i].action.link, key))
            return; /* an earlier interface has set it */
    s = step(p, why, ACTION(SYSCTL, key, .value = value));
    if (old)
        undo(s, ACTION(SYSCTL, key, .value = old));
}

static void step_address(struct planner *p, const char *link, const char *address, unsigned scope, const char *why)
{
    struct net_address a = {.link = link,
                            .address = address,
                            .peer = "",
                            .broadcast = "",
                            .label = "",
                            .scope = scope,
                            .flags = strchr(address, ':') ? IFA_F_NODAD : 0,
                            .valid = UINT32_MAX,
                            .preferred = UINT32_MAX};

    undo(step(p, why, ACTION(ADDRESS_ADD, link, .address = a)), ACTION(ADDRESS_DELETE, link, .address = a));
}

static void step_up(struct planner *p, const char *link, const char *why)
{
    undo(step(p, why, ACTION(LINK_UP, link)), ACTION(LINK_DOWN, link));
}

static void step_bridge(struct planner *p, const struct net_interface *n, const char *mac, const char *why)
{
    undo(step(p, why, ACTION(BRIDGE_ADD, n->names.bridge, .value = mac)),
         ACTION(LINK_DELETE, n->names.bridge, .value = "bridge"));
    step(p, "the pod network's MTU",
         ACTION(LINK_MTU, n->names.bridge, .value = keep(p, arena_printf(p->arena, "%u", n->mtu))));
}

static void step_master(struct planner *p, const char *link, const char *bridge, const char *why)
{
    undo(step(p, why, ACTION(LINK_MASTER, link, .value = bridge)), ACTION(LINK_MASTER, link, .value = ""));
}

static void step_tap(struct planner *p, const char *tap, const char *bridge, unsigned queues, unsigned mtu,
                     const char *why)
{
    undo(step(p, why, ACTION(TAP_ADD, tap, .owner = p->options->owner, .group = p->options->owner, .queues = queues)),
         ACTION(LINK_DELETE, tap, .value = "tun"));
    step(p, "the pod network's MTU", ACTION(LINK_MTU, tap, .value = keep(p, arena_printf(p->arena, "%u", mtu))));
    step_master(p, tap, bridge, "joins the bridge");
    step_up(p, tap, "carries frames");
}

/* What the launcher and QEMU open: the guest's tap, and the one for router advertisements where IPv6 is served. */
static void plan_taps(struct planner *p, struct net_interface *n)
{
    step_tap(p, n->names.tap, n->names.bridge, n->queues, n->mtu,
             "the guest's NIC: opened by QEMU without a capability");
    n->has_tap = true;
    if (n->ipv6) {
        step_tap(p, n->names.router, n->names.bridge, 1, n->mtu,
                 "router advertisements: sent by the launcher without CAP_NET_RAW");
        step(p, "the launcher hears solicitations, which are multicast, and is not sent a copy of every frame",
             ACTION(LINK_FLOOD, n->names.router, .value = "off"));
    }
}

static void add_note(struct planner *p, struct net_interface *n, const char *text)
{
    n->note = n->note ? keep(p, arena_printf(p->arena, "%s; %s", n->note, text)) : text;
}

/* ---- what the pod's link has ----------------------------------------------------------------------------------- */

/* One that a guest can be known by, or translated to: KubeVirt's rule is Go's IsGlobalUnicast(). */
static bool address_is_global(const struct net_address *a, struct ip *ret)
{
    return ip_parse(a->address, ret) >= 0 && !ip_is_link_local(ret);
}

/* One that moves from link to link. The kernel makes IPv6's link-local ones itself. */
static bool address_is_given(const struct net_address *a, struct ip *ret)
{
    return ip_parse(a->address, ret) >= 0 && !(ret->family == AF_INET6 && ip_is_link_local(ret));
}

/* The first global address of the family on the link, or NULL. One that is deprecated (RFC 4862, 5.5.4: not for new
 * connections) only where there is no other. */
static const struct net_address *first_address(const struct planner *p, const char *link, int family, struct ip *ret)
{
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < p->observed->addresses.count; i++) {
            const struct net_address *a = &p->observed->addresses.items[i];

            if (streq(a->link, link) && (a->preferred || pass == 1) && address_is_global(a, ret) &&
                ret->family == family)
                return a;
        }
    }
    return NULL;
}

/*
 * The addresses of a family that a link was given, one by one: NULL at the end. *at starts at 0. The kernel puts a new
 * IPv4 address behind those of the link, and a new IPv6 address in front of them (ipv6_link_dev_addr() in
 * net/ipv6/addrconf.c): `forward` false for the order in which to make the latter, and to take the former away.
 */
static const struct net_address *next_address(const struct planner *p, const char *link, int family, bool forward,
                                              size_t *at)
{
    size_t count = p->observed->addresses.count;

    while (*at < count) {
        const struct net_address *a = &p->observed->addresses.items[forward ? *at : count - 1 - *at];
        struct ip ip;

        (*at)++;
        if (streq(a->link, link) && address_is_given(a, &ip) && ip.family == family)
            return a;
    }
    return NULL;
}

/* The global ones: IPv4 first, and of each family the deprecated ones last: as first_address() has it. */
static void collect_pod_ips(struct planner *p, const char *link, struct net_interface *n)
{
    static const int families[] = {AF_INET, AF_INET, AF_INET6, AF_INET6};

    for (size_t f = 0; f < ELEMENTSOF(families); f++) {
        const struct net_address *a;
        size_t at = 0;

        while ((a = next_address(p, link, families[f], true, &at))) {
            const char **item;
            struct ip ip;

            if ((a->preferred == 0) != (f % 2 == 1) || !address_is_global(a, &ip))
                continue;
            item = NET_LIST_ADD(p->arena, &n->pod_ips);
            if (item)
                *item = keep(p, ip_arena_text(p->arena, &ip));
            else
                p->oom = true;
        }
    }
}

static struct net_guest_route *add_guest_route(struct planner *p, struct net_interface *n, bool v6, const char *to,
                                               const char *via)
{
    struct net_guest_route *r = v6 ? NET_LIST_ADD(p->arena, &n->routes6) : NET_LIST_ADD(p->arena, &n->routes);

    if (!r) {
        p->oom = true;
        return NULL;
    }
    r->to = to;
    r->via = via;
    return r;
}

/* The gateway needs a route of its own where the guest's prefix does not hold it (a /32 address, say). */
static void add_route_to_gateway(struct planner *p, struct net_interface *n, const struct ip *own, const char *via)
{
    struct ip gateway, other;

    if (ip_parse(via, &gateway) < 0 || ip_contains(own, &gateway) ||
        (gateway.family == AF_INET6 && ip_is_link_local(&gateway)))
        return;
    for (size_t i = 0; i < (own->family == AF_INET6 ? n->routes6.count : n->routes.count); i++) {
        const struct net_guest_route *r = own->family == AF_INET6 ? &n->routes6.items[i] : &n->routes.items[i];

        if (!*r->via && ip_parse(r->to, &other) >= 0 && ip_contains(&other, &gateway))
            return;
    }
    add_guest_route(p, n, own->family == AF_INET6, keep(p, ip_arena_cidr(p->arena, &gateway)), "");
}

/* The first of the route's gateways that is of its own family: no other can be told to a guest. "": it has none, and
 * needs none; NULL: only others. */
static const char *gateway_for_guest(struct planner *p, const struct net_route *r, int family)
{
    const char *hops = r->hops;
    struct ip ip;
    char via[64];
    unsigned weight;

    if (!*r->via || (ip_parse(r->via, &ip) >= 0 && ip.family == family))
        return r->via;
    while (net_route_next_hop(&hops, via, sizeof(via), &weight) > 0)
        if (ip_parse(via, &ip) >= 0 && ip.family == family)
            return keep(p, arena_strdup(p->arena, via));
    return NULL;
}

/* A route that the guest can have: its packets go by the main table, by the best route to a place. */
static bool route_is_for_guest(const struct planner *p, const struct net_route *r, const struct ip *to)
{
    struct ip other;

    if (r->type != RTN_UNICAST || r->table != RT_TABLE_MAIN || (r->ipv6 && ip_is_link_local(to)))
        return false;
    for (size_t i = 0; i < p->observed->routes.count; i++) {
        const struct net_route *rival = &p->observed->routes.items[i];

        if (rival != r && streq(rival->link, r->link) && rival->ipv6 == r->ipv6 && rival->type == r->type &&
            rival->table == r->table && ip_parse(rival->to, &other) >= 0 && other.prefix == to->prefix &&
            ip_contains(&other, to) && (rival->metric < r->metric || (rival->metric == r->metric && rival < r)))
            return false;
    }
    return true;
}

/* All routes of the pod's link, in the order that a DHCP client can take them in: on the link, by gateway, default. */
static void collect_routes(struct planner *p, const char *link, struct net_interface *n, const struct ip *own)
{
    bool v6 = own->family == AF_INET6;

    for (int pass = 0; pass < 3; pass++) {
        for (size_t i = 0; i < p->observed->routes.count; i++) {
            const struct net_route *r = &p->observed->routes.items[i];
            const char *via;
            struct ip to;
            int kind;

            if (!streq(r->link, link) || r->ipv6 != v6 || ip_parse(r->to, &to) < 0 || !route_is_for_guest(p, r, &to))
                continue;
            kind = to.prefix == 0 ? 2 : *r->via ? 1 : 0;
            if (kind != pass)
                continue;
            via = gateway_for_guest(p, r, own->family);
            if (!via) {
                add_note(p, n,
                         keep(p, arena_printf(p->arena,
                                              "the guest is not told of the route to %s: DHCP has no "
                                              "word for its gateway %s",
                                              r->to, r->via)));
                continue;
            }
            if (*via) {
                if (!v6 && !n->gateway)
                    n->gateway = via;
                add_route_to_gateway(p, n, own, via);
            }
            add_guest_route(p, n, v6, r->to, via);
        }
    }
    /* The router option names the default's gateway where there is one. */
    if (!v6 && n->routes.count && endswith(n->routes.items[n->routes.count - 1].to, "/0") &&
        *n->routes.items[n->routes.count - 1].via)
        n->gateway = n->routes.items[n->routes.count - 1].via;
}

/* ---- bindings -------------------------------------------------------------------------------------------------- */

static const char *derived_mac(struct planner *p, const char *seed, const uint8_t *prefix, size_t prefix_length)
{
    uint8_t digest[32], mac[6];

    sha256(seed, strlen(seed), digest);
    memcpy(mac, digest, sizeof(mac));
    memcpy(mac, prefix, prefix_length);
    return keep(p, mac_arena_text(p->arena, mac));
}

/* Takes routes and addresses off the pod's link, so that each comes back by an undo of its own: addresses first, then
 * the routes on the link, then those by a gateway, which the kernel takes only when it can be reached. */
static void plan_strip(struct planner *p, const char *link)
{
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = p->observed->routes.count; i-- > 0;) {
            const struct net_route *r = &p->observed->routes.items[i];

            if (streq(r->link, link) && !*r->via == (pass == 1))
                undo(step(p, "moves to the guest, by DHCP", ACTION(ROUTE_DELETE, link, .route = *r)),
                     ACTION(ROUTE_ADD, link, .route = *r));
        }
    }
    for (int pass = 0; pass < 2; pass++) {
        const struct net_address *a;
        size_t i = 0;

        while ((a = next_address(p, link, pass == 0 ? AF_INET6 : AF_INET, pass == 0, &i)))
            undo(step(p, "moves to the guest, by DHCP", ACTION(ADDRESS_DELETE, link, .address = *a)),
                 ACTION(ADDRESS_ADD, link, .address = *a));
    }
}

static void plan_dummy(struct planner *p, struct net_interface *n)
{
    static const char *const kinds[] = {"dummy", "ifb", "tap"};
    const char *kind = "tap", *pod = n->names.pod;

    for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
        if (net_strings_has(&p->observed->link_kinds, kinds[i])) {
            kind = kinds[i];
            break;
        }
    }
    if (!streq(kind, "dummy"))
        add_note(
            p, n,
            keep(p, arena_printf(p->arena, "%s is a link of kind %s, which stays down: this kernel has no dummy links",
                                 pod, kind)));
    undo(step(p, "keeps the pod's name and addresses in sight of other programs",
              ACTION(DUMMY_ADD, pod, .value = kind, .mac = n->pod_mac)),
         ACTION(LINK_DELETE, pod, .value = streq(kind, "tap") ? "tun" : kind));
    step(p, "the pod network's MTU", ACTION(LINK_MTU, pod, .value = keep(p, arena_printf(p->arena, "%u", n->mtu))));
    for (int pass = 0; pass < 2; pass++) {
        const struct net_address *a;
        size_t i = 0;

        while ((a = next_address(p, pod, pass == 0 ? AF_INET : AF_INET6, pass == 0, &i)))
            undo(step(p, "shown by the stand-in, which is down and answers nobody",
                      ACTION(ADDRESS_ADD, pod, .address = *a)),
                 ACTION(ADDRESS_DELETE, pod, .address = *a));
    }
}

/* IPv6 on the bridge binding: advertisements come from the pod's own gateway if it is link-local; else the pod
 * forwards. */
static void plan_bridge_ipv6(struct planner *p, struct net_interface *n, const char *bridge_mac)
{
    const char *via = NULL;
    uint8_t mac[6];
    struct ip ip, router;

    if (!first_address(p, n->names.pod, AF_INET6, &ip))
        return;
    n->ipv6 = keep(p, ip_arena_cidr(p->arena, &ip));
    collect_routes(p, n->names.pod, n, &ip);
    for (size_t i = 0; i < n->routes6.count; i++)
        if (endswith(n->routes6.items[i].to, "/0") && *n->routes6.items[i].via)
            via = n->routes6.items[i].via;
    if (!via || mac_parse(bridge_mac, mac) < 0)
        return;
    if (ip_parse(via, &router) >= 0 && ip_is_link_local(&router)) {
        n->router6 = via;
        return;
    }
    ip_link_local_of(mac, &router);
    n->router6 = keep(p, ip_arena_text(p->arena, &router));
    n->router6_mac = bridge_mac;
}

/* The pod's own way to a gateway that has no link-local name: it hands the guest's packets on to it. */
static void plan_bridge_forward6(struct planner *p, struct net_interface *n)
{
    struct net_route r = {.link = n->names.bridge,
                          .ipv6 = true,
                          .via = "",
                          .hops = "",
                          .source = "",
                          .metrics = "",
                          .table = RT_TABLE_MAIN,
                          .metric = 1024,
                          .protocol = RTPROT_STATIC,
                          .type = RTN_UNICAST};

    if (!n->router6_mac)
        return;
    step_sysctl(p, KEY_FORWARD6, "1", false, "hands the guest's IPv6 on to the pod's gateway");
    for (size_t i = 0; i < n->routes6.count; i++) {
        const struct net_guest_route *g = &n->routes6.items[i];
        struct ip gateway;

        if (!endswith(g->to, "/0") || !*g->via || ip_parse(g->via, &gateway) < 0)
            continue;
        r.to = keep(p, ip_arena_cidr(p->arena, &gateway));
        r.via = "";
        undo(step(p, "the pod's IPv6 gateway", ACTION(ROUTE_ADD, r.link, .route = r)),
             ACTION(ROUTE_DELETE, r.link, .route = r));
        r.to = "::/0";
        r.via = g->via;
        undo(step(p, "the pod's IPv6 gateway", ACTION(ROUTE_ADD, r.link, .route = r)),
             ACTION(ROUTE_DELETE, r.link, .route = r));
    }
}

static void plan_bridge(struct planner *p, struct net_interface *n)
{
    static const uint8_t local[] = {0x02};
    const struct net_names *names = &n->names;
    const char *seed = keep(p, arena_printf(p->arena, "%s %s", n->pod_mac, names->bridge));
    const char *bridge_mac = derived_mac(p, seed, local, sizeof(local));
    uint8_t mac[6];
    struct ip ip;

    if (mac_parse(n->pod_mac, mac) < 0)
        refuse(p, ERROR_NETWORK, "interface %s: link %s has no Ethernet address (%s), so it cannot join a bridge",
               n->name, names->pod, *n->pod_mac ? n->pod_mac : "none at all");
    if (first_address(p, names->pod, AF_INET, &ip)) {
        n->dhcp = true;
        n->ip = keep(p, ip_arena_cidr(p->arena, &ip));
        n->server = keep(p, arena_printf(p->arena, "169.254.75.1%zu", n->index));
        collect_routes(p, names->pod, n, &ip);
        if (n->index >= MAX_HELPERS)
            refuse(p, ERROR_NOT_SUPPORTED, "interface %s: only the first %d interfaces can have a DHCP server", n->name,
                   MAX_HELPERS);
    } else {
        add_note(p, n, NO_IPV4);
    }
    plan_bridge_ipv6(p, n, bridge_mac);
    step_sysctl(p, KEY_ARPIGNORE, "1", false, "the pod must not answer for addresses that are the guest's now");
    plan_strip(p, names->pod);
    if (net_observed_link(p->observed, names->pod)->up)
        undo(step(p, "a link is renamed and gets another MAC while it is down", ACTION(LINK_DOWN, names->pod)),
             ACTION(LINK_UP, names->pod));
    undo(step(p, "its name goes to the stand-in", ACTION(LINK_RENAME, names->pod, .value = names->nic)),
         ACTION(LINK_RENAME, names->nic, .value = names->pod));
    undo(step(p, "the guest owns the old MAC", ACTION(LINK_MAC, names->nic, .value = bridge_mac)),
         ACTION(LINK_MAC, names->nic, .value = n->pod_mac));
    step_bridge(p, n, bridge_mac, "joins the pod's NIC with the guest's");
    step_sysctl(p, keep(p, arena_printf(p->arena, "net/ipv6/conf/%s/accept_ra", names->bridge)), "0", true,
                "advertisements are for the guest, not for the pod");
    if (n->dhcp) /* the stand-in holds the guest's address: the kernel would drop a renewal as a martian */
        step_sysctl(p, keep(p, arena_printf(p->arena, "net/ipv4/conf/%s/accept_local", names->bridge)), "1", true,
                    "the guest renews its lease from an address that the pod's stand-in shows too");
    step_master(p, names->nic, names->bridge, "joins the bridge");
    undo(step(p, "frames to the guest are never held back by a stale entry",
              ACTION(LINK_LEARNING, names->nic, .value = "off")),
         ACTION(LINK_LEARNING, names->nic, .value = "on"));
    step_up(p, names->nic, "carries frames");
    if (n->dhcp)
        step_address(p, names->bridge, keep(p, arena_printf(p->arena, HELPER_ADDRESS, n->index)), RT_SCOPE_LINK,
                     "what the DHCP server binds to");
    step_up(p, names->bridge, "carries frames");
    plan_taps(p, n);
    plan_bridge_forward6(p, n);
    plan_dummy(p, n);
}

/* KubeVirt's plan of the guest's network: the first address is the gateway's, the second the guest's. */
static void guest_network(struct planner *p, const struct vmi_network *network, bool v6, struct ip *gateway,
                          struct ip *guest)
{
    const char *cidr = network->pod ? (v6 ? network->pod->vm_ipv6_network_cidr : network->pod->vm_network_cidr) : NULL;
    struct ip ip;

    ip_parse(v6 ? DEFAULT_CIDR6 : DEFAULT_CIDR4, &ip);
    ip_nth(&ip, 1, gateway);
    ip_nth(&ip, 2, guest);
    if (!cidr)
        return;
    if (ip_parse(cidr, &ip) < 0 || ip.family != (v6 ? AF_INET6 : AF_INET) || ip_nth(&ip, 1, gateway) < 0 ||
        ip_nth(&ip, 2, guest) < 0)
        refuse(p, ERROR_NETWORK, "network %s: %s is no network with room for a gateway and a guest", network->name,
               cidr);
}

static bool wants_istio(const struct vmi *vmi)
{
    const char *label = vmi_label(vmi, "sidecar.istio.io/inject"),
               *annotation = vmi_annotation(vmi, "sidecar.istio.io/inject");

    return streq_ptr(label ? label : annotation, "true");
}

static struct net_nat make_nat(const struct planner *p, const struct net_interface *n,
                               const struct vmi_interface *interface, bool v6, const char *guest, const char *gateway)
{
    struct net_nat nat = {.ipv6 = v6,
                          .link = n->names.pod,
                          .bridge = n->names.bridge,
                          .guest = guest,
                          .gateway = gateway,
                          .interface = interface,
                          .migration_over_tcp = p->options->migration_over_tcp,
                          .istio = wants_istio(p->vmi),
                          .table_is_ours = !net_strings_has(&p->observed->nft_tables, v6 ? "ip6 nat" : "ip nat")};

    for (size_t i = 0; i < n->pod_ips.count; i++)
        if (!nat.pod_ip && !strchr(n->pod_ips.items[i], ':') == !v6)
            nat.pod_ip = n->pod_ips.items[i];
    return nat;
}

/* Of the families that the pod has: `guest` and `guest6` are NULL where it has not. */
static void plan_nat(struct planner *p, const struct net_interface *n, const struct vmi_interface *interface,
                     const char *guest, const char *guest6)
{
    struct net_nat nat[2];
    size_t count = 0;
    const char *rules, *away;

    if (guest)
        nat[count++] = make_nat(p, n, interface, false, guest, n->gateway);
    if (guest6)
        nat[count++] = make_nat(p, n, interface, true, guest6, n->server6);
    rules = keep(p, net_nat_rules(p->arena, nat, count));
    away = keep(p, net_nat_undo(p->arena, nat, count));
    undo(step(p,
              count == 2 ? "IPv4 and IPv6 between the pod's addresses and the guest"
              : guest    ? "IPv4 between the pod's address and the guest"
                         : "IPv6 between the pod's address and the guest",
              ACTION(NFT, n->names.bridge, .rules = rules)),
         ACTION(NFT, n->names.bridge, .rules = away));
}

/* Routers stop to listen to advertisements when they forward (2: they go on), and would lose a default route by it. */
static void keep_advertised_routes(struct planner *p, const char *link)
{
    for (size_t i = 0; i < p->observed->routes.count; i++) {
        const struct net_route *r = &p->observed->routes.items[i];

        if (r->ipv6 && r->protocol == RTPROT_RA && streq(r->link, link)) {
            step_sysctl(p, keep(p, arena_printf(p->arena, "net/ipv6/conf/%s/accept_ra", link)), "2", false,
                        "keeps the pod's advertised routes although it forwards");
            return;
        }
    }
}

/* The guest's side of one family: its address, its gateway, and how it learns of them. */
static void masquerade4(struct planner *p, struct net_interface *n, const struct ip *gateway, const struct ip *guest)
{
    n->dhcp = true;
    n->ip = keep(p, ip_arena_cidr(p->arena, guest));
    n->server = n->gateway = keep(p, ip_arena_text(p->arena, gateway));
    add_guest_route(p, n, false, "0.0.0.0/0", n->gateway);
}

static void masquerade6(struct planner *p, struct net_interface *n, const struct ip *gateway, const struct ip *guest)
{
    struct ip router;
    uint8_t mac[6];

    mac_parse(MASQUERADE_MAC, mac);
    ip_link_local_of(mac, &router);
    n->ipv6 = keep(p, ip_arena_cidr(p->arena, guest));
    n->server6 = keep(p, ip_arena_text(p->arena, gateway));
    n->router6 = keep(p, ip_arena_text(p->arena, &router));
    n->router6_mac = MASQUERADE_MAC;
    add_guest_route(p, n, true, "::/0", n->router6);
    keep_advertised_routes(p, n->names.pod);
}

/* Packets pass between the pod's address and the guest. */
static void plan_forwarding(struct planner *p, const struct net_interface *n, bool v4, bool v6)
{
    static const char why[] = "packets pass between the pod's address and the guest";
    static const char bridged[] = "packets are translated where they are routed, not where they are bridged";

    if (v4) {
        step_sysctl(p, KEY_FORWARD4, "1", false, why);
        step_sysctl(p, keep(p, arena_printf(p->arena, "net/ipv4/conf/%s/route_localnet", n->names.bridge)), "1", true,
                    "the guest's ports answer on the pod's 127.0.0.1");
    }
    if (v6)
        step_sysctl(p, KEY_FORWARD6, "1", false, why);
    /* Where br_netfilter is loaded it would translate a packet while it is bridged, and send it back by the port that
     * it came from, which a bridge refuses: the guest could not reach itself by the pod's address. */
    if (v4 && net_observed_sysctl(p->observed, KEY_BRIDGE4))
        step_sysctl(p, KEY_BRIDGE4, "0", false, bridged);
    if (v6 && net_observed_sysctl(p->observed, KEY_BRIDGE6))
        step_sysctl(p, KEY_BRIDGE6, "0", false, bridged);
}

/* As KubeVirt has it, the guest gets the families that the pod has a global address of. */
static void plan_masquerade(struct planner *p, struct net_interface *n, const struct vmi_interface *interface)
{
    const struct net_names *names = &n->names;
    struct ip pod, gateway, guest, gateway6, guest6;
    bool v4 = first_address(p, names->pod, AF_INET, &pod), v6 = first_address(p, names->pod, AF_INET6, &pod);

    if (!v4 && !v6) {
        refuse(p, ERROR_NETWORK, "interface %s: link %s has no global address to masquerade behind", n->name,
               names->pod);
        return;
    }
    guest_network(p, interface->network, false, &gateway, &guest);
    guest_network(p, interface->network, true, &gateway6, &guest6);
    if (v4)
        masquerade4(p, n, &gateway, &guest);
    else
        add_note(p, n, NO_IPV4);
    if (v6)
        masquerade6(p, n, &gateway6, &guest6);
    step_bridge(p, n, MASQUERADE_MAC, "the guest's side; the MAC that KubeVirt's guests know their gateway by");
    if (v4)
        step_address(p, names->bridge, keep(p, ip_arena_cidr(p->arena, &gateway)), RT_SCOPE_UNIVERSE,
                     "the guest's gateway");
    if (v6)
        step_address(p, names->bridge, keep(p, ip_arena_cidr(p->arena, &gateway6)), RT_SCOPE_UNIVERSE,
                     "the guest's IPv6 gateway");
    step_up(p, names->bridge, "carries frames");
    plan_taps(p, n);
    plan_forwarding(p, n, v4, v6);
    plan_nat(p, n, interface, v4 ? keep(p, ip_arena_text(p->arena, &guest)) : NULL,
             v6 ? keep(p, ip_arena_text(p->arena, &guest6)) : NULL);
}

static void plan_passt(struct planner *p, struct net_interface *n, const struct vmi_interface *interface)
{
    const char *dir = p->options->private_dir;

    if (!dir)
        dir = keep(p, arena_printf(p->arena, DEFAULT_PRIVATE "/%s",
                                   p->vmi->uid ? p->vmi->uid : p->vmi->spec.domain.firmware.uuid));
    step_sysctl(p, KEY_PING, keep(p, arena_printf(p->arena, "%u %u", p->options->owner, p->options->owner)), false,
                "passt answers the guest's pings");
    step_sysctl(p, KEY_PORTS, "0", false, "passt listens on ports below 1024");
    if (net_passt_make(p->arena, interface, dir, n) < 0)
        p->oom = true;
    if (!interface->ports.count && !interface->port_ranges.count)
        add_note(p, n, "no ports are named: passt listens on every port, and needs a limit of 131072 open files");
}

/* ---- the whole ------------------------------------------------------------------------------------------------- */

static bool binding_has_links(enum vmi_binding b)
{
    return b == VMI_BINDING_BRIDGE || b == VMI_BINDING_MASQUERADE;
}

/* Whether all or none of what the plan would make is there already. */
static void check_present(struct planner *p, struct net_interface *n)
{
    const char *made[] = {n->names.bridge, n->names.tap, n->binding == VMI_BINDING_BRIDGE ? n->names.nic : NULL};
    size_t there = 0, wanted = 0;

    if (!binding_has_links(n->binding))
        return;
    for (size_t i = 0; i < ELEMENTSOF(made); i++) {
        if (!made[i])
            continue;
        wanted++;
        there += net_observed_link(p->observed, made[i]) != NULL;
    }
    n->present = there == wanted;
    if (there && there != wanted)
        refuse(p, ERROR_NETWORK,
               "interface %s: %zu of its %zu links (%s, %s%s%s) are there already: left by something that failed, or "
               "another VM's (a pod's network serves one VM)",
               n->name, there, wanted, made[0], made[1], made[2] ? ", " : "", made[2] ? made[2] : "");
}

static void fill_macs(struct planner *p, struct net_interface *n, const struct vmi_interface *interface)
{
    static const uint8_t qemu[] = {0x52, 0x54, 0x00};
    const struct net_link *nic = net_observed_link(p->observed, n->names.pod);

    n->pod_mac = nic ? nic->mac : "";
    if (interface->mac_address)
        n->mac = interface->mac_address;
    else if (n->binding == VMI_BINDING_BRIDGE && *n->pod_mac)
        n->mac = n->pod_mac;
    else
        n->mac = derived_mac(p,
                             keep(p, arena_printf(p->arena, "%s %s %s", p->vmi->uid ? p->vmi->uid : "",
                                                  p->vmi->domain_name, interface->name)),
                             qemu, sizeof(qemu));
}

/* The N of net<N>: secondary networks count from 1, in the order of spec.networks. */
static unsigned network_ordinal(const struct vmi *vmi, const struct vmi_network *network)
{
    unsigned n = 0;

    for (size_t i = 0; i < vmi->spec.networks.count; i++) {
        if (!net_network_is_primary(&vmi->spec.networks.items[i]))
            n++;
        if (&vmi->spec.networks.items[i] == network)
            break;
    }
    return n;
}

static void plan_interface(struct planner *p, const struct vmi_interface *interface, size_t index)
{
    const struct vmi_devices *devices = &p->vmi->spec.domain.devices;
    struct net_interface *n = NET_LIST_ADD(p->arena, &p->plan->interfaces);
    const struct net_link *link;

    if (!n) {
        p->oom = true;
        return;
    }
    *n = (struct net_interface){
        .name = interface->name, .index = index, .binding = interface->binding, .state = interface->state, .queues = 1};
    choose_names(p, interface->network, network_ordinal(p->vmi, interface->network), &n->names);
    if (opt_bool_or(devices->network_interface_multiqueue, false) && interface->model == VMI_NIC_VIRTIO)
        n->queues = MAX(1U, vmi_vcpus(p->vmi));
    n->vhost = p->observed->vhost_net && interface->model == VMI_NIC_VIRTIO && binding_has_links(n->binding);
    fill_macs(p, n, interface);
    link = net_observed_link(p->observed, n->names.pod);
    n->mtu = link ? MIN(link->mtu, (unsigned)ETH_MAX_MTU) : 0; /* more is of no link that carries Ethernet */
    collect_pod_ips(p, n->names.pod, n);
    if (interface->state == VMI_LINK_ABSENT) {
        add_note(p, n, "absent: the guest has no such NIC");
        return;
    }
    check_present(p, n);
    if (n->present) {
        n->has_tap = true;
        return;
    }
    if (!link && interface->binding != VMI_BINDING_SRIOV && interface->binding != VMI_BINDING_SLIRP &&
        interface->binding != VMI_BINDING_PLUGIN) {
        refuse(p, ERROR_NETWORK, "interface %s: the namespace has no link %s for network %s", n->name, n->names.pod,
               interface->network->name);
        return;
    }
    switch (interface->binding) {
    case VMI_BINDING_BRIDGE:
        plan_bridge(p, n);
        break;
    case VMI_BINDING_MASQUERADE:
        plan_masquerade(p, n, interface);
        break;
    case VMI_BINDING_PASST:
        plan_passt(p, n, interface);
        break;
    case VMI_BINDING_SRIOV:
        add_note(p, n, "SR-IOV: the guest gets the virtual function itself, there is no tap");
        break;
    case VMI_BINDING_SLIRP:
        add_note(p, n, "slirp: QEMU's own user network, nothing is set up");
        break;
    case VMI_BINDING_PLUGIN:
        add_note(p, n, "binding plug-in: its CNI plug-in and sidecar set it up");
        break;
    default:
        refuse(p, ERROR_NOT_SUPPORTED, "interface %s: the macvtap binding is gone from KubeVirt and is not built",
               n->name);
    }
}

int net_plan_make(const struct vmi *vmi, const struct net_observed *observed, const struct net_plan_options *options,
                  struct net_plan **ret, struct error **ret_error)
{
    _cleanup_(arena_freep) struct arena *arena = arena_new();
    _cleanup_(strbuf_done) struct strbuf none = {0};
    struct planner p = {.vmi = vmi, .observed = observed, .options = options, .arena = arena};

    p.plan = arena ? arena_alloc(arena, sizeof(*p.plan)) : NULL;
    if (!p.plan)
        return error_oom(ret_error);
    p.plan->vm = keep(&p, arena_strdup(arena, vmi->domain_name));
    for (size_t i = 0; i < vmi->spec.domain.devices.interfaces.count; i++)
        plan_interface(&p, &vmi->spec.domain.devices.interfaces.items[i], i);
    none = p.reasons;
    if (p.oom || p.reasons.failed)
        return error_oom(ret_error);
    if (p.reasons.length) {
        int r = error_set(ret_error, p.code, p.code == ERROR_NOT_SUPPORTED ? EOPNOTSUPP : ENODEV, "network of %s: %s",
                          vmi->domain_name, strbuf_text(&p.reasons));

        if (ret_error && *ret_error && p.code == ERROR_NETWORK)
            error_set_remedy(*ret_error, "`netsetup observe` prints what the namespace holds");
        return r;
    }
    p.plan->arena = TAKE_PTR(arena);
    *ret = p.plan;
    return 0;
}

void net_plan_free(struct net_plan *plan)
{
    if (plan)
        arena_free(plan->arena);
}
