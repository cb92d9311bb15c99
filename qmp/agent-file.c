/* SPDX-License-Identifier: Apache-2.0 */
/* Whole files of the guest: open, read or write in chunks, close. */
#include "qmp/agent-internal.h"

#include "base/base64.h"
#include "base/limits.h"
#include "base/strbuf.h"

enum step {
    STEP_OPEN,
    STEP_MOVE, /* read or write a chunk */
    STEP_CLOSE,
};

struct transfer {
    struct qga_operation operation; /* first: the callbacks' userdata is both */
    enum step step;
    bool writing;
    char *path;
    struct strbuf data; /* what was read, or what is to be written */
    size_t done, limit;
    json_int_t handle;
    uint64_t deadline;
    struct error *error;
    qga_data_fn on_data;
    qga_reply_fn on_written;
    void *userdata;
};

static void transfer_free(struct transfer *t)
{
    strbuf_done(&t->data);
    error_free(t->error);
    free(t->path);
    free(t);
}

static void transfer_end(struct transfer *t, const struct error *error)
{
    struct qga_client *agent = t->operation.agent;
    json_t *result;

    qga_operation_finish(&t->operation);
    if (!t->writing) {
        t->on_data(agent, error ? NULL : strbuf_text(&t->data), error ? 0 : t->data.length, error, t->userdata);
    } else if (t->on_written) {
        result = error ? NULL : json_pack("{s:I}", "count", (json_int_t)t->done);
        t->on_written(agent, result, error, t->userdata);
        json_decref(result);
    }
    transfer_free(t);
}

static void end_operation(struct qga_operation *operation, const struct error *error)
{
    transfer_end((struct transfer *)operation, error);
}

static void on_answer(struct qga_client *agent, json_t *result, const struct error *error, void *userdata);

static json_t *write_arguments(const struct transfer *t)
{
    _cleanup_free_ char *encoded =
        base64_encode(strbuf_text(&t->data) + t->done, MIN(t->data.length - t->done, (size_t)LIMIT_QGA_FILE_CHUNK));

    return encoded ? json_pack("{s:I, s:s}", "handle", t->handle, "buf-b64", encoded) : NULL;
}

static int send_step(struct transfer *t)
{
    switch (t->step) {
    case STEP_OPEN:
        return qga_operation_call(&t->operation, "guest-file-open",
                                  json_pack("{s:s, s:s}", "path", t->path, "mode", t->writing ? "w" : "r"), t->deadline,
                                  on_answer);
    case STEP_MOVE:
        if (t->writing)
            return qga_operation_call(&t->operation, "guest-file-write", write_arguments(t), t->deadline, on_answer);
        return qga_operation_call(&t->operation, "guest-file-read",
                                  json_pack("{s:I, s:i}", "handle", t->handle, "count", (int)LIMIT_QGA_FILE_CHUNK),
                                  t->deadline, on_answer);
    case STEP_CLOSE:
        /* Also after the deadline: an open handle would stay in the guest for ever. */
        return qga_operation_call(&t->operation, "guest-file-close", json_pack("{s:I}", "handle", t->handle),
                                  MAX(t->deadline, qga_deadline(TIMEOUT_QGA_DEFAULT_USEC)), on_answer);
    }
    return -EINVAL;
}

static void next_step(struct transfer *t)
{
    _cleanup_error_ struct error *error = NULL;
    int r = send_step(t);

    if (r >= 0)
        return;
    error_errno(&error, r, "%s: cannot talk to the guest agent", t->path);
    transfer_end(t, t->error ? t->error : error);
}

/* 1 when there is more to do, 0 at the end. */
static int take_read(struct transfer *t, json_t *result, struct error **ret_error)
{
    _cleanup_free_ char *data = NULL;
    size_t length;

    if (qga_decode_member(result, "buf-b64", &data, &length) < 0)
        return error_set(ret_error, ERROR_BAD_DATA, EBADMSG, "guest-file-read: no base64 in the guest agent's answer");
    if (length > t->limit - t->data.length)
        return error_set(ret_error, ERROR_LIMIT, EFBIG, "the guest's file %s is longer than %zu bytes", t->path,
                         t->limit);
    strbuf_add(&t->data, data, length);
    if (t->data.failed)
        return error_oom(ret_error);
    return length > 0 && !json_is_true(json_object_get(result, "eof"));
}

static int take_written(struct transfer *t, json_t *result, struct error **ret_error)
{
    json_int_t count = json_integer_value(json_object_get(result, "count"));

    if (count <= 0 || (size_t)count > t->data.length - t->done)
        return error_set(ret_error, ERROR_BAD_DATA, EBADMSG,
                         "guest-file-write: the guest agent wrote %lld bytes of %zu", (long long)count,
                         t->data.length - t->done);
    t->done += (size_t)count;
    return t->done < t->data.length;
}

static void on_answer(struct qga_client *agent, json_t *result, const struct error *error, void *userdata)
{
    struct transfer *t = userdata;
    int r = 0;

    t->operation.in_call = false;
    if (error && !t->error)
        t->error = error_copy(error);
    if (t->step == STEP_CLOSE || (error && t->step == STEP_OPEN)) {
        transfer_end(t, t->error);
        return;
    }
    if (!error && t->step == STEP_OPEN) {
        t->handle = json_integer_value(result);
        t->step = t->writing && t->data.length == 0 ? STEP_CLOSE : STEP_MOVE;
        next_step(t);
        return;
    }
    if (!error)
        r = t->writing ? take_written(t, result, &t->error) : take_read(t, result, &t->error);
    if (error || r <= 0)
        t->step = STEP_CLOSE;
    next_step(t);
}

static int start(struct qga_client *agent, const char *path, uint64_t timeout_usec, struct transfer *t)
{
    int r = path && qga_client_is_open(agent) ? 0 : path ? -ENOTCONN : -EINVAL;

    if (r >= 0) {
        t->path = strdup(path);
        r = t->path && !t->data.failed ? 0 : -ENOMEM;
    }
    if (r < 0) {
        transfer_free(t);
        return r;
    }
    t->deadline = qga_deadline(timeout_usec ? timeout_usec : TIMEOUT_QGA_SLOW_USEC);
    t->operation.end = end_operation;
    qga_operation_begin(agent, &t->operation);
    r = send_step(t);
    if (r < 0) {
        qga_operation_finish(&t->operation);
        transfer_free(t);
    }
    return r;
}

int qga_client_read_file(struct qga_client *agent, const char *path, size_t limit, uint64_t timeout_usec,
                         qga_data_fn callback, void *userdata)
{
    struct transfer *t = callback ? calloc(1, sizeof(*t)) : NULL;

    if (!t)
        return callback ? -ENOMEM : -EINVAL;
    t->limit = limit;
    t->on_data = callback;
    t->userdata = userdata;
    return start(agent, path, timeout_usec, t);
}

int qga_client_write_file(struct qga_client *agent, const char *path, const void *data, size_t length,
                          uint64_t timeout_usec, qga_reply_fn callback, void *userdata)
{
    struct transfer *t = calloc(1, sizeof(*t));

    if (!t)
        return -ENOMEM;
    t->writing = true;
    strbuf_add(&t->data, data, length);
    t->on_written = callback;
    t->userdata = userdata;
    return start(agent, path, timeout_usec, t);
}
