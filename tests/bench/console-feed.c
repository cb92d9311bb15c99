/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Console throughput: a writer fills the pipe that QEMU writes its serial console to, one viewer reads all that it is
 * given, and between them is the launcher's console with its log, or (--plain) the least that could be there: one loop
 * of read, write to a file, write to the viewer.
 *
 *   console-feed [--plain] DIRECTORY MIBIBYTES
 *
 * Prints one JSON object: {"usec", "seen"}: the time from the writer's first byte to the last that the viewer was
 * given, and how many bytes that were.
 */
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "domain/console-log.h"
#include "domain/console.h"

#define CHUNK 4096

static void write_all(int fd, const char *data, size_t length)
{
    while (length > 0) {
        ssize_t n = write(fd, data, length);

        if (n < 0)
            err(1, "write");
        data += n;
        length -= (size_t)n;
    }
}

/* The guest: lines of 64 bytes. */
static pid_t start_writer(int fd, int other, size_t total)
{
    static char chunk[CHUNK];
    pid_t pid = fork();

    if (pid != 0)
        return pid;
    close(other);
    memset(chunk, 'x', sizeof(chunk));
    for (size_t i = 63; i < sizeof(chunk); i += 64)
        chunk[i] = '\n';
    for (size_t done = 0; done < total; done += sizeof(chunk))
        write_all(fd, chunk, sizeof(chunk));
    _exit(0);
}

/* The viewer: reads to the end, and says through `result` how much it was and when the last came. */
static pid_t start_viewer(int fd, int other, int result)
{
    static char chunk[CHUNK * 16];
    uint64_t answer[2] = {0, 0};
    pid_t pid = fork();
    ssize_t n;

    if (pid != 0)
        return pid;
    close(other);
    while ((n = read(fd, chunk, sizeof(chunk))) > 0)
        answer[0] += (uint64_t)n;
    answer[1] = now_usec();
    write_all(result, (const char *)answer, sizeof(answer));
    _exit(0);
}

static void run_plain(int input, int viewer, const char *dir)
{
    static char chunk[CHUNK * 16];
    char path[4096];
    ssize_t n;
    int log;

    snprintf(path, sizeof(path), "%s/plain-log", dir);
    log = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (log < 0)
        err(1, "%s", path);
    while ((n = read(input, chunk, sizeof(chunk))) > 0) {
        write_all(log, chunk, (size_t)n);
        write_all(viewer, chunk, (size_t)n);
    }
    close(log);
}

static void run_console(int input, int viewer, const char *dir, size_t total)
{
    struct console_log_options options = {.dir = dir};
    struct console_log *log = NULL;
    struct console *console = NULL;
    struct error *error = NULL;
    sd_event *event = NULL;

    if (fcntl(input, F_SETFL, O_NONBLOCK) < 0 || sd_event_new(&event) < 0)
        err(1, "event loop");
    if (console_log_open(&options, &log, &error) < 0 ||
        console_new(event, input, dup(input), NULL, log, &console, &error) < 0)
        errx(1, "%s", error_message(error));
    if (console_add_viewer(console, -1, viewer, 0, NULL, NULL) < 0)
        errx(1, "no viewer");
    while (console_count_bytes(console) < total)
        if (sd_event_run(event, UINT64_MAX) < 0)
            errx(1, "the event loop failed");
    console_free(console);
    console_log_free(log);
    sd_event_unref(event);
}

int main(int argc, char **argv)
{
    bool plain = argc == 4 && strcmp(argv[1], "--plain") == 0;
    int console[2], viewer[2], result[2];
    uint64_t start, answer[2];
    size_t total;

    if (argc != 3 + plain)
        errx(2, "usage: console-feed [--plain] DIRECTORY MIBIBYTES");
    total = strtoul(argv[2 + plain], NULL, 10) << 20;
    if (total == 0 || pipe2(console, O_CLOEXEC) < 0 || pipe2(result, O_CLOEXEC) < 0 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, viewer) < 0)
        err(1, "cannot begin");
    start = now_usec();
    if (start_writer(console[1], console[0], total) < 0)
        err(1, "fork");
    close(console[1]); /* before the next child: it would keep the pipe open */
    if (start_viewer(viewer[1], viewer[0], result[1]) < 0)
        err(1, "fork");
    close(viewer[1]);
    if (plain)
        run_plain(console[0], viewer[0], argv[2]);
    else
        run_console(console[0], viewer[0], argv[1], total);
    close(viewer[0]);
    if (read(result[0], answer, sizeof(answer)) != sizeof(answer))
        errx(1, "the viewer said nothing");
    while (wait(NULL) > 0)
        ;
    printf("{\"usec\": %llu, \"seen\": %llu}\n", (unsigned long long)(answer[1] - start),
           (unsigned long long)answer[0]);
    return 0;
}
