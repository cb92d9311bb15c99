/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the VM uses, as KubeVirt's DomainStats (compat §1.6): CPU time from the host's scheduler, memory from the
 * balloon's own reports, disks from QEMU, NICs from the host's tap devices. Nothing of it wakes the guest or stops a
 * vCPU. Answers are kept for STATS_CACHE_USEC.
 */
#pragma once

#include <jansson.h>

#include "base/error.h"

struct domain;
struct stats;

struct stats *stats_new(struct domain *domain);
/* Whoever still waits is answered with ERROR_CANCELLED. */
void stats_free(struct stats *stats);

/* Exactly one of `result` (borrowed) and `error` is not NULL. */
typedef void (*stats_fn)(json_t *result, const struct error *error, void *userdata);
/* DomainStats; `done` is called at once or later. -ENOTCONN: no monitor. */
int stats_get(struct stats *stats, stats_fn done, void *userdata);
/* {"CalcStatus", "CalcStartTime", "CalcPeriod", "MegabytesPerSecond"} with their …Set, measured for one second. */
int stats_get_dirty_rate(struct stats *stats, stats_fn done, void *userdata);
/* The guest's balloon driver is told to report at an interval: once, when the guest runs. */
void stats_enable_balloon_reports(struct stats *stats);

/* The figures as Prometheus text, with KubeVirt's names (compat §5.9). `filesystems`: guest-get-fsinfo's answer, may be
 * NULL. `node` may be NULL. To be freed by the caller; NULL when out of memory. Pure. */
struct metrics_labels {
    const char *namespace_, *name, *node;
};
char *metrics_format(json_t *stats, json_t *filesystems, unsigned panics, const struct metrics_labels *labels);
