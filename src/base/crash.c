/* SPDX-License-Identifier: Apache-2.0 */
#include "base/crash.h"

#ifdef VMLET_CRASH_POINTS

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern const char *__start_crash_points[], *__stop_crash_points[];

void crash_points_print(void)
{
    for (const char **name = __start_crash_points; name < __stop_crash_points; name++)
        puts(*name);
}

void crash_point(const char *name)
{
    static unsigned long passed;
    const char *at = getenv("VMLET_CRASH_AT"), *mark = getenv("VMLET_CRASH_MARK");
    size_t length = strlen(name);
    unsigned long wanted = 1;

    if (!at || strncmp(at, name, length) != 0 || (at[length] != '\0' && at[length] != ':'))
        return;
    if (at[length] == ':')
        wanted = strtoul(at + length + 1, NULL, 10);
    if (++passed != wanted || (mark && open(mark, O_CREAT | O_EXCL | O_CLOEXEC, 0600) < 0))
        return;
    kill(getpid(), SIGKILL);
}

#else

typedef int crash_points_are_off;

#endif
