/* SPDX-License-Identifier: Apache-2.0 */
/* The monitor's reading of domain.json. */
#include "monitor/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vm_state state = {.pid = -1};

    if (vm_state_parse((const char *)data, size, &state) < 0) {
        if (state.pid != -1)
            abort();
    } else if (state.pid < 0 || !memchr(state.state, 0, sizeof(state.state)) ||
               !memchr(state.reason, 0, sizeof(state.reason)) || !memchr(state.boot_id, 0, sizeof(state.boot_id))) {
        abort();
    }
    return 0;
}
