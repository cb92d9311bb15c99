/* SPDX-License-Identifier: Apache-2.0 */
#include "base/nearest.h"

#include <ctype.h>

#define LONGEST 64U

static unsigned substitution_cost(char a, char b)
{
    if (a == b)
        return 0;
    return tolower((unsigned char)a) == tolower((unsigned char)b) ? 1 : 2;
}

/* Damerau's distance, restricted to swaps of neighbours, over three rows. */
unsigned edit_distance(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b);
    unsigned rows[3][LONGEST + 1];
    unsigned *before = rows[0], *above = rows[1], *row = rows[2];

    if (n > LONGEST || m > LONGEST)
        return UINT32_MAX;
    for (unsigned j = 0; j <= m; j++)
        above[j] = 2 * j;
    for (size_t i = 1; i <= n; i++) {
        unsigned *oldest = before;

        row[0] = (unsigned)(2 * i);
        for (size_t j = 1; j <= m; j++) {
            unsigned cost = above[j - 1] + substitution_cost(a[i - 1], b[j - 1]);

            cost = MIN(cost, above[j] + 2);
            cost = MIN(cost, row[j - 1] + 2);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                cost = MIN(cost, before[j - 2] + 2);
            row[j] = cost;
        }
        before = above;
        above = row;
        row = oldest;
    }
    return above[m];
}

unsigned nearest_limit(const char *name)
{
    /* one wrong letter in three: more would name things that have nothing to do with each other */
    return (unsigned)MIN(strlen(name), (size_t)LONGEST) * 2 / 3 + 1;
}

int nearest_index(const char *name, size_t n, const char *(*get)(size_t i, const void *userdata), const void *userdata)
{
    unsigned best = nearest_limit(name);
    int found = -1;

    for (size_t i = 0; i < n; i++) {
        const char *known = get(i, userdata);
        unsigned distance = known ? edit_distance(name, known) : UINT32_MAX;

        if (distance < best || (distance == best && found < 0)) {
            best = distance;
            found = (int)i;
        }
    }
    return found;
}

static const char *list_get(size_t i, const void *userdata)
{
    return ((const char *const *)userdata)[i];
}

const char *nearest_of(const char *name, const char *const *known, size_t n)
{
    int i = nearest_index(name, n, list_get, known);

    return i < 0 ? NULL : known[i];
}

const char *nearest_name(const char *name, const char *const *known)
{
    size_t n = 0;

    while (known && known[n])
        n++;
    return nearest_of(name, known, n);
}
