# SPDX-License-Identifier: Apache-2.0
"""The real monitor, the real launcher and a real QEMU in directories of their own, to be killed at any moment.

The monitor is an ordinary process here, and its reaper. Every process that it brings to life carries a mark in its
environment, so nothing that it leaves behind can hide, whoever its parent is by then.
"""
import fcntl
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import time
import uuid
from pathlib import Path

from vmlet_lab import PATIENCE, TOP, UID, Client, is_alive, vmi, wait_until

# What a VM that has ended may leave below its private directory: what it said.
LOGS = {"events.log", "qemu.log", "virt-serial0-log", "virt-serial0-log-sigTerm"}


def build(folder, *options, more=()):
    """The programs of a build folder, built."""
    path = TOP / folder
    targets = ["src/launcher/virt-launcher", "src/monitor/virt-launcher-monitor", *more]
    with open(TOP / "build" / f"{folder}.lock", "w", encoding="utf-8") as lock:  # tests run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (path / "build.ninja").exists():
            shutil.rmtree(path, ignore_errors=True)
            subprocess.run(["meson", "setup", path, *options], cwd=TOP, check=True, stdout=subprocess.DEVNULL)
        done = subprocess.run(["ninja", "-C", path, *targets], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return path


def bios(**spec):
    """A VM that runs its firmware and nothing else: what a fault of the launcher needs, and up at once."""
    manifest = vmi(**spec)
    del manifest["spec"]["domain"]["firmware"]
    return manifest


def log_text(path):
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


class Pod:
    def __init__(self, tmp, folder, manifest, guest=None, environment=None, flags=(), emulation=True, prefix=()):
        self.tmp, self.build, self.manifest, self.flags = Path(tmp), folder, manifest, flags
        self.mark = uuid.uuid4().hex
        self.private = self.tmp / "p"
        self.dir = self.private / UID
        self.sockets = self.tmp / "share" / "sockets"
        self.socket = self.sockets / "launcher-sock"
        self.log_path = self.tmp / "log"
        self.termination = self.tmp / "termination"
        self.environment = environment or {}
        self.emulation, self.prefix = emulation, list(prefix)
        self.process = None
        self.clients = []
        if guest:
            boot = self.tmp / "cd" / "kernel-boot"
            boot.mkdir(parents=True)
            for name in ("vmlinuz", "initrd.img"):
                os.symlink(guest / name, boot / name)

    # -- processes --

    def start(self, **environment):
        argv = [
            self.build / "src/monitor/virt-launcher-monitor", "--launcher-path",
            self.build / "src/launcher/virt-launcher", "--termination-log", self.termination, "--name", "tiny",
            "--namespace", "ns", "--uid", UID, "--run-as-nonroot", *(["--allow-emulation"] if self.emulation else []), "--kubevirt-share-dir",
            self.tmp / "share", "--private-dir", self.private, "--ephemeral-disk-dir", self.tmp / "eph",
            "--container-disk-dir", self.tmp / "cd", "--hotplug-disk-dir", self.tmp / "hp", "--empty-disk-dir",
            self.tmp / "ed", "--grace-period-seconds", "3", *self.flags,
        ]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [str(a) for a in self.prefix + argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=dict(os.environ, VMLET_FAULT_POD=self.mark, **self.environment, **environment),
            )
        return self

    def processes(self):
        """{pid: name of the program} of all that came from this pod and lives, wherever it is in the tree."""
        found = {}
        mark = f"VMLET_FAULT_POD={self.mark}".encode()
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            try:
                if mark not in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                    continue
                name = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")[0].decode()
            except OSError:
                continue
            if is_alive(entry):
                found[int(entry)] = os.path.basename(name)
        return found

    def named(self, name):
        return [pid for pid, program in self.processes().items() if program.startswith(name)]

    @property
    def launcher(self):
        found = self.named("virt-launcher")
        return next((pid for pid in found if pid != self.process.pid), None)

    @property
    def qemu(self):
        return next(iter(self.named("qemu-system")), None)

    def ended(self):
        return self.process.poll() is not None

    def wait(self):
        return self.process.wait(PATIENCE)

    def log(self):
        return log_text(self.log_path)

    # -- the command server --

    def connect(self, timeout=PATIENCE):
        """A client of the launcher that serves now; None while there is none."""
        client = None
        try:
            client = Client(self.socket)
            client.socket.settimeout(timeout)
            client.ok("Ping")
        except (OSError, ValueError, AssertionError):
            if client:
                client.close()
            return None
        self.clients.append(client)
        return client

    def serves(self):
        """A client, or None when the pod has ended."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            client = self.connect()
            if client or self.ended():
                return client
            time.sleep(0.001)
        raise AssertionError(f"neither serves nor ends: {self.log()}")

    def client(self):
        client = self.serves()
        assert client, self.log()
        return client

    def sync(self):
        """SyncVirtualMachine; None when the launcher died of it, else its answer."""
        client = self.serves()
        try:
            return client.call("SyncVirtualMachine", vmi=self.manifest) if client else None
        except (OSError, ValueError):
            return None

    def sync_request(self):
        return json.dumps({"jsonrpc": "2.0", "id": 1000, "method": "SyncVirtualMachine", "params": {"vmi": self.manifest}}
                          ).encode() + b"\n"

    def state(self, client):
        return client.ok("GetDomain").get("domain", {}).get("Status", {}).get("Status")

    def wait_state(self, client, wanted):
        wait_until(lambda: self.state(client) == wanted, f"the state is {wanted}: {self.log()}")

    def boot(self, **environment):
        self.start(**environment)
        client = self.client()
        client.ok("SyncVirtualMachine", vmi=self.manifest)
        return client

    # -- what it leaves --

    def check_state_file(self):
        """Whenever it is there, it is whole."""
        path = self.dir / "domain.json"
        try:
            text = path.read_text()
        except FileNotFoundError:
            return None
        state = json.loads(text)
        assert state["pid"] > 0 and state["startTime"] > 0 and json.loads(state["manifest"]), text
        return state

    def wait_saved(self, state):
        """A call is answered first."""
        wait_until(lambda: (self.check_state_file() or {}).get("state") == state, f"domain.json says {state}")

    def leftovers(self):
        """After the end: processes, sockets, half-written files, states of a VM that is gone."""
        found = [f"process {pid} ({name})" for pid, name in self.processes().items()]
        for path in self.tmp.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                continue
            inside = path.relative_to(self.tmp)
            if inside.parts[0] in ("cd", "log", "termination") or inside.parts[:2] == ("p", "vmi-disks") or path.name.startswith("mark"):
                continue
            if path.parent == self.dir and path.name in LOGS:
                continue
            found.append(str(inside))
        return found

    def close(self):
        for client in self.clients:
            client.close()
        for _ in range(3):
            for pid in self.processes():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        if self.process:
            self.process.wait()


class Table:
    """What was tried and what came of it, one row for each kind of fault. The workers that run tests share a file."""

    def __init__(self, path):
        self.path = path

    def clear(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)

    def _append(self, record):
        with open(self.path, "a", encoding="utf-8") as out:  # one write, at the end: whole lines, whoever writes
            out.write(json.dumps(record) + "\n")

    def add(self, fault, outcome, seconds=None):
        self._append({"fault": fault, "outcome": outcome, "seconds": seconds})

    def leak(self, *what):
        for leak in what:
            self._append({"leak": leak})

    def read(self):
        rows, leaks = {}, []
        for line in self.path.read_text().splitlines():
            record = json.loads(line)
            if "leak" in record:
                leaks.append(record["leak"])
                continue
            row = rows.setdefault(record["fault"], {"tried": 0, "outcomes": {}, "seconds": []})
            row["tried"] += 1
            row["outcomes"][record["outcome"]] = row["outcomes"].get(record["outcome"], 0) + 1
            if record["seconds"] is not None:
                row["seconds"].append(record["seconds"])
        return rows, leaks

    def text(self):
        rows, leaks = self.read()
        lines = [f"{'fault':44} {'tried':>5} {'recovery ms (median, max)':>26}  outcome"]
        tried = 0
        for fault, row in sorted(rows.items()):
            times = ""
            if row["seconds"]:
                times = f"{statistics.median(row['seconds']) * 1000:.0f}, {max(row['seconds']) * 1000:.0f}"
            outcomes = ", ".join(f"{name} {n}" for name, n in sorted(row["outcomes"].items()))
            lines.append(f"{fault:44} {row['tried']:5} {times:>26}  {outcomes}")
            tried += row["tried"]
        lines.append(f"{'in all':44} {tried:5} {'':>26}  leaks {len(leaks)}")
        lines += [f"  leaked: {leak}" for leak in leaks]
        return "\n".join(lines)


def kill_launcher(pod, client):
    """kill -9; the seconds to the first answer of the next one, and a client of it."""
    old = pod.launcher
    client.close()
    pod.clients.remove(client)
    began = time.monotonic()
    os.kill(old, signal.SIGKILL)
    client = None
    while not client:
        assert time.monotonic() - began < PATIENCE and not pod.ended(), pod.log()
        client = pod.connect()
    return time.monotonic() - began, client


def lines_of(text):
    """The numbers that the guest wrote, in order; a line that the end of the file cuts is none."""
    return [int(n) for n in re.findall(r"vmlet guest line (\d{8})\r?\n", text)]


def kill_while_it_writes(pod, kills, disk=None):
    """The seconds that each launcher took to answer again. `disk` is the file that the guest's disk is."""
    client = pod.boot()
    console = pod.dir / "virt-serial0-log"
    wait_until(lambda: lines_of(log_text(console)), "the guest writes")
    qemu, times = pod.qemu, []
    for _ in range(kills):
        seen = len(lines_of(log_text(console)))
        seconds, client = kill_launcher(pod, client)
        times.append(seconds)
        assert pod.qemu == qemu
        # more than a second each: a launcher that was up, and no crash loop
        wait_until(lambda: len(lines_of(log_text(console))) >= seen + 13, "the guest goes on writing")
    client.ok("KillVirtualMachine", vmi={})
    assert pod.wait() == 0, pod.log()
    text = log_text(console)
    numbers = lines_of(text)
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= 13 * kills
    if disk:
        on_disk = lines_of(disk.read_bytes().replace(b"\0", b"").decode())
        assert on_disk == list(range(1, len(on_disk) + 1)) and len(on_disk) >= len(numbers)
    assert text.count("vmlet guest ready") == 1  # no reboot
    assert pod.leftovers() == []
    return times
