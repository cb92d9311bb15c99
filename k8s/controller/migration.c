/* SPDX-License-Identifier: Apache-2.0 */
/* VirtualMachineInstanceMigration: the kind is there, live migration is not. Who asks for one is told so at once,
 * rather than to wait for ever. */
#include "k8s/client/ktime.h"
#include "k8s/controller/plan.h"

const struct kube_resource resource_migrations = {"kubevirt.io", "v1", "virtualmachineinstancemigrations",
                                                  "VirtualMachineInstanceMigration", false};

int plan_migration(const struct view *v, struct plan *p)
{
    static const char why[] = "live migration is not supported yet: to move the virtual machine, stop it, and start it "
                              "where its nodeSelector allows it to run";
    const char *phase = GET_TEXT(v->migration, "status", "phase");
    json_t *status, *conditions;
    char time[KUBE_TIME_SIZE];

    if (is_deleting(v->migration) || streq(phase, "Failed") || streq(phase, "Succeeded"))
        return 0;
    status = json_deep_copy(GET(v->migration, "status"));
    if (!status)
        status = json_object();
    conditions = json_object_get(status, "conditions");
    if (!json_is_array(conditions)) {
        conditions = json_array();
        json_object_set_new(status, "conditions", conditions);
    }
    kube_time(v->now, time);
    json_object_set_new(status, "phase", json_string("Failed"));
    json_object_set_new(status, "phaseTransitionTimestamps",
                        json_pack("[{s:s, s:s}]", "phase", "Failed", "phaseTransitionTimestamp", time));
    condition_set(conditions, "Failure", "True", "NotSupported", why, v->now);
    plan_event_set(&p->said, true, "NotSupported", "%s", why);
    return plan_status(p, &resource_migrations, v->migration, status);
}
