#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Fuzz every target for a while, one after the other in rounds, and print a table of what it came to.

`./dev fuzz all SECONDS` builds the programs and calls this. What a round finds is kept in build-fuzz/corpus/TARGET and is
the start of the next round. Ends with 1 if anything was found; the inputs are in build-fuzz/, named TARGET-crash-… .
"""
import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent


class Target:
    def __init__(self, program):
        self.program, self.name = program, program.name.removeprefix("fuzz-")
        self.seconds, self.executions, self.edges, self.features, self.inputs = 0.0, 0, 0, 0, 0
        self.findings = []

    def run(self, seconds, folder):
        corpus = folder / "corpus" / self.name
        corpus.mkdir(parents=True, exist_ok=True)
        before = set(folder.glob(f"{self.name}-*-*"))
        began = time.monotonic()
        done = subprocess.run(
            [self.program, f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1",
             f"-artifact_prefix={folder / self.name}-", corpus, TOP / "tests" / "fuzz" / "corpus" / self.name],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            check=False,
        )
        self.seconds += time.monotonic() - began
        for found in re.findall(r"^stat::number_of_executed_units:\s+(\d+)", done.stdout, re.M):
            self.executions += int(found)
        for edges, features in re.findall(r"cov: (\d+) ft: (\d+)", done.stdout):
            self.edges, self.features = max(self.edges, int(edges)), max(self.features, int(features))
        self.inputs = len(list(corpus.iterdir()))
        new = sorted(set(folder.glob(f"{self.name}-*-*")) - before)
        if done.returncode != 0:
            self.findings += new or [f"ended with {done.returncode}"]
            (folder / f"{self.name}.finding.log").write_text(done.stdout)

    def row(self):
        return (f"{self.name:14} {self.seconds:8.0f} {self.executions:12} {self.edges:8} {self.features:9} {self.inputs:7}"
                f" {len(self.findings):9}")


def main():
    parser = argparse.ArgumentParser(prog="dev fuzz all")
    parser.add_argument("seconds", type=int, help="for all targets together")
    parser.add_argument("--programs", type=Path, default=TOP / "build-fuzz" / "tests" / "fuzz")
    parser.add_argument("--folder", type=Path, default=TOP / "build-fuzz", help="of the corpora and of what is found")
    parser.add_argument("--round", type=int, default=60, help="seconds that a target has in one round")
    parser.add_argument("--only", help="targets, with commas between; with a leading ! all but these")
    parser.add_argument("--report", type=Path, help="write the table here after each round too")
    options = parser.parse_args()
    programs = sorted(p for p in options.programs.glob("fuzz-*") if p.is_file() and os.access(p, os.X_OK))
    if options.only:
        names = options.only.lstrip("!").split(",")
        programs = [p for p in programs if (p.name.removeprefix("fuzz-") in names) != options.only.startswith("!")]
    targets = [Target(p) for p in programs]
    if not targets:
        parser.error(f"no targets in {options.programs}")
    end = time.monotonic() + options.seconds

    def table():
        lines = [f"{'target':14} {'seconds':>8} {'executions':>12} {'edges':>8} {'features':>9} {'inputs':>7} {'findings':>9}"]
        lines += [t.row() for t in targets]
        lines.append(f"{'in all':14} {sum(t.seconds for t in targets):8.0f} {sum(t.executions for t in targets):12}"
                     f" {'':8} {'':9} {sum(t.inputs for t in targets):7} {sum(len(t.findings) for t in targets):9}")
        return "\n".join(lines + [f"  found: {f}" for t in targets for f in t.findings])

    while time.monotonic() < end:
        share = max(1, min(options.round, int((end - time.monotonic()) / len(targets))))
        for target in targets:
            target.run(share, options.folder)
        if options.report:
            options.report.write_text(table() + "\n")
        print(f"{end - time.monotonic():.0f} s left, {sum(len(t.findings) for t in targets)} findings", file=sys.stderr)
    print(table())
    return 1 if any(t.findings for t in targets) else 0


if __name__ == "__main__":
    sys.exit(main())
