# SPDX-License-Identifier: Apache-2.0
"""What examples/ promises is true: each manifest is explained without a fault, and the CI jobs use options that exist."""
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).resolve().parent.parent.parent
VMLET = TOP / "build" / "src" / "vmlet" / "vmlet"
MANIFESTS = sorted((TOP / "examples").glob("*.yaml"))
JOBS = sorted((TOP / "examples" / "ci").glob("*.yml"))


def vmlet(*arguments):
    return subprocess.run([VMLET, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_there_are_examples():
    assert MANIFESTS and JOBS


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.name)
@pytest.mark.parametrize("form", ["summary", "argv", "json"])
def test_manifest_is_explained(path, form):
    done = vmlet("explain", str(path), "--format", form)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def commands_of(job):
    """Every `vmlet …` command line of a CI file."""
    def strings(node):
        if isinstance(node, str):
            yield node
        elif isinstance(node, dict):
            for value in node.values():
                yield from strings(value)
        elif isinstance(node, list):
            for value in node:
                yield from strings(value)

    for text in strings(yaml.safe_load(job.read_text())):
        for line in text.replace("\\\n", " ").splitlines():
            if line.strip().startswith("bin/vmlet "):
                yield shlex.split(line)[1:]


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.name)
def test_ci_job_uses_what_exists(path):
    commands = list(commands_of(path))
    assert {c[0] for c in commands} >= {"probe", "explain", "smoke"}
    for command in commands:
        told = vmlet(command[0], "--help")
        assert told.returncode == 0, command
        for word in command[1:]:
            if word.startswith("--"):
                assert re.search(rf"^ +{re.escape(word)}\b", told.stdout, re.M), f"vmlet {command[0]} has no {word}"


def test_readme_lists_each_example():
    text = (TOP / "examples" / "README.md").read_text()
    for path in MANIFESTS + JOBS:
        assert path.relative_to(TOP / "examples").as_posix() in text


@pytest.mark.parametrize("path", [TOP / "README.md", TOP / "ARCHITECTURE.md", TOP / "HACKING.md"], ids=lambda p: p.name)
def test_documents_name_files_that_exist(path):
    """Paths in backquotes or links that look like ones of this repository."""
    missing = []
    roots = "src|qmp|netsetup|include|k8s|tests|examples|docs|dev|\\.ci"
    for name in re.findall(rf"[`(](?:\./)?((?:{roots})/[\w./-]+)[`)]", path.read_text()):
        if "NAME" not in name and not (TOP / name).exists():
            missing.append(name)
    assert not missing
