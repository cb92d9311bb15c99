/* SPDX-License-Identifier: Apache-2.0 */
#include "qmp/shell/session.h"

#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "rpc/client.h"

struct session {
    sd_event *event;
    const char *name;
    struct qmp_client *qmp;
    struct rpc_client *rpc;
    struct qga_client *agent;
    struct error *lost;
    session_event_fn on_event;
    void *userdata;
    struct waiting *waiting; /* the call under way */
};

/* One call that is waited for. When it is interrupted the answer may still come: then nobody is told. */
struct waiting {
    bool done, interrupted;
    json_t *result;
    struct error *error;
    unsigned refs;
};

static void waiting_unref(struct waiting *w)
{
    if (--w->refs > 0)
        return;
    json_decref(w->result);
    error_free(w->error);
    free(w);
}

static void take_answer(struct waiting *w, json_t *result, const struct error *error)
{
    w->done = true;
    w->result = json_incref(result);
    w->error = error_copy(error);
    waiting_unref(w);
}

static void on_qmp_reply(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    take_answer(userdata, result, error);
}

static void on_agent_reply(struct qga_client *agent, json_t *result, const struct error *error, void *userdata)
{
    take_answer(userdata, result, error);
}

static void on_rpc_answer(struct rpc_client *client, json_t *result, const struct error *error, void *userdata)
{
    take_answer(userdata, result, error);
}

/* ---- events and the end
 * ----------------------------------------------------------------------------------------------- */

static void on_event(struct qmp_client *client, const char *name, json_t *data, uint64_t usec, void *userdata)
{
    struct session *s = userdata;

    if (s->on_event)
        s->on_event(name, data, usec, s->userdata);
}

static void on_state(struct qmp_client *client, enum qmp_state state, const struct error *error, void *userdata)
{
    struct session *s = userdata;

    if (state == QMP_DISCONNECTED && !s->lost)
        s->lost = error_copy(error);
}

/* "2026-01-02T03:04:05.678901Z"; 0 if it is none. */
static uint64_t parse_time(const char *text)
{
    struct tm tm = {0};
    const char *end = text ? strptime(text, "%Y-%m-%dT%H:%M:%S", &tm) : NULL;
    time_t seconds = end ? timegm(&tm) : -1;

    if (seconds < 0)
        return 0;
    return (uint64_t)seconds * USEC_PER_SEC + (*end == '.' ? (uint64_t)(strtod(end, NULL) * (double)USEC_PER_SEC) : 0);
}

/* The command server's own events: {"seq":, "time":, "type":, "reason":, …}. Those of QEMU that it passes on have
 * QEMU's name and data, its own are named TYPE/REASON. */
static void deliver(json_t *event, session_event_fn handler, void *userdata)
{
    const char *type = json_string_value(json_object_get(event, "type"));
    const char *reason = json_string_value(json_object_get(event, "reason"));
    uint64_t usec = parse_time(json_string_value(json_object_get(event, "time")));
    json_t *qmp = json_object_get(event, "data"), *data;
    _cleanup_free_ char *name = NULL;

    if (!type || !reason)
        return;
    if (streq(type, "Qemu") && json_is_object(qmp)) {
        handler(reason, qmp, usec, userdata);
        return;
    }
    data = json_copy(event);
    json_object_del(data, "seq");
    json_object_del(data, "time");
    json_object_del(data, "type");
    json_object_del(data, "reason");
    if (asprintf(&name, "%s/%s", type, reason) >= 0)
        handler(name, data, usec, userdata);
    json_decref(data);
}

static void on_notify(struct rpc_client *client, const char *method, json_t *params, void *userdata)
{
    struct session *s = userdata;

    if (s->on_event)
        deliver(params, s->on_event, s->userdata);
}

/* By a connection of its own, which is closed again: the other one has its subscription already. */
int session_past_events(struct session *session, session_event_fn handler, void *userdata, uint64_t *ret_lost,
                        struct error **ret_error)
{
    _cleanup_(rpc_client_freep) struct rpc_client *client = NULL;
    json_t *answer = NULL;
    json_int_t last, number = 0;
    int r;

    if (!session->rpc)
        return error_set(ret_error, ERROR_NOT_SUPPORTED, EOPNOTSUPP,
                         "past events: a monitor keeps none, only the command server of a VM does");
    r = rpc_client_connect(session->name, &client, ret_error);
    if (r >= 0)
        r = rpc_client_call(client, "Subscribe", json_pack("{s:i}", "from", 1), TIMEOUT_QMP_DEFAULT_USEC, &answer,
                            ret_error);
    if (r < 0)
        return r;
    last = json_integer_value(json_object_get(answer, "next")) - 1;
    *ret_lost = (uint64_t)json_integer_value(json_object_get(answer, "lost"));
    json_decref(answer);
    while (number < last && (uint64_t)last > *ret_lost) {
        _cleanup_free_ char *method = NULL;
        json_t *event = NULL;

        r = rpc_client_next(client, TIMEOUT_QMP_DEFAULT_USEC, &method, &event, ret_error);
        if (r < 0)
            return r;
        number = json_integer_value(json_object_get(event, "seq"));
        if (number <= last)
            deliver(event, handler, userdata);
        json_decref(event);
    }
    return 0;
}

static void on_closed(struct rpc_client *client, const struct error *error, void *userdata)
{
    struct session *s = userdata;

    if (!s->lost)
        s->lost = error_copy(error);
}

const struct error *session_lost(const struct session *session)
{
    return session->lost;
}

/* ---- calls
 * ------------------------------------------------------------------------------------------------------------ */

bool session_is_busy(const struct session *session)
{
    return session->waiting != NULL;
}

bool session_interrupt(struct session *session)
{
    if (!session->waiting)
        return false;
    session->waiting->interrupted = true;
    return true;
}

bool session_is_direct(const struct session *session)
{
    return session->qmp != NULL;
}

const char *session_name(const struct session *session)
{
    return session->name;
}

static struct waiting *waiting_new(void)
{
    struct waiting *w = calloc(1, sizeof(*w));

    if (w)
        w->refs = 2; /* ours, and the callback's */
    return w;
}

/* Turns the loop until the answer is there. Our reference to `w` is given up. */
static int wait_for(struct session *s, struct waiting *w, const char *command, json_t **ret_result,
                    struct error **ret_error)
{
    struct waiting *outer = s->waiting;
    int r = 0;

    s->waiting = w;
    while (!w->done && !w->interrupted && r >= 0)
        r = sd_event_run(s->event, UINT64_MAX);
    s->waiting = outer;
    if (w->done && w->result) {
        *ret_result = json_incref(w->result);
        r = 0;
    } else if (w->done) {
        r = -error_get_errno(w->error);
        if (ret_error)
            error_move(ret_error, error_copy(w->error));
    } else if (w->interrupted) {
        r = error_set(ret_error, ERROR_CANCELLED, ECANCELED, "%s: interrupted; QEMU may still be at it", command);
    } else {
        r = error_errno(ret_error, r, "the event loop failed");
    }
    waiting_unref(w);
    return r;
}

/* method: "Qmp" or "AgentCommand". */
static int call_server(struct session *s, const char *method, const char *command, json_t *arguments, struct waiting *w)
{
    json_t *params = json_pack("{s:s, s:o*}", "command", command, "arguments", arguments);

    return rpc_client_call_async(s->rpc, method, params, TIMEOUT_QMP_MEMORY_USEC, on_rpc_answer, w);
}

/* The server's answer wraps QEMU's, or the agent's. */
static int unwrap(const char *command, json_t *answer, json_t **ret_result, struct error **ret_error)
{
    *ret_result = json_incref(json_object_get(answer, "return"));
    json_decref(answer);
    return *ret_result
               ? 0
               : error_set(ret_error, ERROR_BAD_DATA, EBADMSG, "%s: the command server gave no answer", command);
}

int session_call(struct session *session, const char *command, json_t *arguments, json_t **ret_result,
                 struct error **ret_error)
{
    struct waiting *w = waiting_new();
    json_t *result = NULL;
    int r;

    if (!session->qmp && !session->rpc) {
        json_decref(arguments);
        free(w);
        return error_set(ret_error, ERROR_NOT_SUPPORTED, EOPNOTSUPP, "%s: %s", command,
                         session->agent ? "this is a guest agent's channel, and no monitor"
                                        : "there is no VM here, only a recorded schema");
    }
    if (!w) {
        json_decref(arguments);
        return error_oom(ret_error);
    }
    r = session->qmp ? qmp_client_invoke(session->qmp, command, arguments, on_qmp_reply, w)
                     : call_server(session, "Qmp", command, arguments, w);
    if (r < 0) {
        free(w);
        if (session->lost && ret_error)
            error_move(ret_error, error_copy(session->lost));
        else
            error_errno(ret_error, r, "%s: cannot be sent", command);
        return r;
    }
    r = wait_for(session, w, command, &result, ret_error);
    if (r < 0)
        return r;
    if (session->rpc)
        return unwrap(command, result, ret_result, ret_error);
    *ret_result = result;
    return 0;
}

int session_call_agent(struct session *session, const char *command, json_t *arguments, json_t **ret_result,
                       struct error **ret_error)
{
    json_t *result = NULL;
    struct waiting *w;
    int r;

    if (!session->agent && !session->rpc) {
        json_decref(arguments);
        r = error_set(ret_error, ERROR_AGENT_NOT_CONNECTED, ENOTCONN, "%s: no guest agent's channel was given",
                      command);
        if (ret_error)
            error_set_remedy(*ret_error, "name its socket with --agent SOCKET");
        return r;
    }
    w = waiting_new();
    if (!w) {
        json_decref(arguments);
        return error_oom(ret_error);
    }
    r = session->agent ? qga_client_call(session->agent, command, arguments, 0, on_agent_reply, w)
                       : call_server(session, "AgentCommand", command, arguments, w);
    if (r < 0) {
        free(w);
        return error_errno(ret_error, r, "%s: cannot be sent to the guest agent", command);
    }
    r = wait_for(session, w, command, &result, ret_error);
    if (r < 0)
        return r;
    if (!session->agent)
        return unwrap(command, result, ret_result, ret_error);
    *ret_result = result;
    return 0;
}

int session_get_domain(struct session *session, json_t **ret_result, struct error **ret_error)
{
    struct waiting *w;
    int r;

    if (!session->rpc)
        return error_set(ret_error, ERROR_NOT_SUPPORTED, EOPNOTSUPP, "only a command server knows more than QEMU");
    w = waiting_new();
    if (!w)
        return error_oom(ret_error);
    r = rpc_client_call_async(session->rpc, "GetDomain", NULL, TIMEOUT_QMP_DEFAULT_USEC, on_rpc_answer, w);
    if (r < 0) {
        free(w);
        return error_errno(ret_error, r, "cannot ask the command server");
    }
    return wait_for(session, w, "GetDomain", ret_result, ret_error);
}

static int on_sleep_end(sd_event_source *s, uint64_t usec, void *userdata)
{
    ((struct waiting *)userdata)->done = true;
    return 0;
}

bool session_sleep(struct session *session, uint64_t usec)
{
    struct waiting w = {.refs = 2}, *outer = session->waiting;
    sd_event_source *timer = NULL;

    session->waiting = &w; /* cppcheck-suppress autoVariables ; put back before this returns */
    if (event_arm_timer(session->event, &timer, usec, on_sleep_end, &w) >= 0)
        while (!w.done && !w.interrupted && !session->lost)
            if (sd_event_run(session->event, UINT64_MAX) < 0)
                break;
    session->waiting = outer;
    sd_event_source_disable_unref(timer);
    return w.done;
}

/* ---- life
 * ------------------------------------------------------------------------------------------------------------- */

void session_close(struct session *session)
{
    if (!session)
        return;
    session->on_event = NULL;
    qmp_client_free(session->qmp);
    rpc_client_free(session->rpc);
    qga_client_free(session->agent);
    error_free(session->lost);
    free(session);
}

/* HOST:PORT, [HOST]:PORT or :PORT; the name's end is what stands behind the last colon. Blocks until it is connected.
 */
static int tcp_connect(const char *address, int *ret_fd, struct error **ret_error)
{
    const char *colon = strrchr(address, ':');
    _cleanup_free_ char *host = strndup(address, (size_t)(colon - address));
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *list = NULL;
    size_t n = host ? strlen(host) : 0;
    int err = ECONNREFUSED, fd, r;

    if (n > 1 && host[0] == '[' && host[n - 1] == ']') {
        host[n - 1] = '\0';
        memmove(host, host + 1, n - 1);
    }
    r = getaddrinfo(n > 0 ? host : NULL, colon + 1, &hints, &list);
    if (r != 0)
        return error_set(ret_error, ERROR_CONNECTION, EHOSTUNREACH, "cannot connect to %s: %s", address,
                         gai_strerror(r));
    for (struct addrinfo *a = list; a; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) == 0) {
            freeaddrinfo(list);
            *ret_fd = fd;
            return 0;
        }
        err = errno;
        fd_close(fd);
    }
    freeaddrinfo(list);
    return error_set(ret_error, ERROR_CONNECTION, err, "cannot connect to %s: %s", address, strerror(err));
}

/* As in QEMU's own shell: what has a colon and no slash is no path. */
static int connect_to(const char *address, int *ret_fd, struct error **ret_error)
{
    if (strchr(address, ':') && !strchr(address, '/') && access(address, F_OK) < 0)
        return tcp_connect(address, ret_fd, ret_error);
    return unix_connect(address, ret_fd, ret_error);
}

static int open_direct(struct session *s, const char *path, struct error **ret_error)
{
    int fd, r = connect_to(path, &fd, ret_error);

    if (r < 0)
        return r;
    r = qmp_client_new(s->event, fd, &s->qmp);
    if (r < 0)
        return error_errno(ret_error, r, "cannot use %s", path);
    qmp_client_set_event_handler(s->qmp, on_event, s);
    qmp_client_set_state_handler(s->qmp, on_state, s);
    while (qmp_client_get_state(s->qmp) < QMP_RUNNING)
        if ((r = sd_event_run(s->event, UINT64_MAX)) < 0)
            return error_errno(ret_error, r, "the event loop failed");
    if (!s->lost)
        return 0;
    if (ret_error)
        error_move(ret_error, error_copy(s->lost));
    return error_wrap(ret_error, -error_get_errno(s->lost), "%s", path);
}

static int open_server(struct session *s, const char *path, struct error **ret_error)
{
    struct waiting *w;
    int r = rpc_client_connect(path, &s->rpc, ret_error);

    if (r < 0) {
        if (ret_error)
            error_set_remedy(*ret_error, "run this in the VM's pod, or name a QMP socket");
        return r;
    }
    r = rpc_client_attach(s->rpc, s->event, on_notify, on_closed, s);
    if (r < 0)
        return error_errno(ret_error, r, "cannot use %s", path);
    w = waiting_new();
    if (!w)
        return error_oom(ret_error);
    r = rpc_client_call_async(s->rpc, "Subscribe", json_object(), TIMEOUT_QMP_DEFAULT_USEC, on_rpc_answer, w);
    if (r < 0) {
        free(w);
        return error_errno(ret_error, r, "cannot subscribe to the events of %s", path);
    }
    waiting_unref(w); /* the answer is of no interest: without events the shell is still of use */
    return 0;
}

int session_open(sd_event *event, const struct session_options *options, struct session **ret, struct error **ret_error)
{
    _cleanup_(session_closep) struct session *s = calloc(1, sizeof(*s));
    int fd, r;

    if (!s)
        return error_oom(ret_error);
    s->event = event;
    s->on_event = options->on_event;
    s->userdata = options->userdata;
    if (options->agent_only) {
        s->name = options->agent_socket;
        r = 0;
    } else {
        s->name = options->socket ? options->socket : options->server;
        r = options->socket ? open_direct(s, options->socket, ret_error) : open_server(s, options->server, ret_error);
    }
    if (r >= 0 && options->agent_socket) {
        r = connect_to(options->agent_socket, &fd, ret_error);
        if (r >= 0 && (r = qga_client_new(event, fd, &s->agent)) < 0)
            error_errno(ret_error, r, "cannot use %s", options->agent_socket);
    }
    if (r < 0)
        return r;
    *ret = TAKE_PTR(s);
    return 0;
}
