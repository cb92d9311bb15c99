/* SPDX-License-Identifier: Apache-2.0 */
/* Times as Kubernetes' objects have them: RFC 3339 in UTC, whole seconds (Time) or microseconds (MicroTime). */
#pragma once

#include <stdint.h>

#define KUBE_TIME_SIZE       21 /* "2026-11-21T06:00:00Z" */
#define KUBE_TIME_MICRO_SIZE 28 /* "2026-11-21T06:00:00.123456Z" */

/* Wall clock, seconds since 1970. */
int64_t kube_now(void);
void kube_time(int64_t seconds, char ret[static KUBE_TIME_SIZE]);
/* Now. */
void kube_time_micro(char ret[static KUBE_TIME_MICRO_SIZE]);
/* Seconds since 1970, fractions cut off; -1 for what is no time, NULL too. */
int64_t kube_time_parse(const char *text);
