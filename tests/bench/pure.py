# SPDX-License-Identifier: Apache-2.0
"""Instructions of the pure parts, counted by callgrind: a regression shows on a noisy machine too.

The manifest is a fixed one of this repository. `vmlet explain` decodes, defaults, validates and builds it; counted from the
verb on, without the loader and the seccomp filter. Decoding alone is the slope between the manifest and the same with many
annotations, so it is told per byte, and as MB/s on this machine. What a disk costs (its place, its arguments, the check of
its options) is the slope between two numbers of disks.
"""
import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

from bench_common import TOP, VMLET, monotonic_usec, row

# Measured with the build of ./dev (gcc 12, -O2 -g); with a tolerance for other compilers and libraries.
EXPLAIN_LIMIT = 1.25
EXPLAIN_REFERENCE = 4.13e6
BYTES_LIMIT = 1.25
BYTES_REFERENCE = 204.8
ANNOTATIONS = 4000
DISKS = 16
DISK_LIMIT = 1.25
DISK_REFERENCE = 211e3
SCHEMA_LIMIT = 1.25
SCHEMA_REFERENCE = 52.5e6
ROUNDS = 7
VERB = "verb_explain"
LOAD = TOP / "build/tests/bench/schema-load"
RECORDED = TOP / "tests/qmp/qmp-schema-7.2.json"


def instructions(argv, folder, env, function=None):
    """Of the whole run, or of what this function and those below it do."""
    if not shutil.which("valgrind"):
        raise SystemExit("bench: valgrind is missing (./dev deps test)")
    out = folder / "callgrind"
    run = subprocess.run(
        ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", *([f"--toggle-collect={function}"] if function else []),
         *argv], capture_output=True, text=True, check=False, env=env)
    if run.returncode != 0:
        raise SystemExit(f"bench: {' '.join(argv)} failed:\n{run.stderr[-2000:]}")
    return int(re.search(r"^(?:summary|totals): (\d+)", out.read_text(), re.M).group(1))


def explain(path):
    return [str(VMLET), "explain", str(path), "--format", "argv", "--accel", "tcg"]


def with_disks(count):
    """A manifest as JSON, which YAML is a superset of."""
    names = [f"d{i}" for i in range(count)]
    return json.dumps({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "demo"},
        "spec": {"domain": {"memory": {"guest": "256Mi"}, "devices": {"disks": [{"name": n, "disk": {"bus": "virtio"}} for n in names]}},
                 "volumes": [{"name": n, "emptyDisk": {"capacity": "1Gi"}} for n in names]}})


def best(argv, rounds):
    took = []
    for _ in range(rounds):
        start = monotonic_usec()
        subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        took.append((monotonic_usec() - start) / 1000)
    return took


def measure(options):
    folder = Path(tempfile.mkdtemp(prefix="vb."))
    small, large = folder / "small.yaml", folder / "large.yaml"
    try:
        text = (TOP / "examples/kernel-boot.yaml").read_text()
        small.write_text(text)
        notes = "".join(f"    example.org/key-{i}: some value of a usual length, number {i}\n" for i in range(ANNOTATIONS))
        large.write_text(text.replace("  name: demo\n", "  name: demo\n  annotations:\n" + notes, 1))
        own = dict(os.environ, HOME=str(folder))
        own.pop("XDG_CACHE_HOME", None)
        subprocess.run(explain(small), stdout=subprocess.DEVNULL, check=True, env=own)  # QEMU's capabilities are in the cache then
        nothing = instructions([str(VMLET), "--version"], folder, own)
        one = instructions(explain(small), folder, own, VERB)
        many = instructions(explain(large), folder, own, VERB)
        size = large.stat().st_size - small.stat().st_size
        per_byte = (many - one) / size
        disks = {}
        for count in (1, 1 + DISKS):
            path = folder / f"disks{count}.json"
            path.write_text(with_disks(count))
            disks[count] = instructions(explain(path), folder, own, VERB)
        per_disk = (disks[1 + DISKS] - disks[1]) / DISKS
        rounds = options.rounds or ROUNDS
        times = best(explain(small), rounds)
        slower = best(explain(large), rounds)
        speed = size / 1e6 / max((statistics.median(slower) - statistics.median(times)) / 1000, 1e-6)
        base = best([str(VMLET), "--version"], rounds)
        schema = instructions([str(LOAD), str(RECORDED), "2"], folder, own) - instructions(
            [str(LOAD), str(RECORDED), "1"], folder, own)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "name": "pure", "what": "instructions by callgrind, and time of the same", "notes": [],
        "rows": [
            row("vmlet --version", [nothing / 1e6], "M instr"), row("vmlet explain: the verb", [one / 1e6], "M instr"),
            row("decoding", [per_byte], "instr/B"),
            row("a disk in the machine", [per_disk / 1e3], "k instr"),
            row("query-qmp-schema, read", [schema / 1e6], "M instr"), row("decoding", [speed], "MB/s"), row("vmlet --version", base, "ms"),
            row("vmlet explain", times, "ms"), row(f"vmlet explain, {size // 1000} kB more", slower, "ms"),
        ],
        "budgets": [
            {"name": "instructions of explain / reference", "value": one / EXPLAIN_REFERENCE, "limit": EXPLAIN_LIMIT},
            {"name": "instructions per byte decoded / reference", "value": per_byte / BYTES_REFERENCE, "limit": BYTES_LIMIT},
            {"name": "instructions of a disk / reference", "value": per_disk / DISK_REFERENCE, "limit": DISK_LIMIT},
            {"name": "instructions of reading the schema / reference", "value": schema / SCHEMA_REFERENCE, "limit": SCHEMA_LIMIT},
        ],
    }
