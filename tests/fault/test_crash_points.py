# SPDX-License-Identifier: Apache-2.0
"""The launcher is killed at each of its crash points. Afterwards the guest runs on under a new launcher, or the pod has
ended and says why; the next start in the same directories works; and in the end nothing is left but logs.

The list of points comes from the program: a point that no scenario here reaches fails the test."""
import os
import signal
import subprocess
import time

import pytest
from fault_lab import build
from vmlet_lab import PATIENCE, is_alive, wait_until

TIMES = int(os.environ.get("VMLET_FAULT_TIMES", "3"))

# Points that need a guest with an agent, or a time of their own, have a scenario by their first word; the longest name
# that fits counts.
SCENARIOS = {
    "serve": "serve", "start": "start", "resumed": "start", "write": "write", "state": "write",
    "pause": "pause", "unpause": "unpause", "reset": "reset", "action": "pause",
    "stop": "stop", "stop-quit": "stop", "end": "kill", "freeze": "freeze",
    "disk": "disk", "job": "job",
    "adopt": "adopt", "reexec": "reexec", "stop-term": "hung", "stop-kill": "hung", "end-shutdown": "term",
}


def points():
    program = build("build-crash", "-Dcrash_points=true") / "src/launcher/virt-launcher"
    out = subprocess.run([program, "--list-crash-points"], check=True, capture_output=True, text=True).stdout
    return sorted(set(out.split()))


def scenario_of(point):
    fits = [name for name in SCENARIOS if point == name or point.startswith(name + "-")]
    assert fits, f"no scenario reaches the crash point {point}"
    return SCENARIOS[max(fits, key=len)]


def quietly(client, method, **params):
    """The launcher may die of it."""
    try:
        return client.call(method, **params)
    except (OSError, ValueError):
        return None


def serve(pod, crash):
    pod.start(**crash)


def start(pod, crash):
    pod.start(**crash)
    pod.sync()


def write(pod, crash):
    """The state is written at the start, and at each pause."""
    start(pod, crash)
    client = pod.serves()
    for method in ("PauseVirtualMachine", "UnpauseVirtualMachine"):
        if client and not (pod.tmp / "mark").exists():
            quietly(client, method, vmi={})


def pause(pod, crash):
    quietly(pod.boot(**crash), "PauseVirtualMachine", vmi={})


def unpause(pod, crash):
    client = pod.boot(**crash)
    client.ok("PauseVirtualMachine", vmi={})
    quietly(client, "UnpauseVirtualMachine", vmi={})


def reset(pod, crash):
    quietly(pod.boot(**crash), "ResetVirtualMachine", vmi={})


def stop(pod, crash):
    quietly(pod.boot(**crash), "ShutdownVirtualMachine", vmi={}, gracePeriodSeconds=1)


def kill(pod, crash):
    quietly(pod.boot(**crash), "KillVirtualMachine", vmi={})


def term(pod, crash):
    pod.boot(**crash)
    os.kill(pod.qemu, signal.SIGTERM)


def hung(pod, crash):
    """A QEMU that hears nothing: only signals are left."""
    client = pod.boot(**crash)
    qemu = pod.qemu
    os.kill(qemu, signal.SIGSTOP)
    quietly(client, "KillVirtualMachine", vmi={})


def adopt(pod, crash):
    pod.boot(**crash)
    os.kill(pod.launcher, signal.SIGKILL)


def reexec(pod, crash):
    pod.boot(**crash)
    os.kill(pod.launcher, signal.SIGHUP)


def freeze(pod, crash):
    client = pod.boot(**crash)
    wait_until(lambda: client.ok("GetDomain")["vmlet"]["agentConnected"], "the agent answers")
    answer = quietly(client, "FreezeVirtualMachine", vmi={}, unfreezeTimeoutSeconds=1)
    if answer and "frozen" not in crash["VMLET_CRASH_AT"] and "timeout" not in crash["VMLET_CRASH_AT"]:
        quietly(client, "UnfreezeVirtualMachine", vmi={})


def disk(pod, crash):
    """Plugged in and out again, without a guest that has to let go of it; what is left half way is taken up."""
    client = pod.boot(**crash)
    path = pod.tmp / "cd" / "disk.img"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(1 << 20))
    for _ in range(2):  # the second launcher is not killed any more
        if quietly(client, "PlugDisk", name="more", path=str(path), bus="scsi"):
            quietly(client, "UnplugDisk", name="more")
        client = pod.client()
    nodes = client.ok("Qmp", command="query-named-block-nodes")["return"]
    assert (client.ok("GetDisks")["disks"], nodes) == ([], []), pod.log()


def job(pod, crash):
    """A backup that its launcher does not see the end of."""
    client = pod.boot(**crash)
    path = pod.tmp / "cd" / "disk.img"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(1 << 20))
    client.ok("PlugDisk", name="more", path=str(path), bus="scsi")
    quietly(client, "BackupDisks", disks=[{"name": "more", "target": str(pod.tmp / "cd" / "copy")}])

    def is_over():
        client = pod.client()  # each time anew, and closed again: a launcher serves 32
        try:
            return (quietly(client, "GetDisks") or {}).get("result", {"job": 0})["job"] is None
        finally:
            client.close()

    wait_until(is_over, "it is over")


def parameters():
    for point in points():
        times = 1 if scenario_of(point) in ("hung", "freeze") else 2 if point == "start-fd" else TIMES  # two sockets
        # writes happen often: each passing is a moment of its own
        for n in range(1, times + 1):
            yield pytest.param(point, n, id=f"{point}-{n}")


def check_end(pod):
    """The pod has ended: by itself, with a code and a word for it."""
    code = pod.wait()
    said = pod.termination.read_text()
    assert code in (0, 1, 137), (code, said)
    assert ("SIGKILL" in said) == (code == 137), (code, said)
    assert said.startswith("virt-launcher ") and ";" in said, said
    assert not pod.processes(), pod.processes()
    return {0: "ended in order", 1: "ended: failure stated", 137: "ended: no guest ran"}[code]


def finish(pod):
    """The next start in the same directories works, and its orderly end leaves only logs."""
    client = pod.boot() if pod.ended() else pod.client()
    answer = pod.sync()
    assert answer and "result" in answer, (answer, pod.log())
    pod.wait_state(client, "Running") if pod.state(client) != "Paused" else None
    qemu = pod.qemu
    client.ok("KillVirtualMachine", vmi={})
    assert pod.wait() == 0, pod.log()
    assert not is_alive(qemu)
    assert pod.leftovers() == [], pod.log()


@pytest.mark.parametrize("point, n", parameters())
def test_killed_at(lab, table, point, n):
    scenario = scenario_of(point)
    nth = n if point.split("-")[0] in ("write", "state") or point == "start-fd" else 1
    guest = scenario == "freeze"
    pod = lab(guest=guest)
    mark = pod.tmp / "mark"
    globals()[scenario](pod, {"VMLET_CRASH_AT": f"{point}:{nth}", "VMLET_CRASH_MARK": str(mark)})
    wait_until(mark.exists, f"the launcher comes to {point}: {pod.log()}")
    began = time.monotonic()
    qemu = pod.qemu
    client = pod.serves()
    recovery = time.monotonic() - began if client else None
    state = pod.check_state_file()
    stopping = scenario in ("stop", "kill", "hung", "term")
    if client and stopping:
        # a stop that was under way is taken up; one that had not been written down is asked for again
        if not pod.ended() and not (state and "stopDeadlineMonotonic" in state):
            quietly(client, "KillVirtualMachine", vmi={})
        outcome = "taken up: " + check_end(pod)
    elif client and pod.state(client):
        assert pod.qemu == qemu and is_alive(qemu), pod.log()
        wait_until(lambda: "took over the running VM" in pod.log(), pod.log)
        if scenario == "start":  # one that was killed before it began begins now
            pod.wait_state(client, "Running")
        status = client.ok("GetDomain")["domain"]["Status"]
        assert scenario != "pause" or status["Status"] != "Paused" or status["Reason"] == "User", status
        outcome = "guest runs on"
    elif client:
        # QEMU had not begun to run the guest
        wait_until(lambda: pod.qemu is None, "the QEMU that had not begun has ended")
        assert not os.path.exists(pod.dir / "domain.json"), pod.log()
        outcome = "not begun; launcher serves"
    else:
        outcome = check_end(pod)
    if guest and client and pod.state(client) == "Running":
        wait_until(lambda: client.ok("GetDomain")["vmlet"]["agentConnected"], "the agent answers again")
        wait_until(lambda: "Thawed" in (pod.dir / "events.log").read_text(), "the guest is thawed")
    finish(pod)
    table.add(f"launcher killed at {point}", outcome, recovery)
