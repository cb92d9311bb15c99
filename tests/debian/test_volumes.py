# SPDX-License-Identifier: Apache-2.0
"""A real Debian reads back every kind of volume, byte for byte, on each bus that such a volume can have."""
import hashlib
import subprocess

import pytest
import yaml
from test_debian import disk, smoke  # noqa: F401

MIB = 1024 * 1024
FILES = {"plain.conf": 3000, "sub/a longer name.txt": 65536, "empty": 0}


def content(size, seed):
    """Never the same twice, and not to be compressed."""
    block = b"".join(hashlib.sha512(f"{seed}{i}".encode()).digest() for i in range(1024))
    return (block * (size // len(block) + 1))[:size]


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Volumes:
    """The manifest's disks, file systems and volumes, what each is given by --disk, and what the guest must see."""

    def __init__(self, path):
        self.path = path
        self.disks, self.filesystems, self.volumes, self.arguments = [], [], [], []
        self.sums = {}  # of whole disks, by serial number
        self.trees = []  # serial numbers of images made of files, each with the same FILES

    def file(self, name, size):
        data = content(size, name)
        (self.path / name).write_bytes(data)
        self.sums[name] = sha256(data)
        return self.path / name

    def tree(self, name):
        for file, size in FILES.items():
            (self.path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name / file).write_bytes(content(size, name + file))
        return self.path / name

    def add(self, name, device, source, given=None):
        if device:
            self.disks.append({"name": name, "serial": name, **device})
        else:
            self.filesystems.append({"name": name, "virtiofs": {}})
        self.volumes.append({"name": name, **source})
        if given:
            self.arguments += ["--disk", f"{name}={given}"]


def virtio():
    return {"disk": {"bus": "virtio"}}


def on(bus):
    return {"disk": {"bus": bus}}


@pytest.fixture
def block_device(tmp_path):
    """A loop device, as a claim of volumeMode Block is one."""
    backing = tmp_path / "block.img"
    backing.write_bytes(content(4 * MIB, "block"))
    done = subprocess.run(["losetup", "--find", "--show", backing], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no loop devices here: " + done.stderr.strip())
    yield done.stdout.strip()
    subprocess.run(["losetup", "--detach", done.stdout.strip()], check=True)


COMMAND = """\
set -e
udevadm settle
dev() { lsblk -dnpo NAME,SERIAL | awk -v s=$1 '$2 == s { print $1 }'; }
for n in WHOLE; do echo disk $n $(sha256sum < $(dev $n)); done
mkdir -p /run/look
for n in TREES; do
    mount -o ro $(dev $n) /run/look
    (cd /run/look; find . -type f | sort | while read -r f; do echo "tree $n $(sha256sum < "$f") $f"; done)
    umount /run/look
done
mount -o ro $(blkid -L cidata) /run/look; echo user-data $(sha256sum < /run/look/user-data); umount /run/look
mount -o ro $(blkid -L config-2) /run/look; echo config-2 $(sha256sum < /run/look/openstack/latest/user_data); umount /run/look
mount -t virtiofs shared /run/look
(cd /run/look; find . -type f | sort | while read -r f; do echo "tree shared $(sha256sum < "$f") $f"; done; cp plain.conf written)
umount /run/look
head -c 4 $(dev metrics) | od -An -c | tr -d ' ' | sed 's/^/metrics /'
cat /sys/block/sr*/size | sed 's/^/tray /'
modprobe qemu_fw_cfg && echo ignition $(sha256sum < /sys/firmware/qemu_fw_cfg/by_name/opt/com.coreos/config/raw)
echo written in the guest | dd of=$(dev claim) conv=notrunc oflag=sync 2>/dev/null
echo written in the guest | dd of=$(dev overlaid) conv=notrunc oflag=sync 2>/dev/null
dd if=$(dev tray) count=1 2>&1 | grep -o "No medium"
"""


def test_every_kind_reads_back(tmp_path, disk, block_device):  # noqa: F811
    v = Volumes(tmp_path)
    v.add("overlaid", virtio(), {"containerDisk": {"image": "a"}}, v.file("overlaid", 3 * MIB))
    plain = v.file("packed", 5 * MIB)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", plain, tmp_path / "packed.qcow2"], check=True)
    v.add("packed", on("sata"), {"containerDisk": {"image": "b"}}, tmp_path / "packed.qcow2")
    v.add("claim", virtio(), {"persistentVolumeClaim": {"claimName": "c"}}, v.file("claim", 2 * MIB))
    v.add("blockclaim", on("scsi"), {"persistentVolumeClaim": {"claimName": "b"}}, block_device)
    v.sums["blockclaim"] = sha256(content(4 * MIB, "block"))
    v.add("data", on("sata"), {"dataVolume": {"name": "d"}}, v.file("data", 2 * MIB))
    v.add("ephemeral", on("scsi"), {"ephemeral": {"persistentVolumeClaim": {"claimName": "e"}}}, v.file("ephemeral", MIB))
    v.add("hostdisk", on("usb"), {"hostDisk": {"path": "/data/disk.img", "type": "Disk"}}, v.file("hostdisk", MIB))
    v.add("empty", virtio(), {"emptyDisk": {"capacity": "8Mi"}})
    v.sums["empty"] = sha256(bytes(8 * MIB))
    trees = {
        "conf": (virtio(), {"configMap": {"name": "c"}}), "hush": (on("scsi"), {"secret": {"secretName": "s"}}),
        "token": (on("sata"), {"serviceAccount": {"serviceAccountName": "a"}}),
        "down": (virtio(), {"downwardAPI": {"fields": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}}),
        "answers": (on("scsi"), {"sysprep": {"configMap": {"name": "u"}}}),
    }
    for name, (device, source) in trees.items():
        v.add(name, device, source, v.tree(name))
    v.add("seed", virtio(), {"cloudInitNoCloud": {"userData": "#cloud-config\nhostname: seeded\n"}})
    v.add("drive", virtio(), {"cloudInitConfigDrive": {"userData": "drive user data"}})
    v.add("metrics", virtio(), {"downwardMetrics": {}})
    v.add("medium", {"cdrom": {"bus": "scsi"}}, {"persistentVolumeClaim": {"claimName": "m"}}, v.file("medium", MIB))
    v.disks.append({"name": "tray", "serial": "tray", "cdrom": {"bus": "scsi"}})
    v.add("shared", None, {"persistentVolumeClaim": {"claimName": "s"}}, v.tree("shared"))
    config = '{"ignition":{"version":"3.4.0"}}'
    manifest = {
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "volumes", "annotations": {"kubevirt.io/ignitiondata": config}},
        "spec": {
            "terminationGracePeriodSeconds": 60,
            "domain": {"cpu": {"cores": 2}, "memory": {"guest": "1Gi"},
                       "devices": {"disks": [{"name": "root", **virtio()}, *v.disks], "filesystems": v.filesystems}},
            "volumes": [{"name": "root", "containerDisk": {"image": "registry.example/debian:12"}}, *v.volumes],
        },
    }
    (tmp_path / "vm.yaml").write_text(yaml.safe_dump(manifest))
    whole = [n for n in v.sums if n != "medium"]
    command = COMMAND.replace("WHOLE", " ".join([*whole, "medium"])).replace("TREES", " ".join(trees))
    done = smoke(tmp_path, tmp_path / "vm.yaml", disk, command, *v.arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    seen = [line.split() for line in done.stdout.splitlines()]
    assert {w[1]: w[2] for w in seen if w[0] == "disk"} == v.sums
    for name in [*trees, "shared"]:
        assert {" ".join(w[4:])[2:]: w[2] for w in seen if w[:2] == ["tree", name]} == {
            file: sha256(content(size, name + file)) for file, size in FILES.items()}, name
    words = {w[0]: w[1:] for w in seen}
    assert words["user-data"][0] == sha256(b"#cloud-config\nhostname: seeded\n")
    assert words["config-2"][0] == sha256(b"drive user data")
    assert words["ignition"][0] == sha256(config.encode())
    assert words["metrics"] == ["mvbd"]
    trays = [int(w[1]) for w in seen if w[0] == "tray"]
    assert len(trays) == 2 and MIB // 512 in trays and ["No", "medium"] in seen
    # a claim keeps what is written to it, an image under an overlay does not change; a shared folder has the new file
    assert (tmp_path / "claim").read_bytes().startswith(b"written in the guest\n")
    assert (tmp_path / "overlaid").read_bytes() == content(3 * MIB, "overlaid")
    assert (tmp_path / "shared" / "written").read_bytes() == content(FILES["plain.conf"], "sharedplain.conf")
