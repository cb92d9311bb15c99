/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command server: JSON-RPC 2.0, one object a line, on a unix socket. The method table knows nothing of the wire,
 * so that another protocol can serve the same methods on the same socket.
 */
#pragma once

#include <jansson.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/event.h"

#define RPC_TYPE_ANY ((json_type)-1)

struct rpc_server;
struct rpc_call; /* one request that waits for its answer; it outlives its connection */

struct rpc_peer {
    pid_t pid;
    uid_t uid;
};

/* Answers now or later by rpc_reply() or rpc_fail(), exactly once. `params` is borrowed (an object, maybe empty). */
typedef void (*rpc_handler_fn)(struct rpc_call *call, json_t *params, void *userdata);

struct rpc_param {
    const char *name;
    json_type type; /* JSON_TRUE: a boolean; JSON_REAL: any number; RPC_TYPE_ANY */
    bool required;
    const char *what; /* one line for Describe */
};

struct rpc_method {
    const char *name;               /* "PauseVirtualMachine" */
    const char *what;               /* one line for Describe and the docs */
    uint32_t states;                /* bit mask of the states in which it is allowed; 0: all */
    const struct rpc_param *params; /* ends with a NULL name; NULL: none. Unknown members are refused */
    rpc_handler_fn handler;
};

struct rpc_server_options {
    const char *path;                 /* the socket; made with mode 0600 */
    int listen_fd;                    /* instead of path when >= 0: already listening, taken over */
    const struct rpc_method *methods; /* ends with a NULL name; must outlive the server. Ping and Describe are added */
    const char *const *state_names;   /* for error texts and Describe: name of bit i; NULL-terminated */
    unsigned (*get_state)(void *userdata); /* index of the present state's bit */
    void *userdata;                        /* for get_state and the handlers */
    uid_t allowed_uid;                     /* besides root; usually geteuid() */
    /* Why this client is refused, whoever's it is; NULL: it is not. May be NULL. */
    const char *(*refuse)(const struct rpc_peer *peer, void *userdata);
    uint64_t line_timeout_usec; /* 0: LIMIT_RPC_LINE_USEC */
    /* A client was refused, or cut off for what it did: for the program's log. May be NULL; frees nothing. */
    void (*complain)(const struct rpc_peer *peer, const struct error *error, void *userdata);
};

int rpc_server_new(sd_event *event, const struct rpc_server_options *options, struct rpc_server **ret,
                   struct error **ret_error);
/* Pending calls are answered with ConnectionLost (who holds one still ends it, to no effect); what is queued is flushed
 * as far as the sockets take it at once; the socket's file is removed. May be called by a handler. */
void rpc_server_free(struct rpc_server *server);
static inline void rpc_server_freep(struct rpc_server **server)
{
    rpc_server_free(*server);
    *server = NULL;
}
/* launcher-init-sock -> launcher-sock. */
int rpc_server_rename(struct rpc_server *server, const char *new_path, struct error **ret_error);

/* Consumes result (NULL counts as an empty object) and ends the call. */
void rpc_reply(struct rpc_call *call, json_t *result);
void rpc_fail(struct rpc_call *call, const struct error *error);
/* As rpc_fail(), with more members for the error's "data" ("path", "faults"…); an object, consumed. */
void rpc_fail_with(struct rpc_call *call, const struct error *error, json_t *data);
const struct rpc_peer *rpc_call_peer(const struct rpc_call *call);
const char *rpc_call_method(const struct rpc_call *call);

/* ---- notifications --------------------------------------------------------------------------------------------- */

/* A stream of notifications to the connection that a call came from; it lasts until the connection ends or it is freed.
 */
struct rpc_stream;
/* After rpc_reply() the call is gone; the stream stays. `closed` is called once when the connection has ended (also by
 * rpc_server_free()), and may free the stream. -ENOTCONN when the connection is gone already. What is sent before
 * rpc_reply() reaches the client before the answer. */
int rpc_stream_new(struct rpc_call *call, void (*closed)(struct rpc_stream *stream, void *userdata), void *userdata,
                   struct rpc_stream **ret);
/* One notification {"jsonrpc":"2.0","method":method,"params":params}; params consumed. -ENOBUFS: the reader is too slow
 * (LIMIT_RPC_OUTPUT_BYTES); the connection is closed, `closed` follows. */
int rpc_stream_send(struct rpc_stream *stream, const char *method, json_t *params);
void rpc_stream_free(struct rpc_stream *stream);
