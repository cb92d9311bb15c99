/* SPDX-License-Identifier: Apache-2.0 */
/* The shell without its terminal: runs one line, prints the answer. */
#pragma once

#include <stdio.h>

#include "qmp/shell/session.h"

struct shell {
    sd_event *event;
    struct session *session;
    struct qmp_schema *schema; /* NULL: could not be had; then nothing is checked or completed */
    bool write, json, interactive;
    bool hmp;          /* lines are human monitor commands */
    bool agent;        /* lines are guest agent commands */
    bool verbose;      /* prints the JSON of each command */
    bool pretty;       /* results are indented JSON, never tables */
    bool asking;       /* for a completion: nothing is printed */
    int cpu;           /* that human monitor commands are about */
    bool quit, failed; /* the last line failed */
    char **events;     /* patterns of events to show; NULL: all */
    bool events_off;
    FILE *record;
    char *transaction; /* lines of an open "transaction(", joined by LF; NULL: none */
    FILE *out;
    unsigned depth; /* of replay and watch */
};

/* 0, or a negative errno when the line failed (already printed). */
int shell_run_line(struct shell *shell, const char *line);
/* columns as in struct view. */
void shell_print_result(struct shell *shell, const json_t *result, const char *columns);
void shell_print_error(struct shell *shell, const struct error *error);
void shell_print_event(struct shell *shell, const char *name, const json_t *data, uint64_t usec);
bool shell_shows_event(const struct shell *shell, const char *name);
/* Checks read-only and schema, then calls. arguments consumed. */
int shell_call(struct shell *shell, const char *command, json_t *arguments, json_t **ret_result,
               struct error **ret_error);
/* The same for the guest agent. */
int shell_call_agent(struct shell *shell, const char *command, json_t *arguments, json_t **ret_result,
                     struct error **ret_error);
/* Writes what is typed and answered to the file from now on; NULL: no more. */
int shell_record(struct shell *shell, const char *path, struct error **ret_error);
/* Gets the schema from QEMU. */
int shell_load_schema(struct shell *shell, struct error **ret_error);
void shell_done(struct shell *shell);

/* ---- built-in words, one row each ---- */
struct shell_word {
    const char *name, *arguments, *help;
    int (*run)(struct shell *shell, char **words, const char *rest, struct error **ret_error);
};
const struct shell_word *shell_words(void);

/* ---- views: what people ask of virsh ---- */
struct view {
    const char *name, *arguments, *help;
    /* For a list "name:title …", ":size" behind what is a number of bytes. For an object "" for a line each, or "=
     * PATTERN…" with the names of what is a number of bytes. NULL: a tree. */
    const char *columns;
    int (*get)(struct shell *shell, char **words, json_t **ret, struct error **ret_error);
};
const struct view *shell_views(void);

/* ---- events by virsh's names ---- */
struct event_name {
    const char *name;
    const char *qmp;    /* patterns of QEMU's events, separated by spaces; NULL: QEMU sends nothing for it */
    const char *served; /* patterns of the command server's; NULL: as QEMU's */
    const char *what;
};
const struct event_name *shell_event_names(void);
/* A pattern is one of virsh's names, or one of fnmatch(3), of the whole name ("Agent/Connected") or of its last part.
 */
bool shell_event_matches(const char *pattern, const char *name);
/* A table of them, with what this QEMU sends. */
json_t *shell_list_events(const struct shell *shell);

/* A table, a list of names and values, or JSON, as it fits the value. columns as in struct view, may be NULL. */
void render(FILE *out, const json_t *value, const char *columns);
/* One line of text from anywhere: control characters, which a guest may have put there, are shown and not obeyed. */
void render_text(FILE *out, const char *text);
/* 1.5 GiB */
const char *render_bytes(char *buffer, size_t size, uint64_t bytes);
