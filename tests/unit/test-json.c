/* SPDX-License-Identifier: Apache-2.0 */
/* Parsers, quantities and decode tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/limits.h"
#include "base/nearest.h"
#include "base/strbuf.h"
#include "json/decode.h"
#include "json/node.h"
#include "json/quantity.h"
#include "json/scalar.h"

struct parsed {
    struct arena *arena;
    struct document_list documents;
    struct faults faults;
    int r;
};

static void parsed_done(struct parsed *p)
{
    faults_done(&p->faults);
    arena_free(p->arena);
}

#define _cleanup_parsed_ _cleanup_(parsed_done)

static struct parsed parse_n(const char *text, size_t length)
{
    struct parsed p = {.arena = arena_new()};

    p.r = node_parse(p.arena, "t", text, length, &p.documents, &p.faults, NULL);
    return p;
}

static struct parsed parse(const char *text)
{
    return parse_n(text, strlen(text));
}

static void assert_fault(const char *text, size_t length, const char *expected)
{
    _cleanup_parsed_ struct parsed p = parse_n(text, length);
    _cleanup_free_ char *got = NULL;

    assert_int_equal(p.r, -EINVAL);
    got = faults_format(&p.faults);
    assert_string_equal(got, expected);
}

#define FAULT(text, expected) assert_fault(text, sizeof(text) - 1, expected)

static const struct node *at(const struct node *n, const char *path)
{
    char copy[128], *rest = copy;

    snprintf(copy, sizeof(copy), "%s", path);
    for (char *key; (key = strsep(&rest, "/"));) {
        if (n->kind == NODE_SEQUENCE) {
            long i = strtol(key, NULL, 10);

            for (n = n->first; n && i-- > 0;)
                n = n->next;
        } else {
            n = node_get(n, key);
        }
        assert_non_null(n);
    }
    return n;
}

static void test_yaml_places(void **state)
{
    _cleanup_parsed_ struct parsed p = parse("a:\n  b: [1, two]\n  \"c.d\": |\n    text\n---\n---\nx: ~\n");
    const struct node *two = at(p.documents.items[0], "a/b/1");

    assert_int_equal(p.r, 0);
    assert_int_equal(p.documents.count, 2);
    assert_int_equal(two->line, 2);
    assert_int_equal(two->column, 10);
    assert_string_equal(node_path(p.arena, two), "a.b[1]");
    assert_string_equal(node_path(p.arena, at(p.documents.items[0], "a/c.d")), "a[c.d]");
    assert_true(at(p.documents.items[0], "a/c.d")->quoted);
    assert_string_equal(at(p.documents.items[0], "a/c.d")->text, "text\n");
    assert_int_equal(at(p.documents.items[1], "x")->kind, NODE_NULL);
}

static void test_yaml_aliases(void **state)
{
    _cleanup_parsed_ struct parsed p = parse("base: &b {x: 1, y: 2}\n"
                                             "copy: *b\n"
                                             "merged: {<<: *b, y: 3, z: 4}\n"
                                             "list: {<<: [{q: 1}, {q: 2, r: 3}]}\n");
    const struct node *root = p.documents.items[0];

    assert_int_equal(p.r, 0);
    assert_string_equal(at(root, "copy/y")->text, "2");
    assert_string_equal(node_path(p.arena, at(root, "copy/y")), "copy.y");
    assert_string_equal(at(root, "merged/y")->text, "3");
    assert_string_equal(at(root, "merged/x")->text, "1");
    assert_int_equal(at(root, "merged")->count, 3);
    assert_string_equal(at(root, "list/q")->text, "1");
    assert_string_equal(at(root, "list/r")->text, "3");
}

static void test_yaml_faults(void **state)
{
    FAULT("a: [1, 2\n",
          "t:2:1: did not find expected ',' or ']' while parsing a flow sequence that starts in line 1 (the file ends "
          "too early)\n");
    FAULT("a: 1\nb: \xff\xfe\n", "t:2:4: the byte 0xff is not UTF-8 (the file must be UTF-8)\n");
    FAULT("a: 1\0b", "t:1:5: a NUL byte: the file is not text, or is UTF-16 (must be UTF-8)\n");
    FAULT("a:\n\tb: 1\n",
          "t:2:1: found character that cannot start any token while scanning for the next token (a tab: YAML is "
          "indented by spaces only)\n");
    FAULT("a: 1\nb: 2\na: 3\n", "t:3:1: a: this key is already given in line 1\n");
    FAULT("a: !!python/object:os.system x\n",
          "t:1:4: the tag tag:yaml.org,2002:python/object:os.system has no meaning in a manifest\n");
    FAULT("a: *none\n", "t:1:4: the alias *none has no anchor &none above it\n");
    FAULT("a: &x [*x]\n", "t:1:8: the alias *x stands inside of what it means\n");
    FAULT("? [1, 2]\n: x\n", "t:1:3: the key of a mapping must be a plain text\n");
    FAULT("a: \"x\\0y\"\n", "t:1:4: the text has a NUL character in it\n");
    FAULT("a: {<<: 7}\n", "t:1:9: the merge key << must have a mapping, or a list of mappings\n");
}

static void test_limits(void **state)
{
    _cleanup_(strbuf_done) struct strbuf laughs = {0}, deep = {0}, large = {0};
    char expected[128];

    strbuf_add_string(&laughs, "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for (int i = 1; i < 10; i++) {
        strbuf_printf(&laughs, "a%d: &a%d [", i, i);
        for (int k = 0; k < 10; k++)
            strbuf_printf(&laughs, "*a%d%s", i - 1, k < 9 ? "," : "]\n");
    }
    {
        _cleanup_parsed_ struct parsed p = parse(laughs.data);

        assert_int_equal(p.r, -EINVAL);
        assert_int_equal(p.faults.count, 1);
        assert_non_null(strstr(p.faults.items[0].message, "too large once its aliases are expanded"));
    }
    strbuf_add_string(&deep, "a: ");
    for (int i = 0; i < 100000; i++)
        strbuf_add_string(&deep, "[");
    snprintf(expected, sizeof(expected), "t:1:68: is nested too deep (at most %u levels)\n", LIMIT_MANIFEST_DEPTH);
    assert_fault(deep.data, deep.length, expected);
    while (large.length <= 10U * 1024 * 1024)
        strbuf_add_string(&large, "# a comment that fills the file\n");
    snprintf(expected, sizeof(expected), "t: is %zu bytes long (at most %u)\n", large.length, LIMIT_MANIFEST_BYTES);
    assert_fault(large.data, large.length, expected);
}

static void test_json(void **state)
{
    _cleanup_parsed_ struct parsed p =
        parse("{\"a\": \"\\ud83d\\ude00 \\u00e9\\n\\\"\",\n \"b\": [1.5, true, null, {}],\n"
              "  \"\xc3\xa4\": 12345678901234567890}");
    _cleanup_parsed_ struct parsed flow = parse("{a: 1, b: [x, y,]}");
    const struct node *root;

    assert_int_equal(p.r, -EINVAL); /* larger than any number here may be */
    assert_string_equal(p.faults.items[0].message, "is not valid JSON: too big integer near '12345678901234567890'");
    parsed_done(&p);
    p = parse("{\"a\": \"\\ud83d\\ude00 \\u00e9\\n\\\"\",\n \"b\": [1.5, true, null, {}],\n  \"\xc3\xa4\": 12}");
    assert_int_equal(p.r, 0);
    root = p.documents.items[0];
    assert_string_equal(at(root, "a")->text, "\xf0\x9f\x98\x80 \xc3\xa9\n\"");
    assert_true(at(root, "a")->quoted);
    assert_string_equal(at(root, "b/0")->text, "1.5");
    assert_int_equal(at(root, "b/1")->line, 2);
    assert_int_equal(at(root, "b/1")->column, 13);
    assert_int_equal(at(root, "b/2")->kind, NODE_NULL);
    assert_int_equal(at(root, "\xc3\xa4")->column, 8);
    assert_int_equal(flow.r, 0); /* no JSON, but YAML */
    assert_string_equal(at(flow.documents.items[0], "b/1")->text, "y");
    FAULT("{\"a\": 1, \"b\": 2,\n \"a\": 3}", "t:2:2: a: this key is already given in line 1\n");
    FAULT("{\"a\": [1, 2", "t:1:11: is not valid JSON: ']' expected near end of file (the file ends too early)\n");
    FAULT("{\"a\": \"\\ud800\"}", "t:1:14: is not valid JSON: invalid Unicode '\\uD800' near '\"\\ud800\"'\n");
}

static void test_json_round(void **state)
{
    const char *text = "{\"a\":[1,2.5,true,null,\"x\",{\"b\":-3}]}";
    _cleanup_parsed_ struct parsed p = parse(text);
    json_t *json = node_to_json(p.documents.items[0]), *again;
    struct node *node = NULL;
    char *dump = json_dumps(json, JSON_COMPACT);

    assert_string_equal(dump, text);
    assert_int_equal(node_from_json(p.arena, json, &node), 0);
    again = node_to_json(node);
    assert_true(json_equal(json, again));
    free(dump);
    json_decref(json);
    json_decref(again);
}

static void test_scalars(void **state)
{
    static const struct {
        const char *text;
        enum scalar_type type;
        int64_t value;
    } cases[] = {
        {"yes", SCALAR_BOOL, 1},
        {"Off", SCALAR_BOOL, 0},
        {"y", SCALAR_STRING, 0},
        {"0x1F", SCALAR_INT, 31},
        {"017", SCALAR_INT, 15},
        {"0o17", SCALAR_INT, 15},
        {"0b101", SCALAR_INT, 5},
        {"1_000", SCALAR_INT, 1000},
        {"-7", SCALAR_INT, -7},
        {"1.5", SCALAR_FLOAT, 0},
        {"1e3", SCALAR_FLOAT, 1000},
        {"4.0", SCALAR_FLOAT, 4},
        {".inf", SCALAR_FLOAT, 0},
        {"02:00:00:00:00:01", SCALAR_STRING, 0},
        {"2024-10-28", SCALAR_STRING, 0},
        {"1.2.3", SCALAR_STRING, 0},
        {"0xg", SCALAR_STRING, 0},
        {"-", SCALAR_STRING, 0},
        {"9223372036854775807", SCALAR_INT, INT64_MAX},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct node n = {.kind = NODE_SCALAR, .text = cases[i].text, .length = strlen(cases[i].text)};
        int64_t value = 0;
        bool b = false;

        assert_int_equal(scalar_type(&n), cases[i].type);
        if (cases[i].type == SCALAR_BOOL)
            assert_true(scalar_bool(&n, &b) && b == (cases[i].value == 1));
        else if (scalar_int(&n, &value))
            assert_int_equal(value, cases[i].value);
        n.quoted = true;
        assert_int_equal(scalar_type(&n), SCALAR_STRING);
    }
}

static void test_quantities(void **state)
{
    static const struct {
        const char *text;
        int64_t value, milli;
    } good[] = {
        {"0", 0, 0},
        {"1", 1, 1000},
        {"100m", 1, 100},
        {"1500m", 2, 1500},
        {"-1500m", -2, -1500},
        {"1n", 1, 1},
        {"1u", 1, 1},
        {"1k", 1000, 1000000},
        {"1Ki", 1024, 1024000},
        {"1.5Gi", 1610612736, 1610612736000},
        {"4G", 4000000000, 4000000000000},
        {"1e3", 1000, 1000000},
        {"1E3", 1000, 1000000},
        {"1E-3", 1, 1},
        {"1E", 1000000000000000000, INT64_MAX},
        {"7Ei", 8070450532247928832, INT64_MAX},
        {".5", 1, 500},
        {"5.", 5, 5000},
        {"0.1Ki", 103, 102400},
        {"9223372036854775807", INT64_MAX, INT64_MAX},
        {"0.0000000000000000000000000000000000000000001", 1, 1},
        {"+12Mi", 12582912, 12582912000},
        {"0e999999999", 0, 0},
    };
    static const struct {
        const char *text;
        int error;
    } bad[] = {
        {"", -EINVAL},
        {"Gi", -EINVAL},
        {"1K", -EINVAL},
        {"1GB", -EINVAL},
        {"1 Gi", -EINVAL},
        {"1.2.3", -EINVAL},
        {"--1", -EINVAL},
        {"1e", -EINVAL},
        {"1e+", -EINVAL},
        {"0x10", -EINVAL},
        {"8Ei", -ERANGE},
        {"1e19", -ERANGE},
        {"9223372036854775808", -ERANGE},
        {"1e99999999999", -ERANGE},
        {"9223372036854775807.1", -ERANGE},
        {"NaN", -EINVAL},
    };
    struct quantity q;
    const char *reason = NULL;

    for (size_t i = 0; i < ELEMENTSOF(good); i++) {
        assert_int_equal(quantity_parse(good[i].text, &q, &reason), 0);
        assert_true(q.is_set);
        assert_int_equal(q.value, good[i].value);
        assert_int_equal(q.milli, good[i].milli);
    }
    for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
        reason = NULL;
        assert_int_equal(quantity_parse(bad[i].text, &q, &reason), bad[i].error);
        assert_non_null(reason);
    }
}

static void test_nearest(void **state)
{
    static const char *const names[] = {"bootOrder", "disk", "cdrom", NULL, "dedicatedIOThread"};

    assert_string_equal(nearest_of("bootorder", names, ELEMENTSOF(names)), "bootOrder");
    assert_string_equal(nearest_of("botoOrder", names, ELEMENTSOF(names)), "bootOrder");
    assert_string_equal(nearest_of("cdrm", names, ELEMENTSOF(names)), "cdrom");
    assert_null(nearest_of("firmware", names, ELEMENTSOF(names)));
    assert_null(nearest_of("", names, ELEMENTSOF(names)));
}

static void test_faults(void **state)
{
    struct faults faults = {.source = "f.yaml"};
    _cleanup_free_ char *text = NULL;

    faults_add_at(&faults, 3, 1, "b", "second\nline");
    faults_add_at(&faults, 1, 2, "", "first");
    faults_add_at(&faults, 0, 0, "", "of the file");
    text = faults_format(&faults);
    assert_string_equal(text, "f.yaml: of the file\nf.yaml:1:2: first\nf.yaml:3:1: b: second\\nline\n");
    for (unsigned i = 0; i < 2 * LIMIT_MANIFEST_FAULTS; i++)
        faults_add_at(&faults, 9, 9, "", "more");
    assert_int_equal(faults.count, LIMIT_MANIFEST_FAULTS);
    assert_int_equal(faults.dropped, LIMIT_MANIFEST_FAULTS + 3);
    faults_done(&faults);
    {
        char *large = malloc(100001);

        assert_non_null(large);
        memset(large, 'x', 100000);
        large[100000] = '\0';
        faults_add_at(&faults, 1, 1, large, "%.2s %s", "a\xc3\xa4", large);
        assert_true(strlen(faults.items[0].path) < 1010 && strlen(faults.items[0].message) < 1010);
        assert_memory_equal(faults.items[0].message, "a xx", 4);
        faults_done(&faults);
        free(large);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_yaml_places), cmocka_unit_test(test_yaml_aliases), cmocka_unit_test(test_yaml_faults),
        cmocka_unit_test(test_limits),      cmocka_unit_test(test_json),         cmocka_unit_test(test_json_round),
        cmocka_unit_test(test_scalars),     cmocka_unit_test(test_quantities),   cmocka_unit_test(test_nearest),
        cmocka_unit_test(test_faults),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
