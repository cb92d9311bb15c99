/* SPDX-License-Identifier: Apache-2.0 */
/* An image's header, and the answer of qemu-img info about it. */
#include <assert.h>

#include "storage/private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_error_ struct error *error = NULL;
    /* exactly as long, so that a read behind the end is seen */
    uint8_t *header = malloc(size ? size : 1);
    char *text = malloc(size + 1);
    struct image image = {0};
    const char *format;

    if (header && text) {
        memcpy(header, data, size);
        memcpy(text, data, size);
        text[size] = '\0';
        format = image_header_format(header, size);
        uint64_t virtual_size = 0;
        if (format && streq(format, "qcow2"))
            (void)image_qcow2_fault(header, size);
        if (format && streq(format, "qcow2") && image_qcow2_is_plain(header, size, 1 << 20, &virtual_size))
            assert(virtual_size > 0);
        if (image_check_info(text, "volume", "/image", &image, &error) == 0)
            assert(image.size > 0);
    }
    free(header);
    free(text);
    return 0;
}
