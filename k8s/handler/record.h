/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the agent has to know of an instance when it starts anew, one file each, by UID (compat §7.4): where its
 * launcher listens, also when the object is gone, and what netsetup has made.
 */
#pragma once

#include <jansson.h>

#include "base/error.h"

struct record {
    char *uid, *namespace_, *name, *pod_uid;
    char *links;         /* netsetup's interfaces, as JSON text: a tree would take five times as much; NULL: not done */
    int64_t generation;  /* of the object that the VM was last made like; 0: none */
    int64_t claim_bytes; /* of all its claims as the VM was last told: more of them is news for it */
    uint64_t next_event; /* of the launcher's events: the first that has not been seen */
};

void record_done(struct record *record);
int record_save(const char *dir, const struct record *record, struct error **ret_error);
/* -ENOENT without a file; -EBADMSG for what is no record. */
int record_load(const char *dir, const char *uid, struct record *ret, struct error **ret_error);
void record_remove(const char *dir, const char *uid);
/* Calls `found` with each UID that has a record. */
int record_list(const char *dir, void (*found)(const char *uid, void *userdata), void *userdata);
/* A UID as the API server makes them: nothing that would lead out of the folder. */
bool uid_is_valid(const char *uid);
