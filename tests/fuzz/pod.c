/* SPDX-License-Identifier: Apache-2.0 */
/* A manifest becomes its launcher pod, which is JSON that the API server can read. */
#include <stdlib.h>

#include <vmlet/vmi.h>

#include "base/util.h"
#include "k8s/render/pod.h"
#include "json/faults.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct vmi_load_options options = {.default_uuid_seed = "fuzz"};
    const struct pod_options pod_options = {.launcher_image = "launcher:1"};
    _cleanup_(faults_done) struct faults faults = {0};
    _cleanup_error_ struct error *error = NULL;
    struct vmi *vmi = NULL;
    json_t *pod = NULL;

    if (vmi_load_text((const char *)data, size, "fuzz", &options, &vmi, &faults, NULL) < 0)
        return 0;
    if ((pod_render(vmi, &pod_options, &pod, &error) < 0) != (pod == NULL) || (pod == NULL) != (error != NULL))
        abort();
    if (pod) {
        char *text = json_dumps(pod, JSON_COMPACT);

        if (!text || !json_is_array(json_object_get(json_object_get(pod, "spec"), "containers")))
            abort();
        free(text);
    }
    json_decref(pod);
    vmi_free(vmi);
    return 0;
}
