/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client of a VM's command server: the socket of virt-launcher in a pod, or of `vmlet run`. Methods, parameters and
 * results are in docs/protocol.md, and the method Describe lists those of the server that answers.
 *
 * Calls block until the answer is there or the time is over. A client belongs to one thread at a time. Functions return
 * 0 or a negative errno, and say more in *error if it is not NULL.
 */
#pragma once

#include <jansson.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VMLET_CONTROL_SOCKET "/var/run/kubevirt/sockets/launcher-sock"

struct vmlet_control;

struct vmlet_control_error {
    char code[32];     /* stable: "WrongState", "NotAllowed", "TimedOut", "ConnectionLost"… */
    char message[512]; /* what was tried, and why it failed */
    char remedy[256];  /* what to do; empty when there is nothing to be said */
};

/* -ENOENT, -ECONNREFUSED: nobody serves there. *ret is the caller's. */
int vmlet_control_connect(const char *path, struct vmlet_control **ret, struct vmlet_control_error *error);
/* NULL is allowed. */
void vmlet_control_free(struct vmlet_control *control);

/* One call. params: an object, or NULL; consumed, also on failure. timeout_msec 0: without end. *ret_result (optional)
 * is a new reference. Events that come meanwhile are kept for vmlet_control_next(). */
int vmlet_control_call(struct vmlet_control *control, const char *method, json_t *params, unsigned timeout_msec,
                       json_t **ret_result, struct vmlet_control_error *error);
/* The next event, after a call of Subscribe; a new reference. -ETIMEDOUT: none came. timeout_msec 0: without end. */
int vmlet_control_next(struct vmlet_control *control, unsigned timeout_msec, json_t **ret_event,
                       struct vmlet_control_error *error);

#ifdef __cplusplus
}
#endif
