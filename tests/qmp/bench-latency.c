/* SPDX-License-Identifier: Apache-2.0 */
/*
 * query-status round trips: libqmp against the least that a client can do (write the bytes, read until a line end), on
 * two monitors of one QEMU, turn by turn, in short rounds. What counts is the tenth of each one's rounds that other
 * programs of the machine disturbed least: exit 1 when libqmp takes more than 1.05 times as long there.
 */
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <vmlet/qmp.h>

#include "base/child.h"
#include "base/event.h"
#include "base/fd.h"

#define ROUNDS    1000
#define PER_ROUND 10
#define CALM      (ROUNDS / 10)
#define ALLOWED   1.05

static int n_replies;

static void on_reply(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    n_replies += result != NULL;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void exchange_raw(int fd, const char *text)
{
    char buffer[65536];
    size_t have = 0;

    if (*text && write(fd, text, strlen(text)) < 0)
        abort();
    do {
        ssize_t n = read(fd, buffer + have, sizeof(buffer) - have);

        if (n <= 0)
            abort();
        have += (size_t)n;
    } while (buffer[have - 1] != '\n');
}

static double time_raw(int fd)
{
    uint64_t start = now_usec();

    for (int i = 0; i < PER_ROUND; i++)
        exchange_raw(fd, "{\"execute\": \"query-status\", \"id\": 1}\n");
    return (double)(now_usec() - start) / PER_ROUND;
}

static double time_library(sd_event *event, struct qmp_client *client)
{
    uint64_t start = now_usec();

    for (int i = 0; i < PER_ROUND; i++) {
        int want = n_replies + 1;

        qmp_client_invoke(client, "query-status", NULL, on_reply, NULL);
        while (n_replies < want)
            if (sd_event_run(event, UINT64_MAX) < 0)
                abort();
    }
    return (double)(now_usec() - start) / PER_ROUND;
}

int main(void)
{
    char *argv[] = {(char *)"qemu-system-x86_64",
                    (char *)"-machine",
                    (char *)"none",
                    (char *)"-nodefaults",
                    (char *)"-display",
                    (char *)"none",
                    (char *)"-chardev",
                    (char *)"socket,id=a,fd=3",
                    (char *)"-mon",
                    (char *)"chardev=a,mode=control",
                    (char *)"-chardev",
                    (char *)"socket,id=b,fd=4",
                    (char *)"-mon",
                    (char *)"chardev=b,mode=control",
                    NULL};
    double raw[ROUNDS], library[ROUNDS];
    struct qmp_client *client;
    sd_event *event = NULL;
    int a[2], b[2], pidfd;
    pid_t pid;

    if (event_new(&event) < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, a) < 0 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, b) < 0)
        return 1;
    if (child_spawn(
            &(struct child_options){
                .argv = argv, .fds = (struct child_fd[]){{a[1], 3}, {b[1], 4}}, .n_fds = 2, .death_signal = SIGKILL},
            &pid, &pidfd, NULL) < 0)
        return 77;
    close(a[1]);
    close(b[1]);
    exchange_raw(a[0], "");
    exchange_raw(a[0], "{\"execute\": \"qmp_capabilities\"}\n");
    if (qmp_client_new(event, b[0], &client) < 0)
        return 1;
    while (qmp_client_get_state(client) != QMP_RUNNING)
        if (sd_event_run(event, UINT64_MAX) < 0)
            return 1;
    for (int i = 0; i < ROUNDS; i++) {
        raw[i] = time_raw(a[0]);
        library[i] = time_library(event, client);
    }
    qsort(raw, ROUNDS, sizeof(*raw), by_value);
    qsort(library, ROUNDS, sizeof(*library), by_value);
    printf("query-status: minimal client %.1f us, libqmp %.1f us, ratio %.3f (limit %.2f); medians %.1f and %.1f us\n",
           raw[CALM], library[CALM], library[CALM] / raw[CALM], ALLOWED, raw[ROUNDS / 2], library[ROUNDS / 2]);
    kill(pid, SIGKILL);
    qmp_client_free(client);
    sd_event_unref(event);
    return library[CALM] > ALLOWED * raw[CALM];
}
