/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "netsetup/ip.h"
#include "netsetup/observed.h"
#include "netsetup/sha256.h"

static void hash(const char *text, char ret[65])
{
    uint8_t digest[32];

    sha256(text, strlen(text), digest);
    for (size_t i = 0; i < 32; i++)
        sprintf(ret + 2 * i, "%02x", digest[i]);
}

/* FIPS 180-4's examples, and the two lengths around the padding's edge. */
static void test_sha256(void **state)
{
    char text[65];

    hash("", text);
    assert_string_equal(text, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    hash("abc", text);
    assert_string_equal(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    hash("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", text);
    assert_string_equal(text, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    hash("abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqr"
         "stu",
         text);
    assert_string_equal(text, "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
}

static void test_ip(void **state)
{
    static const char *const bad[] = {"",
                                      "10.0.2",
                                      "10.0.2.1/33",
                                      "10.0.2.1/",
                                      "10.0.2.1/-1",
                                      "10.0.2.1/8x",
                                      "fd00::/129",
                                      "fd00:::1",
                                      "10.0.2.1/08 ",
                                      "1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc:dddd"};
    char text[IP_TEXT_MAX];
    struct ip ip, other;
    uint8_t mac[6];

    for (size_t i = 0; i < ELEMENTSOF(bad); i++)
        assert_int_equal(ip_parse(bad[i], &ip), -EINVAL);
    assert_int_equal(ip_parse(NULL, &ip), -EINVAL);
    assert_int_equal(ip_parse("10.0.2.77/24", &ip), 0);
    assert_int_equal(ip_nth(&ip, 2, &other), 0);
    assert_string_equal(ip_text(&other, text), "10.0.2.2");
    assert_int_equal(other.prefix, 24);
    assert_int_equal(ip_nth(&ip, 256, &other), -ERANGE);
    assert_int_equal(ip_parse("10.0.3.0", &other), 0);
    assert_false(ip_contains(&ip, &other));
    ip.prefix = 23;
    assert_true(ip_contains(&ip, &other));
    assert_int_equal(ip_parse("fd10:0:2::/120", &ip), 0);
    assert_int_equal(ip_nth(&ip, 2, &other), 0);
    assert_string_equal(ip_text(&other, text), "fd10:0:2::2");
    assert_true(ip_contains(&ip, &other));
    assert_int_equal(mac_parse("02:00:00:00:00:00", mac), 0);
    ip_link_local_of(mac, &ip);
    assert_string_equal(ip_text(&ip, text), "fe80::ff:fe00:0");
    assert_true(ip_is_link_local(&ip));
    assert_int_equal(mac_parse("02:00:00:00:00", mac), -EINVAL);
    assert_int_equal(mac_parse("02:00:00:00:00:0g", mac), -EINVAL);
    assert_int_equal(mac_parse("02:00:00:00:00:00:", mac), -EINVAL);
}

static void test_observed_json(void **state)
{
    static const struct {
        const char *json, *message;
    } bad[] = {
        {"[]", "the observed state is not an object"},
        {"{\"links\":[1]}", "links[0] is not an object"},
        {"{\"links\":[{\"name\":\"eth0\"}]}", "links[0].mtu is missing"},
        {"{\"links\":[{\"name\":\"a/b\",\"mtu\":1500}]}", "links[0].name has the wrong form"},
        {"{\"links\":[{\"name\":\"sixteen-letters-\",\"mtu\":1500}]}", "links[0].name has the wrong form"},
        {"{\"addresses\":[{\"link\":\"eth0\",\"address\":\"10.0.0.1\"}]}", "addresses[0].address has the wrong form"},
        {"{\"routes\":[{\"link\":\"eth0\",\"to\":\"0.0.0.0/0\",\"via\":\"nobody\"}]}",
         "routes[0].via has the wrong form"},
        {"{\"routes\":[{\"link\":\"eth0\",\"to\":\"0.0.0.0/0\",\"table\":-1}]}", "routes[0].table has the wrong form"},
        {"{\"linkKinds\":[7]}", "linkKinds[0] is not a string"},
        {"{\"links\":{}}", "links is not a list"},
        {"{\"nftTables\":\"ip nat\"}", "nftTables is not a list"},
        {"{\"vhostNet\":1}", "vhostNet is not true or false"},
        {"{\"routes\":[{\"link\":\"eth0\",\"to\":\"10.0.0.0/8\",\"hops\":\"10.1.1.1\"}]}",
         "routes[0].hops has the wrong form"},
        {"{\"routes\":[{\"link\":\"eth0\",\"to\":\"10.0.0.0/8\",\"hops\":\"10.1.1.1*0\"}]}",
         "routes[0].hops has the wrong form"},
        {"{\"routes\":[{\"link\":\"eth0\",\"to\":\"10.0.0.0/8\",\"hops\":\"who*1\"}]}",
         "routes[0].hops has the wrong form"},
        {"{\"routes\":[{\"link\":\"eth0\",\"to\":\"10.0.0.0/8\",\"metrics\":\"mtu\"}]}",
         "routes[0].metrics has the wrong form"},
        {"{\"routes\":[{\"link\":\"eth0\",\"to\":\"10.0.0.0/8\",\"metrics\":\"mtu=4294967296\"}]}",
         "routes[0].metrics has the wrong form"},
        {"{\"routes\":[{\"link\":\"eth0\",\"to\":\"10.0.0.0/8\",\"metrics\":\"speed=1\"}]}",
         "routes[0].metrics has the wrong form"},
    };
    static const char good[] =
        "{\"links\":[{\"name\":\"eth0\",\"kind\":\"veth\",\"mac\":\"ca:5f:48:41:7d:5d\",\"mtu\":1450,\"up\":true}],"
        "\"addresses\":[{\"link\":\"eth0\",\"address\":\"10.244.1.5/24\",\"flags\":128,\"valid\":4294967295,"
        "\"preferred\":4294967295}],\"routes\":[{\"link\":\"eth0\",\"to\":\"0.0.0.0/0\",\"via\":\"10.244.1.1\","
        "\"hops\":\"10.244.1.1*2 10.244.1.2*1\",\"metrics\":\"lock=4 "
        "mtu=1400\",\"table\":254,\"type\":1}],\"sysctls\":[{\"key\":\"net/ipv4/ip_forward\",\"value\":\"0\"}],"
        "\"linkKinds\":[\"dummy\"],\"nftTables\":[],\"vhostNet\":true}";
    _cleanup_(net_observed_freep) struct net_observed *o = NULL;
    json_t *in = json_loads(good, 0, NULL), *out;

    for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
        _cleanup_error_ struct error *e = NULL;
        json_t *json = json_loads(bad[i].json, 0, NULL);

        assert_int_equal(net_observed_from_json(json, &o, &e), -EINVAL);
        assert_string_equal(error_message(e), bad[i].message);
        json_decref(json);
    }
    assert_int_equal(net_observed_from_json(in, &o, NULL), 0);
    out = net_observed_to_json(o);
    assert_true(json_equal(in, out));
    assert_int_equal(net_observed_link(o, "eth0")->mtu, 1450);
    assert_null(net_observed_link(o, "eth1"));
    assert_string_equal(net_observed_sysctl(o, "net/ipv4/ip_forward"), "0");
    json_decref(in);
    json_decref(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256),
        cmocka_unit_test(test_ip),
        cmocka_unit_test(test_observed_json),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
