/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A watch's body is one JSON object a line, in chunks that end anywhere (Kubernetes, "API concepts", watch). This cuts
 * it into lines.
 */
#pragma once

#include "base/strbuf.h"

struct kube_lines {
    struct strbuf partial; /* the line whose end has not come yet */
};

void kube_lines_done(struct kube_lines *lines);
/*
 * Calls `line` for each line that `data` completes, NUL-terminated and without its end; empty lines are left out. The
 * handler stops the rest by a return value other than 0, which is returned. -EMSGSIZE: a line is longer than
 * LIMIT_KUBE_EVENT_BYTES; -ENOMEM. What came before is delivered in every case.
 */
int kube_lines_feed(struct kube_lines *lines, const void *data, size_t length,
                    int (*line)(char *text, size_t length, void *userdata), void *userdata);
