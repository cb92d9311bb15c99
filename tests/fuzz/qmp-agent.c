/* SPDX-License-Identifier: Apache-2.0 */
/* A guest that sends anything to the agent's client. Where the input has "$S" and "$I" stand the number of the client's
 * synchronisation and the id of its last command, which nobody could guess: so the input gets past them. */
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <vmlet/qmp.h>

#include "base/error.h"
#include "base/event.h"
#include "base/fd.h"
#include "base/strbuf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int answers;

static void on_answer(struct qga_client *agent, json_t *result, const struct error *error, void *userdata)
{
    if (!result == !error || ++*(int *)userdata != 1)
        abort();
    answers++;
}

static void on_data(struct qga_client *agent, const char *data, size_t length, const struct error *error,
                    void *userdata)
{
    if (!data == !error)
        abort();
    answers++;
}

static void on_output(struct qga_client *agent, bool from_stderr, const char *data, size_t length, void *userdata)
{
    if (length == 0)
        abort();
}

static void settle(sd_event *event)
{
    while (sd_event_run(event, 0) > 0)
        ;
}

/* Reads what the client has written, and remembers the last numbers in it. */
static void look(int fd, long long *sync, long long *id)
{
    char buffer[16384];
    ssize_t n = recv(fd, buffer, sizeof(buffer) - 1, MSG_DONTWAIT);
    const char *p;

    if (n <= 0)
        return;
    for (ssize_t i = 0; i < n; i++)
        if (buffer[i] == '\0')
            abort();
    buffer[n] = '\0';
    for (p = buffer; (p = strstr(p, "\"id\": ")); p += 6) {
        long long value = strtoll(p + 6, NULL, 10);

        if (strstr(p, "}, \"id\"") && value > 1000000) /* 52 random bits against a counter */
            *sync = value;
        else
            *id = value;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sd_event *event = NULL;
    struct qga_client *agent;
    long long sync = 0, id = 0;
    int pair[2], called[3] = {0};

    if (event_new(&event) < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 ||
        qga_client_new(event, pair[0], &agent) < 0)
        abort();
    answers = 0;
    qga_client_call(agent, "guest-info", NULL, 0, on_answer, &called[0]);
    qga_client_exec(agent, "/bin/x", NULL, "in", 0, on_answer, &called[1]);
    qga_client_read_file(agent, "/x", 1000, 0, on_data, NULL);
    qga_client_exec_stream(agent, "/bin/x", NULL, NULL, 0, on_output, on_answer, &called[2]);
    for (size_t i = 0; i < size;) {
        const uint8_t *dollar = memchr(data + i, '$', size - i);
        size_t n = dollar ? (size_t)(dollar - (data + i)) : size - i;
        char number[24];
        int length;

        if (n > 0 && send(pair[1], data + i, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
            break;
        settle(event);
        i += n;
        if (!dollar)
            break;
        look(pair[1], &sync, &id);
        length = snprintf(number, sizeof(number), "%lld", i + 1 < size && data[i + 1] == 'S' ? sync : id);
        if (send(pair[1], number, (size_t)length, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
            break;
        i += 2;
    }
    settle(event);
    close(pair[1]);
    settle(event);
    if (qga_client_is_open(agent) || answers != 4)
        abort();
    qga_client_free(agent);
    sd_event_unref(event);
    return 0;
}
