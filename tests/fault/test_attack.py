# SPDX-License-Identifier: Apache-2.0
"""A guest that has taken its QEMU over: what it tries is stopped, and what was tried is in the launcher's log.

In QEMU's place a program that is not QEMU and knows nothing of `-sandbox`: what stops it is ours alone. And the real
QEMU, attacked from inside by a library once its own sandbox is up: what stops it is both."""
import os
import socket
import struct
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


class Audit:
    """The kernel's audit log, by netlink (linux/audit.h); switched on while it is open, if it is off."""

    GET, SET, GROUP_READLOG, ENABLED = 1000, 1001, 1, 1
    LANDLOCK_ACCESS = 1423

    def __init__(self):
        try:
            self.control = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9)  # NETLINK_AUDIT
            self.control.bind((0, 0))
            self.log = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9)
            self.log.bind((0, 1 << (self.GROUP_READLOG - 1)))
            self.was = struct.unpack_from("=II", self.ask(self.GET), 16)[1]
            if not self.was:
                self.enable(1)
        except OSError as e:
            pytest.skip(f"the kernel's audit log is not ours to read: {e}")
        self.log.settimeout(PATIENCE)

    def ask(self, kind, data=b""):
        header = struct.pack("=IHHII", 16 + len(data), kind, 1 if kind == self.GET else 5, 1, 0)  # NLM_F_REQUEST, _ACK
        self.control.settimeout(PATIENCE)
        self.control.send(header + data)
        while True:
            answer = self.control.recv(65536)
            found = struct.unpack_from("=IHHII", answer)[1]
            if found == 2 and (fault := struct.unpack_from("=i", answer, 16)[0]):  # NLMSG_ERROR
                raise OSError(-fault, os.strerror(-fault))
            if found == (kind if kind == self.GET else 2):
                return answer

    def enable(self, value):
        self.ask(self.SET, struct.pack("=II", self.ENABLED, value) + bytes(40))

    def refusal(self, path):
        """The kernel's line about a file that Landlock kept closed."""
        while True:
            record = self.log.recv(65536)
            text = record[16:].decode(errors="replace")
            if struct.unpack_from("=IH", record)[1] == self.LANDLOCK_ACCESS and f'path="{path}"' in text:
                return text

    def close(self):
        if not self.was:
            self.enable(0)
        self.control.close()
        self.log.close()


@pytest.fixture
def audit():
    if subprocess.run(["python3", "-c", "import ctypes; raise SystemExit(ctypes.CDLL(None).syscall(444, None, 0, 1) < 7)"],
                      check=False).returncode != 0:
        pytest.skip("this kernel's Landlock does not log (Linux 6.15 does)")
    log = Audit()
    yield log
    log.close()


def leave(pod, result, way):
    if way == "inside":
        pod.client().ok("KillVirtualMachine", vmi={})
        assert pod.wait() == 0, pod.log()
    else:
        os.kill(pod.process.pid, 15)
        pod.process.wait(PATIENCE)
    result.unlink()
    assert pod.leftovers() == [], pod.log()


def test_refused_file_is_in_the_kernels_log(lab, weapons, table, audit):
    """One test for both ways: the switch of the log is the machine's."""
    for way in ("stand-in", "inside"):
        pod, result = launch(lab, weapons, way, "shadow")
        line = audit.refusal("/etc/shadow")
        assert "blockers=fs.read_file" in line, line
        wait_until(lambda: said(result) == "shadow EACCES\n", pod.log)
        leave(pod, result, way)
        table.add(f"attack from QEMU's place ({way}): shadow, audit on", "refused; in the kernel's log")


@pytest.mark.parametrize("way", ["stand-in", "inside"])
@pytest.mark.parametrize("act", REFUSED)
def test_refused(lab, weapons, table, way, act):
    pod, result = launch(lab, weapons, way, act)
    wait_until(lambda: said(result).endswith("\n"), lambda: pod.log())
    assert said(result) == f"{act} EACCES\n"
    if act == "command-socket":
        wait_until(lambda: "it is the VM's own QEMU" in pod.log(), pod.log)
    leave(pod, result, way)
    table.add(f"attack from QEMU's place ({way}): {act}", "refused; in the log" if act == "command-socket" else "refused")
