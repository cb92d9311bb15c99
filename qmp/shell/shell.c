/* SPDX-License-Identifier: Apache-2.0 */
#include "qmp/shell/shell.h"

#include <ctype.h>
#include <limits.h>
#include <time.h>

#include "base/limits.h"
#include "base/nearest.h"
#include "base/strbuf.h"
#include "base/strv.h"
#include "qmp/shell/line.h"

void shell_done(struct shell *shell)
{
    if (shell->record)
        fclose(shell->record);
    strv_free(shell->events);
    free(shell->transaction);
    qmp_schema_free(shell->schema);
    session_close(shell->session);
}

#define PRETTY_INDENT 4U /* as QEMU's own shell */

/* ---- output
 * ---------------------------------------------------------------------------------------------------------- */

void shell_print_error(struct shell *shell, const struct error *error)
{
    const char *class = error_qmp_class(error), *remedy = error_remedy(error);

    if (shell->json) {
        json_t *json = json_pack("{s:{s:s, s:s*, s:s}}", "error", "code", error_code_name(error_get_code(error)),
                                 "class", class, "desc", error_message(error));
        char *text = qmp_json_dump(json, 0);

        fprintf(stderr, "%s\n", text ? text : "{}");
        free(text);
        json_decref(json);
        return;
    }
    fprintf(stderr, "error: %s%s%s%s", error_message(error), class ? " (" : "", class ? class : "", class ? ")" : "");
    fprintf(stderr, "%s%s\n", remedy ? "; " : "", remedy ? remedy : "");
}

bool shell_shows_event(const struct shell *shell, const char *name)
{
    if (shell->events_off)
        return false;
    STRV_FOREACH (pattern, shell->events) {
        if (shell_event_matches(*pattern, name))
            return true;
    }
    return shell->events == NULL;
}

static void print_event_json(struct shell *shell, const char *name, const json_t *data, uint64_t usec)
{
    json_t *json =
        json_pack("{s:s, s:O, s:o}", "event", name, "data", (json_t *)data, "timestamp-usec", qmp_json_uint64(usec));
    char *text = qmp_json_dump(json, 0);

    fprintf(shell->out, "%s\n", text ? text : "");
    free(text);
    json_decref(json);
}

void shell_print_event(struct shell *shell, const char *name, const json_t *data, uint64_t usec)
{
    char stamp[32] = "--:--:--.---";
    const char *message = json_string_value(json_object_get(data, "message"));
    struct tm tm;
    time_t seconds = (time_t)(usec / USEC_PER_SEC);
    json_t *rest;

    if (shell->json) {
        print_event_json(shell, name, data, usec);
        fflush(shell->out);
        return;
    }
    if (usec > 0 && localtime_r(&seconds, &tm)) {
        size_t n = strftime(stamp, sizeof(stamp), "%H:%M:%S", &tm);

        snprintf(stamp + n, sizeof(stamp) - n, ".%03u", (unsigned)(usec / 1000 % 1000));
    }
    rest = json_copy((json_t *)data);
    if (message)
        json_object_del(rest, "message");
    fprintf(shell->out, "[%s] %s%s", stamp, name, message ? ": " : "");
    render_text(shell->out, message ? message : "");
    if (json_object_size(rest) > 0) {
        char *text = qmp_json_dump(rest, 0);

        fprintf(shell->out, " %s", text ? text : "");
        free(text);
    }
    fputc('\n', shell->out);
    json_decref(rest);
    fflush(shell->out);
}

void shell_print_result(struct shell *shell, const json_t *result, const char *columns)
{
    if (shell->json || shell->pretty) {
        char *text = qmp_json_dump(result, shell->pretty ? PRETTY_INDENT : 0);

        fprintf(shell->out, "%s\n", text ? text : "");
        free(text);
    } else {
        render(shell->out, result, columns);
    }
    fflush(shell->out);
}

/* ---- calls
 * ----------------------------------------------------------------------------------------------------------- */

int shell_load_schema(struct shell *shell, struct error **ret_error)
{
    json_t *reply = NULL;
    int r = session_call(shell->session, "query-qmp-schema", NULL, &reply, ret_error);

    if (r >= 0)
        r = qmp_schema_new(reply, &shell->schema, ret_error);
    json_decref(reply);
    return r;
}

/* What goes out, as it goes out. */
static void show_command(struct shell *shell, const char *command, const json_t *arguments)
{
    json_t *json = json_pack("{s:s, s:O*}", "execute", command, "arguments", (json_t *)arguments);
    char *text;

    if (!arguments)
        json_object_set_new(json, "arguments", json_object());
    text = qmp_json_dump(json, shell->pretty ? PRETTY_INDENT : 0);
    fprintf(shell->out, "%s\n", text ? text : "");
    free(text);
    json_decref(json);
}

static int unknown_command(struct shell *shell, const char *command, struct error **ret_error)
{
    json_t *known = qmp_schema_list(shell->schema, "command"), *name;
    _cleanup_(strv_freep) char **names = NULL;
    const char *nearest;
    size_t i;
    int r;

    json_array_foreach (known, i, name)
        strv_append(&names, json_string_value(name));
    for (const struct view *v = shell_views(); v->name; v++)
        strv_append(&names, v->name);
    for (const struct shell_word *w = shell_words(); w->name; w++)
        strv_append(&names, w->name);
    nearest = names ? nearest_name(command, (const char *const *)names) : NULL;
    r = error_set(ret_error, ERROR_NOT_FOUND, ENOENT, "%s: this QEMU has no such command%s%s%s", command,
                  nearest ? " (did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?)" : "");
    if (ret_error && !nearest)
        error_set_remedy(*ret_error, "`help` lists the shell's words, and `help PATTERN` QEMU's commands");
    json_decref(known);
    return r;
}

int shell_call(struct shell *shell, const char *command, json_t *arguments, json_t **ret_result,
               struct error **ret_error)
{
    int r = 0;

    if (shell->schema && !qmp_schema_has_command(shell->schema, command)) {
        r = unknown_command(shell, command, ret_error);
    } else if (!shell->write && !qmp_command_is_read_only(command, arguments)) {
        r = error_set(ret_error, ERROR_NOT_ALLOWED, EPERM, "%s may change the VM, and this shell is read-only",
                      command);
        if (ret_error)
            error_set_remedy(*ret_error, "start it with --write; `help --read-only` lists what is allowed without");
    } else if (shell->schema) {
        r = qmp_schema_check(shell->schema, command, arguments, ret_error);
    }
    if (r < 0) {
        json_decref(arguments);
        return r;
    }
    if (shell->verbose && !shell->asking)
        show_command(shell, command, arguments);
    return session_call(shell->session, command, arguments, ret_result, ret_error);
}

int shell_call_agent(struct shell *shell, const char *command, json_t *arguments, json_t **ret_result,
                     struct error **ret_error)
{
    int r;

    if (shell->write || qga_command_is_read_only(command)) {
        if (shell->verbose && !shell->asking)
            show_command(shell, command, arguments);
        return session_call_agent(shell->session, command, arguments, ret_result, ret_error);
    }
    json_decref(arguments);
    r = error_set(ret_error, ERROR_NOT_ALLOWED, EPERM, "%s may change the guest, and this shell is read-only", command);
    if (ret_error)
        error_set_remedy(*ret_error, "start it with --write; `help --read-only` lists what is allowed without");
    return r;
}

int shell_record(struct shell *shell, const char *path, struct error **ret_error)
{
    if (shell->record)
        fclose(TAKE_PTR(shell->record));
    if (!path)
        return 0;
    shell->record = fopen(path, "we");
    return shell->record ? 0 : error_errno(ret_error, errno, "record: cannot write %s", path);
}

static void record(struct shell *shell, const char *line, json_t *result, const struct error *error)
{
    json_t *json;
    char *text;

    if (!shell->record)
        return;
    json = json_pack("{s:s, s:O*, s:s*, s:s*}", "line", line, "return", result, "error",
                     error ? error_message(error) : NULL, "class", error ? error_qmp_class(error) : NULL);
    text = qmp_json_dump(json, 0);
    if (text)
        fprintf(shell->record, "%s\n", text);
    fflush(shell->record);
    free(text);
    json_decref(json);
}

/* ---- kinds of lines
 * ---------------------------------------------------------------------------------------------------- */

static int run_qmp(struct shell *shell, const char *line, json_t **ret, struct error **ret_error)
{
    _cleanup_free_ char *command = NULL;
    json_t *arguments = NULL;
    int r = line_parse(line, shell->schema, &command, &arguments, ret_error);

    return r < 0 ? r : shell_call(shell, command, arguments, ret, ret_error);
}

/* `cpu N` is about the next commands, and each of ours comes to QEMU as if it were the first: so we remember it. */
static int choose_cpu(struct shell *shell, const char *number, struct error **ret_error)
{
    char *end;
    long cpu = strtol(number, &end, 10);
    json_t *answer = NULL;
    int r;

    if (end == number || *end || cpu < 0 || cpu > INT_MAX)
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "usage: cpu NUMBER");
    r = shell_call(shell, "human-monitor-command",
                   json_pack("{s:s, s:i}", "command-line", "info version", "cpu-index", (int)cpu), &answer, ret_error);
    json_decref(answer);
    if (r >= 0)
        shell->cpu = (int)cpu;
    return r;
}

static int run_hmp(struct shell *shell, const char *line, json_t **ret, struct error **ret_error)
{
    const char *cpu = startswith(line, "cpu ");
    json_t *arguments;

    if (cpu)
        return choose_cpu(shell, cpu + strspn(cpu, " "), ret_error);
    arguments = json_pack("{s:s}", "command-line", line);
    if (shell->cpu > 0)
        json_object_set_new(arguments, "cpu-index", json_integer(shell->cpu));
    return shell_call(shell, "human-monitor-command", arguments, ret, ret_error);
}

static int run_agent(struct shell *shell, const char *line, json_t **ret, struct error **ret_error)
{
    _cleanup_free_ char *command = NULL;
    json_t *arguments = NULL;
    int r = line_parse(line, NULL, &command, &arguments, ret_error);

    return r < 0 ? r : shell_call_agent(shell, command, arguments, ret, ret_error);
}

/* "transaction(" and then an action a line, until ")"; all of it may stand on one line. */
static int run_transaction(struct shell *shell, char *lines, json_t **ret, struct error **ret_error)
{
    json_t *actions = json_array();
    char *save = NULL;

    for (char *line = strtok_r(lines, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        _cleanup_free_ char *type = NULL;
        json_t *data = NULL;
        int r = line_parse(line, shell->schema, &type, &data, ret_error);

        if (r < 0) {
            json_decref(actions);
            return r;
        }
        json_array_append_new(actions, json_pack("{s:s, s:o}", "type", type, "data", data));
    }
    return shell_call(shell, "transaction", json_pack("{s:o}", "actions", actions), ret, ret_error);
}

/* Takes the line as part of a transaction; true when there is no more to do with it. */
static bool collect_transaction(struct shell *shell, const char *line, char **ret_complete)
{
    size_t n = strlen(line);
    bool ends = n > 0 && line[n - 1] == ')' && !line_is_open(line);
    char *joined;

    if (asprintf(&joined, "%s%s%.*s", shell->transaction, *shell->transaction ? "\n" : "", (int)(ends ? n - 1 : n),
                 line) < 0)
        return true;
    free(shell->transaction);
    shell->transaction = joined;
    if (!ends)
        return true;
    *ret_complete = TAKE_PTR(shell->transaction);
    return false;
}

static const struct view *find_view(const char *name)
{
    for (const struct view *v = shell_views(); v->name; v++)
        if (streq(v->name, name))
            return v;
    return NULL;
}

static const struct shell_word *find_word(const char *name)
{
    for (const struct shell_word *w = shell_words(); w->name; w++)
        if (streq(w->name, name))
            return w;
    return NULL;
}

static int run_view(struct shell *shell, const struct view *view, const char *line, json_t **ret,
                    struct error **ret_error)
{
    _cleanup_(strv_freep) char **words = NULL;
    int r = line_split(line, &words, ret_error);

    if (r < 0)
        return r;
    if (strv_length(words) > (*view->arguments ? 2U : 1U))
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "usage: %s %s", view->name, view->arguments);
    return view->get(shell, words, ret, ret_error);
}

/* The rest behind the first word. */
static const char *behind_word(const char *line)
{
    line += strcspn(line, " \t");
    return line + strspn(line, " \t");
}

static int run_word(struct shell *shell, const struct shell_word *word, const char *line, struct error **ret_error)
{
    _cleanup_(strv_freep) char **words = NULL;
    int r = line_split(line, &words, ret_error);

    return r < 0 ? r : word->run(shell, words, behind_word(line), ret_error);
}

static int run_any(struct shell *shell, const char *line, json_t **ret, const char **ret_columns,
                   struct error **ret_error)
{
    char first[64];
    const struct shell_word *word;
    const struct view *view;

    snprintf(first, sizeof(first), "%.*s", (int)strcspn(line, " \t("), line);
    if ((word = find_word(first)))
        return run_word(shell, word, line, ret_error);
    if (shell->hmp)
        return run_hmp(shell, line, ret, ret_error);
    if ((view = find_view(first))) {
        *ret_columns = view->columns;
        return run_view(shell, view, line, ret, ret_error);
    }
    if (*line == '/')
        return run_hmp(shell, line + 1, ret, ret_error);
    if (streq(first, "agent"))
        return run_agent(shell, behind_word(line), ret, ret_error);
    if (shell->agent)
        return run_agent(shell, line, ret, ret_error);
    return run_qmp(shell, line, ret, ret_error);
}

int shell_run_line(struct shell *shell, const char *input)
{
    _cleanup_free_ char *line = NULL, *transaction = NULL;
    _cleanup_error_ struct error *error = NULL;
    const char *columns = NULL, *start;
    json_t *result = NULL;
    size_t n;
    int r;

    shell->failed = false;
    input += strspn(input, " \t\r\n");
    line = strdup(input);
    for (n = line ? strlen(line) : 0; n > 0 && isspace((unsigned char)line[n - 1]); n--)
        line[n - 1] = '\0';
    if (n == 0 || *line == '#')
        return 0;
    start = startswith(line, "transaction(");
    if (start && !shell->transaction && !shell->hmp)
        shell->transaction = strdup("");
    if (shell->transaction) {
        if (collect_transaction(shell, start ? start + strspn(start, " ") : line, &transaction))
            return 0;
        r = run_transaction(shell, transaction, &result, &error);
    } else {
        r = run_any(shell, line, &result, &columns, &error);
    }
    if (result && r >= 0)
        shell_print_result(shell, result, columns);
    if (r < 0) {
        shell_print_error(shell, error);
        shell->failed = true;
    }
    if (result || r < 0)
        record(shell, line, result, error);
    json_decref(result);
    return r;
}
