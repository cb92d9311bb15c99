/* SPDX-License-Identifier: Apache-2.0 */
#include "base/arena.h"

#include <stdint.h>
#include <stdio.h>

#define BLOCK_BYTES ((size_t)16 * 1024)
#define ALIGNMENT   (_Alignof(max_align_t))

struct block {
    struct block *next;
    size_t used, size;
    _Alignas(max_align_t) unsigned char data[];
};

struct arena {
    struct block *blocks; /* the first one is filled, the others are full or belong to one large piece */
};

struct arena *arena_new(void)
{
    return calloc(1, sizeof(struct arena));
}

void arena_free(struct arena *arena)
{
    if (!arena)
        return;
    for (struct block *b = arena->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    free(arena);
}

static struct block *block_new(size_t size)
{
    struct block *b = calloc(1, sizeof(struct block) + size);

    if (b)
        b->size = size;
    return b;
}

void *arena_alloc(struct arena *arena, size_t size)
{
    struct block *b = arena->blocks;
    void *p;

    if (size > SIZE_MAX / 2)
        return NULL;
    size = (size + ALIGNMENT - 1) & ~(ALIGNMENT - 1);
    if (!b || b->size - b->used < size) {
        bool large = size > BLOCK_BYTES / 4;

        b = block_new(large ? size : BLOCK_BYTES);
        if (!b)
            return NULL;
        if (large && arena->blocks) { /* keep filling the block that has room */
            b->next = arena->blocks->next;
            arena->blocks->next = b;
        } else {
            b->next = arena->blocks;
            arena->blocks = b;
        }
    }
    p = b->data + b->used;
    b->used += size;
    return p;
}

char *arena_strndup(struct arena *arena, const char *text, size_t length)
{
    char *copy = arena_alloc(arena, length + 1);

    if (copy)
        memcpy(copy, text, length);
    return copy;
}

char *arena_strdup(struct arena *arena, const char *text)
{
    return arena_strndup(arena, text, strlen(text));
}

char *arena_vprintf(struct arena *arena, const char *format, va_list ap)
{
    va_list again;
    char *text;
    int n;

    va_copy(again, ap);
    n = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (n < 0)
        return NULL;
    text = arena_alloc(arena, (size_t)n + 1);
    if (text)
        vsnprintf(text, (size_t)n + 1, format, ap);
    return text;
}

char *arena_printf(struct arena *arena, const char *format, ...)
{
    va_list ap;
    char *text;

    va_start(ap, format);
    text = arena_vprintf(arena, format, ap);
    va_end(ap);
    return text;
}
