/* SPDX-License-Identifier: Apache-2.0 */
/* What the agent's helpers (exec, files) need of its client. */
#pragma once

#include <sys/queue.h>

#include <vmlet/qmp.h>

#include "base/error.h"
#include "base/event.h"

/*
 * Something that takes several commands. While it lives it is on the client's list, so that qga_client_free() and a
 * reset end it too when it is between two commands. `end` frees it and calls its callback.
 */
struct qga_operation {
    LIST_ENTRY(qga_operation) link;
    struct qga_client *agent;
    bool in_call; /* a command is under way: its callback brings the error */
    void (*end)(struct qga_operation *operation, const struct error *error);
};

void qga_operation_begin(struct qga_client *agent, struct qga_operation *operation);
void qga_operation_finish(struct qga_operation *operation);
/* qga_client_call() for an operation. */
int qga_operation_call(struct qga_operation *operation, const char *command, json_t *arguments, uint64_t deadline,
                       qga_reply_fn callback);
sd_event *qga_client_event(struct qga_client *agent);
/* CLOCK_MONOTONIC time of now + timeout, without overflow. */
uint64_t qga_deadline(uint64_t timeout_usec);
/* Bytes as a JSON string; what is not UTF-8, and NUL, becomes U+FFFD. NULL when out of memory. */
json_t *qga_json_text(const char *data, size_t length);
/* A base64 member of an answer; an absent one is empty. -EINVAL. Freed by the caller. */
int qga_decode_member(json_t *object, const char *name, char **ret_data, size_t *ret_length);
