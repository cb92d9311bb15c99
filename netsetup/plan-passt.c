/* SPDX-License-Identifier: Apache-2.0 */
/* The unprivileged binding: passt(1) carries the guest's traffic by sockets of its own, and nothing is set up. */
#include "base/strbuf.h"
#include "netsetup/plan.h"

#include <stdio.h>

/* passt's port lists: "80,443" of the protocol; "all" when the manifest names no port at all. */
static char *port_list(struct arena *arena, const struct vmi_interface *interface, const char *protocol)
{
    _cleanup_(strbuf_done) struct strbuf b = {0};

    if (!interface->ports.count && !interface->port_ranges.count)
        return arena_strdup(arena, "all");
    for (size_t i = 0; i < interface->ports.count; i++) {
        const struct vmi_port *p = &interface->ports.items[i];

        if (strcasecmp(p->protocol ? p->protocol : "TCP", protocol) == 0)
            strbuf_printf(&b, "%s%lld", b.length ? "," : "", (long long)opt_int_or(p->port, 0));
    }
    for (size_t i = 0; i < interface->port_ranges.count; i++) {
        const struct vmi_port_range *p = &interface->port_ranges.items[i];

        if (strcasecmp(p->protocol ? p->protocol : "TCP", protocol) == 0)
            strbuf_printf(&b, "%s%lld-%lld", b.length ? "," : "", (long long)opt_int_or(p->start, 0),
                          (long long)opt_int_or(p->end, opt_int_or(p->start, 0)));
    }
    return arena_strdup(arena, b.length ? strbuf_text(&b) : "none");
}

/* passt(1). In the foreground, as a child of whoever starts QEMU; it ends when QEMU closes the connection. */
int net_passt_make(struct arena *arena, const struct vmi_interface *interface, const char *private_dir,
                   struct net_interface *n)
{
    const char *socket = arena_printf(arena, "%s/passt-%s.socket", private_dir, interface->name);
    const char *argv[] = {
        "passt",
        "--foreground",
        "--one-off",
        "--log-file",
        arena_printf(arena, "%s/passt-%s.log", private_dir, interface->name),
        "--socket",
        socket,
        "--interface",
        n->names.pod,
        "--mtu",
        arena_printf(arena, "%u", n->mtu),
        "--tcp-ports",
        port_list(arena, interface, "TCP"),
        "--udp-ports",
        port_list(arena, interface, "UDP"),
    };
    char **copy = arena_new_array(arena, char *, ELEMENTSOF(argv) + 1);

    if (!copy || !socket)
        return -ENOMEM;
    for (size_t i = 0; i < ELEMENTSOF(argv); i++)
        if (!argv[i] || !(copy[i] = arena_strdup(arena, argv[i])))
            return -ENOMEM;
    n->passt_socket = socket;
    n->passt_argv = copy;
    return 0;
}
