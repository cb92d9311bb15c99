# SPDX-License-Identifier: Apache-2.0
"""Kills of the launcher, the monitor and QEMU in each state of the VM; and 200 of the launcher while the guest writes."""
import os
import signal
import statistics
import time

import pytest
from fault_lab import kill_launcher, kill_while_it_writes
from vmlet_lab import is_alive, wait_until

STATES = ["prelaunch", "running", "paused", "stopping", "adopted"]
TIMES = int(os.environ.get("VMLET_FAULT_TIMES", "3"))


def bring_to(pod, state):
    if state == "prelaunch":
        pod.manifest["spec"]["startStrategy"] = "Paused"
    client = pod.boot()
    if state == "paused":
        client.ok("PauseVirtualMachine", vmi={})
    elif state == "stopping":
        client.ok("ShutdownVirtualMachine", vmi={}, gracePeriodSeconds=3)
    elif state == "adopted":
        _, client = kill_launcher(pod, client)
        wait_until(lambda: "took over the running VM" in pod.log(), pod.log)
    return client


@pytest.mark.parametrize("n", range(TIMES))
@pytest.mark.parametrize("state", STATES)
def test_launcher_killed(lab, table, state, n):
    pod = lab()
    client = bring_to(pod, state)
    taken_over = pod.log().count("took over the running VM")
    before, qemu = pod.state(client), pod.qemu
    seconds, client = kill_launcher(pod, client)
    assert pod.qemu == qemu and is_alive(qemu)
    if state == "stopping":
        assert pod.wait() == 0, pod.log()  # the deadline was taken up
        outcome = "stop taken up"
    else:
        wait_until(lambda: pod.log().count("took over the running VM") > taken_over, "taken over")
        pod.wait_state(client, before)
        client.ok("KillVirtualMachine", vmi={})
        assert pod.wait() == 0, pod.log()
        outcome = "guest runs on"
    assert pod.leftovers() == []
    table.add(f"launcher killed, VM {state}", outcome, seconds)


@pytest.mark.parametrize("n", range(TIMES))
@pytest.mark.parametrize("state", STATES)
def test_qemu_killed(lab, table, state, n):
    pod = lab()
    bring_to(pod, state)
    began = time.monotonic()
    os.kill(pod.qemu, signal.SIGKILL)
    code = pod.wait()
    if state == "adopted":  # its exit status is the monitor's to know
        assert code == 1 and "QEMU" in pod.log()
    else:
        assert code == 1 and "QEMU was killed by SIGKILL" in pod.log(), pod.log()
    assert "virt-launcher exited with code 1" in pod.termination.read_text()
    assert pod.leftovers() == []
    table.add(f"QEMU killed, VM {state}", "ended: reason stated", time.monotonic() - began)


@pytest.mark.parametrize("n", range(TIMES))
@pytest.mark.parametrize("state", STATES)
def test_monitor_killed(lab, table, state, n):
    """Outside a PID namespace nobody ends the rest: the launcher hears of it, and stops its guest in order."""
    pod = lab()
    bring_to(pod, state)
    began = time.monotonic()
    pod.process.kill()
    assert pod.wait() == -signal.SIGKILL
    wait_until(lambda: not pod.processes(), f"launcher and QEMU are gone: {pod.log()}")
    assert pod.leftovers() == [], pod.log()
    table.add(f"monitor killed, VM {state}", "guest stopped in order", time.monotonic() - began)


@pytest.mark.long
def test_200_kills_lose_no_line(lab, table):
    """A line ten times a second, on the disk and then on the console."""
    pod = lab(
        guest=True, append="vmlet.write=0 vmlet.pace=0.1 vmlet.disk=/dev/vda",
        volumes=[{"name": "data", "hostDisk": {"path": "/data/disk.img", "type": "DiskOrCreate", "capacity": "16Mi"}}],
    )
    pod.manifest["spec"]["domain"]["devices"]["disks"] = [{"name": "data", "disk": {"bus": "virtio"}}]
    disk = pod.private / "vmi-disks" / "data" / "disk.img"
    disk.parent.mkdir(parents=True)
    times = kill_while_it_writes(pod, 200, disk)
    for seconds in times:
        table.add("launcher killed while the guest writes", "no line lost, no reboot", seconds)
    # the budget holds for a machine that has a core to spare; other tests run beside this one
    assert statistics.median(times) <= (0.1 if os.getloadavg()[0] < os.cpu_count() else 0.5)
