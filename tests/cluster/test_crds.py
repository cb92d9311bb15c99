# SPDX-License-Identifier: Apache-2.0
"""Our CRDs in a real API server: it takes them, takes the manifests that vmlet takes, and refuses what a rule forbids."""
import copy
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).resolve().parent.parent.parent
CRDS = sorted((TOP / "k8s/manifests").glob("crd-*.yaml"))
PLURAL = {"VirtualMachine": "virtualmachines", "VirtualMachineInstance": "virtualmachineinstances",
          "VirtualMachineInstanceReplicaSet": "virtualmachineinstancereplicasets",
          "VirtualMachineInstancePreset": "virtualmachineinstancepresets",
          "VirtualMachineInstanceMigration": "virtualmachineinstancemigrations",
          "VirtualMachineInstancetype": "virtualmachineinstancetypes",
          "VirtualMachineClusterInstancetype": "virtualmachineclusterinstancetypes",
          "VirtualMachinePreference": "virtualmachinepreferences",
          "VirtualMachineClusterPreference": "virtualmachineclusterpreferences"}

VERSION = {kind: "instancetype.kubevirt.io/v1beta1" for kind in PLURAL if kind.endswith(("type", "Preference"))}


@pytest.fixture(scope="session")
def crds(api):
    for path in CRDS:
        crd = yaml.safe_load(path.read_text())
        status, answer = api.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
        assert status == 201 or answer["reason"] == "AlreadyExists", answer  # test_manifests.py applies them too
        # a CRD that is not structural is stored too, and says so in a condition
        answer = api.wait(path.name, "GET",
                          "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/" + crd["metadata"]["name"],
                          lambda _, a: any(c["type"] == "Established" and c["status"] == "True"
                                           for c in (a.get("status") or {}).get("conditions") or []))
        assert not [c for c in answer["status"]["conditions"] if c["type"] == "NonStructuralSchema"], answer["status"]
    for kind, plural in PLURAL.items():
        api.wait(plural, "GET", f"/apis/{VERSION.get(kind, 'kubevirt.io/v1')}/{plural}",
                 lambda status, _: status == 200)
    return api


def create(crds, manifest):
    """Everything is checked, nothing is stored."""
    group = manifest["apiVersion"]
    place = "" if "Cluster" in manifest["kind"] else "namespaces/default/"
    return crds.call("POST", f"/apis/{group}/{place}{PLURAL[manifest['kind']]}"
                                "?dryRun=All&fieldValidation=Strict", manifest)


NOT_FOR_PYYAML = {"tab-comment"}  # about the reading of YAML, which kubectl does before the API server sees it


def golden():
    for path in sorted([*(TOP / "tests/golden/manifests").glob("**/*.yaml"),
                        TOP / "tests/golden/machine/instancetype.yaml"]):
        if "bad" in path.parts or path.stem in NOT_FOR_PYYAML:
            continue
        for i, doc in enumerate(yaml.safe_load_all(path.read_text(encoding="utf-8-sig"))):
            if isinstance(doc, dict) and doc.get("kind") in PLURAL and doc["apiVersion"] != "kubevirt.io/v1alpha2":
                yield pytest.param(doc, id=f"{path.stem}-{i}")


@pytest.mark.parametrize("manifest", golden())
def test_golden_manifest_is_accepted(crds, manifest):
    manifest.setdefault("metadata", {}).pop("namespace", None)
    for server_set in ("uid", "resourceVersion", "selfLink", "clusterName"):
        manifest["metadata"].pop(server_set, None)
    status, answer = create(crds, manifest)
    assert status == 201, answer.get("message")


VM = yaml.safe_load("""
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: vm}
spec:
  runStrategy: Always
  template:
    spec:
      domain:
        memory: {guest: 128Mi}
        devices:
          disks: [{name: root, disk: {bus: virtio}}]
          interfaces: [{name: default, masquerade: {}}]
      networks: [{name: default, pod: {}}]
      volumes: [{name: root, containerDisk: {image: example/disk}}]
""")


def spec(vm):
    return vm["spec"]["template"]["spec"]


# What a type says; what a rule says is in test_rules.py.
BAD = {
    "enum": (lambda vm: vm["spec"].update(runStrategy="Sometimes"), "Unsupported value"),
    "range": (lambda vm: spec(vm).update(terminationGracePeriodSeconds=-1), "greater than or equal to 0"),
    "missing": (lambda vm: spec(vm).pop("domain"), "Required value"),
    "quantity": (lambda vm: spec(vm)["domain"]["memory"].update(guest="lots"), "should match"),
    "unknown field": (lambda vm: spec(vm)["domain"].update(cpus={}), 'unknown field "spec.template.spec.domain.cpus"'),
}


def test_the_good_one(crds):
    status, answer = create(crds, VM)
    assert status == 201, answer


@pytest.mark.parametrize("name", BAD)
def test_refused(crds, name):
    change, says = BAD[name]
    vm = copy.deepcopy(VM)
    change(vm)
    status, answer = create(crds, vm)
    assert status in (400, 422), (status, answer)
    assert says in answer["message"], answer["message"]


def test_table_columns_and_scale(crds):
    path = "/apis/kubevirt.io/v1/namespaces/default/virtualmachineinstancereplicasets"
    rs = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceReplicaSet", "metadata": {"name": "rs"},
          "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": VM["spec"]["template"]}}
    status, answer = crds.call("POST", path, rs)
    assert status == 201, answer
    status, scale = crds.call("GET", path + "/rs/scale")
    assert status == 200 and scale["spec"]["replicas"] == 1
    status, _ = crds.call("DELETE", path + "/rs")
    assert status == 200
    status, resources = crds.call("GET", "/apis/kubevirt.io/v1")
    short = {r["name"]: r.get("shortNames") for r in resources["resources"]}
    assert short["virtualmachines"] == ["vm", "vms"] and "virtualmachines/status" in short
