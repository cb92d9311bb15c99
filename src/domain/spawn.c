/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The start of QEMU. Its monitor, agent and console sockets are bound and connected to before it exists and inherited
 * by fd: there is no moment at which a connect could come too early, and a later launcher can connect again.
 */
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/child.h"
#include "base/crash.h"
#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/strv.h"
#include "domain/domain-internal.h"
#include "domain/isolation.h"
#include "domain/landlock.h"
#include "domain/sandbox.h"

static int open_tap(const char *name, bool multi_queue, struct error **ret_error)
{
    _cleanup_close_ int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    struct ifreq request = {0};

    if (fd < 0)
        return error_errno(ret_error, errno, "cannot open /dev/net/tun for the tap device %s", name);
    if (strlen(name) >= IFNAMSIZ)
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "the interface name %s is longer than %d bytes", name,
                         IFNAMSIZ - 1);
    memcpy(request.ifr_name, name, strlen(name));
    /* IFF_VNET_HDR: checksum and segmentation offload between guest and tap (kernel, Documentation/networking/tuntap)
     */
    request.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (multi_queue ? IFF_MULTI_QUEUE : 0));
    if (ioctl(fd, TUNSETIFF, &request) < 0) {
        int r = error_errno(ret_error, errno, "cannot attach to the tap device %s", name);

        if (ret_error)
            error_set_remedy(*ret_error, "it must exist and belong to uid %d: `netsetup apply` makes it",
                             (int)getuid());
        return r;
    }
    return TAKE_FD(fd);
}

static bool is_multi_queue(const struct machine_fd *fds, size_t n, const char *tap)
{
    for (size_t i = 0; i < n; i++)
        if (fds[i].kind == MACHINE_FD_TAP && streq(fds[i].path, tap) && fds[i].queue > 0)
            return true;
    return false;
}

static int open_inherited(struct domain *d, const struct machine_fd *fds, size_t n, size_t i, struct error **ret_error)
{
    const struct machine_fd *f = &fds[i];
    int fd = -EBADF, r;

    switch (f->kind) {
    case MACHINE_FD_LISTEN:
        r = unix_listen(f->path, 0600, QMP_BACKLOG, &fd, ret_error);
        if (r < 0)
            return r;
        if (strv_append(&d->sockets, f->path) < 0) {
            fd_close(fd);
            unlink(f->path);
            return error_oom(ret_error);
        }
        return fd;
    case MACHINE_FD_TAP:
        return open_tap(f->path, is_multi_queue(fds, n, f->path), ret_error);
    case MACHINE_FD_VHOST_NET:
        fd = open("/dev/vhost-net", O_RDWR | O_CLOEXEC);
        break;
    }
    return fd >= 0 ? fd : error_errno(ret_error, errno, "cannot open %s", f->path ? f->path : "/dev/vhost-net");
}

int domain_connect_role(struct domain *d, const char *role, int *ret_fd, struct error **ret_error)
{
    size_t n;
    const struct machine_fd *fds = machine_get_fds(d->machine, &n);

    for (size_t i = 0; i < n; i++)
        if (fds[i].kind == MACHINE_FD_LISTEN && streq_ptr(fds[i].role, role))
            return unix_connect(fds[i].path, ret_fd, ret_error);
    return 0;
}

static char *fifo_path(const char *serial, const char *direction)
{
    char *path;

    return asprintf(&path, "%s.%s", serial, direction) < 0 ? NULL : path;
}

int domain_list_fifos(struct domain *d)
{
    bool log;
    const char *serial = machine_get_serial(d->machine, &log), *firmware = machine_get_firmware_log(d->machine);

    if (firmware && strv_append(&d->sockets, firmware) < 0)
        return -ENOMEM;
    if (!serial)
        return 0;
    return strv_printf(&d->sockets, "%s.in", serial) < 0 || strv_printf(&d->sockets, "%s.out", serial) < 0 ? -ENOMEM
                                                                                                           : 0;
}

static int make_fifo(const char *path, struct error **ret_error)
{
    if ((unlink(path) < 0 && errno != ENOENT) || mkfifo(path, 0600) < 0)
        return error_errno(ret_error, errno, "cannot make %s", path);
    return 0;
}

/* The console's way to the guest and back, new and empty; and the firmware's way to the log. */
static int make_fifos(struct domain *d, struct error **ret_error)
{
    static const char *const directions[] = {"in", "out"};
    const char *firmware = machine_get_firmware_log(d->machine);
    bool log;
    int r = firmware ? make_fifo(firmware, ret_error) : 0;
    const char *serial = machine_get_serial(d->machine, &log);

    for (size_t i = 0; serial && i < ELEMENTSOF(directions) && r == 0; i++) {
        _cleanup_free_ char *path = fifo_path(serial, directions[i]);

        r = path ? make_fifo(path, ret_error) : error_oom(ret_error);
    }
    if (r < 0)
        return r;
    return domain_list_fifos(d) < 0 ? error_oom(ret_error) : 0;
}

/* For both directions, so that neither side sees an end of file when the other one goes. */
static int open_fifo(const char *serial, const char *direction, int *ret_fd, struct error **ret_error)
{
    _cleanup_free_ char *path = fifo_path(serial, direction);

    if (!path)
        return error_oom(ret_error);
    *ret_fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    return *ret_fd < 0 ? error_errno(ret_error, errno, "cannot open %s", path) : 0;
}

static int connect_console(struct domain *d, struct error **ret_error)
{
    const struct console_log_options log_options = {.dir = d->dir, .file_bytes = d->console_log_bytes};
    _cleanup_close_ int in = -EBADF, out = -EBADF;
    _cleanup_free_ char *viewers = NULL;
    bool log;
    const char *serial = machine_get_serial(d->machine, &log);
    int r;

    if (!serial)
        return 0;
    if (asprintf(&viewers, "%s/virt-serial0", d->dir) < 0) {
        viewers = NULL;
        return error_oom(ret_error);
    }
    r = open_fifo(serial, "in", &in, ret_error);
    if (r >= 0)
        r = open_fifo(serial, "out", &out, ret_error);
    if (r >= 0 && log) /* it exists before QEMU does */
        r = console_log_open(&log_options, &d->console_log, ret_error);
    if (r < 0)
        return r;
    return console_new(d->event, TAKE_FD(out), TAKE_FD(in), viewers, d->console_log, &d->console, ret_error);
}

/* Of a VM that runs it is no reason to fail. */
static int connect_firmware_log(struct domain *d, struct error **ret_error)
{
    const char *path = machine_get_firmware_log(d->machine);
    _cleanup_error_ struct error *e = NULL;

    if (!path)
        return 0;
    if (!d->adopted)
        return firmware_log_new(d->event, path, &d->firmware_log, ret_error);
    if (firmware_log_new(d->event, path, &d->firmware_log, &e) < 0)
        log_warning_of(e, "the firmware's log goes on without this launcher");
    return 0;
}

int domain_connect(struct domain *d, struct error **ret_error)
{
    _cleanup_close_ int qmp = -EBADF, agent = -EBADF;
    int r;

    r = domain_connect_role(d, MACHINE_ROLE_QMP, &qmp, ret_error);
    if (r >= 0)
        r = domain_connect_role(d, MACHINE_ROLE_AGENT, &agent, ret_error);
    if (r < 0)
        return r;
    if (qmp < 0)
        return error_set(ret_error, ERROR_INTERNAL, EINVAL, "the machine has no monitor socket");
    r = qmp_client_new(d->event, TAKE_FD(qmp), &d->qmp);
    if (r < 0)
        return error_errno(ret_error, r, "cannot watch the monitor");
    qmp_client_begin_ahead(d->qmp);
    if (agent >= 0) {
        r = qga_client_new(d->event, TAKE_FD(agent), &d->agent);
        if (r < 0)
            return error_errno(ret_error, r, "cannot watch the agent's channel");
    }
    r = domain_connect_metrics_channel(d, ret_error);
    if (r >= 0)
        r = connect_firmware_log(d, ret_error);
    return r < 0 ? r : connect_console(d, ret_error);
}

int domain_connect_monitor(struct domain *d, struct error **ret_error)
{
    int fd = -EBADF, r = domain_connect_role(d, MACHINE_ROLE_QMP, &fd, ret_error);

    if (r < 0)
        return r;
    qmp_client_free(d->qmp);
    d->qmp = NULL;
    r = qmp_client_new(d->event, fd, &d->qmp);
    if (r < 0)
        return error_errno(ret_error, r, "cannot watch the monitor");
    qmp_client_begin_ahead(d->qmp);
    return 0;
}

void domain_lengthen_backlogs(struct domain *d)
{
    for (size_t i = 0; i < d->n_listeners; i++) {
        if (listen(d->listeners[i], QMP_BACKLOG) < 0)
            log_debug("cannot lengthen a queue of QEMU's sockets: %s", strerror(errno));
        fd_close(d->listeners[i]);
    }
    d->n_listeners = 0;
}

static int copy_nvram(const struct domain *d, struct error **ret_error)
{
    _cleanup_free_ char *data = NULL;
    const char *template = NULL, *path = machine_get_nvram(d->machine, &template);
    size_t length;
    int r;

    if (!path || access(path, F_OK) == 0)
        return 0;
    r = file_read(template, (size_t)64 * 1024 * 1024, &data, &length, ret_error);
    if (r == 0)
        r = file_write_atomic(path, data, length, 0600, ret_error);
    return error_wrap(ret_error, r, "cannot make the firmware's variable store");
}

/* Waits until the helper's socket is there. Blocks at start-up only: QEMU would fail without it. */
static int wait_for_socket(const struct machine_helper *helper, int pidfd, struct error **ret_error)
{
    _cleanup_close_ int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    _cleanup_free_ char *dir = strdup(helper->socket);
    uint64_t deadline = now_usec() + 5 * USEC_PER_SEC;
    char drained[4096];

    if (watch < 0 || !dir || !strrchr(dir, '/'))
        return error_errno(ret_error, watch < 0 ? errno : ENOMEM, "cannot wait for %s", helper->socket);
    *strrchr(dir, '/') = '\0';
    if (inotify_add_watch(watch, dir, IN_CREATE | IN_MOVED_TO) < 0)
        return error_errno(ret_error, errno, "cannot watch %s", dir);
    while (access(helper->socket, F_OK) < 0) {
        struct pollfd fds[] = {{watch, POLLIN, 0}, {pidfd, POLLIN, 0}};
        uint64_t now = now_usec();

        if (now >= deadline)
            return error_set(ret_error, ERROR_TIMED_OUT, ETIMEDOUT, "%s did not open %s within 5 s", helper->name,
                             helper->socket);
        if (poll(fds, ELEMENTSOF(fds), (int)((deadline - now) / 1000 + 1)) < 0 && errno != EINTR)
            return error_errno(ret_error, errno, "poll");
        if (fds[1].revents)
            return error_set(ret_error, ERROR_HOST, ECHILD, "%s ended at once", helper->name);
        (void)!read(watch, drained, sizeof(drained));
    }
    return 0;
}

/* passt(1) writes into a file of its own; the others to standard error, as QEMU does. */
static int add_last_words(const struct domain *d, const struct machine_helper *helper, int r, struct error **ret_error)
{
    _cleanup_free_ char *path = NULL, *text = NULL;

    for (char *const *a = helper->argv; a[0] && a[1] && !path; a++)
        if (streq(a[0], "--log-file"))
            path = strdup(a[1]);
    if (!path && asprintf(&path, "%s/qemu.log", d->dir) < 0)
        path = NULL;
    text = path ? domain_read_log_end(path) : NULL;
    if (ret_error && *ret_error && text)
        error_set_remedy(*ret_error, "the end of %s: %s", path, text);
    return r;
}

static int on_helper_exit(sd_event_source *source, const siginfo_t *info, void *userdata)
{
    struct domain *d = userdata;

    event_log_add(d->events, "Device", "HelperExited", NULL, "a helper process of the machine (pid %d) %s",
                  (int)info->si_pid, child_describe_status(info));
    return 0;
}

static int start_helpers(struct domain *d, int log_fd, struct error **ret_error)
{
    size_t n;
    const struct machine_helper *helpers = machine_get_helpers(d->machine, &n);

    for (size_t i = 0; i < n; i++) {
        struct child_options o = {
            .argv = helpers[i].argv,
            .stdout_fd = log_fd,
            .stderr_fd = log_fd,
            .death_signal = d->die_with_us ? SIGKILL : 0,
            .file_mask = 077, /* the sockets that it makes itself are ours alone (VNC) */
            .new_process_group = true,
        };
        _cleanup_(isolation_done) struct isolation isolation = {.ruleset_fd = -EBADF};
        struct helper *h = &d->helpers[d->n_helpers];
        int r;

        if (d->n_helpers == HELPERS_MAX)
            return error_set(ret_error, ERROR_LIMIT, E2BIG, "the machine needs more than %u helper processes",
                             HELPERS_MAX);
        if (strv_append(&d->sockets, helpers[i].socket) < 0)
            return error_oom(ret_error);
        unlink(helpers[i].socket);
        r = helpers[i].directory ? mkdir_parents(helpers[i].directory, 0700, ret_error) : 0;
        if (r >= 0 && streq(helpers[i].name, "passt"))
            r = isolation_init((const char *const[]){d->dir, NULL}, helpers[i].argv, &isolation, ret_error);
        if (r < 0)
            return r;
        o.filter = isolation.filter;
        o.ruleset_fd = isolation.ruleset_fd;
        o.ruleset_flags = isolation.ruleset_flags;
        r = child_spawn(&o, &h->pid, &h->pidfd, ret_error);
        if (r == -ENOENT && ret_error)
            error_set_remedy(*ret_error, "install the package that has %s", helpers[i].argv[0]);
        if (r < 0)
            return error_wrap(ret_error, r, "cannot start %s", helpers[i].name);
        d->n_helpers++;
        r = wait_for_socket(&helpers[i], h->pidfd, ret_error);
        if (r < 0)
            return add_last_words(d, &helpers[i], r, ret_error);
        r = sd_event_add_child_pidfd(d->event, &h->source, h->pidfd, WEXITED, on_helper_exit, d);
        if (r < 0)
            return error_errno(ret_error, r, "cannot watch %s", helpers[i].name);
    }
    return 0;
}

void domain_stop_helpers(struct domain *d)
{
    for (size_t i = 0; i < d->n_helpers; i++) {
        struct helper *h = &d->helpers[i];

        sd_event_source_disable_unref(h->source);
        kill(h->pid, SIGTERM);
        /* they end with QEMU's connection anyway; one that does not is not waited for */
        struct pollfd fds = {h->pidfd, POLLIN, 0};
        if (poll(&fds, 1, 200) <= 0)
            kill(h->pid, SIGKILL);
        waitpid(h->pid, NULL, 0);
        fd_close(h->pidfd);
    }
    d->n_helpers = 0;
}

/* Ours, and what the machine adds; NULL when it adds nothing. */
static int make_environment(const struct domain *d, char ***ret, struct error **ret_error)
{
    char *const *more = machine_get_environment(d->machine);
    _cleanup_(strv_freep) char **all = more ? strv_copy(environ) : NULL;

    if (more && !all)
        return error_oom(ret_error);
    STRV_FOREACH (item, more)
        if (strv_append(&all, *item) < 0)
            return error_oom(ret_error);
    *ret = TAKE_PTR(all);
    return 0;
}

/* What QEMU may need of what a container can have: locked memory, realtime vCPUs; and root in a container beside files
 * of another user. */
static uint64_t qemu_capabilities(void)
{
    uint64_t kept = 1ULL << CAP_IPC_LOCK | 1ULL << CAP_SYS_NICE;

    return geteuid() == 0 ? kept | 1ULL << CAP_DAC_OVERRIDE | 1ULL << CAP_CHOWN | 1ULL << CAP_FOWNER : kept;
}

static bool has_user_network(const struct machine *machine)
{
    char *const *argv = machine_get_argv(machine);

    for (size_t i = 1; argv[i]; i++)
        if (streq(argv[i - 1], "-netdev") && strstr(argv[i], "\"type\":\"user\""))
            return true;
    return false;
}

static int start_qemu(struct domain *d, const struct child_fd *fds, size_t n_fds, int log_fd, struct error **ret_error)
{
    _cleanup_(strv_freep) char **environment = NULL;
    _cleanup_(qemu_sandbox_done) struct qemu_sandbox sandbox = {0};
    _cleanup_close_ int ruleset_fd = -EBADF;
    uint64_t capabilities = qemu_capabilities();
    struct child_options o = {
        .argv = machine_get_argv(d->machine),
        .fds = fds,
        .n_fds = n_fds,
        .stdout_fd = log_fd,
        .stderr_fd = log_fd,
        .death_signal = d->die_with_us ? SIGKILL : 0,
        .file_mask = 077, /* the sockets that it makes itself are ours alone (VNC) */
        .new_process_group = true,
        .capabilities = &capabilities,
    };
    int r = make_environment(d, &environment, ret_error);

    if (r >= 0)
        r = qemu_sandbox_init(&sandbox, o.argv[0], has_user_network(d->machine), ret_error);
    if (r >= 0 && d->file_dirs)
        r = landlock_for_qemu(d->file_dirs, o.argv, &ruleset_fd, &o.ruleset_flags, ret_error);
    if (r < 0)
        return r;
    o.environment = environment;
    o.ruleset_fd = ruleset_fd;
    o.filter = &sandbox.filter;
    o.program = sandbox.program;
    r = child_spawn(&o, &d->pid, &d->pidfd, ret_error);
    CRASH_POINT("start-spawned");
    if (r == -ENOENT && ret_error)
        error_set(ret_error, ERROR_QEMU_NOT_FOUND, ENOENT, "cannot execute %s: there is no such program", o.argv[0]);
    return r;
}

int domain_spawn(struct domain *d, struct error **ret_error)
{
    size_t n;
    const struct machine_fd *fds = machine_get_fds(d->machine, &n);
    _cleanup_free_ struct child_fd *inherited = calloc(n + 1, sizeof(*inherited));
    _cleanup_free_ char *log_path = NULL;
    _cleanup_close_ int log_fd = -EBADF;
    size_t opened = 0;
    int r = 0;

    if (!inherited || asprintf(&log_path, "%s/qemu.log", d->dir) < 0) {
        log_path = NULL;
        return error_oom(ret_error);
    }
    /* A file, not a pipe: QEMU outlives its launcher, and the next one wants to read it too. */
    log_fd = open(log_path, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (log_fd < 0)
        return error_errno(ret_error, errno, "cannot create %s", log_path);
    CRASH_POINT("start-log");
    r = copy_nvram(d, ret_error);
    if (r >= 0)
        r = start_helpers(d, log_fd, ret_error);
    CRASH_POINT("start-helpers");
    if (r >= 0)
        r = make_fifos(d, ret_error);
    for (; r >= 0 && opened < n; opened++) {
        r = open_inherited(d, fds, n, opened, ret_error);
        if (r < 0)
            break;
        inherited[opened] = (struct child_fd){r, fds[opened].number};
        CRASH_POINT("start-fd");
    }
    if (r >= 0)
        r = domain_connect(d, ret_error);
    CRASH_POINT("start-connected");
    if (r >= 0)
        r = start_qemu(d, inherited, n, log_fd, ret_error);
    for (size_t i = 0; i < opened; i++)
        if (r >= 0 && fds[i].kind == MACHINE_FD_LISTEN && d->n_listeners < QEMU_LISTENERS_MAX)
            d->listeners[d->n_listeners++] = inherited[i].fd;
        else
            fd_close(inherited[i].fd);
    if (r < 0)
        return r;
    if (process_start_time(d->pid, &d->start_ticks) < 0)
        d->start_ticks = 0;
    return 0;
}
