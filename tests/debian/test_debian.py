# SPDX-License-Identifier: Apache-2.0
"""A real Debian from its disk: firmware, boot loader, systemd, cloud-init, agent, and an orderly end."""
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent.parent
VMLET = TOP / "build" / "src" / "vmlet" / "vmlet"


@pytest.fixture(scope="session")
def disk():
    done = subprocess.run([TOP / "tests/guest/build-debian"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


def smoke(tmp_path, manifest, disk, command):
    """vmlet smoke; its result, after a look at what must hold for every run."""
    before = disk.stat()
    state = tmp_path / "state"
    done = subprocess.run(
        [VMLET, "smoke", str(manifest), "--disk", f"root={disk}", "--accel", "tcg", "--timeout", "15m", "--exec", command,
         "--junit", str(tmp_path / "junit.xml"), "--state-dir", str(state)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1100, check=False,
    )
    assert "the guest shut down" in done.stderr, done.stderr
    assert (disk.stat().st_mtime_ns, disk.stat().st_size) == (before.st_mtime_ns, before.st_size), "the image was written to"
    assert [p for p in state.rglob("*") if not p.is_dir()] == []
    return done


# What cloud-init does comes after the agent's start.
READY = "cloud-init status --wait >/dev/null; "


def test_example_with_cloud_init(tmp_path, disk):
    command = READY + "hostname; cat /etc/motd; id -un ops; lsblk -dno SIZE /dev/disk/by-id/virtio-SCRATCH; " \
        "systemctl is-active ssh qemu-guest-agent; systemctl --failed --no-legend; exit 7"
    done = smoke(tmp_path, TOP / "examples/debian.yaml", disk, command)
    assert done.returncode == 7, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines == [
        "debian", "Booted by vmlet: cloud-init has read this from the manifest.", "ops", "1G", "active", "active",
    ]
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")


UEFI = """\
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata:
  name: uefi
spec:
  terminationGracePeriodSeconds: 60
  domain:
    cpu: {cores: 2}
    memory: {guest: 1Gi}
    firmware:
      bootloader:
        efi: {secureBoot: false}
    devices:
      disks:
        - {name: root, disk: {bus: sata}}
        - {name: seed, cdrom: {bus: sata}}
  volumes:
    - name: root
      containerDisk: {image: "registry.example/debian:12"}
    - name: seed
      cloudInitNoCloud:
        userData: |
          #cloud-config
          hostname: from-a-cdrom
"""


def test_uefi_from_sata_with_a_cdrom(tmp_path, disk):
    manifest = tmp_path / "uefi.yaml"
    manifest.write_text(UEFI)
    command = READY + "hostname; test -d /sys/firmware/efi && echo efi; findmnt -no SOURCE /; lsblk -dno TYPE /dev/sr0"
    done = smoke(tmp_path, manifest, disk, command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["from-a-cdrom", "efi", "/dev/sda2", "rom"]
