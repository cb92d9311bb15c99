/* SPDX-License-Identifier: Apache-2.0 */
/* The launcher's reading of domain.json: refused with a reason, or each member is of its kind; and what it says of a
 * manifest is read as a VM, or refused, like any other. */
#include <assert.h>

#include <vmlet/vmi.h>

#include "domain/statefile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_manifest(const char *text)
{
    struct vmi_load_options options = {.default_uuid_seed = "fuzz", .default_arch = "amd64"};
    struct faults faults = {0};
    struct error *error = NULL;
    struct vmi *vmi = NULL;

    if (vmi_load_text(text, strlen(text), "domain.json", &options, &vmi, &faults, &error) < 0)
        assert(error && !vmi);
    vmi_free(vmi);
    faults_done(&faults);
    error_free(error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct domain_state_file state = {.pid = -1};
    struct error *error = NULL;

    if (domain_state_parse((const char *)data, size, "fuzz", &state, &error) < 0) {
        assert(error && state.pid == -1);
    } else {
        assert(!error && state.pid >= 0 && json_is_object(state.json));
        assert(!state.memory_dump || json_is_object(state.memory_dump));
        assert(domain_state_name(state.state) && domain_reason_name(state.reason));
        if (state.manifest)
            read_manifest(state.manifest);
        domain_state_done(&state);
    }
    error_free(error);
    return 0;
}
