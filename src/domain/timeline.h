/* SPDX-License-Identifier: Apache-2.0 */
/* Where the start-up time went: named marks on the monotonic clock, counted from the program's start. */
#pragma once

#include <jansson.h>

#include "base/util.h"

#define TIMELINE_MARKS 16U

/* The marks that status, log and metric show, in the order in which they usually come. */
#define MARK_EXEC     "exec"     /* main() entered: time zero */
#define MARK_MANIFEST "manifest" /* read, defaulted, valid */
#define MARK_STORAGE  "storage"  /* images made and examined */
#define MARK_ARGV     "argv"     /* machine built */
#define MARK_SPAWN    "spawn"    /* QEMU executed */
#define MARK_GREETING "greeting" /* QEMU's monitor answers */
#define MARK_RUNNING  "running"  /* the vCPUs run */
#define MARK_CONSOLE  "console"  /* the guest's first console byte */
#define MARK_AGENT    "agent"    /* the guest agent answers */

struct timeline {
    struct {
        const char *name;   /* static storage */
        uint64_t usec;      /* CLOCK_MONOTONIC */
        uint64_t wall_usec; /* CLOCK_REALTIME */
    } marks[TIMELINE_MARKS];
    unsigned count;
};

uint64_t realtime_usec(void);
/* Stamps a mark once; false if it has been there or there is no room. */
bool timeline_mark(struct timeline *timeline, const char *name);
/* Microseconds from the first mark, or UINT64_MAX if it has not been reached. */
uint64_t timeline_get(const struct timeline *timeline, const char *name);
/* {"events": [{"name", "usec", "wall"}]}: a new reference, NULL when out of memory. */
json_t *timeline_to_json(const struct timeline *timeline);
/* The whole as one log record. */
void timeline_log(const struct timeline *timeline, const char *domain_name);
/* RFC 3339 in UTC with microseconds; `text` has room for 40 bytes. */
const char *format_time(uint64_t wall_usec, char *text);
