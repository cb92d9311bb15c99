# SPDX-License-Identifier: Apache-2.0
"""A disk whose file system runs full stops the guest; once there is room the launcher resumes it by itself."""
import errno
import hashlib
import os
import signal
import subprocess
from pathlib import Path

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


def test_a_next_launcher_goes_on_with_the_back_off(pod, full):
    client, watcher = run_full(pod)
    assert watcher.event(lambda e: e["reason"] == "IOErrorResume")["attempt"] == 1
    wait = watcher.event(lambda e: e["reason"] == "IOErrorWait")  # there is still no room
    assert (wait["retryInSeconds"], wait["attempt"]) == (20, 2)
    last = wait["seq"]
    pod.process.kill()
    pod.process.wait()
    pod.start()
    client, watcher = pod.client(), pod.client()
    watcher.ok("Subscribe", **{"from": last + 1})
    again = watcher.event(lambda e: e["reason"] == "IOErrorWait")
    assert (again["retryInSeconds"], again["attempt"]) == (20, 2)
    error = client.ok("GetDomain")["vmlet"]["ioError"]
    assert error["attempts"] == 1 and error["nextTry"] > error["since"]
    subprocess.run(["mount", "-o", "remount,size=64m", full], check=True)
    assert watcher.event(lambda e: e["reason"] == "IOErrorResume")["attempt"] == 2
    watcher.event(lambda e: e["type"] == "Domain" and e["reason"] == "Running")


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


# ---- a disk that fails, and a writer that must lose nothing -------------------------------------------------------------

BLOCK = 4096
COUNT = 200
# In the guest: numbered blocks, each written through to the disk, and read back at the end.
WRITER = (f"n=0; while [ $n -lt {COUNT} ]; do echo block $n | dd of=/dev/vda bs={BLOCK} seek=$n count=1 "
          "conv=sync,notrunc oflag=direct 2>>/tmp/errors || echo failed >>/tmp/errors; n=$((n+1)); echo $n >/tmp/n; done; "
          "sync; touch /tmp/done")


@pytest.fixture
def faulty(pod):
    """The pod's launcher passes the library and the switch on to QEMU."""
    library = pod.tmp / "io-fault.so"
    source = Path(__file__).parent / "io-fault.c"
    subprocess.run(["cc", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64", "-O1", "-shared", "-fPIC", "-o", library, source],
                   check=True)
    pod.switch = pod.tmp / "switch"
    pod.environment = {"LD_PRELOAD": str(library), "VMLET_FAULT_FILE": "disk.img", "VMLET_FAULT_SWITCH": str(pod.switch)}
    return pod


def set_fault(pod, number):
    if number:
        (pod.tmp / "switch.new").write_text(str(number))
        os.rename(pod.tmp / "switch.new", pod.switch)
    else:
        pod.switch.unlink()


@pytest.mark.parametrize("number, text, message", [
    (errno.EIO, "Input/output error", "VM Paused due to IO error at the volume: data"),
    (errno.ENOSPC, "No space left on device", "VM Paused due to not enough space on volume: data"),
])
def test_a_writer_loses_nothing(faulty, number, text, message):
    pod = faulty
    image = pod.private / "vmi-disks" / "data" / "disk.img"
    image.parent.mkdir(parents=True)
    with open(image, "wb") as f:
        f.truncate(COUNT * BLOCK)
    pod.start(env=pod.environment)
    client = pod.client()
    spec = vmi()
    spec["spec"]["domain"]["devices"]["disks"] = [{"name": "data", "disk": {"bus": "virtio"}}]
    spec["spec"]["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": "d"}}]
    client.ok("SyncVirtualMachine", vmi=spec)
    pod.qemu = client.ok("GetDomain")["vmlet"]["pid"]
    pod.wait_agent(client)
    watcher = pod.client()
    watcher.ok("Subscribe")
    client.ok("Exec", Command="/bin/sh", Args=["-c", f"({WRITER}) >/dev/null 2>&1 </dev/null &"], timeoutSeconds=60)
    for _ in range(2):  # twice: the second trouble is told as the first one was
        set_fault(pod, number)
        event = watcher.event(lambda e: e["reason"] == "IOerror")
        assert (event["volume"], event["errno"], event["message"]) == ("data", text, message)
        watcher.event(lambda e: e["reason"] == "IOErrorWait")
        answer = client.ok("GetDomain")
        assert (answer["domain"]["Status"]["Status"], answer["domain"]["Status"]["Reason"]) == ("Paused", "IOError")
        assert (answer["vmlet"]["ioError"]["volume"], answer["vmlet"]["ioError"]["errno"]) == ("data", text)
        set_fault(pod, 0)
        client.ok("SyncVirtualMachine", vmi=spec)  # as the node agent does; it would be tried again in 10 s by itself
        watcher.event(lambda e: e["type"] == "Domain" and e["reason"] == "Running")
        pod.wait_agent(client)
    wait_until(lambda: client.ok("Exec", Command="/bin/ls", Args=["/tmp/done"])["exitCode"] == 0, "it is written")
    seen = client.ok("Exec", Command="/bin/sh", Args=["-c", "grep -c failed /tmp/errors; sha256sum < /dev/vda"])
    failures, checksum = seen["stdOut"].split()[:2]
    assert failures == "0"  # the guest never knew
    data = image.read_bytes()
    assert checksum == hashlib.sha256(data).hexdigest()
    for i in range(COUNT):
        line = f"block {i}\n".encode()
        assert data[i * BLOCK: (i + 1) * BLOCK] == line + bytes(BLOCK - len(line)), i
