/* SPDX-License-Identifier: Apache-2.0 */
#include "host/host.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/vhost.h>
#include <net/if.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "base/child.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/strbuf.h"
#include "base/strv.h"
#include "host/caps.h"

#define CGROUP2_MAGIC 0x63677270 /* statfs(2) */

/* ---- firmware -------------------------------------------------------------------------------------------------- */

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool is_firmware_name(const char *name)
{
    static const char *const prefixes[] = {"OVMF",  "AAVMF", "QEMU_EFI", "QEMU_VARS",
                                           "edk2-", "ovmf-", "aavmf-",   "vars-template"};
    static const char *const suffixes[] = {".fd", ".bin", ".raw", ".qcow2"};
    bool fits = false;

    for (size_t i = 0; i < ELEMENTSOF(suffixes); i++)
        fits = fits || endswith(name, suffixes[i]);
    for (size_t i = 0; fits && i < ELEMENTSOF(prefixes); i++)
        if (startswith(name, prefixes[i]))
            return true;
    return false;
}

int host_known_firmware(char ***ret, struct error **ret_error)
{
    /* Debian and KubeVirt's image; Fedora and RHEL; Arch; SUSE and QEMU's own */
    static const char *const directories[] = {
        "/usr/share/OVMF",       "/usr/share/AAVMF",         "/usr/share/edk2/ovmf", "/usr/share/edk2/aarch64",
        "/usr/share/edk2/x64",   "/usr/share/edk2-ovmf/x64", "/usr/share/qemu",      "/usr/share/qemu-efi-aarch64",
        "/usr/local/share/qemu",
    };
    _cleanup_(strv_freep) char **list = calloc(1, sizeof(*list));

    if (!list)
        return error_oom(ret_error);
    for (size_t i = 0; i < ELEMENTSOF(directories); i++) {
        DIR *dir = opendir(directories[i]);
        struct dirent *entry;
        int r = 0;

        while (r == 0 && dir && (entry = readdir(dir)))
            if (is_firmware_name(entry->d_name))
                r = strv_printf(&list, "%s/%s", directories[i], entry->d_name);
        if (dir)
            closedir(dir);
        if (r < 0)
            return error_oom(ret_error);
    }
    qsort(list, strv_length(list), sizeof(*list), compare_strings);
    *ret = TAKE_PTR(list);
    return 0;
}

/* ---- facts ----------------------------------------------------------------------------------------------------- */

_printf_(5, 6) static int add(struct host_facts *facts, const char *name, const char *need, bool yes,
                              const char *format, ...)
{
    struct host_fact *more = reallocarray(facts->items, facts->count + 1, sizeof(*more));
    va_list ap;
    int n;

    if (!more)
        return -ENOMEM;
    facts->items = more;
    more += facts->count;
    *more = (struct host_fact){.name = name, .need = need, .yes = yes};
    va_start(ap, format);
    n = vasprintf(&more->detail, format, ap);
    va_end(ap);
    if (n < 0) {
        more->detail = NULL;
        return -ENOMEM;
    }
    facts->count++;
    return 0;
}

static int set_remedy(struct host_facts *facts, const char *remedy)
{
    struct host_fact *last = &facts->items[facts->count - 1];

    if (last->yes || !remedy || !*remedy)
        return 0;
    last->remedy = strdup(remedy);
    return last->remedy ? 0 : -ENOMEM;
}

/* A tap is made for a moment in no namespace but ours; it goes with the fd. */
static int try_tun(int fd)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};

    memcpy(request.ifr_name, "vmprobe%d", sizeof("vmprobe%d"));
    return ioctl(fd, TUNSETIFF, &request) < 0 ? -errno : 0;
}

static int try_vhost(int fd)
{
    return ioctl(fd, VHOST_SET_OWNER, NULL) < 0 ? -errno : 0;
}

static int add_devices(struct host_facts *facts)
{
    static const struct {
        const char *name, *need, *path, *remedy;
        int (*try)(int fd);
    } rows[] = {
        {"tun", "tap interfaces (--net tap, pod networks)", "/dev/net/tun",
         "load tun (modprobe tun) and run as root or with CAP_NET_ADMIN; --net user needs neither", try_tun},
        {"vhostNet", "packets without a detour through QEMU", "/dev/vhost-net",
         "load vhost_net (modprobe vhost_net); without it QEMU moves the packets itself", try_vhost},
        {"vhostVsock", "spec.domain.devices.autoattachVSOCK", "/dev/vhost-vsock",
         "load vhost_vsock (modprobe vhost_vsock)", NULL},
        {"vfio", "host devices and GPUs", "/dev/vfio/vfio", "load vfio-pci, and switch the IOMMU on", NULL},
    };
    int r = 0;

    for (size_t i = 0; i < ELEMENTSOF(rows) && r == 0; i++) {
        _cleanup_close_ int fd = open(rows[i].path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
        int err = fd < 0 ? -errno : rows[i].try ? rows[i].try(fd) : 0;

        if (err == 0)
            r = add(facts, rows[i].name, rows[i].need, true, "%s", rows[i].path);
        else if (err == -ENOENT && fd < 0)
            r = add(facts, rows[i].name, rows[i].need, false, "there is no %s", rows[i].path);
        else
            r = add(facts, rows[i].name, rows[i].need, false, "%s cannot be %s: %s", rows[i].path,
                    fd < 0 ? "opened" : "used", strerror(-err));
        if (r == 0)
            r = set_remedy(facts, rows[i].remedy);
    }
    return r;
}

static int add_qemu(struct host_facts *facts, enum machine_arch arch)
{
    _cleanup_(qemu_caps_freep) struct qemu_caps *caps = NULL;
    _cleanup_error_ struct error *error = NULL;
    const char *name = arch == MACHINE_ARCH_AARCH64 ? "qemuAarch64" : "qemuX86_64";
    int r = qemu_caps_load(NULL, arch, &caps, &error);

    if (r < 0) {
        r = add(facts, name, "virtual machines of that architecture", false, "%s", error_message(error));
        return r < 0 ? r : set_remedy(facts, error_remedy(error));
    }
    return add(facts, name, "virtual machines of that architecture", true, "%s, QEMU %u.%u.%u%s%s%s", caps->binary,
               caps->version / 1000000, caps->version / 1000 % 1000, caps->version % 1000, caps->package ? " (" : "",
               caps->package ? caps->package : "", caps->package ? ")" : "");
}

/* The first line of `path version_flag`, or NULL. */
static char *first_line(const char *path, const char *flag)
{
    _cleanup_free_ char *out = NULL, *err = NULL;
    const char *argv[] = {path, flag, NULL};
    char *line;
    int code;

    if (!flag ||
        child_run(
            &(struct child_options){
                .argv = (char *const *)(uintptr_t)argv,
                .death_signal = SIGKILL,
                .limit_cpu_seconds = 5,
            },
            5 * USEC_PER_SEC, &code, &out, &err, NULL) < 0 ||
        code != 0)
        return NULL;
    line = out && *out ? out : err;
    if (!line || !*line)
        return NULL;
    return strndup(line, MIN(strcspn(line, "\n"), (size_t)100));
}

static int add_tools(struct host_facts *facts)
{
    static const struct {
        const char *name, *need, *programs[4], *flag, *remedy;
    } rows[] = {
        {"qemuImg",
         "overlays, empty disks, and the examination of images",
         {"qemu-img"},
         "--version",
         "apt install qemu-utils (Fedora: qemu-img)"},
        {"swtpm", "spec.domain.devices.tpm", {"swtpm"}, "--version", "apt install swtpm"},
        {"virtiofsd",
         "spec.domain.devices.filesystems",
         {"virtiofsd", "/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"},
         "--version",
         "apt install virtiofsd, or a QEMU package that has it"},
        {"passt", "passt network binding, networking without root", {"passt"}, "--version", "apt install passt"},
        {"nft", "masquerade network binding", {"nft", "/usr/sbin/nft"}, "--version", "apt install nftables"},
    };
    int r = 0;

    for (size_t i = 0; i < ELEMENTSOF(rows) && r == 0; i++) {
        _cleanup_free_ char *path = NULL, *version = NULL;

        for (size_t k = 0; !path && k < ELEMENTSOF(rows[i].programs) && rows[i].programs[k]; k++)
            path = find_program(rows[i].programs[k]);
        version = path ? first_line(path, rows[i].flag) : NULL;
        if (path)
            r = add(facts, rows[i].name, rows[i].need, true, "%s%s%s", path, version ? ", " : "",
                    version ? version : "");
        else
            r = add(facts, rows[i].name, rows[i].need, false, "no program %s", rows[i].programs[0]);
        if (r == 0)
            r = set_remedy(facts, rows[i].remedy);
    }
    return r;
}

static long read_number(const char *directory, const char *name, const char *file)
{
    _cleanup_free_ char *text = NULL;
    char path[512];

    snprintf(path, sizeof(path), "%s/%s/%s", directory, name, file);
    return file_read(path, 64, &text, NULL, NULL) < 0 ? -1 : strtol(text, NULL, 10);
}

static int add_hugepages(struct host_facts *facts)
{
    static const char directory[] = "/sys/kernel/mm/hugepages";
    _cleanup_(strbuf_done) struct strbuf text = {0};
    DIR *dir = opendir(directory);
    struct dirent *entry;
    bool any = false;
    int r;

    while (dir && (entry = readdir(dir))) {
        const char *size = startswith(entry->d_name, "hugepages-");
        long total = size ? read_number(directory, entry->d_name, "nr_hugepages") : 0;

        if (total <= 0)
            continue;
        strbuf_printf(&text, "%s%s: %ld of %ld free", any ? ", " : "", size,
                      read_number(directory, entry->d_name, "free_hugepages"), total);
        any = true;
    }
    if (dir)
        closedir(dir);
    r = add(facts, "hugepages", "spec.domain.memory.hugepages", any, "%s",
            any ? strbuf_text(&text) : "none are reserved");
    return r < 0 ? r : set_remedy(facts, "reserve some (sysctl vm.nr_hugepages=N)");
}

static int add_process(struct host_facts *facts)
{
    _cleanup_free_ char *status = NULL;
    struct statfs fs;
    const char *caps;
    int r;

    if (statfs("/sys/fs/cgroup", &fs) < 0)
        r = add(facts, "cgroup", "resource limits and dedicated CPUs", false, "no /sys/fs/cgroup: %s", strerror(errno));
    else
        r = add(facts, "cgroup", "resource limits and dedicated CPUs", true, "version %d",
                fs.f_type == CGROUP2_MAGIC ? 2 : 1);
    if (r >= 0)
        r = set_remedy(facts, "mount -t sysfs sys /sys, and the cgroup file systems below it");
    if (r < 0)
        return r;
    (void)file_read("/proc/self/status", 16384, &status, NULL, NULL);
    caps = status ? strstr(status, "CapEff:") : NULL;
    caps = caps ? caps + strspn(caps + 7, "\t ") + 7 : "";
    return add(facts, "user", "", true, "uid %u, effective capabilities %.*s", (unsigned)geteuid(),
               (int)strcspn(caps, "\n"), caps);
}

int host_facts_load(struct host_facts **ret, struct error **ret_error)
{
    _cleanup_(host_facts_freep) struct host_facts *facts = calloc(1, sizeof(*facts));
    int r;

    if (!facts)
        return error_oom(ret_error);
    accel_probe_kvm(&facts->kvm);
    r = add(facts, "kvm", "guests at hardware speed", facts->kvm.kvm_usable, "%s", facts->kvm.text);
    if (r == 0)
        r = set_remedy(facts, facts->kvm.remedy);
    if (r == 0)
        r = add_qemu(facts, machine_arch_native());
    if (r == 0)
        r = add_qemu(facts, machine_arch_native() == MACHINE_ARCH_X86_64 ? MACHINE_ARCH_AARCH64 : MACHINE_ARCH_X86_64);
    if (r == 0)
        r = add_tools(facts);
    if (r == 0)
        r = add_devices(facts);
    if (r == 0)
        r = add_hugepages(facts);
    if (r == 0)
        r = add_process(facts);
    if (r < 0)
        return error_oom(ret_error);
    r = host_known_firmware(&facts->firmware, ret_error);
    if (r < 0)
        return r;
    r = add(facts, "firmware", "spec.domain.firmware.bootloader.efi", facts->firmware[0] != NULL,
            facts->firmware[0] ? "%zu UEFI images" : "no UEFI image in the usual places", strv_length(facts->firmware));
    if (r == 0)
        r = set_remedy(facts, "apt install ovmf (aarch64: qemu-efi-aarch64)");
    if (r < 0)
        return error_oom(ret_error);
    *ret = TAKE_PTR(facts);
    return 0;
}

void host_facts_free(struct host_facts *facts)
{
    if (!facts)
        return;
    for (size_t i = 0; i < facts->count; i++) {
        free(facts->items[i].detail);
        free(facts->items[i].remedy);
    }
    free(facts->items);
    strv_free(facts->firmware);
    free(facts);
}

const struct host_fact *host_facts_find(const struct host_facts *facts, const char *name)
{
    for (size_t i = 0; i < facts->count; i++)
        if (streq(facts->items[i].name, name))
            return &facts->items[i];
    return NULL;
}

json_t *host_facts_to_json(const struct host_facts *facts)
{
    json_t *json = json_object(), *list = json_object(), *firmware = json_array();

    for (size_t i = 0; i < facts->count; i++) {
        const struct host_fact *f = &facts->items[i];
        json_t *item = json_pack("{s:b, s:s, s:s}", "ok", f->yes, "detail", f->detail, "need", f->need);

        if (f->remedy)
            json_object_set_new(item, "remedy", json_string(f->remedy));
        json_object_set_new(list, f->name, item);
    }
    STRV_FOREACH (path, facts->firmware)
        json_array_append_new(firmware, json_string(*path));
    json_object_set_new(json, "facts", list);
    json_object_set_new(json, "kvm", accel_to_json(&facts->kvm));
    json_object_set_new(json, "firmware", firmware);
    return json;
}

char *host_facts_to_text(const struct host_facts *facts)
{
    _cleanup_(strbuf_done) struct strbuf text = {0};

    for (size_t i = 0; i < facts->count; i++) {
        const struct host_fact *f = &facts->items[i];

        strbuf_printf(&text, "%-12s %-3s  %s\n", f->name, f->yes ? "yes" : "no", f->detail);
        if (!f->yes && *f->need)
            strbuf_printf(&text, "%-12s      needed for: %s\n", "", f->need);
        if (f->remedy)
            strbuf_printf(&text, "%-12s      remedy: %s\n", "", f->remedy);
    }
    return strbuf_steal(&text);
}
