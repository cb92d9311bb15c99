# SPDX-License-Identifier: Apache-2.0
"""Volumes as a guest sees them: read back byte for byte, told apart by their serial numbers."""
import hashlib
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent.parent
VMLET = TOP / "build" / "src" / "vmlet" / "vmlet"
PATIENCE = 120
MIB = 1024 * 1024

HEAD = """\
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata:
  name: volumes
spec:
  terminationGracePeriodSeconds: 5
  domain:
    memory: {guest: 256Mi}
    devices:
      disks:
"""

# In the guest: the device whose serial number is $1.
FIND = 'dev() { for d in /sys/block/vd*; do [ "$(cat $d/serial)" = "$1" ] && echo /dev/${d##*/}; done; }; '


@pytest.fixture(scope="session")
def guest():
    recipe = TOP / "tests" / "guest" / "build-initramfs"
    out = subprocess.run([recipe], check=True, stdout=subprocess.PIPE, text=True).stdout
    return Path(out.strip())


def image(path, size, seed):
    """A file of that size with content that is never the same twice; returns its SHA-256."""
    block = hashlib.sha512(seed.encode()).digest() * 2048
    with open(path, "wb") as f:
        for i in range(size // 65536):
            f.seek(i * 2 * 65536 % size)
            f.write(block[i % 128:] + block[:i % 128])
        f.truncate(size)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(tmp_path, guest, disks, volumes, command, *arguments):
    """Exit code, stdout and stderr of `command` in a guest with these disks."""
    manifest = tmp_path / "vm.yaml"
    manifest.write_text(
        HEAD
        + "".join(f"      - {{name: {d}, serial: {d}, disk: {{bus: virtio}}}}\n" for d in disks)
        + "  volumes:\n" + "".join(f"  - {{name: {d}, {v}}}\n" for d, v in zip(disks, volumes))
    )
    state = tmp_path / "state"
    done = subprocess.run(
        [VMLET, "run", manifest, "--accel", "tcg", "--net", "none", "--state-dir", state, "--quiet",
         "--kernel", guest / "vmlinuz", "--initrd", guest / "initrd.img", "--append", "console=ttyS0",
         "--exec", FIND + command, *arguments],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )
    left = [p for p in state.rglob("*") if not p.is_dir()] if state.exists() else []
    assert left == []
    return done


def test_every_kind_reads_back(tmp_path, guest):
    disks = ["raw", "qcow2", "pvc", "eph", "empty"]
    sums = {name: image(tmp_path / name, size, name)
            for name, size in [("raw", 3 * MIB), ("plain", 5 * MIB), ("pvc", 2 * MIB), ("eph", 4 * MIB)]}
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", tmp_path / "plain", tmp_path / "qcow2"],
                   check=True)
    sums["qcow2"] = sums["plain"]
    sums["empty"] = hashlib.sha256(bytes(8 * MIB)).hexdigest()
    before = {d: (tmp_path / d).read_bytes() for d in ["raw", "qcow2", "eph"]}
    done = run(
        tmp_path, guest, disks,
        ["containerDisk: {image: a}", "containerDisk: {image: b}", "persistentVolumeClaim: {claimName: c}",
         "ephemeral: {persistentVolumeClaim: {claimName: d}}", "emptyDisk: {capacity: 8Mi}"],
        f"for n in {' '.join(disks)}; do sha256sum < $(dev $n) | cut -d' ' -f1; done; "
        f"for n in {' '.join(disks)}; do echo written | dd of=$(dev $n) bs=512 conv=notrunc 2>/dev/null || echo no $n;"
        " done; sync",
        *[a for d in disks[:4] for a in ("--disk", f"{d}={tmp_path / d}")],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [sums[d] for d in disks]
    # what is under an overlay is as it was; the claim took the write
    for name, content in before.items():
        assert (tmp_path / name).read_bytes() == content, name
    assert (tmp_path / "pvc").read_bytes().startswith(b"written\n")


def test_images_made_of_files(tmp_path, guest):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "app.conf").write_text("key = value\n")
    done = run(
        tmp_path, guest, ["cidata", "drive", "conf"],
        ["cloudInitNoCloud: {userData: '#cloud-config from the manifest'}",
         "cloudInitConfigDrive: {userData: 'drive user data', networkData: '{\"links\": []}'}",
         "configMap: {name: c}"],
        "for n in cidata drive conf; do dd if=$(dev $n) bs=64k 2>/dev/null | strings -n 8; done",
        "--disk", f"conf={tmp_path / 'conf'}",
    )
    assert done.returncode == 0, done.stderr
    for text in ["#cloud-config from the manifest", '"local-hostname":"volumes"', "drive user data", "key = value",
                 '"instance_id":"volumes.default"']:
        assert text in done.stdout


def test_hostile_image_starts_no_qemu(tmp_path, guest):
    bad = tmp_path / "bad"
    subprocess.run(["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", bad, "1M"],
                   check=True)
    done = run(tmp_path, guest, ["bad"], ["containerDisk: {image: a}"], "true", "--disk", f"bad={bad}")
    assert done.returncode == 1
    assert "volume bad" in done.stderr and "backing file" in done.stderr


def test_a_volume_that_is_not_here_names_its_flag(tmp_path, guest):
    done = run(tmp_path, guest, ["one", "two"],
               ["containerDisk: {image: quay.io/a}", "persistentVolumeClaim: {claimName: c}"], "true")
    assert done.returncode == 2
    assert "--disk one=" in done.stderr and "--disk two=" in done.stderr
