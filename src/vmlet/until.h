/* SPDX-License-Identifier: Apache-2.0 */
/* What a VM can be waited for: `vmlet run --until`, `vmlet wait --until`. */
#pragma once

#include <regex.h>

#include "base/error.h"
#include "base/strbuf.h"

enum until {
    UNTIL_END,      /* until the guest ends by itself or is stopped */
    UNTIL_RUNNING,  /* the vCPUs run */
    UNTIL_AGENT,    /* the guest agent answers */
    UNTIL_SHUTDOWN, /* the guest ends by itself: an end that we bring about is a failure */
    UNTIL_CONSOLE,  /* a line of the console matches a regular expression */
};

/* "running", "agent", "shutdown", "console:REGEX"; -EINVAL for anything else or a bad expression. *ret_regex is a part
 * of the text. */
int until_parse(const char *text, enum until *ret_until, const char **ret_regex, struct error **ret_error);
/* As a sentence has it: "waiting for <the guest agent>". */
const char *until_name(enum until until);

/* The lines of a console, held against a regular expression. All zeroes: matches nothing. */
struct console_match {
    regex_t regex;
    bool has_regex;
    struct strbuf line; /* the last one, as far as it has come */
};

int console_match_init(struct console_match *match, const char *regex, struct error **ret_error);
void console_match_done(struct console_match *match);
/* Whether a line matches with these bytes: each as soon as it is there, also a prompt that has no end yet. */
bool console_match_add(struct console_match *match, const char *data, size_t length);
