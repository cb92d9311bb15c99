/* SPDX-License-Identifier: Apache-2.0 */
/* What `netsetup observe` printed, and the plan that is made from it. What a plan would leave on disk is read back: the
 * journal by teardown, which refuses what no plan holds, and the cache by the launcher, whose servers answer by it. */
#include "net-vmi.h"
#include "netsetup/dhcp4.h"
#include "netsetup/ra.h"
#include "netsetup/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_journal(const struct net_plan *plan, const struct vmi *vmi)
{
    struct net_journal journal = {.arena = plan->arena}, *back;
    json_t *json, *again;
    char *text;

    if (net_journal_add(&journal, plan, NULL) < 0)
        return;
    json = net_journal_to_json(&journal);
    text = json_dumps(json, JSON_COMPACT);
    if (net_journal_parse(text, strlen(text), &back, NULL) < 0 || net_journal_check(back, vmi, NULL) < 0)
        abort();
    again = net_journal_to_json(back);
    if (!json_equal(json, again))
        abort();
    json_decref(json);
    json_decref(again);
    free(text);
    net_journal_free(back);
}

static void check_cache(struct arena *arena, const struct net_interface *n, const struct vmi *vmi)
{
    struct net_interface back = {.name = n->name, .binding = n->binding, .state = n->state, .names = n->names};
    struct dhcp4_message discover = {.op = 1, .type = DHCP4_DISCOVER};
    json_t *json = net_cache_to_json(n, vmi);
    char *text = json_dumps(json, JSON_COMPACT);
    uint8_t frame[RA_FRAME_MAX];
    struct dhcp4_reply reply;
    struct dhcp_config c;
    const char *why;

    if (net_cache_parse(arena, text, strlen(text), &back, NULL) < 0 || back.dhcp != n->dhcp || back.mtu != n->mtu ||
        !streq_ptr(back.ip, n->ip) || !streq_ptr(back.ipv6, n->ipv6) || back.routes.count != n->routes.count ||
        back.routes6.count != n->routes6.count ||
        dhcp_config_make(arena, vmi, &back, "search cluster.local\nnameserver 10.96.0.10\n", "testvm", &c, NULL) < 0)
        abort();
    memcpy(discover.mac, c.mac, 6);
    if (c.address.family && (dhcp4_answer(&c, &discover, &reply, &why) != 1 || reply.type != DHCP4_OFFER))
        abort();
    if (c.address6.family && ra_build(&c, c.mac, NULL, frame) > RA_FRAME_MAX)
        abort();
    json_decref(json);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct net_plan_options options = {.owner = NET_DEFAULT_OWNER};
    struct net_observed *observed = NULL;
    struct net_plan *plan = NULL;
    const struct vmi *vmi;
    json_t *json;
    char *table;

    if (!size)
        return 0;
    vmi = net_vmi(data[0]);
    json = json_loadb((const char *)data + 1, size - 1, JSON_REJECT_DUPLICATES, NULL);
    if (json && net_observed_from_json(json, &observed, NULL) >= 0 &&
        net_plan_make(vmi, observed, &options, &plan, NULL) >= 0) {
        json_decref(net_plan_to_json(plan));
        table = net_plan_to_table(plan);
        if (!table)
            abort();
        free(table);
        check_journal(plan, vmi);
        for (size_t i = 0; i < plan->interfaces.count; i++)
            if (plan->interfaces.items[i].has_tap && !plan->interfaces.items[i].present)
                check_cache(plan->arena, &plan->interfaces.items[i], vmi);
        net_plan_free(plan);
    }
    net_observed_free(observed);
    json_decref(json);
    return 0;
}
