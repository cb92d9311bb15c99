/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the firmware says of its own work, in the launcher's log: a line each, behind "[SeaBios]: " as KubeVirt has it.
 * It comes from the machine's debug port through a fifo. A guest can write to that port for ever: so it is bounded, and
 * what comes after that is read and dropped (QEMU waits, all of it, while the fifo is full).
 */
#pragma once

#include "base/error.h"
#include "base/event.h"

struct firmware_log;

/* path: the fifo, which is there. */
int firmware_log_new(sd_event *event, const char *path, struct firmware_log **ret, struct error **ret_error);
/* QEMU has ended: takes what is still on its way. */
void firmware_log_drain(struct firmware_log *log);
void firmware_log_free(struct firmware_log *log);
DEFINE_CLEANUP(struct firmware_log *, firmware_log_free)
