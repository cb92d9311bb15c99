/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What KubeVirt's admission web hooks do to a VMI: presets and defaults. Here the controller does it, when it makes the
 * VMI or meets it for the first time; the launcher fills in the same defaults again for what has none.
 */
#include <stdio.h>

#include "k8s/controller/plan.h"

#define PRESET_ANNOTATION "virtualmachinepreset.kubevirt.io/"
#define PRESET_EXCLUDE    "virtualmachineinstancepresets.admission.kubevirt.io/exclude"

/* ---- presets ---------------------------------------------------------------------------------------------------- */

/* Adds to `into` what `from` has and it does not; what it has itself stays. */
static int merge_missing(json_t *into, const json_t *from)
{
    const char *key;
    json_t *value;

    json_object_foreach ((json_t *)(uintptr_t)from, key, value) {
        json_t *own = json_object_get(into, key);
        int r = 0;

        if (!own)
            r = json_object_set_new(into, key, json_deep_copy(value)) < 0 ? -ENOMEM : 0;
        else if (json_is_object(own) && json_is_object(value))
            r = merge_missing(own, value);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Do two presets say different things about one field? */
static bool contradict(const json_t *a, const json_t *b)
{
    const char *key;
    json_t *value;

    json_object_foreach ((json_t *)(uintptr_t)a, key, value) {
        json_t *other = json_object_get(b, key);

        if (!other)
            continue;
        if (json_is_object(value) && json_is_object(other) ? contradict(value, other) : !json_equal(value, other))
            return true;
    }
    return false;
}

static bool selects(const json_t *preset, const json_t *labels)
{
    const json_t *selector = GET(preset, "spec", "selector");

    /* an empty one selects nothing: a preset must name its VMIs (src/vmi/presets.c has the same rule for files) */
    return (json_object_size(GET(selector, "matchLabels")) > 0 ||
            json_array_size(GET(selector, "matchExpressions")) > 0) &&
           selector_matches(selector, labels);
}

int vmi_apply_presets(json_t *metadata, json_t *spec, const json_t *presets, struct plan_event *said)
{
    const json_t *labels = json_object_get(metadata, "labels");
    json_t *preset, *other, *annotations;
    size_t i, k;

    if (streq(GET_TEXT(metadata, "annotations", PRESET_EXCLUDE), "true"))
        return 0;
    json_array_foreach (presets, i, preset)
        json_array_foreach (presets, k, other)
            if (k > i && selects(preset, labels) && selects(other, labels) &&
                contradict(GET(preset, "spec", "domain"), GET(other, "spec", "domain"))) {
                plan_event_set(said, true, "PresetFailed",
                               "The presets %s and %s contradict each other: none is applied",
                               GET_TEXT(preset, "metadata", "name"), GET_TEXT(other, "metadata", "name"));
                return 0;
            }
    json_array_foreach (presets, i, preset) {
        char key[320];

        if (!selects(preset, labels))
            continue;
        annotations = MAKE(metadata, "annotations");
        if (!annotations || merge_missing(MAKE(spec, "domain"), GET(preset, "spec", "domain")) < 0)
            return -ENOMEM;
        snprintf(key, sizeof(key), PRESET_ANNOTATION "%s", GET_TEXT(preset, "metadata", "name"));
        if (json_object_set_new(annotations, key, json_string(API_VERSION)) < 0)
            return -ENOMEM;
    }
    return 0;
}

/* ---- defaults --------------------------------------------------------------------------------------------------- */

static void set_default(json_t *object, const char *key, json_t *value)
{
    if (json_object_get(object, key))
        json_decref(value);
    else
        json_object_set_new(object, key, value);
}

static void fill_disk(json_t *disk)
{
    json_t *cdrom = json_object_get(disk, "cdrom");

    if (json_is_object(cdrom)) {
        set_default(cdrom, "readonly", json_true());
        set_default(cdrom, "tray", json_string("closed"));
    } else if (!json_object_get(disk, "lun"))
        set_default(disk, "disk", json_object());
}

static void fill_network(json_t *spec, json_t *devices)
{
    if (json_is_false(json_object_get(devices, "autoattachPodInterface")) || json_object_get(spec, "networks") ||
        json_object_get(devices, "interfaces"))
        return;
    json_object_set_new(devices, "interfaces", json_pack("[{s:{}, s:s}]", "bridge", "name", "default"));
    json_object_set_new(spec, "networks", json_pack("[{s:s, s:{}}]", "name", "default", "pod"));
}

int vmi_fill_defaults(json_t *spec, const char *firmware_uuid)
{
    json_t *domain = MAKE(spec, "domain"), *devices = MAKE(domain, "devices"), *cpu = MAKE(domain, "cpu"), *disk;
    const char *arch;
    bool arm;
    size_t i;

    if (!domain || !devices || !cpu)
        return -ENOMEM;
    set_default(spec, "architecture", json_string("amd64"));
    arch = GET_TEXT(spec, "architecture");
    arm = streq(arch, "arm64");
    if (!*GET_TEXT(domain, "machine", "type"))
        json_object_set_new(MAKE(domain, "machine"), "type",
                            json_string(arm                    ? "virt"
                                        : streq(arch, "s390x") ? "s390-ccw-virtio"
                                                               : "q35"));
    set_default(cpu, "model", json_string(arm ? "host-passthrough" : "host-model"));
    json_array_foreach (json_object_get(devices, "disks"), i, disk)
        fill_disk(disk);
    fill_network(spec, devices);
    if (firmware_uuid)
        set_default(MAKE(domain, "firmware"), "uuid", json_string(firmware_uuid));
    set_default(spec, "evictionStrategy", json_string("None"));
    return 0;
}
