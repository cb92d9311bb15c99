/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device plugin (compat §7.6): tells kubelet that this node has so many of a device, and gives a container its node
 * in /dev. Registers with kubelet, and again whenever kubelet has started anew; follows the device's coming and going.
 */
#pragma once

#include <systemd/sd-event.h>

#include "base/error.h"

#define DEVICE_PLUGIN_DIR "/var/lib/kubelet/device-plugins"

struct device_plugin;

struct device_kind {
    const char *name;        /* "kvm": the resource is devices.kubevirt.io/kvm, the socket kubevirt-kvm.sock */
    const char *path;        /* "/dev/kvm", in the container */
    const char *permissions; /* "rw" */
};

/* `changed` is called when the figures below may have changed. `kind` must live on. `dir` is kubelet's folder, `root`
 * the place where the node's /dev is ("" in most cases). */
int device_plugin_new(sd_event *event, const struct device_kind *kind, const char *dir, const char *root,
                      void (*changed)(void *userdata), void *userdata, struct device_plugin **ret,
                      struct error **ret_error);
void device_plugin_free(struct device_plugin *plugin);
DEFINE_CLEANUP(struct device_plugin *, device_plugin_free)

struct device_plugin_figures {
    bool registered; /* kubelet has taken the registration and watches */
    bool healthy;    /* the device is there */
    uint64_t registrations, allocations;
};
void device_plugin_get_figures(const struct device_plugin *plugin, struct device_plugin_figures *ret);
