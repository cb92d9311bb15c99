# SPDX-License-Identifier: Apache-2.0
"""Real guests under emulation: through `vmlet run`, and what tests of virt-launcher share. What a test starts ends with it."""
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
VMLET = Path(os.environ.get("VMLET_BUILD", TOP / "build")) / "src" / "vmlet" / "vmlet"
# Emulation on a busy two-core machine: a deadline that only a fault reaches.
PATIENCE = 120

MANIFEST = """\
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata:
  name: {name}
spec:
  terminationGracePeriodSeconds: {grace}
  domain:
    devices: {{}}
    memory:
      guest: 256Mi
"""


@pytest.fixture
def short_tmp():
    """A folder with a short name: paths of unix sockets have at most 107 bytes."""
    path = tempfile.mkdtemp(prefix="vmlet-", dir="/tmp")
    yield Path(path)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def initramfs():
    """The folder with vmlinuz and initrd.img; built once, cached."""
    recipe = TOP / "tests" / "guest" / "build-initramfs"
    out = subprocess.run([recipe], check=True, stdout=subprocess.PIPE, text=True).stdout
    return Path(out.strip())


def children_of(pid):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def wait_until(condition, what, seconds=PATIENCE):
    """For what no event tells: looks again until the deadline. `what` may be a function, asked when it has passed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}")


def listens(path):
    """Whether somebody listens there: a socket's file is there before that, and refuses who comes too early."""
    wanted = str(path)
    for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7] == wanted and int(fields[3], 16) & 1 << 16:  # __SO_ACCEPTCON, linux/net.h
            return True
    return False


def need_user_namespaces():
    """In a chroot the kernel refuses them (user_namespaces(7)), whoever asks."""
    if subprocess.run(["unshare", "--user", "true"], stderr=subprocess.DEVNULL, check=False).returncode != 0:
        pytest.skip("the kernel makes no user namespace here")


class Vm:
    """A `vmlet run` in the background."""

    def __init__(self, lab, process, name):
        self.lab, self.process, self.name = lab, process, name
        self.dir = lab.state / f"default_{name}"

    def vmlet(self, verb, *arguments, check=True):
        done = subprocess.run(
            [VMLET, verb, self.name, "--state-dir", self.lab.state, *arguments],
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done

    def status(self):
        done = self.vmlet("status", "--json", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def wait_agent(self):
        def connected():
            assert self.process.poll() is None, self.process.stderr.read()
            return self.status().get("vmlet", {}).get("agentConnected")

        wait_until(connected, "the guest agent answers")
        return self

    def wait_running(self):
        def running():
            assert self.process.poll() is None, self.process.stderr.read()
            return self.status().get("domain", {}).get("Status", {}).get("Status") == "Running"

        wait_until(running, "the VM runs")
        return self

    def qemu_pid(self):
        return self.status()["vmlet"]["pid"]

    def end(self):
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


class Lab:
    def __init__(self, tmp_path, initramfs):
        self.tmp, self.initramfs = tmp_path, initramfs
        self.state = tmp_path / "s"
        self.vms = []

    def manifest(self, name="tiny", text=None, grace=30):
        path = self.tmp / f"{name}.yaml"
        path.write_text(text if text is not None else MANIFEST.format(name=name, grace=grace))
        return path

    def boot_options(self, append=""):
        return [
            "--kernel", self.initramfs / "vmlinuz", "--initrd", self.initramfs / "initrd.img",
            "--append", f"console=ttyS0 quiet {append}".strip(),
        ]

    def run(self, *arguments, verb="run", manifest=None, append="", env=None, boot=True, timeout=PATIENCE):
        """To its end."""
        argv = [VMLET, verb, manifest or self.manifest(), "--state-dir", self.state, "--accel", "tcg"]
        argv += self.boot_options(append) if boot else []
        return subprocess.run(
            [str(a) for a in argv + list(arguments)], capture_output=True, text=True, timeout=timeout, check=False,
            env=dict(os.environ, **(env or {})), stdin=subprocess.DEVNULL,
        )

    def start(self, *arguments, name="tiny", append="", grace=30, manifest=None):
        argv = [VMLET, "run", manifest or self.manifest(name, grace=grace), "--state-dir", self.state, "--accel", "tcg"]
        argv += self.boot_options(append)
        process = subprocess.Popen(
            [str(a) for a in argv + list(arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )
        vm = Vm(self, process, name)
        self.vms.append(vm)
        return vm

    def leftovers(self):
        return sorted(str(p.relative_to(self.state)) for p in self.state.rglob("*")) if self.state.exists() else []

    def close(self):
        for vm in self.vms:
            if vm.process.poll() is None:
                vm.process.kill()
            vm.process.communicate()


@pytest.fixture
def lab(short_tmp, initramfs):
    made = Lab(short_tmp, initramfs)
    yield made
    made.close()


# ---- virt-launcher -----------------------------------------------------------------------------------------------------

UID = "6f1b2a34-1111-4222-8333-444455556666"


def vmi(append="", **spec):
    """A VMI that boots the small guest by kernelBoot, as JSON."""
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {"name": "tiny", "namespace": "ns", "uid": UID},
        "spec": {
            "terminationGracePeriodSeconds": 30,
            "domain": {
                "devices": {"autoattachPodInterface": False},
                "firmware": {
                    "kernelBoot": {
                        "kernelArgs": f"console=ttyS0 quiet {append}".strip(),
                        "container": {"image": "x", "kernelPath": "/boot/vmlinuz", "initrdPath": "/boot/initrd.img"},
                    }
                },
                "memory": {"guest": "256Mi"},
            },
            **spec,
        },
    }


class Client:
    """One connection to the command server: JSON-RPC 2.0, a line each."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(path))
        self.file = self.socket.makefile("rwb")
        self.number = 0
        self.events = []

    def call(self, method, **params):
        self.number += 1
        request = {"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}
        self.file.write(json.dumps(request).encode() + b"\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if answer.get("id") == self.number:
                return answer
            self.events.append(answer["params"])

    def ok(self, method, **params):
        answer = self.call(method, **params)
        assert "result" in answer, answer
        return answer["result"]

    def event(self, condition):
        while True:
            for i, event in enumerate(self.events):
                if condition(event):
                    del self.events[: i + 1]
                    return event
            self.events = []
            line = self.file.readline()
            assert line, "the server closed the connection"
            self.events.append(json.loads(line)["params"])

    def close(self):
        try:
            self.file.close()
        except OSError:  # what it could not send goes nowhere
            pass
        self.socket.close()
