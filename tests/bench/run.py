#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Run benchmarks: each module of this folder with a function measure(options) is one. `bench_common` is what they share."""
import argparse
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

from report import verdict, write

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
sys.path.insert(0, str(HERE))


def first_line(*argv):
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "not here"


def environment():
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "cpu": model,
        "cpus": os.cpu_count(),
        "memoryMiB": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1 << 20),
        "load1": os.getloadavg()[0],
        "qemu": first_line("qemu-system-x86_64", "--version"),
        "libvirt": first_line("/usr/sbin/libvirtd", "--version"),
        "commit": first_line("git", "-C", str(TOP), "describe", "--always", "--dirty"),
    }


def cpu_time():
    """Ticks in which a CPU of this machine had work, since boot, and those of them that its host gave to others (proc(5))."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9])
    return user + nice + system + irq + softirq + steal, steal


def measure(name, options):
    """With a note of how much of a shared machine was not ours: the more, the wider the ratios of short times spread."""
    before = cpu_time()
    result = importlib.import_module(name).measure(options)
    needed, stolen = (b - a for a, b in zip(before, cpu_time()))
    result.setdefault("notes", []).append(f"of the CPU time that was wanted meanwhile, the host gave {100 * stolen / max(needed, 1):.0f} % to others")
    return result


def show(result):
    """The table of one benchmark. Red, on a terminal, for a missed budget."""
    width = max(len(row["name"]) for row in result["rows"]) if result["rows"] else 0
    print(f"\n{result['name']}: {result['what']}")
    for row in result["rows"]:
        text = f"  {row['name']:{width}}  median {row['median']:9.2f}  min {row['min']:9.2f}  max {row['max']:9.2f} {row['unit']}"
        print(text)
    for budget in result["budgets"]:
        said = verdict(budget, "MISSED")
        text = f"  {budget['name']}: {budget['value']:.3f} (limit {budget['limit']:.4g}) {said}"
        print(f"\033[31m{text}\033[0m" if said != "met" and sys.stdout.isatty() else text)
    for note in result.get("notes", []):
        print(f"  {note}")


def command_line(results, options):
    """What measured: with --from, the runs that were saved, each of which may have had its own moment of this machine."""
    if options.saved:
        return f"./dev bench {' '.join(r['name'] for r in results)} --json, in {len(options.saved)} runs, then ./dev bench --from FILE… --write"
    rounds = ["--rounds", str(options.rounds)] if options.rounds else []
    return " ".join(["./dev bench", *options.name, *rounds, "--write"])


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was begun is taken away, as at an end
    names = sorted(p.stem for p in HERE.glob("*.py") if not p.stem.startswith("test_") and p.stem not in ("run", "bench_common", "peers", "report"))
    parser = argparse.ArgumentParser(prog="dev bench", description="Measure vmlet beside its peers, in one run.")
    parser.add_argument("name", nargs="*", help="which: " + " ".join(names))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--check", action="store_true", help="exit 1 when a budget is missed")
    parser.add_argument("--write", action="store_true", help="write BENCHMARKS.md and the plots of docs/bench")
    parser.add_argument("--from", dest="saved", metavar="FILE", nargs="+", help="show what --json has printed, measure nothing")
    parser.add_argument("--rounds", type=int, default=0, help="interleaved rounds (each benchmark has its default)")
    options = parser.parse_args()
    unknown = [n for n in options.name if n not in names]
    if unknown:
        parser.error(f"no such benchmark: {' '.join(unknown)} (there are: {' '.join(names)})")
    report = {"environment": environment(), "results": []}
    for path in options.saved or []:
        saved = json.loads(Path(path).read_text())
        report = {"environment": saved["environment"], "results": report["results"] + saved["results"]}
    for name in [] if options.saved else options.name or names:
        result = measure(name, options)
        report["results"].append(result)
        if not options.json:
            show(result)
    if options.write:
        write(report, command_line(report["results"], options))
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print("\n" + ", ".join(f"{k} {v}" for k, v in report["environment"].items()))
    missed = [b for r in report["results"] for b in r["budgets"] if b["value"] > b["limit"]]
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
