/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The peer of the start-up benchmark: the least program that can start a QEMU of given arguments and set its vCPUs
 * running. It binds the sockets that QEMU inherits, spawns it, does the monitor's handshake, sends `cont`, stamps the
 * RESUME event, and ends the machine again.
 *
 *   bare-qemu ARGV-FILE MONITOR-FD [FD:listen:PATH | FD:log:PATH | FD:tap:NAME]…
 *
 * ARGV-FILE holds QEMU's arguments, each ended by a NUL. Prints one JSON object: the stamps on CLOCK_MONOTONIC in
 * microseconds, {"main", "spawn", "greeting", "running"}.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ARGUMENTS_MAX 1024
#define FDS_MAX       32
#define FD_SPARE      200 /* above every number that QEMU is told */

struct inherited {
    int number, fd;
};

static uint64_t now_usec(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000U + (uint64_t)now.tv_nsec / 1000U;
}

static void read_arguments(const char *path, char **argv)
{
    struct stat st;
    FILE *file = fopen(path, "re");
    char *text;
    size_t n = 0, length;

    if (!file || fstat(fileno(file), &st) < 0)
        err(1, "%s", path);
    length = (size_t)st.st_size;
    text = calloc(1, length + 1);
    if (!text || fread(text, 1, length, file) != length)
        errx(1, "cannot read %s", path);
    fclose(file);
    for (char *p = text; p < text + length && n < ARGUMENTS_MAX; p += strlen(p) + 1)
        argv[n++] = p;
    argv[n] = NULL;
}

static void fill_address(struct sockaddr_un *address, const char *path)
{
    memset(address, 0, sizeof(*address));
    address->sun_family = AF_UNIX;
    if (strlen(path) >= sizeof(address->sun_path))
        errx(1, "the path of a socket is too long: %s", path);
    memcpy(address->sun_path, path, strlen(path));
}

static int listen_on(const char *path)
{
    struct sockaddr_un address;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    fill_address(&address, path);
    unlink(path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 4) < 0)
        err(1, "cannot listen on %s", path);
    return fd;
}

static int connect_to(const char *path)
{
    struct sockaddr_un address;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    fill_address(&address, path);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        err(1, "cannot connect to %s", path);
    return fd;
}

static int open_tap(const char *name)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

    strncpy(request.ifr_name, name, sizeof(request.ifr_name) - 1);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0)
        err(1, "cannot open the tap %s", name);
    return fd;
}

static int open_kind(const char *kind, const char *path)
{
    if (strncmp(kind, ":listen:", 8) == 0)
        return listen_on(path);
    if (strncmp(kind, ":tap:", 5) == 0)
        return open_tap(path);
    return open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

/* Reads from the monitor until `word` has come. */
static void wait_for(int fd, const char *word)
{
    static char text[65536];
    static size_t length;
    char *found;

    for (;;) {
        text[length] = '\0';
        found = strstr(text, word);
        if (found) {
            size_t used = (size_t)(found - text) + strlen(word);

            memmove(text, text + used, length - used);
            length -= used;
            return;
        }
        if (length == sizeof(text) - 1)
            errx(1, "QEMU talks too much before %s", word);
        ssize_t n = read(fd, text + length, sizeof(text) - 1 - length);
        if (n <= 0)
            errx(1, "QEMU ended before %s; it said: %s", word, text);
        length += (size_t)n;
    }
}

static void say(int fd, const char *text)
{
    if (write(fd, text, strlen(text)) < 0)
        err(1, "cannot write to QEMU's monitor");
}

static pid_t spawn(char **argv, const struct inherited *fds, size_t n)
{
    pid_t pid = vfork(); /* NOLINT(clang-analyzer-security.insecureAPI.vfork): as cheap as a start can be */

    if (pid == 0) {
        for (size_t i = 0; i < n; i++)      /* NOLINT(clang-analyzer-unix.Vfork) */
            dup2(fds[i].fd, fds[i].number); /* NOLINT(clang-analyzer-unix.Vfork) */
        execv(argv[0], argv);
        _exit(127);
    }
    if (pid < 0)
        err(1, "vfork");
    return pid;
}

int main(int argc, char **argv)
{
    static char *arguments[ARGUMENTS_MAX + 1];
    struct inherited fds[FDS_MAX];
    uint64_t started = now_usec(), spawned, greeted, running;
    int monitor = -1, status = 0;
    size_t n = 0;
    pid_t pid;

    if (argc < 4)
        errx(2, "usage: bare-qemu ARGV-FILE MONITOR-FD FD:listen|log|tap:PATH…");
    read_arguments(argv[1], arguments);
    for (int i = 3; i < argc && n < FDS_MAX; i++, n++) {
        char *kind = strchr(argv[i], ':'), *path = NULL;
        int fd;

        if (kind)
            path = strchr(kind + 1, ':');
        if (!path)
            errx(2, "not FD:listen|log|tap:PATH: %s", argv[i]);
        path++;
        fd = open_kind(kind, path);
        if (fd < 0)
            err(1, "%s", path);
        fds[n].number = atoi(argv[i]);
        fds[n].fd = fcntl(fd, F_DUPFD_CLOEXEC, FD_SPARE);
        close(fd);
        if (strcmp(argv[2], "0") != 0 && fds[n].number == atoi(argv[2]))
            monitor = connect_to(path);
    }
    if (monitor < 0)
        errx(2, "no listening socket has the monitor's number %s", argv[2]);
    pid = spawn(arguments, fds, n);
    spawned = now_usec();
    wait_for(monitor, "\"QMP\"");
    greeted = now_usec();
    say(monitor, "{\"execute\": \"qmp_capabilities\"}\r\n{\"execute\": \"cont\"}\r\n");
    wait_for(monitor, "\"RESUME\"");
    running = now_usec();
    printf("{\"main\": %ju, \"spawn\": %ju, \"greeting\": %ju, \"running\": %ju}\n", (uintmax_t)started,
           (uintmax_t)spawned, (uintmax_t)greeted, (uintmax_t)running);
    say(monitor, "{\"execute\": \"quit\"}\r\n");
    if (waitpid(pid, &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
        errx(1, "QEMU ended with status %#x", (unsigned)status);
    return 0;
}
