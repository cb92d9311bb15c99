/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/client/slab.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/util.h"

/* The sanitizer sees what becomes of each allocation: it is to see these too. */
#if defined(__SANITIZE_ADDRESS__)
#define USE_HEAP 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define USE_HEAP 1
#endif
#endif

#ifdef USE_HEAP

void *slab_alloc(size_t size)
{
    return malloc(size);
}

void slab_free(void *memory, size_t size)
{
    free(memory);
}

#else

#define SMALLEST  32U
#define STEPS     8U           /* sizes between a power of two and the next: at most an eighth is lost */
#define LARGEST   (16U * 1024) /* beyond: pages of its own */
#define CLASSES   (STEPS * 10) /* 32 bytes to 16 KiB are nine doublings */
#define SLAB_SIZE ((size_t)64 * 1024)

struct free_piece {
    struct free_piece *next;
};

/* Pieces of one size. A slab, once its pieces are cut, stays with its size: the sizes that a cluster has do not change.
 */
static struct class
{
    struct free_piece *free;
    char *fresh; /* not cut yet */
    size_t left;
} classes[CLASSES];

static unsigned class_of(size_t size, size_t *ret_size)
{
    size_t base = SMALLEST, step;
    unsigned n = 0;

    while (size > base * 2) {
        base *= 2;
        n += STEPS;
    }
    step = MAX(base / STEPS, sizeof(void *));
    for (*ret_size = base; *ret_size < size; *ret_size += step)
        n++;
    return n;
}

static void *map_pages(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

void *slab_alloc(size_t size)
{
    struct class *c;
    struct free_piece *piece;
    size_t rounded;

    if (size > LARGEST)
        return map_pages(size);
    c = &classes[class_of(size, &rounded)];
    piece = c->free;
    if (piece) {
        c->free = piece->next;
        return piece;
    }
    if (c->left < rounded) {
        char *slab = map_pages(SLAB_SIZE);

        if (!slab)
            return NULL;
        c->fresh = slab;
        c->left = SLAB_SIZE;
    }
    c->fresh += rounded;
    c->left -= rounded;
    return c->fresh - rounded;
}

void slab_free(void *memory, size_t size)
{
    struct free_piece *piece = memory;
    struct class *c;
    size_t rounded;

    if (!memory)
        return;
    if (size > LARGEST) {
        munmap(memory, size);
        return;
    }
    c = &classes[class_of(size, &rounded)];
    piece->next = c->free;
    c->free = piece;
}

#endif
