/* SPDX-License-Identifier: Apache-2.0 */
/* What the golden files cannot show: lifetimes, facts that are wrong, and the questions that others ask a machine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

#include <vmlet/vmi.h>

#include "base/arena.h"
#include "base/strv.h"
#include "machine/machine.h"

static const char manifest[] = "apiVersion: kubevirt.io/v1\n"
                               "kind: VirtualMachineInstance\n"
                               "metadata: {name: t}\n"
                               "spec:\n"
                               "  domain:\n"
                               "    memory: {guest: 64Mi}\n"
                               "    clock: {timezone: Europe/Berlin}\n"
                               "    devices:\n"
                               "      tpm: {}\n"
                               "      disks:\n"
                               "      - {name: root, disk: {bus: virtio}}\n"
                               "      - {name: tray, cdrom: {bus: sata}}\n"
                               "      interfaces:\n"
                               "      - {name: default, masquerade: {}}\n"
                               "  networks:\n"
                               "  - {name: default, pod: {}}\n"
                               "  volumes:\n"
                               "  - {name: root, emptyDisk: {capacity: 1Gi}}\n";

struct scene {
    struct vmi *vmi;
    struct qemu_caps caps;
    struct machine_volume volume;
    struct machine_nic nic;
    struct machine_facts facts;
    struct faults faults;
    struct error *error;
    struct machine *machine;
    char *heap[8]; /* texts of the facts, freed before the machine is read */
    size_t n_heap;
};

static char *own(struct scene *s, const char *text)
{
    s->heap[s->n_heap] = strdup(text);
    assert_non_null(s->heap[s->n_heap]);
    return s->heap[s->n_heap++];
}

static struct scene *scene_new(void)
{
    struct vmi_load_options options = {.default_uuid_seed = "unit"};
    struct scene *s = calloc(1, sizeof(*s));

    assert_non_null(s);
    assert_int_equal(
        vmi_load_text(manifest, sizeof(manifest) - 1, "unit.yaml", &options, &s->vmi, &s->faults, &s->error), 0);
    s->caps = (struct qemu_caps){.version = 7002000, .binary = own(s, "/usr/bin/qemu-system-x86_64")};
    s->volume = (struct machine_volume){
        .volume = "root", .path = own(s, "/images/root.qcow2"), .format = own(s, "qcow2"), .direct_io = true};
    s->nic = (struct machine_nic){.interface = "default",
                                  .kind = MACHINE_NET_TAP,
                                  .tap = own(s, "tap0"),
                                  .mac = own(s, "02:00:00:00:00:01"),
                                  .queues = 2};
    s->facts = (struct machine_facts){.accel = MACHINE_ACCEL_TCG,
                                      .caps = &s->caps,
                                      .private_dir = own(s, "/run/vm"),
                                      .volumes = &s->volume,
                                      .n_volumes = 1,
                                      .nics = &s->nic,
                                      .n_nics = 1,
                                      .vnc = true,
                                      .serial_log = true};
    return s;
}

static int build(struct scene *s)
{
    return machine_build(s->vmi, &s->facts, &s->machine, &s->faults, &s->error);
}

static void scene_forget_inputs(struct scene *s)
{
    while (s->n_heap > 0)
        free(s->heap[--s->n_heap]);
    vmi_free(s->vmi);
    s->vmi = NULL;
}

static void scene_free(struct scene *s)
{
    scene_forget_inputs(s);
    machine_free(s->machine);
    faults_done(&s->faults);
    error_free(s->error);
    free(s);
}

static bool has_argument(const struct machine *machine, const char *text)
{
    STRV_FOREACH (a, machine_get_argv(machine))
        if (strstr(*a, text))
            return true;
    return false;
}

/* Everything that a machine hands out is read after its inputs are gone; the sanitizer watches. */
static void test_lifetime(void **state)
{
    struct scene *s = scene_new();
    size_t n, length = 0;
    const struct machine_fd *fds;
    const struct machine_item *items;
    const struct machine_helper *helpers;
    json_t *json;

    assert_int_equal(build(s), 0);
    scene_forget_inputs(s);
    STRV_FOREACH (a, machine_get_argv(s->machine))
        length += strlen(*a);
    fds = machine_get_fds(s->machine, &n);
    for (size_t i = 0; i < n; i++)
        length += strlen(fds[i].path);
    items = machine_get_items(s->machine, &n);
    for (size_t i = 0; i < n; i++)
        length += strlen(items[i].path) + strlen(items[i].what) + strlen(items[i].why) +
                  (items[i].id ? strlen(items[i].id) : 0);
    helpers = machine_get_helpers(s->machine, &n);
    assert_int_equal(n, 1);
    STRV_FOREACH (a, helpers[0].argv)
        length += strlen(*a);
    assert_string_equal(helpers[0].directory, "/run/vm/swtpm");
    assert_string_equal(machine_get_environment(s->machine)[0], "TZ=Europe/Berlin");
    assert_null(machine_get_environment(s->machine)[1]);
    json = machine_to_json(s->machine);
    assert_non_null(json);
    json_decref(json);
    assert_true(length > 1000);
    scene_free(s);
}

static void test_questions(void **state)
{
    struct scene *s = scene_new();
    const char *node = NULL;
    const struct machine_fd *fds;
    size_t n, queues = 0;

    assert_int_equal(build(s), 0);
    assert_string_equal(machine_disk_target(s->machine, "root"), "vda");
    assert_string_equal(machine_disk_target(s->machine, "tray"), "sda");
    assert_null(machine_disk_target(s->machine, "nothing"));
    assert_string_equal(machine_disk_id(s->machine, "root", &node), "ua-root");
    assert_string_equal(node, "disk-root");
    assert_string_equal(machine_disk_id(s->machine, "tray", &node), "ua-tray");
    assert_null(node);
    assert_string_equal(machine_nic_id(s->machine, "default"), "ua-default");
    assert_string_equal(machine_balloon_id(s->machine), "balloon0");
    fds = machine_get_fds(s->machine, &n);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(fds[i].number, 20 + (int)i);
        if (fds[i].kind == MACHINE_FD_TAP)
            assert_int_equal(fds[i].queue, queues++);
    }
    assert_int_equal(queues, 2);
    scene_free(s);
}

static void test_bad_facts(void **state)
{
    struct scene *s = scene_new();

    s->facts.private_dir = NULL;
    assert_int_equal(build(s), -EINVAL);
    assert_int_equal(error_get_code(s->error), ERROR_INTERNAL);
    s->facts.private_dir = "/run/vm";
    s->caps.version = 6002000;
    assert_true(build(s) < 0);
    assert_int_equal(error_get_code(s->error), ERROR_QEMU_TOO_OLD);
    assert_int_equal(error_exit_code(s->error), EXIT_HOST_CANNOT);
    s->caps.version = 7002000;
    s->volume.path = "/images/\xff.img";
    assert_int_equal(build(s), -EILSEQ);
    assert_int_equal(error_get_code(s->error), ERROR_BAD_ARGUMENT);
    assert_null(s->machine);
    scene_free(s);
}

/* A manifest that is right on a host that lacks something is not a bad manifest; both together are. */
static void test_whose_fault(void **state)
{
    struct scene *s = scene_new();

    s->facts.n_volumes = 0;
    assert_int_equal(build(s), -EINVAL);
    assert_int_equal(error_get_code(s->error), ERROR_HOST);
    assert_int_equal(s->faults.count, 1);
    assert_string_equal(s->faults.items[0].path, "spec.domain.devices.disks[0]");
    s->vmi->spec.domain.cpu.model = "no,name";
    assert_int_equal(build(s), -EINVAL);
    assert_int_equal(error_get_code(s->error), ERROR_BAD_MANIFEST);
    assert_int_equal(s->faults.count, 3);
    scene_free(s);
}

/* The loader refuses these; a machine that left them out in silence would break a promise, whoever asks for it. */
static void test_promises(void **state)
{
    struct scene *s = scene_new();

    s->vmi->spec.domain.launch_security = s->vmi->at;
    assert_int_equal(build(s), -EINVAL);
    assert_int_equal(error_get_code(s->error), ERROR_BAD_MANIFEST);
    scene_free(s);
}

static void test_commas(void **state)
{
    struct scene *s = scene_new();

    s->facts.private_dir = "/run/a,b";
    s->vmi->spec.domain.devices.tpm = NULL;
    s->vmi->domain_name = "ns_a,b";
    assert_int_equal(build(s), 0);
    assert_true(has_argument(s->machine, "unix:/run/a,,b/virt-vnc"));
    assert_true(has_argument(s->machine, "guest=ns_a,,b,debug-threads=on"));
    scene_free(s);
}

/* swtpm reads "dir=…,mode=…" and knows no escape. */
static void test_comma_for_a_helper(void **state)
{
    struct scene *s = scene_new();

    s->facts.private_dir = "/run/a,b";
    assert_int_equal(build(s), -EINVAL);
    assert_int_equal(error_get_code(s->error), ERROR_HOST);
    scene_free(s);
}

static void test_control_characters(void **state)
{
    struct scene *s = scene_new();

    s->vmi->spec.domain.firmware.serial = "a\nb";
    s->vmi->domain_name = "n\x01";
    assert_int_equal(build(s), -EINVAL);
    assert_int_equal(error_get_code(s->error), ERROR_BAD_MANIFEST);
    assert_int_equal(s->faults.count, 2);
    scene_free(s);
}

static void test_unsorted_device_list(void **state)
{
    struct scene *s = scene_new();
    char *devices[] = {(char *)"virtserialport",
                       (char *)"VGA",
                       (char *)"isa-serial",
                       (char *)"virtio-blk-pci-non-transitional",
                       (char *)"ide-cd",
                       (char *)"virtio-net-pci-non-transitional",
                       (char *)"virtio-scsi-pci-non-transitional",
                       (char *)"virtio-serial-pci-non-transitional",
                       (char *)"virtio-balloon-pci-non-transitional",
                       (char *)"tpm-tis",
                       NULL};

    s->caps.devices = devices;
    assert_int_equal(build(s), 0);
    devices[9] = NULL;
    machine_free(s->machine);
    s->machine = NULL;
    assert_int_equal(build(s), -EINVAL);
    assert_string_equal(s->faults.items[0].path, "spec.domain.devices.tpm");
    scene_free(s);
}

static void test_firmware_list(void **state)
{
    char **list = NULL;
    bool found = false;

    assert_int_equal(machine_list_firmware(MACHINE_ARCH_X86_64, "/opt/fw", &list), 0);
    assert_true(startswith(list[0], "/opt/fw/OVMF_CODE"));
    STRV_FOREACH (path, list)
        found = found || streq(*path, "/usr/share/OVMF/OVMF_CODE_4M.fd");
    assert_true(found);
    strv_free(list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lifetime),
        cmocka_unit_test(test_questions),
        cmocka_unit_test(test_bad_facts),
        cmocka_unit_test(test_whose_fault),
        cmocka_unit_test(test_promises),
        cmocka_unit_test(test_commas),
        cmocka_unit_test(test_comma_for_a_helper),
        cmocka_unit_test(test_control_characters),
        cmocka_unit_test(test_unsorted_device_list),
        cmocka_unit_test(test_firmware_list),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
