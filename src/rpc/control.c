/* SPDX-License-Identifier: Apache-2.0 */
/* <vmlet/control.h>, for those who use the client without the rest of the project. */
#include <vmlet/control.h>

#include <stdio.h>

#include "base/limits.h"
#include "rpc/client.h"

struct vmlet_control {
    struct rpc_client *client;
};

static int tell(int r, struct error *from, struct vmlet_control_error *to)
{
    if (to) {
        const char *remedy = error_remedy(from);

        *to = (struct vmlet_control_error){0};
        snprintf(to->code, sizeof(to->code), "%s", error_code_name(error_get_code(from)));
        snprintf(to->message, sizeof(to->message), "%s", error_message(from));
        snprintf(to->remedy, sizeof(to->remedy), "%s", remedy ? remedy : "");
    }
    error_free(from);
    return r;
}

static uint64_t timeout_usec(unsigned msec)
{
    return msec ? msec * USEC_PER_MSEC : UINT64_MAX;
}

int vmlet_control_connect(const char *path, struct vmlet_control **ret, struct vmlet_control_error *error)
{
    struct vmlet_control *control = calloc(1, sizeof(*control));
    struct error *e = NULL;
    int r = control ? rpc_client_connect(path, &control->client, &e) : error_oom(&e);

    if (r < 0) {
        free(control);
        return tell(r, e, error);
    }
    *ret = control;
    return 0;
}

void vmlet_control_free(struct vmlet_control *control)
{
    if (!control)
        return;
    rpc_client_free(control->client);
    free(control);
}

int vmlet_control_call(struct vmlet_control *control, const char *method, json_t *params, unsigned timeout_msec,
                       json_t **ret_result, struct vmlet_control_error *error)
{
    struct error *e = NULL;
    int r = rpc_client_call(control->client, method, params, timeout_usec(timeout_msec), ret_result, &e);

    return r < 0 ? tell(r, e, error) : 0;
}

int vmlet_control_next(struct vmlet_control *control, unsigned timeout_msec, json_t **ret_event,
                       struct vmlet_control_error *error)
{
    struct error *e = NULL;
    char *method = NULL;
    int r = rpc_client_next(control->client, timeout_usec(timeout_msec), &method, ret_event, &e);

    free(method);
    return r < 0 ? tell(r, e, error) : 0;
}
