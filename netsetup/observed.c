/* SPDX-License-Identifier: Apache-2.0 */
#include "netsetup/observed.h"

#include <arpa/inet.h>
#include <linux/rtnetlink.h>
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

/* ---- parts of a route ------------------------------------------------------------------------------------------ */

/* RTAX_CC_ALGO, which is text, is not among them. */
static const char *const metric_names[] = {
    [RTAX_LOCK] = "lock",
    [RTAX_MTU] = "mtu",
    [RTAX_WINDOW] = "window",
    [RTAX_RTT] = "rtt",
    [RTAX_RTTVAR] = "rttvar",
    [RTAX_SSTHRESH] = "ssthresh",
    [RTAX_CWND] = "cwnd",
    [RTAX_ADVMSS] = "advmss",
    [RTAX_REORDERING] = "reordering",
    [RTAX_HOPLIMIT] = "hoplimit",
    [RTAX_INITCWND] = "initcwnd",
    [RTAX_FEATURES] = "features",
    [RTAX_RTO_MIN] = "rto_min",
    [RTAX_INITRWND] = "initrwnd",
    [RTAX_QUICKACK] = "quickack",
    [RTAX_FASTOPEN_NO_COOKIE] = "fastopen_no_cookie",
};

const char *net_route_metric_name(unsigned id)
{
    return id < ELEMENTSOF(metric_names) ? metric_names[id] : NULL;
}

/* The next word "NAME<separator>NUMBER" into `name`, as net_route_next_hop() gives it back. */
static int next_pair(const char **p, char separator, char *name, size_t size, uint32_t *ret_value)
{
    const char *word = *p + strspn(*p, " "), *end = word + strcspn(word, " ");
    const char *middle = memchr(word, separator, (size_t)(end - word));
    unsigned long value;
    char *behind;

    if (!*word)
        return 0;
    if (!middle || middle == word || (size_t)(middle - word) >= size || middle[1] < '0' || middle[1] > '9')
        return -EINVAL;
    errno = 0;
    value = strtoul(middle + 1, &behind, 10);
    if (errno || behind != end || value > UINT32_MAX)
        return -EINVAL;
    memcpy(name, word, (size_t)(middle - word));
    name[middle - word] = '\0';
    *ret_value = (uint32_t)value;
    *p = end;
    return 1;
}

int net_route_next_hop(const char **p, char *ret_via, size_t size, unsigned *ret_weight)
{
    uint32_t weight;
    int r = next_pair(p, '*', ret_via, size, &weight);

    if (r > 0 && (weight < 1 || weight > 256))
        return -EINVAL;
    if (r > 0)
        *ret_weight = weight;
    return r;
}

int net_route_next_metric(const char **p, unsigned *ret_id, uint32_t *ret_value)
{
    char name[32];
    int r = next_pair(p, '=', name, sizeof(name), ret_value);

    if (r <= 0)
        return r;
    for (unsigned id = 0; id < ELEMENTSOF(metric_names); id++) {
        if (streq_ptr(metric_names[id], name)) {
            *ret_id = id;
            return 1;
        }
    }
    return -EINVAL;
}

/* ---- to and from JSON, by tables ------------------------------------------------------------------------------- */

#define ROUTE_PARTS_MAX 4096 /* bytes of hops, or of metrics: a message of the kernel's holds them */

enum field_kind {
    FIELD_TEXT,
    FIELD_NUMBER,
    FIELD_BOOL,
    FIELD_LINK,    /* text that is a link's name */
    FIELD_ADDRESS, /* text: an address, or "" */
    FIELD_PREFIX,  /* text: an address with prefix length */
    FIELD_VALUE,   /* text: the numbers of a sysctl */
    FIELD_HOPS,    /* text: a route's */
    FIELD_METRICS, /* text: a route's */
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
    FIELD(net_route, "hops", hops, HOPS, true),        FIELD(net_route, "metrics", metrics, METRICS, true),
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

static bool parts_are_fit(enum field_kind kind, const char *text)
{
    unsigned char bytes[16];
    char via[INET6_ADDRSTRLEN];
    unsigned number;
    uint32_t value;
    int r;

    if (strlen(text) >= ROUTE_PARTS_MAX)
        return false;
    do {
        r = kind == FIELD_HOPS ? net_route_next_hop(&text, via, sizeof(via), &number)
                               : net_route_next_metric(&text, &number, &value);
        if (r > 0 && kind == FIELD_HOPS && inet_pton(strchr(via, ':') ? AF_INET6 : AF_INET, via, bytes) != 1)
            return false;
    } while (r > 0);
    return r == 0;
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
    if (kind == FIELD_HOPS || kind == FIELD_METRICS)
        return parts_are_fit(kind, text);
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

/* The member of that name; NULL where there is none, which is an empty list. */
static int get_list(const json_t *json, const char *name, const json_t **ret, struct error **ret_error)
{
    *ret = json_object_get(json, name);
    if (*ret && !json_is_array(*ret))
        return error_set(ret_error, ERROR_BAD_DATA, EINVAL, "%s is not a list", name);
    return 0;
}

/* All items of the list `member`, each an object by `fields`. */
#define DECODE_LIST(o, json, member, fields, ret_error)                                                                \
    ({                                                                                                                 \
        const json_t *list_;                                                                                           \
        int r_ = get_list(json, #member, &list_, ret_error);                                                           \
                                                                                                                       \
        for (size_t i_ = 0; r_ >= 0 && i_ < json_array_size(list_); i_++) {                                            \
            void *item_ = NET_LIST_ADD((o)->arena, &(o)->member);                                                      \
            char what_[64];                                                                                            \
                                                                                                                       \
            snprintf(what_, sizeof(what_), "%s[%zu]", #member, i_);                                                    \
            r_ = item_ ? decode((o)->arena, json_array_get(list_, i_), what_, item_, fields, ELEMENTSOF(fields),       \
                                ret_error)                                                                             \
                       : error_oom(ret_error);                                                                         \
        }                                                                                                              \
        r_;                                                                                                            \
    })

int net_observed_from_json(const json_t *json, struct net_observed **ret, struct error **ret_error)
{
    _cleanup_(net_observed_freep) struct net_observed *o = net_observed_new();
    const json_t *kinds, *tables, *vhost;
    int r;

    if (!o)
        return error_oom(ret_error);
    if (!json_is_object(json))
        return error_set(ret_error, ERROR_BAD_DATA, EINVAL, "the observed state is not an object");
    r = DECODE_LIST(o, json, links, link_fields, ret_error);
    if (r >= 0)
        r = DECODE_LIST(o, json, addresses, address_fields, ret_error);
    if (r >= 0)
        r = DECODE_LIST(o, json, routes, route_fields, ret_error);
    if (r >= 0)
        r = DECODE_LIST(o, json, sysctls, sysctl_fields, ret_error);
    if (r >= 0)
        r = get_list(json, "linkKinds", &kinds, ret_error);
    if (r >= 0)
        r = strings_from_json(o->arena, kinds, "linkKinds", &o->link_kinds, ret_error);
    if (r >= 0)
        r = get_list(json, "nftTables", &tables, ret_error);
    if (r >= 0)
        r = strings_from_json(o->arena, tables, "nftTables", &o->nft_tables, ret_error);
    if (r < 0)
        return r;
    vhost = json_object_get(json, "vhostNet");
    if (vhost && !json_is_boolean(vhost))
        return error_set(ret_error, ERROR_BAD_DATA, EINVAL, "vhostNet is not true or false");
    o->vhost_net = json_is_true(vhost);
    *ret = TAKE_PTR(o);
    return 0;
}
