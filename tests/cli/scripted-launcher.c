/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scripted-launcher DIR: serves DIR/launcher-sock with the answers that DIR/script.json holds, and DIR/virt-serial0
 * with a guest that says back what is typed, in capitals. The server and the console are the launcher's own code.
 *
 * script.json: {"answers": {METHOD: RESULT or {"fail": {"code", "message", "remedy"}}}, "events": [EVENT…],
 *               "later": [EVENT…, sent after each Subscribe], "endOnShutdown": bool}. Each call is written to
 * DIR/calls, one JSON line each. Prints "ready" when both listen. Ends at the end of its standard input, or when the
 * guest reads ctrl-D.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/event.h"
#include "base/fd.h"
#include "domain/console.h"
#include "rpc/server.h"

static struct {
    sd_event *event;
    const char *dir;
    json_t *script;
    struct rpc_server *server;
    struct console *console;
    struct rpc_stream *stream;
    int guest_fd;
} t;

static void die(const char *what)
{
    fprintf(stderr, "scripted-launcher: %s\n", what);
    exit(1);
}

static char *below(const char *name)
{
    char *path;

    if (asprintf(&path, "%s/%s", t.dir, name) < 0)
        die("out of memory");
    return path;
}

static void record(const char *method, const json_t *params)
{
    _cleanup_free_ char *path = below("calls");
    FILE *file = fopen(path, "ae");
    json_t *line = json_pack("{s:s, s:O}", "method", method, "params", params);

    if (!file || json_dumpf(line, file, JSON_COMPACT) < 0)
        die("cannot write the calls");
    fputc('\n', file);
    fclose(file);
    json_decref(line);
}

static bool answer(struct rpc_call *call)
{
    json_t *value = json_object_get(json_object_get(t.script, "answers"), rpc_call_method(call));
    json_t *failure = json_object_get(value, "fail");
    _cleanup_error_ struct error *error = NULL;

    if (value && !failure) {
        rpc_reply(call, json_incref(value));
        return true;
    }
    if (failure) {
        error_set(&error, (enum error_code)error_code_from_name(json_string_value(json_object_get(failure, "code"))),
                  EIO, "%s", json_string_value(json_object_get(failure, "message")));
        if (json_object_get(failure, "remedy"))
            error_set_remedy(error, "%s", json_string_value(json_object_get(failure, "remedy")));
    } else {
        error_set(&error, ERROR_NOT_SUPPORTED, ENOTSUP, "the script has no answer to %s", rpc_call_method(call));
    }
    rpc_fail(call, error);
    return false;
}

static void handle(struct rpc_call *call, json_t *params, void *userdata)
{
    bool is_stop = streq(rpc_call_method(call), "ShutdownVirtualMachine");

    record(rpc_call_method(call), params);
    if (!answer(call) || !is_stop || !json_is_true(json_object_get(t.script, "endOnShutdown")))
        return;
    if (t.stream)
        rpc_stream_send(t.stream, "Event",
                        json_pack("{s:i, s:s, s:s, s:s, s:s, s:s}", "seq", 99, "time", "2026-01-01T00:00:00Z", "type",
                                  "Domain", "reason", "Shutoff", "state", "Shutoff", "stateReason", "Shutdown"));
    sd_event_exit(t.event, 0);
}

static void on_closed(struct rpc_stream *stream, void *userdata)
{
    rpc_stream_free(stream);
    t.stream = NULL;
}

static void handle_subscribe(struct rpc_call *call, json_t *params, void *userdata)
{
    json_t *events = json_object_get(t.script, "events"), *event;
    json_int_t from = json_integer_value(json_object_get(params, "from"));
    size_t i;

    record("Subscribe", params);
    if (!t.stream && rpc_stream_new(call, on_closed, NULL, &t.stream) < 0)
        die("cannot make a stream");
    rpc_reply(call, json_pack("{s:I, s:i}", "next", (json_int_t)json_array_size(events) + 1, "lost", 0));
    json_array_foreach (events, i, event)
        if (from > 0 && json_integer_value(json_object_get(event, "seq")) >= from)
            rpc_stream_send(t.stream, "Event", json_incref(event));
    json_array_foreach (json_object_get(t.script, "later"), i, event)
        rpc_stream_send(t.stream, "Event", json_incref(event));
}

static const struct rpc_param any_params[] = {
    {.name = "vmi", .type = JSON_OBJECT},
    {.name = "unfreezeTimeoutSeconds", .type = JSON_INTEGER},
    {.name = "gracePeriodSeconds", .type = JSON_INTEGER},
    {0},
};

static const struct rpc_param subscribe_params[] = {{.name = "from", .type = JSON_INTEGER}, {0}};

#define ROW(n)                                                                                                         \
    {                                                                                                                  \
        .name = n, .params = any_params, .handler = handle                                                             \
    }

static const struct rpc_method methods[] = {
    ROW("GetDomain"),
    ROW("GetTimeline"),
    ROW("GetDomainStats"),
    ROW("GetGuestInfo"),
    ROW("GetScreenshot"),
    ROW("PauseVirtualMachine"),
    ROW("UnpauseVirtualMachine"),
    ROW("ResetVirtualMachine"),
    ROW("SoftRebootVirtualMachine"),
    ROW("ShutdownVirtualMachine"),
    ROW("KillVirtualMachine"),
    ROW("FreezeVirtualMachine"),
    ROW("UnfreezeVirtualMachine"),
    {.name = "Subscribe", .params = subscribe_params, .handler = handle_subscribe},
    {0},
};

static int on_guest_input(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
    char data[4096];
    ssize_t n = read(fd, data, sizeof(data));

    if (n <= 0)
        return 0;
    if (memchr(data, 4, (size_t)n))
        return sd_event_exit(t.event, 0);
    for (ssize_t i = 0; i < n; i++)
        if (data[i] >= 'a' && data[i] <= 'z')
            data[i] = (char)(data[i] - 'a' + 'A');
    return fd_write_all(fd, data, (size_t)n);
}

static int on_stdin(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
    char data[64];

    return read(fd, data, sizeof(data)) > 0 ? 0 : sd_event_exit(t.event, 0);
}

static void start_guest(void)
{
    static const char greeting[] = "guest login: ";
    _cleanup_free_ char *path = below("virt-serial0");
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 || fd_set_nonblocking(pair[1], true) < 0 ||
        console_new(t.event, pair[1], pair[1], path, NULL, &t.console, NULL) < 0 ||
        sd_event_add_io(t.event, NULL, pair[0], EPOLLIN, on_guest_input, NULL) < 0)
        die("cannot make the console");
    t.guest_fd = pair[0];
    if (fd_write_all(t.guest_fd, greeting, sizeof(greeting) - 1) < 0)
        die("cannot write to the console");
}

static void serve(void)
{
    _cleanup_free_ char *path = below("launcher-sock");
    _cleanup_error_ struct error *error = NULL;
    struct rpc_server_options options = {
        .path = path, .listen_fd = -EBADF, .methods = methods, .allowed_uid = geteuid()};

    if (rpc_server_new(t.event, &options, &t.server, &error) < 0)
        die(error_message(error));
}

int main(int argc, char **argv)
{
    _cleanup_free_ char *path = NULL;
    json_error_t json_error;

    if (argc != 2)
        die("usage: scripted-launcher DIR");
    t.dir = argv[1];
    path = below("script.json");
    t.script = json_load_file(path, 0, &json_error);
    if (!t.script)
        die(json_error.text);
    if (event_new(&t.event) < 0 || sd_event_add_io(t.event, NULL, STDIN_FILENO, EPOLLIN, on_stdin, NULL) < 0)
        die("cannot make an event loop");
    serve();
    start_guest();
    printf("ready\n");
    fflush(stdout);
    sd_event_loop(t.event);
    console_free(t.console);
    rpc_server_free(t.server);
    rpc_stream_free(t.stream);
    fd_close(t.guest_fd);
    json_decref(t.script);
    sd_event_unref(t.event);
    return 0;
}
