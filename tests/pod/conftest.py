# SPDX-License-Identifier: Apache-2.0
"""Real pods without a kubelet: the monitor as PID 1 of fresh PID, mount, network and user namespaces."""
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from vmlet_lab import PATIENCE, need_user_namespaces

TOP = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("VMLET_BUILD", TOP / "build"))
MONITOR = BUILD / "src/monitor/virt-launcher-monitor"
# A stand-in that dies on demand; test_launcher.py has the real one.
LAUNCHER = BUILD / "tests/pod/pod-test-launcher"
QEMU = "qemu-system-x86_64"
UID = "3f5a0c1e-0000-4000-8000-000000000001"

# In the namespaces: a read-only root with what a pod has writable, then uid 107 with the one capability.
ENTER = r"""
set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/pod && mount --bind "$POD_DIR" /mnt/pod
mkdir /mnt/bin && mount --bind "$POD_BIN" /mnt/bin
mount -o remount,bind,ro /
mount -o remount,ro /mnt
ip link set lo up
cd /
exec setpriv --inh-caps=-all,$POD_CAPS --ambient-caps=-all,$POD_CAPS --bounding-set=-all,$POD_CAPS "$@"
"""


def read_stat(pid):
    """(state, parent, pid in its own namespace) of a process, None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    inner = next((line.split()[-1] for line in status.splitlines() if line.startswith("NSpid:")), str(pid))
    return stat[0], int(stat[1]), int(inner)


def descendants(root):
    """Pids below root, in no order."""
    parents = {}
    for entry in os.listdir("/proc"):
        stat = read_stat(entry) if entry.isdigit() else None
        if stat:
            parents.setdefault(stat[1], []).append(int(entry))
    found, todo = [], [root]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def wait_until(condition, what, seconds=PATIENCE):
    """For what gives no event to wait on: the state of processes and of files."""
    limit = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < limit, f"not within {seconds} s: {what}"
        time.sleep(0.002)


class Lines:
    """The lines of a stream, waited for with a deadline."""

    def __init__(self, stream):
        self.all = []
        self._queue = queue.Queue()
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream):
        for line in stream:
            self.all.append(line)
            self._queue.put(line)
        self._queue.put(None)

    def wait(self, beginning, seconds=PATIENCE):
        limit = time.monotonic() + seconds
        while True:
            try:
                line = self._queue.get(timeout=max(0.001, limit - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"no line {beginning!r}; have {self.all}")
            if line is None:
                pytest.fail(f"ended without a line {beginning!r}: {self.all}")
            if line.startswith(beginning):
                return line[len(beginning) :].strip()

    def rest(self):
        while self._queue.get(timeout=PATIENCE) is not None:
            pass
        return self.all


class Pod:
    """One run of the monitor. `isolated`: as the pod has it; else an ordinary process, outside a PID namespace."""

    def __init__(self, tmp, *flags, isolated=True, caps="+net_bind_service", **environment):
        self.dir = tmp / "pod"
        self.vm_dir = self.dir / "private" / UID
        self.disks = self.dir / "disks"
        self.isolated = isolated
        self.bin = tmp / "bin"
        for path in (self.vm_dir, self.disks / UID, self.bin):
            path.mkdir(parents=True, exist_ok=True)
        shutil.copy2(MONITOR, self.bin)
        shutil.copy2(LAUNCHER, self.bin / "virt-launcher")
        inside = Path("/mnt/pod") if isolated else self.dir
        programs = Path("/mnt/bin") if isolated else self.bin
        self.termination = self.dir / "termination-log"
        argv = [
            str(programs / "virt-launcher-monitor"), "--uid", UID, "--container-disk-dir", str(inside / "disks"),
            "--private-dir", str(inside / "private"), "--termination-log", str(inside / "termination-log"), *flags,
        ]
        env = dict(
            os.environ, STATE_DIR=str(inside / "private" / UID),
            # leaks are looked for by ptrace, which the filter forbids; a SIGSEGV is to kill
            ASAN_OPTIONS="detect_leaks=0:handle_segv=0",
            POD_DIR=str(self.dir), POD_BIN=str(self.bin), POD_CAPS=caps,
            **{key: str(value) for key, value in environment.items() if value is not None},
        )
        if isolated:
            need_user_namespaces()
            argv = [
                "unshare", "--user", "--map-user=107", "--map-group=107", "--keep-caps", "--pid", "--fork", "--mount",
                "--net", "--ipc", "--uts", "--mount-proc", "--kill-child", "sh", "-c", ENTER, "sh", *argv,
            ]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True,
            start_new_session=True,
        )
        self.out, self.err = Lines(self.process.stdout), Lines(self.process.stderr)

    def children(self):
        return descendants(self.process.pid)

    @property
    def monitor(self):
        """Its pid, as we see it."""
        if not self.isolated:
            return self.process.pid
        return wait_until(
            lambda: next((p for p in self.children() if (read_stat(p) or (0, 0, 0))[2] == 1), None), "the monitor runs"
        )

    def outside(self, pid):
        """The pid that we see of one that the pod's processes see."""
        if not self.isolated:
            return int(pid)
        return next((p for p in self.children() if (read_stat(p) or (0, 0, 0))[2] == int(pid)), None)

    def named(self, name):
        def command(pid):
            try:
                return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
            except (FileNotFoundError, ProcessLookupError):
                return ""

        return [pid for pid in self.children() if os.path.basename(command(pid)).startswith(name)]

    def ready(self):
        """The launcher's pid (as we see it), once it says that it is there."""
        return self.outside(self.out.wait("ready "))

    def signal(self, number):
        os.kill(self.monitor, number)

    def wait(self, seconds=PATIENCE):
        return self.process.wait(seconds)

    def message(self):
        return self.termination.read_text().strip()

    def stop(self):
        """Whatever is left of it."""
        for pid in self.children():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def short_path():
    """A folder whose sockets' paths fit into a unix address (108 bytes)."""
    with tempfile.TemporaryDirectory(prefix="pod-") as path:
        yield Path(path)


@pytest.fixture
def pod(short_path):
    pods = []

    def start(*flags, **options):
        pods.append(Pod(short_path, *flags, **options))
        return pods[-1]

    if os.geteuid() != 0:
        pytest.skip("needs root for the namespaces")
    yield start
    for one in pods:
        one.stop()


@pytest.fixture(params=["pod", "process"])
def isolated(request):
    """Each way that the monitor may be started: as PID 1, and as a subreaper."""
    return request.param == "pod"
