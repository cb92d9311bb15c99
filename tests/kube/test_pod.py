# SPDX-License-Identifier: Apache-2.0
"""The launcher pod of a manifest: golden files. VMLET_REGENERATE=1 writes them anew, for review."""
import json
import os
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent.parent
VMLET = Path(os.environ.get("VMLET_BUILD", TOP / "build")) / "src/vmlet/vmlet"
GOLDEN = TOP / "tests/golden/pod"
CASES = sorted(p.stem for p in GOLDEN.glob("*.yaml"))
OPTIONS = {"": [], "-emulation": ["--use-emulation", "--launcher-image", "registry.example/launcher:2"]}


def render(name, *options):
    done = subprocess.run([VMLET, "pod", GOLDEN / f"{name}.yaml", *options], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name,variant", [(n, "") for n in CASES] + [("everything", "-emulation")])
def test_golden(name, variant):
    path = GOLDEN / f"{name}{variant}.json"
    got = render(name, *OPTIONS[variant])
    if os.environ.get("VMLET_REGENERATE"):
        path.write_text(json.dumps(got, indent=1) + "\n")
    assert got == json.loads(path.read_text())


def test_every_golden_file_is_used():
    assert {p.name for p in GOLDEN.glob("*.json")} <= {f"{n}{v}.json" for n in CASES for v in OPTIONS}


def test_one_vmi_one_name():
    """The name is a function of the UID: who would make a second pod of a VMI is refused by the API server."""
    first, again = render("ubuntu-amd"), render("ubuntu-amd")
    assert first["metadata"]["name"] == again["metadata"]["name"]
    assert first["metadata"]["name"].startswith("virt-launcher-ubuntu-amd-")
    assert render("kernel-boot")["metadata"]["name"].rsplit("-", 1)[1] != first["metadata"]["name"].rsplit("-", 1)[1]


@pytest.mark.parametrize("name", CASES)
def test_rules_of_every_pod(name):
    pod = render(name)
    spec = pod["spec"]
    containers = spec["containers"] + spec.get("initContainers", [])
    volumes = {v["name"] for v in spec["volumes"]}
    assert len(volumes) == len(spec["volumes"])
    for c in containers:
        security = c["securityContext"]
        assert security["runAsNonRoot"] and not security["allowPrivilegeEscalation"] and not security["privileged"]
        assert security["capabilities"]["drop"] == ["ALL"]
        assert security["capabilities"].get("add") == (["NET_BIND_SERVICE"] if c["name"] == "compute" else None)
        assert {m["name"] for m in c.get("volumeMounts", [])} <= volumes
        assert c["resources"]["requests"]["memory"]
    overhead = json.loads(pod["metadata"]["annotations"]["vmlet/memory-overhead"])
    assert sum(overhead.values()) == int(pod["metadata"]["annotations"]["kubevirt.io/memory-overhead-bytes"])
    assert len({c["name"] for c in containers}) == len(containers)


def test_a_bad_manifest_is_refused(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {name: a}\nspec: {domain: {cpuu: {}}}\n")
    done = subprocess.run([VMLET, "pod", bad], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "spec.domain.cpuu" in done.stderr and done.stdout == ""
