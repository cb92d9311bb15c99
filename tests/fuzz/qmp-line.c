/* SPDX-License-Identifier: Apache-2.0 */
/* The shell's lines: whatever is typed is refused with a reason, or becomes a command with an object of arguments that
 * can be sent and read again. */
#include <vmlet/qmp.h>

#include "base/error.h"
#include "base/util.h"
#include "qmp/shell/line.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_free_ char *line = strndup((const char *)data, size), *command = NULL, *text = NULL;
    _cleanup_error_ struct error *error = NULL;
    json_t *arguments = NULL, *again = NULL;

    if (line_parse(line, NULL, &command, &arguments, &error) < 0) {
        if (!error)
            abort();
        return 0;
    }
    text = qmp_json_dump(arguments, 0);
    if (!json_is_object(arguments) || !text)
        abort();
    if (qmp_json_parse(text, strlen(text), &again, &error) >= 0) {
        if (!json_equal(arguments, again))
            abort();
    } else if (error_get_code(error) != ERROR_LIMIT) { /* dots may nest deeper than brackets are allowed to */
        abort();
    }
    json_decref(arguments);
    json_decref(again);
    return 0;
}
