/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/strbuf.h"

static struct {
    const char *component;
    enum log_level level;
    bool json;
} log_state = {.component = "vmlet", .level = LOG_LEVEL_INFO};

static const char *const level_names[] = {"error", "warning", "info", "debug"};

void log_init(const char *component, enum log_level level)
{
    const char *wanted = getenv("VMLET_LOG_LEVEL"), *format = getenv("VMLET_LOG_FORMAT");

    log_state.component = component;
    log_state.level = level;
    for (size_t i = 0; wanted && i < ELEMENTSOF(level_names); i++)
        if (streq(wanted, level_names[i]))
            log_state.level = (enum log_level)i;
    log_state.json = format ? streq(format, "json") : !isatty(STDERR_FILENO);
}

void log_set_level(enum log_level level)
{
    log_state.level = level;
}

enum log_level log_get_level(void)
{
    return log_state.level;
}

bool log_is_json(void)
{
    return log_state.json;
}

static void write_out(struct strbuf *line)
{
    const char *p = line->data;
    size_t left = line->length;

    while (p && left > 0) {
        ssize_t n = write(STDERR_FILENO, p, left);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return; /* nobody reads our stderr: there is no one left to tell */
        p += n;
        left -= (size_t)n;
    }
}

static void begin_json(struct strbuf *line, enum log_level level, const char *message)
{
    struct timespec now;
    struct tm tm;
    char stamp[40];

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
    strbuf_printf(line, "{\"component\":");
    strbuf_add_json_string(line, log_state.component);
    strbuf_printf(line, ",\"level\":\"%s\",\"msg\":", level_names[level]);
    strbuf_add_json_string(line, message);
    strbuf_printf(line, ",\"timestamp\":\"%s.%06ldZ\"", stamp, now.tv_nsec / 1000);
}

void log_message(enum log_level level, const char *file, int line_number, const struct error *error, const char *format,
                 ...)
{
    _cleanup_(strbuf_done) struct strbuf line = {0}, message = {0};
    int saved_errno = errno;
    va_list ap;

    if (level > log_state.level)
        return;
    va_start(ap, format);
    strbuf_vprintf(&message, format, ap);
    va_end(ap);
    if (!log_state.json) {
        strbuf_printf(&line, "%s: ", log_state.component);
        if (level != LOG_LEVEL_INFO)
            strbuf_printf(&line, "%s: ", level_names[level]);
        strbuf_printf(&line, "%s", strbuf_text(&message));
        if (error)
            strbuf_printf(&line, ": %s", error_message(error));
        if (error && error_remedy(error))
            strbuf_printf(&line, " (%s)", error_remedy(error));
        strbuf_add(&line, "\n", 1);
    } else {
        const char *base = strrchr(file, '/');

        begin_json(&line, level, strbuf_text(&message));
        if (level <= LOG_LEVEL_WARNING || log_state.level >= LOG_LEVEL_DEBUG)
            strbuf_printf(&line, ",\"pos\":\"%s:%d\"", base ? base + 1 : file, line_number);
        if (error) {
            strbuf_printf(&line, ",\"code\":\"%s\",\"reason\":", error_code_name(error_get_code(error)));
            strbuf_add_json_string(&line, error_message(error));
            if (error_remedy(error)) {
                strbuf_printf(&line, ",\"remedy\":");
                strbuf_add_json_string(&line, error_remedy(error));
            }
        }
        strbuf_add(&line, "}\n", 2);
    }
    write_out(&line);
    errno = saved_errno;
}

void log_record(const char *message, const char *json_members)
{
    _cleanup_(strbuf_done) struct strbuf line = {0};

    if (!log_state.json) {
        strbuf_printf(&line, "%s: %s\n", log_state.component, message);
    } else {
        begin_json(&line, LOG_LEVEL_INFO, message);
        strbuf_printf(&line, "%s}\n", json_members);
    }
    write_out(&line);
}
