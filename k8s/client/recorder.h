/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Events: what happened to an object, for `kubectl describe`. The same event again (object, type, reason, message)
 * raises the count of the first one, at most once in KUBE_EVENT_REPEAT_USEC; from the LIMIT_KUBE_EVENT_MESSAGES-th
 * different message about one matter in KUBE_EVENT_SIMILAR_USEC on they count as one. An event is a favour: what cannot
 * be written after a few attempts is dropped.
 */
#pragma once

#include "k8s/client/client.h"

struct kube_recorder;

/* `component`: the program; `host`: its node or pod, NULL if unknown. Both are copied. */
int kube_recorder_new(struct kube_client *client, const char *component, const char *host, struct kube_recorder **ret);
void kube_recorder_free(struct kube_recorder *recorder);
DEFINE_CLEANUP(struct kube_recorder *, kube_recorder_free)

struct kube_subject { /* what the event is about */
    const char *api_version, *kind, *namespace_, *name, *uid;
};

/* The event's own text is bounded (1024 bytes, as the API server demands). Returns 0, or -ENOMEM. */
int kube_record(struct kube_recorder *recorder, const struct kube_subject *about, bool warning, const char *reason,
                const char *format, ...) _printf_(5, 6);
/* Written (created or counted up), and dropped. */
void kube_recorder_get_figures(const struct kube_recorder *recorder, uint64_t *ret_written, uint64_t *ret_dropped);
