/* SPDX-License-Identifier: Apache-2.0 */
/* What this host can do for a virtual machine, each `no` with its reason and what to do about it: `vmlet probe`. */
#pragma once

#include <jansson.h>

#include "base/error.h"
#include "host/accel.h"

struct host_fact {
    const char *name; /* "kvm", "tun", "vhostNet"…: stable */
    const char *need; /* what it is good for, a few words */
    bool yes;
    char *detail; /* yes: version, path, figure; no: the reason */
    char *remedy; /* or NULL */
};

struct host_facts {
    struct accel_result kvm;
    struct host_fact *items;
    size_t count;
    char **firmware; /* paths, sorted */
};

/* Looks at everything; runs the emulators and tools that are there to learn their versions, so it takes a while. */
int host_facts_load(struct host_facts **ret, struct error **ret_error);
void host_facts_free(struct host_facts *facts);
DEFINE_CLEANUP(struct host_facts *, host_facts_free)

const struct host_fact *host_facts_find(const struct host_facts *facts, const char *name);
/* {"facts": {"kvm": {"ok", "detail", "remedy", "need"}, …}, "kvm": accel_to_json(), "firmware": […]}: a new reference.
 */
json_t *host_facts_to_json(const struct host_facts *facts);
/* For people: a line for each fact; freed by the caller, NULL when out of memory. */
char *host_facts_to_text(const struct host_facts *facts);

/* The UEFI images in the places where distributions put them: for struct machine_facts. Cheap. A list for strv_free().
 */
int host_known_firmware(char ***ret, struct error **ret_error);
