# SPDX-License-Identifier: Apache-2.0
"""The orderly stop, whatever the guest does: it ends by its deadline, and says which way it took."""
import json
import os
import signal
import subprocess
import sys
from datetime import datetime

import pytest
from launcher_lab import add_disk, mount_disk
from vmlet_lab import vmi, wait_until

FORCED = "because the guest did not shut down in its grace period"
ASKED = "the guest shut down"
# What follows the deadline: `quit`, SIGTERM, SIGKILL, and how long each has (src/base/limits.h). Each has its own event
# with the deadline and the moment, by the launcher's monotonic clock: how busy the machine is does not count, but for
# the moment in which the launcher is given a CPU. A witness tells how late the machine lets anybody be.
WAYS = ["quit", "SIGTERM", "SIGKILL"]
STAGE_USEC, LATE_USEC = 2_000_000, 250_000


class Witness:
    """A process that does as the launcher does, sleeps and then writes a file, and sees how late that is done."""

    SCRIPT = """
import sys, time
worst = 0
with open(sys.argv[1], "w") as f:
    while True:
        began = time.monotonic()
        time.sleep(0.005)
        f.seek(0)
        print("a line", file=f, flush=True)
        late = time.monotonic() - began
        if late > worst:
            worst = late
            print(worst, flush=True)
"""

    def __init__(self, tmp):
        self.process = subprocess.Popen([sys.executable, "-c", self.SCRIPT, tmp / "witness"], stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()

    def end(self):
        self.process.kill()
        said = self.process.communicate()[0].split()
        return int(float(said[-1]) * 1_000_000) if said else 0


def when(event):
    return datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp()


def check_deadlines(events, grace, forced, witness_usec):
    """Each step at its deadline and never later, or none and the end before it."""
    allowed = LATE_USEC + 2 * witness_usec
    domain = [e for e in events if e["type"] == "Domain"]
    asked = [e for e in domain if e["reason"] == "ShuttingDown" and "deadlineUsec" in e]
    off = next(e for e in domain if e["reason"] == "Shutoff")
    steps = [e for e in domain if e["reason"] == "Forcing"]
    assert [s["by"] for s in steps] == WAYS[: len(steps)] and bool(steps) == forced, steps
    if not forced:
        assert 0 <= when(off) - when(asked[0]) <= grace
        return
    assert asked[-1]["deadlineUsec"] - asked[-1]["atUsec"] == grace * 1_000_000
    deadline = asked[-1]["deadlineUsec"]
    for step in steps:
        late = step["atUsec"] - deadline
        print(f"{step['by']}: {late} us after its deadline")
        assert 0 <= step["deadlineUsec"] - deadline <= allowed and 0 <= late <= allowed, (step, deadline, witness_usec)
        deadline = step["atUsec"] + STAGE_USEC


def up(pod, append, firmware=False, disk=False):
    """(client, subscriber): the guest is ready, or in its firmware for good."""
    pod.start()
    client, watcher = pod.client(), pod.client()
    watcher.ok("Subscribe", **{"from": 1})
    manifest = add_disk(vmi(append)) if disk else vmi(append)
    if firmware:
        del manifest["spec"]["domain"]["firmware"]
    client.ok("SyncVirtualMachine", vmi=manifest)
    pod.qemu = client.ok("GetDomain")["vmlet"]["pid"]
    log = pod.dir / "virt-serial0-log"
    if not firmware:
        try:
            wait_until(lambda: "vmlet guest ready" in log.read_text(errors="replace"), "the guest is up")
        except AssertionError as e:
            raise AssertionError(f"{e}\n{log.read_text(errors='replace')}\n{pod.text()}") from e
        if "noagent" not in append:
            pod.wait_agent(client)
    return client, watcher


def stop(pod, client, watcher, grace, expected, *texts):
    witness = Witness(pod.tmp)
    try:
        client.ok("ShutdownVirtualMachine", vmi={}, gracePeriodSeconds=grace)
        try:
            stopping = client.call("GetDomain").get("result", {}).get("vmlet", {}).get("stopping")
        except (OSError, ValueError):  # it has ended, and the launcher with it
            stopping = None
        assert not stopping or stopping["phase"] in ("asked", "quit", "SIGTERM")
        assert pod.end() == 0
    finally:
        late = witness.end()
    events = [*watcher.events]
    for line in watcher.file:
        # the server has gone: what it sent before is still here
        events.append(json.loads(line)["params"])
    check_deadlines(events, grace, expected != ASKED, late)
    for text in (expected, *texts):
        assert text in pod.text(), pod.text()


def test_with_an_agent(pod):
    client, watcher = up(pod, "")
    stop(pod, client, watcher, 90, ASKED, "and the agent asked")


def test_without_an_agent(pod):
    client, watcher = up(pod, "vmlet.noagent")
    stop(pod, client, watcher, 90, ASKED, "power button pressed")


def test_a_guest_that_ignores_the_button_but_has_an_agent(pod):
    client, watcher = up(pod, "vmlet.ignoreacpi")
    stop(pod, client, watcher, 90, ASKED, "and the agent asked")


def test_a_guest_that_ignores_everything(pod):
    client, watcher = up(pod, "vmlet.ignoreacpi vmlet.noagent")
    stop(pod, client, watcher, 3, FORCED, "ended by the monitor's quit")


def test_in_the_firmware(pod):
    client, watcher = up(pod, "", firmware=True)
    stop(pod, client, watcher, 2, FORCED, "ended by the monitor's quit")


def test_paused(pod):
    client, watcher = up(pod, "vmlet.noagent")
    client.ok("PauseVirtualMachine", vmi={})
    stop(pod, client, watcher, 90, ASKED)


def test_paused_and_ignoring(pod):
    client, watcher = up(pod, "vmlet.ignoreacpi vmlet.noagent")
    client.ok("PauseVirtualMachine", vmi={})
    stop(pod, client, watcher, 2, FORCED)


@pytest.mark.parametrize("obeys", [True, False], ids=["obeying", "ignoring"])
def test_frozen(pod, obeys):
    client, watcher = up(pod, "" if obeys else "vmlet.ignoreacpi", disk=True)
    mount_disk(client)
    client.ok("FreezeVirtualMachine", unfreezeTimeoutSeconds=300)
    assert "froze 1 file systems" in pod.text()
    assert client.ok("GetDomain")["domain"]["Status"]["FSFreezeStatus"]["Status"] == "frozen"
    stop(pod, client, watcher, 90, ASKED, "thawed the guest's file systems")


def test_a_qemu_that_hears_nothing(pod):

    client, watcher = up(pod, "vmlet.noagent")
    os.kill(pod.qemu, signal.SIGSTOP)
    stop(pod, client, watcher, 1, "ended by SIGKILL")

def test_a_second_request_only_brings_the_end_nearer(pod):
    client, watcher = up(pod, "vmlet.ignoreacpi vmlet.noagent")
    client.ok("ShutdownVirtualMachine", vmi={}, gracePeriodSeconds=600)
    client.ok("ShutdownVirtualMachine", vmi={}, gracePeriodSeconds=900)
    stop(pod, client, watcher, 2, FORCED)

def test_no_grace_at_all(pod):
    client, _ = up(pod, "vmlet.noagent")
    client.ok("ShutdownVirtualMachine", vmi={}, gracePeriodSeconds=0)
    assert pod.end() == 0
    assert "ended by the monitor's quit (ShutdownVirtualMachine" in pod.text()
