/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/client/queue.h"

#include "base/event.h"
#include "base/limits.h"
#include "base/list.h"
#include "k8s/client/client.h"
#include "k8s/client/map.h"

struct item {
    struct kube_map_node node;
    LIST_ENTRY(struct item) link; /* in `ready` */
    bool queued, working, again;  /* in `ready`; under way; wanted once more */
    unsigned failures;
    uint64_t at;  /* when it is to be added; 0: no such time */
    size_t place; /* in the heap, from 1; 0: not there */
    char key[];
};

struct kube_queue {
    sd_event *event;
    void (*work)(struct kube_queue *queue, const char *key, void *userdata);
    void *userdata;
    unsigned workers;
    size_t n_ready, n_working;
    struct kube_map items;
    LIST_HEAD(struct item) ready;
    struct item **heap; /* by `at`; [0] is not used */
    size_t n_heap, allocated;
    sd_event_source *turn, *timer;
};

/* ---- the heap of those that wait for their time ------------------------------------------------------------------ */

static void put_at(struct kube_queue *q, size_t place, struct item *item)
{
    q->heap[place] = item;
    item->place = place;
}

static void sift(struct kube_queue *q, size_t place)
{
    struct item *item = q->heap[place];

    for (; place > 1 && q->heap[place / 2]->at > item->at; place /= 2)
        put_at(q, place, q->heap[place / 2]);
    for (;;) {
        size_t child = place * 2;

        if (child > q->n_heap)
            break;
        if (child < q->n_heap && q->heap[child + 1]->at < q->heap[child]->at)
            child++;
        if (q->heap[child]->at >= item->at)
            break;
        put_at(q, place, q->heap[child]);
        place = child;
    }
    put_at(q, place, item);
}

static void heap_remove(struct kube_queue *q, struct item *item)
{
    size_t place = item->place;
    struct item *last = q->heap[q->n_heap--];

    item->place = 0;
    item->at = 0;
    if (last != item) {
        put_at(q, place, last);
        sift(q, place);
    }
}

static int heap_add(struct kube_queue *q, struct item *item, uint64_t at)
{
    if (q->n_heap + 2 > q->allocated) {
        size_t allocated = MAX(q->allocated * 2, 64U);
        struct item **heap = reallocarray(q->heap, allocated, sizeof(*heap));

        if (!heap)
            return -ENOMEM;
        q->heap = heap;
        q->allocated = allocated;
    }
    item->at = at;
    put_at(q, ++q->n_heap, item);
    sift(q, q->n_heap);
    return 0;
}

/* ---- keys ------------------------------------------------------------------------------------------------------- */

static struct item *find(const struct kube_queue *q, const char *key)
{
    struct kube_map_node *node = kube_map_get(&q->items, key);

    return node ? KUBE_MAP_OBJECT(node, struct item, node) : NULL;
}

static struct item *get(struct kube_queue *q, const char *key)
{
    struct item *item = find(q, key);

    if (item)
        return item;
    item = calloc(1, sizeof(*item) + strlen(key) + 1);
    if (!item)
        return NULL;
    strcpy(item->key, key);
    if (kube_map_put(&q->items, &item->node, item->key) < 0) {
        free(item);
        return NULL;
    }
    return item;
}

/* A key that nothing is known about any more takes no memory. */
static void settle(struct kube_queue *q, struct item *item)
{
    if (item->queued || item->working || item->place > 0 || item->failures > 0)
        return;
    kube_map_remove(&q->items, &item->node);
    free(item);
}

static int on_turn(sd_event_source *source, void *userdata)
{
    struct kube_queue *q = userdata;
    size_t n = q->n_ready; /* what is added meanwhile waits for the next turn: the loop has other things to do too */

    for (; n > 0 && q->ready.first && q->n_working < q->workers; n--) {
        struct item *item = q->ready.first;

        LIST_REMOVE(q->ready, item, link);
        q->n_ready--;
        item->queued = false;
        item->working = true;
        q->n_working++;
        q->work(q, item->key, q->userdata);
    }
    if (q->ready.first && q->n_working < q->workers)
        event_defer(q->event, &q->turn, on_turn, q);
    return 0;
}

static int make_ready(struct kube_queue *q, struct item *item)
{
    if (item->place > 0)
        heap_remove(q, item);
    if (item->working) {
        item->again = true;
        return 0;
    }
    if (item->queued)
        return 0;
    item->queued = true;
    LIST_APPEND(q->ready, item, link);
    q->n_ready++;
    return event_defer(q->event, &q->turn, on_turn, q) < 0 ? -ENOMEM : 0;
}

static int on_time(sd_event_source *source, uint64_t usec, void *userdata);

static int arm(struct kube_queue *q)
{
    uint64_t now = now_usec();

    if (q->n_heap == 0) {
        event_disarm_timer(q->timer);
        return 0;
    }
    return event_arm_timer(q->event, &q->timer, q->heap[1]->at > now ? q->heap[1]->at - now : 0, on_time, q) < 0
               ? -ENOMEM
               : 0;
}

static int on_time(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct kube_queue *q = userdata;

    while (q->n_heap > 0 && q->heap[1]->at <= now_usec())
        make_ready(q, q->heap[1]);
    arm(q);
    return 0;
}

int kube_queue_add(struct kube_queue *q, const char *key)
{
    struct item *item = get(q, key);

    return item ? make_ready(q, item) : -ENOMEM;
}

int kube_queue_add_after(struct kube_queue *q, const char *key, uint64_t delay_usec)
{
    struct item *item = get(q, key);
    uint64_t at = now_usec() + delay_usec;
    int r;

    if (!item)
        return -ENOMEM;
    if (item->queued || item->again || (item->place > 0 && item->at <= at))
        return 0;
    if (item->place > 0)
        heap_remove(q, item);
    r = heap_add(q, item, at);
    if (r < 0) {
        settle(q, item);
        return r;
    }
    return arm(q);
}

int kube_queue_add_failed(struct kube_queue *q, const char *key)
{
    struct item *item = get(q, key);

    if (!item)
        return -ENOMEM;
    item->failures++;
    return kube_queue_add_after(q, key, kube_backoff(item->failures - 1, KUBE_QUEUE_FIRST_USEC, KUBE_QUEUE_LAST_USEC));
}

void kube_queue_forget(struct kube_queue *q, const char *key)
{
    struct item *item = find(q, key);

    if (!item)
        return;
    item->failures = 0;
    settle(q, item);
}

void kube_queue_done(struct kube_queue *q, const char *key)
{
    struct item *item = find(q, key);

    if (!item || !item->working)
        return;
    item->working = false;
    q->n_working--;
    if (item->again) {
        item->again = false;
        make_ready(q, item);
    }
    settle(q, item);
    if (q->ready.first)
        event_defer(q->event, &q->turn, on_turn, q);
}

void kube_queue_count(const struct kube_queue *q, size_t *ret_ready, size_t *ret_later, size_t *ret_working)
{
    *ret_ready = q->n_ready;
    *ret_later = q->n_heap;
    *ret_working = q->n_working;
}

void kube_queue_free(struct kube_queue *q)
{
    struct kube_map_node *node;

    if (!q)
        return;
    while ((node = kube_map_any(&q->items))) {
        kube_map_remove(&q->items, node);
        free(KUBE_MAP_OBJECT(node, struct item, node));
    }
    kube_map_done(&q->items);
    sd_event_source_disable_unref(q->turn);
    sd_event_source_disable_unref(q->timer);
    sd_event_unref(q->event);
    free(q->heap);
    free(q);
}

int kube_queue_new(sd_event *event, unsigned workers,
                   void (*work)(struct kube_queue *queue, const char *key, void *userdata), void *userdata,
                   struct kube_queue **ret)
{
    struct kube_queue *q = calloc(1, sizeof(*q));

    if (!q)
        return -ENOMEM;
    *q = (struct kube_queue){.event = sd_event_ref(event), .workers = workers, .work = work, .userdata = userdata};
    *ret = q;
    return 0;
}
