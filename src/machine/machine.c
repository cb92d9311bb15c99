/* SPDX-License-Identifier: Apache-2.0 */
/* The order in which a machine is built, and what its users read from it. */
#include "machine/machine.h"

#include "base/strv.h"
#include "machine/build.h"
#include "json/node.h"

static const char *const arch_names[] = {[MACHINE_ARCH_X86_64] = "x86_64", [MACHINE_ARCH_AARCH64] = "aarch64"};

static void build_identity(struct build *b)
{
    const char *name = b->vmi->domain_name;

    if (!text_is_clean(b, b->vmi->at, "the name of the VM", name))
        return;
    option(b, SECTION_MACHINE, "-name", text(b, "guest=%s,debug-threads=on", comma(b, name)));
    item(b, MACHINE_GROUP_MACHINE, NULL, NULL, text(b, "domain %s", name),
         "<namespace>_<name>, as KubeVirt names its domains");
    b->machine->name = text(b, "%s", name);
}

/* What stands on every command line, whatever the manifest says. */
static void build_process(struct build *b)
{
    option(b, SECTION_MACHINE, "-S", NULL);
    option(b, SECTION_MACHINE, "-nodefaults", NULL);
    option(b, SECTION_MACHINE, "-no-user-config", NULL);
    option(b, SECTION_LAST, "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    item(b, MACHINE_GROUP_MACHINE, NULL, NULL,
         "process: starts paused, without default devices, in QEMU's seccomp sandbox",
         "the launcher lets it run when everything is connected; a guest that breaks out of QEMU can start no program");
}

/* False if the manifest is for another architecture than the emulator. */
static bool arch_fits(const struct build *b)
{
    const char *arch = b->vmi->spec.architecture;

    return !arch || streq(arch, b->x86 ? "amd64" : "arm64");
}

static const char *type_default(const struct build *b)
{
    return b->x86 ? "q35" : "virt";
}

/* Of the types with a version, "pc-q35-7.2": distributions have their own ("pc-q35-rhel9.2.0"), so there is no telling
 * which one is near. */
static const char *newest_type(const struct build *b, char *const *known)
{
    const char *prefix = b->x86 ? "pc-q35-" : "virt-", *newest = NULL;

    for (char *const *k = known; *k; k++)
        if (startswith(*k, prefix) && (!newest || strverscmp(*k, newest) > 0))
            newest = *k;
    return newest;
}

static void build_type(struct build *b)
{
    const struct vmi_machine_type *machine = &b->domain->machine;
    const char *type = machine->type && *machine->type ? machine->type : type_default(b), *newest;
    char *const *known = b->facts->caps->machines;
    bool fits = b->x86 ? startswith(type, "q35") || startswith(type, "pc-q35") : startswith(type, "virt") != NULL;

    if (!arch_fits(b)) {
        host_fault(b, b->vmi->spec.at, "architecture %s cannot run in an emulator of %s (a QEMU for it is needed)",
                   b->vmi->spec.architecture, b->machine->arch);
        type = type_default(b);
    } else if (!text_is_plain(type, "-._")) {
        manifest_fault(b, machine->at, "machine type \"%s\" is no name (letters, digits, '-', '.', '_')", type);
        type = type_default(b);
    } else if (!fits) {
        manifest_fault(b, machine->at, "machine type \"%s\" is not served here (%s)", type,
                       b->x86 ? "q35, pc-q35-*: machines with PCI Express" : "virt, virt-*");
        type = type_default(b);
    } else if (known && !streq(type, type_default(b))) {
        bool found = false;

        for (char *const *k = known; *k; k++)
            found = found || streq(*k, type);
        if (!found) {
            newest = newest_type(b, known);
            host_fault(b, node_get(machine->at, "type") ?: machine->at,
                       "%s has no machine type \"%s\" (%s is there always%s%s)", qemu_name(b), type, type_default(b),
                       newest ? "; the newest with a version is " : "", newest ? newest : "");
        }
    }
    b->machine->type = text(b, "%s", type);
    strbuf_add_string(&b->machine_option, type);
    machine_set(b, "usb", "off");
    machine_set(b, "dump-guest-core", "off");
    if (b->x86)
        machine_set(b, "vmport", "off");
    else
        machine_set(b, "gic-version", "max");
    item(b, MACHINE_GROUP_MACHINE, machine->at, NULL, text(b, "machine %s", type),
         streq(type, type_default(b))
             ? "QEMU's newest version of the type; name a versioned one if the guest must not see changes"
             : "named in the manifest");
    if (!b->x86)
        item(b, MACHINE_GROUP_MACHINE, NULL, NULL, "interrupt controller: GIC, newest version",
             b->kvm ? "the host's own version under KVM" : "emulated: QEMU chooses the newest that it has");
}

static void build_accel(struct build *b)
{
    option(b, SECTION_MACHINE, "-accel", b->kvm ? "kvm" : "tcg");
    item(b, MACHINE_GROUP_MACHINE, NULL, NULL,
         b->kvm ? "acceleration: KVM" : "acceleration: none, the CPU is emulated (TCG)",
         b->kvm ? "KVM is usable on this host" : "KVM is not usable here, or emulation was asked for");
    b->machine->accel = b->kvm ? "kvm" : "tcg";
}

static void build_features(struct build *b)
{
    const struct vmi_features *features = &b->domain->features;
    bool acpi = !features->acpi || vmi_feature_on(features->acpi);

    machine_set(b, "acpi", acpi ? "on" : "off");
    if (!acpi)
        item(b, MACHINE_GROUP_MACHINE, features->acpi->at, NULL, "no ACPI tables",
             "features.acpi is disabled in the manifest");
    if (b->x86 && features->smm) {
        machine_set(b, "smm", vmi_feature_on(features->smm) ? "on" : "off");
        item(b, MACHINE_GROUP_MACHINE, features->smm->at, NULL,
             vmi_feature_on(features->smm) ? "system management mode" : "no system management mode", "in the manifest");
    }
}

/* What happens when the guest ends itself: SHUTDOWN with its reason (guest-shutdown, guest-panic), then QEMU's exit. */
static void build_actions(struct build *b)
{
    bool terminate = b->domain->reboot_policy == VMI_REBOOT_TERMINATE;
    const char *watchdog = b->watchdog_action;

    option(b, SECTION_MACHINE, "-action",
           text(b, "shutdown=poweroff,panic=shutdown%s%s%s", terminate ? ",reboot=shutdown" : "",
                watchdog ? ",watchdog=" : "", watchdog ? watchdog : ""));
    item(b, MACHINE_GROUP_MACHINE, NULL, NULL, "guest shutdown and panic end QEMU",
         "its last event says which it was, and no process stays behind, not even when the launcher is gone");
    if (terminate)
        item(b, MACHINE_GROUP_MACHINE, b->domain->at, NULL, "a guest reboot is a power-off",
             "rebootPolicy Terminate in the manifest");
}

static void build_boot(struct build *b)
{
    bool paused = b->vmi->spec.start_strategy && streq(b->vmi->spec.start_strategy, "Paused");

    option(b, SECTION_MACHINE, "-boot", paused ? "strict=on,menu=on,splash-time=10000" : "strict=on");
    item(b, MACHINE_GROUP_MACHINE, paused ? b->vmi->spec.at : NULL, NULL,
         paused ? "boot menu, 10 s; only devices with a boot order are booted"
                : "only devices with a boot order are booted",
         paused ? "startStrategy Paused: time to attach a viewer"
                : "a guest never falls through to a device nobody chose");
}

static void build_refused(struct build *b)
{
    if (b->domain->launch_security)
        manifest_fault(b, b->domain->launch_security,
                       "launchSecurity (SEV, SNP, TDX) is not built: this host could not prove it to the guest's owner "
                       "(leave it out)");
    if (b->domain->cpu.numa && b->domain->cpu.numa->guest_mapping_passthrough)
        manifest_fault(
            b, b->domain->cpu.numa->guest_mapping_passthrough,
            "guestMappingPassthrough is not built: the guest would not see the host's NUMA nodes (leave it out)");
}

/* Adding a kind of device is adding a line here. The order is that of the PCI ports, which guests remember: NICs come
 * first, then controllers, disks and the rest, as libvirt assigns them for KubeVirt. */
static void (*const builders[])(struct build *) = {
    build_refused,  build_identity,     build_process,       build_type,   build_accel,       build_features,
    build_cpu,      build_memory,       build_clock,         build_smbios, build_firmware,    build_boot,
    build_console,  build_nics,         build_filesystems,   build_sound,  build_controllers, build_channels,
    build_disks,    build_host_devices, build_balloon,       build_rng,    build_watchdog,    build_inputs,
    build_graphics, build_vsock,        build_memory_device, build_tpm,    build_panic,       build_actions,
    pci_finish,
};

/* ---- the command line ------------------------------------------------------------------------------------------ */

static int argv_add_option(char ***argv, const struct option *o)
{
    int r = strv_append(argv, o->name);

    if (r >= 0 && o->text)
        return strv_append(argv, o->text);
    if (r >= 0 && o->json) {
        /* in the order of insertion, which the builders fix */
        char *dumped = json_dumps(o->json, JSON_COMPACT);

        return dumped ? strv_consume(argv, dumped) : -ENOMEM;
    }
    return r;
}

static int argv_make(struct build *b)
{
    struct machine *m = b->machine;
    int r = strv_append(&m->argv, b->facts->caps->binary ? b->facts->caps->binary
                                                         : text(b, "qemu-system-%s", arch_names[b->facts->arch]));

    if (r >= 0)
        r = strv_append(&m->argv, "-machine");
    if (r >= 0)
        r = strv_append(&m->argv, strbuf_text(&b->machine_option));
    for (unsigned section = 0; r >= 0 && section < SECTION_COUNT; section++)
        for (size_t i = 0; r >= 0 && i < m->options.count; i++)
            if (m->options.items[i].section == section)
                r = argv_add_option(&m->argv, &m->options.items[i]);
    return r;
}

static int check_facts(const struct vmi *vmi, const struct machine_facts *facts, struct error **ret_error)
{
    if (!facts->caps || !facts->private_dir || (unsigned)facts->arch >= ELEMENTSOF(arch_names))
        return error_set(ret_error, ERROR_INTERNAL, EINVAL, "the facts of the host are incomplete");
    if (facts->caps->version && facts->caps->version < 7002000)
        return error_set(ret_error, ERROR_QEMU_TOO_OLD, EOPNOTSUPP, "QEMU %u.%u at %s is too old (7.2 and up)",
                         facts->caps->version / 1000000, facts->caps->version / 1000 % 1000,
                         facts->caps->binary ? facts->caps->binary : "its path");
    return 0;
}

static int build_result(struct build *b, struct error **ret_error)
{
    if (b->failure == BUILD_BAD_TEXT)
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EILSEQ,
                         "a path or a name that QEMU is to get is not UTF-8: rename it");
    if (b->failure != BUILD_FINE || b->machine_option.failed)
        return error_oom(ret_error);
    if (b->manifest_faults)
        return error_set(ret_error, ERROR_BAD_MANIFEST, EINVAL, "%zu fault%s in the manifest of %s",
                         b->manifest_faults + b->host_faults, b->manifest_faults + b->host_faults == 1 ? "" : "s",
                         b->vmi->domain_name);
    if (b->host_faults)
        return error_set(ret_error, ERROR_HOST, EINVAL, "this host cannot run %s as its manifest asks",
                         b->vmi->domain_name);
    if (argv_make(b) < 0)
        return error_oom(ret_error);
    return 0;
}

int machine_build(const struct vmi *vmi, const struct machine_facts *facts, struct machine **ret, struct faults *faults,
                  struct error **ret_error)
{
    _cleanup_(machine_freep) struct machine *machine = NULL;
    struct build b = {
        .vmi = vmi,
        .domain = &vmi->spec.domain,
        .devices = &vmi->spec.domain.devices,
        .facts = facts,
        .faults = faults,
        .x86 = facts->arch == MACHINE_ARCH_X86_64,
        .kvm = facts->accel == MACHINE_ACCEL_KVM,
    };
    int r = check_facts(vmi, facts, ret_error);

    if (r < 0)
        return r;
    machine = calloc(1, sizeof(*machine));
    if (!machine || !(machine->arena = arena_new()))
        return error_oom(ret_error);
    b.machine = machine;
    b.arena = machine->arena;
    machine->arch = arch_names[facts->arch];
    for (size_t i = 0; i < ELEMENTSOF(builders) && b.failure == BUILD_FINE; i++)
        builders[i](&b);
    r = build_result(&b, ret_error);
    strbuf_done(&b.machine_option);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(machine);
    return 0;
}

void machine_free(struct machine *machine)
{
    if (!machine)
        return;
    for (size_t i = 0; i < machine->options.count; i++)
        json_decref(machine->options.items[i].json);
    strv_free(machine->argv);
    strv_free(machine->lacks);
    arena_free(machine->arena);
    free(machine);
}

/* ---- what users read ------------------------------------------------------------------------------------------- */

char *const *machine_get_argv(const struct machine *machine)
{
    return machine->argv;
}

char *const *machine_get_environment(const struct machine *machine)
{
    return machine->environment.items;
}

char *const *machine_get_lacks(const struct machine *machine)
{
    return machine->lacks;
}

const struct machine_fd *machine_get_fds(const struct machine *machine, size_t *ret_count)
{
    *ret_count = machine->fds.count;
    return machine->fds.items;
}

const struct machine_helper *machine_get_helpers(const struct machine *machine, size_t *ret_count)
{
    *ret_count = machine->helpers.count;
    return machine->helpers.items;
}

const struct machine_item *machine_get_items(const struct machine *machine, size_t *ret_count)
{
    *ret_count = machine->items.count;
    return machine->items.items;
}

const char *machine_get_serial(const struct machine *machine, bool *ret_log)
{
    *ret_log = machine->serial_log;
    return machine->serial;
}

const char *machine_get_firmware_log(const struct machine *machine)
{
    return machine->firmware_log;
}

const char *machine_get_nvram(const struct machine *machine, const char **ret_template)
{
    *ret_template = machine->nvram_template;
    return machine->nvram;
}

const char *machine_nic_id(const struct machine *machine, const char *interface)
{
    for (size_t i = 0; i < machine->nics.count; i++)
        if (streq(machine->nics.items[i].interface, interface))
            return machine->nics.items[i].id;
    return NULL;
}

const char *machine_nic_tap(const struct machine *machine, const char *interface)
{
    for (size_t i = 0; i < machine->nics.count; i++)
        if (streq(machine->nics.items[i].interface, interface))
            return machine->nics.items[i].tap;
    return NULL;
}

const char *machine_nic_mac(const struct machine *machine, const char *interface)
{
    for (size_t i = 0; i < machine->nics.count; i++)
        if (streq(machine->nics.items[i].interface, interface))
            return machine->nics.items[i].mac;
    return NULL;
}

const char *machine_balloon_id(const struct machine *machine)
{
    for (size_t i = 0; i < machine->items.count; i++)
        if (machine->items.items[i].id && streq(machine->items.items[i].id, "balloon0"))
            return "balloon0";
    return NULL;
}
