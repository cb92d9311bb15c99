/* SPDX-License-Identifier: Apache-2.0 */
/* The unprivileged binding: passt(1) carries the guest's traffic by sockets of its own, and nothing is set up. */
#include "base/strbuf.h"
#include "netsetup/plan.h"

#include <stdio.h>
#include <unistd.h>

/* passt's port lists: "80,443" of the protocol; all when the manifest names no port at all, on a host none. */
static char *port_list(struct arena *arena, const struct vmi_interface *interface, const char *protocol, bool on_host)
{
    _cleanup_(strbuf_done) struct strbuf b = {0};
    const char *before = on_host ? "127.0.0.1/" : "";

    if (!interface->ports.count && !interface->port_ranges.count)
        return arena_strdup(arena, on_host ? "none" : "all");
    for (size_t i = 0; i < interface->ports.count; i++) {
        const struct vmi_port *p = &interface->ports.items[i];

        if (strcasecmp(p->protocol ? p->protocol : "TCP", protocol) == 0)
            strbuf_printf(&b, "%s%lld", b.length ? "," : before, (long long)opt_int_or(p->port, 0));
    }
    for (size_t i = 0; i < interface->port_ranges.count; i++) {
        const struct vmi_port_range *p = &interface->port_ranges.items[i];

        if (strcasecmp(p->protocol ? p->protocol : "TCP", protocol) == 0)
            strbuf_printf(&b, "%s%lld-%lld", b.length ? "," : before, (long long)opt_int_or(p->start, 0),
                          (long long)opt_int_or(p->end, opt_int_or(p->start, 0)));
    }
    return arena_strdup(arena, b.length ? strbuf_text(&b) : "none");
}

/* passt(1). In the foreground, as a child of whoever starts QEMU; it ends when QEMU closes the connection. */
int net_passt_make(struct arena *arena, const struct vmi_interface *interface, const char *private_dir,
                   struct net_interface *n)
{
    const char *socket = arena_printf(arena, "%s/passt-%s.socket", private_dir, interface->name);
    const char *log = arena_printf(arena, "%s/passt-%s.log", private_dir, interface->name);
    bool on_host = !n->names.pod;
    const char *argv[24] = {"passt", "--foreground", "--one-off", "--log-file", log, "--socket", socket};
    size_t count = 7;
    char **copy;

    if (n->names.pod) {
        argv[count++] = "--interface";
        argv[count++] = n->names.pod;
    }
    if (n->mtu) {
        argv[count++] = "--mtu";
        argv[count++] = arena_printf(arena, "%u", n->mtu);
    }
    argv[count++] = "--tcp-ports";
    argv[count++] = port_list(arena, interface, "TCP", on_host);
    argv[count++] = "--udp-ports";
    argv[count++] = port_list(arena, interface, "UDP", on_host);
    if (on_host &&
        geteuid() == 0) { /* as nobody, which root becomes otherwise, it could not reach the socket's folder */
        argv[count++] = "--runas";
        argv[count++] = "0:0";
    }
    copy = arena_new_array(arena, char *, count + 1);
    if (!copy || !socket)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        if (!argv[i] || !(copy[i] = arena_strdup(arena, argv[i])))
            return -ENOMEM;
    n->passt_socket = socket;
    n->passt_argv = copy;
    return 0;
}
