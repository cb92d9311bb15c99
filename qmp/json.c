/* SPDX-License-Identifier: Apache-2.0 */
/* The public names of json/text.h, with QMP's limits. */
#include "qmp/json.h"

#include <vmlet/qmp.h>

#include "base/limits.h"
#include "json/text.h"

json_t *qmp_json_uint64(uint64_t value)
{
    return json_text_uint64(value);
}

const char *qmp_json_big_number(const json_t *json)
{
    return json_text_big_number(json);
}

bool qmp_json_get_uint64(const json_t *json, uint64_t *ret)
{
    const char *text = qmp_json_big_number(json);
    char *end;
    unsigned long long value;

    if (json_is_integer(json) && json_integer_value(json) >= 0) {
        *ret = (uint64_t)json_integer_value(json);
        return true;
    }
    if (!text || *text == '-')
        return false;
    errno = 0;
    value = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0')
        return false;
    *ret = value;
    return true;
}

int qmp_json_parse_frame(const char *text, size_t length, bool long_number, json_t **ret, struct error **ret_error)
{
    return json_text_parse(text, length, long_number, ret, ret_error);
}

int qmp_json_parse(const char *text, size_t length, json_t **ret, struct error **ret_error)
{
    if (!json_text_nests_within(text, length, LIMIT_QMP_NESTING))
        return error_set(ret_error, ERROR_LIMIT, ELOOP, "JSON is nested deeper than %u levels", LIMIT_QMP_NESTING);
    return json_text_parse(text, length, true, ret, ret_error);
}

void qmp_json_write(struct strbuf *buffer, const json_t *json, unsigned indent)
{
    (void)json_text_write(buffer, json, indent, SIZE_MAX);
}

char *qmp_json_dump(const json_t *json, unsigned indent)
{
    return json_text_dump(json, indent);
}
