# SPDX-License-Identifier: Apache-2.0
"""A guest that has taken its QEMU over: what it tries is stopped, and what was tried is in the launcher's log.

In QEMU's place a program that is not QEMU and knows nothing of `-sandbox`: what stops it is ours alone. And the real
QEMU, attacked from inside by a library once its own sandbox is up: what stops it is both."""
import os
import subprocess
from pathlib import Path

import pytest
from vmlet_lab import PATIENCE, TOP, wait_until

HERE = Path(__file__).parent
# QEMU is killed by the kernel, and the launcher says why.
DEADLY = ["execve", "execveat", "fork", "ptrace", "readv", "socket", "mount", "unshare", "bpf"]
# The call fails.
REFUSED = ["shadow", "command-socket"]


@pytest.fixture(scope="session")
def weapons(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attack")
    os.chmod(folder, 0o755)
    for out, *flags in (("qemu-system-x86_64", "-DSTAND_IN"), ("inside.so", "-shared", "-fPIC")):
        subprocess.run(["gcc", "-O1", *flags, "-o", folder / out, HERE / "attack.c", "-ldl"], check=True)
    return folder


def launch(lab, weapons, way, act):
    pod = lab(folder=TOP / "build")
    result = pod.tmp / "result"
    pod.environment = {
        "VMLET_ATTACK": act, "VMLET_ATTACK_RESULT": str(result), "VMLET_ATTACK_SOCKET": str(pod.socket),
    }
    if way == "stand-in":
        pod.flags = ("--qemu", weapons / "qemu-system-x86_64")
    else:
        pod.environment["LD_PRELOAD"] = str(weapons / "inside.so")
    pod.start()
    client = pod.client()
    if way == "stand-in":  # it never answers, so neither does Sync
        client.file.write(pod.sync_request())
        client.file.flush()
    else:
        client.ok("SyncVirtualMachine", vmi=pod.manifest)
    return pod, result


def said(result):
    return result.read_text() if result.exists() else ""


@pytest.mark.parametrize("way", ["stand-in", "inside"])
@pytest.mark.parametrize("act", DEADLY)
def test_deadly_call(lab, weapons, table, way, act):
    pod, result = launch(lab, weapons, way, act)
    wait_until(lambda: "SIGSYS" in pod.log(), lambda: pod.log() + said(result))
    assert "made a system call that its sandbox forbids" in pod.log()
    assert said(result) == ""  # it was ended in the act
    if way == "inside":
        assert pod.wait() == 1, pod.log()
    else:  # the VM never ran: the pod could take another
        os.kill(pod.process.pid, 15)
        pod.process.wait(PATIENCE)
    result.unlink(missing_ok=True)
    assert pod.leftovers() == [], pod.log()
    table.add(f"attack from QEMU's place ({way}): {act}", "killed by SIGSYS; in the log")


@pytest.mark.parametrize("way", ["stand-in", "inside"])
@pytest.mark.parametrize("act", REFUSED)
def test_refused(lab, weapons, table, way, act):
    pod, result = launch(lab, weapons, way, act)
    wait_until(lambda: said(result).endswith("\n"), lambda: pod.log())
    assert said(result) == f"{act} EACCES\n"
    if act == "command-socket":
        wait_until(lambda: "it is the VM's own QEMU" in pod.log(), pod.log)
    if way == "inside":
        pod.client().ok("KillVirtualMachine", vmi={})
        assert pod.wait() == 0, pod.log()
    else:
        os.kill(pod.process.pid, 15)
        pod.process.wait(PATIENCE)
    result.unlink()
    assert pod.leftovers() == [], pod.log()
    table.add(f"attack from QEMU's place ({way}): {act}", "refused; in the log" if act == "command-socket" else "refused")
