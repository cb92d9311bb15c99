/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/crdgen/schema.h"

#include <stdio.h>

#include "vmi/tables.h"

/* apimachinery's resource.Quantity, as its own schemas have it. */
#define QUANTITY_PATTERN                                                                                               \
    "^(\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]" \
    "+))))?$"
/* CEL's cost is estimated from what a value can be at most: no string in a rule may be without a limit. */
#define NAME_MAX_LENGTH 253

#define UNIQUE(list) "!has(self." list ") || self." list ".all(x, self." list ".exists_one(y, y.name == x.name))"

/* What admission webhooks check in KubeVirt, and no type can say. By the table's name. */
static const struct rule {
    const char *table, *rule, *message;
} rules[] = {
    {"VirtualMachineSpec", "has(self.running) != has(self.runStrategy)",
     "one of running and runStrategy must be given, and not both (running: true is runStrategy: Always)"},
    {"VirtualMachineInstanceSpec",
     "!has(self.domain.devices) || !has(self.domain.devices.disks) || self.domain.devices.disks.all(d, has(d.cdrom) || "
     "(has(self.volumes) && self.volumes.exists(v, v.name == d.name)))",
     "each of domain.devices.disks must have a volume of the same name in volumes"},
    {"VirtualMachineInstanceSpec",
     "!has(self.domain.devices) || !has(self.domain.devices.interfaces) || self.domain.devices.interfaces.all(i, "
     "has(self.networks) && self.networks.exists(n, n.name == i.name))",
     "each of domain.devices.interfaces must have a network of the same name in networks"},
    {"VirtualMachineInstanceSpec",
     "!has(self.networks) || self.networks.all(n, has(self.domain.devices) && has(self.domain.devices.interfaces) && "
     "self.domain.devices.interfaces.exists(i, i.name == n.name))",
     "each of networks must have an interface of the same name in domain.devices.interfaces"},
    {"VirtualMachineInstanceSpec", UNIQUE("volumes"), "two volumes have the same name"},
    {"VirtualMachineInstanceSpec", UNIQUE("networks"), "two networks have the same name"},
    {"VirtualMachineInstanceSpec", "!has(self.networks) || self.networks.filter(n, has(n.pod)).size() <= 1",
     "only one network can be the pod's own"},
    {"Devices", UNIQUE("disks"), "two disks have the same name"},
    {"Devices", UNIQUE("interfaces"), "two interfaces have the same name"},
    {"Disk", "[has(self.disk), has(self.lun), has(self.cdrom)].filter(x, x).size() <= 1",
     "a disk is one of disk, lun and cdrom"},
    {"Network", "[has(self.pod), has(self.multus), has(self.resourceClaim)].filter(x, x).size() == 1",
     "a network is exactly one of pod, multus and resourceClaim"},
    {"Interface",
     "[has(self.bridge), has(self.masquerade), has(self.slirp), has(self.sriov), has(self.macvtap), has(self.passt), "
     "has(self.passtBinding), has(self.binding)].filter(x, x).size() <= 1",
     "an interface has one binding"},
    {"CloudInitNoCloudSource",
     "[has(self.secretRef), has(self.userData), has(self.userDataBase64)].filter(x, x).size() <= 1",
     "user data comes from one of userData, userDataBase64 and secretRef"},
};

static void add_rule(json_t *schema, const char *rule, const char *message)
{
    json_t *list = json_object_get(schema, "x-kubernetes-validations");

    if (!list) {
        list = json_array();
        json_object_set_new(schema, "x-kubernetes-validations", list);
    }
    json_array_append_new(list, json_pack("{s:s, s:s}", "rule", rule, "message", message));
}

/* Exactly one of a volume's members besides its name: the list is the table's own. */
static void add_volume_rule(json_t *schema, const struct table *table)
{
    char rule[2048];
    int n = snprintf(rule, sizeof(rule), "[");

    for (size_t i = 0; i < table->count; i++)
        if (table->fields[i].type != FIELD_TYPE_STRING && !(table->fields[i].flags & FIELD_OLD))
            n += snprintf(rule + n, sizeof(rule) - (size_t)n, "%shas(self.%s)", n > 1 ? ", " : "",
                          table->fields[i].name);
    snprintf(rule + n, sizeof(rule) - (size_t)n, "].filter(x, x).size() == 1");
    add_rule(schema, rule, "a volume has exactly one source");
}

static json_t *quantity(void)
{
    return json_pack("{s:[{s:s}, {s:s}], s:s, s:b}", "anyOf", "type", "integer", "type", "string", "pattern",
                     QUANTITY_PATTERN, "x-kubernetes-int-or-string", 1);
}

/* "" counts as not given, so it is allowed wherever the field need not be. */
static json_t *text(const struct field *f)
{
    bool required = f->flags & FIELD_REQUIRED;
    json_t *schema = json_pack("{s:s}", "type", "string"), *list;
    char pattern[256];
    int64_t max = f->max;

    if (f->names) {
        list = json_array();
        if (!required)
            json_array_append_new(list, json_string(""));
        for (size_t i = 1; i < f->names->count; i++)
            if (f->names->names[i])
                json_array_append_new(list, json_string(f->names->names[i]));
        json_object_set_new(schema, "enum", list);
        return schema;
    }
    if (f->format) {
        snprintf(pattern, sizeof(pattern), required ? "^(%s)$" : "^(%s)?$", f->format->pattern);
        json_object_set_new(schema, "pattern", json_string(pattern));
        if (max == 0 && f->format == &format_dns_label)
            max = 63;
        if (max == 0 && (f->format == &format_dns_subdomain || f->format == &format_interface_name))
            max = NAME_MAX_LENGTH;
    }
    if (max == 0 && streq(f->name, "name"))
        max = NAME_MAX_LENGTH;
    if (required)
        json_object_set_new(schema, "minLength", json_integer(1));
    if (max > 0)
        json_object_set_new(schema, "maxLength", json_integer(max));
    return schema;
}

static json_t *anything(const char *type)
{
    json_t *schema = json_object();

    if (type)
        json_object_set_new(schema, "type", json_string(type));
    json_object_set_new(schema, "x-kubernetes-preserve-unknown-fields", json_true());
    return schema;
}

static json_t *list_of(json_t *items, int64_t max)
{
    json_t *schema = json_pack("{s:s, s:o}", "type", "array", "items", items);

    if (max > 0)
        json_object_set_new(schema, "maxItems", json_integer(max));
    return schema;
}

static json_t *whole_number(const struct field *f)
{
    json_t *schema = json_pack("{s:s}", "type", "integer");

    if (f->max > INT32_MAX)
        json_object_set_new(schema, "format", json_string("int64"));
    json_object_set_new(schema, "minimum", json_integer(f->min));
    if (f->max < INT64_MAX)
        json_object_set_new(schema, "maximum", json_integer(f->max));
    return schema;
}

static json_t *schema_of_field(const struct field *f, bool partial)
{
    switch (f->type) {
    case FIELD_TYPE_STRING:
    case FIELD_TYPE_ENUM:
        return text(f);
    case FIELD_TYPE_BOOL:
        return json_pack("{s:s}", "type", "boolean");
    case FIELD_TYPE_INT:
        return whole_number(f);
    case FIELD_TYPE_QUANTITY:
        return quantity();
    case FIELD_TYPE_OBJECT:
    case FIELD_TYPE_POINTER:
        /* metadata inside of a template: clients write more than we read there (creationTimestamp: null) */
        if (f->sub == &table_metadata)
            return json_pack("{s:s, s:b, s:b}", "type", "object", "nullable", 1, "x-kubernetes-preserve-unknown-fields",
                             1);
        return schema_of_table(f->sub, partial);
    case FIELD_TYPE_RAW_OBJECT:
        return f->sub ? schema_of_table(f->sub, partial || f->sub == &table_domain) : anything("object");
    case FIELD_TYPE_LIST:
        return list_of(schema_of_table(f->sub, partial), f->max);
    case FIELD_TYPE_RAW_LIST:
        return list_of(f->sub ? schema_of_table(f->sub, partial) : anything(NULL), f->max);
    case FIELD_TYPE_STRING_LIST: {
        struct field item = *f;

        item.flags |= FIELD_REQUIRED; /* an element that is there is not empty */
        return list_of(text(&item), 0);
    }
    case FIELD_TYPE_STRING_MAP:
        return json_pack("{s:s, s:{s:s}}", "type", "object", "additionalProperties", "type", "string");
    case FIELD_TYPE_ANY:
        return anything(NULL);
    case FIELD_TYPE_CUSTOM: /* a list of objects, or resources by name */
        if (f->sub)
            return list_of(schema_of_table(f->sub, partial), f->max);
        return json_pack("{s:s, s:o}", "type", "object", "additionalProperties", quantity());
    }
    return anything(NULL);
}

json_t *schema_of_table(const struct table *table, bool partial)
{
    json_t *schema = json_pack("{s:s}", "type", "object"), *properties = json_object(), *required = json_array();
    char doc[512];

    for (size_t i = 0; i < table->count; i++) {
        const struct field *f = &table->fields[i];
        json_t *property;

        if (f->flags & FIELD_OLD)
            continue;
        property = schema_of_field(f, partial);
        snprintf(doc, sizeof(doc), "%s%s", f->doc,
                 f->flags & FIELD_DEPRECATED  ? " (deprecated)"
                 : f->flags & FIELD_NOT_BUILT ? " (known, not built yet: a VM that sets it does not start)"
                                              : "");
        json_object_set_new(property, "description", json_string(doc));
        json_object_set_new(properties, f->name, property);
        if ((f->flags & FIELD_REQUIRED) && !partial)
            json_array_append_new(required, json_string(f->name));
    }
    if (json_object_size(properties) > 0)
        json_object_set(schema, "properties", properties);
    if (json_array_size(required) > 0)
        json_object_set(schema, "required", required);
    json_decref(properties);
    json_decref(required);
    for (size_t i = 0; i < ELEMENTSOF(rules) && !partial; i++)
        if (streq(rules[i].table, table->name))
            add_rule(schema, rules[i].rule, rules[i].message);
    if (table == &table_volume && !partial)
        add_volume_rule(schema, table);
    return schema;
}
