/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The talk with the throw-away QEMU: blocking, with one deadline, over a socket pair that nobody else has.
 *
 * device-list-properties is not asked on purpose: for some types it loads a module and makes an object, and that aborts
 * Debian's QEMU 7.2 for virtio-gpu-gl-device.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/child.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/strbuf.h"
#include "host/caps.h"
#include "json/text.h"

#define MONITOR_FD 3

struct probe {
    const char *binary;
    pid_t pid;
    int pidfd, fd, stderr_fd;
    uint64_t deadline;
    struct strbuf in;
    size_t scanned; /* bytes of `in` that hold no line end */
};

/* The process ends with the function that started it, whatever happened in between. */
static void probe_done(struct probe *p)
{
    siginfo_t info;

    p->fd = fd_close(p->fd);
    if (p->pid > 0) {
        kill(p->pid, SIGKILL);
        while (waitid(P_PID, (id_t)p->pid, &info, WEXITED) < 0 && errno == EINTR)
            ;
        p->pid = 0;
    }
    p->pidfd = fd_close(p->pidfd);
    p->stderr_fd = fd_close(p->stderr_fd);
    strbuf_done(&p->in);
}

/* The last lines of its stderr, one line, without the line end. */
static char *stderr_text(const struct probe *p)
{
    off_t size = lseek(p->stderr_fd, 0, SEEK_END);
    off_t start = size > 2048 ? size - 2048 : 0;
    char text[2049];
    ssize_t n = size > 0 ? pread(p->stderr_fd, text, sizeof(text) - 1, start) : 0;

    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' '))
        n--;
    text[MAX(n, 0)] = '\0';
    for (char *c = text; *c; c++)
        if (*c == '\n')
            *c = ' ';
    return strdup(text);
}

static int probe_ended(struct probe *p, struct error **ret_error)
{
    _cleanup_free_ char *text = NULL;
    siginfo_t info = {0};
    int r;

    /* its stdout may be closed a moment before it ends; one that closed it and stays is killed */
    (void)poll(&(struct pollfd){p->pidfd, POLLIN, 0}, 1, 1000);
    kill(p->pid, SIGKILL);
    while (waitid(P_PID, (id_t)p->pid, &info, WEXITED) < 0 && errno == EINTR)
        ;
    p->pid = 0;
    text = stderr_text(p);
    r = error_set(ret_error, ERROR_QEMU_START, ENOEXEC,
                  "%s %s when it was asked what it can do (-machine none, over QMP)%s%s", p->binary,
                  child_describe_status(&info), text && *text ? ": " : "; it wrote no reason", text ? text : "");
    if (ret_error)
        error_set_remedy(*ret_error, "run \"%s -machine none -nodefaults -display none -S -qmp stdio\" by hand",
                         p->binary);
    return r;
}

/* One line, as JSON. */
static int read_message(struct probe *p, json_t **ret, struct error **ret_error)
{
    for (;;) {
        char *end = p->in.length > p->scanned ? memchr(p->in.data + p->scanned, '\n', p->in.length - p->scanned) : NULL;
        struct pollfd fd = {p->fd, POLLIN, 0};
        uint64_t now = now_usec();
        void *room;
        ssize_t n;
        int r;

        if (end) {
            size_t length = (size_t)(end - p->in.data);
            json_t *message = NULL;

            /* the CPU's properties have numbers that need 64 bits without a sign */
            if (json_text_parse(p->in.data, length, true, &message, NULL) < 0 || !json_is_object(message)) {
                json_decref(message);
                return error_set(ret_error, ERROR_QEMU_START, ENOEXEC, "%s does not speak QMP: it sent \"%.*s\"",
                                 p->binary, (int)MIN(length, (size_t)80), p->in.data);
            }
            strbuf_consume(&p->in, length + 1);
            p->scanned = 0;
            *ret = message;
            return 0;
        }
        p->scanned = p->in.length;
        if (p->in.length > LIMIT_QMP_MESSAGE_BYTES)
            return error_set(ret_error, ERROR_LIMIT, EMSGSIZE, "%s sent a QMP message of more than %u bytes", p->binary,
                             LIMIT_QMP_MESSAGE_BYTES);
        r = now >= p->deadline ? 0 : poll(&fd, 1, (int)((p->deadline - now) / USEC_PER_MSEC + 1));
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return error_errno(ret_error, errno, "cannot wait for %s", p->binary);
        if (r == 0)
            return error_set(ret_error, ERROR_TIMED_OUT, ETIMEDOUT,
                             "%s did not say within %llu s what it can do, and was killed", p->binary,
                             TIMEOUT_QEMU_PROBE_USEC / USEC_PER_SEC);
        room = strbuf_reserve(&p->in, 65536);
        if (!room)
            return error_oom(ret_error);
        n = recv(p->fd, room, 65536, MSG_DONTWAIT);
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n <= 0)
            return probe_ended(p, ret_error);
        p->in.length += (size_t)n;
    }
}

/* `arguments` is JSON text or NULL. *ret_reply is the "return" member; a new reference. */
static int ask(struct probe *p, const char *command, const char *arguments, json_t **ret_reply,
               struct error **ret_error)
{
    char line[256];
    int n = snprintf(line, sizeof(line), "{\"execute\":\"%s\"%s%s}\n", command, arguments ? ",\"arguments\":" : "",
                     arguments ? arguments : "");

    if (send(p->fd, line, (size_t)n, MSG_NOSIGNAL) != n)
        return probe_ended(p, ret_error);
    for (;;) {
        json_t *message = NULL, *reply, *error;
        int r = read_message(p, &message, ret_error);

        if (r < 0)
            return r;
        reply = json_object_get(message, "return");
        error = json_object_get(message, "error");
        if (reply) {
            *ret_reply = json_incref(reply);
            json_decref(message);
            return 0;
        }
        if (error) {
            const char *text = json_string_value(json_object_get(error, "desc"));

            r = error_set(ret_error, ERROR_QMP, EPROTO, "%s: %s: %s", p->binary, command, text ? text : "?");
            json_decref(message);
            return r;
        }
        json_decref(message); /* an event */
    }
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The strings under `keys` of the objects of an array, sorted, each once. */
static json_t *collect_names(const json_t *array, const char *const *keys)
{
    size_t n_keys = 0, n = 0, i;
    json_t *names = json_array(), *item;
    const char **list;

    while (keys[n_keys])
        n_keys++;
    list = calloc(json_array_size(array) * n_keys + 1, sizeof(*list));
    if (list) {
        json_array_foreach ((json_t *)(uintptr_t)array, i, item)
            for (size_t k = 0; k < n_keys; k++) {
                const char *name = json_string_value(json_object_get(item, keys[k]));

                if (name)
                    list[n++] = name;
            }
        qsort(list, n, sizeof(*list), compare_strings);
        for (i = 0; i < n; i++)
            if (i == 0 || !streq(list[i], list[i - 1]))
                json_array_append_new(names, json_string(list[i]));
    }
    free(list);
    return names;
}

static int keep_names(json_t *caps, const char *member, const json_t *reply, const char *const *keys)
{
    return json_object_set_new(caps, member, collect_names(reply, keys));
}

static int keep_version(json_t *caps, const json_t *greeting, const char *binary, struct error **ret_error)
{
    json_t *version = json_object_get(json_object_get(greeting, "QMP"), "version");
    const char *package = json_string_value(json_object_get(version, "package"));
    json_int_t major = -1, minor = -1, micro = -1;

    version = json_object_get(version, "qemu");
    major = json_is_object(version) ? json_integer_value(json_object_get(version, "major")) : -1;
    minor = json_integer_value(json_object_get(version, "minor"));
    micro = json_integer_value(json_object_get(version, "micro"));
    if (major < 0 || major > 999 || minor < 0 || minor > 999 || micro < 0 || micro > 999)
        return error_set(ret_error, ERROR_QEMU_START, ENOEXEC, "%s sent a QMP greeting without a version", binary);
    json_object_set_new(caps, "version", json_integer(major * 1000000 + minor * 1000 + micro));
    if (package && *package)
        json_object_set_new(caps, "package", json_string(startswith(package, " (") ? package + 2 : package));
    return 0;
}

static int greet(struct probe *p, json_t *caps, struct error **ret_error)
{
    json_t *reply = NULL;
    int r = read_message(p, &reply, ret_error);

    if (r < 0)
        return r;
    r = keep_version(caps, reply, p->binary, ret_error);
    json_decref(reply);
    if (r >= 0)
        r = ask(p, "qmp_capabilities", NULL, &reply, ret_error);
    if (r >= 0)
        json_decref(reply);
    return r;
}

static const char *const machine_keys[] = {"name", "alias", NULL};

static int talk(struct probe *p, json_t *caps, struct error **ret_error)
{
    static const char *const name_key[] = {"name", NULL};
    json_t *reply = NULL;
    char *text;
    size_t i;
    int r = greet(p, caps, ret_error);

    if (r < 0)
        return r;
    /* an old one has not all the commands below: its version is all that is needed to refuse it */
    if (json_integer_value(json_object_get(caps, "version")) < (json_int_t)QEMU_VERSION_OLDEST)
        return 0;

    r = ask(p, "query-target", NULL, &reply, ret_error);
    if (r < 0)
        return r;
    json_object_set(caps, "target", json_object_get(reply, "arch"));
    json_decref(reply);

    r = ask(p, "query-machines", NULL, &reply, ret_error);
    if (r < 0)
        return r;
    keep_names(caps, "machines", reply, machine_keys);
    json_decref(reply);

    r = ask(p, "qom-list-types", "{\"implements\":\"device\",\"abstract\":false}", &reply, ret_error);
    if (r < 0)
        return r;
    keep_names(caps, "devices", reply, name_key);
    json_decref(reply);

    r = ask(p, "qom-list-types", "{\"implements\":\"user-creatable\",\"abstract\":false}", &reply, ret_error);
    if (r < 0)
        return r;
    keep_names(caps, "objects", reply, name_key);
    json_decref(reply);

    r = ask(p, "query-command-line-options", "{\"option\":\"sandbox\"}", &reply, ret_error);
    if (r == 0) {
        json_object_set_new(caps, "sandbox",
                            json_boolean(json_array_size(json_object_get(json_array_get(reply, 0), "parameters"))));
        json_decref(reply);
    } else if (r == -EPROTO) { /* without seccomp it does not know the option at all */
        json_object_set_new(caps, "sandbox", json_false());
    } else {
        return r;
    }

    /* In the schema, a type that is left out of the build is left out too. Type names are masked, so the io_uring of
     * BlockdevAioOptions is found as the enum that has native and threads beside it. */
    r = ask(p, "query-qmp-schema", NULL, &reply, ret_error);
    if (r < 0)
        return r;
    json_object_set_new(caps, "vnc", json_false());
    json_object_set_new(caps, "io_uring", json_false());
    {
        json_t *entry;

        json_array_foreach (reply, i, entry) {
            const char *meta = json_string_value(json_object_get(entry, "meta-type"));
            const char *name = json_string_value(json_object_get(entry, "name"));

            if (meta && name && streq(meta, "command") && streq(name, "query-vnc"))
                json_object_set_new(caps, "vnc", json_true());
            if (meta && streq(meta, "enum")) {
                text = json_dumps(json_object_get(entry, "values"), JSON_COMPACT);
                if (text && strstr(text, "\"io_uring\"") && strstr(text, "\"native\"") && strstr(text, "\"threads\""))
                    json_object_set_new(caps, "io_uring", json_true());
                free(text);
            }
        }
    }
    json_decref(reply);
    return 0;
}

/* Names of the models that this host can give a guest, and what the CPU has that is the host's (KVM) or the most that
 * can be emulated. */
static int talk_of_cpus(struct probe *p, json_t *caps, struct error **ret_error)
{
    static const char *const name_key[] = {"name", NULL};
    json_t *reply = NULL, *usable = json_array(), *features = json_array(), *item, *props;
    const char *name;
    size_t i;
    int r = greet(p, caps, ret_error);

    json_object_set_new(caps, "features", features);
    if (r >= 0)
        r = ask(p, "query-machines", NULL, &reply, ret_error);
    if (r >= 0) {
        keep_names(caps, "machines", reply, machine_keys);
        json_decref(reply);
        r = ask(p, "query-cpu-definitions", NULL, &reply, ret_error);
    }
    if (r >= 0) {
        json_array_foreach (reply, i, item) /* no such member: the target does not know, and all can be used */
            if (json_array_size(json_object_get(item, "unavailable-features")) == 0)
                json_array_append(usable, item);
        keep_names(caps, "models", usable, name_key);
        json_decref(reply);
        r = ask(p, "query-cpu-model-expansion", "{\"type\":\"full\",\"model\":{\"name\":\"max\"}}", &reply, ret_error);
    }
    json_decref(usable);
    if (r < 0)
        return r;
    props = json_object_get(json_object_get(reply, "model"), "props");
    json_object_foreach (props, name, item)
        if (json_is_true(item))
            json_array_append_new(features, json_string(name));
    if (json_is_string(json_object_get(props, "vendor")))
        json_object_set(caps, "vendor", json_object_get(props, "vendor"));
    json_decref(reply);
    return 0;
}

static int run_probe(const char *binary, const char *machine, int (*talk_to)(struct probe *, json_t *, struct error **),
                     json_t **ret, struct error **ret_error)
{
    _cleanup_(probe_done) struct probe p = {
        .binary = binary,
        .pidfd = -EBADF,
        .fd = -EBADF,
        .stderr_fd = -EBADF,
        .deadline = now_usec() + TIMEOUT_QEMU_PROBE_USEC,
    };
    /* -no-user-config: a configuration file of the user must not end up in what the binary can do */
    static const char *const arguments[] = {
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-S",
        "-chardev",
        "socket,id=qmp,fd=" STRINGIFY(MONITOR_FD),
        "-mon",
        "chardev=qmp,mode=control",
        NULL,
    };
    const char *argv[ELEMENTSOF(arguments) + 3] = {binary, "-machine", machine};
    _cleanup_close_ int theirs = -EBADF;
    struct child_fd child_fd;
    json_t *caps;
    int pair[2], r;

    memcpy(argv + 3, arguments, sizeof(arguments));
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return error_errno(ret_error, errno, "cannot create a socket pair");
    p.fd = pair[0];
    theirs = pair[1];
    p.stderr_fd = memfd_create("qemu-stderr", MFD_CLOEXEC);
    if (p.stderr_fd < 0)
        return error_errno(ret_error, errno, "cannot keep the error output of %s", binary);
    child_fd = (struct child_fd){theirs, MONITOR_FD};
    r = child_spawn(
        &(struct child_options){
            .argv = (char *const *)(uintptr_t)argv,
            .fds = &child_fd,
            .n_fds = 1,
            .stdout_fd = p.stderr_fd,
            .stderr_fd = p.stderr_fd,
            .death_signal = SIGKILL,
            .new_process_group = true,
        },
        &p.pid, &p.pidfd, ret_error);
    if (r == -ENOENT || r == -EACCES || r == -ENOEXEC) {
        if (ret_error)
            error_set(ret_error, r == -ENOENT ? ERROR_QEMU_NOT_FOUND : ERROR_QEMU_START, r, "cannot execute %s: %s",
                      binary, strerror(-r));
        return r;
    }
    if (r < 0)
        return r;
    theirs = fd_close(theirs);
    caps = json_object();
    if (!caps)
        return error_oom(ret_error);
    r = talk_to(&p, caps, ret_error);
    if (r < 0) {
        json_decref(caps);
        return r;
    }
    *ret = caps;
    return 0;
}

int qemu_caps_probe(const char *binary, json_t **ret, struct error **ret_error)
{
    return run_probe(binary, "none", talk, ret, ret_error);
}

int qemu_cpus_probe(const char *binary, bool kvm, json_t **ret, struct error **ret_error)
{
    return run_probe(binary, kvm ? "none,accel=kvm" : "none,accel=tcg", talk_of_cpus, ret, ret_error);
}
