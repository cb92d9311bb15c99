/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virt-freezer: freezes and thaws the guest's file systems around a backup, from a hook in the compute container
 * (docs/virt-freezer.1.scd). A VM without a guest agent, or one that does not run, has nothing to freeze: exit 0,
 * so that its backup goes on.
 */
#include <stdio.h>

#include "base/confine.h"
#include "base/limits.h"
#include "base/log.h"
#include "rpc/client.h"
#include "tools/flags.h"

/* Connected: one exchange over the socket. */
static const char *const calls[] = {"send", "sendto", NULL};

#define DEFAULT_SOCKET "/var/run/kubevirt/sockets/launcher-sock"

struct options {
    const char *name, *namespace_, *socket;
    bool freeze, unfreeze;
    int timeout_seconds;
};

static json_t *request(const struct options *options)
{
    return json_pack("{s:{s:{s:s, s:s}}}", "vmi", "metadata", "name", options->name, "namespace", options->namespace_);
}

/* KubeVirt's reply carries a failure beside a success flag. */
static int call(struct rpc_client *client, const char *method, json_t *params, uint64_t timeout_usec,
                json_t **ret_result, struct error **ret_error)
{
    json_t *result = NULL, *success;
    const char *message;
    int r;

    if (!params && !streq(method, "GetGuestInfo"))
        return error_oom(ret_error);
    r = rpc_client_call(client, method, params, timeout_usec, &result, ret_error);
    if (r < 0)
        return r;
    success = json_object_get(result, "success");
    if (json_is_false(success)) {
        message = json_string_value(json_object_get(result, "message"));
        r = error_set(ret_error, ERROR_AGENT, EIO, "%s", message ? message : "it failed without a message");
    } else if (ret_result) {
        *ret_result = json_incref(result);
    }
    json_decref(result);
    return r;
}

/* Nothing to freeze: the reason, or NULL. */
static const char *nothing_to_do(const struct error *error)
{
    switch (error_get_code(error)) {
    case ERROR_WRONG_STATE:
        return "the VM does not run";
    case ERROR_AGENT_NOT_CONNECTED:
        return "the VM has no guest agent";
    default:
        return NULL;
    }
}

/* 1: the guest has an agent; 0: the VM does not run, or has none; said why. */
static int has_agent(struct rpc_client *client, struct error **ret_error)
{
    _cleanup_error_ struct error *error = NULL;
    json_t *result = NULL, *info, *parsed = NULL;
    const char *version, *reason;
    int r;

    r = call(client, "GetGuestInfo", NULL, TIMEOUT_SHORT_CALL_USEC, &result, &error);
    if (r < 0) {
        reason = nothing_to_do(error);
        if (reason) {
            log_info("nothing is done: %s (%s)", reason, error_message(error));
            return 0;
        }
        error_move(ret_error, TAKE_PTR(error));
        return r;
    }
    info = json_object_get(result, "guestInfoResponse");
    if (json_is_string(info)) /* as KubeVirt's own message has it: JSON in a string */
        info = parsed = json_loads(json_string_value(info), 0, NULL);
    version = json_string_value(json_object_get(info, "guestAgentVersion"));
    r = version && *version;
    if (!r)
        log_info("nothing is done: the VM has no guest agent");
    json_decref(parsed);
    json_decref(result);
    return r;
}

/* A freeze that failed half-way must not leave the guest without its disks. */
static bool may_be_frozen(const struct error *error)
{
    return error_get_code(error) == ERROR_TIMED_OUT || strstr(error_message(error), "not available for now");
}

static int freeze(struct rpc_client *client, const struct options *options, struct error **ret_error)
{
    _cleanup_error_ struct error *error = NULL, *second = NULL;
    json_t *params = request(options);
    const char *reason;
    int r;

    if (params)
        json_object_set_new(params, "unfreezeTimeoutSeconds", json_integer(options->timeout_seconds));
    r = call(client, "FreezeVirtualMachine", params, TIMEOUT_FREEZE_USEC, NULL, &error);
    if (r == 0)
        return 0;
    reason = nothing_to_do(error); /* it can have gone since it was asked */
    if (reason) {
        log_info("nothing is done: %s (%s)", reason, error_message(error));
        return 0;
    }
    if (may_be_frozen(error)) {
        log_warning_of(error, "the guest may be frozen: thawing it");
        if (call(client, "UnfreezeVirtualMachine", request(options), TIMEOUT_CALL_USEC, NULL, &second) < 0)
            log_warning_of(second, "the thaw failed too; the launcher thaws it after %d s", options->timeout_seconds);
    }
    error_move(ret_error, TAKE_PTR(error));
    return error_wrap(ret_error, r, "cannot freeze %s/%s", options->namespace_, options->name);
}

static int unfreeze(struct rpc_client *client, const struct options *options, struct error **ret_error)
{
    _cleanup_error_ struct error *error = NULL;
    const char *reason;
    int r;

    r = call(client, "UnfreezeVirtualMachine", request(options), TIMEOUT_FREEZE_USEC, NULL, &error);
    reason = r < 0 ? nothing_to_do(error) : NULL;
    if (reason) {
        log_info("nothing is done: %s (%s)", reason, error_message(error));
        return 0;
    }
    if (r < 0)
        error_move(ret_error, TAKE_PTR(error));
    return error_wrap(ret_error, r, "cannot thaw %s/%s", options->namespace_, options->name);
}

static int run(const struct options *options, struct error **ret_error)
{
    _cleanup_(rpc_client_freep) struct rpc_client *client = NULL;
    int r;

    r = rpc_client_connect(options->socket, &client, ret_error);
    if (r < 0) {
        if (ret_error && *ret_error)
            error_set_remedy(*ret_error, "run it in the compute container, or name the socket by --socket");
        return r;
    }
    json_object_seed(0); /* Jansson's own look at /dev/urandom, before nothing can be opened */
    r = confine(&(struct confinement){.calls = calls}, ret_error);
    if (r < 0)
        return r;
    r = has_agent(client, ret_error);
    if (r <= 0)
        return r;
    return options->freeze ? freeze(client, options, ret_error) : unfreeze(client, options, ret_error);
}

int main(int argc, char **argv)
{
    _cleanup_error_ struct error *error = NULL;
    struct options options = {.socket = DEFAULT_SOCKET, .timeout_seconds = 300};
    const struct flag flags[] = {
        {"freeze", FLAG_BOOL, &options.freeze, "freeze the guest's file systems"},
        {"unfreeze", FLAG_BOOL, &options.unfreeze, "thaw them"},
        {"name", FLAG_STRING, &options.name, "name of the VirtualMachineInstance"},
        {"namespace", FLAG_STRING, &options.namespace_, "its namespace"},
        {"unfreezeTimeoutSeconds", FLAG_NUMBER, &options.timeout_seconds,
         "thaw by itself after so many seconds; 0: never (300)"},
        {"socket", FLAG_STRING, &options.socket, "the launcher's command socket (" DEFAULT_SOCKET ")"},
        {"v", FLAG_IGNORED, NULL, NULL}, /* klog's verbosity */
        {0},
    };
    const struct flag_set set = {
        .program = "virt-freezer",
        .synopsis = "--freeze|--unfreeze --name NAME --namespace NAMESPACE",
        .what = "Freezes or thaws the guest's file systems through the launcher of this pod.",
        .exit_codes =
            "Exit code: 0, also if the VM does not run or has no guest agent; 1 it failed; 2 wrong arguments;\n"
            "124 no answer in time.",
        .flags = flags,
    };
    int r;

    log_init("virt-freezer", LOG_LEVEL_INFO);
    r = flags_parse(&set, argc, argv);
    if (r < 0)
        return r == -1 ? EXIT_OK : EXIT_BAD_INPUT;
    if (options.freeze == options.unfreeze || !options.name || !options.namespace_ || r < argc) {
        fprintf(stderr,
                "virt-freezer: one of --freeze and --unfreeze, --name and --namespace are needed\nUsage: %s %s\n",
                set.program, set.synopsis);
        return EXIT_BAD_INPUT;
    }
    if (run(&options, &error) < 0) {
        log_error_of(error, "%s", options.freeze ? "the freeze failed" : "the thaw failed");
        return (int)error_exit_code(error);
    }
    return EXIT_OK;
}
