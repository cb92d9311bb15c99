/* SPDX-License-Identifier: Apache-2.0 */
/* guest-exec to its end, and with output while it runs. */
#include "qmp/agent-internal.h"

#include <signal.h>
#include <stdio.h>
#include <sys/random.h>

#include "base/base64.h"
#include "base/limits.h"
#include "base/strbuf.h"

enum stream_index {
    STREAM_OUT,
    STREAM_ERR,
    STREAM_COUNT,
};

/* The steps of a streamed run; a plain one has only RUN and STATUS. */
enum step {
    STEP_PREPARE,  /* make the directory and its empty files */
    STEP_PREPARED, /* wait for that */
    STEP_OPEN_OUT,
    STEP_OPEN_ERR,
    STEP_RUN,
    STEP_STATUS,
    STEP_READ_OUT,
    STEP_READ_ERR,
    STEP_CLOSE_OUT,
    STEP_CLOSE_ERR,
    STEP_REMOVE,
};

struct exec {
    struct qga_operation operation; /* first: the callbacks' userdata is both */
    enum step step;
    json_t *run; /* arguments of guest-exec */
    uint64_t timeout, deadline, interval;
    long long pid, helper_pid;
    sd_event_source *timer;
    char directory[48]; /* in the guest; "" without streaming */
    bool directory_made;
    long long handle[STREAM_COUNT];
    bool in_output; /* the output callback is running: what ends us must not free us */
    bool ended;
    json_t *status; /* the final answer of guest-exec-status */
    struct error *error;
    qga_output_fn output;
    qga_reply_fn callback;
    void *userdata;
};

static void exec_step(struct exec *x);

static void exec_free(struct exec *x)
{
    sd_event_source_disable_unref(x->timer);
    json_decref(x->run);
    json_decref(x->status);
    error_free(x->error);
    free(x);
}

static void exec_end(struct exec *x, json_t *result, const struct error *error)
{
    qga_operation_finish(&x->operation);
    x->callback(x->operation.agent, result, error, x->userdata);
    x->ended = true;
    if (!x->in_output)
        exec_free(x);
}

static void end_operation(struct qga_operation *operation, const struct error *error)
{
    struct exec *x = (struct exec *)operation;

    exec_end(x, NULL, x->error ? x->error : error);
}

/* ---- the result -------------------------------------------------------------------------------------------------- */

static int add_text(json_t *result, json_t *status, const char *from, const char *to)
{
    _cleanup_free_ char *data = NULL;
    size_t length;
    int r = qga_decode_member(status, from, &data, &length);

    if (r < 0)
        return r;
    return json_object_set_new(result, to, qga_json_text(data, length)) < 0 ? -ENOMEM : 0;
}

static int build_result(const struct exec *x, json_t **ret)
{
    static const char *const flags[] = {"out-truncated", "err-truncated"};
    json_t *code = json_object_get(x->status, "exitcode"), *number = json_object_get(x->status, "signal");
    json_t *result = json_object();
    int r = result ? 0 : -ENOMEM;

    if (r >= 0 && json_is_integer(number))
        r = json_object_set(result, "signal", number);
    if (r >= 0)
        r = json_object_set_new(result, "exitcode",
                                json_is_integer(code) ? json_incref(code)
                                                      : json_integer(128 + json_integer_value(number)));
    if (r >= 0 && !x->output)
        r = add_text(result, x->status, "out-data", "out");
    if (r >= 0 && !x->output)
        r = add_text(result, x->status, "err-data", "err");
    for (size_t i = 0; r >= 0 && i < ELEMENTSOF(flags); i++)
        if (json_is_true(json_object_get(x->status, flags[i])))
            r = json_object_set_new(result, flags[i], json_true());
    if (r < 0) {
        json_decref(result);
        return r;
    }
    *ret = result;
    return 0;
}

static void exec_finish(struct exec *x)
{
    struct error *error = NULL;
    json_t *result = NULL;

    if (x->error) {
        exec_end(x, NULL, x->error);
        return;
    }
    if (build_result(x, &result) < 0)
        error_set(&error, ERROR_BAD_DATA, EBADMSG, "guest-exec-status: the guest agent's answer cannot be used");
    exec_end(x, result, error);
    json_decref(result);
    error_free(error);
}

/* ---- steps --------------------------------------------------------------------------------------------------------
 */

/* The first failure is what the caller hears of; what was made in the guest is still removed. */
static void exec_fail(struct exec *x, const struct error *error)
{
    if (!x->error)
        x->error = error_copy(error);
    if (error_get_code(error) == ERROR_AGENT_NOT_CONNECTED || error_get_code(error) == ERROR_CANCELLED ||
        !x->directory_made) {
        exec_finish(x);
        return;
    }
    x->step = x->handle[STREAM_OUT] >= 0 ? STEP_CLOSE_OUT : x->handle[STREAM_ERR] >= 0 ? STEP_CLOSE_ERR : STEP_REMOVE;
    x->deadline = qga_deadline(TIMEOUT_QGA_DEFAULT_USEC);
    exec_step(x);
}

static void exec_bad_answer(struct exec *x, const char *command)
{
    _cleanup_error_ struct error *error = NULL;

    error_set(&error, ERROR_BAD_DATA, EBADMSG, "%s: the guest agent's answer cannot be used", command);
    exec_fail(x, error);
}

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
    exec_step(userdata);
    return 0;
}

static void exec_overdue(struct exec *x)
{
    _cleanup_error_ struct error *error = NULL;

    error_set(&error, ERROR_TIMED_OUT, ETIMEDOUT,
              "guest-exec: the program did not end within %g s; it goes on in the guest as process %lld",
              (double)x->timeout / (double)USEC_PER_SEC, x->pid);
    exec_fail(x, error);
}

static void exec_wait(struct exec *x)
{
    _cleanup_error_ struct error *error = NULL;
    uint64_t delay = x->interval, now = now_usec();
    int r;

    if (now >= x->deadline) {
        exec_overdue(x);
        return;
    }
    x->interval = MIN(x->interval * 2, QGA_EXEC_POLL_MAX_USEC);
    r = event_arm_timer(qga_client_event(x->operation.agent), &x->timer, MIN(delay, x->deadline - now), on_timer, x);
    if (r < 0) {
        error_errno(&error, r, "guest-exec: cannot set a timer");
        exec_fail(x, error);
    }
}

static void after_status(struct exec *x, json_t *result)
{
    bool exited = json_is_true(json_object_get(result, "exited"));

    if (!json_is_boolean(json_object_get(result, "exited"))) {
        exec_bad_answer(x, "guest-exec-status");
        return;
    }
    if (exited)
        x->status = json_incref(result);
    if (x->output) {
        x->step = STEP_READ_OUT;
        exec_step(x);
    } else if (exited) {
        exec_finish(x);
    } else {
        exec_wait(x);
    }
}

static void after_prepared(struct exec *x, json_t *result)
{
    _cleanup_error_ struct error *error = NULL;

    if (!json_is_true(json_object_get(result, "exited"))) {
        exec_wait(x);
        return;
    }
    if (json_integer_value(json_object_get(result, "exitcode")) != 0 || json_object_get(result, "signal")) {
        error_set(&error, ERROR_AGENT, EREMOTEIO, "guest-exec: cannot make %s in the guest for the output",
                  x->directory);
        exec_fail(x, error);
        return;
    }
    x->directory_made = true;
    x->interval = QGA_EXEC_POLL_MIN_USEC;
    x->step = STEP_OPEN_OUT;
    exec_step(x);
}

static void after_read(struct exec *x, json_t *result)
{
    bool from_stderr = x->step == STEP_READ_ERR;
    json_int_t count = json_integer_value(json_object_get(result, "count"));
    _cleanup_free_ char *data = NULL;
    size_t length;

    if (qga_decode_member(result, "buf-b64", &data, &length) < 0 || count < 0 || (size_t)count != length) {
        exec_bad_answer(x, "guest-file-read");
        return;
    }
    if (length > 0) {
        x->interval = QGA_EXEC_POLL_MIN_USEC;
        x->in_output = true;
        x->output(x->operation.agent, from_stderr, data, length, x->userdata);
        x->in_output = false;
        if (x->ended) {
            exec_free(x);
            return;
        }
        if (length >= LIMIT_QGA_FILE_CHUNK) { /* more of the same */
            exec_step(x);
            return;
        }
    }
    if (!from_stderr) {
        x->step = STEP_READ_ERR;
        exec_step(x);
        return;
    }
    /* The status was asked before the reads: once it says that the program has ended, they have seen all of it. */
    x->step = x->status ? STEP_CLOSE_OUT : STEP_STATUS;
    if (x->status)
        exec_step(x);
    else
        exec_wait(x);
}

static void on_answer(struct qga_client *agent, json_t *result, const struct error *error, void *userdata)
{
    struct exec *x = userdata;

    x->operation.in_call = false;
    if (error && x->step < STEP_CLOSE_OUT) {
        if (error_get_code(error) == ERROR_TIMED_OUT && x->pid > 0)
            exec_overdue(x);
        else
            exec_fail(x, error);
        return;
    }
    switch (x->step) {
    case STEP_PREPARE:
        x->helper_pid = json_integer_value(json_object_get(result, "pid"));
        x->step = STEP_PREPARED;
        exec_step(x);
        break;
    case STEP_PREPARED:
        after_prepared(x, result);
        break;
    case STEP_OPEN_OUT:
    case STEP_OPEN_ERR:
        if (!json_is_integer(result)) {
            exec_bad_answer(x, "guest-file-open");
            break;
        }
        x->handle[x->step == STEP_OPEN_ERR] = json_integer_value(result);
        x->step++;
        exec_step(x);
        break;
    case STEP_RUN:
        if (!json_is_integer(json_object_get(result, "pid"))) {
            exec_bad_answer(x, "guest-exec");
            break;
        }
        x->pid = json_integer_value(json_object_get(result, "pid"));
        x->step = STEP_STATUS;
        exec_wait(x);
        break;
    case STEP_STATUS:
        after_status(x, result);
        break;
    case STEP_READ_OUT:
    case STEP_READ_ERR:
        after_read(x, result);
        break;
    case STEP_CLOSE_OUT:
    case STEP_CLOSE_ERR:
        x->handle[x->step == STEP_CLOSE_ERR] = -1;
        x->step++;
        exec_step(x);
        break;
    case STEP_REMOVE:
        exec_finish(x);
        break;
    }
}

/* The commands of the steps, in the order of enum step. */
static const char *const commands[] = {
    "guest-exec",      "guest-exec-status", "guest-file-open",  "guest-file-open",  "guest-exec", "guest-exec-status",
    "guest-file-read", "guest-file-read",   "guest-file-close", "guest-file-close", "guest-exec",
};

static json_t *shell(const char *script, const char *directory)
{
    return json_pack("{s:s, s:[s, s, s]}", "path", "/bin/sh", "arg", "-c", script, directory);
}

static json_t *step_arguments(struct exec *x)
{
    char path[64];

    snprintf(path, sizeof(path), "%s/%s", x->directory, x->step == STEP_OPEN_OUT ? "out" : "err");
    switch (x->step) {
    case STEP_PREPARE:
        return shell("umask 077; mkdir \"$0\" && : >\"$0/out\" && : >\"$0/err\"", x->directory);
    case STEP_PREPARED:
        return json_pack("{s:I}", "pid", (json_int_t)x->helper_pid);
    case STEP_OPEN_OUT:
    case STEP_OPEN_ERR:
        return json_pack("{s:s, s:s}", "path", path, "mode", "r");
    case STEP_RUN:
        return json_incref(x->run);
    case STEP_STATUS:
        return json_pack("{s:I}", "pid", (json_int_t)x->pid);
    case STEP_READ_OUT:
    case STEP_READ_ERR:
        return json_pack("{s:I, s:i}", "handle", (json_int_t)x->handle[x->step == STEP_READ_ERR], "count",
                         (int)LIMIT_QGA_FILE_CHUNK);
    case STEP_CLOSE_OUT:
    case STEP_CLOSE_ERR:
        return json_pack("{s:I}", "handle", (json_int_t)x->handle[x->step == STEP_CLOSE_ERR]);
    case STEP_REMOVE:
        return shell("rm -f \"$0/out\" \"$0/err\" && rmdir \"$0\"", x->directory);
    }
    return NULL;
}

static void exec_step(struct exec *x)
{
    _cleanup_error_ struct error *error = NULL;
    int r;

    if ((x->step == STEP_CLOSE_OUT || x->step == STEP_CLOSE_ERR) && x->handle[x->step == STEP_CLOSE_ERR] < 0) {
        x->step++;
        exec_step(x);
        return;
    }
    r = qga_operation_call(&x->operation, commands[x->step], step_arguments(x), x->deadline, on_answer);
    if (r >= 0)
        return;
    error_errno(&error, r, "%s: cannot be sent to the guest agent", commands[x->step]);
    if (!x->error)
        x->error = TAKE_PTR(error);
    exec_finish(x);
}

/* ---- interface -----------------------------------------------------------------------------------------------------
 */

/* The program under a shell that sends its output to the two files and then becomes the program. */
static json_t *wrap_in_shell(const char *directory, const char *path, json_t *arguments)
{
    json_t *list = json_pack("[s, s, s, s]", "-c", "d=$0; exec \"$@\" >>\"$d/out\" 2>>\"$d/err\"", directory, path);

    if (list && arguments && json_array_extend(list, arguments) < 0) {
        json_decref(list);
        return NULL;
    }
    return list;
}

static int exec_new(struct qga_client *agent, const char *path, json_t *arguments, const char *input, bool streamed,
                    struct exec **ret)
{
    _cleanup_free_ char *encoded = NULL;
    unsigned char random[16] = {0};
    struct exec *x = calloc(1, sizeof(*x));
    json_t *list;

    if (!x)
        return -ENOMEM;
    x->handle[STREAM_OUT] = x->handle[STREAM_ERR] = -1;
    x->interval = QGA_EXEC_POLL_MIN_USEC;
    x->step = streamed ? STEP_PREPARE : STEP_RUN;
    if (streamed) {
        int n = snprintf(x->directory, sizeof(x->directory), "/tmp/agent-");

        if (getrandom(random, sizeof(random), 0) != sizeof(random)) {
            exec_free(x);
            return -EIO;
        }
        for (size_t i = 0; i < sizeof(random); i++)
            n += snprintf(x->directory + n, sizeof(x->directory) - (size_t)n, "%02x", random[i]);
        list = wrap_in_shell(x->directory, path, arguments);
    } else {
        list = arguments ? json_incref(arguments) : json_array();
    }
    x->run =
        json_pack("{s:s, s:o, s:b}", "path", streamed ? "/bin/sh" : path, "arg", list, "capture-output", !streamed);
    if (x->run && input) {
        encoded = base64_encode(input, strlen(input));
        if (!encoded || json_object_set_new(x->run, "input-data", json_string(encoded)) < 0) {
            exec_free(x);
            return -ENOMEM;
        }
    }
    if (!x->run) {
        exec_free(x);
        return -ENOMEM;
    }
    *ret = x;
    return 0;
}

static int exec_start(struct qga_client *agent, const char *path, json_t *arguments, const char *input,
                      uint64_t timeout_usec, qga_output_fn output, qga_reply_fn callback, void *userdata)
{
    struct exec *x;
    int r = 0;

    if (!path || !callback || (arguments && !json_is_array(arguments)))
        r = -EINVAL;
    else if (!qga_client_is_open(agent))
        r = -ENOTCONN;
    if (r >= 0)
        r = exec_new(agent, path, arguments, input, output != NULL, &x);
    json_decref(arguments);
    if (r < 0)
        return r;
    x->timeout = timeout_usec ? timeout_usec : TIMEOUT_QGA_EXEC_USEC;
    x->deadline = qga_deadline(x->timeout);
    x->output = output;
    x->callback = callback;
    x->userdata = userdata;
    x->operation.end = end_operation;
    qga_operation_begin(agent, &x->operation);
    r = qga_operation_call(&x->operation, commands[x->step], step_arguments(x), x->deadline, on_answer);
    if (r < 0) {
        qga_operation_finish(&x->operation);
        exec_free(x);
    }
    return r;
}

int qga_client_exec(struct qga_client *agent, const char *path, json_t *arguments, const char *input,
                    uint64_t timeout_usec, qga_reply_fn callback, void *userdata)
{
    return exec_start(agent, path, arguments, input, timeout_usec, NULL, callback, userdata);
}

int qga_client_exec_stream(struct qga_client *agent, const char *path, json_t *arguments, const char *input,
                           uint64_t timeout_usec, qga_output_fn output, qga_reply_fn callback, void *userdata)
{
    if (!output) {
        json_decref(arguments);
        return -EINVAL;
    }
    return exec_start(agent, path, arguments, input, timeout_usec, output, callback, userdata);
}
