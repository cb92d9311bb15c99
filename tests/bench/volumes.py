# SPDX-License-Identifier: Apache-2.0
"""What volumes add to a start: eight containerDisks (qcow2, each examined and given an overlay) beside one, and what the same
QEMU adds that finds its overlays made."""
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_common import row
from peers import Bare, Launcher, manifest

ROUNDS = 31
LIMIT_MS = 20.0


def spec_of(count):
    made = manifest()
    made["spec"]["domain"]["devices"]["disks"] = [{"name": f"v{i}", "disk": {"bus": "virtio"}} for i in range(count)]
    made["spec"]["volumes"] = [{"name": f"v{i}", "containerDisk": {"image": "x"}} for i in range(count)]
    return made


def make_images(work):
    (work / "cd").mkdir(parents=True, exist_ok=True)
    for i in range(8):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", work / "cd" / f"disk_{i}.img", "1G"], check=True)


def bare_of(work, count):
    """The QEMU of such a VM. Its launcher is killed: it cleans nothing up, and the overlays stay."""
    make_images(work)
    pod = Launcher(work)
    try:
        pod.ready()
        pod.sync(pod.client(), spec_of(count))
        return Bare(work, *pod.captured())
    finally:
        pod.close()


def cpu_ms(pid):
    """What the process's first thread has run so far (schedstat of the kernel's proc(5)): a busy machine does not change it."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e6


def once(work, count):
    """Milliseconds from SyncVirtualMachine to the guest running; of them those that storage took; CPU of QEMU and of us."""
    pod = Launcher(work)
    try:
        pod.ready()
        client = pod.client()
        before = cpu_ms(pod.process.pid)
        took = pod.sync(client, spec_of(count))
        ours, qemu = cpu_ms(pod.process.pid) - before, cpu_ms(pod.qemu)
        marks = pod.marks(client)
        pod.kill_guest(client)
        return took, marks["storage"] - marks["manifest"], ours, qemu
    finally:
        pod.close()


def measure(options):
    rounds = options.rounds or ROUNDS
    work = Path(tempfile.mkdtemp(prefix="vb."))
    work.chmod(0o755)
    found, alone = {1: [], 8: []}, {1: [], 8: []}
    try:
        make_images(work)
        bare = {count: bare_of(work / f"bare{count}", count) for count in found}
        for number in range(rounds):
            print(f"volumes: round {number + 1} of {rounds}", file=sys.stderr)
            for count in (1, 8) if number % 2 else (8, 1):
                found[count].append(once(work, count))
                alone[count].append(bare[count].start()["running"])
    finally:
        shutil.rmtree(work, ignore_errors=True)
    total, storage, ours, qemu = ({n: [v[k] for v in values] for n, values in found.items()} for k in range(4))
    added, floor = (statistics.median(v[8]) - statistics.median(v[1]) for v in (total, alone))
    least, least_alone = (min(v[8]) - min(v[1]) for v in (total, alone))
    used_by_us, used_by_qemu = (statistics.median(v[8]) - statistics.median(v[1]) for v in (ours, qemu))
    return {
        "notes": [f"8 volumes over 1, ms, medians: {added:.1f}, of which bare QEMU {floor:.1f}"],
        "name": "volumes", "what": f"start with 1 and 8 containerDisks, {rounds} interleaved rounds",
        "rows": [row(f"manifest to running, {n} volume{'s' * (n > 1)}", total[n], "ms") for n in (1, 8)]
        + [row(f"bare QEMU, {n} volume{'s' * (n > 1)}", alone[n], "ms") for n in (1, 8)]
        + [row(f"of it src/storage, {n} volume{'s' * (n > 1)}", storage[n], "ms") for n in (1, 8)]
        + [row(f"CPU of the launcher, {n} volume{'s' * (n > 1)}", ours[n], "ms") for n in (1, 8)]
        + [row(f"CPU of QEMU's first thread, {n} volume{'s' * (n > 1)}", qemu[n], "ms") for n in (1, 8)],
        "budgets": [{"name": "8 volumes over 1, ms, least of each", "value": least, "limit": LIMIT_MS, "floor": (least_alone, "QEMU alone")},
                    {"name": "8 volumes over 1, ms, medians", "value": added, "limit": LIMIT_MS, "floor": (floor, "QEMU alone")},
                    {"name": "8 volumes over 1, ms of CPU, medians", "value": used_by_us + used_by_qemu, "limit": LIMIT_MS,
                     "floor": (used_by_qemu, "QEMU alone")}],
    }
