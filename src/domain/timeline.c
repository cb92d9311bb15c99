/* SPDX-License-Identifier: Apache-2.0 */
#include "domain/timeline.h"

#include <stdio.h>
#include <time.h>

#include "base/event.h"
#include "base/log.h"
#include "base/strbuf.h"

uint64_t realtime_usec(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000U + (uint64_t)now.tv_nsec / 1000U;
}

const char *format_time(uint64_t wall_usec, char *text)
{
    time_t seconds = (time_t)(wall_usec / 1000000U);
    struct tm tm;
    size_t n;

    gmtime_r(&seconds, &tm);
    n = strftime(text, 40, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text + n, 40 - n, ".%06uZ", (unsigned)(wall_usec % 1000000U));
    return text;
}

bool timeline_mark(struct timeline *timeline, const char *name)
{
    if (timeline->count == TIMELINE_MARKS || timeline_get(timeline, name) != UINT64_MAX)
        return false;
    timeline->marks[timeline->count].name = name;
    timeline->marks[timeline->count].usec = now_usec();
    timeline->marks[timeline->count].wall_usec = realtime_usec();
    timeline->count++;
    return true;
}

uint64_t timeline_get(const struct timeline *timeline, const char *name)
{
    for (unsigned i = 0; i < timeline->count; i++)
        if (streq(timeline->marks[i].name, name))
            return timeline->marks[i].usec - timeline->marks[0].usec;
    return UINT64_MAX;
}

json_t *timeline_to_json(const struct timeline *timeline)
{
    json_t *events = json_array();
    char stamp[40];

    for (unsigned i = 0; i < timeline->count; i++)
        json_array_append_new(events, json_pack("{s:s, s:I, s:s}", "name", timeline->marks[i].name, "usec",
                                                (json_int_t)(timeline->marks[i].usec - timeline->marks[0].usec), "wall",
                                                format_time(timeline->marks[i].wall_usec, stamp)));
    return json_pack("{s:o}", "events", events);
}

void timeline_log(const struct timeline *timeline, const char *domain_name)
{
    _cleanup_(strbuf_done) struct strbuf members = {0}, text = {0};

    strbuf_printf(&members, ",\"domain\":");
    strbuf_add_json_string(&members, domain_name);
    strbuf_printf(&members, ",\"timelineUsec\":{");
    strbuf_printf(&text, "timeline of %s:", domain_name);
    for (unsigned i = 0; i < timeline->count; i++) {
        uint64_t usec = timeline->marks[i].usec - timeline->marks[0].usec;

        strbuf_printf(&members, "%s\"%s\":%llu", i ? "," : "", timeline->marks[i].name, (unsigned long long)usec);
        strbuf_printf(&text, " %s %.1f ms", timeline->marks[i].name, (double)usec / 1000);
    }
    strbuf_printf(&members, "}");
    log_record(log_is_json() ? "timeline" : strbuf_text(&text), strbuf_text(&members));
}
