/* SPDX-License-Identifier: Apache-2.0 */
#include "rpc/wire.h"

#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/utf8.h"
#include "json/text.h"

#define READ_BYTES (64U * 1024)
#define KEEP_BYTES (16U * 1024) /* a buffer larger than this is given back when it has run empty */

/* ---- lines in -------------------------------------------------------------------------------------------------- */

static void input_compact(struct rpc_input *input)
{
    if (input->start == input->buffer.length) {
        if (input->buffer.allocated > KEEP_BYTES)
            strbuf_done(&input->buffer);
        else
            strbuf_clear(&input->buffer);
    } else {
        strbuf_consume(&input->buffer, input->start);
    }
    input->scanned -= MIN(input->scanned, input->start);
    input->start = 0;
}

ssize_t rpc_input_read(struct rpc_input *input, int fd)
{
    ssize_t n;
    char *p;

    input_compact(input);
    /* small requests, the usual ones, fit into the small buffer that is kept */
    p = strbuf_reserve(&input->buffer, input->buffer.length == 0 ? KEEP_BYTES / 2 : READ_BYTES);
    if (!p)
        return -ENOMEM;
    do
        n = read(fd, p, input->buffer.length == 0 ? KEEP_BYTES / 2 : READ_BYTES);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    input->buffer.length += (size_t)n;
    input->buffer.data[input->buffer.length] = '\0';
    return n;
}

int rpc_input_next(struct rpc_input *input, char **ret_line, size_t *ret_length)
{
    for (;;) {
        size_t from = MAX(input->start, input->scanned);
        char *end = NULL, *line;
        size_t length;

        if (from < input->buffer.length)
            end = memchr(input->buffer.data + from, '\n', input->buffer.length - from);
        if (!end) {
            bool is_too_long;

            input->scanned = input->buffer.length;
            is_too_long = !input->discarding && input->buffer.length - input->start > input->max_bytes;
            if (input->discarding || is_too_long)
                input->start = input->buffer.length;
            if (!is_too_long)
                return 0;
            input->discarding = true;
            return -EMSGSIZE;
        }
        line = input->buffer.data + input->start;
        length = (size_t)(end - line);
        input->start += length + 1;
        input->scanned = input->start;
        if (input->discarding) {
            input->discarding = false;
            continue;
        }
        if (length > input->max_bytes)
            return -EMSGSIZE;
        *end = '\0';
        *ret_line = line;
        *ret_length = length;
        return 1;
    }
}

bool rpc_input_is_partial(const struct rpc_input *input)
{
    return input->discarding || input->start < input->buffer.length;
}

void rpc_input_done(struct rpc_input *input)
{
    strbuf_done(&input->buffer);
    input->start = input->scanned = 0;
}

int rpc_parse(const char *line, size_t length, json_t **ret, struct error **ret_error)
{
    int r;

    if (!json_text_nests_within(line, length, LIMIT_RPC_NESTING))
        return error_set(ret_error, ERROR_LIMIT, EBADMSG, "the message nests deeper than %u levels", LIMIT_RPC_NESTING);
    r = json_text_parse(line, length, true, ret, ret_error);
    return r < 0 ? error_wrap(ret_error, r, "the message") : 0;
}

/* ---- lines out ------------------------------------------------------------------------------------------------- */

size_t rpc_output_pending(const struct rpc_output *output)
{
    return output->buffer.length - output->start;
}

int rpc_output_add(struct rpc_output *output, const json_t *message, size_t max_bytes)
{
    struct strbuf *buffer = &output->buffer;
    int r;

    if (output->start == buffer->length) {
        strbuf_clear(buffer);
        output->start = 0;
    }
    if (!message)
        return -ENOMEM;
    r = json_text_write(buffer, message, JSON_TEXT_COMPACT, buffer->length + max_bytes);
    if (r < 0)
        return r;
    strbuf_add(buffer, "\n", 1);
    return buffer->failed ? -ENOMEM : 0;
}

int rpc_output_flush(struct rpc_output *output, int fd)
{
    while (rpc_output_pending(output) > 0) {
        ssize_t n =
            send(fd, output->buffer.data + output->start, rpc_output_pending(output), MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            /* dropping what was sent only when it is the larger part keeps the copying linear */
            if (output->start > output->buffer.length / 2) {
                strbuf_consume(&output->buffer, output->start);
                output->start = 0;
            }
            return 0;
        }
        if (n < 0)
            return -errno;
        output->start += (size_t)n;
    }
    output->start = 0;
    if (output->buffer.allocated > KEEP_BYTES)
        strbuf_done(&output->buffer);
    else
        strbuf_clear(&output->buffer);
    return 1;
}

void rpc_output_done(struct rpc_output *output)
{
    strbuf_done(&output->buffer);
    output->start = 0;
}

/* ---- errors ---------------------------------------------------------------------------------------------------- */

json_t *rpc_string(const char *text)
{
    _cleanup_(strbuf_done) struct strbuf clean = {0};
    size_t left = strlen(text);

    if (utf8_valid_prefix(text, left) == left)
        return json_stringn_nocheck(text, left);
    while (left > 0) {
        size_t n = utf8_sequence_length(text, left);

        if (n == 0)
            strbuf_add_string(&clean, "\xef\xbf\xbd");
        else
            strbuf_add(&clean, text, n);
        n = MAX(n, (size_t)1);
        text += n;
        left -= n;
    }
    return clean.failed ? NULL : json_stringn_nocheck(clean.data, clean.length);
}

json_t *rpc_error_to_json(int number, const struct error *error, json_t *data)
{
    json_t *object = json_object();
    int r = 0;

    if (!data)
        data = json_object();
    r |= json_object_set_new(data, "code", json_string(error_code_name(error_get_code(error))));
    if (error_qmp_class(error))
        r |= json_object_set_new(data, "qmpClass", rpc_string(error_qmp_class(error)));
    if (error_remedy(error))
        r |= json_object_set_new(data, "remedy", rpc_string(error_remedy(error)));
    r |= json_object_set_new(object, "code", json_integer(number));
    r |= json_object_set_new(object, "message", rpc_string(error_message(error)));
    r |= json_object_set_new(object, "data", data);
    if (r != 0) {
        json_decref(object);
        return NULL;
    }
    return object;
}

/* The errno that a caller sees for a code; what is not here is EIO. */
static const struct {
    enum error_code code;
    int err;
} error_numbers[] = {
    {ERROR_BAD_ARGUMENT, EINVAL},
    {ERROR_BAD_MANIFEST, EINVAL},
    {ERROR_BAD_DATA, EBADMSG},
    {ERROR_NOT_SUPPORTED, ENOTSUP},
    {ERROR_NOT_ALLOWED, EPERM},
    {ERROR_WRONG_STATE, EBUSY},
    {ERROR_NOT_FOUND, ENOENT},
    {ERROR_ALREADY_EXISTS, EEXIST},
    {ERROR_CANCELLED, ECANCELED},
    {ERROR_TIMED_OUT, ETIMEDOUT},
    {ERROR_LIMIT, EMSGSIZE},
    {ERROR_CONNECTION, ECONNRESET},
    {ERROR_AGENT_NOT_CONNECTED, ENOTCONN},
};

int rpc_error_from_json(const json_t *object, struct error **ret_error)
{
    const json_t *data = json_object_get(object, "data");
    const char *message = json_string_value(json_object_get(object, "message"));
    const char *name = json_string_value(json_object_get(data, "code"));
    const char *text;
    int code = name ? error_code_from_name(name) : -1, err = EIO, r;

    if (code < 0)
        code = ERROR_BAD_DATA;
    for (size_t i = 0; i < ELEMENTSOF(error_numbers); i++)
        if ((int)error_numbers[i].code == code)
            err = error_numbers[i].err;
    r = error_set(ret_error, (enum error_code)code, err, "%s", message ? message : "the server gave no reason");
    if (!ret_error)
        return r;
    text = json_string_value(json_object_get(data, "qmpClass"));
    if (text)
        error_set_qmp_class(*ret_error, text);
    text = json_string_value(json_object_get(data, "remedy"));
    if (text)
        error_set_remedy(*ret_error, "%s", text);
    return r;
}
