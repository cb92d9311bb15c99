/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "netsetup/status.h"

static const char agent_text[] =
    "[{\"name\":\"lo\",\"hardware-address\":\"00:00:00:00:00:00\",\"ip-addresses\":[{\"ip-address\":\"127.0.0.1\"}]},"
    "{\"name\":\"enp1s0\",\"hardware-address\":\"52:54:00:AA:BB:CC\",\"ip-addresses\":[{\"ip-address\":\"10.0.2.2\"},"
    "{\"ip-address\":\"fe80::1\"}]},"
    "{\"name\":\"enp2s0\",\"hardware-address\":\"02:00:00:00:00:09\",\"ip-addresses\":[{\"ip-address\":\"192.168.9.7\"}"
    "]},"
    "{\"name\":\"docker0\",\"hardware-address\":\"02:42:00:00:00:01\",\"ip-addresses\":[{\"ip-address\":\"172.17.0.1\"}"
    "]}]";

static void expect(json_t *got, const char *text)
{
    json_t *wanted = json_loads(text, 0, NULL);

    assert_non_null(wanted);
    if (!json_equal(got, wanted))
        fail_msg("%s", json_dumps(got, JSON_INDENT(1)));
    json_decref(wanted);
    json_decref(got);
}

static const char *pod_ips[] = {"10.244.1.5", "fd00:244::5"};
static const struct net_interface masquerade = {.name = "default",
                                                .binding = VMI_BINDING_MASQUERADE,
                                                .names = {.pod = "eth0"},
                                                .mac = "52:54:00:aa:bb:cc",
                                                .ip = "10.0.2.2/24",
                                                .queues = 2,
                                                .pod_ips = {.items = pod_ips, .count = 2}};
static const struct net_interface bridge = {.name = "blue",
                                            .binding = VMI_BINDING_BRIDGE,
                                            .names = {.pod = "pod16477688c0e"},
                                            .mac = "02:00:00:00:00:09",
                                            .ip = "192.168.9.5/24",
                                            .ipv6 = "fd00::5/64"};
/* Out of order: the primary one comes first in the status. */
static const struct net_status both[] = {
    {.interface = &bridge, .multus = true, .link_down = true},
    {.interface = &masquerade},
};

static void test_without_agent(void **state)
{
    expect(
        net_status_merge(both, 2, NULL, NULL),
        "[{\"name\":\"default\",\"mac\":\"52:54:00:aa:bb:cc\",\"podInterfaceName\":\"eth0\",\"queueCount\":2,"
        "\"linkState\":\"up\",\"infoSource\":\"domain\",\"ipAddress\":\"10.244.1.5\",\"ipAddresses\":[\"10.244.1.5\","
        "\"fd00:244::5\"]},"
        "{\"name\":\"blue\",\"mac\":\"02:00:00:00:00:09\",\"podInterfaceName\":\"pod16477688c0e\",\"queueCount\":1,"
        "\"linkState\":\"down\",\"infoSource\":\"domain, multus-status\",\"ipAddress\":\"192.168.9.5\","
        "\"ipAddresses\":[\"192.168.9.5\",\"fd00::5\"]}]");
}

static const char with_agent[] =
    "[{\"name\":\"default\",\"mac\":\"52:54:00:aa:bb:cc\",\"podInterfaceName\":\"eth0\",\"queueCount\":2,"
    "\"linkState\":\"up\",\"interfaceName\":\"enp1s0\",\"infoSource\":\"domain, "
    "guest-agent\",\"ipAddress\":\"10.244.1.5\","
    "\"ipAddresses\":[\"10.244.1.5\",\"fd00:244::5\"]},"
    "{\"name\":\"blue\",\"mac\":\"02:00:00:00:00:09\",\"podInterfaceName\":\"pod16477688c0e\",\"queueCount\":1,"
    "\"linkState\":\"down\",\"interfaceName\":\"enp2s0\",\"infoSource\":\"domain, guest-agent, multus-status\","
    "\"ipAddress\":\"192.168.9.7\",\"ipAddresses\":[\"192.168.9.7\"]},"
    "{\"interfaceName\":\"docker0\",\"mac\":\"02:42:00:00:00:01\",\"infoSource\":\"guest-agent\","
    "\"ipAddress\":\"172.17.0.1\",\"ipAddresses\":[\"172.17.0.1\"]}]";

/* The agent's word counts for a bridge; the pod's addresses for masquerade; and all stays while the agent is away. */
static void test_with_agent_and_after_it(void **state)
{
    json_t *agent = json_loads(agent_text, 0, NULL), *first = net_status_merge(both, 2, agent, NULL);

    expect(json_incref(first), with_agent);
    expect(net_status_merge(both, 2, NULL, first), with_agent);
    json_decref(first);
    json_decref(agent);
}

/*
 * A migration's target begins with what the source has written: the guest's own addresses stay, before any agent has
 * said a word to it; the pod's addresses are the target's, by which a masqueraded guest is reached from now on; and
 * what Multus has vouched for is not forgotten, though the node agent cannot know it.
 */
static void test_migration(void **state)
{
    static const char *target_ips[] = {"10.244.7.9"};
    struct net_interface moved = masquerade, other = bridge;
    const struct net_status target[] = {{.interface = &other, .link_down = true}, {.interface = &moved}};
    json_t *agent = json_loads(agent_text, 0, NULL), *source = net_status_merge(both, 2, agent, NULL);
    json_t *wanted = json_loads(with_agent, 0, NULL), *first, *entry;

    moved.pod_ips.items = target_ips;
    moved.pod_ips.count = 1;
    other.ip = NULL; /* the target's pod has none there: a bridge without IPAM */
    other.ipv6 = NULL;
    entry = json_array_get(wanted, 0);
    json_object_set_new(entry, "ipAddress", json_string("10.244.7.9"));
    json_object_set_new(entry, "ipAddresses", json_pack("[s]", "10.244.7.9"));
    first = net_status_merge(target, 2, NULL, source);
    assert_true(json_equal(first, wanted));
    json_decref(source);
    source = net_status_merge(target, 2, agent, first); /* and the agent's first answer there changes nothing */
    assert_true(json_equal(source, wanted));
    json_decref(source);
    json_decref(first);
    json_decref(wanted);
    json_decref(agent);
}

/* virt-controller's first word on a network (compat §3.7), then the node agent's, before there is a guest's. */
static void test_multus_comes_first(void **state)
{
    const struct net_status one = {.interface = &bridge};
    json_t *before = json_pack("[{s:s, s:s, s:s}]", "name", "blue", "podInterfaceName", "pod16477688c0e", "infoSource",
                               "multus-status");
    json_t *got = net_status_merge(&one, 1, NULL, before);

    assert_int_equal(json_array_size(got), 1);
    assert_string_equal(json_string_value(json_object_get(json_array_get(got, 0), "infoSource")),
                        "domain, multus-status");
    json_decref(got);
    json_decref(before);
}

/* What the agent had called its own, and is a NIC of the manifest now (plugged in meanwhile), is listed once. */
static void test_plugged_in(void **state)
{
    const struct net_status one = {.interface = &bridge};
    json_t *before = json_pack("[{s:s, s:s, s:s}]", "interfaceName", "enp2s0", "mac", "02:00:00:00:00:09", "infoSource",
                               "guest-agent");
    json_t *got = net_status_merge(&one, 1, NULL, before);

    assert_int_equal(json_array_size(got), 1);
    json_decref(got);
    json_decref(before);
}

/* An agent that names no address clears it; more than ten interfaces of the guest's own are not shown. */
static void test_agent_clears_and_limits(void **state)
{
    json_t *agent = json_loads("[{\"name\":\"enp2s0\",\"hardware-address\":\"02:00:00:00:00:09\"}]", 0, NULL), *got;

    for (int i = 0; i < 15; i++)
        json_array_append_new(agent, json_pack("{s:o}", "name", json_sprintf("veth%d", i)));
    got = net_status_merge(both, 1, agent, NULL);
    assert_int_equal(json_array_size(got), 11);
    assert_null(json_object_get(json_array_get(got, 0), "ipAddress"));
    json_decref(got);
    json_decref(agent);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_agent), cmocka_unit_test(test_with_agent_and_after_it),
        cmocka_unit_test(test_migration),     cmocka_unit_test(test_multus_comes_first),
        cmocka_unit_test(test_plugged_in),    cmocka_unit_test(test_agent_clears_and_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
