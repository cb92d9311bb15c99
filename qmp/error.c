/* SPDX-License-Identifier: Apache-2.0 */
/* What a user of the library alone, without the project's own headers, needs of `struct error`. */
#include <vmlet/qmp.h>

#include "base/error.h"

const char *qmp_error_message(const struct error *error)
{
    return error_message(error);
}

const char *qmp_error_class(const struct error *error)
{
    return error_qmp_class(error);
}

const char *qmp_error_code(const struct error *error)
{
    return error_code_name(error_get_code(error));
}

int qmp_error_errno(const struct error *error)
{
    return error_get_errno(error);
}

void qmp_error_free(struct error *error)
{
    error_free(error);
}
