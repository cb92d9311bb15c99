/* SPDX-License-Identifier: Apache-2.0 */
/* events.log of a former launcher, read back: numbers only grow, and the next event has the next one. */
#include <assert.h>

#include "base/limits.h"
#include "domain/events.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct event_log *log = event_log_new();
    uint64_t next;

    if (!log)
        return 0;
    event_log_load(log, (const char *)data, size);
    next = event_log_next(log);
    assert(next >= event_log_oldest(log) && next - event_log_oldest(log) <= LIMIT_EVENT_RING);
    event_log_add(log, "Domain", "Running", NULL, "%s", "text");
    assert(event_log_next(log) == next + 1);
    event_log_free(log);
    return 0;
}
