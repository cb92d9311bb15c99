/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From nodes to C structs by tables, one row a field. The tables are the only place where the fields of the API stand:
 * types, limits, formats and one line of documentation each, enough to generate an OpenAPI schema from.
 *
 * Rows are made by the FIELD_* macros below, which check at compile time that the member has the type that the row
 * writes. A struct that is filled from an object has `const struct node *at` as its first member.
 */
#pragma once

#include <vmlet/value.h>

#include "json/node.h"

enum field_type {
    FIELD_TYPE_STRING,      /* const char *; "" counts as not given */
    FIELD_TYPE_BOOL,        /* enum opt_bool */
    FIELD_TYPE_INT,         /* struct opt_int */
    FIELD_TYPE_ENUM,        /* an enum whose 0 is "not given"; "" counts as that */
    FIELD_TYPE_QUANTITY,    /* struct quantity */
    FIELD_TYPE_OBJECT,      /* a struct inside of this one */
    FIELD_TYPE_POINTER,     /* a struct of its own, NULL when not given */
    FIELD_TYPE_LIST,        /* VMI_LIST(struct …) */
    FIELD_TYPE_STRING_LIST, /* VMI_LIST(const char *) */
    FIELD_TYPE_STRING_MAP,  /* VMI_LIST(struct vmi_pair) */
    FIELD_TYPE_RAW_OBJECT,  /* const struct node *; members checked against `sub` if there is one */
    FIELD_TYPE_RAW_LIST,    /* const struct node *; elements checked against `sub` if there is one */
    FIELD_TYPE_ANY,         /* const struct node *; not looked into */
    FIELD_TYPE_CUSTOM,      /* `decode` does it; with a `sub` it is a list of such objects */
};

enum field_flags {
    FIELD_REQUIRED = 1 << 0,
    FIELD_NOT_BUILT = 1 << 1,  /* known, without effect yet: refused unless it is null, false, "" or [] */
    FIELD_POD = 1 << 2,        /* for the pod, not for the machine: accepted */
    FIELD_OLD = 1 << 3,        /* a name of v1alpha2 only */
    FIELD_DEPRECATED = 1 << 4, /* still accepted */
    FIELD_SERVER = 1 << 5,     /* written by the API server: accepted and ignored */
};

#define FIELD_NO_OFFSET SIZE_MAX

struct decoder;
struct field;

struct enum_names {
    const char *const *names; /* [0] is NULL: not given; so is a value of the enum that the field cannot have */
    size_t count;
};

/* What a string must look like. */
struct text_format {
    const char *pattern; /* the same as an anchored regular expression, for a schema */
    const char *allowed; /* "must be …" */
    bool (*matches)(const char *text);
};

struct table {
    const char *name; /* KubeVirt's type name */
    const struct field *fields;
    size_t count;
    size_t size; /* of the struct; 0: nothing is stored */
};

struct field {
    const char *name;
    enum field_type type;
    unsigned flags;
    size_t offset;
    const struct table *sub;
    const struct enum_names *names; /* of an enum; of a string: what it must be one of */
    const struct text_format *format;
    int64_t min, max; /* int: value; string: length in bytes; list: elements (max 0: no limit). Quantity: min only */
    void (*decode)(struct decoder *d, const struct field *field, const struct node *node, void *object);
    const char *instead; /* of a field that is not built: what to do, for its message */
    const char *doc;
};

struct decoder {
    struct arena *arena;
    struct faults *faults;
    const struct table *root; /* of the whole document: where a misplaced field is looked for */
    bool old_names;           /* the document is v1alpha2 */
    bool out_of_memory;
};

/* Fills *object (zeroed, of table->size bytes; NULL to check only) from a mapping. All faults go to d->faults. */
void decode_object(struct decoder *d, const struct table *table, const struct node *node, void *object);
/* A single value, for FIELD_TYPE_CUSTOM functions. False and a fault when it is none. */
bool decode_quantity(struct decoder *d, const struct node *node, int64_t min, struct quantity *ret);
bool decode_string(struct decoder *d, const struct node *node, const char **ret);
/* False and a fault unless it is a mapping. */
bool decode_is_object(struct decoder *d, const struct node *node);
/* Null, false, "", and empty objects and lists: what the API takes as not given. */
bool node_is_empty(const struct node *node);

/* " (did you mean …?)", or the fields that are known, for a field that `table` does not have; in the arena. */
const char *describe_unknown_field(struct decoder *d, const struct table *table, const struct node *node);

#define MEMBER_(type_, member_, wanted) _Generic(((type_ *)0)->member_, wanted : offsetof(type_, member_))

#define FIELD_STRING(type_, member_, name_, ...)                                                                       \
    {                                                                                                                  \
        .name = name_, .type = FIELD_TYPE_STRING, .offset = MEMBER_(type_, member_, const char *), __VA_ARGS__         \
    }
#define FIELD_BOOL(type_, member_, name_, ...)                                                                         \
    {                                                                                                                  \
        .name = name_, .type = FIELD_TYPE_BOOL, .offset = MEMBER_(type_, member_, enum opt_bool), __VA_ARGS__          \
    }
#define FIELD_INT(type_, member_, name_, min_, max_, ...)                                                              \
    {                                                                                                                  \
        .name = name_, .type = FIELD_TYPE_INT, .offset = MEMBER_(type_, member_, struct opt_int), .min = min_,         \
        .max = max_, __VA_ARGS__                                                                                       \
    }
#define FIELD_ENUM(type_, member_, enum_, name_, names_, ...)                                                          \
    {                                                                                                                  \
        .name = name_, .type = FIELD_TYPE_ENUM, .offset = MEMBER_(type_, member_, enum enum_), .names = names_,        \
        __VA_ARGS__                                                                                                    \
    }
#define FIELD_QUANTITY(type_, member_, name_, min_, ...)                                                               \
    {                                                                                                                  \
        .name = name_, .type = FIELD_TYPE_QUANTITY, .offset = MEMBER_(type_, member_, struct quantity), .min = min_,   \
        __VA_ARGS__                                                                                                    \
    }
#define FIELD_OBJECT(type_, member_, struct_, name_, table_, ...)                                                      \
    {                                                                                                                  \
        .name = name_, .type = FIELD_TYPE_OBJECT, .offset = MEMBER_(type_, member_, struct struct_), .sub = table_,    \
        __VA_ARGS__                                                                                                    \
    }
#define FIELD_POINTER(type_, member_, struct_, name_, table_, ...)                                                     \
    {                                                                                                                  \
        .name = name_, .type = FIELD_TYPE_POINTER, .offset = MEMBER_(type_, member_, struct struct_ *), .sub = table_, \
        __VA_ARGS__                                                                                                    \
    }
#define FIELD_LIST(type_, member_, struct_, name_, table_, max_, ...)                                                  \
    {                                                                                                                  \
        .name = name_, .type = FIELD_TYPE_LIST,                                                                        \
        .offset = MEMBER_(type_, member_.items, struct struct_ *) - offsetof(type_, member_.items) +                   \
                  offsetof(type_, member_),                                                                            \
        .sub = table_, .max = max_, __VA_ARGS__                                                                        \
    }
#define FIELD_STRING_LIST(type_, member_, name_, ...)                                                                  \
    {                                                                                                                  \
        .name = name_, .type = FIELD_TYPE_STRING_LIST,                                                                 \
        .offset =                                                                                                      \
            MEMBER_(type_, member_.items, const char **) - offsetof(type_, member_.items) + offsetof(type_, member_),  \
        __VA_ARGS__                                                                                                    \
    }
#define FIELD_STRING_MAP(type_, member_, name_, ...)                                                                   \
    {                                                                                                                  \
        .name = name_, .type = FIELD_TYPE_STRING_MAP,                                                                  \
        .offset = MEMBER_(type_, member_.items, struct vmi_pair *) - offsetof(type_, member_.items) +                  \
                  offsetof(type_, member_),                                                                            \
        __VA_ARGS__                                                                                                    \
    }
#define FIELD_RAW_(type_, member_, name_, field_type_, ...)                                                            \
    {                                                                                                                  \
        .name = name_, .type = field_type_, .offset = MEMBER_(type_, member_, const struct node *), __VA_ARGS__        \
    }
#define FIELD_RAW_OBJECT(type_, member_, name_, ...)                                                                   \
    FIELD_RAW_(type_, member_, name_, FIELD_TYPE_RAW_OBJECT, __VA_ARGS__)
#define FIELD_RAW_LIST(type_, member_, name_, ...) FIELD_RAW_(type_, member_, name_, FIELD_TYPE_RAW_LIST, __VA_ARGS__)
/* Rows whose value is checked and not kept. */
#define FIELD_CHECKED(name_, field_type_, ...)                                                                         \
    {                                                                                                                  \
        .name = name_, .type = field_type_, .offset = FIELD_NO_OFFSET, __VA_ARGS__                                     \
    }
#define FIELD_CUSTOM(type_, member_, name_, decode_, ...)                                                              \
    {                                                                                                                  \
        .name = name_, .type = FIELD_TYPE_CUSTOM, .offset = offsetof(type_, member_), .decode = decode_, __VA_ARGS__   \
    }

/* static const struct table NAME = … from an array of rows of the same name. */
#define DEFINE_TABLE(table_, name_, struct_, ...)                                                                      \
    static const struct field table_##_fields[] = {__VA_ARGS__};                                                       \
    _Static_assert(offsetof(struct_, at) == 0, "`at` comes first");                                                    \
    const struct table table_ = {name_, table_##_fields, sizeof(table_##_fields) / sizeof(table_##_fields[0]),         \
                                 sizeof(struct_)}
/* Of an object that is checked and not kept. */
#define DEFINE_CHECK_TABLE(table_, name_, ...)                                                                         \
    static const struct field table_##_fields[] = {__VA_ARGS__};                                                       \
    const struct table table_ = {name_, table_##_fields, sizeof(table_##_fields) / sizeof(table_##_fields[0]), 0}

#define ENUM_NAMES(variable, ...)                                                                                      \
    static const char *const variable##_list[] = {__VA_ARGS__};                                                        \
    static const struct enum_names variable = {variable##_list, sizeof(variable##_list) / sizeof(variable##_list[0])}
