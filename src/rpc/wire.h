/* SPDX-License-Identifier: Apache-2.0 */
/* What server and client have in common: lines in, lines out, and errors as JSON. */
#pragma once

#include <jansson.h>

#include "base/error.h"
#include "base/strbuf.h"

/* Error numbers of JSON-RPC 2.0, section 5.1; -32000 to -32099 are the server's own. */
enum {
    RPC_PARSE_ERROR = -32700,
    RPC_INVALID_REQUEST = -32600,
    RPC_METHOD_NOT_FOUND = -32601,
    RPC_INVALID_PARAMS = -32602,
    RPC_SERVER_ERROR = -32000,
};

/* ---- lines in -------------------------------------------------------------------------------------------------- */

struct rpc_input {
    struct strbuf buffer;
    size_t start;     /* first byte that was not handed out */
    size_t scanned;   /* no line end between start and here */
    bool discarding;  /* the line that is coming in was too long: its rest is dropped */
    size_t max_bytes; /* of one line, without its LF */
};

/* Reads once; the number of bytes (0: end of file), or a negative errno. */
ssize_t rpc_input_read(struct rpc_input *input, int fd);
/* 1 and the next whole line without its LF (borrowed until the next rpc_input_read()); 0 when there is none yet;
 * -EMSGSIZE once for a line over max_bytes, the rest of which is dropped as it comes. */
int rpc_input_next(struct rpc_input *input, char **ret_line, size_t *ret_length);
/* Is there the beginning of a line? */
bool rpc_input_is_partial(const struct rpc_input *input);
void rpc_input_done(struct rpc_input *input);

/* One JSON value from a line. -EBADMSG (ERROR_BAD_DATA) for syntax, duplicate names, nesting over LIMIT_RPC_NESTING. */
int rpc_parse(const char *line, size_t length, json_t **ret, struct error **ret_error);

/* ---- lines out ------------------------------------------------------------------------------------------------- */

struct rpc_output {
    struct strbuf buffer;
    size_t start; /* what is before was sent */
};

size_t rpc_output_pending(const struct rpc_output *output);
/* Appends message and LF. -EMSGSIZE over max_bytes (nothing appended then), -ENOMEM. */
int rpc_output_add(struct rpc_output *output, const json_t *message, size_t max_bytes);
/* Sends what the socket takes without blocking: 1 all sent, 0 some left, or a negative errno. */
int rpc_output_flush(struct rpc_output *output, int fd);
void rpc_output_done(struct rpc_output *output);

/* ---- errors ---------------------------------------------------------------------------------------------------- */

/* A JSON string of any bytes: what is no UTF-8 becomes U+FFFD. */
json_t *rpc_string(const char *text);
/* {"code": number, "message": …, "data": {"code", "qmpClass"?, "remedy"?, …}}; more data members in `data` (consumed,
 * may be NULL). NULL when out of memory. */
json_t *rpc_error_to_json(int number, const struct error *error, json_t *data);
/* The other way; always leaves an error in *ret_error. Returns its negative errno. */
int rpc_error_from_json(const json_t *object, struct error **ret_error);
