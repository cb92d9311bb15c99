/* SPDX-License-Identifier: Apache-2.0 */
/* Apart from the event loop: programs without libsystemd measure time too. */
#pragma once

#include <stdint.h>

/* Now, on the clock that the loop's timers use (CLOCK_MONOTONIC); microseconds. */
uint64_t now_usec(void);
