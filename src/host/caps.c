/* SPDX-License-Identifier: Apache-2.0 */
#include "host/caps.h"

#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/strbuf.h"
#include "base/strv.h"
#include "host/cache.h"

/* Raised when what the cache holds changes, so that an old file is not believed. */
#define CACHE_FORMAT 1

const char *machine_arch_qemu_name(enum machine_arch arch)
{
    return arch == MACHINE_ARCH_AARCH64 ? "aarch64" : "x86_64";
}

enum machine_arch machine_arch_native(void)
{
#ifdef __aarch64__
    return MACHINE_ARCH_AARCH64;
#else
    return MACHINE_ARCH_X86_64;
#endif
}

/* ---- finding the binary ---------------------------------------------------------------------------------------- */

static bool is_program(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

char *find_program(const char *name)
{
    const char *path = getenv("PATH");

    if (strchr(name, '/'))
        return is_program(name) ? strdup(name) : NULL;
    if (!path)
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    while (*path) {
        size_t n = strcspn(path, ":");
        char *candidate = NULL;

        /* an empty element means the working directory: not a place to take programs from */
        if (n > 0 && asprintf(&candidate, "%.*s/%s", (int)n, path, name) < 0)
            return NULL;
        if (candidate && is_program(candidate))
            return candidate;
        free(candidate);
        path += n + (path[n] == ':');
    }
    return NULL;
}

int qemu_find_binary(const char *binary, enum machine_arch arch, char **ret_path, struct error **ret_error)
{
    const char *target = machine_arch_qemu_name(arch);
    char system[64];
    const char *candidates[] = {binary, NULL, NULL, NULL};
    bool native = arch == machine_arch_native();
    int r;

    snprintf(system, sizeof(system), "qemu-system-%s", target);
    if (!binary) {
        candidates[0] = system;
        candidates[1] = native ? "qemu-kvm" : NULL; /* Red Hat's name; outside PATH there */
        candidates[2] = native ? "/usr/libexec/qemu-kvm" : NULL;
    }
    for (size_t i = 0; candidates[i]; i++) {
        char *path = find_program(candidates[i]);

        if (path) {
            *ret_path = path;
            return 0;
        }
    }
    if (binary)
        return error_set(ret_error, ERROR_QEMU_NOT_FOUND, ENOENT, "there is no program %s", binary);
    r = error_set(ret_error, ERROR_QEMU_NOT_FOUND, ENOENT, "there is no QEMU for %s: no %s in PATH%s", target, system,
                  native ? ", and no qemu-kvm there or in /usr/libexec" : "");
    if (ret_error)
        error_set_remedy(*ret_error,
                         "install it (Debian: apt install qemu-system-%s; Fedora: dnf install %s), or "
                         "name it by --qemu PATH",
                         arch == MACHINE_ARCH_AARCH64 ? "arm" : "x86", native ? "qemu-kvm" : "qemu-system-aarch64");
    return r;
}

/* ---- build id -------------------------------------------------------------------------------------------------- */

/* elf(5): a note is namesz, descsz, type, name, desc, the last two padded to 4 bytes. */
static bool find_build_id(const unsigned char *notes, size_t length, char ret_hex[BUILD_ID_HEX_SIZE])
{
    size_t at = 0;

    while (length - at >= sizeof(Elf64_Nhdr)) {
        Elf64_Nhdr header;
        size_t name, description, next;

        memcpy(&header, notes + at, sizeof(header));
        name = at + sizeof(header);
        description = name + (((size_t)header.n_namesz + 3) & ~(size_t)3);
        next = description + (((size_t)header.n_descsz + 3) & ~(size_t)3);
        if (description > length || header.n_descsz > length - description)
            return false;
        if (header.n_type == NT_GNU_BUILD_ID && header.n_namesz == 4 && memcmp(notes + name, "GNU", 4) == 0 &&
            header.n_descsz > 0) {
            size_t n = MIN((size_t)header.n_descsz, (size_t)(BUILD_ID_HEX_SIZE - 1) / 2);

            for (size_t i = 0; i < n; i++)
                snprintf(ret_hex + 2 * i, 3, "%02x", notes[description + i]);
            return true;
        }
        if (next > length)
            return false;
        at = next;
    }
    return false;
}

int elf_read_build_id(int fd, char ret_hex[BUILD_ID_HEX_SIZE])
{
    unsigned char notes[4096];
    Elf64_Phdr segments[64];
    Elf64_Ehdr header;
    ssize_t n;

    if (pread(fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header) ||
        memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
        header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phoff > INT32_MAX)
        return -ENODATA;
    n = pread(fd, segments, MIN(header.e_phnum * sizeof(Elf64_Phdr), sizeof(segments)), (off_t)header.e_phoff);
    for (size_t i = 0; n > 0 && i < (size_t)n / sizeof(Elf64_Phdr); i++) {
        ssize_t length;

        if (segments[i].p_type != PT_NOTE || segments[i].p_offset > INT64_MAX / 2)
            continue;
        length = pread(fd, notes, MIN(segments[i].p_filesz, sizeof(notes)), (off_t)segments[i].p_offset);
        if (length > 0 && find_build_id(notes, (size_t)length, ret_hex))
            return 0;
    }
    return -ENODATA;
}

/* ---- cache ----------------------------------------------------------------------------------------------------- */

/*
 * What tells one binary from another. With a build id: that, and the size. Modification times do not count then,
 * because they change when a file is copied into an image. Without one (a wrapper script): path, size and time.
 * Distributions split device modules into packages, so the module directories' times count too, in whole seconds
 * since that is what an image layer keeps.
 */
struct identity {
    char build_id[BUILD_ID_HEX_SIZE];
    char file[128]; /* in the cache directory */
    char key[PATH_MAX + 256];
};

static uint64_t fnv1a(const char *text)
{
    uint64_t hash = 0xcbf29ce484222325U;

    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 0x100000001b3U;
    return hash;
}

static int identify(const char *path, struct identity *ret, struct error **ret_error)
{
    static const char *const module_directories[] = {
#ifdef __aarch64__
        "/usr/lib/aarch64-linux-gnu/qemu",
#else
        "/usr/lib/x86_64-linux-gnu/qemu",
#endif
        "/usr/lib64/qemu-kvm",
        "/usr/lib64/qemu",
        "/usr/lib/qemu",
        "/usr/local/lib/qemu",
    };
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    long long modules = 0;
    struct stat st, dir;

    if (fd < 0 || fstat(fd, &st) < 0)
        return error_errno(ret_error, errno, "cannot open %s", path);
    for (size_t i = 0; i < ELEMENTSOF(module_directories); i++)
        if (stat(module_directories[i], &dir) == 0)
            modules = modules * 31 + (long long)dir.st_mtim.tv_sec;
    if (elf_read_build_id(fd, ret->build_id) == 0) {
        snprintf(ret->file, sizeof(ret->file), "qemu-%s.json", ret->build_id);
        snprintf(ret->key, sizeof(ret->key), "%s %lld %lld", ret->build_id, (long long)st.st_size, modules);
    } else {
        ret->build_id[0] = '\0';
        snprintf(ret->file, sizeof(ret->file), "qemu-path-%016llx.json", (unsigned long long)fnv1a(path));
        snprintf(ret->key, sizeof(ret->key), "%s %lld %lld.%09ld %lld", path, (long long)st.st_size,
                 (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec, modules);
    }
    return 0;
}

static bool is_for(const json_t *content, const void *key)
{
    const char *text = json_string_value(json_object_get(content, "key"));

    return json_integer_value(json_object_get(content, "format")) == CACHE_FORMAT && text && streq(text, key) &&
           json_integer_value(json_object_get(content, "version")) > 0 &&
           json_is_string(json_object_get(content, "target")) && json_array_size(json_object_get(content, "devices")) &&
           json_array_size(json_object_get(content, "machines")) &&
           json_array_size(json_object_get(content, "objects"));
}

static char **string_list(const json_t *array)
{
    char **list = calloc(json_array_size(array) + 1, sizeof(*list));
    size_t n = 0, i;
    json_t *item;

    if (!list)
        return NULL;
    json_array_foreach ((json_t *)(uintptr_t)array, i, item) {
        if (!json_is_string(item))
            continue;
        list[n] = strdup(json_string_value(item));
        if (!list[n++]) {
            strv_free(list);
            return NULL;
        }
    }
    return list;
}

static int caps_from_json(const json_t *content, const char *path, struct qemu_caps **ret, struct error **ret_error)
{
    _cleanup_(qemu_caps_freep) struct qemu_caps *caps = calloc(1, sizeof(*caps));
    const char *package = json_string_value(json_object_get(content, "package"));

    if (!caps)
        return error_oom(ret_error);
    caps->version = (unsigned)json_integer_value(json_object_get(content, "version"));
    caps->vnc = json_is_true(json_object_get(content, "vnc"));
    caps->sandbox = json_is_true(json_object_get(content, "sandbox"));
    caps->io_uring = json_is_true(json_object_get(content, "io_uring"));
    caps->binary = strdup(path);
    caps->package = package ? strdup(package) : NULL;
    caps->devices = string_list(json_object_get(content, "devices"));
    caps->machines = string_list(json_object_get(content, "machines"));
    caps->objects = string_list(json_object_get(content, "objects"));
    if (!caps->binary || (package && !caps->package) || !caps->devices || !caps->machines || !caps->objects)
        return error_oom(ret_error);
    *ret = TAKE_PTR(caps);
    return 0;
}

static int check(const json_t *content, const char *path, enum machine_arch arch, struct error **ret_error)
{
    json_int_t version = json_integer_value(json_object_get(content, "version"));
    const char *target = json_string_value(json_object_get(content, "target"));
    int r;

    if (version < (json_int_t)QEMU_VERSION_OLDEST) {
        r = error_set(ret_error, ERROR_QEMU_TOO_OLD, EPROTONOSUPPORT, "%s is QEMU %lld.%lld.%lld (7.2 is needed)", path,
                      version / 1000000, version / 1000 % 1000, version % 1000);
        if (ret_error)
            error_set_remedy(*ret_error, "install a newer QEMU, or name another by --qemu PATH");
        return r;
    }
    if (!target || !streq(target, machine_arch_qemu_name(arch)))
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "%s emulates %s, and the virtual machine is %s", path,
                         target ? target : "?", machine_arch_qemu_name(arch));
    return 0;
}

static int probe(const char *path, const struct identity *id, json_t **ret, struct error **ret_error)
{
    int r = qemu_caps_probe(path, ret, ret_error);

    if (r < 0)
        return r;
    json_object_set_new(*ret, "format", json_integer(CACHE_FORMAT));
    json_object_set_new(*ret, "key", json_string(id->key));
    return 0;
}

static int find_and_identify(const char *binary, enum machine_arch arch, char **ret_path, struct identity *ret_id,
                             struct error **ret_error)
{
    int r = qemu_find_binary(binary, arch, ret_path, ret_error);

    return r < 0 ? r : identify(*ret_path, ret_id, ret_error);
}

int qemu_caps_load(const char *binary, enum machine_arch arch, struct qemu_caps **ret, struct error **ret_error)
{
    _cleanup_free_ char *path = NULL;
    struct identity id;
    json_t *content;
    int r;

    r = find_and_identify(binary, arch, &path, &id, ret_error);
    if (r < 0)
        return r;
    content = cache_read(id.file, is_for, id.key);
    if (!content) {
        r = probe(path, &id, &content, ret_error);
        if (r < 0)
            return r;
        if (is_for(content, id.key))
            cache_write(id.file, content);
    }
    r = check(content, path, arch, ret_error);
    if (r == 0)
        r = caps_from_json(content, path, ret, ret_error);
    json_decref(content);
    return r;
}

int qemu_caps_write_cache(const char *binary, enum machine_arch arch, const char *directory, struct error **ret_error)
{
    _cleanup_free_ char *path = NULL;
    struct identity id;
    json_t *content;
    int r;

    r = find_and_identify(binary, arch, &path, &id, ret_error);
    if (r < 0)
        return r;
    r = probe(path, &id, &content, ret_error);
    if (r < 0)
        return r;
    r = check(content, path, arch, ret_error);
    if (r == 0)
        r = cache_write_to(directory, id.file, content, ret_error);
    json_decref(content);
    return r;
}

void qemu_caps_free(struct qemu_caps *caps)
{
    if (!caps)
        return;
    free(caps->binary);
    free(caps->package);
    strv_free((char **)(uintptr_t)caps->devices);
    strv_free((char **)(uintptr_t)caps->machines);
    strv_free((char **)(uintptr_t)caps->objects);
    free(caps);
}
