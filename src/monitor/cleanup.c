/* SPDX-License-Identifier: Apache-2.0 */
#include "monitor/cleanup.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/strbuf.h"

static void remove_sockets(const char *dir_path)
{
    DIR *dir = opendir(dir_path);
    struct dirent *entry;

    if (!dir)
        return;
    while ((entry = readdir(dir))) {
        struct stat st;

        if (!endswith(entry->d_name, ".sock") || fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
            S_ISDIR(st.st_mode))
            continue;
        if (unlinkat(dirfd(dir), entry->d_name, 0) < 0 && errno != ENOENT)
            log_warning("cannot remove %s/%s: %s; its container goes on running", dir_path, entry->d_name,
                        strerror(errno));
    }
    closedir(dir);
}

void cleanup_container_disks(const char *dir, const char *uid)
{
    _cleanup_free_ char *below = NULL;

    remove_sockets(dir);
    if (!uid)
        return;
    if (asprintf(&below, "%s/%s", dir, uid) < 0) {
        below = NULL;
        return;
    }
    remove_sockets(below);
}

void cleanup_console_log(const char *vm_dir)
{
    _cleanup_free_ char *path = NULL;
    _cleanup_close_ int fd = -EBADF;

    if (asprintf(&path, "%s/virt-serial0-log-sigTerm", vm_dir) < 0) {
        path = NULL;
        return;
    }
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640); /* ENOENT: there was no VM */
    if (fd < 0 && errno != ENOENT)
        log_warning("cannot create %s: %s; guest-console-log ends by its own SIGTERM", path, strerror(errno));
}

/* ---- the console ----------------------------------------------------------------------------------------------- */

int console_hold(const char *vm_dir)
{
    _cleanup_free_ char *path = NULL;
    int fd;

    if (asprintf(&path, "%s/serial.out", vm_dir) < 0) {
        path = NULL;
        return -ENOMEM;
    }
    fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? -errno : fd;
}

void console_save(const char *vm_dir, int fd)
{
    _cleanup_close_ int log = -EBADF;
    _cleanup_free_ char *path = NULL;
    size_t saved = 0;
    char data[4096];
    ssize_t n;

    if (asprintf(&path, "%s/virt-serial0-log", vm_dir) < 0) {
        path = NULL;
        return;
    }
    log = open(path, O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW); /* ENOENT: the console is not logged */
    while (log >= 0 && (n = read(fd, data, sizeof(data))) > 0 && fd_write_all(log, data, (size_t)n) >= 0)
        saved += (size_t)n;
    if (saved > 0)
        log_info("%zu bytes that the guest had printed while there was no launcher were added to %s", saved, path);
}

/* ---- Istio ----------------------------------------------------------------------------------------------------- */

#define ISTIO_READY_PORT 15021
#define ISTIO_AGENT_PORT 15020

static bool wait_for(int fd, short events, uint64_t deadline)
{
    struct pollfd p = {.fd = fd, .events = events};
    uint64_t t = now_usec();

    return t < deadline && poll(&p, 1, (int)((deadline - t) / USEC_PER_MSEC) + 1) > 0;
}

/* The status code of an HTTP answer, or a negative errno. */
static int http_request(uint16_t port, const char *method, const char *path, uint64_t timeout_usec)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    uint64_t deadline = now_usec() + timeout_usec;
    char request[128], answer[64] = "";
    size_t have = 0;
    int code, n;

    if (fd < 0)
        return -errno;
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 && errno != EINPROGRESS)
        return -errno;
    if (!wait_for(fd, POLLOUT, deadline))
        return -ETIMEDOUT;
    n = snprintf(request, sizeof(request),
                 "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", method, path);
    if (send(fd, request, (size_t)n, MSG_NOSIGNAL) != n)
        return -errno;
    while (!memchr(answer, '\n', have) && have < sizeof(answer) - 1) {
        ssize_t got;

        if (!wait_for(fd, POLLIN, deadline))
            return -ETIMEDOUT;
        got = recv(fd, answer + have, sizeof(answer) - 1 - have, 0);
        if (got <= 0)
            break;
        have += (size_t)got;
    }
    answer[have] = '\0';
    return sscanf(answer, "HTTP/1.%*c %3d", &code) == 1 ? code : -EBADMSG;
}

void cleanup_istio(void)
{
    int r = http_request(ISTIO_READY_PORT, "GET", "/healthz/ready", TIMEOUT_ISTIO_USEC);

    if (r != 200)
        return;
    r = http_request(ISTIO_AGENT_PORT, "POST", "/quitquitquit", TIMEOUT_ISTIO_USEC);
    if (r == 200)
        log_info("the Istio sidecar was told to end");
    else
        log_warning("the Istio sidecar did not take quitquitquit: %s%d", r < 0 ? "errno " : "HTTP status ",
                    r < 0 ? -r : r);
}

/* ---- logs and the termination message -------------------------------------------------------------------------- */

static void show_log(int dir, const char *name)
{
    _cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    _cleanup_(strbuf_done) struct strbuf members = {0}, text = {0};
    struct stat st;
    ssize_t n;
    char *room;

    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size == 0)
        return;
    room = strbuf_reserve(&text, LIMIT_SHOWN_LOG_BYTES + 1);
    if (!room)
        return;
    n = pread(fd, room, LIMIT_SHOWN_LOG_BYTES, MAX((off_t)0, st.st_size - (off_t)LIMIT_SHOWN_LOG_BYTES));
    if (n <= 0)
        return;
    room[n] = '\0';
    if (!log_is_json()) {
        log_info("the end of %s:\n%s", name, room);
        return;
    }
    strbuf_add_string(&members, ",\"file\":");
    strbuf_add_json_string(&members, name);
    strbuf_add_string(&members, ",\"text\":");
    strbuf_add_json_string(&members, room);
    if (!members.failed)
        log_record("the end of a log file", strbuf_text(&members));
}

void cleanup_show_logs(const char *private_dir)
{
    _cleanup_free_ char *path = NULL;
    struct dirent *entry;
    unsigned shown = 0;
    DIR *dir;

    show_log(AT_FDCWD, "/var/run/kubevirt/passt.log");
    if (asprintf(&path, "%s/libvirt/qemu/log", private_dir) < 0) {
        path = NULL;
        return;
    }
    dir = opendir(path);
    if (!dir)
        return;
    while (shown < LIMIT_SHOWN_LOGS && (entry = readdir(dir)))
        if (endswith(entry->d_name, ".log")) {
            show_log(dirfd(dir), entry->d_name);
            shown++;
        }
    closedir(dir);
}

void cleanup_termination_message(const char *path, bool create, const char *text)
{
    _cleanup_close_ int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC | O_NOCTTY | (create ? O_CREAT : 0), 0644);
    size_t length = MIN(strlen(text), LIMIT_TERMINATION_MESSAGE_BYTES);
    int r = fd < 0 ? -errno : fd_write_all(fd, text, length);

    if (r < 0 && create)
        log_warning("cannot write the termination message to %s: %s", path, strerror(-r));
}
