/* SPDX-License-Identifier: Apache-2.0 */
/* The manifests that the network's fuzz targets plan for: the first byte of an input chooses one. */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vmlet/vmi.h>

#include "base/util.h"
#include "json/faults.h"

static const char *const net_manifests[] = {
    "interfaces: [{name: default, bridge: {}}, {name: blue, bridge: {}}]",
    "interfaces: [{name: default, masquerade: {}, ports: [{port: 80}, {port: 53, protocol: UDP}]}, "
    "{name: blue, bridge: {}}]",
    "interfaces: [{name: default, masquerade: {}, dhcpOptions: {ntpServers: [10.0.0.1], bootFileName: pxe}}, "
    "{name: blue, binding: {name: passt}}], networkInterfaceMultiqueue: true",
    "interfaces: [{name: default, binding: {name: passt}}, {name: blue, bridge: {}, state: absent}]",
};

static struct vmi *net_vmi(uint8_t chosen)
{
    static struct vmi *made[ELEMENTSOF(net_manifests)];
    size_t i = chosen % ELEMENTSOF(net_manifests);
    struct faults faults = {.source = "fuzz"};
    char text[1024];

    snprintf(text, sizeof(text),
             "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\n"
             "metadata: {name: testvm, namespace: default, uid: 9eae133d-5264-4040-9261-2ff5827e9540}\n"
             "spec: {domain: {cpu: {cores: 2}, memory: {guest: 256Mi}, devices: {%s}},\n"
             "  networks: [{name: default, pod: {}}, {name: blue, multus: {networkName: b}}]}\n",
             net_manifests[i]);
    if (!made[i] && vmi_load_text(text, strlen(text), "fuzz", NULL, &made[i], &faults, NULL) < 0) {
        fputs(faults_format(&faults), stderr);
        abort();
    }
    return made[i];
}
