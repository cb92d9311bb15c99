/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Crash points: named places at which a test can have this process killed, to see what it leaves (tests/fault). They
 * are compiled in by -Dcrash_points=true only; otherwise CRASH_POINT() is nothing.
 *
 * VMLET_CRASH_AT=NAME[:N] kills the process (SIGKILL, as from outside) at the Nth passing of NAME (1). With
 * VMLET_CRASH_MARK=PATH it does so only if PATH can be made, so once among all processes that share the two, and PATH
 * proves that it was done.
 */
#pragma once

#ifdef VMLET_CRASH_POINTS

/* The linker collects the names of what is linked into this program between __start_crash_points and __stop_… */
#define CRASH_POINT(name)                                                                                              \
    do {                                                                                                               \
        static const char *crash_point_name_ __attribute__((section("crash_points"), used)) = name;                    \
        crash_point(crash_point_name_);                                                                                \
    } while (0)

void crash_point(const char *name);
/* One name a line on stdout. */
void crash_points_print(void);

#else

#define CRASH_POINT(name)                                                                                              \
    do {                                                                                                               \
    } while (0)

#endif
