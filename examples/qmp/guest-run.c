/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a program in a guest through its agent, shows its output while it runs, and ends with its exit code:
 * guest-run AGENT-SOCKET /path/of/program [ARGUMENT…]
 */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <vmlet/qmp.h>

static sd_event *loop;

static void on_output(struct qga_client *agent, bool from_stderr, const char *data, size_t length, void *userdata)
{
    fwrite(data, 1, length, from_stderr ? stderr : stdout);
    fflush(stdout);
}

static void on_end(struct qga_client *agent, json_t *result, const struct error *error, void *userdata)
{
    if (error)
        fprintf(stderr, "%s\n", qmp_error_message(error));
    sd_event_exit(loop, error ? 125 : (int)json_integer_value(json_object_get(result, "exitcode")));
}

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct qga_client *agent = NULL;
    json_t *arguments = json_array();
    int fd, r;

    if (argc < 3 || strlen(argv[1]) >= sizeof(address.sun_path)) {
        fprintf(stderr, "usage: %s AGENT-SOCKET PROGRAM [ARGUMENT...]\n", argv[0]);
        return 2;
    }
    for (int i = 3; i < argc; i++)
        json_array_append_new(arguments, json_string(argv[i]));
    strcpy(address.sun_path, argv[1]);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        perror(argv[1]);
        return 125;
    }
    r = sd_event_default(&loop);
    if (r >= 0)
        r = qga_client_new(loop, fd, &agent);
    if (r >= 0)
        r = qga_client_exec_stream(agent, argv[2], arguments, NULL, 0, on_output, on_end, NULL);
    if (r >= 0)
        r = sd_event_loop(loop); /* what sd_event_exit() was given */
    qga_client_free(agent);
    sd_event_unref(loop);
    return r < 0 ? 125 : r;
}
