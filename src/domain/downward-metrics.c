/* SPDX-License-Identifier: Apache-2.0 */
/*
 * downwardMetrics: figures of the host and of the VM, for a program in the guest (vhostmd's format, which
 * vm-dump-metrics reads), as a volume and by a channel. Names, types and units are those that KubeVirt's node agent
 * writes, the disk at its interval. Only a VM that has such a volume has the timer.
 */
#include <stdio.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/strbuf.h"
#include "domain/domain-internal.h"
#include "domain/metrics-channel.h"
#include "storage/storage.h"

_printf_(5, 6) static void add(struct strbuf *text, const char *name, const char *type, const char *context,
                               const char *format, ...)
{
    char value[256];
    va_list ap;

    va_start(ap, format);
    vsnprintf(value, sizeof(value), format, ap);
    va_end(ap);
    strbuf_printf(text, "<metric type=\"%s\" context=\"%s\"%s><name>%s</name><value>", type, context,
                  endswith(name, "CPUTime") || streq(name, "Time")   ? " unit=\"s\""
                  : strstr(name, "Memory") && !streq(type, "string") ? " unit=\"KiB\""
                                                                     : "",
                  name);
    for (const char *c = value; *c; c++)
        strbuf_printf(text, strchr("<>&", *c) ? "&#%d;" : "%c", *c);
    strbuf_printf(text, "</value></metric>\n");
}

/* The number behind a word at the start of a line. */
static unsigned long long number_of(const char *text, const char *word)
{
    size_t length = strlen(word);

    for (const char *line = text; line; line = strchr(line, '\n'), line += line != NULL)
        if (strncmp(line, word, length) == 0)
            return strtoull(line + length, NULL, 10);
    return 0;
}

static void add_host_memory(struct strbuf *text)
{
    _cleanup_free_ char *memory = NULL, *vm = NULL;
    unsigned long long page = (unsigned long long)sysconf(_SC_PAGESIZE) / 1024;

    if (file_read("/proc/meminfo", LIMIT_PROC_FILE_BYTES, &memory, NULL, NULL) >= 0) {
        unsigned long long free_kib = number_of(memory, "MemFree:"), swap_free = number_of(memory, "SwapFree:"),
                           caches = number_of(memory, "Buffers:") + number_of(memory, "Cached:"),
                           used = number_of(memory, "MemTotal:") - free_kib - caches;

        add(text, "FreePhysicalMemory", "uint64", "host", "%llu", free_kib);
        add(text, "FreeVirtualMemory", "uint64", "host", "%llu", free_kib + swap_free);
        add(text, "MemoryAllocatedToVirtualServers", "uint64", "host", "%llu", used);
        add(text, "UsedVirtualMemory", "uint64", "host", "%llu",
            used + number_of(memory, "SwapTotal:") - number_of(memory, "SwapCached:"));
    }
    if (file_read("/proc/vmstat", LIMIT_PROC_FILE_BYTES, &vm, NULL, NULL) >= 0) {
        add(text, "PagedInMemory", "uint64", "host", "%llu", number_of(vm, "pswpin ") * page);
        add(text, "PagedOutMemory", "uint64", "host", "%llu", number_of(vm, "pswpout ") * page);
    }
}

static void add_host(struct strbuf *text, unsigned qemu)
{
    _cleanup_free_ char *stat = NULL;
    const char *node = getenv("NODE_NAME");
    unsigned long long user, nice, system;
    struct utsname host;

    if (!node && uname(&host) == 0)
        node = host.nodename;
    add(text, "HostName", "string", "host", "%s", node ? node : "");
    add(text, "HostSystemInfo", "string", "host", "linux");
    add(text, "VirtualizationVendor", "string", "host", "kubevirt.io"); /* guests look for that, as in the SMBIOS */
    add(text, "VirtProductInfo", "string", "host", "qemu-%u.%u.%u", qemu / 1000000, qemu / 1000 % 1000, qemu % 1000);
    add(text, "NumberOfPhysicalCPUs", "int64", "host", "%ld", sysconf(_SC_NPROCESSORS_CONF));
    if (file_read("/proc/stat", LIMIT_PROC_FILE_BYTES, &stat, NULL, NULL) >= 0 &&
        sscanf(stat, "cpu %llu %llu %llu", &user, &nice, &system) == 3)
        add(text, "TotalCPUTime", "real64", "host", "%f",
            (double)(user + nice + system) / (double)sysconf(_SC_CLK_TCK));
    add_host_memory(text);
    add(text, "Time", "int64", "host", "%lld", (long long)time(NULL));
}

static void add_vm(struct strbuf *text, const struct domain *d)
{
    const struct vmi_cpu *cpu = &d->vmi->spec.domain.cpu;
    long long kib = d->vmi->spec.domain.memory.guest.value / 1024,
              vcpus = opt_int_or(cpu->cores, 1) * opt_int_or(cpu->sockets, 1) * opt_int_or(cpu->threads, 1);
    struct timespec used;
    clockid_t clock;

    if (clock_getcpuclockid(d->pid, &clock) == 0 && clock_gettime(clock, &used) == 0)
        add(text, "TotalCPUTime", "real64", "vm", "%f", (double)used.tv_sec + (double)used.tv_nsec / 1e9);
    add(text, "ResourceProcessorLimit", "uint64", "vm", "%lld", vcpus);
    add(text, "PhysicalMemoryAllocatedToVirtualSystem", "uint64", "vm", "%lld", kib);
    add(text, "ResourceMemoryLimit", "uint64", "vm", "%lld", kib);
}

static void write_metrics(struct strbuf *text, void *userdata)
{
    const struct domain *d = userdata;

    strbuf_add_string(text, "<metrics>\n");
    add_host(text, qmp_client_get_version(d->qmp));
    add_vm(text, d);
    strbuf_add_string(text, "</metrics>\n");
}

static int on_timer(sd_event_source *source, uint64_t at, void *userdata)
{
    domain_refresh_metrics_disk(userdata);
    return 0;
}

void domain_refresh_metrics_disk(struct domain *d)
{
    const struct vmi_devices *devices = &d->vmi->spec.domain.devices;
    const struct machine_disk *disk = NULL;
    _cleanup_(strbuf_done) struct strbuf text = {0};
    _cleanup_error_ struct error *e = NULL;

    for (size_t i = 0; i < devices->disks.count && !disk; i++) {
        const struct vmi_volume *volume = devices->disks.items[i].volume;

        if (volume && volume->kind == VMI_VOLUME_DOWNWARD_METRICS)
            disk = machine_find_disk(d->machine, devices->disks.items[i].name);
    }
    if (!disk || !disk->path || d->pid <= 0)
        return;
    write_metrics(&text, d);
    if (storage_write_metrics(disk->path, strbuf_text(&text), &e) < 0)
        log_warning_of(e, "the guest's metrics disk is not up to date");
    if (event_arm_timer(d->event, &d->metrics_timer, DOWNWARD_METRICS_USEC, on_timer, d) < 0)
        log_warning("the guest's metrics disk will not be renewed: out of memory");
}

int domain_connect_metrics_channel(struct domain *d, struct error **ret_error)
{
    int fd = -EBADF, r = domain_connect_role(d, MACHINE_ROLE_METRICS, &fd, ret_error);

    metrics_channel_free(d->metrics_channel);
    d->metrics_channel = NULL;
    if (r < 0 || fd < 0)
        return r;
    r = metrics_channel_new(d->event, fd, METRICS_REQUEST_USEC, write_metrics, d, &d->metrics_channel);
    return r < 0 ? error_errno(ret_error, r, "cannot watch the metrics channel") : 0;
}

void domain_metrics_port(struct domain *d, bool open)
{
    _cleanup_error_ struct error *e = NULL;

    /* What its last reader has left is not for the next one: it goes with the connection. */
    if (!open && d->metrics_channel && domain_connect_metrics_channel(d, &e) < 0)
        log_warning_of(e, "the guest's metrics channel stays closed");
}
