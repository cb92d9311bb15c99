/* SPDX-License-Identifier: Apache-2.0 */
/* A growing byte buffer. The first failed allocation sets `failed` and drops what follows: check once, at the end. */
#pragma once

#include <stdarg.h>
#include <stdint.h>

#include "base/util.h"

struct strbuf {
    char *data; /* NUL-terminated when not NULL */
    size_t length, allocated;
    bool failed;
};

void strbuf_done(struct strbuf *buffer);
void strbuf_clear(struct strbuf *buffer);
void strbuf_add(struct strbuf *buffer, const void *data, size_t length);
void strbuf_add_string(struct strbuf *buffer, const char *text);
void strbuf_printf(struct strbuf *buffer, const char *format, ...) _printf_(2, 3);
void strbuf_vprintf(struct strbuf *buffer, const char *format, va_list ap) _printf_(2, 0);
/* In decimal. */
void strbuf_add_integer(struct strbuf *buffer, int64_t value);
/* With quotes and escapes; bytes that are no UTF-8 become U+FFFD. */
void strbuf_add_json_string(struct strbuf *buffer, const char *text);
/* Drops the first n bytes. */
void strbuf_consume(struct strbuf *buffer, size_t n);
/* Room for n more bytes at data + length, or NULL; the caller adds to length what it wrote. */
void *strbuf_reserve(struct strbuf *buffer, size_t n);
/* Never NULL. */
const char *strbuf_text(const struct strbuf *buffer);
/* The text, to be freed by the caller; NULL when out of memory. The buffer is empty afterwards. */
char *strbuf_steal(struct strbuf *buffer);
