# SPDX-License-Identifier: Apache-2.0
"""The life of a VM in the controller, as a person at kubectl sees and changes it: all run strategies, requests, deletion
by force, revisions, conditions, columns, what `kubectl describe` says. With a real API server and kubectl; scheduler,
kubelet and node agent are a stand-in (controller_lab.Node)."""
import copy
import json
import subprocess

import pytest
import yaml

import binaries
from controller_lab import MERGE, wait_for
from test_controller import VM, another, end_guest, lab, replica_set  # noqa: F401 (lab: a fixture)
from test_crds import crds  # noqa: F401 (a fixture)

START, STOP = [{"action": "Start"}], "Stop"


def kubectl(lab, *arguments, check=True, stdin=None):  # noqa: F811
    done = subprocess.run([binaries.control_plane() / "kubectl", "--kubeconfig", lab.config, "--namespace", lab.ns, *arguments],
                          input=stdin, capture_output=True, text=True, timeout=120, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def vm_of(strategy):
    vm = copy.deepcopy(VM)
    vm["spec"]["runStrategy"] = strategy
    return vm


def request(lab, *requests):  # noqa: F811
    lab.patch("virtualmachines", "vm", {"status": {"stateChangeRequests": list(requests)}}, "/status")


def no_request(lab):  # noqa: F811
    wait_for("the request to be done", lambda: not lab.get("virtualmachines", "vm")["status"].get("stateChangeRequests"))


# For each strategy: does a new VM start by itself; what is left after a stop request; after the instance's deletion by hand.
STRATEGIES = {
    "Always": (True, "again", "again"),
    "RerunOnFailure": (True, "stays off", "stays off"),
    "Manual": (False, "stays off", "stays off"),
    "Halted": (False, None, None),
    "Once": (True, None, "again"),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategy(lab, strategy):  # noqa: F811
    """From its making to Halted and back, with requests in between."""
    starts, after_stop, after_delete = STRATEGIES[strategy]
    lab.controller()
    lab.make("virtualmachines", vm_of(strategy))
    if not starts:
        lab.vm_is("vm", "Stopped")
        lab.settle("vm")
        assert lab.get("virtualmachineinstances", "vm") is None
        request(lab, *START)
    vm = lab.vm_is("vm", "Running")
    no_request(lab)
    lab.settle("vm")
    if strategy == "Halted":  # a start request is a change of mind
        assert lab.get("virtualmachines", "vm")["spec"]["runStrategy"] == "Always"
    for what, after in (("stop", after_stop), ("delete", after_delete)):
        if after is None:
            continue
        first = lab.get("virtualmachineinstances", "vm")["metadata"]["uid"]
        if what == "stop":
            request(lab, {"action": STOP, "uid": first})
        else:
            lab.delete("virtualmachineinstances", "vm")
        if after == "again":
            another(lab, first)
            lab.settle("vm")
        else:
            lab.gone("virtualmachineinstances", "vm")
            lab.vm_is("vm", "Stopped")
            lab.settle("vm")
            assert lab.get("virtualmachineinstances", "vm") is None
            request(lab, *START)
            lab.vm_is("vm", "Running")
            lab.settle("vm")
        no_request(lab)
    lab.patch("virtualmachines", "vm", {"spec": {"runStrategy": "Halted"}})
    vm = lab.vm_is("vm", "Stopped")
    lab.gone("virtualmachineinstances", "vm")
    assert lab.list("pods") == []
    wait_for("the strategy in the status", lambda: lab.get("virtualmachines", "vm")["status"]["runStrategy"] == "Halted")
    lab.patch("virtualmachines", "vm", {"spec": {"runStrategy": "Always"}})
    lab.vm_is("vm", "Running")


def test_kubectl_patch_between_running_and_run_strategy(lab):  # noqa: F811
    """The ways of the documents: `kubectl patch --type merge`; from one field to the other in one patch."""
    lab.controller()
    vm = copy.deepcopy(VM)
    del vm["spec"]["runStrategy"]
    vm["spec"]["running"] = True
    kubectl(lab, "create", "-f", "-", stdin=yaml.safe_dump(vm))
    lab.vm_is("vm", "Running")
    kubectl(lab, "patch", "vm", "vm", "--type", "merge", "-p", '{"spec":{"running":false}}')
    lab.vm_is("vm", "Stopped")
    kubectl(lab, "patch", "vm", "vm", "--type", "merge", "-p", '{"spec":{"running":null,"runStrategy":"Always"}}')
    lab.vm_is("vm", "Running")
    done = subprocess.run([binaries.control_plane() / "kubectl", "--kubeconfig", lab.config, "--namespace", lab.ns, "patch", "vm", "vm",
                           "--type", "merge", "-p", '{"spec":{"running":true}}'], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "one of running and runStrategy must be given" in done.stderr
    request(lab, {"action": STOP, "uid": lab.get("virtualmachineinstances", "vm")["metadata"]["uid"]})
    no_request(lab)
    assert "running" not in lab.get("virtualmachines", "vm")["spec"]


# ---- deletion --------------------------------------------------------------------------------------------------------


def test_force_delete_of_an_instance(lab):  # noqa: F811
    """`kubectl delete vmi --force --grace-period=0`: the guest gets no time, the objects go in order all the same."""
    lab.controller()
    lab.make("virtualmachines", VM)
    lab.vm_is("vm", "Running")
    first = lab.get("virtualmachineinstances", "vm")["metadata"]["uid"]
    kubectl(lab, "delete", "vmi", "vm", "--force", "--grace-period=0", "--wait=false")
    second = another(lab, first)
    wait_for("one pod", lambda: [p["metadata"]["ownerReferences"][0]["uid"] for p in lab.list("pods")] == [second["metadata"]["uid"]])


def test_force_delete_of_a_vm(lab):  # noqa: F811
    lab.controller()
    lab.make("virtualmachines", VM)
    lab.vm_is("vm", "Running")
    kubectl(lab, "delete", "vm", "vm", "--force", "--grace-period=0", "--wait=false")
    for plural in ("virtualmachines", "virtualmachineinstances"):
        lab.gone(plural, "vm")
    wait_for("no pod", lambda: lab.list("pods") == [])


def test_a_vm_that_goes_is_terminating_until_its_pod_is_gone(lab):  # noqa: F811
    lab.controller()
    lab.make("virtualmachines", VM)
    lab.vm_is("vm", "Running")
    pod = lab.list("pods")[0]["metadata"]["name"]
    lab.patch("pods", pod, {"metadata": {"finalizers": ["test.example/node-is-lost"]}})
    kubectl(lab, "delete", "vm", "vm", "--wait=false")
    lab.vm_is("vm", "Terminating")
    assert lab.settle("vm")["metadata"]["finalizers"] == ["kubevirt.io/virtualMachineControllerFinalize"]
    vmi = lab.get("virtualmachineinstances", "vm")
    assert vmi["metadata"]["finalizers"] == ["kubevirt.io/foregroundDeleteVirtualMachine"] and "deletionTimestamp" in vmi["metadata"]
    # a VM of the same name is not to be had before; the API server sees to it
    assert lab.api.call("POST", lab.path("virtualmachines"), VM)[0] == 409
    lab.patch("pods", pod, {"metadata": {"finalizers": None}})
    for plural in ("virtualmachines", "virtualmachineinstances"):
        lab.gone(plural, "vm")
    lab.make("virtualmachines", VM)
    lab.vm_is("vm", "Running")


def test_halted_while_it_starts(lab):  # noqa: F811
    """In each phase before Running, the way back is as short."""
    lab.controller()
    for how in ("pending", "unschedulable", "image", "hold"):
        lab.node.behave = lambda o, how=how: how
        lab.make("virtualmachines", VM, name=how)
        wait_for("its pod", lambda: [p for p in lab.list("pods") if p["metadata"]["labels"]["vm.kubevirt.io/name"] == how])
        lab.patch("virtualmachines", how, {"spec": {"runStrategy": "Halted"}})
        lab.vm_is(how, "Stopped")
        lab.gone("virtualmachineinstances", how)
        wait_for("no pod", lambda: lab.list("pods") == [])


def test_a_stop_request_during_a_stop(lab):  # noqa: F811
    """One deletion, one event, whatever comes on top of it."""
    lab.controller()
    lab.make("virtualmachines", vm_of("Manual"))
    lab.vm_is("vm", "Stopped")
    request(lab, *START)
    lab.vm_is("vm", "Running")
    lab.settle("vm")
    first = lab.get("virtualmachineinstances", "vm")["metadata"]["uid"]
    pod = lab.list("pods")[0]["metadata"]["name"]
    lab.patch("pods", pod, {"metadata": {"finalizers": ["test.example/slow"]}})
    request(lab, {"action": STOP, "uid": first})
    lab.vm_is("vm", "Stopping")
    request(lab, {"action": STOP, "uid": first}, {"action": "Start"})
    lab.settle("vm")
    lab.patch("pods", pod, {"metadata": {"finalizers": None}})
    another(lab, first)
    no_request(lab)
    stopped = [e for e in lab.events("vm", "SuccessfulDelete") if e["message"].startswith("Stopped")]
    assert sum(e["count"] for e in stopped) == 1


# ---- revisions -------------------------------------------------------------------------------------------------------


def test_a_revision_for_each_generation_that_was_started(lab):  # noqa: F811
    lab.controller()
    lab.make("virtualmachines", VM)
    lab.vm_is("vm", "Running")
    vm = lab.settle("vm")
    name = lambda generation: f"revision-start-vm-{vm['metadata']['uid']}-{generation}"  # noqa: E731
    assert [r["metadata"]["name"] for r in lab.list("controllerrevisions")] == [name(1)]
    assert lab.get("virtualmachineinstances", "vm")["status"]["virtualMachineRevisionName"] == name(1)
    lab.patch("virtualmachines", "vm", {"spec": {"template": {"spec": {"domain": {"memory": {"guest": "256Mi"}}}}}})
    vm = wait_for("RestartRequired", lambda: (lambda v: v if [c for c in v["status"]["conditions"] if c["type"] == "RestartRequired"]
                                              else None)(lab.get("virtualmachines", "vm")))
    assert (vm["status"]["observedGeneration"], vm["status"]["desiredGeneration"]) == (1, 2)
    assert len(lab.list("controllerrevisions")) == 1  # nothing was started of the second
    first = lab.get("virtualmachineinstances", "vm")["metadata"]["uid"]
    lab.delete("virtualmachineinstances", "vm")
    again = another(lab, first)
    assert again["metadata"]["annotations"]["kubevirt.io/vm-generation"] == "2"
    assert sorted(r["metadata"]["name"] for r in lab.list("controllerrevisions")) == [name(1), name(2)]
    memory = {r["metadata"]["name"]: r["data"]["spec"]["template"]["spec"]["domain"]["memory"]["guest"]
              for r in lab.list("controllerrevisions")}
    assert memory == {name(1): "128Mi", name(2): "256Mi"}
    assert all(r["metadata"]["ownerReferences"][0]["uid"] == vm["metadata"]["uid"] for r in lab.list("controllerrevisions"))
    vm = lab.settle("vm")
    assert (vm["status"]["observedGeneration"], vm["status"]["desiredGeneration"]) == (2, 2)
    # a template that is put back as it was asks for no restart
    lab.patch("virtualmachines", "vm", {"spec": {"template": {"spec": {"domain": {"memory": {"guest": "128Mi"}}}}}})
    wait_for("RestartRequired", lambda: [c for c in lab.get("virtualmachines", "vm")["status"]["conditions"] if c["type"] == "RestartRequired"])
    lab.patch("virtualmachines", "vm", {"spec": {"template": {"spec": {"domain": {"memory": {"guest": "256Mi"}}}}}})
    wait_for("no RestartRequired", lambda: not [c for c in lab.get("virtualmachines", "vm")["status"]["conditions"]
                                                if c["type"] == "RestartRequired"])


# ---- what a person sees ----------------------------------------------------------------------------------------------


def table(text):
    """Rows of a kubectl table, by its header's columns, which start where the header's words do."""
    lines = text.splitlines()
    starts = [i for i, c in enumerate(lines[0]) if c != " " and (i == 0 or lines[0][i - 1] == " ")]
    cut = lambda line: [line[a:b].strip() for a, b in zip(starts, starts[1:] + [None])]  # noqa: E731
    return [dict(zip(cut(lines[0]), cut(line))) for line in lines[1:]]


def test_columns(lab):  # noqa: F811
    lab.controller()
    lab.make("virtualmachines", VM, name="up")
    lab.make("virtualmachines", vm_of("Halted"), name="off")
    lab.vm_is("up", "Running")
    lab.vm_is("off", "Stopped")
    wait_for("ready", lambda: lab.get("virtualmachines", "up")["status"]["ready"])
    header = kubectl(lab, "get", "vm").splitlines()[0].split()
    assert header == ["NAME", "AGE", "STATUS", "READY"]
    rows = {r["NAME"]: r for r in table(kubectl(lab, "get", "vms"))}
    assert (rows["up"]["STATUS"], rows["up"]["READY"]) == ("Running", "True")
    assert (rows["off"]["STATUS"], rows["off"]["READY"]) == ("Stopped", "False")
    assert kubectl(lab, "get", "vmi").splitlines()[0].split() == ["NAME", "AGE", "PHASE", "IP", "NODENAME", "READY",
                                                                         "LIVE-MIGRATABLE", "PAUSED"]
    row = table(kubectl(lab, "get", "vmis"))[0]
    assert (row["NAME"], row["PHASE"], row["IP"], row["NODENAME"], row["READY"]) == ("up", "Running", "10.1.2.3", "node-1", "True")
    assert {"virtualmachine.kubevirt.io/up", "virtualmachineinstance.kubevirt.io/up"} <= set(kubectl(lab, "get", "all", "-o", "name").split())
    subprocess.run([binaries.control_plane() / "kubectl", "--kubeconfig", lab.config, "-n", lab.ns, "wait", "vm/up", "--for=condition=Ready",
                    "--timeout=60s"], check=True, capture_output=True)


def test_paused(lab):  # noqa: F811
    """Paused by the node agent's condition: the VM says so, and the pod gets no traffic."""
    lab.controller()
    lab.make("virtualmachines", VM)
    lab.vm_is("vm", "Running")
    wait_for("ready", lambda: lab.get("virtualmachines", "vm")["status"]["ready"])

    def gate():
        found = [c for c in lab.list("pods")[0]["status"]["conditions"] if c["type"] == "kubevirt.io/virtual-machine-unpaused"]
        return found and found[0]["status"]

    def pause(status):
        vmi = lab.get("virtualmachineinstances", "vm")
        conditions = [c for c in vmi["status"]["conditions"] if c["type"] != "Paused"]
        if status:
            conditions.append({"type": "Paused", "status": "True", "reason": "PausedByUser", "message": "VMI was paused by user",
                               "lastProbeTime": None, "lastTransitionTime": "2026-01-01T00:00:00Z"})
        body = {"metadata": {"resourceVersion": vmi["metadata"]["resourceVersion"]}, "status": {"conditions": conditions}}
        return lab.api.call("PATCH", lab.path("virtualmachineinstances", "vm") + "/status", body, MERGE)[0] == 200

    assert gate() == "True"
    wait_for("pause", lambda: pause(True))
    lab.vm_is("vm", "Paused")
    wait_for("the gate", lambda: gate() == "False")
    wait_for("not ready", lambda: lab.get("virtualmachines", "vm")["status"]["ready"] is False)
    assert [c for c in lab.settle("vm")["status"]["conditions"] if c["type"] == "Paused" and c["reason"] == "PausedByUser"]
    wait_for("unpause", lambda: pause(False))
    lab.vm_is("vm", "Running")
    wait_for("the gate", lambda: gate() == "True")
    wait_for("ready", lambda: lab.get("virtualmachines", "vm")["status"]["ready"])
    assert not [c for c in lab.settle("vm")["status"]["conditions"] if c["type"] == "Paused"]


def test_all_the_states_a_vm_goes_through(lab):  # noqa: F811
    """Each printableStatus on the way is one of the documents', in their order, and none is skipped back to."""
    seen = []
    path = f"{lab.path('virtualmachines')}"

    def look():
        status, vm = lab.api.call("GET", f"{path}/vm")
        now = vm.get("status", {}).get("printableStatus") if status == 200 else None
        if now and (not seen or seen[-1] != now):
            seen.append(now)
        return now

    lab.node.behave = lambda o: "hold"
    lab.controller()
    lab.make("virtualmachines", vm_of("Halted"))
    wait_for("Stopped", lambda: look() == "Stopped")
    lab.patch("virtualmachines", "vm", {"spec": {"runStrategy": "Always"}})
    wait_for("Starting", lambda: look() == "Starting")
    vmi = wait_for("Scheduled", lambda: (lambda v: v if v and v.get("status", {}).get("phase") == "Scheduled" else None)(
        lab.get("virtualmachineinstances", "vm")))
    look()
    lab.node.phase(vmi, "Running", interfaces=[{"name": "default", "ipAddress": "10.1.2.3"}])
    wait_for("Running", lambda: look() == "Running")
    pod = lab.list("pods")[0]["metadata"]["name"]
    lab.patch("pods", pod, {"metadata": {"finalizers": ["test.example/slow"]}})
    lab.patch("virtualmachines", "vm", {"spec": {"runStrategy": "Halted"}})
    wait_for("Stopping", lambda: look() == "Stopping")
    lab.patch("pods", pod, {"metadata": {"finalizers": None}})
    wait_for("Stopped", lambda: look() == "Stopped")
    assert seen == ["Stopped", "Starting", "Running", "Stopping", "Stopped"]


# For each way to fail: what `kubectl describe vm` has to say, and what `kubectl get vm` shows.
FAILURES = {
    "fail": ("CrashLoopBackOff", ["StartFailed", "qemu: cannot open the disk: no such file", "Next attempt at", "attempt 1"]),
    "unschedulable": ("ErrorUnschedulable", ["0/1 nodes are available: 1 Insufficient memory."]),
    "image": ("ImagePullBackOff", ["container volumeroot", 'Back-off pulling image "nowhere/disk"']),
}


@pytest.mark.parametrize("how", FAILURES)
def test_describe_says_why(lab, how):  # noqa: F811
    printable, texts = FAILURES[how]
    lab.node.behave = lambda o: how
    lab.controller()
    lab.make("virtualmachines", VM)
    lab.vm_is("vm", printable)
    wait_for("its Events", lambda: all(text in kubectl(lab, "describe", "vm", "vm") for text in texts))
    assert table(kubectl(lab, "get", "vm"))[0]["STATUS"] == printable


def test_the_wait_grows_with_each_failure(lab):  # noqa: F811
    """10 s times n², half as much again at most (compat 6.2). The clock is not waited for: the time in the status counts."""
    from datetime import datetime, timezone

    def read(text):
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)

    lab.node.behave = lambda o: "fail"
    lab.controller()
    lab.make("virtualmachines", VM)
    for n in (1, 2, 3):
        vm = wait_for(f"failure {n}", lambda n=n: (lambda v: v if (v.get("status", {}).get("startFailure") or {}).get(
            "consecutiveFailCount") == n else None)(lab.get("virtualmachines", "vm")))
        failure = vm["status"]["startFailure"]
        noted = [read(e["firstTimestamp"]) for e in wait_for("event", lambda n=n: [
            e for e in lab.events("vm", "StartFailed") if f"attempt {n}" in e["message"]])][0]
        wait = (read(failure["retryAfterTimestamp"]) - noted).total_seconds()
        assert 10 * n * n - 5 <= wait <= 15 * n * n + 1, (n, wait)  # the Event may be written some seconds later
        lab.vm_is("vm", "CrashLoopBackOff")
        # as if that time had come
        lab.patch("virtualmachines", "vm", {"status": {"startFailure": {"retryAfterTimestamp": "2026-01-01T00:00:00Z"}}}, "/status")
    lab.node.behave = lambda o: "run"
    for _ in range(2):  # whichever attempt was under way
        vm = wait_for("running or waiting", lambda: (lambda v: v if v["status"]["printableStatus"] in ("Running", "CrashLoopBackOff")
                                                     else None)(lab.get("virtualmachines", "vm")))
        if vm["status"]["printableStatus"] == "Running":
            break
        lab.api.call("PATCH", lab.path("virtualmachines", "vm") + "/status",
                     {"status": {"startFailure": {"retryAfterTimestamp": "2026-01-01T00:00:00Z"}}}, MERGE)
    lab.vm_is("vm", "Running")
    assert "startFailure" not in lab.settle("vm")["status"]


def test_halted_forgets_the_failures(lab):  # noqa: F811
    lab.node.behave = lambda o: "fail"
    lab.controller()
    lab.make("virtualmachines", VM)
    lab.vm_is("vm", "CrashLoopBackOff")
    lab.patch("virtualmachines", "vm", {"spec": {"runStrategy": "Halted"}})
    vm = lab.vm_is("vm", "Stopped")
    assert "startFailure" not in vm["status"] and not [c for c in vm["status"]["conditions"] if c["type"] == "Failure"]
    lab.node.behave = lambda o: "run"
    lab.patch("virtualmachines", "vm", {"spec": {"runStrategy": "Always"}})
    lab.vm_is("vm", "Running")  # at once: no back-off is left


# ---- owners ----------------------------------------------------------------------------------------------------------


def test_adoption_is_only_of_what_nobody_owns(lab):  # noqa: F811
    """An instance that was made by hand under the VM's name is taken over as it runs; its guest is not touched."""
    lab.controller()
    bare = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "vm"},
            "spec": VM["spec"]["template"]["spec"]}
    lab.make("virtualmachineinstances", bare)
    before = wait_for("Running", lambda: (lambda v: v if v.get("status", {}).get("phase") == "Running" else None)(
        lab.get("virtualmachineinstances", "vm")))
    pod = lab.list("pods")[0]["metadata"]["uid"]
    vm = lab.make("virtualmachines", VM)
    lab.vm_is("vm", "Running")
    after = lab.get("virtualmachineinstances", "vm")
    assert after["metadata"]["uid"] == before["metadata"]["uid"] and [p["metadata"]["uid"] for p in lab.list("pods")] == [pod]
    assert [r["uid"] for r in after["metadata"]["ownerReferences"]] == [vm["metadata"]["uid"]]
    assert wait_for("event", lambda: lab.events("vm", "SuccessfulAdopt"))


def test_replica_set_takes_what_its_selector_says(lab):  # noqa: F811
    plural = "virtualmachineinstancereplicasets"
    lab.controller()
    stray = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "stray", "labels": {"app": "set"}},
             "spec": VM["spec"]["template"]["spec"]}
    lab.make("virtualmachineinstances", stray)
    wait_for("Running", lambda: lab.get("virtualmachineinstances", "stray").get("status", {}).get("phase") == "Running")
    lab.make(plural, replica_set(2))
    wait_for("2 ready", lambda: lab.get(plural, "set").get("status", {}).get("readyReplicas") == 2)
    names = {v["metadata"]["name"] for v in lab.list("virtualmachineinstances")}
    assert "stray" in names and len(names) == 2
    lab.patch("virtualmachineinstances", "stray", {"metadata": {"labels": {"app": "other"}}})  # and gives it up again
    wait_for("2 ready of its own", lambda: lab.get(plural, "set")["status"].get("readyReplicas") == 2 and
             len(lab.list("virtualmachineinstances")) == 3)
    wait_for("no owner", lambda: not lab.get("virtualmachineinstances", "stray")["metadata"].get("ownerReferences"))
    assert kubectl(lab, "get", "vmirs", "set").split()[:5] == ["NAME", "DESIRED", "CURRENT", "READY", "AGE"]


def test_presets_that_contradict_each_other(lab):  # noqa: F811
    for name, cores in (("one", 1), ("two", 2)):
        lab.make("virtualmachineinstancepresets", {
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstancePreset", "metadata": {"name": name},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "domain": {"cpu": {"cores": cores}}}})
    c = lab.controller()
    wait_for("ready", lambda: c.metrics()["kubevirt_virt_controller_ready_status"] == 1)
    lab.make("virtualmachines", VM)
    lab.vm_is("vm", "Running")
    said = wait_for("event", lambda: lab.events("vm", "PresetFailed"))[0]
    assert said["type"] == "Warning" and "contradict each other" in said["message"]
    assert "cores" not in lab.get("virtualmachineinstances", "vm")["spec"]["domain"].get("cpu", {})
    assert json.dumps(lab.get("virtualmachineinstances", "vm")["metadata"]["annotations"]).count("virtualmachinepreset") == 0
