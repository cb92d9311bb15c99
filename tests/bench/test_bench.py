# SPDX-License-Identifier: Apache-2.0
"""What stays the same on a busy machine: instruction counts. And the reports, from figures of their own."""
import argparse
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import pure  # noqa: E402
import report  # noqa: E402


@pytest.mark.skipif(not shutil.which("valgrind"), reason="valgrind is not here")
def test_instruction_counts():
    result = pure.measure(argparse.Namespace(rounds=1))
    missed = [b for b in result["budgets"] if b["value"] > b["limit"]]
    assert not missed, (missed, result["rows"])
    assert all(b["value"] > 0.5 for b in result["budgets"]), f"far fewer than the reference, which is to be lowered: {result}"


def test_report_and_plots(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "TOP", tmp_path)
    monkeypatch.setattr(report, "PLOTS", tmp_path / "docs/bench")
    results = [{
        "name": "x", "what": "a & b", "notes": ["libvirt is not compared: missing it"],
        "rows": [{"name": "r", "unit": "ms", "median": 2, "min": 1, "max": 3}],
        "budgets": [{"name": "good", "value": 1, "limit": 2}, {"name": "bad", "value": 3, "limit": 2}],
        "timeline": {"pod": [["exec", 1.0], ["running", 9.0]], "bare <&>": [["main", 1.0], ["running", 8.0]]},
        "memory": [[1, 2.5], [10, 0.9]], "libvirtPss": 21.0, "latency": {"GetDomain": [float(i) for i in range(1, 101)]},
    }]
    report.write({"environment": {"date": "today"}, "results": results}, "./dev bench --write")
    text = (tmp_path / "BENCHMARKS.md").read_text()
    assert "| x: bad | 3.000 | 2 | **missed** |" in text and "| x: good | 1.000 | 2 | met |" in text
    for name in ("start", "memory", "latency"):
        assert f"docs/bench/{name}.svg" in text
        root = ElementTree.parse(tmp_path / "docs/bench" / f"{name}.svg").getroot()
        assert root.tag.endswith("svg") and len(root) > 5
