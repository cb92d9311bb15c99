# SPDX-License-Identifier: Apache-2.0
"""virt-controller with a real API server. Scheduler, kubelet and node agent are a stand-in (controller_lab.Node)."""
import copy
import threading
import time

import pytest
import yaml

from controller_lab import KUBEVIRT, MERGE, Controller, Node, Proxy, kubeconfig, wait_for
from test_crds import crds  # noqa: F401 (a fixture)

VM = yaml.safe_load("""
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: vm}
spec:
  runStrategy: Always
  template:
    metadata: {labels: {app: web}}
    spec:
      domain:
        memory: {guest: 128Mi}
        devices:
          disks: [{name: root, disk: {bus: virtio}}]
      volumes: [{name: root, containerDisk: {image: example/disk:1}}]
""")


class Lab:
    def __init__(self, api, tmp_path, namespace):
        self.api, self.tmp, self.ns = api, tmp_path, namespace
        self.config = kubeconfig(tmp_path / "kubeconfig", api.url, api.ca)
        self.node = Node(api, namespace)
        self.controllers, self.number = [], 0
        self.stop = threading.Event()

    def controller(self, *arguments, config=None, **options):
        self.number += 1
        c = Controller(config or self.config, self.tmp / f"controller-{self.number}.log", "--namespace", self.ns, *arguments,
                       **options)
        self.controllers.append(c)
        return c

    def path(self, plural, name=""):
        group = "/api/v1" if plural in ("pods", "events", "persistentvolumeclaims") else (
            "/apis/apps/v1" if plural == "controllerrevisions" else KUBEVIRT)
        return f"{group}/namespaces/{self.ns}/{plural}" + (f"/{name}" if name else "")

    def make(self, plural, body, **metadata):
        body = copy.deepcopy(body)
        body["metadata"] |= metadata
        status, answer = self.api.call("POST", self.path(plural), body)
        assert status == 201, answer
        return answer

    def get(self, plural, name):
        status, answer = self.api.call("GET", self.path(plural, name))
        return answer if status == 200 else None

    def list(self, plural):
        return self.api.call("GET", self.path(plural))[1]["items"]

    def patch(self, plural, name, body, sub=""):
        status, answer = self.api.call("PATCH", self.path(plural, name) + sub, body, MERGE)
        assert status == 200, answer
        return answer

    def delete(self, plural, name, **options):
        status, answer = self.api.call("DELETE", self.path(plural, name), options)
        assert status in (200, 202), answer

    def vm_is(self, name, printable, seconds=90):
        return wait_for(f"VM {name} {printable}", lambda: (
            lambda vm: vm if vm and vm.get("status", {}).get("printableStatus") == printable else None)(
                self.get("virtualmachines", name)), seconds)

    def gone(self, plural, name):
        wait_for(f"end of {plural}/{name}", lambda: self.get(plural, name) is None)

    def events(self, name, reason):
        return [e for e in self.list("events") if e["involvedObject"]["name"] == name and e["reason"] == reason]

    def settle(self, name):
        """The VM object does not change any more: what was to be written is written."""
        last = None
        for _ in range(200):
            vm = self.get("virtualmachines", name)
            if vm and vm["metadata"]["resourceVersion"] == last:
                return vm
            last = vm and vm["metadata"]["resourceVersion"]
            time.sleep(0.5)
        raise AssertionError(f"{name} changes for ever")

    def close(self):
        for c in self.controllers:
            c.stop()
        self.node.close()
        assert not self.node.twice, "two pods of one VMI at a time"
        for c in self.controllers:
            assert "AddressSanitizer" not in c.log.read_text() and "runtime error" not in c.log.read_text()


@pytest.fixture
def lab(crds, tmp_path, request):  # noqa: F811
    name = "t" + request.node.name.replace("_", "-").replace("[", "-").replace("]", "").lower()[:50].strip("-")
    status, answer = crds.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    assert status == 201, answer
    lab = Lab(crds, tmp_path, name)
    yield lab
    lab.close()


# ---- the way of a VM -------------------------------------------------------------------------------------------------


def test_a_vm_runs(lab):
    lab.controller()
    lab.make("virtualmachines", VM)
    lab.vm_is("vm", "Running")
    vm = wait_for("ready", lambda: (lambda v: v if v["status"].get("ready") else None)(lab.get("virtualmachines", "vm")))
    vmi, pod = lab.get("virtualmachineinstances", "vm"), lab.list("pods")[0]
    assert vm["metadata"]["finalizers"] == ["kubevirt.io/virtualMachineControllerFinalize"]
    assert vm["status"] | {"conditions": 0} == vm["status"] | {
        "conditions": 0, "created": True, "ready": True, "runStrategy": "Always", "printableStatus": "Running",
        "desiredGeneration": vm["metadata"]["generation"], "observedGeneration": vm["metadata"]["generation"]}
    assert {c["type"]: c["status"] for c in vm["status"]["conditions"]} == {"Ready": "True"}
    owner = vmi["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("VirtualMachine", vm["metadata"]["uid"], True)
    assert vmi["metadata"]["labels"] == {"app": "web", "kubevirt.io/nodeName": "node-1"}
    assert vmi["status"]["nodeName"] == "node-1" and vmi["status"]["activePods"] == {pod["metadata"]["uid"]: "node-1"}
    assert vmi["status"]["launcherContainerImageVersion"] == next(
        c["image"] for c in pod["spec"]["containers"] if c["name"] == "compute")
    assert [p["phase"] for p in vmi["status"]["phaseTransitionTimestamps"]] == ["Pending", "Scheduling", "Scheduled", "Running"]
    revision = lab.get("controllerrevisions", vmi["status"]["virtualMachineRevisionName"])
    assert revision["data"]["spec"]["template"]["spec"]["domain"]["memory"] == {"guest": "128Mi"}
    assert vmi["spec"]["domain"]["machine"] == {"type": "q35"} and vmi["spec"]["networks"] == [{"name": "default", "pod": {}}]
    assert pod["metadata"]["ownerReferences"][0]["uid"] == vmi["metadata"]["uid"]
    assert pod["metadata"]["name"].startswith("virt-launcher-vm-")
    assert {c["name"] for c in pod["spec"]["containers"]} == {"compute", "volumeroot"}
    created = lab.events("vm", "SuccessfulCreate")
    assert {e["message"] for e in created} == {
        "Started the virtual machine by creating the new virtual machine instance vm",
        f"Created virtual machine pod {pod['metadata']['name']}"}

    lab.delete("virtualmachines", "vm")
    for plural, name in (("virtualmachines", "vm"), ("virtualmachineinstances", "vm"), ("pods", pod["metadata"]["name"])):
        lab.gone(plural, name)
    assert lab.events("vm", "SuccessfulDelete")


def test_firmware_uuid_is_kubevirts(lab):
    lab.controller()
    lab.make("virtualmachines", VM, name="ubuntu-amd")
    lab.vm_is("ubuntu-amd", "Running")
    assert lab.get("virtualmachineinstances", "ubuntu-amd")["spec"]["domain"]["firmware"]["uuid"] == \
        "d3c2dac2-71b8-5a49-a5a6-7f3bdb93e2c3"


@pytest.mark.parametrize("way", ["running", "runStrategy"])
def test_stop_and_start_by_patch(lab, way):
    off, on = ({"running": False}, {"running": True}) if way == "running" else (
        {"runStrategy": "Halted"}, {"runStrategy": "Always"})
    lab.controller()
    vm = copy.deepcopy(VM)
    del vm["spec"]["runStrategy"]
    vm["spec"] |= off
    lab.make("virtualmachines", vm)
    lab.vm_is("vm", "Stopped")
    assert lab.get("virtualmachineinstances", "vm") is None
    lab.patch("virtualmachines", "vm", {"spec": on})
    lab.vm_is("vm", "Running")
    lab.patch("virtualmachines", "vm", {"spec": off})
    lab.vm_is("vm", "Stopped")
    lab.gone("virtualmachineinstances", "vm")
    assert lab.list("pods") == []


def test_restart_by_deleting_the_instance_with_the_new_template(lab):
    lab.controller()
    lab.make("virtualmachines", VM)
    lab.vm_is("vm", "Running")
    first = lab.get("virtualmachineinstances", "vm")["metadata"]["uid"]
    lab.patch("virtualmachines", "vm", {"spec": {"template": {"spec": {"domain": {"memory": {"guest": "256Mi"}}}}}})
    wait_for("RestartRequired", lambda: [c for c in lab.get("virtualmachines", "vm")["status"]["conditions"]
                                         if c["type"] == "RestartRequired" and c["status"] == "True"])
    lab.delete("virtualmachineinstances", "vm")
    second = wait_for("another instance", lambda: (
        lambda v: v if v and v["metadata"]["uid"] != first and v.get("status", {}).get("phase") == "Running" else None)(
            lab.get("virtualmachineinstances", "vm")))
    assert second["spec"]["domain"]["memory"] == {"guest": "256Mi"}
    wait_for("no RestartRequired", lambda: not [c for c in lab.get("virtualmachines", "vm")["status"]["conditions"]
                                                if c["type"] == "RestartRequired"])


def test_no_second_instance_while_the_first_is_there(lab):
    """Fencing: the pod of a node that does not answer stays, and so does the instance."""
    lab.controller()
    lab.make("virtualmachines", VM)
    lab.vm_is("vm", "Running")
    pod = lab.list("pods")[0]
    lab.patch("pods", pod["metadata"]["name"], {"metadata": {"finalizers": ["test.example/node-is-lost"]}})
    first = lab.get("virtualmachineinstances", "vm")["metadata"]["uid"]
    lab.delete("virtualmachineinstances", "vm")
    lab.vm_is("vm", "Stopping")
    wait_for("the pod's deletion", lambda: "deletionTimestamp" in (lab.get("pods", pod["metadata"]["name"]) or {})["metadata"])
    lab.settle("vm")
    assert lab.get("virtualmachineinstances", "vm")["metadata"]["uid"] == first
    assert len(lab.list("pods")) == 1
    lab.patch("pods", pod["metadata"]["name"], {"metadata": {"finalizers": None}})
    wait_for("another instance", lambda: (lambda v: v and v["metadata"]["uid"] != first)(lab.get("virtualmachineinstances", "vm")))


# ---- run strategies --------------------------------------------------------------------------------------------------


def end_guest(lab, phase, name="vm"):
    lab.node.phase(lab.get("virtualmachineinstances", name), phase)


def another(lab, first, name="vm"):
    return wait_for("another instance", lambda: (
        lambda v: v if v and v["metadata"]["uid"] != first and v.get("status", {}).get("phase") == "Running" else None)(
            lab.get("virtualmachineinstances", name)))


@pytest.mark.parametrize("strategy,phase,again", [
    ("Always", "Succeeded", True), ("Always", "Failed", True), ("RerunOnFailure", "Failed", True),
    ("RerunOnFailure", "Succeeded", False), ("Once", "Failed", False), ("Manual", "Failed", False)])
def test_when_the_guest_ends(lab, strategy, phase, again):
    lab.controller()
    vm = copy.deepcopy(VM)
    vm["spec"]["runStrategy"] = strategy
    lab.make("virtualmachines", vm)
    if strategy == "Manual":
        lab.vm_is("vm", "Stopped")
        lab.patch("virtualmachines", "vm", {"status": {"stateChangeRequests": [{"action": "Start"}]}}, "/status")
    lab.vm_is("vm", "Running")
    first = lab.get("virtualmachineinstances", "vm")["metadata"]["uid"]
    lab.settle("vm")
    end_guest(lab, phase)
    if again:
        another(lab, first)
        vm = lab.vm_is("vm", "Running")
        assert "startFailure" not in vm["status"]
    else:
        lab.vm_is("vm", "Stopped")
        vm, vmi = lab.settle("vm"), lab.get("virtualmachineinstances", "vm")
        if strategy == "RerunOnFailure":
            assert vmi is None
        else:
            assert vmi["metadata"]["uid"] == first
    assert not vm["status"].get("stateChangeRequests")


def test_requests(lab):
    lab.controller()
    vm = copy.deepcopy(VM)
    vm["spec"]["runStrategy"] = "Halted"
    lab.make("virtualmachines", vm)
    lab.vm_is("vm", "Stopped")
    lab.patch("virtualmachines", "vm", {"status": {"stateChangeRequests": [{"action": "Start"}]}}, "/status")
    lab.vm_is("vm", "Running")
    assert lab.get("virtualmachines", "vm")["spec"]["runStrategy"] == "Always"
    lab.patch("virtualmachines", "vm", {"spec": {"runStrategy": "Manual"}})
    first = lab.get("virtualmachineinstances", "vm")["metadata"]["uid"]
    lab.settle("vm")
    restart = [{"action": "Stop", "uid": first}, {"action": "Start", "data": {"paused": "true"}}]
    lab.patch("virtualmachines", "vm", {"status": {"stateChangeRequests": restart}}, "/status")
    assert another(lab, first)["spec"]["startStrategy"] == "Paused"
    wait_for("no request", lambda: not lab.get("virtualmachines", "vm")["status"].get("stateChangeRequests"))
    stale = [{"action": "Stop", "uid": first}]
    lab.patch("virtualmachines", "vm", {"status": {"stateChangeRequests": stale}}, "/status")
    wait_for("no request", lambda: not lab.get("virtualmachines", "vm")["status"].get("stateChangeRequests"))
    assert lab.vm_is("vm", "Running")


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_vm_that_cannot_start_backs_off_and_says_why(lab):
    lab.node.behave = lambda o: "fail"
    lab.controller()
    lab.make("virtualmachines", VM)
    vm = lab.vm_is("vm", "CrashLoopBackOff")
    failure = vm["status"]["startFailure"]
    assert failure["consecutiveFailCount"] == 1
    why = [c for c in vm["status"]["conditions"] if c["type"] == "Failure"][0]
    assert why["status"] == "True" and "qemu: cannot open the disk: no such file" in why["message"]
    event = wait_for("event", lambda: lab.events("vm", "StartFailed"))[0]
    assert event["type"] == "Warning" and "cannot open the disk" in event["message"]
    lab.node.behave = lambda o: "run"
    vm = lab.vm_is("vm", "Running", 120)
    vm = lab.settle("vm")
    assert "startFailure" not in vm["status"] and not [c for c in vm["status"]["conditions"] if c["type"] == "Failure"]
    started = [e for e in lab.events("vm", "SuccessfulCreate") if "Started" in e["message"]]
    assert sum(e["count"] for e in started) == 2


@pytest.mark.parametrize("how,printable,says", [
    ("unschedulable", "ErrorUnschedulable", "Insufficient memory"), ("image", "ImagePullBackOff", "nowhere/disk")])
def test_what_a_person_must_do(lab, how, printable, says):
    lab.node.behave = lambda o: how
    lab.controller()
    lab.make("virtualmachines", VM)
    vm = lab.vm_is("vm", printable)
    assert [c for c in vm["status"]["conditions"] if says in c.get("message", "")]
    lab.delete("virtualmachines", "vm")
    lab.gone("virtualmachines", "vm")
    assert lab.list("pods") == []


def test_a_claim_that_is_not_there_is_waited_for(lab):
    lab.controller()
    vm = copy.deepcopy(VM)
    vm["spec"]["template"]["spec"]["volumes"] = [{"name": "root", "persistentVolumeClaim": {"claimName": "disk"}}]
    lab.make("virtualmachines", vm)
    vm = lab.vm_is("vm", "ErrorPvcNotFound")
    assert [c for c in vm["status"]["conditions"] if c.get("message") == "the volume claim disk is not there"]
    assert lab.list("pods") == []
    lab.make("persistentvolumeclaims", {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "disk"},
        "spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Block", "resources": {"requests": {"storage": "1Gi"}}}})
    lab.vm_is("vm", "Running")
    compute = lab.list("pods")[0]["spec"]["containers"][0]
    assert compute["volumeDevices"] == [{"name": "root", "devicePath": "/dev/root"}]

    # what the claim offers is in the instance's status, and follows it
    def info():
        volumes = lab.get("virtualmachineinstances", "vm")["status"].get("volumeStatus", [])
        return next((v["persistentVolumeClaimInfo"] for v in volumes if v["name"] == "root"), None)

    offers = {"claimName": "disk", "accessModes": ["ReadWriteOnce"], "volumeMode": "Block", "filesystemOverhead": "0",
              "requests": {"storage": "1Gi"}}
    assert info() == offers
    status, answer = lab.api.call("PATCH", lab.path("persistentvolumeclaims", "disk") + "/status",
                                  {"status": {"phase": "Bound", "capacity": {"storage": "2Gi"}}}, MERGE)
    assert status == 200, answer
    wait_for("the capacity", lambda: info() == offers | {"capacity": {"storage": "2Gi"}})


def test_a_manifest_that_cannot_be_run(lab):
    lab.controller()
    vm = copy.deepcopy(VM)
    vm["spec"]["template"]["spec"]["domain"]["launchSecurity"] = {"sev": {}}
    lab.make("virtualmachines", vm)
    vm = lab.vm_is("vm", "CrashLoopBackOff")
    why = [c for c in vm["status"]["conditions"] if c["type"] == "Failure"][0]["message"]
    assert "launchSecurity" in why
    assert lab.list("pods") == []


def test_a_refused_pod_is_said_and_tried_again(lab):
    """By Pod Security: a disk on the node's file system, in a namespace that forbids it at first."""
    namespace = f"/api/v1/namespaces/{lab.ns}"

    def enforce(level):
        status, _ = lab.api.call("PATCH", namespace, {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}}, MERGE)
        assert status == 200

    enforce("restricted")
    probe = {"metadata": {"name": "probe"}, "spec": {"containers": [{"name": "c", "image": "i", "securityContext": {"privileged": True}}]}}
    wait_for("Pod Security", lambda: lab.api.call("POST", f"{namespace}/pods?dryRun=All", probe)[0] == 403)
    lab.controller()
    vm = copy.deepcopy(VM)
    vm["spec"]["template"]["spec"]["volumes"] = [{"name": "root", "hostDisk": {"path": "/srv/disk.img", "type": "Disk"}}]
    lab.make("virtualmachines", vm)
    event = wait_for("event", lambda: lab.events("vm", "FailedCreate"))[0]
    assert "violates PodSecurity" in event["message"] and event["type"] == "Warning", event
    wait_for("condition", lambda: [c for c in (lab.get("virtualmachineinstances", "vm") or {}).get("status", {}).get(
        "conditions", []) if c["type"] == "Synchronized" and "violates PodSecurity" in c["message"]])
    wait_for("the same on the VM", lambda: [c for c in lab.get("virtualmachines", "vm")["status"]["conditions"]
                                            if "violates PodSecurity" in c.get("message", "")])
    enforce("privileged")
    lab.vm_is("vm", "Running", 180)
    wait_for("no such condition", lambda: not [c for c in lab.get("virtualmachines", "vm")["status"]["conditions"]
                                               if c["type"] == "Synchronized"])


def test_pod_that_vanishes_fails_the_instance(lab):
    lab.controller()
    vm = copy.deepcopy(VM)
    vm["spec"]["runStrategy"] = "Once"
    lab.make("virtualmachines", vm)
    lab.vm_is("vm", "Running")
    pod = lab.list("pods")[0]["metadata"]["name"]
    lab.delete("pods", pod, gracePeriodSeconds=0)
    wait_for("phase Failed", lambda: lab.get("virtualmachineinstances", "vm")["status"]["phase"] == "Failed")
    assert lab.vm_is("vm", "Stopped") and lab.list("pods") == []


# ---- owners ----------------------------------------------------------------------------------------------------------


def test_orphan_and_adoption(lab):
    lab.controller()
    lab.make("virtualmachines", VM)
    lab.vm_is("vm", "Running")
    vmi = lab.get("virtualmachineinstances", "vm")
    lab.delete("virtualmachines", "vm", propagationPolicy="Orphan")
    # what the garbage collector of a whole cluster does: takes the reference away, then its finalizer
    wait_for("the controller's finalizer to go", lambda: lab.get("virtualmachines", "vm")["metadata"]["finalizers"] == ["orphan"])
    lab.patch("virtualmachineinstances", "vm", {"metadata": {"ownerReferences": None}})
    lab.patch("virtualmachines", "vm", {"metadata": {"finalizers": None}})
    lab.gone("virtualmachines", "vm")
    assert lab.get("virtualmachineinstances", "vm")["metadata"]["uid"] == vmi["metadata"]["uid"]
    new = lab.make("virtualmachines", VM)
    lab.vm_is("vm", "Running")
    after = lab.get("virtualmachineinstances", "vm")
    assert after["metadata"]["uid"] == vmi["metadata"]["uid"]
    assert after["metadata"]["ownerReferences"][0]["uid"] == new["metadata"]["uid"]


def test_a_name_that_another_owner_has(lab):
    lab.controller()
    owner = lab.make("virtualmachines", VM, name="other")
    lab.vm_is("other", "Running")
    foreign = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {
        "name": "vm", "ownerReferences": [{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "other",
                                           "uid": owner["metadata"]["uid"], "controller": True}]},
        "spec": VM["spec"]["template"]["spec"]}
    lab.make("virtualmachineinstances", foreign)
    lab.make("virtualmachines", VM)
    failure = wait_for("condition", lambda: [c for c in (lab.get("virtualmachines", "vm").get("status") or {}).get("conditions", [])
                                             if c["type"] == "Failure"])
    assert "belongs to VirtualMachine other" in failure[0]["message"]


def test_a_bare_instance_with_a_preset(lab):
    lab.make("virtualmachineinstancepresets", {
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstancePreset", "metadata": {"name": "small"},
        "spec": {"selector": {"matchLabels": {"size": "small"}}, "domain": {"resources": {"requests": {"memory": "64M"}}}}})
    lab.controller()
    wait_for("ready", lambda: lab.controllers[0].metrics()["kubevirt_virt_controller_ready_status"] == 1)
    lab.make("virtualmachineinstances", {
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "testvm", "labels": {"size": "small"}},
        "spec": {"domain": {"devices": {"disks": [{"name": "d", "disk": {"bus": "virtio"}}]}},
                 "volumes": [{"name": "d", "containerDisk": {"image": "example/disk:1"}}]}})
    vmi = wait_for("Running", lambda: (lambda v: v if v.get("status", {}).get("phase") == "Running" else None)(
        lab.get("virtualmachineinstances", "testvm")))
    assert vmi["spec"]["domain"]["resources"]["requests"]["memory"] == "64M"
    assert vmi["metadata"]["annotations"]["virtualmachinepreset.kubevirt.io/small"] == "kubevirt.io/v1"
    assert vmi["metadata"]["finalizers"] == ["kubevirt.io/foregroundDeleteVirtualMachine"]
    lab.delete("virtualmachineinstances", "testvm")
    lab.gone("virtualmachineinstances", "testvm")
    assert lab.list("pods") == []


def replica_set(n):
    template = {"metadata": {"labels": {"app": "set"}}, "spec": VM["spec"]["template"]["spec"]}
    return {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceReplicaSet", "metadata": {"name": "set"},
            "spec": {"replicas": n, "selector": {"matchLabels": {"app": "set"}}, "template": template}}


def test_replica_set(lab):
    plural = "virtualmachineinstancereplicasets"
    lab.controller()
    lab.make(plural, replica_set(3))

    def has(n, ready=None):
        status = lab.get(plural, "set").get("status", {})
        return status.get("replicas") == n and status.get("readyReplicas") == (n if ready is None else ready)

    wait_for("3 ready", lambda: has(3))
    assert lab.get(plural, "set")["status"]["labelSelector"] == "app=set"
    assert len(lab.list("virtualmachineinstances")) == 3
    status, scale = lab.api.call("PATCH", lab.path(plural, "set") + "/scale", {"spec": {"replicas": 5}}, MERGE)
    assert status == 200
    wait_for("5 ready", lambda: has(5))
    one = lab.list("virtualmachineinstances")[0]
    lab.node.phase(one, "Failed")
    wait_for("replacement", lambda: has(5) and lab.get("virtualmachineinstances", one["metadata"]["name"]) is None or
             (lab.get("virtualmachineinstances", one["metadata"]["name"]) or one)["metadata"]["uid"] != one["metadata"]["uid"])
    lab.patch(plural, "set", {"spec": {"replicas": 1}})
    wait_for("1 left", lambda: has(1) and len(lab.list("virtualmachineinstances")) == 1)
    lab.patch(plural, "set", {"spec": {"replicas": 2, "paused": True}})
    wait_for("ReplicaPaused", lambda: [c for c in lab.get(plural, "set")["status"].get("conditions", [])
                                       if c["type"] == "ReplicaPaused"])
    assert len(lab.list("virtualmachineinstances")) == 1


# ---- bad network, and other controllers ------------------------------------------------------------------------------


def proxied(lab):
    target = int(lab.api.url.rsplit(":", 1)[1])
    proxy = Proxy(target)
    config = kubeconfig(lab.tmp / "proxied", f"https://127.0.0.1:{proxy.port}", lab.api.ca)
    return proxy, config


def check_all_run(lab, names):
    for name in names:
        lab.vm_is(name, "Running", 180)
    assert len(lab.list("pods")) == len(names) and not lab.node.twice
    uids = {v["metadata"]["uid"] for v in lab.list("virtualmachineinstances")}
    assert sorted(lab.node.made.values()) == sorted(uids), "an instance had more than one pod"


def check_all_go(lab, names):
    for name in names:
        lab.delete("virtualmachines", name)
    for name in names:
        lab.gone("virtualmachines", name)
    assert lab.list("virtualmachineinstances") == [] and wait_for("no pods", lambda: lab.list("pods") == [])


def test_connections_cut_all_the_time(lab):
    proxy, config = proxied(lab)
    lab.controller(config=config)
    names = [f"vm{i}" for i in range(8)]
    stop = threading.Event()

    def cutter():
        while not stop.wait(0.25):
            proxy.cut()

    t = threading.Thread(target=cutter)
    t.start()
    try:
        for name in names:
            lab.make("virtualmachines", VM, name=name)
        stop.wait(8)
    finally:
        stop.set()
        t.join()
    check_all_run(lab, names)
    check_all_go(lab, names)
    proxy.close()


def test_every_connection_ends_after_some_bytes(lab):
    """Each connection gives a few bytes more than the one before it: TLS, HTTP/2 headers and JSON are all cut."""
    proxy, config = proxied(lab)
    lab.controller(config=config)
    names = [f"vm{i}" for i in range(4)]
    for name in names:
        lab.make("virtualmachines", VM, name=name)
    for limit in list(range(500, 30000, 1709)):
        proxy.limit = limit
        proxy.cut()
        threading.Event().wait(0.15)
    proxy.limit = None
    proxy.cut()
    check_all_run(lab, names)
    check_all_go(lab, names)
    proxy.close()


def test_api_server_gone_for_a_while(lab):
    proxy, config = proxied(lab)
    c = lab.controller(config=config)
    lab.make("virtualmachines", VM, name="before")
    lab.vm_is("before", "Running")
    proxy.refuse = True
    proxy.cut()
    lab.make("virtualmachines", VM, name="during")
    lab.delete("virtualmachineinstances", "before")
    threading.Event().wait(20)
    assert c.process.poll() is None and c.page("/healthz") == "ok\n"
    assert lab.get("virtualmachineinstances", "during") is None
    proxy.refuse = False
    for name in ("before", "during"):
        lab.vm_is(name, "Running", 120)
    check_all_go(lab, ["before", "during"])
    proxy.close()


def test_slow_answers(lab):
    proxy, config = proxied(lab)
    proxy.delay = 0.4
    lab.controller(config=config)
    names = [f"vm{i}" for i in range(4)]
    for name in names:
        lab.make("virtualmachines", VM, name=name)
    check_all_run(lab, names)
    proxy.delay = 0
    check_all_go(lab, names)
    proxy.close()


def test_conflict_storm(lab):
    """Somebody changes the objects without pause: every status write can meet a newer version."""
    c = lab.controller()
    names = [f"vm{i}" for i in range(4)]
    stop = threading.Event()

    def stir(name):
        n = 0
        while not stop.is_set():
            n += 1
            for plural in ("virtualmachines", "virtualmachineinstances"):
                lab.api.call("PATCH", lab.path(plural, name), {"metadata": {"annotations": {"n": str(n)}}}, MERGE)

    threads = [threading.Thread(target=stir, args=(n,)) for n in names]
    for name in names:
        lab.make("virtualmachines", VM, name=name)
    for t in threads:
        t.start()
    try:
        check_all_run(lab, names)
    finally:
        stop.set()
        for t in threads:
            t.join()
    conflicts = c.metrics()["vmlet_controller_conflicts_total"]
    check_all_go(lab, names)
    assert conflicts > 0  # else nothing was tried


def test_killed_between_two_writes(lab):
    """A controller that dies at any time leaves nothing that the next one does not finish."""
    names = [f"vm{i}" for i in range(10)]
    for name in names:
        lab.make("virtualmachines", VM, name=name)
    for i in range(12):
        c = lab.controller()
        threading.Event().wait(0.05 + 0.03 * i)
        c.process.kill()
        c.process.wait()
    lab.controller()
    check_all_run(lab, names)
    check_all_go(lab, names)


def test_two_replicas_one_leader(lab):
    lease = ("--lease-namespace", lab.ns)
    a = lab.controller(*lease, "--identity", "a", lease=True)
    wait_for("a leads", lambda: a.metrics()["kubevirt_virt_controller_leading_status"] == 1)
    b = lab.controller(*lease, "--identity", "b", lease=True)
    wait_for("b is ready", lambda: b.metrics()["kubevirt_virt_controller_ready_status"] == 1)
    lab.make("virtualmachines", VM)
    lab.vm_is("vm", "Running")
    assert b.metrics()["kubevirt_virt_controller_leading_status"] == 0 and b.metrics()["vmlet_controller_writes_total"] == 0
    started = time.monotonic()
    assert a.stop() == 0  # it gives the lease away
    wait_for("b leads", lambda: b.metrics()["kubevirt_virt_controller_leading_status"] == 1)
    assert time.monotonic() - started < 14, "an orderly end makes the next one wait for the lease to expire"
    lab.make("virtualmachines", VM, name="second")
    lab.vm_is("second", "Running")
    c = lab.controller(*lease, "--identity", "c", lease=True)
    wait_for("c is ready", lambda: c.metrics()["kubevirt_virt_controller_ready_status"] == 1)
    b.process.kill()
    b.process.wait()
    wait_for("c leads", lambda: c.metrics()["kubevirt_virt_controller_leading_status"] == 1)
    lab.patch("virtualmachines", "vm", {"spec": {"runStrategy": "Halted"}})
    lab.vm_is("vm", "Stopped")


def test_leader_that_is_cut_off_ends(lab):
    proxy, config = proxied(lab)
    a = lab.controller("--lease-namespace", lab.ns, "--identity", "a", lease=True, config=config)
    wait_for("a leads", lambda: a.metrics()["kubevirt_virt_controller_leading_status"] == 1)
    proxy.refuse = True
    proxy.cut()
    assert a.process.wait(60) == 1
    assert "is lost" in a.log.read_text()
    proxy.close()


def test_health_and_metrics(lab):
    c = lab.controller()
    wait_for("ready", lambda: c.metrics()["kubevirt_virt_controller_ready_status"] == 1)
    assert c.page("/healthz") == "ok\n" and c.page("/readyz") == "ok\n"
    lab.make("virtualmachines", VM)
    lab.vm_is("vm", "Running")
    m = c.metrics()
    assert m['vmlet_controller_objects{resource="virtualmachines"}'] == 1
    assert m['vmlet_controller_requests_total{verb="create"}'] >= 3
    assert m["process_resident_memory_bytes"] > 1 << 20
