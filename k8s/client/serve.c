/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/client/serve.h"

#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/event.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/list.h"

struct client {
    struct kube_serve *serve;
    LIST_ENTRY(struct client) link;
    int fd;
    sd_event_source *io, *timer;
    struct strbuf in, out;
};

struct kube_serve {
    sd_event *event;
    const struct kube_page *pages;
    void *userdata;
    int fd;
    sd_event_source *io;
    LIST_HEAD(struct client) clients;
    unsigned n_clients;
};

static void client_free(struct client *c)
{
    LIST_REMOVE(c->serve->clients, c, link);
    c->serve->n_clients--;
    sd_event_source_disable_unref(c->io);
    sd_event_source_disable_unref(c->timer);
    close(c->fd);
    strbuf_done(&c->in);
    strbuf_done(&c->out);
    free(c);
}

static void answer(struct client *c)
{
    _cleanup_(strbuf_done) struct strbuf body = {0};
    const char *line = strbuf_text(&c->in), *path = strchr(line, ' ');
    size_t length = path ? strcspn(path + 1, " ?\r\n") : 0;
    bool get = startswith(line, "GET "), head = startswith(line, "HEAD ");
    int status = get || head ? 404 : 405;

    for (const struct kube_page *p = c->serve->pages; p->path && path && status == 404; p++)
        if (strlen(p->path) == length && strncmp(p->path, path + 1, length) == 0)
            status = p->write(&body, c->serve->userdata);
    if (status == 404 || status == 405)
        strbuf_printf(&body, "%s\n", status == 404 ? "there is no such page" : "only GET is understood");
    strbuf_printf(&c->out,
                  "HTTP/1.1 %d %s\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: %zu\r\n"
                  "Connection: close\r\n\r\n",
                  status,
                  status == 200   ? "OK"
                  : status == 404 ? "Not Found"
                  : status == 405 ? "Method Not Allowed"
                                  : "Service Unavailable",
                  body.length);
    if (!head)
        strbuf_add(&c->out, body.data, body.length);
}

/* False when the client is gone. */
static bool flush(struct client *c)
{
    while (c->out.length > 0) {
        ssize_t n = send(c->fd, c->out.data, c->out.length, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return sd_event_source_set_io_events(c->io, EPOLLOUT) >= 0;
        if (n < 0)
            return false;
        strbuf_consume(&c->out, (size_t)n);
    }
    shutdown(c->fd, SHUT_WR);
    return false;
}

static int on_client(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
    struct client *c = userdata;
    char buffer[4096];
    ssize_t n;

    if (c->out.length == 0) {
        n = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return 0;
        if (n <= 0 || c->in.length + (size_t)n > LIMIT_SERVE_REQUEST_BYTES) {
            client_free(c);
            return 0;
        }
        strbuf_add(&c->in, buffer, (size_t)n);
        if (c->in.failed) {
            client_free(c);
            return 0;
        }
        if (!strstr(c->in.data, "\r\n\r\n") && !strstr(c->in.data, "\n\n"))
            return 0;
        answer(c);
    }
    if (c->out.failed || !flush(c))
        client_free(c);
    return 0;
}

static int on_late(sd_event_source *source, uint64_t usec, void *userdata)
{
    client_free(userdata);
    return 0;
}

static int on_connection(sd_event_source *source, int listener, uint32_t events, void *userdata)
{
    struct kube_serve *s = userdata;
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct client *c;

    if (fd < 0)
        return 0;
    if (s->n_clients >= LIMIT_SERVE_CLIENTS)
        client_free(s->clients.first); /* the oldest: the newest may be kubelet */
    c = calloc(1, sizeof(*c));
    if (!c) {
        close(fd);
        return 0;
    }
    c->serve = s;
    c->fd = fd;
    LIST_APPEND(s->clients, c, link);
    s->n_clients++;
    if (sd_event_add_io(s->event, &c->io, fd, EPOLLIN, on_client, c) < 0 ||
        event_arm_timer(s->event, &c->timer, TIMEOUT_SERVE_USEC, on_late, c) < 0)
        client_free(c);
    return 0;
}

static int listen_on(const char *address, struct error **ret_error)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *list = NULL;
    const char *colon = strrchr(address, ':');
    _cleanup_free_ char *host = NULL;
    int fd = -EBADF, off = 0, on = 1, r;

    if (!colon || !colon[1])
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "%s: no address to listen on (HOST:PORT or :PORT)",
                         address);
    host = address[0] == '[' && colon > address + 1 && colon[-1] == ']'
               ? strndup(address + 1, (size_t)(colon - address) - 2)
               : strndup(address, (size_t)(colon - address));
    if (!host)
        return error_oom(ret_error);
    if (!*host)
        hints.ai_family = AF_INET6; /* both: an IPv6 socket takes IPv4 too */
    r = getaddrinfo(*host ? host : NULL, colon + 1, &hints, &list);
    if (r != 0 && !*host) {
        hints.ai_family = AF_INET;
        r = getaddrinfo(NULL, colon + 1, &hints, &list);
    }
    if (r != 0)
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "cannot listen on %s: %s", address, gai_strerror(r));
    fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 && !*host && list->ai_family == AF_INET6) { /* a kernel without IPv6 */
        freeaddrinfo(list);
        list = NULL;
        hints.ai_family = AF_INET;
        if (getaddrinfo(NULL, colon + 1, &hints, &list) == 0)
            fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    }
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        if (list->ai_family == AF_INET6)
            setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    }
    if (fd < 0 || bind(fd, list->ai_addr, list->ai_addrlen) < 0 || listen(fd, SOMAXCONN) < 0) {
        r = error_errno(ret_error, errno, "cannot listen on %s", address);
        fd_close(fd);
        fd = r;
    }
    if (list)
        freeaddrinfo(list);
    return fd;
}

unsigned kube_serve_port(const struct kube_serve *s)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);

    if (getsockname(s->fd, (struct sockaddr *)&address, &length) < 0)
        return 0;
    return ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                               : ((struct sockaddr_in *)&address)->sin_port);
}

void kube_serve_free(struct kube_serve *s)
{
    if (!s)
        return;
    while (s->clients.first)
        client_free(s->clients.first);
    sd_event_source_disable_unref(s->io);
    fd_close(s->fd);
    free(s);
}

int kube_serve_new(sd_event *event, const char *address, const struct kube_page *pages, void *userdata,
                   struct kube_serve **ret, struct error **ret_error)
{
    _cleanup_(kube_serve_freep) struct kube_serve *s = calloc(1, sizeof(*s));

    if (!s)
        return error_oom(ret_error);
    s->event = event;
    s->pages = pages;
    s->userdata = userdata;
    s->fd = listen_on(address, ret_error);
    if (s->fd < 0)
        return s->fd;
    if (sd_event_add_io(event, &s->io, s->fd, EPOLLIN, on_connection, s) < 0)
        return error_oom(ret_error);
    *ret = TAKE_PTR(s);
    return 0;
}
