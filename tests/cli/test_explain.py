# SPDX-License-Identifier: Apache-2.0
"""vmlet explain on every manifest of the golden tests, on bad input, and without anything of the host."""
import json
import re
import shutil
import subprocess

import pytest
from conftest import TOP, VMLET, environment

GOLDEN = TOP / "tests" / "golden" / "manifests"
MANIFESTS = sorted([*GOLDEN.glob("*.yaml"), *GOLDEN.glob("*.json")])
BAD = sorted((GOLDEN / "bad").glob("*.yaml"))
FAULT = re.compile(r"^[^:\n]+:\d+:\d+: \S.*$")

SMALL = """apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: small}
spec:
  domain:
    cpu: {cores: 2}
    memory: {guest: 256Mi}
    firmware: {uuid: 5d307ca9-b3ef-428c-8861-06e72d69f223}
    devices:
      interfaces: [{name: default, masquerade: {}}]
  networks: [{name: default, pod: {}}]
"""


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.stem)
@pytest.mark.parametrize("accel", ["kvm", "tcg"])
def test_golden_manifests(vmlet, path, accel):
    text = path.read_text()
    result = vmlet("explain", path, "--format", "json", "--accel", accel, "--qemu-version", "10.0")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert set(document) == {"machine", "argv", "network", "storage", "overhead", "notes"}
    assert document["machine"]["accel"] == accel
    assert document["argv"][0].startswith("qemu-system-")
    assert document["overhead"]["estimate"] is True
    assert document["overhead"]["totalBytes"] == sum(i["bytes"] for i in document["overhead"]["items"])
    for name in re.findall(r"persistentVolumeClaim:|containerDisk:|cloudInitNoCloud:|hostDisk:", text):
        assert document["storage"], name
    argv = vmlet("explain", path, "--format", "argv", "--accel", accel, "--qemu-version", "10.0").stdout
    assert argv.splitlines()[0] == document["argv"][0]
    summary = vmlet("explain", path, "--accel", accel, "--qemu-version", "10.0")
    assert summary.returncode == 0
    for device in document["machine"]["devices"]:
        # a bare VMI without firmware.uuid gets another at each run
        if not device["what"].startswith("UUID ") and not re.search(r"(:[0-9a-f]{2}){5}", device["what"]):
            assert device["what"] in summary.stdout
    assert "\x1b" not in summary.stdout + summary.stderr


@pytest.mark.parametrize("path", BAD, ids=lambda p: p.stem)
def test_bad_manifests(vmlet, path):
    result = vmlet("explain", path, "--accel", "tcg", "--qemu-version", "10.0")
    assert result.returncode == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines
    for line in lines:  # a fault of the whole file has no line of its own
        assert FAULT.match(line) or line.startswith(f"{path}: "), line


def test_several_machines(vmlet):
    path = GOLDEN / "bad" / "several-vms.yaml"
    assert "choose one by --name (vm/one, vmi/two)" in vmlet("explain", path).stderr
    assert "/two (" in vmlet("explain", path, "--name", "two", "--accel", "tcg").stdout
    result = vmlet("explain", path, "--name", "three")
    assert result.returncode == 2 and "three" in result.stderr


def test_summary(vmlet, small):
    out = vmlet("explain", small, "--accel", "tcg", "--qemu-version", "10.0.2").stdout
    assert out.startswith("default/small (VirtualMachineInstance)\n  qemu-system-x86_64 10.0.2, accelerator tcg")
    headings = re.findall(r"^(\w[^\n(]*)", out, re.M)[1:]
    assert [h.strip() for h in headings][:4] == ["Machine", "CPU", "Memory", "Disks"]
    assert "2 vCPUs: 1 socket, 2 cores, 1 thread" in out
    network = out.split("\nNetwork\n")[1].split("\n\n")[0]
    assert "interface default" in network and "tap0" in network


SPEED = """\
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: speed}
spec:
  domain:
    memory: {guest: 256Mi}
    ioThreadsPolicy: shared
    devices:
      blockMultiQueue: true
      disks:
      - {name: chosen, cache: writeback, io: threads, disk: {bus: virtio}}
      - {name: left, disk: {bus: scsi}}
      - {name: disc, cdrom: {bus: sata}}
  volumes:
  - {name: chosen, emptyDisk: {capacity: 1Gi}}
  - {name: left, containerDisk: {image: a}}
  - {name: disc, containerDisk: {image: b}}
"""


def test_speed_choices_have_reasons(vmlet, tmp_path):
    (tmp_path / "speed.yaml").write_text(SPEED)
    out = vmlet("explain", tmp_path / "speed.yaml", "--accel", "tcg", "--qemu-version", "10.0", "--format", "json").stdout
    why = {i["what"]: i["why"] for i in json.loads(out)["machine"]["devices"]}
    of = {name: next(w for k, w in why.items() if f" {name}: " in k) for name in ("chosen", "left", "disc")}
    for text in ["cache writeback in the manifest", "io threads in the manifest", "given back", "blockMultiQueue", "iothread1"]:
        assert text in of["chosen"]
    assert "cache none because" in of["left"] and "io threads because" in of["left"] and "queue" not in of["left"]
    assert "nothing is written" in of["disc"]
    for field in ["cache", "io", "blockSize", "dedicatedIOThread", "ioThreadsPolicy", "blockMultiQueue", "zeroes"]:
        assert field in why["to choose otherwise, in the manifest"]


def test_groups(vmlet, small):
    """Each item says what it belongs to; the summary lists it there, and memory in units that people read."""
    document = json.loads(vmlet("explain", small, "--accel", "tcg", "--qemu-version", "10.0", "--format", "json").stdout)
    groups = {i["what"]: i["group"] for i in document["machine"]["devices"]}
    assert groups["memory 256 MiB (268435456 bytes)"] == "memory"
    assert set(groups.values()) <= {"machine", "cpu", "memory", "disks", "network", "console", "other"}
    out = vmlet("explain", small, "--accel", "tcg", "--qemu-version", "10.0").stdout
    sections = dict(s.split("\n", 1) for s in out.split("\n\n")[1:])
    assert "memory 256 MiB" in sections["Memory"]
    assert "interface default" in sections["Network"] and "interface" not in sections.get("Other devices", "")


@pytest.mark.parametrize("format", ["summary", "argv", "json"])
def test_a_machine_that_this_host_lacks_is_explained(vmlet, small, format):
    """Only `run` refuses it: a dump of another distribution's cluster is no bad manifest."""
    if not shutil.which("qemu-system-x86_64"):
        pytest.skip("no qemu-system-x86_64")
    small.write_text(SMALL.replace("    cpu:", "    machine: {type: pc-q35-rhel9.2.0}\n    cpu:"))
    result = vmlet("explain", small, "--accel", "tcg", "--format", format)
    assert result.returncode == 0, result.stderr
    assert "pc-q35-rhel9.2.0" in result.stdout
    assert re.search(r'note: spec\.domain\.machine\.type: .* has no machine type "pc-q35-rhel9\.2\.0".*run', result.stderr)
    if format == "json":
        assert any("pc-q35-rhel9.2.0" in note for note in json.loads(result.stdout)["notes"])
    refused = vmlet("run", small, "--accel", "tcg", "--net", "none", "--until", "running")
    assert refused.returncode == 3, refused.stderr
    assert "pc-q35-rhel9.2.0" in refused.stderr


@pytest.mark.parametrize("net, why", [
    ("bridge", "not known (none, user, passt or tap:NAME,…)"),
    ("tap:", 'tap:: "" is not the name of a link'),
    ("tap:one,,two", '"" is not the name of a link (1 to 15 characters'),
    ("tap:a-name-of-16-byt", '"a-name-of-16-byt" is not'),
    ("tap:one,two", "more taps than the manifest has interfaces (1)")])
def test_net(vmlet, small, net, why):
    refused = vmlet("run", small, "--accel", "tcg", "--net", net, "--until", "running")
    assert refused.returncode == 2 and why in refused.stderr, refused.stderr


def test_standard_input(vmlet, small):
    with small.open() as file:
        result = vmlet("explain", "-", "--accel", "tcg", stdin=file)
    assert result.returncode == 0
    assert "default/small" in result.stdout


def test_without_qemu(vmlet, small, tmp_path):
    (tmp_path / "empty").mkdir()
    env = environment(PATH=str(tmp_path / "empty"), XDG_CACHE_HOME=str(tmp_path / "cache"))
    result = vmlet("explain", small, "--accel", "tcg", "--format", "json", env=env)
    if result.returncode == 0 and "no QEMU" not in result.stderr:
        pytest.skip("a QEMU is found outside of PATH")
    assert result.returncode == 0, result.stderr
    assert "version 10.0 is assumed" in result.stderr
    assert any("10.0 is assumed" in note for note in json.loads(result.stdout)["notes"])


def test_arm64(vmlet, small):
    result = vmlet("explain", small, "--arch", "arm64", "--accel", "tcg", "--qemu-version", "10.0", "--format", "json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["argv"][0] == "qemu-system-aarch64"
    assert any(i["what"] == "arm64 firmware" for i in document["overhead"]["items"])


def test_all_faults_in_one_run(vmlet, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(SMALL.replace("cores: 2", "cores: -2, coers: 1").replace("256Mi", "lots"))
    result = vmlet("explain", path)
    assert result.returncode == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) >= 3
    for line in lines:
        assert FAULT.match(line), line
        assert line.startswith(str(path))
    assert any("coers" in line and "cores" in line for line in lines)
    assert any("spec.domain.memory.guest" in line for line in lines)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"apiVersion: kubevirt.io/v1\nkind: Virtual",
        b"\xff\xfe\x00",
        b"{\"apiVersion\": \"kubevirt.io/v1\"",
        b"kind: Deployment\napiVersion: apps/v1\nmetadata: {name: x}\n",
        b"a: &a [x,x,x,x,x,x,x,x]\n" + b"".join(b"b%d: &b%d [*%s,*%s,*%s,*%s,*%s,*%s]\n" % ((i, i) + ((b"a",) if i == 0 else (b"b%d" % (i - 1),)) * 6) for i in range(12)),
        b"[" * 5000,
        b"x" * 10_000_000,
    ],
    ids=["empty", "cut", "not-utf8", "cut-json", "no-vm", "laughs", "deep", "10MB"],
)
def test_bad_files(vmlet, tmp_path, content):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    result = vmlet("explain", path)
    assert result.returncode in (1, 2)
    assert result.stdout == ""
    assert str(path) in result.stderr
    assert len(result.stderr) < 20000


def test_no_such_file(vmlet):
    result = vmlet("explain", "/nowhere/vm.yaml")
    assert result.returncode != 0
    assert "/nowhere/vm.yaml" in result.stderr and "No such file" in result.stderr


def test_full_disk(small):
    with open("/dev/full", "w", encoding="utf-8") as full:
        result = subprocess.run(
            [VMLET, "explain", small, "--accel", "tcg"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.returncode == 1
    assert "cannot write the output: No space left on device" in result.stderr


def test_expand(vmlet, tmp_path):
    """What is printed needs nothing beside it any more, and is the same machine."""
    path = TOP / "tests/golden/machine/instancetype.yaml"
    printed = vmlet("expand", path)
    assert printed.returncode == 0, printed.stderr
    vm = json.loads(printed.stdout)
    spec = vm["spec"]["template"]["spec"]
    assert not {"instancetype", "preference"} & set(vm["spec"])
    assert spec["domain"]["cpu"]["sockets"] == 2 and spec["domain"]["memory"]["guest"] == "2Gi"
    assert vm["spec"]["template"]["metadata"]["annotations"]["kubevirt.io/cluster-instancetype-name"] == "u1.medium"
    alone = tmp_path / "vm.json"
    alone.write_text(printed.stdout)
    options = ("--accel", "tcg", "--qemu-version", "10.0", "--format", "argv")
    assert vmlet("explain", alone, *options).stdout == vmlet("explain", path, *options).stdout != ""
    wrong = vmlet("expand", TOP / "tests/golden/manifests/bad/vm-instancetype.yaml")
    assert wrong.returncode == 2 and "VirtualMachineClusterInstancetype" in wrong.stderr and not wrong.stdout
