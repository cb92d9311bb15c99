/* SPDX-License-Identifier: Apache-2.0 */
#include "vmlet/until.h"

#include <string.h>

#define CONSOLE_LINE_MAX 4096U

static const struct {
    const char *option, *name;
} untils[] = {
    [UNTIL_END] = {NULL, "its end"},
    [UNTIL_RUNNING] = {"running", "running vCPUs"},
    [UNTIL_AGENT] = {"agent", "the guest agent"},
    [UNTIL_SHUTDOWN] = {"shutdown", "the guest's own shutdown"},
    [UNTIL_CONSOLE] = {NULL, "the console to match"},
};

const char *until_name(enum until until)
{
    return untils[until].name;
}

int until_parse(const char *text, enum until *ret_until, const char **ret_regex, struct error **ret_error)
{
    const char *expression = startswith(text, "console:");
    struct console_match match = {0};
    int r;

    for (size_t i = 0; i < ELEMENTSOF(untils); i++)
        if (untils[i].option && streq(text, untils[i].option)) {
            *ret_until = (enum until)i;
            return 0;
        }
    if (!expression)
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL,
                         "--until %s: not known (running, agent, shutdown or console:REGEX)", text);
    r = console_match_init(&match, expression, ret_error);
    if (r < 0)
        return error_wrap(ret_error, r, "--until %s", text);
    console_match_done(&match);
    *ret_until = UNTIL_CONSOLE;
    *ret_regex = expression;
    return 0;
}

int console_match_init(struct console_match *match, const char *regex, struct error **ret_error)
{
    char why[256];
    int r = regcomp(&match->regex, regex, REG_EXTENDED | REG_NOSUB);

    match->has_regex = r == 0;
    if (r == 0)
        return 0;
    regerror(r, &match->regex, why, sizeof(why));
    return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "%s", why);
}

void console_match_done(struct console_match *match)
{
    if (match->has_regex)
        regfree(&match->regex);
    strbuf_done(&match->line);
    *match = (struct console_match){0};
}

bool console_match_add(struct console_match *match, const char *data, size_t length)
{
    while (match->has_regex && length > 0) {
        const char *end = memchr(data, '\n', length);
        size_t n = end ? (size_t)(end - data) : length;

        strbuf_add(&match->line, data, MIN(n, CONSOLE_LINE_MAX - MIN((size_t)CONSOLE_LINE_MAX, match->line.length)));
        if (regexec(&match->regex, strbuf_text(&match->line), 0, NULL, 0) == 0)
            return true;
        if (!end)
            break;
        strbuf_clear(&match->line);
        data = end + 1;
        length -= n + 1;
    }
    return false;
}
