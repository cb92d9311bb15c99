/* SPDX-License-Identifier: Apache-2.0 */
/* domain.json: what the next launcher needs to find a running VM again, and the monitor to know which process it is. */
#pragma once

#include <jansson.h>
#include <sys/types.h>

#include "base/error.h"
#include "domain/domain.h"

#define STATE_FILE_NAME "domain.json"

struct domain_state_file {
    json_t *json; /* the whole; the strings below are borrowed from it */
    bool is_gone; /* QEMU ended in this boot: -ESTALE, and the rest says how it stood */
    pid_t pid;    /* 0: none that can be a process */
    uint64_t start_ticks;
    const char *boot_id;
    const char *manifest; /* the applied spec, YAML or JSON text */
    const char *uuid;     /* of the machine: one that the manifest leaves open is drawn anew at each reading */
    const char *accel, *accel_reason;
    enum domain_state state;
    enum domain_reason reason;
    uint64_t since_wall, stop_asked_wall;
    /* CLOCK_MONOTONIC, which is the same for every process of a boot, and which nobody sets; 0: none */
    uint64_t stop_asked, stop_deadline, thaw_deadline;
    const char *pause_volume, *pause_error;
    json_t *memory_dump;  /* or NULL */
    json_t *disks;        /* when they are not those of the manifest; or NULL */
    json_t *half_plugged; /* see struct domain; or NULL */
    unsigned plug_serial;
    json_t *block_job;          /* a backup or mirror that runs; or NULL */
    json_t *guest_interfaces;   /* the agent's last answer to guest-network-get-interfaces, or NULL */
    json_t *access_credentials; /* or NULL */
    int balloon_stats_seconds;  /* 0: the default */
    unsigned io_retries;
};

/*
 * Reads the state of a VM that may still run. -ENOENT: there is none. -ESTALE: it is of another boot, or its process is
 * gone (the pid may belong to another one by now): nothing to adopt. -EBADMSG, ERROR_BAD_DATA: not readable.
 */
int domain_state_read(const char *dir, struct domain_state_file *ret, struct error **ret_error);
/* What the text says, without a look at the host; `name` is for messages. The strings live as long as ret->json. */
int domain_state_parse(const char *text, size_t length, const char *name, struct domain_state_file *ret,
                       struct error **ret_error);
void domain_state_done(struct domain_state_file *state);
