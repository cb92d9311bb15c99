/* SPDX-License-Identifier: Apache-2.0 */
/* libqmp against real processes: qemu-system-x86_64 -machine none, and qemu-ga on this host. */
#include "tests/qmp/peer.h"

#include <pty.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>

#include "base/child.h"
#include "base/strv.h"

#if defined(__SANITIZE_ADDRESS__) /* its quarantine keeps what is freed */
#define MEMORY_IS_EXACT 0
#elif defined(__has_feature)
#define MEMORY_IS_EXACT !__has_feature(address_sanitizer)
#else
#define MEMORY_IS_EXACT 1
#endif

#define _cleanup_client_ _cleanup_(qmp_client_freep)
#define _cleanup_agent_  _cleanup_(qga_client_freep)
#define QEMU             "qemu-system-x86_64"
#define QGA              "qemu-ga"
#define WAIT_USEC        60000000ULL

static char directory[] = "/tmp/test-qmp-XXXXXX";

struct process {
    pid_t pid;
    int pidfd;
};

static void process_end(struct process *process)
{
    siginfo_t info;

    if (process->pid <= 0)
        return;
    kill(process->pid, SIGKILL);
    waitid(P_PID, (id_t)process->pid, &info, WEXITED);
    fd_close(process->pidfd);
    process->pid = 0;
}
#define _cleanup_process_ _cleanup_(process_end)

static void process_start(struct process *process, char *const *argv, const struct child_fd *fds, size_t n_fds)
{
    _cleanup_error_ struct error *error = NULL;
    struct child_options options = {.argv = argv, .fds = fds, .n_fds = n_fds, .death_signal = SIGKILL};

    if (child_spawn(&options, &process->pid, &process->pidfd, &error) < 0) {
        print_message("%s\n", error_message(error));
        exit(77);
    }
}

/* A stopped QEMU whose monitor is one end of a socket pair; the other end. more: further arguments, NULL-terminated. */
static int qemu_start_with(struct process *process, const char *machine, const char *const *more)
{
    const char *const first[] = {
        QEMU, "-machine", machine,    "-nodefaults",      "-display", "none",
        "-m", "64",       "-chardev", "socket,id=m,fd=3", "-mon",     "chardev=m,mode=control"};
    _cleanup_(strv_freep) char **argv = NULL;
    int pair[2];

    for (size_t i = 0; i < ELEMENTSOF(first); i++)
        assert_return_code(strv_append(&argv, first[i]), 0);
    for (; more && *more; more++)
        assert_return_code(strv_append(&argv, *more), 0);
    assert_return_code(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), errno);
    process_start(process, argv, &(struct child_fd){.fd = pair[1], .target = 3}, 1);
    close(pair[1]);
    return pair[0];
}

/* Without a machine. */
static int qemu_start(struct process *process)
{
    return qemu_start_with(process, "none", NULL);
}

static void turn_until(sd_event *event, const int *value, int n)
{
    uint64_t end = now_usec() + WAIT_USEC;

    while (*value < n) {
        assert_true(now_usec() < end);
        assert_return_code(sd_event_run(event, 1000000), 0);
    }
}

static struct qmp_client *client_start(struct process *process, sd_event **ret_event)
{
    struct qmp_client *client;

    assert_return_code(event_new(ret_event), 0);
    assert_return_code(qmp_client_new(*ret_event, qemu_start(process), &client), 0);
    qmp_client_set_timeout_factor(client, 10); /* QEMU answers once its machine is made: late on a busy host */
    return client;
}

/* ---- QEMU ------------------------------------------------------------------------------------------------------- */

static void test_status_and_error(void **state)
{
    _cleanup_process_ struct process q = {0};
    _cleanup_event_ sd_event *event = NULL;
    _cleanup_client_ struct qmp_client *c = client_start(&q, &event);
    _cleanup_answer_ struct answer a = {0}, b = {0};

    qmp_client_invoke(c, "query-status", NULL, on_reply, &a);
    qmp_client_invoke(c, "no-such-command", NULL, on_reply, &b);
    turn_until(event, &b.count, 1);
    assert_string_equal(json_string_value(json_object_get(a.result, "status")), "running");
    assert_string_equal(error_qmp_class(b.error), "CommandNotFound");
    assert_in_range(qmp_client_get_version(c), 5000000, 99000000);
}

/* A relay that passes QEMU's output on one byte at a time. */
struct relay {
    int from, to;
    size_t bytes;
};

static int on_relay(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
    struct relay *r = userdata;
    char data[64]; /* one-byte pieces fill a socket buffer soon */
    ssize_t n = recv(r->from, data, sizeof(data), MSG_DONTWAIT);

    for (ssize_t i = 0; i < n; i++)
        assert_int_equal(write(r->to, data + i, 1), 1);
    r->bytes += n > 0 ? (size_t)n : 0;
    return 0;
}

static int on_back(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
    struct relay *r = userdata;
    char data[4096];
    ssize_t n = recv(r->to, data, sizeof(data), MSG_DONTWAIT);

    if (n > 0)
        assert_int_equal(write(r->from, data, (size_t)n), n);
    return 0;
}

static void test_schema_bytewise(void **state)
{
    _cleanup_process_ struct process q = {0};
    _cleanup_event_ sd_event *event = NULL;
    _cleanup_event_source_ sd_event_source *there = NULL, *back = NULL;
    _cleanup_client_ struct qmp_client *c = NULL;
    _cleanup_answer_ struct answer a = {0};
    struct relay relay;
    int pair[2];

    assert_return_code(event_new(&event), 0);
    relay = (struct relay){.from = qemu_start(&q)};
    assert_return_code(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), errno);
    relay.to = pair[0];
    assert_return_code(sd_event_add_io(event, &there, relay.from, EPOLLIN, on_relay, &relay), 0);
    assert_return_code(sd_event_add_io(event, &back, relay.to, EPOLLIN, on_back, &relay), 0);
    assert_return_code(qmp_client_new(event, pair[1], &c), 0);
    qmp_client_invoke(c, "query-qmp-schema", NULL, on_reply, &a);
    turn_until(event, &a.count, 1);
    assert_true(json_array_size(a.result) > 500);
    assert_true(relay.bytes > 100000);
    fd_close(relay.from);
    fd_close(relay.to);
}

static void test_pipeline(void **state)
{
    _cleanup_process_ struct process q = {0};
    _cleanup_event_ sd_event *event = NULL;
    _cleanup_client_ struct qmp_client *c = client_start(&q, &event);
    _cleanup_answer_ struct answer a = {0};
    uint64_t start;
    int n = 10000;

    qmp_client_invoke(c, "query-version", NULL, on_reply, &a);
    turn_until(event, &a.count, 1);
    start = now_usec();
    for (int i = 1; i < n; i++)
        assert_return_code(qmp_client_invoke(c, i % 2 ? "query-status" : "query-name", NULL, on_reply, &a), 0);
    turn_until(event, &a.count, n);
    assert_non_null(a.result);
    print_message("%d commands in %.0f ms\n", n, (double)(now_usec() - start) / 1000);
}

/* uint64 defaults of device properties come through exactly, and out again. */
static void test_uint64(void **state)
{
    _cleanup_process_ struct process q = {0};
    _cleanup_event_ sd_event *event = NULL;
    _cleanup_client_ struct qmp_client *c = client_start(&q, &event);
    _cleanup_answer_ struct answer a = {0};
    _cleanup_free_ char *text = NULL;

    qmp_client_invoke(c, "device-list-properties", json_pack("{s:s}", "typename", "pcie-root-port"), on_reply, &a);
    turn_until(event, &a.count, 1);
    assert_non_null(a.result);
    text = qmp_json_dump(a.result, 0);
    assert_non_null(strstr(text, "18446744073709551615"));
    assert_null(strstr(text, "\"18446744073709551615"));
}

static void test_fd_passing(void **state)
{
    _cleanup_process_ struct process q = {0};
    _cleanup_event_ sd_event *event = NULL;
    _cleanup_client_ struct qmp_client *c = client_start(&q, &event);
    _cleanup_answer_ struct answer a = {0}, b = {0};
    char name[8];

    assert_return_code(qmp_client_enable_oob(c), 0);
    for (int i = 0; i < 20; i++) {
        int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

        snprintf(name, sizeof(name), "f%d", i);
        qmp_client_call(c,
                        &(struct qmp_call){.command = "getfd",
                                           .arguments = json_pack("{s:s}", "fdname", name),
                                           .fds = &fd,
                                           .n_fds = 1,
                                           .callback = on_reply,
                                           .userdata = &a},
                        NULL);
        qmp_client_invoke(c, "query-status", NULL, on_reply, &b);
    }
    turn_until(event, &a.count, 20);
    assert_non_null(a.result);
    for (int i = 0; i < 20; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        answer_done(&a);
        qmp_client_invoke(c, "closefd", json_pack("{s:s}", "fdname", name), on_reply, &a);
        turn_until(event, &a.count, 1);
        assert_non_null(a.result);
    }
}

/* An out-of-band command is answered although the window is full of in-band ones. */
static void test_out_of_band(void **state)
{
    _cleanup_process_ struct process q = {0};
    _cleanup_event_ sd_event *event = NULL;
    _cleanup_client_ struct qmp_client *c = client_start(&q, &event);
    _cleanup_answer_ struct answer a = {0}, b = {0};

    assert_return_code(qmp_client_enable_oob(c), 0);
    for (int i = 0; i < 100; i++)
        qmp_client_invoke(c, "query-qmp-schema", NULL, on_reply, &a);
    qmp_client_call(
        c, &(struct qmp_call){.command = "migrate-pause", .out_of_band = true, .callback = on_reply, .userdata = &b},
        NULL);
    turn_until(event, &b.count, 1);
    assert_int_equal(error_get_code(b.error), ERROR_QMP); /* there is no migration */
    assert_true(a.count < 100);
    turn_until(event, &a.count, 100);
}

static void call_until(struct qmp_client *c, const char *command, json_t *arguments, const char *event, const char *key,
                       const char *value, const char *status, struct answer *answer)
{
    assert_return_code(qmp_client_call(c,
                                       &(struct qmp_call){.command = command,
                                                          .arguments = arguments,
                                                          .until_event = event,
                                                          .event_key = key,
                                                          .event_value = value,
                                                          .event_key2 = status ? "status" : NULL,
                                                          .event_value2 = status,
                                                          .callback = on_reply,
                                                          .userdata = answer},
                                       NULL),
                       0);
}

/* Commands that end with an event: the device is gone, the job is done, and only then the callback is called. */
static void test_until_event(void **state)
{
    static const char *const more[] = {"-S",
                                       "-device",
                                       "qemu-xhci,id=usb",
                                       "-device",
                                       "usb-kbd,id=key0",
                                       "-blockdev",
                                       "driver=null-co,node-name=from,size=1048576,read-zeroes=on",
                                       "-blockdev",
                                       "driver=null-co,node-name=to,size=1048576",
                                       NULL};
    _cleanup_process_ struct process q = {0};
    _cleanup_event_ sd_event *event = NULL;
    _cleanup_client_ struct qmp_client *c = NULL;
    _cleanup_answer_ struct answer gone = {0}, wrong = {0}, job = {0}, jobs = {0};

    assert_return_code(event_new(&event), 0);
    assert_return_code(qmp_client_new(event, qemu_start_with(&q, "q35", more), &c), 0);
    call_until(c, "device_del", json_pack("{s:s}", "id", "key0"), "DEVICE_DELETED", "device", "key0", NULL, &gone);
    call_until(c, "device_del", json_pack("{s:s}", "id", "nobody"), "DEVICE_DELETED", "device", "nobody", NULL, &wrong);
    call_until(c, "blockdev-backup",
               json_pack("{s:s, s:s, s:s, s:s}", "job-id", "j0", "device", "from", "target", "to", "sync", "full"),
               "JOB_STATUS_CHANGE", "id", "j0", "concluded", &job);
    turn_until(event, &gone.count, 1);
    turn_until(event, &wrong.count, 1);
    turn_until(event, &job.count, 1);
    if (gone.error || job.error)
        fail_msg("%s %s", gone.error ? error_message(gone.error) : "", job.error ? error_message(job.error) : "");
    assert_string_equal(json_string_value(json_object_get(gone.result, "path")), "/machine/peripheral/key0");
    assert_string_equal(error_qmp_class(wrong.error), "DeviceNotFound");
    assert_string_equal(json_string_value(json_object_get(job.result, "status")), "concluded");
    qmp_client_invoke(c, "query-jobs", NULL, on_reply, &jobs);
    turn_until(event, &jobs.count, 1);
    assert_int_equal(json_array_size(jobs.result), 0);
}

/* A QEMU that is stopped answers nothing: deadline and cancelling end the calls; when it goes on, late answers are
 * taken for nobody's. */
static void test_deadline_and_cancel(void **state)
{
    _cleanup_process_ struct process q = {0};
    _cleanup_event_ sd_event *event = NULL;
    _cleanup_client_ struct qmp_client *c = client_start(&q, &event);
    _cleanup_answer_ struct answer a = {0}, b = {0}, d = {0};
    uint64_t id;

    qmp_client_invoke(c, "query-status", NULL, on_reply, &a);
    turn_until(event, &a.count, 1);
    kill(q.pid, SIGSTOP);
    qmp_client_call(
        c, &(struct qmp_call){.command = "query-name", .timeout_usec = 100000, .callback = on_reply, .userdata = &a},
        NULL);
    qmp_client_call(c, &(struct qmp_call){.command = "query-uuid", .callback = on_reply, .userdata = &b}, &id);
    turn_until(event, &a.count, 2);
    assert_int_equal(error_get_code(a.error), ERROR_TIMED_OUT);
    assert_return_code(qmp_client_cancel(c, id), 0);
    assert_int_equal(error_get_code(b.error), ERROR_CANCELLED);
    kill(q.pid, SIGCONT);
    qmp_client_invoke(c, "query-status", NULL, on_reply, &d);
    turn_until(event, &d.count, 1);
    assert_non_null(json_object_get(d.result, "status"));
    assert_int_equal(a.count + b.count, 3);
}

struct seen_events {
    int stop, resume;
};

static void see_event(struct qmp_client *client, const char *name, json_t *data, uint64_t usec, void *userdata)
{
    struct seen_events *seen = userdata;

    assert_true(usec > 0);
    seen->stop += streq(name, "STOP");
    seen->resume += streq(name, "RESUME");
}

static void test_event_filter_and_limit(void **state)
{
    _cleanup_process_ struct process q = {0};
    _cleanup_event_ sd_event *event = NULL;
    _cleanup_client_ struct qmp_client *c = client_start(&q, &event);
    _cleanup_answer_ struct answer a = {0};
    struct seen_events seen = {0};

    qmp_client_set_event_handler(c, see_event, &seen);
    assert_return_code(qmp_client_set_event_filter(c, (const char *const[]){"!RESUME", NULL}), 0);
    assert_return_code(qmp_client_limit_events(c, "ST*", 3600000000ULL), 0);
    for (int i = 0; i < 20; i++)
        qmp_client_invoke(c, i % 2 ? "cont" : "stop", NULL, on_reply, &a);
    turn_until(event, &a.count, 20);
    assert_non_null(a.result);
    assert_int_equal(seen.stop, 1);
    assert_int_equal(seen.resume, 0);
    assert_int_equal(qmp_client_count_dropped_events(c),
                     8); /* nine came after the first; the newest is kept for later */
}

static void test_killed(void **state)
{
    _cleanup_process_ struct process q = {0};
    _cleanup_event_ sd_event *event = NULL;
    _cleanup_client_ struct qmp_client *c = client_start(&q, &event);
    _cleanup_answer_ struct answer a = {0};

    qmp_client_invoke(c, "query-status", NULL, on_reply, &a);
    turn_until(event, &a.count, 1);
    kill(q.pid, SIGSTOP);
    qmp_client_invoke(c, "query-status", NULL, on_reply, &a);
    qmp_client_invoke(c, "query-status", NULL, on_reply, &a);
    kill(q.pid, SIGKILL);
    turn_until(event, &a.count, 3);
    assert_int_equal(error_get_code(a.error), ERROR_CONNECTION);
}

/* A QEMU without a machine that has n monitors, and a client of each. */
static void monitors_start(struct process *process, sd_event *event, struct qmp_client **clients, size_t n)
{
    _cleanup_(strv_freep) char **argv = NULL;
    struct child_fd *fds = calloc(n, sizeof(*fds));
    static const char *const first[] = {QEMU, "-machine", "none", "-nodefaults", "-display", "none"};
    char text[2][48];
    int pair[2];

    assert_non_null(fds);
    for (size_t i = 0; i < ELEMENTSOF(first); i++)
        assert_return_code(strv_append(&argv, first[i]), 0);
    for (size_t i = 0; i < n; i++) {
        assert_return_code(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), errno);
        fds[i] = (struct child_fd){.fd = pair[1], .target = 3 + (int)i};
        assert_return_code(qmp_client_new(event, pair[0], &clients[i]), 0);
        snprintf(text[0], sizeof(text[0]), "socket,id=m%zu,fd=%zu", i, 3 + i);
        snprintf(text[1], sizeof(text[1]), "chardev=m%zu,mode=control", i);
        for (int k = 0; k < 2; k++)
            assert_true(strv_append(&argv, k ? "-mon" : "-chardev") >= 0 && strv_append(&argv, text[k]) >= 0);
    }
    process_start(process, argv, fds, n);
    for (size_t i = 0; i < n; i++)
        close(fds[i].fd);
    free(fds);
}

/* Sixty-four sessions on this one thread: eight QEMUs with eight monitors each. */
static void test_many_sessions(void **state)
{
    enum { N_QEMUS = 8, N_EACH = 8 };
    struct process q[N_QEMUS] = {0};
    struct qmp_client *c[N_QEMUS * N_EACH];
    _cleanup_event_ sd_event *event = NULL;
    _cleanup_answer_ struct answer a = {0};
    int want = 0;

    assert_return_code(event_new(&event), 0);
    for (int i = 0; i < N_QEMUS; i++)
        monitors_start(&q[i], event, c + i * N_EACH, N_EACH);
    for (int round = 0; round < 20; round++)
        for (int i = 0; i < N_QEMUS * N_EACH; i++, want++)
            qmp_client_invoke(c[i], "query-status", NULL, on_reply, &a);
    turn_until(event, &a.count, want);
    assert_non_null(a.result);
    for (int i = 0; i < N_QEMUS * N_EACH; i++)
        qmp_client_free(c[i]);
    for (int i = 0; i < N_QEMUS; i++)
        process_end(&q[i]);
}

static void count_event(struct qmp_client *client, const char *name, json_t *data, uint64_t usec, void *userdata)
{
    assert_true(streq(name, "STOP") || streq(name, "RESUME"));
    assert_true(usec > 0);
    ++*(int *)userdata;
}

/*
 * A million events. QEMU tells each of them to all of its monitors: sixty-four sessions on this thread get what one of
 * them causes, by stopping and resuming the machine. Memory must not grow once the first hundredth has come.
 */
static void test_event_flood(void **state)
{
    enum { N = 64, BATCH = 50, COMMANDS = 15700 };
    _cleanup_process_ struct process q = {0};
    struct qmp_client *c[N];
    _cleanup_event_ sd_event *event = NULL;
    _cleanup_answer_ struct answer a = {0};
    int events = 0, sent = 0;
    struct rusage before = {0}, after;
    uint64_t start;

    assert_return_code(event_new(&event), 0);
    monitors_start(&q, event, c, N);
    for (int i = 0; i < N; i++) {
        qmp_client_set_event_handler(c[i], count_event, &events);
        qmp_client_invoke(c[i], "query-status", NULL, on_reply, &a);
    }
    turn_until(event, &a.count, N);
    start = now_usec();
    while (sent < COMMANDS) {
        for (int i = 0; i < BATCH; i++, sent++)
            qmp_client_invoke(c[0], sent % 2 ? "cont" : "stop", NULL, on_reply, &a);
        turn_until(event, &a.count, N + sent);
        turn_until(event, &events, N * sent);
        if (sent == COMMANDS / 100 / BATCH * BATCH)
            getrusage(RUSAGE_SELF, &before);
    }
    assert_non_null(a.result);
    assert_int_equal(events, N * COMMANDS);
    assert_true(events >= 1000000);
    getrusage(RUSAGE_SELF, &after);
    print_message("%d events in %.1f s, memory at most %ld KiB, of it %ld KiB after the first hundredth\n", events,
                  (double)(now_usec() - start) / 1e6, after.ru_maxrss, after.ru_maxrss - before.ru_maxrss);
    if (MEMORY_IS_EXACT)
        assert_in_range(after.ru_maxrss, 0, before.ru_maxrss + 256);
    for (int i = 0; i < N; i++)
        qmp_client_free(c[i]);
}

/* ---- guest agent --------------------------------------------------------------------------------------------------
 */

static void on_answer(struct qga_client *agent, json_t *result, const struct error *error, void *userdata)
{
    take_answer(userdata, result, error);
}

static void agent_start(struct process *process, const char *method, const char *path)
{
    _cleanup_free_ char *state = NULL, *pid = NULL;
    char *argv[] = {(char *)QGA,  (char *)"-m", (char *)method, (char *)"-p", (char *)path,
                    (char *)"-t", NULL,         (char *)"-f",   NULL,         NULL};

    assert_true(asprintf(&state, "%s", directory) > 0 && asprintf(&pid, "%s/qga.pid", directory) > 0);
    argv[6] = state;
    argv[8] = pid;
    process_start(process, argv, NULL, 0);
}

static int agent_connect(const char *path)
{
    uint64_t end = now_usec() + WAIT_USEC;
    int fd;

    /* The agent makes its socket when it is ready, and there is no event for that on this side. */
    while (unix_connect(path, &fd, NULL) < 0) {
        assert_true(now_usec() < end);
        poll(NULL, 0, 5);
    }
    return fd;
}

static void check_agent(sd_event *event, struct qga_client *a)
{
    _cleanup_answer_ struct answer x = {0}, y = {0}, z = {0}, v = {0};

    qga_client_call(a, "guest-ping", NULL, 0, on_answer, &x);
    qga_client_call(a, "guest-info", NULL, 0, on_answer, &y);
    qga_client_call(a, "no-such", NULL, 0, on_answer, &z);
    turn_until(event, &z.count, 1);
    if (x.error)
        fail_msg("%s", error_message(x.error));
    assert_non_null(json_object_get(y.result, "supported_commands"));
    assert_string_equal(error_qmp_class(z.error), "CommandNotFound");
    qga_client_exec(a, "/bin/sh", json_pack("[s, s]", "-c", "cat; printf 'e\\377' >&2; exit 5"), "hello\n", 0,
                    on_answer, &v);
    turn_until(event, &v.count, 1);
    if (v.error)
        fail_msg("%s", error_message(v.error));
    assert_int_equal(json_integer_value(json_object_get(v.result, "exitcode")), 5);
    assert_string_equal(json_string_value(json_object_get(v.result, "out")), "hello\n");
    assert_string_equal(json_string_value(json_object_get(v.result, "err")), "e\xef\xbf\xbd");
}

struct output {
    struct answer answer; /* first: on_answer() gets the same pointer */
    struct strbuf text[2];
    int pieces;
};

static void on_output(struct qga_client *agent, bool from_stderr, const char *data, size_t length, void *userdata)
{
    struct output *o = userdata;

    o->pieces++;
    strbuf_add(&o->text[from_stderr], data, length);
}

struct data_answer {
    int count;
    size_t length;
    char *data;
    struct error *error;
};

static void on_data(struct qga_client *agent, const char *data, size_t length, const struct error *error,
                    void *userdata)
{
    struct data_answer *d = userdata;

    d->count++;
    d->length = length;
    d->data = data ? memcpy(malloc(length + 1), data, length) : NULL;
    d->error = error_copy(error);
}

static void check_files(sd_event *event, struct qga_client *a)
{
    _cleanup_free_ char *path = NULL, *data = malloc(300001);
    _cleanup_answer_ struct answer w = {0}, x = {0};
    struct data_answer d = {0}, e = {0}, f = {0};

    assert_true(asprintf(&path, "%s/file", directory) > 0);
    for (size_t i = 0; i < 300001; i++)
        data[i] = (char)(i * 7 + i / 256);
    qga_client_write_file(a, path, data, 300001, 0, on_answer, &w);
    turn_until(event, &w.count, 1);
    assert_int_equal(json_integer_value(json_object_get(w.result, "count")), 300001);
    qga_client_read_file(a, path, 400000, 0, on_data, &d);
    turn_until(event, &d.count, 1);
    assert_int_equal(d.length, 300001);
    assert_memory_equal(d.data, data, 300001);
    free(d.data);
    qga_client_read_file(a, path, 100000, 0, on_data, &e);
    qga_client_read_file(a, "/no/such/file", 100000, 0, on_data, &f);
    qga_client_write_file(a, "/no/such/file", "x", 1, 0, on_answer, &x);
    turn_until(event, &x.count, 1);
    turn_until(event, &e.count, 1);
    turn_until(event, &f.count, 1);
    assert_int_equal(error_get_code(e.error), ERROR_LIMIT);
    assert_int_equal(error_get_code(f.error), ERROR_AGENT);
    assert_int_equal(error_get_code(x.error), ERROR_AGENT);
    error_free(e.error);
    error_free(f.error);
}

/* Output arrives while the program still waits for us: it ends only when the test has seen the first lines. */
static void check_stream(sd_event *event, struct qga_client *a)
{
    _cleanup_free_ char *script = NULL, *fifo = NULL;
    struct output o = {0}, late = {0};
    struct answer *x = &o.answer, *y = &late.answer;
    int fd;

    assert_true(asprintf(&fifo, "%s/fifo", directory) > 0);
    assert_return_code(mkfifo(fifo, 0600), errno);
    assert_true(asprintf(&script, "cat; echo bad >&2; read line <%s; echo \"$line\"; exit 7", fifo) > 0);
    qga_client_exec_stream(a, "/bin/sh", json_pack("[s, s]", "-c", script), "first\n", 0, on_output, on_answer, &o);
    turn_until(event, &o.pieces, 2);
    assert_int_equal(x->count, 0);
    assert_string_equal(strbuf_text(&o.text[0]), "first\n");
    assert_string_equal(strbuf_text(&o.text[1]), "bad\n");
    fd = open(fifo, O_WRONLY | O_CLOEXEC);
    assert_int_equal(write(fd, "more\n", 5), 5);
    close(fd);
    turn_until(event, &x->count, 1);
    if (x->error)
        fail_msg("%s", error_message(x->error));
    assert_string_equal(strbuf_text(&o.text[0]), "first\nmore\n");
    assert_int_equal(json_integer_value(json_object_get(x->result, "exitcode")), 7);
    strbuf_done(&o.text[0]);
    strbuf_done(&o.text[1]);
    /* Over the deadline: told so, and nothing is left open in the agent. */
    qga_client_exec_stream(a, "/bin/sleep", json_pack("[s]", "1"), NULL, 300000, on_output, on_answer, &late);
    turn_until(event, &y->count, 1);
    assert_int_equal(error_get_code(y->error), ERROR_TIMED_OUT);
    assert_non_null(strstr(error_message(y->error), "goes on in the guest as process"));
    answer_done(x);
    answer_done(y);
}

static void test_agent_unix(void **state)
{
    _cleanup_process_ struct process g = {0};
    _cleanup_event_ sd_event *event = NULL;
    _cleanup_free_ char *path = NULL;

    assert_return_code(event_new(&event), 0);
    assert_true(asprintf(&path, "%s/qga.sock", directory) > 0);
    agent_start(&g, "unix-listen", path);
    for (int round = 0; round < 2; round++) { /* the second connection finds what the first left */
        _cleanup_agent_ struct qga_client *a = NULL;

        assert_return_code(qga_client_new(event, agent_connect(path), &a), 0);
        check_agent(event, a);
        if (round == 0) {
            check_files(event, a);
            check_stream(event, a);
        }
    }
}

static void test_agent_serial(void **state)
{
    _cleanup_process_ struct process g = {0};
    _cleanup_event_ sd_event *event = NULL;
    _cleanup_agent_ struct qga_client *a = NULL;
    struct termios raw = {0};
    char name[128];
    int master, slave;

    assert_return_code(event_new(&event), 0);
    cfmakeraw(&raw);
    assert_return_code(openpty(&master, &slave, name, &raw, NULL), errno);
    agent_start(&g, "isa-serial", name);
    assert_return_code(qga_client_new(event, master, &a), 0);
    check_agent(event, a);
    close(slave);
}

/* The agent is stopped in the middle: the call fails in its time; once it runs again, all is well. */
static void test_agent_stopped(void **state)
{
    _cleanup_process_ struct process g = {0};
    _cleanup_event_ sd_event *event = NULL;
    _cleanup_agent_ struct qga_client *a = NULL;
    _cleanup_answer_ struct answer x = {0}, y = {0}, z = {0};
    _cleanup_free_ char *path = NULL;

    assert_return_code(event_new(&event), 0);
    assert_true(asprintf(&path, "%s/qga2.sock", directory) > 0);
    agent_start(&g, "unix-listen", path);
    assert_return_code(qga_client_new(event, agent_connect(path), &a), 0);
    qga_client_call(a, "guest-ping", NULL, 0, on_answer, &x);
    turn_until(event, &x.count, 1);
    kill(g.pid, SIGSTOP);
    qga_client_call(a, "guest-get-osinfo", NULL, 50000, on_answer, &y);
    turn_until(event, &y.count, 1);
    assert_int_equal(error_get_code(y.error), ERROR_TIMED_OUT);
    kill(g.pid, SIGCONT);
    qga_client_call(a, "guest-get-time", NULL, 0, on_answer, &z);
    turn_until(event, &z.count, 1);
    assert_true(json_is_integer(z.result));
}

static int make_directory(void **state)
{
    signal(SIGPIPE, SIG_IGN); /* the pty is no socket */
    return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state)
{
    return remove_tree(directory);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status_and_error),
        cmocka_unit_test(test_schema_bytewise),
        cmocka_unit_test(test_pipeline),
        cmocka_unit_test(test_uint64),
        cmocka_unit_test(test_fd_passing),
        cmocka_unit_test(test_out_of_band),
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_many_sessions),
        cmocka_unit_test(test_event_flood),
        cmocka_unit_test(test_until_event),
        cmocka_unit_test(test_deadline_and_cancel),
        cmocka_unit_test(test_event_filter_and_limit),
        cmocka_unit_test(test_agent_unix),
        cmocka_unit_test(test_agent_serial),
        cmocka_unit_test(test_agent_stopped),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    else
        cmocka_set_skip_filter("test_event_flood"); /* a minute: when named */
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
