/* SPDX-License-Identifier: Apache-2.0 */
#include "monitor/options.h"

#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#include "base/strv.h"

#define LAUNCHER_NAME    "virt-launcher"
#define LAUNCHER_DEFAULT "/usr/bin/" LAUNCHER_NAME

enum flag_kind {
    FLAG_SWITCH, /* --x, --x=true, --x=false */
    FLAG_VALUE,  /* --x V, --x=V */
};

struct own_flag {
    const char *name;
    enum flag_kind kind;
    bool passed_on; /* the launcher gets it too */
    size_t offset;  /* of the member of the context */
};

struct context {
    struct monitor_options options;
    const char *launcher;
};

#define OPTION(member) offsetof(struct context, options.member)

static const struct own_flag own_flags[] = {
    {"--keep-after-failure", FLAG_SWITCH, false, OPTION(keep_after_failure)},
    {"--launcher-path", FLAG_VALUE, false, offsetof(struct context, launcher)},
    {"--termination-log", FLAG_VALUE, false, OPTION(termination_log)},
    {"--container-disk-dir", FLAG_VALUE, true, OPTION(container_disk_dir)},
    {"--private-dir", FLAG_VALUE, true, OPTION(private_dir)},
    {"--uid", FLAG_VALUE, true, OPTION(uid)},
};

static int parse_switch(const char *flag, const char *value, bool *ret, struct error **ret_error)
{
    static const char *const words[] = {"true",  "1", "t", "T", "TRUE",  "True",  NULL,
                                        "false", "0", "f", "F", "FALSE", "False", NULL};

    if (!value) {
        *ret = true;
        return 0;
    }
    for (size_t i = 0; i < ELEMENTSOF(words); i++)
        if (words[i] && streq(value, words[i])) {
            *ret = i < ELEMENTSOF(words) / 2;
            return 0;
        }
    return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "%s=%s: the value is true or false", flag, value);
}

/* The flag that `argument` is, with what stands behind its '='. */
static const struct own_flag *find_flag(const char *argument, const char **ret_value)
{
    for (size_t i = 0; i < ELEMENTSOF(own_flags); i++) {
        const char *rest = startswith(argument, own_flags[i].name);

        if (rest && (*rest == '\0' || *rest == '=')) {
            *ret_value = *rest ? rest + 1 : NULL;
            return &own_flags[i];
        }
    }
    return NULL;
}

static int parse_arguments(int argc, const char *const *argv, struct context *context, struct error **ret_error)
{
    int r = 0;

    for (int i = 1; i < argc && r == 0; i++) {
        const char *value = NULL;
        const struct own_flag *flag = find_flag(argv[i], &value);
        void *target = flag ? (char *)context + flag->offset : NULL;
        int first = i;

        if (streq(argv[i], "--help") || streq(argv[i], "-h"))
            context->options.help = true;
        if (flag && flag->kind == FLAG_SWITCH)
            r = parse_switch(flag->name, value, target, ret_error);
        if (flag && flag->kind == FLAG_VALUE) {
            if (!value && i + 1 >= argc)
                return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "%s needs a value", flag->name);
            *(const char **)target = value ? value : argv[++i];
        }
        for (int j = first; r == 0 && (!flag || flag->passed_on) && j <= i; j++)
            if (strv_append(&context->options.launcher_argv, argv[j]) < 0)
                return error_oom(ret_error);
    }
    return r;
}

/* Beside our own binary, where a build tree or an image has it; else where KubeVirt's image has it. */
static int default_launcher(char *path, size_t size)
{
    ssize_t n = readlink("/proc/self/exe", path, size - sizeof(LAUNCHER_NAME));
    char *slash;

    path[MAX(n, (ssize_t)0)] = '\0';
    slash = strrchr(path, '/');
    if (slash)
        memcpy(slash + 1, LAUNCHER_NAME, sizeof(LAUNCHER_NAME));
    if (!slash || access(path, X_OK) < 0)
        memcpy(path, LAUNCHER_DEFAULT, sizeof(LAUNCHER_DEFAULT));
    return 0;
}

int monitor_options_parse(int argc, const char *const *argv, struct monitor_options *ret, struct error **ret_error)
{
    struct context context = {
        .options =
            {
                .container_disk_dir = "/var/run/kubevirt/container-disks",
                .private_dir = "/var/run/kubevirt-private",
                .termination_log = "/dev/termination-log",
            },
        .launcher = getenv("VMLET_LAUNCHER"),
    };
    const char *default_log = context.options.termination_log;
    char path[PATH_MAX];
    int r;

    /* the launcher's own name comes first, and is known last */
    r = strv_append(&context.options.launcher_argv, LAUNCHER_NAME) < 0 ? error_oom(ret_error) : 0;
    if (r == 0)
        r = parse_arguments(argc, argv, &context, ret_error);
    if (r == 0) {
        char *name;

        if (!context.launcher || !*context.launcher) {
            default_launcher(path, sizeof(path));
            context.launcher = path;
        }
        name = strdup(context.launcher);
        if (name) {
            free(context.options.launcher_argv[0]);
            context.options.launcher_argv[0] = name;
        } else {
            r = error_oom(ret_error);
        }
    }
    if (r < 0) {
        strv_free(context.options.launcher_argv);
        return r;
    }
    context.options.termination_log_given = context.options.termination_log != default_log;
    *ret = context.options;
    return 0;
}

void monitor_options_done(struct monitor_options *options)
{
    strv_free(options->launcher_argv);
    options->launcher_argv = NULL;
}

void monitor_options_usage(void)
{
    fputs("Usage: virt-launcher-monitor [OPTION]... [FLAG OF VIRT-LAUNCHER]...\n"
          "Runs virt-launcher as the first process of a pod's compute container: reaps, forwards signals, starts a\n"
          "crashed launcher again while its guest runs, and ends with the launcher's exit code.\n\n"
          "  --keep-after-failure      when the launcher failed, wait for a signal before leaving\n"
          "  --launcher-path PATH      the launcher (else $VMLET_LAUNCHER, virt-launcher beside this program,\n"
          "                            " LAUNCHER_DEFAULT ")\n"
          "  --termination-log PATH    where to write what happened to the guest (else /dev/termination-log, if it is\n"
          "                            there)\n"
          "  --container-disk-dir DIR, --private-dir DIR, --uid UID\n"
          "                            are read here too, and passed on like all other flags\n\n"
          "Exit code: the launcher's; 128 + N if signal N killed it; 1 for a fault of the monitor.\n",
          stdout);
}
