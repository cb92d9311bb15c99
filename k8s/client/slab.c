/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/client/slab.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/list.h"
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
#define STEPS     8U          /* sizes between a power of two and the next: at most an eighth is lost */
#define LARGEST   (8U * 1024) /* beyond: pages of its own */
#define CLASSES   (STEPS * 9) /* 32 bytes to 8 KiB are eight doublings */
#define SLAB_SIZE ((size_t)64 * 1024)
#define KEPT      4U /* empty slabs that are not given back: one that fills and empties costs no system call */

struct free_piece {
    struct free_piece *next;
};

/* Pieces of one size, and this in front of them; at a multiple of SLAB_SIZE, so that a piece leads to its slab. */
struct slab {
    LIST_ENTRY(struct slab) link; /* those of the class that have room */
    struct free_piece *free;
    unsigned class, used, cut; /* pieces given out; bytes that were a piece already, with this head */
    bool listed;
};

static LIST_HEAD(struct slab) classes[CLASSES];
static struct slab *kept[KEPT];
static unsigned n_kept;

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

/* The kernel aligns to pages only: twice as much, and what lies before and behind goes back. */
static struct slab *map_slab(void)
{
    char *memory = map_pages(2 * SLAB_SIZE), *start;
    size_t before;

    if (!memory)
        return NULL;
    before = -(uintptr_t)memory & (SLAB_SIZE - 1);
    start = memory + before;
    if (before > 0)
        munmap(memory, before);
    munmap(start + SLAB_SIZE, SLAB_SIZE - before);
    return (struct slab *)(void *)start;
}

static struct slab *slab_with_room(unsigned class)
{
    struct slab *slab = classes[class].first;

    if (slab)
        return slab;
    slab = n_kept > 0 ? kept[--n_kept] : map_slab();
    if (!slab)
        return NULL;
    *slab = (struct slab){.class = class, .cut = (sizeof(*slab) + 15) / 16 * 16, .listed = true};
    LIST_PREPEND(classes[class], slab, link);
    return slab;
}

void *slab_alloc(size_t size)
{
    struct free_piece *piece;
    struct slab *slab;
    size_t rounded;

    if (size > LARGEST)
        return map_pages(size);
    slab = slab_with_room(class_of(size, &rounded));
    if (!slab)
        return NULL;
    slab->used++;
    piece = slab->free;
    if (piece)
        slab->free = piece->next;
    else {
        piece = (struct free_piece *)(void *)((char *)slab + slab->cut);
        slab->cut += (unsigned)rounded;
    }
    if (!slab->free && slab->cut + rounded > SLAB_SIZE) {
        LIST_REMOVE(classes[slab->class], slab, link);
        slab->listed = false;
    }
    return piece;
}

void slab_free(void *memory, size_t size)
{
    struct free_piece *piece = memory;
    struct slab *slab;

    if (!memory)
        return;
    if (size > LARGEST) {
        munmap(memory, size);
        return;
    }
    slab = (struct slab *)((uintptr_t)memory & ~(SLAB_SIZE - 1));
    piece->next = slab->free;
    slab->free = piece;
    slab->used--;
    if (!slab->listed) { /* behind the others: those that empty should, and not be filled again */
        LIST_APPEND(classes[slab->class], slab, link);
        slab->listed = true;
    }
    if (slab->used > 0)
        return;
    LIST_REMOVE(classes[slab->class], slab, link);
    if (n_kept < KEPT)
        kept[n_kept++] = slab;
    else
        munmap(slab, SLAB_SIZE);
}

#endif
