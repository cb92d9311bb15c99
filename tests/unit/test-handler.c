/* SPDX-License-Identifier: Apache-2.0 */
/* virt-handler's decisions and statuses, its records, and gRPC between two ends of one loop. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/event.h"
#include "base/fd.h"
#include "base/limits.h"
#include "k8s/controller/object.h"
#include "k8s/handler/grpc.h"
#include "k8s/handler/node.h"
#include "k8s/handler/record.h"
#include "k8s/handler/status.h"

#define DOMAIN(state, reason) "{\"Status\": {\"Status\": \"" state "\", \"Reason\": \"" reason "\"}}"

static const struct {
    const char *what, *vmi, *domain;
    bool synced;
    enum action action;
    const char *phase;
} cases[] = {
    {"handed over, no VM yet", "{\"status\": {\"phase\": \"Scheduled\"}}", NULL, false, ACTION_SYNC, "Scheduled"},
    {"not handed over", "{\"status\": {\"phase\": \"Scheduling\"}}", NULL, false, ACTION_NONE, "Scheduling"},
    {"starting", "{\"status\": {\"phase\": \"Scheduled\"}}", DOMAIN("Paused", "StartingUp"), true, ACTION_NONE,
     "Scheduled"},
    {"runs", "{\"status\": {\"phase\": \"Scheduled\"}}", DOMAIN("Running", "Unknown"), true, ACTION_NONE, "Running"},
    {"the object has changed", "{\"status\": {\"phase\": \"Running\"}}", DOMAIN("Running", "Unknown"), false,
     ACTION_SYNC, "Running"},
    {"synced, but the launcher has lost it", "{\"status\": {\"phase\": \"Running\"}}", NULL, true, ACTION_SYNC,
     "Running"},
    {"paused", "{\"status\": {\"phase\": \"Running\"}}", DOMAIN("Paused", "User"), true, ACTION_NONE, "Running"},
    {"shut down", "{\"status\": {\"phase\": \"Running\"}}", DOMAIN("Shutoff", "Shutdown"), true, ACTION_CLEAN,
     "Succeeded"},
    {"crashed", "{\"status\": {\"phase\": \"Running\"}}", DOMAIN("Crashed", "Panicked"), true, ACTION_CLEAN, "Failed"},
    {"killed, though it had time",
     "{\"spec\": {\"terminationGracePeriodSeconds\": 30}, \"status\": {\"phase\": \"Running\"}}",
     DOMAIN("Shutoff", "Destroyed"), true, ACTION_CLEAN, "Failed"},
    {"killed, without a grace period",
     "{\"spec\": {\"terminationGracePeriodSeconds\": 0}, \"status\": {\"phase\": \"Running\"}}",
     DOMAIN("Shutoff", "Destroyed"), true, ACTION_CLEAN, "Succeeded"},
    {"deleted", "{\"metadata\": {\"deletionTimestamp\": \"x\"}, \"status\": {\"phase\": \"Running\"}}",
     DOMAIN("Running", "Unknown"), true, ACTION_SHUTDOWN, "Running"},
    {"deleted before it was started",
     "{\"metadata\": {\"deletionTimestamp\": \"x\"}, \"status\": {\"phase\": \"Scheduled\"}}", NULL, false,
     ACTION_CLEAN, "Scheduled"},
    {"the object is gone", NULL, DOMAIN("Running", "Unknown"), true, ACTION_KILL, NULL},
    {"the object and the VM are gone", NULL, NULL, true, ACTION_CLEAN, NULL},
    {"final, and yet it runs", "{\"status\": {\"phase\": \"Failed\"}}", DOMAIN("Running", "Unknown"), true, ACTION_KILL,
     "Failed"},
    {"the pod is told to end", "{\"status\": {\"phase\": \"Running\"}}",
     "{\"Status\": {\"Status\": \"Running\"}, \"Spec\": {\"Metadata\": {\"KubeVirt\": {\"GracePeriod\": "
     "{\"MarkedForGracefulShutdown\": true}}}}}",
     false, ACTION_NONE, "Running"},
};

static void test_decisions(void **state)
{
    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        json_t *vmi = cases[i].vmi ? json_loads(cases[i].vmi, 0, NULL) : NULL,
               *domain = cases[i].domain ? json_loads(cases[i].domain, 0, NULL) : NULL;
        const struct seen seen = {.domain = domain, .synced = cases[i].synced};
        enum action action = handler_decide(vmi, &seen);

        if (action != cases[i].action)
            fail_msg("%s: action %d", cases[i].what, (int)action);
        if (vmi && !streq(handler_phase(vmi, &seen), cases[i].phase))
            fail_msg("%s: phase %s", cases[i].what, handler_phase(vmi, &seen));
        json_decref(vmi);
        json_decref(domain);
    }
}

/* The same twice: a second look writes nothing. */
static void test_status_settles(void **state)
{
    json_t *vmi =
               json_loads("{\"status\": {\"phase\": \"Scheduled\", \"conditions\": [], \"volumeStatus\": [{\"name\": "
                          "\"root\", \"target\": \"\", \"persistentVolumeClaimInfo\": {\"capacity\": "
                          "{\"storage\": \"1Gi\"}}}]}}",
                          0, NULL),
           *domain =
               json_loads("{\"Status\": {\"Status\": \"Paused\", \"Reason\": \"IOError\", \"OSInfo\": {\"Id\": "
                          "\"debian\"}}, \"Spec\": {\"Memory\": {\"Value\": 4294967296}, \"Devices\": {\"Disks\": "
                          "[{\"Alias\": {\"Name\": \"root\"}, \"Target\": {\"Device\": \"vda\"}}]}}}",
                          0, NULL),
           *extra = json_loads("{\"agentConnected\": true, \"accel\": \"tcg\", \"accelReason\": \"no\", \"ioError\": "
                               "{\"volume\": \"root\", \"errno\": \"Input/output error\"}}",
                               0, NULL),
           *links = json_loads("[{\"name\": \"default\", \"binding\": \"masquerade\", \"podLink\": \"eth0\", \"mac\": "
                               "\"02:00:00:00:00:01\", \"queues\": 1, \"podIPs\": [\"10.1.2.3\"]}]",
                               0, NULL);
    struct seen seen = {.domain = domain, .extra = extra, .links = links, .synced = true, .now = 1000};
    json_t *first = handler_status(vmi, &seen), *second;

    assert_string_equal(GET_TEXT(first, "phase"), "Running");
    assert_string_equal(GET_TEXT(condition_find(GET(first, "conditions"), "Paused"), "reason"), "PausedIOError");
    assert_string_equal(GET_TEXT(condition_find(GET(first, "conditions"), "Paused"), "message"),
                        "VMI was paused, low-level IO error detected: volume root: Input/output error");
    assert_true(condition_is(GET(first, "conditions"), "AgentConnected", "True"));
    assert_true(condition_is(GET(first, "conditions"), "SoftwareEmulation", "True"));
    assert_string_equal(GET_TEXT(json_array_get(GET(first, "interfaces"), 0), "ipAddress"), "10.1.2.3");
    assert_string_equal(GET_TEXT(json_array_get(GET(first, "volumeStatus"), 0), "target"), "vda");
    assert_string_equal(
        GET_TEXT(json_array_get(GET(first, "volumeStatus"), 0), "persistentVolumeClaimInfo", "capacity", "storage"),
        "1Gi"); /* the controller's word stays */
    assert_int_equal(handler_claim_bytes(vmi), 1 << 30);
    assert_string_equal(GET_TEXT(first, "memory", "guestAtBoot"), "4Gi");
    assert_string_equal(GET_TEXT(first, "guestOSInfo", "id"), "debian");
    json_object_set_new(vmi, "status", first);
    seen.now = 2000;
    second = handler_status(vmi, &seen);
    assert_true(json_equal(first, second));
    json_decref(second);
    json_decref(vmi);
    json_decref(domain);
    json_decref(extra);
    json_decref(links);
}

/* Addresses that the guest's agent has told stay when it is away, for a node agent that was restarted too: it has
 * nothing but the instance's status. What Multus vouches for stays throughout. */
static void test_addresses_stay(void **state)
{
    json_t *vmi = json_loads("{\"status\": {\"phase\": \"Scheduled\", \"conditions\": [], \"interfaces\": [{\"name\": "
                             "\"blue\", \"podInterfaceName\": \"net1\", \"infoSource\": \"multus-status\"}]}}",
                             0, NULL),
           *domain = json_loads("{\"Status\": {\"Status\": \"Running\"}}", 0, NULL),
           *extra = json_loads("{\"agentConnected\": true}", 0, NULL),
           *links = json_loads("[{\"name\": \"blue\", \"binding\": \"bridge\", \"podLink\": \"net1\", \"mac\": "
                               "\"02:00:00:00:00:01\", \"queues\": 1}]",
                               0, NULL),
           *agent = json_loads("[{\"name\": \"eth0\", \"hardware-address\": \"02:00:00:00:00:01\", \"ip-addresses\": "
                               "[{\"ip-address\": \"192.168.9.7\"}]}]",
                               0, NULL);
    struct seen seen = {
        .domain = domain, .extra = extra, .links = links, .agent_interfaces = agent, .synced = true, .now = 1000};
    json_t *first = handler_status(vmi, &seen), *second, *nic = json_array_get(GET(first, "interfaces"), 0);

    assert_string_equal(GET_TEXT(nic, "ipAddress"), "192.168.9.7");
    assert_string_equal(GET_TEXT(nic, "infoSource"), "domain, guest-agent, multus-status");
    json_object_set_new(vmi, "status", first);
    json_object_set_new(extra, "agentConnected", json_false());
    seen.agent_interfaces = NULL;
    second = handler_status(vmi, &seen);
    assert_true(json_equal(GET(first, "interfaces"), GET(second, "interfaces")));
    json_decref(second);
    json_decref(vmi);
    json_decref(domain);
    json_decref(extra);
    json_decref(links);
    json_decref(agent);
}

static void test_records(void **state)
{
    char dir[] = "/tmp/vmlet-records-XXXXXX", uid[] = "1b4e28ba-2fa1-11d2-883f-0016d3cca427", name[] = "n",
         space[] = "s", links[] = "[{\"name\":\"default\"}]";
    struct record record = {.uid = uid,
                            .namespace_ = space,
                            .name = name,
                            .pod_uid = uid,
                            .generation = 3,
                            .claim_bytes = 7},
                  back;
    char path[128];

    assert_non_null(mkdtemp(dir));
    assert_false(uid_is_valid("../../etc/passwd"));
    assert_false(uid_is_valid(""));
    record.links = links;
    assert_int_equal(record_save(dir, &record, NULL), 0);
    assert_int_equal(record_load(dir, uid, &back, NULL), 0);
    assert_true(streq(back.links, links) && back.generation == 3 && back.claim_bytes == 7 && streq(back.name, name));
    record_done(&back);
    /* half a file */
    snprintf(path, sizeof(path), "%s/%s", dir, uid);
    assert_int_equal(truncate(path, 40), 0);
    assert_int_equal(record_load(dir, uid, &back, NULL), -EBADMSG);
    record_remove(dir, uid);
    assert_int_equal(record_load(dir, uid, &back, NULL), -ENOENT);
    remove_tree(dir);
}

/* ---- gRPC ------------------------------------------------------------------------------------------------------- */

struct answer {
    sd_event *event;
    int code, answers;
    size_t length;
    char first;
};

static void on_answer(int code, const char *text, const uint8_t *message, size_t length, void *userdata)
{
    struct answer *a = userdata;

    a->code = code;
    a->answers++;
    a->length = length;
    a->first = length ? (char)message[0] : 0;
    sd_event_exit(a->event, 0);
}

/* Sends back what it got, all bytes one higher. */
static void handle_echo(struct grpc_call *call, const uint8_t *message, size_t length, void *userdata)
{
    uint8_t *copy = malloc(length + 1);

    for (size_t i = 0; i < length; i++)
        copy[i] = (uint8_t)(message[i] + 1);
    assert_int_equal(grpc_call_send(call, copy, length), 0);
    grpc_call_end(call, GRPC_OK, NULL);
    free(copy);
}

static void handle_refuse(struct grpc_call *call, const uint8_t *message, size_t length, void *userdata)
{
    grpc_call_end(call, GRPC_EXHAUSTED, "none left");
}

static void handle_never(struct grpc_call *call, const uint8_t *message, size_t length, void *userdata)
{
}

static const struct grpc_method methods[] = {
    {"/test/Echo", handle_echo}, {"/test/Refuse", handle_refuse}, {"/test/Never", handle_never}, {0}};

/* A server and a caller on one loop, which lives as long as the call: a loop that was told to end does not run again.
 */
static struct answer call(const char *path, const char *method, size_t length, uint64_t timeout)
{
    uint8_t *message = malloc(length + 1);
    struct grpc_server *server = NULL;
    struct answer a = {0};

    memset(message, 'a', length + 1);
    assert_true(event_new(&a.event) >= 0);
    assert_int_equal(grpc_server_new(a.event, path, methods, NULL, &server, NULL), 0);
    assert_int_equal(grpc_invoke(a.event, path, method, message, length, timeout, on_answer, &a, NULL, NULL), 0);
    free(message);
    sd_event_loop(a.event);
    assert_int_equal(a.answers, 1);
    grpc_server_free(server);
    sd_event_unref(a.event);
    return a;
}

static void test_grpc(void **state)
{
    static const size_t lengths[] = {0, 1, 16379, 200000}; /* past the first window of HTTP/2, 65535 bytes */
    char dir[] = "/tmp/vmlet-grpc-XXXXXX", path[64];
    struct answer a;

    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/s.sock", dir);
    for (size_t i = 0; i < ELEMENTSOF(lengths); i++) {
        a = call(path, "/test/Echo", lengths[i], 60 * USEC_PER_SEC);
        assert_int_equal(a.code, GRPC_OK);
        assert_int_equal(a.length, lengths[i]);
        assert_true(lengths[i] == 0 || a.first == 'b');
    }
    assert_int_equal(call(path, "/test/Refuse", 3, 60 * USEC_PER_SEC).code, GRPC_EXHAUSTED);
    assert_int_equal(call(path, "/test/Unknown", 3, 60 * USEC_PER_SEC).code, GRPC_UNIMPLEMENTED);
    assert_int_equal(call(path, "/test/Never", 3, 100 * USEC_PER_MSEC).code, GRPC_DEADLINE);
    remove_tree(dir);
}

static void test_grpc_nobody(void **state)
{
    _cleanup_event_ sd_event *event = NULL;
    struct answer a = {0};

    assert_true(event_new(&event) >= 0);
    assert_true(grpc_invoke(event, "/nonexistent/s.sock", "/test/Echo", (const uint8_t *)"", 0, USEC_PER_SEC, on_answer,
                            &a, NULL, NULL) < 0);
}

/* ---- labels ----------------------------------------------------------------------------------------------------- */

static void test_label_changes(void **state)
{
    static const struct {
        const char *what, *node, *labels, *change;
    } table[] = {
        {"nothing is known", "{}", NULL, NULL},
        {"a new node", "{}", "{\"cpu-model.node.kubevirt.io/a\": \"true\"}",
         "{\"cpu-model.node.kubevirt.io/a\": \"true\"}"},
        {"as it is to be",
         "{\"metadata\": {\"labels\": {\"cpu-model.node.kubevirt.io/a\": \"true\", \"zone\": \"b\"}}}",
         "{\"cpu-model.node.kubevirt.io/a\": \"true\"}", NULL},
        {"QEMU was replaced", "{\"metadata\": {\"labels\": {\"cpu-model.node.kubevirt.io/a\": \"true\"}}}",
         "{\"cpu-model.node.kubevirt.io/b\": \"true\"}",
         "{\"cpu-model.node.kubevirt.io/a\": null, \"cpu-model.node.kubevirt.io/b\": \"true\"}"},
        {"somebody's own value", "{\"metadata\": {\"labels\": {\"hyperv.node.kubevirt.io/base\": \"no\"}}}",
         "{\"hyperv.node.kubevirt.io/base\": \"true\"}", "{\"hyperv.node.kubevirt.io/base\": \"true\"}"},
        {"not to be labelled",
         "{\"metadata\": {\"annotations\": {\"node-labeller.kubevirt.io/skip-node\": \"true\"}, \"labels\": "
         "{\"cpu-model.node.kubevirt.io/z\": \"true\"}}}",
         "{\"cpu-model.node.kubevirt.io/a\": \"true\"}", NULL},
    };

    for (size_t i = 0; i < ELEMENTSOF(table); i++) {
        json_t *node = json_loads(table[i].node, 0, NULL),
               *labels = table[i].labels ? json_loads(table[i].labels, 0, NULL) : NULL,
               *wanted = table[i].change ? json_loads(table[i].change, 0, NULL) : NULL,
               *change = node_labels_change(node, labels);

        if (wanted ? !json_equal(wanted, change) : change != NULL)
            fail_msg("%s", table[i].what);
        json_decref(node);
        json_decref(labels);
        json_decref(wanted);
        json_decref(change);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decisions),      cmocka_unit_test(test_status_settles),
        cmocka_unit_test(test_records),        cmocka_unit_test(test_grpc),
        cmocka_unit_test(test_grpc_nobody),    cmocka_unit_test(test_label_changes),
        cmocka_unit_test(test_addresses_stay),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
