/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libedit in callback mode. A handler of the loop only notes that there is input or a signal; lines are read and run
 * outside of it, so that a command, or the completion of a device's name, can turn the loop itself while it waits.
 */
#include "qmp/shell/terminal.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <editline/readline.h>

#include "base/event.h"
#include "base/strv.h"
#include "qmp/shell/complete.h"
#include "qmp/shell/line.h"

#define HISTORY_LINES 1000

/* libedit has one editor per process, and its callbacks take no pointer of ours. */
static struct {
    struct shell *shell;
    sd_event_source *input;
    bool input_ready, interrupted, resized;
    bool prompting; /* the prompt and a line are on the screen */
    bool line_done;
    char *line;
    char **matches;
    size_t next_match;
    char *history;
} terminal;

static const char *prompt(const struct shell *shell)
{
    if (shell->transaction)
        return "TRANS> ";
    return shell->write ? "(QEMU rw) " : "(QEMU) ";
}

void terminal_event(struct shell *shell, const char *name, const json_t *data, uint64_t usec)
{
    if (!shell_shows_event(shell, name))
        return;
    if (terminal.prompting)
        fputs("\r\033[K", shell->out);
    shell_print_event(shell, name, data, usec);
    if (terminal.prompting)
        rl_forced_update_display();
}

/* ---- libedit's callbacks
 * ------------------------------------------------------------------------------------------------ */

static void on_line(char *line)
{
    terminal.line = line;
    terminal.line_done = true;
}

static int on_end_of_file(int count, int key)
{
    if (rl_end == 0)
        terminal.line_done = true; /* and no line */
    return 0;
}

static char *next_match(const char *text, int state)
{
    char *match = terminal.matches ? terminal.matches[terminal.next_match] : NULL;

    if (match)
        terminal.next_match++;
    return match ? strdup(match) : NULL;
}

static char **on_complete(const char *text, int start, int end)
{
    _cleanup_free_ char *before = strndup(rl_line_buffer, (size_t)start);
    char **result = NULL;
    char last;

    rl_attempted_completion_over = 1; /* never names of files */
    strv_free(terminal.matches);
    terminal.matches = before ? shell_complete(terminal.shell, before, text) : NULL;
    terminal.next_match = 0;
    rl_completion_append_character = ' ';
    if (terminal.matches && !terminal.matches[1]) {
        last = terminal.matches[0][strlen(terminal.matches[0]) - 1];
        if (last == '=' || last == '.')
            rl_completion_append_character = '\0';
    }
    if (terminal.matches)
        result = rl_completion_matches(text, next_match);
    return result;
}

/* ---- the loop's handlers
 * ------------------------------------------------------------------------------------------------ */

static int on_input(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
    terminal.input_ready = true;
    sd_event_source_set_enabled(s, SD_EVENT_OFF); /* until it has been read, by us or by nobody */
    return 0;
}

static int on_interrupt(sd_event_source *s, const struct signalfd_siginfo *si, void *userdata)
{
    struct shell *shell = userdata;

    if (!session_interrupt(shell->session))
        terminal.interrupted = true;
    return 0;
}

static int on_resize(sd_event_source *s, const struct signalfd_siginfo *si, void *userdata)
{
    terminal.resized = true;
    return 0;
}

/* ---- history
 * -------------------------------------------------------------------------------------------------------------- */

static void load_history(void)
{
    const char *path = getenv("QMP_SHELL_HISTORY"), *home = getenv("HOME");

    using_history();
    stifle_history(HISTORY_LINES);
    if (path && !*path)
        return;
    if (path)
        terminal.history = strdup(path);
    else if (home && asprintf(&terminal.history, "%s/.qmp-shell_history", home) < 0)
        terminal.history = NULL;
    if (terminal.history)
        read_history(terminal.history);
}

static void save_history(void)
{
    mode_t mask = umask(077); /* commands may hold secrets: set_password */

    if (terminal.history)
        write_history(terminal.history);
    umask(mask);
    free(TAKE_PTR(terminal.history));
}

/* ---- the loop
 * --------------------------------------------------------------------------------------------------------------- */

static void show_prompt(struct shell *shell)
{
    rl_callback_handler_install(prompt(shell), on_line);
    terminal.prompting = true;
}

static void hide_prompt(void)
{
    terminal.prompting = false;
    rl_callback_handler_remove();
}

static void run_line(struct shell *shell)
{
    _cleanup_free_ char *line = TAKE_PTR(terminal.line);

    terminal.line_done = false;
    hide_prompt();
    if (!line) { /* ctrl-D */
        fputs("\n", shell->out);
        shell->quit = true;
        return;
    }
    if (line[strspn(line, " \t")])
        add_history(line);
    shell_run_line(shell, line);
    terminal.interrupted = false;
    if (!shell->quit)
        show_prompt(shell);
}

static void handle_pending(struct shell *shell)
{
    bool input = terminal.input_ready;

    if (input)
        rl_callback_read_char();
    if (terminal.line_done)
        run_line(shell);
    if (terminal.resized) {
        terminal.resized = false;
        rl_resize_terminal();
    }
    if (terminal.interrupted) { /* a new line, as in other shells */
        terminal.interrupted = false;
        hide_prompt();
        free(TAKE_PTR(shell->transaction));
        fputs("^C\n", shell->out);
        show_prompt(shell);
    }
    if (input) { /* last: a command turns the loop too, and what was typed meanwhile is reported again */
        terminal.input_ready = false;
        sd_event_source_set_enabled(terminal.input, SD_EVENT_ON);
    }
}

/*
 * While a command runs, the terminal is in line mode. A ctrl-D that is typed ahead there must stay a character: as the
 * end of a line it would be a NUL when libedit's raw mode comes back (n_tty_set_termios in Linux' n_tty.c). Without a
 * character for it in the terminal libedit knows none either, hence on_end_of_file().
 */
static void disable_end_of_file(struct termios *ret_before)
{
    struct termios mode;

    if (tcgetattr(STDIN_FILENO, ret_before) < 0)
        return; /* then it is no terminal, and setting it back fails likewise */
    mode = *ret_before;
    mode.c_cc[VEOF] = _POSIX_VDISABLE;
    (void)tcsetattr(STDIN_FILENO, TCSADRAIN, &mode);
}

int terminal_run(struct shell *shell, struct error **ret_error)
{
    sd_event_source *interrupt = NULL, *resize = NULL;
    struct termios before = {0};
    int r;

    terminal.shell = shell;
    disable_end_of_file(&before);
    r = sd_event_add_io(shell->event, &terminal.input, STDIN_FILENO, EPOLLIN, on_input, NULL);
    if (r >= 0)
        r = event_add_signal(shell->event, SIGINT, on_interrupt, shell, &interrupt);
    if (r >= 0)
        r = event_add_signal(shell->event, SIGWINCH, on_resize, shell, &resize);
    if (r < 0)
        return error_errno(ret_error, r, "cannot watch the terminal");
    rl_readline_name = (char *)"qmp-shell";
    rl_catch_signals = 0;
    rl_catch_sigwinch = 0;
    rl_basic_word_break_characters = " \t";
    rl_completer_word_break_characters = (char *)" \t";
    rl_attempted_completion_function = on_complete;
    load_history(); /* makes the editor */
    rl_add_defun("end-of-file", on_end_of_file, 'D' & 037);
    show_prompt(shell);
    while (!shell->quit && r >= 0 && !session_lost(shell->session)) {
        r = sd_event_run(shell->event, UINT64_MAX);
        if (r >= 0)
            handle_pending(shell);
    }
    if (terminal.prompting) {
        hide_prompt();
        fputs("\n", shell->out);
    }
    save_history();
    (void)tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
    strv_free(terminal.matches);
    sd_event_source_disable_unref(terminal.input);
    sd_event_source_disable_unref(interrupt);
    sd_event_source_disable_unref(resize);
    if (session_lost(shell->session) && !shell->quit) {
        error_move(ret_error, error_copy(session_lost(shell->session)));
        return -ECONNRESET;
    }
    return r < 0 ? error_errno(ret_error, r, "the event loop failed") : 0;
}
