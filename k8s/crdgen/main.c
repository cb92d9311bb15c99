/* SPDX-License-Identifier: Apache-2.0 */
/* crdgen DIRECTORY: writes crd-NAME.yaml for each kind. What is in k8s/manifests was written by this, and a test
 * compares. */
#include <stdio.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/strbuf.h"
#include "k8s/crdgen/schema.h"
#include "vmi/tables.h"

struct column {
    const char *name, *type, *path, *description;
};

static const struct column vm_columns[] = {{"Age", "date", ".metadata.creationTimestamp", NULL},
                                           {"Status", "string", ".status.printableStatus", "what the VM is doing"},
                                           {"Ready", "string", ".status.conditions[?(@.type=='Ready')].status", NULL},
                                           {NULL, NULL, NULL, NULL}};
/* KubeVirt gives the last two priority 1, so that only `-o wide` prints them. The documents of KubeVirt that people
 * read show all of them for a plain `kubectl get vmi`, and so does this. */
static const struct column vmi_columns[] = {
    {"Age", "date", ".metadata.creationTimestamp", NULL},
    {"Phase", "string", ".status.phase", NULL},
    {"IP", "string", ".status.interfaces[0].ipAddress", NULL},
    {"NodeName", "string", ".status.nodeName", NULL},
    {"Ready", "string", ".status.conditions[?(@.type=='Ready')].status", NULL},
    {"Live-Migratable", "string", ".status.conditions[?(@.type=='LiveMigratable')].status", NULL},
    {"Paused", "string", ".status.conditions[?(@.type=='Paused')].status", NULL},
    {NULL, NULL, NULL, NULL}};
static const struct column replica_set_columns[] = {
    {"Desired", "integer", ".spec.replicas", "number of instances that are wanted"},
    {"Current", "integer", ".status.replicas", "number of instances that there are"},
    {"Ready", "integer", ".status.readyReplicas", "number of instances that are ready"},
    {"Age", "date", ".metadata.creationTimestamp", NULL},
    {NULL, NULL, NULL, NULL}};
static const struct column migration_columns[] = {
    {"Phase", "string", ".status.phase", NULL}, {"VMI", "string", ".spec.vmiName", NULL}, {NULL, NULL, NULL, NULL}};
static const struct column no_columns[] = {{NULL, NULL, NULL, NULL}};

/* Migration has no decode table: nothing reads it yet. */
DEFINE_CHECK_TABLE(table_migration_source, "VirtualMachineInstanceMigrationSource",
                   FIELD_CHECKED("migrationID", FIELD_TYPE_STRING, .flags = FIELD_REQUIRED, .doc = "id of both sides"),
                   FIELD_CHECKED("connectURL", FIELD_TYPE_STRING, .flags = FIELD_REQUIRED, .doc = "the other side"));
DEFINE_CHECK_TABLE(table_migration_target, "VirtualMachineInstanceMigrationTarget",
                   FIELD_CHECKED("migrationID", FIELD_TYPE_STRING, .flags = FIELD_REQUIRED, .doc = "id of both sides"));
DEFINE_CHECK_TABLE(
    table_migration_spec, "VirtualMachineInstanceMigrationSpec",
    FIELD_CHECKED("vmiName", FIELD_TYPE_STRING, .format = &format_dns_subdomain, .doc = "instance that is to move"),
    FIELD_CHECKED("addedNodeSelector", FIELD_TYPE_STRING_MAP, .doc = "labels of the target node"),
    FIELD_CHECKED("sendTo", FIELD_TYPE_RAW_OBJECT, .sub = &table_migration_source, .doc = "to another cluster"),
    FIELD_CHECKED("receive", FIELD_TYPE_RAW_OBJECT, .sub = &table_migration_target, .doc = "from another cluster"),
    FIELD_CHECKED("priority", FIELD_TYPE_STRING, .doc = "place in the queue of migrations"));
DEFINE_CHECK_TABLE(table_migration, "VirtualMachineInstanceMigration",
                   FIELD_CHECKED("apiVersion", FIELD_TYPE_STRING, .doc = "kubevirt.io/v1"),
                   FIELD_CHECKED("kind", FIELD_TYPE_STRING, .doc = "kind of the object"),
                   FIELD_CHECKED("metadata", FIELD_TYPE_RAW_OBJECT, .sub = &table_metadata, .doc = "name and labels"),
                   FIELD_CHECKED("spec", FIELD_TYPE_RAW_OBJECT, .flags = FIELD_REQUIRED, .sub = &table_migration_spec,
                                 .doc = "what is wanted"),
                   FIELD_CHECKED("status", FIELD_TYPE_ANY, .flags = FIELD_SERVER, .doc = "written by the controllers"));

static const struct api {
    const char *group;
    const char *versions[3]; /* the first is the one that is stored */
} kubevirt_api = {"kubevirt.io", {"v1", "v1alpha3"}}, type_api = {"instancetype.kubevirt.io", {"v1beta1", "v1"}};

static const struct kind {
    const struct table *table;
    const struct api *api;
    const char *plural, *singular, *short_names[3];
    const struct column *columns;
    bool status, scale, immutable;
    bool is_cluster_wide;
} kinds[] = {
    {&table_vm, &kubevirt_api, "virtualmachines", "virtualmachine", {"vm", "vms"}, vm_columns, .status = true},
    {&table_vmi,
     &kubevirt_api,
     "virtualmachineinstances",
     "virtualmachineinstance",
     {"vmi", "vmis"},
     vmi_columns,
     .status = true},
    {&table_replica_set,
     &kubevirt_api,
     "virtualmachineinstancereplicasets",
     "virtualmachineinstancereplicaset",
     {"vmirs", "vmirss"},
     replica_set_columns,
     .status = true,
     .scale = true},
    {&table_preset,
     &kubevirt_api,
     "virtualmachineinstancepresets",
     "virtualmachineinstancepreset",
     {"vmipreset", "vmipresets"},
     no_columns,
     .status = false},
    {&table_migration,
     &kubevirt_api,
     "virtualmachineinstancemigrations",
     "virtualmachineinstancemigration",
     {"vmim", "vmims"},
     migration_columns,
     .status = true,
     .immutable = true},
    {&table_instancetype,
     &type_api,
     "virtualmachineinstancetypes",
     "virtualmachineinstancetype",
     {"vminstancetype", "vmf"},
     no_columns,
     .status = false},
    {&table_cluster_instancetype,
     &type_api,
     "virtualmachineclusterinstancetypes",
     "virtualmachineclusterinstancetype",
     {"vmclusterinstancetype", "vmcf"},
     no_columns,
     .status = false,
     .is_cluster_wide = true},
    {&table_preference,
     &type_api,
     "virtualmachinepreferences",
     "virtualmachinepreference",
     {"vmpref", "vmp"},
     no_columns,
     .status = false},
    {&table_cluster_preference,
     &type_api,
     "virtualmachineclusterpreferences",
     "virtualmachineclusterpreference",
     {"vmcp"},
     no_columns,
     .status = false,
     .is_cluster_wide = true},
};

static json_t *columns_of(const struct column *c)
{
    json_t *list = json_array();

    for (; c->name; c++) {
        json_t *column = json_pack("{s:s, s:s, s:s, s:s*}", "name", c->name, "type", c->type, "jsonPath", c->path,
                                   "description", c->description);

        json_array_append_new(list, column);
    }
    return list;
}

static json_t *schema_of(const struct kind *k)
{
    json_t *schema = schema_of_table(k->table, false), *properties = json_object_get(schema, "properties");
    json_t *spec = json_object_get(properties, "spec");

    /* the API server has its own schema of an object's metadata */
    json_object_set_new(properties, "metadata", json_pack("{s:s}", "type", "object"));
    if (k->api == &kubevirt_api)
        json_object_set_new(properties, "status",
                            json_pack("{s:s, s:s, s:b}", "type", "object", "description", "written by the controllers",
                                      "x-kubernetes-preserve-unknown-fields", 1));
    if (k->scale) {
        json_t *replicas = json_object_get(json_object_get(spec, "properties"), "replicas");

        json_object_set_new(replicas, "default", json_integer(1));
        json_object_set_new(replicas, "format", json_string("int32"));
    }
    if (k->immutable)
        json_object_set_new(spec, "x-kubernetes-validations",
                            json_pack("[{s:s, s:s}]", "rule", "self == oldSelf", "message",
                                      "a migration cannot be changed: delete it and make another one"));
    return schema;
}

static json_t *version_of(const struct kind *k, const char *name, bool storage)
{
    json_t *version = json_pack("{s:s, s:b, s:b}", "name", name, "served", 1, "storage", storage);
    json_t *subresources = json_object();

    if (k->status)
        json_object_set_new(subresources, "status", json_object());
    if (k->scale)
        json_object_set_new(subresources, "scale",
                            json_pack("{s:s, s:s, s:s}", "specReplicasPath", ".spec.replicas", "statusReplicasPath",
                                      ".status.replicas", "labelSelectorPath", ".status.labelSelector"));
    if (json_object_size(subresources) > 0)
        json_object_set(version, "subresources", subresources);
    json_decref(subresources);
    if (k->columns->name)
        json_object_set_new(version, "additionalPrinterColumns", columns_of(k->columns));
    json_object_set_new(version, "schema", json_pack("{s:o}", "openAPIV3Schema", schema_of(k)));
    return version;
}

static json_t *crd_of(const struct kind *k)
{
    json_t *versions = json_array(), *names, *short_names = json_array();
    char name[128];

    for (size_t i = 0; k->short_names[i]; i++)
        json_array_append_new(short_names, json_string(k->short_names[i]));
    for (size_t i = 0; k->api->versions[i]; i++)
        json_array_append_new(versions, version_of(k, k->api->versions[i], i == 0));
    names = json_pack("{s:s, s:s, s:s, s:o, s:[s]}", "plural", k->plural, "singular", k->singular, "kind",
                      k->table->name, "shortNames", short_names, "categories", "all");
    snprintf(name, sizeof(name), "%s.%s", k->plural, k->api->group);
    return json_pack("{s:s, s:s, s:{s:s}, s:{s:s, s:s, s:o, s:o}}", "apiVersion", "apiextensions.k8s.io/v1", "kind",
                     "CustomResourceDefinition", "metadata", "name", name, "spec", "group", k->api->group, "scope",
                     k->is_cluster_wide ? "Cluster" : "Namespaced", "names", names, "versions", versions);
}

/* ---- YAML ------------------------------------------------------------------------------------------------------- */

static bool is_plain(const char *text)
{
    return *text && strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") == strlen(text) &&
           text[0] != '-' && strspn(text, "0123456789") == 0 && !streq(text, "true") && !streq(text, "false") &&
           !streq(text, "null") && !streq(text, "y") && !streq(text, "n");
}

static void write_yaml(struct strbuf *b, const json_t *value, int indent);

static void write_member(struct strbuf *b, const json_t *value, int indent)
{
    size_t n = json_is_object(value) ? json_object_size(value) : json_array_size(value);

    if ((json_is_object(value) || json_is_array(value)) && n > 0) {
        strbuf_add_string(b, "\n");
        write_yaml(b, value, indent);
    } else {
        strbuf_add_string(b, " ");
        write_yaml(b, value, 0);
    }
}

/* A mapping behind "- ", its first key on the same line; all else on lines of its own. */
static void write_yaml(struct strbuf *b, const json_t *value, int indent)
{
    const char *key;
    json_t *member;
    size_t i;

    if (json_is_object(value) && json_object_size(value) > 0) {
        json_object_foreach ((json_t *)(uintptr_t)value, key, member) {
            strbuf_printf(b, "%*s", indent, "");
            strbuf_add_string(b, key);
            strbuf_add_string(b, ":");
            write_member(b, member, json_is_array(member) ? indent : indent + 2);
        }
    } else if (json_is_array(value) && json_array_size(value) > 0) {
        json_array_foreach (value, i, member) {
            size_t start = b->length + (size_t)indent;

            if (json_is_object(member) && json_object_size(member) > 0) {
                write_yaml(b, member, indent + 2);
                b->data[start] = '-';
            } else {
                strbuf_printf(b, "%*s-", indent, "");
                write_member(b, member, indent + 2);
            }
        }
    } else {
        if (json_is_string(value) && is_plain(json_string_value(value)))
            strbuf_add_string(b, json_string_value(value));
        else {
            char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);

            strbuf_add_string(b, text ? text : "");
            free(text);
        }
        strbuf_add_string(b, "\n");
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: crdgen DIRECTORY\n");
        return EXIT_BAD_INPUT;
    }
    for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
        _cleanup_(strbuf_done) struct strbuf b = {0};
        _cleanup_error_ struct error *error = NULL;
        json_t *crd = crd_of(&kinds[i]);
        char path[4096];

        strbuf_add_string(&b,
                          "# SPDX-License-Identifier: Apache-2.0\n# Written by k8s/crdgen from the tables in src/vmi: "
                          "change those, then run ./dev crds.\n");
        write_yaml(&b, crd, 0);
        json_decref(crd);
        snprintf(path, sizeof(path), "%s/crd-%s.yaml", argv[1], kinds[i].singular);
        if (b.failed || file_write_atomic(path, b.data, b.length, 0644, &error) < 0) {
            fprintf(stderr, "crdgen: %s\n", error ? error_message(error) : "out of memory");
            return EXIT_FAILED;
        }
    }
    return EXIT_OK;
}
