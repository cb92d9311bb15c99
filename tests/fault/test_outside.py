# SPDX-License-Identifier: Apache-2.0
"""Faults from outside: a QEMU that says nothing, full disks, spoilt files, programs that are stopped."""
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from fault_lab import kill_launcher
from vmlet_lab import Client, is_alive, wait_until

TIMES = int(os.environ.get("VMLET_FAULT_TIMES", "3"))
each = pytest.mark.parametrize("n", range(TIMES))


def end(pod, client):
    client.ok("KillVirtualMachine", vmi={})
    assert pod.wait() == 0, pod.log()
    assert pod.leftovers() == [], pod.log()


@each
def test_silent_qemu(lab, table, n):
    """The answers that come from memory come; a kill works; and when QEMU wakes up, all is well again."""
    pod = lab()
    client = pod.boot()
    qemu = pod.qemu
    os.kill(qemu, signal.SIGSTOP)
    other = pod.client()
    client.file.write(b'{"jsonrpc":"2.0","id":900,"method":"Qmp","params":{"command":"query-status"}}\n')
    client.file.flush()
    began = time.monotonic()
    assert pod.state(other) == "Running"
    seconds = time.monotonic() - began
    os.kill(qemu, signal.SIGCONT)
    answer = json.loads(client.file.readline())
    assert answer["id"] == 900 and answer["result"]["return"]["running"]
    end(pod, client)
    table.add("QEMU silent (SIGSTOP), then answers", "answered from memory; went on", seconds)


def test_silent_qemu_times_out(lab, table):
    pod = lab()
    client = pod.boot()
    os.kill(pod.qemu, signal.SIGSTOP)
    began = time.monotonic()
    answer = client.call("Qmp", command="query-status")
    assert answer["error"]["data"]["code"] == "TimedOut", answer
    seconds = time.monotonic() - began
    assert seconds < 110
    assert pod.state(client) == "Running"
    end(pod, client)  # by SIGKILL, since nothing else is heard
    table.add("QEMU silent (SIGSTOP) for good", "TimedOut; killed in order", seconds)


@each
def test_stopped_launcher(lab, table, n):
    pod = lab()
    client = pod.boot()
    os.kill(pod.launcher, signal.SIGSTOP)
    assert is_alive(pod.qemu)
    os.kill(pod.launcher, signal.SIGCONT)
    began = time.monotonic()
    assert pod.state(client) == "Running"
    table.add("launcher stopped (SIGSTOP), continued", "guest ran on", time.monotonic() - began)
    end(pod, client)


@each
@pytest.mark.parametrize("what", ["slow", "dead"])
def test_bad_subscriber(lab, table, what, n):
    """One that does not read, or goes away, harms nobody else."""
    pod = lab()
    client = pod.boot()
    bad = Client(pod.socket)
    bad.ok("Subscribe", **{"from": 1})
    if what == "dead":
        bad.close()
    for _ in range(50):
        client.ok("PauseVirtualMachine", vmi={})
        client.ok("UnpauseVirtualMachine", vmi={})
    began = time.monotonic()
    assert pod.state(client) == "Running"
    table.add(f"{what} subscriber", "others served", time.monotonic() - began)
    end(pod, client)
    if what == "slow":
        bad.close()


@each
def test_full_disk(lab, table, n):
    pod = lab()
    pod.private.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", pod.private], check=True)
    try:
        client = pod.boot()
        with pytest.raises(OSError), open(pod.private / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)
        qemu = pod.qemu
        client.ok("PauseVirtualMachine", vmi={})
        client.ok("UnpauseVirtualMachine", vmi={})
        wait_until(lambda: "the VM runs on" in pod.log(), "the full disk is in the log")
        assert pod.state(client) == "Running" and pod.check_state_file()["pid"] == qemu
        seconds, client = kill_launcher(pod, client)
        wait_until(lambda: "took over the running VM" in pod.log(), "taken over on a full disk")
        os.unlink(pod.private / "filler")
        client.ok("PauseVirtualMachine", vmi={})
        pod.wait_saved("Paused")
        assert pod.qemu == qemu
        end(pod, client)
    finally:
        subprocess.run(["umount", "--lazy", pod.private], check=True)
    table.add("state directory full (ENOSPC)", "guest runs on; said in the log", seconds)


@each
def test_spoilt_event_log(lab, table, n):
    pod = lab()
    client = pod.boot()
    with open(pod.dir / "events.log", "ab") as log:
        log.write(b'\0\xff{"seq": 99999999999999999999}\n{"seq":')
    seconds, client = kill_launcher(pod, client)
    wait_until(lambda: "took over the running VM" in pod.log(), pod.log)
    end(pod, client)
    table.add("events.log spoilt, launcher killed", "guest runs on", seconds)


@each
@pytest.mark.parametrize("text", ["", "{ half", '{"version": 1, "bootId": "another"}'], ids=["empty", "half", "boot"])
def test_spoilt_state_file(lab, table, text, n):
    """Without it nobody can take the VM over: the pod ends, with the reason."""
    pod = lab()
    client = pod.boot()
    client.ok("Ping")
    (pod.dir / "domain.json").write_text(text)
    began = time.monotonic()
    os.kill(pod.launcher, signal.SIGKILL)
    assert pod.wait() == 1, pod.log()
    assert "is lost" in pod.log() and "SIGTERM" in pod.log()
    assert not pod.processes()
    seconds = time.monotonic() - began
    end(pod, pod.boot())
    table.add("domain.json spoilt, launcher killed", "ended: reason stated", seconds)


@pytest.mark.long
@pytest.mark.parametrize("killed", [False, True], ids=["", "launcher-killed"])
def test_qemu_answers_after_30_s(lab, table, killed):
    """Longer than any question to it may take: the VM is not given up, and afterwards it answers."""
    pod = lab()
    client = pod.boot()
    qemu = pod.qemu
    os.kill(qemu, signal.SIGSTOP)
    seconds = None
    if killed:  # the next one has nobody to talk to
        seconds, client = kill_launcher(pod, client)
    answer = client.call("Qmp", command="query-status")
    assert answer["error"]["data"]["code"] == "TimedOut", answer
    waited = time.monotonic()
    stopped = pod.client()
    stopped.socket.settimeout(32)
    with pytest.raises(TimeoutError):  # nothing comes: 32 s pass, and no loop polls
        stopped.file.readline()
    assert time.monotonic() - waited > 30 and pod.qemu == qemu and is_alive(qemu)
    os.kill(qemu, signal.SIGCONT)
    wait_until(lambda: client.call("Qmp", command="query-status").get("result", {}).get("return", {}).get("running"), pod.log)
    pod.wait_state(client, "Running")
    client.ok("PauseVirtualMachine", vmi={})
    pod.wait_saved("Paused")
    assert pod.qemu == qemu
    end(pod, client)
    table.add(f"QEMU answers after more than 30 s{', launcher killed' if killed else ''}", "guest not given up; answers again",
              seconds)


@each
def test_out_of_memory(lab, table, n):
    """The kernel ends QEMU: the memory cgroup of the container is smaller than what the guest touches."""
    group = next((g for g in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup/unified")) if
                  (g / "memory.limit_in_bytes").exists() or "memory" in _text(g / "cgroup.controllers")), None)
    if group is None:
        pytest.skip("no memory cgroup here")
    group = group / f"vmlet-{os.getpid()}-{n}"
    group.mkdir()
    limit, usage = (("memory.limit_in_bytes", "memory.usage_in_bytes") if (group / "memory.limit_in_bytes").exists() else
                    ("memory.max", "memory.current"))
    try:
        pod = lab(guest=True)
        pod.start()
        client = pod.client()
        (group / "cgroup.procs").write_text(str(pod.launcher))  # QEMU is born into it
        client.ok("SyncVirtualMachine", vmi=pod.manifest)
        began = time.monotonic()
        # the guest has not unpacked its initramfs yet, and will touch more
        (group / limit).write_text(str(int((group / usage).read_text()) + (4 << 20)))
        assert pod.wait() == 1, pod.log()
        assert "QEMU was killed by SIGKILL" in pod.log(), pod.log()
        assert pod.leftovers() == [], pod.log()
        table.add("QEMU ended by the kernel: out of memory", "ended: reason stated", time.monotonic() - began)
    finally:
        wait_until(lambda: not _text(group / "cgroup.procs"), "the group is empty")
        group.rmdir()


def _text(path):
    try:
        return path.read_text()
    except OSError:
        return ""


@each
@pytest.mark.parametrize("what", ["zeros", "braces", "sync", "binary"])
def test_agent_garbage(lab, table, what, n):
    """A guest that writes anything into the agent's channel: no answer is believed, the VM runs, commands to it fail in time."""
    junk = {
        "zeros": "cat /dev/zero", "binary": "cat /dev/urandom",
        "braces": "while :; do echo '{{{{{{{{[[[[[\"'; done",
        "sync": "while :; do echo '{\"return\": 1}'; echo '{\"error\": {}}'; done",
    }[what]
    pod = lab(guest=True, append="vmlet.noagent")
    client = pod.boot()
    console = pod.dir / "virt-serial0-log"
    wait_until(lambda: b"vmlet guest ready" in (console.read_bytes() if console.exists() else b""), pod.log)
    write_console(pod, f"/sbin/agent none; ({junk}) >/dev/virtio-ports/org.qemu.guest_agent.0 2>/dev/null &\n")
    write_console(pod, "echo junk''flows\n")
    wait_until(lambda: b"junkflows" in console.read_bytes(), pod.log)
    began = time.monotonic()
    for _ in range(20):
        assert pod.state(client) == "Running"
    seconds = (time.monotonic() - began) / 20
    answer = client.call("GuestPing", domainName="ns_tiny")
    assert "error" in answer or answer["result"].get("success") is False, answer
    assert not client.ok("GetDomain")["vmlet"]["agentConnected"]
    end(pod, client)
    table.add(f"agent garbage: {what}", "VM runs; commands of the agent fail", seconds)


def write_console(pod, text):
    with socket.socket(socket.AF_UNIX) as console:
        console.connect(str(pod.dir / "virt-serial0"))
        console.sendall(text.encode())
        console.settimeout(30)
        console.recv(1)  # its echo: it has arrived


@each
@pytest.mark.parametrize("when", ["before", "running"])
def test_kvm_withdrawn(lab, table, tmp_path, when, n):
    """A mount namespace of the pod's own, whose /dev/kvm can be taken away. A VM that may only run on KVM is refused with
    the reason; one that runs (emulated) does not care, nor does the launcher that takes it over."""
    hide = ["mount", "--bind", "/dev/null", "/dev/kvm"]
    if not os.path.exists("/dev/kvm"):
        pytest.skip("no /dev/kvm to take away")
    pod = lab(emulation=when == "running", prefix=["unshare", "--mount", "--propagation", "private"])
    pod.start()
    client = pod.client()
    enter = ["nsenter", "--mount", f"--target={pod.launcher}"]
    began = time.monotonic()
    if when == "before":
        subprocess.run([*enter, *hide], check=True)
        answer = client.call("SyncVirtualMachine", vmi=pod.manifest)
        assert answer["error"]["data"]["code"] == "NoKvm" and "/dev/kvm" in answer["error"]["message"], answer
        assert pod.qemu is None and not (pod.dir / "domain.json").exists()
        outcome, seconds = "start refused with the reason", time.monotonic() - began
        os.kill(pod.process.pid, signal.SIGTERM)
        assert pod.wait() == 0, pod.log()
    else:
        client.ok("SyncVirtualMachine", vmi=pod.manifest)
        subprocess.run([*enter, *hide], check=True)
        seconds, client = kill_launcher(pod, client)
        wait_until(lambda: "took over the running VM" in pod.log(), pod.log)
        end(pod, client)
        outcome = "guest runs on"
    assert pod.leftovers() == [], pod.log()
    table.add(f"/dev/kvm withdrawn, {'before the start' if when == 'before' else 'VM runs, launcher killed'}", outcome, seconds)
