/* SPDX-License-Identifier: Apache-2.0 */
/* The other side of a QMP or agent channel, played by the test: it says and expects exactly what the test writes. */
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include <vmlet/qmp.h>

#include "base/error.h"
#include "base/event.h"
#include "base/fd.h"
#include "base/strbuf.h"

#define GREETING                                                                                                       \
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, \"package\": \"\"}, "             \
    "\"capabilities\": []}}\r\n"
#define GREETING_OOB                                                                                                   \
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 1, \"major\": 11}, \"package\": \"\"}, "             \
    "\"capabilities\": [\"oob\"]}}\r\n"

struct peer {
    sd_event *event;
    int fd;
    struct strbuf input; /* what came, without the lines already taken */
};

/* What a callback got. */
struct answer {
    int count;
    json_t *result;
    struct error *error;
};

static inline void answer_done(struct answer *a)
{
    json_decref(a->result);
    error_free(a->error);
    *a = (struct answer){0};
}
#define _cleanup_answer_ _cleanup_(answer_done)

static inline void take_answer(void *userdata, json_t *result, const struct error *error)
{
    struct answer *a = userdata;

    assert_true(!result != !error);
    json_decref(a->result);
    error_free(a->error);
    if (error)
        print_message("an error: %s\n", error_message(error));
    a->count++;
    a->result = json_incref(result);
    a->error = error_copy(error);
}

static inline void on_reply(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    take_answer(userdata, result, error);
}

/* Returns the client's end. */
static inline int peer_init(struct peer *p)
{
    int pair[2];

    *p = (struct peer){.fd = -EBADF};
    assert_return_code(event_new(&p->event), 0);
    assert_return_code(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), errno);
    p->fd = pair[0];
    return pair[1];
}

static inline void peer_done(struct peer *p)
{
    strbuf_done(&p->input);
    p->fd = fd_close(p->fd);
    p->event = sd_event_unref(p->event);
}
#define _cleanup_peer_ _cleanup_(peer_done)

static inline void peer_close(struct peer *p)
{
    p->fd = fd_close(p->fd);
}

/* Turns the loop until nothing is left to do at once. */
static inline void peer_settle(struct peer *p)
{
    while (sd_event_run(p->event, 0) > 0)
        ;
}

static inline void peer_send_bytes(struct peer *p, const void *data, size_t n)
{
    size_t sent = 0;

    while (sent < n) {
        ssize_t w = send(p->fd, (const char *)data + sent, n - sent, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (w < 0)
            assert_int_equal(errno, EAGAIN);
        else
            sent += (size_t)w;
        peer_settle(p);
    }
}

static inline void peer_send(struct peer *p, const char *text)
{
    peer_send_bytes(p, text, strlen(text));
}

/* Turns the loop until the value is at least n; fails after a minute. */
static inline void peer_wait(struct peer *p, const int *value, int n)
{
    uint64_t end = now_usec() + 60000000;

    while (*value < n) {
        assert_true(now_usec() < end);
        assert_return_code(sd_event_run(p->event, 1000000), 0);
    }
}

/* The next line that the client sent, parsed; a new reference. */
static inline json_t *peer_receive(struct peer *p)
{
    uint64_t end = now_usec() + 60000000;
    char *newline;
    json_t *json = NULL;

    while (!(newline = memchr(strbuf_text(&p->input), '\n', p->input.length))) {
        ssize_t n;
        char *room = strbuf_reserve(&p->input, 65536);

        assert_non_null(room);
        peer_settle(p);
        n = recv(p->fd, room, 65536, MSG_DONTWAIT);
        assert_true(now_usec() < end);
        assert_true(n > 0 || (n < 0 && errno == EAGAIN));
        if (n > 0)
            p->input.length += (size_t)n;
        else
            sd_event_run(p->event, 10000);
    }
    while (p->input.length > 0 && (unsigned char)*p->input.data == 0xff) {
        strbuf_consume(&p->input, 1);
        newline--;
    }
    assert_return_code(qmp_json_parse(p->input.data, (size_t)(newline - p->input.data), &json, NULL), 0);
    strbuf_consume(&p->input, (size_t)(newline - p->input.data) + 1);
    return json;
}

/* Receives a command and checks its name; its id. */
static inline long long peer_expect(struct peer *p, const char *command)
{
    json_t *json = peer_receive(p);
    const char *name = json_string_value(json_object_get(json, "execute"));
    long long id = json_integer_value(json_object_get(json, "id"));

    if (!name)
        name = json_string_value(json_object_get(json, "exec-oob"));
    assert_string_equal(name, command);
    json_decref(json);
    return id;
}

static inline void peer_printf(struct peer *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
static inline void peer_printf(struct peer *p, const char *format, ...)
{
    struct strbuf b = {0};
    va_list ap;

    va_start(ap, format);
    strbuf_vprintf(&b, format, ap);
    va_end(ap);
    peer_send_bytes(p, strbuf_text(&b), b.length);
    strbuf_done(&b);
}

/* A client in the state that is asked for. */
static inline struct qmp_client *peer_open(struct peer *p, const char *greeting, enum qmp_state state)
{
    struct qmp_client *client;
    int fd = peer_init(p);

    assert_return_code(qmp_client_new(p->event, fd, &client), 0);
    if (strstr(greeting, "oob"))
        assert_return_code(qmp_client_enable_oob(client), 0);
    if (state >= QMP_NEGOTIATING) {
        peer_send(p, greeting);
        assert_int_equal(peer_expect(p, "qmp_capabilities"), 1);
    }
    if (state >= QMP_RUNNING)
        peer_send(p, "{\"return\": {}, \"id\": 1}\r\n");
    assert_int_equal(qmp_client_get_state(client), state);
    return client;
}

static inline struct qmp_client *peer_connect(struct peer *p, const char *greeting)
{
    return peer_open(p, greeting, QMP_RUNNING);
}
