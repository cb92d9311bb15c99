# SPDX-License-Identifier: Apache-2.0
"""A disk whose file system runs full stops the guest; once there is room the launcher resumes it by itself."""
import os
import signal
import subprocess

import pytest
from vmlet_lab import UID, vmi, wait_until


@pytest.fixture
def full(pod):
    """A pod whose empty disks lie on a file system of 4 MiB."""
    where = pod.tmp / "ed"
    where.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", where], check=False).returncode != 0:
        pytest.skip("cannot mount a tmpfs here")
    yield where
    pod.close()
    subprocess.run(["umount", "-l", where], check=True)


def run_full(pod):
    pod.start()
    client = pod.client()
    spec = vmi()
    spec["spec"]["domain"]["devices"]["disks"] = [{"name": "scratch", "disk": {"bus": "virtio"}}]
    spec["spec"]["volumes"] = [{"name": "scratch", "emptyDisk": {"capacity": "64Mi"}}]
    client.ok("SyncVirtualMachine", vmi=spec)
    pod.qemu = client.ok("GetDomain")["vmlet"]["pid"]
    pod.wait_agent(client)
    watcher = pod.client()
    watcher.ok("Subscribe")
    write = "dd if=/dev/zero of=/dev/vda bs=64k count=256 conv=fsync >/dev/null 2>&1 && touch /tmp/done"
    client.ok("Exec", Command="/bin/sh", Args=["-c", f"({write}) >/dev/null 2>&1 </dev/null &"], timeoutSeconds=60)
    event = watcher.event(lambda e: e["reason"] == "IOerror")
    assert (event["volume"], event["errno"]) == ("scratch", "No space left on device")
    assert event["message"] == "VM Paused due to not enough space on volume: scratch"
    wait = watcher.event(lambda e: e["reason"] == "IOErrorWait")
    assert wait["retryInSeconds"] == 10 and wait["volume"] == "scratch"
    return client, watcher


def test_resumed_once_there_is_room(pod, full):
    client, watcher = run_full(pod)
    answer = client.ok("GetDomain")
    assert (answer["domain"]["Status"]["Status"], answer["domain"]["Status"]["Reason"]) == ("Paused", "IOError")
    error = answer["vmlet"]["ioError"]
    assert (error["volume"], error["errno"]) == ("scratch", "No space left on device")
    assert error["since"] and error["nextTry"] > error["since"] and error["attempts"] == 0
    # a new launcher goes on with it
    pod.process.kill()
    pod.process.wait()
    pod.start()
    client, watcher = pod.client(), pod.client()
    watcher.ok("Subscribe", **{"from": 1})
    watcher.event(lambda e: "took over" in e.get("message", ""))
    again = watcher.event(lambda e: e["reason"] == "IOErrorWait")
    assert (again["volume"], again["errno"]) == ("scratch", "No space left on device")
    subprocess.run(["mount", "-o", "remount,size=64m", full], check=True)
    watcher.event(lambda e: e["reason"] == "IOErrorResume")
    watcher.event(lambda e: e["type"] == "Domain" and e["reason"] == "Running")
    pod.wait_agent(client)
    wait_until(lambda: client.ok("Exec", Command="/bin/ls", Args=["/tmp/done"])["exitCode"] == 0, "it is written")
    answer = client.ok("GetDomain")
    assert answer["domain"]["Status"]["Reason"] == "Unknown"
    assert "ioError" not in answer["vmlet"] and "pauseVolume" not in answer["vmlet"]


def test_a_users_pause_stays(pod, full):
    client, _ = run_full(pod)
    client.ok("PauseVirtualMachine", vmi={})
    answer = client.ok("GetDomain")
    assert answer["domain"]["Status"]["Reason"] == "User" and "ioError" not in answer["vmlet"]
    subprocess.run(["mount", "-o", "remount,size=64m", full], check=True)
    client.ok("SyncVirtualMachine", vmi=vmi())
    assert client.ok("GetDomain")["domain"]["Status"]["Status"] == "Paused"
    client.ok("UnpauseVirtualMachine", vmi={})
    assert client.ok("GetDomain")["domain"]["Status"]["Status"] == "Running"
    os.kill(pod.process.pid, signal.SIGTERM)
    assert pod.end() == 0
    assert UID in str(pod.dir)
