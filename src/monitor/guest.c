/* SPDX-License-Identifier: Apache-2.0 */
#include "monitor/guest.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/child.h"
#include "base/fd.h"
#include "monitor/state.h"

#define ANCESTORS_MAX 64 /* a chain of parents longer than this is not ours */

struct process {
    pid_t pid, parent;
    char state;
    uint64_t start_time;
};

/* proc(5): "pid (comm) state ppid … starttime is field 22"; comm may hold spaces and parentheses. */
static int process_read(pid_t pid, struct process *ret)
{
    char path[32], text[1024], *p;
    _cleanup_close_ int fd = -EBADF;
    unsigned long long start;
    ssize_t n;
    int parent;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    n = read(fd, text, sizeof(text) - 1);
    if (n <= 0)
        return n < 0 ? -errno : -ESRCH;
    text[n] = '\0';
    p = strrchr(text, ')');
    if (!p || sscanf(p, ") %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &ret->state,
                     &parent, &start) != 3)
        return -EBADMSG;
    ret->pid = pid;
    ret->parent = parent;
    ret->start_time = start;
    return 0;
}

static bool is_ours(const struct process *process)
{
    struct process up = *process;

    for (int i = 0; i < ANCESTORS_MAX && up.parent > 0; i++) {
        if (up.parent == getpid())
            return true;
        if (process_read(up.parent, &up) < 0)
            return false;
    }
    return false;
}

/* argv[0] as KubeVirt's monitor knows it: qemu-system-ARCH, or qemu-kvm where a distribution calls it so. */
static bool is_qemu(pid_t pid)
{
    char path[32], text[256];
    _cleanup_close_ int fd = -EBADF;
    const char *name;
    ssize_t n;

    snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (n <= 0)
        return false;
    text[n] = '\0';
    name = strrchr(text, '/');
    name = name ? name + 1 : text;
    return startswith(name, "qemu-system") || startswith(name, "qemu-kvm");
}

static void guests_add(struct guests *guests, const struct process *process)
{
    _cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, process->pid, 0);
    struct process again;

    if (pidfd < 0 || guests->n >= GUESTS_MAX || process_read(process->pid, &again) < 0 ||
        again.start_time != process->start_time || again.state == 'Z')
        return;
    guests->list[guests->n].pid = process->pid;
    guests->list[guests->n++].pidfd = TAKE_FD(pidfd);
}

static bool same_boot(const char *id)
{
    const char *now = boot_id();

    return !now || !*id || streq(now, id);
}

/* Calls `visit` for each process of /proc that is below us. */
static size_t descendants_visit(bool (*visit)(const struct process *process, void *userdata), void *userdata)
{
    DIR *dir = opendir("/proc");
    struct dirent *entry;
    size_t n = 0;

    if (!dir)
        return 0;
    while ((entry = readdir(dir))) {
        struct process process;
        char *end;
        long pid = strtol(entry->d_name, &end, 10);

        if (*end || pid <= 0 || process_read((pid_t)pid, &process) < 0 || process.state == 'Z' || !is_ours(&process))
            continue;
        n += visit(&process, userdata);
    }
    closedir(dir);
    return n;
}

static bool visit_qemu(const struct process *process, void *userdata)
{
    if (!is_qemu(process->pid))
        return false;
    guests_add(userdata, process);
    return true;
}

size_t guests_find(const char *state_path, struct guests *ret)
{
    struct vm_state state;

    *ret = (struct guests){0};
    if (state_path && vm_state_read(state_path, &state) == 0 && state.pid > 1 && same_boot(state.boot_id)) {
        struct process process;

        if (process_read(state.pid, &process) == 0 && process.start_time == state.start_time && is_ours(&process))
            guests_add(ret, &process);
        ret->from_state_file = ret->n > 0;
    }
    if (ret->n == 0)
        descendants_visit(visit_qemu, ret);
    return ret->n;
}

void guests_done(struct guests *guests)
{
    for (size_t i = 0; i < guests->n; i++)
        fd_close(guests->list[i].pidfd);
    *guests = (struct guests){0};
}

size_t guests_alive(const struct guests *guests)
{
    size_t alive = 0;

    for (size_t i = 0; i < guests->n; i++) {
        struct pollfd ended = {.fd = guests->list[i].pidfd, .events = POLLIN};

        alive += poll(&ended, 1, 0) == 0;
    }
    return alive;
}

size_t guests_signal(const struct guests *guests, int signal_number)
{
    for (size_t i = 0; i < guests->n; i++)
        (void)syscall(SYS_pidfd_send_signal, guests->list[i].pidfd, signal_number, NULL, 0);
    return guests_alive(guests);
}

static bool visit_kill(const struct process *process, void *userdata)
{
    return kill(process->pid, SIGKILL) == 0;
}

size_t descendants_kill(void)
{
    return descendants_visit(visit_kill, NULL);
}
