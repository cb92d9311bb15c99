/* SPDX-License-Identifier: Apache-2.0 */
/* A kubeconfig, of others' making: it is one, or there is a message. Files that it names are below a place without any.
 */
#include <stdlib.h>

#include "k8s/client/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_error_ struct error *error = NULL;
    struct kube_config *config = NULL;
    int r;

    if (memmem(data, size, "/", 1) && !memmem(data, size, "://", 3))
        return 0; /* an absolute path could be a device of this machine */
    r = kube_config_parse((const char *)data, size, "/nonexistent/config", NULL, &config, &error);
    if ((r < 0) != (config == NULL) || (r < 0) != (error != NULL))
        abort();
    if (config && (!config->server || !config->namespace_ || config->server[strlen(config->server) - 1] == '/'))
        abort();
    kube_config_free(config);
    return 0;
}
