# SPDX-License-Identifier: Apache-2.0
"""k8s/manifests applied by kubectl, and virt-controller under the role that they give it."""
import json
import subprocess
from collections import Counter

import pytest
import yaml

import binaries
from controller_lab import DATA_VOLUMES, KUBEVIRT, TOP, kubeconfig, wait_for
from test_controller import VM, Lab, replica_set
from test_types import CLAIM, SMALL, disk_vm, make, typed_vm

MANIFESTS = TOP / "k8s/manifests"
# asked for by the admission plug-in OwnerReferencesPermissionEnforcement, which is not on here
BY_ADMISSION = {("kubevirt.io", f"{kind}/finalizers", "update") for kind in (
    "virtualmachines", "virtualmachineinstances", "virtualmachineinstancereplicasets")}


def kubectl(api, tmp, *arguments, **options):
    config = kubeconfig(tmp / "admin", api.url, api.ca)
    return subprocess.run([binaries.control_plane() / "kubectl", "--kubeconfig", config, *arguments], capture_output=True,
                          text=True, timeout=120, check=False, **options)


@pytest.fixture(scope="module")
def installed(api, tmp_path_factory):
    done = kubectl(api, tmp_path_factory.mktemp("kubectl"), "apply", "--server-side", "--validate=strict", "-k", str(MANIFESTS))
    assert done.returncode == 0, done.stderr
    for plural in ("virtualmachines", "virtualmachineinstances", "virtualmachineinstancereplicasets",
                   "virtualmachineinstancepresets"):
        api.wait(plural, "GET", f"/apis/kubevirt.io/v1/{plural}", lambda status, _: status == 200)
    return api


def test_every_file_is_in_the_kustomization(installed):
    listed = set(yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())["resources"])
    assert listed == {p.name for p in MANIFESTS.glob("*.yaml")} - {"kustomization.yaml"}


def test_applied_again_changes_nothing(installed, tmp_path):
    done = kubectl(installed, tmp_path, "diff", "--server-side", "-k", str(MANIFESTS))
    assert done.returncode == 0, done.stdout[:3000] + done.stderr


def documents(kind):
    return [d for p in MANIFESTS.glob("*.yaml") for d in yaml.safe_load_all(p.read_text()) if d and d["kind"] == kind]


def test_policies_and_budget_are_about_our_pods(installed):
    """A selector that matches nothing is taken by the API server without a word, and does nothing."""
    programs = {d["metadata"]["name"]: d for d in documents("Deployment") + documents("DaemonSet")}
    pods = {name: d["spec"]["template"] for name, d in programs.items()}

    def chosen(selector):
        return {name for name, pod in pods.items() if all(
            pod["metadata"]["labels"].get(k) == v for k, v in selector.get("matchLabels", {}).items()) and all(
            e["operator"] == "In" and pod["metadata"]["labels"].get(e["key"]) in e["values"] for e in selector.get("matchExpressions", ()))}

    policies = {d["metadata"]["name"]: d for d in documents("NetworkPolicy")}
    assert {name: chosen(d["spec"]["podSelector"]) for name, d in policies.items()} == dict.fromkeys(policies, set(pods))
    assert policies["default-deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    served = {port["containerPort"] for pod in pods.values() for c in pod["spec"]["containers"] for port in c.get("ports", ())
              if not pod["spec"].get("hostNetwork")}
    allowed = {port["port"] for d in policies.values() for rule in d["spec"].get("ingress", ()) for port in rule["ports"]}
    assert allowed == served
    for budget in documents("PodDisruptionBudget"):
        names = chosen(budget["spec"]["selector"])
        assert names == {"virt-controller"}
        assert 0 < budget["spec"]["minAvailable"] < programs["virt-controller"]["spec"]["replicas"]  # a drain can go on


def permissions():
    """(group, resource, verb) of the ClusterRole and the Role."""
    out = set()
    for document in yaml.safe_load_all((MANIFESTS / "controller-rbac.yaml").read_text()):
        for rule in document.get("rules", []):
            out |= {(g, r, v) for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]}
    return out


def requests_of(api, since=0):
    events = [json.loads(line) for line in (api.folder / "audit.log").read_text().splitlines()[since:]]
    return [e for e in events if e["user"]["username"] == "system:serviceaccount:kubevirt:virt-controller" and "objectRef" in e]


def test_the_role_is_enough_and_no_more(installed, tmp_path):
    status, token = installed.call("POST", "/api/v1/namespaces/kubevirt/serviceaccounts/virt-controller/token", {"spec": {}})
    assert status == 201, token
    name = "least-privilege"
    installed.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    lab = Lab(installed, tmp_path, name)
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    assert installed.call("POST", crds, DATA_VOLUMES)[0] == 201
    installed.wait("CDI", "GET", "/apis/cdi.kubevirt.io/v1beta1/datavolumes", lambda status, _: status == 200)
    config = kubeconfig(tmp_path / "account", installed.url, installed.ca, token["status"]["token"])
    try:
        lab.number += 1
        from controller_lab import Controller
        c = Controller(config, tmp_path / "controller.log", "--lease-namespace", "kubevirt", lease=True)
        lab.controllers.append(c)
        wait_for("the lease", lambda: c.metrics()["kubevirt_virt_controller_leading_status"] == 1)
        vm = dict(VM, spec=VM["spec"] | {"runStrategy": "Halted"})
        lab.make("virtualmachines", vm)
        lab.vm_is("vm", "Stopped")
        before = len((installed.folder / "audit.log").read_text().splitlines())
        lab.patch("virtualmachines", "vm", {"status": {"stateChangeRequests": [{"action": "Start"}]}}, "/status")
        lab.vm_is("vm", "Running")
        wait_for("ready", lambda: lab.get("virtualmachines", "vm")["status"]["ready"])
        lab.settle("vm")
        started = [e for e in requests_of(installed, before) if e["verb"] not in ("watch", "list")
                   and e["objectRef"]["resource"] != "leases"]
        calls = Counter(f"{e['verb']} {e['objectRef']['resource']}{'/' if 'subresource' in e['objectRef'] else ''}"
                        f"{e['objectRef'].get('subresource', '')}" for e in started)
        print(f"{sum(calls.values())} calls for a VM from its start request to ready: {dict(calls)}")
        assert sum(calls.values()) <= 14
        lab.make("virtualmachineinstancereplicasets", replica_set(2))
        wait_for("replicas", lambda: lab.get("virtualmachineinstancereplicasets", "set").get("status", {}).get("readyReplicas") == 2)
        bare = lab.make("virtualmachineinstances", {
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "bare"},
            "spec": VM["spec"]["template"]["spec"]})
        wait_for("the pod of a bare one", lambda: [p for p in lab.list("pods") if p["metadata"]["ownerReferences"][0]["uid"] ==
                                                   bare["metadata"]["uid"]])
        # the same happening again: its Event's count is raised
        for i in (1, 2):
            lab.patch("virtualmachines", "vm", {"spec": {"runStrategy": "Halted"}})
            lab.vm_is("vm", "Stopped")
            if i == 1:
                lab.patch("virtualmachines", "vm", {"spec": {"runStrategy": "Always"}})
                lab.vm_is("vm", "Running")
        wait_for("an Event that counts", lambda: [e for e in lab.list("events") if e.get("count", 1) > 1], 60)
        lab.delete("virtualmachines", "vm")
        lab.gone("virtualmachines", "vm")
        make(lab, "virtualmachineinstancetypes", "small", SMALL)
        lab.make("virtualmachines", typed_vm("small", "VirtualMachineInstancetype"), name="typed")
        lab.vm_is("typed", "Running")
        lab.patch("virtualmachines", "typed", {"spec": {"runStrategy": "Halted"}})
        lab.vm_is("typed", "Stopped")
        lab.patch("virtualmachines", "typed", {"spec": {"runStrategy": "Always"}})
        lab.vm_is("typed", "Running")
        lab.make("virtualmachines", disk_vm(), name="disk")
        lab.vm_is("disk", "Provisioning")
        lab.make("persistentvolumeclaims", CLAIM)
        migration = f"{KUBEVIRT}/namespaces/{name}/virtualmachineinstancemigrations"
        assert installed.call("POST", migration, {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
                                                  "metadata": {"name": "m"}, "spec": {"vmiName": "typed"}})[0] == 201
        wait_for("an answer to it", lambda: installed.call("GET", migration + "/m")[1].get("status"))
        used, refused = set(), []
        for e in requests_of(installed):
            ref = e["objectRef"]
            resource = ref["resource"] + (f"/{ref['subresource']}" if "subresource" in ref else "")
            used.add((ref.get("apiGroup", ""), resource, e["verb"]))
            if e["responseStatus"]["code"] in (401, 403):
                refused.append((resource, e["verb"], e["responseStatus"]))
        assert not refused
        assert permissions() - used == BY_ADMISSION, "permissions that nobody used"
        assert used <= permissions()
    finally:
        lab.close()
        installed.call("DELETE", f"{crds}/{DATA_VOLUMES['metadata']['name']}")
        wait_for("its end", lambda: installed.call("GET", f"{crds}/{DATA_VOLUMES['metadata']['name']}")[0] == 404)


def test_users_get_the_api_with_their_roles(installed, tmp_path):
    for role, verb, allowed in (("view", "get", True), ("view", "delete", False), ("edit", "delete", True)):
        binding = {"metadata": {"name": f"{role}-{verb}"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io",
                   "kind": "ClusterRole", "name": f"kubevirt.io:{role}"}, "subjects": [{"kind": "User", "name": f"u-{role}"}]}
        installed.call("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
        for what in ("virtualmachines.kubevirt.io", "virtualmachineinstancetypes.instancetype.kubevirt.io"):
            done = kubectl(installed, tmp_path, "auth", "can-i", verb, what, "--as", f"u-{role}")
            assert done.stdout.strip() == ("yes" if allowed else "no"), done.stderr
    for verb, allowed in (("list", True), ("delete", False)):  # those of the cluster, for whom no role was given
        done = kubectl(installed, tmp_path, "auth", "can-i", verb, "virtualmachineclusterinstancetypes.instancetype.kubevirt.io",
                       "--as", "nobody", "--as-group", "system:authenticated")
        assert done.stdout.strip() == ("yes" if allowed else "no"), done.stderr
