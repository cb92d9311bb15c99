/* SPDX-License-Identifier: Apache-2.0 */
#include "host/accel.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/child.h"
#include "base/event.h"
#include "base/fd.h"
#include "base/limits.h"
#include "host/accel-guest.h"
#include "host/cache.h"
#include "host/caps.h"

#define KVM_DEVICE   "/dev/kvm"
#define CACHE_FILE   "accel.json"
#define CACHE_FORMAT 1

/* Rounds of the first run: 0.2 ms where KVM emulates. Each further run is eight times as long, until one takes long
 * enough that entering and leaving the guest no longer counts. */
#define FIRST_ROUNDS       512U
#define LONG_ENOUGH_NSEC   1000000U
#define TIME_FOR_RUNS_NSEC 25000000U /* all runs together */

/* What the child tells by the pipe; fits into one atomic write. */
struct outcome {
    enum accel_reason reason;
    int error;
    const char *step; /* of static storage: the same in parent and child */
    uint64_t rounds_per_second;
};

static uint64_t now_nsec(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static struct outcome failed(enum accel_reason reason, const char *step)
{
    return (struct outcome){.reason = reason, .error = errno, .step = step};
}

/* ---- in the child ---------------------------------------------------------------------------------------------- */

static struct outcome run_guest(int vm, int vcpu, const struct kvm_run *run)
{
    uint64_t best = 0, started = now_nsec();

    for (uint64_t rounds = FIRST_ROUNDS; rounds <= UINT32_MAX; rounds *= 8) {
        uint64_t left = 1, begin, elapsed;
        int r = accel_guest_prepare(vm, vcpu, (uint32_t)rounds);

        if (r < 0) {
            errno = -r;
            return failed(ACCEL_REASON_RUN_FAILED, "the registers of the vCPU");
        }
        begin = now_nsec();
        do
            r = ioctl(vcpu, KVM_RUN, 0);
        while (r < 0 && (errno == EINTR || errno == EAGAIN));
        elapsed = now_nsec() - begin;
        if (r < 0)
            return failed(ACCEL_REASON_RUN_FAILED, "KVM_RUN");
        if (run->exit_reason != accel_guest_exit_reason || accel_guest_rounds_left(vcpu, &left) < 0 || left != 0) {
            errno = EPROTO;
            return failed(ACCEL_REASON_RUN_FAILED, "KVM_RUN");
        }
        best = MAX(best, rounds * 1000000000U / MAX(elapsed, (uint64_t)1));
        if (elapsed >= LONG_ENOUGH_NSEC && best >= ACCEL_ROUNDS_PER_SECOND_HARDWARE)
            break; /* fast, and measured well */
        /* By the best rate, not by this run: one that the host interrupted must not end it on real hardware. */
        if (now_nsec() - started + rounds * 8 * 1000000000U / MAX(best, (uint64_t)1) >= TIME_FOR_RUNS_NSEC &&
            rounds > FIRST_ROUNDS)
            break;
    }
    return (struct outcome){
        .reason = best >= ACCEL_ROUNDS_PER_SECOND_HARDWARE ? ACCEL_REASON_USABLE : ACCEL_REASON_EMULATED,
        .rounds_per_second = best,
    };
}

/* The ioctls are those of the kernel's Documentation/virt/kvm/api.rst. What is opened here ends with the child. */
static struct outcome measure(int kvm)
{
    struct kvm_userspace_memory_region region = {
        .guest_phys_addr = ACCEL_GUEST_ADDRESS,
        .memory_size = ACCEL_GUEST_SIZE,
    };
    struct kvm_run *run;
    void *memory;
    int vm, vcpu, size;

    vm = ioctl(kvm, KVM_CREATE_VM, 0);
    if (vm < 0)
        return failed(ACCEL_REASON_CREATE_VM_FAILED, "KVM_CREATE_VM");
    memory = mmap(NULL, ACCEL_GUEST_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return failed(ACCEL_REASON_RUN_FAILED, "mmap");
    memcpy(memory, accel_guest_code, accel_guest_code_size);
    region.userspace_addr = (uint64_t)(uintptr_t)memory;
    if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return failed(ACCEL_REASON_RUN_FAILED, "KVM_SET_USER_MEMORY_REGION");
    vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    if (vcpu < 0)
        return failed(ACCEL_REASON_CREATE_VM_FAILED, "KVM_CREATE_VCPU");
    size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size < (int)sizeof(*run))
        return failed(ACCEL_REASON_RUN_FAILED, "KVM_GET_VCPU_MMAP_SIZE");
    run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED)
        return failed(ACCEL_REASON_RUN_FAILED, "mmap of the vCPU");
    return run_guest(vm, vcpu, run);
}

/* A process of its own can be killed at the deadline wherever the kernel keeps it; a thread of ours could not, and
 * taking the virtual machine down (which waits for the kernel) is not on our time either. */
static struct outcome measure_in_child(int kvm)
{
    struct outcome outcome = {.reason = ACCEL_REASON_RUN_FAILED, .error = ENODATA, .step = "the probe's process"};
    uint64_t deadline = now_usec() + TIMEOUT_ACCEL_PROBE_USEC;
    struct pollfd fd = {.events = POLLIN};
    int pipe_fds[2], r;
    sigset_t all, old;
    pid_t pid;

    if (pipe2(pipe_fds, O_CLOEXEC) < 0)
        return failed(ACCEL_REASON_RUN_FAILED, "pipe");
    /* signals stay blocked in the child, so that no handler of the program runs there */
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &old);
    pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        outcome = measure(kvm);
        (void)!write(pipe_fds[1], &outcome, sizeof(outcome));
        _exit(0);
    }
    sigprocmask(SIG_SETMASK, &old, NULL);
    close(pipe_fds[1]);
    if (pid < 0) {
        outcome = failed(ACCEL_REASON_RUN_FAILED, "fork");
        close(pipe_fds[0]);
        return outcome;
    }
    fd.fd = pipe_fds[0];
    do {
        uint64_t now = now_usec();

        r = poll(&fd, 1, now >= deadline ? 0 : (int)((deadline - now) / USEC_PER_MSEC + 1));
    } while (r < 0 && errno == EINTR);
    if (r == 1)
        (void)!read(pipe_fds[0], &outcome, sizeof(outcome));
    else /* 512 rounds in all that time */
        outcome = (struct outcome){.reason = ACCEL_REASON_EMULATED};
    close(pipe_fds[0]);
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    return outcome;
}

/* ---- words ----------------------------------------------------------------------------------------------------- */

const char *accel_reason_name(enum accel_reason reason)
{
    static const char *const names[] = {
#define X(symbol, name) [ACCEL_REASON_##symbol] = name,
        ACCEL_REASONS(X)
#undef X
    };

    return reason < ACCEL_REASON_COUNT ? names[reason] : "?";
}

const char *machine_accel_name(enum machine_accel accel)
{
    return accel == MACHINE_ACCEL_KVM ? "kvm" : "tcg";
}

int accel_wish_from_string(const char *text, enum accel_wish *ret)
{
    static const char *const names[] = {[ACCEL_AUTO] = "auto", [ACCEL_KVM] = "kvm", [ACCEL_TCG] = "tcg"};

    for (size_t i = 0; i < ELEMENTSOF(names); i++)
        if (streq(text, names[i])) {
            *ret = (enum accel_wish)i;
            return 0;
        }
    return -EINVAL;
}

_printf_(3, 4) static void say(struct accel_result *result, const char *remedy, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    vsnprintf(result->text, sizeof(result->text), format, ap);
    va_end(ap);
    snprintf(result->remedy, sizeof(result->remedy), "%s", remedy);
}

static void describe(struct accel_result *result, const char *device, const struct outcome *o)
{
    double millions = (double)result->rounds_per_second / 1e6;

    switch (result->reason) {
    case ACCEL_REASON_USABLE:
        say(result, "", "KVM runs at hardware speed (%.0f million loop rounds a second)", millions);
        break;
    case ACCEL_REASON_NO_DEVICE:
        say(result,
            "load kvm_intel, kvm_amd, or enable nested virtualization for this machine; in a container, hand the "
            "device in (--device /dev/kvm)",
            "there is no %s", device);
        break;
    case ACCEL_REASON_NO_PERMISSION:
        say(result, "add the user to the device's group (usermod -aG kvm USER), and log in anew",
            "%s may not be opened by uid %u: %s", device, (unsigned)geteuid(), strerror(o->error));
        break;
    case ACCEL_REASON_OPEN_FAILED:
        say(result, "load the kernel module (modprobe kvm_intel or kvm_amd)", "%s cannot be opened: %s", device,
            strerror(o->error));
        break;
    case ACCEL_REASON_BAD_API:
        say(result, "", "%s is not KVM with API version 12 (it answers %d)", device, result->kvm_api_version);
        break;
    case ACCEL_REASON_CREATE_VM_FAILED:
        say(result, "enable VT-x or AMD-V in the firmware, and stop other hypervisors that hold it",
            "KVM makes no virtual machine: %s: %s", o->step, strerror(o->error));
        break;
    case ACCEL_REASON_RUN_FAILED:
        say(result, "", "KVM did not run a tiny guest to its end: %s: %s", o->step, strerror(o->error));
        break;
    case ACCEL_REASON_EMULATED:
        say(result, "use a host with hardware virtualization, or leave it to emulation by QEMU (TCG), which is faster",
            "KVM here emulates: %.2f million loop rounds a second (hardware: hundreds of millions), too slow to boot a "
            "guest",
            millions);
        break;
    case ACCEL_REASON_NOT_PROBED:
    case ACCEL_REASON_COUNT:
        break;
    }
}

json_t *accel_to_json(const struct accel_result *result)
{
    json_t *json = json_object();

    json_object_set_new(json, "accel", json_string(machine_accel_name(result->accel)));
    json_object_set_new(json, "usable", json_boolean(result->kvm_usable));
    json_object_set_new(json, "reason", json_string(accel_reason_name(result->reason)));
    json_object_set_new(json, "message", json_string(result->text));
    if (result->remedy[0])
        json_object_set_new(json, "remedy", json_string(result->remedy));
    if (result->kvm_api_version >= 0)
        json_object_set_new(json, "apiVersion", json_integer(result->kvm_api_version));
    if (result->rounds_per_second > 0)
        json_object_set_new(json, "roundsPerSecond", json_integer((json_int_t)result->rounds_per_second));
    return json;
}

/* ---- cache ----------------------------------------------------------------------------------------------------- */

/* A measurement holds for one boot of one kernel with one KVM device. "" when the boot has no id: no cache then. */
static void cache_key(int kvm, char key[512])
{
    const char *boot = boot_id();
    struct utsname uts;
    struct stat st;

    key[0] = '\0';
    if (!boot || uname(&uts) < 0 || fstat(kvm, &st) < 0)
        return;
    snprintf(key, 512, "%s %s %s %u:%u", boot, uts.release, uts.version, (unsigned)(st.st_rdev >> 8),
             (unsigned)(st.st_rdev & 0xff));
}

static bool is_for(const json_t *content, const void *key)
{
    const char *text = json_string_value(json_object_get(content, "key"));

    return json_integer_value(json_object_get(content, "format")) == CACHE_FORMAT && text && streq(text, key) &&
           json_integer_value(json_object_get(content, "roundsPerSecond")) > 0;
}

static bool load_cached(const char *key, struct outcome *ret)
{
    json_t *content = key[0] ? cache_read(CACHE_FILE, is_for, key) : NULL;
    uint64_t rounds;

    if (!content)
        return false;
    rounds = (uint64_t)json_integer_value(json_object_get(content, "roundsPerSecond"));
    *ret = (struct outcome){
        .reason = rounds >= ACCEL_ROUNDS_PER_SECOND_HARDWARE ? ACCEL_REASON_USABLE : ACCEL_REASON_EMULATED,
        .rounds_per_second = rounds,
    };
    json_decref(content);
    return true;
}

static void save_cached(const char *key, const struct outcome *outcome)
{
    json_t *content;

    if (!key[0] || outcome->rounds_per_second == 0)
        return;
    content = json_pack("{s:i, s:s, s:I}", "format", CACHE_FORMAT, "key", key, "roundsPerSecond",
                        (json_int_t)outcome->rounds_per_second);
    if (content)
        cache_write(CACHE_FILE, content);
    json_decref(content);
}

/* ---- the probe ------------------------------------------------------------------------------------------------- */

static struct outcome open_and_measure(const char *device, bool use_cache, struct accel_result *result)
{
    _cleanup_close_ int kvm = open(device, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    struct outcome outcome;
    char key[512] = "";
    int version;

    if (kvm < 0)
        return failed(errno == ENOENT                     ? ACCEL_REASON_NO_DEVICE
                      : errno == EACCES || errno == EPERM ? ACCEL_REASON_NO_PERMISSION
                                                          : ACCEL_REASON_OPEN_FAILED,
                      "open");
    version = ioctl(kvm, KVM_GET_API_VERSION, 0);
    result->kvm_api_version = version;
    if (version != 12)
        return failed(ACCEL_REASON_BAD_API, "KVM_GET_API_VERSION");
    if (use_cache) {
        cache_key(kvm, key);
        if (load_cached(key, &outcome)) {
            result->from_cache = true;
            return outcome;
        }
    }
    outcome = measure_in_child(kvm);
    save_cached(key, &outcome);
    return outcome;
}

static void probe(const char *device, bool use_cache, struct accel_result *ret)
{
    struct accel_result result = {.kvm_api_version = -1};
    struct outcome outcome = open_and_measure(device, use_cache, &result);

    result.reason = outcome.reason;
    result.rounds_per_second = outcome.rounds_per_second;
    result.kvm_usable = outcome.reason == ACCEL_REASON_USABLE;
    result.accel = result.kvm_usable ? MACHINE_ACCEL_KVM : MACHINE_ACCEL_TCG;
    describe(&result, device, &outcome);
    *ret = result;
}

void accel_probe_kvm(struct accel_result *ret)
{
    probe(KVM_DEVICE, true, ret);
}

void accel_probe_device(const char *device, struct accel_result *ret)
{
    probe(device, false, ret);
}

int accel_choose(enum accel_wish wish, enum machine_arch arch, struct accel_result *ret, struct error **ret_error)
{
    struct accel_result result = {
        .accel = MACHINE_ACCEL_TCG,
        .reason = ACCEL_REASON_NOT_PROBED,
        .kvm_api_version = -1,
    };
    int r;

    if (arch != machine_arch_native()) {
        if (wish == ACCEL_KVM)
            return error_set(ret_error, ERROR_NO_KVM, EOPNOTSUPP,
                             "KVM was asked for, but the guest is %s and this host is %s: KVM runs guests of its own "
                             "architecture only",
                             machine_arch_qemu_name(arch), machine_arch_qemu_name(machine_arch_native()));
        say(&result, "", "emulation (TCG): the guest is %s and this host is %s", machine_arch_qemu_name(arch),
            machine_arch_qemu_name(machine_arch_native()));
    } else if (wish == ACCEL_TCG) {
        say(&result, "", "emulation (TCG), as asked");
    } else {
        accel_probe_kvm(&result);
        if (wish == ACCEL_KVM && !result.kvm_usable) {
            r = error_set(ret_error, ERROR_NO_KVM, EOPNOTSUPP, "KVM was asked for and is not usable: %s", result.text);
            if (ret_error && result.remedy[0])
                error_set_remedy(*ret_error, "%s; or allow emulation by --accel auto", result.remedy);
            return r;
        }
    }
    *ret = result;
    return 0;
}
