/* SPDX-License-Identifier: Apache-2.0 */
/* A manifest becomes a command line, or faults; and each word of the command line is one that QEMU can read. */
#include <assert.h>
#include <jansson.h>
#include <stdio.h>

#include <vmlet/vmi.h>

#include "base/arena.h"
#include "machine/machine.h"

enum { MOST = 256 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct machine_volume volumes[MOST];
static struct machine_nic nics[MOST];

static void make_facts(const struct vmi *vmi, struct machine_facts *facts)
{
    const struct vmi_devices *devices = &vmi->spec.domain.devices;

    for (size_t i = 0; i < vmi->spec.volumes.count && i < MOST; i++)
        volumes[facts->n_volumes++] = (struct machine_volume){.volume = vmi->spec.volumes.items[i].name,
                                                              .path = "/images/a,b",
                                                              .format = i % 2 ? "raw" : "qcow2",
                                                              .direct_io = true};
    for (size_t i = 0; i < devices->interfaces.count && i < MOST; i++)
        nics[facts->n_nics++] = (struct machine_nic){.interface = devices->interfaces.items[i].name,
                                                     .kind = (enum machine_net_kind)(i % 4),
                                                     .tap = "tap0",
                                                     .socket_path = "/run/s",
                                                     .mac = "02:00:00:00:00:01",
                                                     .queues = 1};
    facts->volumes = volumes;
    facts->nics = nics;
}

/* Commas are doubled wherever text of the manifest stands in a keyval option: what comes out between single commas is
 * a key that we wrote. */
static void check_keyval(const char *name, const char *value)
{
    for (const char *p = value; *p; p++) {
        if (p[0] == ',' && p[1] == ',') {
            p++;
            continue;
        }
        if (p[0] == ',')
            assert((p[1] >= 'a' && p[1] <= 'z') || (p[1] >= '0' && p[1] <= '9'));
    }
    assert(!strchr(value, '\n') || streq(name, "-append"));
}

static void check_argv(char *const *argv)
{
    static const char *const keyval[] = {"-machine", "-name", "-smbios", "-chardev", "-rtc", "-smp", "-m", "-vnc"};

    for (char *const *a = argv + 1; *a; a++) {
        if (a[0][0] != '-')
            continue;
        for (size_t i = 0; a[1] && i < ELEMENTSOF(keyval); i++)
            if (streq(a[0], keyval[i]))
                check_keyval(a[0], a[1]);
        if (a[1] && a[1][0] == '{') {
            json_t *json = json_loads(a[1], JSON_REJECT_DUPLICATES, NULL);

            assert(json);
            json_decref(json);
        }
        if (streq(a[0], "-append"))
            a++;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vmi_load_options options = {.default_uuid_seed = "fuzz", .default_arch = size % 3 == 0 ? "arm64" : "amd64"};
    struct qemu_caps caps = {.version = size % 2 ? 7002000 : 11001000};
    static const char *const firmware[] = {"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd",
                                           "/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd", NULL};
    struct machine_facts facts = {.caps = &caps,
                                  .private_dir = "/run/p",
                                  .known_firmware = firmware,
                                  .accel = size % 5 ? MACHINE_ACCEL_TCG : MACHINE_ACCEL_KVM,
                                  .vnc = true,
                                  .serial_log = true,
                                  .assume = true,
                                  .now = 1800000000};
    struct faults faults = {0};
    struct error *error = NULL;
    struct machine *machine = NULL;
    struct vmi *vmi = NULL;

    if (vmi_load_text((const char *)data, size, "fuzz", &options, &vmi, &faults, &error) >= 0) {
        facts.arch = streq(vmi->spec.architecture, "arm64") ? MACHINE_ARCH_AARCH64 : MACHINE_ARCH_X86_64;
        make_facts(vmi, &facts);
        if (machine_build(vmi, &facts, &machine, &faults, &error) >= 0) {
            json_t *json = machine_to_json(machine);

            assert(json);
            json_decref(json);
            check_argv(machine_get_argv(machine));
        } else {
            assert(error && (faults.count > 0 || error_get_code(error) != ERROR_BAD_MANIFEST));
        }
    }
    machine_free(machine);
    vmi_free(vmi);
    faults_done(&faults);
    error_free(error);
    return 0;
}
