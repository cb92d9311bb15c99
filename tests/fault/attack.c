/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a guest would do that has taken its QEMU over. VMLET_ATTACK names one act; what it came to is written to
 * VMLET_ATTACK_RESULT, if there is somebody left to write it.
 *
 * As a program (-DSTAND_IN): it takes QEMU's place. The launcher's questions about what QEMU can do go to the real one;
 * the start of the VM is the attack. As a library (LD_PRELOAD): it waits inside of the real QEMU until that has set its
 * own sandbox up and runs its main loop.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

static void tell(const char *what, long result)
{
    const char *path = getenv("VMLET_ATTACK_RESULT");
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600), saved = errno;

    dprintf(fd, "%s %s\n", what, result >= 0 ? "succeeded" : strerrorname_np(saved));
    close(fd);
}

static void act(const char *name)
{
    long r = -1;

    errno = ENOSYS;
    if (!strcmp(name, "execve")) {
        char *argv[] = {"/bin/true", NULL};

        r = execve(argv[0], argv, environ);
    } else if (!strcmp(name, "execveat")) {
        char *argv[] = {"/bin/true", NULL};

        r = syscall(SYS_execveat, AT_FDCWD, argv[0], argv, environ, 0);
    } else if (!strcmp(name, "fork")) {
        r = fork();
        if (r == 0)
            _exit(0);
    } else if (!strcmp(name, "ptrace")) {
        r = ptrace(PTRACE_ATTACH, getppid(), NULL, NULL);
    } else if (!strcmp(name, "readv")) {
        char byte;
        struct iovec here = {&byte, 1}, there = {(void *)act, 1};

        r = process_vm_readv(getppid(), &here, 1, &there, 1, 0);
    } else if (!strcmp(name, "socket")) {
        r = socket(AF_INET, SOCK_STREAM, 0);
    } else if (!strcmp(name, "mount")) {
        r = mount("none", "/mnt", "tmpfs", 0, NULL);
    } else if (!strcmp(name, "unshare")) {
        r = unshare(CLONE_NEWUSER);
    } else if (!strcmp(name, "bpf")) {
        r = syscall(SYS_bpf, 0, NULL, 0);
    } else if (!strcmp(name, "shadow")) {
        r = open("/etc/shadow", O_RDONLY);
    } else if (!strcmp(name, "command-socket")) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        static const char request[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"GetDomain\"}\n";
        char answer[512] = "";
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);

        snprintf(address.sun_path, sizeof(address.sun_path), "%s", getenv("VMLET_ATTACK_SOCKET"));
        r = connect(fd, (struct sockaddr *)&address, sizeof(address));
        if (r == 0) {
            (void)!send(fd, request, sizeof(request) - 1, MSG_NOSIGNAL);
            (void)!recv(fd, answer, sizeof(answer) - 1, 0);
            if (!strstr(answer, "\"result\"")) {
                r = -1;
                errno = EACCES;
            }
        }
    }
    tell(name, r);
}

#ifdef STAND_IN

int main(int argc, char **argv)
{
    const char *name = getenv("VMLET_ATTACK");
    int is_start = 0;

    for (int i = 1; i < argc; i++)
        is_start |= !strcmp(argv[i], "-sandbox") && i + 1 < argc && strstr(argv[i + 1], "spawn=deny");
    for (int i = 1; i + 1 < argc; i++) /* the launcher's probe, which has no guest */
        if (!strcmp(argv[i], "-machine") && !strncmp(argv[i + 1], "none", 4))
            is_start = 0;
    if (!is_start) {
        execv("/usr/bin/qemu-system-x86_64", argv);
        return 127;
    }
    act(name);
    for (;;)
        pause();
}

#else

static int has_filters(void)
{
    char text[4096], *line;
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, text, sizeof(text) - 1);

    close(fd);
    text[n > 0 ? n : 0] = '\0';
    line = strstr(text, "Seccomp_filters:");
    return line ? atoi(line + 16) : 0;
}

int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask)
{
    static int turns;
    const char *name = getenv("VMLET_ATTACK");
    int (*next)(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *) = dlsym(RTLD_NEXT, "ppoll");

    /* after the greeting; three filters: the launcher's, ours for QEMU, QEMU's own */
    if (name && !strncmp(program_invocation_short_name, "qemu-system", 11) && has_filters() >= 3 && ++turns == 20)
        act(name);
    return next(fds, n, timeout, mask);
}

#endif
