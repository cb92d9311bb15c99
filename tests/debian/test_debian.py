# SPDX-License-Identifier: Apache-2.0
"""A real Debian from its disk: firmware, boot loader, systemd, cloud-init, agent, and an orderly end."""
import base64
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


def smoke(tmp_path, manifest, disk, command, *arguments):
    """vmlet smoke; its result, after a look at what must hold for every run."""
    before = disk.stat()
    state = tmp_path / "state"
    done = subprocess.run(
        [VMLET, "smoke", str(manifest), "--disk", f"root={disk}", "--accel", "tcg", "--timeout", "15m", "--exec", command,
         "--junit", str(tmp_path / "junit.xml"), "--state-dir", str(state), *arguments],
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


SOURCES = {
    "nocloud": """\
      cloudInitNoCloud:
        userDataBase64: {user}
        networkDataBase64: {network}
""",
    "configdrive": """\
      cloudInitConfigDrive:
        userDataBase64: {user}
""",
}
USER_DATA = "#cloud-config\nhostname: of-{name}\nwrite_files:\n- {{path: /etc/proof, content: \"read by {name}\\n\"}}\n"
NETWORK = "version: 2\nethernets:\n  first:\n    match: {name: \"en*\"}\n    dhcp4: false\n    addresses: [192.0.2.7/24]\n"
SEEDED = """\
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata:
  name: seeded
spec:
  terminationGracePeriodSeconds: 60
  domain:
    cpu: {{cores: 2}}
    memory: {{guest: 1Gi}}
    devices:
      disks:
        - {{name: root, disk: {{bus: virtio}}}}
        - {{name: seed, disk: {{bus: virtio}}}}
      interfaces:
        - {{name: default, masquerade: {{}}}}
  networks:
    - {{name: default, pod: {{}}}}
  accessCredentials:
    - sshPublicKey:
        source: {{secret: {{secretName: keys}}}}
        propagationMethod: {{{method}: {{}}}}
  volumes:
    - name: root
      containerDisk: {{image: "registry.example/debian:12"}}
    - name: seed
{source}"""
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAtMcpfNY+LAGfsp4eD60GH0fYKwxkRpcvZA/l0nm5jr of@vmlet"


@pytest.mark.parametrize("name, wanted, method", [("nocloud", "nocloud", "noCloud"), ("configdrive", "configdrive", "configDrive")])
def test_cloud_init_accepts(tmp_path, disk, name, wanted, method):
    """cloud-init's own word for it: which data source, whether anything went wrong, and what came of it."""
    user = base64.b64encode(USER_DATA.format(name=name).encode()).decode()
    source = SOURCES[name].format(user=user, network=base64.b64encode(NETWORK.encode()).decode())
    manifest = tmp_path / "seeded.yaml"
    manifest.write_text(SEEDED.format(source=source, method=method))
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "id.pub").write_text(KEY + "\n")
    command = READY + "cloud-init status --long; cat /run/cloud-init/cloud-id; hostname; cat /etc/proof; " \
        "grep -ho 'of@vmlet' /home/*/.ssh/authorized_keys /root/.ssh/authorized_keys 2>/dev/null | head -n1; " \
        "cloud-init query ds.meta_data.instance_id 2>/dev/null || cloud-init query instance_id; ip -4 -o addr show scope global | awk '{print $4}'"
    done = smoke(tmp_path, manifest, disk, command, "--disk", f"keys-access-cred={tmp_path / 'keys'}")
    assert done.returncode == 0, done.stderr
    (tmp_path / "said").write_text(done.stdout)
    assert "status: done" in done.stdout, done.stdout
    detail = done.stdout.split("detail:")[1].splitlines()
    assert "DataSource" in "".join(detail[:2]), done.stdout
    assert {"nocloud": "DataSourceNoCloud", "configdrive": "DataSourceConfigDrive"}[name] in done.stdout, done.stdout
    assert "errors: []" in done.stdout or "error" not in done.stdout.lower(), done.stdout
    words = done.stdout.split()
    assert wanted in words and f"of-{name}" in words and f"read by {name}" in done.stdout and "of@vmlet" in words
    if name == "nocloud":
        assert "192.0.2.7/24" in words, done.stdout
