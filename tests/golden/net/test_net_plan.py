# SPDX-License-Identifier: Apache-2.0
"""A manifest and a namespace's description in, netsetup's plan out: NAME.yaml + observed/*.json -> NAME.json or NAME.err.

A manifest's first line names the description: `# observed: FILE [netsetup plan's options]`. With --regenerate, or
VMLET_REGENERATE=1, the golden files are written anew, for review by git diff.
"""
import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
BUILD = Path(os.environ.get("VMLET_BUILD", HERE.parent.parent.parent / "build"))
CASES = sorted(p.stem for p in HERE.glob("*.yaml"))


def plan(name, *more):
    manifest = HERE / f"{name}.yaml"
    observed, *options = shlex.split(manifest.read_text().splitlines()[0].removeprefix("# observed:"))
    return subprocess.run([BUILD / "netsetup" / "netsetup", "plan", manifest, "--observed", HERE / "observed" / observed, *options,
                           *more], capture_output=True, text=True, check=False, timeout=30,
                          env={**os.environ, "VMLET_LOG_FORMAT": "text"})


@pytest.mark.parametrize("name", CASES)
def test_plan(name, request):
    done = plan(name, "--json")
    golden = HERE / f"{name}.{'json' if done.returncode == 0 else 'err'}"
    got = done.stdout if done.returncode == 0 else done.stderr
    if request.config.getoption("--regenerate", default=False) or os.environ.get("VMLET_REGENERATE"):
        golden.write_text(got)
    assert golden.exists(), got
    assert got == golden.read_text()
    if done.returncode == 0:
        check(json.loads(got))
        assert plan(name).stdout.startswith("interface")
    assert plan(name, "--json").stdout == done.stdout  # pure: again the same


def check(made):
    """What holds for every plan."""
    names = [s["link"] for s in made["steps"] if s["op"] != "sysctl"]
    names += [s["value"] for s in made["steps"] if s["op"] in ("link-rename", "link-master")]
    assert all(len(n) <= 15 for n in names)
    for step in made["steps"]:
        assert step["why"]
        # What has no undo goes away with a link of ours, or is undone with it.
        if "undo" not in step:
            assert step["op"] in ("link-mtu", "link-flood", "sysctl")
            assert step["op"] != "sysctl" or "/conf/k6t-" in step["link"]


def test_no_golden_file_is_left_over():
    known = {f"{name}.{kind}" for name in CASES for kind in ("yaml", "json", "err")} | {Path(__file__).name}
    assert {p.name for p in HERE.iterdir() if p.is_file()} <= known
    for name in CASES:
        assert (HERE / f"{name}.json").exists() != (HERE / f"{name}.err").exists()
