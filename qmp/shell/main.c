/* SPDX-License-Identifier: Apache-2.0 */
/* qmp-shell(1). */
#include <getopt.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/confine.h"
#include "base/event.h"
#include "base/log.h"
#include "base/strv.h"
#include "qmp/shell/terminal.h"
#include "vmlet-config.h"

/* DESIGN: the command server of the pod's VM. */
#define LAUNCHER_SOCKET "/var/run/kubevirt/sockets/launcher-sock"

static const char usage[] =
    "Usage: qmp-shell [OPTION]… [SOCKET]\n"
    "Looks into a virtual machine through QEMU's machine protocol.\n"
    "\n"
    "  SOCKET               a QMP socket of any QEMU, or HOST:PORT; without it the VM of this pod,\n"
    "                       through its command server (read-only, logged there)\n"
    "  -c, --command LINE   runs the line and leaves; may be given several times\n"
    "  -w, --write          allows commands that change the VM\n"
    "  -j, --json           prints results as JSON, one a line\n"
    "  -p, --pretty         prints results as indented JSON, never as tables\n"
    "  -v, --verbose        prints the JSON of each command that is sent\n"
    "  -l, --log FILE       writes down what is typed and answered, as `record` does\n"
    "  -H, --hmp            lines are human monitor commands\n"
    "  -N, --skip-negotiation\n"
    "                       SOCKET is a guest agent's; lines are its commands\n"
    "      --server SOCKET  the command server's socket, where it is not the pod's\n"
    "      --agent SOCKET   the guest agent's socket, for `agent` and `domifaddr`\n"
    "      --schema FILE    a recorded query-qmp-schema instead of the VM's own\n"
    "  -V, --version        prints the version\n"
    "  -h, --help           prints this\n"
    "\n"
    "Without -c, lines are read from the terminal (`help` there), or from a pipe.\n"
    "Exit status: 0, 1 if a command failed, 2 for bad arguments, 124 if one timed out.\n";

struct arguments {
    struct session_options session;
    char **commands;
    const char *schema, *log;
    bool write, json, hmp, agent, verbose, pretty;
};

enum {
    OPTION_AGENT = 256,
    OPTION_SCHEMA,
    OPTION_SERVER,
};

/* -1 to go on, or an exit code. */
static int parse_arguments(int argc, char **argv, struct arguments *a)
{
    static const struct option options[] = {
        {"command", required_argument, NULL, 'c'},
        {"write", no_argument, NULL, 'w'},
        {"json", no_argument, NULL, 'j'},
        {"hmp", no_argument, NULL, 'H'},
        {"skip-negotiation", no_argument, NULL, 'N'},
        {"verbose", no_argument, NULL, 'v'},
        {"pretty", no_argument, NULL, 'p'},
        {"log", required_argument, NULL, 'l'},
        {"agent", required_argument, NULL, OPTION_AGENT},
        {"schema", required_argument, NULL, OPTION_SCHEMA},
        {"server", required_argument, NULL, OPTION_SERVER},
        {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    int option;

    a->session.server = LAUNCHER_SOCKET;
    while ((option = getopt_long(argc, argv, "c:wjHNvpl:Vh", options, NULL)) >= 0) {
        switch (option) {
        case 'c':
            strv_append(&a->commands, optarg);
            break;
        case 'w':
            a->write = true;
            break;
        case 'j':
            a->json = true;
            break;
        case 'H':
            a->hmp = true;
            break;
        case 'N':
            a->agent = true;
            break;
        case 'v':
            a->verbose = true;
            break;
        case 'p':
            a->pretty = true;
            break;
        case 'l':
            a->log = optarg;
            break;
        case OPTION_AGENT:
            a->session.agent_socket = optarg;
            break;
        case OPTION_SCHEMA:
            a->schema = optarg;
            break;
        case OPTION_SERVER:
            a->session.server = optarg;
            break;
        case 'V':
            puts("qmp-shell " VMLET_VERSION);
            return EXIT_OK;
        case 'h':
            fputs(usage, stdout);
            return EXIT_OK;
        default:
            fputs("Try 'qmp-shell --help'.\n", stderr);
            return EXIT_BAD_INPUT;
        }
    }
    if (argc - optind > 1) {
        fprintf(stderr, "qmp-shell: \"%s\" is one argument too many; only one SOCKET can be named\n", argv[optind + 1]);
        return EXIT_BAD_INPUT;
    }
    if (a->agent && (!argv[optind] || a->session.agent_socket || a->hmp)) {
        fputs("qmp-shell: --skip-negotiation takes a SOCKET, that of a guest agent, and neither --agent nor --hmp\n",
              stderr);
        return EXIT_BAD_INPUT;
    }
    if (a->agent)
        a->session.agent_socket = argv[optind];
    else
        a->session.socket = argv[optind];
    a->session.agent_only = a->agent;
    return -1;
}

static void on_event(const char *name, json_t *data, uint64_t usec, void *userdata)
{
    struct shell *shell = userdata;

    if (shell->interactive)
        terminal_event(shell, name, data, usec);
    else if (!shell->events_off && shell_shows_event(shell, name))
        shell_print_event(shell, name, data, usec);
}

static int on_interrupt(sd_event_source *s, const struct signalfd_siginfo *si, void *userdata)
{
    struct shell *shell = userdata;

    shell->quit = true;
    session_interrupt(shell->session);
    return 0;
}

static int run_commands(struct shell *shell, const struct arguments *a)
{
    char *line = NULL;
    size_t size = 0;
    int code = EXIT_OK;

    for (char **c = a->commands; c && *c && !shell->quit; c++) {
        int r = shell_run_line(shell, *c);

        if (r < 0)
            code = r == -ETIMEDOUT ? EXIT_TIMED_OUT : EXIT_FAILED;
    }
    while (!a->commands && !shell->quit && getline(&line, &size, stdin) >= 0) {
        int r = shell_run_line(shell, line);

        if (r < 0)
            code = r == -ETIMEDOUT ? EXIT_TIMED_OUT : EXIT_FAILED;
    }
    free(line);
    return code;
}

/* With its VM: the loop, the terminal, files that are read and written by name, the launcher's socket once more. */
static const char *const calls[] = {
    "epoll_create1", "epoll_ctl",  "epoll_wait", "epoll_pwait", "epoll_pwait2", "timerfd_create", "timerfd_settime",
    "signalfd4",     "eventfd2",   "select",     "pselect6",    "connect",      "getpeername",    "getsockopt",
    "setsockopt",    "shutdown",   "send",       "sendto",      "sendmsg",      "recvfrom",       "recvmsg",
    "open",          "openat",     "access",     "faccessat",   "faccessat2",   "stat",           "lstat",
    "getcwd",        "getdents64", "readlink",   "readlinkat",  "umask",        "chmod",          "fchmod",
    "fsync",         "ftruncate",  "rename",     "unlink",      "prlimit64",    "uname",          NULL,
};
static const int families[] = {AF_UNIX, AF_UNSPEC};

static int shut_in(struct error **ret_error)
{
    const struct confinement ours = {.calls = calls, .families = families, .capabilities = CONFINE_ALL_CAPABILITIES};

    return confine(&ours, ret_error);
}

/* Which VM this is, before anything is done to it. */
static void greet(struct shell *shell)
{
    json_t *name = NULL, *status = NULL;
    const char *what;

    if (!session_name(shell->session)) {
        fputs("No VM; `help` tells what the recorded schema has.\n", shell->out);
        return;
    }
    shell->asking = true;
    if (!shell->agent) {
        (void)shell_call(shell, "query-name", NULL, &name, NULL);
        (void)shell_call(shell, "query-status", NULL, &status, NULL);
    }
    shell->asking = false;
    fprintf(shell->out, "Connected to %s%s. `help` for help.\n", session_name(shell->session),
            shell->write ? "" : ", read-only");
    what = json_string_value(json_object_get(name, "name"));
    if (status) {
        render_text(shell->out, what ? what : "This VM");
        fputs(" is ", shell->out);
        render_text(shell->out, json_string_value(json_object_get(status, "status")));
        fputs(".\n", shell->out);
    }
    json_decref(name);
    json_decref(status);
}

static int run(struct shell *shell, const struct arguments *a)
{
    _cleanup_error_ struct error *error = NULL;
    sd_event_source *interrupt = NULL;
    int code;

    if (a->log && shell_record(shell, a->log, &error) < 0) {
        shell_print_error(shell, error);
        return EXIT_FAILED;
    }
    if (shell->agent)
        ; /* an agent has no schema */
    else if (a->schema ? qmp_schema_load(a->schema, &shell->schema, &error) < 0
                       : shell_load_schema(shell, &error) < 0) {
        if (a->schema || session_lost(shell->session)) {
            shell_print_error(shell, error);
            return (int)error_exit_code(error);
        }
        error_free(TAKE_PTR(error));
    }
    if (!shell->interactive) {
        event_add_signal(shell->event, SIGINT, on_interrupt, shell, &interrupt);
        shell->events_off = true; /* until `events` asks for them */
        code = run_commands(shell, a);
        sd_event_source_disable_unref(interrupt);
        return code;
    }
    greet(shell);
    if (terminal_run(shell, &error) < 0) {
        shell_print_error(shell, error);
        return (int)error_exit_code(error);
    }
    return EXIT_OK;
}

/* With a recorded schema, and where there is no VM and none was named, the shell is a reference to look things up in.
 */
static int open_session(struct shell *shell, struct arguments *a, struct error **ret_error)
{
    bool reference = a->schema && !a->session.socket && !a->agent && access(a->session.server, F_OK) < 0;

    if (reference)
        a->session.agent_only = true;
    return session_open(shell->event, &a->session, &shell->session, ret_error);
}

int main(int argc, char **argv)
{
    _cleanup_error_ struct error *error = NULL;
    struct arguments a = {0};
    struct shell shell = {.out = stdout};
    int code = parse_arguments(argc, argv, &a);

    if (code >= 0)
        return code;
    log_init("qmp-shell", LOG_LEVEL_WARNING);
    signal(SIGPIPE, SIG_IGN);
    shell.write = a.write;
    shell.json = a.json;
    shell.hmp = a.hmp;
    shell.agent = a.agent;
    shell.verbose = a.verbose;
    shell.pretty = a.pretty;
    shell.interactive = !a.commands && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    a.session.on_event = on_event;
    a.session.userdata = &shell;
    if (event_new(&shell.event) < 0 || open_session(&shell, &a, &error) < 0 || shut_in(&error) < 0) {
        shell_print_error(&shell, error);
        code = (int)error_exit_code(error);
    } else {
        code = run(&shell, &a);
    }
    shell_done(&shell);
    sd_event_unref(shell.event);
    strv_free(a.commands);
    return code;
}
