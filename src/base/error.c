/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"

#include <stdio.h>

struct error {
    enum error_code code;
    int err;
    char *message;
    char *qmp_class;
    char *remedy;
};

static const struct {
    const char *name;
    enum exit_code exit;
} codes[] = {
#define X(symbol, name, exit) [ERROR_##symbol] = {name, exit},
    ERROR_CODES(X)
#undef X
};

/* Stands in when there is no memory for an error: never freed, never changed. */
static char oom_message[] = "out of memory";
static struct error oom = {.code = ERROR_INTERNAL, .err = ENOMEM, .message = oom_message};

void error_free(struct error *error)
{
    if (!error || error == &oom)
        return;
    free(error->message);
    free(error->qmp_class);
    free(error->remedy);
    free(error);
}

void error_move(struct error **ret_error, struct error *from)
{
    if (!ret_error) {
        error_free(from);
        return;
    }
    error_free(*ret_error);
    *ret_error = from;
}

int error_set_va(struct error **ret_error, enum error_code code, int err, const char *format, va_list ap)
{
    struct error *e;

    err = err < 0 ? -err : err ? err : EIO;
    if (!ret_error)
        return -err;
    e = calloc(1, sizeof(*e));
    if (!e || vasprintf(&e->message, format, ap) < 0) {
        free(e);
        error_move(ret_error, &oom);
        return -err;
    }
    e->code = code;
    e->err = err;
    error_move(ret_error, e);
    return -err;
}

int error_set(struct error **ret_error, enum error_code code, int err, const char *format, ...)
{
    va_list ap;
    int r;

    va_start(ap, format);
    r = error_set_va(ret_error, code, err, format, ap);
    va_end(ap);
    return r;
}

int error_errno(struct error **ret_error, int err, const char *format, ...)
{
    _cleanup_free_ char *text = NULL;
    va_list ap;
    int n;

    err = err < 0 ? -err : err ? err : EIO;
    va_start(ap, format);
    n = vasprintf(&text, format, ap);
    va_end(ap);
    if (n < 0) {
        text = NULL;
        error_move(ret_error, &oom);
        return -err;
    }
    return error_set(ret_error, ERROR_SYSTEM, err, "%s: %s", text, strerror(err));
}

int error_oom(struct error **ret_error)
{
    error_move(ret_error, &oom);
    return -ENOMEM;
}

int error_wrap(struct error **error, int r, const char *format, ...)
{
    char *text = NULL, *whole = NULL;
    va_list ap;
    int n;

    if (!error || !*error || *error == &oom)
        return r;
    va_start(ap, format);
    n = vasprintf(&text, format, ap);
    va_end(ap);
    if (n < 0)
        return r;
    if (asprintf(&whole, "%s: %s", text, (*error)->message) >= 0) {
        free((*error)->message);
        (*error)->message = whole;
    }
    free(text);
    return r;
}

void error_set_qmp_class(struct error *error, const char *qmp_class)
{
    if (!error || error == &oom)
        return;
    free(error->qmp_class);
    error->qmp_class = strdup(qmp_class);
}

void error_set_remedy(struct error *error, const char *format, ...)
{
    va_list ap;
    char *text = NULL;

    if (!error || error == &oom)
        return;
    va_start(ap, format);
    if (vasprintf(&text, format, ap) < 0)
        text = NULL;
    va_end(ap);
    free(error->remedy);
    error->remedy = text;
}

enum error_code error_get_code(const struct error *error)
{
    return error ? error->code : ERROR_INTERNAL;
}

const char *error_code_name(enum error_code code)
{
    return code < ERROR_CODE_COUNT ? codes[code].name : "Internal";
}

int error_code_from_name(const char *name)
{
    for (size_t i = 0; i < ELEMENTSOF(codes); i++)
        if (streq(codes[i].name, name))
            return (int)i;
    return -1;
}

int error_get_errno(const struct error *error)
{
    return error ? error->err : EIO;
}

const char *error_message(const struct error *error)
{
    return error ? error->message : "unknown error";
}

const char *error_qmp_class(const struct error *error)
{
    return error ? error->qmp_class : NULL;
}

const char *error_remedy(const struct error *error)
{
    return error ? error->remedy : NULL;
}

enum exit_code error_exit_code(const struct error *error)
{
    return error ? codes[error->code].exit : EXIT_FAILED;
}

struct error *error_copy(const struct error *error)
{
    struct error *copy;

    if (!error)
        return NULL;
    copy = calloc(1, sizeof(*copy));
    if (!copy)
        return &oom;
    copy->code = error->code;
    copy->err = error->err;
    copy->message = strdup(error->message);
    copy->qmp_class = error->qmp_class ? strdup(error->qmp_class) : NULL;
    copy->remedy = error->remedy ? strdup(error->remedy) : NULL;
    if (!copy->message) {
        error_free(copy);
        return &oom;
    }
    return copy;
}
