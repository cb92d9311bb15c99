/* SPDX-License-Identifier: Apache-2.0 */
#include "domain/sequence.h"

#include "base/arena.h"
#include "base/log.h"
#include "domain/domain-internal.h"

#define STEPS_MAX 64U

struct sequence {
    struct domain *domain;
    struct arena *arena;
    struct sequence_step steps[STEPS_MAX];
    size_t count, next; /* next: to be sent, or whose answer is awaited */
    bool failed;        /* while it was put together */
    struct error *error;
    sequence_done_fn done;
    void *userdata;
};

struct sequence *sequence_new(struct domain *domain)
{
    struct sequence *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->domain = domain;
    s->arena = arena_new();
    if (!s->arena) {
        free(s);
        return NULL;
    }
    return s;
}

void sequence_free(struct sequence *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->count; i++) {
        json_decref(s->steps[i].arguments);
        json_decref(s->steps[i].undo_arguments);
    }
    error_free(s->error);
    arena_free(s->arena);
    free(s);
}

static const char *copy(struct sequence *s, const char *text)
{
    char *to = text ? arena_strdup(s->arena, text) : NULL;

    s->failed = s->failed || (text && !to);
    return to;
}

void sequence_add(struct sequence *s, const struct sequence_step *from)
{
    struct sequence_step step = *from;

    if (s->count == STEPS_MAX) {
        s->failed = true;
        json_decref(step.arguments);
        json_decref(step.undo_arguments);
        return;
    }
    step.command = copy(s, from->command);
    step.until_event = copy(s, from->until_event);
    step.event_key = copy(s, from->event_key);
    step.event_value = copy(s, from->event_value);
    step.event_key2 = copy(s, from->event_key2);
    step.event_value2 = copy(s, from->event_value2);
    step.fail_event = copy(s, from->fail_event);
    step.undo = copy(s, from->undo);
    s->steps[s->count++] = step;
}

static int send_next(struct sequence *s);

static void finish(struct sequence *s, json_t *result)
{
    s->done(s->domain, s->error ? NULL : result, s->error, s->userdata);
    sequence_free(s);
}

static bool is_connected(const struct sequence *s)
{
    return s->domain->qmp && s->domain->pid > 0 && qmp_client_get_state(s->domain->qmp) == QMP_RUNNING;
}

static void undo_next(struct sequence *s);

static void on_undone(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct sequence *s = userdata;

    if (error)
        log_warning_of(error, "%s, which is to take back an action that failed half way", s->steps[s->next].undo);
    undo_next(s);
}

/* `next` is the step after those that are still to be undone. */
static void undo_next(struct sequence *s)
{
    while (s->next > 0 && is_connected(s)) {
        struct sequence_step *step = &s->steps[--s->next];

        if (step->undo &&
            qmp_client_invoke(s->domain->qmp, step->undo, TAKE_PTR(step->undo_arguments), on_undone, s) >= 0)
            return;
    }
    finish(s, NULL);
}

static void on_reply(struct qmp_client *client, json_t *result, const struct error *error, void *userdata)
{
    struct sequence *s = userdata;
    struct sequence_step *step = &s->steps[s->next];
    bool is_over = error && (error_get_code(error) == ERROR_CANCELLED || error_get_code(error) == ERROR_CONNECTION);

    if (error && step->may_fail && !is_over)
        error = NULL;
    if (error) {
        s->error = error_copy(error);
        if (is_over)
            finish(s, NULL); /* there is nobody left to take anything back */
        else
            undo_next(s);
        return;
    }
    s->next++;
    if (step->check && step->check(s->domain, s->userdata, &s->error) < 0) {
        undo_next(s);
        return;
    }
    if (s->next == s->count) {
        finish(s, result);
        return;
    }
    int r = send_next(s);
    if (r < 0) {
        error_set(&s->error, ERROR_CONNECTION, r, "QEMU's monitor is gone");
        finish(s, NULL);
    }
}

static int send_next(struct sequence *s)
{
    struct sequence_step *step = &s->steps[s->next];
    const struct qmp_call call = {
        .command = step->command,
        .arguments = TAKE_PTR(step->arguments),
        .timeout_usec = step->timeout_usec,
        .until_event = step->until_event,
        .event_key = step->event_key,
        .event_value = step->event_value,
        .event_key2 = step->event_key2,
        .event_value2 = step->event_value2,
        .fail_event = step->fail_event,
        .callback = on_reply,
        .userdata = s,
    };

    return qmp_client_call(s->domain->qmp, &call, NULL);
}

int sequence_run(struct sequence *s, sequence_done_fn done, void *userdata)
{
    int r = s->failed || s->count == 0 ? -ENOMEM : !s->domain->qmp || s->domain->pid <= 0 ? -ENOTCONN : 0;

    s->done = done;
    s->userdata = userdata;
    if (r == 0)
        r = send_next(s);
    if (r < 0)
        sequence_free(s);
    return MIN(r, 0);
}
