/* SPDX-License-Identifier: Apache-2.0 */
/* `vmlet expand FILE`: the manifest without what it refers to. */
#include <stdio.h>

#include <vmlet/vmi.h>

#include "vmlet/options.h"
#include "vmlet/output.h"
#include "vmlet/verbs.h"
#include "json/faults.h"

struct expand {
    const char *name;
};

const struct option_spec expand_options[] = {
    {.name = "name",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct expand, name),
     .argument = "NAME",
     .what = "which VM of a file that holds several"},
    {0},
};

int verb_expand(int argc, char **argv)
{
    _cleanup_(faults_done) struct faults faults = {0};
    _cleanup_(vmi_freep) struct vmi *vmi = NULL;
    _cleanup_error_ struct error *error = NULL;
    struct expand expand = {0};
    json_auto_t *manifest = NULL;
    char **arguments, *text;
    size_t n;
    int r = options_parse(verb_find(argv[0]), argc, argv, &expand, &arguments, &n);

    if (r >= 0)
        return r;
    faults.source = arguments[0];
    if (vmi_load_file(arguments[0], &(struct vmi_load_options){.name = expand.name}, &vmi, &faults, &error) < 0)
        return print_faults(&faults, error);
    manifest = vmi_manifest(vmi);
    text = manifest ? json_dumps(manifest, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : NULL;
    if (!text) {
        error_oom(&error);
        return print_faults(&faults, error);
    }
    printf("%s\n", text);
    free(text);
    return finish_output();
}
