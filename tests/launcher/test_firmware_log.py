# SPDX-License-Identifier: Apache-2.0
"""What the firmware says of its work, in the launcher's log at a raised verbosity."""
import re
import stat

import pytest
from vmlet_lab import vmi, wait_until

# Once in each boot; its name it says twice: first of all, and on the screen when there is one.
ONCE = "[SeaBios]: Running on QEMU"


def said(pod):
    return pod.text().count(ONCE)


@pytest.mark.parametrize("way", ["environment", "flag"])
def test_its_lines_are_in_the_log_over_resets_and_launchers(pod, way):
    arguments = ["-v", "6"] if way == "flag" else []
    environment = {"VIRT_LAUNCHER_LOG_VERBOSITY": "6"} if way == "environment" else {}
    pod.start(*arguments, env=environment)
    client = pod.client()
    client.ok("SyncVirtualMachine", vmi=vmi("vmlet.noagent"))
    pod.qemu = client.ok("GetDomain")["vmlet"]["pid"]
    fifo = pod.private / "QEMUSeaBiosDebugPipe"
    assert stat.S_ISFIFO(fifo.stat().st_mode) and stat.S_IMODE(fifo.stat().st_mode) == 0o600
    wait_until(lambda: said(pod) == 1, "the firmware says who it is")
    wait_until(lambda: re.search(r"\[SeaBios\]: Booting from", pod.text()), pod.text)
    pod.process.kill()
    pod.process.wait()
    pod.start(*arguments, env=environment)
    client = pod.client()
    client.ok("ResetVirtualMachine", vmi={})
    # SeaBIOS may reset the machine again when it finds that it has run before
    wait_until(lambda: said(pod) >= 2, lambda: f"it says so again, to the next launcher:\n{pod.text()}")
    client.ok("KillVirtualMachine", vmi={})
    assert pod.end() == 0
    assert not fifo.exists()


def test_without_the_verbosity_there_is_none(pod):
    pod.boot()
    assert not (pod.private / "QEMUSeaBiosDebugPipe").exists()
    with open(f"/proc/{pod.qemu}/cmdline", "rb") as f:
        assert b"debugcon" not in f.read()


def test_a_verbosity_that_is_no_number(pod):
    with pytest.raises(AssertionError, match="a number, 0 or more"):
        pod.start("-v", "loud")
    assert pod.process.returncode == 2
