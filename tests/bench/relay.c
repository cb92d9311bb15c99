/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The least that can stand between a client and QEMU's monitor: it listens on one socket, connects to the other for its
 * one client, and passes on what comes from either. What a call takes more through it than without it, a launcher can
 * save only by what it has sent ahead. Without the events, as a launcher's client has only asked for an answer: an
 * event would wake the client before its answer comes.
 *
 *   relay LISTEN CONNECT
 */
#include <err.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int open_socket(const char *path, struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (fd < 0 || strlen(path) >= sizeof(address->sun_path))
        errx(1, "no socket for %s", path);
    strcpy(address->sun_path, path);
    return fd;
}

/* Takes the lines with events out of the text; QEMU writes whole lines. What is left. */
static size_t drop_events(char *data, size_t n)
{
    size_t kept = 0;

    for (size_t at = 0, length; at < n; at += length) {
        const char *end = memchr(data + at, '\n', n - at);

        length = end ? (size_t)(end + 1 - (data + at)) : n - at;
        if (memmem(data + at, length, "\"event\": ", 9))
            continue;
        memmove(data + kept, data + at, length);
        kept += length;
    }
    return kept;
}

/* False at the end of either side. */
static int pass(int from, int to)
{
    char data[65536];
    ssize_t n = read(from, data, sizeof(data));
    size_t kept;

    if (n <= 0)
        return 0;
    kept = drop_events(data, (size_t)n);
    return kept == 0 || write(to, data, kept) == (ssize_t)kept;
}

int main(int argc, char **argv)
{
    struct sockaddr_un here, there;
    int listener, client, monitor;

    if (argc != 3)
        errx(2, "usage: relay LISTEN CONNECT");
    listener = open_socket(argv[1], &here);
    if (bind(listener, (const struct sockaddr *)&here, sizeof(here)) < 0 || listen(listener, 1) < 0)
        err(1, "%s", argv[1]);
    client = accept(listener, NULL, NULL);
    monitor = open_socket(argv[2], &there);
    if (client < 0 || connect(monitor, (const struct sockaddr *)&there, sizeof(there)) < 0)
        err(1, "%s", argv[2]);
    struct pollfd fds[] = {{.fd = client, .events = POLLIN}, {.fd = monitor, .events = POLLIN}};
    while (poll(fds, 2, -1) > 0)
        for (int i = 0; i < 2; i++)
            if (fds[i].revents && !pass(fds[i].fd, fds[!i].fd))
                return 0;
    return 1;
}
