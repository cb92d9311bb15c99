# SPDX-License-Identifier: Apache-2.0
"""Faults while netsetup works: each call to libnl and each ioctl fails in turn; a link vanishes under its hands."""
import os
import signal
import subprocess

import pytest
from conftest import BUILD, NETSETUP, PATIENCE, POD_MAC
from test_apply import CASES

SHIM = BUILD / "tests" / "net" / "net-shim.so"


def command(lab, manifest):
    return [NETSETUP, "apply", manifest, "--netns", lab.pod.path, "--state-dir", lab.state, "--cache-dir", lab.cache]


def environment(lab, at, **more):
    log = lab.directory / "shim"
    log.unlink(missing_ok=True)
    return {**os.environ, "LD_PRELOAD": str(SHIM), "VMLET_SHIM_AT": str(at), "VMLET_SHIM_LOG": str(log), **more}


@pytest.mark.parametrize("more", [{}, {"VMLET_SHIM_AFTER": "1"}], ids=["refused", "answer lost"])
@pytest.mark.parametrize("case", ["bridge", "masquerade", "off-link gateway"])
def test_every_call_fails_in_turn(lab, case, more):
    manifest = CASES[case](lab)
    before = lab.pod.dump()
    failed = {}
    for at in range(1, 1000):
        done = subprocess.run(command(lab, manifest), env=environment(lab, at, **more), capture_output=True, text=True,
                              timeout=PATIENCE, check=False)
        if not (lab.directory / "shim").exists():
            assert done.returncode == 0, done.stderr
            break
        name = (lab.directory / "shim").read_text()
        failed[name] = failed.get(name, 0) + 1
        if done.returncode == 0:  # a question whose answer was not needed: whether there are dummy links, say
            lab.netsetup("teardown", manifest)
        else:
            assert "could not be restored" not in done.stderr, f"call {at}, {name}: {done.stderr}"
        assert lab.pod.dump() == before, f"after a failure of call {at}, {name}: {done.stderr}"
        assert list(lab.state.glob("*")) == [] and list(lab.cache.iterdir()) == [], f"call {at}, {name}"
    print(f"{case}: {failed}")
    assert failed["nl_send_sync"] > 10 and failed["ioctl"] > 15 and failed["nl_connect"] >= 2
    # journal and state before, for which there is nothing yet to change places with: two calls each; state after: one
    assert failed["rename"] == 5 and failed["open"] >= 1  # sysctls
    lab.netsetup("teardown", manifest)
    assert lab.pod.dump() == before


def stop_at(lab, manifest, at):
    """netsetup, stopped before that call; None when it ended before."""
    process = subprocess.Popen(command(lab, manifest), env=environment(lab, at, VMLET_SHIM_STOP="1"), stderr=subprocess.PIPE, text=True)
    lab.processes.append(process)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        return process
    process.returncode = os.waitstatus_to_exitcode(status)
    return None


def go_on(process):
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=PATIENCE)
    return process.returncode, err


@pytest.mark.parametrize("case", ["bridge", "masquerade"])
def test_killed_before_every_call(lab, case):
    """SIGKILL, and nobody to undo anything: the next apply either refuses and says what to do, or makes the whole; then
    teardown leads back to what was, and nothing is in the way of one more apply."""
    manifest = CASES[case](lab)
    before = lab.pod.dump()
    told = {"refused": 0, "made": 0}
    for at in range(1, 1000):
        process = stop_at(lab, manifest, at)
        if not process:
            break
        process.kill()
        err = process.communicate(timeout=PATIENCE)[1]
        call = f"killed before call {at}, {(lab.directory / 'shim').read_text()}: {err}"
        again = lab.netsetup("apply", manifest, check=False)
        told["refused" if again.returncode else "made"] += 1
        if again.returncode:
            assert "netsetup teardown" in again.stderr, call + again.stderr
        else:
            assert {"tap0", "k6t-eth0"} <= set(lab.pod.links()), call
        lab.netsetup("teardown", manifest)
        assert lab.pod.dump() == before, call
        assert list(lab.state.glob("*")) == [] and list(lab.cache.iterdir()) == [], call
    print(f"{case}: {told}")
    assert told["refused"] > 30 and told["made"] >= 5  # before the journal, and between it and the state
    lab.netsetup("teardown", manifest)
    assert lab.pod.dump() == before


@pytest.mark.parametrize("victim", ["tap0", "k6t-eth0"])
def test_link_of_ours_vanishes_meanwhile(lab, victim):
    manifest = lab.manifest("bridge")
    before = lab.pod.dump()
    broke = 0
    for at in range(1, 1000, 2):
        process = stop_at(lab, manifest, at)
        if not process:
            break
        there = lab.pod.exec("ip", "link", "del", victim, check=False).returncode == 0
        code, err = go_on(process)
        if code:
            assert there and " of " in err and "could not be restored" not in err, f"call {at}: {err}"
            broke += 1
        else:
            lab.netsetup("teardown", manifest)
        assert lab.pod.dump() == before, f"call {at}: {err}"
    assert broke >= 3


@pytest.mark.parametrize("binding", ["bridge", "masquerade"])
def test_nic_of_the_pod_vanishes_meanwhile(lab, binding):
    """Nothing can bring it back; all else is as it would be had nobody touched the namespace."""
    manifest = lab.manifest(binding)
    lab.peer.ip("link", "del", "eth0")
    bare = lab.peer.dump()
    broke = 0
    for at in range(1, 1000, 4):
        process = stop_at(lab, manifest, at)
        if not process:
            break
        for link in ("eth0", "eth0-nic"):  # whatever it is called now; the stand-in is not a veth
            if lab.pod.links().get(link, {}).get("linkinfo", {}).get("info_kind") == "veth":
                lab.pod.ip("link", "del", link)
        code, err = go_on(process)
        if code:
            broke += 1
        else:
            lab.netsetup("teardown", manifest, check=False)
        assert lab.pod.dump() == bare, f"call {at}: {err}"
        for file in lab.state.glob("*"):
            file.unlink()
        lab.plug(lab.pod, "eth0", POD_MAC, "10.244.1.5/24", "fd00:244::5/64")
    assert broke >= (3 if binding == "bridge" else 1)
