# SPDX-License-Identifier: Apache-2.0
"""fio in a guest: the disk as vmlet builds it by default, beside a bare QEMU with the best options written by hand and
one with those that libvirt writes by default, on the same file. All the guests are up the whole time, and take turns:
in each round every one of them does every job for two seconds, and what counts is the ratio of two guests in one round,
and the median of those ratios. So what the machine does besides, and how warm its disk is, is the same for both. fio and
its libraries come from Debian's packages, as a tar on a second disk."""
import base64
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from bench_common import TOP, VMLET, guest, row

ROUNDS = 8
SECONDS = 2
DISK_BYTES = 256 << 20
LEAST_OF_BARE, LEAST_OF_LIBVIRT = 0.98, 1.0
PACKAGES = ("fio", "libgfapi0", "libibverbs1", "librados2", "librbd1", "librdmacm1", "libpmem1", "libpmemblk1", "libnbd0", "libaio1")
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/ceph")
JOBS = {"random read 4 KiB, depth 16": ("randread", "4k", 16), "random write 4 KiB, depth 16": ("randwrite", "4k", 16),
        "read 1 MiB, depth 4": ("read", "1M", 4)}

MANIFEST = """\
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: disk}
spec:
  terminationGracePeriodSeconds: 0
  domain:
    memory: {guest: 640Mi}
    devices:
      disks:
      - {name: data, disk: {bus: virtio}}
      - {name: tools, disk: {bus: virtio, readonly: true}}
  volumes:
  - {name: data, persistentVolumeClaim: {claimName: d}}
  - {name: tools, persistentVolumeClaim: {claimName: t}}
"""

# Options of -blockdev and -device for the file. What is written by hand: no page cache, the kernel's asynchronous I/O, a
# thread of its own. libvirt 9.0 by default: the page cache, a pool of threads, no thread of its own.
BY_HAND = {
    "bare QEMU, aio native": ({"cache": {"direct": True}, "aio": "native", "discard": "unmap"}, True),
    "bare QEMU, aio threads": ({"cache": {"direct": True}, "aio": "threads", "discard": "unmap"}, True),
    "libvirt's options": ({"auto-read-only": True, "discard": "unmap"}, False),
}


def make_tools(work):
    """A tar of fio and all that it is linked with."""
    if subprocess.run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *PACKAGES], cwd=work, check=False).returncode:
        raise SystemExit("bench: apt-get could not download fio; run 'apt-get update' as root and try again")
    tree = work / "tree"
    for package in work.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, tree], check=True)
    environment = dict(os.environ, LD_LIBRARY_PATH=":".join(str(tree / d) for d in LIBRARIES))
    listed = subprocess.run(["ldd", tree / "usr/bin/fio"], env=environment, check=True, capture_output=True, text=True).stdout
    if "not found" in listed:
        raise SystemExit(f"bench: fio needs libraries that are not here:\n{listed}")
    tools = work / "tools.tar"
    with tarfile.open(tools, "w", dereference=True) as tar:
        tar.add(tree / "usr/bin/fio", "fio/fio")
        for line in listed.splitlines():
            name, _, path = line.partition(" => ")
            if path:
                tar.add(path.split(" (")[0], f"fio/lib/{name.strip()}")
    with open(tools, "ab") as file:
        file.truncate((file.tell() + 4095) // 4096 * 4096)
    return tools


SET_UP = "mkdir -p /tmp/t /dev/shm; mount -t tmpfs shm /dev/shm; tar -C /tmp/t -xf /dev/vdb && ls /tmp/t/fio/fio"


def command():
    """All jobs, one after the other, in one fio: its start takes an emulated guest a second."""
    jobs = " ".join(f"--name=j{n} --stonewall --rw={rw} --bs={bs} --iodepth={depth}" for n, (rw, bs, depth) in enumerate(JOBS.values()))
    return ("LD_LIBRARY_PATH=/tmp/t/fio/lib /tmp/t/fio/fio --thread --filename=/dev/vda --direct=1 --ioengine=libaio "
            f"--runtime={SECONDS} --ramp_time=500ms --time_based --output-format=terse --terse-version=3 {jobs}")


def results(text):
    """MiB/s of each job. fio's terse format 3: fields 7 and 48 are the bandwidths of reads and writes in KiB/s."""
    lines = [line.split(";") for line in text.splitlines() if line.startswith("3;fio")]
    if len(lines) != len(JOBS):
        raise SystemExit(f"bench: fio said:\n{text}")
    return {name: (int(line[6]) + int(line[47])) / 1024 for name, line in zip(JOBS, lines)}


class Ours:
    """A `vmlet run`, with all defaults."""

    def __init__(self, work, data, tools):
        manifest = work / "vm.yaml"
        manifest.write_text(MANIFEST)
        self.state = work / "state"
        self.process = subprocess.Popen(
            [VMLET, "run", manifest, "--accel", "tcg", "--net", "none", "--quiet", "--state-dir", self.state, "--kernel",
             guest() / "vmlinuz", "--initrd", guest() / "initrd.img", "--append", "console=ttyS0 quiet", "--disk", f"data={data}",
             "--disk", f"tools={tools}"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        for _ in range(600):
            if self.ask("status", "--json").get("vmlet", {}).get("agentConnected"):
                break
            if self.process.poll() is not None:
                raise SystemExit("bench: vmlet run ended")
            time.sleep(0.2)
        self.run(SET_UP)

    def ask(self, *arguments):
        done = subprocess.run([VMLET, *arguments, "--state-dir", self.state], capture_output=True, text=True, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def run(self, text):
        done = subprocess.run([VMLET, "exec", "--state-dir", self.state, "--timeout", "300s", "--", "/bin/sh", "-c", text],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"bench: vmlet exec: {done.stderr}{done.stdout}")
        return done.stdout

    def close(self):
        self.process.kill()
        self.process.wait()


class Agent:
    """The guest agent's protocol, as far as it takes to run one command."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(300)
        self.socket.connect(str(path))
        self.file = self.socket.makefile("rwb")

    def call(self, execute, **arguments):
        self.file.write(json.dumps({"execute": execute, "arguments": arguments}).encode() + b"\n")
        self.file.flush()
        return json.loads(self.file.readline().lstrip(b"\xff"))["return"]

    def run(self, text):
        self.call("guest-sync-delimited", id=7)
        pid = self.call("guest-exec", path="/bin/sh", arg=["-c", text], **{"capture-output": True})["pid"]
        while not (status := self.call("guest-exec-status", pid=pid))["exited"]:
            time.sleep(0.2)
        return base64.b64decode(status.get("out-data", "")).decode()


class Bare:
    """A QEMU with options written by hand. It does not lock the file, which another QEMU has open, too."""

    def __init__(self, work, name, data, tools):
        path = work / f"agent{list(BY_HAND).index(name)}.sock"
        self.process = subprocess.Popen([str(a) for a in bare_argv(name, data, tools, path)], stdin=subprocess.DEVNULL)
        while not path.exists():
            if self.process.poll() is not None:
                raise SystemExit(f"bench: {name}: QEMU ended")
            time.sleep(0.02)
        self.agent = Agent(path)
        self.run(SET_UP)

    def run(self, text):
        return self.agent.run(text)

    def close(self):
        self.process.kill()
        self.process.wait()


def bare_argv(name, data, tools, path):
    options, own_thread = BY_HAND[name]
    file = {"driver": "file", "node-name": "file", "filename": str(data), "locking": "off", **options}
    disk = {"driver": "raw", "node-name": "disk", "file": "file", "discard": "unmap"}
    if "cache" in options:
        disk["cache"] = options["cache"]
    return ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", "q35,usb=off,vmport=off", "-accel", "tcg", "-cpu", "max",
            "-m", "640", "-display", "none", "-kernel", guest() / "vmlinuz", "-initrd", guest() / "initrd.img", "-append",
            "console=ttyS0 quiet", "-chardev", f"socket,id=agent,path={path},server=on,wait=off", "-device", "virtio-serial-pci",
            "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0", "-serial", "null", "-object", "iothread,id=io1",
            "-blockdev", json.dumps(file), "-blockdev", json.dumps(disk), "-device",
            "virtio-blk-pci,drive=disk" + (",iothread=io1" if own_thread else ""), "-blockdev",
            json.dumps({"driver": "raw", "node-name": "tools", "read-only": True,
                        "file": {"driver": "file", "filename": str(tools), "read-only": True, "locking": "off"}}),
            "-device", "virtio-blk-pci,drive=tools"]


def measure(options):
    rounds = options.rounds or ROUNDS
    work = Path(tempfile.mkdtemp(prefix="vbd.", dir=os.environ.get("VMLET_BENCH_DIR")))
    found, peers = {}, {}
    try:
        tools = make_tools(work)
        data = work / "data.img"
        subprocess.run(["dd", "if=/dev/urandom", f"of={data}", "bs=1M", f"count={DISK_BYTES >> 20}", "status=none"], check=True)
        for name in ["vmlet", *BY_HAND]:
            print(f"disk: starting {name}", file=sys.stderr)
            peers[name] = Ours(work, data, tools) if name == "vmlet" else Bare(work, name, data, tools)
        for number in range(rounds):
            print(f"disk: round {number + 1} of {rounds}", file=sys.stderr)
            for name in list(peers) if number % 2 else list(reversed(peers)):
                for job, value in results(peers[name].run(command())).items():
                    found.setdefault(job, {}).setdefault(name, []).append(value)
        kind = subprocess.run(["stat", "-f", "-c", "%T", work], check=True, capture_output=True, text=True).stdout.strip()
    finally:
        for peer in peers.values():
            peer.close()
        shutil.rmtree(work, ignore_errors=True)
    rows, budgets = [], []
    for job, values in found.items():
        rows += [row(f"{job}: {name}", v, "MiB/s") for name, v in values.items()]
        ratio = {n: statistics.median(theirs / ours for theirs, ours in zip(v, values["vmlet"])) for n, v in values.items()}
        budgets += [
            {"name": f"{job}: best bare QEMU / vmlet", "value": max(r for n, r in ratio.items() if n.startswith("bare")),
             "limit": 1 / LEAST_OF_BARE},
            {"name": f"{job}: libvirt's options / vmlet", "value": ratio["libvirt's options"], "limit": 1 / LEAST_OF_LIBVIRT},
        ]
    return {
        "name": "disk", "what": f"fio in an emulated guest on one preallocated file ({kind}), {rounds} rounds, {SECONDS} s of each job in each guest, medians of the ratios of a round",
        "rows": rows, "budgets": budgets,
        "notes": ["The guest is emulated: its CPU, not the disk, is most of what is measured.",
                  "libvirt's options are those that libvirt 9.0 writes for a raw file without <driver>; given to QEMU by hand."],
    }
