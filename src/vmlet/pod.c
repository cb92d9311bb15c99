/* SPDX-License-Identifier: Apache-2.0 */
/* `vmlet pod FILE`: what virt-controller would make of it. */
#include <stdio.h>

#include <vmlet/vmi.h>

#include "k8s/render/pod.h"
#include "vmlet/options.h"
#include "vmlet/output.h"
#include "vmlet/verbs.h"
#include "json/faults.h"

struct pod_verb {
    const char *image, *name;
    bool use_emulation;
};

const struct option_spec pod_print_options[] = {
    {.name = "launcher-image",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct pod_verb, image),
     .argument = "IMAGE",
     .what = "image of the launcher (vmlet/virt-launcher)"},
    {.name = "use-emulation",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct pod_verb, use_emulation),
     .what = "for nodes without KVM: the guest is emulated"},
    {.name = "name",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct pod_verb, name),
     .argument = "NAME",
     .what = "which VM, when the file has several"},
    {0},
};

int verb_pod(int argc, char **argv)
{
    const struct verb *verb = verb_find(argv[0]);
    struct pod_verb v = {.image = "vmlet/virt-launcher"};
    _cleanup_(faults_done) struct faults faults = {0};
    _cleanup_(vmi_freep) struct vmi *vmi = NULL;
    _cleanup_error_ struct error *error = NULL;
    struct pod_options options;
    json_auto_t *pod = NULL;
    char **arguments, *text;
    size_t n;
    int r = options_parse(verb, argc, argv, &v, &arguments, &n);

    if (r >= 0)
        return r;
    faults.source = arguments[0];
    if (vmi_load_file(arguments[0], &(struct vmi_load_options){.name = v.name}, &vmi, &faults, &error) < 0)
        return print_faults(&faults, error);
    options = (struct pod_options){
        .launcher_image = v.image, .use_emulation = v.use_emulation, .vmi_api_version = "kubevirt.io/v1"};
    if (pod_render(vmi, &options, &pod, &error) < 0) {
        print_error(error);
        return (int)error_exit_code(error);
    }
    text = json_dumps(pod, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    if (text)
        printf("%s\n", text);
    free(text);
    return finish_output();
}
