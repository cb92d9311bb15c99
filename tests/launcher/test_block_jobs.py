# SPDX-License-Identifier: Apache-2.0
"""Backups and mirrors of the disks of a guest that writes: compared with what it had written at that moment."""
import hashlib
import subprocess

import pytest
from test_disks import FIND, MIB, Guest, image
from vmlet_lab import wait_until

BLOCK = 4096


@pytest.fixture
def guest(pod):
    """Two disks: `root`, on which a writer never stops, and `data`, which is written only when a test says so."""
    image(pod.private / "vmi-disks" / "data" / "disk.img", 8 * MIB, "data")
    made = Guest(pod, [{"name": "data", "serial": "DATA", "disk": {"bus": "virtio"}}],
                 [{"name": "data", "persistentVolumeClaim": {"claimName": "d"}}], flags=["--allow-qmp-writes"])
    made.path = pod.private / "vmi-disks" / "data" / "disk.img"
    return made


def put(guest, block, text):
    guest.run(FIND + f"echo {text} | dd of=$(dev DATA) bs={BLOCK} seek={block} count=1 conv=sync,notrunc oflag=direct "
              "2>/dev/null")


def content(path, fmt):
    """What a guest would see of the image."""
    raw = path.parent / (path.name + ".flat")
    subprocess.run(["qemu-img", "convert", "-f", fmt, "-O", "raw", path, raw], check=True)
    return raw.read_bytes()


def check(path):
    done = subprocess.run(["qemu-img", "check", "-f", "qcow2", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def nodes(guest):
    return sorted(n["node-name"] for n in guest.client.ok("Qmp", command="query-named-block-nodes")["return"])


def numbers(data):
    """The writer's numbers on the root disk, in the order of its sectors."""
    found = []
    for i in range(4096):
        text = data[i * 512: i * 512 + 16].split(b"\n")[0]
        found.append(int(text) if text.isdigit() and data[i * 512 + 16: i * 512 + 512] == bytes(496) else None)
    return found


def test_full_and_incremental(pod, guest):
    put(guest, 1, "before")
    full = pod.tmp / "full.qcow2"
    at_full = guest.path.read_bytes()
    # slow until the guest has written while it is copied: what it overwrites is copied first
    guest.client.ok("BackupDisks", disks=[{"name": "data", "target": str(full)}], checkpoint="monday",
                    bytesPerSecond=65536)
    put(guest, 1, "during")
    put(guest, 2000, "during")
    assert guest.client.ok("GetDisks")["job"]["state"] == "running"
    error = guest.client.call("BackupDisks", disks=[{"name": "root", "target": str(pod.tmp / "x")}])["error"]
    assert "under way" in error["message"]
    (disk,) = guest.client.ok("GetDisks")["job"]["disks"]
    guest.client.ok("Qmp", command="block-job-set-speed", arguments={"device": disk["job"], "speed": 0})
    guest.event("BlockJobCompleted")
    check(full)
    assert content(full, "qcow2") == at_full
    assert guest.path.read_bytes() != at_full
    put(guest, 3, "after")
    at_increment = guest.path.read_bytes()
    increment = pod.tmp / "increment.qcow2"
    guest.client.ok("BackupDisks", disks=[{"name": "data", "target": str(increment), "base": str(full)}],
                    checkpoint="monday", incremental=True)
    guest.event("BlockJobCompleted")
    check(increment)
    assert content(increment, "qcow2") == at_increment
    assert increment.stat().st_blocks * 512 < MIB  # three clusters, not the disk
    # once more: the checkpoint has moved up
    put(guest, 4, "later")
    second = pod.tmp / "second.qcow2"
    guest.client.ok("BackupDisks", disks=[{"name": "data", "target": str(second), "base": str(increment)}],
                    checkpoint="monday", incremental=True)
    guest.event("BlockJobCompleted")
    assert content(second, "qcow2") == guest.path.read_bytes()
    assert nodes(guest) == ["disk-data", "disk-root", "file-data", "file-root"]
    guest.check_root()


def test_both_disks_at_one_moment(pod, guest):
    """The writer on `root` counts; a copy of it holds all numbers up to one, and none after it."""
    wait_until(lambda: guest.written() > 200, "the writer has written")
    targets = {name: pod.tmp / f"{name}.raw" for name in ("root", "data")}
    guest.client.ok("BackupDisks", disks=[{"name": n, "target": str(t)} for n, t in targets.items()], format="raw",
                    bytesPerSecond=8 * MIB)
    guest.event("BlockJobCompleted")
    copied = numbers(targets["root"].read_bytes())
    last = max(n for n in copied if n is not None)
    assert copied[:last % 4096 + 1] == [last - last % 4096 + i for i in range(last % 4096 + 1)]
    assert targets["data"].read_bytes() == guest.path.read_bytes()
    assert guest.written() > last
    guest.check_root()


def test_frozen_for_the_moment(pod, guest):
    """Frozen before the copy begins, thawed as soon as it has begun."""
    done = guest.client.call("BackupDisks", disks=[{"name": "data", "target": str(pod.tmp / "f.qcow2")}], freeze=True)
    assert "result" in done, done
    reasons = []
    while "BlockJobCompleted" not in reasons or "Thawed" not in reasons:
        reasons.append(guest.watcher.event(lambda e: True)["reason"])
    assert reasons.index("Frozen") < reasons.index("BlockJobStarted")
    assert content(pod.tmp / "f.qcow2", "qcow2") == guest.path.read_bytes()
    guest.check_root()


def test_cancelled_and_failed(pod, guest):
    target = pod.tmp / "slow.qcow2"
    guest.client.ok("BackupDisks", disks=[{"name": "data", "target": str(target)}], bytesPerSecond=65536)
    guest.client.ok("CancelBlockJob")
    assert "cancelled" in guest.event("BlockJobFailed")["why"]
    assert not target.exists() and nodes(guest) == ["disk-data", "disk-root", "file-data", "file-root"]
    there = pod.tmp / "there"
    there.write_text("mine")
    refused = [
        ({"disks": [{"name": "data", "target": str(there)}]}, "is there already"),
        ({"disks": [{"name": "nobody", "target": str(target)}]}, "no disk nobody"),
        ({"disks": [{"name": "data", "target": "relative"}]}, "no absolute path"),
        ({"disks": [{"name": "data", "target": str(pod.tmp / "no" / "dir")}]}, "cannot create"),
        ({"disks": []}, "0 disks"),
        ({"disks": [{"name": "data", "target": str(target)}], "incremental": True}, "needs a checkpoint"),
        ({"disks": [{"name": "data", "target": str(target)}], "incremental": True, "checkpoint": "none"}, "none"),
        ({"disks": [{"name": "data", "target": str(target)}], "format": "vmdk"}, "format vmdk"),
    ]
    for params, why in refused:
        assert why in guest.client.call("BackupDisks", **params)["error"]["message"]
        assert not target.exists() and there.read_text() == "mine"
    # a target that runs full
    small = pod.tmp / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small], check=False).returncode != 0:
        pytest.skip("cannot mount a tmpfs here")
    try:
        guest.client.ok("BackupDisks", disks=[{"name": "data", "target": str(small / "x.qcow2")}])
        guest.watcher.event(lambda e: e["reason"] == "BlockJobFailed" and "No space left" in e["why"])
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", small], check=True)
    assert nodes(guest) == ["disk-data", "disk-root", "file-data", "file-root"]
    guest.check_root()


def test_a_mirror_takes_over(pod, guest):
    target = pod.tmp / "moved.raw"
    assert "no mirror" in guest.client.call("CompleteBlockJob")["error"]["message"]
    guest.client.ok("MirrorDisk", disks=[{"name": "data", "target": str(target)}], format="raw")
    guest.event("BlockJobReady")
    put(guest, 5, "on-both")
    assert target.read_bytes() == guest.path.read_bytes()
    guest.client.ok("CompleteBlockJob")
    guest.event("BlockJobCompleted")
    old = hashlib.sha256(guest.path.read_bytes()).hexdigest()
    put(guest, 6, "on-the-new")
    assert b"on-the-new" in target.read_bytes()
    assert hashlib.sha256(guest.path.read_bytes()).hexdigest() == old
    assert guest.disk("data")["path"] == str(target)
    assert len(nodes(guest)) == 4
    guest.check_root()


def test_a_backup_outlives_its_launcher(pod, guest):
    target = pod.tmp / "long.qcow2"
    expected = guest.path.read_bytes()
    guest.client.ok("BackupDisks", disks=[{"name": "data", "target": str(target)}], bytesPerSecond=2 * MIB)
    pod.process.kill()
    pod.process.wait()
    pod.start()
    guest.client, guest.watcher = pod.client(), pod.client()
    guest.watcher.ok("Subscribe", **{"from": 1})
    guest.event("BlockJobCompleted")
    assert content(target, "qcow2") == expected
    assert nodes(guest) == ["disk-data", "disk-root", "file-data", "file-root"]
    assert guest.client.ok("GetDisks")["job"] is None
