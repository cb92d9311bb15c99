/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/client/lease.h"

#include "base/event.h"
#include "base/limits.h"
#include "base/log.h"
#include "k8s/client/ktime.h"

static const struct kube_resource leases = {"coordination.k8s.io", "v1", "leases", "Lease", false};

struct kube_lease {
    struct kube_client *client;
    char *namespace_, *name, *identity;
    struct kube_lease_options options;
    struct kube_call *call;
    sd_event_source *retry, *deadline;
    json_t *known;         /* the Lease as it was last read or written */
    char *seen;            /* its resourceVersion when it last changed… */
    uint64_t seen_usec;    /* …and when that was seen, by our clock */
    uint64_t renewed_usec; /* when the request of our last successful write was sent */
    uint64_t sent_usec;
    bool held, releasing;
    void (*released)(void *userdata);
    void *released_userdata;
};

static json_t *spec_of(const struct kube_lease *l)
{
    return json_object_get(l->known, "spec");
}

const char *kube_lease_holder(const struct kube_lease *l)
{
    const char *holder = json_string_value(json_object_get(spec_of(l), "holderIdentity"));

    return holder ? holder : "";
}

bool kube_lease_is_held(const struct kube_lease *l)
{
    return l->held;
}

static void set_known(struct kube_lease *l, json_t *lease)
{
    const char *version = json_string_value(json_object_get(json_object_get(lease, "metadata"), "resourceVersion"));

    if (!l->seen || !streq_ptr(l->seen, version)) {
        free(l->seen);
        l->seen = strdup(version ? version : "");
        l->seen_usec = now_usec();
    }
    json_decref(l->known);
    l->known = json_incref(lease);
}

static bool is_free(const struct kube_lease *l)
{
    json_t *duration = json_object_get(spec_of(l), "leaseDurationSeconds");
    uint64_t seconds = json_is_integer(duration) ? (uint64_t)json_integer_value(duration) : KUBE_LEASE_DURATION_SECONDS;

    return !*kube_lease_holder(l) || streq(kube_lease_holder(l), l->identity) ||
           now_usec() >= l->seen_usec + seconds * USEC_PER_SEC;
}

static void lose(struct kube_lease *l)
{
    if (!l->held)
        return;
    l->held = false;
    event_disarm_timer(l->deadline);
    l->options.stopped(l->options.userdata);
}

static int on_deadline(sd_event_source *source, uint64_t usec, void *userdata)
{
    lose(userdata);
    return 0;
}

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata);

static void again(struct kube_lease *l)
{
    event_arm_timer(kube_client_event(l->client), &l->retry, kube_jitter(KUBE_LEASE_RETRY_USEC * 4 / 3), on_retry, l);
}

static void finish_release(struct kube_lease *l)
{
    if (l->released)
        l->released(l->released_userdata);
}

static void on_written(const struct kube_reply *reply, void *userdata)
{
    struct kube_lease *l = userdata;
    uint64_t spent;

    l->call = NULL;
    if (reply->error) {
        log_debug("lease %s/%s: %s", l->namespace_, l->name, error_message(reply->error));
        json_decref(l->known); /* somebody else was faster, or we do not know: read it again */
        l->known = NULL;
        again(l);
        return;
    }
    set_known(l, reply->body);
    l->renewed_usec = l->sent_usec;
    spent = now_usec() - l->renewed_usec;
    if (spent >= KUBE_LEASE_RENEW_USEC) { /* the answer took so long that others may count it as expired */
        lose(l);
        again(l);
        return;
    }
    event_arm_timer(kube_client_event(l->client), &l->deadline, KUBE_LEASE_RENEW_USEC - spent, on_deadline, l);
    again(l);
    if (!l->held) {
        l->held = true;
        l->options.started(l->options.userdata);
    }
}

static void write_lease(struct kube_lease *l)
{
    struct kube_request q = {.resource = &leases, .namespace_ = l->namespace_, .deadline_usec = KUBE_LEASE_RENEW_USEC};
    json_t *lease = l->known ? json_deep_copy(l->known)
                             : json_pack("{s:s, s:s, s:{s:s}, s:{}}", "apiVersion", "coordination.k8s.io/v1", "kind",
                                         "Lease", "metadata", "name", l->name, "spec");
    json_t *spec = json_object_get(lease, "spec");
    json_t *transitions = json_object_get(spec, "leaseTransitions");
    char now[KUBE_TIME_MICRO_SIZE];
    bool ours = l->known && streq(kube_lease_holder(l), l->identity);

    if (!json_is_object(spec)) {
        spec = json_object();
        json_object_set_new(lease, "spec", spec);
    }
    kube_time_micro(now);
    json_object_set_new(spec, "holderIdentity", json_string(l->identity));
    json_object_set_new(spec, "leaseDurationSeconds", json_integer(KUBE_LEASE_DURATION_SECONDS));
    json_object_set_new(spec, "renewTime", json_string(now));
    if (!ours) {
        json_object_set_new(spec, "acquireTime", json_string(now));
        json_object_set_new(spec, "leaseTransitions", json_integer(l->known ? json_integer_value(transitions) + 1 : 0));
    }
    q.verb = l->known ? KUBE_UPDATE : KUBE_CREATE;
    q.name = l->known ? l->name : NULL;
    q.body = lease;
    l->sent_usec = now_usec();
    if (kube_call_start(l->client, &q, on_written, l, &l->call, NULL) < 0)
        again(l);
    json_decref(lease);
}

static void on_read(const struct kube_reply *reply, void *userdata)
{
    struct kube_lease *l = userdata;

    l->call = NULL;
    if (reply->error && reply->status != 404) {
        log_debug("lease %s/%s: %s", l->namespace_, l->name, error_message(reply->error));
        again(l);
        return;
    }
    if (reply->error) {
        json_decref(l->known);
        l->known = NULL;
    } else
        set_known(l, reply->body);
    if (l->known && !is_free(l)) {
        lose(l);
        again(l);
    } else
        write_lease(l);
}

static void read_lease(struct kube_lease *l)
{
    struct kube_request q = {.verb = KUBE_GET,
                             .resource = &leases,
                             .namespace_ = l->namespace_,
                             .name = l->name,
                             .deadline_usec = KUBE_LEASE_RENEW_USEC};

    if (kube_call_start(l->client, &q, on_read, l, &l->call, NULL) < 0)
        again(l);
}

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct kube_lease *l = userdata;

    if (l->call || l->releasing)
        return 0;
    if (l->held && l->known)
        write_lease(l); /* one call for a renewal */
    else
        read_lease(l);
    return 0;
}

static void on_released(const struct kube_reply *reply, void *userdata)
{
    struct kube_lease *l = userdata;

    l->call = NULL;
    finish_release(l);
}

void kube_lease_release(struct kube_lease *l, void (*done)(void *userdata), void *userdata)
{
    struct kube_request q = {.verb = KUBE_UPDATE,
                             .resource = &leases,
                             .namespace_ = l->namespace_,
                             .name = l->name,
                             .deadline_usec = KUBE_LEASE_RETRY_USEC};
    json_t *spec = spec_of(l);

    l->releasing = true;
    l->released = done;
    l->released_userdata = userdata;
    kube_call_cancel(TAKE_PTR(l->call));
    if (!l->held || !l->known) {
        finish_release(l);
        return;
    }
    l->held = false;
    json_object_set_new(spec, "holderIdentity", json_string(""));
    json_object_set_new(spec, "leaseDurationSeconds", json_integer(1));
    q.body = l->known;
    if (kube_call_start(l->client, &q, on_released, l, &l->call, NULL) < 0)
        finish_release(l);
}

void kube_lease_free(struct kube_lease *l)
{
    if (!l)
        return;
    kube_call_cancel(l->call);
    sd_event_source_disable_unref(l->retry);
    sd_event_source_disable_unref(l->deadline);
    json_decref(l->known);
    free(l->seen);
    free(l->namespace_);
    free(l->name);
    free(l->identity);
    free(l);
}

int kube_lease_new(struct kube_client *client, const struct kube_lease_options *options, struct kube_lease **ret,
                   struct error **ret_error)
{
    _cleanup_(kube_lease_freep) struct kube_lease *l = calloc(1, sizeof(*l));

    if (!l)
        return error_oom(ret_error);
    l->client = client;
    l->options = *options;
    l->namespace_ = strdup(options->namespace_);
    l->name = strdup(options->name);
    l->identity = strdup(options->identity);
    if (!l->namespace_ || !l->name || !l->identity)
        return error_oom(ret_error);
    read_lease(l);
    *ret = TAKE_PTR(l);
    return 0;
}
