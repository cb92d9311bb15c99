/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's memory: its backing, huge pages, sharing, and what can be plugged in later. */
#include "machine/build.h"

/* virtio-mem adds and removes memory in blocks of this size; a transparent huge page of both architectures. */
#define HOTPLUG_BLOCK (2ULL * 1024 * 1024)
/* QEMU rounds -m up to this, and the backend must have the same size (softmmu/vl.c, "ROUND_UP(sz, 8192)"). */
#define MEMORY_ROUND 8192ULL
/* As much as the sums below can hold without care; no machine has it. */
#define MEMORY_LIMIT (1LL << 52)

static bool quantity_usable(struct build *b, const struct node *at, const char *what, const struct quantity *q)
{
    if (q->value > 0 && q->value <= MEMORY_LIMIT)
        return true;
    manifest_fault(b, at, "%s is %s (above 0, up to 4Pi)", what, q->text ? q->text : "0");
    return false;
}

/* "2Mi" and "1Gi" are what processors have; others are for the kernel to refuse. 0 after a fault, or without huge
 * pages. */
static uint64_t huge_page_size(struct build *b)
{
    const struct vmi_hugepages *huge = b->domain->memory.hugepages;
    uint64_t size;

    if (!huge)
        return 0;
    if (!huge->page_size.is_set || !quantity_usable(b, huge->at, "the huge page size", &huge->page_size))
        return 0;
    size = (uint64_t)huge->page_size.value;
    if (size < 4096 || (size & (size - 1)) != 0) {
        manifest_fault(b, huge->at, "huge page size %s is no power of two", huge->page_size.text);
        return 0;
    }
    if (b->machine->memory % size != 0) {
        manifest_fault(b, b->domain->memory.at, "guest memory of %llu bytes is no multiple of the huge page size %s",
                       (unsigned long long)b->machine->memory, huge->page_size.text);
        return 0;
    }
    return size;
}

static bool has_lock(const struct build *b)
{
    return b->domain->cpu.realtime ||
           (b->domain->memory.reserved_overhead && b->domain->memory.reserved_overhead->mem_lock &&
            streq(b->domain->memory.reserved_overhead->mem_lock, "Required"));
}

/* One memory backend: of the guest's own memory, or of what is plugged in. */
static void backend(struct build *b, const char *id, uint64_t size, uint64_t page)
{
    const char *memfd = vmi_annotation(b->vmi, "kubevirt.io/memfd");
    bool use_memfd = !memfd || !streq(memfd, "false");
    json_t *object;

    if (page == 0 && !b->share_memory) {
        object = object_new(b, "memory-backend-ram", id);
    } else if (use_memfd) {
        object = object_new(b, "memory-backend-memfd", id);
        if (page) {
            set_bool(b, object, "hugetlb", true);
            set_int(b, object, "hugetlbsize", page);
        }
    } else {
        object = object_new(b, "memory-backend-file", id);
        set_string(b, object, "mem-path", page ? "/dev/hugepages" : "/dev/shm");
    }
    set_int(b, object, "size", size);
    if (b->share_memory)
        set_bool(b, object, "share", true);
    else if (page && use_memfd)
        set_bool(b, object, "share", false);
    if (page || has_lock(b))
        set_bool(b, object, "prealloc", true);
}

static void describe_memory(struct build *b, uint64_t page)
{
    const struct vmi_memory *memory = &b->domain->memory;

    item(b, MACHINE_GROUP_MEMORY, memory->at, "pc.ram", text(b, "memory %s", bytes_text(b, b->machine->memory)),
         "memory.guest, or derived from resources or the huge page size");
    if (page)
        item(b, MACHINE_GROUP_MEMORY, memory->hugepages->at, "pc.ram",
             text(b, "huge pages of %s, taken before the start", memory->hugepages->page_size.text),
             "memory.hugepages: a shortage shows as a start that fails, not as a guest that is killed later");
    if (b->share_memory)
        item(b, MACHINE_GROUP_MEMORY, NULL, "pc.ram", "memory is shared",
             "virtiofs daemons read and write it directly");
}

void build_memory(struct build *b)
{
    const struct vmi_memory *memory = &b->domain->memory;
    struct machine *m = b->machine;
    uint64_t page, maximum = 0;

    b->share_memory = domain_shares_memory(b);
    if (!memory->guest.is_set) {
        manifest_fault(b, memory->at, "the guest has no memory size (memory.guest or resources.requests.memory)");
        return;
    }
    if (!quantity_usable(b, memory->at, "guest memory", &memory->guest))
        return;
    m->memory = ((uint64_t)memory->guest.value + MEMORY_ROUND - 1) / MEMORY_ROUND * MEMORY_ROUND;
    m->max_memory = m->memory;
    page = huge_page_size(b);
    if (memory->max_guest.is_set && quantity_usable(b, memory->at, "maxGuest", &memory->max_guest)) {
        if (memory->max_guest.value < memory->guest.value)
            manifest_fault(b, memory->at, "maxGuest %s is less than guest %s", memory->max_guest.text,
                           memory->guest.text ? memory->guest.text : "memory");
        else
            maximum =
                ((uint64_t)memory->max_guest.value - (uint64_t)memory->guest.value) / HOTPLUG_BLOCK * HOTPLUG_BLOCK;
    }
    if (maximum) {
        m->max_memory = m->memory + maximum;
        option(b, SECTION_MACHINE, "-m",
               text(b, "size=%lluB,slots=1,maxmem=%lluB", (unsigned long long)m->memory,
                    (unsigned long long)m->max_memory));
    } else {
        option(b, SECTION_MACHINE, "-m", text(b, "size=%lluB", (unsigned long long)m->memory));
    }
    backend(b, "pc.ram", m->memory, page);
    machine_set(b, "memory-backend", "pc.ram");
    describe_memory(b, page);
    option(b, SECTION_MACHINE, "-overcommit", has_lock(b) ? "mem-lock=on" : "mem-lock=off");
    if (has_lock(b))
        item(b, MACHINE_GROUP_MEMORY, memory->at, NULL, "memory is locked",
             "realtime or reservedOverhead.memLock: no page fault later");
}

void build_memory_device(struct build *b)
{
    uint64_t more = b->machine->max_memory - b->machine->memory;
    const struct vmi_hugepages *huge = b->domain->memory.hugepages;
    uint64_t page = huge && huge->page_size.value > 0 ? (uint64_t)huge->page_size.value : 0;
    json_t *device;

    if (more == 0)
        return;
    if (page > HOTPLUG_BLOCK) {
        manifest_fault(b, huge->at, "memory that can be plugged in (maxGuest) goes with huge pages of up to 2Mi");
        return;
    }
    backend(b, "memory-plugged", more, page);
    device = device_new(b, b->domain->memory.at, "virtio-mem-pci", "virtio-mem0");
    set_string(b, device, "memdev", "memory-plugged");
    set_int(b, device, "block-size", HOTPLUG_BLOCK);
    set_int(b, device, "requested-size", 0);
    set_int(b, device, "node", 0);
    pci_add(b, device, PCI_PORT, b->domain->memory.at, "memory device", NULL);
    item(b, MACHINE_GROUP_MEMORY, b->domain->memory.at, "virtio-mem0",
         text(b, "%llu bytes of memory can be plugged in", (unsigned long long)more),
         "maxGuest: the guest takes them in blocks of 2 MiB when the launcher asks");
}

void build_balloon(struct build *b)
{
    const char *disabled = vmi_annotation(b->vmi, "kubevirt.io/free-page-reporting-disabled");
    const char *why = NULL;
    json_t *device;

    if (b->devices->autoattach_mem_balloon == OPT_FALSE) {
        item(b, MACHINE_GROUP_MEMORY, b->devices->at, NULL, "no memory balloon",
             "autoattachMemBalloon is false in the manifest");
        return;
    }
    if (disabled && streq(disabled, "true"))
        why = "the annotation kubevirt.io/free-page-reporting-disabled is true";
    else if (b->facts->no_free_page_reporting)
        why = "the cluster's configuration disables it";
    else if (domain_is_high_performance(b))
        why = "dedicated CPUs, huge pages or realtime: giving pages back would cost faults later";
    device = virtio_new(b, NULL, "virtio-balloon-pci", "balloon0");
    set_bool(b, device, "free-page-reporting", why == NULL);
    pci_add(b, device, PCI_PORT, NULL, "memory balloon", NULL);
    item(b, MACHINE_GROUP_MEMORY, NULL, "balloon0",
         why ? "memory balloon without free page reporting" : "memory balloon with free page reporting",
         why ? why : "pages that the guest frees go back to the host, and the guest's statistics are read through it");
}

bool domain_is_high_performance(const struct build *b)
{
    return b->domain->cpu.dedicated_cpu_placement == OPT_TRUE || b->domain->cpu.realtime || b->domain->memory.hugepages;
}

bool domain_shares_memory(const struct build *b)
{
    for (size_t i = 0; i < b->devices->filesystems.count; i++)
        if (b->devices->filesystems.items[i].virtiofs)
            return true;
    return false;
}
