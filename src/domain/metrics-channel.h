/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spec.domain.devices.downwardMetrics: the host's figures by the virtio-serial port org.github.vhostmd.1. A program in
 * the guest (vm-dump-metrics, or a shell) writes "GET /metrics/XML" and an empty line, and reads an XML text that ends
 * with an empty line; what is no such request is answered by "INVALID REQUEST". That is what KubeVirt's node agent
 * speaks (its pkg/downwardmetrics/virtio-serial), and vhostmd's own virtio transport.
 */
#pragma once

#include "base/event.h"
#include "base/strbuf.h"

struct metrics_channel;

/* Takes the fd, also when it fails. `write` appends the XML, which ends with a newline. A guest that asks again within
 * the interval waits: one request is looked at, and one answer held, at a time. */
int metrics_channel_new(sd_event *event, int fd, uint64_t interval_usec,
                        void (*write)(struct strbuf *text, void *userdata), void *userdata,
                        struct metrics_channel **ret);
void metrics_channel_free(struct metrics_channel *channel);
DEFINE_CLEANUP(struct metrics_channel *, metrics_channel_free)
