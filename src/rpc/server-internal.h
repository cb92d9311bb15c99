/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the command server share: server.c (connections), request.c (calls), stream.c, builtin.c. */
#pragma once

#include "base/list.h"
#include "rpc/server.h"
#include "rpc/wire.h"

/*
 * Lifetimes. A connection is held by its server and, while it is being served, by the function that serves it: a
 * handler may free the server, and a write may fail, below us. Calls and streams know their connection by a pointer
 * that is cleared when the connection ends. A server that is freed while one of its functions runs goes at the end of
 * that function.
 */
struct rpc_server {
    unsigned n_refs;
    sd_event *event;
    struct rpc_server_options options;
    char *path;
    dev_t device; /* of the socket's file: only our own is removed at the end */
    ino_t inode;
    int listen_fd;
    sd_event_source *listen_source, *accept_timer, *trim_timer;
    LIST_HEAD(struct rpc_connection) connections;
    unsigned n_connections;
};

struct rpc_connection {
    unsigned n_refs;
    struct rpc_server *server; /* NULL when closed */
    LIST_ENTRY(struct rpc_connection) link;
    struct rpc_peer peer;
    int fd;
    sd_event_source *io_source, *line_timer, *close_source;
    struct rpc_input input;
    struct rpc_output output;
    LIST_HEAD(struct rpc_call) calls;
    LIST_HEAD(struct rpc_stream) streams;
    unsigned n_calls;
    bool is_serving;  /* in connection_serve(): no second time */
    bool has_ended;   /* the client sends no more: answer what is pending, then close */
    bool is_paused;   /* whole requests may lie in the input: they wait until the client has read its answers */
    bool was_slow;    /* that it does not read was said */
    bool is_dropping; /* one error goes out, then close */
    bool is_broken;   /* the socket failed or the client is too slow: closed at the loop's next turn */
};

struct rpc_call {
    struct rpc_connection *connection; /* NULL when it has ended */
    LIST_ENTRY(struct rpc_call) link;
    const struct rpc_method *method;
    struct rpc_peer peer;
    json_t *id; /* NULL: a notification, nobody waits for an answer */
};

struct rpc_stream {
    struct rpc_connection *connection;
    LIST_ENTRY(struct rpc_stream) link;
    void (*closed)(struct rpc_stream *stream, void *userdata);
    void *userdata;
};

/* Ping and Describe; ends with an empty row. */
extern const struct rpc_method rpc_builtin_methods[];

/* The state the VM is in, as the server's owner says; 0 if it says none. Its name, or NULL. */
unsigned rpc_server_state(const struct rpc_server *server);
const char *rpc_server_state_name(const struct rpc_server *server, unsigned state);

/* Sets what is waited for next: more requests, room in the socket, the end of a line, or nothing. */
void rpc_connection_update(struct rpc_connection *connection);
/* For the record: what this client did. */
void rpc_connection_complain(const struct rpc_connection *connection, const struct error *error);
/* Queues one message and sends what goes. -EMSGSIZE: it is too large, and nothing was queued. -ENOBUFS, and the
 * connection ends, when the client does not read; -ENOTCONN when it has ended. */
int rpc_connection_send(struct rpc_connection *connection, const json_t *message);
/* id NULL: null, as JSON-RPC has it when the id could not be read. data consumed. */
int rpc_connection_send_error(struct rpc_connection *connection, json_t *id, int number, const struct error *error,
                              json_t *data);
/* {"jsonrpc": "2.0"}, and the id if it is not NULL. */
json_t *rpc_message_new(json_t *id);

/* One whole line of the client: calls a method's handler, or answers why not. The caller holds a reference to the
 * connection; a handler may have ended it, and freed the server. */
void rpc_request_handle(struct rpc_connection *connection, const char *line, size_t length);

/* JSON's name for a parameter's type. */
const char *rpc_type_name(json_type type);
