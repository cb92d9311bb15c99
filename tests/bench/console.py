# SPDX-License-Identifier: Apache-2.0
"""Console throughput: a full pipe from QEMU to one viewer and the log, through the launcher's console and through the
least loop that could do it (read, write, write), in turns."""
import json
import shutil
import statistics
import subprocess
import tempfile

from bench_common import TOP, row

FEED = TOP / "build/tests/bench/console-feed"
MEBIBYTES = 64
ROUNDS = 7


def feed(folder, *options):
    run = subprocess.run([FEED, *options, folder, str(MEBIBYTES)], capture_output=True, text=True, check=True, timeout=120)
    answer = json.loads(run.stdout)
    return MEBIBYTES * 1e6 / answer["usec"], answer["seen"] / (MEBIBYTES << 20)


def measure(options):
    ours, plain, seen = [], [], []
    folder = tempfile.mkdtemp(prefix="vb.")
    try:
        for _ in range(options.rounds or ROUNDS):
            speed, share = feed(folder)
            ours.append(speed)
            seen.append(share)
            plain.append(feed(folder, "--plain")[0])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    ratios = [b / a for a, b in zip(ours, plain)]
    return {
        "name": "console", "what": f"{MEBIBYTES} MiB of lines from the guest's pipe to one viewer and the log", "budgets": [],
        "notes": [f"time of ours / of the plain loop, median of the pairs: {statistics.median(ratios):.2f}",
                  f"the viewer saw {min(seen):.0%} or more of it"],
        "rows": [row("launcher's console, log bounded and rotated", ours, "MiB/s"),
                 row("read, write to a file, write to the viewer", plain, "MiB/s")],
    }
