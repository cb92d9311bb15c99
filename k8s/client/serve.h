/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The little HTTP server of a Kubernetes component: GET /healthz, /readyz, /metrics… for kubelet and Prometheus.
 * HTTP/1.1, one request a connection, at most LIMIT_SERVE_CLIENTS at once; a client that is slow is dropped.
 */
#pragma once

#include <systemd/sd-event.h>

#include "base/error.h"
#include "base/strbuf.h"

struct kube_serve;

struct kube_page {
    const char *path; /* "/metrics"; NULL ends the table */
    /* Writes the body, text/plain; returns the HTTP status (200, 503…). */
    int (*write)(struct strbuf *body, void *userdata);
};

/* `address` is "HOST:PORT", "[HOST]:PORT" or ":PORT" (all addresses); port 0: any that is free. `pages` must live on.
 */
int kube_serve_new(sd_event *event, const char *address, const struct kube_page *pages, void *userdata,
                   struct kube_serve **ret, struct error **ret_error);
void kube_serve_free(struct kube_serve *serve);
DEFINE_CLEANUP(struct kube_serve *, kube_serve_free)
unsigned kube_serve_port(const struct kube_serve *serve);
