/* SPDX-License-Identifier: Apache-2.0 */
/* sd-event(3) as this project uses it: one loop per process, SIGCHLD blocked, sources owned by who made them. */
#pragma once

#include <systemd/sd-event.h>

#include "base/clock.h"
#include "base/util.h"

#define _cleanup_event_        _cleanup_(sd_event_unrefp)
#define _cleanup_event_source_ _cleanup_(sd_event_source_disable_unrefp)

/* The loop of this thread, made at the first call. SIGCHLD is blocked, which sd_event_add_child_pidfd() of libsystemd
 * 252 demands even though a pidfd needs no signal (-EBUSY otherwise). */
int event_new(sd_event **ret);

/* Blocks the signal for the process and has it handled on the loop. ret: the source, or NULL: it stays with the loop.
 */
int event_add_signal(sd_event *event, int number, sd_event_signal_handler_t handler, void *userdata,
                     sd_event_source **ret);

/* A timer `delay` microseconds from now. (Re-)arms *source: made if NULL, moved if not. */
int event_arm_timer(sd_event *event, sd_event_source **source, uint64_t delay_usec, sd_event_time_handler_t handler,
                    void *userdata);
/* Stops the timer, and keeps the source for the next event_arm_timer(). */
void event_disarm_timer(sd_event_source *source);
/* Calls the handler once, at the loop's next turn. */
int event_defer(sd_event *event, sd_event_source **source, sd_event_handler_t handler, void *userdata);
