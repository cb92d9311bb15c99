# SPDX-License-Identifier: Apache-2.0
"""The commands that stand behind "(QEMU)" in QEMU's own documents work as they are typed there.

The documents: python/qemu/qmp/qmp_shell.py (the shell's own description), docs/interop/live-block-operations.rst and
docs/system/cpu-hotplug.rst. QEMU is started as they say, in the folder that the images are in; the jobs' ends, which they
tell in words, are waited for as the events that they name."""
import json
import os
import re
import shutil
import socket
import subprocess
import time

import pytest
from test_shell import QEMU, SHELL, WAIT, Terminal

IMAGE_TOOL = shutil.which("qemu-img")

pytestmark = [
    pytest.mark.skipif(not SHELL.exists(), reason="qmp-shell is not built"),
    pytest.mark.skipif(not QEMU or not IMAGE_TOOL, reason="no qemu-system-x86_64, or no qemu-img"),
]

EVENT = re.compile(r"\[\d\d:\d\d:\d\d\.\d\d\d\] ")
CHAIN = [
    "blockdev-snapshot-sync node-name=node-A snapshot-file=b.qcow2 snapshot-node-name=node-B format=qcow2",
    "blockdev-snapshot-sync node-name=node-B snapshot-file=c.qcow2 snapshot-node-name=node-C format=qcow2",
    "blockdev-snapshot-sync node-name=node-C snapshot-file=d.qcow2 snapshot-node-name=node-D format=qcow2",
]
QCOW2_TARGET = 'blockdev-add driver=qcow2 node-name=node-E file={"driver":"file","filename":"e.qcow2"}'


class Machine:
    def __init__(self, directory, *arguments):
        self.directory, self.path = directory, directory / "qmp-sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen()
        self.process = subprocess.Popen(
            [QEMU, "-display", "none", "-no-user-config", "-nodefaults", "-S", *arguments,
             "-chardev", f"socket,id=q,fd={listener.fileno()},server=on,wait=off", "-mon", "chardev=q,mode=control"],
            cwd=directory, pass_fds=[listener.fileno()])
        listener.close()
        self.terminal = None
        self.events = []

    def type(self, line):
        """One command, typed into `qmp-shell -v -p`; what it returned."""
        if not self.terminal:
            self.terminal = Terminal(self.path, "-v", "-p", "--write", home=self.directory)
            self.terminal.resize(24, 400)
            self.terminal.expect(r"\(QEMU rw\) ")
        t = self.terminal
        t.type(line + "\r")
        sent = json.loads(t.expect(r'(?s)(\{\r\n    "execute".*?\r\n\})\r\n').group(1))
        assert sent["execute"] == line.split()[0]
        text = re.sub(r"\(QEMU rw\) |\r\x1b\[K", "", t.expect(r"(?s)(.*?)\(QEMU rw\) $").group(1))
        lines = text.split("\r\n")
        self.events += [line for line in lines if EVENT.match(line)]
        return json.loads("".join(line for line in lines if not EVENT.match(line)))

    def event(self, name):
        """Events are shown above the prompt, whenever they come."""
        if not any(f"] {name} " in line for line in self.events):
            self.terminal.expect(rf"\] {name} [^\r]*\r\n")

    def close(self):
        if self.terminal:
            self.terminal.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start(tmp_path):
    machines = []

    def make(*arguments, directory=tmp_path):
        machines.append(Machine(directory, *arguments))
        return machines[-1]

    yield make
    for machine in machines:
        machine.close()


def make_image(path, *more, cwd=None):
    size = [] if more else ["39M"]
    subprocess.run([IMAGE_TOOL, "create", "-q", "-f", "qcow2", *more, path, *size], check=True, cwd=cwd)


def start_with_disk(start, directory, *arguments, name="a", node="node-A"):
    if not (directory / f"{name}.qcow2").exists():
        make_image(directory / f"{name}.qcow2")
    return start(
        "-M", "q35", "-m", "64", "-blockdev",
        f"node-name={node},driver=qcow2,file.driver=file,file.node-name=file,file.filename=./{name}.qcow2",
        "-device", f"virtio-blk,drive={node},id=virtio0", *arguments, directory=directory)


def run_chain(machine, lines):
    for line in lines:
        machine.type(line)


def has_backing(tmp_path, name):
    info = subprocess.run([IMAGE_TOOL, "info", "-U", "--output=json", tmp_path / f"{name}.qcow2"], check=True,
                          capture_output=True, text=True).stdout
    return json.loads(info).get("backing-filename")


def test_description_of_the_shell(start):
    machine = start("-M", "pc", "-m", "64", "-blockdev", "driver=null-co,node-name=drive0")
    assert machine.type("device_add driver=e1000 id=net1") == {}
    machine.type("block-dirty-bitmap-add node=drive0 name=bitmap0")
    t = machine.terminal
    t.type("transaction(\r")
    t.expect("TRANS> ")
    t.type("block-dirty-bitmap-add node=drive0 name=bitmap1\r")
    t.expect("TRANS> ")
    t.type("block-dirty-bitmap-clear node=drive0 name=bitmap0\r")
    t.expect("TRANS> ")
    t.type(")\r")
    t.expect(r'(?s)"type": "block-dirty-bitmap-clear".*\{\}\r\n.*\(QEMU rw\) ')
    names = [row["name"] for row in machine.type("query-named-block-nodes")[0]["dirty-bitmaps"]]
    assert sorted(names) == ["bitmap0", "bitmap1"]


@pytest.mark.parametrize("line, active, backing", [
    ("block-stream device=node-D job-id=job0", "d", None),
    ("block-stream device=node-D base-node=node-A job-id=job0", "d", "a.qcow2"),
    ("block-stream device=node-C base-node=node-A job-id=job0", "c", "a.qcow2"),
    ("block-commit device=node-D base=a.qcow2 top=b.qcow2 job-id=job0", "c", "a.qcow2"),
])
def test_stream_and_commit(start, tmp_path, line, active, backing):
    machine = start_with_disk(start, tmp_path)
    run_chain(machine, CHAIN)
    machine.terminal.type(line + "\r")
    machine.event("BLOCK_JOB_COMPLETED")
    assert machine.type("query-block-jobs") == []
    assert (has_backing(tmp_path, active) or "").split("/")[-1] == (backing or "")


@pytest.mark.parametrize("line, end, event", [
    ("block-commit device=node-D base=a.qcow2 top=d.qcow2 job-id=job0", "complete", "BLOCK_JOB_COMPLETED"),
    ("drive-mirror device=node-D target=e.qcow2 sync=full job-id=job0", "cancel", "BLOCK_JOB_COMPLETED"),
    ("drive-mirror device=node-D target=e.qcow2 sync=full job-id=job0", "complete", "BLOCK_JOB_COMPLETED"),
    ("blockdev-mirror device=node-D target=node-E sync=full job-id=job0", "complete", "BLOCK_JOB_COMPLETED"),
])
def test_jobs_in_two_phases(start, tmp_path, line, end, event):
    machine = start_with_disk(start, tmp_path)
    run_chain(machine, CHAIN)
    if "node-E" in line:
        make_image(tmp_path / "e.qcow2")
        assert machine.type(QCOW2_TARGET) == {}
    machine.terminal.type(line + "\r")
    machine.event("BLOCK_JOB_READY")
    jobs = machine.type("query-block-jobs")
    assert (jobs[0]["device"], jobs[0]["ready"]) == ("job0", True)
    machine.terminal.type(f"block-job-{end} device=job0\r")
    machine.event(event)
    assert machine.type("query-block-jobs") == []


def test_mirror_over_nbd(start, tmp_path):
    source = start_with_disk(start, tmp_path)
    run_chain(source, CHAIN)
    there = tmp_path / "there"
    os.mkdir(there)
    subprocess.run([IMAGE_TOOL, "convert", "-U", "-O", "qcow2", tmp_path / "c.qcow2", there / "Contents-of-A-B-C.qcow2"],
                   check=True)
    make_image("./target-disk.qcow2", "-b", "./Contents-of-A-B-C.qcow2", "-F", "qcow2", cwd=there)
    # As if a migration were to come: the disk is not the device's yet. (`cont`, the last step, would have to wait for it.)
    target = start_with_disk(start, there, "-incoming", "defer", name="target-disk", node="node-TargetDisk")
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::", 0))
        port = probe.getsockname()[1]
    # The document's lines but for the number of the port, which may be taken here, and the host, where /etc/hosts lacks it.
    known = subprocess.run(["getent", "hosts", "localhost"], stdout=subprocess.DEVNULL, check=False).returncode == 0
    host = "localhost" if known else "127.0.0.1"
    target.type(f'nbd-server-start addr={{"type":"inet","data":{{"host":"::","port":"{port}"}}}}')
    target.type("nbd-server-add device=node-TargetDisk writable=true")
    source.terminal.type(f"drive-mirror device=node-D target=nbd:{host}:{port}:exportname=node-TargetDisk sync=top "
                         "mode=existing job-id=job0\r")
    source.event("BLOCK_JOB_READY")
    source.terminal.type("block-job-cancel device=job0\r")
    source.event("BLOCK_JOB_COMPLETED")
    assert target.type("nbd-server-stop") == {}


def test_backups(start, tmp_path):
    machine = start_with_disk(start, tmp_path)
    run_chain(machine, CHAIN)
    machine.terminal.type("drive-backup device=node-D sync=full target=e.qcow2 job-id=job0\r")
    machine.event("BLOCK_JOB_COMPLETED")
    assert machine.type("query-block-jobs") == []


def test_backup_to_a_node(start, tmp_path):
    machine = start_with_disk(start, tmp_path)
    run_chain(machine, CHAIN[:1])
    make_image(tmp_path / "e.qcow2")
    assert machine.type(QCOW2_TARGET) == {}
    machine.terminal.type("blockdev-backup device=node-B target=node-E sync=full job-id=job0\r")
    machine.event("BLOCK_JOB_COMPLETED")
    assert machine.type("query-block-jobs") == []
    machine.terminal.type("quit\r")
    assert machine.process.wait(WAIT) == 0
    done = subprocess.run([IMAGE_TOOL, "compare", tmp_path / "b.qcow2", tmp_path / "e.qcow2"], capture_output=True,
                          text=True, check=False)
    assert "Images are identical." in done.stdout


def test_cpu_hotplug(start):
    # The document's "1,maxcpus=2" made two sockets until QEMU 6.2, and makes two cores since.
    machine = start("-machine", "pc,accel=tcg,usb=off", "-m", "64", "-smp", "1,sockets=2,maxcpus=2", "-cpu",
                    "IvyBridge-IBRS")
    free = [row for row in machine.type("query-hotpluggable-cpus") if "qom-path" not in row]
    assert [row["type"] for row in free] == ["IvyBridge-IBRS-x86_64-cpu"]
    assert machine.type("device_add id=cpu-2 driver=IvyBridge-IBRS-x86_64-cpu socket-id=1 core-id=0 thread-id=0") == {}
    assert "/machine/peripheral/cpu-2" in [row["qom-path"] for row in machine.type("query-cpus-fast")]
    # Only a guest that speaks ACPI lets a CPU go; here none runs, and QEMU says so.
    machine.terminal.type("device_del id=cpu-2\r")
    machine.terminal.expect(r'(?s)"execute": "device_del",.*"id": "cpu-2".*acpi: device unplug request')


def test_options_of_qemus_shell(start, tmp_path):
    """-H, -N, -l, and HOST:PORT in the place of a path."""
    machine = start("-M", "none")
    done = subprocess.run([SHELL, "-H", "-l", tmp_path / "log", machine.path, "-c", "info version"], capture_output=True,
                          text=True, timeout=WAIT, check=False)
    assert re.match(r"\d+\.\d+", done.stdout), done.stderr
    assert json.loads((tmp_path / "log").read_text())["line"] == "info version"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    machine.type(f"chardev-add id=t backend={{'type':'socket','data':{{'addr':{{'type':'inet','data':"
                 f"{{'host':'127.0.0.1','port':'{port}'}}}},'wait':False}}}}")
    # That is no monitor: the shell reaches it, and says that no greeting came when QEMU closes it.
    shell = subprocess.Popen([SHELL, f"127.0.0.1:{port}", "-c", "query-status"], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + WAIT
    while "->" not in next(row["filename"] for row in machine.type("query-chardev") if row["label"] == "t"):
        assert time.monotonic() < end
    machine.type("chardev-remove id=t")
    assert "before QEMU's greeting came" in shell.communicate(timeout=WAIT)[1]
    assert shell.returncode == 1
    done = subprocess.run([SHELL, f"127.0.0.1:{port}", "-c", "query-status"], capture_output=True, text=True,
                          timeout=WAIT, check=False)
    assert done.returncode == 1 and f"cannot connect to 127.0.0.1:{port}" in done.stderr
