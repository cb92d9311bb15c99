/* SPDX-License-Identifier: Apache-2.0 */
/* On which nodes the pod may run, and what the VMI hands on to it as it is. */
#include <stdio.h>

#include "k8s/render/private.h"

static void add_model_selectors(struct pod_build *b, json_t *selector)
{
    const struct vmi_cpu *cpu = &b->vmi->spec.domain.cpu;
    char key[300];

    if (b->options->use_emulation)
        return; /* an emulated CPU has what QEMU can emulate, on every node */
    if (cpu->model && !streq(cpu->model, "host-model") && !streq(cpu->model, "host-passthrough")) {
        snprintf(key, sizeof(key), "cpu-model.node.kubevirt.io/%s", cpu->model);
        put_text(b, selector, key, "true");
    }
    for (size_t i = 0; i < cpu->features.count; i++) {
        const struct vmi_cpu_feature *f = &cpu->features.items[i];

        if (f->policy != VMI_POLICY_UNSET && f->policy != VMI_POLICY_REQUIRE)
            continue;
        snprintf(key, sizeof(key), "cpu-feature.node.kubevirt.io/%s", f->name);
        put_text(b, selector, key, "true");
    }
}

static json_t *node_selector(struct pod_build *b)
{
    json_t *selector = json_object();

    if (!b->options->use_emulation)
        put_text(b, selector, "kubernetes.io/arch", b->vmi->spec.architecture);
    put_text(b, selector, "kubevirt.io/schedulable", "true");
    add_model_selectors(b, selector);
    if (b->vmi->spec.domain.cpu.dedicated_cpu_placement == OPT_TRUE)
        put_text(b, selector, "kubevirt.io/cpumanager", "true");
    for (size_t i = 0; i < b->vmi->spec.node_selector.count; i++)
        put_text(b, selector, b->vmi->spec.node_selector.items[i].key, b->vmi->spec.node_selector.items[i].value);
    return selector;
}

static json_t *child(struct pod_build *b, json_t *object, const char *key, json_t *(*make)(void))
{
    json_t *value = json_object_get(object, key);

    if (!value) {
        put(b, object, key, make());
        value = json_object_get(object, key);
    }
    return value;
}

/* A node whose host-model CPU is of another generation than its label said is avoided: in every alternative that the
 * user's own affinity has. */
static void avoid_obsolete_model(struct pod_build *b, json_t *affinity)
{
    json_t *required = child(b, child(b, affinity, "nodeAffinity", json_object),
                             "requiredDuringSchedulingIgnoredDuringExecution", json_object);
    json_t *terms = child(b, required, "nodeSelectorTerms", json_array), *term;
    size_t i;

    if (json_array_size(terms) == 0)
        add(b, terms, json_object());
    json_array_foreach (terms, i, term)
        add(b, child(b, term, "matchExpressions", json_array),
            json_pack("{s:s, s:s}", "key", "node-labeller.kubevirt.io/obsolete-host-model", "operator",
                      "DoesNotExist"));
}

void build_scheduling(struct pod_build *b, json_t *spec)
{
    const struct vmi_spec *s = &b->vmi->spec;
    json_t *affinity = s->affinity ? node_to_json(s->affinity) : json_object();

    put(b, spec, "nodeSelector", node_selector(b));
    if (streq_ptr(s->domain.cpu.model, "host-model") && !b->options->use_emulation)
        avoid_obsolete_model(b, affinity);
    if (json_object_size(affinity) > 0)
        put(b, spec, "affinity", json_incref(affinity));
    json_decref(affinity);
    put_node(b, spec, "tolerations", s->tolerations);
    put_node(b, spec, "topologySpreadConstraints", s->topology_spread_constraints);
    put_node(b, spec, "dnsConfig", s->dns_config);
    put_text(b, spec, "dnsPolicy", s->dns_policy);
    put_text(b, spec, "schedulerName", s->scheduler_name);
    put_text(b, spec, "priorityClassName", s->priority_class_name);
}
