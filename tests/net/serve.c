/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The launcher's part of the network, alone: `serve MANIFEST CACHE_DIR RESOLV_CONF HOSTNAME STATE_FILE` reads what
 * netsetup cached, becomes uid 107 with CAP_NET_BIND_SERVICE and nothing else, and serves until SIGTERM. It takes its
 * state from the file where there is one, and leaves it there, as an adopting launcher does.
 */
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/event.h"
#include "base/fd.h"
#include "base/log.h"
#include "netsetup/dhcp.h"
#include "netsetup/state.h"
#include "json/faults.h"

#define MAX_SERVERS 8

static struct dhcp_server *servers[MAX_SERVERS];
static size_t n_servers;

static int become_launcher(void)
{
    cap_value_t kept[] = {CAP_NET_BIND_SERVICE};
    cap_t caps = cap_init();
    int r = 0;

    if (prctl(PR_SET_KEEPCAPS, 1) < 0 || setgroups(0, NULL) < 0 || setresgid(107, 107, 107) < 0 ||
        setresuid(107, 107, 107) < 0 || cap_set_flag(caps, CAP_PERMITTED, 1, kept, CAP_SET) < 0 ||
        cap_set_flag(caps, CAP_EFFECTIVE, 1, kept, CAP_SET) < 0 || cap_set_proc(caps) < 0 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        r = -errno;
    cap_free(caps);
    return r;
}

static void restore(struct dhcp_server *server, const char *link, const char *path)
{
    json_t *all = json_load_file(path, 0, NULL);

    if (all)
        dhcp_server_restore(server, json_object_get(all, link));
    json_decref(all);
}

static int start(sd_event *event, struct arena *arena, const struct vmi *vmi, const struct vmi_interface *interface,
                 char **argv, const char *resolv, struct error **e)
{
    struct net_interface *cached = arena_alloc(arena, sizeof(*cached));
    struct dhcp_config *config = arena_alloc(arena, sizeof(*config));
    int r = net_cache_load(arena, argv[2], interface, cached, e);

    if (r >= 0)
        r = dhcp_config_make(arena, vmi, cached, resolv, argv[4], config, e);
    if (r >= 0 && getenv("SERVE_LEASE_SECONDS"))
        config->lease_seconds = (uint32_t)atoi(getenv("SERVE_LEASE_SECONDS"));
    if (r >= 0)
        r = dhcp_server_new(event, config, &servers[n_servers], e);
    if (r >= 0)
        restore(servers[n_servers++], config->link, argv[5]);
    return r;
}

static int save(const char *path)
{
    json_t *all = json_object();
    int r;

    for (size_t i = 0; i < n_servers; i++) {
        json_t *state = dhcp_server_save(servers[i]);

        json_object_set(all, json_string_value(json_object_get(state, "link")), state);
        json_decref(state);
        dhcp_server_free(servers[i]);
    }
    r = json_dump_file(all, path, JSON_INDENT(1));
    json_decref(all);
    return r;
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata)
{
    return sd_event_exit(sd_event_source_get_event(source), 0);
}

int main(int argc, char **argv)
{
    _cleanup_(arena_freep) struct arena *arena = arena_new();
    _cleanup_(vmi_freep) struct vmi *vmi = NULL;
    _cleanup_event_ sd_event *event = NULL;
    _cleanup_error_ struct error *e = NULL;
    _cleanup_free_ char *resolv = NULL;
    struct faults faults = {0};
    sigset_t term;
    int r = argc == 6 ? 0 : -EINVAL;

    log_init("serve", LOG_LEVEL_DEBUG);
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, NULL);
    if (r >= 0)
        r = vmi_load_file(argv[1], NULL, &vmi, &faults, &e);
    if (r >= 0)
        r = file_read(argv[3], 65536, &resolv, NULL, &e);
    if (r >= 0)
        r = become_launcher();
    if (r >= 0)
        r = event_new(&event);
    if (r >= 0)
        r = sd_event_add_signal(event, NULL, SIGTERM, on_signal, NULL);
    for (size_t i = 0; r >= 0 && i < MIN(vmi->spec.domain.devices.interfaces.count, (size_t)MAX_SERVERS); i++)
        r = start(event, arena, vmi, &vmi->spec.domain.devices.interfaces.items[i], argv, resolv, &e);
    if (r < 0) {
        log_error_of(e, "start: %s", strerror(-r));
        return EXIT_FAILURE;
    }
    puts("ready");
    fflush(stdout);
    r = sd_event_loop(event);
    return r < 0 || save(argv[5]) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
