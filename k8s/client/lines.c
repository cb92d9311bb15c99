/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/client/lines.h"

#include "base/limits.h"

void kube_lines_done(struct kube_lines *lines)
{
    strbuf_done(&lines->partial);
}

/* The line is complete in `partial`. */
static int deliver(struct kube_lines *lines, int (*line)(char *text, size_t length, void *userdata), void *userdata)
{
    struct strbuf whole = lines->partial;
    size_t length = whole.length;
    int r = 0;

    if (whole.failed)
        return -ENOMEM;
    lines->partial = (struct strbuf){0}; /* the handler may end the watch */
    if (length > 0 && whole.data[length - 1] == '\r')
        whole.data[--length] = '\0';
    if (length > 0)
        r = line(whole.data, length, userdata);
    strbuf_done(&whole);
    return r;
}

int kube_lines_feed(struct kube_lines *lines, const void *data, size_t length,
                    int (*line)(char *text, size_t length, void *userdata), void *userdata)
{
    const char *p = data;
    int r;

    while (length > 0) {
        const char *end = memchr(p, '\n', length);
        size_t n = end ? (size_t)(end - p) : length;

        if (n > LIMIT_KUBE_EVENT_BYTES - MIN(lines->partial.length, LIMIT_KUBE_EVENT_BYTES))
            return -EMSGSIZE;
        strbuf_add(&lines->partial, p, n);
        if (lines->partial.failed)
            return -ENOMEM;
        if (!end)
            return 0;
        p += n + 1;
        length -= n + 1;
        r = deliver(lines, line, userdata);
        if (r != 0)
            return r;
    }
    return 0;
}
