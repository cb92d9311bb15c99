/* SPDX-License-Identifier: Apache-2.0 */
#include "netsetup/apply.h"

#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/route/link.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/child.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "netsetup/ip.h"

struct applier {
    struct nl_sock *sock;
    int reply_errno;  /* of the last request; negative */
    char reason[256]; /* the kernel's own words, or "" */
};

/* The kernel's extended acknowledgement: attributes behind the header of the request that it quotes. */
static void note_reason(struct applier *a, const struct nlmsghdr *h, const struct nlmsgerr *reply)
{
    const char *message = (const char *)h;
    size_t header = sizeof(struct nlattr), offset = sizeof(*h) + sizeof(*reply);

    if (!(h->nlmsg_flags & NLM_F_ACK_TLVS))
        return;
    if (!(h->nlmsg_flags & NLM_F_CAPPED))
        offset += ((reply->msg.nlmsg_len + 3U) & ~3U) - sizeof(reply->msg);
    while (offset + header <= h->nlmsg_len) {
        struct nlattr attr;

        memcpy(&attr, message + offset, header);
        if (attr.nla_len < header || offset + attr.nla_len > h->nlmsg_len)
            return;
        if (attr.nla_type == NLMSGERR_ATTR_MSG)
            snprintf(a->reason, sizeof(a->reason), " (%.*s)", (int)(attr.nla_len - header), message + offset + header);
        offset += (attr.nla_len + 3U) & ~3U;
    }
}

static int note_error(struct sockaddr_nl *peer, struct nlmsgerr *reply, void *data)
{
    struct applier *a = data;

    a->reply_errno = reply->error;
    note_reason(a, (const struct nlmsghdr *)(const void *)((const char *)reply - sizeof(struct nlmsghdr)), reply);
    return NL_STOP;
}

static int applier_init(struct applier *a, struct error **ret_error)
{
    int r, one = 1;

    *a = (struct applier){.sock = nl_socket_alloc()};
    if (!a->sock)
        return error_oom(ret_error);
    r = nl_connect(a->sock, NETLINK_ROUTE);
    if (r < 0) {
        nl_socket_free(a->sock);
        return error_set(ret_error, ERROR_HOST, EIO, "open a netlink socket: %s", nl_geterror(r));
    }
    (void)setsockopt(nl_socket_get_fd(a->sock), SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof(one));
    nl_socket_modify_err_cb(a->sock, NL_CB_CUSTOM, note_error, a);
    return 0;
}

static void applier_done(struct applier *a)
{
    nl_socket_free(a->sock);
}

/* Sends, frees the message and waits for the kernel's answer: 0 or its negative errno. */
static int request(struct applier *a, struct nl_msg *msg, struct error **ret_error)
{
    int r;

    a->reply_errno = 0;
    a->reason[0] = '\0';
    r = nl_send_sync(a->sock, msg);
    if (r >= 0)
        return 0;
    if (a->reply_errno < 0)
        return error_set(ret_error, ERROR_NETWORK, a->reply_errno, "%s%s", strerror(-a->reply_errno), a->reason);
    return error_set(ret_error, ERROR_NETWORK, EIO, "%s", nl_geterror(r));
}

/* By ioctl, which any socket takes: one call instead of a message with all that the kernel knows of the link. */
static int link_index(struct applier *a, const char *name, struct error **ret_error)
{
    struct ifreq wanted = {0};

    if (strlen(name) >= IFNAMSIZ)
        return error_set(ret_error, ERROR_NETWORK, ENODEV, "there is no link %s", name);
    strcpy(wanted.ifr_name, name);
    if (ioctl(nl_socket_get_fd(a->sock), SIOCGIFINDEX, &wanted) < 0)
        return errno == ENODEV ? error_set(ret_error, ERROR_NETWORK, ENODEV, "there is no link %s", name)
                               : error_errno(ret_error, errno, "look for the link %s", name);
    return wanted.ifr_ifindex;
}

/* A message of this type with its fixed part; NULL when out of memory. */
static struct nl_msg *message_new(int type, int flags, const void *fixed, size_t size)
{
    struct nl_msg *msg = nlmsg_alloc_simple(type, flags);

    if (msg)
        nlmsg_append(msg, (void *)(uintptr_t)fixed, size, NLMSG_ALIGNTO);
    return msg;
}

/* What an address or a route of a link begins with: the link's index (negative: failed) and the address itself. */
static int begin(struct applier *a, const char *link, const char *text, struct ip *ret, struct error **ret_error)
{
    int index = link_index(a, link, ret_error);

    if (index >= 0 && ip_parse(text, ret) < 0)
        return error_set(ret_error, ERROR_NETWORK, EINVAL, "%s is no address", text);
    return index;
}

static void put_ip(struct nl_msg *msg, int attribute, const char *text, const struct ip *like)
{
    struct ip ip;

    if (ip_parse(text, &ip) >= 0 && ip.family == like->family)
        nla_put(msg, attribute, (int)ip_size(&ip), ip.bytes);
}

/* A message that changes one link: flags, or one attribute, or both. */
static int change_link(struct applier *a, const char *name, unsigned flags, unsigned mask, int attribute,
                       const void *data, size_t size, struct error **ret_error)
{
    struct ifinfomsg info = {.ifi_family = AF_UNSPEC, .ifi_flags = flags, .ifi_change = mask};
    struct nl_msg *msg;
    int index = link_index(a, name, ret_error);

    if (index < 0)
        return index;
    info.ifi_index = index;
    msg = message_new(RTM_SETLINK, 0, &info, sizeof(info));
    if (!msg)
        return error_oom(ret_error);
    if (attribute)
        nla_put(msg, attribute, (int)size, data);
    return request(a, msg, ret_error);
}

static int do_link_mac(struct applier *a, const struct net_action *action, struct error **ret_error)
{
    uint8_t mac[6];

    if (mac_parse(action->value, mac) < 0)
        return error_set(ret_error, ERROR_NETWORK, EINVAL, "%s is no MAC", action->value);
    return change_link(a, action->link, 0, 0, IFLA_ADDRESS, mac, sizeof(mac), ret_error);
}

static int do_link_master(struct applier *a, const struct net_action *action, struct error **ret_error)
{
    int master = *action->value ? link_index(a, action->value, ret_error) : 0;
    uint32_t value = (uint32_t)master;

    if (master < 0)
        return master;
    return change_link(a, action->link, 0, 0, IFLA_MASTER, &value, sizeof(value), ret_error);
}

/* Of a port of a bridge. */
static int do_port_flag(struct applier *a, const struct net_action *action, int flag, struct error **ret_error)
{
    struct ifinfomsg info = {.ifi_family = AF_BRIDGE};
    struct nl_msg *msg;
    struct nlattr *nest;
    int index = link_index(a, action->link, ret_error);

    if (index < 0)
        return index;
    info.ifi_index = index;
    msg = message_new(RTM_SETLINK, 0, &info, sizeof(info));
    if (!msg)
        return error_oom(ret_error);
    nest = nla_nest_start(msg, IFLA_PROTINFO | NLA_F_NESTED);
    nla_put_u8(msg, flag, streq(action->value, "on"));
    nla_nest_end(msg, nest);
    return request(a, msg, ret_error);
}

/* Only what a plan makes: a veth of the pod is never deleted, whatever its name. */
static int do_link_delete(struct applier *a, const struct net_action *action, struct error **ret_error)
{
    struct ifinfomsg info = {.ifi_family = AF_UNSPEC};
    struct rtnl_link *link = NULL;
    struct nl_msg *msg;
    bool fits;

    if (rtnl_link_get_kernel(a->sock, 0, action->link, &link) < 0 || !link)
        return error_set(ret_error, ERROR_NETWORK, ENODEV, "there is no link %s", action->link);
    fits = streq_ptr(rtnl_link_get_type(link), action->value);
    info.ifi_index = rtnl_link_get_ifindex(link);
    rtnl_link_put(link);
    if (!fits)
        return error_set(ret_error, ERROR_NETWORK, ENODEV, "link %s is of another kind than %s: left alone",
                         action->link, action->value);
    msg = message_new(RTM_DELLINK, 0, &info, sizeof(info));
    if (!msg)
        return error_oom(ret_error);
    return request(a, msg, ret_error);
}

static int add_link(struct applier *a, const char *name, const char *kind, const char *mac_text,
                    struct error **ret_error)
{
    struct ifinfomsg info = {.ifi_family = AF_UNSPEC};
    struct nl_msg *msg = message_new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &info, sizeof(info));
    struct nlattr *nest;
    uint8_t mac[6];

    if (!msg)
        return error_oom(ret_error);
    nla_put_string(msg, IFLA_IFNAME, name);
    if (mac_text && mac_parse(mac_text, mac) >= 0)
        nla_put(msg, IFLA_ADDRESS, sizeof(mac), mac);
    nest = nla_nest_start(msg, IFLA_LINKINFO);
    nla_put_string(msg, IFLA_INFO_KIND, kind);
    nla_nest_end(msg, nest);
    return request(a, msg, ret_error);
}

/* owner (uid_t)-1: nobody but root may open it. linux/if_tun.h, and the kernel's networking/tuntap.rst. */
static int add_tap(const char *name, uid_t owner, gid_t group, unsigned queues, struct error **ret_error)
{
    _cleanup_close_ int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    struct ifreq request_ = {.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)};

    if (fd < 0)
        return error_errno(ret_error, errno, "open /dev/net/tun");
    if (strlen(name) >= IFNAMSIZ)
        return error_set(ret_error, ERROR_NETWORK, ENAMETOOLONG, "%s is too long for a link's name", name);
    strcpy(request_.ifr_name, name);
    if (queues > 1)
        request_.ifr_flags = (short)(request_.ifr_flags | IFF_MULTI_QUEUE);
    request_.ifr_flags = (short)(request_.ifr_flags | IFF_TUN_EXCL);
    if (ioctl(fd, TUNSETIFF, &request_) < 0)
        return error_errno(ret_error, errno, "make the tap %s", name);
    if (owner != (uid_t)-1 && (ioctl(fd, TUNSETOWNER, owner) < 0 || ioctl(fd, TUNSETGROUP, group) < 0))
        return error_errno(ret_error, errno, "give the tap %s to uid %u", name, owner);
    if (ioctl(fd, TUNSETPERSIST, 1) < 0)
        return error_errno(ret_error, errno, "keep the tap %s", name);
    return 0;
}

/* dummy and ifb links take a MAC while they are made (an ifb at no other time); a tap, afterwards. */
static int do_dummy(struct applier *a, const struct net_action *action, struct error **ret_error)
{
    struct net_action mac = {.op = NET_OP_LINK_MAC, .link = action->link, .value = action->mac};
    struct net_action away = {.op = NET_OP_LINK_DELETE, .link = action->link, .value = "tun"};
    int r;

    if (!streq(action->value, "tap"))
        return add_link(a, action->link, action->value, action->mac, ret_error);
    r = add_tap(action->link, (uid_t)-1, (gid_t)-1, 1, ret_error);
    if (r < 0)
        return r;
    r = do_link_mac(a, &mac, ret_error);
    if (r < 0)
        (void)do_link_delete(a, &away, NULL);
    return r;
}

static int do_address(struct applier *a, const struct net_action *action, int type, struct error **ret_error)
{
    const struct net_address *address = &action->address;
    struct ifa_cacheinfo lifetimes = {.ifa_valid = address->valid, .ifa_prefered = address->preferred};
    struct ifaddrmsg info = {.ifa_scope = (uint8_t)address->scope};
    struct nl_msg *msg;
    struct ip ip;
    int index = begin(a, action->link, address->address, &ip, ret_error);

    if (index < 0)
        return index;
    info.ifa_family = (uint8_t)ip.family;
    info.ifa_prefixlen = (uint8_t)ip.prefix;
    info.ifa_index = (unsigned)index;
    msg = message_new(type, type == RTM_NEWADDR ? NLM_F_CREATE | NLM_F_EXCL : 0, &info, sizeof(info));
    if (!msg)
        return error_oom(ret_error);
    nla_put(msg, IFA_LOCAL, (int)ip_size(&ip), ip.bytes);
    put_ip(msg, IFA_ADDRESS, *address->peer ? address->peer : address->address, &ip);
    put_ip(msg, IFA_BROADCAST, address->broadcast, &ip);
    if (*address->label)
        nla_put_string(msg, IFA_LABEL, address->label);
    if (type == RTM_NEWADDR) {
        nla_put_u32(msg, IFA_FLAGS, address->flags);
        nla_put(msg, IFA_CACHEINFO, sizeof(lifetimes), &lifetimes);
    }
    return request(a, msg, ret_error);
}

/* RTA_VIA where the gateway is of the other family. */
static void put_gateway(struct nl_msg *msg, const char *text, const struct ip *to)
{
    struct {
        uint16_t family;
        uint8_t bytes[16];
    } via;
    struct ip ip;

    if (ip_parse(text, &ip) < 0)
        return;
    if (ip.family == to->family) {
        nla_put(msg, RTA_GATEWAY, (int)ip_size(&ip), ip.bytes);
        return;
    }
    via.family = (uint16_t)ip.family;
    memcpy(via.bytes, ip.bytes, ip_size(&ip));
    nla_put(msg, RTA_VIA, (int)(offsetof(__typeof__(via), bytes) + ip_size(&ip)), &via);
}

/* One rtnexthop for each gateway: a header whose length says where the next one begins. */
static int put_hops(struct nl_msg *msg, const struct net_route *route, int index, const struct ip *to)
{
    struct nlattr *nest = nla_nest_start(msg, RTA_MULTIPATH);
    const char *p = route->hops;
    char via[64];
    unsigned weight;
    int r;

    while ((r = net_route_next_hop(&p, via, sizeof(via), &weight)) > 0) {
        struct rtnexthop *hop = nlmsg_reserve(msg, sizeof(*hop), NLMSG_ALIGNTO);

        if (!nest || !hop)
            return -ENOMEM;
        *hop = (struct rtnexthop){
            .rtnh_hops = (uint8_t)(weight - 1), .rtnh_flags = route->onlink ? RTNH_F_ONLINK : 0, .rtnh_ifindex = index};
        put_gateway(msg, via, to);
        hop->rtnh_len = (uint16_t)((char *)nlmsg_tail(nlmsg_hdr(msg)) - (char *)hop);
    }
    nla_nest_end(msg, nest);
    return r;
}

static int put_metrics(struct nl_msg *msg, const char *metrics)
{
    struct nlattr *nest = *metrics ? nla_nest_start(msg, RTA_METRICS) : NULL;
    uint32_t value;
    unsigned id;
    int r = 0;

    while (nest && (r = net_route_next_metric(&metrics, &id, &value)) > 0)
        nla_put_u32(msg, (int)id, value);
    if (nest)
        nla_nest_end(msg, nest);
    return r;
}

static int do_route(struct applier *a, const struct net_action *action, int type, struct error **ret_error)
{
    const struct net_route *route = &action->route;
    struct rtmsg info = {.rtm_table = RT_TABLE_UNSPEC,
                         .rtm_protocol = (uint8_t)route->protocol,
                         .rtm_scope = (uint8_t)route->scope,
                         .rtm_type = (uint8_t)route->type,
                         .rtm_flags = route->onlink ? RTNH_F_ONLINK : 0};
    struct nl_msg *msg;
    struct ip to;
    int r = 0, index = begin(a, action->link, route->to, &to, ret_error);

    if (index < 0)
        return index;
    info.rtm_family = (uint8_t)to.family;
    info.rtm_dst_len = (uint8_t)to.prefix;
    msg = message_new(type, type == RTM_NEWROUTE ? NLM_F_CREATE | NLM_F_EXCL : 0, &info, sizeof(info));
    if (!msg)
        return error_oom(ret_error);
    if (to.prefix)
        put_ip(msg, RTA_DST, route->to, &to);
    put_ip(msg, RTA_PREFSRC, route->source, &to);
    if (route->metric)
        nla_put_u32(msg, RTA_PRIORITY, route->metric);
    nla_put_u32(msg, RTA_TABLE, route->table);
    if (*route->hops) {
        r = put_hops(msg, route, index, &to);
    } else {
        put_gateway(msg, route->via, &to);
        nla_put_u32(msg, RTA_OIF, (uint32_t)index);
    }
    if (r >= 0 && type == RTM_NEWROUTE)
        r = put_metrics(msg, route->metrics);
    if (r < 0) {
        nlmsg_free(msg);
        return error_set(ret_error, ERROR_NETWORK, -r, "the route to %s has parts of a wrong form", route->to);
    }
    return request(a, msg, ret_error);
}

static int do_sysctl(const struct net_action *action, struct error **ret_error)
{
    _cleanup_free_ char *path = NULL;
    _cleanup_close_ int fd = -EBADF;
    int r;

    if (asprintf(&path, "/proc/sys/%s", action->link) < 0)
        return error_oom(ret_error);
    fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return error_errno(ret_error, errno, "open %s", path);
    r = fd_write_all(fd, action->value, strlen(action->value));
    if (r < 0)
        return error_errno(ret_error, r, "write \"%s\" to %s", action->value, path);
    return 0;
}

/* It inherits CAP_NET_ADMIN: not what the caller's PATH finds first. */
static const char *nft_path(void)
{
    static const char *const places[] = {"/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"};

    for (size_t i = 0; i < ELEMENTSOF(places); i++)
        if (access(places[i], X_OK) == 0)
            return places[i];
    return places[0];
}

static int do_nft(const struct net_action *action, struct error **ret_error)
{
    char path[] = "PATH=/usr/sbin:/usr/bin", locale[] = "LC_ALL=C";
    char json[] = "-j", file[] = "-f", standard_input[] = "-";
    char *const environment[] = {path, locale, NULL};
    char *const argv[] = {(char *)(uintptr_t)nft_path(), json, file, standard_input, NULL};
    _cleanup_close_ int input = memfd_create("nft-rules", MFD_CLOEXEC);
    _cleanup_free_ char *out = NULL, *err = NULL;
    struct child_options options = {.argv = argv, .environment = environment, .death_signal = SIGKILL};
    int r, code = -1;

    if (input < 0)
        return error_errno(ret_error, errno, "make room for nft's rules");
    r = fd_write_all(input, action->rules, strlen(action->rules));
    if (r < 0 || lseek(input, 0, SEEK_SET) < 0)
        return error_errno(ret_error, r < 0 ? r : errno, "write nft's rules");
    options.stdin_fd = input;
    r = child_run(&options, TIMEOUT_NFT_USEC, &code, &out, &err, ret_error);
    if (r == -ENOENT) {
        r = error_set(ret_error, ERROR_HOST, ENOENT, "nft is not installed");
        if (ret_error)
            error_set_remedy(*ret_error, "install the package nftables");
        return r;
    }
    if (r < 0)
        return error_wrap(ret_error, r, "nft");
    if (code == 0)
        return 0;
    if (err)
        err[strcspn(err, "\n")] = '\0';
    return error_set(ret_error, ERROR_NETWORK, err && strstr(err, "No such file") ? ENOENT : EIO,
                     "nft refused the rules with code %d: %s", code, err ? err : "");
}

static int run(struct applier *a, const struct net_action *action, struct error **ret_error)
{
    uint32_t mtu;

    switch (action->op) {
    case NET_OP_LINK_UP:
        return change_link(a, action->link, IFF_UP, IFF_UP, 0, NULL, 0, ret_error);
    case NET_OP_LINK_DOWN:
        return change_link(a, action->link, 0, IFF_UP, 0, NULL, 0, ret_error);
    case NET_OP_LINK_RENAME:
        return change_link(a, action->link, 0, 0, IFLA_IFNAME, action->value, strlen(action->value) + 1, ret_error);
    case NET_OP_LINK_MAC:
        return do_link_mac(a, action, ret_error);
    case NET_OP_LINK_MTU:
        mtu = (uint32_t)strtoul(action->value, NULL, 10);
        return change_link(a, action->link, 0, 0, IFLA_MTU, &mtu, sizeof(mtu), ret_error);
    case NET_OP_LINK_MASTER:
        return do_link_master(a, action, ret_error);
    case NET_OP_LINK_LEARNING:
        return do_port_flag(a, action, IFLA_BRPORT_LEARNING, ret_error);
    case NET_OP_LINK_FLOOD:
        return do_port_flag(a, action, IFLA_BRPORT_UNICAST_FLOOD, ret_error);
    case NET_OP_LINK_DELETE:
        return do_link_delete(a, action, ret_error);
    case NET_OP_BRIDGE_ADD:
        return add_link(a, action->link, "bridge", action->value, ret_error);
    case NET_OP_TAP_ADD:
        return add_tap(action->link, action->owner, action->group, action->queues, ret_error);
    case NET_OP_DUMMY_ADD:
        return do_dummy(a, action, ret_error);
    case NET_OP_ADDRESS_ADD:
        return do_address(a, action, RTM_NEWADDR, ret_error);
    case NET_OP_ADDRESS_DELETE:
        return do_address(a, action, RTM_DELADDR, ret_error);
    case NET_OP_ROUTE_ADD:
        return do_route(a, action, RTM_NEWROUTE, ret_error);
    case NET_OP_ROUTE_DELETE:
        return do_route(a, action, RTM_DELROUTE, ret_error);
    case NET_OP_SYSCTL:
        return do_sysctl(action, ret_error);
    case NET_OP_NFT:
        return do_nft(action, ret_error);
    default:
        return error_set(ret_error, ERROR_INTERNAL, EINVAL, "a plan held an unknown step");
    }
}

/* An undo that finds its object gone, or the old state back, has nothing left to do. */
static bool undone_already(const struct net_action *undo, int r)
{
    if (undo->op == NET_OP_LINK_LEARNING && r == -EOPNOTSUPP)
        return true; /* the link is in no bridge (any more, or yet) */
    return r == -ENODEV || r == -EEXIST || r == -EADDRNOTAVAIL || r == -ESRCH || r == -ENOENT;
}

static int undo_one(struct applier *a, const struct net_action *undo, struct error **first)
{
    _cleanup_error_ struct error *e = NULL;
    _cleanup_(arena_freep) struct arena *arena = arena_new();
    int r = run(a, undo, &e);

    if (r >= 0)
        return 0;
    if (undone_already(undo, r)) {
        log_debug("undo of the network: %s %s: %s", net_op_name(undo->op), undo->link, error_message(e));
        return 0;
    }
    error_wrap(&e, r, "undo: %s", arena ? net_action_text(arena, undo) : net_op_name(undo->op));
    if (!*first)
        *first = TAKE_PTR(e);
    return r;
}

int net_undo(const struct net_action *undos, size_t count, struct error **ret_error)
{
    _cleanup_error_ struct error *first = NULL;
    struct applier a;
    int r = applier_init(&a, ret_error), failed = 0;

    if (r < 0)
        return r;
    for (size_t i = count; i-- > 0;) {
        r = undo_one(&a, &undos[i], &first);
        if (r < 0 && !failed)
            failed = r;
    }
    applier_done(&a);
    if (failed)
        error_move(ret_error, TAKE_PTR(first));
    return failed;
}

static int step_failed(const struct net_plan *plan, size_t index, int r, struct error **ret_error)
{
    _cleanup_(arena_freep) struct arena *arena = arena_new();
    const struct net_action *action = &plan->steps.items[index].action;

    return error_wrap(ret_error, r, "network of %s, step %zu of %zu (%s)", plan->vm, index + 1, plan->steps.count,
                      arena ? net_action_text(arena, action) : net_op_name(action->op));
}

int net_apply(const struct net_plan *plan, unsigned fail_at, bool *ret_restored, struct error **ret_error)
{
    _cleanup_error_ struct error *e = NULL, *undo_error = NULL;
    struct applier a;
    size_t done;
    int r = applier_init(&a, ret_error);

    *ret_restored = true;
    if (r < 0)
        return r;
    for (done = 0; done < plan->steps.count; done++) {
        if (done + 1 == fail_at)
            r = error_set(&e, ERROR_NETWORK, ECANCELED, "made to fail here, for a test");
        else
            r = run(&a, &plan->steps.items[done].action, &e);
        if (r < 0)
            break;
    }
    if (r >= 0) {
        applier_done(&a);
        return 0;
    }
    step_failed(plan, done, r, &e);
    /* The answer to a request may be lost after it was carried out. What was there before us (EEXIST) is not ours. */
    if (done + 1 != fail_at && r != -EEXIST)
        done++;
    for (size_t i = done; i-- > 0;)
        if (plan->steps.items[i].has_undo && undo_one(&a, &plan->steps.items[i].undo, &undo_error) < 0)
            *ret_restored = false;
    applier_done(&a);
    if (!*ret_restored && ret_error)
        error_set_remedy(e, "the namespace could not be restored: %s", error_message(undo_error));
    error_move(ret_error, TAKE_PTR(e));
    return r;
}
