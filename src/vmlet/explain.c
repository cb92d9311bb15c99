/* SPDX-License-Identifier: Apache-2.0 */
/* vmlet explain: what a manifest becomes, without making or starting anything. */
#include <ctype.h>
#include <stdio.h>

#include "base/strv.h"
#include "domain/prepare.h"
#include "host/accel.h"
#include "host/caps.h"
#include "vmi/overhead.h"
#include "vmlet/hypothesis.h"
#include "vmlet/options.h"
#include "vmlet/output.h"

#define WHAT_WIDTH 46

struct explain {
    const char *format, *accel, *qemu, *qemu_version, *arch, *name;
};

static const char *const formats[] = {"summary", "argv", "json", NULL};
static const char *const accels[] = {"auto", "kvm", "tcg", NULL};
static const char *const arches[] = {"amd64", "arm64", NULL};

const struct option_spec explain_options[] = {
    {.name = "format",
     .kind = OPTION_CHOICE,
     .offset = offsetof(struct explain, format),
     .argument = "FORMAT",
     .what = "summary (the default), argv (one argument a line) or json",
     .choices = formats},
    {.name = "accel",
     .kind = OPTION_CHOICE,
     .offset = offsetof(struct explain, accel),
     .argument = "ACCEL",
     .what = "auto (as this host would run it; the default), kvm or tcg",
     .choices = accels},
    {.name = "qemu",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct explain, qemu),
     .argument = "PATH",
     .what = "the QEMU to ask for its devices",
     .complete = COMPLETE_FILE},
    {.name = "qemu-version",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct explain, qemu_version),
     .argument = "X.Y",
     .what = "explain for this version, with every device it can have; none needs to be here"},
    {.name = "arch",
     .kind = OPTION_CHOICE,
     .offset = offsetof(struct explain, arch),
     .argument = "ARCH",
     .what = "amd64 or arm64, where the manifest names none",
     .choices = arches},
    {.name = "name",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct explain, name),
     .argument = "NAME",
     .what = "which VM of a file that holds several"},
    {0},
};

/* ---- summary --------------------------------------------------------------------------------------------------- */

static const char *const group_names[] = {
    [MACHINE_GROUP_MACHINE] = "Machine",     [MACHINE_GROUP_CPU] = "CPU",         [MACHINE_GROUP_MEMORY] = "Memory",
    [MACHINE_GROUP_DISKS] = "Disks",         [MACHINE_GROUP_NETWORK] = "Network", [MACHINE_GROUP_CONSOLE] = "Console",
    [MACHINE_GROUP_OTHER] = "Other devices",
};

static void print_row(const char *what, const char *why)
{
    int width = (int)strlen(what);

    fputs("  ", stdout);
    print_safe(stdout, what);
    if (width > WHAT_WIDTH) {
        fputc('\n', stdout);
        width = -2;
    }
    printf("%*s%s", WHAT_WIDTH - width + 2, "", style_on(stdout, STYLE_FAINT));
    print_safe(stdout, why ? why : "");
    printf("%s\n", style_on(stdout, STYLE_PLAIN));
}

static void print_heading(const char *text)
{
    printf("\n%s%s%s\n", style_on(stdout, STYLE_HEADING), text, style_on(stdout, STYLE_PLAIN));
}

static const char *action_text(enum storage_action action)
{
    static const char *const texts[] = {
        [STORAGE_USE] = "used as it is",
        [STORAGE_OVERLAY] = "a copy-on-write file is made over it",
        [STORAGE_EMPTY] = "an empty qcow2 is made",
        [STORAGE_SPARSE] = "a sparse file is made if it is not there",
        [STORAGE_ISO] = "an ISO image is made from its content",
        [STORAGE_METRICS] = "the metrics disk",
        [STORAGE_DIRECTORY] = "used as a directory",
    };

    return texts[action];
}

static void print_volumes(const struct hypothesis *h)
{
    size_t n;
    const struct storage_volume *volumes = storage_get_volumes(h->storage, &n);

    if (n > 0)
        print_heading("Volumes");
    for (size_t i = 0; i < n; i++) {
        const struct storage_volume *v = &volumes[i];
        char what[256], why[1024];

        snprintf(what, sizeof(what), "%s (%s)", v->volume->name, vmi_volume_kind_name(v->volume->kind));
        snprintf(why, sizeof(why), "%s%s%s, %s%s", v->path ? v->path : "", v->backing_path ? " over " : "",
                 v->backing_path ? v->backing_path : "", action_text(v->action), v->read_only ? ", read-only" : "");
        print_row(what, why);
    }
}

static void print_mib(char *text, size_t size, json_int_t bytes)
{
    snprintf(text, size, "%.1f MiB", (double)bytes / (1024 * 1024));
}

static void print_overhead(const struct vmi *vmi)
{
    json_t *overhead = overhead_estimate(vmi), *item;
    char total[32], what[160], bytes[32];
    size_t i;

    print_mib(total, sizeof(total), json_integer_value(json_object_get(overhead, "totalBytes")));
    snprintf(what, sizeof(what), "Memory besides the guest's (estimate: %s)", total);
    print_heading(what);
    json_array_foreach (json_object_get(overhead, "items"), i, item) {
        print_mib(bytes, sizeof(bytes), json_integer_value(json_object_get(item, "bytes")));
        snprintf(what, sizeof(what), "%10s  %s", bytes, json_string_value(json_object_get(item, "what")));
        print_row(what, json_string_value(json_object_get(item, "why")));
    }
    json_decref(overhead);
}

static void print_summary(const struct vmi *vmi, const struct hypothesis *h, const struct machine *machine,
                          const char *accel_reason)
{
    size_t n;
    const struct machine_item *items = machine_get_items(machine, &n);
    unsigned version = h->facts.caps->version;

    printf("%s%s/%s%s (%s)\n", style_on(stdout, STYLE_HEADING), vmi->namespace_, vmi->name,
           style_on(stdout, STYLE_PLAIN), vmi->kind);
    printf("  %s %u.%u.%u, accelerator %s%s%s\n", h->facts.caps->binary, version / 1000000, version / 1000 % 1000,
           version % 1000, h->facts.accel == MACHINE_ACCEL_KVM ? "kvm" : "tcg", *accel_reason ? ": " : "",
           accel_reason);
    for (unsigned group = 0; group < MACHINE_GROUP_COUNT; group++) {
        bool has_heading = false;

        for (size_t i = 0; i < n; i++) {
            if (items[i].group != group)
                continue;
            if (!has_heading)
                print_heading(group_names[group]);
            has_heading = true;
            print_row(items[i].what, items[i].why);
        }
        if (group == MACHINE_GROUP_DISKS)
            print_volumes(h);
    }
    print_overhead(vmi);
}

/* ---- json, argv ------------------------------------------------------------------------------------------------ */

static json_t *argv_to_json(const struct machine *machine)
{
    json_t *list = json_array();

    for (char *const *a = machine_get_argv(machine); *a; a++)
        json_array_append_new(list, json_string(*a));
    return list;
}

static json_t *storage_to_json(const struct hypothesis *h)
{
    static const char *const names[] = {
        [STORAGE_USE] = "use",
        [STORAGE_OVERLAY] = "overlay",
        [STORAGE_EMPTY] = "empty",
        [STORAGE_SPARSE] = "sparse",
        [STORAGE_ISO] = "iso",
        [STORAGE_METRICS] = "metrics",
        [STORAGE_DIRECTORY] = "directory",
    };
    json_t *list = json_array();
    size_t n;
    const struct storage_volume *v = storage_get_volumes(h->storage, &n);

    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s?, s:s?, s:s?, s:s?, s:I, s:b}", "volume",
                                              v[i].volume->name, "kind", vmi_volume_kind_name(v[i].volume->kind),
                                              "action", names[v[i].action], "path", v[i].path, "format", v[i].format,
                                              "backingPath", v[i].backing_path, "backingFormat", v[i].backing_format,
                                              "size", (json_int_t)v[i].size, "readOnly", v[i].read_only ? 1 : 0));
    return list;
}

static json_t *notes_to_json(const struct hypothesis *h)
{
    json_t *list = json_array();

    STRV_FOREACH (text, h->notes)
        json_array_append_new(list, json_string(*text));
    return list;
}

static int print_as_json(const struct vmi *vmi, const struct hypothesis *h, const struct machine *machine)
{
    json_t *all =
        json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "machine", machine_to_json(machine), "argv", argv_to_json(machine),
                  "network", h->plan ? net_plan_to_json(h->plan) : json_null(), "storage", storage_to_json(h),
                  "overhead", overhead_estimate(vmi), "notes", notes_to_json(h));
    int r;

    if (!all) {
        fprintf(stderr, "vmlet: out of memory\n");
        return EXIT_FAILED;
    }
    r = print_json(all);
    json_decref(all);
    return r;
}

/* ---- the verb -------------------------------------------------------------------------------------------------- */

static int parse_version(const char *text, unsigned *ret)
{
    unsigned part[3] = {0};
    char after;
    int n = sscanf(text, "%3u.%3u.%3u%c", &part[0], &part[1], &part[2], &after);

    if (n < 2 || n > 3 || !isdigit((unsigned char)*text) || text[strspn(text, "0123456789.")] != '\0' ||
        text[strlen(text) - 1] == '.')
        return -EINVAL;
    *ret = 1000000 * part[0] + 1000 * part[1] + part[2];
    return 0;
}

static int choose_accel(const char *wish, enum machine_arch arch, struct accel_result *ret, struct error **ret_error)
{
    /* kvm is explained also where there is none: the manifest is looked at, not the host */
    if (streq(wish, "kvm")) {
        *ret = (struct accel_result){.accel = MACHINE_ACCEL_KVM};
        return 0;
    }
    return accel_choose(streq(wish, "tcg") ? ACCEL_TCG : ACCEL_AUTO, arch, ret, ret_error);
}

static int build(const struct vmi *vmi, const struct hypothesis_options *options, struct hypothesis *h,
                 struct machine **ret, struct faults *faults, struct error **ret_error)
{
    int r = hypothesis_make(vmi, options, h, faults, ret_error);

    /* the machine's faults besides those of the volumes: all in one run */
    if (r == 0 || (r == -EINVAL && faults->count > 0 && h->facts.volumes)) {
        _cleanup_error_ struct error *error = NULL;
        int m = machine_build(vmi, &h->facts, ret, faults, &error);

        if (r == 0 && m < 0) {
            r = m;
            error_move(ret_error, TAKE_PTR(error));
        }
    }
    return r;
}

/* What this host lacks is told, and does not keep a manifest from being explained. */
static int note_lacks(struct hypothesis *h, const struct machine *machine, struct error **ret_error)
{
    char *const *lacks = machine_get_lacks(machine);

    STRV_FOREACH (text, lacks)
        if (strv_printf(&h->notes, "%s; `vmlet run` would refuse this here", *text) < 0)
            return error_oom(ret_error);
    return 0;
}

static int find_arch(const struct vmi *vmi, enum machine_arch *ret, struct faults *faults, struct error **ret_error)
{
    if (vm_arch(vmi, ret, faults) < 0)
        return error_set(ret_error, ERROR_BAD_MANIFEST, EINVAL, "the manifest has faults");
    return 0;
}

static int explain(const struct explain *e, const char *file, unsigned version)
{
    struct vmi_load_options load = {.name = e->name, .default_arch = e->arch};
    struct hypothesis_options options = {.qemu = e->qemu, .qemu_version = version};
    _cleanup_(faults_done) struct faults faults = {.source = file};
    _cleanup_(hypothesis_done) struct hypothesis h = {0};
    _cleanup_(machine_freep) struct machine *machine = NULL;
    _cleanup_(vmi_freep) struct vmi *vmi = NULL;
    _cleanup_error_ struct error *error = NULL;
    struct accel_result accel = {0};

    if (vmi_load_file(file, &load, &vmi, &faults, &error) < 0 || find_arch(vmi, &options.arch, &faults, &error) < 0 ||
        choose_accel(e->accel, options.arch, &accel, &error) < 0)
        return print_faults(&faults, error);
    options.accel = accel.accel;
    if (build(vmi, &options, &h, &machine, &faults, &error) < 0 || note_lacks(&h, machine, &error) < 0)
        return print_faults(&faults, error);
    STRV_FOREACH (text, h.notes)
        fprintf(stderr, "%svmlet: note: %s%s\n", style_on(stderr, STYLE_WARNING), *text, style_on(stderr, STYLE_PLAIN));
    if (streq(e->format, "json"))
        return print_as_json(vmi, &h, machine);
    if (streq(e->format, "argv"))
        for (char *const *a = machine_get_argv(machine); *a; a++)
            printf("%s\n", *a);
    else
        print_summary(vmi, &h, machine, accel.text);
    return finish_output();
}

int verb_explain(int argc, char **argv)
{
    const struct verb *verb = verb_find(argv[0]);
    struct explain e = {.format = "summary", .accel = "auto"};
    unsigned version = 0;
    char **arguments;
    size_t n;
    int r = options_parse(verb, argc, argv, &e, &arguments, &n);

    if (r >= 0)
        return r;
    if (e.qemu_version && parse_version(e.qemu_version, &version) < 0)
        return usage_error(verb, "--qemu-version %s: not a version (X.Y or X.Y.Z)", e.qemu_version);
    if (version != 0 && version < QEMU_VERSION_OLDEST)
        return usage_error(verb, "--qemu-version %s: older than any that vmlet drives (7.2 and later)", e.qemu_version);
    return explain(&e, arguments[0], version);
}
