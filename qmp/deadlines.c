/* SPDX-License-Identifier: Apache-2.0 */
#include "qmp/deadlines.h"

#include <fnmatch.h>

#include "base/limits.h"

struct deadline {
    const char *pattern;
    uint64_t usec;
};

/* The first row that matches counts. Urgent commands come first, by their names: they cost no fnmatch(). */
static const struct deadline qmp_deadlines[] = {
    {"stop", TIMEOUT_QMP_STORAGE_USEC},         /* drains all requests to disks */
    {"cont", TIMEOUT_QMP_STORAGE_USEC},         /* re-activates images after a migration */
    {"query-block*", TIMEOUT_QMP_DEFAULT_USEC}, /* takes the locks of disks that may be stuck */
    {"query-named-block-nodes", TIMEOUT_QMP_DEFAULT_USEC},
    {"query-stats*", TIMEOUT_QMP_DEFAULT_USEC},
    {"query-qmp-schema", TIMEOUT_QMP_DEFAULT_USEC},
    {"query-cpu-model-*", TIMEOUT_QMP_DEFAULT_USEC},
    {"query-*", TIMEOUT_QMP_QUICK_USEC},
    {"qom-*", TIMEOUT_QMP_QUICK_USEC},
    {"device-list-properties", TIMEOUT_QMP_QUICK_USEC},
    {"qmp_capabilities", TIMEOUT_QMP_GREETING_USEC},
    {"quit", TIMEOUT_QMP_DEFAULT_USEC},
    {"block*", TIMEOUT_QMP_STORAGE_USEC},
    {"drive-*", TIMEOUT_QMP_STORAGE_USEC},
    {"nbd-server-*", TIMEOUT_QMP_STORAGE_USEC},
    {"snapshot-*", TIMEOUT_QMP_STORAGE_USEC},
    {"job-*", TIMEOUT_QMP_STORAGE_USEC},
    {"transaction", TIMEOUT_QMP_STORAGE_USEC},
    {"change", TIMEOUT_QMP_STORAGE_USEC},
    {"eject", TIMEOUT_QMP_STORAGE_USEC},
    {"change-backing-file", TIMEOUT_QMP_STORAGE_USEC},
    {"device_add", TIMEOUT_QMP_STORAGE_USEC},
    {"device_del", TIMEOUT_QMP_STORAGE_USEC}, /* with its event: the guest's driver has to let go */
    {"screendump", TIMEOUT_QMP_STORAGE_USEC}, /* writes a file */
    {"migrate", TIMEOUT_QMP_STORAGE_USEC},    /* the command, not the migration; its event may take another deadline */
    {"migrate-incoming", TIMEOUT_QMP_STORAGE_USEC},
    {"xen-*", TIMEOUT_QMP_STORAGE_USEC},
    {"human-monitor-command", TIMEOUT_QMP_MEMORY_USEC}, /* savevm, loadvm and commit among them */
    {"object-add", TIMEOUT_QMP_MEMORY_USEC},            /* a memory backend may touch every page */
    {"memsave", TIMEOUT_QMP_MEMORY_USEC},
    {"pmemsave", TIMEOUT_QMP_MEMORY_USEC},
    {"x-exit-preconfig", TIMEOUT_QMP_MEMORY_USEC},
    {"dump-guest-memory", TIMEOUT_QMP_LONG_USEC},
    {"dump-skeys", TIMEOUT_QMP_LONG_USEC},
};

static const struct deadline qga_deadlines[] = {
    {"guest-sync*", TIMEOUT_QGA_SYNC_USEC},
    {"guest-ping", TIMEOUT_QGA_SYNC_USEC},
    {"guest-fsfreeze-status", TIMEOUT_QGA_DEFAULT_USEC},
    {"guest-fsfreeze-*", TIMEOUT_QGA_FREEZE_USEC},
    {"guest-fstrim", TIMEOUT_QGA_FREEZE_USEC},
    {"guest-set-*", TIMEOUT_QGA_SLOW_USEC},
    {"guest-get-fsinfo", TIMEOUT_QGA_SLOW_USEC},
    {"guest-get-disks", TIMEOUT_QGA_SLOW_USEC},
    {"guest-get-devices", TIMEOUT_QGA_SLOW_USEC},
    {"guest-file-*", TIMEOUT_QGA_SLOW_USEC},
    {"guest-network-get-*", TIMEOUT_QGA_SLOW_USEC},
};

static const char *const qga_silent[] = {
    "guest-shutdown",
    "guest-suspend-disk",
    "guest-suspend-ram",
    "guest-suspend-hybrid",
};

static uint64_t find(const struct deadline *rows, size_t n, const char *command, uint64_t otherwise)
{
    for (size_t i = 0; i < n; i++)
        if (streq(rows[i].pattern, command) || fnmatch(rows[i].pattern, command, 0) == 0)
            return rows[i].usec;
    return otherwise;
}

uint64_t qmp_default_timeout(const char *command)
{
    return find(qmp_deadlines, ELEMENTSOF(qmp_deadlines), command, TIMEOUT_QMP_DEFAULT_USEC);
}

uint64_t qga_default_timeout(const char *command)
{
    if (!qga_answers_on_success(command))
        return TIMEOUT_QGA_NOREPLY_USEC;
    return find(qga_deadlines, ELEMENTSOF(qga_deadlines), command, TIMEOUT_QGA_DEFAULT_USEC);
}

bool qga_answers_on_success(const char *command)
{
    for (size_t i = 0; i < ELEMENTSOF(qga_silent); i++)
        if (streq(command, qga_silent[i]))
            return false;
    return true;
}
