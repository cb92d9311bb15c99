/* SPDX-License-Identifier: Apache-2.0 */
/* Loads manifests and prints their faults, as vmlet does; for tests of manifests by the folder. */
#include <stdio.h>

#include <vmlet/vmi.h>

#include "base/error.h"
#include "json/faults.h"

int main(int argc, char **argv)
{
    int exit_code = EXIT_OK;

    for (int i = 1; i < argc; i++) {
        struct faults faults = {0};
        _cleanup_error_ struct error *error = NULL;
        _cleanup_(vmi_freep) struct vmi *vmi = NULL;
        _cleanup_free_ char *text = NULL;
        int r = vmi_load_file(argv[i], NULL, &vmi, &faults, &error);

        text = faults_format(&faults);
        if (r < 0 && faults.count == 0)
            fprintf(stderr, "%s: %s\n", argv[i], error_message(error));
        fputs(text ?: "", stdout);
        if (r < 0)
            exit_code = error_exit_code(error);
        faults_done(&faults);
    }
    return exit_code;
}
