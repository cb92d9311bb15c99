/* SPDX-License-Identifier: Apache-2.0 */
#include "json/decode.h"

#include <inttypes.h>

#include "base/limits.h"
#include "base/nearest.h"
#include "base/strbuf.h"
#include "json/quantity.h"
#include "json/scalar.h"

#include "vmlet-config.h"

/* How much of a text is quoted in a message. */
#define QUOTED 48

struct any_list {
    void *items;
    size_t count;
};

static void *allocate(struct decoder *d, size_t size)
{
    void *p = arena_alloc(d->arena, size);

    if (!p)
        d->out_of_memory = true;
    return p;
}

bool node_is_empty(const struct node *node)
{
    bool b;

    if (node->kind == NODE_NULL)
        return true;
    if (node->kind == NODE_SCALAR)
        return node->quoted ? node->length == 0 : scalar_bool(node, &b) && !b;
    return node->count == 0;
}

bool decode_is_object(struct decoder *d, const struct node *node)
{
    if (node->kind == NODE_MAPPING)
        return true;
    faults_add(d->faults, node, "is %s, must be an object", node_describe(node));
    return false;
}

static bool is_list(struct decoder *d, const struct node *node)
{
    if (node->kind == NODE_SEQUENCE)
        return true;
    faults_add(d->faults, node, "is %s, must be a list", node_describe(node));
    return false;
}

bool decode_string(struct decoder *d, const struct node *node, const char **ret)
{
    if (node->kind != NODE_SCALAR) {
        faults_add(d->faults, node, "is %s, must be a string", node_describe(node));
        return false;
    }
    if (scalar_type(node) != SCALAR_STRING) {
        faults_add(d->faults, node, "is %s, must be a string: put it in quotes, \"%.*s\"", node_describe(node), QUOTED,
                   node->text);
        return false;
    }
    *ret = node->text;
    return true;
}

static void decode_bool(struct decoder *d, const struct node *node, enum opt_bool *ret)
{
    bool value;

    if (node->kind == NODE_SCALAR && scalar_bool(node, &value))
        *ret = value ? OPT_TRUE : OPT_FALSE;
    else if (node->kind == NODE_SCALAR && node->quoted)
        faults_add(d->faults, node, "is a string, must be true or false without quotes");
    else
        faults_add(d->faults, node, "is %s, must be true or false", node_describe(node));
}

static void decode_int(struct decoder *d, const struct field *f, const struct node *node, struct opt_int *ret)
{
    enum scalar_type type = node->kind == NODE_SCALAR ? scalar_type(node) : SCALAR_NULL;
    int64_t value;

    if (type != SCALAR_INT && type != SCALAR_FLOAT) {
        bool number = type == SCALAR_STRING && node->length > 0 && strspn(node->text, "0123456789") == node->length;

        faults_add(d->faults, node, "is %s, must be a number%s", node_describe(node), number ? " without quotes" : "");
        return;
    }
    if (!scalar_int(node, &value)) {
        if (type == SCALAR_FLOAT)
            faults_add(d->faults, node, "%.*s is not a whole number", QUOTED, node->text);
        else
            faults_add(d->faults, node, "%.*s is out of range (%" PRId64 " to %" PRId64 ")", QUOTED, node->text, f->min,
                       f->max);
        return;
    }
    if (value < f->min || value > f->max) {
        faults_add(d->faults, node, "%" PRId64 " is out of range (%" PRId64 " to %" PRId64 ")", value, f->min, f->max);
        return;
    }
    *ret = (struct opt_int){true, value};
}

static void list_names(struct strbuf *b, const struct enum_names *names)
{
    for (size_t i = 1; i < names->count; i++)
        if (names->names[i])
            strbuf_printf(b, "%s%s", b->length == 0 ? "" : i + 1 == names->count ? " or " : ", ", names->names[i]);
}

/* The index of one of the names, or 0 and a fault. */
static unsigned choose(struct decoder *d, const struct field *f, const struct node *node, const char *text)
{
    _cleanup_(strbuf_done) struct strbuf allowed = {0};
    const char *near;

    for (size_t i = 1; i < f->names->count; i++)
        if (streq_ptr(f->names->names[i], text))
            return (unsigned)i;
    list_names(&allowed, f->names);
    near = nearest_of(text, f->names->names + 1, f->names->count - 1);
    if (near && f->names->count > 2)
        faults_add(d->faults, node, "\"%.*s\" is not known: did you mean %s? (%s)", QUOTED, text, near,
                   strbuf_text(&allowed));
    else
        faults_add(d->faults, node, "\"%.*s\" is not known (must be %s)", QUOTED, text, strbuf_text(&allowed));
    return 0;
}

static bool decode_text(struct decoder *d, const struct field *f, const struct node *node, const char **ret)
{
    const char *text;

    if (!decode_string(d, node, &text))
        return false;
    if (*text == '\0') {
        if (f->flags & FIELD_REQUIRED)
            faults_add(d->faults, node, "must not be empty");
        return false;
    }
    if (f->max > 0 && strlen(text) > (size_t)f->max) {
        faults_add(d->faults, node, "is %zu bytes long (at most %" PRId64 ")", strlen(text), f->max);
        return false;
    }
    if (f->names && choose(d, f, node, text) == 0)
        return false;
    if (f->format && !f->format->matches(text)) {
        faults_add(d->faults, node, "\"%.*s\" %s", QUOTED, text, f->format->allowed);
        return false;
    }
    *ret = text;
    return true;
}

static void decode_enum(struct decoder *d, const struct field *f, const struct node *node, unsigned *ret)
{
    const char *text;

    if (decode_string(d, node, &text) && *text)
        *ret = choose(d, f, node, text);
}

bool decode_quantity(struct decoder *d, const struct node *node, int64_t min, struct quantity *ret)
{
    const char *reason;

    if (node->kind != NODE_SCALAR || scalar_type(node) == SCALAR_BOOL) {
        faults_add(d->faults, node, "is %s, must be a quantity such as 500m or 4Gi", node_describe(node));
        return false;
    }
    if (quantity_parse(node->text, ret, &reason) < 0) {
        faults_add(d->faults, node, "\"%.*s\" %s%s", QUOTED, node->text,
                   startswith(reason, "is ") || startswith(reason, "must ") ? "" : "is no quantity: ", reason);
        return false;
    }
    if (ret->milli < 0 || (min > 0 && ret->milli == 0) || ret->value < min) {
        if (ret->milli < 0)
            faults_add(d->faults, node, "\"%.*s\" must not be negative", QUOTED, node->text);
        else if (ret->milli == 0)
            faults_add(d->faults, node, "must be more than 0");
        else
            faults_add(d->faults, node, "\"%.*s\" is too small (at least %" PRId64 ")", QUOTED, node->text, min);
        *ret = (struct quantity){0};
        return false;
    }
    return true;
}

static void decode_list(struct decoder *d, const struct field *f, const struct node *node, struct any_list *ret)
{
    size_t size = f->sub->size, i = 0;
    unsigned char *items = NULL;

    if (!is_list(d, node))
        return;
    if (f->max > 0 && node->count > (size_t)f->max) {
        faults_add(d->faults, node, "has %zu elements (at most %" PRId64 ")", node->count, f->max);
        return;
    }
    if (ret && size > 0 && node->count > 0) {
        items = allocate(d, size * node->count);
        if (!items)
            return;
    }
    NODE_FOREACH(child, node)
    {
        if (decode_is_object(d, child))
            decode_object(d, f->sub, child, items ? items + size * i : NULL);
        else if (items)
            memcpy(items + size * i, &child, sizeof(child)); /* `at`: faults about it have a place */
        i++;
    }
    if (items)
        *ret = (struct any_list){items, node->count};
}

static void decode_string_list(struct decoder *d, const struct field *f, const struct node *node, struct any_list *ret)
{
    const char **items = NULL;
    size_t n = 0;

    if (!is_list(d, node))
        return;
    if (node->count > 0) {
        items = allocate(d, sizeof(*items) * node->count);
        if (!items)
            return;
    }
    NODE_FOREACH(child, node)
    {
        if (decode_text(d, f, child, &items[n]))
            n++;
    }
    if (ret)
        *ret = (struct any_list){items, n};
}

static void decode_string_map(struct decoder *d, const struct node *node, struct any_list *ret)
{
    struct vmi_pair *items = NULL;
    size_t n = 0;

    if (!decode_is_object(d, node))
        return;
    if (node->count > 0) {
        items = allocate(d, sizeof(*items) * node->count);
        if (!items)
            return;
    }
    NODE_FOREACH(child, node)
    {
        items[n].key = child->key;
        items[n].value = "";
        if (child->kind == NODE_NULL || decode_string(d, child, &items[n].value))
            n++;
    }
    if (ret)
        *ret = (struct any_list){items, n};
}

static void check_raw(struct decoder *d, const struct field *f, const struct node *node, void *target)
{
    if (f->type == FIELD_TYPE_RAW_OBJECT) {
        if (!decode_is_object(d, node))
            return;
        if (f->sub)
            decode_object(d, f->sub, node, NULL);
    } else if (f->type == FIELD_TYPE_RAW_LIST) {
        if (f->sub)
            decode_list(d, f, node, NULL);
        else if (!is_list(d, node))
            return;
    }
    if (target)
        memcpy(target, &node, sizeof(node));
}

static void decode_pointer(struct decoder *d, const struct field *f, const struct node *node, void *target)
{
    void *object;

    if (!decode_is_object(d, node))
        return;
    object = allocate(d, f->sub->size);
    if (!object)
        return;
    decode_object(d, f->sub, node, object);
    if (target)
        memcpy(target, &object, sizeof(object));
}

/* Values are made aside and copied in, so that a member is written through its own type's bytes only. */
static void decode_scalar_field(struct decoder *d, const struct field *f, const struct node *node, void *target)
{
    const char *text = NULL;
    enum opt_bool boolean = OPT_UNSET;
    struct opt_int integer = {0};
    struct quantity quantity = {0};
    unsigned choice = 0;
    const void *from;
    size_t size;

    switch (f->type) {
    case FIELD_TYPE_STRING:
        decode_text(d, f, node, &text);
        from = &text;
        size = sizeof(text);
        break;
    case FIELD_TYPE_BOOL:
        decode_bool(d, node, &boolean);
        from = &boolean;
        size = sizeof(boolean);
        break;
    case FIELD_TYPE_INT:
        decode_int(d, f, node, &integer);
        from = &integer;
        size = sizeof(integer);
        break;
    case FIELD_TYPE_QUANTITY:
        if (!decode_quantity(d, node, f->min, &quantity))
            return;
        from = &quantity;
        size = sizeof(quantity);
        break;
    default:
        decode_enum(d, f, node, &choice);
        from = &choice;
        size = sizeof(choice);
        break;
    }
    if (target)
        memcpy(target, from, size);
}

static void decode_field(struct decoder *d, const struct field *f, const struct node *node, void *object)
{
    unsigned char *target = object && f->offset != FIELD_NO_OFFSET ? (unsigned char *)object + f->offset : NULL;

    if (node->kind == NODE_NULL) /* the API takes null as not given */
        return;
    if (f->flags & FIELD_NOT_BUILT) {
        /* {} asks for something: guestMappingPassthrough: {} is how it is switched on */
        if (node->kind == NODE_MAPPING || !node_is_empty(node))
            faults_add(d->faults, node, "is known to KubeVirt, but not built in vmlet %s%s%s%s", VMLET_VERSION,
                       f->instead ? " (" : "", f->instead ?: "", f->instead ? ")" : "");
        return;
    }
    switch (f->type) {
    case FIELD_TYPE_OBJECT:
        if (decode_is_object(d, node))
            decode_object(d, f->sub, node, target);
        break;
    case FIELD_TYPE_POINTER:
        decode_pointer(d, f, node, target);
        break;
    case FIELD_TYPE_LIST:
        decode_list(d, f, node, (struct any_list *)(void *)target);
        break;
    case FIELD_TYPE_STRING_LIST:
        decode_string_list(d, f, node, (struct any_list *)(void *)target);
        break;
    case FIELD_TYPE_STRING_MAP:
        decode_string_map(d, node, (struct any_list *)(void *)target);
        break;
    case FIELD_TYPE_RAW_OBJECT:
    case FIELD_TYPE_RAW_LIST:
    case FIELD_TYPE_ANY:
        check_raw(d, f, node, target);
        break;
    case FIELD_TYPE_CUSTOM:
        f->decode(d, f, node, target);
        break;
    default:
        decode_scalar_field(d, f, node, target);
    }
}

static const struct field *find_field(const struct decoder *d, const struct table *table, const char *name)
{
    for (size_t i = 0; i < table->count; i++)
        if (streq(table->fields[i].name, name) && (d->old_names || !(table->fields[i].flags & FIELD_OLD)))
            return &table->fields[i];
    return NULL;
}

static void check_required(struct decoder *d, const struct table *table, const struct node *node)
{
    for (size_t i = 0; i < table->count; i++) {
        const struct field *f = &table->fields[i];
        const struct node *child;

        if (!(f->flags & FIELD_REQUIRED) || (f->flags & FIELD_OLD))
            continue;
        child = node_get(node, f->name);
        if (!child || child->kind == NODE_NULL)
            faults_add_member(d->faults, node, f->name, "is missing%s%s%s", f->doc ? " (" : "", f->doc ?: "",
                              f->doc ? ")" : "");
    }
}

void decode_object(struct decoder *d, const struct table *table, const struct node *node, void *object)
{
    if (object)
        memcpy(object, &node, sizeof(node)); /* `at` */
    NODE_FOREACH(child, node)
    {
        const struct field *f = find_field(d, table, child->key);

        if (f)
            decode_field(d, f, child, object);
        else if (d->faults->count >= LIMIT_MANIFEST_FAULTS)
            d->faults->dropped++;
        else
            faults_add(d->faults, child, "is not a known field%s", describe_unknown_field(d, table, child));
    }
    check_required(d, table, node);
}
