/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verbs of `vmlet`: one table (main.c) that dispatch, --help, the completion scripts and the man page's test read.
 * Adding a verb is a function, its table of options, and a row.
 */
#pragma once

#include "base/util.h"

enum option_kind {
    OPTION_FLAG = 1, /* bool */
    OPTION_TEXT,     /* const char * */
    OPTION_CHOICE,   /* const char *, one of `choices` */
    OPTION_LIST,     /* char **, a strv that grows; freed by the verb */
    OPTION_DURATION, /* uint64_t microseconds: "30s", "2m", "500ms", "1h", plain seconds */
    OPTION_NUMBER,   /* uint64_t */
};

/* What a shell completes behind the option or argument. */
enum complete {
    COMPLETE_NOTHING,
    COMPLETE_FILE,
    COMPLETE_DIRECTORY,
};

struct option_spec {
    const char *name; /* "socket", without dashes; NULL ends a table */
    enum option_kind kind;
    size_t offset;              /* of the value in the verb's struct */
    const char *argument;       /* "PATH" in the help; NULL for a flag */
    const char *what;           /* one line of help */
    const char *const *choices; /* OPTION_CHOICE; NULL-terminated */
    enum complete complete;
    char letter; /* short form, or 0 */
};

struct verb {
    const char *name, *summary;
    const char *arguments; /* "FILE", "[NAME]"; NULL: none */
    unsigned min_arguments, max_arguments;
    enum complete complete;            /* of the arguments */
    const struct option_spec *options; /* --help is added; NULL: no others */
    bool confined;                     /* by the filter of what runs a VM (domain/sandbox.h), from its start */
    const char *details;               /* paragraphs behind the options in --help; may be NULL */
    /* argv[0] is the verb's name. Returns the exit code (base/error.h). */
    int (*function)(int argc, char **argv);
};

extern const struct verb verbs[]; /* ends with a NULL name */
/* NULL if there is none. */
const struct verb *verb_find(const char *name);

int verb_explain(int argc, char **argv);
int verb_expand(int argc, char **argv);
int verb_pod(int argc, char **argv);
int verb_run(int argc, char **argv);
int verb_smoke(int argc, char **argv);
int verb_exec(int argc, char **argv);
int verb_status(int argc, char **argv);
int verb_action(int argc, char **argv);
int verb_stop(int argc, char **argv);
int verb_freeze(int argc, char **argv);
int verb_disk(int argc, char **argv);
int verb_data(int argc, char **argv);
int verb_events(int argc, char **argv);
int verb_wait(int argc, char **argv);
int verb_timeline(int argc, char **argv);
int verb_screenshot(int argc, char **argv);
int verb_console(int argc, char **argv);
int verb_probe(int argc, char **argv);
int verb_completion(int argc, char **argv);
int verb_version(int argc, char **argv);
int verb_help(int argc, char **argv);

extern const struct option_spec expand_options[], pod_print_options[], explain_options[], exec_options[], run_options[],
    smoke_options[], status_options[], vm_options[], stop_options[], freeze_options[], disk_options[], data_options[],
    events_options[], wait_options[], screenshot_options[], console_options[], probe_options[];
