/* SPDX-License-Identifier: Apache-2.0 */
#include "k8s/handler/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/child.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "k8s/controller/object.h"
#include "rpc/wire.h"
#include "storage/storage.h"

#define QEMU_UID 107
#define VOLUMES  "volumes/kubernetes.io~empty-dir"

int guest_new(const struct guest_paths *paths, const struct record *record, struct guest **ret)
{
    struct guest *guest = calloc(1, sizeof(*guest));

    if (!guest)
        return -ENOMEM;
    guest->paths = paths;
    guest->child_out = guest->child_err = -EBADF;
    guest->record = (struct record){.uid = strdup(record->uid),
                                    .namespace_ = strdup(record->namespace_),
                                    .name = strdup(record->name),
                                    .pod_uid = strdup(record->pod_uid),
                                    .links = record->links ? strdup(record->links) : NULL,
                                    .generation = record->generation,
                                    .claim_bytes = record->claim_bytes,
                                    .next_event = record->next_event};
    if (!guest->record.uid || !guest->record.namespace_ || !guest->record.name || !guest->record.pod_uid ||
        asprintf(&guest->key, "%s/%s", record->namespace_, record->name) < 0) {
        guest_free(guest);
        return -ENOMEM;
    }
    *ret = guest;
    return 0;
}

static void forget_child(struct guest *guest)
{
    guest->child = sd_event_source_disable_unref(guest->child);
    guest->child_timer = sd_event_source_disable_unref(guest->child_timer);
    guest->child_out = fd_close(guest->child_out);
    guest->child_err = fd_close(guest->child_err);
    guest->child_late = false;
}

void guest_free(struct guest *guest)
{
    if (!guest)
        return;
    forget_child(guest);
    sd_event_source_disable_unref(guest->socket_watch);
    sd_event_source_disable_unref(guest->disks_watch);
    json_decref(guest->manifest);
    rpc_client_free(guest->rpc);
    record_done(&guest->record);
    free(guest->failure);
    free(guest->key);
    free(guest);
}

char *guest_socket(const struct guest *guest)
{
    char *path;

    return asprintf(&path, "%s/%s/" VOLUMES "/sockets/launcher-sock", guest->paths->pods, guest->record.pod_uid) < 0
               ? NULL
               : path;
}

static char *disks_dir(const struct guest *guest)
{
    char *path;

    return asprintf(&path, "%s/%s/" VOLUMES "/container-disks", guest->paths->pods, guest->record.pod_uid) < 0 ? NULL
                                                                                                               : path;
}

/* ---- sockets that are not there yet ----------------------------------------------------------------------------- */

static int on_appeared(sd_event_source *source, const struct inotify_event *inotify, void *userdata)
{
    struct guest *guest = userdata;

    if (inotify->len > 0 && (streq(inotify->name, "launcher-sock") || endswith(inotify->name, ".sock")))
        guest->appeared(guest);
    return 0;
}

/* The folder is kubelet's, what is in it the pod's: who makes sockets without end is not listened to so often. */
static void watch_folder(struct guest *guest, sd_event *event, const char *folder, sd_event_source **source)
{
    if (*source || !folder ||
        sd_event_add_inotify(event, source, folder, IN_CREATE | IN_MOVED_TO | IN_ONLYDIR | IN_DONT_FOLLOW, on_appeared,
                             guest) < 0)
        return; /* the pod is gone, or not made yet: then it is looked for again and again, later and later */
    (void)sd_event_source_set_ratelimit(*source, USEC_PER_SEC, HANDLER_WATCH_BURST);
}

void guest_watch(struct guest *guest, sd_event *event, void (*appeared)(struct guest *guest))
{
    _cleanup_free_ char *socket = guest_socket(guest), *disks = disks_dir(guest);
    char *slash = socket ? strrchr(socket, '/') : NULL;

    guest->appeared = appeared;
    if (slash)
        *slash = '\0';
    watch_folder(guest, event, slash ? socket : NULL, &guest->socket_watch);
    if (!guest->prepared)
        watch_folder(guest, event, disks, &guest->disks_watch);
}

void guest_unwatch_launcher(struct guest *guest)
{
    guest->socket_watch = sd_event_source_disable_unref(guest->socket_watch);
}

/* ---- container disks -------------------------------------------------------------------------------------------- */

static int mount_one(const struct guest *guest, const char *disks, const char *socket_name, const char *file,
                     const char *dir, const char *name, struct error **ret_error)
{
    _cleanup_free_ char *socket = NULL;
    int r;

    if (asprintf(&socket, "%s/%s.sock", disks, socket_name) < 0)
        return error_oom(ret_error);
    r = container_disk_mount(socket, guest->record.pod_uid, file, dir, name, ret_error);
    return r < 0 ? error_wrap(ret_error, r, "container disk %s", socket_name) : 0;
}

static int mount_kernel(const struct guest *guest, const json_t *container, const char *disks, struct error **ret_error)
{
    static const char *const members[] = {"kernelPath", "initrdPath"};
    _cleanup_free_ char *dir = NULL;

    if (asprintf(&dir, "%s/kernel-boot", disks) < 0)
        return error_oom(ret_error);
    if (mkdir(dir, 0755) < 0 && errno != EEXIST)
        return error_errno(ret_error, -errno, "%s", dir);
    for (size_t i = 0; i < ELEMENTSOF(members); i++) {
        const char *path = GET_TEXT(container, members[i]), *slash = strrchr(path, '/');
        int r = *path ? mount_one(guest, disks, "kernel-boot", path, dir, slash ? slash + 1 : path, ret_error) : 0;

        if (r < 0)
            return r;
    }
    return 0;
}

static int mount_disks(const struct guest *guest, const json_t *vmi, struct error **ret_error)
{
    _cleanup_free_ char *disks = disks_dir(guest);
    const json_t *kernel = GET(vmi, "spec", "domain", "firmware", "kernelBoot", "container");
    json_t *volume;
    size_t i;
    int r = 0;

    if (!disks)
        return error_oom(ret_error);
    json_array_foreach (GET(vmi, "spec", "volumes"), i, volume) {
        const json_t *disk = GET(volume, "containerDisk");
        const char *path = GET_TEXT(disk, "path");
        char socket[32], file[40];

        if (!disk)
            continue;
        snprintf(socket, sizeof(socket), "disk_%zu", i);
        snprintf(file, sizeof(file), "disk_%zu.img", i);
        r = mount_one(guest, disks, socket, *path ? path : NULL, disks, file, ret_error);
        if (r < 0)
            return r;
    }
    return kernel ? mount_kernel(guest, kernel, disks, ret_error) : 0;
}

/* ---- devices ---------------------------------------------------------------------------------------------------- */

/* The nodes in the container's /dev, which kubelet has made for root. */
static int own_devices(pid_t pid, struct error **ret_error)
{
    static const char *const names[] = {"dev/kvm", "dev/net/tun", "dev/vhost-net"};
    _cleanup_close_ int root = -EBADF;
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/root", (int)pid);
    root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        return error_errno(ret_error, -errno, "%s", path);
    for (size_t i = 0; i < ELEMENTSOF(names); i++) {
        struct stat st;
        _cleanup_close_ int fd = openat(root, names[i], O_PATH | O_NOFOLLOW | O_CLOEXEC);

        /* Nobody but root can have put a device there; a link is left alone. */
        if (fd < 0 || fstat(fd, &st) < 0 || !S_ISCHR(st.st_mode))
            continue;
        if (fchownat(fd, "", QEMU_UID, QEMU_UID, AT_EMPTY_PATH) < 0)
            return error_errno(ret_error, -errno, "cannot give /%s to uid %u", names[i], QEMU_UID);
    }
    return 0;
}

/* ---- children --------------------------------------------------------------------------------------------------- */

static void finish(struct guest *guest, int r, struct error *error)
{
    guest_ready ready = guest->ready;

    forget_child(guest);
    json_decref(guest->manifest);
    guest->manifest = NULL;
    guest->prepared = r >= 0;
    if (guest->prepared)
        guest->disks_watch = sd_event_source_disable_unref(guest->disks_watch);
    ready(guest, r, error, guest->ready_userdata);
    error_free(error);
}

static char *read_output(int fd)
{
    char *text = NULL;
    size_t length;

    return lseek(fd, 0, SEEK_SET) == 0 && fd_read_all(fd, LIMIT_HANDLER_OUTPUT_BYTES, &text, &length) >= 0 ? text
                                                                                                           : NULL;
}

static int on_late(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct guest *guest = userdata;

    guest->child_late = true;
    (void)sd_event_source_send_child_signal(guest->child, SIGKILL, NULL, 0); /* its end is what counts */
    return 0;
}

static int make_outputs(struct guest *guest, struct error **ret_error)
{
    guest->child_out = memfd_create("child-out", MFD_CLOEXEC);
    guest->child_err = memfd_create("child-err", MFD_CLOEXEC);
    return guest->child_out < 0 || guest->child_err < 0 ? error_errno(ret_error, -errno, "cannot make a memory file")
                                                        : 0;
}

/* pidfd is the event source's from here on. */
static int follow_child(struct guest *guest, sd_event *event, int pidfd, sd_event_child_handler_t handler,
                        uint64_t timeout, struct error **ret_error)
{
    int r = sd_event_add_child_pidfd(event, &guest->child, pidfd, WEXITED, handler, guest);

    if (r < 0) {
        close(pidfd);
        return error_errno(ret_error, r, "cannot watch a child process");
    }
    (void)sd_event_source_set_child_pidfd_own(guest->child, true);
    return event_arm_timer(event, &guest->child_timer, timeout, on_late, guest);
}

/* ---- network ---------------------------------------------------------------------------------------------------- */

/* Of netsetup's JSON: what the status wants, and no steps. */
static json_t *links_of(const json_t *plan)
{
    static const char *const wanted[] = {"name", "binding", "state", "podLink", "mac", "queues", "podIPs"};
    json_t *list = json_array(), *from;
    size_t i;

    json_array_foreach (json_object_get(plan, "interfaces"), i, from) {
        json_t *to = json_object();

        for (size_t k = 0; k < ELEMENTSOF(wanted); k++)
            if (json_object_get(from, wanted[k]))
                json_object_set(to, wanted[k], json_object_get(from, wanted[k]));
        json_array_append_new(list, to);
    }
    return list;
}

static int on_netsetup(sd_event_source *source, const siginfo_t *info, void *userdata)
{
    struct guest *guest = userdata;
    struct error *error = NULL;
    _cleanup_free_ char *out = read_output(guest->child_out), *err = read_output(guest->child_err);
    int r = 0;

    if (info->si_code != CLD_EXITED || info->si_status != 0)
        r = error_set(&error, ERROR_NETWORK, guest->child_late ? ETIMEDOUT : EIO, "netsetup %s%s: %.800s",
                      child_describe_status(info), guest->child_late ? ", because it took too long" : "",
                      err ? err : "");
    else {
        json_t *plan = out ? json_loads(out, JSON_REJECT_DUPLICATES, NULL) : NULL;

        json_t *links = links_of(plan);

        free(guest->record.links);
        guest->record.links = json_dumps(links, JSON_COMPACT);
        json_decref(links);
        json_decref(plan);
        r = record_save(guest->paths->records, &guest->record, &error);
    }
    finish(guest, r, error);
    return 0;
}

static int start_netsetup(struct guest *guest, sd_event *event, pid_t launcher, struct error **ret_error)
{
    _cleanup_close_ int in = memfd_create("vmi", MFD_CLOEXEC);
    _cleanup_free_ char *text = json_dumps(guest->manifest, JSON_COMPACT), *state = NULL;
    char pid[16], apply[] = "apply", file[] = "-", json[] = "--json", pid_flag[] = "--pid",
                  state_flag[] = "--state-dir";
    char *argv[] = {
        (char *)(uintptr_t)guest->paths->netsetup, apply, file, json, pid_flag, pid, state_flag, NULL, NULL};
    struct child_options options = {.argv = argv, .death_signal = SIGKILL};
    pid_t child;
    int r, pidfd;

    snprintf(pid, sizeof(pid), "%d", (int)launcher);
    if (!text || asprintf(&state, "%s/%s", guest->paths->network, guest->record.uid) < 0)
        return error_oom(ret_error);
    argv[7] = state;
    if (in < 0)
        return error_errno(ret_error, -errno, "cannot make a memory file");
    r = make_outputs(guest, ret_error);
    if (r < 0)
        return r;
    r = fd_write_all(in, text, strlen(text));
    if (r < 0 || lseek(in, 0, SEEK_SET) < 0)
        return error_errno(ret_error, r < 0 ? r : -errno, "cannot hand the manifest over");
    options.stdin_fd = in;
    options.stdout_fd = guest->child_out;
    options.stderr_fd = guest->child_err;
    r = child_spawn(&options, &child, &pidfd, ret_error);
    if (r < 0)
        return error_wrap(ret_error, r, "%s", guest->paths->netsetup);
    return follow_child(guest, event, pidfd, on_netsetup, TIMEOUT_NETSETUP_USEC, ret_error);
}

/* ---- disks and devices ------------------------------------------------------------------------------------------ */

enum { CHILD_AGAIN = 3 };

/* In a child: a container's file system may be slow, or stand still. Writes the launcher's process id, or the error. */
_Noreturn static void run_mounts(struct guest *guest)
{
    _cleanup_free_ char *socket = guest_socket(guest), *text = NULL;
    struct error *error = NULL;
    pid_t launcher = 0;
    int r = socket ? container_peer(socket, guest->record.pod_uid, &launcher, &error) : error_oom(&error);

    if (r >= 0)
        r = mount_disks(guest, guest->manifest, &error);
    if (r >= 0)
        r = own_devices(launcher, &error);
    if (r < 0) {
        json_t *json = rpc_error_to_json(0, error, NULL);

        text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    } else if (asprintf(&text, "%d", (int)launcher) < 0)
        text = NULL;
    if (!text || fd_write_all(guest->child_out, text, strlen(text)) < 0)
        _exit(1);
    _exit(r == -EAGAIN ? CHILD_AGAIN : 0);
}

static int take_mounts(struct guest *guest, const siginfo_t *info, pid_t *ret, struct error **ret_error)
{
    _cleanup_free_ char *out = read_output(guest->child_out);
    json_t *json;
    int r;

    if (guest->child_late)
        return error_set(ret_error, ERROR_TIMED_OUT, ETIMEDOUT,
                         "mounting the container disks was given up after %u seconds: does the node's storage answer?",
                         (unsigned)(TIMEOUT_HANDLER_MOUNT_USEC / USEC_PER_SEC));
    if (info->si_code == CLD_EXITED && info->si_status == CHILD_AGAIN)
        return -EAGAIN;
    if (!out || info->si_code != CLD_EXITED || info->si_status != 0)
        return error_set(ret_error, ERROR_INTERNAL, ECHILD, "the process that mounts container disks %s",
                         child_describe_status(info));
    json = json_loads(out, JSON_DECODE_ANY, NULL);
    if (json_is_integer(json)) {
        *ret = (pid_t)json_integer_value(json);
        r = 0;
    } else
        r = rpc_error_from_json(json, ret_error);
    json_decref(json);
    return r;
}

static int on_mounts(sd_event_source *source, const siginfo_t *info, void *userdata)
{
    struct guest *guest = userdata;
    sd_event *event = sd_event_source_get_event(source);
    struct error *error = NULL;
    pid_t launcher = 0;
    int r = take_mounts(guest, info, &launcher, &error);

    if (r >= 0 && !guest->record.links) {
        forget_child(guest);
        r = start_netsetup(guest, event, launcher, &error);
        if (r >= 0)
            return 0;
    }
    finish(guest, r, error);
    return 0;
}

static int on_ready_now(sd_event_source *source, uint64_t usec, void *userdata)
{
    finish(userdata, 0, NULL);
    return 0;
}

int guest_prepare(struct guest *guest, sd_event *event, json_t *vmi, guest_ready ready, void *userdata,
                  struct error **ret_error)
{
    int pidfd, r;
    pid_t child;

    guest->ready = ready;
    guest->ready_userdata = userdata;
    if (guest->prepared)
        return event_arm_timer(event, &guest->child_timer, 0, on_ready_now, guest);
    json_decref(guest->manifest);
    guest->manifest = json_incref(vmi);
    r = make_outputs(guest, ret_error);
    if (r < 0)
        return r;
    child = fork();
    if (child == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        run_mounts(guest);
    }
    pidfd = child < 0 ? -1 : (int)syscall(SYS_pidfd_open, child, 0);
    if (pidfd < 0)
        r = error_errno(ret_error, -errno, "cannot start a process that mounts container disks");
    else
        r = follow_child(guest, event, pidfd, on_mounts, TIMEOUT_HANDLER_MOUNT_USEC, ret_error);
    if (r < 0)
        forget_child(guest);
    return r;
}

void guest_clean(struct guest *guest)
{
    _cleanup_free_ char *disks = disks_dir(guest), *network = NULL;

    if (disks)
        container_disks_unmount(disks);
    if (asprintf(&network, "%s/%s", guest->paths->network, guest->record.uid) >= 0)
        (void)remove_tree(network);
    record_remove(guest->paths->records, guest->record.uid);
    guest->cleaned = true;
}
