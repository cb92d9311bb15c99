/* SPDX-License-Identifier: Apache-2.0 */
/* The plain values that a manifest's fields decode to, where C has no type that can also be "not given". */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum opt_bool {
    OPT_UNSET,
    OPT_FALSE,
    OPT_TRUE,
};

static inline bool opt_bool_or(enum opt_bool value, bool otherwise)
{
    return value == OPT_UNSET ? otherwise : value == OPT_TRUE;
}

struct opt_int {
    bool is_set;
    int64_t value;
};

static inline int64_t opt_int_or(struct opt_int i, int64_t otherwise)
{
    return i.is_set ? i.value : otherwise;
}

/* A Kubernetes quantity ("500m", "4Gi", "1e3"): whole units rounded up, and thousandths (saturated at INT64_MAX). */
struct quantity {
    bool is_set;
    int64_t value;
    int64_t milli;
    const char *text; /* as written */
};

struct vmi_pair {
    const char *key, *value;
};
