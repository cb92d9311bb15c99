/* SPDX-License-Identifier: Apache-2.0 */
/* The virtual CPU: model, feature flags, Hyper-V enlightenments, topology. */
#include "machine/build.h"

struct flags {
    struct build *b;
    struct strbuf text;
};

static void flag(struct flags *f, const char *name, const char *value)
{
    strbuf_printf(&f->text, ",%s=%s", name, value);
}

/* Hyper-V enlightenments are KVM's: without it QEMU refuses some (vpindex) and ignores the rest. */
static void flag_hyperv(struct flags *f, const char *name, const char *value)
{
    if (f->b->kvm)
        flag(f, name, value);
}

static void flag_on(struct flags *f, const char *name, bool on)
{
    flag(f, name, on ? "on" : "off");
}

/* ---- model ----------------------------------------------------------------------------------------------------- */

static const char *cpu_model(struct build *b)
{
    const struct vmi_cpu *cpu = &b->domain->cpu;
    const char *model = cpu->model && *cpu->model ? cpu->model : b->x86 ? "host-model" : "host-passthrough";
    bool host = streq(model, "host-model") || streq(model, "host-passthrough");

    if (host && b->kvm) {
        item(b, MACHINE_GROUP_CPU, cpu->at, NULL, "CPU host",
             streq(model, "host-model")
                 ? "host-model: all that this host's CPU has; a named model would only matter for a live migration "
                   "between unlike hosts"
                 : "host-passthrough in the manifest");
        return "host";
    }
    if (host) {
        item(b, MACHINE_GROUP_CPU, cpu->at, NULL, "CPU max",
             "there is no host CPU to pass on under emulation: all that QEMU can emulate");
        return "max";
    }
    if (!text_is_plain(model, "-._")) {
        manifest_fault(b, cpu->at, "CPU model \"%s\" is no name (letters, digits, '-', '.', '_')", model);
        return "max";
    }
    item(b, MACHINE_GROUP_CPU, cpu->at, NULL, text(b, "CPU %s", model), "named in the manifest");
    return model;
}

/* ---- features -------------------------------------------------------------------------------------------------- */

static void cpu_features(struct flags *f)
{
    struct build *b = f->b;
    const struct vmi_cpu *cpu = &b->domain->cpu;

    for (size_t i = 0; i < cpu->features.count; i++) {
        const struct vmi_cpu_feature *feature = &cpu->features.items[i];
        bool on = feature->policy != VMI_POLICY_DISABLE && feature->policy != VMI_POLICY_FORBID;

        if (!feature->name || !text_is_plain(feature->name, "-._")) {
            manifest_fault(b, feature->at, "CPU feature \"%s\" is no name (letters, digits, '-', '.', '_')",
                           feature->name ? feature->name : "");
            continue;
        }
        flag_on(f, feature->name, on);
        item(b, MACHINE_GROUP_CPU, feature->at, NULL, text(b, "CPU feature %s %s", feature->name, on ? "on" : "off"),
             feature->policy == VMI_POLICY_OPTIONAL ? "optional: QEMU leaves it out where the host lacks it"
                                                    : "policy in the manifest");
    }
}

/* Hyper-V enlightenments (docs/system/i386/hyperv.rst) that are a flag, each with the field that asks for it. */
struct enlightenment {
    size_t offset; /* of a struct vmi_feature * in struct vmi_hyperv */
    const char *flag;
};

#define ENLIGHTENMENT(field, name)                                                                                     \
    {                                                                                                                  \
        offsetof(struct vmi_hyperv, field), name                                                                       \
    }
static const struct enlightenment enlightenments[] = {
    ENLIGHTENMENT(relaxed, "hv-relaxed"),
    ENLIGHTENMENT(vapic, "hv-vapic"),
    ENLIGHTENMENT(vpindex, "hv-vpindex"),
    ENLIGHTENMENT(runtime, "hv-runtime"),
    ENLIGHTENMENT(synic, "hv-synic"),
    ENLIGHTENMENT(reset, "hv-reset"),
    ENLIGHTENMENT(frequencies, "hv-frequencies"),
    ENLIGHTENMENT(reenlightenment, "hv-reenlightenment"),
    ENLIGHTENMENT(ipi, "hv-ipi"),
    ENLIGHTENMENT(evmcs, "hv-evmcs"),
};

static void hyperv_with_values(struct flags *f, const struct vmi_hyperv *hv)
{
    struct build *b = f->b;

    if (hv->spinlocks && hv->spinlocks->enabled != OPT_FALSE) {
        int64_t retries = opt_int_or(hv->spinlocks->spinlocks, 4096);

        if (retries < 0 || retries > UINT32_MAX)
            manifest_fault(b, hv->spinlocks->at, "%lld spin lock retries (0 to %u)", (long long)retries, UINT32_MAX);
        else
            flag_hyperv(f, "hv-spinlocks", text(b, "0x%llx", (unsigned long long)retries));
    }
    if (hv->synictimer && hv->synictimer->enabled != OPT_FALSE) {
        flag_hyperv(f, "hv-stimer", "on");
        if (vmi_feature_on(hv->synictimer->direct))
            flag_hyperv(f, "hv-stimer-direct", "on");
    }
    if (hv->tlbflush && hv->tlbflush->enabled != OPT_FALSE) {
        flag_hyperv(f, "hv-tlbflush", "on");
        if (vmi_feature_on(hv->tlbflush->direct))
            flag_hyperv(f, "hv-tlbflush-direct", "on");
        if (vmi_feature_on(hv->tlbflush->extended))
            flag_hyperv(f, "hv-tlbflush-ext", "on");
    }
    if (hv->vendorid && hv->vendorid->enabled != OPT_FALSE && hv->vendorid->vendorid) {
        const char *vendor = hv->vendorid->vendorid;

        if (strlen(vendor) > 12)
            manifest_fault(b, hv->vendorid->at, "Hyper-V vendor id \"%s\" is longer than 12 bytes", vendor);
        else if (strchr(vendor, ','))
            /* target/i386 splits -cpu at every comma: here, doubling one does not help */
            manifest_fault(b, hv->vendorid->at, "Hyper-V vendor id \"%s\" has a comma, which QEMU cannot be told",
                           vendor);
        else if (text_is_clean(b, hv->vendorid->at, "the Hyper-V vendor id", vendor))
            flag_hyperv(f, "hv-vendor-id", vendor);
    }
}

static void cpu_hyperv(struct flags *f)
{
    struct build *b = f->b;
    const struct vmi_features *features = &b->domain->features;
    const struct vmi_hyperv *hv = features->hyperv;

    if (features->hyperv_passthrough && features->hyperv_passthrough->enabled != OPT_FALSE) {
        flag_hyperv(f, "hv-passthrough", "on");
        item(b, MACHINE_GROUP_CPU, features->hyperv_passthrough->at, NULL,
             "all Hyper-V enlightenments that the host's KVM has",
             b->kvm ? "hypervPassthrough in the manifest" : "hypervPassthrough; left out under emulation");
    }
    if (!hv)
        return;
    for (size_t i = 0; i < ELEMENTSOF(enlightenments); i++) {
        const void *field = (const char *)hv + enlightenments[i].offset;

        if (vmi_feature_on(*(const struct vmi_feature *const *)field))
            flag_hyperv(f, enlightenments[i].flag, "on");
    }
    hyperv_with_values(f, hv);
    item(b, MACHINE_GROUP_CPU, hv->at, NULL, "Hyper-V enlightenments",
         b->kvm ? "in the manifest" : "in the manifest; left out under emulation, which has none");
}

static void cpu_kvm_features(struct flags *f)
{
    struct build *b = f->b;
    const struct vmi_features *features = &b->domain->features;
    const struct vmi_timer *timer = b->domain->clock ? b->domain->clock->timer : NULL;

    if (features->kvm && features->kvm->hidden == OPT_TRUE) {
        flag_on(f, "kvm", false);
        item(b, MACHINE_GROUP_CPU, features->kvm->at, NULL, "KVM is hidden from the guest",
             "features.kvm.hidden in the manifest");
    }
    if (features->pvspinlock) {
        flag_on(f, "kvm-pv-unhalt", vmi_feature_on(features->pvspinlock));
        item(b, MACHINE_GROUP_CPU, features->pvspinlock->at, NULL, "paravirtual spin locks", "in the manifest");
    }
    if (features->apic && features->apic->enabled != OPT_FALSE && features->apic->end_of_interrupt != OPT_UNSET) {
        flag_on(f, "kvm-pv-eoi", features->apic->end_of_interrupt == OPT_TRUE);
        item(b, MACHINE_GROUP_CPU, features->apic->at, NULL, "paravirtual end of interrupt", "in the manifest");
    }
    if (timer && timer->kvm && timer->kvm->present != OPT_UNSET)
        flag_on(f, "kvmclock", timer->kvm->present == OPT_TRUE);
    if (timer && timer->hyperv && timer->hyperv->present != OPT_FALSE)
        flag_hyperv(f, "hv-time", "on");
    if (b->domain->cpu.realtime) {
        flag_on(f, "pmu", false);
        item(b, MACHINE_GROUP_CPU, b->domain->cpu.realtime->at, NULL, "no performance counters",
             "realtime: their interrupts cost latency");
    }
}

static void cpu_panic(struct flags *f)
{
    for (size_t i = 0; i < f->b->devices->panic_devices.count; i++)
        if (f->b->devices->panic_devices.items[i].model == VMI_PANIC_HYPERV)
            flag_hyperv(f, "hv-crash", "on");
}

/* ---- topology -------------------------------------------------------------------------------------------------- */

/* A PC's APIC ids above this need interrupt remapping (hw/i386/x86.c, "x2APIC"). */
enum { APIC_LIMIT = 255 };

static void cpu_topology(struct build *b)
{
    const struct vmi_cpu *cpu = &b->domain->cpu;
    struct machine *m = b->machine;
    int64_t cores = opt_int_or(cpu->cores, 1), sockets = opt_int_or(cpu->sockets, 1),
            threads = opt_int_or(cpu->threads, 1), max_sockets = opt_int_or(cpu->max_sockets, sockets);
    bool ordered;
    /* far above what any QEMU takes, and no product of three overflows */
    const int64_t most = 100000;

    if (cores < 1 || sockets < 1 || threads < 1 || cores > most || sockets > most || threads > most ||
        max_sockets > most) {
        manifest_fault(b, cpu->at, "%lld sockets of %lld cores of %lld threads (each 1 and up)", (long long)sockets,
                       (long long)cores, (long long)threads);
        return;
    }
    max_sockets = MAX(max_sockets, sockets);
    if (max_sockets * cores * threads > 4096) {
        manifest_fault(b, cpu->at, "%lld vCPUs (QEMU's machines take up to 4096)",
                       (long long)(max_sockets * cores * threads));
        return;
    }
    m->sockets = (unsigned)sockets;
    m->cores = (unsigned)cores;
    m->threads = (unsigned)threads;
    m->vcpus = (unsigned)(sockets * cores * threads);
    /* For a machine that can only have one vCPU, TCG makes plain instructions of the guest's locked ones and of its
     * barriers (no CF_PARALLEL; since QEMU 8.1 explicit barriers are kept, x86's locked instructions are not). virtio's
     * order against the threads that serve its queues is then left to luck, and a lost kick or interrupt stops a disk.
     */
    ordered = !b->kvm && max_sockets * cores * threads == 1;
    if (ordered)
        max_sockets = 2;
    m->max_vcpus = (unsigned)(max_sockets * cores * threads);
    if (m->max_vcpus > m->vcpus)
        option(b, SECTION_MACHINE, "-smp",
               text(b, "%u,maxcpus=%u,sockets=%u,cores=%u,threads=%u", m->vcpus, m->max_vcpus, (unsigned)max_sockets,
                    m->cores, m->threads));
    else
        option(b, SECTION_MACHINE, "-smp",
               text(b, "%u,sockets=%u,cores=%u,threads=%u", m->vcpus, m->sockets, m->cores, m->threads));
    item(b, MACHINE_GROUP_CPU, cpu->at, NULL,
         text(b, "%u vCPU%s: %u socket%s, %u core%s, %u thread%s", m->vcpus, m->vcpus == 1 ? "" : "s", m->sockets,
              m->sockets == 1 ? "" : "s", m->cores, m->cores == 1 ? "" : "s", m->threads, m->threads == 1 ? "" : "s"),
         ordered
             ? "topology in the manifest; the empty socket for a second one keeps an emulated guest's memory barriers"
         : m->max_vcpus > m->vcpus ? text(b, "maxSockets: up to %u vCPUs can be plugged in", m->max_vcpus)
                                   : "topology in the manifest, or derived from resources");
    if (cpu->dedicated_cpu_placement == OPT_TRUE)
        item(b, MACHINE_GROUP_CPU, cpu->at, NULL, "vCPU threads are pinned",
             "dedicatedCpuPlacement: one of the container's CPUs for each");
}

static void cpu_many(struct build *b)
{
    json_t *iommu;

    if (!b->x86 || b->machine->max_vcpus <= APIC_LIMIT)
        return;
    if (!b->kvm && !qemu_has(b, QEMU_TCG_X2APIC)) {
        host_fault(b, b->domain->cpu.at, "%u vCPUs under emulation need QEMU 8.2 (up to %d with this one)",
                   b->machine->max_vcpus, APIC_LIMIT);
        if (!b->facts->assume)
            return;
    }
    if (b->kvm)
        machine_set(b, "kernel-irqchip", "split");
    iommu = device_new(b, b->domain->cpu.at, "intel-iommu", "iommu0");
    set_string(b, iommu, "intremap", "on");
    set_string(b, iommu, "eim", "on");
    item(b, MACHINE_GROUP_CPU, b->domain->cpu.at, "iommu0", "interrupt remapping",
         "more than 255 vCPUs need x2APIC addresses");
}

void build_cpu(struct build *b)
{
    struct flags f = {.b = b};
    const char *model = cpu_model(b);

    strbuf_add_string(&f.text, model);
    if (b->x86 && !streq(model, "host") && !streq(model, "max"))
        flag_on(&f, "mpx", false); /* as KubeVirt: gone from new CPUs, and no guest may come to need it */
    if (b->x86) {
        cpu_kvm_features(&f);
        cpu_hyperv(&f);
        cpu_panic(&f);
    } else if (b->domain->features.hyperv || b->domain->features.hyperv_passthrough) {
        manifest_fault(b, b->domain->features.at, "Hyper-V enlightenments are for amd64 only");
    }
    cpu_features(&f);
    b->machine->cpu_model = text(b, "%s", model);
    b->machine->cpu_text = text(b, "%s", strbuf_text(&f.text));
    if (f.text.failed)
        b->failure = BUILD_NO_MEMORY;
    strbuf_done(&f.text);
    option(b, SECTION_MACHINE, "-cpu", b->machine->cpu_text);
    cpu_topology(b);
    cpu_many(b);
}
