/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program shuts itself in: only the system calls of a list, no new privileges, and no more capabilities than named.
 * Each program's list stands beside its code. A library of its own, since it needs libseccomp.
 */
#pragma once

#include <seccomp.h>

#include "base/error.h"
#include "base/util.h"

struct confinement {
    const char *const *calls; /* their names; ends with NULL */
    const int *families;      /* address families that socket(2) takes; ends with AF_UNSPEC. NULL: no socket */
    bool processes;           /* fork, threads; not into namespaces */
    uint64_t capabilities;    /* what stays of what there is, a bit each */
};

#define CONFINE_ALL_CAPABILITIES UINT64_MAX

/* What every program needs that has begun, and goes on or ends: memory, standard streams, signals, the clock. */
extern const char *const confine_basics[];

/* What no program of ours calls, nor any that it starts. */
extern const char *const confine_never[];

/* Mounts and roots: what no program does that lives in a tree as the container runtime made it. */
extern const char *const confine_mounts[];

/*
 * From now on: only `confinement` and confine_basics. Other calls fail with ENOSYS, which libraries know from older
 * kernels and work around. Children inherit it. A kernel without seccomp is told in the log, and is no failure; in
 * builds with a sanitizer, which looks for leaks by ptrace(2), there is no filter.
 *
 * In builds with -Dcrash_points=true, VMLET_SANDBOX_LOG=FILE lets such calls through and writes "program: call" to
 * FILE.
 */
int confine(const struct confinement *confinement, struct error **ret_error);

/* The other way round, for a program whose work is too wide for a list: all but confine_never and `calls`, which fail
 * with EPERM. no_new_privs. */
int confine_refuse(const char *const *calls, struct error **ret_error);

/* Whether the two above load a filter: see confine(). A kernel without seccomp is told in the log. */
bool confine_has_seccomp(void);

/* A rule for each name of a list that ends with NULL. By name, since an architecture may lack a call, and an older
 * libseccomp a newer one: both are skipped. A negative errno. */
int confine_add_calls(scmp_filter_ctx filter, uint32_t action, const char *const *calls);
