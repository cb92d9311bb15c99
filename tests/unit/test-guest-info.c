/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When the guest agent is asked what: all at once, together afterwards however late each answer came, nothing while the
 * guest is paused, and the state of a freeze more often while it lasts. A real client with a stand-in for the agent.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/limits.h"
#include "domain/guest-info.h"

#define COMMANDS 9U
#define PATIENCE (60 * USEC_PER_SEC)

struct fixture {
    sd_event *event;
    sd_event_source *source;
    int guest;
    struct qga_client *agent;
    struct guest_info *info;
    char line[4096];
    size_t length;
    char *asked[64]; /* in their order */
    uint64_t at[64];
    size_t n_asked;
    const char *status; /* of the freeze */
    unsigned changes;
};

static void answer(struct fixture *f, json_t *request)
{
    const char *command = json_string_value(json_object_get(request, "execute"));
    json_t *result = json_object(), *reply;
    char *text;

    assert_non_null(command);
    if (streq(command, "guest-sync-delimited")) {
        json_decref(result);
        result = json_incref(json_object_get(json_object_get(request, "arguments"), "id"));
        assert_int_equal(send(f->guest, "\xff", 1, 0), 1);
    } else {
        assert_true(f->n_asked < ELEMENTSOF(f->asked));
        f->at[f->n_asked] = now_usec();
        f->asked[f->n_asked++] = strdup(command);
    }
    if (streq(command, "guest-fsfreeze-status")) {
        json_decref(result);
        result = json_string(f->status);
    }
    reply = json_pack("{s:o, s:O*}", "return", result, "id", json_object_get(request, "id"));
    text = json_dumps(reply, JSON_COMPACT);
    assert_int_equal(send(f->guest, text, strlen(text), 0), strlen(text));
    assert_int_equal(send(f->guest, "\n", 1, 0), 1);
    free(text);
    json_decref(reply);
}

static int on_request(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    struct fixture *f = userdata;
    ssize_t n = recv(fd, f->line + f->length, sizeof(f->line) - f->length, 0);
    char *end;

    assert_true(n > 0);
    f->length += (size_t)n;
    while ((end = memchr(f->line, '\n', f->length))) {
        size_t used = (size_t)(end - f->line) + 1, mark = f->line[0] == '\xff';
        json_t *request = json_loadb(f->line + mark, used - mark, 0, NULL);

        assert_non_null(request);
        answer(f, request);
        json_decref(request);
        f->length -= used;
        memmove(f->line, f->line + used, f->length);
    }
    return 0;
}

static void on_change(struct guest_info *info, const char *command, void *userdata)
{
    ((struct fixture *)userdata)->changes++;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    int fds[2];

    assert_non_null(f);
    f->status = "thawed";
    assert_true(event_new(&f->event) >= 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    f->guest = fds[1];
    assert_int_equal(qga_client_new(f->event, fds[0], &f->agent), 0);
    assert_true(sd_event_add_io(f->event, &f->source, f->guest, EPOLLIN, on_request, f) >= 0);
    f->info = guest_info_new(f->event, on_change, f);
    assert_non_null(f->info);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    guest_info_stop(f->info);
    qga_client_free(f->agent);
    guest_info_free(f->info);
    sd_event_source_disable_unref(f->source);
    close(f->guest);
    for (size_t i = 0; i < f->n_asked; i++)
        free(f->asked[i]);
    sd_event_unref(f->event);
    free(f);
    return 0;
}

/* Until so many commands have been asked, or the time is over; the count. */
static size_t run(struct fixture *f, size_t count, uint64_t usec)
{
    uint64_t deadline = now_usec() + usec, now;

    while (f->n_asked < count && (now = now_usec()) < deadline)
        assert_true(sd_event_run(f->event, deadline - now) >= 0);
    while (sd_event_run(f->event, 0) > 0) /* what is under way */
        ;
    return f->n_asked;
}

/* Until so many answers were new. How many questions that takes is chance: a machine that stalls moves the state of a
 * freeze out of step with the others. */
static void run_to_change(struct fixture *f, unsigned changes)
{
    uint64_t deadline = now_usec() + PATIENCE, now;

    while (f->changes < changes && (now = now_usec()) < deadline)
        assert_true(sd_event_run(f->event, deadline - now) >= 0);
    assert_int_equal(f->changes, changes);
}

static bool is_round(struct fixture *f, size_t from)
{
    for (size_t i = from; i < from + COMMANDS; i++)
        for (size_t k = from; k < i; k++)
            if (streq(f->asked[i], f->asked[k]))
                return false;
    return true;
}

static void test_intervals(void **state)
{
    struct fixture *f = *state;
    uint64_t frozen;

    guest_info_start(f->info, f->agent);
    assert_int_equal(run(f, COMMANDS, PATIENCE), COMMANDS);
    assert_true(is_round(f, 0));
    assert_int_equal(f->changes, COMMANDS);

    guest_info_hold(f->info, true); /* paused */
    assert_int_equal(run(f, SIZE_MAX, 11 * USEC_PER_SEC), COMMANDS);
    guest_info_hold(f->info, false);
    assert_int_equal(run(f, 2 * COMMANDS, PATIENCE), 2 * COMMANDS);
    assert_true(is_round(f, COMMANDS));
    assert_int_equal(f->changes, COMMANDS); /* the same answers */

    f->status = "frozen";
    frozen = now_usec();
    guest_info_set(f->info, "guest-fsfreeze-status", json_string("frozen"));
    assert_int_equal(f->changes, COMMANDS + 1);
    run(f, 2 * COMMANDS + 1, PATIENCE);
    if (f->at[2 * COMMANDS] - frozen < 8 * USEC_PER_SEC)                      /* no stall: before all others are due */
        assert_string_equal(f->asked[2 * COMMANDS], "guest-fsfreeze-status"); /* and nothing else */
    f->status = "thawed";                                                     /* by itself */
    run_to_change(f, COMMANDS + 2);
}

/* KubeVirt's flags; nothing is asked more often than each 5 s, whatever they say. */
static void test_other_intervals(void **state)
{
    const struct guest_info_intervals i = {.system = USEC_PER_SEC, .users = 5 * USEC_PER_SEC};
    struct fixture *f = *state;
    uint64_t began = now_usec();

    guest_info_set_intervals(f->info, &i);
    guest_info_start(f->info, f->agent);
    assert_int_equal(run(f, COMMANDS, PATIENCE), COMMANDS);
    assert_int_equal(run(f, COMMANDS + 6, PATIENCE), COMMANDS + 6);
    assert_true(now_usec() - began >= 5 * USEC_PER_SEC);
    for (size_t k = COMMANDS; k < COMMANDS + 6; k++)
        assert_false(streq(f->asked[k], "guest-info") || streq(f->asked[k], "guest-get-fsinfo") ||
                     streq(f->asked[k], "guest-fsfreeze-status"));
}

static void test_stopped(void **state)
{
    struct fixture *f = *state;

    guest_info_start(f->info, f->agent);
    guest_info_stop(f->info);
    qga_client_reset(f->agent);
    run(f, SIZE_MAX, USEC_PER_SEC);
    assert_int_equal(f->changes, 0); /* an answer to a question of before does not count */
    assert_null(guest_info_get(f->info, "guest-info"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_intervals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_intervals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stopped, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
