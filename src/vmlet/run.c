/* SPDX-License-Identifier: Apache-2.0 */
/* `vmlet run` and `vmlet smoke`: a VM in the foreground, from the manifest to its end. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/strv.h"
#include "domain/control.h"
#include "domain/prepare.h"
#include "vmlet/junit.h"
#include "vmlet/locate.h"
#include "vmlet/options.h"
#include "vmlet/output.h"
#include "vmlet/session.h"
#include "vmlet/verbs.h"

#define DISKS_MAX 256U

/* What the command line says, and what it became. */
struct run {
    const char *file, *name, *qemu, *accel, *kernel, *initrd, *append, *state_dir, *net, *firmware_dir, *junit, *until;
    char **disk_arguments; /* "VOLUME=PATH" */
    struct storage_override disks[DISKS_MAX];
    size_t n_disks;
    struct session_options session;
    uint64_t timeout, grace; /* UINT64_MAX: not given */
    bool json, keep, quiet;

    struct vmi *vmi;
    struct timeline timeline;
    char *dir;   /* the VM's own, below the state directory */
    int lock_fd; /* held while the VM runs */
};

static void run_done(struct run *run)
{
    for (size_t i = 0; i < run->n_disks; i++)
        free((char *)run->disks[i].volume);
    strv_free(run->disk_arguments);
    vmi_free(run->vmi);
    free(run->dir);
    fd_close(run->lock_fd);
}

/* <state dir>/<namespace>_<name>, ours alone for as long as the lock file in it is held. */
static int claim_dir(struct run *run, struct error **ret_error)
{
    _cleanup_free_ char *base = run->state_dir ? strdup(run->state_dir) : default_state_dir(), *lock = NULL;
    int r;

    if (!base || asprintf(&run->dir, "%s/%s", base, run->vmi->domain_name) < 0)
        return error_oom(ret_error);
    if (run->dir[0] != '/') {
        _cleanup_free_ char *relative = run->dir, *here = getcwd(NULL, 0);

        if (!here || asprintf(&run->dir, "%s/%s", here, relative) < 0) {
            run->dir = NULL;
            return error_oom(ret_error);
        }
    }
    r = mkdir_parents(run->dir, 0700, ret_error);
    if (r < 0)
        return r;
    if (asprintf(&lock, "%s/lock", run->dir) < 0) {
        lock = NULL;
        return error_oom(ret_error);
    }
    run->lock_fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (run->lock_fd < 0)
        return error_errno(ret_error, errno, "cannot open %s", lock);
    if (flock(run->lock_fd, LOCK_EX | LOCK_NB) < 0) {
        r = error_set(ret_error, ERROR_ALREADY_EXISTS, EBUSY, "the VM %s already runs in %s", run->vmi->domain_name,
                      run->dir);
        if (ret_error)
            error_set_remedy(*ret_error, "stop it with `vmlet stop %s`, or use another --state-dir", run->vmi->name);
        free(run->dir); /* not ours to clean */
        run->dir = NULL;
        return r;
    }
    remove_tree_contents(run->dir, "lock"); /* of a run that was killed: the lock says that nobody uses it */
    return 0;
}

static char *below(const struct run *run, const char *name)
{
    char *path;

    return asprintf(&path, "%s/%s", run->dir, name) < 0 ? NULL : path;
}

static int prepare(struct run *run, struct prepared *ret, struct faults *faults, struct error **ret_error)
{
    _cleanup_free_ char *ephemeral = below(run, "ephemeral-disks"), *empty = below(run, "empty-disks");
    struct prepare_options o = {
        .vmi = run->vmi,
        .dir = run->dir,
        .qemu = run->qemu,
        .storage =
            {
                .paths = storage_pod_paths,
                .overrides = run->disks,
                .n_overrides = run->n_disks,
                .outside_pod = true,
                .owner_uid = (unsigned)-1,
            },
        .kernel = run->kernel,
        .initrd = run->initrd,
        .append = run->append,
        .firmware_dir = run->firmware_dir,
        .timeline = &run->timeline,
    };
    int r;

    if (!ephemeral || !empty)
        return error_oom(ret_error);
    o.storage.paths.private_dir = run->dir;
    o.storage.paths.ephemeral_disk_dir = ephemeral;
    o.storage.paths.empty_disk_dir = empty;
    if (run->accel)
        accel_wish_from_string(run->accel, &o.accel); /* one of the choices */
    r = vm_net_parse(run->net ? run->net : "user", run->vmi->spec.domain.devices.interfaces.count, &o.net, &o.taps,
                     ret_error);
    if (r < 0)
        return r;
    return vm_prepare(&o, ret, faults, ret_error);
}

static int serve_and_run(struct run *run, struct prepared *p, struct session_result *result, struct error **ret_error)
{
    _cleanup_event_ sd_event *event = NULL;
    _cleanup_(event_log_freep) struct event_log *events = event_log_new();
    _cleanup_free_ char *socket = below(run, "launcher-sock");
    _cleanup_(control_freep) struct control *control = NULL;
    _cleanup_(domain_freep) struct domain *domain = NULL;
    struct control_options server = {.path = socket, .allow_qmp_writes = true};
    struct domain_options o = {
        .vmi = run->vmi,
        .machine = TAKE_PTR(p->machine),
        .storage = p->storage,
        .dir = run->dir,
        .accel = p->accel.accel,
        .accel_reason = p->accel.text,
        .timeline = &run->timeline,
        .events = events,
        .die_with_us = true,
        .grace_usec = run->session.grace_usec,
    };
    int r;

    if (!events || !socket) {
        machine_free(o.machine);
        return error_oom(ret_error);
    }
    r = event_new(&event);
    if (r < 0) {
        machine_free(o.machine);
        return error_errno(ret_error, r, "cannot make an event loop");
    }
    r = domain_new(event, &o, &domain, ret_error);
    if (r >= 0)
        r = control_new(event, &server, events, &run->timeline, &control, ret_error);
    if (r < 0)
        return r;
    control_set_domain(control, domain);
    run->session.timeout_usec = run->timeout != UINT64_MAX                              ? run->timeout
                                : run->session.until == UNTIL_END && !run->session.exec ? 0
                                : p->accel.accel == MACHINE_ACCEL_TCG ? RUN_TIMEOUT_USEC * TCG_TIMEOUT_FACTOR
                                                                      : RUN_TIMEOUT_USEC;
    session_run(event, domain, &run->session, result);
    control_set_domain(control, NULL);
    return 0;
}

static void print_result(const struct run *run, const struct session_result *result)
{
    json_t *out = json_pack("{s:s, s:s, s:i, s:s*, s:o}", "name", run->vmi ? run->vmi->name : "", "result",
                            result->code == 0 ? "passed" : "failed", "exitCode", result->code, "outcome",
                            result->outcome, "timeline", timeline_to_json(&run->timeline));

    if (result->executed)
        json_object_set_new(out, "exec",
                            json_pack("{s:s, s:i, s:s, s:s, s:f}", "command", run->session.exec, "exitCode",
                                      result->exec_code, "stdout", result->exec_out, "stderr", result->exec_err,
                                      "seconds", (double)result->exec_usec / 1e6));
    if (result->error)
        json_object_set_new(out, "error",
                            json_pack("{s:s, s:s, s:s*}", "code", error_code_name(error_get_code(result->error)),
                                      "message", error_message(result->error), "remedy", error_remedy(result->error)));
    print_json(out);
    json_decref(out);
}

static void report(const struct run *run, const struct session_result *result)
{
    if (result->executed && !run->json) {
        fputs(result->exec_out, stdout);
        fflush(stdout);
        fputs(result->exec_err, stderr);
    }
    if (result->error)
        print_error(result->error);
    if (run->session.progress && run->timeline.count > 2)
        timeline_log(&run->timeline, run->vmi->domain_name);
    if (run->json)
        print_result(run, result);
}

static int load(struct run *run, struct faults *faults, struct error **ret_error)
{
    struct vmi_load_options options = {.name = run->name};
    int r = vmi_load_file(run->file, &options, &run->vmi, faults, ret_error);

    if (r < 0)
        return r;
    timeline_mark(&run->timeline, MARK_MANIFEST);
    run->session.grace_usec = run->grace;
    if (run->grace == UINT64_MAX)
        run->session.grace_usec =
            (uint64_t)opt_int_or(run->vmi->spec.termination_grace_period_seconds, DEFAULT_GRACE_PERIOD_SECONDS) *
            USEC_PER_SEC;
    return 0;
}

static void remove_dir(struct run *run, const struct prepared *p)
{
    if (!run->dir)
        return;
    if (p->storage)
        storage_remove(p->storage);
    if (!run->keep)
        remove_tree(run->dir);
}

static int run_vm(struct run *run)
{
    _cleanup_(prepared_done) struct prepared p = {0};
    _cleanup_(faults_done) struct faults faults = {.source = run->file};
    struct session_result result = {0};
    _cleanup_error_ struct error *e = NULL;
    int r, code;

    r = load(run, &faults, &e);
    if (r >= 0)
        r = claim_dir(run, &e);
    if (r >= 0)
        r = prepare(run, &p, &faults, &e);
    if (r >= 0)
        r = serve_and_run(run, &p, &result, &e);
    if (r < 0) {
        if (faults.count > 0) {
            _cleanup_free_ char *text = faults_format(&faults);

            fputs(text ? text : "out of memory\n", stderr);
        }
        result.code = (int)error_exit_code(e);
        result.error = TAKE_PTR(e);
    }
    remove_dir(run, &p);
    /* each fault of the manifest has been printed by then, there is nothing to add */
    if (faults.count == 0 || run->json)
        report(run, &result);
    if (run->junit) {
        r = junit_write(run->junit, run->file, run->session.exec, &result, &run->timeline, &e);
        if (r < 0) {
            print_error(e);
            if (result.code == 0)
                result.code = EXIT_FAILED;
        }
    }
    code = result.code;
    session_result_done(&result);
    return code;
}

/* ---- command line -------------------------------------------------------------------------------------------------
 */

static const char *const accel_choices[] = {"auto", "kvm", "tcg", NULL};

#define RUN_OPTIONS                                                                                                    \
    {.name = "disk",                                                                                                   \
     .kind = OPTION_LIST,                                                                                              \
     .offset = offsetof(struct run, disk_arguments),                                                                   \
     .argument = "VOLUME=PATH",                                                                                        \
     .what = "put a local image or block device in a volume's place; may be repeated"},                                \
        {.name = "accel",                                                                                              \
         .kind = OPTION_CHOICE,                                                                                        \
         .offset = offsetof(struct run, accel),                                                                        \
         .argument = "auto|kvm|tcg",                                                                                   \
         .what = "acceleration; auto measures whether KVM is worth using (default auto)",                              \
         .choices = accel_choices},                                                                                    \
        {.name = "net",                                                                                                \
         .kind = OPTION_TEXT,                                                                                          \
         .offset = offsetof(struct run, net),                                                                          \
         .argument = "none|user|passt|tap:NAME[,NAME]",                                                                \
         .what = "what the first interface is plugged into (default user); with taps, the next ones too"},             \
        {.name = "kernel",                                                                                             \
         .kind = OPTION_TEXT,                                                                                          \
         .offset = offsetof(struct run, kernel),                                                                       \
         .argument = "PATH",                                                                                           \
         .what = "boot this kernel",                                                                                   \
         .complete = COMPLETE_FILE},                                                                                   \
        {.name = "initrd",                                                                                             \
         .kind = OPTION_TEXT,                                                                                          \
         .offset = offsetof(struct run, initrd),                                                                       \
         .argument = "PATH",                                                                                           \
         .what = "with this initial RAM disk",                                                                         \
         .complete = COMPLETE_FILE},                                                                                   \
        {.name = "append",                                                                                             \
         .kind = OPTION_TEXT,                                                                                          \
         .offset = offsetof(struct run, append),                                                                       \
         .argument = "TEXT",                                                                                           \
         .what = "and this kernel command line"},                                                                      \
        {.name = "timeout",                                                                                            \
         .kind = OPTION_DURATION,                                                                                      \
         .offset = offsetof(struct run, timeout),                                                                      \
         .argument = "TIME",                                                                                           \
         .what = "for what is waited for (default 120s; 1200s under emulation; 0: no limit)"},                         \
        {.name = "grace",                                                                                              \
         .kind = OPTION_DURATION,                                                                                      \
         .offset = offsetof(struct run, grace),                                                                        \
         .argument = "TIME",                                                                                           \
         .what = "for the guest's orderly stop (default: the manifest's terminationGracePeriodSeconds)"},              \
        {.name = "console",                                                                                            \
         .kind = OPTION_FLAG,                                                                                          \
         .offset = offsetof(struct run, session.console),                                                              \
         .what = "show the serial console; on a terminal also type to it (ctrl-] stops the guest)"},                   \
        {.name = "name",                                                                                               \
         .kind = OPTION_TEXT,                                                                                          \
         .offset = offsetof(struct run, name),                                                                         \
         .argument = "NAME",                                                                                           \
         .what = "which VM of a file that holds several"},                                                             \
        {.name = "qemu",                                                                                               \
         .kind = OPTION_TEXT,                                                                                          \
         .offset = offsetof(struct run, qemu),                                                                         \
         .argument = "PATH",                                                                                           \
         .what = "QEMU binary",                                                                                        \
         .complete = COMPLETE_FILE},                                                                                   \
        {.name = "ovmf-path",                                                                                          \
         .kind = OPTION_TEXT,                                                                                          \
         .offset = offsetof(struct run, firmware_dir),                                                                 \
         .argument = "DIR",                                                                                            \
         .what = "where the UEFI firmware is",                                                                         \
         .complete = COMPLETE_DIRECTORY},                                                                              \
        {.name = "state-dir",                                                                                          \
         .kind = OPTION_TEXT,                                                                                          \
         .offset = offsetof(struct run, state_dir),                                                                    \
         .argument = "DIR",                                                                                            \
         .what = "where the VM's sockets, logs and made images are while it runs",                                     \
         .complete = COMPLETE_DIRECTORY},                                                                              \
        {.name = "keep",                                                                                               \
         .kind = OPTION_FLAG,                                                                                          \
         .offset = offsetof(struct run, keep),                                                                         \
         .what = "leave the console log and QEMU's messages there afterwards"},                                        \
        {.name = "quiet",                                                                                              \
         .kind = OPTION_FLAG,                                                                                          \
         .offset = offsetof(struct run, quiet),                                                                        \
         .what = "no progress on stderr"},                                                                             \
    {                                                                                                                  \
        .name = "json", .kind = OPTION_FLAG, .offset = offsetof(struct run, json), .what = "print the result as JSON"  \
    }

const struct option_spec run_options[] = {
    {.name = "until",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct run, until),
     .argument = "WHAT",
     .what = "stop the guest and leave at: running, agent, shutdown or console:REGEX"},
    {.name = "exec",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct run, session.exec),
     .argument = "CMD",
     .what = "run this in the guest by /bin/sh once its agent answers, and leave with its exit code"},
    RUN_OPTIONS,
    {0},
};

const struct option_spec smoke_options[] = {
    {.name = "exec",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct run, session.exec),
     .argument = "CMD",
     .what = "run this in the guest by /bin/sh, and leave with its exit code (default: true)"},
    {.name = "junit",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct run, junit),
     .argument = "OUT.xml",
     .what = "write the result for a CI system",
     .complete = COMPLETE_FILE},
    RUN_OPTIONS,
    {0},
};

static int parse_disks(const struct verb *verb, struct run *run)
{
    STRV_FOREACH (argument, run->disk_arguments) {
        const char *equals = strchr(*argument, '=');
        char *volume;

        if (!equals || equals == *argument || !equals[1])
            return usage_error(verb, "--disk %s: not of the form VOLUME=PATH", *argument);
        if (run->n_disks == DISKS_MAX)
            return usage_error(verb, "more than %u times --disk", DISKS_MAX);
        volume = strndup(*argument, (size_t)(equals - *argument));
        if (!volume)
            return EXIT_FAILED;
        run->disks[run->n_disks++] = (struct storage_override){volume, equals + 1};
    }
    return -1;
}

static int parse(const struct verb *verb, int argc, char **argv, struct run *run)
{
    _cleanup_error_ struct error *e = NULL;
    char **arguments;
    size_t n;
    int r;

    r = options_parse(verb, argc, argv, run, &arguments, &n);
    if (r >= 0)
        return r;
    run->file = arguments[0];
    if (run->until && until_parse(run->until, &run->session.until, &run->session.console_regex, &e) < 0)
        return usage_error(verb, "%s", error_message(e));
    if (run->until && run->session.exec)
        return usage_error(verb, "--until and --exec exclude each other: --exec waits for the command's end");
    run->session.progress = !run->quiet && !run->json;
    return parse_disks(verb, run);
}

static int run_verb(int argc, char **argv, const char *default_exec)
{
    _cleanup_(run_done) struct run run = {
        .timeout = UINT64_MAX,
        .grace = UINT64_MAX,
        .lock_fd = -EBADF,
        .session.exec = default_exec,
    };
    int r;

    timeline_mark(&run.timeline, MARK_EXEC);
    r = parse(verb_find(argv[0]), argc, argv, &run);
    return r >= 0 ? r : run_vm(&run);
}

int verb_run(int argc, char **argv)
{
    return run_verb(argc, argv, NULL);
}

int verb_smoke(int argc, char **argv)
{
    return run_verb(argc, argv, "true");
}
