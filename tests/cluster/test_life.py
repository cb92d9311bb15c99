# SPDX-License-Identifier: Apache-2.0
"""Starting, stopping and ending VMs on a real cluster, by their users, their guests, the node, and by accident."""
import json
from collections import Counter

import pytest

from vm_lab import VM, Machine, Watch


@pytest.fixture
def machine(vmlet, request):
    """Not applied yet. Afterwards nothing of it may be left on the node."""
    it = Machine(vmlet, request.node.name.removeprefix("test_").replace("_", "-").replace("[", "-").replace("]", "").lower())
    uids = []
    it.seen = uids.append
    yield it
    it.delete()
    for uid in uids:
        it.wait("the node agent has forgotten it", lambda uid=uid: not [line for line in it.left_on_node(uid) if uid in line])
    mounts = vmlet.node("cat", "/proc/1/mounts").stdout
    assert not [line for line in mounts.splitlines() if "container-disks" in line and "disk_0.img" in line]


def start(machine, strategy="runStrategy: Always"):
    """Up, its guest too."""
    machine.apply(strategy)
    machine.wait_up()
    uid = machine.uid()
    machine.seen(uid)
    return uid


# KubeVirt's own measurement of its density test, one VM of 100: k8s/manifests/README.md, "How much it takes".
KUBEVIRT_CALLS = 30


def test_calls_of_a_start(machine):
    """What our programs ask of the API server, by its audit log, from a VM's creation until all about its guest is known."""
    cluster = machine.cluster
    before = len((cluster.dir / "log/audit.log").read_text().splitlines())

    def calls():
        return {program: [e for e in cluster.calls_of(program, before) if e["objectRef"].get("namespace") == "default"]
                for program in ("virt-controller", "virt-handler")}

    def beats():
        return sum(e["objectRef"]["resource"] == "nodes" for e in cluster.calls_of("virt-handler", before))

    start(machine)
    last = [None, 0]

    def settled():
        now = {program: len(c) for program, c in calls().items()}
        if now != last[0]:
            last[:] = [now, beats()]
        return beats() > last[1] + 1  # two heartbeats: a whole minute in which nothing was written

    machine.wait("nothing more is written", settled)
    names = {program: Counter(f"{e['verb']} {e['objectRef']['resource']}/{e['objectRef'].get('subresource', '')}".rstrip("/") for e in c)
             for program, c in calls().items()}
    total = sum(sum(c.values()) for c in names.values())
    print(f"{total} calls for a start: {json.dumps(names)}")
    assert total < KUBEVIRT_CALLS, names
    refused = [e for c in calls().values() for e in c if e["responseStatus"]["code"] >= 400]
    assert not refused, refused


def ended_with(machine, uid, phase):
    """A function that says whether this instance has reached its final phase, or is replaced already."""
    return lambda: machine.uid() != uid or machine.phase() == phase


# ---- by the user --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("off, on", [({"running": False}, {"running": True}), ({"runStrategy": "Halted"}, {"runStrategy": "Always"})],
                         ids=["running", "runStrategy"])
def test_stop(machine, off, on):
    """By a patch: the guest is shut down in order, the VM is Stopped, nothing of the instance is left; on again, another runs."""
    uid = start(machine, f"{next(iter(on))}: {json.dumps(next(iter(on.values())))}")
    machine.patch(off)
    machine.wait_status("Stopped")
    machine.wait("the instance and its pod are gone", lambda: not machine.vmi() and not machine.pods())
    assert machine.condition("Ready", "vm") == "False" and not machine.vm()["status"].get("created")
    assert {"ShuttingDown", "Stopped"} <= machine.reasons("VirtualMachineInstance")
    assert "SuccessfulDelete" in machine.reasons("VirtualMachine")
    machine.patch(on)
    machine.wait_up(not_uid=uid)
    machine.seen(machine.uid())


def test_restart_by_deleting_the_instance(machine):
    """Another instance, pod and boot; the first is gone before the second is made."""
    uid, boot, pod = start(machine), machine.boot_id(), machine.pod()["metadata"]["uid"]
    machine.kubectl("delete", "vmi", machine.name, "--wait=true", "--timeout=500s", timeout=550)
    machine.wait_up(not_uid=uid)
    machine.seen(machine.uid())
    assert machine.boot_id() != boot and machine.pod()["metadata"]["uid"] != pod
    assert "ShuttingDown" in machine.reasons()


def test_delete(machine):
    """VM, instance and pod go; the guest is shut down by its own poweroff."""
    uid = start(machine)
    assert [line for line in machine.left_on_node(uid) if uid in line], "the node agent keeps no record of it"
    follow = machine.follow_console()
    machine.kubectl("delete", "vm", machine.name, "--wait=true", "--timeout=500s", timeout=550)
    machine.wait("nothing is left", machine.is_gone)
    assert "Power down" in follow.communicate(timeout=120)[0]
    assert {"ShuttingDown", "Stopped"} <= machine.reasons()


@pytest.mark.parametrize("kind", ["vm", "vmi", "pod"])
def test_force_delete(machine, kind):
    """--grace-period=0 --force: no guest runs on behind the API server's back, and no second one beside the first."""
    uid, pod = start(machine), machine.pod()["metadata"]
    name = pod["name"] if kind == "pod" else machine.name
    machine.kubectl("delete", kind, name, "--grace-period=0", "--force", "--timeout=500s", timeout=550)
    if kind == "vm":
        machine.wait("nothing is left", machine.is_gone)
    else:
        machine.wait_up(not_uid=uid)
        machine.seen(machine.uid())
        assert machine.pod()["metadata"]["uid"] != pod["uid"]
    machine.wait("the first QEMU has ended", lambda: pod["uid"] not in machine.cluster.node("cat", *cgroups_of_qemu(machine)).stdout)


def cgroups_of_qemu(machine):
    pids = machine.cluster.node("/bin/busybox", "pidof", "qemu-system-x86_64").stdout.split()
    return [f"/proc/{pid}/cgroup" for pid in pids] or ["/dev/null"]


# ---- by the guest -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy, after", [("Always", "Running"), ("RerunOnFailure", "Stopped"), ("Manual", "Stopped")])
def test_guest_powers_off(machine, strategy, after):
    """Always: another instance. RerunOnFailure: it has succeeded, and that is that. Manual: the instance stays, Succeeded."""
    if strategy == "Manual":
        machine.apply("runStrategy: Always")
        machine.wait_up()
        machine.patch({"runStrategy": "Manual"})
    else:
        machine.apply(f"runStrategy: {strategy}")
        machine.wait_up()
    uid = machine.uid()
    machine.seen(uid)
    machine.run("poweroff", check=False)
    if after == "Running":
        machine.wait_up(not_uid=uid)
        machine.seen(machine.uid())
    else:
        machine.wait_status("Stopped")
        machine.wait("what is left of the instance", lambda: machine.phase() == ("Succeeded" if strategy == "Manual" else ""))
    assert "Stopped" in machine.reasons("VirtualMachineInstance")


# ---- by accident --------------------------------------------------------------------------------------------------------


def test_qemu_crashes(machine):
    """SIGKILL for QEMU: the instance has Failed, `kubectl describe` says why, and the VM gets another one."""
    uid = start(machine)
    machine.exec("kill", "-9", machine.qemu())
    machine.wait("it has failed", ended_with(machine, uid, "Failed"))
    machine.wait_up(not_uid=uid)
    machine.seen(machine.uid())
    stopped = [e for e in machine.events("VirtualMachineInstance") if e["reason"] == "Stopped"]
    assert stopped and stopped[0]["type"] == "Warning" and "crashed" in stopped[0]["message"], stopped


def test_cannot_start(machine):
    """A kernel that the image does not hold: tried again later and later, and `kubectl describe` says what is wrong."""
    machine.kubectl("apply", "-f", "-", stdin=VM.format(name=machine.name, strategy="runStrategy: Always").replace("/boot/vmlinuz", "/boot/missing"))
    machine.wait("an Event says so", lambda: "SyncFailed" in machine.reasons())
    machine.wait("the instance's condition too", lambda: machine.condition("Synchronized") == "False")
    described = machine.kubectl("describe", "vmi", machine.name)
    assert "/boot/missing" in described and "SyncFailed" in described
    assert machine.phase() == "Scheduled" and machine.status() == "Starting"
    failed = next(e for e in machine.events() if e["reason"] == "SyncFailed")
    assert "boot/missing" in failed["message"] and failed["type"] == "Warning"
    uid = machine.uid()
    machine.seen(uid)
    # its pod ends before the guest ever ran: another instance, but not at once, whatever the launcher's exit code was
    watch = Watch(machine, "vm")
    try:
        machine.kubectl("delete", "pod", machine.pod()["metadata"]["name"], "--wait=false")
        machine.wait("an Event of the VM says so", lambda: "StartFailed" in machine.reasons("VirtualMachine"))
        machine.wait("it is tried again", lambda: machine.uid() not in (None, uid))
        machine.seen(machine.uid())
    finally:
        states = watch.end()[1]
    assert "CrashLoopBackOff" in states, states
    failure = machine.vm()["status"]["startFailure"]  # until a guest runs
    assert failure["consecutiveFailCount"] == 1 and failure["lastFailedVMIUID"] == uid and failure["retryAfterTimestamp"], failure
    described = machine.kubectl("describe", "vm", machine.name)
    assert "attempt 1" in described and "Next attempt at" in described and "/boot/missing" in described, described


# ---- by the node --------------------------------------------------------------------------------------------------------


def test_drained(machine):
    """kubectl drain: the guest is shut down within its grace period; the VM waits for a node, and runs again when there is one."""
    uid = start(machine)
    follow = machine.follow_console()
    machine.kubectl("drain", machine.cluster.name, "--ignore-daemonsets", "--delete-emptydir-data", "--pod-selector=kubevirt.io=virt-launcher",
                    "--timeout=500s", timeout=550)
    try:
        assert "Power down" in follow.communicate(timeout=120)[0]
        machine.wait_status("ErrorUnschedulable")
        assert machine.uid() != uid
    finally:
        machine.kubectl("uncordon", machine.cluster.name)
    machine.wait_up(not_uid=uid)
    machine.seen(uid)
    machine.seen(machine.uid())
