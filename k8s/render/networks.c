/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/render/networks.h"

#include <string.h>

#include "base/arena.h"
#include "netsetup/plan.h"

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

static bool names_link(const json_t *entries, const char *link)
{
    for (size_t i = 0; i < json_array_size(entries); i++)
        if (streq(text_of(json_array_get(entries, i), "interface"), link))
            return true;
    return false;
}

/* The link of a secondary network that the pod has: by hash, or by number as pods of old releases have it; or NULL. */
static const char *link_of(struct arena *arena, const char *network, unsigned ordinal, const json_t *entries)
{
    const unsigned ways[] = {0, ordinal};

    for (size_t i = 0; i < ELEMENTSOF(ways); i++) {
        struct net_names names;

        if (net_names_make(arena, network, false, ways[i], &names) >= 0 && names_link(entries, names.pod))
            return names.pod;
    }
    return NULL;
}

json_t *pod_multus_interfaces(const json_t *vmi, const char *network_status)
{
    _cleanup_(arena_freep) struct arena *arena = arena_new();
    const json_t *networks = json_object_get(json_object_get(vmi, "spec"), "networks");
    json_t *entries = network_status ? json_loads(network_status, JSON_REJECT_DUPLICATES, NULL) : NULL;
    json_t *list = json_array();
    unsigned ordinal = 0;

    for (size_t i = 0; arena && i < json_array_size(networks); i++) {
        const json_t *network = json_array_get(networks, i), *multus = json_object_get(network, "multus");
        const char *name = text_of(network, "name"), *link;

        if (!json_is_object(multus) || json_is_true(json_object_get(multus, "default")))
            continue;
        link = link_of(arena, name, ++ordinal, entries);
        if (link)
            json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "name", name, "podInterfaceName", link,
                                                  "infoSource", "multus-status"));
    }
    json_decref(entries);
    if (json_array_size(list))
        return list;
    json_decref(list);
    return NULL;
}
