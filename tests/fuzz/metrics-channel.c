/* SPDX-License-Identifier: Apache-2.0 */
/* What a guest writes to its metrics channel, in pieces of any size: every answer is a whole one. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "domain/metrics-channel.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define METRICS "<metrics/>\n"

static void write_metrics(struct strbuf *text, void *userdata)
{
    strbuf_add_string(text, METRICS);
}

/* Runs the loop until there is nothing left to do, and takes what the guest would read. */
static void settle(sd_event *event, int guest, struct strbuf *answers)
{
    char buffer[4096];
    ssize_t n;

    do {
        while (sd_event_run(event, 0) > 0)
            ;
        n = recv(guest, buffer, sizeof(buffer), MSG_DONTWAIT);
        if (n > 0)
            strbuf_add(answers, buffer, (size_t)n);
    } while (n > 0);
}

static void check(const char *text)
{
    static const char *const known[] = {METRICS "\n", "INVALID REQUEST\n\n"};

    while (*text) {
        size_t i = 0;

        while (i < ELEMENTSOF(known) && strncmp(text, known[i], strlen(known[i])) != 0)
            i++;
        if (i == ELEMENTSOF(known))
            abort();
        text += strlen(known[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_(strbuf_done) struct strbuf answers = {0};
    _cleanup_(metrics_channel_freep) struct metrics_channel *channel = NULL;
    _cleanup_event_ sd_event *event = NULL;
    size_t step = size > 0 ? data[0] + 1U : 1;
    int fds[2];

    if (sd_event_new(&event) < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0 ||
        metrics_channel_new(event, fds[1], 0, write_metrics, NULL, &channel) < 0)
        abort();
    for (size_t i = 1; i < size; i += step) {
        if (send(fds[0], data + i, MIN(step, size - i), MSG_NOSIGNAL) < 0)
            break; /* closed, or full: the rest stays unsaid */
        settle(event, fds[0], &answers);
    }
    if (answers.length > 0)
        check(strbuf_text(&answers));
    fd_close(fds[0]);
    return 0;
}
