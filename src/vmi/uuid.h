/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "base/util.h"

#define UUID_TEXT_LENGTH 36

/* KubeVirt's namespace for the firmware UUID of a VM; the name is the VM's (compat 2.1). */
#define KUBEVIRT_FIRMWARE_NAMESPACE "6a1a24a1-4061-4607-8bf4-a3963d0c5895"

/* RFC 9562, version 5: SHA-1 of the namespace's bytes and the name. Lower case, NUL-terminated. */
void uuid_v5(const char *namespace_uuid, const char *name, char ret[static UUID_TEXT_LENGTH + 1]);
/* Version 4 from getrandom(2); a negative errno when the system has no random numbers. */
int uuid_v4(char ret[static UUID_TEXT_LENGTH + 1]);
