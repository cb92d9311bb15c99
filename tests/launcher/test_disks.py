# SPDX-License-Identifier: Apache-2.0
"""Disks of a VM that runs: plugged and unplugged, grown, media changed. Each beside a disk that must not notice."""
import hashlib
import os
import subprocess

import pytest
from vmlet_lab import vmi, wait_until

MIB = 1024 * 1024
# In the guest: the device whose serial number is $1.
FIND = ('dev() { for d in /sys/block/vd* /sys/block/sd*; do s=$(cat $d/serial 2>/dev/null || '
        'dd if=$d/device/vpd_pg80 bs=1 skip=4 2>/dev/null); [ "$s" = "$1" ] && echo /dev/${d##*/}; done; true; }; ')


def image(path, size, seed):
    """Content that is never the same twice; returns its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    block = hashlib.sha512(seed.encode()).digest() * 1024
    path.write_bytes(b"".join(bytes([i & 255]) + block[1:] for i in range(size // len(block))))
    assert path.stat().st_size == size
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Guest:
    """A pod with one disk, on which a writer appends numbered lines as long as the VM lives."""

    def __init__(self, pod, extra_disks=(), extra_volumes=(), status=None, flags=()):
        self.pod = pod
        self.claims = pod.private / "vmi-disks"
        image(self.claims / "root" / "disk.img", 8 * MIB, "root")
        self.spec = vmi()
        self.spec["spec"]["domain"]["devices"]["disks"] = [
            {"name": "root", "serial": "ROOT", "disk": {"bus": "virtio"}}, *extra_disks]
        self.spec["spec"]["volumes"] = [{"name": "root", "persistentVolumeClaim": {"claimName": "r"}}, *extra_volumes]
        if status:
            self.spec["status"] = status
        pod.start(*flags)
        self.client = pod.client()
        self.watcher = pod.client()
        self.watcher.ok("Subscribe")
        self.sync()
        pod.qemu = self.client.ok("GetDomain")["vmlet"]["pid"]
        pod.wait_agent(self.client)
        self.run(FIND + "d=$(dev ROOT); (n=0; while echo $n | dd of=$d bs=512 seek=$((n % 4096)) count=1 conv=sync,notrunc "
                 "oflag=direct 2>/dev/null; do n=$((n+1)); echo $n >/tmp/n; done; echo failed >/tmp/failed) </dev/null "
                 ">/dev/null 2>&1 &")

    def sync(self):
        self.client.ok("SyncVirtualMachine", vmi=self.spec)

    def run(self, command, code=0):
        done = self.client.ok("Exec", Command="/bin/sh", Args=["-c", command], timeoutSeconds=60)
        assert done["exitCode"] == code, done
        return done["stdOut"]

    def written(self):
        """The file is empty for a moment each time that the writer puts a number there."""
        return int(self.run("until grep . /tmp/n; do :; done"))

    def check_root(self):
        """The writer was never disturbed, and still writes."""
        self.run("[ ! -e /tmp/failed ]")
        before = self.written()
        wait_until(lambda: self.written() > before, "the writer on the other disk goes on")

    def event(self, reason):
        return self.watcher.event(lambda e: e["reason"] == reason)

    def disk(self, name):
        return next((d for d in self.client.ok("GetDisks")["disks"] if d["name"] == name), None)

    def add(self, name, claim="c", device=None, **disk):
        self.spec["spec"]["domain"]["devices"]["disks"].append(
            {"name": name, "serial": name.upper(), **(device or {"disk": {"bus": "virtio"}}), **disk})
        self.spec["spec"]["volumes"].append(
            {"name": name, "persistentVolumeClaim": {"claimName": claim, "hotpluggable": True}})

    def remove(self, name):
        devices = self.spec["spec"]["domain"]["devices"]
        devices["disks"] = [d for d in devices["disks"] if d["name"] != name]
        self.spec["spec"]["volumes"] = [v for v in self.spec["spec"]["volumes"] if v["name"] != name]


def sums(guest, serial):
    """The guest gives the disk its name and its number before it can be opened."""
    return guest.run(FIND + f"until s=$(sha256sum 2>/dev/null < \"$(dev {serial})\"); do sleep 0.1; done; echo \"${{s%% *}}\"").strip()


@pytest.mark.parametrize("bus", ["virtio", "scsi"])
def test_a_changed_manifest_plugs_and_unplugs(pod, bus):
    guest = Guest(pod)
    expected = image(pod.tmp / "hp" / "data.img", 4 * MIB, bus)
    guest.add("data", device={"disk": {"bus": bus}})
    guest.sync()
    plugged = guest.event("DiskPlugged")
    assert (plugged["disk"], plugged["bus"]) == ("data", bus)
    assert sums(guest, "DATA") == expected
    guest.run(FIND + "echo from the guest | dd of=$(dev DATA) bs=512 conv=notrunc,sync oflag=direct 2>/dev/null")
    assert (pod.tmp / "hp" / "data.img").read_bytes().startswith(b"from the guest\n")
    guest.sync()  # nothing changed: nothing happens
    assert guest.disk("data")["plugged"]
    guest.check_root()
    # a next launcher knows it, and unplugs it
    pod.process.kill()
    pod.process.wait()
    pod.start()
    guest.client, guest.watcher = pod.client(), pod.client()
    guest.watcher.ok("Subscribe")
    pod.wait_agent(guest.client)
    assert guest.disk("data")["target"] == plugged["target"]
    guest.remove("data")
    guest.sync()
    assert guest.event("DiskUnplugged")["disk"] == "data"
    # a SCSI disk is gone for QEMU first, and then for the guest, which is told
    wait_until(lambda: guest.run(FIND + "dev DATA") == "", "the guest has let go of it")
    assert guest.disk("data") is None
    nodes = guest.client.ok("Qmp", command="query-named-block-nodes")["return"]
    assert sorted(n["node-name"] for n in nodes) == ["disk-root", "file-root"]
    guest.check_root()
    # once more, with the same name
    guest.add("data", device={"disk": {"bus": bus}})
    guest.sync()
    guest.event("DiskPlugged")
    assert sums(guest, "DATA") == hashlib.sha256((pod.tmp / "hp" / "data.img").read_bytes()).hexdigest()
    guest.check_root()


def test_a_volume_that_is_not_there_yet_is_waited_for(pod):
    extra = [{"name": "late", "serial": "LATE", "disk": {"bus": "virtio"}}]
    volume = [{"name": "late", "persistentVolumeClaim": {"claimName": "l", "hotpluggable": True}}]
    guest = Guest(pod, extra, volume)  # it starts without
    assert guest.disk("late") is None
    guest.sync()
    assert guest.disk("late") is None
    expected = image(pod.tmp / "hp" / "late.img", MIB, "late")
    guest.sync()
    guest.event("DiskPlugged")
    assert sums(guest, "LATE") == expected


def test_a_volume_that_is_refused(pod):
    guest = Guest(pod)
    (pod.tmp / "hp").mkdir(exist_ok=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", pod.tmp / "hp" / "bad.img", "1M"], check=True)
    os.symlink("/etc/shadow", pod.tmp / "hp" / "link.img")
    for name, why in [("bad", "header of a qcow2 image"), ("link", "symbolic link")]:
        guest.add(name)
        error = guest.client.call("SyncVirtualMachine", vmi=guest.spec)["error"]
        assert why in error["message"]
        assert guest.disk(name) is None
        guest.remove(name)
    nodes = guest.client.ok("Qmp", command="query-named-block-nodes")["return"]
    assert len(nodes) == 2
    guest.check_root()


def test_a_claim_that_grew(pod):
    guest = Guest(pod)
    path = guest.claims / "root" / "disk.img"
    size = FIND + "cat /sys/block/$(basename $(dev ROOT))/size"
    assert int(guest.run(size)) * 512 == 8 * MIB
    os.truncate(path, 12 * MIB)  # somebody else made the file larger
    guest.sync()
    assert guest.event("DiskResized")["bytes"] == 12 * MIB
    wait_until(lambda: int(guest.run(size)) * 512 == 12 * MIB, "the guest sees it")
    # the claim grew, and the file is to follow: what the file system keeps is left free
    guest.spec["status"] = {"volumeStatus": [{"name": "root", "target": "vda", "persistentVolumeClaimInfo": {
        "capacity": {"storage": "32Mi"}, "requests": {"storage": "20Mi"}, "filesystemOverhead": "0.05",
        "volumeMode": "Filesystem"}}]}
    guest.sync()
    assert guest.event("DiskResized")["bytes"] == 19 * MIB
    assert path.stat().st_size == 19 * MIB
    wait_until(lambda: int(guest.run(size)) * 512 == 19 * MIB, "the guest sees it")
    assert "not made smaller" in guest.client.call("ResizeDisk", name="root", size=MIB)["error"]["message"]
    guest.check_root()


def test_an_empty_claim_becomes_a_disk(pod):
    """Of the claim's size, less what the file system keeps; it stays, with what the guest has written, and follows the claim."""
    extra = [{"name": "new", "serial": "NEW", "disk": {"bus": "virtio"}}]
    path = pod.private / "vmi-disks" / "new" / "disk.img"
    path.parent.mkdir(parents=True)
    info = {"capacity": {"storage": "20Mi"}, "volumeMode": "Filesystem", "filesystemOverhead": "0.055"}
    told = {"volumeStatus": [{"name": "new", "target": "", "persistentVolumeClaimInfo": info}]}
    guest = Guest(pod, extra, [{"name": "new", "persistentVolumeClaim": {"claimName": "n"}}], status=told)
    assert path.stat().st_size == 18 * MIB and path.stat().st_blocks == 0
    size = FIND + "cat /sys/block/$(basename $(dev NEW))/size"
    assert int(guest.run(size)) * 512 == 18 * MIB
    guest.run(FIND + "echo mine | dd of=$(dev NEW) bs=512 conv=sync,notrunc oflag=direct 2>/dev/null")
    info["capacity"]["storage"] = "40Mi"
    guest.sync()
    assert guest.event("DiskResized")["bytes"] == 37 * MIB
    wait_until(lambda: int(guest.run(size)) * 512 == 37 * MIB, "the guest sees it")
    guest.client.ok("KillVirtualMachine")
    pod.end()
    assert path.stat().st_size == 37 * MIB and path.read_bytes().startswith(b"mine\n")


def test_media(pod):
    drive = [{"name": "drive", "cdrom": {"bus": "scsi"}}]
    guest = Guest(pod, drive)
    first = image(pod.tmp / "hp" / "drive.img", MIB, "first")
    read = "dd if=/dev/sr0 bs=64k 2>/dev/null | sha256sum | cut -d' ' -f1"
    assert guest.disk("drive").get("node") is None
    volume = {"name": "drive", "persistentVolumeClaim": {"claimName": "one", "hotpluggable": True}}
    guest.spec["spec"]["volumes"].append(volume)
    guest.sync()
    guest.event("MediumChanged")
    assert guest.run(read).strip() == first
    # another claim in its place: a file of the same name
    os.rename(pod.tmp / "hp" / "drive.img", pod.tmp / "hp" / "old")
    second = image(pod.tmp / "hp" / "drive.img", 2 * MIB, "second")
    volume["persistentVolumeClaim"]["claimName"] = "two"
    guest.sync()
    guest.event("MediumChanged")
    assert guest.run(read).strip() == second
    # by hand, while the guest has it locked
    guest.run("mkdir -p /tmp/cd; exec 3</dev/sr0; echo open")
    third = image(pod.tmp / "third.iso", MIB, "third")
    guest.client.ok("ChangeMedium", name="drive", path=str(pod.tmp / "third.iso"), force=True)
    assert guest.run(read).strip() == third
    guest.client.ok("ChangeMedium", name="drive", force=True)
    assert "No medium" in guest.run("dd if=/dev/sr0 count=1 2>&1 || true")
    assert "no CD-ROM" in guest.client.call("ChangeMedium", name="root")["error"]["message"]
    nodes = guest.client.ok("Qmp", command="query-named-block-nodes")["return"]
    assert sorted(n["node-name"] for n in nodes) == ["disk-root", "file-root"]
    guest.check_root()


def test_by_hand(pod):
    guest = Guest(pod)
    path = pod.tmp / "more.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "8M"], check=True)
    guest.client.ok("PlugDisk", name="more", path=str(path), serial="MORE", bus="scsi")
    assert sums(guest, "MORE") == hashlib.sha256(bytes(8 * MIB)).hexdigest()
    assert "already" in guest.client.call("PlugDisk", name="more", path=str(path))["error"]["message"]
    guest.sync()  # what was plugged by hand is not the manifest's to unplug
    assert guest.disk("more")["byHand"]
    guest.client.ok("ResizeDisk", name="more", size=16 * MIB)
    wait_until(lambda: guest.run(FIND + "cat /sys/block/$(basename $(dev MORE))/size").strip() == "32768", "it grew")
    guest.client.ok("UnplugDisk", name="more")
    assert guest.disk("more") is None
    for path, why in [("relative", "no absolute path"), ("/no/such/file", "No such file"), ("/dev/null", "refused")]:
        assert why in guest.client.call("PlugDisk", name="x", path=path)["error"]["message"]
    assert "no disk x" in guest.client.call("UnplugDisk", name="x")["error"]["message"]
    guest.check_root()
