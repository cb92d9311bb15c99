/* SPDX-License-Identifier: Apache-2.0 */
#include "vmlet/session.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/strbuf.h"

#define ESCAPE_BYTE 0x1d /* ctrl-] */

struct session {
    sd_event *event;
    struct domain *domain;
    const struct session_options *options;
    struct session_result *result;
    struct event_subscription *subscription;
    sd_event_source *timer, *signals[3];
    struct console_match match;
    bool reached, stopping, exec_sent, raw;
    unsigned interrupts;
    struct termios saved;
    struct strbuf line; /* of the console, for the regular expression */
    int console_out;
    uint64_t exec_started;
};

static _printf_(2, 3) void say(const struct session *s, const char *format, ...)
{
    _cleanup_free_ char *text = NULL;
    va_list ap;
    int n;

    if (!s->options->progress)
        return;
    va_start(ap, format);
    n = vasprintf(&text, format, ap);
    va_end(ap);
    if (n < 0)
        text = NULL;
    else /* the terminal may be raw: it wants its own carriage return */
        fprintf(stderr, "vmlet: %s%s\n", text, s->raw ? "\r" : "");
}

static void fail(struct session *s, struct error *error)
{
    if (s->result->error) {
        error_free(error);
        return;
    }
    s->result->error = error;
    s->result->code = (int)error_exit_code(error);
}

static void stop(struct session *s, bool at_once, const char *why)
{
    s->stopping = true;
    event_disarm_timer(s->timer);
    if (at_once)
        domain_kill(s->domain, why);
    else
        domain_shutdown(s->domain, s->options->grace_usec, why);
}

static void on_exec(struct qga_client *agent, json_t *result, const struct error *error, void *userdata)
{
    struct session *s = userdata;
    struct session_result *r = s->result;

    if (error) {
        if (s->stopping)
            return; /* what made us stop is the reason, not the command that was cut off */
        fail(s, error_copy(error));
        stop(s, false, "the command could not be run");
        return;
    }
    const char *out = json_string_value(json_object_get(result, "out"));
    const char *err = json_string_value(json_object_get(result, "err"));
    json_t *signal_number = json_object_get(result, "signal");

    r->executed = true;
    r->exec_usec = now_usec() - s->exec_started;
    /* as a shell tells a command that a signal ended */
    r->exec_code = signal_number ? 128 + (int)json_integer_value(signal_number)
                                 : (int)json_integer_value(json_object_get(result, "exitcode"));
    r->exec_out = strdup(out ? out : "");
    r->exec_err = strdup(err ? err : "");
    r->code = r->exec_code;
    s->reached = true;
    say(s, "the command ended with code %d after %.1f s", r->exec_code, (double)r->exec_usec / 1e6);
    stop(s, false, "done");
}

static void run_command(struct session *s)
{
    _cleanup_error_ struct error *e = NULL;
    int r;

    s->exec_sent = true;
    s->exec_started = now_usec();
    say(s, "running in the guest: %s", s->options->exec);
    r = domain_exec(s->domain, "/bin/sh", json_pack("[s, s]", "-c", s->options->exec), UINT64_MAX, on_exec, s, &e);
    if (r < 0) {
        if (!e)
            error_errno(&e, r, "cannot run the command in the guest");
        fail(s, TAKE_PTR(e));
        stop(s, false, "the command could not be run");
    }
}

static void reach(struct session *s, enum until what)
{
    if (s->reached || s->stopping)
        return;
    if (s->options->exec) {
        if (what == UNTIL_AGENT && !s->exec_sent)
            run_command(s);
        return;
    }
    if (s->options->until != what)
        return;
    s->reached = true;
    /* a guest whose firmware has just begun cannot shut down in order: there is nothing that it could lose */
    stop(s, what == UNTIL_RUNNING, "reached what was waited for");
}

static void on_event(json_t *event, void *userdata)
{
    struct session *s = userdata;
    const char *type = json_string_value(json_object_get(event, "type"));
    const char *reason = json_string_value(json_object_get(event, "reason"));
    const char *message = json_string_value(json_object_get(event, "message"));

    if (message)
        say(s, "%s", message);
    if (streq(type, "Domain") && streq(reason, "Running")) {
        say(s, "the guest runs");
        reach(s, UNTIL_RUNNING);
    } else if (streq(type, "Agent") && streq(reason, "Connected")) {
        reach(s, UNTIL_AGENT);
    }
}

/* A terminal that does not read must not hold the loop up: our own open file, so that O_NONBLOCK is ours alone. */
static int open_console_output(void)
{
    struct stat st;
    int fd;

    if (fstat(STDOUT_FILENO, &st) == 0 && S_ISREG(st.st_mode))
        return fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3); /* keeps the offset; files do not block */
    fd = open("/proc/self/fd/1", O_WRONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    return fd >= 0 ? fd : fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
}

static void set_raw(struct session *s, bool raw)
{
    struct termios t;

    if (raw == s->raw)
        return;
    if (raw) {
        if (tcgetattr(STDIN_FILENO, &s->saved) < 0)
            return;
        t = s->saved;
        cfmakeraw(&t);
        tcsetattr(STDIN_FILENO, TCSANOW, &t);
    } else {
        tcsetattr(STDIN_FILENO, TCSANOW, &s->saved);
    }
    s->raw = raw;
}

static void on_console_ended(void *userdata)
{
    struct session *s = userdata;

    if (s->raw) { /* ctrl-] */
        set_raw(s, false);
        if (!s->stopping)
            stop(s, false, "ctrl-]");
    }
}

static void add_console(struct session *s)
{
    bool interactive = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    struct console *console = domain_get_console(s->domain);

    if (!console || !s->options->console)
        return;
    s->console_out = open_console_output();
    if (interactive) {
        say(s, "console: ctrl-] stops the guest");
        set_raw(s, true);
    }
    console_add_viewer(console, interactive ? STDIN_FILENO : -1, s->console_out, interactive ? ESCAPE_BYTE : 0,
                       on_console_ended, s);
}

static void on_console_bytes(const char *data, size_t length, void *userdata)
{
    struct session *s = userdata;

    if (console_match_add(&s->match, data, length))
        reach(s, UNTIL_CONSOLE);
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata)
{
    struct session *s = userdata;
    const char *name = info->ssi_signo == SIGINT ? "ctrl-C" : sigabbrev_np((int)info->ssi_signo);

    s->interrupts++;
    if (s->interrupts > 1 || s->options->grace_usec == 0) {
        stop(s, true, "asked twice");
        return 0;
    }
    if (!s->reached) {
        _cleanup_error_ struct error *e = NULL;

        if (s->options->until != UNTIL_END || s->options->exec) {
            error_set(&e, ERROR_CANCELLED, EINTR, "interrupted by %s before it was done", name ? name : "a signal");
            fail(s, TAKE_PTR(e));
        }
    }
    say(s, "%s: stopping the guest; again to kill it", name ? name : "signal");
    stop(s, false, name ? name : "signal");
    return 0;
}

static const char *awaited(const struct session_options *o)
{
    return o->exec ? "the guest's command" : until_name(o->until);
}

static int on_timeout(sd_event_source *source, uint64_t at, void *userdata)
{
    struct session *s = userdata;
    _cleanup_error_ struct error *e = NULL;

    error_set(
        &e, ERROR_TIMED_OUT, ETIMEDOUT, "waited %.0f s for %s%s in vain (the agent %s, the console printed %llu bytes)",
        (double)s->options->timeout_usec / 1e6, awaited(s->options), s->exec_sent ? " to end" : "",
        domain_agent_connected(s->domain) ? "answers" : "does not answer",
        domain_get_console(s->domain) ? (unsigned long long)console_count_bytes(domain_get_console(s->domain)) : 0ULL);
    error_set_remedy(e, "look at the console with --console, or give it more time with --timeout");
    fail(s, TAKE_PTR(e));
    stop(s, false, "timed out");
    return 0;
}

static void on_domain_ended(struct domain *domain, const struct error *error, void *userdata)
{
    struct session *s = userdata;
    const struct lifecycle *l = domain_get_lifecycle(domain);
    const char *outcome = domain_get_outcome(domain);
    _cleanup_error_ struct error *e = NULL;

    set_raw(s, false);
    if (error) {
        fail(s, error_copy(error));
    } else if (l->reason == REASON_PANICKED) {
        error_set(&e, ERROR_GUEST, EPIPE, "the guest panicked");
    } else if (s->options->until == UNTIL_SHUTDOWN && !s->options->exec) {
        if (l->reason == REASON_SHUTDOWN && !s->stopping)
            s->reached = true;
        else if (!s->result->error)
            error_set(&e, ERROR_GUEST, EPIPE, "the guest did not shut down by itself: %s", outcome ? outcome : "");
    } else if (!s->reached && (s->options->until != UNTIL_END || s->options->exec)) {
        error_set(&e, ERROR_GUEST, EPIPE, "the VM ended while %s was waited for: %s", awaited(s->options),
                  outcome ? outcome : "");
    }
    if (e)
        fail(s, TAKE_PTR(e));
    s->result->outcome = outcome ? strdup(outcome) : NULL;
    say(s, "ended: %s", outcome ? outcome : domain_reason_name(l->reason));
    sd_event_exit(s->event, 0);
}

static int watch_signals(struct session *s)
{
    static const int wanted[] = {SIGINT, SIGTERM, SIGHUP};
    int r = 0;

    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < ELEMENTSOF(wanted) && r >= 0; i++)
        r = event_add_signal(s->event, wanted[i], on_signal, s, &s->signals[i]);
    return r;
}

static int begin(struct session *s, struct error **ret_error)
{
    const struct session_options *o = s->options;
    uint64_t lost;
    int r;

    r = watch_signals(s);
    if (r >= 0 && o->timeout_usec > 0)
        r = event_arm_timer(s->event, &s->timer, o->timeout_usec, on_timeout, s);
    if (r >= 0)
        r = event_log_subscribe(domain_get_events(s->domain), 0, on_event, s, &lost, &s->subscription);
    if (r < 0)
        return error_errno(ret_error, r, "cannot set up the event loop");
    r = domain_start(s->domain, on_domain_ended, s, ret_error);
    if (r < 0)
        return r;
    add_console(s);
    if (o->until == UNTIL_CONSOLE) {
        if (!domain_get_console(s->domain))
            return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL,
                             "--until console: this VM has no serial console (autoattachSerialConsole is false)");
        r = console_match_init(&s->match, o->console_regex, ret_error);
        if (r < 0)
            return r;
        console_set_tap(domain_get_console(s->domain), on_console_bytes, s);
    }
    return 0;
}

void session_run(sd_event *event, struct domain *domain, const struct session_options *options,
                 struct session_result *ret)
{
    struct session s = {.event = event, .domain = domain, .options = options, .result = ret, .console_out = -EBADF};
    _cleanup_error_ struct error *e = NULL;

    *ret = (struct session_result){0};
    if (begin(&s, &e) < 0)
        fail(&s, TAKE_PTR(e));
    else
        sd_event_loop(event);
    set_raw(&s, false);
    event_subscription_free(s.subscription);
    sd_event_source_disable_unref(s.timer);
    for (size_t i = 0; i < ELEMENTSOF(s.signals); i++)
        sd_event_source_disable_unref(s.signals[i]);
    console_match_done(&s.match);
    fd_close(s.console_out);
}

void session_result_done(struct session_result *result)
{
    free(result->exec_out);
    free(result->exec_err);
    free(result->outcome);
    error_free(result->error);
    *result = (struct session_result){0};
}
