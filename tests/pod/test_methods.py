# SPDX-License-Identifier: Apache-2.0
"""Every method of the command server, called in pods as the user's documents start them: none is left out.

What is called is compared with what Describe lists: a new method that no test here calls is a failure."""
import base64
import os
import signal
import time

from test_launcher import FLAGS, start, ubuntu  # noqa: F401
from vmlet_lab import PATIENCE, initramfs, wait_until  # noqa: F401

GRACE = int(FLAGS[FLAGS.index("--grace-period-seconds") + 1])
NAME = "default_ubuntu-amd"
MIB = 1024 * 1024


class Caller:
    """A client that notes what has been answered as it should be."""

    def __init__(self, pod, answered):
        self.pod, self.client, self.answered = pod, pod.client(), answered

    def ok(self, method, **params):
        result = self.client.ok(method, **params)
        self.answered.add(method)
        return result

    def refused(self, method, code, **params):
        error = self.client.call(method, **params)["error"]
        assert error["data"]["code"] == code, error
        return error

    def event(self, reason):
        return self.client.event(lambda e: e["reason"] == reason)

    def state(self):
        return self.ok("GetDomain")["domain"]["Status"]["Status"]


def machine():
    """The user's VM with a disk and a drive."""
    spec = ubuntu()
    spec["spec"]["domain"]["devices"]["disks"] = [
        {"name": "root", "disk": {"bus": "virtio"}}, {"name": "drive", "cdrom": {"bus": "scsi"}}]
    spec["spec"]["volumes"] = [{"name": "root", "persistentVolumeClaim": {"claimName": "r"}}]
    return spec


def make(path, size=MIB):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(4096) + bytes(size - 4096))
    return path


def before_there_is_a_vm(caller):
    assert caller.ok("Ping") is not None
    assert caller.ok("DeleteVirtualMachine", vmi=ubuntu())["success"]
    caller.refused("PauseVirtualMachine", "WrongState", vmi=ubuntu())
    assert caller.ok("Subscribe", **{"from": 1})["lost"] == 0


def state_and_facts(caller):
    assert caller.ok("SyncVirtualMachine", vmi=machine(), options={})["success"]
    assert caller.state() == "Running"
    caller.pod.wait_agent(caller.client)
    wait_until(lambda: caller.ok("GetGuestInfo")["guestInfoResponse"]["os"], "the agent told of the guest")
    for method in ("GetUsers", "GetFilesystems"):
        assert caller.ok(method)["response"]["success"]
    assert "." in str(caller.ok("GetQemuVersion"))
    names = [e["name"] for e in caller.ok("GetTimeline")["events"]]
    assert names[0] == "exec" and "running" in names
    assert caller.ok("Qmp", command="query-status")["return"]["running"]
    assert caller.ok("AgentCommand", command="guest-info")["return"]["version"]
    assert caller.ok("GuestPing", domainName=NAME, timeoutSeconds=30) is not None
    assert caller.ok("Exec", domainName=NAME, Command="/bin/uname", Args=["-n"], timeoutSeconds=30)["exitCode"] == 0
    assert base64.b64decode(caller.ok("GetScreenshot", vmi=ubuntu())["data"])[1:4] == b"PNG"


def statistics(caller):
    assert "kubevirt_vmi_cpu_usage_seconds_total" in str(caller.ok("GetMetrics"))
    for method in ("GetDomainStats", "GetDomainDirtyRateStats"):
        assert caller.ok(method)
    assert caller.ok("GetVMStats", domainStats={})


def life(caller):
    assert caller.ok("PauseVirtualMachine", vmi=ubuntu())["success"] and caller.state() == "Paused"
    assert caller.ok("UnpauseVirtualMachine", vmi=ubuntu())["success"] and caller.state() == "Running"
    assert caller.ok("FreezeVirtualMachine", unfreezeTimeoutSeconds=60)["success"]
    assert caller.ok("UnfreezeVirtualMachine")["success"]
    caller.ok("VirtualMachineMemoryDump", dumpPath="/var/run/kubevirt-private/memory")
    caller.event("MemoryDumpCompleted")
    for method in ("SoftRebootVirtualMachine", "ResetVirtualMachine"):
        assert caller.ok(method, vmi=ubuntu())["success"]
        assert caller.event("Reset")["cause"] == ("guest-reset" if "Soft" in method else "host-qmp-system-reset")
        caller.event("Connected")  # its agent, once more
    caller.refused("DeleteVirtualMachine", "WrongState", vmi=ubuntu())


def disks(caller):
    private = caller.pod.dir / "kubevirt-private"
    make(caller.pod.dir / "kubevirt/hotplug-disks/more.img")
    make(private / "medium.iso")
    assert caller.ok("PlugDisk", name="more", path="/var/run/kubevirt/hotplug-disks/more.img")
    assert caller.ok("ResizeDisk", name="more", size=2 * MIB)
    assert [d["name"] for d in caller.ok("GetDisks")["disks"]] == ["root", "drive", "more"]
    caller.ok("ChangeMedium", name="drive", path="/var/run/kubevirt-private/medium.iso")
    caller.ok("BackupDisks", disks=[{"name": "root", "target": "/var/run/kubevirt-private/backup.qcow2"}])
    caller.event("BlockJobCompleted")
    mirror = [{"name": "root", "target": "/var/run/kubevirt-private/mirror"}]
    caller.ok("MirrorDisk", disks=mirror, bytesPerSecond=65536)
    caller.ok("CancelBlockJob")
    caller.event("BlockJobFailed")
    caller.ok("MirrorDisk", disks=mirror)
    caller.event("BlockJobReady")
    caller.ok("CompleteBlockJob")
    caller.event("BlockJobCompleted")
    caller.ok("UnplugDisk", name="more")


def what_is_not_built(caller, methods):
    """Each says so by its name."""
    for method in methods:
        if "not supported yet" in method["what"]:
            assert method["name"] in caller.refused(method["name"], "NotSupported")["message"]
            caller.answered.add(method["name"])


def test_every_method(start):  # noqa: F811
    answered = set()
    pod = start()
    make(pod.dir / "kubevirt-private/vmi-disks/root/disk.img", 8 * MIB)
    caller = Caller(pod, answered)
    methods = caller.ok("Describe")["methods"]
    before_there_is_a_vm(caller)
    state_and_facts(caller)
    statistics(caller)
    disks(caller)
    life(caller)
    what_is_not_built(caller, methods)
    # the first pod ends by TERM: in its grace period, with the guest's own shutdown on its console
    began = time.monotonic()
    os.kill(pod.monitor, signal.SIGTERM)
    assert pod.process.wait(PATIENCE) == 0
    took = time.monotonic() - began
    assert took < GRACE
    assert "vmlet guest down" in pod.console.read_text(errors="replace")
    assert "the guest shut down" in pod.log()
    print(f"{len(answered)} methods; from TERM to the pod's end {took:.2f} s")
    # a second one for the methods that end a VM
    second = start()
    caller = Caller(second, answered)
    caller.ok("SyncVirtualMachine", vmi=ubuntu("vmlet.ignoreacpi vmlet.noagent"))
    assert caller.ok("ShutdownVirtualMachine", vmi=ubuntu())["success"]
    assert caller.ok("KillVirtualMachine", vmi=ubuntu())["success"]
    assert second.process.wait(PATIENCE) == 0
    assert answered == {m["name"] for m in methods}
