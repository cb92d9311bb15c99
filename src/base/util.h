/* SPDX-License-Identifier: Apache-2.0 */
/* The idioms that every file of the project uses: scope-bound clean-up and explicit transfer of ownership. */
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define _cleanup_(f)         __attribute__((cleanup(f)))
#define _printf_(fmt, first) __attribute__((format(printf, fmt, first)))
#define _unused_             __attribute__((unused))
#define _cold_               __attribute__((cold)) /* called on a fault: paths to it lie apart from the usual ones */
#define _nonnull_(...)       __attribute__((nonnull(__VA_ARGS__)))
#define _warn_unused_        __attribute__((warn_unused_result))

#define ELEMENTSOF(array) (sizeof(array) / sizeof((array)[0]))
#define MIN(a, b)         ((a) < (b) ? (a) : (b))
#define MAX(a, b)         ((a) > (b) ? (a) : (b))
#define STRINGIFY_(x)     #x
#define STRINGIFY(x)      STRINGIFY_(x)

/* Hands a pointer on and leaves NULL behind, so that the _cleanup_ of the old owner does nothing. */
#define TAKE_PTR(ptr)                                                                                                  \
    ({                                                                                                                 \
        __typeof__(ptr) *take_from_ = &(ptr);                                                                          \
        __typeof__(ptr) taken_ = *take_from_;                                                                          \
        *take_from_ = NULL;                                                                                            \
        taken_;                                                                                                        \
    })

/* Defines the function `NAMEp` that a _cleanup_ attribute calls for a variable of type TYPE. */
#define DEFINE_CLEANUP(type, function)                                                                                 \
    static inline void function##p(type *p)                                                                            \
    {                                                                                                                  \
        if (*p) {                                                                                                      \
            function(*p);                                                                                              \
            *p = NULL;                                                                                                 \
        }                                                                                                              \
    }

static inline void freep(void *p)
{
    void **pp = (void **)p;

    free(*pp);
    *pp = NULL;
}

#define _cleanup_free_ _cleanup_(freep)

static inline bool streq(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

/* As streq(), with NULL equal only to NULL. */
static inline bool streq_ptr(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

/* The rest of s behind prefix, or NULL if s does not start with it. */
static inline const char *startswith(const char *s, const char *prefix)
{
    size_t n = strlen(prefix);

    return strncmp(s, prefix, n) == 0 ? s + n : NULL;
}

static inline bool endswith(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);

    return n >= m && strcmp(s + n - m, suffix) == 0;
}
