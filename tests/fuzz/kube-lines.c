/* SPDX-License-Identifier: Apache-2.0 */
/* A watch's body in chunks whose sizes the input names: the same lines must come out as from the body in one piece. */
#include <stdint.h>
#include <stdlib.h>

#include "base/strbuf.h"
#include "k8s/client/lines.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int collect(char *text, size_t length, void *userdata)
{
    struct strbuf *b = userdata;

    strbuf_add(b, text, length + 1);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_(strbuf_done) struct strbuf whole = {0}, cut = {0};
    _cleanup_(kube_lines_done) struct kube_lines one = {0}, many = {0};
    size_t step = size > 0 ? data[0] % 16 + 1U : 1;

    kube_lines_feed(&one, data, size, collect, &whole);
    for (size_t at = 0; at < size; at += step)
        kube_lines_feed(&many, data + at, MIN(step, size - at), collect, &cut);
    if (whole.length != cut.length || (whole.length > 0 && memcmp(whole.data, cut.data, whole.length) != 0))
        abort();
    return 0;
}
