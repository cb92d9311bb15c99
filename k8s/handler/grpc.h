/* SPDX-License-Identifier: Apache-2.0 */
/*
 * As much gRPC as kubelet speaks with a device plugin (PROTOCOL-HTTP2 of the gRPC project): unary calls and streams of
 * answers, without compression, over a unix socket. HTTP/2 is nghttp2's. Messages are bytes here.
 */
#pragma once

#include <systemd/sd-event.h>

#include "base/error.h"

/* Status codes of gRPC that are used here. */
#define GRPC_OK               0
#define GRPC_INVALID_ARGUMENT 3
#define GRPC_DEADLINE         4
#define GRPC_EXHAUSTED        8
#define GRPC_UNIMPLEMENTED    12
#define GRPC_UNAVAILABLE      14

struct grpc_server;
struct grpc_call;

struct grpc_method {
    const char *path; /* "/v1beta1.DevicePlugin/Allocate"; NULL ends the table */
    /* Answers by the functions below, at once or later, unless `closed` comes first. `message` is the handler's only
     * while it runs. */
    void (*handle)(struct grpc_call *call, const uint8_t *message, size_t length, void *userdata);
};

/* Listens on `path`: a socket that nobody serves is replaced. Table and userdata must live on. */
int grpc_server_new(sd_event *event, const char *path, const struct grpc_method *methods, void *userdata,
                    struct grpc_server **ret, struct error **ret_error);
/* Ends every connection, and removes the socket. Calls that are open are closed without their `closed` being called. */
void grpc_server_free(struct grpc_server *server);
DEFINE_CLEANUP(struct grpc_server *, grpc_server_free)

/* One message of the answer; 0, -ENOMEM, or -EMSGSIZE. */
int grpc_call_send(struct grpc_call *call, const uint8_t *message, size_t length);
/* The end of the answer. `text` (may be NULL) says what was wrong. The call is gone soon afterwards: do not use it. */
void grpc_call_end(struct grpc_call *call, int code, const char *text);
/* Told once when the caller has gone before the end; the call is then gone. */
void grpc_call_on_closed(struct grpc_call *call, void (*closed)(struct grpc_call *call, void *userdata),
                         void *userdata);

/* `code` is gRPC's; a connection that cannot be made or ends is GRPC_UNAVAILABLE. `message` is NULL unless it is OK. */
typedef void (*grpc_answer)(int code, const char *text, const uint8_t *message, size_t length, void *userdata);

struct grpc_request;
/* One unary call on a connection of its own to the unix socket `path`. The handler is called once, from the loop. */
int grpc_invoke(sd_event *event, const char *path, const char *method, const uint8_t *message, size_t length,
                uint64_t timeout_usec, grpc_answer handler, void *userdata, struct grpc_request **ret,
                struct error **ret_error);
/* Its handler is not called any more. Not after the handler was called; NULL is allowed. */
void grpc_request_cancel(struct grpc_request *request);
