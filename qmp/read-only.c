/* SPDX-License-Identifier: Apache-2.0 */
#include <vmlet/qmp.h>

#include <fnmatch.h>

#include "base/util.h"

/* A command is read-only when a row allows it. What is not here may change the guest, the host, or the monitor. */
static const struct qmp_read_only_rule rules[] = {
    {"query-*", NULL, NULL, NULL, "asks QEMU for its state"},
    {"x-query-*", NULL, NULL, NULL, "asks QEMU for its state; the format may change"},
    {"x-debug-query-*", NULL, NULL, NULL, "asks QEMU for its state; the format may change"},
    {"qom-list", NULL, NULL, NULL, "members of an object"},
    {"qom-get", NULL, NULL, NULL, "a property's value"},
    {"qom-list-types", NULL, NULL, NULL, "types"},
    /* Both make an object of the type to look at it; where display modules are split (Debian's QEMU 7.2), making a
     * "-gl" device without its module aborts QEMU. */
    {"qom-list-properties", "typename", NULL, "*-gl *-gl-*", "properties of a type"},
    {"device-list-properties", "typename", NULL, "*-gl *-gl-*", "properties of a device type"},
    {"trace-event-get-state", NULL, NULL, NULL, "which trace events are on"},
    {"human-monitor-command", "command-line", "info help", NULL, "HMP's info and help"},
    {NULL, NULL, NULL, NULL, NULL},
};

/* guest-exec-status is not here: asking takes the program's output away from who started it. */
static const struct qmp_read_only_rule agent_rules[] = {
    {"guest-get-*", NULL, NULL, NULL, "asks for the guest's state"},
    {"guest-network-get-*", NULL, NULL, NULL, "interfaces and routes"},
    {"guest-ssh-get-authorized-keys", NULL, NULL, NULL, "public keys of a user"},
    {"guest-fsfreeze-status", NULL, NULL, NULL, "are the file systems frozen?"},
    {"guest-info", NULL, NULL, NULL, "the agent's version and commands"},
    {"guest-ping", NULL, NULL, NULL, "does it answer?"},
    {NULL, NULL, NULL, NULL, NULL},
};

const struct qmp_read_only_rule *qmp_read_only_rules(void)
{
    return rules;
}

const struct qmp_read_only_rule *qga_read_only_rules(void)
{
    return agent_rules;
}

bool qga_command_is_read_only(const char *command)
{
    for (const struct qmp_read_only_rule *r = agent_rules; r->pattern; r++)
        if (fnmatch(r->pattern, command, 0) == 0)
            return true;
    return false;
}

static bool matches_any(const char *patterns, const char *value)
{
    while (*patterns) {
        size_t n = strcspn(patterns, " ");
        char one[64];

        if (n < sizeof(one)) {
            memcpy(one, patterns, n);
            one[n] = '\0';
            if (fnmatch(one, value, 0) == 0)
                return true;
        }
        patterns += n + strspn(patterns + n, " ");
    }
    return false;
}

/* "info mtree" and "info", but not "information…" or "info\nquit": one word, then a blank, then one line. */
static bool is_word_of(const char *patterns, const char *value)
{
    size_t n = strcspn(value, " ");
    char word[64];

    if (n >= sizeof(word) || strpbrk(value, "\n\r;"))
        return false;
    memcpy(word, value, n);
    word[n] = '\0';
    return matches_any(patterns, word);
}

bool qmp_command_is_read_only(const char *command, const json_t *arguments)
{
    for (const struct qmp_read_only_rule *r = rules; r->pattern; r++) {
        const char *value;

        if (fnmatch(r->pattern, command, 0) != 0)
            continue;
        if (!r->argument)
            return true;
        value = json_string_value(json_object_get(arguments, r->argument));
        return value && (!r->allowed || is_word_of(r->allowed, value)) &&
               (!r->denied || !matches_any(r->denied, value));
    }
    return false;
}
