# SPDX-License-Identifier: Apache-2.0
"""The budgets that stay the same on a busy machine: instruction counts, sizes, memory, processes, QMP commands. And the
reports, from figures of their own."""
import argparse
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import launcher  # noqa: E402
import pods  # noqa: E402
import pure  # noqa: E402
import report  # noqa: E402
import size  # noqa: E402
from vmlet_lab import short_tmp  # noqa: E402, F401

# Of a machine that does nothing else; the last is about what many pods share.
ELSEWHERE = {"CPU while idle, ms a second and VM", "wake-ups a second, all processes of ours of 1 VMs",
             "ours, PSS per VM at 1 VMs, MiB"}


def missed(result):
    return [b for b in result["budgets"] if b["value"] > b["limit"] and b["name"] not in ELSEWHERE]


@pytest.mark.skipif(not shutil.which("valgrind"), reason="valgrind is not here")
def test_instruction_counts():
    result = pure.measure(argparse.Namespace(rounds=1))
    assert not missed(result), (missed(result), result["rows"])
    assert all(b["value"] > 0.5 for b in result["budgets"]), f"far fewer than the reference, which is to be lowered: {result}"


def test_size():
    result = size.measure(None)
    assert len(result["rows"]) >= 11 and not missed(result), result["rows"]


def test_qmp_commands_of_a_start(short_tmp):  # noqa: F811
    names = launcher.commands(short_tmp)
    assert names and "cont" in names and len(names) <= launcher.COMMANDS_LIMIT, names


def test_one_pod_without_the_peer(monkeypatch):
    """Memory, processes and threads of one VM's pod; and a machine without libvirt is told so."""
    monkeypatch.setitem(sys.modules, "libvirt", None)  # as if it were not installed
    monkeypatch.setattr(pods, "STEPS", (1,))
    monkeypatch.setattr(pods, "IDLE_SECONDS", 1)
    result = pods.measure(argparse.Namespace(rounds=1))
    assert "libvirt is not compared: missing python3-libvirt (./dev deps bench)" in result["notes"]
    assert not missed(result), result
    rows = {r["name"]: r["median"] for r in result["rows"]}
    dirty, clean = (rows[f"1 VMs: ours, private {kind} per VM"] for kind in ("dirty", "clean"))
    assert 0 < dirty <= launcher.DIRTY_LIMIT_MIB and dirty + clean <= launcher.PRIVATE_LIMIT_MIB, rows


def test_report_and_plots(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "TOP", tmp_path)
    monkeypatch.setattr(report, "PLOTS", tmp_path / "docs/bench")
    results = [{
        "name": "x", "what": "a & b", "notes": ["libvirt is not compared: missing it"],
        "rows": [{"name": "r", "unit": "ms", "median": 2, "min": 1, "max": 3}],
        "budgets": [{"name": "good", "value": 1, "limit": 2}, {"name": "bad", "value": 3, "limit": 2},
                    {"name": "floored", "value": 3, "limit": 2, "floor": (2.75, "QEMU alone")}],
        "timeline": {"pod": [["exec", 1.0], ["spawn", 2.0], ["greeting", 5.0], ["running", 10.0]],
                     "bare": [["main", 1.0], ["spawn", 1.5], ["greeting", 5.0], ["running", 8.5]]},
        "memory": [[1, 2.5], [10, 0.9]], "libvirtPss": 21.0, "latency": {"GetDomain <&>": [float(i) for i in range(1, 101)]},
    }]
    report.write({"environment": {"date": "today"}, "results": results}, "./dev bench --write")
    text = (tmp_path / "BENCHMARKS.md").read_text()
    assert "| x: bad | 3.000 | 2 | **missed** |" in text and "| x: good | 1.000 | 2 | met |" in text
    assert "| x: floored | 3.000 | 2 | **missed**; QEMU alone: 2.75 |" in text
    assert "the same QEMU needs 7.0 ms" in text and "70 % of the whole" in text
    for name in ("start", "memory", "latency"):
        assert f"docs/bench/{name}.svg" in text
        root = ElementTree.parse(tmp_path / "docs/bench" / f"{name}.svg").getroot()
        assert root.tag.endswith("svg") and len(root) > 5
