/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The masquerade binding's rules as an nft JSON document (libnftables-json(5)): the chains of KubeVirt, in the tables
 * `ip nat` and `ip6 nat`, so that what people know to look for in a pod is there.
 */
#include <jansson.h>

#include "netsetup/plan.h"

/* Ports that Istio's sidecar serves itself (compat §3.3), and the one that it never intercepts. */
static const int istio_ports[] = {15000, 15001, 15004, 15006, 15008, 15009, 15020, 15021, 15053, 15090};
#define ISTIO_NOT_PROXIED     22
#define ISTIO_LOOPBACK_SOURCE "127.0.0.6"

/* KubeVirt's ports for a migration that goes straight to the pod. */
static const int migration_ports[] = {49152, 49153};

static const struct {
    const char *name, *hook;
    int priority;
} base_chains[] = {
    {"prerouting", "prerouting", -100},
    {"input", "input", 100},
    {"output", "output", -100},
    {"postrouting", "postrouting", 100},
};
static const char *const own_chains[] = {"KUBEVIRT_PREINBOUND", "KUBEVIRT_POSTINBOUND"};

struct rules {
    const struct net_nat *nat;
    const char *family;
    json_t *list;
};

static void add_command(struct rules *r, const char *verb, const char *object, json_t *what)
{
    json_array_append_new(r->list, json_pack("{s:{s:o}}", verb, object, what));
}

static void add_rule(struct rules *r, const char *chain, json_t *expressions)
{
    add_command(
        r, "add", "rule",
        json_pack("{s:s, s:s, s:s, s:o}", "family", r->family, "table", "nat", "chain", chain, "expr", expressions));
}

static json_t *match(json_t *left, json_t *right)
{
    return json_pack("{s:{s:s, s:o, s:o}}", "match", "op", "==", "left", left, "right", right);
}

static json_t *match_link(const char *key, const char *link)
{
    return match(json_pack("{s:{s:s}}", "meta", "key", key), json_string(link));
}

static json_t *payload(const char *protocol, const char *field)
{
    return json_pack("{s:{s:s, s:s}}", "payload", "protocol", protocol, "field", field);
}

/* `field` is saddr or daddr; the second address may be NULL. */
static json_t *match_address(const struct rules *r, const char *field, const char *first, const char *second)
{
    json_t *right = second ? json_pack("{s:[s, s]}", "set", first, second) : json_string(first);

    return match(payload(r->family, field), right);
}

static json_t *counter(void)
{
    return json_pack("{s:n}", "counter");
}

static json_t *target(const char *kind, const char *address)
{
    return json_pack("{s:{s:s}}", kind, "addr", address);
}

static json_t *jump(const char *chain)
{
    return json_pack("{s:{s:s}}", "jump", "target", chain);
}

static void append(json_t *array, json_t *value)
{
    json_array_append_new(array, value);
}

static const char *loopback(const struct rules *r)
{
    return r->nat->ipv6 ? "::1" : "127.0.0.1";
}

/* The three rules that bring in what is for the guest; protocol NULL: everything. */
static void add_inbound(struct rules *r, const char *protocol, int port, bool proxied)
{
    const struct net_nat *nat = r->nat;
    const char *second_source = nat->istio && !nat->ipv6 ? ISTIO_LOOPBACK_SOURCE : NULL;
    const char *second_target = nat->istio ? nat->pod_ip : NULL;
    json_t *in = json_array(), *back = json_array(), *out = json_array();

    if (protocol) {
        append(in, match(payload(protocol, "dport"), json_integer(port)));
        append(back, match(payload(protocol, "dport"), json_integer(port)));
        append(out, match(payload(protocol, "dport"), json_integer(port)));
    }
    append(back, match_address(r, "saddr", loopback(r), second_source));
    append(out, match_address(r, "daddr", loopback(r), second_target));
    append(in, counter());
    append(in, target("dnat", nat->guest));
    append(back, counter());
    append(back, target("snat", nat->gateway));
    append(out, counter());
    append(out, target("dnat", nat->guest));
    if (proxied)
        json_decref(in); /* comes in by the sidecar, which sends it on through the output chain */
    else
        add_rule(r, own_chains[0], in);
    add_rule(r, own_chains[1], back);
    add_rule(r, "output", out);
}

static void add_return(struct rules *r, const char *chain, const int *ports, size_t n)
{
    json_t *set = json_array(), *rule = json_array();

    for (size_t i = 0; i < n; i++)
        append(set, json_integer(ports[i]));
    append(rule, match(payload("tcp", "dport"), json_pack("{s:o}", "set", set)));
    append(rule, counter());
    append(rule, json_pack("{s:n}", "return"));
    add_rule(r, chain, rule);
}

static const char *port_protocol(const char *protocol)
{
    if (!protocol || !strcasecmp(protocol, "TCP"))
        return "tcp";
    return strcasecmp(protocol, "UDP") == 0 ? "udp" : "sctp";
}

static void add_chains(struct rules *r)
{
    add_command(r, "add", "table", json_pack("{s:s, s:s}", "family", r->family, "name", "nat"));
    for (size_t i = 0; i < ELEMENTSOF(base_chains); i++)
        add_command(r, "add", "chain",
                    json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:s}", "family", r->family, "table", "nat", "name",
                              base_chains[i].name, "type", "nat", "hook", base_chains[i].hook, "prio",
                              base_chains[i].priority, "policy", "accept"));
    for (size_t i = 0; i < ELEMENTSOF(own_chains); i++)
        add_command(r, "add", "chain",
                    json_pack("{s:s, s:s, s:s}", "family", r->family, "table", "nat", "name", own_chains[i]));
}

static void add_jumps(struct rules *r)
{
    const struct net_nat *nat = r->nat;

    add_rule(r, "postrouting",
             json_pack("[o, o, {s:n}]", match_address(r, "saddr", nat->guest, NULL), counter(), "masquerade"));
    add_rule(r, "prerouting", json_pack("[o, o, o]", match_link("iifname", nat->link), counter(), jump(own_chains[0])));
    /* Hairpin: the guest reaches itself by the pod's address. */
    if (nat->pod_ip)
        add_rule(r, "prerouting",
                 json_pack("[o, o, o, o]", match_link("iifname", nat->bridge),
                           match_address(r, "daddr", nat->pod_ip, NULL), counter(), jump(own_chains[0])));
    add_rule(r, "postrouting",
             json_pack("[o, o, o]", match_link("oifname", nat->bridge), counter(), jump(own_chains[1])));
}

static char *dump(struct arena *arena, json_t *list)
{
    json_t *document = json_pack("{s:o}", "nftables", list);
    char *text = document ? json_dumps(document, JSON_COMPACT) : NULL;
    char *kept = text ? arena_strdup(arena, text) : NULL;

    free(text);
    json_decref(document);
    return kept;
}

static void add_nat(struct rules *r)
{
    const struct net_nat *nat = r->nat;
    const struct vmi_interface *interface = nat->interface;

    add_chains(r);
    add_jumps(r);
    if (nat->migration_over_tcp) {
        add_return(r, own_chains[0], migration_ports, ELEMENTSOF(migration_ports));
        add_return(r, "output", migration_ports, ELEMENTSOF(migration_ports));
    }
    if (nat->istio) {
        add_return(r, own_chains[0], istio_ports, ELEMENTSOF(istio_ports));
        add_return(r, "output", istio_ports, ELEMENTSOF(istio_ports));
    }
    for (size_t i = 0; i < interface->ports.count; i++)
        add_inbound(r, port_protocol(interface->ports.items[i].protocol),
                    (int)opt_int_or(interface->ports.items[i].port, 0), nat->istio);
    if (!interface->ports.count && nat->istio) {
        add_inbound(r, "tcp", ISTIO_NOT_PROXIED, false);
        add_inbound(r, NULL, 0, true);
    } else if (!interface->ports.count) {
        add_inbound(r, NULL, 0, false);
    }
}

/* Where somebody else made the table, only the chains go: theirs have other names. What is added first is there to be
 * deleted, whatever happened to it meanwhile. */
static void take_nat_away(struct rules *r)
{
    static const char *const verbs[] = {"add", "flush", "delete"}; /* a jump goes before the chain that it leads to */
    json_t *table = json_pack("{s:s, s:s}", "family", r->family, "name", "nat");

    add_command(r, "add", "table", json_incref(table));
    if (r->nat->table_is_ours) {
        add_command(r, "delete", "table", table);
        return;
    }
    json_decref(table);
    for (size_t pass = 0; pass < ELEMENTSOF(verbs); pass++) {
        for (size_t i = 0; i < ELEMENTSOF(base_chains) + ELEMENTSOF(own_chains); i++) {
            const char *name =
                i < ELEMENTSOF(base_chains) ? base_chains[i].name : own_chains[i - ELEMENTSOF(base_chains)];

            add_command(r, verbs[pass], "chain",
                        json_pack("{s:s, s:s, s:s}", "family", r->family, "table", "nat", "name", name));
        }
    }
}

static char *document(struct arena *arena, const struct net_nat *nat, size_t count, void (*add)(struct rules *))
{
    json_t *list = json_array();

    for (size_t i = 0; i < count; i++)
        add(&(struct rules){.nat = &nat[i], .family = nat[i].ipv6 ? "ip6" : "ip", .list = list});
    return dump(arena, list);
}

char *net_nat_rules(struct arena *arena, const struct net_nat *nat, size_t count)
{
    return document(arena, nat, count, add_nat);
}

char *net_nat_undo(struct arena *arena, const struct net_nat *nat, size_t count)
{
    return document(arena, nat, count, take_nat_away);
}
