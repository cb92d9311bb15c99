# SPDX-License-Identifier: Apache-2.0
"""The console of a real guest: its log from the first byte, bounded, over launchers that are killed and disks that are full."""
import os
import re
import signal
import socket
import subprocess

import pytest
from vmlet_lab import PATIENCE, TOP, vmi, wait_until

TAIL = TOP / "build" / "src" / "tools" / "virt-tail"
FILE_BYTES = "24576"
LINE = re.compile(rb"vmlet guest line (\d+)\r?\n")


def files_of(pod):
    """The log's files, oldest first."""
    old = sorted(pod.dir.glob("virt-serial0-log.*"), key=lambda p: int(p.name.rsplit(".", 1)[1]))
    return [*old, pod.dir / "virt-serial0-log"]


def log_of(pod):
    """Empty in the moment in which the log has its predecessor's name already."""
    try:
        return b"".join(path.read_bytes() for path in files_of(pod))
    except FileNotFoundError:
        return b""


def numbers(data):
    return [int(n) for n in LINE.findall(data)]


def tail(pod, out):
    with open(out, "wb") as f:
        return subprocess.Popen([TAIL, "--logfile", pod.dir / "virt-serial0-log"], stdout=f, stderr=subprocess.DEVNULL)


def test_log_is_whole_bounded_and_followed_over_kills_of_the_launcher(pod):
    """Two readers follow from the first byte over every rotation, one comes late and gets all that is kept.
    What the FIFO holds while there is no launcher, 64 KiB, comes in one burst: four files have room for it."""
    readers = [tail(pod, pod.tmp / f"tail{i}") for i in range(2)]
    try:
        pod.boot("--console-log-bytes", FILE_BYTES, append="vmlet.write=6000")
        last = 0
        while last < 4000:
            pod.process.kill()
            pod.process.wait()
            pod.start("--console-log-bytes", FILE_BYTES)
            last = wait_until(lambda: [n for n in numbers(log_of(pod))[-1:] if n > last], "the log goes on")[0]
        client = pod.client()
        wait_until(lambda: numbers(log_of(pod))[-1:] == [6000], "the guest has printed all")
        kept = numbers(log_of(pod))
        assert kept == list(range(kept[0], 6001))
        assert [p.stat().st_size for p in files_of(pod)[:-1]] == [int(FILE_BYTES)] * 3 and files_of(pod)[-1].stat().st_size <= int(FILE_BYTES)
        late = tail(pod, pod.tmp / "late")
        readers.append(late)
        client.ok("KillVirtualMachine")
        assert pod.end() == 0
        assert not list(pod.dir.glob("serial.*"))
        for reader in readers:
            reader.send_signal(signal.SIGTERM)
            assert reader.wait(PATIENCE) == 0
        whole = [(pod.tmp / f"tail{i}").read_bytes() for i in range(2)]
        assert numbers(whole[0]) == list(range(1, 6001)) and whole[0] == whole[1]
        late = numbers((pod.tmp / "late").read_bytes())
        assert late == list(range(late[0], 6001)) and late[0] <= kept[0] + 1
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()


def read_console(pod, until):
    """What a viewer of virt-serial0 sees."""
    with socket.socket(socket.AF_UNIX) as viewer:
        viewer.settimeout(PATIENCE)
        viewer.connect(str(pod.dir / "virt-serial0"))
        data = b""
        while until not in data:
            chunk = viewer.recv(65536)
            assert chunk, data
            data += chunk
        return data


def test_viewers_see_what_was_printed_before_they_came(pod):
    pod.boot()
    wait_until(lambda: b"vmlet guest ready" in log_of(pod), "the guest is up")
    read_console(pod, b"vmlet guest ready")
    pod.process.kill()
    pod.process.wait()
    pod.start()
    for _ in range(3):
        read_console(pod, b"vmlet guest ready")


@pytest.fixture
def small(pod):
    """A pod whose private directory lies on a file system of 1 MiB."""
    pod.private.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", pod.private], check=False).returncode != 0:
        pytest.skip("cannot mount a tmpfs here")
    yield pod
    pod.close()
    subprocess.run(["umount", "-l", pod.private], check=True)


def fill(pod):
    with open(pod.private / "ballast", "wb", buffering=0) as f:
        try:
            while True:
                f.write(b"x" * 4096)
        except OSError:
            pass


def test_a_full_disk_at_the_start_is_no_reason_to_fail(small):
    fill(small)
    client = small.boot()
    small.wait_agent(client)
    assert client.ok("Exec", Command="/bin/true")["exitCode"] == 0
    assert log_of(small) == b""
    (small.private / "ballast").unlink()
    client.ok("Exec", Command="/bin/sh", Args=["-c", "echo room again >/dev/console"])
    wait_until(lambda: b"room again" in log_of(small), "the log goes on")
    client.ok("ShutdownVirtualMachine")
    assert small.end() == 0


def test_a_disk_that_runs_full_is_no_reason_to_fail(small):
    client = small.boot(append="vmlet.write=0 vmlet.pace=0.01")
    small.wait_agent(client)
    fill(small)
    wait_until(lambda: "cannot be written: No space left on device" in small.text(), "it is told")
    assert client.ok("Exec", Command="/bin/true")["exitCode"] == 0
    before = numbers(log_of(small))[-1]
    (small.private / "ballast").unlink()
    wait_until(lambda: numbers(log_of(small))[-1] > before + 10, "the log goes on")
    assert small.text().count("No space left on device") <= 3  # once for each way in which it shows
    client.ok("KillVirtualMachine")
    assert small.end() == 0


def test_no_log_where_none_is_wanted(pod):
    client = pod.start().client()
    manifest = vmi()
    manifest["spec"]["domain"]["devices"]["logSerialConsole"] = False
    client.ok("SyncVirtualMachine", vmi=manifest)
    pod.qemu = client.ok("GetDomain")["vmlet"]["pid"]
    assert not list(pod.dir.glob("virt-serial0-log*"))
    assert os.path.exists(pod.dir / "virt-serial0")
