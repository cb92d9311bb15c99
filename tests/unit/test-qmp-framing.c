/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <vmlet/qmp.h>

#include "base/event.h"
#include "base/limits.h"
#include "base/strbuf.h"
#include "qmp/framing.h"

/* What a stream is cut into: "T:text" for texts, "J:line" for junk, "M" for marks, "E:n" for an error that ends it. */
static char *cut(const char *data, size_t length, size_t step, size_t limit, unsigned nesting, bool marks)
{
    struct qmp_framing f;
    struct strbuf out = {0};
    struct qmp_frame frame;
    int r = 0;

    qmp_framing_init(&f, limit, nesting, marks);
    for (size_t i = 0; i < length && r == 0; i += step) {
        size_t n = MIN(step, length - i), size;
        void *room;

        assert_return_code(qmp_framing_reserve(&f, n, &room, &size), 0);
        assert_true(size >= n);
        memcpy(room, data + i, n);
        qmp_framing_commit(&f, n);
        while ((r = qmp_framing_next(&f, &frame)) == 0 && frame.kind != QMP_FRAME_NONE) {
            if (out.length > 0)
                strbuf_add_string(&out, "|");
            strbuf_add_string(&out, frame.kind == QMP_FRAME_TEXT ? "T:" : frame.kind == QMP_FRAME_JUNK ? "J:" : "M");
            strbuf_add(&out, frame.text, frame.length);
            if (frame.long_number)
                strbuf_add_string(&out, "#");
        }
    }
    if (r < 0)
        strbuf_printf(&out, "E:%d", r);
    strbuf_printf(&out, "~%zu", qmp_framing_pending(&f));
    qmp_framing_done(&f);
    return strbuf_steal(&out);
}

static const struct {
    const char *input, *expected;
    bool marks;
} cases[] = {
    {"{\"a\":1}\r\n{\"b\":2}\n", "T:{\"a\":1}|T:{\"b\":2}~0", false},
    {"{\n  \"a\": [\n 1\n ]\n}\n", "T:{\n  \"a\": [\n 1\n ]\n}~0", false},
    {"[]{}", "T:[]|T:{}~0", false},
    {" \t\r\n", "~0", false},
    {"{\"}\\\"{\\\\\":\"[\"}x", "T:{\"}\\\"{\\\\\":\"[\"}~1", false},
    {"garbage\r\n{}", "J:garbage\r|T:{}~0", false},
    {"{\"a\n{}", "J:{\"a|T:{}~0", false},
    {"]\n{}", "J:]|T:{}~0", false},
    {"{\"a\":18446744073709551615}", "T:{\"a\":18446744073709551615}#~0", false},
    {"{\"a\":\"18446744073709551615\"}{\"b\":1}", "T:{\"a\":\"18446744073709551615\"}|T:{\"b\":1}~0", false},
    {"{\"half\": 1\xff{\"a\":1}\n", "M|T:{\"a\":1}~0", true},
    {"\"half string \xff\xff{}", "M|M|T:{}~0", true},
    {"{\"a\":\"\\\xff{}", "M|T:{}~0", true},
    {"{\"a\":\"\xff\"}", "T:{\"a\":\"\xff\"}~0", false},
    {"[[[1]]]", "T:[[[1]]]~0", false},
    {"[[[[1]]]]", "E:-40~4", false},
    {"{\"0123456789012345678901234567890123456789\":1}", "E:-90~46", false},
    {"0123456789012345678901234567890123456789x", "E:-90~41", false},
};

static void test_cases(void **state)
{
    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        for (size_t step = 1; step <= strlen(cases[i].input); step++) {
            char *got = cut(cases[i].input, strlen(cases[i].input), step, 40, 3, cases[i].marks);

            /* With an error the rest depends on the step; without, nothing does. */
            if (strstr(cases[i].expected, "E:"))
                assert_memory_equal(got, cases[i].expected, 5);
            else
                assert_string_equal(got, cases[i].expected);
            free(got);
        }
    }
}

/* 64 MiB in one-byte pieces: linear, or this takes hours. */
static void test_large_bytewise(void **state)
{
    struct qmp_framing f;
    struct qmp_frame frame;
    size_t total = LIMIT_QMP_MESSAGE_BYTES, size;
    void *room;

    qmp_framing_init(&f, total, 128, false);
    for (size_t i = 0; i < total; i++) {
        assert_return_code(qmp_framing_reserve(&f, 1, &room, &size), 0);
        *(char *)room = i == 0 ? '[' : i == 1 || i == total - 2 ? '"' : i == total - 1 ? ']' : 'x';
        qmp_framing_commit(&f, 1);
        assert_return_code(qmp_framing_next(&f, &frame), 0);
        assert_int_equal(frame.kind, i == total - 1 ? QMP_FRAME_TEXT : QMP_FRAME_NONE);
    }
    assert_int_equal(frame.length, total);
    /* What a large message took is given back. */
    assert_return_code(qmp_framing_reserve(&f, 1, &room, &size), 0);
    assert_true(size < 65536);
    qmp_framing_done(&f);
}

/* What is parsed and printed again must be the same. */
static const char *const exact[] = {
    "18446744073709551615",
    "9223372036854775808",
    "9223372036854775807",
    "-9223372036854775808",
    "-9223372036854775809",
    "123456789012345678901234567890",
    "1.0",
    "0.1",
    "1.5e+300",
    "{\"a\": [18446744073709551615, \"18446744073709551615\", -1]}",
    "[\"\xc3\xa9\\n\\\\\\\"\\u0001\", true, false, null, {}, []]",
};

static void test_exact_numbers(void **state)
{
    for (size_t i = 0; i < ELEMENTSOF(exact); i++) {
        json_t *json = NULL, *again = NULL;
        char *text, *pretty;

        assert_return_code(qmp_json_parse(exact[i], strlen(exact[i]), &json, NULL), 0);
        text = qmp_json_dump(json, 0);
        assert_string_equal(text, exact[i]);
        pretty = qmp_json_dump(json, 2);
        assert_return_code(qmp_json_parse(pretty, strlen(pretty), &again, NULL), 0);
        assert_true(json_equal(json, again));
        free(text);
        free(pretty);
        json_decref(json);
        json_decref(again);
    }
}

static void test_uint64(void **state)
{
    uint64_t values[] = {0, 1, INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX}, got;
    json_t *json;

    for (size_t i = 0; i < ELEMENTSOF(values); i++) {
        json = qmp_json_uint64(values[i]);
        assert_true(qmp_json_get_uint64(json, &got));
        assert_true(got == values[i]);
        assert_true(json_is_integer(json) == (values[i] <= INT64_MAX));
        json_decref(json);
    }
    json = json_integer(-1);
    assert_false(qmp_json_get_uint64(json, &got));
    json_decref(json);
    json = json_string("18446744073709551615");
    assert_false(qmp_json_get_uint64(json, &got));
    assert_null(qmp_json_big_number(json));
    json_decref(json);
    assert_return_code(qmp_json_parse("18446744073709551616", 20, &json, NULL), 0);
    assert_false(qmp_json_get_uint64(json, &got));
    assert_string_equal(qmp_json_big_number(json), "18446744073709551616");
    json_decref(json);
}

static const char *const refused[] = {
    "",
    "{",
    "018446744073709551615x",
    "00018446744073709551615",
    "-",
    "[18446744073709551615,]",
    "\"\\u0000n\"",
    "[\"18446744073709551615\\u0000n\", 18446744073709551615]",
    "{\"a\\u0000n\": 18446744073709551615}",
    "--9223372036854775809",
    "+18446744073709551615",
    "1 2",
    "{\"a\":1,\"a\":1}",
    "1e999",
};

static void test_refused(void **state)
{
    char deep[400];

    for (size_t i = 0; i < ELEMENTSOF(refused); i++) {
        json_t *json = NULL;

        if (qmp_json_parse(refused[i], strlen(refused[i]), &json, NULL) >= 0)
            fail_msg("accepted: %s", refused[i]);
    }
    memset(deep, '[', LIMIT_QMP_NESTING + 1);
    memset(deep + LIMIT_QMP_NESTING + 1, ']', LIMIT_QMP_NESTING + 1);
    {
        json_t *json = NULL;

        assert_int_equal(qmp_json_parse(deep, (LIMIT_QMP_NESTING + 1) * 2, &json, NULL), -ELOOP);
        assert_return_code(qmp_json_parse(deep + 1, LIMIT_QMP_NESTING * 2, &json, NULL), 0);
        json_decref(json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),  cmocka_unit_test(test_large_bytewise), cmocka_unit_test(test_exact_numbers),
        cmocka_unit_test(test_uint64), cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
