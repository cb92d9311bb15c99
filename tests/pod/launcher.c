/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stand-in for virt-launcher, small enough to make it die in every way: it starts a real QEMU (or finds the one of
 * its predecessor through domain.json), says so on stdout, and waits for signals.
 *
 *   TERM  ends QEMU, exits with $EXIT_CODE          HUP   executes itself again
 *   USR1  exits with $EXIT_CODE, leaves QEMU        USR2  aborts, leaves QEMU
 *
 * $QEMU: the emulator to start; $NO_STATE: writes no domain.json; $CRASH: aborts as soon as it has found a QEMU;
 * $ORPHANS: leaves that many dead grandchildren; $IGNORE_TERM: QEMU is stopped (SIGSTOP), so that it takes no SIGTERM;
 * $EXIT_AT_ONCE: exits with $EXIT_CODE.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *state_dir;

static unsigned long long start_time(pid_t pid)
{
    char path[64], text[1024], *p;
    unsigned long long ticks = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    f = fopen(path, "re");
    if (!f)
        return 0;
    p = fgets(text, sizeof(text), f) ? strrchr(text, ')') : NULL;
    if (p &&
        sscanf(p, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &ticks) != 1)
        ticks = 0;
    fclose(f);
    return ticks;
}

static void write_state(pid_t pid)
{
    char path[512], aside[600];
    FILE *f;

    snprintf(path, sizeof(path), "%s/domain.json", state_dir);
    snprintf(aside, sizeof(aside), "%s.new", path);
    f = fopen(aside, "we");
    if (!f)
        exit(90);
    fprintf(f,
            "{\"version\": 1, \"nested\": {\"pid\": 1}, \"pid\": %d, \"startTime\": %llu, \"state\": \"Running\", "
            "\"reason\": \"Unknown\"}\n",
            (int)pid, start_time(pid));
    fclose(f);
    if (rename(aside, path) < 0)
        exit(91);
}

static pid_t adopt(void)
{
    char path[512], text[512] = "", *p;
    unsigned long long start;
    int pid;
    FILE *f;

    snprintf(path, sizeof(path), "%s/domain.json", state_dir);
    f = fopen(path, "re");
    if (!f)
        return 0;
    p = fgets(text, sizeof(text), f) ? strstr(text, "}, \"pid\": ") : NULL;
    fclose(f);
    if (!p || sscanf(p, "}, \"pid\": %d, \"startTime\": %llu", &pid, &start) != 2 || start_time(pid) != start)
        return 0;
    return pid;
}

/* Until QMP's greeting: from then on QEMU handles SIGTERM. */
static pid_t start_qemu(const char *qemu)
{
    char greeting[4096];
    int out[2];
    pid_t pid;

    if (pipe2(out, O_CLOEXEC) < 0)
        exit(93);
    pid = fork();
    if (pid == 0) {
        sigset_t none;

        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        if (dup2(out[1], STDOUT_FILENO) < 0)
            _exit(92);
        execlp(qemu, qemu, "-machine", "none", "-S", "-nodefaults", "-display", "none", "-qmp", "stdio", (char *)NULL);
        _exit(92);
    }
    if (pid < 0)
        exit(93);
    close(out[1]);
    if (read(out[0], greeting, sizeof(greeting)) <= 0)
        exit(92);
    return pid;
}

/* Each is the child of a child that has gone, so that its end is for the reaper of the container. */
static void leave_orphans(int n)
{
    for (int i = 0; i < n; i++) {
        pid_t pid = fork();

        if (pid == 0)
            _exit(fork() < 0 ? 1 : 0);
        if (pid < 0 || waitpid(pid, NULL, 0) != pid)
            exit(94);
    }
}

static void show_privileges(void)
{
    char line[256];
    FILE *f = fopen("/proc/self/status", "re");

    while (f && fgets(line, sizeof(line), f))
        if (strncmp(line, "Cap", 3) == 0 || strncmp(line, "NoNewPrivs", 10) == 0 || strncmp(line, "Seccomp:", 8) == 0 ||
            strncmp(line, "Sig", 3) == 0)
            fputs(line, stdout);
    if (f)
        fclose(f);
}

int main(int argc, char **argv)
{
    const char *qemu = getenv("QEMU"), *orphans = getenv("ORPHANS"), *code = getenv("EXIT_CODE");
    struct signalfd_siginfo info;
    int exit_code = code ? atoi(code) : 0, fd;
    struct rlimit no_core = {0, 0};
    sigset_t set;
    pid_t pid = 0;

    show_privileges(); /* before our own changes to the signal mask */
    setrlimit(RLIMIT_CORE, &no_core);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, NULL);
    fd = signalfd(-1, &set, SFD_CLOEXEC);
    state_dir = getenv("STATE_DIR");
    for (int i = 1; i < argc; i++)
        printf("argument %s\n", argv[i]);
    if (getenv("EXIT_AT_ONCE"))
        return exit_code;
    if (orphans)
        leave_orphans(atoi(orphans));
    if (qemu) {
        pid = adopt();
        if (pid) {
            printf("adopted %d\n", (int)pid);
        } else {
            pid = start_qemu(qemu);
            if (!getenv("NO_STATE"))
                write_state(pid);
            printf("started %d\n", (int)pid);
        }
        if (getenv("IGNORE_TERM"))
            kill(pid, SIGSTOP);
    }
    printf("ready %d\n", (int)getpid());
    fflush(stdout);
    if (pid && getenv("CRASH"))
        abort();
    for (;;) {
        if (read(fd, &info, sizeof(info)) != sizeof(info))
            return 95;
        switch (info.ssi_signo) {
        case SIGTERM:
            printf("term\n");
            fflush(stdout);
            if (pid) {
                struct pollfd ended = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};

                kill(pid, SIGTERM);
                poll(&ended, 1, 5000);
            }
            return exit_code;
        case SIGHUP:
            printf("again\n");
            fflush(stdout);
            execv("/proc/self/exe", argv);
            return 96;
        case SIGUSR1:
            return exit_code;
        default:
            abort();
        }
    }
}
