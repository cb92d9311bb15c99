/* SPDX-License-Identifier: Apache-2.0 */
/* virt-probe: an exec probe that looks into the guest through its agent (docs/virt-probe.1.scd). */
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
    const char *socket, *domain, *command;
    char *const *arguments;
    int timeout_seconds;
    bool ping;
};

/* Exit code of the guest's command, or a negative errno. */
static int exec_in_guest(struct rpc_client *client, const struct options *options, uint64_t timeout_usec,
                         struct error **ret_error)
{
    json_t *arguments = json_array(), *params, *result = NULL, *code;
    const char *out;
    int r;

    for (char *const *a = options->arguments; *a; a++)
        if (json_array_append_new(arguments, json_string(*a)) < 0) {
            json_decref(arguments);
            return error_set(ret_error, ERROR_BAD_ARGUMENT, EILSEQ, "the argument \"%s\" is no UTF-8", *a);
        }
    params = json_pack("{s:s, s:s, s:o, s:i}", "domainName", options->domain, "Command", options->command, "Args",
                       arguments, "timeoutSeconds", options->timeout_seconds);
    if (!params)
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EILSEQ, "the command or the domain's name is no UTF-8");
    r = rpc_client_call(client, "Exec", params, timeout_usec, &result, ret_error);
    if (r < 0)
        return error_wrap(ret_error, r, "cannot run %s in the guest", options->command);
    out = json_string_value(json_object_get(result, "stdOut"));
    if (out)
        fputs(out, stdout);
    code = json_object_get(result, "exitCode");
    r = json_is_integer(code) ? (int)(json_integer_value(code) & 0xff)
                              : error_set(ret_error, ERROR_BAD_DATA, EBADMSG, "the launcher's answer has no exitCode");
    /* a code that only its low byte would make a success is none */
    if (r == 0 && json_integer_value(code) != 0)
        r = EXIT_FAILED;
    json_decref(result);
    return r;
}

static int ping_guest(struct rpc_client *client, const struct options *options, uint64_t timeout_usec,
                      struct error **ret_error)
{
    json_t *params = json_pack("{s:s, s:i}", "domainName", options->domain, "timeoutSeconds", options->timeout_seconds);
    json_t *result = NULL;
    int r;

    if (!params)
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EILSEQ, "the domain's name is no UTF-8");
    r = rpc_client_call(client, "GuestPing", params, timeout_usec, &result, ret_error);
    if (r < 0)
        return error_wrap(ret_error, r, "the guest agent does not answer");
    json_decref(result);
    return 0;
}

static int run(const struct options *options, struct error **ret_error)
{
    _cleanup_(rpc_client_freep) struct rpc_client *client = NULL;
    uint64_t timeout_usec = (unsigned)options->timeout_seconds * USEC_PER_SEC + TIMEOUT_SHORT_CALL_USEC;
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
    return options->ping ? ping_guest(client, options, timeout_usec, ret_error)
                         : exec_in_guest(client, options, timeout_usec, ret_error);
}

int main(int argc, char **argv)
{
    _cleanup_error_ struct error *error = NULL;
    struct options options = {.socket = DEFAULT_SOCKET, .timeout_seconds = 1};
    const struct flag flags[] = {
        {"socket", FLAG_STRING, &options.socket, "the launcher's command socket (" DEFAULT_SOCKET ")"},
        {"domainName", FLAG_STRING, &options.domain, "<namespace>_<name> of the VM"},
        {"command", FLAG_STRING, &options.command, "program to run in the guest; its arguments stand behind --"},
        {"guestAgentPing", FLAG_BOOL, &options.ping, "ask only whether the guest agent answers"},
        {"timeoutSeconds", FLAG_NUMBER, &options.timeout_seconds, "for the command or the answer (1)"},
        {"v", FLAG_IGNORED, NULL, NULL}, /* klog's verbosity */
        {0},
    };
    const struct flag_set set = {
        .program = "virt-probe",
        .synopsis = "--domainName NAME --command PROGRAM [--timeoutSeconds N] -- [ARGUMENT]... | --domainName NAME "
                    "--guestAgentPing",
        .what = "Runs a program in the guest, or asks whether its agent answers, through the launcher of this pod.",
        .exit_codes = "Exit code: that of the guest's program; 1 it could not be run, or the agent does not answer;\n"
                      "2 wrong arguments; 124 no answer in time.",
        .flags = flags,
    };
    int r;

    log_init("virt-probe", LOG_LEVEL_INFO);
    r = flags_parse(&set, argc, argv);
    if (r < 0)
        return r == -1 ? EXIT_OK : EXIT_BAD_INPUT;
    options.arguments = argv + r;
    if (!options.domain || !options.command == !options.ping) {
        fprintf(stderr, "virt-probe: --domainName and one of --command and --guestAgentPing are needed\nUsage: %s %s\n",
                set.program, set.synopsis);
        return EXIT_BAD_INPUT;
    }
    r = run(&options, &error);
    if (r < 0) {
        log_error_of(error, "the probe failed");
        return (int)error_exit_code(error);
    }
    return r;
}
