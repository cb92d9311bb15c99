/* SPDX-License-Identifier: Apache-2.0 */
/* A monitor that sends anything: each call's callback is called exactly once, the last state is DISCONNECTED, and what
 * the client has said is a line of JSON each. */
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <vmlet/qmp.h>

#include "base/error.h"
#include "base/event.h"
#include "base/fd.h"
#include "base/strbuf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PIECE_BYTES 143U
#define GREETING    "{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}{\"return\": {}, \"id\": 1}"

static int answers, disconnects;

static void on_reply(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    if (!result == !error || ++*(int *)userdata != 1)
        abort();
    answers++;
}

static void on_event(struct qmp_client *client, const char *name, json_t *data, uint64_t usec, void *userdata)
{
    if (!name || !json_is_object(data))
        abort();
}

static void on_state(struct qmp_client *client, enum qmp_state state, const struct error *error, void *userdata)
{
    disconnects += state == QMP_DISCONNECTED;
}

static void settle(sd_event *event)
{
    while (sd_event_run(event, 0) > 0)
        ;
}

static void send_bytes(sd_event *event, int fd, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i += PIECE_BYTES) {
        if (send(fd, data + i, MIN((size_t)PIECE_BYTES, size - i), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
            return; /* disconnected: the rest has no reader */
        settle(event);
    }
}

/* One of the lines may be without an id, if the first command went as an urgent one does that is alone. */
static void check_output(int fd, bool urgent)
{
    struct strbuf b = {0};
    char buffer[4096], *save = NULL;
    int n_without = 0;
    ssize_t n;

    while ((n = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT)) > 0)
        strbuf_add(&b, buffer, (size_t)n);
    for (char *line = b.data ? strtok_r(b.data, "\n", &save) : NULL; line; line = strtok_r(NULL, "\n", &save)) {
        json_t *json = NULL;

        if (qmp_json_parse(line, strlen(line), &json, NULL) < 0)
            abort();
        if (!json_is_integer(json_object_get(json, "id")) && n_without++ >= (urgent ? 1 : 0))
            abort();
        json_decref(json);
    }
    strbuf_done(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sd_event *event = NULL;
    struct qmp_client *client;
    int pair[2], called[4] = {0};
    bool urgent = size > 0 && data[0] == '!'; /* the calls come behind the handshake, the first one alone */

    if (event_new(&event) < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 ||
        qmp_client_new(event, pair[0], &client) < 0 || qmp_client_enable_oob(client) < 0)
        abort();
    answers = disconnects = 0;
    qmp_client_set_event_handler(client, on_event, NULL);
    qmp_client_set_state_handler(client, on_state, NULL);
    qmp_client_limit_events(client, "B*", 1000);
    if (urgent)
        send_bytes(event, pair[1], (const uint8_t *)GREETING, strlen(GREETING));
    for (int i = 0; i < 4; i++)
        qmp_client_call(client,
                        &(struct qmp_call){.command = "x",
                                           .out_of_band = i == 1,
                                           .is_urgent = i == 0,
                                           .until_event = i == 2 ? "DEVICE_DELETED" : NULL,
                                           .event_key = "device",
                                           .event_value = "d",
                                           .fail_event = i == 2 ? "DEVICE_UNPLUG_GUEST_ERROR" : NULL,
                                           .callback = on_reply,
                                           .userdata = &called[i]},
                        NULL);
    if (size > 0 && data[0] != '{' && !urgent) /* else the input brings its own greeting */
        send_bytes(event, pair[1], (const uint8_t *)GREETING, strlen(GREETING));
    send_bytes(event, pair[1], data + urgent, size - urgent);
    check_output(pair[1], urgent);
    close(pair[1]);
    settle(event);
    if (answers != 4 || disconnects != 1 || qmp_client_get_state(client) != QMP_DISCONNECTED)
        abort();
    qmp_client_free(client);
    sd_event_unref(event);
    return 0;
}
