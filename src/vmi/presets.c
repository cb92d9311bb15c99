/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VirtualMachineInstancePreset, as KubeVirt's users know it: a preset's domain settings go into every VMI that its
 * selector matches; where the VMI says something itself, that stays; two presets that contradict each other are a
 * fault. The merge is done on nodes, before decoding, so that the settings keep their place in the file.
 */
#include "base/strbuf.h"
#include "vmi/merge.h"
#include "vmi/private.h"
#include "json/scalar.h"

static const struct node *label(const struct node *labels, const char *key)
{
    const struct node *n = labels ? node_get(labels, key) : NULL;

    return n && n->kind == NODE_SCALAR ? n : NULL;
}

static bool contains(const struct node *values, const struct node *value)
{
    if (!values || values->kind != NODE_SEQUENCE)
        return false;
    NODE_FOREACH(v, values)
    if (v->kind == NODE_SCALAR && streq(v->text, value->text))
        return true;
    return false;
}

static bool expression_matches(const struct node *expression, const struct node *labels)
{
    const struct node *key = node_get(expression, "key"), *operator= node_get(expression, "operator");
    const struct node *values = node_get(expression, "values"), *value;

    if (!key || key->kind != NODE_SCALAR || !operator|| operator->kind != NODE_SCALAR)
        return false;
    value = label(labels, key->text);
    if (streq(operator->text, "Exists"))
        return value;
    if (streq(operator->text, "DoesNotExist"))
        return !value;
    if (streq(operator->text, "In"))
        return value && contains(values, value);
    if (streq(operator->text, "NotIn"))
        return !value || !contains(values, value);
    return false;
}

/* An empty selector matches nothing here, although Kubernetes' rule is everything: a preset must name its VMIs. */
static bool selector_matches(const struct node *selector, const struct node *labels)
{
    const struct node *pairs = node_get(selector, "matchLabels"), *expressions = node_get(selector, "matchExpressions");
    bool any = false;

    if (pairs && pairs->kind == NODE_MAPPING)
        NODE_FOREACH(pair, pairs)
        {
            const struct node *value = label(labels, pair->key);

            any = true;
            if (!value || pair->kind != NODE_SCALAR || !streq(value->text, pair->text))
                return false;
        }
    if (expressions && expressions->kind == NODE_SEQUENCE)
        NODE_FOREACH(expression, expressions)
        {
            any = true;
            if (!expression_matches(expression, labels))
                return false;
        }
    return any;
}

/* Members of `from` that `into` has not. With `faults`, a member that both have and that differs is a contradiction. */
static int merge(struct arena *arena, struct faults *faults, struct node *into, const struct node *from)
{
    int r = 0;

    NODE_FOREACH(c, from)
    {
        struct node *own = node_child(into, c->key), *added;

        if (own && own->kind == NODE_MAPPING && c->kind == NODE_MAPPING) {
            int s = merge(arena, faults, own, c);

            r = r < 0 ? r : s;
            if (s == -ENOMEM)
                return s;
            continue;
        }
        if (own && own->kind != NODE_NULL) {
            if (faults && !node_equal(own, c)) {
                faults_add(faults, c, "contradicts another preset for the same VMI, in line %u", own->line);
                r = -EINVAL;
            }
            continue;
        }
        added = node_copy(arena, c);
        if (!added)
            return -ENOMEM;
        node_put(into, c->key, added);
    }
    return r;
}

int presets_apply(struct arena *arena, struct faults *faults, struct node *const *presets, size_t n_presets,
                  const struct node *labels, struct node *spec)
{
    struct node *all = NULL, *domain;
    int r = 0;

    if (!spec || spec->kind != NODE_MAPPING)
        return 0;
    for (size_t i = 0; i < n_presets; i++) {
        const struct node *preset = node_get(presets[i], "spec");
        const struct node *selector = preset ? node_get(preset, "selector") : NULL;
        const struct node *settings = preset ? node_get(preset, "domain") : NULL;
        int s;

        if (!selector || !settings || settings->kind != NODE_MAPPING || !selector_matches(selector, labels))
            continue;
        if (!all) {
            all = node_copy(arena, settings);
            if (!all)
                return -ENOMEM;
            continue;
        }
        s = merge(arena, faults, all, settings);
        if (s == -ENOMEM)
            return s;
        r = r < 0 ? r : s;
    }
    if (!all || r < 0)
        return r;
    domain = node_child(spec, "domain");
    if (domain && domain->kind == NODE_MAPPING)
        return merge(arena, NULL, domain, all);
    return 0;
}
