/* SPDX-License-Identifier: Apache-2.0 */
#include "rpc/server-internal.h"

int rpc_stream_new(struct rpc_call *call, void (*closed)(struct rpc_stream *stream, void *userdata), void *userdata,
                   struct rpc_stream **ret)
{
    struct rpc_stream *stream;

    if (!call->connection)
        return -ENOTCONN;
    stream = calloc(1, sizeof(*stream));
    if (!stream)
        return -ENOMEM;
    *stream = (struct rpc_stream){.connection = call->connection, .closed = closed, .userdata = userdata};
    LIST_PREPEND(call->connection->streams, stream, link);
    *ret = stream;
    return 0;
}

int rpc_stream_send(struct rpc_stream *stream, const char *method, json_t *params)
{
    json_t *message;
    int r;

    if (!stream->connection) {
        json_decref(params);
        return -ENOTCONN;
    }
    message = rpc_message_new(NULL);
    json_object_set_new(message, "method", json_string(method));
    json_object_set_new(message, "params", params);
    r = rpc_connection_send(stream->connection, message);
    json_decref(message);
    return r;
}

void rpc_stream_free(struct rpc_stream *stream)
{
    struct rpc_connection *connection;

    if (!stream)
        return;
    connection = stream->connection;
    if (connection) {
        LIST_REMOVE(connection->streams, stream, link);
        if (connection->server && !connection->is_broken)
            rpc_connection_update(connection);
    }
    free(stream);
}
