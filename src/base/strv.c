/* SPDX-License-Identifier: Apache-2.0 */
#include "base/strv.h"

#include <stdarg.h>
#include <stdio.h>

size_t strv_length(char *const *list)
{
    size_t n = 0;

    while (list && list[n])
        n++;
    return n;
}

void strv_free(char **list)
{
    for (size_t i = 0; list && list[i]; i++)
        free(list[i]);
    free(list);
}

int strv_consume(char ***list, char *text)
{
    size_t n = strv_length(*list);
    char **more;

    if (!text)
        return -ENOMEM;
    more = realloc(*list, (n + 2) * sizeof(char *));
    if (!more) {
        free(text);
        return -ENOMEM;
    }
    *list = more;
    (*list)[n] = text;
    (*list)[n + 1] = NULL;
    return 0;
}

int strv_append(char ***list, const char *text)
{
    return strv_consume(list, strdup(text));
}

int strv_printf(char ***list, const char *format, ...)
{
    char *text = NULL;
    va_list ap;
    int n;

    va_start(ap, format);
    n = vasprintf(&text, format, ap);
    va_end(ap);
    return n < 0 ? -ENOMEM : strv_consume(list, text);
}

char **strv_copy(char *const *list)
{
    _cleanup_(strv_freep) char **copy = calloc(1, sizeof(char *));

    if (!copy)
        return NULL;
    STRV_FOREACH (item, list)
        if (strv_append(&copy, *item) < 0)
            return NULL;
    return TAKE_PTR(copy);
}
