/* SPDX-License-Identifier: Apache-2.0 */
#include "vmlet/junit.h"

#include "base/event.h"
#include "base/fd.h"
#include "base/strbuf.h"
#include "base/utf8.h"

/* Text as XML 1.0 allows it: markup escaped, control characters and broken UTF-8 shown as U+FFFD. */
static void add_xml(struct strbuf *out, const char *text)
{
    size_t left = strlen(text);

    while (left > 0) {
        size_t n = utf8_sequence_length(text, left);
        unsigned char c = (unsigned char)*text;

        if (n == 0 || (c < 0x20 && c != '\t' && c != '\n' && c != '\r')) {
            strbuf_add_string(out, "\xef\xbf\xbd");
            n = 1;
        } else if (c == '&') {
            strbuf_add_string(out, "&amp;");
        } else if (c == '<') {
            strbuf_add_string(out, "&lt;");
        } else if (c == '>') {
            strbuf_add_string(out, "&gt;");
        } else if (c == '"') {
            strbuf_add_string(out, "&quot;");
        } else {
            strbuf_add(out, text, n);
        }
        text += n;
        left -= n;
    }
}

static void begin_case(struct strbuf *out, const char *manifest, const char *name, double seconds)
{
    strbuf_printf(out, "    <testcase classname=\"");
    add_xml(out, manifest);
    strbuf_printf(out, "\" name=\"");
    add_xml(out, name);
    strbuf_printf(out, "\" time=\"%.3f\">\n", seconds);
}

static void add_failure(struct strbuf *out, const char *kind, const char *type, const char *message)
{
    strbuf_printf(out, "      <%s type=\"%s\" message=\"", kind, type);
    add_xml(out, message);
    strbuf_printf(out, "\"/>\n");
}

static void add_output(struct strbuf *out, const char *element, const char *text)
{
    if (!text || !*text)
        return;
    strbuf_printf(out, "      <%s>", element);
    add_xml(out, text);
    strbuf_printf(out, "</%s>\n", element);
}

static double seconds_of(uint64_t usec)
{
    return usec == UINT64_MAX ? 0 : (double)usec / 1e6;
}

int junit_write(const char *path, const char *manifest, const char *command, const struct session_result *result,
                const struct timeline *timeline, struct error **ret_error)
{
    _cleanup_(strbuf_done) struct strbuf out = {0};
    bool booted = result->executed || (!result->error && !command);
    double boot = seconds_of(timeline_get(timeline, MARK_AGENT)), run = (double)result->exec_usec / 1e6;
    unsigned tests = command ? 2 : 1;
    unsigned failures = result->executed && result->code != 0 ? 1 : 0, errors = booted ? 0 : 1;
    char stamp[40];

    strbuf_printf(&out,
                  "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"vmlet smoke\" "
                  "tests=\"%u\" failures=\"%u\" errors=\"%u\" skipped=\"%u\" time=\"%.3f\" timestamp=\"%.19s\">\n",
                  tests, failures, errors, command && !booted ? 1U : 0U, boot + run,
                  format_time(timeline->count ? timeline->marks[0].wall_usec : realtime_usec(), stamp));
    begin_case(&out, manifest, "boot", boot);
    if (!booted)
        add_failure(&out, "error", error_code_name(error_get_code(result->error)), error_message(result->error));
    strbuf_printf(&out, "    </testcase>\n");
    if (command) {
        begin_case(&out, manifest, command, run);
        if (!booted) {
            strbuf_printf(&out, "      <skipped message=\"the guest did not come up\"/>\n");
        } else if (result->code != 0) {
            _cleanup_(strbuf_done) struct strbuf why = {0};

            strbuf_printf(&why, "exit code %d", result->exec_code);
            add_failure(&out, "failure", "ExitCode", strbuf_text(&why));
        }
        add_output(&out, "system-out", result->exec_out);
        add_output(&out, "system-err", result->exec_err);
        strbuf_printf(&out, "    </testcase>\n");
    }
    strbuf_printf(&out, "  </testsuite>\n</testsuites>\n");
    if (out.failed)
        return error_oom(ret_error);
    return file_write_atomic(path, out.data, out.length, 0644, ret_error);
}
