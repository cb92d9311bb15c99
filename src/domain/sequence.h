/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Commands of the monitor that are one action: sent one after the other, and when one fails what those before it did is
 * undone, last first. For what needs several commands to be whole (a disk is two block nodes and a device).
 */
#pragma once

#include <jansson.h>

#include "domain/domain.h"

struct sequence;

struct sequence_step {
    const char *command;
    json_t *arguments; /* consumed */
    /* see struct qmp_call; static or living as long as the domain's machine, or copied into `arguments` */
    const char *until_event, *event_key, *event_value, *event_key2, *event_value2, *fail_event;
    uint64_t timeout_usec;  /* 0: the table's; UINT64_MAX: none */
    const char *undo;       /* the command that takes it back; NULL: nothing to take back */
    json_t *undo_arguments; /* consumed */
    /* Asked after the command has succeeded, with what sequence_run() was given; a failure is as the command's. */
    int (*check)(struct domain *domain, void *userdata, struct error **ret_error);
    bool may_fail; /* going on is better than giving up */
};

/* `result` is that of the last step, borrowed; NULL after a failure. Called once, then the sequence is gone. */
typedef void (*sequence_done_fn)(struct domain *domain, json_t *result, const struct error *error, void *userdata);

/* NULL: out of memory. */
struct sequence *sequence_new(struct domain *domain);
void sequence_free(struct sequence *sequence);
/* Copies the texts. A failure is remembered, and told by sequence_run(). */
void sequence_add(struct sequence *sequence, const struct sequence_step *step);
/* Takes the sequence. `done` is not called before this returns, and not at all when it fails: -ENOTCONN without a
 * monitor, -ENOMEM. */
int sequence_run(struct sequence *sequence, sequence_done_fn done, void *userdata);
