# SPDX-License-Identifier: Apache-2.0
"""Every file that is written while a VM starts, runs and ends, on a disk that is full or broken; the wall clock set while
deadlines run; a process that may open no more files."""
import errno
import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
from fault_lab import kill_launcher
from vmlet_lab import TOP, wait_until

HERE = Path(__file__).parent
ERRORS = [errno.ENOSPC, errno.EIO]
each_error = pytest.mark.parametrize("number", ERRORS, ids=[errno.errorcode[e] for e in ERRORS])


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shim")
    os.chmod(folder, 0o755)
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", folder / "shim.so", HERE / "shim.c", "-ldl"], check=True)
    return folder / "shim.so"


class Faulty:
    """A pod whose calls on a file can be made to fail."""

    def __init__(self, lab, shim, **how):
        self.pod = lab(folder=TOP / "build", **how)
        self.switch, self.hits_path, self.clock = (self.pod.tmp / f"mark-{name}" for name in ("switch", "hits", "clock"))
        self.pod.environment = {
            "LD_PRELOAD": str(shim), "VMLET_SHIM_SWITCH": str(self.switch), "VMLET_SHIM_HITS": str(self.hits_path),
            "VMLET_SHIM_CLOCK": str(self.clock),
        }

    def fail(self, call, number, pattern):
        staging = self.switch.with_name("mark-new")
        staging.write_text(f"{call} {number} {pattern}\n")
        staging.rename(self.switch)  # whole, whoever reads it

    def heal(self):
        self.switch.unlink()

    def hits(self):
        return self.hits_path.read_text().count("\n") if self.hits_path.exists() else 0

    def set_clock(self, seconds):
        staging = self.clock.with_name("mark-new")
        staging.write_text(str(seconds))
        staging.rename(self.clock)


@pytest.fixture
def faulty(lab, shim):
    return lambda **how: Faulty(lab, shim, **how)


def end(pod, client):
    client.ok("KillVirtualMachine", vmi={})
    assert pod.wait() == 0, pod.log()
    assert pod.leftovers() == [], pod.log()


@each_error
@pytest.mark.parametrize("call", ["open", "write", "rename"])  # no fsync: a crash of the machine ends the VM too
def test_state_file(faulty, table, call, number):
    """The VM runs on; the state file is the old one, whole; the next write is the newest state again."""
    f = faulty()
    client = f.pod.boot()
    wait_until(lambda: f.pod.check_state_file()["state"] == "Running", "what Sync told is written down")
    f.fail(call, number, "*/domain.json*")
    client.ok("PauseVirtualMachine", vmi={})
    wait_until(lambda: "the VM runs on, but a launcher that is killed now" in f.pod.log(), f.pod.log)
    assert f.hits() > 0 and os.strerror(number) in f.pod.log()
    assert f.pod.check_state_file()["state"] == "Running"
    f.heal()
    client.ok("UnpauseVirtualMachine", vmi={})
    client.ok("PauseVirtualMachine", vmi={})
    f.pod.wait_saved("Paused")
    end(f.pod, client)
    table.add(f"domain.json: {call} fails, {errno.errorcode[number]}", "guest runs on; said in the log")


@each_error
def test_state_file_at_start(faulty, table, number):
    f = faulty()
    f.fail("write", number, "*/domain.json*")
    client = f.pod.boot()
    assert "the VM runs on, but a launcher that is killed now" in f.pod.log() and f.hits() > 0
    f.heal()
    client.ok("PauseVirtualMachine", vmi={})
    f.pod.wait_saved("Paused")
    end(f.pod, client)
    table.add(f"domain.json: not written at the start, {errno.errorcode[number]}", "guest runs; said in the log")


@each_error
@pytest.mark.parametrize("call", ["open", "write"])
def test_event_log(faulty, table, call, number):
    f = faulty()
    if call == "open":
        f.fail(call, number, "*/events.log*")
    client = f.pod.boot()
    if call == "write":
        f.fail(call, number, "*/events.log*")
    client.ok("PauseVirtualMachine", vmi={})
    client.ok("UnpauseVirtualMachine", vmi={})
    assert f.hits() > 0
    f.heal()
    seconds, client = kill_launcher(f.pod, client)
    wait_until(lambda: "took over the running VM" in f.pod.log(), f.pod.log)
    end(f.pod, client)
    table.add(f"events.log: {call} fails, {errno.errorcode[number]}", "guest runs on", seconds)


# A pod's own network namespace, made ready before the launcher is there.
POD_NETWORK = """
ip link set lo up
ip link add eth0 type veth peer name outside
ip addr add 10.244.1.5/24 dev eth0
ip link set outside up && ip link set eth0 up
ip route add default via 10.244.1.1
mkdir -p {private}
{netsetup} apply {manifest} --netns /proc/self/ns/net --state-dir {state} --cache-dir {private} --owner 0
exec "$@"
"""


@each_error
@pytest.mark.parametrize("call", ["open", "write", "rename"])
def test_leases(faulty, table, call, number):
    """The guest gets its address. The launcher that takes over knows nothing of it, and what it learns when the guest asks
    again is written down."""
    f = faulty(guest=True, append="vmlet.noagent", networks=[{"name": "default", "pod": {}}])
    pod, mac = f.pod, "02:00:00:00:00:05"
    pod.manifest["spec"]["domain"]["devices"]["interfaces"] = [{"name": "default", "masquerade": {}, "macAddress": mac}]
    manifest = pod.tmp / "mark-vmi.json"
    manifest.write_text(json.dumps(pod.manifest))
    script = POD_NETWORK.format(private=pod.private, manifest=manifest, state=pod.tmp / "cd" / "network",
                                netsetup=TOP / "build" / "netsetup" / "netsetup")
    pod.prefix = ["unshare", "--net", "sh", "-ec", script, "sh"]
    pod.start()
    client = pod.client()
    f.fail(call, number, "*/leases.json*")
    client.ok("SyncVirtualMachine", vmi=pod.manifest)
    console = pod.dir / "virt-serial0-log"
    wait_until(lambda: console.exists() and b"vmlet guest address" in console.read_bytes(), pod.log)
    wait_until(lambda: "but the next launcher will not know since when" in pod.log(), pod.log)
    assert f.hits() > 0 and os.strerror(number) in pod.log()
    assert client.ok("GetDomain")["vmlet"]["leases"]["default"]["client"] == mac
    assert not list(pod.private.rglob("leases.json*"))
    f.heal()
    seconds, client = kill_launcher(pod, client)
    wait_until(lambda: "took over the running VM" in pod.log(), pod.log)
    assert client.ok("GetDomain")["vmlet"]["leases"]["default"]["boundAt"] == 0
    client.ok("ResetVirtualMachine", vmi={})
    leases = wait_until(lambda: list(pod.private.rglob("leases.json")), pod.log)
    assert json.loads(leases[0].read_text())["default"]["client"] == mac
    assert pod.state(client) == "Running"
    (pod.private / "vif-cache-eth0.json").unlink()  # netsetup's; it goes with the pod
    end(pod, client)
    table.add(f"leases.json: {call} fails, {errno.errorcode[number]}", "guest gets its address; said in the log", seconds)


@each_error
def test_qemu_log_cannot_be_made(faulty, table, number):
    """Without it a QEMU that fails could not say why: the start is refused, and the next one works."""
    f = faulty()
    f.fail("open", number, "*/qemu.log")
    f.pod.start()
    client = f.pod.client()
    answer = client.call("SyncVirtualMachine", vmi=f.pod.manifest)
    assert "qemu.log" in answer["error"]["message"] and os.strerror(number) in answer["error"]["message"], answer
    assert f.pod.qemu is None and not (f.pod.dir / "domain.json").exists()
    f.heal()
    client.ok("SyncVirtualMachine", vmi=f.pod.manifest)
    end(f.pod, client)
    table.add(f"qemu.log: cannot be made, {errno.errorcode[number]}", "start refused with the reason; the next works")


@pytest.mark.parametrize("n", range(3))
def test_qemu_log_write(lab, table, n):
    """QEMU writes by itself: its directory is a file system that is full."""
    pod = lab(folder=TOP / "build")
    pod.private.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", pod.private], check=True)
    try:
        client = pod.boot()
        with pytest.raises(OSError), open(pod.private / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 64)
        before = (pod.dir / "qemu.log").read_bytes()
        os.kill(pod.qemu, signal.SIGTERM)  # it says who sent it
        assert pod.wait() == 0, pod.log()
        assert (pod.dir / "qemu.log").read_bytes() == before and b"terminating" not in before
        client.close()
        os.unlink(pod.private / "filler")
        assert pod.leftovers() == []
    finally:
        subprocess.run(["umount", "--lazy", pod.private], check=True)
    table.add("qemu.log: write fails, ENOSPC", "ended in order")


@each_error
def test_console_log(faulty, table, number):
    """A guest that writes goes on writing; what the log lost is lost, and the console's viewers see all."""
    f = faulty(guest=True, append="vmlet.write=0 vmlet.pace=0.1")
    client = f.pod.boot()
    console = f.pod.dir / "virt-serial0-log"
    wait_until(lambda: console.exists() and b"line 00000005" in console.read_bytes(), f.pod.log)
    f.fail("write", number, "*/virt-serial0-log")
    wait_until(lambda: f.hits() > 20, "the guest goes on writing")
    f.heal()
    size = console.stat().st_size
    wait_until(lambda: console.stat().st_size > size + 100, "the log goes on")
    assert f.pod.state(client) == "Running" and console.read_text().count("vmlet guest ready") == 1
    end(f.pod, client)
    table.add(f"console log: write fails, {errno.errorcode[number]}", "guest runs on")


@each_error
@pytest.mark.parametrize("call", ["open", "write"])
def test_termination_message(faulty, table, call, number):
    f = faulty()
    client = f.pod.boot()
    f.fail(call, number, f.pod.termination)
    client.ok("KillVirtualMachine", vmi={})
    assert f.pod.wait() == 0, f.pod.log()
    f.heal()
    assert f.hits() > 0 and "cannot write the termination message" in f.pod.log()
    assert f.pod.leftovers() == []
    table.add(f"termination message: {call} fails, {errno.errorcode[number]}", "right exit code; said in the log")


# What is made before QEMU starts: volumes and disks of the manifest, the rest of its spec and metadata, the file, and
# the calls that make it.
MADE = {
    "cloud-init image": ({"name": "x", "cloudInitNoCloud": {"userData": "#cloud-config\n"}}, "*.iso*", ["open", "write", "rename"]),
    "emptyDisk": ({"name": "x", "emptyDisk": {"capacity": "16Mi"}}, "*/ed/*", ["open", "write", "rename"]),
    "hostDisk": ({"name": "x", "hostDisk": {"path": "/d/x.img", "type": "DiskOrCreate", "capacity": "16Mi"}}, "*/x.img*",
                 ["open", "fsync", "rename"]),
    "metrics disk": ({"name": "x", "downwardMetrics": {}}, "*/vhostmd0*", ["open", "write", "rename"]),
    "ignition data": (None, "*/ignition.json*", ["open", "write", "rename"]),
    "firmware's variables": (None, "*_VARS.fd*", ["open", "write", "rename"]),
}


def made(f, what):
    volume = MADE[what][0]
    spec = f.pod.manifest["spec"]
    if volume:
        spec["volumes"] = [volume]
        spec["domain"]["devices"]["disks"] = [{"name": "x", "disk": {"bus": "virtio"}}]
    if what == "hostDisk":
        (f.pod.private / "vmi-disks" / "x").mkdir(parents=True)
    elif what == "ignition data":
        f.pod.manifest["metadata"]["annotations"] = {"kubevirt.io/ignitiondata": "{}"}
    elif what == "firmware's variables":
        spec["domain"]["firmware"] = {"bootloader": {"efi": {"secureBoot": False}}}


@each_error
@pytest.mark.parametrize("what, call", [pytest.param(w, c, id=f"{w.replace(' ', '-')}-{c}") for w, row in MADE.items() for c in row[2]])
def test_file_that_a_start_makes(faulty, table, what, call, number):
    """The start is refused, nothing of the file is left, and the next start works."""
    f = faulty()
    made(f, what)
    f.pod.start()
    client = f.pod.client()
    f.fail(call, number, MADE[what][1])
    answer = client.call("SyncVirtualMachine", vmi=f.pod.manifest)
    assert os.strerror(number) in answer["error"]["message"], answer
    assert f.hits() > 0 and f.pod.qemu is None
    name = MADE[what][1].strip("*")
    assert not [p for p in f.pod.tmp.rglob("*") if name in str(p.relative_to(f.pod.tmp)) and p.is_file()]
    f.heal()
    client.ok("SyncVirtualMachine", vmi=f.pod.manifest)
    client.ok("KillVirtualMachine", vmi={})
    assert f.pod.wait() == 0, f.pod.log()
    (f.pod.dir / "tiny_VARS.fd").unlink(missing_ok=True)  # the guest's own, for its next start
    assert f.pod.leftovers() == [], f.pod.log()
    table.add(f"{what}: {call} fails, {errno.errorcode[number]}", "start refused with the reason; the next works")


@each_error
@pytest.mark.parametrize("call", ["open", "write", "rename"])
def test_cache_of_what_qemu_can_do(faulty, table, call, number):
    """It is there to be quick: the VM starts without it."""
    f = faulty()
    cache = f.pod.tmp / "mark-cache"
    f.pod.environment["VMLET_CACHE_DIR"] = str(cache)
    f.fail(call, number, f"{cache}/*")
    client = f.pod.boot()
    assert f.hits() > 0 and not [p for p in cache.rglob("*") if p.is_file()]
    end(f.pod, client)
    table.add(f"cache of capabilities: {call} fails, {errno.errorcode[number]}", "guest runs")


@each_error
def test_mark_of_the_console_logs_end(faulty, table, number):
    f = faulty()
    client = f.pod.boot()
    f.fail("open", number, "*-sigTerm")
    client.ok("KillVirtualMachine", vmi={})
    assert f.pod.wait() == 0, f.pod.log()
    assert f.hits() == 1 and "guest-console-log ends by its own SIGTERM" in f.pod.log() and os.strerror(number) in f.pod.log()
    f.heal()
    assert f.pod.leftovers() == []
    table.add(f"mark of the console log's end: open fails, {errno.errorcode[number]}", "right exit code; said in the log")


@pytest.mark.parametrize("n", range(3))
def test_memory_dump_on_a_full_disk(lab, table, n):
    """QEMU writes it: it fails with the reason, and the guest runs on."""
    pod = lab(folder=TOP / "build")
    target = pod.tmp / "cd" / "small"
    target.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", target], check=True)
    try:
        client = pod.boot()
        watcher = pod.client()
        watcher.ok("Subscribe")
        client.ok("VirtualMachineMemoryDump", vmi={}, dumpPath=str(target / "memory.dump"))
        failed = watcher.event(lambda e: e["reason"] == "MemoryDumpFailed")
        assert os.strerror(errno.ENOSPC) in failed["memoryDump"]["FailureReason"], failed
        pod.wait_state(client, "Running")  # QEMU stops the guest for the dump
        end(pod, client)
    finally:
        subprocess.run(["umount", "--lazy", target], check=True)
    table.add("memory dump: write fails, ENOSPC", "guest runs on; failure stated")


@pytest.mark.parametrize("jump", [3600, -3600, 10 * 365 * 86400], ids=["hour-ahead", "hour-back", "years-ahead"])
@pytest.mark.parametrize("killed", [False, True], ids=["", "launcher-killed"])
def test_clock_jump(faulty, table, jump, killed):
    """The deadline of a stop is by the monotonic clock, also when another launcher takes it up."""
    f = faulty()
    client = f.pod.boot()
    began = time.monotonic()
    client.ok("ShutdownVirtualMachine", vmi={}, gracePeriodSeconds=4)
    f.set_clock(jump)
    seconds = None
    if killed:
        seconds, client = kill_launcher(f.pod, client)
    assert f.pod.wait() == 0, f.pod.log()
    assert time.monotonic() - began >= 4, "it was ended before its time"
    assert f.pod.leftovers() == []
    table.add(f"wall clock set by {jump} s{', launcher killed' if killed else ''}", "stop at its deadline", seconds)


@pytest.mark.parametrize("n", range(3))
def test_no_more_descriptors(lab, table, n):
    """Clients are refused until there is room; the VM runs, and all works again."""
    pod = lab(folder=TOP / "build")
    client = pod.boot()
    launcher = pod.launcher
    before = resource.prlimit(launcher, resource.RLIMIT_NOFILE)
    resource.prlimit(launcher, resource.RLIMIT_NOFILE, (3, before[1]))  # those that are open stay so
    client.ok("PauseVirtualMachine", vmi={})  # writes the state: it cannot
    wait_until(lambda: os.strerror(errno.EMFILE) in pod.log(), pod.log)
    assert pod.state(client) == "Paused"
    resource.prlimit(launcher, resource.RLIMIT_NOFILE, before)
    began = time.monotonic()
    assert pod.state(pod.client()) == "Paused"
    table.add("no more descriptors (RLIMIT_NOFILE)", "guest runs on; said in the log", time.monotonic() - began)
    client.ok("UnpauseVirtualMachine", vmi={})
    assert pod.check_state_file()["state"] == "Running"
    end(pod, client)
