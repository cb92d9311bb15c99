/* SPDX-License-Identifier: Apache-2.0 */
#include "domain/network.h"

#include <unistd.h>

#include "base/arena.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
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
    const char *path; /* of the leases */
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

/* The bindings that netsetup prepares the pod for: by a tap, or for passt. */
static bool is_prepared(const struct vmi_interface *nic)
{
    return nic->state != VMI_LINK_ABSENT &&
           (nic->binding == VMI_BINDING_BRIDGE || nic->binding == VMI_BINDING_MASQUERADE ||
            nic->binding == VMI_BINDING_PASST);
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

        if (!is_prepared(&devices->interfaces.items[i]))
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

json_t *pod_network_leases(const struct pod_network *network)
{
    json_t *leases = json_object();

    for (size_t i = 0; i < network->n_links; i++)
        if (network->links[i].server)
            json_object_set_new(leases, network->links[i].interface.name, dhcp_server_save(network->links[i].server));
    return leases;
}

/* No fsync: what takes the disk's power takes the guest's too. */
static void save_leases(struct dhcp_server *server, void *userdata)
{
    struct pod_network *n = userdata;
    _cleanup_error_ struct error *e = NULL;
    _cleanup_free_ char *text = NULL;
    json_t *leases = pod_network_leases(n);

    text = json_dumps(leases, JSON_COMPACT);
    json_decref(leases);
    if (text && file_replace(n->path, text, strlen(text), 0600, &e) < 0)
        log_warning_of(e, "the guest keeps its address, but the next launcher will not know since when");
}

static json_t *load_leases(const struct pod_network *n)
{
    _cleanup_free_ char *text = NULL;
    size_t length;

    if (file_read(n->path, LIMIT_NET_STATE_BYTES, &text, &length, NULL) < 0)
        return NULL;
    return json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL);
}

static int serve_link(struct pod_network *n, struct link *l, sd_event *event, const char *resolv, const char *hostname,
                      const json_t *leases, struct error **ret_error)
{
    const json_t *lease;
    int r = dhcp_config_make(n->arena, n->vmi, &l->interface, resolv, hostname, &l->config, ret_error);

    if (r < 0 || (!l->config.address.family && !l->config.address6.family))
        return r;
    r = dhcp_server_new(event, &l->config, &l->server, ret_error);
    if (r < 0)
        return r;
    lease = json_object_get(leases, l->interface.name);
    if (lease)
        dhcp_server_restore(l->server, lease);
    dhcp_server_on_bound(l->server, save_leases, n);
    return 0;
}

int pod_network_serve(struct pod_network *network, sd_event *event, const char *dir, bool again,
                      struct error **ret_error)
{
    _cleanup_free_ char *resolv = NULL;
    char hostname[256] = "";
    json_t *leases;
    int r = 0;

    network->path = arena_printf(network->arena, "%s/" NETWORK_LEASES_FILE, dir);
    if (!network->path)
        return error_oom(ret_error);
    if (!again)
        unlink(network->path); /* of a former VM in this directory */
    leases = load_leases(network);
    file_read("/etc/resolv.conf", LIMIT_NET_STATE_BYTES, &resolv, NULL,
              NULL); /* without one there are no name servers */
    gethostname(hostname, sizeof(hostname) - 1);
    for (size_t i = 0; i < network->n_links && r >= 0; i++) {
        struct link *l = &network->links[i];

        if (!l->present)
            continue;
        r = serve_link(network, l, event, resolv, hostname, leases, ret_error);
        if (r < 0)
            r = error_wrap(ret_error, r, "cannot serve addresses to interface %s", l->interface.name);
    }
    json_decref(leases);
    return r;
}

const struct net_interface *pod_network_get(const struct pod_network *network, size_t index)
{
    return index < network->n_links && network->links[index].present ? &network->links[index].interface : NULL;
}
