/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys that wait to be worked on. A key is worked on once at a time: added while it is under way, it is worked on again
 * afterwards; added twice while it waits, once. Work that fails comes back later and later.
 */
#pragma once

#include <systemd/sd-event.h>

#include "base/util.h"

struct kube_queue;

/* `work` starts on a key and says kube_queue_done() when it has ended, at once or later. At most `workers` at a time.
 */
int kube_queue_new(sd_event *event, unsigned workers,
                   void (*work)(struct kube_queue *queue, const char *key, void *userdata), void *userdata,
                   struct kube_queue **ret);
/* Not from inside of `work`. */
void kube_queue_free(struct kube_queue *queue);
DEFINE_CLEANUP(struct kube_queue *, kube_queue_free)

/* 0 or -ENOMEM, as the next two. */
int kube_queue_add(struct kube_queue *queue, const char *key);
/* After a time; the earlier of two counts, and an add without a time counts at once. */
int kube_queue_add_after(struct kube_queue *queue, const char *key, uint64_t delay_usec);
/* After a failure: KUBE_QUEUE_FIRST_USEC, doubled each time up to KUBE_QUEUE_LAST_USEC, until kube_queue_forget(). */
int kube_queue_add_failed(struct kube_queue *queue, const char *key);
void kube_queue_forget(struct kube_queue *queue, const char *key);
/* The work on a key has ended. Must be said once for every call of `work`; the key text is gone afterwards. */
void kube_queue_done(struct kube_queue *queue, const char *key);

/* Waiting now, waiting for their time, under way: for metrics and tests. */
void kube_queue_count(const struct kube_queue *queue, size_t *ret_ready, size_t *ret_later, size_t *ret_working);
