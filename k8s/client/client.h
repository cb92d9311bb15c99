/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls of the Kubernetes API (REST over HTTPS, HTTP/2 where the server has it), asynchronous on one event loop.
 *
 * A call is started, and its handler is called once, later, with the reply or the error; a cancelled call's handler is
 * not called. Handlers run from the loop, never from inside of the function that starts the call, and may start and
 * cancel calls; they must not free the client.
 *
 * What the server refuses for now (429, and 5xx with Retry-After) is sent again after the time it asks for, at most
 * LIMIT_KUBE_RETRIES times: nothing has happened to the object then. All else is for the caller, who knows whether the
 * call still makes sense.
 */
#pragma once

#include <jansson.h>
#include <systemd/sd-event.h>

#include "base/error.h"
#include "k8s/client/config.h"

struct kube_client;
struct kube_call;

struct kube_resource {
    const char *group; /* "" for the core group */
    const char *version;
    const char *plural; /* "pods" */
    const char *kind;   /* "Pod" */
    bool cluster_scoped;
};

enum kube_verb {
    KUBE_GET,
    KUBE_LIST,
    KUBE_WATCH, /* by kube_watch_start() */
    KUBE_CREATE,
    KUBE_UPDATE,
    KUBE_DELETE,
    KUBE_PATCH_JSON,  /* RFC 6902: a list of operations, "test" among them */
    KUBE_PATCH_MERGE, /* RFC 7386 */
    KUBE_APPLY,       /* server-side apply, by `manager` */
};

enum kube_propagation {
    KUBE_PROPAGATION_DEFAULT,
    KUBE_PROPAGATION_BACKGROUND,
    KUBE_PROPAGATION_FOREGROUND,
    KUBE_PROPAGATION_ORPHAN,
};

/* All is copied; what is NULL or 0 is not sent. */
struct kube_request {
    enum kube_verb verb;
    const struct kube_resource *resource;
    const char *namespace_; /* of a list or watch: NULL is all of them */
    const char *name;
    const char *subresource; /* "status", "scale", "eviction" */
    json_t *body;            /* borrowed */
    const char *label_selector, *field_selector;
    const char *resource_version; /* of a list: as new as this; of a deletion: only this one */
    const char *continue_;        /* of a list */
    unsigned limit;               /* of a list: objects in a page */
    /* deletion */
    const char *uid; /* only the object with this uid */
    enum kube_propagation propagation;
    int64_t grace_seconds;  /* 0: as the object says; KUBE_GRACE_NOW: none */
    const char *manager;    /* of an apply, a patch: who owns the fields */
    bool force;             /* of an apply: fields are taken from other managers */
    bool dry_run;           /* all checks, nothing stored */
    bool strict;            /* unknown and duplicate fields are refused (fieldValidation=Strict) */
    uint64_t deadline_usec; /* 0: TIMEOUT_KUBE_CALL_USEC */
};
#define KUBE_GRACE_NOW (-1)

struct kube_reply {
    json_t *body;              /* borrowed by the handler; NULL when there is none */
    long status;               /* HTTP's, 0 when there was no answer */
    const char *reason;        /* the Status object's: "NotFound", "Conflict", "AlreadyExists"…; "" if none */
    const struct error *error; /* NULL: success */
};

typedef void (*kube_reply_handler)(const struct kube_reply *reply, void *userdata);

/* `config` is the client's from now on, also on failure. `agent` stands in the User-Agent: the program's name. */
int kube_client_new(sd_event *event, struct kube_config *config, const char *agent, struct kube_client **ret,
                    struct error **ret_error);
/* Cancels what is under way. */
void kube_client_free(struct kube_client *client);
DEFINE_CLEANUP(struct kube_client *, kube_client_free)
sd_event *kube_client_event(const struct kube_client *client);
const struct kube_config *kube_client_config(const struct kube_client *client);
/* Requests sent since the start, by verb: for metrics. */
uint64_t kube_client_requests(const struct kube_client *client, enum kube_verb verb);

/*
 * Sends it. *ret (may be NULL) is for kube_call_cancel() and ends with the handler's call. -EINVAL for a request that
 * makes no sense (a name that would change the path), -ENOMEM.
 */
int kube_call_start(struct kube_client *client, const struct kube_request *request, kube_reply_handler handler,
                    void *userdata, struct kube_call **ret, struct error **ret_error);

/*
 * A watch, or any reply that is read line by line. `line` is called for each line as it comes (NUL-terminated, it may
 * be written to) and ends the call by a value other than 0; `end` once, as for other calls: success means that the
 * server ended the watch. Options as of a list; bookmarks are asked for.
 */
int kube_watch_start(struct kube_client *client, const struct kube_request *request,
                     int (*line)(char *text, size_t length, void *userdata), kube_reply_handler end, void *userdata,
                     struct kube_call **ret, struct error **ret_error);
/* Its handlers are not called any more. NULL is allowed. */
void kube_call_cancel(struct kube_call *call);
/* 410, or an error event of a watch that says so: the resourceVersion is too old. */
bool kube_reply_is_gone(const struct kube_reply *reply);

/* A duration between usec/2 and usec, drawn at random: many clients that lost one server must not come back at once. */
uint64_t kube_jitter(uint64_t usec);
/* first * 2^n, at most `last`. */
uint64_t kube_backoff(unsigned n, uint64_t first_usec, uint64_t last_usec);
