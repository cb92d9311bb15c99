/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cuts a byte stream into JSON texts. Knows brackets, strings and nothing else of JSON, so that a message is complete
 * with its last bracket (a monitor with pretty=on puts line ends inside), and every byte is looked at once: a message
 * of 64 MiB that comes in one-byte pieces takes linear time.
 */
#pragma once

#include "base/util.h"

enum qmp_frame_kind {
    QMP_FRAME_NONE, /* more bytes are needed */
    QMP_FRAME_TEXT, /* an object or array with balanced brackets; still to be parsed */
    QMP_FRAME_JUNK, /* a line that is no JSON object or array */
    QMP_FRAME_MARK, /* the agent's 0xFF: what came before it and was not complete has been dropped */
};

struct qmp_frame {
    enum qmp_frame_kind kind;
    const char *text; /* valid until the next call on the framing */
    size_t length;
    bool long_number; /* a number of 19 digits or more is in it: maybe too big for jansson */
};

struct qmp_framing {
    size_t limit;          /* of one message, bytes */
    unsigned nesting;      /* levels of brackets allowed */
    bool marks;            /* 0xFF is a mark (guest agent) */
    char *data;            /* [begin, scanned) belongs to the message that is being scanned */
    size_t begin, scanned; /* offsets into data */
    size_t end, allocated;
    unsigned depth, digits;
    unsigned char state;
    bool long_number;
};

void qmp_framing_init(struct qmp_framing *framing, size_t limit, unsigned nesting, bool marks);
void qmp_framing_done(struct qmp_framing *framing);
/* Forgets what was read. */
void qmp_framing_reset(struct qmp_framing *framing);

/* Room for at least `wanted` bytes of input; *ret_size is what there is. -ENOMEM. */
int qmp_framing_reserve(struct qmp_framing *framing, size_t wanted, void **ret_room, size_t *ret_size);
/* The caller put n bytes there. */
void qmp_framing_commit(struct qmp_framing *framing, size_t n);
/* The next message. -EMSGSIZE: one is over the limit; -ELOOP: nested too deep. Both are final until a reset. */
int qmp_framing_next(struct qmp_framing *framing, struct qmp_frame *ret);
/* Bytes of a message whose end has not come. */
size_t qmp_framing_pending(const struct qmp_framing *framing);
