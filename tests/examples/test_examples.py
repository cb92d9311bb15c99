# SPDX-License-Identifier: Apache-2.0
"""What examples/ promises is true: each manifest is explained without a fault, and the CI jobs use options that exist."""
import os
import re
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).resolve().parent.parent.parent
VMLET = TOP / "build" / "src" / "vmlet" / "vmlet"
PLAIN = TOP / "examples/plain-pod.yaml"  # a Pod, with the manifest in a ConfigMap
MANIFESTS = sorted(p for p in (TOP / "examples").glob("*.yaml") if p != PLAIN)
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


def test_plain_pod_runs_its_vm(request):
    """The launcher, with the pod's command line and the ConfigMap's manifest, in folders of the test's instead of the
    pod's volumes."""
    folder = tempfile.TemporaryDirectory(prefix="plain")  # short: a socket's path has at most 107 bytes
    request.addfinalizer(folder.cleanup)
    tmp_path = Path(folder.name)
    config, _, pod = yaml.safe_load_all(PLAIN.read_text())
    compute = pod["spec"]["containers"][0]
    reference = compute["env"][0]["valueFrom"]["configMapKeyRef"]
    assert compute["env"][0]["name"] == "STANDALONE_VMI" and reference["name"] == config["metadata"]["name"]
    text = config["data"][reference["key"]]
    uid = yaml.safe_load(text)["metadata"]["uid"]
    assert f"--uid={uid}" in compute["command"] and uid in pod["spec"]["initContainers"][0]["args"][1]
    assert {m["name"] for c in (compute, *pod["spec"]["initContainers"]) for m in c["volumeMounts"]} == {
        v["name"] for v in pod["spec"]["volumes"]}

    folders = {"--kubevirt-share-dir": "public", "--private-dir": "private", "--ephemeral-disk-dir": "ephemeral",
               "--container-disk-dir": "container", "--empty-disk-dir": "empty"}
    for name in folders.values():
        (tmp_path / name).mkdir()
    (tmp_path / "public/sockets").mkdir()
    (tmp_path / "private/vmi-disks/root").mkdir(parents=True)
    with open(tmp_path / "private/vmi-disks/root/disk.img", "wb") as disk:
        disk.truncate(1 << 20)
    socket = tmp_path / "public/sockets/launcher-sock"
    command = [TOP / "build/src/launcher/virt-launcher", *compute["command"][1:], "--grace-period-seconds=1"]
    for flag, name in folders.items():
        command += [flag, tmp_path / name]
    with subprocess.Popen(command, env=os.environ | {"STANDALONE_VMI": text}, stderr=subprocess.PIPE, text=True) as launcher:
        try:
            end = time.monotonic() + 90
            state = ""
            while time.monotonic() < end and state != "Running":
                done = vmlet("status", "--socket", str(socket))
                state = "Running" if "state: Running" in done.stdout else ""
                assert launcher.poll() is None, launcher.stderr.read()
            assert state == "Running"
        finally:
            launcher.terminate()
            launcher.wait(60)
    assert launcher.returncode == 0
