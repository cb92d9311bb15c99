/* SPDX-License-Identifier: Apache-2.0 */
#include "vmlet/remote.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/confine.h"
#include "base/fd.h"
#include "base/limits.h"
#include "vmlet/options.h"
#include "vmlet/output.h"

#define DEFAULT_TIMEOUT_USEC (20 * USEC_PER_SEC) /* KubeVirt's deadline for commands to the launcher */
#define FREEZE_TIMEOUT_USEC  (60 * USEC_PER_SEC) /* the guest writes its caches back first */

/* Connected: calls over the socket, a console beside it, a screenshot's file, relative paths, the zone of printed
 * times. */
static const char *const calls[] = {
    "connect",   "send",   "sendto",   "recv",    "recvfrom",  "open",      "openat", "stat",
    "lstat",     "umask",  "fchmod",   "fsync",   "fdatasync", "ftruncate", "rename", "renameat",
    "renameat2", "unlink", "unlinkat", "getppid", "getcwd",    NULL,
};
static const int families[] = {AF_UNIX, AF_UNSPEC};

/* ---- shared ---------------------------------------------------------------------------------------------------- */

int vm_parse(const struct verb *verb, int argc, char **argv, struct vm_options *options, const char **ret_name)
{
    char **arguments;
    size_t n;
    int r;

    r = options_parse(verb, argc, argv, options, &arguments, &n);
    if (r >= 0)
        return r;
    if (options->socket && n > 0)
        return usage_error(verb, "--socket and NAME exclude each other");
    *ret_name = n > 0 ? arguments[0] : NULL;
    return -1;
}

int vm_connect(const struct vm_options *options, const char *name, struct rpc_client **ret)
{
    struct locate_options locate = {options->socket, options->state_dir, name};
    _cleanup_error_ struct error *error = NULL;
    _cleanup_free_ char *socket = NULL;
    int r;

    signal(SIGPIPE, SIG_IGN); /* writing to a pipe that nobody reads fails by EPIPE, and is told at the end */
    r = options->awaits ? locate_await(&locate, options->timeout_usec, &socket, &error)
                        : locate_socket(&locate, &socket, &error);
    if (r == 0)
        r = rpc_client_connect(socket, ret, &error);
    if (r == 0)
        r = confine(
            &(struct confinement){.calls = calls, .families = families, .capabilities = CONFINE_ALL_CAPABILITIES},
            &error);
    if (r == 0)
        return -1;
    if (error_get_code(error) == ERROR_CONNECTION && !error_remedy(error))
        error_set_remedy(error, "the VM's launcher must run; 'vmlet status' without --socket looks for VMs");
    return print_error(error);
}

int vm_open(const struct verb *verb, int argc, char **argv, struct vm_options *options, struct rpc_client **ret)
{
    const char *name = NULL;
    int r = vm_parse(verb, argc, argv, options, &name);

    return r >= 0 ? r : vm_connect(options, name, ret);
}

int vm_call(struct rpc_client *client, const struct vm_options *options, const char *method, json_t *params,
            json_t **ret_result, struct error **ret_error)
{
    return rpc_client_call(client, method, params, options->timeout_usec, ret_result, ret_error);
}

int vm_find_console(struct rpc_client *client, uint64_t timeout_usec, char **ret_path, struct error **ret_error)
{
    json_t *result = NULL;
    const char *path;
    int r;

    r = rpc_client_call(client, "GetDomain", NULL, timeout_usec, &result, ret_error);
    if (r < 0)
        return r;
    path = json_string_value(json_object_get(json_object_get(json_object_get(result, "vmlet"), "sockets"), "console"));
    if (path)
        *ret_path = strdup(path);
    json_decref(result);
    if (!path) {
        error_set(ret_error, ERROR_NOT_FOUND, ENOENT, "this VM has no serial console");
        if (ret_error)
            error_set_remedy(*ret_error, "its manifest has autoattachSerialConsole: false, or it is not started");
        return -ENOENT;
    }
    return *ret_path ? 0 : error_oom(ret_error);
}

/* ---- one call: pause, unpause, kill, reset, softreboot, unfreeze, and those that print data ---------------------- */

const struct option_spec vm_options[] = {VM_OPTIONS_WHERE, VM_OPTIONS_TIMEOUT, VM_OPTIONS_JSON, {0}};
const struct option_spec data_options[] = {VM_OPTIONS_WHERE, VM_OPTIONS_TIMEOUT, VM_OPTIONS_JSON, {0}};

static const struct {
    const char *verb, *method;
    const char *done; /* what is said when it has worked */
} actions[] = {
    {"pause", "PauseVirtualMachine", "paused"},
    {"unpause", "UnpauseVirtualMachine", "running"},
    {"reset", "ResetVirtualMachine", "reset"},
    {"softreboot", "SoftRebootVirtualMachine", "asked to reboot"},
    {"kill", "KillVirtualMachine", "killed"},
    {"unfreeze", "UnfreezeVirtualMachine", "file systems thawed"},
    {"freeze", "FreezeVirtualMachine", "file systems frozen"},
    {"stats", "GetDomainStats", NULL},
    {"guestinfo", "GetGuestInfo", NULL},
};

static size_t find_action(const struct verb *verb)
{
    for (size_t i = 0; i < ELEMENTSOF(actions); i++)
        if (streq(actions[i].verb, verb->name))
            return i;
    abort(); /* a row of the verb table without one here */
}

static int call_and_tell(const struct verb *verb, struct rpc_client *client, const struct vm_options *options,
                         json_t *params)
{
    size_t action = find_action(verb);
    _cleanup_error_ struct error *error = NULL;
    json_t *result = NULL;
    int r;

    if (vm_call(client, options, actions[action].method, params, &result, &error) < 0)
        return print_error(error);
    if (options->json) {
        r = print_json(result);
    } else {
        printf("%s\n", actions[action].done);
        r = finish_output();
    }
    json_decref(result);
    return r;
}

int verb_action(int argc, char **argv)
{
    const struct verb *verb = verb_find(argv[0]);
    struct vm_options options = {.timeout_usec = DEFAULT_TIMEOUT_USEC};
    _cleanup_(rpc_client_freep) struct rpc_client *client = NULL;
    int r = vm_open(verb, argc, argv, &options, &client);

    return r >= 0 ? r : call_and_tell(verb, client, &options, NULL);
}

struct freeze_options {
    struct vm_options vm;
    uint64_t thaw_after_usec;
};

const struct option_spec freeze_options[] = {
    VM_OPTIONS_WHERE,
    VM_OPTIONS_TIMEOUT,
    VM_OPTIONS_JSON,
    {.name = "thaw-after",
     .kind = OPTION_DURATION,
     .offset = offsetof(struct freeze_options, thaw_after_usec),
     .argument = "TIME",
     .what = "thaw by itself after this time (5m)"},
    {0},
};

int verb_freeze(int argc, char **argv)
{
    const struct verb *verb = verb_find(argv[0]);
    /* five minutes: what KubeVirt's freeze subresource is given by its users' backup tools */
    struct freeze_options options = {.vm.timeout_usec = FREEZE_TIMEOUT_USEC, .thaw_after_usec = 300 * USEC_PER_SEC};
    _cleanup_(rpc_client_freep) struct rpc_client *client = NULL;
    int r = vm_open(verb, argc, argv, &options.vm, &client);

    if (r >= 0)
        return r;
    return call_and_tell(verb, client, &options.vm,
                         json_pack("{s:I}", "unfreezeTimeoutSeconds",
                                   (json_int_t)((options.thaw_after_usec + USEC_PER_SEC - 1) / USEC_PER_SEC)));
}

/* KubeVirt's messages carry their payload beside a "response" that says nothing when the call has worked. */
static void drop_response(json_t *result)
{
    json_object_del(result, "response");
}

int verb_data(int argc, char **argv)
{
    const struct verb *verb = verb_find(argv[0]);
    struct vm_options options = {.timeout_usec = DEFAULT_TIMEOUT_USEC};
    _cleanup_(rpc_client_freep) struct rpc_client *client = NULL;
    _cleanup_error_ struct error *error = NULL;
    json_t *result = NULL;
    int r = vm_open(verb, argc, argv, &options, &client);

    if (r >= 0)
        return r;
    if (vm_call(client, &options, actions[find_action(verb)].method, NULL, &result, &error) < 0)
        return print_error(error);
    drop_response(result);
    if (options.json) {
        r = print_json(result);
    } else {
        print_tree(result, 0);
        r = finish_output();
    }
    json_decref(result);
    return r;
}

/* ---- stop ------------------------------------------------------------------------------------------------------ */

struct stop_options {
    struct vm_options vm;
    uint64_t grace_usec;
    bool wait;
};

const struct option_spec stop_options[] = {
    VM_OPTIONS_WHERE,
    VM_OPTIONS_TIMEOUT,
    VM_OPTIONS_JSON,
    {.name = "grace",
     .kind = OPTION_DURATION,
     .offset = offsetof(struct stop_options, grace_usec),
     .argument = "TIME",
     .what = "time for the guest's own shutdown before it is ended (the VM's own); 0 kills"},
    {.name = "wait",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct stop_options, wait),
     .what = "wait until the VM has ended"},
    {0},
};

/* Reads events until the VM's launcher closes the connection, which is the VM's end. *ret_last: the last change of
 * state. */
static int wait_for_end(struct rpc_client *client, json_t **ret_last, struct error **ret_error)
{
    _cleanup_error_ struct error *error = NULL;
    json_t *last = NULL;

    for (;;) {
        _cleanup_free_ char *method = NULL;
        json_t *params = NULL;

        if (rpc_client_next(client, UINT64_MAX, &method, &params, &error) < 0)
            break;
        if (streq(method, "Event") && json_object_get(params, "stateReason")) {
            json_decref(last);
            last = params;
        } else {
            json_decref(params);
        }
    }
    if (error_get_code(error) != ERROR_CONNECTION) {
        int r = -error_get_errno(error);

        json_decref(last);
        error_move(ret_error, TAKE_PTR(error));
        return r;
    }
    *ret_last = last ? last : json_object();
    return 0;
}

static int stop_and_wait(struct rpc_client *client, const struct stop_options *options, json_t *params,
                         json_t **ret_last, struct error **ret_error)
{
    int r = 0;

    /* subscribed before the stop, so that its last word is not missed */
    if (options->wait)
        r = vm_call(client, &options->vm, "Subscribe", NULL, NULL, ret_error);
    if (r < 0) {
        json_decref(params);
        return r;
    }
    r = vm_call(client, &options->vm, "ShutdownVirtualMachine", params, NULL, ret_error);
    /* a VM that ends at once may close before it answers: it is what was asked for */
    if (r < 0 && !(options->wait && ret_error && error_get_code(*ret_error) == ERROR_CONNECTION))
        return r;
    if (r == 0 && options->wait)
        return wait_for_end(client, ret_last, ret_error);
    *ret_last = json_object();
    return 0;
}

int verb_stop(int argc, char **argv)
{
    const struct verb *verb = verb_find(argv[0]);
    struct stop_options options = {.vm.timeout_usec = DEFAULT_TIMEOUT_USEC, .grace_usec = UINT64_MAX};
    _cleanup_(rpc_client_freep) struct rpc_client *client = NULL;
    _cleanup_error_ struct error *error = NULL;
    json_t *params = json_object(), *last = NULL;
    const char *reason;
    int r = vm_open(verb, argc, argv, &options.vm, &client);

    if (r >= 0) {
        json_decref(params);
        return r;
    }
    if (options.grace_usec != UINT64_MAX)
        json_object_set_new(params, "gracePeriodSeconds",
                            json_integer((json_int_t)((options.grace_usec + USEC_PER_SEC - 1) / USEC_PER_SEC)));
    if (stop_and_wait(client, &options, params, &last, &error) < 0)
        return print_error(error);
    reason = json_string_value(json_object_get(last, "stateReason"));
    if (options.vm.json) {
        r = print_json(last);
    } else {
        printf("%s%s%s\n", options.wait ? "ended" : "asked to shut down", reason ? ": " : "", reason ? reason : "");
        r = finish_output();
    }
    json_decref(last);
    return r;
}

/* ---- events, timeline ------------------------------------------------------------------------------------------ */

struct events_options {
    struct vm_options vm;
    uint64_t from;
    bool no_follow;
};

const struct option_spec events_options[] = {
    VM_OPTIONS_WHERE,
    VM_OPTIONS_TIMEOUT,
    VM_OPTIONS_JSON,
    {.name = "from",
     .kind = OPTION_NUMBER,
     .offset = offsetof(struct events_options, from),
     .argument = "N",
     .what = "begin with the event of this number; 0: only new ones (1: all that are kept)"},
    {.name = "no-follow",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct events_options, no_follow),
     .what = "leave after the last event there is now"},
    {0},
};

/* Members that print_event() shows in a form of its own, or that say nothing new. */
static bool is_shown(const char *member)
{
    static const char *const shown[] = {"seq",     "time",  "type",        "reason",
                                        "message", "state", "stateReason", "eventType"};

    for (size_t i = 0; i < ELEMENTSOF(shown); i++)
        if (streq(shown[i], member))
            return true;
    return false;
}

static void print_members(const json_t *event)
{
    const char *key, *separator = "";
    json_t *value;

    json_object_foreach ((json_t *)event, key, value) {
        _cleanup_free_ char *text = NULL;

        if (is_shown(key))
            continue;
        text = json_is_string(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        printf("%s%s=", separator, key);
        print_safe(stdout, json_is_string(value) ? json_string_value(value) : text ? text : "?");
        separator = " ";
    }
}

static void print_event(const json_t *event, bool json)
{
    const char *type = json_string_value(json_object_get(event, "type"));
    const char *reason = json_string_value(json_object_get(event, "reason"));
    const char *message = json_string_value(json_object_get(event, "message"));
    const char *stamp = json_string_value(json_object_get(event, "time"));
    const char *state_reason = json_string_value(json_object_get(event, "stateReason"));
    char what[128];

    if (json) {
        print_json(event);
        return;
    }
    if (state_reason && !streq(state_reason, "Unknown"))
        snprintf(what, sizeof(what), "%s (%s)", reason ? reason : "", state_reason);
    else
        snprintf(what, sizeof(what), "%s", reason ? reason : "");
    printf("%s%6lld  %s%s  %-10s  %-22s  ", style_on(stdout, STYLE_FAINT),
           (long long)json_integer_value(json_object_get(event, "seq")), stamp ? stamp : "",
           style_on(stdout, STYLE_PLAIN), type ? type : "", what);
    if (message)
        print_safe(stdout, message);
    else
        print_members(event);
    fputc('\n', stdout);
    fflush(stdout); /* each line as it comes, also into a pipe */
}

int verb_events(int argc, char **argv)
{
    const struct verb *verb = verb_find(argv[0]);
    struct events_options options = {.vm.timeout_usec = DEFAULT_TIMEOUT_USEC, .from = 1};
    _cleanup_(rpc_client_freep) struct rpc_client *client = NULL;
    _cleanup_error_ struct error *error = NULL;
    json_t *result = NULL;
    json_int_t next, lost, last = 0;
    int r = vm_open(verb, argc, argv, &options.vm, &client);

    if (r >= 0)
        return r;
    if (vm_call(client, &options.vm, "Subscribe", json_pack("{s:I}", "from", (json_int_t)options.from), &result,
                &error) < 0)
        return print_error(error);
    next = json_integer_value(json_object_get(result, "next"));
    lost = json_integer_value(json_object_get(result, "lost"));
    json_decref(result);
    if (lost > 0 && options.from > 1)
        fprintf(stderr, "vmlet: %lld events before these are not kept any more\n", (long long)lost);
    while (!options.no_follow || (options.from > 0 && (json_int_t)options.from < next && last + 1 < next)) {
        _cleanup_free_ char *method = NULL;
        json_t *event = NULL;

        r = rpc_client_next(client, options.no_follow ? options.vm.timeout_usec : UINT64_MAX, &method, &event, &error);
        if (r < 0)
            break;
        last = json_integer_value(json_object_get(event, "seq"));
        if (streq(method, "Event"))
            print_event(event, options.vm.json);
        json_decref(event);
        if (ferror(stdout))
            break;
    }
    /* the end of the connection is the end of the VM, and of the events */
    if (error && (options.no_follow || error_get_code(error) != ERROR_CONNECTION))
        return print_error(error);
    return finish_output();
}

int verb_timeline(int argc, char **argv)
{
    const struct verb *verb = verb_find(argv[0]);
    struct vm_options options = {.timeout_usec = DEFAULT_TIMEOUT_USEC};
    _cleanup_(rpc_client_freep) struct rpc_client *client = NULL;
    _cleanup_error_ struct error *error = NULL;
    json_t *result = NULL, *mark;
    json_int_t before = 0;
    size_t i;
    int r = vm_open(verb, argc, argv, &options, &client);

    if (r >= 0)
        return r;
    if (vm_call(client, &options, "GetTimeline", NULL, &result, &error) < 0)
        return print_error(error);
    if (options.json) {
        r = print_json(result);
        json_decref(result);
        return r;
    }
    json_array_foreach (json_object_get(result, "events"), i, mark) {
        json_int_t usec = json_integer_value(json_object_get(mark, "usec"));
        const char *name = json_string_value(json_object_get(mark, "name"));

        printf("%10.1f ms  %s%+10.1f ms%s  %s\n", (double)usec / 1000, style_on(stdout, STYLE_FAINT),
               (double)(usec - before) / 1000, style_on(stdout, STYLE_PLAIN), name ? name : "?");
        before = usec;
    }
    json_decref(result);
    return finish_output();
}

/* ---- screenshot ------------------------------------------------------------------------------------------------ */

struct screenshot_options {
    struct vm_options vm;
    const char *output;
};

const struct option_spec screenshot_options[] = {
    VM_OPTIONS_WHERE,
    VM_OPTIONS_TIMEOUT,
    {.name = "output",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct screenshot_options, output),
     .argument = "FILE",
     .what = "where to write the PNG ('-': standard output)",
     .complete = COMPLETE_FILE,
     .letter = 'o'},
    {0},
};

static int save(const char *path, const void *data, size_t length, struct error **ret_error)
{
    int r;

    if (!streq(path, "-"))
        return file_write_atomic(path, data, length, 0600, ret_error);
    r = fd_write_all(STDOUT_FILENO, data, length);
    return r < 0 ? error_errno(ret_error, r, "cannot write the picture to standard output") : 0;
}

int verb_screenshot(int argc, char **argv)
{
    const struct verb *verb = verb_find(argv[0]);
    struct screenshot_options options = {.vm.timeout_usec = DEFAULT_TIMEOUT_USEC};
    _cleanup_(rpc_client_freep) struct rpc_client *client = NULL;
    _cleanup_error_ struct error *error = NULL;
    _cleanup_free_ char *data = NULL;
    const char *text;
    json_t *result = NULL;
    size_t length = 0;
    int r = vm_open(verb, argc, argv, &options.vm, &client);

    if (r >= 0)
        return r;
    if (!options.output)
        return usage_error(verb, "--output says where to write the picture");
    if (streq(options.output, "-") && isatty(STDOUT_FILENO))
        return usage_error(verb, "a picture is not written to a terminal");
    if (vm_call(client, &options.vm, "GetScreenshot", NULL, &result, &error) < 0)
        return print_error(error);
    text = json_string_value(json_object_get(result, "data"));
    r = text ? base64_decode(text, strlen(text), &data, &length) : -EBADMSG;
    if (r < 0)
        error_set(&error, ERROR_BAD_DATA, r, "the VM sent a picture that cannot be decoded");
    else
        r = save(options.output, data, length, &error);
    json_decref(result);
    return r < 0 ? print_error(error) : EXIT_OK;
}
