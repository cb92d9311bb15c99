/* SPDX-License-Identifier: Apache-2.0 */
/* One line of a client: what it asks for is checked against the tables of methods, and becomes a call with an answer.
 */
#include "rpc/server-internal.h"

#include "base/limits.h"
#include "base/log.h"
#include "base/nearest.h"
#include "json/text.h"

/* ---- calls ----------------------------------------------------------------------------------------------------- */

/* Takes the call off its connection and frees it; what waited for it goes on at the loop's next turn. */
static void call_free(struct rpc_call *call)
{
    struct rpc_connection *connection = call->connection;

    if (connection) {
        LIST_REMOVE(connection->calls, call, link);
        connection->n_calls--;
        if (!connection->is_broken)
            rpc_connection_update(connection);
    }
    json_decref(call->id);
    free(call);
}

static int send_result(struct rpc_connection *connection, json_t *id, json_t *result)
{
    json_t *message = rpc_message_new(id);
    int r;

    json_object_set(message, "result", result);
    r = rpc_connection_send(connection, message);
    json_decref(message);
    return r;
}

void rpc_reply(struct rpc_call *call, json_t *result)
{
    _cleanup_error_ struct error *error = NULL;

    if (!result)
        result = json_object();
    if (call->connection && call->id && send_result(call->connection, call->id, result) == -EMSGSIZE) {
        error_set(&error, ERROR_LIMIT, EMSGSIZE, "the answer to %s is larger than %u bytes", call->method->name,
                  LIMIT_RPC_REPLY_BYTES);
        rpc_connection_send_error(call->connection, call->id, RPC_SERVER_ERROR, error, NULL);
    }
    json_decref(result);
    call_free(call);
}

/* A bad argument is the caller's fault: JSON-RPC has a number of its own for it. */
static int error_number(const struct error *error)
{
    return error_get_code(error) == ERROR_BAD_ARGUMENT ? RPC_INVALID_PARAMS : RPC_SERVER_ERROR;
}

void rpc_fail_with(struct rpc_call *call, const struct error *error, json_t *data)
{
    if (call->connection && call->id) {
        const struct rpc_server *server = call->connection->server;
        const char *state = rpc_server_state_name(server, rpc_server_state(server));

        if (!data)
            data = json_object();
        if (state)
            json_object_set_new(data, "state", json_string(state));
        if (rpc_connection_send_error(call->connection, call->id, error_number(error), error, data) == -EMSGSIZE)
            rpc_connection_send_error(call->connection, call->id, error_number(error), error, NULL);
    } else {
        log_debug("%s without a reader for its answer: %s", call->method->name, error_message(error));
        json_decref(data);
    }
    call_free(call);
}

void rpc_fail(struct rpc_call *call, const struct error *error)
{
    rpc_fail_with(call, error, NULL);
}

const struct rpc_peer *rpc_call_peer(const struct rpc_call *call)
{
    return &call->peer;
}

const char *rpc_call_method(const struct rpc_call *call)
{
    return call->method->name;
}

/* ---- one request ----------------------------------------------------------------------------------------------- */

static const struct rpc_method *find_in(const struct rpc_method *methods, const char *name)
{
    for (const struct rpc_method *m = methods; m && m->name; m++)
        if (streq(m->name, name))
            return m;
    return NULL;
}

static const struct rpc_method *find_method(const struct rpc_server *server, const char *name)
{
    const struct rpc_method *method = find_in(server->options.methods, name);

    return method ? method : find_in(rpc_builtin_methods, name);
}

static const char *method_name_at(size_t i, const void *userdata)
{
    const struct rpc_method *methods = userdata;

    return methods[i].name;
}

static const char *nearest_method(const struct rpc_server *server, const char *name)
{
    const struct rpc_method *tables[] = {server->options.methods, rpc_builtin_methods};

    for (size_t t = 0; t < ELEMENTSOF(tables); t++) {
        size_t n = 0;
        int i;

        while (tables[t] && tables[t][n].name)
            n++;
        i = nearest_index(name, n, method_name_at, tables[t]);
        if (i >= 0)
            return tables[t][i].name;
    }
    return NULL;
}

/* One request or notification, as far as it has been read. */
struct request {
    json_t *message; /* owned */
    json_t *id;      /* borrowed from message; NULL: a notification */
    const char *method;
    json_t *params; /* borrowed, or NULL */
};

static bool is_id(const json_t *id)
{
    return json_is_null(id) || json_is_number(id) || json_text_big_number(id) ||
           (json_is_string(id) && json_string_length(id) <= LIMIT_RPC_ID_BYTES);
}

static int check_envelope(struct request *request, struct error **ret_error)
{
    static const char *const members[] = {"jsonrpc", "method", "params", "id", NULL};
    const char *version, *key;
    json_t *id, *value;

    if (json_is_array(request->message))
        return error_set(ret_error, ERROR_BAD_DATA, EINVAL,
                         "batches are not supported: send each request as an object on a line of its own");
    if (!json_is_object(request->message))
        return error_set(ret_error, ERROR_BAD_DATA, EINVAL, "a request must be a JSON object");
    id = json_object_get(request->message, "id");
    if (id && !is_id(id))
        return error_set(ret_error, ERROR_BAD_DATA, EINVAL, "id must be a number, null or a string of at most %u bytes",
                         LIMIT_RPC_ID_BYTES);
    request->id = id;
    version = json_string_value(json_object_get(request->message, "jsonrpc"));
    if (!version || !streq(version, "2.0"))
        return error_set(ret_error, ERROR_BAD_DATA, EINVAL, "jsonrpc must be \"2.0\"");
    request->method = json_string_value(json_object_get(request->message, "method"));
    if (!request->method)
        return error_set(ret_error, ERROR_BAD_DATA, EINVAL, "method must be a string");
    request->params = json_object_get(request->message, "params");
    json_object_foreach (request->message, key, value) {
        const char *nearest;
        size_t i = 0;

        while (members[i] && !streq(members[i], key))
            i++;
        if (members[i])
            continue;
        nearest = nearest_name(key, members);
        return error_set(ret_error, ERROR_BAD_DATA, EINVAL, "a request has no member \"%.64s\"%s%s%s", key,
                         nearest ? " (did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?)" : "");
    }
    return 0;
}

const char *rpc_type_name(json_type type)
{
    switch ((int)type) {
    case JSON_OBJECT:
        return "object";
    case JSON_ARRAY:
        return "array";
    case JSON_STRING:
        return "string";
    case JSON_INTEGER:
        return "integer";
    case JSON_REAL:
        return "number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "boolean";
    case JSON_NULL:
        return "null";
    default:
        return "any";
    }
}

static bool has_type(const json_t *value, json_type type)
{
    switch ((int)type) {
    case JSON_TRUE:
    case JSON_FALSE:
        return json_is_boolean(value);
    case JSON_REAL:
        return json_is_number(value);
    case (int)RPC_TYPE_ANY:
        return true;
    default:
        return json_typeof(value) == type && !json_text_big_number(value);
    }
}

static const char *param_name_at(size_t i, const void *userdata)
{
    const struct rpc_param *params = userdata;

    return params[i].name;
}

/* What the data of an error's answer tell beside it. */
static void tell(json_t **data, const char *member, const char *prefix, const char *text)
{
    if (!*data)
        *data = json_object();
    json_object_set_new(*data, member, json_sprintf("%s%.64s", prefix, text));
}

static int check_unknown_params(const struct rpc_method *method, json_t *params, json_t **data,
                                struct error **ret_error)
{
    const char *key;
    json_t *value;

    json_object_foreach (params, key, value) {
        const struct rpc_param *known = method->params;
        size_t n = 0;
        int nearest, r;

        while (known && known[n].name && !streq(known[n].name, key))
            n++;
        if (known && known[n].name)
            continue;
        nearest = nearest_index(key, n, param_name_at, known);
        r = error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "%s has no parameter \"%.64s\"%s%s%s", method->name, key,
                      nearest < 0 ? (n == 0 ? " (it takes none)" : "") : " (did you mean \"",
                      nearest < 0 ? "" : known[nearest].name, nearest < 0 ? "" : "\"?)");
        tell(data, "path", "params.", key);
        return r;
    }
    return 0;
}

/* `data` gets the path of what is wrong. */
static int check_params(const struct rpc_method *method, json_t *params, json_t **data, struct error **ret_error)
{
    if (!json_is_object(params)) {
        tell(data, "path", "params", "");
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL,
                         "the params of %s must be an object (parameters are given by name)", method->name);
    }
    for (const struct rpc_param *p = method->params; p && p->name; p++) {
        const json_t *value = json_object_get(params, p->name);
        int r = 0;

        if (!value && p->required)
            r = error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "%s needs the parameter \"%s\" (%s: %s)", method->name,
                          p->name, rpc_type_name(p->type), p->what ? p->what : "see Describe");
        else if (value && !has_type(value, p->type))
            r = error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL,
                          "the parameter \"%s\" of %s must be of type %s, not %s", p->name, method->name,
                          rpc_type_name(p->type),
                          json_text_big_number(value) ? "integer" : rpc_type_name(json_typeof(value)));
        if (r < 0) {
            tell(data, "path", "params.", p->name);
            return r;
        }
    }
    return check_unknown_params(method, params, data, ret_error);
}

static int check_state(const struct rpc_server *server, const struct rpc_method *method, json_t **data,
                       struct error **ret_error)
{
    _cleanup_(strbuf_done) struct strbuf allowed = {0};
    unsigned state = rpc_server_state(server);
    const char *name = rpc_server_state_name(server, state);

    if (method->states == 0 || (state < 32 && (method->states & (UINT32_C(1) << state))))
        return 0;
    for (unsigned i = 0; i < 32; i++)
        if ((method->states & (UINT32_C(1) << i)) && rpc_server_state_name(server, i))
            strbuf_printf(&allowed, "%s%s", allowed.length > 0 ? ", " : "", rpc_server_state_name(server, i));
    if (name)
        tell(data, "state", "", name);
    return error_set(ret_error, ERROR_WRONG_STATE, EBUSY, "%s is not allowed in the state %s (allowed in: %s)",
                     method->name, name ? name : "of the VM", strbuf_text(&allowed));
}

static int call_new(struct rpc_connection *connection, const struct request *request, const struct rpc_method *method,
                    struct rpc_call **ret)
{
    struct rpc_call *call = malloc(sizeof(*call));

    if (!call)
        return -ENOMEM;
    *call = (struct rpc_call){
        .connection = connection, .method = method, .peer = connection->peer, .id = json_incref(request->id)};
    LIST_PREPEND(connection->calls, call, link);
    connection->n_calls++;
    *ret = call;
    return 0;
}

/* Finds the method and checks everything that is not the handler's. */
static int check_call(struct rpc_connection *connection, const struct request *request, json_t *params, json_t **data,
                      const struct rpc_method **ret_method, int *ret_number, struct error **ret_error)
{
    const struct rpc_server *server = connection->server;
    const struct rpc_method *method = find_method(server, request->method);
    int r;

    if (!method) {
        const char *nearest = nearest_method(server, request->method);

        *ret_number = RPC_METHOD_NOT_FOUND;
        return error_set(ret_error, ERROR_NOT_SUPPORTED, ENOTSUP, "there is no method \"%.64s\"%s%s%s", request->method,
                         nearest ? " (did you mean \"" : " (Describe lists them)", nearest ? nearest : "",
                         nearest ? "\"?)" : "");
    }
    *ret_number = RPC_INVALID_PARAMS;
    r = check_params(method, params, data, ret_error);
    if (r < 0)
        return r;
    *ret_number = RPC_SERVER_ERROR;
    r = check_state(server, method, data, ret_error);
    if (r < 0)
        return r;
    if (connection->n_calls >= LIMIT_RPC_PENDING)
        return error_set(ret_error, ERROR_LIMIT, EMFILE,
                         "%u calls of this client still wait for their answers (limit %u)", connection->n_calls,
                         LIMIT_RPC_PENDING);
    *ret_method = method;
    return 0;
}

static void dispatch(struct rpc_connection *connection, const struct request *request)
{
    _cleanup_error_ struct error *error = NULL;
    json_t *params = request->params ? json_incref(request->params) : json_object();
    json_t *data = NULL; /* made for an error only */
    const struct rpc_method *method = NULL;
    struct rpc_call *call = NULL;
    int number = RPC_SERVER_ERROR, r;

    r = check_call(connection, request, params, &data, &method, &number, &error);
    if (r == 0 && call_new(connection, request, method, &call) < 0)
        r = error_oom(&error);
    if (r == 0)
        method->handler(call, params, connection->server->options.userdata);
    else if (request->id)
        rpc_connection_send_error(connection, request->id, number, error, json_incref(data));
    else
        log_debug("notification refused: %s", error_message(error));
    json_decref(data);
    json_decref(params);
}

void rpc_request_handle(struct rpc_connection *connection, const char *line, size_t length)
{
    _cleanup_error_ struct error *error = NULL;
    struct request request = {0};
    int r;

    r = rpc_parse(line, length, &request.message, &error);
    if (r < 0) {
        if (error_get_code(error) == ERROR_LIMIT)
            rpc_connection_complain(connection, error);
        rpc_connection_send_error(connection, NULL, RPC_PARSE_ERROR, error, NULL);
        return;
    }
    r = check_envelope(&request, &error);
    if (r < 0)
        rpc_connection_send_error(connection, request.id, RPC_INVALID_REQUEST, error, NULL);
    else
        dispatch(connection, &request);
    json_decref(request.message);
}
