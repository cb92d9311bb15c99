# SPDX-License-Identifier: Apache-2.0
"""docs/storage.md: its tables, manifests, refusals and commands are what there is."""
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from vmlet_lab import PATIENCE, TOP, VMLET, vmi

PAGE = TOP / "docs" / "storage.md"
TEXT = PAGE.read_text()
SECTIONS = {s.splitlines()[0]: s for s in re.split(r"^## ", TEXT, flags=re.M)[1:]}
WHERE = {"PRIVATE": "/var/run/kubevirt-private", "EPHEMERAL": "/var/run/kubevirt-ephemeral-disks", "SHARE": "/var/run/kubevirt",
         "VOLUME": "vol", "NAMESPACE": "default", "NAME": "testvm", "_N": "_0"}
MIB = 1024 * 1024


def block(kind):
    found, = re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.M | re.S)
    return found


def table(section, head):
    """The rows below this head, as lists of cells."""
    lines = iter(SECTIONS[section].splitlines())
    while next(lines) != head:
        pass
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def code(cell):
    return re.findall(r"`([^`]+)`", cell)


KINDS = table("What a volume becomes", "| in the manifest | file in the pod | format | the guest sees | made by |")
LABELS = {code(row[0])[0]: code(row[3])[0] for row in KINDS if "label" in row[3]}
LIMITS = table("Images from outside", "| limit | | |")
SHOWN = table("What shows that it works", "| what is shown | command |")
REFUSED = block("refused").splitlines()


def explain(path, *arguments):
    done = subprocess.run([VMLET, "explain", path, "--accel", "tcg", *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write(tmp_path, disks, volumes, name="testvm"):
    path = tmp_path / "vm.yaml"
    path.write_text(yaml.safe_dump({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 0, "volumes": volumes,
                 "domain": {"memory": {"guest": "256Mi"}, "devices": {"disks": disks}}}}))
    return path


@pytest.mark.parametrize("source", [code(row[0])[0] for row in KINDS])
def test_table_of_volumes(tmp_path, source):
    row, = (r for r in KINDS if code(r[0])[0] == source)
    path = write(tmp_path, [{"name": "vol", "disk": {"bus": "virtio"}}], [{"name": "vol", **yaml.safe_load("{" + source + "}")}])
    volume, = json.loads(explain(path, "--format", "json"))["storage"]
    files = code(row[1].split("; of a block claim")[0])
    for word, means in WHERE.items():
        files = [f.replace(word, means) for f in files]
    assert [p for p in (volume["path"], volume["backingPath"]) if p] == files
    formats = row[2].split(" over ")
    assert volume["format"] == formats[0] and (len(formats) == 1 or volume["backingFormat"] in formats[1].split(" or "))
    assert volume["readOnly"] == ("read-only" in row[3])


def test_every_kind_is_in_the_tables():
    kinds = set(re.findall(r'\[VMI_VOLUME_\w+\] = "(\w+)"', (TOP / "src" / "vmi" / "vmi.c").read_text())) - {"none"}
    assert len(kinds) > 12
    assert [k for k in kinds if f"`{k}" not in SECTIONS["What a volume becomes"]] == []


@pytest.mark.parametrize("limit", [row[0] for row in LIMITS])
def test_limits(limit):
    row, = (r for r in LIMITS if r[0] == limit)
    header = (TOP / "src" / "base" / "limits.h").read_text()
    units = {"KiB": 1 << 10, "MiB": 1 << 20, "PiB": 1 << 50, "s": 1, "": 1}
    for name, value in zip(code(limit), row[1].split(", ")):
        text = re.search(rf"#define {name} +(.*?)(?: */\*.*)?$", header, re.M).group(1).replace("USEC_PER_SEC", "1")
        number, _, unit = value.partition(" ")
        assert eval(re.sub(r"(?<=\d)U?L*", "", text)) == int(number) * units[unit], name  # pylint: disable=eval-used


def test_times_of_io_errors():
    header = (TOP / "src" / "base" / "limits.h").read_text()
    assert re.search(r"IO_RETRY_MIN_USEC +\(10 \*", header) and re.search(r"IO_RETRY_MAX_USEC +\(180 \*", header)
    sources = "".join(p.read_text() for folder in ("src", "k8s/handler") for p in (TOP / folder).rglob("*.c"))
    for said in re.findall(r"`(VM(?:I was|) [Pp]aused.*?)(?:: VOLUME| *volume VOLUME: ERRNO)?`", SECTIONS["I/O errors"]):
        assert said.rstrip(":") in sources, said


def test_explained(tmp_path):
    path = tmp_path / "vm.yaml"
    path.write_text(block("yaml"))
    said = " ".join(explain(path).split())
    for entry in re.split(r"\n(?! )", block("explain").strip()):
        assert " ".join(entry.split()) in said


def test_hooks(tmp_path):
    path = write(tmp_path, [], [])
    done = subprocess.run([VMLET, "pod", path], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    hooks = yaml.safe_load(block("hooks"))
    assert len(hooks) == 2
    for key, command in hooks.items():
        assert json.loads(json.loads(done.stdout)["metadata"]["annotations"][key]) == json.loads(command)


def make(command, path):
    """False: this file system or user cannot have such a file."""
    done = subprocess.run(["sh", "-c", command.replace("FILE", shlex.quote(str(path)))], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "1E" in command, done.stderr
    return done.returncode == 0


def test_refused(pod):
    """One launcher for all of them: it starts none of these VMs."""
    pod.start()
    client = pod.client()
    assert len(REFUSED) % 2 == 0 and len(REFUSED) >= 20
    for line, why in zip(REFUSED[::2], REFUSED[1::2]):
        kind, _, command = line.partition(": ")
        path = pod.private / "vmi-disks" / "data" / "disk.img" if kind == "persistentVolumeClaim" else pod.tmp / "cd" / "disk_0.img"
        path.parent.mkdir(parents=True, exist_ok=True)
        mounted = "1E" in command and subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path.parent], check=False).returncode == 0
        try:
            if make(command, path):
                spec = vmi()
                spec["spec"]["domain"]["devices"]["disks"] = [{"name": "data", "disk": {"bus": "virtio"}}]
                spec["spec"]["volumes"] = [{"name": "data", kind: {"containerDisk": {"image": "i"}}.get(kind, {"claimName": "c"})}]
                error = client.call("SyncVirtualMachine", vmi=spec)["error"]
                assert error["message"] == f"volume data: {path} is refused: {why}"
                assert error["data"]["code"] == "ImageRefused"
        finally:
            if mounted:
                subprocess.run(["umount", path.parent], check=True)
        subprocess.run(["rm", "-rf", path, f"{path}.data"], check=True)


def test_commands(lab):
    """The page's, in its order, while ISO images of each kind lie where the VM has them."""
    data = bytes(range(256)) * (4 * MIB // 256)
    (lab.tmp / "data").write_bytes(data)
    (lab.tmp / "disc.iso").write_bytes(data[:MIB])
    (lab.tmp / "files").mkdir()
    (lab.tmp / "files" / "a").write_text("b")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", lab.tmp / "more.qcow2", "8M"], check=True)
    disks = [{"name": "data", "serial": "DATA", "disk": {"bus": "virtio"}}, {"name": "drive", "cdrom": {"bus": "sata"}}]
    volumes, options = [{"name": "data", "persistentVolumeClaim": {"claimName": "d"}}], ["--disk", f"data={lab.tmp / 'data'}"]
    for i, source in enumerate(LABELS):
        disks.append({"name": f"iso{i}", "disk": {"bus": "virtio"}})
        volumes.append({"name": f"iso{i}", **yaml.safe_load("{" + source + "}")})
        if not source.startswith("cloudInit"):
            options += ["--disk", f"iso{i}={lab.tmp / 'files'}"]
    vm = lab.start("--until", "shutdown", "--net", "none", *options, name="testvm",
                   manifest=write(lab.tmp, disks, volumes)).wait_agent()
    images = sorted(lab.state.rglob("*.iso"))
    labels = [image.read_bytes()[32808:32840].decode().strip() for image in images]
    assert sorted(labels) == sorted(LABELS.values()), images

    done = []
    for line in block("sh").splitlines():
        if "tuesday" in line:
            vm.vmlet("exec", "--", "/bin/sh", "-c", "echo changed | dd of=/dev/vda bs=512 seek=1000 conv=sync,notrunc oflag=direct 2>/dev/null")
        words = shlex.split(line)
        ran = subprocess.run([VMLET, *words[1:], "--state-dir", lab.state], cwd=lab.tmp, capture_output=True, text=True, check=False,
                             timeout=PATIENCE)
        assert words[0] == "vmlet" and ran.returncode == 0, f"{line}\n{ran.stdout}{ran.stderr}"
        done.append(ran.stdout)
    assert any("more" in text and "plugged in by a command" in text for text in done)
    info = json.loads(subprocess.run(["qemu-img", "info", "--output=json", lab.tmp / "more.qcow2"], stdout=subprocess.PIPE, check=True).stdout)
    assert info["virtual-size"] == 16 * MIB
    rebase, = (c for c in code(SECTIONS["Backups"]) if c.startswith("qemu-img"))
    subprocess.run(shlex.split(rebase), cwd=lab.tmp, check=True)
    subprocess.run(["qemu-img", "convert", "-O", "raw", "tuesday.qcow2", "flat"], cwd=lab.tmp, check=True)
    now = (lab.tmp / "now.raw").read_bytes()
    assert (lab.tmp / "flat").read_bytes() == now and now != data and len(now) == len(data)
    vm.vmlet("stop", "--grace", "0s")
    vm.end()


@pytest.mark.parametrize("command", sorted({c for row in SHOWN for c in code(row[1])}))
def test_what_shows_it_exists(command):
    words = shlex.split(command)
    if words[0] == "meson":
        assert f"'{words[-1]}':" in (TOP / "tests" / "unit" / "meson.build").read_text()
    elif words[1] == "bench":
        assert (TOP / "tests" / "bench" / f"{words[2]}.py").exists()
    else:
        assert words[:2] == ["./dev", "test"] and words[3] == "-k"
        done = subprocess.run([sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", f"tests/{words[2]}", "-k", words[4]],
                              cwd=TOP, env=dict(os.environ, PYTHONPATH=str(Path(__file__).parent.parent)), capture_output=True, text=True,
                              check=False)
        assert done.returncode == 0, done.stdout + done.stderr
