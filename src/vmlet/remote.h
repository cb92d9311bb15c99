/* SPDX-License-Identifier: Apache-2.0 */
/* What the verbs share that talk to a running VM: their first options, the connection, one call. */
#pragma once

#include <jansson.h>

#include "rpc/client.h"
#include "vmlet/locate.h"
#include "vmlet/verbs.h"

/* First member of the option struct of every such verb. */
struct vm_options {
    const char *socket, *state_dir;
    uint64_t timeout_usec; /* for one answer */
    bool json;
    bool awaits; /* set by the verb: a VM that is not there yet is waited for, --timeout at the most */
};

#define VM_OPTIONS_WHERE                                                                                               \
    {.name = "socket",                                                                                                 \
     .kind = OPTION_TEXT,                                                                                              \
     .offset = offsetof(struct vm_options, socket),                                                                    \
     .argument = "PATH",                                                                                               \
     .what = "the VM's command socket",                                                                                \
     .complete = COMPLETE_FILE},                                                                                       \
    {                                                                                                                  \
        .name = "state-dir", .kind = OPTION_TEXT, .offset = offsetof(struct vm_options, state_dir), .argument = "DIR", \
        .what = "directory of the VM, or of several VMs of which NAME says one", .complete = COMPLETE_DIRECTORY        \
    }

#define VM_OPTIONS_TIMEOUT                                                                                             \
    {                                                                                                                  \
        .name = "timeout", .kind = OPTION_DURATION, .offset = offsetof(struct vm_options, timeout_usec),               \
        .argument = "TIME", .what = "how long to wait for the answer"                                                  \
    }

#define VM_OPTIONS_JSON                                                                                                \
    {                                                                                                                  \
        .name = "json", .kind = OPTION_FLAG, .offset = offsetof(struct vm_options, json), .what = "print JSON"         \
    }

/* Parses the command line, connects, and does both. `options` is the first member of the verb's struct, which the
 * verb's table fills. -1: go on (what is returned is the caller's; the name is borrowed from argv, and may be NULL);
 * else the exit code. */
int vm_parse(const struct verb *verb, int argc, char **argv, struct vm_options *options, const char **ret_name);
int vm_connect(const struct vm_options *options, const char *name, struct rpc_client **ret);
int vm_open(const struct verb *verb, int argc, char **argv, struct vm_options *options, struct rpc_client **ret);
/* One call with the deadline of --timeout. params consumed. */
int vm_call(struct rpc_client *client, const struct vm_options *options, const char *method, json_t *params,
            json_t **ret_result, struct error **ret_error);
/* The socket of the VM's serial console, to be freed; ERROR_NOT_FOUND if it has none. */
int vm_find_console(struct rpc_client *client, uint64_t timeout_usec, char **ret_path, struct error **ret_error);
