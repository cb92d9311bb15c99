/* SPDX-License-Identifier: Apache-2.0 */
#include "monitor/state.h"

#include <limits.h>

#include "base/fd.h"
#include "base/limits.h"

struct scanner {
    const char *p, *end;
};

static void skip_space(struct scanner *s)
{
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\t' || *s->p == '\n' || *s->p == '\r'))
        s->p++;
}

static bool take(struct scanner *s, char c)
{
    skip_space(s);
    if (s->p >= s->end || *s->p != c)
        return false;
    s->p++;
    return true;
}

static bool hex4(struct scanner *s, unsigned *ret)
{
    unsigned value = 0;

    if (s->end - s->p < 4)
        return false;
    for (int i = 0; i < 4; i++, s->p++) {
        char c = *s->p;

        if (c >= '0' && c <= '9')
            value = value * 16 + (unsigned)(c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            value = value * 16 + (unsigned)((c | 32) - 'a') + 10;
        else
            return false;
    }
    *ret = value;
    return true;
}

/* A string into `buffer`, or past it if buffer is NULL. What the wanted members hold is ASCII: other characters that
 * are escaped become '?'. */
static bool scan_string(struct scanner *s, char *buffer, size_t size)
{
    static const char escapes[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    size_t n = 0;

    if (!take(s, '"'))
        return false;
    while (s->p < s->end && *s->p != '"') {
        char c = *s->p++;

        if ((unsigned char)c < 0x20)
            return false;
        if (c == '\\') {
            const char *known;
            unsigned code;

            if (s->p >= s->end)
                return false;
            c = *s->p++;
            known = c ? strchr(escapes, c) : NULL;
            if (known)
                c = meant[known - escapes];
            else if (c == 'u' && hex4(s, &code))
                c = code >= 0x20 && code < 0x7f ? (char)code : '?';
            else
                return false;
        }
        if (buffer) {
            if (n + 1 >= size)
                return false;
            buffer[n++] = c;
        }
    }
    if (buffer)
        buffer[n] = '\0';
    return take(s, '"');
}

static bool scan_unsigned(struct scanner *s, uint64_t max, uint64_t *ret)
{
    uint64_t value = 0;
    const char *start;

    skip_space(s);
    start = s->p;
    while (s->p < s->end && *s->p >= '0' && *s->p <= '9') {
        uint64_t digit = (uint64_t)(*s->p++ - '0');

        if (value > (max - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    if (s->p == start || (s->p < s->end && strchr(".eE", *s->p)))
        return false;
    *ret = value;
    return true;
}

/* A value that is not wanted. Brackets are counted, not matched by kind: the file is the launcher's, and what counts
 * here is that its end is found and that no nested member is taken for one of the top level. */
static bool skip_value(struct scanner *s)
{
    size_t depth = 0;

    do {
        skip_space(s);
        if (s->p >= s->end)
            return false;
        switch (*s->p) {
        case '"':
            if (!scan_string(s, NULL, 0))
                return false;
            break;
        case '{':
        case '[':
            depth++;
            s->p++;
            break;
        case '}':
        case ']':
            if (depth == 0)
                return false;
            depth--;
            s->p++;
            break;
        case ',':
        case ':':
            if (depth == 0)
                return false;
            s->p++;
            break;
        default: { /* a number, true, false or null */
            const char *start = s->p;

            while (s->p < s->end &&
                   (strchr("+-.", *s->p) || (*s->p >= '0' && *s->p <= '9') ||
                    ((*s->p | 32) >= 'a' && (*s->p | 32) <= 'z')) &&
                   *s->p)
                s->p++;
            if (s->p == start)
                return false;
        }
        }
    } while (depth > 0);
    return true;
}

static bool scan_member(struct scanner *s, const char *key, struct vm_state *state)
{
    const struct {
        const char *key;
        char *buffer;
        size_t size;
    } strings[] = {
        {"bootId", state->boot_id, sizeof(state->boot_id)},
        {"state", state->state, sizeof(state->state)},
        {"reason", state->reason, sizeof(state->reason)},
    };
    uint64_t number;

    if (streq(key, "pid")) {
        if (!scan_unsigned(s, INT_MAX, &number))
            return false;
        state->pid = (pid_t)number;
        return true;
    }
    if (streq(key, "startTime"))
        return scan_unsigned(s, UINT64_MAX, &state->start_time);
    for (size_t i = 0; i < ELEMENTSOF(strings); i++)
        if (streq(key, strings[i].key))
            return scan_string(s, strings[i].buffer, strings[i].size);
    return skip_value(s);
}

int vm_state_parse(const char *text, size_t length, struct vm_state *ret)
{
    struct scanner s = {.p = text, .end = text + length};
    struct vm_state state = {0};

    if (!take(&s, '{'))
        return -EBADMSG;
    if (!take(&s, '}')) {
        do {
            char key[64];

            if (!scan_string(&s, key, sizeof(key)) || !take(&s, ':') || !scan_member(&s, key, &state))
                return -EBADMSG;
        } while (take(&s, ','));
        if (!take(&s, '}'))
            return -EBADMSG;
    }
    skip_space(&s);
    if (s.p != s.end)
        return -EBADMSG;
    *ret = state;
    return 0;
}

int vm_state_read(const char *path, struct vm_state *ret)
{
    _cleanup_free_ char *text = NULL;
    size_t length;
    int r;

    r = file_read(path, LIMIT_STATE_FILE_BYTES, &text, &length, NULL);
    if (r < 0)
        return r;
    return vm_state_parse(text, length, ret);
}
