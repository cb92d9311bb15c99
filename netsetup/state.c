/* SPDX-License-Identifier: Apache-2.0 */
#include "netsetup/state.h"

#include <dirent.h>
#include <linux/if_ether.h>
#include <stdio.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "netsetup/ip.h"

#define JOURNAL_VERSION 1

static int parse_json(const char *text, size_t length, json_t **ret, struct error **ret_error)
{
    json_error_t why;
    json_t *json = json_loadb(text, length, JSON_REJECT_DUPLICATES, &why);

    if (!json)
        return error_set(ret_error, ERROR_BAD_DATA, EBADMSG, "line %d: %s", why.line, why.text);
    *ret = json;
    return 0;
}

static int read_json(const char *path, json_t **ret, struct error **ret_error)
{
    _cleanup_free_ char *data = NULL;
    size_t length;
    int r = file_read(path, LIMIT_NET_STATE_BYTES, &data, &length, ret_error);

    return r < 0 ? r : error_wrap(ret_error, parse_json(data, length, ret, ret_error), "%s", path);
}

static int write_json(const char *path, json_t *json, struct error **ret_error)
{
    _cleanup_free_ char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

    json_decref(json);
    if (!text)
        return error_oom(ret_error);
    return file_replace(path, text, strlen(text), 0600, ret_error);
}

static int remove_file(const char *path, struct error **ret_error)
{
    if (unlink(path) < 0 && errno != ENOENT)
        return error_errno(ret_error, errno, "remove %s", path);
    return 0;
}

/* ---- the state of one interface -------------------------------------------------------------------------------- */

int net_state_read(const char *dir, const char *pod_link, enum net_state *ret, struct error **ret_error)
{
    _cleanup_free_ char *path = NULL;
    _cleanup_error_ struct error *e = NULL;
    json_t *json = NULL;
    const json_t *state;
    int r;

    if (asprintf(&path, "%s/%s", dir, pod_link) < 0)
        return error_oom(ret_error);
    r = read_json(path, &json, &e);
    if (r == -ENOENT) {
        *ret = NET_STATE_NONE;
        return 0;
    }
    if (r < 0) {
        error_move(ret_error, TAKE_PTR(e));
        return r;
    }
    state = json_object_get(json, "networkState");
    if (!json_is_integer(state) || json_integer_value(state) < NET_STATE_PENDING ||
        json_integer_value(state) > NET_STATE_FINISHED)
        r = error_set(ret_error, ERROR_BAD_DATA, EBADMSG, "%s: networkState is none of 0, 1, 2", path);
    else
        *ret = (enum net_state)json_integer_value(state);
    json_decref(json);
    return r;
}

int net_state_write(const char *dir, const struct net_interface *n, enum net_state state, struct error **ret_error)
{
    _cleanup_free_ char *path = NULL;
    json_t *ips = json_array();

    for (size_t i = 0; i < n->pod_ips.count; i++)
        json_array_append_new(ips, json_string(n->pod_ips.items[i]));
    if (asprintf(&path, "%s/%s", dir, n->names.pod) < 0) {
        json_decref(ips);
        return error_oom(ret_error);
    }
    return write_json(path,
                      json_pack("{s:{s:s}, s:s, s:o, s:i}", "iface", "name", n->name, "podIP",
                                n->pod_ips.count ? n->pod_ips.items[0] : "", "podIPs", ips, "networkState", (int)state),
                      ret_error);
}

int net_state_remove(const char *dir, const char *pod_link, struct error **ret_error)
{
    _cleanup_free_ char *path = NULL;

    if (asprintf(&path, "%s/%s", dir, pod_link) < 0)
        return error_oom(ret_error);
    return remove_file(path, ret_error);
}

/* ---- the journal ----------------------------------------------------------------------------------------------- */

void net_journal_free(struct net_journal *j)
{
    if (j)
        arena_free(j->arena);
}

static char *journal_path(const char *dir)
{
    char *path;

    return asprintf(&path, "%s/journal.json", dir) < 0 ? NULL : path;
}

static int decode_journal(struct net_journal *j, const json_t *json, struct error **ret_error)
{
    const json_t *undos = json_object_get(json, "undo"), *links = json_object_get(json, "links");
    const char *vm = json_string_value(json_object_get(json, "vm"));

    if (json_integer_value(json_object_get(json, "version")) != JOURNAL_VERSION || !vm || !json_is_array(undos))
        return error_set(ret_error, ERROR_BAD_DATA, EBADMSG, "the journal is not of this version's form");
    j->vm = arena_strdup(j->arena, vm);
    for (size_t i = 0; i < json_array_size(undos); i++) {
        struct net_action *undo = NET_LIST_ADD(j->arena, &j->undos);
        int r = undo ? net_action_from_json(j->arena, json_array_get(undos, i), undo, ret_error) : error_oom(ret_error);

        if (r < 0)
            return r;
    }
    for (size_t i = 0; i < json_array_size(links); i++) {
        const char *name = json_string_value(json_array_get(links, i)), **link;

        if (!name || !*name || *name == '.' || strchr(name, '/') || strlen(name) >= IFNAMSIZ)
            return error_set(ret_error, ERROR_BAD_DATA, EBADMSG, "the journal names a link that none can be called");
        link = NET_LIST_ADD(j->arena, &j->links);
        if (!link || !(*link = arena_strdup(j->arena, name)))
            return error_oom(ret_error);
    }
    return j->vm ? 0 : error_oom(ret_error);
}

static struct net_journal *journal_new(void)
{
    struct arena *arena = arena_new();
    struct net_journal *j = arena ? arena_alloc(arena, sizeof(*j)) : NULL;

    if (j)
        j->arena = arena;
    else
        arena_free(arena);
    return j;
}

int net_journal_parse(const char *text, size_t length, struct net_journal **ret, struct error **ret_error)
{
    _cleanup_(net_journal_freep) struct net_journal *j = journal_new();
    json_t *json;
    int r;

    if (!j)
        return error_oom(ret_error);
    r = parse_json(text, length, &json, ret_error);
    if (r < 0)
        return r;
    r = decode_journal(j, json, ret_error);
    json_decref(json);
    if (r >= 0)
        *ret = TAKE_PTR(j);
    return r;
}

int net_journal_load(const char *dir, struct net_journal **ret, struct error **ret_error)
{
    _cleanup_free_ char *path = journal_path(dir), *text = NULL;
    _cleanup_error_ struct error *e = NULL;
    size_t length;
    int r = path ? file_read(path, LIMIT_NET_STATE_BYTES, &text, &length, &e) : error_oom(&e);

    if (r == -ENOENT) {
        *ret = journal_new();
        return *ret ? 0 : error_oom(ret_error);
    }
    if (r >= 0)
        r = error_wrap(&e, net_journal_parse(text, length, ret, &e), "%s", path);
    error_move(ret_error, TAKE_PTR(e));
    return r;
}

int net_journal_add(struct net_journal *j, const struct net_plan *plan, struct error **ret_error)
{
    j->vm = plan->vm;
    for (size_t i = 0; i < plan->steps.count; i++) {
        struct net_action *undo;

        if (!plan->steps.items[i].has_undo)
            continue;
        undo = NET_LIST_ADD(j->arena, &j->undos);
        if (!undo)
            return error_oom(ret_error);
        *undo = plan->steps.items[i].undo;
    }
    for (size_t i = 0; i < plan->interfaces.count; i++) {
        const struct net_interface *n = &plan->interfaces.items[i];
        const char **link;

        if ((!n->has_tap && !n->passt_argv) || n->present)
            continue;
        link = NET_LIST_ADD(j->arena, &j->links);
        if (!link)
            return error_oom(ret_error);
        *link = n->names.pod;
    }
    return 0;
}

json_t *net_journal_to_json(const struct net_journal *j)
{
    json_t *undos = json_array(), *links = json_array();

    for (size_t i = 0; i < j->undos.count; i++)
        json_array_append_new(undos, net_action_to_json(&j->undos.items[i]));
    for (size_t i = 0; i < j->links.count; i++)
        json_array_append_new(links, json_string(j->links.items[i]));
    return json_pack("{s:i, s:s, s:o, s:o}", "version", JOURNAL_VERSION, "vm", j->vm, "links", links, "undo", undos);
}

int net_journal_save(const char *dir, const struct net_journal *j, struct error **ret_error)
{
    _cleanup_free_ char *path = journal_path(dir);

    return path ? write_json(path, net_journal_to_json(j), ret_error) : error_oom(ret_error);
}

int net_journal_remove(const char *dir, struct error **ret_error)
{
    _cleanup_free_ char *path = journal_path(dir);

    return path ? remove_file(path, ret_error) : error_oom(ret_error);
}

void net_state_tidy(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *entry;

    while (d && (entry = readdir(d)))
        if (endswith(entry->d_name, ".staging"))
            (void)unlinkat(dirfd(d), entry->d_name, 0);
    if (d)
        closedir(d);
}

static bool names_hold(const struct net_names *n, const char *link)
{
    return streq(n->pod, link) || streq(n->nic, link) || streq(n->bridge, link) || streq(n->tap, link) ||
           streq(n->router, link);
}

/* The text of one of the documents that take rules away (for IPv4, IPv6 or both; each table ours or not), and of
 * nothing else. */
static bool rules_are_an_undo(struct arena *arena, const char *rules)
{
    static const struct {
        size_t from, count;
    } families[] = {{0, 1}, {1, 1}, {0, 2}};

    for (unsigned ours = 0; ours < 4; ours++) {
        const struct net_nat nat[] = {{.table_is_ours = ours & 1}, {.ipv6 = true, .table_is_ours = ours & 2}};

        for (size_t i = 0; i < ELEMENTSOF(families); i++) {
            const char *known = net_nat_undo(arena, nat + families[i].from, families[i].count);

            if (known && streq(known, rules))
                return true;
        }
    }
    return false;
}

static bool undo_is_planned(struct arena *arena, const struct vmi *vmi, const struct net_action *undo)
{
    unsigned ordinal = 0;

    if (undo->op == NET_OP_NFT && !rules_are_an_undo(arena, undo->rules))
        return false;
    if (undo->op == NET_OP_SYSCTL) /* its key and value were checked when it was decoded */
        return true;
    for (size_t i = 0; i < vmi->spec.networks.count; i++) {
        const struct vmi_network *network = &vmi->spec.networks.items[i];
        bool primary = net_network_is_primary(network);
        struct net_names by_hash, by_number;

        if (!primary)
            ordinal++;
        if (net_names_make(arena, network->name, primary, 0, &by_hash) < 0 ||
            net_names_make(arena, network->name, primary, ordinal, &by_number) < 0)
            return false;
        if (names_hold(&by_hash, undo->link) || names_hold(&by_number, undo->link))
            return true;
    }
    return false;
}

int net_journal_check(const struct net_journal *j, const struct vmi *vmi, struct error **ret_error)
{
    _cleanup_(arena_freep) struct arena *arena = arena_new();

    if (!arena)
        return error_oom(ret_error);
    if (!streq(j->vm, vmi->domain_name))
        return error_set(ret_error, ERROR_NOT_ALLOWED, EINVAL, "the journal is that of %s, not of %s", j->vm,
                         vmi->domain_name);
    for (size_t i = 0; i < j->undos.count; i++)
        if (!undo_is_planned(arena, vmi, &j->undos.items[i]))
            return error_set(ret_error, ERROR_NOT_ALLOWED, EINVAL, "the journal holds what no plan for %s would: %s",
                             vmi->domain_name, net_action_text(arena, &j->undos.items[i]));
    return 0;
}

/* ---- the cache for the launcher -------------------------------------------------------------------------------- */

char *net_cache_name(struct arena *arena, const char *pod_link)
{
    return arena_printf(arena, "vif-cache-%s.json", pod_link);
}

static void set(json_t *object, const char *key, const char *text)
{
    json_object_set_new(object, key, json_string(text ? text : ""));
}

static json_t *routes_to_json(const struct net_guest_route *items, size_t count)
{
    json_t *array = json_array();

    for (size_t i = 0; i < count; i++)
        json_array_append_new(array, json_pack("{s:s, s:s}", "Dst", items[i].to, "Gw", items[i].via));
    return array;
}

json_t *net_cache_to_json(const struct net_interface *n, const struct vmi *vmi)
{
    json_t *json = json_object(), *ours = json_object(), *ips = json_array();

    for (size_t i = 0; i < n->pod_ips.count; i++)
        json_array_append_new(ips, json_string(n->pod_ips.items[i]));
    json_object_set_new(ours, "podIPs", ips);
    set(json, "Name", n->names.pod);
    set(json, "IP", n->ip);
    set(json, "IPv6", n->ipv6);
    set(json, "MAC", n->mac);
    set(json, "AdvertisingIPAddr", n->server);
    set(json, "AdvertisingIPv6Addr", n->server6);
    json_object_set_new(json, "Routes", routes_to_json(n->routes.items, n->routes.count));
    json_object_set_new(json, "Mtu", json_integer(n->mtu));
    json_object_set_new(json, "IPAMDisabled", json_boolean(!n->dhcp));
    set(json, "Gateway", n->gateway);
    set(json, "Subdomain", vmi->spec.subdomain);
    set(ours, "router6", n->router6);
    set(ours, "router6MAC", n->router6_mac);
    json_object_set_new(ours, "routes6", routes_to_json(n->routes6.items, n->routes6.count));
    json_object_set_new(ours, "queues", json_integer(n->queues));
    json_object_set_new(ours, "vhost", json_boolean(n->vhost));
    json_object_set_new(json, "vmlet", ours);
    return json;
}

/* A copy of a member's text that is an address (or what `fit` takes), or NULL. */
/* family: AF_INET or AF_INET6; an address of the other one is none */
static const char *address_member(struct arena *arena, const json_t *json, const char *key, int family)
{
    const char *text = json_string_value(json_object_get(json, key));
    struct ip ip;

    return text && ip_parse(text, &ip) >= 0 && ip.family == family ? arena_strdup(arena, text) : NULL;
}

static const char *mac_member(struct arena *arena, const json_t *json, const char *key)
{
    const char *text = json_string_value(json_object_get(json, key));
    uint8_t mac[6];

    return text && mac_parse(text, mac) >= 0 ? arena_strdup(arena, text) : NULL;
}

static unsigned number_member(const json_t *json, const char *key, unsigned limit)
{
    json_int_t n = json_integer_value(json_object_get(json, key));

    return n > 0 && n <= limit ? (unsigned)n : 0;
}

static int load_routes(struct arena *arena, const json_t *array, struct net_interface *n, bool v6)
{
    for (size_t i = 0; i < json_array_size(array); i++) {
        const json_t *item = json_array_get(array, i);
        int family = v6 ? AF_INET6 : AF_INET;
        const char *to = address_member(arena, item, "Dst", family), *via = address_member(arena, item, "Gw", family);
        const char *gateway = json_string_value(json_object_get(item, "Gw"));
        struct net_guest_route *r;

        if (!to || (gateway && *gateway && !via)) /* by a gateway that it cannot have: not on-link instead */
            continue;
        r = v6 ? NET_LIST_ADD(arena, &n->routes6) : NET_LIST_ADD(arena, &n->routes);
        if (!r)
            return -ENOMEM;
        *r = (struct net_guest_route){to, via ? via : ""};
    }
    return 0;
}

static int load_pod_ips(struct arena *arena, const json_t *array, struct net_interface *n)
{
    for (size_t i = 0; i < json_array_size(array); i++) {
        const char *text = json_string_value(json_array_get(array, i)), **item;
        struct ip ip;

        if (!text || ip_parse(text, &ip) < 0)
            continue;
        item = NET_LIST_ADD(arena, &n->pod_ips);
        if (!item || !(*item = arena_strdup(arena, text)))
            return -ENOMEM;
    }
    return 0;
}

static int choose_cache(struct arena *arena, const char *dir, const struct vmi_interface *interface,
                        struct net_names *names, char **ret_path)
{
    bool primary = net_network_is_primary(interface->network);

    for (unsigned ordinal = 0; ordinal <= 32; ordinal++) {
        if (net_names_make(arena, interface->network->name, primary, ordinal, names) < 0)
            return -ENOMEM;
        *ret_path = arena_printf(arena, "%s/%s", dir, net_cache_name(arena, names->pod));
        if (!*ret_path)
            return -ENOMEM;
        if (primary || ordinal || access(*ret_path, F_OK) == 0)
            break;
    }
    return 0;
}

/* `names` and what the manifest says are filled in; the rest is read. */
static int decode_cache(struct arena *arena, const json_t *json, struct net_interface *ret, struct error **ret_error)
{
    const json_t *ours = json_object_get(json, "vmlet");
    struct net_interface n = *ret;
    int r;

    n.has_tap = n.binding != VMI_BINDING_PASST;
    n.ip = address_member(arena, json, "IP", AF_INET);
    n.ipv6 = address_member(arena, json, "IPv6", AF_INET6);
    n.mac = mac_member(arena, json, "MAC");
    n.server = address_member(arena, json, "AdvertisingIPAddr", AF_INET);
    n.server6 = address_member(arena, json, "AdvertisingIPv6Addr", AF_INET6);
    n.gateway = address_member(arena, json, "Gateway", AF_INET);
    n.mtu = number_member(json, "Mtu", ETH_MAX_MTU);
    n.dhcp = !json_is_true(json_object_get(json, "IPAMDisabled")) && n.ip && n.server;
    n.router6 = address_member(arena, ours, "router6", AF_INET6);
    n.router6_mac = mac_member(arena, ours, "router6MAC");
    n.queues = MAX(1U, number_member(ours, "queues", 256));
    n.vhost = json_is_true(json_object_get(ours, "vhost"));
    r = load_routes(arena, json_object_get(json, "Routes"), &n, false);
    if (r >= 0)
        r = load_routes(arena, json_object_get(ours, "routes6"), &n, true);
    if (r >= 0)
        r = load_pod_ips(arena, json_object_get(ours, "podIPs"), &n);
    if (r < 0)
        return error_oom(ret_error);
    if (!n.mac)
        return error_set(ret_error, ERROR_BAD_DATA, EBADMSG, "no MAC is named");
    *ret = n;
    return 0;
}

int net_cache_parse(struct arena *arena, const char *text, size_t length, struct net_interface *interface,
                    struct error **ret_error)
{
    json_t *json;
    int r = parse_json(text, length, &json, ret_error);

    if (r < 0)
        return r;
    r = decode_cache(arena, json, interface, ret_error);
    json_decref(json);
    return r;
}

int net_cache_load(struct arena *arena, const char *dir, const struct vmi_interface *interface,
                   struct net_interface *ret, struct error **ret_error)
{
    struct net_interface n = {.name = interface->name, .binding = interface->binding, .state = interface->state};
    _cleanup_free_ char *text = NULL;
    size_t length;
    char *path;
    int r;

    if (choose_cache(arena, dir, interface, &n.names, &path) < 0)
        return error_oom(ret_error);
    r = file_read(path, LIMIT_NET_STATE_BYTES, &text, &length, ret_error);
    if (r == -ENOENT)
        return error_set(ret_error, ERROR_NOT_FOUND, ENOENT, "network of interface %s is not set up: no %s",
                         interface->name, path);
    if (r >= 0)
        r = error_wrap(ret_error, net_cache_parse(arena, text, length, &n, ret_error), "%s", path);
    if (r >= 0)
        *ret = n;
    return r;
}
