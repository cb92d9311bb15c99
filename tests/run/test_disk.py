# SPDX-License-Identifier: Apache-2.0
"""`vmlet disk` with a real guest."""
import hashlib

MIB = 1024 * 1024


def test_disks_by_hand(lab):
    vm = lab.start("--until", "shutdown", "--net", "none").wait_agent()
    path = lab.tmp / "more.img"
    path.write_bytes(bytes(range(256)) * (4 * MIB // 256))
    assert vm.vmlet("disk").stdout == ""
    assert vm.vmlet("disk", "--plug", f"more={path}", "--serial", "MORE", "--bus", "scsi").stdout == "plugged in\n"
    assert vm.vmlet("disk").stdout == f"sda  scsi    more  {path}, plugged in by a command\n"
    # the guest gives the disk its name before it can be opened
    read = vm.vmlet("exec", "--", "/bin/sh", "-c", "until sha256sum < /dev/sda; do sleep 0.1; done").stdout.split()[0]
    assert read == hashlib.sha256(path.read_bytes()).hexdigest()
    copy = lab.tmp / "copy.raw"
    assert vm.vmlet("disk", "--backup", f"more={copy}", "--format", "raw").stdout == "backup complete\n"
    assert copy.read_bytes() == path.read_bytes()
    again = vm.vmlet("disk", "--backup", f"more={copy}", check=False)
    assert again.returncode == 1 and "is there already" in again.stderr
    assert vm.vmlet("disk", "--resize", "more=8Mi").stdout == "resized\n"
    assert path.stat().st_size == 8 * MIB
    for arguments, why in [
        (["--resize", "more=1Mi"], "not made smaller"), (["--eject", "more"], "no CD-ROM"),
        (["--unplug", "other"], "no disk other"), (["--plug", f"more={path}"], "already"), (["--cancel"], "no job"),
    ]:
        done = vm.vmlet("disk", *arguments, check=False)
        assert done.returncode in (1, 2) and why in done.stderr, done.stderr
    for arguments in [["--plug", "more"], ["--plug", "a=b", "--unplug", "c"], ["--resize", "a=big"], ["--backup", "a"]]:
        assert vm.vmlet("disk", *arguments, check=False).returncode == 2
    assert vm.vmlet("disk", "--unplug", "more").stdout == "unplugged\n"
    assert vm.vmlet("disk").stdout == ""
    vm.vmlet("stop", "--grace", "0s")
    vm.end()
    assert path.exists() and lab.leftovers() == []
