# SPDX-License-Identifier: Apache-2.0
"""Volumes as a guest sees them: read back byte for byte, told apart by their serial numbers."""
import base64
import hashlib
import os
import struct
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from vmlet_lab import vmi, wait_until

TOP = Path(__file__).resolve().parent.parent.parent
VMLET = Path(os.environ.get("VMLET_BUILD", TOP / "build")) / "src" / "vmlet" / "vmlet"
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


def start(manifest, guest, command, *arguments):
    """vmlet run. Its sockets lie in the VM's directory, and have a path of at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="vmlet-", dir="/tmp") as path:
        state = Path(path) / "state"
        done = subprocess.run(
            [VMLET, "run", manifest, "--accel", "tcg", "--net", "none", "--state-dir", state, "--quiet",
             "--kernel", guest / "vmlinuz", "--initrd", guest / "initrd.img", "--append", "console=ttyS0",
             "--exec", FIND + command, *arguments],
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )
        left = [p for p in state.rglob("*") if not p.is_dir()] if state.exists() else []
    assert left == []
    return done


def run(tmp_path, guest, disks, volumes, command, *arguments):
    """Exit code, stdout and stderr of `command` in a guest with these disks."""
    manifest = tmp_path / "vm.yaml"
    manifest.write_text(
        HEAD
        + "".join(f"      - {{name: {d}, serial: {d}, disk: {{bus: virtio}}}}\n" for d in disks)
        + "  volumes:\n" + "".join(f"  - {{name: {d}, {v}}}\n" for d, v in zip(disks, volumes))
    )
    return start(manifest, guest, command, *arguments)


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


@pytest.fixture
def block_device(tmp_path):
    """A loop device, as a claim of volumeMode Block is one, and the SHA-256 of its content."""
    content = image(tmp_path / "block", 4 * MIB, "block")
    done = subprocess.run(["losetup", "--find", "--show", tmp_path / "block"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no loop devices here: " + done.stderr.strip())
    yield done.stdout.strip(), content
    subprocess.run(["losetup", "--detach", done.stdout.strip()], check=True)


def test_overlay_over_a_block_device(tmp_path, guest, block_device):
    device, content = block_device
    done = run(tmp_path, guest, ["eph"], ["ephemeral: {persistentVolumeClaim: {claimName: d}}"],
               "sha256sum < $(dev eph) | cut -d' ' -f1; dd if=/dev/zero of=$(dev eph) bs=512 count=1 conv=notrunc 2>/dev/null; sync",
               "--disk", f"eph={device}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [content]
    assert hashlib.sha256((tmp_path / "block").read_bytes()).hexdigest() == content


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


# ---- file systems, tables, trays ---------------------------------------------------------------------------------------


def boot(tmp_path, guest, devices, volumes, command, *arguments, metadata="", domain=""):
    """As run(), with the manifest's devices and volumes written out."""
    manifest = tmp_path / "vm.yaml"
    manifest.write_text(
        "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata:\n  name: volumes\n" + metadata
        + "spec:\n  terminationGracePeriodSeconds: 5\n  domain:\n    memory: {guest: 256Mi}\n" + domain
        + "    devices:\n" + devices + ("  volumes:\n" + volumes if volumes else "")
    )
    return start(manifest, guest, command, *arguments)


@pytest.fixture
def short(tmp_path_factory):
    """Sockets of helpers lie in the VM's directory: a path of at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="vmlet-", dir="/tmp") as path:
        yield Path(path)


def test_shared_directories(short, guest):
    """virtiofs: a claim that the guest writes to, a config map, a secret and a directory of the pod."""
    kinds = {
        "claim": "persistentVolumeClaim: {claimName: c}", "conf": "configMap: {name: c}",
        "hush": "secret: {secretName: s}", "token": "serviceAccount: {serviceAccountName: a}",
        "place": "containerPath: {path: /somewhere}",
    }
    sums = {}
    for name in kinds:
        (short / name / "sub").mkdir(parents=True)
        sums[name] = image(short / name / "sub" / "data", 3 * MIB, name)
    done = boot(
        short, guest, "      filesystems:\n" + "".join(f"      - {{name: {n}, virtiofs: {{}}}}\n" for n in kinds),
        "".join(f"  - {{name: {n}, {k}}}\n" for n, k in kinds.items()),
        f"for n in {' '.join(kinds)}; do mkdir /mnt/$n; mount -t virtiofs $n /mnt/$n || exit 3;"
        " sha256sum < /mnt/$n/sub/data | cut -d' ' -f1; done; head -c 100000 /mnt/claim/sub/data > /mnt/claim/copy; sync",
        *[a for n in kinds for a in ("--disk", f"{n}={short / n}")],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(sums.values())
    assert (short / "claim" / "copy").read_bytes() == (short / "claim" / "sub" / "data").read_bytes()[:100000]


def test_a_shared_directory_must_be_one(short, guest):
    (short / "file").write_text("x")
    devices = "      filesystems:\n      - {name: place, virtiofs: {}}\n"
    volumes = "  - {name: place, containerPath: {path: /somewhere}}\n"
    done = boot(short, guest, devices, volumes, "true")
    assert done.returncode == 2 and "--disk place=DIRECTORY" in done.stderr
    done = boot(short, guest, devices, volumes, "true", "--disk", f"place={short / 'file'}")
    assert done.returncode == 2 and "is no directory" in done.stderr
    done = boot(short, guest, devices, "  - {name: place, emptyDisk: {capacity: 1Gi}}\n", "true")
    assert done.returncode == 2 and "cannot be shared as a file system" in done.stderr


def table(signature, payload):
    """An ACPI table: the header of the specification's 5.2.6, then the payload."""
    body = signature.encode() + struct.pack("<IBB6s8sI4sI", 36 + len(payload), 1, 0, b"VMLET ", b"TESTTABL", 1, b"TEST", 1)
    body += payload
    return body[:9] + bytes([-sum(body) & 0xff]) + body[10:]


def test_acpi_tables_of_a_secret(tmp_path, guest):
    secret = tmp_path / "keys"
    secret.mkdir()
    tables = {"slic": table("SLIC", bytes(range(256)) + b"license"), "msdm": table("MSDM", b"\1\0\0\0" + b"KEY-123" * 4)}
    for name, content in tables.items():
        (secret / f"{name}.bin").write_bytes(content)
    domain = "    firmware: {acpi: {slicNameRef: keys, msdmNameRef: keys}}\n"
    volumes = "  - {name: keys, secret: {secretName: k}}\n"
    read = "for t in SLIC MSDM; do tail -c +37 /sys/firmware/acpi/tables/$t | sha256sum | cut -d' ' -f1; done"
    done = boot(tmp_path, guest, "      rng: {}\n", volumes, read, "--disk", f"keys={secret}", domain=domain)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [hashlib.sha256(t[36:]).hexdigest() for t in tables.values()]
    (secret / "msdm.bin").write_bytes(b"short")
    done = boot(tmp_path, guest, "      rng: {}\n", volumes, read, "--disk", f"keys={secret}", domain=domain)
    assert done.returncode == 1 and "msdm.bin is no ACPI table" in done.stderr
    (secret / "msdm.bin").unlink()
    done = boot(tmp_path, guest, "      rng: {}\n", volumes, read, "--disk", f"keys={secret}", domain=domain)
    assert done.returncode == 1 and "there is no msdm.bin" in done.stderr


def test_ignition(tmp_path, guest):
    config = '{"ignition":{"version":"3.4.0"},"passwd":{"users":[{"name":"core, the first"}]}}'
    done = boot(
        tmp_path, guest, "      rng: {}\n", "",
        "insmod /lib/modules/qemu_fw_cfg.ko && "
        "sha256sum < /sys/firmware/qemu_fw_cfg/by_name/opt/com.coreos/config/raw | cut -d' ' -f1",
        metadata=f"  annotations: {{kubevirt.io/ignitiondata: '{config}'}}\n",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == hashlib.sha256(config.encode()).hexdigest()


def test_images_made_of_files_read_back(tmp_path, guest):
    """Each kind of ISO, mounted in the guest: every file by its checksum, on a disk and on a CD-ROM."""
    kinds = {
        "conf": ("configMap: {name: c}", "cfgdata"), "hush": ("secret: {secretName: s, volumeLabel: vault}", "vault"),
        "token": ("serviceAccount: {serviceAccountName: a}", "cfgdata"),
        "down": ("downwardAPI: {fields: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}", "cfgdata"),
        "answers": ("sysprep: {configMap: {name: u}}", "unattendCD"),
    }
    sums = []
    for name in kinds:
        (tmp_path / name / "sub").mkdir(parents=True)
        for file, size in [("Unattend.xml", 2 * 65536), ("sub/a longer name.conf", 65536), ("empty", 0)]:
            sums.append(image(tmp_path / name / file, size, name + file))
    done = boot(
        tmp_path, guest,
        "      disks:\n" + "".join(f"      - {{name: {n}, serial: {n}, disk: {{bus: virtio}}}}\n" for n in list(kinds)[:3])
        + "".join(f"      - {{name: {n}, cdrom: {{bus: scsi}}}}\n" for n in list(kinds)[3:]),
        "".join(f"  - {{name: {n}, {k}}}\n" for n, (k, _) in kinds.items()),
        "for m in /lib/modules/isofs.load; do for k in $(cat $m); do insmod /lib/modules/$k.ko 2>/dev/null; done; done; "
        "for d in $(dev conf) $(dev hush) $(dev token) /dev/sr0 /dev/sr1; do "
        "dd if=$d bs=1 skip=32808 count=32 2>/dev/null | tr -d ' '; echo; mount -t iso9660 -o ro $d /mnt || exit 3; "
        "for f in Unattend.xml 'sub/a longer name.conf' empty; do sha256sum < \"/mnt/$f\" | cut -d' ' -f1; done; umount /mnt; done",
        *[a for n in kinds for a in ("--disk", f"{n}={tmp_path / n}")],
    )
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert [w for w in words if len(w) < 64] == [label for _, label in kinds.values()]
    assert [w for w in words if len(w) == 64] == sums


def test_trays(tmp_path, guest):
    """A CD-ROM with a medium, one whose tray is empty for want of a volume, one that the manifest opens."""
    sum_of = image(tmp_path / "disc", 4 * MIB, "disc")
    done = boot(
        tmp_path, guest,
        "      disks:\n      - {name: full, cdrom: {bus: scsi}}\n      - {name: none, cdrom: {bus: scsi}}\n"
        "      - {name: open, cdrom: {bus: scsi, tray: open}}\n",
        "  - {name: full, persistentVolumeClaim: {claimName: c}}\n  - {name: open, emptyDisk: {capacity: 1Mi}}\n",
        "cat /sys/block/sr*/size; sha256sum < /dev/sr0 | cut -d' ' -f1; dd if=/dev/sr1 count=1 2>&1 | grep -o 'No medium';"
        " dd if=/dev/sr2 count=1 2>&1 | grep -o 'No medium'; echo x 2>/dev/null >/dev/sr0 || echo read-only",
        "--disk", f"full={tmp_path / 'disc'}",
    )
    assert done.returncode == 0, done.stderr
    assert sum_of in done.stdout and done.stdout.count("No medium") == 2 and "read-only" in done.stdout


def metrics_of(data):
    """The figures of a metrics disk, {(name, context): (type, unit, value)}, after its header is looked at."""
    magic, busy, total, length = struct.unpack(">4sIII", data[:16])
    content = data[16:16 + length]
    assert (magic, busy, total) == (b"mvbd", 0, sum(content))
    found = ElementTree.fromstring(content).findall("metric")
    return {(m.find("name").text, m.get("context")): (m.get("type"), m.get("unit"), m.find("value").text) for m in found}


def test_downward_metrics(pod):
    """Figures of host and VM, renewed while the VM runs, also by a launcher that took it over."""
    spec = vmi()
    spec["spec"]["domain"]["devices"]["disks"] = [{"name": "metrics", "disk": {"bus": "virtio"}}]
    spec["spec"]["domain"]["cpu"] = {"cores": 2}
    spec["spec"]["volumes"] = [{"name": "metrics", "downwardMetrics": {}}]
    pod.start()
    client = pod.client()
    client.ok("SyncVirtualMachine", vmi=spec)
    pod.qemu = client.ok("GetDomain")["vmlet"]["pid"]
    pod.wait_agent(client)

    def read():
        command = "dd if=/dev/vda bs=64k count=4 iflag=direct 2>/dev/null | base64"
        seen = pod.client().ok("Exec", Command="/bin/sh", Args=["-c", command])
        try:
            return metrics_of(base64.b64decode(seen["stdOut"]))
        except AssertionError:  # it is being written
            return None

    def later(than):
        return wait_until(lambda: (seen := read()) and int(seen["Time", "host"][2]) > than and seen, "the figures are renewed")

    first = wait_until(read, "the figures are whole")
    assert first["ResourceProcessorLimit", "vm"] == ("uint64", None, "2")
    assert first["ResourceMemoryLimit", "vm"] == ("uint64", "KiB", str(256 * 1024))
    assert first["VirtualizationVendor", "host"][2] == "kubevirt.io"
    assert first["VirtProductInfo", "host"][2].startswith("qemu-")
    for name in ("TotalCPUTime", "FreePhysicalMemory", "FreeVirtualMemory", "MemoryAllocatedToVirtualServers",
                 "UsedVirtualMemory", "NumberOfPhysicalCPUs"):
        assert float(first[name, "host"][2]) > 0, name
    assert {("PagedInMemory", "host"), ("PagedOutMemory", "host"), ("HostName", "host"), ("HostSystemInfo", "host"),
            ("PhysicalMemoryAllocatedToVirtualSystem", "vm")} <= set(first)
    second = later(int(first["Time", "host"][2]))
    assert float(second["TotalCPUTime", "vm"][2]) > float(first["TotalCPUTime", "vm"][2])
    pod.process.kill()
    pod.process.wait()
    pod.start()
    wait_until(lambda: pod.client().ok("GetDomain")["vmlet"]["agentConnected"], "the agent answers the new launcher")
    later(int(time.time()) - 1)


def test_downward_metrics_channel(pod):
    """The same figures by the virtio-serial port: each request is answered, what is none is told so, a reader that has left
    leaves nothing to the next one, and a launcher that took the VM over goes on."""
    spec = vmi()
    spec["spec"]["domain"]["devices"]["downwardMetrics"] = {}
    pod.start()
    client = pod.client()
    client.ok("SyncVirtualMachine", vmi=spec)
    pod.qemu = client.ok("GetDomain")["vmlet"]["pid"]
    pod.wait_agent(client)

    def guest(script):
        find = 'for n in /sys/class/virtio-ports/*; do [ "$(cat $n/name)" = org.github.vhostmd.1 ] && p=/dev/${n##*/}; done; '
        return pod.client().ok("Exec", Command="/bin/sh", Args=["-c", find + "exec 3<>$p; " + script])["stdOut"]

    # to the empty line
    answer = r"while read -r line <&3 && [ -n \"$line\" ]; do echo \"$line\"; done; ".replace('\\"', '"')
    ask = r"printf 'GET /metrics/XML\n\n' >&3; "

    def figures(text):
        return {(m.find("name").text, m.get("context")): m.find("value").text for m in ElementTree.fromstring(text).findall("metric")}

    first = figures(guest(ask + answer))
    assert first["ResourceMemoryLimit", "vm"] == str(256 * 1024) and first["VirtualizationVendor", "host"] == "kubevirt.io"
    assert float(first["TotalCPUTime", "vm"]) > 0
    assert guest(r"printf 'GET /etc/passwd\n\n' >&3; " + answer + ask + answer).startswith("INVALID REQUEST\n<metrics>\n")
    guest(ask + "read -r line <&3")  # and not the rest
    wait_until(lambda: int(figures(guest(ask + answer))["Time", "host"]) > int(first["Time", "host"]), "the figures are new")
    pod.process.kill()
    pod.process.wait()
    pod.start()
    wait_until(lambda: pod.client().ok("GetDomain")["vmlet"]["agentConnected"], "the agent answers the new launcher")
    assert figures(guest(ask + answer))["HostName", "host"] == first["HostName", "host"]
