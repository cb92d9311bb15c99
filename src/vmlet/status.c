/* SPDX-License-Identifier: Apache-2.0 */
/* vmlet status: GetDomain for people. */
#include <stdarg.h>

#include "base/limits.h"
#include "vmlet/output.h"
#include "vmlet/remote.h"

const struct option_spec status_options[] = {VM_OPTIONS_WHERE, VM_OPTIONS_TIMEOUT, VM_OPTIONS_JSON, {0}};

#define LABEL_WIDTH 12

/* The text at a path of members ("Status", "Reason"), or "". */
static const char *text_at(const json_t *object, ...)
{
    const char *key, *text;
    va_list ap;

    va_start(ap, object);
    while ((key = va_arg(ap, const char *)))
        object = json_object_get(object, key);
    va_end(ap);
    text = json_string_value(object);
    return text ? text : "";
}

static void label(const char *name)
{
    printf("%*s: ", LABEL_WIDTH, name);
}

static void line(const char *name, const char *text)
{
    if (!*text)
        return;
    label(name);
    print_safe(stdout, text);
    fputc('\n', stdout);
}

static enum style state_style(const char *state)
{
    static const struct {
        const char *state;
        enum style style;
    } styles[] = {{"Running", STYLE_GOOD},
                  {"Crashed", STYLE_BAD},
                  {"Paused", STYLE_WARNING},
                  {"ShuttingDown", STYLE_WARNING},
                  {"PMSuspended", STYLE_WARNING}};

    for (size_t i = 0; i < ELEMENTSOF(styles); i++)
        if (streq(styles[i].state, state))
            return styles[i].style;
    return STYLE_PLAIN;
}

/* "data: Input/output error; resumed at 2026-01-01T00:00:10Z" */
static void print_paused_by(const json_t *extra)
{
    const char *volume = text_at(extra, "pauseVolume", NULL), *error = text_at(extra, "ioError", "errno", NULL);
    const char *next = text_at(extra, "ioError", "nextTry", NULL);

    if (!*volume)
        return;
    label("paused by");
    print_safe(stdout, volume);
    printf("%s", *error ? ": " : "");
    print_safe(stdout, error);
    printf("%s%s\n", *next ? "; resumed at " : "", next);
}

static void print_state(const json_t *domain, const json_t *extra)
{
    const char *state = text_at(domain, "Status", "Status", NULL), *reason = text_at(domain, "Status", "Reason", NULL);
    const char *since = text_at(extra, "since", NULL);
    const json_t *stopping = json_object_get(extra, "stopping");
    enum style style = state_style(state);

    label("state");
    fputs(style == STYLE_PLAIN ? "" : style_on(stdout, style), stdout);
    print_safe(stdout, state);
    fputs(style == STYLE_PLAIN ? "" : style_on(stdout, STYLE_PLAIN), stdout);
    if (*reason && !streq(reason, "Unknown"))
        printf(" (%s)", reason);
    if (*since)
        printf(" since %s", since);
    fputc('\n', stdout);
    print_paused_by(extra);
    if (stopping) {
        label("stopping");
        printf("since %s by ", text_at(stopping, "asked", NULL));
        print_safe(stdout, text_at(stopping, "why", NULL));
        printf("; last step: %s\n", text_at(stopping, "phase", NULL));
    }
    line("outcome", text_at(extra, "outcome", NULL));
}

static void print_agent(const json_t *extra)
{
    bool connected = json_is_true(json_object_get(extra, "agentConnected"));
    const char *version = text_at(extra, "agentVersion", NULL);

    label("guest agent");
    printf("%s%s%s\n", connected ? "connected" : "not connected", *version ? ", version " : "", version);
}

/* "default 02:… as enp1s0, 10.0.2.2 fd10:0:2::2 (domain, guest-agent)": VMI.status.interfaces. */
static void print_interfaces(const json_t *extra)
{
    json_t *interface, *ip;
    size_t i, j;

    json_array_foreach (json_object_get(extra, "interfaces"), i, interface) {
        const char *name = text_at(interface, "name", NULL), *inside = text_at(interface, "interfaceName", NULL);

        label("interface");
        print_safe(stdout, *name ? name : "(the guest's own)");
        printf(" %s", text_at(interface, "mac", NULL));
        if (*inside) {
            fputs(" as ", stdout);
            print_safe(stdout, inside);
        }
        if (streq(text_at(interface, "linkState", NULL), "down"))
            fputs(", link down", stdout);
        json_array_foreach (json_object_get(interface, "ipAddresses"), j, ip) {
            fputs(j ? " " : ", ", stdout);
            print_safe(stdout, json_string_value(ip) ? json_string_value(ip) : "");
        }
        printf(" (%s)\n", text_at(interface, "infoSource", NULL));
    }
}

static void print_devices(const json_t *domain)
{
    const json_t *devices = json_object_get(json_object_get(domain, "Spec"), "Devices");
    json_t *device;
    size_t i;

    json_array_foreach (json_object_get(devices, "Disks"), i, device) {
        const char *source = text_at(device, "Source", "File", NULL);

        label("disk");
        printf("%s: %s on %s%s%s", text_at(device, "Alias", "Name", NULL), text_at(device, "Device", NULL),
               text_at(device, "Target", "Bus", NULL), *text_at(device, "Target", "Device", NULL) ? " as " : "",
               text_at(device, "Target", "Device", NULL));
        if (*source) {
            fputs(", ", stdout);
            print_safe(stdout, source);
        }
        fputc('\n', stdout);
    }
}

static void print_vm(const json_t *result)
{
    const json_t *domain = json_object_get(result, "domain"), *extra = json_object_get(result, "vmlet");
    const char *socket_name;
    json_t *socket;

    label("VM");
    printf("%s%s/%s%s\n", style_on(stdout, STYLE_HEADING), text_at(domain, "ObjectMeta", "namespace", NULL),
           text_at(domain, "ObjectMeta", "name", NULL), style_on(stdout, STYLE_PLAIN));
    print_state(domain, extra);
    line("UUID", text_at(domain, "Spec", "UUID", NULL));
    label("QEMU");
    printf("%s, pid %lld\n", text_at(extra, "qemuVersion", NULL),
           (long long)json_integer_value(json_object_get(extra, "pid")));
    label("acceleration");
    printf("%s: ", text_at(extra, "accel", NULL));
    print_safe(stdout, text_at(extra, "accelReason", NULL));
    fputc('\n', stdout);
    print_agent(extra);
    print_devices(domain);
    print_interfaces(extra);
    json_object_foreach (json_object_get(extra, "sockets"), socket_name, socket) {
        label("socket");
        printf("%s ", socket_name);
        print_safe(stdout, json_string_value(socket) ? json_string_value(socket) : "");
        fputc('\n', stdout);
    }
}

int verb_status(int argc, char **argv)
{
    const struct verb *verb = verb_find(argv[0]);
    struct vm_options options = {.timeout_usec = 5 * USEC_PER_SEC};
    _cleanup_(rpc_client_freep) struct rpc_client *client = NULL;
    _cleanup_error_ struct error *error = NULL;
    json_t *result = NULL;
    int r = vm_open(verb, argc, argv, &options, &client);

    if (r >= 0)
        return r;
    if (vm_call(client, &options, "GetDomain", NULL, &result, &error) < 0)
        return print_error(error);
    json_object_del(result, "response");
    if (options.json) {
        r = print_json(result);
    } else {
        print_vm(result);
        r = finish_output();
    }
    json_decref(result);
    return r;
}
