# SPDX-License-Identifier: Apache-2.0
"""A long life in fast motion: thousands of cycles from several clients at once leave memory and descriptors as they were."""
import os
import threading
import time
from pathlib import Path

from vmlet_lab import vmi, wait_until

CYCLES = int(os.environ.get("VMLET_STRESS_CYCLES", "10000"))
CLIENTS = 8
WARM_UP = 2000  # the ring of events is full, and what is made at the first use of a method is made
GROWTH_KIB = 128


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def private_kib(pid):
    """The pages that nobody else has."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def firmware_only():
    manifest = vmi()
    del manifest["spec"]["domain"]["firmware"]
    return manifest


def cycle(pod, client, manifest):
    assert client.ok("PauseVirtualMachine", vmi={})["success"]
    assert client.ok("UnpauseVirtualMachine", vmi={})["success"]
    assert client.ok("SyncVirtualMachine", vmi=manifest)["success"]
    watcher = pod.client()
    pod.clients.remove(watcher)
    first = watcher.ok("Subscribe")["next"]
    assert watcher.ok("Subscribe", **{"from": max(1, first - 1)})["lost"] == 0
    watcher.close()


def run(pod, manifest, cycles):
    faults = []

    def work():
        client = pod.client()
        try:
            for _ in range(cycles // CLIENTS):
                cycle(pod, client, manifest)
        except BaseException as e:  # pylint: disable=broad-except
            faults.append(e)

    threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults
    for client in pod.clients[1:]:
        client.close()
    del pod.clients[1:]


def settled(pod, client):
    """The launcher has closed what its clients have left, and gives no more memory back (RPC_TRIM_USEC is a second)."""
    wait_until(lambda: descriptors(pod.process.pid) == pod.descriptors, "the connections are closed")
    least, since = private_kib(pod.process.pid), time.monotonic()

    def rests():
        nonlocal least, since
        now = private_kib(pod.process.pid)
        if now < least:
            least, since = now, time.monotonic()
        return time.monotonic() - since > 2

    wait_until(rests, "the private memory is at rest")
    assert client.ok("Ping") is not None
    return descriptors(pod.process.pid), descriptors(pod.qemu), least


def test_memory_and_descriptors_are_flat(pod):
    pod.start("--grace-period-seconds", "1")
    client, manifest = pod.client(), firmware_only()
    client.ok("SyncVirtualMachine", vmi=manifest)
    pod.qemu = client.ok("GetDomain")["vmlet"]["pid"]
    pod.descriptors = descriptors(pod.process.pid)
    run(pod, manifest, min(WARM_UP, CYCLES))
    before = settled(pod, client)
    began = time.monotonic()
    run(pod, manifest, CYCLES)
    after = settled(pod, client)
    print(f"{CYCLES} cycles in {time.monotonic() - began:.1f} s; fds of launcher and QEMU, private KiB: {before} -> {after}")
    assert after[:2] == before[:2]
    assert after[2] - before[2] <= GROWTH_KIB, (before, after)
    assert client.ok("GetDomain")["domain"]["Status"]["Status"] == "Running"
    client.ok("KillVirtualMachine")
    assert pod.end() == 0
