/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints a VM's state and then its events until it ends: watch-vm SOCKET [EVENT-PATTERN]
 *   cc watch-vm.c $(pkg-config --cflags --libs vmlet-qmp) -o watch-vm
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <vmlet/qmp.h>

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || strlen(path) >= sizeof(address.sun_path))
        return -1;
    strcpy(address.sun_path, path);
    return connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -1 : fd;
}

static void on_event(struct qmp_client *client, const char *name, json_t *data, uint64_t usec, void *userdata)
{
    char *text = qmp_json_dump(data, 0);

    printf("%" PRIu64 ".%06" PRIu64 " %s %s\n", usec / 1000000, usec % 1000000, name, text ? text : "");
    fflush(stdout);
    free(text);
}

static void on_status(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    if (error)
        fprintf(stderr, "%s (%s)\n", qmp_error_message(error), qmp_error_code(error));
    else
        printf("status: %s\n", json_string_value(json_object_get(result, "status")));
    fflush(stdout);
}

static void on_state(struct qmp_client *client, enum qmp_state state, const struct error *error, void *userdata)
{
    if (state != QMP_DISCONNECTED)
        return;
    fprintf(stderr, "%s\n", qmp_error_message(error));
    sd_event_exit(userdata, 0);
}

int main(int argc, char **argv)
{
    struct qmp_client *client = NULL;
    sd_event *loop = NULL;
    int fd, r;

    if (argc < 2) {
        fprintf(stderr, "usage: %s SOCKET [EVENT-PATTERN]\n", argv[0]);
        return 2;
    }
    fd = connect_to(argv[1]);
    if (fd < 0) {
        perror(argv[1]);
        return 1;
    }
    r = sd_event_default(&loop);
    if (r >= 0)
        r = qmp_client_new(loop, fd, &client); /* the client closes fd */
    if (r >= 0 && argc > 2)
        r = qmp_client_set_event_filter(client, (const char *const[]){argv[2], NULL});
    if (r >= 0) {
        qmp_client_set_event_handler(client, on_event, NULL);
        qmp_client_set_state_handler(client, on_state, loop);
        r = qmp_client_invoke(client, "query-status", NULL, on_status, NULL); /* goes out after the handshake */
    }
    if (r >= 0)
        r = sd_event_loop(loop);
    qmp_client_free(client);
    sd_event_unref(loop);
    return r < 0;
}
