/* SPDX-License-Identifier: Apache-2.0 */
#include "qmp/framing.h"

enum {
    OUTSIDE,
    VALUE,  /* inside the outermost bracket, outside strings */
    STRING, /* inside quotes */
    ESCAPE, /* behind a backslash inside quotes */
    JUNK,   /* outside brackets, something that starts no object: until the line end */
};

/* A buffer that grew over this is given back once it is empty: a schema reply should not cost memory for ever. */
#define KEEP_BYTES 16384U

void qmp_framing_init(struct qmp_framing *framing, size_t limit, unsigned nesting, bool marks)
{
    *framing = (struct qmp_framing){.limit = limit, .nesting = nesting, .marks = marks};
}

void qmp_framing_done(struct qmp_framing *framing)
{
    free(framing->data);
    *framing = (struct qmp_framing){0};
}

void qmp_framing_reset(struct qmp_framing *framing)
{
    framing->begin = framing->scanned = framing->end = 0;
    framing->depth = framing->digits = 0;
    framing->state = OUTSIDE;
    framing->long_number = false;
}

/* Moves what is left to the front. Amortised: only when at least as much is free in front of it. */
static void compact(struct qmp_framing *f)
{
    size_t left = f->end - f->begin;

    if (f->begin == 0 || f->begin < left)
        return;
    if (left > 0)
        memmove(f->data, f->data + f->begin, left);
    f->scanned -= f->begin;
    f->end = left;
    f->begin = 0;
    if (left == 0 && f->allocated > KEEP_BYTES) {
        free(f->data);
        f->data = NULL;
        f->allocated = 0;
    }
}

int qmp_framing_reserve(struct qmp_framing *framing, size_t wanted, void **ret_room, size_t *ret_size)
{
    compact(framing);
    if (framing->allocated - framing->end < wanted) {
        size_t size = MAX(framing->end + wanted, framing->allocated * 2);
        char *data = realloc(framing->data, size);

        if (!data)
            return -ENOMEM;
        framing->data = data;
        framing->allocated = size;
    }
    *ret_room = framing->data + framing->end;
    *ret_size = framing->allocated - framing->end;
    return 0;
}

void qmp_framing_commit(struct qmp_framing *framing, size_t n)
{
    framing->end += n;
}

size_t qmp_framing_pending(const struct qmp_framing *framing)
{
    return framing->end - framing->begin;
}

/* The message ends in front of `next`; `length` bytes from begin are its text. */
static int emit(struct qmp_framing *f, enum qmp_frame_kind kind, size_t length, size_t next, struct qmp_frame *ret)
{
    *ret =
        (struct qmp_frame){.kind = kind, .text = f->data + f->begin, .length = length, .long_number = f->long_number};
    f->begin = f->scanned = next;
    f->state = OUTSIDE;
    f->depth = f->digits = 0;
    f->long_number = false;
    return 0;
}

static bool is_space(unsigned char c)
{
    return c == '\n' || c == '\r' || c == ' ' || c == '\t';
}

/* One byte outside quotes and inside brackets; 1 when it closed the outermost one. */
static int scan_value(struct qmp_framing *f, unsigned char c)
{
    if (c >= '0' && c <= '9') {
        if (++f->digits >= 19)
            f->long_number = true;
        return 0;
    }
    f->digits = 0;
    switch (c) {
    case '"':
        f->state = STRING;
        return 0;
    case '{':
    case '[':
        return ++f->depth > f->nesting ? -ELOOP : 0;
    case '}':
    case ']':
        return --f->depth == 0;
    default:
        return 0;
    }
}

static void scan_outside(struct qmp_framing *f, unsigned char c, size_t i)
{
    if (is_space(c)) {
        f->begin = i + 1;
    } else if (c == '{' || c == '[') {
        f->state = VALUE;
        f->depth = 1;
    } else {
        f->state = JUNK;
    }
}

int qmp_framing_next(struct qmp_framing *framing, struct qmp_frame *ret)
{
    struct qmp_framing *f = framing;
    int r;

    for (size_t i = f->scanned; i < f->end; i++) {
        unsigned char c = (unsigned char)f->data[i];

        f->scanned = i + 1;
        if (c == 0xff && f->marks)
            return emit(f, QMP_FRAME_MARK, 0, i + 1, ret);
        switch (f->state) {
        case OUTSIDE:
            scan_outside(f, c, i);
            break;
        case VALUE:
            r = scan_value(f, c);
            if (r < 0)
                return r;
            if (r > 0) {
                if (i + 1 - f->begin > f->limit)
                    return -EMSGSIZE;
                return emit(f, QMP_FRAME_TEXT, i + 1 - f->begin, i + 1, ret);
            }
            break;
        case STRING:
            /* A line end inside quotes is no JSON: the sender lost its place, and a new line is a new start. */
            if (c == '\n')
                return emit(f, QMP_FRAME_JUNK, i - f->begin, i + 1, ret);
            f->state = c == '"' ? VALUE : c == '\\' ? ESCAPE : STRING;
            break;
        case ESCAPE:
            f->state = STRING;
            break;
        case JUNK:
            if (c == '\n')
                return emit(f, QMP_FRAME_JUNK, i - f->begin, i + 1, ret);
            break;
        }
    }
    if (f->end - f->begin > f->limit)
        return -EMSGSIZE;
    *ret = (struct qmp_frame){.kind = QMP_FRAME_NONE};
    return 0;
}
