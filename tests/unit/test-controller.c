/* SPDX-License-Identifier: Apache-2.0 */
/* The planners of virt-controller, which are pure: what is to be done next about objects as they are. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "k8s/client/ktime.h"
#include "k8s/controller/cache.h"
#include "k8s/controller/plan.h"
#include "k8s/render/networks.h"

#define NOW 1790000000 /* 2026-09-21T14:13:20Z */

static json_t *parse(const char *text)
{
    json_error_t error;
    json_t *json = json_loads(text, JSON_DECODE_ANY, &error);

    if (!json)
        fail_msg("%s: %s", error.text, text);
    return json;
}

/* A VM with this runStrategy and status, ours by its finalizer. */
static json_t *make_vm(const char *strategy, const char *status)
{
    char text[2048];

    snprintf(text, sizeof(text),
             "{\"metadata\": {\"name\": \"vm\", \"namespace\": \"ns\", \"uid\": \"U1\", \"generation\": 3,"
             " \"resourceVersion\": \"9\", \"finalizers\": [\"" VM_FINALIZER "\"]},"
             " \"spec\": {\"runStrategy\": \"%s\", \"template\": {\"spec\": {\"domain\": {}}}}, \"status\": %s}",
             strategy, status);
    return parse(text);
}

static json_t *make_vmi(const char *phase, bool ran, bool deleting)
{
    char text[2048];

    snprintf(text, sizeof(text),
             "{\"metadata\": {\"name\": \"vm\", \"namespace\": \"ns\", \"uid\": \"I1\", \"resourceVersion\": \"5\"%s,"
             " \"finalizers\": [\"" VMI_FINALIZER "\"],"
             " \"ownerReferences\": [{\"kind\": \"VirtualMachine\", \"name\": \"vm\", \"uid\": \"U1\", \"controller\": "
             "true}]},"
             " \"spec\": {}, \"status\": {\"phase\": \"%s\", \"phaseTransitionTimestamps\": [%s]}}",
             deleting ? ", \"deletionTimestamp\": \"2026-01-01T00:00:00Z\"" : "", phase,
             ran ? "{\"phase\": \"Running\"}" : "");
    return parse(text);
}

/* "start", "stop", "always", "status" (only that is written), "nothing". */
static const char *what(const struct plan *p)
{
    if (!p->any)
        return "nothing";
    if (p->verb == KUBE_CREATE)
        return p->resource == &resource_vmis && p->revision ? "start" : "create";
    if (p->verb == KUBE_DELETE)
        return "stop";
    if (p->subresource)
        return "status";
    return GET(p->body, "spec") ? "always" : "metadata";
}

#define START "[{\"action\": \"Start\"}]"
#define STOP  "[{\"action\": \"Stop\", \"uid\": \"I1\"}]"
#define STALE "[{\"action\": \"Stop\", \"uid\": \"I0\"}]"
#define FAILED                                                                                                         \
    "{\"startFailure\": {\"consecutiveFailCount\": 1, \"lastFailedVMIUID\": \"I1\", \"retryAfterTimestamp\": \"%s\"}}"

static void test_strategies(void **state)
{
    static const struct {
        const char *strategy, *requests; /* NULL: none */
        const char *phase;               /* NULL: no VMI */
        bool ran, deleting;
        const char *wanted;
    } cases[] = {
        {"Always", NULL, NULL, false, false, "start"},
        {"Always", NULL, "Running", true, false, "status"},
        {"Always", NULL, "Running", true, true, "status"}, /* fencing */
        {"Always", NULL, "Succeeded", true, false, "stop"},
        {"Always", NULL, "Failed", true, false, "stop"},
        {"Always", NULL, "Failed", true, true, "status"},
        {"Always", NULL, "Failed", false, false, "status"}, /* the failure is written down first */
        {"Always", STOP, "Running", true, false, "stop"},
        {"Always", STALE, "Running", true, false, "status"},
        {"Halted", NULL, NULL, false, false, "status"},
        {"Halted", NULL, "Running", true, false, "stop"},
        {"Halted", NULL, "Running", true, true, "status"},
        {"Halted", START, NULL, false, false, "always"},
        {"Manual", NULL, NULL, false, false, "status"},
        {"Manual", START, NULL, false, false, "start"},
        {"Manual", NULL, "Failed", true, false, "status"},
        {"Manual", START, "Failed", true, false, "stop"},
        {"Manual", STOP, "Running", true, false, "stop"},
        {"Manual", STALE, "Running", true, false, "status"},
        {"RerunOnFailure", NULL, NULL, false, false, "start"}, /* the strategy is new */
        {"RerunOnFailure", NULL, "Succeeded", true, false, "stop"},
        {"RerunOnFailure", NULL, "Failed", true, false, "status"}, /* its own start request, first */
        {"RerunOnFailure", START, "Failed", true, false, "stop"},
        {"RerunOnFailure", START, NULL, false, false, "start"},
        {"Once", NULL, NULL, false, false, "start"},
        {"Once", NULL, "Failed", true, false, "status"},
        {"Once", NULL, "Succeeded", true, false, "status"},
        {"WaitAsReceiver", NULL, NULL, false, false, "start"},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        char status[256];
        struct view v = {.now = NOW};
        struct plan p = {0};

        snprintf(status, sizeof(status), "{%s%s}", cases[i].requests ? "\"stateChangeRequests\": " : "",
                 cases[i].requests ? cases[i].requests : "");
        v.vm = make_vm(cases[i].strategy, status);
        v.vmi = cases[i].phase ? make_vmi(cases[i].phase, cases[i].ran, cases[i].deleting) : NULL;
        assert_int_equal(plan_vm(&v, &p), 0);
        if (!streq(what(&p), cases[i].wanted))
            fail_msg("case %zu (%s, %s): %s, wanted %s", i, cases[i].strategy,
                     cases[i].phase ? cases[i].phase : "no VMI", what(&p), cases[i].wanted);
        plan_done(&p);
        json_decref(v.vm);
        json_decref(v.vmi);
    }
}

static void test_rerun_waits_for_a_request(void **state)
{
    struct view v = {.now = NOW, .vm = make_vm("RerunOnFailure", "{\"runStrategy\": \"RerunOnFailure\"}")};
    struct plan p = {0};

    assert_int_equal(plan_vm(&v, &p), 0);
    assert_string_equal(what(&p), "status");
    plan_done(&p);
    json_decref(v.vm);
}

/* 10 s times n², up to half as much more, 300 s at most; and no start before that. */
static void test_back_off(void **state)
{
    static const struct {
        int failures; /* before this one */
        int64_t least, most;
    } cases[] = {{0, 10, 15}, {1, 40, 60}, {2, 90, 135}, {4, 250, 300}, {5, 300, 300}, {1000, 300, 300}};

    for (size_t i = 0; i < ELEMENTSOF(cases); i++)
        for (uint32_t random = 0; random < 200; random += 7) {
            char status[256];
            struct view v = {.now = NOW, .random = random};
            struct plan p = {0};
            int64_t after;

            snprintf(status, sizeof(status),
                     "{\"startFailure\": {\"consecutiveFailCount\": %d, \"lastFailedVMIUID\": \"I0\"}}",
                     cases[i].failures);
            v.vm = make_vm("Always", status);
            v.vmi = make_vmi("Failed", false, false);
            assert_int_equal(plan_vm(&v, &p), 0);
            assert_string_equal(what(&p), "status");
            assert_int_equal(GET_NUMBER(p.body, "status", "startFailure", "consecutiveFailCount"),
                             cases[i].failures + 1);
            assert_string_equal(p.said.reason, "StartFailed");
            after = kube_time_parse(GET_TEXT(p.body, "status", "startFailure", "retryAfterTimestamp")) - NOW;
            assert_in_range(after, cases[i].least, cases[i].most);
            plan_done(&p);
            json_decref(v.vm);
            json_decref(v.vmi);
        }
}

static void test_no_start_before_its_time(void **state)
{
    char time[KUBE_TIME_SIZE], status[256];
    struct view v = {.now = NOW};
    struct plan p = {0};

    kube_time(NOW + 7, time);
    snprintf(status, sizeof(status), FAILED, time);
    v.vm = make_vm("Always", status);
    assert_int_equal(plan_vm(&v, &p), 0);
    assert_string_equal(what(&p), "status");
    assert_string_equal(GET_TEXT(p.body, "status", "printableStatus"), "CrashLoopBackOff");
    assert_int_equal(p.again_seconds, 7);
    plan_done(&p);
    v.now = NOW + 7;
    assert_int_equal(plan_vm(&v, &p), 0);
    assert_string_equal(what(&p), "start");
    plan_done(&p);
    json_decref(v.vm);
}

/* A status that is as it should be is not written again: of every status that a plan writes, the next plan is empty. */
static void test_status_is_written_once(void **state)
{
    static const char *const phases[] = {"Pending",   "Scheduling", "Scheduled", "Running",
                                         "Succeeded", "Failed",     "Unknown"};

    for (size_t i = 0; i < ELEMENTSOF(phases); i++) {
        struct view v = {.now = NOW, .vm = make_vm("Once", "{}"), .vmi = make_vmi(phases[i], true, false)};
        struct plan p = {0};

        assert_int_equal(plan_vm(&v, &p), 0);
        assert_string_equal(what(&p), "status");
        json_object_set(v.vm, "status", GET(p.body, "status"));
        plan_done(&p);
        v.now += 60;
        assert_int_equal(plan_vm(&v, &p), 0);
        assert_string_equal(what(&p), "nothing");
        plan_done(&p);
        json_decref(v.vm);
        json_decref(v.vmi);
    }
}

static void test_printable_status(void **state)
{
    static const struct {
        const char *vmi, *wanted; /* status of a VMI; NULL: none */
    } cases[] = {
        {NULL, "Stopped"},
        {"{}", "Starting"},
        {"{\"phase\": \"Scheduling\"}", "Starting"},
        {"{\"phase\": \"Scheduled\"}", "Starting"},
        {"{\"phase\": \"Running\"}", "Running"},
        {"{\"phase\": \"Running\", \"conditions\": [{\"type\": \"Paused\", \"status\": \"True\"}]}", "Paused"},
        {"{\"phase\": \"Running\", \"migrationState\": {\"completed\": false}}", "Migrating"},
        {"{\"phase\": \"Running\", \"migrationState\": {\"completed\": true}}", "Running"},
        {"{\"phase\": \"Scheduling\", \"conditions\": [{\"type\": \"PodScheduled\", \"status\": \"False\", \"reason\": "
         "\"Unschedulable\"}]}",
         "ErrorUnschedulable"},
        {"{\"phase\": \"Scheduling\", \"conditions\": [{\"type\": \"Synchronized\", \"status\": \"False\", \"reason\": "
         "\"ErrImagePull\"}]}",
         "ErrImagePull"},
        {"{\"phase\": \"Pending\", \"conditions\": [{\"type\": \"Synchronized\", \"status\": \"False\", \"reason\": "
         "\"FailedPvcNotFound\"}]}",
         "ErrorPvcNotFound"},
        {"{\"phase\": \"WaitingForSync\"}", "WaitingForReceiver"},
        {"{\"phase\": \"Succeeded\"}", "Stopped"},
        {"{\"phase\": \"Failed\"}", "Stopped"},
        {"{\"phase\": \"Unknown\"}", "Unknown"},
    };
    json_t *vm = make_vm("Always", "{}");

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        json_t *vmi = cases[i].vmi ? json_pack("{s:{}, s:o}", "metadata", "status", parse(cases[i].vmi)) : NULL;

        assert_string_equal(vm_printable_status(vm, vmi, "Always", NULL), cases[i].wanted);
        if (vmi && !streq(cases[i].wanted, "Stopped")) {
            json_object_set_new(MAKE(vmi, "metadata"), "deletionTimestamp", json_string("2026-01-01T00:00:00Z"));
            assert_string_equal(vm_printable_status(vm, vmi, "Always", NULL), "Stopping");
        }
        json_decref(vmi);
    }
    json_object_set_new(MAKE(vm, "metadata"), "deletionTimestamp", json_string("2026-01-01T00:00:00Z"));
    assert_string_equal(vm_printable_status(vm, NULL, "Always", NULL), "Terminating");
    json_decref(vm);
}

/* Applying the patch to the one gives the other (RFC 7386), and equal objects give none. */
static void apply(json_t *to, json_t *patch)
{
    const char *key;
    json_t *value;
    void *next;

    json_object_foreach_safe (patch, next, key, value) {
        if (json_is_null(value))
            json_object_del(to, key);
        else if (json_is_object(value) && json_is_object(json_object_get(to, key)))
            apply(json_object_get(to, key), value);
        else
            json_object_set(to, key, value);
    }
}

static void test_merge_diff(void **state)
{
    static const char *const values[] = {
        "{}",
        "{\"a\": 1}",
        "{\"a\": {\"b\": 1}}",
        "{\"a\": {\"b\": 1, \"c\": [1, 2]}, \"d\": \"x\"}",
        "{\"a\": {\"c\": [1]}}",
        "{\"a\": {\"b\": {\"e\": 1}}}",
        "{\"d\": \"x\"}",
    };

    for (size_t i = 0; i < ELEMENTSOF(values); i++)
        for (size_t k = 0; k < ELEMENTSOF(values); k++) {
            json_t *before = parse(values[i]), *after = parse(values[k]), *patch = merge_diff(before, after);

            assert_int_equal(patch == NULL, i == k);
            if (patch)
                apply(before, patch);
            assert_true(json_equal(before, after));
            json_decref(patch);
            json_decref(before);
            json_decref(after);
        }
}

static void test_selectors(void **state)
{
    static const struct {
        const char *selector;
        bool matches;
        const char *text;
    } cases[] = {
        {"{}", true, ""},
        {"{\"matchLabels\": {\"a\": \"1\"}}", true, "a=1"},
        {"{\"matchLabels\": {\"a\": \"2\"}}", false, "a=2"},
        {"{\"matchLabels\": {\"a\": \"1\", \"x\": \"1\"}}", false, "a=1,x=1"},
        {"{\"matchExpressions\": [{\"key\": \"a\", \"operator\": \"In\", \"values\": [\"0\", \"1\"]}]}", true,
         "a in (0,1)"},
        {"{\"matchExpressions\": [{\"key\": \"a\", \"operator\": \"NotIn\", \"values\": [\"1\"]}]}", false,
         "a notin (1)"},
        {"{\"matchExpressions\": [{\"key\": \"x\", \"operator\": \"NotIn\", \"values\": [\"1\"]}]}", true,
         "x notin (1)"},
        {"{\"matchExpressions\": [{\"key\": \"b\", \"operator\": \"Exists\"}]}", true, "b"},
        {"{\"matchExpressions\": [{\"key\": \"b\", \"operator\": \"DoesNotExist\"}]}", false, "!b"},
        {"{\"matchExpressions\": [{\"key\": \"b\", \"operator\": \"Maybe\"}]}", false, NULL},
    };
    json_t *labels = parse("{\"a\": \"1\", \"b\": \"2\"}");

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        json_t *selector = parse(cases[i].selector);
        _cleanup_free_ char *text = selector_text(selector);

        assert_int_equal(selector_matches(selector, labels), cases[i].matches);
        if (cases[i].text)
            assert_string_equal(text, cases[i].text);
        json_decref(selector);
    }
    assert_false(selector_matches(NULL, labels));
    json_decref(labels);
}

static void test_presets(void **state)
{
    json_t *presets =
        parse("[{\"metadata\": {\"name\": \"p\"}, \"spec\": {\"selector\": {\"matchLabels\": {\"s\": \"1\"}},"
              " \"domain\": {\"cpu\": {\"cores\": 2}, \"memory\": {\"guest\": \"1Gi\"}}}},"
              " {\"metadata\": {\"name\": \"all\"}, \"spec\": {\"selector\": {}, \"domain\": {\"x\": 1}}},"
              " {\"metadata\": {\"name\": \"q\"}, \"spec\": {\"selector\": {\"matchLabels\": {\"t\": \"1\"}},"
              " \"domain\": {\"cpu\": {\"cores\": 4}}}}]");
    json_t *metadata = parse("{\"labels\": {\"s\": \"1\"}}"), *spec = parse("{\"domain\": {\"cpu\": {\"cores\": 1}}}");
    struct plan_event said = {0};

    assert_int_equal(vmi_apply_presets(metadata, spec, presets, &said), 0);
    assert_int_equal(GET_NUMBER(spec, "domain", "cpu", "cores"), 1); /* what the VMI has stays */
    assert_string_equal(GET_TEXT(spec, "domain", "memory", "guest"), "1Gi");
    assert_null(GET(spec, "domain", "x")); /* an empty selector selects nothing */
    assert_string_equal(GET_TEXT(metadata, "annotations", "virtualmachinepreset.kubevirt.io/p"), API_VERSION);
    assert_null(said.reason);
    json_decref(metadata);
    json_decref(spec);

    metadata = parse("{\"labels\": {\"s\": \"1\", \"t\": \"1\"}}");
    spec = parse("{\"domain\": {}}");
    assert_int_equal(vmi_apply_presets(metadata, spec, presets, &said), 0);
    assert_string_equal(said.reason, "PresetFailed");
    assert_null(GET(spec, "domain", "memory"));
    free(said.text);
    json_decref(metadata);
    json_decref(spec);
    json_decref(presets);
}

static void test_times(void **state)
{
    char text[KUBE_TIME_SIZE], micro[KUBE_TIME_MICRO_SIZE];

    kube_time(NOW, text);
    assert_int_equal(kube_time_parse(text), NOW);
    assert_int_equal(kube_time_parse("2026-01-01T00:00:00.123456Z"), kube_time_parse("2026-01-01T00:00:00Z"));
    kube_time_micro(micro);
    assert_in_range(kube_time_parse(micro), kube_now() - 2, kube_now());
    assert_int_equal(kube_time_parse(NULL), -1);
    assert_int_equal(kube_time_parse(""), -1);
    assert_int_equal(kube_time_parse("2026-01-01"), -1);
    assert_int_equal(kube_time_parse("2026-01-01T00:00:00+01:00"), -1);
}

static void test_trim(void **state)
{
    json_t *pod = parse("{\"kind\": \"Pod\", \"metadata\": {\"name\": \"p\", \"labels\": {}, \"ownerReferences\": [],"
                        " \"annotations\": {\"a\": \"b\", \"k8s.v1.cni.cncf.io/network-status\": \"[]\"}},"
                        " \"spec\": {\"nodeName\": \"n\", \"containers\": [{}, {\"name\": "
                        "\"compute\", \"image\": \"i:1\", \"env\": []}]}, \"status\": {\"phase\": \"Running\","
                        " \"podIP\": \"1.2.3.4\", \"conditions\": [{\"type\": \"Ready\", \"status\": \"True\","
                        " \"lastProbeTime\": null}, {\"type\": \"Initialized\", \"status\": \"True\"}],"
                        " \"containerStatuses\": [{\"name\": \"compute\", \"image\": \"i\", \"state\": {\"running\": "
                        "{\"startedAt\": \"x\"}}}]}}");
    json_t *other,
        *wanted =
            parse("{\"metadata\": {\"name\": \"p\", \"ownerReferences\": [],"
                  " \"annotations\": {\"k8s.v1.cni.cncf.io/network-status\": \"[]\"}}, \"spec\": {\"nodeName\": \"n\"},"
                  " \"status\": {\"phase\": \"Running\", \"conditions\": [{\"type\": \"Ready\", \"status\": "
                  "\"True\"}], \"containerStatuses\": [{\"name\": \"compute\", \"state\": {\"running\": {}}}]}}");

    other = json_deep_copy(pod);
    trim_pod(pod, "i:1");
    assert_true(json_equal(pod, wanted));
    assert_string_equal(pod_launcher_image(pod, "i:1"), "i:1");
    /* of an older controller's pod, it is kept */
    trim_pod(other, "i:2");
    assert_string_equal(pod_launcher_image(other, "i:2"), "i:1");
    assert_int_equal(json_object_size(json_array_get(GET(other, "spec", "containers"), 0)), 2);
    json_decref(pod);
    json_decref(other);
    json_decref(wanted);
}

/* ---- what is looked up in the cluster --------------------------------------------------------------------------- */

/* The cluster's objects, by "plural/name". */
static json_t *find_in(const struct kube_resource *resource, const char *name, void *userdata)
{
    char key[200];

    snprintf(key, sizeof(key), "%s/%s", resource->plural, name);
    return json_incref(json_object_get(userdata, key));
}

static const char *no_claim(const char *claim, void *userdata)
{
    return "";
}

/* First the revision, then the status that names it, then the merged template; from a revision alone the next time. */
static void test_expand(void **state)
{
    struct settings settings = {0};
    json_t *cluster =
        parse("{\"virtualmachineclusterinstancetypes/small\": {\"kind\": "
              "\"VirtualMachineClusterInstancetype\", \"metadata\": {\"name\": \"small\", \"uid\": "
              "\"T1\", \"generation\": 4, \"resourceVersion\": \"77\"}, \"spec\": {\"cpu\": {\"guest\": 3},"
              " \"memory\": {\"guest\": \"64Mi\"}}}}");
    json_t *status = json_object(), *template, *revision;
    struct view v = {.now = NOW, .settings = &settings, .find = find_in, .userdata = cluster, .fetched = json_object()};
    struct plan p = {0};
    char *failure;

    v.vm = make_vm("Always", "{}");
    json_object_set_new(GET(v.vm, "spec"), "instancetype", parse("{\"name\": \"small\"}"));
    assert_int_equal(vm_expand(&v, status, &p, &template, &failure), 1);
    assert_true(p.any && p.verb == KUBE_CREATE && p.resource == &resource_revisions);
    assert_string_equal(GET_TEXT(p.body, "metadata", "name"), "vm-small-v1beta1-T1-4");
    assert_int_equal(GET_NUMBER(p.body, "data", "spec", "cpu", "guest"), 3);
    assert_null(GET(p.body, "data", "metadata", "resourceVersion"));
    revision = json_incref(p.body);
    assert_int_equal(json_object_size(status), 0); /* not said before it is true */
    plan_done(&p);

    json_object_set_new(v.fetched, "vm-small-v1beta1-T1-4", json_true()); /* another one made it */
    assert_int_equal(vm_expand(&v, status, &p, &template, &failure), 2);
    assert_string_equal(GET_TEXT(status, "instancetypeRef", "controllerRevisionRef", "name"), "vm-small-v1beta1-T1-4");
    assert_int_equal(vm_expand(&v, status, &p, &template, &failure), 1);
    assert_true(p.verb == KUBE_GET && streq(p.name, "vm-small-v1beta1-T1-4"));
    plan_done(&p);

    json_object_clear(cluster); /* the type is gone: what was kept counts */
    json_object_set_new(v.fetched, "vm-small-v1beta1-T1-4", revision);
    assert_int_equal(vm_expand(&v, status, &p, &template, &failure), 0);
    assert_string_equal(GET_TEXT(template, "spec", "domain", "memory", "guest"), "64Mi");
    json_decref(template);

    json_object_set_new(v.fetched, "vm-small-v1beta1-T1-4", json_false());
    assert_int_equal(vm_expand(&v, status, &p, &template, &failure), -EINVAL);
    assert_non_null(strstr(failure, "is gone"));
    free(failure);
    json_object_del(GET(v.vm, "spec"), "instancetype");
    assert_int_equal(vm_expand(&v, status, &p, &template, &failure), 2); /* it refers to none any more */
    assert_null(GET(status, "instancetypeRef"));
    assert_int_equal(vm_expand(&v, status, &p, &template, &failure), 0);
    assert_ptr_equal(template, GET(v.vm, "spec", "template"));
    json_decref(template);
    json_decref(status);
    json_decref(cluster);
    json_decref(v.fetched);
    json_decref(v.vm);
}

static void test_data_volumes(void **state)
{
    static const struct {
        const char *status, *printable;
    } cases[] = {{"{}", "Provisioning"},
                 {"{\"phase\": \"ImportInProgress\"}", "Provisioning"},
                 {"{\"phase\": \"Failed\"}", "DataVolumeError"},
                 {"{\"phase\": \"WaitForFirstConsumer\"}", "WaitingForVolumeBinding"},
                 {"{\"phase\": \"Succeeded\"}", NULL}};
    json_t *cluster = json_object();
    struct view v = {.now = NOW, .find = find_in, .claim_mode = no_claim, .userdata = cluster};
    struct plan p = {0};
    char text[1200];

    v.vm = make_vm("Halted", "{}");
    json_object_set_new(GET(v.vm, "spec"), "dataVolumeTemplates",
                        parse("[{\"metadata\": {\"name\": \"d\"}, \"spec\": {\"x\": 1}}]"));
    assert_int_equal(plan_data_volumes(&v, &p, text, sizeof(text)), -EINVAL);
    assert_non_null(strstr(text, "cdi.kubevirt.io"));
    v.has_data_volumes = true;
    assert_int_equal(plan_data_volumes(&v, &p, text, sizeof(text)), 1);
    assert_true(p.resource == &resource_data_volumes && GET_NUMBER(p.body, "spec", "x") == 1);
    plan_done(&p);
    json_object_set_new(MAKE(v.vm, "metadata", "annotations"), "kubevirt.io/immediate-data-volume-creation",
                        json_string("false"));
    assert_int_equal(plan_data_volumes(&v, &p, text, sizeof(text)), 0);
    assert_null(data_volume_waits(&v, "d", text, sizeof(text)));
    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        const char *printable;

        json_object_set_new(cluster, "datavolumes/d", json_pack("{s:o}", "status", parse(cases[i].status)));
        printable = data_volume_waits(&v, "d", text, sizeof(text));
        assert_true(!printable == !cases[i].printable);
        if (printable)
            assert_string_equal(printable, cases[i].printable);
    }
    json_decref(cluster);
    json_decref(v.vm);
}

static void test_migration(void **state)
{
    struct view v = {.now = NOW};
    struct plan p = {0};

    v.migration = parse("{\"metadata\": {\"name\": \"m\", \"uid\": \"M\", \"resourceVersion\": \"1\"}}");
    assert_int_equal(plan_migration(&v, &p), 0);
    assert_string_equal(GET_TEXT(p.body, "status", "phase"), "Failed");
    json_object_set(v.migration, "status", GET(p.body, "status"));
    plan_done(&p);
    assert_int_equal(plan_migration(&v, &p), 0);
    assert_false(p.any);
    json_decref(v.migration);
}

/* The write that says Scheduled says also which networks Multus has plugged in: by hash, or by number. */
static void test_multus_status(void **state)
{
    static const struct {
        const char *annotation; /* in JSON's quotes */
        const char *interfaces; /* NULL: none */
    } cases[] = {
        {"[{\\\"name\\\": \\\"cni0\\\", \\\"interface\\\": \\\"eth0\\\", \\\"default\\\": true},"
         " {\\\"name\\\": \\\"ns/b\\\", \\\"interface\\\": \\\"pod16477688c0e\\\"}]",
         "[{\"name\": \"blue\", \"podInterfaceName\": \"pod16477688c0e\", \"infoSource\": \"multus-status\"}]"},
        {"[{\\\"name\\\": \\\"ns/b\\\", \\\"interface\\\": \\\"net1\\\"}]",
         "[{\"name\": \"blue\", \"podInterfaceName\": \"net1\", \"infoSource\": \"multus-status\"}]"},
        {"[{\\\"name\\\": \\\"ns/b\\\", \\\"interface\\\": \\\"net2\\\"}]", NULL},
        {"no list", NULL},
        {"[7, {\\\"interface\\\": 3}]", NULL},
        {"", NULL},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct view v = {.now = NOW, .vmi = make_vmi("Scheduling", false, false)};
        json_t *wanted = cases[i].interfaces ? parse(cases[i].interfaces) : NULL;
        struct plan p = {0};
        char text[1024];

        snprintf(text, sizeof(text),
                 "[{\"metadata\": {\"name\": \"p\", \"uid\": \"P1\", \"annotations\": {\"" ANNOTATION_NETWORK_STATUS
                 "\": \"%s\"}}, \"spec\": {\"nodeName\": \"n\"}, \"status\": {\"phase\": \"Running\","
                 " \"containerStatuses\": [{\"name\": \"compute\", \"state\": {\"running\": {}}}]}}]",
                 cases[i].annotation);
        v.pods = parse(text);
        json_object_set_new(v.vmi, "spec",
                            parse("{\"networks\": [{\"name\": \"default\", \"pod\": {}}, {\"name\": \"blue\", "
                                  "\"multus\": {\"networkName\": \"b\"}}]}"));
        trim_pod(json_array_get(v.pods, 0), NULL); /* as the controller holds it */
        assert_int_equal(plan_vmi(&v, &p), 0);
        assert_string_equal(GET_TEXT(p.body, "status", "phase"), "Scheduled");
        if (!json_equal(GET(p.body, "status", "interfaces"), wanted) && (wanted || GET(p.body, "status", "interfaces")))
            fail_msg("case %zu: %s", i, json_dumps(p.body, 0));
        plan_done(&p);
        json_decref(wanted);
        json_decref(v.vmi);
        json_decref(v.pods);
    }
}

/* The pod has ended, and the node agent is silent for longer than its grace: success takes a guest that ran. */
/* What the launcher is to know of the claims is in the write that says Scheduled, and again when one grows. */
static void test_claims(void **state)
{
    json_t *cluster =
               parse("{\"persistentvolumeclaims/root\": {\"metadata\": {\"name\": \"root\"}, \"spec\": "
                     "{\"accessModes\": [\"ReadWriteOnce\"], \"volumeMode\": \"Filesystem\", \"volumeName\": \"pv\","
                     " \"resources\": {\"requests\": {\"storage\": \"1Gi\"}}}, \"status\": {\"phase\": \"Bound\","
                     " \"capacity\": {\"storage\": \"2Gi\"}}}}"),
           *claim = json_object_get(cluster, "persistentvolumeclaims/root"),
           *wanted = parse("[{\"name\": \"disk\", \"target\": \"vda\", \"persistentVolumeClaimInfo\": {\"claimName\": "
                           "\"root\", \"capacity\": {\"storage\": \"2Gi\"}, \"requests\": {\"storage\": \"1Gi\"},"
                           " \"accessModes\": [\"ReadWriteOnce\"], \"volumeMode\": \"Filesystem\","
                           " \"filesystemOverhead\": \"0.055\"}}]"),
           *status;
    struct view v = {.now = NOW, .find = find_in, .userdata = cluster, .vmi = make_vmi("Scheduling", false, false)};
    struct plan p = {0};

    v.pods = parse("[{\"metadata\": {\"name\": \"p\", \"uid\": \"P1\"}, \"spec\": {\"nodeName\": \"n\"}, \"status\":"
                   " {\"phase\": \"Running\", \"containerStatuses\": [{\"name\": \"compute\", \"state\": {\"running\":"
                   " {}}}]}}]");
    json_object_set_new(
        v.vmi, "spec",
        parse("{\"volumes\": [{\"name\": \"disk\", \"persistentVolumeClaim\": {\"claimName\": \"root\"}},"
              " {\"name\": \"more\", \"dataVolume\": {\"name\": \"late\"}}, {\"name\": \"c\","
              " \"containerDisk\": {\"image\": \"i\"}}]}"));
    trim_claim(claim, NULL); /* as the controller holds it */
    assert_null(GET(claim, "spec", "volumeName"));
    assert_int_equal(plan_vmi(&v, &p), 0);
    json_object_set_new(json_array_get(GET(p.body, "status", "volumeStatus"), 0), "target", json_string("vda"));
    assert_true(json_equal(GET(p.body, "status", "volumeStatus"), wanted));
    /* nothing new, nothing to write; then the claim grows */
    status = json_deep_copy(GET(v.vmi, "status"));
    json_object_update(status, GET(p.body, "status"));
    json_object_set_new(v.vmi, "status", status);
    json_object_set_new(
        v.vmi, "metadata",
        parse("{\"name\": \"vm\", \"resourceVersion\": \"6\", \"uid\": \"I1\", \"labels\": {\"" LABEL_NODE
              "\": \"n\"}, \"finalizers\": [\"" VMI_FINALIZER "\"]}"));
    plan_done(&p);
    assert_int_equal(plan_vmi(&v, &p), 0);
    assert_false(p.any);
    plan_done(&p);
    json_object_set_new(GET(claim, "status"), "capacity", parse("{\"storage\": \"3Gi\"}"));
    assert_int_equal(plan_vmi(&v, &p), 0);
    assert_string_equal(GET_TEXT(json_array_get(GET(p.body, "status", "volumeStatus"), 0), "persistentVolumeClaimInfo",
                                 "capacity", "storage"),
                        "3Gi");
    plan_done(&p);
    json_decref(wanted);
    json_decref(cluster);
    json_decref(v.vmi);
    json_decref(v.pods);
}

static void test_pod_ended(void **state)
{
    static const struct {
        const char *phase;
        bool ran;
        const char *pod, *wanted;
    } cases[] = {
        {"Scheduling", false, "Succeeded", "Failed"}, {"Scheduled", false, "Succeeded", "Failed"},
        {"Scheduled", false, "Failed", "Failed"},     {"Running", true, "Succeeded", "Succeeded"},
        {"Running", true, "Failed", "Failed"},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct view v = {.now = NOW, .vmi = make_vmi(cases[i].phase, cases[i].ran, false)};
        struct plan p = {0};
        char text[512];

        snprintf(text, sizeof(text),
                 "[{\"metadata\": {\"name\": \"p\", \"uid\": \"P1\"}, \"status\": {\"phase\": \"%s\","
                 " \"containerStatuses\": [{\"name\": \"compute\", \"state\": {\"terminated\":"
                 " {\"finishedAt\": \"2020-01-01T00:00:00Z\"}}}]}}]",
                 cases[i].pod);
        v.pods = parse(text);
        assert_int_equal(plan_vmi(&v, &p), 0);
        assert_string_equal(GET_TEXT(p.body, "status", "phase"), cases[i].wanted);
        plan_done(&p);
        json_decref(v.vmi);
        json_decref(v.pods);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strategies),
        cmocka_unit_test(test_rerun_waits_for_a_request),
        cmocka_unit_test(test_back_off),
        cmocka_unit_test(test_no_start_before_its_time),
        cmocka_unit_test(test_status_is_written_once),
        cmocka_unit_test(test_printable_status),
        cmocka_unit_test(test_merge_diff),
        cmocka_unit_test(test_selectors),
        cmocka_unit_test(test_presets),
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_trim),
        cmocka_unit_test(test_expand),
        cmocka_unit_test(test_data_volumes),
        cmocka_unit_test(test_migration),
        cmocka_unit_test(test_multus_status),
        cmocka_unit_test(test_claims),
        cmocka_unit_test(test_pod_ended),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
