/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/event.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "netsetup/dhcp4.h"
#include "netsetup/dhcp6.h"
#include "netsetup/ra.h"

struct dhcp_server {
    sd_event *event;
    const struct dhcp_config *config;
    unsigned index; /* of the link */
    int fd4, fd6, tap_fd;
    sd_event_source *source4, *source6, *tap_source, *timer;
    uint8_t link_mac[6], tap_mac[6];

    /* What is saved. */
    uint8_t client[6];
    bool has_client;
    int64_t bound_at; /* seconds since 1970; 0: the guest has not taken its address yet */
    uint64_t requests, replies, refused, dropped;

    dhcp_bound_fn bound;
    void *bound_userdata;
};

/*
 * A socket filter that lets pass what comes from one MAC (and, on a tap, only router solicitations), so that nobody
 * else on the pod's network can ask, or wake us. Offsets below SKF_LL_OFF count from the Ethernet header.
 */
static int filter_source(int fd, const uint8_t mac[6], struct error **ret_error)
{
    uint32_t high = (uint32_t)mac[0] << 24 | (uint32_t)mac[1] << 16 | (uint32_t)mac[2] << 8 | mac[3];
    uint32_t low = (uint32_t)mac[4] << 8 | mac[5];
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(SKF_LL_OFF + 6)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, high, 0, 3),
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, (uint32_t)(SKF_LL_OFF + 10)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, low, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog program = {.len = ELEMENTSOF(code), .filter = code};

    if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0)
        return error_errno(ret_error, errno, "attach a filter for the guest's MAC");
    return 0;
}

/* EtherType IPv6, next header ICMPv6, type 133. */
static int filter_solicitations(int tap_fd, struct error **ret_error)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x86dd, 0, 5),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 20), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 58, 0, 3),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 54), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 133, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),  BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog program = {.len = ELEMENTSOF(code), .filter = code};

    if (ioctl(tap_fd, TUNATTACHFILTER, &program) < 0)
        return error_errno(ret_error, errno, "attach a filter to the tap for router advertisements");
    return 0;
}

static int bind_to_link(int fd, const char *link, struct error **ret_error)
{
    int one = 1;

    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0)
        return error_errno(ret_error, errno, "SO_REUSEADDR");
    if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, link, (socklen_t)strlen(link) + 1) < 0)
        return error_errno(ret_error, errno, "bind to the link %s", link);
    return 0;
}

static int add_io(struct dhcp_server *s, int fd, sd_event_io_handler_t handler, sd_event_source **source,
                  struct error **ret_error)
{
    int r = sd_event_add_io(s->event, source, fd, EPOLLIN, handler, s);

    if (r >= 0)
        r = sd_event_source_set_ratelimit(*source, USEC_PER_SEC, LIMIT_DHCP_PER_SECOND);
    return r < 0 ? error_errno(ret_error, r, "watch a socket") : 0;
}

/* Ports below 1024: the one capability that the servers need. */
static int bind_port(int fd, const void *address, socklen_t size, int port, struct error **ret_error)
{
    int r;

    if (bind(fd, address, size) >= 0)
        return 0;
    r = error_errno(ret_error, errno, "bind to UDP port %d", port);
    if (r == -EACCES && ret_error)
        error_set_remedy(*ret_error, "the process needs CAP_NET_BIND_SERVICE");
    return r;
}

/* ---- DHCPv4 ---------------------------------------------------------------------------------------------------- */

static void note_bound(struct dhcp_server *s, const uint8_t mac[6])
{
    if (s->has_client && memcmp(s->client, mac, 6) == 0 && s->bound_at)
        return;
    s->bound_at = time(NULL);
    memcpy(s->client, mac, 6);
    s->has_client = true;
    if (s->bound)
        s->bound(s, s->bound_userdata);
}

/* From our own address: the kernel would choose among those of the link. */
static int send4(struct dhcp_server *s, const struct dhcp4_reply *reply)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(DHCP4_CLIENT_PORT)};
    struct in_pktinfo info = {.ipi_ifindex = (int)s->index};
    union {
        char space[CMSG_SPACE(sizeof(struct in_pktinfo))];
        struct cmsghdr align;
    } control = {0};
    struct iovec data = {(void *)(uintptr_t)reply->data, reply->length};
    struct msghdr message = {.msg_name = &to,
                             .msg_namelen = sizeof(to),
                             .msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control.space,
                             .msg_controllen = sizeof(control.space)};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);

    to.sin_addr.s_addr = htonl(INADDR_BROADCAST);
    if (!reply->broadcast)
        memcpy(&to.sin_addr, reply->to, 4);
    memcpy(&info.ipi_spec_dst, s->config->server.bytes, 4);
    header->cmsg_level = IPPROTO_IP;
    header->cmsg_type = IP_PKTINFO;
    header->cmsg_len = CMSG_LEN(sizeof(info));
    memcpy(CMSG_DATA(header), &info, sizeof(info));
    return sendmsg(s->fd4, &message, MSG_DONTWAIT) < 0 ? -errno : 0;
}

static int on_request4(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    struct dhcp_server *s = userdata;
    struct dhcp4_message m;
    struct dhcp4_reply reply;
    uint8_t data[2048];
    const char *why;
    ssize_t n = recv(fd, data, sizeof(data), MSG_DONTWAIT);
    int r;

    if (n < 0)
        return 0; /* a pending ICMP error, or nothing after all */
    s->requests++;
    if (dhcp4_parse(data, (size_t)n, &m, &why) < 0 || !dhcp4_answer(s->config, &m, &reply, &why)) {
        s->dropped++;
        log_debug("DHCP on %s: dropped: %s", s->config->link, why);
        return 0;
    }
    r = send4(s, &reply);
    if (r < 0) {
        s->dropped++;
        log_debug("DHCP on %s: %s not sent: %s", s->config->link, dhcp4_type_name(reply.type), strerror(-r));
        return 0;
    }
    s->replies++;
    s->refused += reply.type == DHCP4_NAK;
    if (reply.type == DHCP4_ACK)
        note_bound(s, m.mac);
    log_debug("DHCP on %s: %s answered by %s", s->config->link, dhcp4_type_name(m.type), dhcp4_type_name(reply.type));
    return 0;
}

static int start4(struct dhcp_server *s, struct error **ret_error)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(DHCP4_SERVER_PORT)};
    int one = 1, r;

    s->fd4 = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->fd4 < 0)
        return error_errno(ret_error, errno, "open a UDP socket");
    r = bind_to_link(s->fd4, s->config->link, ret_error);
    if (r < 0)
        return r;
    if (setsockopt(s->fd4, SOL_SOCKET, SO_BROADCAST, &one, sizeof(one)) < 0)
        return error_errno(ret_error, errno, "SO_BROADCAST");
    if (!s->config->any_client) {
        r = filter_source(s->fd4, s->config->mac, ret_error);
        if (r < 0)
            return r;
    }
    r = bind_port(s->fd4, &any, sizeof(any), DHCP4_SERVER_PORT, ret_error);
    if (r < 0)
        return r;
    return add_io(s, s->fd4, on_request4, &s->source4, ret_error);
}

/* ---- DHCPv6 ---------------------------------------------------------------------------------------------------- */

static int on_request6(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    struct dhcp_server *s = userdata;
    struct sockaddr_in6 from;
    socklen_t size = sizeof(from);
    uint8_t data[2048], reply[DHCP6_MESSAGE_MAX];
    const char *why = "not from a link-local address";
    size_t length;
    ssize_t n = recvfrom(fd, data, sizeof(data), MSG_DONTWAIT, (struct sockaddr *)&from, &size);

    if (n < 0)
        return 0;
    s->requests++;
    if (!IN6_IS_ADDR_LINKLOCAL(&from.sin6_addr) ||
        !dhcp6_answer(s->config, s->link_mac, data, (size_t)n, reply, &length, &why)) {
        s->dropped++;
        log_debug("DHCPv6 on %s: dropped: %s", s->config->link, why);
        return 0;
    }
    from.sin6_port = htons(DHCP6_CLIENT_PORT);
    if (sendto(fd, reply, length, MSG_DONTWAIT, (struct sockaddr *)&from, sizeof(from)) < 0)
        s->dropped++;
    else
        s->replies++;
    return 0;
}

static int start6(struct dhcp_server *s, struct error **ret_error)
{
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(DHCP6_SERVER_PORT)};
    struct ipv6_mreq group = {.ipv6mr_interface = s->index};
    int one = 1, r;

    inet_pton(AF_INET6, "ff02::1:2", &group.ipv6mr_multiaddr); /* all relay agents and servers */
    s->fd6 = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->fd6 < 0)
        return error_errno(ret_error, errno, "open a UDP socket for IPv6");
    r = bind_to_link(s->fd6, s->config->link, ret_error);
    if (r < 0)
        return r;
    if (setsockopt(s->fd6, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)) < 0 ||
        setsockopt(s->fd6, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &group, sizeof(group)) < 0)
        return error_errno(ret_error, errno, "join the group of DHCPv6 servers");
    if (!s->config->any_client) {
        r = filter_source(s->fd6, s->config->mac, ret_error);
        if (r < 0)
            return r;
    }
    r = bind_port(s->fd6, &any, sizeof(any), DHCP6_SERVER_PORT, ret_error);
    if (r < 0)
        return r;
    return add_io(s, s->fd6, on_request6, &s->source6, ret_error);
}

/* ---- router advertisements ------------------------------------------------------------------------------------- */

/* To the guest alone where others share the pod's network: they have a router of their own. */
static void advertise(struct dhcp_server *s)
{
    const uint8_t *to = s->config->any_client ? NULL : s->config->mac;
    uint8_t frame[RA_FRAME_MAX];
    size_t length = ra_build(s->config, s->tap_mac, to, frame);

    if (!length || write(s->tap_fd, frame, length) < 0) {
        s->dropped++;
        log_debug("advertisement on %s not sent: %s", s->config->router_tap, length ? strerror(errno) : "too long");
        return;
    }
    s->replies++;
}

static int on_solicitation(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    struct dhcp_server *s = userdata;
    uint8_t frame[2048], from[6];
    ssize_t n = read(fd, frame, sizeof(frame));

    if (n < 0)
        return 0;
    s->requests++;
    if (!ra_is_solicitation(frame, (size_t)n, from) ||
        (!s->config->any_client && memcmp(from, s->config->mac, 6) != 0)) {
        s->dropped++;
        return 0;
    }
    advertise(s);
    return 0;
}

static int on_interval(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct dhcp_server *s = userdata;

    advertise(s);
    return event_arm_timer(s->event, &s->timer, RA_INTERVAL_USEC, on_interval, s);
}

/* The tap is persistent and ours by uid: no capability is needed to open it. */
static int start_advertisements(struct dhcp_server *s, struct error **ret_error)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    int r;

    s->tap_fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (s->tap_fd < 0)
        return error_errno(ret_error, errno, "open /dev/net/tun");
    if (strlen(s->config->router_tap) >= IFNAMSIZ)
        return error_set(ret_error, ERROR_NETWORK, ENAMETOOLONG, "%s is no link's name", s->config->router_tap);
    strcpy(request.ifr_name, s->config->router_tap);
    if (ioctl(s->tap_fd, TUNSETIFF, &request) < 0)
        return error_errno(ret_error, errno, "open the tap %s", s->config->router_tap);
    if (ioctl(s->tap_fd, SIOCGIFHWADDR, &request) < 0)
        return error_errno(ret_error, errno, "read the MAC of %s", s->config->router_tap);
    memcpy(s->tap_mac, request.ifr_hwaddr.sa_data, 6);
    r = filter_solicitations(s->tap_fd, ret_error);
    if (r < 0)
        return r;
    r = add_io(s, s->tap_fd, on_solicitation, &s->tap_source, ret_error);
    if (r < 0)
        return r;
    r = event_arm_timer(s->event, &s->timer, 0, on_interval, s);
    return r < 0 ? error_errno(ret_error, r, "arm a timer") : 0;
}

/* ---- the server ------------------------------------------------------------------------------------------------ */

static int read_link(struct dhcp_server *s, struct error **ret_error)
{
    _cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq request = {0};

    s->index = if_nametoindex(s->config->link);
    if (!s->index)
        return error_errno(ret_error, errno, "there is no link %s", s->config->link);
    strcpy(request.ifr_name, s->config->link); /* it has an index: it fits */
    if (fd < 0 || ioctl(fd, SIOCGIFHWADDR, &request) < 0)
        return error_errno(ret_error, errno, "read the MAC of %s", s->config->link);
    memcpy(s->link_mac, request.ifr_hwaddr.sa_data, 6);
    return 0;
}

int dhcp_server_new(sd_event *event, const struct dhcp_config *config, struct dhcp_server **ret,
                    struct error **ret_error)
{
    _cleanup_(dhcp_server_freep) struct dhcp_server *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return error_oom(ret_error);
    s->event = sd_event_ref(event);
    s->config = config;
    s->fd4 = s->fd6 = s->tap_fd = -EBADF;
    r = read_link(s, ret_error);
    if (r >= 0 && config->address.family)
        r = start4(s, ret_error);
    if (r >= 0 && config->address6.family)
        r = start6(s, ret_error);
    if (r >= 0 && config->address6.family && config->router6.family && config->router_tap)
        r = start_advertisements(s, ret_error);
    if (r < 0)
        return error_wrap(ret_error, r, "DHCP server on %s", config->link);
    *ret = TAKE_PTR(s);
    return 0;
}

void dhcp_server_free(struct dhcp_server *s)
{
    if (!s)
        return;
    sd_event_source_disable_unref(s->source4);
    sd_event_source_disable_unref(s->source6);
    sd_event_source_disable_unref(s->tap_source);
    sd_event_source_disable_unref(s->timer);
    fd_close(s->fd4);
    fd_close(s->fd6);
    fd_close(s->tap_fd);
    sd_event_unref(s->event);
    free(s);
}

void dhcp_server_on_bound(struct dhcp_server *s, dhcp_bound_fn bound, void *userdata)
{
    s->bound = bound;
    s->bound_userdata = userdata;
}

json_t *dhcp_server_save(const struct dhcp_server *s)
{
    char mac[18] = "";

    if (s->has_client)
        snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", s->client[0], s->client[1], s->client[2],
                 s->client[3], s->client[4], s->client[5]);
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "link", s->config->link, "client", mac, "boundAt",
                     (json_int_t)s->bound_at, "requests", (json_int_t)s->requests, "replies", (json_int_t)s->replies,
                     "refused", (json_int_t)s->refused, "dropped", (json_int_t)s->dropped);
}

static uint64_t saved_count(const json_t *state, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(state, key));

    return value > 0 ? (uint64_t)value : 0;
}

void dhcp_server_restore(struct dhcp_server *s, const json_t *state)
{
    s->has_client = mac_parse(json_string_value(json_object_get(state, "client")), s->client) >= 0;
    s->bound_at = (int64_t)saved_count(state, "boundAt");
    s->requests = saved_count(state, "requests");
    s->replies = saved_count(state, "replies");
    s->refused = saved_count(state, "refused");
    s->dropped = saved_count(state, "dropped");
}
