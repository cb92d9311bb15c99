# SPDX-License-Identifier: Apache-2.0
"""The limit that QEMU itself sets: what each part of the command line costs, from its spawn to running vCPUs.

The same QEMU with the same descriptors, as `vmlet run` starts it, and with one part left out or changed, in turns with
the whole. Nothing of ours runs here: the least program spawns both (bare-qemu.c). What a row saves is what a user could
win by doing without it; none of it can be had by a better launcher.
"""
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

from bench_common import monotonic_usec, row
from peers import Bare
from start import capture

ROUNDS = 9
WITH_VALUE = {"-sandbox", "-vnc", "-device", "-cpu", "-accel", "-m", "-object", "-smbios"}


def without(argv, wanted):
    """The arguments without the options (and their values) that `wanted` picks."""
    kept, rest = [], list(argv)
    while rest:
        option = rest.pop(0)
        value = rest.pop(0) if option in WITH_VALUE and rest else None
        if not wanted(option, value or ""):
            kept += [option] if value is None else [option, value]
    return kept


def changed(argv, option, value):
    return [value if i and argv[i - 1] == option else a for i, a in enumerate(argv)]


def with_machine(argv, more):
    return [a + "," + more if i and argv[i - 1] == "-machine" else a for i, a in enumerate(argv)]


# What is left out or changed; how a manifest says so, or why none can.
VARIANTS = {
    "without -sandbox": (lambda a: without(a, lambda o, v: o == "-sandbox"), "not offered: it holds a guest that has broken out"),
    "without VGA and VNC": (
        lambda a: without(a, lambda o, v: o == "-vnc" or "video0" in v) + ["-display", "none"],
        "autoattachGraphicsDevice: false"),
    "without PCIe ports that are free": (
        lambda a: without(a, lambda o, v: o == "-device" and "pcie-root-port" in v and not used(a, v)),
        "not offered: devices could not be plugged in later"),
    "without guest agent, RNG, balloon, SCSI": (
        lambda a: without(a, lambda o, v: o == "-device" and any(
            name in v for name in ("virtio-serial0", "channel0", "rng0", "balloon0", "scsi0"))),
        "autoattachMemBalloon: false, no rng, disableHotplug: true; the agent's channel stays"),
    "-cpu qemu64": (lambda a: changed(a, "-cpu", "qemu64"), "cpu.model: qemu64"),
    "-accel tcg,tb-size=32": (lambda a: changed(a, "-accel", "tcg,tb-size=32"), "not offered: emulation alone has it"),
    "-machine …,smbus=off,sata=off": (lambda a: with_machine(a, "smbus=off,sata=off"), "not offered: KubeVirt's machine has both"),
}


def used(argv, port):
    name = port.split('"id":"')[1].split('"')[0]
    return any(f'"bus":"{name}"' in a for a in argv)


def loading(qemu):
    """Milliseconds to load QEMU and its libraries, and to leave again."""
    took = []
    for _ in range(ROUNDS):
        start = monotonic_usec()
        subprocess.run([qemu, "--version"], stdout=subprocess.DEVNULL, check=True)
        took.append((monotonic_usec() - start) / 1000)
    return took


def measure(options):
    rounds = options.rounds or ROUNDS
    work = Path(tempfile.mkdtemp(prefix="vb."))
    work.chmod(0o755)
    (work / "other").mkdir()
    whole, saved, times = [], {name: [] for name in VARIANTS}, {name: [] for name in VARIANTS}
    try:
        argv, fds = capture(work / "vm")
        bare = Bare(work, argv, fds)
        for _ in range(rounds):
            for name, (change, _) in VARIANTS.items():
                before = bare.start()
                other = Bare(work / "other", change(argv), fds).start()
                took = other["running"] - other["spawn"]
                whole.append(before["running"] - before["spawn"])
                times[name].append(took)
                saved[name].append(whole[-1] - took)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {
        "name": "floor", "what": f"spawn of QEMU to running vCPUs, {rounds} pairs for each part", "budgets": [],
        "notes": [
            f"{name}: saves {statistics.median(values):.1f} ms (median of the pairs); {VARIANTS[name][1]}"
            for name, values in saved.items()],
        "rows": [row("qemu --version: its libraries alone", loading(argv[0]), "ms"), row("as vmlet starts it", whole, "ms")] + [row(name, values, "ms") for name, values in times.items()],
    }
