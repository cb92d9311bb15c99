/* SPDX-License-Identifier: Apache-2.0 */
#include "host/node-labels.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "host/accel.h"
#include "host/caps.h"

#define LABEL_NAME_MAX 63U /* of Kubernetes, behind the slash */
#define MAX_HYPERV     16U

/* A label's name: letters, digits, and -_. between them. */
static bool is_label_name(const char *name)
{
    size_t n = 0;

    for (; name[n]; n++) {
        bool plain = (name[n] >= 'a' && name[n] <= 'z') || (name[n] >= 'A' && name[n] <= 'Z') ||
                     (name[n] >= '0' && name[n] <= '9');
        bool inner = name[n] == '-' || name[n] == '_' || name[n] == '.';

        if (!plain && !(inner && n > 0 && name[n + 1]))
            return false;
    }
    return n > 0 && n <= LABEL_NAME_MAX;
}

static void put(json_t *labels, const char *prefix, const char *name)
{
    char key[200];

    if (!is_label_name(name))
        return;
    snprintf(key, sizeof(key), "%s.node.kubevirt.io/%s", prefix, name);
    json_object_set_new(labels, key, json_string("true"));
}

/* As libvirt's CPU map calls them, which is where KubeVirt has the names from. */
static const char *vendor_name(const char *cpuid)
{
    static const struct {
        const char *cpuid, *name;
    } table[] = {{"GenuineIntel", "Intel"}, {"AuthenticAMD", "AMD"}, {"HygonGenuine", "Hygon"}};

    for (size_t i = 0; i < ELEMENTSOF(table); i++)
        if (streq(table[i].cpuid, cpuid))
            return table[i].name;
    return cpuid;
}

json_t *node_labels_of(const json_t *cpus, const char *const *hyperv)
{
    static const struct {
        const char *member, *prefix;
    } lists[] = {{"models", "cpu-model"}, {"features", "cpu-feature"}, {"machines", "machine-type"}};
    /* properties of QEMU's CPU object that are no features of a CPU */
    static const char *const hidden[] = {"check",      "enforce",  "migratable",
                                         "hotplugged", "realized", "start-powered-off"};
    const char *vendor = json_string_value(json_object_get(cpus, "vendor"));
    json_t *labels = json_object(), *item;
    size_t i;

    for (size_t l = 0; l < ELEMENTSOF(lists); l++)
        json_array_foreach (json_object_get(cpus, lists[l].member), i, item) {
            const char *name = json_string_value(item);
            bool skip = !name || startswith(name, "x-");

            for (size_t h = 0; h < ELEMENTSOF(hidden) && !skip; h++)
                skip = l == 1 && streq(name, hidden[h]);
            if (!skip && !(l == 2 && streq(name, "none")))
                put(labels, lists[l].prefix, name);
        }
    if (vendor)
        put(labels, "cpu-vendor", vendor_name(vendor));
    for (; hyperv && *hyperv; hyperv++)
        put(labels, "hyperv", *hyperv);
    return labels;
}

/* What Hyper-V's interface KVM can show to a Windows guest; the names are KubeVirt's, the numbers KVM's. */
static void ask_hyperv(const char *ret[MAX_HYPERV + 1])
{
#ifdef KVM_CAP_HYPERV_TLBFLUSH
    static const struct {
        int extension;
        const char *name;
    } table[] = {
        {KVM_CAP_HYPERV, "base"},
        {KVM_CAP_HYPERV_TIME, "time"},
        {KVM_CAP_HYPERV_VP_INDEX, "vpindex"},
        {KVM_CAP_HYPERV_TLBFLUSH, "tlbflush"},
        {KVM_CAP_HYPERV_SEND_IPI, "ipi"},
        {KVM_CAP_HYPERV_SYNIC, "synic"},
        {KVM_CAP_HYPERV_SYNIC2, "synic2"},
        {KVM_CAP_HYPERV_CPUID, "cpuid"},
        {KVM_CAP_HYPERV_ENLIGHTENED_VMCS, "evmcs"},
    };
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    size_t n = 0;

    for (size_t i = 0; i < ELEMENTSOF(table) && fd >= 0; i++)
        if (ioctl(fd, KVM_CHECK_EXTENSION, table[i].extension) > 0)
            ret[n++] = table[i].name;
    if (fd >= 0)
        close(fd);
#endif
}

int node_labels_load(json_t **ret, struct error **ret_error)
{
    _cleanup_free_ char *binary = NULL;
    const char *hyperv[MAX_HYPERV + 1] = {NULL};
    struct accel_result kvm;
    json_t *cpus;
    int r = qemu_find_binary(NULL, machine_arch_native(), &binary, ret_error);

    if (r < 0)
        return r;
    accel_probe_kvm(&kvm);
    r = qemu_cpus_probe(binary, kvm.kvm_usable, &cpus, ret_error);
    if (r < 0)
        return r;
    if (kvm.kvm_usable)
        ask_hyperv(hyperv);
    *ret = node_labels_of(cpus, hyperv);
    json_decref(cpus);
    return *ret ? 0 : error_oom(ret_error);
}
