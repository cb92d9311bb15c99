/* SPDX-License-Identifier: Apache-2.0 */
#include "netsetup/status.h"

#include <strings.h>

#include "netsetup/ip.h"

#define MAX_GUEST_ONLY 10 /* KubeVirt's: interfaces that only the guest knows (bridges of containers, say) */
#define SOURCE_AGENT   "guest-agent"
#define SOURCE_MULTUS  "multus-status"

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

static const json_t *find(const json_t *list, const char *key, const char *value)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (strcasecmp(text_of(json_array_get(list, i), key), value) == 0)
            return json_array_get(list, i);
    return NULL;
}

static bool is_loopback(const struct ip *ip)
{
    static const uint8_t one[16] = {[15] = 1};

    return ip->family == AF_INET ? ip->bytes[0] == 127 : memcmp(ip->bytes, one, 16) == 0;
}

static void add_ip(json_t *list, const char *text, bool link_local_too)
{
    char plain[IP_TEXT_MAX];
    struct ip ip;

    if (!text || ip_parse(text, &ip) < 0 || is_loopback(&ip) || (!link_local_too && ip_is_link_local(&ip)))
        return;
    json_array_append_new(list, json_string(ip_text(&ip, plain)));
}

static json_t *agent_ips(const json_t *entry, bool link_local_too)
{
    const json_t *from = json_object_get(entry, "ip-addresses");
    json_t *list = json_array();

    for (size_t i = 0; i < json_array_size(from); i++)
        add_ip(list, text_of(json_array_get(from, i), "ip-address"), link_local_too);
    return list;
}

static void set_ips(json_t *status, json_t *ips)
{
    if (json_array_size(ips)) {
        json_object_set(status, "ipAddress", json_array_get(ips, 0));
        json_object_set(status, "ipAddresses", ips);
    }
    json_decref(ips);
}

/* What the pod's own cache says: the address that was handed out, or the pod's for a masqueraded guest. */
static json_t *pod_ips(const struct net_status *s)
{
    const struct net_interface *n = s->interface;
    json_t *list = json_array();

    for (size_t i = 0; i < n->pod_ips.count; i++)
        add_ip(list, n->pod_ips.items[i], false);
    if (!json_array_size(list) && n->binding != VMI_BINDING_MASQUERADE) {
        add_ip(list, n->ip, false);
        add_ip(list, n->ipv6, false);
    }
    return list;
}

static json_t *merge_one(const struct net_status *s, const json_t *agent, const json_t *before)
{
    const struct net_interface *n = s->interface;
    const json_t *guest = n->mac ? find(agent, "hardware-address", n->mac) : NULL;
    const json_t *known = find(before, "name", n->name), *old = agent ? NULL : known;
    bool masquerade = n->binding == VMI_BINDING_MASQUERADE;
    bool remembered = old && strstr(text_of(old, "infoSource"), SOURCE_AGENT);
    bool multus = s->multus || strstr(text_of(known, "infoSource"), SOURCE_MULTUS);
    json_t *status = json_pack("{s:s, s:s, s:s, s:i, s:s}", "name", n->name, "mac", n->mac ? n->mac : "",
                               "podInterfaceName", n->names.pod ? n->names.pod : "", "queueCount",
                               (int)MAX(n->queues, 1U), "linkState", s->link_down ? "down" : "up");

    if (!status)
        return NULL;
    if (guest || remembered)
        json_object_set_new(status, "interfaceName",
                            json_string(guest ? text_of(guest, "name") : text_of(old, "interfaceName")));
    json_object_set_new(
        status, "infoSource",
        json_sprintf("domain%s%s", guest || remembered ? ", " SOURCE_AGENT : "", multus ? ", " SOURCE_MULTUS : ""));
    if (masquerade || (!guest && !remembered))
        set_ips(status, pod_ips(s));
    else if (guest)
        set_ips(status, agent_ips(guest, true));
    else
        set_ips(status, json_incref(json_object_get(old, "ipAddresses")));
    return status;
}

/* Is it the MAC of one of the manifest's NICs, the first `known` of the list? */
static bool is_ours(const json_t *list, size_t known, const char *mac)
{
    for (size_t i = 0; i < known && *mac; i++)
        if (strcasecmp(text_of(json_array_get(list, i), "mac"), mac) == 0)
            return true;
    return false;
}

/* What no NIC of the manifest is: seen by the agent alone. */
static void add_guest_only(json_t *list, size_t known, const json_t *agent)
{
    size_t added = 0;

    for (size_t i = 0; i < json_array_size(agent) && added < MAX_GUEST_ONLY; i++) {
        const json_t *entry = json_array_get(agent, i);
        const char *name = text_of(entry, "name"), *mac = text_of(entry, "hardware-address");
        json_t *status;

        if (is_ours(list, known, mac) || streq(name, "lo") || !*name)
            continue;
        status = json_pack("{s:s, s:s, s:s}", "interfaceName", name, "mac", mac, "infoSource", SOURCE_AGENT);
        set_ips(status, agent_ips(entry, true));
        json_array_append_new(list, status);
        added++;
    }
}

static bool is_primary(const struct net_status *s)
{
    return streq_ptr(s->interface->names.pod, "eth0");
}

json_t *net_status_merge(const struct net_status *interfaces, size_t count, const json_t *agent, const json_t *before)
{
    json_t *list = json_array();
    size_t known;

    for (int pass = 0; pass < 2; pass++) { /* the primary one is first */
        for (size_t i = 0; i < count; i++) {
            if (is_primary(&interfaces[i]) != (pass == 0) || interfaces[i].interface->state == VMI_LINK_ABSENT)
                continue;
            if (json_array_append_new(list, merge_one(&interfaces[i], agent, before)) < 0) {
                json_decref(list);
                return NULL;
            }
        }
    }
    known = json_array_size(list);
    if (agent) {
        add_guest_only(list, known, agent);
    } else {
        for (size_t i = 0; i < json_array_size(before); i++) { /* those of an agent that is away stay too */
            json_t *old = json_array_get(before, i);

            if (streq(text_of(old, "infoSource"), SOURCE_AGENT) && !is_ours(list, known, text_of(old, "mac")))
                json_array_append(list, old);
        }
    }
    return list;
}
