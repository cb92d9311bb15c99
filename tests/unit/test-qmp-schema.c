/* SPDX-License-Identifier: Apache-2.0 */
/* The schema's index over a recorded schema of QEMU 7.2, and what counts as read-only. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <vmlet/qmp.h>

#include "base/error.h"
#include "base/util.h"

static struct qmp_schema *schema;

static int load(void **state)
{
    _cleanup_error_ struct error *error = NULL;

    if (qmp_schema_load(TEST_DATA "/qmp-schema-7.2.json", &schema, &error) < 0) {
        print_message("%s\n", error_message(error));
        return -1;
    }
    return 0;
}

static int unload(void **state)
{
    qmp_schema_freep(&schema);
    return 0;
}

static void test_walk(void **state)
{
    json_t *tag = json_pack("{s:s}", "driver", "qcow2"), *list;

    assert_true(qmp_schema_has_command(schema, "blockdev-add"));
    assert_false(qmp_schema_has_command(schema, "STOP"));
    assert_true(qmp_schema_has_event(schema, "STOP"));
    assert_true(qmp_schema_has_argument(schema, "blockdev-add", "node-name"));
    assert_true(qmp_schema_has_argument(schema, "blockdev-add", "file.filename"));
    assert_true(qmp_schema_has_argument(schema, "transaction", "actions.data.node"));
    assert_false(qmp_schema_has_argument(schema, "blockdev-add", "file.nothing"));
    assert_true(qmp_schema_has_value(schema, "blockdev-add", "driver", "qcow2"));
    assert_false(qmp_schema_has_value(schema, "blockdev-add", "driver", "floppy9"));
    assert_string_equal(qmp_schema_type(schema, "block_resize", "size", NULL), "int");
    assert_string_equal(qmp_schema_type(schema, "block_resize", "device", NULL), "string");
    assert_string_equal(qmp_schema_type(schema, "blockdev-add", "read-only", NULL), "boolean");
    assert_null(qmp_schema_type(schema, "block_resize", "color", NULL));
    /* The variant is chosen by the tag. */
    assert_string_equal(qmp_schema_type(schema, "blockdev-add", "lazy-refcounts", tag), "boolean");
    json_object_set_new(tag, "driver", json_string("raw"));
    assert_null(qmp_schema_type(schema, "blockdev-add", "lazy-refcounts", tag));
    list = qmp_schema_members(schema, "blockdev-add", "", tag);
    assert_true(json_array_size(list) > 5 && json_array_size(list) < 20);
    json_decref(list);
    json_decref(tag);
    list = qmp_schema_list(schema, "command");
    assert_true(json_array_size(list) > 200);
    json_decref(list);
}

static const struct {
    const char *command, *arguments, *fault; /* NULL: fine */
} checks[] = {
    {"query-status", NULL, NULL},
    {"query-status", "{}", NULL},
    {"query-status", "{\"x\": 1}", "x: is not known (known: none)"},
    {"no-such", "{}", "no such command"},
    {"block_resize", "{\"device\": \"a\", \"size\": 1}", NULL},
    {"block_resize", "{\"device\": \"a\", \"size\": 18446744073709551615}", NULL},
    {"block_resize", "{\"device\": 3}", "device: must be of type string\nsize: is missing (int)"},
    {"block_resize", "{\"size\": \"1\", \"sise\": 2}", "sise: is not known"},
    {"blockdev-add", "{\"driver\": \"raw\", \"file\": \"n0\", \"node-name\": \"x\"}", NULL},
    {"blockdev-add", "{\"driver\": \"raw\", \"file\": {\"driver\": \"file\", \"filename\": \"/x\"}}", NULL},
    {"blockdev-add", "{\"driver\": \"raw\", \"file\": {\"driver\": \"file\", \"filenam\": \"/x\"}}",
     "file.filename: is missing"},
    {"blockdev-add", "{\"driver\": \"rew\"}", "driver: \"rew\" is not one of: "},
    {"blockdev-add", "{}", "driver: is missing (enum)"},
    {"device_add", "{\"driver\": \"e1000\", \"id\": \"net1\", \"mac\": \"52:54:00:12:34:56\"}", NULL},
    {"device_add", "{\"id\": 1, \"mac\": \"x\"}", "driver: is missing (string)\nid: must be of type string"},
    {"set-numa-node", "{\"type\": \"node\", \"nodeid\": true}", "nodeid: must be of type int"},
    {"migrate-set-capabilities", "{\"capabilities\": [{\"capability\": \"xbzrle\", \"state\": 1}]}",
     "capabilities[0].state: must be of type boolean"},
};

static void test_check(void **state)
{
    for (size_t i = 0; i < ELEMENTSOF(checks); i++) {
        _cleanup_error_ struct error *error = NULL;
        json_t *arguments = NULL;
        int r;

        if (checks[i].arguments)
            assert_return_code(qmp_json_parse(checks[i].arguments, strlen(checks[i].arguments), &arguments, NULL), 0);
        r = qmp_schema_check(schema, checks[i].command, arguments, &error);
        if (checks[i].fault ? r >= 0 || !strstr(error_message(error), checks[i].fault) : r < 0)
            fail_msg("%s %s: %s", checks[i].command, checks[i].arguments, r < 0 ? error_message(error) : "accepted");
        json_decref(arguments);
    }
}

static void test_help(void **state)
{
    char *help = qmp_schema_help(schema, "block_resize");

    assert_non_null(strstr(help, "[device]: string"));
    assert_non_null(strstr(help, "size: int"));
    free(help);
    help = qmp_schema_help(schema, "query-status");
    assert_non_null(strstr(help, "(read-only)"));
    assert_non_null(strstr(help, "running: boolean"));
    free(help);
    assert_null(qmp_schema_help(schema, "nothing"));
}

/* A broken schema is refused or walked without harm. */
static void test_broken(void **state)
{
    static const char *const texts[] = {
        "[]",
        "{}",
        "[1]",
        "[{\"name\": \"x\"}]",
    };
    static const char loop[] =
        "[{\"name\": \"c\", \"meta-type\": \"command\", \"arg-type\": \"0\", \"ret-type\": \"1\"},"
        " {\"name\": \"0\", \"meta-type\": \"array\", \"element-type\": \"0\"},"
        " {\"name\": \"1\", \"meta-type\": \"object\", \"members\": [{\"name\": \"a\", \"type\": "
        "\"1\"}, {\"name\": 3}, {\"name\": \"b\", \"type\": \"nowhere\"}]}]";
    struct qmp_schema *s = NULL;
    json_t *json;
    char *help;

    for (size_t i = 0; i < ELEMENTSOF(texts); i++) {
        assert_return_code(qmp_json_parse(texts[i], strlen(texts[i]), &json, NULL), 0);
        assert_true(qmp_schema_new(json, &s, NULL) < 0);
        json_decref(json);
    }
    assert_return_code(qmp_json_parse(loop, strlen(loop), &json, NULL), 0);
    assert_return_code(qmp_schema_new(json, &s, NULL), 0);
    json_decref(json);
    assert_false(qmp_schema_has_argument(s, "c", "a.b.c"));
    help = qmp_schema_help(s, "c");
    assert_non_null(strstr(help, "a: object"));
    free(help);
    qmp_schema_freep(&s);
}

static const struct {
    const char *command, *key, *value;
    bool read_only;
} read_only[] = {
    {"query-block", NULL, NULL, true},
    {"qom-get", "path", "/machine", true},
    {"qom-set", "path", "/machine", false},
    {"stop", NULL, NULL, false},
    {"quit", NULL, NULL, false},
    {"human-monitor-command", "command-line", "info mtree -f", true},
    {"human-monitor-command", "command-line", "info", true},
    {"human-monitor-command", "command-line", "info\nquit", false},
    {"human-monitor-command", "command-line", "information", false},
    {"human-monitor-command", "command-line", "quit", false},
    {"human-monitor-command", NULL, NULL, false},
    {"device-list-properties", "typename", "virtio-blk-pci", true},
    {"device-list-properties", "typename", "virtio-gpu-gl-device", false},
    {"device-list-properties", NULL, NULL, false},
    {"screendump", NULL, NULL, false},
    {"dump-guest-memory", NULL, NULL, false},
    {"transaction", NULL, NULL, false},
};

static void test_read_only(void **state)
{
    for (size_t i = 0; i < ELEMENTSOF(read_only); i++) {
        json_t *arguments = read_only[i].key ? json_pack("{s:s}", read_only[i].key, read_only[i].value) : json_object();

        if (qmp_command_is_read_only(read_only[i].command, arguments) != read_only[i].read_only)
            fail_msg("%s %s", read_only[i].command, read_only[i].value);
        json_decref(arguments);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_walk),   cmocka_unit_test(test_check),     cmocka_unit_test(test_help),
        cmocka_unit_test(test_broken), cmocka_unit_test(test_read_only),
    };

    return cmocka_run_group_tests(tests, load, unload);
}
