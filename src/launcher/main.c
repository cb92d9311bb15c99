/* SPDX-License-Identifier: Apache-2.0 */
/* virt-launcher: KubeVirt's flags and environment in, one VM out. */
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <vmlet-config.h>

#include "base/crash.h"
#include "base/duration.h"
#include "base/limits.h"
#include "base/log.h"
#include "domain/sandbox.h"
#include "launcher/launcher.h"

/* What a flag of KubeVirt's virt-launcher means here (compat §5.2). */
enum flag_kind {
    FLAG_STRING,
    FLAG_DURATION, /* "3m", "278s"; microseconds */
    FLAG_SECONDS,  /* a number; microseconds */
    FLAG_BYTES,    /* at least a page */
    FLAG_LEVEL,    /* klog's */
    FLAG_BOOL,
    FLAG_IGNORED_VALUE, /* of libvirt, or of a part that is not built: accepted, warned about once */
    FLAG_IGNORED_BOOL,
};

#define DEBUG_VERBOSITY    4 /* of klog's numbers */
#define FIRMWARE_VERBOSITY 6 /* KubeVirt's threshold is "more than 5" */

struct flags {
    const char *name, *namespace_, *uid, *share_dir, *private_dir, *ephemeral_dir, *container_disk_dir, *hotplug_dir,
        *empty_disk_dir, *ovmf_path, *qemu;
    uint64_t qemu_timeout, grace, console_log_bytes, verbosity;
    struct guest_info_intervals agent;
    bool simulate_crash;
    bool allow_emulation, run_as_nonroot, keep_after_failure, help, version, verbose, allow_qmp_writes;
};

static const struct flag {
    const char *name;
    enum flag_kind kind;
    size_t offset;
    const char *what;
} table[] = {
#define STRING(name, member, what)                                                                                     \
    {                                                                                                                  \
        name, FLAG_STRING, offsetof(struct flags, member), what                                                        \
    }
#define DURATION(name, member, what)                                                                                   \
    {                                                                                                                  \
        name, FLAG_DURATION, offsetof(struct flags, member), what                                                      \
    }
#define BOOL(name, member, what)                                                                                       \
    {                                                                                                                  \
        name, FLAG_BOOL, offsetof(struct flags, member), what                                                          \
    }
    STRING("name", name, "name of the VirtualMachineInstance"),
    STRING("namespace", namespace_, "its namespace"),
    STRING("uid", uid, "its UID"),
    DURATION("qemu-timeout", qemu_timeout, "give up when no VM was asked for within this time (3m)"),
    {"grace-period-seconds", FLAG_SECONDS, offsetof(struct flags, grace),
     "from SIGTERM to the end of QEMU by force (30)"},
    STRING("kubevirt-share-dir", share_dir, "(/var/run/kubevirt)"),
    STRING("private-dir", private_dir, "sockets and logs of the VM (/var/run/kubevirt-private)"),
    STRING("ephemeral-disk-dir", ephemeral_dir, "(/var/run/kubevirt-ephemeral-disks)"),
    STRING("container-disk-dir", container_disk_dir, "(/var/run/kubevirt/container-disks)"),
    STRING("hotplug-disk-dir", hotplug_dir, "(/var/run/kubevirt/hotplug-disks)"),
    STRING("empty-disk-dir", empty_disk_dir, "(/var/run/libvirt/empty-disks)"),
    STRING("ovmf-path", ovmf_path, "directory of the UEFI firmware"),
    {"console-log-bytes", FLAG_BYTES, offsetof(struct flags, console_log_bytes),
     "size of virt-serial0-log before it is rotated; four are kept (4194304)"},
    STRING("qemu", qemu, "QEMU binary, instead of the one for the VM's architecture"),
    BOOL("allow-emulation", allow_emulation, "run the VM by emulation when KVM is not usable"),
    BOOL("allow-qmp-writes", allow_qmp_writes, "let the command server's Qmp method change the VM"),
    BOOL("run-as-nonroot", run_as_nonroot, "accepted: the launcher needs no privilege"),
    BOOL("keep-after-failure", keep_after_failure, "accepted: the monitor's flag"),
    DURATION("qemu-agent-sys-interval", agent.system,
             "how often the agent is asked for system, addresses, load (120s)"),
    DURATION("qemu-agent-file-interval", agent.filesystems, "…for file systems (300s)"),
    DURATION("qemu-agent-user-interval", agent.users, "…for users (10s)"),
    DURATION("qemu-agent-version-interval", agent.version, "…for its version and commands (300s)"),
    DURATION("qemu-fsfreeze-status-interval", agent.freeze, "…whether the guest is frozen, while it is (5s)"),
    BOOL("simulate-crash", simulate_crash, "abort at once, for tests of what is around the launcher"),
    {"v", FLAG_LEVEL, offsetof(struct flags, verbosity),
     "klog's verbosity: 4 and more logs debug messages, 6 and more what the firmware says"},
    BOOL("verbose", verbose, "log debug messages"),
    BOOL("help", help, "show this text"),
    BOOL("version", version, "show the version"),
    {"hook-sidecars", FLAG_IGNORED_VALUE, 0, NULL},
    {"allow-cross-arch-emulation", FLAG_IGNORED_BOOL, 0, NULL},
    {"image-volume", FLAG_IGNORED_BOOL, 0, NULL},
    {"libvirt-hook-server-and-client", FLAG_IGNORED_BOOL, 0, NULL},
    {"upgrade-ordinal-ifaces", FLAG_IGNORED_BOOL, 0, NULL},
    {"vgpu-dedicated-hook", FLAG_IGNORED_BOOL, 0, NULL},
    {"vm-stats-collector", FLAG_IGNORED_BOOL, 0, NULL},
    {"firmware-auto-selection", FLAG_IGNORED_BOOL, 0, NULL},
    {"disk-memory-limit", FLAG_IGNORED_VALUE, 0, NULL},
    {"libvirt-log-filters", FLAG_IGNORED_VALUE, 0, NULL},
    {"hypervisor", FLAG_IGNORED_VALUE, 0, NULL},
};

static int bad(const char *flag, const char *value, const char *allowed)
{
    log_error("--%s %s: not valid (%s)", flag, value ? value : "", allowed);
    return -EINVAL;
}

static int store(const struct flag *flag, struct flags *flags, const char *value)
{
    void *target = (char *)flags + flag->offset;
    char *end;

    switch (flag->kind) {
    case FLAG_STRING:
        *(const char **)target = value;
        return 0;
    case FLAG_DURATION:
        return duration_parse(value, false, target) < 0 ? bad(flag->name, value, "a duration such as 278s or 5m") : 0;
    case FLAG_SECONDS: {
        errno = 0;
        unsigned long n = strtoul(value, &end, 10);

        if (errno || *end || end == value || *value == '-' || n > 1000000000UL)
            return bad(flag->name, value, "a number of seconds, 0 or more");
        *(uint64_t *)target = n * USEC_PER_SEC;
        return 0;
    }
    case FLAG_LEVEL: {
        errno = 0;
        unsigned long n = strtoul(value, &end, 10);

        if (errno || *end || end == value || *value == '-')
            return bad(flag->name, value, "a number, 0 or more");
        *(uint64_t *)target = n;
        return 0;
    }
    case FLAG_BYTES: {
        errno = 0;
        unsigned long long n = strtoull(value, &end, 10);

        if (errno || *end || end == value || *value == '-' || n < 4096 || n > 1ULL << 40)
            return bad(flag->name, value, "a number of bytes, 4096 or more");
        *(uint64_t *)target = n;
        return 0;
    }
    case FLAG_BOOL:
        if (value && !streq(value, "true") && !streq(value, "false"))
            return bad(flag->name, value, "true or false");
        *(bool *)target = !value || streq(value, "true");
        return 0;
    case FLAG_IGNORED_VALUE:
    case FLAG_IGNORED_BOOL:
        log_warning("--%s is accepted, and has no effect in vmlet", flag->name);
        return 0;
    }
    return -EINVAL;
}

static bool takes_value(const struct flag *flag)
{
    return flag->kind != FLAG_BOOL && flag->kind != FLAG_IGNORED_BOOL;
}

/* pflag's forms: --name value, --name=value, --bool, --bool=false; a single dash is allowed too. */
static int parse_flags(int argc, char **argv, struct flags *flags)
{
    int faults = 0;

    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = strchr(name, '=');
        const struct flag *found = NULL;
        size_t length;

        if (name[0] != '-') {
            log_error("%s: not expected (flags only; see --help)", name);
            faults++;
            continue;
        }
        name += name[1] == '-' ? 2 : 1;
        length = value ? (size_t)(value - name) : strlen(name);
        for (size_t f = 0; f < ELEMENTSOF(table) && !found; f++)
            if (strlen(table[f].name) == length && strncmp(table[f].name, name, length) == 0)
                found = &table[f];
        if (!found) {
            log_error("--%.*s: no such flag (see --help)", (int)length, name);
            faults++;
            continue;
        }
        value = value ? value + 1 : NULL;
        if (!value && takes_value(found)) {
            if (i + 1 == argc) {
                log_error("--%s needs a value", found->name);
                faults++;
                continue;
            }
            value = argv[++i];
        }
        if (store(found, flags, value) < 0)
            faults++;
    }
    return faults ? -EINVAL : 0;
}

static void print_help(void)
{
    printf("virt-launcher: runs one KubeVirt virtual machine in a pod.\n\n"
           "Usage: virt-launcher [--FLAG VALUE]…\n\n");
    for (size_t i = 0; i < ELEMENTSOF(table); i++)
        if (table[i].what)
            printf("  %s%-*s %s\n", table[i].name[1] ? "--" : "-", table[i].name[1] ? 29 : 30, table[i].name,
                   table[i].what);
    printf(
        "\nFlags of KubeVirt's virt-launcher that speak of libvirt are accepted and have no effect.\n"
        "Environment: STANDALONE_VMI (a manifest, started without a node agent), VMLET_LOG_LEVEL, VMLET_LOG_FORMAT,\n"
        "VIRT_LAUNCHER_LOG_VERBOSITY. See virt-launcher(1).\n");
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata)
{
    const char *name = sigabbrev_np((int)info->ssi_signo);

    log_info("SIG%s", name ? name : "?");
    launcher_stop(userdata, name ? name : "signal");
    return 0;
}

static char **own_argv;

static int on_hangup(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata)
{
    launcher_reexec(userdata, own_argv);
    return 0;
}

static const int stop_signals[] = {SIGTERM, SIGINT, SIGQUIT};

/* Before anything else: one that comes while the launcher starts waits until it can be heard. */
static void block_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < ELEMENTSOF(stop_signals); i++)
        sigaddset(&set, stop_signals[i]);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static int watch_signals(sd_event *event, struct launcher *launcher, struct error **ret_error)
{
    int r = sd_event_add_signal(event, NULL, SIGHUP, on_hangup, launcher);

    for (size_t i = 0; i < ELEMENTSOF(stop_signals) && r >= 0; i++)
        r = sd_event_add_signal(event, NULL, stop_signals[i], on_signal, launcher);
    return r < 0 ? error_errno(ret_error, r, "cannot watch signals") : 0;
}

static int run(const struct flags *flags, struct timeline *timeline, struct error **ret_error)
{
    _cleanup_event_ sd_event *event = NULL;
    _cleanup_(launcher_freep) struct launcher *launcher = NULL;
    struct launcher_options o = {
        .name = flags->name,
        .namespace_ = flags->namespace_,
        .uid = flags->uid,
        .share_dir = flags->share_dir,
        .private_dir = flags->private_dir,
        .ephemeral_disk_dir = flags->ephemeral_dir,
        .container_disk_dir = flags->container_disk_dir,
        .hotplug_disk_dir = flags->hotplug_dir,
        .empty_disk_dir = flags->empty_disk_dir,
        .ovmf_path = flags->ovmf_path,
        .qemu = flags->qemu,
        .accel = flags->allow_emulation ? ACCEL_AUTO : ACCEL_KVM,
        .qemu_timeout_usec = flags->qemu_timeout,
        .grace_usec = flags->grace,
        .console_log_bytes = flags->console_log_bytes,
        .agent_intervals = flags->agent,
        .allow_qmp_writes = flags->allow_qmp_writes,
        .log_firmware = flags->verbosity >= FIRMWARE_VERBOSITY,
    };
    const char *standalone = getenv("STANDALONE_VMI");
    int r;

    block_signals();
    r = sandbox_enter(ret_error);
    if (r < 0)
        return r;
    r = event_new(&event);
    if (r < 0)
        return error_errno(ret_error, r, "cannot make an event loop");
    r = launcher_new(event, &o, timeline, &launcher, ret_error);
    if (r < 0)
        return r;
    r = watch_signals(event, launcher, ret_error);
    if (r < 0)
        return r;
    log_info("ready");
    if (standalone && *standalone) {
        r = launcher_sync_text(launcher, standalone, "STANDALONE_VMI", ret_error);
        if (r < 0)
            return r;
    }
    r = sd_event_loop(event);
    if (r < 0)
        return error_errno(ret_error, r, "the event loop failed");
    return launcher_exit_code(launcher);
}

static uint64_t verbosity_of_environment(void)
{
    const char *text = getenv("VIRT_LAUNCHER_LOG_VERBOSITY");

    return text && *text >= '0' && *text <= '9' ? strtoul(text, NULL, 10) : 0;
}

int main(int argc, char **argv)
{
    struct timeline timeline = {0};
    struct flags flags = {
        .share_dir = "/var/run/kubevirt",
        .private_dir = "/var/run/kubevirt-private",
        .ephemeral_dir = "/var/run/kubevirt-ephemeral-disks",
        .container_disk_dir = "/var/run/kubevirt/container-disks",
        .hotplug_dir = "/var/run/kubevirt/hotplug-disks",
        .empty_disk_dir = "/var/run/libvirt/empty-disks",
        .qemu_timeout = 180 * USEC_PER_SEC,
        .grace = DEFAULT_GRACE_PERIOD_SECONDS * USEC_PER_SEC,
    };
    _cleanup_error_ struct error *e = NULL;
    int r;

    timeline_mark(&timeline, MARK_EXEC);
    own_argv = argv;
#ifdef VMLET_CRASH_POINTS
    if (argc == 2 && streq(argv[1], "--list-crash-points")) {
        crash_points_print();
        return EXIT_OK;
    }
#endif
    log_init("virt-launcher", LOG_LEVEL_INFO);
    if (parse_flags(argc, argv, &flags) < 0)
        return EXIT_BAD_INPUT;
    flags.verbosity = MAX(flags.verbosity, verbosity_of_environment());
    if (flags.verbosity >= DEBUG_VERBOSITY && !getenv("VMLET_LOG_LEVEL"))
        log_set_level(LOG_LEVEL_DEBUG);
    if (flags.help) {
        print_help();
        return EXIT_OK;
    }
    if (flags.version) {
        printf("virt-launcher %s\n", VMLET_VERSION);
        return EXIT_OK;
    }
    if (flags.simulate_crash) {
        log_error("aborting, as --simulate-crash asks");
        abort();
    }
    if (flags.verbose)
        log_set_level(LOG_LEVEL_DEBUG);
    r = run(&flags, &timeline, &e);
    if (r < 0) {
        log_error_of(e, "virt-launcher");
        return (int)error_exit_code(e);
    }
    return r;
}
