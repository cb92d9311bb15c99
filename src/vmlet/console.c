/* SPDX-License-Identifier: Apache-2.0 */
/* vmlet console: this terminal becomes the guest's serial line, until ctrl-]. */
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "vmlet/output.h"
#include "vmlet/remote.h"

#define ESCAPE_BYTE  0x1d /* ctrl-], as telnet and virsh have it */
#define BUFFER_BYTES 8192U

const struct option_spec console_options[] = {VM_OPTIONS_WHERE, VM_OPTIONS_TIMEOUT, {0}};

/* ---- the terminal ---------------------------------------------------------------------------------------------- */

/* Global for the signal handlers, the only way by which they reach it. tcsetattr() may be called in one (POSIX,
 * signal-safety(7)). */
static struct {
    volatile sig_atomic_t is_raw;
    struct termios saved, raw;
    sigset_t signals; /* with a handler: none comes between the change and its note in is_raw */
} terminal;

static int terminal_switch(bool raw)
{
    sigset_t before;
    int r = 0;

    sigprocmask(SIG_BLOCK, &terminal.signals, &before);
    if (raw != (bool)terminal.is_raw) {
        r = tcsetattr(STDIN_FILENO, TCSANOW, raw ? &terminal.raw : &terminal.saved) < 0 ? -errno : 0;
        if (r == 0)
            terminal.is_raw = raw;
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    return r;
}

static void terminal_restore(void)
{
    terminal_switch(false);
}

/* Restores, then lets the signal do what it does: end us, or stop us. */
static void on_signal(int number)
{
    int saved_errno = errno;
    bool was_raw = terminal.is_raw;

    terminal_restore();
    if (number == SIGTSTP) {
        raise(SIGSTOP);
        if (was_raw)
            terminal_switch(true);
        errno = saved_errno;
        return;
    }
    signal(number, SIG_DFL);
    raise(number);
}

static int terminal_make_raw(void)
{
    static const int signals[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGABRT, SIGSEGV, SIGBUS, SIGTSTP};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

    if (tcgetattr(STDIN_FILENO, &terminal.saved) < 0)
        return -errno;
    terminal.raw = terminal.saved;
    cfmakeraw(&terminal.raw);
    sigemptyset(&terminal.signals);
    for (size_t i = 0; i < ELEMENTSOF(signals); i++)
        sigaddset(&terminal.signals, signals[i]);
    action.sa_mask = terminal.signals;
    for (size_t i = 0; i < ELEMENTSOF(signals); i++)
        sigaction(signals[i], &action, NULL);
    atexit(terminal_restore);
    return terminal_switch(true);
}

/* ---- copying --------------------------------------------------------------------------------------------------- */

struct copier {
    int fd; /* the console's socket */
    bool is_terminal;
    bool stdin_ended, left;
    char typed[BUFFER_BYTES]; /* read from stdin, not taken by the socket yet */
    size_t n_typed;
};

static void read_stdin(struct copier *c)
{
    ssize_t n = read(STDIN_FILENO, c->typed, sizeof(c->typed));
    char *escape;

    if (n <= 0) {
        c->stdin_ended = n == 0 || (errno != EINTR && errno != EAGAIN);
        return;
    }
    escape = c->is_terminal ? memchr(c->typed, ESCAPE_BYTE, (size_t)n) : NULL;
    c->n_typed = escape ? (size_t)(escape - c->typed) : (size_t)n;
    c->left = escape != NULL;
}

static int send_typed(struct copier *c)
{
    ssize_t n = send(c->fd, c->typed, c->n_typed, MSG_NOSIGNAL | MSG_DONTWAIT);

    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    c->n_typed -= (size_t)n;
    memmove(c->typed, c->typed + n, c->n_typed);
    return 0;
}

/* 1 to go on, 0 when the console was closed. */
static int copy_output(struct copier *c, struct error **ret_error)
{
    char data[BUFFER_BYTES];
    ssize_t n = recv(c->fd, data, sizeof(data), MSG_DONTWAIT);
    int r;

    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 1
               : errno == ECONNRESET             ? 0
                                                 : error_errno(ret_error, errno, "cannot read the console");
    if (n == 0)
        return 0;
    r = fd_write_all(STDOUT_FILENO, data, (size_t)n);
    return r < 0 ? error_errno(ret_error, r, "cannot write to standard output") : 1;
}

/* 0: the user left; 1: the console was closed. */
static int copy(struct copier *c, struct error **ret_error)
{
    for (;;) {
        bool wants_typing = !c->stdin_ended && c->n_typed == 0;
        struct pollfd fds[] = {
            {.fd = c->fd, .events = (short)(POLLIN | (c->n_typed > 0 ? POLLOUT : 0))},
            {.fd = wants_typing ? STDIN_FILENO : -1, .events = POLLIN},
        };
        int r;

        if (poll(fds, ELEMENTSOF(fds), -1) < 0) {
            if (errno == EINTR)
                continue;
            return error_errno(ret_error, errno, "cannot wait for the console");
        }
        if (fds[0].revents & (POLLIN | POLLHUP | POLLERR)) {
            r = copy_output(c, ret_error);
            if (r <= 0)
                return r < 0 ? r : 1;
        }
        if (fds[1].revents)
            read_stdin(c);
        if (c->n_typed > 0 && send_typed(c) < 0)
            c->n_typed = 0; /* the end is read as well, and then told */
        if (c->left && c->n_typed == 0)
            return 0;
    }
}

/* ---- the verb -------------------------------------------------------------------------------------------------- */

int verb_console(int argc, char **argv)
{
    const struct verb *verb = verb_find(argv[0]);
    struct vm_options options = {.timeout_usec = 5 * USEC_PER_SEC};
    struct copier copier = {.fd = -EBADF};
    _cleanup_(rpc_client_freep) struct rpc_client *client = NULL;
    _cleanup_error_ struct error *error = NULL;
    _cleanup_free_ char *path = NULL;
    int r = vm_open(verb, argc, argv, &options, &client);

    if (r >= 0)
        return r;
    r = vm_find_console(client, options.timeout_usec, &path, &error);
    rpc_client_free(TAKE_PTR(client)); /* a viewer that sits for days holds no place of the command server's */
    if (r == 0)
        r = unix_connect(path, &copier.fd, &error);
    if (r < 0)
        return print_error(error);
    copier.is_terminal = isatty(STDIN_FILENO);
    if (copier.is_terminal) {
        fprintf(stderr, "%sconnected to %s; ctrl-] leaves%s\n", style_on(stderr, STYLE_FAINT), path,
                style_on(stderr, STYLE_PLAIN));
        r = terminal_make_raw();
        if (r < 0)
            error_errno(&error, r, "cannot set the terminal to raw mode");
    }
    if (r == 0)
        r = copy(&copier, &error);
    terminal_restore();
    fd_close(copier.fd);
    if (r < 0)
        return print_error(error);
    if (copier.is_terminal)
        fprintf(stderr, "\n%s\n", r == 1 ? "the console was closed: the VM has ended" : "left the console");
    return EXIT_OK;
}
