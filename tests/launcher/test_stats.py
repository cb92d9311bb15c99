# SPDX-License-Identifier: Apache-2.0
"""Statistics, metrics, the memory dump, and that every method of KubeVirt's Cmd service is known by its name."""
import hashlib
import os
import re
import select
import threading

import pytest
from vmlet_lab import PATIENCE, wait_until, vmi

# compat §1.2
CMD = """
SyncVirtualMachine PauseVirtualMachine UnpauseVirtualMachine FreezeVirtualMachine UnfreezeVirtualMachine
ResetVirtualMachine SoftRebootVirtualMachine ShutdownVirtualMachine KillVirtualMachine DeleteVirtualMachine
MigrateVirtualMachine SyncMigrationTarget CancelVirtualMachineMigration SignalTargetPodCleanup
FinalizeVirtualMachineMigration HotplugHostDevices SyncVirtualMachineCPUs SyncVirtualMachineMemory GetDomain
GetDomainStats GetDomainDirtyRateStats GetGuestInfo GetUsers GetFilesystems GetQemuVersion Ping Exec GuestPing
VirtualMachineMemoryDump GetSEVInfo GetLaunchMeasurement InjectLaunchSecret GetScreenshot BackupVirtualMachine
RedefineCheckpoint GetVMStats
""".split()
OURS = """
Subscribe GetTimeline Qmp AgentCommand Describe GetMetrics GetDisks PlugDisk UnplugDisk ResizeDisk ChangeMedium BackupDisks
MirrorDisk CompleteBlockJob CancelBlockJob
""".split()


def disk_vmi(**more):
    spec = vmi(**more)
    spec["spec"]["domain"]["devices"]["disks"] = [{"name": "scratch", "disk": {"bus": "virtio"}}]
    spec["spec"]["volumes"] = [{"name": "scratch", "emptyDisk": {"capacity": "64Mi"}}]
    return spec


def test_every_method_is_known(pod):
    pod.start()
    client = pod.client()
    methods = {m["name"]: m for m in client.ok("Describe")["methods"]}
    assert sorted(methods) == sorted(CMD + OURS)
    for name, method in methods.items():
        if "not supported yet" in method["what"]:
            answer = client.call(name)
            assert answer["error"]["data"]["code"] == "NotSupported" and name in answer["error"]["message"]


def test_stats(pod):
    pod.start()
    client = pod.client()
    client.ok("SyncVirtualMachine", vmi=disk_vmi())
    pod.qemu = client.ok("GetDomain")["vmlet"]["pid"]
    first = client.ok("GetDomainStats")["domainStats"]
    assert first["Name"] == "ns_tiny" and first["NrVirtCpu"] == len(first["Vcpu"]) == 1
    assert first["Cpu"]["TimeSet"] and first["Cpu"]["Time"] > 0
    assert first["Vcpu"][0]["TimeSet"] and first["Vcpu"][0]["State"] == 1
    assert any(first["CPUMap"][0]) and first["CPUMapSet"]
    memory = first["Memory"]
    assert memory["Total"] == 256 * 1024 and memory["ActualBalloon"] == 256 * 1024 and memory["RSS"] > 0
    disk = first["Block"][0]
    assert (disk["Alias"], disk["Name"], disk["Capacity"]) == ("scratch", "vda", 64 << 20)
    assert disk["Path"].endswith("scratch.qcow2") and disk["RdReqsSet"]
    assert client.ok("GetDomainStats")["domainStats"] == first  # kept for a while
    pod.wait_agent(client)
    client.ok("Exec", Command="/bin/dd", Args=["if=/dev/zero", "of=/dev/vda", "bs=64k", "count=16", "conv=fsync"], timeoutSeconds=60)

    def written():
        later = client.ok("GetDomainStats")["domainStats"]
        return later["Block"][0]["WrBytes"] >= 1 << 20 and later

    later = wait_until(written, "the written bytes are counted")
    assert later["Cpu"]["Time"] > first["Cpu"]["Time"] and later["Vcpu"][0]["Time"] > first["Vcpu"][0]["Time"]
    # the balloon's driver in the guest reports every 10 s
    full = wait_until(
        lambda: (s := client.ok("GetDomainStats")["domainStats"]["Memory"])["AvailableSet"] and s, "the balloon reports"
    )
    assert 100 * 1024 < full["Unused"] < full["Available"] < 256 * 1024
    text = client.ok("GetMetrics")["metrics"]
    check_format(text)
    for name in (
        "cpu_usage_seconds_total", "memory_resident_bytes", "memory_available_bytes", "storage_iops_write_total",
        "vcpu_seconds_total", "guest_os_panic_total", "node_cpu_affinity",
    ):
        assert re.search(rf'^kubevirt_vmi_{name}{{namespace="ns",name="tiny".*}} [0-9.]+$', text, re.M), name
    assert client.ok("GetDomainDirtyRateStats")["dirtyRateMbs"] >= 0
    answer = client.ok("GetVMStats", domainStats={}, guestGetHostName={}, guestGetVcpus={})
    assert answer["domainStats"]["Name"] == "ns_tiny" and answer["guestAgentVersion"]
    assert answer["guestGetHostName"]["host-name"] and answer["guestGetVcpus"] and "failures" not in answer
    assert "guestGetUsers" not in answer
    # a paused guest has statistics, too
    client.ok("PauseVirtualMachine")
    assert client.ok("GetDomainStats")["domainStats"]["Name"] == "ns_tiny"


def check_format(text):
    """The exposition format: HELP and TYPE before the samples of a metric, which stand together."""
    seen, present = set(), None
    for line in text.splitlines():
        if line.startswith("# "):
            _, kind, name, _ = line.split(" ", 3)
            if kind == "HELP":
                assert name not in seen
                seen.add(name)
                present = name
            assert name == present
        else:
            assert re.fullmatch(present + r'\{([a-z_]+="([^"\\]|\\.)*",?)+\} [0-9.e+-]+', line), line
    assert text.endswith("\n")


def test_stats_without_an_agent_or_a_balloon(pod):
    pod.start()
    client = pod.client()
    spec = vmi(append="vmlet.noagent")
    spec["spec"]["domain"]["devices"]["autoattachMemBalloon"] = False
    client.ok("SyncVirtualMachine", vmi=spec)
    pod.qemu = client.ok("GetDomain")["vmlet"]["pid"]
    memory = client.ok("GetDomainStats")["domainStats"]["Memory"]
    assert memory["RSSSet"] and not memory["ActualBalloonSet"] and not memory["UnusedSet"]
    answer = client.ok("GetVMStats", guestGetUsers={})
    assert "agent is not connected" in answer["failures"]["guestGetUsers"]


def test_memory_dump(pod):
    """On a volume of kind memoryDump; what a program of the guest has in memory is in it."""
    path = pod.tmp / "hp" / "dump" / "memory.dump"
    path.parent.mkdir(parents=True)
    client = pod.boot(volumes=[{"name": "dump", "memoryDump": {"claimName": "d", "hotpluggable": True}}])
    pod.wait_agent(client)
    pages = "; ".join(f"yes 'page {n} of the proof' | head -c 4096" for n in range(64))
    seen = client.ok("Exec", Command="/bin/sh", Args=["-c", f"mkdir -p /tmp; ({pages}) >/tmp/proof; sha256sum </tmp/proof"])
    expected = [(f"page {n} of the proof\n".encode() * 256)[:4096] for n in range(64)]
    assert seen["stdOut"].split()[0] == hashlib.sha256(b"".join(expected)).hexdigest()
    client.ok("Subscribe")
    assert client.ok("VirtualMachineMemoryDump", vmi={}, dumpPath=str(path))["success"]
    client.event(lambda e: e["reason"] == "MemoryDumpCompleted")
    domain = client.ok("GetDomain")["domain"]
    assert domain["Status"]["Status"] == "Running"
    dump = domain["Spec"]["Metadata"]["KubeVirt"]["MemoryDump"]
    assert dump["FileName"] == str(path) and dump["Completed"] and dump["StartTimestamp"] <= dump["EndTimestamp"]
    data = path.read_bytes()
    assert data[:4] == b"\x7fELF" and len(data) >= 256 << 20
    assert [n for n, page in enumerate(expected) if page not in data] == []
    assert "absolute" in client.call("VirtualMachineMemoryDump", dumpPath="x")["error"]["message"]
    client.ok("VirtualMachineMemoryDump", dumpPath=str(pod.tmp / "no-such-dir" / "x"))
    failed = client.event(lambda e: e["reason"] == "MemoryDumpFailed")
    assert failed["memoryDump"]["Failed"] and failed["memoryDump"]["FailureReason"]


def balloon_interval(client):
    path = "/machine/peripheral"
    devices = client.ok("Qmp", command="qom-list", arguments={"path": path})["return"]
    balloon = next(d["name"] for d in devices if "balloon" in d["name"])
    arguments = {"path": f"{path}/{balloon}", "property": "guest-stats-polling-interval"}
    return client.ok("Qmp", command="qom-get", arguments=arguments)["return"]


@pytest.mark.parametrize("period, seconds", [(None, 10), (3, 3), (0, 0)])
def test_period_of_the_balloons_statistics(pod, period, seconds):
    """VirtualMachineOptions.MemBalloonStatsPeriod; a new launcher keeps to it."""
    pod.start()
    client = pod.client()
    spec = vmi()
    del spec["spec"]["domain"]["firmware"]
    if period is not None:
        answer = client.call("SyncVirtualMachine", vmi=spec, options={"MemBalloonStatsPeriod": -1})
        assert "MemBalloonStatsPeriod" in answer["error"]["message"] and answer["error"]["data"]["code"] == "BadArgument"
    options = {} if period is None else {"MemBalloonStatsPeriod": period}
    client.ok("SyncVirtualMachine", vmi=spec, options=options)
    pod.qemu = client.ok("GetDomain")["vmlet"]["pid"]
    wait_until(lambda: balloon_interval(client) == seconds, "the period is set")
    pod.process.kill()
    pod.process.wait()
    pod.start()
    client = pod.client()
    client.ok("PauseVirtualMachine")
    client.ok("UnpauseVirtualMachine")
    client.ok("Qmp", command="query-name")
    assert balloon_interval(client) == seconds


@pytest.mark.parametrize("when", ["goes on", "ended meanwhile"])
def test_memory_dump_over_a_launcher_that_was_killed(pod, when):
    """A pipe for the dump: it is as far as we let it be."""
    client = pod.boot()
    path = pod.tmp / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    client.ok("VirtualMachineMemoryDump", vmi={}, dumpPath=str(path))
    assert select.select([reader], [], [], PATIENCE)[0]  # before QEMU has opened it, reading would give an end of file
    assert len(os.read(reader, 4)) == 4
    pod.process.kill()
    pod.process.wait()

    def drain():
        while os.read(reader, 1 << 20):
            pass

    thread = threading.Thread(target=drain, daemon=True)
    if when == "ended meanwhile":
        thread.start()
        thread.join(PATIENCE)
    pod.start()
    client = pod.client()
    client.ok("Subscribe", **{"from": 1})
    if when == "goes on":
        dump = client.ok("GetDomain")["domain"]["Spec"]["Metadata"]["KubeVirt"]["MemoryDump"]
        assert dump["FileName"] == str(path) and "EndTimestamp" not in dump
        thread.start()
    client.event(lambda e: e["reason"] == "MemoryDumpCompleted")
    thread.join(PATIENCE)
    os.close(reader)
    dump = client.ok("GetDomain")["domain"]["Spec"]["Metadata"]["KubeVirt"]["MemoryDump"]
    assert dump["Completed"] and dump["EndTimestamp"]
    wait_until(lambda: client.ok("GetDomain")["domain"]["Status"]["Status"] == "Running", "it runs again")


def test_delete_needs_an_ended_vm(pod):
    pod.start()
    client = pod.client()
    assert client.ok("DeleteVirtualMachine", vmi={})["success"]
    client.ok("SyncVirtualMachine", vmi=vmi())
    pod.qemu = client.ok("GetDomain")["vmlet"]["pid"]
    assert client.call("DeleteVirtualMachine")["error"]["data"]["code"] == "WrongState"
