/* SPDX-License-Identifier: Apache-2.0 */
#include <net/if.h>
#include <stdio.h>

#include "base/strbuf.h"
#include "netsetup/ip.h"
#include "netsetup/plan.h"

static const char *const op_names[NET_OP_COUNT] = {
#define X(symbol, name) [NET_OP_##symbol] = name,
    NET_OPS(X)
#undef X
};

const char *net_op_name(enum net_op op)
{
    return op < NET_OP_COUNT ? op_names[op] : "?";
}

static void set(json_t *object, const char *key, const char *text)
{
    if (text)
        json_object_set_new(object, key, json_string(text));
}

static bool op_has_value(enum net_op op)
{
    switch (op) {
    case NET_OP_LINK_RENAME:
    case NET_OP_LINK_MAC:
    case NET_OP_LINK_MTU:
    case NET_OP_LINK_MASTER:
    case NET_OP_LINK_LEARNING:
    case NET_OP_LINK_FLOOD:
    case NET_OP_LINK_DELETE:
    case NET_OP_BRIDGE_ADD:
    case NET_OP_DUMMY_ADD:
    case NET_OP_SYSCTL:
        return true;
    default:
        return false;
    }
}

json_t *net_action_to_json(const struct net_action *a)
{
    json_t *json = json_pack("{s:s, s:s}", "op", net_op_name(a->op), "link", a->link);

    if (op_has_value(a->op))
        set(json, "value", a->value);
    if (a->op == NET_OP_DUMMY_ADD)
        set(json, "mac", a->mac);
    if (a->op == NET_OP_TAP_ADD) {
        json_object_set_new(json, "owner", json_integer(a->owner));
        json_object_set_new(json, "group", json_integer(a->group));
        json_object_set_new(json, "queues", json_integer(a->queues));
    } else if (a->op == NET_OP_ADDRESS_ADD || a->op == NET_OP_ADDRESS_DELETE) {
        json_object_set_new(json, "address", net_address_to_json(&a->address));
    } else if (a->op == NET_OP_ROUTE_ADD || a->op == NET_OP_ROUTE_DELETE) {
        json_object_set_new(json, "route", net_route_to_json(&a->route));
    } else if (a->op == NET_OP_NFT) {
        json_object_set_new(json, "rules", json_loads(a->rules, 0, NULL));
    }
    return json;
}

/* Keys of sysctls that plans set: a stored undo may write no other file. */
static bool sysctl_is_planned(const char *key)
{
    static const char *const exact[] = {"net/ipv4/ip_forward",
                                        "net/ipv6/conf/all/forwarding",
                                        "net/ipv4/conf/all/arp_ignore",
                                        "net/ipv4/ping_group_range",
                                        "net/ipv4/ip_unprivileged_port_start",
                                        "net/bridge/bridge-nf-call-iptables",
                                        "net/bridge/bridge-nf-call-ip6tables"};
    const char *name, *leaf;

    for (size_t i = 0; i < ELEMENTSOF(exact); i++)
        if (streq(key, exact[i]))
            return true;
    name = startswith(key, "net/ipv4/conf/");
    if (!name)
        name = startswith(key, "net/ipv6/conf/");
    leaf = name ? strchr(name, '/') : NULL;
    return leaf && *name != '.' && leaf > name && leaf - name < IFNAMSIZ &&
           (streq(leaf, "/route_localnet") || streq(leaf, "/accept_ra"));
}

static bool link_name_is_fit(const char *name)
{
    return *name && strlen(name) < IFNAMSIZ && !strpbrk(name, "/ \t\n") && !streq(name, ".") && !streq(name, "..");
}

static bool value_is_fit(enum net_op op, const char *value)
{
    static const char *const kinds[] = {"dummy", "ifb", "tap"}, *const deletable[] = {"dummy", "ifb", "tun", "bridge"};
    uint8_t mac[6];

    switch (op) {
    case NET_OP_LINK_RENAME:
        return link_name_is_fit(value);
    case NET_OP_LINK_MASTER:
        return !*value || link_name_is_fit(value);
    case NET_OP_LINK_MAC:
    case NET_OP_BRIDGE_ADD:
        return mac_parse(value, mac) >= 0;
    case NET_OP_LINK_MTU:
        return strspn(value, "0123456789") == strlen(value) && *value && strlen(value) < 7;
    case NET_OP_LINK_LEARNING:
    case NET_OP_LINK_FLOOD:
        return streq(value, "on") || streq(value, "off");
    case NET_OP_DUMMY_ADD:
        for (size_t i = 0; i < ELEMENTSOF(kinds); i++)
            if (streq(value, kinds[i]))
                return true;
        return false;
    case NET_OP_LINK_DELETE:
        for (size_t i = 0; i < ELEMENTSOF(deletable); i++)
            if (streq(value, deletable[i]))
                return true;
        return false;
    default:
        return strspn(value, "0123456789-\t ") == strlen(value) && strlen(value) < 64;
    }
}

static int bad(struct error **ret_error, const char *op, const char *what)
{
    return error_set(ret_error, ERROR_BAD_DATA, EINVAL, "stored step %s: %s is missing or has the wrong form", op,
                     what);
}

static int decode_number(const json_t *json, const char *key, unsigned limit, unsigned *ret)
{
    const json_t *value = json_object_get(json, key);

    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > limit)
        return -EINVAL;
    *ret = (unsigned)json_integer_value(value);
    return 0;
}

int net_action_from_json(struct arena *arena, const json_t *json, struct net_action *ret, struct error **ret_error)
{
    const char *name = json_string_value(json_object_get(json, "op"));
    const char *link = json_string_value(json_object_get(json, "link"));
    const char *value = json_string_value(json_object_get(json, "value"));
    struct net_action a = {.op = NET_OP_COUNT};
    int r = 0;

    for (enum net_op op = 0; name && op < NET_OP_COUNT; op++)
        if (streq(name, op_names[op]))
            a.op = op;
    if (a.op == NET_OP_COUNT)
        return bad(ret_error, name ? name : "?", "op");
    if (!link || !(a.op == NET_OP_SYSCTL ? sysctl_is_planned(link) : link_name_is_fit(link)))
        return bad(ret_error, name, "link");
    a.link = arena_strdup(arena, link);
    if (!a.link)
        return error_oom(ret_error);
    if (op_has_value(a.op)) {
        if (!value || !value_is_fit(a.op, value))
            return bad(ret_error, name, "value");
        a.value = arena_strdup(arena, value);
        if (!a.value)
            return error_oom(ret_error);
    }
    if (a.op == NET_OP_DUMMY_ADD) {
        const char *text = json_string_value(json_object_get(json, "mac"));

        if (!text || !value_is_fit(NET_OP_LINK_MAC, text))
            return bad(ret_error, name, "mac");
        a.mac = arena_strdup(arena, text);
        if (!a.mac)
            return error_oom(ret_error);
    }
    if (a.op == NET_OP_TAP_ADD) {
        if (decode_number(json, "owner", UINT32_MAX - 1, &a.owner) < 0 ||
            decode_number(json, "group", UINT32_MAX - 1, &a.group) < 0 ||
            decode_number(json, "queues", 256, &a.queues) < 0)
            return bad(ret_error, name, "owner, group or queues");
    } else if (a.op == NET_OP_ADDRESS_ADD || a.op == NET_OP_ADDRESS_DELETE) {
        r = net_address_from_json(arena, json_object_get(json, "address"), &a.address, ret_error);
    } else if (a.op == NET_OP_ROUTE_ADD || a.op == NET_OP_ROUTE_DELETE) {
        r = net_route_from_json(arena, json_object_get(json, "route"), &a.route, ret_error);
    } else if (a.op == NET_OP_NFT) {
        char *text;

        if (!json_is_object(json_object_get(json, "rules")))
            return bad(ret_error, name, "rules");
        text = json_dumps(json_object_get(json, "rules"), JSON_COMPACT);
        a.rules = text ? arena_strdup(arena, text) : NULL;
        free(text);
        if (!a.rules)
            return error_oom(ret_error);
    }
    if (r < 0)
        return r;
    *ret = a;
    return 0;
}

static const char *const binding_names[] = {
    [VMI_BINDING_UNSET] = "none",      [VMI_BINDING_BRIDGE] = "bridge", [VMI_BINDING_MASQUERADE] = "masquerade",
    [VMI_BINDING_SRIOV] = "sriov",     [VMI_BINDING_PASST] = "passt",   [VMI_BINDING_SLIRP] = "slirp",
    [VMI_BINDING_MACVTAP] = "macvtap", [VMI_BINDING_PLUGIN] = "plugin",
};
static const char *const state_names[] = {
    [VMI_LINK_UNSET] = "up", [VMI_LINK_UP] = "up", [VMI_LINK_DOWN] = "down", [VMI_LINK_ABSENT] = "absent"};

static json_t *guest_routes(const struct net_guest_route *items, size_t count)
{
    json_t *array = json_array();

    for (size_t i = 0; i < count; i++) {
        json_t *route = json_pack("{s:s}", "to", items[i].to);

        if (*items[i].via)
            set(route, "via", items[i].via);
        json_array_append_new(array, route);
    }
    return array;
}

static json_t *interface_to_json(const struct net_interface *n)
{
    json_t *json = json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:b, s:b}", "name", n->name, "binding",
                             binding_names[n->binding], "state", state_names[n->state], "podLink", n->names.pod, "mac",
                             n->mac ? n->mac : "", "mtu", (int)n->mtu, "queues", (int)n->queues, "vhost", n->vhost,
                             "present", n->present);

    if (n->has_tap) {
        set(json, "tap", n->names.tap);
        set(json, "bridge", n->names.bridge);
        if (n->binding == VMI_BINDING_BRIDGE)
            set(json, "nic", n->names.nic);
        if (n->ipv6)
            set(json, "router", n->names.router);
    }
    set(json, "note", n->note);
    if (n->pod_ips.count) {
        json_t *ips = json_array();

        for (size_t i = 0; i < n->pod_ips.count; i++)
            json_array_append_new(ips, json_string(n->pod_ips.items[i]));
        json_object_set_new(json, "podIPs", ips);
    }
    if (n->dhcp || n->ipv6) {
        json_t *guest = json_object();

        set(guest, "ip", n->ip);
        set(guest, "server", n->server);
        set(guest, "gateway", n->gateway);
        if (n->ip)
            json_object_set_new(guest, "routes", guest_routes(n->routes.items, n->routes.count));
        set(guest, "ipv6", n->ipv6);
        set(guest, "server6", n->server6);
        set(guest, "router6", n->router6);
        set(guest, "router6MAC", n->router6_mac);
        if (n->ipv6)
            json_object_set_new(guest, "routes6", guest_routes(n->routes6.items, n->routes6.count));
        json_object_set_new(json, "guest", guest);
    }
    if (n->passt_argv) {
        json_t *argv = json_array();

        for (char *const *arg = n->passt_argv; *arg; arg++)
            json_array_append_new(argv, json_string(*arg));
        json_object_set_new(json, "passt", argv);
    }
    return json;
}

json_t *net_plan_to_json(const struct net_plan *plan)
{
    json_t *interfaces = json_array(), *steps = json_array();

    for (size_t i = 0; i < plan->interfaces.count; i++)
        json_array_append_new(interfaces, interface_to_json(&plan->interfaces.items[i]));
    for (size_t i = 0; i < plan->steps.count; i++) {
        const struct net_step *s = &plan->steps.items[i];
        json_t *json = net_action_to_json(&s->action);

        set(json, "why", s->why);
        if (s->has_undo)
            json_object_set_new(json, "undo", net_action_to_json(&s->undo));
        json_array_append_new(steps, json);
    }
    return json_pack("{s:s, s:o, s:o}", "vm", plan->vm, "interfaces", interfaces, "steps", steps);
}

char *net_action_text(struct arena *arena, const struct net_action *a)
{
    const char *name = net_op_name(a->op);

    switch (a->op) {
    case NET_OP_LINK_RENAME:
        return arena_printf(arena, "%s %s to %s", name, a->link, a->value);
    case NET_OP_LINK_MASTER:
        return *a->value ? arena_printf(arena, "%s %s in %s", name, a->link, a->value)
                         : arena_printf(arena, "%s %s none", name, a->link);
    case NET_OP_SYSCTL:
        return arena_printf(arena, "%s %s = %s", name, a->link, a->value);
    case NET_OP_TAP_ADD:
        return arena_printf(arena, "%s %s owner %u:%u queues %u", name, a->link, a->owner, a->group, a->queues);
    case NET_OP_ADDRESS_ADD:
    case NET_OP_ADDRESS_DELETE:
        return arena_printf(arena, "%s %s %s", name, a->link, a->address.address);
    case NET_OP_ROUTE_ADD:
    case NET_OP_ROUTE_DELETE:
        return arena_printf(arena, "%s %s %s%s%s", name, a->link, a->route.to, *a->route.via ? " via " : "",
                            a->route.via);
    default:
        return arena_printf(arena, "%s %s%s%s", name, a->link, op_has_value(a->op) ? " " : "",
                            op_has_value(a->op) ? a->value : "");
    }
}

static void table_interface(struct strbuf *b, const struct net_interface *n)
{
    strbuf_printf(b, "interface %s: %s, link %s, MAC %s, MTU %u", n->name, binding_names[n->binding], n->names.pod,
                  n->mac ? n->mac : "none", n->mtu);
    if (n->has_tap)
        strbuf_printf(b, ", tap %s (%u queue%s%s) in %s", n->names.tap, n->queues, n->queues == 1 ? "" : "s",
                      n->vhost ? ", vhost" : "", n->names.bridge);
    strbuf_printf(b, "%s\n", n->present ? ", set up already" : "");
    if (n->ip)
        strbuf_printf(b, "    guest gets %s from %s, gateway %s\n", n->ip, n->server, n->gateway ? n->gateway : "none");
    if (n->ipv6)
        strbuf_printf(b, "    guest gets %s, router %s\n", n->ipv6, n->router6 ? n->router6 : "none");
    for (char *const *arg = n->passt_argv; arg && *arg; arg++)
        strbuf_printf(b, "%s%s%s", arg == n->passt_argv ? "    runs " : " ", *arg, arg[1] ? "" : "\n");
    if (n->note)
        strbuf_printf(b, "    note: %s\n", n->note);
}

char *net_plan_to_table(const struct net_plan *plan)
{
    _cleanup_(arena_freep) struct arena *arena = arena_new();
    _cleanup_(strbuf_done) struct strbuf b = {0};

    if (!arena)
        return NULL;
    for (size_t i = 0; i < plan->interfaces.count; i++)
        table_interface(&b, &plan->interfaces.items[i]);
    if (!plan->interfaces.count)
        strbuf_printf(&b, "interface: none, so nothing is set up\n");
    if (plan->steps.count)
        strbuf_printf(&b, "%3s  %-52s  %-52s  %s\n", "#", "STEP", "UNDO", "WHY");
    for (size_t i = 0; i < plan->steps.count; i++) {
        const struct net_step *s = &plan->steps.items[i];
        const char *step = net_action_text(arena, &s->action);
        const char *undo = s->has_undo ? net_action_text(arena, &s->undo) : "-";

        if (!step || !undo)
            return NULL;
        strbuf_printf(&b, "%3zu  %-52s  %-52s  %s\n", i + 1, step, undo, s->why);
    }
    return strbuf_steal(&b);
}
