/* SPDX-License-Identifier: Apache-2.0 */
/* The build id of an ELF file. */
#include <assert.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "host/caps.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_close_ int fd = memfd_create("elf", MFD_CLOEXEC);
    char hex[BUILD_ID_HEX_SIZE];

    if (fd >= 0 && fd_write_all(fd, data, size) == 0 && elf_read_build_id(fd, hex) == 0)
        assert(strlen(hex) % 2 == 0 && strlen(hex) < BUILD_ID_HEX_SIZE);
    return 0;
}
