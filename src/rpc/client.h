/* SPDX-License-Identifier: Apache-2.0 */
/* A client of the command server: blocking calls for command-line tools, and an asynchronous one on the event loop. */
#pragma once

#include <jansson.h>

#include "base/error.h"
#include "base/event.h"

struct rpc_client;

/* Connects; -ECONNREFUSED or -ENOENT with ERROR_CONNECTION when nobody listens. */
int rpc_client_connect(const char *path, struct rpc_client **ret, struct error **ret_error);
void rpc_client_free(struct rpc_client *client);
static inline void rpc_client_freep(struct rpc_client **client)
{
    rpc_client_free(*client);
    *client = NULL;
}

/* Sends one call and waits for its answer. params consumed (NULL: none). The server's error comes back with its code,
 * QMP class, text and remedy. *ret_result is a new reference (ret_result may be NULL). timeout_usec UINT64_MAX: none.
 * After -ETIMEDOUT the connection can be used on (the late answer is dropped) unless the request was only half sent. */
int rpc_client_call(struct rpc_client *client, const char *method, json_t *params, uint64_t timeout_usec,
                    json_t **ret_result, struct error **ret_error);
/* Waits for the next notification; -ETIMEDOUT without one. For `vmlet events`. */
int rpc_client_next(struct rpc_client *client, uint64_t timeout_usec, char **ret_method, json_t **ret_params,
                    struct error **ret_error);

typedef void (*rpc_answer_fn)(struct rpc_client *client, json_t *result, const struct error *error, void *userdata);
typedef void (*rpc_notify_fn)(struct rpc_client *client, const char *method, json_t *params, void *userdata);
typedef void (*rpc_closed_fn)(struct rpc_client *client, const struct error *error, void *userdata);

/* `result` and `params` are borrowed, exactly one of `result` and `error` is not NULL. Callbacks may free the client.
 * When the connection ends every pending call is answered with ConnectionLost, and then `closed` is called once; by
 * rpc_client_free() they are answered with Cancelled. Notifications that came before are handed out at the first turn.
 * From here on only the asynchronous calls may be used. */
int rpc_client_attach(struct rpc_client *client, sd_event *event, rpc_notify_fn notify, rpc_closed_fn closed,
                      void *userdata);
int rpc_client_call_async(struct rpc_client *client, const char *method, json_t *params, uint64_t timeout_usec,
                          rpc_answer_fn answer, void *userdata);
