# SPDX-License-Identifier: Apache-2.0
"""From manifests to command lines: compared with golden files, checked against QEMU's schemas, and started.

Cases are the manifests of this folder and those of ../manifests that WHOLE lists. NAME.args has the command line
(one argument a line) on x86_64 under TCG with QEMU 7.2; NAME.err the faults where the manifest is refused;
NAME.VARIANT.args what comes out elsewhere: for another QEMU where it differs, and for `kvm` and `aarch64` where the manifest's head says
"# variants: kvm aarch64". `pytest tests/golden/machine --regenerate` rewrites them all; read the diff.
"""
import functools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import running
from schema import Schema, parse_keyval

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[2]
RENDER = os.environ.get("VMLET_RENDER", str(TOP / "build/tests/golden/machine/render"))
# Of ../manifests: whole manifests of users. Others there are for the loader alone.
WHOLE = """
seed-kubevirt-smoke-fedora seed-testvm-v1alpha2-with-preset seed-ubuntu-amd-vm seed-ubuntu-amd-vmi
seed-vm-cirros-v1alpha3 vm-alpine-multipvc vm-cirros vmi-alpine-efi vmi-host-disk vmi-kernel-boot vmi-masquerade
vmi-migratable vmi-multus-multiple-net vmi-nocloud vmi-pvc vmi-replicaset-cirros vmi-usb
""".split()
CASES = {p.stem: p for p in [*(HERE.parent / "manifests" / f"{n}.yaml" for n in WHOLE), *sorted(HERE.glob("*.yaml"))]}
assert len(CASES) > 100, "manifests are missing"
VERSIONS = ("7.2", "10.0", "11.1")
VARIANTS = {"kvm": ["--accel", "kvm"], "aarch64": ["--arch", "aarch64"]}
JSON_OPTIONS = ("-device", "-blockdev", "-netdev", "-object", "-audiodev")


@functools.cache
def render(name, *options):
    result = subprocess.run([RENDER, *options, str(CASES[name])], stdout=subprocess.PIPE, check=False)
    assert result.returncode in (0, 2), f"render ended with {result.returncode}"
    return json.loads(result.stdout)


def golden_text(answer):
    if "argv" in answer:
        return "args", "\n".join(answer["argv"]) + "\n"
    text = f"{answer['code']}: {answer['message']}\n{answer['faults']}"
    return "err", text.replace(str(HERE) + "/", "").replace(str(HERE.parent) + "/", "")


def variants_of(name):
    head = re.search(r"^# variants: (.*)$", CASES[name].read_text(), re.MULTILINE)
    return head.group(1).split() if head else []


def wanted_files(name):
    """Name of each golden file of a case, and what it is to hold."""
    kind, base = golden_text(render(name, "--qemu", VERSIONS[0]))
    files = {f"{name}.{kind}": base}
    for version in VERSIONS[1:]:
        kind, text = golden_text(render(name, "--qemu", version))
        if text != base:
            files[f"{name}.qemu-{version}.{kind}"] = text
    for variant in variants_of(name):
        kind, text = golden_text(render(name, *VARIANTS[variant]))
        files[f"{name}.{variant}.{kind}"] = text
    return files


@pytest.mark.parametrize("name", CASES)
def test_command_line(name, request):
    for file, text in wanted_files(name).items():
        path = HERE / file
        if request.config.getoption("--regenerate"):
            path.write_text(text)
        assert path.exists(), f"{file} is missing: run with --regenerate and read it"
        assert text == path.read_text()


def test_no_golden_file_is_unused(request):
    wanted = {file for name in CASES for file in wanted_files(name)}
    present = {p.name for p in HERE.iterdir() if p.suffix in (".args", ".err")}
    if request.config.getoption("--regenerate"):
        for unused in present - wanted:
            (HERE / unused).unlink()
        return
    assert present - wanted == set()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", CASES)
def test_schema(name, version):
    schema = Schema(version)
    for options in [[], *(VARIANTS[v] for v in variants_of(name))]:
        answer = render(name, "--qemu", version, *options)
        if "argv" not in answer:
            continue
        argv = answer["argv"]
        faults = [f for option, value in zip(argv, argv[1:]) if option.startswith("-")
                  for f in schema.check_option(option, value)]
        assert faults == []


@pytest.mark.parametrize("name", CASES)
def test_shape(name):
    """What every command line has, whatever the manifest says; every JSON option parses, and ids are unique."""
    answer = render(name)
    if "argv" not in answer:
        return
    argv = answer["argv"]
    for needed in ("-S", "-nodefaults", "-no-user-config"):
        assert argv.count(needed) == 1
    objects = {o: [json.loads(v) for n, v in zip(argv, argv[1:]) if n == o] for o in JSON_OPTIONS}
    for option in ("-device", "-object", "-netdev"):
        ids = [o["id"] for o in objects[option]]
        assert len(ids) == len(set(ids))
    nodes = [o["node-name"] for o in objects["-blockdev"]]
    assert len(nodes) == len(set(nodes)) and all(len(n) <= 31 for n in nodes)
    for node in objects["-blockdev"]:
        if node["driver"] == "qcow2":
            assert "backing" in node, "QEMU would follow the image's own header"
    chardevs = [dict(parse_keyval(v)[1:])["id"] for n, v in zip(argv, argv[1:]) if n == "-chardev"]
    assert len(chardevs) == len(set(chardevs))
    numbers = [f["number"] for f in answer["fds"]]
    assert numbers == list(range(20, 20 + len(numbers)))
    for disk in answer["machine"]["disks"]:
        assert disk["target"]
    assert all(i["what"] and i["why"] for i in answer["machine"]["devices"])


STARTS = [(n, "x86_64") for n in CASES] + [(n, "aarch64") for n in CASES if "aarch64" in variants_of(n)]


@pytest.mark.parametrize("name,arch", STARTS, ids=[n if a == "x86_64" else f"{n}-{a}" for n, a in STARTS])
def test_start(name, arch, tmp_path_factory):
    binary = shutil.which(f"qemu-system-{arch}")
    if not binary:
        pytest.skip(f"no qemu-system-{arch} here")
    with running.folder() as root:
        version = running.version(binary)
        options = ["--qemu", version, "--root", root, "--binary", binary, "--arch", arch]
        answer = render.__wrapped__(name, *options)
        if "argv" not in answer:
            return
        missing = running.missing(answer)
        if missing:
            pytest.skip(missing)
        with running.Qemu(answer, root) as qemu:
            running.compare(qemu, answer)
