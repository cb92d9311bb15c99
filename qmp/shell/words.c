/* SPDX-License-Identifier: Apache-2.0 */
/* The shell's own words: help, events, watch, record, replay, exit. */
#include <fnmatch.h>
#include <stdlib.h>

#include "base/limits.h"
#include "base/strv.h"
#include "qmp/shell/line.h"
#include "qmp/shell/shell.h"

#define MAX_DEPTH      4U /* of replay and watch inside each other */
#define LIMIT_OF_LINES 65536

static void print_rules(struct shell *sh, const struct qmp_read_only_rule *rules)
{
    for (const struct qmp_read_only_rule *r = rules; r->pattern; r++) {
        fprintf(sh->out, "  %-30s %s", r->pattern, r->why);
        if (r->allowed)
            fprintf(sh->out, "; only with %s starting with: %s", r->argument, r->allowed);
        if (r->denied)
            fprintf(sh->out, "; not with %s: %s", r->argument, r->denied);
        fputs("\n", sh->out);
    }
}

static void help_read_only(struct shell *sh)
{
    fputs("Allowed without --write:\n", sh->out);
    print_rules(sh, qmp_read_only_rules());
    fputs("Of the guest agent, with `agent`:\n", sh->out);
    print_rules(sh, qga_read_only_rules());
    if (sh->schema) {
        json_t *names = qmp_schema_list(sh->schema, "command"), *name;
        size_t i;

        fputs("Of this QEMU's commands:\n ", sh->out);
        json_array_foreach (names, i, name)
            if (qmp_command_is_read_only(json_string_value(name), NULL))
                fprintf(sh->out, " %s", json_string_value(name));
        fputs("\n", sh->out);
        json_decref(names);
    }
}

/* QEMU's commands that match the pattern. */
static int help_commands(struct shell *sh, const char *pattern, struct error **ret_error)
{
    json_t *names = sh->schema ? qmp_schema_list(sh->schema, "command") : NULL, *name;
    size_t i, found = 0;

    json_array_foreach (names, i, name) {
        if (fnmatch(pattern, json_string_value(name), 0) != 0)
            continue;
        found++;
        fprintf(sh->out, "%-40s%s\n", json_string_value(name),
                qmp_command_is_read_only(json_string_value(name), NULL) ? " read-only" : "");
    }
    json_decref(names);
    return found
               ? 0
               : error_set(ret_error, ERROR_NOT_FOUND, ENOENT, "help: no command of this QEMU is like \"%s\"", pattern);
}

static int run_help(struct shell *sh, char **words, const char *rest, struct error **ret_error)
{
    char *text;

    if (words[1] && streq(words[1], "--read-only")) {
        help_read_only(sh);
        return 0;
    }
    if (words[1] && strpbrk(words[1], "*?["))
        return help_commands(sh, words[1], ret_error);
    if (words[1]) {
        text = sh->schema ? qmp_schema_help(sh->schema, words[1]) : NULL;
        if (text) {
            fputs(text, sh->out);
            free(text);
            return 0;
        }
        for (const struct view *v = shell_views(); v->name; v++) {
            if (streq(v->name, words[1])) {
                fprintf(sh->out, "%s %s: %s\n", v->name, v->arguments, v->help);
                return 0;
            }
        }
        for (const struct shell_word *w = shell_words(); w->name; w++) {
            if (streq(w->name, words[1])) {
                fprintf(sh->out, "%s %s: %s\n", w->name, w->arguments, w->help);
                return 0;
            }
        }
        return error_set(ret_error, ERROR_NOT_FOUND, ENOENT, "help: nothing is known about \"%s\"", words[1]);
    }
    fputs("COMMAND key=value …      a QMP command: block_resize device=x size=1G, a.b=c for members, JSON for values\n"
          "{\"execute\": …}           the same as JSON\n"
          "/COMMAND                 a human monitor command: /info mtree\n"
          "agent COMMAND …          a guest agent command\n"
          "transaction( … )         actions, one a line, as one transaction\n",
          sh->out);
    for (const struct shell_word *w = shell_words(); w->name; w++)
        fprintf(sh->out, "%-8s %-15s %s\n", w->name, w->arguments, w->help);
    fputs("Views:\n", sh->out);
    for (const struct view *v = shell_views(); v->name; v++)
        fprintf(sh->out, "  %-13s %-9s %s\n", v->name, v->arguments, v->help);
    return 0;
}

struct past {
    struct shell *shell;
    char **patterns;
};

static void print_past(const char *name, json_t *data, uint64_t usec, void *userdata)
{
    struct past *past = userdata;
    bool shown = !*past->patterns;

    for (char **p = past->patterns; *p && !shown; p++)
        shown = shell_event_matches(*p, name);
    if (shown)
        shell_print_event(past->shell, name, data, usec);
}

static int show_past_events(struct shell *sh, char **patterns, struct error **ret_error)
{
    struct past past = {.shell = sh, .patterns = patterns};
    uint64_t lost = 0;
    int r = session_past_events(sh->session, print_past, &past, &lost, ret_error);

    if (r >= 0 && lost > 0 && !sh->json)
        fprintf(sh->out, "(%llu older ones are not kept any more)\n", (unsigned long long)lost);
    return r;
}

static int run_events(struct shell *sh, char **words, const char *rest, struct error **ret_error)
{
    char **patterns = NULL;

    if (words[1] && streq(words[1], "--list")) {
        json_t *rows = shell_list_events(sh);

        shell_print_result(sh, rows, "name:Event sent:Sent-here what:Meaning qmp:QEMU's");
        json_decref(rows);
        return 0;
    }
    if (words[1] && streq(words[1], "--past"))
        return show_past_events(sh, words + 2, ret_error);
    sh->events_off = words[1] && streq(words[1], "off");
    for (char **w = words + 1; !sh->events_off && *w; w++)
        if (!streq(*w, "on") && strv_append(&patterns, *w) < 0)
            return error_oom(ret_error);
    strv_free(sh->events);
    sh->events = patterns;
    if (sh->interactive)
        fprintf(sh->out, "events: %s\n", sh->events_off ? "off" : patterns ? rest : "all");
    else if (!sh->events_off) /* -c events: show them until ctrl-C */
        session_sleep(sh->session, UINT64_MAX / 4);
    return 0;
}

static int run_watch(struct shell *sh, char **words, const char *rest, struct error **ret_error)
{
    uint64_t interval = USEC_PER_SEC;
    unsigned long times = 0;

    for (; words[1] && (streq(words[1], "-n") || streq(words[1], "-c")) && words[2]; words += 2) {
        if (streq(words[1], "-n"))
            interval = (uint64_t)(strtod(words[2], NULL) * (double)USEC_PER_SEC);
        else
            times = strtoul(words[2], NULL, 10);
        rest = strstr(rest, words[2]) + strlen(words[2]);
    }
    rest += strspn(rest, " ");
    if (!*rest || sh->depth >= MAX_DEPTH)
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "usage: watch [-n SECONDS] [-c TIMES] COMMAND");
    sh->depth++;
    for (unsigned long i = 0; times == 0 || i < times; i++) {
        int r;

        if (sh->interactive)
            fputs("\033[H\033[2J", sh->out);
        r = shell_run_line(sh, rest);
        if (r < 0 || session_lost(sh->session)) {
            sh->depth--;
            return error_set(ret_error, ERROR_CANCELLED, ECANCELED, "watch: ended");
        }
        if (i + 1 != times && !session_sleep(sh->session, interval))
            break;
    }
    sh->depth--;
    return 0;
}

static int run_record(struct shell *sh, char **words, const char *rest, struct error **ret_error)
{
    return shell_record(sh, words[1] && !streq(words[1], "off") ? words[1] : NULL, ret_error);
}

/* One recorded line again; -EBADMSG when it now fails and did not, or the other way round. */
static int replay_line(struct shell *sh, const char *text, size_t number, struct error **ret_error)
{
    json_t *json = NULL;
    const char *line;
    bool failed_then;
    int r = qmp_json_parse(text, strlen(text), &json, ret_error);

    if (r < 0)
        return error_wrap(ret_error, r, "replay: line %zu", number);
    line = json_string_value(json_object_get(json, "line"));
    failed_then = json_object_get(json, "error") != NULL;
    r = 0;
    if (!line)
        r = error_set(ret_error, ERROR_BAD_DATA, EBADMSG, "replay: line %zu is no record", number);
    if (r >= 0) {
        if (!sh->json)
            fprintf(sh->out, "> %s\n", line);
        if ((shell_run_line(sh, line) < 0) != failed_then)
            r = error_set(ret_error, ERROR_BAD_DATA, EBADMSG, "replay: line %zu, \"%s\", %s when it was recorded",
                          number, line, failed_then ? "failed" : "did not fail");
    }
    json_decref(json);
    return r;
}

static int run_replay(struct shell *sh, char **words, const char *rest, struct error **ret_error)
{
    char *text = NULL;
    size_t size = 0, number = 0;
    FILE *file;
    int r = 0;

    if (!words[1] || sh->depth >= MAX_DEPTH)
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "usage: replay FILE");
    file = fopen(words[1], "re");
    if (!file)
        return error_errno(ret_error, errno, "replay: cannot read %s", words[1]);
    sh->depth++;
    while (r >= 0 && number < LIMIT_OF_LINES && getline(&text, &size, file) >= 0)
        r = replay_line(sh, text, ++number, ret_error);
    sh->depth--;
    free(text);
    fclose(file);
    return r;
}

static int run_exit(struct shell *sh, char **words, const char *rest, struct error **ret_error)
{
    sh->quit = true;
    return 0;
}

static const struct shell_word shell_word_table[] = {
    {"help", "[COMMAND]",
     "this, or what a command takes and returns; with a pattern: QEMU's commands; --read-only: what needs no --write",
     run_help},
    {"events", "[NAME…|off]",
     "which are shown: QEMU's names, virsh's, or patterns; --list: names; --past: what the "
     "command server keeps",
     run_events},
    {"watch", "[-n S] COMMAND", "again and again until ctrl-C; -c TIMES: so often", run_watch},
    {"record", "FILE|off", "writes what is typed and answered to a file", run_record},
    {"replay", "FILE", "types a recorded file again, and stops where an outcome differs", run_replay},
    {"exit", "", "leaves the shell (`quit` ends the VM)", run_exit},
    {NULL, NULL, NULL, NULL},
};

const struct shell_word *shell_words(void)
{
    return shell_word_table;
}
