# SPDX-License-Identifier: Apache-2.0
"""fio in a guest: the disk as vmlet builds it by default, beside a bare QEMU with the best options written by hand and
one with those that libvirt writes by default, each on the same file, interleaved. fio and its libraries come from
Debian's packages, as a tar on a second disk."""
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

ROUNDS = 5
SECONDS = 6
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


def command():
    jobs = "; ".join(
        f"$f --name=j --filename=/dev/vda --direct=1 --ioengine=libaio --rw={rw} --bs={bs} --iodepth={depth} --runtime={SECONDS}"
        " --ramp_time=1 --time_based --output-format=terse --terse-version=3 || exit 9" for rw, bs, depth in JOBS.values())
    return ("mkdir -p /tmp/t /dev/shm; mount -t tmpfs shm /dev/shm; tar -C /tmp/t -xf /dev/vdb || exit 8; "
            "f='env LD_LIBRARY_PATH=/tmp/t/fio/lib /tmp/t/fio/fio --thread'; " + jobs)


def results(text):
    """MiB/s of each job. fio's terse format 3: fields 7 and 48 are the bandwidths of reads and writes in KiB/s."""
    lines = [line.split(";") for line in text.splitlines() if line.startswith("3;fio")]
    if len(lines) != len(JOBS):
        raise SystemExit(f"bench: fio said:\n{text}")
    return {name: (int(line[6]) + int(line[47])) / 1024 for name, line in zip(JOBS, lines)}


def run_vmlet(work, data, tools):
    manifest = work / "vm.yaml"
    manifest.write_text(MANIFEST)
    done = subprocess.run(
        [VMLET, "run", manifest, "--accel", "tcg", "--net", "none", "--quiet", "--state-dir", work / "state", "--kernel", guest() / "vmlinuz",
         "--initrd", guest() / "initrd.img", "--append", "console=ttyS0 quiet", "--disk", f"data={data}", "--disk", f"tools={tools}",
         "--timeout", "600s", "--exec", command()], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"bench: vmlet run: {done.stderr}{done.stdout}")
    return results(done.stdout)


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


def run_bare(work, name, data, tools):
    options, own_thread = BY_HAND[name]
    path = work / "agent.sock"
    path.unlink(missing_ok=True)
    file = {"driver": "file", "node-name": "file", "filename": str(data), **options}
    disk = {"driver": "raw", "node-name": "disk", "file": "file", "discard": "unmap"}
    if "cache" in options:
        disk["cache"] = options["cache"]
    argv = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", "q35,usb=off,vmport=off", "-accel", "tcg", "-cpu", "max",
            "-m", "640", "-display", "none", "-kernel", guest() / "vmlinuz", "-initrd", guest() / "initrd.img", "-append",
            "console=ttyS0 quiet", "-chardev", f"socket,id=agent,path={path},server=on,wait=off", "-device", "virtio-serial-pci",
            "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0", "-serial", "null", "-object", "iothread,id=io1",
            "-blockdev", json.dumps(file), "-blockdev", json.dumps(disk), "-device",
            "virtio-blk-pci,drive=disk" + (",iothread=io1" if own_thread else ""), "-blockdev",
            json.dumps({"driver": "raw", "node-name": "tools", "read-only": True,
                        "file": {"driver": "file", "filename": str(tools), "read-only": True}}),
            "-device", "virtio-blk-pci,drive=tools"]
    qemu = subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL)
    try:
        while not path.exists():
            if qemu.poll() is not None:
                raise SystemExit(f"bench: {name}: QEMU ended")
            time.sleep(0.02)
        return results(Agent(path).run(command()))
    finally:
        qemu.kill()
        qemu.wait()


def measure(options):
    rounds = options.rounds or ROUNDS
    work = Path(tempfile.mkdtemp(prefix="vbd.", dir=os.environ.get("VMLET_BENCH_DIR")))
    found = {}
    try:
        tools = make_tools(work)
        data = work / "data.img"
        subprocess.run(["dd", "if=/dev/urandom", f"of={data}", "bs=1M", f"count={DISK_BYTES >> 20}", "status=none"], check=True)
        peers = {"vmlet": lambda: run_vmlet(work, data, tools)}
        for name in BY_HAND:
            peers[name] = lambda n=name: run_bare(work, n, data, tools)
        for number in range(rounds):
            order = list(peers) if number % 2 else list(reversed(peers))
            for name in order:
                print(f"disk: round {number + 1} of {rounds}, {name}", file=sys.stderr)
                for job, value in peers[name]().items():
                    found.setdefault(job, {}).setdefault(name, []).append(value)
        kind = subprocess.run(["stat", "-f", "-c", "%T", work], check=True, capture_output=True, text=True).stdout.strip()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    rows, budgets = [], []
    for job, values in found.items():
        rows += [row(f"{job}: {name}", v, "MiB/s") for name, v in values.items()]
        ours = statistics.median(values["vmlet"])
        bare = max(statistics.median(v) for n, v in values.items() if n.startswith("bare"))
        budgets += [
            {"name": f"{job}: best bare QEMU / vmlet", "value": bare / ours, "limit": 1 / LEAST_OF_BARE},
            {"name": f"{job}: libvirt's options / vmlet", "value": statistics.median(values["libvirt's options"]) / ours,
             "limit": 1 / LEAST_OF_LIBVIRT},
        ]
    return {
        "name": "disk", "what": f"fio in an emulated guest on one preallocated file ({kind}), {rounds} interleaved rounds of {SECONDS} s",
        "rows": rows, "budgets": budgets,
        "notes": ["The guest is emulated: its CPU, not the disk, is most of what is measured.",
                  "libvirt's options are those that libvirt 9.0 writes for a raw file without <driver>; given to QEMU by hand."],
    }
