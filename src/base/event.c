/* SPDX-License-Identifier: Apache-2.0 */
#include "base/event.h"

#include <signal.h>

static int block_signal(int number)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, number);
    return sigprocmask(SIG_BLOCK, &set, NULL) < 0 ? -errno : 0;
}

int event_new(sd_event **ret)
{
    int r = block_signal(SIGCHLD);

    return r < 0 ? r : sd_event_default(ret);
}

int event_add_signal(sd_event *event, int number, sd_event_signal_handler_t handler, void *userdata,
                     sd_event_source **ret)
{
    int r = block_signal(number);

    return r < 0 ? r : sd_event_add_signal(event, ret, number, handler, userdata);
}

int event_arm_timer(sd_event *event, sd_event_source **source, uint64_t delay_usec, sd_event_time_handler_t handler,
                    void *userdata)
{
    uint64_t at = now_usec() + delay_usec;
    int r;

    if (!*source) /* accuracy 1 ms: the default of 250 ms is for housekeeping, ours are deadlines */
        return sd_event_add_time(event, source, CLOCK_MONOTONIC, at, 1000, handler, userdata);
    r = sd_event_source_set_time(*source, at);
    if (r < 0)
        return r;
    return sd_event_source_set_enabled(*source, SD_EVENT_ONESHOT);
}

void event_disarm_timer(sd_event_source *source)
{
    if (source)
        sd_event_source_set_enabled(source, SD_EVENT_OFF);
}

int event_defer(sd_event *event, sd_event_source **source, sd_event_handler_t handler, void *userdata)
{
    if (*source)
        return sd_event_source_set_enabled(*source, SD_EVENT_ONESHOT);
    return sd_event_add_defer(event, source, handler, userdata);
}
