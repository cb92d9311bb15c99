/* SPDX-License-Identifier: Apache-2.0 */
/* A byte stream must be cut the same way in whatever pieces it comes, and what is printed must parse to the same. */
#include <stdio.h>

#include <vmlet/qmp.h>

#include "base/error.h"
#include "base/strbuf.h"
#include "qmp/framing.h"
#include "qmp/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LIMIT_BYTES 4096U
#define NESTING     16U

static void check_round_trip(const struct qmp_frame *frame)
{
    json_t *json = NULL, *again = NULL;
    char *text;

    if (qmp_json_parse_frame(frame->text, frame->length, frame->long_number, &json, NULL) < 0)
        return;
    text = qmp_json_dump(json, 0);
    if (!text || qmp_json_parse(text, strlen(text), &again, NULL) < 0 || !json_equal(json, again))
        abort();
    free(text);
    json_decref(json);
    json_decref(again);
}

static void cut(const uint8_t *data, size_t size, size_t step, bool marks, struct strbuf *out)
{
    struct qmp_framing f;
    struct qmp_frame frame;
    int r = 0;

    qmp_framing_init(&f, LIMIT_BYTES, NESTING, marks);
    for (size_t i = 0; i < size && r == 0; i += step) {
        size_t n = MIN(step, size - i), room_size;
        void *room;

        if (qmp_framing_reserve(&f, n, &room, &room_size) < 0)
            abort();
        memcpy(room, data + i, n);
        qmp_framing_commit(&f, n);
        while ((r = qmp_framing_next(&f, &frame)) == 0 && frame.kind != QMP_FRAME_NONE) {
            strbuf_printf(out, "%d:%zu:", (int)frame.kind, frame.length);
            strbuf_add(out, frame.text, frame.length);
            if (frame.kind == QMP_FRAME_TEXT && step == 1)
                check_round_trip(&frame);
        }
    }
    if (r < 0)
        strbuf_add_string(out, "error");
    qmp_framing_done(&f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct strbuf one = {0}, many = {0};
    bool marks = size > 0 && data[0] & 1;

    cut(data, size, 1, marks, &one);
    cut(data, size, 143, marks, &many);
    if (one.length != many.length || memcmp(strbuf_text(&one), strbuf_text(&many), one.length) != 0)
        abort();
    strbuf_done(&one);
    strbuf_done(&many);
    return 0;
}
