/* SPDX-License-Identifier: Apache-2.0 */
#include "netsetup/observed.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <stdio.h>

void *net_list_add(struct arena *arena, void *items_pointer, size_t *count, size_t *allocated, size_t size)
{
    char **items = items_pointer;

    if (*count == *allocated) {
        size_t more = *allocated ? *allocated * 2 : 8;
        char *grown = arena_alloc(arena, more * size);

        if (!grown)
            return NULL;
        if (*count)
            memcpy(grown, *items, *count * size);
        *items = grown;
        *allocated = more;
    }
    return *items + (*count)++ * size;
}

bool net_strings_has(const struct net_strings *list, const char *text)
{
    for (size_t i = 0; i < list->count; i++)
        if (streq(list->items[i], text))
            return true;
    return false;
}

struct net_observed *net_observed_new(void)
{
    struct arena *arena = arena_new();
    struct net_observed *observed = arena ? arena_alloc(arena, sizeof(*observed)) : NULL;

    if (!observed) {
        if (arena)
            arena_free(arena);
        return NULL;
    }
    observed->arena = arena;
    return observed;
}

void net_observed_free(struct net_observed *observed)
{
    if (observed)
        arena_free(observed->arena);
}

const struct net_link *net_observed_link(const struct net_observed *observed, const char *name)
{
    for (size_t i = 0; i < observed->links.count; i++)
        if (streq(observed->links.items[i].name, name))
            return &observed->links.items[i];
    return NULL;
}

const char *net_observed_sysctl(const struct net_observed *observed, const char *key)
{
    for (size_t i = 0; i < observed->sysctls.count; i++)
        if (streq(observed->sysctls.items[i].key, key))
            return observed->sysctls.items[i].value;
    return NULL;
}

/* ---- to and from JSON, by tables ------------------------------------------------------------------------------- */

enum field_kind {
    FIELD_TEXT,
    FIELD_NUMBER,
    FIELD_BOOL,
    FIELD_LINK,    /* text that is a link's name */
    FIELD_ADDRESS, /* text: an address, or "" */
    FIELD_PREFIX,  /* text: an address with prefix length */
    FIELD_VALUE,   /* text: the numbers of a sysctl */
};

struct field {
    const char *name;
    enum field_kind kind;
    size_t offset;
    bool optional;
};

#define FIELD(type, name, member, kind, optional)                                                                      \
    {                                                                                                                  \
        name, FIELD_##kind, offsetof(struct type, member), optional                                                    \
    }

static const struct field link_fields[] = {
    FIELD(net_link, "name", name, LINK, false), FIELD(net_link, "kind", kind, TEXT, true),
    FIELD(net_link, "mac", mac, TEXT, true),    FIELD(net_link, "master", master, TEXT, true),
    FIELD(net_link, "mtu", mtu, NUMBER, false), FIELD(net_link, "up", up, BOOL, true),
};
static const struct field address_fields[] = {
    FIELD(net_address, "link", link, LINK, false),
    FIELD(net_address, "address", address, PREFIX, false),
    FIELD(net_address, "peer", peer, ADDRESS, true),
    FIELD(net_address, "broadcast", broadcast, ADDRESS, true),
    FIELD(net_address, "label", label, TEXT, true),
    FIELD(net_address, "scope", scope, NUMBER, true),
    FIELD(net_address, "flags", flags, NUMBER, true),
    FIELD(net_address, "valid", valid, NUMBER, false),
    FIELD(net_address, "preferred", preferred, NUMBER, false),
};
static const struct field route_fields[] = {
    FIELD(net_route, "link", link, LINK, false),       FIELD(net_route, "ipv6", ipv6, BOOL, true),
    FIELD(net_route, "to", to, PREFIX, false),         FIELD(net_route, "via", via, ADDRESS, true),
    FIELD(net_route, "source", source, ADDRESS, true), FIELD(net_route, "table", table, NUMBER, false),
    FIELD(net_route, "metric", metric, NUMBER, true),  FIELD(net_route, "protocol", protocol, NUMBER, true),
    FIELD(net_route, "scope", scope, NUMBER, true),    FIELD(net_route, "type", type, NUMBER, false),
    FIELD(net_route, "onlink", onlink, BOOL, true),
};
static const struct field sysctl_fields[] = {
    FIELD(net_sysctl, "key", key, TEXT, false),
    FIELD(net_sysctl, "value", value, VALUE, false),
};

/* Members that are empty or 0 are left out. */
static json_t *encode(const void *object, const struct field *fields, size_t n)
{
    json_t *json = json_object();

    for (size_t i = 0; i < n; i++) {
        const void *p = (const char *)object + fields[i].offset;
        json_t *value = NULL;

        switch (fields[i].kind) {
        case FIELD_NUMBER:
            if (*(const unsigned *)p || !fields[i].optional)
                value = json_integer(*(const unsigned *)p);
            break;
        case FIELD_BOOL:
            if (*(const bool *)p)
                value = json_true();
            break;
        default:
            if (*(const char *const *)p && (**(const char *const *)p || !fields[i].optional))
                value = json_string(*(const char *const *)p);
        }
        if (value)
            json_object_set_new(json, fields[i].name, value);
    }
    return json;
}

static bool text_is_fit(enum field_kind kind, const char *text)
{
    char copy[INET6_ADDRSTRLEN + 8], *slash;
    unsigned char bytes[16];
    char *end;
    unsigned long prefix;
    bool v6;

    if (kind == FIELD_TEXT)
        return true;
    if (kind == FIELD_VALUE)
        return strlen(text) < 64 && strspn(text, "0123456789-\t ") == strlen(text);
    if (kind == FIELD_LINK)
        return *text && strlen(text) < IFNAMSIZ && !strpbrk(text, "/ \t\n") && !streq(text, ".") && !streq(text, "..");
    if (kind == FIELD_ADDRESS && !*text)
        return true;
    if (strlen(text) >= sizeof(copy))
        return false;
    strcpy(copy, text);
    slash = strchr(copy, '/');
    if ((kind == FIELD_PREFIX) != (slash != NULL))
        return false;
    if (slash)
        *slash = '\0';
    v6 = strchr(copy, ':') != NULL;
    if (inet_pton(v6 ? AF_INET6 : AF_INET, copy, bytes) != 1)
        return false;
    if (!slash)
        return true;
    prefix = strtoul(slash + 1, &end, 10);
    return slash[1] >= '0' && slash[1] <= '9' && !*end && prefix <= (v6 ? 128 : 32);
}

static int decode(struct arena *arena, const json_t *json, const char *what, void *object, const struct field *fields,
                  size_t n, struct error **ret_error)
{
    if (!json_is_object(json))
        return error_set(ret_error, ERROR_BAD_DATA, EINVAL, "%s is not an object", what);
    for (size_t i = 0; i < n; i++) {
        const json_t *value = json_object_get(json, fields[i].name);
        void *p = (char *)object + fields[i].offset;
        bool fit = value || fields[i].optional;

        switch (fields[i].kind) {
        case FIELD_NUMBER:
            if (value)
                fit =
                    json_is_integer(value) && json_integer_value(value) >= 0 && json_integer_value(value) <= UINT32_MAX;
            if (fit && value)
                *(unsigned *)p = (unsigned)json_integer_value(value);
            break;
        case FIELD_BOOL:
            if (value)
                fit = json_is_boolean(value);
            if (fit)
                *(bool *)p = json_is_true(value);
            break;
        default:
            if (value)
                fit = json_is_string(value) && text_is_fit(fields[i].kind, json_string_value(value));
            if (fit) {
                *(const char **)p = arena_strdup(arena, value ? json_string_value(value) : "");
                if (!*(const char **)p)
                    return error_oom(ret_error);
            }
        }
        if (!fit)
            return error_set(ret_error, ERROR_BAD_DATA, EINVAL, "%s.%s %s", what, fields[i].name,
                             value ? "has the wrong form" : "is missing");
    }
    return 0;
}

json_t *net_address_to_json(const struct net_address *a)
{
    return encode(a, address_fields, ELEMENTSOF(address_fields));
}

json_t *net_route_to_json(const struct net_route *r)
{
    return encode(r, route_fields, ELEMENTSOF(route_fields));
}

int net_address_from_json(struct arena *arena, const json_t *json, struct net_address *ret, struct error **ret_error)
{
    struct net_address a = {0};
    int r = decode(arena, json, "address", &a, address_fields, ELEMENTSOF(address_fields), ret_error);

    if (r >= 0)
        *ret = a;
    return r;
}

int net_route_from_json(struct arena *arena, const json_t *json, struct net_route *ret, struct error **ret_error)
{
    struct net_route route = {0};
    int r = decode(arena, json, "route", &route, route_fields, ELEMENTSOF(route_fields), ret_error);

    if (r >= 0)
        *ret = route;
    return r;
}

static json_t *strings_to_json(const struct net_strings *list)
{
    json_t *array = json_array();

    for (size_t i = 0; i < list->count; i++)
        json_array_append_new(array, json_string(list->items[i]));
    return array;
}

json_t *net_observed_to_json(const struct net_observed *o)
{
    json_t *links = json_array(), *addresses = json_array(), *routes = json_array(), *sysctls = json_array();

    for (size_t i = 0; i < o->links.count; i++)
        json_array_append_new(links, encode(&o->links.items[i], link_fields, ELEMENTSOF(link_fields)));
    for (size_t i = 0; i < o->addresses.count; i++)
        json_array_append_new(addresses, net_address_to_json(&o->addresses.items[i]));
    for (size_t i = 0; i < o->routes.count; i++)
        json_array_append_new(routes, net_route_to_json(&o->routes.items[i]));
    for (size_t i = 0; i < o->sysctls.count; i++)
        json_array_append_new(sysctls, encode(&o->sysctls.items[i], sysctl_fields, ELEMENTSOF(sysctl_fields)));
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:b}", "links", links, "addresses", addresses, "routes", routes,
                     "sysctls", sysctls, "linkKinds", strings_to_json(&o->link_kinds), "nftTables",
                     strings_to_json(&o->nft_tables), "vhostNet", o->vhost_net);
}

static int strings_from_json(struct arena *arena, const json_t *json, const char *what, struct net_strings *list,
                             struct error **ret_error)
{
    for (size_t i = 0; i < json_array_size(json); i++) {
        const char *text = json_string_value(json_array_get(json, i)), **item;

        if (!text)
            return error_set(ret_error, ERROR_BAD_DATA, EINVAL, "%s[%zu] is not a string", what, i);
        item = NET_LIST_ADD(arena, list);
        if (!item || !(*item = arena_strdup(arena, text)))
            return error_oom(ret_error);
    }
    return 0;
}

int net_observed_from_json(const json_t *json, struct net_observed **ret, struct error **ret_error)
{
    _cleanup_(net_observed_freep) struct net_observed *o = net_observed_new();
    const json_t *links, *addresses, *routes, *sysctls;
    int r;

    if (!o)
        return error_oom(ret_error);
    if (!json_is_object(json))
        return error_set(ret_error, ERROR_BAD_DATA, EINVAL, "the observed state is not an object");
    links = json_object_get(json, "links");
    addresses = json_object_get(json, "addresses");
    routes = json_object_get(json, "routes");
    sysctls = json_object_get(json, "sysctls");
    for (size_t i = 0; i < json_array_size(links); i++) {
        struct net_link *item = NET_LIST_ADD(o->arena, &o->links);

        if (!item)
            return error_oom(ret_error);
        r = decode(o->arena, json_array_get(links, i), "links[]", item, link_fields, ELEMENTSOF(link_fields),
                   ret_error);
        if (r < 0)
            return r;
    }
    for (size_t i = 0; i < json_array_size(addresses); i++) {
        struct net_address *item = NET_LIST_ADD(o->arena, &o->addresses);

        if (!item)
            return error_oom(ret_error);
        r = net_address_from_json(o->arena, json_array_get(addresses, i), item, ret_error);
        if (r < 0)
            return r;
    }
    for (size_t i = 0; i < json_array_size(routes); i++) {
        struct net_route *item = NET_LIST_ADD(o->arena, &o->routes);

        if (!item)
            return error_oom(ret_error);
        r = net_route_from_json(o->arena, json_array_get(routes, i), item, ret_error);
        if (r < 0)
            return r;
    }
    for (size_t i = 0; i < json_array_size(sysctls); i++) {
        struct net_sysctl *item = NET_LIST_ADD(o->arena, &o->sysctls);

        if (!item)
            return error_oom(ret_error);
        r = decode(o->arena, json_array_get(sysctls, i), "sysctls[]", item, sysctl_fields, ELEMENTSOF(sysctl_fields),
                   ret_error);
        if (r < 0)
            return r;
    }
    r = strings_from_json(o->arena, json_object_get(json, "linkKinds"), "linkKinds", &o->link_kinds, ret_error);
    if (r >= 0)
        r = strings_from_json(o->arena, json_object_get(json, "nftTables"), "nftTables", &o->nft_tables, ret_error);
    if (r < 0)
        return r;
    o->vhost_net = json_is_true(json_object_get(json, "vhostNet"));
    *ret = TAKE_PTR(o);
    return 0;
}
