/* SPDX-License-Identifier: Apache-2.0 */
#include "domain/orphan.h"

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/event.h"
#include "base/fd.h"
#include "base/limits.h"

struct monitor {
    int fd;
    uint64_t deadline;
    char line[16 * 1024]; /* a greeting or an answer of these commands has some hundred bytes */
    size_t length;
};

/* One message, to be released. 0: the end of the connection. */
static int read_message(struct monitor *m, json_t **ret)
{
    for (;;) {
        char *end = memchr(m->line, '\n', m->length);
        struct pollfd p = {m->fd, POLLIN, 0};
        uint64_t now = now_usec();
        ssize_t n;

        if (end) {
            size_t used = (size_t)(end - m->line) + 1;

            *ret = json_loadb(m->line, used, 0, NULL);
            m->length -= used;
            memmove(m->line, m->line + used, m->length);
            return *ret ? 1 : -EBADMSG;
        }
        if (m->length == sizeof(m->line))
            return -EMSGSIZE;
        if (now >= m->deadline)
            return -ETIMEDOUT;
        if (poll(&p, 1, (int)((m->deadline - now) / USEC_PER_MSEC) + 1) < 0 && errno != EINTR)
            return -errno;
        if (!p.revents)
            continue;
        n = read(m->fd, m->line + m->length, sizeof(m->line) - m->length);
        if (n == 0 || (n < 0 && errno == ECONNRESET))
            return 0;
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return -errno;
        m->length += n > 0 ? (size_t)n : 0;
    }
}

/* Skips events. *ret_answer is the "return"; 0: the connection ended. */
static int ask(struct monitor *m, const char *command, json_t **ret_answer)
{
    char text[96];
    int n = snprintf(text, sizeof(text), "{\"execute\": \"%s\"}\n", command), r;

    if (send(m->fd, text, (size_t)n, MSG_NOSIGNAL) != n)
        return errno == EPIPE ? 0 : -EIO;
    for (;;) {
        json_t *message, *answer;

        r = read_message(m, &message);
        if (r <= 0)
            return r;
        answer = json_incref(json_object_get(message, "return"));
        r = json_object_get(message, "error") ? -EPROTO : 1;
        json_decref(message);
        if (answer || r < 0) {
            *ret_answer = answer;
            return r;
        }
    }
}

/* 1: its guest has not run; 0: it is gone. */
static int check_prelaunch(struct monitor *m)
{
    json_t *answer = NULL;
    int r = read_message(m, &answer); /* the greeting */

    json_decref(answer);
    answer = NULL;
    if (r > 0)
        r = ask(m, "qmp_capabilities", &answer);
    json_decref(answer);
    answer = NULL;
    if (r > 0)
        r = ask(m, "query-status", &answer);
    if (r > 0) {
        const char *status = json_string_value(json_object_get(answer, "status"));

        /* qapi/run-state.json: "QEMU was started with -S and guest has not started" */
        r = status && streq(status, "prelaunch") ? 1 : -EBUSY;
    }
    json_decref(answer);
    return r;
}

int domain_end_orphan(const char *dir, struct error **ret_error)
{
    _cleanup_close_ int fd = -EBADF;
    _cleanup_free_ char *path = NULL;
    struct monitor m = {.deadline = now_usec() + TIMEOUT_ORPHAN_USEC};
    json_t *answer = NULL;
    int r;

    if (asprintf(&path, "%s/qmp.sock", dir) < 0) {
        path = NULL;
        return error_oom(ret_error);
    }
    if (unix_connect(path, &fd, NULL) < 0)
        return 0;
    m.fd = fd;
    r = check_prelaunch(&m);
    if (r == -EBUSY)
        return error_set(ret_error, ERROR_BAD_DATA, EBUSY,
                         "a VM runs in %s, and its state file, which is needed to take it over, is lost", dir);
    if (r > 0)
        r = ask(&m, "quit", &answer);
    json_decref(answer);
    while (r > 0) { /* until it is gone */
        r = read_message(&m, &answer);
        if (r > 0)
            json_decref(answer);
    }
    if (r < 0)
        return error_errno(ret_error, r, "a QEMU without a state file listens at %s, and could not be told to quit",
                           path);
    return 1;
}

void domain_remove_staged(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *entry;

    while (d && (entry = readdir(d)))
        if (endswith(entry->d_name, ".staging"))
            unlinkat(dirfd(d), entry->d_name, 0);
    if (d)
        closedir(d);
}
