/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waits until a VM is in a state, from now on or already: vm-wait SOCKET Running [SECONDS]. Exit code 0 when it is,
 * 124 when the time is over. Uses nothing of the project but <vmlet/control.h>.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vmlet/control.h>

static int fail(const char *what, const struct vmlet_control_error *error)
{
    fprintf(stderr, "%s: %s (%s)%s%s\n", what, error->message, error->code, *error->remedy ? "; " : "", error->remedy);
    return 1;
}

static int is_in(struct vmlet_control *vm, const char *state, struct vmlet_control_error *error)
{
    json_t *answer = NULL, *status;
    const char *now;
    int r = vmlet_control_call(vm, "GetDomain", NULL, 5000, &answer, error);

    if (r < 0)
        return r;
    status = json_object_get(json_object_get(json_object_get(answer, "domain"), "Status"), "Status");
    now = json_string_value(status);
    r = strcmp(now ? now : "NoState", state) == 0;
    json_decref(answer);
    return r;
}

int main(int argc, char **argv)
{
    struct vmlet_control_error error = {0};
    struct vmlet_control *vm = NULL;
    unsigned timeout = argc > 3 ? (unsigned)atoi(argv[3]) * 1000 : 0;
    int r;

    if (argc < 3) {
        fprintf(stderr, "usage: %s SOCKET STATE [SECONDS]\n", argv[0]);
        return 2;
    }
    r = vmlet_control_connect(argv[1], &vm, &error);
    if (r < 0)
        return fail(argv[1], &error);
    /* first the events, then the question: what changes in between is not missed */
    r = vmlet_control_call(vm, "Subscribe", NULL, 5000, NULL, &error);
    while (r >= 0 && (r = is_in(vm, argv[2], &error)) == 0) {
        json_t *event = NULL;

        r = vmlet_control_next(vm, timeout, &event, &error);
        json_decref(event);
    }
    vmlet_control_free(vm);
    if (r == -ETIMEDOUT)
        return 124;
    return r < 0 ? fail(argv[2], &error) : 0;
}
