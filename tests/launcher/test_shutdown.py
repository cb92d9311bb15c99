# SPDX-License-Identifier: Apache-2.0
"""The orderly stop, whatever the guest does: it ends by its deadline, and says which way it took."""
import json
import os
import signal
from datetime import datetime

import pytest
from vmlet_lab import vmi, wait_until

FORCED = "because the guest did not shut down in its grace period"
ASKED = "the guest shut down"
# After the deadline: `quit`, then SIGTERM and SIGKILL, 2 s each (src/base/limits.h); the rest is for a busy machine.
AFTER, SLACK = 4, 20


def seconds_between(events, first, last):
    times = {}
    for e in events:
        if e["type"] == "Domain":
            times.setdefault(e["reason"], datetime.fromisoformat(e["time"].replace("Z", "+00:00")))
    return (times[last] - times[first]).total_seconds()


def up(pod, append, firmware=False):
    """(client, subscriber): the guest is ready, or in its firmware for good."""
    pod.start()
    client, watcher = pod.client(), pod.client()
    watcher.ok("Subscribe", **{"from": 1})
    manifest = vmi(append)
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
    client.ok("ShutdownVirtualMachine", vmi={}, gracePeriodSeconds=grace)
    stopping = client.call("GetDomain")
    if "result" in stopping and stopping["result"].get("vmlet", {}).get("stopping"):
        assert stopping["result"]["vmlet"]["stopping"]["phase"] in ("asked", "quit", "SIGTERM")
    assert pod.end() == 0
    events = [*watcher.events]
    for line in watcher.file:
        # the server has gone: what it sent before is still here
        events.append(json.loads(line)["params"])
    took = seconds_between(events, "ShuttingDown", "Shutoff")
    assert took <= grace + AFTER + SLACK, events
    if expected == FORCED:
        assert took >= grace - 0.1
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
    client, watcher = up(pod, "" if obeys else "vmlet.ignoreacpi")
    made = "dd if=/dev/zero of=/tmp/d bs=1M count=8 && mkfs.ext2 /tmp/d && mkdir /tmp/m && mount -o loop /tmp/d /tmp/m"
    client.ok("Exec", Command="/bin/sh", Args=["-c", made], timeoutSeconds=60)
    client.ok("FreezeVirtualMachine", unfreezeTimeoutSeconds=300)
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
