/* SPDX-License-Identifier: Apache-2.0 */
/* vmlet wait: until a VM has got somewhere. For scripts that start one in the background. */
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "vmlet/options.h"
#include "vmlet/output.h"
#include "vmlet/remote.h"
#include "vmlet/until.h"

#define DEFAULT_TIMEOUT_USEC (300 * USEC_PER_SEC)
#define BUFFER_BYTES         8192U

struct wait_options {
    struct vm_options vm;
    const char *until;
};

const struct option_spec wait_options[] = {
    VM_OPTIONS_WHERE,
    {.name = "timeout",
     .kind = OPTION_DURATION,
     .offset = offsetof(struct vm_options, timeout_usec),
     .argument = "TIME",
     .what = "give up after this time, exit code 124 (5m)"},
    {.name = "until",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct wait_options, until),
     .argument = "WHAT",
     .what = "running, agent, shutdown (its end) or console:REGEX (agent)"},
    {0},
};

struct waiting {
    struct rpc_client *client;
    enum until until;
    const char *regex;
    uint64_t start, timeout_usec;
    char *reason; /* of the VM's last change of state */
};

static uint64_t time_left(const struct waiting *w)
{
    uint64_t passed = now_usec() - w->start;

    return passed < w->timeout_usec ? w->timeout_usec - passed : 0;
}

static int timed_out(const struct waiting *w, struct error **ret_error)
{
    error_set(ret_error, ERROR_TIMED_OUT, ETIMEDOUT, "waited %g s for %s in vain", (double)w->timeout_usec / 1e6,
              until_name(w->until));
    if (ret_error)
        error_set_remedy(*ret_error, "look at 'vmlet status' and 'vmlet console', or give it more time with --timeout");
    return -ETIMEDOUT;
}

/* The launcher closes the connection when the VM has ended. */
static int ended(const struct waiting *w, struct error **ret_error)
{
    if (w->until == UNTIL_SHUTDOWN) {
        printf("ended%s%s\n", w->reason ? ": " : "", w->reason ? w->reason : "");
        return 0;
    }
    return error_set(ret_error, ERROR_GUEST, EPIPE, "the VM ended while %s was waited for%s%s", until_name(w->until),
                     w->reason ? ": " : "", w->reason ? w->reason : "");
}

static bool is_there(const struct waiting *w, const json_t *answer)
{
    const json_t *status = json_object_get(json_object_get(json_object_get(answer, "domain"), "Status"), "Status");

    if (w->until == UNTIL_AGENT)
        return json_is_true(json_object_get(json_object_get(answer, "vmlet"), "agentConnected"));
    return w->until == UNTIL_RUNNING && json_string_value(status) && streq(json_string_value(status), "Running");
}

static bool is_reached(struct waiting *w, const json_t *event)
{
    const char *type = json_string_value(json_object_get(event, "type"));
    const char *reason = json_string_value(json_object_get(event, "reason"));
    const char *state_reason = json_string_value(json_object_get(event, "stateReason"));

    if (state_reason) {
        free(w->reason);
        w->reason = strdup(state_reason);
    }
    if (!type || !reason)
        return false;
    return (w->until == UNTIL_RUNNING && streq(type, "Domain") && streq(reason, "Running")) ||
           (w->until == UNTIL_AGENT && streq(type, "Agent") && streq(reason, "Connected"));
}

static int wait_for_event(struct waiting *w, struct error **ret_error)
{
    json_t *answer = NULL;
    bool reached;
    int r;

    /* subscribed before the look, so that nothing falls between the two */
    r = rpc_client_call(w->client, "Subscribe", NULL, time_left(w), NULL, ret_error);
    if (r >= 0)
        r = rpc_client_call(w->client, "GetDomain", NULL, time_left(w), &answer, ret_error);
    reached = r >= 0 && is_there(w, answer);
    json_decref(answer);
    while (r >= 0 && !reached) {
        _cleanup_free_ char *method = NULL;
        json_t *event = NULL;

        r = rpc_client_next(w->client, time_left(w), &method, &event, ret_error);
        reached = r >= 0 && streq(method, "Event") && is_reached(w, event);
        json_decref(event);
    }
    return r;
}

static int wait_for_console(struct waiting *w, struct error **ret_error)
{
    struct console_match match = {0};
    _cleanup_close_ int fd = -EBADF;
    _cleanup_free_ char *path = NULL;
    char buffer[BUFFER_BYTES];
    bool reached = false;
    int r = vm_find_console(w->client, time_left(w), &path, ret_error);

    if (r >= 0)
        r = unix_connect(path, &fd, ret_error);
    if (r >= 0)
        r = console_match_init(&match, w->regex, ret_error);
    while (r >= 0 && !reached) {
        struct pollfd console = {.fd = fd, .events = POLLIN};
        ssize_t n;

        r = poll(&console, 1, (int)MIN((time_left(w) + 999) / 1000, (uint64_t)INT32_MAX));
        if (r == 0)
            r = error_set(ret_error, ERROR_TIMED_OUT, ETIMEDOUT, "nothing came");
        if (r <= 0)
            continue;
        n = read(fd, buffer, sizeof(buffer));
        if (n > 0)
            reached = console_match_add(&match, buffer, (size_t)n);
        else if (n == 0 || errno != EAGAIN)
            r = error_set(ret_error, ERROR_CONNECTION, EPIPE, "the console was closed");
    }
    console_match_done(&match);
    return r;
}

int verb_wait(int argc, char **argv)
{
    const struct verb *verb = verb_find(argv[0]);
    struct wait_options options = {.vm.timeout_usec = DEFAULT_TIMEOUT_USEC, .until = "agent"};
    struct waiting waiting = {.start = now_usec()};
    _cleanup_(rpc_client_freep) struct rpc_client *client = NULL;
    _cleanup_error_ struct error *error = NULL, *outcome = NULL;
    const char *name = NULL;
    int r = vm_parse(verb, argc, argv, &options.vm, &name);

    if (r >= 0)
        return r;
    if (until_parse(options.until, &waiting.until, &waiting.regex, &error) < 0)
        return usage_error(verb, "%s", error_message(error));
    options.vm.awaits = waiting.until != UNTIL_SHUTDOWN; /* the end of one that is not there has been */
    r = vm_connect(&options.vm, name, &client);
    if (r >= 0)
        return r;
    waiting.client = client;
    waiting.timeout_usec = options.vm.timeout_usec;
    r = waiting.until == UNTIL_CONSOLE ? wait_for_console(&waiting, &error) : wait_for_event(&waiting, &error);
    if (r < 0 && error_get_code(error) == ERROR_TIMED_OUT)
        r = timed_out(&waiting, &outcome);
    else if (r < 0 && error_get_code(error) == ERROR_CONNECTION)
        r = ended(&waiting, &outcome);
    free(waiting.reason);
    if (r < 0)
        return print_error(outcome ? outcome : error);
    return finish_output();
}
