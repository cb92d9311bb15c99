/* SPDX-License-Identifier: Apache-2.0 */
/* The methods that every command server has. */
#include "rpc/server-internal.h"

#include "base/limits.h"

static void handle_ping(struct rpc_call *call, json_t *params, void *userdata)
{
    rpc_reply(call, NULL);
}

static json_t *describe_params(const struct rpc_param *params)
{
    json_t *list = json_array();

    for (const struct rpc_param *p = params; p && p->name; p++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:b, s:s}", "name", p->name, "type", rpc_type_name(p->type),
                                              "required", p->required ? 1 : 0, "what", p->what ? p->what : ""));
    return list;
}

static json_t *describe_states(const struct rpc_server *server, uint32_t states)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < 32; i++)
        if ((states == 0 || (states & (UINT32_C(1) << i))) && rpc_server_state_name(server, i))
            json_array_append_new(list, json_string(rpc_server_state_name(server, i)));
    return list;
}

static void handle_describe(struct rpc_call *call, json_t *params, void *userdata)
{
    const struct rpc_server *server = call->connection->server;
    const struct rpc_method *tables[] = {server->options.methods, rpc_builtin_methods};
    const char *state = rpc_server_state_name(server, rpc_server_state(server));
    json_t *methods = json_array(), *codes = json_array();

    for (size_t t = 0; t < ELEMENTSOF(tables); t++)
        for (const struct rpc_method *m = tables[t]; m && m->name; m++)
            json_array_append_new(methods, json_pack("{s:s, s:s, s:o, s:o}", "name", m->name, "what",
                                                     m->what ? m->what : "", "params", describe_params(m->params),
                                                     "states", describe_states(server, m->states)));
    for (int c = 0; c < ERROR_CODE_COUNT; c++)
        json_array_append_new(codes, json_string(error_code_name((enum error_code)c)));
    rpc_reply(call, json_pack("{s:o, s:o, s:s?, s:{s:I, s:I, s:I, s:I, s:I}}", "methods", methods, "errors", codes,
                              "state", state, "limits", "requestBytes", (json_int_t)LIMIT_RPC_REQUEST_BYTES,
                              "replyBytes", (json_int_t)LIMIT_RPC_REPLY_BYTES, "nesting", (json_int_t)LIMIT_RPC_NESTING,
                              "clients", (json_int_t)LIMIT_RPC_CLIENTS, "pendingCalls", (json_int_t)LIMIT_RPC_PENDING));
}

const struct rpc_method rpc_builtin_methods[] = {
    {.name = "Ping", .what = "answers, and does nothing else", .handler = handle_ping},
    {.name = "Describe",
     .what = "the methods, their parameters, and the states they are allowed in",
     .handler = handle_describe},
    {0},
};
