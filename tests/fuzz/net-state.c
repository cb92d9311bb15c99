/* SPDX-License-Identifier: Apache-2.0 */
/* The files that netsetup reads back: its journal, whose undos the privileged part carries out, and the cache, by which
 * the launcher's servers answer. The first byte chooses the manifest, its highest bit the file. */
#include <net/if.h>

#include "net-vmi.h"
#include "netsetup/dhcp4.h"
#include "netsetup/ra.h"
#include "netsetup/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CACHE = 0x80 };

/* What is taken for an undo of ours touches no link but those of the manifest, and no file but the sysctls of plans. */
static void check_undo(const struct vmi *vmi, const struct net_action *undo)
{
    struct arena *arena = arena_new();
    char *text = net_action_text(arena, undo);
    bool known = undo->op == NET_OP_SYSCTL && startswith(undo->link, "net/") && !strstr(undo->link, "..");
    unsigned ordinal = 0;

    for (size_t i = 0; i < vmi->spec.networks.count && !known; i++) {
        const struct vmi_network *network = &vmi->spec.networks.items[i];
        bool primary = net_network_is_primary(network);
        struct net_names n[2];

        ordinal += !primary;
        if (net_names_make(arena, network->name, primary, 0, &n[0]) < 0 ||
            net_names_make(arena, network->name, primary, ordinal, &n[1]) < 0)
            abort();
        for (unsigned k = 0; k < 2; k++)
            known |= streq(n[k].pod, undo->link) || streq(n[k].nic, undo->link) || streq(n[k].bridge, undo->link) ||
                     streq(n[k].tap, undo->link) || streq(n[k].router, undo->link);
    }
    if (!known || !text)
        abort();
    arena_free(arena);
}

static void read_journal(const struct vmi *vmi, const char *text, size_t length)
{
    struct net_journal *journal, *again;
    char *written;
    json_t *json;

    if (net_journal_parse(text, length, &journal, NULL) < 0)
        return;
    json = net_journal_to_json(journal);
    written = json_dumps(json, JSON_COMPACT);
    if (net_journal_parse(written, strlen(written), &again, NULL) < 0)
        abort();
    if (net_journal_check(journal, vmi, NULL) >= 0)
        for (size_t i = 0; i < journal->undos.count; i++)
            check_undo(vmi, &journal->undos.items[i]);
    for (size_t i = 0; i < journal->links.count; i++)
        if (strchr(journal->links.items[i], '/') || strlen(journal->links.items[i]) >= IFNAMSIZ)
            abort();
    json_decref(json);
    free(written);
    net_journal_free(journal);
    net_journal_free(again);
}

static void read_cache(const struct vmi *vmi, const char *text, size_t length)
{
    const struct vmi_interface *nic = &vmi->spec.domain.devices.interfaces.items[0];
    struct net_interface n = {.name = nic->name, .binding = nic->binding, .state = nic->state};
    struct dhcp4_message request = {.op = 1, .type = DHCP4_REQUEST};
    struct arena *arena = arena_new();
    uint8_t frame[RA_FRAME_MAX];
    struct dhcp4_reply reply;
    struct dhcp_config c;
    const char *why;

    if (net_names_make(arena, "default", true, 0, &n.names) < 0)
        abort();
    if (net_cache_parse(arena, text, length, &n, NULL) >= 0 &&
        dhcp_config_make(arena, vmi, &n, NULL, NULL, &c, NULL) >= 0) {
        memcpy(request.mac, c.mac, 6);
        request.has_requested = true;
        if (c.address.family) {
            memcpy(request.requested, c.address.bytes, 4);
            if (c.address.family != AF_INET || dhcp4_answer(&c, &request, &reply, &why) != 1 || reply.type != DHCP4_ACK)
                abort();
        }
        if (c.address6.family && ra_build(&c, c.mac, NULL, frame) > RA_FRAME_MAX)
            abort();
    }
    arena_free(arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    (data[0] & CACHE ? read_cache : read_journal)(net_vmi(data[0] & 0x7f), (const char *)data + 1, size - 1);
    return 0;
}
