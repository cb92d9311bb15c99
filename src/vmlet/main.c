/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "base/error.h"
#include "base/log.h"
#include "base/nearest.h"
#include "domain/sandbox.h"
#include "vmlet-config.h"
#include "vmlet/options.h"
#include "vmlet/output.h"
#include "vmlet/verbs.h"

#define NAME_DETAILS                                                                                                   \
    "NAME is <name>, <namespace>/<name> or <namespace>_<name>; it can be left out when one VM runs.\n"                 \
    "Without --socket and --state-dir: in a pod its own VM, else what 'vmlet run' keeps in its state directory."

#define ON_VM(verb_name, what, opts, fn)                                                                               \
    {                                                                                                                  \
        .name = verb_name, .summary = what, .arguments = "[NAME]", .max_arguments = 1, .options = opts,                \
        .details = NAME_DETAILS, .function = fn                                                                        \
    }

const struct verb verbs[] = {
    {.name = "explain",
     .summary = "check a manifest and print every device of its machine, with the reason",
     .arguments = "FILE",
     .min_arguments = 1,
     .max_arguments = 1,
     .complete = COMPLETE_FILE,
     .options = explain_options,
     .confined = true,
     .details =
         "FILE is a VirtualMachine or VirtualMachineInstance in YAML or JSON; '-' is standard input. Nothing is\n"
         "made or started, and neither the images nor the devices of the manifest need to be here.",
     .function = verb_explain},
    {.name = "expand",
     .summary = "print a manifest with its instance type, preference and presets merged in",
     .arguments = "FILE",
     .min_arguments = 1,
     .max_arguments = 1,
     .complete = COMPLETE_FILE,
     .options = expand_options,
     .confined = true,
     .details =
         "FILE is a VirtualMachine or VirtualMachineInstance in YAML or JSON with, beside it, what it refers to;\n"
         "'-' is standard input. The manifest is checked and printed as JSON.",
     .function = verb_expand},
    {.name = "pod",
     .summary = "print the launcher pod that virt-controller makes for a manifest",
     .arguments = "FILE",
     .min_arguments = 1,
     .max_arguments = 1,
     .complete = COMPLETE_FILE,
     .options = pod_print_options,
     .confined = true,
     .details =
         "FILE is a VirtualMachine or VirtualMachineInstance in YAML or JSON; '-' is standard input. The pod is\n"
         "printed as JSON. Nothing is made, and no cluster is asked.",
     .function = verb_pod},
    {.name = "run",
     .summary = "run a VM in the foreground until its guest ends",
     .arguments = "FILE",
     .min_arguments = 1,
     .max_arguments = 1,
     .complete = COMPLETE_FILE,
     .options = run_options,
     .confined = true,
     .details =
         "FILE is a VirtualMachine or VirtualMachineInstance in YAML or JSON; '-' is standard input. ctrl-C asks\n"
         "the guest to shut down, a second one kills it. Nothing is left behind, unless --keep is given.",
     .function = verb_run},
    {.name = "smoke",
     .summary = "boot a VM, run a command in its guest, and exit with the command's code",
     .arguments = "FILE",
     .min_arguments = 1,
     .max_arguments = 1,
     .complete = COMPLETE_FILE,
     .options = smoke_options,
     .confined = true,
     .details = "For CI jobs: works with and without KVM. The guest needs qemu-guest-agent.",
     .function = verb_smoke},
    ON_VM("status", "print state, reason, acceleration, guest agent, disks and sockets", status_options, verb_status),
    ON_VM("events", "print the VM's events, and follow them", events_options, verb_events),
    {.name = "wait",
     .summary = "wait until a VM runs, its agent answers, it ends, or its console prints something",
     .arguments = "[NAME]",
     .max_arguments = 1,
     .options = wait_options,
     .details = NAME_DETAILS "\nThe VM need not be there yet. What has been reached already is not waited for.",
     .function = verb_wait},
    ON_VM("timeline", "print when each step of the start-up was reached", vm_options, verb_timeline),
    ON_VM("console", "connect this terminal to the guest's serial console (ctrl-] leaves)", console_options,
          verb_console),
    {.name = "exec",
     .summary = "run a program in the guest by its agent, and exit with its code",
     .arguments = "[NAME] -- COMMAND [ARGUMENT]...",
     .max_arguments = 1,
     .options = exec_options,
     .details = NAME_DETAILS "\nThe program's output is printed when it has ended; --timeout is for that (60s).",
     .function = verb_exec},
    ON_VM("pause", "stop the vCPUs", vm_options, verb_action),
    ON_VM("unpause", "let the vCPUs run again", vm_options, verb_action),
    ON_VM("stop", "ask the guest to shut down, and end it after its grace period", stop_options, verb_stop),
    ON_VM("kill", "end the VM now", vm_options, verb_action),
    ON_VM("reset", "reset the machine, as by its button", vm_options, verb_action),
    ON_VM("softreboot", "ask the guest to reboot: by its agent, else by the power button", vm_options, verb_action),
    ON_VM("freeze", "freeze the guest's file systems for a backup", freeze_options, verb_freeze),
    ON_VM("unfreeze", "thaw the guest's file systems", vm_options, verb_action),
    ON_VM("disk", "list the disks; plug in, unplug, grow and back up, change media", disk_options, verb_disk),
    ON_VM("stats", "print the VM's counters", data_options, verb_data),
    ON_VM("guestinfo", "print what the guest agent knows of its system", data_options, verb_data),
    ON_VM("screenshot", "write a picture of the guest's display", screenshot_options, verb_screenshot),
    {.name = "probe",
     .summary = "print what this host can do, with the reason for each no",
     .options = probe_options,
     .confined = true,
     .function = verb_probe},
    {.name = "completion",
     .summary = "print a completion script for a shell",
     .arguments = "bash|zsh|fish",
     .min_arguments = 1,
     .max_arguments = 1,
     .function = verb_completion},
    {.name = "version", .summary = "print the version", .function = verb_version},
    {.name = "help",
     .summary = "print the help of a verb",
     .arguments = "[VERB]",
     .max_arguments = 1,
     .function = verb_help},
    {0},
};

const struct verb *verb_find(const char *name)
{
    for (const struct verb *v = verbs; v->name; v++)
        if (streq(v->name, name))
            return v;
    return NULL;
}

static const char *verb_name_at(size_t i, const void *userdata)
{
    return verbs[i].name;
}

static int unknown_verb(const char *name)
{
    int nearest = nearest_index(name, ELEMENTSOF(verbs) - 1, verb_name_at, NULL);

    fprintf(stderr, "vmlet: there is no verb %s%s%s%s\nTry 'vmlet help'.\n", name, nearest < 0 ? "" : " (did you mean ",
            nearest < 0 ? "" : verbs[nearest].name, nearest < 0 ? "" : "?)");
    return EXIT_BAD_INPUT;
}

static void print_overview(FILE *stream)
{
    fprintf(stream, "Usage: vmlet VERB [OPTION]... [ARGUMENT]\n\n"
                    "KubeVirt virtual machines without libvirt.\n\nVerbs:\n");
    for (const struct verb *v = verbs; v->name; v++)
        fprintf(stream, "  %s%-11s%s %s\n", style_on(stream, STYLE_HEADING), v->name, style_on(stream, STYLE_PLAIN),
                v->summary);
    fprintf(stream, "\n'vmlet VERB --help' says more. Exit status: 0 ok, 1 failed, 2 bad arguments or bad manifest,\n"
                    "3 this host cannot, 124 timed out.\n");
}

int verb_help(int argc, char **argv)
{
    const struct verb *verb = verb_find(argv[0]);
    const struct verb *about;
    char **arguments;
    size_t n;
    int r = options_parse(verb, argc, argv, NULL, &arguments, &n);

    if (r >= 0)
        return r;
    if (n == 0) {
        print_overview(stdout);
        return finish_output();
    }
    about = verb_find(arguments[0]);
    if (!about)
        return unknown_verb(arguments[0]);
    options_print_help(about);
    return finish_output();
}

int verb_version(int argc, char **argv)
{
    const struct verb *verb = verb_find(argv[0]);
    int r = options_parse(verb, argc, argv, NULL, NULL, NULL);

    if (r >= 0)
        return r;
    printf("vmlet " VMLET_VERSION "\n");
    return finish_output();
}

int main(int argc, char **argv)
{
    _cleanup_error_ struct error *error = NULL;
    const struct verb *verb;

    log_init("vmlet", LOG_LEVEL_WARNING);
    if (argc < 2) {
        print_overview(stderr);
        return EXIT_BAD_INPUT;
    }
    if (streq(argv[1], "--help") || streq(argv[1], "-h")) {
        print_overview(stdout);
        return finish_output();
    }
    if (streq(argv[1], "--version")) {
        printf("vmlet " VMLET_VERSION "\n");
        return finish_output();
    }
    verb = verb_find(argv[1]);
    if (!verb)
        return unknown_verb(argv[1]);
    if (verb->confined && sandbox_enter(&error) < 0)
        return print_error(error);
    return verb->function(argc - 1, argv + 1);
}
