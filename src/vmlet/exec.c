/* SPDX-License-Identifier: Apache-2.0 */
/* vmlet exec: a program in the guest, by its agent. */
#include <stdio.h>

#include "base/limits.h"
#include "vmlet/options.h"
#include "vmlet/output.h"
#include "vmlet/remote.h"

const struct option_spec exec_options[] = {VM_OPTIONS_WHERE, VM_OPTIONS_TIMEOUT, VM_OPTIONS_JSON, {0}};

static json_t *make_params(char **command, uint64_t timeout_usec)
{
    json_t *arguments = json_array();

    for (char **a = command + 1; *a; a++)
        json_array_append_new(arguments, json_string(*a));
    return json_pack("{s:s, s:o, s:I}", "Command", command[0], "Args", arguments, "timeoutSeconds",
                     (json_int_t)((timeout_usec + USEC_PER_SEC - 1) / USEC_PER_SEC));
}

static void put(FILE *stream, const json_t *result, const char *key)
{
    const json_t *text = json_object_get(result, key);

    if (text)
        fwrite(json_string_value(text), 1, json_string_length(text), stream);
}

int verb_exec(int argc, char **argv)
{
    const struct verb *verb = verb_find(argv[0]);
    struct vm_options options = {.timeout_usec = TIMEOUT_QGA_EXEC_USEC};
    _cleanup_(rpc_client_freep) struct rpc_client *client = NULL;
    _cleanup_error_ struct error *error = NULL;
    json_t *result = NULL;
    int at = 1, code;

    while (at < argc && !streq(argv[at], "--"))
        at++;
    code = vm_open(verb, at, argv, &options, &client); /* what is behind "--" is the guest's */
    if (code >= 0)
        return code;
    if (at + 1 >= argc)
        return usage_error(verb, "the command is missing: vmlet exec [NAME] -- COMMAND [ARGUMENT]...");
    if (rpc_client_call(client, "Exec", make_params(argv + at + 1, options.timeout_usec),
                        options.timeout_usec + 5 * USEC_PER_SEC, &result, &error) < 0)
        return print_error(error);
    if (options.json) {
        print_json(result);
    } else {
        put(stdout, result, "stdOut");
        put(stderr, result, "stdErr");
    }
    code = (int)json_integer_value(json_object_get(result, "exitCode"));
    json_decref(result);
    return finish_output() == EXIT_OK ? code : EXIT_FAILED;
}
