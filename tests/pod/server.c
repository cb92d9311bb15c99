/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A command server of the real code (rpc/server.h) with scripted answers, for virt-freezer and virt-probe: what a guest
 * agent does on its bad days. Prints each call as a line `METHOD PARAMS`.
 *
 * Arguments: SOCKET STATE ("Running" or "Shutoff"), then METHOD=JSON (answers so) or METHOD=!CODE:MESSAGE (fails so).
 */
#include <stdio.h>
#include <unistd.h>

#include "base/log.h"
#include "rpc/server.h"

#define STATE_RUNNING 1U

static char **script;
static unsigned state;

static void handle(struct rpc_call *call, json_t *params, void *userdata)
{
    const char *method = rpc_call_method(call), *answer = "{\"success\": true}";
    char *text = json_dumps(params, JSON_COMPACT | JSON_SORT_KEYS);

    printf("%s %s\n", method, text);
    fflush(stdout);
    free(text);
    for (char **s = script; *s; s++) {
        const char *rest = startswith(*s, method);

        if (rest && *rest == '=')
            answer = rest + 1;
    }
    if (*answer == '!') {
        _cleanup_error_ struct error *error = NULL;
        char name[64] = "";
        const char *colon = strchr(answer, ':');

        snprintf(name, sizeof(name), "%.*s", (int)(colon - answer - 1), answer + 1);
        if (streq(name, "silence"))
            return; /* the call stays open */
        error_set(&error, (enum error_code)error_code_from_name(name), EIO, "%s", colon + 1);
        rpc_fail(call, error);
        return;
    }
    rpc_reply(call, json_loads(answer, 0, NULL));
}

static unsigned get_state(void *userdata)
{
    return state;
}

static const struct rpc_param freeze_params[] = {
    {"vmi", JSON_OBJECT, true, "x"},
    {"unfreezeTimeoutSeconds", JSON_INTEGER, false, "x"},
    {0},
};
static const struct rpc_param exec_params[] = {
    {"domainName", JSON_STRING, true, "x"},
    {"Command", JSON_STRING, true, "x"},
    {"Args", JSON_ARRAY, false, "x"},
    {"timeoutSeconds", JSON_INTEGER, false, "x"},
    {0},
};
static const struct rpc_param ping_params[] = {
    {"domainName", JSON_STRING, true, "x"},
    {"timeoutSeconds", JSON_INTEGER, false, "x"},
    {0},
};
static const struct rpc_method methods[] = {
    {"FreezeVirtualMachine", "x", 1U << STATE_RUNNING, freeze_params, handle},
    {"UnfreezeVirtualMachine", "x", 1U << STATE_RUNNING, freeze_params, handle},
    {"GetGuestInfo", "x", 1U << STATE_RUNNING, NULL, handle},
    {"Exec", "x", 1U << STATE_RUNNING, exec_params, handle},
    {"GuestPing", "x", 1U << STATE_RUNNING, ping_params, handle},
    {0},
};

int main(int argc, char **argv)
{
    static const char *const names[] = {"Shutoff", "Running", NULL};
    _cleanup_error_ struct error *error = NULL;
    struct rpc_server *server = NULL;
    sd_event *event = NULL;
    int r;

    log_init("pod-test-server", LOG_LEVEL_INFO);
    if (argc < 3)
        return EXIT_BAD_INPUT;
    state = streq(argv[2], "Running") ? STATE_RUNNING : 0;
    script = argv + 3;
    r = event_new(&event);
    if (r >= 0)
        r = rpc_server_new(event,
                           &(struct rpc_server_options){
                               .path = argv[1],
                               .listen_fd = -1,
                               .methods = methods,
                               .state_names = names,
                               .get_state = get_state,
                               .allowed_uid = geteuid(),
                           },
                           &server, &error);
    if (r < 0) {
        log_error_of(error, "no server");
        return EXIT_FAILED;
    }
    printf("serving\n");
    fflush(stdout);
    return sd_event_loop(event) < 0 ? EXIT_FAILED : EXIT_OK;
}
