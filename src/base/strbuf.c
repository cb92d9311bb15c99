/* SPDX-License-Identifier: Apache-2.0 */
#include "base/strbuf.h"

#include <stdint.h>
#include <stdio.h>

#include "base/utf8.h"

void strbuf_done(struct strbuf *buffer)
{
    free(buffer->data);
    *buffer = (struct strbuf){0};
}

void strbuf_clear(struct strbuf *buffer)
{
    buffer->length = 0;
    if (buffer->data)
        buffer->data[0] = '\0';
}

void *strbuf_reserve(struct strbuf *buffer, size_t n)
{
    size_t wanted;
    char *data;

    if (buffer->failed || n > SIZE_MAX / 2 - buffer->length) {
        buffer->failed = true;
        return NULL;
    }
    wanted = buffer->length + n + 1;
    if (wanted > buffer->allocated) {
        size_t size = MAX(wanted, MAX(buffer->allocated * 2, (size_t)64));

        data = realloc(buffer->data, size);
        if (!data) {
            buffer->failed = true;
            return NULL;
        }
        buffer->data = data;
        buffer->allocated = size;
    }
    return buffer->data + buffer->length;
}

void strbuf_add(struct strbuf *buffer, const void *data, size_t length)
{
    char *p = strbuf_reserve(buffer, length);

    if (!p)
        return;
    if (length > 0)
        memcpy(p, data, length);
    buffer->length += length;
    buffer->data[buffer->length] = '\0';
}

void strbuf_add_string(struct strbuf *buffer, const char *text)
{
    strbuf_add(buffer, text, strlen(text));
}

/* Without printf(), which touches some sixty cache lines for a number in JSON. */
void strbuf_add_integer(struct strbuf *buffer, int64_t value)
{
    uint64_t left = value < 0 ? -(uint64_t)value : (uint64_t)value;
    char digits[20], *p = digits + sizeof(digits);

    do {
        *--p = (char)('0' + left % 10);
        left /= 10;
    } while (left > 0);
    if (value < 0)
        *--p = '-';
    strbuf_add(buffer, p, (size_t)(digits + sizeof(digits) - p));
}

void strbuf_vprintf(struct strbuf *buffer, const char *format, va_list ap)
{
    va_list again;
    char *p;
    int n;

    va_copy(again, ap);
    n = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (n < 0 || !(p = strbuf_reserve(buffer, (size_t)n))) {
        buffer->failed = true;
        return;
    }
    vsnprintf(p, (size_t)n + 1, format, ap);
    buffer->length += (size_t)n;
}

void strbuf_printf(struct strbuf *buffer, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    strbuf_vprintf(buffer, format, ap);
    va_end(ap);
}

void strbuf_add_json_string(struct strbuf *buffer, const char *text)
{
    size_t left = strlen(text);

    strbuf_add(buffer, "\"", 1);
    while (left > 0) {
        size_t n = utf8_sequence_length(text, left);
        unsigned char c = (unsigned char)*text;

        if (n == 0) {
            strbuf_add_string(buffer, "\\ufffd");
            n = 1;
        } else if (c == '"' || c == '\\') {
            strbuf_printf(buffer, "\\%c", c);
        } else if (c == '\n') {
            strbuf_add(buffer, "\\n", 2);
        } else if (c < 0x20 || c == 0x7f) {
            strbuf_printf(buffer, "\\u%04x", c);
        } else {
            strbuf_add(buffer, text, n);
        }
        text += n;
        left -= n;
    }
    strbuf_add(buffer, "\"", 1);
}

void strbuf_consume(struct strbuf *buffer, size_t n)
{
    if (n == 0)
        return;
    buffer->length -= n;
    memmove(buffer->data, buffer->data + n, buffer->length + 1);
}

const char *strbuf_text(const struct strbuf *buffer)
{
    return buffer->data ? buffer->data : "";
}

char *strbuf_steal(struct strbuf *buffer)
{
    char *text;

    if (buffer->failed) {
        strbuf_done(buffer);
        return NULL;
    }
    text = buffer->data ? TAKE_PTR(buffer->data) : strdup("");
    strbuf_done(buffer);
    return text;
}
