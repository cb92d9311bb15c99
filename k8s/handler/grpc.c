/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/event.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/strbuf.h"
#include "k8s/handler/grpc.h"

#define FRAME_HEADER 5U /* gRPC's own: a flag (compressed?) and the message's length, big endian */

struct connection;

/* One HTTP/2 stream: a call that is served, or the one that we make. */
struct grpc_call {
    struct connection *connection;
    struct grpc_call *next, *previous;
    int32_t stream;
    const struct grpc_method *method; /* NULL: unknown, or a call of ours */
    struct strbuf in, out;
    size_t sent; /* of out */
    bool headers_sent, ended, dispatched;
    int code;
    char *text;
    void (*closed)(struct grpc_call *call, void *userdata);
    void *userdata;
};

struct connection {
    struct grpc_server *server; /* one of the two */
    struct grpc_request *request;
    struct connection *next, *previous;
    nghttp2_session *session;
    sd_event_source *io;
    struct grpc_call *calls;
    int fd;
};

struct grpc_server {
    sd_event *event;
    sd_event_source *accept;
    const struct grpc_method *methods;
    void *userdata;
    char *path;
    struct connection *connections;
    unsigned count;
    int fd;
};

struct grpc_request {
    struct connection connection;
    struct grpc_call call;
    sd_event_source *timer;
    grpc_answer handler;
    void *userdata;
    int code; /* -1: not said yet */
    char *text;
    bool finished;
};

static void connection_end(struct connection *c, const char *why);
static void pump(struct connection *c);

/* ---- calls ------------------------------------------------------------------------------------------------------ */

static void call_done(struct grpc_call *call)
{
    strbuf_done(&call->in);
    strbuf_done(&call->out);
    free(call->text);
    call->text = NULL;
}

static void call_free(struct grpc_call *call)
{
    struct connection *c = call->connection;

    if (call->previous)
        call->previous->next = call->next;
    else
        c->calls = call->next;
    if (call->next)
        call->next->previous = call->previous;
    call_done(call);
    free(call);
}

static nghttp2_nv header(const char *name, const char *value)
{
    return (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name), strlen(value), 0};
}

/* nghttp2 takes as much as the peer's window allows. */
static ssize_t read_out(nghttp2_session *session, int32_t stream, uint8_t *buffer, size_t length, uint32_t *flags,
                        nghttp2_data_source *source, void *userdata)
{
    struct grpc_call *call = source->ptr;
    size_t left = call->out.length - call->sent, n = left < length ? left : length;

    if (n > 0)
        memcpy(buffer, call->out.data + call->sent, n);
    call->sent += n;
    if (n == left) {
        strbuf_clear(&call->out);
        call->sent = 0;
    }
    if (n == left && call->ended) {
        char number[12];

        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (call->connection->server) {
            nghttp2_nv trailers[2];

            snprintf(number, sizeof(number), "%d", call->code);
            trailers[0] = header("grpc-status", number);
            trailers[1] = header("grpc-message", call->text ? call->text : "");
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            if (nghttp2_submit_trailer(session, stream, trailers, call->text ? 2 : 1) != 0)
                return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        }
        return (ssize_t)n;
    }
    return n > 0 ? (ssize_t)n : NGHTTP2_ERR_DEFERRED;
}

static int send_headers(struct grpc_call *call)
{
    nghttp2_data_provider provider = {.source.ptr = call, .read_callback = read_out};
    nghttp2_nv headers[] = {header(":status", "200"), header("content-type", "application/grpc")};

    if (call->headers_sent) {
        nghttp2_session_resume_data(call->connection->session, call->stream);
        return 0;
    }
    call->headers_sent = true;
    return nghttp2_submit_response(call->connection->session, call->stream, headers, ELEMENTSOF(headers), &provider) ==
                   0
               ? 0
               : -ENOMEM;
}

static int frame(struct strbuf *out, const uint8_t *message, size_t length)
{
    uint8_t head[FRAME_HEADER] = {0, (uint8_t)(length >> 24), (uint8_t)(length >> 16), (uint8_t)(length >> 8),
                                  (uint8_t)length};

    if (length > LIMIT_GRPC_MESSAGE_BYTES)
        return -EMSGSIZE;
    strbuf_add(out, head, sizeof(head));
    strbuf_add(out, message, length);
    return out->failed ? -ENOMEM : 0;
}

int grpc_call_send(struct grpc_call *call, const uint8_t *message, size_t length)
{
    int r = frame(&call->out, message, length);

    if (r >= 0)
        r = send_headers(call);
    if (r >= 0)
        pump(call->connection);
    return r;
}

void grpc_call_end(struct grpc_call *call, int code, const char *text)
{
    if (call->ended)
        return;
    call->ended = true;
    call->code = code;
    call->closed = NULL;
    if (text)
        call->text = strdup(text);
    (void)send_headers(call);
    pump(call->connection);
}

void grpc_call_on_closed(struct grpc_call *call, void (*closed)(struct grpc_call *call, void *userdata), void *userdata)
{
    call->closed = closed;
    call->userdata = userdata;
}

/* ---- what nghttp2 tells ----------------------------------------------------------------------------------------- */

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame_, void *userdata)
{
    struct connection *c = userdata;
    struct grpc_call *call;

    if (!c->server || frame_->hd.type != NGHTTP2_HEADERS || frame_->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    call = calloc(1, sizeof(*call));
    if (!call)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    call->connection = c;
    call->stream = frame_->hd.stream_id;
    call->next = c->calls;
    if (c->calls)
        c->calls->previous = call;
    c->calls = call;
    return nghttp2_session_set_stream_user_data(session, call->stream, call);
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame_, const uint8_t *name, size_t name_length,
                     const uint8_t *value, size_t value_length, uint8_t flags, void *userdata)
{
    struct connection *c = userdata;
    struct grpc_call *call = nghttp2_session_get_stream_user_data(session, frame_->hd.stream_id);

    if (!call)
        return 0;
    if (c->server) {
        if (streq((const char *)name, ":path"))
            for (const struct grpc_method *m = c->server->methods; m->path; m++)
                if (streq(m->path, (const char *)value))
                    call->method = m;
    } else if (streq((const char *)name, "grpc-status"))
        c->request->code = atoi((const char *)value);
    else if (streq((const char *)name, "grpc-message")) {
        free(c->request->text);
        c->request->text = strndup((const char *)value, value_length);
    }
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *data, size_t length,
                   void *userdata)
{
    struct grpc_call *call = nghttp2_session_get_stream_user_data(session, stream);

    if (!call)
        return 0;
    if (call->in.length + length > LIMIT_GRPC_MESSAGE_BYTES + FRAME_HEADER)
        return nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, stream, NGHTTP2_ENHANCE_YOUR_CALM);
    strbuf_add(&call->in, data, length);
    return call->in.failed ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

/* The one message that came whole; NULL if that is not what came. */
static const uint8_t *unframe(const struct strbuf *in, size_t *ret_length)
{
    const uint8_t *p = (const uint8_t *)in->data;
    size_t length;

    if (in->length < FRAME_HEADER || p[0] != 0)
        return NULL;
    length = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4];
    if (length != in->length - FRAME_HEADER)
        return NULL;
    *ret_length = length;
    return p + FRAME_HEADER;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame_, void *userdata)
{
    struct connection *c = userdata;
    struct grpc_call *call = nghttp2_session_get_stream_user_data(session, frame_->hd.stream_id);
    const uint8_t *message;
    size_t length = 0;

    if (!call || !c->server || call->dispatched || !(frame_->hd.flags & NGHTTP2_FLAG_END_STREAM))
        return 0;
    call->dispatched = true;
    message = unframe(&call->in, &length);
    if (!call->method)
        grpc_call_end(call, GRPC_UNIMPLEMENTED, "no such method");
    else if (!message)
        grpc_call_end(call, GRPC_INVALID_ARGUMENT, "one uncompressed message is wanted");
    else
        call->method->handle(call, message, length, c->server->userdata);
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream, uint32_t error_code, void *userdata)
{
    struct connection *c = userdata;
    struct grpc_call *call = nghttp2_session_get_stream_user_data(session, stream);

    if (!call)
        return 0;
    if (!c->server) {
        c->request->finished = true;
        return 0;
    }
    if (call->closed)
        call->closed(call, call->userdata);
    call_free(call);
    return 0;
}

static int session_new(struct connection *c)
{
    nghttp2_session_callbacks *callbacks;
    const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, LIMIT_GRPC_STREAMS},
                                               {NGHTTP2_SETTINGS_ENABLE_PUSH, 0}};
    int r;

    if (nghttp2_session_callbacks_new(&callbacks) != 0)
        return -ENOMEM;
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    r = c->server ? nghttp2_session_server_new(&c->session, callbacks, c)
                  : nghttp2_session_client_new(&c->session, callbacks, c);
    nghttp2_session_callbacks_del(callbacks);
    /* a server says nothing of pushes: only clients may (RFC 9113, 6.5.2) */
    if (r == 0)
        r = nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings, c->server ? 1 : 2);
    return r == 0 ? 0 : -ENOMEM;
}

/* ---- bytes ------------------------------------------------------------------------------------------------------ */

/* Called from within nghttp2's callbacks too: what is to be sent is left to the loop, and so is every failure. */
static void pump(struct connection *c)
{
    sd_event_source_set_io_events(c->io, EPOLLIN | EPOLLOUT);
}

static int send_out(struct connection *c)
{
    const uint8_t *data;
    ssize_t length;

    /* A unix socket's buffer takes what kubelet reads; what does not fit closes the connection, and kubelet comes
     * again.
     */
    while ((length = nghttp2_session_mem_send(c->session, &data)) > 0) {
        ssize_t done = 0;

        while (done < length) {
            ssize_t n = send(c->fd, data + done, (size_t)(length - done), MSG_NOSIGNAL);

            if (n < 0 && errno == EINTR)
                continue;
            if (n < 0)
                return -errno;
            done += n;
        }
    }
    return length < 0 ? -EPROTO : 0;
}

static int on_io(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
    struct connection *c = userdata;
    uint8_t buffer[16384];
    int r;

    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        ssize_t n = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            n = -1;
        else if (n <= 0) {
            connection_end(c, "closed");
            return 0;
        }
        if (n > 0 && nghttp2_session_mem_recv(c->session, buffer, (size_t)n) < 0) {
            connection_end(c, "not HTTP/2");
            return 0;
        }
    }
    sd_event_source_set_io_events(c->io, EPOLLIN);
    r = send_out(c);
    if (r < 0 || (!nghttp2_session_want_read(c->session) && !nghttp2_session_want_write(c->session)) ||
        (!c->server && c->request->finished))
        connection_end(c, r < 0 ? strerror(-r) : "ended");
    return 0;
}

static int connection_start(struct connection *c, sd_event *event)
{
    struct timeval patience = {.tv_sec = 1};
    int r = session_new(c);

    /* The peer is a program of this node that reads; one that does not must not stop us for long. */
    if (r >= 0 && setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0)
        r = -errno;
    return r < 0 ? r : sd_event_add_io(event, &c->io, c->fd, EPOLLIN | EPOLLOUT, on_io, c);
}

static void connection_done(struct connection *c)
{
    sd_event_source_disable_unref(c->io);
    nghttp2_session_del(c->session);
    fd_close(c->fd);
}

/* ---- server ----------------------------------------------------------------------------------------------------- */

static void served_free(struct connection *c, bool tell)
{
    struct grpc_server *server = c->server;

    while (c->calls) {
        struct grpc_call *call = c->calls;

        if (tell && call->closed)
            call->closed(call, call->userdata);
        call_free(call);
    }
    if (c->previous)
        c->previous->next = c->next;
    else
        server->connections = c->next;
    if (c->next)
        c->next->previous = c->previous;
    server->count--;
    connection_done(c);
    free(c);
}

static int on_accept(sd_event_source *source, int listener, uint32_t events, void *userdata)
{
    struct grpc_server *server = userdata;
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    struct connection *c;

    if (fd < 0)
        return 0;
    c = server->count < LIMIT_GRPC_CONNECTIONS ? calloc(1, sizeof(*c)) : NULL;
    if (!c) {
        log_warning("%s: a connection more than %u is refused", server->path, LIMIT_GRPC_CONNECTIONS);
        close(fd);
        return 0;
    }
    c->server = server;
    c->fd = fd;
    c->next = server->connections;
    if (c->next)
        c->next->previous = c;
    server->connections = c;
    server->count++;
    if (connection_start(c, server->event) < 0)
        served_free(c, true);
    return 0;
}

int grpc_server_new(sd_event *event, const char *path, const struct grpc_method *methods, void *userdata,
                    struct grpc_server **ret, struct error **ret_error)
{
    _cleanup_(grpc_server_freep) struct grpc_server *server = calloc(1, sizeof(*server));
    int r;

    if (!server)
        return error_oom(ret_error);
    server->fd = -EBADF;
    server->path = strdup(path);
    if (!server->path)
        return error_oom(ret_error);
    server->event = event;
    server->methods = methods;
    server->userdata = userdata;
    r = unix_listen(path, 0600, 16, &server->fd, ret_error);
    if (r < 0)
        return r;
    r = sd_event_add_io(event, &server->accept, server->fd, EPOLLIN, on_accept, server);
    if (r < 0)
        return error_errno(ret_error, r, "cannot watch %s", path);
    *ret = TAKE_PTR(server);
    return 0;
}

void grpc_server_free(struct grpc_server *server)
{
    if (!server)
        return;
    while (server->connections)
        served_free(server->connections, false);
    sd_event_source_disable_unref(server->accept);
    if (server->accept)
        (void)unlink(server->path);
    fd_close(server->fd);
    free(server->path);
    free(server);
}

/* ---- client ----------------------------------------------------------------------------------------------------- */

void grpc_request_cancel(struct grpc_request *request)
{
    if (!request)
        return;
    sd_event_source_disable_unref(request->timer);
    connection_done(&request->connection);
    call_done(&request->call);
    free(request->text);
    free(request);
}

static void request_end(struct grpc_request *request, int code, const char *text)
{
    grpc_answer handler = request->handler;
    void *userdata = request->userdata;
    size_t length = 0;
    const uint8_t *message = code == GRPC_OK ? unframe(&request->call.in, &length) : NULL;

    if (code == GRPC_OK && !message) {
        code = GRPC_UNAVAILABLE;
        text = "an answer without a message";
    }
    handler(code, text, message, length, userdata);
    grpc_request_cancel(request);
}

static void connection_end(struct connection *c, const char *why)
{
    if (c->server)
        served_free(c, true);
    else if (c->request->code >= 0)
        request_end(c->request, c->request->code, c->request->text);
    else
        request_end(c->request, GRPC_UNAVAILABLE, why);
}

static int on_timeout(sd_event_source *source, uint64_t usec, void *userdata)
{
    request_end(userdata, GRPC_DEADLINE, "no answer in time");
    return 0;
}

static int request_submit(struct grpc_request *request, const char *method)
{
    nghttp2_data_provider provider = {.source.ptr = &request->call, .read_callback = read_out};
    nghttp2_nv headers[] = {header(":method", "POST"),      header(":scheme", "http"),
                            header(":path", method),        header(":authority", "localhost"),
                            header("te", "trailers"),       header("content-type", "application/grpc"),
                            header("user-agent", "vmlet/1")};
    int32_t stream = nghttp2_submit_request(request->connection.session, NULL, headers, ELEMENTSOF(headers), &provider,
                                            &request->call);

    request->call.stream = stream;
    request->call.ended = true; /* one message is all that we send */
    return stream < 0 ? -ENOMEM : 0;
}

int grpc_invoke(sd_event *event, const char *path, const char *method, const uint8_t *message, size_t length,
                uint64_t timeout_usec, grpc_answer handler, void *userdata, struct grpc_request **ret,
                struct error **ret_error)
{
    struct grpc_request *request = calloc(1, sizeof(*request));
    int r;

    if (!request)
        return error_oom(ret_error);
    request->connection.fd = -EBADF;
    request->code = -1;
    request->handler = handler;
    request->userdata = userdata;
    request->connection.request = request;
    request->call.connection = &request->connection;
    r = unix_connect(path, &request->connection.fd, NULL);
    if (r >= 0)
        r = connection_start(&request->connection, event);
    if (r >= 0)
        r = frame(&request->call.out, message, length);
    if (r >= 0)
        r = request_submit(request, method);
    if (r >= 0)
        r = event_arm_timer(event, &request->timer, timeout_usec, on_timeout, request);
    if (r < 0) {
        grpc_request_cancel(request);
        return error_errno(ret_error, r, "cannot call %s at %s", method, path);
    }
    if (ret)
        *ret = request;
    return 0;
}
