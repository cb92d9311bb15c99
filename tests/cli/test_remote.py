# SPDX-License-Identifier: Apache-2.0
"""The verbs that talk to a running VM, against scripted answers: what they send, print and exit with."""
import base64
import json
import socket

import pytest
from conftest import DOMAIN, environment
from vmlet_lab import PATIENCE


def test_actions_send_their_method(vmlet, launch):
    methods = {
        "pause": "PauseVirtualMachine",
        "unpause": "UnpauseVirtualMachine",
        "reset": "ResetVirtualMachine",
        "softreboot": "SoftRebootVirtualMachine",
        "kill": "KillVirtualMachine",
        "unfreeze": "UnfreezeVirtualMachine",
    }
    launcher = launch({"answers": {m: {"success": True, "message": ""} for m in methods.values()}})
    for verb, method in methods.items():
        result = vmlet(verb, "--socket", launcher.socket)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.strip()
        assert launcher.calls(method) == [{}]
        assert json.loads(vmlet(verb, "--socket", launcher.socket, "--json").stdout)["success"] is True


def test_errors_have_code_and_remedy(vmlet, launch):
    fail = {"code": "WrongState", "message": "not allowed in the state Paused", "remedy": "unpause it first"}
    launcher = launch({"answers": {"PauseVirtualMachine": {"fail": fail}, "ResetVirtualMachine": {"fail": dict(fail, code="TimedOut")}}})
    result = vmlet("pause", "--socket", launcher.socket)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == "vmlet: not allowed in the state Paused\n       unpause it first\n"
    assert vmlet("reset", "--socket", launcher.socket).returncode == 124


def test_stop(vmlet, launch):
    launcher = launch({"answers": {"ShutdownVirtualMachine": {"success": True}}})
    assert vmlet("stop", "--socket", launcher.socket).stdout == "asked to shut down\n"
    assert vmlet("stop", "--socket", launcher.socket, "--grace", "1500ms").returncode == 0
    assert vmlet("stop", "--socket", launcher.socket, "--grace", "0").returncode == 0
    assert launcher.calls("ShutdownVirtualMachine") == [{}, {"gracePeriodSeconds": 2}, {"gracePeriodSeconds": 0}]


def test_stop_and_wait(vmlet, launch):
    launcher = launch({"answers": {"ShutdownVirtualMachine": {"success": True}}, "endOnShutdown": True})
    result = vmlet("stop", "--socket", launcher.socket, "--wait")
    assert (result.returncode, result.stdout, result.stderr) == (0, "ended: Shutdown\n", "")
    assert launcher.process.wait(PATIENCE) == 0


def test_freeze(vmlet, launch):
    launcher = launch({"answers": {"FreezeVirtualMachine": {"success": True}}})
    assert vmlet("freeze", "--socket", launcher.socket).returncode == 0
    assert vmlet("freeze", "--socket", launcher.socket, "--thaw-after", "2m").returncode == 0
    assert launcher.calls("FreezeVirtualMachine") == [{"unfreezeTimeoutSeconds": 300}, {"unfreezeTimeoutSeconds": 120}]


def test_status(vmlet, launch):
    launcher = launch()
    out = vmlet("status", "--socket", launcher.socket).stdout
    for part in (
        "default/testvm",
        "Paused (IOError) since 2026-01-01T00:00:00Z",
        "paused by: root: Input/output error; resumed at 2026-01-01T00:00:10Z",
        "since 2026-01-01T00:00:01Z by ctrl-C; last step: asked",
        "7.2.22, pid 4711",
        "connected, version 7.2",
        "default 02:00:00:00:00:01 as eth0, 10.0.2.2 fe80::1 (domain, guest-agent)",
        "root: disk on virtio as vda",
        str(launcher.folder / "virt-serial0"),
    ):
        assert part in out
    # what a guest or a host says does not drive our terminal
    assert "\x1b" not in out and "\\x1b[31memulates" in out
    data = json.loads(vmlet("status", "--socket", launcher.socket, "--json").stdout)
    assert data["domain"]["Status"]["Status"] == "Paused"
    assert data["vmlet"]["pid"] == 4711


def test_events(vmlet, launch):
    events = [
        {"seq": n, "time": "2026-01-01T00:00:00Z", "type": "Domain", "reason": f"R{n}", "message": f"m\x1b{n}"}
        for n in range(1, 6)
    ]
    events[1] = {"seq": 2, "type": "Domain", "reason": "Paused", "state": "Paused", "stateReason": "IOError", "volume": "root", "n": 3}
    launcher = launch({"events": events})
    lines = vmlet("events", "--socket", launcher.socket, "--no-follow").stdout.splitlines()
    assert len(lines) == 5
    assert "R1" in lines[0] and "m\\x1b1" in lines[0]
    assert lines[1].split() == ["2", "Domain", "Paused", "(IOError)", "volume=root", "n=3"]
    assert len(vmlet("events", "--socket", launcher.socket, "--no-follow", "--from", "4").stdout.splitlines()) == 2
    assert vmlet("events", "--socket", launcher.socket, "--no-follow", "--from", "0").stdout == ""
    out = vmlet("events", "--socket", launcher.socket, "--no-follow", "--json").stdout
    assert [json.loads(line)["seq"] for line in out.splitlines()] == [1, 2, 3, 4, 5]
    assert {c["from"] for c in launcher.calls("Subscribe")} == {0, 1, 4}


def without_agent():
    domain = json.loads(json.dumps(DOMAIN))
    domain["vmlet"]["agentConnected"] = False
    return domain


def test_wait(vmlet, launch):
    domain = without_agent()
    domain["domain"]["Status"]["Status"] = "Running"
    launcher = launch({"answers": {"GetDomain": domain}})
    done = vmlet("wait", "--socket", launcher.socket, "--until", "running")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = vmlet("wait", "--socket", launcher.socket, "--timeout", "100ms")
    assert done.returncode == 124 and done.stderr.startswith("vmlet: waited 0.1 s for the guest agent in vain\n")
    done = vmlet("wait", "--state-dir", launcher.folder.parent, "--until", "console:^guest log[i]n: $")
    assert (done.returncode, done.stderr) == (0, "")
    done = vmlet("wait", "--socket", launcher.socket, "--until", "console:password", "--timeout", "100ms")
    assert done.returncode == 124 and done.stderr.startswith("vmlet: waited 0.1 s for the console to match in vain\n")


def test_wait_refuses(vmlet, tmp_path):
    for bad, why in (("gone", "not known (running, agent, shutdown or console:REGEX)"), ("console:(", "Unmatched ( or \\(")):
        done = vmlet("wait", "--socket", "/nowhere", "--until", bad)
        assert done.returncode == 2 and f"vmlet wait: --until {bad}: {why}" in done.stderr
    # the end of a VM that is not there has been; for all else it may still come
    assert vmlet("wait", "--socket", tmp_path / "none", "--until", "shutdown").returncode == 1
    done = vmlet("wait", "--state-dir", tmp_path / "no/such", "--timeout", "10ms")
    assert (done.returncode, done.stderr) == (124, f"vmlet: waited 0.01 s: no VM runs in {tmp_path}/no/such\n")


@pytest.mark.parametrize("what", ["running", "agent"])
def test_wait_for_an_event(vmlet, launch, what):
    later = [{"seq": 1, "type": "Domain", "reason": "Running"}, {"seq": 2, "type": "Agent", "reason": "Connected"}]
    launcher = launch({"answers": {"GetDomain": without_agent()}, "later": later})
    assert vmlet("wait", "--socket", launcher.socket, "--until", what).returncode == 0


@pytest.mark.parametrize("what, code, out, err", [
    ("shutdown", 0, "ended: Shutdown\n", ""),
    ("agent", 1, "", "vmlet: the VM ended while the guest agent was waited for: Shutdown\n"),
])
def test_wait_for_the_end(vmlet, launch, background, what, code, out, err):
    launcher = launch({"answers": {"GetDomain": without_agent(), "ShutdownVirtualMachine": {"success": True}}, "endOnShutdown": True,
                       "later": [{"seq": 1, "type": "Domain", "reason": "Paused"}]})
    waiting = background("wait", "--socket", launcher.socket, "--until", what)
    launcher.await_call("GetDomain")  # it has subscribed before
    assert vmlet("stop", "--socket", launcher.socket).returncode == 0
    assert waiting.communicate(timeout=PATIENCE) == (out, err) and waiting.returncode == code


def test_wait_for_a_vm_that_comes(launch, background, tmp_path):
    """Before there is even the directory; by its place, its name, or its socket."""
    folder = tmp_path / "later" / "default_testvm"
    waiting = [background("wait", "--until", "console:login", *where)
               for where in (("--state-dir", folder.parent), ("--state-dir", folder.parent, "testvm"), ("--socket", folder / "launcher-sock"))]
    launch(name="later/default_testvm")
    for process in waiting:
        assert process.communicate(timeout=PATIENCE) == ("", "") and process.returncode == 0


def test_timeline(vmlet, launch):
    marks = [{"name": "exec", "usec": 0}, {"name": "running", "usec": 61500}]
    launcher = launch({"answers": {"GetTimeline": {"events": marks}}})
    out = vmlet("timeline", "--socket", launcher.socket).stdout
    assert out.splitlines()[1].split() == ["61.5", "ms", "+61.5", "ms", "running"]
    assert json.loads(vmlet("timeline", "--socket", launcher.socket, "--json").stdout)["events"] == marks


def test_data(vmlet, launch):
    launcher = launch({"answers": {"GetDomainStats": {"response": {}, "domainStats": {"Cpu": {"Time": 5, "TimeSet": True}, "Vcpu": []}}}})
    out = vmlet("stats", "--socket", launcher.socket).stdout
    assert out == "domainStats:\n  Cpu:\n    Time: 5\n    TimeSet: yes\n  Vcpu: none\n"
    assert json.loads(vmlet("stats", "--socket", launcher.socket, "--json").stdout)["domainStats"]["Cpu"]["Time"] == 5
    result = vmlet("guestinfo", "--socket", launcher.socket)
    assert result.returncode == 1 and "GetGuestInfo" in result.stderr


def test_screenshot(vmlet, launch, tmp_path):
    picture = bytes(range(256)) * 10
    launcher = launch({"answers": {"GetScreenshot": {"mime": "image/png", "data": base64.b64encode(picture).decode()}}})
    path = tmp_path / "shot.png"
    assert vmlet("screenshot", "--socket", launcher.socket, "-o", path).returncode == 0
    assert path.read_bytes() == picture
    assert vmlet("screenshot", "--socket", launcher.socket).returncode == 2
    result = vmlet("screenshot", "--socket", launcher.socket, "-o", tmp_path / "no" / "shot.png")
    assert result.returncode == 1 and "shot.png" in result.stderr


# ---- which VM ---------------------------------------------------------------------------------------------------------


def test_lookup(vmlet, launch, tmp_path):
    runtime = tmp_path / "runtime"
    result = vmlet("status")
    assert result.returncode == 1 and f"no VM runs in {runtime}/vmlet" in result.stderr and "vmlet run" in result.stderr
    launch(name="runtime/vmlet/default_one")
    assert vmlet("status").returncode == 0
    launch(name="runtime/vmlet/prod_two")
    result = vmlet("status")
    assert result.returncode == 2
    assert "default_one" in result.stderr and "prod_two" in result.stderr and "name one of them" in result.stderr
    for name in ("one", "default_one", "default/one", "two", "prod/two"):
        assert vmlet("status", name).returncode == 0
    result = vmlet("status", "three")
    assert result.returncode == 1 and "no VM three runs" in result.stderr and "prod_two" in result.stderr
    assert vmlet("status", "default/two").returncode == 1
    # --state-dir: the directory of several, and that of one
    assert vmlet("status", "--state-dir", runtime / "vmlet", "two").returncode == 0
    assert vmlet("status", "--state-dir", runtime / "vmlet" / "prod_two").returncode == 0
    assert vmlet("status", "--state-dir", tmp_path / "other").returncode == 1
    # a socket that nobody listens on is no VM
    dead = runtime / "vmlet" / "default_dead"
    dead.mkdir()
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(dead / "launcher-sock"))
    stale.close()
    assert "default_dead" not in vmlet("status").stderr
    assert vmlet("status", "dead").returncode == 1


def test_silent_server(vmlet, tmp_path):
    path = tmp_path / "silent"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        result = vmlet("status", "--socket", path, "--timeout", "200ms")
        assert result.returncode == 124
        assert "no answer to GetDomain within 0.200 s" in result.stderr


@pytest.mark.parametrize("args", [["status"], ["timeline"], ["events", "--no-follow"], ["probe"], ["help"]])
def test_no_colours_in_pipes(vmlet, launch, args):
    launcher = launch({"answers": {"GetTimeline": {"events": [{"name": "exec", "usec": 0}]}}, "events": [{"seq": 1, "type": "Domain"}]})
    more = [] if args[0] in ("probe", "help") else ["--socket", launcher.socket]
    result = vmlet(*args, *more, env=environment())
    assert result.returncode == 0
    assert "\x1b" not in result.stdout + result.stderr
