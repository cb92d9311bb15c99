/* SPDX-License-Identifier: Apache-2.0 */
/* vmlet probe: what this host can do, and why not. */
#include "host/host.h"
#include "host/node-labels.h"
#include "vmlet/options.h"
#include "vmlet/output.h"

struct probe {
    bool json, node_labels;
};

const struct option_spec probe_options[] = {
    {.name = "json", .kind = OPTION_FLAG, .offset = offsetof(struct probe, json), .what = "print JSON"},
    {.name = "node-labels",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct probe, node_labels),
     .what = "print the labels of a Kubernetes node, as JSON"},
    {0},
};

static void print_fact(const struct host_fact *fact)
{
    printf("%s%-3s%s  %-12s  ", style_on(stdout, fact->yes ? STYLE_GOOD : STYLE_WARNING), fact->yes ? "yes" : "no",
           style_on(stdout, STYLE_PLAIN), fact->name);
    print_safe(stdout, fact->detail ? fact->detail : "");
    if (fact->need && *fact->need)
        printf(" %s(%s)%s", style_on(stdout, STYLE_FAINT), fact->need, style_on(stdout, STYLE_PLAIN));
    fputc('\n', stdout);
    if (!fact->yes && fact->remedy)
        printf("%*s%s%s%s\n", 19, "", style_on(stdout, STYLE_FAINT), fact->remedy, style_on(stdout, STYLE_PLAIN));
}

static int print_facts(const struct host_facts *facts, bool json)
{
    json_t *value;
    int r;

    if (json) {
        value = host_facts_to_json(facts);
        r = print_json(value);
        json_decref(value);
        return r;
    }
    for (size_t i = 0; i < facts->count; i++)
        print_fact(&facts->items[i]);
    return finish_output();
}

static int print_labels(void)
{
    _cleanup_error_ struct error *error = NULL;
    json_t *labels;
    int r;

    if (node_labels_load(&labels, &error) < 0)
        return print_error(error);
    r = print_json(labels);
    json_decref(labels);
    return r;
}

int verb_probe(int argc, char **argv)
{
    struct probe options = {0};
    _cleanup_(host_facts_freep) struct host_facts *facts = NULL;
    _cleanup_error_ struct error *error = NULL;
    int r = options_parse(verb_find(argv[0]), argc, argv, &options, NULL, NULL);

    if (r >= 0)
        return r;
    if (options.node_labels)
        return print_labels();
    if (host_facts_load(&facts, &error) < 0)
        return print_error(error);
    return print_facts(facts, options.json);
}
