/* SPDX-License-Identifier: Apache-2.0 */
/* The guest agent client against a scripted guest: late, twice, never, garbage. */
#include "tests/qmp/peer.h"

#include "base/base64.h"
#include "base/limits.h"

#define _cleanup_agent_ _cleanup_(qga_client_freep)

static void on_answer(struct qga_client *agent, json_t *result, const struct error *error, void *userdata)
{
    take_answer(userdata, result, error);
}

static struct qga_client *agent_open(struct peer *p)
{
    struct qga_client *agent;
    int fd = peer_init(p);

    assert_return_code(qga_client_new(p->event, fd, &agent), 0);
    return agent;
}

/* Receives the synchronisation; its number. */
static long long expect_sync(struct peer *p, long long *ret_id)
{
    json_t *json = peer_receive(p);
    long long sync = json_integer_value(json_object_get(json_object_get(json, "arguments"), "id"));

    assert_string_equal(json_string_value(json_object_get(json, "execute")), "guest-sync-delimited");
    if (ret_id)
        *ret_id = json_integer_value(json_object_get(json, "id"));
    json_decref(json);
    return sync;
}

static void answer_sync(struct peer *p)
{
    long long id, sync = expect_sync(p, &id);

    peer_printf(p, "\xff{\"return\": %lld, \"id\": %lld}\n", sync, id);
}

/* A busy machine may have the client ask for synchronisation once more than the test answers. */
static long long expect_after_syncs(struct peer *p, const char *command)
{
    for (;;) {
        json_t *json = peer_receive(p);
        const char *name = json_string_value(json_object_get(json, "execute"));
        long long id = json_integer_value(json_object_get(json, "id"));
        bool sync = streq(name, "guest-sync-delimited");

        if (!sync)
            assert_string_equal(name, command);
        json_decref(json);
        if (!sync)
            return id;
    }
}

static void test_sync_and_call(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_agent_ struct qga_client *a = agent_open(&p);
    _cleanup_answer_ struct answer x = {0}, y = {0}, z = {0};
    unsigned char first;
    long long id;

    qga_client_call(a, "guest-info", NULL, 0, on_answer, &x);
    qga_client_call(a, "guest-ping", NULL, 0, on_answer, &y);
    assert_int_equal(x.count, 0);
    peer_settle(&p);
    assert_int_equal(recv(p.fd, &first, 1, MSG_PEEK | MSG_DONTWAIT), 1);
    assert_int_equal(first, 0xff);
    answer_sync(&p);
    id = peer_expect(&p, "guest-info");
    peer_settle(&p); /* one at a time */
    assert_int_equal(recv(p.fd, &first, 1, MSG_DONTWAIT), -1);
    peer_printf(&p, "{\"return\": {\"version\": \"7.2\"}, \"id\": %lld}\n", id);
    assert_string_equal(json_string_value(json_object_get(x.result, "version")), "7.2");
    id = peer_expect(&p, "guest-ping");
    peer_printf(&p, "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no\"}, \"id\": %lld}\n", id);
    assert_int_equal(error_get_code(y.error), ERROR_AGENT);
    assert_string_equal(error_qmp_class(y.error), "CommandNotFound");
    /* In step: the next command needs no synchronisation. */
    qga_client_call(a, "guest-get-time", NULL, 0, on_answer, &z);
    peer_printf(&p, "{\"return\": 18446744073709551615, \"id\": %lld}\n", peer_expect(&p, "guest-get-time"));
    assert_string_equal(qmp_json_big_number(z.result), "18446744073709551615");
}

/* Everything in front of 0xFF and our number is dropped: old answers, another sync's, half lines, junk. */
static void test_garbage_before_sync(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_agent_ struct qga_client *a = agent_open(&p);
    _cleanup_answer_ struct answer x = {0};
    struct strbuf big = {0};
    long long id, sync;

    peer_send(&p, "login: {\"return\": {}}\n{\"ret");
    qga_client_call(a, "guest-ping", NULL, 0, on_answer, &x);
    sync = expect_sync(&p, &id);
    peer_send(&p, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error, stray '\\ufffd'\"}}\n");
    peer_send(&p, "{\"return\": 17}\nsystemd[1]: Started\n\xff{\"return\": 4}\n");
    peer_printf(&p, "{\"return\": %lld}\n", sync); /* without 0xFF in front: somebody's old one */
    strbuf_add_string(&big, "{\"return\": \"");
    for (unsigned i = 0; i < 200000; i++)
        strbuf_add(&big, "x", 1);
    peer_send(&p, strbuf_text(&big));
    strbuf_done(&big);
    peer_printf(&p, "\xff\xff{\"return\": %lld, \"id\": %lld}\n", sync, id);
    peer_printf(&p, "{\"return\": {}, \"id\": %lld}\n", peer_expect(&p, "guest-ping"));
    assert_non_null(x.result);
}

/* An agent from before QEMU 3.0 refuses "id": synchronised again without, and answers matched by their order. */
static void test_old_agent(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_agent_ struct qga_client *a = agent_open(&p);
    _cleanup_answer_ struct answer x = {0};
    long long id, sync;

    qga_client_call(a, "guest-ping", NULL, 0, on_answer, &x);
    expect_sync(&p, &id);
    peer_send(&p, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"QMP input member 'id' is unexpected\"}}\n");
    sync = expect_sync(&p, &id);
    assert_int_equal(id, 0);
    peer_printf(&p, "\xff{\"return\": %lld}\n", sync);
    assert_int_equal(peer_expect(&p, "guest-ping"), 0);
    peer_send(&p, "{\"return\": {}}\n");
    assert_non_null(x.result);
}

static void test_no_agent(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_agent_ struct qga_client *a = agent_open(&p);
    _cleanup_answer_ struct answer x = {0}, y = {0};

    qga_client_call(a, "guest-ping", NULL, 20000, on_answer, &x);
    qga_client_call(a, "guest-info", NULL, 40000, on_answer, &y);
    expect_sync(&p, NULL);
    peer_wait(&p, &y.count, 1);
    assert_int_equal(error_get_code(x.error), ERROR_TIMED_OUT);
    assert_non_null(strstr(error_message(x.error), "because it does not answer"));
    assert_int_equal(error_get_code(y.error), ERROR_TIMED_OUT);
}

/* Late: the call fails in time, its answer is dropped when it comes, and the next call gets its own. */
static void test_late_answer(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_agent_ struct qga_client *a = agent_open(&p);
    _cleanup_answer_ struct answer x = {0}, y = {0};
    long long id, late, sync;

    qga_client_call(a, "guest-info", NULL, 30000, on_answer, &x);
    answer_sync(&p);
    late = peer_expect(&p, "guest-info");
    peer_wait(&p, &x.count, 1);
    assert_int_equal(error_get_code(x.error), ERROR_TIMED_OUT);
    assert_string_equal(error_message(x.error), "guest-info: the guest agent did not answer within 0.03 s");
    qga_client_call(a, "guest-get-time", NULL, 0, on_answer, &y);
    sync = expect_sync(&p, &id);
    peer_printf(&p, "{\"return\": \"late\", \"id\": %lld}\n", late);
    peer_printf(&p, "\xff{\"return\": %lld, \"id\": %lld}\n", sync, id);
    peer_printf(&p, "{\"return\": 5, \"id\": %lld}\n", peer_expect(&p, "guest-get-time"));
    assert_int_equal(json_integer_value(y.result), 5);
    assert_int_equal(x.count, 1);
}

/* A guest that takes longer than QGA_SYNC_REPEAT_USEC: asked again, it answers both, as qemu-ga does it, with a
 * complaint about each 0xFF. Whether that comes in one piece or in many, and with an agent that returns no ids: it is
 * no answer to the command. */
static void test_slow_to_synchronise(void **state)
{
    for (unsigned way = 0; way < 4; way++) {
        _cleanup_peer_ struct peer p;
        _cleanup_agent_ struct qga_client *a = agent_open(&p);
        _cleanup_answer_ struct answer x = {0}, y = {0};
        bool ids = way & 1, pieces = way & 2;
        long long first, second, sync, command;
        char texts[2][200], member[40] = "";

        qga_client_call(a, "guest-info", NULL, 0, on_answer, &x);
        sync = expect_sync(&p, &first);
        assert_int_equal(expect_sync(&p, &second), sync);
        for (unsigned i = 0; i < 2; i++) {
            if (ids)
                snprintf(member, sizeof(member), ", \"id\": %lld", i ? second : first);
            snprintf(texts[i], sizeof(texts[i]),
                     "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error, stray '\\uFFFD'\"}}\n"
                     "\xff{\"return\": %lld%s}\n",
                     sync, member);
        }
        if (pieces) {
            peer_send(&p, texts[0]);
            command = expect_after_syncs(&p, "guest-info");
            for (const char *c = texts[1]; *c; c++)
                peer_send(&p, (char[]){*c, '\0'});
        } else {
            peer_printf(&p, "%s%s", texts[0], texts[1]);
            command = expect_after_syncs(&p, "guest-info");
        }
        assert_int_equal(x.count, 0);
        if (ids)
            snprintf(member, sizeof(member), ", \"id\": %lld", command);
        peer_printf(&p, "{\"return\": {\"version\": \"7.2\"}%s}\n", member);
        assert_int_equal(x.count, 1);
        assert_non_null(x.result);
        /* now in step: an error without an id is the command's */
        qga_client_call(a, "guest-ping", NULL, 0, on_answer, &y);
        peer_expect(&p, "guest-ping");
        peer_send(&p, "{\"error\": {\"desc\": \"JSON parse error\"}}\n");
        assert_int_equal(error_get_code(y.error), ERROR_AGENT);
    }
}

/* Twice: dropped while nobody waits (and the channel is synchronised anew), and by its id while somebody does. */
static void test_double_answer(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_agent_ struct qga_client *a = agent_open(&p);
    _cleanup_answer_ struct answer x = {0}, y = {0}, z = {0};
    long long id;

    qga_client_call(a, "guest-ping", NULL, 0, on_answer, &x);
    answer_sync(&p);
    id = peer_expect(&p, "guest-ping");
    peer_printf(&p, "{\"return\": {}, \"id\": %lld}\n{\"return\": {}, \"id\": %lld}\n", id, id);
    assert_int_equal(x.count, 1);
    qga_client_call(a, "guest-info", NULL, 0, on_answer, &y);
    answer_sync(&p);
    id = peer_expect(&p, "guest-info");
    peer_printf(&p, "{\"return\": 1, \"id\": %lld}\n", id);
    qga_client_call(a, "guest-get-time", NULL, 0, on_answer, &z);
    assert_int_equal(peer_expect(&p, "guest-get-time"), id + 1);
    peer_printf(&p, "{\"return\": 1, \"id\": %lld}\n", id);
    assert_int_equal(z.count, 0);
    peer_printf(&p, "{\"return\": 2, \"id\": %lld}\n", id + 1);
    assert_int_equal(json_integer_value(z.result), 2);
}

static const struct {
    const char *text; /* with %lld for the id */
    enum error_code code;
    const char *message;
} bad_answers[] = {
    {"{\"return\": tru, \"id\": %lld}\n", ERROR_BAD_DATA, "cannot be used"},
    {"{\"id\": %lld}\n", ERROR_TIMED_OUT, "no answer of an agent"},
    {"[%lld]\n", ERROR_BAD_DATA, "no JSON object"},
    {"{\"error\": {}, \"id\": %lld}\n", ERROR_BAD_DATA, "error without a description"},
    {"{\"error\": {\"desc\": \"JSON parse error\"}}\n", ERROR_AGENT, "JSON parse error"},
    {"hello %lld\n", ERROR_TIMED_OUT, "no answer of an agent"},
    {"{\"half %lld", ERROR_TIMED_OUT, "did not answer"},
    {"{\"return\": \"\\u0000\", \"id\": %lld}\n", ERROR_BAD_DATA, "cannot be used"},
};

static void test_bad_answers(void **state)
{
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    for (size_t i = 0; i < ELEMENTSOF(bad_answers); i++) {
        _cleanup_peer_ struct peer p;
        _cleanup_agent_ struct qga_client *a = agent_open(&p);
        _cleanup_answer_ struct answer x = {0}, y = {0};

        qga_client_call(a, "guest-info", NULL, 60000, on_answer, &x);
        answer_sync(&p);
        peer_printf(&p, bad_answers[i].text, i == 1 ? -1LL : peer_expect(&p, "guest-info"));
        if (i == 1)
            peer_expect(&p, "guest-info");
        peer_wait(&p, &x.count, 1);
        assert_int_equal(error_get_code(x.error), bad_answers[i].code);
        if (!strstr(error_message(x.error), bad_answers[i].message))
            fail_msg("%zu: %s", i, error_message(x.error));
        qga_client_call(a, "guest-ping", NULL, 0, on_answer, &y);
        if (bad_answers[i].code != ERROR_AGENT && i != 3)
            answer_sync(&p);
        peer_printf(&p, "{\"return\": {}, \"id\": %lld}\n", peer_expect(&p, "guest-ping"));
        assert_non_null(y.result);
    }
#pragma GCC diagnostic pop
}

/* guest-shutdown ends when it is sent; what the agent says later belongs to nobody. */
static void test_silent_commands(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_agent_ struct qga_client *a = agent_open(&p);
    _cleanup_answer_ struct answer x = {0}, y = {0};
    long long id;

    qga_client_call(a, "guest-shutdown", json_pack("{s:s}", "mode", "powerdown"), 0, on_answer, &x);
    answer_sync(&p);
    assert_int_equal(x.count, 1);
    assert_true(json_is_null(x.result));
    id = peer_expect(&p, "guest-shutdown");
    qga_client_call(a, "guest-ping", NULL, 0, on_answer, &y);
    peer_printf(&p, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": %lld}\n", id);
    answer_sync(&p);
    peer_printf(&p, "{\"return\": {}, \"id\": %lld}\n", peer_expect(&p, "guest-ping"));
    assert_non_null(y.result);
}

static void test_reset_and_end(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_agent_ struct qga_client *a = agent_open(&p);
    _cleanup_answer_ struct answer x = {0}, y = {0}, z = {0};

    qga_client_call(a, "guest-info", NULL, 0, on_answer, &x);
    answer_sync(&p);
    peer_expect(&p, "guest-info");
    qga_client_reset(a);
    assert_int_equal(error_get_code(x.error), ERROR_AGENT_NOT_CONNECTED);
    qga_client_call(a, "guest-ping", NULL, 0, on_answer, &y);
    qga_client_exec(a, "/bin/true", NULL, NULL, 0, on_answer, &z);
    answer_sync(&p);
    peer_close(&p);
    peer_settle(&p);
    assert_int_equal(error_get_code(y.error), ERROR_AGENT_NOT_CONNECTED);
    assert_int_equal(error_get_code(z.error), ERROR_AGENT_NOT_CONNECTED);
    assert_false(qga_client_is_open(a));
    assert_int_equal(qga_client_call(a, "guest-ping", json_object(), 0, on_answer, &y), -ENOTCONN);
    assert_int_equal(qga_client_exec(a, "/bin/true", json_array(), NULL, 0, on_answer, &y), -ENOTCONN);
}

/* exec: asked until it has exited; bytes that are no text; killed by a signal; freed between two questions. */
static void test_exec(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_agent_ struct qga_client *a = agent_open(&p);
    _cleanup_answer_ struct answer x = {0}, y = {0}, z = {0};
    char *out = base64_encode("a\xff\0z\n", 5);
    json_t *json, *arguments;

    qga_client_exec(a, "/bin/x", json_pack("[s]", "-v"), "in", 0, on_answer, &x);
    answer_sync(&p);
    json = peer_receive(&p);
    arguments = json_object_get(json, "arguments");
    assert_string_equal(json_string_value(json_object_get(arguments, "path")), "/bin/x");
    assert_string_equal(json_string_value(json_object_get(arguments, "input-data")), "aW4=");
    assert_true(json_is_true(json_object_get(arguments, "capture-output")));
    peer_printf(&p, "{\"return\": {\"pid\": 42}, \"id\": %lld}\n", json_integer_value(json_object_get(json, "id")));
    json_decref(json);
    for (int i = 0; i < 3; i++)
        peer_printf(&p, "{\"return\": {\"exited\": false}, \"id\": %lld}\n", peer_expect(&p, "guest-exec-status"));
    peer_printf(&p,
                "{\"return\": {\"exited\": true, \"exitcode\": 3, \"out-data\": \"%s\", \"err-truncated\": true}, "
                "\"id\": %lld}\n",
                out, peer_expect(&p, "guest-exec-status"));
    free(out);
    assert_int_equal(json_integer_value(json_object_get(x.result, "exitcode")), 3);
    assert_string_equal(json_string_value(json_object_get(x.result, "out")), "a\xef\xbf\xbd\xef\xbf\xbdz\n");
    assert_string_equal(json_string_value(json_object_get(x.result, "err")), "");
    assert_true(json_is_true(json_object_get(x.result, "err-truncated")));

    qga_client_exec(a, "/bin/x", NULL, NULL, 0, on_answer, &y);
    peer_printf(&p, "{\"return\": {\"pid\": 43}, \"id\": %lld}\n", peer_expect(&p, "guest-exec"));
    peer_printf(&p, "{\"return\": {\"exited\": true, \"signal\": 9}, \"id\": %lld}\n",
                peer_expect(&p, "guest-exec-status"));
    assert_int_equal(json_integer_value(json_object_get(y.result, "exitcode")), 137);

    qga_client_exec(a, "/bin/x", NULL, NULL, 0, on_answer, &z);
    peer_printf(&p, "{\"return\": {\"pid\": 44}, \"id\": %lld}\n", peer_expect(&p, "guest-exec"));
    qga_client_freep(&a);
    assert_int_equal(error_get_code(z.error), ERROR_CANCELLED);
}

static void test_exec_deadline(void **state)
{
    _cleanup_peer_ struct peer p;
    _cleanup_agent_ struct qga_client *a = agent_open(&p);
    _cleanup_answer_ struct answer x = {0};
    unsigned asked = 0;

    qga_client_exec(a, "/bin/sleep", NULL, NULL, 60000, on_answer, &x);
    answer_sync(&p);
    peer_printf(&p, "{\"return\": {\"pid\": 42}, \"id\": %lld}\n", peer_expect(&p, "guest-exec"));
    while (x.count == 0) {
        char c;

        sd_event_run(p.event, 10000);
        if (recv(p.fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) == 1) {
            asked++;
            peer_printf(&p, "{\"return\": {\"exited\": false}, \"id\": %lld}\n", peer_expect(&p, "guest-exec-status"));
        }
    }
    assert_int_equal(error_get_code(x.error), ERROR_TIMED_OUT);
    assert_non_null(strstr(error_message(x.error), "process 42"));
    assert_in_range(asked, 1, 6); /* 5, 10, 20, 40 ms apart */
}

static void free_agent(struct qga_client *agent, json_t *result, const struct error *error, void *userdata)
{
    qga_client_freep(userdata);
}

static void test_free_in_callback(void **state)
{
    for (int i = 0; i < 3; i++) {
        _cleanup_peer_ struct peer p;
        struct qga_client *a = agent_open(&p);
        _cleanup_answer_ struct answer x = {0};

        qga_client_call(a, i == 2 ? "guest-shutdown" : "guest-ping", NULL, i == 1 ? 1000 : 0, free_agent, &a);
        qga_client_call(a, "guest-info", NULL, 0, on_answer, &x);
        if (i != 1) {
            answer_sync(&p);
            if (i == 0)
                peer_printf(&p, "{\"return\": {}, \"id\": %lld}\n", peer_expect(&p, "guest-ping"));
        }
        peer_wait(&p, &x.count, 1);
        assert_null(a);
        assert_int_equal(error_get_code(x.error), ERROR_CANCELLED);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sync_and_call),
        cmocka_unit_test(test_garbage_before_sync),
        cmocka_unit_test(test_old_agent),
        cmocka_unit_test(test_no_agent),
        cmocka_unit_test(test_late_answer),
        cmocka_unit_test(test_double_answer),
        cmocka_unit_test(test_slow_to_synchronise),
        cmocka_unit_test(test_bad_answers),
        cmocka_unit_test(test_silent_commands),
        cmocka_unit_test(test_reset_and_end),
        cmocka_unit_test(test_exec),
        cmocka_unit_test(test_exec_deadline),
        cmocka_unit_test(test_free_in_callback),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
