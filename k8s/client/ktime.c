/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/client/ktime.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

int64_t kube_now(void)
{
    return (int64_t)time(NULL);
}

void kube_time(int64_t seconds, char ret[static KUBE_TIME_SIZE])
{
    time_t t = (time_t)seconds;
    struct tm tm;

    if (!gmtime_r(&t, &tm) || strftime(ret, KUBE_TIME_SIZE, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
        memcpy(ret, "1970-01-01T00:00:00Z", KUBE_TIME_SIZE);
}

void kube_time_micro(char ret[static KUBE_TIME_MICRO_SIZE])
{
    struct timespec now;
    char seconds[KUBE_TIME_SIZE];

    clock_gettime(CLOCK_REALTIME, &now);
    kube_time((int64_t)now.tv_sec, seconds);
    memcpy(ret, seconds, 19);
    snprintf(ret + 19, KUBE_TIME_MICRO_SIZE - 19, ".%06uZ", (unsigned)(now.tv_nsec / 1000) % 1000000U);
}

int64_t kube_time_parse(const char *text)
{
    struct tm tm = {0};
    const char *end = text ? strptime(text, "%Y-%m-%dT%H:%M:%S", &tm) : NULL;

    if (end && *end == '.')
        end += 1 + strspn(end + 1, "0123456789");
    return end && strcmp(end, "Z") == 0 ? (int64_t)timegm(&tm) : -1;
}
