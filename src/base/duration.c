/* SPDX-License-Identifier: Apache-2.0 */
#include "base/duration.h"

#include "base/limits.h"

#define DURATION_MAX 1e15 /* thirty years, in microseconds */

int duration_parse(const char *text, bool bare_seconds, uint64_t *ret_usec)
{
    static const struct {
        const char *unit; /* one that begins with another stands before it */
        double usec;
    } units[] = {
        {"ms", 1e3}, {"us", 1}, {"min", 60e6}, {"h", 3600e6}, {"m", 60e6}, {"s", 1e6},
    };
    double total = 0;

    if (!*text)
        return -EINVAL;
    for (const char *at = text; *at;) {
        size_t digits = strspn(at, "0123456789."), length = 0;
        double value;
        char *end;

        if (digits == 0 || at[0] == '.')
            return -EINVAL;
        value = strtod(at, &end);
        if (end != at + digits) /* two points, or another notation */
            return -EINVAL;
        at = end;
        if (!*at && end == text + digits && (bare_seconds || streq(text, "0"))) {
            total = value * (double)USEC_PER_SEC;
            break;
        }
        for (size_t i = 0; i < ELEMENTSOF(units) && length == 0; i++)
            if (startswith(at, units[i].unit)) {
                total += value * units[i].usec;
                length = strlen(units[i].unit);
            }
        if (length == 0)
            return -EINVAL;
        at += length;
    }
    if (!(total <= DURATION_MAX))
        return -ERANGE;
    *ret_usec = (uint64_t)(total + 0.5);
    return 0;
}
