/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <getopt.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "netsetup/apply.h"
#include "netsetup/observe.h"
#include "netsetup/plan.h"
#include "netsetup/sandbox.h"
#include "netsetup/state.h"
#include "vmlet-config.h"
#include "json/faults.h"

enum command {
    COMMAND_PLAN,
    COMMAND_APPLY,
    COMMAND_TEARDOWN,
    COMMAND_OBSERVE,
};

static const char *const commands[] = {"plan", "apply", "teardown", "observe"};

struct settings {
    enum command command;
    const char *file;
    const char *netns; /* path; NULL: ours */
    const char *state_dir, *cache_dir, *observed_file;
    struct net_plan_options plan;
    unsigned fail_at;
    bool json;
    char *netns_buffer, *cache_buffer, *state_buffer;
};

static void settings_done(struct settings *s)
{
    free(s->netns_buffer);
    free(s->cache_buffer);
    free(s->state_buffer);
}

static const char usage_text[] =
    "Usage: netsetup plan|apply|teardown FILE [OPTION]…\n"
    "       netsetup observe [OPTION]…\n"
    "Makes the network of a virtual machine in its pod's network namespace.\n"
    "\n"
    "  plan       prints every step, its undo and its reason; changes nothing\n"
    "  apply      carries the plan out, whole or not at all; what is there already is left as it is\n"
    "  teardown   undoes it, to the last address and route\n"
    "  observe    prints what a plan would be made from\n"
    "\n"
    "FILE is a VirtualMachine or VirtualMachineInstance, YAML or JSON; - is standard input.\n"
    "\n"
    "  --pid PID          work in the network namespace of this process, and write the DHCP cache into its root\n"
    "  --netns PATH       work in this network namespace (/var/run/netns/NAME)\n"
    "  --state-dir DIR    where state and undos are kept (" NET_STATE_ROOT "/<uid>)\n"
    "  --cache-dir DIR    where the launcher's DHCP cache goes (" NET_CACHE_DIR ")\n"
    "  --owner UID        who may open the taps (107)\n"
    "  --migration-tcp    leave ports 49152 and 49153 to the pod, for migration without a proxy\n"
    "  --observed FILE    plan from this description (of `netsetup observe`) instead of a namespace\n"
    "  --json             print JSON\n"
    "  --help, --version\n";

enum {
    OPT_PID = 256,
    OPT_NETNS,
    OPT_STATE,
    OPT_CACHE,
    OPT_OWNER,
    OPT_MIGRATION,
    OPT_OBSERVED,
    OPT_JSON,
    OPT_FAIL_AT,
    OPT_HELP,
    OPT_VERSION,
};

static int bad_usage(const char *what, const char *text)
{
    fprintf(stderr, "netsetup: %s%s%s\nTry 'netsetup --help'.\n", what, text ? ": " : "", text ? text : "");
    return -EINVAL;
}

static int parse_number(const char *text, unsigned long limit, unsigned long *ret)
{
    char *end;

    errno = 0;
    *ret = strtoul(text, &end, 10);
    return errno || *end || *text < '0' || *text > '9' || *ret > limit ? -EINVAL : 0;
}

static int parse_option(struct settings *s, int option)
{
    unsigned long n;

    switch (option) {
    case OPT_PID:
        if (parse_number(optarg, INT32_MAX, &n) < 0 || !n)
            return bad_usage("--pid wants a process number", optarg);
        free(s->netns_buffer);
        free(s->cache_buffer);
        s->netns_buffer = s->cache_buffer = NULL;
        if (asprintf(&s->netns_buffer, "/proc/%lu/ns/net", n) < 0 ||
            asprintf(&s->cache_buffer, "/proc/%lu/root" NET_CACHE_DIR, n) < 0)
            return -ENOMEM;
        s->netns = s->netns_buffer;
        return 0;
    case OPT_NETNS:
        s->netns = optarg;
        return 0;
    case OPT_STATE:
        s->state_dir = optarg;
        return 0;
    case OPT_CACHE:
        s->cache_dir = optarg;
        return 0;
    case OPT_OWNER:
        if (parse_number(optarg, UINT32_MAX - 1, &n) < 0)
            return bad_usage("--owner wants a user number", optarg);
        s->plan.owner = (uid_t)n;
        return 0;
    case OPT_MIGRATION:
        s->plan.migration_over_tcp = true;
        return 0;
    case OPT_OBSERVED:
        s->observed_file = optarg;
        return 0;
    case OPT_JSON:
        s->json = true;
        return 0;
    case OPT_FAIL_AT: /* for tests: this step fails without being tried */
        if (parse_number(optarg, 100000, &n) < 0)
            return bad_usage("--fail-at wants a step's number", optarg);
        s->fail_at = (unsigned)n;
        return 0;
    case OPT_HELP:
        fputs(usage_text, stdout);
        return 1;
    case OPT_VERSION:
        puts("netsetup " VMLET_VERSION);
        return 1;
    default:
        return bad_usage("wrong option", NULL);
    }
}

/* 0, 1 (said what was asked for), or negative. */
static int parse_arguments(int argc, char **argv, struct settings *s)
{
    static const struct option options[] = {
        {"pid", required_argument, NULL, OPT_PID},           {"netns", required_argument, NULL, OPT_NETNS},
        {"state-dir", required_argument, NULL, OPT_STATE},   {"cache-dir", required_argument, NULL, OPT_CACHE},
        {"owner", required_argument, NULL, OPT_OWNER},       {"migration-tcp", no_argument, NULL, OPT_MIGRATION},
        {"observed", required_argument, NULL, OPT_OBSERVED}, {"json", no_argument, NULL, OPT_JSON},
        {"fail-at", required_argument, NULL, OPT_FAIL_AT},   {"help", no_argument, NULL, OPT_HELP},
        {"version", no_argument, NULL, OPT_VERSION},         {NULL, 0, NULL, 0},
    };
    int option, r;

    while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
        r = parse_option(s, option);
        if (r)
            return r;
    }
    if (optind >= argc)
        return bad_usage("no command", NULL);
    s->command = ELEMENTSOF(commands);
    for (unsigned i = 0; i < ELEMENTSOF(commands); i++)
        if (streq(argv[optind], commands[i]))
            s->command = (enum command)i;
    if (s->command == ELEMENTSOF(commands))
        return bad_usage("no such command", argv[optind]);
    s->file = argv[++optind];
    if (!s->file != (s->command == COMMAND_OBSERVE))
        return bad_usage(s->file ? "observe takes no FILE" : "FILE is missing", NULL);
    if (s->file && argv[optind + 1])
        return bad_usage("too many arguments", argv[optind + 1]);
    if (s->observed_file && s->command != COMMAND_PLAN)
        return bad_usage("--observed goes with plan only", NULL);
    return 0;
}

static int enter_namespace(const struct settings *s, struct error **ret_error)
{
    _cleanup_close_ int fd = -EBADF;

    if (!s->netns)
        return 0;
    fd = open(s->netns, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_errno(ret_error, errno, "open the network namespace %s", s->netns);
    if (setns(fd, CLONE_NEWNET) < 0)
        return error_errno(ret_error, errno, "enter the network namespace %s", s->netns);
    return 0;
}

/* A directory of another container, by its own root: a link there (Debian's /var/run is one) leads nowhere else. */
static int open_in_container(const char *path, size_t root_length)
{
    struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
                           .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
    _cleanup_free_ char *root_path = strndup(path, root_length);
    _cleanup_close_ int root = root_path ? open(root_path, O_PATH | O_DIRECTORY | O_CLOEXEC) : -EBADF;

    return root < 0 ? -1 : (int)syscall(SYS_openat2, root, path + root_length, &how, sizeof(how));
}

/* The launcher's directory is opened while the rights are there to reach it. */
static int start_writer(struct settings *s, struct writer **ret, struct error **ret_error)
{
    const char *path = s->cache_dir ? s->cache_dir : s->cache_buffer ? s->cache_buffer : NET_CACHE_DIR;
    _cleanup_close_ int fd = -EBADF;
    int r;

    if (s->command != COMMAND_APPLY && s->command != COMMAND_TEARDOWN)
        return 0;
    if (path != s->cache_buffer) {
        r = mkdir_parents(path, 0755, ret_error);
        if (r < 0)
            return r;
    }
    fd = path == s->cache_buffer ? open_in_container(path, strlen(path) - strlen(NET_CACHE_DIR))
                                 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_errno(ret_error, errno, "open the launcher's directory %s", path);
    return writer_start(fd, ret, ret_error);
}

static int load_manifest(const char *file, struct vmi **ret, struct error **ret_error)
{
    struct faults faults = {.source = file};
    int r = vmi_load_file(file, NULL, ret, &faults, ret_error);

    if (faults.count) {
        _cleanup_free_ char *text = faults_format(&faults);

        fputs(text ? text : "out of memory\n", stderr);
    }
    faults_done(&faults);
    return r;
}

static int load_observed(const char *file, struct net_observed **ret, struct error **ret_error)
{
    _cleanup_free_ char *text = NULL;
    json_error_t why;
    json_t *json;
    size_t length;
    int r = file_read(file, LIMIT_NET_STATE_BYTES, &text, &length, ret_error);

    if (r < 0)
        return r;
    json = json_loadb(text, length, JSON_REJECT_DUPLICATES, &why);
    if (!json)
        return error_set(ret_error, ERROR_BAD_ARGUMENT, EINVAL, "%s, line %d: %s", file, why.line, why.text);
    r = error_wrap(ret_error, net_observed_from_json(json, ret, ret_error), "%s", file);
    json_decref(json);
    return r;
}

static int print_json(json_t *json)
{
    int r = json ? json_dumpf(json, stdout, JSON_INDENT(2)) : -1;

    json_decref(json);
    return r < 0 || putchar('\n') == EOF ? -EIO : 0;
}

static int print_plan(const struct settings *s, const struct net_plan *plan)
{
    _cleanup_free_ char *table = NULL;

    if (s->json)
        return print_json(net_plan_to_json(plan));
    table = net_plan_to_table(plan);
    if (!table)
        return -ENOMEM;
    return fputs(table, stdout) < 0 ? -EIO : 0;
}

/* ---- apply ----------------------------------------------------------------------------------------------------- */

static bool interface_counts(const struct net_interface *n)
{
    return n->has_tap || n->passt_argv;
}

static void say_teardown(struct error *e)
{
    error_set_remedy(e, "`netsetup teardown` with the same manifest undoes what was done; then apply again");
}

static void say_one_vm(struct error *e)
{
    error_set_remedy(e, "a pod's network serves one VM: the one that has it is taken down by `netsetup teardown` with "
                        "its own manifest and --state-dir");
}

static int check_vm(const struct settings *s, const struct net_journal *journal, const struct vmi *vmi,
                    struct error **ret_error)
{
    int r;

    if (!journal->vm || streq(journal->vm, vmi->domain_name))
        return 0;
    r = error_set(ret_error, ERROR_ALREADY_EXISTS, EEXIST, "%s is the network of %s, not of %s", s->state_dir,
                  journal->vm, vmi->domain_name);
    if (ret_error)
        say_one_vm(*ret_error);
    return r;
}

/* KubeVirt's rule: started and not finished is critical, since nobody knows what the namespace holds. */
static int check_finished(const struct settings *s, const struct net_journal *journal, struct error **ret_error)
{
    for (size_t i = 0; i < journal->links.count; i++) {
        enum net_state state;
        int r = net_state_read(s->state_dir, journal->links.items[i], &state, ret_error);

        if (r < 0)
            return r;
        if (state == NET_STATE_STARTED) {
            r = error_set(ret_error, ERROR_NETWORK, EUCLEAN,
                          "critical network error: the set-up of link %s was started and not finished",
                          journal->links.items[i]);
            if (ret_error)
                say_teardown(*ret_error);
            return r;
        }
    }
    return 0;
}

/* What is there was made for this VM. */
static int check_ours(const struct settings *s, const struct net_plan *plan, struct error **ret_error)
{
    for (size_t i = 0; i < plan->interfaces.count; i++) {
        const struct net_interface *n = &plan->interfaces.items[i];
        enum net_state state;
        int r;

        if (!interface_counts(n) || !n->present)
            continue;
        r = net_state_read(s->state_dir, n->names.pod, &state, ret_error);
        if (r < 0)
            return r;
        if (state != NET_STATE_FINISHED) {
            r = error_set(ret_error, ERROR_ALREADY_EXISTS, EEXIST,
                          "interface %s of %s: %s and %s are there, but %s does not say that they were made for it",
                          n->name, plan->vm, n->names.bridge, n->names.tap, s->state_dir);
            if (ret_error)
                say_one_vm(*ret_error);
            return r;
        }
    }
    return 0;
}

static int write_states(const struct settings *s, const struct net_plan *plan, enum net_state state,
                        struct error **ret_error)
{
    for (size_t i = 0; i < plan->interfaces.count; i++) {
        const struct net_interface *n = &plan->interfaces.items[i];
        int r = 0;

        if (!interface_counts(n) || n->present)
            continue;
        if (state == NET_STATE_NONE)
            r = net_state_remove(s->state_dir, n->names.pod, ret_error);
        else
            r = net_state_write(s->state_dir, n, state, ret_error);
        if (r < 0)
            return r;
    }
    return 0;
}

static int write_caches(const struct net_plan *plan, const struct vmi *vmi, struct writer *writer,
                        struct error **ret_error)
{
    for (size_t i = 0; i < plan->interfaces.count; i++) {
        const struct net_interface *n = &plan->interfaces.items[i];
        _cleanup_free_ char *text = NULL;
        const char *name = net_cache_name(plan->arena, n->names.pod);
        json_t *json;
        int r;

        if (!interface_counts(n) || n->present)
            continue;
        json = net_cache_to_json(n, vmi);
        text = json_dumps(json, JSON_COMPACT);
        json_decref(json);
        if (!text || !name)
            return error_oom(ret_error);
        r = writer_put(writer, name, text, ret_error);
        if (r < 0)
            return r;
    }
    return 0;
}

static bool plan_is_done(const struct net_plan *plan)
{
    for (size_t i = 0; i < plan->interfaces.count; i++)
        if (interface_counts(&plan->interfaces.items[i]) && !plan->interfaces.items[i].present)
            return false;
    return true;
}

/* Back to what was: the journal without this plan's undos, no state, no caches. */
static void forget(const struct settings *s, const struct net_plan *plan, struct writer *writer)
{
    for (size_t i = 0; i < plan->interfaces.count; i++) {
        const char *name = net_cache_name(plan->arena, plan->interfaces.items[i].names.pod);

        if (name && interface_counts(&plan->interfaces.items[i]) && !plan->interfaces.items[i].present)
            (void)writer_put(writer, name, NULL, NULL);
    }
    (void)write_states(s, plan, NET_STATE_NONE, NULL);
}

/* Back to what the state directory said before this plan: the next apply may try again. */
static void take_back(const struct settings *s, const struct net_plan *plan, const struct net_journal *before,
                      struct writer *writer)
{
    forget(s, plan, writer);
    if (before->undos.count)
        (void)net_journal_save(s->state_dir, before, NULL);
    else
        (void)net_journal_remove(s->state_dir, NULL);
}

static int apply_plan(const struct settings *s, const struct net_plan *plan, const struct vmi *vmi,
                      struct writer *writer, struct error **ret_error)
{
    _cleanup_(net_journal_freep) struct net_journal *before = NULL, *journal = NULL;
    _cleanup_error_ struct error *e = NULL;
    bool restored = true;
    int r;

    r = net_journal_load(s->state_dir, &before, ret_error);
    if (r >= 0)
        r = net_journal_load(s->state_dir, &journal, ret_error);
    if (r >= 0)
        r = net_journal_add(journal, plan, ret_error);
    if (r < 0)
        return r;
    r = net_journal_save(s->state_dir, journal, &e);
    if (r >= 0)
        r = write_states(s, plan, NET_STATE_STARTED, &e);
    if (r >= 0)
        r = net_apply(plan, s->fail_at, &restored, &e);
    if (r >= 0) {
        r = write_caches(plan, vmi, writer, &e);
        if (r >= 0 && s->fail_at == plan->steps.count + 1)
            r = error_set(&e, ERROR_NETWORK, ECANCELED, "made to fail after the last step, for a test");
        if (r >= 0)
            r = write_states(s, plan, NET_STATE_FINISHED, &e);
        if (r >= 0)
            return 0;
        restored =
            net_undo(journal->undos.items + before->undos.count, journal->undos.count - before->undos.count, NULL) >= 0;
    }
    if (restored)
        take_back(s, plan, before, writer);
    error_move(ret_error, TAKE_PTR(e));
    return r;
}

static int do_apply(const struct settings *s, const struct vmi *vmi, struct writer *writer, struct error **ret_error)
{
    _cleanup_(net_observed_freep) struct net_observed *observed = NULL;
    _cleanup_(net_plan_freep) struct net_plan *plan = NULL;
    _cleanup_(net_journal_freep) struct net_journal *journal = NULL;
    int r = net_journal_load(s->state_dir, &journal, ret_error);

    if (r >= 0)
        r = check_vm(s, journal, vmi, ret_error);
    if (r >= 0)
        r = check_finished(s, journal, ret_error);
    if (r >= 0)
        r = net_observe(&observed, ret_error);
    if (r < 0)
        return r;
    r = net_plan_make(vmi, observed, &s->plan, &plan, ret_error);
    if (r < 0 && journal->vm && ret_error)
        say_teardown(*ret_error);
    if (r >= 0)
        r = mkdir_parents(s->state_dir, 0700, ret_error);
    if (r >= 0)
        r = check_ours(s, plan, ret_error);
    if (r < 0)
        return r;
    if (!plan_is_done(plan)) {
        r = apply_plan(s, plan, vmi, writer, ret_error);
        if (r < 0)
            return r;
    }
    if (s->json)
        return print_json(net_plan_to_json(plan));
    return 0;
}

/* ---- teardown -------------------------------------------------------------------------------------------------- */

static int do_teardown(const struct settings *s, const struct vmi *vmi, struct writer *writer, struct error **ret_error)
{
    _cleanup_(net_journal_freep) struct net_journal *journal = NULL;
    int r = net_journal_load(s->state_dir, &journal, ret_error);

    if (r < 0)
        return r;
    net_state_tidy(s->state_dir);
    if (!journal->vm) {
        log_info("%s: nothing was set up, by %s", vmi->domain_name, s->state_dir);
        return 0;
    }
    r = net_journal_check(journal, vmi, ret_error);
    if (r < 0)
        return r;
    r = net_undo(journal->undos.items, journal->undos.count, ret_error);
    if (r < 0)
        return r;
    for (size_t i = 0; i < journal->links.count && r >= 0; i++) {
        const char *name = net_cache_name(journal->arena, journal->links.items[i]);

        r = name ? writer_put(writer, name, NULL, ret_error) : error_oom(ret_error);
        if (r >= 0)
            r = net_state_remove(s->state_dir, journal->links.items[i], ret_error);
    }
    if (r >= 0)
        r = net_journal_remove(s->state_dir, ret_error);
    return r;
}

static int do_plan(const struct settings *s, const struct vmi *vmi, struct error **ret_error)
{
    _cleanup_(net_observed_freep) struct net_observed *observed = NULL;
    _cleanup_(net_plan_freep) struct net_plan *plan = NULL;
    int r =
        s->observed_file ? load_observed(s->observed_file, &observed, ret_error) : net_observe(&observed, ret_error);

    if (r >= 0)
        r = net_plan_make(vmi, observed, &s->plan, &plan, ret_error);
    return r < 0 ? r : print_plan(s, plan);
}

static int do_observe(struct error **ret_error)
{
    _cleanup_(net_observed_freep) struct net_observed *observed = NULL;
    int r = net_observe(&observed, ret_error);

    return r < 0 ? r : print_json(net_observed_to_json(observed));
}

static int run(struct settings *s, struct error **ret_error)
{
    _cleanup_(vmi_freep) struct vmi *vmi = NULL;
    _cleanup_(writer_freep) struct writer *writer = NULL;
    bool looks_only = s->command == COMMAND_PLAN || s->command == COMMAND_OBSERVE;
    int r = enter_namespace(s, ret_error);

    if (r >= 0)
        r = start_writer(s, &writer, ret_error);
    if (r >= 0)
        r = sandbox_enter(looks_only, ret_error);
    if (r >= 0 && s->command == COMMAND_OBSERVE)
        return do_observe(ret_error);
    if (r >= 0)
        r = load_manifest(s->file, &vmi, ret_error);
    if (r < 0)
        return r;
    if (!s->state_dir) {
        if (asprintf(&s->state_buffer, NET_STATE_ROOT "/%s", vmi->uid ? vmi->uid : vmi->domain_name) < 0)
            return error_oom(ret_error);
        s->state_dir = s->state_buffer;
    }
    if (s->command == COMMAND_PLAN)
        return do_plan(s, vmi, ret_error);
    if (s->command == COMMAND_APPLY)
        return do_apply(s, vmi, writer, ret_error);
    return do_teardown(s, vmi, writer, ret_error);
}

int main(int argc, char **argv)
{
    _cleanup_(settings_done) struct settings s = {.plan.owner = NET_DEFAULT_OWNER};
    _cleanup_error_ struct error *e = NULL;
    int r;

    log_init("netsetup", LOG_LEVEL_INFO);
    r = parse_arguments(argc, argv, &s);
    if (r)
        return r < 0 ? EXIT_BAD_INPUT : EXIT_OK;
    r = run(&s, &e);
    if (r >= 0)
        return EXIT_OK;
    if (error_get_code(e) != ERROR_BAD_MANIFEST) /* those have been listed one by one */
        log_error_of(e, "%s", commands[s.command]);
    return (int)error_exit_code(e);
}
