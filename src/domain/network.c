/* SPDX-License-Identifier: Apache-2.0 */
#include "domain/network.h"

#include <unistd.h>

#include "base/arena.h"
#include "base/fd.h"
#include "base/limits.h"
#include "netsetup/dhcp.h"
#include "netsetup/state.h"

struct link {
    struct net_interface interface;
    bool present;
    struct dhcp_config config;
    struct dhcp_server *server;
};

struct pod_network {
    struct arena *arena;
    const struct vmi *vmi;
    struct link *links; /* one for each interface of the manifest */
    size_t n_links;
};

void pod_network_free(struct pod_network *network)
{
    if (!network)
        return;
    for (size_t i = 0; network->links && i < network->n_links; i++)
        dhcp_server_free(network->links[i].server);
    arena_free(network->arena);
    free(network);
}

/* The bindings whose guest link is a tap that netsetup made. */
static bool wants_tap(const struct vmi_interface *nic)
{
    return nic->state != VMI_LINK_ABSENT &&
           (nic->binding == VMI_BINDING_BRIDGE || nic->binding == VMI_BINDING_MASQUERADE);
}

int pod_network_load(const struct vmi *vmi, const char *dir, struct pod_network **ret, struct error **ret_error)
{
    _cleanup_(pod_network_freep) struct pod_network *n = calloc(1, sizeof(*n));
    const struct vmi_devices *devices = &vmi->spec.domain.devices;

    if (!n || !(n->arena = arena_new()))
        return error_oom(ret_error);
    n->vmi = vmi;
    n->n_links = devices->interfaces.count;
    n->links = arena_new_array(n->arena, struct link, n->n_links + 1);
    if (!n->links)
        return error_oom(ret_error);
    for (size_t i = 0; i < n->n_links; i++) {
        int r;

        if (!wants_tap(&devices->interfaces.items[i]))
            continue;
        r = net_cache_load(n->arena, dir, &devices->interfaces.items[i], &n->links[i].interface, ret_error);
        if (r == -ENOENT && ret_error)
            error_set_remedy(*ret_error,
                             "the node agent does it, or `netsetup apply` in the pod's network namespace; a "
                             "VM without a network has autoattachPodInterface: false");
        if (r < 0)
            return r;
        n->links[i].present = true;
    }
    *ret = TAKE_PTR(n);
    return 0;
}

int pod_network_serve(struct pod_network *network, sd_event *event, struct error **ret_error)
{
    _cleanup_free_ char *resolv = NULL;
    char hostname[256] = "";

    file_read("/etc/resolv.conf", LIMIT_NET_STATE_BYTES, &resolv, NULL,
              NULL); /* without one there are no name servers */
    gethostname(hostname, sizeof(hostname) - 1);
    for (size_t i = 0; i < network->n_links; i++) {
        struct link *l = &network->links[i];
        int r;

        if (!l->present)
            continue;
        r = dhcp_config_make(network->arena, network->vmi, &l->interface, resolv, hostname, &l->config, ret_error);
        if (r >= 0 && (l->config.address.family || l->config.address6.family))
            r = dhcp_server_new(event, &l->config, &l->server, ret_error);
        if (r < 0)
            return error_wrap(ret_error, r, "cannot serve addresses to interface %s", l->interface.name);
    }
    return 0;
}

const struct net_interface *pod_network_get(const struct pod_network *network, size_t index)
{
    return index < network->n_links && network->links[index].present ? &network->links[index].interface : NULL;
}
