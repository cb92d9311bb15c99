# SPDX-License-Identifier: Apache-2.0
"""Faults from outside: a QEMU that says nothing, full disks, spoilt files, programs that are stopped."""
import json
import os
import signal
import subprocess
import time

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
        assert pod.check_state_file()["state"] == "Paused" and pod.qemu == qemu
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
    wait_until(lambda: "took over the running VM" in pod.log(), "taken over")
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
