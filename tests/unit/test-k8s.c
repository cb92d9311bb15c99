/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the Kubernetes client that need no server: kubeconfig, requests, lines, queue, table. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/event.h"
#include "base/limits.h"
#include "k8s/client/config.h"
#include "k8s/client/lines.h"
#include "k8s/client/map.h"
#include "k8s/client/queue.h"
#include "k8s/client/request.h"
#include "k8s/client/slab.h"

/* ---- kubeconfig ------------------------------------------------------------------------------------------------- */

#define CONTEXT "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u, namespace: ns}}]\n"
#define CLUSTER "clusters: [{name: c, cluster: {server: 'https://h:6443/', certificate-authority-data: Q0E=}}]\n"

static struct kube_config *parse(const char *text, struct error **ret_error)
{
    struct kube_config *config = NULL;

    kube_config_parse(text, strlen(text), "/etc/k/config", NULL, &config, ret_error);
    return config;
}

static void test_config(void **state)
{
    _cleanup_(kube_config_freep) struct kube_config *c =
        parse(CONTEXT CLUSTER "users: [{name: u, user: {token: secret, tokenFile: tok}}]", NULL);

    assert_non_null(c);
    assert_string_equal(c->server, "https://h:6443");
    assert_string_equal(c->ca, "CA");
    assert_string_equal(c->namespace_, "ns");
    assert_string_equal(c->token, "secret");
    assert_string_equal(c->token_file, "/etc/k/tok");
    assert_false(c->insecure);
}

static void test_config_faults(void **state)
{
    static const struct {
        const char *text;
        enum error_code code;
        const char *says;
    } cases[] = {
        {CONTEXT CLUSTER "users: [{name: u, user: {exec: {command: aws}}}]", ERROR_NOT_SUPPORTED, "plug-in (exec)"},
        {CONTEXT CLUSTER "users: [{name: u, user: {auth-provider: {name: gcp}}}]", ERROR_NOT_SUPPORTED,
         "auth-provider"},
        {CONTEXT CLUSTER, ERROR_BAD_MANIFEST, "no user \"u\""},
        {CONTEXT CLUSTER "users: [{name: u, user: {client-certificate-data: QQ==}}]", ERROR_BAD_MANIFEST, "both or"},
        {CONTEXT CLUSTER "users: [{name: u, user: {client-certificate-data: '*'}}]", ERROR_BAD_MANIFEST, "not base64"},
        {CONTEXT "clusters: [{name: c, cluster: {server: h}}]\nusers: [{name: u, user: {}}]", ERROR_BAD_MANIFEST,
         "must start with https"},
        {CONTEXT "clusters: [{name: c, cluster: {}}]\nusers: [{name: u, user: {}}]", ERROR_BAD_MANIFEST, "is missing"},
        {CLUSTER, ERROR_BAD_MANIFEST, "current-context"},
        {"[1, 2]", ERROR_BAD_MANIFEST, "no kubeconfig"},
        {"a: [", ERROR_BAD_MANIFEST, "/etc/k/config:"},
        {CONTEXT CLUSTER "users: [{name: u, user: {client-key: /nonexistent/key}}]", ERROR_SYSTEM, "/nonexistent/key"},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        _cleanup_error_ struct error *error = NULL;
        _cleanup_(kube_config_freep) struct kube_config *c = parse(cases[i].text, &error);

        assert_null(c);
        if (!strstr(error_message(error), cases[i].says))
            fail_msg("case %zu: %s", i, error_message(error));
        if (cases[i].code != ERROR_SYSTEM)
            assert_int_equal(error_get_code(error), cases[i].code);
    }
}

static void test_config_files(void **state)
{
    char dir[] = "/tmp/test-k8s-XXXXXX", one[64], two[64], list[192];
    _cleanup_(kube_config_freep) struct kube_config *c = NULL, *pod = NULL;
    FILE *f;

    assert_non_null(mkdtemp(dir));
    snprintf(one, sizeof(one), "%s/one", dir);
    snprintf(two, sizeof(two), "%s/two", dir);
    snprintf(list, sizeof(list), "%s:/nonexistent/x:%s", one, two);
    assert_non_null(f = fopen(one, "w"));
    fputs(CONTEXT, f);
    fclose(f);
    assert_non_null(f = fopen(two, "w"));
    fputs("current-context: b\n" CLUSTER "users: [{name: u, user: {username: n, password: p}}]", f);
    fclose(f);
    setenv("KUBECONFIG", list, 1);
    assert_int_equal(kube_config_load(NULL, NULL, &c, NULL), 0);
    assert_string_equal(c->user, "n");
    unsetenv("KUBECONFIG");
    unsetenv("KUBERNETES_SERVICE_HOST");
    assert_int_equal(kube_config_in_cluster(dir, &pod, NULL), -ENOENT);
    rename(one, strcat(strcpy(list, dir), "/ca.crt"));
    rename(two, strcat(strcpy(list, dir), "/token"));
    setenv("KUBERNETES_SERVICE_HOST", "fd00::1", 1);
    setenv("KUBERNETES_SERVICE_PORT", "443", 1);
    assert_int_equal(kube_config_in_cluster(dir, &pod, NULL), 0);
    assert_string_equal(pod->server, "https://[fd00::1]:443");
    assert_string_equal(pod->namespace_, "default");
    unsetenv("KUBERNETES_SERVICE_HOST");
    remove(list);
    remove(strcat(strcpy(list, dir), "/ca.crt"));
    remove(dir);
}

/* ---- requests --------------------------------------------------------------------------------------------------- */

static const struct kube_resource vms = {"kubevirt.io", "v1", "virtualmachines", "VirtualMachine", false};
static const struct kube_resource nodes = {"", "v1", "nodes", "Node", true};

static void assert_http(const struct kube_request *q, const char *method, const char *path, const char *body)
{
    _cleanup_(kube_http_done) struct kube_http http = {0};
    _cleanup_error_ struct error *error = NULL;

    if (kube_http_make(q, &http, &error) < 0)
        fail_msg("%s", error_message(error));
    assert_string_equal(http.method, method);
    assert_string_equal(http.path, path);
    if (body)
        assert_string_equal(http.body, body);
    else
        assert_null(http.body);
}

#define Q(...) (&(struct kube_request){__VA_ARGS__})

static void test_requests(void **state)
{
    json_t *body = json_pack("{s:i}", "a", 1);

    assert_http(Q(.verb = KUBE_GET, .resource = &vms, .namespace_ = "n", .name = "x"), "GET",
                "/apis/kubevirt.io/v1/namespaces/n/virtualmachines/x", NULL);
    assert_http(
        Q(.verb = KUBE_LIST, .resource = &vms, .label_selector = "a=b,c in (d)", .limit = 5, .continue_ = "+/"), "GET",
        "/apis/kubevirt.io/v1/virtualmachines?labelSelector=a%3Db%2Cc%20in%20%28d%29&limit=5&continue=%2B%2F", NULL);
    assert_http(Q(.verb = KUBE_GET, .resource = &nodes, .namespace_ = "n", .name = "x"), "GET", "/api/v1/nodes/x",
                NULL);
    assert_http(Q(.verb = KUBE_UPDATE, .resource = &vms, .namespace_ = "n", .name = "x", .subresource = "status",
                  .body = body, .strict = true),
                "PUT", "/apis/kubevirt.io/v1/namespaces/n/virtualmachines/x/status?fieldValidation=Strict",
                "{\"a\":1}");
    assert_http(Q(.verb = KUBE_APPLY, .resource = &vms, .namespace_ = "n", .name = "x", .body = body, .manager = "m",
                  .force = true, .dry_run = true),
                "PATCH", "/apis/kubevirt.io/v1/namespaces/n/virtualmachines/x?fieldManager=m&force=true&dryRun=All",
                "{\"a\":1}");
    assert_http(Q(.verb = KUBE_DELETE, .resource = &vms, .namespace_ = "n", .name = "x", .uid = "u",
                  .propagation = KUBE_PROPAGATION_ORPHAN, .grace_seconds = KUBE_GRACE_NOW),
                "DELETE", "/apis/kubevirt.io/v1/namespaces/n/virtualmachines/x",
                "{\"apiVersion\":\"v1\",\"kind\":\"DeleteOptions\",\"propagationPolicy\":\"Orphan\","
                "\"gracePeriodSeconds\":0,\"preconditions\":{\"uid\":\"u\"}}");
    json_decref(body);
}

static void test_bad_requests(void **state)
{
    json_t *body = json_object();
    const struct kube_request bad[] = {
        {.verb = KUBE_GET, .resource = &vms, .namespace_ = "n"},
        {.verb = KUBE_GET, .resource = &vms, .name = "x"},
        {.verb = KUBE_GET, .resource = &vms, .namespace_ = "n", .name = ".."},
        {.verb = KUBE_GET, .resource = &vms, .namespace_ = "n", .name = "a/b"},
        {.verb = KUBE_GET, .resource = &vms, .namespace_ = "a/b", .name = "x"},
        {.verb = KUBE_GET, .resource = &vms, .namespace_ = "n", .name = ""},
        {.verb = KUBE_LIST, .resource = &vms, .name = "x"},
        {.verb = KUBE_CREATE, .resource = &vms, .namespace_ = "n"},
        {.verb = KUBE_GET, .resource = &vms, .namespace_ = "n", .name = "x", .body = body},
        {.verb = KUBE_APPLY, .resource = &vms, .namespace_ = "n", .name = "x", .body = body},
    };

    for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
        struct kube_http http = {0};

        assert_int_equal(kube_http_make(&bad[i], &http, NULL), -EINVAL);
        assert_null(http.path);
    }
    json_decref(body);
}

/* ---- lines ------------------------------------------------------------------------------------------------------ */

static int collect(char *text, size_t length, void *userdata)
{
    struct strbuf *b = userdata;

    assert_int_equal(strlen(text), length);
    strbuf_printf(b, "<%s>", text ? text : "");
    return strstr(text, "stop") ? 7 : 0;
}

static void test_lines_cut_everywhere(void **state)
{
    static const char text[] = "{\"a\":1}\n\n{\"bc\":\"d\"}\r\n{}\nrest";

    for (size_t i = 0; i < sizeof(text); i++)
        for (size_t j = i; j < sizeof(text); j++) {
            _cleanup_(strbuf_done) struct strbuf got = {0};
            _cleanup_(kube_lines_done) struct kube_lines lines = {0};

            assert_int_equal(kube_lines_feed(&lines, text, i, collect, &got), 0);
            assert_int_equal(kube_lines_feed(&lines, text + i, j - i, collect, &got), 0);
            assert_int_equal(kube_lines_feed(&lines, text + j, strlen(text) - MIN(j, strlen(text)), collect, &got), 0);
            assert_string_equal(strbuf_text(&got), "<{\"a\":1}><{\"bc\":\"d\"}><{}>");
        }
}

static void test_lines_stop_and_limit(void **state)
{
    _cleanup_(strbuf_done) struct strbuf got = {0};
    _cleanup_(kube_lines_done) struct kube_lines lines = {0};
    _cleanup_free_ char *block = malloc(1 << 20);
    int r = 0;

    assert_int_equal(kube_lines_feed(&lines, "a\nstop\nb\n", 9, collect, &got), 7);
    assert_string_equal(strbuf_text(&got), "<a><stop>");
    memset(block, 'x', 1 << 20);
    for (unsigned i = 0; i < 9 && r == 0; i++)
        r = kube_lines_feed(&lines, block, 1 << 20, collect, &got);
    assert_int_equal(r, -EMSGSIZE);
}

/* ---- table ------------------------------------------------------------------------------------------------------ */

static void test_map(void **state)
{
    struct thing {
        struct kube_map_node node;
        char key[16];
    } *things = calloc(5000, sizeof(*things));
    struct kube_map map = {0};

    assert_null(kube_map_get(&map, "x"));
    for (int i = 0; i < 5000; i++) {
        snprintf(things[i].key, sizeof(things[i].key), "key-%d", i);
        assert_int_equal(kube_map_put(&map, &things[i].node, things[i].key), 0);
    }
    for (int i = 0; i < 5000; i += 2)
        kube_map_remove(&map, &things[i].node);
    assert_int_equal(map.count, 2500);
    for (int i = 0; i < 5000; i++)
        assert_ptr_equal(kube_map_get(&map, things[i].key), i % 2 ? &things[i].node : NULL);
    kube_map_done(&map);
    free(things);
}

/* ---- slabs ------------------------------------------------------------------------------------------------------ */

/* KiB that the process has mapped. */
static long mapped(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");

    assert_non_null(f);
    assert_int_equal(fscanf(f, "%ld", &pages), 1);
    fclose(f);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

/* Pieces of all sizes, taken and freed in an order that is not the same: none touches another, and what is free goes
 * back to the system, the middle of what was used too. */
static void test_slabs(void **state)
{
    enum { N = 4000 };
    static struct {
        unsigned char *memory;
        size_t size;
    } pieces[N];
    uint32_t random = 12345;
    long before = mapped(), full;

    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < N; i++) {
            random = random * 1664525 + 1013904223;
            pieces[i].size = 1 + (random >> 8) % (i % 50 ? 3000 : 20000);
            pieces[i].memory = slab_alloc(pieces[i].size);
            assert_non_null(pieces[i].memory);
            memset(pieces[i].memory, i & 0xff, pieces[i].size);
        }
        full = mapped();
        for (int i = 0; i < N; i++) {
            int k = i * 1237 % N; /* 1237 is prime to N: each once */

            for (size_t b = 0; b < pieces[k].size; b++)
                if (pieces[k].memory[b] != (k & 0xff))
                    fail_msg("piece %d, byte %zu", k, b);
            slab_free(pieces[k].memory, pieces[k].size);
        }
    }
    slab_free(NULL, 5);
#if !defined(__SANITIZE_ADDRESS__)
    assert_true(full > before + 5000);
    assert_true(mapped() < before + 1000);
#else
    assert_true(full > 0 && before > 0);
#endif
}

/* ---- queue ------------------------------------------------------------------------------------------------------ */

static struct {
    sd_event *event;
    struct strbuf log;
    bool hold;
    unsigned fail;
    uint64_t times[8];
    unsigned n_times;
} q;

static void work(struct kube_queue *queue, const char *key, void *userdata)
{
    strbuf_printf(&q.log, "%s ", key);
    if (q.n_times < ELEMENTSOF(q.times))
        q.times[q.n_times++] = now_usec();
    if (q.fail > 0) {
        q.fail--;
        kube_queue_add_failed(queue, key);
    }
    if (!q.hold)
        kube_queue_done(queue, key);
}

static struct kube_queue *queue_new(unsigned workers)
{
    struct kube_queue *queue;

    strbuf_done(&q.log);
    memset(&q, 0, sizeof(q));
    assert_true(event_new(&q.event) >= 0);
    assert_int_equal(kube_queue_new(q.event, workers, work, NULL, &queue), 0);
    return queue;
}

static void run_until(const char *log)
{
    uint64_t end = now_usec() + 60 * USEC_PER_SEC;

    while (!streq(strbuf_text(&q.log), log) && now_usec() < end)
        sd_event_run(q.event, 100000);
    assert_string_equal(strbuf_text(&q.log), log);
}

static void assert_counts(struct kube_queue *queue, size_t ready, size_t later, size_t working)
{
    size_t r, l, w;

    kube_queue_count(queue, &r, &l, &w);
    assert_int_equal(r, ready);
    assert_int_equal(l, later);
    assert_int_equal(w, working);
}

static void test_queue_one_at_a_time(void **state)
{
    struct kube_queue *queue = queue_new(2);

    q.hold = true;
    kube_queue_add(queue, "a");
    kube_queue_add(queue, "a");
    kube_queue_add(queue, "b");
    kube_queue_add(queue, "c");
    run_until("a b ");
    kube_queue_add(queue, "a"); /* under way: once more afterwards, never twice at once */
    kube_queue_add(queue, "a");
    while (sd_event_run(q.event, 0) > 0)
        ;
    assert_string_equal(strbuf_text(&q.log), "a b ");
    assert_counts(queue, 1, 0, 2);
    kube_queue_done(queue, "a");
    run_until("a b c ");
    kube_queue_done(queue, "b");
    run_until("a b c a ");
    kube_queue_done(queue, "a");
    kube_queue_done(queue, "c");
    assert_counts(queue, 0, 0, 0);
    kube_queue_free(queue);
    sd_event_unref(q.event);
}

static void test_queue_times(void **state)
{
    struct kube_queue *queue = queue_new(1);
    uint64_t start = now_usec();

    kube_queue_add_after(queue, "late", 60 * USEC_PER_MSEC);
    kube_queue_add_after(queue, "soon", 20 * USEC_PER_MSEC);
    kube_queue_add_after(queue, "late", 40 * USEC_PER_MSEC); /* the earlier one counts */
    kube_queue_add_after(queue, "now", 3600 * USEC_PER_SEC);
    kube_queue_add(queue, "now");
    assert_counts(queue, 1, 2, 0);
    run_until("now soon late ");
    assert_true(q.times[1] - start >= 20 * USEC_PER_MSEC);
    assert_true(q.times[2] - start >= 40 * USEC_PER_MSEC);
    assert_counts(queue, 0, 0, 0);
    kube_queue_free(queue);
    sd_event_unref(q.event);
}

static void test_queue_failures(void **state)
{
    struct kube_queue *queue = queue_new(1);

    q.fail = 3;
    kube_queue_add(queue, "x");
    run_until("x x x x ");
    for (unsigned i = 0; i < 3; i++)
        assert_true(q.times[i + 1] - q.times[i] >= KUBE_QUEUE_FIRST_USEC << i);
    kube_queue_forget(queue, "x");
    kube_queue_forget(queue, "never heard of");
    q.fail = 1;
    q.n_times = 0;
    kube_queue_add(queue, "x");
    run_until("x x x x x x ");
    assert_true(q.times[1] - q.times[0] < KUBE_QUEUE_FIRST_USEC * 8); /* from the first delay again */
    kube_queue_free(queue);
    sd_event_unref(q.event);
    strbuf_done(&q.log);
}

static void test_backoff(void **state)
{
    assert_int_equal(kube_backoff(0, 10, 300), 10);
    assert_int_equal(kube_backoff(3, 10, 300), 80);
    assert_int_equal(kube_backoff(4000000000U, 10, 300), 300);
    for (int i = 0; i < 1000; i++) {
        uint64_t t = kube_jitter(1000);

        assert_true(t >= 500 && t <= 1000);
    }
    assert_int_equal(kube_jitter(0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_config_faults),
        cmocka_unit_test(test_config_files),
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_lines_cut_everywhere),
        cmocka_unit_test(test_lines_stop_and_limit),
        cmocka_unit_test(test_map),
        cmocka_unit_test(test_slabs),
        cmocka_unit_test(test_queue_one_at_a_time),
        cmocka_unit_test(test_queue_times),
        cmocka_unit_test(test_queue_failures),
        cmocka_unit_test(test_backoff),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
