/* SPDX-License-Identifier: Apache-2.0 */
/* schema-load FILE COUNT: reads a recorded query-qmp-schema so many times; what pure.py counts the instructions of. */
#include <err.h>
#include <stdlib.h>

#include <vmlet/qmp.h>

#include "base/error.h"

int main(int argc, char **argv)
{
    if (argc != 3)
        errx(2, "usage: schema-load FILE COUNT");
    for (long i = strtol(argv[2], NULL, 10); i > 0; i--) {
        struct qmp_schema *schema = NULL;
        struct error *error = NULL;

        if (qmp_schema_load(argv[1], &schema, &error) < 0)
            errx(1, "%s", error_message(error));
        qmp_schema_free(schema);
    }
    return 0;
}
