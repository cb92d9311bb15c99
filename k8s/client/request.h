/* SPDX-License-Identifier: Apache-2.0 */
/* A request as HTTP has it. Pure. */
#pragma once

#include "base/strbuf.h"
#include "k8s/client/client.h"

struct kube_http {
    const char *method;
    const char *content_type; /* NULL without a body */
    char *path;               /* with its query, from the '/' on */
    char *body;
    size_t body_length;
};

/* -EINVAL for names that would change the path, or a request without what its verb needs. */
int kube_http_make(const struct kube_request *request, struct kube_http *ret, struct error **ret_error);
void kube_http_done(struct kube_http *http);

/* The error of an answer that is none of success. `body` is the Status object, or NULL. */
void kube_status_error(const char *method, const char *path, long status, const json_t *body, struct error **ret_error);
