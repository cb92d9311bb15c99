# SPDX-License-Identifier: Apache-2.0
"""Starts a command line for real, stopped (-S), and compares the machine that QEMU made with what was asked for."""
import contextlib
import functools
import glob
import json
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from schema import parse_keyval

START = str(Path(__file__).parent / "start.py")
DEADLINE = 30
# Lines on stderr that say nothing against the command line.
HARMLESS = re.compile(r"warning: (TCG doesn't support requested feature|nic \S+ has no peer|"
                      r"This family of AMD CPU doesn't support hyperthreading)|^Please configure -smp options properly")


@contextlib.contextmanager
def folder():
    """A short path (sun_path has 108 bytes) on a file system that has O_DIRECT, which tmpfs has not."""
    path = tempfile.mkdtemp(prefix="vg", dir="/var/tmp")
    try:
        yield path
    finally:
        shutil.rmtree(path)


@functools.cache
def version(binary):
    text = subprocess.run([binary, "--version"], stdout=subprocess.PIPE, check=True).stdout.decode()
    return ".".join(re.search(r"version (\d+)\.(\d+)", text).groups())


def options_of(argv, name):
    return [v for n, v in zip(argv, argv[1:]) if n == name]


def jsons_of(argv, name):
    return [json.loads(v) for v in options_of(argv, name)]


def block_devices(argv):
    return [n["filename"] for n in jsons_of(argv, "-blockdev") if n["driver"] == "host_device"]


@functools.cache
def loop_devices_work():
    with folder() as root:
        device = attach_loop(root + "/loop.img")
        if device:
            detach_loop(device)
        return bool(device)


def attach_loop(path):
    with open(path, "wb") as file:
        file.truncate(16 << 20)
    result = subprocess.run(["losetup", "--find", "--show", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                            check=False)
    return result.stdout.decode().strip()


def detach_loop(device):
    subprocess.run(["losetup", "--detach", device], check=True)


def missing(answer):
    """Why this host cannot start the machine, or None."""
    drivers = {d["driver"] for d in jsons_of(answer["argv"], "-device")}
    if any(d.startswith("vhost-vsock") for d in drivers) and not os.path.exists("/dev/vhost-vsock"):
        return "no /dev/vhost-vsock here"
    if any(d.startswith("vfio-pci") for d in drivers):
        return "no host device to give away here (VFIO)"
    if "usb-host" in drivers and not os.path.exists("/dev/bus/usb"):
        return "no USB device to give away here"
    if "scsi-block" in drivers:
        return "no SCSI device to give away here"
    for memory in jsons_of(answer["argv"], "-object"):
        if memory.get("hugetlb") or memory.get("mem-path") == "/dev/hugepages":
            return "no huge pages are set aside here"
    if any(f["kind"] == "vhost-net" for f in answer["fds"]) and not os.path.exists("/dev/vhost-net"):
        return "no /dev/vhost-net here"
    if block_devices(answer["argv"]) and not loop_devices_work():
        return "no block device to give away here"
    started = {h["socket"] for h in answer["helpers"]}
    for chardev in options_of(answer["argv"], "-chardev"):
        kind, *rest = parse_keyval(chardev)
        path = dict(rest).get("path")
        if kind[0] == "socket" and path and path not in started and not os.path.exists(path):
            return f"nobody listens on {path} here"
    for helper in answer["helpers"]:
        if not shutil.which(helper["argv"][0]):
            return f"no {helper['argv'][0]} here"
    template = answer.get("nvramTemplate")
    if template and not os.path.exists(template):
        return f"no {template} here"
    return None


def make_image(path, image, root):
    if not path.startswith(root):
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if image.get("backing"):
        make_image(image["backing"], {"format": image["backing_format"]}, root)
        # -u: the one below may be a block device, which is not there by this name
        subprocess.run(["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", image["backing"], "-F",
                        image["backing_format"], path, "16M"], check=True)
    elif image["format"] == "qcow2":
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "16M"], check=True)
    else:
        with open(path, "wb") as file:
            file.truncate(16 << 20)


def make_kernel(path):
    """No kernel, but what QEMU looks for before it loads one (Documentation/arch/x86/boot.rst)."""
    image = bytearray(64 << 10)
    image[0x1F1] = 4  # setup sectors
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x202:0x208] = b"HdrS\x0c\x02"  # boot protocol 2.12
    image[0x211] = 1  # loaded high
    image[0x22C:0x230] = b"\xff\xff\xff\x7f"  # highest address of an initrd
    image[0x238:0x23C] = b"\xff\x07\x00\x00"  # longest command line
    Path(path).write_bytes(image)


# Fixed paths of a pod, which the start test must not write to.
POD_PATHS = ("/var/run/kubevirt/container-disks/kernel-boot/", "/var/run/kubevirt-private/secret/")


def relocate(argument, root):
    for path in POD_PATHS:
        argument = argument.replace(path, root + path) if root + path not in argument else argument
    return argument


# A table that is only its header (ACPI 6.5, 5.2.6); any file does for Ignition.
ACPI_TABLE = b"SLIC" + (36).to_bytes(4, "little") + bytes(28)


class Qemu:
    def __init__(self, answer, root):
        self.answer, self.root = answer, root
        self.processes, self.sockets, self.loops = [], [], []
        self.qmp = None

    def __enter__(self):
        try:
            self.prepare()
            self.spawn()
            self.connect()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stderr.close()
        for sock in self.sockets:
            sock.close()
        for device in self.loops:
            detach_loop(device)

    # ---- before the start

    def prepare(self):
        argv = self.answer["argv"] = [relocate(a, self.root) for a in self.answer["argv"]]
        for path in block_devices(argv):
            self.loops.append(attach_loop(f"{self.root}/{Path(path).name}.img"))
            argv = self.answer["argv"] = [a.replace(f'"{path}"', f'"{self.loops[-1]}"') for a in argv]
        for path in options_of(argv, "-kernel") + options_of(argv, "-initrd"):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            make_kernel(path)
        for path, image in self.answer["files"].items():
            make_image(path, image, self.root)
        for fd in self.answer["fds"]:
            if fd["kind"] == "listen":
                Path(fd["path"]).parent.mkdir(parents=True, exist_ok=True)
        if self.answer.get("nvram"):
            shutil.copy(self.answer["nvramTemplate"], self.answer["nvram"])
        for netdev in jsons_of(self.answer["argv"], "-netdev"):
            if netdev["type"] == "stream":
                self.listen(netdev["addr"]["path"])
        for chardev in options_of(self.answer["argv"], "-chardev"):
            kind, *rest = parse_keyval(chardev)
            if kind[0] == "pipe":
                for direction in ("in", "out"):
                    os.mkfifo(f"{dict(rest)['path']}.{direction}")
        for option in options_of(self.answer["argv"], "-fw_cfg") + options_of(self.answer["argv"], "-acpitable"):
            path = dict(parse_keyval(option))["file"]
            if path.startswith(self.root):
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(path).write_bytes(ACPI_TABLE)
        for helper in self.answer["helpers"]:
            self.start_helper(helper)

    def listen(self, path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(path)
        sock.listen()
        self.sockets.append(sock)

    def start_helper(self, helper):
        if helper.get("directory"):
            os.makedirs(helper["directory"], mode=0o700)
        for argument in helper["argv"]:
            source = argument.removeprefix("source=").removeprefix("--shared-dir=")
            if source.startswith(self.root) and not source.endswith(".sock") and os.path.isfile(source):
                os.unlink(source)
                os.mkdir(source)
        process = subprocess.Popen(helper["argv"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE)
        self.processes.append(process)
        deadline = time.monotonic() + DEADLINE
        while not os.path.exists(helper["socket"]):
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < deadline, f"{helper['name']} does not listen"
            select.select([process.stderr], [], [], 0.01)

    # ---- the process

    def spawn(self):
        spec = {k: self.answer[k] for k in ("argv", "environment", "fds")}
        self.process = subprocess.Popen([sys.executable, "-I", "-S", START, json.dumps(spec)], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.processes.append(self.process)

    def connect(self):
        path = next(f["path"] for f in self.answer["fds"] if f.get("role") == "qmp")
        deadline = time.monotonic() + DEADLINE
        while True:
            assert self.process.poll() is None, self.process.stderr.read().decode()
            assert time.monotonic() < deadline, "QEMU does not answer"
            self.qmp = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self.qmp.connect(path)
                break
            except OSError:
                self.qmp.close()
                select.select([self.process.stderr], [], [], 0.005)
        self.sockets.append(self.qmp)
        self.qmp.settimeout(DEADLINE)
        self.stream = self.qmp.makefile("rw")
        self.read()
        self.command("qmp_capabilities")

    def read(self):
        try:
            line = self.stream.readline()
        except ConnectionResetError:
            line = ""
        if not line:
            self.process.wait(DEADLINE)
            raise AssertionError("QEMU ended: " + self.process.stderr.read().decode())
        return json.loads(line)

    def command(self, name, **arguments):
        self.stream.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self.stream.flush()
        while True:
            reply = self.read()
            if "return" in reply:
                return reply["return"]
            assert "error" not in reply, f"{name} {arguments}: {reply['error']}"

    def quit(self):
        self.command("quit")
        assert self.process.wait(DEADLINE) == 0
        lines = self.process.stderr.read().decode().splitlines()
        unexpected = [l for l in lines if not HARMLESS.search(l)]
        assert not unexpected, unexpected


# ---- the comparison


def address(text):
    slot, _, function = text.partition(".")
    return int(slot, 16) << 3 | int(function or "0", 16)


# Properties that are not read back as they were written.
UNREADABLE = {"driver", "id", "bus", "multifunction"}


def compare_property(qemu, path, key, value):
    got = qemu.command("qom-get", path=path, property=key)
    if key == "addr":
        value = address(value)
    elif key in ("iothread", "rng", "memdev"):
        got = got.rsplit("/", 1)[1]
    elif key == "mac":
        got = got.lower()
    assert got == value, f"{path} {key}"


def compare_devices(qemu, argv):
    devices = jsons_of(argv, "-device")
    present = {c["name"] for c in qemu.command("qom-list", path="/machine/peripheral") if c["type"].startswith("child<")}
    assert present == {d["id"] for d in devices}
    anonymous = [c for c in qemu.command("qom-list", path="/machine/peripheral-anon") if c["type"].startswith("child<")]
    assert anonymous == []
    for device in devices:
        path = f"/machine/peripheral/{device['id']}"
        assert qemu.command("qom-get", path=path, property="type") == device["driver"]
        for key, value in device.items():
            # USB storage hands its drive on to a SCSI disk of its own
            if key not in UNREADABLE and (device["driver"], key) != ("usb-storage", "drive"):
                compare_property(qemu, path, key, value)
        if "bus" in device:
            bus = qemu.command("qom-get", path=path, property="parent_bus")
            assert bus.rsplit("/", 1)[1] == device["bus"], device["id"]


def pci_tree(devices, parent=None):
    for device in devices:
        yield device["qdev_id"], parent, device["slot"], device["function"]
        yield from pci_tree(device.get("pci_bridge", {}).get("devices", []), device["qdev_id"])


def compare_pci(qemu, argv):
    tree = {id: (parent, slot << 3 | function)
            for bus in qemu.command("query-pci") for id, parent, slot, function in pci_tree(bus["devices"]) if id}
    for device in jsons_of(argv, "-device"):
        if "addr" in device:
            parent = None if device["bus"] == "pcie.0" else device["bus"]
            # a bridge that no firmware has numbered yet shows no children
            if parent is None:
                assert tree[device["id"]] == (None, address(device["addr"]))


def compare_block(qemu, argv):
    nodes = {n["node-name"]: n for n in qemu.command("query-named-block-nodes")}
    asked = jsons_of(argv, "-blockdev")
    assert set(nodes) == {n["node-name"] for n in asked}
    for node in asked:
        got = nodes[node["node-name"]]
        assert got["drv"] == node["driver"]
        assert got["ro"] == node["read-only"]
        if "cache" in node:
            assert got["cache"]["direct"] == node["cache"]["direct"]
        if node.get("backing"):
            assert got["image"]["backing-image"]["filename"] == next(
                n["filename"] for n in asked if n["node-name"] == node["backing"].replace("backing-", "backing-file-", 1))
    # virtio: the path of the device inside the PCI one; else the id
    drives = {}
    for drive in qemu.command("query-block"):
        id = drive.get("qdev", "").removeprefix("/machine/peripheral/").split("/")[0]
        drives[id] = drive.get("inserted", {}).get("node-name")
    for device in jsons_of(argv, "-device"):
        if "drive" in device:
            assert device["id"] in drives
            assert drives[device["id"]] == device["drive"]


def compare_the_rest(qemu, answer):
    argv, machine = answer["argv"], answer["machine"]
    assert qemu.command("query-status")["status"] == "prelaunch"
    assert qemu.command("query-name")["name"] == machine["name"]
    assert qemu.command("query-uuid")["UUID"] == machine["uuid"]
    assert len(qemu.command("query-cpus-fast")) == machine["cpu"]["vcpus"]
    if machine["arch"] == "x86_64":
        sockets = qemu.command("query-hotpluggable-cpus")
        assert sum(s["vcpus-count"] for s in sockets) == machine["cpu"]["maximum"]
    assert qemu.command("query-memory-size-summary")["base-memory"] == machine["memory"]["size"]
    plugged = [d["data"]["max-size"] for d in qemu.command("query-memory-devices")]
    assert sum(plugged) == machine["memory"]["maximum"] - machine["memory"]["size"]
    chardevs = {dict(parse_keyval(c)[1:])["id"] for c in options_of(argv, "-chardev")}
    assert chardevs <= {c["label"] for c in qemu.command("query-chardev")}
    threads = {o["id"] for o in jsons_of(argv, "-object") if o["qom-type"] == "iothread"}
    assert {t["id"] for t in qemu.command("query-iothreads")} == threads
    network = qemu.command("human-monitor-command", **{"command-line": "info network"})
    for netdev in jsons_of(argv, "-netdev"):
        assert netdev["id"] in network
    assert qemu.command("query-vnc")["enabled"] == bool(options_of(argv, "-vnc"))
    assert bool(qemu.command("query-tpm")) == bool(options_of(argv, "-tpmdev"))


def compare(qemu, answer):
    compare_devices(qemu, answer["argv"])
    compare_pci(qemu, answer["argv"])
    compare_block(qemu, answer["argv"])
    compare_the_rest(qemu, answer)
    qemu.quit()
