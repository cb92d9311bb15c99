/* SPDX-License-Identifier: Apache-2.0 */
/* Options, texts and JSON objects: how a machine becomes words on a command line. */
#include "machine/build.h"

#include "base/nearest.h"
#include "base/strv.h"
#include "base/utf8.h"
#include "json/node.h"

/* The first fd that QEMU inherits for the machine. Fixed, so that a command line is the same on every host. */
#define FIRST_FD 20

static void fail(struct build *b, enum build_failure failure)
{
    if (b->failure == BUILD_FINE)
        b->failure = failure;
}

void *list_grow(struct build *b, void *items, size_t *count, size_t *allocated, size_t size)
{
    if (*count == *allocated) {
        size_t room = *allocated ? *allocated * 2 : 16;
        void *grown = arena_alloc(b->arena, room * size);

        if (!grown) {
            fail(b, BUILD_NO_MEMORY);
            return NULL;
        }
        if (*count)
            memcpy(grown, items, *count * size);
        items = grown;
        *allocated = room;
    }
    (*count)++;
    return items;
}

const char *text(struct build *b, const char *format, ...)
{
    va_list ap;
    char *made;

    va_start(ap, format);
    made = arena_vprintf(b->arena, format, ap);
    va_end(ap);
    if (!made) {
        fail(b, BUILD_NO_MEMORY);
        return "";
    }
    return made;
}

const char *comma(struct build *b, const char *value)
{
    size_t n = strlen(value), commas = 0;
    char *out, *p;

    for (const char *q = value; *q; q++)
        commas += *q == ',';
    if (commas == 0)
        return value;
    out = p = arena_alloc(b->arena, n + commas + 1);
    if (!out) {
        fail(b, BUILD_NO_MEMORY);
        return "";
    }
    for (const char *q = value; *q; q++) {
        *p++ = *q;
        if (*q == ',')
            *p++ = ',';
    }
    return out;
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool text_is_plain(const char *value, const char *others)
{
    for (const char *p = value; *p; p++)
        if (!is_letter(*p) && !(*p >= '0' && *p <= '9') && !strchr(others, *p))
            return false;
    return *value != '\0';
}

static const char *id_within(struct build *b, const char *prefix, const char *name, size_t index, size_t longest)
{
    if (strlen(prefix) + strlen(name) <= longest && text_is_plain(name, "-."))
        return text(b, "%s%s", prefix, name);
    /* '_' occurs in no name that is used as it is, so the two forms never meet */
    return text(b, "%s_%zu", prefix, index);
}

const char *device_id(struct build *b, const char *prefix, const char *name, size_t index)
{
    return id_within(b, prefix, name, index, 120);
}

const char *node_name(struct build *b, const char *prefix, const char *name, size_t index)
{
    return id_within(b, prefix, name, index, 31);
}

void option(struct build *b, enum section section, const char *name, const char *value)
{
    struct option *o = LIST_ADD(b, &b->machine->options);

    if (o)
        *o = (struct option){.section = section, .name = name, .text = value};
}

json_t *option_json(struct build *b, enum section section, const char *name)
{
    /* stands in when memory is out: setting members of it does nothing, and the build ends in an error */
    static json_t nowhere = {.type = JSON_NULL, .refcount = (size_t)-1};
    struct option *o = LIST_ADD(b, &b->machine->options);

    if (!o)
        return &nowhere;
    *o = (struct option){.section = section, .name = name, .json = json_object()};
    if (!o->json) {
        fail(b, BUILD_NO_MEMORY);
        return &nowhere;
    }
    return o->json;
}

void set_json(struct build *b, json_t *object, const char *key, json_t *value)
{
    if (json_object_set_new(object, key, value) < 0)
        fail(b, BUILD_NO_MEMORY);
}

void set_string(struct build *b, json_t *object, const char *key, const char *value)
{
    size_t n = strlen(value);

    if (utf8_valid_prefix(value, n) != n) {
        fail(b, BUILD_BAD_TEXT);
        return;
    }
    set_json(b, object, key, json_string(value));
}

void set_int(struct build *b, json_t *object, const char *key, uint64_t value)
{
    set_json(b, object, key, json_integer((json_int_t)value));
}

void set_bool(struct build *b, json_t *object, const char *key, bool value)
{
    set_json(b, object, key, json_boolean(value));
}

void machine_set(struct build *b, const char *key, const char *value)
{
    strbuf_printf(&b->machine_option, ",%s=%s", key, comma(b, value));
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* An unsorted list would answer wrongly without a word, so this does not rely on the order for "no". */
static bool list_has(char *const *list, const char *name)
{
    size_t n = 0;

    while (list[n])
        n++;
    if (bsearch(&name, list, n, sizeof(*list), compare_names))
        return true;
    for (size_t i = 0; i < n; i++)
        if (streq(list[i], name))
            return true;
    return false;
}

const char *qemu_name(struct build *b)
{
    unsigned v = b->facts->caps->version;

    return text(b, "QEMU %u.%u (%s)", v / 1000000, v / 1000 % 1000,
                b->facts->caps->binary ? b->facts->caps->binary : "qemu");
}

json_t *object_new(struct build *b, const char *type, const char *id)
{
    json_t *object = option_json(b, SECTION_BACKEND, "-object");

    if (b->facts->caps->objects && !list_has(b->facts->caps->objects, type))
        host_fault(b, NULL, "%s has no object type %s, which this machine needs: install a full build of QEMU",
                   qemu_name(b), type);
    set_string(b, object, "qom-type", type);
    set_string(b, object, "id", id);
    return object;
}

json_t *device_new(struct build *b, const struct node *at, const char *driver, const char *id)
{
    json_t *device = option_json(b, SECTION_DEVICE, "-device");

    if (b->facts->caps->devices && !list_has(b->facts->caps->devices, driver)) {
        const char *near = nearest(driver, b->facts->caps->devices);

        host_fault(b, at, "%s has no device %s%s%s: install a build or a module of QEMU that has it", qemu_name(b),
                   driver, near ? ", the nearest that it has is " : "", near ? near : "");
    }
    set_string(b, device, "driver", driver);
    set_string(b, device, "id", id);
    return device;
}

json_t *virtio_new(struct build *b, const struct node *at, const char *driver, const char *id)
{
    bool transitional = b->devices->use_virtio_transitional == OPT_TRUE;

    return device_new(b, at, text(b, "%s-%s", driver, transitional ? "transitional" : "non-transitional"), id);
}

int fd_add(struct build *b, enum machine_fd_kind kind, const char *role, const char *path, unsigned queue)
{
    int number = FIRST_FD + (int)b->machine->fds.count;
    struct machine_fd *fd = LIST_ADD(b, &b->machine->fds);

    if (fd)
        *fd = (struct machine_fd){.number = number, .kind = kind, .role = role, .path = path, .queue = queue};
    return number;
}

const char *private_path(struct build *b, const char *name)
{
    return text(b, "%s/%s", b->facts->private_dir, name);
}

void chardev_listen(struct build *b, const char *id, const char *role, const char *file)
{
    int fd = fd_add(b, MACHINE_FD_LISTEN, role, private_path(b, file), 0);

    option(b, SECTION_BACKEND, "-chardev", text(b, "socket,id=%s,fd=%d,server=on,wait=off", id, fd));
}

/* ---- faults ---------------------------------------------------------------------------------------------------- */

_printf_(4, 0) static void fault(struct build *b, size_t *count, const struct node *at, const char *format, va_list ap)
{
    const char *message = arena_vprintf(b->arena, format, ap);

    (*count)++;
    if (!message) {
        fail(b, BUILD_NO_MEMORY);
        return;
    }
    faults_add(b->faults, at, "%s", message);
}

void manifest_fault(struct build *b, const struct node *at, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    fault(b, &b->manifest_faults, at, format, ap);
    va_end(ap);
}

/* The host's want as a line for people; the same one once. */
_printf_(3, 0) static void lack(struct build *b, const struct node *at, const char *format, va_list ap)
{
    const char *message = arena_vprintf(b->arena, format, ap), *path = at ? node_path(b->arena, at) : "";
    const char *line = message && path ? text(b, "%s%s%s", path, *path ? ": " : "", message) : NULL;

    STRV_FOREACH (known, b->machine->lacks)
        if (line && streq(*known, line))
            return;
    if (!line || strv_append(&b->machine->lacks, line) < 0)
        fail(b, BUILD_NO_MEMORY);
}

void host_fault(struct build *b, const struct node *at, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    if (b->facts->assume)
        lack(b, at, format, ap);
    else
        fault(b, &b->host_faults, at, format, ap);
    va_end(ap);
}

bool text_is_clean(struct build *b, const struct node *at, const char *what, const char *value)
{
    for (const char *p = value; *p; p++) {
        if ((unsigned char)*p >= 0x20 && *p != 0x7f)
            continue;
        manifest_fault(b, at, "%s has the control character 0x%02x at byte %zu (printable text is allowed)", what,
                       (unsigned)(unsigned char)*p, (size_t)(p - value));
        return false;
    }
    return true;
}

const char *nearest(const char *name, char *const *list)
{
    return nearest_name(name, (const char *const *)list);
}

/* ---- versions -------------------------------------------------------------------------------------------------- */

/* Since which QEMU something can be said on the command line. Device types are not here: caps->devices knows them. */
static const unsigned since[QEMU_FEATURE_COUNT] = {
    [QEMU_IOTHREAD_VQ_MAPPING] = 9000000, /* ChangeLog/9.0, "Block devices" */
    [QEMU_TCG_X2APIC] = 8002000,          /* ChangeLog/8.2, "x86": x2APIC in TCG's user-space APIC */
};

bool qemu_has(const struct build *b, enum qemu_feature feature)
{
    return b->facts->caps->version >= since[feature];
}
