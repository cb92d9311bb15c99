/* SPDX-License-Identifier: Apache-2.0 */
/* Quantities: value and milli agree wherever milli is not saturated. */
#include <stdlib.h>

#include "base/util.h"
#include "json/quantity.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = strndup((const char *)data, size);
    struct quantity q;
    const char *reason = NULL;
    int r;

    if (!text)
        return 0;
    r = quantity_parse(text, &q, &reason);
    if (r < 0 && !reason)
        abort();
    if (r >= 0 && q.milli != INT64_MAX && q.milli != -INT64_MAX) {
        int64_t whole = q.milli / 1000 + (q.milli % 1000 > 0) - (q.milli % 1000 < 0);

        if (whole != q.value)
            abort();
    }
    free(text);
    return 0;
}
