# SPDX-License-Identifier: Apache-2.0
"""From exec to running vCPUs: `vmlet run` beside the least program that starts the same QEMU, interleaved A B A B.

QEMU's arguments are those of a real `vmlet run`, read from the running process; the bare peer gives it the same
descriptors. Both are timed from just before the exec by this script until the RESUME event, on CLOCK_MONOTONIC.
"""
import json
import os
import signal
import shutil
import statistics
import subprocess
import tempfile
from datetime import datetime
from pathlib import Path

from bench_common import BARE, TOP, VMLET, child_running, clock_offset_usec, guest, inherited_fds, monotonic_usec, row

LIMIT = 1.25
ROUNDS = 15


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


def monitor_fd(argv, fds):
    """The number of the descriptor of the QMP chardev: the one whose path has qmp or monitor in its name."""
    names = [n for n, (kind, path) in fds.items() if kind == "listen" and ("qmp" in path or "monitor" in path)]
    if len(names) != 1:
        raise SystemExit(f"bench: cannot tell the monitor's socket from {fds}")
    return names[0]


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


def run_bare(argv_file, monitor, fds):
    command = [str(BARE), str(argv_file), str(monitor)]
    command += [f"{n}:{kind}:{path}" for n, (kind, path) in sorted(fds.items())]
    start = monotonic_usec()
    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise SystemExit(f"bench: bare-qemu failed with {run.returncode}:\n{run.stderr}")
    return {name: (value - start) / 1000 for name, value in json.loads(run.stdout).items()}


def measure(options):
    work = Path(tempfile.mkdtemp(prefix="vmlet-bench."))
    try:
        argv, fds = capture(work / "vm")
        argv_file = work / "argv"
        argv_file.write_bytes(b"".join(a.encode() + b"\0" for a in argv))
        # The folder of the VM is gone with the VM; the same paths are used again.
        for _, path in fds.values():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        monitor = monitor_fd(argv, fds)
        mine, bare = [], []
        run_vmlet(work / "warm")
        while len(mine) < (options.rounds or ROUNDS):
            marks = run_vmlet(work / f"vm-{len(mine)}")
            if marks is None:
                continue
            for _, path in fds.values():
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            mine.append(marks)
            bare.append(run_bare(argv_file, monitor, fds))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    ratios = [m["running"] / b["running"] for m, b in zip(mine, bare)]
    names = [n for n in ("exec", "manifest", "storage", "argv", "spawn", "greeting", "running") if n in mine[0]]
    return {
        "name": "start",
        "what": f"exec to running vCPUs, {len(mine)} interleaved rounds, TCG, 256 MiB, kernel boot",
        "rows": [row(f"vmlet run: {n}", [m[n] for m in mine], "ms") for n in names]
        + [row(f"bare QEMU: {n}", [b[n] for b in bare], "ms") for n in ("main", "spawn", "greeting", "running")],
        "budgets": [{"name": "vmlet / bare QEMU, median of the pairs", "value": statistics.median(ratios), "limit": LIMIT}],
        "ratios": ratios,
        "argv": argv,
    }
