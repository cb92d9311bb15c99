/* SPDX-License-Identifier: Apache-2.0 */
/* Defaults, presets, choice of the VM; what is kept exactly. Faults have golden files: test-vmi-manifests.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include <vmlet/vmi.h>

#include "base/error.h"
#include "base/util.h"
#include "json/faults.h"

#define HEAD(kind, name) "apiVersion: kubevirt.io/v1\nkind: " kind "\nmetadata: {name: " name "}\n"
#define VMI              HEAD("VirtualMachineInstance", "vm") "spec:\n"

static struct vmi *load_with(const char *text, const struct vmi_load_options *options)
{
    struct faults faults = {0};
    struct vmi *vmi = NULL;
    int r = vmi_load_text(text, strlen(text), "t.yaml", options, &vmi, &faults, NULL);
    _cleanup_free_ char *got = faults_format(&faults);

    assert_string_equal(got, "");
    assert_int_equal(r, 0);
    faults_done(&faults);
    return vmi;
}

static struct vmi *load(const char *text)
{
    return load_with(text, NULL);
}

static void assert_faults(const char *text, const struct vmi_load_options *options, const char *expected)
{
    struct faults faults = {0};
    struct vmi *vmi = NULL;
    _cleanup_error_ struct error *error = NULL;
    int r = vmi_load_text(text, strlen(text), "t.yaml", options, &vmi, &faults, &error);
    _cleanup_free_ char *got = faults_format(&faults);

    assert_string_equal(got, expected);
    assert_int_equal(r, -EINVAL);
    assert_int_equal(error_get_code(error), ERROR_BAD_MANIFEST);
    assert_null(vmi);
    faults_done(&faults);
}

#define _cleanup_vmi_ _cleanup_(vmi_freep)

static void test_uuid(void **state)
{
    const char *spec = "spec: {runStrategy: Halted, template: {spec: {domain: {memory: {guest: 64Mi}}}}}\n";
    const struct vmi_load_options seeded = {.default_uuid_seed = "x"};
    char text[512];
    _cleanup_vmi_ struct vmi *a = NULL, *b = NULL, *c = NULL, *d = NULL, *e = NULL, *f = NULL;

    snprintf(text, sizeof(text), "%s%s", HEAD("VirtualMachine", "ubuntu-amd"), spec);
    a = load(text);
    assert_string_equal(a->spec.domain.firmware.uuid, "d3c2dac2-71b8-5a49-a5a6-7f3bdb93e2c3");
    assert_string_equal(a->domain_name, "default_ubuntu-amd");
    snprintf(text, sizeof(text), "%s%s", HEAD("VirtualMachine", "testvm"), spec);
    b = load(text);
    assert_string_equal(b->spec.domain.firmware.uuid, "5a9fc181-957e-5c32-9e5a-2de5e9673531");
    c = load(VMI "  domain: {memory: {guest: 64Mi}, firmware: {uuid: 5A9FC181-957E-5C32-9E5A-2DE5E9673531}}\n");
    assert_string_equal(c->spec.domain.firmware.uuid, "5a9fc181-957e-5c32-9e5a-2de5e9673531");
    d = load(VMI "  domain: {memory: {guest: 64Mi}}\n");
    e = load(VMI "  domain: {memory: {guest: 64Mi}}\n");
    assert_string_not_equal(d->spec.domain.firmware.uuid, e->spec.domain.firmware.uuid);
    assert_int_equal(d->spec.domain.firmware.uuid[14], '4');
    vmi_freep(&e);
    e = load_with(VMI "  domain: {memory: {guest: 64Mi}}\n", &seeded);
    f = load_with(VMI "  domain: {memory: {guest: 64Mi}}\n", &seeded);
    assert_string_equal(e->spec.domain.firmware.uuid, f->spec.domain.firmware.uuid);
    assert_int_equal(e->spec.domain.firmware.uuid[14], '5');
}

static void test_machine_defaults(void **state)
{
    const struct vmi_load_options arm = {.default_arch = "arm64"};
    _cleanup_vmi_ struct vmi *a = load(VMI "  domain: {resources: {limits: {memory: 1500M, cpu: 2500m}}}\n");
    _cleanup_vmi_ struct vmi *b =
        load_with(VMI "  domain: {memory: {guest: 1Gi}, cpu: {cores: 2, threads: 0}, firmware: "
                      "{bootloader: {efi: {}}}, machine: {type: \"\"}}\n",
                  &arm);
    _cleanup_vmi_ struct vmi *c =
        load(VMI "  domain: {memory: {hugepages: {pageSize: 2Mi}}, cpu: {sockets: 2, cores: 3, "
                 "threads: 2, maxSockets: 4}}\n");

    assert_string_equal(a->spec.architecture, "amd64");
    assert_string_equal(a->spec.domain.machine.type, "q35");
    assert_int_equal(a->spec.domain.memory.guest.value, 1500000000);
    assert_int_equal(a->spec.domain.resources.requests.cpu.milli, 2500);
    assert_int_equal(a->spec.domain.cpu.sockets.value, 3);
    assert_int_equal(a->spec.domain.cpu.cores.value, 1);
    assert_string_equal(a->spec.domain.cpu.model, "host-model");
    assert_int_equal(a->spec.termination_grace_period_seconds.value, 30);
    assert_string_equal(b->spec.domain.machine.type, "virt");
    assert_string_equal(b->spec.domain.cpu.model, "host-passthrough");
    assert_int_equal(b->spec.domain.cpu.threads.value, 1);
    assert_int_equal(b->spec.domain.firmware.bootloader->efi->secure_boot, OPT_FALSE);
    assert_int_equal(c->spec.domain.memory.guest.value, 2 * 1024 * 1024);
    assert_int_equal(vmi_vcpus(c), 12);
    assert_int_equal(vmi_max_vcpus(c), 24);
    assert_int_equal(vmi_max_vcpus(a), 3);
}

static void test_device_defaults(void **state)
{
    _cleanup_vmi_ struct vmi *v =
        load(VMI "  domain:\n"
                 "    memory: {guest: 1Gi}\n"
                 "    devices: {autoattachInputDevice: true, watchdog: {name: w}, sound: {name: s}, disks: [{name: cd, "
                 "cdrom: {}}, {name: a}]}\n"
                 "  volumes: [{name: a, emptyDisk: {capacity: 1Gi}}, {name: b, configMap: {name: c}}, {name: cd, "
                 "containerDisk: {image: x}}]\n");
    const struct vmi_devices *d = &v->spec.domain.devices;

    assert_int_equal(d->disks.count, 3);
    assert_int_equal(d->disks.items[0].device, VMI_DISK_DEVICE_CDROM);
    assert_int_equal(d->disks.items[0].target->bus, VMI_BUS_SATA);
    assert_int_equal(d->disks.items[0].target->readonly, OPT_TRUE);
    assert_int_equal(d->disks.items[0].target->tray, VMI_TRAY_CLOSED);
    assert_ptr_equal(d->disks.items[0].volume, &v->spec.volumes.items[2]);
    assert_int_equal(d->disks.items[0].volume->index, 2);
    assert_int_equal(d->disks.items[1].device, VMI_DISK_DEVICE_DISK);
    assert_string_equal(d->disks.items[2].name, "b"); /* no disk names it: it becomes one */
    assert_int_equal(d->disks.items[2].volume->kind, VMI_VOLUME_CONFIG_MAP);
    assert_int_equal(d->interfaces.count, 1);
    assert_string_equal(d->interfaces.items[0].name, "default");
    assert_int_equal(d->interfaces.items[0].binding, VMI_BINDING_BRIDGE);
    assert_int_equal(d->interfaces.items[0].model, VMI_NIC_VIRTIO);
    assert_non_null(d->interfaces.items[0].network->pod);
    assert_int_equal(d->inputs.items[0].bus, VMI_BUS_USB);
    assert_int_equal(d->inputs.items[0].type, VMI_INPUT_TYPE_TABLET);
    assert_int_equal(d->watchdog->i6300esb->action, VMI_WATCHDOG_RESET);
    assert_int_equal(d->sound->model, VMI_SOUND_ICH9);
    assert_string_equal(vmi_volume_kind_name(vmi_find_volume(v, "a")->kind), "emptyDisk");
    assert_null(vmi_find_volume(v, "zzz"));
}

static void test_hyperv(void **state)
{
    _cleanup_vmi_ struct vmi *v =
        load(VMI "  domain: {memory: {guest: 1Gi}, features: {hyperv: {synictimer: {}, evmcs: {}, spinlocks: {}}}}\n");
    const struct vmi_hyperv *h = v->spec.domain.features.hyperv;

    assert_true(vmi_feature_on(h->synic) && vmi_feature_on(h->vpindex) && vmi_feature_on(h->vapic));
    assert_int_equal(h->spinlocks->spinlocks.value, 4096);
    assert_string_equal(v->spec.domain.cpu.features.items[0].name, "vmx");
    assert_false(vmi_feature_on(h->relaxed));
}

/* Nothing between the file and the struct changes a string. */
static void test_strings(void **state)
{
    _cleanup_vmi_ struct vmi *v =
        load(VMI "  domain:\n"
                 "    memory: {guest: 64Mi}\n"
                 "    chassis: {manufacturer: \"a,b=\\\"c\\\" \\\\ 'd'\\nnext\\ttab\", asset: 'it''s, ok'}\n"
                 "    firmware:\n"
                 "      kernelBoot:\n"
                 "        kernelArgs: |\n"
                 "          a=1,b=2 \"q\"\n"
                 "          c\n"
                 "        container: {image: x, kernelPath: /k}\n"
                 "  volumes: [{name: c, cloudInitNoCloud: {userData: \"#!/bin/sh\\necho '\\U0001F600',\\n\"}}]\n");

    assert_string_equal(v->spec.domain.chassis->manufacturer, "a,b=\"c\" \\ 'd'\nnext\ttab");
    assert_string_equal(v->spec.domain.chassis->asset, "it's, ok");
    assert_string_equal(v->spec.domain.firmware.kernel_boot->kernel_args, "a=1,b=2 \"q\"\nc\n");
    assert_string_equal(v->spec.volumes.items[0].cloud_init_no_cloud->user_data,
                        "#!/bin/sh\necho '\xf0\x9f\x98\x80',\n");
}

static void test_presets(void **state)
{
    static const char text[] = "apiVersion: kubevirt.io/v1alpha2\n"
                               "kind: VirtualMachine\n"
                               "metadata: {name: testvm}\n"
                               "spec:\n"
                               "  running: false\n"
                               "  template:\n"
                               "    metadata: {labels: {size: small}}\n"
                               "    spec:\n"
                               "      domain: {cpu: {cores: 3}, devices: {disks: [{name: d, volumeName: v}]}}\n"
                               "      volumes: [{name: v, registryDisk: {image: x}}]\n"
                               "---\n"
                               "apiVersion: kubevirt.io/v1alpha2\n"
                               "kind: VirtualMachineInstancePreset\n"
                               "metadata: {name: small}\n"
                               "spec:\n"
                               "  selector: {matchLabels: {size: small}}\n"
                               "  domain: {resources: {requests: {memory: 64M}}, cpu: {cores: 1, threads: 2}}\n"
                               "---\n"
                               "apiVersion: kubevirt.io/v1alpha2\n"
                               "kind: VirtualMachineInstancePreset\n"
                               "metadata: {name: other}\n"
                               "spec: {selector: {matchLabels: {size: large}}, domain: {cpu: {sockets: 9}}}\n";
    _cleanup_vmi_ struct vmi *v = load(text);

    assert_int_equal(v->running, OPT_FALSE);
    assert_int_equal(v->spec.domain.memory.guest.value, 64000000);
    assert_int_equal(v->spec.domain.cpu.cores.value, 3);
    assert_int_equal(v->spec.domain.cpu.threads.value, 2);
    assert_int_equal(v->spec.domain.cpu.sockets.value, 1);
    assert_string_equal(v->spec.domain.devices.disks.items[0].name, "d");
    assert_string_equal(v->spec.domain.devices.disks.items[0].volume->name, "v");
    assert_string_equal(v->spec.domain.devices.disks.items[0].volume->container_disk->image, "x");
    assert_string_equal(vmi_label(v, "size"), "small");
    assert_null(vmi_annotation(v, "size"));
}

static void test_choice(void **state)
{
    static const char text[] =
        VMI "  domain: {memory: {guest: 64Mi}}\n"
            "---\n" HEAD("VirtualMachineInstance", "second") "spec: {domain: {memory: {guest: 128Mi}}}\n";
    const struct vmi_load_options second = {.name = "second"}, none = {.name = "third"};
    _cleanup_vmi_ struct vmi *v = load_with(text, &second);

    assert_string_equal(v->name, "second");
    assert_int_equal(v->spec.domain.memory.guest.value, 128 * 1024 * 1024);
    assert_faults(text, NULL, "t.yaml: has several VMs: choose one by --name (vmi/vm, vmi/second)\n");
    assert_faults(text, &none, "t.yaml: has no VM named \"third\" (it has vmi/vm, vmi/second)\n");
}

static void test_metadata(void **state)
{
    _cleanup_vmi_ struct vmi *v =
        load("apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstanceReplicaSet\n"
             "metadata: {generateName: web-, namespace: shop, uid: u}\n"
             "spec:\n"
             "  selector: {matchLabels: {a: b}}\n"
             "  template: {metadata: {labels: {a: b}, annotations: {x: \"\"}}, spec: {domain: "
             "{memory: {guest: 64Mi}}}}\n");

    assert_string_equal(v->kind, "VirtualMachineInstanceReplicaSet");
    assert_string_equal(v->name, "web");
    assert_string_equal(v->domain_name, "shop_web");
    assert_null(v->uid);
    assert_string_equal(vmi_label(v, "a"), "b");
    assert_string_equal(vmi_annotation(v, "x"), "");
    assert_faults("apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nspec: {domain: {memory: {guest: 64Mi}}}\n",
                  NULL, "t.yaml:1:1: metadata: is missing (it has the name)\n");
}

static void test_cloud_init_limit(void **state)
{
    char data[4096], text[8192];

    memset(data, 'a', 2049);
    data[2049] = '\0';
    snprintf(text, sizeof(text),
             VMI "  domain: {memory: {guest: 64Mi}}\n  volumes: [{name: c, cloudInitNoCloud: {userData: %s}}]\n", data);
    assert_faults(text, NULL,
                  "t.yaml:6:41: spec.volumes[0].cloudInitNoCloud: user data of 2049 bytes is too long (at most 2048; "
                  "larger data goes into a secret)\n");
}

static void test_file(void **state)
{
    struct faults faults = {0};
    _cleanup_error_ struct error *error = NULL;
    struct vmi *v = NULL;

    assert_int_equal(vmi_load_file("/nonexistent/vm.yaml", NULL, &v, &faults, &error), -ENOENT);
    assert_int_equal(faults.count, 0);
    assert_non_null(strstr(error_message(error), "/nonexistent/vm.yaml"));
    assert_int_equal(vmi_load_file("/dev/zero", NULL, &v, &faults, &error), -EINVAL);
    assert_int_equal(faults.count, 1);
    faults_done(&faults);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uuid),   cmocka_unit_test(test_machine_defaults), cmocka_unit_test(test_device_defaults),
        cmocka_unit_test(test_hyperv), cmocka_unit_test(test_strings),          cmocka_unit_test(test_presets),
        cmocka_unit_test(test_choice), cmocka_unit_test(test_metadata),         cmocka_unit_test(test_cloud_init_limit),
        cmocka_unit_test(test_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
