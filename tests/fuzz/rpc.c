/* SPDX-License-Identifier: Apache-2.0 */
/* The command server reads what a client sends, in pieces of odd sizes. Every line that it answers must be an answer in
 * JSON-RPC's form, and after the client's end of file it must close. */
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/event.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/strbuf.h"
#include "rpc/server.h"
#include "json/text.h"

#define PIECE_BYTES 143U /* no divisor of any buffer's size */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void handle_echo(struct rpc_call *call, json_t *params, void *userdata)
{
    rpc_reply(call, json_incref(params));
}

static void handle_fail(struct rpc_call *call, json_t *params, void *userdata)
{
    _cleanup_error_ struct error *error = NULL;

    error_set(&error, ERROR_QMP, EIO, "%s", json_string_value(json_object_get(params, "text")));
    rpc_fail(call, error);
}

static void handle_subscribe(struct rpc_call *call, json_t *params, void *userdata)
{
    struct rpc_stream *stream;

    if (rpc_stream_new(call, NULL, NULL, &stream) < 0)
        abort();
    rpc_stream_send(stream, "Event", json_object());
    rpc_reply(call, NULL);
    rpc_stream_free(stream);
}

static const struct rpc_param params[] = {
    {.name = "text", .type = JSON_STRING, .required = true},
    {.name = "count", .type = JSON_INTEGER},
    {0},
};

static const struct rpc_method methods[] = {
    {.name = "Echo", .params = params, .handler = handle_echo},
    {.name = "Fail", .params = params, .handler = handle_fail},
    {.name = "Subscribe", .handler = handle_subscribe},
    {.name = "Never", .states = 2, .handler = handle_echo},
    {0},
};

static const char *const state_names[] = {"Shutoff", "Running", NULL};

static sd_event *event;
static struct rpc_server *server;
static char path[64];

static void stop_server(void)
{
    rpc_server_free(server);
    event = sd_event_unref(event);
}

static void start_server(void)
{
    struct rpc_server_options options = {
        .path = path, .listen_fd = -EBADF, .methods = methods, .state_names = state_names, .allowed_uid = geteuid()};

    snprintf(path, sizeof(path), "/tmp/vmlet-fuzz-rpc-%d", (int)getpid());
    if (event_new(&event) < 0 || rpc_server_new(event, &options, &server, NULL) < 0)
        abort();
    atexit(stop_server);
}

static void check_line(const char *line, size_t length)
{
    json_t *message = NULL;
    bool answer;

    (void)json_text_parse(line, length, true, &message, NULL);
    answer =
        json_object_get(message, "id") && !json_object_get(message, "result") != !json_object_get(message, "error");

    if (!answer && !json_object_get(message, "method"))
        abort();
    json_decref(message);
}

/* Takes what the server has said; true at its end of file. */
static bool take_answers(int fd, struct strbuf *answers)
{
    char *end;

    for (;;) {
        char *p = strbuf_reserve(answers, 65536);
        ssize_t n = recv(fd, p, 65536, 0);

        if (n == 0)
            return true;
        if (n < 0)
            return errno != EAGAIN;
        answers->length += (size_t)n;
        while ((end = memchr(answers->data, '\n', answers->length))) {
            check_line(answers->data, (size_t)(end - answers->data));
            strbuf_consume(answers, (size_t)(end - answers->data) + 1);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_(strbuf_done) struct strbuf answers = {0};
    uint64_t deadline = now_usec() + 20 * USEC_PER_SEC;
    bool at_end = false, sent_end = false;
    int fd;

    if (!event)
        start_server();
    if (unix_connect(path, &fd, NULL) < 0)
        abort();
    while (!at_end) {
        if (size > 0) {
            ssize_t n = send(fd, data, MIN(size, (size_t)PIECE_BYTES), MSG_NOSIGNAL);

            if (n > 0) {
                data += n;
                size -= (size_t)n;
            }
        } else if (!sent_end) {
            sent_end = shutdown(fd, SHUT_WR) == 0;
        }
        if (sd_event_run(event, size > 0 ? 0 : 1000) < 0 || now_usec() > deadline)
            abort();
        at_end = take_answers(fd, &answers);
    }
    if (answers.length > 0) /* half a line */
        abort();
    fd_close(fd);
    return 0;
}
