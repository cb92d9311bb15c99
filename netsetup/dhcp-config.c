/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include <vmlet/vmi.h>

#include "netsetup/dhcp.h"
#include "netsetup/plan.h"

#define FALLBACK_DNS "8.8.8.8" /* KubeVirt's, where resolv.conf names no server */

static const char *next_word(const char **p, size_t *length)
{
    const char *word;

    *p += strspn(*p, " \t");
    word = *p;
    *length = strcspn(*p, " \t");
    *p += *length;
    return word;
}

static void resolv_line(struct arena *arena, const char *line, struct dhcp_resolv *ret)
{
    const char *p = line, *word;
    size_t length;

    word = next_word(&p, &length);
    if (length == 10 && memcmp(word, "nameserver", 10) == 0) {
        char *text;

        word = next_word(&p, &length);
        text = arena_strndup(arena, word, length);
        if (text && ret->n_dns < ELEMENTSOF(ret->dns) && ip_parse(text, &ret->dns[ret->n_dns]) >= 0 &&
            !strchr(text, '/'))
            ret->n_dns++;
    } else if ((length == 6 && memcmp(word, "search", 6) == 0) || (length == 6 && memcmp(word, "domain", 6) == 0)) {
        ret->n_search = 0; /* the last line of either kind counts */
        for (;;) {
            uint8_t wire[256];
            char *name;

            word = next_word(&p, &length);
            if (!length || ret->n_search == ELEMENTSOF(ret->search))
                break;
            name = arena_strndup(arena, word, length);
            if (name && dns_encode_name(name, wire, sizeof(wire)))
                ret->search[ret->n_search++] = name;
        }
    }
}

void dhcp_resolv_parse(struct arena *arena, const char *text, struct dhcp_resolv *ret)
{
    *ret = (struct dhcp_resolv){0};
    while (text && *text) {
        size_t length = strcspn(text, "\n");
        char *line = arena_strndup(arena, text, length);

        if (line && *line != '#' && *line != ';')
            resolv_line(arena, line, ret);
        text += length + (text[length] == '\n');
    }
    if (!ret->n_dns)
        ret->n_dns = ip_parse(FALLBACK_DNS, &ret->dns[0]) >= 0;
}

static int parse_ip(const char *text, const char *what, const char *interface, struct ip *ret, struct error **ret_error)
{
    if (!text) {
        *ret = (struct ip){0};
        return 0;
    }
    if (ip_parse(text, ret) < 0)
        return error_set(ret_error, ERROR_NETWORK, EINVAL, "interface %s: %s \"%s\" is no address", interface, what,
                         text);
    return 0;
}

static int make_routes(struct arena *arena, const struct net_guest_route *from, size_t n, const char *interface,
                       const struct dhcp_route **ret, size_t *ret_n, struct error **ret_error)
{
    struct dhcp_route *routes = arena_new_array(arena, struct dhcp_route, n + 1);
    int r = 0;

    if (!routes)
        return error_oom(ret_error);
    for (size_t i = 0; i < n && r >= 0; i++) {
        r = parse_ip(from[i].to, "route to", interface, &routes[i].to, ret_error);
        if (r >= 0 && *from[i].via)
            r = parse_ip(from[i].via, "route by", interface, &routes[i].via, ret_error);
    }
    if (r < 0)
        return r;
    *ret = routes;
    *ret_n = n;
    return 0;
}

/* KubeVirt: the pod's subdomain goes in front of the search domain that names the pod's namespace, and the longest
 * search domain is the guest's own. */
static int make_names(struct arena *arena, const struct vmi *vmi, const struct dhcp_resolv *resolv,
                      struct dhcp_config *c, struct error **ret_error)
{
    const char **search = arena_new_array(arena, const char *, resolv->n_search + 2);
    const char *longest = NULL;
    size_t n = 0;

    if (!search)
        return error_oom(ret_error);
    for (size_t i = 0; i < resolv->n_search; i++)
        if (!longest || strlen(resolv->search[i]) > strlen(longest))
            longest = resolv->search[i];
    if (vmi->spec.subdomain && longest) {
        const char *prefix = arena_printf(arena, "%s.", vmi->spec.subdomain);

        if (!prefix)
            return error_oom(ret_error);
        if (!startswith(longest, prefix)) {
            longest = arena_printf(arena, "%s%s", prefix, longest);
            if (!longest)
                return error_oom(ret_error);
            search[n++] = longest;
        }
    }
    for (size_t i = 0; i < resolv->n_search; i++)
        search[n++] = resolv->search[i];
    c->search = search;
    c->n_search = n;
    c->domain = longest;
    return 0;
}

/* spec.domain.devices.interfaces[].dhcpOptions; only addresses fit into the NTP option. */
static int make_options(struct arena *arena, const struct vmi_dhcp_options *o, struct dhcp_config *c,
                        struct error **ret_error)
{
    struct dhcp_private_option *options;
    struct ip *ntp;

    if (!o)
        return 0;
    options = arena_new_array(arena, struct dhcp_private_option, o->private_options.count + 1);
    ntp = arena_new_array(arena, struct ip, o->ntp_servers.count + 1);
    if (!options || !ntp)
        return error_oom(ret_error);
    c->boot_file = o->boot_file_name;
    c->tftp_server = o->tftp_server_name;
    for (size_t i = 0; i < o->ntp_servers.count; i++)
        if (ip_parse(o->ntp_servers.items[i], &ntp[c->n_ntp]) >= 0)
            c->n_ntp++;
    for (size_t i = 0; i < o->private_options.count; i++) {
        int64_t code = opt_int_or(o->private_options.items[i].option, 0);

        if (code >= 224 && code <= 254 && o->private_options.items[i].value)
            options[c->n_options++] = (struct dhcp_private_option){(uint8_t)code, o->private_options.items[i].value};
    }
    c->ntp = ntp;
    c->options = options;
    return 0;
}

int dhcp_config_make(struct arena *arena, const struct vmi *vmi, const struct net_interface *n, const char *resolv_text,
                     const char *hostname, struct dhcp_config *ret, struct error **ret_error)
{
    struct dhcp_config c = {.link = n->names.bridge, .any_client = n->binding == VMI_BINDING_MASQUERADE, .mtu = n->mtu};
    struct dhcp_resolv *resolv = arena_alloc(arena, sizeof(*resolv));
    const struct vmi_interface *interface = NULL;
    int r;

    if (!resolv)
        return error_oom(ret_error);
    for (size_t i = 0; i < vmi->spec.domain.devices.interfaces.count; i++)
        if (streq(vmi->spec.domain.devices.interfaces.items[i].name, n->name))
            interface = &vmi->spec.domain.devices.interfaces.items[i];
    if (!interface)
        return error_set(ret_error, ERROR_NOT_FOUND, ENOENT, "the manifest has no interface %s", n->name);
    if (mac_parse(n->mac, c.mac) < 0)
        return error_set(ret_error, ERROR_NETWORK, EINVAL, "interface %s: \"%s\" is no MAC", n->name, n->mac);
    r = parse_ip(n->dhcp ? n->ip : NULL, "ip", n->name, &c.address, ret_error);
    if (r >= 0)
        r = parse_ip(n->server, "server", n->name, &c.server, ret_error);
    if (r >= 0)
        r = parse_ip(n->gateway, "gateway", n->name, &c.gateway, ret_error);
    if (r >= 0)
        r = parse_ip(n->ipv6, "ipv6", n->name, &c.address6, ret_error);
    if (r >= 0)
        r = parse_ip(n->router6, "router6", n->name, &c.router6, ret_error);
    if (r >= 0)
        r = make_routes(arena, n->routes.items, n->routes.count, n->name, &c.routes, &c.n_routes, ret_error);
    if (r >= 0)
        r = make_routes(arena, n->routes6.items, n->routes6.count, n->name, &c.routes6, &c.n_routes6, ret_error);
    if (r < 0)
        return r;
    c.has_router_mac = n->router6_mac && mac_parse(n->router6_mac, c.router_mac) >= 0;
    c.router_tap = n->names.router;
    dhcp_resolv_parse(arena, resolv_text, resolv);
    c.dns = resolv->dns;
    c.n_dns = resolv->n_dns;
    c.hostname = hostname;
    r = make_names(arena, vmi, resolv, &c, ret_error);
    if (r >= 0)
        r = make_options(arena, interface->dhcp_options, &c, ret_error);
    if (r >= 0)
        *ret = c;
    return r;
}
