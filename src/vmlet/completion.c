/* SPDX-License-Identifier: Apache-2.0 */
/* vmlet completion: scripts for three shells, from the verb table, so that they cannot lag behind it. */
#include <stdio.h>

#include "base/error.h"
#include "vmlet/options.h"
#include "vmlet/output.h"

#define OPTIONS_FOREACH(o, verb) for (const struct option_spec *o = (verb)->options; o && o->name; o++)

static void print_choices(const char *const *choices)
{
    for (size_t i = 0; choices && choices[i]; i++)
        printf("%s%s", i ? " " : "", choices[i]);
}

/* ---- bash ------------------------------------------------------------------------------------------------------ */

static void bash_value(const struct verb *verb, const struct option_spec *o)
{
    if (o->kind == OPTION_FLAG)
        return;
    printf("        %s:--%s", verb->name, o->name);
    if (o->letter)
        printf("|%s:-%c", verb->name, o->letter);
    printf(") ");
    if (o->choices) {
        printf("mapfile -t COMPREPLY < <(compgen -W '");
        print_choices(o->choices);
        printf("' -- \"$word\")");
    } else if (o->complete == COMPLETE_FILE) {
        printf("compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- \"$word\")");
    } else if (o->complete == COMPLETE_DIRECTORY) {
        printf("compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- \"$word\")");
    } else {
        printf("COMPREPLY=()");
    }
    printf("; return ;;\n");
}

static void bash_words(const struct verb *verb)
{
    printf("        %s) words='--help", verb->name);
    OPTIONS_FOREACH(o, verb)
    printf(" --%s", o->name);
    if (streq(verb->name, "completion"))
        printf(" bash zsh fish");
    if (streq(verb->name, "help"))
        for (const struct verb *v = verbs; v->name; v++)
            printf(" %s", v->name);
    printf("'%s ;;\n", verb->complete == COMPLETE_FILE ? " files=1" : "");
}

static void print_bash(void)
{
    printf("# bash completion for vmlet; made by 'vmlet completion bash'\n"
           "_vmlet() {\n"
           "    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} verb=${COMP_WORDS[1]-}\n"
           "    local words='' files=''\n"
           "    if ((COMP_CWORD == 1)); then\n"
           "        mapfile -t COMPREPLY < <(compgen -W '");
    for (const struct verb *v = verbs; v->name; v++)
        printf("%s ", v->name);
    printf("--help --version' -- \"$word\")\n        return\n    fi\n"
           "    case $verb:$previous in\n");
    for (const struct verb *v = verbs; v->name; v++)
        OPTIONS_FOREACH(o, v)
    bash_value(v, o);
    printf("    esac\n    case $verb in\n");
    for (const struct verb *v = verbs; v->name; v++)
        bash_words(v);
    printf("    esac\n"
           "    if [[ -n $files && $word != -* ]]; then\n"
           "        compopt -o filenames\n"
           "        mapfile -t COMPREPLY < <(compgen -f -- \"$word\")\n"
           "        return\n"
           "    fi\n"
           "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$word\")\n"
           "}\n"
           "complete -F _vmlet vmlet\n");
}

/* ---- zsh ------------------------------------------------------------------------------------------------------- */

/* A description between brackets: brackets, colons and quotes have a meaning there. */
static void zsh_text(const char *text)
{
    for (; *text; text++) {
        if (*text == '\'')
            printf("'\\''");
        else if (strchr("[]:\\", *text))
            printf("\\%c", *text);
        else
            fputc(*text, stdout);
    }
}

static void zsh_option(const struct option_spec *o)
{
    printf(" \\\n                '--%s[", o->name);
    zsh_text(o->what);
    printf("]");
    if (o->kind != OPTION_FLAG) {
        printf(":%s:", o->argument ? o->argument : "");
        if (o->choices) {
            printf("(");
            print_choices(o->choices);
            printf(")");
        } else if (o->complete == COMPLETE_FILE) {
            printf("_files");
        } else if (o->complete == COMPLETE_DIRECTORY) {
            printf("_files -/");
        }
    }
    printf("'");
}

static void print_zsh(void)
{
    printf("#compdef vmlet\n# zsh completion for vmlet; made by 'vmlet completion zsh'\n"
           "_vmlet() {\n    local -a verbs\n    verbs=(\n");
    for (const struct verb *v = verbs; v->name; v++) {
        printf("        '%s:", v->name);
        zsh_text(v->summary);
        printf("'\n");
    }
    printf("    )\n    if ((CURRENT == 2)); then\n        _describe verb verbs\n        return\n    fi\n"
           "    local verb=$words[2]\n    shift words\n    ((CURRENT--))\n    case $verb in\n");
    for (const struct verb *v = verbs; v->name; v++) {
        printf("        %s)\n            _arguments '--help[print the help and leave]'", v->name);
        OPTIONS_FOREACH(o, v)
        zsh_option(o);
        if (v->complete == COMPLETE_FILE)
            printf(" \\\n                '*:file:_files'");
        else if (streq(v->name, "completion"))
            printf(" \\\n                '1:shell:(bash zsh fish)'");
        else if (streq(v->name, "help"))
            printf(" \\\n                '1:verb:{_describe verb verbs}'");
        printf("\n            ;;\n");
    }
    printf("    esac\n}\n_vmlet \"$@\"\n");
}

/* ---- fish ------------------------------------------------------------------------------------------------------ */

static void fish_text(const char *text)
{
    for (; *text; text++) {
        if (*text == '\'' || *text == '\\')
            fputc('\\', stdout);
        fputc(*text, stdout);
    }
}

static void fish_option(const struct verb *verb, const struct option_spec *o)
{
    printf("complete -c vmlet -n '__fish_seen_subcommand_from %s' -l %s", verb->name, o->name);
    if (o->letter)
        printf(" -s %c", o->letter);
    if (o->kind != OPTION_FLAG)
        printf(o->complete == COMPLETE_NOTHING ? " -x" : " -r -F");
    if (o->choices) {
        printf(" -a '");
        print_choices(o->choices);
        printf("'");
    }
    printf(" -d '");
    fish_text(o->what);
    printf("'\n");
}

static void print_fish(void)
{
    printf("# fish completion for vmlet; made by 'vmlet completion fish'\ncomplete -c vmlet -f\n");
    for (const struct verb *v = verbs; v->name; v++) {
        printf("complete -c vmlet -n __fish_use_subcommand -a %s -d '", v->name);
        fish_text(v->summary);
        printf("'\n");
        printf("complete -c vmlet -n '__fish_seen_subcommand_from %s' -l help -d 'print the help and leave'\n",
               v->name);
        OPTIONS_FOREACH(o, v)
        fish_option(v, o);
        if (v->complete == COMPLETE_FILE)
            printf("complete -c vmlet -n '__fish_seen_subcommand_from %s' -F\n", v->name);
    }
    printf("complete -c vmlet -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'\n");
}

int verb_completion(int argc, char **argv)
{
    const struct verb *verb = verb_find(argv[0]);
    static const struct {
        const char *shell;
        void (*print)(void);
    } shells[] = {{"bash", print_bash}, {"zsh", print_zsh}, {"fish", print_fish}};
    char **arguments;
    size_t n;
    int r = options_parse(verb, argc, argv, NULL, &arguments, &n);

    if (r >= 0)
        return r;
    for (size_t i = 0; i < ELEMENTSOF(shells); i++)
        if (streq(shells[i].shell, arguments[0])) {
            shells[i].print();
            return finish_output();
        }
    return usage_error(verb, "%s: no completion for this shell (bash, zsh, fish)", arguments[0]);
}
