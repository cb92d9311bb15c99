# SPDX-License-Identifier: Apache-2.0
"""Instance types, preferences and DataVolumes as objects of the cluster, with a real API server. CDI is a stand-in: its
CRD without a program behind it; the test writes the phases that CDI would."""
import copy

import pytest

from controller_lab import DATA_VOLUMES, KUBEVIRT, MERGE, wait_for
from test_controller import VM, lab  # noqa: F401 (a fixture)
from test_crds import crds  # noqa: F401 (a fixture)

TYPES = "/apis/instancetype.kubevirt.io/v1beta1"


def failure(lab, name="vm"):  # noqa: F811
    return wait_for("condition", lambda: [c["message"] for c in ((lab.get("virtualmachines", name) or {}).get("status") or {}).get(
        "conditions", []) if c["type"] == "Failure" and c["status"] == "True"])[0]


def make(lab, plural, name, spec):  # noqa: F811
    """An instance type or preference; of the cluster, with the test's name in its own, or of the namespace."""
    cluster = "cluster" in plural
    path = f"{TYPES}/{plural}" if cluster else f"{TYPES}/namespaces/{lab.ns}/{plural}"
    kind = {"virtualmachineinstancetypes": "VirtualMachineInstancetype", "virtualmachinepreferences": "VirtualMachinePreference",
            "virtualmachineclusterinstancetypes": "VirtualMachineClusterInstancetype",
            "virtualmachineclusterpreferences": "VirtualMachineClusterPreference"}[plural]
    status, answer = lab.api.call("POST", path, {"apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": kind,
                                                 "metadata": {"name": name}, "spec": spec})
    assert status == 201, answer
    return f"{path}/{name}"


def typed_vm(name, kind=None, preference=None):
    vm = copy.deepcopy(VM)
    del vm["spec"]["template"]["spec"]["domain"]["memory"]
    vm["spec"]["instancetype"] = {"name": name} | ({"kind": kind} if kind else {})
    if preference:
        vm["spec"]["preference"] = preference
    return vm


SMALL = {"cpu": {"guest": 2}, "memory": {"guest": "192Mi"}}


def test_type_and_preference_are_merged_and_kept(lab):  # noqa: F811
    lab.controller()
    path = make(lab, "virtualmachineclusterinstancetypes", f"u1.{lab.ns}", SMALL)
    other = make(lab, "virtualmachinepreferences", "linux", {
        "cpu": {"preferredCPUTopology": "cores"}, "devices": {"preferredDiskBus": "sata", "preferredRng": {}}})
    vm = typed_vm(f"u1.{lab.ns}", preference={"name": "linux", "kind": "VirtualMachinePreference"})
    del vm["spec"]["template"]["spec"]["domain"]["devices"]["disks"][0]["disk"]["bus"]
    lab.make("virtualmachines", vm)
    vm = lab.vm_is("vm", "Running")
    vmi = lab.get("virtualmachineinstances", "vm")
    domain = vmi["spec"]["domain"]
    assert {k: int(domain["cpu"][k]) for k in ("sockets", "cores", "threads")} == {"sockets": 1, "cores": 2, "threads": 1}
    assert domain["memory"]["guest"] == "192Mi" and domain["devices"]["rng"] == {}
    assert domain["devices"]["disks"][0]["disk"]["bus"] == "sata"
    annotations = vmi["metadata"]["annotations"]
    assert annotations["kubevirt.io/cluster-instancetype-name"] == f"u1.{lab.ns}"
    assert annotations["kubevirt.io/preference-name"] == "linux"
    assert "instancetype" not in vmi["spec"]
    for what, live in (("instancetypeRef", path), ("preferenceRef", other)):
        ref = vm["status"][what]
        stored = lab.api.call("GET", live)[1]
        assert (ref["name"], ref["kind"]) == (stored["metadata"]["name"], stored["kind"])
        revision = lab.get("controllerrevisions", ref["controllerRevisionRef"]["name"])
        assert revision["data"]["spec"] == stored["spec"] and revision["data"]["kind"] == stored["kind"]
        assert revision["metadata"]["ownerReferences"][0]["uid"] == vm["metadata"]["uid"]
        assert revision["metadata"]["labels"]["instancetype.kubevirt.io/object-name"] == ref["name"]
        assert revision["metadata"]["labels"]["instancetype.kubevirt.io/object-uid"] == stored["metadata"]["uid"]
    # the type changes and then goes: the VM stays what it was
    assert lab.api.call("PATCH", path, {"spec": {"memory": {"guest": "1Gi"}}}, MERGE)[0] == 200
    assert lab.api.call("DELETE", other)[0] == 200
    first = vmi["metadata"]["uid"]
    lab.delete("virtualmachineinstances", "vm")
    again = wait_for("another instance", lambda: (lambda v: v if v and v["metadata"]["uid"] != first else None)(
        lab.get("virtualmachineinstances", "vm")))
    assert again["spec"]["domain"]["memory"]["guest"] == "192Mi" and again["spec"]["domain"]["devices"]["rng"] == {}
    # another type is another machine, at the next start
    path = make(lab, "virtualmachineinstancetypes", "mine", {"cpu": {"guest": 1}, "memory": {"guest": "160Mi"}})
    lab.patch("virtualmachines", "vm", {"spec": {"instancetype": {"name": "mine", "kind": "virtualmachineinstancetype"}}})
    wait_for("RestartRequired", lambda: [c for c in lab.get("virtualmachines", "vm")["status"]["conditions"]
                                         if c["type"] == "RestartRequired" and c["status"] == "True"])
    lab.delete("virtualmachineinstances", "vm")
    wait_for("the new type", lambda: (lambda v: v and v["spec"]["domain"]["memory"]["guest"] == "160Mi")(
        lab.get("virtualmachineinstances", "vm")))
    assert lab.get("virtualmachines", "vm")["status"]["instancetypeRef"]["kind"] == "VirtualMachineInstancetype"


def test_a_type_that_is_not_there_is_waited_for(lab):  # noqa: F811
    lab.controller()
    lab.make("virtualmachines", typed_vm("later", "VirtualMachineInstancetype"))
    assert 'there is no VirtualMachineInstancetype "later"' in failure(lab)
    assert lab.list("virtualmachineinstances") == [] and lab.list("controllerrevisions") == []
    make(lab, "virtualmachineinstancetypes", "later", SMALL)
    vm = lab.vm_is("vm", "Running")
    assert not [c for c in lab.settle("vm")["status"]["conditions"] if c["type"] == "Failure"]
    assert vm["status"]["instancetypeRef"]["name"] == "later"


@pytest.mark.parametrize("change,says", [
    (lambda vm: vm["spec"]["template"]["spec"]["domain"].update(memory={"guest": "1Gi"}), "is given by the instance type"),
    (lambda vm: vm["spec"]["instancetype"].update(kind="Secret"), '"Secret" is not known'),
    (lambda vm: vm["spec"].update(instancetype={"inferFromVolume": "root"}), 'no volume "root" with a claim'),
    (lambda vm: vm["spec"].update(instancetype={}), "name is missing"),
    (lambda vm: vm["spec"].update(instancetype={"name": "small", "kind": "VirtualMachineInstancetype", "revisionName": "old"}),
     "the ControllerRevision old"),
    (lambda vm: vm["spec"].update(preference={"name": "big", "kind": "VirtualMachinePreference"}), "memory"),
], ids=["conflict", "kind", "infer", "no-name", "revision", "requirements"])
def test_what_is_wrong_is_said(lab, change, says):  # noqa: F811
    make(lab, "virtualmachineinstancetypes", "small", SMALL)
    make(lab, "virtualmachinepreferences", "big", {"requirements": {"memory": {"guest": "64Gi"}}})
    lab.controller()
    vm = typed_vm("small", "VirtualMachineInstancetype")
    change(vm)
    lab.make("virtualmachines", vm)
    assert says in failure(lab)
    lab.settle("vm")
    assert lab.list("virtualmachineinstances") == [] and lab.list("pods") == []


def test_inferred_from_the_labels_of_a_claim(lab):  # noqa: F811
    lab.controller()
    make(lab, "virtualmachineinstancetypes", "small", SMALL)
    vm = typed_vm("x")
    vm["spec"]["template"]["spec"]["volumes"] = [{"name": "root", "persistentVolumeClaim": {"claimName": "disk"}}]
    vm["spec"]["instancetype"] = {"inferFromVolume": "root"}
    vm["spec"]["preference"] = {"inferFromVolume": "root", "inferFromVolumeFailurePolicy": "Ignore"}
    lab.make("virtualmachines", vm)
    assert "the volume claim disk is not there" in failure(lab)
    lab.make("persistentvolumeclaims", {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "disk", "labels": {
            "instancetype.kubevirt.io/default-instancetype": "small",
            "instancetype.kubevirt.io/default-instancetype-kind": "VirtualMachineInstancetype"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
    vm = lab.vm_is("vm", "Running")
    assert vm["status"]["instancetypeRef"]["name"] == "small" and "preferenceRef" not in vm["status"]
    assert lab.get("virtualmachineinstances", "vm")["spec"]["domain"]["memory"]["guest"] == "192Mi"


def test_killed_between_the_revisions(lab):  # noqa: F811
    """Whatever was kept when a controller died is used by the next one, and kept once."""
    make(lab, "virtualmachineinstancetypes", "small", SMALL)
    make(lab, "virtualmachinepreferences", "linux", {"cpu": {"preferredCPUTopology": "threads"}})
    names = [f"vm{i}" for i in range(4)]
    for name in names:
        vm = typed_vm("small", "VirtualMachineInstancetype", {"name": "linux", "kind": "VirtualMachinePreference"})
        lab.make("virtualmachines", vm, name=name)
    for i in range(8):
        c = lab.controller()
        wait_for("its page", lambda: c.port)
        lab.stop.wait(0.02 * i)
        c.process.kill()
        c.process.wait()
    lab.controller()
    for name in names:
        lab.vm_is(name, "Running", 180)
    revisions = [r for r in lab.list("controllerrevisions") if not r["metadata"]["name"].startswith("revision-start-vm-")]
    assert len(revisions) == 2 * len(names)


# ---- DataVolumes -----------------------------------------------------------------------------------------------------


@pytest.fixture
def cdi(crds):  # noqa: F811
    """`cdi()` installs the CRD."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

    def install():
        status, answer = crds.call("POST", path, DATA_VOLUMES)
        assert status == 201, answer

    yield install
    name = DATA_VOLUMES["metadata"]["name"]
    crds.call("DELETE", f"{path}/{name}")
    wait_for("its end", lambda: crds.call("GET", f"{path}/{name}")[0] == 404)


def disk_vm(**metadata):
    vm = copy.deepcopy(VM)
    vm["metadata"] |= metadata
    vm["spec"]["dataVolumeTemplates"] = [{"metadata": {"name": "disk", "labels": {"a": "b"}}, "spec": {
        "source": {"blank": {}}, "storage": {"resources": {"requests": {"storage": "1Gi"}}}}}]
    vm["spec"]["template"]["spec"]["volumes"] = [{"name": "root", "dataVolume": {"name": "disk"}}]
    return vm


CLAIM = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "disk"},
         "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}


def data_volume(lab, **status):  # noqa: F811
    path = f"/apis/cdi.kubevirt.io/v1beta1/namespaces/{lab.ns}/datavolumes/disk"
    if not status:
        code, answer = lab.api.call("GET", path)
        return answer if code == 200 else None
    code, answer = lab.api.call("PATCH", path, {"status": status}, MERGE)
    assert code == 200, answer
    return answer


def test_a_disk_is_made_and_waited_for(lab, cdi):  # noqa: F811
    lab.controller()
    lab.make("virtualmachines", disk_vm())
    vm = lab.vm_is("vm", "DataVolumeError")
    assert "CDI (cdi.kubevirt.io), which this cluster does not have" in failure(lab)
    assert lab.list("virtualmachineinstances") == []
    cdi()
    made = wait_for("DataVolume", lambda: data_volume(lab), 180)  # the controller asks again now and then
    assert made["spec"]["source"] == {"blank": {}} and made["metadata"]["labels"] == {
        "a": "b", "kubevirt.io/created-by": vm["metadata"]["uid"]}
    assert made["metadata"]["ownerReferences"][0]["uid"] == vm["metadata"]["uid"]
    vm = lab.vm_is("vm", "Provisioning")
    assert not [c for c in lab.settle("vm")["status"]["conditions"] if c["type"] == "Failure"]
    lab.make("persistentvolumeclaims", CLAIM)  # CDI's: it is there before it is filled
    data_volume(lab, phase="ImportInProgress")
    assert lab.settle("vm")["status"]["printableStatus"] == "Provisioning" and lab.list("virtualmachineinstances") == []
    data_volume(lab, phase="Failed", conditions=[{"type": "Running", "status": "False", "message": "no such image"}])
    lab.vm_is("vm", "DataVolumeError")
    assert "Failed: no such image" in failure(lab)
    data_volume(lab, phase="WaitForFirstConsumer", conditions=[])
    lab.vm_is("vm", "WaitingForVolumeBinding")
    assert "storage.bind.immediate.requested" in failure(lab)
    data_volume(lab, phase="Succeeded")
    lab.vm_is("vm", "Running")
    assert [e for e in lab.events("vm", "SuccessfulDataVolumeCreate")]


def test_a_claim_of_that_name_is_as_good(lab):  # noqa: F811
    """Without CDI, and without waiting."""
    lab.make("persistentvolumeclaims", CLAIM)
    lab.controller()
    lab.make("virtualmachines", disk_vm())
    lab.vm_is("vm", "Running")


def test_a_bare_instance_waits_for_its_disk(lab, cdi):  # noqa: F811
    cdi()
    lab.api.wait("CDI", "GET", "/apis/cdi.kubevirt.io/v1beta1/datavolumes", lambda status, _: status == 200)
    lab.make("persistentvolumeclaims", CLAIM)
    status, answer = lab.api.call("POST", f"/apis/cdi.kubevirt.io/v1beta1/namespaces/{lab.ns}/datavolumes", {
        "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume", "metadata": {"name": "disk"}, "spec": {}})
    assert status == 201, answer
    lab.controller()
    lab.make("virtualmachineinstances", {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {
        "name": "vm"}, "spec": disk_vm()["spec"]["template"]["spec"]})
    wait_for("condition", lambda: [c for c in (lab.get("virtualmachineinstances", "vm").get("status") or {}).get("conditions", [])
                                   if c.get("reason") == "Provisioning" and "the DataVolume disk" in c["message"]])
    assert lab.list("pods") == []
    data_volume(lab, phase="Succeeded")
    vmi = wait_for("Running", lambda: (lambda v: v if v["status"].get("phase") == "Running" else None)(
        lab.get("virtualmachineinstances", "vm")))
    assert not [c for c in vmi["status"]["conditions"] if c["type"] == "Synchronized"]


def test_a_halted_vm_may_have_its_disk_later(lab, cdi):  # noqa: F811
    cdi()
    lab.api.wait("CDI", "GET", "/apis/cdi.kubevirt.io/v1beta1/datavolumes", lambda status, _: status == 200)
    lab.controller()
    vm = disk_vm(annotations={"kubevirt.io/immediate-data-volume-creation": "false"})
    vm["spec"]["runStrategy"] = "Halted"
    lab.make("virtualmachines", vm)
    lab.vm_is("vm", "Stopped")
    lab.settle("vm")
    assert data_volume(lab) is None
    lab.patch("virtualmachines", "vm", {"spec": {"runStrategy": "Always"}})
    wait_for("DataVolume", lambda: data_volume(lab))


def test_a_migration_says_that_it_is_not_done(lab):  # noqa: F811
    lab.controller()
    path = f"{KUBEVIRT}/namespaces/{lab.ns}/virtualmachineinstancemigrations"
    status, answer = lab.api.call("POST", path, {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
                                                 "metadata": {"name": "m"}, "spec": {"vmiName": "vm"}})
    assert status == 201, answer
    said = wait_for("phase", lambda: (lab.api.call("GET", path + "/m")[1].get("status") or {}))
    assert said["phase"] == "Failed"
    assert [c for c in said["conditions"] if c["type"] == "Failure" and "not supported" in c["message"]]
