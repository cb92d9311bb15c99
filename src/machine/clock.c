/* SPDX-License-Identifier: Apache-2.0 */
/* Clock and timers. */
#include <stdio.h>
#include <time.h>

#include "machine/build.h"

static const char *rtc_base(struct build *b)
{
    const struct vmi_clock *clock = b->domain->clock;
    int64_t offset = clock && clock->utc ? opt_int_or(clock->utc->offset_seconds, 0) : 0;
    char date[sizeof("-2147483648-01-01T00:00:00")];
    time_t start;
    struct tm tm;

    if (clock && clock->timezone) {
        char **environment;

        if (!text_is_plain(clock->timezone, "/_+-")) {
            manifest_fault(b, clock->at, "timezone \"%s\" is no name of the time zone database", clock->timezone);
            return "utc";
        }
        environment = LIST_ADD(b, &b->machine->environment);
        if (environment)
            *environment = (char *)text(b, "TZ=%s", clock->timezone);
        item(b, MACHINE_GROUP_MACHINE, clock->at, NULL, text(b, "clock in the local time of %s", clock->timezone),
             "clock.timezone; QEMU finds it by TZ in its environment");
        return "localtime";
    }
    if (offset == 0) {
        item(b, MACHINE_GROUP_MACHINE, clock ? clock->at : NULL, NULL, "clock in UTC",
             clock ? "in the manifest" : "the default");
        return "utc";
    }
    if (b->facts->now == 0) {
        host_fault(b, clock->utc->at, "offsetSeconds needs the time of day, which the caller did not give");
        return "utc";
    }
    if (__builtin_add_overflow(b->facts->now, offset, &start) || !gmtime_r(&start, &tm) || tm.tm_year < 70 ||
        tm.tm_year > 8099) {
        manifest_fault(b, clock->utc->at, "offsetSeconds %lld leads out of the years 1970 to 9999", (long long)offset);
        return "utc";
    }
    strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm);
    item(b, MACHINE_GROUP_MACHINE, clock->utc->at, NULL, text(b, "clock starts at %s", date), "offsetSeconds from now");
    return text(b, "%s", date);
}

static void timer_hpet(struct build *b, const struct vmi_timer_source *hpet)
{
    if (hpet->present == OPT_UNSET)
        return;
    machine_set(b, "hpet", hpet->present == OPT_TRUE ? "on" : "off");
    item(b, MACHINE_GROUP_MACHINE, hpet->at, NULL, hpet->present == OPT_TRUE ? "HPET" : "no HPET", "in the manifest");
}

/* The interrupt timer of KVM (hw/i386/kvm/i8254.c): "delay" delivers missed ticks late, "discard" drops them. */
static void timer_pit(struct build *b, const struct vmi_timer_source *pit)
{
    const char *policy = pit->tick_policy == VMI_TICK_DELAY     ? "delay"
                         : pit->tick_policy == VMI_TICK_DISCARD ? "discard"
                                                                : NULL;

    if (pit->present == OPT_FALSE)
        machine_set(b, "pit", "off");
    if (pit->tick_policy == VMI_TICK_UNSET)
        return;
    if (policy && b->kvm)
        option(b, SECTION_MACHINE, "-global", text(b, "kvm-pit.lost_tick_policy=%s", policy));
    item(b, MACHINE_GROUP_MACHINE, pit->at, NULL, text(b, "PIT: tick policy %s", policy ? policy : "catchup"),
         !b->kvm  ? "in the manifest; the emulated PIT has only one way"
         : policy ? "in the manifest"
                  : "in the manifest; what the PIT does by default");
}

static const char *timer_rtc(struct build *b, const struct vmi_timer_source *rtc)
{
    const char *drift = rtc->tick_policy == VMI_TICK_CATCHUP ? ",driftfix=slew" : "";
    const char *clock = rtc->track == VMI_RTC_TRACK_GUEST ? ",clock=vm" : "";

    if (*drift)
        item(b, MACHINE_GROUP_MACHINE, rtc->at, NULL, "RTC: missed ticks are caught up",
             "tickPolicy catchup in the manifest");
    if (*clock)
        item(b, MACHINE_GROUP_MACHINE, rtc->at, NULL, "RTC: stands still while the guest is paused",
             "track guest in the manifest");
    return text(b, "%s%s", clock, drift);
}

void build_clock(struct build *b)
{
    const struct vmi_timer *timer = b->domain->clock ? b->domain->clock->timer : NULL;
    const char *more = "";

    if (timer && b->x86) {
        if (timer->hpet)
            timer_hpet(b, timer->hpet);
        if (timer->pit)
            timer_pit(b, timer->pit);
        if (timer->rtc)
            more = timer_rtc(b, timer->rtc);
        if (timer->kvm && timer->kvm->present != OPT_UNSET)
            item(b, MACHINE_GROUP_MACHINE, timer->kvm->at, NULL,
                 timer->kvm->present == OPT_TRUE ? "kvmclock" : "no kvmclock",
                 b->kvm ? "in the manifest" : "in the manifest; without effect under emulation");
        if (timer->hyperv && timer->hyperv->present != OPT_FALSE)
            item(b, MACHINE_GROUP_MACHINE, timer->hyperv->at, NULL, "Hyper-V reference time",
                 b->kvm ? "in the manifest" : "in the manifest; left out under emulation, which has none");
    } else if (timer) {
        item(b, MACHINE_GROUP_MACHINE, timer->at, NULL, "no PC timers",
             "hpet, pit, rtc, kvm and hyperv exist on amd64 only");
    }
    option(b, SECTION_MACHINE, "-rtc", text(b, "base=%s%s", rtc_base(b), more));
}
