# SPDX-License-Identifier: Apache-2.0
"""From exec, or from the manifest, to running vCPUs: ours beside the least program that starts the same QEMU, and libvirt.

QEMU's arguments are those of a real run, read from the running process; the bare peer gives it the same descriptors.
Rounds are interleaved A B C A B C. Cold: from just before the exec of the entrypoint (virt-launcher-monitor, with the
manifest in its environment; libvirt: its daemons) until RESUME. Warm: the server is up; from the call to its answer.
"""
import contextlib
import ctypes
import json
import os
import shutil
import stat
import signal
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from bench_common import TOP, VMLET, child_running, clock_offset_usec, guest, inherited_fds, monotonic_usec, row

sys.path.insert(0, str(TOP / "tests/net"))
from conftest import Lab  # noqa: E402
from peers import SESSION_USER, Bare, Launcher, Libvirt, libvirt_missing, manifest, poll  # noqa: E402

COLD_LIMIT, WARM_LIMIT, RUN_LIMIT = 1.25, 1.1, 1.25
ROUNDS = 9
CLONE_NEWNET = 0x40000000  # linux/sched.h


# ---- vmlet run ---------------------------------------------------------------------------------------------------------


def vmlet_command(state, *more):
    kernel = guest()
    return [
        str(VMLET), "run", str(TOP / "examples/kernel-boot.yaml"), "--accel", "tcg", "--state-dir", str(state),
        "--kernel", str(kernel / "vmlinuz"), "--initrd", str(kernel / "initrd.img"), "--append", "console=ttyS0 quiet", *more,
    ]


def capture(state):
    """The arguments and descriptors of the QEMU that `vmlet run` starts."""
    run = subprocess.Popen(vmlet_command(state), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        qemu = child_running(run.pid, "qemu-system")
        argv = [a.decode() for a in Path(f"/proc/{qemu}/cmdline").read_bytes().split(b"\0")[:-1]]
        fds = inherited_fds(qemu, argv)
        argv[0] = os.readlink(f"/proc/{qemu}/exe")
    finally:
        run.send_signal(signal.SIGINT)
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=60)
    return argv, fds


def run_vmlet(state):
    command = vmlet_command(state, "--until", "running", "--json")
    offset = clock_offset_usec()
    start = monotonic_usec()
    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise SystemExit(f"bench: vmlet run failed with {run.returncode}:\n{run.stderr}{run.stdout}")
    if abs(clock_offset_usec() - offset) > 50:
        return None  # the wall clock was set meanwhile: the stamps cannot be compared
    marks = {}
    for event in json.loads(run.stdout)["timeline"]["events"]:
        wall = datetime.fromisoformat(event["wall"].replace("Z", "+00:00")).timestamp() * 1e6
        marks[event["name"]] = (wall - offset - start) / 1000
    return marks


def measure_run(work, rounds):
    argv, fds = capture(work / "vm")
    bare = Bare(work, argv, fds)
    mine, theirs = [], []
    run_vmlet(work / "warm")
    while len(mine) < rounds:
        marks = run_vmlet(work / f"vm-{len(mine)}")
        if marks:
            mine.append(marks)
            theirs.append(bare.start())
    return mine, theirs


# ---- the launcher --------------------------------------------------------------------------------------------------------


def run_cold(work, spec, volumes):
    pod = Launcher(work, monitor=True, standalone=spec, volumes=volumes)
    try:
        pod.ready()
        client = pod.client()
        marks = poll(lambda: (lambda m: m if "running" in m else None)(pod.marks(client)), "the mark of the running guest")
        pod.qemu = client.ok("GetDomain")["vmlet"]["pid"]
        pod.kill_guest(client)
    finally:
        pod.close()
    return marks


def run_warm(work, spec, volumes):
    pod = Launcher(work, volumes=volumes)
    try:
        pod.ready()
        client = pod.client()
        took = pod.sync(client, spec)
        found = pod.captured()
        pod.kill_guest(client)
    finally:
        pod.close()
    return took, found


def cold_libvirt(work, description, enter):
    peer = Libvirt(work, enter)
    try:
        peer.forget_capabilities()
        up = peer.start()
        domain, took = peer.create(peer.domain(**description))
        domain.destroy()
        return up + took
    finally:
        peer.stop()


class Peers:
    """libvirt's turn in a round, where there is a libvirt. description: of the domain, as Libvirt.domain() takes it."""

    def __init__(self, work, description, notes, enter=()):
        work.mkdir(exist_ok=True)
        self.work, self.description, self.enter, missing = work, description, enter, libvirt_missing()
        self.server = None if missing else Libvirt(work / "libvirt", enter)
        if missing:
            notes.append(f"libvirt is not compared: missing {missing}")
        else:
            try:
                self.server.start()
                self.server.create(self.server.domain(**description))[0].destroy()
            except BaseException:
                self.server.close()
                raise

    def turn(self, found):
        if not self.server:
            return
        domain, took = self.server.create(self.server.domain(**self.description))
        domain.destroy()
        found["libvirt warm"].append(took)
        if len(found["libvirt cold"]) < 3:
            found["libvirt cold"].append(cold_libvirt(self.work / "cold", self.description, self.enter))

    def close(self):
        if self.server:
            self.server.close()


def measure_pod(folder, rounds, label, spec, volumes=0, peers=None):
    """{"cold", "warm", "bare", …}: what each round took."""
    folder.mkdir(exist_ok=True)
    _, (argv, fds) = run_warm(folder, spec, volumes)
    bare = Bare(folder, argv, fds)
    found = {"cold": [], "warm": [], "bare": [], "libvirt warm": [], "libvirt cold": []}
    for number in range(rounds):
        print(f"start: {label}, round {number + 1} of {rounds}", file=sys.stderr)
        found["bare"].append(bare.start())
        found["warm"].append(run_warm(folder, spec, volumes)[0])
        found["cold"].append(run_cold(folder, spec, volumes))
        if peers:
            peers.turn(found)
    return found


def measure_volumes(work, rounds, volumes, label, notes):
    peers = Peers(work / f"peers{volumes}", {"volumes": volumes}, notes)
    try:
        return measure_pod(work / f"pod{volumes}", rounds, label, manifest(volumes=volumes), volumes, peers)
    finally:
        peers.close()


@contextlib.contextmanager
def inside(path):
    """In another network namespace, as are all processes that are started there."""
    libc = ctypes.CDLL(None, use_errno=True)
    home, there = os.open("/proc/self/ns/net", os.O_RDONLY), os.open(path, os.O_RDONLY)
    try:
        if libc.setns(there, CLONE_NEWNET) < 0:
            raise OSError(ctypes.get_errno(), "setns", path)
        yield
    finally:
        libc.setns(home, CLONE_NEWNET)
        os.close(there)
        os.close(home)


def tap_for_libvirt(lab):
    """What libvirt's daemons are started by, to see a /dev/net/tun that their user may open."""
    lab.pod.sh(f"ip tuntap add dev tap-libvirt mode tap user {SESSION_USER} vnet_hdr; "
               "ip link set tap-libvirt mtu 1450 master k6t-eth0 up")
    node = lab.directory / "tun-libvirt"
    os.mknod(node, 0o600 | stat.S_IFCHR, os.makedev(10, 200))
    os.chown(node, SESSION_USER, SESSION_USER)
    return ["unshare", "-m", "sh", "-ec", f'mount --bind {node} /dev/net/tun; exec "$0" "$@"']


def measure_network(work, rounds, label, notes):
    """A NIC by masquerade in a pod that netsetup has prepared; the bare peer opens the same tap in its turn,
    libvirt one beside it: netsetup's is the launcher's user's, and libvirtd runs as another."""
    folder = work / "net"
    folder.mkdir()
    lab = Lab(folder)
    try:
        lab.cache = folder / "priv"
        lab.cache.mkdir()
        lab.netsetup("apply", lab.manifest("masquerade"))
        spec = manifest()
        spec["spec"]["domain"]["devices"].pop("autoattachPodInterface", None)
        spec["spec"]["domain"]["devices"]["interfaces"] = [{"name": "default", "masquerade": {}}]
        spec["spec"]["networks"] = [{"name": "default", "pod": {}}]
        with inside(lab.pod.path):
            peers = Peers(work / "peers-net", {"tap": "tap-libvirt"}, notes, tap_for_libvirt(lab))
            try:
                return measure_pod(folder, rounds, label, spec, peers=peers)
            finally:
                peers.close()
    finally:
        lab.close()


def pairs(mine, theirs):
    return statistics.median(m / t for m, t in zip(mine, theirs))


def measure(options):
    rounds = options.rounds or ROUNDS
    work = Path(tempfile.mkdtemp(prefix="vmlet-bench."))
    work.chmod(0o755)
    notes, rows, budgets, series = [], [], [], {}
    try:
        mine, theirs = measure_run(work, rounds)
        names = [n for n in ("exec", "manifest", "storage", "argv", "spawn", "greeting", "running") if n in mine[0]]
        rows += [row(f"vmlet run: {n}", [m[n] for m in mine], "ms") for n in names]
        rows += [row(f"bare QEMU: {n}", [b[n] for b in theirs], "ms") for n in ("main", "spawn", "greeting", "running")]
        ratio = pairs([m["running"] for m in mine], [b["running"] for b in theirs])
        budgets.append({"name": "vmlet run / bare QEMU, median of the pairs", "value": ratio, "limit": RUN_LIMIT})
        for volumes in (0, 1, 8, None):
            label = "NIC by masquerade" if volumes is None else f"{volumes} volume{'' if volumes == 1 else 's'}"
            if volumes is None and os.geteuid() != 0:
                notes.append(f"{label}: not measured without root")
                continue
            found = measure_network(work, rounds, label, notes) if volumes is None else measure_volumes(work, rounds, volumes, label, notes)
            bare = [b["running"] for b in found["bare"]]
            cold = [m["running"] for m in found["cold"]]
            rows.append(row(f"{label}: bare QEMU", bare, "ms"))
            rows.append(row(f"{label}: pod, exec to running", cold, "ms"))
            rows.append(row(f"{label}: launcher, Sync to running", found["warm"], "ms"))
            rows += [row(f"{label}: {n}", found[n], "ms") for n in ("libvirt warm", "libvirt cold") if found[n]]
            budgets.append({"name": f"{label}: pod cold / bare QEMU", "value": pairs(cold, bare), "limit": COLD_LIMIT})
            budgets.append({"name": f"{label}: Sync warm / bare QEMU", "value": pairs(found["warm"], bare), "limit": WARM_LIMIT})
            if volumes == 0:
                series = {"pod": found["cold"], "bare": found["bare"]}
            if found["libvirt warm"]:
                notes.append(
                    f"{label}: libvirt warm / bare QEMU {pairs(found['libvirt warm'], bare):.1f}, "
                    f"libvirt cold / bare QEMU {pairs(found['libvirt cold'], bare):.1f}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {
        "name": "start",
        "what": f"to running vCPUs, {rounds} interleaved rounds, TCG, 256 MiB, kernel boot",
        "rows": rows, "budgets": budgets, "notes": sorted(set(notes), key=notes.index), "timeline": median_timeline(series),
    }


def median_timeline(series):
    """For the plot: {bar: [[mark, milliseconds after the exec]…]}."""
    bars = {}
    for name, runs in series.items():
        names = [n for n in ("main", "exec", "manifest", "storage", "argv", "spawn", "greeting", "running") if n in runs[0]]
        bars[name] = [[n, statistics.median(r[n] for r in runs)] for n in names]
    return bars
