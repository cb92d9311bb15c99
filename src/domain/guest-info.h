/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the guest agent tells of the guest, asked at intervals (compat §5.8) and answered from memory. Asking starts
 * when the agent has answered once and stops when the channel closes; what is known is kept over that, so that
 * addresses do not flap when the agent restarts.
 */
#pragma once

#include <jansson.h>

#include <vmlet/qmp.h>

#include "base/event.h"

struct guest_info;

/* How often what is asked, at the most, in microseconds (KubeVirt's flags --qemu-agent-…-interval); 0: the default.
 * Below AGENT_INTERVAL_MIN_USEC it is that. */
struct guest_info_intervals {
    uint64_t system, filesystems, users, version, freeze;
};

/* A command's answer changed: "guest-network-get-interfaces", "guest-get-osinfo", "guest-fsfreeze-status"… */
typedef void (*guest_info_changed_fn)(struct guest_info *info, const char *command, void *userdata);

struct guest_info *guest_info_new(sd_event *event, guest_info_changed_fn changed, void *userdata);
/* Before the start. */
void guest_info_set_intervals(struct guest_info *info, const struct guest_info_intervals *intervals);
void guest_info_free(struct guest_info *info);
DEFINE_CLEANUP(struct guest_info *, guest_info_free)

/* All commands are asked at once, and then each at its own interval, which doubles from 10 s to its maximum; the state
 * of the freeze each 5 s while it is frozen. */
void guest_info_start(struct guest_info *info, struct qga_client *agent);
void guest_info_stop(struct guest_info *info);
/* Nothing is asked while it is held (the guest is paused or asleep, and would not answer); afterwards what has fallen
 * due is asked at once. */
void guest_info_hold(struct guest_info *info, bool held);
/* The answer kept for a command, borrowed; NULL before the first. */
json_t *guest_info_get(const struct guest_info *info, const char *command);
/* Replaces a kept answer by what an action has just learned ("frozen"); consumed. */
void guest_info_set(struct guest_info *info, const char *command, json_t *answer);
/* Something may have changed it: asked now, besides its interval. */
void guest_info_ask(struct guest_info *info, const char *command);

/* What a former launcher was told: stands until the agent answers. Nobody is told of a change. Consumed. */
void guest_info_restore(struct guest_info *info, const char *command, json_t *answer);

/* KubeVirt's VirtualMachineInstanceGuestAgentInfo, …GuestOSUserList, …FileSystemList: new references. */
json_t *guest_info_to_json(const struct guest_info *info);
json_t *guest_info_users_to_json(const struct guest_info *info, size_t most);
json_t *guest_info_filesystems_to_json(const struct guest_info *info, size_t most);
/* api.Domain's Status.OSInfo and Status.Interfaces ([{Mac, Ip, IPs, InterfaceName}]); loopback left out. */
json_t *guest_info_os_to_domain_json(const struct guest_info *info);
json_t *guest_info_interfaces_to_domain_json(const struct guest_info *info);
