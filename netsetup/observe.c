/* SPDX-License-Identifier: Apache-2.0 */
#include "netsetup/observe.h"

#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>
#include <netlink/route/route.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/strbuf.h"
#include "netsetup/ip.h"

#define SYSCTL_LIMIT 4096

struct observer {
    struct net_observed *o;
    struct nl_sock *sock;
    struct nl_cache *links;
    bool oom;
};

static void sock_freep(struct nl_sock **sock)
{
    if (*sock)
        nl_socket_free(*sock);
}

static void cache_freep(struct nl_cache **cache)
{
    if (*cache)
        nl_cache_free(*cache);
}

static const char *keep(struct observer *ob, const char *text)
{
    char *copy = arena_strdup(ob->o->arena, text ? text : "");

    if (!copy)
        ob->oom = true;
    return copy ? copy : "";
}

static int nl_fail(struct error **ret_error, int nle, const char *what)
{
    return error_set(ret_error, ERROR_HOST, nle == -NLE_PERM ? EPERM : EIO, "asking the kernel for %s: %s", what,
                     nl_geterror(nle));
}

static const char *mac_text(struct observer *ob, struct nl_addr *addr)
{
    char buffer[64];

    if (!addr || nl_addr_get_len(addr) != 6)
        return "";
    return keep(ob, nl_addr2str(addr, buffer, sizeof(buffer)));
}

static const char *link_name(struct observer *ob, int index)
{
    struct rtnl_link *link = rtnl_link_get(ob->links, index);
    const char *name = link ? keep(ob, rtnl_link_get_name(link)) : "";

    if (link)
        rtnl_link_put(link);
    return name;
}

static void observe_link(struct nl_object *object, void *data)
{
    struct observer *ob = data;
    struct rtnl_link *link = (struct rtnl_link *)object;
    struct net_link *item = NET_LIST_ADD(ob->o->arena, &ob->o->links);

    if (!item) {
        ob->oom = true;
        return;
    }
    *item = (struct net_link){.name = keep(ob, rtnl_link_get_name(link)),
                              .kind = keep(ob, rtnl_link_get_type(link)),
                              .mac = mac_text(ob, rtnl_link_get_addr(link)),
                              .master = rtnl_link_get_master(link) ? link_name(ob, rtnl_link_get_master(link)) : "",
                              .mtu = rtnl_link_get_mtu(link),
                              .up = rtnl_link_get_flags(link) & IFF_UP};
}

/* Text of an address with its length: libnl leaves the length out where it is that of the whole address. */
static const char *cidr_text(struct observer *ob, struct nl_addr *addr, unsigned prefix)
{
    struct ip ip = {.family = nl_addr_get_family(addr), .prefix = prefix};

    memcpy(ip.bytes, nl_addr_get_binary_addr(addr), MIN(nl_addr_get_len(addr), ip_size(&ip)));
    return keep(ob, ip_arena_cidr(ob->o->arena, &ip));
}

static const char *plain_text(struct observer *ob, struct nl_addr *addr)
{
    struct ip ip = {.family = addr ? nl_addr_get_family(addr) : 0};

    if (!addr || !nl_addr_get_len(addr))
        return "";
    memcpy(ip.bytes, nl_addr_get_binary_addr(addr), MIN(nl_addr_get_len(addr), ip_size(&ip)));
    return keep(ob, ip_arena_text(ob->o->arena, &ip));
}

/* What can be asked for again; the others are the kernel's own notes. */
#define ADDRESS_FLAGS (IFA_F_NODAD | IFA_F_HOMEADDRESS | IFA_F_MANAGETEMPADDR | IFA_F_NOPREFIXROUTE | IFA_F_MCAUTOJOIN)

static void observe_address(struct nl_object *object, void *data)
{
    struct observer *ob = data;
    struct rtnl_addr *addr = (struct rtnl_addr *)object;
    struct nl_addr *local = rtnl_addr_get_local(addr), *peer = rtnl_addr_get_peer(addr);
    int family = rtnl_addr_get_family(addr);
    struct net_address *item;

    if (!local || (family != AF_INET && family != AF_INET6))
        return;
    item = NET_LIST_ADD(ob->o->arena, &ob->o->addresses);
    if (!item) {
        ob->oom = true;
        return;
    }
    *item = (struct net_address){.link = link_name(ob, rtnl_addr_get_ifindex(addr)),
                                 .address = cidr_text(ob, local, (unsigned)rtnl_addr_get_prefixlen(addr)),
                                 .peer = plain_text(ob, peer),
                                 .broadcast = plain_text(ob, rtnl_addr_get_broadcast(addr)),
                                 .label = keep(ob, rtnl_addr_get_label(addr)),
                                 .scope = (unsigned)rtnl_addr_get_scope(addr),
                                 .flags = rtnl_addr_get_flags(addr) & ADDRESS_FLAGS,
                                 .valid = rtnl_addr_get_valid_lifetime(addr),
                                 .preferred = rtnl_addr_get_preferred_lifetime(addr)};
    /* Every local address is its own peer on a link that is not point to point. */
    if (streq(item->peer, plain_text(ob, local)))
        item->peer = "";
    if (streq(item->label, item->link))
        item->label = "";
}

static const char *gateway_text(struct observer *ob, struct rtnl_nexthop *hop)
{
    struct nl_addr *gateway = rtnl_route_nh_get_gateway(hop);

    return plain_text(ob, gateway ? gateway : rtnl_route_nh_get_via(hop));
}

static const char *finish(struct observer *ob, struct strbuf *b)
{
    if (b->failed)
        ob->oom = true;
    return keep(ob, b->length ? strbuf_text(b) : "");
}

/* Where a route has several: all of them. */
static const char *hops_text(struct observer *ob, struct rtnl_route *route)
{
    _cleanup_(strbuf_done) struct strbuf b = {0};
    int n = rtnl_route_get_nnexthops(route);

    for (int i = 0; n > 1 && i < n; i++) {
        struct rtnl_nexthop *hop = rtnl_route_nexthop_n(route, i);

        /* the kernel's field, which libnl hands on, is the weight without the first 1 (linux/rtnetlink.h) */
        strbuf_printf(&b, "%s%s*%u", b.length ? " " : "", gateway_text(ob, hop), rtnl_route_nh_get_weight(hop) + 1U);
    }
    return finish(ob, &b);
}

static const char *metrics_text(struct observer *ob, struct rtnl_route *route)
{
    _cleanup_(strbuf_done) struct strbuf b = {0};

    for (unsigned id = 1; id <= RTAX_MAX; id++) {
        uint32_t value;

        if (net_route_metric_name(id) && rtnl_route_get_metric(route, (int)id, &value) >= 0)
            strbuf_printf(&b, "%s%s=%u", b.length ? " " : "", net_route_metric_name(id), value);
    }
    return finish(ob, &b);
}

/* By one link, with a gateway each: else the kernel keeps what is left of it when one link goes. */
static struct rtnl_nexthop *only_link(struct rtnl_route *route)
{
    struct rtnl_nexthop *first = rtnl_route_nexthop_n(route, 0);
    int n = rtnl_route_get_nnexthops(route);

    for (int i = 0; n > 1 && i < n; i++) {
        struct rtnl_nexthop *hop = rtnl_route_nexthop_n(route, i);

        if (rtnl_route_nh_get_ifindex(hop) != rtnl_route_nh_get_ifindex(first) ||
            (!rtnl_route_nh_get_gateway(hop) && !rtnl_route_nh_get_via(hop)))
            return NULL;
    }
    return n ? first : NULL;
}

static void observe_route(struct nl_object *object, void *data)
{
    struct observer *ob = data;
    struct rtnl_route *route = (struct rtnl_route *)object;
    int family = rtnl_route_get_family(route);
    struct rtnl_nexthop *hop = only_link(route);
    struct nl_addr *to = rtnl_route_get_dst(route);
    struct net_route *item;

    /* The kernel makes the routes of its own kind from the addresses. */
    if (!hop || (family != AF_INET && family != AF_INET6) || rtnl_route_get_table(route) == RT_TABLE_LOCAL ||
        rtnl_route_get_protocol(route) == RTPROT_KERNEL || (rtnl_route_get_flags(route) & RTM_F_CLONED))
        return;
    item = NET_LIST_ADD(ob->o->arena, &ob->o->routes);
    if (!item) {
        ob->oom = true;
        return;
    }
    *item = (struct net_route){.link = link_name(ob, rtnl_route_nh_get_ifindex(hop)),
                               .ipv6 = family == AF_INET6,
                               .via = gateway_text(ob, hop),
                               .hops = hops_text(ob, route),
                               .metrics = metrics_text(ob, route),
                               .source = plain_text(ob, rtnl_route_get_pref_src(route)),
                               .table = rtnl_route_get_table(route),
                               .metric = rtnl_route_get_priority(route),
                               .protocol = rtnl_route_get_protocol(route),
                               .scope = rtnl_route_get_scope(route),
                               .type = rtnl_route_get_type(route),
                               .onlink = rtnl_route_nh_get_flags(hop) & RTNH_F_ONLINK};
    if (to && nl_addr_get_len(to))
        item->to = cidr_text(ob, to, nl_addr_get_prefixlen(to));
    else
        item->to = family == AF_INET6 ? "::/0" : "0.0.0.0/0";
}

static int observe_caches(struct observer *ob, struct error **ret_error)
{
    _cleanup_(cache_freep) struct nl_cache *addresses = NULL, *routes = NULL;
    int r;

    nl_cache_foreach(ob->links, observe_link, ob);
    r = rtnl_addr_alloc_cache(ob->sock, &addresses);
    if (r < 0)
        return nl_fail(ret_error, r, "addresses");
    nl_cache_foreach(addresses, observe_address, ob);
    r = rtnl_route_alloc_cache(ob->sock, AF_UNSPEC, 0, &routes);
    if (r < 0)
        return nl_fail(ret_error, r, "routes");
    nl_cache_foreach(routes, observe_route, ob);
    return 0;
}

static int note_errno(struct sockaddr_nl *peer, struct nlmsgerr *reply, void *data)
{
    *(int *)data = reply->error;
    return NL_STOP;
}

/*
 * Whether the kernel can make links of this kind: it is asked for one with a multicast MAC, which each of these kinds
 * refuses before anything is made. An unknown kind is refused earlier, by EOPNOTSUPP.
 */
static int probe_kind(struct observer *ob, const char *kind, bool *ret)
{
    static const uint8_t multicast[6] = {0x01, 0, 0, 0, 0, 0x01};
    struct nl_msg *msg = nlmsg_alloc_simple(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
    struct ifinfomsg info = {.ifi_family = AF_UNSPEC};
    struct nlattr *nest;
    int err = 0;

    if (!msg)
        return -ENOMEM;
    nlmsg_append(msg, &info, sizeof(info), NLMSG_ALIGNTO);
    nla_put_string(msg, IFLA_IFNAME, "vmlet-probe");
    nla_put(msg, IFLA_ADDRESS, sizeof(multicast), multicast);
    nest = nla_nest_start(msg, IFLA_LINKINFO);
    nla_put_string(msg, IFLA_INFO_KIND, kind);
    nla_nest_end(msg, nest);
    nl_socket_modify_err_cb(ob->sock, NL_CB_CUSTOM, note_errno, &err);
    nl_send_sync(ob->sock, msg);
    nl_socket_modify_err_cb(ob->sock, NL_CB_DEFAULT, NULL, NULL);
    *ret = err == -EADDRNOTAVAIL || err == -EINVAL;
    return 0;
}

static int observe_kinds(struct observer *ob, struct error **ret_error)
{
    static const char *const kinds[] = {"dummy", "ifb"};

    for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
        bool there = false;
        const char **item;

        if (probe_kind(ob, kinds[i], &there) < 0)
            return error_oom(ret_error);
        if (!there)
            continue;
        item = NET_LIST_ADD(ob->o->arena, &ob->o->link_kinds);
        if (!item)
            return error_oom(ret_error);
        *item = kinds[i];
    }
    return 0;
}

static int observe_table(struct nl_msg *msg, void *data)
{
    struct observer *ob = data;
    const struct nfgenmsg *family = nlmsg_data(nlmsg_hdr(msg));
    struct nlattr *name = nlmsg_find_attr(nlmsg_hdr(msg), sizeof(*family), NFTA_TABLE_NAME);
    const char *kind = family->nfgen_family == AF_INET6 ? "ip6" : family->nfgen_family == AF_INET ? "ip" : NULL;
    const char **item;

    if (!name || !kind)
        return NL_OK;
    item = NET_LIST_ADD(ob->o->arena, &ob->o->nft_tables);
    if (item)
        *item = arena_printf(ob->o->arena, "%s %s", kind, nla_get_string(name));
    if (!item || !*item)
        ob->oom = true;
    return NL_OK;
}

/* By netlink, so that no nft process is needed to look. A kernel without nf_tables has no tables. */
static int observe_nft(struct observer *ob, struct error **ret_error)
{
    _cleanup_(sock_freep) struct nl_sock *sock = nl_socket_alloc();
    struct nfgenmsg family = {.nfgen_family = AF_UNSPEC};

    if (!sock)
        return error_oom(ret_error);
    if (nl_connect(sock, NETLINK_NETFILTER) < 0)
        return 0;
    nl_socket_modify_cb(sock, NL_CB_VALID, NL_CB_CUSTOM, observe_table, ob);
    if (nl_send_simple(sock, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE, NLM_F_DUMP, &family, sizeof(family)) >= 0)
        nl_recvmsgs_default(sock);
    return 0;
}

int net_sysctl_read(struct arena *arena, const char *key, const char **ret)
{
    _cleanup_free_ char *path = NULL, *data = NULL;
    char *copy;
    int r;

    if (asprintf(&path, "/proc/sys/%s", key) < 0)
        return -ENOMEM;
    r = file_read(path, SYSCTL_LIMIT, &data, NULL, NULL);
    if (r < 0)
        return r;
    data[strcspn(data, "\n")] = '\0';
    for (char *p = data; *p; p++)
        if (*p == '\t')
            *p = ' ';
    copy = arena_strdup(arena, data);
    if (!copy)
        return -ENOMEM;
    *ret = copy;
    return 0;
}

static int observe_sysctl(struct observer *ob, const char *key, struct error **ret_error)
{
    const char *value, *kept = keep(ob, key);
    struct net_sysctl *item;
    int r = net_sysctl_read(ob->o->arena, key, &value);

    if (r == -ENOENT)
        return 0; /* a kernel without IPv6, say */
    if (r < 0)
        return error_errno(ret_error, r, "read /proc/sys/%s", key);
    item = NET_LIST_ADD(ob->o->arena, &ob->o->sysctls);
    if (!item)
        return error_oom(ret_error);
    *item = (struct net_sysctl){kept, value};
    return 0;
}

static int observe_sysctls(struct observer *ob, struct error **ret_error)
{
    static const char *const keys[] = {"net/ipv4/ip_forward",
                                       "net/ipv4/conf/all/arp_ignore",
                                       "net/ipv4/ping_group_range",
                                       "net/ipv4/ip_unprivileged_port_start",
                                       "net/ipv6/conf/all/forwarding",
                                       "net/bridge/bridge-nf-call-iptables",
                                       "net/bridge/bridge-nf-call-ip6tables"};

    for (size_t i = 0; i < ELEMENTSOF(keys); i++) {
        int r = observe_sysctl(ob, keys[i], ret_error);

        if (r < 0)
            return r;
    }
    for (size_t i = 0; i < ob->o->links.count; i++) {
        char key[64];
        int r;

        if (snprintf(key, sizeof(key), "net/ipv6/conf/%s/accept_ra", ob->o->links.items[i].name) >= (int)sizeof(key))
            continue;
        r = observe_sysctl(ob, key, ret_error);
        if (r < 0)
            return r;
    }
    return 0;
}

int net_observe(struct net_observed **ret, struct error **ret_error)
{
    _cleanup_(net_observed_freep) struct net_observed *o = net_observed_new();
    _cleanup_(sock_freep) struct nl_sock *sock = nl_socket_alloc();
    _cleanup_(cache_freep) struct nl_cache *links = NULL;
    struct observer ob = {.o = o, .sock = sock};
    struct stat st;
    int r;

    if (!o || !sock)
        return error_oom(ret_error);
    r = nl_connect(sock, NETLINK_ROUTE);
    if (r < 0)
        return nl_fail(ret_error, r, "a netlink socket");
    r = rtnl_link_alloc_cache(sock, AF_UNSPEC, &links);
    if (r < 0)
        return nl_fail(ret_error, r, "links");
    ob.links = links;
    r = observe_caches(&ob, ret_error);
    if (r >= 0)
        r = observe_kinds(&ob, ret_error);
    if (r >= 0)
        r = observe_nft(&ob, ret_error);
    if (r >= 0)
        r = observe_sysctls(&ob, ret_error);
    if (r < 0)
        return r;
    if (ob.oom)
        return error_oom(ret_error);
    o->vhost_net = stat("/dev/vhost-net", &st) == 0 && S_ISCHR(st.st_mode);
    *ret = TAKE_PTR(o);
    return 0;
}
