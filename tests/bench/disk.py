# SPDX-License-Identifier: Apache-2.0
"""fio in a guest: a disk as vmlet opens it by default, beside one with the best options written by hand and one with
libvirt's defaults. One guest with a disk of each kind, since two guests of one command line differ by up to a tenth between
runs, and on one file but for libvirt's, since two files of a file system do, too. The disks take short turns, forth and
back, since a shared machine's speed drifts by a third within seconds; what counts is the geometric mean of the ratios of
neighbouring turns.

The best by hand is the best over all jobs, since a command line has one. Ours and libvirt's options are those of the
command lines that the two have made, read from their processes. A turn that writes ends with a flush, in its time; a turn
that reads meets a part of the file that is not in the page cache."""
import base64
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_common import VMLET, child_running, compare, guest, image_with, pin, row
from peers import Libvirt, libvirt_missing, poll

ROUNDS = 128  # of each job: two turns of each disk in one call of fio
TRIAL = 4  # of them at first, to find which of the hand-written options are the best, over all jobs
REGION = 32 << 20
REGIONS = 8
LONGEST = "1s"  # a turn is cut off then
LEAST_OF_HAND, LEAST_OF_LIBVIRT, INTERVAL = 0.98, 1.0, 0.03
# fio's rw and bs, the depth of its queue, and MiB in a turn, which takes less than a second
JOBS = {
    "read 1 MiB": ("read", "1M", 4, 32), "write 1 MiB": ("write", "1M", 4, 32),
    "random read 4 KiB": ("randread", "4k", 16, 12), "random write 4 KiB": ("randwrite", "4k", 16, 12),
}

MANIFEST = """\
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: disk}
spec:
  terminationGracePeriodSeconds: 0
  domain:
    memory: {guest: 64Mi}
    devices: {disks: [{name: data, disk: {bus: virtio}}]}
  volumes: [{name: data, persistentVolumeClaim: {claimName: d}}]
"""

# No page cache, and a thread of its own: what QEMU's and libvirt's documentation advise for a local disk.
BY_HAND = {"hand, aio native": "native", "hand, aio io_uring": "io_uring", "hand, aio threads": "threads"}


def options_of(pid):
    """-blockdev and -device of the one virtio disk of that QEMU, the device without its place; its I/O thread under a name of
    its own."""
    argv = [a.decode() for a in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]]
    found = {"-blockdev": [], "-device": []}
    for option, value in zip(argv, argv[1:]):
        if option in found and value.startswith("{"):
            found[option].append(json.loads(value))
    devices = [d for d in found["-device"] if d["driver"].startswith("virtio-blk")]
    if len(devices) != 1:
        raise SystemExit(f"bench: not one disk: {devices}")
    if "iothread" in devices[0]:
        devices[0]["iothread"] = "io-of-" + str(pid)
    for member in ("bus", "addr", "bootindex", "id"):
        devices[0].pop(member, None)
    return found["-blockdev"], devices[0]


def ours(work, path):
    (work / "vm.yaml").write_text(MANIFEST)
    process = subprocess.Popen(
        [VMLET, "run", work / "vm.yaml", "--accel", "tcg", "--net", "none", "--quiet", "--state-dir", work / "state", "--kernel",
         guest() / "vmlinuz", "--disk", f"data={path}"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        return options_of(child_running(process.pid, "qemu-system"))
    finally:
        process.kill()
        process.wait()


def by_hand(name, path):
    aio = BY_HAND[name]
    cache = {"direct": True}
    return ([{"driver": "file", "node-name": f"file-{aio}", "filename": str(path), "cache": cache, "aio": aio, "discard": "unmap"},
             {"driver": "raw", "node-name": f"raw-{aio}", "file": f"file-{aio}", "cache": cache, "discard": "unmap"}],
            {"driver": "virtio-blk-pci-non-transitional", "drive": f"raw-{aio}", "iothread": f"io-{aio}"})


def libvirt(work, path):
    import libvirt as api

    peer = Libvirt(work / "libvirt")
    try:
        peer.start()
        os.chmod(path, 0o666)
        disk = f"<disk type='file' device='disk'><source file='{path}'/><target dev='vda' bus='virtio'/></disk>"
        domain, _ = peer.create(peer.domain().replace("<devices>", "<devices>" + disk), api.VIR_DOMAIN_START_PAUSED)
        pids = list((peer.work / "run").rglob("tiny.pid"))
        found = options_of(int(pids[0].read_text()))
        domain.destroy()
        return found
    finally:
        peer.stop()


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
        status = poll(lambda: (lambda s: s if s["exited"] else None)(self.call("guest-exec-status", pid=pid)), "the guest's fio", 300, 0.2)
        out = base64.b64decode(status.get("out-data", "")).decode()
        if status.get("exitcode"):
            raise SystemExit(f"bench: the guest's fio: {out}{base64.b64decode(status.get('err-data', '')).decode()}")
        return out


class Guest:
    """A QEMU with all the disks, each below a port of its own. Those that go past the page cache have one file: of two files, one
    lies better than the other."""

    def __init__(self, work, disks):
        boot, path = image_with(work, "fio"), work / "agent.sock"
        argv = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", "q35,usb=off,vmport=off", "-accel", "tcg", "-cpu", "max",
                "-smp", "1,maxcpus=2,sockets=2",  # as vmlet has it: else QEMU leaves out the guest's barriers, and a disk may stand still
                "-m", "1024", "-name", "bench,debug-threads=on", "-display", "none", "-kernel", boot / "vmlinuz", "-initrd", boot / "initrd.img",
                "-append", "console=ttyS0 quiet", "-serial", "null", "-chardev", f"socket,id=agent,path={path},server=on,wait=off",
                "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
        for number, (nodes, device) in enumerate(disks.values()):
            argv += ["-device", f"pcie-root-port,id=disk{number},chassis={number + 1}"]
            if "iothread" in device:
                argv += ["-object", f"iothread,id={device['iothread']}"]
            for node in nodes:
                shared = {"locking": "off"} if node["driver"] == "file" else {}
                argv += ["-blockdev", json.dumps({**node, **shared})]
            argv += ["-device", json.dumps({**device, "bus": f"disk{number}"})]
        self.names, self.process = list(disks), subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL)
        try:
            poll(lambda: path.exists() or self.process.poll() is not None, "QEMU's socket", pause=0.02)
            self.agent = Agent(path)
            self.agent.run("mkdir -p /dev/shm; mount -t tmpfs shm /dev/shm")
            pin(self.process.pid)
        except BaseException:
            self.close()
            raise

    def turns(self, job, names):
        """MiB/s of each in turn, all in one fio: its start takes an emulated guest a second."""
        rw, size, depth, mib = JOBS[job]
        text = (f"[global]\nthread\nstonewall\ndirect=1\nioengine=libaio\nrw={rw}\nbs={size}\niodepth={depth}\nsize={REGION}\n"
                f"io_size={mib}m\nend_fsync=1\nruntime={LONGEST}\n")
        seen = dict.fromkeys(names, 0)
        for number, name in enumerate(names):
            disk = chr(ord("a") + self.names.index(name))
            text += f"[t{number}]\nfilename=/dev/vd{disk}\noffset={seen[name] % REGIONS * REGION}\n"
            seen[name] += 1
        out = self.agent.run(f"cat >/tmp/job <<END\n{text}END\nfio --output-format=terse --terse-version=3 /tmp/job")
        lines = [line.split(";") for line in out.splitlines() if line.startswith("3;fio")]
        if len(lines) != len(names):
            raise SystemExit(f"bench: fio said:\n{out}")
        # fio's terse format 3: KiB and ms of reads are fields 6 and 9, of writes 47 and 50, counted from 1
        first = 46 if "write" in rw else 5
        return [int(line[first]) / 1.024 / int(line[first + 3]) for line in lines]

    def close(self):
        self.process.kill()
        self.process.wait()


def measure_job(vm, paths, job, names, rounds):
    """MiB/s by disk, the n-th of one beside the n-th of the others."""
    found = {name: [] for name in names}
    batch = REGIONS // 2  # each turn of a disk in one fio has its own part of the file
    for start in range(0, rounds, batch):
        for path in paths:
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        order = []
        for number in range(min(batch, rounds - start)):  # each disk comes behind each other one
            turned = names[number % len(names):] + names[:number % len(names)]
            order += [*turned, *reversed(turned)]
        for name, value in zip(order, vm.turns(job, order)):
            found[name].append(value)
    return found


def judge(result, found, best):
    """The rows, ratios and budgets of what was found: by job, then by disk."""
    aio = BY_HAND[best]
    for job, values in found.items():
        result["rows"] += [row(f"{job}: {name}", values[name], "MiB/s") for name in values]
        hand, interval = compare(values["vmlet"], values[best])
        peer, around = compare(values["vmlet"], values["libvirt"])
        result["notes"] += [f"{job}: vmlet is {hand:.3f} of the best by hand ({aio}) (at least {LEAST_OF_HAND}), ± {interval:.3f}",
                            f"{job}: vmlet is {peer:.3f} of libvirt (at least {LEAST_OF_LIBVIRT}), ± {around:.3f}"]
        result["budgets"] += [
            {"name": f"{job}: best by hand ({aio}) / vmlet, less its interval", "value": 1 / hand / (1 + interval), "limit": 1 / LEAST_OF_HAND},
            {"name": f"{job}: best by hand ({aio}): interval", "value": interval, "limit": INTERVAL},
            {"name": f"{job}: libvirt / vmlet, and its interval", "value": (1 + around) / peer, "limit": 1 / LEAST_OF_LIBVIRT}]
    ratio, interval = compare(*([v for values in found.values() for v in values[name]] for name in ("vmlet", best)))
    result["notes"].append(f"all jobs: vmlet is {ratio:.3f} of the best by hand ({aio}), ± {interval:.3f}")
    result["budgets"].append({"name": f"all jobs: best by hand ({aio}) / vmlet, and its interval", "value": (1 + interval) / ratio,
                              "limit": 1 / LEAST_OF_HAND})


def measure(options):
    rounds = max(options.rounds or ROUNDS, 1)
    result = {"name": "disk", "rows": [], "budgets": [], "notes": [
        "The guest is emulated: its processor, not the disk, is most of what the small requests measure.",
        f"Beside the best by hand, a job is missed when its ratio, less its 95 % interval, is beyond its limit, and the interval is to be within "
        f"± {INTERVAL}; over all jobs, and beside libvirt, the ratio is to hold with its interval.",
    ]}
    missing = libvirt_missing() or (None if shutil.which("fio") else "fio (./dev deps bench)")
    work = Path(tempfile.mkdtemp(prefix="vbd.", dir=os.environ.get("VMLET_BENCH_DIR")))
    vm = None
    try:
        kind = subprocess.run(["stat", "-f", "-c", "%T", work], check=True, capture_output=True, text=True).stdout.strip()
        result["what"] = f"fio in one emulated guest, {2 * rounds} turns of each disk, preallocated file on {kind}"
        if missing:
            result["notes"].append(f"not measured: missing {missing}")
            return result
        work.chmod(0o755)
        image, cached = paths = work / "disk.img", work / "libvirt.img"
        content = os.urandom(REGION)
        for path in paths:
            with open(path, "wb") as file:
                for _ in range(REGIONS):
                    file.write(content)
                os.fsync(file.fileno())
        disks = {"vmlet": ours(work, image), "libvirt": libvirt(work, cached)}
        disks.update({name: by_hand(name, image) for name in BY_HAND})
        vm = Guest(work, disks)
        tried = {}
        for job in JOBS:
            print(f"disk: {job}, by hand", file=sys.stderr)
            for name, values in measure_job(vm, paths, job, list(BY_HAND), min(TRIAL, rounds)).items():
                tried.setdefault(name, []).extend(values)
        means = {name: statistics.geometric_mean(values) for name, values in tried.items()}
        best = max(means, key=means.get)  # a command line has one of them
        result["notes"].append("the best by hand over all jobs: " + ", ".join(
            f"{BY_HAND[name]} {means[name] / means[best]:.2f}" for name in sorted(means, key=means.get, reverse=True)))
        found = {}
        for job in JOBS:
            print(f"disk: {job}", file=sys.stderr)
            found[job] = measure_job(vm, paths, job, ["vmlet", best, "libvirt"], rounds)
        judge(result, found, best)
    finally:
        if vm:
            vm.close()
        shutil.rmtree(work, ignore_errors=True)
    return result
